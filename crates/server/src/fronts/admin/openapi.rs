//! The OpenAPI 3.1 document of the admin API.

use std::sync::OnceLock;

use axum::response::{IntoResponse as _, Response};
use http::{HeaderValue, header};
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityScheme};
use utoipa::{Modify, OpenApi};

use super::{fleet, watch, work};

#[derive(OpenApi)]
#[openapi(
    info(title = "Muster admin API", description = "Everything the command line does."),
    servers((url = "/api/v1")),
    security(("token" = [])),
    modifiers(&Token),
    tags(
        (name = "fleet", description = "Agents, enrolment keys, hosts and items"),
        (name = "server", description = "The server itself"),
        (name = "work", description = "Tasks, runs and explanations"),
    ),
    paths(
        fleet::list_agents, fleet::show_agent, fleet::remove_agent, fleet::approve_agent,
        fleet::disable_agent, fleet::list_keys, fleet::create_key, fleet::list_hosts,
        fleet::create_host, fleet::show_host, fleet::list_items, fleet::create_item,
        fleet::show_item, fleet::history, watch::show_run, work::list_kinds, work::limits,
        work::list_runs, work::run_result, work::status, work::list_tasks, work::create_task,
        work::show_task, work::cancel_task, work::explain,
    )
)]
pub(super) struct Document;

struct Token;

impl Modify for Token {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        let components = document.components.get_or_insert_default();
        let scheme = SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer));
        components.add_security_scheme("token", scheme);
    }
}

/// `GET /api/v1/openapi.json`; it says nothing about this server and needs no token.
pub(super) async fn serve() -> Response {
    static TEXT: OnceLock<String> = OnceLock::new();
    let text = TEXT.get_or_init(|| Document::openapi().to_json().unwrap_or_default());
    let mut response = text.as_str().into_response();
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    response
}
