//! A server with its front, agents with their links, and bare lines to play a peer by hand.

use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use muster_agent::audit::Audit;
use muster_agent::crew::{Crew, CrewParts, Ledger, MemoryLedger};
use muster_agent::links::teeth::{Config, TeethLink};
use muster_agent::policy::{DEFAULT_POLICY, PolicySource};
use muster_agent::tools;
use muster_core::run::EndKind;
use muster_core::task::{Assignee, Origin};
use muster_core::{AgentId, Kind, RunState, TaskId};
use muster_net::tls::{BoxStream, Inbound};
use muster_net::{
    Clock, Entropy, GateLimits, Listener, MemoryBudget, NetContext, PeerInfo, Protection, Security,
};
use muster_proto::teeth::Limits;
use muster_server::Control;
use muster_server::control::{NewTask, Settings};
use muster_server::fronts::teeth::TeethFront;
use muster_store::runs::StoredRun;
use muster_store::sealed::Sealer;
use muster_store::{Store, StoreUrl};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, DuplexStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

const EPOCH: &str = "2026-11-24T12:00:00Z";

/// A server in simulated time.
pub(crate) struct Server {
    pub(crate) control: Control,
    pub(crate) front: TeethFront,
    pub(crate) clock: Clock,
    pub(crate) entropy: Entropy,
    cancel: CancellationToken,
    tracker: TaskTracker,
    /// The line opened last by each link, to be cut by the test.
    lines: Arc<Mutex<Vec<CancellationToken>>>,
}

impl Server {
    /// In simulated time; the runtime must be paused.
    pub(crate) async fn simulated(settings: Settings) -> Self {
        Self::with_clock(settings, Clock::simulated(EPOCH.parse().unwrap())).await
    }

    pub(crate) async fn with_clock(settings: Settings, clock: Clock) -> Self {
        let entropy = Entropy::seeded(11);
        let store = Store::open(StoreUrl::Memory).await.unwrap();
        store.migrate(clock.now()).await.unwrap();
        let sealer = Sealer::ephemeral(&mut entropy.rng());
        let control = Control::open(store, sealer, settings, clock.clone(), entropy.clone());
        let control = control.await.unwrap();
        let budget = MemoryBudget::default();
        let front = TeethFront::new(control.clone(), Limits::default(), budget);
        let (cancel, tracker) = (CancellationToken::new(), TaskTracker::new());
        muster_server::reconcile::spawn_all(&control, &tracker, &cancel);
        Self {
            control,
            front,
            clock,
            entropy,
            cancel,
            tracker,
            lines: Arc::default(),
        }
    }

    /// Opens a stream to the front, as if from `from`.
    pub(crate) fn connect(&self, from: &str) -> (DuplexStream, CancellationToken) {
        let (near, far) = tokio::io::duplex(64 * 1024);
        let front = self.front.clone();
        let peer = peer(from);
        let cut = CancellationToken::new();
        let (cutting, cancel) = (cut.clone(), self.cancel.clone());
        self.tracker.spawn(async move {
            tokio::select! {
                () = front.serve(far, peer, cancel) => {}
                () = cutting.cancelled() => {}
            }
        });
        (near, cut)
    }

    /// A bare line, to play an agent by hand.
    pub(crate) fn line(&self, from: &str) -> Line<DuplexStream> {
        Line::new(self.connect(from).0)
    }

    /// A whole agent with its link.
    pub(crate) fn agent(&self, number: u128, policy: &str) -> AgentUnderTest {
        let agent = self.idle_agent(number, policy);
        self.link(&agent);
        agent
    }

    /// An agent without a link.
    pub(crate) fn idle_agent(&self, number: u128, policy: &str) -> AgentUnderTest {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("policy.toml"), policy).unwrap();
        let parts = CrewParts {
            registry: tools::registry(),
            policy: PolicySource::new("/nonexistent/policy.toml", dir.path()),
            audit: Audit::none(),
            clock: self.clock.clone(),
            seed: [3; 32],
            root: "/".into(),
            state: dir.path().into(),
        };
        let ledger = Arc::new(MemoryLedger::default());
        let crew = Crew::new(parts, Arc::clone(&ledger) as Arc<dyn Ledger>);
        let id = uuid::Uuid::from_u128(number);
        AgentUnderTest {
            id: id.to_string().parse().unwrap(),
            crew,
            stop: CancellationToken::new(),
            _dir: dir,
        }
    }

    /// Starts a link of the agent.
    pub(crate) fn link(&self, agent: &AgentUnderTest) {
        let config = Config {
            peer: "teeth://server".into(),
            endpoint: "127.0.0.1:1".parse().unwrap(),
            protection: Protection::Plain,
            token: None,
            agent_id: agent.id.to_string(),
            mac: "52:54:00:12:34:56".into(),
            hostname: Some(format!("host-{}", agent.id)),
            kinds: Config::kinds_of(&agent.crew),
            root: "/".into(),
        };
        let link = TeethLink::new(
            config,
            agent.crew.clone(),
            self.clock.clone(),
            self.entropy.clone(),
        );
        let (front, cancel, tracker, lines) = (
            self.front.clone(),
            self.cancel.clone(),
            self.tracker.clone(),
            Arc::clone(&self.lines),
        );
        let connect = move || {
            let (near, far) = tokio::io::duplex(64 * 1024);
            let (front, cancel) = (front.clone(), cancel.clone());
            let cut = CancellationToken::new();
            lines.lock().unwrap().push(cut.clone());
            tracker.spawn(async move {
                tokio::select! {
                    () = front.serve(far, peer("127.0.0.1"), cancel) => {}
                    () = cut.cancelled() => {}
                }
            });
            let io: BoxStream = Box::pin(near);
            std::future::ready(Ok::<_, Infallible>(io))
        };
        let (stopping, stop) = (self.cancel.clone(), agent.stop.child_token());
        self.tracker.spawn(async move {
            tokio::select! {
                () = link.run_over(connect, stop) => {}
                () = stopping.cancelled() => {}
            }
        });
    }

    /// Cuts every line that links have open.
    pub(crate) fn cut_lines(&self) {
        for line in self.lines.lock().unwrap().drain(..) {
            line.cancel();
        }
    }

    pub(crate) async fn submit(&self, kind: &str, spec: Value, assignee: Assignee) -> TaskId {
        let kind: Kind = kind.parse().unwrap();
        let new = NewTask {
            assignee,
            ..NewTask::new(kind, Origin::Cli, spec)
        };
        self.control.submit(new).await.unwrap().id
    }

    /// Waits until the run of a task is as wanted; fails after ten minutes of the clock.
    pub(crate) async fn run_until(
        &self,
        task: TaskId,
        done: impl Fn(&RunState) -> bool,
    ) -> StoredRun {
        let deadline = self.clock.now() + jiff::SignedDuration::from_mins(10);
        let mut changes = self.control.run_changes();
        loop {
            let runs = self.control.runs_of(task, 1).await.unwrap();
            if let Some(run) = runs.into_iter().next() {
                let wait = self
                    .control
                    .wait_run(run.run.id, deadline, |run| done(&run.run.state));
                let run = wait.await.unwrap();
                assert!(done(&run.run.state), "still {:?}", run.run.state);
                return run;
            }
            changes.changed().await.unwrap();
        }
    }

    /// Waits for the end of a task's run: how it ended, why, and the result.
    pub(crate) async fn ended(&self, task: TaskId) -> (EndKind, String, Value) {
        let run = self.run_until(task, RunState::is_ended).await;
        let RunState::Ended(end) = run.run.state else {
            unreachable!()
        };
        let result = run
            .result
            .as_deref()
            .map_or(Value::Null, |text| serde_json::from_str(text).unwrap());
        (end.kind, end.reason.unwrap_or_default(), result)
    }

    /// Waits until an agent of this name can do a kind.
    pub(crate) async fn until_able(&self, name: &str, kind: &str) -> AgentId {
        let kind: Kind = kind.parse().unwrap();
        for _ in 0..500 {
            if let Ok(view) = self.control.find_agent(name).await
                && view.agent.can(&kind)
            {
                return view.agent.id;
            }
            self.clock.sleep(Duration::from_millis(20)).await;
        }
        let seen = self.control.agents(None, 10).await.unwrap().rows;
        panic!("{name} is not there or cannot do {kind}: {seen:?}");
    }

    pub(crate) async fn stop(self) {
        self.cancel.cancel();
        self.tracker.close();
        self.tracker.wait().await;
    }

    /// Listens on a free port of loopback, with real sockets.
    pub(crate) async fn listen(&self) -> std::net::SocketAddr {
        self.listen_as(Inbound::Plain).await
    }

    /// The same, protected.
    pub(crate) async fn listen_as(&self, inbound: Inbound) -> std::net::SocketAddr {
        let address = "127.0.0.1:0".parse().unwrap();
        let listener = Listener::bind("teeth", "--listen-teeth", address, GateLimits::default());
        let listener = listener.await.unwrap();
        let address = listener.local_addr();
        let context = NetContext::new(self.clock.clone());
        let (front, cancel) = (self.front.clone(), self.cancel.clone());
        let drain = Duration::from_secs(1);
        self.tracker
            .spawn(front.serve_listener(listener, context, inbound, cancel, drain));
        address
    }
}

pub(crate) struct AgentUnderTest {
    pub(crate) id: AgentId,
    pub(crate) crew: Crew,
    pub(crate) stop: CancellationToken,
    _dir: tempfile::TempDir,
}

pub(crate) fn peer(from: &str) -> PeerInfo {
    PeerInfo {
        remote: (from.parse::<std::net::IpAddr>().unwrap(), 40_000).into(),
        local: "127.0.0.1:8081".parse().unwrap(),
        listener: "teeth",
        security: Security::Plain,
    }
}

pub(crate) fn open_to_loopback() -> Settings {
    Settings {
        enrol_policy: muster_server::control::EnrolPolicy::Loopback,
        ..Settings::default()
    }
}

pub(crate) const POLICY: &str = DEFAULT_POLICY;

/// A line to a front, a JSON object at a time.
pub(crate) struct Line<IO> {
    io: BufReader<IO>,
}

impl<IO: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin> Line<IO> {
    pub(crate) fn new(io: IO) -> Self {
        Self {
            io: BufReader::new(io),
        }
    }

    pub(crate) async fn send(&mut self, line: Value) {
        self.send_bytes((line.to_string() + "\n").as_bytes())
            .await
            .unwrap();
    }

    pub(crate) async fn send_bytes(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.io.write_all(bytes).await?;
        self.io.flush().await
    }

    /// The next line; null at the end of the stream.
    pub(crate) async fn next(&mut self) -> Value {
        let mut line = String::new();
        match self.io.read_line(&mut line).await {
            Ok(0) | Err(_) => Value::Null,
            Ok(_) => serde_json::from_str(&line).unwrap(),
        }
    }

    /// The answer to a command, other lines left out.
    pub(crate) async fn call(&mut self, method: &str, params: Value) -> Value {
        let id = format!("c-{method}");
        self.send(json!({"id": id, "version": "v1", "method": method, "params": params}))
            .await;
        loop {
            let line = self.next().await;
            if line.is_null() || line["id"] == *id || line.get("fatal_error").is_some() {
                return line;
            }
        }
    }

    /// The next command of the server with this method, other lines left out.
    pub(crate) async fn commanded(&mut self, method: &str) -> Value {
        loop {
            let line = self.next().await;
            assert!(!line.is_null(), "the line ended before {method}");
            if line["method"] == method {
                return line;
            }
        }
    }

    pub(crate) async fn answer(&mut self, command: &Value, result: Value) {
        self.send(json!({"id": command["id"], "version": "v1", "result": result}))
            .await;
    }
}
