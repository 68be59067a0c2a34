//! The admin API under `/api/v1`, the pages for monitoring, and the console's placeholder.
//!
//! Everything the command line does goes through here. A handler translates: JSON to what
//! [`Control`] takes, what it gives to the objects of the surface page, its errors to problem
//! bodies. Nothing is decided here but who may ask.
//!
//! **Invariant:** what is secret goes in and never comes out.

mod auth;
mod console;
mod fleet;
mod json;
mod metrics;
mod openapi;
mod page;
mod problem;
mod runs;
mod server;
mod tasks;
mod views;
mod watch;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use axum::Router;
use axum::extract::Request;
use axum::middleware::{self, Next};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{MethodRouter, delete, get, post};
use http::{HeaderValue, StatusCode, header};
use muster_proto::json::JsonLimits;

use crate::control::{Control, Role};
use crate::fronts::login;
use crate::reconcile::Statuses;

pub use json::BODY_BYTES_MAX;
pub use page::{PAGE_DEFAULT, PAGE_MAX};
pub use problem::{Problem, ProblemBody};

/// What handlers share.
#[derive(Clone)]
pub struct Admin {
    control: Control,
    reconcilers: Statuses,
    limits: Arc<Vec<LimitView>>,
    failures: Arc<login::Attempts>,
    refusals: Arc<metrics::Refusals>,
}

/// One limit of the server, for `GET /api/v1/limits`.
#[derive(Clone, Debug, serde::Serialize, utoipa::ToSchema)]
pub struct LimitView {
    /// What is limited: `http.body_bytes`, `zabbix.stranger.frame_bytes_max`, ...
    pub name: String,
    /// How much is allowed.
    #[schema(value_type = Value)]
    pub value: serde_json::Value,
}

impl LimitView {
    /// A limit by name.
    pub fn new(name: impl Into<String>, value: impl Into<serde_json::Value>) -> Self {
        Self {
            name: name.into(),
            value: value.into(),
        }
    }
}

impl Admin {
    /// The admin API of an application. `limits` are those of the wires and listeners; its own are
    /// added.
    pub fn new(control: Control, reconcilers: Statuses, mut limits: Vec<LimitView>) -> Self {
        let json = JsonLimits::default();
        limits.extend([
            LimitView::new("admin.body_bytes", BODY_BYTES_MAX),
            LimitView::new("admin.json_depth", json.depth_max),
            LimitView::new("admin.json_members", json.members_max),
            LimitView::new("admin.page_items", PAGE_MAX),
            LimitView::new("admin.history_samples", fleet::SAMPLES_MAX),
            LimitView::new("admin.wait_seconds", watch::WAIT_MAX.as_secs()),
            LimitView::new("admin.failed_logins_per_minute", login::FAILURES_MAX),
        ]);
        limits.sort_by(|a, b| a.name.cmp(&b.name));
        Self {
            control,
            reconcilers,
            limits: Arc::new(limits),
            failures: Arc::default(),
            refusals: Arc::default(),
        }
    }
}

/// One route of the API: what the OpenAPI document must list, and who may use it.
struct Route {
    #[cfg_attr(
        not(test),
        expect(
            dead_code,
            reason = "for the test that compares routes with the document"
        )
    )]
    method: &'static str,
    path: &'static str,
    role: Role,
    handler: MethodRouter<Admin>,
}

fn route(
    method: &'static str,
    path: &'static str,
    role: Role,
    handler: MethodRouter<Admin>,
) -> Route {
    Route {
        method,
        path,
        role,
        handler,
    }
}

/// Every route that needs a token. Paths are below `/api/v1`.
fn routes() -> Vec<Route> {
    use Role::{Admin as A, Operator as O, Viewer as V};
    vec![
        route("get", "/agents", V, get(fleet::list_agents)),
        route("get", "/agents/{agent}", V, get(fleet::show_agent)),
        route("delete", "/agents/{agent}", O, delete(fleet::remove_agent)),
        route(
            "post",
            "/agents/{agent}/approve",
            O,
            post(fleet::approve_agent),
        ),
        route(
            "post",
            "/agents/{agent}/disable",
            O,
            post(fleet::disable_agent),
        ),
        route("get", "/enrolment-keys", A, get(fleet::list_keys)),
        route("post", "/enrolment-keys", A, post(fleet::create_key)),
        route("get", "/explain/{noun}/{name}", V, get(server::explain)),
        route("get", "/hosts", V, get(fleet::list_hosts)),
        route("post", "/hosts", O, post(fleet::create_host)),
        route("get", "/hosts/{host}", V, get(fleet::show_host)),
        route("get", "/items", V, get(fleet::list_items)),
        route("post", "/items", O, post(fleet::create_item)),
        route("get", "/items/{item}", V, get(fleet::show_item)),
        route("get", "/items/{item}/history", V, get(fleet::history)),
        route("get", "/kinds", V, get(server::list_kinds)),
        route("get", "/limits", V, get(server::limits)),
        route("get", "/runs", V, get(runs::list_runs)),
        route("get", "/runs/{run}", V, get(watch::show_run)),
        route("get", "/runs/{run}/result", V, get(runs::run_result)),
        route("get", "/status", V, get(server::status)),
        route("get", "/tasks", V, get(tasks::list_tasks)),
        route("post", "/tasks", O, post(tasks::create_task)),
        route("get", "/tasks/{task}", V, get(tasks::show_task)),
        route("post", "/tasks/{task}/cancel", O, post(tasks::cancel_task)),
    ]
}

/// The admin API and the pages for monitoring.
pub fn router(admin: Admin) -> Router {
    let mut api = Router::new();
    for Route {
        path,
        role,
        handler,
        ..
    } in routes()
    {
        let gate = middleware::from_fn_with_state((admin.clone(), role), auth::require);
        api = api.route(path, handler.route_layer(gate));
    }
    let api = api
        .route("/openapi.json", get(openapi::serve))
        .fallback(unknown_path)
        .method_not_allowed_fallback(unknown_method);
    Router::new()
        .nest("/api/v1", api)
        .route("/metrics", get(metrics::serve))
        .route("/healthz", get(metrics::healthz))
        .route("/readyz", get(metrics::readyz))
        .layer(middleware::from_fn(safe_headers))
        .with_state(admin)
}

/// The console's place: a plain status page at `/`.
pub fn console_router(admin: Admin) -> Router {
    Router::new()
        .route("/", get(console::page))
        .layer(middleware::from_fn(safe_headers))
        .with_state(admin)
}

async fn unknown_path(request: Request) -> Problem {
    // The router has taken the base off.
    let shown: String = format!("/api/v1{}", request.uri().path())
        .chars()
        .take(128)
        .collect();
    Problem::new(
        StatusCode::NOT_FOUND,
        "PATH_NOT_FOUND",
        format!("there is nothing at {shown:?}"),
    )
    .next("GET /api/v1/openapi.json lists what there is")
}

async fn unknown_method(request: Request) -> Problem {
    Problem::new(
        StatusCode::METHOD_NOT_ALLOWED,
        "METHOD_NOT_ALLOWED",
        format!("{} is not for this path", request.method()),
    )
    .next("GET /api/v1/openapi.json lists what there is")
}

/// Headers that keep a browser from doing more than it was asked (threat model, section 6).
async fn safe_headers(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await.into_response();
    let headers = response.headers_mut();
    for (name, value) in [
        (
            header::CONTENT_SECURITY_POLICY,
            "default-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
        ),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-store"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}
