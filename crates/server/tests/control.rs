//! Control and its reconcilers on every database, in simulated time.

#![expect(clippy::unwrap_used, reason = "a test fails where it stands")]

use std::future::Future;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use muster_core::agent::{AgentState, Capability, Wire};
use muster_core::credential::Secret;
use muster_core::host::{HostFacts, SourceKind};
use muster_core::result::{News, Outcome};
use muster_core::run::Progress;
use muster_core::sample::{ItemType, Value, ValueType};
use muster_core::schedule::{Schedule, Start};
use muster_core::task::{Assignee, Origin};
use muster_core::{AgentId, EndKind, Kind, RunState, TaskState};
use muster_net::{Clock, Entropy};
use muster_server::Control;
use muster_server::control::{
    Admission, Declared, DueAsk, Duty, EnrolPolicy, Hello, HistoryRange, NewItem, NewKey, NewTask,
    Observation, Offer, Proof, Reported, Role, Settings, Standing, Subject, Trouble, Upload,
};
use muster_server::reconcile::{lapse, schedule};
use muster_store::block::{Content, Flags, Reading};
use muster_store::runs::Filter;
use muster_store::samples::Row;
use muster_store::sealed::Sealer;
use muster_store::testing::for_each_store;
use serde_json::json;
use uuid::Uuid;

const EPOCH: &str = "2026-11-24T12:00:00Z";

fn on_each<F, Fut>(settings: Settings, test: F)
where
    F: Fn(Control) -> Fut,
    Fut: Future<Output = ()>,
{
    for_each_store(|store| {
        let (settings, test) = (settings.clone(), &test);
        async move {
            tokio::time::pause();
            let entropy = Entropy::seeded(7);
            let sealer = Sealer::ephemeral(&mut entropy.rng());
            let clock = Clock::simulated(EPOCH.parse().unwrap());
            test(
                Control::open(store, sealer, settings, clock, entropy)
                    .await
                    .unwrap(),
            )
            .await;
        }
    });
}

fn loopback() -> Settings {
    Settings {
        enrol_policy: EnrolPolicy::Loopback,
        enrol_addresses: vec!["10.1.0.0/16".parse().unwrap()],
        ..Settings::default()
    }
}

fn kind(name: &str) -> Kind {
    name.parse().unwrap()
}

fn hello(peer: &str, address: &str) -> Hello {
    Hello {
        wire: Wire::Fusion,
        peer: peer.into(),
        id: None,
        name: None,
        software: "fusioninventory-agent".into(),
        version: "2.6".into(),
        capabilities: Some(vec![
            capability("inventory", false),
            capability("netdiscovery", true),
        ]),
        address: address.parse().unwrap(),
        forwarded: false,
        proof: Proof::None,
        tls_identity: None,
        next_contact: SignedDuration::from_mins(10),
    }
}

fn capability(name: &str, assumed: bool) -> Capability {
    Capability {
        kind: kind(name),
        version: "1".into(),
        assumed,
    }
}

async fn agent(control: &Control, peer: &str) -> AgentId {
    let admission = control.check_in(hello(peer, "127.0.0.1")).await.unwrap();
    assert_eq!(admission.standing, Standing::Approved);
    admission.agent.id
}

fn ask() -> DueAsk {
    DueAsk {
        kinds: vec![kind("inventory"), kind("netdiscovery"), kind("throughput")],
        lease: SignedDuration::from_secs(60),
        ahead: SignedDuration::ZERO,
        limit: 10,
    }
}

async fn due(control: &Control, agent: AgentId) -> Vec<Offer> {
    control.due(agent, ask()).await.unwrap()
}

fn task(name: &str, agents: &[AgentId]) -> NewTask {
    let mut task = NewTask::new(kind(name), Origin::Cli, json!({"schema": 1}));
    if !agents.is_empty() {
        task.assignee = Assignee::Named(agents.to_vec());
    }
    task
}

async fn advance(secs: u64) {
    tokio::time::advance(Duration::from_secs(secs)).await;
}

async fn only_run(control: &Control) -> muster_store::runs::StoredRun {
    let runs = control
        .runs(Filter::default(), None, 10)
        .await
        .unwrap()
        .rows;
    assert_eq!(runs.len(), 1, "{runs:?}");
    runs[0].run.clone()
}

#[test]
fn who_comes_without_a_key_is_judged_by_policy_and_address() {
    use EnrolPolicy::{Approve, Key, Loopback};
    let cases = [
        (Approve, "127.0.0.1", false, Some(Standing::Pending)),
        (Loopback, "127.0.0.1", false, Some(Standing::Approved)),
        (Loopback, "127.0.0.1", true, Some(Standing::Pending)),
        (Loopback, "10.1.2.3", false, Some(Standing::Approved)),
        (Loopback, "10.2.2.3", false, Some(Standing::Pending)),
        (Key, "127.0.0.1", false, None),
    ];
    for (policy, address, forwarded, expected) in cases {
        let settings = Settings {
            enrol_policy: policy,
            ..loopback()
        };
        on_each(settings, |control| {
            let expected = expected.clone();
            async move {
                let hello = Hello {
                    forwarded,
                    ..hello("lab", address)
                };
                match (control.check_in(hello).await, expected) {
                    (Ok(Admission { standing, .. }), Some(expected)) => {
                        assert_eq!(standing, expected)
                    }
                    (Err(error), None) => {
                        assert_eq!(
                            (error.trouble, error.code),
                            (Trouble::Refused, "NOT_AUTHENTICATED")
                        );
                        assert_eq!(control.refused_counts().len(), 1);
                        let why = control.explain(Subject::Agent, "lab").await.unwrap();
                        assert!(why.next.contains("agent key create"), "{why:?}");
                    }
                    (got, expected) => panic!("{got:?} instead of {expected:?}"),
                }
            }
        });
    }
}

#[test]
fn a_key_approves_always_and_stays_the_token() {
    on_each(
        Settings {
            enrol_policy: EnrolPolicy::Key,
            ..Settings::default()
        },
        |control| async move {
            let new = NewKey {
                label: "rack 1".into(),
                once: true,
                expires: None,
            };
            let (_, key) = control.create_key(new).await.unwrap();
            let with = |peer: &str, key: &Secret| Hello {
                proof: Proof::Key(key.clone()),
                ..hello(peer, "10.9.9.9")
            };
            let first = control.check_in(with("lab", &key)).await.unwrap();
            assert_eq!(first.standing, Standing::Approved);
            // It may move: the key is the proof.
            advance(10).await;
            let moved = Hello {
                address: "10.9.9.10".parse().unwrap(),
                ..with("lab", &key)
            };
            assert_eq!(
                control.check_in(moved).await.unwrap().standing,
                Standing::Approved
            );
            let without = control.check_in(hello("lab", "10.9.9.10")).await.unwrap();
            assert!(matches!(without.standing, Standing::Held(_)));
            let wrong = control
                .check_in(with("lab", &Secret::new("guess")))
                .await
                .unwrap();
            assert!(matches!(wrong.standing, Standing::Held(_)));
            // The key was for one agent; another that shows it, or a wrong one, is turned away.
            for key in [key, Secret::new("guess")] {
                let error = control.check_in(with("other", &key)).await.unwrap_err();
                assert_eq!(error.code, "NOT_AUTHENTICATED");
                assert!(!format!("{error:?}").contains("guess"));
            }
        },
    );
}

#[test]
fn an_identity_without_a_credential_is_bound_to_its_address() {
    on_each(loopback(), |control| async move {
        let id = agent(&control, "lab").await;
        let thief = control.check_in(hello("lab", "192.0.2.9")).await.unwrap();
        assert!(matches!(thief.standing, Standing::Held(_)));
        assert_eq!(
            control.agent(id).await.unwrap().agent.address,
            Some("127.0.0.1".parse().unwrap())
        );
        let why = control.explain(Subject::Agent, "lab").await.unwrap();
        assert!(why.verdict.contains("held"), "{why:?}");
        // Inside the listed networks it may move.
        control.check_in(hello("roamer", "10.1.0.1")).await.unwrap();
        let moved = control
            .check_in(hello("roamer", "10.1.255.1"))
            .await
            .unwrap();
        assert_eq!(moved.standing, Standing::Approved);
        // Approving again binds it to where it is.
        control.check_in(hello("far", "192.0.2.1")).await.unwrap();
        let far = control.find_agent("far").await.unwrap().agent;
        assert_eq!(far.state, AgentState::Pending);
        assert!(
            control
                .explain(Subject::Agent, "far")
                .await
                .unwrap()
                .next
                .contains("agent approve far")
        );
        control
            .set_agent_state(far.id, AgentState::Approved, "test")
            .await
            .unwrap();
        assert_eq!(
            control
                .check_in(hello("far", "192.0.2.1"))
                .await
                .unwrap()
                .standing,
            Standing::Approved
        );
        assert!(matches!(
            control
                .check_in(hello("far", "192.0.2.2"))
                .await
                .unwrap()
                .standing,
            Standing::Held(_)
        ));
        control
            .set_agent_state(far.id, AgentState::Disabled, "test")
            .await
            .unwrap();
        assert_eq!(
            control
                .check_in(hello("far", "192.0.2.1"))
                .await
                .unwrap()
                .standing,
            Standing::Disabled
        );
        control.remove_agent(far.id, "test").await.unwrap();
        assert_eq!(
            control.find_agent("far").await.unwrap_err().trouble,
            Trouble::NotFound
        );
    });
}

#[test]
fn our_own_agent_is_one_agent_on_every_wire() {
    on_each(loopback(), |control| async move {
        let id = AgentId::from_uuid(Uuid::from_u128(42));
        for (wire, peer) in [
            (Wire::Fusion, "42"),
            (Wire::Teeth, "52:54:00:00:00:01"),
            (Wire::Zabbix, "lab"),
        ] {
            let said = if wire == Wire::Teeth {
                vec![capability("rtt", false)]
            } else {
                vec![capability("inventory", false)]
            };
            let hello = Hello {
                wire,
                id: Some(id),
                name: Some("lab".into()),
                capabilities: Some(said),
                ..hello(peer, "127.0.0.1")
            };
            assert_eq!(control.check_in(hello).await.unwrap().agent.id, id);
        }
        let page = control.agents(None, 10).await.unwrap();
        assert_eq!(page.rows.len(), 1);
        let agent = &page.rows[0].agent;
        assert_eq!(agent.wires, [Wire::Fusion, Wire::Teeth, Wire::Zabbix]);
        assert!(agent.can(&kind("rtt")) && agent.can(&kind("inventory")));
        // Names are unique; another's is not taken over.
        let other = control
            .check_in(Hello {
                name: Some("lab".into()),
                ..hello("x", "127.0.0.1")
            })
            .await
            .unwrap();
        assert_eq!(other.agent.name, "lab-2");
    });
}

#[test]
fn a_run_goes_from_submission_to_its_end() {
    on_each(loopback(), |control| async move {
        let id = agent(&control, "lab").await;
        let mut new = task("netdiscovery", &[id]);
        new.spec = json!({"schema": 1, "_credentials": [{"version": "2c", "community": "s3cret"}]});
        let submitted = control.submit(new).await.unwrap();
        assert!(
            !submitted.spec.expose().contains("s3cret"),
            "secrets are not shown"
        );
        assert_eq!(
            control
                .next_start(id, vec![kind("netdiscovery")], None)
                .await
                .unwrap(),
            Some(EPOCH.parse().unwrap())
        );

        let offers = due(&control, id).await;
        assert_eq!(offers.len(), 1);
        assert!(
            offers[0].spec.expose().contains("s3cret"),
            "they go to the agent"
        );
        // The reply was lost: the same run again, under the next generation.
        let again = due(&control, id).await;
        assert_eq!(
            (again[0].token.run, again[0].token.generation),
            (offers[0].token.run, 2)
        );
        let stale = control
            .report(offers[0].token, id, News::Began)
            .await
            .unwrap();
        assert!(matches!(stale, Reported::Stale(_)));

        let token = again[0].token;
        let say = |news| control.report(token, id, news);
        assert_eq!(say(News::Began).await.unwrap(), Reported::Counted);
        assert_eq!(say(News::Began).await.unwrap(), Reported::Repeat);
        assert_eq!(due(&control, id).await.len(), 0, "it has begun");
        say(News::Progress(Progress {
            percent: Some(50.0),
            eta: None,
        }))
        .await
        .unwrap();
        for _ in 0..2 {
            say(News::Part(r#"{"ip":"10.0.0.1"}"#.into()))
                .await
                .unwrap();
        }
        say(News::Part(r#"{"ip":"10.0.0.2"}"#.into()))
            .await
            .unwrap();
        let done = News::Finished(Outcome {
            succeeded: true,
            result: None,
            diags: None,
        });
        assert_eq!(say(done.clone()).await.unwrap(), Reported::Counted);
        assert_eq!(say(done).await.unwrap(), Reported::Repeat);
        assert!(matches!(
            say(News::Finished(Outcome::failure("no"))).await.unwrap(),
            Reported::Stale(_)
        ));

        let run = only_run(&control).await;
        assert_eq!(run.run.state.to_string(), "succeeded");
        let result: serde_json::Value =
            serde_json::from_str(run.result.as_deref().unwrap()).unwrap();
        assert_eq!(
            result,
            json!({"succeeded": true, "devices": [{"ip": "10.0.0.1"}, {"ip": "10.0.0.2"}]})
        );
        assert_eq!(
            control.task(submitted.id).await.unwrap().task.state,
            TaskState::Ended
        );
        let can = control.agent(id).await.unwrap().agent.capabilities;
        assert!(can.iter().all(|c| !c.assumed), "it has done one: {can:?}");
        let why = control
            .explain(Subject::Run, &run.run.id.to_string())
            .await
            .unwrap();
        assert_eq!(why.verdict, "it ended succeeded");
        assert!(
            why.steps
                .iter()
                .any(|step| step.check == "dropped" && step.ok == Some(false))
        );
    });
}

#[test]
fn work_that_cannot_be_is_refused_with_the_reason() {
    on_each(loopback(), |control| async move {
        let id = agent(&control, "lab").await;
        let cases = [
            (
                task("rtt", &[id]),
                "AGENT_LACKS_CAPABILITY",
                "said it has: inventory, netdiscovery",
            ),
            (
                task("inventory", &[AgentId::from_uuid(Uuid::nil())]),
                "AGENT_NOT_FOUND",
                "",
            ),
            (task("frobnicate", &[]), "UNKNOWN_KIND", ""),
            (
                NewTask {
                    assignee: Assignee::Named(vec![]),
                    ..task("rtt", &[])
                },
                "NO_AGENT",
                "",
            ),
            (
                NewTask {
                    spec: json!([]),
                    ..task("rtt", &[])
                },
                "BAD_SPEC",
                "",
            ),
            (
                NewTask {
                    targets: vec!["a\nb".into()],
                    ..task("rtt", &[])
                },
                "BAD_TARGET",
                "",
            ),
            (
                NewTask {
                    spec: json!({"x": "y".repeat(2 << 20)}),
                    ..task("rtt", &[])
                },
                "SPEC_TOO_LARGE",
                "",
            ),
            (
                NewTask {
                    schedule: Schedule {
                        max_runs: Some(0),
                        ..Schedule::default()
                    },
                    ..task("rtt", &[])
                },
                "BAD_SCHEDULE",
                "max-runs",
            ),
        ];
        for (new, code, said) in cases {
            let error = control.submit(new).await.unwrap_err();
            assert_eq!(error.code, code, "{error}");
            assert!(error.to_string().contains(said), "{error}");
        }
        assert_eq!(control.tasks(None, 10).await.unwrap().rows.len(), 0);
        control
            .set_agent_state(id, AgentState::Disabled, "test")
            .await
            .unwrap();
        let error = control.submit(task("inventory", &[id])).await.unwrap_err();
        assert_eq!(error.code, "AGENT_NOT_APPROVED");
    });
}

#[test]
fn a_lease_that_lapses_gives_the_run_to_whoever_asks_next() {
    on_each(loopback(), |control| async move {
        let (one, two) = (agent(&control, "one").await, agent(&control, "two").await);
        control.submit(task("netdiscovery", &[])).await.unwrap();
        let first = due(&control, one).await;
        assert_eq!(first.len(), 1);
        assert_eq!(due(&control, two).await.len(), 0, "it is with the first");
        advance(61).await;
        assert_eq!(lapse::activate(&control).await.unwrap(), 1);
        assert_eq!(lapse::activate(&control).await.unwrap(), 0, "idempotent");
        assert_eq!(
            due(&control, one).await.len(),
            0,
            "an assumed capability went with the lapse"
        );
        let why = control
            .explain(Subject::Run, &first[0].token.run.to_string())
            .await
            .unwrap();
        let lapsed = "the lease lapsed: one was offered it and had not begun by ";
        assert!(why.verdict.starts_with(lapsed), "{why:?}");
        assert!(why.next.contains("at its next contact"), "{why:?}");
        let second = due(&control, two).await;
        assert_eq!(second.len(), 1, "it is open to any again");
        let token = second[0].token;
        assert_eq!((token.run, token.generation), (first[0].token.run, 2));
    });
}

#[test]
fn an_agent_that_falls_silent_ends_its_run() {
    on_each(loopback(), |control| async move {
        let id = agent(&control, "lab").await;
        control.submit(task("inventory", &[id])).await.unwrap();
        let token = due(&control, id).await[0].token;
        control.report(token, id, News::Began).await.unwrap();
        advance(300 + 29).await;
        assert_eq!(lapse::activate(&control).await.unwrap(), 0);
        advance(2).await;
        assert_eq!(lapse::activate(&control).await.unwrap(), 1);
        assert_eq!(only_run(&control).await.run.state.word(), "overdue");
        let why = control
            .explain(Subject::Run, &token.run.to_string())
            .await
            .unwrap();
        assert!(why.verdict.contains("nothing was heard"), "{why:?}");
        advance(301).await;
        assert_eq!(lapse::activate(&control).await.unwrap(), 1);
        let RunState::Ended(end) = only_run(&control).await.run.state else {
            panic!("ended")
        };
        assert_eq!(end.kind, EndKind::Failed);
    });
}

#[test]
fn nobody_came() {
    on_each(loopback(), |control| async move {
        let mut new = task("rtt", &[]);
        new.schedule.start = Start::At(EPOCH.parse().unwrap());
        let submitted = control.submit(new).await.unwrap();
        let why = control
            .explain(Subject::Task, &submitted.id.to_string())
            .await
            .unwrap();
        assert_eq!(why.verdict, "no approved agent can do rtt");
        advance(31).await;
        lapse::activate(&control).await.unwrap();
        assert_eq!(only_run(&control).await.run.state.to_string(), "missed");
        assert_eq!(
            control.task(submitted.id).await.unwrap().task.state,
            TaskState::Ended
        );
    });
}

#[test]
fn exclusive_work_waits_for_its_place() {
    on_each(loopback(), |control| async move {
        // A kind no tool is built in for is scheduled as `normal`; two of them share an agent.
        let hello = Hello {
            capabilities: Some(vec![capability("throughput", false)]),
            ..hello("lab", "127.0.0.1")
        };
        let id = control.check_in(hello).await.unwrap().agent.id;
        for _ in 0..2 {
            control.submit(task("throughput", &[id])).await.unwrap();
        }
        assert_eq!(due(&control, id).await.len(), 2);
    });
}

#[test]
fn repeating_tasks_plan_a_few_turns_ahead() {
    on_each(loopback(), |control| async move {
        let id = agent(&control, "lab").await;
        let mut new = task("inventory", &[id]);
        new.schedule.repeat = Some(SignedDuration::from_mins(1));
        new.schedule.max_runs = Some(4);
        let submitted = control.submit(new).await.unwrap();
        assert_eq!(control.runs_of(submitted.id, 10).await.unwrap().len(), 3);
        assert_eq!(schedule::activate(&control).await.unwrap(), 0, "idempotent");
        let offers = due(&control, id).await;
        assert_eq!(offers.len(), 1, "the later turns are not due");
        control
            .report(offers[0].token, id, News::Finished(Outcome::success("{}")))
            .await
            .unwrap();
        assert_eq!(schedule::activate(&control).await.unwrap(), 1);
        let runs = control.runs_of(submitted.id, 10).await.unwrap();
        let starts: Vec<i64> = runs
            .iter()
            .map(|r| {
                r.run
                    .window
                    .start
                    .duration_since(EPOCH.parse::<Timestamp>().unwrap())
                    .as_secs()
            })
            .collect();
        assert_eq!(starts, [0, 60, 120, 180]);
        control.cancel(submitted.id, "test").await.unwrap();
        let runs = control.runs_of(submitted.id, 10).await.unwrap();
        assert!(runs.iter().all(|r| r.run.state.is_ended()));
        assert_eq!(
            control.cancel(submitted.id, "test").await.unwrap().state,
            TaskState::Cancelled
        );
    });
}

#[test]
fn a_policy_that_says_no_is_told() {
    on_each(loopback(), |control| async move {
        let id = agent(&control, "lab").await;
        let submitted = control.submit(task("netdiscovery", &[id])).await.unwrap();
        let token = due(&control, id).await[0].token;
        let no = News::Declined {
            reason: "denied by the agent's policy: 10.0.0.0/24 is not listed under scan".into(),
        };
        control.report(token, id, no).await.unwrap();
        assert_eq!(only_run(&control).await.run.state.to_string(), "refused");
        for (subject, id) in [
            (Subject::Task, submitted.id.to_string()),
            (Subject::Run, token.run.to_string()),
        ] {
            let why = control.explain(subject, &id).await.unwrap();
            assert!(why.verdict.contains("not listed under scan"), "{why:?}");
            assert!(why.next.contains("policy file"), "{why:?}");
        }
    });
}

#[test]
fn an_agent_that_says_no_is_told_in_its_own_words() {
    on_each(loopback(), |control| async move {
        let id = agent(&control, "lab").await;
        let submitted = control.submit(task("netdiscovery", &[id])).await.unwrap();
        let token = due(&control, id).await[0].token;
        let no = News::Declined {
            reason: "the module is switched off here".into(),
        };
        control.report(token, id, no).await.unwrap();
        for (subject, id) in [
            (Subject::Task, submitted.id.to_string()),
            (Subject::Run, token.run.to_string()),
        ] {
            let why = control.explain(subject, &id).await.unwrap();
            assert!(why.verdict.contains("the module is switched off here"));
            assert!(why.next.contains("--any"), "{why:?}");
        }
    });
}

#[test]
fn a_slot_that_is_taken_is_told_with_the_run_that_has_it() {
    on_each(loopback(), |control| async move {
        let hello = Hello {
            capabilities: Some(vec![capability("idleex", false)]),
            ..hello("lab", "127.0.0.1")
        };
        let id = control.check_in(hello).await.unwrap().agent.id;
        let at = || Start::At("2026-11-24T13:00:00Z".parse().unwrap());
        let mut first = task("idleex", &[id]);
        first.schedule.start = at();
        first.length = Some(SignedDuration::from_mins(5));
        let mut second = first.clone();
        second.schedule.slip = Some(SignedDuration::ZERO);
        let first = control.submit(first).await.unwrap();
        let second = control.submit(second).await.unwrap();
        let in_the_way = control.runs_of(first.id, 1).await.unwrap()[0].run.id;
        let refused = control.runs_of(second.id, 1).await.unwrap()[0].run.id;
        for (subject, id) in [
            (Subject::Task, second.id.to_string()),
            (Subject::Run, refused.to_string()),
        ] {
            let why = control.explain(subject, &id).await.unwrap();
            assert!(why.verdict.contains(&in_the_way.to_string()), "{why:?}");
            assert!(why.next.contains("--slip"), "{why:?}");
        }
    });
}

#[test]
fn a_host_this_server_asks_itself_is_explained_by_its_agent() {
    on_each(loopback(), |control| async move {
        let declared = Declared {
            name: "web".into(),
            proxy: None,
            address: Some("192.0.2.10".into()),
            port: None,
        };
        control.declare_host(declared).await.unwrap();
        let item = |key: &str, item_type| NewItem {
            host: "web".into(),
            key: key.into(),
            item_type,
            value_type: ValueType::Unsigned,
            delay: Some(SignedDuration::from_secs(30)),
            unit: String::new(),
            name: None,
        };
        for (key, item_type) in [
            ("agent.ping", ItemType::Agent),
            ("icmpping", ItemType::Simple),
        ] {
            control.declare_item(item(key, item_type)).await.unwrap();
        }
        let explain = async |subject, name| control.explain(subject, name).await.unwrap();
        let why = explain(Subject::Item, "web:agent.ping").await;
        assert_eq!(why.verdict, "no value has arrived");
        let why = explain(Subject::Item, "web:icmpping").await;
        assert!(why.next.contains("--proxy"), "{why:?}");
        control.refused_at(
            Wire::Zabbix,
            "192.0.2.10:10050",
            "agent_unreachable",
            "web",
            "connection refused",
        );
        for (subject, name) in [(Subject::Item, "web:agent.ping"), (Subject::Host, "web")] {
            let why = explain(subject, name).await;
            assert!(why.verdict.contains("connection refused"), "{why:?}");
            assert!(why.next.contains("192.0.2.10:10050"), "{why:?}");
        }
    });
}

#[test]
fn a_dropped_connection_gives_back_what_had_not_begun() {
    on_each(loopback(), |control| async move {
        let id = agent(&control, "lab").await;
        control.submit(task("inventory", &[id])).await.unwrap();
        control.submit(task("inventory", &[id])).await.unwrap();
        let offers = due(&control, id).await;
        control
            .report(offers[0].token, id, News::Began)
            .await
            .unwrap();
        assert_eq!(
            control.release(id, "the connection ended").await.unwrap(),
            1
        );
        let states: Vec<String> = control
            .runs(Filter::default(), None, 10)
            .await
            .unwrap()
            .rows
            .iter()
            .map(|v| v.run.run.state.to_string())
            .collect();
        assert!(
            states.contains(&"planned".to_owned()) && states.contains(&"running".to_owned()),
            "{states:?}"
        );
    });
}

fn facts(name: Option<&str>, serial: Option<&str>, mac: Option<&str>, address: &str) -> HostFacts {
    HostFacts {
        name: name.map(str::to_owned),
        serial: serial.map(str::to_owned),
        macs: mac.map(str::to_owned).into_iter().collect(),
        addresses: [address.parse().unwrap()].into(),
        ..HostFacts::default()
    }
}

#[test]
fn one_machine_is_one_record_whoever_tells_of_it() {
    on_each(loopback(), |control| async move {
        let id = agent(&control, "lab").await;
        let tell = |what, facts, own: bool| Observation {
            wire: Wire::Fusion,
            agent: id,
            what,
            facts,
            inventory: own.then(|| r#"{"a":1}"#.to_owned()),
            own,
        };
        let declared = Declared {
            name: "lab".into(),
            proxy: None,
            address: Some("127.0.0.1".into()),
            port: None,
        };
        let monitored = control.declare_host(declared.clone()).await.unwrap();
        assert_eq!(
            control.declare_host(declared).await.unwrap_err().code,
            "HOST_EXISTS"
        );
        let discovered = control
            .observe(tell(
                SourceKind::Discovery,
                facts(
                    Some("lab.example.org"),
                    None,
                    Some("02:00:00:00:00:01"),
                    "127.0.0.1",
                ),
                false,
            ))
            .await
            .unwrap();
        let own = control
            .observe(tell(
                SourceKind::Inventory,
                facts(
                    Some("lab"),
                    Some("SER123"),
                    Some("02:00:00:00:00:01"),
                    "10.0.0.1",
                ),
                true,
            ))
            .await
            .unwrap();
        assert_eq!((discovered, own), (monitored.id, monitored.id));
        let hosts = control.hosts(None, 10).await.unwrap().rows;
        assert_eq!(hosts.len(), 1);
        let whats: Vec<_> = hosts[0]
            .sources
            .iter()
            .map(|source| source.what.word())
            .collect();
        assert_eq!(whats.len(), 3, "{whats:?}");
        assert_eq!(hosts[0].facts.serial.as_deref(), Some("SER123"));
        assert_eq!(
            control.inventory(own).await.unwrap().as_deref(),
            Some(r#"{"a":1}"#)
        );
        assert_eq!(control.agent(id).await.unwrap().agent.host, Some(own));

        // Two records become one when something shows that they are one machine.
        control
            .observe(tell(
                SourceKind::Discovery,
                facts(Some("sw"), None, None, "10.0.0.7"),
                false,
            ))
            .await
            .unwrap();
        control
            .observe(tell(
                SourceKind::Discovery,
                facts(None, Some("SER777"), None, "10.0.0.8"),
                false,
            ))
            .await
            .unwrap();
        assert_eq!(control.hosts(None, 10).await.unwrap().rows.len(), 3);
        control
            .observe(tell(
                SourceKind::Netinventory,
                facts(Some("sw"), Some("SER777"), None, "10.0.0.7"),
                false,
            ))
            .await
            .unwrap();
        assert_eq!(control.hosts(None, 10).await.unwrap().rows.len(), 2);
        // What only answers to ping on loopback is the machine of the agent that saw it; until that
        // machine has told of itself it goes by its address.
        let seen = |agent, own| Observation {
            wire: Wire::Fusion,
            agent,
            what: if own {
                SourceKind::Inventory
            } else {
                SourceKind::Discovery
            },
            facts: if own {
                facts(Some("two"), None, Some("02:00:00:00:00:22"), "10.0.0.22")
            } else {
                facts(Some("localhost"), None, None, "127.0.0.1")
            },
            inventory: None,
            own,
        };
        assert_eq!(control.observe(seen(id, false)).await.unwrap(), own);
        let two = agent(&control, "two").await;
        for _ in 0..2 {
            control.observe(seen(two, false)).await.unwrap();
        }
        assert!(control.find_host("127.0.0.1@two").await.is_ok());
        assert_eq!(control.hosts(None, 10).await.unwrap().rows.len(), 3);
        control.observe(seen(two, true)).await.unwrap();
        assert_eq!(control.hosts(None, 10).await.unwrap().rows.len(), 3);
        assert_eq!(control.find_host("two").await.unwrap().sources.len(), 2);
    });
}

#[test]
fn values_come_back_once_and_in_order() {
    on_each(loopback(), |control| async move {
        let host = Declared {
            name: "lab".into(),
            proxy: None,
            address: None,
            port: None,
        };
        control.declare_host(host).await.unwrap();
        let item = |key: &str, item_type, delay| NewItem {
            host: "lab".into(),
            key: key.into(),
            item_type,
            value_type: ValueType::Unsigned,
            delay,
            unit: String::new(),
            name: None,
        };
        assert_eq!(
            control
                .declare_item(item("a", ItemType::Agent, None))
                .await
                .unwrap_err()
                .code,
            "ITEM_NEEDS_DELAY"
        );
        let declared = control
            .declare_item(item("a", ItemType::Trapper, None))
            .await
            .unwrap();
        assert_eq!(
            control
                .declare_item(item("a", ItemType::Trapper, None))
                .await
                .unwrap_err()
                .code,
            "ITEM_EXISTS"
        );
        assert_eq!(
            control
                .item_index()
                .by_key("lab", "a")
                .map(|entry| entry.number),
            Some(declared.number)
        );
        let why = control.explain(Subject::Item, "lab:a").await.unwrap();
        assert_eq!(why.verdict, "no value has arrived");

        let row = |id, clock, value| Row {
            id: Some(id),
            reading: Reading {
                item: declared.number,
                clock,
                ns: 0,
                content: Content::Value(Value::Unsigned(value)),
                flags: Flags::default(),
            },
        };
        let upload = |rows| Upload {
            peer: "px".into(),
            session: Some("s".repeat(32)),
            rows,
        };
        let done = control
            .ingest(upload(vec![row(2, 20, u64::MAX), row(1, 10, 1)]))
            .await
            .unwrap();
        assert_eq!((done.stored, done.duplicates), (2, 0));
        let done = control
            .ingest(upload(vec![row(1, 10, 1), row(3, 30, 3)]))
            .await
            .unwrap();
        assert_eq!((done.stored, done.duplicates), (1, 1));
        let range = HistoryRange {
            from: None,
            to: None,
            limit: 10,
        };
        let values: Vec<_> = control
            .history(declared.number, range)
            .await
            .unwrap()
            .into_iter()
            .map(|s| (s.clock, s.value))
            .collect();
        assert_eq!(
            values,
            [
                (10, Value::Unsigned(1)),
                (20, Value::Unsigned(u64::MAX)),
                (30, Value::Unsigned(3))
            ]
        );
        let why = control.explain(Subject::Item, "lab:a").await.unwrap();
        assert!(
            why.steps
                .iter()
                .any(|step| step.detail == "the newest value is 3"),
            "{why:?}"
        );
        let (revision, monitored) = control.monitored(None).await.unwrap();
        assert_eq!(
            (revision, monitored.len(), monitored[0].items.len()),
            (2, 1, 1)
        );
    });
}

#[test]
fn tokens_open_the_door_they_were_made_for() {
    on_each(loopback(), |control| async move {
        let token = Secret::new("mat_1");
        control
            .install_token(&token, "local", Role::Admin)
            .await
            .unwrap();
        assert_eq!(
            control.authenticate(&token).await.unwrap(),
            ("local".to_owned(), Role::Admin)
        );
        control
            .install_token(&Secret::new("mat_2"), "local", Role::Admin)
            .await
            .unwrap();
        let error = control.authenticate(&token).await.unwrap_err();
        assert_eq!(error.code, "NOT_AUTHENTICATED");
    });
}

#[test]
fn ids_are_found_by_prefix_and_lists_by_page() {
    on_each(loopback(), |control| async move {
        let id = agent(&control, "lab").await;
        let mut ids = Vec::new();
        for _ in 0..5 {
            ids.push(control.submit(task("inventory", &[id])).await.unwrap().id);
            advance(1).await;
        }
        assert_eq!(
            control
                .find_task(&ids[0].to_string()[..13])
                .await
                .unwrap()
                .task
                .id,
            ids[0]
        );
        assert_eq!(
            control.find_task("zzz").await.unwrap_err().trouble,
            Trouble::NotFound
        );
        assert_eq!(
            control.find_task("").await.unwrap_err().trouble,
            Trouble::NotFound
        );
        let mut seen = Vec::new();
        let mut cursor = None;
        loop {
            let page = control.tasks(cursor, 2).await.unwrap();
            seen.extend(page.rows.iter().map(|view| view.task.id));
            cursor = page.next;
            if cursor.is_none() {
                break;
            }
        }
        assert_eq!(seen, ids);
        assert_eq!(
            control.tasks(Some("x".into()), 2).await.unwrap_err().code,
            "BAD_CURSOR"
        );
    });
}

#[test]
fn an_unknown_peer_is_explained_by_what_it_was_refused() {
    on_each(loopback(), |control| async move {
        let address = "192.0.2.7".parse().unwrap();
        for _ in 0..3 {
            control.refused(
                Wire::Zabbix,
                address,
                "framing",
                "",
                "header is 47455420 instead of ZBXD",
            );
        }
        let why = control.explain(Subject::Agent, "192.0.2.7").await.unwrap();
        assert!(why.verdict.contains("refused 3 times on zabbix"), "{why:?}");
        assert!(why.next.contains("speaks zabbix to this port"), "{why:?}");
        for (reason, next) in [
            ("tls", "STATE/tls"),
            ("not_authenticated", "muster agent key create"),
            ("connections_per_address", "limits.exempt"),
        ] {
            let address = "192.0.2.9".parse().unwrap();
            advance(1).await;
            control.refused(Wire::Teeth, address, reason, "", "no");
            let why = control.explain(Subject::Agent, "192.0.2.9").await.unwrap();
            assert!(why.verdict.contains("refused once on teeth"), "{why:?}");
            assert!(why.next.contains(next), "{why:?}");
        }
        let why = control.explain(Subject::Agent, "192.0.2.8").await.unwrap();
        assert!(why.verdict.contains("has ever made contact"), "{why:?}");
    });
}

#[test]
fn words_about_one_run_may_come_at_once() {
    on_each(loopback(), |control| async move {
        let id = agent(&control, "lab").await;
        control.submit(task("netdiscovery", &[id])).await.unwrap();
        let token = due(&control, id).await[0].token;
        tokio::time::resume();
        let stale = muster_core::run::OfferToken {
            generation: 9,
            ..token
        };
        let words = (0..40).map(|n| {
            let control = control.clone();
            let token = if n % 2 == 0 { token } else { stale };
            tokio::spawn(async move {
                control
                    .report(token, id, News::Part(format!(r#"{{"n":{n}}}"#)))
                    .await
            })
        });
        for word in words.collect::<Vec<_>>() {
            word.await.unwrap().unwrap();
        }
        let (events, parts) = control.run_story(token.run).await.unwrap();
        assert_eq!(parts.len(), 20);
        assert_eq!(events.iter().filter(|event| !event.ok).count(), 20);
    });
}

#[test]
fn a_discovery_without_credentials_that_found_nothing_is_explained_by_it() {
    on_each(loopback(), |control| async move {
        let id = agent(&control, "lab").await;
        for (found, missing) in [(r#"{"devices":[]}"#, true), (r#"{"devices":[{}]}"#, false)] {
            control.submit(task("netdiscovery", &[id])).await.unwrap();
            let token = due(&control, id).await[0].token;
            let done = News::Finished(Outcome::success(found));
            control.report(token, id, done).await.unwrap();
            let why = control
                .explain(Subject::Run, &token.run.to_string())
                .await
                .unwrap();
            assert!(why.steps.iter().any(|step| step.check == "credential"));
            assert_eq!(why.next.contains("--credential"), missing, "{why:?}");
        }
    });
}

#[test]
fn a_duty_is_one_replicas_at_a_time() {
    on_each(loopback(), |control| async move {
        let clock = control.clock().clone();
        let [mut one, mut other] = [Duty::new(&control, "count"), Duty::new(&control, "count")];
        let mut elsewhere = Duty::new(&control, "paint");
        assert!(one.is_mine().await);
        assert!(!other.is_mine().await);
        assert!(elsewhere.is_mine().await, "each duty is its own");
        for _ in 0..30 {
            clock.sleep(Duration::from_secs(1)).await;
            assert!(one.is_mine().await, "who has it keeps it");
            assert!(!other.is_mine().await);
        }
        // Given back, it is taken at the next look.
        one.release().await;
        clock.sleep(Duration::from_secs(2)).await;
        assert!(other.is_mine().await);
        assert!(!one.is_mine().await);
        one.release().await;
        assert!(other.is_mine().await, "nobody gives back what another has");
        // Who says nothing any more is missed for a few seconds.
        let mut waited = 0;
        while !one.is_mine().await {
            clock.sleep(Duration::from_secs(1)).await;
            waited += 1;
        }
        assert!((4..=8).contains(&waited), "{waited} s");
        assert!(!other.is_mine().await, "it comes back and finds it taken");
    });
}
