//! The real fusioninventory-agent 2.6, a real snmpd and simulated SNMP devices, in a network
//! namespace of their own, against the `muster` that users run.
//!
//! Needs root, for the namespace. What is missing is said loudly, and is a failure in CI.

#![expect(clippy::unwrap_used, reason = "a test that unwraps nothing has failed")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use muster_sim::netns::{Namespace, run};
use muster_sim::peers::{Peer, program, wait_until};
use serde_json::{Value, json};
use tempfile::TempDir;

/// Simulated devices from 127.0.0.2 on, and what they call themselves.
const DEVICES: [(&str, &str); 4] = [
    ("switch-procurve", "sw-lab-1"),
    ("printer-laserjet", "prt-lab-1"),
    ("router-ios", "rt-lab-1"),
    ("ups-smart", "ups-lab-1"),
];

const SNMPD_CONF: &str = "agentaddress udp:127.0.0.1:161\n\
    rocommunity public\n\
    sysName snmpd-host\n\
    sysLocation Test bench\n\
    sysContact root@example.org\n";

/// All of them, and the real snmpd.
const NAMES: [&str; 5] = [
    "prt-lab-1",
    "rt-lab-1",
    "snmpd-host",
    "sw-lab-1",
    "ups-lab-1",
];

/// Programs and the packages that bring them.
const NEEDED: [(&str, &str); 6] = [
    (
        "fusioninventory-agent",
        "fusioninventory-agent fusioninventory-agent-task-network",
    ),
    ("ip", "iproute2"),
    ("snmpd", "snmpd"),
    ("snmpget", "snmp"),
    ("snmpsimd", "snmpsim"),
    ("unshare", "util-linux"),
];

/// Server, devices and folders. Fields are dropped in order: peers before their namespace.
struct Bench {
    server: Option<Peer>,
    _devices: Vec<Peer>,
    namespace: Namespace,
    folder: TempDir,
}

impl Bench {
    /// `None`, said loudly, where the real peers are not.
    fn new() -> Option<Self> {
        for (wanted, package) in NEEDED {
            program(wanted, package)?;
        }
        let namespace = Namespace::new()?;
        let folder = tempfile::tempdir().unwrap();
        // The simulator drops its privileges and must still get at its files.
        run(Command::new("chmod").arg("755").arg(folder.path()));
        let devices = start_devices(&namespace, folder.path());
        let mut bench = Self {
            server: None,
            _devices: devices,
            namespace,
            folder,
        };
        bench.start_server();
        Some(bench)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn muster(&self, state: &str) -> Command {
        let mut command = self.namespace.command(env!("CARGO_BIN_EXE_muster"));
        command
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .env("HOME", "/root");
        command.arg("--state").arg(self.path(state));
        command
    }

    fn start_server(&mut self) {
        let mut command = self.muster("state");
        command.args(["server", "run", "--enrol-policy", "loopback"]);
        command.args(["--fusion-contact-interval", "2s"]);
        let log = self.path("server.log");
        self.server = Some(Peer::start(&mut command, &log));
        let addresses = self.path("state/addresses.json");
        assert!(
            wait_until(Duration::from_secs(30), || addresses.exists()),
            "the server does not start: {}",
            fs::read_to_string(log).unwrap()
        );
    }

    /// Runs the command line and reads what it prints.
    fn cli(&self, arguments: &[&str]) -> Value {
        let output = self
            .muster("state")
            .args(["-o", "json"])
            .args(arguments)
            .output()
            .unwrap();
        let (out, err) = (
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr),
        );
        assert!(output.status.success(), "muster {arguments:?}: {out}{err}");
        serde_json::from_str(&out).unwrap_or_else(|e| panic!("muster {arguments:?}: {e}: {out}"))
    }

    /// One pass of the real agent, which then ends. It keeps its identity in the bench.
    fn agent_pass(&self, tasks: &str) -> String {
        let vardir = self.path("agent");
        fs::create_dir_all(&vardir).unwrap();
        let script = format!(
            "mount --bind {} /var/lib/fusioninventory-agent && hostname lab-host && exec \
             fusioninventory-agent --config=none --no-httpd --logger=stderr --debug --tag=lab \
             --server=http://127.0.0.1:8080/glpi/plugins/fusioninventory/ --tasks={tasks}",
            vardir.display()
        );
        // In mount and UTS namespaces of its own: neither its state nor its name is this machine's.
        let mut command = self.namespace.command("unshare");
        command.args(["--mount", "--uts", "timeout", "120", "sh", "-c", &script]);
        command
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        command.env("LANG", "C").env("HOME", "/root");
        let output = command.output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let errors: Vec<&str> = said.lines().filter(|l| l.starts_with("[error]")).collect();
        assert!(errors.is_empty(), "the agent complains: {errors:?}");
        said
    }

    /// One pass of the real glpi-agent out of its source tree, with the key as OAuth2 client secret.
    fn glpi_pass(&self, tree: &Path, key: &str) -> String {
        let vardir = self.path("glpi-agent");
        fs::create_dir_all(&vardir).unwrap();
        let script = format!(
            "cd {} && hostname glpi-host && exec perl -Ilib bin/glpi-agent --config=none \
             --vardir={} --no-httpd --logger=stderr --debug --tasks=inventory,netdiscovery \
             --server=http://127.0.0.1:8080/plugins/fusioninventory/ --no-category=process \
             --oauth-client-id=lab --oauth-client-secret={key} --force",
            tree.display(),
            vardir.display()
        );
        let mut command = self.namespace.command("unshare");
        command.args(["--uts", "timeout", "120", "sh", "-c", &script]);
        command
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        command.env("LANG", "C").env("HOME", "/root");
        let output = command.output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let errors: Vec<&str> = said.lines().filter(|l| l.starts_with("[error]")).collect();
        assert!(errors.is_empty(), "the agent complains: {errors:?}");
        said
    }

    /// One HTTP exchange from inside the namespace, by the means of a shell.
    fn http(&self, method: &str, path: &str, body: &str) -> (u16, Value) {
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:8080\r\nConnection: close\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        let file = self.path("request");
        fs::write(&file, request).unwrap();
        let script = format!(
            "exec 3<>/dev/tcp/127.0.0.1/8080 && cat {} >&3 && timeout 60 cat <&3",
            file.display()
        );
        let output = run(self.namespace.command("bash").args(["-c", &script]));
        let text = String::from_utf8(output.stdout).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        (
            status,
            serde_json::from_str(body).unwrap_or_else(|_| json!(body)),
        )
    }

    fn host_names(&self) -> Vec<String> {
        let hosts = self.cli(&["host", "list"]);
        let mut names: Vec<String> = hosts
            .as_array()
            .unwrap()
            .iter()
            .map(|host| host["name"].as_str().unwrap().to_owned())
            .collect();
        names.sort();
        names
    }
}

fn start_devices(namespace: &Namespace, folder: &Path) -> Vec<Peer> {
    let mut peers = Vec::new();
    let conf = folder.join("snmpd.conf");
    fs::write(&conf, SNMPD_CONF).unwrap();
    let mut snmpd = namespace.command("snmpd");
    snmpd.args(["-f", "-Lo", "-C", "-c"]).arg(&conf);
    snmpd.arg("-p").arg(folder.join("snmpd.pid"));
    snmpd.env("SNMP_PERSISTENT_DIR", folder.join("persist"));
    peers.push(Peer::start(&mut snmpd, &folder.join("snmpd.log")));
    let walks = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../captures/snmp");
    for (number, (device, _)) in (2..).zip(DEVICES) {
        let data = folder.join("dev").join(device);
        let cache = folder.join("cache").join(device);
        fs::create_dir_all(&data).unwrap();
        fs::create_dir_all(&cache).unwrap();
        // The name of the file is the community.
        fs::copy(
            walks.join(format!("{device}.snmprec")),
            data.join("public.snmprec"),
        )
        .unwrap();
        run(Command::new("chown")
            .args(["-R", "nobody:nogroup"])
            .arg(&data)
            .arg(&cache));
        let mut simulator = namespace.command("snmpsimd");
        simulator.arg(format!("--data-dir={}", data.display()));
        simulator.arg(format!("--cache-dir={}", cache.display()));
        simulator.arg(format!("--agent-udpv4-endpoint=127.0.0.{number}:161"));
        simulator.args([
            "--process-user=nobody",
            "--process-group=nogroup",
            "--logging-method=null",
        ]);
        peers.push(Peer::start(
            &mut simulator,
            &folder.join(format!("{device}.log")),
        ));
    }
    for number in 1..=5 {
        let address = format!("127.0.0.{number}");
        let answers = || {
            let mut get = namespace.command("snmpget");
            get.args([
                "-v2c",
                "-cpublic",
                "-t1",
                "-r0",
                &address,
                "1.3.6.1.2.1.1.5.0",
            ]);
            get.output().unwrap().status.success()
        };
        assert!(
            wait_until(Duration::from_secs(60), answers),
            "no SNMP device at {address}"
        );
    }
    peers
}

fn names_of(result: &Value) -> Vec<&str> {
    let devices = result["devices"].as_array();
    let devices = devices.unwrap_or_else(|| panic!("no devices in {result}"));
    let mut names: Vec<&str> = devices
        .iter()
        .map(|device| device["snmphostname"].as_str().unwrap())
        .collect();
    names.sort_unstable();
    names
}

const DISCOVERY: [&str; 11] = [
    "--target",
    "127.0.0.1-127.0.0.2",
    "--target",
    "127.0.0.3-127.0.0.5",
    "--credential",
    "v2c:public",
    "--workers",
    "5",
    "--wait",
    "--timeout",
    "150s",
];

#[test]
fn the_real_agent_inventories_itself_and_discovers() {
    let Some(bench) = Bench::new() else {
        return;
    };
    bench.agent_pass("inventory");
    let agents = bench.cli(&["agent", "list"]);
    let agent = &agents[0];
    assert_eq!(agent["name"], "lab-host");
    assert_eq!(
        (&agent["wire"], &agent["state"]),
        (&json!("fusion"), &json!("approved"))
    );
    assert_eq!(
        (&agent["software"], &agent["version"]),
        (&json!("fusioninventory-agent"), &json!("2.6-3"))
    );
    let host = bench.cli(&["host", "show", "lab-host"]);
    assert_eq!(host["sources"][0]["what"], "inventory");
    assert_eq!(host["inventory"]["hardware"]["name"], "lab-host");
    let software = host["inventory"]["softwares"].as_array().unwrap();
    assert!(
        software
            .iter()
            .any(|s| s["name"] == "fusioninventory-agent"),
        "{}",
        software.len()
    );
    assert_eq!(agent["host"], host["id"]);

    // The command line waits while the agent comes, works and goes. An agent that came just before
    // the start of the run gets it when it comes again.
    let mut create = vec!["task", "create", "netdiscovery", "--agent", "lab-host"];
    create.extend(DISCOVERY);
    let run = std::thread::scope(|scope| {
        let waiting = scope.spawn(|| bench.cli(&create));
        let done = wait_until(Duration::from_secs(120), || {
            bench.agent_pass("inventory,netdiscovery");
            waiting.is_finished()
        });
        assert!(done, "the run does not end");
        waiting.join().unwrap()
    });
    assert_eq!(
        (&run["state"], &run["end"]),
        (&json!("ended"), &json!("succeeded")),
        "{run}"
    );
    assert_eq!(names_of(&run["result"]), NAMES);
    assert_eq!(run["agents"][0]["name"], "lab-host");
    let mut expected = NAMES.to_vec();
    expected.push("lab-host");
    expected.sort_unstable();
    assert_eq!(bench.host_names(), expected);
    let switch = bench.cli(&["host", "show", "sw-lab-1"]);
    assert_eq!(switch["serial"], "CN000MUST1");
    assert_eq!(switch["type"], "networking");
    assert_eq!(switch["macs"], json!(["02:4d:53:01:00:00"]));
    assert_eq!(switch["sources"][0]["what"], "discovery");
}

#[test]
fn a_discovery_posted_to_pscheduler_is_done_by_the_real_agent() {
    let Some(bench) = Bench::new() else {
        return;
    };
    bench.agent_pass("inventory");
    let task = json!({
        "schema": 1,
        "test": {
            "type": "netdiscovery",
            "spec": {
                "schema": 1,
                "targets": ["127.0.0.1-127.0.0.5"],
                "workers": 5,
                "timeout": "PT1S",
                "_credentials": [{"version": "2c", "community": "public"}],
            },
        },
        "schedule": {"start": "PT1S", "slip": "PT10M"},
    });
    let (status, answer) = bench.http("POST", "/pscheduler/tasks", &task.to_string());
    assert_eq!(status, 200, "{answer}");
    let url = answer.as_str().unwrap().to_owned();
    let id = url.rsplit('/').next().unwrap();
    let shown = bench.cli(&["task", "show", id]);
    assert_eq!(
        (&shown["kind"], &shown["origin"]),
        (&json!("netdiscovery"), &json!("pscheduler"))
    );
    assert!(
        !shown.to_string().contains("public"),
        "the community is not shown again"
    );

    let mut run = Value::Null;
    let done = wait_until(Duration::from_secs(120), || {
        bench.agent_pass("netdiscovery");
        run = bench.cli(&["run", "list", "--task", id])[0].clone();
        run["state"] == "ended"
    });
    assert!(done, "{run}");
    let run_id = run["id"].as_str().unwrap();
    let run = bench.cli(&["run", "show", run_id]);
    assert_eq!(run["end"], "succeeded", "{run}");
    assert_eq!(run["agents"][0]["name"], "lab-host");
    assert_eq!(names_of(&run["result"]), NAMES);

    // The same story on the other wire, in its words.
    let path = url
        .split_once("8080")
        .map_or(url.as_str(), |(_, path)| path);
    let (status, told) = bench.http("GET", &format!("{path}/runs/{run_id}"), "");
    assert_eq!(status, 200, "{told}");
    assert_eq!(told["state"], "finished", "{told}");
    assert_eq!(names_of(&told["result-merged"]), NAMES);

    // And why it went as it did.
    let explained = bench.cli(&["explain", "run", run_id]);
    assert_eq!(explained["subject"]["id"], run_id);
    let steps = explained["steps"].as_array().unwrap();
    for check in ["offer", "begin", "close"] {
        assert!(
            steps
                .iter()
                .any(|step| step["check"].as_str().unwrap().contains(check)),
            "{check}: {explained:#}"
        );
    }
    assert!(explained.to_string().contains("lab-host"), "{explained:#}");
    for name in NAMES {
        assert!(bench.host_names().contains(&name.to_owned()), "{name}");
    }
}

/// The real glpi-agent is in no Debian package: its source tree is named by the one who has it.
#[test]
#[expect(
    clippy::print_stderr,
    reason = "a test that does not run must not look like one that did"
)]
fn the_real_glpi_agent_speaks_json_and_discovers() {
    let Some(tree) = std::env::var_os("MUSTER_GLPI_AGENT").map(PathBuf::from) else {
        eprintln!("\n*** NOT RUN: MUSTER_GLPI_AGENT names no source tree of glpi-agent ***\n");
        return;
    };
    let Some(bench) = Bench::new() else {
        return;
    };
    let key = bench.cli(&["agent", "key", "create", "--label", "glpi"]);
    let key = key["key"].as_str().unwrap();
    // The first pass begins with a PROLOG and sends its inventory as JSON.
    let said = bench.glpi_pass(&tree, key);
    assert!(said.contains("supports GLPI Agent protocol"), "{said}");
    let agent = bench.cli(&["agent", "show", "glpi-host"]);
    assert_eq!(
        (&agent["software"], &agent["state"]),
        (&json!("glpi-agent"), &json!("approved"))
    );
    let host = bench.cli(&["host", "show", "glpi-host"]);
    assert_eq!(host["inventory"]["hardware"]["name"], "glpi-host");
    assert_eq!(agent["host"], host["id"]);

    // The next ones begin with a contact; the discovery comes with the PROLOG that follows it.
    let mut create = vec!["task", "create", "netdiscovery", "--agent", "glpi-host"];
    create.extend(DISCOVERY);
    let run = std::thread::scope(|scope| {
        let waiting = scope.spawn(|| bench.cli(&create));
        let done = wait_until(Duration::from_secs(120), || {
            let said = bench.glpi_pass(&tree, key);
            assert!(said.contains("sending contact request"), "{said}");
            waiting.is_finished()
        });
        assert!(done, "the run does not end");
        waiting.join().unwrap()
    });
    assert_eq!(run["end"], "succeeded", "{run}");
    assert_eq!(names_of(&run["result"]), NAMES);
    let switch = bench.cli(&["host", "show", "sw-lab-1"]);
    assert_eq!(switch["serial"], "CN000MUST1");
}

#[test]
fn our_agent_does_the_same_over_p1() {
    let Some(bench) = Bench::new() else {
        return;
    };
    let mut command = bench.muster("agent-state");
    command.args(["agent", "run", "--server", "http://127.0.0.1:8080/"]);
    let log = bench.path("agent.log");
    let _agent = Peer::start(&mut command, &log);
    let known = || bench.cli(&["agent", "list"])[0]["online"] == true;
    assert!(
        wait_until(Duration::from_secs(30), known),
        "our agent does not come: {}",
        fs::read_to_string(&log).unwrap()
    );
    let agent = bench.cli(&["agent", "list"])[0].clone();
    assert_eq!(
        (&agent["software"], &agent["wire"]),
        (&json!("muster"), &json!("fusion"))
    );
    let mut create = vec!["task", "create", "netdiscovery", "--any"];
    create.extend(DISCOVERY);
    let run = bench.cli(&create);
    assert_eq!(
        (&run["state"], &run["end"]),
        (&json!("ended"), &json!("succeeded")),
        "{run}"
    );
    assert_eq!(names_of(&run["result"]), NAMES);
    assert_eq!(run["agents"][0]["id"], agent["id"]);

    let run = bench.cli(&["task", "create", "inventory", "--any", "--wait"]);
    assert_eq!(run["end"], "succeeded", "{run}");
    let own = bench.cli(&["agent", "show", agent["id"].as_str().unwrap()]);
    let host = bench.cli(&["host", "show", own["host"].as_str().unwrap()]);
    assert!(host["inventory"]["hardware"]["name"].is_string(), "{host}");
    // A network that the agent's own policy does not allow is refused by the agent, in its words.
    let mut refused = bench.muster("state");
    refused.args(["-o", "json", "task", "create", "netdiscovery", "--any"]);
    refused.args(["--target", "192.0.2.1", "--wait", "--timeout", "60s"]);
    let output = refused.output().unwrap();
    assert_eq!(output.status.code(), Some(1), "it failed");
    let run: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(run["state"], "ended");
    assert!(
        run["reason"].as_str().unwrap().contains("local policy"),
        "{run}"
    );
}
