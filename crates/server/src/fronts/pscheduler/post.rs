//! What a posted task means here: who may post it, who does it, when.
//!
//! The checks and their order are those of the contract (section 3, "POST /tasks"). A task for this
//! server's host is done by any agent that can; one that names an agent as its host is done by that
//! agent. Hosts that are neither would be participants of their own: they are refused.

use jiff::{SignedDuration, Timestamp};
use muster_core::schedule::{CronExpr, Schedule, Start};
use muster_core::task::{Assignee, Origin};
use muster_core::time::{saturating_add, whole_seconds};
use muster_net::is_own_address;
use muster_proto::pscheduler::plugins::Accepted;
use muster_proto::pscheduler::time::{IsoDuration, Stamp};
use muster_proto::pscheduler::wire::{TaskSpec, host_of};
use serde_json::{Value, json};

use super::{Caller, Front, Reject, reject_of, stamp};
use crate::control::work::sanitised;
use crate::control::{NewTask, Trouble};
use crate::kinds;

/// From the posting to the first start of a task that names none and has one participant (contract,
/// section 6).
const FIRST_START: SignedDuration = SignedDuration::from_secs(5);

/// Members of a specification that say who takes part. They are ours to resolve; an agent would
/// take them for hosts of its own.
const NODES: [&str; 4] = ["host", "host-node", "source", "source-node"];

impl Front {
    /// Takes a posted task; returns its address.
    pub(super) async fn post(&self, document: Value, caller: &Caller) -> Result<String, Reject> {
        let invalid =
            |text: String| Reject::new(400, format!("Invalid task specification: {text}"));
        self.catalogue.check_task(&document).map_err(invalid)?;
        let task = TaskSpec::of_document(document, &self.limits).map_err(invalid)?;
        let host = caller.base.host();
        let accepted = self.catalogue.accept(&task, host, &self.limits)?;
        let kind = task
            .kind
            .parse()
            .map_err(|_| Reject::no_plugin("test", &task.kind))?;
        kinds::check_ranges(&kind, &task.spec, &[])
            .map_err(|error| Reject::new(400, format!("Invalid test specification: {error}")))?;
        if let Some(bind) = &task.lead_bind
            && !bind.parse().is_ok_and(is_own_address)
        {
            return Err(Reject::new(
                400,
                format!("Lead bind '{bind}' is not  on this host"),
            ));
        }
        self.may_post(caller)?;
        let now = self.control.clock().now();
        let schedule = schedule(&task, &accepted, now, self.is_own_kind(&task.kind))?;
        let assignee = self.assignee(&accepted, caller).await?;
        let mut new = NewTask::new(kind, Origin::Pscheduler, spec_for_agent(&task));
        let start = match schedule.start {
            Start::At(start) if task.schedule.start_named => Some(stamp(start).seconds()),
            Start::At(_) | Start::Soonest => None,
        };
        new.schedule = schedule;
        new.assignee = assignee;
        new.priority = task.priority.unwrap_or(0);
        new.length = Some(signed(accepted.duration));
        new.peer = Some(json!({
            "document": task.document,
            "tool": accepted.tool,
            "participants": accepted.participants.hosts,
            // Arguments are texts, in which what is secret could not be told any more.
            "cli": self.catalogue.test(&task.kind)?.args_of_spec(&sanitised(&task.spec)),
            "start": start,
            "requester": caller.address.to_string(),
            "server": caller.server.to_string()
        }));
        let stored = self
            .control
            .submit(new)
            .await
            .map_err(|error| reject_of(&error))?;
        Ok(caller.base.url(&format!("/tasks/{}", stored.id)))
    }

    fn is_own_kind(&self, test: &str) -> bool {
        self.catalogue
            .test(test)
            .is_ok_and(|test| test.is_own_kind())
    }

    /// Without a limits file this machine's own addresses may post, and everybody where the
    /// configuration says so (threat model, section 2).
    fn may_post(&self, caller: &Caller) -> Result<(), Reject> {
        if caller.own || self.control.settings().pscheduler_open {
            return Ok(());
        }
        Err(Reject::new(
            403,
            format!(
                "Task forbidden by limits:\nHints:\n  requester: {}\n  server: {}\n\
                 Made no identifications.\nProposal does not meet limits\n\
                 Priority set to default of 0",
                caller.address, caller.server
            ),
        ))
    }

    async fn assignee(&self, accepted: &Accepted, caller: &Caller) -> Result<Assignee, Reject> {
        let Some(Some(named)) = accepted.participants.hosts.first() else {
            return Ok(Assignee::Any);
        };
        let host = host_of(named).trim_end_matches('.');
        let ours = [caller.base.host(), self.hostname.as_str(), "localhost"];
        let short = self.hostname.split('.').next().unwrap_or_default();
        if ours
            .into_iter()
            .chain([short])
            .any(|name| name.eq_ignore_ascii_case(host))
            || host.parse().is_ok_and(is_own_address)
        {
            return Ok(Assignee::Any);
        }
        match self.control.find_agent(host).await {
            Ok(found) if found.agent.name.eq_ignore_ascii_case(host) => {
                Ok(Assignee::Named(vec![found.agent.id]))
            }
            Ok(_) => Err(no_tools(named)),
            Err(error) if error.trouble == Trouble::NotFound => Err(no_tools(named)),
            Err(error) => Err(reject_of(&error)),
        }
    }
}

/// The original asks the participant and says why it could not (contract, section 3, step 9).
fn no_tools(host: &str) -> Reject {
    Reject::new(
        500,
        format!(
            "Error getting tools from {host}: it is neither this server nor one of its agents, and \
             other participants are not supported by this server."
        ),
    )
}

fn spec_for_agent(task: &TaskSpec) -> Value {
    let mut spec = task.spec.clone();
    if let Some(members) = spec.as_object_mut() {
        members.retain(|name, value| {
            let address = value
                .as_str()
                .is_some_and(|text| text.parse::<std::net::IpAddr>().is_ok());
            // An address to send from means something to the agent.
            !NODES.contains(&name.as_str()) || (name == "source" && task.kind == "rtt" && address)
        });
    }
    spec
}

fn signed(duration: IsoDuration) -> SignedDuration {
    SignedDuration::from_micros(i64::try_from(duration.micros()).unwrap_or(i64::MAX))
}

fn timestamp(stamp: Stamp) -> Timestamp {
    Timestamp::from_microsecond(stamp.micros()).unwrap_or(Timestamp::MAX)
}

fn schedule(
    task: &TaskSpec,
    accepted: &Accepted,
    now: Timestamp,
    own_kind: bool,
) -> Result<Schedule, Reject> {
    let invalid = |text: String| Reject::new(400, format!("Invalid task specification: {text}"));
    let posted = &task.schedule;
    let times = posted.times(stamp(now)).map_err(invalid)?;
    let start = match times.start {
        Some(start) => Start::At(timestamp(start.whole_secs())),
        // Work of ours may wait for an agent that pulls; a measurement has its second.
        None if own_kind => Start::Soonest,
        None => Start::At(whole_seconds(saturating_add(now, FIRST_START))),
    };
    let cron = match &posted.repeat_cron {
        None => None,
        Some(text) => Some(
            text.parse::<CronExpr>()
                .map_err(|_| Reject::new(400, "Cron repeat specification is invalid."))?,
        ),
    };
    // How long work of ours takes is a guess; a measurement has its length.
    if !own_kind
        && posted
            .repeat
            .is_some_and(|repeat| repeat.secs_up() <= accepted.duration.secs_up())
    {
        let (repeat, length) = (posted.repeat.unwrap_or_default(), accepted.duration);
        return Err(invalid(format!(
            "At /schedule/repeat: {repeat} is not longer than a run of {length}."
        )));
    }
    Ok(Schedule {
        start,
        slip: posted.slip.map(signed),
        random_slip: posted.sliprand,
        repeat: posted.repeat.map(|repeat| {
            SignedDuration::from_secs(i64::try_from(repeat.secs_up()).unwrap_or(i64::MAX))
        }),
        cron,
        until: times.until.map(timestamp),
        max_runs: posted
            .max_runs
            .map(|runs| u32::try_from(runs).unwrap_or(u32::MAX)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use muster_proto::pscheduler::plugins::Catalogue;
    use muster_proto::pscheduler::wire::Limits;

    const NOW: &str = "2026-11-24T12:00:00.25Z";

    fn planned(test: Value, posted: Value) -> Result<Schedule, Reject> {
        let document = json!({ "schema": 1, "test": test, "schedule": posted });
        let catalogue = Catalogue::new([]);
        let limits = Limits::default();
        catalogue
            .check_task(&document)
            .map_err(|text| Reject::new(400, text))?;
        let task = TaskSpec::of_document(document, &limits).map_err(|t| Reject::new(400, t))?;
        let accepted = catalogue.accept(&task, "here", &limits)?;
        let own = catalogue.test(&task.kind)?.is_own_kind();
        schedule(&task, &accepted, NOW.parse().expect("now"), own)
    }

    fn idle(posted: Value) -> Result<Schedule, Reject> {
        planned(
            json!({"type": "idle", "spec": {"duration": "PT2S"}}),
            posted,
        )
    }

    #[test]
    fn a_measurement_without_a_start_begins_on_a_second_soon() {
        let at = |text: &str| Start::At(text.parse().expect(text));
        assert_eq!(
            idle(json!({})).expect("schedule").start,
            at("2026-11-24T12:00:05Z")
        );
        let named = idle(json!({"start": "PT20S", "slip": "PT5M"})).expect("schedule");
        assert_eq!(named.start, at("2026-11-24T12:00:20Z"));
        assert_eq!(named.slip, Some(SignedDuration::from_mins(5)));
        let ours = planned(json!({"type": "inventory", "spec": {}}), json!({}));
        assert_eq!(ours.expect("schedule").start, Start::Soonest);
    }

    #[test]
    fn repeats_are_whole_seconds_and_longer_than_a_run() {
        let repeating = idle(json!({"repeat": "PT29.5S", "max-runs": 3})).expect("schedule");
        assert_eq!(repeating.repeat, Some(SignedDuration::from_secs(30)));
        assert_eq!(repeating.max_runs, Some(3));
        let ours = planned(
            json!({"type": "inventory", "spec": {}}),
            json!({"repeat": "PT1M"}),
        );
        assert!(ours.is_ok(), "how long it takes is a guess");
        let tight = idle(json!({"repeat": "PT3S"})).expect_err("too tight");
        assert!(
            tight.text.contains("not longer than a run of PT3S"),
            "{}",
            tight.text
        );
    }

    #[test]
    fn cron_without_a_match_is_refused() {
        let cron = |text: &str| {
            idle(json!({"schema": 2, "repeat-cron": text})).map_err(|reject| reject.text)
        };
        assert!(cron("0,30 * * * *").expect("schedule").cron.is_some());
        assert_eq!(
            cron("0 0 30 2 *").expect_err("no match"),
            "Cron repeat specification is invalid."
        );
        assert!(
            cron("x")
                .expect_err("no cron")
                .contains("is not a valid cron specification")
        );
    }

    #[test]
    fn agents_get_no_names_of_nodes() {
        let spec = |kind: &str, spec: Value| {
            let document = json!({ "test": { "type": kind, "spec": spec } });
            let task = TaskSpec::of_document(document, &Limits::default()).expect("task");
            spec_for_agent(&task)
        };
        assert_eq!(
            spec(
                "rtt",
                json!({"source": "ps1.example.net", "dest": "b", "source-node": "x"})
            ),
            json!({"dest": "b"})
        );
        assert_eq!(
            spec("rtt", json!({"source": "127.0.0.1", "dest": "b"})),
            json!({"source": "127.0.0.1", "dest": "b"})
        );
        assert_eq!(
            spec("idle", json!({"host": "x", "duration": "PT1S"})),
            json!({"duration": "PT1S"})
        );
        assert_eq!(
            spec("clock", json!({"source": "127.0.0.1", "dest": "b"})),
            json!({"dest": "b"})
        );
    }
}
