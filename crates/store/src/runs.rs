//! Rows of runs: their state, the parts of their results, and every move they made.

use jiff::{SignedDuration, Timestamp};
use muster_core::kind::{KNOWN, SchedulingClass};
use muster_core::plan::Reservation;
use muster_core::run::{End, Lease, Progress, Run, RunState, Window};
use muster_core::{AgentId, Kind, RunId, TaskId};

use crate::error::StoreError;
use crate::params;
use crate::sql::{Row, Tx, Value};
use crate::tasks::micros;

/// A run as it is kept.
#[derive(Clone, Debug, PartialEq)]
pub struct StoredRun {
    /// The run.
    pub run: Run,
    /// The kind of its task.
    pub kind: Kind,
    /// Who holds its lease or last held it, also after its end.
    pub holder: Option<AgentId>,
    /// Its result, JSON text, once it has one.
    pub result: Option<String>,
    /// What the tool had to say.
    pub diags: Option<String>,
}

/// One move of a run, or word about it that did not count.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunEvent {
    /// When.
    pub at: Timestamp,
    /// The verb.
    pub verb: String,
    /// False for what was refused or dropped.
    pub ok: bool,
    /// In a sentence.
    pub detail: String,
}

/// Writes a new run.
pub fn insert(tx: &mut Tx<'_>, run: &Run, kind: &Kind) -> Result<(), StoreError> {
    tx.execute(
        "INSERT INTO runs (id, task, kind, agent, start_at, latest_start, length, state, gen, priority, \
         created) VALUES ($1, $2, $3, $4, $5, $6, $7, 'proposed', $8, $9, $10)",
        params![
            run.id.uuid(),
            run.task.uuid(),
            kind.as_str(),
            run.agent.map(|agent| agent.uuid()),
            run.window.start,
            run.window.latest_start,
            micros(run.window.length),
            run.generation,
            run.priority,
            run.created,
        ],
    )?;
    put_state(tx, run, None)
}

/// Writes where a run is, and its generation and agent. With `was`, only if it is still there:
/// false then means that somebody else moved it.
pub fn update(
    tx: &mut Tx<'_>,
    run: &Run,
    was: &RunState,
    was_generation: u32,
) -> Result<bool, StoreError> {
    put_state_where(tx, run, Some((was.word(), was_generation)))
}

fn put_state(tx: &mut Tx<'_>, run: &Run, was: Option<(&str, u32)>) -> Result<(), StoreError> {
    put_state_where(tx, run, was).map(|_| ())
}

fn put_state_where(
    tx: &mut Tx<'_>,
    run: &Run,
    was: Option<(&str, u32)>,
) -> Result<bool, StoreError> {
    let lease = run.state.lease();
    let (since, progress, noticed, end) = match &run.state {
        RunState::Proposed | RunState::Planned | RunState::Offered { .. } => {
            (None, None, None, None)
        }
        RunState::Running {
            since, progress, ..
        } => (Some(*since), *progress, None, None),
        RunState::Collecting { since, .. } => (Some(*since), None, None, None),
        RunState::Overdue { since, noticed, .. } => (*since, None, Some(*noticed), None),
        RunState::Ended(end) => (end.since, None, None, Some(end)),
    };
    // The lease of an ended run stays in the row: it says who did it.
    let mut values: Vec<Value> = vec![
        run.id.uuid().into(),
        run.state.word().into(),
        run.generation.into(),
        run.agent.map(|agent| agent.uuid()).into(),
        lease.map(|lease| lease.agent.uuid()).into(),
        lease.map(|lease| lease.expires).into(),
        since.into(),
        progress.and_then(|progress| progress.percent).into(),
        progress
            .and_then(|progress| progress.eta)
            .map(micros)
            .into(),
        noticed.into(),
        end.map(|end| end.kind.word()).into(),
        end.and_then(|end| end.reason.clone()).into(),
        end.map(|end| end.at).into(),
    ];
    let mut sql = "UPDATE runs SET state = $2, gen = $3, agent = $4, \
         lease_agent = CASE WHEN $2 = 'ended' THEN lease_agent ELSE $5 END, lease_expires = $6, \
         since = $7, percent = $8, eta = $9, noticed = $10, end_kind = $11, end_reason = $12, \
         end_at = $13 WHERE id = $1"
        .to_owned();
    if let Some((state, generation)) = was {
        sql.push_str(" AND state = $14 AND gen = $15");
        values.push(state.into());
        values.push(generation.into());
    }
    Ok(tx.execute(&sql, &values)? == 1)
}

/// Keeps what came out of a run.
pub fn put_outcome(
    tx: &mut Tx<'_>,
    id: RunId,
    result: Option<&str>,
    diags: Option<&str>,
) -> Result<(), StoreError> {
    tx.execute(
        "UPDATE runs SET result = COALESCE($2, result), diags = COALESCE($3, diags) WHERE id = $1",
        params![
            id.uuid(),
            result.map(str::to_owned),
            diags.map(str::to_owned)
        ],
    )?;
    Ok(())
}

/// Keeps a part of a result; the same text again changes nothing. True when it was new.
pub fn add_part(tx: &mut Tx<'_>, id: RunId, part: &str) -> Result<bool, StoreError> {
    let known = tx.query_opt(
        "SELECT seq FROM run_parts WHERE run = $1 AND part = $2 LIMIT 1",
        params![id.uuid(), part],
    )?;
    if known.is_some() {
        return Ok(false);
    }
    tx.execute(
        "INSERT INTO run_parts (run, seq, part) SELECT CAST($1 AS TEXT), \
         COALESCE(MAX(seq), 0) + 1, CAST($2 AS TEXT) FROM run_parts WHERE run = $1",
        params![id.uuid(), part],
    )?;
    Ok(true)
}

/// How many parts a result has so far.
pub fn count_parts(tx: &mut Tx<'_>, id: RunId) -> Result<i64, StoreError> {
    tx.query_one(
        "SELECT COUNT(*) AS n FROM run_parts WHERE run = $1",
        params![id.uuid()],
    )?
    .int("n")
}

/// The parts of a result in the order they came.
pub fn parts(tx: &mut Tx<'_>, id: RunId) -> Result<Vec<String>, StoreError> {
    let rows = tx.query(
        "SELECT part FROM run_parts WHERE run = $1 ORDER BY seq",
        params![id.uuid()],
    )?;
    rows.iter()
        .map(|row| row.text("part").map(str::to_owned))
        .collect()
}

/// Looks a run up.
pub fn by_id(tx: &mut Tx<'_>, id: RunId) -> Result<Option<StoredRun>, StoreError> {
    let row = tx.query_opt("SELECT * FROM runs WHERE id = $1", params![id.uuid()])?;
    row.as_ref().map(read).transpose()
}

/// Looks a run up and keeps others from moving it, or adding to it, until this transaction ends.
pub fn by_id_locked(tx: &mut Tx<'_>, id: RunId) -> Result<Option<StoredRun>, StoreError> {
    // An update that changes nothing takes the row's lock on both engines.
    let row = tx.query_opt(
        "UPDATE runs SET gen = gen WHERE id = $1 RETURNING *",
        params![id.uuid()],
    )?;
    row.as_ref().map(read).transpose()
}

/// The ids that begin with `prefix`, at most `limit`.
pub fn ids_by_prefix(tx: &mut Tx<'_>, prefix: &str, limit: i64) -> Result<Vec<RunId>, StoreError> {
    crate::page::ids_by_prefix(tx, "runs", prefix, limit)
}

/// Which runs a list shows.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Only those of this task.
    pub task: Option<TaskId>,
    /// Only those in this state.
    pub state: Option<String>,
    /// Only those offered to or meant for this agent.
    pub agent: Option<AgentId>,
    /// Only those that ended so.
    pub end: Option<String>,
}

/// Runs in the order they were planned, after the one at `after`, at most `limit`.
pub fn list(
    tx: &mut Tx<'_>,
    filter: &Filter,
    after: Option<(Timestamp, RunId)>,
    limit: i64,
) -> Result<Vec<StoredRun>, StoreError> {
    let (created, id) = after.map_or((i64::MIN, String::new()), |(created, id)| {
        (created.as_microsecond(), id.to_string())
    });
    let mut sql =
        "SELECT * FROM runs WHERE (created > $1 OR (created = $1 AND id > $2))".to_owned();
    let mut values: Vec<Value> = vec![created.into(), id.into(), limit.into()];
    let mut add = |condition: &str, value: Value| {
        values.push(value);
        sql.push_str(&condition.replace("$n", &format!("${}", values.len())));
    };
    if let Some(task) = filter.task {
        add(" AND task = $n", task.uuid().into());
    }
    if let Some(state) = &filter.state {
        add(" AND state = $n", state.into());
    }
    if let Some(agent) = filter.agent {
        add(" AND (agent = $n OR lease_agent = $n)", agent.uuid().into());
    }
    if let Some(end) = &filter.end {
        add(" AND end_kind = $n", end.into());
    }
    sql.push_str(" ORDER BY created, id LIMIT $3");
    let rows = tx.query(&sql, &values)?;
    rows.iter().map(read).collect()
}

/// Runs of a task by start, earliest first.
pub fn of_task(tx: &mut Tx<'_>, task: TaskId, limit: i64) -> Result<Vec<StoredRun>, StoreError> {
    let rows = tx.query(
        "SELECT * FROM runs WHERE task = $1 ORDER BY start_at, id LIMIT $2",
        params![task.uuid(), limit],
    )?;
    rows.iter().map(read).collect()
}

/// How many runs a task has had.
pub fn count_of_task(tx: &mut Tx<'_>, task: TaskId) -> Result<i64, StoreError> {
    tx.query_one(
        "SELECT COUNT(*) AS n FROM runs WHERE task = $1",
        params![task.uuid()],
    )?
    .int("n")
}

/// How many runs of a task have not ended.
pub fn count_open(tx: &mut Tx<'_>, task: TaskId) -> Result<i64, StoreError> {
    tx.query_one(
        "SELECT COUNT(*) AS n FROM runs WHERE task = $1 AND state <> 'ended'",
        params![task.uuid()],
    )?
    .int("n")
}

/// When runs last ended and were last planned.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Latest {
    /// When the run that ended last did so.
    pub ended: Option<Timestamp>,
    /// When the run that was made last was.
    pub planned: Option<Timestamp>,
}

/// When runs last ended and were last planned.
pub fn latest(tx: &mut Tx<'_>) -> Result<Latest, StoreError> {
    let row = tx.query_one(
        "SELECT MAX(end_at) AS ended, MAX(created) AS planned FROM runs",
        params![],
    )?;
    Ok(Latest {
        ended: row.opt_timestamp("ended")?,
        planned: row.opt_timestamp("planned")?,
    })
}

/// Drops runs that ended before `before`, the earliest first and at most `limit`, with their results and their
/// moves; answers how many.
pub fn forget_ended(tx: &mut Tx<'_>, before: Timestamp, limit: i64) -> Result<u64, StoreError> {
    let rows = tx.query(
        "DELETE FROM runs WHERE state = 'ended' AND id IN (\
         SELECT id FROM runs WHERE state = 'ended' AND end_at < $1 ORDER BY end_at LIMIT $2) \
         RETURNING id",
        params![before, limit],
    )?;
    for row in &rows {
        let id = row.text("id")?;
        tx.execute("DELETE FROM run_parts WHERE run = $1", params![id])?;
        tx.execute("DELETE FROM run_events WHERE run = $1", params![id])?;
    }
    Ok(rows.len() as u64)
}

/// How many runs are in each state, `ended` by the way they ended.
pub fn counts(tx: &mut Tx<'_>) -> Result<Vec<(String, i64)>, StoreError> {
    let rows = tx.query(
        "SELECT COALESCE(end_kind, state) AS word, COUNT(*) AS n FROM runs GROUP BY 1 ORDER BY 1",
        params![],
    )?;
    rows.iter()
        .map(|row| Ok((row.text("word")?.to_owned(), row.int("n")?)))
        .collect()
}

/// Planned runs that `agent` could be offered now: of the given kinds, meant for it or for any,
/// with a start at or before `ready` and a latest start not passed; and those it was offered and
/// did not begin, whose reply may have been lost. Higher priority first, then earlier start.
///
/// A run that must be alone waits while another is with the agent, and the other way round, whatever
/// their windows say: a run may begin late and take long. A run for any agent goes to none whose own
/// planned windows it would overlap.
pub fn due(
    tx: &mut Tx<'_>,
    agent: AgentId,
    kinds: &[Kind],
    now: Timestamp,
    ready: Timestamp,
    limit: i64,
) -> Result<Vec<StoredRun>, StoreError> {
    if kinds.is_empty() {
        return Ok(Vec::new());
    }
    let held = held_by(tx, agent, kinds)?;
    let mut values: Vec<Value> = vec![agent.uuid().into(), now.into(), ready.into(), limit.into()];
    let mut places = |kinds: &mut dyn Iterator<Item = &Kind>| {
        let mut places = vec!["''".to_owned()];
        for kind in kinds {
            values.push(kind.as_str().into());
            places.push(format!("${}", values.len()));
        }
        places.join(", ")
    };
    // What is with the agent already may be offered again; beside it only what it can share with.
    let begins = places(&mut kinds.iter().filter(|kind| {
        let class = kind.scheduling();
        !held
            .iter()
            .any(|held| held.is_with && class.conflicts(held.class))
    }));
    let again = places(&mut kinds.iter());
    let rows = tx.query(
        &format!(
            "SELECT * FROM runs WHERE start_at <= $3 AND latest_start >= $2 AND \
             ((state = 'planned' AND (agent = $1 OR agent IS NULL) AND kind IN ({begins})) \
              OR (state = 'offered' AND lease_agent = $1 AND kind IN ({again}))) \
             ORDER BY priority DESC, start_at, created, id LIMIT $4"
        ),
        &values,
    )?;
    let mut due: Vec<StoredRun> = Vec::new();
    for row in &rows {
        let next = read(row)?;
        let class = next.kind.scheduling();
        let shares = next.run.state != RunState::Planned
            || !due
                .iter()
                .any(|taken| class.conflicts(taken.kind.scheduling()))
                && (next.run.agent.is_some()
                    || !held.iter().any(|held| {
                        class.conflicts(held.class) && next.run.window.overlaps(&held.window)
                    }));
        if shares {
            due.push(next);
        }
    }
    Ok(due)
}

/// A run of an agent beside which not every other can be.
struct Held {
    class: SchedulingClass,
    window: Window,
    /// It was handed over; else it is only planned for the agent.
    is_with: bool,
}

/// The runs of an agent that may keep runs of `kinds` from it.
fn held_by(tx: &mut Tx<'_>, agent: AgentId, kinds: &[Kind]) -> Result<Vec<Held>, StoreError> {
    if kinds.iter().all(|kind| kind.scheduling().anytime()) {
        return Ok(Vec::new());
    }
    let mut values: Vec<Value> = vec![agent.uuid().into()];
    let mut places = Vec::new();
    for known in KNOWN.iter().filter(|known| known.scheduling.anytime()) {
        values.push(known.name.into());
        places.push(format!("${}", values.len()));
    }
    let rows = tx.query(
        &format!(
            "SELECT * FROM runs WHERE state <> 'ended' AND (agent = $1 OR lease_agent = $1) \
             AND kind NOT IN ({})",
            places.join(", ")
        ),
        &values,
    )?;
    rows.iter()
        .map(|row| {
            let stored = read(row)?;
            let lease = stored.run.state.lease();
            Ok(Held {
                class: stored.kind.scheduling(),
                window: stored.run.window,
                is_with: lease.is_some_and(|lease| lease.agent == agent),
            })
        })
        .collect()
}

/// The earliest start of a planned run that `agent` could be offered, `after` a time if one is given,
/// for saying when to come again.
pub fn next_start(
    tx: &mut Tx<'_>,
    agent: AgentId,
    kinds: &[Kind],
    after: Option<Timestamp>,
) -> Result<Option<Timestamp>, StoreError> {
    if kinds.is_empty() {
        return Ok(None);
    }
    let after = after.unwrap_or(Timestamp::UNIX_EPOCH);
    let mut values: Vec<Value> = vec![agent.uuid().into(), after.into()];
    let mut places = Vec::new();
    for kind in kinds {
        values.push(kind.as_str().into());
        places.push(format!("${}", values.len()));
    }
    tx.query_one(
        &format!(
            "SELECT MIN(start_at) AS at FROM runs WHERE state = 'planned' AND kind IN ({}) \
             AND (agent = $1 OR agent IS NULL) AND start_at > $2",
            places.join(", ")
        ),
        &values,
    )?
    .opt_timestamp("at")
}

/// Runs that the lapse reconciler may have to move at `now`: leases that ran out, windows that
/// passed, overdue ones.
pub fn to_review(
    tx: &mut Tx<'_>,
    now: Timestamp,
    limit: i64,
) -> Result<Vec<StoredRun>, StoreError> {
    let rows = tx.query(
        "SELECT * FROM runs WHERE state <> 'ended' AND ( \
         (state = 'planned' AND latest_start < $1) OR \
         (state = 'offered' AND lease_expires < $1) OR \
         state = 'overdue' OR \
         (state IN ('running', 'collecting') AND \
          (CASE WHEN since > start_at THEN since ELSE start_at END) + length < $1)) \
         ORDER BY start_at, id LIMIT $2",
        params![now, limit],
    )?;
    rows.iter().map(read).collect()
}

/// Runs an agent holds a lease of.
pub fn leased_to(
    tx: &mut Tx<'_>,
    agent: AgentId,
    state: &str,
) -> Result<Vec<StoredRun>, StoreError> {
    let rows = tx.query(
        "SELECT * FROM runs WHERE lease_agent = $1 AND state = $2 ORDER BY start_at, id",
        params![agent.uuid(), state],
    )?;
    rows.iter().map(read).collect()
}

/// Runs of a kind that are with an agent: offered, running, overdue.
pub fn open_of_kind(
    tx: &mut Tx<'_>,
    agent: AgentId,
    kind: &Kind,
) -> Result<Vec<StoredRun>, StoreError> {
    let rows = tx.query(
        "SELECT * FROM runs WHERE lease_agent = $1 AND kind = $2 AND state <> 'ended' \
         AND state <> 'planned' ORDER BY start_at, id",
        params![agent.uuid(), kind.as_str()],
    )?;
    rows.iter().map(read).collect()
}

/// Windows taken by runs that have not ended.
pub fn reservations(tx: &mut Tx<'_>) -> Result<Vec<Reservation>, StoreError> {
    let rows = tx.query(
        "SELECT * FROM runs WHERE state <> 'ended' ORDER BY start_at, id",
        params![],
    )?;
    rows.iter()
        .map(|row| {
            let stored = read(row)?;
            let lease = stored.run.state.lease().map(|lease| lease.agent);
            Ok(Reservation {
                agent: lease.or(stored.run.agent),
                class: stored.kind.scheduling(),
                window: stored.run.window,
                run: Some(stored.run.id),
                task: stored.run.task,
            })
        })
        .collect()
}

/// Notes a move, or word that did not count.
pub fn add_event(tx: &mut Tx<'_>, id: RunId, event: &RunEvent) -> Result<(), StoreError> {
    tx.execute(
        "INSERT INTO run_events (run, seq, at, verb, ok, detail) \
         SELECT CAST($1 AS TEXT), COALESCE(MAX(seq), 0) + 1, CAST($2 AS BIGINT), CAST($3 AS TEXT), \
         CAST($4 AS BIGINT), CAST($5 AS TEXT) FROM run_events WHERE run = $1",
        params![id.uuid(), event.at, &event.verb, event.ok, &event.detail],
    )?;
    Ok(())
}

/// Every move of a run, in order.
pub fn events(tx: &mut Tx<'_>, id: RunId) -> Result<Vec<RunEvent>, StoreError> {
    let rows = tx.query(
        "SELECT at, verb, ok, detail FROM run_events WHERE run = $1 ORDER BY seq",
        params![id.uuid()],
    )?;
    rows.iter()
        .map(|row| {
            Ok(RunEvent {
                at: row.timestamp("at")?,
                verb: row.text("verb")?.to_owned(),
                ok: row.bool("ok")?,
                detail: row.text("detail")?.to_owned(),
            })
        })
        .collect()
}

fn read(row: &Row) -> Result<StoredRun, StoreError> {
    let generation = row.number("gen")?;
    let lease = || -> Result<Lease, StoreError> {
        Ok(Lease {
            agent: AgentId::from_uuid(row.uuid("lease_agent")?),
            expires: row.timestamp("lease_expires")?,
            generation,
        })
    };
    let state = match row.text("state")? {
        "proposed" => RunState::Proposed,
        "planned" => RunState::Planned,
        "offered" => RunState::Offered { lease: lease()? },
        "running" => {
            let percent = row.opt_real("percent")?;
            let eta = row.opt_int("eta")?.map(SignedDuration::from_micros);
            let said = percent.is_some() || eta.is_some();
            RunState::Running {
                lease: lease()?,
                since: row.timestamp("since")?,
                progress: said.then_some(Progress { percent, eta }),
            }
        }
        "collecting" => RunState::Collecting {
            lease: lease()?,
            since: row.timestamp("since")?,
        },
        "overdue" => RunState::Overdue {
            lease: lease()?,
            since: row.opt_timestamp("since")?,
            noticed: row.timestamp("noticed")?,
        },
        "ended" => RunState::Ended(End {
            kind: row.parse("end_kind")?,
            reason: row.opt_text("end_reason")?.map(str::to_owned),
            at: row.timestamp("end_at")?,
            since: row.opt_timestamp("since")?,
        }),
        _ => return Err(row.inconsistent("state")),
    };
    Ok(StoredRun {
        run: Run {
            id: RunId::from_uuid(row.uuid("id")?),
            task: TaskId::from_uuid(row.uuid("task")?),
            agent: row.opt_uuid("agent")?.map(AgentId::from_uuid),
            window: Window {
                start: row.timestamp("start_at")?,
                latest_start: row.timestamp("latest_start")?,
                length: SignedDuration::from_micros(row.int("length")?),
            },
            state,
            generation,
            priority: row.number("priority")?,
            created: row.timestamp("created")?,
        },
        kind: row.parse("kind")?,
        holder: row.opt_uuid("lease_agent")?.map(AgentId::from_uuid),
        result: row.opt_text("result")?.map(str::to_owned),
        diags: row.opt_text("diags")?.map(str::to_owned),
    })
}
