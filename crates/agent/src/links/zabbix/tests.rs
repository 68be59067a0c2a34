//! The link against a server that refuses, forgets to answer, and goes away.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Mutex;

use muster_net::listen::{Accepted, Listener, NetContext, serve};
use muster_net::{DriveLimits, OnEvent, drive};
use muster_proto::zabbix::accepted::{Event, Session};
use muster_proto::zabbix::config::{Configuration, item_kind};
use muster_proto::zabbix::task::TaskEntry;
use muster_proto::zabbix::wire::{Payload, Request, Upload, proxy_data_reply};
use serde_json::Value;
use tokio::task::JoinHandle;

use super::*;

/// What a server is to do with one upload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Manner {
    Accept,
    /// Takes it and does not say so: the peer repeats it.
    Forget,
    Refuse,
}

#[derive(Default)]
struct Heard {
    requests: Vec<Value>,
    /// Values by session and id, as they were taken.
    values: BTreeMap<(String, u64), String>,
    repeats: usize,
    manners: Vec<Manner>,
}

#[derive(Clone)]
struct FakeServer {
    address: SocketAddr,
    heard: Arc<Mutex<Heard>>,
    config: Arc<str>,
    tasks: Arc<Mutex<Vec<TaskEntry<'static>>>>,
    cancel: CancellationToken,
}

impl FakeServer {
    async fn start(address: &str, config: &str, manners: &[Manner]) -> (Self, JoinHandle<()>) {
        let address = address.parse().unwrap();
        let listener = Listener::bind("zabbix", "--listen-zabbix", address, Default::default())
            .await
            .unwrap();
        let server = Self {
            address: listener.local_addr(),
            heard: Arc::new(Mutex::new(Heard {
                manners: manners.iter().rev().copied().collect(),
                ..Heard::default()
            })),
            config: config.into(),
            tasks: Arc::default(),
            cancel: CancellationToken::new(),
        };
        let (this, context) = (server.clone(), NetContext::new(Clock::system()));
        let cancel = server.cancel.clone();
        let task = tokio::spawn(serve(
            listener,
            context,
            cancel,
            LAST_WORDS,
            move |accepted| {
                let this = this.clone();
                async move { this.connection(accepted).await }
            },
        ));
        (server, task)
    }

    async fn connection(&self, accepted: Accepted) {
        let clock = Clock::system();
        let limits = Limits::default();
        let mut session = Session::new(limits, true, clock.instant());
        let mut handler = OnEvent(|session: &mut Session, event, now| {
            let Event::Request(packet) = event else {
                return;
            };
            let payload = Payload::open(packet, &limits, &limits.known).unwrap();
            match self.answer(&payload) {
                Some(reply) => session.reply(&reply, now),
                None => session.close(),
            }
        });
        let never = CancellationToken::new();
        let driving = DriveLimits::default();
        let _ = drive(
            accepted.stream,
            &mut session,
            &mut handler,
            &clock,
            &driving,
            &never,
        )
        .await;
    }

    fn answer(&self, payload: &Payload) -> Option<String> {
        let mut heard = self.heard.lock().unwrap();
        heard
            .requests
            .push(serde_json::from_str(payload.text()).unwrap());
        let (session, rows): (_, Vec<_>) = match payload.request().unwrap() {
            Request::ActiveChecks(_) | Request::ProxyConfig(_) => {
                return Some(self.config.to_string());
            }
            Request::ProxyHeartbeat(_) => return Some(r#"{"response":"success"}"#.into()),
            Request::AgentData(data) => (
                data.session.unwrap().into_owned(),
                data.rows
                    .rows
                    .into_iter()
                    .map(|row| (row.id.unwrap(), row.value.unwrap_or_default().into_owned()))
                    .collect(),
            ),
            Request::ProxyData(data) => (
                data.session.unwrap().into_owned(),
                data.history
                    .rows
                    .into_iter()
                    .map(|row| (row.id.unwrap(), row.value.unwrap_or_default().into_owned()))
                    .collect(),
            ),
            Request::AgentHeartbeat(_) | Request::SenderData(_) => return None,
        };
        let manner = if rows.is_empty() {
            Manner::Accept
        } else {
            heard.manners.pop().unwrap_or(Manner::Accept)
        };
        if manner == Manner::Refuse {
            return Some(r#"{"response":"failed","info":"not now"}"#.into());
        }
        for (id, value) in rows {
            if heard.values.insert((session.clone(), id), value).is_some() {
                heard.repeats += 1;
            }
        }
        if manner == Manner::Forget {
            return None;
        }
        let tasks = std::mem::take(&mut *self.tasks.lock().unwrap());
        Some(proxy_data_reply(Upload::Enabled, true, None, &tasks))
    }

    /// Waits until `done` says so of what was heard.
    async fn until(&self, what: &str, done: impl Fn(&Heard) -> bool) {
        let clock = Clock::system();
        let end = clock.instant() + Duration::from_secs(30);
        while !done(&self.heard.lock().unwrap()) {
            assert!(clock.instant() < end, "never: {what}");
            clock.sleep(Duration::from_millis(20)).await;
        }
    }
}

async fn start(
    address: SocketAddr,
    role: Role,
    state: &Path,
) -> (CancellationToken, JoinHandle<()>) {
    start_with(address, role, Mode::Active, state).await
}

async fn start_with(
    address: SocketAddr,
    role: Role,
    mode: Mode,
    state: &Path,
) -> (CancellationToken, JoinHandle<()>) {
    let clock = Clock::system();
    let spool = Spool::open(Some(state.join("spool.db")), clock.now())
        .await
        .unwrap();
    let policy = PolicySource::new("/nonexistent/policy.toml", state);
    policy.write_defaults().unwrap();
    let config = Config {
        endpoint: address.into(),
        protection: Protection::Plain,
        role,
        mode,
        name: "lab".into(),
        agent_id: "6f1b2f5e-2e63-4a1d-9e0a-3f4c5d6e7f80".into(),
        intervals: Intervals {
            config: Duration::from_secs(1),
            config_retry: Duration::from_secs(1),
            ..Intervals::default()
        },
    };
    let items = Items::new("/", "lab");
    let link = ZabbixLink::new(config, &items, policy, spool, clock, Entropy::system());
    let cancel = CancellationToken::new();
    let task = tokio::spawn(link.run(cancel.clone()));
    (cancel, task)
}

const CHECKS: &str = r#"{"response":"success","data":[
    {"key":"agent.ping","itemid":11,"delay":"1s","lastlogsize":0,"mtime":0},
    {"key":"no.such[1]","itemid":12,"delay":"1s","lastlogsize":0,"mtime":0},
    {"key":"agent.ping","itemid":13,"delay":"{$X}","lastlogsize":0,"mtime":0}]}"#;

/// Ids of one session without a hole, and each value once.
fn assert_whole(heard: &Heard) {
    let ids: Vec<u64> = heard.values.keys().map(|(_, id)| *id).collect();
    let first = ids[0];
    assert_eq!(ids, (first..first + ids.len() as u64).collect::<Vec<_>>());
    let sessions: std::collections::BTreeSet<_> =
        heard.values.keys().map(|(session, _)| session).collect();
    assert_eq!(sessions.len(), 1, "{sessions:?}");
}

#[tokio::test]
async fn an_agent_repeats_what_was_not_acknowledged() {
    use Manner::{Accept, Forget, Refuse};
    let state = tempfile::tempdir().unwrap();
    let manners = [Refuse, Forget, Forget, Accept, Refuse];
    let (server, serving) = FakeServer::start("127.0.0.1:0", CHECKS, &manners).await;
    let (cancel, running) = start(server.address, Role::Agent, state.path()).await;
    server
        .until("enough values", |heard| {
            heard.values.len() >= 12 && heard.manners.is_empty()
        })
        .await;
    cancel.cancel();
    running.await.unwrap();
    {
        let heard = server.heard.lock().unwrap();
        assert_whole(&heard);
        assert!(heard.repeats > 0, "what was not acknowledged came again");
        let texts: std::collections::BTreeSet<_> =
            heard.values.values().map(String::as_str).collect();
        assert_eq!(
            texts.into_iter().collect::<Vec<_>>(),
            ["1", "Invalid update interval.", "Unsupported item key."]
        );
        let upload = heard
            .requests
            .iter()
            .rfind(|r| r["request"] == "agent data")
            .unwrap();
        assert_eq!(
            (&upload["host"], &upload["version"]),
            (&"lab".into(), &DIALECT.into())
        );
    }
    server.cancel.cancel();
    serving.await.unwrap();
}

#[tokio::test]
async fn values_outlive_an_outage_and_a_restart_under_their_ids() {
    let state = tempfile::tempdir().unwrap();
    let (server, serving) = FakeServer::start("127.0.0.1:0", CHECKS, &[]).await;
    let address = server.address;
    let (cancel, running) = start(address, Role::Agent, state.path()).await;
    server
        .until("a first value", |heard| !heard.values.is_empty())
        .await;
    server.cancel.cancel();
    serving.await.unwrap();
    let before = server.heard.lock().unwrap().values.clone();
    // Nobody listens: values gather. Then the agent ends, and another begins.
    let clock = Clock::system();
    clock.sleep(Duration::from_millis(2500)).await;
    cancel.cancel();
    running.await.unwrap();
    let (server, serving) = FakeServer::start(&address.to_string(), CHECKS, &[]).await;
    server.heard.lock().unwrap().values = before.clone();
    let (cancel, running) = start(address, Role::Agent, state.path()).await;
    server
        .until("what gathered", |heard| {
            heard.values.len() >= before.len() + 6
        })
        .await;
    cancel.cancel();
    running.await.unwrap();
    assert_whole(&server.heard.lock().unwrap());
    server.cancel.cancel();
    serving.await.unwrap();
}

/// A Zabbix agent that answers one key.
async fn fake_agent() -> (SocketAddr, CancellationToken) {
    let address = "127.0.0.1:0".parse().unwrap();
    let listener = Listener::bind("agent", "--agent", address, Default::default())
        .await
        .unwrap();
    let address = listener.local_addr();
    let cancel = CancellationToken::new();
    let context = NetContext::new(Clock::system());
    tokio::spawn(serve(
        listener,
        context,
        cancel.clone(),
        LAST_WORDS,
        |accepted: Accepted| async move {
            use muster_proto::zabbix::check::{Answer, Question};
            use muster_proto::zabbix::frame::{Decoder, encode};
            use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
            let limits = Limits::default();
            let mut stream = accepted.stream;
            let mut decoder = Decoder::new(&limits.stranger, false);
            let mut buffer = [0; 1024];
            loop {
                let count = stream.read(&mut buffer).await.unwrap();
                if count == 0 {
                    return;
                }
                let Some(packet) = decoder.feed(&buffer[..count]).unwrap().1 else {
                    continue;
                };
                let question = Question::parse(packet.body, &limits).unwrap();
                let answer = match &question {
                    Question::Plain { key } if key == "my.key" => Answer::Value("42".into()),
                    Question::Json { .. } | Question::Plain { .. } => {
                        Answer::NotSupported("Unsupported item key.".into())
                    }
                };
                let frame = encode(&question.answer(&answer), false).unwrap();
                stream.write_all(&frame).await.unwrap();
                return;
            }
        },
    ));
    (address, cancel)
}

#[tokio::test]
async fn a_proxy_polls_agents_and_refuses_commands() {
    use muster_proto::zabbix::config::{HostRow, InterfaceRow, ItemRow};
    use muster_proto::zabbix::task::{DataTask, RemoteCommand};
    let (agent, agent_cancel) = fake_agent().await;
    let interface = |interfaceid, ip: &str, port: u16| InterfaceRow {
        interfaceid,
        hostid: 101,
        kind: 1,
        ip: ip.into(),
        dns: String::new(),
        use_ip: true,
        main: true,
        port: port.to_string(),
    };
    let item = |itemid, kind, key: &str, interfaceid| ItemRow {
        itemid,
        hostid: 101,
        kind,
        key: key.into(),
        delay: "1s".into(),
        status: 0,
        value_type: 4,
        interfaceid: Some(interfaceid),
        master_itemid: None,
        flags: 0,
    };
    let config = Configuration {
        hosts: vec![HostRow {
            hostid: 101,
            host: "mon".into(),
            status: 0,
            name: "mon".into(),
        }],
        interfaces: vec![
            interface(1, "127.0.0.1", agent.port()),
            interface(2, "192.0.2.1", 10_050),
        ],
        items: vec![
            item(11, item_kind::AGENT, "my.key", 1),
            item(12, item_kind::AGENT, "other", 1),
            item(13, item_kind::AGENT, "my.key", 2),
            item(14, item_kind::SIMPLE, "icmpping", 1),
            item(15, item_kind::TRAPPER, "trap", 1),
        ],
    };
    let state = tempfile::tempdir().unwrap();
    let (server, serving) = FakeServer::start("127.0.0.1:0", &config.encode(), &[]).await;
    let command = RemoteCommand {
        parent_taskid: 7,
        hostid: 101,
        command: "id".into(),
        ..RemoteCommand::default()
    };
    let question = DataTask {
        clock: 1,
        ttl: 30,
        datatype: 1,
        parent_taskid: 8,
        data: "{}".into(),
    };
    server.tasks.lock().unwrap().extend([
        TaskEntry::RemoteCommand(Box::new(command)),
        TaskEntry::Data(Box::new(question)),
    ]);
    let (cancel, running) = start(server.address, Role::Proxy, state.path()).await;
    let told = |heard: &Heard, section: &str| -> Vec<Value> {
        let rows = heard
            .requests
            .iter()
            .filter_map(|request| request[section].as_array());
        rows.flatten().cloned().collect()
    };
    server
        .until("results and availability", |heard| {
            let available = told(heard, "interface availability");
            told(heard, "tasks").len() >= 2
                && available
                    .iter()
                    .any(|row| row["interfaceid"] == 1 && row["available"] == 1)
                && [11, 12, 13, 14].iter().all(|item| {
                    told(heard, "history data")
                        .iter()
                        .any(|row| row["itemid"] == *item)
                })
        })
        .await;
    cancel.cancel();
    running.await.unwrap();
    agent_cancel.cancel();
    server.cancel.cancel();
    serving.await.unwrap();
    let heard = server.heard.lock().unwrap();
    assert_whole(&heard);
    let history = told(&heard, "history data");
    let of = |item: u64| {
        history
            .iter()
            .find(|row| row["itemid"] == item)
            .unwrap()
            .clone()
    };
    assert_eq!(of(11)["value"], "42");
    assert_eq!(
        (&of(12)["value"], &of(12)["state"]),
        (&"Unsupported item key.".into(), &1.into())
    );
    assert_eq!(
        of(13)["value"],
        "The policy of this proxy does not let 192.0.2.1 be polled."
    );
    assert_eq!(of(14)["value"], "This proxy polls Zabbix agents only.");
    assert!(history.iter().all(|row| row["itemid"] != 15));
    let results = told(&heard, "tasks");
    assert_eq!(
        (
            &results[0]["type"],
            &results[0]["status"],
            &results[0]["info"],
            &results[0]["parent_taskid"]
        ),
        (
            &3.into(),
            &(-1).into(),
            &"Remote commands are not enabled".into(),
            &7.into()
        )
    );
    assert_eq!(
        (&results[1]["type"], &results[1]["info"]),
        (&8.into(), &"Unknown task.".into())
    );
}

/// A port on loopback that nobody had a moment ago.
fn free_place() -> SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap()
}

/// One exchange as a server has it with a passive peer: what it answered to `ask`, after which `word`
/// is said if there is one. `None` when it closed without an answer.
async fn ask_passive(place: SocketAddr, ask: &str, word: Option<&str>) -> Option<String> {
    use muster_proto::zabbix::frame::{Decoder, encode};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let clock = Clock::system();
    let end = clock.instant() + Duration::from_secs(30);
    let mut stream = loop {
        match tokio::net::TcpStream::connect(place).await {
            Ok(stream) => break stream,
            Err(error) => {
                assert!(clock.instant() < end, "{error}");
                clock.sleep(Duration::from_millis(20)).await;
            }
        }
    };
    let limits = Limits::default();
    let frame = encode(ask.as_bytes(), true).unwrap();
    stream.write_all(&frame).await.unwrap();
    let mut decoder = Decoder::new(&limits.known, false);
    let mut buffer = [0; 4096];
    let packet = loop {
        let count = stream.read(&mut buffer).await.unwrap_or(0);
        if count == 0 {
            return None;
        }
        if let Some(packet) = decoder.feed(&buffer[..count]).unwrap().1 {
            break packet;
        }
    };
    if let Some(word) = word {
        let frame = encode(word.as_bytes(), true).unwrap();
        stream.write_all(&frame).await.unwrap();
        // It closes when it has taken the word.
        assert_eq!(stream.read(&mut buffer).await.unwrap(), 0);
    }
    let answer = packet.open(&limits, &limits.known).unwrap();
    Some(String::from_utf8(answer).unwrap())
}

async fn start_passive(
    place: SocketAddr,
    role: Role,
    state: &Path,
) -> (CancellationToken, JoinHandle<()>) {
    start_with(place, role, Mode::Passive, state).await
}

#[tokio::test]
async fn a_passive_agent_answers_its_server_in_both_forms() {
    let state = tempfile::tempdir().unwrap();
    let place = free_place();
    let (cancel, running) = start_passive(place, Role::Agent, state.path()).await;
    for (ask, answer) in [
        ("agent.ping", "1"),
        ("agent.hostname\n", "lab"),
        ("no.such[1]", "ZBX_NOTSUPPORTED\0Unsupported item key."),
        ("system.run[id]", "ZBX_NOTSUPPORTED\0Unsupported item key."),
        (
            r#"{"request":"passive checks","data":[{"key":"agent.ping","timeout":3}]}"#,
            r#"{"version":"7.0.0","variant":2,"data":[{"value":"1"}]}"#,
        ),
        (
            r#"{"request":"proxy data"}"#,
            r#"{"version":"7.0.0","variant":2,"error":"unknown request \"proxy data\""}"#,
        ),
    ] {
        assert_eq!(ask_passive(place, ask, None).await.as_deref(), Some(answer));
    }
    cancel.cancel();
    running.await.unwrap();
}

#[tokio::test]
async fn a_passive_end_reads_nothing_of_who_is_not_its_server() {
    for role in [Role::Agent, Role::Proxy] {
        let state = tempfile::tempdir().unwrap();
        let place = free_place();
        // The server is another address of this machine.
        let server = SocketAddr::from(([127, 0, 0, 2], place.port()));
        let (cancel, running) = start_passive(server, role, state.path()).await;
        let ask = r#"{"request":"proxy tasks"}"#;
        assert_eq!(ask_passive(place, ask, None).await, None);
        cancel.cancel();
        running.await.unwrap();
    }
}

#[tokio::test]
async fn a_passive_proxy_gives_its_values_until_they_are_taken() {
    const TAKEN: &str = r#"{"response":"success"}"#;
    use muster_proto::zabbix::config::{HostRow, ItemRow};
    let tables = Configuration {
        hosts: vec![HostRow {
            hostid: 101,
            host: "mon".into(),
            status: 0,
            name: "mon".into(),
        }],
        interfaces: Vec::new(),
        items: vec![ItemRow {
            itemid: 14,
            hostid: 101,
            kind: item_kind::SIMPLE,
            key: "icmpping".into(),
            delay: "1h".into(),
            status: 0,
            value_type: 3,
            interfaceid: None,
            master_itemid: None,
            flags: 0,
        }],
    };
    let state = tempfile::tempdir().unwrap();
    let place = free_place();
    let (cancel, running) = start_passive(place, Role::Proxy, state.path()).await;
    let push = format!(r#"{{"request":"proxy config","data":{}}}"#, tables.encode());
    let answer = ask_passive(place, &push, None).await.unwrap();
    assert_eq!(answer, r#"{"response":"success","version":"6.0.14"}"#);

    let clock = Clock::system();
    let end = clock.instant() + Duration::from_secs(30);
    let ask = r#"{"request":"proxy data"}"#;
    let pull = async |word| -> Value {
        let answer = ask_passive(place, ask, word).await.unwrap();
        serde_json::from_str(&answer).unwrap()
    };
    // Nothing is said, then a refusal: the row stays, under its id.
    let first = loop {
        let given = pull(None).await;
        assert!(given.get("request").is_none() && given.get("host").is_none());
        if given.get("history data").is_some() {
            break given;
        }
        assert!(clock.instant() < end, "never a value: {given}");
    };
    let second = pull(Some(r#"{"response":"failed"}"#)).await;
    let third = pull(Some(
        r#"{"response":"success","tasks":[{"type":7,"clock":1,"ttl":30,"datatype":1,"parent_taskid":8,"data":"{}"}]}"#,
    ))
    .await;
    for given in [&first, &second, &third] {
        assert_eq!(given["history data"][0]["itemid"], 14);
        assert_eq!(given["history data"], first["history data"]);
        assert_eq!(given["session"], first["session"]);
    }
    // Taken: it is gone, and the task has its result.
    let answer = ask_passive(place, r#"{"request":"proxy tasks"}"#, Some(TAKEN)).await;
    let tasks: Value = serde_json::from_str(&answer.unwrap()).unwrap();
    assert_eq!(tasks["tasks"][0]["parent_taskid"], 8);
    let last = pull(Some(TAKEN)).await;
    assert!(last.get("history data").is_none() && last.get("tasks").is_none());
    cancel.cancel();
    running.await.unwrap();
}
