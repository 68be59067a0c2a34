//! The FusionInventory front over a real store: agents of all three dialects, from first contact to
//! result, and who gets nothing.

#![allow(clippy::unwrap_used, reason = "a test that unwraps nothing has failed")]

use std::collections::BTreeMap;
use std::net::SocketAddr;

use axum::Router;
use axum::body::Body;
use axum::routing::any;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::BodyExt as _;
use jiff::{SignedDuration, Timestamp};
use muster_core::agent::AgentState;
use muster_core::host::SourceKind;
use muster_core::run::{EndKind, OfferToken, RunState};
use muster_core::task::{Assignee, Origin};
use muster_core::{AgentId, TaskId};
use muster_net::{Clock, Entropy, PeerInfo, Security};
use muster_proto::fusion::body::Packing;
use muster_proto::fusion::inventory::Inventory;
use muster_proto::fusion::news::JobNews;
use muster_proto::fusion::p1::{TaskList, TasksQuery, Work};
use muster_proto::fusion::p2::{Content, Device, Message, Word};
use muster_proto::fusion::p3::{self, Contact, Expiration};
use muster_proto::fusion::reply::{JobOption, Reply};
use muster_proto::fusion::wire::PeerName;
use muster_proto::fusion::{Limits, agent};
use muster_server::Control;
use muster_server::control::{EnrolPolicy, NewKey, NewTask, Settings};
use muster_server::fronts::fusion;
use muster_store::sealed::Sealer;
use muster_store::{Store, StoreUrl};
use serde_json::{Value, json};
use tower::ServiceExt as _;

const BASE: &str = "/glpi/plugins/fusioninventory";
const LOCAL: &str = "127.0.0.1:40000";

struct Bed {
    control: Control,
    router: Router,
    remote: SocketAddr,
    security: Security,
    headers: Vec<(&'static str, String)>,
    user_agent: &'static str,
}

fn settings(policy: EnrolPolicy) -> Settings {
    Settings {
        enrol_policy: policy,
        contact_interval: SignedDuration::from_secs(100),
        ..Settings::default()
    }
}

async fn bed(settings: Settings) -> Bed {
    let store = Store::open(StoreUrl::Memory).await.unwrap();
    let epoch = Timestamp::from_second(1_800_000_000).unwrap();
    store.migrate(epoch).await.unwrap();
    let entropy = Entropy::seeded(7);
    let sealer = Sealer::ephemeral(&mut entropy.rng());
    let clock = Clock::simulated(epoch);
    let control = Control::open(store, sealer, settings, clock, entropy)
        .await
        .unwrap();
    let router = fusion::router(control.clone(), any(|| async { "console" }));
    Bed {
        control,
        router,
        remote: LOCAL.parse().unwrap(),
        security: Security::Plain,
        headers: Vec::new(),
        user_agent: "FusionInventory-Agent_v2.6-3",
    }
}

impl Bed {
    async fn send(&self, request: Request<Bytes>) -> Response<Bytes> {
        let mut request = request.map(Body::from);
        let headers = request.headers_mut();
        headers.insert("user-agent", self.user_agent.parse().unwrap());
        for (name, value) in &self.headers {
            headers.insert(*name, value.parse().unwrap());
        }
        request.extensions_mut().insert(PeerInfo {
            remote: self.remote,
            local: "127.0.0.1:8080".parse().unwrap(),
            listener: "http",
            security: self.security.clone(),
        });
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        Response::from_parts(parts, body.collect().await.unwrap().to_bytes())
    }

    async fn poll(&self, agent: &str) -> TaskList {
        let response = self.poll_raw(agent).await;
        assert_eq!(response.status(), 200, "{response:?}");
        agent::decode_tasks(&response, &Limits::default()).unwrap()
    }

    async fn poll_raw(&self, agent: &str) -> Response<Bytes> {
        let modules = ["inventory", "netdiscovery", "rtt"];
        let query = TasksQuery {
            agent: PeerName::parse(agent).unwrap(),
            modules: BTreeMap::from(modules.map(|name| (name.to_owned(), "0.1".to_owned()))),
            name: None,
        };
        self.send(agent::tasks_request(BASE, &query)).await
    }

    async fn say(&self, device: &str, process: Option<&str>, content: Content) -> Response<Bytes> {
        let message = Message {
            device: PeerName::parse(device).unwrap(),
            process: process.map(str::to_owned),
            content,
        };
        let request = agent::message_request(BASE, &message, Packing::Zlib);
        self.send(request).await
    }

    async fn prolog(&self, device: &str) -> Reply {
        let response = self.say(device, None, Content::Prolog).await;
        assert_eq!(response.status(), 200, "{response:?}");
        assert_eq!(
            response.headers()["content-type"],
            "application/x-compress-zlib"
        );
        agent::decode_reply(&response, &Limits::default()).unwrap()
    }

    async fn words(&self, device: &str, process: &str, words: Vec<Word<Device>>) {
        for word in words {
            let content = Content::NetDiscovery(vec![word]);
            let response = self.say(device, Some(process), content).await;
            agent::decode_reply(&response, &Limits::default()).unwrap();
        }
    }

    async fn submit(
        &self,
        kind: &str,
        spec: Value,
        targets: &[&str],
        agent: Option<AgentId>,
    ) -> TaskId {
        let mut new = NewTask::new(kind.parse().unwrap(), Origin::Cli, spec);
        new.targets = targets.iter().map(|t| (*t).to_owned()).collect();
        if let Some(agent) = agent {
            new.assignee = Assignee::Named(vec![agent]);
        }
        self.control.submit(new).await.unwrap().id
    }

    async fn discover(&self, target: &str) -> TaskId {
        let agent = self.agent_id().await;
        self.submit("netdiscovery", spec(), &[target], Some(agent))
            .await
    }

    async fn agent_id(&self) -> AgentId {
        self.control.agents(None, 10).await.unwrap().rows[0]
            .agent
            .id
    }

    async fn end_of(&self, task: TaskId) -> (EndKind, Value) {
        let runs = self.control.runs_of(task, 10).await.unwrap();
        let [stored] = runs.as_slice() else {
            panic!("{runs:?}")
        };
        let RunState::Ended(end) = &stored.run.state else {
            panic!("{:?}", stored.run.state)
        };
        let result = stored.result.as_deref().unwrap_or("null");
        (end.kind, serde_json::from_str(result).unwrap())
    }

    async fn state_of(&self, task: TaskId) -> &'static str {
        self.control.runs_of(task, 10).await.unwrap()[0]
            .run
            .state
            .word()
    }

    async fn host_names(&self) -> Vec<String> {
        let hosts = self.control.hosts(None, 100).await.unwrap().rows;
        hosts
            .into_iter()
            .filter_map(|host| host.facts.name)
            .collect()
    }

    async fn set_state(&self, state: AgentState) {
        let id = self.agent_id().await;
        self.control
            .set_agent_state(id, state, "test")
            .await
            .unwrap();
    }
}

fn device(ip: &str, name: &str) -> Device {
    let last = ip.rsplit('.').next().unwrap();
    Device {
        ip: ip.to_owned(),
        snmp_hostname: Some(name.to_owned()),
        mac: Some(format!("02:00:00:00:00:{last:0>2}")),
        ..Device::default()
    }
}

fn discovery_words() -> Vec<Word<Device>> {
    let start = || Word::Start {
        agent_version: Some("2.6-3".to_owned()),
    };
    vec![
        start(),
        start(),
        Word::Count(4),
        Word::Device(device("10.0.0.1", "sw-1")),
        Word::Device(device("10.0.0.2", "prt-1")),
        Word::Device(device("10.0.0.2", "prt-1")),
        Word::End,
        Word::End,
    ]
}

fn full_inventory(name: &str) -> Inventory {
    let content = json!({
        "hardware": {"name": name, "uuid": "4c4c4544-0042-3010-8056-b4c04f4e3132"},
        "bios": {"ssn": "SER-4711"},
        "networks": [{"description": "e0", "mac": "02:aa:00:00:00:09", "ipaddress": "10.0.0.9"}],
        "softwares": [{"name": "bash", "version": "5"}],
        "operatingsystem": {"full_name": "Debian GNU/Linux 12", "version": "12"},
        "versionclient": "x",
    });
    Inventory {
        content: content.to_string(),
        partial: false,
        tag: None,
    }
}

fn inventory(name: &str) -> Content {
    Content::Inventory(full_inventory(name))
}

fn spec() -> Value {
    json!({
        "schema": 1,
        "timeout": "PT2S",
        "_credentials": [{"version": "2c", "community": "public"}],
    })
}

#[tokio::test(start_paused = true)]
async fn p1_from_first_contact_to_result() {
    let bed = bed(settings(EnrolPolicy::Loopback)).await;
    let now = bed.control.clock().now().as_second();
    let first = bed.poll("xyz").await;
    assert!(first.tasks.is_empty());
    let wait = first.next_contact - now;
    assert!((90..=100).contains(&wait), "{wait}");

    let id = bed.agent_id().await;
    let task = bed.discover("10.0.0.0/30").await;
    let list = bed.poll("xyz").await;
    assert_eq!(list.tasks.len(), 1);
    assert_eq!(list.tasks[0].id, task.to_string());
    let job = &list.tasks[0].jobs[0];
    let token: OfferToken = job.id.parse().unwrap();
    assert_eq!(token.generation, 1);
    let Work::NetDiscovery(targets) = &job.work else {
        panic!("{job:?}")
    };
    let target = targets[0].as_ref().unwrap();
    assert_eq!((target.network.count(), target.timeout), (4, Some(2)));
    assert_eq!(target.credentials.len(), 1);

    let words = discovery_words();
    bed.words("xyz", &job.id, words[..4].to_vec()).await;
    assert_eq!(bed.state_of(task).await, "running");
    bed.words("xyz", &job.id, words[4..].to_vec()).await;
    let (end, result) = bed.end_of(task).await;
    assert_eq!(end, EndKind::Succeeded);
    let devices = result["devices"].as_array().unwrap().len();
    assert_eq!(devices, 2, "{result}");
    assert_eq!(bed.host_names().await, ["prt-1", "sw-1"]);
    let host = bed.control.find_host("sw-1").await.unwrap();
    assert_eq!(host.sources[0].what, SourceKind::Discovery);
    assert_eq!(host.sources[0].agent, Some(id));

    // What was accepted is accepted again and changes nothing.
    bed.words("xyz", &job.id, words).await;
    assert_eq!(bed.end_of(task).await.1, result);
    assert!(bed.poll("xyz").await.tasks.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_lost_reply_is_the_same_run_under_the_next_generation() {
    let bed = bed(settings(EnrolPolicy::Loopback)).await;
    bed.poll("xyz").await;
    let task = bed.discover("10.0.0.1").await;
    let old = bed.poll("xyz").await.tasks[0].jobs[0].id.clone();
    let new = bed.poll("xyz").await.tasks[0].jobs[0].id.clone();
    let (a, b): (OfferToken, OfferToken) = (old.parse().unwrap(), new.parse().unwrap());
    assert_eq!((a.run, a.generation + 1), (b.run, b.generation));

    bed.words("xyz", &old, discovery_words()).await;
    let state = bed.state_of(task).await;
    assert_eq!(state, "offered", "word under an old offer does not count");
    bed.words("xyz", &new, discovery_words()).await;
    assert_eq!(bed.end_of(task).await.0, EndKind::Succeeded);
}

#[tokio::test(start_paused = true)]
async fn another_agents_word_does_not_count() {
    let bed = bed(settings(EnrolPolicy::Loopback)).await;
    bed.poll("xyz").await;
    let task = bed.discover("10.0.0.1").await;
    let job = bed.poll("xyz").await.tasks[0].jobs[0].id.clone();
    assert!(
        bed.poll("other").await.tasks.is_empty(),
        "nobody else gets it"
    );
    bed.words("other", &job, vec![Word::End]).await;
    assert_eq!(bed.state_of(task).await, "offered");
}

#[tokio::test(start_paused = true)]
async fn p1_news_in_its_own_words() {
    let bed = bed(settings(EnrolPolicy::Loopback)).await;
    bed.poll("xyz").await;
    let agent = bed.agent_id().await;
    let name = PeerName::parse("xyz").unwrap();
    let succeeded = JobNews::Succeeded {
        result: Some(r#"{"succeeded":true,"min":1}"#.to_owned()),
    };
    let failed = JobNews::Failed {
        reason: "no route".to_owned(),
        result: None,
    };
    let refused = JobNews::Refused {
        reason: "policy".to_owned(),
    };
    for (last, want) in [
        (succeeded, EndKind::Succeeded),
        (failed, EndKind::Failed),
        (refused, EndKind::Failed),
    ] {
        let dest = json!({"dest": "127.0.0.1"});
        let task = bed.submit("rtt", dest, &[], Some(agent)).await;
        let list = bed.poll("xyz").await;
        let job = &list.tasks[0].jobs[0];
        assert_eq!(job.work.kind(), "rtt");
        let half = JobNews::Progress { percent: 50 };
        for news in [JobNews::Begun, half, last.clone(), last.clone()] {
            let request = agent::news_request(BASE, &name, "t", &job.id, &news);
            let response = bed.send(request).await;
            agent::decode_accepted(&response, &Limits::default()).unwrap();
        }
        assert_eq!(bed.end_of(task).await.0, want, "{last:?}");
    }
    let request = agent::news_request(BASE, &name, "t", "nonsense", &JobNews::Begun);
    assert_eq!(bed.send(request).await.status(), 404);
}

const P2: &str = "lab-host-2026-11-21-19-09-02";

#[tokio::test(start_paused = true)]
async fn p2_inventory_and_discovery() {
    let bed = bed(settings(EnrolPolicy::Loopback)).await;
    let reply = bed.prolog(P2).await;
    assert!(reply.send_inventory, "nothing is known of it yet");
    let view = bed.control.find_agent("lab-host").await.unwrap();
    assert_eq!(view.agent.software, "fusioninventory-agent");
    assert_eq!(view.agent.version, "2.6-3");
    let capabilities = view.agent.capabilities.iter();
    let said: Vec<(&str, bool)> = capabilities.map(|c| (c.kind.as_str(), c.assumed)).collect();
    let wanted = [
        ("inventory", false),
        ("netdiscovery", true),
        ("netinventory", true),
    ];
    assert_eq!(said, wanted);

    bed.say(P2, None, inventory("lab-host")).await;
    let host = bed.control.find_host("lab-host").await.unwrap();
    assert_eq!(host.facts.serial.as_deref(), Some("SER-4711"));
    assert_eq!(host.facts.os_name.as_deref(), Some("Debian GNU/Linux 12"));
    let stored = bed.control.inventory(host.id).await.unwrap().unwrap();
    assert!(stored.contains("\"bash\""));
    let again = bed.prolog(P2).await.send_inventory;
    assert!(!again, "its inventory is young");

    // A person wants one now: it closes the open run although it carries no job number.
    let agent = Some(view.agent.id);
    let wanted = bed
        .submit("inventory", json!({"schema": 1}), &[], agent)
        .await;
    let discovery = bed.discover("10.0.0.1-10.0.0.2").await;
    let reply = bed.prolog(P2).await;
    assert!(reply.send_inventory);
    let [JobOption::NetDiscovery(job)] = reply.options.as_slice() else {
        panic!("{reply:?}")
    };
    assert_eq!(
        (job.timeout, job.threads, job.credentials.len()),
        (2, 10, 1)
    );
    bed.say(P2, None, inventory("lab-host")).await;
    assert_eq!(bed.end_of(wanted).await.0, EndKind::Succeeded);
    bed.words(P2, &job.pid, discovery_words()).await;
    let (end, result) = bed.end_of(discovery).await;
    assert_eq!(end, EndKind::Succeeded);
    assert_eq!(result["devices"][0]["ip"], "10.0.0.1");
    assert_eq!(bed.host_names().await, ["lab-host", "prt-1", "sw-1"]);
    let view = bed.control.find_agent("lab-host").await.unwrap();
    let mut capabilities = view.agent.capabilities.iter();
    let proven = capabilities.find(|c| c.kind.as_str() == "netdiscovery");
    assert!(!proven.unwrap().assumed, "it has done one");
}

#[tokio::test(start_paused = true)]
async fn what_the_wire_cannot_carry_ends_with_the_reason() {
    let bed = bed(settings(EnrolPolicy::Loopback)).await;
    bed.prolog(P2).await;
    let task = bed.discover("switch.example.org").await;
    assert!(bed.prolog(P2).await.options.is_empty());
    assert_eq!(bed.end_of(task).await.0, EndKind::Refused);
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_gives_up_fails_its_run() {
    let bed = bed(settings(EnrolPolicy::Loopback)).await;
    bed.prolog(P2).await;
    let task = bed.discover("10.0.0.1").await;
    let reply = bed.prolog(P2).await;
    let [JobOption::NetDiscovery(job)] = reply.options.as_slice() else {
        panic!("{reply:?}")
    };
    let start = Word::Start {
        agent_version: None,
    };
    bed.words(P2, &job.pid, vec![start, Word::Exit]).await;
    assert_eq!(bed.end_of(task).await.0, EndKind::Failed);
}

#[tokio::test(start_paused = true)]
async fn news_of_jobs_that_nobody_gave_are_taken_and_change_nothing() {
    let bed = bed(settings(EnrolPolicy::Loopback)).await;
    bed.prolog(P2).await;
    for process in ["0", "101", "00000000-0000-0000-0000-000000000007.1"] {
        bed.words(P2, process, discovery_words()).await;
    }
    let names = bed.host_names().await;
    assert_eq!(names, ["prt-1", "sw-1"], "an observation needs no lease");
}

const GLPI_ID: &str = "498def4e-e5df-11f1-947a-e5305b9417cf";

async fn native(bed: &Bed, content: p3::Content) -> Response<Bytes> {
    let message = p3::Message {
        device: PeerName::parse(P2).unwrap(),
        content,
    };
    let id = GLPI_ID.parse().unwrap();
    let request = agent::native_request("", &message, id, Packing::Zlib);
    bed.send(request).await
}

async fn native_prolog(bed: &Bed) -> Response<Bytes> {
    let message = Message {
        device: PeerName::parse(P2).unwrap(),
        process: None,
        content: Content::Prolog,
    };
    let mut request = agent::message_request("", &message, Packing::Zlib);
    let headers = request.headers_mut();
    headers.insert("glpi-agent-id", GLPI_ID.parse().unwrap());
    bed.send(request).await
}

#[tokio::test(start_paused = true)]
async fn p3_contact_inventory_and_what_is_refused() {
    let mut bed = bed(settings(EnrolPolicy::Loopback)).await;
    bed.user_agent = "GLPI-Agent_v1.12-dev";
    let limits = Limits::default();
    let response = native_prolog(&bed).await;
    let answer = agent::decode_prolog(&response, &limits).unwrap();
    let agent::PrologAnswer::Native(p3::Answer::Ok(Some(_))) = answer else {
        panic!("{answer:?}")
    };
    let contact = p3::Content::Contact(Contact {
        version: Some("1.12-dev".to_owned()),
        enabled: vec!["inventory".to_owned(), "netdiscovery".to_owned()],
        ..Contact::default()
    });
    let response = native(&bed, contact.clone()).await;
    let answer = agent::decode_native(&response, &limits).unwrap();
    let p3::Answer::Ok(Some(plan)) = answer else {
        panic!("{answer:?}")
    };
    assert_eq!(plan.native, ["inventory"]);
    assert_eq!(plan.legacy, ["netdiscovery"]);
    assert!(plan.disabled.contains(&"deploy".to_owned()));
    let Expiration::Seconds(wait) = plan.expiration else {
        panic!()
    };
    assert!((89..=100).contains(&wait));

    let full = p3::Content::Inventory(full_inventory("lab-host"));
    let response = native(&bed, full).await;
    let answer = agent::decode_native(&response, &limits).unwrap();
    assert_eq!(answer, p3::Answer::Ok(None));
    let content = json!({
        "versionclient": "x",
        "hardware": {"name": "lab-host"},
        "bios": {"ssn": "SER-4711"},
        "drives": [],
    });
    let partial = Inventory {
        content: content.to_string(),
        partial: true,
        tag: None,
    };
    native(&bed, p3::Content::Inventory(partial)).await;
    let host = bed.control.find_host("lab-host").await.unwrap();
    let stored = bed.control.inventory(host.id).await.unwrap().unwrap();
    let stored: Value = serde_json::from_str(&stored).unwrap();
    let software = &stored["softwares"][0]["name"];
    assert_eq!(software, "bash", "a missing section is not removed");
    assert_eq!(stored["drives"], json!([]));

    let response = native(&bed, p3::Content::Other("get_params".to_owned())).await;
    assert_eq!(response.status(), 501);
    let value: Value = serde_json::from_slice(response.body()).unwrap();
    assert_eq!(value["status"], "error");
    // Its network tasks come over P2: a PROLOG without the id, which follows a contact at once and is
    // no reason to come again sooner.
    bed.discover("10.0.0.1").await;
    let response = native(&bed, contact).await;
    let answer = agent::decode_native(&response, &limits).unwrap();
    let p3::Answer::Ok(Some(plan)) = answer else {
        panic!("{answer:?}")
    };
    assert!(
        matches!(plan.expiration, Expiration::Seconds(89..=100)),
        "{plan:?}"
    );
    assert_eq!(bed.prolog(P2).await.options.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn who_is_pending_or_disabled_gives_and_gets_nothing_politely() {
    let bed = bed(settings(EnrolPolicy::Approve)).await;
    let limits = Limits::default();
    let now = bed.control.clock().now().as_second();
    bed.prolog(P2).await;
    for state in [AgentState::Pending, AgentState::Disabled] {
        bed.set_state(state).await;
        let list = bed.poll(P2).await;
        assert_eq!(list.tasks, [], "{state:?}");
        assert_eq!(list.next_contact, now + 600, "{state:?}");
        let reply = bed.prolog(P2).await;
        assert_eq!(reply.prolog_freq, Some(0.25), "{state:?}");
        assert!(!reply.send_inventory, "{state:?}");
        let response = native_prolog(&bed).await;
        assert_eq!(
            agent::decode_prolog(&response, &limits).unwrap(),
            agent::PrologAnswer::Native(p3::Answer::Pending(Expiration::Now))
        );
        let response = native(&bed, p3::Content::Contact(Contact::default())).await;
        assert_eq!(response.status(), 202);
        let id = response.headers()["glpi-request-id"].to_str().unwrap();
        let digits = id
            .bytes()
            .all(|b| b.is_ascii_hexdigit() && !b.is_ascii_lowercase());
        assert!(id.len() == 8 && digits, "{id}");
        assert_eq!(
            agent::decode_native(&response, &limits).unwrap(),
            p3::Answer::Pending(Expiration::Seconds(600))
        );
        let response = bed.say(P2, None, inventory("lab-host")).await;
        assert_eq!(response.status(), 403);
        assert!(response.body().starts_with(b"<?xml"), "the dialect's error");
        let full = p3::Content::Inventory(full_inventory("lab-host"));
        let response = native(&bed, full).await;
        assert_eq!(response.status(), 403);
        assert!(response.body().starts_with(b"{"));
        assert!(bed.host_names().await.is_empty());
    }
    bed.set_state(AgentState::Approved).await;
    assert!(bed.prolog(P2).await.send_inventory);
    let response = bed.say(P2, None, inventory("lab-host")).await;
    assert_eq!(response.status(), 200);
    assert_eq!(bed.host_names().await, ["lab-host"]);
}

#[tokio::test(start_paused = true)]
async fn an_identity_bound_to_its_address_is_held_elsewhere() {
    let mut bed = bed(settings(EnrolPolicy::Approve)).await;
    bed.remote = "10.1.1.1:5000".parse().unwrap();
    bed.prolog(P2).await;
    bed.set_state(AgentState::Approved).await;
    assert!(bed.prolog(P2).await.send_inventory);
    bed.remote = "10.1.1.2:5000".parse().unwrap();
    let reply = bed.prolog(P2).await;
    assert_eq!(reply.prolog_freq, Some(0.25));
    assert!(!reply.send_inventory);
    assert_eq!(bed.say(P2, None, inventory("x")).await.status(), 403);
}

#[tokio::test(start_paused = true)]
async fn keys_enrol_and_stay_the_proof() {
    let mut bed = bed(settings(EnrolPolicy::Key)).await;
    bed.remote = "10.1.1.1:5000".parse().unwrap();
    bed.security = Security::Tls { client: None };
    let response = bed.poll_raw("xyz").await;
    assert_eq!(response.status(), 401);
    let challenge = &response.headers()["www-authenticate"];
    assert_eq!(challenge, "Basic realm=\"Muster\"");
    let (_, key) = bed.control.create_key(NewKey::default()).await.unwrap();
    bed.headers = vec![("authorization", format!("Bearer {}", key.expose()))];
    assert!(bed.poll("xyz").await.tasks.is_empty());
    let view = bed.control.find_agent("xyz").await.unwrap();
    assert_eq!(view.agent.state, AgentState::Approved);
    // A GLPI agent begins each message without, and is challenged.
    bed.headers.clear();
    for _ in 0..30 {
        assert_eq!(bed.poll_raw("xyz").await.status(), 401);
    }
    assert_eq!(bed.say("xyz", None, inventory("x")).await.status(), 401);
    // The token request gives the key back as a bearer token.
    let body = json!({
        "grant_type": "client_credentials",
        "client_id": "a",
        "client_secret": key.expose(),
        "scope": "inventory",
    });
    let request = Request::builder()
        .method("POST")
        .uri("/api.php/token")
        .body(Bytes::from(body.to_string()))
        .unwrap();
    let token = bed.send(request).await;
    let token: Value = serde_json::from_slice(token.body()).unwrap();
    assert_eq!(token["token_type"], "Bearer");
    let token = token["access_token"].as_str().unwrap();
    bed.headers = vec![("authorization", format!("Bearer {token}"))];
    assert_eq!(bed.poll_raw("xyz").await.status(), 200);
}

#[tokio::test(start_paused = true)]
async fn wrong_keys_are_counted() {
    let mut bed = bed(settings(EnrolPolicy::Approve)).await;
    bed.headers = vec![("authorization", "Bearer mek_wrong".to_owned())];
    let wait = async |bed: &Bed, who: &str| {
        let response = bed.poll_raw(who).await;
        match response.status().as_u16() {
            401 => None,
            429 => Some(
                response.headers()["retry-after"]
                    .to_str()
                    .unwrap()
                    .to_owned(),
            ),
            other => panic!("{other}"),
        }
    };
    for _ in 0..5 {
        assert_eq!(wait(&bed, "xyz").await, None);
    }
    assert_eq!(
        wait(&bed, "xyz").await.as_deref(),
        Some("60"),
        "the account"
    );
    for _ in 6..10 {
        assert_eq!(wait(&bed, "abc").await, None);
    }
    assert_eq!(
        wait(&bed, "abc").await.as_deref(),
        Some("60"),
        "the address"
    );
    // Another address is another's, and a right key always passes.
    bed.remote = "10.1.1.9:5000".parse().unwrap();
    assert_eq!(wait(&bed, "def").await, None);
    let (_, key) = bed.control.create_key(NewKey::default()).await.unwrap();
    bed.remote = "127.0.0.1:5000".parse().unwrap();
    bed.headers = vec![("authorization", format!("Bearer {}", key.expose()))];
    assert_eq!(bed.poll_raw("xyz").await.status(), 200);
}

#[tokio::test(start_paused = true)]
async fn guessing_at_the_token_of_an_agent_is_counted_too() {
    let mut bed = bed(settings(EnrolPolicy::Key)).await;
    let (_, key) = bed.control.create_key(NewKey::default()).await.unwrap();
    bed.headers = vec![("authorization", format!("Bearer {}", key.expose()))];
    assert_eq!(bed.poll_raw("xyz").await.status(), 200);
    // Another key is a conflict: held and given nothing, politely, as often as a login may fail.
    bed.headers = vec![("authorization", "Bearer mek_wrong".to_owned())];
    for _ in 0..3 {
        assert!(bed.poll("xyz").await.tasks.is_empty());
    }
    for _ in 3..5 {
        assert_eq!(bed.say("xyz", None, inventory("x")).await.status(), 403);
    }
    assert_eq!(bed.say("xyz", None, inventory("x")).await.status(), 429);
    assert_eq!(bed.poll_raw("xyz").await.status(), 429);
    assert_eq!(bed.say("xyz", None, Content::Prolog).await.status(), 429);
    // The same at the place where OAuth2 clients ask.
    let ask = |secret: &str| {
        Request::builder()
            .method("POST")
            .uri("/api.php/token")
            .body(Bytes::from(format!(
                "grant_type=client_credentials&client_id=lab&client_secret={secret}"
            )))
            .unwrap()
    };
    bed.remote = "10.1.1.9:5000".parse().unwrap();
    for _ in 0..5 {
        assert_eq!(bed.send(ask("mek_wrong")).await.status(), 401);
    }
    assert_eq!(bed.send(ask("mek_wrong")).await.status(), 429);
    assert_eq!(bed.send(ask(key.expose())).await.status(), 200);
}

#[tokio::test(start_paused = true)]
async fn credentials_do_not_travel_in_clear() {
    let mut bed = bed(settings(EnrolPolicy::Approve)).await;
    bed.remote = "10.1.1.1:5000".parse().unwrap();
    bed.poll("xyz").await;
    bed.set_state(AgentState::Approved).await;
    bed.poll("xyz").await;
    let discovery = bed.discover("10.0.0.1").await;
    let response = bed.poll_raw("xyz").await;
    let body = String::from_utf8_lossy(response.body()).into_owned();
    assert!(!body.contains("public"), "{body}");
    assert_eq!(bed.state_of(discovery).await, "planned");
    bed.security = Security::Tls { client: None };
    assert_eq!(bed.poll("xyz").await.tasks.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn side_protocol_has_nothing_to_do() {
    let bed = bed(settings(EnrolPolicy::Loopback)).await;
    bed.prolog(P2).await;
    let base = BASE;
    for (target, status, what) in [
        (
            format!("{base}/?action=getConfig&machineid={P2}&task%5BDeploy%5D=2.8"),
            200,
            "\"schedule\":[]",
        ),
        (
            format!("{base}/b/deploy/?action=getJobs&machineid={P2}&version=2.8"),
            200,
            "\"jobs\":[]",
        ),
        (
            format!("{base}/b/collect/?action=getJobs&machineid={P2}"),
            200,
            "\"jobs\":[]",
        ),
        (
            format!("{base}/b/deploy/?action=setStatus&machineid={P2}&uuid=u"),
            200,
            "{}",
        ),
        (
            format!("{base}/b/deploy/?action=setStatus&machineid=stranger&uuid=u"),
            400,
            "unknown machineid",
        ),
        (
            format!("{base}/b/deploy/?action=wait&machineid={P2}"),
            400,
            "not supported",
        ),
        (format!("{base}/"), 400, "error"),
        (
            "/marketplace/glpiinventory/b/esx/?action=getJobs&machineid=m".to_owned(),
            200,
            "\"jobs\":[]",
        ),
        ("/plugins/fusioninventory/nothing".to_owned(), 404, "error"),
        ("/".to_owned(), 200, "console"),
        ("/?action=getConfig&machineid=m".to_owned(), 200, "schedule"),
    ] {
        let request = Request::builder().uri(&target).body(Bytes::new()).unwrap();
        let response = bed.send(request).await;
        assert_eq!(response.status(), status, "{target}");
        let body = String::from_utf8_lossy(response.body()).into_owned();
        assert!(body.contains(what), "{target}: {body}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_head_gives_nothing_away() {
    let bed = bed(settings(EnrolPolicy::Loopback)).await;
    bed.poll("xyz").await;
    let task = bed.discover("10.0.0.1").await;
    let request = Request::builder()
        .method("HEAD")
        .uri(format!(
            "{BASE}/api/tasks?agentid=xyz&module[netdiscovery]=1"
        ))
        .body(Bytes::new())
        .unwrap();
    let response = bed.send(request).await;
    assert_eq!(response.status(), 200);
    assert!(response.body().is_empty());
    assert_eq!(bed.state_of(task).await, "planned");
}
