//! Work over the line: claimed, called, reported, cut, taken up again, called off.

use std::time::Duration;

use muster_core::RunState;
use muster_core::run::EndKind;
use muster_core::task::Assignee;
use serde_json::{Value, json};

use crate::bench::{POLICY, Server, open_to_loopback};

#[tokio::test(start_paused = true)]
async fn a_decom_qc_task_runs_to_complete() {
    let server = Server::simulated(open_to_loopback()).await;
    let agent = server.agent(1, POLICY);
    let name = format!("host-{}", agent.id);
    let id = server.until_able(&name, "decom.qc").await;
    assert_eq!(id, agent.id, "our own agents keep their id");
    let wanted = json!({"spec": {"cpu": {"threads": {"min": 1}}}});
    let task = server.submit("decom.qc", wanted, Assignee::Any).await;
    let (end, reason, result) = server.ended(task).await;
    assert_eq!(end, EndKind::Succeeded, "{reason}");
    assert!(result["facts"]["memory"]["total_bytes"].as_u64().is_some());
    assert_eq!(result["overall"], "pass");

    let task = server
        .submit(
            "decom.qc",
            json!({"spec": {"cpu": {"threads": {"max": 0}}}}),
            Assignee::Any,
        )
        .await;
    let (end, reason, result) = server.ended(task).await;
    assert_eq!(end, EndKind::Failed);
    assert!(reason.starts_with("/cpu/threads is "), "{reason}");
    assert_eq!(result["overall"], "fail", "the report is attached");
    server.stop().await;
}

#[tokio::test(start_paused = true)]
async fn any_kind_goes_as_muster_run_and_progress_is_kept() {
    let server = Server::simulated(open_to_loopback()).await;
    let agent = server.agent(1, POLICY);
    server
        .until_able(&format!("host-{}", agent.id), "idle")
        .await;
    let spec = json!({"schema": 1, "duration": "PT30S"});
    let task = server
        .submit("idle", spec, Assignee::Named(vec![agent.id]))
        .await;
    let begun = server
        .run_until(task, |state| matches!(state, RunState::Running { .. }))
        .await;
    assert!(
        server
            .clock
            .now()
            .duration_since(begun.run.window.start)
            .as_secs()
            < 2
    );
    let (end, reason, _) = server.ended(task).await;
    assert_eq!(end, EndKind::Succeeded, "{reason}");
    let view = server
        .control
        .find_agent(&agent.id.to_string())
        .await
        .unwrap();
    assert!(view.online, "an open line is a sign of life");
    server.stop().await;
}

#[tokio::test(start_paused = true)]
async fn the_policy_of_the_machine_has_the_last_word() {
    let server = Server::simulated(open_to_loopback()).await;
    let denying = "[observe]\nallow = false\n";
    let agent = server.agent(1, denying);
    server
        .until_able(&format!("host-{}", agent.id), "decom.qc")
        .await;
    let task = server.submit("decom.qc", json!({}), Assignee::Any).await;
    let (end, reason, _) = server.ended(task).await;
    assert_eq!(end, EndKind::Refused);
    assert!(reason.contains("denied by the agent's policy"), "{reason}");
    server.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_run_goes_on_while_its_line_is_cut() {
    let server = Server::simulated(open_to_loopback()).await;
    let agent = server.agent(1, POLICY);
    server
        .until_able(&format!("host-{}", agent.id), "idle")
        .await;
    let spec = json!({"schema": 1, "duration": "PT20S"});
    let task = server.submit("idle", spec, Assignee::Any).await;
    server
        .run_until(task, |state| matches!(state, RunState::Running { .. }))
        .await;
    // Cut twice while it works; the last time over its end.
    server.clock.sleep(Duration::from_secs(5)).await;
    server.cut_lines();
    server.clock.sleep(Duration::from_millis(14_900)).await;
    server.cut_lines();
    let (end, reason, _) = server.ended(task).await;
    assert_eq!(end, EndKind::Succeeded, "{reason}");
    let runs = server.control.runs_of(task, 10).await.unwrap();
    assert_eq!(runs.len(), 1);
    assert_eq!(runs[0].run.generation, 1, "it was begun once");
    server.stop().await;
}

#[tokio::test(start_paused = true)]
async fn an_end_is_told_again_by_the_next_process() {
    let server = Server::simulated(open_to_loopback()).await;
    let agent = server.agent(1, POLICY);
    server
        .until_able(&format!("host-{}", agent.id), "idle")
        .await;
    let task = server
        .submit(
            "idle",
            json!({"schema": 1, "duration": "PT20S"}),
            Assignee::Any,
        )
        .await;
    server
        .run_until(task, |state| matches!(state, RunState::Running { .. }))
        .await;
    // The link ends as a process would; the crew finishes and its ledger keeps the end.
    agent.stop.cancel();
    server.clock.sleep(Duration::from_secs(30)).await;
    let mut agent = agent;
    agent.stop = tokio_util::sync::CancellationToken::new();
    server.link(&agent);
    let (end, reason, _) = server.ended(task).await;
    assert_eq!(end, EndKind::Succeeded, "{reason}");
    server.stop().await;
}

#[tokio::test(start_paused = true)]
async fn what_is_called_off_is_stopped() {
    let server = Server::simulated(open_to_loopback()).await;
    let agent = server.agent(1, POLICY);
    server
        .until_able(&format!("host-{}", agent.id), "idle")
        .await;
    let task = server
        .submit(
            "idle",
            json!({"schema": 1, "duration": "PT5M"}),
            Assignee::Any,
        )
        .await;
    server
        .run_until(task, |state| matches!(state, RunState::Running { .. }))
        .await;
    assert_eq!(agent.crew.underway().len(), 1);
    server.control.cancel(task, "test").await.unwrap();
    server.clock.sleep(Duration::from_secs(8)).await;
    assert!(agent.crew.underway().is_empty(), "the agent was told");
    assert_eq!(server.ended(task).await.0, EndKind::Cancelled);
    server.stop().await;
}

fn hello(id: &str) -> Value {
    json!({"id": id, "version": "0.1-dev"})
}

#[tokio::test(start_paused = true)]
async fn an_agent_of_the_published_text_does_decom_qc() {
    let server = Server::simulated(open_to_loopback()).await;
    let mut line = server.line("127.0.0.1");
    let welcome = line.call("handshake", hello("a:b:c:d")).await;
    assert_eq!(welcome["result"]["primary_mac_address"], "a:b:c:d");
    // The placeholder names no machine.
    let id = server.until_able("a:b:c:d@127.0.0.1", "decom.qc").await;
    let view = server.control.agent(id).await.unwrap();
    assert!(
        view.agent
            .capabilities
            .iter()
            .all(|capability| capability.assumed)
    );
    let task = server
        .submit("decom.qc", json!({"spec": {"cpu": {}}}), Assignee::Any)
        .await;
    let command = line.commanded("decom.qc").await;
    assert_eq!(command["params"]["spec"], json!({"cpu": {}}));
    let task_id = command["params"]["task_id"].clone();
    line.answer(&command, Value::Null).await;
    for params in [
        json!({"task_id": task_id, "state": "running", "eta": 12, "percent": 40}),
        json!({"task_id": task_id, "state": "complete"}),
        json!({"task_id": task_id, "state": "complete"}),
        json!({"task_id": task_id, "state": "error", "msg": "late"}),
        json!({"task_id": task_id, "state": "running", "eta": 1, "percent": 1}),
        json!({"task_id": "unheard of", "state": "complete"}),
    ] {
        let answer = line.call("task_status", params).await;
        assert_eq!(answer["result"], json!({}), "{answer}");
    }
    for params in [
        json!({"task_id": task_id, "state": "paused"}),
        json!({"task_id": task_id, "state": "running", "eta": -1, "percent": 1}),
        json!({"task_id": task_id, "state": "running", "eta": 1, "percent": 101}),
    ] {
        let answer = line.call("task_status", params).await;
        assert!(answer["error"]["msg"].is_string(), "{answer}");
    }
    let (end, reason, _) = server.ended(task).await;
    assert_eq!(end, EndKind::Succeeded, "{reason}");
    let view = server.control.agent(id).await.unwrap();
    assert!(
        view.agent.capabilities.iter().all(|c| !c.assumed),
        "it was seen to do it"
    );
    server.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_real_agent_that_does_not_know_the_command_is_asked_once() {
    let server = Server::simulated(open_to_loopback()).await;
    let mut line = server.line("127.0.0.1");
    line.call("handshake", hello("a:b:c:d")).await;
    let id = server.until_able("a:b:c:d@127.0.0.1", "decom.qc").await;
    let task = server
        .submit("decom.qc", json!({}), Assignee::Named(vec![id]))
        .await;
    line.commanded("decom.qc").await;
    line.send(json!({"fatal_error": "unknown message method"}))
        .await;
    let (end, reason, _) = server.ended(task).await;
    assert_eq!(end, EndKind::Refused);
    assert_eq!(reason, "the agent does not know decom.qc");
    let mut line = server.line("127.0.0.1");
    line.call("handshake", hello("a:b:c:d")).await;
    let view = server.control.agent(id).await.unwrap();
    assert!(
        view.agent.capabilities.is_empty(),
        "{:?}",
        view.agent.capabilities
    );
    server.stop().await;
}

#[tokio::test(start_paused = true)]
async fn the_newest_connection_gets_the_work_and_a_lost_offer_goes_on() {
    let server = Server::simulated(open_to_loopback()).await;
    let mut old = server.line("127.0.0.1");
    old.call("handshake", hello("52:54:00:00:00:01")).await;
    let mut new = server.line("127.0.0.1");
    new.call("handshake", hello("52:54:00:00:00:01")).await;
    server.until_able("52:54:00:00:00:01", "decom.qc").await;
    let task = server.submit("decom.qc", json!({}), Assignee::Any).await;
    let first = new.commanded("decom.qc").await;
    // The older one is open and polite, but is given nothing.
    assert_eq!(
        old.call("ping", json!({"n": 1})).await["result"],
        json!({"n": 1})
    );
    drop(old);
    server.clock.sleep(Duration::from_secs(1)).await;
    let run = server.run_until(task, |_| true).await;
    assert!(
        matches!(run.run.state, RunState::Offered { .. }),
        "{:?}",
        run.run.state
    );
    // The newer goes without an answer: the same run is offered again, under the next generation.
    drop(new);
    let mut next = server.line("127.0.0.1");
    next.call("handshake", hello("52:54:00:00:00:01")).await;
    let second = next.commanded("decom.qc").await;
    let id = |command: &Value| command["params"]["task_id"].as_str().unwrap().to_owned();
    let (run, generation) = (id(&first), id(&second));
    assert_eq!(
        run.rsplit_once('.').unwrap().0,
        generation.rsplit_once('.').unwrap().0
    );
    assert_ne!(run, generation);
    // Word under the old offer does not count; under the new one it does.
    let stale = json!({"task_id": run, "state": "error", "msg": "stale"});
    assert_eq!(next.call("task_status", stale).await["result"], json!({}));
    next.answer(&second, json!({})).await;
    let good = json!({"task_id": generation, "state": "complete"});
    assert_eq!(next.call("task_status", good).await["result"], json!({}));
    assert_eq!(server.ended(task).await.0, EndKind::Succeeded);
    server.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_rebooted_machine_fails_what_it_no_longer_lists() {
    let server = Server::simulated(open_to_loopback()).await;
    let params = |boot: &str| {
        json!({"id": "m", "version": "1", "boot_id": boot,
        "methods": ["status", "decom.qc"]})
    };
    let mut line = server.line("127.0.0.1");
    line.call("handshake", params("b-1")).await;
    let task = server.submit("decom.qc", json!({}), Assignee::Any).await;
    let command = line.commanded("decom.qc").await;
    line.answer(&command, json!({})).await;
    server
        .run_until(task, |state| matches!(state, RunState::Running { .. }))
        .await;
    drop(line);
    let mut line = server.line("127.0.0.1");
    line.call("handshake", params("b-2")).await;
    let status = line.commanded("status").await;
    line.answer(&status, json!({"boot_id": "b-2", "tasks": []}))
        .await;
    let (end, reason, _) = server.ended(task).await;
    assert_eq!((end, reason.as_str()), (EndKind::Failed, "agent rebooted"));
    server.stop().await;
}
