//! `muster bench pscheduler`: tasks posted a second, and how exactly runs start.
//!
//! The first part posts `noop` tasks that start in two days, beyond the horizon, so that nothing but
//! the posting is measured; each answer is the address of a task that is stored. The second part
//! posts tasks for agreed seconds and asks the server when the agent began each; the error is the
//! difference. All tasks are deleted afterwards unless `--keep` is given.

use std::time::Duration;

use clap::value_parser;
use jiff::{SignedDuration, Timestamp};
use muster_net::clock::Clock;
use muster_proto::pscheduler::agent::{Call, answer_run, answer_task_id};
use muster_proto::pscheduler::wire::{Limits, RunState};
use serde_json::{Value, json};
use uuid::Uuid;

use super::{Latencies, round};
use crate::cli::args::Global;
use crate::cli::client::{self, Client};
use crate::cli::error::{CliError, Code, Exit};
use crate::cli::output::Output;
use crate::cli::parse::Period;
use crate::cli::state;

/// Options of the load.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Args {
    /// Connections kept busy
    #[arg(long, value_name = "N", default_value_t = 8,
          value_parser = value_parser!(u32).range(1..=1_000))]
    pub(crate) connections: u32,
    /// How long tasks are posted
    #[arg(long, value_name = "DUR", default_value = "10s")]
    pub(crate) duration: Period,
    /// Runs whose start is compared with the agreed second; needs an agent
    #[arg(long, value_name = "N", default_value_t = 20,
          value_parser = value_parser!(u32).range(0..=1_000))]
    pub(crate) runs: u32,
    /// Root URL of the server; the HTTPS or else HTTP listener of the state folder if not given
    #[arg(long, value_name = "URL")]
    pub(crate) server: Option<String>,
    /// Leave the tasks there
    #[arg(long)]
    pub(crate) keep: bool,
}

/// Between the first posting of a timed run and its second.
const LEAD_SECS: i64 = 8;
/// Timed runs for each second.
const RUNS_A_SECOND: u32 = 4;

/// Runs the load and prints the figures.
pub(crate) async fn run(global: &Global, out: Output, args: Args) -> Result<(), CliError> {
    let peer = Peer {
        http: client::http(&state::certificates(&state::folder(global)))?,
        base: base(global, args.server.as_deref())?,
    };
    let clock = Clock::system();
    let mut posted = post_all(&peer, &clock, &args).await?;
    let starts = if args.runs == 0 {
        None
    } else {
        out.say(&format!("waiting for {} runs to start", args.runs));
        Some(start_errors(global, &peer, &clock, args.runs, &mut posted.tasks).await?)
    };
    if !args.keep {
        peer.delete_all(&posted.tasks, args.connections).await;
    }
    let count = posted.latencies.len();
    let (starts, missed) = starts.unzip();
    let mut starts = starts.unwrap_or_default();
    out.object(&json!({
        "tasks": count,
        "seconds": round(posted.seconds),
        "tasks_per_second": round(count as f64 / posted.seconds),
        "p50_ms": posted.latencies.percentile_ms(50),
        "p95_ms": posted.latencies.percentile_ms(95),
        "failed": posted.failed,
        "connections": args.connections,
        "runs": starts.len(),
        "start_error_p50_ms": starts.percentile_ms(50),
        "start_error_p95_ms": starts.percentile_ms(95),
        "start_error_max_ms": starts.percentile_ms(100),
        "runs_without_start": missed.unwrap_or_default(),
    }))?;
    let total = posted.failed + count as u64;
    match posted.error {
        None => Ok(()),
        Some(error) => {
            let title = format!("{} of {total} tasks were not taken", posted.failed);
            Err(CliError::failed(Code::BENCH_FAILED, title).line(error))
        }
    }
}

#[derive(Default)]
struct Posted {
    latencies: Latencies,
    seconds: f64,
    failed: u64,
    error: Option<String>,
    tasks: Vec<Uuid>,
}

async fn post_all(peer: &Peer, clock: &Clock, args: &Args) -> Result<Posted, CliError> {
    let started = clock.instant();
    let deadline = started + args.duration.std();
    let workers = (0..args.connections).map(|worker| {
        let (peer, clock) = (peer.clone(), clock.clone());
        tokio::spawn(async move {
            let mut posted = Posted::default();
            let mut turn = 0_u64;
            while clock.instant() < deadline {
                turn += 1;
                let task = json!({
                    "schema": 1,
                    "test": { "type": "noop", "spec": { "schema": 1, "data": [worker, turn] } },
                    "schedule": { "start": "P2D", "slip": "PT5M" },
                    "reference": { "muster-bench": true }
                });
                let before = clock.instant();
                match peer.post(task).await {
                    Ok(id) => {
                        posted.latencies.add(clock.instant() - before);
                        posted.tasks.push(id);
                    }
                    Err(error) => {
                        posted.failed += 1;
                        posted.error = Some(error);
                        // A server that is not there fails faster than it can be counted.
                        clock.sleep(Duration::from_millis(10)).await;
                    }
                }
            }
            posted
        })
    });
    let mut all = Posted::default();
    for worker in workers.collect::<Vec<_>>() {
        let posted = worker
            .await
            .map_err(|e| CliError::failed(Code::INTERNAL, "a worker ended early").cause(&e))?;
        all.latencies.merge(posted.latencies);
        all.failed += posted.failed;
        all.error = posted.error.or(all.error);
        all.tasks.extend(posted.tasks);
    }
    all.seconds = (clock.instant() - started).as_secs_f64();
    Ok(all)
}

/// Posts runs for agreed seconds and asks when each began. Returns the errors, and how many runs
/// have none to tell.
async fn start_errors(
    global: &Global,
    peer: &Peer,
    clock: &Clock,
    runs: u32,
    tasks: &mut Vec<Uuid>,
) -> Result<(Latencies, u64), CliError> {
    let admin = Client::find(global)?;
    let first = clock.now().as_second() + LEAD_SECS;
    let mut timed = Vec::new();
    for turn in 0..runs {
        let second = first + i64::from(turn / RUNS_A_SECOND);
        let start = Timestamp::from_second(second)
            .map_err(|e| CliError::failed(Code::INTERNAL, "the calendar ends").cause(&e))?;
        let task = json!({
            "schema": 1,
            "test": { "type": "noop", "spec": { "schema": 1, "data": turn } },
            "schedule": { "start": start.to_string() },
            "reference": { "muster-bench": true }
        });
        let id = peer.post(task).await.map_err(|e| {
            CliError::failed(Code::BENCH_FAILED, "a timed task was not taken").line(e)
        })?;
        tasks.push(id);
        timed.push((id, start));
    }
    let mut errors = Latencies::default();
    let mut missed = 0;
    for (task, start) in timed {
        let Some(run) = peer.ended_run(task).await else {
            missed += 1;
            continue;
        };
        let shown = admin.get(&format!("runs/{run}"), &[]).await?;
        let began = shown
            .get("start")
            .and_then(Value::as_str)
            .and_then(|text| text.parse::<Timestamp>().ok());
        match began {
            Some(began) => {
                let error: SignedDuration = began.duration_since(start).abs();
                errors.add(error.unsigned_abs());
            }
            None => missed += 1,
        }
    }
    Ok((errors, missed))
}

/// The server, as a client of the wire sees it.
#[derive(Clone)]
struct Peer {
    http: reqwest::Client,
    base: String,
}

impl Peer {
    async fn call(&self, call: &Call) -> Result<http::Response<bytes::Bytes>, String> {
        let request = call.request("");
        let url = format!("{}{}", self.base, request.uri());
        let response = self
            .http
            .request(request.method().clone(), url)
            .header("Content-Type", "application/json")
            .body(request.into_body())
            .send()
            .await
            .map_err(|e| e.to_string())?;
        let status = response.status();
        let body = response.bytes().await.map_err(|e| e.to_string())?;
        let mut answer = http::Response::new(body);
        *answer.status_mut() = status;
        Ok(answer)
    }

    async fn post(&self, task: Value) -> Result<Uuid, String> {
        let answer = self.call(&Call::PostTask { task }).await?;
        answer_task_id(&answer, &Limits::default()).map_err(|e| e.to_string())
    }

    /// The only run of a task, once it has ended well.
    async fn ended_run(&self, task: Uuid) -> Option<Uuid> {
        let limits = Limits::default();
        let first = self.call(&Call::RunFirst { task }).await.ok()?;
        let run = answer_run(&first, &limits).ok()?.id;
        let call = Call::RunMerged {
            task,
            run,
            wait_secs: 60,
        };
        let ended = self.call(&call).await.ok()?;
        let state = answer_run(&ended, &limits).ok()?.state;
        (state == RunState::Finished).then_some(run)
    }

    async fn delete_all(&self, tasks: &[Uuid], connections: u32) {
        let share = tasks.len().div_ceil(connections.max(1) as usize).max(1);
        let workers = tasks.chunks(share).map(|share| {
            let (peer, share) = (self.clone(), share.to_vec());
            tokio::spawn(async move {
                for id in share {
                    // What stays is shown by `muster task list`; the figures do not depend on it.
                    let _ = peer.call(&Call::DeleteTask { id, key: None }).await;
                }
            })
        });
        for worker in workers.collect::<Vec<_>>() {
            let _ = worker.await;
        }
    }
}

fn base(global: &Global, server: Option<&str>) -> Result<String, CliError> {
    if let Some(url) = server {
        let root = url.trim_end_matches('/').trim_end_matches("/pscheduler");
        return Ok(root.to_owned());
    }
    let bound = state::addresses(&state::folder(global))?;
    match (bound.https, bound.http) {
        (Some(https), _) => Ok(format!("https://{https}")),
        (None, Some(http)) => Ok(format!("http://{http}")),
        (None, None) => Err(CliError::new(
            Exit::Unreachable,
            Code::NO_SERVER,
            "the server here has no HTTP listener",
        )),
    }
}
