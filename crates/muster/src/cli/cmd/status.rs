//! `muster status`.

use serde_json::Value;

use crate::cli::client::Client;
use crate::cli::error::CliError;
use crate::cli::output::{self, Output};

/// `muster status`.
pub(in crate::cli) async fn status(client: &Client, out: Output) -> Result<(), CliError> {
    let status = client.get("status", &[]).await?;
    let base = client.base().to_string();
    out.object_as(&status, |status| render(status, &base))
}

/// One line for each thing that is counted, then the reconcilers.
fn render(status: &Value, base: &str) -> String {
    let mut text = format!(
        "muster {} at {base}, up since {}\n",
        output::clean(&output::cell(output::at(status, "version"))),
        output::clean(&output::cell(output::at(status, "started"))),
    );
    for noun in ["agents", "tasks", "runs", "hosts", "items"] {
        if let Some(counts) = status.get(noun).and_then(Value::as_object) {
            let parts: Vec<String> = counts
                .iter()
                .map(|(name, n)| format!("{n} {}", name.replace('_', " ")))
                .collect();
            let counted = if parts.is_empty() {
                "none".to_owned()
            } else {
                parts.join(", ")
            };
            text += &format!("{noun:<8} {}\n", output::clean(&counted));
        }
    }
    for one in status
        .get("reconcilers")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
    {
        let cell = |path: &str| output::clean(&output::cell(output::at(one, path)));
        text += &format!(
            "{:<8} ran {} times, last {}",
            cell("name"),
            cell("times"),
            cell("at")
        );
        text += &format!(", {} ms, moved {}", cell("duration_ms"), cell("moved"));
        if !output::at(one, "error").is_null() {
            text += &format!(", FAILED: {}", cell("error"));
        }
        text.push('\n');
    }
    for one in status
        .get("refusals")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
    {
        let cell = |path: &str| output::clean(&output::cell(output::at(one, path)));
        text += &format!(
            "refused  {} {} times on {} from {}: {}\n",
            cell("reason"),
            cell("times"),
            cell("wire"),
            cell("address"),
            cell("detail"),
        );
    }
    text
}
