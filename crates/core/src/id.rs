//! Identifiers: one newtype for each kind of thing, all UUIDs minted by the caller.
//!
//! A peer's own ids (`job1.2`, a numeric item id) are kept beside ours and never used as keys.

use std::fmt;
use std::str::FromStr;

use rand_core::Rng;
use uuid::Uuid;

/// A text that should have been an id.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a {what} id (a UUID)")]
pub struct BadId {
    what: &'static str,
    text: String,
}

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident = $what:literal;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Uuid);

        impl $name {
            /// A new random (version 4) id.
            pub fn mint(rng: &mut impl Rng) -> Self {
                let mut bytes = [0; 16];
                rng.fill_bytes(&mut bytes);
                Self(uuid::Builder::from_random_bytes(bytes).into_uuid())
            }

            /// Wraps an id that was minted elsewhere.
            pub const fn from_uuid(uuid: Uuid) -> Self {
                Self(uuid)
            }

            /// The UUID itself.
            pub const fn uuid(self) -> Uuid {
                self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($what, ":{}"), self.0)
            }
        }

        impl FromStr for $name {
            type Err = BadId;

            fn from_str(text: &str) -> Result<Self, BadId> {
                let bad = || BadId { what: $what, text: text.chars().take(64).collect() };
                Uuid::try_parse(text).map(Self).map_err(|_| bad())
            }
        }
    )*};
}

ids! {
    /// A counterpart that does work.
    AgentId = "agent";
    /// A declared set of secrets that tools use towards devices.
    CredentialId = "credential";
    /// A key that lets agents enrol.
    EnrolKeyId = "enrolment key";
    /// A machine.
    HostId = "host";
    /// Something sampled on a host.
    ItemId = "item";
    /// One execution of a task.
    RunId = "run";
    /// An intent to have work done.
    TaskId = "task";
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand_chacha::ChaCha8Rng;
    use rand_core::SeedableRng;

    #[test]
    fn ids_are_version_4_and_read_back() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let id = RunId::mint(&mut rng);
        assert_eq!(id.uuid().get_version_num(), 4);
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_ne!(id, RunId::mint(&mut rng));
    }

    #[test]
    fn the_error_names_the_kind_of_id_and_cuts_the_text() {
        let error = TaskId::from_str(&"x".repeat(500)).expect_err("not a UUID");
        assert!(error.to_string().contains("is not a task id"));
        assert!(error.to_string().len() < 120);
    }
}
