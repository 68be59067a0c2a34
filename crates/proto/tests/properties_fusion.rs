//! Properties of the FusionInventory codecs: what is written is read back, and nothing that can
//! arrive makes a decoder panic or take a part for the whole.

#![allow(clippy::unwrap_used, reason = "a test that unwraps nothing has failed")]

use bytes::Bytes;
use http::{Request, Response};
use muster_proto::fusion::body::Packing;
use muster_proto::fusion::p1::{
    DeviceTarget, DiscoveryTarget, InventoryOptions, Job, Task, TaskList, TasksQuery, WakeTarget,
    Work,
};
use muster_proto::fusion::p2::{self, Device, Reading, Word};
use muster_proto::fusion::reply::{DiscoveryOption, JobOption, Range, Reply};
use muster_proto::fusion::snmp::{
    AuthProtocol, Credential, DeviceType, Network, PrivProtocol, Snmp,
};
use muster_proto::fusion::wire::{PeerName, Secret};
use muster_proto::fusion::xml::Document;
use muster_proto::fusion::{Limits, agent, controller, p3};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

/// Text without what a wire cannot carry: white space at the ends, control characters.
fn text() -> impl Strategy<Value = String> {
    "[!-~äé€😀]{1,12}"
}

fn name() -> impl Strategy<Value = PeerName> {
    "[A-Za-z0-9][A-Za-z0-9._-]{0,30}".prop_map(|t| PeerName::parse(&t).unwrap())
}

fn credential() -> impl Strategy<Value = Credential> {
    let auth = prop_oneof![
        Just(AuthProtocol::Md5),
        Just(AuthProtocol::Sha1),
        Just(AuthProtocol::Sha224),
        Just(AuthProtocol::Sha256),
        Just(AuthProtocol::Sha384),
        Just(AuthProtocol::Sha512)
    ];
    let privacy = prop_oneof![
        Just(PrivProtocol::Des),
        Just(PrivProtocol::TripleDes),
        Just(PrivProtocol::Aes128),
        Just(PrivProtocol::Aes192),
        Just(PrivProtocol::Aes192c),
        Just(PrivProtocol::Aes256),
        Just(PrivProtocol::Aes256c)
    ];
    let v3 = (
        text(),
        option::of((auth, text())),
        option::of((privacy, text())),
    )
        .prop_map(|(username, auth, privacy)| Snmp::V3 {
            username,
            privacy: privacy
                .filter(|_| auth.is_some())
                .map(|(p, s)| (p, Secret::new(s))),
            auth: auth.map(|(p, s)| (p, Secret::new(s))),
        });
    let snmp = prop_oneof![
        text().prop_map(|c| Snmp::V1 {
            community: Secret::new(c)
        }),
        text().prop_map(|c| Snmp::V2c {
            community: Secret::new(c)
        }),
        v3,
    ];
    let rest = (
        option::of(text()),
        option::of(1_u32..1000),
        option::of(1_u16..),
        snmp,
    );
    rest.prop_map(|(id, timeout, port, snmp)| Credential {
        id,
        timeout,
        port,
        snmp,
    })
}

fn network() -> impl Strategy<Value = Network> {
    (any::<u32>(), 0_u32..=32, any::<u32>(), any::<bool>()).prop_map(|(a, bits, b, cidr)| {
        let text = match cidr {
            true => format!("{}/{bits}", std::net::Ipv4Addr::from(a)),
            false => format!(
                "{}-{}",
                std::net::Ipv4Addr::from(a.min(b)),
                std::net::Ipv4Addr::from(a.max(b))
            ),
        };
        Network::parse(&text).unwrap()
    })
}

fn kind() -> impl Strategy<Value = DeviceType> {
    prop::sample::select(DeviceType::ALL.to_vec())
}

fn work() -> impl Strategy<Value = Work> {
    let inventory = (
        any::<bool>(),
        any::<bool>(),
        option::of(1_u32..1000),
        vec("[a-z]{1,8}", 0..3),
        option::of(text()),
    )
        .prop_map(
            |(scan_homedirs, scan_profiles, timeout, no_category, additional_content)| {
                Work::Inventory(InventoryOptions {
                    scan_homedirs,
                    scan_profiles,
                    timeout,
                    no_category,
                    additional_content,
                })
            },
        );
    let discovery = (
        network(),
        option::of(1_u32..1024),
        option::of(1_u32..1000),
        vec(credential(), 0..3),
    )
        .prop_map(|(network, workers, timeout, credentials)| {
            Ok(DiscoveryTarget {
                network,
                workers,
                timeout,
                credentials,
            })
        });
    let device = (
        "[a-z0-9][a-z0-9.-]{0,20}",
        option::of(kind()),
        option::of(credential()),
    )
        .prop_map(|(host, kind, credential)| {
            Ok(DeviceTarget {
                host,
                kind,
                credential,
            })
        });
    let wake =
        ("[0-9a-f:]{1,17}", any::<bool>(), any::<bool>()).prop_map(|(address, ethernet, udp)| {
            Ok(WakeTarget {
                address,
                ethernet,
                udp,
            })
        });
    let other = (
        "x[a-z.]{1,8}",
        option::of(Just(r#"{"a":1}"#.to_owned())),
        vec(Just("\"t\"".to_owned()), 0..3),
    )
        .prop_map(|(kind, spec, targets)| Work::Other {
            kind,
            spec,
            targets,
        });
    prop_oneof![
        inventory,
        vec(discovery, 0..3).prop_map(Work::NetDiscovery),
        vec(device, 0..3).prop_map(Work::NetInventory),
        vec(wake, 0..3).prop_map(Work::WakeOnLan),
        other,
    ]
}

fn task_list() -> impl Strategy<Value = TaskList> {
    let job = (text(), option::of(1_u32..1024), work()).prop_map(|(id, workers, work)| Job {
        id,
        workers,
        work,
    });
    let task = (text(), vec(job, 0..3)).prop_map(|(id, jobs)| Task { id, jobs });
    (vec(task, 0..3), any::<i64>()).prop_map(|(tasks, next_contact)| TaskList {
        tasks,
        next_contact,
    })
}

fn device() -> impl Strategy<Value = Device> {
    (
        "[0-9a-f.:]{1,20}",
        option::of(kind()),
        vec("[0-9.]{1,12}", 0..3),
        vec(option::of(text()), 18),
    )
        .prop_map(|(ip, kind, ips, mut texts)| {
            let mut next = || texts.pop().flatten();
            Device {
                ip,
                kind,
                ips,
                entity: next(),
                auth_snmp: next(),
                auth_port: next(),
                auth_protocol: next(),
                manufacturer: next(),
                model: next(),
                description: next(),
                snmp_hostname: next(),
                location: next(),
                contact: next(),
                uptime: next(),
                serial: next(),
                firmware: next(),
                mac: next(),
                dns_hostname: next(),
                netbios_name: next(),
                workgroup: next(),
                user_session: next(),
                net_port_vendor: None,
            }
        })
}

/// Words in the order a message has them: start, count, devices, exit, end.
fn words<T: std::fmt::Debug + Clone>(
    device: impl Strategy<Value = T>,
) -> impl Strategy<Value = Vec<Word<T>>> {
    (
        option::of(option::of("[0-9.-]{1,8}")),
        option::of(any::<u64>()),
        vec(device, 0..3),
        any::<bool>(),
        any::<bool>(),
    )
        .prop_map(|(start, count, devices, exit, end)| {
            let start = start.map(|agent_version| Word::Start { agent_version });
            start
                .into_iter()
                .chain(count.map(Word::Count))
                .chain(devices.into_iter().map(Word::Device))
                .chain(exit.then_some(Word::Exit))
                .chain(end.then_some(Word::End))
                .collect()
        })
}

fn message() -> impl Strategy<Value = p2::Message> {
    let reading = (option::of(text()), text(), option::of(kind()))
        .prop_map(|(id, message, kind)| Reading::Error { id, message, kind });
    let content = prop_oneof![
        Just(p2::Content::Prolog),
        words(device()).prop_map(p2::Content::NetDiscovery),
        words(reading).prop_map(p2::Content::NetInventory),
    ];
    (name(), option::of("[A-Za-z0-9.-]{1,40}"), content).prop_map(|(device, process, content)| {
        let process = process.filter(|_| content != p2::Content::Prolog);
        p2::Message {
            device,
            process,
            content,
        }
    })
}

fn reply() -> impl Strategy<Value = Reply> {
    let range = (any::<u32>(), any::<u32>(), option::of(text())).prop_map(|(a, b, id)| Range {
        id,
        entity: None,
        port: None,
        first: a.min(b).into(),
        last: a.max(b).into(),
    });
    let credential = credential().prop_map(|c| Credential {
        timeout: None,
        id: Some("7".to_owned()),
        ..c
    });
    let job = (
        text(),
        1_u32..1024,
        1_u32..100,
        vec(range, 0..3),
        vec(credential, 0..3),
    )
        .prop_map(|(pid, threads, timeout, ranges, credentials)| {
            JobOption::NetDiscovery(DiscoveryOption {
                pid,
                threads,
                timeout,
                ranges,
                credentials,
            })
        });
    let wake = vec(text(), 0..3).prop_map(JobOption::WakeOnLan);
    (
        option::of(1_u32..100_000),
        any::<bool>(),
        vec(prop_oneof![job, wake], 0..3),
        option::of(text()),
    )
        .prop_map(|(freq, send_inventory, options, error)| Reply {
            prolog_freq: freq.map(|f| f64::from(f) / 16.0),
            send_inventory,
            options,
            error,
        })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn task_lists_come_back(list in task_list()) {
        let text = list.to_json();
        prop_assert_eq!(TaskList::parse(text.as_bytes(), &Limits::default()).unwrap(), list);
    }

    #[test]
    fn queries_come_back(agent in name(), modules in prop::collection::btree_map("[a-z]{1,12}", "[!-~]{1,8}", 0..9)) {
        let query = TasksQuery { agent, modules, name: None };
        let request = agent::tasks_request("/glpi/plugins/fusioninventory", &query);
        let ask = controller::decode(&request, &Limits::default()).unwrap();
        prop_assert_eq!(ask.what, controller::What::Tasks(query));
    }

    #[test]
    fn messages_come_back(message in message()) {
        for packing in [Packing::Zlib, Packing::Gzip, Packing::Plain] {
            let request = agent::message_request("", &message, packing);
            let ask = controller::decode(&request, &Limits::default()).unwrap();
            prop_assert_eq!(ask.context.packing, packing);
            prop_assert_eq!(ask.what, controller::What::Message(message.clone()));
        }
    }

    #[test]
    fn replies_come_back(reply in reply()) {
        let xml = reply.to_xml();
        prop_assert_eq!(Reply::parse(xml.as_bytes(), &Limits::default()).unwrap(), reply);
    }

    #[test]
    fn any_prefix_of_a_document_is_an_error(message in message(), list in task_list(), cut in any::<prop::sample::Index>()) {
        let xml = message.to_xml();
        let at = cut.index(xml.len());
        if xml.is_char_boundary(at) {
            prop_assert!(p2::Message::parse(&xml.as_bytes()[..at], &Limits::default()).is_err());
        }
        let json = list.to_json();
        let at = cut.index(json.len());
        prop_assert!(TaskList::parse(&json.as_bytes()[..at], &Limits::default()).is_err());
    }

    #[test]
    fn no_bytes_make_a_decoder_panic(bytes in vec(any::<u8>(), 0..300)) {
        everything(&bytes);
    }

    #[test]
    fn no_markup_makes_a_decoder_panic(pieces in vec(prop::sample::select(PIECES.to_vec()), 0..40)) {
        everything(pieces.concat().as_bytes());
    }
}

const PIECES: [&str; 34] = [
    "<",
    ">",
    "</",
    "/>",
    "<A>",
    "</A>",
    "<REQUEST>",
    "</REQUEST>",
    "<CONTENT>",
    "</CONTENT>",
    "<DEVICEID>a</DEVICEID>",
    "<QUERY>NETDISCOVERY</QUERY>",
    "<DEVICE>",
    "</DEVICE>",
    "<IP>1</IP>",
    "&amp;",
    "&",
    "&#",
    "x41;",
    ";",
    "<![CDATA[",
    "]]>",
    "<!--",
    "-->",
    "<?xml",
    "?>",
    " a=\"",
    "\"",
    "{\"deviceid\":\"a\",",
    "\"content\":",
    "[",
    "]}",
    "\\ud800",
    "\u{0}",
];

fn everything(bytes: &[u8]) {
    let limits = Limits::default();
    let _ = Document::parse(bytes, &limits);
    let _ = p2::Message::parse(bytes, &limits);
    let _ = p3::Message::parse(bytes, &limits);
    let _ = p3::Answer::parse(bytes, &limits);
    let _ = TaskList::parse(bytes, &limits);
    let _ = Reply::parse(bytes, &limits);
    for target in ["/", "/api/results?agentid=a&job=j", "/api.php/token"] {
        let request = Request::builder()
            .method("POST")
            .uri(target)
            .body(Bytes::copy_from_slice(bytes))
            .unwrap();
        if let Err(reject) = controller::decode(&request, &limits) {
            assert!(
                reject.to_response().status().is_client_error() || reject.reason.status() == 501
            );
        }
    }
    let response = Response::new(Bytes::copy_from_slice(bytes));
    let _ = agent::decode_tasks(&response, &limits);
    let _ = agent::decode_prolog(&response, &limits);
}
