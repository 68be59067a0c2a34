//! The examples of the published Zabbix server-proxy description, each fed to the end that would
//! receive it. Broken literals are written as the valid JSON they mean.
#![allow(clippy::unwrap_used, reason = "tests")]

use muster_proto::zabbix::Limits;
use muster_proto::zabbix::agent::Reply;
use muster_proto::zabbix::data::ProxyData;
use muster_proto::zabbix::task::TaskEntry;
use muster_proto::zabbix::wire::{self, Payload, Request, proxy_name};

fn payload(json: &str) -> Payload {
    Payload::check(json.as_bytes().to_vec(), &Limits::default()).unwrap()
}

const AVAILABILITY: &str = r#""interface availability": [
    {"interfaceid": 1, "available": 1, "error": ""},
    {"interfaceid": 2, "available": 2, "error": "Get value from agent failed: cannot connect to [[127.0.0.1]:10049]: [111] Connection refused"},
    {"interfaceid": 3, "available": 1, "error": ""},
    {"interfaceid": 4, "available": 1, "error": ""}
]"#;

const HISTORY: &str = r#""history data":[
    {"itemid":"12345", "clock":1478609647, "ns":332510044, "value":"52956612", "id": 1},
    {"itemid":"12346", "clock":1478609647, "ns":330690279, "state":1,
     "value":"Cannot find information for this network interface in /proc/net/dev.", "id": 2}
]"#;

const DISCOVERY: &str = r#""discovery data":[
    {"clock":1478608764, "drule":2, "dcheck":3, "type":12, "ip":"10.3.0.10", "dns":"vdebian", "status":1},
    {"clock":1478608764, "drule":2, "dcheck":null, "type":-1, "ip":"10.3.0.10", "dns":"vdebian", "status":1}
]"#;

const REMOTE_COMMANDS: &str = r#"
    {"type": TYPE, "clock":1478608371, "ttl": 600, "commandtype": 2, "command": "restart_service1.sh",
     "execute_on": 2, "port": 80, "authtype": 0, "username": "userA", "password": "password1",
     "publickey": "MIGfMA0GCSqGSIb3DQEBAQUAA4GNADCBiQKBgQCqGKukO1De7zhZj6+H0qtjTkVxwTCpvKe",
     "privatekey": "lsuusFncCzWBQ7RKNUSesmQRMSGkVb1/3j+skZ6UtW+5u09lHNsj6tQ5QCqGKukO1De7zhd",
     "parent_taskid": 10, "hostid": 10070},
    {"type": TYPE, "clock":1478608381, "ttl": 600, "commandtype": 1, "command": "restart_service2.sh",
     "execute_on": 0, "authtype": 0, "username": "", "password": "", "publickey": "", "privatekey": "",
     "parent_taskid": 20, "hostid": 10084}
"#;

fn check_data(data: &ProxyData<'_>) {
    let availability: Vec<_> = data
        .availability
        .rows
        .iter()
        .map(|row| (row.interfaceid, row.available))
        .collect();
    assert_eq!(availability, [(1, 1), (2, 2), (3, 1), (4, 1)]);
    let history: Vec<_> = data
        .history
        .rows
        .iter()
        .map(|row| (row.id, row.itemid, row.clock, row.ns, row.not_supported))
        .collect();
    assert_eq!(
        history,
        [
            (Some(1), 12_345, 1_478_609_647, 332_510_044, false),
            (Some(2), 12_346, 1_478_609_647, 330_690_279, true),
        ]
    );
    assert_eq!(data.history.rows[0].value.as_deref(), Some("52956612"));
    let discovery: Vec<_> = data
        .discovery
        .rows
        .iter()
        .map(|row| (row.dcheck, row.ip.as_ref(), row.status))
        .collect();
    assert_eq!(
        discovery,
        [(Some(3), "10.3.0.10", 1), (None, "10.3.0.10", 1)]
    );
    assert_eq!(
        data.session.as_deref(),
        Some("12345678901234567890123456789012")
    );
    assert_eq!(data.version.as_deref(), Some("5.4.0"));
}

/// proxy→server: the reply to a pushed configuration, and to one fetched.
#[test]
fn success_with_and_without_version() {
    for (json, version) in [
        (
            r#"{"response": "success", "version": "5.4.0"}"#,
            Some("5.4.0"),
        ),
        (r#"{"response": "success"}"#, None),
    ] {
        let payload = payload(json);
        let reply = Reply::decode(&payload).unwrap();
        assert!(reply.success);
        assert_eq!(reply.version.as_deref(), version);
    }
}

/// server→proxy, passive: data is asked for. This build has no passive proxy yet; on the server's
/// port the same text is an upload without a proxy's name.
#[test]
fn a_pull_is_no_upload() {
    let payload = payload(r#"{"request": "proxy data"}"#);
    let Ok(Request::ProxyData(data)) = payload.request() else {
        panic!()
    };
    assert_eq!(
        proxy_name(data.host.as_deref()).unwrap_err().info,
        "missing name of proxy"
    );
}

/// proxy→server, passive: the answer to a pull.
#[test]
fn data_of_a_passive_proxy() {
    let json = format!(
        r#"{{"session": "12345678901234567890123456789012",
        {AVAILABILITY}, {HISTORY}, {DISCOVERY},
        "auto registration":[
            {{"clock":1478608371, "host":"Logger1", "ip":"10.3.0.1", "dns":"localhost", "port":"10050"}},
            {{"clock":1478608381, "host":"Logger2", "ip":"10.3.0.2", "dns":"localhost", "port":"10050"}}
        ],
        "tasks":[
            {{"status": 0, "parent_taskid": 10}},
            {{"type": 0, "error": "No permissions to execute task.", "parent_taskid": 20}}
        ],
        "version":"5.4.0"}}"#
    );
    let payload = payload(&json);
    let data: ProxyData<'_> = serde_json::from_str(payload.text()).unwrap();
    check_data(&data);
    assert!(!data.active && data.bad_rows() == 0);
    let hosts: Vec<_> = data
        .autoregistration
        .rows
        .iter()
        .map(|row| (row.host.as_ref(), row.port))
        .collect();
    assert_eq!(hosts, [("Logger1", 10_050), ("Logger2", 10_050)]);
    let results: Vec<_> = data.tasks.rows.iter().map(result).collect();
    assert_eq!(
        results,
        [(10, 0, ""), (20, -1, "No permissions to execute task.")]
    );
}

fn result<'a>(entry: &'a TaskEntry<'_>) -> (u64, i64, &'a str) {
    let TaskEntry::Result(result) = entry else {
        panic!("{entry:?}")
    };
    (result.parent_taskid, result.status, &result.info)
}

/// proxy→server: heartbeat and its reply.
#[test]
fn heartbeat() {
    let payload =
        payload(r#"{"request": "proxy heartbeat", "host": "Proxy #12", "version": "5.4.0"}"#);
    let Ok(Request::ProxyHeartbeat(hello)) = payload.request() else {
        panic!()
    };
    assert_eq!(hello.host(), Some("Proxy #12"));
    assert_eq!(proxy_name(hello.host()).unwrap(), "Proxy #12");
    assert_eq!(wire::success(), r#"{"response":"success"}"#);
}

/// proxy→server: the configuration is asked for.
#[test]
fn config_request() {
    let payload = payload(r#"{"request": "proxy config", "host": "Proxy #12", "version":"5.4.0"}"#);
    let Ok(Request::ProxyConfig(config)) = payload.request() else {
        panic!()
    };
    assert_eq!(
        (config.host(), config.version()),
        (Some("Proxy #12"), Some("5.4.0"))
    );
}

/// proxy→server: an upload whose `tasks` come twice, first with commands, then with results.
#[test]
fn data_of_an_active_proxy() {
    let commands = REMOTE_COMMANDS.replace("TYPE", "2");
    let json = format!(
        r#"{{"request": "proxy data", "host": "Proxy #12",
        "session": "12345678901234567890123456789012",
        {AVAILABILITY}, {HISTORY}, {DISCOVERY},
        "auto registration":[
            {{"clock":1478608371, "dns":"localhost", "port":"10050"}},
            {{"clock":1478608381, "host":"Logger2", "ip":"10.3.0.2", "dns":"localhost", "port":"10050"}}
        ],
        "tasks":[{commands}],
        "tasks":[
            {{"type": 0, "status": 0, "parent_taskid": 10}},
            {{"type": 0, "status": 1, "error": "No permissions to execute task.", "parent_taskid": 20}}
        ],
        "version":"5.4.0"}}"#
    );
    let payload = payload(&json);
    let Ok(Request::ProxyData(data)) = payload.request() else {
        panic!()
    };
    check_data(&data);
    assert!(data.active && data.has_data());
    assert_eq!(data.autoregistration.rows.len(), 1);
    assert_eq!(
        data.bad_rows(),
        1,
        "a registration without a host is counted"
    );
    assert_eq!(data.tasks.rows.len(), 4);
    assert!(matches!(
        data.tasks.rows[..2],
        [TaskEntry::RemoteCommand(_), TaskEntry::RemoteCommand(_)]
    ));
    let results: Vec<_> = data.tasks.rows[2..].iter().map(result).collect();
    assert_eq!(
        results,
        [(10, 0, ""), (20, 1, "No permissions to execute task.")]
    );
}

/// server→proxy: the reply to an upload, with commands under their obsolete number.
#[test]
fn tasks_of_a_server() {
    let commands = REMOTE_COMMANDS.replace("TYPE", "1");
    let json = format!(r#"{{"response": "success", "tasks":[{commands}]}}"#);
    let payload = payload(&json);
    let reply = Reply::decode(&payload).unwrap();
    assert!(reply.success);
    let [
        TaskEntry::RemoteCommand(first),
        TaskEntry::RemoteCommand(second),
    ] = &reply.tasks.rows[..]
    else {
        panic!("{:?}", reply.tasks)
    };
    assert_eq!(
        (first.command.as_ref(), first.port, first.hostid),
        ("restart_service1.sh", 80, 10_070)
    );
    assert_eq!(
        first.privatekey,
        "lsuusFncCzWBQ7RKNUSesmQRMSGkVb1/3j+skZ6UtW+5u09lHNsj6tQ5QCqGKukO1De7zhd"
    );
    assert_eq!(
        (second.execute_on, second.port, second.parent_taskid),
        (0, 0, 20)
    );
}
