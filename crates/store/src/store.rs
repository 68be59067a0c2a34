//! The store of a server: one asynchronous door to synchronous transactions.
//!
//! `Store` owns the connections and decides when a transaction begins, commits and is run again. What a
//! transaction does is a plain function over [`Tx`], so no future ever holds one open. Three backends: SQLite
//! in a file (WAL, `synchronous=FULL`, one writer, a few readers), SQLite in memory (one connection), and
//! PostgreSQL (a small pool of synchronous clients).
//!
//! A `postgres::Client` drives a runtime of its own: used or dropped on an asynchronous thread it panics.
//! Clients are therefore made, used and ended on blocking threads only.

mod bell;
mod pool;

use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use rusqlite::Connection;
use rusqlite::config::DbConfig;
use tokio::sync::Semaphore;

use crate::error::{EngineError, StoreError};
use crate::sql::{Engine, Tx};

use bell::Listener;
pub use bell::{Bell, Topics};
use pool::{Lent, PgPool, Slots};

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
    in_place: Option<Pause>,
}

/// What a simulated process waits for before and after each of its transactions: where its disk is slow,
/// and, by never returning, where it is killed.
pub type Pause = Arc<dyn Fn() -> Pin<Box<dyn Future<Output = ()> + Send>> + Send + Sync>;

struct Inner {
    backend: Backend,
    url: StoreUrl,
    write_gate: Arc<Semaphore>,
    read_gate: Arc<Semaphore>,
    /// Who hears of what other processes change, on PostgreSQL.
    listener: Arc<Listener>,
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
/// How often a transaction that lost a conflict is run again before its error is passed on.
const ATTEMPTS_MAX: u32 = 10;

impl Store {
    /// Opens a database; the schema is not touched ([`Store::migrate`] does that).
    ///
    /// # Errors
    /// [`StoreError::Open`] when it is not there or refuses us.
    pub async fn open(url: StoreUrl) -> Result<Self, StoreError> {
        off_thread(move || Self::open_blocking(url)).await
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
                let pool = PgPool::new(text, POSTGRES_WRITERS + POSTGRES_READERS)
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
                listener: Arc::default(),
                #[cfg(any(test, feature = "testing"))]
                faults: Arc::default(),
            }),
            in_place: None,
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

    /// The same database, with every transaction run on the thread that asks for it, between two pauses.
    /// For simulations: which of several waiting threads comes first is the one thing that a seed does not
    /// decide. Never with PostgreSQL, whose client must not be used on a thread of the runtime.
    #[must_use]
    pub fn in_place(mut self, pause: Pause) -> Self {
        self.in_place = Some(pause);
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
        let gate = Arc::clone(&self.inner.write_gate);
        let store = self.clone();
        self.blocking(gate, move || {
            let outcome = store.write_blocking(&mut work);
            drop((work, store));
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
        let gate = Arc::clone(&self.inner.read_gate);
        let store = self.clone();
        self.blocking(gate, move || {
            let outcome = store.read_blocking(&mut work);
            drop((work, store));
            outcome
        })
        .await
    }

    /// Runs a transaction where it may block, when `gate` lets it.
    async fn blocking<T: Send + 'static>(
        &self,
        gate: Arc<Semaphore>,
        work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let Some(pause) = &self.in_place else {
            let permit = gate.acquire_owned().await;
            return off_thread(move || {
                let outcome = work();
                drop(permit);
                outcome
            })
            .await;
        };
        // The gate is not held over the pauses, for one that never returns would keep it shut.
        pause().await;
        let permit = gate.acquire_owned().await;
        let outcome = work();
        drop(permit);
        pause().await;
        outcome
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
                // Switching `query_only` on and off would have every statement compiled anew each time.
                let conn = lock_sqlite(conn);
                let tx = Tx::sqlite(&conn).reading();
                self.run(tx, "BEGIN", &mut work).0
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
                let mut lent = Lent::new(readers, Some(conn));
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

    /// Tells other processes on the same database that something committed may concern them. A hint that may
    /// be lost: whoever waits also looks now and then. With SQLite there are no others, and nothing is done.
    ///
    /// # Errors
    /// [`StoreError`] when the database does not answer.
    pub async fn tell(&self, topics: Topics) -> Result<(), StoreError> {
        match self.inner.backend {
            Backend::Memory(_) | Backend::Sqlite { .. } => Ok(()),
            Backend::Postgres(_) => {
                let payload = self.inner.listener.payload(topics);
                self.write(move |tx| bell::notify(tx, &payload)).await
            }
        }
    }

    /// Rings whenever another process on the same database told something, and once for everything whenever
    /// something may have been missed. It goes on for as long as the answer is kept. `None` with SQLite,
    /// where there are no others.
    #[must_use]
    pub fn hear(&self) -> Option<Arc<Bell>> {
        match &self.inner.backend {
            Backend::Memory(_) | Backend::Sqlite { .. } => None,
            Backend::Postgres(pool) => Some(self.inner.listener.start(pool.config().clone())),
        }
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
                Ok(()) => (Ok(value), false),
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
async fn off_thread<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
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
    // A plan that holds for every value: else binding another one has the statement compiled anew.
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    Ok(())
}
