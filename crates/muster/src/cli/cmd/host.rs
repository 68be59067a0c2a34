//! `muster host create|list|show`.

use serde_json::{Map, json};

use crate::cli::args::{HostCreateArgs, HostName};
use crate::cli::client::{Client, path};
use crate::cli::error::CliError;
use crate::cli::output::{Column, Output, column};

const COLUMNS: &[Column] = &[
    column("name", "name"),
    column("addresses", "addresses"),
    column("macs", "macs"),
    column("serial", "serial"),
    column("os", "os.name"),
    column("type", "type"),
    column("id", "id"),
];

/// `muster host create`.
pub(in crate::cli) async fn create(
    client: &Client,
    out: Output,
    args: HostCreateArgs,
) -> Result<(), CliError> {
    let mut body = Map::new();
    body.insert("name".to_owned(), json!(args.name));
    if let Some(proxy) = args.proxy {
        body.insert("proxy".to_owned(), json!(proxy));
    }
    if let Some(address) = args.address {
        body.insert("address".to_owned(), json!(address));
    }
    if let Some(port) = args.port {
        body.insert("port".to_owned(), json!(port));
    }
    out.object(&client.post("hosts", &body.into()).await?)
}

/// `muster host list`.
pub(in crate::cli) async fn list(client: &Client, out: Output) -> Result<(), CliError> {
    out.list(COLUMNS, &client.list("hosts", &[]).await?)
}

/// `muster host show`.
pub(in crate::cli) async fn show(
    client: &Client,
    out: Output,
    args: HostName,
) -> Result<(), CliError> {
    out.object(&client.get(&path(&["hosts", &args.name]), &[]).await?)
}
