//! The running application: fronts on their listeners, the admin API, the reconcilers.
//!
//! It joins what the other modules are; nothing is decided here. Sockets were bound by `muster-net`,
//! and it is the one that reads them.

use std::time::Duration;

use axum::Router;
use muster_core::agent::Wire;
use muster_net::http::{HttpServer, serve_http};
use muster_net::tls::Inbound;
use muster_net::{Listener, NetContext, Refusals};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::control::{Control, Result};
use crate::reconcile::{self, Statuses};

/// Bound listeners; those turned off are absent.
#[derive(Debug, Default)]
pub struct Listeners {
    /// Plain HTTP.
    pub http: Option<Listener>,
    /// HTTPS.
    pub https: Option<Listener>,
    /// Plain teeth lines.
    pub teeth: Option<Listener>,
    /// teeth over TLS.
    pub teeths: Option<Listener>,
    /// Zabbix, plain or TLS.
    pub zabbix: Option<Listener>,
}

/// How the listeners with TLS are protected.
#[derive(Clone)]
pub struct Protections {
    /// For `https` and `teeths`.
    pub tls: Inbound,
    /// For `zabbix`.
    pub zabbix: Inbound,
}

/// Everything that runs.
#[derive(Debug)]
pub struct App {
    control: AppControl,
    statuses: Statuses,
    fronts: TaskTracker,
    jobs: TaskTracker,
    stop_jobs: CancellationToken,
}

/// `Control` without its Debug.
struct AppControl(Control);

impl std::fmt::Debug for AppControl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Control")
    }
}

/// How long exchanges in hand may take once the process stops.
const DRAIN: Duration = Duration::from_secs(5);

/// What listeners share. Their refusals go to `control`, which counts and keeps them.
pub fn net_context(control: &Control) -> NetContext {
    let refused = control.clone();
    let refusals = Refusals::with_sink(move |refusal| {
        let wire = match refusal.wire {
            "teeth" | "teeths" => Wire::Teeth,
            "zabbix" => Wire::Zabbix,
            // The HTTP wires arrive on one listener and cannot be told apart before a head is read.
            _ => Wire::Fusion,
        };
        refused.refused(wire, refusal.peer, refusal.reason, "", &refusal.detail);
    });
    NetContext {
        refusals,
        ..NetContext::new(control.clock().clone())
    }
}

impl App {
    /// Starts reconcilers and fronts. `hostname` is what this machine calls itself. Cancelling `cancel`
    /// drains; see [`App::drained`].
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn start(
        control: &Control,
        listeners: Listeners,
        protections: Protections,
        hostname: &str,
        cancel: &CancellationToken,
    ) -> Result<Self> {
        let context = net_context(control);
        let (fronts, jobs) = (TaskTracker::new(), TaskTracker::new());
        let stop_jobs = CancellationToken::new();
        let statuses = reconcile::spawn_all(control, &jobs, &stop_jobs);
        let router = router(control, &statuses, hostname);
        let https = Some(protections.tls.clone());
        for (listener, inbound) in [
            (listeners.http, Some(Inbound::Plain)),
            (listeners.https, https),
        ] {
            let (Some(listener), Some(inbound)) = (listener, inbound) else {
                continue;
            };
            let server = HttpServer {
                drain: DRAIN,
                ..HttpServer::new(context.clone(), inbound)
            };
            fronts.spawn(serve_http(listener, server, router.clone(), cancel.clone()));
        }
        fronts.close();
        jobs.close();
        Ok(Self {
            control: AppControl(control.clone()),
            statuses,
            fronts,
            jobs,
            stop_jobs,
        })
    }

    /// The reconcilers' last activations.
    pub fn statuses(&self) -> &Statuses {
        &self.statuses
    }

    /// Returns when everything has ended after the token was cancelled: fronts first, as what they
    /// finish may need the reconcilers; then those; then what was counted is written.
    ///
    /// # Errors
    /// When the last write fails; what peers were told is durable all the same.
    pub async fn drained(self) -> Result<()> {
        self.fronts.wait().await;
        self.stop_jobs.cancel();
        self.jobs.wait().await;
        self.control.0.flush_refusals().await?;
        Ok(())
    }
}

/// All HTTP wires, the admin API and the console.
pub fn router(_control: &Control, _statuses: &Statuses, _hostname: &str) -> Router {
    Router::new()
}
