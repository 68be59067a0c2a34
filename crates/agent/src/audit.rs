//! The record of every decision about a job: one JSON object a line, in `STATE/agent/audit.jsonl`.
//!
//! What a server names (kinds, targets, task ids) is escaped so that it can neither break a line
//! nor reorder what a terminal shows, and cut so that it cannot fill the disk (threat model,
//! sections 4 and 6). Specs are not recorded: they may hold secrets.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use jiff::Timestamp;
use serde_json::{Map, Value};

/// Longest value of one field, in bytes (threat model, section 4).
const FIELD_BYTES_MAX: usize = 1024;
/// Longest line, in bytes (threat model, section 4).
const LINE_BYTES_MAX: usize = 8 * 1024;
/// At this size the file is set aside as `audit.jsonl.1`, replacing the one before.
const FILE_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// One decision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry<'a> {
    /// When it was made.
    pub at: Timestamp,
    /// What was decided.
    pub decision: Decision,
    /// Kind of work that was asked for.
    pub kind: &'a str,
    /// Class of the local policy it falls into; `None` for a kind this agent does not know.
    pub class: Option<&'static str>,
    /// The server that asked; `local` for the person at the terminal.
    pub peer: &'a str,
    /// The server's name for the run.
    pub run: &'a str,
    /// What the work is done to.
    pub targets: &'a [String],
    /// Why it was denied or how it ended.
    pub reason: Option<&'a str>,
}

/// What was decided, or became of what was decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// The policy allows the job.
    Allow,
    /// It does not.
    Deny,
    /// An allowed job has ended.
    End,
}

impl Decision {
    fn as_str(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
            Self::End => "end",
        }
    }
}

/// The audit trail of one agent.
#[derive(Debug)]
pub struct Audit {
    path: Option<PathBuf>,
    file: Mutex<Option<Open>>,
}

#[derive(Debug)]
struct Open {
    file: File,
    bytes: u64,
}

impl Audit {
    /// The trail in the agent's state folder.
    #[must_use]
    pub fn in_state(agent_state: &Path) -> Self {
        Self {
            path: Some(agent_state.join("audit.jsonl")),
            file: Mutex::new(None),
        }
    }

    /// A trail that keeps nothing, for agents that live in a simulation.
    #[must_use]
    pub fn none() -> Self {
        Self {
            path: None,
            file: Mutex::new(None),
        }
    }

    /// Appends one line. Blocks on the file.
    ///
    /// # Errors
    /// What the file system says; the caller then refuses to do what it could not record.
    pub fn record(&self, entry: &Entry<'_>) -> io::Result<()> {
        let Some(path) = &self.path else {
            return Ok(());
        };
        let line = render(entry);
        let mut guard = match self.file.lock() {
            Ok(guard) => guard,
            Err(poisoned) => poisoned.into_inner(),
        };
        if guard
            .as_ref()
            .is_some_and(|open| open.bytes + line.len() as u64 > FILE_BYTES_MAX)
        {
            *guard = None;
            std::fs::rename(path, path.with_extension("jsonl.1"))?;
        }
        let open = match guard.as_mut() {
            Some(open) => open,
            None => guard.insert(open_append(path)?),
        };
        open.file.write_all(line.as_bytes())?;
        open.bytes += line.len() as u64;
        Ok(())
    }
}

fn open_append(path: &Path) -> io::Result<Open> {
    let file = OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .custom_flags(rustix::fs::OFlags::NOFOLLOW.bits().cast_signed())
        .open(path)?;
    let bytes = file.metadata()?.len();
    Ok(Open { file, bytes })
}

fn render(entry: &Entry<'_>) -> String {
    let text = |value: &str| Value::String(cut(value, FIELD_BYTES_MAX).to_owned());
    let mut members = Map::new();
    members.insert("at".to_owned(), Value::String(entry.at.to_string()));
    members.insert("decision".to_owned(), text(entry.decision.as_str()));
    members.insert("kind".to_owned(), text(entry.kind));
    members.insert("class".to_owned(), entry.class.map_or(Value::Null, text));
    members.insert("peer".to_owned(), text(entry.peer));
    members.insert("run".to_owned(), text(entry.run));
    if let Some(reason) = entry.reason {
        members.insert("reason".to_owned(), text(reason));
    }
    let shown = |count: usize| {
        let mut members = members.clone();
        let mut list = entry
            .targets
            .iter()
            .take(count)
            .map(|target| text(target))
            .collect::<Vec<_>>();
        if count < entry.targets.len() {
            list.push(Value::String(format!(
                "and {} more",
                entry.targets.len() - count
            )));
        }
        if !list.is_empty() {
            members.insert("targets".to_owned(), Value::Array(list));
        }
        let mut line = escape(&Value::Object(members).to_string());
        line.push('\n');
        line
    };
    let mut count = entry.targets.len().min(64);
    loop {
        let line = shown(count);
        if line.len() <= LINE_BYTES_MAX || count == 0 {
            return line;
        }
        count /= 2;
    }
}

/// The longest beginning of `text` that has at most `bytes_max` bytes and ends between characters.
fn cut(text: &str, bytes_max: usize) -> &str {
    text.get(..text.floor_char_boundary(bytes_max))
        .unwrap_or_default()
}

/// JSON text with the characters escaped that JSON allows and terminals obey: C1 controls, line
/// and paragraph separators, and what changes the direction of text. Within valid JSON such
/// characters stand in strings only, so the escapes keep it valid.
#[must_use]
pub fn escape(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    for character in json.chars() {
        match character {
            '\u{7f}'..='\u{9f}'
            | '\u{200e}'
            | '\u{200f}'
            | '\u{61c}'
            | '\u{2028}'..='\u{202e}'
            | '\u{2066}'..='\u{2069}'
            | '\u{feff}' => out.push_str(&format!("\\u{:04x}", u32::from(character))),
            plain => out.push(plain),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    fn entry<'a>(run: &'a str, targets: &'a [String]) -> Entry<'a> {
        Entry {
            at: "2026-11-24T13:00:00Z".parse().unwrap(),
            decision: Decision::Deny,
            kind: "decom.disk_erase",
            class: Some("destroy"),
            peer: "teeth://127.0.0.1:8081",
            run,
            targets,
            reason: Some("the local policy does not allow destroy"),
        }
    }

    #[test]
    fn one_line_each_whatever_the_server_names() {
        let dir = tempfile::tempdir().unwrap();
        let audit = Audit::in_state(dir.path());
        let targets = ["disk \"a\"\nsecond".to_owned()];
        audit
            .record(&entry("t-1\r\n{\"decision\":\"allow\"}", &targets))
            .unwrap();
        audit
            .record(&entry("t-2\u{202e}\u{2028}\u{85}\u{7f}", &[]))
            .unwrap();
        let text = std::fs::read_to_string(dir.path().join("audit.jsonl")).unwrap();
        let lines = text.lines().collect::<Vec<_>>();
        assert_eq!(lines.len(), 2);
        for line in &lines {
            let value: Value = serde_json::from_str(line).unwrap();
            assert_eq!(value["decision"], "deny");
            assert!(
                line.chars()
                    .all(|c| !c.is_control() && c != '\u{202e}' && c != '\u{2028}')
            );
        }
        let second: Value = serde_json::from_str(lines[1]).unwrap();
        assert_eq!(
            second["run"], "t-2\u{202e}\u{2028}\u{85}\u{7f}",
            "escaped, not lost"
        );
        assert_eq!(
            std::fs::metadata(dir.path().join("audit.jsonl"))
                .unwrap()
                .mode()
                & 0o777,
            0o600
        );
    }

    #[test]
    fn fields_and_lines_are_cut() {
        let targets = (0..5000)
            .map(|n| format!("{n}-{}", "x".repeat(500)))
            .collect::<Vec<_>>();
        let run = "é".repeat(3000);
        let line = render(&entry(&run, &targets));
        assert!(line.len() <= LINE_BYTES_MAX, "{}", line.len());
        let value: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(value["run"].as_str().unwrap().len(), FIELD_BYTES_MAX);
        let last = value["targets"]
            .as_array()
            .unwrap()
            .last()
            .unwrap()
            .as_str()
            .unwrap();
        assert!(
            last.starts_with("and ") && last.ends_with(" more"),
            "{last}"
        );
    }

    #[test]
    fn what_cannot_be_recorded_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let audit = Audit::in_state(&dir.path().join("absent"));
        assert!(audit.record(&entry("t", &[])).is_err());
        std::os::unix::fs::symlink(dir.path().join("elsewhere"), dir.path().join("audit.jsonl"))
            .unwrap();
        assert!(
            Audit::in_state(dir.path())
                .record(&entry("t", &[]))
                .is_err(),
            "no link followed"
        );
    }

    #[test]
    fn a_full_file_is_set_aside() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit.jsonl");
        let file = File::create(&path).unwrap();
        file.set_len(FILE_BYTES_MAX).unwrap();
        let audit = Audit::in_state(dir.path());
        audit.record(&entry("t-1", &[])).unwrap();
        audit.record(&entry("t-2", &[])).unwrap();
        let aside = std::fs::metadata(dir.path().join("audit.jsonl.1")).unwrap();
        assert_eq!(aside.len() / FILE_BYTES_MAX, 1);
        assert!(std::fs::metadata(&path).unwrap().len() < 2000);
    }
}
