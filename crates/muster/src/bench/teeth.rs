//! `muster bench teeth`: idle lines, and the memory each costs the server.
//!
//! Opens lines, shakes hands on each, keeps them alive with the ping every agent sends, and looks at
//! the server's resident memory before and after (its process must be on this machine for that).

use std::time::Duration;

use clap::value_parser;
use muster_net::clock::Clock;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::{Latencies, raise_file_limit, remove_agents, resident_bytes, round};
use crate::cli::args::Global;
use crate::cli::error::{CliError, Code, Exit};
use crate::cli::output::Output;
use crate::cli::parse::Period;
use crate::cli::state;

/// Options of the load.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Args {
    /// Lines to open
    #[arg(long, value_name = "N", default_value_t = 1_000,
          value_parser = value_parser!(u32).range(1..=100_000))]
    pub(crate) lines: u32,
    /// How long to keep them, all open
    #[arg(long, value_name = "DUR", default_value = "10s")]
    pub(crate) duration: Period,
    /// HOST:PORT of the teeth wire; the plain listener of the state folder if not given
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) server: Option<String>,
    /// Leave the agents in the server's list
    #[arg(long)]
    pub(crate) keep: bool,
}

/// Names of the agents begin with this.
const NAME: &str = "muster-bench-teeth-";

/// Lines opened at the same moment.
const OPENING: usize = 64;

/// Agents ping this often (teeth contract, section 5).
const PING_EACH: Duration = Duration::from_secs(20);

/// How long one answer may take.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// Files a line costs here, and those needed for anything else.
const FILES_RESERVED: u64 = 64;

/// Runs the load and prints the figures.
pub(crate) async fn run(global: &Global, out: Output, args: Args) -> Result<(), CliError> {
    let files = raise_file_limit();
    if u64::from(args.lines) + FILES_RESERVED > files {
        return Err(CliError::failed(
            Code::BENCH_FAILED,
            format!(
                "{} lines need more open files than the {files} allowed here",
                args.lines
            ),
        )
        .next("ulimit -n"));
    }
    let (address, pid) = match args.server {
        Some(server) => (server, None),
        None => {
            let bound = state::addresses(&state::folder(global))?;
            let address = bound.teeth.ok_or_else(|| {
                CliError::new(
                    Exit::Unreachable,
                    Code::NO_SERVER,
                    "the server here has no plain teeth listener",
                )
            })?;
            (address, Some(bound.pid))
        }
    };
    let clock = Clock::system();
    let before = pid.and_then(resident_bytes);
    let started = clock.instant();
    let (mut lines, mut handshakes) = open(&address, args.lines, &clock).await?;
    let opening = (clock.instant() - started).as_secs_f64();
    let (mut pings, lost) = keep(&mut lines, args.duration.std(), &clock).await;
    let after = pid.and_then(resident_bytes);
    let alive = lines.len();
    drop(lines);
    if !args.keep {
        remove_agents(global, out, NAME).await;
    }
    let bytes_each = match (before, after) {
        (Some(before), Some(after)) if alive > 0 => {
            Some(round(after.saturating_sub(before) as f64 / alive as f64))
        }
        _ => None,
    };
    out.object(&json!({
        "lines": alive,
        "lost": lost,
        "opened_per_second": round(f64::from(args.lines) / opening),
        "handshake_p95_ms": handshakes.percentile_ms(95),
        "ping_p95_ms": pings.percentile_ms(95),
        "held_seconds": args.duration.std().as_secs(),
        "server_bytes_before": before,
        "server_bytes_after": after,
        "bytes_each": bytes_each,
    }))?;
    if lost == 0 {
        return Ok(());
    }
    Err(CliError::failed(
        Code::BENCH_FAILED,
        format!("{lost} of {} lines were lost", args.lines),
    ))
}

/// One open line.
struct Line {
    stream: BufReader<TcpStream>,
    calls: u32,
}

async fn open(
    address: &str,
    lines: u32,
    clock: &Clock,
) -> Result<(Vec<Line>, Latencies), CliError> {
    let mut opening = JoinSet::new();
    let mut open = Vec::new();
    let mut latencies = Latencies::default();
    let mut next = 0;
    while next < lines || !opening.is_empty() {
        while next < lines && opening.len() < OPENING {
            let (address, clock, name) =
                (address.to_owned(), clock.clone(), format!("{NAME}{next}"));
            opening.spawn(async move {
                let before = clock.instant();
                let stream = TcpStream::connect(&address)
                    .await
                    .map_err(|e| e.to_string())?;
                let mut line = Line {
                    stream: BufReader::new(stream),
                    calls: 0,
                };
                line.call("handshake", json!({"id": name, "version": "0.1-dev"}))
                    .await?;
                Ok::<_, String>((line, clock.instant() - before))
            });
            next += 1;
        }
        match opening.join_next().await {
            None => {}
            Some(Ok(Ok((line, time)))) => {
                open.push(line);
                latencies.add(time);
            }
            Some(Ok(Err(error))) => {
                return Err(CliError::failed(
                    Code::BENCH_FAILED,
                    format!("line {} of {lines} could not be opened", open.len() + 1),
                )
                .line(error));
            }
            Some(Err(error)) => {
                return Err(CliError::failed(Code::INTERNAL, "a line ended early").cause(&error));
            }
        }
    }
    Ok((open, latencies))
}

/// Keeps the lines alive for a while; what was lost is counted and dropped.
async fn keep(lines: &mut Vec<Line>, duration: Duration, clock: &Clock) -> (Latencies, usize) {
    let had = lines.len();
    let end = clock.instant() + duration;
    let mut pings = Latencies::default();
    loop {
        let mut kept = Vec::with_capacity(lines.len());
        for mut line in lines.drain(..) {
            let before = clock.instant();
            if line.call("ping", json!({})).await.is_ok() {
                pings.add(clock.instant() - before);
                kept.push(line);
            }
        }
        *lines = kept;
        let left = end.saturating_duration_since(clock.instant());
        if left.is_zero() {
            return (pings, had - lines.len());
        }
        clock.sleep(left.min(PING_EACH)).await;
    }
}

impl Line {
    /// One command and its answer; commands of the server in between are left unanswered.
    async fn call(&mut self, method: &str, params: Value) -> Result<Value, String> {
        self.calls += 1;
        let id = format!("bench-{}", self.calls);
        let command = json!({"id": id, "version": "v1", "method": method, "params": params});
        let answer = async {
            self.stream
                .write_all(format!("{command}\n").as_bytes())
                .await
                .map_err(|e| e.to_string())?;
            loop {
                let mut text = String::new();
                if self
                    .stream
                    .read_line(&mut text)
                    .await
                    .map_err(|e| e.to_string())?
                    == 0
                {
                    return Err("the server closed the line".to_owned());
                }
                let answer: Value = serde_json::from_str(&text).map_err(|e| e.to_string())?;
                if let Some(fatal) = answer.get("fatal_error") {
                    return Err(format!("fatal error: {fatal}"));
                }
                if answer.get("method").is_some() || answer.get("id") != Some(&json!(id)) {
                    continue;
                }
                return match answer.get("error") {
                    Some(error) => Err(error.to_string()),
                    None => Ok(answer),
                };
            }
        };
        tokio::time::timeout(ANSWER_TIMEOUT, answer)
            .await
            .unwrap_or_else(|_| Err("no answer in time".to_owned()))
    }
}
