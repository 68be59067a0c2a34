//! Tasks posted over HTTPS, done by our own agent with its own tools, read back as a client would.
//!
//! The server listens for real, with a certificate of its own; the agent is the whole one, with
//! policy, ledger and audit, on a teeth line.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use jiff::SignedDuration;
use muster_agent::agent::{Agent, AgentConfig, Link};
use muster_agent::links::teeth::{self, TeethLink};
use muster_net::dial::{Endpoint, Protection, dial};
use muster_net::http::call;
use muster_net::tls::{Identity, Inbound, Trust};
use muster_net::{Clock, Entropy, GateLimits, Listener};
use muster_proto::pscheduler::agent::{Call, RunNews, answer_json, answer_run, answer_task_id};
use muster_proto::pscheduler::time::IsoDuration;
use muster_proto::pscheduler::wire::{Limits, RunState};
use muster_server::Control;
use muster_server::app::{App, Listeners, Protections};
use muster_server::control::{EnrolPolicy, Settings};
use muster_store::sealed::Sealer;
use muster_store::{Store, StoreUrl};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

/// How late a run may begin on a machine that tests many things at once. An idle one is far below.
const LATE_MAX: SignedDuration = SignedDuration::from_millis(950);

struct House {
    control: Control,
    app: App,
    https: SocketAddr,
    clock: Clock,
    cancel: CancellationToken,
    tracker: TaskTracker,
    folder: tempfile::TempDir,
}

impl House {
    async fn open() -> Self {
        let (clock, entropy) = (Clock::system(), Entropy::system());
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(StoreUrl::Memory).await.unwrap();
        store.migrate(clock.now()).await.unwrap();
        let sealer = Sealer::ephemeral(&mut entropy.rng());
        let settings = Settings {
            enrol_policy: EnrolPolicy::Loopback,
            ..Settings::default()
        };
        let control = Control::open(store, sealer, settings, clock.clone(), entropy)
            .await
            .unwrap();
        let any = "127.0.0.1:0".parse().unwrap();
        let listener = Listener::bind("https", "--listen-https", any, GateLimits::default())
            .await
            .unwrap();
        let https = listener.local_addr();
        let lines = Listener::bind("teeth", "--listen-teeth", any, GateLimits::default()).await;
        let lines = lines.unwrap();
        let teeth = lines.local_addr();
        let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
        let identity = Identity::load_or_generate(&folder.path().join("tls"), &names).unwrap();
        let tls = Inbound::rustls(&identity, &[]).unwrap();
        let protections = Protections {
            zabbix: tls.clone(),
            tls,
        };
        let listeners = Listeners {
            https: Some(listener),
            teeth: Some(lines),
            ..Listeners::default()
        };
        let cancel = CancellationToken::new();
        let app = App::start(&control, listeners, protections, "ps1.example.net", &cancel);
        let app = app.await.unwrap();
        let house = Self {
            control,
            app,
            https,
            clock,
            cancel,
            tracker: TaskTracker::new(),
            folder,
        };
        house.employ(teeth).await;
        house
    }

    /// Opens the agent and lets it dial the server.
    async fn employ(&self, teeth: SocketAddr) {
        let config = AgentConfig {
            system_policy: self.folder.path().join("none"),
            ..AgentConfig::local(self.folder.path().join("agent"))
        };
        let agent = Agent::open(config, self.clock.clone(), Entropy::system())
            .await
            .unwrap();
        let crew = agent.crew().clone();
        let line = teeth::Config {
            peer: format!("teeth://{teeth}"),
            endpoint: Endpoint::from(teeth),
            protection: Protection::Plain,
            token: None,
            agent_id: agent.identity().id.to_string(),
            mac: "02:00:00:00:00:01".to_owned(),
            hostname: Some("own".to_owned()),
            kinds: teeth::Config::kinds_of(&crew),
            root: "/".into(),
        };
        let link = TeethLink::new(line, crew, self.clock.clone(), Entropy::system());
        let cancel = self.cancel.clone();
        self.tracker.spawn(async move {
            let link = Link::new("house", move |cancel| link.clone().run(cancel));
            agent.run(vec![link], cancel.clone(), cancel).await;
        });
    }

    async fn ask(&self, ask: &Call) -> http::Response<Bytes> {
        let seen = Arc::new(OnceLock::new());
        let protection = Protection::Tls(Trust::Noted(seen));
        let endpoint = Endpoint::from(self.https);
        let timeout = Duration::from_secs(10);
        let stream = dial(&endpoint, &protection, timeout, &self.clock)
            .await
            .unwrap();
        call(stream, ask.request(&self.https.to_string()), 1 << 20)
            .await
            .unwrap()
    }

    async fn post(&self, test: Value, schedule: Value) -> Uuid {
        let task = json!({ "schema": 1, "test": test, "schedule": schedule });
        let answer = self.ask(&Call::PostTask { task }).await;
        answer_task_id(&answer, &Limits::default()).unwrap()
    }

    /// The first run of a task, once it has ended.
    async fn ended(&self, task: Uuid) -> RunNews {
        let limits = Limits::default();
        let first = answer_run(&self.ask(&Call::RunFirst { task }).await, &limits).unwrap();
        let wait = Call::RunMerged {
            task,
            run: first.id,
            wait_secs: 60,
        };
        answer_run(&self.ask(&wait).await, &limits).unwrap()
    }

    async fn words(&self, task: Uuid, run: Uuid, format: &'static str) -> String {
        let answer = self.ask(&Call::Result { task, run, format }).await;
        assert_eq!(answer.status(), 200);
        String::from_utf8(answer.body().to_vec()).unwrap()
    }

    async fn close(self) {
        self.cancel.cancel();
        self.tracker.close();
        self.tracker.wait().await;
        self.app.drained().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn posted_tasks_run_at_their_second_and_read_back() {
    let house = House::open().await;
    let start = house.clock.now().as_second() + 4;
    let start = jiff::Timestamp::from_second(start).unwrap();
    let schedule = json!({ "start": start.to_string() });
    let idle = json!({"type": "idle", "spec": {
        "schema": 1, "duration": "PT1S", "host": "localhost", "parting-comment": "rested"
    }});
    let noop = json!({"type": "noop", "spec": {"data": {"a": [1, null]}}});
    let rtt = json!({"type": "rtt", "spec": {
        "dest": "127.0.0.1", "count": 2, "interval": "PT0.1S", "hostnames": false
    }});
    let clock = json!({"type": "clock", "spec": {"dest": house.https.to_string()}});
    let failing = json!({"type": "noop", "spec": {"fail": 1.0}});
    let mut tasks = Vec::new();
    for test in [idle, noop, rtt, clock, failing] {
        tasks.push(house.post(test, schedule.clone()).await);
    }
    let mut runs = Vec::new();
    for task in &tasks {
        let run = house.ended(*task).await;
        assert_eq!(
            run.start.zulu(),
            start.to_string(),
            "the agreed second stays"
        );
        runs.push(run);
    }
    let merged = |at: usize| runs[at].merged.clone().unwrap_or_default();
    let states: Vec<_> = runs.iter().map(|run| run.state).collect();
    use RunState::{Failed, Finished};
    assert_eq!(
        states,
        [Finished, Finished, Finished, Finished, Failed],
        "{runs:#?}"
    );

    assert_eq!(merged(0)["duration"], "PT1S");
    assert_eq!(merged(0)["diags"], "rested\n");
    let words = house.words(tasks[0], runs[0].id, "text/plain").await;
    assert_eq!(words, "Duration ... PT1S\n");
    assert_eq!(merged(1)["data"], json!({"a": [1, null]}));
    let words = house.words(tasks[1], runs[1].id, "text/html").await;
    assert!(
        words.starts_with("<table>\n<tr><td>Data</td>") && words.contains("&#34;a&#34;"),
        "{words}"
    );

    assert_eq!(merged(2)["roundtrips"].as_array().map(Vec::len), Some(2));
    assert_eq!(merged(2)["loss"], json!(0.0));
    let words = house.words(tasks[2], runs[2].id, "text/plain").await;
    assert!(
        words.starts_with("1       127.0.0.1 (127.0.0.1)  64 Bytes  TTL 64  RTT "),
        "{words}"
    );
    assert!(
        words.contains("\n0% Packet Loss  RTT Min/Mean/Max/StdDev = "),
        "{words}"
    );

    let difference = merged(3)["difference"].as_str().map(IsoDuration::parse);
    let difference = difference.unwrap().unwrap();
    assert!(
        difference < IsoDuration::from_secs(1),
        "one clock, asked twice: {difference}"
    );
    assert_eq!(
        merged(3)["remote"]["synchronized"],
        merged(3)["local"]["synchronized"]
    );
    let words = house.words(tasks[3], runs[3].id, "text/plain").await;
    assert!(
        words.contains("Remote:\n\n  Time ........... 20"),
        "{words}"
    );
    let pins = house.folder.path().join("agent/pscheduler-pins.json");
    assert!(
        std::fs::read_to_string(pins)
            .unwrap()
            .contains(&house.https.to_string())
    );

    assert_eq!(merged(4)["error"], "Randomly-induced failure");
    assert_eq!(runs[4].errors.as_deref(), Some("Randomly-induced failure"));

    for run in &runs {
        let stored = house
            .control
            .run(muster_core::RunId::from_uuid(run.id))
            .await
            .unwrap();
        let muster_core::RunState::Ended(end) = stored.run.state else {
            panic!("it has ended")
        };
        let late = end.since.unwrap().duration_since(start);
        assert!(
            late >= SignedDuration::ZERO && late < LATE_MAX,
            "began {late} after its second"
        );
    }
    house.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_agent_refuses_is_a_run_that_did_not_start() {
    let house = House::open().await;
    // The policy of a new agent lets it measure towards loopback only.
    let rtt = json!({"type": "rtt", "spec": {"dest": "192.0.2.1", "count": 1}});
    let denied = house.post(rtt, json!({})).await;
    let run = house.ended(denied).await;
    let errors = run.errors.unwrap_or_default();
    assert!(
        matches!(run.state, RunState::Failed | RunState::Nonstart),
        "{:?}",
        run.state
    );
    assert!(errors.contains("outside the networks"), "{errors}");
    let answer = house.ask(&Call::Task { id: denied }).await;
    let task = answer_json(&answer, &Limits::default()).unwrap();
    assert_eq!(task["detail"]["runs"], json!(1));
    house.close().await;
}
