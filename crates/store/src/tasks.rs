//! Rows of tasks and their past.

use jiff::{SignedDuration, Timestamp};
use muster_core::schedule::{CronExpr, History, Schedule, Start};
use muster_core::task::{Assignee, Spec, Task, TaskState};
use muster_core::{AgentId, TaskId};

use crate::error::StoreError;
use crate::params;
use crate::sql::{Row, Tx};

/// A task as it is kept: what may be shown in the open, the whole of it sealed.
#[derive(Clone, Debug)]
pub struct StoredTask {
    /// The task; its spec and its peer part are the ones that may be shown.
    pub task: Task,
    /// The whole spec, sealed.
    pub sealed: Vec<u8>,
    /// The whole peer part, sealed.
    pub peer_sealed: Option<Vec<u8>>,
    /// Its past.
    pub history: History,
}

/// Writes a new task.
pub fn insert(tx: &mut Tx<'_>, stored: &StoredTask) -> Result<(), StoreError> {
    let task = &stored.task;
    let schedule = &task.schedule;
    let start = match schedule.start {
        Start::At(at) => Some(at),
        Start::Soonest => None,
    };
    tx.execute(
        "INSERT INTO tasks (id, kind, origin, shown, sealed, peer_shown, peer_sealed, targets, workers, \
         start_at, slip, random_slip, repeat_every, cron, until_at, max_runs, any_agent, priority, \
         length, state, created, gen, turns) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, \
         $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22, 0)",
        params![
            task.id.uuid(),
            task.kind.as_str(),
            task.origin.word(),
            task.spec.expose(),
            stored.sealed.clone(),
            task.peer.as_ref().map(|peer| peer.expose().to_owned()),
            stored.peer_sealed.clone(),
            task.targets.join("\n"),
            task.workers.map(|workers| i64::from(workers.get())),
            start,
            schedule.slip.map(micros),
            schedule.random_slip,
            schedule.repeat.map(micros),
            schedule.cron.as_ref().map(|cron| cron.as_str().to_owned()),
            schedule.until,
            schedule.max_runs,
            task.assignee == Assignee::Any,
            task.priority,
            micros(task.length),
            task.state.word(),
            task.created,
            task.generation,
        ],
    )?;
    for (position, agent) in task.assignee.agents().iter().enumerate() {
        tx.execute(
            "INSERT INTO task_agents (task, agent, position) VALUES ($1, $2, $3)",
            params![task.id.uuid(), agent.uuid(), position],
        )?;
    }
    Ok(())
}

/// Looks a task up.
pub fn by_id(tx: &mut Tx<'_>, id: TaskId) -> Result<Option<StoredTask>, StoreError> {
    let row = tx.query_opt("SELECT * FROM tasks WHERE id = $1", params![id.uuid()])?;
    row.map(|row| read(tx, &row)).transpose()
}

/// The ids that begin with `prefix`, at most `limit`.
pub fn ids_by_prefix(tx: &mut Tx<'_>, prefix: &str, limit: i64) -> Result<Vec<TaskId>, StoreError> {
    crate::page::ids_by_prefix(tx, "tasks", prefix, limit)
}

/// Active tasks in the order in which they get their places: higher priority first, then the older.
pub fn active(tx: &mut Tx<'_>, limit: i64) -> Result<Vec<StoredTask>, StoreError> {
    let rows = tx.query(
        "SELECT * FROM tasks WHERE state = 'active' ORDER BY priority DESC, created, id LIMIT $1",
        params![limit],
    )?;
    rows.iter().map(|row| read(tx, row)).collect()
}

/// Tasks in the order they were submitted, after the one at `after`, at most `limit`.
pub fn list(
    tx: &mut Tx<'_>,
    after: Option<(Timestamp, TaskId)>,
    limit: i64,
) -> Result<Vec<StoredTask>, StoreError> {
    let (created, id) = after.map_or((i64::MIN, String::new()), |(created, id)| {
        (created.as_microsecond(), id.to_string())
    });
    let rows = tx.query(
        "SELECT * FROM tasks WHERE created > $1 OR (created = $1 AND id > $2) \
         ORDER BY created, id LIMIT $3",
        params![created, id, limit],
    )?;
    rows.iter().map(|row| read(tx, row)).collect()
}

/// Counts a turn: `start` is its planned start. False when the task has changed since
/// `generation`, which then plans again.
pub fn count_turn(
    tx: &mut Tx<'_>,
    id: TaskId,
    generation: u32,
    start: Timestamp,
) -> Result<bool, StoreError> {
    let changed = tx.execute(
        "UPDATE tasks SET turns = turns + 1, first_turn = COALESCE(first_turn, $3), latest_turn = $3, \
         gen = gen + 1 WHERE id = $1 AND gen = $2 AND state = 'active'",
        params![id.uuid(), generation, start],
    )?;
    Ok(changed == 1)
}

/// Moves a task to a state for good. False when it had left `active` already.
pub fn finish(tx: &mut Tx<'_>, id: TaskId, state: TaskState) -> Result<bool, StoreError> {
    let changed = tx.execute(
        "UPDATE tasks SET state = $2, gen = gen + 1 WHERE id = $1 AND state = 'active'",
        params![id.uuid(), state.word()],
    )?;
    Ok(changed == 1)
}

/// How many tasks are active.
pub fn count_active(tx: &mut Tx<'_>) -> Result<i64, StoreError> {
    tx.query_one(
        "SELECT COUNT(*) AS n FROM tasks WHERE state = 'active'",
        params![],
    )?
    .int("n")
}

fn read(tx: &mut Tx<'_>, row: &Row) -> Result<StoredTask, StoreError> {
    let id = TaskId::from_uuid(row.uuid("id")?);
    let assignee = if row.bool("any_agent")? {
        Assignee::Any
    } else {
        let agents = tx.query(
            "SELECT agent FROM task_agents WHERE task = $1 ORDER BY position",
            params![id.uuid()],
        )?;
        Assignee::Named(
            agents
                .iter()
                .map(|row| row.uuid("agent").map(AgentId::from_uuid))
                .collect::<Result<_, _>>()?,
        )
    };
    let schedule = Schedule {
        start: row
            .opt_timestamp("start_at")?
            .map_or(Start::Soonest, Start::At),
        slip: row.opt_int("slip")?.map(SignedDuration::from_micros),
        random_slip: row.bool("random_slip")?,
        repeat: row
            .opt_int("repeat_every")?
            .map(SignedDuration::from_micros),
        cron: row.opt_parse::<CronExpr>("cron")?,
        until: row.opt_timestamp("until_at")?,
        max_runs: row.opt_number("max_runs")?,
    };
    let workers = row
        .opt_number::<u32>("workers")?
        .map(|n| std::num::NonZeroU32::new(n).ok_or_else(|| row.inconsistent("workers")))
        .transpose()?;
    let task = Task {
        id,
        kind: row.parse("kind")?,
        origin: row.parse("origin")?,
        spec: Spec::from_json(row.text("shown")?),
        targets: row.text("targets")?.lines().map(str::to_owned).collect(),
        workers,
        schedule,
        assignee,
        priority: row.number("priority")?,
        length: SignedDuration::from_micros(row.int("length")?),
        state: row.parse("state")?,
        created: row.timestamp("created")?,
        generation: row.number("gen")?,
        peer: row.opt_text("peer_shown")?.map(Spec::from_json),
    };
    Ok(StoredTask {
        task,
        sealed: row.bytes("sealed")?.to_vec(),
        peer_sealed: row.opt_bytes("peer_sealed")?.map(<[u8]>::to_vec),
        history: History {
            first: row.opt_timestamp("first_turn")?,
            latest: row.opt_timestamp("latest_turn")?,
            runs: row.number("turns")?,
        },
    })
}

pub(crate) fn micros(duration: SignedDuration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

/// Drops tasks made before `before` that are not active and have no run left, the oldest first and at most
/// `limit`, with what was decided about them; answers how many.
pub fn forget_done(tx: &mut Tx<'_>, before: Timestamp, limit: i64) -> Result<u64, StoreError> {
    let rows = tx.query(
        "DELETE FROM tasks WHERE state <> 'active' AND id IN (\
         SELECT id FROM tasks WHERE state <> 'active' AND created < $1 \
         AND NOT EXISTS (SELECT 1 FROM runs WHERE runs.task = tasks.id) ORDER BY created LIMIT $2) \
         RETURNING id",
        params![before, limit],
    )?;
    for row in &rows {
        let id = row.text("id")?;
        tx.execute("DELETE FROM task_agents WHERE task = $1", params![id])?;
        tx.execute(
            "DELETE FROM decisions WHERE subject = $1",
            params![format!("task:{id}")],
        )?;
    }
    Ok(rows.len() as u64)
}
