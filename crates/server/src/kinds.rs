//! The kinds of work as tests: how each is described, what its spec must look like, how its results
//! read. Every kind is a test of the pScheduler interface (surface, section 6), so what is known of
//! kinds beyond their names is kept in that interface's words and used by whoever takes tasks.

use std::sync::LazyLock;

use muster_core::credential::{Snmp, SnmpAuth};
use muster_core::kind::{KNOWN, Kind};
use muster_core::range::AddressRange;
use muster_proto::pscheduler::plugins::{self, Catalogue};
use muster_proto::pscheduler::schemas::Misfit;
use serde_json::{Map, Value, json};

static CATALOGUE: LazyLock<Catalogue> = LazyLock::new(|| {
    Catalogue::new(KNOWN.iter().map(|known| plugins::Kind {
        name: known.name.to_owned(),
        description: known.title.to_owned(),
        version: "1.0".to_owned(),
    }))
});

/// The tests and tools of this build.
pub(crate) fn catalogue() -> &'static Catalogue {
    &CATALOGUE
}

/// Adds what a kind wants and a person may leave out.
pub(crate) fn complete(kind: &Kind, spec: &mut Map<String, Value>) {
    if matches!(kind.as_str(), "idle" | "idleex") && !spec.contains_key("duration") {
        spec.insert("duration".to_owned(), json!("PT1S"));
    }
}

/// Checks what a task wants done by the rules of its kind. `targets` are those named beside the spec.
/// A kind this build does not know is its agents' to judge.
///
/// # Errors
/// What does not fit; the path is one within the spec.
pub(crate) fn check_spec(kind: &Kind, spec: &Value, targets: &[String]) -> Result<(), Misfit> {
    let Ok(test) = catalogue().test(kind.as_str()) else {
        return Ok(());
    };
    test.check_with_targets(spec, targets)?;
    check_ranges(kind, spec, targets)
}

/// The part of [`check_spec`] that no schema can say: that address ranges are some.
///
/// # Errors
/// As [`check_spec`].
pub(crate) fn check_ranges(kind: &Kind, spec: &Value, targets: &[String]) -> Result<(), Misfit> {
    if kind.as_str() != "netdiscovery" {
        return Ok(());
    }
    let own = spec.get("targets").and_then(Value::as_array);
    let own = own.into_iter().flatten().filter_map(Value::as_str);
    for (at, range) in own.chain(targets.iter().map(String::as_str)).enumerate() {
        AddressRange::parse_list(range)
            .map_err(|error| Misfit::at(&format!("/targets/{at}"), error.to_string()))?;
    }
    Ok(())
}

/// A credential as the specs of kinds have it (surface, section 6), its secrets in the clear.
pub fn credential_json(snmp: &Snmp) -> Value {
    let mut object = match &snmp.auth {
        SnmpAuth::V1(community) => json!({"version": "1", "community": community.expose()}),
        SnmpAuth::V2c(community) => json!({"version": "2c", "community": community.expose()}),
        SnmpAuth::V3(usm) => {
            let mut object = json!({"version": "3", "username": usm.user});
            if let Some((protocol, secret)) = &usm.auth {
                object["authprotocol"] = json!(protocol.word());
                object["authpassword"] = json!(secret.expose());
            }
            if let Some((protocol, secret)) = &usm.privacy {
                object["privprotocol"] = json!(protocol.word());
                object["privpassword"] = json!(secret.expose());
            }
            object
        }
    };
    if let Some(port) = snmp.port {
        object["port"] = json!(port);
    }
    object
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spec_is_judged_with_the_targets_beside_it() {
        let check = |kind: &str, spec: Value, targets: &[&str]| {
            let targets: Vec<_> = targets.iter().map(|&target| target.to_owned()).collect();
            let checked = check_spec(&kind.parse().expect(kind), &spec, &targets);
            checked.map_err(String::from).err()
        };
        for (kind, spec, targets) in [
            ("rtt", json!({"dest": "127.0.0.1"}), &[][..]),
            ("rtt", json!({"schema": 1, "count": 3}), &["a", "::1"]),
            ("clock", json!({}), &["a:8443"]),
            ("idle", json!({"duration": "PT1S"}), &["anything"]),
            ("inventory", json!({}), &[]),
            (
                "netdiscovery",
                json!({"targets": ["10.0.0.0/24"]}),
                &["a,10.0.0.1-10.0.0.9"],
            ),
            ("decom.qc", json!({"benchmark": {"off": true}}), &[]),
            ("unheard.of", json!({"x": 1}), &[]),
        ] {
            assert_eq!(check(kind, spec, targets), None, "{kind}");
        }
        for (kind, spec, targets, want) in [
            (
                "rtt",
                json!({}),
                &[][..],
                "At /: 'dest' is a required property",
            ),
            (
                "rtt",
                json!({}),
                &["a", "-oProxy"],
                "At /dest: '-oProxy' is not valid under any of the given schemas",
            ),
            (
                "idle",
                json!({"duration": "5s"}),
                &[],
                "At /duration: '5s' is not a valid ISO 8601 duration.",
            ),
            (
                "inventory",
                json!({"x": 1}),
                &[],
                "At /: Additional properties are not allowed ('x' was unexpected)",
            ),
            (
                "netdiscovery",
                json!({}),
                &[],
                "At /: 'targets' is a required property",
            ),
        ] {
            assert_eq!(check(kind, spec, targets).as_deref(), Some(want), "{kind}");
        }
        let range = check(
            "netdiscovery",
            json!({"targets": ["10.0.0.1"]}),
            &["10.0.0.0/77"],
        );
        assert!(range.is_some_and(|error| error.starts_with("At /targets/1: ")));
    }
}
