//! `muster bench zabbix`: values that proxies upload, acknowledged and durable, a second.
//!
//! Each proxy is one task that uploads one request a connection, as a real proxy does, and repeats
//! it until it is answered `success`. Only acknowledged values count. The generator shares the
//! machine with the server; its own work is in the figure.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use clap::value_parser;
use muster_net::Protection;
use muster_net::clock::{Clock, Entropy};
use muster_net::dial::{Endpoint, dial};
use muster_net::drive::{DriveLimits, OnEvent, drive};
use muster_proto::zabbix::Limits;
use muster_proto::zabbix::agent::ask::Asker;
use muster_proto::zabbix::agent::{ConfigReply, Event, Form, Reply, Session};
use muster_proto::zabbix::wire::{Payload, Upload};
use rand_core::Rng as _;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::{Latencies, round};
use crate::cli::args::Global;
use crate::cli::client::Client;
use crate::cli::error::{CliError, Code, Exit};
use crate::cli::output::Output;
use crate::cli::parse::Period;
use crate::cli::state;

/// Options of the load.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Args {
    /// Proxies that upload at the same time
    #[arg(long, value_name = "N", default_value_t = 4,
          value_parser = value_parser!(u32).range(1..=1_000))]
    pub(crate) proxies: u32,
    /// Values in one request
    #[arg(long, value_name = "N", default_value_t = 1_000,
          value_parser = value_parser!(u32).range(1..=100_000))]
    pub(crate) batch: u32,
    /// Items each proxy has; made when they are not there
    #[arg(long, value_name = "N", default_value_t = 100,
          value_parser = value_parser!(u32).range(1..=10_000))]
    pub(crate) items: u32,
    /// How long
    #[arg(long, value_name = "DUR", default_value = "10s")]
    pub(crate) duration: Period,
    /// Upload uncompressed; real proxies compress
    #[arg(long)]
    pub(crate) plain: bool,
    /// HOST:PORT of a server whose proxies NAME1, NAME2, … have trapper items already; the server of
    /// the state folder, where they are made, if not given
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) server: Option<String>,
    /// What the names of the proxies begin with
    #[arg(long, value_name = "NAME", default_value = "muster-bench-px-")]
    pub(crate) name: String,
}

/// A real proxy waits so long after a refusal.
const REFUSED_PAUSE: Duration = Duration::from_secs(1);
/// How long one exchange may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// The version whose dialect is spoken.
const DIALECT: &str = "6.0.14";

/// Runs the load and prints the figures.
pub(crate) async fn run(global: &Global, out: Output, args: Args) -> Result<(), CliError> {
    let address = match &args.server {
        Some(server) => server.clone(),
        None => state::addresses(&state::folder(global))?
            .zabbix
            .ok_or_else(|| {
                CliError::new(
                    Exit::Unreachable,
                    Code::NO_SERVER,
                    "the server here has no Zabbix listener",
                )
            })?,
    };
    let endpoint: Endpoint = address
        .parse()
        .map_err(|error| CliError::usage(format!("{address} is no HOST:PORT")).cause(&error))?;
    let clock = Clock::system();
    let wire = Wire {
        endpoint,
        clock: clock.clone(),
        limits: Limits::default(),
    };
    if args.server.is_none() {
        declare(global, out, &wire, &args).await?;
    }
    let entropy = Entropy::system();
    let mut proxies = Vec::new();
    for n in 1..=args.proxies {
        let name = format!("{}{n}", args.name);
        let items = wire
            .items(&name)
            .await
            .map_err(|error| failed(format!("proxy {name:?} got no configuration")).line(error))?;
        let mut session = [0; 16];
        entropy.rng().fill_bytes(&mut session);
        let session = session.iter().fold(String::new(), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        });
        proxies.push(Proxy {
            name,
            session,
            items,
            next: 1,
        });
    }
    let started = clock.instant();
    let deadline = started + args.duration.std();
    let workers = proxies.into_iter().map(|proxy| {
        let (wire, args) = (wire.clone(), args.clone());
        tokio::spawn(async move { proxy.upload(&wire, &args, deadline).await })
    });
    let workers: Vec<_> = workers.collect();
    let mut all = Tally::default();
    for worker in workers {
        let tally = worker.await.map_err(|error| {
            CliError::failed(Code::INTERNAL, "a proxy ended early").cause(&error)
        })?;
        all.merge(tally);
    }
    let seconds = (clock.instant() - started).as_secs_f64();
    let requests = all.latencies.len();
    out.object(&json!({
        "acknowledged": all.acknowledged,
        "values_per_second": round(all.acknowledged as f64 / seconds),
        "seconds": round(seconds),
        "requests": requests,
        "request_p50_ms": all.latencies.percentile_ms(50),
        "request_p99_ms": all.latencies.percentile_ms(99),
        "refused": all.refused,
        "failed": all.failed,
        "proxies": args.proxies,
        "batch": args.batch,
    }))?;
    match all.error {
        Some(error) if all.acknowledged == 0 => {
            Err(failed("no value was acknowledged".to_owned()).line(error))
        }
        Some(_) | None => Ok(()),
    }
}

fn failed(title: String) -> CliError {
    CliError::failed(Code::BENCH_FAILED, title)
}

/// Enrols the proxies and declares a host with items for each, where they are not there.
async fn declare(global: &Global, out: Output, wire: &Wire, args: &Args) -> Result<(), CliError> {
    let client = Client::find(global)?;
    for n in 1..=args.proxies {
        let name = format!("{}{n}", args.name);
        let beat = Asker {
            host: &name,
            version: DIALECT,
            muster: None,
        }
        .heartbeat();
        let said = wire.ask(&beat, Form::PROXY).await.map_err(|error| {
            failed(format!("proxy {name:?} cannot reach the server")).line(error)
        })?;
        if !Reply::decode(&said).is_ok_and(|reply| reply.success) {
            client
                .post(&format!("agents/{name}/approve"), &json!({}))
                .await?;
        }
        if wire
            .items(&name)
            .await
            .is_ok_and(|items| items.len() >= args.items as usize)
        {
            continue;
        }
        out.say(&format!("declaring {} items for {name}", args.items));
        let host = format!("{name}-host");
        let hosts = client.list("hosts", &[]).await?;
        if !hosts
            .iter()
            .any(|known| known.get("name").and_then(Value::as_str) == Some(&host))
        {
            let new = json!({"name": host, "proxy": name, "address": "127.0.0.1"});
            client.post("hosts", &new).await?;
        }
        let known = client.list("items", &[("host", host.as_str())]).await?;
        for item in known.len()..args.items as usize {
            let new = json!({
                "host": host, "key": format!("t[{item}]"), "type": "trapper", "value_type": "float",
            });
            client.post("items", &new).await?;
        }
    }
    Ok(())
}

/// The way to the server.
#[derive(Clone)]
struct Wire {
    endpoint: Endpoint,
    clock: Clock,
    limits: Limits,
}

impl Wire {
    async fn ask(&self, text: &str, form: Form) -> Result<Payload, String> {
        let clock = &self.clock;
        let stream = dial(&self.endpoint, &Protection::Plain, PATIENCE, clock)
            .await
            .map_err(|error| error.to_string())?;
        let mut session = Session::new(
            text.as_bytes(),
            form,
            &self.limits,
            PATIENCE,
            clock.instant(),
        )
        .map_err(|error| error.to_string())?;
        let mut outcome = Err("the connection gave no reply".to_owned());
        let mut handler = OnEvent(|_: &mut Session, event, _| {
            outcome = match event {
                Event::Reply(packet) => Ok(packet),
                Event::Closed(reason) => Err(reason.to_string()),
            };
        });
        let driving = DriveLimits {
            output_max: usize::MAX,
            ..DriveLimits::default()
        };
        let never = CancellationToken::new();
        let end = drive(stream, &mut session, &mut handler, clock, &driving, &never).await;
        if let (Err(_), Err(error)) = (&outcome, end) {
            return Err(error.to_string());
        }
        let packet = outcome?;
        Payload::open(packet, &self.limits, &self.limits.known).map_err(|error| error.to_string())
    }

    /// The numbers of a proxy's items.
    async fn items(&self, name: &str) -> Result<Vec<u64>, String> {
        let ask = Asker {
            host: name,
            version: DIALECT,
            muster: None,
        }
        .config();
        let payload = self.ask(&ask, Form::PROXY_CONFIG).await?;
        match ConfigReply::decode(&payload).map_err(|error| error.to_string())? {
            ConfigReply::Refused(info) => Err(info),
            ConfigReply::Tables(tables) if tables.items.is_empty() => {
                Err("it has no items".to_owned())
            }
            ConfigReply::Tables(tables) => {
                Ok(tables.items.iter().map(|item| item.itemid).collect())
            }
        }
    }
}

/// One proxy of the load.
struct Proxy {
    name: String,
    session: String,
    items: Vec<u64>,
    next: u64,
}

impl Proxy {
    async fn upload(mut self, wire: &Wire, args: &Args, deadline: Instant) -> Tally {
        let form = if args.plain { Form::PLAIN } else { Form::PROXY };
        let mut tally = Tally::default();
        let mut text = String::new();
        while wire.clock.instant() < deadline {
            self.write(&mut text, args.batch, &wire.clock);
            while wire.clock.instant() < deadline {
                let before = wire.clock.instant();
                match wire.ask(&text, form).await {
                    Ok(payload) => {
                        tally.latencies.add(wire.clock.instant() - before);
                        let reply = Reply::decode(&payload);
                        if reply.is_ok_and(|r| r.success && r.upload == Upload::Enabled) {
                            tally.acknowledged += u64::from(args.batch);
                            break;
                        }
                        tally.refused += 1;
                        wire.clock.sleep(REFUSED_PAUSE).await;
                    }
                    Err(error) => {
                        tally.failed += 1;
                        tally.error = Some(error);
                        wire.clock.sleep(REFUSED_PAUSE).await;
                    }
                }
            }
        }
        tally
    }

    /// The next request; its ids go on.
    fn write(&mut self, text: &mut String, batch: u32, clock: &Clock) {
        let now = clock.now().as_second();
        text.clear();
        // Writing to a string cannot fail.
        let _ = write!(
            text,
            "{{\"request\":\"proxy data\",\"host\":\"{}\",\"session\":\"{}\",\"history data\":[",
            self.name, self.session
        );
        for n in 0..batch {
            let id = self.next;
            self.next += 1;
            let item = self
                .items
                .get((id % self.items.len().max(1) as u64) as usize)
                .unwrap_or(&0);
            let comma = if n == 0 { "" } else { "," };
            let value = id % 10_000;
            let _ = write!(
                text,
                "{comma}{{\"id\":{id},\"itemid\":{item},\"clock\":{now},\"ns\":{},\"value\":\"{}.{}\"}}",
                id % 1_000_000_000,
                value / 10,
                value % 10,
            );
        }
        let _ = write!(
            text,
            "],\"version\":\"{DIALECT}\",\"clock\":{now},\"ns\":0}}"
        );
    }
}

#[derive(Default)]
struct Tally {
    acknowledged: u64,
    refused: u64,
    failed: u64,
    error: Option<String>,
    latencies: Latencies,
}

impl Tally {
    fn merge(&mut self, other: Self) {
        self.acknowledged += other.acknowledged;
        self.refused += other.refused;
        self.failed += other.failed;
        self.error = self.error.take().or(other.error);
        self.latencies.merge(other.latencies);
    }
}
