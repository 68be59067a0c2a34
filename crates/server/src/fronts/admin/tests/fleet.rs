//! Agents, keys, hosts, items, and lists of them.

use super::*;

#[tokio::test(start_paused = true)]
async fn hosts_items_and_their_values() {
    let world = World::new().await;
    let mut story = String::new();
    let host = world
        .post(
            "/api/v1/hosts",
            json!({"name": "web", "address": "192.0.2.10"}),
        )
        .await;
    story += &format!("host {}\n\n", host.shown());
    for (key, value_type) in [("load", "float"), ("uptime", "unsigned"), ("note", "text")] {
        let item = world
            .post(
                "/api/v1/items",
                json!({"host": "web", "key": key, "type": "trapper", "value_type": value_type, "unit": "s"}),
            )
            .await;
        assert_eq!(item.status, StatusCode::CREATED, "{}", item.text);
        story += &format!("item {}\n\n", item.shown());
    }
    let clock = world.control.clock().now().as_second();
    let row = |item, second, value| muster_store::samples::Row {
        id: None,
        reading: Reading {
            item,
            clock: clock + second,
            ns: 500_000_000,
            content: Content::Value(value),
            flags: Flags::default(),
        },
    };
    let numbers: BTreeMap<String, u64> = world.get("/api/v1/items").await.json()["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|item| {
            (
                item["key"].as_str().unwrap().to_owned(),
                item["number"].as_u64().unwrap(),
            )
        })
        .collect();
    let rows = vec![
        row(numbers["load"], 0, SampleValue::Float(0.1)),
        row(numbers["load"], 1, SampleValue::Float(-2.5)),
        row(numbers["uptime"], 0, SampleValue::Unsigned(u64::MAX)),
        row(numbers["note"], 0, SampleValue::Text("=1+1".to_owned())),
    ];
    let upload = Upload {
        peer: "test".to_owned(),
        session: None,
        rows,
    };
    world.control.ingest(upload).await.unwrap();
    for path in [
        "/api/v1/items/web:load",
        "/api/v1/items/web:load/history",
        "/api/v1/items/web:load/history?limit=1",
        "/api/v1/items/web:uptime/history",
        "/api/v1/items/web:note/history",
        "/api/v1/items/web:load/history?from=2026-01-01T00:00:01Z",
        "/api/v1/items/web:load/history?until=2026-01-01T00:00:00Z",
        "/api/v1/hosts/web",
        "/api/v1/hosts",
        "/api/v1/explain/item/web:load",
        "/api/v1/explain/host/web",
    ] {
        let answer = world.get(path).await;
        assert_eq!(answer.status, StatusCode::OK, "{path}: {}", answer.text);
        story += &format!("GET {path} {}\n\n", answer.shown());
    }
    insta::assert_snapshot!("values", named(&story));
    assert!(
        world
            .get("/api/v1/items/web:uptime/history")
            .await
            .text
            .contains(":18446744073709551615")
    );
    for limit in [0, 100_001] {
        let answer = world
            .get(&format!("/api/v1/items/web:load/history?limit={limit}"))
            .await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST);
    }
}

#[tokio::test(start_paused = true)]
async fn agents_are_approved_disabled_and_forgotten() {
    let world = World::new().await;
    world.agent("far-1", &["inventory"], "192.0.2.1").await;
    let mut story = String::new();
    for (method, path) in [
        ("GET", "/api/v1/agents"),
        ("POST", "/api/v1/agents/far-1/approve"),
        ("POST", "/api/v1/agents/far-1/disable"),
        ("GET", "/api/v1/kinds"),
        ("DELETE", "/api/v1/agents/far-1"),
        ("GET", "/api/v1/agents/far-1"),
    ] {
        let answer = world
            .send(request(method, path, Some("mat_operate"), Body::empty()))
            .await;
        story += &format!("{method} {path} {}\n\n", answer.shown());
    }
    insta::assert_snapshot!("agents", named(&story));
}

#[tokio::test(start_paused = true)]
async fn an_enrolment_key_is_shown_once() {
    let world = World::new().await;
    let made = world
        .post(
            "/api/v1/enrolment-keys",
            json!({"once": true, "expires": "1d", "label": "lab"}),
        )
        .await
        .json();
    let key = made["key"].as_str().unwrap();
    assert!(key.starts_with("mek_") && key.len() > 40, "{key}");
    assert_eq!(made["expires"], "2026-01-02T00:00:00Z");
    let listed = world.get("/api/v1/enrolment-keys").await;
    assert_eq!(listed.json()["items"][0]["label"], "lab");
    assert!(!listed.text.contains(key));
}

#[tokio::test(start_paused = true)]
async fn lists_come_in_pages() {
    let world = World::new().await;
    for n in 0..5 {
        world
            .post("/api/v1/hosts", json!({"name": format!("host-{n}")}))
            .await;
        world
            .post("/api/v1/tasks", json!({"kind": "noop", "any": true}))
            .await;
    }
    for noun in ["hosts", "tasks"] {
        let mut seen = Vec::new();
        let mut cursor: Option<String> = None;
        loop {
            let query = cursor
                .as_ref()
                .map_or(String::new(), |cursor| format!("&cursor={cursor}"));
            let page = world
                .get(&format!("/api/v1/{noun}?limit=2{query}"))
                .await
                .json();
            let items = page["items"].as_array().unwrap();
            assert!(items.len() <= 2);
            seen.extend(
                items
                    .iter()
                    .map(|item| item["id"].as_str().unwrap().to_owned()),
            );
            match page["next"].as_str() {
                Some(next) => cursor = Some(next.to_owned()),
                None => break,
            }
        }
        assert_eq!(seen.len(), 5, "{noun}");
        assert_eq!(seen.iter().collect::<BTreeSet<_>>().len(), 5, "{noun}");
    }
    let of_kind = world.get("/api/v1/tasks?kind=rtt").await.json();
    assert_eq!(of_kind, json!({"items": [], "next": null}));
}
