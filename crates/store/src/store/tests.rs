//! The door, the transactions and the pool, on every engine.

use super::*;
use crate::testing::{for_each_bare_store, for_each_durable_url};
use crate::{Value, params};

async fn table(store: &Store) {
    store
        .write(|tx| {
            tx.batch(
                "CREATE TABLE cell (k BIGINT PRIMARY KEY, t TEXT, r DOUBLE PRECISION, b BYTEA)",
            )
        })
        .await
        .unwrap();
}

async fn keys(store: &Store) -> Vec<i64> {
    store
        .read(|tx| {
            tx.query("SELECT k FROM cell ORDER BY k", &[])?
                .iter()
                .map(|row| row.int("k"))
                .collect()
        })
        .await
        .unwrap()
}

fn insert(tx: &mut Tx<'_>, k: i64) -> Result<u64, StoreError> {
    tx.execute("INSERT INTO cell (k) VALUES ($1)", params![k])
}

#[test]
fn urls_are_told_apart_and_hide_passwords() {
    let cases = [
        (
            "postgres://muster:hunter2@db:5433/fleet",
            Some("postgres://db:5433/fleet"),
        ),
        ("postgresql://muster@db", Some("postgres://db:5432/muster")),
        (
            "sqlite:/var/lib/muster/muster.db",
            Some("sqlite:/var/lib/muster/muster.db"),
        ),
        ("memory:", Some("memory:")),
        ("sqlite:", None),
        ("mysql://db", None),
    ];
    for (given, shown) in cases {
        let url = StoreUrl::parse(given);
        assert_eq!(
            url.as_ref().map(ToString::to_string).as_deref(),
            shown,
            "{given}"
        );
        assert!(!format!("{url:?}").contains("hunter2"));
    }
}

#[test]
fn values_come_back_as_they_went() {
    for_each_bare_store(|store| async move {
        table(&store).await;
        let rows = store
            .write(|tx| {
                tx.execute(
                    "INSERT INTO cell (b, t, r, k) VALUES ($4, $2, $3, $1)",
                    params![
                        i64::MIN,
                        "Grüße 'n' $1 \u{1f600}",
                        1.0e-300,
                        vec![0u8, 255, 7]
                    ],
                )?;
                tx.execute(
                    "INSERT INTO cell (k, t, r, b) VALUES ($1, $2, $3, $4)",
                    params![i64::MAX, Value::Null, None::<f64>, None::<Vec<u8>>],
                )?;
                tx.query("SELECT k, t, r, b FROM cell ORDER BY k", &[])
            })
            .await
            .unwrap();
        let [low, high] = &rows[..] else {
            panic!("{rows:?}")
        };
        assert_eq!(low.int("k").unwrap(), i64::MIN);
        assert_eq!(low.text("t").unwrap(), "Grüße 'n' $1 \u{1f600}");
        assert_eq!(low.real("r").unwrap(), 1.0e-300);
        assert_eq!(low.bytes("b").unwrap(), [0, 255, 7]);
        assert_eq!(high.int("k").unwrap(), i64::MAX);
        assert_eq!(high.opt_text("t").unwrap(), None);
        assert_eq!(high.opt_real("r").unwrap(), None);
        assert_eq!(high.opt_bytes("b").unwrap(), None);
    });
}

#[test]
fn a_senseless_cell_names_table_column_and_key() {
    for_each_bare_store(|store| async move {
        table(&store).await;
        let row = store
            .write(|tx| {
                tx.execute("INSERT INTO cell (k, t) VALUES (7, 'x')", &[])?;
                tx.query_one("SELECT k, t, r FROM cell", &[])
            })
            .await
            .unwrap();
        let outcomes = [
            ("t", row.int("t").map(drop)),
            ("t", row.uuid("t").map(drop)),
            ("k", row.bool("k").map(drop)),
            ("k", row.text("k").map(drop)),
            ("r", row.real("r").map(drop)),
            ("b", row.value("b").map(drop)),
            ("k", row.bytes("k").map(drop)),
        ];
        for (place, outcome) in outcomes {
            match outcome {
                Err(StoreError::Inconsistent { table, column, key }) => {
                    assert_eq!((&*table, &*column, &*key), ("cell", place, "7"));
                }
                other => panic!("{place}: {other:?}"),
            }
        }
    });
}

#[test]
fn an_error_undoes_the_transaction() {
    for_each_bare_store(|store| async move {
        table(&store).await;
        let failed: Result<(), _> = store
            .write(|tx| {
                insert(tx, 1)?;
                Err(StoreError::Conflict {
                    what: "cell".into(),
                })
            })
            .await;
        assert!(matches!(failed, Err(StoreError::Conflict { .. })));
        assert_eq!(keys(&store).await, []);
    });
}

#[test]
fn a_swallowed_error_keeps_nothing() {
    for_each_bare_store(|store| async move {
        table(&store).await;
        let swallowed = store
            .write(|tx| {
                insert(tx, 1)?;
                let twice = insert(tx, 1);
                assert!(twice.is_err_and(|e| e.is_unique_violation() && !e.is_transient()));
                Ok(())
            })
            .await;
        assert!(
            matches!(swallowed, Err(StoreError::Poisoned)),
            "{swallowed:?}"
        );
        assert_eq!(keys(&store).await, []);
    });
}

#[test]
fn a_savepoint_fails_alone() {
    for_each_bare_store(|store| async move {
        table(&store).await;
        store
            .write(|tx| {
                insert(tx, 1)?;
                let part = tx.savepoint(|tx| {
                    insert(tx, 2)?;
                    insert(tx, 1)
                });
                assert!(part.is_err());
                let swallowing = tx.savepoint(|tx| {
                    insert(tx, 3)?;
                    let _ = insert(tx, 1);
                    Ok(())
                });
                assert!(matches!(swallowing, Err(StoreError::Poisoned)));
                tx.savepoint(|tx| {
                    tx.savepoint(|tx| insert(tx, 4))?;
                    insert(tx, 5)
                })?;
                Ok(())
            })
            .await
            .unwrap();
        assert_eq!(keys(&store).await, [1, 4, 5]);
    });
}

#[test]
fn a_reader_cannot_write_and_the_next_writer_can() {
    for_each_bare_store(|store| async move {
        table(&store).await;
        assert!(store.read(|tx| insert(tx, 1)).await.is_err());
        store.write(|tx| insert(tx, 2)).await.unwrap();
        assert_eq!(keys(&store).await, [2]);
    });
}

#[test]
fn a_panic_is_the_callers_and_the_store_goes_on() {
    for_each_bare_store(|store| async move {
        table(&store).await;
        let doomed = store.clone();
        let panicked = tokio::spawn(async move {
            doomed
                .write(|tx| -> Result<(), StoreError> {
                    insert(tx, 1)?;
                    panic!("on purpose")
                })
                .await
        })
        .await;
        assert!(panicked.is_err_and(|e| e.is_panic()));
        store.write(|tx| insert(tx, 2)).await.unwrap();
        let doomed = store.clone();
        let panicked = tokio::spawn(async move {
            let read = |_: &mut Tx<'_>| -> Result<(), StoreError> { panic!("on purpose") };
            doomed.read(read).await
        })
        .await;
        assert!(panicked.is_err_and(|e| e.is_panic()));
        store.write(|tx| insert(tx, 3)).await.unwrap();
        assert_eq!(keys(&store).await, [2, 3]);
    });
}

#[test]
fn many_writers_at_once_lose_no_update() {
    for_each_bare_store(|store| async move {
        table(&store).await;
        store.write(|tx| insert(tx, 0)).await.unwrap();
        let mut tasks = Vec::new();
        for _ in 0..20 {
            let store = store.clone();
            tasks.push(tokio::spawn(async move {
                store
                    .write(|tx| {
                        tx.execute("UPDATE cell SET r = COALESCE(r, 0) + 1 WHERE k = 0", &[])
                    })
                    .await
            }));
        }
        for task in tasks {
            assert_eq!(task.await.unwrap().unwrap(), 1);
        }
        let sum = store
            .read(|tx| tx.query_one("SELECT r FROM cell", &[])?.real("r"))
            .await;
        assert_eq!(sum.unwrap(), 20.0);
    });
}

/// Two transactions that lock two rows in opposite order: PostgreSQL ends one of them, and `write`
/// runs it again. On SQLite the second simply waits.
#[test]
fn a_deadlock_is_run_again() {
    for_each_durable_url(|url| {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .build()
            .unwrap();
        runtime.block_on(async {
            let store = Store::open(url).await.unwrap();
            table(&store).await;
            store
                .write(|tx| insert(tx, 1).and_then(|_| insert(tx, 2)))
                .await
                .unwrap();
            let meet = Arc::new(std::sync::Barrier::new(2));
            let wait = store.engine() == Engine::Postgres;
            let mut tasks = Vec::new();
            for (first, second) in [(1, 2), (2, 1)] {
                let (store, meet) = (store.clone(), Arc::clone(&meet));
                tasks.push(tokio::spawn(async move {
                    let mut first_time = true;
                    store
                        .write(move |tx| {
                            let add = "UPDATE cell SET r = COALESCE(r, 0) + 1 WHERE k = $1";
                            tx.execute(add, params![first])?;
                            if std::mem::take(&mut first_time) && wait {
                                meet.wait();
                            }
                            tx.execute(add, params![second])
                        })
                        .await
                }));
            }
            for task in tasks {
                assert_eq!(task.await.unwrap().unwrap(), 1);
            }
            let sum = store
                .read(|tx| tx.query_one("SELECT SUM(k) AS k, SUM(r) AS r FROM cell", &[]))
                .await
                .unwrap();
            assert_eq!(sum.int("k").unwrap(), 3);
            assert_eq!(sum.real("r").unwrap(), 4.0);
        });
    });
}

#[test]
fn a_file_keeps_what_was_committed_and_is_private() {
    use std::os::unix::fs::PermissionsExt as _;
    for_each_durable_url(|url| {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        runtime.block_on(async {
            let store = Store::open(url.clone()).await.unwrap();
            table(&store).await;
            store.write(|tx| insert(tx, 1)).await.unwrap();
            drop(store);
            let store = Store::open(url.clone()).await.unwrap();
            assert_eq!(keys(&store).await, [1]);
            if let StoreUrl::Sqlite(path) = &url {
                let mode = std::fs::metadata(path).unwrap().permissions().mode();
                assert_eq!(mode & 0o777, 0o600);
            }
        });
    });
}

/// A database server that was restarted, or that cut idle connections: the next transaction works.
#[test]
fn lost_connections_are_replaced() {
    for_each_durable_url(|url| {
        if !matches!(url, StoreUrl::Postgres(_)) {
            return;
        }
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        runtime.block_on(async {
            let store = Store::open(url.clone()).await.unwrap();
            let other = Store::open(url).await.unwrap();
            table(&store).await;
            for k in 0..3 {
                other.write(move |tx| insert(tx, k)).await.unwrap();
                let pid = other
                    .read(|tx| tx.query_one("SELECT pg_backend_pid() AS pid", &[])?.int("pid"))
                    .await
                    .unwrap();
                let ended = store
                    .write(move |tx| {
                        tx.query_one(
                            "SELECT pg_terminate_backend(CAST(CAST($1 AS BIGINT) AS INT), 5000) AS ended",
                            params![pid],
                        )?
                        .bool("ended")
                    })
                    .await
                    .unwrap();
                assert!(ended);
            }
            assert_eq!(keys(&other).await, [0, 1, 2]);
        });
    });
}

#[test]
fn what_cannot_be_opened_says_what_and_why() {
    let dir = tempfile::tempdir().unwrap();
    let nowhere = StoreUrl::Sqlite(dir.path().join("no/such/dir/muster.db"));
    let nobody = StoreUrl::Postgres("postgres://u:hunter2@127.0.0.1:1/x".into());
    for (url, shown) in [(nowhere, "no/such/dir"), (nobody, "127.0.0.1:1/x")] {
        let error = Store::open_blocking(url).unwrap_err();
        assert!(error.to_string().contains(shown), "{error}");
        assert!(error.is_unavailable());
        assert!(!format!("{error:?}").contains("hunter2"));
    }
}
