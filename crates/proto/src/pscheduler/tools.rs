//! The built-in tools: which specifications they take and how long they need (contract, section 15).
//!
//! The tools themselves run on an agent; here is only what a scheduler asks about them.

use serde_json::Value;

use super::time::IsoDuration;

/// One tool.
#[derive(Debug, Clone, Copy)]
pub struct Tool {
    /// Its name.
    pub name: &'static str,
    /// One line on what it does.
    pub description: &'static str,
    /// The tests it can run; `None` for every kind of work that is not one of the original's tests.
    pub tests: Option<&'static [&'static str]>,
    /// The higher, the sooner it is taken.
    pub preference: i64,
}

/// Every built-in tool.
pub const ALL: &[Tool] = &[
    Tool {
        name: "agent",
        description: "Hand the work to an agent that can do it",
        tests: None,
        preference: 0,
    },
    Tool {
        name: "passthrough",
        description: "Pass the data of a noop test through as its result",
        tests: Some(&["noop"]),
        preference: 0,
    },
    Tool {
        name: "ping",
        description: "Measure the round-trip time to another host with ICMP echo",
        tests: Some(&["rtt"]),
        preference: 0,
    },
    Tool {
        name: "psclock",
        description: "Compare the clocks of two pScheduler nodes",
        tests: Some(&["clock"]),
        preference: 0,
    },
    Tool {
        name: "sleep",
        description: "Sleep for 15 seconds to one hour",
        tests: Some(&["idle", "idleex"]),
        preference: 0,
    },
    Tool {
        name: "snooze",
        description: "Sleep for up to 60 seconds",
        tests: Some(&["idle", "idleex"]),
        preference: 0,
    },
];

impl Tool {
    /// Why the tool cannot run a specification; empty when it can.
    #[must_use]
    pub fn refusals(&self, test: &str, spec: &Value) -> Vec<String> {
        if self.tests.is_some_and(|tests| !tests.contains(&test)) {
            return vec!["Unsupported test type".to_owned()];
        }
        let highest = match self.name {
            "ping" => 4,
            "psclock" | "sleep" | "snooze" => 2,
            _ => 1,
        };
        let version = spec.get("schema").and_then(Value::as_i64).unwrap_or(1);
        if version > highest {
            return vec![format!(
                "Schema version {version} is not supported (highest is {highest})"
            )];
        }
        let mut reasons = Vec::new();
        match self.name {
            "snooze" if length(spec, "duration") > Some(IsoDuration::from_secs(60)) => {
                reasons.push("Won't sleep for longer than 60 seconds".to_owned());
            }
            "sleep" => {
                let duration = length(spec, "duration");
                if duration < Some(IsoDuration::from_secs(15)) {
                    reasons.push("Won't sleep for less than 15 seconds.".to_owned());
                }
                if duration > Some(IsoDuration::from_secs(3600)) {
                    reasons.push("Won't sleep for more than one hour.".to_owned());
                }
            }
            "ping" => {
                if spec.get("flow-label").is_some()
                    && spec.get("ip-version").and_then(Value::as_i64) != Some(6)
                {
                    reasons.push("Cannot apply flow labels except with IPv6".to_owned());
                }
                if spec
                    .get("protocol")
                    .is_some_and(|protocol| protocol != "icmp")
                {
                    reasons.push("Only icmp protocol is supported".to_owned());
                }
                if spec.get("port").is_some() {
                    reasons.push("Ports are not supported".to_owned());
                }
            }
            _ => {}
        }
        reasons
    }

    /// How long a run takes.
    #[must_use]
    pub fn duration(&self, spec: &Value) -> IsoDuration {
        let second = IsoDuration::from_secs(1);
        match self.name {
            "snooze" | "sleep" => length(spec, "duration").unwrap_or_default().plus(second),
            "psclock" => length(spec, "timeout")
                .unwrap_or(IsoDuration::from_secs(5))
                .plus(second),
            "ping" => ping_duration(spec),
            "agent" => agent_duration(spec),
            _ => second,
        }
    }
}

fn length(spec: &Value, member: &str) -> Option<IsoDuration> {
    spec.get(member)
        .and_then(Value::as_str)
        .and_then(|text| IsoDuration::parse(text).ok())
}

/// As the original's tool reckons it: packets and the last one's timeout, or the deadline, a second
/// for the tool, two for names and a second more.
fn ping_duration(spec: &Value) -> IsoDuration {
    let count = spec.get("count").and_then(Value::as_u64).unwrap_or(5);
    let interval = length(spec, "interval").unwrap_or(IsoDuration::from_secs(1));
    let timeout = length(spec, "timeout").unwrap_or(IsoDuration::from_secs(2));
    let packets = interval.times(count.saturating_sub(1)).plus(timeout);
    let named = spec
        .get("hostnames")
        .and_then(Value::as_bool)
        .unwrap_or(true);
    length(spec, "deadline")
        .unwrap_or(packets)
        .plus(IsoDuration::from_secs(if named { 4 } else { 2 }))
}

/// Two minutes, and for work with targets the time that silent ones cost: two tries for each address,
/// `workers` at a time, a day at most. It is a guess: too little shows a run
/// as overdue, too much makes clients that sleep to its end wait.
fn agent_duration(spec: &Value) -> IsoDuration {
    let targets = spec
        .get("targets")
        .and_then(Value::as_array)
        .map_or(&[][..], Vec::as_slice);
    let addresses = targets
        .iter()
        .filter_map(Value::as_str)
        .map(addresses)
        .fold(0_u64, u64::saturating_add);
    let workers = spec
        .get("workers")
        .and_then(Value::as_u64)
        .unwrap_or(1)
        .max(1);
    let timeout = length(spec, "timeout").unwrap_or(IsoDuration::from_secs(1));
    let silent = timeout.times(2).times(addresses.div_ceil(workers));
    silent
        .plus(IsoDuration::from_secs(120))
        .min(IsoDuration::from_secs(86_400))
}

/// About how many addresses a range names.
fn addresses(range: &str) -> u64 {
    if let Some((_, prefix)) = range.split_once('/') {
        let width = if range.contains(':') { 128 } else { 32 };
        let bits = prefix
            .parse::<u32>()
            .ok()
            .and_then(|prefix| 32_u32.max(width).checked_sub(prefix));
        return 1_u64
            .checked_shl(bits.unwrap_or(0).min(63))
            .unwrap_or(u64::MAX);
    }
    let parse = |text: &str| {
        text.trim()
            .parse::<std::net::Ipv4Addr>()
            .ok()
            .map(u32::from)
    };
    match range
        .split_once('-')
        .and_then(|(first, last)| Some((parse(first)?, parse(last)?)))
    {
        Some((first, last)) => u64::from(last.saturating_sub(first)).saturating_add(1),
        None => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn tool(name: &str) -> Tool {
        *ALL.iter().find(|tool| tool.name == name).expect(name)
    }

    #[test]
    fn durations_are_the_originals() {
        for (name, spec, want) in [
            ("snooze", json!({"duration": "PT2S"}), "PT3S"),
            ("sleep", json!({"duration": "PT40S"}), "PT41S"),
            ("passthrough", json!({}), "PT1S"),
            ("psclock", json!({"dest": "b"}), "PT6S"),
            ("psclock", json!({"dest": "b", "timeout": "PT2S"}), "PT3S"),
            ("ping", json!({"count": 1}), "PT6S"),
            ("ping", json!({"count": 3, "interval": "PT0.2S"}), "PT6.4S"),
            (
                "ping",
                json!({"deadline": "PT3S", "hostnames": false}),
                "PT5S",
            ),
            ("agent", json!({}), "PT2M"),
            (
                "agent",
                json!({"targets": ["10.0.0.0/24"], "workers": 10}),
                "PT2M52S",
            ),
            (
                "agent",
                json!({"targets": ["10.0.0.1-10.0.0.9", "host"]}),
                "PT2M20S",
            ),
            ("agent", json!({"targets": ["::/0"], "workers": 1}), "P1D"),
            ("agent", json!({"targets": ["0.0.0.0/99"]}), "PT2M2S"),
        ] {
            assert_eq!(
                tool(name).duration(&spec).to_string(),
                want,
                "{name} {spec}"
            );
        }
    }

    #[test]
    fn refusals_are_the_originals() {
        for (name, test, spec, want) in [
            ("snooze", "idle", json!({"duration": "PT60S"}), vec![]),
            (
                "snooze",
                "idle",
                json!({"duration": "PT61S"}),
                vec!["Won't sleep for longer than 60 seconds"],
            ),
            (
                "sleep",
                "idle",
                json!({"duration": "PT1S"}),
                vec!["Won't sleep for less than 15 seconds."],
            ),
            (
                "sleep",
                "idle",
                json!({"duration": "PT2H"}),
                vec!["Won't sleep for more than one hour."],
            ),
            ("snooze", "rtt", json!({}), vec!["Unsupported test type"]),
            (
                "snooze",
                "idle",
                json!({"schema": 3, "duration": "PT1S"}),
                vec!["Schema version 3 is not supported (highest is 2)"],
            ),
            (
                "ping",
                "rtt",
                json!({"flow-label": 5, "ip-version": 4, "protocol": "tcp", "port": 1}),
                vec![
                    "Cannot apply flow labels except with IPv6",
                    "Only icmp protocol is supported",
                    "Ports are not supported",
                ],
            ),
            (
                "ping",
                "rtt",
                json!({"flow-label": 5, "ip-version": 6}),
                vec![],
            ),
            ("psclock", "clock", json!({"schema": 2}), vec![]),
        ] {
            assert_eq!(tool(name).refusals(test, &spec), want, "{name} {spec}");
        }
    }
}
