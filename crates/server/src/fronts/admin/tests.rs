//! The admin API over the router, with a store in memory and a clock that stands still.

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

    async fn send(&self, request: Request<Body>) -> Answer {
        let response = self.app.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let bytes = body.collect().await.unwrap().to_bytes();
        Answer {
            status: parts.status,
            headers: parts.headers,
            text: String::from_utf8(bytes.to_vec()).unwrap(),
        }
    }

    async fn get(&self, path: &str) -> Answer {
        self.send(request("GET", path, Some("mat_administer"), Body::empty()))
            .await
    }

    async fn post(&self, path: &str, body: Value) -> Answer {
        self.send(request(
            "POST",
            path,
            Some("mat_administer"),
            Body::from(body.to_string()),
        ))
        .await
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

/// A body that must not be read.
fn unread() -> Body {
    Body::from_stream(futures_util::stream::once(async {
        panic!("the body was read");
        #[expect(unreachable_code, reason = "gives the stream its type")]
        Ok::<&'static [u8], std::io::Error>(b"")
    }))
}

/// A path with something in the place of every name.
fn filled(path: &str) -> String {
    path.replace("{noun}", "run")
        .split('/')
        .map(|part| {
            if part.starts_with('{') {
                "nothing"
            } else {
                part
            }
        })
        .collect::<Vec<_>>()
        .join("/")
}

#[test]
fn the_document_lists_every_route_and_no_other() {
    let document = openapi::Document::openapi();
    let text: Value = serde_json::from_str(&document.to_json().unwrap()).unwrap();
    assert_eq!(text["openapi"], "3.1.0");
    let mut listed = BTreeSet::new();
    for (path, item) in text["paths"].as_object().unwrap() {
        for method in item
            .as_object()
            .unwrap()
            .keys()
            .filter(|key| *key != "parameters")
        {
            listed.insert((method.clone(), path.clone()));
        }
    }
    let served: BTreeSet<_> = routes()
        .into_iter()
        .map(|route| (route.method.to_owned(), route.path.to_owned()))
        .collect();
    assert_eq!(listed, served);
}

#[test]
fn every_reference_of_the_document_resolves() {
    let text: Value =
        serde_json::from_str(&openapi::Document::openapi().to_json().unwrap()).unwrap();
    let mut references = Vec::new();
    collect_references(&text, &mut references);
    assert!(references.len() > 20, "{references:?}");
    for reference in references {
        let pointer = reference
            .strip_prefix('#')
            .expect("references stay in the document");
        assert!(text.pointer(pointer).is_some(), "{reference}");
    }
}

/// What the specification requires of every operation and response, and the types do not enforce.
#[test]
fn every_response_of_the_document_is_described() {
    let text: Value =
        serde_json::from_str(&openapi::Document::openapi().to_json().unwrap()).unwrap();
    let mut operations = BTreeSet::new();
    for (path, item) in text["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let place = format!("{method} {path}");
            assert!(operation["summary"].is_string(), "{place}");
            assert!(
                operations.insert(operation["operationId"].to_string()),
                "{place}"
            );
            for (status, response) in operation["responses"].as_object().unwrap() {
                assert!(response["description"].is_string(), "{place} {status}");
            }
            let named = path.split('/').filter(|part| part.starts_with('{')).count();
            let parameters = operation["parameters"]
                .as_array()
                .cloned()
                .unwrap_or_default();
            let listed = parameters
                .iter()
                .filter(|parameter| parameter["in"] == "path")
                .count();
            assert_eq!(named, listed, "{place}");
        }
    }
}

fn collect_references(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(members) => {
            for (name, member) in members {
                match member.as_str() {
                    Some(reference) if name == "$ref" => found.push(reference.to_owned()),
                    _ => collect_references(member, found),
                }
            }
        }
        Value::Array(items) => items
            .iter()
            .for_each(|item| collect_references(item, found)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

#[tokio::test(start_paused = true)]
async fn who_may_do_what() {
    let world = World::new().await;
    for Route {
        method, path, role, ..
    } in routes()
    {
        let path = format!("/api/v1{}", filled(path));
        let method = method.to_uppercase();
        for (token, has) in [(None, None), (Some("wrong"), None)]
            .into_iter()
            .chain(TOKENS.map(|(token, role)| (Some(token), Some(role))))
        {
            let body = if has.is_some_and(|has| has >= role) {
                Body::from("{}")
            } else {
                unread()
            };
            let answer = world.send(request(&method, &path, token, body)).await;
            let cell = format!("{method} {path} with {token:?}: {}", answer.status);
            match has {
                None if token.is_some() => {
                    assert!(matches!(answer.status.as_u16(), 401 | 429), "{cell}")
                }
                None => assert_eq!(answer.status, StatusCode::UNAUTHORIZED, "{cell}"),
                Some(has) if has < role => {
                    assert_eq!(answer.status, StatusCode::FORBIDDEN, "{cell}");
                    assert_eq!(answer.json()["code"], "NOT_ALLOWED", "{cell}");
                }
                Some(_) => {
                    assert!(
                        !matches!(answer.status.as_u16(), 401 | 403 | 405 | 429 | 500..),
                        "{cell}"
                    );
                }
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn plain_http_is_for_this_machine_only() {
    let world = World::new().await;
    let psk = || Security::Psk {
        identity: "x".to_owned(),
    };
    for (address, security, forwarded, status) in [
        ("127.0.0.1", Security::Plain, None, 200),
        ("::1", Security::Plain, None, 200),
        ("::ffff:127.0.0.1", Security::Plain, None, 200),
        ("192.0.2.7", Security::Plain, None, 403),
        ("192.0.2.7", psk(), None, 200),
        ("127.0.0.1", Security::Plain, Some("x-forwarded-for"), 403),
        ("127.0.0.1", Security::Plain, Some("forwarded"), 403),
    ] {
        let mut request = request("GET", "/api/v1/status", Some("mat_view"), Body::empty());
        request.extensions_mut().insert(peer(address, security));
        if let Some(name) = forwarded {
            request
                .headers_mut()
                .insert(name, "for=192.0.2.7".parse().unwrap());
        }
        let answer = world.send(request).await;
        assert_eq!(answer.status.as_u16(), status, "{address} {forwarded:?}");
    }
    let mut request = request("GET", "/api/v1/status", Some("mat_view"), Body::empty());
    request.extensions_mut().clear();
    assert_eq!(world.send(request).await.status, StatusCode::UNAUTHORIZED);
}

#[tokio::test(start_paused = true)]
async fn wrong_tokens_have_to_wait_and_right_ones_never() {
    let world = World::new().await;
    for n in 1..=login::FAILURES_MAX + 2 {
        let answer = world
            .send(request(
                "GET",
                "/api/v1/status",
                Some("guess"),
                Body::empty(),
            ))
            .await;
        if n <= login::FAILURES_MAX {
            assert_eq!(answer.status, StatusCode::UNAUTHORIZED, "{n}");
            assert!(answer.headers.contains_key("www-authenticate"));
        } else {
            assert_eq!(answer.status, StatusCode::TOO_MANY_REQUESTS, "{n}");
            assert_eq!(answer.headers["retry-after"], "60");
        }
    }
    assert_eq!(world.get("/api/v1/status").await.status, StatusCode::OK);
    let metrics = world.get("/metrics").await.text;
    assert!(
        metrics.contains("muster_refused_total{wire=\"admin\",reason=\"bad_token\"} 12"),
        "{metrics}"
    );
}

#[tokio::test(start_paused = true)]
async fn what_is_not_understood_is_refused_with_its_place() {
    let world = World::new().await;
    let mut answers = String::new();
    for (path, body) in [
        ("/api/v1/tasks", r#"{"kind":"inventory","role":"admin"}"#),
        ("/api/v1/tasks", r#"{"kind":"inventory","kind":"rtt"}"#),
        ("/api/v1/tasks", r#"{"kind":"no-such-kind"}"#),
        ("/api/v1/tasks", r#"{"kind":"rtt","spec":[]}"#),
        ("/api/v1/tasks", r#"{"kind":"rtt","workers":0}"#),
        ("/api/v1/tasks", r#"{"kind":"rtt","agent":"nobody"}"#),
        (
            "/api/v1/tasks",
            r#"{"kind":"netdiscovery","targets":["10.0.0.9-10.0.0.1"]}"#,
        ),
        (
            "/api/v1/tasks",
            r#"{"kind":"netdiscovery","credentials":["v9:hunter2"]}"#,
        ),
        (
            "/api/v1/tasks",
            r#"{"kind":"idle","schedule":{"repeat":"PT0S"}}"#,
        ),
        (
            "/api/v1/tasks",
            r#"{"kind":"idle","schedule":{"repeat_cron":"0 0 30 2 *"}}"#,
        ),
        (
            "/api/v1/tasks",
            r#"{"kind":"idle","schedule":{"until":"2025-01-01T00:00:00Z"}}"#,
        ),
        ("/api/v1/hosts", r#"{"name":"a/b"}"#),
        ("/api/v1/hosts", r#"{"name":"web","port":70000}"#),
        (
            "/api/v1/items",
            r#"{"host":"web","key":"k","type":"magic","value_type":"float"}"#,
        ),
        ("/api/v1/enrolment-keys", r#"{"expires":"P1Y"}"#),
    ] {
        let answer = world
            .send(request(
                "POST",
                path,
                Some("mat_administer"),
                Body::from(body),
            ))
            .await;
        assert!(answer.status.is_client_error(), "{body}: {}", answer.text);
        assert_eq!(answer.headers["content-type"], "application/problem+json");
        assert!(!answer.text.contains("hunter2"), "{}", answer.text);
        answers += &format!("POST {path} {body}\n{}\n\n", answer.shown());
    }
    for path in [
        "/api/v1/agents?limit=0",
        "/api/v1/agents?limit=1001",
        "/api/v1/agents?limit=1&limit=2",
        "/api/v1/agents?cursor=%21",
        "/api/v1/agents?colour=red",
        "/api/v1/runs?state=lost",
        "/api/v1/explain/weather/today",
        "/api/v1/runs/ffffffff",
        "/api/v1/nothing",
    ] {
        let answer = world.get(path).await;
        assert!(answer.status.is_client_error(), "{path}: {}", answer.text);
        answers += &format!("GET {path}\n{}\n\n", answer.shown());
    }
    insta::assert_snapshot!("refusals", named(&answers));
}

#[tokio::test(start_paused = true)]
async fn only_json_within_the_limits_is_read() {
    let world = World::new().await;
    for content_type in [
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data",
    ] {
        let mut request = request("POST", "/api/v1/hosts", Some("mat_administer"), unread());
        request
            .headers_mut()
            .insert("content-type", content_type.parse().unwrap());
        assert_eq!(
            world.send(request).await.status,
            StatusCode::UNSUPPORTED_MEDIA_TYPE
        );
    }
    let mut bare = request("POST", "/api/v1/hosts", Some("mat_administer"), unread());
    bare.headers_mut().remove("content-type");
    assert_eq!(
        world.send(bare).await.status,
        StatusCode::UNSUPPORTED_MEDIA_TYPE
    );
    let long = Body::from(vec![b' '; BODY_BYTES_MAX + 1]);
    let answer = world
        .send(request(
            "POST",
            "/api/v1/hosts",
            Some("mat_administer"),
            long,
        ))
        .await;
    assert_eq!(answer.status, StatusCode::PAYLOAD_TOO_LARGE);
    assert_eq!(answer.json()["code"], "BODY_TOO_LARGE");
    let answer = world
        .send(request(
            "PUT",
            "/api/v1/hosts",
            Some("mat_administer"),
            unread(),
        ))
        .await;
    assert_eq!(answer.status, StatusCode::METHOD_NOT_ALLOWED);
}

#[tokio::test(start_paused = true)]
async fn a_task_from_its_creation_to_its_result() {
    let world = World::new().await;
    let agent = world
        .agent("lab-7", &["inventory", "netdiscovery"], "127.0.0.1")
        .await;
    let created = world
        .post(
            "/api/v1/tasks",
            json!({
                "kind": "netdiscovery", "agent": "lab-7", "targets": ["192.0.2.0/30"],
                "credentials": ["v2c:canary-community", {"version": "1", "community": "canary-2"}],
                "workers": 4, "spec": {"timeout": "PT1S"}, "schedule": {"slip": "5m"},
            }),
        )
        .await;
    let task = created.json()["id"].as_str().unwrap().to_owned();
    world.plan().await;
    let planned = world
        .get(&format!("/api/v1/runs?task={}", &task[..8]))
        .await;
    let run = planned.json()["items"][0]["id"]
        .as_str()
        .unwrap()
        .to_owned();
    world
        .work(
            agent,
            "netdiscovery",
            vec![
                News::Began,
                News::percent(50.0, Some(SignedDuration::from_secs(10))),
            ],
        )
        .await;
    let running = world.get(&format!("/api/v1/runs/{run}")).await;
    let stored = world.control.run(run.parse().unwrap()).await.unwrap();
    let token = muster_core::run::OfferToken {
        run: stored.run.id,
        generation: stored.run.generation,
    };
    for news in [
        News::Part(
            json!({"ip": "192.0.2.1", "mac": "02:00:00:00:00:01", "snmphostname": "sw1"})
                .to_string(),
        ),
        News::Finished(Outcome {
            succeeded: true,
            result: None,
            diags: None,
        }),
    ] {
        world.control.report(token, agent, news).await.unwrap();
    }
    let mut story = String::new();
    for (what, answer) in [
        ("created", created),
        ("planned", planned),
        ("running", running),
        ("task", world.get(&format!("/api/v1/tasks/{task}")).await),
        ("ended", world.get(&format!("/api/v1/runs/{run}")).await),
        (
            "result",
            world.get(&format!("/api/v1/runs/{run}/result")).await,
        ),
        ("agent", world.get("/api/v1/agents/lab-7").await),
        (
            "explained",
            world.get(&format!("/api/v1/explain/run/{run}")).await,
        ),
        (
            "cancelled",
            world
                .post(&format!("/api/v1/tasks/{task}/cancel"), json!({}))
                .await,
        ),
    ] {
        assert!(answer.status.is_success(), "{what}: {}", answer.text);
        assert!(!answer.text.contains("canary"), "{what}: {}", answer.text);
        story += &format!("{what} {}\n\n", answer.shown());
    }
    insta::assert_snapshot!("task", named(&story));
    let text = world
        .get(&format!("/api/v1/runs/{run}/result?format=text"))
        .await;
    assert!(
        text.text.contains("sw1")
            && text.headers["content-type"]
                .to_str()
                .unwrap()
                .starts_with("text/plain")
    );
    let html = world
        .get(&format!("/api/v1/runs/{run}/result?format=html"))
        .await;
    assert!(
        html.headers["content-disposition"]
            .to_str()
            .unwrap()
            .starts_with("attachment")
    );
}

#[tokio::test(start_paused = true)]
async fn a_run_names_the_hosts_its_result_is_about() {
    let world = World::new().await;
    let agent = world.agent("lab-7", &["netdiscovery"], "127.0.0.1").await;
    for (name, mac, what, own) in [
        ("lab-7", "02:00:00:00:00:07", SourceKind::Inventory, true),
        ("sw1", "02:00:00:00:00:01", SourceKind::Discovery, false),
        ("other", "02:00:00:00:00:02", SourceKind::Discovery, false),
    ] {
        let facts = HostFacts {
            name: Some(name.to_owned()),
            macs: [mac.to_owned()].into(),
            ..HostFacts::default()
        };
        let observation = Observation {
            wire: Wire::Fusion,
            agent,
            what,
            facts,
            inventory: None,
            own,
        };
        world.control.observe(observation).await.unwrap();
    }
    let body = json!({"kind": "netdiscovery", "agent": "lab-7", "targets": ["127.0.0.1"]});
    world.post("/api/v1/tasks", body).await;
    world.plan().await;
    let part = |device: Value| News::Part(device.to_string());
    let news = vec![
        part(json!({"ip": "127.0.0.1"})),
        part(json!({"ip": "192.0.2.1", "mac": "02:00:00:00:00:01"})),
        part(json!({"ip": "192.0.2.9"})),
        News::Finished(Outcome {
            succeeded: true,
            result: None,
            diags: None,
        }),
    ];
    world.work(agent, "netdiscovery", news).await;
    let runs = world.get("/api/v1/runs").await.json();
    let id = runs["items"][0]["id"].as_str().unwrap().to_owned();
    let run = world.get(&format!("/api/v1/runs/{id}")).await.json();
    let hosts = run["hosts"].as_array().unwrap();
    let names: Vec<&str> = hosts
        .iter()
        .filter_map(|host| host["name"].as_str())
        .collect();
    assert_eq!(names, ["lab-7", "sw1"], "{run:#}");
}

#[tokio::test(start_paused = true)]
async fn a_watched_run_is_answered_when_it_moves() {
    let world = World::new().await;
    let agent = world.agent("lab-7", &["noop"], "127.0.0.1").await;
    world
        .post("/api/v1/tasks", json!({"kind": "noop", "agent": "lab-7"}))
        .await;
    world.plan().await;
    let run = world.get("/api/v1/runs").await.json()["items"][0]["id"]
        .as_str()
        .unwrap()
        .to_owned();
    let path = format!("/api/v1/runs/{run}?wait=30s");
    let first = world.get(&path).await;
    let tag = first.headers["etag"].clone();
    let ask = || {
        let mut request = request("GET", &path, Some("mat_view"), Body::empty());
        request.headers_mut().insert("if-none-match", tag.clone());
        request
    };
    let before = world.control.clock().now();
    let same = world.send(ask()).await;
    assert_eq!(same.status, StatusCode::NOT_MODIFIED);
    assert!(world.control.clock().now().duration_since(before) >= SignedDuration::from_secs(30));
    let (moved, ()) = tokio::join!(
        world.send(ask()),
        world.work(agent, "noop", vec![News::Began])
    );
    assert_eq!(moved.status, StatusCode::OK);
    assert_ne!(moved.headers["etag"], tag);
    assert!(["offered", "running"].contains(&moved.json()["state"].as_str().unwrap()));
}

#[tokio::test(start_paused = true)]
async fn hosts_items_and_their_values() {
    let world = World::new().await;
    let mut story = String::new();
    let host = world
        .post(
            "/api/v1/hosts",
            json!({"name": "web", "address": "192.0.2.10"}),
        )
        .await;
    story += &format!("host {}\n\n", host.shown());
    for (key, value_type) in [("load", "float"), ("uptime", "unsigned"), ("note", "text")] {
        let item = world
            .post(
                "/api/v1/items",
                json!({"host": "web", "key": key, "type": "trapper", "value_type": value_type, "unit": "s"}),
            )
            .await;
        assert_eq!(item.status, StatusCode::CREATED, "{}", item.text);
        story += &format!("item {}\n\n", item.shown());
    }
    let clock = world.control.clock().now().as_second();
    let row = |item, second, value| muster_store::samples::Row {
        id: None,
        reading: Reading {
            item,
            clock: clock + second,
            ns: 500_000_000,
            content: Content::Value(value),
            flags: Flags::default(),
        },
    };
    let numbers: BTreeMap<String, u64> = world.get("/api/v1/items").await.json()["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|item| {
            (
                item["key"].as_str().unwrap().to_owned(),
                item["number"].as_u64().unwrap(),
            )
        })
        .collect();
    let rows = vec![
        row(numbers["load"], 0, SampleValue::Float(0.1)),
        row(numbers["load"], 1, SampleValue::Float(-2.5)),
        row(numbers["uptime"], 0, SampleValue::Unsigned(u64::MAX)),
        row(numbers["note"], 0, SampleValue::Text("=1+1".to_owned())),
    ];
    let upload = Upload {
        peer: "test".to_owned(),
        session: None,
        rows,
    };
    world.control.ingest(upload).await.unwrap();
    for path in [
        "/api/v1/items/web:load",
        "/api/v1/items/web:load/history",
        "/api/v1/items/web:load/history?limit=1",
        "/api/v1/items/web:uptime/history",
        "/api/v1/items/web:note/history",
        "/api/v1/items/web:load/history?from=2026-01-01T00:00:01Z",
        "/api/v1/items/web:load/history?until=2026-01-01T00:00:00Z",
        "/api/v1/hosts/web",
        "/api/v1/hosts",
        "/api/v1/explain/item/web:load",
        "/api/v1/explain/host/web",
    ] {
        let answer = world.get(path).await;
        assert_eq!(answer.status, StatusCode::OK, "{path}: {}", answer.text);
        story += &format!("GET {path} {}\n\n", answer.shown());
    }
    insta::assert_snapshot!("values", named(&story));
    assert!(
        world
            .get("/api/v1/items/web:uptime/history")
            .await
            .text
            .contains(":18446744073709551615")
    );
    for limit in [0, 100_001] {
        let answer = world
            .get(&format!("/api/v1/items/web:load/history?limit={limit}"))
            .await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST);
    }
}

#[tokio::test(start_paused = true)]
async fn agents_are_approved_disabled_and_forgotten() {
    let world = World::new().await;
    world.agent("far-1", &["inventory"], "192.0.2.1").await;
    let mut story = String::new();
    for (method, path) in [
        ("GET", "/api/v1/agents"),
        ("POST", "/api/v1/agents/far-1/approve"),
        ("POST", "/api/v1/agents/far-1/disable"),
        ("GET", "/api/v1/kinds"),
        ("DELETE", "/api/v1/agents/far-1"),
        ("GET", "/api/v1/agents/far-1"),
    ] {
        let answer = world
            .send(request(method, path, Some("mat_operate"), Body::empty()))
            .await;
        story += &format!("{method} {path} {}\n\n", answer.shown());
    }
    insta::assert_snapshot!("agents", named(&story));
}

#[tokio::test(start_paused = true)]
async fn an_enrolment_key_is_shown_once() {
    let world = World::new().await;
    let made = world
        .post(
            "/api/v1/enrolment-keys",
            json!({"once": true, "expires": "1d", "label": "lab"}),
        )
        .await
        .json();
    let key = made["key"].as_str().unwrap();
    assert!(key.starts_with("mek_") && key.len() > 40, "{key}");
    assert_eq!(made["expires"], "2026-01-02T00:00:00Z");
    let listed = world.get("/api/v1/enrolment-keys").await;
    assert_eq!(listed.json()["items"][0]["label"], "lab");
    assert!(!listed.text.contains(key));
}

#[tokio::test(start_paused = true)]
async fn lists_come_in_pages() {
    let world = World::new().await;
    for n in 0..5 {
        world
            .post("/api/v1/hosts", json!({"name": format!("host-{n}")}))
            .await;
        world
            .post("/api/v1/tasks", json!({"kind": "noop", "any": true}))
            .await;
    }
    for noun in ["hosts", "tasks"] {
        let mut seen = Vec::new();
        let mut cursor: Option<String> = None;
        loop {
            let query = cursor
                .as_ref()
                .map_or(String::new(), |cursor| format!("&cursor={cursor}"));
            let page = world
                .get(&format!("/api/v1/{noun}?limit=2{query}"))
                .await
                .json();
            let items = page["items"].as_array().unwrap();
            assert!(items.len() <= 2);
            seen.extend(
                items
                    .iter()
                    .map(|item| item["id"].as_str().unwrap().to_owned()),
            );
            match page["next"].as_str() {
                Some(next) => cursor = Some(next.to_owned()),
                None => break,
            }
        }
        assert_eq!(seen.len(), 5, "{noun}");
        assert_eq!(seen.iter().collect::<BTreeSet<_>>().len(), 5, "{noun}");
    }
    let of_kind = world.get("/api/v1/tasks?kind=rtt").await.json();
    assert_eq!(of_kind, json!({"items": [], "next": null}));
}

#[tokio::test(start_paused = true)]
async fn status_limits_and_pages_for_monitoring() {
    let world = World::new().await;
    world.plan().await;
    world.control.refused(
        Wire::Zabbix,
        "192.0.2.66".parse().unwrap(),
        "framing",
        "",
        "no magic",
    );
    world.control.flush_refusals().await.unwrap();
    let status = world.get("/api/v1/status").await.json();
    assert_eq!(status["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(status["agents"]["approved"], 0);
    assert_eq!(status["reconcilers"][0]["name"], "schedule");
    assert_eq!(status["refusals"][0]["reason"], "framing");
    let limits = world.get("/api/v1/limits").await.json();
    let page_items = limits["items"]
        .as_array()
        .unwrap()
        .iter()
        .find(|l| l["name"] == "admin.page_items");
    assert_eq!(page_items.unwrap()["value"], 1000);
    let metrics = world
        .send(request("GET", "/metrics", None, Body::empty()))
        .await;
    assert!(
        metrics
            .text
            .contains("muster_refused_total{wire=\"zabbix\",reason=\"framing\"} 1"),
        "{}",
        metrics.text
    );
    assert!(metrics.text.ends_with("# EOF\n"));
    for path in ["/healthz", "/readyz"] {
        let answer = world.send(request("GET", path, None, Body::empty())).await;
        assert_eq!(
            (answer.status, answer.text.as_str()),
            (StatusCode::OK, "ok\n")
        );
    }
    let page = world.send(request("GET", "/", None, Body::empty())).await;
    assert_eq!(
        page.headers["content-security-policy"]
            .to_str()
            .unwrap()
            .split(';')
            .next(),
        Some("default-src 'self'")
    );
    assert_eq!(page.headers["x-content-type-options"], "nosniff");
    assert!(page.text.contains("<h1>Muster") && !page.text.contains("<script"));
    let document = world
        .send(request("GET", "/api/v1/openapi.json", None, Body::empty()))
        .await;
    assert_eq!(document.json()["openapi"], "3.1.0");
}

#[tokio::test(start_paused = true)]
async fn secrets_go_in_and_never_come_out() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("muster.db");
    let world = World::on(StoreUrl::Sqlite(file.clone())).await;
    let agent = world
        .agent("lab-7", &["netdiscovery", "rtt"], "127.0.0.1")
        .await;
    let made = world
        .post(
            "/api/v1/tasks",
            json!({
                "kind": "netdiscovery", "agent": "lab-7", "targets": ["192.0.2.1"],
                "credentials": [
                    "v2c:CANARY-community@1161",
                    "v3:user,sha1,CANARY-authpass,aes,CANARY-privpass",
                    {"version": "1", "community": "CANARY-object"},
                ],
                "spec": {"_password": "CANARY-password", "timeout": "PT1S"},
            }),
        )
        .await;
    assert_eq!(made.status, StatusCode::CREATED, "{}", made.text);
    let bad = world
        .post(
            "/api/v1/tasks",
            json!({"kind": "netdiscovery", "credentials": ["v2c:CANARY", "CANARY-bad"]}),
        )
        .await;
    world.plan().await;
    world.work(agent, "netdiscovery", vec![News::Began]).await;
    let mut seen = vec![made.text, bad.text];
    let ids = |noun: &'static str| {
        let world = &world;
        async move {
            let page = world.get(&format!("/api/v1/{noun}")).await;
            let ids = page.json()["items"]
                .as_array()
                .unwrap()
                .iter()
                .filter_map(|item| item["id"].as_str().map(str::to_owned))
                .collect::<Vec<_>>();
            (ids, page.text)
        }
    };
    for (noun, one) in [
        ("tasks", "task"),
        ("runs", "run"),
        ("agents", "agent"),
        ("hosts", "host"),
        ("items", "item"),
    ] {
        let (ids, text) = ids(noun).await;
        seen.push(text);
        for id in ids {
            seen.push(world.get(&format!("/api/v1/{noun}/{id}")).await.text);
            seen.push(world.get(&format!("/api/v1/explain/{one}/{id}")).await.text);
        }
    }
    for path in [
        "/api/v1/status",
        "/api/v1/limits",
        "/api/v1/kinds",
        "/api/v1/enrolment-keys",
        "/metrics",
        "/",
    ] {
        seen.push(world.get(path).await.text);
    }
    assert!(seen.len() > 10);
    for text in &seen {
        assert!(!text.contains("CANARY"), "{text}");
    }
    let mut dump = Vec::new();
    for entry in std::fs::read_dir(folder.path()).unwrap() {
        dump.extend(std::fs::read(entry.unwrap().path()).unwrap());
    }
    let holds = |marker: &[u8]| dump.windows(marker.len()).any(|window| window == marker);
    assert!(holds(b"netdiscovery"), "the dump is the database");
    for marker in [&b"CANARY"[..], b"mat_"] {
        assert!(!holds(marker), "{}", String::from_utf8_lossy(marker));
    }
}

#[tokio::test(start_paused = true)]
async fn what_the_command_line_posts_is_told_from_what_programs_post() {
    let world = World::new().await;
    for (user_agent, origin) in [("muster/0.1.0", "cli"), ("curl/8.0", "api"), ("", "api")] {
        let mut request = request(
            "POST",
            "/api/v1/tasks",
            Some("mat_operate"),
            Body::from(r#"{"kind":"noop"}"#),
        );
        request
            .headers_mut()
            .insert("user-agent", user_agent.parse().unwrap());
        assert_eq!(world.send(request).await.json()["origin"], origin);
    }
}

#[test]
fn times_have_one_form() {
    let time: Timestamp = "2026-01-01T00:00:00.5+02:00".parse().unwrap();
    assert_eq!(views::time(time), "2025-12-31T22:00:00.5Z");
}

/// Every stable code of the application and the admin API stands in `docs/errors.md`, and no other.
#[test]
fn every_code_is_listed_in_the_docs() {
    let page = include_str!("../../../../../docs/errors.md");
    let (_, ours) = page
        .split_once("## Of the admin API")
        .expect("the page has both parts");
    let listed: BTreeSet<&str> = ours
        .lines()
        .filter_map(|line| line.strip_prefix("### "))
        .collect();
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut used = BTreeSet::new();
    for folder in ["control", "reconcile", "fronts/admin"] {
        for entry in std::fs::read_dir(root.join(folder)).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if path.extension().is_none_or(|e| e != "rs") || name.contains("test") {
                continue;
            }
            let source = std::fs::read_to_string(&path).unwrap();
            let source = source.split("#[cfg(test)]\nmod tests {").next().unwrap();
            used.extend(codes_in(source));
        }
    }
    let listed: BTreeSet<String> = listed.into_iter().map(str::to_owned).collect();
    assert_eq!(used, listed);
}

/// Literals that look like a code: capitals, digits and at least one underscore, or `INTERNAL`.
fn codes_in(source: &str) -> BTreeSet<String> {
    let is_code = |text: &&str| {
        *text == "INTERNAL"
            || (text.contains('_')
                && text.starts_with(|c: char| c.is_ascii_uppercase())
                && text
                    .bytes()
                    .all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_'))
    };
    let ours = |text: &&str| !text.starts_with("CARGO_") && !text.starts_with("MUSTER_");
    source
        .split('"')
        .skip(1)
        .step_by(2)
        .filter(is_code)
        .filter(ours)
        .map(str::to_owned)
        .collect()
}
