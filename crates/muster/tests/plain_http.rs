//! Plain http between two machines: an agent works over it only when its own configuration says so.
//!
//! Needs root, for two network namespaces with a wire between them.

#![expect(clippy::unwrap_used, reason = "a test that unwraps nothing has failed")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use muster_sim::netns::Namespace;
use muster_sim::peers::{Peer, program, wait_until};
use serde_json::Value;

const SERVER: &str = "10.77.0.1";

fn muster(namespace: &Namespace, state: &Path) -> Command {
    let mut command = namespace.command(env!("CARGO_BIN_EXE_muster"));
    command.env_clear().env("HOME", "/root").arg("--state");
    command.arg(state);
    command
}

fn cli(namespace: &Namespace, state: &Path, arguments: &[&str]) -> Value {
    let mut command = muster(namespace, state);
    let output = command
        .args(["-o", "json"])
        .args(arguments)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "muster {arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn an_agent_says_itself_whether_plain_http_may_leave_its_machine() {
    if program("ip", "iproute2").is_none() {
        return;
    }
    let (Some(here), Some(there)) = (Namespace::new(), Namespace::new()) else {
        return;
    };
    here.join(&format!("{SERVER}/24"), &there, "10.77.0.2/24");
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| -> PathBuf { folder.path().join(name) };
    let state = path("server");
    let mut server = muster(&here, &state);
    server.args(["server", "run", "--listen-insecure", "--enrol-policy=key"]);
    server.args(["--listen-http", &format!("{SERVER}:8080")]);
    server.args(["--listen-https", &format!("{SERVER}:8443")]);
    server.args(["--listen-teeth=off", "--listen-zabbix=off"]);
    server.args(["--fusion-contact-interval", "1s"]);
    let log = path("server.log");
    let _server = Peer::start(&mut server, &log);
    let up = || state.join("addresses.json").exists();
    assert!(
        wait_until(Duration::from_secs(30), up),
        "{}",
        fs::read_to_string(&log).unwrap()
    );
    // The admin API is for loopback clients on http: the command line goes over https here.
    let server = |arguments: &[&str]| {
        let mut all = vec!["--url", "https://10.77.0.1:8443"];
        all.extend(arguments);
        cli(&here, &state, &all)
    };
    let key = server(&["agent", "key", "create"]);
    let key = key["key"].as_str().unwrap().to_owned();
    let plain = format!("http://{SERVER}:8080/");
    let agent = |name: &str| {
        let mut command = muster(&there, &path(name));
        command.args(["agent", "run", "--enrol-key", &key, "--server"]);
        command
    };

    // Without leave it does not even try.
    let refused = agent("one").arg(&plain).output().unwrap();
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(1), "{said}");
    assert!(said.contains("[TLS_UNTRUSTED]"), "{said}");
    assert!(said.contains("plain http to another machine"), "{said}");
    assert!(said.contains("agent.insecure"), "{said}");
    assert_eq!(server(&["agent", "list"]), serde_json::json!([]));

    // With leave, from the file in its own state folder, it works.
    fs::write(path("one/muster.toml"), "[agent]\ninsecure = true\n").unwrap();
    let log = path("agent.log");
    let _agent = Peer::start(agent("one").arg(&plain), &log);
    let come = || {
        let agents = server(&["agent", "list"]);
        agents[0]["state"] == "approved"
    };
    assert!(
        wait_until(Duration::from_secs(30), come),
        "{}",
        fs::read_to_string(&log).unwrap()
    );
    let run = server(&["task", "create", "inventory", "--any", "--wait"]);
    assert_eq!(run["end"], "succeeded", "{run}");
    let said = fs::read_to_string(&log).unwrap();
    assert!(said.contains("agent.insecure"), "a warning: {said}");
}
