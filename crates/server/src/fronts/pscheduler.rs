//! The pScheduler front: people and programs that ask for runs at times.
//!
//! Translates what [`muster_proto::pscheduler`] decoded into questions to [`Control`] and its
//! answers back into the words of the interface: what a posted task means for us is in [`post`],
//! how tasks and runs look from outside in [`views`]. Reading is open to everyone and secrets are
//! never shown without the task's key; writing is judged by the caller's address (pScheduler
//! contract, section 9). Only tasks that came over this interface are seen through it.
//!
//! **Invariants:** a task's address is given out after the commit. A call that waits holds no
//! database connection. Addresses in answers have the scheme and the host of the request.

mod post;
mod views;

use std::net::IpAddr;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::Response;
use axum::routing::any;
use bytes::Bytes;
use http::HeaderMap;
use http::request::Parts;
use jiff::{SignedDuration, Timestamp};
use muster_core::agent::Wire;
use muster_core::kind::Kind;
use muster_core::task::{Origin, Task, TaskState};
use muster_core::time::saturating_add;
use muster_core::{RunId, TaskId};
use muster_net::http::{BodyError, read_body};
use muster_net::sntp::local_time_server;
use muster_net::{
    EgressError, MemoryBudget, MemoryShare, PathMtu, PathMtuError, PeerInfo, Security,
    is_own_address, path_mtu,
};
use muster_proto::json::TREE_FACTOR;
use muster_proto::pscheduler::controller::{
    self, Answer, Ask, ClockSource, ResultFormat, RunRef, Stat, WaitFor, What,
};
use muster_proto::pscheduler::json::{CONTAINMENT_STEPS, contains_at_top, sanitise};
use muster_proto::pscheduler::plugins::Catalogue;
use muster_proto::pscheduler::text::{self, Form, Medium};
use muster_proto::pscheduler::time::Stamp;
use muster_proto::pscheduler::wire::{self as wire, Base, Class, Limits, Reject, Scheme};
use muster_proto::pscheduler::{API_LEVEL, HORIZON};
use muster_store::runs::StoredRun;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use tokio::sync::Semaphore;
use uuid::Uuid;

use crate::control::{Control, ControlError, Trouble};
use crate::kinds;
use crate::reconcile::Statuses;

/// Bodies above this are read away from the threads that serve sockets (threat model, section 4).
const PARSE_INLINE_BYTES: usize = 1 << 20;
/// How many of those are read and answered at once: each may become a tree eight times its size.
const LARGE_AT_ONCE: usize = 1;
/// Tasks looked through for one listing: what one server keeps is far below.
const TASKS_MAX: usize = 1_000_000;
/// Runs looked through for one task.
const RUNS_MAX: i64 = 100_000;

struct Front {
    control: Control,
    catalogue: &'static Catalogue,
    limits: Limits,
    /// Bounds the memory of large bodies.
    large: Semaphore,
    hostname: String,
    statuses: Statuses,
}

/// Who asks, and how to speak to them of addresses.
struct Caller {
    base: Base,
    address: IpAddr,
    server: IpAddr,
    /// Whether the request comes from this machine itself, not passed on for somebody else.
    own: bool,
}

/// The routes below `/pscheduler`. `hostname` is what the machine calls itself.
pub fn router(control: Control, statuses: Statuses, hostname: impl Into<String>) -> Router {
    let front = Arc::new(Front {
        catalogue: kinds::catalogue(),
        control,
        limits: Limits::default(),
        large: Semaphore::new(LARGE_AT_ONCE),
        hostname: hostname.into(),
        statuses,
    });
    Router::new()
        .route("/pscheduler", any(serve))
        .route("/pscheduler/", any(serve))
        .route("/pscheduler/{*path}", any(serve))
        .with_state(front)
}

async fn serve(State(front): State<Arc<Front>>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let peer = parts.extensions.get::<PeerInfo>().cloned();
    let answered = async {
        let body = read_body(&parts, body, front.limits.body_bytes_max)
            .await
            .map_err(|error| Reject::new(error.status(), error.to_string()))?;
        let forwarded = is_forwarded(&parts.headers);
        let permit = match body.len() > PARSE_INLINE_BYTES {
            true => front.large.acquire().await.ok(),
            false => None,
        };
        let share = tree_share(&parts, body.len())?;
        let ask = front
            .decode(http::Request::from_parts(parts.clone(), body))
            .await?;
        // Held as long as there is a tree of the body, and by nobody who only waits.
        let _held = Some((permit, share)).filter(|_| matches!(ask.what, What::PostTask { .. }));
        let caller = front.caller(peer.as_ref(), ask.authority.as_deref(), forwarded);
        let pretty = ask.pretty;
        let answer = front.answer(ask, &caller).await?;
        Ok::<_, Reject>(controller::encode(answer, pretty))
    };
    let response = match answered.await {
        Ok(response) => response,
        Err(reject) => {
            if matches!(reject.status, 400 | 403 | 413 | 415)
                && let Some(peer) = &peer
            {
                // Neither the text nor the query: both may repeat what is secret.
                let path: String = parts.uri.path().chars().take(128).collect();
                let detail = format!("{} {path} was answered {}", parts.method, reject.status);
                let reason = format!("http-{}", reject.status);
                let control = &front.control;
                control.refused(Wire::Pscheduler, peer.ip(), &reason, "", &detail);
            }
            controller::encode_reject(&reject)
        }
    };
    response.map(Body::from)
}

/// The part of the memory for unknown peers that the tree of a body may take.
fn tree_share(parts: &Parts, body_bytes: usize) -> Result<Option<MemoryShare>, Reject> {
    let Some(budget) = parts.extensions.get::<MemoryBudget>() else {
        return Ok(None);
    };
    let mut share = budget.share();
    if share.grow(body_bytes.saturating_mul(TREE_FACTOR)) {
        Ok(Some(share))
    } else {
        Err(Reject::new(503, BodyError::OverBudget.to_string()))
    }
}

/// A request that somebody passed on is not from this machine (threat model, section 2).
fn is_forwarded(headers: &HeaderMap) -> bool {
    headers.contains_key("forwarded") || headers.contains_key("x-forwarded-for")
}

fn stamp(time: Timestamp) -> Stamp {
    Stamp::from_micros(time.as_microsecond())
}

/// The interface's words for what Control refused.
fn reject_of(error: &ControlError) -> Reject {
    match error.trouble {
        Trouble::NotFound => Reject::not_found(),
        Trouble::Invalid | Trouble::TooMuch => {
            Reject::new(400, format!("Invalid task specification: {error}"))
        }
        Trouble::Refused => Reject::new(422, format!("Unable to complete request: {error}")),
        Trouble::Conflict => Reject::new(409, error.to_string()),
        Trouble::Unavailable => {
            tracing::warn!("a pScheduler call was not served: {}", error.chain());
            Reject::new(503, "The server is not available now; try again.")
        }
        Trouble::Bug => {
            tracing::error!("a pScheduler call failed: {}", error.chain());
            Reject::new(500, "Internal problem; see system logs.")
        }
    }
}

impl Front {
    async fn decode(self: &Arc<Self>, request: http::Request<Bytes>) -> Result<Ask, Reject> {
        if request.body().len() <= PARSE_INLINE_BYTES {
            return controller::decode(&request, &self.limits);
        }
        let limits = self.limits;
        tokio::task::spawn_blocking(move || controller::decode(&request, &limits))
            .await
            .unwrap_or_else(|_| Err(Reject::new(503, "The server is shutting down.")))
    }

    fn caller(&self, peer: Option<&PeerInfo>, authority: Option<&str>, forwarded: bool) -> Caller {
        let unknown = IpAddr::from([0, 0, 0, 0]);
        let address = peer.map_or(unknown, PeerInfo::ip);
        let scheme = match peer.map(|peer| &peer.security) {
            Some(Security::Plain) => Scheme::Http,
            Some(Security::Tls { .. } | Security::Psk { .. }) | None => Scheme::Https,
        };
        let authority = match (authority, peer) {
            (Some(authority), _) => authority.to_owned(),
            (None, Some(peer)) => peer.local.to_string(),
            (None, None) => self.hostname.clone(),
        };
        Caller {
            base: Base::new(scheme, authority),
            address,
            server: peer.map_or(unknown, |peer| peer.local.ip().to_canonical()),
            own: peer.is_some() && !forwarded && is_own_address(address),
        }
    }

    async fn answer(&self, ask: Ask, caller: &Caller) -> Result<Answer, Reject> {
        let base = &caller.base;
        let found = |value: Result<Value, Reject>| value.map(Answer::Json);
        match ask.what {
            What::Root => {
                let (host, name) = (base.host(), &self.hostname);
                let text = format!("This is the pScheduler API server on {host} ({name})");
                found(Ok(json!(text)))
            }
            What::Api => found(Ok(json!(API_LEVEL))),
            What::Hostname => found(Ok(json!(self.hostname))),
            What::Clock => found(Ok(self.clock().await)),
            What::ScheduleHorizon => found(Ok(json!(HORIZON))),
            What::Status => self.status().await.map(Answer::Json),
            What::MtuSafe { dest } => found(self.mtu_safe(&dest).await),
            What::LimitsCheck { proposal } => found(self.limits_check(&proposal)),
            What::Stat(stat) => self.stat(stat).await,
            What::Plugins { class, expanded } => {
                found(Ok(self.catalogue.listing(base, class, expanded)))
            }
            What::Plugin { class, name } => found(self.plugin(base, class, &name)),
            What::PluginDataIsValid { class, name } => {
                Err(Reject::no_plugin(class.singular(), &name))
            }
            What::TestSpec { test, args } => {
                let spec = self.catalogue.test(&test)?.spec_of_args(&args);
                // The original sends what its plugin wrote, newline included, and adds one.
                found(spec.map_err(|text| Reject::new(400, format!("{text}\n"))))
            }
            What::TestSpecIsValid { test, spec } => {
                self.catalogue.test(&test)?;
                let kind: Kind = test.parse().map_err(|_| Reject::not_found())?;
                let checked = spec
                    .and_then(|spec| kinds::check_spec(&kind, &spec, &[]).map_err(String::from));
                found(Ok(match checked {
                    Ok(()) => json!({ "valid": true }),
                    Err(error) => json!({ "valid": false, "error": error }),
                }))
            }
            What::TestTools { test, expanded } => {
                let test = self.catalogue.test(&test)?;
                found(Ok(self.catalogue.tool_listing(base, test.name(), expanded)))
            }
            What::TestParticipants { test, spec } => {
                let test = self.catalogue.test(&test)?;
                test.check(&spec).map_err(|error| Reject::new(400, error))?;
                found(Ok(test.participants(&spec).to_json()))
            }
            What::ToolsFor { test, spec } => {
                found(Ok(self.catalogue.offers(&test, &spec, ask.api)))
            }
            What::Tasks {
                expanded,
                detail,
                pattern,
            } => found(self.tasks(base, expanded, detail, pattern).await),
            What::PostTask {
                document,
                expanded,
                detail,
            } => {
                let url = self.post(document, caller).await?;
                Ok(if expanded {
                    Answer::See(with_query(url, detail, ask.pretty))
                } else {
                    Answer::Json(json!(url))
                })
            }
            What::Task { id, detail, key } => self.task(id, detail, key.as_deref(), base).await,
            What::DeleteTask { id, key: _ } => self.delete_task(id, caller).await,
            What::TaskCli { id } => {
                let task = self.find_task(id).await?;
                let mut cli = vec![task.kind.as_str().to_owned()];
                cli.extend(views::Meta::of(&task).cli);
                Ok(Answer::Bare(muster_proto::pscheduler::json::compact(
                    &json!(cli),
                )))
            }
            What::Runs {
                task,
                start,
                end,
                upcoming,
                limit,
            } => {
                let wanted = RunsWanted {
                    start,
                    end,
                    upcoming,
                    limit,
                };
                found(self.runs(task, wanted, base).await)
            }
            What::Run {
                task,
                run,
                wait_for,
                wait_secs,
                key,
            } => {
                self.run(task, run, wait_for, wait_secs, key.as_deref(), base)
                    .await
            }
            What::DeleteRun { task, run, key: _ } => self.delete_run(task, run, caller).await,
            What::Result {
                task,
                run,
                format,
                wait_secs,
                key,
            } => {
                self.result(task, run, format, wait_secs, key.as_deref())
                    .await
            }
        }
    }

    async fn clock(&self) -> Value {
        let source = local_time_server(self.control.clock())
            .await
            .map(|server| ClockSource {
                source: "ntp".to_owned(),
                reference: server.reference,
                offset_secs: server.offset_secs,
            });
        controller::clock(stamp(self.control.clock().now()), source.as_ref())
    }

    async fn mtu_safe(&self, dest: &str) -> Result<Value, Reject> {
        let egress = &self.control.settings().egress;
        let (safe, message) = match path_mtu(dest, egress, self.control.clock()).await {
            Ok(PathMtu::Local) => (true, "N/A (Local)".to_owned()),
            Ok(PathMtu::Whole { mtu }) => (true, format!("{mtu}+")),
            Ok(PathMtu::Drops { from, to }) => {
                (false, format!("MTU along path drops from {from} to {to}"))
            }
            Err(PathMtuError::Egress(error @ EgressError::Refused { .. })) => {
                return Err(Reject::new(403, format!("Destination forbidden: {error}")));
            }
            Err(PathMtuError::Egress(error @ EgressError::Unknown(_))) => {
                (false, format!("{dest}: {error}"))
            }
            Err(PathMtuError::Io(error)) => (false, format!("{dest}: {error}")),
        };
        Ok(json!({ "safe": safe, "message": message }))
    }

    fn plugin(&self, base: &Base, class: Class, name: &str) -> Result<Value, Reject> {
        let mut enumeration = match class {
            Class::Test => self.catalogue.test(name)?.enumeration(),
            Class::Tool => self.catalogue.tool_enumeration(self.catalogue.tool(name)?),
            Class::Archiver | Class::Context => {
                return Err(Reject::no_plugin(class.singular(), name));
            }
        };
        if let Some(members) = enumeration.as_object_mut() {
            let href = base.url(&format!("/{}/{name}", class.plural()));
            members.insert("href".to_owned(), Value::from(href));
        }
        Ok(enumeration)
    }

    /// What the limits would say. There is no limits file: all that is checked is the task.
    fn limits_check(&self, proposal: &Value) -> Result<Value, Reject> {
        self.catalogue
            .check_task(proposal)
            .map_err(|error| Reject::new(400, format!("Invalid task specification: {error}")))?;
        Ok(json!({ "passed": true, "diags": views::NO_LIMITS }))
    }

    async fn stat(&self, stat: Stat) -> Result<Answer, Reject> {
        let state = match stat {
            Stat::Pause => return Ok(Answer::Json(json!({ "is_paused": false }))),
            Stat::Queue => return Ok(Answer::Bare("0".to_owned())),
            Stat::Runs(state) => state,
        };
        let counts = self
            .control
            .counts()
            .await
            .map_err(|error| reject_of(&error))?;
        let words = views::our_words(state);
        let total: i64 = counts
            .iter()
            .filter(|(word, _)| {
                word.strip_prefix("runs.")
                    .is_some_and(|word| words.contains(&word))
            })
            .map(|(_, count)| count)
            .sum();
        Ok(Answer::Bare(total.to_string()))
    }

    async fn status(&self) -> Result<Value, Reject> {
        let now = self.control.clock().now();
        let latest = self
            .control
            .store()
            .read(muster_store::runs::latest)
            .await
            .map_err(|error| reject_of(&ControlError::from(error)))?;
        let started = self.control.started();
        let statuses = self.statuses.all();
        Ok(views::status(now, started, &statuses, latest))
    }

    async fn tasks(
        &self,
        base: &Base,
        expanded: bool,
        detail: bool,
        pattern: Option<Value>,
    ) -> Result<Value, Reject> {
        // Runs are counted only where somebody sees the figures.
        let asks = |pattern: &Value| pattern.get("detail").is_some();
        let with_runs = (expanded && detail) || pattern.as_ref().is_some_and(asks);
        let mut listed = Vec::new();
        let mut steps = CONTAINMENT_STEPS;
        let mut after = None;
        loop {
            let page = self
                .control
                .tasks(after, 1000)
                .await
                .map_err(|error| reject_of(&error))?;
            for view in page.rows {
                if view.task.origin != Origin::Pscheduler {
                    continue;
                }
                let shown = if with_runs {
                    self.task_view(&view.task, base).await?
                } else if expanded || pattern.is_some() {
                    self.task_view_of(&view.task, &[], base)
                } else {
                    listed.push(json!(base.url(&format!("/tasks/{}", view.task.id))));
                    continue;
                };
                let fits = match &pattern {
                    None => true,
                    Some(pattern) => {
                        let fits = contains_at_top(&shown.searchable(), pattern, &mut steps);
                        fits.ok_or_else(|| Reject::new(400, "The search is too large."))?
                    }
                };
                if fits {
                    listed.push(if expanded {
                        shown.to_json(base, detail)
                    } else {
                        json!(shown.href(base))
                    });
                }
            }
            match page.next {
                Some(next) if listed.len() < TASKS_MAX => after = Some(next),
                _ => return Ok(Value::Array(listed)),
            }
        }
    }

    /// A task that came over this interface; any other is not there.
    async fn find_task(&self, id: Uuid) -> Result<Task, Reject> {
        let view = self.control.task(TaskId::from_uuid(id)).await;
        let view = view.map_err(|error| reject_of(&error))?;
        if view.task.origin == Origin::Pscheduler && view.task.id.uuid() == id {
            Ok(view.task)
        } else {
            Err(Reject::not_found())
        }
    }

    async fn task_view(&self, task: &Task, base: &Base) -> Result<wire::TaskView, Reject> {
        let runs = self.runs_of(task).await?;
        Ok(self.task_view_of(task, &runs, base))
    }

    fn task_view_of(&self, task: &Task, runs: &[StoredRun], base: &Base) -> wire::TaskView {
        let class = self
            .catalogue
            .test(task.kind.as_str())
            .map(|test| test.class())
            .ok();
        views::task(task, runs, class, base)
    }

    async fn runs_of(&self, task: &Task) -> Result<Vec<StoredRun>, Reject> {
        let runs = self.control.runs_of(task.id, RUNS_MAX).await;
        let mut runs = runs.map_err(|error| reject_of(&error))?;
        runs.retain(views::is_visible);
        Ok(runs)
    }

    async fn task(
        &self,
        id: Uuid,
        detail: bool,
        key: Option<&str>,
        base: &Base,
    ) -> Result<Answer, Reject> {
        let task = self.find_task(id).await?;
        let mut shown = self.task_view(&task, base).await?;
        match self.secrets(&task, key).await? {
            None => Ok(Answer::Json(shown.to_json(base, detail))),
            Some(document) => {
                shown.document = document;
                Ok(Answer::JsonWithSecrets(shown.to_json(base, detail)))
            }
        }
    }

    /// The whole document of a task whose key the caller knows; `None` when no key was shown or none
    /// is needed.
    ///
    /// # Errors
    /// 403 for a wrong key.
    async fn secrets(&self, task: &Task, key: Option<&str>) -> Result<Option<Value>, Reject> {
        let Some(key) = key else { return Ok(None) };
        let opened = self.control.task_secrets(task.id).await;
        let (_, peer) = opened.map_err(|error| reject_of(&error))?;
        let document = peer
            .and_then(|peer| serde_json::from_str::<Value>(peer.expose()).ok())
            .and_then(|mut peer| peer.get_mut("document").map(Value::take));
        let wanted = document.as_ref().and_then(|document| document.get("_key"));
        match wanted.and_then(Value::as_str) {
            None => Ok(None),
            Some(wanted) => {
                let (wanted, shown) = (Sha256::digest(wanted), Sha256::digest(key));
                if bool::from(wanted.as_slice().ct_eq(shown.as_slice())) {
                    Ok(document)
                } else {
                    Err(Reject::forbidden())
                }
            }
        }
    }

    /// From this machine, or from whoever posted the task (contract, section 9). A key counts only
    /// for tasks with several participants.
    fn may_write(task: &Task, caller: &Caller) -> Result<(), Reject> {
        let requester = views::Meta::of(task).requester;
        let same = requester.and_then(|text| text.parse::<IpAddr>().ok()) == Some(caller.address);
        if caller.own || same {
            Ok(())
        } else {
            Err(Reject::forbidden())
        }
    }

    async fn delete_task(&self, id: Uuid, caller: &Caller) -> Result<Answer, Reject> {
        let task = self.find_task(id).await?;
        Self::may_write(&task, caller)?;
        let by = format!("{} over pScheduler", caller.address);
        self.control
            .cancel(task.id, &by)
            .await
            .map_err(|error| reject_of(&error))?;
        Ok(Answer::Bare("OK".to_owned()))
    }

    async fn delete_run(&self, task: Uuid, run: Uuid, caller: &Caller) -> Result<Answer, Reject> {
        let task = self.find_task(task).await?;
        Self::may_write(&task, caller)?;
        let run = self
            .find_run(&task, RunRef::Id(run))
            .await?
            .ok_or_else(Reject::not_found)?;
        let by = format!("{} over pScheduler", caller.address);
        self.control
            .cancel_run(run.run.id, &by)
            .await
            .map_err(|error| reject_of(&error))?;
        Ok(Answer::Bare("OK".to_owned()))
    }

    async fn runs(&self, task: Uuid, wanted: RunsWanted, base: &Base) -> Result<Value, Reject> {
        let task = match self.find_task(task).await {
            Ok(task) => task,
            // A well-formed id that is no task has no runs (contract, section 3).
            Err(reject) if reject.status == 404 => return Ok(json!([])),
            Err(reject) => return Err(reject),
        };
        let now = stamp(self.control.clock().now());
        let listed = self
            .runs_of(&task)
            .await?
            .iter()
            .map(|run| views::run(&task, run, base))
            .filter(|run| wanted.fits(run, now))
            .map(|run| json!(run.href(base)))
            .take(wanted.limit.map_or(usize::MAX, |limit| {
                usize::try_from(limit).unwrap_or(usize::MAX)
            }))
            .collect();
        Ok(Value::Array(listed))
    }

    async fn find_run(&self, task: &Task, run: RunRef) -> Result<Option<StoredRun>, Reject> {
        match run {
            RunRef::Id(id) => match self.control.run(RunId::from_uuid(id)).await {
                Ok(run) if run.run.task == task.id && views::is_visible(&run) => Ok(Some(run)),
                Ok(_) => Ok(None),
                Err(error) if error.trouble == Trouble::NotFound => Ok(None),
                Err(error) => Err(reject_of(&error)),
            },
            RunRef::First => Ok(self.runs_of(task).await?.into_iter().next()),
            RunRef::Next => {
                let now = muster_core::time::whole_seconds(self.control.clock().now());
                let runs = self.runs_of(task).await?;
                Ok(runs.into_iter().find(|run| run.run.window.start >= now))
            }
        }
    }

    /// A run, waited for until `deadline` when it is meant by its place and not there yet.
    async fn await_run(
        &self,
        task: Uuid,
        run: RunRef,
        deadline: Timestamp,
    ) -> Result<(Task, StoredRun), Reject> {
        let mut changes = self.control.run_changes();
        loop {
            changes.borrow_and_update();
            let task = self.find_task(task).await?;
            if let Some(run) = self.find_run(&task, run).await? {
                return Ok((task, run));
            }
            let now = self.control.clock().now();
            let hopeless = matches!(run, RunRef::Id(_)) || task.state != TaskState::Active;
            if hopeless || now >= deadline {
                return Err(Reject::not_found());
            }
            // Other replicas are not heard, so it looks now and then as well.
            let wait = deadline
                .duration_since(now)
                .min(SignedDuration::from_secs(1));
            tokio::select! {
                biased;
                _ = changes.changed() => {}
                () = self.control.clock().sleep(wait.unsigned_abs()) => {}
            }
        }
    }

    fn deadline(&self, wait_secs: u64) -> Timestamp {
        let wait = i64::try_from(wait_secs).unwrap_or(i64::MAX);
        saturating_add(self.control.clock().now(), SignedDuration::from_secs(wait))
    }

    async fn run(
        &self,
        task: Uuid,
        run: RunRef,
        wait_for: WaitFor,
        wait_secs: u64,
        key: Option<&str>,
        base: &Base,
    ) -> Result<Answer, Reject> {
        let deadline = self.deadline(wait_secs);
        let (task, mut found) = self.await_run(task, run, deadline).await?;
        if wait_for != WaitFor::Existence {
            let ended = |run: &StoredRun| run.run.state.is_ended();
            found = self
                .control
                .wait_run(found.run.id, deadline, ended)
                .await
                .map_err(|error| reject_of(&error))?;
        }
        let shown = views::run(&task, &found, base).to_json(base);
        Ok(match self.secrets(&task, key).await? {
            None => Answer::Json(shown),
            Some(_) => Answer::JsonWithSecrets(shown),
        })
    }

    async fn result(
        &self,
        task: Uuid,
        run: RunRef,
        format: ResultFormat,
        wait_secs: u64,
        key: Option<&str>,
    ) -> Result<Answer, Reject> {
        let deadline = self.deadline(wait_secs);
        let (task, found) = self.await_run(task, run, deadline).await?;
        let found = self
            .control
            .wait_run(found.run.id, deadline, |run| run.run.state.is_ended())
            .await
            .map_err(|error| reject_of(&error))?;
        let mut merged = views::merged(&found).ok_or_else(Reject::not_found)?;
        // A wrong key is refused whatever the form.
        if self.secrets(&task, key).await?.is_none() {
            sanitise(&mut merged);
        }
        let medium = match format {
            ResultFormat::Json => return Ok(Answer::JsonWithSecrets(merged)),
            ResultFormat::Html => Medium::Html,
            ResultFormat::Plain => Medium::Plain,
        };
        let text = match self.catalogue.test(task.kind.as_str()) {
            Ok(test) => test.render(medium, &merged),
            Err(_) => text::render(Form::Json, medium, &merged),
        };
        Ok(Answer::Formatted { format, text })
    }
}

/// Which runs a listing shows.
struct RunsWanted {
    start: Option<Stamp>,
    end: Option<Stamp>,
    upcoming: bool,
    limit: Option<u64>,
}

impl RunsWanted {
    fn fits(&self, run: &wire::RunView, now: Stamp) -> bool {
        let inside = self.start.is_none_or(|start| run.start >= start)
            && self.end.is_none_or(|end| run.end <= end);
        inside && (!self.upcoming || (run.end >= now && run.state.upcoming()))
    }
}

/// What an expanded POST leads to (contract, section 3, step 13).
fn with_query(url: String, detail: bool, pretty: bool) -> String {
    match (detail, pretty) {
        (true, true) => url + "?detail&pretty",
        (true, false) => url + "?detail",
        (false, true) => url + "?pretty",
        (false, false) => url,
    }
}
