//! What good peers are told, in the words of a real server.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use jiff::SignedDuration;
use muster_core::agent::AgentState;
use muster_core::sample::{ItemType, ValueType};
use muster_net::{Clock, Entropy};
use muster_proto::zabbix::Limits;
use muster_server::control::{Control, Declared, Duty, EnrolPolicy, NewItem, NewTask, Settings};
use muster_server::fronts::zabbix::poll_agents;
use muster_store::Store;
use muster_store::sealed::Sealer;
use muster_store::testing::for_each_durable_url;
use serde_json::{Value, json};

use crate::harness::{SESSION, Server, upload};

const HEARTBEAT: &str = r#"{"request":"proxy heartbeat","host":"px","version":"6.0.14"}"#;
const CONFIG: &str = r#"{"request":"proxy config","host":"px","version":"6.0.14"}"#;
const BARE: &str = r#"{"request":"proxy data","host":"px","version":"6.0.14"}"#;

#[tokio::test]
async fn a_proxy_on_loopback_is_enrolled_by_the_loopback_rule() {
    let (_folder, server) = Server::with(EnrolPolicy::Loopback).await;
    assert_eq!(server.ask(HEARTBEAT).await, json!({"response": "success"}));
    let view = server.control.find_agent("px").await.unwrap();
    assert_eq!(view.agent.state, AgentState::Approved);
    assert_eq!(
        (view.agent.software.as_str(), view.agent.version.as_str()),
        ("zabbix_proxy", "6.0.14")
    );
    assert_eq!(
        server.ask(BARE).await,
        json!({"upload": "enabled", "response": "success"})
    );
    server.stop().await;
}

#[tokio::test]
async fn who_is_not_approved_hears_what_an_unknown_proxy_hears() {
    let (_folder, server) = Server::with(EnrolPolicy::Approve).await;
    let not_found = json!({"response": "failed", "info": "proxy \"px\" not found"});
    for ask in [HEARTBEAT, CONFIG, BARE] {
        assert_eq!(server.ask(ask).await, not_found, "{ask}");
    }
    let view = server.control.find_agent("px").await.unwrap();
    assert_eq!(view.agent.state, AgentState::Pending);
    let id = view.agent.id;
    server
        .control
        .set_agent_state(id, AgentState::Approved, "test")
        .await
        .unwrap();
    assert_eq!(server.ask(BARE).await["response"], "success");
    server
        .control
        .set_agent_state(id, AgentState::Disabled, "test")
        .await
        .unwrap();
    assert_eq!(server.ask(BARE).await, not_found);
    let item = server
        .declare("mon-a", None, &[("k", ItemType::Trapper, ValueType::Text)])
        .await;
    let row = format!(
        "{{\"id\":1,\"itemid\":{},\"clock\":5,\"ns\":6,\"value\":\"v\"}}",
        item[0]
    );
    assert_eq!(server.ask(&upload(Some(SESSION), &row)).await, not_found);
    assert!(server.history(item[0]).await.is_empty());
    server.stop().await;
    let (_folder, strict) = Server::with(EnrolPolicy::Key).await;
    assert_eq!(strict.ask(HEARTBEAT).await, not_found);
    assert!(strict.control.find_agent("px").await.is_err());
    strict.stop().await;
}

#[tokio::test]
async fn names_and_versions_are_judged_in_a_real_servers_words() {
    let (_folder, server) = Server::with(EnrolPolicy::Loopback).await;
    let cases = [
        (
            r#"{"request":"proxy heartbeat"}"#,
            json!({"response":"failed","info":"missing name of proxy"}),
        ),
        (
            r#"{"request":"proxy heartbeat","host":"a/b"}"#,
            json!({"response":"failed","info":"invalid proxy name \"a/b\": name contains invalid character '/'"}),
        ),
        (
            r#"{"request":"proxy data","host":"px"}"#,
            json!({"response":"failed"}),
        ),
        (
            r#"{"request":"proxy data","host":"px","version":"3.0.0"}"#,
            json!({"response":"failed"}),
        ),
        (
            r#"{"request":"proxy data","host":"px","version":"9.9.0"}"#,
            json!({"upload":"disabled","response":"failed","info":"current proxy version is not supported by server"}),
        ),
        (
            r#"{"request":"proxy config","host":"px","version":"7.0.22"}"#,
            json!({"response":"failed","info":"proxy and server major versions do not match","version":"6.0.14"}),
        ),
    ];
    for (ask, reply) in cases {
        assert_eq!(server.ask(ask).await, reply, "{ask}");
    }
    server.stop().await;
}

#[tokio::test]
async fn a_proxy_takes_its_configuration_and_only_its_own() {
    let (_folder, server) = Server::with(EnrolPolicy::Loopback).await;
    server.ask(HEARTBEAT).await;
    let mine = server
        .declare(
            "mon-a",
            Some("px"),
            &[
                ("agent.ping", ItemType::Agent, ValueType::Unsigned),
                ("trap", ItemType::Trapper, ValueType::Text),
            ],
        )
        .await;
    server
        .declare(
            "mon-b",
            None,
            &[("agent.ping", ItemType::Agent, ValueType::Unsigned)],
        )
        .await;
    let config = server.ask(CONFIG).await;
    assert_eq!(config["hosts"]["data"].as_array().unwrap().len(), 1);
    assert_eq!(config["hosts"]["data"][0][1], "mon-a");
    let ids: Vec<u64> = config["items"]["data"]
        .as_array()
        .unwrap()
        .iter()
        .map(|row| row[0].as_u64().unwrap())
        .collect();
    assert_eq!(ids, mine);
    assert_eq!(config["interface"]["data"][0][5], "127.0.0.1");
    assert_eq!(config["interface"]["data"][0][7], "10050");
    server.stop().await;
}

#[tokio::test]
async fn values_are_stored_by_their_items_types() {
    use ValueType::{Float, Log, String, Text, Unsigned};
    let (_folder, server) = Server::with(EnrolPolicy::Loopback).await;
    let items = server.proxied(&[Float, String, Log, Unsigned, Text]).await;
    let other = server
        .declare("mon-b", None, &[("k", ItemType::Trapper, Text)])
        .await;
    let row = |n: usize, item: u64, value: &str| {
        format!("{{\"id\":{n},\"itemid\":{item},\"clock\":{n},\"ns\":7,\"value\":\"{value}\"}}")
    };
    let rows = [
        row(1, items[0], "385.15620000000001"),
        row(2, items[1], "grün"),
        format!(
            "{{\"id\":3,\"itemid\":{},\"clock\":3,\"ns\":7,\"value\":\"line\",\"timestamp\":9,\"source\":\"s\",\"severity\":4,\"eventid\":11,\"lastlogsize\":5}}",
            items[2]
        ),
        row(4, items[3], "18446744073709551615"),
        row(5, items[4], "text\\nwith lines"),
        // Nobody's, and somebody else's: taken and dropped.
        row(6, 999_999, "x"),
        row(7, other[0], "x"),
        // No value: only moves the next check.
        format!("{{\"id\":8,\"itemid\":{},\"clock\":8,\"ns\":7}}", items[4]),
    ];
    let reply = server.ask(&upload(Some(SESSION), &rows.join(","))).await;
    assert_eq!(reply, json!({"upload": "enabled", "response": "success"}));
    let wanted = [
        "385.1562",
        "grün",
        "line",
        "18446744073709551615",
        "text\nwith lines",
    ];
    for (item, value) in items.iter().zip(wanted) {
        assert_eq!(server.texts(*item).await, [value]);
    }
    assert!(server.texts(other[0]).await.is_empty());
    let log = &server.history(items[2]).await[0];
    let muster_core::sample::Value::Log(line) = &log.value else {
        panic!("{log:?}")
    };
    assert_eq!(
        (
            line.source.as_str(),
            line.timestamp,
            line.severity,
            line.event_id
        ),
        ("s", 9, 4, 11)
    );
    // A value of the wrong type, and one the proxy says is not to be had.
    let rows = [
        row(9, items[3], "abc"),
        format!(
            "{{\"id\":10,\"itemid\":{},\"clock\":10,\"ns\":7,\"value\":\"no such key\",\"state\":1}}",
            items[0]
        ),
    ];
    server.ask(&upload(Some(SESSION), &rows.join(","))).await;
    let last = server.control.last_values(&items).await.unwrap();
    let why = |item: u64| last[&item].not_supported.as_ref().unwrap().error.clone();
    assert_eq!(
        why(items[3]),
        "Value of type \"string\" is not suitable for value type \"Numeric (unsigned)\". Value \"abc\""
    );
    assert_eq!(why(items[0]), "no such key");
    server.stop().await;
}

#[tokio::test]
async fn uploads_come_twice_late_and_after_a_restart_and_are_stored_once() {
    let folder = tempfile::tempdir().unwrap();
    let start = || Server::start(folder.path(), EnrolPolicy::Loopback, Limits::default());
    let server = start().await;
    let item = server.proxied(&[ValueType::Unsigned]).await[0];
    let row = |id: u64| {
        format!("{{\"id\":{id},\"itemid\":{item},\"clock\":{id},\"ns\":0,\"value\":\"{id}\"}}")
    };
    let rows = |ids: &[u64]| ids.iter().map(|id| row(*id)).collect::<Vec<_>>().join(",");
    let good = json!({"upload": "enabled", "response": "success"});
    // Out of order, with gaps, again, and overlapping.
    for ids in [&[5, 6][..], &[5, 6], &[1, 9], &[2, 5, 9, 10], &[3]] {
        assert_eq!(server.ask(&upload(Some(SESSION), &rows(ids))).await, good);
    }
    server.stop().await;
    let server = start().await;
    for ids in [&[10, 9, 1][..], &[4]] {
        assert_eq!(server.ask(&upload(Some(SESSION), &rows(ids))).await, good);
    }
    assert_eq!(
        server.texts(item).await,
        ["1", "2", "3", "4", "5", "6", "9", "10"]
    );
    // Another session counts anew; without a session nothing is a repeat.
    let other = "f".repeat(32);
    server.ask(&upload(Some(&other), &rows(&[11]))).await;
    server.ask(&upload(Some(&other), &rows(&[11]))).await;
    server.ask(&upload(None, &rows(&[12]))).await;
    server.ask(&upload(None, &rows(&[12]))).await;
    let all = server.texts(item).await;
    assert_eq!(all[8..], ["11", "12", "12"]);
    server.stop().await;
}

#[tokio::test]
async fn a_remote_command_is_a_run_with_a_result() {
    let (_folder, server) = Server::with(EnrolPolicy::Loopback).await;
    server.proxied(&[ValueType::Text]).await;
    let submit = |command: &str| {
        let kind = "command".parse().unwrap();
        NewTask::new(
            kind,
            muster_core::task::Origin::Cli,
            json!({"command": command}),
        )
    };
    let task = server.control.submit(submit("echo hello")).await.unwrap();
    // It begins with the next full second.
    let clock = server.control.clock();
    let end = clock.instant() + Duration::from_secs(20);
    let reply = loop {
        let reply = server.ask(BARE).await;
        if reply.get("tasks").is_some() {
            break reply;
        }
        assert!(clock.instant() < end, "no task was handed over");
        clock.sleep(Duration::from_millis(100)).await;
    };
    let given = &reply["tasks"][0];
    assert_eq!(
        (&given["type"], &given["command"], &given["execute_on"]),
        (&json!(2), &json!("echo hello"), &json!(2))
    );
    for name in [
        "commandtype",
        "port",
        "authtype",
        "username",
        "password",
        "publickey",
        "privatekey",
        "alertid",
        "hostid",
        "ttl",
        "clock",
    ] {
        assert!(
            !given[name].is_null(),
            "a real proxy drops a task without {name}"
        );
    }
    assert!(
        server.ask(BARE).await.get("tasks").is_none(),
        "handed over once"
    );
    let result = |status: i64| {
        json!({"request": "proxy data", "host": "px", "version": "6.0.14", "tasks": [
            {"type": 3, "clock": 5, "ttl": 0, "status": status, "info": "hello\n", "parent_taskid": given["parent_taskid"]},
            {"type": 3, "clock": 5, "ttl": 0, "status": 0, "info": "", "parent_taskid": 4711},
        ]})
        .to_string()
    };
    let reply = server.ask(&result(0)).await;
    assert_eq!(reply["response"], "success");
    assert_eq!(reply["info"], "1 results of unknown tasks were ignored");
    let run = &server.control.runs_of(task.id, 10).await.unwrap()[0];
    assert_eq!(run.run.state.word(), "ended");
    let result_text = run.result.as_ref().unwrap();
    let stored: Value = serde_json::from_str(result_text).unwrap();
    assert_eq!(stored, json!({"succeeded": true, "output": "hello\n"}));
    // Said again, and otherwise, it changes nothing.
    server.ask(&result(-1)).await;
    let again = &server.control.runs_of(task.id, 10).await.unwrap()[0];
    assert_eq!(again.run.state, run.run.state);
    server.stop().await;
}

#[tokio::test]
async fn senders_are_counted_value_by_value() {
    let (_folder, server) = Server::with(EnrolPolicy::Approve).await;
    let items = server
        .declare(
            "mon-a",
            None,
            &[
                ("trap.num", ItemType::Trapper, ValueType::Float),
                ("active", ItemType::AgentActive, ValueType::Float),
            ],
        )
        .await;
    let info = |reply: &Value| {
        let info = reply["info"].as_str().unwrap().to_owned();
        let (counts, spent) = info.split_once("; seconds spent: ").unwrap();
        assert!(spent.len() == 8 && spent.parse::<f64>().is_ok(), "{spent}");
        counts.to_owned()
    };
    let ask = r#"{"request":"sender data","data":[
        {"host":"mon-a","key":"trap.num","value":"42.5"},
        {"host":"mon-a","key":"no.such","value":"1"},
        {"host":"nobody","key":"trap.num","value":"1"},
        {"host":"mon-a","key":"active","value":"1"},
        {"host":"mon-a","key":"trap.num","value":"1.5","clock":100},
        {"host":"mon-a","key":"trap.num","value":"2.5","clock":100},
        {"host":"mon-a","key":"trap.num","value":"3.5","clock":100,"ns":77}]}"#;
    let reply = server.ask_as(ask, false).await;
    assert_eq!(reply["response"], "success");
    assert_eq!(info(&reply), "processed: 4; failed: 3; total: 7");
    let stamps: Vec<_> = server
        .history(items[0])
        .await
        .iter()
        .map(|s| (s.clock, s.ns, s.value.to_string()))
        .collect();
    assert_eq!(
        stamps[..3],
        [
            (100, 0, "1.5".to_owned()),
            (100, 1, "2.5".to_owned()),
            (100, 77, "3.5".to_owned()),
        ]
    );
    assert_eq!(stamps[3].2, "42.5");
    let empty = server
        .ask_as(r#"{"request":"sender data","data":[]}"#, false)
        .await;
    assert_eq!(info(&empty), "processed: 0; failed: 0; total: 0");
    server.stop().await;
}

#[tokio::test]
async fn an_active_agent_is_told_what_to_collect_and_repeats_without_doubling() {
    let (_folder, server) = Server::with(EnrolPolicy::Loopback).await;
    let items = server
        .declare(
            "mon-a",
            None,
            &[
                ("agent.version", ItemType::AgentActive, ValueType::Text),
                ("trap", ItemType::Trapper, ValueType::Text),
            ],
        )
        .await;
    let asked = server
        .ask_as(r#"{"request":"active checks","host":"mon-a"}"#, false)
        .await;
    assert_eq!(
        asked,
        json!({"response":"success","data":[{"key":"agent.version","delay":5,"lastlogsize":0,"mtime":0}]})
    );
    let asked = server
        .ask_as(r#"{"request":"active checks","host":"mon-a","version":"6.0.14","ip":"127.0.0.1","port":10050}"#, true)
        .await;
    assert_eq!(asked["data"][0]["itemid"], items[0]);
    assert_eq!(asked["data"][0]["delay"], "5s");
    let unknown = server
        .ask_as(r#"{"request":"active checks","host":"mon-x"}"#, false)
        .await;
    assert_eq!(
        unknown,
        json!({"response":"failed","info":"host [mon-x] not found"})
    );
    let by_key = format!(
        r#"{{"request":"agent data","session":"{SESSION}","data":[
        {{"host":"mon-a","key":"agent.version","value":"6.0","id":1,"clock":50,"ns":1}},
        {{"host":"mon-a","key":"trap","value":"no","id":2,"clock":50,"ns":2}}],"clock":51,"ns":0}}"#
    );
    let counts = |reply: &Value| {
        reply["info"]
            .as_str()
            .unwrap()
            .split("; seconds")
            .next()
            .unwrap()
            .to_owned()
    };
    let reply = server.ask_as(&by_key, false).await;
    assert_eq!(counts(&reply), "processed: 1; failed: 1; total: 2");
    let reply = server.ask_as(&by_key, false).await;
    assert_eq!(counts(&reply), "processed: 0; failed: 2; total: 2");
    let by_id = format!(
        r#"{{"request":"agent data","session":"{SESSION}","host":"mon-a","version":"6.0.14","variant":2,
        "data":[{{"id":3,"itemid":{},"value":"6.1","clock":51,"ns":1}}]}}"#,
        items[0]
    );
    assert_eq!(
        counts(&server.ask_as(&by_id, true).await),
        "processed: 1; failed: 0; total: 1"
    );
    let foreign = by_id.replace("mon-a", "mon-z");
    let reply = server.ask_as(&foreign, false).await;
    assert_eq!(
        reply,
        json!({"response":"success","info":"unknown host 'mon-z'"})
    );
    assert_eq!(server.texts(items[0]).await, ["6.0", "6.1"]);
    // A heartbeat has no reply.
    let beat = br#"{"request":"active check heartbeat","host":"mon-a","heartbeat_freq":60}"#;
    let frame = muster_proto::zabbix::frame::encode(beat, false).unwrap();
    assert!(server.exchange(&frame).await.is_empty());
    server.stop().await;
}

#[tokio::test]
async fn our_own_agent_is_one_on_every_wire() {
    let (_folder, server) = Server::with(EnrolPolicy::Loopback).await;
    let id = "6f1b2f5e-2e63-4a1d-9e0a-3f4c5d6e7f80";
    let ask = format!(
        r#"{{"request":"proxy heartbeat","host":"px","version":"6.0.14","muster":"{id}"}}"#
    );
    assert_eq!(server.ask(&ask).await["response"], "success");
    let view = server.control.find_agent("px").await.unwrap();
    assert_eq!(view.agent.id.to_string(), id);
    assert_eq!(view.agent.software, "muster");
    server.stop().await;
}

/// An agent that knows one key: its port, and how often it was asked.
async fn fake_agent() -> (u16, Arc<AtomicUsize>) {
    use muster_proto::zabbix::check::{Answer, Question};
    use muster_proto::zabbix::frame::{Decoder, encode};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let agent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = agent.local_addr().unwrap().port();
    let asked = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&asked);
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = agent.accept().await.unwrap();
            counted.fetch_add(1, Ordering::Relaxed);
            let limits = Limits::default();
            let mut buffer = [0; 1024];
            let count = stream.read(&mut buffer).await.unwrap();
            let mut decoder = Decoder::new(&limits.stranger, false);
            let packet = decoder.feed(&buffer[..count]).unwrap().1.unwrap();
            let question = Question::parse(packet.body, &limits).unwrap();
            let answer = match &question {
                Question::Plain { key } if key == "agent.ping" => Answer::Value("1".into()),
                Question::Json { .. } | Question::Plain { .. } => {
                    Answer::NotSupported("Unsupported item key.".into())
                }
            };
            let frame = encode(&question.answer(&answer), false).unwrap();
            stream.write_all(&frame).await.unwrap();
        }
    });
    (port, asked)
}

#[tokio::test]
async fn agents_of_hosts_without_a_proxy_are_asked_by_the_server() {
    let (_folder, server) = Server::with(EnrolPolicy::Approve).await;
    let (port, _) = fake_agent().await;
    let items = server
        .declare_at(
            "mon-a",
            None,
            Some(port),
            &[
                ("agent.ping", ItemType::Agent, ValueType::Unsigned),
                ("no.such", ItemType::Agent, ValueType::Unsigned),
            ],
        )
        .await;
    server
        .declare_at(
            "mon-b",
            None,
            Some(1),
            &[("agent.ping", ItemType::Agent, ValueType::Text)],
        )
        .await;
    let cancel = tokio_util::sync::CancellationToken::new();
    let polling = tokio::spawn(poll_agents(server.control.clone(), cancel.clone()));
    let clock = server.control.clock();
    let end = clock.instant() + Duration::from_secs(30);
    loop {
        let last = server.control.last_values(&items).await.unwrap();
        let unsupported = last
            .get(&items[1])
            .and_then(|last| last.not_supported.as_ref());
        let refused = server.control.refused_counts();
        if !server.texts(items[0]).await.is_empty()
            && unsupported.is_some_and(|why| why.error == "Unsupported item key.")
            && refused
                .iter()
                .any(|(_, reason, _)| reason == "agent_unreachable")
        {
            break;
        }
        assert!(clock.instant() < end, "{last:?} {refused:?}");
        clock.sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(server.texts(items[0]).await[0], "1");
    cancel.cancel();
    polling.await.unwrap();
    server.stop().await;
}

/// Two replicas on one database: each agent is asked by one of them.
#[test]
fn of_several_replicas_one_asks_the_agents() {
    for_each_durable_url(|url| {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(async {
            let replica = async || {
                let store = Store::open(url.clone()).await.unwrap();
                let (clock, entropy) = (Clock::system(), Entropy::system());
                store.migrate(clock.now()).await.unwrap();
                let sealer = Sealer::ephemeral(&mut entropy.rng());
                let settings = Settings::default();
                Control::open(store, sealer, settings, clock, entropy)
                    .await
                    .unwrap()
            };
            let replicas = [replica().await, replica().await];
            let clock = replicas[0].clock().clone();
            let (port, asked) = fake_agent().await;
            let declared = Declared {
                name: "mon-a".to_owned(),
                proxy: None,
                address: Some("127.0.0.1".to_owned()),
                port: Some(port),
            };
            replicas[0].declare_host(declared).await.unwrap();
            let item = NewItem {
                host: "mon-a".to_owned(),
                key: "agent.ping".to_owned(),
                item_type: ItemType::Agent,
                value_type: ValueType::Unsigned,
                delay: Some(SignedDuration::from_secs(1)),
                unit: String::new(),
                name: None,
            };
            replicas[0].declare_item(item).await.unwrap();
            replicas[1].refresh_items().await.unwrap();
            let cancel = tokio_util::sync::CancellationToken::new();
            let polling: Vec<_> = replicas
                .iter()
                .map(|control| tokio::spawn(poll_agents(control.clone(), cancel.clone())))
                .collect();
            // One that asks leaves at least its tick between two questions.
            let end = clock.instant() + Duration::from_secs(30);
            let mut seen: Vec<Instant> = Vec::new();
            while seen.len() < 6 {
                let now = clock.instant();
                assert!(now < end, "{seen:?}");
                seen.resize(asked.load(Ordering::Relaxed), now);
                clock.sleep(Duration::from_millis(10)).await;
            }
            let took = seen[5] - seen[0];
            assert!(took > Duration::from_millis(4200), "six times in {took:?}");
            cancel.cancel();
            for polling in polling {
                polling.await.unwrap();
            }
            // The one that had it gave it back.
            assert!(Duty::new(&replicas[0], "poll agents").is_mine().await);
        });
    });
}

/// A database that fails at any point of an upload: whatever was acknowledged is there, once.
#[tokio::test]
async fn a_failing_database_is_not_now_and_loses_nothing() {
    let (_folder, server) = Server::with(EnrolPolicy::Loopback).await;
    let item = server.proxied(&[ValueType::Unsigned]).await[0];
    let mut refused = 0;
    let mut sent = Vec::new();
    for points in 0..24_i64 {
        let id = points + 1;
        let row =
            format!("{{\"id\":{id},\"itemid\":{item},\"clock\":{id},\"ns\":0,\"value\":\"{id}\"}}");
        let ask = upload(Some(SESSION), &row);
        server.control.store().faults().set(points);
        let reply = server.ask(&ask).await;
        server.control.store().faults().clear();
        if reply["response"] != "success" {
            refused += 1;
            assert_eq!(reply["response"], "failed", "{reply}");
            assert_eq!(
                server.ask(&ask).await["response"],
                "success",
                "after point {points}"
            );
        }
        sent.push(id.to_string());
        assert_eq!(server.texts(item).await, sent, "after point {points}");
    }
    assert!(refused > 3, "only {refused} uploads met the fault");
    server.stop().await;
}
