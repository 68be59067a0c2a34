//! The state folder as its owner sees it: made, locked, and the files that others read
//! (surface, section 2).

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use muster_core::credential::Secret;
use muster_server::control::random_secret;
use rand_chacha::ChaCha20Rng;
use rustix::fs::{FlockOperation, flock};
use serde::Serialize;

use crate::cli::error::{CliError, Code};
use crate::cli::state::{ADDRESSES, TOKEN};

/// Holds the lock.
const LOCK: &str = "lock";

/// A state folder in use by this process alone.
#[derive(Debug)]
pub(crate) struct StateFolder {
    path: PathBuf,
    /// Keeps others out as long as it is open.
    _lock: File,
    addresses_written: bool,
}

/// What is written to `addresses.json`.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct Bound {
    /// This process.
    pub(crate) pid: u32,
    /// Plain HTTP.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) http: Option<String>,
    /// HTTPS.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) https: Option<String>,
    /// Plain teeth lines.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) teeth: Option<String>,
    /// teeth over TLS.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) teeths: Option<String>,
    /// Zabbix.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) zabbix: Option<String>,
}

impl StateFolder {
    /// Makes the folder with mode 0700 if it is not there, and locks it.
    ///
    /// # Errors
    /// When it cannot be used, or another process uses it.
    pub(crate) fn open(path: &Path) -> Result<Self, CliError> {
        let wrong = |error: &io::Error| {
            CliError::failed(
                Code::STATE_FOLDER,
                format!("cannot use the state folder {}", path.display()),
            )
            .cause(error)
            .next("name another one with --state or MUSTER_STATE")
        };
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .map_err(|e| wrong(&e))?;
        let mode = fs::metadata(path)
            .map_err(|e| wrong(&e))?
            .permissions()
            .mode();
        if mode & 0o077 != 0 {
            fs::set_permissions(path, Permissions::from_mode(0o700)).map_err(|e| wrong(&e))?;
        }
        let lock = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path.join(LOCK))
            .map_err(|e| wrong(&e))?;
        if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
            let holder = crate::cli::state::addresses(path)
                .ok()
                .map(|addresses| addresses.pid);
            let who = holder.map(|pid| format!("its process id is {pid}"));
            return Err(CliError::failed(
                Code::STATE_IN_USE,
                format!("another process uses the state folder {}", path.display()),
            )
            .line(who.unwrap_or_else(|| "it has not bound its listeners yet".to_owned()))
            .next("end it first, or name another folder with --state"));
        }
        let folder = Self {
            path: path.to_owned(),
            _lock: lock,
            addresses_written: false,
        };
        // Left by a process that was killed.
        let _ = fs::remove_file(folder.path.join(ADDRESSES));
        Ok(folder)
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// A folder inside, for this user only.
    ///
    /// # Errors
    /// When it cannot be made.
    pub(crate) fn subfolder(&self, name: &str) -> Result<PathBuf, CliError> {
        let path = self.path.join(name);
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&path)
            .map_err(|error| {
                CliError::failed(
                    Code::STATE_FOLDER,
                    format!("cannot make {}", path.display()),
                )
                .cause(&error)
            })?;
        Ok(path)
    }

    /// The token of the local administrator, made on first use.
    ///
    /// # Errors
    /// When it can be neither read nor written.
    pub(crate) fn admin_token(&self, rng: &mut ChaCha20Rng) -> Result<Secret, CliError> {
        let path = self.path.join(TOKEN);
        let wrong = |error: io::Error| {
            CliError::failed(Code::FILE, format!("cannot use {}", path.display())).cause(&error)
        };
        let mut text = String::new();
        match File::open(&path).and_then(|mut file| file.read_to_string(&mut text)) {
            Ok(_) if !text.trim().is_empty() => return Ok(Secret::new(text.trim())),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(wrong(error)),
        }
        let token = random_secret("mus_admin_", rng);
        let line = format!("{}\n", token.expose());
        self.write(TOKEN, line.as_bytes(), 0o600).map_err(wrong)?;
        Ok(token)
    }

    /// Says where the listeners are; to be called once all are bound.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(crate) fn write_addresses(&mut self, bound: &Bound) -> Result<(), CliError> {
        let text = serde_json::to_string(bound).unwrap_or_default();
        self.write(ADDRESSES, format!("{text}\n").as_bytes(), 0o600)
            .map_err(|error| {
                CliError::failed(
                    Code::FILE,
                    format!("cannot write {}", self.path.join(ADDRESSES).display()),
                )
                .cause(&error)
            })?;
        self.addresses_written = true;
        Ok(())
    }

    /// Writes a whole file or none.
    fn write(&self, name: &str, bytes: &[u8], mode: u32) -> io::Result<()> {
        let temporary = self.path.join(format!(".{name}.new"));
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(mode)
            .open(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, self.path.join(name))?;
        File::open(&self.path)?.sync_all()
    }
}

impl Drop for StateFolder {
    fn drop(&mut self) {
        if self.addresses_written {
            // Left behind it names a process that is gone, which clients see when they connect.
            let _ = fs::remove_file(self.path.join(ADDRESSES));
        }
    }
}

/// No core dump of this process may hold a secret.
pub(crate) fn forbid_core_dumps() {
    use rustix::process::{Resource, Rlimit, setrlimit};
    let none = Rlimit {
        current: Some(0),
        maximum: Some(0),
    };
    // Lowering a limit is always allowed; where it is not, the system has a policy of its own.
    let _ = setrlimit(Resource::Core, none);
}

#[cfg(test)]
mod tests {
    use muster_net::Entropy;

    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn the_folder_is_private_and_has_one_owner() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("a/b");
        let folder = StateFolder::open(&path).unwrap();
        assert_eq!(mode(&path), 0o700);
        let error = StateFolder::open(&path).unwrap_err();
        assert_eq!(error.code, Code::STATE_IN_USE);
        drop(folder);
        fs::set_permissions(&path, Permissions::from_mode(0o755)).unwrap();
        StateFolder::open(&path).unwrap();
        assert_eq!(mode(&path), 0o700);
    }

    #[test]
    fn a_file_is_no_folder() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("file");
        fs::write(&path, "").unwrap();
        assert_eq!(
            StateFolder::open(&path).unwrap_err().code,
            Code::STATE_FOLDER
        );
    }

    #[test]
    fn the_token_is_made_once_and_kept() {
        let parent = tempfile::tempdir().unwrap();
        let folder = StateFolder::open(parent.path()).unwrap();
        let entropy = Entropy::seeded(1);
        let made = folder.admin_token(&mut entropy.rng()).unwrap();
        let read = folder.admin_token(&mut entropy.rng()).unwrap();
        assert_eq!(made.expose(), read.expose());
        assert_eq!(mode(&parent.path().join(TOKEN)), 0o600);
    }

    #[test]
    fn addresses_are_there_while_the_process_is() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join(ADDRESSES);
        fs::write(&path, "left behind").unwrap();
        let mut folder = StateFolder::open(parent.path()).unwrap();
        assert!(!path.exists(), "what a killed process left is gone");
        let bound = Bound {
            pid: 7,
            http: Some("127.0.0.1:80".to_owned()),
            ..Bound::default()
        };
        folder.write_addresses(&bound).unwrap();
        let read = crate::cli::state::addresses(parent.path()).unwrap();
        assert_eq!((read.pid, read.http.as_deref()), (7, Some("127.0.0.1:80")));
        let text = fs::read_to_string(&path).unwrap();
        assert!(!text.contains("null") && !text.contains("https"), "{text}");
        drop(folder);
        assert!(!path.exists());
    }
}
