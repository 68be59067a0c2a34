//! `muster kind list`.

use crate::cli::client::Client;
use crate::cli::error::CliError;
use crate::cli::output::{Column, Output, column};

const COLUMNS: &[Column] = &[
    column("kind", "kind"),
    column("class", "class"),
    column("agents", "agents"),
    column("description", "title"),
];

/// `muster kind list`.
pub(in crate::cli) async fn list(client: &Client, out: Output) -> Result<(), CliError> {
    out.list(COLUMNS, &client.list("kinds", &[]).await?)
}
