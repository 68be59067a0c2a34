//! `muster up`, `server run` and `agent run` as a person starts them: fresh state, free ports, real
//! work, a second start, and what can stand in the way.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{BufRead as _, BufReader, Read as _};
use std::net::TcpListener;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{Child, ChildStderr, Command, Output, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

const LISTENERS: [&str; 4] = ["http", "https", "teeth", "zabbix"];

fn muster(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_muster"));
    command
        .args(args)
        .stdin(Stdio::null())
        .env_clear()
        .env("PATH", "/usr/sbin:/usr/bin");
    command
}

/// `muster NAME` on free ports; `args` may name other listeners, as the last one named counts.
fn on_free_ports(verb: &[&str], state: &Path, args: &[&str]) -> Command {
    let mut command = muster(verb);
    for listener in LISTENERS
        .iter()
        .filter(|l| !args.contains(&format!("--listen-{l}").as_str()))
    {
        command.args([&format!("--listen-{listener}"), "127.0.0.1:0"]);
    }
    command.arg("--state").arg(state).args(args);
    command
}

fn up_once(state: &Path, args: &[&str]) -> Output {
    on_free_ports(&["up", "--once"], state, args)
        .output()
        .unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn object(output: &Output) -> Value {
    assert_eq!(output.status.code(), Some(0), "{}", stderr(output));
    serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {}", stdout(output)))
}

fn ask(state: &Path, args: &[&str]) -> Value {
    let mut command = muster(args);
    let output = command
        .args(["-o", "json", "--state"])
        .arg(state)
        .output()
        .unwrap();
    object(&output)
}

fn list<'a>(value: &'a Value, member: &str) -> &'a Vec<Value> {
    value[member]
        .as_array()
        .unwrap_or_else(|| panic!("{member} is no list: {value}"))
}

/// A process that runs until it is told to end, and is killed should the test fail.
struct Running {
    child: Child,
    stderr: BufReader<ChildStderr>,
    said: String,
}

impl Running {
    fn start(mut command: Command) -> Self {
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        Self {
            child,
            stderr,
            said: String::new(),
        }
    }

    /// Reads what it says up to a line with `text`.
    fn until(&mut self, text: &str) {
        loop {
            let mut line = String::new();
            let read = self.stderr.read_line(&mut line).unwrap();
            assert!(read > 0, "it ended without {text:?}: {}", self.said);
            self.said.push_str(&line);
            if line.contains(text) {
                return;
            }
        }
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).unwrap()).unwrap();
        kill_process(pid, signal).unwrap();
    }

    /// Waits for its end: exit code (or signal) and everything it printed.
    fn end(mut self) -> (i32, String, String) {
        let mut rest = String::new();
        self.stderr.read_to_string(&mut rest).unwrap();
        let mut out = String::new();
        self.child
            .stdout
            .take()
            .unwrap()
            .read_to_string(&mut out)
            .unwrap();
        let status = self.child.wait().unwrap();
        let code = status.code().or(status.signal()).unwrap();
        (code, out, std::mem::take(&mut self.said) + &rest)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.child.try_wait().is_ok_and(|ended| ended.is_none()) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

#[test]
fn the_first_start_does_real_work_and_the_second_continues() {
    let state = tempfile::tempdir().unwrap();
    let first = object(&up_once(state.path(), &["-o", "json"]));
    for listener in LISTENERS {
        let address = first["addresses"][listener].as_str().unwrap();
        assert!(
            address.starts_with("127.0.0.1:") && !address.ends_with(":0"),
            "{address}"
        );
    }
    let agent = &first["agent"];
    assert_eq!(agent["state"], "approved", "{agent}");
    let wires: Vec<&str> = list(agent, "wires")
        .iter()
        .filter_map(Value::as_str)
        .collect();
    for wire in ["fusion", "teeth", "zabbix"] {
        assert!(wires.contains(&wire), "{wires:?}");
    }

    let runs = list(&first, "runs");
    let kinds: Vec<&str> = runs
        .iter()
        .map(|run| run["kind"].as_str().unwrap())
        .collect();
    assert_eq!(kinds, ["inventory", "netdiscovery", "rtt"]);
    for run in runs {
        assert_eq!(run["state"], "ended", "{run}");
        assert_eq!(run["agents"][0]["id"], agent["id"], "{run}");
        let icmp = run["reason"]
            .as_str()
            .is_some_and(|reason| reason.contains("ICMP"));
        assert!(run["end"] == "succeeded" || icmp, "{run}");
    }
    let name = agent["name"].as_str().unwrap();
    // What told of itself, what was found on loopback and what is monitored is one machine.
    assert_eq!(list(&first, "hosts").len(), 1, "{}", first["hosts"]);
    let own = list(&first, "hosts")
        .iter()
        .find(|host| host["id"] == agent["host"])
        .unwrap();
    assert_eq!(own["name"], name, "{own}");
    let sources: Vec<&str> = list(own, "sources")
        .iter()
        .filter_map(|source| source["what"].as_str())
        .collect();
    for source in ["inventory", "discovery", "monitoring"] {
        assert!(sources.contains(&source), "{sources:?}");
    }
    assert!(own["os"]["name"].is_string(), "{own}");
    let items = list(&first, "items");
    assert!(items.len() >= 4, "{items:?}");
    for item in items {
        assert!(item["last"]["value"].is_number(), "{item}");
        assert_eq!(item["delay"], "PT1S", "{item}");
    }
    assert!(
        !state.path().join("addresses.json").exists(),
        "removed at a clean stop"
    );

    let again = up_once(state.path(), &[]);
    assert_eq!(again.status.code(), Some(0), "{}", stderr(&again));
    let tables = stdout(&again);
    for word in [
        "WORK",
        "HOST",
        "ITEM",
        name,
        "inventory",
        "netdiscovery",
        "system.cpu",
    ] {
        assert!(tables.contains(word), "{word}: {tables}");
    }
    let talk = stderr(&again);
    for word in [
        "where to look next",
        "muster agent run",
        "--pin ",
        "--enrol-key KEY",
    ] {
        assert!(talk.contains(word), "{word}: {talk}");
    }

    let third = object(&up_once(state.path(), &["-o", "json"]));
    assert_eq!(third["agent"]["id"], agent["id"]);
    assert_eq!(third["agent"]["host"], agent["host"]);
    assert_eq!(third["agent"]["first_seen"], agent["first_seen"]);
    assert_eq!(list(&third, "items").len(), items.len(), "no item twice");
    assert_eq!(
        list(&third, "hosts").len(),
        list(&first, "hosts").len(),
        "no host twice"
    );
}

#[test]
fn a_range_that_was_asked_for_is_discovered_too() {
    let state = tempfile::tempdir().unwrap();
    let args = [
        "-o",
        "json",
        "--discover",
        "127.0.0.2-127.0.0.3",
        "--listen-zabbix",
        "off",
    ];
    let found = object(&up_once(state.path(), &args));
    let runs = list(&found, "runs");
    let discoveries = runs
        .iter()
        .filter(|run| run["kind"] == "netdiscovery")
        .count();
    assert_eq!(discoveries, 2, "{runs:?}");
    for run in runs.iter().filter(|run| run["kind"] == "netdiscovery") {
        assert_eq!(run["end"], "succeeded", "{run}");
    }
}

#[test]
fn a_listener_that_is_off_drops_only_what_needs_it() {
    let state = tempfile::tempdir().unwrap();
    let args = [
        "-o",
        "json",
        "--listen-teeth",
        "off",
        "--listen-http",
        "off",
    ];
    let output = up_once(state.path(), &args);
    let found = object(&output);
    let talk = stderr(&output);
    let left_out: Vec<&str> = talk
        .lines()
        .filter(|line| line.contains("left out"))
        .collect();
    assert_eq!(
        left_out,
        ["left out: the round trip, as the teeth and teeths listeners are off"]
    );
    assert!(found["addresses"].get("teeth").is_none() && found["addresses"].get("http").is_none());
    let kinds: Vec<&str> = list(&found, "runs")
        .iter()
        .map(|run| run["kind"].as_str().unwrap())
        .collect();
    assert_eq!(kinds, ["inventory", "netdiscovery"]);
    assert!(!list(&found, "items").is_empty());
}

#[test]
fn without_a_listener_for_the_agent_nothing_is_pretended() {
    let state = tempfile::tempdir().unwrap();
    let off = [
        "--listen-http",
        "off",
        "--listen-https",
        "off",
        "--listen-teeth",
        "off",
    ];
    let output = up_once(
        state.path(),
        &[&off[..], &["--listen-zabbix", "off"]].concat(),
    );
    assert_eq!(output.status.code(), Some(1));
    assert!(
        stderr(&output).contains("every listener is off"),
        "{}",
        stderr(&output)
    );
}

/// In a network namespace of its own and without the capability, as in many containers.
#[test]
fn where_icmp_is_not_permitted_up_says_so_with_the_remedy() {
    let state = tempfile::tempdir().unwrap();
    let script = r#"ip link set lo up && exec "$0" "$@""#;
    let output = Command::new("unshare")
        .args([
            "--net",
            "setpriv",
            "--bounding-set=-net_raw",
            "--",
            "sh",
            "-c",
            script,
        ])
        .arg(env!("CARGO_BIN_EXE_muster"))
        .args(["up", "--once", "--state"])
        .arg(state.path())
        .stdin(Stdio::null())
        .env_clear()
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .output()
        .unwrap();
    let talk = stderr(&output);
    assert_eq!(output.status.code(), Some(0), "{talk}");
    for part in [
        "rtt over teeth: failed (ICMP echo is not permitted to this process)",
        "next: let ordinary users ping: sysctl -w net.ipv4.ping_group_range",
        "inventory over fusion: succeeded",
    ] {
        assert!(talk.contains(part), "{part}: {talk}");
    }
    // The namespace is empty, so the ports of the surface page are free there.
    let bound =
        "http 127.0.0.1:8080, https 127.0.0.1:8443, teeth 127.0.0.1:8081, zabbix 127.0.0.1:10051";
    assert!(talk.contains(bound), "{talk}");
}

#[test]
fn a_port_in_use_names_port_option_and_holder() {
    let state = tempfile::tempdir().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    for (variable, args) in [
        (
            None,
            vec!["--listen-zabbix".to_owned(), address.to_string()],
        ),
        (Some(address.to_string()), vec![]),
    ] {
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let mut command = on_free_ports(&["up", "--once"], state.path(), &args);
        if let Some(variable) = &variable {
            command = muster(&["up", "--once"]);
            for listener in ["http", "https", "teeth"] {
                command.args([&format!("--listen-{listener}"), "127.0.0.1:0"]);
            }
            command
                .arg("--state")
                .arg(state.path())
                .env("MUSTER_LISTEN_ZABBIX", variable);
        }
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        let error = stderr(&output);
        let port = format!("port {} is in use by ", address.port());
        let holder = format!("(pid {})", std::process::id());
        for part in [
            port.as_str(),
            &holder,
            "--listen-zabbix",
            "[PORT_IN_USE]",
            "next: ",
        ] {
            assert!(error.contains(part), "{part}: {error}");
        }
        assert!(!state.path().join("addresses.json").exists());
    }
}

#[test]
fn one_process_at_a_time_has_the_state_folder() {
    let state = tempfile::tempdir().unwrap();
    let mut server = Running::start(on_free_ports(&["server", "run"], state.path(), &[]));
    server.until(" serves");
    let second = up_once(state.path(), &[]);
    assert_eq!(second.status.code(), Some(1));
    assert!(
        stderr(&second).contains("[STATE_IN_USE]"),
        "{}",
        stderr(&second)
    );
    server.signal(Signal::TERM);
    assert_eq!(server.end().0, 0);
}

#[test]
fn a_signal_drains_and_what_was_done_is_kept() {
    let state = tempfile::tempdir().unwrap();
    let mut up = Running::start(on_free_ports(&["up"], state.path(), &["-o", "json"]));
    up.until("working; Ctrl-C");
    let addresses = std::fs::read_to_string(state.path().join("addresses.json")).unwrap();
    assert!(
        addresses.contains(&format!("\"pid\":{}", up.child.id())),
        "{addresses}"
    );
    let runs = ask(state.path(), &["run", "list"]);
    up.signal(Signal::INT);
    let (code, out, talk) = up.end();
    assert_eq!(code, 0, "{talk}");
    assert!(
        talk.contains("stopping: finishing what is in hand"),
        "{talk}"
    );
    let object: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(list(&object, "runs").len(), runs.as_array().unwrap().len());
    assert!(!state.path().join("addresses.json").exists());
}

#[test]
fn a_second_signal_ends_now() {
    let state = tempfile::tempdir().unwrap();
    let mut up = Running::start(on_free_ports(&["up"], state.path(), &[]));
    up.until("working; Ctrl-C");
    // Something in hand that takes its time: a request of which the body never comes.
    let addresses = std::fs::read_to_string(state.path().join("addresses.json")).unwrap();
    let addresses: Value = serde_json::from_str(&addresses).unwrap();
    let mut held = std::net::TcpStream::connect(addresses["http"].as_str().unwrap()).unwrap();
    let head = "POST /plugins/fusioninventory/ HTTP/1.1\r\nHost: a\r\nContent-Length: 99\r\n\r\n";
    std::io::Write::write_all(&mut held, head.as_bytes()).unwrap();
    up.signal(Signal::INT);
    up.until("stopping: finishing what is in hand");
    up.signal(Signal::INT);
    let (code, _, _) = up.end();
    assert_eq!(code, 130);
}

#[test]
fn a_second_agent_is_enrolled_by_a_key_and_only_by_one() {
    let state = tempfile::tempdir().unwrap();
    let args = ["--enrol-policy", "key"];
    let mut server = Running::start(on_free_ports(&["server", "run"], state.path(), &args));
    server.until(" serves");
    let addresses = std::fs::read_to_string(state.path().join("addresses.json")).unwrap();
    let addresses: Value = serde_json::from_str(&addresses).unwrap();
    let url = format!("https://{}/", addresses["https"].as_str().unwrap());
    let pin = fingerprint(&state.path().join("tls/server.crt"));

    let key = ask(state.path(), &["agent", "key", "create", "--once"]);
    let key = key["key"].as_str().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let run = |key: Option<&str>, folder: &Path| {
        let mut command = muster(&["agent", "run", "--server", &url, "--pin", &pin, "--state"]);
        command.arg(folder);
        if let Some(key) = key {
            command.args(["--enrol-key", key]);
        }
        Running::start(command)
    };
    let mut agent = run(Some(key), folder.path());
    agent.until("the agent works");
    let approved = loop {
        let agents = ask(state.path(), &["agent", "list"]);
        let agents = agents.as_array().unwrap();
        if let Some(agent) = agents.iter().find(|agent| agent["state"] == "approved") {
            break agent.clone();
        }
    };
    assert_eq!(approved["wires"], serde_json::json!(["fusion"]));

    // The key was for one agent.
    let stranger = tempfile::tempdir().unwrap();
    let mut second = run(Some(key), stranger.path());
    second.until("the agent works");
    second.until("no tasks from the server");
    second.signal(Signal::TERM);
    second.end();
    let agents = ask(state.path(), &["agent", "list"]);
    let approved = agents
        .as_array()
        .unwrap()
        .iter()
        .filter(|agent| agent["state"] == "approved");
    assert_eq!(approved.count(), 1, "{agents}");

    agent.signal(Signal::TERM);
    let (code, _, said) = agent.end();
    assert_eq!(code, 0, "{said}");
    assert!(!said.contains(key), "the key is shown nowhere: {said}");
    server.signal(Signal::TERM);
    assert_eq!(server.end().0, 0);
}

/// SHA-256 of the certificate in a PEM file, in hex.
fn fingerprint(path: &Path) -> String {
    let path = path.to_str().unwrap();
    let output = Command::new("openssl")
        .args(["x509", "-in", path, "-noout", "-fingerprint", "-sha256"])
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    text.trim().rsplit('=').next().unwrap().to_owned()
}

#[test]
fn a_database_is_checked_before_it_is_used() {
    let state = tempfile::tempdir().unwrap();
    let check = |args: &[&str]| {
        let mut command = muster(&["server", "check", "-o", "json", "--state"]);
        command.arg(state.path()).args(args).output().unwrap()
    };
    let fresh = object(&check(&[]));
    assert_eq!(fresh["schema"], "not there yet");
    assert!(
        !state.path().join("muster.db").exists(),
        "a check makes nothing"
    );
    let mut migrate = muster(&["server", "migrate", "-o", "json", "--state"]);
    let migrated = object(&migrate.arg(state.path()).output().unwrap());
    assert!(migrated["applied"].as_u64().unwrap() > 0);
    assert_eq!(object(&check(&[]))["schema"], "ready");
    let wrong = check(&["--listen-http", "nowhere"]);
    assert_eq!(wrong.status.code(), Some(1));
    assert!(
        stderr(&wrong).contains("CONFIG_INVALID"),
        "{}",
        stderr(&wrong)
    );
}
