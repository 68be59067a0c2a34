//! Finding devices in address ranges: the kind `netdiscovery`.
//!
//! A target is a block of addresses with credentials (FusionInventory contract, section 1.2):
//! `{"network":"10.0.0.0/24","workers":10,"timeout":1,"credentials":[…]}`; the spec of the
//! pScheduler test of that name, `{"targets":["10.0.0.0/24"],"workers":10,"timeout":"PT1S",
//! "_credentials":[…]}`, is the same thing with one set of options for all its blocks. `workers`
//! are addresses at once, one after another without.
//!
//! Each address is asked over SNMP, NetBIOS and ICMP beside each other, then looked up in the ARP
//! table; what SNMP says wins. Where this process may not send ICMP, a TCP handshake takes its
//! place. A device is reported as soon as it is found, under the field names of section 2.4 in
//! lower case; the result repeats them all.

pub mod identify;
mod netbios;
mod tables;

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use muster_core::range::AddressRange;
use rand_core::Rng;
use serde_json::{Map, Value, json};
use socket2::Type;
use surge_ping::{Client, Config, ICMP, IcmpPacket, PingIdentifier, PingSequence};
use tokio::net::TcpStream;

use self::identify::{Identity, ObjectIds};
use super::snmp::{self, Credential, Prober, SaltStore};
use super::spec::Members;
use super::{Context, Failure, Outcome, SpecError, Tool, names, rtt};
use crate::policy::ActionClass;

/// Addresses asked at once, whatever a server wants.
const WORKERS_MAX: i64 = 512;
/// Devices of one target that the result holds: bounds its memory; all of them are still counted
/// and told as they are found.
const DEVICES_MAX: usize = 16_384;
/// How long SNMP is waited for when nothing says otherwise.
const TIMEOUT: Duration = Duration::from_secs(1);
/// How long an echo or a handshake is waited for (FusionInventory contract, section 7.1).
const ECHO_TIMEOUT: Duration = Duration::from_secs(1);
/// Ports that hosts most often answer or refuse on.
const HANDSHAKE_PORTS: [u16; 4] = [22, 80, 443, 445];

/// The tool.
#[derive(Clone, Debug, Default)]
pub struct NetDiscovery {
    salts: SaltStore,
}

/// One target, read.
#[derive(Debug)]
struct Spec {
    ranges: Vec<AddressRange>,
    workers: usize,
    timeout: Duration,
    credentials: Vec<Credential>,
    entity: Option<String>,
}

impl Spec {
    fn parse(spec: &Value) -> Result<Self, SpecError> {
        let m = Members::of(spec, "")?;
        let network = m
            .text("network")?
            .ok_or_else(|| m.wrong("network", "is required"))?;
        let ranges = AddressRange::parse_list(network)
            .map_err(|error| m.wrong("network", error.to_string()))?;
        if ranges.is_empty() {
            return Err(m.wrong("network", "is empty"));
        }
        // Zero and less count as one (section 1.3, rule 5).
        let workers = m
            .integer("workers", i64::MIN..=i64::MAX)?
            .unwrap_or(1)
            .clamp(1, WORKERS_MAX);
        // A P1 server that leaves it out or sends 0 means "the usual".
        let timeout = m.duration("timeout")?.filter(|timeout| !timeout.is_zero());
        Ok(Self {
            ranges,
            workers: usize::try_from(workers).unwrap_or(1),
            timeout: timeout.unwrap_or(TIMEOUT),
            credentials: Credential::list(&m)?,
            entity: m.text("entity")?.map(ToOwned::to_owned),
        })
    }
}

impl Tool for NetDiscovery {
    fn kind(&self) -> &'static str {
        "netdiscovery"
    }

    fn class(&self, _: &Value) -> ActionClass {
        ActionClass::Scan
    }

    fn check(&self, spec: &Value) -> Result<(), SpecError> {
        self.expand(spec, &[])?
            .iter()
            .try_for_each(|part| Spec::parse(part).map(drop))
    }

    fn target_member(&self) -> &'static str {
        "network"
    }

    fn expand(&self, spec: &Value, targets: &[Value]) -> Result<Vec<Value>, SpecError> {
        let own = Members::of(spec, "")?
            .list("targets")
            .into_iter()
            .cloned()
            .collect::<Vec<_>>();
        let targets = if targets.is_empty() {
            own.as_slice()
        } else {
            targets
        };
        if targets.is_empty() {
            return Ok(vec![spec.clone()]);
        }
        let mut base = spec.clone();
        if let Some(members) = base.as_object_mut() {
            members.remove("targets");
        }
        targets
            .iter()
            .enumerate()
            .map(|(index, target)| super::lay_over(&base, target, self.target_member(), index))
            .collect()
    }

    /// One list of devices, whichever target they belong to; failed targets are named.
    fn gather(&self, parts: Vec<(Value, Outcome)>) -> Outcome {
        let mut sum = json!({
            "schema": 1, "succeeded": true, "devices": [], "addresses": 0, "notes": [],
        });
        let total = parts.len();
        let mut failures = Vec::new();
        for (target, outcome) in parts {
            let (part, failure) = match outcome {
                Ok(part) => (Some(part), None),
                Err(failure) => (failure.result.clone(), Some(failure)),
            };
            if let Some(part) = part {
                add_list(&mut sum, &part, "devices");
                add_list(&mut sum, &part, "notes");
                let count = |value: &Value| value["addresses"].as_u64().unwrap_or(0);
                sum["addresses"] = json!(count(&sum) + count(&part));
            }
            if let Some(failure) = failure {
                let note = format!(
                    "{}: {failure}",
                    target["network"].as_str().unwrap_or("target")
                );
                failures.push((note, failure));
            }
        }
        if failures.len() == total
            && let Some((_, first)) = failures.into_iter().next()
        {
            sum["succeeded"] = json!(false);
            return Err(first.with_result(sum));
        }
        Ok(sum)
    }

    fn run<'a>(&'a self, ctx: Context, spec: Value) -> BoxFuture<'a, Outcome> {
        Box::pin(async move {
            let wrong = |error: SpecError| Failure::failed(error.to_string());
            let parts = self.expand(&spec, &[]).map_err(wrong)?;
            let mut ended = Vec::with_capacity(parts.len());
            for part in parts {
                let spec = Spec::parse(&part).map_err(wrong)?;
                ended.push((part, self.sweep(&ctx, &spec).await));
            }
            self.gather(ended)
        })
    }
}

fn add_list(sum: &mut Value, part: &Value, name: &str) {
    let more = part[name].as_array().cloned().unwrap_or_default();
    if let Some(list) = sum[name].as_array_mut() {
        for entry in more {
            if name == "devices" || !list.contains(&entry) {
                list.push(entry);
            }
        }
    }
}

/// What the addresses of one sweep are asked with.
struct Probes {
    snmp: Option<Prober>,
    echo: Option<Echo>,
    extra: ObjectIds,
    hosts: BTreeMap<IpAddr, String>,
    timeout: Duration,
    entity: Option<String>,
}

struct Echo {
    v4: Client,
    v6: Option<Client>,
    identifier: u16,
}

impl NetDiscovery {
    async fn sweep(&self, ctx: &Context, spec: &Spec) -> Outcome {
        let blocks = permitted(ctx, &spec.ranges).await?;
        let mut notes = Vec::new();
        let probes = self.probes(ctx, spec, &mut notes).await?;
        let total = blocks.iter().map(AddressRange::len).sum::<u64>();
        let begin = ctx.clock.instant();
        let addresses = blocks.iter().flat_map(AddressRange::addresses);
        let probes = &probes;
        let mut transaction = ctx.rng();
        let mut answers = futures_util::stream::iter(addresses)
            .map(|address| {
                let transaction = transaction.next_u32() as u16;
                async move { probe(probes, ctx, address, transaction).await }
            })
            .buffer_unordered(spec.workers);
        let mut devices = Vec::new();
        let (mut done, mut found) = (0_u64, 0_usize);
        loop {
            let device = tokio::select! {
                answer = answers.next() => match answer {
                    Some(device) => device,
                    None => break,
                },
                () = ctx.cancel.cancelled() => {
                    let result = result(devices, done, notes);
                    return Err(Failure::cancelled().with_result(result));
                }
            };
            done += 1;
            if let Some((address, device)) = device {
                ctx.report.found(device.clone()).await;
                found += 1;
                if devices.len() < DEVICES_MAX {
                    devices.push((address, device));
                }
            }
            let spent = ctx.clock.instant().saturating_duration_since(begin);
            let left = spent.as_secs_f64() / done as f64 * (total - done.min(total)) as f64;
            let eta = Duration::try_from_secs_f64(left).ok();
            ctx.report.progress(100.0 * done as f64 / total as f64, eta);
        }
        drop(answers);
        if found > devices.len() {
            notes.push(format!(
                "{found} devices were found; {DEVICES_MAX} of them are listed"
            ));
        }
        Ok(result(devices, done, notes))
    }

    async fn probes(
        &self,
        ctx: &Context,
        spec: &Spec,
        notes: &mut Vec<String>,
    ) -> Result<Probes, Failure> {
        let snmp = if spec.credentials.is_empty() {
            None
        } else {
            let opened = Prober::open(&spec.credentials, &self.salts, &ctx.state).await;
            Some(opened.map_err(|error| Failure::failed(error.to_string()))?)
        };
        let identifier = (ctx.rng().next_u32() & 0xffff) as u16;
        let echo = match echo_clients(identifier) {
            Ok(echo) => Some(echo),
            Err(error) => {
                let text = match rtt::not_permitted(&error) {
                    Some(failure) => {
                        let remedy = failure.remedy.as_deref().unwrap_or_default();
                        format!("{failure}: hosts are found by TCP instead; {remedy}")
                    }
                    None => format!("no ICMP ({error}): hosts are found by TCP instead"),
                };
                notes.push(text);
                None
            }
        };
        let (root, state) = (ctx.root.clone(), ctx.state.clone());
        let read = tokio::task::spawn_blocking(move || {
            let ids = std::fs::read_to_string(state.join("sysobject.ids")).unwrap_or_default();
            (ObjectIds::parse(&ids), names::hosts_file(&root))
        });
        let (extra, hosts) = read.await.unwrap_or_default();
        let entity = spec.entity.clone();
        Ok(Probes {
            snmp,
            echo,
            extra,
            hosts,
            timeout: spec.timeout,
            entity,
        })
    }
}

fn result(mut devices: Vec<(IpAddr, Value)>, addresses: u64, notes: Vec<String>) -> Value {
    devices.sort_by_key(|(address, _)| *address);
    let devices = devices
        .into_iter()
        .map(|(_, device)| device)
        .collect::<Vec<_>>();
    json!({
        "schema": 1, "succeeded": true, "devices": devices, "addresses": addresses, "notes": notes,
    })
}

/// The blocks with names looked up, if the local policy lets all of them be scanned.
async fn permitted(ctx: &Context, ranges: &[AddressRange]) -> Result<Vec<AddressRange>, Failure> {
    let mut blocks = Vec::with_capacity(ranges.len());
    for range in ranges {
        let block = match range {
            AddressRange::Name(name) => AddressRange::single(names::resolve(name, None).await?),
            span @ AddressRange::Span { .. } => span.clone(),
        };
        if let AddressRange::Span { first, last } = block
            && !ctx.permit.allows_range(first, last)
        {
            return Err(Failure::denied(format!(
                "{range} is outside the networks that the local policy lists for scan"
            )));
        }
        blocks.push(block);
    }
    Ok(blocks)
}

fn echo_clients(identifier: u16) -> io::Result<Echo> {
    let client = |kind| {
        Client::new(
            &Config::builder()
                .kind(kind)
                .sock_type_hint(Type::DGRAM)
                .build(),
        )
    };
    Ok(Echo {
        v4: client(ICMP::V4)?,
        v6: client(ICMP::V6).ok(),
        identifier,
    })
}

/// Everything that can be learnt about one address; `None` when nothing shows that there is one.
async fn probe(
    probes: &Probes,
    ctx: &Context,
    address: IpAddr,
    transaction: u16,
) -> Option<(IpAddr, Value)> {
    if ctx.cancel.is_cancelled() {
        return None;
    }
    let snmp = async {
        let session = probes.snmp.as_ref()?.probe(address, probes.timeout).await?;
        let identity = identify::identify(&session, address, &probes.extra).await;
        Some((session, identity))
    };
    let alive = async {
        match &probes.echo {
            Some(echo) => answers_echo(echo, address, transaction).await,
            None => answers_handshake(address).await,
        }
    };
    let (snmp, netbios, is_alive) =
        tokio::join!(Box::pin(snmp), netbios::ask(address, transaction), alive);
    let arp = neighbour(&ctx.root, address).await;
    let mut device = Map::new();
    let mut put = |name: &str, value: Option<String>| {
        if let Some(value) = value {
            device.entry(name).or_insert(Value::String(value));
        }
    };
    let mut ips = Vec::new();
    let mut has_name = false;
    if let Some((session, identity)) = snmp {
        let Identity {
            description,
            hostname,
            location,
            contact,
            uptime,
            kind,
            manufacturer,
            model,
            serial,
            firmware,
            mac,
            ips: addresses,
        } = identity;
        // Even a device without a name has answered, and is one.
        has_name = true;
        put("authsnmp", Some(session.credential.clone()));
        put(
            "authport",
            Some(session.port.to_string()).filter(|_| session.port != snmp::PORT),
        );
        put("type", kind);
        put("manufacturer", manufacturer);
        put("model", model);
        put("description", description);
        put("snmphostname", hostname);
        put("location", location);
        put("contact", contact);
        put("uptime", uptime);
        put("serial", serial);
        put("firmware", firmware);
        put("mac", mac);
        ips = addresses;
    }
    if let Some(found) = netbios {
        has_name |= found.name.is_some() || found.mac.is_some();
        put("netbiosname", found.name);
        put("workgroup", found.workgroup);
        put("usersession", found.user);
        put("mac", found.mac);
    }
    has_name |= arp.is_some();
    put("mac", arp);
    if is_alive {
        // The family reports a host that only answers under its address as name (section 2.4).
        let known = probes
            .hosts
            .get(&address)
            .filter(|_| !address.is_loopback())
            .cloned();
        put(
            "dnshostname",
            Some(known.unwrap_or_else(|| address.to_string())),
        );
        has_name = true;
    }
    if !has_name {
        return None;
    }
    put("ip", Some(address.to_string()));
    put("entity", probes.entity.clone());
    if !ips.is_empty() {
        device.insert("ips".to_owned(), json!(ips));
    }
    Some((address, Value::Object(device)))
}

async fn answers_echo(echo: &Echo, address: IpAddr, transaction: u16) -> bool {
    let client = match address {
        IpAddr::V4(_) => Some(&echo.v4),
        IpAddr::V6(_) => echo.v6.as_ref(),
    };
    let Some(client) = client else {
        return answers_handshake(address).await;
    };
    let mut pinger = client
        .pinger(address, PingIdentifier(echo.identifier))
        .await;
    pinger.timeout(ECHO_TIMEOUT);
    match pinger.ping(PingSequence(transaction), &[0; 32]).await {
        Ok((IcmpPacket::V4(packet), _)) => packet.get_icmp_type().0 == 0,
        Ok((IcmpPacket::V6(packet), _)) => packet.get_icmpv6_type().0 == 129,
        Err(_) => false,
    }
}

/// Whether the address takes or refuses a connection: either way somebody is there.
async fn answers_handshake(address: IpAddr) -> bool {
    let mut attempts = HANDSHAKE_PORTS
        .iter()
        .map(|port| async move {
            let connect = TcpStream::connect(SocketAddr::new(address, *port));
            match tokio::time::timeout(ECHO_TIMEOUT, connect).await {
                Ok(Ok(_)) => true,
                Ok(Err(error)) => error.kind() == io::ErrorKind::ConnectionRefused,
                Err(_) => false,
            }
        })
        .collect::<futures_util::stream::FuturesUnordered<_>>();
    while let Some(is_there) = attempts.next().await {
        if is_there {
            return true;
        }
    }
    false
}

/// The link-layer address of a neighbour that has just been spoken to.
async fn neighbour(root: &Path, address: IpAddr) -> Option<String> {
    if address.is_loopback() {
        return None;
    }
    let path = root.join("proc/net/arp");
    let table = tokio::task::spawn_blocking(move || std::fs::read_to_string(path))
        .await
        .ok()?;
    arp_entry(&table.ok()?, address)
}

fn arp_entry(table: &str, address: IpAddr) -> Option<String> {
    table.lines().skip(1).find_map(|line| {
        let words = line.split_whitespace().collect::<Vec<_>>();
        let [ip, _, flags, mac, ..] = words.as_slice() else {
            return None;
        };
        let is_complete = u32::from_str_radix(flags.trim_start_matches("0x"), 16).ok()? & 2 != 0;
        (ip.parse() == Ok(address) && is_complete)
            .then(|| identify::mac(mac.as_bytes()))
            .flatten()
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use crate::policy::Permit;
    use crate::tools::Cause;
    use muster_net::clock::Clock;

    #[test]
    fn specs_of_both_wires() {
        let tool = NetDiscovery::default();
        let p1 = json!({"network": "192.0.2.1-192.0.2.9", "workers": 10, "timeout": 5,
                        "credentials": [{"version": "2c", "community": "public"}]});
        let spec = Spec::parse(&p1).unwrap();
        assert_eq!((spec.workers, spec.timeout), (10, Duration::from_secs(5)));
        let test = json!({"schema": 1, "targets": ["192.0.2.0/30", "192.0.2.9"], "workers": 3,
                          "timeout": "PT2S", "_credentials": [{"version": "1", "community": "c"}]});
        let parts = tool.expand(&test, &[]).unwrap();
        assert_eq!(parts.len(), 2);
        let spec = Spec::parse(&parts[1]).unwrap();
        assert_eq!(
            (spec.workers, spec.timeout, spec.credentials.len()),
            (3, Duration::from_secs(2), 1)
        );
        assert_eq!(spec.ranges, [AddressRange::single([192, 0, 2, 9].into())]);
        let over = tool
            .expand(&test, &[json!({"network": "192.0.2.7", "workers": 0})])
            .unwrap();
        assert_eq!(
            over.len(),
            1,
            "targets of the job go before those of the spec"
        );
        assert_eq!(Spec::parse(&over[0]).unwrap().workers, 1);
        for (bad, path) in [
            (json!({}), "/network"),
            (json!({"network": "10.0.0.9-10.0.0.1"}), "/network"),
            (json!({"network": "0.0.0.0/0"}), "/network"),
            (json!({"network": ","}), "/network"),
            (json!({"network": "10.0.0.1", "timeout": -1}), "/timeout"),
            (
                json!({"network": "10.0.0.1", "workers": "many"}),
                "/workers",
            ),
            (
                json!({"network": "10.0.0.1", "credentials": [{}]}),
                "/credentials/0/version",
            ),
        ] {
            assert_eq!(tool.check(&bad).unwrap_err().path, path, "{bad}");
        }
    }

    #[tokio::test]
    async fn ranges_outside_the_policy_are_denied_before_a_packet() {
        for network in [
            "192.0.2.0/24",
            "127.0.0.1,192.0.2.1",
            "126.255.255.255-127.0.0.1",
        ] {
            let ctx = Context {
                permit: Permit::networks(vec!["127.0.0.0/8".parse().unwrap()]),
                ..Context::operator(Clock::system(), [0; 32], "/nonexistent".into())
            };
            let spec = json!({"network": network});
            let failure = NetDiscovery::default().run(ctx, spec).await.unwrap_err();
            assert_eq!(failure.cause, Cause::Denied, "{network}");
        }
    }

    #[test]
    fn targets_are_joined_into_one_list() {
        let tool = NetDiscovery::default();
        let part =
            |ip: &str| Ok(json!({"devices": [{"ip": ip}], "addresses": 4, "notes": ["no ICMP"]}));
        let target = json!({"network": "192.0.2.0/30"});
        let joined = tool
            .gather(vec![
                (target.clone(), part("192.0.2.1")),
                (target.clone(), Err(Failure::failed("no"))),
                (target.clone(), part("192.0.2.2")),
            ])
            .unwrap();
        assert_eq!(
            joined["devices"],
            json!([{"ip": "192.0.2.1"}, {"ip": "192.0.2.2"}])
        );
        assert_eq!(
            (&joined["addresses"], &joined["notes"]),
            (&json!(8), &json!(["no ICMP"]))
        );
        let failed = tool
            .gather(vec![(target, Err(Failure::denied("no")))])
            .unwrap_err();
        assert_eq!(failed.cause, Cause::Denied);
    }

    #[test]
    fn arp_table() {
        let table = "IP address       HW type     Flags       HW address            Mask     Device\n\
            10.0.0.1         0x1         0x2         02:AA:00:00:00:01     *        eth0\n\
            10.0.0.2         0x1         0x0         00:00:00:00:00:00     *        eth0\nbad\n";
        let find = |ip: [u8; 4]| arp_entry(table, ip.into());
        assert_eq!(find([10, 0, 0, 1]).as_deref(), Some("02:aa:00:00:00:01"));
        assert_eq!(find([10, 0, 0, 2]), None);
        assert_eq!(find([10, 0, 0, 3]), None);
    }

    #[tokio::test]
    async fn loopback_is_found_without_credentials() {
        let ctx = Context::operator(Clock::system(), [3; 32], "/nonexistent".into());
        let spec = json!({"targets": ["127.0.0.1"], "workers": 1});
        let found = NetDiscovery::default().run(ctx, spec).await.unwrap();
        assert_eq!(found["addresses"], 1);
        assert_eq!(
            found["devices"],
            json!([{"ip": "127.0.0.1", "dnshostname": "127.0.0.1"}])
        );
    }
}
