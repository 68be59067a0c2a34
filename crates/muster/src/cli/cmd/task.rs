//! `muster task create|list|show|cancel`.

use std::time::Duration;

use muster_net::clock::Clock;
use serde_json::{Map, Value, json};

use crate::cli::args::{IdArg, ScheduleArgs, TaskCommand, TaskCreateArgs};
use crate::cli::client::{Client, path};
use crate::cli::cmd::run;
use crate::cli::error::CliError;
use crate::cli::output::{Column, Output, column};
use crate::cli::parse;

const COLUMNS: &[Column] = &[
    column("id", "id"),
    column("kind", "kind"),
    column("state", "state"),
    column("origin", "origin"),
    column("targets", "targets"),
    column("runs", "runs"),
    column("created", "created"),
];

/// A command whose arguments have been looked at; nothing has been sent yet.
pub(in crate::cli) enum Prepared {
    /// A task to create, and whether to wait for its first run.
    Create {
        body: Value,
        wait: bool,
        timeout: Option<Duration>,
    },
    /// All tasks, or those of a kind.
    List { kind: Option<String> },
    /// One task.
    Show(IdArg),
    /// A task to cancel.
    Cancel(IdArg),
}

/// Checks what was typed, so that a mistake costs no connection.
pub(in crate::cli) fn prepare(command: TaskCommand) -> Result<Prepared, CliError> {
    Ok(match command {
        TaskCommand::Create(args) => Prepared::Create {
            wait: args.wait,
            timeout: args.timeout.map(parse::Period::std),
            body: body(*args)?,
        },
        TaskCommand::List(args) => Prepared::List { kind: args.kind },
        TaskCommand::Show(args) => Prepared::Show(args),
        TaskCommand::Cancel(args) => Prepared::Cancel(args),
    })
}

/// Runs a prepared command.
pub(in crate::cli) async fn run(
    client: &Client,
    out: Output,
    prepared: Prepared,
) -> Result<(), CliError> {
    match prepared {
        Prepared::Create {
            body,
            wait,
            timeout,
        } => {
            let task = client.post("tasks", &body).await?;
            if !wait {
                return out.object_as(&task, |task| {
                    format!(
                        "{}\n",
                        task.get("id").and_then(Value::as_str).unwrap_or("-")
                    )
                });
            }
            let id = task
                .get("id")
                .and_then(Value::as_str)
                .unwrap_or_default()
                .to_owned();
            run::wait_for_task(client, out, &id, timeout).await
        }
        Prepared::List { kind } => {
            let mut query = Vec::new();
            if let Some(kind) = &kind {
                query.push(("kind", kind.as_str()));
            }
            out.list(COLUMNS, &client.list("tasks", &query).await?)
        }
        Prepared::Show(args) => out.object(&client.get(&path(&["tasks", &args.id]), &[]).await?),
        Prepared::Cancel(args) => out.object(
            &client
                .post(&path(&["tasks", &args.id, "cancel"]), &json!({}))
                .await?,
        ),
    }
}

/// The body of `POST /tasks`; members that were not named are left out.
fn body(args: TaskCreateArgs) -> Result<Value, CliError> {
    let mut body = Map::new();
    body.insert("kind".to_owned(), json!(args.kind));
    if let Some(agent) = args.agent {
        body.insert("agent".to_owned(), json!(agent));
    }
    if args.any {
        body.insert("any".to_owned(), json!(true));
    }
    if args.kind == "netdiscovery" {
        for target in &args.target {
            parse::check_range(target)?;
        }
    }
    if !args.target.is_empty() {
        body.insert("targets".to_owned(), json!(args.target));
    }
    for credential in &args.credential {
        parse::credential(credential)?;
    }
    if !args.credential.is_empty() {
        body.insert("credentials".to_owned(), json!(args.credential));
    }
    if let Some(workers) = args.workers {
        body.insert("workers".to_owned(), json!(workers));
    }
    let schedule = schedule(&args.schedule);
    if !schedule.is_empty() {
        body.insert("schedule".to_owned(), Value::Object(schedule));
    }
    if let Some(spec) = parse::spec(args.spec.as_deref())? {
        body.insert("spec".to_owned(), spec);
    }
    Ok(Value::Object(body))
}

fn schedule(args: &ScheduleArgs) -> Map<String, Value> {
    let now = Clock::system().now();
    let mut schedule = Map::new();
    let mut put = |name: &str, value: Value| {
        schedule.insert(name.to_owned(), value);
    };
    if let Some(start) = &args.start {
        put("start", json!(start.at(now).to_string()));
    }
    if let Some(slip) = args.slip {
        put("slip", json!(slip.to_string()));
    }
    if let Some(repeat) = args.repeat {
        put("repeat", json!(repeat.to_string()));
    }
    if let Some(cron) = &args.repeat_cron {
        put("repeat_cron", json!(cron));
    }
    if let Some(until) = &args.until {
        put("until", json!(until.at(now).to_string()));
    }
    if let Some(max_runs) = args.max_runs {
        put("max_runs", json!(max_runs));
    }
    schedule
}
