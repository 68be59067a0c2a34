//! The admin API over the router, with a store in memory and a clock that stands still.

mod access;
mod document;
mod fleet;
mod server;
mod work;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, Request, StatusCode};
use http_body_util::BodyExt as _;
use jiff::{SignedDuration, Timestamp};
use muster_core::agent::{Capability, Wire};
use muster_core::credential::Secret;
use muster_core::host::{HostFacts, SourceKind};
use muster_core::result::{News, Outcome};
use muster_core::sample::Value as SampleValue;
use muster_net::{Clock, Entropy, PeerInfo, Security};
use muster_store::sealed::Sealer;
use muster_store::{Content, Flags, Reading, Store, StoreUrl};
use serde_json::{Value, json};
use tower::ServiceExt as _;
use utoipa::OpenApi as _;

use super::*;
use crate::control::{DueAsk, EnrolPolicy, Hello, Observation, Proof, Settings, Upload};
use crate::reconcile;

const TOKENS: [(&str, Role); 3] = [
    ("mat_view", Role::Viewer),
    ("mat_operate", Role::Operator),
    ("mat_administer", Role::Admin),
];

struct World {
    control: Control,
    statuses: Statuses,
    app: Router,
}

struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    text: String,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_str(&self.text)
            .unwrap_or_else(|e| panic!("{e}: {} {}", self.status, self.text))
    }

    fn shown(&self) -> String {
        format!("{}\n{:#}", self.status, self.json())
    }
}

impl World {
    async fn new() -> Self {
        Self::on(StoreUrl::Memory).await
    }

    async fn on(url: StoreUrl) -> Self {
        let clock = Clock::simulated("2026-01-01T00:00:00Z".parse().unwrap());
        let entropy = Entropy::seeded(7);
        let store = Store::open(url).await.unwrap();
        store.migrate(clock.now()).await.unwrap();
        let settings = Settings {
            enrol_policy: EnrolPolicy::Loopback,
            ..Settings::default()
        };
        let sealer = Sealer::ephemeral(&mut entropy.rng());
        let control = Control::open(store, sealer, settings, clock, entropy)
            .await
            .unwrap();
        for (token, role) in TOKENS {
            control
                .install_token(&Secret::new(token), role.word(), role)
                .await
                .unwrap();
        }
        let statuses = Statuses::default();
        let admin = Admin::new(control.clone(), statuses.clone(), Vec::new());
        let app = router(admin.clone()).merge(console_router(admin));
        Self {
            control,
            statuses,
            app,
        }
    }

    /// Sends a request; the answer is held against the OpenAPI document.
    async fn send(&self, request: Request<Body>) -> Answer {
        self.call(request, None).await
    }

    async fn call(&self, request: Request<Body>, body: Option<&str>) -> Answer {
        let (method, path) = (request.method().clone(), request.uri().to_string());
        let response = self.app.clone().oneshot(request).await.unwrap();
        let (parts, content) = response.into_parts();
        let bytes = content.collect().await.unwrap().to_bytes();
        let answer = Answer {
            status: parts.status,
            headers: parts.headers,
            text: String::from_utf8(bytes.to_vec()).unwrap(),
        };
        document::check(method.as_str(), &path, body, &answer);
        answer
    }

    async fn get(&self, path: &str) -> Answer {
        self.send(request("GET", path, Some("mat_administer"), Body::empty()))
            .await
    }

    async fn post(&self, path: &str, body: Value) -> Answer {
        let body = body.to_string();
        let request = request(
            "POST",
            path,
            Some("mat_administer"),
            Body::from(body.clone()),
        );
        self.call(request, Some(&body)).await
    }

    async fn agent(&self, peer: &str, kinds: &[&str], address: &str) -> muster_core::AgentId {
        let capabilities = kinds
            .iter()
            .map(|kind| Capability {
                kind: kind.parse().unwrap(),
                version: "2.6".to_owned(),
                assumed: false,
            })
            .collect();
        let hello = Hello {
            wire: Wire::Fusion,
            peer: peer.to_owned(),
            id: None,
            name: Some(peer.to_owned()),
            software: "fusioninventory-agent".to_owned(),
            version: "2.6".to_owned(),
            capabilities: Some(capabilities),
            address: address.parse().unwrap(),
            forwarded: false,
            proof: Proof::None,
            tls_identity: None,
            next_contact: SignedDuration::from_hours(1),
        };
        self.control.check_in(hello).await.unwrap().agent.id
    }

    async fn plan(&self) {
        reconcile::activate("schedule", &self.control, &self.statuses).await;
    }

    /// Hands the agent what is due and lets it report.
    async fn work(&self, agent: muster_core::AgentId, kind: &str, news: Vec<News>) {
        let ask = DueAsk {
            kinds: vec![kind.parse().unwrap()],
            lease: SignedDuration::from_mins(5),
            ahead: SignedDuration::ZERO,
            limit: 10,
        };
        let offers = self.control.due(agent, ask).await.unwrap();
        assert_eq!(offers.len(), 1);
        for one in news {
            self.control
                .report(offers[0].token, agent, one)
                .await
                .unwrap();
        }
    }
}

fn peer(address: &str, security: Security) -> PeerInfo {
    let ip: IpAddr = address.parse().unwrap();
    PeerInfo {
        remote: (ip, 40_000).into(),
        local: (ip, 8080).into(),
        listener: "http",
        security,
    }
}

fn request(method: &str, path: &str, token: Option<&str>, body: Body) -> Request<Body> {
    let mut builder = Request::builder()
        .method(method)
        .uri(path)
        .header("content-type", "application/json")
        .extension(peer("127.0.0.1", Security::Plain));
    if let Some(token) = token {
        builder = builder.header("authorization", format!("Bearer {token}"));
    }
    builder.body(body).unwrap()
}

/// The text with every id in order of appearance, so that a snapshot holds whichever ids were drawn.
fn named(text: &str) -> String {
    let mut names: Vec<String> = Vec::new();
    let mut out = String::new();
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let id = rest.get(..36).filter(|id| id.parse::<uuid::Uuid>().is_ok());
        if let Some(id) = id {
            let known = names.iter().position(|name| name == id);
            let n = known.unwrap_or_else(|| {
                names.push(id.to_owned());
                names.len() - 1
            });
            out += &format!("ID-{}", n + 1);
            rest = rest.get(36..).unwrap_or_default();
        } else {
            out.push(c);
            rest = rest.get(c.len_utf8()..).unwrap_or_default();
        }
    }
    out
}
