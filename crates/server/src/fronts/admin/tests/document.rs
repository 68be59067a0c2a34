//! The OpenAPI document against what is served.

use std::sync::OnceLock;

use super::*;

#[test]
fn the_document_lists_every_route_and_no_other() {
    let document = openapi::Document::openapi();
    let text: Value = serde_json::from_str(&document.to_json().unwrap()).unwrap();
    assert_eq!(text["openapi"], "3.1.0");
    let mut listed = BTreeSet::new();
    for (path, item) in text["paths"].as_object().unwrap() {
        for method in item
            .as_object()
            .unwrap()
            .keys()
            .filter(|key| *key != "parameters")
        {
            listed.insert((method.clone(), path.clone()));
        }
    }
    let served: BTreeSet<_> = routes()
        .into_iter()
        .map(|route| (route.method.to_owned(), route.path.to_owned()))
        .collect();
    assert_eq!(listed, served);
}

#[test]
fn every_reference_of_the_document_resolves() {
    let text: Value =
        serde_json::from_str(&openapi::Document::openapi().to_json().unwrap()).unwrap();
    let mut references = Vec::new();
    collect_references(&text, &mut references);
    assert!(references.len() > 20, "{references:?}");
    for reference in references {
        let pointer = reference
            .strip_prefix('#')
            .expect("references stay in the document");
        assert!(text.pointer(pointer).is_some(), "{reference}");
    }
}

/// What the specification requires of every operation and response, and the types do not enforce.
#[test]
fn every_response_of_the_document_is_described() {
    let text: Value =
        serde_json::from_str(&openapi::Document::openapi().to_json().unwrap()).unwrap();
    let mut operations = BTreeSet::new();
    for (path, item) in text["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let place = format!("{method} {path}");
            assert!(operation["summary"].is_string(), "{place}");
            assert!(
                operations.insert(operation["operationId"].to_string()),
                "{place}"
            );
            for (status, response) in operation["responses"].as_object().unwrap() {
                assert!(response["description"].is_string(), "{place} {status}");
            }
            let named = path.split('/').filter(|part| part.starts_with('{')).count();
            let parameters = operation["parameters"]
                .as_array()
                .cloned()
                .unwrap_or_default();
            let listed = parameters
                .iter()
                .filter(|parameter| parameter["in"] == "path")
                .count();
            assert_eq!(named, listed, "{place}");
        }
    }
}

fn collect_references(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(members) => {
            for (name, member) in members {
                match member.as_str() {
                    Some(reference) if name == "$ref" => found.push(reference.to_owned()),
                    _ => collect_references(member, found),
                }
            }
        }
        Value::Array(items) => items
            .iter()
            .for_each(|item| collect_references(item, found)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// The document, with every object closed: a member that is served and not described is a fault
/// too.
fn closed_document() -> &'static Value {
    static DOCUMENT: OnceLock<Value> = OnceLock::new();
    DOCUMENT.get_or_init(|| {
        let open: Value =
            serde_json::from_str(&openapi::Document::openapi().to_json().unwrap()).unwrap();
        let mut closed = open.clone();
        close(&mut closed, &open);
        closed
    })
}

fn close(value: &mut Value, open: &Value) {
    match value {
        Value::Object(members) => {
            if let Some(Value::Array(parts)) = members.get_mut("allOf") {
                // A part allows what the other parts have; the whole is closed.
                for part in parts {
                    if let Some(reference) = part["$ref"].as_str() {
                        *part = open.pointer(&reference[1..]).unwrap().clone();
                    }
                }
                members.insert("unevaluatedProperties".to_owned(), Value::Bool(false));
                return;
            }
            members.values_mut().for_each(|member| close(member, open));
            if members.contains_key("properties") {
                members
                    .entry("additionalProperties")
                    .or_insert(Value::Bool(false));
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| close(item, open)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// What the document says of a call; nothing of one that it does not list.
fn operation(method: &str, path: &str) -> Option<&'static Value> {
    let path = path.split('?').next()?.strip_prefix("/api/v1")?;
    let is_it = |template: &str| {
        let (asked, listed) = (path.split('/'), template.split('/'));
        asked.clone().count() == listed.clone().count()
            && asked
                .zip(listed)
                .all(|(asked, listed)| asked == listed || listed.starts_with('{'))
    };
    let paths = closed_document()["paths"].as_object()?;
    let (_, item) = paths.iter().find(|(template, _)| is_it(template))?;
    item.get(method.to_lowercase())
}

fn fits(place: &str, schema: &Value, text: &str) {
    let mut schema = schema.clone();
    schema["components"] = closed_document()["components"].clone();
    let validator = jsonschema::draft202012::new(&schema).unwrap();
    let value: Value = serde_json::from_str(text).unwrap();
    let faults: Vec<String> = validator
        .iter_errors(&value)
        .map(|fault| format!("{}: {fault}", fault.instance_path()))
        .collect();
    assert!(faults.is_empty(), "{place}: {faults:#?}\n{value:#}");
}

/// Holds an answer, and the body that led to it, against the document.
pub(super) fn check(method: &str, path: &str, body: Option<&str>, answer: &Answer) {
    let place = format!("{method} {path} {}", answer.status);
    let Some(operation) = operation(method, path) else {
        return;
    };
    let responses = &operation["responses"];
    let response = responses
        .get(answer.status.as_str())
        .unwrap_or(&responses["default"]);
    let default = answer.status.is_client_error() || answer.status.is_server_error();
    assert_eq!(
        default,
        responses.get(answer.status.as_str()).is_none(),
        "{place} is described"
    );
    if let Some(content) = response["content"].as_object() {
        let media = answer.headers["content-type"].to_str().unwrap();
        let media = media.split(';').next().unwrap();
        let described = content.get(media);
        let described = described.unwrap_or_else(|| panic!("{place}: {media} is not described"));
        if media.ends_with("json") {
            fits(&place, &described["schema"], &answer.text);
        }
    }
    if let (Some(body), true) = (body, answer.status.is_success()) {
        let schema = &operation["requestBody"]["content"]["application/json"]["schema"];
        if schema.is_object() {
            fits(&format!("body of {place}"), schema, body);
        }
    }
    let listed: BTreeSet<&str> = operation["parameters"]
        .as_array()
        .into_iter()
        .flatten()
        .filter(|parameter| parameter["in"] == "query")
        .filter_map(|parameter| parameter["name"].as_str())
        .collect();
    let query = path.split_once('?').map_or("", |(_, query)| query);
    for (name, _) in form_urlencoded::parse(query.as_bytes()) {
        let known = listed.contains(&*name) || answer.status.is_client_error();
        assert!(known, "{place}: {name} is not described");
    }
}
