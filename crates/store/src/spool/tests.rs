//! The spool: queues, jobs, and what a crash leaves.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng as _;

use super::*;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn bodies(texts: &[&str]) -> Vec<Vec<u8>> {
    texts.iter().map(|text| text.as_bytes().to_vec()).collect()
}

fn rng() -> ChaCha8Rng {
    ChaCha8Rng::seed_from_u64(7)
}

/// Runs a story on a spool in memory and on one in a file; `reopen` closes and opens the latter.
fn for_each_spool<Fut: Future<Output = ()>>(story: impl Fn(Spool, Option<PathBuf>) -> Fut) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    runtime.block_on(async {
        story(Spool::open(None, at(0)).await.unwrap(), None).await;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("spool.db");
        story(
            Spool::open(Some(path.clone()), at(0)).await.unwrap(),
            Some(path),
        )
        .await;
    });
}

async fn reopened(spool: Spool, path: Option<PathBuf>) -> Spool {
    match path {
        None => spool,
        Some(path) => {
            drop(spool);
            Spool::open(Some(path), at(0)).await.unwrap()
        }
    }
}

async fn texts(spool: &Spool, queue: &str) -> Vec<(u64, String)> {
    let entries = spool.peek(queue, 100, 1 << 20).await.unwrap();
    entries
        .into_iter()
        .map(|e| (e.id, String::from_utf8(e.body).unwrap()))
        .collect()
}

fn owned(entries: &[(u64, &str)]) -> Vec<(u64, String)> {
    entries
        .iter()
        .map(|(id, text)| (*id, (*text).to_owned()))
        .collect()
}

#[test]
fn entries_stay_until_they_are_acknowledged() {
    for_each_spool(|spool, path| async move {
        let first = spool.queue("values", &mut rng()).await.unwrap();
        assert_eq!(first.session.len(), 32);
        let added = spool
            .add("values", bodies(&["a", "b", "c"]), Bound::VALUES, at(1))
            .await;
        assert_eq!(
            added.unwrap(),
            Added::Queued {
                first: 1,
                dropped: 0
            }
        );
        assert_eq!(spool.acknowledge("values", 2).await.unwrap(), 2);
        let spool = reopened(spool, path).await;
        assert_eq!(texts(&spool, "values").await, owned(&[(3, "c")]));
        // Ids go on in the same session, also when the queue had run empty.
        assert_eq!(spool.acknowledge("values", 99).await.unwrap(), 1);
        assert_eq!(spool.acknowledge("values", 99).await.unwrap(), 0);
        let added = spool
            .add("values", bodies(&["d"]), Bound::VALUES, at(2))
            .await;
        assert_eq!(
            added.unwrap(),
            Added::Queued {
                first: 4,
                dropped: 0
            }
        );
        let state = spool.queue("values", &mut rng()).await.unwrap();
        assert_eq!(
            state,
            QueueState {
                session: first.session,
                last: 4,
                entries: 1,
                bytes: 1,
                dropped: 0
            }
        );
        let entry = &spool.peek("values", 1, 1).await.unwrap()[0];
        assert_eq!(entry.made_at, at(2));
    });
}

#[test]
fn sessions_of_queues_differ_and_a_queue_must_exist() {
    for_each_spool(|spool, _| async move {
        let mut rng = rng();
        let one = spool.queue("one", &mut rng).await.unwrap();
        let two = spool.queue("two", &mut rng).await.unwrap();
        assert_ne!(one.session, two.session);
        spool
            .add("one", bodies(&["x"]), Bound::VALUES, at(0))
            .await
            .unwrap();
        assert!(texts(&spool, "two").await.is_empty());
        let nowhere = spool
            .add("three", bodies(&["x"]), Bound::VALUES, at(0))
            .await;
        assert!(
            matches!(nowhere, Err(StoreError::NoRow { .. })),
            "{nowhere:?}"
        );
    });
}

#[test]
fn peeking_is_bounded_by_entries_and_bytes() {
    for_each_spool(|spool, _| async move {
        spool.queue("q", &mut rng()).await.unwrap();
        spool
            .add("q", bodies(&["12345", "67890", "x"]), Bound::VALUES, at(0))
            .await
            .unwrap();
        for (entries, bytes, expected) in [
            (2, 100, 2),
            (100, 10, 2),
            (100, 11, 3),
            (100, 1, 1),
            (0, 100, 0),
            (100, 9, 1),
        ] {
            let found = spool.peek("q", entries, bytes).await.unwrap();
            assert_eq!(found.len(), expected, "{entries} {bytes}");
        }
    });
}

#[test]
fn a_full_queue_drops_its_oldest_or_refuses() {
    for_each_spool(|spool, _| async move {
        spool.queue("q", &mut rng()).await.unwrap();
        let few = Bound {
            entries: 3,
            bytes: 100,
            overflow: Overflow::DropOldest,
        };
        spool
            .add("q", bodies(&["a", "b", "c"]), few, at(0))
            .await
            .unwrap();
        let added = spool
            .add("q", bodies(&["d", "e"]), few, at(0))
            .await
            .unwrap();
        assert_eq!(
            added,
            Added::Queued {
                first: 4,
                dropped: 2
            }
        );
        assert_eq!(
            texts(&spool, "q").await,
            owned(&[(3, "c"), (4, "d"), (5, "e")])
        );

        let refusing = Bound {
            overflow: Overflow::Refuse,
            ..few
        };
        assert_eq!(
            spool
                .add("q", bodies(&["f"]), refusing, at(0))
                .await
                .unwrap(),
            Added::Refused
        );
        assert_eq!(texts(&spool, "q").await.len(), 3);

        let small = Bound {
            entries: 100,
            bytes: 5,
            overflow: Overflow::DropOldest,
        };
        let added = spool
            .add("q", bodies(&["1234"]), small, at(0))
            .await
            .unwrap();
        assert_eq!(
            added,
            Added::Queued {
                first: 6,
                dropped: 2
            }
        );
        assert_eq!(texts(&spool, "q").await, owned(&[(5, "e"), (6, "1234")]));
        // What alone exceeds the bound is lost itself, and counted.
        let added = spool
            .add("q", bodies(&["123456"]), small, at(0))
            .await
            .unwrap();
        assert_eq!(
            added,
            Added::Queued {
                first: 7,
                dropped: 3
            }
        );
        let state = spool.queue("q", &mut rng()).await.unwrap();
        assert_eq!((state.entries, state.bytes, state.dropped), (0, 0, 7));
    });
}

fn intent(run: &str, generation: u64, second: i64) -> JobIntent {
    JobIntent {
        peer: "teeth://one".to_owned(),
        run: run.to_owned(),
        generation,
        kind: "decom.qc".to_owned(),
        fingerprint: "f".to_owned(),
        at: at(second),
    }
}

#[test]
fn a_job_is_remembered_from_intent_to_acknowledgement() {
    for_each_spool(|spool, path| async move {
        let peer = "teeth://one";
        assert_eq!(spool.recall(peer, "t-1").await.unwrap(), None);
        spool.intend(intent("t-1", u64::MAX, 10)).await.unwrap();
        spool.intend(intent("t-2", 1, 5)).await.unwrap();
        let spool = reopened(spool, path.clone()).await;
        let open: Vec<String> = spool
            .unfinished()
            .await
            .unwrap()
            .into_iter()
            .map(|i| i.run)
            .collect();
        assert_eq!(open, ["t-2", "t-1"]);
        assert!(spool.unacknowledged(peer).await.unwrap().is_empty());
        // An ending is acknowledged only when there is one, and the first one stays.
        spool.acknowledge_job(peer, "t-1").await.unwrap();
        spool.conclude(peer, "t-1", "done", at(20)).await.unwrap();
        spool.conclude(peer, "t-1", "failed", at(21)).await.unwrap();
        let spool = reopened(spool, path).await;
        let record = JobRecord {
            intent: intent("t-1", u64::MAX, 10),
            ending: Some("done".to_owned()),
            acknowledged: false,
        };
        assert_eq!(
            spool.recall(peer, "t-1").await.unwrap().as_ref(),
            Some(&record)
        );
        assert_eq!(spool.unacknowledged(peer).await.unwrap(), [record]);
        assert!(
            spool
                .unacknowledged("teeth://two")
                .await
                .unwrap()
                .is_empty()
        );
        assert_eq!(spool.forget(at(1000)).await.unwrap(), 0);
        spool.acknowledge_job(peer, "t-1").await.unwrap();
        assert!(spool.unacknowledged(peer).await.unwrap().is_empty());
        assert_eq!(spool.forget(at(10)).await.unwrap(), 0);
        assert_eq!(spool.forget(at(11)).await.unwrap(), 1);
        assert_eq!(spool.recall(peer, "t-1").await.unwrap(), None);
        assert_eq!(spool.unfinished().await.unwrap().len(), 1);
    });
}

#[test]
fn a_new_offer_of_a_run_begins_it_anew() {
    for_each_spool(|spool, _| async move {
        spool.intend(intent("t-1", 1, 10)).await.unwrap();
        spool
            .conclude("teeth://one", "t-1", "done", at(11))
            .await
            .unwrap();
        spool.acknowledge_job("teeth://one", "t-1").await.unwrap();
        spool.intend(intent("t-1", 2, 20)).await.unwrap();
        let record = spool.recall("teeth://one", "t-1").await.unwrap().unwrap();
        assert_eq!(record.intent, intent("t-1", 2, 20));
        assert_eq!((record.ending, record.acknowledged), (None, false));
    });
}

#[test]
fn small_facts_are_kept() {
    for_each_spool(|spool, path| async move {
        assert_eq!(spool.kept("id").await.unwrap(), None);
        spool.keep("id", vec![1, 2]).await.unwrap();
        spool.keep("id", vec![3]).await.unwrap();
        let spool = reopened(spool, path).await;
        assert_eq!(spool.kept("id").await.unwrap(), Some(vec![3]));
    });
}

/// A fault at every point of adding and acknowledging: counts and entries always agree, and what was
/// reported as queued is there.
#[test]
fn a_fault_at_any_point_leaves_the_queue_whole() {
    for_each_spool(|spool, _| async move {
        spool.queue("q", &mut rng()).await.unwrap();
        let bound = Bound {
            entries: 4,
            bytes: 1000,
            overflow: Overflow::DropOldest,
        };
        for point in 0.. {
            spool.faults().set(point);
            let added = spool.add("q", bodies(&["xx", "yy"]), bound, at(0)).await;
            let acknowledged = match &added {
                Ok(Added::Queued { first, .. }) => spool.acknowledge("q", first - 1).await.is_ok(),
                Ok(Added::Refused) => panic!("refused"),
                Err(_) => false,
            };
            let unstruck = spool.faults().clear();
            let found = texts(&spool, "q").await;
            let state = spool.queue("q", &mut rng()).await.unwrap();
            assert_eq!(state.entries, found.len() as u64, "point {point}");
            assert_eq!(
                state.bytes,
                found.iter().map(|f| f.1.len() as u64).sum::<u64>()
            );
            if let Ok(Added::Queued { first, .. }) = added {
                assert!(found.iter().any(|(id, _)| *id == first));
                assert!(!acknowledged || found.len() == 2);
            }
            if unstruck {
                assert!(point > 5);
                break;
            }
        }
    });
}
