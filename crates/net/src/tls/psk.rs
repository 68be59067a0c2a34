//! TLS with a key that both sides know, as Zabbix peers use it: the keys, and with the feature `psk`
//! the two ends of the handshake over OpenSSL.
//!
//! The suites are those that OpenSSL and the GnuTLS of Debian's Zabbix have in common (zabbix
//! contract, section 1.6). Under TLS 1.3 OpenSSL ties such a key to SHA-256.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use zeroize::Zeroizing;

/// A key that both sides know. It is shown nowhere, and wiped when dropped.
#[derive(Clone, PartialEq, Eq)]
pub struct PskKey(Zeroizing<Vec<u8>>);

/// A text that is no key. The text is not repeated: it may be a secret all the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PskError {
    /// The identity is too long or empty.
    #[error("a PSK identity has 1 to 128 bytes")]
    Identity,
    /// Shorter or longer than the protocol allows.
    #[error("a PSK has 32 to 512 hexadecimal digits, two for each byte; this one has {0}")]
    Length(usize),
    /// Something else than hexadecimal digits.
    #[error("a PSK is written in hexadecimal digits only")]
    Digits,
    /// The build has no PSK.
    #[error("this build has no PSK: build it with `--features psk`")]
    NotBuilt,
}

impl PskKey {
    /// Reads a key from hexadecimal digits; white space around them is ignored, as in key files.
    ///
    /// # Errors
    /// When it is too short, too long, or no hexadecimal.
    pub fn from_hex(text: &str) -> Result<Self, PskError> {
        let digits = text.trim().as_bytes();
        if !(32..=512).contains(&digits.len()) || !digits.len().is_multiple_of(2) {
            return Err(PskError::Length(digits.len()));
        }
        let mut key = Zeroizing::new(Vec::with_capacity(digits.len() / 2));
        for pair in digits.chunks_exact(2) {
            let mut byte = 0;
            for &digit in pair {
                let value = char::from(digit).to_digit(16).ok_or(PskError::Digits)?;
                byte = byte << 4 | u8::try_from(value).map_err(|_| PskError::Digits)?;
            }
            key.push(byte);
        }
        Ok(Self(key))
    }

    /// The raw key.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for PskKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PskKey(***)")
    }
}

/// The keys that a listener accepts, by identity. Copies share one table, so that keys come and go
/// while it listens.
#[derive(Clone, Debug, Default)]
pub struct PskTable {
    keys: Arc<RwLock<BTreeMap<String, PskKey>>>,
}

impl PskTable {
    /// Accepts `key` from who names `identity`, instead of any key it had.
    ///
    /// # Errors
    /// When the identity is too long or empty.
    pub fn insert(&self, identity: &str, key: PskKey) -> Result<(), PskError> {
        if identity.is_empty() || identity.len() > 128 {
            return Err(PskError::Identity);
        }
        let mut keys = self.keys.write().unwrap_or_else(PoisonError::into_inner);
        keys.insert(identity.to_owned(), key);
        Ok(())
    }

    /// Accepts `identity` no longer.
    pub fn remove(&self, identity: &str) {
        self.keys
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(identity);
    }

    /// The key of `identity`.
    pub fn key(&self, identity: &str) -> Option<PskKey> {
        self.keys
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(identity)
            .cloned()
    }

    /// Whether there is no key at all.
    pub fn is_empty(&self) -> bool {
        self.keys
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .is_empty()
    }
}

#[cfg(feature = "psk")]
pub use over_openssl::{Acceptor, connect};

#[cfg(feature = "psk")]
mod over_openssl {
    use std::pin::Pin;
    use std::sync::{Arc, LazyLock, Mutex, PoisonError};

    use openssl::error::ErrorStack;
    use openssl::ex_data::Index;
    use openssl::pkey::PKey;
    use openssl::ssl::{
        Ssl, SslContext, SslContextBuilder, SslMethod, SslOptions, SslRef, SslSessionCacheMode,
        SslVerifyMode, SslVersion,
    };
    use openssl::x509::X509;
    use openssl::x509::store::X509StoreBuilder;
    use rustls_pki_types::CertificateDer;
    use tokio::net::TcpStream;
    use tokio_openssl::SslStream;

    use super::{PskKey, PskTable};
    use crate::listen::Security;
    use crate::tls::names::client_certificate;
    use crate::tls::trust::TrustError;
    use crate::tls::{BoxStream, HandshakeError, Identity};

    /// PSK suites of TLS 1.2 that Debian's GnuTLS builds have too.
    const SUITES_PSK: &str = "kECDHEPSK+AES128:kPSK+AES128";
    /// Certificate suites of TLS 1.2: forward secrecy and AEAD.
    const SUITES_CERTIFICATE: &str = "ECDHE+AESGCM:ECDHE+CHACHA20";
    /// The suites of TLS 1.3 that go with SHA-256, which a PSK is tied to.
    const SUITES_13: &str = "TLS_CHACHA20_POLY1305_SHA256:TLS_AES_128_GCM_SHA256";

    /// The identity that a peer named during a handshake, whether or not it was known.
    type Named = Arc<Mutex<Option<String>>>;

    /// Where a handshake keeps it.
    static NAMED: LazyLock<Result<Index<Ssl, Named>, ErrorStack>> =
        LazyLock::new(Ssl::new_ex_index);

    /// The accepting end: keys from a table, and a certificate where there is one.
    #[derive(Clone)]
    pub struct Acceptor {
        context: SslContext,
    }

    impl Acceptor {
        /// Accepts the keys in `keys`; with `identity` also peers that want a certificate, and with
        /// `clients` certificates of theirs that one of these signed.
        ///
        /// # Errors
        /// When OpenSSL refuses the certificate or its key.
        pub fn new(
            keys: PskTable,
            identity: Option<&Identity>,
            clients: &[CertificateDer<'static>],
        ) -> Result<Self, TrustError> {
            Self::build(keys, identity, clients).map_err(TrustError::OpenSsl)
        }

        fn build(
            keys: PskTable,
            identity: Option<&Identity>,
            clients: &[CertificateDer<'static>],
        ) -> Result<Self, ErrorStack> {
            let mut builder = context(&format!("{SUITES_PSK}:{SUITES_CERTIFICATE}"))?;
            if let Some(identity) = identity {
                let mut chain = identity.chain.iter();
                if let Some(first) = chain.next() {
                    builder.set_certificate(&*X509::from_der(first)?)?;
                }
                for certificate in chain {
                    builder.add_extra_chain_cert(X509::from_der(certificate)?)?;
                }
                let der = identity.key.secret_der();
                let key = PKey::private_key_from_pkcs8(der)
                    .or_else(|_| PKey::private_key_from_der(der))?;
                builder.set_private_key(&key)?;
                builder.check_private_key()?;
            }
            if clients.is_empty() {
                builder.set_verify(SslVerifyMode::NONE);
            } else {
                let mut store = X509StoreBuilder::new()?;
                for certificate in clients {
                    store.add_cert(X509::from_der(certificate)?)?;
                }
                builder.set_cert_store(store.build());
                builder.set_verify(SslVerifyMode::PEER);
            }
            builder.set_session_id_context(b"muster")?;
            builder.set_psk_server_callback(move |ssl, identity, buffer| {
                Ok(offer(&keys, ssl, identity, buffer))
            });
            Ok(Self {
                context: builder.build(),
            })
        }

        /// Performs the handshake.
        pub(crate) async fn accept(
            &self,
            stream: TcpStream,
        ) -> Result<(BoxStream, Security), HandshakeError> {
            let named = Named::default();
            let broken = |source: ErrorStack| HandshakeError::Failed {
                identity: None,
                source: Box::new(source),
            };
            let mut ssl = Ssl::new(&self.context).map_err(broken)?;
            match &*NAMED {
                Ok(index) => ssl.set_ex_data(*index, Arc::clone(&named)),
                Err(error) => return Err(broken(error.clone())),
            }
            let mut stream = SslStream::new(ssl, stream).map_err(broken)?;
            let outcome = Pin::new(&mut stream).accept().await;
            let identity = named.lock().unwrap_or_else(PoisonError::into_inner).take();
            outcome.map_err(|source| HandshakeError::Failed {
                identity: identity.clone(),
                source: Box::new(source),
            })?;
            let security = if used_key(stream.ssl()) {
                Security::Psk {
                    identity: identity.unwrap_or_default(),
                }
            } else {
                let client = match stream.ssl().peer_certificate() {
                    Some(certificate) => client_certificate(&certificate.to_der().map_err(broken)?),
                    None => None,
                };
                Security::Tls { client }
            };
            Ok((Box::pin(stream), security))
        }
    }

    /// The server's callback: notes the identity and fills in its key. 0 refuses the identity.
    fn offer(
        keys: &PskTable,
        ssl: &mut SslRef,
        identity: Option<&[u8]>,
        buffer: &mut [u8],
    ) -> usize {
        let Some(identity) = identity.and_then(|bytes| std::str::from_utf8(bytes).ok()) else {
            return 0;
        };
        if let Ok(index) = &*NAMED
            && let Some(named) = ssl.ex_data(*index)
        {
            let text = identity.chars().take(128).collect();
            *named.lock().unwrap_or_else(PoisonError::into_inner) = Some(text);
        }
        keys.key(identity)
            .map_or(0, |key| fill(buffer, key.bytes()))
    }

    /// The dialling end with one key: connects, or fails unless the server proves that it has it.
    ///
    /// # Errors
    /// When the handshake fails.
    pub async fn connect(
        stream: TcpStream,
        identity: &str,
        key: &PskKey,
    ) -> Result<BoxStream, Box<dyn std::error::Error + Send + Sync>> {
        let mut builder = context(SUITES_PSK)?;
        builder.set_verify(SslVerifyMode::NONE);
        let (identity, key) = (identity.to_owned(), key.clone());
        builder.set_psk_client_callback(move |_ssl, _hint, name, buffer| {
            let with_nul = [identity.as_bytes(), b"\0"].concat();
            if fill(name, &with_nul) == 0 {
                return Ok(0);
            }
            Ok(fill(buffer, key.bytes()))
        });
        let mut stream = SslStream::new(Ssl::new(&builder.build())?, stream)?;
        Pin::new(&mut stream).connect().await?;
        if !used_key(stream.ssl()) {
            return Err("the server does not know the PSK identity".into());
        }
        Ok(Box::pin(stream))
    }

    /// Whether the handshake rests on a key. Under TLS 1.3 a server that does not know the identity goes
    /// on with a certificate, and who named the identity has proved nothing. A PSK counts as a session
    /// taken up again there; real ones are never handed out (see [`context`]).
    fn used_key(ssl: &SslRef) -> bool {
        match ssl.version2() {
            Some(SslVersion::TLS1_3) => ssl.session_reused(),
            _ => ssl
                .current_cipher()
                .is_some_and(|cipher| cipher.name().contains("PSK")),
        }
    }

    fn context(suites: &str) -> Result<SslContextBuilder, ErrorStack> {
        let mut builder = SslContextBuilder::new(SslMethod::tls())?;
        builder.set_min_proto_version(Some(SslVersion::TLS1_2))?;
        builder.set_cipher_list(suites)?;
        builder.set_ciphersuites(SUITES_13)?;
        builder.set_session_cache_mode(SslSessionCacheMode::OFF);
        builder.set_options(SslOptions::NO_TICKET);
        builder.set_num_tickets(0)?;
        Ok(builder)
    }

    /// Copies `from` to the start of `to`; 0 when it does not fit.
    fn fill(to: &mut [u8], from: &[u8]) -> usize {
        let Some(space) = to.get_mut(..from.len()) else {
            return 0;
        };
        space.copy_from_slice(from);
        from.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_hexadecimal_of_the_right_length() {
        let key = PskKey::from_hex(" 000102030405060708090a0b0c0d0EfF\n").unwrap();
        assert_eq!(
            key.bytes(),
            [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 255]
        );
        assert_eq!(format!("{key:?}"), "PskKey(***)");
        for (text, error) in [
            ("", PskError::Length(0)),
            (&"0".repeat(30), PskError::Length(30)),
            (&"0".repeat(33), PskError::Length(33)),
            (&"0".repeat(514), PskError::Length(514)),
            (&"0g".repeat(16), PskError::Digits),
            (&"é".repeat(16), PskError::Digits),
        ] {
            assert_eq!(PskKey::from_hex(text), Err(error), "{text}");
        }
        assert!(PskKey::from_hex(&"f".repeat(512)).is_ok());
    }

    #[test]
    fn a_table_is_shared_by_its_copies() {
        let table = PskTable::default();
        let copy = table.clone();
        let key = PskKey::from_hex(&"ab".repeat(16)).unwrap();
        table.insert("proxy 1", key.clone()).unwrap();
        assert_eq!(copy.key("proxy 1"), Some(key.clone()));
        assert_eq!(copy.key("proxy 2"), None);
        assert_eq!(table.insert("", key.clone()), Err(PskError::Identity));
        assert_eq!(table.insert(&"x".repeat(129), key), Err(PskError::Identity));
        copy.remove("proxy 1");
        assert!(table.is_empty());
    }
}
