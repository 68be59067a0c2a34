//! Planning: which runs to make now. Pure; the same [`Snapshot`] and `now` give the same [`Plan`].
//!
//! **Invariant:** the windows of a plan, together with those it was given, hold no two that
//! conflict (`exclusive` beside `exclusive` or `normal`) on one agent.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};

use crate::id::{AgentId, RunId, TaskId};
use crate::kind::{Kind, SchedulingClass};
use crate::run::Window;
use crate::schedule::{History, Schedule, Start, round_start};
use crate::task::Assignee;
use crate::time::saturating_add;

/// How far ahead runs are planned (pScheduler contract, section 6).
pub const HORIZON: SignedDuration = SignedDuration::from_hours(24);

/// What planning needs to know.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// The active tasks, in the order in which they get their places: higher priority first, then
    /// the older.
    pub tasks: Vec<Candidate>,
    /// Windows already taken, of runs that have not ended.
    pub taken: Vec<Reservation>,
    /// Approved agents and what they can do, in the order of preference.
    pub agents: Vec<Worker>,
}

/// A task that may want a run.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// The task.
    pub task: TaskId,
    /// Its generation when the snapshot was taken.
    pub generation: u32,
    /// Its kind.
    pub kind: Kind,
    /// When it wants runs.
    pub schedule: Schedule,
    /// Who is to do them.
    pub assignee: Assignee,
    /// How long each takes.
    pub length: SignedDuration,
    /// Its priority.
    pub priority: i32,
    /// What it has had so far; for [`Assignee::Named`] turns count, not runs.
    pub history: History,
}

/// A window on an agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reservation {
    /// The agent; `None` where any may take the run.
    pub agent: Option<AgentId>,
    /// How it shares.
    pub class: SchedulingClass,
    /// The window.
    pub window: Window,
    /// The run it belongs to; `None` for one that is only being planned.
    pub run: Option<RunId>,
    /// The task it belongs to.
    pub task: TaskId,
}

/// An approved agent.
#[derive(Clone, Debug)]
pub struct Worker {
    /// The agent.
    pub agent: AgentId,
    /// What it can do.
    pub kinds: Vec<Kind>,
    /// Whether it has been heard of lately.
    pub online: bool,
}

/// What to do.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// Runs to make.
    pub placements: Vec<Placement>,
    /// Turns that cannot be had, and why.
    pub refusals: Vec<Refusal>,
}

/// A run to make.
#[derive(Clone, Debug, PartialEq)]
pub struct Placement {
    /// The task.
    pub task: TaskId,
    /// The generation of the task the placement is for.
    pub generation: u32,
    /// Who is to do it.
    pub agent: Option<AgentId>,
    /// When.
    pub window: Window,
    /// Its priority.
    pub priority: i32,
}

/// A turn that cannot be had.
#[derive(Clone, Debug, PartialEq)]
pub struct Refusal {
    /// The task.
    pub task: TaskId,
    /// The generation of the task the refusal is for.
    pub generation: u32,
    /// Who was to do it.
    pub agent: Option<AgentId>,
    /// The turn.
    pub window: Window,
    /// Why.
    pub why: Why,
}

/// Why a turn cannot be had.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Why {
    /// No free time within the slip.
    #[error("no free window within the slip: {} holds {from} to {to}", holder(*run, *with))]
    SlotConflict {
        /// The run in the way, if it has been made.
        run: Option<RunId>,
        /// The task in the way.
        with: TaskId,
        /// Its window's start.
        from: Timestamp,
        /// Its window's end.
        to: Timestamp,
    },
}

fn holder(run: Option<RunId>, task: TaskId) -> String {
    match run {
        Some(run) => format!("run {run} of task {task}"),
        None => format!("task {task}"),
    }
}

/// Decides which runs to make. A task gets at most one turn a call: the caller plans again after
/// writing, so that each turn sees the one before.
pub fn plan(snapshot: &Snapshot, now: Timestamp) -> Plan {
    let mut book = Book::new(&snapshot.taken);
    let mut plan = Plan::default();
    for candidate in &snapshot.tasks {
        let Some(wanted) = candidate.schedule.next(&candidate.history, now) else {
            continue;
        };
        // Work that may be done at any time and names none need not wait for a whole second.
        let at_once = candidate.schedule.start == Start::Soonest
            && !candidate.schedule.repeats()
            && candidate.kind.scheduling().anytime();
        let wanted = if at_once { wanted } else { round_start(wanted) };
        if wanted > saturating_add(now, HORIZON) {
            continue;
        }
        for agent in assignees(candidate, snapshot) {
            place(candidate, agent, wanted, &mut book, &mut plan);
        }
    }
    plan
}

/// Whom the turn goes to. A single capable agent is named at once; of several the run stays open
/// to whichever asks first, unless it must be alone somewhere.
fn assignees(candidate: &Candidate, snapshot: &Snapshot) -> Vec<Option<AgentId>> {
    match &candidate.assignee {
        Assignee::Named(agents) => agents.iter().copied().map(Some).collect(),
        Assignee::Any if candidate.kind.scheduling().anytime() => vec![None],
        Assignee::Any => {
            let able = |worker: &&Worker| worker.kinds.contains(&candidate.kind);
            let online = snapshot
                .agents
                .iter()
                .filter(able)
                .find(|worker| worker.online);
            let first = online.or_else(|| snapshot.agents.iter().find(able));
            vec![first.map(|worker| worker.agent)]
        }
    }
}

fn place(
    candidate: &Candidate,
    agent: Option<AgentId>,
    wanted: Timestamp,
    book: &mut Book,
    plan: &mut Plan,
) {
    let class = candidate.kind.scheduling();
    let schedule = &candidate.schedule;
    let slip = schedule.usable_slip(candidate.length);
    // Without a named time the run waits for its place as long as it waits for its agent.
    let open = schedule.window(wanted, wanted, candidate.length);
    let latest =
        saturating_add(wanted, slip).max(if schedule.slip.is_none() && !schedule.repeats() {
            open.latest_start
        } else {
            wanted
        });
    match book.earliest_fit(agent, class, wanted, latest, candidate.length) {
        Ok(start) => {
            let window = schedule.window(start, wanted, candidate.length);
            book.reserve(Reservation {
                agent,
                class,
                window,
                run: None,
                task: candidate.task,
            });
            plan.placements.push(Placement {
                task: candidate.task,
                generation: candidate.generation,
                agent,
                window,
                priority: candidate.priority,
            });
        }
        Err(blocking) => plan.refusals.push(Refusal {
            task: candidate.task,
            generation: candidate.generation,
            agent,
            window: open,
            why: Why::SlotConflict {
                run: blocking.run,
                with: blocking.task,
                from: blocking.window.start,
                to: blocking.window.end(),
            },
        }),
    }
}

/// The windows taken, by agent, sorted by start.
struct Book {
    by_agent: BTreeMap<Option<AgentId>, Vec<Reservation>>,
}

impl Book {
    fn new(taken: &[Reservation]) -> Self {
        let mut book = Self {
            by_agent: BTreeMap::new(),
        };
        for reservation in taken {
            book.reserve(reservation.clone());
        }
        book
    }

    fn reserve(&mut self, reservation: Reservation) {
        if reservation.class.anytime() {
            return;
        }
        let list = self.by_agent.entry(reservation.agent).or_default();
        let at = list.partition_point(|held| held.window.start <= reservation.window.start);
        list.insert(at, reservation);
    }

    /// The first start in `from..=latest` at which nothing conflicts, or what is in the way last.
    fn earliest_fit(
        &self,
        agent: Option<AgentId>,
        class: SchedulingClass,
        from: Timestamp,
        latest: Timestamp,
        length: SignedDuration,
    ) -> Result<Timestamp, &Reservation> {
        let held = self.by_agent.get(&agent).map_or(&[][..], Vec::as_slice);
        let mut start = from;
        loop {
            let window = Window {
                start,
                latest_start: start,
                length,
            };
            let conflict = held
                .iter()
                .filter(|other| class.conflicts(other.class) && window.overlaps(&other.window))
                .max_by_key(|other| other.window.end());
            let Some(other) = conflict else {
                return Ok(start);
            };
            start = round_start(other.window.end());
            if start > latest {
                return Err(other);
            }
        }
    }
}

/// Free ranges of at least `length` for an agent within `from..to` (pScheduler contract,
/// section 6, "runtimes").
pub fn free_ranges(
    taken: &[Reservation],
    agent: AgentId,
    class: SchedulingClass,
    from: Timestamp,
    to: Timestamp,
    length: SignedDuration,
) -> Vec<(Timestamp, Timestamp)> {
    let mut busy: Vec<(Timestamp, Timestamp)> = taken
        .iter()
        .filter(|held| held.agent == Some(agent) && class.conflicts(held.class))
        .map(|held| (held.window.start, held.window.end()))
        .collect();
    busy.sort_unstable();
    let mut free = Vec::new();
    let mut at = from;
    for (start, end) in busy.into_iter().chain([(to, to)]) {
        let until = start.min(to);
        if until.duration_since(at) >= length && at < until {
            free.push((at, until));
        }
        at = at.max(end);
    }
    free
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use uuid::Uuid;

    fn t(secs: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + secs).expect("a time")
    }

    fn secs(n: i64) -> SignedDuration {
        SignedDuration::from_secs(n)
    }

    fn agent(n: u128) -> AgentId {
        AgentId::from_uuid(Uuid::from_u128(n))
    }

    fn task(n: u128) -> TaskId {
        TaskId::from_uuid(Uuid::from_u128(n))
    }

    fn candidate(n: u128, kind: &str, start: i64, length: i64, slip: Option<i64>) -> Candidate {
        Candidate {
            task: task(n),
            generation: 1,
            kind: kind.parse().expect("a kind"),
            schedule: Schedule {
                start: crate::Start::At(t(start)),
                slip: Some(secs(slip.unwrap_or(0))),
                ..Schedule::default()
            },
            assignee: Assignee::Named(vec![agent(1)]),
            length: secs(length),
            priority: 0,
            history: History::default(),
        }
    }

    fn reservation(class: SchedulingClass, start: i64, length: i64) -> Reservation {
        let window = Window {
            start: t(start),
            latest_start: t(start),
            length: secs(length),
        };
        Reservation {
            agent: Some(agent(1)),
            class,
            window,
            run: Some(RunId::from_uuid(Uuid::from_u128(98))),
            task: task(99),
        }
    }

    fn starts(plan: &Plan) -> Vec<i64> {
        plan.placements
            .iter()
            .map(|p| p.window.start.duration_since(t(0)).as_secs())
            .collect()
    }

    // A kind that Muster has no tool for is scheduled as `normal`.
    const NORMAL: &str = "throughput";

    #[test]
    fn background_work_goes_anywhere() {
        let snapshot = Snapshot {
            tasks: vec![candidate(1, "rtt", 10, 11, None)],
            taken: vec![reservation(SchedulingClass::Exclusive, 0, 100)],
            agents: vec![],
        };
        assert_eq!(starts(&plan(&snapshot, t(0))), [10]);
    }

    #[test]
    fn a_normal_run_moves_behind_an_exclusive_one_within_its_slip() {
        let mut snapshot = Snapshot {
            tasks: vec![candidate(1, NORMAL, 10, 5, Some(200))],
            taken: vec![reservation(SchedulingClass::Exclusive, 0, 100)],
            agents: vec![],
        };
        assert_eq!(starts(&plan(&snapshot, t(0))), [100]);
        snapshot.tasks = vec![candidate(1, NORMAL, 10, 5, Some(20))];
        let plan = plan(&snapshot, t(0));
        assert_eq!(starts(&plan), [0i64; 0]);
        assert!(plan.refusals[0].why.to_string().contains("run 00000000"));
        assert_eq!(
            plan.refusals[0].why,
            Why::SlotConflict {
                run: Some(RunId::from_uuid(Uuid::from_u128(98))),
                with: task(99),
                from: t(0),
                to: t(100)
            }
        );
    }

    #[test]
    fn beyond_the_horizon_nothing_is_planned() {
        let mut far = candidate(1, "rtt", 0, 5, None);
        far.schedule.start = crate::Start::At(saturating_add(t(0), HORIZON + secs(1)));
        let snapshot = Snapshot {
            tasks: vec![far],
            ..Snapshot::default()
        };
        assert_eq!(plan(&snapshot, t(0)), Plan::default());
    }

    #[test]
    fn every_named_agent_gets_its_own_run() {
        let mut both = candidate(1, "inventory", 0, 5, None);
        both.assignee = Assignee::Named(vec![agent(1), agent(2)]);
        let plan = plan(
            &Snapshot {
                tasks: vec![both],
                ..Snapshot::default()
            },
            t(0),
        );
        let agents: Vec<_> = plan.placements.iter().map(|p| p.agent).collect();
        assert_eq!(agents, [Some(agent(1)), Some(agent(2))]);
    }

    #[test]
    fn free_ranges_leave_out_what_conflicts() {
        let taken = [
            reservation(SchedulingClass::Exclusive, 10, 10),
            reservation(SchedulingClass::Normal, 40, 10),
        ];
        let free = |class| free_ranges(&taken, agent(1), class, t(0), t(60), secs(5));
        assert_eq!(
            free(SchedulingClass::Normal),
            [(t(0), t(10)), (t(20), t(60))]
        );
        assert_eq!(
            free(SchedulingClass::Exclusive),
            [(t(0), t(10)), (t(20), t(40)), (t(50), t(60))]
        );
        assert_eq!(free(SchedulingClass::Background), [(t(0), t(60))]);
    }

    fn class() -> impl Strategy<Value = SchedulingClass> {
        prop_oneof![
            Just(SchedulingClass::Exclusive),
            Just(SchedulingClass::Normal),
            Just(SchedulingClass::Background)
        ]
    }

    proptest! {
        /// Whatever is asked for, no two conflicting windows share an instant on one agent.
        #[test]
        fn no_exclusive_windows_overlap(
            asks in proptest::collection::vec((class(), 0i64..300, 1i64..50, 0i64..400, 1u128..4), 1..40),
        ) {
            // Every class through the same book, as `plan` uses it.
            let mut book = Book::new(&[]);
            let mut placed: Vec<Reservation> = Vec::new();
            for (n, (class, start, length, slip, on)) in asks.into_iter().enumerate() {
                let fit = book.earliest_fit(Some(agent(on)), class, t(start), t(start + slip), secs(length));
                let Ok(at) = fit else { continue };
                prop_assert!(at >= t(start) && at <= t(start + slip));
                let reservation = Reservation {
                    agent: Some(agent(on)),
                    class,
                    window: Window { start: at, latest_start: at, length: secs(length) },
                    run: None,
                    task: task(n as u128),
                };
                book.reserve(reservation.clone());
                placed.push(reservation);
            }
            for (i, a) in placed.iter().enumerate() {
                for b in &placed[i + 1..] {
                    let clash = a.agent == b.agent && a.class.conflicts(b.class) && a.window.overlaps(&b.window);
                    prop_assert!(!clash, "{a:?} {b:?}");
                }
            }
        }

        /// A refusal is honest: no start within the slip was free.
        #[test]
        fn a_refused_window_had_no_free_start(
            held in proptest::collection::vec((0i64..200, 1i64..40), 0..12),
            start in 0i64..200, length in 1i64..40, slip in 0i64..100,
        ) {
            let taken: Vec<_> = held.iter().map(|(s, l)| reservation(SchedulingClass::Exclusive, *s, *l)).collect();
            let book = Book::new(&taken);
            let free = (start..=start + slip).find(|s| {
                let window = Window { start: t(*s), latest_start: t(*s), length: secs(length) };
                taken.iter().all(|other| !window.overlaps(&other.window))
            });
            let fit = book.earliest_fit(Some(agent(1)), SchedulingClass::Exclusive, t(start), t(start + slip), secs(length));
            prop_assert_eq!(fit.ok(), free.map(t));
        }
    }
}
