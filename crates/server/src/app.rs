//! The running application: fronts on their listeners, the admin API, the reconcilers.
//!
//! It joins what the other modules are; nothing is decided here. Sockets were bound by `muster-net`,
//! and it is the one that reads them.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::routing::get_service;
use muster_core::agent::Wire;
use muster_core::credential::Secret;
use muster_net::http::{HttpLimits, HttpServer, serve_http};
use muster_net::tls::{HandshakeLimits, Inbound};
use muster_net::{
    DriveLimits, GateLimits, Listener, MemoryBudget, NetContext, PeerInfo, Refusals, Security,
};
use serde_json::Value;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt as _;

use crate::control::{Control, ControlError, Result, Trouble};
use crate::fronts::admin::{self, Admin, LimitView};
use crate::fronts::teeth::TeethFront;
use crate::fronts::zabbix::{ZabbixFront, poll_agents};
use crate::fronts::{fusion, pscheduler};
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
    router: Router,
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
/// The longest answer to [`App::ask`].
const ANSWER_MAX: usize = 64 << 20;

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
        let zabbix =
            ZabbixFront::new(control.clone(), muster_proto::zabbix::Limits::default()).await?;
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
        if let Some(listener) = listeners.zabbix {
            let inbound = protections.zabbix;
            fronts.spawn(zabbix.serve(listener, context.clone(), inbound, cancel.clone(), DRAIN));
        }
        let limits = muster_proto::teeth::Limits::default();
        let teeth = TeethFront::new(control.clone(), limits, context.budget.clone());
        for (listener, inbound) in [
            (listeners.teeth, Inbound::Plain),
            (listeners.teeths, protections.tls),
        ] {
            let Some(listener) = listener else { continue };
            let (context, cancel) = (context.clone(), cancel.clone());
            let serving = teeth.clone();
            fronts.spawn(serving.serve_listener(listener, context, inbound, cancel, DRAIN));
        }
        jobs.spawn(poll_agents(control.clone(), stop_jobs.clone()));
        fronts.close();
        jobs.close();
        Ok(Self {
            control: AppControl(control.clone()),
            statuses,
            router,
            fronts,
            jobs,
            stop_jobs,
        })
    }

    /// The reconcilers' last activations.
    pub fn statuses(&self) -> &Statuses {
        &self.statuses
    }

    /// What the admin API answers to a GET of `path`, which begins below `/api/v1`, for who lives in the
    /// same process and holds `token`.
    ///
    /// # Errors
    /// What the API refuses, in its own words.
    pub async fn ask(&self, path: &str, token: &Secret) -> Result<Value> {
        let here = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let peer = PeerInfo {
            remote: here,
            local: here,
            listener: "http",
            security: Security::Plain,
        };
        let request = http::Request::get(format!("/api/v1{path}"))
            .header(
                http::header::AUTHORIZATION,
                format!("Bearer {}", token.expose()),
            )
            .extension(peer)
            .body(Body::empty())
            .map_err(|error| {
                ControlError::invalid("BAD_PATH", format!("{path:?} is no path")).caused_by(error)
            })?;
        let response = match self.router.clone().oneshot(request).await {
            Ok(response) => response,
            Err(never) => match never {},
        };
        let status = response.status();
        let body = axum::body::to_bytes(response.into_body(), ANSWER_MAX).await;
        let answer = body.map_err(|error| {
            ControlError::new(Trouble::Bug, "INTERNAL", "the API's answer broke off")
                .caused_by(error)
        })?;
        let answer: Value = serde_json::from_slice(&answer).unwrap_or_default();
        if status.is_success() {
            return Ok(answer);
        }
        let title = answer
            .get("title")
            .and_then(Value::as_str)
            .unwrap_or("no answer")
            .to_owned();
        Err(ControlError::new(
            Trouble::Refused,
            "API_REFUSED",
            format!("GET {path}: {status}: {title}"),
        ))
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
pub fn router(control: &Control, statuses: &Statuses, hostname: &str) -> Router {
    let admin = Admin::new(control.clone(), statuses.clone(), limits());
    let console = get_service(admin::console_router(admin.clone()));
    admin::router(admin)
        .merge(fusion::router(control.clone(), console))
        .merge(pscheduler::router(
            control.clone(),
            statuses.clone(),
            hostname,
        ))
}

/// The bounds of all listeners and wires, for `GET /api/v1/limits`.
fn limits() -> Vec<LimitView> {
    let gate = GateLimits::default();
    let http = HttpLimits::default();
    let drive = DriveLimits::default();
    let shake = HandshakeLimits::default();
    let tasks = muster_proto::pscheduler::wire::Limits::default();
    let teeth = muster_proto::teeth::Limits::default();
    let count = |name, value: usize| LimitView::new(name, value);
    let time = |name, value: Duration| LimitView::new(name, value.as_secs_f64());
    vec![
        count("listener.connections", gate.connections),
        count(
            "listener.connections_per_address",
            gate.connections_per_address,
        ),
        LimitView::new("listener.new_connections_per_second", gate.rate_per_second),
        LimitView::new("listener.new_connections_burst", gate.burst),
        count("listener.stranger_bytes", MemoryBudget::DEFAULT_BYTES),
        time("listener.first_byte_seconds", shake.first_byte),
        time("listener.handshake_seconds", shake.handshake),
        count("http.head_bytes", http.head_bytes),
        count("http.headers", http.headers),
        count("http.target_bytes", http.target_bytes),
        time("http.head_seconds", http.head),
        time("http.body_idle_seconds", http.body_idle),
        time("http.body_seconds", http.body),
        time("http.keep_alive_seconds", http.keep_alive),
        LimitView::new("http.requests_per_connection", http.requests),
        time("stream.write_stall_seconds", drive.write_stall),
        time("stream.after_eof_seconds", drive.after_eof),
        count("stream.output_bytes", drive.output_max),
        count("teeth.line_bytes", teeth.line_bytes),
        count("teeth.depth", teeth.depth),
        count("teeth.output_bytes", teeth.output_bytes),
        count("teeth.unanswered_calls", teeth.calls),
        time("teeth.call_age_seconds", teeth.call_age),
        time("teeth.idle_seconds", teeth.idle),
        time("teeth.handshake_seconds", teeth.handshake),
        count("teeth.handshake_bytes", teeth.handshake_bytes),
        LimitView::new("teeth.log_lines_per_second", teeth.log_lines_per_second),
        count("pscheduler.body_bytes", tasks.body_bytes_max),
        count("pscheduler.task_bytes", tasks.task_bytes_max),
        count("pscheduler.query_parameters", tasks.parameters_max),
        LimitView::new("pscheduler.wait_seconds", tasks.wait_secs_max),
        LimitView::new("pscheduler.runs_per_task", tasks.runs_max),
        LimitView::new("pscheduler.duration_seconds", tasks.duration_max.secs_up()),
    ]
}
