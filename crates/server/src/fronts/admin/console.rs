//! The console's place at `/`: a plain status page.
//!
//! It shows counts only, takes nothing, runs no script, and carries no word of a peer.

use std::fmt::Write as _;

use axum::extract::State;
use axum::response::Html;

use super::Admin;
use super::problem::Problem;

/// `GET /`.
pub(super) async fn page(State(admin): State<Admin>) -> Result<Html<String>, Problem> {
    let mut rows = String::new();
    for (name, count) in admin.control.counts().await? {
        // The names are ours and hold no markup; peers' words are not shown here at all.
        let _ = writeln!(
            rows,
            "<tr><th scope=\"row\">{}</th><td>{count}</td></tr>",
            name.replace('.', " ")
        );
    }
    Ok(Html(format!(
        "<!doctype html>\n<html lang=\"en\">\n<head><meta charset=\"utf-8\"><title>Muster</title></head>\n\
         <body>\n<h1>Muster {}</h1>\n<p>Up since {}.</p>\n<table>\n{rows}</table>\n\
         <p>The command line is <code>muster</code>; the API is described at \
         <a href=\"/api/v1/openapi.json\">/api/v1/openapi.json</a>.</p>\n</body>\n</html>\n",
        env!("CARGO_PKG_VERSION"),
        admin.control.started(),
    )))
}
