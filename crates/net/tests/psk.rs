//! TLS with keys both sides know, both ends ours, over real sockets. Peers of other make are tried
//! where the Zabbix wire is tested.

#![cfg(feature = "psk")]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::Duration;

use muster_net::tls::psk::Acceptor;
use muster_net::tls::{
    HandshakeError, HandshakeLimits, Identity, Inbound, PskKey, PskTable, Trust,
};
use muster_net::{Clock, DialError, Endpoint, Protection, Security, dial};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

fn key(digits: &str) -> PskKey {
    PskKey::from_hex(&digits.repeat(16)).unwrap()
}

fn psk(identity: &str, key: PskKey) -> Protection {
    Protection::Psk {
        identity: identity.to_owned(),
        key,
    }
}

/// Accepts one connection and echoes four bytes.
async fn accept(listener: &TcpListener, inbound: &Inbound) -> Result<Security, HandshakeError> {
    let (stream, _) = listener.accept().await.unwrap();
    let limits = HandshakeLimits {
        first_byte: Duration::from_millis(300),
        handshake: Duration::from_millis(500),
    };
    let (mut stream, security) = inbound.accept(stream, limits, &Clock::system()).await?;
    let mut bytes = [0; 4];
    stream.read_exact(&mut bytes).await.unwrap();
    stream.write_all(&bytes).await.unwrap();
    stream.flush().await.unwrap();
    Ok(security)
}

async fn call(endpoint: &Endpoint, protection: &Protection) -> Result<(), DialError> {
    let timeout = Duration::from_secs(5);
    let mut stream = dial(endpoint, protection, timeout, &Clock::system()).await?;
    stream.write_all(b"ping").await.unwrap();
    stream.flush().await.unwrap();
    let mut bytes = [0; 4];
    stream.read_exact(&mut bytes).await.unwrap();
    assert_eq!(&bytes, b"ping");
    Ok(())
}

struct Port {
    listener: TcpListener,
    endpoint: Endpoint,
    inbound: Inbound,
    identity: Identity,
    keys: PskTable,
}

async fn port() -> Port {
    let folder = tempfile::tempdir().unwrap();
    let identity = Identity::load_or_generate(folder.path(), &["localhost".to_owned()]).unwrap();
    let keys = PskTable::default();
    let acceptor = Acceptor::new(keys.clone(), Some(&identity), &[]).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = Endpoint::from(listener.local_addr().unwrap());
    let inbound = Inbound::FirstByte(Box::new(Inbound::OpenSsl(acceptor)));
    Port {
        listener,
        endpoint,
        inbound,
        identity,
        keys,
    }
}

#[tokio::test]
async fn one_port_serves_keys_certificates_and_plain() {
    let port = port().await;
    // A key that comes after the listener is taken at once.
    port.keys.insert("proxy 1", key("ab")).unwrap();
    let known = psk("proxy 1", key("ab"));
    let (accepted, called) = tokio::join!(
        accept(&port.listener, &port.inbound),
        call(&port.endpoint, &known)
    );
    called.unwrap();
    assert_eq!(
        accepted.unwrap(),
        Security::Psk {
            identity: "proxy 1".to_owned()
        }
    );

    let pinned = Protection::Tls(Trust::Pinned(port.identity.fingerprint));
    let (accepted, called) = tokio::join!(
        accept(&port.listener, &port.inbound),
        call(&port.endpoint, &pinned)
    );
    called.unwrap();
    assert_eq!(accepted.unwrap(), Security::Tls { client: None });

    let (accepted, called) = tokio::join!(
        accept(&port.listener, &port.inbound),
        call(&port.endpoint, &Protection::Plain)
    );
    called.unwrap();
    assert_eq!(accepted.unwrap(), Security::Plain);
}

#[tokio::test]
async fn a_wrong_key_is_refused_and_named() {
    let port = port().await;
    port.keys.insert("proxy 1", key("ab")).unwrap();
    let wrong = psk("proxy 1", key("cd"));
    let (accepted, called) = tokio::join!(
        accept(&port.listener, &port.inbound),
        call(&port.endpoint, &wrong)
    );
    assert!(
        matches!(called, Err(DialError::Handshake { .. })),
        "{called:?}"
    );
    let error = accepted.unwrap_err();
    let HandshakeError::Failed {
        identity: Some(named),
        ..
    } = &error
    else {
        panic!("{error:?}")
    };
    assert_eq!(named, "proxy 1");
    assert!(error.to_string().contains("proxy 1"), "{error}");
}

/// Under TLS 1.3 the handshake goes on with the certificate. Neither end may take that for a key.
#[tokio::test]
async fn an_unknown_identity_proves_nothing() {
    let port = port().await;
    port.keys.insert("proxy 1", key("ab")).unwrap();
    let unknown = psk("proxy 2", key("ab"));
    let accepting = async {
        let (stream, _) = port.listener.accept().await.unwrap();
        let limits = HandshakeLimits::default();
        port.inbound
            .accept(stream, limits, &Clock::system())
            .await
            .map(|(_, security)| security)
    };
    let (accepted, called) = tokio::join!(accepting, call(&port.endpoint, &unknown));
    assert!(
        matches!(called, Err(DialError::Handshake { .. })),
        "{called:?}"
    );
    match accepted {
        Ok(security) => assert_eq!(security, Security::Tls { client: None }),
        Err(error) => assert!(matches!(error, HandshakeError::Failed { .. }), "{error:?}"),
    }
}

#[tokio::test]
async fn without_a_certificate_an_unknown_identity_fails() {
    let keys = PskTable::default();
    let acceptor = Acceptor::new(keys, None, &[]).unwrap();
    let inbound = Inbound::FirstByte(Box::new(Inbound::OpenSsl(acceptor)));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = Endpoint::from(listener.local_addr().unwrap());
    let unknown = psk("proxy 2", key("ab"));
    let (accepted, called) = tokio::join!(accept(&listener, &inbound), call(&endpoint, &unknown));
    assert!(
        matches!(called, Err(DialError::Handshake { .. })),
        "{called:?}"
    );
    let error = accepted.unwrap_err();
    assert!(error.to_string().contains("proxy 2"), "{error}");
}

#[tokio::test]
async fn silence_and_garbage_end_at_the_deadline() {
    let port = port().await;
    let address = port.listener.local_addr().unwrap();
    let silent = TcpStream::connect(address).await.unwrap();
    let error = accept(&port.listener, &port.inbound).await.unwrap_err();
    assert!(matches!(error, HandshakeError::Deadline), "{error:?}");
    drop(silent);

    let mut stalled = TcpStream::connect(address).await.unwrap();
    stalled.write_all(&[0x16, 3, 1]).await.unwrap();
    let error = accept(&port.listener, &port.inbound).await.unwrap_err();
    assert!(matches!(error, HandshakeError::Deadline), "{error:?}");

    let mut garbage = TcpStream::connect(address).await.unwrap();
    garbage.write_all(&[0x16; 200]).await.unwrap();
    let error = accept(&port.listener, &port.inbound).await.unwrap_err();
    assert!(
        matches!(error, HandshakeError::Failed { identity: None, .. }),
        "{error:?}"
    );

    drop(TcpStream::connect(address).await.unwrap());
    let error = accept(&port.listener, &port.inbound).await.unwrap_err();
    assert!(matches!(error, HandshakeError::Gone(_)), "{error:?}");
}
