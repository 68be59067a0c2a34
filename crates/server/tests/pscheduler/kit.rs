//! What the tests of this front share: a server with an agent that works, and a client of it.

use std::future::Future;
use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::BodyExt as _;
use jiff::{SignedDuration, Timestamp};
use muster_core::agent::{Capability, Wire};
use muster_core::result::{News, Outcome};
use muster_core::{AgentId, Kind};
use muster_net::{Clock, Entropy, PeerInfo, Security};
use muster_server::Control;
use muster_server::control::{DueAsk, EnrolPolicy, Hello, Offer, Proof, Settings};
use muster_server::fronts::pscheduler;
use muster_server::reconcile::{Statuses, spawn_all};
use muster_store::sealed::Sealer;
use muster_store::testing::for_each_store;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt as _;

pub(crate) const EPOCH: &str = "2026-11-21T19:08:00Z";
pub(crate) const KINDS: [&str; 5] = ["clock", "idle", "netdiscovery", "noop", "rtt"];

/// A server in simulated time.
pub(crate) struct Server {
    pub control: Control,
    pub router: Router,
    pub clock: Clock,
    cancel: CancellationToken,
    tracker: TaskTracker,
}

/// Runs a test with a server on every database there is.
pub(crate) fn with_server<F, Fut>(open: bool, test: F)
where
    F: Fn(Server) -> Fut,
    Fut: Future<Output = ()>,
{
    for_each_store(|store| {
        let test = &test;
        async move {
            tokio::time::pause();
            let entropy = Entropy::seeded(11);
            let sealer = Sealer::ephemeral(&mut entropy.rng());
            let clock = Clock::simulated(EPOCH.parse().unwrap());
            let settings = Settings {
                enrol_policy: EnrolPolicy::Loopback,
                pscheduler_open: open,
                ..Settings::default()
            };
            let control = Control::open(store, sealer, settings, clock.clone(), entropy)
                .await
                .unwrap();
            let (tracker, cancel) = (TaskTracker::new(), CancellationToken::new());
            let statuses = spawn_all(&control, &tracker, &cancel);
            let router = router(&control, statuses);
            let server = Server {
                control,
                router,
                clock,
                cancel,
                tracker,
            };
            let (stop, tasks) = (server.cancel.clone(), server.tracker.clone());
            test(server).await;
            stop.cancel();
            tasks.close();
            tasks.wait().await;
        }
    });
}

pub(crate) fn router(control: &Control, statuses: Statuses) -> Router {
    pscheduler::router(control.clone(), statuses, "ps1.example.net")
}

impl Server {
    /// An agent that does what it is offered, each run at its time.
    pub(crate) async fn with_agent(&self) -> AgentId {
        let agent = enrol(&self.control, "lab-7").await;
        let (control, clock, cancel) = (
            self.control.clone(),
            self.clock.clone(),
            self.cancel.clone(),
        );
        let tracker = self.tracker.clone();
        self.tracker.spawn(async move {
            while !cancel.is_cancelled() {
                for offer in control.due(agent, ask(&KINDS)).await.unwrap() {
                    tracker.spawn(work(
                        control.clone(),
                        clock.clone(),
                        agent,
                        offer,
                        cancel.clone(),
                    ));
                }
                clock.sleep(Duration::from_millis(250)).await;
            }
        });
        agent
    }

    /// A call as from this machine itself.
    pub(crate) async fn call(&self, method: &str, target: &str, body: &str) -> (u16, String) {
        let answer = self
            .exchange(request(method, target, body), "127.0.0.1:4711")
            .await;
        (answer.status().as_u16(), text(&answer))
    }

    pub(crate) async fn get(&self, target: &str) -> Value {
        let (status, body) = self.call("GET", target, "").await;
        assert_eq!(status, 200, "{target}: {body}");
        serde_json::from_str(&body).unwrap()
    }

    /// Posts a task; returns its path below `/pscheduler`.
    pub(crate) async fn post(&self, task: Value) -> String {
        let (status, body) = self.call("POST", "/tasks", &task.to_string()).await;
        assert_eq!(status, 200, "{body}");
        let url: String = serde_json::from_str(&body).unwrap();
        url.strip_prefix("https://ps1.example.net/pscheduler")
            .unwrap()
            .to_owned()
    }

    pub(crate) async fn exchange(&self, mut request: Request<Body>, from: &str) -> Response<Bytes> {
        request
            .extensions_mut()
            .insert(peer(from, Security::Tls { client: None }));
        let answer = self.router.clone().oneshot(request).await.unwrap();
        let (parts, body) = answer.into_parts();
        Response::from_parts(parts, body.collect().await.unwrap().to_bytes())
    }
}

pub(crate) fn text(answer: &Response<Bytes>) -> String {
    String::from_utf8(answer.body().to_vec()).unwrap()
}

pub(crate) fn peer(from: &str, security: Security) -> PeerInfo {
    let remote: SocketAddr = from.parse().unwrap();
    PeerInfo {
        remote,
        local: "127.0.0.1:8443".parse().unwrap(),
        listener: "https",
        security,
    }
}

pub(crate) fn request(method: &str, target: &str, body: &str) -> Request<Body> {
    Request::builder()
        .method(method)
        .uri(format!("/pscheduler{target}"))
        .header("Host", "ps1.example.net")
        .body(Body::from(body.to_owned()))
        .unwrap()
}

pub(crate) async fn enrol(control: &Control, name: &str) -> AgentId {
    let capability = |kind: &str| Capability {
        kind: kind.parse::<Kind>().unwrap(),
        version: "1".into(),
        assumed: false,
    };
    let hello = Hello {
        wire: Wire::Teeth,
        peer: name.into(),
        id: None,
        name: Some(name.into()),
        software: "muster".into(),
        version: "0".into(),
        capabilities: Some(KINDS.map(capability).to_vec()),
        address: "127.0.0.1".parse().unwrap(),
        forwarded: false,
        proof: Proof::None,
        tls_identity: None,
        next_contact: SignedDuration::from_mins(10),
    };
    control.check_in(hello).await.unwrap().agent.id
}

pub(crate) fn ask(kinds: &[&str]) -> DueAsk {
    DueAsk {
        kinds: kinds.iter().map(|kind| kind.parse().unwrap()).collect(),
        lease: SignedDuration::from_secs(60),
        ahead: SignedDuration::from_secs(5),
        limit: 10,
    }
}

async fn work(
    control: Control,
    clock: Clock,
    agent: AgentId,
    offer: Offer,
    cancel: CancellationToken,
) {
    let until = |time: Timestamp| {
        clock.sleep(
            time.duration_since(clock.now())
                .max(SignedDuration::ZERO)
                .unsigned_abs(),
        )
    };
    tokio::select! {
        () = until(offer.window.start) => {}
        () = cancel.cancelled() => return,
    }
    control
        .report(offer.token, agent, News::Began)
        .await
        .unwrap();
    let spec: Value = serde_json::from_str(offer.spec.expose()).unwrap();
    let duration = spec["duration"]
        .as_str()
        .map_or(SignedDuration::ZERO, |text| text.parse().unwrap());
    tokio::select! {
        () = clock.sleep(duration.unsigned_abs()) => {}
        () = cancel.cancelled() => return,
    }
    let outcome = outcome(offer.kind.as_str(), &spec);
    let _ = control
        .report(offer.token, agent, News::Finished(outcome))
        .await;
}

/// What our own tools answer, shortened.
fn outcome(kind: &str, spec: &Value) -> Outcome {
    let result = match kind {
        "noop" if spec["fail"] == json!(1) => return Outcome::failure("Randomly-induced failure"),
        "noop" => json!({"schema": 1, "succeeded": true, "data": spec["data"]}),
        "idle" => json!({"schema": 1, "succeeded": true, "duration": spec["duration"]}),
        "rtt" => json!({
            "schema": 1, "succeeded": true, "loss": 0.0, "lost": 0, "sent": 1, "received": 1,
            "reorders": 0, "duplicates": 0, "min": "PT0.00004S", "max": "PT0.00004S",
            "mean": "PT0.00004S", "stddev": "P0D",
            "roundtrips": [{
                "seq": 1, "ip": "10.99.0.2", "hostname": spec["dest"], "rtt": "PT0.00004S",
                "ttl": 64, "length": 64
            }]
        }),
        _ => json!({"devices": [{"ip": "10.0.0.7"}]}),
    };
    Outcome::success(result.to_string())
}
