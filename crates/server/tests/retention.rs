//! What the configuration no longer keeps goes, and nothing else, on every database, in simulated time.

#![expect(clippy::unwrap_used, reason = "a test fails where it stands")]

use std::time::Duration;

use jiff::SignedDuration;
use muster_core::sample::{ItemType, Value, ValueType};
use muster_core::schedule::Schedule;
use muster_core::task::Origin;
use muster_core::{EndKind, RunState};
use muster_net::{Clock, Entropy};
use muster_server::Control;
use muster_server::control::{Declared, HistoryRange, NewItem, NewTask, Settings, Trouble, Upload};
use muster_server::reconcile::retain;
use muster_store::block::{Content, Flags, Reading};
use muster_store::runs::Filter;
use muster_store::samples::Row;
use muster_store::sealed::Sealer;
use muster_store::testing::for_each_store;
use serde_json::json;

const DAY: u64 = 86_400;

/// A control whose configuration keeps runs for 30 days and values for 60, `keeps` being whether it says so.
async fn control(store: muster_store::Store, keeps: bool) -> Control {
    tokio::time::pause();
    let entropy = Entropy::seeded(7);
    let sealer = Sealer::ephemeral(&mut entropy.rng());
    let clock = Clock::simulated("2026-11-24T12:00:00Z".parse().unwrap());
    let days = |days: i64| keeps.then(|| SignedDuration::from_hours(24 * days));
    let settings = Settings {
        retain_runs: days(30),
        retain_values: days(60),
        ..Settings::default()
    };
    Control::open(store, sealer, settings, clock, entropy)
        .await
        .unwrap()
}

async fn days_pass(days: u64) {
    tokio::time::advance(Duration::from_secs(days * DAY)).await;
}

fn idle() -> NewTask {
    let spec = json!({"schema": 1, "duration": "PT1S"});
    NewTask::new("idle".parse().unwrap(), Origin::Cli, spec)
}

#[test]
fn runs_that_ended_long_ago_go_with_their_task() {
    for_each_store(|store| async move {
        let control = control(store, true).await;
        let old = control.submit(idle()).await.unwrap().id;
        control.cancel(old, "a test").await.unwrap();
        // Every 20 days: its first run is old when the second is not yet.
        let lasting = control
            .submit(NewTask {
                schedule: Schedule {
                    repeat: Some(SignedDuration::from_hours(24 * 20)),
                    ..Schedule::default()
                },
                ..idle()
            })
            .await
            .unwrap()
            .id;
        let first = control.runs(Filter::default(), None, 10).await.unwrap();
        let first = first
            .rows
            .iter()
            .find(|view| view.run.run.task == lasting)
            .unwrap()
            .run
            .run
            .id;
        control.cancel_run(first, "a test").await.unwrap();

        days_pass(29).await;
        assert_eq!(retain::activate(&control).await.unwrap(), 0);
        let young = control.submit(idle()).await.unwrap().id;
        control.cancel(young, "a test").await.unwrap();
        assert!(control.run(first).await.unwrap().run.state.is_ended());

        days_pass(2).await;
        assert!(retain::activate(&control).await.unwrap() >= 2);
        assert_eq!(retain::activate(&control).await.unwrap(), 0);
        for gone in [
            control.task(old).await.map(drop),
            control.run(first).await.map(drop),
        ] {
            assert_eq!(gone.unwrap_err().trouble, Trouble::NotFound);
        }
        // What is active stays, and so does what ended lately.
        control.task(lasting).await.unwrap();
        let young = control
            .runs(
                Filter {
                    task: Some(young),
                    ..Filter::default()
                },
                None,
                10,
            )
            .await
            .unwrap();
        assert_eq!(young.rows.len(), 1);
        assert!(matches!(
            &young.rows[0].run.run.state,
            RunState::Ended(end) if end.kind == EndKind::Cancelled
        ));
    });
}

#[test]
fn values_that_arrived_long_ago_go_and_the_newest_stays() {
    for_each_store(|store| async move {
        let control = control(store, true).await;
        let item = trapper(&control).await;
        upload(&control, item, 1, 10).await;
        days_pass(59).await;
        retain::activate(&control).await.unwrap();
        assert_eq!(values(&control, item).await, [10]);
        days_pass(3).await;
        retain::activate(&control).await.unwrap();
        assert!(values(&control, item).await.is_empty());
        let last = control.find_item("lab:a").await.unwrap().last.unwrap();
        assert!(last.value.is_some());
        upload(&control, item, 2, 11).await;
        assert_eq!(values(&control, item).await, [11]);
    });
}

#[test]
fn a_configuration_that_says_nothing_keeps_everything() {
    for_each_store(|store| async move {
        let control = control(store, false).await;
        let task = control.submit(idle()).await.unwrap().id;
        control.cancel(task, "a test").await.unwrap();
        let item = trapper(&control).await;
        upload(&control, item, 1, 10).await;
        days_pass(4000).await;
        assert_eq!(retain::activate(&control).await.unwrap(), 0);
        control.task(task).await.unwrap();
        assert_eq!(values(&control, item).await, [10]);
    });
}

async fn trapper(control: &Control) -> u64 {
    control
        .declare_host(Declared {
            name: "lab".into(),
            proxy: None,
            address: None,
            port: None,
        })
        .await
        .unwrap();
    let item = NewItem {
        host: "lab".into(),
        key: "a".into(),
        item_type: ItemType::Trapper,
        value_type: ValueType::Unsigned,
        delay: None,
        unit: String::new(),
        name: None,
    };
    control.declare_item(item).await.unwrap().number
}

async fn upload(control: &Control, item: u64, id: u64, value: u64) {
    let clock = control.clock().now().as_second();
    let reading = Reading {
        item,
        clock,
        ns: 0,
        content: Content::Value(Value::Unsigned(value)),
        flags: Flags::default(),
    };
    let upload = Upload {
        peer: "px".into(),
        session: Some("s".repeat(32)),
        rows: vec![Row {
            id: Some(id),
            reading,
        }],
    };
    assert_eq!(control.ingest(upload).await.unwrap().stored, 1);
}

async fn values(control: &Control, item: u64) -> Vec<u64> {
    let range = HistoryRange {
        from: None,
        to: None,
        limit: 10,
    };
    let samples = control.history(item, range).await.unwrap();
    samples
        .into_iter()
        .map(|sample| {
            let Value::Unsigned(value) = sample.value else {
                panic!("{:?}", sample.value)
            };
            value
        })
        .collect()
}
