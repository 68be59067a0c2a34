//! Tasks and runs.

use super::*;

#[tokio::test(start_paused = true)]
async fn a_task_from_its_creation_to_its_result() {
    let world = World::new().await;
    let agent = world
        .agent("lab-7", &["inventory", "netdiscovery"], "127.0.0.1")
        .await;
    let created = world
        .post(
            "/api/v1/tasks",
            json!({
                "kind": "netdiscovery", "agent": "lab-7", "targets": ["192.0.2.0/30"],
                "credentials": ["v2c:canary-community", {"version": "1", "community": "canary-2"}],
                "workers": 4, "spec": {"timeout": "PT1S"}, "schedule": {"slip": "5m"},
            }),
        )
        .await;
    let task = created.json()["id"].as_str().unwrap().to_owned();
    world.plan().await;
    let planned = world
        .get(&format!("/api/v1/runs?task={}", &task[..8]))
        .await;
    let run = planned.json()["items"][0]["id"]
        .as_str()
        .unwrap()
        .to_owned();
    world
        .work(
            agent,
            "netdiscovery",
            vec![
                News::Began,
                News::percent(50.0, Some(SignedDuration::from_secs(10))),
            ],
        )
        .await;
    let running = world.get(&format!("/api/v1/runs/{run}")).await;
    let stored = world.control.run(run.parse().unwrap()).await.unwrap();
    let token = muster_core::run::OfferToken {
        run: stored.run.id,
        generation: stored.run.generation,
    };
    for news in [
        News::Part(
            json!({"ip": "192.0.2.1", "mac": "02:00:00:00:00:01", "snmphostname": "sw1"})
                .to_string(),
        ),
        News::Finished(Outcome {
            succeeded: true,
            result: None,
            diags: None,
        }),
    ] {
        world.control.report(token, agent, news).await.unwrap();
    }
    let mut story = String::new();
    for (what, answer) in [
        ("created", created),
        ("planned", planned),
        ("running", running),
        ("task", world.get(&format!("/api/v1/tasks/{task}")).await),
        ("ended", world.get(&format!("/api/v1/runs/{run}")).await),
        (
            "result",
            world.get(&format!("/api/v1/runs/{run}/result")).await,
        ),
        ("agent", world.get("/api/v1/agents/lab-7").await),
        (
            "explained",
            world.get(&format!("/api/v1/explain/run/{run}")).await,
        ),
        (
            "cancelled",
            world
                .post(&format!("/api/v1/tasks/{task}/cancel"), json!({}))
                .await,
        ),
    ] {
        assert!(answer.status.is_success(), "{what}: {}", answer.text);
        assert!(!answer.text.contains("canary"), "{what}: {}", answer.text);
        story += &format!("{what} {}\n\n", answer.shown());
    }
    insta::assert_snapshot!("task", named(&story));
    let text = world
        .get(&format!("/api/v1/runs/{run}/result?format=text"))
        .await;
    assert!(
        text.text.contains("sw1")
            && text.headers["content-type"]
                .to_str()
                .unwrap()
                .starts_with("text/plain")
    );
    let html = world
        .get(&format!("/api/v1/runs/{run}/result?format=html"))
        .await;
    assert!(
        html.headers["content-disposition"]
            .to_str()
            .unwrap()
            .starts_with("attachment")
    );
}

#[tokio::test(start_paused = true)]
async fn a_run_names_the_hosts_its_result_is_about() {
    let world = World::new().await;
    let agent = world.agent("lab-7", &["netdiscovery"], "127.0.0.1").await;
    for (name, mac, what, own) in [
        ("lab-7", "02:00:00:00:00:07", SourceKind::Inventory, true),
        ("sw1", "02:00:00:00:00:01", SourceKind::Discovery, false),
        ("other", "02:00:00:00:00:02", SourceKind::Discovery, false),
    ] {
        let facts = HostFacts {
            name: Some(name.to_owned()),
            macs: [mac.to_owned()].into(),
            ..HostFacts::default()
        };
        let observation = Observation {
            wire: Wire::Fusion,
            agent,
            what,
            facts,
            inventory: None,
            own,
        };
        world.control.observe(observation).await.unwrap();
    }
    let body = json!({"kind": "netdiscovery", "agent": "lab-7", "targets": ["127.0.0.1"]});
    world.post("/api/v1/tasks", body).await;
    world.plan().await;
    let part = |device: Value| News::Part(device.to_string());
    let news = vec![
        part(json!({"ip": "127.0.0.1"})),
        part(json!({"ip": "192.0.2.1", "mac": "02:00:00:00:00:01"})),
        part(json!({"ip": "192.0.2.9"})),
        News::Finished(Outcome {
            succeeded: true,
            result: None,
            diags: None,
        }),
    ];
    world.work(agent, "netdiscovery", news).await;
    let runs = world.get("/api/v1/runs").await.json();
    let id = runs["items"][0]["id"].as_str().unwrap().to_owned();
    let run = world.get(&format!("/api/v1/runs/{id}")).await.json();
    let hosts = run["hosts"].as_array().unwrap();
    let names: Vec<&str> = hosts
        .iter()
        .filter_map(|host| host["name"].as_str())
        .collect();
    assert_eq!(names, ["lab-7", "sw1"], "{run:#}");
}

#[tokio::test(start_paused = true)]
async fn a_watched_run_is_answered_when_it_moves() {
    let world = World::new().await;
    let agent = world.agent("lab-7", &["noop"], "127.0.0.1").await;
    world
        .post("/api/v1/tasks", json!({"kind": "noop", "agent": "lab-7"}))
        .await;
    world.plan().await;
    let run = world.get("/api/v1/runs").await.json()["items"][0]["id"]
        .as_str()
        .unwrap()
        .to_owned();
    let path = format!("/api/v1/runs/{run}?wait=30s");
    let first = world.get(&path).await;
    let tag = first.headers["etag"].clone();
    let ask = || {
        let mut request = request("GET", &path, Some("mat_view"), Body::empty());
        request.headers_mut().insert("if-none-match", tag.clone());
        request
    };
    let before = world.control.clock().now();
    let same = world.send(ask()).await;
    assert_eq!(same.status, StatusCode::NOT_MODIFIED);
    assert!(world.control.clock().now().duration_since(before) >= SignedDuration::from_secs(30));
    let (moved, ()) = tokio::join!(
        world.send(ask()),
        world.work(agent, "noop", vec![News::Began])
    );
    assert_eq!(moved.status, StatusCode::OK);
    assert_ne!(moved.headers["etag"], tag);
    assert!(["offered", "running"].contains(&moved.json()["state"].as_str().unwrap()));
}

#[tokio::test(start_paused = true)]
async fn what_the_command_line_posts_is_told_from_what_programs_post() {
    let world = World::new().await;
    for (user_agent, origin) in [("muster/0.1.0", "cli"), ("curl/8.0", "api"), ("", "api")] {
        let mut request = request(
            "POST",
            "/api/v1/tasks",
            Some("mat_operate"),
            Body::from(r#"{"kind":"noop"}"#),
        );
        request
            .headers_mut()
            .insert("user-agent", user_agent.parse().unwrap());
        assert_eq!(world.send(request).await.json()["origin"], origin);
    }
}

#[test]
fn times_have_one_form() {
    let time: Timestamp = "2026-01-01T00:00:00.5+02:00".parse().unwrap();
    assert_eq!(views::time(time), "2025-12-31T22:00:00.5Z");
}

#[tokio::test(start_paused = true)]
async fn a_spec_may_leave_out_what_the_task_says_beside_it() {
    let world = World::new().await;
    for (body, spec) in [
        (
            json!({"kind": "clock", "targets": ["192.0.2.1", "[fd00::1]:8443"]}),
            json!({}),
        ),
        (
            json!({"kind": "rtt", "targets": ["192.0.2.1"], "spec": {"count": 2}}),
            json!({"count": 2}),
        ),
        (
            json!({"kind": "netdiscovery", "targets": ["192.0.2.1,192.0.2.7", "192.0.2.8-192.0.2.9"]}),
            json!({}),
        ),
        (json!({"kind": "idle"}), json!({"duration": "PT1S"})),
        (
            json!({"kind": "inventory", "spec": {"schema": 1}}),
            json!({"schema": 1}),
        ),
        (
            json!({"kind": "decom.qc", "spec": {"burn_in": false}}),
            json!({"burn_in": false}),
        ),
    ] {
        let made = world.post("/api/v1/tasks", body.clone()).await;
        assert_eq!(made.status, StatusCode::CREATED, "{body}: {}", made.text);
        assert_eq!(made.json()["spec"], spec, "{body}");
    }
}
