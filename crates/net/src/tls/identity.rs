//! The server's certificate: generated on first start, read afterwards, named by its fingerprint.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use rcgen::{CertificateParams, DnType, KeyPair};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use sha2::{Digest as _, Sha256};

/// File name of the certificate in the folder of an identity.
pub const CERTIFICATE_FILE: &str = "server.crt";
/// File name of the key.
pub const KEY_FILE: &str = "server.key";

/// A certificate chain and its key.
#[derive(Debug)]
pub struct Identity {
    /// The server's certificate, then those that lead to its root.
    pub chain: Vec<CertificateDer<'static>>,
    /// The key of the first certificate.
    pub key: PrivateKeyDer<'static>,
    /// Of the first certificate; what `--pin` takes.
    pub fingerprint: Fingerprint,
}

/// Why there is no identity.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// A file holds no certificate.
    #[error("{} holds no certificate", .0.display())]
    Empty(PathBuf),
    /// A certificate could not be made.
    #[error("making a self-signed certificate failed")]
    Generate(#[source] rcgen::Error),
    /// A file could not be read or written.
    #[error("{}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file is no PEM.
    #[error("{} is not PEM", path.display())]
    Pem {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: rustls_pki_types::pem::Error,
    },
}

impl Identity {
    /// Reads the identity in `folder`, or makes a self-signed one for `names` (DNS names and
    /// addresses) there. The folder gets mode 0700, the key 0600.
    ///
    /// # Errors
    /// When one half is missing, unreadable or garbled, or nothing can be written.
    pub fn load_or_generate(folder: &Path, names: &[String]) -> Result<Self, IdentityError> {
        let (certificate, key) = (folder.join(CERTIFICATE_FILE), folder.join(KEY_FILE));
        if !certificate.exists() && !key.exists() {
            generate(folder, names)?;
        }
        Self::load(&certificate, &key)
    }

    /// Reads an identity from two PEM files.
    ///
    /// # Errors
    /// When one is missing, unreadable or garbled.
    pub fn load(certificate: &Path, key: &Path) -> Result<Self, IdentityError> {
        let chain = certificates(certificate)?;
        let Some(first) = chain.first() else {
            return Err(IdentityError::Empty(certificate.to_owned()));
        };
        let fingerprint = Fingerprint::of(first);
        let text = read(key)?;
        let parsed = PrivateKeyDer::from_pem_slice(&text).map_err(|source| IdentityError::Pem {
            path: key.to_owned(),
            source,
        })?;
        Ok(Self {
            chain,
            key: parsed,
            fingerprint,
        })
    }
}

/// Reads the certificates of a PEM file, at least one.
///
/// # Errors
/// When it is unreadable, garbled or empty.
pub fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, IdentityError> {
    let text = read(path)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    let found = found.map_err(|source| IdentityError::Pem {
        path: path.to_owned(),
        source,
    })?;
    if found.is_empty() {
        return Err(IdentityError::Empty(path.to_owned()));
    }
    Ok(found)
}

fn read(path: &Path) -> Result<Vec<u8>, IdentityError> {
    fs::read(path).map_err(|source| IdentityError::Io {
        path: path.to_owned(),
        source,
    })
}

fn generate(folder: &Path, names: &[String]) -> Result<(), IdentityError> {
    let key = KeyPair::generate().map_err(IdentityError::Generate)?;
    let mut params = CertificateParams::new(names).map_err(IdentityError::Generate)?;
    let common_name = names.first().map_or("muster", String::as_str);
    params
        .distinguished_name
        .push(DnType::CommonName, common_name);
    params.not_before = rcgen::date_time_ymd(2020, 1, 1);
    params.not_after = rcgen::date_time_ymd(2099, 12, 31);
    let certificate = params.self_signed(&key).map_err(IdentityError::Generate)?;
    let io = |path: &Path| {
        let path = path.to_owned();
        move |source| IdentityError::Io { path, source }
    };
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .map_err(io(folder))?;
    // The key first: a certificate without its key would be taken for an operator's mistake.
    write(folder, KEY_FILE, key.serialize_pem().as_bytes(), 0o600).map_err(io(folder))?;
    write(
        folder,
        CERTIFICATE_FILE,
        certificate.pem().as_bytes(),
        0o644,
    )
    .map_err(io(folder))
}

/// Writes a whole file or none: a name of its own, to the disk, then the wanted name.
fn write(folder: &Path, name: &str, bytes: &[u8], mode: u32) -> io::Result<()> {
    let temporary = folder.join(format!(".{name}.new"));
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(mode)
        .open(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&temporary, folder.join(name))?;
    File::open(folder)?.sync_all()
}

/// SHA-256 of a certificate.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Fingerprint([u8; 32]);

impl Fingerprint {
    /// The fingerprint of `certificate`.
    pub fn of(certificate: &CertificateDer<'_>) -> Self {
        Self(Sha256::digest(certificate).into())
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Fingerprint({self})")
    }
}

/// A text that is no fingerprint.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no SHA-256 in hex (64 digits, colons allowed)")]
pub struct BadFingerprint(String);

impl FromStr for Fingerprint {
    type Err = BadFingerprint;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let digits: Vec<u32> = text
            .chars()
            .filter(|&c| c != ':')
            .map(|c| c.to_digit(16))
            .collect::<Option<_>>()
            .ok_or_else(|| BadFingerprint(text.to_owned()))?;
        let bytes: Vec<u8> = digits
            .chunks(2)
            .map(|pair| pair.iter().fold(0, |byte, digit| byte * 16 + digit))
            .filter_map(|byte| u8::try_from(byte).ok())
            .collect();
        if digits.len() != 64 {
            return Err(BadFingerprint(text.to_owned()));
        }
        bytes
            .try_into()
            .map(Self)
            .map_err(|_| BadFingerprint(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o7777
    }

    #[test]
    fn an_identity_is_made_once_and_kept() {
        let state = tempfile::tempdir().unwrap();
        let folder = state.path().join("tls");
        let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
        let made = Identity::load_or_generate(&folder, &names).unwrap();
        let read = Identity::load_or_generate(&folder, &names).unwrap();
        assert_eq!(made.fingerprint, read.fingerprint);
        assert_eq!(mode(&folder), 0o700);
        assert_eq!(mode(&folder.join(KEY_FILE)), 0o600);
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 2);
    }

    #[test]
    fn half_an_identity_is_an_error() {
        let state = tempfile::tempdir().unwrap();
        Identity::load_or_generate(state.path(), &["localhost".to_owned()]).unwrap();
        fs::remove_file(state.path().join(KEY_FILE)).unwrap();
        let error = Identity::load_or_generate(state.path(), &[]).unwrap_err();
        assert!(matches!(error, IdentityError::Io { .. }), "{error:?}");
        fs::write(state.path().join(CERTIFICATE_FILE), "no PEM").unwrap();
        let error = Identity::load_or_generate(state.path(), &[]).unwrap_err();
        assert!(matches!(error, IdentityError::Empty(_)), "{error:?}");
    }

    #[test]
    fn fingerprints_read_back() {
        let fingerprint = Fingerprint::of(&CertificateDer::from(vec![1, 2, 3]));
        let text = fingerprint.to_string();
        assert_eq!(
            text,
            "039058c6f2c0cb492c533b0a4d14ef77cc0f78abccced5287d84a1a2011cfb81"
        );
        assert_eq!(text.parse(), Ok(fingerprint));
        let colons: Vec<_> = text
            .as_bytes()
            .chunks(2)
            .map(String::from_utf8_lossy)
            .collect();
        assert_eq!(colons.join(":").to_uppercase().parse(), Ok(fingerprint));
        for bad in [
            "",
            "00",
            "xx",
            &text[1..],
            &format!("{text}0"),
            &text.replace('0', "é"),
        ] {
            assert!(bad.parse::<Fingerprint>().is_err(), "{bad}");
        }
    }
}
