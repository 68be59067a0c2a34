//! What the front promises beyond the recorded conversations.

use std::time::Duration;

use muster_net::Security;
use muster_server::control::NewTask;
use serde_json::{Value, json};
use tower::ServiceExt as _;

use super::kit::{self, Server, request, text, with_server};

fn idle(schedule: Value) -> Value {
    json!({
        "schema": 1,
        "test": {"type": "idle", "spec": {"schema": 1, "duration": "PT2S"}},
        "schedule": schedule
    })
}

fn noop(data: Value, schedule: Value) -> Value {
    json!({"test": {"type": "noop", "spec": {"data": data}}, "schedule": schedule})
}

/// The only run of a task, once it has ended.
async fn ended(server: &Server, task: &str) -> Value {
    let first = server.get(&format!("{task}/runs/first")).await;
    let href = first["href"].as_str().unwrap().to_owned();
    let path = href
        .strip_prefix("https://ps1.example.net/pscheduler")
        .unwrap()
        .to_owned();
    server.get(&format!("{path}?wait-merged&wait=60")).await
}

fn path_of(run: &Value) -> String {
    let href = run["href"].as_str().unwrap();
    href.strip_prefix("https://ps1.example.net/pscheduler")
        .unwrap()
        .to_owned()
}

#[test]
fn a_task_runs_at_its_time_and_reads_back_in_three_forms() {
    with_server(false, |server| async move {
        server.with_agent().await;
        let task = server
            .post(idle(json!({"start": "PT20S", "slip": "PT5M"})))
            .await;
        let pending = server.get(&format!("{task}/runs/first")).await;
        assert_eq!(pending["state"], "pending");
        assert_eq!(pending["start-time"], "2026-11-21T19:08:20+00:00");
        assert_eq!(pending["end-time"], "2026-11-21T19:08:23+00:00");
        let path = path_of(&pending);
        assert_eq!(
            server.call("GET", &format!("{path}/result"), "").await.0,
            404
        );
        let run = server.get(&format!("{path}?wait-merged")).await;
        assert_eq!(
            (run["state"].as_str(), run["duration"].as_str()),
            (Some("finished"), Some("PT2S"))
        );
        assert_eq!(server.clock.now().to_string()[..19], *"2026-11-21T19:08:22");
        assert_eq!(run["result"]["result"], json!({"time-slept": "PT2S"}));
        assert_eq!(run["result-full"], json!([run["result"]]));
        let merged = json!({"schema": 1, "succeeded": true, "duration": "PT2S"});
        assert_eq!(run["result-merged"], merged);
        assert_eq!(server.get(&format!("{path}/result")).await, merged);
        for (format, want) in [
            ("text/plain", "Duration ... PT2S\n"),
            (
                "text/html",
                "<table>\n<tr><td>Duration</td><td>PT2S</td></tr>\n</table>\n",
            ),
        ] {
            let answer = server
                .call("GET", &format!("{path}/result?format={format}"), "")
                .await;
            assert_eq!(answer, (200, want.to_owned()));
        }
        let detail = &server.get(&format!("{task}?detail=True")).await["detail"];
        assert_eq!(
            (&detail["runs"], &detail["runs-started"]),
            (&json!(1), &json!(1))
        );
        assert_eq!(detail["start"], "2026-11-21T19:08:20+00:00");
        assert_eq!(
            detail["hints"],
            json!({"requester": "127.0.0.1", "server": "127.0.0.1"})
        );
    });
}

#[test]
fn a_task_without_a_start_begins_within_seconds() {
    with_server(false, |server| async move {
        server.with_agent().await;
        let task = server.post(noop(json!({"a": 1}), json!({}))).await;
        let run = ended(&server, &task).await;
        assert_eq!(run["result-merged"]["data"], json!({"a": 1}));
        assert_eq!(run["start-time"], "2026-11-21T19:08:05+00:00");
        assert_eq!(
            server.get(&format!("{task}?detail")).await["detail"]["start"],
            Value::Null
        );
    });
}

#[test]
fn a_repeating_task_runs_as_often_as_it_may() {
    with_server(false, |server| async move {
        server.with_agent().await;
        let schedule = json!({"start": "PT10S", "repeat": "PT15S", "max-runs": 3});
        let task = server.post(noop(json!(1), schedule)).await;
        server.clock.sleep(Duration::from_secs(60)).await;
        let runs = server.get(&format!("{task}/runs")).await;
        let mut starts = Vec::new();
        for url in runs.as_array().unwrap() {
            let path = url
                .as_str()
                .unwrap()
                .strip_prefix("https://ps1.example.net/pscheduler");
            let run = server.get(path.unwrap()).await;
            assert_eq!(run["state"], "finished");
            starts.push(run["start-time"].as_str().unwrap()[14..19].to_owned());
        }
        assert_eq!(starts, ["08:10", "08:25", "08:40"]);
        assert_eq!(
            server
                .get(&format!("{task}/runs?limit=2"))
                .await
                .as_array()
                .unwrap()
                .len(),
            2
        );
        let from = format!("{task}/runs?start=2026-11-21T19:08:20Z&end=2026-11-21T19:08:30Z");
        assert_eq!(server.get(&from).await.as_array().unwrap().len(), 1);
        assert_eq!(
            server.get(&format!("{task}/runs?upcoming")).await,
            json!([])
        );
        let next = server
            .call("GET", &format!("{task}/runs/next?wait=0"), "")
            .await;
        assert_eq!(next.0, 404);
    });
}

#[test]
fn failures_and_missed_starts_are_told() {
    with_server(false, |server| async move {
        let lonely = server.post(noop(json!(1), json!({}))).await;
        let missed = ended(&server, &lonely).await;
        assert_eq!(missed["state"], "missed");
        assert!(
            missed["errors"]
                .as_str()
                .unwrap()
                .contains("no agent took it"),
            "{missed}"
        );
        assert_eq!(
            (&missed["result"], &missed["result-merged"]),
            (&Value::Null, &Value::Null)
        );
        server.with_agent().await;
        let task = json!({"test": {"type": "noop", "spec": {"fail": 1}}});
        let failed = ended(&server, &server.post(task).await).await;
        assert_eq!(failed["state"], "failed");
        assert_eq!(failed["result-merged"]["succeeded"], json!(false));
        assert_eq!(failed["result"]["error"], "Randomly-induced failure");
        let path = path_of(&failed);
        let plain = server
            .call("GET", &format!("{path}/result?format=text/plain"), "")
            .await;
        assert_eq!(plain, (200, "Run failed.\n".to_owned()));
        let finished = server.call("GET", "/stat/runs/failed", "").await;
        assert_eq!(finished, (200, "1\n".to_owned()));
    });
}

#[test]
fn waits_end_when_there_is_nothing_more_to_wait_for() {
    with_server(false, |server| async move {
        let task = server.post(idle(json!({"start": "PT1H"}))).await;
        let first = server.get(&format!("{task}/runs/first")).await;
        let path = path_of(&first);
        let before = server.clock.instant();
        let waited = server.get(&format!("{path}?wait-merged&wait=7")).await;
        assert_eq!(waited["state"], "pending");
        assert_eq!(
            server
                .call("GET", &format!("{path}/result?wait=3"), "")
                .await
                .0,
            404
        );
        let took = server.clock.instant() - before;
        assert!(
            (Duration::from_secs(10)..Duration::from_secs(12)).contains(&took),
            "{took:?}"
        );
        let far = server.post(idle(json!({"start": "P300D"}))).await;
        let before = server.clock.instant();
        assert_eq!(
            server
                .call("GET", &format!("{far}/runs/first?wait=5"), "")
                .await
                .0,
            404
        );
        assert!(server.clock.instant() - before >= Duration::from_secs(5));
        let nobody = "/tasks/00000000-0000-0000-0000-000000000000/runs";
        assert_eq!(server.get(nobody).await, json!([]));
        assert_eq!(
            server.call("GET", &format!("{nobody}/first"), "").await.0,
            404
        );
    });
}

#[test]
fn deleting_keeps_the_task_readable_and_its_future_goes() {
    with_server(false, |server| async move {
        let task = server.post(idle(json!({"start": "PT1H"}))).await;
        let first = server.get(&format!("{task}/runs/first")).await;
        for _ in 0..2 {
            assert_eq!(
                server.call("DELETE", &task, "").await,
                (200, "OK\n".to_owned())
            );
        }
        assert_eq!(
            server.get(&format!("{task}?detail")).await["detail"]["enabled"],
            json!(false)
        );
        assert_eq!(server.get(&format!("{task}/runs")).await, json!([]));
        assert_eq!(server.call("GET", &path_of(&first), "").await.0, 404);
        let gone = "/tasks/00000000-0000-0000-0000-000000000000";
        assert_eq!(server.call("DELETE", gone, "").await.0, 404);
    });
}

#[test]
fn one_run_can_be_called_off_while_it_runs() {
    with_server(false, |server| async move {
        server.with_agent().await;
        let task = json!({"test": {"type": "idle", "spec": {"duration": "PT50S"}}});
        let task = server.post(task).await;
        let path = path_of(&server.get(&format!("{task}/runs/first")).await);
        server.clock.sleep(Duration::from_secs(10)).await;
        assert_eq!(server.get(&path).await["state"], "running");
        assert_eq!(
            server.call("DELETE", &path, "").await,
            (200, "OK\n".to_owned())
        );
        let run = server.get(&path).await;
        assert_eq!(
            (run["state"].as_str(), run["state-display"].as_str()),
            (Some("canceled"), Some("Canceled"))
        );
    });
}

#[test]
fn who_may_post_and_delete() {
    let body = idle(json!({})).to_string();
    let body = &body;
    with_server(false, |server| async move {
        let far = "192.0.2.7:4711";
        let refused = server.exchange(request("POST", "/tasks", body), far).await;
        assert_eq!(refused.status(), 403);
        assert!(
            text(&refused)
                .starts_with("Task forbidden by limits:\nHints:\n  requester: 192.0.2.7\n")
        );
        for header in ["Forwarded", "X-Forwarded-For"] {
            let mut passed_on = request("POST", "/tasks", body);
            passed_on
                .headers_mut()
                .insert(header, "for=192.0.2.7".parse().unwrap());
            assert_eq!(
                server.exchange(passed_on, "127.0.0.1:1").await.status(),
                403,
                "{header}"
            );
        }
        let task = server.post(idle(json!({"start": "PT1H"}))).await;
        let delete = server.exchange(request("DELETE", &task, ""), far).await;
        assert_eq!(
            (delete.status().as_u16(), text(&delete)),
            (403, "Forbidden\n".to_owned())
        );
        // Reading is open to everyone.
        assert_eq!(
            server
                .exchange(request("GET", &task, ""), far)
                .await
                .status(),
            200
        );
    });
    with_server(true, |server| async move {
        let (poster, other) = ("192.0.2.7:4711", "192.0.2.8:4711");
        let posted = server
            .exchange(request("POST", "/tasks", body), poster)
            .await;
        let url: String = serde_json::from_str(&text(&posted)).unwrap();
        let task = url
            .strip_prefix("https://ps1.example.net/pscheduler")
            .unwrap();
        let mut passed_on = request("DELETE", task, "");
        passed_on
            .headers_mut()
            .insert("X-Forwarded-For", "127.0.0.1".parse().unwrap());
        assert_eq!(server.exchange(passed_on, other).await.status(), 403);
        assert_eq!(
            server
                .exchange(request("DELETE", task, ""), other)
                .await
                .status(),
            403
        );
        assert_eq!(
            server
                .exchange(request("DELETE", task, ""), poster)
                .await
                .status(),
            200
        );
    });
}

#[test]
fn secrets_are_shown_for_the_key_only() {
    with_server(false, |server| async move {
        server.with_agent().await;
        let canary = "c4n4ry";
        let task = json!({
            "schema": 1,
            "test": {"type": "netdiscovery", "spec": {
                "schema": 1, "targets": ["10.0.0.0/30"],
                "_credentials": [{"version": "2c", "community": canary}]
            }},
            "schedule": {},
            "reference": {"_token": canary, "tag": "mu"},
            "_key": "sesame"
        });
        let task = server.post(task).await;
        let run = ended(&server, &task).await;
        assert_eq!(run["state"], "finished");
        assert_eq!(run["result-merged"]["devices"], json!([{"ip": "10.0.0.7"}]));
        let path = path_of(&run);
        for target in [
            task.clone(),
            format!("{task}?detail"),
            format!("{task}/cli"),
            format!("{task}/runs"),
            path.clone(),
            format!("{path}/result"),
            format!("{path}/result?format=text/plain"),
            format!("{path}/result?format=text/html"),
            "/tasks?expanded&detail".to_owned(),
            "/status".to_owned(),
        ] {
            let (status, body) = server.call("GET", &target, "").await;
            assert_eq!(status, 200, "{target}");
            assert!(
                !body.contains(canary) && !body.contains("sesame"),
                "{target}: {body}"
            );
        }
        let closed = server.get(&task).await;
        assert_eq!(closed["test"]["spec"]["_credentials"], Value::Null);
        assert_eq!(closed["_key"], Value::Null);
        let (status, text) = server.call("GET", &format!("{task}?key=wrong"), "").await;
        assert_eq!((status, text.as_str()), (403, "Forbidden\n"));
        let open = server.get(&format!("{task}?key=sesame")).await;
        assert_eq!(open["_key"], "sesame");
        assert_eq!(open["reference"]["_token"], canary);
        assert_eq!(
            server.call("GET", &format!("{path}?key=wrong"), "").await.0,
            403
        );
        for format in ["application/json", "text/plain", "text/html"] {
            let target = format!("{path}/result?format={format}&key=wrong");
            assert_eq!(server.call("GET", &target, "").await.0, 403, "{format}");
        }
        assert_eq!(
            server
                .call("GET", &format!("{path}/result?key=wrong"), "")
                .await
                .0,
            403
        );
        // A task that was posted without a key needs none, and shows nothing for any.
        let plain = server.post(idle(json!({"start": "PT1H"}))).await;
        assert_eq!(
            server.call("GET", &format!("{plain}?key=any"), "").await.0,
            200
        );
    });
}

#[test]
fn tasks_are_found_by_what_they_contain() {
    with_server(false, |server| async move {
        let mut tagged = idle(json!({"start": "PT1H"}));
        tagged["reference"] = json!({"created-by": {"uuid": "u-1"}, "list": [1, 2, 3]});
        let task = server.post(tagged).await;
        let other = server.post(noop(json!(1), json!({"start": "PT1H"}))).await;
        let find = async |pattern: Value| {
            let query: String =
                form_urlencoded::byte_serialize(pattern.to_string().as_bytes()).collect();
            let found = server.get(&format!("/tasks?json={query}")).await;
            found.as_array().unwrap().len()
        };
        let created =
            json!({"reference": {"created-by": {"uuid": "u-1"}}, "detail": {"enabled": true}});
        assert_eq!(find(created.clone()).await, 1);
        assert_eq!(find(json!({"test": {"type": "noop"}})).await, 1);
        assert_eq!(find(json!({"reference": {"list": [3, 1]}})).await, 1);
        assert_eq!(find(json!({"reference": {"list": [4]}})).await, 0);
        assert_eq!(find(json!({})).await, 2);
        assert_eq!(server.call("DELETE", &task, "").await.0, 200);
        assert_eq!(find(created).await, 0);
        let all = server.get("/tasks").await;
        let urls = [&task, &other].map(|path| format!("https://ps1.example.net/pscheduler{path}"));
        assert_eq!(all, json!(urls));
        let expanded = server.get("/tasks?expanded").await;
        assert!(expanded[0].get("detail").is_none() && expanded[0]["tool"] == "snooze");
    });
}

#[test]
fn work_that_came_another_way_is_not_seen_here() {
    with_server(false, |server| async move {
        let kind = "noop".parse().unwrap();
        let own = NewTask::new(
            kind,
            muster_core::task::Origin::Cli,
            json!({"data": "private"}),
        );
        let own = server.control.submit(own).await.unwrap().id;
        assert_eq!(server.get("/tasks").await, json!([]));
        assert_eq!(
            server.call("GET", &format!("/tasks/{own}"), "").await.0,
            404
        );
        assert_eq!(
            server.call("DELETE", &format!("/tasks/{own}"), "").await.0,
            404
        );
        assert_eq!(server.get(&format!("/tasks/{own}/runs")).await, json!([]));
    });
}

#[test]
fn a_named_agent_does_the_work_and_other_hosts_are_refused() {
    with_server(false, |server| async move {
        let busy = kit::enrol(&server.control, "lab-8").await;
        let task = json!({"test": {"type": "idle", "spec": {"duration": "PT1S", "host": "lab-8"}}});
        let task = server.post(task).await;
        let offers = server.control.due(busy, kit::ask(&["idle"])).await.unwrap();
        assert_eq!(offers.len(), 1);
        assert!(
            !offers[0].spec.expose().contains("lab-8"),
            "nodes are ours to resolve"
        );
        let detail = &server.get(&format!("{task}?detail")).await["detail"];
        assert_eq!(detail["participants"], json!(["lab-8"]));
        for host in ["localhost", "127.0.0.1", "ps1.example.net", "PS1"] {
            let spec = json!({"duration": "PT1S", "host": host});
            server
                .post(json!({"test": {"type": "idle", "spec": spec}}))
                .await;
        }
        let spec = json!({"schema": 1, "source": "nohost.example.net", "dest": "b"});
        let task = json!({"test": {"type": "rtt", "spec": spec}}).to_string();
        let (status, body) = server.call("POST", "/tasks", &task).await;
        assert_eq!(status, 500);
        assert!(
            body.starts_with("Error getting tools from nohost.example.net: "),
            "{body}"
        );
    });
}

#[test]
fn what_is_later_is_refused_with_the_reason() {
    with_server(false, |server| async move {
        for (task, status, want) in [
            (
                json!({"archives": [{"archiver": "http", "data": {"_url": "http://x/"}}]}),
                400,
                "Invalid archiver data: No archiver \"http\" is available.\n",
            ),
            (
                json!({"schema": 2, "contexts": {"contexts": [[{"context": "linuxnns", "data": {"namespace": "x"}}]]}}),
                400,
                "Invalid context data: No context \"linuxnns\" is available.\n",
            ),
            (
                json!({"schema": 2, "contexts": {"contexts": [[], []]}}),
                400,
                "Number of contexts must match number of participants.\n",
            ),
            (
                json!({"test": {"type": "idle", "spec": {"schema": 2, "duration": "PT1S", "host": ["a", "b"]}}}),
                422,
                "Unable to complete request: Tests with more than one participant are not supported by this server.\n",
            ),
        ] {
            let mut document = idle(json!({}));
            for (name, value) in task.as_object().unwrap() {
                document[name] = value.clone();
            }
            let answer = server.call("POST", "/tasks", &document.to_string()).await;
            assert_eq!(answer, (status, want.to_owned()));
        }
        assert_eq!(server.get("/tasks").await, json!([]), "nothing was stored");
        for listing in ["/archivers", "/contexts", "/archivers?expanded"] {
            assert_eq!(server.get(listing).await, json!([]));
        }
    });
}

#[test]
fn every_kind_of_work_is_a_test() {
    with_server(false, |server| async move {
        let tests = server.get("/tests?expanded=True").await;
        let names: Vec<_> = tests
            .as_array()
            .unwrap()
            .iter()
            .map(|test| test["name"].as_str().unwrap())
            .collect();
        for known in muster_core::kind::KNOWN {
            assert!(names.contains(&known.name), "{}", known.name);
        }
        assert!(names.is_sorted());
        let tools = server.get("/tests/netdiscovery/tools").await;
        assert_eq!(
            tools,
            json!(["https://ps1.example.net/pscheduler/tools/agent"])
        );
        let agent = server.get("/tools/agent").await;
        assert!(
            agent["tests"]
                .as_array()
                .unwrap()
                .contains(&json!("decom.qc")),
            "{agent}"
        );
    });
}

#[test]
fn health_names_the_four_services() {
    with_server(false, |server| async move {
        server.with_agent().await;
        let task = server.post(noop(json!(1), json!({}))).await;
        ended(&server, &task).await;
        let status = server.get("/status").await;
        for service in ["archiver", "runner", "scheduler", "ticker"] {
            let service = &status["services"][service];
            assert_eq!(service["overdue"], Value::Null, "{status}");
            assert!(service["updates"].as_u64().unwrap() > 0 && service["last"].is_string());
        }
        assert!(status["runs"]["last-finished"].is_string(), "{status}");
        assert_eq!(status["limits"], json!({"ok": true}));
    });
}

#[test]
fn addresses_follow_scheme_and_host_of_the_request() {
    with_server(false, |server| async move {
        for (security, host, want) in [
            (
                Security::Plain,
                Some("127.0.0.1:8080"),
                "http://127.0.0.1:8080",
            ),
            (
                Security::Tls { client: None },
                Some("[::1]:8443"),
                "https://[::1]:8443",
            ),
            (
                Security::Tls { client: None },
                None,
                "https://127.0.0.1:8443",
            ),
        ] {
            let mut asked = request("GET", "/tests", "");
            asked.headers_mut().remove("host");
            if let Some(host) = host {
                asked.headers_mut().insert("host", host.parse().unwrap());
            }
            asked
                .extensions_mut()
                .insert(kit::peer("127.0.0.1:1", security));
            let answer = server.router.clone().oneshot(asked).await.unwrap();
            let body = axum::body::to_bytes(answer.into_body(), 1 << 20)
                .await
                .unwrap();
            let urls: Vec<String> = serde_json::from_slice(&body).unwrap();
            assert!(
                urls[0].starts_with(&format!("{want}/pscheduler/tests/")),
                "{}",
                urls[0]
            );
        }
    });
}
