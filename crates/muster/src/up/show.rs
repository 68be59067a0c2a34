//! What `up` found, as tables and as one object, and where to look next.

use std::collections::BTreeSet;

use muster_core::RunId;
use serde_json::{Value, json};

use super::work::Sampled;
use crate::agent_run::LocalAgent;
use crate::cli::error::CliError;
use crate::cli::output::{self, Column, Output, column};
use crate::server_run::Server;
use crate::state::Bound;

const RUNS: &[Column] = &[
    column("work", "kind"),
    column("end", "end"),
    column("agent", "agents"),
    column("start", "start"),
    column("finish", "finish"),
    column("reason", "reason"),
];

const HOSTS: &[Column] = &[
    column("host", "name"),
    column("addresses", "addresses"),
    column("os", "os.name"),
    column("type", "type"),
    column("known by", "known_by"),
];

const ITEMS: &[Column] = &[
    column("item", "name"),
    column("key", "key"),
    column("value", "shown"),
    column("unit", "unit"),
    column("error", "error"),
];

/// The listeners in a line.
pub(super) fn addresses(bound: &Bound) -> String {
    let all = [
        ("http", &bound.http),
        ("https", &bound.https),
        ("teeth", &bound.teeth),
        ("teeths", &bound.teeths),
        ("zabbix", &bound.zabbix),
    ];
    let on = all
        .iter()
        .filter_map(|(name, address)| Some(format!("{name} {}", address.as_ref()?)));
    on.collect::<Vec<_>>().join(", ")
}

/// Everything that was found, in the shapes of the admin API.
pub(super) struct Found {
    agent: Value,
    runs: Vec<Value>,
    hosts: Vec<Value>,
    items: Vec<Value>,
}

impl Found {
    /// Asks the admin API, as any client would.
    pub(super) async fn collect(
        server: &Server,
        agent: &LocalAgent,
        runs: Vec<RunId>,
        sampled: Option<&Sampled>,
    ) -> Result<Self, CliError> {
        let mut shown = Vec::new();
        for run in runs {
            shown.push(server.ask(&format!("/runs/{run}")).await?);
        }
        let items = match sampled {
            Some(sampled) => {
                server
                    .ask_all(&format!("/items?host={}", sampled.host))
                    .await?
            }
            None => Vec::new(),
        };
        Ok(Self {
            agent: server.ask(&format!("/agents/{}", agent.id())).await?,
            runs: shown,
            hosts: server.ask_all("/hosts").await?,
            items,
        })
    }

    /// The object of `-o json`.
    pub(super) fn object(&self, bound: &Bound) -> Value {
        json!({
            "addresses": bound,
            "agent": self.agent,
            "runs": self.runs,
            "hosts": self.hosts,
            "items": self.items,
        })
    }

    /// Short tables on stdout.
    pub(super) fn tables(&self, out: Output) -> Result<(), CliError> {
        let runs: Vec<_> = self.runs.iter().map(with_short_reason).collect();
        let hosts: Vec<_> = self.hosts.iter().map(with_known_by).collect();
        let items: Vec<_> = self.items.iter().map(with_shown).collect();
        let tables = [(RUNS, &runs), (HOSTS, &hosts), (ITEMS, &items)];
        let tables = tables.iter().filter(|(_, rows)| !rows.is_empty());
        let text: Vec<String> = tables
            .map(|(columns, rows)| output::table(columns, rows, out.style))
            .collect();
        output::print(&text.join("\n"))
    }

    /// Where to look next, and how to enrol a second agent.
    pub(super) fn hints(&self, out: Output, server: &Server, named: bool) {
        let state = match named {
            true => format!(" --state {}", server.path().display()),
            false => String::new(),
        };
        let name = self
            .agent
            .get("name")
            .and_then(Value::as_str)
            .unwrap_or("NAME");
        let mut lines = vec![
            "where to look next:".to_owned(),
            format!("  muster status{state}"),
            format!("  muster host show {name}{state}"),
        ];
        let first =
            |list: &[Value], member: &str| list.first()?.get(member)?.as_str().map(str::to_owned);
        if let Some(key) = first(&self.items, "key") {
            lines.push(format!("  muster item history {name} '{key}'{state}"));
        }
        if let Some(run) = first(&self.runs, "id") {
            lines.push(format!(
                "  muster explain run {}{state}",
                run.get(..8).unwrap_or(&run)
            ));
        }
        let bound = &server.bound;
        if let Some(page) = bound.http.as_ref().map(|a| format!("http://{a}/")) {
            lines.push(format!("  {page} in a browser"));
        }
        let url = match (&bound.https, &bound.teeths, &bound.http) {
            (Some(address), _, _) => {
                Some(format!("https://{address}/ --pin {}", server.fingerprint))
            }
            (None, Some(address), _) => {
                Some(format!("teeths://{address} --pin {}", server.fingerprint))
            }
            (None, None, Some(address)) => Some(format!("http://{address}/")),
            (None, None, None) => None,
        };
        if let Some(url) = url {
            lines.push("to enrol a second agent:".to_owned());
            lines.push(format!("  muster agent key create --once{state}"));
            lines.push(format!(
                "  muster agent run --state DIR --server {url} --enrol-key KEY"
            ));
            lines.push(
                "  (from another machine: start with --listen-https 0.0.0.0:8443 and use its address)"
                    .to_owned(),
            );
        }
        out.say(&lines.join("\n"));
    }
}

/// A run with the first part of its reason; what to do about it was said when it ended.
fn with_short_reason(run: &Value) -> Value {
    let mut shown = run.clone();
    if let Some(reason) = run.get("reason").and_then(Value::as_str) {
        shown["reason"] = reason.split("; ").next().unwrap_or_default().into();
    }
    shown
}

/// A host with what it is known by, each once.
fn with_known_by(host: &Value) -> Value {
    let sources = host.get("sources").and_then(Value::as_array);
    let words = sources
        .into_iter()
        .flatten()
        .filter_map(|source| source.get("what")?.as_str());
    let words: BTreeSet<&str> = words.collect();
    let mut shown = host.clone();
    shown["known_by"] = words.into_iter().collect::<Vec<_>>().join(", ").into();
    shown
}

/// An item with its value as a person reads it: a float with two places.
fn with_shown(item: &Value) -> Value {
    let value = item.pointer("/last/value").cloned().unwrap_or_default();
    let is_float = item.get("value_type").and_then(Value::as_str) == Some("float");
    let mut shown = item.clone();
    shown["shown"] = match value.as_f64() {
        Some(number) if is_float => format!("{number:.2}").into(),
        Some(_) | None => value,
    };
    shown
}
