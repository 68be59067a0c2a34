//! The rows of the abuse table (threat model, section 5, teeth) over real sockets, with time and
//! memory looked at, while a good agent keeps being served.

use std::time::{Duration, Instant};

use muster_agent::links::teeth::{Config, TeethLink};
use muster_core::run::EndKind;
use muster_core::task::Assignee;
use muster_net::tls::{Identity, Inbound, Trust};
use muster_net::{Clock, DialError, Protection, dial};
use serde_json::{Value, json};
use tokio::net::TcpStream;

use crate::bench::{Line, Server, open_to_loopback};

/// What a good answer may take while others misbehave.
const SERVED: Duration = Duration::from_secs(1);
/// What all rows together may grow the process by, in bytes: the stores and buffers of one
/// connection at a time.
const GROWTH_MAX: usize = 48 << 20;

/// Resident memory of this process.
fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

async fn within<T>(time: Duration, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(time, future)
        .await
        .expect("it took too long")
}

#[expect(clippy::disallowed_methods, reason = "real time is what is looked at")]
fn now() -> Instant {
    Instant::now()
}

fn ping_of(line_bytes: usize) -> Vec<u8> {
    let head = "{\"id\":\"s-1\",\"version\":\"v1\",\"method\":\"ping\",\"params\":{\"p\":\"";
    let tail = "\"}}";
    let pad = "x".repeat(line_bytes - head.len() - tail.len());
    format!("{head}{pad}{tail}").into_bytes()
}

#[tokio::test]
async fn bad_lines_are_told_so_and_closed_while_others_are_served() {
    let server = Server::with_clock(open_to_loopback(), Clock::system()).await;
    let address = server.listen().await;
    let connect = || async { Line::new(TcpStream::connect(address).await.unwrap()) };
    let mut good = connect().await;
    good.call("handshake", json!({"id": "good", "version": "1"}))
        .await;
    let before = resident();

    let with_newline = |mut line: Vec<u8>| {
        line.push(b'\n');
        line
    };
    let deep = format!(
        "{{\"id\":\"1\",\"version\":\"v1\",\"method\":\"ping\",\"params\":{}1{}}}",
        "{\"a\":".repeat(50_000),
        "}".repeat(50_000)
    );
    let rows: Vec<(&str, Vec<u8>, &str)> = vec![
        ("over the limit", with_newline(ping_of(524_289)), "protocol error: line too long."),
        ("never ending", vec![b'x'; 600_000], "protocol error: line too long."),
        ("no JSON", b"invalid json!\n".to_vec(), "protocol error: unable to decode message."),
        ("too deep", with_newline(deep.into_bytes()), "protocol error: unable to decode message."),
        ("array", b"[1]\n".to_vec(), "protocol error: malformed message."),
        ("string", b"\"fatal_error\"\n".to_vec(), "protocol error: malformed message."),
        ("number", b"5\n".to_vec(), "protocol error: malformed message."),
        ("null", b"null\n".to_vec(), "protocol error: malformed message."),
        ("no version", b"{\"id\":\"1\"}\n".to_vec(), "protocol violation: missing message version."),
        ("no id", b"{\"version\":\"v1\"}\n".to_vec(), "protocol violation: missing message id."),
        (
            "no params",
            b"{\"id\":\"1\",\"version\":\"v1\",\"method\":\"ping\"}\n".to_vec(),
            "protocol violation: missing message params.",
        ),
        (
            "bad params",
            b"{\"id\":\"1\",\"version\":\"v1\",\"method\":\"ping\",\"params\":[]}\n".to_vec(),
            "protocol violation: message params must be an object.",
        ),
        (
            "bad version",
            b"{\"id\":\"1\",\"version\":\"v2\",\"method\":\"ping\",\"params\":{}}\n".to_vec(),
            "unknown command version",
        ),
        (
            "wrong direction",
            b"{\"id\":\"1\",\"version\":\"v1\",\"method\":\"decom.disk_erase\",\"params\":{\"task_id\":\"t\"}}\n".to_vec(),
            "unknown command method",
        ),
        (
            "unknown answer",
            b"{\"id\":\"zz\",\"version\":\"v1\",\"result\":{}}\n".to_vec(),
            "protocol violation: unknown message id referenced.",
        ),
        (
            "other identity",
            b"{\"id\":\"1\",\"version\":\"v1\",\"method\":\"handshake\",\"params\":{\"id\":\"a\",\"version\":\"1\"}}\n\
              {\"id\":\"2\",\"version\":\"v1\",\"method\":\"handshake\",\"params\":{\"id\":\"b\",\"version\":\"1\"}}\n".to_vec(),
            "protocol violation: handshake with another id.",
        ),
    ];
    for (row, bytes, text) in rows {
        let mut line = connect().await;
        // The server may close before it has read all of it.
        let _ = line.send_bytes(&bytes).await;
        let fatal = within(SERVED * 5, async {
            loop {
                let said = line.next().await;
                if said.is_null() || said.get("fatal_error").is_some() {
                    return said;
                }
            }
        });
        assert_eq!(fatal.await["fatal_error"], text, "{row}");
        assert_eq!(
            within(SERVED * 5, line.next()).await,
            Value::Null,
            "{row}: closed"
        );
        let asked = now();
        let pong = within(SERVED, good.call("ping", json!({"row": row}))).await;
        assert_eq!(pong["result"]["row"], row);
        assert!(asked.elapsed() < SERVED, "{row}");
    }
    let grown = resident().saturating_sub(before);
    assert!(grown < GROWTH_MAX, "{grown} bytes more than before");
    let counts = server.control.refused_counts();
    let reasons: Vec<&str> = counts
        .iter()
        .map(|(_, reason, _)| reason.as_str())
        .collect();
    for reason in [
        "line_too_long",
        "not_json",
        "malformed",
        "bad_message",
        "unknown_method",
    ] {
        assert!(reasons.contains(&reason), "{reason} in {reasons:?}");
    }
    server.stop().await;
}

#[tokio::test]
async fn a_reader_that_never_reads_is_dropped_within_its_queue() {
    let server = Server::with_clock(open_to_loopback(), Clock::system()).await;
    let address = server.listen().await;
    let mut line = Line::new(TcpStream::connect(address).await.unwrap());
    let before = resident();
    let mut ping = ping_of(200_000);
    ping.push(b'\n');
    // Kernel buffers take some megabytes, our queue one; then the connection ends.
    let sent = within(Duration::from_secs(30), async {
        for sent in 0.. {
            if line.send_bytes(&ping).await.is_err() || sent > 500 {
                return sent;
            }
        }
        0
    });
    let sent = sent.await;
    assert!(sent < 500, "{sent} lines of 200 kB were taken");
    let grown = resident().saturating_sub(before);
    assert!(grown < GROWTH_MAX, "{grown} bytes more than before");
    server.stop().await;
}

#[tokio::test]
async fn a_log_flood_is_answered_dropped_and_counted() {
    let server = Server::with_clock(open_to_loopback(), Clock::system()).await;
    let address = server.listen().await;
    let mut line = Line::new(TcpStream::connect(address).await.unwrap());
    line.call("handshake", json!({"id": "noisy", "version": "1"}))
        .await;
    let log = json!({"id": "l", "version": "v1", "method": "log",
        "params": {"message": "\u{202e}m\n".repeat(100), "time": 1}});
    let flood = (log.to_string() + "\n\n").repeat(50);
    within(Duration::from_secs(20), async {
        for _ in 0..40 {
            line.send_bytes(flood.as_bytes()).await.unwrap();
            for _ in 0..50 {
                while line.next().await["id"] != "l" {}
            }
        }
    })
    .await;
    drop(line);
    within(Duration::from_secs(10), async {
        let flooded = |server: &Server| {
            let counts = server.control.refused_counts();
            counts.iter().any(|(_, reason, _)| reason == "log_flood")
        };
        while !flooded(&server) {
            server.clock.sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    server.stop().await;
}

#[tokio::test]
async fn a_whole_agent_works_over_a_socket_plain_and_pinned() {
    let folder = tempfile::tempdir().unwrap();
    let identity = Identity::load_or_generate(folder.path(), &["localhost".to_owned()]).unwrap();
    let tls = Inbound::rustls(&identity, &[]).unwrap();
    let pinned = Protection::Tls(Trust::Pinned(identity.fingerprint));
    for (inbound, protection) in [(Inbound::Plain, Protection::Plain), (tls, pinned)] {
        let server = Server::with_clock(open_to_loopback(), Clock::system()).await;
        let address = server.listen_as(inbound).await;
        let agent = server.idle_agent(5, crate::bench::POLICY);
        let config = Config {
            peer: format!("teeth://{address}"),
            endpoint: address.into(),
            protection,
            token: None,
            agent_id: agent.id.to_string(),
            mac: "52:54:00:12:34:56".into(),
            hostname: Some("by-socket".into()),
            kinds: Config::kinds_of(&agent.crew),
            root: "/".into(),
        };
        let (clock, entropy) = (server.clock.clone(), server.entropy.clone());
        let link = TeethLink::new(config, agent.crew.clone(), clock, entropy);
        let running = tokio::spawn(link.run(agent.stop.clone()));
        within(Duration::from_secs(30), async {
            server.until_able("by-socket", "decom.qc").await;
            let task = server.submit("decom.qc", json!({}), Assignee::Any).await;
            let (end, reason, result) = server.ended(task).await;
            assert_eq!(end, EndKind::Succeeded, "{reason}");
            assert!(result["facts"]["cpu"].is_object());
        })
        .await;
        agent.stop.cancel();
        within(Duration::from_secs(10), running).await.unwrap();
        server.stop().await;
    }
}

#[tokio::test]
async fn a_server_with_another_certificate_is_told_nothing() {
    let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let names = ["localhost".to_owned()];
    let [theirs, ours] = folders
        .each_ref()
        .map(|f| Identity::load_or_generate(f.path(), &names).unwrap());
    let server = Server::with_clock(open_to_loopback(), Clock::system()).await;
    let address = server
        .listen_as(Inbound::rustls(&theirs, &[]).unwrap())
        .await;
    let protection = Protection::Tls(Trust::Pinned(ours.fingerprint));
    let dialled = dial(
        &address.into(),
        &protection,
        Duration::from_secs(10),
        &server.clock,
    )
    .await;
    assert!(
        matches!(dialled, Err(DialError::Handshake { .. })),
        "{}",
        dialled.is_ok()
    );
    within(Duration::from_secs(10), async {
        while server
            .control
            .refused_counts()
            .iter()
            .all(|(_, reason, _)| reason != "tls")
        {
            server.clock.sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    server.stop().await;
}
