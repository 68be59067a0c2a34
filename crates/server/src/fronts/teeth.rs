//! The teeth front: lasting lines of agents, over which due runs become commands and task reports
//! become news.
//!
//! A connection checks in at its handshake; the newest connection of an agent is its current one and
//! the only one that is given work (threat model, section 2). Runs are claimed while no call is
//! unanswered, as a run that was handed over and not begun would be handed over again. A positive
//! answer is the run's begin; `task_status` is progress and end. When the connection is lost, what
//! was offered and not begun is given back; what was begun goes on, as its reports name the run and
//! its offer and may come over any later connection.
//!
//! What agents may not do here: a connection without a handshake, or of an agent that may not work,
//! is answered politely and has no effect.

mod connection;
mod shared;
mod words;

use std::sync::Arc;
use std::time::Duration;

use muster_net::listen::{Accepted, PeerInfo};
use muster_net::tls::{HandshakeLimits, Inbound};
use muster_net::{DriveLimits, Listener, MemoryBudget, NetContext, drive, serve};
use muster_proto::teeth::Limits;
use muster_proto::teeth::controller::{self, Admission, IdleRule, Session};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::sync::CancellationToken;

use super::login::Attempts;
use crate::control::{Control, EnrolPolicy};
use connection::Connection;
use shared::Shared;

/// The front. Clones serve the same fleet.
#[derive(Clone)]
pub struct TeethFront {
    control: Control,
    limits: Limits,
    budget: MemoryBudget,
    logins: Arc<Attempts>,
    shared: Arc<Shared>,
}

impl TeethFront {
    /// A front with nobody connected.
    pub fn new(control: Control, limits: Limits, budget: MemoryBudget) -> Self {
        Self {
            control,
            limits,
            budget,
            logins: Arc::default(),
            shared: Arc::default(),
        }
    }

    /// How many agents have a current connection here.
    pub fn connected(&self) -> usize {
        self.shared.connected()
    }

    /// Serves a listener until `cancel`, then lets connections end within `drain`.
    pub async fn serve_listener(
        self,
        listener: Listener,
        context: NetContext,
        inbound: Inbound,
        cancel: CancellationToken,
        drain: Duration,
    ) {
        let stopping = cancel.clone();
        let handle = move |accepted| {
            let (front, inbound, cancel) = (self.clone(), inbound.clone(), stopping.clone());
            async move { front.accept(accepted, &inbound, cancel).await }
        };
        serve(listener, context, cancel, drain, handle).await;
    }

    /// Serves an accepted socket: protection first, then the protocol, until it ends or `cancel`.
    pub async fn accept(&self, accepted: Accepted, inbound: &Inbound, cancel: CancellationToken) {
        let Accepted {
            stream,
            mut peer,
            permit: _permit,
        } = accepted;
        let clock = self.control.clock().clone();
        let shaken = inbound.accept(stream, HandshakeLimits::default(), &clock);
        match shaken.await {
            Ok((stream, security)) => {
                peer.security = security;
                self.serve(stream, peer, cancel).await;
            }
            Err(error) => {
                self.note(&peer, "tls", "", &chain(&error));
            }
        }
    }

    /// Serves a stream that is ready for the protocol, until it ends or `cancel`.
    pub async fn serve<IO>(&self, io: IO, peer: PeerInfo, cancel: CancellationToken)
    where
        IO: AsyncRead + AsyncWrite + Send,
    {
        let settings = self.control.settings();
        let config = controller::Config {
            limits: self.limits.clone(),
            admission: match settings.enrol_policy {
                EnrolPolicy::Key => Admission::Required,
                EnrolPolicy::Approve | EnrolPolicy::Loopback => Admission::Open,
            },
            idle: if settings.teeth_close_without_ping {
                IdleRule::Close
            } else {
                IdleRule::Keepalive
            },
            server: concat!("muster/", env!("CARGO_PKG_VERSION")).to_owned(),
            endpoint: (peer.local.ip().to_string(), peer.local.port()),
        };
        let clock = self.control.clock().clone();
        let rng = Box::new(self.control.rng());
        let mut session = Session::new(config, rng, clock.instant());
        let mut connection = Connection::new(self, peer.clone());
        // Only who may work is known; the front raises nobody while the connection lives.
        let limits = DriveLimits {
            output_max: self.limits.output_bytes,
            budget: Some(self.budget.clone()),
            ..DriveLimits::default()
        };
        let driven = drive(io, &mut session, &mut connection, &clock, &limits, &cancel);
        if let Err(error) = driven.await {
            tracing::debug!(
                wire = "teeth", peer.address = %peer.remote,
                "connection broke: {}", chain(&error)
            );
        }
        connection.ended().await;
    }

    fn note(&self, peer: &PeerInfo, reason: &str, name: &str, detail: &str) {
        let wire = muster_core::agent::Wire::Teeth;
        self.control.refused(wire, peer.ip(), reason, name, detail);
    }
}

/// An error with its causes, for logs.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
