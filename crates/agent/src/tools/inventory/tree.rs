//! Reading the small files of `/proc`, `/sys`, `/etc` and `/var` below any root.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

/// Longest file that is read, in bytes: a package database of some ten thousand packages.
const FILE_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// A file system seen from a root.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tree<'a> {
    root: &'a Path,
}

impl<'a> Tree<'a> {
    pub(super) fn new(root: &'a Path) -> Self {
        Self { root }
    }

    /// Where a path below the root really is.
    pub(super) fn path(self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }

    pub(super) fn bytes(self, path: &str) -> Option<Vec<u8>> {
        let file = File::open(self.path(path)).ok()?;
        let mut bytes = Vec::new();
        file.take(FILE_BYTES_MAX).read_to_end(&mut bytes).ok()?;
        Some(bytes)
    }

    /// The text of a file, whatever bytes it has.
    pub(super) fn text(self, path: &str) -> Option<String> {
        self.bytes(path)
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
    }

    /// The value of a file that holds one: trimmed, without controls, absent when empty.
    pub(super) fn value(self, path: &str) -> Option<String> {
        self.text(path).as_deref().and_then(clean)
    }

    pub(super) fn number(self, path: &str) -> Option<i64> {
        self.value(path)?.parse().ok()
    }

    pub(super) fn exists(self, path: &str) -> bool {
        self.path(path).exists()
    }

    /// Names in a directory, sorted.
    pub(super) fn names(self, path: &str) -> Vec<String> {
        let Ok(entries) = std::fs::read_dir(self.path(path)) else {
            return Vec::new();
        };
        let mut names = entries
            .flatten()
            .filter_map(|entry| entry.file_name().into_string().ok())
            .collect::<Vec<_>>();
        names.sort();
        names
    }

    /// Last part of what a symbolic link points to.
    pub(super) fn link_name(self, path: &str) -> Option<String> {
        let target = std::fs::read_link(self.path(path)).ok()?;
        Some(target.file_name()?.to_string_lossy().into_owned())
    }
}

/// A value as it may stand in a report: no controls, no blanks around it, not empty.
pub(super) fn clean(text: &str) -> Option<String> {
    let text = text.trim_matches(|c: char| c.is_whitespace() || c.is_control());
    if text.is_empty() {
        return None;
    }
    Some(
        text.chars()
            .map(|c| if c.is_control() { ' ' } else { c })
            .collect(),
    )
}

/// One section or entry, being filled.
#[derive(Debug, Default)]
pub(super) struct Entry {
    members: Map<String, Value>,
}

impl Entry {
    pub(super) fn put(&mut self, name: &str, value: impl Into<Value>) -> &mut Self {
        self.members.insert(name.to_owned(), value.into());
        self
    }

    /// Absent values make no member.
    pub(super) fn maybe(&mut self, name: &str, value: Option<impl Into<Value>>) -> &mut Self {
        if let Some(value) = value {
            self.put(name, value);
        }
        self
    }

    pub(super) fn done(self) -> Value {
        Value::Object(self.members)
    }
}

/// `KEY=value` lines, values possibly quoted, as in `os-release`.
pub(super) fn assignment(text: &str, key: &str) -> Option<String> {
    let value = text
        .lines()
        .find_map(|line| line.trim().strip_prefix(key)?.strip_prefix('='))?;
    clean(value.trim().trim_matches(['"', '\'']))
}

/// The value of `key` in text of `key : value` lines, as in `/proc/cpuinfo`.
pub(super) fn colon_value<'t>(text: &'t str, key: &str) -> Option<&'t str> {
    text.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        (name.trim() == key).then_some(value.trim())
    })
}
