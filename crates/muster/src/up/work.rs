//! The first work: tasks that `up` submits, and the items it declares.

use std::collections::BTreeSet;
use std::num::NonZeroU32;
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt as _};
use jiff::SignedDuration;
use muster_core::kind::Kind;
use muster_core::run::{EndKind, RunState};
use muster_core::sample::ItemType;
use muster_core::task::{Assignee, Origin};
use muster_core::{HostId, RunId};
use muster_server::control::{Declared, NewItem, NewTask, Trouble};
use muster_store::runs::StoredRun;
use serde_json::{Value, json};

use crate::agent_run::LocalAgent;
use crate::cli::error::{CliError, Code};
use crate::cli::output::Output;
use crate::server_run::{Server, control_error};

/// How long `up` waits for its first work. A large range takes its time; the run itself goes on.
const WORK_WAIT: SignedDuration = SignedDuration::from_mins(30);
/// How long it waits for the first value of each item.
const VALUES_WAIT: Duration = Duration::from_secs(10);
/// Between two looks at the values.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// How often each item is sampled.
const EVERY: SignedDuration = SignedDuration::from_secs(1);
/// Items that are sampled.
#[derive(Debug)]
pub(super) struct Sampled {
    /// The host they are of.
    pub(super) host: HostId,
}

/// Declares this machine as a host and what it has to sample as items, unless that was done before.
pub(super) async fn declare_items(
    server: &Server,
    agent: &LocalAgent,
) -> Result<Sampled, CliError> {
    let control = &server.control;
    let name = agent.name().to_owned();
    let declared = Declared {
        name: name.clone(),
        proxy: None,
        address: Some("127.0.0.1".to_owned()),
        port: None,
    };
    match control.declare_host(declared).await {
        Ok(_) => {}
        Err(error) if error.trouble == Trouble::Conflict => {}
        Err(error) => return Err(control_error(&error)),
    }
    let host = control
        .find_host(&name)
        .await
        .map_err(|error| control_error(&error))?
        .id;
    let known = control
        .items(Some(host), None, 1000)
        .await
        .map_err(|e| control_error(&e))?;
    let known: BTreeSet<String> = known.rows.into_iter().map(|view| view.item.key).collect();
    for suggestion in agent.items().suggestions() {
        if known.contains(&suggestion.key) {
            continue;
        }
        let item = NewItem {
            host: host.to_string(),
            key: suggestion.key,
            item_type: ItemType::AgentActive,
            value_type: suggestion.value_type,
            delay: Some(EVERY),
            unit: suggestion.unit.to_owned(),
            name: Some(suggestion.name),
        };
        control
            .declare_item(item)
            .await
            .map_err(|error| control_error(&error))?;
    }
    Ok(Sampled { host })
}

/// Work that was submitted.
struct Submitted {
    label: &'static str,
    wire: &'static str,
    run: RunId,
}

/// The runs of the first work.
pub(super) struct FirstWork<'a> {
    server: &'a Server,
    agent: &'a LocalAgent,
    out: Output,
    submitted: Vec<Submitted>,
}

impl<'a> FirstWork<'a> {
    pub(super) fn new(server: &'a Server, agent: &'a LocalAgent, out: Output) -> Self {
        Self {
            server,
            agent,
            out,
            submitted: Vec::new(),
        }
    }

    /// What this machine is.
    pub(super) async fn inventory(&mut self) -> Result<(), CliError> {
        self.submit("inventory", "fusion", json!({"schema": 1}), &[])
            .await
    }

    /// What is in `targets`.
    pub(super) async fn discovery(&mut self, targets: &[String]) -> Result<(), CliError> {
        let spec = json!({
            "schema": 1,
            "timeout": "PT1S",
            "_credentials": [{"version": "2c", "community": "public"}],
        });
        self.submit("netdiscovery", "fusion", spec, targets).await
    }

    /// How long a packet takes to this machine itself and back.
    pub(super) async fn round_trip(&mut self) -> Result<(), CliError> {
        let spec = json!({"schema": 1, "dest": "127.0.0.1", "count": 3, "interval": "PT0.2S"});
        self.submit("rtt", "teeth", spec, &[]).await
    }

    async fn submit(
        &mut self,
        label: &'static str,
        wire: &'static str,
        spec: Value,
        targets: &[String],
    ) -> Result<(), CliError> {
        let control = &self.server.control;
        let kind: Kind = label.parse().map_err(|error: muster_core::kind::BadKind| {
            CliError::failed(Code::INTERNAL, "a kind of work has no name").cause(&error)
        })?;
        let mut new = NewTask::new(kind, Origin::Up, spec);
        new.targets = targets.to_vec();
        new.workers = (!targets.is_empty()).then(|| NonZeroU32::new(10)).flatten();
        new.assignee = Assignee::Named(vec![self.agent.id()]);
        let task = control
            .submit(new)
            .await
            .map_err(|error| control_error(&error))?;
        let runs = control
            .runs_of(task.id, 1)
            .await
            .map_err(|error| control_error(&error))?;
        let Some(run) = runs.first() else {
            return Err(CliError::failed(
                Code::INTERNAL,
                format!("{label} was planned without a run"),
            ));
        };
        self.submitted.push(Submitted {
            label,
            wire,
            run: run.run.id,
        });
        Ok(())
    }

    /// Waits until all of it has ended, with a line for each; returns the runs in their order.
    pub(super) async fn ended(self, sampled: Option<&Sampled>) -> Result<Vec<RunId>, CliError> {
        let control = &self.server.control;
        let clock = control.clock().clone();
        let began = clock.instant();
        let deadline = clock.now() + WORK_WAIT;
        let is_ended = |run: &StoredRun| matches!(run.run.state, RunState::Ended(_));
        let mut waits: FuturesUnordered<_> = self
            .submitted
            .iter()
            .map(|submitted| async move {
                (
                    submitted,
                    control.wait_run(submitted.run, deadline, is_ended).await,
                )
            })
            .collect();
        let runs = async {
            while let Some((submitted, run)) = waits.next().await {
                let run = run.map_err(|error| control_error(&error))?;
                let took = clock.instant() - began;
                for line in told(submitted, &run, took) {
                    self.out.say(&line);
                }
            }
            Ok::<_, CliError>(())
        };
        let values = async {
            match sampled {
                Some(sampled) => self.first_values(sampled).await,
                None => Ok(()),
            }
        };
        let (runs, values) = tokio::join!(runs, values);
        runs.and(values)?;
        Ok(self
            .submitted
            .iter()
            .map(|submitted| submitted.run)
            .collect())
    }

    /// Waits until every item has a value or says why it has none.
    async fn first_values(&self, sampled: &Sampled) -> Result<(), CliError> {
        let control = &self.server.control;
        let clock = control.clock();
        let began = clock.instant();
        loop {
            let items = control.items(Some(sampled.host), None, 1000).await;
            let items = items.map_err(|error| control_error(&error))?.rows;
            let told = items.iter().filter(|view| view.last.is_some()).count();
            let took = clock.instant() - began;
            if told == items.len() || took >= VALUES_WAIT {
                self.out.say(&format!(
                    "items over zabbix: {told} of {} have a value after {:.1} s",
                    items.len(),
                    took.as_secs_f64()
                ));
                return Ok(());
            }
            clock.sleep(LOOK_EVERY).await;
        }
    }
}

/// How a run ended, in a line, and a remedy where one is known.
fn told(submitted: &Submitted, stored: &StoredRun, took: Duration) -> Vec<String> {
    let Submitted { label, wire, .. } = submitted;
    let seconds = took.as_secs_f64();
    let RunState::Ended(end) = &stored.run.state else {
        return vec![format!(
            "{label} over {wire}: still under way after {seconds:.0} s"
        )];
    };
    if end.kind == EndKind::Succeeded {
        return vec![format!("{label} over {wire}: succeeded in {seconds:.1} s")];
    }
    let reason = end.reason.clone().unwrap_or_default();
    // Where a remedy is known it follows the reason.
    let (reason, remedy) = reason.split_once("; ").unwrap_or((&reason, ""));
    let mut lines = vec![format!(
        "{label} over {wire}: {} ({reason})",
        end.kind.word()
    )];
    if !remedy.is_empty() {
        lines.push(format!("  next: {remedy}"));
    }
    lines
}
