//! `muster item create|list|get|history`.

use muster_net::clock::Clock;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Number, Value, json};

use crate::cli::args::{ItemCreateArgs, ItemHistoryArgs, ItemListArgs, ItemRef};
use crate::cli::client::{Client, path};
use crate::cli::error::{CliError, Code, Exit};
use crate::cli::output::{Column, Output, column};

const COLUMNS: &[Column] = &[
    column("host", "host_name"),
    column("key", "key"),
    column("name", "name"),
    column("type", "type"),
    column("value_type", "value_type"),
    column("delay", "delay"),
    column("state", "state"),
    column("time", "last.time"),
    column("value", "last.value"),
    column("unit", "unit"),
    column("id", "id"),
];

const SAMPLE_COLUMNS: &[Column] = &[column("time", "time"), column("value", "value")];

/// `muster item create`.
pub(in crate::cli) async fn create(
    client: &Client,
    out: Output,
    args: ItemCreateArgs,
) -> Result<(), CliError> {
    let mut body = Map::new();
    body.insert("host".to_owned(), json!(args.host));
    body.insert("key".to_owned(), json!(args.key));
    body.insert("type".to_owned(), json!(args.item_type));
    body.insert("value_type".to_owned(), json!(args.value_type));
    if let Some(delay) = args.delay {
        body.insert("delay".to_owned(), json!(delay.to_string()));
    }
    if let Some(unit) = args.unit {
        body.insert("unit".to_owned(), json!(unit));
    }
    if let Some(name) = args.name {
        body.insert("name".to_owned(), json!(name));
    }
    out.object(&client.post("items", &body.into()).await?)
}

/// `muster item list`.
pub(in crate::cli) async fn list(
    client: &Client,
    out: Output,
    args: ItemListArgs,
) -> Result<(), CliError> {
    let mut query = Vec::new();
    if let Some(host) = &args.host {
        query.push(("host", host.as_str()));
    }
    out.list(COLUMNS, &client.list("items", &query).await?)
}

/// `muster item get`.
pub(in crate::cli) async fn get(
    client: &Client,
    out: Output,
    args: ItemRef,
) -> Result<(), CliError> {
    let id = resolve(client, &args).await?;
    out.object(&client.get(&path(&["items", &id]), &[]).await?)
}

/// `muster item history`.
pub(in crate::cli) async fn history(
    client: &Client,
    out: Output,
    args: ItemHistoryArgs,
) -> Result<(), CliError> {
    let now = Clock::system().now();
    let id = resolve(client, &args.item).await?;
    let limit = args.limit.to_string();
    let from = args.from.map(|moment| moment.at(now).to_string());
    let until = args.until.map(|moment| moment.at(now).to_string());
    let mut query = vec![("limit", limit.as_str())];
    if let Some(from) = &from {
        query.push(("from", from));
    }
    if let Some(until) = &until {
        query.push(("until", until));
    }
    let text = client
        .text(&path(&["items", &id, "history"]), &query)
        .await?;
    out.list(SAMPLE_COLUMNS, &samples(&text)?)
}

/// What names the item meant in a path: an id or the beginning of one, `HOST:KEY`, or the id of the
/// one item with a key.
async fn resolve(client: &Client, item: &ItemRef) -> Result<String, CliError> {
    let (host, key) = match (&item.item, &item.key_of_host) {
        (host, Some(key)) => (host.as_ref(), Some(key)),
        (_, None) => (item.host.as_ref(), item.key.as_ref()),
    };
    let key = match (&item.item, key) {
        (_, Some(key)) => key,
        (Some(text), None) if host.is_none() => {
            match client.get(&path(&["items", text]), &[]).await {
                Ok(found) => return Ok(id_of(&found)),
                Err(error) if error.exit != Exit::NotFound => return Err(error),
                Err(_) => text,
            }
        }
        (Some(text), None) => text,
        (None, None) => return Err(CliError::usage("no item was named")),
    };
    let mut query = Vec::new();
    if let Some(host) = host {
        query.push(("host", host.as_str()));
    }
    let items = client.list("items", &query).await?;
    let found: Vec<&Value> = items
        .iter()
        .filter(|item| item.get("key").and_then(Value::as_str) == Some(key.as_str()))
        .collect();
    match found.as_slice() {
        [one] => Ok(id_of(one)),
        [] => Err(CliError::new(
            Exit::NotFound,
            Code::NOT_FOUND,
            format!("there is no item {key:?}"),
        )
        .next("`muster item list`")),
        several => Err(CliError::new(
            Exit::NotFound,
            Code::AMBIGUOUS,
            format!("{} hosts have an item {key:?}", several.len()),
        )
        .next("say which with --host")),
    }
}

fn id_of(item: &Value) -> String {
    item.get("id")
        .and_then(Value::as_str)
        .unwrap_or_default()
        .to_owned()
}

#[derive(Deserialize)]
struct Page {
    items: Vec<Sample>,
}

#[derive(Deserialize)]
struct Sample {
    time: String,
    value: Box<RawValue>,
}

/// Samples with every number exactly as it was sent.
fn samples(text: &str) -> Result<Vec<Value>, CliError> {
    let page: Page = serde_json::from_str(text).map_err(|e| {
        CliError::failed(Code::SERVER_ANSWER, "the history is not as it should be").cause(&e)
    })?;
    Ok(page
        .items
        .into_iter()
        .map(|sample| json!({"time": sample.time, "value": exact(sample.value.get())}))
        .collect())
}

/// A JSON value; numbers by the standard library, which rounds to nearest.
fn exact(text: &str) -> Value {
    if let Ok(number) = text.parse::<u64>() {
        return Value::Number(number.into());
    }
    if let Ok(number) = text.parse::<i64>() {
        return Value::Number(number.into());
    }
    if text.starts_with(|c: char| c == '-' || c.is_ascii_digit())
        && let Some(number) = text.parse().ok().and_then(Number::from_f64)
    {
        return Value::Number(number);
    }
    serde_json::from_str(text).unwrap_or_else(|_| Value::String(text.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_samples_stay_exact() {
        for text in [
            "18446744073709551615",
            "9007199254740993",
            "-9223372036854775808",
            "0.1",
            "1.7976931348623157e308",
            "5e-324",
            "\"text\"",
            "null",
        ] {
            assert_eq!(exact(text).to_string().replace("e+", "e"), text);
        }
        assert_eq!(
            exact("123456789.12345679").as_f64(),
            Some(123_456_789.123_456_79)
        );
    }
}
