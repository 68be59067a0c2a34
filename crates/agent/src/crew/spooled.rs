//! The crew's memory in the agent's spool: what it holds survives `kill -9` and a power cut.

use futures_util::future::BoxFuture;
use jiff::Timestamp;
use muster_store::StoreError;
use muster_store::spool::{JobIntent, JobRecord, Spool};
use serde_json::Value;

use super::RunKey;
use super::ledger::{Ending, Intent, Ledger, LedgerError, Record};

/// A [`Ledger`] over a [`Spool`].
#[derive(Clone, Debug)]
pub struct SpoolLedger {
    spool: Spool,
}

impl SpoolLedger {
    /// Keeps the jobs in `spool`.
    #[must_use]
    pub fn new(spool: Spool) -> Self {
        Self { spool }
    }
}

/// An ending in the spool that is not one.
#[derive(Debug, thiserror::Error)]
#[error("the ending of run {run} does not read back")]
struct BadEnding {
    run: String,
}

fn failed(doing: &'static str) -> impl FnOnce(StoreError) -> LedgerError {
    move |source| LedgerError {
        doing,
        source: Box::new(source),
    }
}

fn intent(stored: JobIntent) -> Intent {
    Intent {
        key: RunKey {
            peer: stored.peer,
            run: stored.run,
            generation: stored.generation,
        },
        kind: stored.kind,
        fingerprint: stored.fingerprint,
        at: stored.at,
    }
}

fn record(stored: JobRecord) -> Result<Record, LedgerError> {
    let ending = stored
        .ending
        .map(|text| {
            serde_json::from_str::<Value>(&text)
                .ok()
                .and_then(|value| Ending::from_json(&value))
                .ok_or_else(|| LedgerError {
                    doing: "reading the ending of a job",
                    source: Box::new(BadEnding {
                        run: stored.intent.run.clone(),
                    }),
                })
        })
        .transpose()?;
    Ok(Record {
        intent: intent(stored.intent),
        ending,
    })
}

impl Ledger for SpoolLedger {
    fn recall<'a>(&'a self, key: &'a RunKey) -> BoxFuture<'a, Result<Option<Record>, LedgerError>> {
        Box::pin(async {
            let found = self.spool.recall(&key.peer, &key.run).await;
            found
                .map_err(failed("recalling a job"))?
                .map(record)
                .transpose()
        })
    }

    fn intend(&self, intent: Intent) -> BoxFuture<'_, Result<(), LedgerError>> {
        Box::pin(async move {
            let stored = JobIntent {
                peer: intent.key.peer,
                run: intent.key.run,
                generation: intent.key.generation,
                kind: intent.kind,
                fingerprint: intent.fingerprint,
                at: intent.at,
            };
            let written = self.spool.intend(stored).await;
            written.map_err(failed("writing down that a job begins"))
        })
    }

    fn conclude<'a>(
        &'a self,
        key: &'a RunKey,
        ending: &'a Ending,
        at: Timestamp,
    ) -> BoxFuture<'a, Result<(), LedgerError>> {
        Box::pin(async move {
            let text = ending.to_json().to_string();
            let written = self.spool.conclude(&key.peer, &key.run, &text, at).await;
            written.map_err(failed("writing down how a job ended"))
        })
    }

    fn acknowledge<'a>(&'a self, key: &'a RunKey) -> BoxFuture<'a, Result<(), LedgerError>> {
        Box::pin(async {
            let written = self.spool.acknowledge_job(&key.peer, &key.run).await;
            written.map_err(failed("writing down that a server has an ending"))
        })
    }

    fn unacknowledged<'a>(
        &'a self,
        peer: &'a str,
    ) -> BoxFuture<'a, Result<Vec<Record>, LedgerError>> {
        Box::pin(async {
            let found = self.spool.unacknowledged(peer).await;
            let found = found.map_err(failed("reading what a server has not heard"))?;
            found.into_iter().map(record).collect()
        })
    }

    fn open(&self) -> BoxFuture<'_, Result<Vec<Intent>, LedgerError>> {
        Box::pin(async {
            let found = self.spool.unfinished().await;
            let found = found.map_err(failed("reading jobs that were cut off"))?;
            Ok(found.into_iter().map(intent).collect())
        })
    }

    fn forget(&self, before: Timestamp) -> BoxFuture<'_, Result<(), LedgerError>> {
        Box::pin(async move {
            let done = self.spool.forget(before).await;
            done.map(drop).map_err(failed("forgetting old jobs"))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crew::MemoryLedger;
    use crate::tools::{Cause, Failure};

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn key(run: &str, generation: u64) -> RunKey {
        RunKey {
            peer: "http://one".to_owned(),
            run: run.to_owned(),
            generation,
        }
    }

    fn begun(run: &str, generation: u64, second: i64) -> Intent {
        Intent {
            key: key(run, generation),
            kind: "noop".to_owned(),
            fingerprint: "f".to_owned(),
            at: at(second),
        }
    }

    /// One story, told to the memory of a process and to that of the disk: they must not differ.
    async fn story(ledger: &dyn Ledger) -> String {
        let mut seen = Vec::new();
        let endings = [
            Ending::Finished(serde_json::json!({"a": [1, null, "x"]})),
            Ending::Failed(Failure {
                cause: Cause::parse("failed").unwrap_or_else(|| panic!("a cause")),
                reason: "no route".to_owned(),
                remedy: Some("plug it in".to_owned()),
                result: None,
            }),
        ];
        seen.push(format!("{:?}", ledger.recall(&key("r1", 1)).await.unwrap()));
        ledger.intend(begun("r1", 1, 30)).await.unwrap();
        ledger.intend(begun("r2", u64::MAX, 20)).await.unwrap();
        ledger.intend(begun("r3", 1, 10)).await.unwrap();
        seen.push(format!("{:?}", ledger.open().await.unwrap()));
        for (run, ending) in ["r1", "r2"].iter().zip(&endings) {
            ledger.conclude(&key(run, 1), ending, at(40)).await.unwrap();
        }
        ledger.acknowledge(&key("r3", 1)).await.unwrap();
        seen.push(format!("{:?}", ledger.open().await.unwrap()));
        seen.push(format!(
            "{:?}",
            ledger.unacknowledged("http://one").await.unwrap()
        ));
        seen.push(format!(
            "{:?}",
            ledger.unacknowledged("http://two").await.unwrap()
        ));
        ledger.acknowledge(&key("r1", 9)).await.unwrap();
        seen.push(format!(
            "{:?}",
            ledger.unacknowledged("http://one").await.unwrap()
        ));
        ledger.forget(at(1000)).await.unwrap();
        for run in ["r1", "r2", "r3"] {
            seen.push(format!("{:?}", ledger.recall(&key(run, 7)).await.unwrap()));
        }
        ledger.intend(begun("r2", 2, 50)).await.unwrap();
        seen.push(format!("{:?}", ledger.recall(&key("r2", 2)).await.unwrap()));
        seen.join("\n")
    }

    #[tokio::test]
    async fn the_disk_remembers_as_the_memory_does() {
        let expected = story(&MemoryLedger::default()).await;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("spool.db");
        let spool = Spool::open(Some(path.clone()), at(0)).await.unwrap();
        assert_eq!(story(&SpoolLedger::new(spool)).await, expected);
        let again = SpoolLedger::new(Spool::open(Some(path), at(0)).await.unwrap());
        let kept = again.recall(&key("r2", 1)).await.unwrap().unwrap();
        assert_eq!(kept.intent, begun("r2", 2, 50));
    }

    #[tokio::test]
    async fn an_ending_that_is_none_is_an_error_that_names_the_run() {
        let spool = Spool::open(None, at(0)).await.unwrap();
        let ledger = SpoolLedger::new(spool.clone());
        ledger.intend(begun("r1", 1, 0)).await.unwrap();
        spool
            .conclude("http://one", "r1", "{}", at(1))
            .await
            .unwrap();
        let error = ledger.recall(&key("r1", 1)).await.unwrap_err();
        assert!(error.source.to_string().contains("r1"), "{error:?}");
    }
}
