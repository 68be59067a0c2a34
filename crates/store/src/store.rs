//! The store of a server: one asynchronous door to synchronous transactions.
//!
//! `Store` owns the connections and decides when a transaction begins, commits and is run again. What a
//! transaction does is a plain function over [`Tx`], so no future ever holds one open. Three backends: SQLite
//! in a file (WAL, `synchronous=FULL`, one writer, a few readers), SQLite in memory (one connection), and
//! PostgreSQL (a small pool of synchronous clients).
//!
//! A `postgres::Client` drives a runtime of its own: used or dropped on an asynchronous thread it panics.
//! Clients are therefore made, used and ended on blocking threads only.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rusqlite::Connection;
use tokio::sync::{Semaphore, broadcast};

use crate::error::{EngineError, StoreError};
use crate::sql::{Change, Engine, PgConn, Tx};

/// Which database to open.
#[derive(Clone, PartialEq, Eq)]
pub enum StoreUrl {
    /// SQLite in memory, gone with the store; for tests and simulations.
    Memory,
    /// PostgreSQL, by a connection URL that may hold a password.
    Postgres(String),
    /// SQLite in this file, created when absent.
    Sqlite(PathBuf),
}

impl StoreUrl {
    /// Reads what a configuration says: `postgres://...`, `postgresql://...`, `sqlite:PATH`, or `memory:`.
    /// `None` for anything else.
    #[must_use]
    pub fn parse(url: &str) -> Option<Self> {
        if url.starts_with("postgres://") || url.starts_with("postgresql://") {
            return Some(Self::Postgres(url.to_owned()));
        }
        if url == "memory:" {
            return Some(Self::Memory);
        }
        let path = url
            .strip_prefix("sqlite://")
            .or_else(|| url.strip_prefix("sqlite:"))?;
        (!path.is_empty()).then(|| Self::Sqlite(PathBuf::from(path)))
    }
}

/// Shows where the database is, never a password.
impl std::fmt::Display for StoreUrl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Memory => f.write_str("memory:"),
            Self::Sqlite(path) => write!(f, "sqlite:{}", path.display()),
            Self::Postgres(url) => match url.parse::<postgres::Config>() {
                Ok(config) => {
                    let host = match config.get_hosts().first() {
                        Some(postgres::config::Host::Tcp(name)) => name.clone(),
                        Some(postgres::config::Host::Unix(path)) => path.display().to_string(),
                        None => "localhost".to_owned(),
                    };
                    let port = config.get_ports().first().copied().unwrap_or(5432);
                    let name = config.get_dbname().or(config.get_user()).unwrap_or("?");
                    write!(f, "postgres://{host}:{port}/{name}")
                }
                Err(_) => f.write_str("postgres://?"),
            },
        }
    }
}

impl std::fmt::Debug for StoreUrl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(self, f)
    }
}

/// Handle of an open database; clones share it.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
    in_place: bool,
}

struct Inner {
    backend: Backend,
    url: StoreUrl,
    write_gate: Arc<Semaphore>,
    read_gate: Arc<Semaphore>,
    changes: broadcast::Sender<Change>,
    #[cfg(any(test, feature = "testing"))]
    faults: Arc<crate::testing::Faults>,
}

enum Backend {
    Memory(Mutex<Connection>),
    Postgres(PgPool),
    Sqlite {
        writer: Mutex<Connection>,
        readers: Slots<Connection>,
        path: PathBuf,
    },
}

/// Readers of an SQLite file: enough that a long list does not hold up the rest, few enough that their page
/// caches stay small.
const SQLITE_READERS: usize = 4;
/// Clients of PostgreSQL that write, and that read, at once; together far under its default of 100 for
/// several replicas.
const POSTGRES_WRITERS: usize = 6;
const POSTGRES_READERS: usize = 4;
/// How long SQLite waits for another process (a `server check`, a backup) to let go of the file.
const SQLITE_BUSY: Duration = Duration::from_secs(10);
/// How long a connection to PostgreSQL may take.
const POSTGRES_CONNECT: Duration = Duration::from_secs(10);
/// How often a transaction that lost a conflict is run again before its error is passed on.
const ATTEMPTS_MAX: u32 = 10;
/// Changes kept for a listener that is behind; one that is further behind is told so and looks at everything.
const CHANGES_KEPT: usize = 1024;

impl Store {
    /// Opens a database; the schema is not touched ([`Store::migrate`] does that).
    ///
    /// # Errors
    /// [`StoreError::Open`] when it is not there or refuses us.
    pub async fn open(url: StoreUrl) -> Result<Self, StoreError> {
        blocking(false, move || Self::open_blocking(url)).await
    }

    /// The same on a thread that may block and is not part of an asynchronous runtime.
    ///
    /// # Errors
    /// As [`Store::open`].
    pub fn open_blocking(url: StoreUrl) -> Result<Self, StoreError> {
        let backend = match &url {
            StoreUrl::Memory => {
                let conn = Connection::open_in_memory()
                    .and_then(|conn| set_up_sqlite(&conn, false).map(|()| conn))
                    .map_err(|source| open_error(&url, EngineError::Sqlite(source)))?;
                Backend::Memory(Mutex::new(conn))
            }
            StoreUrl::Sqlite(path) => {
                create_private(path)
                    .map_err(|source| open_error(&url, EngineError::File(source)))?;
                let writer = open_sqlite(path, false)
                    .map_err(|source| open_error(&url, EngineError::Sqlite(source)))?;
                Backend::Sqlite {
                    writer: Mutex::new(writer),
                    readers: Slots::new(SQLITE_READERS),
                    path: path.clone(),
                }
            }
            StoreUrl::Postgres(text) => {
                let pool = PgPool::new(text)
                    .map_err(|source| open_error(&url, EngineError::Postgres(source)))?;
                let conn = pool
                    .connect()
                    .map_err(|source| open_error(&url, EngineError::Postgres(source)))?;
                pool.slots.put(conn);
                Backend::Postgres(pool)
            }
        };
        let (writers, readers) = match &backend {
            Backend::Memory(_) => (1, 1),
            Backend::Sqlite { .. } => (1, SQLITE_READERS),
            Backend::Postgres(_) => (POSTGRES_WRITERS, POSTGRES_READERS),
        };
        Ok(Self {
            inner: Arc::new(Inner {
                backend,
                url,
                write_gate: Arc::new(Semaphore::new(writers)),
                read_gate: Arc::new(Semaphore::new(readers)),
                changes: broadcast::Sender::new(CHANGES_KEPT),
                #[cfg(any(test, feature = "testing"))]
                faults: Arc::default(),
            }),
            in_place: false,
        })
    }

    /// Which engine is underneath.
    #[must_use]
    pub fn engine(&self) -> Engine {
        match self.inner.backend {
            Backend::Memory(_) | Backend::Sqlite { .. } => Engine::Sqlite,
            Backend::Postgres(_) => Engine::Postgres,
        }
    }

    /// What was opened.
    #[must_use]
    pub fn url(&self) -> &StoreUrl {
        &self.inner.url
    }

    /// The same database, with every transaction run on the thread that asks for it. For simulations:
    /// which of several waiting threads comes first is the one thing that a seed does not decide.
    /// Never with PostgreSQL, whose client must not be used on a thread of the runtime.
    #[must_use]
    pub fn in_place(mut self) -> Self {
        self.in_place = true;
        self
    }

    /// Runs `work` in a transaction that may write, and commits it. When this returns `Ok`, the change is
    /// durable; when it returns `Err`, nothing of it was kept (save where the connection was lost during the
    /// commit itself: then nobody knows, and the caller's repeat must be harmless, as it always is).
    ///
    /// `work` may run several times: PostgreSQL can choose a transaction as the victim of a conflict. So it
    /// is `FnMut`, borrows or clones what it captured, and has no effect outside of the transaction.
    /// It runs to its end even when the caller stops waiting.
    ///
    /// # Errors
    /// What `work` returns, or why the transaction could not be begun or committed.
    pub async fn write<T, F>(&self, mut work: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnMut(&mut Tx<'_>) -> Result<T, StoreError> + Send + 'static,
    {
        let permit = Arc::clone(&self.inner.write_gate).acquire_owned().await;
        let store = self.clone();
        blocking(self.in_place, move || {
            let outcome = store.write_blocking(&mut work);
            drop((permit, work, store));
            outcome
        })
        .await
    }

    /// Runs `work` on a consistent snapshot; it cannot write.
    ///
    /// # Errors
    /// What `work` returns, or why the snapshot could not be had.
    pub async fn read<T, F>(&self, mut work: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnMut(&mut Tx<'_>) -> Result<T, StoreError> + Send + 'static,
    {
        let permit = Arc::clone(&self.inner.read_gate).acquire_owned().await;
        let store = self.clone();
        blocking(self.in_place, move || {
            let outcome = store.read_blocking(&mut work);
            drop((permit, work, store));
            outcome
        })
        .await
    }

    /// [`Store::write`] on a thread that may block.
    ///
    /// # Errors
    /// As [`Store::write`].
    pub fn write_blocking<T>(
        &self,
        mut work: impl FnMut(&mut Tx<'_>) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let mut attempt = 1;
        loop {
            let (outcome, transient) = self.write_once(&mut work);
            match outcome {
                Err(_) if transient && attempt < ATTEMPTS_MAX => attempt += 1,
                outcome => return outcome,
            }
        }
    }

    fn write_once<T>(
        &self,
        work: &mut impl FnMut(&mut Tx<'_>) -> Result<T, StoreError>,
    ) -> (Result<T, StoreError>, bool) {
        match &self.inner.backend {
            Backend::Memory(conn) | Backend::Sqlite { writer: conn, .. } => {
                let conn = lock_sqlite(conn);
                self.run(Tx::sqlite(&conn), "BEGIN IMMEDIATE", work)
            }
            Backend::Postgres(pool) => match pool.checkout() {
                Ok(mut lent) => {
                    let answer = self.run(Tx::postgres(lent.conn()), "BEGIN", work);
                    lent.give_back();
                    answer
                }
                Err(error) => (Err(open_error(&self.inner.url, error)), false),
            },
        }
    }

    /// [`Store::read`] on a thread that may block.
    ///
    /// # Errors
    /// As [`Store::read`].
    pub fn read_blocking<T>(
        &self,
        mut work: impl FnMut(&mut Tx<'_>) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        match &self.inner.backend {
            Backend::Memory(conn) => {
                let conn = lock_sqlite(conn);
                let _ = conn.pragma_update(None, "query_only", true);
                let outcome = self.run(Tx::sqlite(&conn), "BEGIN", &mut work).0;
                let _ = conn.pragma_update(None, "query_only", false);
                outcome
            }
            Backend::Sqlite { readers, path, .. } => {
                let conn = match readers.take() {
                    Some(conn) => conn,
                    None => match open_sqlite(path, true) {
                        Ok(conn) => conn,
                        Err(source) => {
                            readers.discard();
                            return Err(open_error(&self.inner.url, EngineError::Sqlite(source)));
                        }
                    },
                };
                let mut lent = Lent {
                    slots: readers,
                    conn: Some(conn),
                    clean: false,
                };
                let outcome = self.run(Tx::sqlite(lent.conn()), "BEGIN", &mut work).0;
                lent.give_back();
                outcome
            }
            Backend::Postgres(pool) => {
                let mut lent = pool
                    .checkout()
                    .map_err(|error| open_error(&self.inner.url, error))?;
                let begin = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY";
                let outcome = self.run(Tx::postgres(lent.conn()), begin, &mut work).0;
                lent.give_back();
                outcome
            }
        }
    }

    /// Tells what committed transactions announced, in this process. A listener that is told it lagged
    /// looks at everything; whoever waits also looks now and then, as other replicas are not heard here.
    #[must_use]
    pub fn changes(&self) -> broadcast::Receiver<Change> {
        self.inner.changes.subscribe()
    }

    /// Where tests let transactions of this store fail.
    #[cfg(any(test, feature = "testing"))]
    #[must_use]
    pub fn faults(&self) -> &crate::testing::Faults {
        &self.inner.faults
    }

    /// Begins, works, commits or rolls back; says whether running it again may help.
    fn run<T>(
        &self,
        mut tx: Tx<'_>,
        begin: &str,
        work: &mut impl FnMut(&mut Tx<'_>) -> Result<T, StoreError>,
    ) -> (Result<T, StoreError>, bool) {
        #[cfg(any(test, feature = "testing"))]
        {
            tx.faults = Some(Arc::clone(&self.inner.faults));
        }
        if let Err(error) = tx.batch(begin) {
            let transient = error.is_transient();
            return (Err(error), transient);
        }
        let outcome = work(&mut tx);
        let outcome = match outcome {
            Ok(_) if tx.is_poisoned() => Err(StoreError::Poisoned),
            outcome => outcome,
        };
        match outcome {
            Ok(value) => match tx.batch("COMMIT").and_then(|()| tx.strike("committed")) {
                Ok(()) => {
                    for change in tx.take_changes() {
                        let _ = self.inner.changes.send(change);
                    }
                    (Ok(value), false)
                }
                Err(error) => {
                    let transient = error.is_transient();
                    let _ = tx.batch("ROLLBACK");
                    (Err(error), transient)
                }
            },
            Err(error) => {
                let transient = tx.is_transient();
                let _ = tx.batch("ROLLBACK");
                (Err(error), transient)
            }
        }
    }
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Store({})", self.inner.url)
    }
}

/// Runs `work` on a blocking thread; its panic becomes the caller's.
async fn blocking<T: Send + 'static>(
    in_place: bool,
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    if in_place {
        return work();
    }
    match tokio::task::spawn_blocking(work).await {
        Ok(outcome) => outcome,
        Err(join) => match join.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => Err(StoreError::Stopped),
        },
    }
}

fn open_error(url: &StoreUrl, source: EngineError) -> StoreError {
    StoreError::Open {
        target: url.to_string(),
        source: Box::new(source),
    }
}

/// The connection, also after a transaction panicked on it; what that one left open is undone.
fn lock_sqlite(conn: &Mutex<Connection>) -> MutexGuard<'_, Connection> {
    conn.lock().unwrap_or_else(|poisoned| {
        let guard = poisoned.into_inner();
        let _ = guard.execute_batch("ROLLBACK");
        let _ = guard.pragma_update(None, "query_only", false);
        conn.clear_poison();
        guard
    })
}

fn create_private(path: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::OpenOptionsExt as _;
    std::fs::OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(path)
        .map(drop)
}

pub(crate) fn open_sqlite(path: &Path, read_only: bool) -> rusqlite::Result<Connection> {
    let conn = Connection::open(path)?;
    set_up_sqlite(&conn, true)?;
    if read_only {
        conn.pragma_update(None, "query_only", true)?;
    }
    Ok(conn)
}

fn set_up_sqlite(conn: &Connection, in_file: bool) -> rusqlite::Result<()> {
    conn.busy_timeout(SQLITE_BUSY)?;
    if in_file {
        conn.pragma_update(None, "journal_mode", "WAL")?;
        // With NORMAL a power cut takes acknowledged commits along.
        conn.pragma_update(None, "synchronous", "FULL")?;
        conn.pragma_update(None, "journal_size_limit", 64 * 1024 * 1024)?;
    }
    conn.pragma_update(None, "foreign_keys", true)?;
    conn.pragma_update(None, "temp_store", "MEMORY")?;
    conn.set_prepared_statement_cache_capacity(256);
    Ok(())
}

/// A bounded set of connections: `take` waits for a free slot; `None` means the slot is free but empty, so
/// that the caller connects.
struct Slots<C> {
    state: Mutex<SlotState<C>>,
    freed: Condvar,
    size: usize,
}

struct SlotState<C> {
    idle: Vec<C>,
    lent: usize,
}

impl<C> Slots<C> {
    fn new(size: usize) -> Self {
        Self {
            state: Mutex::new(SlotState {
                idle: Vec::new(),
                lent: 0,
            }),
            freed: Condvar::new(),
            size,
        }
    }

    fn take(&self) -> Option<C> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let mut state = self
            .freed
            .wait_while(state, |state| state.lent >= self.size)
            .unwrap_or_else(PoisonError::into_inner);
        state.lent += 1;
        state.idle.pop()
    }

    /// A connection from outside of any slot, for later.
    fn put(&self, conn: C) {
        self.state
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .idle
            .push(conn);
    }

    fn restore(&self, conn: C) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.lent = state.lent.saturating_sub(1);
        state.idle.push(conn);
        self.freed.notify_one();
    }

    fn discard(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.lent = state.lent.saturating_sub(1);
        self.freed.notify_one();
    }
}

/// A connection on loan. One that is dropped without `give_back` (a panic) is closed, which rolls back.
struct Lent<'p, C> {
    slots: &'p Slots<C>,
    conn: Option<C>,
    clean: bool,
}

impl<C> Lent<'_, C> {
    #[expect(
        clippy::expect_used,
        reason = "the connection is there until the loan ends"
    )]
    fn conn(&mut self) -> &mut C {
        self.conn.as_mut().expect("connection on loan")
    }

    fn give_back(&mut self) {
        self.clean = true;
    }
}

impl<C> Drop for Lent<'_, C> {
    fn drop(&mut self) {
        match self.conn.take() {
            Some(conn) if self.clean => self.slots.restore(conn),
            dirty => {
                drop(dirty);
                self.slots.discard();
            }
        }
    }
}

struct PgPool {
    config: postgres::Config,
    slots: Slots<PgConn>,
}

impl PgPool {
    fn new(url: &str) -> Result<Self, postgres::Error> {
        let mut config: postgres::Config = url.parse()?;
        config.application_name("muster");
        if config.get_connect_timeout().is_none() {
            config.connect_timeout(POSTGRES_CONNECT);
        }
        Ok(Self {
            config,
            slots: Slots::new(POSTGRES_WRITERS + POSTGRES_READERS),
        })
    }

    fn connect(&self) -> Result<PgConn, postgres::Error> {
        let mut client = self.config.connect(postgres::NoTls)?;
        client.batch_execute(POSTGRES_SESSION)?;
        Ok(PgConn::new(client))
    }

    fn checkout(&self) -> Result<Lent<'_, PgConn>, EngineError> {
        let idle = self.slots.take().filter(|conn| !conn.is_closed());
        let mut lent = Lent {
            slots: &self.slots,
            conn: idle,
            clean: false,
        };
        if let Some(conn) = &mut lent.conn {
            // A server that was restarted meanwhile shows only when it is spoken to.
            if conn.batch("").is_err() {
                lent.conn = None;
            }
        }
        if lent.conn.is_none() {
            lent.conn = Some(self.connect().map_err(EngineError::Postgres)?);
        }
        Ok(lent)
    }
}

/// An acknowledged commit is durable whatever the server's default is; a client that hangs in a transaction
/// does not hold its locks for ever.
const POSTGRES_SESSION: &str = "SET synchronous_commit = on; \
     SET idle_in_transaction_session_timeout = '60s'; \
     SET lock_timeout = '30s'; \
     SET client_min_messages = warning";

impl Drop for PgPool {
    fn drop(&mut self) {
        let state = self
            .slots
            .state
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner);
        let idle = std::mem::take(&mut state.idle);
        if !idle.is_empty() {
            let ended = std::thread::spawn(move || drop(idle)).join();
            debug_assert!(ended.is_ok());
        }
    }
}

#[cfg(test)]
mod tests {
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
                    tx.announce("cell", 1);
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
            let mut heard = store.changes();
            store
                .write(|tx| {
                    insert(tx, 1)?;
                    let part = tx.savepoint(|tx| {
                        insert(tx, 2)?;
                        tx.announce("cell", 2);
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
                        tx.announce("cell", 5);
                        insert(tx, 5)
                    })?;
                    Ok(())
                })
                .await
                .unwrap();
            assert_eq!(keys(&store).await, [1, 4, 5]);
            assert_eq!(
                heard.try_recv().unwrap(),
                Change {
                    topic: "cell".into(),
                    key: "5".into()
                }
            );
            assert!(heard.try_recv().is_err());
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
}
