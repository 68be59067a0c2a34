//! From the crew's news to uploads: what the family defines as P2 messages, the rest as JSON.
//!
//! One word at a time, in order; a server that cannot be reached holds the line up, and the tools
//! behind it, until it can. An ending is acknowledged to the crew once the server has it, or has
//! said that it never will.

use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode};
use muster_proto::fusion::agent::{self, AnswerError, Backoff};
use muster_proto::fusion::body::Packing;
use muster_proto::fusion::inventory::Inventory;
use muster_proto::fusion::news::JobNews;
use muster_proto::fusion::p2::{Content, Device, Message, Word as Said};
use serde_json::Value;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::plan::{id_of, name_of};
use super::{ExchangeError, FusionLink};
use crate::crew::{News, RunKey, Word};
use crate::tools::{Cause, Failure};

/// Waits between attempts to tell a word.
const FIRST_WAIT: Duration = Duration::from_secs(1);
const LONGEST_WAIT: Duration = Duration::from_secs(300);
/// Progress is told in steps of so many percent.
const PROGRESS_STEP: u8 = 10;

/// What the link remembers of a job to tell about it.
#[derive(Clone, Debug)]
pub(super) struct Told {
    task: String,
    kind: String,
    addresses: u64,
    /// Nothing was told of its parts under this offer: the ending brings them.
    pub(super) tell_parts: bool,
    percent: u8,
}

impl Told {
    pub(super) fn new(task: &str, kind: &str, addresses: u64) -> Self {
        Self {
            task: task.to_owned(),
            kind: kind.to_owned(),
            addresses,
            tell_parts: false,
            percent: 0,
        }
    }

    /// A job that ended under another offer or in an earlier life.
    pub(super) fn ended(kind: &str) -> Self {
        Self {
            tell_parts: true,
            ..Self::new("", kind, 0)
        }
    }
}

/// Why a word was not told.
enum Untold {
    /// The server will never take it.
    Never(ExchangeError),
    /// The agent ends.
    Stopped,
}

impl FusionLink {
    /// Tells what is heard until the line closes or `stop`.
    pub(super) async fn tell_all(&self, mut heard: mpsc::Receiver<News>, stop: &CancellationToken) {
        loop {
            let news = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                news = heard.recv() => news,
            };
            let Some(news) = news else { return };
            let ends = matches!(news.word, Word::Finished(_) | Word::Failed(_));
            let told = self.tell(&news.key, news.word, stop).await;
            match told {
                Ok(()) => {}
                Err(Untold::Stopped) => return,
                Err(Untold::Never(error)) => {
                    let reason = error.chain();
                    tracing::warn!(run.id = %news.key.run, "the server takes no news: {reason}");
                }
            }
            if ends {
                // Older offers of the run have nothing more to say either.
                let (run, generation) = name_of(&news.key);
                self.jobs().retain(|(r, g), _| *r != run || *g > generation);
                if let Err(error) = self.crew.acknowledge(&news.key).await {
                    tracing::error!(
                        run.id = %news.key.run,
                        error = &error as &dyn std::error::Error,
                        "an acknowledgement could not be written down"
                    );
                }
            }
        }
    }

    async fn tell(&self, key: &RunKey, word: Word, stop: &CancellationToken) -> Result<(), Untold> {
        let job = id_of(key);
        let told = self.jobs().get(&name_of(key)).cloned();
        let told = told.unwrap_or_else(|| Told::new("", "", 0));
        let is_discovery = told.kind == "netdiscovery";
        match word {
            Word::Begun if is_discovery => {
                let start = Said::Start {
                    agent_version: Some(self.config.version.clone()),
                };
                for said in [start, Said::Count(told.addresses)] {
                    self.say(&job, Content::NetDiscovery(vec![said]), stop)
                        .await?;
                }
                Ok(())
            }
            Word::Begun => self.optional(self.news(&job, &told, JobNews::Begun, stop).await),
            Word::Progress(progress) => {
                let percent = percent(progress.percent);
                if percent < told.percent.saturating_add(PROGRESS_STEP) {
                    return Ok(());
                }
                if let Some(told) = self.jobs().get_mut(&name_of(key)) {
                    told.percent = percent;
                }
                self.optional(
                    self.news(&job, &told, JobNews::Progress { percent }, stop)
                        .await,
                )
            }
            Word::Found { value, .. } if is_discovery => match Device::from_json(&value) {
                Some(device) => {
                    let said = vec![Said::Device(device)];
                    self.say(&job, Content::NetDiscovery(said), stop).await
                }
                None => Ok(()),
            },
            Word::Found { .. } => Ok(()),
            Word::Finished(result) if is_discovery => {
                if told.tell_parts {
                    for device in devices(&result) {
                        let said = vec![Said::Device(device)];
                        self.say(&job, Content::NetDiscovery(said), stop).await?;
                    }
                }
                self.say(&job, Content::NetDiscovery(vec![Said::End]), stop)
                    .await
            }
            Word::Finished(result) if told.kind == "inventory" => {
                let inventory = Inventory {
                    content: result.to_string(),
                    partial: false,
                    tag: None,
                };
                self.say(&job, Content::Inventory(inventory), stop).await
            }
            Word::Finished(result) => {
                let result = Some(result.to_string());
                self.news(&job, &told, JobNews::Succeeded { result }, stop)
                    .await
            }
            Word::Failed(failure) => {
                let told_it = self.news(&job, &told, failed(failure), stop).await;
                match told_it {
                    // A server that follows the publication has no place for it: P2 says it so.
                    Err(Untold::Never(error)) if is_discovery && is_missing(&error) => {
                        self.say(&job, Content::NetDiscovery(vec![Said::Exit]), stop)
                            .await
                    }
                    other => other,
                }
            }
        }
    }

    async fn say(
        &self,
        job: &str,
        content: Content,
        stop: &CancellationToken,
    ) -> Result<(), Untold> {
        let message = Message {
            device: self.peer.clone(),
            process: Some(job.to_owned()),
            content,
        };
        let request = || agent::message_request(&self.config.url.base, &message, Packing::Zlib);
        self.deliver(request, true, stop).await
    }

    async fn news(
        &self,
        job: &str,
        told: &Told,
        news: JobNews,
        stop: &CancellationToken,
    ) -> Result<(), Untold> {
        let base = &self.config.url.base;
        let request = || agent::news_request(base, &self.peer, &told.task, job, &news);
        self.deliver(request, false, stop).await
    }

    /// News that a server may do without.
    fn optional(&self, told: Result<(), Untold>) -> Result<(), Untold> {
        match told {
            Err(Untold::Never(error)) if is_missing(&error) => Ok(()),
            other => other,
        }
    }

    /// Sends until the server has taken it, has said that it never will, or the agent ends.
    async fn deliver(
        &self,
        request: impl Fn() -> Request<Bytes>,
        is_xml: bool,
        stop: &CancellationToken,
    ) -> Result<(), Untold> {
        let mut backoff = Backoff::new(FIRST_WAIT, LONGEST_WAIT);
        loop {
            let sent = tokio::select! {
                biased;
                () = stop.cancelled() => return Err(Untold::Stopped),
                sent = self.send(request()) => sent,
            };
            let taken = sent.and_then(|response| {
                let read = match is_xml {
                    true => agent::decode_reply(&response, &self.limits).map(drop),
                    false => agent::decode_accepted(&response, &self.limits),
                };
                read.map_err(ExchangeError::from)
            });
            let error = match taken {
                Ok(()) => return Ok(()),
                Err(error) if error.is_final() => return Err(Untold::Never(error)),
                Err(error) => error,
            };
            let wait = backoff.failed();
            let wait = error.retry_after().map_or(wait, |asked| asked.max(wait));
            tracing::debug!(server = %self.config.url, "news not taken yet: {}", error.chain());
            tokio::select! {
                biased;
                () = stop.cancelled() => return Err(Untold::Stopped),
                () = self.clock.sleep(wait) => {}
            }
        }
    }
}

fn is_missing(error: &ExchangeError) -> bool {
    matches!(
        error,
        ExchangeError::Answer(AnswerError::Refused {
            status: StatusCode::NOT_FOUND,
            ..
        })
    )
}

fn failed(failure: Failure) -> JobNews {
    let reason = match failure.remedy {
        Some(remedy) => format!("{}; {remedy}", failure.reason),
        None => failure.reason,
    };
    match failure.cause {
        Cause::Denied => JobNews::Refused { reason },
        Cause::Cancelled
        | Cause::Deadline
        | Cause::Failed
        | Cause::Interrupted
        | Cause::Permission => JobNews::Failed {
            reason,
            result: failure.result.map(|result| result.to_string()),
        },
    }
}

fn devices(result: &Value) -> Vec<Device> {
    let list = result.get("devices").and_then(Value::as_array);
    list.map(|list| list.iter().filter_map(Device::from_json).collect())
        .unwrap_or_default()
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "clamped to what fits before it is cast"
)]
fn percent(percent: f64) -> u8 {
    percent.clamp(0.0, 100.0) as u8
}
