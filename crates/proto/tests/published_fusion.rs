//! The published task scheduling text: its request is taken by the server's end, its answer (the
//! intent of the literal, as valid JSON) by the agent's end, and ours has the same shape.

#![allow(clippy::unwrap_used, reason = "a test that unwraps nothing has failed")]

use std::collections::BTreeMap;

use bytes::Bytes;
use http::{Method, Request, Response};
use muster_proto::fusion::controller::{self, Answer, Context, Dialect, What};
use muster_proto::fusion::p1::{InventoryOptions, Work};
use muster_proto::fusion::snmp::{AuthProtocol, Credential, DeviceType, Snmp};
use muster_proto::fusion::wire::Secret;
use muster_proto::fusion::{Limits, agent, body::Packing};

const REQUEST: &str = include_str!("../../../captures/published/fusion-tasks-request.txt");
const ANSWER: &str = include_str!("../../../captures/published/fusion-tasks-answer.json");

fn published_request() -> Request<Bytes> {
    let (method, url) = REQUEST.trim().split_once(' ').unwrap();
    let target = url.strip_prefix("http://glpiserver").unwrap();
    Request::builder()
        .method(method)
        .uri(target)
        .header("host", "glpiserver")
        .body(Bytes::new())
        .unwrap()
}

fn published_answer() -> Response<Bytes> {
    Response::builder()
        .header("content-type", "application/json")
        .body(Bytes::from_static(ANSWER.as_bytes()))
        .unwrap()
}

#[test]
fn the_server_end_takes_the_request() {
    let ask = controller::decode(&published_request(), &Limits::default()).unwrap();
    let What::Tasks(query) = ask.what else {
        panic!("{:?}", ask.what)
    };
    assert_eq!(query.agent.as_str(), "xyz");
    let modules: BTreeMap<String, String> = ["inventory", "netinventory"]
        .map(|name| (name.to_owned(), "2.4.0".to_owned()))
        .into();
    assert_eq!(query.modules, modules);
    assert_eq!(ask.context.dialect, Dialect::P1);
}

#[test]
fn the_agent_end_sends_the_same_question() {
    let ask = controller::decode(&published_request(), &Limits::default()).unwrap();
    let What::Tasks(query) = ask.what else {
        panic!("{:?}", ask.what)
    };
    let sent = agent::tasks_request("/glpi/plugins/fusioninventory", &query);
    assert_eq!(sent.method(), Method::GET);
    assert_eq!(sent.uri().path(), published_request().uri().path());
    assert!(sent.body().is_empty());
    let again = controller::decode(&sent, &Limits::default()).unwrap();
    assert_eq!(again.what, What::Tasks(query));
}

fn public(v1: bool) -> Credential {
    let community = Secret::new("public");
    let snmp = if v1 {
        Snmp::V1 { community }
    } else {
        Snmp::V2c { community }
    };
    Credential {
        id: None,
        timeout: None,
        port: None,
        snmp,
    }
}

fn foo() -> Credential {
    Credential {
        id: None,
        timeout: None,
        port: None,
        snmp: Snmp::V3 {
            username: "foo".to_owned(),
            auth: Some((AuthProtocol::Sha1, Secret::new("bar"))),
            privacy: None,
        },
    }
}

#[test]
fn the_agent_end_takes_the_answer() {
    let list = agent::decode_tasks(&published_answer(), &Limits::default()).unwrap();
    assert_eq!(list.next_contact, 1_424_763_734);
    let ids: Vec<&str> = list.tasks.iter().map(|t| t.id.as_str()).collect();
    assert_eq!(ids, ["task1", "task3"]);
    let [discovery, reading] = list.tasks[0].jobs.as_slice() else {
        panic!()
    };

    assert_eq!(
        (discovery.id.as_str(), discovery.workers),
        ("job1.1", Some(2))
    );
    let Work::NetDiscovery(targets) = &discovery.work else {
        panic!("{discovery:?}")
    };
    let first = targets[0].as_ref().unwrap();
    assert_eq!(first.network.as_str(), "192.168.0.0/24");
    assert_eq!((first.workers, first.timeout), (Some(10), Some(5)));
    assert_eq!(first.credentials, [public(false), public(true)]);
    let second = targets[1].as_ref().unwrap();
    assert_eq!(second.network.count(), 254);
    assert_eq!((second.workers, second.timeout), (Some(5), Some(2)));
    assert_eq!(second.credentials, [foo()]);

    assert_eq!((reading.id.as_str(), reading.workers), ("job1.2", Some(2)));
    let Work::NetInventory(targets) = &reading.work else {
        panic!("{reading:?}")
    };
    let first = targets[0].as_ref().unwrap();
    assert_eq!(
        (first.host.as_str(), first.kind),
        ("192.168.1.1", Some(DeviceType::Printer))
    );
    assert_eq!(first.credential, Some(public(false)));
    let second = targets[1].as_ref().unwrap();
    assert_eq!(
        (second.host.as_str(), second.kind),
        ("192.168.1.2", Some(DeviceType::Networking))
    );
    assert_eq!(second.credential, Some(foo()));

    let [inventory] = list.tasks[1].jobs.as_slice() else {
        panic!()
    };
    assert_eq!((inventory.id.as_str(), inventory.workers), ("job31", None));
    assert_eq!(inventory.work, Work::Inventory(InventoryOptions::default()));
}

#[test]
fn the_server_end_writes_the_published_shape() {
    let list = agent::decode_tasks(&published_answer(), &Limits::default()).unwrap();
    let context = Context {
        dialect: Dialect::P1,
        packing: Packing::Plain,
        request_id: None,
        agent_id: None,
        software: None,
        is_head: false,
    };
    let response = controller::encode(Answer::Tasks(list), &context);
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["content-type"], "application/json");
    let ours: serde_json::Value = serde_json::from_slice(response.body()).unwrap();
    let published: serde_json::Value = serde_json::from_str(ANSWER).unwrap();
    assert_eq!(ours, published);
}
