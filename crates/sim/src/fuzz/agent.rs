//! What the agent reads from outside: specs that servers send, item keys, and its policy file.

use muster_agent::policy::{ActionClass, Policy, Verdict};
use muster_agent::tools::discover::identify::ObjectIds;
use muster_agent::tools::items::Key;
use muster_agent::tools::{Registry, registry};
use serde_json::Value;

/// A policy file.
///
/// # Panics
/// When a class is allowed that the text does not name, or a dangerous one in a file that is not
/// root's.
pub fn policy(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    for owned_by_root in [false, true] {
        let Ok(policy) = Policy::parse(text, owned_by_root) else {
            continue;
        };
        for class in ActionClass::ALL {
            if matches!(policy.verdict(class), Verdict::Allow(_)) {
                assert!(text.contains(class.word()));
                assert!(owned_by_root || class <= ActionClass::Measure);
            }
        }
    }
}

/// An item key, and an operator's table of object ids.
pub fn item_key(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    if let Ok(key) = Key::parse(text) {
        assert!(text.starts_with(&key.name));
        let _ = key.parameter(0);
    }
    let _ = ObjectIds::parse(text);
}

/// A spec, given to every tool.
///
/// # Panics
/// When a part of an approved spec is not approved itself.
pub fn spec(data: &[u8]) {
    let Ok(spec) = serde_json::from_slice::<Value>(data) else {
        return;
    };
    let tools: Registry = registry();
    for (kind, _) in tools.capabilities() {
        let Some(tool) = tools.find(kind) else {
            continue;
        };
        let approved = tool.check(&spec).is_ok();
        let _ = tool.class(&spec);
        let Ok(parts) = tool.expand(&spec, &[]) else {
            continue;
        };
        for part in parts {
            let part_approved = tool.check(&part).is_ok();
            assert!(part_approved || !approved, "{kind}: {part}");
        }
        let _ = tool.expand(&spec, std::slice::from_ref(&spec));
    }
}
