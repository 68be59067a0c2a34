//! Properties: any split of the bytes gives the same, any prefix gives less or an error, what is
//! encoded decodes to itself, and nothing panics.

use std::time::Instant;

use muster_proto::Session as _;
use muster_proto::teeth::commands::{FromAgent, Hello, Report, TaskState, Token, Welcome};
use muster_proto::teeth::wire::{self, Command, Fatal, Message};
use muster_proto::teeth::{Json, Limits, controller};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use serde_json::{Map, Value, json};

use crate::kit::{Link, agent_session, new_hello, server_config, server_session};

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        (-1e15..1e15f64).prop_map(Value::from),
        ".{0,12}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..4).prop_map(Value::from),
            vec((".{0,6}", inner), 0..4)
                .prop_map(|members| Value::Object(members.into_iter().collect::<Map<_, _>>())),
        ]
    })
}

fn any_object() -> impl Strategy<Value = Value> {
    vec((".{0,6}", any_json()), 0..4)
        .prop_map(|members| Value::Object(members.into_iter().collect::<Map<_, _>>()))
}

fn decode(line: &[u8]) -> Result<Message, Fatal> {
    let line = line.strip_suffix(b"\n").expect("a line ends in a newline");
    assert!(!line.contains(&b'\n') && !line.contains(&b'\r'));
    wire::decode(line, &Limits::default())
}

fn any_report() -> impl Strategy<Value = Report> {
    let state = prop_oneof![
        Just(TaskState::Complete),
        ".{0,20}".prop_map(|msg| TaskState::Error { msg }),
        (0.0..1e9f64, 0.0..=100.0f64)
            .prop_map(|(eta, percent)| TaskState::Running { eta, percent }),
    ];
    let text = || option::of("[a-z]{1,20}");
    (
        "[ -~]{1,64}",
        state,
        option::of(any_object()),
        text(),
        option::of(any::<u64>()),
    )
        .prop_map(|(task_id, state, result, step, seq)| Report {
            task_id,
            state,
            result: result.map(Json::from),
            step,
            seq,
        })
}

/// Lines such as peers send, good and bad, and bytes that are no lines at all.
fn any_line() -> impl Strategy<Value = Vec<u8>> {
    let id = prop_oneof![any_json(), "[a-z]{1,4}".prop_map(Value::from)];
    let method = prop_oneof![
        Just("handshake"),
        Just("ping"),
        Just("log"),
        Just("task_status"),
        Just("status"),
        Just("decom.qc"),
        Just("standby.run_image"),
        Just("muster.run"),
        Just("nonsense"),
    ];
    let params = prop_oneof![
        any_json(),
        Just(
            json!({"id": "m", "version": "1", "message": "m", "time": 1, "task_id": "t",
            "state": "complete", "image_id": "i", "kind": "rtt", "spec": {}})
        ),
    ];
    let message = (id, method, params, any_json(), 0..6usize).prop_map(
        |(id, method, params, other, kind)| match kind {
            0..=2 => json!({"id": id, "version": "v1", "method": method, "params": params}),
            3 => json!({"id": id, "version": "v1", "result": other}),
            4 => json!({"id": id, "version": "v1", "error": other}),
            _ => other,
        },
    );
    prop_oneof![
        6 => message.prop_map(|line| (line.to_string() + "\n").into_bytes()),
        1 => Just(b"\r\n".to_vec()),
        1 => vec(any::<u8>(), 0..40),
    ]
}

/// Everything a server session does with these pieces.
fn server_story(pieces: &[&[u8]], now: Instant) -> (Vec<controller::Event>, Vec<u8>, bool) {
    let mut session = server_session(server_config(), now);
    let (mut events, mut output) = (Vec::new(), Vec::new());
    for piece in pieces {
        session.handle_input(piece, now);
    }
    while let Some(event) = session.poll_event() {
        match &event {
            controller::Event::Handshake { ticket, .. } => {
                session.welcome(*ticket);
            }
            controller::Event::TaskStatus { ticket, .. } => session.acknowledge(*ticket),
            controller::Event::Answered { .. }
            | controller::Event::Closed(_)
            | controller::Event::Heard
            | controller::Event::Log(_)
            | controller::Event::LogsDropped { .. } => {}
        }
        // How often input is counted as used depends on how it came.
        if event != controller::Event::Heard {
            events.push(event);
        }
    }
    output.extend(std::iter::from_fn(|| session.poll_output()).flatten());
    (events, output, session.wants_close())
}

fn agent_story(pieces: &[&[u8]], now: Instant) -> (Vec<String>, Vec<u8>, bool) {
    let mut session = agent_session(new_hello(), now);
    let mut link = Link::default();
    for piece in pieces {
        session.handle_input(piece, now);
    }
    link.serve(&mut session, now);
    let output = std::iter::from_fn(|| session.poll_output())
        .flatten()
        .collect();
    (link.begun, output, session.wants_close())
}

/// Cuts the bytes at the given places.
fn split<'a>(bytes: &'a [u8], cuts: &[usize]) -> Vec<&'a [u8]> {
    let mut at: Vec<usize> = cuts.iter().map(|cut| cut % (bytes.len() + 1)).collect();
    at.push(0);
    at.push(bytes.len());
    at.sort_unstable();
    at.windows(2).map(|pair| &bytes[pair[0]..pair[1]]).collect()
}

proptest! {
    #[test]
    fn any_split_of_the_bytes_gives_the_same(
        lines in vec(any_line(), 0..6),
        cuts in vec(any::<usize>(), 0..8),
    ) {
        let now = Instant::now();
        let bytes = lines.concat();
        let pieces = split(&bytes, &cuts);
        let single: Vec<&[u8]> = bytes.chunks(1).collect();
        let whole = server_story(&[&bytes], now);
        prop_assert_eq!(&server_story(&pieces, now), &whole);
        prop_assert_eq!(&server_story(&single, now), &whole);
        let whole = agent_story(&[&bytes], now);
        prop_assert_eq!(&agent_story(&pieces, now), &whole);
        prop_assert_eq!(&agent_story(&single, now), &whole);
    }

    #[test]
    fn any_prefix_of_a_message_is_unfinished_or_an_error(
        id in any_json(),
        params in any_object(),
        cut in any::<usize>(),
    ) {
        let now = Instant::now();
        let line = json!({"id": id, "version": "v1", "method": "ping", "params": params});
        let bytes = line.to_string().into_bytes();
        let prefix = &bytes[..cut % bytes.len()];
        let nothing = (Vec::new(), Vec::new(), false);
        prop_assert_eq!(&server_story(&[prefix], now), &nothing);
        let (_, output, closed) = server_story(&[prefix, b"\n"], now);
        let undecodable = wire::encode_fatal(&Fatal::Decode);
        prop_assert!(prefix.is_empty() || closed && output == undecodable);
    }

    #[test]
    fn commands_and_answers_decode_to_themselves(
        id in ".{1,12}",
        method in ".{0,12}",
        params in any_object(),
        result in any_json(),
        msg in ".{0,20}",
    ) {
        let params = Json::from(params);
        let line = wire::encode_command(&id, &method, &params);
        let want = Message::Command(Command {
            id: Json::from(Value::from(id.as_str())),
            version: Json::from(Value::from("v1")),
            method: Json::from(Value::from(method)),
            params,
        });
        prop_assert_eq!(decode(&line), Ok(want));

        let id = Json::from(Value::from(id));
        let version = Json::from(Value::from("v1"));
        let result = Json::from(result);
        let want = Message::Result { id: id.clone(), result: result.clone() };
        prop_assert_eq!(decode(&wire::encode_result(&id, &version, &result)), Ok(want));
        let error = wire::RemoteError { msg: msg.clone() };
        let line = wire::encode_error(&id, &version, &msg);
        prop_assert_eq!(decode(&line), Ok(Message::Error { id, error }));
        let line = wire::encode_fatal(&Fatal::Other(msg.clone()));
        prop_assert_eq!(decode(&line), Ok(Message::FatalError { text: msg }));
    }

    #[test]
    fn reports_and_handshakes_decode_to_themselves(
        report in any_report(),
        names in vec("[!-~]{1,30}", 5),
        methods in option::of(vec("[a-z._]{0,20}", 0..6)),
        token in option::of("[!-~]{0,40}"),
        port in any::<u16>(),
    ) {
        let limits = Limits::default();
        let through = |method: &str, params: Json| {
            match decode(&wire::encode_command("1", method, &params)) {
                Ok(Message::Command(command)) => FromAgent::read(&command, &limits),
                other => panic!("{other:?}"),
            }
        };
        let read = through("task_status", report.to_params());
        prop_assert_eq!(read, Ok(Some(FromAgent::TaskStatus(report))));

        let hello = Hello {
            id: names[0].clone(),
            version: names[1].clone(),
            token: token.map(Token::new),
            methods: methods.clone(),
            mode: Some(names[2].clone()),
            boot_id: Some(names[3].clone()),
            agent: Some(names[4].clone()),
            agent_id: Some(names[0].clone()),
            hostname: None,
            kinds: names.iter().map(|name| (name.clone(), "1".to_owned())).collect(),
        };
        let read = through("handshake", hello.to_params());
        prop_assert_eq!(read, Ok(Some(FromAgent::Handshake(hello))));

        let welcome = Welcome {
            connection_id: Some(names[0].clone()),
            endpoint_rpc_host: Some(names[1].clone()),
            endpoint_rpc_port: Some(port),
            methods,
            server: Some(names[2].clone()),
        };
        prop_assert_eq!(Welcome::read(&welcome.to_result("m"), &limits), welcome);
    }

    #[test]
    fn params_of_a_ping_come_back_equal(params in any_object()) {
        let now = Instant::now();
        let mut session = server_session(server_config(), now);
        session.handle_input(&wire::encode_command("1", "ping", &Json::from(&params)), now);
        let line = session.poll_output().unwrap();
        let answer: Value = serde_json::from_slice(&line).unwrap();
        prop_assert_eq!(&answer["result"], &params);
    }
}
