//! From spanned TOML to settings, gathering every problem on the way instead of stopping at the first.

use crate::config::report::Problem;
use crate::config::report::Report;
use crate::config::report::Severity;
use crate::config::settings::Config;
use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::ops::Range;
use toml::Spanned;
use toml::de::DeTable;
use toml::de::DeValue;

/// What is gathered while a text is read.
pub struct Context<'a> {
    file: &'a str,
    text: &'a str,
    problems: Vec<Problem>,
    /// Where each key's value stands, by its path such as `upstream.zope.threads`.
    spans: BTreeMap<String, Range<usize>>,
    /// The paths of what is in the file and could not be read, which has been told.
    unread: BTreeSet<String>,
}

/// Something that can be read from a value of the file, shown in one, and named in a table of settings.
pub trait Setting: Sized {
    /// Reads it; problems go to the context.
    fn decode(value: &Spanned<DeValue<'_>>, path: &str, context: &mut Context<'_>) -> Option<Self>;

    /// Its value as TOML; `None` when it is not set.
    fn show(&self) -> Option<toml::Value>;
}

/// One key of a table.
#[derive(Clone, Debug)]
pub struct Field {
    /// The key.
    pub name: &'static str,
    /// The operator's documentation.
    pub doc: &'static str,
    /// What is in force without it.
    pub default: Option<toml::Value>,
    /// The keys below, if it is a table of its own or a map of such.
    pub below: Option<Below>,
}

/// What kind of table is below a key.
#[derive(Clone, Debug)]
pub enum Below {
    /// One table.
    Table(Vec<Field>),
    /// Tables by name.
    Named(Vec<Field>),
    /// A list of tables.
    Listed(Vec<Field>),
}

/// A table of settings.
pub trait Table: Default {
    /// All keys that it may have.
    fn fields() -> Vec<Field>;
}

impl<'a> Context<'a> {
    /// Nothing is read yet.
    #[must_use]
    pub fn new(file: &'a str, text: &'a str) -> Self {
        Self { file, text, problems: Vec::new(), spans: BTreeMap::new(), unread: BTreeSet::new() }
    }

    /// Notes that what the file says about `path` could not be read: no rule shall say that it is missing.
    pub fn unread(&mut self, path: String) {
        self.unread.insert(path);
    }

    /// Whether the file says something about `path` that could not be read.
    #[must_use]
    pub fn is_unread(&self, path: &str) -> bool {
        self.unread.contains(path)
    }

    /// Notes where the value of `path` stands.
    pub fn found(&mut self, path: &str, span: Range<usize>) {
        self.spans.insert(path.to_owned(), span);
    }

    /// Whether the file says anything about `path`.
    #[must_use]
    pub fn says(&self, path: &str) -> bool {
        self.spans.contains_key(path)
    }

    /// Notes an error at `span`.
    pub fn error_at(&mut self, code: &'static str, span: Range<usize>, message: String, help: Option<String>) {
        self.problems.push(Problem { severity: Severity::Error, code, message, help, span: Some(span) });
    }

    /// Notes an error about the setting `path`; without a line of its own it is shown at the table it belongs to.
    pub fn error(&mut self, code: &'static str, path: &str, message: String, help: &str) {
        self.problem(Severity::Error, code, path, message, help);
    }

    /// Notes a warning about the setting `path`.
    pub fn warning(&mut self, code: &'static str, path: &str, message: String, help: &str) {
        self.problem(Severity::Warning, code, path, message, help);
    }

    fn problem(&mut self, severity: Severity, code: &'static str, path: &str, message: String, help: &str) {
        let mut place = path;
        let span = loop {
            if let Some(span) = self.spans.get(place) {
                break Some(span.clone());
            }
            match place.rsplit_once('.') {
                Some((above, _)) => place = above,
                None => break None,
            }
        };
        // A rule about a value that could not even be read would only repeat, in worse words, what was said of it.
        let unread = |problem: &Problem| match (&problem.span, &span) {
            (Some(inner), Some(outer)) => {
                problem.code < "E0300" && outer.start <= inner.start && inner.end <= outer.end
            }
            _ => false,
        };
        if self.problems.iter().any(unread) {
            return;
        }
        let help = (!help.is_empty()).then(|| help.to_owned());
        self.problems.push(Problem { severity, code, message, help, span });
    }

    /// Whether the text is no TOML: what is missing may only be unreadable.
    #[must_use]
    pub fn is_broken(&self) -> bool {
        self.problems.iter().any(|problem| problem.code == "E0100")
    }

    /// All that was gathered.
    #[must_use]
    pub fn into_report(self) -> Report {
        Report::new(self.file, self.text, self.problems)
    }
}

/// Reads a whole document.
pub fn document(text: &str, context: &mut Context<'_>) -> Config {
    let (table, errors) = DeTable::parse_recoverable(text);
    let broken = !errors.is_empty();
    for error in errors {
        let span = error.span().unwrap_or(0..0);
        context.error_at("E0100", span, error.message().lines().collect::<Vec<_>>().join("; "), None);
    }
    let value = Spanned::new(table.span(), DeValue::Table(table.into_inner()));
    let config = Config::decode(&value, "", context).unwrap_or_default();
    if config.version.is_none() && !broken && !context.says("version") {
        context.error_at(
            "E0206",
            0..0,
            "the key `version` is missing".to_owned(),
            Some("begin the file with the line `version = 1`".to_owned()),
        );
    }
    config
}

/// The table in `value`, or a problem.
pub fn table<'v, 'i>(
    value: &'v Spanned<DeValue<'i>>,
    path: &str,
    context: &mut Context<'_>,
) -> Option<&'v DeTable<'i>> {
    let found = value.get_ref().as_table();
    if found.is_none() {
        wrong_type(value, path, "a table of settings", context);
    }
    found
}

/// Notes that `value` is of the wrong type.
pub fn wrong_type(value: &Spanned<DeValue<'_>>, path: &str, wanted: &str, context: &mut Context<'_>) {
    let is = value.get_ref().type_str();
    context.error_at("E0204", value.span(), format!("`{path}` must be {wanted}; this is a TOML {is}"), None);
}

/// Notes every key of `table` that is none of `known`.
pub fn unknown_keys(table: &DeTable<'_>, path: &str, known: &[&str], context: &mut Context<'_>) {
    for (key, value) in table {
        let name: &str = key.get_ref();
        if known.contains(&name) {
            continue;
        }
        if let Some(host) = unquoted_host(path, name, value, known) {
            // What was meant for it is in the table of another name.
            context.unread(join(path, "upstream"));
            let message = format!("[site.{host}] is not the site {host}: the dots begin tables within tables");
            context.error_at("E0203", key.span(), message, Some(format!("write [site.\"{host}\"], with quotes")));
            continue;
        }
        let place = if path.is_empty() { "at the top of the file".to_owned() } else { format!("in [{path}]") };
        let help = match nearest(name, known) {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("there are: {}", known.join(", ")),
        };
        context.error_at("E0203", key.span(), format!("unknown key `{name}` {place}"), Some(help));
    }
}

/// The host that was meant where somebody wrote `[site.www.example.org]`: to TOML that is a table `org` in a table `example`
/// in the site `www`.
fn unquoted_host(path: &str, key: &str, value: &Spanned<DeValue<'_>>, known: &[&str]) -> Option<String> {
    let site = path.strip_prefix("site.").filter(|site| !site.contains('.'))?;
    let mut host = format!("{site}.{key}");
    let mut table = value.get_ref().as_table()?;
    loop {
        let mut keys = table.iter().filter(|(key, value)| {
            let name: &str = key.get_ref();
            value.get_ref().is_table() && !known.contains(&name)
        });
        // Several: which was meant does not matter, the first shows how it is written.
        let Some((key, value)) = keys.next() else { return Some(host) };
        host = format!("{host}.{}", key.get_ref());
        table = value.get_ref().as_table()?;
    }
}

/// The path of `key` below `path`.
#[must_use]
pub fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

/// The known word that `word` was probably meant to be.
#[must_use]
pub fn nearest<'k>(word: &str, known: &[&'k str]) -> Option<&'k str> {
    let close = known.iter().map(|candidate| (distance(word, candidate), *candidate)).min()?;
    (close.0 <= 1 + word.chars().count() / 4).then_some(close.1)
}

/// Letters to insert, delete, change or exchange with their neighbour to make `one` of `other`.
fn distance(one: &str, other: &str) -> usize {
    let (one, other): (Vec<char>, Vec<char>) = (one.chars().collect(), other.chars().collect());
    let mut rows = vec![vec![0_usize; other.len() + 1]; one.len() + 1];
    for (i, row) in rows.iter_mut().enumerate() {
        row[0] = i;
    }
    rows[0] = (0..=other.len()).collect();
    for i in 1..=one.len() {
        for j in 1..=other.len() {
            let change = rows[i - 1][j - 1] + usize::from(one[i - 1] != other[j - 1]);
            let mut best = change.min(rows[i - 1][j] + 1).min(rows[i][j - 1] + 1);
            if i > 1 && j > 1 && one[i - 1] == other[j - 2] && one[i - 2] == other[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            rows[i][j] = best;
        }
    }
    rows[one.len()][other.len()]
}

/// Declares a table of settings: the struct, its defaults, how it is read, shown and documented, each key once.
macro_rules! settings {
    ($(#[doc = $about:literal])+ $name:ident { $($(#[doc = $doc:literal])+ $field:ident: $type:ty = $default:expr,)+ }) => {
        $(#[doc = $about])+
        #[derive(Clone, Debug, PartialEq)]
        pub struct $name {
            $($(#[doc = $doc])+ pub $field: $type,)+
        }

        impl Default for $name {
            fn default() -> Self {
                Self { $($field: $default,)+ }
            }
        }

        impl $crate::config::decode::Setting for $name {
            fn decode(
                value: &toml::Spanned<toml::de::DeValue<'_>>,
                path: &str,
                context: &mut $crate::config::decode::Context<'_>,
            ) -> Option<Self> {
                let table = $crate::config::decode::table(value, path, context)?;
                $crate::config::decode::unknown_keys(table, path, &[$(stringify!($field)),+], context);
                let mut settings = Self::default();
                $(
                    if let Some(value) = table.get(stringify!($field)) {
                        let path = $crate::config::decode::join(path, stringify!($field));
                        context.found(&path, value.span());
                        match $crate::config::decode::Setting::decode(value, &path, context) {
                            Some(value) => settings.$field = value,
                            None => context.unread(path),
                        }
                    }
                )+
                Some(settings)
            }

            fn show(&self) -> Option<toml::Value> {
                let mut table = toml::Table::new();
                $(
                    if let Some(value) = $crate::config::decode::Setting::show(&self.$field) {
                        table.insert(stringify!($field).to_owned(), value);
                    }
                )+
                Some(toml::Value::Table(table))
            }
        }

        impl $crate::config::decode::Table for $name {
            fn fields() -> Vec<$crate::config::decode::Field> {
                let defaults = Self::default();
                vec![$($crate::config::decode::Field {
                    name: stringify!($field),
                    doc: concat!($($doc, "\n"),+),
                    default: $crate::config::decode::Setting::show(&defaults.$field),
                    below: <$type as $crate::config::decode::Nested>::below(),
                }),+]
            }
        }

        impl $crate::config::decode::Nested for $name {
            fn below() -> Option<$crate::config::decode::Below> {
                Some($crate::config::decode::Below::Table(<Self as $crate::config::decode::Table>::fields()))
            }
        }
    };
}
pub(crate) use settings;

/// What is below a setting of this type.
pub trait Nested {
    /// Nothing, unless it is a table.
    #[must_use]
    fn below() -> Option<Below> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_of_the_finger_is_recognised() {
        let known = ["threads", "servers", "queue"];
        assert_eq!(nearest("thread", &known), Some("threads"));
        assert_eq!(nearest("sevrers", &known), Some("servers"));
        assert_eq!(nearest("zope", &known), None);
    }
}
