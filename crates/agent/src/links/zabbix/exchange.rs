//! One dialled exchange: a request out, a reply back.

use std::time::Duration;

use muster_net::Clock;
use muster_net::dial::DialError;
use muster_net::drive::{DriveError, DriveLimits, OnEvent, drive};
use muster_net::tls::BoxStream;
use muster_proto::zabbix::Limits;
use muster_proto::zabbix::agent::{CloseReason, Event, Form, Session};
use muster_proto::zabbix::config::ConfigError;
use muster_proto::zabbix::frame::{FrameError, Packet};
use muster_proto::zabbix::wire::{OpenError, Payload, Reject};
use muster_store::StoreError;
use tokio_util::sync::CancellationToken;

/// Why an exchange came to nothing.
#[derive(Debug, thiserror::Error)]
pub(super) enum ExchangeError {
    #[error("the connection ended early")]
    Closed(#[source] CloseReason),
    #[error("the configuration cannot be used")]
    Config(#[source] ConfigError),
    #[error(transparent)]
    Dial(#[from] DialError),
    #[error("the connection broke")]
    Drive(#[source] DriveError),
    #[error("the request cannot be written")]
    Encode(#[source] serde_json::Error),
    #[error("the request is too long")]
    Frame(#[source] FrameError),
    #[error("the connection gave no reply")]
    Nothing,
    #[error("the reply cannot be opened")]
    Open(#[source] OpenError),
    #[error("the server refused: {0}")]
    Refused(String),
    #[error("the reply makes no sense")]
    Reply(#[source] Reject),
    #[error("the spool failed")]
    Spool(#[source] StoreError),
}

/// Sends `payload` and gives the checked reply.
pub(super) async fn exchange(
    stream: BoxStream,
    payload: &str,
    form: Form,
    patience: Duration,
    limits: &Limits,
    clock: &Clock,
) -> Result<Payload, ExchangeError> {
    let packet = packet(stream, payload.as_bytes(), form, patience, limits, clock).await?;
    let limits = *limits;
    let open = move || Payload::open(packet, &limits, &limits.known);
    // A reply may be a whole configuration.
    let opened = clock.off_thread(open).await;
    opened
        .ok_or(ExchangeError::Nothing)?
        .map_err(ExchangeError::Open)
}

/// Sends `payload` and gives the reply's frame.
pub(super) async fn packet(
    stream: BoxStream,
    payload: &[u8],
    form: Form,
    patience: Duration,
    limits: &Limits,
    clock: &Clock,
) -> Result<Packet, ExchangeError> {
    let mut session = Session::new(payload, form, limits, patience, clock.instant())
        .map_err(ExchangeError::Frame)?;
    let mut outcome = Err(ExchangeError::Nothing);
    let driving = DriveLimits {
        output_max: usize::MAX,
        write_stall: limits.known.reply_time,
        ..DriveLimits::default()
    };
    let never = CancellationToken::new();
    let mut handler = OnEvent(|_: &mut Session, event, _| {
        outcome = match event {
            Event::Reply(packet) => Ok(packet),
            Event::Closed(reason) => Err(ExchangeError::Closed(reason)),
        };
    });
    let end = drive(stream, &mut session, &mut handler, clock, &driving, &never).await;
    match (outcome, end) {
        (Err(ExchangeError::Nothing), Err(error)) => Err(ExchangeError::Drive(error)),
        (outcome, _) => outcome,
    }
}
