//! What must hold after each step, whatever happened in it.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use muster_core::RunId;
use muster_core::run::{EndKind, Lease, RunState};
use muster_store::runs::{self, Filter, RunEvent, StoredRun};

use super::agents::Worker;
use super::world::World;

/// How far behind the reconcilers may be: they look every second or two.
const LAG: SignedDuration = SignedDuration::from_secs(10);

/// What was seen at the last step.
#[derive(Default)]
pub(super) struct Watch {
    leases: BTreeMap<RunId, (u32, Option<Lease>)>,
    ended: BTreeMap<RunId, StoredRun>,
}

impl Watch {
    /// Looks at every run and at who works on it.
    pub(super) async fn look(&mut self, world: &World, workers: &[Worker]) -> Result<(), String> {
        let now = world.clock.now();
        let all = world
            .store
            .read(|tx| runs::list(tx, &Filter::default(), None, super::RUNS_MAX))
            .await
            .map_err(|error| error.to_string())?;
        let settled = world
            .up_since()
            .is_some_and(|since| now.duration_since(since) > LAG * 2);
        for run in &all {
            if self.ended_stays_ended(run)? {
                told_by_its_agent(run, workers).await?;
            }
            self.one_lease(run)?;
            one_worker(run, workers)?;
            as_named(run)?;
            heard_is_kept(run, workers).await?;
            if settled {
                leases_end(run, now)?;
            }
        }
        exclusive_windows(&all)
    }

    /// Whether the run has ended since the last look.
    fn ended_stays_ended(&mut self, run: &StoredRun) -> Result<bool, String> {
        let id = run.run.id;
        match self.ended.get(&id) {
            Some(before) if before != run => Err(format!(
                "run {id} had ended as {before:?} and is now {run:?}"
            )),
            Some(_) => Ok(false),
            None => {
                let ended = run.run.state.is_ended();
                if ended {
                    self.ended.insert(id, run.clone());
                }
                Ok(ended)
            }
        }
    }

    /// A run that was begun under a lease goes on under it: it never changes hands while it runs, and
    /// the count of offers never falls.
    fn one_lease(&mut self, run: &StoredRun) -> Result<(), String> {
        let id = run.run.id;
        let begun = match &run.run.state {
            RunState::Running { lease, .. }
            | RunState::Collecting { lease, .. }
            | RunState::Overdue {
                lease,
                since: Some(_),
                ..
            } => Some(*lease),
            RunState::Proposed
            | RunState::Planned
            | RunState::Offered { .. }
            | RunState::Overdue { since: None, .. }
            | RunState::Ended(_) => None,
        };
        if let Some(lease) = &begun
            && lease.generation != run.run.generation
        {
            return Err(format!(
                "run {id} runs under offer {} of {}",
                lease.generation, run.run.generation
            ));
        }
        let (generation, before) = self
            .leases
            .insert(id, (run.run.generation, begun))
            .unwrap_or_default();
        if run.run.generation < generation {
            return Err(format!(
                "run {id} went from offer {generation} back to {}",
                run.run.generation
            ));
        }
        match (before, begun) {
            (Some(before), Some(now)) if before != now => Err(format!(
                "run {id} was begun under {before:?} and runs under {now:?}"
            )),
            _ => Ok(()),
        }
    }
}

/// No two agents work on a run under the offer that counts.
fn one_worker(run: &StoredRun, workers: &[Worker]) -> Result<(), String> {
    let name = run.run.id.to_string();
    let count = workers
        .iter()
        .flat_map(|worker| worker.crew.underway())
        .filter(|job| job.key.run == name && job.key.generation == u64::from(run.run.generation))
        .count();
    if count > 1 {
        return Err(format!("{count} agents work on run {name} under one offer"));
    }
    Ok(())
}

/// A run of a named agent is with no other.
fn as_named(run: &StoredRun) -> Result<(), String> {
    let with = run.run.state.lease().map(|lease| lease.agent);
    match (run.run.agent, with) {
        (Some(named), Some(with)) if named != with => Err(format!(
            "run {} of agent {named} is with {with}",
            run.run.id
        )),
        _ => Ok(()),
    }
}

/// An end that was acknowledged to the agent that holds the run is the end of the run.
async fn heard_is_kept(run: &StoredRun, workers: &[Worker]) -> Result<(), String> {
    let Some(lease) = run.run.state.lease() else {
        return Ok(());
    };
    for worker in workers.iter().filter(|worker| worker.id() == lease.agent) {
        let record = worker.remembers(run.run.id).await?;
        if record.is_some_and(|record| {
            record.acknowledged && record.intent.generation == u64::from(lease.generation)
        }) {
            let (id, state) = (run.run.id, &run.run.state);
            return Err(format!(
                "the end of run {id} was taken, and it is {state:?}"
            ));
        }
    }
    Ok(())
}

/// A run that was done was done by the agent that held it.
async fn told_by_its_agent(run: &StoredRun, workers: &[Worker]) -> Result<(), String> {
    let done = matches!(&run.run.state, RunState::Ended(end) if end.kind == EndKind::Succeeded);
    let held = workers
        .iter()
        .find(|worker| done && run.holder == Some(worker.id()));
    let Some(worker) = held else { return Ok(()) };
    let record = worker.remembers(run.run.id).await?;
    match record.map(|record| record.ending.is_some()) {
        Some(true) => Ok(()),
        known => Err(format!(
            "run {} is done by {}, which has not ended it: {known:?}",
            run.run.id,
            worker.name()
        )),
    }
}

/// An offer follows on another to the same agent, or the one before was given up.
pub(super) fn offers_in_turn(run: RunId, events: &[RunEvent]) -> Result<(), String> {
    let mut held: Option<&str> = None;
    for event in events {
        match event.verb.as_str() {
            "offer" => {
                let to = event.detail.split(',').next().unwrap_or_default();
                if let Some(held) = held.filter(|held| *held != to) {
                    return Err(format!("run {run} was offered {held} and {to}"));
                }
                held = Some(to);
            }
            "lapse" => held = None,
            _ => {}
        }
    }
    Ok(())
}

/// Every lease ends or is renewed, and silence has an end.
fn leases_end(run: &StoredRun, now: Timestamp) -> Result<(), String> {
    let passed = |at: Option<Timestamp>| at.is_some_and(|at| now.duration_since(at) > LAG);
    let stuck = match &run.run.state {
        RunState::Offered { lease } => passed(Some(lease.expires)),
        RunState::Running { .. } | RunState::Collecting { .. } => passed(run.run.overdue_at()),
        RunState::Overdue { .. } => passed(run.run.patience_ends()),
        RunState::Planned => passed(Some(run.run.window.latest_start)),
        RunState::Proposed | RunState::Ended(_) => false,
    };
    if stuck {
        return Err(format!(
            "run {} is stuck at {now}: {:?}",
            run.run.id, run.run.state
        ));
    }
    Ok(())
}

/// Runs that may not share their agent have windows apart, and are never with it at a time.
fn exclusive_windows(all: &[StoredRun]) -> Result<(), String> {
    let placed: Vec<&StoredRun> = all
        .iter()
        .filter(|run| !run.run.state.is_ended() && !run.kind.scheduling().anytime())
        .collect();
    let with = |run: &StoredRun| run.run.state.lease().map(|lease| lease.agent);
    let place = |run: &StoredRun| with(run).or(run.run.agent);
    for (at, one) in placed.iter().enumerate() {
        for other in placed.iter().skip(at + 1) {
            if !one.kind.scheduling().conflicts(other.kind.scheduling()) {
                continue;
            }
            let (here, there) = (place(one), place(other));
            if here.is_some() && here == there && one.run.window.overlaps(&other.run.window) {
                return Err(format!("runs {} and {} overlap", one.run.id, other.run.id));
            }
            if with(one).is_some() && with(one) == with(other) {
                let (one, other) = (one.run.id, other.run.id);
                return Err(format!("runs {one} and {other} are with one agent"));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use muster_core::run::{Run, Window};
    use muster_core::{AgentId, TaskId};

    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + seconds).expect("a time")
    }

    fn lease(agent: u128, generation: u32) -> Lease {
        Lease {
            agent: AgentId::from_uuid(uuid::Uuid::from_u128(agent)),
            expires: at(60),
            generation,
        }
    }

    fn stored(state: RunState, generation: u32) -> StoredRun {
        let run = Run {
            id: RunId::from_uuid(uuid::Uuid::from_u128(1)),
            task: TaskId::from_uuid(uuid::Uuid::from_u128(2)),
            agent: None,
            window: Window {
                start: at(0),
                latest_start: at(3600),
                length: SignedDuration::from_secs(15),
            },
            state,
            generation,
            priority: 0,
            created: at(0),
        };
        StoredRun {
            run,
            kind: "idle".parse().expect("a kind"),
            holder: None,
            result: None,
            diags: None,
        }
    }

    fn running(agent: u128, generation: u32) -> StoredRun {
        let state = RunState::Running {
            lease: lease(agent, generation),
            since: at(0),
            progress: None,
        };
        stored(state, generation)
    }

    #[test]
    fn a_run_that_changes_hands_while_it_runs_is_seen() {
        let mut watch = Watch::default();
        assert!(watch.one_lease(&running(1, 1)).is_ok());
        assert!(watch.one_lease(&running(1, 1)).is_ok());
        assert!(watch.one_lease(&running(2, 1)).is_err());
        let mut watch = Watch::default();
        assert!(watch.one_lease(&running(1, 2)).is_ok());
        assert!(
            watch.one_lease(&stored(RunState::Planned, 1)).is_err(),
            "offers count up"
        );
        let mut stale = running(1, 1);
        stale.run.generation = 2;
        assert!(Watch::default().one_lease(&stale).is_err());
    }

    #[test]
    fn an_end_that_changes_is_seen() {
        let mut watch = Watch::default();
        let ended = RunState::Planned.cancel("test", at(1)).expect("legal");
        let mut run = stored(ended, 1);
        assert_eq!(watch.ended_stays_ended(&run), Ok(true));
        assert_eq!(watch.ended_stays_ended(&run), Ok(false));
        run.result = Some("{}".to_owned());
        assert!(watch.ended_stays_ended(&run).is_err());
        assert!(watch.ended_stays_ended(&running(1, 1)).is_err());
    }

    #[test]
    fn leases_that_do_not_end_are_seen() {
        let offered = stored(RunState::Offered { lease: lease(1, 1) }, 1);
        assert!(leases_end(&offered, at(65)).is_ok());
        assert!(leases_end(&offered, at(75)).is_err());
        assert!(leases_end(&running(1, 1), at(30)).is_ok());
        assert!(leases_end(&running(1, 1), at(600)).is_err());
        let planned = stored(RunState::Planned, 0);
        assert!(leases_end(&planned, at(3600)).is_ok());
        assert!(leases_end(&planned, at(3700)).is_err());
    }
}
