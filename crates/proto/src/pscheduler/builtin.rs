//! The tests this server has of itself, as data: options, schemas, participants and forms (contract,
//! section 14). Kinds of work that are only known by name become tests with an open specification.

use serde_json::{Map, Value, json};

use super::cli::{CliOption, Takes};
use super::plugins::{Kind, Rule, SchedulingClass, Target, Test};
use super::schemas::{self, Schema};
use super::text::Form;

const CLOCK: &[CliOption] = &[
    CliOption::new("dest", Takes::Text, "Node whose clock is compared"),
    CliOption::new(
        "source",
        Takes::Text,
        "Node whose clock it is compared with",
    ),
    CliOption::new("source-node", Takes::Text, "Node that compares, if another").since(2),
    CliOption::new("timeout", Takes::Text, "How long to wait for each clock"),
];

const IDLE: &[CliOption] = &[
    CliOption::new("duration", Takes::Text, "How long to idle (ISO 8601)").short('d'),
    CliOption::new("starting-comment", Takes::Text, "Said before").short('s'),
    CliOption::new("parting-comment", Takes::Text, "Said after").short('p'),
    CliOption::new(
        "host",
        Takes::TextOrList,
        "Host that idles; may be repeated",
    )
    .short('H'),
];

const IDLEEX: &[CliOption] = &[
    CliOption::new("duration", Takes::Text, "How long to idle (ISO 8601)").short('d'),
    CliOption::new("starting-comment", Takes::Text, "Said before").short('s'),
    CliOption::new("parting-comment", Takes::Text, "Said after").short('p'),
    CliOption::new("host", Takes::Text, "Host that idles").short('H'),
    CliOption::new("host-node", Takes::Text, "Node that idles, if another"),
];

const NOOP: &[CliOption] = &[
    CliOption::new("data", Takes::Json, "JSON to pass through"),
    CliOption::new("host", Takes::Text, "Host that does it"),
    CliOption::new("host-node", Takes::Text, "Node that does it, if another"),
    CliOption::new("fail", Takes::Float, "Share of runs that fail, 0 to 1").short('f'),
];

const RTT: &[CliOption] = &[
    CliOption::new("count", Takes::Integer, "Number of packets").short('c'),
    CliOption::new("dest", Takes::Text, "Host to reach").short('d'),
    CliOption::new("flow-label", Takes::Integer, "IPv6 flow label"),
    CliOption::new("interval", Takes::Text, "Time between packets").short('i'),
    CliOption::new("ip-version", Takes::Integer, "4 or 6"),
    CliOption::new("source", Takes::Text, "Address or interface to send from").short('s'),
    CliOption::new("source-node", Takes::Text, "Node that sends, if another"),
    CliOption::new("ip-tos", Takes::Integer, "Type of service octet"),
    CliOption::new("length", Takes::Integer, "Bytes in a packet"),
    CliOption::new("ttl", Takes::Integer, "Time to live"),
    CliOption::new("deadline", Takes::Text, "Limit for the whole measurement"),
    CliOption::new("timeout", Takes::Text, "How long to wait for each answer"),
    CliOption::new("port", Takes::Integer, "Port, for protocols with one").since(4),
    CliOption::new("protocol", Takes::Text, "Protocol to measure with").since(2),
    CliOption::switch(
        "suppress-loopback",
        "No multicast loopback",
        "Multicast loopback",
    ),
    CliOption::switch("fragment", "May be fragmented", "May not be fragmented").since(3),
    CliOption::switch("hostnames", "Look up names", "Do not look up names"),
];

const INVENTORY: &[CliOption] = &[];

const NETDISCOVERY: &[CliOption] = &[
    CliOption::new(
        "target",
        Takes::List,
        "Network, range or host; may be repeated",
    )
    .short('t')
    .member("targets"),
    CliOption::new("workers", Takes::Integer, "Addresses tried at a time").short('w'),
    CliOption::new("timeout", Takes::Text, "How long to wait for each answer"),
    CliOption::new("credentials", Takes::Json, "SNMP credentials, an array").member("_credentials"),
];

const OPEN: &[CliOption] =
    &[CliOption::new("spec", Takes::Json, "Specification, a JSON object").member("spec")];

/// The tests of this server.
pub(super) fn tests() -> Vec<Test> {
    let test = |name: &str, description: &str, options, schemas: Vec<Value>, rule, form| Test {
        name: name.to_owned(),
        description: description.to_owned(),
        version: "1.0".to_owned(),
        class: SchedulingClass::Background,
        schemas: schemas.into_iter().map(Schema::new).collect(),
        options,
        examples: examples(name),
        rule,
        target: target(name),
        form,
    };
    let source = Rule::Named(
        &["source-node", "source"],
        "No source specified",
        "null-reason",
    );
    // Here the original names the member `reason` (contract, section 14).
    let host = Rule::Named(&["host-node", "host"], "No host specified", "reason");
    vec![
        test(
            "clock",
            "Measure the clock difference between hosts",
            CLOCK,
            vec![clock(1), clock(2)],
            source,
            Form::Clock,
        ),
        test(
            "idle",
            "Consume time in the background",
            IDLE,
            vec![idle(1), idle(2)],
            host,
            Form::Idle,
        ),
        Test {
            class: SchedulingClass::Exclusive,
            ..test(
                "idleex",
                "Consume time exclusively",
                IDLEEX,
                vec![idle(1)],
                host,
                Form::Idle,
            )
        },
        test(
            "inventory",
            "Collect the inventory of an agent's machine",
            INVENTORY,
            vec![closed(
                json!({ "schema": { "type": "integer", "enum": [1] } }),
                &[],
            )],
            Rule::AnyAgent,
            Form::Json,
        ),
        test(
            "netdiscovery",
            "Discover devices in networks",
            NETDISCOVERY,
            vec![netdiscovery()],
            Rule::AnyAgent,
            Form::Json,
        ),
        test("noop", "Do nothing", NOOP, vec![noop()], host, Form::Noop),
        test(
            "rtt",
            "Measure the round trip time between hosts",
            RTT,
            (1..=4).map(rtt).collect(),
            source,
            Form::Rtt,
        ),
    ]
}

/// A test for a kind of work of which only the name is known here: its specification is open, and
/// whoever does the work says what is wrong with it. Of some the types of members are known.
pub(super) fn open_kind(kind: Kind) -> Test {
    let mut properties = json!({ "schema": { "type": "integer", "enum": [1] } });
    if kind.name == "decom.qc" {
        let wanted = || json!({ "type": ["boolean", "object", "null"] });
        properties["benchmarks"] = wanted();
        properties["burn_in"] = wanted();
        properties["spec"] = json!({ "type": ["object", "null"] });
    }
    Test {
        examples: format!("Examples:\n\n  task {} --spec '{{ }}'\n", kind.name),
        name: kind.name,
        description: kind.description,
        version: kind.version,
        class: SchedulingClass::Background,
        schemas: vec![Schema::new(
            json!({ "type": "object", "properties": properties }),
        )],
        options: OPEN,
        rule: Rule::AnyAgent,
        target: Target::Outside,
        form: Form::Json,
    }
}

fn target(test: &str) -> Target {
    match test {
        "clock" | "rtt" => Target::Each("dest"),
        "netdiscovery" => Target::Listed("targets"),
        _ => Target::Outside,
    }
}

/// What a test's own converter does after its options are read.
pub(super) fn finish_spec(test: &str, spec: &mut Map<String, Value>) -> Result<(), String> {
    let raise = |spec: &mut Map<String, Value>, schema: i64| {
        let now = spec.get("schema").and_then(Value::as_i64).unwrap_or(1);
        spec.insert("schema".to_owned(), Value::from(now.max(schema)));
    };
    match test {
        "idle" if spec.get("host").is_some_and(Value::is_array) => raise(spec, 2),
        "rtt" => {
            let known = |protocol: &Value| protocol == "icmp" || protocol == "twamp";
            if spec
                .get("protocol")
                .is_some_and(|protocol| !known(protocol))
            {
                raise(spec, 4);
            }
        }
        "clock" | "idle" | "idleex" | "inventory" | "netdiscovery" | "noop" => {}
        _ => {
            if let Some(own) = spec.remove("spec") {
                let Value::Object(own) = own else {
                    return Err("Invalid data (must be a JSON object)".to_owned());
                };
                spec.extend(own);
            }
        }
    }
    Ok(())
}

fn examples(test: &str) -> String {
    let lines: &[(&str, &str)] = match test {
        "clock" => &[(
            "--dest ps.example.com",
            "How far ps.example.com's clock is from this one",
        )],
        "idle" => &[
            ("--duration PT1M15S", "Idle here for a minute and a quarter"),
            (
                "--duration PT20S --host ps2.example.org",
                "Let ps2.example.org idle",
            ),
        ],
        "idleex" => &[(
            "--duration PT5M",
            "Keep everything else off for five minutes",
        )],
        "inventory" => &[("", "What the machine consists of")],
        "netdiscovery" => &[(
            "--target 10.0.0.0/24 --workers 10",
            "Look for devices, ten at a time",
        )],
        "noop" => &[("--data '{ \"foo\": 123 }'", "Get the data back")],
        _ => &[
            ("--dest ps.example.com", "From here to ps.example.com"),
            (
                "--length 512 --dest ps.example.com",
                "With packets of 512 bytes",
            ),
        ],
    };
    let mut text = String::from("Examples:\n");
    for (args, what) in lines {
        text.push_str(&format!("\n  task {test} {args}\n      {what}\n"));
    }
    text
}

fn closed(properties: Value, required: &[&str]) -> Value {
    json!({
        "type": "object",
        "properties": properties,
        "additionalProperties": false,
        "required": required
    })
}

fn clock(version: u8) -> Value {
    let mut properties = json!({
        "schema": schemas::cardinal(),
        "dest": schemas::url_host_port(),
        "source": schemas::url_host_port(),
        "timeout": schemas::duration()
    });
    if version >= 2
        && let Some(properties) = properties.as_object_mut()
    {
        properties.insert("source-node".to_owned(), schemas::url_host_port());
    }
    json!({ "type": "object", "properties": properties, "required": ["dest"] })
}

fn idle(version: u8) -> Value {
    let text = || json!({ "type": "string" });
    let mut properties = json!({
        "schema": { "type": "integer", "enum": [version] },
        "duration": schemas::duration(),
        "host": schemas::host(),
        "parting-comment": text(),
        "starting-comment": text()
    });
    if let Some(properties) = properties.as_object_mut() {
        if version == 1 {
            properties.insert("host-node".to_owned(), schemas::url_host_port());
        } else {
            let hosts = json!({
                "type": "array", "items": schemas::host(), "minItems": 1, "maxItems": 32
            });
            properties.insert("host".to_owned(), hosts);
        }
    }
    closed(properties, &["duration"])
}

fn noop() -> Value {
    closed(
        json!({
            "schema": { "type": "integer", "enum": [1] },
            "data": {},
            "host": schemas::host(),
            "host-node": schemas::url_host_port(),
            "fail": { "type": "number", "minimum": 0.0, "maximum": 1.0 }
        }),
        &[],
    )
}

fn rtt(version: u8) -> Value {
    let flag = || json!({ "type": "boolean" });
    let mut properties = json!({
        "schema": schemas::cardinal(),
        "count": schemas::cardinal(),
        "dest": schemas::host(),
        "flow-label": schemas::cardinal_zero(),
        "hostnames": flag(),
        "interval": schemas::duration(),
        "ip-version": schemas::ip_version(),
        "source": schemas::host(),
        "source-node": schemas::url_host_port(),
        "suppress-loopback": flag(),
        "ip-tos": { "type": "integer", "minimum": 0, "maximum": 255 },
        "length": schemas::cardinal(),
        "ttl": schemas::cardinal(),
        "deadline": schemas::duration(),
        "timeout": schemas::duration()
    });
    if let Some(properties) = properties.as_object_mut() {
        if version >= 2 {
            let protocol = if version >= 4 {
                json!({ "type": "string" })
            } else {
                json!({ "type": "string", "enum": ["icmp", "twamp"] })
            };
            properties.insert("protocol".to_owned(), protocol);
        }
        if version >= 3 {
            properties.insert("fragment".to_owned(), flag());
        }
        if version >= 4 {
            let port = json!({ "type": "integer", "minimum": 0, "maximum": 65535 });
            properties.insert("port".to_owned(), port);
        }
    }
    let required: &[&str] = if version == 1 {
        &["dest"]
    } else {
        &["schema", "dest"]
    };
    closed(properties, required)
}

fn netdiscovery() -> Value {
    closed(
        json!({
            "schema": { "type": "integer", "enum": [1] },
            "targets": {
                "type": "array", "minItems": 1, "maxItems": 1024,
                "items": { "type": "string", "maxLength": 255, "pattern": r"^[A-Za-z0-9_:][A-Za-z0-9_.:,/ \-]*$" }
            },
            "workers": { "type": "integer", "minimum": 1, "maximum": 1000 },
            "timeout": schemas::duration(),
            "_credentials": {
                "type": "array", "maxItems": 32,
                "items": {
                    "type": "object",
                    "properties": { "version": { "type": "string", "enum": ["1", "2c", "3"] } },
                    "required": ["version"]
                }
            }
        }),
        &["targets"],
    )
}
