//! What all three dialects share: limits, the grammar of names, and secrets.

use std::fmt;

use zeroize::Zeroize;

/// How much of anything a peer may send (threat model, section 4).
#[derive(Clone, Debug)]
pub struct Limits {
    /// Largest inventory document, as sent and inflated: a full inventory of a large host with
    /// thousands of packages and processes is about 2 MB of XML.
    pub inventory_bytes: usize,
    /// Largest other document, as sent and inflated: one message of a network task.
    pub message_bytes: usize,
    /// Largest query part of a target: a side protocol value is cut at 1500 bytes by the agents, and
    /// a P1 request names a dozen modules.
    pub query_bytes: usize,
    /// Modules one P1 request may name; the family has eight.
    pub modules: usize,
    /// Nesting of XML elements: the deepest real message has nine.
    pub xml_depth: usize,
    /// XML elements and attributes of one document: a full inventory has about 10 000.
    pub xml_elements: usize,
    /// Text of one XML element: the longest real ones are system descriptions and licence texts.
    pub xml_text_bytes: usize,
    /// Nesting of JSON values.
    pub json_depth: usize,
    /// Members of one JSON object.
    pub json_members: usize,
    /// Items of one JSON array.
    pub json_items: usize,
    /// Bytes of one JSON string.
    pub json_string_bytes: usize,
    /// Digits of one JSON number.
    pub json_number_digits: usize,
    /// Devices in one network message: old agents send four at most, newer ones one.
    pub devices: usize,
    /// Tasks of a list, jobs of a task, targets of a job, credentials of a target: an agent that is
    /// told more than this at once is told nonsense.
    pub list_items: usize,
    /// Largest number of workers taken from a peer; more are this many.
    pub workers: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            inventory_bytes: 32 << 20,
            message_bytes: 16 << 20,
            query_bytes: 65_534,
            modules: 64,
            xml_depth: 64,
            xml_elements: 1_000_000,
            xml_text_bytes: 1 << 20,
            json_depth: 64,
            json_members: 10_000,
            json_items: 1_000_000,
            json_string_bytes: 8 << 20,
            json_number_digits: 64,
            devices: 128,
            list_items: 10_000,
            workers: 1024,
        }
    }
}

/// The name a peer gives itself: P1 `agentid`, P2 `DEVICEID`, `machineid` of the side protocol.
///
/// A name, never a proof. 1 to 255 printable characters, none of `/ \ < > & " '` (threat model,
/// section 5), so that it can be shown, logged and looked up as it is.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct PeerName(String);

/// The name is outside the grammar.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("not 1 to 255 printable characters without / \\ < > & \" '")]
pub struct BadName;

impl PeerName {
    /// Reads a name, trimming white space around it.
    ///
    /// # Errors
    /// [`BadName`] outside the grammar.
    pub fn parse(text: &str) -> Result<Self, BadName> {
        let text = text.trim();
        match is_plain(text, 255) {
            true => Ok(Self(text.to_owned())),
            false => Err(BadName),
        }
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for PeerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Whether `text` has 1 to `max` characters, all printable, none of them markup or a separator of
/// paths.
#[must_use]
pub fn is_plain(text: &str, max: usize) -> bool {
    let mut count = 0_usize;
    for c in text.chars() {
        count = count.saturating_add(1);
        let bad = c.is_control()
            || matches!(c, '/' | '\\' | '<' | '>' | '&' | '"' | '\'')
            || is_invisible(c);
        if bad || count > max {
            return false;
        }
    }
    count > 0
}

/// Characters that reorder or hide text: bidirectional controls, line separators, zero width.
fn is_invisible(c: char) -> bool {
    matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}' | '\u{fffd}')
}

/// A password, community, token or passphrase of a peer.
///
/// Has neither `Display` nor `Serialize`, prints as `***`, compares only in tests, and is zeroed
/// when dropped.
#[derive(Clone, Default, Eq, PartialEq)]
pub struct Secret(String);

impl Secret {
    /// Takes the text over.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The secret itself, for the one place that writes it to the wire or hands it to a tool.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// Whether there is nothing to keep.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl Drop for Secret {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

/// A version string or other short word of a peer, cut to something that can be logged.
#[must_use]
pub fn short(text: &str) -> String {
    text.trim()
        .chars()
        .filter(|c| !c.is_control() && !is_invisible(*c))
        .take(128)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for good in [
            "xyz",
            "lab-host-2026-11-21-19-09-02",
            "a",
            " padded ",
            "Büro 3 (links)",
        ] {
            assert!(PeerName::parse(good).is_ok(), "{good:?}");
        }
        let long = "x".repeat(256);
        for bad in [
            "",
            "  ",
            "a/b",
            "..\\x",
            "<b>",
            "a&b",
            "a\"b",
            "a'b",
            "a\nb",
            "a\u{0}b",
            "a\u{202e}b",
            long.as_str(),
        ] {
            assert!(PeerName::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_secret_does_not_print() {
        let secret = Secret::new("hunter2");
        assert_eq!(format!("{secret:?}"), "***");
        assert_eq!(secret.reveal(), "hunter2");
    }
}
