//! Problems of a configuration, as an operator reads them: code, place, the line itself, and what to do.

use std::fmt;
use std::fmt::Write;
use std::io;
use std::ops::Range;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// The configuration cannot be used.
    Error,
    /// It can, but look at it.
    Warning,
}

/// One problem.
#[derive(Clone, Debug)]
pub struct Problem {
    /// How bad it is.
    pub severity: Severity,
    /// Its number, such as `E0203`: stable, to be searched for.
    pub code: &'static str,
    /// What is wrong, in one line.
    pub message: String,
    /// What to do, if that is not plain.
    pub help: Option<String>,
    /// Where in the text.
    pub span: Option<Range<usize>>,
}

/// All problems of one file.
#[derive(Clone, Debug)]
pub struct Report {
    file: String,
    text: String,
    problems: Vec<Problem>,
}

impl Report {
    /// The problems of `file`, in the order of the text.
    #[must_use]
    pub fn new(file: &str, text: &str, mut problems: Vec<Problem>) -> Self {
        problems.sort_by_key(|problem| (problem.severity, problem.span.as_ref().map_or(usize::MAX, |span| span.start)));
        Self { file: file.to_owned(), text: text.to_owned(), problems }
    }

    /// A file that cannot be read.
    #[must_use]
    pub fn unreadable(file: &str, error: &io::Error) -> Self {
        let problem = Problem {
            severity: Severity::Error,
            code: "E0001",
            message: format!("cannot read {file}: {error}"),
            help: Some("is the path right, and may tidegate's user read it?".to_owned()),
            span: None,
        };
        Self::new(file, "", vec![problem])
    }

    /// Whether the file itself could not be read.
    #[must_use]
    pub fn is_unreadable(&self) -> bool {
        self.problems.iter().any(|problem| problem.code == "E0001")
    }

    /// Whether the configuration cannot be used.
    #[must_use]
    pub fn has_errors(&self) -> bool {
        self.problems.iter().any(|problem| problem.severity == Severity::Error)
    }

    /// The warnings, each as one text.
    #[must_use]
    pub fn warnings(&self) -> Vec<String> {
        let warnings = self.problems.iter().filter(|problem| problem.severity == Severity::Warning);
        warnings.map(|problem| self.render(problem).trim_end().to_owned()).collect()
    }

    /// The errors, each in one line: for a log.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        let errors = self.problems.iter().filter(|problem| problem.severity == Severity::Error);
        let line = |problem: &Problem| {
            let at = problem.span.as_ref().map_or_else(String::new, |span| {
                let (line, column, _) = place(&self.text, span.start);
                format!("{}:{line}:{column}: ", self.file)
            });
            let help = problem.help.as_ref().map_or_else(String::new, |help| format!("; {help}"));
            format!("{at}{} {}{help}", problem.code, problem.message)
        };
        errors.map(line).collect()
    }

    fn render(&self, problem: &Problem) -> String {
        let word = if problem.severity == Severity::Error { "error" } else { "warning" };
        let mut text = format!("{word}[{}]: {}\n", problem.code, problem.message);
        if let Some(span) = &problem.span {
            let (line, column, source) = place(&self.text, span.start);
            let gutter = line.to_string();
            let left = source.chars().count() + 1 - column.min(source.chars().count() + 1);
            let length =
                self.text.get(span.clone()).map_or(1, |marked| marked.chars().take_while(|c| *c != '\n').count());
            // Writing to a String cannot fail.
            let _ = writeln!(text, "  --> {}:{line}:{column}", self.file);
            let _ = writeln!(text, "{gutter} | {source}");
            let marks = "^".repeat(length.clamp(1, left.max(1)));
            let _ = writeln!(text, "{} | {}{marks}", " ".repeat(gutter.len()), " ".repeat(column - 1));
        }
        if let Some(help) = &problem.help {
            let _ = writeln!(text, "   = {help}");
        }
        text
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for problem in &self.problems {
            f.write_str(&self.render(problem))?;
        }
        let count = |severity| self.problems.iter().filter(|problem| problem.severity == severity).count();
        let (errors, warnings) = (count(Severity::Error), count(Severity::Warning));
        let plural = |count: usize| if count == 1 { "" } else { "s" };
        write!(f, "{errors} error{}, {warnings} warning{}", plural(errors), plural(warnings))
    }
}

/// Line and column (both from 1, in characters) of a byte, and the line's text.
fn place(text: &str, at: usize) -> (usize, usize, &str) {
    let before = text.get(..at).unwrap_or(text);
    let begin = before.rfind('\n').map_or(0, |newline| newline + 1);
    let line = before.matches('\n').count() + 1;
    let column = before.get(begin..).map_or(1, |part| part.chars().count() + 1);
    let source = text.get(begin..).and_then(|rest| rest.lines().next()).unwrap_or("");
    (line, column, source)
}
