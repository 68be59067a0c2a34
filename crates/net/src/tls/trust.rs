//! Whom a client trusts: the system's authorities, given ones, or one certificate by fingerprint.

use std::sync::{Arc, OnceLock};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use rustls_platform_verifier::BuilderVerifierExt as _;

use super::identity::Fingerprint;

/// Whom a client takes for the server.
#[derive(Clone, Debug)]
pub enum Trust {
    /// A certificate for the name that was dialled, signed by one of these.
    Authorities(Vec<CertificateDer<'static>>),
    /// Any certificate; which one it was is put down, for the caller to judge before it says
    /// anything that matters.
    Noted(Arc<OnceLock<Fingerprint>>),
    /// This one certificate, whatever it names.
    Pinned(Fingerprint),
    /// A certificate for the name that was dialled, signed by an authority of the system.
    System,
}

/// Why a TLS configuration could not be made.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    /// A certificate of an authority cannot be used.
    #[error("a certificate of the authorities cannot be used")]
    Authority(#[source] rustls::Error),
    /// The verifier of client certificates could not be made.
    #[error("client certificates cannot be verified")]
    ClientVerifier(#[source] rustls::server::VerifierBuilderError),
    /// OpenSSL refused the configuration.
    #[cfg(feature = "psk")]
    #[error("OpenSSL refused the configuration")]
    OpenSsl(#[source] openssl::error::ErrorStack),
    /// rustls refused the configuration.
    #[error("the TLS configuration was refused")]
    Rustls(#[source] rustls::Error),
}

impl Trust {
    /// The client configuration that enforces it.
    ///
    /// # Errors
    /// When a certificate cannot be used, or the system's cannot be read.
    pub fn client_config(&self) -> Result<ClientConfig, TrustError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(TrustError::Rustls)?;
        let config = match self {
            Self::Authorities(certificates) => builder
                .with_root_certificates(roots(certificates)?)
                .with_no_client_auth(),
            Self::Noted(seen) => builder
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(Pin {
                    expected: Expected::Noted(Arc::clone(seen)),
                    provider,
                }))
                .with_no_client_auth(),
            Self::Pinned(fingerprint) => builder
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(Pin {
                    expected: Expected::One(*fingerprint),
                    provider,
                }))
                .with_no_client_auth(),
            Self::System => builder
                .with_platform_verifier()
                .map_err(TrustError::Rustls)?
                .with_no_client_auth(),
        };
        Ok(config)
    }
}

/// A store of `certificates`.
pub(super) fn roots(certificates: &[CertificateDer<'static>]) -> Result<RootCertStore, TrustError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates {
        roots
            .add(certificate.clone())
            .map_err(TrustError::Authority)?;
    }
    Ok(roots)
}

/// Takes one certificate and no other, or any and tells which. The signature of the handshake is
/// verified all the same: who shows the certificate must hold its key.
#[derive(Debug)]
struct Pin {
    expected: Expected,
    provider: Arc<CryptoProvider>,
}

#[derive(Debug)]
enum Expected {
    Noted(Arc<OnceLock<Fingerprint>>),
    One(Fingerprint),
}

impl ServerCertVerifier for Pin {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let found = Fingerprint::of(end_entity);
        let expected = match &self.expected {
            Expected::Noted(seen) => seen.get_or_init(|| found),
            Expected::One(fingerprint) => fingerprint,
        };
        if found == *expected {
            Ok(ServerCertVerified::assertion())
        } else {
            Err(rustls::Error::General(format!(
                "the server's certificate is {found}, not the pinned {expected}"
            )))
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}
