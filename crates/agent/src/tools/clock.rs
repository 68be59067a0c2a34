//! How far apart two clocks are: the test `clock`.
//!
//! Spec and result are those of pScheduler's test of that name (pScheduler contract, section 14).
//! The far clock is asked over the REST interface of that node; the near one is this machine's own
//! unless `source` names another node. Half of what the exchange took is counted to each way.
//!
//! Nodes show self-signed certificates by custom: which one a node showed first is remembered, and
//! another one is refused until a person removes the line (threat model, section 2). The policy
//! judges the address that is connected to.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures_util::future::BoxFuture;
use muster_net::dial::{Endpoint, Protection, dial};
use muster_net::sntp::local_time_server;
use muster_net::tls::{Fingerprint, Trust};
use muster_proto::pscheduler::agent::{Call, answer_clock};
use muster_proto::pscheduler::controller::{ClockSource, clock as clock_json};
use muster_proto::pscheduler::time::{IsoDuration, Stamp};
use muster_proto::pscheduler::wire::Limits;
use serde_json::{Value, json};

use super::names::resolve;
use super::spec::Members;
use super::{Context, Failure, Outcome, SpecError, Tool};
use crate::policy::ActionClass;

/// The port of a node that names none.
const PORT: u16 = 443;
/// The longest wait for a clock.
const TIMEOUT_MAX: Duration = Duration::from_secs(60);
/// Largest answer: a clock is a few hundred bytes.
const ANSWER_MAX: usize = 64 * 1024;
/// Nodes remembered: far above what one agent is pointed at.
const PINS_MAX: usize = 10_000;

/// The tool.
#[derive(Clone, Copy, Debug, Default)]
pub struct Clocks;

#[derive(Clone, Debug, PartialEq)]
struct Spec {
    dest: Endpoint,
    source: Option<Endpoint>,
    timeout: Duration,
}

impl Spec {
    fn parse(spec: &Value) -> Result<Self, SpecError> {
        let m = Members::of(spec, "")?;
        let node = |name: &str| match m.text(name)? {
            None => Ok(None),
            Some(text) => endpoint(text)
                .map(Some)
                .ok_or_else(|| m.wrong(name, "is no host with an optional port")),
        };
        let timeout = m.duration("timeout")?.unwrap_or(Duration::from_secs(5));
        if timeout > TIMEOUT_MAX || timeout.is_zero() {
            return Err(m.wrong("timeout", "is not within 0 to 60 seconds"));
        }
        Ok(Self {
            dest: node("dest")?.ok_or_else(|| m.wrong("dest", "is required"))?,
            source: node("source")?,
            timeout,
        })
    }
}

/// `host`, `host:port`, `[v6]`, `[v6]:port`, or an address.
fn endpoint(text: &str) -> Option<Endpoint> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Some(Endpoint {
            host: address.to_string(),
            port: PORT,
        });
    }
    let with_port = text.ends_with(']') || !text.contains(':');
    let text = if with_port {
        format!("{text}:{PORT}")
    } else {
        text.to_owned()
    };
    let endpoint: Endpoint = text.parse().ok()?;
    let plain =
        endpoint.host.parse::<IpAddr>().is_ok() || muster_core::range::is_host_name(&endpoint.host);
    plain.then_some(endpoint)
}

impl Tool for Clocks {
    fn kind(&self) -> &'static str {
        "clock"
    }

    fn class(&self, _: &Value) -> ActionClass {
        ActionClass::Measure
    }

    fn check(&self, spec: &Value) -> Result<(), SpecError> {
        Spec::parse(spec).map(drop)
    }

    fn target_member(&self) -> &'static str {
        "dest"
    }

    fn run<'a>(&'a self, ctx: Context, spec: Value) -> BoxFuture<'a, Outcome> {
        Box::pin(async move {
            let spec = Spec::parse(&spec).map_err(|error| Failure::failed(error.to_string()))?;
            let work = compare(&ctx, &spec);
            tokio::select! {
                result = work => result,
                () = ctx.cancel.cancelled() => Err(Failure::cancelled()),
            }
        })
    }
}

/// A clock as it was told, and how far it is ahead of this machine's, in microseconds.
struct Reading {
    told: Value,
    ahead: i64,
}

async fn compare(ctx: &Context, spec: &Spec) -> Outcome {
    let near = async {
        match &spec.source {
            Some(node) => ask(ctx, node, spec.timeout).await,
            None => Ok(own(ctx).await),
        }
    };
    let (local, remote) = tokio::join!(near, ask(ctx, &spec.dest, spec.timeout));
    let (local, remote) = (local?, remote?);
    let difference = IsoDuration::from_micros(local.ahead.abs_diff(remote.ahead));
    Ok(json!({
        "schema": 1,
        "succeeded": true,
        "local": local.told,
        "remote": remote.told,
        "difference": difference.to_string()
    }))
}

fn micros_now(ctx: &Context) -> i64 {
    ctx.clock.now().as_microsecond()
}

async fn own(ctx: &Context) -> Reading {
    let source = local_time_server(&ctx.clock)
        .await
        .map(|server| ClockSource {
            source: "ntp".to_owned(),
            reference: server.reference,
            offset_secs: server.offset_secs,
        });
    let now = Stamp::from_micros(micros_now(ctx));
    Reading {
        told: clock_json(now, source.as_ref()),
        ahead: 0,
    }
}

async fn ask(ctx: &Context, node: &Endpoint, timeout: Duration) -> Result<Reading, Failure> {
    let silent = || {
        Failure::failed(format!(
            "{node} told no time within {} s",
            timeout.as_secs_f64()
        ))
    };
    tokio::select! {
        reading = ask_within(ctx, node, timeout) => reading,
        () = ctx.clock.sleep(timeout) => Err(silent()),
    }
}

async fn ask_within(ctx: &Context, node: &Endpoint, timeout: Duration) -> Result<Reading, Failure> {
    let address = resolve(&node.host, None).await?;
    if !ctx.permit.allows(address) {
        return Err(Failure::denied(format!(
            "{address} is outside the networks that the local policy lists for measure"
        )));
    }
    let seen = Arc::new(OnceLock::new());
    let protection = Protection::Tls(Trust::Noted(Arc::clone(&seen)));
    let door = Endpoint {
        host: address.to_string(),
        port: node.port,
    };
    let stream = dial(&door, &protection, timeout, &ctx.clock)
        .await
        .map_err(|error| Failure::failed(format!("asking {node}: {}", chain(&error))))?;
    if let Some(fingerprint) = seen.get() {
        let (folder, name, found) = (ctx.state.clone(), node.to_string(), *fingerprint);
        let known = tokio::task::spawn_blocking(move || Pins::open(&folder).check(&name, found));
        known.await.map_err(|_| Failure::cancelled())??;
    }
    let request = Call::Clock.request(&node.to_string());
    let sent = (ctx.clock.instant(), micros_now(ctx));
    let answer = muster_net::http::call(stream, request, ANSWER_MAX)
        .await
        .map_err(|error| Failure::failed(format!("asking {node}: {}", chain(&error))))?;
    let took = ctx.clock.instant() - sent.0;
    let (time, told) = answer_clock(&answer, &Limits::default())
        .map_err(|error| Failure::failed(format!("{node} answered {error}")))?;
    let half = i64::try_from(took.as_micros() / 2).unwrap_or(i64::MAX);
    Ok(Reading {
        told,
        ahead: time.micros().saturating_sub(sent.1.saturating_add(half)),
    })
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

/// The certificates that nodes showed first, in `pscheduler-pins.json` of the agent's state.
struct Pins {
    path: PathBuf,
}

impl Pins {
    fn open(state: &Path) -> Self {
        Self {
            path: state.join("pscheduler-pins.json"),
        }
    }

    fn check(&self, node: &str, found: Fingerprint) -> Result<(), Failure> {
        let mut pins: BTreeMap<String, String> = match std::fs::read(&self.path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|_| {
                Failure::failed(format!(
                    "{} is no list of certificates",
                    self.path.display()
                ))
                .with_remedy("move the file away; nodes are then met as for the first time")
            })?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => BTreeMap::new(),
            Err(error) => {
                return Err(Failure::failed(format!("{}: {error}", self.path.display())));
            }
        };
        let found = found.to_string();
        match pins.get(node) {
            Some(known) if *known == found => Ok(()),
            Some(_) => Err(Failure::failed(format!(
                "{node} shows another certificate than it did first"
            ))
            .with_remedy(format!(
                "if it was renewed, remove {node} from {}",
                self.path.display()
            ))),
            None if pins.len() >= PINS_MAX => Err(Failure::failed(format!(
                "{} holds too many nodes",
                self.path.display()
            ))),
            None => {
                pins.insert(node.to_owned(), found);
                self.write(&pins)
                    .map_err(|error| Failure::failed(format!("{}: {error}", self.path.display())))
            }
        }
    }

    fn write(&self, pins: &BTreeMap<String, String>) -> std::io::Result<()> {
        if let Some(folder) = self.path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        let new = self.path.with_extension("json.new");
        std::fs::write(&new, serde_json::to_vec_pretty(pins)?)?;
        std::fs::File::open(&new)?.sync_all()?;
        std::fs::rename(&new, &self.path)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use muster_net::clock::Clock;

    #[test]
    fn nodes_are_hosts_with_an_optional_port() {
        for (text, host, port) in [
            ("ps1.example.net", "ps1.example.net", 443),
            ("ps1.example.net:8443", "ps1.example.net", 8443),
            ("127.0.0.1:8443", "127.0.0.1", 8443),
            ("::1", "::1", 443),
            ("[::1]", "::1", 443),
            ("[::1]:8443", "::1", 8443),
        ] {
            let host = host.to_owned();
            assert_eq!(endpoint(text), Some(Endpoint { host, port }), "{text}");
        }
        for bad in [
            "", "-x", "a b", "a:b", "a:70000", "http://a", "[x]:1", "a/b",
        ] {
            assert_eq!(endpoint(bad), None, "{bad}");
        }
    }

    #[test]
    fn specs_it_cannot_work_with() {
        for (spec, path) in [
            (json!({}), "/dest"),
            (json!({"dest": "-x"}), "/dest"),
            (json!({"dest": "a", "source": "b c"}), "/source"),
            (json!({"dest": "a", "timeout": "PT2M"}), "/timeout"),
            (json!({"dest": "a", "timeout": "PT0S"}), "/timeout"),
        ] {
            assert_eq!(Clocks.check(&spec).unwrap_err().path, path, "{spec}");
        }
    }

    #[test]
    fn another_certificate_than_the_first_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let (one, other): (Fingerprint, Fingerprint) = (
            "11".repeat(32).parse().unwrap(),
            "22".repeat(32).parse().unwrap(),
        );
        let check = |node: &str, found| Pins::open(dir.path()).check(node, found);
        assert_eq!(check("a:443", one), Ok(()));
        assert_eq!(check("a:443", one), Ok(()));
        assert_eq!(check("b:443", other), Ok(()));
        let refused = check("a:443", other).unwrap_err();
        assert!(refused.reason.contains("another certificate"), "{refused}");
        std::fs::write(dir.path().join("pscheduler-pins.json"), "x").unwrap();
        assert!(check("a:443", one).unwrap_err().remedy.is_some());
    }

    #[tokio::test]
    async fn addresses_outside_the_policy_are_not_dialled() {
        let dir = tempfile::tempdir().unwrap();
        let mut ctx = Context::operator(Clock::system(), [0; 32], dir.path().to_owned());
        ctx.permit = crate::policy::Permit::networks(vec!["10.0.0.0/8".parse().unwrap()]);
        let spec = json!({"dest": "127.0.0.1:1"});
        let failure = Clocks.run(ctx, spec).await.unwrap_err();
        assert_eq!(failure.cause, crate::tools::Cause::Denied);
    }

    #[tokio::test]
    async fn nobody_there_is_a_failure_that_says_so() {
        let dir = tempfile::tempdir().unwrap();
        let ctx = Context::operator(Clock::system(), [0; 32], dir.path().to_owned());
        let port = {
            let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            listener.local_addr().unwrap().port()
        };
        let spec = json!({"dest": format!("127.0.0.1:{port}"), "timeout": "PT2S"});
        let failure = Clocks.run(ctx, spec).await.unwrap_err();
        assert!(failure.reason.contains("connecting to"), "{failure}");
    }
}
