//! `muster doctor`: looks for what is wrong on this machine, and says what to do about it.
//!
//! Changes nothing and sends nothing beyond loopback and the server it was pointed at.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use muster_agent::tools::{Context, registry};
use muster_net::clock::{Clock, Entropy};
use rand_core::Rng as _;
use serde_json::{Value, json};

use crate::cli::args::Global;
use crate::cli::client::Client;
use crate::cli::error::{CliError, Code};
use crate::cli::output::{Column, Output, column};
use crate::cli::state;

const COLUMNS: &[Column] = &[
    column("check", "check"),
    column("ok", "ok"),
    column("detail", "detail"),
    column("next", "next"),
];

/// One thing looked at. `ok` is absent where it could not be looked at.
struct Finding {
    check: &'static str,
    ok: Option<bool>,
    detail: String,
    next: Option<String>,
}

impl Finding {
    fn good(check: &'static str, detail: impl Into<String>) -> Self {
        Self {
            check,
            ok: Some(true),
            detail: detail.into(),
            next: None,
        }
    }

    fn bad(check: &'static str, detail: impl Into<String>, next: impl Into<String>) -> Self {
        Self {
            check,
            ok: Some(false),
            detail: detail.into(),
            next: Some(next.into()),
        }
    }

    fn open(check: &'static str, detail: impl Into<String>) -> Self {
        Self {
            check,
            ok: None,
            detail: detail.into(),
            next: None,
        }
    }

    fn of(check: &'static str, error: &CliError) -> Self {
        let mut detail = error.title.clone();
        for line in &error.detail {
            detail = format!("{detail}; {line}");
        }
        Self {
            check,
            ok: Some(false),
            detail,
            next: error.hint.clone(),
        }
    }

    fn value(&self) -> Value {
        json!({"check": self.check, "ok": self.ok, "detail": self.detail, "next": self.next})
    }
}

/// `muster doctor`.
pub(in crate::cli) async fn doctor(global: &Global, out: Output) -> Result<(), CliError> {
    let folder = state::folder(global);
    let mut findings = vec![state_folder(&folder), token(global), listeners(&folder)];
    findings.extend(server(global).await);
    findings.push(round_trip(&folder).await);
    findings.push(clock());
    let bad = findings
        .iter()
        .filter(|finding| finding.ok == Some(false))
        .count();
    out.list(
        COLUMNS,
        &findings.iter().map(Finding::value).collect::<Vec<_>>(),
    )?;
    if bad == 0 {
        return Ok(());
    }
    let next = findings
        .iter()
        .find(|f| f.ok == Some(false))
        .and_then(|f| f.next.clone());
    let mut error = CliError::failed(
        Code::DOCTOR_FOUND,
        if bad == 1 {
            "one thing is wrong".to_owned()
        } else {
            format!("{bad} things are wrong")
        },
    );
    error.hint = next;
    Err(error)
}

fn state_folder(folder: &Path) -> Finding {
    let check = "state folder";
    let shown = folder.display();
    match std::fs::metadata(folder) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Finding::open(
            check,
            format!("{shown} does not exist yet; a first start makes it"),
        ),
        Err(e) => Finding::bad(check, format!("{shown}: {e}"), "name another with --state"),
        Ok(meta) if !meta.is_dir() => Finding::bad(
            check,
            format!("{shown} is no folder"),
            "name another with --state",
        ),
        Ok(meta) if meta.permissions().mode() & 0o077 != 0 => Finding::bad(
            check,
            format!(
                "{shown} can be entered by others (mode {:o})",
                meta.permissions().mode() & 0o777
            ),
            format!("chmod 700 {shown}"),
        ),
        Ok(_) => Finding::good(check, shown.to_string()),
    }
}

fn token(global: &Global) -> Finding {
    match state::token(global) {
        Ok(_) => Finding::good("admin token", "found"),
        Err(error) => Finding::of("admin token", &error),
    }
}

fn listeners(folder: &Path) -> Finding {
    let bound = match state::addresses(folder) {
        Ok(bound) => bound,
        Err(error) => return Finding::of("listeners", &error),
    };
    let named: Vec<String> = [
        ("http", bound.http),
        ("https", bound.https),
        ("teeth", bound.teeth),
        ("teeths", bound.teeths),
        ("zabbix", bound.zabbix),
    ]
    .into_iter()
    .filter_map(|(name, address)| address.map(|address| format!("{name} {address}")))
    .collect();
    if bound.pid != 0 && !Path::new("/proc").join(bound.pid.to_string()).exists() {
        return Finding::bad(
            "listeners",
            format!("process {} wrote addresses.json and is gone", bound.pid),
            "start the server again",
        );
    }
    Finding::good("listeners", named.join(", "))
}

async fn server(global: &Global) -> Vec<Finding> {
    let client = match Client::find(global) {
        Ok(client) => client,
        Err(error) => return vec![Finding::of("server", &error)],
    };
    let status = match client.get("status", &[]).await {
        Ok(status) => status,
        Err(error) => return vec![Finding::of("server", &error)],
    };
    let theirs = status
        .get("version")
        .and_then(Value::as_str)
        .unwrap_or("unknown")
        .to_owned();
    let ours = env!("CARGO_PKG_VERSION");
    let mut findings = vec![Finding::good(
        "server",
        format!("answers at {}, version {theirs}", client.base()),
    )];
    if theirs != ours {
        findings.push(Finding::bad(
            "versions",
            format!("the server is {theirs}, this is {ours}"),
            "use the same build for both",
        ));
    }
    let pending = status
        .pointer("/agents/pending")
        .and_then(Value::as_u64)
        .unwrap_or(0);
    findings.push(if pending == 0 {
        Finding::good("agents", "none is waiting for approval")
    } else {
        Finding::bad(
            "agents",
            format!("{pending} waiting for approval"),
            "`muster agent list`, then `muster agent approve NAME`",
        )
    });
    findings
}

/// Whether a round trip may be measured here at all.
async fn round_trip(folder: &Path) -> Finding {
    let check = "ICMP";
    let Some(tool) = registry().find("rtt") else {
        return Finding::open(check, "this build measures no round trips");
    };
    let mut seed = [0; 32];
    Entropy::system().rng().fill_bytes(&mut seed);
    let context = Context::operator(Clock::system(), seed, folder.join("agent"));
    let spec = json!({"schema": 1, "dest": "127.0.0.1", "count": 1});
    match tool.run(context, spec).await {
        Ok(_) => Finding::good(check, "round trips can be measured"),
        Err(failure) => Finding {
            check,
            ok: Some(false),
            detail: failure.reason,
            next: failure.remedy,
        },
    }
}

/// A clock far in the past makes certificates and schedules wrong.
fn clock() -> Finding {
    let now = Clock::system().now();
    // Certificates of this program cannot be older than the program.
    if now.as_second() < 1_767_225_600 {
        return Finding::bad("clock", format!("it is {now} here"), "set the clock");
    }
    Finding::good("clock", now.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_open_folder_is_found() {
        let folder = tempfile::tempdir().unwrap();
        for (mode, ok) in [(0o700, true), (0o750, false), (0o777, false)] {
            std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(state_folder(folder.path()).ok, Some(ok), "{mode:o}");
        }
        assert_eq!(state_folder(&folder.path().join("absent")).ok, None);
    }

    #[test]
    fn addresses_of_a_dead_process_are_found() {
        let folder = tempfile::tempdir().unwrap();
        for (pid, ok) in [(std::process::id(), true), (u32::MAX, false)] {
            std::fs::write(
                folder.path().join(state::ADDRESSES),
                format!(r#"{{"pid":{pid},"http":"127.0.0.1:1"}}"#),
            )
            .unwrap();
            assert_eq!(listeners(folder.path()).ok, Some(ok));
        }
    }
}
