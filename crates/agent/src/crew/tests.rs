//! The crew against tools made for the purpose, in virtual time.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::future::BoxFuture;
use serde_json::json;

use super::*;
use crate::policy::DEFAULT_POLICY;

/// A tool whose spec says what it does: `{"ms": 10}` sleeps, `{"fail": "why"}` fails, `{"panic":
/// true}` panics, `{"hang": true}` waits until it is cancelled, `{"deaf": true}` longer.
#[derive(Clone, Default)]
struct Probe {
    class: Option<ActionClass>,
    now: Arc<AtomicUsize>,
    peak: Arc<AtomicUsize>,
    runs: Arc<AtomicUsize>,
    order: Arc<Mutex<Vec<String>>>,
}

impl Tool for Probe {
    fn kind(&self) -> &'static str {
        "probe"
    }

    fn class(&self, _: &Value) -> ActionClass {
        self.class.unwrap_or(ActionClass::Observe)
    }

    fn check(&self, spec: &Value) -> Result<(), SpecError> {
        match spec.get("bad") {
            Some(_) => Err(SpecError::at("/bad", "is there")),
            None => Ok(()),
        }
    }

    fn target_member(&self) -> &'static str {
        "name"
    }

    fn run<'a>(&'a self, ctx: Context, spec: Value) -> BoxFuture<'a, Outcome> {
        Box::pin(async move {
            self.runs.fetch_add(1, Ordering::SeqCst);
            let name = spec["name"].as_str().unwrap_or("-").to_owned();
            self.order.lock().unwrap().push(format!("+{name}"));
            let now = self.now.fetch_add(1, Ordering::SeqCst) + 1;
            self.peak.fetch_max(now, Ordering::SeqCst);
            ctx.report.progress(50.0, Some(Duration::from_secs(1)));
            if let Some(found) = spec.get("found") {
                ctx.report.found(found.clone()).await;
            }
            if spec["hang"] == true {
                ctx.cancel.cancelled().await;
            }
            if spec["deaf"] == true {
                tokio::time::sleep(Duration::from_secs(3600)).await;
            }
            tokio::time::sleep(Duration::from_millis(spec["ms"].as_u64().unwrap_or(10))).await;
            self.now.fetch_sub(1, Ordering::SeqCst);
            self.order.lock().unwrap().push(format!("-{name}"));
            assert!(spec["panic"] != true, "as asked");
            match spec["fail"].as_str() {
                Some(reason) => Err(Failure::failed(reason)),
                None => Ok(json!({ "name": name })),
            }
        })
    }
}

struct Bench {
    _dir: tempfile::TempDir,
    crew: Crew,
    probe: Probe,
    ledger: Arc<MemoryLedger>,
    audit: PathBuf,
}

fn bench_with(probe: Probe, policy: &str, ledger: Arc<MemoryLedger>) -> Bench {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("policy.toml"), policy).unwrap();
    let parts = CrewParts {
        registry: Registry::empty().with(probe.clone()),
        policy: PolicySource::new("/nonexistent/policy.toml", dir.path()),
        audit: Audit::in_state(dir.path()),
        clock: Clock::simulated("2026-01-01T00:00:00Z".parse().unwrap()),
        seed: [7; 32],
        root: "/".into(),
        state: dir.path().into(),
    };
    let crew = Crew::new(parts, Arc::clone(&ledger) as Arc<dyn Ledger>);
    let audit = dir.path().join("audit.jsonl");
    Bench {
        _dir: dir,
        crew,
        probe,
        ledger,
        audit,
    }
}

fn bench() -> Bench {
    bench_with(Probe::default(), DEFAULT_POLICY, Arc::default())
}

fn key(run: &str, generation: u64) -> RunKey {
    RunKey {
        peer: "test://server".into(),
        run: run.into(),
        generation,
    }
}

fn job(run: &str, spec: Value) -> Job {
    Job::new(key(run, 1), "probe", spec)
}

async fn words(mut news: mpsc::Receiver<News>) -> Vec<Word> {
    let mut words = Vec::new();
    while let Some(next) = news.recv().await {
        let last = matches!(next.word, Word::Finished(_) | Word::Failed(_));
        words.push(next.word);
        if last {
            break;
        }
    }
    words
}

/// Waits until the tool is at work, which a probe tells by its progress.
async fn at_work(news: &mut mpsc::Receiver<News>) {
    while !matches!(news.recv().await.unwrap().word, Word::Progress(_)) {}
}

async fn run(bench: &Bench, job: Job) -> Vec<Word> {
    let (sender, news) = news::channel();
    assert_eq!(
        bench.crew.submit(job, sender).await.unwrap(),
        Accepted::Started
    );
    words(news).await
}

fn decisions(bench: &Bench) -> Vec<(String, String)> {
    let text = std::fs::read_to_string(&bench.audit).unwrap_or_default();
    text.lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap())
        .map(|line| {
            let word = |name: &str| line[name].as_str().unwrap().to_owned();
            (word("decision"), word("run"))
        })
        .collect()
}

#[tokio::test(start_paused = true)]
async fn words_come_in_order() {
    let bench = bench();
    let said = run(
        &bench,
        job("r", json!({"name": "a", "found": {"ip": "127.0.0.1"}})),
    )
    .await;
    assert_eq!(
        said,
        [
            Word::Begun,
            Word::Progress(Progress {
                percent: 50.0,
                eta: Some(Duration::from_secs(1))
            }),
            Word::Found {
                target: 0,
                value: json!({"ip": "127.0.0.1"})
            },
            Word::Finished(json!({"name": "a"})),
        ]
    );
    let expected = ["allow", "end"].map(|word| (word.to_owned(), "r".to_owned()));
    assert_eq!(decisions(&bench), expected);
    assert!(bench.crew.underway().is_empty());
}

/// FusionInventory contract, section 1.3, rule 3.
#[tokio::test(start_paused = true)]
async fn workers_bound_targets_at_once() {
    for (workers, peak) in [
        (None, 1),
        (Some(0), 1),
        (Some(1), 1),
        (Some(3), 3),
        (Some(50), 8),
    ] {
        let bench = bench();
        let mut job = job("r", json!({"ms": 10}));
        job.targets = (0..8).map(|n| json!(format!("t{n}"))).collect();
        job.workers = workers;
        let said = run(&bench, job).await;
        assert_eq!(bench.probe.peak.load(Ordering::SeqCst), peak, "{workers:?}");
        let Some(Word::Finished(result)) = said.last() else {
            panic!("{said:?}")
        };
        let names = result["targets"].as_array().unwrap();
        let names = names
            .iter()
            .map(|row| row["result"]["name"].as_str().unwrap());
        assert!(
            names.eq((0..8).map(|n| format!("t{n}"))),
            "in the order of the targets"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_slow_target_does_not_hold_the_others_places() {
    let bench = bench();
    let mut job = job("r", json!({}));
    job.targets = vec![json!({"name": "slow", "ms": 100})];
    job.targets
        .extend((0..9).map(|n| json!({"name": format!("t{n}"), "ms": 10})));
    job.workers = Some(2);
    run(&bench, job).await;
    let order = bench.probe.order.lock().unwrap().clone();
    assert_eq!(order.last().unwrap(), "-slow");
    assert_eq!(order.len(), 20);
}

/// FusionInventory contract, section 1.3, rule 6.
#[tokio::test(start_paused = true)]
async fn a_failing_target_spares_its_siblings() {
    let bench = bench();
    let mut job = job("r", json!({"_community": "secret"}));
    job.targets = vec![
        json!({"name": "a", "fail": "no answer", "credentials": ["secret"]}),
        json!({"name": "b", "panic": true}),
        json!({"name": "c"}),
    ];
    let said = run(&bench, job).await;
    let Some(Word::Finished(result)) = said.last() else {
        panic!("{said:?}")
    };
    assert_eq!(result["targets"][0]["error"], "no answer");
    assert_eq!(
        result["targets"][1]["error"],
        "the tool failed unexpectedly; this is a bug"
    );
    assert_eq!(result["targets"][2]["result"], json!({"name": "c"}));
    assert!(!result.to_string().contains("secret"), "{result}");
}

#[tokio::test(start_paused = true)]
async fn all_targets_failing_fails_the_job() {
    let bench = bench();
    let mut job = job("r", json!({"fail": "no answer"}));
    job.targets = vec![json!("a"), json!("b")];
    let said = run(&bench, job).await;
    let Some(Word::Failed(failure)) = said.last() else {
        panic!("{said:?}")
    };
    assert_eq!(failure.reason, "no answer");
    assert_eq!(
        failure.result.as_ref().unwrap()["targets"]
            .as_array()
            .unwrap()
            .len(),
        2
    );
}

/// FusionInventory contract, section 1.3, rules 1, 2 and 6.
#[tokio::test(start_paused = true)]
async fn a_lane_runs_one_job_after_another() {
    let bench = bench();
    let mut listeners = Vec::new();
    for (name, spec) in [
        ("a", json!({"ms": 30})),
        ("b", json!({"ms": 20, "fail": "x"})),
        ("c", json!({"ms": 10})),
    ] {
        let (sender, news) = news::channel();
        let mut job = job(name, spec);
        job.targets = vec![json!(name)];
        job.lane = Some("fusion".into());
        bench.crew.submit(job, sender).await.unwrap();
        listeners.push(news);
    }
    for news in listeners {
        words(news).await;
    }
    assert_eq!(
        *bench.probe.order.lock().unwrap(),
        ["+a", "-a", "+b", "-b", "+c", "-c"]
    );
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_job_in_the_middle_of_a_lane_lets_nobody_past() {
    let bench = bench();
    let mut listeners = Vec::new();
    for name in ["a", "b", "c"] {
        let (sender, news) = news::channel();
        let mut job = job(name, json!({"ms": 50, "name": name}));
        job.lane = Some("fusion".into());
        bench.crew.submit(job, sender).await.unwrap();
        listeners.push(news);
    }
    assert!(bench.crew.cancel("test://server", "b"));
    let mut ends = Vec::new();
    for news in listeners {
        ends.push(words(news).await);
    }
    assert_eq!(ends[1], [Word::Failed(Failure::cancelled())]);
    assert_eq!(*bench.probe.order.lock().unwrap(), ["+a", "-a", "+c", "-c"]);
}

#[tokio::test(start_paused = true)]
async fn jobs_without_a_lane_run_side_by_side() {
    let bench = bench();
    let mut listeners = Vec::new();
    for name in ["a", "b"] {
        let (sender, news) = news::channel();
        bench
            .crew
            .submit(job(name, json!({"name": name})), sender)
            .await
            .unwrap();
        listeners.push(news);
    }
    for news in listeners {
        words(news).await;
    }
    assert_eq!(bench.probe.peak.load(Ordering::SeqCst), 2);
}

#[tokio::test(start_paused = true)]
async fn a_repeat_while_it_runs_moves_the_line_and_starts_nothing() {
    let bench = bench();
    let (first, mut first_news) = news::channel();
    bench
        .crew
        .submit(job("r", json!({"ms": 100})), first)
        .await
        .unwrap();
    at_work(&mut first_news).await;
    let (second, mut second_news) = news::channel();
    let again = Job {
        key: key("r", 2),
        ..job("r", json!({"ms": 100}))
    };
    let accepted = bench.crew.submit(again, second).await.unwrap();
    assert!(matches!(accepted, Accepted::Running(Progress { percent, .. }) if percent == 50.0));
    let last = second_news.recv().await.unwrap();
    assert_eq!(
        last.key,
        key("r", 2),
        "told under the generation it was last offered with"
    );
    assert!(matches!(last.word, Word::Finished(_)));
    assert_eq!(bench.probe.runs.load(Ordering::SeqCst), 1);

    let (third, _news) = news::channel();
    let other_work = Job {
        key: key("r", 3),
        ..job("r", json!({"ms": 1}))
    };
    assert!(matches!(
        bench.crew.submit(other_work, third).await,
        Err(Refusal::InUse)
    ));
}

#[tokio::test(start_paused = true)]
async fn a_repeat_after_its_end_is_answered_and_not_done_again() {
    let bench = bench();
    run(&bench, job("r", json!({"fail": "no"}))).await;
    let waiting = bench.crew.unacknowledged("test://server").await.unwrap();
    assert_eq!(waiting.len(), 1);
    for generation in [1, 2] {
        let (sender, _news) = news::channel();
        let again = Job {
            key: key("r", generation),
            ..job("r", json!({"fail": "no"}))
        };
        let accepted = bench.crew.submit(again, sender).await.unwrap();
        assert_eq!(
            accepted,
            Accepted::Ended(Ending::Failed(Failure::failed("no")))
        );
    }
    assert_eq!(bench.probe.runs.load(Ordering::SeqCst), 1);
    bench.crew.acknowledge(&key("r", 2)).await.unwrap();
    assert!(
        bench
            .crew
            .unacknowledged("test://server")
            .await
            .unwrap()
            .is_empty()
    );
}

/// A job that a restart cut off: failed; again only for harmless work and under a later offer.
#[tokio::test(start_paused = true)]
async fn after_a_restart_nothing_is_done_twice() {
    for (class, policy, repeats) in [
        (ActionClass::Observe, DEFAULT_POLICY, true),
        (ActionClass::Command, "[command]\nallow = true", false),
    ] {
        if !repeats && !rustix::process::geteuid().is_root() {
            continue;
        }
        let ledger = Arc::new(MemoryLedger::default());
        let spec = json!({"hang": true, "deaf": true});
        let probe = Probe {
            class: Some(class),
            ..Probe::default()
        };
        let before = bench_with(probe.clone(), policy, Arc::clone(&ledger));
        let (sender, mut news) = news::channel();
        before
            .crew
            .submit(job("r", spec.clone()), sender)
            .await
            .unwrap();
        news.recv().await.unwrap();

        let after = bench_with(probe.clone(), policy, Arc::clone(&ledger));
        assert_eq!(after.crew.recover().await.unwrap(), 1);
        let told = after.crew.unacknowledged("test://server").await.unwrap();
        let Some(Ending::Failed(failure)) = &told[0].ending else {
            panic!("{told:?}")
        };
        assert_eq!(failure.cause, Cause::Interrupted);

        let (sender, _news) = news::channel();
        let same = after
            .crew
            .submit(job("r", spec.clone()), sender)
            .await
            .unwrap();
        assert!(
            matches!(same, Accepted::Ended(Ending::Failed(_))),
            "{same:?}"
        );
        let (sender, _news) = news::channel();
        let later = Job {
            key: key("r", 2),
            ..job("r", spec.clone())
        };
        let accepted = after.crew.submit(later, sender).await.unwrap();
        assert_eq!(accepted == Accepted::Started, repeats, "{accepted:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn refusals_say_why_and_are_recorded() {
    let bench = bench();
    let submit = async |job: Job| bench.crew.submit(job, news::channel().0).await;
    let unknown = submit(Job::new(key("u", 1), "standbye.run_image", json!({}))).await;
    assert_eq!(
        unknown.unwrap_err().to_string(),
        "this agent cannot do standbye.run_image"
    );
    let bad = submit(job("b", json!({"bad": 1}))).await.unwrap_err();
    let Refusal::Spec { source, .. } = &bad else {
        panic!("{bad}")
    };
    assert_eq!(source.to_string(), "at /bad: is there");
    let mut odd = job("o", json!({}));
    odd.targets = vec![json!(7)];
    assert!(matches!(submit(odd).await, Err(Refusal::Spec { .. })));
    assert_eq!(decisions(&bench), [("deny".to_owned(), "u".to_owned())]);
    assert_eq!(bench.probe.runs.load(Ordering::SeqCst), 0);
}

/// Agent policy matrix: each class under the defaults, and under a broken file.
#[tokio::test(start_paused = true)]
async fn policy_matrix() {
    for class in ActionClass::ALL {
        for (policy, allowed) in [
            (DEFAULT_POLICY, class <= ActionClass::Measure),
            ("garbled", false),
            ("", false),
        ] {
            let probe = Probe {
                class: Some(class),
                ..Probe::default()
            };
            let bench = bench_with(probe, policy, Arc::default());
            let accepted = bench
                .crew
                .submit(job("r", json!({})), news::channel().0)
                .await;
            match accepted {
                Ok(_) => assert!(allowed, "{class:?}"),
                Err(Refusal::Denied { class: denied, .. }) => {
                    assert!(!allowed, "{class:?}");
                    assert_eq!(denied, class);
                }
                Err(other) => panic!("{other}"),
            }
            bench.crew.drain().await;
            let first = if allowed { "allow" } else { "deny" };
            assert_eq!(decisions(&bench)[0].0, first, "{class:?}");
            let ran = bench.probe.runs.load(Ordering::SeqCst);
            assert!(allowed || ran == 0);
            let remembered = bench.ledger.recall(&key("r", 1)).await.unwrap();
            assert_eq!(
                remembered.is_some(),
                allowed,
                "what was denied may be asked again"
            );
        }
    }
}

/// Threat model, section 2: plain http to another machine, for observe, scan and measure only.
#[tokio::test(start_paused = true)]
async fn a_server_that_proved_nothing_is_obeyed_in_harmless_things_only() {
    let all = ActionClass::ALL.map(|class| format!("[{}]\nallow = true\n", class.word()));
    for class in ActionClass::ALL {
        let probe = Probe {
            class: Some(class),
            ..Probe::default()
        };
        let bench = bench_with(probe, &all.concat(), Arc::default());
        let unproven = Job {
            unproven: true,
            ..job("r", json!({}))
        };
        let accepted = bench.crew.submit(unproven, news::channel().0).await;
        bench.crew.drain().await;
        if class <= ActionClass::Measure {
            assert_eq!(accepted.unwrap(), Accepted::Started, "{class:?}");
            continue;
        }
        let said = accepted.unwrap_err().to_string();
        assert!(said.contains("plain http on another machine"), "{said}");
        assert_eq!(decisions(&bench), [("deny".to_owned(), "r".to_owned())]);
        assert_eq!(bench.probe.runs.load(Ordering::SeqCst), 0, "{class:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_recorded_is_not_done() {
    let bench = bench();
    std::fs::create_dir(&bench.audit).unwrap();
    let refused = bench
        .crew
        .submit(job("r", json!({})), news::channel().0)
        .await;
    assert!(matches!(refused, Err(Refusal::Audit(_))));
    assert_eq!(bench.probe.runs.load(Ordering::SeqCst), 0);
}

/// Teeth contract, section 7, rule 7.
#[tokio::test(start_paused = true)]
async fn one_destructive_job_at_a_time() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let probe = Probe {
        class: Some(ActionClass::Destroy),
        ..Probe::default()
    };
    let bench = bench_with(probe, "[destroy]\nallow = true", Arc::default());
    let (sender, news) = news::channel();
    bench
        .crew
        .submit(job("a", json!({"ms": 50})), sender)
        .await
        .unwrap();
    let refused = bench
        .crew
        .submit(job("b", json!({})), news::channel().0)
        .await;
    assert_eq!(refused.unwrap_err().to_string(), "agent busy: task a");
    words(news).await;
    let (sender, _news) = news::channel();
    assert_eq!(
        bench
            .crew
            .submit(job("b", json!({})), sender)
            .await
            .unwrap(),
        Accepted::Started
    );
}

#[tokio::test(start_paused = true)]
async fn cancel_deadline_and_start_are_kept() {
    let bench = bench();
    let (sender, mut news) = news::channel();
    bench
        .crew
        .submit(job("c", json!({"hang": true})), sender)
        .await
        .unwrap();
    at_work(&mut news).await;
    assert!(bench.crew.cancel("test://server", "c"));
    let Some(Word::Failed(failure)) = words(news).await.pop() else {
        panic!("not failed")
    };
    assert_eq!(failure.cause, Cause::Cancelled);
    assert_eq!(
        failure.result,
        Some(json!({"name": "-"})),
        "what it had by then is kept"
    );
    assert!(!bench.crew.cancel("test://server", "c"));

    let clock = bench.crew.inner.clock.clone();
    let begin = clock.now();
    let mut deaf = job("d", json!({"deaf": true}));
    deaf.deadline = Some(begin + jiff::SignedDuration::from_secs(60));
    let Some(Word::Failed(failure)) = run(&bench, deaf).await.pop() else {
        panic!("not failed")
    };
    assert_eq!(failure.cause, Cause::Deadline);
    let took = clock.now().duration_since(begin).as_secs();
    assert!((60..=66).contains(&took), "{took}");

    let begin = clock.now();
    let mut later = job("s", json!({"ms": 0}));
    later.start = Some(begin + jiff::SignedDuration::from_secs(90));
    let (sender, mut news) = news::channel();
    bench.crew.submit(later, sender).await.unwrap();
    assert_eq!(bench.crew.underway().len(), 1);
    assert_eq!(news.recv().await.unwrap().word, Word::Begun);
    assert_eq!(clock.now().duration_since(begin).as_secs(), 90);
}

#[tokio::test(start_paused = true)]
async fn draining_ends_all_and_takes_no_more() {
    let bench = bench();
    let (sender, mut news) = news::channel();
    bench
        .crew
        .submit(job("r", json!({"hang": true})), sender)
        .await
        .unwrap();
    at_work(&mut news).await;
    bench.crew.drain().await;
    let Some(Word::Failed(failure)) = words(news).await.pop() else {
        panic!("not failed")
    };
    assert_eq!(
        (failure.cause, failure.reason.as_str()),
        (Cause::Interrupted, SHUTDOWN_REASON)
    );
    let refused = bench
        .crew
        .submit(job("s", json!({})), news::channel().0)
        .await;
    assert!(matches!(refused, Err(Refusal::Closed)));
}

#[tokio::test(start_paused = true)]
async fn a_link_that_went_away_stops_nothing() {
    let bench = bench();
    let (sender, news) = news::channel();
    drop(news);
    let spec = json!({"found": 1, "ms": 5});
    bench.crew.submit(job("r", spec), sender).await.unwrap();
    // All jobs have ended; none was told to.
    bench.crew.inner.tracker.close();
    bench.crew.inner.tracker.wait().await;
    let kept = bench.crew.unacknowledged("test://server").await.unwrap();
    assert!(matches!(kept[0].ending, Some(Ending::Finished(_))));
}

#[tokio::test(start_paused = true)]
async fn the_number_of_jobs_is_bounded() {
    let bench = bench();
    for n in 0..JOBS_MAX {
        let (sender, _news) = news::channel();
        let mut waiting = job(&format!("r{n}"), json!({"hang": true}));
        waiting.lane = Some("one".into());
        bench.crew.submit(waiting, sender).await.unwrap();
    }
    let refused = bench
        .crew
        .submit(job("more", json!({})), news::channel().0)
        .await;
    assert!(matches!(refused, Err(Refusal::Full)));
    bench.crew.drain().await;
}

#[test]
fn fingerprints_ignore_the_order_of_members() {
    let digest = |spec: &str| fingerprint(&job("r", serde_json::from_str(spec).unwrap()));
    assert_eq!(
        digest(r#"{"a":1,"b":[{"c":2,"d":3}]}"#),
        digest(r#"{"b":[{"d":3,"c":2}],"a":1}"#)
    );
    assert_ne!(digest(r#"{"a":[1,2]}"#), digest(r#"{"a":[2,1]}"#));
    assert_ne!(digest(r#"{"a":"1"}"#), digest(r#"{"a":1}"#));
}

#[test]
fn endings_read_back() {
    let full = Failure::failed("why")
        .with_remedy("do")
        .with_result(json!([1]));
    for ending in [
        Ending::Finished(json!({"a": 1})),
        Ending::Finished(Value::Null),
        Ending::Failed(Failure::cancelled()),
        Ending::Failed(full),
    ] {
        assert_eq!(Ending::from_json(&ending.to_json()), Some(ending));
    }
    for bad in [
        json!(null),
        json!({}),
        json!({"failed": {"cause": "sad", "reason": "x"}}),
    ] {
        assert_eq!(Ending::from_json(&bad), None);
    }
}
