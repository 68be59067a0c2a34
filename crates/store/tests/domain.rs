//! Rows of agents, tasks, runs, hosts and the journal, on every database.

#![expect(clippy::unwrap_used, reason = "a test fails where it stands")]

use std::num::NonZeroU32;

use jiff::{SignedDuration, Timestamp};
use muster_core::agent::{Agent, AgentState, Capability, Wire};
use muster_core::host::{Host, HostFacts, Source, SourceKind};
use muster_core::kind::Kind;
use muster_core::run::{Lease, Progress, Run, RunState, Window};
use muster_core::sample::{Item, ItemType, Monitoring, ValueType};
use muster_core::schedule::{History, Schedule, Start};
use muster_core::task::{Assignee, Origin, Spec, Task, TaskState};
use muster_core::{AgentId, EnrolKeyId, HostId, ItemId, RunId, TaskId};
use muster_store::agents::Bond;
use muster_store::runs::{Filter, RunEvent};
use muster_store::tasks::StoredTask;
use muster_store::testing::{for_each_durable_url, for_each_store};
use muster_store::{Store, StoreError, Tx};
use muster_store::{access, agents, hosts, journal, runs, tasks};
use uuid::Uuid;

fn t(secs: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + secs).unwrap()
}

fn agent(n: u128) -> Agent {
    Agent {
        id: AgentId::from_uuid(Uuid::from_u128(n)),
        name: format!("lab-{n}"),
        wire: Wire::Fusion,
        wires: vec![],
        software: "fusioninventory-agent".into(),
        version: "2.6".into(),
        state: AgentState::Approved,
        capabilities: vec![],
        address: Some("127.0.0.1".parse().unwrap()),
        first_seen: t(0),
        last_seen: t(0),
        expected_by: t(60),
        host: None,
    }
}

fn capability(kind: &str, assumed: bool) -> Capability {
    Capability {
        kind: kind.parse().unwrap(),
        version: "1".into(),
        assumed,
    }
}

fn task(n: u128) -> StoredTask {
    StoredTask {
        task: Task {
            id: TaskId::from_uuid(Uuid::from_u128(n)),
            kind: "netdiscovery".parse().unwrap(),
            origin: Origin::Cli,
            spec: Spec::from_json(r#"{"schema":1,"_credentials":null}"#),
            targets: vec!["10.0.0.0/24".into(), "lab".into()],
            workers: NonZeroU32::new(2),
            schedule: Schedule {
                start: Start::At(t(10)),
                slip: Some(SignedDuration::from_mins(5)),
                random_slip: true,
                repeat: Some(SignedDuration::from_hours(1)),
                cron: Some("30 * * * *".parse().unwrap()),
                until: Some(t(1000)),
                max_runs: Some(7),
            },
            assignee: Assignee::Named(vec![
                AgentId::from_uuid(Uuid::from_u128(2)),
                AgentId::from_uuid(Uuid::from_u128(1)),
            ]),
            priority: -3,
            length: SignedDuration::from_millis(1500),
            state: TaskState::Active,
            created: t(i64::try_from(n).unwrap()),
            generation: 1,
            peer: Some(Spec::from_json("{}")),
        },
        sealed: vec![0, 255, 7],
        peer_sealed: None,
        history: History::default(),
    }
}

fn run(n: u128, task: u128, agent: Option<u128>) -> Run {
    Run {
        id: RunId::from_uuid(Uuid::from_u128(n)),
        task: TaskId::from_uuid(Uuid::from_u128(task)),
        agent: agent.map(|n| AgentId::from_uuid(Uuid::from_u128(n))),
        window: Window {
            start: t(10),
            latest_start: t(100),
            length: SignedDuration::from_secs(5),
        },
        state: RunState::Planned,
        generation: 0,
        priority: 0,
        created: t(i64::try_from(n).unwrap()),
    }
}

#[test]
fn agents_are_found_by_every_name() {
    for_each_store(|store| async move {
        store
            .write(|tx| {
                let mut one = agent(1);
                let bond = Bond {
                    approved_by: Some("address".into()),
                    address: one.address,
                    ..Bond::default()
                };
                agents::put(tx, &one, &bond)?;
                agents::put(tx, &agent(2), &Bond::default())?;
                agents::put_identity(tx, one.id, Wire::Zabbix, "px", t(1))?;
                agents::put_identity(tx, one.id, Wire::Fusion, "lab-2026", t(1))?;
                agents::put_capabilities(
                    tx,
                    one.id,
                    Wire::Fusion,
                    &[
                        capability("inventory", false),
                        capability("netdiscovery", true),
                    ],
                )?;
                agents::put_capabilities(tx, one.id, Wire::Teeth, &[capability("rtt", false)])?;
                agents::touch(tx, one.id, Wire::Zabbix, None, t(5), t(30))?;

                let found = agents::by_peer(tx, Wire::Zabbix, "px")?.unwrap();
                one.wire = Wire::Zabbix;
                one.wires = vec![Wire::Fusion, Wire::Zabbix];
                one.capabilities = vec![
                    capability("inventory", false),
                    capability("netdiscovery", true),
                    capability("rtt", false),
                ];
                one.last_seen = t(5);
                assert_eq!(
                    found.agent, one,
                    "touch keeps the address and the later expectation"
                );
                assert_eq!(found.bond, bond);
                assert_eq!(agents::by_name(tx, "lab-1")?.unwrap().agent, one);
                assert_eq!(agents::by_peer(tx, Wire::Teeth, "px")?, None);

                agents::settle_assumed(tx, one.id, &"netdiscovery".parse().unwrap(), false)?;
                assert!(
                    !agents::by_id(tx, one.id)?
                        .unwrap()
                        .agent
                        .can(&"netdiscovery".parse().unwrap())
                );
                assert_eq!(agents::able(tx, &"rtt".parse().unwrap())?.len(), 1);
                assert_eq!(agents::ids_by_prefix(tx, "00000000", 5)?.len(), 2);
                assert_eq!(agents::ids_by_prefix(tx, &one.id.to_string(), 5)?, [one.id]);
                assert_eq!(agents::ids_by_prefix(tx, "%", 5)?, []);
                assert_eq!(agents::list(tx, Some("lab-1"), 10)?.len(), 1);
                assert_eq!(agents::count(tx, AgentState::Approved)?, 2);
                assert!(agents::remove(tx, one.id)?);
                assert_eq!(agents::by_peer(tx, Wire::Zabbix, "px")?, None);
                Ok(())
            })
            .await
            .unwrap();
    });
}

#[test]
fn tasks_read_back_and_count_their_turns() {
    for_each_store(|store| async move {
        store
            .write(|tx| {
                let stored = task(1);
                tasks::insert(tx, &stored)?;
                tasks::insert(tx, &task(2))?;
                let id = stored.task.id;
                let back = tasks::by_id(tx, id)?.unwrap();
                assert_eq!(back.task, stored.task);
                assert_eq!(back.sealed, stored.sealed);
                assert!(tasks::count_turn(tx, id, 1, t(20))?);
                assert!(
                    !tasks::count_turn(tx, id, 1, t(30))?,
                    "planned for an older generation"
                );
                assert!(tasks::count_turn(tx, id, 2, t(30))?);
                let history = tasks::by_id(tx, id)?.unwrap().history;
                assert_eq!(
                    history,
                    History {
                        first: Some(t(20)),
                        latest: Some(t(30)),
                        runs: 2
                    }
                );
                assert_eq!(tasks::active(tx, 10)?.len(), 2);
                assert!(tasks::finish(tx, id, TaskState::Cancelled)?);
                assert!(!tasks::finish(tx, id, TaskState::Ended)?);
                assert_eq!(tasks::count_active(tx)?, 1);
                let rest = tasks::list(tx, Some((t(1), id)), 10)?;
                assert_eq!(rest.len(), 1);
                Ok(())
            })
            .await
            .unwrap();
    });
}

#[test]
fn runs_keep_their_state_and_moves_are_guarded() {
    for_each_store(|store| async move {
        store
            .write(|tx| {
                let kind = "netdiscovery".parse().unwrap();
                let me = AgentId::from_uuid(Uuid::from_u128(1));
                let mut one = run(1, 9, None);
                runs::insert(tx, &one, &kind)?;
                runs::insert(tx, &run(2, 9, Some(2)), &kind)?;
                assert_eq!(runs::by_id(tx, one.id)?.unwrap().run, one);
                let kinds = [kind.clone()];
                assert_eq!(
                    runs::due(tx, me, &kinds, t(10), t(10), 10)?.len(),
                    1,
                    "the other's is not offered"
                );
                assert_eq!(
                    runs::due(tx, me, &kinds, t(5), t(5), 10)?.len(),
                    0,
                    "too early"
                );
                assert_eq!(runs::due(tx, me, &[], t(10), t(10), 10)?.len(), 0);
                assert_eq!(runs::next_start(tx, me, &kinds, None)?, Some(t(10)));
                let later = runs::next_start(tx, me, &kinds, Some(t(10)))?;
                assert!(later.is_none_or(|start| start > t(10)), "{later:?}");

                let lease = Lease {
                    agent: me,
                    expires: t(50),
                    generation: 1,
                };
                let progress = Some(Progress {
                    percent: Some(12.5),
                    eta: Some(SignedDuration::from_secs(3)),
                });
                let states = [
                    RunState::Offered { lease },
                    RunState::Running {
                        lease,
                        since: t(11),
                        progress,
                    },
                    RunState::Collecting {
                        lease,
                        since: t(11),
                    },
                    RunState::Overdue {
                        lease,
                        since: Some(t(11)),
                        noticed: t(60),
                    },
                    RunState::Overdue {
                        lease,
                        since: Some(t(11)),
                        noticed: t(60),
                    }
                    .close(true, Some("late"), t(70))
                    .unwrap(),
                ];
                for state in states {
                    let (was, was_generation) = (one.state.clone(), one.generation);
                    one.state = state;
                    one.generation = 1;
                    assert!(runs::update(tx, &one, &was, was_generation)?);
                    assert!(
                        !runs::update(tx, &one, &was, was_generation)?,
                        "moved already"
                    );
                    assert_eq!(runs::by_id(tx, one.id)?.unwrap().run, one);
                    let expected = usize::from(one.state.word() == "offered");
                    assert_eq!(runs::due(tx, me, &kinds, t(10), t(10), 10)?.len(), expected);
                }
                assert_eq!(runs::by_id(tx, one.id)?.unwrap().holder, Some(me));
                runs::put_outcome(tx, one.id, Some("{}"), None)?;
                runs::put_outcome(tx, one.id, None, Some("said"))?;
                let back = runs::by_id(tx, one.id)?.unwrap();
                assert_eq!(
                    (back.result.as_deref(), back.diags.as_deref()),
                    (Some("{}"), Some("said"))
                );

                assert!(runs::add_part(tx, one.id, r#"{"ip":"a"}"#)?);
                assert!(runs::add_part(tx, one.id, r#"{"ip":"b"}"#)?);
                assert!(
                    !runs::add_part(tx, one.id, r#"{"ip":"a"}"#)?,
                    "a repeat changes nothing"
                );
                assert_eq!(runs::parts(tx, one.id)?.len(), 2);

                let event = RunEvent {
                    at: t(1),
                    verb: "begin".into(),
                    ok: true,
                    detail: "x".into(),
                };
                runs::add_event(tx, one.id, &event)?;
                runs::add_event(tx, one.id, &event)?;
                assert_eq!(runs::events(tx, one.id)?, [event.clone(), event]);

                let ended = Filter {
                    end: Some("succeeded".into()),
                    ..Filter::default()
                };
                assert_eq!(runs::list(tx, &ended, None, 10)?.len(), 1);
                let all = Filter {
                    task: Some(one.task),
                    ..Filter::default()
                };
                assert_eq!(runs::list(tx, &all, Some((t(1), one.id)), 10)?.len(), 1);
                assert_eq!(runs::count_open(tx, one.task)?, 1);
                assert_eq!(
                    runs::counts(tx)?,
                    [("planned".to_owned(), 1), ("succeeded".to_owned(), 1)]
                );
                assert_eq!(runs::to_review(tx, t(100), 10)?.len(), 0);
                assert_eq!(runs::to_review(tx, t(101), 10)?.len(), 1);
                assert_eq!(runs::reservations(tx)?.len(), 1);
                Ok(())
            })
            .await
            .unwrap();
    });
}

/// Several processes claim runs at once, as replicas do: no run is offered to two agents. Without the guard
/// in `update` PostgreSQL hands most of them out twice.
#[test]
fn runs_are_claimed_once_by_many() {
    const RUNS: u128 = 240;
    for_each_durable_url(|url| {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .build()
            .unwrap();
        runtime.block_on(async {
            let stores = [
                Store::open(url.clone()).await.unwrap(),
                Store::open(url).await.unwrap(),
            ];
            stores[0].migrate(t(0)).await.unwrap();
            let kind: Kind = "netdiscovery".parse().unwrap();
            let made = kind.clone();
            stores[0]
                .write(move |tx| {
                    tasks::insert(tx, &task(1))?;
                    for n in 0..RUNS {
                        runs::insert(tx, &run(100 + n, 1, None), &made)?;
                    }
                    Ok(())
                })
                .await
                .unwrap();
            let mut claimers = Vec::new();
            for (n, store) in (1..=6u128).zip(stores.iter().cycle()) {
                let (store, kinds) = (store.clone(), [kind.clone()]);
                claimers.push(tokio::spawn(async move {
                    let agent = AgentId::from_uuid(Uuid::from_u128(n));
                    let mut mine = Vec::new();
                    loop {
                        let kinds = kinds.clone();
                        // All of its own and ten of the others.
                        let limit = i64::try_from(mine.len()).unwrap() + 10;
                        let (seen, claimed) = store
                            .write(move |tx| claim(tx, agent, &kinds, limit))
                            .await
                            .unwrap();
                        mine.extend(claimed);
                        if !seen {
                            return mine;
                        }
                    }
                }));
            }
            let mut claimed = Vec::new();
            for claimer in claimers {
                claimed.extend(claimer.await.unwrap());
            }
            claimed.sort();
            let expected: Vec<RunId> = (0..RUNS)
                .map(|n| RunId::from_uuid(Uuid::from_u128(100 + n)))
                .collect();
            assert_eq!(claimed, expected);
        });
    });
}

#[test]
fn a_run_that_must_be_alone_waits_and_is_waited_for() {
    for_each_store(|store| async move {
        store
            .write(|tx| {
                let kinds: [Kind; 3] = ["idleex", "throughput", "idle"].map(|k| k.parse().unwrap());
                let [alone, normal, beside] = &kinds;
                let me = AgentId::from_uuid(Uuid::from_u128(1));
                let placed = |n: u128, agent, start| Run {
                    window: Window {
                        start: t(start),
                        ..run(n, 9, agent).window
                    },
                    ..run(n, 9, agent)
                };
                let ids = |tx: &mut Tx<'_>| -> Result<Vec<u128>, StoreError> {
                    let due = runs::due(tx, me, &kinds, t(30), t(30), 10)?;
                    Ok(due.iter().map(|run| run.run.id.uuid().as_u128()).collect())
                };
                runs::insert(tx, &placed(1, Some(1), 10), alone)?;
                runs::insert(tx, &placed(2, Some(1), 20), alone)?;
                runs::insert(tx, &placed(3, Some(1), 15), normal)?;
                runs::insert(tx, &placed(4, Some(1), 10), beside)?;
                // For any agent, at a time for which this one has other plans.
                runs::insert(tx, &placed(5, None, 21), alone)?;
                assert_eq!(ids(tx)?, [1, 4], "one at a time, and what may be anywhere");

                let offer = |tx: &mut Tx<'_>, n: u128| {
                    let mut run = runs::by_id(tx, RunId::from_uuid(Uuid::from_u128(n)))?
                        .unwrap()
                        .run;
                    let (was, generation) = (run.state.clone(), run.generation);
                    run.generation += 1;
                    let lease = Lease {
                        agent: me,
                        expires: t(90),
                        generation: run.generation,
                    };
                    run.state = was.clone().offer(lease).unwrap();
                    assert!(runs::update(tx, &run, &was, generation)?);
                    Ok::<_, StoreError>(run)
                };
                let mut first = offer(tx, 1)?;
                assert_eq!(
                    ids(tx)?,
                    [1, 4],
                    "the same again, whose offer may have been lost"
                );
                let was = first.state.clone();
                first.state = was.clone().begin(None, t(30)).unwrap();
                assert!(runs::update(tx, &first, &was, first.generation)?);
                assert_eq!(ids(tx)?, [4], "late or long, it is alone");
                let was = first.state.clone();
                first.state = was.clone().close(true, None, t(31)).unwrap();
                assert!(runs::update(tx, &first, &was, first.generation)?);
                assert_eq!(ids(tx)?, [4, 3]);
                offer(tx, 3)?;
                assert_eq!(ids(tx)?, [4, 3], "beside a normal run none is alone");
                Ok(())
            })
            .await
            .unwrap();
    });
}

/// Claims planned runs for an agent; whether there were any, and which it got.
fn claim(
    tx: &mut Tx<'_>,
    agent: AgentId,
    kinds: &[Kind],
    limit: i64,
) -> Result<(bool, Vec<RunId>), StoreError> {
    let mut seen = false;
    let mut claimed = Vec::new();
    for stored in runs::due(tx, agent, kinds, t(20), t(20), limit)? {
        if stored.run.state != RunState::Planned {
            continue;
        }
        seen = true;
        let mut run = stored.run.clone();
        run.generation += 1;
        let lease = Lease {
            agent,
            expires: t(90),
            generation: run.generation,
        };
        run.state = run.state.offer(lease).unwrap();
        if runs::update(tx, &run, &stored.run.state, stored.run.generation)? {
            claimed.push(run.id);
        }
    }
    Ok((seen, claimed))
}

fn facts(name: &str, mac: Option<&str>) -> HostFacts {
    HostFacts {
        name: Some(name.into()),
        macs: mac.map(str::to_owned).into_iter().collect(),
        addresses: ["10.0.0.1".parse().unwrap()].into(),
        ..HostFacts::default()
    }
    .normalised()
}

fn host(n: u128, facts: HostFacts) -> Host {
    Host {
        id: HostId::from_uuid(Uuid::from_u128(n)),
        facts,
        sources: vec![],
        monitoring: None,
        created: t(i64::try_from(n).unwrap()),
    }
}

fn item(n: u128, host: HostId, key: &str) -> Item {
    Item {
        id: ItemId::from_uuid(Uuid::from_u128(n)),
        number: u64::try_from(n).unwrap(),
        host,
        name: key.into(),
        key: key.into(),
        item_type: ItemType::Trapper,
        value_type: ValueType::Unsigned,
        unit: "B".into(),
        delay: Some(SignedDuration::from_secs(1)),
        allowed: vec!["10.0.0.0/8".parse().unwrap()],
    }
}

#[test]
fn hosts_are_found_by_evidence_and_merge() {
    for_each_store(|store| async move {
        store
            .write(|tx| {
                let mut one = host(1, facts("lab", Some("02:00:00:00:00:01")));
                one.monitoring = Some(Monitoring {
                    number: 10001,
                    proxy: None,
                    address: "127.0.0.1".into(),
                    port: 10050,
                });
                let two = host(2, facts("lab.example.org", None));
                for host in [&one, &two] {
                    hosts::put(tx, host)?;
                }
                assert_eq!(hosts::by_id(tx, one.id)?.unwrap(), one);
                assert_eq!(hosts::by_name(tx, "LAB")?.unwrap(), one);
                assert_eq!(hosts::by_number(tx, 10001)?.unwrap(), one);
                assert_eq!(hosts::monitored_by(tx, None)?.len(), 1);
                assert_eq!(
                    hosts::candidates(tx, &facts("lab.other", None))?.len(),
                    2,
                    "by the first label"
                );
                assert_eq!(
                    hosts::candidates(tx, &facts("x", Some("02:00:00:00:00:01")))?.len(),
                    1
                );
                assert_eq!(hosts::candidates(tx, &HostFacts::default())?, []);

                let source = Source {
                    wire: Some(Wire::Fusion),
                    agent: Some(agent(1).id),
                    what: SourceKind::Inventory,
                    at: t(3),
                    facts: facts("lab", None),
                };
                hosts::put_source(tx, two.id, &source)?;
                hosts::put_source(
                    tx,
                    two.id,
                    &Source {
                        at: t(4),
                        ..source.clone()
                    },
                )?;
                hosts::put_inventory(tx, two.id, r#"{"a":1}"#, t(4))?;
                hosts::insert_item(tx, &item(11, two.id, "a"), t(4))?;
                hosts::insert_item(tx, &item(12, two.id, "b"), t(4))?;
                hosts::insert_item(tx, &item(13, one.id, "a"), t(4))?;
                hosts::merge(tx, two.id, one.id)?;
                assert_eq!(hosts::by_id(tx, two.id)?, None);
                let merged = hosts::by_id(tx, one.id)?.unwrap();
                assert_eq!(merged.sources, [Source { at: t(4), ..source }]);
                assert_eq!(hosts::inventory(tx, one.id)?.as_deref(), Some(r#"{"a":1}"#));
                let keys: Vec<_> = hosts::items_of(tx, one.id)?
                    .into_iter()
                    .map(|item| (item.number, item.key))
                    .collect();
                assert_eq!(keys, [(12, "b".to_owned()), (13, "a".to_owned())]);
                assert_eq!(
                    hosts::item_by_key(tx, one.id, "b")?.unwrap(),
                    item(12, one.id, "b")
                );
                assert_eq!(hosts::all_items(tx)?.len(), 2);
                assert_eq!(hosts::list_items(tx, Some(one.id), 12, 10)?.len(), 1);

                assert_eq!(hosts::counter(tx, "n")?, 0);
                assert_eq!(hosts::next_number(tx, "n", 10001)?, 10001);
                assert_eq!(hosts::next_number(tx, "n", 10001)?, 10002);
                assert_eq!(hosts::counter(tx, "n")?, 10002);
                Ok(())
            })
            .await
            .unwrap();
    });
}

#[test]
fn the_journal_counts_and_keeps_the_latest_word() {
    for_each_store(|store| async move {
        store
            .write(|tx| {
                let word = |ok, at| journal::Decision {
                    check: "slot".into(),
                    at: t(at),
                    ok,
                    detail: "d".into(),
                };
                journal::decide(tx, "task:1", &word(false, 1))?;
                journal::decide(tx, "task:1", &word(true, 2))?;
                assert_eq!(journal::decisions(tx, "task:1")?, [word(true, 2)]);
                let refusal = |at| journal::Refusal {
                    wire: Wire::Zabbix,
                    address: "127.0.0.1".into(),
                    reason: "framing".into(),
                    peer: String::new(),
                    detail: "d".into(),
                    times: 2,
                    first: t(at),
                    last: t(at),
                };
                journal::refuse(tx, &refusal(1))?;
                journal::refuse(tx, &refusal(5))?;
                journal::trim_refusals(tx)?;
                let found = journal::refusals_of(tx, "127.0.0.1")?;
                assert_eq!(
                    (found[0].times, found[0].first, found[0].last),
                    (4, t(1), t(5))
                );
                assert_eq!(journal::refusals(tx, 5)?, found);
                let line = journal::Audit {
                    at: t(1),
                    actor: "a".into(),
                    action: "b".into(),
                    subject: "c".into(),
                    detail: "d".into(),
                };
                journal::audit(tx, Uuid::from_u128(1), &line)?;
                assert_eq!(journal::audit_tail(tx, 5)?, [line]);
                Ok(())
            })
            .await
            .unwrap();
    });
}

#[test]
fn keys_enrol_as_often_as_they_may() {
    for_each_store(|store| async move {
        store
            .write(|tx| {
                let key = access::EnrolKey {
                    id: EnrolKeyId::from_uuid(Uuid::from_u128(1)),
                    hash: "h".into(),
                    label: "l".into(),
                    once: true,
                    created: t(0),
                    expires: Some(t(10)),
                    used: 0,
                };
                access::insert_key(tx, &key)?;
                assert!(key.enrols(t(9)) && !key.enrols(t(10)));
                assert!(access::use_key(tx, key.id)?);
                assert!(!access::use_key(tx, key.id)?, "it was for one");
                assert!(!access::key_by_hash(tx, "h")?.unwrap().enrols(t(1)));
                assert_eq!(access::keys(tx)?.len(), 1);
                let token = access::ApiToken {
                    hash: "h".into(),
                    label: "local".into(),
                    role: "admin".into(),
                    created: t(0),
                    expires: None,
                };
                access::put_token(tx, &token)?;
                access::put_token(
                    tx,
                    &access::ApiToken {
                        hash: "i".into(),
                        ..token.clone()
                    },
                )?;
                assert_eq!(access::retire_tokens(tx, "local", "i")?, 1);
                assert_eq!(access::token_by_hash(tx, "h")?, None);
                assert_eq!(access::token_by_hash(tx, "i")?.unwrap().role, "admin");
                Ok(())
            })
            .await
            .unwrap();
    });
}
