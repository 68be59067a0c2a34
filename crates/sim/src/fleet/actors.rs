//! Peers that are not ours, over the agent ends of the protocol crate: a FusionInventory agent that is
//! late, forgets its list and says things twice; a Zabbix agent that pushes the same values again; a
//! machine that a proxy polls; a pScheduler client that asks for runs.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::body::Body;
use http::Request;
use muster_core::sample::{ItemType, ValueType};
use muster_proto::fusion::news::JobNews;
use muster_proto::fusion::p1::{Job, TasksQuery, Work};
use muster_proto::fusion::wire::PeerName;
use muster_proto::fusion::{Limits, agent};
use muster_proto::zabbix::frame::{Decoder, encode};
use muster_server::control::Declared;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};

use super::chance::Dice;
use super::values;
use super::world::World;

const BASE: &str = "/glpi/plugins/fusioninventory";
/// How long an active agent waits for an answer.
const ANSWER: Duration = Duration::from_secs(5);
const ITEMS: usize = 2;
/// How long an agent is away with what it was given: longer than any lease.
const AWAY: Duration = Duration::from_secs(150);

/// The host of the Zabbix agent among these.
const HOST: &str = "pusher";

fn key_name(item: usize) -> String {
    format!("sim.value[{item}]")
}

/// Declares the host whose values are pushed.
pub(super) async fn declare_host(world: &World) -> Result<(), String> {
    let control = world.open_control(world.store.clone()).await?;
    let host = Declared {
        name: HOST.to_owned(),
        proxy: None,
        address: Some("127.0.0.1".to_owned()),
        port: None,
    };
    let float = |number| {
        let key = key_name(number);
        values::item(HOST, &key, ItemType::AgentActive, ValueType::Float, 1)
    };
    values::declare(&control, host, (0..ITEMS).map(float).collect()).await
}

/// A FusionInventory agent: pulls, works one job after another, goes away or forgets now and then.
pub(super) fn spawn_fusion(world: &World) {
    let (world, mut dice) = (world.clone(), world.dice());
    let over = world.over.clone();
    world.clone().tracker.spawn(async move {
        let Ok(name) = PeerName::parse("forgetful") else {
            return;
        };
        let pulling = async {
            loop {
                let pause = Duration::from_secs(2) + dice.millis(4000);
                world.clock.sleep(pause).await;
                let given = pull(&world, &mut dice, &name).await;
                if world.is_bad() && dice.one_in(10) {
                    world.note_fault();
                    world.clock.sleep(AWAY).await;
                }
                for (task, job) in given {
                    if world.is_bad() && dice.one_in(6) {
                        // It was restarted and knows nothing of the list.
                        world.note_fault();
                        break;
                    }
                    work(&world, &mut dice, &name, &task, &job).await;
                }
            }
        };
        tokio::select! {
            biased;
            () = over.cancelled() => {}
            () = pulling => {}
        }
    });
}

async fn pull(world: &World, dice: &mut Dice, name: &PeerName) -> Vec<(String, Job)> {
    let modules = ["idle", "idleex", "noop"].map(|kind| (kind.to_owned(), "0.1".to_owned()));
    let query = TasksQuery {
        agent: name.clone(),
        modules: BTreeMap::from(modules),
        name: None,
    };
    let request = agent::tasks_request(BASE, &query).map(Body::from);
    let Some(answer) = world.http(dice, request).await else {
        return Vec::new();
    };
    let Ok(list) = agent::decode_tasks(&answer, &Limits::default()) else {
        return Vec::new();
    };
    let tasks = list.tasks.into_iter();
    tasks
        .flat_map(|task| {
            let id = task.id;
            task.jobs.into_iter().map(move |job| (id.clone(), job))
        })
        .collect()
}

async fn work(world: &World, dice: &mut Dice, name: &PeerName, task: &str, job: &Job) {
    let seconds = if let Work::Other {
        spec: Some(spec), ..
    } = &job.work
    {
        duration_seconds(spec)
    } else {
        0
    };
    say(world, dice, name, task, job, &JobNews::Begun).await;
    if world.is_bad() && dice.one_in(8) {
        // What it began it never mentions again.
        world.note_fault();
        return;
    }
    world.clock.sleep(Duration::from_secs(seconds / 2)).await;
    say(
        world,
        dice,
        name,
        task,
        job,
        &JobNews::Progress { percent: 50 },
    )
    .await;
    world
        .clock
        .sleep(Duration::from_secs(seconds - seconds / 2))
        .await;
    let failed = JobNews::Failed {
        reason: "as the dice fell".to_owned(),
        result: None,
    };
    let done = JobNews::Succeeded {
        result: Some(json!({ "schema": 1, "succeeded": true }).to_string()),
    };
    let (last, other) = if dice.one_in(8) {
        (failed, done)
    } else {
        (done, failed)
    };
    say(world, dice, name, task, job, &last).await;
    if world.is_bad() && dice.one_in(3) {
        // Late, out of order, and at odds with what it said.
        let late = JobNews::Progress { percent: 10 };
        for news in [&late, &last, &other] {
            say(world, dice, name, task, job, news).await;
        }
    }
}

/// The whole seconds of `{"duration": "PT5S"}`.
fn duration_seconds(spec: &str) -> u64 {
    let seconds = serde_json::from_str::<Value>(spec).ok().and_then(|spec| {
        let text = spec["duration"].as_str()?;
        text.strip_prefix("PT")?.strip_suffix('S')?.parse().ok()
    });
    seconds.unwrap_or(0)
}

async fn say(
    world: &World,
    dice: &mut Dice,
    name: &PeerName,
    task: &str,
    job: &Job,
    news: &JobNews,
) {
    for _ in 0..5 {
        let request = agent::news_request(BASE, name, task, &job.id, news).map(Body::from);
        if let Some(answer) = world.http(dice, request).await
            && !answer.status().is_server_error()
        {
            return;
        }
        world.clock.sleep(Duration::from_secs(1)).await;
    }
}

/// A Zabbix agent that pushes the values of its items until each is accepted, sometimes twice.
pub(super) fn spawn_zabbix(world: &World) {
    let (world, mut dice) = (world.clone(), world.dice());
    let over = world.over.clone();
    world.clone().tracker.spawn(async move {
        let session = "5".repeat(32);
        let pushing = async {
            let mut next_id = 1;
            let mut last: Option<String> = None;
            loop {
                world
                    .clock
                    .sleep(Duration::from_millis(500) + dice.millis(4000))
                    .await;
                if !world.is_bad() && last.is_some() {
                    continue;
                }
                let batch = batch(&world, &mut dice, &session, &mut next_id);
                if let Some(old) = last.take()
                    && dice.one_in(4)
                {
                    // The answer to the one before may have been lost after all.
                    exchange(&world, &mut dice, &old).await;
                }
                while !accepted(exchange(&world, &mut dice, &batch).await.as_ref()) {
                    world.clock.sleep(Duration::from_secs(1)).await;
                }
                for item in 0..ITEMS {
                    world.values(&key_name(item), |values| values.pending = false);
                }
                last = Some(batch);
            }
        };
        tokio::select! {
            biased;
            () = over.cancelled() => {}
            () = pushing => {}
        }
    });
}

fn batch(world: &World, dice: &mut Dice, session: &str, next_id: &mut u64) -> String {
    let clock = world.clock.now().as_second();
    let mut rows = Vec::new();
    for _ in 0..1 + dice.below(4) {
        let key = key_name(dice.below(ITEMS as u32) as usize);
        let value = *next_id as f64;
        rows.push(json!({
            "host": HOST, "key": key, "value": value.to_string(),
            "id": *next_id, "clock": clock, "ns": *next_id,
        }));
        *next_id += 1;
        world.values(&key, |values| {
            values.sent.push(value);
            values.pending = true;
        });
    }
    json!({
        "request": "agent data", "session": session, "data": rows, "clock": clock, "ns": 0,
    })
    .to_string()
}

fn accepted(answer: Option<&Value>) -> bool {
    answer.is_some_and(|answer| answer["response"] == "success")
}

async fn exchange(world: &World, dice: &mut Dice, payload: &str) -> Option<Value> {
    let limits = muster_proto::zabbix::Limits::default();
    let mut line = world.dial_zabbix(dice).ok()?;
    let asking = async {
        line.write_all(&encode(payload.as_bytes(), dice.one_in(2)).ok()?)
            .await
            .ok()?;
        let mut decoder = Decoder::new(&limits.known, false);
        let mut buffer = [0; 1024];
        loop {
            let count = line.read(&mut buffer).await.ok()?;
            if count == 0 {
                return None;
            }
            let mut rest = buffer.get(..count)?;
            while !rest.is_empty() {
                let (used, packet) = decoder.feed(rest).ok()?;
                rest = rest.get(used..)?;
                if let Some(packet) = packet {
                    let text = packet.open(&limits, &limits.known).ok()?;
                    return serde_json::from_slice(&text).ok();
                }
            }
        }
    };
    tokio::select! {
        biased;
        answer = asking => answer,
        () = world.clock.sleep(ANSWER) => None,
    }
}

/// A machine that answers one poll with the second of it, or not at all.
pub(super) async fn answer_poll(world: World, mut dice: Dice, mut line: DuplexStream) {
    let limits = muster_proto::zabbix::Limits::default();
    let mut decoder = Decoder::new(&limits.stranger, false);
    let mut buffer = [0; 256];
    let answering = async {
        loop {
            let count = line.read(&mut buffer).await.ok()?;
            let asked = buffer.get(..count).filter(|asked| !asked.is_empty())?;
            if decoder.feed(asked).ok()?.1.is_some() {
                break;
            }
        }
        if world.is_bad() && dice.one_in(5) {
            world.note_fault();
            return None;
        }
        let answer = encode(world.clock.now().as_second().to_string().as_bytes(), false);
        line.write_all(&answer.ok()?).await.ok()?;
        line.shutdown().await.ok()
    };
    tokio::select! {
        biased;
        _ = answering => {}
        () = world.clock.sleep(ANSWER) => {}
    }
}

/// A pScheduler client that posts tasks, some of them repeating, and looks at what it was told.
pub(super) fn spawn_pscheduler(world: &World) {
    let (world, mut dice) = (world.clone(), world.dice());
    let over = world.over.clone();
    world.clone().tracker.spawn(async move {
        let posting = async {
            let mut mine: Vec<String> = Vec::new();
            loop {
                world
                    .clock
                    .sleep(Duration::from_secs(2) + dice.millis(12_000))
                    .await;
                if !world.is_bad() {
                    continue;
                }
                let schedule = match dice.below(3) {
                    0 => json!({}),
                    1 => json!({ "start": "PT10S", "slip": "PT30S" }),
                    _ => {
                        json!({ "start": "PT5S", "slip": "PT1M", "repeat": "PT15S", "max-runs": 3 })
                    }
                };
                let duration = format!("PT{}S", 1 + dice.below(5));
                let test = if dice.one_in(3) { "idleex" } else { "idle" };
                let task = json!({
                    "schema": 1,
                    "test": { "type": test, "spec": { "schema": 1, "duration": duration } },
                    "schedule": schedule,
                });
                if let Some(text) = call(
                    &world,
                    &mut dice,
                    "POST",
                    "/pscheduler/tasks",
                    task.to_string(),
                )
                .await
                    && let Ok(url) = serde_json::from_str::<String>(&text)
                    && let Some(at) = url.find("/pscheduler/")
                {
                    mine.extend(url.get(at..).map(str::to_owned));
                }
                if let Some(path) = dice.pick(&mine).cloned() {
                    call(
                        &world,
                        &mut dice,
                        "GET",
                        &format!("{path}/runs"),
                        String::new(),
                    )
                    .await;
                }
            }
        };
        tokio::select! {
            biased;
            () = over.cancelled() => {}
            () = posting => {}
        }
    });
}

async fn call(
    world: &World,
    dice: &mut Dice,
    method: &str,
    path: &str,
    body: String,
) -> Option<String> {
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("host", "muster.example.net")
        .body(Body::from(body))
        .ok()?;
    let answer = world.http(dice, request).await?;
    if !answer.status().is_success() {
        return None;
    }
    String::from_utf8(answer.body().to_vec()).ok()
}

/// Every value that was pushed is stored, once, and nothing else is.
pub(super) async fn check_values(world: &World) -> Result<Vec<(String, Vec<String>)>, String> {
    let control = world.control().ok_or("the server is down")?;
    let index = control.item_index();
    let mut told = Vec::new();
    for (key, values) in world.all_values() {
        let entry = index.by_key(HOST, &key);
        let entry = entry.ok_or_else(|| format!("{key} is not indexed"))?;
        let history = values::history(&control, entry.number).await?;
        let numbers = history
            .iter()
            .filter_map(|sample| sample.value.to_string().parse().ok());
        let mut stored: Vec<f64> = numbers.collect();
        stored.sort_by(f64::total_cmp);
        let mut sent = values.sent;
        sent.sort_by(f64::total_cmp);
        if stored != sent {
            return Err(format!("{key}: stored {stored:?} of the accepted {sent:?}"));
        }
        told.push((key, stored.iter().map(f64::to_string).collect()));
    }
    Ok(told)
}
