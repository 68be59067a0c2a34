//! The OpenAPI 3.1 document of the admin API.

use std::sync::OnceLock;

use axum::response::{IntoResponse as _, Response};
use http::{HeaderValue, header};
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityScheme};
use utoipa::{Modify, OpenApi};

use super::problem::ProblemBody;
use super::{fleet, runs, server, tasks, watch};

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
        fleet::show_item, fleet::history, runs::list_runs, runs::run_result, server::explain,
        server::limits, server::list_kinds, server::status, tasks::cancel_task, tasks::create_task,
        tasks::list_tasks, tasks::show_task, watch::show_run,
    ),
    components(schemas(ProblemBody))
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
