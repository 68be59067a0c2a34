//! Secrets at rest: sealed with a key that lives outside the database.
//!
//! A sealed text is a version byte, the id of the key, a nonce and AES-256-GCM output. The key id lets
//! a new key seal while an old one still opens.

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use aes_gcm::aead::{Aead as _, KeyInit as _};
use aes_gcm::{Aes256Gcm, Key, Nonce};
use rand_core::Rng;
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

const VERSION: u8 = 1;
const KEY_BYTES: usize = 32;
const ID_BYTES: usize = 4;
const NONCE_BYTES: usize = 12;
const HEAD_BYTES: usize = 1 + ID_BYTES + NONCE_BYTES;

/// Why a secret could not be sealed or opened, or its key not be had.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    /// The sealed text was altered, or is none.
    #[error("the sealed text does not open: it was altered, or is none")]
    Altered,
    /// The key file is not one.
    #[error("{path} holds no key: expected {KEY_BYTES} bytes, readable by its owner only")]
    BadKeyFile {
        /// The file.
        path: PathBuf,
    },
    /// The key file could not be read or made.
    #[error("the key file {path} could not be read or made")]
    KeyFile {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It was sealed with another key.
    #[error("it was sealed with another key than the one at hand")]
    OtherKey,
    /// The cipher refused.
    #[error("the text could not be sealed")]
    Refused,
}

/// Seals and opens secrets with one key; clones share it.
#[derive(Clone)]
pub struct Sealer {
    inner: Arc<Inner>,
}

struct Inner {
    cipher: Aes256Gcm,
    id: [u8; ID_BYTES],
}

impl Sealer {
    /// A sealer with this key.
    #[must_use]
    pub fn new(key: &[u8; KEY_BYTES]) -> Self {
        let digest = Sha256::digest(key);
        let mut id = [0; ID_BYTES];
        for (to, from) in id.iter_mut().zip(digest.iter()) {
            *to = *from;
        }
        let cipher = Aes256Gcm::new(&Key::<Aes256Gcm>::from(*key));
        Self {
            inner: Arc::new(Inner { cipher, id }),
        }
    }

    /// A sealer with a new key that is kept nowhere, for tests and simulations.
    #[must_use]
    pub fn ephemeral(rng: &mut impl Rng) -> Self {
        let mut key = Zeroizing::new([0; KEY_BYTES]);
        rng.fill_bytes(&mut *key);
        Self::new(&key)
    }

    /// Reads the key file, or makes it with mode 0600 if there is none: whole or not at all, so that a kill
    /// halfway leaves no half key. Another process that makes it at the same time wins.
    ///
    /// # Errors
    /// [`SealError`] names the file; one that others may read is none.
    pub fn from_file(path: &Path, rng: &mut impl Rng) -> Result<Self, SealError> {
        let failed = |source| SealError::KeyFile {
            path: path.to_owned(),
            source,
        };
        let file = match fs::File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                make_key(path, rng).map_err(failed)?;
                fs::File::open(path).map_err(failed)?
            }
            Err(error) => return Err(failed(error)),
        };
        let bad = || SealError::BadKeyFile {
            path: path.to_owned(),
        };
        if file.metadata().map_err(failed)?.mode() & 0o077 != 0 {
            return Err(bad());
        }
        let mut read = Zeroizing::new(Vec::with_capacity(KEY_BYTES + 1));
        file.take(KEY_BYTES as u64 + 1)
            .read_to_end(&mut read)
            .map_err(failed)?;
        let key: &[u8; KEY_BYTES] = read.as_slice().try_into().map_err(|_| bad())?;
        Ok(Self::new(key))
    }

    /// Seals a text.
    ///
    /// # Errors
    /// [`SealError::Refused`] for a text larger than the cipher takes.
    pub fn seal(&self, plain: &[u8], rng: &mut impl Rng) -> Result<Vec<u8>, SealError> {
        let mut nonce = [0; NONCE_BYTES];
        rng.fill_bytes(&mut nonce);
        let body = self
            .inner
            .cipher
            .encrypt(&Nonce::from(nonce), plain)
            .map_err(|_| SealError::Refused)?;
        let mut sealed = Vec::with_capacity(HEAD_BYTES.saturating_add(body.len()));
        sealed.push(VERSION);
        sealed.extend_from_slice(&self.inner.id);
        sealed.extend_from_slice(&nonce);
        sealed.extend_from_slice(&body);
        Ok(sealed)
    }

    /// Opens what [`Sealer::seal`] made; the plain text is wiped when it is dropped.
    ///
    /// # Errors
    /// [`SealError::OtherKey`] and [`SealError::Altered`].
    pub fn open(&self, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, SealError> {
        let (head, body) = sealed
            .split_at_checked(HEAD_BYTES)
            .ok_or(SealError::Altered)?;
        let (version, rest) = head.split_first().ok_or(SealError::Altered)?;
        let (id, nonce) = rest.split_at_checked(ID_BYTES).ok_or(SealError::Altered)?;
        if *version != VERSION {
            return Err(SealError::Altered);
        }
        if id != self.inner.id {
            return Err(SealError::OtherKey);
        }
        let nonce: [u8; NONCE_BYTES] = nonce.try_into().map_err(|_| SealError::Altered)?;
        let plain = self
            .inner
            .cipher
            .decrypt(&Nonce::from(nonce), body)
            .map_err(|_| SealError::Altered)?;
        Ok(Zeroizing::new(plain))
    }
}

/// Writes a new key beside its place, durably, and links it there unless another is there already.
fn make_key(path: &Path, rng: &mut impl Rng) -> io::Result<()> {
    let mut key = Zeroizing::new([0; KEY_BYTES]);
    rng.fill_bytes(&mut *key);
    let draft = path.with_extension(format!("draft-{}", std::process::id()));
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&draft)?;
    file.write_all(&*key)?;
    file.sync_all()?;
    let linked = fs::hard_link(&draft, path);
    fs::remove_file(&draft)?;
    match linked {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        Ok(()) | Err(_) => {}
    }
    match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => fs::File::open(dir)?.sync_all(),
        Some(_) | None => Ok(()),
    }
}

#[cfg(test)]
mod tests {

    use super::*;
    use rand_chacha::ChaCha8Rng;
    use rand_core::SeedableRng as _;

    #[test]
    fn what_is_sealed_opens_and_shows_nothing() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let sealer = Sealer::ephemeral(&mut rng);
        let sealed = sealer.seal(b"s3cret", &mut rng).unwrap();
        assert!(!sealed.windows(6).any(|window| window == b"s3cret"));
        assert_eq!(sealer.open(&sealed).unwrap().as_slice(), b"s3cret");
        assert_ne!(
            sealer.seal(b"s3cret", &mut rng).unwrap(),
            sealed,
            "a nonce is used once"
        );
        assert!(matches!(
            Sealer::ephemeral(&mut rng).open(&sealed),
            Err(SealError::OtherKey)
        ));
        for n in 0..sealed.len() {
            let mut bent = sealed.clone();
            bent[n] ^= 1;
            assert!(sealer.open(&bent).is_err(), "byte {n}");
            assert!(sealer.open(&sealed[..n]).is_err(), "cut at {n}");
        }
    }

    #[test]
    fn the_key_file_is_made_once_and_read_again() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let sealed = Sealer::from_file(&path, &mut rng)
            .unwrap()
            .seal(b"x", &mut rng)
            .unwrap();
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        assert_eq!(
            Sealer::from_file(&path, &mut rng)
                .unwrap()
                .open(&sealed)
                .unwrap()
                .as_slice(),
            b"x"
        );
        fs::write(&path, b"short").unwrap();
        assert!(matches!(
            Sealer::from_file(&path, &mut rng),
            Err(SealError::BadKeyFile { .. })
        ));
        fs::write(&path, [7; KEY_BYTES]).unwrap();
        assert!(Sealer::from_file(&path, &mut rng).is_ok());
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        assert!(matches!(
            Sealer::from_file(&path, &mut rng),
            Err(SealError::BadKeyFile { .. })
        ));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        let nowhere = dir.path().join("no/key");
        assert!(matches!(
            Sealer::from_file(&nowhere, &mut rng),
            Err(SealError::KeyFile { .. })
        ));
    }
}
