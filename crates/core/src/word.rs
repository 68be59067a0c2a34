//! Enums that are words: in JSON, in the database, on the command line.

/// A word that is none of those a type knows.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{found:?} is not a {what}; expected one of {expected}")]
pub struct UnknownWord {
    /// What kind of word was expected.
    pub what: &'static str,
    /// What was found, cut to 64 characters.
    pub found: String,
    /// The words that would have done, comma separated.
    pub expected: String,
}

impl UnknownWord {
    /// Builds the error for `found` among `expected`.
    pub fn new(what: &'static str, found: &str, expected: &[&str]) -> Self {
        Self {
            what,
            found: found.chars().take(64).collect(),
            expected: expected.join(", "),
        }
    }
}

/// Declares an enum whose variants are words: `ALL` of them in the order they stand in, `word()`, `Display`,
/// and `FromStr` with [`UnknownWord`], which calls the enum by the name in brackets.
#[macro_export]
macro_rules! words {
    (
        $(#[$about:meta])*
        pub enum $name:ident($what:literal) {
            $($(#[$variant_about:meta])* $variant:ident = $word:literal,)+
        }
    ) => {
        $(#[$about])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $name {
            $($(#[$variant_about])* $variant,)+
        }

        impl $name {
            /// All of them.
            pub const ALL: [Self; [$($word),+].len()] = [$(Self::$variant),+];

            /// The word used in JSON, in the database and on the command line.
            pub const fn word(self) -> &'static str {
                match self {
                    $(Self::$variant => $word,)+
                }
            }
        }

        impl ::std::fmt::Display for $name {
            fn fmt(&self, f: &mut ::std::fmt::Formatter<'_>) -> ::std::fmt::Result {
                f.write_str(self.word())
            }
        }

        impl ::std::str::FromStr for $name {
            type Err = $crate::UnknownWord;

            fn from_str(text: &str) -> Result<Self, $crate::UnknownWord> {
                Self::ALL
                    .into_iter()
                    .find(|known| known.word() == text)
                    .ok_or_else(|| {
                        $crate::UnknownWord::new($what, text, &Self::ALL.map(Self::word))
                    })
            }
        }
    };
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{TaskState, Wire};

    #[test]
    fn words_are_read_back_and_others_named() {
        for wire in Wire::ALL {
            assert_eq!(wire.to_string().parse(), Ok(wire));
        }
        let error = "Active".parse::<TaskState>().map_err(|e| e.to_string());
        assert_eq!(
            error.as_ref().map_err(String::as_str),
            Err(r#""Active" is not a task state; expected one of active, cancelled, ended"#)
        );
        let long = UnknownWord::new("wire", &"x".repeat(1000), &[]);
        assert_eq!(long.found.len(), 64);
    }
}
