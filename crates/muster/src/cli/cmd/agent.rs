//! `muster agent list|show|approve|disable|remove` and `agent key create`.

use serde_json::{Value, json};

use crate::cli::args::{AgentCommand, KeyCommand, KeyCreateArgs};
use crate::cli::client::{Client, path};
use crate::cli::error::{CliError, Code};
use crate::cli::output::{Column, Output, column};

const COLUMNS: &[Column] = &[
    column("name", "name"),
    column("state", "state"),
    column("online", "online"),
    column("wires", "wires"),
    column("software", "software"),
    column("version", "version"),
    column("capabilities", "capabilities"),
    column("address", "address"),
    column("last_seen", "last_seen"),
    column("id", "id"),
];

/// Runs one of the commands that need a server.
pub(in crate::cli) async fn run(
    client: &Client,
    out: Output,
    command: AgentCommand,
) -> Result<(), CliError> {
    match command {
        AgentCommand::List => out.list(COLUMNS, &client.list("agents", &[]).await?),
        AgentCommand::Show(args) => {
            out.object(&client.get(&path(&["agents", &args.name]), &[]).await?)
        }
        AgentCommand::Approve(args) => each(client, out, &args.names, Verb::Approve).await,
        AgentCommand::Disable(args) => each(client, out, &args.names, Verb::Disable).await,
        AgentCommand::Remove(args) => each(client, out, &args.names, Verb::Remove).await,
        AgentCommand::Key(KeyCommand::Create(args)) => create_key(client, out, args).await,
        AgentCommand::Run(_) => Err(CliError::failed(
            Code::INTERNAL,
            "`agent run` is no command of the admin API",
        )),
    }
}

#[derive(Clone, Copy)]
enum Verb {
    Approve,
    Disable,
    Remove,
}

/// Does the verb to every agent named; all are tried, the first failure is told.
async fn each(client: &Client, out: Output, names: &[String], verb: Verb) -> Result<(), CliError> {
    let mut done: Vec<Value> = Vec::new();
    let mut failure: Option<CliError> = None;
    for name in names {
        let result = match verb {
            Verb::Approve => {
                client
                    .post(&path(&["agents", name, "approve"]), &json!({}))
                    .await
            }
            Verb::Disable => {
                client
                    .post(&path(&["agents", name, "disable"]), &json!({}))
                    .await
            }
            Verb::Remove => client.delete(&path(&["agents", name])).await,
        };
        match result {
            Ok(agent) => done.push(agent),
            Err(error) if failure.is_none() => failure = Some(error),
            Err(error) => out.say(&error.to_string()),
        }
    }
    if !done.is_empty() {
        out.list(COLUMNS, &done)?;
    }
    failure.map_or(Ok(()), Err)
}

async fn create_key(client: &Client, out: Output, args: KeyCreateArgs) -> Result<(), CliError> {
    let mut body = json!({"once": args.once});
    if let Some(expires) = args.expires {
        body["expires"] = json!(expires.to_string());
    }
    if let Some(label) = args.label {
        body["label"] = json!(label);
    }
    let key = client.post("enrolment-keys", &body).await?;
    out.object(&key)?;
    out.say("This key is not shown again. An agent uses it with --enrol-key.");
    Ok(())
}
