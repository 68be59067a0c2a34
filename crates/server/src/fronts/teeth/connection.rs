//! One connection: its session's events on one side, [`Control`] on the other.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use jiff::SignedDuration;
use muster_core::agent::{AgentState, Capability, Wire};
use muster_core::credential::Secret;
use muster_core::kind::Kind;
use muster_core::result::{News, Outcome};
use muster_core::run::OfferToken;
use muster_core::{AgentId, RunState};
use muster_net::listen::{PeerInfo, Security};
use muster_net::{Clock, Handler};
use muster_proto::teeth::commands::{Hello as WireHello, LogLine, Report, ToAgent, Verb};
use muster_proto::teeth::controller::{Event, Session};
use muster_proto::teeth::{CallError, CallId, CallRefused, CloseReason, Json, Ticket};
use muster_store::agents;
use serde_json::Value;

use super::TeethFront;
use super::shared::Epoch;
use super::words::{cut, news_of, params_of, printable, slug};
use crate::control::{
    Changes, ControlError, DueAsk, Hello, Offer, Proof, Reported, SessionGuard, Standing,
};

/// How long an agent has to answer a command: the age of a call, and the way there and back.
const LEASE: SignedDuration = SignedDuration::from_secs(90);
/// Runs handed over at a time. An agent that lists nothing gets one, so that it shows which command
/// it ended the connection over.
const OFFERS_MAX: i64 = 16;
/// How often work of other replicas is looked for.
const LOOK_EVERY: Duration = Duration::from_secs(30);
/// How often an agent that may not work yet is judged again, and whether one still may is looked up.
const JUDGE_EVERY: Duration = Duration::from_secs(5);
/// How often the ends of handed runs are looked for, to stop what was called off.
const STOP_EVERY: Duration = Duration::from_secs(1);
/// How long the fields of one log line may be together (threat model, section 4).
const LOG_LINE_MAX: usize = 8 * 1024;
/// How long one text of a log line may be.
const LOG_FIELD_MAX: usize = 1024;
/// How long until an agent with an open line counts as gone after the line was lost.
const EXPECTED_AGAIN: SignedDuration = SignedDuration::from_secs(120);
/// What every real agent calls itself: it names no machine.
const PLACEHOLDER_ID: &str = "a:b:c:d";

/// What a call of ours was for.
enum Purpose {
    Cancel,
    Status,
    Task {
        offer: Box<Offer>,
        verb: Verb,
        spelling: &'static str,
    },
}

/// Who is on the line, once it has said so.
struct Known {
    hello: WireHello,
    agent: AgentId,
    /// The kinds that can be sent over this line.
    kinds: Vec<Kind>,
    standing: Standing,
    judged: Instant,
    /// Present while the agent may work.
    place: Option<Place>,
}

struct Place {
    epoch: Epoch,
    _online: SessionGuard,
}

/// What wakes the connection besides its peer.
pub(super) enum Wake {
    Runs,
    Timer,
    Work,
}

pub(super) struct Connection<'f> {
    front: &'f TeethFront,
    peer: PeerInfo,
    known: Option<Known>,
    calls: BTreeMap<CallId, Purpose>,
    /// Runs handed over and not heard to have ended, with the task id they went by.
    handed: BTreeMap<OfferToken, String>,
    /// Commands that the end of the connection left unanswered.
    abandoned: Vec<Purpose>,
    work: Changes,
    runs: Changes,
    next_look: Option<Instant>,
    next_stop: Option<Instant>,
    clock: Clock,
}

impl<'f> Connection<'f> {
    pub(super) fn new(front: &'f TeethFront, peer: PeerInfo) -> Self {
        Self {
            front,
            peer,
            known: None,
            calls: BTreeMap::new(),
            handed: BTreeMap::new(),
            abandoned: Vec::new(),
            work: front.control.work_changes(),
            runs: front.control.run_changes(),
            next_look: None,
            next_stop: None,
            clock: front.control.clock().clone(),
        }
    }

    /// The connection is over, however: what was offered and not begun goes back.
    pub(super) async fn ended(&mut self) {
        let Some(known) = self.known.take() else {
            return;
        };
        let Some(place) = known.place else { return };
        let was_current = place.epoch.is_current();
        drop(place);
        // A newer connection claims anew; what it was handed must stay with it.
        if was_current {
            let released = self
                .front
                .control
                .release(known.agent, "the teeth connection ended");
            if let Err(error) = released.await {
                tracing::warn!(agent.id = %known.agent, "releasing runs failed: {}", error.chain());
            }
        }
    }

    async fn on_handshake(
        &mut self,
        session: &mut Session,
        ticket: Ticket,
        hello: WireHello,
        now: Instant,
    ) {
        match self.check_in(&hello).await {
            Ok((agent, standing)) => {
                if let Standing::Held(why) = &standing {
                    self.front.note(&self.peer, "identity_held", &hello.id, why);
                    // Who was enrolled with a key needs it again.
                    if self.has_key(&hello).await {
                        self.bad_token(session, ticket, &hello, now);
                        return;
                    }
                }
                if session.welcome(ticket).is_none() {
                    return;
                }
                let kinds = self
                    .capabilities(&hello)
                    .into_iter()
                    .map(|c| c.kind)
                    .collect();
                let place = self.known.take().and_then(|known| known.place);
                self.known = Some(Known {
                    hello,
                    agent,
                    kinds,
                    standing,
                    judged: now,
                    place,
                });
                self.settle_in(session, now).await;
            }
            Err(error) if error.code == "NOT_AUTHENTICATED" => {
                if hello.token.is_some() {
                    self.bad_token(session, ticket, &hello, now);
                } else {
                    session.refuse(ticket, "handshake refused: not authenticated");
                }
            }
            // Not now: the agent comes again.
            Err(error) => {
                tracing::warn!(peer.address = %self.peer.remote, "check-in failed: {}", error.chain());
                session.close();
            }
        }
    }

    /// Turns away who showed a wrong credential, or none where there was one before.
    fn bad_token(&self, session: &mut Session, ticket: Ticket, hello: &WireHello, now: Instant) {
        let text = "handshake refused: bad token";
        let (address, account) = (self.peer.ip(), self.peer_name(hello));
        let wait = self.front.logins.failed(address, Some(&account), now);
        if wait.is_some() {
            self.front
                .note(&self.peer, "too_many_failures", &hello.id, text);
        }
        session.refuse(ticket, text);
    }

    async fn check_in(&self, hello: &WireHello) -> Result<(AgentId, Standing), ControlError> {
        let (software, version) = match hello.agent.as_deref().and_then(|a| a.split_once('/')) {
            Some((software, version)) => (software.to_owned(), version.to_owned()),
            None => ("teeth-agent".to_owned(), hello.version.clone()),
        };
        let admission = self
            .front
            .control
            .check_in(Hello {
                wire: Wire::Teeth,
                peer: self.peer_name(hello),
                id: hello.agent_id.as_deref().and_then(|id| id.parse().ok()),
                name: hello.hostname.clone(),
                software,
                version,
                capabilities: Some(self.capabilities(hello)),
                address: self.peer.ip(),
                forwarded: false,
                proof: hello.token.as_ref().map_or(Proof::None, |token| {
                    Proof::Key(Secret::new(token.expose().to_owned()))
                }),
                tls_identity: match &self.peer.security {
                    Security::Plain | Security::Tls { client: None } => None,
                    Security::Psk { identity } => Some(format!("psk:{identity}")),
                    Security::Tls {
                        client: Some(shown),
                    } => Some(format!("cert:{}", shown.subject)),
                },
                next_contact: EXPECTED_AGAIN,
            })
            .await?;
        Ok((admission.agent.id, admission.standing))
    }

    /// The name the agent goes by on this wire. The MAC of a machine is shared by all agents on it,
    /// so ours go by their own id; the placeholder names no machine at all.
    fn peer_name(&self, hello: &WireHello) -> String {
        match &hello.agent_id {
            Some(id) => id.clone(),
            None if hello.id == PLACEHOLDER_ID => format!("{PLACEHOLDER_ID}@{}", self.peer.ip()),
            None => hello.id.clone(),
        }
    }

    async fn has_key(&self, hello: &WireHello) -> bool {
        let peer = self.peer_name(hello);
        let found = self
            .front
            .control
            .store()
            .read(move |tx| agents::by_peer(tx, Wire::Teeth, &peer))
            .await;
        matches!(found, Ok(Some(enrolled)) if enrolled.bond.token_hash.is_some())
    }

    /// What can be sent to this agent: the kinds it lists for `muster.run`, and `decom.qc` where it
    /// has a name for it. A real agent lists nothing; there it is assumed until it was tried.
    fn capabilities(&self, hello: &WireHello) -> Vec<Capability> {
        let mut found: BTreeMap<Kind, Capability> = BTreeMap::new();
        let mut add = |kind: &str, version: &str, assumed: bool| {
            if let Ok(kind) = kind.parse::<Kind>() {
                let version = version.to_owned();
                found.insert(
                    kind.clone(),
                    Capability {
                        kind,
                        version,
                        assumed,
                    },
                );
            }
        };
        if hello.lists(Verb::Run.name()) {
            for (kind, version) in &hello.kinds {
                add(kind, version, false);
            }
        }
        let spelling = self.front.shared.spellings(|s| s.choose(hello, Verb::Qc));
        if spelling.is_some() {
            add(Verb::Qc.name(), &hello.version, hello.methods.is_none());
        }
        found.into_values().collect()
    }

    /// After a judgement: takes the place of the current connection, asks how the agent is, and
    /// looks for work.
    async fn settle_in(&mut self, session: &mut Session, now: Instant) {
        let Some(known) = &mut self.known else { return };
        if !known.standing.may_work() {
            known.place = None;
            self.next_look = Some(now + JUDGE_EVERY);
            return;
        }
        if known.place.is_none() {
            known.place = Some(Place {
                epoch: self.front.shared.enter(known.agent),
                _online: self.front.control.session_opened(known.agent),
            });
            if let Ok(call) = session.ask_status(now) {
                self.calls.insert(call, Purpose::Status);
            }
        }
        self.claim(session, now).await;
    }

    /// Judges an agent again that could not work, at most every few seconds.
    async fn judge_again(&mut self, session: &mut Session, now: Instant) {
        let Some(known) = &mut self.known else { return };
        if now.saturating_duration_since(known.judged) < JUDGE_EVERY {
            self.next_look = Some(known.judged + JUDGE_EVERY);
            return;
        }
        known.judged = now;
        let hello = known.hello.clone();
        if let Ok((_, standing)) = self.check_in(&hello).await
            && let Some(known) = &mut self.known
        {
            known.standing = standing;
        }
        self.settle_in(session, now).await;
    }

    /// Whether the agent's word counts: it was approved, and still is.
    async fn may_work(&mut self, now: Instant) -> bool {
        let Some(known) = &mut self.known else {
            return false;
        };
        if !known.standing.may_work() {
            return false;
        }
        if now.saturating_duration_since(known.judged) >= JUDGE_EVERY {
            known.judged = now;
            let id = known.agent;
            let found = self
                .front
                .control
                .store()
                .read(move |tx| agents::by_id(tx, id))
                .await;
            let Some(known) = &mut self.known else {
                return false;
            };
            match found {
                Ok(Some(enrolled)) if enrolled.agent.state == AgentState::Approved => {}
                Ok(Some(_)) => known.standing = Standing::Disabled,
                Ok(None) => known.standing = Standing::Pending,
                Err(_) => {}
            }
            if !known.standing.may_work() {
                known.place = None;
                return false;
            }
        }
        true
    }

    /// Claims due runs and turns each into a call, unless one is still unanswered.
    async fn claim(&mut self, session: &mut Session, now: Instant) {
        self.next_look = Some(now + LOOK_EVERY);
        let waiting = self
            .calls
            .values()
            .any(|purpose| matches!(purpose, Purpose::Task { .. }));
        if waiting || !self.may_work(now).await {
            return;
        }
        let Some(known) = &self.known else { return };
        if !known
            .place
            .as_ref()
            .is_some_and(|place| place.epoch.is_current())
        {
            return;
        }
        let (agent, kinds) = (known.agent, known.kinds.clone());
        let limit = if known.hello.methods.is_some() {
            OFFERS_MAX
        } else {
            1
        };
        let ask = DueAsk {
            kinds: kinds.clone(),
            lease: LEASE,
            ahead: SignedDuration::ZERO,
            limit,
        };
        let asked = self.clock.now();
        let offers = match self.front.control.due(agent, ask).await {
            Ok(offers) => offers,
            Err(error) => {
                tracing::warn!(agent.id = %agent, "claiming runs failed: {}", error.chain());
                return;
            }
        };
        for offer in offers {
            self.hand_over(session, offer, now).await;
        }
        if let Ok(Some(start)) = self.front.control.next_start(agent, kinds, None).await {
            let wait = start.duration_since(self.clock.now());
            let wait = Duration::try_from(wait).unwrap_or_default();
            // One that was due when it was asked and was not offered has a reason that looking at
            // once does not remove. One whose second struck in between is looked at anew.
            let wait = if start <= asked { STOP_EVERY } else { wait };
            let now = self.clock.instant();
            self.next_look = self.next_look.map(|look| look.min(now + wait));
        }
    }

    async fn hand_over(&mut self, session: &mut Session, offer: Offer, now: Instant) {
        let Some(known) = &self.known else { return };
        let (agent, boot_id) = (known.agent, known.hello.boot_id.clone());
        let verb = if offer.kind.as_str() == Verb::Qc.name()
            && !known.hello.kinds.contains_key(Verb::Qc.name())
        {
            Verb::Qc
        } else {
            Verb::Run
        };
        let spelling = self
            .front
            .shared
            .spellings(|s| s.choose(&known.hello, verb));
        let task_id = offer.token.to_string();
        let called = match spelling {
            Some(spelling) => {
                let params = params_of(&offer, verb, &task_id);
                session
                    .call(spelling, &params, now)
                    .map(|call| (call, spelling))
            }
            None => Err(CallRefused::Unsupported),
        };
        match called {
            Ok((call, spelling)) => {
                self.front.shared.handed(agent, offer.token, boot_id);
                self.handed.insert(offer.token, task_id);
                let offer = Box::new(offer);
                self.calls.insert(
                    call,
                    Purpose::Task {
                        offer,
                        verb,
                        spelling,
                    },
                );
            }
            Err(CallRefused::TooLong | CallRefused::Unsupported) => {
                let reason = format!("{} cannot be sent over this agent's line", offer.kind);
                self.tell(offer.token, News::Declined { reason }).await;
            }
            // The lease brings it back.
            Err(CallRefused::Closed | CallRefused::TooMany) => {}
        }
    }

    async fn on_answer(
        &mut self,
        session: &mut Session,
        purpose: Purpose,
        outcome: Result<Json, CallError>,
        now: Instant,
    ) {
        match (purpose, outcome) {
            (purpose, Err(CallError::Closed)) => self.abandoned.push(purpose),
            (
                Purpose::Task {
                    offer,
                    verb,
                    spelling,
                },
                Ok(_),
            ) => {
                if let Some(known) = &self.known {
                    self.front
                        .shared
                        .spellings(|s| s.worked(&known.hello, verb, spelling));
                }
                self.tell(offer.token, News::Began).await;
                self.next_stop.get_or_insert(now + STOP_EVERY);
                self.claim(session, now).await;
            }
            (Purpose::Task { offer, .. }, Err(CallError::Remote(error))) => {
                let reason: String = error.msg.chars().take(LOG_FIELD_MAX).collect();
                self.front
                    .note(&self.peer, "agent_declined", &self.name(), &reason);
                self.tell(offer.token, News::Declined { reason }).await;
                self.claim(session, now).await;
            }
            // The lease brings it back, under the next generation.
            (Purpose::Task { offer, .. }, Err(CallError::TimedOut)) => {
                self.handed.remove(&offer.token);
                self.claim(session, now).await;
            }
            (Purpose::Status, Ok(status)) => self.on_status(&status).await,
            (Purpose::Status | Purpose::Cancel, _) => {}
        }
    }

    /// What a machine that was rebooted no longer lists has failed (teeth contract, rule 7.8).
    async fn on_status(&mut self, status: &Json) {
        let Some(known) = &self.known else { return };
        let [boot_id, tasks] = status.members(["boot_id", "tasks"]);
        let Some(boot_id) = boot_id.and_then(|id| id.as_text()) else {
            return;
        };
        let tasks: Vec<Value> = tasks
            .and_then(|tasks| tasks.decode().ok())
            .unwrap_or_default();
        let listed = |token: &OfferToken| {
            let id = token.to_string();
            tasks
                .iter()
                .any(|task| task["task_id"].as_str() == Some(&id))
        };
        let lost: Vec<OfferToken> = self
            .front
            .shared
            .with(known.agent)
            .into_iter()
            .filter(|(token, boot)| {
                boot.as_ref().is_some_and(|boot| *boot != boot_id) && !listed(token)
            })
            .map(|(token, _)| token)
            .collect();
        for token in lost {
            let failed = News::Finished(Outcome::failure("agent rebooted"));
            self.tell(token, failed).await;
        }
    }

    async fn on_report(
        &mut self,
        session: &mut Session,
        ticket: Ticket,
        report: Report,
        now: Instant,
    ) {
        if !self.may_work(now).await {
            session.acknowledge(ticket);
            return;
        }
        let Ok(token) = report.task_id.parse::<OfferToken>() else {
            self.front.note(
                &self.peer,
                "orphan_task",
                &self.name(),
                "news of a task that is not ours",
            );
            session.acknowledge(ticket);
            return;
        };
        let (task_id, ends) = (report.task_id.clone(), report.state.is_terminal());
        match self.try_tell(token, news_of(report)).await {
            Some(reported) => {
                session.acknowledge(ticket);
                if matches!(reported, Reported::Stale(_)) && !ends {
                    self.stop(session, &task_id, now);
                }
            }
            // Not stored, so not answered: the agent comes again and says it again.
            None => session.close(),
        }
    }

    async fn tell(&mut self, token: OfferToken, news: News) {
        self.try_tell(token, news).await;
    }

    /// Tells news of a run. `None` when the database did not take it.
    async fn try_tell(&mut self, token: OfferToken, news: News) -> Option<Reported> {
        let agent = self.known.as_ref()?.agent;
        let ends = matches!(news, News::Finished(_) | News::Declined { .. });
        match self.front.control.report(token, agent, news).await {
            Ok(reported) => {
                if let Reported::Stale(why) = &reported {
                    self.front.note(&self.peer, "stale_word", &self.name(), why);
                }
                if ends || matches!(reported, Reported::Stale(_)) {
                    self.handed.remove(&token);
                    self.front.shared.settled(agent, token);
                }
                Some(reported)
            }
            Err(error) => {
                tracing::warn!(run.id = %token.run, "news was not taken: {}", error.chain());
                None
            }
        }
    }

    /// Tells the agent to stop a task, if it has a way to be told.
    fn stop(&mut self, session: &mut Session, task_id: &str, now: Instant) {
        let params = Json::from(serde_json::json!({ "task_id": task_id }));
        if let Ok(call) = session.call(ToAgent::CANCEL, &params, now) {
            self.calls.insert(call, Purpose::Cancel);
        }
    }

    /// Tells the agent to stop what was called off while it works.
    async fn stop_cancelled(&mut self, session: &mut Session, now: Instant) {
        // The next change of a run asks again.
        self.next_stop = None;
        let waiting: Vec<OfferToken> = self.handed.keys().copied().collect();
        for token in waiting {
            let over = match self.front.control.run(token.run).await {
                Ok(stored) => {
                    stored.run.state.is_ended()
                        || stored.run.generation != token.generation
                        || stored.run.state == RunState::Planned
                }
                Err(_) => false,
            };
            if !over {
                continue;
            }
            let Some(task_id) = self.handed.remove(&token) else {
                continue;
            };
            if let Some(known) = &self.known {
                self.front.shared.settled(known.agent, token);
            }
            self.stop(session, &task_id, now);
        }
    }

    async fn on_closed(&mut self, reason: &CloseReason) {
        let name = self.name();
        match reason {
            CloseReason::Fatal(fatal) => {
                self.front
                    .note(&self.peer, slug(fatal), &name, &fatal.to_string());
            }
            CloseReason::PeerFatal { text } => {
                self.front.note(&self.peer, "peer_fatal", &name, text);
                if text == "unknown message method" {
                    self.learn_from_fatal().await;
                }
            }
            CloseReason::OutputFull => {
                self.front
                    .note(&self.peer, "output_full", &name, "the peer does not read");
            }
            CloseReason::Silent => {
                self.front
                    .note(&self.peer, "silent", &name, "no line within the idle time");
            }
            CloseReason::HandshakeRefused { .. } | CloseReason::Local | CloseReason::PeerClosed => {
            }
        }
    }

    /// The agent ended the connection over a command it does not know.
    async fn learn_from_fatal(&mut self) {
        for purpose in std::mem::take(&mut self.abandoned) {
            let (
                Purpose::Task {
                    offer,
                    verb,
                    spelling,
                },
                Some(known),
            ) = (purpose, &self.known)
            else {
                continue;
            };
            let left = self.front.shared.spellings(|spellings| {
                spellings.failed(&known.hello, verb, spelling);
                spellings.choose(&known.hello, verb).is_some()
            });
            if !left {
                let reason = format!("the agent does not know {spelling}");
                let (agent, kind) = (known.agent, offer.kind.clone());
                let unlearned = self
                    .front
                    .control
                    .store()
                    .write(move |tx| agents::settle_assumed(tx, agent, &kind, false));
                if let Err(error) = unlearned.await {
                    tracing::warn!(agent.id = %agent, "a capability was not taken back: {error}");
                }
                self.tell(offer.token, News::Declined { reason }).await;
            }
        }
    }

    fn on_log(&self, line: &LogLine) {
        let name = self.name();
        let message = printable(cut(&line.message, LOG_FIELD_MAX));
        let fields = printable(cut(line.fields.as_str(), LOG_LINE_MAX));
        tracing::info!(agent.name = %name, log.time = line.time, log.fields = %fields, "agent says: {message}");
    }

    fn name(&self) -> String {
        self.known
            .as_ref()
            .map(|known| self.peer_name(&known.hello))
            .unwrap_or_default()
    }
}

impl Handler<Session> for Connection<'_> {
    type Wake = Wake;

    async fn on_event(&mut self, session: &mut Session, event: Event, now: Instant) {
        match event {
            Event::Answered { call, outcome } => {
                if let Some(purpose) = self.calls.remove(&call) {
                    self.on_answer(session, purpose, outcome, now).await;
                }
            }
            Event::Closed(reason) => self.on_closed(&reason).await,
            Event::Handshake { ticket, hello } => {
                self.on_handshake(session, ticket, hello, now).await;
            }
            Event::Heard => {}
            Event::Log(line) => self.on_log(&line),
            Event::LogsDropped { count } => {
                let detail = format!("{count} log lines over the rate");
                self.front
                    .note(&self.peer, "log_flood", &self.name(), &detail);
            }
            Event::TaskStatus { ticket, report } => {
                self.on_report(session, ticket, report, now).await;
            }
        }
    }

    async fn next_wake(&mut self) -> Wake {
        if self.known.is_none() {
            return std::future::pending().await;
        }
        let clock = self.clock.clone();
        let timer = [self.next_look, self.next_stop].into_iter().flatten().min();
        let timer = async {
            match timer {
                Some(at) => clock.sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = timer => Wake::Timer,
            _ = self.work.changed() => Wake::Work,
            _ = self.runs.changed(), if !self.handed.is_empty() && self.next_stop.is_none() => Wake::Runs,
        }
    }

    async fn on_wake(&mut self, session: &mut Session, wake: Wake, now: Instant) {
        let may_work = self
            .known
            .as_ref()
            .is_some_and(|known| known.standing.may_work());
        match wake {
            Wake::Runs => {
                self.next_stop.get_or_insert(now + STOP_EVERY);
            }
            Wake::Work if may_work => self.claim(session, now).await,
            Wake::Work => self.judge_again(session, now).await,
            Wake::Timer => {
                if self.next_stop.is_some_and(|at| at <= now) {
                    self.stop_cancelled(session, now).await;
                }
                if self.next_look.is_some_and(|at| at <= now) {
                    if may_work {
                        self.claim(session, now).await;
                    } else {
                        self.judge_again(session, now).await;
                    }
                }
            }
        }
    }
}
