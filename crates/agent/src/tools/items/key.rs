//! Item keys: `name[parameter,"quoted, parameter",[a,b]]`.
//!
//! The grammar is that of Zabbix agents: a parameter may be bare, quoted with `\"` for a quote
//! inside, or a list of such in brackets, one level deep.

/// A key, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    /// What stands before the brackets.
    pub name: String,
    /// What stands between them; empty without brackets.
    pub parameters: Vec<String>,
}

/// A text that is no key; what an agent answers to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("Invalid item key format.")]
pub struct BadKey;

/// Longest key that is looked at, in bytes: what the database of the original holds.
const KEY_BYTES_MAX: usize = 2048;

impl Key {
    /// Takes a key apart.
    ///
    /// # Errors
    /// [`BadKey`].
    pub fn parse(text: &str) -> Result<Self, BadKey> {
        if text.len() > KEY_BYTES_MAX {
            return Err(BadKey);
        }
        let end = text.find(|c: char| !c.is_ascii_alphanumeric() && !"_.-".contains(c));
        let (name, rest) = text.split_at(end.unwrap_or(text.len()));
        if name.is_empty() {
            return Err(BadKey);
        }
        let mut parameters = Vec::new();
        if !rest.is_empty() {
            let mut cursor = Cursor {
                rest: rest.strip_prefix('[').ok_or(BadKey)?,
            };
            loop {
                parameters.push(cursor.parameter(true)?);
                match cursor.next()? {
                    ',' => {}
                    ']' if cursor.rest.is_empty() => break,
                    _ => return Err(BadKey),
                }
            }
        }
        Ok(Self {
            name: name.to_owned(),
            parameters,
        })
    }

    /// The parameter at a position; absent and empty ones are the same.
    #[must_use]
    pub fn parameter(&self, index: usize) -> Option<&str> {
        self.parameters
            .get(index)
            .map(String::as_str)
            .filter(|text| !text.is_empty())
    }
}

struct Cursor<'t> {
    rest: &'t str,
}

impl Cursor<'_> {
    fn next(&mut self) -> Result<char, BadKey> {
        let mut chars = self.rest.chars();
        let next = chars.next().ok_or(BadKey)?;
        self.rest = chars.as_str();
        Ok(next)
    }

    /// One parameter, up to the comma or bracket after it.
    fn parameter(&mut self, lists_allowed: bool) -> Result<String, BadKey> {
        self.rest = self.rest.trim_start_matches(' ');
        let text = if self.rest.starts_with('"') {
            self.next()?;
            self.quoted()?
        } else if self.rest.starts_with('[') && lists_allowed {
            self.next()?;
            self.list()?
        } else if self.rest.starts_with('[') {
            return Err(BadKey);
        } else {
            let end = self.rest.find([',', ']']).ok_or(BadKey)?;
            let (text, rest) = self.rest.split_at(end);
            self.rest = rest;
            return Ok(text.to_owned());
        };
        self.rest = self.rest.trim_start_matches(' ');
        Ok(text)
    }

    fn quoted(&mut self) -> Result<String, BadKey> {
        let mut text = String::new();
        loop {
            match self.next()? {
                '"' => return Ok(text),
                '\\' if self.rest.starts_with('"') => text.push(self.next()?),
                other => text.push(other),
            }
        }
    }

    /// A list is one parameter: its members between commas.
    fn list(&mut self) -> Result<String, BadKey> {
        let mut members = Vec::new();
        loop {
            members.push(self.parameter(false)?);
            match self.next()? {
                ',' => {}
                ']' => return Ok(members.join(",")),
                _ => return Err(BadKey),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn keys_are_taken_apart() {
        for (text, name, parameters) in [
            ("agent.ping", "agent.ping", &[][..]),
            ("a[]", "a", &[""]),
            ("a[,]", "a", &["", ""]),
            ("vfs.fs.size[/,pused]", "vfs.fs.size", &["/", "pused"]),
            ("a[ b ,c]", "a", &["b ", "c"]),
            (r#"a["b, ]", "c"]"#, "a", &["b, ]", "c"]),
            (r#"a["say \"hi\"\n"]"#, "a", &[r#"say "hi"\n"#]),
            (r#"a["b" ]"#, "a", &["b"]),
            ("a[[b,c],d]", "a", &["b,c", "d"]),
            (r#"a[["b,c", d]]"#, "a", &["b,c,d"]),
            ("a[b[c,d]", "a", &["b[c", "d"]),
            (
                "net.if.in[eth0.10,bytes]",
                "net.if.in",
                &["eth0.10", "bytes"],
            ),
        ] {
            let key = Key::parse(text).unwrap_or_else(|_| panic!("{text}"));
            assert_eq!(key.name, name);
            assert_eq!(key.parameters, parameters, "{text}");
        }
    }

    #[test]
    fn what_is_no_key_is_refused() {
        for text in [
            "",
            "[a]",
            "a b",
            "a[",
            "a]",
            "a[b",
            "a[b]c",
            "a[b],",
            r#"a["b]"#,
            r#"a["b"c]"#,
            "a[[b]",
            "a[[[b]]]",
            "a[[b]c]",
            "ä",
            "a{b}",
        ] {
            assert_eq!(Key::parse(text), Err(BadKey), "{text}");
        }
        assert_eq!(Key::parse(&"a".repeat(3000)), Err(BadKey));
    }

    proptest! {
        #[test]
        fn any_text_is_a_key_or_none(text in ".{0,80}") {
            let _ = Key::parse(&text);
        }

        #[test]
        fn quoting_carries_any_parameter(parameter in "[^\u{0}]{0,40}") {
            // A backslash before a quote is the one thing the grammar cannot say.
            prop_assume!(!parameter.contains("\\\"") && !parameter.ends_with('\\'));
            let text = format!("k[\"{}\"]", parameter.replace('"', "\\\""));
            let key = Key::parse(&text).unwrap();
            prop_assert_eq!(&key.parameters[0], &parameter);
        }
    }
}
