//! What the crew remembers of jobs over restarts.
//!
//! Before a job acts, its intent is written down durably; when it has ended, so is the ending,
//! which stays until the server has acknowledged it. So a job is executed at most once, and its
//! ending is told at least once (threat model, section 6; teeth contract, section 7).

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard};

use futures_util::future::BoxFuture;
use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::RunKey;
use crate::tools::{Cause, Failure};

/// How a job ended.
#[derive(Clone, Debug, PartialEq)]
pub enum Ending {
    /// With a result.
    Finished(Value),
    /// Without one.
    Failed(Failure),
}

impl Ending {
    /// The form that is stored.
    #[must_use]
    pub fn to_json(&self) -> Value {
        match self {
            Self::Finished(result) => json!({ "result": result }),
            Self::Failed(failure) => {
                let mut members = Map::new();
                members.insert("cause".to_owned(), failure.cause.word().into());
                members.insert("reason".to_owned(), failure.reason.clone().into());
                if let Some(remedy) = &failure.remedy {
                    members.insert("remedy".to_owned(), remedy.clone().into());
                }
                if let Some(result) = &failure.result {
                    members.insert("result".to_owned(), result.clone());
                }
                json!({ "failed": members })
            }
        }
    }

    /// Reads the stored form; `None` when it is not one.
    #[must_use]
    pub fn from_json(stored: &Value) -> Option<Self> {
        if let Some(result) = stored.get("result") {
            return Some(Self::Finished(result.clone()));
        }
        let failed = stored.get("failed")?;
        let word = |name: &str| {
            failed
                .get(name)
                .and_then(Value::as_str)
                .map(ToOwned::to_owned)
        };
        Some(Self::Failed(Failure {
            cause: Cause::parse(&word("cause")?)?,
            reason: word("reason")?,
            remedy: word("remedy"),
            result: failed.get("result").cloned(),
        }))
    }
}

/// What is written down before a job acts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Intent {
    /// The job, under the generation it is begun with.
    pub key: RunKey,
    /// Kind of work.
    pub kind: String,
    /// Digest of kind, spec and targets: the same task id with other work is another job.
    pub fingerprint: String,
    /// When.
    pub at: Timestamp,
}

/// What is known about a job.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    /// As it was begun.
    pub intent: Intent,
    /// How it ended; `None` while it runs, or when the agent was stopped meanwhile.
    pub ending: Option<Ending>,
}

/// The memory could not be read or written.
#[derive(Debug, thiserror::Error)]
#[error("the agent's spool failed while {doing}")]
pub struct LedgerError {
    /// What was being done.
    pub doing: &'static str,
    /// What the store said.
    #[source]
    pub source: Box<dyn std::error::Error + Send + Sync>,
}

/// The memory of a crew.
pub trait Ledger: Send + Sync + 'static {
    /// What is known of a run, whatever its generation.
    fn recall<'a>(&'a self, key: &'a RunKey) -> BoxFuture<'a, Result<Option<Record>, LedgerError>>;

    /// Writes an intent down, durably before it returns; replaces an earlier one of the same run.
    fn intend(&self, intent: Intent) -> BoxFuture<'_, Result<(), LedgerError>>;

    /// Writes an ending down, durably before it returns.
    fn conclude<'a>(
        &'a self,
        key: &'a RunKey,
        ending: &'a Ending,
        at: Timestamp,
    ) -> BoxFuture<'a, Result<(), LedgerError>>;

    /// The server has the ending.
    fn acknowledge<'a>(&'a self, key: &'a RunKey) -> BoxFuture<'a, Result<(), LedgerError>>;

    /// Endings that one server has not acknowledged, oldest first.
    fn unacknowledged<'a>(
        &'a self,
        peer: &'a str,
    ) -> BoxFuture<'a, Result<Vec<Record>, LedgerError>>;

    /// Intents without an ending, oldest first.
    fn open(&self) -> BoxFuture<'_, Result<Vec<Intent>, LedgerError>>;

    /// Drops what was acknowledged and begun before a time.
    fn forget(&self, before: Timestamp) -> BoxFuture<'_, Result<(), LedgerError>>;
}

/// A memory that ends with the process: for simulations and tests.
#[derive(Debug, Default)]
pub struct MemoryLedger {
    rows: Mutex<BTreeMap<(String, String), Row>>,
}

#[derive(Debug)]
struct Row {
    record: Record,
    acknowledged: bool,
}

impl MemoryLedger {
    fn rows(&self) -> MutexGuard<'_, BTreeMap<(String, String), Row>> {
        match self.rows.lock() {
            Ok(guard) => guard,
            Err(poisoned) => poisoned.into_inner(),
        }
    }
}

impl Ledger for MemoryLedger {
    fn recall<'a>(&'a self, key: &'a RunKey) -> BoxFuture<'a, Result<Option<Record>, LedgerError>> {
        let found = self
            .rows()
            .get(&key.identity())
            .map(|row| row.record.clone());
        Box::pin(async move { Ok(found) })
    }

    fn intend(&self, intent: Intent) -> BoxFuture<'_, Result<(), LedgerError>> {
        let identity = intent.key.identity();
        let row = Row {
            record: Record {
                intent,
                ending: None,
            },
            acknowledged: false,
        };
        self.rows().insert(identity, row);
        Box::pin(async { Ok(()) })
    }

    fn conclude<'a>(
        &'a self,
        key: &'a RunKey,
        ending: &'a Ending,
        _at: Timestamp,
    ) -> BoxFuture<'a, Result<(), LedgerError>> {
        if let Some(row) = self.rows().get_mut(&key.identity()) {
            row.record.ending = Some(ending.clone());
        }
        Box::pin(async { Ok(()) })
    }

    fn acknowledge<'a>(&'a self, key: &'a RunKey) -> BoxFuture<'a, Result<(), LedgerError>> {
        if let Some(row) = self.rows().get_mut(&key.identity())
            && row.record.ending.is_some()
        {
            row.acknowledged = true;
        }
        Box::pin(async { Ok(()) })
    }

    fn unacknowledged<'a>(
        &'a self,
        peer: &'a str,
    ) -> BoxFuture<'a, Result<Vec<Record>, LedgerError>> {
        let mut found = self
            .rows()
            .values()
            .filter(|row| row.record.intent.key.peer == peer)
            .filter(|row| !row.acknowledged && row.record.ending.is_some())
            .map(|row| row.record.clone())
            .collect::<Vec<_>>();
        found.sort_by_key(|record| record.intent.at);
        Box::pin(async move { Ok(found) })
    }

    fn open(&self) -> BoxFuture<'_, Result<Vec<Intent>, LedgerError>> {
        let mut found = self
            .rows()
            .values()
            .filter(|row| row.record.ending.is_none())
            .map(|row| row.record.intent.clone())
            .collect::<Vec<_>>();
        found.sort_by_key(|intent| intent.at);
        Box::pin(async move { Ok(found) })
    }

    fn forget(&self, before: Timestamp) -> BoxFuture<'_, Result<(), LedgerError>> {
        self.rows()
            .retain(|_, row| !row.acknowledged || row.record.intent.at >= before);
        Box::pin(async { Ok(()) })
    }
}
