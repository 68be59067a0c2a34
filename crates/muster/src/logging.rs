//! Logs: one event a line, on stderr.
//!
//! JSON for the long-running commands, which are read by machines; a line of text for the others,
//! and only if asked for. What peers said is escaped, so that no line can be forged, and a line has
//! a largest size.

use std::io::{self, Write};

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

use crate::cli::args::{AgentCommand, Command, Global};

/// Largest line in bytes (threat model, section 4).
const LINE_MAX: usize = 8 * 1024;

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

/// One line without controls, direction marks and line separators, at most [`LINE_MAX`] bytes.
fn escaped(line: &str) -> String {
    let body = line.trim_end_matches('\n');
    let json = body.starts_with('{');
    let mut out = String::with_capacity(body.len() + 1);
    for c in body.chars() {
        let hidden = c.is_control()
            || matches!(c,
                '\u{200e}' | '\u{200f}' | '\u{061c}' | '\u{2028}'..='\u{202e}'
                | '\u{2066}'..='\u{2069}' | '\u{feff}');
        if hidden {
            // In a JSON line these occur inside strings only, where this is their escape.
            out += &format!("\\u{:04x}", u32::from(c));
        } else {
            out.push(c);
        }
    }
    if out.len() > LINE_MAX {
        out = cut(&out, json);
    }
    out.push('\n');
    out
}

/// The beginning of a line that is too long, still one JSON object if it was one.
fn cut(line: &str, json: bool) -> String {
    let end = (0..=LINE_MAX / 4)
        .rev()
        .find(|i| line.is_char_boundary(*i))
        .unwrap_or(0);
    let head = line.get(..end).unwrap_or_default();
    if json {
        serde_json::json!({"message": "log line was too long", "bytes": line.len(), "beginning": head})
            .to_string()
    } else {
        format!("{head} … ({} bytes)", line.len())
    }
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

    #[test]
    fn long_lines_are_cut_and_stay_json() {
        let long = serde_json::json!({"field": "é".repeat(LINE_MAX)}).to_string();
        let line = escaped(&long);
        assert!(line.len() <= LINE_MAX, "{}", line.len());
        let value: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(value["message"], "log line was too long");
        assert!(escaped(&"x".repeat(LINE_MAX * 2)).len() < LINE_MAX);
    }
}
