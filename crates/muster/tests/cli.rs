//! The command line against a live server: formats, exit codes, the form of errors, and that what
//! is secret stays so.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::Value;

/// A `muster server run` with a state folder of its own, on free ports.
struct Server {
    child: Child,
    state: tempfile::TempDir,
    log: Arc<Mutex<String>>,
    reader: Option<std::thread::JoinHandle<()>>,
}

impl Server {
    fn start(log_level: &str) -> Self {
        let state = tempfile::tempdir().expect("a folder");
        let mut child = Command::new(env!("CARGO_BIN_EXE_muster"))
            .args(["server", "run", "--enrol-policy", "loopback"])
            .args([
                "--listen-http",
                "127.0.0.1:0",
                "--listen-https",
                "127.0.0.1:0",
            ])
            .args([
                "--listen-teeth",
                "127.0.0.1:0",
                "--listen-zabbix",
                "127.0.0.1:0",
            ])
            .arg("--state")
            .arg(state.path())
            .env_clear()
            .env("MUSTER_LOG", log_level)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the server starts");
        let mut lines = BufReader::new(child.stderr.take().expect("its stderr"));
        let log = Arc::new(Mutex::new(String::new()));
        // The line that it serves comes after addresses.json is written.
        loop {
            let mut line = String::new();
            let read = lines.read_line(&mut line).expect("its log");
            assert!(read > 0, "the server ended: {}", text(&log));
            lock(&log).push_str(&line);
            if line.contains(" serves") {
                break;
            }
        }
        let copy = Arc::clone(&log);
        let reader = std::thread::spawn(move || {
            let mut line = String::new();
            while lines.read_line(&mut line).is_ok_and(|read| read > 0) {
                lock(&copy).push_str(&line);
                line.clear();
            }
        });
        Self {
            child,
            state,
            log,
            reader: Some(reader),
        }
    }

    fn addresses(&self) -> Value {
        let text = std::fs::read(self.state.path().join("addresses.json")).expect("addresses");
        serde_json::from_slice(&text).expect("addresses are JSON")
    }

    fn address(&self, listener: &str) -> String {
        self.addresses()[listener]
            .as_str()
            .expect("a bound listener")
            .to_owned()
    }

    fn muster(&self, args: &[&str]) -> Output {
        muster(&[args, &["--state", &self.state.path().to_string_lossy()]].concat())
    }

    /// Data of a command that must succeed.
    fn json(&self, args: &[&str]) -> Value {
        let output = self.muster(args);
        assert_eq!(output.status.code(), Some(0), "{args:?}: {}", err(&output));
        serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|e| panic!("{args:?}: {e}: {}", out(&output)))
    }

    /// An agent that makes contact over the fusion wire and is approved, for it comes from loopback.
    fn contact(&self, agent: &str, modules: &[&str]) {
        let modules: String = modules
            .iter()
            .map(|module| format!("&module%5B%27{module}%27%5D=1.0"))
            .collect();
        let mut stream = TcpStream::connect(self.address("http")).expect("the http listener");
        let request = format!(
            "GET /plugins/fusioninventory/api/tasks?agentid={agent}{modules} HTTP/1.1\r\n\
             Host: localhost\r\nConnection: close\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).expect("a request");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }

    /// Ends the server and gives everything it logged.
    fn end(mut self) -> String {
        self.stop();
        text(&self.log)
    }

    fn stop(&mut self) {
        let pid = i32::try_from(self.child.id())
            .ok()
            .and_then(rustix::process::Pid::from_raw);
        if let Some(pid) = pid.filter(|_| self.child.try_wait().is_ok_and(|ended| ended.is_none()))
        {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
        let _ = self.child.wait();
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}

fn lock(log: &Arc<Mutex<String>>) -> std::sync::MutexGuard<'_, String> {
    log.lock().unwrap_or_else(PoisonError::into_inner)
}

fn text(log: &Arc<Mutex<String>>) -> String {
    lock(log).clone()
}

fn muster(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_muster"))
        .args(args)
        .env_clear()
        .stdin(Stdio::null())
        .output()
        .expect("the program starts")
}

fn out(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn err(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn data_comes_in_every_format() {
    let server = Server::start("info");
    for name in ["web-1", "web-2"] {
        server.json(&["host", "create", name, "--address", "192.0.2.1"]);
    }
    let table = server.muster(&["host", "list", "-o", "table"]);
    let lines: Vec<String> = out(&table).lines().map(str::to_owned).collect();
    assert!(lines[0].starts_with("NAME "), "{lines:?}");
    assert!(
        lines[1].starts_with("web-1 ") && lines[2].starts_with("web-2 "),
        "{lines:?}"
    );
    assert_eq!(lines.len(), 3);

    let json = server.json(&["host", "list", "-o", "json"]);
    assert_eq!(json.as_array().map(Vec::len), Some(2));
    assert_eq!(
        json,
        server.json(&["host", "list"]),
        "json where stdout is no terminal"
    );
    assert!(
        json[0].get("inventory").is_none(),
        "lists leave the inventory out"
    );

    let jsonl = server.muster(&["host", "list", "-o", "jsonl"]);
    let rows: Vec<Value> = out(&jsonl)
        .lines()
        .map(|line| serde_json::from_str(line).expect("a line is JSON"))
        .collect();
    assert_eq!(Value::from(rows), json);

    let csv = out(&server.muster(&["host", "list", "-o", "csv"]));
    assert!(csv.starts_with("name,addresses,"), "{csv}");
    assert_eq!(csv.lines().count(), 3);

    let yaml = out(&server.muster(&["host", "list", "-o", "yaml"]));
    let yaml: Value = serde_yaml_ng::from_str(&yaml).expect("yaml");
    assert_eq!(yaml, json);

    let one = server.json(&["host", "show", "web-1"]);
    assert!(one.get("inventory").is_some());
    let id = one["id"].as_str().expect("an id");
    assert_eq!(server.json(&["host", "show", id]), one);
    assert_eq!(
        server.json(&["host", "show", &id[..8]]),
        one,
        "a unique beginning of an id"
    );
    for format in ["table", "json", "jsonl", "csv", "yaml"] {
        for command in [
            "status",
            "kind list",
            "agent list",
            "task list",
            "run list",
            "item list",
        ] {
            let args: Vec<&str> = command.split(' ').chain(["-o", format]).collect();
            let output = server.muster(&args);
            assert_eq!(output.status.code(), Some(0), "{args:?}: {}", err(&output));
            assert!(output.stderr.is_empty(), "{args:?}: {}", err(&output));
        }
    }
}

#[test]
fn every_exit_code_has_its_cause() {
    let server = Server::start("info");
    server.json(&["host", "create", "web-1"]);
    server.contact("lab-7", &["inventory"]);
    let wrong = server.state.path().join("wrong.token");
    std::fs::write(&wrong, "mat_wrong").expect("a file");
    let wrong = wrong.to_string_lossy().into_owned();
    for (args, code, word) in [
        (vec!["status"], 0, ""),
        (vec!["host", "create", "web-1"], 1, "HOST_EXISTS"),
        (
            vec![
                "item",
                "create",
                "--host",
                "web-1",
                "--key",
                "k",
                "--type",
                "agent",
                "--value-type",
                "float",
            ],
            1,
            "ITEM_NEEDS_DELAY",
        ),
        (vec!["task", "create"], 2, "USAGE"),
        (vec!["task", "create", "rtt", "--spec", "{"], 2, "USAGE"),
        (vec!["task", "create", "idle", "--repeat", "5x"], 2, "USAGE"),
        (
            vec![
                "task",
                "create",
                "netdiscovery",
                "--target",
                "10.0.0.9-10.0.0.1",
            ],
            2,
            "USAGE",
        ),
        (
            vec!["task", "create", "netdiscovery", "--credential", "v9:x"],
            2,
            "USAGE",
        ),
        (vec!["no-such-command"], 2, "USAGE"),
        (vec!["agent", "show", "nobody"], 3, "AGENT_NOT_FOUND"),
        (vec!["run", "show", "ffffffff"], 3, "RUN_NOT_FOUND"),
        (vec!["task", "create", "no-such-kind"], 3, "KIND_NOT_FOUND"),
        (vec!["item", "get", "no.such.key"], 3, "NOT_FOUND"),
        (
            vec!["status", "--token-file", &wrong],
            4,
            "NOT_AUTHENTICATED",
        ),
        (
            vec!["status", "--token-file", "/nonexistent"],
            4,
            "NO_TOKEN",
        ),
        (
            vec!["status", "--url", "http://127.0.0.1:1"],
            5,
            "UNREACHABLE",
        ),
        (
            vec![
                "task",
                "create",
                "inventory",
                "--agent",
                "lab-7",
                "--wait",
                "--timeout",
                "1s",
            ],
            124,
            "TIMED_OUT",
        ),
    ] {
        let output = server.muster(&args);
        assert_eq!(
            output.status.code(),
            Some(code),
            "{args:?}: {}",
            err(&output)
        );
        if !word.is_empty() {
            assert!(
                err(&output).contains(&format!("[{word}]")),
                "{args:?}: {}",
                err(&output)
            );
            let output = server.muster(&[args.as_slice(), &["-o", "json"]].concat());
            assert_eq!(output.status.code(), Some(code), "{args:?}");
            let problem: Value = serde_json::from_str(&err(&output)).expect("an object on stderr");
            assert_eq!(problem["code"], word, "{args:?}");
            for member in ["title", "detail", "hint", "docs"] {
                assert!(problem.get(member).is_some(), "{args:?}: {member}");
            }
        }
    }
}

#[test]
fn an_error_is_a_sentence_with_its_code_and_a_next_step() {
    let server = Server::start("info");
    let output = server.muster(&["agent", "show", "nobody"]);
    assert_eq!(out(&output), "");
    assert_eq!(
        err(&output),
        "error: there is no agent \"nobody\" [AGENT_NOT_FOUND]\n  \
         next: `muster agent list` shows those there are\n"
    );
    let nowhere = tempfile::tempdir().expect("a folder");
    let output = muster(&["status", "--state", &nowhere.path().to_string_lossy()]);
    assert_eq!(output.status.code(), Some(5));
    let said = err(&output);
    assert!(
        said.starts_with("error: no server is running here [NO_SERVER]\n"),
        "{said}"
    );
    assert!(said.contains("\n  next: `muster up`"), "{said}");
}

#[test]
fn values_go_in_by_send_and_come_out_exact() {
    let server = Server::start("info");
    server.json(&["host", "create", "web-1"]);
    for (key, value_type) in [("count", "unsigned"), ("load", "float"), ("note", "text")] {
        let item = server.json(&[
            "item",
            "create",
            "--host",
            "web-1",
            "--key",
            key,
            "--type",
            "trapper",
            "--value-type",
            value_type,
        ]);
        assert_eq!(
            (item["key"].as_str(), item["state"].as_str()),
            (Some(key), Some("normal"))
        );
    }
    for (key, value) in [
        ("count", "18446744073709551615"),
        ("load", "-0.1"),
        ("note", "=1+1"),
    ] {
        let answer = server.json(&["send", "--host", "web-1", "--key", key, "--value", value]);
        assert_eq!(answer["response"], "success");
        assert!(
            answer["info"]
                .as_str()
                .is_some_and(|info| info.starts_with("processed: 1; failed: 0"))
        );
    }
    let refused = server.muster(&["send", "--host", "web-1", "--key", "absent", "--value", "1"]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(
        err(&refused).contains("[SEND_REFUSED]"),
        "{}",
        err(&refused)
    );

    let count = out(&server.muster(&["item", "history", "web-1:count"]));
    assert!(count.contains("18446744073709551615"), "{count}");
    let by_key = server.json(&["item", "history", "--host", "web-1", "--key", "load"]);
    assert_eq!(by_key[0]["value"], -0.1);
    let csv = out(&server.muster(&["item", "history", "note", "-o", "csv"]));
    assert!(
        csv.lines()
            .nth(1)
            .is_some_and(|line| line.ends_with(",'=1+1")),
        "{csv}"
    );
    let number = out(&server.muster(&["item", "history", "load", "-o", "csv"]));
    assert!(
        number
            .lines()
            .nth(1)
            .is_some_and(|line| line.ends_with(",-0.1")),
        "{number}"
    );
    let by_words = server.json(&["item", "history", "web-1", "count"]);
    assert_eq!(by_words[0]["value"], u64::MAX);
    let last = server.json(&["item", "get", "note"]);
    assert_eq!(last["last"]["value"], "=1+1");
}

#[test]
fn agents_tasks_and_runs_over_the_command_line() {
    let server = Server::start("info");
    server.contact("lab-7", &["inventory", "netdiscovery"]);
    let agents = server.json(&["agent", "list"]);
    assert_eq!(agents[0]["name"], "lab-7");
    assert_eq!(agents[0]["state"], "approved");
    let id = agents[0]["id"].as_str().expect("an id");
    assert_eq!(server.json(&["agent", "show", &id[..6]])["name"], "lab-7");

    let task = server.json(&[
        "task",
        "create",
        "netdiscovery",
        "--agent",
        "lab-7",
        "--target",
        "192.0.2.0/30",
        "--workers",
        "3",
        "--start",
        "+1h",
        "--slip",
        "5m",
        "--max-runs",
        "2",
        "--repeat",
        "1h",
    ]);
    assert_eq!(task["origin"], "cli");
    assert_eq!(task["workers"], 3);
    assert_eq!(task["schedule"]["repeat"], "PT1H");
    let task_id = task["id"].as_str().expect("an id");
    let shown = out(&server.muster(&[
        "task",
        "create",
        "inventory",
        "--agent",
        "lab-7",
        "-o",
        "table",
    ]));
    assert_eq!(
        shown.trim().len(),
        36,
        "a table of a new task is its id: {shown}"
    );
    assert_eq!(
        server
            .json(&["task", "list", "--kind", "inventory"])
            .as_array()
            .map(Vec::len),
        Some(1)
    );

    let denied = server.muster(&[
        "task",
        "create",
        "rtt",
        "--agent",
        "lab-7",
        "--spec",
        r#"{"dest":"localhost"}"#,
    ]);
    assert_eq!(denied.status.code(), Some(4), "{}", err(&denied));
    assert!(
        err(&denied).contains("[AGENT_LACKS_CAPABILITY]"),
        "{}",
        err(&denied)
    );

    let story = server.json(&["explain", "task", &task_id[..8]]);
    assert_eq!(story["subject"]["kind"], "task");
    assert!(
        story["steps"]
            .as_array()
            .is_some_and(|steps| !steps.is_empty())
    );
    let told = out(&server.muster(&["explain", "agent", "lab-7", "-o", "table"]));
    assert!(told.starts_with("agent lab-7 ("), "{told}");

    assert_eq!(
        server.json(&["task", "cancel", task_id])["state"],
        "cancelled"
    );
    let state = server.state.path().to_string_lossy().into_owned();
    let ended = muster(&["run", "list", "--state", "ended", "--state", &state]);
    assert_eq!(ended.status.code(), Some(0), "{}", err(&ended));

    assert_eq!(
        server.json(&["agent", "disable", "lab-7"])[0]["state"],
        "disabled"
    );
    assert_eq!(
        server.json(&["agent", "approve", "lab-7"])[0]["state"],
        "approved"
    );
    let some = server.muster(&["agent", "approve", "nobody", "lab-7"]);
    assert_eq!(some.status.code(), Some(3), "the first failure is told");
    assert!(out(&some).contains("lab-7"), "the others are done");
    server.json(&["agent", "remove", "lab-7"]);
    assert_eq!(
        server.json(&["agent", "list"]),
        Value::from(Vec::<Value>::new())
    );

    let key = server.json(&[
        "agent",
        "key",
        "create",
        "--once",
        "--expires",
        "1d",
        "--label",
        "lab",
    ]);
    assert!(
        key["key"]
            .as_str()
            .is_some_and(|key| key.starts_with("mek_"))
    );
}

#[test]
fn the_server_is_found_by_url_variable_and_certificate() {
    let server = Server::start("info");
    let token = std::fs::read_to_string(server.state.path().join("admin.token")).expect("a token");
    let token = token.trim();
    let http = format!("http://{}", server.address("http"));
    let https = format!("https://{}", server.address("https"));
    let state = server.state.path().to_string_lossy().into_owned();
    let nowhere = tempfile::tempdir().expect("a folder");
    let nowhere = nowhere.path().to_string_lossy().into_owned();
    let run = |args: &[&str], env: &[(&str, &str)]| {
        Command::new(env!("CARGO_BIN_EXE_muster"))
            .args(args)
            .env_clear()
            .envs(env.iter().copied())
            .output()
            .expect("the program starts")
    };
    for (args, env, code) in [
        (vec!["status"], vec![("MUSTER_STATE", state.as_str())], 0),
        (
            vec!["status"],
            vec![("MUSTER_URL", http.as_str()), ("MUSTER_TOKEN", token)],
            0,
        ),
        (
            vec!["status", "--url", &https, "--state", &state],
            vec![],
            0,
        ),
        (
            vec!["status", "--url", &https, "--state", &nowhere],
            vec![("MUSTER_TOKEN", token)],
            5,
        ),
        (
            vec!["status", "--state", &state],
            vec![("MUSTER_TOKEN", "mat_wrong")],
            4,
        ),
        (
            vec!["status", "--url", "ftp://x", "--state", &state],
            vec![],
            2,
        ),
    ] {
        let output = run(&args, &env);
        assert_eq!(
            output.status.code(),
            Some(code),
            "{args:?} {env:?}: {}",
            err(&output)
        );
    }
    let untrusted = run(
        &["status", "--url", &https, "--state", &nowhere],
        &[("MUSTER_TOKEN", token)],
    );
    assert!(
        err(&untrusted).contains("[TLS_UNTRUSTED]"),
        "{}",
        err(&untrusted)
    );
}

#[test]
fn probe_tells_what_listens() {
    let server = Server::start("info");
    let http = format!("http://{}", server.address("http"));
    for (wire, address) in [
        ("zabbix", server.address("zabbix")),
        ("teeth", server.address("teeth")),
        ("fusion", http.clone()),
        ("pscheduler", http),
    ] {
        let heard = server.json(&["probe", wire, &address]);
        assert_eq!(heard["speaks"], true, "{wire}: {heard}");
        assert_eq!(heard["wire"], wire);
    }
    let wrong = server.muster(&["probe", "zabbix", &server.address("http")]);
    assert_eq!(wrong.status.code(), Some(1), "{}", out(&wrong));
    assert!(err(&wrong).contains("[PROBE_FAILED]"), "{}", err(&wrong));
}

#[test]
fn idle_lines_are_held_and_weighed() {
    let server = Server::start("info");
    let figures = server.json(&["bench", "teeth", "--lines", "20", "--duration", "1s"]);
    assert_eq!(figures["lines"], 20);
    assert_eq!(figures["lost"], 0);
    assert!(figures["bytes_each"].is_number(), "{figures}");
    assert!(figures["ping_p95_ms"].is_number(), "{figures}");
    assert_eq!(
        server.json(&["agent", "list"]),
        Value::from(Vec::<Value>::new())
    );
    let nowhere = server.muster(&["bench", "teeth", "--server", "127.0.0.1:1", "--lines", "1"]);
    assert_eq!(nowhere.status.code(), Some(1));
    assert!(
        err(&nowhere).contains("[BENCH_FAILED]"),
        "{}",
        err(&nowhere)
    );
}

#[test]
fn a_load_of_contacts_is_counted_and_cleared_away() {
    let server = Server::start("info");
    let figures = server.json(&[
        "bench",
        "fusion",
        "--agents",
        "5",
        "--connections",
        "2",
        "--duration",
        "1s",
    ]);
    assert!(
        figures["contacts"].as_u64().is_some_and(|n| n > 0),
        "{figures}"
    );
    assert_eq!(figures["failed"], 0);
    assert!(
        figures["contacts_per_second"]
            .as_f64()
            .is_some_and(|n| n > 0.0)
    );
    assert!(figures["p95_ms"].is_number());
    assert_eq!(
        server.json(&["agent", "list"]),
        Value::from(Vec::<Value>::new())
    );
    let nowhere = server.muster(&[
        "bench",
        "fusion",
        "--server",
        "http://127.0.0.1:1",
        "--duration",
        "1s",
    ]);
    assert_eq!(nowhere.status.code(), Some(1));
    assert!(
        err(&nowhere).contains("[BENCH_FAILED]"),
        "{}",
        err(&nowhere)
    );
}

#[test]
fn the_admin_api_refuses_before_it_reads() {
    let server = Server::start("info");
    let token = std::fs::read_to_string(server.state.path().join("admin.token")).expect("a token");
    let bearer = format!("Authorization: Bearer {}\r\n", token.trim());
    let json = "Content-Type: application/json\r\n";
    for (head, length, body, status) in [
        (json.to_owned(), 1_000_000_000, "", "401"),
        (
            format!("{json}Authorization: Bearer wrong\r\n"),
            1_000_000_000,
            "",
            "401",
        ),
        (format!("{bearer}{json}"), 1_000_000_000, "", "413"),
        (
            format!("{bearer}Content-Type: text/plain\r\n"),
            1_000_000_000,
            "",
            "415",
        ),
        (
            format!("{bearer}{json}X-Forwarded-For: 192.0.2.1\r\n"),
            1_000_000_000,
            "",
            "403",
        ),
        (format!("{bearer}{json}"), 13, "{\"name\":\"a/b\"", "400"),
    ] {
        let mut stream = TcpStream::connect(server.address("http")).expect("the http listener");
        stream
            .set_read_timeout(Some(std::time::Duration::from_secs(5)))
            .expect("a deadline");
        let request = format!(
            "POST /api/v1/hosts HTTP/1.1\r\nHost: localhost\r\n{head}Content-Length: {length}\r\n\r\n{body}"
        );
        stream.write_all(request.as_bytes()).expect("a request");
        let mut answer = [0; 12];
        stream
            .read_exact(&mut answer)
            .expect("an answer before the body has come");
        let answer = String::from_utf8_lossy(&answer).into_owned();
        assert_eq!(answer, format!("HTTP/1.1 {status}"), "{head}");
    }
}

#[test]
fn what_is_secret_is_in_no_log_and_no_output() {
    let server = Server::start("trace");
    server.contact("lab-7", &["netdiscovery"]);
    let mut seen = String::new();
    for args in [
        vec![
            "task",
            "create",
            "netdiscovery",
            "--agent",
            "lab-7",
            "--target",
            "192.0.2.1",
            "--credential",
            "v2c:CANARY-community",
            "--credential",
            "v3:u,sha1,CANARY-auth,aes,CANARY-priv",
            "--spec",
            r#"{"_password":"CANARY-password"}"#,
        ],
        vec![
            "task",
            "create",
            "netdiscovery",
            "--credential",
            "v9:CANARY-wrong",
        ],
        vec!["task", "list"],
        vec!["run", "list"],
        vec!["agent", "key", "create", "-q"],
    ] {
        let output = server.muster(&[args.as_slice(), &["-vvv"]].concat());
        let key = args.contains(&"key");
        if !key {
            seen += &out(&output);
        }
        seen += &err(&output);
    }
    let run = server.json(&["run", "list"]);
    if let Some(id) = run[0]["id"].as_str() {
        seen += &out(&server.muster(&["run", "show", id]));
        seen += &out(&server.muster(&["explain", "run", id]));
    }
    // What strangers show: a password, a key of a task, and a name longer than a log field.
    let http = server.address("http");
    let send = |request: String| {
        let mut stream = TcpStream::connect(&http).expect("the http listener");
        stream.write_all(request.as_bytes()).expect("a request");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        answer
    };
    let head = "HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n";
    let name = "n".repeat(4000);
    let task = r#"{"schema":1,"_key":"CANARY-key","test":{"type":"noop","spec":{"data":{"_x":"CANARY-member"}}}}"#;
    for request in [
        // u:CANARY-basic
        format!(
            "GET /plugins/fusioninventory/api/tasks?agentid=x {head}Authorization: Basic dTpDQU5BUlktYmFzaWM=\r\n\r\n"
        ),
        format!("GET /plugins/fusioninventory/api/tasks?agentid={name} {head}\r\n"),
        format!("GET /api/v1/status {head}Authorization: Bearer CANARY-token\r\n\r\n"),
        format!(
            "POST /pscheduler/tasks {head}Content-Length: {}\r\n\r\n{task}",
            task.len()
        ),
        format!("GET /pscheduler/tasks?expanded {head}\r\n"),
        format!("GET /metrics {head}\r\n"),
    ] {
        seen += &send(request);
    }
    let arguments =
        std::fs::read(format!("/proc/{}/cmdline", server.child.id())).expect("its arguments");
    seen += &String::from_utf8_lossy(&arguments);
    // The agent takes the task; what goes to it is its business, the log is ours.
    server.contact("lab-7", &["netdiscovery"]);
    let token = std::fs::read_to_string(server.state.path().join("admin.token")).expect("a token");
    let database: Vec<u8> = ["muster.db", "muster.db-wal"]
        .into_iter()
        .filter_map(|file| std::fs::read(server.state.path().join(file)).ok())
        .flatten()
        .collect();
    let holds = |marker: &str| {
        database
            .windows(marker.len())
            .any(|w| w == marker.as_bytes())
    };
    assert!(holds("netdiscovery"), "the dump is the database");
    assert!(!holds("CANARY"));
    assert!(!holds("dTpDQU5BUlktYmFzaWM="));
    assert!(!holds(token.trim()));
    let log = server.end();
    for line in log.lines() {
        let event: Value = serde_json::from_str(line).expect("an event is one line of JSON");
        assert!(line.len() <= 8192 && event["level"].is_string(), "{line}");
        for (field, value) in event.as_object().expect("an object") {
            let written = value.to_string().len();
            assert!(written <= 1024 + 2, "{field} has {written} bytes: {line}");
        }
    }
    seen += &log;
    assert!(seen.len() > 1000, "{seen}");
    assert!(
        !seen.contains("CANARY"),
        "{}",
        seen.lines()
            .find(|line| line.contains("CANARY"))
            .unwrap_or("")
    );
    assert!(!seen.contains(token.trim()));
    assert!(!seen.contains("mek_"));
    assert!(!seen.contains("dTpDQU5BUlktYmFzaWM="));
}
