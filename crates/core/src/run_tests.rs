//! Tables of every legal and illegal move of the run machine.

use jiff::{SignedDuration, Timestamp};
use proptest::prelude::*;
use uuid::Uuid;

use crate::id::AgentId;
use crate::run::*;

const T: Timestamp = Timestamp::UNIX_EPOCH;

fn at(secs: i64) -> Timestamp {
    Timestamp::from_second(secs).expect("a time")
}

fn agent(n: u128) -> AgentId {
    AgentId::from_uuid(Uuid::from_u128(n))
}

fn lease(n: u128, generation: u32) -> Lease {
    Lease {
        agent: agent(n),
        expires: at(60),
        generation,
    }
}

fn window() -> Window {
    Window {
        start: at(10),
        latest_start: at(40),
        length: SignedDuration::from_secs(5),
    }
}

fn end(kind: EndKind) -> RunState {
    RunState::Ended(End {
        kind,
        reason: None,
        at: at(1),
        since: None,
    })
}

fn states() -> Vec<RunState> {
    let lease = lease(1, 1);
    let mut states = vec![
        RunState::Proposed,
        RunState::Planned,
        RunState::Offered { lease },
        RunState::Running {
            lease,
            since: at(11),
            progress: None,
        },
        RunState::Collecting {
            lease,
            since: at(11),
        },
        RunState::Overdue {
            lease,
            since: Some(at(11)),
            noticed: at(90),
        },
        RunState::Overdue {
            lease,
            since: None,
            noticed: at(90),
        },
    ];
    states.extend(EndKind::ALL.map(end));
    states
}

type Verb = (&'static str, fn(RunState) -> Result<RunState, IllegalMove>);

const VERBS: &[Verb] = &[
    ("accept", |s| s.accept()),
    ("refuse", |s| s.refuse("no", at(50))),
    ("offer", |s| s.offer(lease(1, 2))),
    ("offer to another", |s| s.offer(lease(2, 2))),
    ("lapse early", |s| s.lapse(&window(), at(40))),
    ("lapse late", |s| s.lapse(&window(), at(41))),
    ("begin", |s| s.begin(None, at(50))),
    ("gather", |s| s.gather()),
    ("close ok", |s| s.close(true, None, at(50))),
    ("close failed", |s| s.close(false, Some("no"), at(50))),
    ("overdue", |s| s.overdue(at(50))),
    ("give up", |s| s.give_up(at(50))),
    ("expire", |s| s.expire(at(50))),
    ("preempt", |s| s.preempt("other", at(50))),
    ("cancel", |s| s.cancel("asked", at(50))),
];

/// Rows: verbs. Columns: the states of [`states`], `-` for an illegal move.
const TABLE: &str = "
verb             | proposed  planned   offered   running   collecting overdue   overdue0  | cancelled expired failed missed preempted refused succeeded
accept           | planned   planned   -         -         -          -         -         | -         -       -      -      -         -       -
refuse           | refused   refused   refused   -         -          -         -         | -         -       -      -      -         refused -
offer            | -         offered   offered   -         -          -         -         | -         -       -      -      -         -       -
offer to another | -         offered   -         -         -          -         -         | -         -       -      -      -         -       -
lapse early      | -         planned   planned   -         -          -         -         | -         -       -      missed -         -       -
lapse late       | -         missed    missed    -         -          -         -         | -         -       -      missed -         -       -
begin            | -         -         running   running   collecting overdue   overdue   | -         -       -      -      -         -       -
gather           | -         -         -         collecting collecting -        -         | -         -       -      -      -         -       -
close ok         | -         -         succeeded succeeded succeeded  succeeded succeeded | -         -       -      -      -         -       succeeded
close failed     | -         -         failed    failed    failed     failed    failed    | -         -       failed -      -         -       -
overdue          | -         -         overdue   overdue   overdue    overdue   overdue   | -         -       -      -      -         -       -
give up          | -         -         -         -         -          failed    missed    | -         -       failed missed -         -       -
expire           | -         expired   expired   -         -          -         -         | -         expired -      -      -         -       -
preempt          | preempted preempted preempted preempted preempted  preempted preempted | -         -       -      -      preempted -       -
cancel           | cancelled cancelled cancelled cancelled cancelled  cancelled cancelled | cancelled -       -      -      -         -       -
";

#[test]
fn every_verb_in_every_state() {
    let rows: Vec<&str> = TABLE.trim().lines().skip(1).collect();
    assert_eq!(rows.len(), VERBS.len());
    for (row, (name, verb)) in rows.iter().zip(VERBS) {
        let (label, cells) = row.split_once('|').expect("a label");
        assert_eq!(label.trim(), *name);
        let cells: Vec<&str> = cells
            .split_whitespace()
            .filter(|cell| *cell != "|")
            .collect();
        assert_eq!(cells.len(), states().len(), "{name}");
        for (state, expected) in states().into_iter().zip(cells) {
            let before = format!("{state:?}");
            let got = verb(state).map_or("-".to_owned(), |after| after.to_string());
            assert_eq!(got, expected, "{name} from {before}");
        }
    }
}

#[test]
fn a_verb_said_twice_changes_nothing_more() {
    for (name, verb) in VERBS {
        for state in states() {
            let Ok(once) = verb(state) else { continue };
            assert_eq!(verb(once.clone()), Ok(once), "{name}");
        }
    }
}

#[test]
fn a_lost_reply_gives_the_same_agent_the_next_generation() {
    let offered = RunState::Planned.offer(lease(1, 1)).expect("legal");
    let again = offered.offer(lease(1, 2)).expect("legal");
    assert_eq!(
        again.admits(agent(1), 1),
        Err(StaleWord::OtherGeneration {
            said: 1,
            current: 2
        })
    );
    assert_eq!(again.admits(agent(1), 2), Ok(()));
    assert_eq!(
        again.admits(agent(2), 2),
        Err(StaleWord::OtherAgent(agent(1)))
    );
    assert_eq!(
        RunState::Planned.admits(agent(1), 1),
        Err(StaleWord::Unleased("planned"))
    );
}

#[test]
fn an_offer_token_reads_back() {
    let run = crate::RunId::from_uuid(Uuid::from_u128(9));
    let token = OfferToken { run, generation: 3 };
    assert_eq!(token.to_string().parse(), Ok(token));
    for text in [
        "",
        "x.1",
        &run.to_string(),
        &format!("{run}."),
        &format!("{run}.-1"),
    ] {
        assert_eq!(text.parse::<OfferToken>(), Err(BadOfferToken), "{text}");
    }
}

#[test]
fn a_final_word_implies_the_beginning() {
    let run = Run {
        id: crate::RunId::from_uuid(Uuid::from_u128(9)),
        task: crate::TaskId::from_uuid(Uuid::from_u128(8)),
        agent: None,
        window: window(),
        state: RunState::Offered { lease: lease(1, 1) }
            .close(true, None, at(20))
            .expect("legal"),
        generation: 1,
        priority: 0,
        created: T,
    };
    assert_eq!((run.start(), run.finish()), (at(20), at(20)));
}

proptest! {
    /// Whatever is said in whatever order, an ended run stays as it ended.
    #[test]
    fn ended_never_changes(verbs in proptest::collection::vec(0..VERBS.len(), 0..40)) {
        let mut state = RunState::Proposed;
        let mut ended: Option<RunState> = None;
        for index in verbs {
            if let Ok(next) = VERBS[index].1(state.clone()) {
                state = next;
            }
            if let Some(end) = &ended {
                prop_assert_eq!(end, &state);
            } else if state.is_ended() {
                ended = Some(state.clone());
            }
        }
    }

    /// Once faults stop and the reconciler does its part, every run ends.
    #[test]
    fn every_run_ends_once_faults_stop(verbs in proptest::collection::vec(0..9usize, 0..20)) {
        let mut run = Run {
            id: crate::RunId::from_uuid(Uuid::from_u128(9)),
            task: crate::TaskId::from_uuid(Uuid::from_u128(8)),
            agent: None,
            window: window(),
            state: RunState::Planned,
            generation: 0,
            priority: 0,
            created: T,
        };
        for index in verbs {
            if let Ok(next) = VERBS[index].1(run.state.clone()) {
                run.state = next;
            }
        }
        let mut now = at(50);
        for _ in 0..16 {
            now = crate::time::saturating_add(now, SignedDuration::from_hours(2));
            let state = run.state.clone();
            run.state = match &state {
                RunState::Proposed => state.accept(),
                RunState::Planned => state.lapse(&run.window, now),
                RunState::Offered { lease } if lease.expires < now => state.lapse(&run.window, now),
                _ if run.overdue_at().is_some_and(|due| due < now) => state.overdue(now),
                _ if run.patience_ends().is_some_and(|due| due < now) => state.give_up(now),
                RunState::Offered { .. }
                | RunState::Running { .. }
                | RunState::Collecting { .. }
                | RunState::Overdue { .. }
                | RunState::Ended(_) => Ok(state),
            }.expect("the reconciler makes legal moves only");
        }
        prop_assert!(run.state.is_ended(), "{:?}", run.state);
    }
}
