//! `muster run list|show|watch|result`, and waiting for the run of a task.

use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use muster_net::clock::Clock;
use serde_json::Value;

use crate::cli::args::{Format, IdArg, ResultForm, RunListArgs, RunWatchArgs};
use crate::cli::client::{Client, Fresh, path};
use crate::cli::error::{CliError, Code, Exit};
use crate::cli::output::{self, Column, Output, column};
use crate::cli::parse::Period;
use clap::ValueEnum as _;

const COLUMNS: &[Column] = &[
    column("id", "id"),
    column("kind", "kind"),
    column("state", "state"),
    column("end", "end"),
    column("agents", "agents"),
    column("start", "start"),
    column("finish", "finish"),
    column("reason", "reason"),
];

/// How long one call waits for news; below every timeout on the way.
const WAIT_EACH: Duration = Duration::from_secs(20);

/// How often to look for the first run of a task that has none yet.
const LOOK_EACH: Duration = Duration::from_millis(100);

/// `muster run list`.
pub(in crate::cli) async fn list(
    client: &Client,
    out: Output,
    args: RunListArgs,
) -> Result<(), CliError> {
    let state = args.in_state.and_then(|state| state.to_possible_value());
    let mut query = Vec::new();
    if let Some(task) = &args.task {
        query.push(("task", task.as_str()));
    }
    if let Some(state) = &state {
        query.push(("state", state.get_name()));
    }
    out.list(COLUMNS, &client.list("runs", &query).await?)
}

/// `muster run show`.
pub(in crate::cli) async fn show(
    client: &Client,
    out: Output,
    args: IdArg,
) -> Result<(), CliError> {
    let run = client.get(&path(&["runs", &args.id]), &[]).await?;
    out.object_as(&run, render)
}

/// The story of a run for a person: what it is, every move, the hosts it is about, its result.
fn render(run: &Value) -> String {
    let text = |at: &str| output::clean(&output::cell(output::at(run, at)));
    let mut page = format!("{} {} is {}", text("kind"), text("id"), text("state"));
    for (member, before) in [("end", ": "), ("reason", ", ")] {
        if !output::at(run, member).is_null() {
            page += &format!("{before}{}", text(member));
        }
    }
    page += &format!(
        "\n  task {}\n  by {}, from {} to {}\n",
        text("task"),
        text("agents"),
        text("start"),
        text("finish")
    );
    if !output::at(run, "progress").is_null() {
        page += &format!(
            "  {} percent, {} left\n",
            text("progress.percent"),
            text("progress.eta")
        );
    }
    for event in items_of(run, "events") {
        let text = |at: &str| output::clean(&output::cell(output::at(event, at)));
        let mark = if output::at(event, "ok") == &Value::Bool(true) {
            "ok"
        } else {
            "NO"
        };
        page += &format!(
            "  {mark}  {}  {:<8} {}\n",
            text("at"),
            text("verb"),
            text("detail")
        );
    }
    for host in items_of(run, "hosts") {
        let text = |at: &str| output::clean(&output::cell(output::at(host, at)));
        page += &format!("  host {} ({})\n", text("name"), text("id"));
    }
    let result = output::at(run, "result");
    if !result.is_null() {
        page += "  result\n";
        for line in format!("{result:#}").lines().take(RESULT_LINES_MAX) {
            page += &format!("    {}\n", output::clean(line));
        }
        if format!("{result:#}").lines().count() > RESULT_LINES_MAX {
            page += "    … (`muster run result` shows all)\n";
        }
    }
    page
}

fn items_of<'a>(run: &'a Value, member: &str) -> impl Iterator<Item = &'a Value> {
    run.get(member)
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
}

/// Lines of a result that `run show` prints.
const RESULT_LINES_MAX: usize = 60;

/// `muster run watch`.
pub(in crate::cli) async fn watch(
    client: &Client,
    out: Output,
    args: RunWatchArgs,
) -> Result<(), CliError> {
    let deadline = deadline(args.timeout.map(Period::std));
    let run = follow(client, out, &args.id, deadline, out.format == Format::Jsonl).await?;
    if out.format != Format::Jsonl {
        out.object_as(&run, render)?;
    }
    verdict(&run)
}

/// `muster run result`.
pub(in crate::cli) async fn result(
    client: &Client,
    out: Output,
    args: crate::cli::args::RunResultArgs,
) -> Result<(), CliError> {
    let path = path(&["runs", &args.id, "result"]);
    match args.format {
        ResultForm::Json => out.object(&client.get(&path, &[("format", "json")]).await?),
        ResultForm::Text => {
            let mut text = client.text(&path, &[("format", "text")]).await?;
            if !text.ends_with('\n') {
                text.push('\n');
            }
            if std::io::stdout().is_terminal() {
                text = text
                    .lines()
                    .map(|line| output::clean(line) + "\n")
                    .collect();
            }
            output::print(&text)
        }
        ResultForm::Html => {
            output::print(&(client.text(&path, &[("format", "html")]).await? + "\n"))
        }
    }
}

/// Waits for the first run of a task to end and prints it.
pub(in crate::cli) async fn wait_for_task(
    client: &Client,
    out: Output,
    task: &str,
    timeout: Option<Duration>,
) -> Result<(), CliError> {
    let deadline = deadline(timeout);
    let run = loop {
        let runs = client.list("runs", &[("task", task)]).await?;
        let first = runs.iter().min_by_key(|run| {
            run.get("planned_start")
                .and_then(Value::as_str)
                .unwrap_or_default()
        });
        if let Some(id) = first.and_then(|run| run.get("id")).and_then(Value::as_str) {
            break id.to_owned();
        }
        let task = client.get(&path(&["tasks", task]), &[]).await?;
        if task.get("state").and_then(Value::as_str) != Some("active") {
            return Err(
                CliError::failed(Code::RUN_NOT_SUCCEEDED, "the task ended without a run")
                    .next(explain("task", &task)),
            );
        }
        let left = left(deadline)?;
        tokio::time::sleep(LOOK_EACH.min(left)).await;
    };
    let run = follow(client, out, &run, deadline, false).await?;
    out.object_as(&run, render)?;
    verdict(&run)
}

/// Follows a run until it has ended; shows progress on a terminal, or every change as a line.
async fn follow(
    client: &Client,
    out: Output,
    id: &str,
    deadline: Option<Instant>,
    each_change: bool,
) -> Result<Value, CliError> {
    let bar = bar(out);
    let mut tag: Option<String> = None;
    loop {
        let left = left(deadline)?;
        let answer = client
            .watch(&path(&["runs", id]), tag.as_deref(), WAIT_EACH.min(left))
            .await?;
        let run = match answer {
            Fresh::Same => continue,
            Fresh::New(run, new_tag) => {
                tag = new_tag;
                run
            }
        };
        if each_change {
            out.object(&run)?;
        }
        show_progress(&bar, &run);
        if run.get("state").and_then(Value::as_str) == Some("ended") {
            bar.finish_and_clear();
            return Ok(run);
        }
        if tag.is_none() {
            tokio::time::sleep(LOOK_EACH.min(left)).await;
        }
    }
}

fn bar(out: Output) -> ProgressBar {
    let target = if out.quiet || !std::io::stderr().is_terminal() {
        ProgressDrawTarget::hidden()
    } else {
        ProgressDrawTarget::stderr()
    };
    let bar = ProgressBar::with_draw_target(Some(100), target);
    if let Ok(style) = ProgressStyle::with_template("{bar:30} {pos:>3}% {msg}") {
        bar.set_style(style);
    }
    bar
}

fn show_progress(bar: &ProgressBar, run: &Value) {
    let percent = output::at(run, "progress.percent").as_f64().unwrap_or(0.0);
    bar.set_position(percent.clamp(0.0, 100.0) as u64);
    let state = output::cell(output::at(run, "state"));
    let eta = output::at(run, "progress.eta");
    let text = if eta.is_null() {
        state
    } else {
        format!("{state}, {} left", output::cell(eta))
    };
    bar.set_message(output::clean(&text));
}

/// Whether the run brought what was wanted.
fn verdict(run: &Value) -> Result<(), CliError> {
    let end = run
        .get("end")
        .and_then(Value::as_str)
        .unwrap_or("without an end");
    if end == "succeeded" {
        return Ok(());
    }
    let id = run.get("id").and_then(Value::as_str).unwrap_or_default();
    let mut failure = CliError::failed(
        Code::RUN_NOT_SUCCEEDED,
        format!("run {} ended {end}", short(id)),
    );
    if let Some(reason) = run.get("reason").and_then(Value::as_str) {
        failure = failure.line(reason);
    }
    Err(failure.next(explain("run", run)))
}

fn explain(noun: &str, object: &Value) -> String {
    let id = object.get("id").and_then(Value::as_str).unwrap_or_default();
    format!("`muster explain {noun} {}`", short(id))
}

fn short(id: &str) -> &str {
    id.get(..8).unwrap_or(id)
}

fn deadline(timeout: Option<Duration>) -> Option<Instant> {
    timeout.and_then(|timeout| Clock::system().instant().checked_add(timeout))
}

/// Time left; an error when there is none.
fn left(deadline: Option<Instant>) -> Result<Duration, CliError> {
    let Some(deadline) = deadline else {
        return Ok(Duration::MAX);
    };
    let left = deadline.saturating_duration_since(Clock::system().instant());
    if left.is_zero() {
        return Err(CliError::new(
            Exit::TimedOut,
            Code::TIMED_OUT,
            "the run has not ended in time",
        )
        .next("it goes on; look with `muster run list`"));
    }
    Ok(left)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_a_succeeded_run_is_a_success() {
        assert!(verdict(&json!({"state": "ended", "end": "succeeded"})).is_ok());
        for end in [
            "failed",
            "refused",
            "missed",
            "expired",
            "preempted",
            "cancelled",
        ] {
            let run =
                json!({"id": "0123456789", "state": "ended", "end": end, "reason": "because"});
            let error = verdict(&run).unwrap_err();
            assert_eq!(error.exit, Exit::Failed);
            assert_eq!(error.detail, ["because"]);
            assert_eq!(error.hint.as_deref(), Some("`muster explain run 01234567`"));
        }
    }

    #[test]
    fn a_run_is_told_as_one_story() {
        let run = json!({
            "id": "7f", "task": "3a", "kind": "netdiscovery", "state": "ended", "end": "succeeded",
            "reason": null, "agents": [{"id": "1", "name": "lab-7"}],
            "start": "2026-01-01T00:00:00Z", "finish": "2026-01-01T00:01:00Z", "progress": null,
            "events": [{"at": "2026-01-01T00:00:00Z", "verb": "begin", "ok": true, "detail": ""}],
            "hosts": [{"id": "9", "name": "sw1\u{1b}[2J"}],
            "result": {"devices": []},
        });
        assert_eq!(
            render(&run),
            "netdiscovery 7f is ended: succeeded\n  task 3a\n  \
             by lab-7, from 2026-01-01T00:00:00Z to 2026-01-01T00:01:00Z\n  \
             ok  2026-01-01T00:00:00Z  begin    \n  \
             host sw1\\u{1b}[2J (9)\n  result\n    {\n      \"devices\": []\n    }\n"
        );
    }

    #[test]
    fn waiting_ends_at_its_deadline() {
        assert_eq!(left(None).unwrap(), Duration::MAX);
        let error = left(deadline(Some(Duration::ZERO))).unwrap_err();
        assert_eq!(error.exit, Exit::TimedOut);
    }
}
