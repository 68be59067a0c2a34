//! `muster probe`: says hello to whatever listens at an address and tells what it is.
//!
//! Nothing it sends enrols anybody or changes anything: an empty upload, a ping, a request for the
//! version. It sends no secret, so it takes any certificate.

use std::time::Duration;

use muster_net::clock::Clock;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;

use super::send::{exchange, with_port};
use crate::bench::round;
use crate::cli::args::{ProbeArgs, WireName};
use crate::cli::client;
use crate::cli::error::{CliError, Code, Exit};
use crate::cli::output::Output;

/// How long any step may take.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Longest answer looked at.
const ANSWER_MAX: usize = 64 * 1024;

/// What was heard, and whether it is this wire.
struct Heard {
    speaks: bool,
    answer: Value,
}

/// `muster probe`.
pub(in crate::cli) async fn probe(out: Output, args: ProbeArgs) -> Result<(), CliError> {
    let clock = Clock::system();
    let before = clock.instant();
    let (wire, heard) = match args.wire {
        WireName::Fusion => ("fusion", fusion(&args.address).await?),
        WireName::Pscheduler => ("pscheduler", pscheduler(&args.address).await?),
        WireName::Teeth => ("teeth", teeth(&args.address).await?),
        WireName::Zabbix => ("zabbix", zabbix(&args.address).await?),
    };
    let milliseconds = round((clock.instant() - before).as_secs_f64() * 1000.0);
    out.object(&json!({
        "wire": wire,
        "address": args.address,
        "speaks": heard.speaks,
        "answer": heard.answer,
        "milliseconds": milliseconds,
    }))?;
    if heard.speaks {
        return Ok(());
    }
    Err(CliError::failed(
        Code::PROBE_FAILED,
        format!("what listens at {} does not speak {wire}", args.address),
    ))
}

/// An upload without values: every Zabbix server and proxy answers it and stores nothing. An agent
/// on its passive port is asked for its ping instead.
async fn zabbix(address: &str) -> Result<Heard, CliError> {
    let address = with_port(address, 10051);
    let message = if address.ends_with(":10050") {
        "agent.ping".to_owned()
    } else {
        json!({"request": "sender data", "data": []}).to_string()
    };
    match exchange(&address, &message, TIMEOUT).await {
        Ok(bytes) => {
            let text = String::from_utf8_lossy(&bytes).into_owned();
            Ok(Heard {
                speaks: true,
                answer: serde_json::from_str(&text).unwrap_or(Value::String(text)),
            })
        }
        Err(error) if error.code == Code::SERVER_ANSWER => Ok(Heard {
            speaks: false,
            answer: json!(error.detail.join("; ")),
        }),
        Err(error) if error.code == Code::TIMED_OUT => Ok(Heard {
            speaks: false,
            answer: json!("nothing"),
        }),
        Err(error) => Err(error),
    }
}

/// A ping, which is answered before any handshake (teeth contract, section 5).
async fn teeth(address: &str) -> Result<Heard, CliError> {
    let address = with_port(address.trim_start_matches("teeth://"), 8081);
    let stream = connect(&address).await?;
    let mut stream = BufReader::new(stream);
    let ping = "{\"id\":\"muster-probe\",\"version\":\"v1\",\"method\":\"ping\",\"params\":{}}\n";
    let answer = tokio::time::timeout(TIMEOUT, async {
        stream.write_all(ping.as_bytes()).await?;
        let mut line = Vec::new();
        (&mut stream)
            .take(ANSWER_MAX as u64)
            .read_until(b'\n', &mut line)
            .await?;
        Ok::<_, std::io::Error>(line)
    })
    .await;
    let line = match answer {
        Err(_) => {
            return Ok(Heard {
                speaks: false,
                answer: json!("nothing"),
            });
        }
        Ok(Err(e)) => {
            return Ok(Heard {
                speaks: false,
                answer: json!(e.to_string()),
            });
        }
        Ok(Ok(line)) => line,
    };
    let text = String::from_utf8_lossy(&line).trim().to_owned();
    let answer = serde_json::from_str::<Value>(&text).unwrap_or(Value::String(text));
    let speaks = answer.get("id").is_some_and(|id| id == "muster-probe")
        || answer.get("fatal_error").is_some();
    Ok(Heard { speaks, answer })
}

/// The list of tests needs no rights and names the implementation by its shape.
async fn pscheduler(address: &str) -> Result<Heard, CliError> {
    let base = base(address, "https", "pscheduler");
    let (status, _, body) = get(&format!("{base}/api")).await?;
    let answer = serde_json::from_str::<Value>(&body).unwrap_or(Value::String(body));
    Ok(Heard {
        speaks: status == 200 && answer.is_number(),
        answer,
    })
}

/// A request without an agent's name: both families refuse it in words of their own.
async fn fusion(address: &str) -> Result<Heard, CliError> {
    let base = base(address, "http", "plugins/fusioninventory");
    let (status, server_type, body) = get(&format!("{base}/api/tasks")).await?;
    let answer = serde_json::from_str::<Value>(&body).unwrap_or(Value::String(body));
    let refuses = answer.get("status").is_some() && answer.get("message").is_some();
    Ok(Heard {
        speaks: refuses || answer.get("nextContactTime").is_some() || server_type.is_some(),
        answer: json!({"status": status, "server_type": server_type, "body": answer}),
    })
}

/// The URL of an address: as it is, or with the scheme and path the wire has by custom.
fn base(address: &str, scheme: &str, path: &str) -> String {
    let address = address.trim_end_matches('/');
    let Some((_, rest)) = address.split_once("://") else {
        return format!("{scheme}://{address}/{path}");
    };
    if rest.contains('/') {
        address.to_owned()
    } else {
        format!("{address}/{path}")
    }
}

async fn get(url: &str) -> Result<(u16, Option<String>, String), CliError> {
    let url =
        reqwest::Url::parse(url).map_err(|e| CliError::usage(format!("{url} is no URL: {e}")))?;
    let http = client::builder()
        .tls_danger_accept_invalid_certs(true)
        .timeout(TIMEOUT)
        .build()
        .map_err(|e| CliError::failed(Code::INTERNAL, "cannot set up the HTTP client").cause(&e))?;
    let mut response = http
        .get(url.clone())
        .send()
        .await
        .map_err(|e| client::unreachable(&url, &e))?;
    let status = response.status().as_u16();
    let server_type = response
        .headers()
        .get("server-type")
        .and_then(|value| value.to_str().ok())
        .map(str::to_owned);
    let mut body = Vec::new();
    while let Some(chunk) = response
        .chunk()
        .await
        .map_err(|e| client::unreachable(&url, &e))?
    {
        body.extend_from_slice(&chunk);
        if body.len() > ANSWER_MAX {
            body.truncate(ANSWER_MAX);
            break;
        }
    }
    Ok((
        status,
        server_type,
        String::from_utf8_lossy(&body).into_owned(),
    ))
}

async fn connect(address: &str) -> Result<TcpStream, CliError> {
    let unreachable = |line: String| {
        CliError::new(
            Exit::Unreachable,
            Code::UNREACHABLE,
            format!("cannot reach {address}"),
        )
        .line(line)
    };
    tokio::time::timeout(TIMEOUT, TcpStream::connect(address))
        .await
        .map_err(|_| unreachable("no answer in time".to_owned()))?
        .map_err(|e| unreachable(e.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_becomes_the_url_of_its_wire() {
        for (address, url) in [
            ("h", "https://h/pscheduler"),
            ("h:8443", "https://h:8443/pscheduler"),
            ("http://h", "http://h/pscheduler"),
            ("https://h/pscheduler/", "https://h/pscheduler"),
            ("https://h/other", "https://h/other"),
        ] {
            assert_eq!(base(address, "https", "pscheduler"), url);
        }
    }
}
