//! Who this agent is, kept in its state folder (`STATE/agent`).
//!
//! The id is minted at the very first start and is the same on every wire. That start also writes
//! the default policy, before the identity: a start that is cut off in between is a first start
//! again. The enrolment key that let the agent in stays its token (threat model, section 2); it is
//! kept beside the identity with mode 0600. One process at a time holds the folder.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use muster_core::AgentId;
use muster_core::credential::Secret;
use rand_core::Rng;
use serde::{Deserialize, Serialize};

use crate::policy::{PolicyError, PolicySource};

/// Longest key file that is read, in bytes.
const KEY_BYTES_MAX: u64 = 4096;
/// Longest name (threat model, section 4).
const NAME_CHARS_MAX: usize = 128;

/// An agent's identity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Its id on every wire.
    pub id: AgentId,
    /// The name people know it by.
    pub name: String,
}

/// The state folder of an agent, held by this process until it is dropped.
#[derive(Debug)]
pub struct StateFolder {
    path: PathBuf,
    _lock: File,
}

/// Why an agent has no identity.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// A file could not be read or written.
    #[error("cannot {doing} {path}", path = path.display())]
    File {
        /// What was being done.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Another process works with this folder.
    #[error("another agent runs with the state folder {path}", path = path.display())]
    Held {
        /// The folder.
        path: PathBuf,
    },
    /// The identity file is none.
    #[error("{path} does not hold an identity", path = path.display())]
    Garbled {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The name cannot be one.
    #[error("{name:?} cannot be an agent's name: 1 to {NAME_CHARS_MAX} printable characters")]
    Name {
        /// The name, cut.
        name: String,
    },
    /// The key cannot be one.
    #[error("the enrolment key is empty or has blanks in it")]
    Key,
    /// The default policy could not be written.
    #[error("the first start could not write its policy")]
    Policy(#[source] PolicyError),
}

#[derive(Debug, Deserialize, Serialize)]
struct Stored {
    id: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    name: Option<String>,
}

impl StateFolder {
    /// Makes the folder where there is none, mode 0700, and takes hold of it. Blocks on the file
    /// system.
    ///
    /// # Errors
    /// [`IdentityError::Held`] when another process has it.
    pub fn open(path: &Path) -> Result<Self, IdentityError> {
        let failed = |doing, path: &Path| {
            let path = path.to_owned();
            move |source| IdentityError::File {
                doing,
                path,
                source,
            }
        };
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .map_err(failed("make the folder", path))?;
        let lock_path = path.join("lock");
        let lock = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&lock_path)
            .map_err(failed("open", &lock_path))?;
        match lock.try_lock() {
            Ok(()) => Ok(Self {
                path: path.to_owned(),
                _lock: lock,
            }),
            Err(std::fs::TryLockError::WouldBlock) => Err(IdentityError::Held {
                path: path.to_owned(),
            }),
            Err(std::fs::TryLockError::Error(source)) => Err(failed("lock", &lock_path)(source)),
        }
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The identity that is kept here; a new one, and the default policy, at the very first start.
    ///
    /// `name` is the name the operator gave, else the one that was given before, else `hostname`.
    /// Blocks on the file system.
    ///
    /// # Errors
    /// [`IdentityError`]; an identity that cannot be read is never replaced by another.
    pub fn identity(
        &self,
        name: Option<&str>,
        hostname: Option<&str>,
        policy: &PolicySource,
        rng: &mut impl Rng,
    ) -> Result<Identity, IdentityError> {
        let path = self.path.join("identity.json");
        let (id, kept_name, is_new) = match read_small(&path)? {
            Some(text) => {
                let garbled = |source| IdentityError::Garbled {
                    path: path.clone(),
                    source,
                };
                let stored: Stored =
                    serde_json::from_str(&text).map_err(|error| garbled(error.into()))?;
                let id = stored
                    .id
                    .parse()
                    .map_err(|error: muster_core::id::BadId| garbled(error.into()))?;
                (id, stored.name, false)
            }
            None => {
                policy.write_defaults().map_err(IdentityError::Policy)?;
                (AgentId::mint(rng), None, true)
            }
        };
        let given = name.map(check_name).transpose()?.map(ToOwned::to_owned);
        if is_new || (given.is_some() && given != kept_name) {
            let stored = Stored {
                id: id.to_string(),
                name: given.clone().or(kept_name.clone()),
            };
            let text = serde_json::to_string(&stored).map_err(|error| IdentityError::Garbled {
                path: path.clone(),
                source: error.into(),
            })?;
            self.write_durably(&path, text.as_bytes())?;
        }
        let host = hostname
            .filter(|host| check_name(host).is_ok())
            .map(ToOwned::to_owned);
        let name = given.or(kept_name).or(host).unwrap_or_else(|| {
            let text = id.to_string();
            format!("agent-{}", text.get(..8).unwrap_or(&text))
        });
        Ok(Identity { id, name })
    }

    /// The token: the key given now, which is kept, else the one kept before. Blocks on the file
    /// system.
    ///
    /// # Errors
    /// [`IdentityError`].
    pub fn token(&self, given: Option<&Secret>) -> Result<Option<Secret>, IdentityError> {
        let path = self.path.join("token");
        match given {
            Some(key) => {
                self.write_durably(&path, key.expose().as_bytes())?;
                Ok(Some(key.clone()))
            }
            None => Ok(read_small(&path)?.and_then(|text| {
                let text = text.trim();
                (!text.is_empty()).then(|| Secret::new(text))
            })),
        }
    }

    fn write_durably(&self, path: &Path, bytes: &[u8]) -> Result<(), IdentityError> {
        let write = || -> io::Result<()> {
            let fresh = path.with_extension("new");
            let mut file = OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(true)
                .mode(0o600)
                .open(&fresh)?;
            file.write_all(bytes)?;
            file.sync_all()?;
            std::fs::rename(&fresh, path)?;
            File::open(&self.path)?.sync_all()
        };
        write().map_err(|source| IdentityError::File {
            doing: "write",
            path: path.to_owned(),
            source,
        })
    }
}

/// Reads the value of `--enrol-key`: the key itself, or `@FILE`. Blocks on the file.
///
/// # Errors
/// [`IdentityError`] when the file cannot be read or holds no key.
pub fn enrol_key(argument: &str) -> Result<Secret, IdentityError> {
    let text = match argument.strip_prefix('@') {
        None => argument.to_owned(),
        Some(file) => {
            let path = Path::new(file);
            read_small(path)?.ok_or_else(|| IdentityError::File {
                doing: "read",
                path: path.to_owned(),
                source: io::ErrorKind::NotFound.into(),
            })?
        }
    };
    let key = text.trim();
    if key.is_empty() || key.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return Err(IdentityError::Key);
    }
    Ok(Secret::new(key))
}

fn check_name(name: &str) -> Result<&str, IdentityError> {
    let is_good = (1..=NAME_CHARS_MAX).contains(&name.chars().count())
        && name.trim() == name
        && name.chars().all(|c| c.is_ascii_graphic() || c == ' ')
        && !name.contains(['/', '\\', '<', '>', '&', '"', '\'']);
    if is_good {
        return Ok(name);
    }
    Err(IdentityError::Name {
        name: name.chars().take(64).collect(),
    })
}

/// The text of a small file; `None` when there is none.
fn read_small(path: &Path) -> Result<Option<String>, IdentityError> {
    let read = || -> io::Result<String> {
        let mut text = String::new();
        File::open(path)?
            .take(KEY_BYTES_MAX)
            .read_to_string(&mut text)?;
        Ok(text)
    };
    match read() {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(IdentityError::File {
            doing: "read",
            path: path.to_owned(),
            source,
        }),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use std::os::unix::fs::MetadataExt;

    fn rng(seed: u64) -> impl Rng {
        muster_net::clock::Entropy::seeded(seed).rng()
    }

    fn mode(path: &Path) -> u32 {
        std::fs::metadata(path).unwrap().mode() & 0o777
    }

    #[test]
    fn the_first_start_makes_identity_and_policy_and_later_ones_keep_them() {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("state/agent");
        let policy = PolicySource::new(dir.path().join("none"), &state);
        let first = {
            let folder = StateFolder::open(&state).unwrap();
            folder
                .identity(None, Some("node-1"), &policy, &mut rng(1))
                .unwrap()
        };
        assert_eq!(first.name, "node-1");
        assert_eq!(
            (mode(&state), mode(&state.join("identity.json"))),
            (0o700, 0o600)
        );
        assert!(state.join("policy.toml").exists());

        std::fs::remove_file(state.join("policy.toml")).unwrap();
        let folder = StateFolder::open(&state).unwrap();
        let again = folder
            .identity(None, Some("node-2"), &policy, &mut rng(2))
            .unwrap();
        assert_eq!(again.id, first.id);
        assert_eq!(
            again.name, "node-2",
            "without a given name it follows the host's"
        );
        assert!(
            !state.join("policy.toml").exists(),
            "a policy that went missing denies all"
        );

        let named = folder
            .identity(Some("lab 7"), Some("node-2"), &policy, &mut rng(3))
            .unwrap();
        let later = folder
            .identity(None, Some("node-3"), &policy, &mut rng(4))
            .unwrap();
        assert_eq!(
            (named.name.as_str(), later.name.as_str()),
            ("lab 7", "lab 7")
        );
        assert_eq!(later.id, first.id);
    }

    #[test]
    fn one_process_at_a_time_holds_the_folder() {
        let dir = tempfile::tempdir().unwrap();
        let held = StateFolder::open(dir.path()).unwrap();
        assert!(matches!(
            StateFolder::open(dir.path()),
            Err(IdentityError::Held { .. })
        ));
        drop(held);
        StateFolder::open(dir.path()).unwrap();
    }

    #[test]
    fn a_garbled_identity_is_an_error_and_stays() {
        let dir = tempfile::tempdir().unwrap();
        let folder = StateFolder::open(dir.path()).unwrap();
        let policy = PolicySource::new(dir.path().join("none"), dir.path());
        for text in ["", "{", r#"{"id":"not-a-uuid"}"#, "null"] {
            std::fs::write(dir.path().join("identity.json"), text).unwrap();
            let error = folder
                .identity(None, None, &policy, &mut rng(1))
                .unwrap_err();
            assert!(
                matches!(error, IdentityError::Garbled { .. }),
                "{text}: {error}"
            );
            assert_eq!(
                std::fs::read_to_string(dir.path().join("identity.json")).unwrap(),
                text
            );
        }
    }

    #[test]
    fn names_are_checked() {
        let dir = tempfile::tempdir().unwrap();
        let folder = StateFolder::open(dir.path()).unwrap();
        let policy = PolicySource::new(dir.path().join("none"), dir.path());
        for bad in ["", " a", "a/b", "a\nb", "<b>", "é", &"x".repeat(129)] {
            let error = folder
                .identity(Some(bad), None, &policy, &mut rng(1))
                .unwrap_err();
            assert!(matches!(error, IdentityError::Name { .. }), "{bad}");
        }
        let unnamed = folder
            .identity(None, Some("a\nb"), &policy, &mut rng(1))
            .unwrap();
        assert!(unnamed.name.starts_with("agent-"), "{unnamed:?}");
    }

    #[test]
    fn keys_come_as_text_or_file_and_stay_as_token() {
        let dir = tempfile::tempdir().unwrap();
        let folder = StateFolder::open(dir.path()).unwrap();
        assert_eq!(folder.token(None).unwrap(), None);
        let file = dir.path().join("key");
        std::fs::write(&file, "mk_abc123\n").unwrap();
        let key = enrol_key(&format!("@{}", file.display())).unwrap();
        assert_eq!(key.expose(), "mk_abc123");
        folder.token(Some(&key)).unwrap();
        assert_eq!(mode(&dir.path().join("token")), 0o600);
        assert_eq!(folder.token(None).unwrap().unwrap().expose(), "mk_abc123");
        let other = enrol_key("mk_other").unwrap();
        assert_eq!(
            folder.token(Some(&other)).unwrap().unwrap().expose(),
            "mk_other"
        );
        assert_eq!(folder.token(None).unwrap().unwrap().expose(), "mk_other");
        for bad in ["", "  ", "a b", "@/nonexistent/key"] {
            assert!(enrol_key(bad).is_err(), "{bad}");
        }
        assert!(!format!("{key:?}").contains("mk_abc123"));
    }
}
