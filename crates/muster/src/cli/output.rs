//! How data is printed: table, json, jsonl, csv, yaml; and talk, colour and progress.
//!
//! stdout is data, stderr is talk. What peers said is never sent to a terminal raw: controls and
//! direction marks are escaped in tables and talk, and csv cells cannot become formulas.

use std::io::{self, IsTerminal, Write};

use comfy_table::presets;
use comfy_table::{Cell, Color, ContentArrangement, Table};
use serde_json::{Map, Value};

use super::args::Format;
use super::error::CliError;

/// Colour or none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Style {
    colour: bool,
}

impl Style {
    /// No colour.
    #[cfg(test)]
    pub(crate) const PLAIN: Self = Self { colour: false };

    /// For stderr: colour on a terminal, unless NO_COLOR is set.
    pub(crate) fn stderr() -> Self {
        Self {
            colour: io::stderr().is_terminal() && !no_color(),
        }
    }

    /// For stdout: colour on a terminal, unless NO_COLOR is set.
    pub(crate) fn stdout() -> Self {
        Self {
            colour: io::stdout().is_terminal() && !no_color(),
        }
    }

    fn paint(self, code: &str, text: &str) -> String {
        if self.colour {
            format!("\u{1b}[{code}m{text}\u{1b}[0m")
        } else {
            text.to_owned()
        }
    }

    /// Something is wrong.
    pub(crate) fn bad(self, text: &str) -> String {
        self.paint("1;31", text)
    }

    /// Something is as it should be.
    pub(crate) fn good(self, text: &str) -> String {
        self.paint("32", text)
    }
}

/// Whether NO_COLOR is set to anything.
fn no_color() -> bool {
    std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty())
}

/// Escapes what could move a cursor, end a line or turn text around.
pub(crate) fn clean(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if is_unsafe(c) {
            out.extend(c.escape_unicode())
        } else {
            out.push(c)
        }
    }
    out
}

fn is_unsafe(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{200e}' | '\u{200f}' | '\u{2028}' | '\u{2029}' | '\u{061c}'
            | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

/// One column: its title, and the path of the member it shows (`os.name`).
#[derive(Debug, Clone, Copy)]
pub(crate) struct Column {
    /// Title.
    pub(crate) title: &'static str,
    /// Path of the member, by dots.
    pub(crate) path: &'static str,
}

/// A column.
pub(crate) const fn column(title: &'static str, path: &'static str) -> Column {
    Column { title, path }
}

/// Where and how a command prints.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Output {
    /// What `-o` says, or what suits stdout.
    pub(crate) format: Format,
    /// Whether `-o` said so.
    pub(crate) explicit: bool,
    /// Say nothing but data and errors.
    pub(crate) quiet: bool,
    /// Colour of stdout.
    pub(crate) style: Style,
}

impl Output {
    /// From the flags and what stdout is.
    pub(crate) fn new(asked: Option<Format>, quiet: bool) -> Self {
        let fallback = if io::stdout().is_terminal() {
            Format::Table
        } else {
            Format::Json
        };
        Self {
            format: asked.unwrap_or(fallback),
            explicit: asked.is_some(),
            quiet,
            style: Style::stdout(),
        }
    }

    /// Prints a list of objects.
    pub(crate) fn list(self, columns: &[Column], items: &[Value]) -> Result<(), CliError> {
        let text = match self.format {
            Format::Table => table(columns, items, self.style),
            Format::Json => pretty(&Value::Array(items.to_vec())),
            Format::Jsonl => items.iter().map(|item| format!("{item}\n")).collect(),
            Format::Csv => csv(columns, items),
            Format::Yaml => yaml(&Value::Array(items.to_vec()))?,
        };
        print(&text)
    }

    /// Prints one object; a table of it has a line for each member.
    pub(crate) fn object(self, item: &Value) -> Result<(), CliError> {
        let text = match self.format {
            Format::Table => members(item),
            Format::Json => pretty(item),
            Format::Jsonl => format!("{item}\n"),
            Format::Csv => csv_of_members(item),
            Format::Yaml => yaml(item)?,
        };
        print(&text)
    }

    /// Prints one object; as a table, what `render` makes of it.
    pub(crate) fn object_as(
        self,
        item: &Value,
        render: impl FnOnce(&Value) -> String,
    ) -> Result<(), CliError> {
        if self.format == Format::Table {
            print(&render(item))
        } else {
            self.object(item)
        }
    }

    /// Talk, on stderr; silent with `-q`.
    pub(crate) fn say(self, text: &str) {
        if !self.quiet {
            let _ = writeln!(io::stderr().lock(), "{text}");
        }
    }
}

/// Writes data to stdout. A reader that has gone away is no failure.
pub(crate) fn print(text: &str) -> Result<(), CliError> {
    let mut stdout = io::stdout().lock();
    match stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush())
    {
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other.map_err(CliError::from),
    }
}

/// A table with the columns named, without frames.
pub(crate) fn table(columns: &[Column], items: &[Value], style: Style) -> String {
    let mut table = blank_table();
    table.set_header(columns.iter().map(|c| c.title.to_ascii_uppercase()));
    for item in items {
        table.add_row(columns.iter().map(|c| {
            let text = clean(&cell(at(item, c.path)));
            match colour(&text) {
                Some(colour) if style.colour && (c.path == "state" || c.path == "end") => {
                    Cell::new(text).fg(colour)
                }
                Some(_) | None => Cell::new(text),
            }
        }));
    }
    lines(&table)
}

fn blank_table() -> Table {
    let mut table = Table::new();
    // Whether to colour has been decided; the table need not look at the terminal again.
    table.enforce_styling();
    table.load_style(presets::NOTHING);
    table.set_content_arrangement(ContentArrangement::Disabled);
    table
}

/// The table as text, without the blanks that fill its last column.
fn lines(table: &Table) -> String {
    table
        .lines()
        .map(|line| format!("{}\n", line.strip_prefix(' ').unwrap_or(&line).trim_end()))
        .collect()
}

fn colour(word: &str) -> Option<Color> {
    match word {
        "approved" | "succeeded" | "normal" => Some(Color::Green),
        "failed" | "missed" | "refused" | "expired" | "disabled" | "not_supported" => {
            Some(Color::Red)
        }
        "pending" | "overdue" | "preempted" | "cancelled" => Some(Color::Yellow),
        _ => None,
    }
}

/// One object as lines of member and value.
pub(crate) fn members(item: &Value) -> String {
    let Value::Object(map) = item else {
        return format!("{}\n", clean(&cell(item)));
    };
    let mut table = blank_table();
    let first = FIRST.iter().filter_map(|name| map.get_key_value(*name));
    let rest = map
        .iter()
        .filter(|(name, _)| !FIRST.contains(&name.as_str()));
    for (name, value) in first.chain(rest) {
        table.add_row([name.clone(), cut(&clean(&cell(value)))]);
    }
    lines(&table)
}

/// A cell that fits a terminal; what is longer is for `-o json`.
fn cut(text: &str) -> String {
    if text.chars().count() <= CELL_CHARS_MAX {
        return text.to_owned();
    }
    let head: String = text.chars().take(CELL_CHARS_MAX).collect();
    format!("{head}… (-o json shows all)")
}

/// Longest cell of one object, in characters.
const CELL_CHARS_MAX: usize = 400;

/// Members that come before the others when one object is shown to a person.
const FIRST: &[&str] = &[
    "id", "name", "kind", "host", "key", "state", "end", "reason",
];

/// The member at a path by dots; null where there is none.
pub(crate) fn at<'a>(item: &'a Value, path: &str) -> &'a Value {
    path.split('.')
        .fold(item, |value, name| value.get(name).unwrap_or(&Value::Null))
}

/// A value as the text of one cell.
pub(crate) fn cell(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::Bool(true) => "yes".to_owned(),
        Value::Bool(false) => "no".to_owned(),
        Value::Number(n) => n.to_string(),
        Value::String(s) => s.clone(),
        Value::Array(items) if items.is_empty() => "-".to_owned(),
        Value::Array(items) => items.iter().map(short).collect::<Vec<_>>().join(", "),
        Value::Object(map) if map.is_empty() => "-".to_owned(),
        Value::Object(_) => value.to_string(),
    }
}

/// What stands for an object in a list: its name, its kind, or itself.
fn short(value: &Value) -> String {
    for member in ["name", "kind", "wire"] {
        if let Some(text) = value.get(member).and_then(Value::as_str) {
            return text.to_owned();
        }
    }
    cell(value)
}

fn pretty(value: &Value) -> String {
    format!("{value:#}\n")
}

fn yaml(value: &Value) -> Result<String, CliError> {
    serde_yaml_ng::to_string(value)
        .map_err(|e| CliError::failed(super::error::Code::INTERNAL, "cannot write yaml").cause(&e))
}

fn csv(columns: &[Column], items: &[Value]) -> String {
    let mut text = csv_line(columns.iter().map(|c| Value::from(c.title)).collect());
    for item in items {
        text += &csv_line(columns.iter().map(|c| at(item, c.path).clone()).collect());
    }
    text
}

fn csv_of_members(item: &Value) -> String {
    let single = Map::from_iter([("value".to_owned(), item.clone())]);
    let map = item.as_object().unwrap_or(&single);
    let names = map.keys().map(|name| Value::from(name.as_str())).collect();
    csv_line(names) + &csv_line(map.values().cloned().collect())
}

fn csv_line(cells: Vec<Value>) -> String {
    let mut line = cells.iter().map(csv_cell).collect::<Vec<_>>().join(",");
    line.push('\n');
    line
}

/// One cell. Text that a spreadsheet would take for a formula gets an apostrophe before it; numbers
/// that are numbers in JSON stay what they are.
fn csv_cell(value: &Value) -> String {
    let text = match value {
        Value::Null => return String::new(),
        Value::Bool(yes) => return yes.to_string(),
        Value::Number(number) => return number.to_string(),
        Value::String(text) => text.clone(),
        Value::Array(items) if items.is_empty() => return String::new(),
        Value::Array(_) | Value::Object(_) => cell(value),
    };
    let guarded = if text.starts_with(['=', '+', '-', '@', '\t', '\r']) {
        format!("'{text}")
    } else {
        text
    };
    if guarded.contains([',', '"', '\n', '\r']) {
        format!("\"{}\"", guarded.replace('"', "\"\""))
    } else {
        guarded
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const COLUMNS: &[Column] = &[
        column("name", "name"),
        column("os", "os.name"),
        column("state", "state"),
    ];

    fn fleet() -> Vec<Value> {
        vec![
            json!({"name": "lab-7", "os": {"name": "Debian"}, "state": "approved"}),
            json!({"name": "=cmd|x", "os": null, "state": "pending"}),
        ]
    }

    #[test]
    fn a_table_has_a_header_and_no_frames() {
        assert_eq!(
            table(COLUMNS, &fleet(), Style::PLAIN),
            "NAME    OS      STATE\nlab-7   Debian  approved\n=cmd|x  -       pending\n"
        );
    }

    #[test]
    fn csv_cells_cannot_become_formulas() {
        assert_eq!(
            csv(COLUMNS, &fleet()),
            "name,os,state\nlab-7,Debian,approved\n'=cmd|x,,pending\n"
        );
        for (value, text) in [
            (json!("+1"), "'+1"),
            (json!("-1"), "'-1"),
            (json!("@x"), "'@x"),
            (json!("=1,2"), "\"'=1,2\""),
            (json!("a\"b"), "\"a\"\"b\""),
            (json!("a\nb"), "\"a\nb\""),
            (json!(-1.5), "-1.5"),
            (
                json!(18_446_744_073_709_551_615_u64),
                "18446744073709551615",
            ),
            (json!(null), ""),
            (json!(["a", "b"]), "\"a, b\""),
            (json!([]), ""),
        ] {
            assert_eq!(csv_cell(&value), text);
        }
    }

    #[test]
    fn text_of_peers_is_escaped_for_terminals() {
        assert_eq!(
            clean("a\tb\u{1b}[1m\u{202e}"),
            "a\\u{9}b\\u{1b}[1m\\u{202e}"
        );
        assert_eq!(clean("Grüße, 日本"), "Grüße, 日本");
    }

    #[test]
    fn one_object_is_lines_of_members() {
        assert_eq!(
            members(&json!({"id": "7", "agents": [{"id": "1", "name": "lab"}], "end": null})),
            "id      7\nend     -\nagents  lab\n".to_owned()
        );
    }
}
