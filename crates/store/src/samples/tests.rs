//! Tests of the intake and of reading back, on every database.

use std::collections::BTreeMap;

use muster_core::sample::{Sample, Value};
use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::TestRunner;

use super::*;
use crate::block::{Content, Flags};
use crate::params;
use crate::testing::{for_each_durable_url, for_each_store};

const NOON: i64 = 1_795_262_400;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn unsigned(item: u64, clock: i64, number: u64) -> Reading {
    Reading::from(Sample {
        item,
        clock,
        ns: 0,
        value: Value::Unsigned(number),
    })
}

fn not_supported(item: u64, clock: i64, error: &str) -> Reading {
    Reading {
        item,
        clock,
        ns: 0,
        content: Content::NotSupported(error.to_owned()),
        flags: Flags::default(),
    }
}

fn batch(peer: &str, session: &str, rows: impl IntoIterator<Item = (u64, Reading)>) -> Batch {
    Batch {
        peer: peer.to_owned(),
        session: Some(session.to_owned()),
        rows: rows
            .into_iter()
            .map(|(id, reading)| Row {
                id: Some(id),
                reading,
            })
            .collect(),
    }
}

async fn open(store: &Store, writer: u128) -> Samples {
    Samples::open(store.clone(), Uuid::from_u128(writer), Limits::default())
        .await
        .unwrap()
}

async fn numbers(samples: &Samples, item: u64, span: Span) -> Vec<(i64, u64)> {
    let found = samples.range(item, span).await.unwrap();
    found
        .into_iter()
        .map(|s| match s.value {
            Value::Unsigned(number) => (s.clock, number),
            other @ (Value::Float(_) | Value::Log(_) | Value::Text(_)) => panic!("{other:?}"),
        })
        .collect()
}

fn stored(stored: usize, duplicates: usize) -> Accepted {
    Accepted { stored, duplicates }
}

#[test]
fn values_are_read_back_by_item_and_time() {
    for_each_store(|store| async move {
        let samples = open(&store, 1).await;
        let rows = (0..100u64).map(|i| (i + 1, unsigned(i % 2, NOON + i as i64, u64::MAX - i)));
        let outcome = samples
            .ingest(batch("px", "s", rows), at(NOON))
            .await
            .unwrap();
        assert_eq!(outcome, stored(100, 0));

        let all = numbers(&samples, 0, Span::newest(1000)).await;
        assert_eq!(all.len(), 50);
        assert_eq!(all[0], (NOON, u64::MAX));
        assert_eq!(all[49], (NOON + 98, u64::MAX - 98));

        let newest = numbers(&samples, 1, Span::newest(2)).await;
        assert_eq!(
            newest,
            [(NOON + 97, u64::MAX - 97), (NOON + 99, u64::MAX - 99)]
        );
        let span = Span {
            from: NOON + 10,
            to: NOON + 20,
            order: Order::Oldest,
            limit: 3,
        };
        let clocks: Vec<i64> = numbers(&samples, 0, span)
            .await
            .iter()
            .map(|v| v.0 - NOON)
            .collect();
        assert_eq!(clocks, [10, 12, 14]);
        let span = Span {
            order: Order::Newest,
            ..span
        };
        let clocks: Vec<i64> = numbers(&samples, 0, span)
            .await
            .iter()
            .map(|v| v.0 - NOON)
            .collect();
        assert_eq!(clocks, [16, 18, 20]);
        assert!(numbers(&samples, 7, Span::newest(10)).await.is_empty());
        assert!(
            numbers(&samples, u64::MAX, Span::newest(10))
                .await
                .is_empty()
        );
        assert!(numbers(&samples, 0, Span::newest(0)).await.is_empty());
    });
}

/// Late data lies in young blocks: the newest values are found over many blocks in any order of time.
#[test]
fn the_newest_values_are_found_across_many_blocks() {
    for_each_store(|store| async move {
        let samples = open(&store, 1).await;
        let mut expected = Vec::new();
        // More blocks than one page, each of three values; clocks jump back and forth.
        for i in 0..300i64 {
            let start = NOON + (i * 37) % 300 * 10;
            let rows = (0..3i64).map(|j| {
                let clock = start + j * 400;
                expected.push((clock, (i * 3 + j) as u64));
                (
                    (i * 3 + j + 1) as u64,
                    unsigned(5, clock, (i * 3 + j) as u64),
                )
            });
            let rows: Vec<_> = rows.collect();
            samples
                .ingest(batch("px", "s", rows), at(NOON))
                .await
                .unwrap();
        }
        expected.sort_unstable();
        for limit in [1, 10, 500, 899, 2000] {
            let mut found = numbers(&samples, 5, Span::newest(limit)).await;
            let clocks: Vec<i64> = found.iter().map(|v| v.0).collect();
            assert!(clocks.is_sorted());
            let from = expected.len().saturating_sub(limit);
            let expected_clocks: Vec<i64> = expected[from..].iter().map(|v| v.0).collect();
            assert_eq!(clocks, expected_clocks, "limit {limit}");
            let oldest = Span {
                order: Order::Oldest,
                ..Span::newest(limit)
            };
            let clocks: Vec<i64> = numbers(&samples, 5, oldest)
                .await
                .iter()
                .map(|v| v.0)
                .collect();
            let expected_clocks: Vec<i64> = expected.iter().take(limit).map(|v| v.0).collect();
            assert_eq!(clocks, expected_clocks, "oldest, limit {limit}");
            found.sort_unstable();
            found.dedup();
            assert_eq!(found.len(), limit.min(900));
        }
    });
}

#[test]
fn repeats_are_stored_once_in_any_order_and_after_a_restart() {
    for_each_store(|store| async move {
        let row = |id: u64| (id, unsigned(1, NOON + id as i64, id));
        let samples = open(&store, 1).await;
        let ingest = |samples: Samples,
                      peer: &'static str,
                      session: &'static str,
                      ids: Vec<u64>| async move {
            let batch = batch(peer, session, ids.into_iter().map(row));
            samples.ingest(batch, at(NOON)).await.unwrap()
        };
        assert_eq!(
            ingest(samples.clone(), "px", "a", vec![5, 6, 7]).await,
            stored(3, 0)
        );
        assert_eq!(
            ingest(samples.clone(), "px", "a", vec![1, 6, 9, 9]).await,
            stored(2, 2)
        );
        assert_eq!(
            ingest(samples.clone(), "px", "b", vec![5]).await,
            stored(1, 0)
        );
        assert_eq!(
            ingest(samples.clone(), "py", "a", vec![5]).await,
            stored(1, 0)
        );
        let samples = open(&store, 2).await;
        assert_eq!(
            ingest(samples.clone(), "px", "a", vec![9, 8, 7, 6, 5, 4]).await,
            stored(2, 4)
        );
        let mut ids: Vec<u64> = numbers(&samples, 1, Span::newest(100))
            .await
            .iter()
            .map(|v| v.1)
            .collect();
        ids.sort_unstable();
        assert_eq!(ids, [1, 4, 5, 5, 5, 6, 7, 8, 9]);
    });
}

#[test]
fn without_session_or_id_nothing_is_a_duplicate() {
    for_each_store(|store| async move {
        let samples = open(&store, 1).await;
        let rows = |id| {
            vec![Row {
                id,
                reading: unsigned(1, NOON, 1),
            }]
        };
        for (session, id) in [
            (None, Some(1)),
            (None, Some(1)),
            (Some("s"), None),
            (Some("s"), Some(0)),
            (Some("s"), Some(0)),
        ] {
            let batch = Batch {
                peer: "px".to_owned(),
                session: session.map(str::to_owned),
                rows: rows(id),
            };
            assert_eq!(samples.ingest(batch, at(NOON)).await.unwrap(), stored(1, 0));
        }
        assert_eq!(numbers(&samples, 1, Span::newest(10)).await.len(), 5);
        assert_eq!(samples.stats().await.unwrap().sessions, 0);
    });
}

#[test]
fn the_newest_value_and_state_are_ready_also_after_a_restart() {
    for_each_store(|store| async move {
        let samples = open(&store, 1).await;
        let upload = |id: u64, reading| {
            let samples = samples.clone();
            async move {
                samples
                    .ingest(batch("px", "s", [(id, reading)]), at(NOON))
                    .await
                    .unwrap()
            }
        };
        upload(1, unsigned(1, NOON + 5, 50)).await;
        upload(2, unsigned(1, NOON + 3, 30)).await;
        upload(3, not_supported(1, NOON + 4, "late")).await;
        upload(4, not_supported(2, NOON, "no such key")).await;
        upload(5, unsigned(3, NOON, 1)).await;
        upload(6, not_supported(3, NOON + 1, "gone")).await;
        let writers = [1u128, 2, 3];
        for writer in writers {
            let samples = if writer == 1 {
                samples.clone()
            } else {
                open(&store, writer).await
            };
            let last = samples.last(&[1, 2, 3, 4]).await.unwrap();
            assert_eq!(last.len(), 3);
            assert_eq!(last[&1].value.as_ref().unwrap().value, Value::Unsigned(50));
            assert_eq!(last[&1].not_supported, None);
            assert_eq!(last[&2].value, None);
            let error = last[&2].not_supported.as_ref().unwrap();
            assert_eq!((error.clock, &*error.error), (NOON, "no such key"));
            assert_eq!(last[&3].value.as_ref().unwrap().value, Value::Unsigned(1));
            assert_eq!(last[&3].not_supported.as_ref().unwrap().error, "gone");
            // The second start reads blocks, the third the rows that this writes.
            samples.settle().await.unwrap();
        }
        let tail = store
            .read(|tx| {
                let marks = tx.query("SELECT writer, seq FROM sample_mark", &[])?;
                let mut unread = 0;
                for mark in marks {
                    let row = tx.query_one(
                        "SELECT COUNT(*) AS n FROM sample_block WHERE writer = $1 AND seq > $2",
                        params![mark.text("writer")?, mark.int("seq")?],
                    )?;
                    unread += row.int("n")?;
                }
                Ok(unread)
            })
            .await
            .unwrap();
        assert_eq!(tail, 0);
        // Values are no values of an item that cannot be had.
        assert!(numbers(&samples, 2, Span::newest(10)).await.is_empty());
    });
}

/// The slices that each group writes down and the blocks after the marks always make up the whole.
#[test]
fn newest_values_survive_a_restart_at_any_point_of_writing_them_down() {
    for_each_store(|store| async move {
        let mut expected: BTreeMap<u64, u64> = BTreeMap::new();
        let mut id = 0;
        for writer in 0..12u128 {
            let samples = open(&store, writer + 1).await;
            let found = samples
                .last(&expected.keys().copied().collect::<Vec<_>>())
                .await
                .unwrap();
            for (item, number) in &expected {
                let value = found[item].value.as_ref().map(|s| s.value.clone());
                assert_eq!(
                    value,
                    Some(Value::Unsigned(*number)),
                    "item {item}, start {writer}"
                );
            }
            for round in 0..=(writer as u64 % 4) {
                // More items than one slice.
                let rows: Vec<_> = (0..400u64)
                    .map(|i| {
                        id += 1;
                        let item = (i * 7 + round * 13) % 900;
                        expected.insert(item, id);
                        (id, unsigned(item, NOON + id as i64, id))
                    })
                    .collect();
                samples
                    .ingest(batch("px", "s", rows), at(NOON))
                    .await
                    .unwrap();
            }
        }
    });
}

#[test]
fn two_processes_share_a_database() {
    for_each_durable_url(|url| {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .build()
            .unwrap();
        runtime.block_on(async {
            let first = Store::open(url.clone()).await.unwrap();
            first.migrate(at(0)).await.unwrap();
            let second = Store::open(url).await.unwrap();
            let (left, right) = (open(&first, 1).await, open(&second, 2).await);
            // The same session through both, as behind a load balancer; each id goes to both.
            let mut tasks = Vec::new();
            for (samples, offset) in [(left.clone(), 0), (right.clone(), 7)] {
                for step in 0..20u64 {
                    let samples = samples.clone();
                    let start = (step * 11 + offset) % 220;
                    let rows = (start..start + 11).map(|i| {
                        let id = i % 220 + 1;
                        (id, unsigned(1, NOON + id as i64, id))
                    });
                    let batch = batch("px", "s", rows.collect::<Vec<_>>());
                    tasks.push(tokio::spawn(async move {
                        samples.ingest(batch, at(NOON)).await
                    }));
                }
            }
            let mut total = 0;
            for task in tasks {
                total += task.await.unwrap().unwrap().stored;
            }
            assert_eq!(total, 220);
            let ids: Vec<u64> = numbers(&left, 1, Span::newest(1000))
                .await
                .iter()
                .map(|v| v.1)
                .collect();
            assert_eq!(ids, (1..=220).collect::<Vec<_>>());
            if first.engine() == Engine::Postgres {
                for samples in [&left, &right] {
                    let last = samples.last(&[1]).await.unwrap();
                    assert_eq!(last[&1].value.as_ref().unwrap().value, Value::Unsigned(220));
                }
            }
        });
    });
}

#[test]
fn uploads_that_wait_are_committed_together() {
    for_each_store(|store| async move {
        let samples = open(&store, 1).await;
        let mut tasks = Vec::new();
        for peer in 0..40u64 {
            let samples = samples.clone();
            let rows = [(1, unsigned(peer, NOON, peer))];
            let batch = batch(&format!("px-{peer}"), "s", rows);
            tasks.push(tokio::spawn(async move {
                samples.ingest(batch, at(NOON)).await
            }));
        }
        for task in tasks {
            assert_eq!(task.await.unwrap().unwrap(), stored(1, 0));
        }
        let stats = samples.stats().await.unwrap();
        assert_eq!(stats.readings, 40);
        assert!(stats.blocks < 10, "{stats:?}");
    });
}

#[test]
fn a_full_queue_says_so_and_keeps_its_word() {
    for_each_store(|store| async move {
        let limits = Limits {
            waiting_readings: 10,
            waiting_bytes: 100,
            group_readings: 5,
        };
        let samples = Samples::open(store.clone(), Uuid::from_u128(1), limits)
            .await
            .unwrap();
        // On a current-thread runtime nothing is taken from the queue before this test waits.
        let mut pending = Vec::new();
        let mut full = 0;
        for peer in 0..20u64 {
            let rows = (1..=3).map(|id| (id, unsigned(peer, NOON, id)));
            let upload = samples.ingest(batch(&format!("px-{peer}"), "s", rows), at(NOON));
            let mut upload = Box::pin(upload);
            match futures_poll(&mut upload).await {
                None => pending.push(upload),
                Some(Err(IngestError::Full { waiting })) => {
                    assert_eq!(waiting, 9);
                    full += 1;
                }
                Some(other) => panic!("{other:?}"),
            }
        }
        assert_eq!((pending.len(), full), (3, 17));
        for upload in pending {
            assert_eq!(upload.await.unwrap(), stored(3, 0));
        }
        let large = (1..=50).map(|id| (id, unsigned(99, NOON, id)));
        let alone = samples
            .ingest(batch("large", "s", large), at(NOON))
            .await
            .unwrap();
        assert_eq!(alone, stored(50, 0));
        assert_eq!(samples.stats().await.unwrap().readings, 59);
    });
}

/// Polls once.
async fn futures_poll<F: Future + Unpin>(future: &mut F) -> Option<F::Output> {
    std::future::poll_fn(|context| {
        std::task::Poll::Ready(match std::pin::Pin::new(&mut *future).poll(context) {
            std::task::Poll::Ready(output) => Some(output),
            std::task::Poll::Pending => None,
        })
    })
    .await
}

#[test]
fn work_is_committed_with_its_upload_or_not_at_all() {
    for_each_store(|store| async move {
        let samples = open(&store, 1).await;
        let count = |tx: &mut Tx<'_>| {
            tx.query_one(
                "SELECT COUNT(*) AS n FROM sample_session WHERE peer = 'mark'",
                &[],
            )?
            .int("n")
        };
        let mark = |tx: &mut Tx<'_>, session: &str| {
            tx.execute(
                "INSERT INTO sample_session (peer, session, ids, touched_at) VALUES ('mark', $1, $2, 0)",
                params![session, IdSet::new().encode()],
            )
        };
        use crate::idset::IdSet;
        let row = |id: u64| (id, unsigned(1, NOON + id as i64, id));
        let good = samples
            .ingest_with(batch("px", "s", [row(1)]), at(NOON), move |tx| {
                mark(tx, "a")
            })
            .await
            .unwrap();
        assert_eq!(good, (stored(1, 0), 1));
        // Two uploads of one group: the work of one fails, the other is stored.
        let failing = samples.ingest_with(batch("px", "s", [row(2)]), at(NOON), move |tx| {
            mark(tx, "b")?;
            mark(tx, "a")
        });
        let passing = samples.ingest(batch("px", "s", [row(3)]), at(NOON));
        let (failed, passed) = tokio::join!(failing, passing);
        assert!(matches!(failed, Err(IngestError::Store(_))), "{failed:?}");
        assert_eq!(passed.unwrap(), stored(1, 0));
        assert_eq!(store.read(count).await.unwrap(), 1);
        // What was not stored is not held for a duplicate.
        let again = samples
            .ingest(batch("px", "s", [row(2), row(3)]), at(NOON))
            .await
            .unwrap();
        assert_eq!(again, stored(1, 1));
        // Work alone is an upload too.
        let alone = samples
            .ingest_with(batch("px", "s", []), at(NOON), move |tx| mark(tx, "c"))
            .await
            .unwrap();
        assert_eq!(alone, (stored(0, 0), 1));
    });
}

#[test]
fn impossible_readings_are_refused_before_anything_waits() {
    for_each_store(|store| async move {
        let samples = open(&store, 1).await;
        let mut late = unsigned(1, NOON, 1);
        late.ns = 1_000_000_000;
        let long = Value::Text("x".repeat(block::TEXT_BYTES_MAX + 1));
        let long = Reading::from(Sample {
            item: 1,
            clock: NOON,
            ns: 0,
            value: long,
        });
        for (bad, what) in [
            (late, "fraction of a second"),
            (unsigned(1 << 63, NOON, 1), "item number"),
            (long, "length"),
        ] {
            let rows = [(1, unsigned(1, NOON, 1)), (2, bad)];
            let refused = samples.ingest(batch("px", "s", rows), at(NOON)).await;
            match refused {
                Err(IngestError::Impossible {
                    index: 1,
                    what: found,
                }) => assert_eq!(found, what),
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(samples.stats().await.unwrap().readings, 0);
    });
}

/// One upload that the database would refuse does not take its group along.
#[test]
fn names_with_nul_are_refused_alone() {
    for_each_store(|store| async move {
        let samples = open(&store, 1).await;
        let row = || [(1, unsigned(1, NOON, 1))];
        let (peer, session, good) = tokio::join!(
            samples.ingest(batch("p\0x", "s", row()), at(NOON)),
            samples.ingest(batch("px", "s\0", row()), at(NOON)),
            samples.ingest(batch("px", "s", row()), at(NOON)),
        );
        assert!(
            matches!(peer, Err(IngestError::Nul { what: "peer" })),
            "{peer:?}"
        );
        assert!(
            matches!(session, Err(IngestError::Nul { what: "session" })),
            "{session:?}"
        );
        assert_eq!(good.unwrap(), stored(1, 0));
        // Texts of values are inside of blocks, where U+0000 is a character.
        let value = Value::Text("a\0b".to_owned());
        let reading = Reading::from(Sample {
            item: 2,
            clock: NOON,
            ns: 0,
            value: value.clone(),
        });
        samples
            .ingest(batch("px", "s", [(2, reading)]), at(NOON))
            .await
            .unwrap();
        let found = samples.range(2, Span::newest(1)).await.unwrap();
        assert_eq!(found[0].value, value);
    });
}

/// A full disk is "not now": nothing of the upload is kept, and once there is room its repeat is stored.
#[test]
fn a_full_disk_is_not_now() {
    for_each_store(|store| async move {
        if store.engine() != Engine::Sqlite {
            return;
        }
        let samples = open(&store, 1).await;
        let pages = |count: &'static str| {
            let store = store.clone();
            async move { store.write(move |tx| tx.query(count, &[])).await.unwrap() }
        };
        pages("PRAGMA max_page_count = 100").await;
        let mut state = 1u64;
        let mut rows = |first: u64| -> Vec<(u64, Reading)> {
            (first..first + 500)
                .map(|id| {
                    state = state
                        .wrapping_mul(6_364_136_223_846_793_005)
                        .wrapping_add(1);
                    (id, unsigned(id % 50, NOON + id as i64, state))
                })
                .collect()
        };
        let mut first = 1;
        let refused = loop {
            let upload = rows(first);
            match samples
                .ingest(batch("px", "s", upload.clone()), at(NOON))
                .await
            {
                Ok(outcome) => assert_eq!(outcome, stored(500, 0)),
                Err(IngestError::Store(error)) => {
                    assert!(error.is_unavailable(), "{error:?}");
                    break upload;
                }
                Err(other) => panic!("{other:?}"),
            }
            first += 500;
            assert!(first < 1_000_000);
        };
        assert_eq!(samples.stats().await.unwrap().readings, first - 1);
        pages("PRAGMA max_page_count = 1000000").await;
        let outcome = samples
            .ingest(batch("px", "s", refused), at(NOON))
            .await
            .unwrap();
        assert_eq!(outcome, stored(500, 0));
        assert_eq!(samples.stats().await.unwrap().readings, first + 499);
    });
}

/// A peer that leaves a hole after every id is refused, with nothing stored, rather than given a set that
/// forgets; other sessions go on.
#[test]
fn too_many_holes_are_refused_whole() {
    for_each_store(|store| async move {
        let samples = open(&store, 1).await;
        let holes = crate::idset::INTERVALS_MAX as u64 + 1;
        let rows = (0..holes).map(|i| (2 * i + 1, unsigned(1, NOON, i)));
        let refused = samples.ingest(batch("px", "s", rows), at(NOON)).await;
        assert!(
            matches!(refused, Err(IngestError::Holes { .. })),
            "{refused:?}"
        );
        assert_eq!(samples.stats().await.unwrap().readings, 0);
        let good = samples
            .ingest(batch("px", "s", [(1, unsigned(1, NOON, 1))]), at(NOON))
            .await;
        assert_eq!(good.unwrap(), stored(1, 0));
    });
}

#[test]
fn retention_drops_days_and_keeps_the_newest_value() {
    for_each_store(|store| async move {
        let samples = open(&store, 1).await;
        let day = 86_400;
        for i in 0..3i64 {
            let rows = [((i + 1) as u64, unsigned(i as u64, NOON + i * day, i as u64))];
            samples
                .ingest(batch("px", &format!("s{i}"), rows), at(NOON + i * day))
                .await
                .unwrap();
        }
        samples.retain(at(NOON + 2 * day)).await.unwrap();
        let stats = samples.stats().await.unwrap();
        assert_eq!((stats.blocks, stats.readings, stats.sessions), (1, 1, 1));
        assert!(numbers(&samples, 0, Span::newest(10)).await.is_empty());
        assert_eq!(numbers(&samples, 2, Span::newest(10)).await.len(), 1);
        let samples = open(&store, 2).await;
        let last = samples.last(&[0, 1, 2]).await.unwrap();
        assert_eq!(last.len(), 3);
        // A dropped day is made again when something arrives for it.
        let rows = [(9, unsigned(0, NOON, 9))];
        samples
            .ingest(batch("px", "s0", rows), at(NOON))
            .await
            .unwrap();
        assert_eq!(numbers(&samples, 0, Span::newest(10)).await.len(), 1);
    });
}

#[test]
fn a_damaged_block_is_named() {
    for_each_store(|store| async move {
        let samples = open(&store, 0xabc).await;
        samples
            .ingest(batch("px", "s", [(1, unsigned(1, NOON, 1))]), at(NOON))
            .await
            .unwrap();
        store
            .write(|tx| {
                tx.execute(
                    "UPDATE sample_block SET data = $1",
                    params![vec![1u8, 2, 3]],
                )
            })
            .await
            .unwrap();
        let error = samples.range(1, Span::newest(1)).await.unwrap_err();
        assert!(
            error.to_string().contains("sample_block") && error.to_string().contains("abc 1"),
            "{error}"
        );
    });
}

/// A fault at every point of an upload in turn, also right after its commit: once the peer has repeated it
/// until it heard `stored`, each value is there exactly once (threats, section 7, test 4).
#[test]
fn a_fault_at_any_point_loses_nothing_and_doubles_nothing() {
    for_each_store(|store| async move {
        let samples = open(&store, 1).await;
        let mut id = 0u64;
        let mut points = 0;
        for point in 0.. {
            store.faults().set(point);
            let rows: Vec<_> = (0..5)
                .map(|i| {
                    id += 1;
                    (id, unsigned(i % 3, NOON + id as i64, id))
                })
                .collect();
            let mut attempts = 0;
            loop {
                attempts += 1;
                match samples
                    .ingest(batch("px", "s", rows.clone()), at(NOON))
                    .await
                {
                    Ok(outcome) => {
                        assert_eq!(outcome.stored + outcome.duplicates, 5);
                        break;
                    }
                    Err(IngestError::Store(_)) => assert!(attempts < 3),
                    Err(other) => panic!("{other:?}"),
                }
            }
            let unstruck = store.faults().clear();
            let last = samples.last(&[0, 1, 2]).await.unwrap();
            let newest = last
                .values()
                .filter_map(|l| l.value.as_ref())
                .map(|s| s.clock)
                .max();
            assert_eq!(newest, Some(NOON + id as i64));
            if unstruck {
                break;
            }
            points += 1;
            assert_eq!(attempts, 2, "point {point}");
        }
        assert!(points > 8, "{points}");
        let mut found = Vec::new();
        for item in 0..3 {
            found.extend(
                numbers(&samples, item, Span::newest(100_000))
                    .await
                    .iter()
                    .map(|v| v.1),
            );
        }
        found.sort_unstable();
        assert_eq!(found, (1..=id).collect::<Vec<_>>());
        let reopened = open(&store, 2).await;
        assert_eq!(
            reopened.last(&[0, 1, 2]).await.unwrap(),
            samples.last(&[0, 1, 2]).await.unwrap()
        );
    });
}

/// Uploads cut, repeated, reordered, of two sessions, with restarts between: the exact set, once each
/// (threats, section 7, test 3).
#[test]
fn any_stream_of_repeats_ends_in_the_exact_set() {
    #[derive(Clone, Debug)]
    enum Step {
        Upload {
            session: u8,
            from: u64,
            to: u64,
            reverse: bool,
        },
        Restart,
    }
    let step = prop_oneof![
        8 => (0u8..2, 0u64..60, 1u64..20, any::<bool>()).prop_map(|(session, from, count, reverse)| {
            Step::Upload { session, from, to: from + count, reverse }
        }),
        1 => Just(Step::Restart),
    ];
    // The databases are asynchronous, so the cases are made before and run outside of the runner.
    let mut runner = TestRunner::deterministic();
    let strategy = prop::collection::vec(step, 1..25);
    let cases: Vec<(Vec<Step>, u128)> = (1..=12u128)
        .map(|case| (strategy.new_tree(&mut runner).unwrap().current(), case))
        .collect();
    for_each_store(|store| {
        let cases = cases.clone();
        async move {
            for (steps, case) in cases {
                let mut writer = case << 32;
                let mut samples = open(&store, writer).await;
                let base = (case as u64) * 10;
                let mut sent: BTreeMap<u8, std::collections::BTreeSet<u64>> = BTreeMap::new();
                for step in steps {
                    match step {
                        Step::Restart => {
                            writer += 1;
                            samples = open(&store, writer).await;
                        }
                        Step::Upload {
                            session,
                            from,
                            to,
                            reverse,
                        } => {
                            let mut ids: Vec<u64> = (from + 1..=to).collect();
                            if reverse {
                                ids.reverse();
                            }
                            let known = sent.entry(session).or_default();
                            let new = ids.iter().filter(|id| known.insert(**id)).count();
                            let total = ids.len();
                            let rows = ids.into_iter().map(|id| {
                                (
                                    id,
                                    unsigned(base + u64::from(session), NOON + id as i64, id),
                                )
                            });
                            let name = format!("{case}-{session}");
                            let outcome = samples
                                .ingest(batch("px", &name, rows), at(NOON))
                                .await
                                .unwrap();
                            assert_eq!(outcome, stored(new, total - new));
                        }
                    }
                }
                for (session, ids) in sent {
                    let item = base + u64::from(session);
                    let found: Vec<u64> = numbers(&samples, item, Span::newest(1000))
                        .await
                        .iter()
                        .map(|v| v.1)
                        .collect();
                    assert_eq!(found, ids.into_iter().collect::<Vec<_>>());
                }
            }
        }
    });
}
