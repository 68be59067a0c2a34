//! The Zabbix front: proxies, active agents and senders on port 10051.
//!
//! One connection is one exchange. A frame is opened and read off the I/O threads when it is large;
//! one that could fill the memory goes to disk, one at a time. What is asked goes to `Control`; nothing is
//! decided here. Contract: Zabbix page; threats page, sections 2, 4 and 5.

mod answer;
mod declared;
mod digest;
mod large;
mod poll;

pub use poll::poll_agents;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use muster_core::agent::{AgentState, Wire};
use muster_net::drive::{Drain, DriveLimits, Handler, drive};
use muster_net::limit::MemoryBudget;
use muster_net::listen::{Accepted, Listener, NetContext, PeerInfo, serve};
use muster_net::tls::{HandshakeError, HandshakeLimits, Inbound};
use muster_proto::zabbix::Limits;
use muster_proto::zabbix::accepted::{Event, Session};
use muster_proto::zabbix::frame::{FrameError, Packet};
use muster_proto::zabbix::wire;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::control::{Control, ControlError};
use answer::{Answer, Spent};
use digest::{Ask, Bench, Refusal, digest};
use large::{Spooled, not_spooled};

/// Payloads up to this size are opened where they arrive.
const INLINE_BYTES: u64 = 1024 * 1024;

/// The front, shared by all connections.
#[derive(Clone)]
pub struct ZabbixFront {
    control: Control,
    limits: Arc<Limits>,
    known: KnownPeers,
    /// Payloads above the strangers' limit are taken one at a time.
    large: Arc<Semaphore>,
}

impl ZabbixFront {
    /// A front over `control`. Reads the addresses of approved peers.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn new(control: Control, limits: Limits) -> Result<Self, ControlError> {
        let known = KnownPeers::default();
        let mut after = None;
        loop {
            let page = control.agents(after, 1000).await?;
            for view in &page.rows {
                let agent = &view.agent;
                if agent.state == AgentState::Approved && agent.wires.contains(&Wire::Zabbix) {
                    agent
                        .address
                        .into_iter()
                        .for_each(|address| known.add(address));
                }
            }
            match page.next {
                Some(next) => after = Some(next),
                None => break,
            }
        }
        Ok(Self {
            control,
            limits: Arc::new(limits),
            known,
            large: Arc::new(Semaphore::new(1)),
        })
    }

    /// Serves a listener until `cancel`, plain or by `inbound`, then lets exchanges end.
    pub async fn serve(
        self,
        listener: Listener,
        context: NetContext,
        inbound: Inbound,
        cancel: CancellationToken,
        drain: Duration,
    ) {
        let inbound = Arc::new(inbound);
        let token = cancel.clone();
        let shared = context.clone();
        serve(listener, context, cancel, drain, move |accepted| {
            let (front, inbound) = (self.clone(), Arc::clone(&inbound));
            let (context, cancel) = (shared.clone(), token.clone());
            async move {
                front
                    .connection(accepted, &inbound, &context, &cancel)
                    .await
            }
        })
        .await;
    }

    async fn connection(
        &self,
        accepted: Accepted,
        inbound: &Inbound,
        context: &NetContext,
        cancel: &CancellationToken,
    ) {
        let Accepted {
            stream,
            mut peer,
            permit: _permit,
        } = accepted;
        let clock = &context.clock;
        let (stream, security) = match inbound
            .accept(stream, HandshakeLimits::default(), clock)
            .await
        {
            Ok(accepted) => accepted,
            // It connected, said nothing and went: nothing was refused.
            Err(HandshakeError::Gone(_)) => return,
            Err(error) => {
                let mut detail = error.to_string();
                if let Some(cause) = std::error::Error::source(&error) {
                    detail = format!("{detail}: {cause}");
                }
                self.refused(&peer, "handshake", "", &detail);
                return;
            }
        };
        peer.security = security;
        self.exchange(stream, &peer, context, cancel).await;
    }

    /// Serves one exchange over any stream.
    pub async fn exchange<IO>(
        &self,
        stream: IO,
        peer: &PeerInfo,
        context: &NetContext,
        cancel: &CancellationToken,
    ) where
        IO: AsyncRead + AsyncWrite + Send,
    {
        let clock = &context.clock;
        let known = self.known.has(peer.ip());
        let limits = drive_limits(&self.limits, known, &context.budget);
        let now = clock.instant();
        let mut session = Session::new(*self.limits, known, now).in_parts();
        let mut handler = Connection {
            front: self,
            peer,
            context,
            begun: now,
            spooled: None,
        };
        let end = drive(stream, &mut session, &mut handler, clock, &limits, cancel).await;
        if let Err(error) = end {
            tracing::debug!(peer.address = %peer.remote, "a Zabbix connection broke: {error}");
        }
    }

    /// Opens and reads a packet, off this thread when that takes long.
    async fn digest(&self, packet: Packet) -> Result<Ask, Refusal> {
        let small = packet.opened_len() <= INLINE_BYTES;
        let work = move |bench: &Bench<'_>| digest(packet, bench);
        if small {
            let index = self.control.item_index();
            return work(&Bench {
                limits: &self.limits,
                index: &index,
                now: self.control.clock().now(),
            });
        }
        self.bench(work).await
    }

    /// Does what needs the declared items and costs CPU, off the I/O threads.
    async fn bench<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Bench<'_>) -> Result<T, Refusal> + Send + 'static,
    ) -> Result<T, Refusal> {
        let (limits, index) = (Arc::clone(&self.limits), self.control.item_index());
        let now = self.control.clock().now();
        self.off_thread(move || {
            work(&Bench {
                limits: &limits,
                index: &index,
                now,
            })
        })
        .await
    }

    async fn off_thread<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, Refusal> + Send + 'static,
    ) -> Result<T, Refusal> {
        let done = self.control.clock().off_thread(work).await;
        done.unwrap_or_else(|| {
            Err(Refusal::Say {
                reason: "bug",
                info: "internal error".to_owned(),
            })
        })
    }

    fn refused(&self, peer: &PeerInfo, reason: &str, name: &str, detail: &str) {
        self.control
            .refused(Wire::Zabbix, peer.ip(), reason, name, detail);
    }
}

fn drive_limits(limits: &Limits, known: bool, budget: &MemoryBudget) -> DriveLimits {
    let peer = limits.of(known);
    DriveLimits {
        // One reply; a whole configuration may be as long as a frame.
        output_max: usize::try_from(limits.known.frame_bytes_max).unwrap_or(usize::MAX),
        write_stall: peer.reply_time,
        after_eof: limits.answer_time,
        budget: (!known).then(|| budget.clone()),
        ..DriveLimits::default()
    }
}

struct Connection<'a> {
    front: &'a ZabbixFront,
    peer: &'a PeerInfo,
    context: &'a NetContext,
    begun: Instant,
    /// A payload too large for memory, as far as it has come.
    spooled: Option<Spooled>,
}

impl Connection<'_> {
    /// Adds a part to the payload on disk.
    async fn spool(&mut self, part: Vec<u8>) -> std::io::Result<()> {
        let clock = &self.context.clock;
        let spooled = match self.spooled.take() {
            Some(spooled) => spooled,
            None => {
                let turn = Arc::clone(&self.front.large).acquire_owned().await;
                let turn = turn.map_err(std::io::Error::other)?;
                let settings = self.front.control.settings();
                let folder = settings.spool.as_deref().ok_or_else(|| {
                    std::io::Error::other("no folder is set aside for large payloads")
                })?;
                Spooled::create(folder, turn, clock).await?
            }
        };
        self.spooled = Some(spooled.append(part, clock).await?);
        Ok(())
    }

    /// What is answered to a packet, large or small.
    async fn taken(&mut self, packet: Packet) -> Result<Answer, Refusal> {
        let front = self.front;
        let spent = Spent {
            clock: &self.context.clock,
            since: self.begun,
        };
        if !front.limits.is_large(&packet.header) {
            let ask = front.digest(packet).await?;
            return Ok(front.answer(ask, self.peer, spent).await);
        }
        let Packet { header, body } = packet;
        if !front.known.has(self.peer.ip()) {
            // Small on the wire, large inside: not from a stranger.
            let limit = front.limits.stranger.inflated_bytes_max;
            let declared = header.opened_len();
            return Err(Refusal::Drop(FrameError::TooLong { declared, limit }));
        }
        self.spool(body)
            .await
            .map_err(|error| not_spooled(&error))?;
        match self.spooled.take() {
            Some(spooled) => front.large_upload(spooled, header, self.peer, spent).await,
            None => Err(not_spooled(&std::io::Error::other("it is gone"))),
        }
    }
}

impl Handler<Session> for Connection<'_> {
    type Wake = std::convert::Infallible;

    async fn on_event(&mut self, session: &mut Session, event: Event, _now: Instant) {
        match event {
            Event::Part(part) => {
                if let Err(error) = self.spool(part).await
                    && let Refusal::Say { reason, info } = not_spooled(&error)
                {
                    // There is no answering before the request is complete.
                    self.front.refused(self.peer, reason, "", &info);
                    session.close();
                }
            }
            Event::Request(packet) => {
                let taken = self.taken(packet).await;
                let now = self.context.clock.instant();
                match taken {
                    Ok(Answer::Text(text)) => session.reply(text, now),
                    Ok(Answer::Nothing) => session.close(),
                    Err(Refusal::Drop(error)) => session.refuse(error),
                    Err(Refusal::Say { reason, info }) => {
                        self.front.refused(self.peer, reason, "", &info);
                        session.reply(wire::failed(&info), now);
                    }
                }
            }
            // This front listens for no word about its replies.
            Event::Word(_) => {}
            Event::Closed(reason) => {
                if reason.is_refusal() {
                    let detail = match std::error::Error::source(&reason) {
                        Some(cause) => format!("{reason}: {cause}"),
                        None => reason.to_string(),
                    };
                    self.front.refused(self.peer, reason.label(), "", &detail);
                } else if session.has_surplus() {
                    self.front
                        .refused(self.peer, "surplus", "", "bytes followed the request");
                }
            }
        }
    }

    async fn on_drain(&mut self, _session: &mut Session, _now: Instant) -> Drain {
        Drain::Finish
    }
}

/// Addresses of approved proxies and agents. The name comes only with the JSON, so until it is read
/// the address decides about limits (threats page, section 4).
#[derive(Clone, Debug, Default)]
struct KnownPeers {
    addresses: Arc<Mutex<BTreeSet<IpAddr>>>,
}

impl KnownPeers {
    fn add(&self, address: IpAddr) {
        let mut addresses = self
            .addresses
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        addresses.insert(address.to_canonical());
    }

    fn has(&self, address: IpAddr) -> bool {
        let addresses = self
            .addresses
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        addresses.contains(&address.to_canonical())
    }
}
