//! The promises of the crates, held against what cargo resolves and against the sources.
//!
//! Each crate exists because it forbids something. A test here fails when a crate does what it promised
//! not to do, and names the file.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

const PROTOCOLS: [&str; 4] = ["fusion", "pscheduler", "teeth", "zabbix"];

/// What waits for something: a crate that links none of these cannot do I/O behind an `await`.
const RUNTIMES: [&str; 8] = [
    "async-std",
    "futures-executor",
    "hyper",
    "mio",
    "reqwest",
    "smol",
    "socket2",
    "tokio",
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap()
        .to_owned()
}

/// The normal dependencies of each package, by name, as cargo resolves them with all features.
struct Graph {
    direct: BTreeMap<String, BTreeSet<String>>,
}

impl Graph {
    fn resolved() -> Self {
        let output = Command::new(env!("CARGO"))
            .args([
                "metadata",
                "--format-version",
                "1",
                "--locked",
                "--all-features",
            ])
            .args(["--filter-platform", "x86_64-unknown-linux-gnu"])
            .current_dir(root())
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
        let names: BTreeMap<&str, &str> = metadata["packages"]
            .as_array()
            .unwrap()
            .iter()
            .map(|package| {
                (
                    package["id"].as_str().unwrap(),
                    package["name"].as_str().unwrap(),
                )
            })
            .collect();
        let mut direct: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for node in metadata["resolve"]["nodes"].as_array().unwrap() {
            let from = names[node["id"].as_str().unwrap()];
            let to = node["deps"]
                .as_array()
                .unwrap()
                .iter()
                .filter(|dependency| {
                    let kinds = dependency["dep_kinds"].as_array().unwrap();
                    kinds.iter().any(|kind| kind["kind"].is_null())
                });
            let to = to.map(|dependency| names[dependency["pkg"].as_str().unwrap()].to_owned());
            direct.entry(from.to_owned()).or_default().extend(to);
        }
        Self { direct }
    }

    /// Everything that `package` links, itself left out.
    fn closure(&self, package: &str) -> BTreeSet<String> {
        let mut found = BTreeSet::new();
        let mut open = vec![package.to_owned()];
        while let Some(next) = open.pop() {
            for dependency in &self.direct[&next] {
                if found.insert(dependency.clone()) {
                    open.push(dependency.clone());
                }
            }
        }
        found
    }

    fn assert_direct_lacks(&self, package: &str, banned: &[&str]) {
        for banned in banned {
            let has = self.direct[package].contains(*banned);
            assert!(!has, "{package} promised not to depend on {banned}");
        }
    }

    fn assert_closure_lacks(&self, package: &str, banned: &[&str]) {
        let closure = self.closure(package);
        for banned in banned {
            assert!(
                !closure.contains(*banned),
                "{package} promised not to link {banned}"
            );
        }
    }
}

/// The sources of a crate without comments and without tests: path under `src`, and text.
fn sources(package: &str) -> BTreeMap<String, String> {
    let folder = root().join("crates").join(package).join("src");
    let mut found = BTreeMap::new();
    let mut open = vec![folder.clone()];
    while let Some(next) = open.pop() {
        for entry in fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap();
            if path.is_dir() {
                if name != "tests" {
                    open.push(path);
                }
            } else if name.ends_with(".rs") && !name.ends_with("tests.rs") {
                let text = fs::read_to_string(&path).unwrap();
                let within = path
                    .strip_prefix(&folder)
                    .unwrap()
                    .to_str()
                    .unwrap()
                    .to_owned();
                found.insert(within, code_of(&text));
            }
        }
    }
    assert!(!found.is_empty(), "{package} has sources");
    found
}

/// Code without line comments, up to the unit tests, which are last in a file.
fn code_of(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    let tests = lines.iter().enumerate().position(|(index, line)| {
        let item = lines
            .iter()
            .skip(index)
            .find(|line| line.starts_with("mod "));
        *line == "#[cfg(test)]" && item.is_some_and(|item| item.ends_with('{'))
    });
    let code = lines.iter().take(tests.unwrap_or(lines.len()));
    let code = code.map(|line| match line.trim_start().starts_with("//") {
        true => "",
        false => line.split(" // ").next().unwrap(),
    });
    code.collect::<Vec<_>>().join("\n")
}

fn assert_sources_lack(package: &str, banned: &[&str]) {
    for (file, code) in sources(package) {
        for banned in banned {
            let line = code.lines().position(|line| line.contains(banned));
            assert!(
                line.is_none(),
                "crates/{package}/src/{file}:{} has `{banned}`, which {package} promised not to",
                line.unwrap_or_default() + 1,
            );
        }
    }
}

/// What reads a clock, the environment or the system, or waits.
const IMPURE: [&str; 11] = [
    ".await",
    "async fn",
    "async move",
    "std::env::var",
    "std::fs",
    "std::io::Read",
    "std::net::Tcp",
    "std::net::Udp",
    "std::process",
    "std::thread",
    "SystemTime",
];

#[test]
fn core_does_no_io_is_not_async_and_knows_no_wire() {
    let graph = Graph::resolved();
    graph.assert_closure_lacks("muster-core", &RUNTIMES);
    let wires = [
        "serde",
        "serde_json",
        "http",
        "muster-proto",
        "muster-store",
        "muster-net",
    ];
    graph.assert_direct_lacks("muster-core", &wires);
    assert_sources_lack("core", &IMPURE);
    assert_sources_lack(
        "core",
        &[
            "Serialize",
            "muster_proto",
            "Instant::now",
            "Timestamp::now",
        ],
    );
}

#[test]
fn proto_does_no_io_is_not_async_and_does_not_know_the_core() {
    let graph = Graph::resolved();
    graph.assert_closure_lacks("muster-proto", &RUNTIMES);
    graph.assert_closure_lacks(
        "muster-proto",
        &["muster-core", "muster-store", "muster-net"],
    );
    assert_sources_lack("proto", &IMPURE);
    assert_sources_lack("proto", &["muster_core", "Instant::now", "Timestamp::now"]);
}

#[test]
fn protocol_modules_do_not_name_each_other() {
    for (file, code) in sources("proto") {
        let Some(own) = PROTOCOLS
            .into_iter()
            .find(|own| file.starts_with(&format!("{own}/")) || file == format!("{own}.rs"))
        else {
            continue;
        };
        for other in PROTOCOLS.into_iter().filter(|other| *other != own) {
            for path in [
                format!("crate::{other}"),
                format!("super::super::{other}"),
                format!("muster_proto::{other}"),
            ] {
                assert!(!code.contains(&path), "{file} names {path}");
            }
        }
    }
}

#[test]
fn the_store_decides_nothing_and_is_synchronous_inside() {
    let graph = Graph::resolved();
    let upper = [
        "muster-proto",
        "muster-net",
        "muster-server",
        "muster-agent",
        "serde",
        "serde_json",
    ];
    graph.assert_direct_lacks("muster-store", &upper);
    // The one async door, and those that stand right behind it: the group commit and the spool.
    let doors = [
        "store.rs",
        "migrate.rs",
        "samples.rs",
        "spool.rs",
        "testing.rs",
    ];
    for (file, code) in sources("store") {
        let behind = file.starts_with("samples/") || file.starts_with("store/");
        let door = doors.contains(&file.as_str()) || behind;
        assert!(
            door || !code.contains("async "),
            "crates/store/src/{file} is async"
        );
    }
    assert_sources_lack("store", &["Timestamp::now", "Instant::now", "SystemTime"]);
}

#[test]
fn there_is_no_sql_outside_the_store() {
    let graph = Graph::resolved();
    for (package, dependencies) in &graph.direct {
        if package.starts_with("muster") && package != "muster-store" {
            for driver in ["rusqlite", "postgres", "tokio-postgres", "libsqlite3-sys"] {
                assert!(
                    !dependencies.contains(driver),
                    "{package} depends on {driver}"
                );
            }
        }
    }
    let statements = [
        "SELECT ",
        "INSERT INTO",
        "DELETE FROM",
        "CREATE TABLE",
        "BEGIN IMMEDIATE",
        "ON CONFLICT",
    ];
    for package in ["core", "proto", "net", "server", "agent", "muster", "sim"] {
        assert_sources_lack(package, &statements);
    }
}

#[test]
fn net_does_not_know_what_a_message_means() {
    let graph = Graph::resolved();
    let upper = [
        "muster-core",
        "muster-store",
        "muster-server",
        "muster-agent",
        "axum",
    ];
    graph.assert_direct_lacks("muster-net", &upper);
    for protocol in PROTOCOLS {
        assert_sources_lack("net", &[&format!("muster_proto::{protocol}")]);
    }
}

/// Where it has to dial (agents of hosts that no proxy monitors), `muster-net` opens the socket.
#[test]
fn the_server_opens_no_socket_and_executes_no_work() {
    let graph = Graph::resolved();
    let sockets = [
        "hyper",
        "hyper-util",
        "reqwest",
        "socket2",
        "surge-ping",
        "async-snmp",
        "muster-agent",
    ];
    graph.assert_direct_lacks("muster-server", &sockets);
    assert_sources_lack(
        "server",
        &[
            "tokio::net",
            "TcpListener",
            "TcpStream",
            "UdpSocket",
            "UnixStream",
            "std::process",
            "tokio::process",
        ],
    );
}

#[test]
fn the_agent_does_not_know_the_servers_tables() {
    let graph = Graph::resolved();
    graph.assert_direct_lacks(
        "muster-agent",
        &["muster-server", "axum", "rusqlite", "postgres"],
    );
    for (file, code) in sources("agent") {
        for (start, _) in code.match_indices("muster_store::") {
            let rest = &code[start + "muster_store::".len()..];
            // The spool, and the error that its methods return.
            let spool = ["spool", "Spool", "StoreError"]
                .iter()
                .any(|name| rest.starts_with(name));
            assert!(
                spool,
                "crates/agent/src/{file} uses muster_store::{:.40}",
                rest
            );
        }
    }
}

#[test]
fn nobody_depends_on_the_binary_and_only_it_joins_server_and_agent() {
    let graph = Graph::resolved();
    for (package, dependencies) in &graph.direct {
        assert!(
            !dependencies.contains("muster"),
            "{package} depends on the binary"
        );
        if package != "muster" && package != "muster-sim" {
            let both =
                dependencies.contains("muster-server") && dependencies.contains("muster-agent");
            assert!(!both, "{package} joins server and agent");
        }
        let product = package.starts_with("muster") && package != "muster-sim";
        assert!(
            !product || !dependencies.contains("muster-sim"),
            "{package} links the simulator"
        );
    }
}

#[test]
fn every_crate_takes_the_lints_of_the_workspace() {
    for folder in [
        "core", "proto", "store", "net", "server", "agent", "muster", "sim",
    ] {
        let manifest = root().join("crates").join(folder).join("Cargo.toml");
        let text = fs::read_to_string(manifest).unwrap();
        assert!(
            text.contains("[lints]\nworkspace = true"),
            "crates/{folder}/Cargo.toml"
        );
    }
}

#[test]
fn every_source_file_says_what_it_is_for() {
    for package in [
        "core", "proto", "store", "net", "server", "agent", "muster", "sim",
    ] {
        let folder = root().join("crates").join(package).join("src");
        for file in sources(package).into_keys() {
            let text = fs::read_to_string(folder.join(&file)).unwrap();
            assert!(
                text.starts_with("//!"),
                "crates/{package}/src/{file} has no module doc"
            );
        }
    }
}

/// Files that git knows, or every file of a tree without git.
fn tracked() -> Vec<String> {
    let output = Command::new("git")
        .args(["ls-files"])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout)
        .unwrap()
        .lines()
        .map(str::to_owned)
        .collect()
}

#[test]
fn a_clone_stands_alone() {
    // Put together here, so that this file does not have what it forbids.
    let forbidden = [["..", "shared/"].join("/"), ["", "work", ""].join("/")];
    for file in tracked() {
        let data = file.starts_with("captures/") || file == "Cargo.lock";
        let Ok(text) = fs::read_to_string(root().join(&file)) else {
            continue;
        };
        for forbidden in &forbidden {
            let named = text
                .lines()
                .position(|line| line.contains(forbidden.as_str()));
            assert!(
                data || named.is_none(),
                "{file}:{} names {forbidden}",
                named.unwrap_or(0) + 1
            );
        }
    }
}
