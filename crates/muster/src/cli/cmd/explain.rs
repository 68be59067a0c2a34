//! `muster explain`: the recorded chain, one line a step, a verdict, one next action.

use std::fmt::Write as _;

use clap::ValueEnum as _;
use serde_json::Value;

use crate::cli::args::ExplainArgs;
use crate::cli::client::{Client, path};
use crate::cli::error::CliError;
use crate::cli::output::{self, Output, Style};

/// `muster explain`.
pub(in crate::cli) async fn explain(
    client: &Client,
    out: Output,
    args: ExplainArgs,
) -> Result<(), CliError> {
    let noun = args.noun.to_possible_value();
    let noun = noun.as_ref().map_or("run", |noun| noun.get_name());
    let story = client.get(&path(&["explain", noun, &args.id]), &[]).await?;
    out.object_as(&story, |story| render(story, out.style))
}

/// The walk for a person. Every step says whether it held; what is open has a dot.
fn render(story: &Value, style: Style) -> String {
    let text = |path: &str| output::clean(&output::cell(output::at(story, path)));
    let mut page = format!(
        "{} {} ({})\n",
        text("subject.kind"),
        text("subject.name"),
        text("subject.id")
    );
    let steps = story.get("steps").and_then(Value::as_array);
    for step in steps.into_iter().flatten() {
        let mark = match step.get("ok").and_then(Value::as_bool) {
            Some(true) => style.good("ok"),
            Some(false) => style.bad("NO"),
            None => " .".to_owned(),
        };
        let at = step.get("at").and_then(Value::as_str).unwrap_or("");
        let _ = writeln!(
            page,
            "  {mark}  {:<12} {}{}",
            output::clean(&output::cell(output::at(step, "check"))),
            output::clean(&output::cell(output::at(step, "detail"))),
            if at.is_empty() {
                String::new()
            } else {
                format!("  ({})", output::clean(at))
            },
        );
    }
    let _ = writeln!(page, "{}", text("verdict"));
    if !output::at(story, "next").is_null() {
        let _ = writeln!(page, "  next: {}", text("next"));
    }
    page
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_story_ends_in_one_next_action() {
        let story = json!({
            "subject": {"kind": "run", "id": "7f", "name": "netdiscovery"},
            "steps": [
                {"at": "2026-01-01T00:00:00Z", "check": "enabled", "ok": true, "detail": "task is active"},
                {"at": null, "check": "capable", "ok": false, "detail": "lab-7 said\u{1b}[2J: inventory"},
                {"at": null, "check": "lease", "ok": null, "detail": "never offered"},
            ],
            "verdict": "no agent can do it",
            "next": "install the module",
        });
        assert_eq!(
            render(&story, Style::PLAIN),
            "run netdiscovery (7f)\n\
             \x20 ok  enabled      task is active  (2026-01-01T00:00:00Z)\n\
             \x20 NO  capable      lab-7 said\\u{1b}[2J: inventory\n\
             \x20  .  lease        never offered\n\
             no agent can do it\n\
             \x20 next: install the module\n"
        );
    }
}
