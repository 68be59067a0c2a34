//! Passive checks: the server asks the Zabbix agents of hosts that no proxy monitors.
//!
//! Which hosts and items those are, and how often, is declared; nothing is decided here. An agent that
//! does not answer gives no value, and is noted like a peer that was refused, so that `explain` shows
//! it. Of several replicas one asks at a time. Contract: Zabbix page, sections 9 and 10.

use std::collections::BTreeMap;
use std::error::Error;
use std::time::Duration;

use futures_util::StreamExt as _;
use muster_core::agent::Wire;
use muster_core::sample::ItemType;
use muster_net::dial::{Endpoint, dial};
use muster_net::drive::{DriveLimits, OnEvent, drive};
use muster_net::{Clock, Protection};
use muster_proto::zabbix::Limits;
use muster_proto::zabbix::agent::{Event, Form, Session};
use muster_proto::zabbix::check::{Answer, Question, parse_plain_answer};
use muster_proto::zabbix::config::next_poll;
use muster_store::samples::{Batch, Row};
use tokio_util::sync::CancellationToken;

use super::digest::{Stamp, Told, reading};
use crate::control::{Control, ControlError, Duty};

/// Agents asked at once.
const POLLERS: usize = 32;
/// How long an agent may take, as a real server waits.
const POLL_TIMEOUT: Duration = Duration::from_secs(3);
/// How often the plan is looked at.
const TICK: Duration = Duration::from_secs(1);

/// One item to ask for.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Poll {
    item: u64,
    key: String,
    host: String,
    endpoint: Endpoint,
    delay: u64,
}

/// Asks what is due, each second, until `cancel`.
pub async fn poll_agents(control: Control, cancel: CancellationToken) {
    let mut duty = Duty::new(&control, "poll agents");
    poll_while_mine(&control, &mut duty, &cancel).await;
    duty.release().await;
}

async fn poll_while_mine(control: &Control, duty: &mut Duty, cancel: &CancellationToken) {
    let limits = Limits::default();
    let mut plan: BTreeMap<u64, (Poll, i64)> = BTreeMap::new();
    let mut shown = None;
    loop {
        tokio::select! {
            () = cancel.cancelled() => return,
            () = control.clock().sleep(TICK) => {}
        }
        let revision = control.item_index().revision();
        let now = control.clock().now().as_second();
        if shown != Some(revision) {
            match declared(control).await {
                Ok(polls) => {
                    plan = renewed(plan, polls, now);
                    shown = Some(revision);
                }
                Err(error) => {
                    tracing::warn!("what is to be polled cannot be read: {}", error.chain());
                    continue;
                }
            }
        }
        if plan.is_empty() {
            // An idle server writes nothing.
            duty.release().await;
            continue;
        }
        let mine = duty.is_mine().await;
        let mut due = Vec::new();
        for (poll, next) in plan.values_mut().filter(|(_, next)| *next <= now) {
            *next = next_poll(poll.item, poll.delay, now);
            due.push(poll.clone());
        }
        if due.is_empty() || !mine {
            continue;
        }
        tokio::select! {
            () = cancel.cancelled() => return,
            () = ask_all(control, due, &limits) => {}
        }
    }
}

/// What this server is to ask for itself.
async fn declared(control: &Control) -> Result<Vec<Poll>, ControlError> {
    let (_, monitored) = control.monitored(None).await?;
    let mut polls = Vec::new();
    for monitored in monitored {
        let (Some(monitoring), Some(host)) = (monitored.host.monitoring, monitored.host.facts.name)
        else {
            continue;
        };
        let agent_items = monitored
            .items
            .into_iter()
            .filter(|i| i.item_type == ItemType::Agent);
        polls.extend(agent_items.map(|item| {
            Poll {
                item: item.number,
                key: item.key,
                host: host.clone(),
                endpoint: Endpoint {
                    host: monitoring.address.clone(),
                    port: monitoring.port,
                },
                delay: item
                    .delay
                    .map_or(1, |delay| delay.as_secs().max(1))
                    .unsigned_abs(),
            }
        }));
    }
    Ok(polls)
}

/// What stays keeps its time; what is new or changed is due at once.
fn renewed(
    mut old: BTreeMap<u64, (Poll, i64)>,
    polls: Vec<Poll>,
    now: i64,
) -> BTreeMap<u64, (Poll, i64)> {
    let mut plan = BTreeMap::new();
    for poll in polls {
        let next = match old.remove(&poll.item) {
            Some((known, next)) if known == poll => next,
            Some(_) | None => now,
        };
        plan.insert(poll.item, (poll, next));
    }
    plan
}

async fn ask_all(control: &Control, due: Vec<Poll>, limits: &Limits) {
    let index = control.item_index();
    let asked = due.into_iter().map(|poll| async move {
        let answer = ask(&poll, limits, control.clock()).await;
        (poll, answer)
    });
    let mut asked = futures_util::stream::iter(asked).buffer_unordered(POLLERS);
    let mut rows = Vec::new();
    while let Some((poll, answer)) = asked.next().await {
        let (text, not_supported) = match answer {
            Ok(Answer::Value(text)) => (text, false),
            Ok(Answer::NotSupported(why)) => (why, true),
            Err(why) => {
                let at = poll.endpoint.to_string();
                control.refused_at(Wire::Zabbix, &at, "agent_unreachable", &poll.host, &why);
                continue;
            }
        };
        let now = control.clock().now();
        let told = Told {
            value: Some(&text),
            not_supported,
            log: None,
            replaced: false,
        };
        let entry = index.by_number(poll.item);
        let reading = entry.and_then(|entry| reading(entry, Stamp::at(now), &told, now));
        rows.extend(reading.map(|reading| Row { id: None, reading }));
    }
    let batch = Batch {
        peer: "server".to_owned(),
        session: None,
        rows,
    };
    if let Err(error) = control.ingest(batch).await {
        tracing::warn!("polled values were not stored: {}", error.chain());
    }
}

/// One question to one agent; the plain form, which agents of every version answer.
async fn ask(poll: &Poll, limits: &Limits, clock: &Clock) -> Result<Answer, String> {
    let stream = dial(&poll.endpoint, &Protection::Plain, POLL_TIMEOUT, clock)
        .await
        .map_err(|error| chain(&error))?;
    let question = Question::Plain {
        key: poll.key.clone(),
    }
    .encode();
    let now = clock.instant();
    let mut session = Session::new(question.as_bytes(), Form::PLAIN, limits, POLL_TIMEOUT, now)
        .map_err(|error| chain(&error))?;
    let mut outcome = Err("the connection gave no reply".to_owned());
    let mut handler = OnEvent(|_: &mut Session, event, _| {
        outcome = match event {
            Event::Reply(packet) => Ok(packet),
            Event::Closed(reason) => Err(chain(&reason)),
        };
    });
    let driving = DriveLimits {
        write_stall: POLL_TIMEOUT,
        ..DriveLimits::default()
    };
    let never = CancellationToken::new();
    let end = drive(stream, &mut session, &mut handler, clock, &driving, &never).await;
    if let (Err(_), Err(error)) = (&outcome, end) {
        return Err(chain(&error));
    }
    let body = outcome?
        .open(limits, &limits.stranger)
        .map_err(|error| chain(&error))?;
    Ok(parse_plain_answer(&body))
}

fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_declared_anew_is_asked_at_once() {
        let poll = |item, delay| Poll {
            item,
            key: "k".into(),
            host: "h".into(),
            endpoint: Endpoint {
                host: "127.0.0.1".into(),
                port: 10_050,
            },
            delay,
        };
        let plan = renewed(BTreeMap::new(), vec![poll(1, 10), poll(2, 10)], 1000);
        let later: BTreeMap<u64, (Poll, i64)> = plan
            .into_iter()
            .map(|(item, (poll, _))| (item, (poll, 1007)))
            .collect();
        let plan = renewed(later, vec![poll(1, 10), poll(2, 5), poll(3, 10)], 1003);
        let times: Vec<_> = plan
            .iter()
            .map(|(item, (_, next))| (*item, *next))
            .collect();
        assert_eq!(times, [(1, 1007), (2, 1003), (3, 1003)]);
    }
}
