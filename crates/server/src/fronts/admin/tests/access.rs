//! Who may ask, what is refused, and what never comes out.

use super::*;

/// A body that must not be read.
fn unread() -> Body {
    Body::from_stream(futures_util::stream::once(async {
        panic!("the body was read");
        #[expect(unreachable_code, reason = "gives the stream its type")]
        Ok::<&'static [u8], std::io::Error>(b"")
    }))
}

/// A path with something in the place of every name.
fn filled(path: &str) -> String {
    path.replace("{noun}", "run")
        .split('/')
        .map(|part| {
            if part.starts_with('{') {
                "nothing"
            } else {
                part
            }
        })
        .collect::<Vec<_>>()
        .join("/")
}

#[tokio::test(start_paused = true)]
async fn who_may_do_what() {
    let world = World::new().await;
    for Route {
        method, path, role, ..
    } in routes()
    {
        let path = format!("/api/v1{}", filled(path));
        let method = method.to_uppercase();
        for (token, has) in [(None, None), (Some("wrong"), None)]
            .into_iter()
            .chain(TOKENS.map(|(token, role)| (Some(token), Some(role))))
        {
            let body = if has.is_some_and(|has| has >= role) {
                Body::from("{}")
            } else {
                unread()
            };
            let answer = world.send(request(&method, &path, token, body)).await;
            let cell = format!("{method} {path} with {token:?}: {}", answer.status);
            match has {
                None if token.is_some() => {
                    assert!(matches!(answer.status.as_u16(), 401 | 429), "{cell}")
                }
                None => assert_eq!(answer.status, StatusCode::UNAUTHORIZED, "{cell}"),
                Some(has) if has < role => {
                    assert_eq!(answer.status, StatusCode::FORBIDDEN, "{cell}");
                    assert_eq!(answer.json()["code"], "NOT_ALLOWED", "{cell}");
                }
                Some(_) => {
                    assert!(
                        !matches!(answer.status.as_u16(), 401 | 403 | 405 | 429 | 500..),
                        "{cell}"
                    );
                }
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn plain_http_is_for_this_machine_only() {
    let world = World::new().await;
    let psk = || Security::Psk {
        identity: "x".to_owned(),
    };
    for (address, security, forwarded, status) in [
        ("127.0.0.1", Security::Plain, None, 200),
        ("::1", Security::Plain, None, 200),
        ("::ffff:127.0.0.1", Security::Plain, None, 200),
        ("192.0.2.7", Security::Plain, None, 403),
        ("192.0.2.7", psk(), None, 200),
        ("127.0.0.1", Security::Plain, Some("x-forwarded-for"), 403),
        ("127.0.0.1", Security::Plain, Some("forwarded"), 403),
    ] {
        let mut request = request("GET", "/api/v1/status", Some("mat_view"), Body::empty());
        request.extensions_mut().insert(peer(address, security));
        if let Some(name) = forwarded {
            request
                .headers_mut()
                .insert(name, "for=192.0.2.7".parse().unwrap());
        }
        let answer = world.send(request).await;
        assert_eq!(answer.status.as_u16(), status, "{address} {forwarded:?}");
    }
    let mut request = request("GET", "/api/v1/status", Some("mat_view"), Body::empty());
    request.extensions_mut().clear();
    assert_eq!(world.send(request).await.status, StatusCode::UNAUTHORIZED);
}

#[tokio::test(start_paused = true)]
async fn wrong_tokens_have_to_wait_and_right_ones_never() {
    let world = World::new().await;
    for n in 1..=login::FAILURES_MAX + 2 {
        let answer = world
            .send(request(
                "GET",
                "/api/v1/status",
                Some("guess"),
                Body::empty(),
            ))
            .await;
        if n <= login::FAILURES_MAX {
            assert_eq!(answer.status, StatusCode::UNAUTHORIZED, "{n}");
            assert!(answer.headers.contains_key("www-authenticate"));
        } else {
            assert_eq!(answer.status, StatusCode::TOO_MANY_REQUESTS, "{n}");
            assert_eq!(answer.headers["retry-after"], "60");
        }
    }
    assert_eq!(world.get("/api/v1/status").await.status, StatusCode::OK);
    let metrics = world.get("/metrics").await.text;
    assert!(
        metrics.contains("muster_refused_total{wire=\"admin\",reason=\"bad_token\"} 12"),
        "{metrics}"
    );
}

#[tokio::test(start_paused = true)]
async fn what_is_not_understood_is_refused_with_its_place() {
    let world = World::new().await;
    let mut answers = String::new();
    for (path, body) in [
        ("/api/v1/tasks", r#"{"kind":"inventory","role":"admin"}"#),
        ("/api/v1/tasks", r#"{"kind":"inventory","kind":"rtt"}"#),
        ("/api/v1/tasks", r#"{"kind":"no-such-kind"}"#),
        ("/api/v1/tasks", r#"{"kind":"rtt","spec":[]}"#),
        ("/api/v1/tasks", r#"{"kind":"rtt","workers":0}"#),
        ("/api/v1/tasks", r#"{"kind":"rtt","agent":"nobody"}"#),
        ("/api/v1/tasks", r#"{"kind":"clock"}"#),
        ("/api/v1/tasks", r#"{"kind":"clock","spec":{"dest":7}}"#),
        (
            "/api/v1/tasks",
            r#"{"kind":"clock","targets":["192.0.2.1","-oProxy"]}"#,
        ),
        (
            "/api/v1/tasks",
            r#"{"kind":"rtt","spec":{"dest":"192.0.2.1","count":"5"}}"#,
        ),
        (
            "/api/v1/tasks",
            r#"{"kind":"rtt","spec":{"dest":"192.0.2.1","colour":"red"}}"#,
        ),
        (
            "/api/v1/tasks",
            r#"{"kind":"idle","spec":{"duration":"2s"}}"#,
        ),
        (
            "/api/v1/tasks",
            r#"{"kind":"inventory","spec":{"schema":2}}"#,
        ),
        ("/api/v1/tasks", r#"{"kind":"noop","spec":{"fail":2}}"#),
        ("/api/v1/tasks", r#"{"kind":"decom.qc","spec":{"spec":5}}"#),
        ("/api/v1/tasks", r#"{"kind":"netdiscovery"}"#),
        (
            "/api/v1/tasks",
            r#"{"kind":"netdiscovery","spec":{"targets":"192.0.2.1"}}"#,
        ),
        (
            "/api/v1/tasks",
            r#"{"kind":"netdiscovery","targets":["192.0.2.1"],"spec":{"_credentials":[{"community":"hunter2"}]}}"#,
        ),
        (
            "/api/v1/tasks",
            r#"{"kind":"netdiscovery","targets":["192.0.2.1"],"spec":{"_credentials":[{"version":"hunter2"}]}}"#,
        ),
        (
            "/api/v1/tasks",
            r#"{"kind":"netdiscovery","targets":["10.0.0.9-10.0.0.1"]}"#,
        ),
        (
            "/api/v1/tasks",
            r#"{"kind":"netdiscovery","credentials":["v9:hunter2"]}"#,
        ),
        (
            "/api/v1/tasks",
            r#"{"kind":"idle","schedule":{"repeat":"PT0S"}}"#,
        ),
        (
            "/api/v1/tasks",
            r#"{"kind":"idle","schedule":{"repeat_cron":"0 0 30 2 *"}}"#,
        ),
        (
            "/api/v1/tasks",
            r#"{"kind":"idle","schedule":{"until":"2025-01-01T00:00:00Z"}}"#,
        ),
        ("/api/v1/hosts", r#"{"name":"a/b"}"#),
        ("/api/v1/hosts", r#"{"name":"web","port":70000}"#),
        (
            "/api/v1/items",
            r#"{"host":"web","key":"k","type":"magic","value_type":"float"}"#,
        ),
        ("/api/v1/enrolment-keys", r#"{"expires":"P1Y"}"#),
    ] {
        let answer = world
            .send(request(
                "POST",
                path,
                Some("mat_administer"),
                Body::from(body),
            ))
            .await;
        assert!(answer.status.is_client_error(), "{body}: {}", answer.text);
        assert_eq!(answer.headers["content-type"], "application/problem+json");
        assert!(!answer.text.contains("hunter2"), "{}", answer.text);
        answers += &format!("POST {path} {body}\n{}\n\n", answer.shown());
    }
    for path in [
        "/api/v1/agents?limit=0",
        "/api/v1/agents?limit=1001",
        "/api/v1/agents?limit=1&limit=2",
        "/api/v1/agents?cursor=%21",
        "/api/v1/agents?colour=red",
        "/api/v1/runs?state=lost",
        "/api/v1/explain/weather/today",
        "/api/v1/runs/ffffffff",
        "/api/v1/nothing",
    ] {
        let answer = world.get(path).await;
        assert!(answer.status.is_client_error(), "{path}: {}", answer.text);
        answers += &format!("GET {path}\n{}\n\n", answer.shown());
    }
    insta::assert_snapshot!("refusals", named(&answers));
}

#[tokio::test(start_paused = true)]
async fn only_json_within_the_limits_is_read() {
    let world = World::new().await;
    for content_type in [
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data",
    ] {
        let mut request = request("POST", "/api/v1/hosts", Some("mat_administer"), unread());
        request
            .headers_mut()
            .insert("content-type", content_type.parse().unwrap());
        assert_eq!(
            world.send(request).await.status,
            StatusCode::UNSUPPORTED_MEDIA_TYPE
        );
    }
    let mut bare = request("POST", "/api/v1/hosts", Some("mat_administer"), unread());
    bare.headers_mut().remove("content-type");
    assert_eq!(
        world.send(bare).await.status,
        StatusCode::UNSUPPORTED_MEDIA_TYPE
    );
    let long = Body::from(vec![b' '; BODY_BYTES_MAX + 1]);
    let answer = world
        .send(request(
            "POST",
            "/api/v1/hosts",
            Some("mat_administer"),
            long,
        ))
        .await;
    assert_eq!(answer.status, StatusCode::PAYLOAD_TOO_LARGE);
    assert_eq!(answer.json()["code"], "BODY_TOO_LARGE");
    let answer = world
        .send(request(
            "PUT",
            "/api/v1/hosts",
            Some("mat_administer"),
            unread(),
        ))
        .await;
    assert_eq!(answer.status, StatusCode::METHOD_NOT_ALLOWED);
}

#[tokio::test(start_paused = true)]
async fn secrets_go_in_and_never_come_out() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("muster.db");
    let world = World::on(StoreUrl::Sqlite(file.clone())).await;
    let agent = world
        .agent("lab-7", &["netdiscovery", "rtt"], "127.0.0.1")
        .await;
    let made = world
        .post(
            "/api/v1/tasks",
            json!({
                "kind": "netdiscovery", "agent": "lab-7", "targets": ["192.0.2.1"],
                "credentials": [
                    "v2c:CANARY-community@1161",
                    "v3:user,sha1,CANARY-authpass,aes,CANARY-privpass",
                    {"version": "1", "community": "CANARY-object"},
                ],
                "spec": {"_password": "CANARY-password", "timeout": "PT1S"},
            }),
        )
        .await;
    assert_eq!(made.status, StatusCode::CREATED, "{}", made.text);
    let other = world
        .post(
            "/api/v1/tasks",
            json!({"kind": "noop", "spec": {"data": {"_password": "CANARY-data"}}}),
        )
        .await;
    assert_eq!(other.status, StatusCode::CREATED, "{}", other.text);
    let bad = world
        .post(
            "/api/v1/tasks",
            json!({"kind": "netdiscovery", "credentials": ["v2c:CANARY", "CANARY-bad"]}),
        )
        .await;
    world.plan().await;
    world.work(agent, "netdiscovery", vec![News::Began]).await;
    let mut seen = vec![made.text, other.text, bad.text];
    let ids = |noun: &'static str| {
        let world = &world;
        async move {
            let page = world.get(&format!("/api/v1/{noun}")).await;
            let ids = page.json()["items"]
                .as_array()
                .unwrap()
                .iter()
                .filter_map(|item| item["id"].as_str().map(str::to_owned))
                .collect::<Vec<_>>();
            (ids, page.text)
        }
    };
    for (noun, one) in [
        ("tasks", "task"),
        ("runs", "run"),
        ("agents", "agent"),
        ("hosts", "host"),
        ("items", "item"),
    ] {
        let (ids, text) = ids(noun).await;
        seen.push(text);
        for id in ids {
            seen.push(world.get(&format!("/api/v1/{noun}/{id}")).await.text);
            seen.push(world.get(&format!("/api/v1/explain/{one}/{id}")).await.text);
        }
    }
    for path in [
        "/api/v1/status",
        "/api/v1/limits",
        "/api/v1/kinds",
        "/api/v1/enrolment-keys",
        "/metrics",
        "/",
    ] {
        seen.push(world.get(path).await.text);
    }
    assert!(seen.len() > 10);
    for text in &seen {
        assert!(!text.contains("CANARY"), "{text}");
    }
    let mut dump = Vec::new();
    for entry in std::fs::read_dir(folder.path()).unwrap() {
        dump.extend(std::fs::read(entry.unwrap().path()).unwrap());
    }
    let holds = |marker: &[u8]| dump.windows(marker.len()).any(|window| window == marker);
    assert!(holds(b"netdiscovery"), "the dump is the database");
    for marker in [&b"CANARY"[..], b"mat_"] {
        assert!(!holds(marker), "{}", String::from_utf8_lossy(marker));
    }
}
