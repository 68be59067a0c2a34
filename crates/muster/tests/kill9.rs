//! `kill -9` of the real server under load from outside: what a peer heard "accepted" for is there after
//! the restart, once (issue 2, section 3).
//!
//! Two proxies upload values over the Zabbix port while tasks are posted to the admin API. After some
//! answers the process is killed, in the midst of the next ones; it is started again on the same state,
//! everything is read back over the API and compared; and the proxies go on as real ones do, with what they
//! have not heard an answer for, now and then with something old. Twenty times on SQLite, and on PostgreSQL.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Sender};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use muster_store::StoreUrl;
use muster_store::testing::for_each_durable_url;
use serde_json::{Value, json};

/// Kills of the story.
const KILLS: usize = 20;
/// The proxies, each with one host.
const PROXIES: [&str; 2] = ["kill-a", "kill-b"];
/// Items of each host.
const ITEMS: u64 = 2;
/// Values of one upload.
const BATCH: u64 = 20;
/// Time of the first value; long ago, so that no clock matters.
const FIRST: u64 = 1_700_000_000;
/// No answer takes longer, unless the test has hung.
const PATIENCE: Duration = Duration::from_secs(60);

/// A running server.
struct Server {
    child: Child,
    http: String,
    zabbix: String,
    token: String,
    log: JoinHandle<String>,
}

impl Server {
    fn start(state: &Path, database: &StoreUrl) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_muster"));
        command
            .args(["server", "run", "--enrol-policy", "loopback"])
            .args(["--listen-http", "127.0.0.1:0", "--listen-https", "off"])
            .args(["--listen-zabbix", "127.0.0.1:0", "--listen-teeth", "off"])
            .arg("--state")
            .arg(state)
            .env("MUSTER_LOG", "info")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        if let StoreUrl::Postgres(url) = database {
            command.args(["--database-url", url]);
        }
        let mut child = command.spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let mut early = String::new();
        loop {
            let Some(Ok(line)) = lines.next() else {
                panic!("the server did not come up:\n{early}");
            };
            early.push_str(&line);
            early.push('\n');
            if line.contains(" serves") {
                break;
            }
        }
        // Read on, so that the pipe never fills; shown when something goes wrong.
        let log = thread::spawn(move || {
            let mut log = early;
            for line in lines.map_while(Result::ok) {
                log.push_str(&line);
                log.push('\n');
            }
            log
        });
        let addresses = std::fs::read_to_string(state.join("addresses.json")).unwrap();
        let addresses: Value = serde_json::from_str(&addresses).unwrap();
        assert_eq!(addresses["pid"], child.id());
        let token = std::fs::read_to_string(state.join("admin.token")).unwrap();
        Self {
            child,
            http: addresses["http"].as_str().unwrap().to_owned(),
            zabbix: addresses["zabbix"].as_str().unwrap().to_owned(),
            token: token.trim().to_owned(),
            log,
        }
    }

    fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        let log = self.log.join().unwrap();
        assert!(!log.contains("panicked"), "{log}");
    }

    /// The first signal drains.
    fn drain(mut self) {
        let pid = self.child.id().to_string();
        let asked = Command::new("kill").args(["-TERM", &pid]).status().unwrap();
        assert!(asked.success());
        let status = self.child.wait().unwrap();
        let log = self.log.join().unwrap();
        assert!(
            status.success() && !log.contains("panicked"),
            "{status}: {log}"
        );
    }

    fn client(&self) -> Client {
        Client {
            http: self.http.clone(),
            zabbix: self.zabbix.clone(),
            token: self.token.clone(),
        }
    }
}

/// Speaks to a server, one connection for each exchange.
#[derive(Clone)]
struct Client {
    http: String,
    zabbix: String,
    token: String,
}

impl Client {
    fn connect(address: &str) -> io::Result<TcpStream> {
        let stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(stream)
    }

    /// A request to the admin API; an answer that is cut off is an error, not an answer.
    fn api(&self, method: &str, path: &str, body: Option<&Value>) -> io::Result<(u16, Value)> {
        let mut stream = Self::connect(&self.http)?;
        let body = body.map(Value::to_string).unwrap_or_default();
        write!(
            stream,
            "{method} /api/v1{path} HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer {}\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
            self.http,
            self.token,
            body.len()
        )?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer)?;
        let cut = || io::Error::new(io::ErrorKind::UnexpectedEof, "answer cut off");
        let text = String::from_utf8(answer).map_err(|_| cut())?;
        let (head, body) = text.split_once("\r\n\r\n").ok_or_else(cut)?;
        let status = head
            .get(9..12)
            .and_then(|code| code.parse().ok())
            .ok_or_else(cut)?;
        Ok((status, serde_json::from_str(body).map_err(|_| cut())?))
    }

    fn get(&self, path: &str) -> Value {
        let (status, body) = self.api("GET", path, None).unwrap();
        assert_eq!(status, 200, "{path}: {body}");
        body
    }

    fn post(&self, path: &str, body: &Value) -> Value {
        let (status, answer) = self.api("POST", path, Some(body)).unwrap();
        assert_eq!(status, 201, "{path} {body}: {answer}");
        answer
    }

    /// All pages of a list.
    fn list(&self, path: &str) -> Vec<Value> {
        let mut found = Vec::new();
        let mut next = format!("{path}?limit=1000");
        loop {
            let page = self.get(&next);
            found.extend(page["items"].as_array().unwrap().iter().cloned());
            match page["next"].as_str() {
                Some(cursor) => next = format!("{path}?limit=1000&cursor={cursor}"),
                None => return found,
            }
        }
    }

    /// One exchange on the Zabbix port.
    fn zabbix(&self, request: &Value) -> io::Result<Value> {
        let mut stream = Self::connect(&self.zabbix)?;
        let body = request.to_string();
        let mut frame = b"ZBXD\x01".to_vec();
        frame.extend_from_slice(&u32::try_from(body.len()).unwrap().to_le_bytes());
        frame.extend_from_slice(&[0; 4]);
        frame.extend_from_slice(body.as_bytes());
        stream.write_all(&frame)?;
        let mut head = [0; 13];
        stream.read_exact(&mut head)?;
        let length = u32::from_le_bytes([head[5], head[6], head[7], head[8]]);
        let mut answer = vec![0; usize::try_from(length).unwrap()];
        stream.read_exact(&mut answer)?;
        Ok(serde_json::from_slice(&answer)?)
    }

    fn upload(&self, proxy: usize, items: &[u64], upload: u64) -> io::Result<Value> {
        let rows: Vec<Value> = (upload * BATCH + 1..=(upload + 1) * BATCH)
            .map(|id| {
                let item = items[usize::try_from(id % ITEMS).unwrap()];
                json!({"id": id, "itemid": item, "clock": FIRST + id, "ns": 0, "value": id.to_string()})
            })
            .collect();
        self.zabbix(&json!({
            "request": "proxy data",
            "host": PROXIES[proxy],
            "session": format!("{proxy:032x}"),
            "version": "6.0.14",
            "clock": FIRST,
            "ns": 0,
            "history data": rows,
        }))
    }
}

/// What the outside knows to be accepted.
#[derive(Default)]
struct Known {
    /// First upload of each proxy that was not acknowledged.
    next: [u64; PROXIES.len()],
    /// Tasks with their marker, as they were answered.
    tasks: BTreeMap<String, u64>,
    /// Markers that were ever posted; each only once, so that a lost answer makes no second task.
    posted: u64,
    /// Numbers of the items of each proxy's host, and their ids.
    items: Vec<Vec<(u64, String)>>,
}

enum Heard {
    Upload(usize, u64),
    Task(String, u64),
    Posted(u64),
}

/// A host for each proxy. The proxies need no declaring: on loopback their first contact approves them.
fn declare(client: &Client) -> Vec<Vec<(u64, String)>> {
    PROXIES
        .iter()
        .map(|proxy| {
            let beat = json!({"request": "proxy heartbeat", "host": proxy, "version": "6.0.14"});
            let answer = client.zabbix(&beat).unwrap();
            assert_eq!(answer["response"], "success", "{answer}");
            let host = format!("host-of-{proxy}");
            client.post(
                "/hosts",
                &json!({"name": host, "proxy": proxy, "address": "127.0.0.1"}),
            );
            (0..ITEMS)
                .map(|number| {
                    let item = client.post(
                        "/items",
                        &json!({"host": host, "key": format!("k[{number}]"), "type": "agent",
                                "value_type": "unsigned", "delay": "1s"}),
                    );
                    let id = item["id"].as_str().unwrap().to_owned();
                    (item["number"].as_u64().unwrap(), id)
                })
                .collect()
        })
        .collect()
}

/// Loads the server until it is killed, after `kill_after` answers.
fn load(server: Server, known: &mut Known, kill_after: usize) {
    let killed = Arc::new(AtomicBool::new(false));
    let (hear, heard) = mpsc::channel();
    let mut workers = Vec::new();
    for proxy in 0..PROXIES.len() {
        let (client, hear, killed) = (server.client(), hear.clone(), Arc::clone(&killed));
        let items: Vec<u64> = known.items[proxy]
            .iter()
            .map(|(number, _)| *number)
            .collect();
        let from = known.next[proxy];
        workers.push(thread::spawn(move || {
            upload(&client, proxy, &items, from, &hear, &killed)
        }));
    }
    let (client, last, stop) = (server.client(), known.posted, Arc::clone(&killed));
    workers.push(thread::spawn(move || post(&client, last, &hear, &stop)));

    let mut answers = 0;
    let mut server = Some(server);
    for word in heard {
        match word {
            Heard::Upload(proxy, upload) => {
                assert_eq!(known.next[proxy], upload);
                known.next[proxy] += 1;
                answers += 1;
            }
            Heard::Posted(marker) => known.posted = marker,
            Heard::Task(id, marker) => {
                assert_eq!(known.tasks.insert(id, marker), None);
                answers += 1;
            }
        }
        if answers >= kill_after
            && let Some(server) = server.take()
        {
            killed.store(true, Ordering::SeqCst);
            server.kill();
        }
    }
    for worker in workers {
        worker.join().unwrap();
    }
    assert!(server.is_none(), "the load ended before the kill");
}

fn upload(
    client: &Client,
    proxy: usize,
    items: &[u64],
    from: u64,
    hear: &Sender<Heard>,
    killed: &AtomicBool,
) {
    for upload in from.. {
        let answer = client.upload(proxy, items, upload);
        match answer {
            Ok(answer) => assert_eq!(answer["response"], "success", "{answer}"),
            Err(error) => {
                assert!(killed.load(Ordering::SeqCst), "an upload failed: {error}");
                return;
            }
        }
        if hear.send(Heard::Upload(proxy, upload)).is_err() {
            return;
        }
        if upload % 4 == 3
            && let Ok(answer) = client.upload(proxy, items, upload - 3)
        {
            assert_eq!(answer["response"], "success", "{answer}");
        }
    }
}

fn post(client: &Client, last: u64, hear: &Sender<Heard>, killed: &AtomicBool) {
    for marker in last + 1.. {
        let _ = hear.send(Heard::Posted(marker));
        let task = json!({"kind": "noop", "any": true, "spec": {"data": format!("m-{marker}")}});
        match client.api("POST", "/tasks", Some(&task)) {
            Ok((status, answer)) => {
                assert_eq!(status, 201, "{answer}");
                let id = answer["id"].as_str().unwrap().to_owned();
                if hear.send(Heard::Task(id, marker)).is_err() {
                    return;
                }
            }
            Err(error) => {
                assert!(killed.load(Ordering::SeqCst), "a task failed: {error}");
                return;
            }
        }
    }
}

/// Reads everything back and compares.
fn check(client: &Client, known: &Known) {
    for (proxy, items) in known.items.iter().enumerate() {
        let mut found = BTreeSet::new();
        for (place, (_, id)) in (0..).zip(items) {
            let history = client.get(&format!("/items/{id}/history?limit=100000"));
            for sample in history["items"].as_array().unwrap() {
                let value = sample["value"].as_u64().unwrap();
                assert_eq!(value % ITEMS, place);
                assert!(found.insert(value), "{} has {value} twice", PROXIES[proxy]);
            }
        }
        let acknowledged = known.next[proxy] * BATCH;
        let lost: Vec<u64> = (1..=acknowledged)
            .filter(|id| !found.contains(id))
            .collect();
        assert!(lost.is_empty(), "{} lost {lost:?}", PROXIES[proxy]);
        let more = found.len() as u64 - acknowledged;
        assert!(
            more == 0 || more == BATCH,
            "{} has {more} of an upload",
            PROXIES[proxy]
        );
    }
    let mut markers = BTreeMap::new();
    let mut ids = BTreeMap::new();
    for task in client.list("/tasks") {
        let marker = task["spec"]["data"].as_str().unwrap().to_owned();
        let id = task["id"].as_str().unwrap().to_owned();
        let other = markers.insert(marker.clone(), id.clone());
        assert_eq!(other, None, "{marker} is there twice");
        assert!(task["runs"].as_u64().unwrap() <= 1, "{task}");
        ids.insert(id, marker);
    }
    for (id, marker) in &known.tasks {
        assert_eq!(
            ids.get(id),
            Some(&format!("m-{marker}")),
            "task {id} was accepted"
        );
    }
    // One task may have been stored without its answer being heard, for each kill.
    assert!(ids.len() >= known.tasks.len() && ids.len() as u64 <= known.posted);
}

fn story(state: &Path, database: &StoreUrl) {
    let mut known = Known::default();
    let mut server = Server::start(state, database);
    known.items = declare(&server.client());
    for round in 0..KILLS {
        load(server, &mut known, 1 + round * 5 % 17);
        server = Server::start(state, database);
        check(&server.client(), &known);
    }
    server.drain();
    assert!(known.next.iter().all(|next| *next > 3), "{:?}", known.next);
    assert!(known.tasks.len() > 3, "{:?}", known.tasks);
}

#[test]
fn a_server_survives_twenty_kills() {
    for_each_durable_url(|database| {
        let state: PathBuf = tempfile::tempdir().unwrap().keep();
        story(&state, &database);
        std::fs::remove_dir_all(&state).unwrap();
    });
}
