//! The FusionInventory front: HTTP agents that pull their tasks, in three dialects on the same paths.
//!
//! Translates what [`muster_proto::fusion`] decoded into questions to [`Control`] and its answers
//! back into the words of the dialect. It decides nothing but the shape: who may work, what is due
//! and whose word counts is asked; what an offer looks like as a P1 job or a P2 option is in
//! [`jobs`], what a message says of a machine in [`facts`]. P1 is here, P2 in [`legacy`], P3 and the
//! side protocol in [`native`].
//!
//! **Invariants:** a peer hears "accepted" only after the commit. Who is pending, held or disabled
//! is answered politely and gets and gives nothing. Credentials go out over TLS or loopback only,
//! unless the operator allowed otherwise.

mod auth;
mod facts;
mod jobs;
mod legacy;
mod native;

use std::net::IpAddr;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{MethodRouter, any};
use http::StatusCode;
use jiff::SignedDuration;
use muster_core::agent::{Agent, Capability, Wire};
use muster_core::credential::Secret as CoreSecret;
use muster_core::kind::Kind;
use muster_core::result::{News, Outcome};
use muster_core::run::OfferToken;
use muster_net::http::{BodyError, read_body};
use muster_net::{PeerInfo, Security};
use muster_proto::fusion::Limits;
use muster_proto::fusion::controller::{self, Answer, Ask, Context, What};
use muster_proto::fusion::news::JobNews;
use muster_proto::fusion::p1::{TaskList, TasksQuery};
use muster_proto::fusion::p3;
use muster_proto::fusion::place::{self, Place};
use muster_proto::fusion::wire::{PeerName, Secret};
use rand_core::Rng as _;
use tokio::sync::Semaphore;
use tower::ServiceExt as _;

use super::login::Attempts;
use crate::control::{
    Admission, Control, ControlError, Credential, DueAsk, Hello, Offer, Proof, Reported, Trouble,
};

/// How long who may not work is told to stay away (threat model, section 2).
const WAIT_PENDING: SignedDuration = SignedDuration::from_mins(10);
/// How much longer than to the next contact an offer holds: an agent works its jobs one after
/// another and begins the last one late.
const LEASE_GRACE: SignedDuration = SignedDuration::from_mins(15);
/// Runs handed over at one contact; the rest come with the next.
const OFFERS_MAX: i64 = 16;
/// Bodies above this are parsed away from the threads that serve sockets (threat model, section 4);
/// of packed ones, which may be a thousand times as long inside, those above the second number.
const PARSE_INLINE_BYTES: usize = 1 << 20;
const UNPACK_INLINE_BYTES: usize = 1 << 10;
/// How many of those are parsed at once: each may hold an inventory, packed, unpacked and read.
const PARSES_AT_ONCE: usize = 3;

/// Seconds to stay away while there is too much to do.
const RETRY_OVERLOAD: u32 = 10;

#[derive(Clone)]
struct Front {
    control: Control,
    limits: Arc<Limits>,
    attempts: Arc<Attempts>,
    /// Bounds the memory of large bodies.
    parses: Arc<Semaphore>,
    /// What a person at `/` is shown.
    console: MethodRouter,
}

/// The routes of all bases (surface, section 4). `console` answers at `/` who is no agent.
pub fn router(control: Control, console: MethodRouter) -> Router {
    let front = Front {
        control,
        limits: Arc::new(Limits::default()),
        attempts: Arc::new(Attempts::default()),
        parses: Arc::new(Semaphore::new(PARSES_AT_ONCE)),
        console,
    };
    let mut router = Router::new()
        .route("/", any(at_root))
        .route("/api/tasks", any(serve))
        .route("/api/results", any(serve))
        .route("/api.php/token", any(serve))
        .route("/glpi/api.php/token", any(serve))
        .route("/b/{*rest}", any(serve));
    for base in place::BASES.into_iter().filter(|base| !base.is_empty()) {
        router = router
            .route(base, any(serve))
            .route(&format!("{base}/"), any(serve))
            .route(&format!("{base}/{{*rest}}"), any(serve));
    }
    router.with_state(front)
}

async fn at_root(State(front): State<Front>, request: Request) -> Response {
    if controller::is_from_agent(&request) {
        return serve(State(front), request).await;
    }
    match front.console.clone().oneshot(request).await {
        Ok(response) => response,
        Err(never) => match never {},
    }
}

async fn serve(State(front): State<Front>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    // Without a peer there was no socket: a test, or a bug that must not open a door.
    let Some(peer) = parts.extensions.get::<PeerInfo>().cloned() else {
        return StatusCode::INTERNAL_SERVER_ERROR.into_response();
    };
    let limit = match Place::find(parts.uri.path()) {
        Some((_, Place::Main | Place::Results)) => front.limits.inventory_bytes,
        Some(_) | None => front.limits.query_bytes,
    };
    let body = match read_body(&parts, body, limit).await {
        Ok(body) => body,
        Err(error) => {
            front.count(&peer, "body", "", &error.to_string());
            return unread(error);
        }
    };
    let request = http::Request::from_parts(parts.clone(), body);
    let decoded = if is_large(request.body()) {
        let limits = Arc::clone(&front.limits);
        let permit = Arc::clone(&front.parses).acquire_owned().await;
        tokio::task::spawn_blocking(move || {
            let decoded = controller::decode(&request, &limits);
            drop(permit);
            decoded
        })
        .await
    } else {
        Ok(controller::decode(&request, &front.limits))
    };
    let response = match decoded {
        Ok(Ok(ask)) => {
            let mut context = ask.context.clone();
            let from = From {
                address: peer.ip(),
                security: peer.security.clone(),
                headers: &parts.headers,
                who: ask.what.speaker().unwrap_or_default().to_owned(),
            };
            let answer = front.answer(ask, &from).await;
            if matches!(answer, Answer::Native(p3::Answer::Pending(_))) {
                // Without one, an agent that comes back for the answer cannot be told from others.
                let invent = || format!("{:08X}", front.control.rng().next_u32());
                context.request_id.get_or_insert_with(invent);
            }
            controller::encode(answer, &context)
        }
        Ok(Err(reject)) => {
            front.count(&peer, reject.reason.label(), "", &reject.to_string());
            reject.to_response()
        }
        // The parser panicked: a bug, which costs this request and no more.
        Err(_) => return StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    };
    response.map(Body::from)
}

/// The answer to a request whose body could not be read: what dialect it is in stays unknown.
fn unread(error: BodyError) -> Response {
    let status = StatusCode::from_u16(error.status()).unwrap_or(StatusCode::BAD_REQUEST);
    let context = Context::unknown();
    let retry_after = (status == StatusCode::SERVICE_UNAVAILABLE).then_some(RETRY_OVERLOAD);
    let answer = Answer::Error {
        status,
        message: error.to_string(),
        retry_after,
        authenticate: false,
    };
    controller::encode(answer, &context).map(Body::from)
}

/// Whether a body is more than a thread that serves sockets should read.
fn is_large(body: &[u8]) -> bool {
    let is_plain = matches!(body.first(), None | Some(b'<' | b'{' | b' ' | b'\n'));
    let inline = if is_plain {
        PARSE_INLINE_BYTES
    } else {
        UNPACK_INLINE_BYTES
    };
    body.len() > inline
}

/// Where a request came from.
struct From<'r> {
    address: IpAddr,
    security: Security,
    headers: &'r http::HeaderMap,
    /// Who speaks, as it says: the account of failed logins.
    who: String,
}

impl From<'_> {
    fn forwarded(&self) -> bool {
        self.headers.contains_key(http::header::FORWARDED)
            || self.headers.contains_key("x-forwarded-for")
    }
}

/// Who speaks, as it says.
struct Who {
    peer: PeerName,
    id: Option<muster_core::AgentId>,
    name: Option<String>,
    capabilities: Option<Vec<Capability>>,
}

impl Who {
    /// A P2 or P3 agent: its id ends in the time it was made, which is no part of its name.
    fn device(peer: PeerName) -> Self {
        let name = facts::host_of_device_id(peer.as_str()).to_owned();
        Self {
            peer,
            id: None,
            name: Some(name),
            capabilities: None,
        }
    }
}

impl Front {
    fn count(&self, peer: &PeerInfo, reason: &str, name: &str, detail: &str) {
        self.control
            .refused(Wire::Fusion, peer.ip(), reason, name, detail);
    }

    async fn answer(&self, ask: Ask, from: &From<'_>) -> Answer {
        let Ask { context, what } = ask;
        let answered = match what {
            What::Tasks(query) => self.tasks(query, &context, from).await,
            What::Message(message) => self.message(message, &context, from).await,
            What::Native(message) => self.native(message, &context, from).await,
            What::News { agent, job, news } => self.news(agent, &job, news, &context, from).await,
            What::Side(ask) => self.side(ask).await,
            What::Token { secret, .. } => self.token(secret, from).await,
        };
        answered.unwrap_or_else(|error| self.trouble(&error, from))
    }

    /// The token is the key itself: what it may do is judged where it is shown.
    async fn token(&self, secret: Secret, from: &From<'_>) -> Result<Answer, ControlError> {
        let key = CoreSecret::new(secret.reveal());
        Ok(match self.control.knows_key(&key).await? {
            true => Answer::Token {
                token: secret,
                expires_in: 3600,
            },
            false => {
                self.note_wrong(from);
                self.wrong_login(from)
            }
        })
    }

    /// An error of the application in HTTP's words; the dialect's are added when it is written.
    fn trouble(&self, error: &ControlError, from: &From<'_>) -> Answer {
        let (status, retry_after) = match error.trouble {
            Trouble::Bug => (StatusCode::INTERNAL_SERVER_ERROR, None),
            Trouble::Conflict => (StatusCode::CONFLICT, None),
            Trouble::Invalid => (StatusCode::BAD_REQUEST, None),
            Trouble::NotFound => (StatusCode::NOT_FOUND, None),
            Trouble::Refused if error.code == "NOT_AUTHENTICATED" => {
                return match auth::proof(from.headers) {
                    Proof::None => not_authenticated(),
                    Proof::Key(_) => self.wrong_login(from),
                };
            }
            Trouble::Refused => (StatusCode::FORBIDDEN, None),
            Trouble::TooMuch => (StatusCode::TOO_MANY_REQUESTS, Some(600)),
            Trouble::Unavailable => (StatusCode::SERVICE_UNAVAILABLE, Some(RETRY_OVERLOAD)),
        };
        if matches!(error.trouble, Trouble::Bug | Trouble::Unavailable) {
            tracing::warn!(peer.address = %from.address, error = %error.chain(), "a request failed");
        }
        Answer::Error {
            status,
            message: error.title.clone(),
            retry_after,
            authenticate: false,
        }
    }

    /// 401, or 429 after too many wrong credentials. A request with none is no wrong one: real GLPI
    /// agents draw two 401 for each message.
    fn wrong_login(&self, from: &From<'_>) -> Answer {
        match self.failed_login(from) {
            Some(wait) => too_many_failures(wait),
            None => not_authenticated(),
        }
    }

    /// Counts a wrong credential; the seconds to wait after too many.
    fn failed_login(&self, from: &From<'_>) -> Option<u32> {
        let now = self.control.clock().instant();
        self.attempts.failed(from.address, Some(&from.who), now)
    }

    /// Notes a refusal that Control does not make itself.
    fn note_wrong(&self, from: &From<'_>) {
        let (wire, reason) = (Wire::Fusion, "NOT_AUTHENTICATED");
        self.control
            .refused(wire, from.address, reason, &from.who, "wrong credentials");
    }

    /// An agent with a key that shows none is challenged: that is how agents learn to show it. One
    /// that shows another is held, politely, as often as a login may fail.
    fn challenge(&self, admission: &Admission, from: &From<'_>) -> Option<Answer> {
        match admission.credential {
            Credential::Good => None,
            Credential::Missing => Some(not_authenticated()),
            Credential::Wrong => {
                self.note_wrong(from);
                self.failed_login(from).map(too_many_failures)
            }
        }
    }

    async fn check_in(
        &self,
        who: Who,
        context: &Context,
        from: &From<'_>,
    ) -> Result<Admission, ControlError> {
        let software = context.software.as_ref();
        let hello = Hello {
            wire: Wire::Fusion,
            peer: who.peer.as_str().to_owned(),
            id: who.id,
            name: who.name,
            software: software
                .map(|s| facts::software_name(&s.name))
                .unwrap_or_default(),
            version: software.and_then(|s| s.version.clone()).unwrap_or_default(),
            capabilities: who.capabilities,
            address: from.address,
            forwarded: from.forwarded(),
            proof: auth::proof(from.headers),
            tls_identity: None,
            next_contact: self.control.settings().contact_interval,
        };
        self.control.check_in(hello).await
    }

    /// A P2 agent never lists its modules. A new one is taken to have them until it has shown or
    /// let lapse; what was learnt of it stays.
    async fn check_in_silent(
        &self,
        device: &PeerName,
        context: &Context,
        from: &From<'_>,
    ) -> Result<Admission, ControlError> {
        let admission = self
            .check_in(Who::device(device.clone()), context, from)
            .await?;
        if !admission.agent.capabilities.is_empty() {
            return Ok(admission);
        }
        let who = Who {
            capabilities: Some(facts::assumed()),
            ..Who::device(device.clone())
        };
        self.check_in(who, context, from).await
    }

    /// An upload counts only from who may work.
    fn refusal(&self, admission: &Admission, from: &From<'_>) -> Option<Answer> {
        if admission.standing.may_work() {
            return None;
        }
        let refused = || refuse(StatusCode::FORBIDDEN, "this agent is not approved");
        Some(self.challenge(admission, from).unwrap_or_else(refused))
    }

    fn may_carry_secrets(&self, from: &From<'_>) -> bool {
        from.security != Security::Plain
            || (from.address.is_loopback() && !from.forwarded())
            || self.control.settings().insecure
    }

    /// When an agent with nothing due comes again: the interval less up to a tenth of it, so that a
    /// fleet that began at once does not stay together; sooner when its next work is due sooner. With
    /// `given`, what is due already is handed over in this round and no reason to hurry.
    async fn next_contact(
        &self,
        agent: &Agent,
        kinds: Vec<Kind>,
        given: bool,
    ) -> Result<SignedDuration, ControlError> {
        let interval = self.control.settings().contact_interval;
        let chance = i64::from(self.control.rng().next_u32() % 1000);
        let spread = interval.as_millis().saturating_mul(i128::from(chance)) / 10_000;
        let spread = SignedDuration::from_millis(i64::try_from(spread).unwrap_or(0));
        let usual = interval.saturating_sub(spread);
        let now = self.control.clock().now();
        let after = given.then_some(now);
        let Some(start) = self.control.next_start(agent.id, kinds, after).await? else {
            return Ok(usual);
        };
        let until = start.duration_since(now);
        Ok(usual.min(until).max(SignedDuration::from_secs(1)))
    }

    /// Runs for this agent, of the kinds this wire can carry to it now.
    async fn due(
        &self,
        agent: &Agent,
        kinds: Vec<Kind>,
        from: &From<'_>,
    ) -> Result<Vec<Offer>, ControlError> {
        let kinds: Vec<Kind> = kinds
            .into_iter()
            .filter(|kind| !jobs::has_credentials(kind) || self.may_carry_secrets(from))
            .collect();
        let lease = self
            .control
            .settings()
            .contact_interval
            .saturating_add(LEASE_GRACE);
        let ask = DueAsk {
            kinds,
            lease,
            ahead: SignedDuration::ZERO,
            limit: OFFERS_MAX,
        };
        self.control.due(agent.id, ask).await
    }

    /// Tells that a run cannot be put into this wire's words.
    async fn decline(
        &self,
        offer: &Offer,
        agent: &Agent,
        reason: String,
    ) -> Result<(), ControlError> {
        self.control
            .report(offer.token, agent.id, News::Declined { reason })
            .await?;
        Ok(())
    }

    async fn tasks(
        &self,
        query: TasksQuery,
        context: &Context,
        from: &From<'_>,
    ) -> Result<Answer, ControlError> {
        let capabilities = facts::capabilities(&query.modules);
        let kinds: Vec<Kind> = capabilities.iter().map(|c| c.kind.clone()).collect();
        let who = Who {
            id: facts::own_id(query.agent.as_str(), context.software.as_ref()),
            name: query
                .name
                .or_else(|| Some(facts::host_of_device_id(query.agent.as_str()).to_owned())),
            peer: query.agent,
            capabilities: Some(capabilities),
        };
        let admission = self.check_in(who, context, from).await?;
        let now = self.control.clock().now();
        let at = |after: SignedDuration| now.as_second().saturating_add(after.as_secs().max(1));
        if let Some(challenge) = self.challenge(&admission, from) {
            return Ok(challenge);
        }
        if !admission.standing.may_work() || context.is_head {
            return Ok(Answer::Tasks(TaskList {
                tasks: Vec::new(),
                next_contact: at(WAIT_PENDING),
            }));
        }
        let agent = admission.agent;
        // What a lasting connection carries at its time is not left waiting for a poll.
        let kinds: Vec<Kind> = match self.control.has_session(agent.id) {
            true => kinds.into_iter().filter(jobs::is_of_the_family).collect(),
            false => kinds,
        };
        let mut tasks = Vec::new();
        for offer in self.due(&agent, kinds.clone(), from).await? {
            match jobs::as_task(&offer) {
                Ok(task) => tasks.push(task),
                Err(reason) => self.decline(&offer, &agent, reason).await?,
            }
        }
        let next_contact = at(self.next_contact(&agent, kinds, false).await?);
        Ok(Answer::Tasks(TaskList {
            tasks,
            next_contact,
        }))
    }

    async fn news(
        &self,
        agent: PeerName,
        job: &str,
        news: JobNews,
        context: &Context,
        from: &From<'_>,
    ) -> Result<Answer, ControlError> {
        let who = Who {
            id: facts::own_id(agent.as_str(), context.software.as_ref()),
            name: Some(facts::host_of_device_id(agent.as_str()).to_owned()),
            peer: agent,
            capabilities: None,
        };
        let admission = self.check_in(who, context, from).await?;
        if let Some(refusal) = self.refusal(&admission, from) {
            return Ok(refusal);
        }
        let Some(token) = jobs::token_of(job) else {
            return Ok(refuse(StatusCode::NOT_FOUND, "there is no such job"));
        };
        let news = match news {
            JobNews::Begun => News::Began,
            JobNews::Progress { percent } => News::percent(f64::from(percent), None),
            JobNews::Refused { reason } => News::Declined { reason },
            JobNews::Succeeded { result } => News::Finished(Outcome {
                succeeded: true,
                result,
                diags: None,
            }),
            JobNews::Failed { reason, result } => News::Finished(Outcome {
                succeeded: false,
                result,
                diags: Some(reason),
            }),
        };
        self.report(token, &admission.agent, news).await?;
        Ok(Answer::Accepted)
    }

    /// Reports, and logs what did not count. The peer is told "accepted" either way: what is stale
    /// stays stale however often it is sent.
    async fn report(
        &self,
        token: OfferToken,
        agent: &Agent,
        news: News,
    ) -> Result<(), ControlError> {
        if let Reported::Stale(why) = self.control.report(token, agent.id, news).await? {
            tracing::debug!(agent.name = %agent.name, run.id = %token.run, "word dropped: {why}");
        }
        Ok(())
    }
}

fn refuse(status: StatusCode, message: impl Into<String>) -> Answer {
    Answer::Error {
        status,
        message: message.into(),
        retry_after: None,
        authenticate: false,
    }
}

fn not_authenticated() -> Answer {
    Answer::Error {
        status: StatusCode::UNAUTHORIZED,
        message: "not authenticated".to_owned(),
        retry_after: None,
        authenticate: true,
    }
}

fn too_many_failures(wait: u32) -> Answer {
    Answer::Error {
        status: StatusCode::TOO_MANY_REQUESTS,
        message: "not authenticated".to_owned(),
        retry_after: Some(wait),
        authenticate: false,
    }
}
