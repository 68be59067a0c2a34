//! Round-trip times by ICMP echo: the test `rtt`.
//!
//! Spec and result are those of pScheduler's test of that name (pScheduler contract, section 14);
//! defaults and refusals are those of its `ping` tool (section 15). One socket, a packet every
//! `interval`, each waited for on its own, so that a slow answer does not hold up the next packet.
//!
//! It does not set type of service, flow label or fragmentation: a spec that asks for them is
//! refused rather than answered with something else.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use jiff::SignedDuration;
use muster_core::time::format_duration;
use rand_core::Rng;
use serde_json::{Map, Value, json};
use socket2::Type;
use surge_ping::{Client, Config, ICMP, IcmpPacket, PingIdentifier, PingSequence, SurgeError};

use super::names::{self, Family};
use super::spec::Members;
use super::{Cause, Context, Failure, Outcome, SpecError, Tool};
use crate::policy::ActionClass;

/// Echo requests of one run: bounds the memory of a result.
const COUNT_MAX: i64 = 10_000;
/// Shortest interval: faster would be a flood.
const INTERVAL_MIN: Duration = Duration::from_millis(10);
/// Payload of a packet, in bytes: what fits into an IPv4 packet.
const LENGTH_MAX: i64 = 65_507;
/// Bytes of an ICMP header.
const HEADER_BYTES: usize = 8;

/// The tool.
#[derive(Clone, Copy, Debug, Default)]
pub struct Rtt;

/// A spec, read.
#[derive(Clone, Debug, PartialEq)]
struct Spec {
    dest: String,
    source: Option<IpAddr>,
    count: usize,
    interval: Duration,
    timeout: Duration,
    deadline: Option<Duration>,
    length: usize,
    ttl: Option<u32>,
    family: Option<Family>,
    hostnames: bool,
}

impl Spec {
    fn parse(spec: &Value) -> Result<Self, SpecError> {
        let m = Members::of(spec, "")?;
        if m.text("protocol")?
            .is_some_and(|protocol| protocol != "icmp")
        {
            return Err(m.wrong("protocol", "only icmp is supported"));
        }
        for name in ["port", "ip-tos", "flow-label", "fragment"] {
            if m.raw(name).is_some() {
                return Err(m.wrong(name, "is not supported by this tool"));
            }
        }
        let source = match m.host("source")? {
            None => None,
            Some(text) => Some(
                text.parse()
                    .map_err(|_| m.wrong("source", "is not an address of this machine"))?,
            ),
        };
        let interval = m.duration("interval")?.unwrap_or(Duration::from_secs(1));
        if interval < INTERVAL_MIN {
            return Err(m.wrong("interval", "is shorter than 10 ms"));
        }
        let family = m.integer("ip-version", 4..=6)?;
        let small = |name, range| {
            m.integer(name, range)
                .map(|number| number.and_then(|n| usize::try_from(n).ok()))
        };
        Ok(Self {
            dest: m
                .host("dest")?
                .ok_or_else(|| m.wrong("dest", "is required"))?
                .to_owned(),
            source,
            count: small("count", 1..=COUNT_MAX)?.unwrap_or(5),
            interval,
            timeout: m.duration("timeout")?.unwrap_or(Duration::from_secs(2)),
            deadline: m.duration("deadline")?,
            length: small("length", 0..=LENGTH_MAX)?.unwrap_or(56),
            ttl: small("ttl", 1..=255)?.and_then(|ttl| u32::try_from(ttl).ok()),
            family: match family {
                None => None,
                Some(4) => Some(Family::V4),
                Some(6) => Some(Family::V6),
                Some(_) => return Err(m.wrong("ip-version", "is neither 4 nor 6")),
            },
            hostnames: m.boolean("hostnames")?.unwrap_or(true),
        })
    }
}

impl Tool for Rtt {
    fn kind(&self) -> &'static str {
        "rtt"
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
            let schema = spec.get("schema").cloned().unwrap_or(json!(1));
            let spec = Spec::parse(&spec).map_err(|error| Failure::failed(error.to_string()))?;
            measure(&ctx, &spec, schema).await
        })
    }
}

/// One packet and what became of it.
#[derive(Clone, Debug, PartialEq)]
struct RoundTrip {
    seq: usize,
    sent: Duration,
    end: End,
}

#[derive(Clone, Debug, PartialEq)]
enum End {
    Answered {
        from: IpAddr,
        length: usize,
        ttl: Option<u32>,
        rtt: Duration,
    },
    Refused {
        from: IpAddr,
        error: &'static str,
    },
    Silent,
}

async fn measure(ctx: &Context, spec: &Spec, schema: Value) -> Outcome {
    let dest = names::resolve(&spec.dest, spec.family).await?;
    if !ctx.permit.allows(dest) {
        return Err(Failure::denied(format!(
            "{dest} is outside the networks that the local policy lists for measure"
        )));
    }
    let client = open(spec, dest)?;
    let ident = PingIdentifier((ctx.rng().next_u32() & 0xffff) as u16);
    let payload = vec![0; spec.length];
    let begin = ctx.clock.instant();
    let mut flying = FuturesUnordered::new();
    for seq in 1..=spec.count {
        let mut pinger = client.pinger(dest, ident).await;
        pinger.timeout(spec.timeout);
        let (clock, payload) = (&ctx.clock, &payload);
        let due = spec
            .interval
            .saturating_mul(u32::try_from(seq - 1).unwrap_or(u32::MAX));
        flying.push(async move {
            clock.sleep_until(begin + due).await;
            let sent = clock.instant().saturating_duration_since(begin);
            let answer = pinger
                .ping(PingSequence((seq & 0xffff) as u16), payload)
                .await;
            (seq, sent, answer)
        });
    }
    let mut trips: Vec<RoundTrip> = Vec::with_capacity(spec.count);
    let deadline = async {
        match spec.deadline {
            Some(deadline) => ctx.clock.sleep_until(begin + deadline).await,
            None => std::future::pending().await,
        }
    };
    tokio::pin!(deadline);
    loop {
        tokio::select! {
            next = flying.next() => {
                let Some((seq, sent, answer)) = next else { break };
                let end = end_of(answer).map_err(|error| refusal(&error, dest))?;
                trips.push(RoundTrip { seq, sent, end });
                let percent = 100.0 * trips.len() as f64 / spec.count as f64;
                let left = spec.interval.saturating_mul(
                    u32::try_from(spec.count - trips.len()).unwrap_or(u32::MAX));
                ctx.report.progress(percent, Some(left));
            }
            () = &mut deadline => break,
            () = ctx.cancel.cancelled() => {
                return Err(Failure::cancelled());
            }
        }
    }
    drop(flying);
    if let Some(deadline) = spec.deadline {
        // What was on its way when the deadline struck is lost; what was not sent is not.
        let answered = trips
            .iter()
            .map(|trip| trip.seq)
            .collect::<std::collections::BTreeSet<_>>();
        let silent = (1..=spec.count)
            .filter(|seq| !answered.contains(seq))
            .map(|seq| {
                let sent = spec
                    .interval
                    .saturating_mul(u32::try_from(seq - 1).unwrap_or(u32::MAX));
                RoundTrip {
                    seq,
                    sent,
                    end: End::Silent,
                }
            });
        trips.extend(silent.filter(|trip| trip.sent < deadline));
    }
    let root = ctx.root.clone();
    let hosts = if spec.hostnames {
        tokio::task::spawn_blocking(move || names::hosts_file(&root))
            .await
            .unwrap_or_default()
    } else {
        Default::default()
    };
    let name_of = |address: IpAddr| {
        if !spec.hostnames {
            return None;
        }
        let asked =
            (address == dest && spec.dest.parse::<IpAddr>().is_err()).then(|| spec.dest.clone());
        asked.or_else(|| hosts.get(&address).cloned())
    };
    Ok(report(trips, schema, name_of))
}

fn open(spec: &Spec, dest: IpAddr) -> Result<Client, Failure> {
    let kind = if dest.is_ipv4() { ICMP::V4 } else { ICMP::V6 };
    // A raw socket tells the time to live of answers; without the privilege the crate falls back
    // to the kernel's own echo sockets.
    let mut config = Config::builder().kind(kind).sock_type_hint(Type::RAW);
    if let Some(ttl) = spec.ttl {
        config = config.ttl(ttl);
    }
    if let Some(source) = spec.source {
        if source.is_ipv4() != dest.is_ipv4() {
            return Err(Failure::failed(format!("{source} cannot send to {dest}")));
        }
        config = config.bind(SocketAddr::new(source, 0));
    }
    Client::new(&config.build()).map_err(|error| {
        not_permitted(&error)
            .unwrap_or_else(|| Failure::failed(format!("cannot open an ICMP socket: {error}")))
    })
}

/// The failure of a process that may not send echo requests, with the way out.
#[must_use]
pub fn not_permitted(error: &io::Error) -> Option<Failure> {
    if error.kind() != io::ErrorKind::PermissionDenied {
        return None;
    }
    let remedy = "let ordinary users ping: sysctl -w net.ipv4.ping_group_range=\"0 2147483647\"; \
        or give the program the capability: setcap cap_net_raw+ep PATH (CAP_NET_RAW)";
    let failure = Failure::new(
        Cause::Permission,
        "ICMP echo is not permitted to this process",
    );
    Some(failure.with_remedy(remedy))
}

fn refusal(error: &SurgeError, dest: IpAddr) -> Failure {
    match error {
        SurgeError::IOError(source) => not_permitted(source)
            .unwrap_or_else(|| Failure::failed(format!("cannot send to {dest}: {source}"))),
        SurgeError::ClientDestroyed
        | SurgeError::EchoRequestPacket
        | SurgeError::IdenticalRequests { .. }
        | SurgeError::IncorrectBufferSize
        | SurgeError::MalformedPacket(_)
        | SurgeError::NetworkError
        | SurgeError::Timeout { .. } => Failure::failed(format!("measuring {dest}: {error}")),
    }
}

fn end_of(answer: Result<(IcmpPacket, Duration), SurgeError>) -> Result<End, SurgeError> {
    let (packet, rtt) = match answer {
        Ok(answer) => answer,
        Err(SurgeError::Timeout { .. }) => return Ok(End::Silent),
        Err(SurgeError::IOError(error)) => {
            return match unreachable(&error) {
                Some(word) => Ok(End::Refused {
                    from: IpAddr::from([0, 0, 0, 0]),
                    error: word,
                }),
                None => Err(SurgeError::IOError(error)),
            };
        }
        Err(other) => return Err(other),
    };
    Ok(match packet {
        IcmpPacket::V4(packet) => {
            let from = IpAddr::V4(packet.get_source());
            match (packet.get_icmp_type().0, packet.get_icmp_code().0) {
                (0, _) => End::Answered {
                    from,
                    length: packet.get_size(),
                    ttl: packet.get_ttl().map(u32::from),
                    rtt,
                },
                (3, code) => match UNREACHABLE_V4.get(usize::from(code)) {
                    Some(error) => End::Refused { from, error },
                    None => End::Silent,
                },
                _ => End::Silent,
            }
        }
        IcmpPacket::V6(packet) => {
            let from = IpAddr::V6(packet.get_source());
            match (packet.get_icmpv6_type().0, packet.get_icmpv6_code().0) {
                (129, _) => End::Answered {
                    from,
                    length: packet.get_size(),
                    ttl: Some(u32::from(packet.get_max_hop_limit())).filter(|ttl| *ttl > 0),
                    rtt,
                },
                (1, 0) => End::Refused {
                    from,
                    error: "net-unreachable",
                },
                (1, 1) => End::Refused {
                    from,
                    error: "communication-administratively-prohibited",
                },
                (1, 3) => End::Refused {
                    from,
                    error: "host-unreachable",
                },
                (1, 4) => End::Refused {
                    from,
                    error: "port-unreachable",
                },
                _ => End::Silent,
            }
        }
    })
}

/// What the kernel says at once when there is no way to a host, in the words of the contract.
fn unreachable(error: &io::Error) -> Option<&'static str> {
    let kind = error.kind();
    if kind == io::ErrorKind::HostUnreachable {
        Some("host-unreachable")
    } else if kind == io::ErrorKind::NetworkUnreachable {
        Some("net-unreachable")
    } else {
        None
    }
}

/// `icmp-error` of the pScheduler contract, section 13, by code of an ICMPv4 unreachable message.
const UNREACHABLE_V4: [&str; 16] = [
    "net-unreachable",
    "host-unreachable",
    "protocol-unreachable",
    "port-unreachable",
    "fragmentation-needed-and-df-set",
    "source-route-failed",
    "destination-network-unknown",
    "destination-host-unknown",
    "source-host-isolated",
    "destination-network-administratively-prohibited",
    "destination-host-administratively-prohibited",
    "network-unreachable-for-type-of-service",
    "icmp-destination-host-unreachable-tos",
    "communication-administratively-prohibited",
    "host-precedence-violation",
    "precedence-cutoff-in-effect",
];

/// The result, in the shape of pScheduler's `rtt`.
fn report(
    mut trips: Vec<RoundTrip>,
    schema: Value,
    name_of: impl Fn(IpAddr) -> Option<String>,
) -> Value {
    let iso = |time: Duration| {
        format_duration(SignedDuration::try_from(time).unwrap_or(SignedDuration::MAX))
    };
    let reorders = reorders(&trips);
    trips.sort_by_key(|trip| trip.seq);
    let times = trips
        .iter()
        .filter_map(|trip| match &trip.end {
            End::Answered { rtt, .. } => Some(*rtt),
            End::Refused { .. } | End::Silent => None,
        })
        .collect::<Vec<_>>();
    let rows = trips.iter().map(|trip| {
        let mut row = Map::new();
        row.insert("seq".to_owned(), json!(trip.seq));
        let mut from = |address: IpAddr| {
            if !address.is_unspecified() {
                row.insert("ip".to_owned(), json!(address.to_string()));
                if let Some(name) = name_of(address) {
                    row.insert("hostname".to_owned(), json!(name));
                }
            }
        };
        match &trip.end {
            End::Answered {
                from: address,
                length,
                ttl,
                rtt,
            } => {
                from(*address);
                row.insert("length".to_owned(), json!(length.max(&HEADER_BYTES)));
                if let Some(ttl) = ttl {
                    row.insert("ttl".to_owned(), json!(ttl));
                }
                row.insert("rtt".to_owned(), json!(iso(*rtt)));
            }
            End::Refused {
                from: address,
                error,
            } => {
                from(*address);
                row.insert("error".to_owned(), json!(error));
            }
            End::Silent => {}
        }
        Value::Object(row)
    });
    let rows = rows.collect::<Vec<_>>();
    let (sent, received) = (trips.len(), times.len());
    let lost = sent - received;
    let loss = if sent == 0 {
        0.0
    } else {
        lost as f64 / sent as f64
    };
    let mut result = json!({
        "schema": schema,
        "succeeded": true,
        "roundtrips": rows,
        "sent": sent,
        "received": received,
        "lost": lost,
        "loss": loss,
        "duplicates": 0,
        "reorders": reorders,
    });
    if let (Some(members), Some(stats)) = (result.as_object_mut(), Stats::of(&times)) {
        members.insert("min".to_owned(), json!(iso(stats.min)));
        members.insert("max".to_owned(), json!(iso(stats.max)));
        members.insert("mean".to_owned(), json!(iso(stats.mean)));
        members.insert("stddev".to_owned(), json!(iso(stats.stddev)));
    }
    result
}

#[derive(Debug, PartialEq)]
struct Stats {
    min: Duration,
    max: Duration,
    mean: Duration,
    stddev: Duration,
}

impl Stats {
    fn of(times: &[Duration]) -> Option<Self> {
        let (min, max) = (times.iter().min()?, times.iter().max()?);
        let count = times.len() as f64;
        let mean = times.iter().map(Duration::as_secs_f64).sum::<f64>() / count;
        let square = |time: &Duration| (time.as_secs_f64() - mean).powi(2);
        let stddev = (times.iter().map(square).sum::<f64>() / count).sqrt();
        let seconds = |value: f64| Duration::try_from_secs_f64(value).unwrap_or(Duration::ZERO);
        Some(Self {
            min: *min,
            max: *max,
            mean: seconds(mean),
            stddev: seconds(stddev),
        })
    }
}

/// How many answers came after an answer to a later packet.
fn reorders(trips: &[RoundTrip]) -> usize {
    let mut arrivals = trips
        .iter()
        .filter_map(|trip| match trip.end {
            End::Answered { rtt, .. } => Some((trip.sent + rtt, trip.seq)),
            End::Refused { .. } | End::Silent => None,
        })
        .collect::<Vec<_>>();
    arrivals.sort();
    let mut newest = 0;
    let mut count = 0;
    for (_, seq) in arrivals {
        if seq < newest {
            count += 1;
        }
        newest = newest.max(seq);
    }
    count
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use crate::policy::Permit;
    use muster_net::clock::Clock;

    fn answered(seq: usize, sent_ms: u64, rtt_us: u64) -> RoundTrip {
        let end = End::Answered {
            from: [127, 0, 0, 1].into(),
            length: 64,
            ttl: Some(64),
            rtt: Duration::from_micros(rtt_us),
        };
        RoundTrip {
            seq,
            sent: Duration::from_millis(sent_ms),
            end,
        }
    }

    #[test]
    fn result_has_the_contracts_shape() {
        let trips = vec![
            answered(3, 400, 40),
            answered(1, 0, 48),
            RoundTrip {
                seq: 4,
                sent: Duration::from_millis(600),
                end: End::Silent,
            },
            answered(2, 200, 39),
        ];
        let result = report(trips, json!(2), |_| Some("localhost".to_owned()));
        assert_eq!(
            result,
            json!({
                "schema": 2, "succeeded": true,
                "roundtrips": [
                    {"seq": 1, "ip": "127.0.0.1", "hostname": "localhost", "length": 64, "ttl": 64,
                     "rtt": "PT0.000048S"},
                    {"seq": 2, "ip": "127.0.0.1", "hostname": "localhost", "length": 64, "ttl": 64,
                     "rtt": "PT0.000039S"},
                    {"seq": 3, "ip": "127.0.0.1", "hostname": "localhost", "length": 64, "ttl": 64,
                     "rtt": "PT0.00004S"},
                    {"seq": 4},
                ],
                "sent": 4, "received": 3, "lost": 1, "loss": 0.25, "duplicates": 0, "reorders": 0,
                "min": "PT0.000039S", "max": "PT0.000048S", "mean": "PT0.000042333S",
                "stddev": "PT0.000004028S",
            })
        );
    }

    #[test]
    fn nothing_received_has_no_times() {
        let error = End::Refused {
            from: [10, 0, 0, 1].into(),
            error: "host-unreachable",
        };
        let trips = vec![RoundTrip {
            seq: 1,
            sent: Duration::ZERO,
            end: error,
        }];
        let result = report(trips, json!(1), |_| None);
        assert_eq!(result["loss"], 1.0);
        assert_eq!(result["roundtrips"][0]["error"], "host-unreachable");
        for name in ["min", "max", "mean", "stddev"] {
            assert!(result.get(name).is_none(), "{name}");
        }
    }

    #[test]
    fn late_answers_are_counted_as_reordered() {
        assert_eq!(
            reorders(&[
                answered(1, 0, 500_000),
                answered(2, 200, 10),
                answered(3, 400, 10)
            ]),
            1
        );
        assert_eq!(reorders(&[answered(1, 0, 10), answered(2, 200, 10)]), 0);
    }

    #[test]
    fn specs() {
        let defaults = Spec::parse(&json!({"dest": "localhost"})).unwrap();
        assert_eq!((defaults.count, defaults.length), (5, 56));
        assert_eq!(defaults.interval, Duration::from_secs(1));
        assert_eq!(defaults.timeout, Duration::from_secs(2));
        let full = Spec::parse(&json!({
            "schema": 2, "dest": "::1", "source": "::1", "count": 3, "interval": "PT0.2S",
            "length": 100, "ttl": 9, "ip-version": 6, "hostnames": false, "deadline": "PT3S",
            "timeout": "PT1S", "protocol": "icmp", "source-node": "x", "suppress-loopback": true,
        }))
        .unwrap();
        assert_eq!(full.family, Some(Family::V6));
        assert_eq!(full.deadline, Some(Duration::from_secs(3)));
        for (bad, path) in [
            (json!({}), "/dest"),
            (json!({"dest": "-x"}), "/dest"),
            (json!({"dest": "a", "count": 0}), "/count"),
            (json!({"dest": "a", "count": 1_000_000}), "/count"),
            (json!({"dest": "a", "interval": "PT0S"}), "/interval"),
            (json!({"dest": "a", "protocol": "twamp"}), "/protocol"),
            (json!({"dest": "a", "port": 80}), "/port"),
            (json!({"dest": "a", "flow-label": 3}), "/flow-label"),
            (json!({"dest": "a", "ip-version": 5}), "/ip-version"),
            (json!({"dest": "a", "length": 70_000}), "/length"),
            (json!("x"), "/"),
        ] {
            assert_eq!(Spec::parse(&bad).unwrap_err().path, path, "{bad}");
        }
    }

    #[test]
    fn permission_names_the_remedy() {
        let failure = not_permitted(&io::Error::from(io::ErrorKind::PermissionDenied)).unwrap();
        assert_eq!(failure.cause, Cause::Permission);
        let remedy = failure.remedy.unwrap();
        assert!(remedy.contains("net.ipv4.ping_group_range") && remedy.contains("CAP_NET_RAW"));
        assert!(not_permitted(&io::Error::from(io::ErrorKind::NotFound)).is_none());
    }

    #[tokio::test]
    async fn policy_is_asked_before_a_packet_is_sent() {
        let ctx = Context {
            permit: Permit::networks(vec!["127.0.0.0/8".parse().unwrap()]),
            ..Context::operator(Clock::system(), [0; 32], "/nonexistent".into())
        };
        let failure = Rtt
            .run(ctx, json!({"dest": "192.0.2.1"}))
            .await
            .unwrap_err();
        assert_eq!(failure.cause, Cause::Denied);
        assert!(failure.reason.contains("192.0.2.1"), "{failure}");
    }

    /// Loopback, where this process may ping at all; else the remedy is what is tested.
    #[tokio::test]
    async fn loopback_answers() {
        for dest in ["127.0.0.1", "localhost"] {
            let ctx = Context::operator(Clock::system(), [1; 32], "/nonexistent".into());
            let spec = json!({"dest": dest, "count": 3, "interval": "PT0.01S", "ip-version": 4});
            match Rtt.run(ctx, spec).await {
                Ok(result) => {
                    assert_eq!(result["received"], 3, "{result}");
                    assert_eq!(result["loss"], 0.0);
                    assert_eq!(result["roundtrips"][2]["ip"], "127.0.0.1");
                    assert_eq!(result["roundtrips"][2]["length"], 64);
                    assert!(result["mean"].as_str().unwrap().starts_with("PT0.0"));
                }
                Err(failure) => assert_eq!(failure.cause, Cause::Permission, "{failure}"),
            }
        }
    }

    #[tokio::test]
    async fn a_deadline_cuts_what_was_not_sent() {
        let ctx = Context::operator(Clock::system(), [2; 32], "/nonexistent".into());
        let spec =
            json!({"dest": "127.0.0.1", "count": 100, "interval": "PT0.1S", "deadline": "PT0.15S"});
        if let Ok(result) = Rtt.run(ctx, spec).await {
            assert_eq!(result["sent"], 2, "{result}");
        }
    }
}
