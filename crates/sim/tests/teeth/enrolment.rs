//! Who may work: keys, approval, addresses; what those get who may not (threat model, section 2).

use std::time::Duration;

use muster_core::agent::AgentState;
use muster_core::run::EndKind;
use muster_core::task::Assignee;
use muster_server::control::{EnrolPolicy, NewKey, Settings};
use serde_json::{Value, json};

use crate::bench::{Server, open_to_loopback};

fn hello(id: &str) -> Value {
    json!({"id": id, "version": "1", "methods": ["status", "decom.qc"]})
}

fn with_token(id: &str, token: &str) -> Value {
    let mut params = hello(id);
    params["token"] = token.into();
    params
}

fn keyed() -> Settings {
    Settings {
        enrol_policy: EnrolPolicy::Key,
        ..Settings::default()
    }
}

#[tokio::test(start_paused = true)]
async fn where_a_key_is_required_nothing_goes_without() {
    let server = Server::simulated(keyed()).await;
    let mut line = server.line("192.0.2.1");
    assert_eq!(
        line.call("ping", json!({"n": 1})).await["result"],
        json!({"n": 1})
    );
    let log = line.call("log", json!({"message": "m", "time": 1})).await;
    assert_eq!(log["error"]["msg"], "not authenticated");
    let none = line.call("handshake", hello("m")).await;
    assert_eq!(none["fatal_error"], "handshake refused: not authenticated");
    assert_eq!(line.next().await, Value::Null, "and closed");

    let mut line = server.line("192.0.2.1");
    let bad = line.call("handshake", with_token("m", "wrong")).await;
    assert_eq!(bad["fatal_error"], "handshake refused: bad token");

    let (_, key) = server.control.create_key(NewKey::default()).await.unwrap();
    let mut line = server.line("192.0.2.1");
    let good = line.call("handshake", with_token("m", key.expose())).await;
    assert_eq!(good["result"]["primary_mac_address"], "m");
    let task = server.submit("decom.qc", json!({}), Assignee::Any).await;
    let command = line.commanded("decom.qc").await;
    line.answer(&command, json!({})).await;
    let done = json!({"task_id": command["params"]["task_id"], "state": "complete"});
    line.call("task_status", done).await;
    assert_eq!(server.ended(task).await.0, EndKind::Succeeded);

    // Enrolled with a key, it needs it again, from anywhere.
    for params in [hello("m"), with_token("m", "wrong")] {
        let mut line = server.line("192.0.2.1");
        let refused = line.call("handshake", params).await;
        assert!(
            [
                "handshake refused: bad token",
                "handshake refused: not authenticated"
            ]
            .contains(&refused["fatal_error"].as_str().unwrap()),
            "{refused}"
        );
    }
    server.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_handshake_that_is_required_has_ten_seconds_and_four_kilobytes() {
    let server = Server::simulated(keyed()).await;
    let mut line = server.line("192.0.2.1");
    let before = server.clock.instant();
    assert_eq!(
        line.next().await["fatal_error"],
        "handshake refused: too slow"
    );
    assert_eq!(server.clock.instant() - before, Duration::from_secs(10));
    let mut line = server.line("192.0.2.1");
    line.send_bytes(&[b' '; 5000]).await.unwrap();
    assert_eq!(
        line.next().await["fatal_error"],
        "handshake refused: too long"
    );
    server.stop().await;
}

#[tokio::test(start_paused = true)]
async fn more_than_five_wrong_tokens_of_an_id_are_told_and_lock_nobody_out() {
    let server = Server::simulated(keyed()).await;
    let (_, key) = server.control.create_key(NewKey::default()).await.unwrap();
    let too_many = || {
        let counts = server.control.refused_counts();
        let found = counts
            .into_iter()
            .find(|(_, reason, _)| reason == "too_many_failures");
        found.map_or(0, |(_, _, count)| count)
    };
    for wrong in 1..=7 {
        let mut line = server.line("192.0.2.1");
        let refused = line.call("handshake", with_token("m", "wrong")).await;
        assert_eq!(refused["fatal_error"], "handshake refused: bad token");
        assert_eq!(too_many(), u64::saturating_sub(wrong, 5), "after {wrong}");
    }
    // Others may share the address.
    let mut line = server.line("192.0.2.1");
    let good = line.call("handshake", with_token("n", key.expose())).await;
    assert!(good.get("result").is_some(), "{good}");
    server.stop().await;
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_approval_is_answered_and_given_nothing() {
    let server = Server::simulated(Settings::default()).await;
    let mut line = server.line("192.0.2.1");
    let welcome = line.call("handshake", hello("m")).await;
    assert!(welcome.get("result").is_some());
    let view = server.control.find_agent("m").await.unwrap();
    assert_eq!(view.agent.state, AgentState::Pending);
    for (method, params, result) in [
        ("ping", json!({"n": 1}), json!({"n": 1})),
        ("log", json!({"message": "m", "time": 1.5}), json!({})),
        (
            "task_status",
            json!({"task_id": "t", "state": "complete"}),
            json!({}),
        ),
    ] {
        assert_eq!(line.call(method, params).await["result"], result);
    }
    // Approved, it gets work on the line it has.
    let id = view.agent.id;
    server
        .control
        .set_agent_state(id, AgentState::Approved, "test")
        .await
        .unwrap();
    let task = server
        .submit("decom.qc", json!({}), Assignee::Named(vec![id]))
        .await;
    let command = line.commanded("decom.qc").await;
    line.answer(&command, json!({})).await;
    // Disabled, its word no longer counts.
    server
        .control
        .set_agent_state(id, AgentState::Disabled, "test")
        .await
        .unwrap();
    server.clock.sleep(Duration::from_secs(6)).await;
    let done = json!({"task_id": command["params"]["task_id"], "state": "complete"});
    assert_eq!(line.call("task_status", done).await["result"], json!({}));
    let run = server.run_until(task, |_| true).await;
    assert!(!run.run.state.is_ended(), "{:?}", run.run.state);
    server.stop().await;
}

#[tokio::test(start_paused = true)]
async fn an_identity_is_bound_to_where_it_was_approved() {
    let server = Server::simulated(open_to_loopback()).await;
    let mut line = server.line("127.0.0.1");
    line.call("handshake", hello("m")).await;
    let task = server.submit("decom.qc", json!({}), Assignee::Any).await;
    // Somebody elsewhere who uses the name is held: answered, shown, given nothing.
    let mut thief = server.line("192.0.2.9");
    assert!(
        thief
            .call("handshake", hello("m"))
            .await
            .get("result")
            .is_some()
    );
    let command = line.commanded("decom.qc").await;
    let forged = json!({"task_id": command["params"]["task_id"], "state": "error", "msg": "x"});
    assert_eq!(thief.call("task_status", forged).await["result"], json!({}));
    line.answer(&command, json!({})).await;
    let done = json!({"task_id": command["params"]["task_id"], "state": "complete"});
    line.call("task_status", done).await;
    assert_eq!(server.ended(task).await.0, EndKind::Succeeded);
    server.stop().await;
}

#[tokio::test(start_paused = true)]
async fn without_a_handshake_a_line_is_no_agent() {
    let server = Server::simulated(open_to_loopback()).await;
    let mut line = server.line("127.0.0.1");
    let report = json!({"task_id": "t", "state": "complete"});
    assert_eq!(line.call("task_status", report).await["result"], json!({}));
    assert_eq!(line.call("ping", json!({})).await["result"], json!({}));
    assert_eq!(server.front.connected(), 0);
    server.stop().await;
}
