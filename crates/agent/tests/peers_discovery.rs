//! Discovery of real SNMP agents: a Net-SNMP daemon, and recorded devices in a simulator.
//!
//! Everything listens on loopback addresses at one free port, so that the test needs no
//! privileged port and disturbs nothing.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::net::{Ipv4Addr, UdpSocket};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use muster_agent::policy::Permit;
use muster_agent::tools::discover::NetDiscovery;
use muster_agent::tools::{Context, Tool};
use muster_net::Clock;
use serde_json::{Value, json};

/// Programs that end with the test.
struct Peers {
    dir: tempfile::TempDir,
    children: Vec<Child>,
    port: u16,
}

impl Drop for Peers {
    fn drop(&mut self) {
        for child in &mut self.children {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Peers {
    fn start(devices: &[&str]) -> Self {
        let port = free_port(devices.len() + 1);
        let mut peers = Self {
            dir: tempfile::tempdir().unwrap(),
            children: Vec::new(),
            port,
        };
        peers.snmpd();
        for (index, device) in devices.iter().enumerate() {
            peers.simulate(device, 2 + u8::try_from(index).unwrap());
        }
        peers
    }

    fn snmpd(&mut self) {
        let config = format!(
            "agentaddress udp:127.0.0.1:{}\nrocommunity public\n\
             createUser muster SHA musterauth1 AES musterpriv1\nrouser muster authPriv\n\
             createUser mustermd5 MD5 mustermd5a DES mustermd5p\nrouser mustermd5 authPriv\n\
             createUser musternopriv SHA-256 musterauth2\nrouser musternopriv authNoPriv\n\
             sysName snmpd-host\nsysLocation Test bench\nsysContact root@example.org\n",
            self.port
        );
        let path = self.dir.path().join("snmpd.conf");
        std::fs::write(&path, config).unwrap();
        let child = Command::new("snmpd")
            .args(["-f", "-Lf"])
            .arg(self.dir.path().join("snmpd.log"))
            .arg("-C")
            .arg("-c")
            .arg(&path)
            .env("SNMP_PERSISTENT_DIR", self.dir.path().join("persist"))
            .stdin(Stdio::null())
            .spawn();
        self.children
            .push(child.expect("snmpd runs; `cargo xtask setup` installs it"));
    }

    fn simulate(&mut self, device: &str, last: u8) {
        let (data, cache) = (
            self.dir.path().join(device),
            self.dir.path().join(format!("{device}-cache")),
        );
        for dir in [&data, &cache] {
            std::fs::create_dir_all(dir).unwrap();
        }
        let walk = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join(format!("../../captures/snmp/{device}.snmprec"));
        std::fs::copy(walk, data.join("public.snmprec")).unwrap();
        let mut command = Command::new("snmpsimd");
        command
            .arg(format!("--data-dir={}", data.display()))
            .arg(format!("--cache-dir={}", cache.display()))
            .arg(format!(
                "--agent-udpv4-endpoint=127.0.0.{last}:{}",
                self.port
            ))
            .arg("--logging-method=null")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        if rustix::process::geteuid().is_root() {
            // It refuses to serve as root, so its files must be those of whom it becomes.
            command.args(["--process-user=nobody", "--process-group=nogroup"]);
            let owned = Command::new("chown")
                .args(["-R", "nobody:nogroup"])
                .arg(&data)
                .arg(&cache)
                .status();
            assert!(owned.unwrap().success());
            let open = Command::new("chmod")
                .arg("0755")
                .arg(self.dir.path())
                .status();
            assert!(open.unwrap().success());
        }
        let child = command.spawn();
        self.children
            .push(child.expect("snmpsimd runs; `cargo xtask setup` installs it"));
    }

    async fn discover(&self, network: &str, credentials: Value) -> Vec<Value> {
        let mut credentials = credentials;
        for credential in credentials.as_array_mut().unwrap() {
            credential["port"] = json!(self.port);
        }
        let ctx = Context {
            permit: Permit::networks(vec!["127.0.0.0/8".parse().unwrap()]),
            ..Context::operator(Clock::system(), [5; 32], self.dir.path().to_owned())
        };
        let spec = json!({"network": network, "workers": 10, "timeout": "PT1S",
                          "credentials": credentials});
        let found = NetDiscovery::default().run(ctx, spec).await.unwrap();
        found["devices"].as_array().unwrap().clone()
    }
}

/// A UDP port that is free on as many loopback addresses.
fn free_port(addresses: usize) -> u16 {
    (0..50)
        .find_map(|_| {
            let first = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
            let port = first.local_addr().unwrap().port();
            let all_free = (2..=addresses).all(|last| {
                let address = Ipv4Addr::new(127, 0, 0, u8::try_from(last).unwrap());
                UdpSocket::bind((address, port)).is_ok()
            });
            all_free.then_some(port)
        })
        .unwrap()
}

fn member<'a>(device: &'a Value, name: &str) -> &'a str {
    device[name].as_str().unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn real_and_recorded_devices_are_found() {
    let peers = Peers::start(&[
        "switch-procurve",
        "printer-laserjet",
        "router-ios",
        "ups-smart",
    ]);
    let community = json!([{"version": "2c", "community": "public"}]);
    let mut devices = Vec::new();
    // The simulators index their data first; a sweep of silent addresses takes a second.
    for _ in 0..60 {
        devices = peers
            .discover("127.0.0.1-127.0.0.5", community.clone())
            .await;
        if devices
            .iter()
            .filter(|device| device.get("snmphostname").is_some())
            .count()
            == 5
        {
            break;
        }
    }
    let table = devices
        .iter()
        .map(|d| {
            [
                "ip",
                "snmphostname",
                "type",
                "manufacturer",
                "model",
                "serial",
                "firmware",
                "mac",
            ]
            .map(|name| member(d, name))
        })
        .collect::<Vec<_>>();
    assert_eq!(
        table[1..],
        [
            [
                "127.0.0.2",
                "sw-lab-1",
                "networking",
                "Hewlett-Packard",
                "ProCurve 2610-24",
                "CN000MUST1",
                "R.11.25",
                "02:4d:53:01:00:00"
            ],
            [
                "127.0.0.3",
                "prt-lab-1",
                "printer",
                "Hewlett-Packard",
                "HP Color LaserJet CP4025",
                "JPBCD00001",
                "V.36.75",
                "02:50:52:01:00:01"
            ],
            [
                "127.0.0.4",
                "rt-lab-1",
                "networking",
                "Cisco",
                "2811",
                "FTX0000MUST",
                "12.4(24)T",
                "02:4d:53:02:00:01"
            ],
            [
                "127.0.0.5",
                "ups-lab-1",
                "power",
                "APC",
                "Smart-UPS 1500",
                "AS0000MUST01",
                "UPS 08.3",
                "02:55:50:01:00:01"
            ],
        ]
    );
    assert_eq!(
        table[0][..5],
        ["127.0.0.1", "snmpd-host", "computer", "Net-SNMP", "Linux"]
    );
    for device in &devices {
        assert_eq!(member(device, "authsnmp"), "1");
        assert_eq!(member(device, "authport"), peers.port.to_string());
        assert_eq!(device["dnshostname"], device["ip"]);
    }
    assert_eq!(devices[1]["ips"], json!(["127.0.0.1", "192.0.2.2"]));

    versions_and_wrong_credentials(&peers).await;
}

/// Every version and level against the real daemon; a credential that fails is passed over.
async fn versions_and_wrong_credentials(peers: &Peers) {
    let user = |name: &str, auth: [&str; 2], privacy: [&str; 2]| {
        let mut credential = json!({"version": "3", "username": name, "authprotocol": auth[0],
                                    "authpassword": auth[1]});
        if !privacy[0].is_empty() {
            credential["privprotocol"] = json!(privacy[0]);
            credential["privpassword"] = json!(privacy[1]);
        }
        credential
    };
    let silent = json!({"version": "2c", "community": "wrong", "timeout": "PT0.3S"});
    for credential in [
        json!({"version": "1", "community": "public"}),
        user("muster", ["sha", "musterauth1"], ["aes", "musterpriv1"]),
        user("mustermd5", ["md5", "mustermd5a"], ["des", "mustermd5p"]),
        user("musternopriv", ["sha256", "musterauth2"], ["", ""]),
    ] {
        let shown = credential["version"].clone();
        let devices = peers
            .discover("127.0.0.1", json!([silent, credential]))
            .await;
        assert_eq!(
            member(&devices[0], "snmphostname"),
            "snmpd-host",
            "version {shown}"
        );
        assert_eq!(
            member(&devices[0], "authsnmp"),
            "2",
            "the second credential answered"
        );
    }
    let wrong = user(
        "muster",
        ["sha", "not-the-password"],
        ["aes", "musterpriv1"],
    );
    let devices = peers.discover("127.0.0.1", json!([wrong])).await;
    assert!(devices[0].get("snmphostname").is_none(), "{devices:?}");
}
