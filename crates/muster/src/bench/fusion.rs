//! `muster bench fusion`: contacts of agents a second.
//!
//! A contact is one `GET …/api/tasks` (fusion contract, section 1.1) by an agent of its own name;
//! the answer must be a task list with its next contact time. As many connections as asked for are
//! kept open and busy.

use std::time::Duration;

use clap::value_parser;
use muster_net::clock::Clock;
use serde_json::{Value, json};

use super::{Latencies, remove_agents, round};
use crate::cli::args::Global;
use crate::cli::client;
use crate::cli::error::{CliError, Code, Exit};
use crate::cli::output::Output;
use crate::cli::parse::Period;
use crate::cli::state;

/// Options of the load.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Args {
    /// Agents that take turns
    #[arg(long, value_name = "N", default_value_t = 100,
          value_parser = value_parser!(u32).range(1..=10_000))]
    pub(crate) agents: u32,
    /// Connections kept busy
    #[arg(long, value_name = "N", default_value_t = 16,
          value_parser = value_parser!(u32).range(1..=1_000))]
    pub(crate) connections: u32,
    /// How long
    #[arg(long, value_name = "DUR", default_value = "10s")]
    pub(crate) duration: Period,
    /// Base URL of the fusion wire; the HTTP listener of the state folder if not given
    #[arg(long, value_name = "URL")]
    pub(crate) server: Option<String>,
    /// Leave the agents in the server's list
    #[arg(long)]
    pub(crate) keep: bool,
}

/// Names of the agents begin with this.
const NAME: &str = "muster-bench-fusion-";

/// Runs the load and prints the figures.
pub(crate) async fn run(global: &Global, out: Output, args: Args) -> Result<(), CliError> {
    let base = base(global, args.server.as_deref())?;
    let http = client::http(&state::certificates(&state::folder(global)))?;
    let clock = Clock::system();
    let started = clock.instant();
    let deadline = started + args.duration.std();
    let workers = (0..args.connections).map(|worker| {
        let (http, base, clock) = (http.clone(), base.clone(), clock.clone());
        let (agents, step) = (args.agents, args.connections);
        tokio::spawn(async move {
            let mut tally = Tally::default();
            let mut agent = worker % agents;
            while clock.instant() < deadline {
                let before = clock.instant();
                match contact(&http, &base, agent).await {
                    Ok(()) => tally.latencies.add(clock.instant() - before),
                    Err(error) => {
                        tally.failed += 1;
                        tally.error = Some(error);
                        // A server that is not there fails faster than it can be counted.
                        tokio::time::sleep(Duration::from_millis(10)).await;
                    }
                }
                agent = (agent + step) % agents;
            }
            tally
        })
    });
    let mut all = Tally::default();
    for worker in workers.collect::<Vec<_>>() {
        let tally = worker
            .await
            .map_err(|e| CliError::failed(Code::INTERNAL, "a worker ended early").cause(&e))?;
        all.latencies.merge(tally.latencies);
        all.failed += tally.failed;
        all.error = tally.error.or(all.error);
    }
    let seconds = (clock.instant() - started).as_secs_f64();
    let contacts = all.latencies.len();
    if !args.keep {
        remove_agents(global, out, NAME).await;
    }
    out.object(&json!({
        "contacts": contacts,
        "seconds": round(seconds),
        "contacts_per_second": round(contacts as f64 / seconds),
        "p50_ms": all.latencies.percentile_ms(50),
        "p95_ms": all.latencies.percentile_ms(95),
        "failed": all.failed,
        "agents": args.agents,
        "connections": args.connections,
    }))?;
    match all.error {
        None => Ok(()),
        Some(error) => Err(CliError::failed(
            Code::BENCH_FAILED,
            format!(
                "{} of {} contacts failed",
                all.failed,
                contacts as u64 + all.failed
            ),
        )
        .line(error)),
    }
}

#[derive(Default)]
struct Tally {
    latencies: Latencies,
    failed: u64,
    error: Option<String>,
}

/// One contact; the answer is read whole and looked at.
async fn contact(http: &reqwest::Client, base: &str, agent: u32) -> Result<(), String> {
    let url = format!(
        "{base}api/tasks?agentid={NAME}{agent}&module%5B%27inventory%27%5D=1.0&module%5B%27netdiscovery%27%5D=1.0"
    );
    let response = http.get(url).send().await.map_err(|e| e.to_string())?;
    let status = response.status();
    let body = response.bytes().await.map_err(|e| e.to_string())?;
    if !status.is_success() {
        return Err(format!("answered {status}"));
    }
    let answer: Value = serde_json::from_slice(&body).map_err(|e| e.to_string())?;
    if answer.get("tasks").is_some_and(Value::is_array)
        && answer.get("nextContactTime").is_some_and(Value::is_number)
    {
        Ok(())
    } else {
        Err("the answer is no task list".to_owned())
    }
}

fn base(global: &Global, server: Option<&str>) -> Result<String, CliError> {
    if let Some(url) = server {
        return Ok(format!("{}/", url.trim_end_matches('/')));
    }
    let bound = state::addresses(&state::folder(global))?;
    let root = match (bound.http, bound.https) {
        (Some(http), _) => format!("http://{http}"),
        (None, Some(https)) => format!("https://{https}"),
        (None, None) => {
            return Err(CliError::new(
                Exit::Unreachable,
                Code::NO_SERVER,
                "the server here has no HTTP listener",
            ));
        }
    };
    Ok(format!("{root}/plugins/fusioninventory/"))
}
