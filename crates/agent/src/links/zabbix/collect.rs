//! Collecting values: of this machine, or from the Zabbix agent of another.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use jiff::Timestamp;
use muster_net::dial::Endpoint;
use muster_net::{Clock, Protection};
use muster_proto::zabbix::Limits;
use muster_proto::zabbix::agent::Form;
use muster_proto::zabbix::check::{Answer, Question, parse_plain_answer};

use super::availability::Availability;
use super::exchange::{ExchangeError, packet};
use super::sampler::{Check, How};
use super::stock::Kept;
use super::{Reach, chain, nanoseconds};
use crate::policy::{ActionClass, Permit, PolicySource, Verdict};
use crate::tools::items::Items;

/// Agents polled at once.
const POLLERS: usize = 16;
/// How long an agent may take, as a real proxy waits.
const POLL_TIMEOUT: Duration = Duration::from_secs(3);

/// What collects.
#[derive(Clone)]
pub(super) struct Collector {
    pub(super) items: Arc<Items>,
    pub(super) policy: PolicySource,
    pub(super) availability: Availability,
    pub(super) limits: Limits,
    pub(super) clock: Clock,
    pub(super) reach: Reach,
}

impl Collector {
    /// Lets items that are made of a window take their sample.
    pub(super) fn tick(&self) {
        self.items.tick(self.clock.instant());
    }

    /// The values of what is due. Of an agent that cannot be reached there are none.
    pub(super) async fn collect(&self, due: Vec<Check>) -> Vec<Kept> {
        let policy = self.policy.clone();
        let read = self.clock.off_thread(move || policy.load());
        let Some(policy) = read.await else {
            return Vec::new();
        };
        let (here, elsewhere): (Vec<_>, Vec<_>) = due
            .into_iter()
            .partition(|check| !matches!(check.how, How::Agent { .. }));
        let mut values = self
            .read_here(here, policy.verdict(ActionClass::Observe))
            .await;
        if elsewhere.is_empty() {
            return values;
        }
        let permit = policy.verdict(ActionClass::Scan);
        let polls = elsewhere.into_iter().map(|check| self.poll(check, &permit));
        let mut polls = futures_util::stream::iter(polls).buffer_unordered(POLLERS);
        while let Some(value) = polls.next().await {
            values.extend(value);
        }
        values
    }

    /// The value of one item of this machine that is asked for now, or why there is none.
    pub(super) async fn read(&self, key: String) -> Answer {
        let (items, clock, policy) = (
            Arc::clone(&self.items),
            self.clock.clone(),
            self.policy.clone(),
        );
        let read = move || {
            let observe = policy.load().verdict(ActionClass::Observe);
            read(&items, &key, &observe, clock.now())
        };
        match self.clock.off_thread(read).await {
            Some(Ok(text)) => Answer::Value(text),
            Some(Err(why)) => Answer::NotSupported(why),
            None => Answer::NotSupported("The agent failed to read it.".to_owned()),
        }
    }

    async fn read_here(&self, checks: Vec<Check>, observe: Verdict) -> Vec<Kept> {
        let (items, clock) = (Arc::clone(&self.items), self.clock.clone());
        let read_all = move || {
            let read = |check: Check| {
                let now = clock.now();
                let answer = match (&check.how, check.delay) {
                    (How::Never(why), _) => Err(why.clone()),
                    (_, None) => Err(BAD_INTERVAL.to_owned()),
                    (_, Some(_)) => read(&items, &check.key, &observe, now),
                };
                kept(check.item, answer, now)
            };
            checks.into_iter().map(read).collect()
        };
        self.clock.off_thread(read_all).await.unwrap_or_default()
    }

    async fn poll(&self, check: Check, scan: &Verdict) -> Option<Kept> {
        let How::Agent {
            interface,
            endpoint,
        } = &check.how
        else {
            return None;
        };
        let now = self.clock.now();
        if check.delay.is_none() {
            return Some(kept(check.item, Err(BAD_INTERVAL.to_owned()), now));
        }
        let permit = match scan {
            Verdict::Allow(permit) => permit,
            Verdict::Deny(why) => return Some(kept(check.item, Err(why.clone()), now)),
        };
        let endpoint = match self.permitted(endpoint, permit).await {
            Ok(endpoint) => endpoint,
            Err(why) => return Some(kept(check.item, Err(why), now)),
        };
        match self.ask(&endpoint, &check.key).await {
            Ok(Answer::Value(value)) => {
                self.availability.answered(*interface);
                Some(kept(check.item, Ok(value), self.clock.now()))
            }
            Ok(Answer::NotSupported(why)) => {
                self.availability.answered(*interface);
                Some(kept(check.item, Err(why), self.clock.now()))
            }
            Err(error) => {
                let why = format!("Get value from agent failed: {}", chain(&error));
                self.availability
                    .failed(*interface, &why, self.clock.instant());
                None
            }
        }
    }

    /// The address to poll, if the owner of this machine lets a server have it polled.
    async fn permitted(&self, endpoint: &Endpoint, permit: &Permit) -> Result<Endpoint, String> {
        let address = match endpoint.host.parse::<IpAddr>() {
            Ok(address) => address,
            Err(_) => {
                let found = tokio::net::lookup_host((endpoint.host.as_str(), endpoint.port)).await;
                let first = found.ok().and_then(|mut found| found.next());
                first.map(|found| found.ip()).ok_or_else(|| {
                    format!(
                        "Get value from agent failed: cannot resolve [{}]",
                        endpoint.host
                    )
                })?
            }
        };
        if permit.allows(address) {
            Ok(SocketAddr::new(address, endpoint.port).into())
        } else {
            Err(format!(
                "The policy of this proxy does not let {address} be polled."
            ))
        }
    }

    async fn ask(&self, endpoint: &Endpoint, key: &str) -> Result<Answer, ExchangeError> {
        let question = Question::Plain {
            key: key.to_owned(),
        };
        let stream = (self.reach)(endpoint.clone(), Protection::Plain, POLL_TIMEOUT).await?;
        let text = question.encode();
        let (limits, clock) = (&self.limits, &self.clock);
        let reply = packet(
            stream,
            text.as_bytes(),
            Form::PLAIN,
            POLL_TIMEOUT,
            limits,
            clock,
        )
        .await?;
        let body = reply
            .open(&self.limits, &self.limits.stranger)
            .map_err(ExchangeError::Frame)?;
        Ok(parse_plain_answer(&body))
    }
}

/// Reads an item of this machine, if its owner lets a server have it. Blocks.
fn read(items: &Items, key: &str, observe: &Verdict, now: Timestamp) -> Result<String, String> {
    match observe {
        Verdict::Allow(_) => items
            .read_item(key, now)
            .map(|value| value.to_string())
            .map_err(|error| error.to_string()),
        Verdict::Deny(why) => Err(why.clone()),
    }
}

const BAD_INTERVAL: &str = "Invalid update interval.";

fn kept(item: u64, answer: Result<String, String>, now: Timestamp) -> Kept {
    let not_supported = answer.is_err();
    let value = match answer {
        Ok(text) | Err(text) => text,
    };
    Kept {
        item,
        clock: now.as_second(),
        ns: nanoseconds(now),
        value,
        not_supported,
    }
}
