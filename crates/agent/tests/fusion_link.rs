//! The FusionInventory link against a server of a few lines: the processing rules of P1, what is
//! uploaded, and what happens when the server cannot be reached or says no.

#![allow(clippy::unwrap_used, reason = "a test that unwraps nothing has failed")]

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use muster_agent::audit::Audit;
use muster_agent::crew::{Crew, CrewParts, Ledger, MemoryLedger};
use muster_agent::links::fusion::{BadUrl, Config, FusionLink, LinkError};
use muster_agent::policy::{ActionClass, PolicySource};
use muster_agent::tools::{Context, Failure, Outcome, Registry, SpecError, Tool};
use muster_core::AgentId;
use muster_core::credential::Secret;
use muster_net::http::{HttpServer, read_body, serve_http};
use muster_net::listen::Listener;
use muster_net::tls::{Inbound, Trust};
use muster_net::{Clock, Entropy, GateLimits, NetContext};
use muster_proto::fusion::controller::{self, Answer, What};
use muster_proto::fusion::news::JobNews;
use muster_proto::fusion::p1::{Job, Task, TaskList, Work};
use muster_proto::fusion::p2::{Content, Device, Message, Word};
use muster_proto::fusion::{Limits, p1};
use serde_json::{Value, json};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// What the server heard, in a line each, and what it is to answer.
#[derive(Default)]
struct Script {
    heard: Mutex<Vec<String>>,
    answers: Mutex<VecDeque<TaskList>>,
    /// Statuses to refuse the next requests with.
    refusals: Mutex<VecDeque<StatusCode>>,
    changed: Notify,
    devices: Mutex<Vec<Device>>,
    /// Whether `api/results` exists.
    is_published: bool,
    authorization: Mutex<Option<String>>,
}

impl Script {
    fn give(&self, jobs: Vec<Job>) {
        let task = Task {
            id: "t".to_owned(),
            jobs,
        };
        self.answers.lock().unwrap().push_back(TaskList {
            tasks: vec![task],
            next_contact: 0,
        });
    }

    fn hear(&self, line: String) {
        self.heard.lock().unwrap().push(line);
        self.changed.notify_one();
    }

    /// Waits until a line was heard so many times.
    async fn until(&self, line: &str, times: usize) {
        let wait = async {
            loop {
                let changed = self.changed.notified();
                let heard = self.heard.lock().unwrap().clone();
                if heard.iter().filter(|l| *l == line).count() >= times {
                    return;
                }
                changed.await;
            }
        };
        let waited = tokio::time::timeout(Duration::from_secs(20), wait).await;
        assert!(waited.is_ok(), "{line}: {:?}", self.heard());
    }

    fn heard(&self) -> Vec<String> {
        let heard = self.heard.lock().unwrap();
        heard.iter().filter(|l| *l != "ask").cloned().collect()
    }

    fn answer(&self, request: &Request<Bytes>) -> Response<Bytes> {
        let shown = request.headers().get("authorization");
        *self.authorization.lock().unwrap() = shown.map(|v| v.to_str().unwrap().to_owned());
        if let Some(status) = self.refusals.lock().unwrap().pop_front() {
            self.hear(format!("refused {}", status.as_u16()));
            return Response::builder()
                .status(status)
                .body(Bytes::from("{}"))
                .unwrap();
        }
        if self.is_published && request.uri().path().ends_with("/api/results") {
            self.hear("missing".to_owned());
            return Response::builder()
                .status(404)
                .body(Bytes::from("no"))
                .unwrap();
        }
        let ask = controller::decode(request, &Limits::default()).unwrap();
        let answer = match ask.what {
            What::Tasks(query) => {
                assert_eq!(query.name.as_deref(), Some("lab-7"));
                assert!(query.modules.contains_key("netdiscovery"));
                self.hear("ask".to_owned());
                let next = self.answers.lock().unwrap().pop_front();
                Answer::Tasks(next.unwrap_or(TaskList {
                    tasks: Vec::new(),
                    next_contact: 4_000_000_000,
                }))
            }
            What::News { job, news, .. } => {
                self.hear(match news {
                    JobNews::Begun => format!("{job} begun"),
                    JobNews::Failed { reason, .. } => format!("{job} failed: {reason}"),
                    JobNews::Progress { percent } => format!("{job} at {percent}"),
                    JobNews::Refused { reason } => format!("{job} refused: {reason}"),
                    JobNews::Succeeded { result } => {
                        format!("{job} succeeded: {}", result.unwrap_or_default())
                    }
                });
                Answer::Accepted
            }
            What::Message(message) => {
                self.hear_message(message);
                Answer::Accepted
            }
            other @ (What::Native(_) | What::Side(_) | What::Token { .. }) => panic!("{other:?}"),
        };
        controller::encode(answer, &ask.context)
    }

    fn hear_message(&self, message: Message) {
        let job = message.process.unwrap();
        match message.content {
            Content::Inventory(inventory) => {
                self.hear(format!("{job} inventory {}", inventory.content));
            }
            Content::NetDiscovery(words) => {
                for word in words {
                    self.hear(match word {
                        Word::Start { .. } => format!("{job} START"),
                        Word::Count(count) => format!("{job} NBIP {count}"),
                        Word::End => format!("{job} END"),
                        Word::Exit => format!("{job} EXIT"),
                        Word::Device(device) => {
                            let line = format!("{job} {}", device.ip);
                            self.devices.lock().unwrap().push(device);
                            line
                        }
                    });
                }
            }
            other @ (Content::NetInventory(_) | Content::Prolog) => panic!("{other:?}"),
        }
    }
}

/// A discovery that finds one device per target, and notes how many targets it works on at once.
#[derive(Clone, Default)]
struct Finder {
    now: Arc<AtomicUsize>,
    peak: Arc<AtomicUsize>,
    specs: Arc<Mutex<Vec<Value>>>,
    order: Arc<Mutex<Vec<String>>>,
}

impl Tool for Finder {
    fn kind(&self) -> &'static str {
        "netdiscovery"
    }

    fn class(&self, _: &Value) -> ActionClass {
        ActionClass::Scan
    }

    fn check(&self, _: &Value) -> Result<(), SpecError> {
        Ok(())
    }

    fn gather(&self, parts: Vec<(Value, Outcome)>) -> Outcome {
        let mut devices = Vec::new();
        for (_, part) in parts {
            devices.push(part?);
        }
        Ok(json!({ "devices": devices }))
    }

    fn run<'a>(&'a self, ctx: Context, spec: Value) -> BoxFuture<'a, Outcome> {
        Box::pin(async move {
            let network = spec["network"].as_str().unwrap().to_owned();
            self.order.lock().unwrap().push(network.clone());
            self.specs.lock().unwrap().push(spec);
            let now = self.now.fetch_add(1, Ordering::SeqCst) + 1;
            self.peak.fetch_max(now, Ordering::SeqCst);
            ctx.clock.sleep(Duration::from_millis(30)).await;
            self.now.fetch_sub(1, Ordering::SeqCst);
            if network == "10.0.0.66" {
                return Err(Failure::failed("the net is down"));
            }
            let ip = network.split(['-', '/']).next().unwrap();
            let device = json!({"ip": ip, "snmphostname": "sw", "ips": [ip], "type": "networking"});
            ctx.report.found(device.clone()).await;
            Ok(device)
        })
    }
}

/// Any other kind: succeeds with its spec, or fails as it says.
struct Echo(&'static str, ActionClass);

impl Tool for Echo {
    fn kind(&self) -> &'static str {
        self.0
    }

    fn class(&self, _: &Value) -> ActionClass {
        self.1
    }

    fn check(&self, spec: &Value) -> Result<(), SpecError> {
        match spec.get("bad") {
            Some(_) => Err(SpecError::at("/bad", "is there")),
            None => Ok(()),
        }
    }

    fn run<'a>(&'a self, _: Context, spec: Value) -> BoxFuture<'a, Outcome> {
        Box::pin(async move { Ok(spec) })
    }
}

struct Bench {
    script: Arc<Script>,
    finder: Finder,
    url: String,
    dir: tempfile::TempDir,
    ledger: Arc<MemoryLedger>,
    stop: CancellationToken,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

async fn bench(script: Script) -> Bench {
    let script = Arc::new(script);
    let stop = CancellationToken::new();
    let address = "127.0.0.1:0".parse().unwrap();
    let listener = Listener::bind("http", "--listen-http", address, GateLimits::default())
        .await
        .unwrap();
    let url = format!("http://{}/base", listener.local_addr());
    let server = HttpServer::new(NetContext::new(Clock::system()), Inbound::Plain);
    let shared = Arc::clone(&script);
    let service = tower::service_fn(move |request: Request<_>| {
        let script = Arc::clone(&shared);
        async move {
            let (parts, body) = request.into_parts();
            let body = read_body(&parts, body, 1 << 20).await.unwrap();
            let mut request = Request::from_parts(parts, body);
            let target = request.uri().path_and_query().unwrap().as_str();
            *request.uri_mut() = target.strip_prefix("/base").unwrap().parse().unwrap();
            Ok::<_, Infallible>(script.answer(&request).map(Full::new))
        }
    });
    let serving = tokio::spawn(serve_http(listener, server, service, stop.clone()));
    Bench {
        script,
        finder: Finder::default(),
        url,
        dir: tempfile::tempdir().unwrap(),
        ledger: Arc::default(),
        stop,
        tasks: vec![serving],
    }
}

impl Bench {
    fn crew(&self) -> Crew {
        let policy = muster_agent::policy::DEFAULT_POLICY.to_owned();
        let path = self.dir.path().join("policy.toml");
        std::fs::write(&path, policy).unwrap();
        let registry = Registry::empty()
            .with(self.finder.clone())
            .with(Echo("inventory", ActionClass::Observe))
            .with(Echo("rtt", ActionClass::Observe))
            .with(Echo("command", ActionClass::Command));
        let parts = CrewParts {
            registry,
            policy: PolicySource::new("/nonexistent/policy.toml", self.dir.path()),
            audit: Audit::in_state(self.dir.path()),
            clock: Clock::system(),
            seed: [7; 32],
            root: "/".into(),
            state: self.dir.path().into(),
        };
        Crew::new(parts, Arc::clone(&self.ledger) as Arc<dyn Ledger>)
    }

    fn config(&self) -> Config {
        Config {
            url: self.url.parse().unwrap(),
            agent_id: AgentId::from_uuid(uuid::Uuid::from_u128(7)),
            name: "lab-7".to_owned(),
            version: "0.1.0".to_owned(),
            key: Some(Secret::new("mek_1")),
            trust: Trust::System,
            insecure: false,
            first_retry: Duration::from_millis(50),
            kinds: None,
        }
    }

    fn start(&mut self) {
        let link = FusionLink::new(
            self.config(),
            self.crew(),
            Clock::system(),
            Entropy::seeded(1),
        );
        let link = link.unwrap();
        self.tasks.push(tokio::spawn(link.run(self.stop.clone())));
    }

    async fn end(self) -> Vec<String> {
        self.stop.cancel();
        for task in self.tasks {
            let ended = tokio::time::timeout(Duration::from_secs(20), task).await;
            ended.unwrap().unwrap();
        }
        self.script.heard()
    }
}

fn target(network: &str) -> p1::Readable<p1::DiscoveryTarget> {
    Ok(p1::DiscoveryTarget {
        network: muster_proto::fusion::snmp::Network::parse(network).unwrap(),
        workers: Some(5),
        timeout: Some(2),
        credentials: Vec::new(),
    })
}

fn discovery(id: &str, workers: Option<u32>, targets: &[&str]) -> Job {
    Job {
        id: id.to_owned(),
        workers,
        work: Work::NetDiscovery(targets.iter().map(|t| target(t)).collect()),
    }
}

fn other(id: &str, kind: &str, spec: &str) -> Job {
    Job {
        id: id.to_owned(),
        workers: None,
        work: Work::Other {
            kind: kind.to_owned(),
            spec: Some(spec.to_owned()),
            targets: Vec::new(),
        },
    }
}

#[tokio::test]
async fn jobs_one_after_another_targets_up_to_workers() {
    let mut bench = bench(Script::default()).await;
    bench.script.give(vec![
        discovery(
            "j1",
            Some(2),
            &["127.0.0.1", "127.0.0.2", "127.0.0.3", "127.0.0.4"],
        ),
        discovery("j2", None, &["127.0.1.0/30", "127.0.1.8"]),
    ]);
    bench.start();
    bench.script.until("j2 END", 1).await;
    let finder = bench.finder.clone();
    let devices = bench.script.devices.lock().unwrap().clone();
    assert_eq!(
        *bench.script.authorization.lock().unwrap(),
        Some("Bearer mek_1".to_owned())
    );
    let heard = bench.end().await;
    assert_eq!(
        finder.peak.load(Ordering::SeqCst),
        2,
        "the workers of the first job"
    );
    let order = finder.order.lock().unwrap().clone();
    assert_eq!(
        order[4..],
        ["127.0.1.0/30", "127.0.1.8"],
        "one after another, and after the first job"
    );
    let spec = finder.specs.lock().unwrap()[0].clone();
    assert_eq!(
        (spec["workers"].as_u64(), spec["timeout"].as_u64()),
        (Some(5), Some(2))
    );
    assert_eq!(heard[..2], ["j1 START", "j1 NBIP 4"]);
    let end = heard.iter().position(|l| l == "j1 END").unwrap();
    assert_eq!(
        heard[end + 1..],
        [
            "j2 START",
            "j2 NBIP 5",
            "j2 127.0.1.0",
            "j2 127.0.1.8",
            "j2 END"
        ]
    );
    assert_eq!(devices[0].snmp_hostname.as_deref(), Some("sw"));
    assert_eq!(devices.len(), 6);
}

#[tokio::test]
async fn what_cannot_be_done_is_told_and_the_next_job_follows() {
    let mut bench = bench(Script::default()).await;
    let bad = Job {
        id: "j1".to_owned(),
        workers: None,
        work: Work::NetDiscovery(vec![Err(p1_error()), target("127.0.0.1")]),
    };
    let hopeless = Job {
        id: "j2".to_owned(),
        workers: None,
        work: Work::NetDiscovery(vec![Err(p1_error())]),
    };
    // The list is written by our own end, which leaves out what it cannot write.
    bench.script.give(vec![bad, hopeless]);
    bench.script.give(vec![
        discovery("j3", None, &["10.0.0.66"]),
        other("j4", "brew", "{}"),
        other("j5", "rtt", r#"{"bad":1}"#),
        other("j6", "command", "{}"),
        other("j7", "rtt", r#"{"dest":"127.0.0.1"}"#),
        Job {
            id: "j8".to_owned(),
            workers: None,
            work: Work::Inventory(p1::InventoryOptions::default()),
        },
    ]);
    bench.start();
    bench.script.until("j8 inventory {}", 1).await;
    let heard = bench.end().await;
    let has = |text: &str| {
        assert!(
            heard.iter().any(|l| l.starts_with(text)),
            "{text}: {heard:#?}"
        )
    };
    has("j1 127.0.0.1");
    has("j1 END");
    has("j2 failed: the job names no target");
    has("j3 failed: the net is down");
    has("j4 refused: this agent cannot do brew");
    has("j5 refused: the rtt spec is not valid: at /bad: is there");
    has("j6 refused: denied by the agent's policy");
    has("j7 begun");
    has(r#"j7 succeeded: {"dest":"127.0.0.1"}"#);
}

fn p1_error() -> muster_proto::fusion::json::JsonError {
    muster_proto::fusion::json::JsonError::Field {
        path: "network".to_owned(),
        wanted: "a range",
    }
}

#[tokio::test]
async fn a_job_that_comes_again_is_not_done_again() {
    let mut bench = bench(Script::default()).await;
    let run = "0192f0c1-8a3b-7c4d-9e5f-001122334455";
    bench
        .script
        .give(vec![discovery(&format!("{run}.1"), None, &["127.0.0.1"])]);
    bench.start();
    bench.script.until(&format!("{run}.1 END"), 1).await;
    bench
        .script
        .give(vec![discovery(&format!("{run}.2"), None, &["127.0.0.1"])]);
    let asks = bench
        .script
        .heard
        .lock()
        .unwrap()
        .iter()
        .filter(|l| *l == "ask")
        .count();
    assert!(asks >= 1);
    let finder = bench.finder.clone();
    let link = FusionLink::new(
        bench.config(),
        bench.crew(),
        Clock::system(),
        Entropy::seeded(2),
    );
    // A second life of the agent, with the ledger of the first.
    bench
        .tasks
        .push(tokio::spawn(link.unwrap().run(bench.stop.clone())));
    bench.script.until(&format!("{run}.2 END"), 1).await;
    let heard = bench.end().await;
    assert_eq!(finder.order.lock().unwrap().len(), 1, "done once");
    assert!(
        heard.contains(&format!("{run}.2 127.0.0.1")),
        "the result comes under the new offer: {heard:?}"
    );
}

#[tokio::test]
async fn a_server_that_is_away_is_asked_and_told_again() {
    let mut bench = bench(Script::default()).await;
    bench
        .script
        .give(vec![discovery("j1", None, &["127.0.0.1"])]);
    *bench.script.refusals.lock().unwrap() = VecDeque::from([
        StatusCode::SERVICE_UNAVAILABLE,
        StatusCode::INTERNAL_SERVER_ERROR,
    ]);
    bench.start();
    bench.script.until("j1 START", 1).await;
    bench
        .script
        .refusals
        .lock()
        .unwrap()
        .push_back(StatusCode::SERVICE_UNAVAILABLE);
    bench.script.until("j1 END", 1).await;
    let heard = bench.end().await;
    assert_eq!(heard[..2], ["refused 503", "refused 500"]);
    let told: Vec<&String> = heard.iter().filter(|l| l.starts_with("j1")).collect();
    assert_eq!(
        told,
        ["j1 START", "j1 NBIP 1", "j1 127.0.0.1", "j1 END"],
        "in order, once each"
    );
}

#[tokio::test]
async fn a_server_without_our_results_hears_exit() {
    let mut bench = bench(Script {
        is_published: true,
        ..Script::default()
    })
    .await;
    bench.script.give(vec![
        discovery("j1", None, &["10.0.0.66"]),
        other("j2", "rtt", "{}"),
        discovery("j3", None, &["127.0.0.1"]),
    ]);
    bench.start();
    bench.script.until("j3 END", 1).await;
    let heard = bench.end().await;
    assert!(heard.contains(&"j1 EXIT".to_owned()), "{heard:?}");
}

#[tokio::test]
async fn plain_http_stays_on_this_machine() {
    let bench = bench(Script::default()).await;
    let with = |url: &str, insecure: bool| {
        let config = Config {
            url: url.parse().unwrap(),
            insecure,
            ..bench.config()
        };
        FusionLink::new(config, bench.crew(), Clock::system(), Entropy::seeded(1))
    };
    for url in ["http://192.0.2.1/", "http://muster.example.org/"] {
        assert!(
            matches!(with(url, false), Err(LinkError::Url(BadUrl::Plain(_)))),
            "{url}"
        );
        assert!(with(url, true).is_ok(), "{url}");
    }
    assert!(with("https://192.0.2.1/", false).is_ok());
    assert!(with("http://127.0.0.1/", false).is_ok());
    bench.end().await;
}
