//! `muster send`: one value, as zabbix_sender sends it (Zabbix contract, section 4).

use std::time::Duration;

use muster_net::clock::Clock;
use muster_proto::zabbix::Limits;
use muster_proto::zabbix::frame;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::cli::args::{Global, SendArgs};
use crate::cli::error::{CliError, Code, Exit};
use crate::cli::output::Output;
use crate::cli::state;

/// How long connecting, and then the answer, may take; zabbix_sender waits as long.
const TIMEOUT: Duration = Duration::from_secs(30);

/// `muster send`.
pub(in crate::cli) async fn send(
    global: &Global,
    out: Output,
    args: SendArgs,
) -> Result<(), CliError> {
    let address = match &args.server {
        Some(server) => with_port(server, 10051),
        None => state::addresses(&state::folder(global))?
            .zabbix
            .ok_or_else(|| {
                CliError::new(
                    Exit::Unreachable,
                    Code::NO_SERVER,
                    "the server here has no Zabbix listener",
                )
                .next("name one with --server HOST:PORT")
            })?,
    };
    let now = Clock::system().now();
    let message = json!({
        "request": "sender data",
        "data": [{
            "host": args.host,
            "key": args.key,
            "value": args.value,
            "clock": now.as_second(),
            "ns": now.subsec_nanosecond(),
        }],
        "clock": now.as_second(),
        "ns": now.subsec_nanosecond(),
    });
    let answer = exchange(&address, &message.to_string(), TIMEOUT).await?;
    let answer: Value = serde_json::from_slice(&answer).map_err(|e| {
        CliError::failed(
            Code::SERVER_ANSWER,
            format!("{address} did not answer in JSON"),
        )
        .cause(&e)
    })?;
    out.object(&answer)?;
    let info = answer
        .get("info")
        .and_then(Value::as_str)
        .unwrap_or_default();
    if answer.get("response").and_then(Value::as_str) == Some("success")
        && info.contains("failed: 0")
    {
        return Ok(());
    }
    Err(CliError::failed(
        Code::SEND_REFUSED,
        format!(
            "the value of {:?} on {:?} was not taken",
            args.key, args.host
        ),
    )
    .line(if info.is_empty() {
        "the server gave no reason"
    } else {
        info
    })
    .next("is there a trapper item with that key? `muster item list --host HOST`"))
}

/// Sends one framed message and reads the framed answer; connecting and answering may take `wait`
/// each.
pub(in crate::cli) async fn exchange(
    address: &str,
    message: &str,
    wait: Duration,
) -> Result<Vec<u8>, CliError> {
    let frame = frame::encode(message.as_bytes(), false)
        .map_err(|e| CliError::usage("the value is too long").cause(&e))?;
    let unreachable = |e: &std::io::Error| {
        CliError::new(
            Exit::Unreachable,
            Code::UNREACHABLE,
            format!("cannot reach {address}"),
        )
        .line(e.to_string())
        .next("is a Zabbix listener there? `muster probe zabbix HOST:PORT` tells")
    };
    let late = || {
        CliError::new(
            Exit::TimedOut,
            Code::TIMED_OUT,
            format!("no answer in time from {address}"),
        )
    };
    let mut stream = tokio::time::timeout(wait, TcpStream::connect(address))
        .await
        .map_err(|_| late())?
        .map_err(|e| unreachable(&e))?;
    let answer = tokio::time::timeout(wait, async {
        stream
            .write_all(&frame)
            .await
            .map_err(|e| unreachable(&e))?;
        read_frame(&mut stream, address).await
    });
    answer.await.map_err(|_| late())?
}

async fn read_frame(stream: &mut TcpStream, address: &str) -> Result<Vec<u8>, CliError> {
    let limits = Limits::default();
    let peer = limits.of(false);
    let wrong = |what: &str| {
        CliError::failed(
            Code::SERVER_ANSWER,
            format!("{address} did not answer as Zabbix does"),
        )
        .line(what)
    };
    let mut decoder = frame::Decoder::new(peer, false);
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let n = stream
            .read(&mut buffer)
            .await
            .map_err(|e| wrong(&e.to_string()))?;
        if n == 0 {
            return Err(wrong("the connection was closed before an answer"));
        }
        let (_, packet) = decoder
            .feed(buffer.get(..n).unwrap_or_default())
            .map_err(|e| wrong(&e.to_string()))?;
        if let Some(packet) = packet {
            return packet
                .open(&limits, peer)
                .map_err(|e| wrong(&e.to_string()));
        }
    }
}

/// An address with the port of the wire where it names none.
pub(in crate::cli) fn with_port(address: &str, port: u16) -> String {
    let bare_v6 = address.matches(':').count() > 1 && !address.contains(']');
    if bare_v6 {
        format!("[{address}]:{port}")
    } else if address
        .rsplit_once(':')
        .is_some_and(|(_, p)| p.parse::<u16>().is_ok())
    {
        address.to_owned()
    } else {
        format!("{address}:{port}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_added_where_there_is_none() {
        for (address, full) in [
            ("zbx", "zbx:10051"),
            ("zbx:1", "zbx:1"),
            ("127.0.0.1", "127.0.0.1:10051"),
            ("::1", "[::1]:10051"),
            ("[::1]", "[::1]:10051"),
            ("[::1]:7", "[::1]:7"),
        ] {
            assert_eq!(with_port(address, 10051), full);
        }
    }
}
