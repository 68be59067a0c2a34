//! One SQL dialect over two engines, and the transaction it is used in.
//!
//! Columns are BIGINT, DOUBLE PRECISION, TEXT or BYTEA, parameters are `$1`, `$2`, ... (architecture,
//! section 7). Nothing here opens a connection or decides when to commit; that is `store.rs`.
//!
//! PostgreSQL infers a parameter's type from its place. Where there is none (`SELECT $1`), write
//! `CAST($1 AS BIGINT)`. `SUM` of a BIGINT is NUMERIC there and is read as an integer when it is one.

mod postgres;
mod row;
mod sqlite;

use crate::error::{EngineError, StoreError};

pub(crate) use self::postgres::PgConn;
pub use row::{Row, Value};

/// An open transaction. It lives on one blocking thread, inside the closure given to
/// [`Store::write`](crate::Store::write) or [`Store::read`](crate::Store::read), which also ends it.
///
/// A failed statement spoils the transaction on both engines (PostgreSQL would turn the commit into a
/// rollback without saying so): whatever the closure returns, nothing is kept. Use [`Tx::savepoint`] for a
/// part that may fail alone.
pub struct Tx<'c> {
    conn: Conn<'c>,
    poisoned: bool,
    read_only: bool,
    transient: bool,
    depth: usize,
    #[cfg(any(test, feature = "testing"))]
    pub(crate) faults: Option<std::sync::Arc<crate::testing::Faults>>,
}

enum Conn<'c> {
    Sqlite(&'c rusqlite::Connection),
    Postgres(&'c mut PgConn),
}

/// Which engine is behind a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Engine {
    /// PostgreSQL.
    Postgres,
    /// SQLite, in a file or in memory.
    Sqlite,
}

impl<'c> Tx<'c> {
    pub(crate) fn sqlite(conn: &'c rusqlite::Connection) -> Self {
        Self::new(Conn::Sqlite(conn))
    }

    pub(crate) fn postgres(conn: &'c mut PgConn) -> Self {
        Self::new(Conn::Postgres(conn))
    }

    /// The same, refusing statements that write; for a connection of SQLite that also writes.
    pub(crate) fn reading(self) -> Self {
        Self {
            read_only: true,
            ..self
        }
    }

    fn new(conn: Conn<'c>) -> Self {
        Self {
            conn,
            poisoned: false,
            read_only: false,
            transient: false,
            depth: 0,
            #[cfg(any(test, feature = "testing"))]
            faults: None,
        }
    }

    /// The engine underneath, for the few statements that must differ.
    #[must_use]
    pub fn engine(&self) -> Engine {
        match self.conn {
            Conn::Sqlite(_) => Engine::Sqlite,
            Conn::Postgres(_) => Engine::Postgres,
        }
    }

    /// Runs a statement that returns no rows; answers how many rows it changed.
    ///
    /// # Errors
    /// [`StoreError::Sql`]; so for all statements.
    pub fn execute(&mut self, sql: &str, params: &[Value]) -> Result<u64, StoreError> {
        self.strike(sql)?;
        let outcome = match &mut self.conn {
            Conn::Sqlite(conn) => sqlite::execute(conn, sql, params, self.read_only),
            Conn::Postgres(conn) => conn.execute(sql, params),
        };
        self.noted(sql, outcome)
    }

    /// Runs a statement and returns all its rows; bound them with `LIMIT`.
    ///
    /// # Errors
    /// As [`Tx::execute`].
    pub fn query(&mut self, sql: &str, params: &[Value]) -> Result<Vec<Row>, StoreError> {
        self.strike(sql)?;
        let outcome = match &mut self.conn {
            Conn::Sqlite(conn) => sqlite::query(conn, sql, params, self.read_only),
            Conn::Postgres(conn) => conn.query(sql, params),
        };
        self.noted(sql, outcome)
    }

    /// The first row, if there is one.
    ///
    /// # Errors
    /// As [`Tx::execute`].
    pub fn query_opt(&mut self, sql: &str, params: &[Value]) -> Result<Option<Row>, StoreError> {
        Ok(self.query(sql, params)?.into_iter().next())
    }

    /// The first row, which must exist.
    ///
    /// # Errors
    /// [`StoreError::NoRow`] when it does not; else as [`Tx::execute`].
    pub fn query_one(&mut self, sql: &str, params: &[Value]) -> Result<Row, StoreError> {
        self.query_opt(sql, params)?
            .ok_or_else(|| StoreError::NoRow {
                sql: sql.to_owned(),
            })
    }

    /// Runs a change that must hit exactly one row.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] naming `what` when it hit none (its guard failed) or several; else as
    /// [`Tx::execute`].
    pub fn execute_one(
        &mut self,
        what: &str,
        sql: &str,
        params: &[Value],
    ) -> Result<(), StoreError> {
        match self.execute(sql, params)? {
            1 => Ok(()),
            _ => Err(StoreError::Conflict {
                what: what.to_owned(),
            }),
        }
    }

    /// Runs several statements without parameters, as a migration file has them.
    pub(crate) fn batch(&mut self, sql: &str) -> Result<(), StoreError> {
        self.strike(sql)?;
        let outcome = match &mut self.conn {
            Conn::Sqlite(conn) => conn.execute_batch(sql).map_err(EngineError::Sqlite),
            Conn::Postgres(conn) => conn.batch(sql),
        };
        self.noted(sql, outcome)
    }

    /// Runs `part` so that its failure undoes only itself. The error is returned; the transaction goes on,
    /// unless the engine has picked it as a conflict's victim.
    ///
    /// # Errors
    /// Whatever `part` returns.
    pub fn savepoint<T>(
        &mut self,
        part: impl FnOnce(&mut Tx<'c>) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let name = format!("part_{}", self.depth);
        self.batch(&format!("SAVEPOINT {name}"))?;
        self.depth += 1;
        let outcome = part(self);
        self.depth -= 1;
        match outcome {
            Ok(value) if !self.poisoned => {
                self.batch(&format!("RELEASE SAVEPOINT {name}"))?;
                Ok(value)
            }
            outcome => {
                if !self.transient {
                    self.poisoned = false;
                    self.batch(&format!("ROLLBACK TO SAVEPOINT {name}"))?;
                    self.batch(&format!("RELEASE SAVEPOINT {name}"))?;
                }
                outcome.and(Err(StoreError::Poisoned))
            }
        }
    }

    pub(crate) fn is_poisoned(&self) -> bool {
        self.poisoned
    }

    pub(crate) fn is_transient(&self) -> bool {
        self.transient
    }

    /// Fails here, if a test asked for it.
    #[cfg(any(test, feature = "testing"))]
    pub(crate) fn strike(&mut self, sql: &str) -> Result<(), StoreError> {
        match &self.faults {
            Some(faults) if faults.is_due() => {
                let fault = std::io::Error::other("fault of a test");
                self.noted(sql, Err(EngineError::File(fault)))
            }
            Some(_) | None => Ok(()),
        }
    }

    #[cfg(not(any(test, feature = "testing")))]
    #[expect(
        clippy::unused_self,
        clippy::unnecessary_wraps,
        reason = "only tests have faults"
    )]
    pub(crate) fn strike(&mut self, _: &str) -> Result<(), StoreError> {
        Ok(())
    }

    fn noted<T>(&mut self, sql: &str, outcome: Result<T, EngineError>) -> Result<T, StoreError> {
        outcome.map_err(|source| {
            let error = StoreError::Sql {
                sql: shortened(sql),
                source: Box::new(source),
            };
            self.poisoned = true;
            self.transient |= error.is_transient();
            error
        })
    }
}

pub(crate) fn shortened(sql: &str) -> String {
    let mut text = String::new();
    for word in sql.split_whitespace() {
        if text.len() + word.len() > SQL_SHOWN_MAX {
            text.push_str(" ...");
            break;
        }
        if !text.is_empty() {
            text.push(' ');
        }
        text.push_str(word);
    }
    text
}

/// Longest piece of a statement in an error text.
const SQL_SHOWN_MAX: usize = 200;
