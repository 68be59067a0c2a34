//! Real Zabbix peers of Debian against the real server: `zabbix_proxy`, `zabbix_agentd`, `zabbix_sender`.
//!
//! One story: a proxy is enrolled by the loopback rule, takes its configuration, polls an agent and brings
//! its values; an active agent and senders come by themselves; a remote command is a run; and when the
//! server is killed under all of them, nothing it had acknowledged is missing and nothing is there twice.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use muster_sim::peers::{Peer, free_low_port, free_port, listens, program, wait_until};
use serde_json::Value;

/// No step takes longer, unless something has hung. A real proxy makes its database first.
const PATIENCE: Duration = Duration::from_secs(90);

/// The server, its command line, and where the files of peers are.
struct World {
    folder: tempfile::TempDir,
    zabbix: u16,
    server: Option<Peer>,
}

impl World {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        // Zabbix daemons write their files below it, whoever they run as.
        let mut world = Self {
            folder,
            zabbix: free_port(),
            server: None,
        };
        world.start();
        world
    }

    fn start(&mut self) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_muster"));
        command
            .args(["server", "run", "--enrol-policy", "loopback"])
            .args([
                "--listen-http",
                "127.0.0.1:0",
                "--listen-https",
                "off",
                "--listen-teeth",
                "off",
            ])
            .args(["--listen-zabbix", &format!("127.0.0.1:{}", self.zabbix)])
            .arg("--state")
            .arg(self.state())
            .env("MUSTER_LOG", "info");
        let log = self.path("server.log");
        self.server = Some(Peer::start(&mut command, &log));
        let ready = wait_until(PATIENCE, || self.state().join("addresses.json").exists());
        assert!(ready, "{}", fs::read_to_string(log).unwrap());
        assert!(listens(self.address(), PATIENCE));
    }

    /// As a power cut: nothing is said to anybody.
    fn kill(&mut self) {
        self.server.take().unwrap().kill().unwrap();
        fs::remove_file(self.state().join("addresses.json")).unwrap();
    }

    fn address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.zabbix))
    }

    fn state(&self) -> PathBuf {
        self.path("state")
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A command of ours that must come off; its output as JSON.
    fn muster(&self, arguments: &[&str]) -> Value {
        let output = self.try_muster(arguments);
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "muster {arguments:?}: {error}");
        serde_json::from_slice(&output.stdout).unwrap_or_else(|why| panic!("{why}: {error}"))
    }

    fn try_muster(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_muster"));
        command
            .args(arguments)
            .args(["-o", "json", "--state"])
            .arg(self.state());
        command.output().unwrap()
    }

    fn item(&self, host: &str, key: &str, item_type: &str, value_type: &str) -> String {
        let item = self.muster(&[
            "item",
            "create",
            "--host",
            host,
            "--key",
            key,
            "--type",
            item_type,
            "--value-type",
            value_type,
            "--delay",
            "1s",
        ]);
        item["id"].as_str().unwrap().to_owned()
    }

    fn history(&self, item: &str) -> Vec<(String, Value)> {
        let history = self.muster(&["item", "history", item, "--limit", "100000"]);
        let samples = history.as_array().unwrap().iter();
        samples
            .map(|s| (s["time"].as_str().unwrap().to_owned(), s["value"].clone()))
            .collect()
    }

    /// Waits until an item has so many values, and gives them.
    fn values(&self, what: &str, item: &str, count: usize) -> Vec<(String, Value)> {
        let mut found = Vec::new();
        let enough = wait_until(PATIENCE, || {
            found = self.history(item);
            found.len() >= count
        });
        assert!(enough, "{what}: only {found:?}\n{}", self.logs());
        found
    }

    /// The last lines of every log.
    fn logs(&self) -> String {
        let mut out = String::new();
        for name in [
            "server.log",
            "proxy.log",
            "proxy.out",
            "agent.log",
            "agent.out",
            "own.log",
        ] {
            let text = fs::read_to_string(self.path(name)).unwrap_or_default();
            let lines: Vec<&str> = text.lines().collect();
            let from = lines.len().saturating_sub(30);
            out.push_str(&format!("--- {name}\n{}\n", lines[from..].join("\n")));
        }
        out
    }

    fn write(&self, name: &str, lines: &[String]) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, lines.join("\n") + "\n").unwrap();
        path
    }
}

fn start_proxy(world: &World, program: &Path, port: u16) -> Peer {
    let dir = world.folder.path().display();
    fs::create_dir_all(world.path("psock")).unwrap();
    let config = world.write(
        "proxy.conf",
        &[
            "ProxyMode=0".into(),
            format!("Server=127.0.0.1:{}", world.zabbix),
            "Hostname=px-active".into(),
            "ListenIP=127.0.0.1".into(),
            format!("ListenPort={port}"),
            "LogType=file".into(),
            format!("LogFile={dir}/proxy.log"),
            "LogFileSize=0".into(),
            format!("PidFile={dir}/proxy.pid"),
            format!("SocketDir={dir}/psock"),
            format!("DBName={dir}/proxy.db"),
            "AllowRoot=1".into(),
            "EnableRemoteCommands=1".into(),
            "LogRemoteCommands=1".into(),
            "StartPollers=2".into(),
            "StartPollersUnreachable=1".into(),
            "StartDiscoverers=0".into(),
            "StartTrappers=2".into(),
            "StartPingers=0".into(),
            "StartHTTPPollers=0".into(),
            "CacheSize=8M".into(),
            "HeartbeatFrequency=2".into(),
            "ConfigFrequency=2".into(),
            "DataSenderFrequency=1".into(),
        ],
    );
    let mut command = Command::new(program);
    command.arg("-f").arg("-c").arg(config);
    Peer::start(&mut command, &world.path("proxy.out"))
}

fn start_agent(world: &World, program: &Path, port: u16) -> Peer {
    let dir = world.folder.path().display();
    let config = world.write(
        "agent.conf",
        &[
            "Server=127.0.0.1".into(),
            format!("ServerActive=127.0.0.1:{}", world.zabbix),
            "Hostname=mon-direct".into(),
            "ListenIP=127.0.0.1".into(),
            format!("ListenPort={port}"),
            "RefreshActiveChecks=60".into(),
            "BufferSend=1".into(),
            "StartAgents=2".into(),
            "AllowRoot=1".into(),
            "LogType=file".into(),
            format!("LogFile={dir}/agent.log"),
            "LogFileSize=0".into(),
            format!("PidFile={dir}/agent.pid"),
        ],
    );
    let mut command = Command::new(program);
    command.arg("-f").arg("-c").arg(config);
    Peer::start(&mut command, &world.path("agent.out"))
}

/// Our agent, active and passive, of the proxy at `proxy`.
fn start_own(world: &World, proxy: u16, listen: u16) -> Peer {
    let active = format!("zabbix://127.0.0.1:{proxy}?role=agent&name=own-active");
    let passive = format!("zabbix://127.0.0.1:{listen}?role=agent&mode=passive&name=own-passive");
    let mut command = Command::new(env!("CARGO_BIN_EXE_muster"));
    command.args(["agent", "run", "--server", &active, "--server", &passive]);
    command.arg("--state").arg(world.path("own"));
    Peer::start(&mut command, &world.path("own.log"))
}

fn send(program: &Path, port: u16, arguments: &[&str]) -> (Option<i32>, String) {
    let output = Command::new(program)
        .args(["-z", "127.0.0.1", "-p", &port.to_string()])
        .args(arguments)
        .output()
        .unwrap();
    (
        output.status.code(),
        String::from_utf8_lossy(&output.stdout).into_owned(),
    )
}

/// Each value once: a time to the nanosecond is not given twice to one item.
fn assert_once(what: &str, history: &[(String, Value)]) {
    let times: BTreeSet<&str> = history.iter().map(|(time, _)| time.as_str()).collect();
    assert_eq!(times.len(), history.len(), "{what} has values twice");
}

#[test]
fn real_peers_bring_values_and_lose_none() {
    let (Some(proxy_program), Some(agent_program), Some(sender)) = (
        program("zabbix_proxy", "zabbix-proxy-sqlite3"),
        program("zabbix_agentd", "zabbix-agent"),
        program("zabbix_sender", "zabbix-agent"),
    ) else {
        return;
    };
    let mut world = World::new();
    let (proxy_port, agent_port) = (free_low_port(), free_low_port());

    // An active agent waits a whole refresh if its first question is refused: declare first.
    let port = agent_port.to_string();
    world.muster(&[
        "host",
        "create",
        "mon-direct",
        "--address",
        "127.0.0.1",
        "--port",
        &port,
    ]);
    let version = world.item("mon-direct", "agent.version", "agent_active", "string");
    let direct = world.item("mon-direct", "direct", "trapper", "float");
    let polled = world.item("mon-direct", "agent.ping", "agent", "unsigned");
    let _agent = start_agent(&world, &agent_program, agent_port);
    let proxy = start_proxy(&world, &proxy_program, proxy_port);

    // Enrolled by the loopback rule.
    let approved = || {
        let output = world.try_muster(&["agent", "show", "px-active"]);
        let agent: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        agent["state"] == "approved"
            && agent["wire"] == "zabbix"
            && agent["software"] == "zabbix_proxy"
    };
    assert!(wait_until(PATIENCE, approved), "{}", world.logs());

    // Takes its configuration, polls the agent, brings the values.
    let port = agent_port.to_string();
    world.muster(&[
        "host",
        "create",
        "mon-a",
        "--proxy",
        "px-active",
        "--address",
        "127.0.0.1",
        "--port",
        &port,
    ]);
    let ping = world.item("mon-a", "agent.ping", "agent", "unsigned");
    let name = world.item("mon-a", "system.hostname", "agent", "string");
    let missing = world.item("mon-a", "no.such.key[1]", "agent", "unsigned");
    let trap = world.item("mon-a", "trap.num", "trapper", "float");
    let pings = world.values("agent.ping", &ping, 5);
    assert!(pings.iter().all(|(_, value)| *value == 1), "{pings:?}");
    let hostname = fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    let names = world.values("system.hostname", &name, 1);
    assert_eq!(names[0].1, hostname.trim());
    let unsupported = wait_until(PATIENCE, || {
        let item = world.muster(&["item", "get", &missing]);
        item["state"] == "not_supported" && item["error"] == "Unsupported item key."
    });
    assert!(unsupported, "{}", world.logs());

    // Our own agent below the real proxy: one that asks it, and one that it asks.
    let own_port = free_low_port();
    let port = own_port.to_string();
    for host in ["own-active", "own-passive"] {
        world.muster(&[
            "host",
            "create",
            host,
            "--proxy",
            "px-active",
            "--address",
            "127.0.0.1",
            "--port",
            &port,
        ]);
    }
    let asking = world.item("own-active", "agent.hostname", "agent_active", "string");
    let asked = world.item("own-passive", "agent.hostname", "agent", "string");
    let _own = start_own(&world, proxy_port, own_port);

    // A sender through the proxy, and to the server itself.
    assert!(listens(
        SocketAddr::from(([127, 0, 0, 1], proxy_port)),
        PATIENCE
    ));
    let taken = wait_until(PATIENCE, || {
        let (code, said) = send(
            &sender,
            proxy_port,
            &["-s", "mon-a", "-k", "trap.num", "-o", "42.5"],
        );
        code == Some(0) && said.contains("processed: 1; failed: 0; total: 1")
    });
    assert!(taken, "{}", world.logs());
    assert_eq!(world.values("trap.num", &trap, 1)[0].1, 42.5);
    let file = world.write(
        "values.txt",
        &[
            "mon-direct direct 1700000001 5 1.5".into(),
            "mon-direct direct 1700000002 6 2.5".into(),
            "mon-direct direct 1700000003 7 3.5".into(),
        ],
    );
    let file = file.to_str().unwrap();
    let (code, said) = send(&sender, world.zabbix, &["-T", "-N", "-i", file]);
    assert!(said.contains("processed: 3; failed: 0; total: 3"), "{said}");
    assert_eq!(code, Some(0));
    let (code, said) = send(
        &sender,
        world.zabbix,
        &["-s", "mon-direct", "-k", "no.such", "-o", "1"],
    );
    assert!(said.contains("processed: 0; failed: 1; total: 1"), "{said}");
    assert_eq!(code, Some(2));
    let sent: Vec<Value> = world
        .values("direct", &direct, 3)
        .into_iter()
        .map(|(_, v)| v)
        .collect();
    assert_eq!(sent, [1.5, 2.5, 3.5]);

    for (item, name) in [(&asking, "own-active"), (&asked, "own-passive")] {
        assert_eq!(world.values(name, item, 2)[0].1, name);
    }

    // A real active agent, by its own word.
    assert_eq!(world.values("agent.version", &version, 2)[0].1, "6.0.14");

    // A host without a proxy is polled by the server itself.
    assert_eq!(world.values("agent.ping, polled", &polled, 2)[0].1, 1);

    // A remote command is a run.
    let run = world.muster(&[
        "task",
        "create",
        "command",
        "--agent",
        "px-active",
        "--spec",
        r#"{"command":"echo hello-from-$((20 + 22))"}"#,
        "--wait",
    ]);
    assert_eq!(
        (&run["state"], &run["end"]),
        (&"ended".into(), &"succeeded".into()),
        "{run}"
    );
    assert_eq!(run["result"]["output"], "hello-from-42\n", "{run}");

    // So far nothing that a proxy complains of.
    let log = fs::read_to_string(world.path("proxy.log")).unwrap();
    for complaint in [
        "failed to update local proxy configuration copy",
        "cannot obtain configuration data",
        "cannot send proxy data",
        "cannot send heartbeat",
        "cannot process",
    ] {
        assert!(!log.contains(complaint), "{complaint}: {}", world.logs());
    }

    // The server dies under all of them.
    let before = [&ping, &version].map(|item| world.history(item));
    world.kill();
    let refused = wait_until(PATIENCE, || {
        let log = fs::read_to_string(world.path("proxy.log")).unwrap_or_default();
        log.contains("Unable to connect") || log.contains("cannot send proxy data")
    });
    assert!(refused, "{}", world.logs());
    world.start();
    for (item, before) in [&ping, &version].into_iter().zip(before) {
        let after = world.values("after the restart", item, before.len() + 5);
        assert_eq!(
            after[..before.len()],
            before,
            "what was acknowledged is there"
        );
        assert_once("after the restart", &after);
    }
    // The proxy kept polling while nobody listened: a second is missing at most where it was busy.
    let times: Vec<i64> = world
        .history(&ping)
        .iter()
        .map(|(time, _)| time.parse::<jiff::Timestamp>().unwrap().as_second())
        .collect();
    let holes = times
        .windows(2)
        .filter(|pair| pair[1] - pair[0] > 3)
        .count();
    assert_eq!(holes, 0, "{times:?}");
    drop(proxy);
    let log = fs::read_to_string(world.path("server.log")).unwrap();
    assert!(!log.contains("panicked"), "{log}");
}
