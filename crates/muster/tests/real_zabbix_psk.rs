//! A real `zabbix_sender` (GnuTLS) over TLS with a key that both sides know, against a real server.

#![cfg(feature = "psk")]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// `muster server run` that knows one key.
struct Server {
    child: Child,
    port: String,
}

impl Server {
    fn start(state: &Path, psk: &str) -> Self {
        let free = "127.0.0.1:0";
        let mut child = Command::new(env!("CARGO_BIN_EXE_muster"))
            .args([
                "server",
                "run",
                "--enrol-policy",
                "loopback",
                "--listen-http",
                "off",
            ])
            .args([
                "--listen-https",
                "off",
                "--listen-teeth",
                "off",
                "--listen-zabbix",
                free,
            ])
            .arg("--state")
            .arg(state)
            .env_clear()
            .env("MUSTER_ZABBIX_PSK", psk)
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let served = lines.find(|line| line.as_ref().is_ok_and(|line| line.contains(" serves")));
        assert!(served.is_some(), "the server ended");
        std::thread::spawn(move || lines.for_each(drop));
        let addresses = fs::read_to_string(state.join("addresses.json")).unwrap();
        let addresses: serde_json::Value = serde_json::from_str(&addresses).unwrap();
        let (_, port) = addresses["zabbix"]
            .as_str()
            .unwrap()
            .rsplit_once(':')
            .unwrap();
        Self {
            port: port.to_owned(),
            child,
        }
    }

    /// What the sender says, and whether it got an answer.
    fn send(&self, identity: &str, key: &Path) -> (String, bool) {
        let output = Command::new("zabbix_sender")
            .args([
                "-z",
                "127.0.0.1",
                "-p",
                &self.port,
                "-s",
                "host",
                "-k",
                "key",
                "-o",
                "1",
            ])
            .args([
                "--tls-connect",
                "psk",
                "--tls-psk-identity",
                identity,
                "--tls-psk-file",
            ])
            .arg(key)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        let answered = said.contains("processed: 0; failed: 1");
        (said, answered)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_real_sender_is_heard_with_the_right_key_only() {
    let folder = tempfile::tempdir().unwrap();
    let (right, wrong) = (folder.path().join("right"), folder.path().join("wrong"));
    fs::write(&right, "ab".repeat(32)).unwrap();
    fs::write(&wrong, "cd".repeat(32)).unwrap();
    let psk = format!("sender 1={}", right.display());
    let server = Server::start(&folder.path().join("state"), &psk);
    // The item does not exist, so the value fails; the answer shows that the frame was read.
    for (identity, key, expected) in [
        ("sender 1", &right, true),
        ("sender 1", &wrong, false),
        ("sender 2", &right, false),
    ] {
        let (said, answered) = server.send(identity, key);
        assert_eq!(
            answered,
            expected,
            "{identity} with {}: {said}",
            key.display()
        );
    }
}
