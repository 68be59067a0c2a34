//! Kinds of work. A kind is a capability; the wires only carry it.

use std::fmt;
use std::str::FromStr;

/// The name of a kind of work: `inventory`, `netdiscovery`, `rtt`, `decom.qc`, ...
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Kind(String);

/// A text that cannot name a kind of work.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} cannot be a kind of work: 1 to 64 characters of a-z, 0-9, '.', '-' and '_'")]
pub struct BadKind(String);

impl Kind {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What Muster itself knows about this kind, if it is a built-in one.
    pub fn known(&self) -> Option<&'static Known> {
        KNOWN.iter().find(|known| known.name == self.0)
    }

    /// What a policy file must allow before an agent does it. An unknown kind has no class and is
    /// denied.
    pub fn class(&self) -> Option<ActionClass> {
        self.known().map(|known| known.class)
    }

    /// How runs of it share their agents.
    pub fn scheduling(&self) -> SchedulingClass {
        self.known()
            .map_or(SchedulingClass::Normal, |known| known.scheduling)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for Kind {
    type Err = BadKind;

    fn from_str(text: &str) -> Result<Self, BadKind> {
        let ok = (1..=64).contains(&text.len())
            && text
                .bytes()
                .all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'-' | b'_'));
        if ok {
            Ok(Self(text.to_owned()))
        } else {
            Err(BadKind(text.chars().take(80).collect()))
        }
    }
}

/// What an agent's own policy file may allow or deny (threat model, section 3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ActionClass {
    /// Looks at the agent's own machine.
    Observe,
    /// Probes other machines of listed networks.
    Scan,
    /// Measures towards listed networks.
    Measure,
    /// Runs a program somebody else named.
    Command,
    /// Installs files and software.
    Deploy,
    /// Writes images and boots them.
    Image,
    /// Erases disks and firmware.
    Destroy,
}

impl ActionClass {
    /// All of them, harmless first.
    pub const ALL: [Self; 7] = [
        Self::Observe,
        Self::Scan,
        Self::Measure,
        Self::Command,
        Self::Deploy,
        Self::Image,
        Self::Destroy,
    ];

    /// The word used in the policy file.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Observe => "observe",
            Self::Scan => "scan",
            Self::Measure => "measure",
            Self::Command => "command",
            Self::Deploy => "deploy",
            Self::Image => "image",
            Self::Destroy => "destroy",
        }
    }
}

/// How runs share an agent's time (pScheduler contract, section 6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SchedulingClass {
    /// Any time, beside anything; one result.
    Background,
    /// Any time, beside anything; many results.
    BackgroundMulti,
    /// Alone on its agents.
    Exclusive,
    /// Beside anything but exclusive runs.
    Normal,
}

impl SchedulingClass {
    /// The word used in JSON and by pScheduler.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Background => "background",
            Self::BackgroundMulti => "background-multi",
            Self::Exclusive => "exclusive",
            Self::Normal => "normal",
        }
    }

    /// Whether runs of this class may be put anywhere.
    pub const fn anytime(self) -> bool {
        matches!(self, Self::Background | Self::BackgroundMulti)
    }

    /// Whether runs of the two classes may not overlap on one agent.
    pub const fn conflicts(self, other: Self) -> bool {
        !self.anytime()
            && !other.anytime()
            && matches!((self, other), (Self::Exclusive, _) | (_, Self::Exclusive))
    }
}

/// A kind of work that Muster has a tool for.
#[derive(Debug)]
pub struct Known {
    /// The kind's name.
    pub name: &'static str,
    /// One line for people.
    pub title: &'static str,
    /// The action class it falls under.
    pub class: ActionClass,
    /// How its runs share agents.
    pub scheduling: SchedulingClass,
    /// How long a run is planned to take when its spec does not say, in seconds.
    pub duration_secs: i64,
    /// Under which member the parts of a result are gathered, for kinds that report in parts.
    pub parts: Option<&'static str>,
    /// The member of the spec that holds credentials, for kinds that see little without.
    pub credentials: Option<&'static str>,
}

/// The kinds of work of this build, by name.
pub const KNOWN: &[Known] = &[
    Known {
        name: "clock",
        title: "measure the difference of clocks",
        class: ActionClass::Measure,
        scheduling: SchedulingClass::Background,
        duration_secs: 1,
        parts: None,
        credentials: None,
    },
    Known {
        name: "decom.qc",
        title: "collect and report the facts of a chassis",
        class: ActionClass::Observe,
        scheduling: SchedulingClass::Background,
        duration_secs: 60,
        parts: None,
        credentials: None,
    },
    Known {
        name: "idle",
        title: "do nothing for a while",
        class: ActionClass::Observe,
        scheduling: SchedulingClass::Background,
        duration_secs: 5,
        parts: None,
        credentials: None,
    },
    Known {
        name: "idleex",
        title: "do nothing for a while, and let nothing else be done",
        class: ActionClass::Observe,
        scheduling: SchedulingClass::Exclusive,
        duration_secs: 5,
        parts: None,
        credentials: None,
    },
    Known {
        name: "inventory",
        title: "describe the machine",
        class: ActionClass::Observe,
        scheduling: SchedulingClass::Background,
        duration_secs: 300,
        parts: None,
        credentials: None,
    },
    Known {
        name: "netdiscovery",
        title: "find devices in address ranges",
        class: ActionClass::Scan,
        scheduling: SchedulingClass::Background,
        duration_secs: 3600,
        parts: Some("devices"),
        credentials: Some("_credentials"),
    },
    Known {
        name: "noop",
        title: "do nothing at once",
        class: ActionClass::Observe,
        scheduling: SchedulingClass::Background,
        duration_secs: 5,
        parts: None,
        credentials: None,
    },
    Known {
        name: "rtt",
        title: "measure round trips to a host",
        class: ActionClass::Measure,
        scheduling: SchedulingClass::Background,
        duration_secs: 11,
        parts: None,
        credentials: None,
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grammar() {
        for good in ["rtt", "decom.disk_erase", "a-b", "x"] {
            assert_eq!(good.parse::<Kind>().expect("a kind").as_str(), good);
        }
        for bad in ["", "Rtt", "a b", "a/b", &"x".repeat(65), "é"] {
            assert!(bad.parse::<Kind>().is_err(), "{bad}");
        }
    }

    #[test]
    fn known_kinds_are_sorted_and_well_formed() {
        assert!(KNOWN.is_sorted_by_key(|known| known.name));
        for known in KNOWN {
            let kind: Kind = known.name.parse().expect("a kind");
            assert_eq!(kind.class(), Some(known.class));
        }
    }

    #[test]
    fn only_exclusive_runs_push_others_away() {
        use SchedulingClass::*;
        let all = [Background, BackgroundMulti, Exclusive, Normal];
        let conflicting: Vec<_> = all
            .iter()
            .flat_map(|a| all.iter().map(move |b| (*a, *b)))
            .filter(|(a, b)| a.conflicts(*b))
            .collect();
        assert_eq!(
            conflicting,
            [
                (Exclusive, Exclusive),
                (Exclusive, Normal),
                (Normal, Exclusive)
            ]
        );
    }
}
