//! What a link keeps over its connections, and what one connection does with it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Instant;

use muster_core::run::OfferToken;
use muster_net::{Clock, Drain, Handler};
use muster_proto::teeth::agent::{Called, Event, LogQueue, Session};
use muster_proto::teeth::commands::{LogLine, Report, TaskCall, TaskState, Verb};
use muster_proto::teeth::tasks::{Start, TaskBook};
use muster_proto::teeth::{CallError, CallRefused, CloseReason, Json, Ticket};
use serde_json::{Map, Value, json};
use tokio::sync::mpsc;

use super::{Config, identity};
use crate::crew::{Accepted, Crew, Ending, Job, News, RunKey, Word};

/// Log lines kept while there is no connection.
const LOG_LINES_MAX: usize = 1000;

pub(super) struct Worker {
    peer: String,
    hostname: Option<String>,
    root: PathBuf,
    crew: Crew,
    clock: Clock,
    started: Instant,
    sender: mpsc::Sender<News>,
    book: TaskBook,
    /// The crew's name of each task in the book.
    keys: BTreeMap<String, RunKey>,
    logs: LogQueue,
    /// The server ended a connection over a report.
    silenced: bool,
}

impl Worker {
    pub(super) fn new(
        config: &Config,
        crew: Crew,
        clock: Clock,
        sender: mpsc::Sender<News>,
    ) -> Self {
        let started = clock.instant();
        Self {
            peer: config.peer.clone(),
            hostname: config.hostname.clone(),
            root: config.root.clone(),
            crew,
            clock,
            started,
            sender,
            book: TaskBook::default(),
            keys: BTreeMap::new(),
            logs: LogQueue::new(LOG_LINES_MAX),
            silenced: false,
        }
    }

    /// What one connection works with.
    pub(super) fn line<'w>(&'w mut self, heard: &'w mut mpsc::Receiver<News>) -> Line<'w> {
        Line {
            worker: self,
            heard,
            takes_reports: false,
            established: false,
            draining: false,
        }
    }

    /// Takes news of a job into the book.
    pub(super) fn hear(&mut self, news: News) {
        let now = self.clock.instant();
        let task_id = task_id_of(&news.key);
        match news.word {
            // The report of the start is due since the command was taken; parts are in the result.
            Word::Begun | Word::Found { .. } => {}
            Word::Progress(progress) => {
                let eta = progress.eta.map_or(0.0, |eta| eta.as_secs_f64());
                self.book
                    .progress(&task_id, progress.percent, eta, None, now);
            }
            Word::Finished(result) => self.end(&task_id, Ending::Finished(result), now),
            Word::Failed(failure) => self.end(&task_id, Ending::Failed(failure), now),
        }
    }

    /// What was sent and not answered is sent again.
    pub(super) fn disconnected(&mut self, now: Instant) {
        let in_flight: Vec<_> = self.book.in_flight();
        for call in in_flight {
            self.book.unanswered(call, now);
        }
    }

    fn end(&mut self, task_id: &str, ending: Ending, now: Instant) {
        match ending {
            Ending::Finished(result) => {
                self.book.complete(task_id, Some(as_object(result)), now);
            }
            Ending::Failed(failure) => {
                let msg = match &failure.remedy {
                    Some(remedy) => format!("{}; {remedy}", failure.reason),
                    None => failure.reason.clone(),
                };
                self.book
                    .fail(task_id, &msg, failure.result.map(as_object), now);
            }
        }
    }

    fn log(&mut self, message: &str, fields: Map<String, Value>) {
        let time = self.clock.now().as_millisecond() as f64 / 1000.0;
        self.logs.push(LogLine::new(message, time, fields));
    }

    /// Ends that the server never acknowledged, from before this process.
    async fn restore(&mut self, now: Instant) {
        let records = match self.crew.unacknowledged(&self.peer).await {
            Ok(records) => records,
            Err(error) => {
                tracing::error!(
                    server = self.peer,
                    "cannot read the spool: {}",
                    super::chain(&error)
                );
                return;
            }
        };
        for record in records {
            let task_id = task_id_of(&record.intent.key);
            let Some(ending) = record.ending else {
                continue;
            };
            if self.keys.contains_key(&task_id) {
                continue;
            }
            self.keys.insert(task_id.clone(), record.intent.key);
            let report = Report {
                task_id: task_id.clone(),
                state: TaskState::Running {
                    eta: 0.0,
                    percent: 0.0,
                },
                result: None,
                step: None,
                seq: Some(0),
            };
            self.book.restore(report, now);
            self.end(&task_id, ending, now);
        }
    }

    async fn begin(&mut self, call: &TaskCall, now: Instant) -> Result<Json, String> {
        let accepted = Json::from(json!({ "task_id": call.task_id }));
        match self
            .book
            .start(call, now)
            .map_err(|refused| refused.to_string())?
        {
            Start::Repeat => return Ok(accepted),
            Start::Begin => {}
        }
        let key = self.key_of(&call.task_id);
        // A newer offer of the same work takes the place of the older.
        let older: Vec<String> = self
            .keys
            .iter()
            .filter(|(id, held)| held.run == key.run && **id != call.task_id)
            .map(|(id, _)| id.clone())
            .collect();
        for task_id in older {
            self.book.forget(&task_id);
            self.keys.remove(&task_id);
        }
        self.keys.insert(call.task_id.clone(), key.clone());
        let job = match job_of(call, key) {
            Ok(job) => job,
            Err(problem) => {
                self.forget(&call.task_id);
                return Err(problem);
            }
        };
        match self.crew.submit(job, self.sender.clone()).await {
            Ok(Accepted::Started) => {}
            Ok(Accepted::Running(progress)) => {
                let eta = progress.eta.map_or(0.0, |eta| eta.as_secs_f64());
                self.book
                    .progress(&call.task_id, progress.percent, eta, None, now);
            }
            Ok(Accepted::Ended(ending)) => self.end(&call.task_id, ending, now),
            Err(refusal) => {
                self.forget(&call.task_id);
                let reason = super::chain(&refusal);
                let fields = Map::from_iter([
                    ("method".to_owned(), call.method.clone().into()),
                    ("task_id".to_owned(), call.task_id.clone().into()),
                ]);
                self.log(&format!("refused: {reason}"), fields);
                return Err(reason);
            }
        }
        Ok(accepted)
    }

    fn forget(&mut self, task_id: &str) {
        self.book.forget(task_id);
        self.keys.remove(task_id);
    }

    fn key_of(&self, task_id: &str) -> RunKey {
        let (run, generation) = match task_id.parse::<OfferToken>() {
            Ok(token) => (token.run.to_string(), u64::from(token.generation)),
            Err(_) => (task_id.to_owned(), 0),
        };
        RunKey {
            peer: self.peer.clone(),
            run,
            generation,
        }
    }

    async fn status(&self, now: Instant) -> Json {
        let root = self.root.clone();
        let machine = self.clock.off_thread(move || {
            (
                identity::boot_id(&root),
                identity::host_uptime(&root),
                identity::summary(&root),
            )
        });
        let (boot_id, host_uptime, inventory) = machine.await.unwrap_or_default();
        let uptime = now.saturating_duration_since(self.started).as_secs_f64();
        let tasks: Vec<Value> = self
            .book
            .reports()
            .into_iter()
            .filter_map(|report| without_result(report).to_params().to_value().ok())
            .collect();
        Json::from(json!({
            "mode": "STANDBY",
            "uptime": uptime,
            "running": uptime,
            "version": env!("CARGO_PKG_VERSION"),
            "boot_id": boot_id,
            "host_uptime": host_uptime,
            "hostname": self.hostname,
            "tasks": tasks,
            "inventory": inventory,
        }))
    }
}

/// One connection of a link.
pub(super) struct Line<'w> {
    worker: &'w mut Worker,
    heard: &'w mut mpsc::Receiver<News>,
    takes_reports: bool,
    established: bool,
    draining: bool,
}

/// What wakes a connection besides its peer.
pub(super) enum Wake {
    News(Box<News>),
    ReportsDue,
}

impl Line<'_> {
    pub(super) fn was_established(&self) -> bool {
        self.established
    }

    async fn on_called(
        &mut self,
        session: &mut Session,
        ticket: Ticket,
        called: Called,
        now: Instant,
    ) {
        match called {
            Called::Status => session.answer(ticket, &self.worker.status(now).await),
            Called::Cancel { task_id } => {
                let key = self.worker.key_of(&task_id);
                if self.worker.crew.cancel(&key.peer, &key.run) {
                    session.answer(ticket, &Json::empty());
                } else {
                    session.fail(ticket, "no such task is under way");
                }
            }
            Called::Task(call) => match self.worker.begin(&call, now).await {
                Ok(result) => session.answer(ticket, &result),
                Err(msg) => session.fail(ticket, &msg),
            },
        }
    }

    /// Sends what is due.
    fn report(&mut self, session: &mut Session, now: Instant) {
        if self.takes_reports {
            for report in self.worker.book.due(now) {
                match session.report(&report, now) {
                    Ok(call) => self.worker.book.sent(&report.task_id, call, now),
                    Err(CallRefused::TooLong) => {
                        let cut = json!({ "error": "the result is longer than a line may be" });
                        self.worker
                            .book
                            .replace_result(&report.task_id, Json::from(cut));
                    }
                    Err(CallRefused::Closed | CallRefused::TooMany | CallRefused::Unsupported) => {
                        self.worker.book.put_off(&report.task_id, now);
                    }
                }
            }
        }
        self.worker.logs.drain_into(session, now);
        if self.draining && self.worker.book.reports().is_empty() {
            session.close();
        }
    }

    async fn on_answered(
        &mut self,
        call: muster_proto::teeth::CallId,
        outcome: Result<Json, CallError>,
        now: Instant,
    ) {
        // Any answer acknowledges, an error too (teeth contract, rule 7.2).
        if matches!(outcome, Err(CallError::Closed | CallError::TimedOut)) {
            self.worker.book.unanswered(call, now);
            return;
        }
        let Some(task_id) = self.worker.book.answered(call) else {
            return;
        };
        let Some(key) = self.worker.keys.remove(&task_id) else {
            return;
        };
        if let Err(error) = self.worker.crew.acknowledge(&key).await {
            tracing::error!(
                run.id = key.run,
                "cannot write to the spool: {}",
                super::chain(&error)
            );
        }
    }
}

impl Handler<Session> for Line<'_> {
    type Wake = Wake;

    async fn on_event(&mut self, session: &mut Session, event: Event, now: Instant) {
        match event {
            Event::Answered { call, outcome } => self.on_answered(call, outcome, now).await,
            Event::Called { ticket, command } => {
                self.on_called(session, ticket, command, now).await;
            }
            Event::Closed {
                reason,
                reports_refused,
            } => {
                self.takes_reports = false;
                if reports_refused {
                    self.worker.silenced = true;
                }
                let why = describe(&reason);
                tracing::info!(
                    server = self.worker.peer,
                    "the teeth connection ended: {why}"
                );
                self.worker
                    .log(&format!("connection lost: {why}"), Map::new());
                return;
            }
            Event::Established(welcome) => {
                self.established = true;
                self.takes_reports = session.takes_reports() && !self.worker.silenced;
                tracing::info!(
                    server = self.worker.peer,
                    software = welcome.server.as_deref().unwrap_or("unknown"),
                    "the teeth connection is up"
                );
                self.worker.restore(now).await;
            }
        }
        self.report(session, now);
    }

    async fn next_wake(&mut self) -> Wake {
        let due = self.worker.book.next_due().filter(|_| self.takes_reports);
        let clock = self.worker.clock.clone();
        let timer = async {
            match due {
                Some(at) => clock.sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = timer => Wake::ReportsDue,
            Some(news) = self.heard.recv() => Wake::News(Box::new(news)),
        }
    }

    async fn on_wake(&mut self, session: &mut Session, wake: Wake, now: Instant) {
        match wake {
            Wake::News(news) => self.worker.hear(*news),
            Wake::ReportsDue => {}
        }
        self.report(session, now);
    }

    async fn on_drain(&mut self, _session: &mut Session, _now: Instant) -> Drain {
        self.draining = true;
        if self.takes_reports && !self.worker.book.reports().is_empty() {
            Drain::Finish
        } else {
            Drain::Close
        }
    }
}

/// The name a task goes by on the wire: ours have the offer in it.
fn task_id_of(key: &RunKey) -> String {
    if key.generation == 0 {
        key.run.clone()
    } else {
        format!("{}.{}", key.run, key.generation)
    }
}

fn job_of(call: &TaskCall, key: RunKey) -> Result<Job, String> {
    let params = call
        .params
        .to_value()
        .map_err(|_| "params hold a number out of range")?;
    let Value::Object(mut params) = params else {
        return Err("params must be an object".to_owned());
    };
    params.remove("task_id");
    if call.verb != Verb::Run {
        return Ok(Job::new(key, call.verb.name(), Value::Object(params)));
    }
    let kind = params
        .get("kind")
        .and_then(Value::as_str)
        .unwrap_or_default()
        .to_owned();
    let spec = params.remove("spec").unwrap_or_default();
    let mut job = Job::new(key, kind, spec);
    match params.remove("targets") {
        None | Some(Value::Null) => {}
        Some(Value::Array(targets)) => job.targets = targets,
        Some(_) => return Err("\"targets\" must be a list".to_owned()),
    }
    match params.get("workers") {
        None | Some(Value::Null) => {}
        Some(workers) => {
            let workers = workers
                .as_u64()
                .and_then(|workers| u32::try_from(workers).ok());
            job.workers = Some(workers.ok_or("\"workers\" must be a whole number")?);
        }
    }
    Ok(job)
}

/// A report's result is an object; a tool's may be any JSON.
fn as_object(result: Value) -> Json {
    if result.is_object() {
        Json::from(result)
    } else {
        Json::from(json!({ "value": result }))
    }
}

fn without_result(report: &Report) -> Report {
    Report {
        result: None,
        ..report.clone()
    }
}

fn describe(reason: &CloseReason) -> String {
    match reason {
        CloseReason::Fatal(fatal) => format!("we ended it: {fatal}"),
        CloseReason::HandshakeRefused { msg } => format!("the server refused the handshake: {msg}"),
        CloseReason::Local => "we closed it".to_owned(),
        CloseReason::OutputFull => "the server does not read".to_owned(),
        CloseReason::PeerClosed => "the server closed it".to_owned(),
        CloseReason::PeerFatal { text } => format!("the server ended it: {text}"),
        CloseReason::Silent => "the server was silent for too long".to_owned(),
    }
}
