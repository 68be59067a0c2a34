//! Plans runs: reads a snapshot, asks `core::plan`, writes what it says.
//!
//! The write checks that each task is still of the generation it was planned for; a replica that
//! loses plans again.

use jiff::Timestamp;
use muster_core::TaskId;
use muster_core::plan::{Candidate, Placement, Refusal, Snapshot, Worker, plan};
use muster_core::run::{Run, RunState};
use muster_core::{RunId, TaskState};
use muster_store::journal::{self, Decision};
use muster_store::runs::{self, RunEvent};
use muster_store::tasks::{self, StoredTask};
use muster_store::{StoreError, Tx, agents};
use rand_chacha::ChaCha20Rng;

use crate::control::work::{move_run, settle_task};
use crate::control::{Control, Result};

/// Tasks looked at in one activation.
const TASKS_MAX: i64 = 10_000;
/// Turns of a repeating task that are planned ahead: enough that none is late, few enough that a
/// task of every second does not fill the horizon.
const AHEAD_MAX: i64 = 3;
/// Turns planned for one task in one transaction.
const ROUNDS_MAX: u32 = 8;

/// Plans the turns that are wanted; returns how many runs it made or refused.
///
/// # Errors
/// When the database does not answer.
pub async fn activate(control: &Control) -> Result<u64> {
    let now = control.clock().now();
    let wanting = control
        .store()
        .read(move |tx| {
            let mut wanting = Vec::new();
            for stored in tasks::active(tx, TASKS_MAX)? {
                let open = runs::count_open(tx, stored.task.id)?;
                let next = stored.task.schedule.next(&stored.history, now);
                let horizon = muster_core::time::saturating_add(now, muster_core::plan::HORIZON);
                let wants =
                    next.is_some_and(|at| at <= horizon) && open < AHEAD_MAX * turn_size(&stored);
                if wants || (next.is_none() && open == 0) {
                    wanting.push(stored.task.id);
                }
            }
            Ok(wanting)
        })
        .await?;
    let mut moved = 0;
    for id in wanting {
        let rng = control.rng();
        moved += control
            .store()
            .write(move |tx| {
                let planned = plan_task(tx, id, now, &mut rng.clone())?;
                settle_task(tx, id, now)?;
                Ok(planned)
            })
            .await?;
    }
    if moved > 0 {
        control.nudge_work();
    }
    Ok(moved)
}

fn turn_size(stored: &StoredTask) -> i64 {
    i64::try_from(stored.task.assignee.agents().len().max(1)).unwrap_or(1)
}

/// Plans the wanted turns of one task, up to [`AHEAD_MAX`] that have not ended.
///
/// # Errors
/// When the database does not answer.
pub(crate) fn plan_task(
    tx: &mut Tx<'_>,
    id: TaskId,
    now: Timestamp,
    rng: &mut ChaCha20Rng,
) -> Result<u64, StoreError> {
    let mut moved = 0;
    for _ in 0..ROUNDS_MAX {
        let Some(stored) = tasks::by_id(tx, id)? else {
            break;
        };
        if stored.task.state != TaskState::Active
            || runs::count_open(tx, id)? >= AHEAD_MAX * turn_size(&stored)
        {
            break;
        }
        let snapshot = snapshot(tx, &stored)?;
        let plan = plan(&snapshot, now);
        if plan.placements.is_empty() && plan.refusals.is_empty() {
            break;
        }
        let start = plan
            .placements
            .iter()
            .map(|placement| placement.window.start)
            .chain(plan.refusals.iter().map(|refusal| refusal.window.start))
            .min()
            .unwrap_or(now);
        if !tasks::count_turn(tx, id, stored.task.generation, start)? {
            break;
        }
        for placement in &plan.placements {
            place(tx, &stored, placement, now, rng)?;
            moved += 1;
        }
        for refusal in &plan.refusals {
            refuse(tx, &stored, refusal, now, rng)?;
            moved += 1;
        }
    }
    Ok(moved)
}

fn snapshot(tx: &mut Tx<'_>, stored: &StoredTask) -> Result<Snapshot, StoreError> {
    let task = &stored.task;
    let anytime = task.kind.scheduling().anytime();
    // Background work neither avoids nor is avoided: what is taken does not matter to it.
    let taken = if anytime {
        Vec::new()
    } else {
        runs::reservations(tx)?
    };
    let agents = if anytime {
        Vec::new()
    } else {
        agents::able(tx, &task.kind)?
            .into_iter()
            .map(|enrolled| Worker {
                agent: enrolled.agent.id,
                kinds: vec![task.kind.clone()],
                online: true,
            })
            .collect()
    };
    Ok(Snapshot {
        tasks: vec![Candidate {
            task: task.id,
            generation: task.generation,
            kind: task.kind.clone(),
            schedule: task.schedule.clone(),
            assignee: task.assignee.clone(),
            length: task.length,
            priority: task.priority,
            history: stored.history,
        }],
        taken,
        agents,
    })
}

fn place(
    tx: &mut Tx<'_>,
    stored: &StoredTask,
    placement: &Placement,
    now: Timestamp,
    rng: &mut ChaCha20Rng,
) -> Result<(), StoreError> {
    let proposed = Run {
        id: RunId::mint(rng),
        task: placement.task,
        agent: placement.agent,
        window: placement.window,
        state: RunState::Proposed,
        generation: 0,
        priority: placement.priority,
        created: now,
    };
    runs::insert(tx, &proposed, &stored.task.kind)?;
    let who = match placement.agent {
        Some(id) => match agents::by_id(tx, id)? {
            Some(enrolled) => enrolled.agent.name,
            None => format!("agent {id}"),
        },
        None => "any agent that can".to_owned(),
    };
    let detail = format!(
        "for {who}, from {} until {} at the latest",
        placement.window.start, placement.window.latest_start
    );
    // The one participant took the window by being planned for it.
    if let Ok(planned) = proposed.state.clone().accept() {
        move_run(tx, &proposed, planned, "accept", &detail, now)?;
    }
    let decision = Decision {
        check: "slot".into(),
        at: now,
        ok: true,
        detail,
    };
    journal::decide(tx, &format!("task:{}", placement.task), &decision)
}

fn refuse(
    tx: &mut Tx<'_>,
    stored: &StoredTask,
    refusal: &Refusal,
    now: Timestamp,
    rng: &mut ChaCha20Rng,
) -> Result<(), StoreError> {
    let proposed = Run {
        id: RunId::mint(rng),
        task: refusal.task,
        agent: refusal.agent,
        window: refusal.window,
        state: RunState::Proposed,
        generation: 0,
        priority: stored.task.priority,
        created: now,
    };
    runs::insert(tx, &proposed, &stored.task.kind)?;
    let reason = refusal.why.to_string();
    if let Ok(refused) = proposed.state.clone().refuse(&reason, now) {
        move_run(tx, &proposed, refused, "refuse", &reason, now)?;
    }
    let event = RunEvent {
        at: now,
        verb: "slot".into(),
        ok: false,
        detail: reason.clone(),
    };
    runs::add_event(tx, proposed.id, &event)?;
    let decision = Decision {
        check: "slot".into(),
        at: now,
        ok: false,
        detail: reason,
    };
    journal::decide(tx, &format!("task:{}", refusal.task), &decision)
}
