//! The JSON side protocol of P2: deploy, collect and ESX over GET.
//!
//! FusionInventory contract, section 3. Muster gives none of that work yet, so questions are
//! answered with the protocol's own "nothing to do" and news of jobs nobody gave with `{}`.

use super::wire::{BadName, Limits, PeerName, is_plain};

/// Which of the remotes below a base is asked.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Remote {
    /// `b/collect/`
    Collect,
    /// `b/deploy/`
    Deploy,
    /// `b/esx/`
    Esx,
    /// The base itself.
    Main,
}

/// A question or piece of news.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Ask {
    /// `getConfig`: what tasks are there for me?
    Config {
        /// Who asks.
        machine: PeerName,
    },
    /// `getJobs`: what is there to do?
    Jobs {
        /// Who asks.
        machine: PeerName,
        /// For which task.
        remote: Remote,
    },
    /// `setStatus`, `setLog`, `setAnswer`, `setUserEvent`, `jobsDone`: news of a job.
    News {
        /// The action.
        action: &'static str,
        /// Who speaks, where it says so.
        machine: Option<PeerName>,
        /// The job.
        uuid: Option<String>,
    },
}

/// Why a query is refused.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum QueryError {
    /// `machineid` is missing or outside the grammar.
    #[error("machineid is missing or {0}")]
    MachineId(BadName),
    /// An action that is not served.
    #[error("action is not supported here")]
    NotSupported,
    /// The query is too long.
    #[error("more than {limit} bytes of query")]
    TooLong {
        /// The limit.
        limit: usize,
    },
}

const NEWS: [&str; 5] = [
    "jobsDone",
    "setAnswer",
    "setLog",
    "setStatus",
    "setUserEvent",
];

/// The answer to `getConfig`: nothing is scheduled.
pub const NO_CONFIG: &str = r#"{"configValidityPeriod":600,"schedule":[]}"#;

/// Whether a query has an `action`, which makes it one of this protocol.
#[must_use]
pub fn has_action(query: &str) -> bool {
    form_urlencoded::parse(query.as_bytes()).any(|(key, _)| key == "action")
}

impl Ask {
    /// Who speaks, where it says so.
    #[must_use]
    pub fn machine(&self) -> Option<&PeerName> {
        match self {
            Self::Config { machine } | Self::Jobs { machine, .. } => Some(machine),
            Self::News { machine, .. } => machine.as_ref(),
        }
    }

    /// Reads a query; parameters come in any order.
    ///
    /// # Errors
    /// [`QueryError`].
    pub fn parse(query: &str, remote: Remote, limits: &Limits) -> Result<Self, QueryError> {
        if query.len() > limits.query_bytes {
            return Err(QueryError::TooLong {
                limit: limits.query_bytes,
            });
        }
        let (mut action, mut machine, mut uuid) = (None, None, None);
        for (key, value) in form_urlencoded::parse(query.as_bytes()) {
            match key.as_ref() {
                "action" => action = Some(value.into_owned()),
                "machineid" => machine = Some(PeerName::parse(&value)),
                "uuid" => uuid = Some(value.into_owned()).filter(|u| is_plain(u, 255)),
                _ => {}
            }
        }
        let named = |machine: Option<Result<PeerName, BadName>>| {
            machine
                .unwrap_or(Err(BadName))
                .map_err(QueryError::MachineId)
        };
        match action.as_deref() {
            Some("getConfig") => Ok(Self::Config {
                machine: named(machine)?,
            }),
            Some("getJobs") => Ok(Self::Jobs {
                machine: named(machine)?,
                remote,
            }),
            Some(other) => match NEWS.into_iter().find(|name| *name == other) {
                Some(action) => Ok(Self::News {
                    action,
                    machine: machine.transpose().map_err(QueryError::MachineId)?,
                    uuid,
                }),
                None => Err(QueryError::NotSupported),
            },
            None => Err(QueryError::NotSupported),
        }
    }
}

/// The answer to `getJobs`: nothing to do, in the shape that task reads.
#[must_use]
pub fn no_jobs(remote: Remote) -> &'static str {
    match remote {
        Remote::Collect => r#"{"jobs":[],"postmethod":"POST"}"#,
        Remote::Deploy => r#"{"jobs":[],"associatedFiles":{}}"#,
        Remote::Esx | Remote::Main => r#"{"jobs":[]}"#,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries() {
        let limits = Limits::default();
        let parse = |query: &str| Ask::parse(query, Remote::Deploy, &limits);
        let machine = PeerName::parse("m").unwrap();
        assert_eq!(
            parse("task%5BDeploy%5D=2.8&machineid=m&action=getConfig"),
            Ok(Ask::Config {
                machine: machine.clone()
            })
        );
        assert_eq!(
            parse("action=getJobs&version=2.8&machineid=m"),
            Ok(Ask::Jobs {
                machine: machine.clone(),
                remote: Remote::Deploy
            })
        );
        assert_eq!(
            parse("action=setStatus&machineid=m&uuid=u&part=job&msg=x"),
            Ok(Ask::News {
                action: "setStatus",
                machine: Some(machine),
                uuid: Some("u".to_owned())
            })
        );
        assert_eq!(
            parse("action=jobsDone&uuid=u"),
            Ok(Ask::News {
                action: "jobsDone",
                machine: None,
                uuid: Some("u".to_owned())
            })
        );
        assert!(matches!(
            parse("action=getJobs"),
            Err(QueryError::MachineId(_))
        ));
        assert!(matches!(
            parse("action=getConfig&machineid=a/b"),
            Err(QueryError::MachineId(_))
        ));
        assert_eq!(
            parse("action=wait&machineid=m"),
            Err(QueryError::NotSupported)
        );
        assert_eq!(parse(""), Err(QueryError::NotSupported));
        let long = format!("action=getJobs&machineid={}", "x".repeat(70_000));
        assert!(matches!(parse(&long), Err(QueryError::TooLong { .. })));
    }

    #[test]
    fn nothing_to_do_is_json() {
        for remote in [Remote::Collect, Remote::Deploy, Remote::Esx, Remote::Main] {
            let value: serde_json::Value = serde_json::from_str(no_jobs(remote)).unwrap();
            assert_eq!(value["jobs"], serde_json::json!([]));
        }
        let value: serde_json::Value = serde_json::from_str(NO_CONFIG).unwrap();
        assert_eq!(value["schedule"], serde_json::json!([]));
    }
}
