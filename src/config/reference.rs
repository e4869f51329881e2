//! The operator's reference, made from the settings, and a configuration with everything written out.

use crate::config::Config;
use crate::config::decode::Below;
use crate::config::decode::Field;
use crate::config::decode::Setting;
use crate::config::decode::Table;
use std::fmt::Write;

/// `conf/reference.toml`: every key with its documentation and its default, all commented out.
#[must_use]
pub fn reference() -> String {
    let mut text = String::from(
        "# Every setting of tidegate, with its default. Made from the source; do not edit.\n\
         # Sizes are written \"64KiB\", \"8MiB\", \"1GiB\"; times \"500ms\", \"10s\", \"5min\", \"24h\", \"180d\".\n\
         # Paths that do not begin with `/` are from the directory in which tidegate is started.\n\
         # Unknown keys are errors. `tidegate check FILE` says all that is wrong with a file at once.\n\n",
    );
    table(&mut text, &Config::fields(), "");
    text
}

/// The keys of one table: first those that are values, then the tables below.
fn table(text: &mut String, fields: &[Field], path: &str) {
    for field in fields.iter().filter(|field| !is_section(field)) {
        documentation(text, field);
        let value = field.default.as_ref().map_or_else(|| "# not set".to_owned(), inline);
        // Writing to a String cannot fail.
        let _ = match &field.default {
            _ if field.name == "version" => writeln!(text, "version = 1\n"),
            Some(default) if default.as_str() != Some("") => writeln!(text, "# {} = {value}\n", field.name),
            _ => writeln!(text, "# {} =            (no default)\n", field.name),
        };
    }
    for field in fields.iter().filter(|field| is_section(field)) {
        let (below, name) = match &field.below {
            Some(Below::Table(below) | Below::Listed(below)) => (below, field.name.to_owned()),
            Some(Below::Named(below)) => (below, format!("{}.NAME", field.name)),
            None => continue,
        };
        let path = if path.is_empty() { name } else { format!("{path}.{name}") };
        let _ = writeln!(text, "# {}", "-".repeat(100));
        documentation(text, field);
        let _ = match &field.below {
            Some(Below::Listed(_)) => writeln!(text, "# [[{path}]], for each of them\n"),
            _ => writeln!(text, "# [{path}]\n"),
        };
        table(text, below, &path);
    }
}

/// Tables, also named and listed ones, are sections; lists and maps of plain values are keys.
fn is_section(field: &Field) -> bool {
    field.below.is_some()
}

fn documentation(text: &mut String, field: &Field) {
    for line in field.doc.lines() {
        let _ = writeln!(text, "#{}", line.trim_end());
    }
}

fn inline(value: &toml::Value) -> String {
    match value {
        toml::Value::Array(items) => format!("[{}]", items.iter().map(inline).collect::<Vec<_>>().join(", ")),
        toml::Value::Table(table) => {
            let pairs: Vec<String> = table.iter().map(|(key, value)| format!("{key} = {}", inline(value))).collect();
            format!("{{ {} }}", pairs.join(", "))
        }
        other => other.to_string(),
    }
}

/// The configuration with every default written out; reading it again gives the same.
#[must_use]
pub fn expanded(config: &Config) -> String {
    let mut whole = config.clone();
    whole.server.listen = config.listens();
    match whole.show() {
        Some(toml::Value::Table(table)) => toml::to_string(&table).unwrap_or_default(),
        _ => String::new(),
    }
}
