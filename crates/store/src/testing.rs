//! Test kit: one test body, run on every database.
//!
//! SQLite in memory, SQLite in a file, and PostgreSQL at `MUSTER_TEST_POSTGRES` (a URL whose user may
//! create schemas; `cargo xtask postgres start` prints one). Each run gets an empty database of its own.
//! Without the variable the PostgreSQL part is skipped and says so; where `CI` is set that is a failure.

use std::future::Future;
use std::sync::atomic::{AtomicI64, AtomicU32, Ordering};

use jiff::Timestamp;

use crate::store::{Store, StoreUrl};

/// Fault points of a store: one before every statement, `BEGIN` and `COMMIT` among them, and one after
/// each `COMMIT`, where the change is durable and nobody hears of it.
#[derive(Debug)]
pub struct Faults {
    left: AtomicI64,
}

impl Default for Faults {
    fn default() -> Self {
        Self {
            left: AtomicI64::new(-1),
        }
    }
}

impl Faults {
    /// Lets `points` points pass and fails at the next one, once.
    pub fn set(&self, points: i64) {
        self.left.store(points, Ordering::SeqCst);
    }

    /// Takes the fault back; says whether it had not struck yet.
    pub fn clear(&self) -> bool {
        self.left.swap(-1, Ordering::SeqCst) >= 0
    }

    pub(crate) fn is_due(&self) -> bool {
        self.left.load(Ordering::SeqCst) >= 0 && self.left.fetch_sub(1, Ordering::SeqCst) == 0
    }
}

/// Variable that names the PostgreSQL server of the tests.
pub const POSTGRES_VARIABLE: &str = "MUSTER_TEST_POSTGRES";

/// Runs `test` on a migrated store of each kind, each on a current-thread runtime of its own.
///
/// # Panics
/// When `test` does, when a database cannot be had, and when `CI` is set without PostgreSQL.
pub fn for_each_store<F, Fut>(test: F)
where
    F: Fn(Store) -> Fut,
    Fut: Future<Output = ()>,
{
    for_each_bare_store(|store| async {
        if let Err(error) = store.migrate(Timestamp::UNIX_EPOCH).await {
            panic!("migrating {store:?}: {}", chain(&error));
        }
        test(store).await;
    });
}

/// The same with an empty database.
///
/// # Panics
/// As [`for_each_store`].
pub fn for_each_bare_store<F, Fut>(test: F)
where
    F: Fn(Store) -> Fut,
    Fut: Future<Output = ()>,
{
    for_each_url(|url| {
        runtime().block_on(async {
            let store = match Store::open(url).await {
                Ok(store) => store,
                Err(error) => panic!("opening: {}", chain(&error)),
            };
            test(store).await;
        });
    });
}

/// Calls `test` with the address of an empty database of each kind, for tests that open it themselves,
/// perhaps several times. The one in memory is empty again each time.
///
/// # Panics
/// As [`for_each_store`].
pub fn for_each_url(mut test: impl FnMut(StoreUrl)) {
    said("SQLite in memory");
    test(StoreUrl::Memory);
    for_each_durable_url(test);
}

/// The same without the one in memory.
///
/// # Panics
/// As [`for_each_store`].
#[expect(
    clippy::expect_used,
    reason = "a test that cannot have its directory fails"
)]
pub fn for_each_durable_url(mut test: impl FnMut(StoreUrl)) {
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let name = format!("muster_test_{}_{number}", std::process::id());
    let dir = std::env::temp_dir().join(&name);
    let _ = std::fs::remove_dir_all(&dir);
    std::fs::create_dir_all(&dir).expect("directory for the test");
    said("SQLite in a file");
    test(StoreUrl::Sqlite(dir.join("muster.db")));
    let _ = std::fs::remove_dir_all(&dir);

    let Some(server) = postgres_server() else {
        return;
    };
    said("PostgreSQL");
    admin(
        &server,
        &format!("DROP SCHEMA IF EXISTS {name} CASCADE; CREATE SCHEMA {name}"),
    );
    let joint = if server.contains('?') { '&' } else { '?' };
    test(StoreUrl::Postgres(format!(
        "{server}{joint}options=-csearch_path%3D{name}"
    )));
    admin(&server, &format!("DROP SCHEMA {name} CASCADE"));
}

static NUMBER: AtomicU32 = AtomicU32::new(0);

/// Address of the PostgreSQL server of the tests, if there is one.
///
/// # Panics
/// When `CI` is set and there is none.
#[must_use]
#[expect(clippy::print_stderr, reason = "a skipped test must be seen")]
pub fn postgres_server() -> Option<String> {
    let server = std::env::var(POSTGRES_VARIABLE)
        .ok()
        .filter(|url| !url.is_empty());
    if server.is_none() {
        assert!(
            std::env::var_os("CI").is_none(),
            "{POSTGRES_VARIABLE} is not set, and the gate leaves no database out"
        );
        eprintln!("NOT RUN on PostgreSQL: {POSTGRES_VARIABLE} is not set");
    }
    server
}

fn admin(server: &str, sql: &str) {
    let server = server.to_owned();
    let sql = sql.to_owned();
    let done = std::thread::spawn(move || {
        postgres::Client::connect(&server, postgres::NoTls)
            .and_then(|mut client| client.batch_execute(&sql))
    })
    .join();
    match done {
        Ok(Ok(())) => {}
        Ok(Err(error)) => panic!("test database: {}", chain(&error)),
        Err(_) => panic!("test database: thread panicked"),
    }
}

#[expect(
    clippy::expect_used,
    reason = "a test that cannot have its runtime fails"
)]
pub(crate) fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("runtime for the test")
}

#[expect(
    clippy::print_stderr,
    reason = "shown with a failing test: which database it was"
)]
fn said(which: &str) {
    eprintln!("-- on {which}");
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
