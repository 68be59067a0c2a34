//! The fleet simulator: a server and agents of all four kinds on one thread in virtual time.
//!
//! One `u64` decides everything: when lines are cut, answers lost, agents and the server restarted,
//! which work is asked for and called off. [`run`] plays a story of faults, then lets them stop and
//! waits for the fleet to come to rest. After each step the [`invariants`] are looked at.
//!
//! The server is the real one: `Control` with its reconcilers over SQLite in memory, the fronts as
//! they are. So are the agents of ours: links, crew, policy and spool, on one wire or several. Stream
//! wires run over in-memory lines that delay, split, drop and cut; the HTTP wires are called as
//! services, and requests or answers get lost. Server and agents are killed between any two steps, also
//! on either side of a transaction, and begin again from what is stored. Beside them there are actors
//! with bad manners, over the agent ends of the protocol crate, and a pScheduler client.

mod actors;
mod agents;
mod chance;
mod invariants;
mod values;
mod world;

use std::fmt::Write as _;
use std::time::Duration;

use jiff::SignedDuration;
use muster_core::Kind;
use muster_core::kind::SchedulingClass;
use muster_core::run::{EndKind, RunState};
use muster_core::task::{Assignee, Origin};
use muster_server::control::NewTask;
use muster_store::runs::{self, Filter, StoredRun};
use serde_json::json;

use agents::Worker;
use chance::Dice;
use invariants::Watch;
use values::Values;
use world::World;

/// How long faults go on.
const FAULTS_SECONDS: u64 = 45;
/// How long the fleet may take to come to rest after that.
const REST_SECONDS: u64 = 1800;
/// Most runs looked at: more than a story makes.
const RUNS_MAX: i64 = 10_000;

/// What a story came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Story {
    /// Every move of every run with its time, and every stored value: the same for the same seed.
    pub trace: String,
    /// Runs that were made; all have ended.
    pub runs: usize,
    /// Those of them that had to be alone with their agent, and were done.
    pub exclusive: usize,
    /// Values that were stored, each once.
    pub values: usize,
    /// Lines cut, answers lost and restarts.
    pub faults: u64,
}

/// Plays the story of a seed.
///
/// # Errors
/// The first invariant that did not hold, in a sentence.
pub fn run(seed: u64) -> Result<Story, String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .map_err(|error| format!("no runtime: {error}"))?;
    runtime.block_on(play(seed))
}

async fn play(seed: u64) -> Result<Story, String> {
    let world = World::open(seed).await?;
    let mut agents = agents::install(&world).await?;
    let mut dice = world.dice();
    let (mut watch, mut values) = (Watch::default(), Values::default());
    actors::declare_host(&world).await?;
    world.boot().await?;
    for agent in &agents {
        agent.begin(&world).await?;
    }
    actors::spawn_fusion(&world);
    actors::spawn_zabbix(&world);
    actors::spawn_pscheduler(&world);

    for _ in 0..FAULTS_SECONDS {
        world.clock.sleep(Duration::from_secs(1)).await;
        watch.look(&world, &agents).await?;
        values.look(&world, &agents).await?;
        mischief(&world, &mut dice, &mut agents).await?;
    }
    world.calm();
    if !world.is_up() {
        world.boot().await?;
    }
    let mut waited = 0;
    while !at_rest(&world).await? {
        if waited >= REST_SECONDS {
            return Err(format!(
                "{REST_SECONDS} s after faults stopped there are open runs: {}",
                open_runs(&world).await?
            ));
        }
        waited += 5;
        world.clock.sleep(Duration::from_secs(5)).await;
        watch.look(&world, &agents).await?;
        values.look(&world, &agents).await?;
    }
    for agent in &agents {
        agent.end(&world, true).await;
    }
    let mut stored = actors::check_values(&world).await?;
    stored.extend(values.check(&world, &agents).await?);
    let (mut trace, runs) = moves(&world).await?;
    let done = |run: &&StoredRun| {
        let alone = run.kind.scheduling() == SchedulingClass::Exclusive;
        alone && matches!(&run.run.state, RunState::Ended(end) if end.kind == EndKind::Succeeded)
    };
    let exclusive = runs.iter().filter(done).count();
    for (from, values) in &stored {
        let _ = writeln!(trace, "{from}: {values:?}");
    }
    let faults = world.faults_seen();
    world.end().await;
    Ok(Story {
        trace,
        runs: runs.len(),
        exclusive,
        values: stored.iter().map(|(_, values)| values.len()).sum(),
        faults,
    })
}

/// One second's worth of what people and accidents do.
async fn mischief(world: &World, dice: &mut Dice, agents: &mut [Worker]) -> Result<(), String> {
    if !world.is_up() {
        if dice.one_in(4) {
            world.boot().await?;
        }
        return Ok(());
    }
    if dice.one_in(20) {
        world.kill();
        return Ok(());
    }
    if dice.one_in(12)
        && let Some(worker) = dice.pick_mut(agents)
    {
        let in_order = dice.one_in(2);
        worker.restart(world, in_order).await?;
    }
    if dice.one_in(5) {
        world.cut_lines();
    }
    if dice.one_in(4) {
        submit(world, dice).await?;
    }
    if dice.one_in(15) {
        cancel(world, dice).await?;
    }
    Ok(())
}

async fn submit(world: &World, dice: &mut Dice) -> Result<(), String> {
    let Some(control) = world.control() else {
        return Ok(());
    };
    let seconds = dice.below(12);
    let idle = json!({ "schema": 1, "duration": format!("PT{seconds}S") });
    let (kind, spec) = match dice.below(8) {
        0 | 1 => ("noop", json!({ "schema": 1 })),
        2..=4 => ("idleex", idle),
        _ => ("idle", idle),
    };
    let kind: Kind = kind.parse().map_err(|error| format!("{error}"))?;
    let known = control
        .agents(None, 100)
        .await
        .map_err(|error| error.chain())?
        .rows;
    let able: Vec<_> = known
        .iter()
        .filter(|view| view.agent.can(&kind))
        .map(|view| view.agent.id)
        .collect();
    let assignee = match dice.pick(&able) {
        Some(agent) if dice.one_in(2) => Assignee::Named(vec![*agent]),
        Some(_) | None => Assignee::Any,
    };
    let new = NewTask {
        assignee,
        length: Some(SignedDuration::from_secs(15)),
        ..NewTask::new(kind, Origin::Cli, spec)
    };
    control.submit(new).await.map_err(|error| error.chain())?;
    Ok(())
}

async fn cancel(world: &World, dice: &mut Dice) -> Result<(), String> {
    let Some(control) = world.control() else {
        return Ok(());
    };
    let tasks = control
        .tasks(None, 100)
        .await
        .map_err(|error| error.chain())?
        .rows;
    if let Some(view) = dice.pick(&tasks) {
        let cancelled = control.cancel(view.task.id, "the simulation").await;
        cancelled.map_err(|error| error.chain())?;
    }
    Ok(())
}

async fn at_rest(world: &World) -> Result<bool, String> {
    let busy = world
        .store
        .read(|tx| {
            let runs = runs::list(tx, &Filter::default(), None, RUNS_MAX)?;
            let wanting = muster_store::tasks::active(tx, 1000)?.len();
            Ok(wanting + runs.iter().filter(|run| !run.run.state.is_ended()).count())
        })
        .await
        .map_err(|error| error.to_string())?;
    Ok(busy == 0 && world.is_flushed())
}

async fn open_runs(world: &World) -> Result<String, String> {
    let open = world
        .store
        .read(|tx| {
            let runs = runs::list(tx, &Filter::default(), None, RUNS_MAX)?;
            let open = runs.into_iter().filter(|run| !run.run.state.is_ended());
            let mut texts: Vec<String> = open
                .map(|run| format!("{} {} {:?}", run.run.id, run.kind, run.run.state))
                .collect();
            for task in muster_store::tasks::active(tx, 1000)? {
                texts.push(format!("task {} {:?}", task.task.id, task.task.schedule));
            }
            Ok(texts)
        })
        .await
        .map_err(|error| error.to_string())?;
    Ok(format!(
        "{}; values pending: {}",
        open.join("; "),
        !world.is_flushed()
    ))
}

/// Every move of every run, as the server recorded it.
async fn moves(world: &World) -> Result<(String, Vec<StoredRun>), String> {
    let told = world.store.read(|tx| {
        let runs = runs::list(tx, &Filter::default(), None, RUNS_MAX)?;
        let told = runs.iter().map(|run| runs::events(tx, run.run.id));
        let told: Vec<_> = told.collect::<Result<_, _>>()?;
        Ok((told, runs))
    });
    let (told, runs) = told.await.map_err(|error| error.to_string())?;
    let mut text = String::new();
    for (run, events) in runs.iter().zip(&told) {
        let id = run.run.id;
        invariants::offers_in_turn(id, events)?;
        for event in events {
            let (at, verb, ok) = (event.at, &event.verb, event.ok);
            let _ = writeln!(text, "{at} {id} {verb} {ok} {}", event.detail);
        }
    }
    Ok((text, runs))
}
