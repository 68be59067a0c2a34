//! Two servers on one PostgreSQL: what one changes wakes who waits at the other. Real time, as the word
//! comes from outside.

#![expect(clippy::unwrap_used, reason = "a test fails where it stands")]

use std::time::Duration;

use muster_core::sample::{ItemType, ValueType};
use muster_core::task::Origin;
use muster_net::{Clock, Entropy};
use muster_server::Control;
use muster_server::control::{Changes, Declared, NewItem, NewTask, Settings};
use muster_store::sealed::Sealer;
use muster_store::testing::for_each_durable_url;
use muster_store::{Store, StoreUrl};
use serde_json::json;

/// Far more than a word needs, for a machine that is busy with other tests.
const PATIENCE: Duration = Duration::from_secs(60);

async fn replica(url: &StoreUrl, key: &std::path::Path, seed: u64) -> Control {
    let store = Store::open(url.clone()).await.unwrap();
    let clock = Clock::system();
    store.migrate(clock.now()).await.unwrap();
    let entropy = Entropy::seeded(seed);
    let sealer = Sealer::from_file(key, &mut entropy.rng()).unwrap();
    Control::open(store, sealer, Settings::default(), clock, entropy)
        .await
        .unwrap()
}

async fn hears(changes: &mut Changes, what: &str) {
    let heard = tokio::time::timeout(PATIENCE, changes.changed()).await;
    assert!(heard.is_ok(), "nothing was heard of {what}");
}

async fn knows_item(control: &Control, host: &str, key: &str) {
    let known = async {
        while control.item_index().by_key(host, key).is_none() {
            tokio::task::yield_now().await;
        }
    };
    assert!(tokio::time::timeout(PATIENCE, known).await.is_ok());
}

#[test]
fn what_one_replica_changes_wakes_who_waits_at_the_other() {
    for_each_durable_url(|url| {
        if !matches!(url, StoreUrl::Postgres(_)) {
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let key = folder.path().join("key");
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(async {
            let here = replica(&url, &key, 1).await;
            let there = replica(&url, &key, 2).await;
            let (mut runs, mut work) = (there.run_changes(), there.work_changes());
            for control in [here.clone(), there.clone()] {
                tokio::spawn(async move { control.relay().await });
            }
            // The first word is that something may have been missed.
            hears(&mut runs, "the start").await;
            hears(&mut work, "the start").await;

            here.submit(NewTask::new(
                "idle".parse().unwrap(),
                Origin::Cli,
                json!({"schema": 1, "duration": "PT1S"}),
            ))
            .await
            .unwrap();
            hears(&mut runs, "the run").await;
            hears(&mut work, "the work").await;

            here.declare_host(Declared {
                name: "web".into(),
                proxy: None,
                address: None,
                port: None,
            })
            .await
            .unwrap();
            here.declare_item(NewItem {
                host: "web".into(),
                key: "load".into(),
                item_type: ItemType::Trapper,
                value_type: ValueType::Float,
                delay: None,
                unit: String::new(),
                name: None,
            })
            .await
            .unwrap();
            knows_item(&there, "web", "load").await;
        });
    });
}
