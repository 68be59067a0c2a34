//! From a P1 task to jobs of the crew.

use muster_core::run::OfferToken;
use muster_proto::fusion::p1::{Job as Wanted, Readable, Task, Work};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::FusionLink;
use super::tell::Told;
use crate::crew::{Accepted, Job, News, Refusal, RunKey, Word};
use crate::tools::Failure;

/// The server's name for a run and its offer. Muster's own ids hold a generation; any other id
/// stands for itself, offered once.
pub(super) fn key_of(peer: &str, job: &str) -> RunKey {
    let (run, generation) = match job.parse::<OfferToken>() {
        Ok(token) => (token.run.to_string(), u64::from(token.generation)),
        Err(_) => (job.to_owned(), 0),
    };
    RunKey {
        peer: peer.to_owned(),
        run,
        generation,
    }
}

/// What the link remembers a job by.
pub(super) fn name_of(key: &RunKey) -> (String, u64) {
    (key.run.clone(), key.generation)
}

/// The job id that a key came from.
pub(super) fn id_of(key: &RunKey) -> String {
    match key.generation {
        0 => key.run.clone(),
        generation => format!("{}.{generation}", key.run),
    }
}

impl FusionLink {
    /// Hands the jobs of a task to the crew, in order and in one lane. What cannot be taken is told
    /// for that job; the next one follows.
    pub(super) async fn take(&self, task: Task, news: &mpsc::Sender<News>) {
        for job in task.jobs {
            self.take_job(&task.id, job, news).await;
        }
    }

    async fn take_job(&self, task: &str, wanted: Wanted, news: &mpsc::Sender<News>) {
        let key = key_of(&self.config.url.to_string(), &wanted.id);
        let kind = wanted.work.kind().to_owned();
        let (spec, targets, addresses) = match spec_of(&wanted.work) {
            Ok(read) => read,
            Err(reason) => {
                self.jobs().insert(name_of(&key), Told::new(task, &kind, 0));
                return self
                    .answer(key, Word::Failed(Failure::failed(reason)), news)
                    .await;
            }
        };
        let again = {
            let mut jobs = self.jobs();
            let again = jobs.contains_key(&name_of(&key));
            jobs.entry(name_of(&key))
                .or_insert_with(|| Told::new(task, &kind, addresses));
            again
        };
        let job = Job {
            targets,
            workers: wanted.workers,
            // One lane for each server: tasks and jobs strictly one after another.
            lane: Some(format!("fusion {}", self.config.url)),
            unproven: self.config.url.is_unproven(),
            ..Job::new(key.clone(), kind, spec)
        };
        match self.crew.submit(job, news.clone()).await {
            Ok(Accepted::Started) => {}
            // The server does not know that it is under way, or it would not have offered it again.
            Ok(Accepted::Running(_)) => self.answer(key, Word::Begun, news).await,
            Ok(Accepted::Ended(ending)) => {
                if let Some(told) = self.jobs().get_mut(&name_of(&key)) {
                    told.tell_parts = true;
                }
                self.answer(key, Word::ending(ending), news).await;
            }
            // The offer lapses and comes again, to an agent that is up.
            Err(Refusal::Closed) => {
                if !again {
                    self.jobs().remove(&name_of(&key));
                }
            }
            Err(refusal) => {
                let reason = reason_of(&refusal);
                self.answer(key, Word::Failed(Failure::denied(reason)), news)
                    .await;
            }
        }
    }

    async fn answer(&self, key: RunKey, word: Word, news: &mpsc::Sender<News>) {
        let at = self.clock.now();
        // The receiver lives as long as the link; when it has gone there is nobody to tell.
        let _ = news.send(News { key, at, word }).await;
    }

    /// Puts endings that no server acknowledged, of this or an earlier life, on the line again.
    pub(super) async fn retell(&self, news: &mpsc::Sender<News>) {
        let peer = self.config.url.to_string();
        let records = match self.crew.unacknowledged(&peer).await {
            Ok(records) => records,
            Err(error) => {
                tracing::error!(
                    error = &error as &dyn std::error::Error,
                    "the ledger cannot be read"
                );
                return;
            }
        };
        for record in records {
            let Some(ending) = record.ending else {
                continue;
            };
            let intent = record.intent;
            let told = Told::ended(&intent.kind);
            self.jobs().insert(name_of(&intent.key), told);
            self.answer(intent.key, Word::ending(ending), news).await;
        }
    }
}

fn reason_of(refusal: &Refusal) -> String {
    let mut text = refusal.to_string();
    let mut cause = std::error::Error::source(refusal);
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

/// Spec and targets for the crew, and how many addresses they name. A target that cannot be read
/// is left out; its siblings are worked on. A job with none that can is refused as a whole.
fn spec_of(work: &Work) -> Result<(Value, Vec<Value>, u64), String> {
    match work {
        Work::Inventory(options) => {
            Ok((json!({"no-category": options.no_category}), Vec::new(), 0))
        }
        Work::NetDiscovery(targets) => {
            let good = readable(targets)?;
            let addresses = good.iter().map(|target| target.network.count()).sum();
            Ok((
                json!({}),
                good.iter().map(|target| target.to_json()).collect(),
                addresses,
            ))
        }
        Work::NetInventory(targets) => {
            let good = readable(targets)?;
            Ok((
                json!({}),
                good.iter().map(|target| target.to_json()).collect(),
                0,
            ))
        }
        Work::WakeOnLan(targets) => {
            let good = readable(targets)?.into_iter().map(|target| {
                json!({"address": target.address, "ethernet": target.ethernet, "udp": target.udp})
            });
            Ok((json!({}), good.collect(), 0))
        }
        Work::Other { spec, targets, .. } => {
            let parse = |text: &str| serde_json::from_str(text).map_err(|e| e.to_string());
            let spec = spec.as_deref().map_or_else(|| Ok(json!({})), parse)?;
            let targets = targets.iter().map(|t| parse(t)).collect::<Result<_, _>>()?;
            Ok((spec, targets, 0))
        }
        Work::Unusable { error, .. } => Err(error.to_string()),
    }
}

fn readable<T>(targets: &[Readable<T>]) -> Result<Vec<&T>, String> {
    let mut good = Vec::new();
    let mut first_bad = None;
    for target in targets {
        match target {
            Ok(target) => good.push(target),
            Err(error) => {
                tracing::warn!("a target is left out: {error}");
                first_bad.get_or_insert(error);
            }
        }
    }
    match (good.is_empty(), first_bad) {
        (true, Some(error)) => Err(error.to_string()),
        (true, None) => Err("the job names no target".to_owned()),
        (false, _) => Ok(good),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn job_ids_and_keys() {
        let ours = "0192f0c1-8a3b-7c4d-9e5f-001122334455.3";
        let key = key_of("http://x/", ours);
        assert_eq!((key.generation, id_of(&key).as_str()), (3, ours));
        for theirs in ["job1.1", "7", "a.b.c"] {
            let key = key_of("http://x/", theirs);
            assert_eq!((key.generation, id_of(&key).as_str()), (0, theirs));
        }
    }
}
