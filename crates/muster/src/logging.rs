//! Logs: one event a line, on stderr.
//!
//! JSON for the long-running commands, which are read by machines; a line of text for the others,
//! and only if asked for. What peers said is escaped, so that no line can be forged; a field and a
//! line have largest sizes. Keys and levels are those of the code: no peer chooses any.

use std::fmt;
use std::io::{self, Write};

use serde_json::{Map, Value};
use tracing::field::Field;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::field::MakeExt as _;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::fmt::format::{self, Writer};

use crate::cli::args::{AgentCommand, Command, Global};

/// Largest line in bytes (threat model, section 4).
const LINE_MAX: usize = 8 * 1024;
/// Largest value of a field in bytes, escapes counted as they are written.
const FIELD_MAX: usize = 1024;

/// Sets up logging for the command. `MUSTER_LOG` wins over `-v` and `-q`.
pub(crate) fn init(global: &Global, command: &Command) {
    let service = matches!(
        command,
        Command::Server(_) | Command::Agent(AgentCommand::Run(_))
    );
    let level = match (service, global.quiet, global.verbose) {
        (true, true, 0) => "warn",
        (true, false, 0) => "info",
        (false, _, 0) => "error",
        (false, _, 1) => "info",
        (true, _, 1) | (false, _, 2) => "debug",
        (_, _, _) => "trace",
    };
    let filter = std::env::var("MUSTER_LOG")
        .ok()
        .filter(|text| !text.is_empty())
        .and_then(|text| EnvFilter::try_new(text).ok())
        .unwrap_or_else(|| {
            // Libraries speak from one level up only: theirs is detail about the transport. To that of
            // SNMP every address without a device is an error.
            EnvFilter::new(format!(
                "{level},hyper=warn,reqwest=warn,rustls=warn,h2=warn,async_snmp=off"
            ))
        });
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(Escaped);
    // A second subscriber in one process is refused; the first one stays.
    let _ = if service {
        builder.json().flatten_event(true).try_init()
    } else {
        builder
            .compact()
            .with_ansi(false)
            .with_target(false)
            .fmt_fields(format::debug_fn(text_field).delimited(" "))
            .try_init()
    };
}

/// Makes a writer for each event.
struct Escaped;

impl<'a> MakeWriter<'a> for Escaped {
    type Writer = Line;

    fn make_writer(&'a self) -> Line {
        Line(Vec::new())
    }
}

/// Collects one event and writes it, escaped and cut, when it ends.
struct Line(Vec<u8>);

impl Write for Line {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        let line = escaped(&String::from_utf8_lossy(&self.0));
        let _ = io::stderr().lock().write_all(line.as_bytes());
    }
}

/// One field of a line of text.
fn text_field(writer: &mut Writer<'_>, field: &Field, value: &dyn fmt::Debug) -> fmt::Result {
    let value = format!("{value:?}");
    match field.name() {
        "message" => writer.write_str(&shortened(&value)),
        name => write!(writer, "{name}={}", shortened(&value)),
    }
}

/// One line without controls, direction marks and line separators, of at most [`LINE_MAX`] bytes and
/// with fields of at most [`FIELD_MAX`].
fn escaped(line: &str) -> String {
    let body = line.trim_end_matches('\n');
    let event = (body.len() > FIELD_MAX && body.starts_with('{'))
        .then(|| serde_json::from_str(body).ok())
        .flatten();
    let mut out = match event {
        Some(event) => bounded(event),
        None => hidden(body),
    };
    if out.len() > LINE_MAX {
        let end = out.floor_char_boundary(LINE_MAX / 2);
        out = format!("{} … ({} bytes)", &out[..end], out.len());
    }
    out.push('\n');
    out
}

/// A JSON event with its fields shortened; of one that is too long all the same, what is known of
/// every event.
fn bounded(mut event: Map<String, Value>) -> String {
    event.values_mut().for_each(shorten);
    let line = hidden(&Value::Object(event.clone()).to_string());
    if line.len() <= LINE_MAX {
        return line;
    }
    event.retain(|name, _| matches!(name.as_str(), "level" | "message" | "target" | "timestamp"));
    event.insert("line_bytes".to_owned(), Value::from(line.len()));
    hidden(&Value::Object(event).to_string())
}

fn shorten(value: &mut Value) {
    match value {
        Value::String(text) => *text = shortened(text),
        Value::Array(items) => items.iter_mut().for_each(shorten),
        Value::Object(members) => members.values_mut().for_each(shorten),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// The beginning of a text that fits a field as it will be written.
fn shortened(text: &str) -> String {
    let mark = '…';
    let (mut bytes, mut fits) = (0, 0);
    for (at, c) in text.char_indices() {
        bytes += match c {
            '"' | '\\' => 2,
            c if is_hidden(c) => 6,
            c => c.len_utf8(),
        };
        if bytes > FIELD_MAX {
            return format!("{}{mark}", &text[..fits]);
        }
        if bytes + mark.len_utf8() <= FIELD_MAX {
            fits = at + c.len_utf8();
        }
    }
    text.to_owned()
}

/// Whether a character would move the cursor, turn the direction of writing, or end the line.
fn is_hidden(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{200e}' | '\u{200f}' | '\u{061c}' | '\u{2028}'..='\u{202e}'
            | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

/// The text with its hidden characters escaped. In JSON these occur inside strings only, where this
/// is their escape.
fn hidden(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 1);
    for c in text.chars() {
        if is_hidden(c) {
            out += &format!("\\u{:04x}", u32::from(c));
        } else {
            out.push(c);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peers_cannot_forge_lines() {
        assert_eq!(
            escaped("a\nb\u{1b}[1m\u{202e}\n"),
            "a\\u000ab\\u001b[1m\\u202e\n"
        );
        let line = escaped("{\"name\":\"x\u{2028}y\"}\n");
        let value: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(value["name"], "x\u{2028}y");
    }

    fn read(line: &str) -> Value {
        assert!(line.len() <= LINE_MAX + 1, "{}", line.len());
        assert_eq!(line.find('\n'), Some(line.len() - 1));
        serde_json::from_str(line).unwrap()
    }

    #[test]
    fn fields_are_cut_as_they_are_written() {
        for (peer, kept) in [
            ("x".repeat(1024), 1024),
            ("x".repeat(1025), 1021),
            ("\u{1b}".repeat(1024), 170),
            ("\"".repeat(1024), 510),
            ("\"".repeat(512), 512),
            ("\u{202e}".repeat(400), 170),
            ("é".repeat(1024), 510),
        ] {
            let event = serde_json::json!({"level": "INFO", "peer": peer, "n": 5,
                "spans": [{"name": "x".repeat(2000)}]});
            let event = read(&escaped(&event.to_string()));
            let shown = event["peer"].as_str().unwrap();
            assert_eq!(shown.trim_end_matches('…').chars().count(), kept);
            let written = hidden(&event["peer"].to_string()).len() - 2;
            assert!(written <= FIELD_MAX, "{written}");
            assert_eq!(event["n"], 5);
            assert!(event["spans"][0]["name"].as_str().unwrap().len() <= FIELD_MAX);
        }
        assert_eq!(shortened("short"), "short");
    }

    #[test]
    fn long_lines_keep_what_every_event_has() {
        let mut event = Map::new();
        for n in 0..20 {
            event.insert(format!("field{n}"), Value::from("é".repeat(600)));
        }
        for name in ["level", "message", "target", "timestamp"] {
            event.insert(name.to_owned(), Value::from(name));
        }
        let event = read(&escaped(&Value::Object(event).to_string()));
        let members: std::collections::BTreeSet<&str> = event
            .as_object()
            .unwrap()
            .keys()
            .map(String::as_str)
            .collect();
        let kept = ["level", "line_bytes", "message", "target", "timestamp"];
        assert_eq!(members, kept.into());
        assert!(escaped(&"x".repeat(LINE_MAX * 2)).len() < LINE_MAX);
    }
}
