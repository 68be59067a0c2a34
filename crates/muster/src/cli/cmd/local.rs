//! `muster inventory|discover|measure`: one tool of the agent, once, here, without a server.
//!
//! The person at the terminal is the local operator: what they name is allowed for this process
//! and written down nowhere (threat model, section 3).

use muster_agent::tools::{Cause, Context, Failure, registry};
use muster_net::clock::{Clock, Entropy};
use muster_server::kinds::credential_json;
use rand_core::Rng as _;
use serde_json::{Map, Value, json};
use tokio_util::sync::CancellationToken;

use crate::cli::args::{DiscoverArgs, Global, MeasureArgs};
use crate::cli::error::{CliError, Code, Exit};
use crate::cli::output::{self, Column, Output, column};
use crate::cli::{parse, state};

const DEVICES: &[Column] = &[
    column("address", "ip"),
    column("mac", "mac"),
    column("name", "snmphostname"),
    column("type", "type"),
    column("serial", "serial"),
    column("description", "description"),
];

/// `muster inventory`.
pub(in crate::cli) async fn inventory(global: &Global, out: Output) -> Result<(), CliError> {
    let result = run_tool(global, "inventory", json!({"schema": 1})).await?;
    out.object(&result)
}

/// `muster discover`.
pub(in crate::cli) async fn discover(
    global: &Global,
    out: Output,
    args: DiscoverArgs,
) -> Result<(), CliError> {
    let mut spec = Map::new();
    for range in &args.range {
        parse::check_range(range)?;
    }
    spec.insert("schema".to_owned(), json!(1));
    spec.insert("targets".to_owned(), json!(args.range));
    spec.insert("workers".to_owned(), json!(args.workers));
    if let Some(timeout) = args.timeout {
        spec.insert("timeout".to_owned(), json!(timeout.to_string()));
    }
    let credentials: Vec<Value> = args
        .credential
        .iter()
        .map(|text| parse::credential(text).map(|credential| credential_json(&credential)))
        .collect::<Result<_, _>>()?;
    if !credentials.is_empty() {
        spec.insert("_credentials".to_owned(), Value::Array(credentials));
    }
    let result = run_tool(global, "netdiscovery", Value::Object(spec)).await?;
    for note in result
        .get("notes")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
    {
        out.say(&output::clean(&output::cell(note)));
    }
    match result.get("devices").and_then(Value::as_array) {
        Some(devices) if out.format != crate::cli::args::Format::Json => out.list(DEVICES, devices),
        _ => out.object(&result),
    }
}

/// `muster measure`.
pub(in crate::cli) async fn measure(
    global: &Global,
    out: Output,
    args: MeasureArgs,
) -> Result<(), CliError> {
    let mut spec = match parse::spec(args.spec.as_deref())? {
        Some(Value::Object(spec)) => spec,
        Some(_) | None => Map::new(),
    };
    spec.entry("schema").or_insert(json!(1));
    match (args.kind.as_str(), &args.dest) {
        ("rtt" | "clock", None) => {
            return Err(
                CliError::usage(format!("measure {} needs a destination", args.kind))
                    .next(format!("`muster measure {} DEST`", args.kind)),
            );
        }
        ("idle" | "idleex" | "noop", Some(_)) => {
            return Err(CliError::usage(format!(
                "measure {} has no destination",
                args.kind
            )));
        }
        (_, Some(dest)) => {
            spec.insert("dest".to_owned(), json!(dest));
        }
        (_, None) => {
            if args.kind.starts_with("idle") {
                spec.entry("duration").or_insert(json!("PT1S"));
            }
        }
    }
    let result = run_tool(global, &args.kind, Value::Object(spec)).await?;
    out.object(&result)
}

/// Runs the tool for a kind, part by part; a signal cancels it.
async fn run_tool(global: &Global, kind: &str, spec: Value) -> Result<Value, CliError> {
    let registry = registry();
    let Some(tool) = registry.find(kind) else {
        let known: Vec<&str> = registry.capabilities().map(|(kind, _)| kind).collect();
        return Err(CliError::new(
            Exit::NotFound,
            Code::NOT_FOUND,
            format!("no tool for {kind:?} here"),
        )
        .line(format!("there is one for: {}", known.join(", "))));
    };
    let wrong = |e| CliError::usage(format!("{kind}: {e}"));
    let parts = tool.expand(&spec, &[]).map_err(wrong)?;
    for part in &parts {
        tool.check(part).map_err(wrong)?;
    }
    let mut seed = [0; 32];
    let mut rng = Entropy::system().rng();
    let cancel = CancellationToken::new();
    let stop = cancel.clone();
    let listening = tokio::spawn(async move {
        if tokio::signal::ctrl_c().await.is_ok() {
            stop.cancel();
        }
    });
    let mut outcomes = Vec::with_capacity(parts.len());
    for part in parts {
        rng.fill_bytes(&mut seed);
        let folder = state::folder(global).join("agent");
        let mut context = Context::operator(Clock::system(), seed, folder);
        context.cancel = cancel.clone();
        let outcome = tool.run(context, part.clone()).await;
        outcomes.push((part, outcome));
    }
    listening.abort();
    let outcome = match outcomes.pop() {
        Some((_, only)) if outcomes.is_empty() => only,
        Some(last) => {
            outcomes.push(last);
            tool.gather(outcomes)
        }
        None => tool.gather(outcomes),
    };
    outcome.map_err(|failure| failed(kind, failure))
}

fn failed(kind: &str, failure: Failure) -> CliError {
    let (exit, code) = match failure.cause {
        Cause::Denied => (Exit::Denied, Code::POLICY_DENIED),
        Cause::Permission => (Exit::Denied, Code::NOT_PERMITTED),
        Cause::Deadline => (Exit::TimedOut, Code::TIMED_OUT),
        Cause::Cancelled | Cause::Failed | Cause::Interrupted => {
            (Exit::Failed, Code::MEASURE_FAILED)
        }
    };
    let mut error = CliError::new(
        exit,
        code,
        format!("{kind}: {}", output::clean(&failure.reason)),
    );
    error.hint = failure.remedy;
    error
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_cause_has_its_exit_code() {
        for (cause, exit) in [
            (Cause::Cancelled, Exit::Failed),
            (Cause::Deadline, Exit::TimedOut),
            (Cause::Denied, Exit::Denied),
            (Cause::Failed, Exit::Failed),
            (Cause::Interrupted, Exit::Failed),
            (Cause::Permission, Exit::Denied),
        ] {
            let error = failed("rtt", Failure::new(cause, "because").with_remedy("do this"));
            assert_eq!(error.exit, exit);
            assert_eq!(error.title, "rtt: because");
            assert_eq!(error.hint.as_deref(), Some("do this"));
        }
    }
}
