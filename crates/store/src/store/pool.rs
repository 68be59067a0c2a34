//! Connections that several transactions share: bounded slots, loans that end by themselves, and the clients of
//! PostgreSQL in them.

use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

use crate::error::EngineError;
use crate::sql::PgConn;

/// How long a connection to PostgreSQL may take.
const POSTGRES_CONNECT: Duration = Duration::from_secs(10);

/// A bounded set of connections: `take` waits for a free slot; `None` means the slot is free but empty, so
/// that the caller connects.
pub(super) struct Slots<C> {
    state: Mutex<SlotState<C>>,
    freed: Condvar,
    size: usize,
}

struct SlotState<C> {
    idle: Vec<C>,
    lent: usize,
}

impl<C> Slots<C> {
    pub(super) fn new(size: usize) -> Self {
        Self {
            state: Mutex::new(SlotState {
                idle: Vec::new(),
                lent: 0,
            }),
            freed: Condvar::new(),
            size,
        }
    }

    pub(super) fn take(&self) -> Option<C> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let mut state = self
            .freed
            .wait_while(state, |state| state.lent >= self.size)
            .unwrap_or_else(PoisonError::into_inner);
        state.lent += 1;
        state.idle.pop()
    }

    /// A connection from outside of any slot, for later.
    pub(super) fn put(&self, conn: C) {
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

    pub(super) fn discard(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.lent = state.lent.saturating_sub(1);
        self.freed.notify_one();
    }
}

/// A connection on loan. One that is dropped without `give_back` (a panic) is closed, which rolls back.
pub(super) struct Lent<'p, C> {
    slots: &'p Slots<C>,
    conn: Option<C>,
    clean: bool,
}

impl<'p, C> Lent<'p, C> {
    /// A loan of `conn`, taken from `slots`.
    pub(super) fn new(slots: &'p Slots<C>, conn: Option<C>) -> Self {
        Self {
            slots,
            conn,
            clean: false,
        }
    }

    #[expect(
        clippy::expect_used,
        reason = "the connection is there until the loan ends"
    )]
    pub(super) fn conn(&mut self) -> &mut C {
        self.conn.as_mut().expect("connection on loan")
    }

    pub(super) fn give_back(&mut self) {
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

/// The clients of one PostgreSQL.
pub(super) struct PgPool {
    config: postgres::Config,
    pub(super) slots: Slots<PgConn>,
}

impl PgPool {
    /// A pool of at most `size` clients, none of them connected yet.
    pub(super) fn new(url: &str, size: usize) -> Result<Self, postgres::Error> {
        let mut config: postgres::Config = url.parse()?;
        config.application_name("muster");
        if config.get_connect_timeout().is_none() {
            config.connect_timeout(POSTGRES_CONNECT);
        }
        Ok(Self {
            config,
            slots: Slots::new(size),
        })
    }

    /// How clients are connected, for one outside of the pool.
    pub(super) fn config(&self) -> &postgres::Config {
        &self.config
    }

    pub(super) fn connect(&self) -> Result<PgConn, postgres::Error> {
        let mut client = self.config.connect(postgres::NoTls)?;
        client.batch_execute(POSTGRES_SESSION)?;
        Ok(PgConn::new(client))
    }

    pub(super) fn checkout(&self) -> Result<Lent<'_, PgConn>, EngineError> {
        let idle = self.slots.take().filter(|conn| !conn.is_closed());
        let mut lent = Lent::new(&self.slots, idle);
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
