//! Offers in the words of the wire: a P1 task or a P2 option.
//!
//! The id that the peer echoes (P1 job id, P2 PID) is the offer's token: the run, and how often it
//! was offered. News under an old offer show by it.

use std::net::IpAddr;

use muster_core::RunId;
use muster_core::kind::Kind;
use muster_core::range::AddressRange;
use muster_core::run::OfferToken;
use muster_core::time::parse_duration;
use muster_proto::fusion::json::{Fields, as_text};
use muster_proto::fusion::p1::{DiscoveryTarget, InventoryOptions, Job, Task, Work};
use muster_proto::fusion::reply::{DiscoveryOption, JobOption, Range};
use muster_proto::fusion::snmp::{Credential, Network};

use crate::control::Offer;

/// Tasks of the family that are not given yet; GLPI agents are told so.
pub(super) const NOT_GIVEN: [&str; 6] = [
    "collect",
    "deploy",
    "esx",
    "netinventory",
    "remoteinventory",
    "wakeonlan",
];

/// Addresses looked at at once when a task does not say.
const WORKERS: u32 = 10;
/// Seconds to wait for an answer when a task does not say. To a P2 agent 0 would mean 60.
const TIMEOUT: u32 = 1;

/// Kinds that a P2 reply can carry.
pub(super) fn p2_kinds() -> Vec<Kind> {
    ["inventory", "netdiscovery"]
        .into_iter()
        .filter_map(|name| name.parse().ok())
        .collect()
}

/// Kinds that were this wire's before they were everybody's.
pub(super) fn is_of_the_family(kind: &Kind) -> bool {
    matches!(
        kind.as_str(),
        "inventory" | "netdiscovery" | "netinventory" | "wakeonlan"
    )
}

/// Kinds whose specs hold credentials.
pub(super) fn has_credentials(kind: &Kind) -> bool {
    matches!(kind.as_str(), "netdiscovery" | "netinventory")
}

/// Digits of a run in a PID, and of its offer behind them.
const PID_RUN_DIGITS: usize = 39;
const PID_OFFER_DIGITS: usize = 10;

/// The token as a P2 PID: real agents sort jobs by it as numbers, and complain of other text.
fn pid_of(token: OfferToken) -> String {
    let run = token.run.uuid().as_u128();
    format!(
        "{run:0PID_RUN_DIGITS$}{:0PID_OFFER_DIGITS$}",
        token.generation
    )
}

/// The offer that a peer echoes, in P1's form or in P2's.
pub(super) fn token_of(text: &str) -> Option<OfferToken> {
    if let Ok(token) = text.parse() {
        return Some(token);
    }
    let (run, generation) = text.split_at_checked(PID_RUN_DIGITS)?;
    if generation.len() != PID_OFFER_DIGITS || !text.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let run = RunId::from_uuid(uuid::Uuid::from_u128(run.parse().ok()?));
    Some(OfferToken {
        run,
        generation: generation.parse().ok()?,
    })
}

/// The offer as a P1 task with one job.
///
/// # Errors
/// Why it cannot be put into the words of this wire.
pub(super) fn as_task(offer: &Offer) -> Result<Task, String> {
    let workers = offer.workers.map(std::num::NonZeroU32::get);
    let work = match offer.kind.as_str() {
        "inventory" => Work::Inventory(inventory_options(offer)?),
        "netdiscovery" => {
            let spec = Discovery::of(offer)?;
            let target = |network| DiscoveryTarget {
                network,
                workers: Some(spec.workers),
                timeout: Some(spec.timeout),
                credentials: spec.credentials.clone(),
            };
            Work::NetDiscovery(spec.networks.iter().cloned().map(target).map(Ok).collect())
        }
        kind => Work::Other {
            kind: kind.to_owned(),
            spec: Some(offer.spec.expose().to_owned()),
            targets: offer
                .targets
                .iter()
                .map(|target| serde_json::Value::from(target.as_str()).to_string())
                .collect(),
        },
    };
    let job = Job {
        id: offer.token.to_string(),
        workers,
        work,
    };
    Ok(Task {
        id: offer.task.to_string(),
        jobs: vec![job],
    })
}

/// The offer as a P2 option; none for an inventory, which is asked for by `RESPONSE`.
///
/// # Errors
/// Why it cannot be put into the words of this wire.
pub(super) fn as_option(offer: &Offer) -> Result<Option<JobOption>, String> {
    if offer.kind.as_str() == "inventory" {
        return Ok(None);
    }
    let spec = Discovery::of(offer)?;
    let mut ports: Vec<u16> = spec
        .credentials
        .iter()
        .map(|c| c.port.unwrap_or(161))
        .collect();
    ports.dedup();
    let port = (ports.iter().any(|port| *port != 161)).then(|| {
        ports
            .iter()
            .map(u16::to_string)
            .collect::<Vec<_>>()
            .join(",")
    });
    let ranges = spec
        .networks
        .iter()
        .enumerate()
        .map(|(index, network)| Range {
            id: Some((index + 1).to_string()),
            first: network.first(),
            last: network.last(),
            entity: None,
            port: port.clone(),
        })
        .collect();
    Ok(Some(JobOption::NetDiscovery(DiscoveryOption {
        pid: pid_of(offer.token),
        threads: spec.workers,
        timeout: spec.timeout,
        ranges,
        credentials: spec.credentials,
    })))
}

fn inventory_options(offer: &Offer) -> Result<InventoryOptions, String> {
    let fields = Fields::of(offer.spec.expose(), "spec").map_err(|e| e.to_string())?;
    let said = |error: muster_proto::fusion::json::JsonError| error.to_string();
    Ok(InventoryOptions {
        scan_homedirs: fields
            .boolean("scan-homedirs")
            .map_err(said)?
            .unwrap_or(false),
        scan_profiles: fields
            .boolean("scan-profiles")
            .map_err(said)?
            .unwrap_or(false),
        timeout: None,
        no_category: fields.words("no-category").map_err(said)?,
        additional_content: None,
    })
}

/// The spec of a netdiscovery (surface, section 6), targets of the task included.
struct Discovery {
    networks: Vec<Network>,
    workers: u32,
    timeout: u32,
    credentials: Vec<Credential>,
}

impl Discovery {
    fn of(offer: &Offer) -> Result<Self, String> {
        let fields = Fields::of(offer.spec.expose(), "spec").map_err(|e| e.to_string())?;
        let mut targets = offer.targets.clone();
        targets.extend(fields.words("targets").map_err(|e| e.to_string())?);
        let mut networks = Vec::new();
        for target in &targets {
            for range in AddressRange::parse_list(target).map_err(|e| e.to_string())? {
                networks.push(ipv4(&range)?);
            }
        }
        if networks.is_empty() {
            return Err("the task names no network to look at".to_owned());
        }
        let workers = fields.integer("workers").map_err(|e| e.to_string())?;
        let workers = workers
            .map(|n| u32::try_from(n.max(1)).unwrap_or(u32::MAX))
            .or(offer.workers.map(std::num::NonZeroU32::get))
            .unwrap_or(WORKERS)
            .min(1024);
        let mut credentials = Vec::new();
        for member in ["_credentials", "credentials"] {
            fields
                .items(member, |_, item, path| {
                    credentials.push(Credential::from_json(&Fields::of(item, path)?)?);
                    Ok(())
                })
                .map_err(|e| e.to_string())?;
        }
        Ok(Self {
            networks,
            workers,
            timeout: timeout(&fields)?,
            credentials,
        })
    }
}

/// Whole seconds of a duration (`PT1S`, `2s`) or a number of seconds, at least one.
fn timeout(fields: &Fields<'_>) -> Result<u32, String> {
    let Some(text) = fields.raw("timeout").and_then(as_text) else {
        return Ok(TIMEOUT);
    };
    if let Ok(seconds) = text.parse::<f64>() {
        return Ok(whole_seconds(seconds));
    }
    let duration = parse_duration(&text).map_err(|e| format!("spec.timeout: {e}"))?;
    Ok(whole_seconds(duration.as_secs_f64()))
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "clamped to what fits before it is cast"
)]
fn whole_seconds(seconds: f64) -> u32 {
    seconds.ceil().clamp(1.0, 3600.0) as u32
}

fn ipv4(range: &AddressRange) -> Result<Network, String> {
    match range {
        AddressRange::Span {
            first: IpAddr::V4(first),
            last: IpAddr::V4(last),
        } => Network::between(*first, *last).map_err(|e| format!("{range}: {e}")),
        AddressRange::Span { .. } | AddressRange::Name(_) => Err(format!(
            "{range}: this wire carries ranges of IPv4 addresses only"
        )),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use jiff::{SignedDuration, Timestamp};
    use muster_core::run::{OfferToken, Window};
    use muster_core::task::Spec;
    use muster_core::{RunId, TaskId};
    use muster_proto::fusion::snmp::Snmp;
    use uuid::Uuid;

    use super::*;

    fn offer(kind: &str, spec: &str, targets: &[&str], workers: u32) -> Offer {
        Offer {
            token: OfferToken {
                run: RunId::from_uuid(Uuid::from_u128(7)),
                generation: 3,
            },
            task: TaskId::from_uuid(Uuid::from_u128(5)),
            kind: kind.parse().unwrap(),
            spec: Spec::from_json(spec),
            targets: targets.iter().map(|t| (*t).to_owned()).collect(),
            workers: std::num::NonZeroU32::new(workers),
            window: Window {
                start: Timestamp::UNIX_EPOCH,
                latest_start: Timestamp::UNIX_EPOCH,
                length: SignedDuration::from_secs(1),
            },
            expires: Timestamp::UNIX_EPOCH,
        }
    }

    const PUBLIC: &str =
        r#"[{"version":"2c","community":"public"},{"version":"1","community":"p","port":16100}]"#;

    #[test]
    fn a_discovery_in_both_dialects() {
        let spec = format!(
            r#"{{"schema":1,"targets":["10.0.0.0/30"],"timeout":"PT1.5S","_credentials":{PUBLIC}}}"#
        );
        let offer = offer("netdiscovery", &spec, &["10.1.0.1-10.1.0.9"], 4);
        let task = as_task(&offer).unwrap();
        let [job] = task.jobs.as_slice() else {
            panic!()
        };
        assert_eq!(job.id, offer.token.to_string());
        assert_eq!(job.workers, Some(4));
        let Work::NetDiscovery(targets) = &job.work else {
            panic!()
        };
        let first = targets[0].as_ref().unwrap();
        assert_eq!(first.network.as_str(), "10.1.0.1-10.1.0.9");
        assert_eq!((first.workers, first.timeout), (Some(4), Some(2)));
        assert_eq!(targets[1].as_ref().unwrap().network.count(), 4);

        let Some(JobOption::NetDiscovery(option)) = as_option(&offer).unwrap() else {
            panic!()
        };
        assert!(
            option.pid.bytes().all(|b| b.is_ascii_digit()),
            "{}",
            option.pid
        );
        assert_eq!(token_of(&option.pid), Some(offer.token));
        assert_eq!(token_of(&job.id), Some(offer.token));
        assert_eq!((option.threads, option.timeout), (4, 2));
        assert_eq!(option.ranges.len(), 2);
        assert_eq!(option.ranges[0].port.as_deref(), Some("161,16100"));
        assert!(matches!(option.credentials[0].snmp, Snmp::V2c { .. }));
    }

    #[test]
    fn defaults_that_an_agent_can_live_with() {
        let offer = offer(
            "netdiscovery",
            r#"{"targets":"10.0.0.1, 10.0.0.7"}"#,
            &[],
            0,
        );
        let Some(JobOption::NetDiscovery(option)) = as_option(&offer).unwrap() else {
            panic!()
        };
        assert_eq!((option.threads, option.timeout), (10, 1));
        assert_eq!(option.ranges.len(), 2);
        assert_eq!(option.ranges[0].port, None);
    }

    #[test]
    fn what_the_wire_cannot_carry_is_said() {
        for (spec, targets, what) in [
            ("{}", vec![], "names no network"),
            ("{}", vec!["fe80::1"], "IPv4"),
            ("{}", vec!["switch.example.org"], "IPv4"),
            (r#"{"timeout":"soon"}"#, vec!["10.0.0.1"], "timeout"),
            (
                r#"{"_credentials":[{"version":"9"}]}"#,
                vec!["10.0.0.1"],
                "_credentials[0].version",
            ),
            (r#"{"_credentials":7}"#, vec!["10.0.0.1"], "_credentials"),
        ] {
            let offer = offer("netdiscovery", spec, &targets, 0);
            let error = as_option(&offer).unwrap_err();
            assert!(error.contains(what), "{spec}: {error}");
            assert!(as_task(&offer).is_err());
        }
    }

    #[test]
    fn every_offer_has_a_pid_of_its_own() {
        for (run, generation) in [(0, 0), (u128::MAX, u32::MAX), (7, 1)] {
            let run = RunId::from_uuid(Uuid::from_u128(run));
            let token = OfferToken { run, generation };
            assert_eq!(token_of(&pid_of(token)), Some(token));
        }
        let past = "9".repeat(49);
        for text in ["", "7", "101", "x", past.as_str(), "é".repeat(40).as_str()] {
            assert_eq!(token_of(text), None, "{text}");
        }
    }

    #[test]
    fn other_kinds_travel_whole() {
        let offer = offer("rtt", r#"{"dest":"127.0.0.1","count":2}"#, &["a"], 0);
        let task = as_task(&offer).unwrap();
        assert_eq!(
            task.jobs[0].work,
            Work::Other {
                kind: "rtt".to_owned(),
                spec: Some(r#"{"dest":"127.0.0.1","count":2}"#.to_owned()),
                targets: vec!["\"a\"".to_owned()],
            }
        );
        assert!(
            as_option(&self::offer("inventory", "{}", &[], 0))
                .unwrap()
                .is_none()
        );
    }
}
