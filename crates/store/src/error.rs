//! What can go wrong between Muster and its database.
//!
//! One enum for the whole crate, because callers treat all of it alike: a conflict is tried again by who
//! knows how, everything else goes to the operator with its chain. Nothing here is meant for a peer.

/// A failed storage operation.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A stored block or interval set does not decode.
    #[error("stored data of {table} {key} does not decode")]
    Damaged {
        /// Table that holds the data.
        table: &'static str,
        /// Key of the row.
        key: String,
        /// What the codec found.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A guarded change found the row in another state than the caller had read.
    #[error("{what} was changed by somebody else meanwhile")]
    Conflict {
        /// What was to be changed, for people.
        what: String,
    },
    /// A row that makes no sense: a column is missing, of another type, or holds an impossible value.
    #[error("column {column} of {table} makes no sense in the row with key {key}")]
    Inconsistent {
        /// Table of the row, as far as the statement tells.
        table: String,
        /// Column that does not fit.
        column: String,
        /// First column of the row, for finding it.
        key: String,
    },
    /// A value is larger than what one row may hold.
    #[error("{what} of {size} is over the limit of {limit}")]
    Limit {
        /// What was counted, with its unit.
        what: &'static str,
        /// How much there was.
        size: u64,
        /// How much there may be.
        limit: u64,
    },
    /// A row that must exist does not.
    #[error("no row answers {sql}")]
    NoRow {
        /// The statement.
        sql: String,
    },
    /// The database file or server cannot be opened.
    #[error("database {target} did not open")]
    Open {
        /// What was to be opened; never a password.
        target: String,
        /// The engine's reason.
        #[source]
        source: Box<EngineError>,
    },
    /// A statement of this transaction failed and the caller went on as if it had not.
    #[error("transaction had a failed statement and was rolled back")]
    Poisoned,
    /// The schema is not the one this build needs.
    #[error(transparent)]
    Schema(#[from] crate::migrate::SchemaError),
    /// A statement failed.
    #[error("statement failed: {sql}")]
    Sql {
        /// The statement, without its parameters.
        sql: String,
        /// The engine's reason.
        #[source]
        source: Box<EngineError>,
    },
    /// The blocking thread that ran the transaction ended without an answer (the runtime shuts down).
    #[error("storage thread ended without an answer")]
    Stopped,
}

impl StoreError {
    /// Whether the same transaction may succeed when it is run again: the engine chose it as the victim of
    /// a conflict, and nothing of it was kept.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        self.engine().is_some_and(EngineError::is_transient)
    }

    /// Whether a row with this key exists already.
    #[must_use]
    pub fn is_unique_violation(&self) -> bool {
        self.engine().is_some_and(EngineError::is_unique_violation)
    }

    /// Whether the connection to the database was lost or refused.
    #[must_use]
    pub fn is_unavailable(&self) -> bool {
        self.engine().is_some_and(EngineError::is_unavailable)
    }

    fn engine(&self) -> Option<&EngineError> {
        match self {
            Self::Open { source, .. } | Self::Sql { source, .. } => Some(source),
            Self::Damaged { .. }
            | Self::Conflict { .. }
            | Self::Inconsistent { .. }
            | Self::Limit { .. }
            | Self::NoRow { .. }
            | Self::Poisoned
            | Self::Schema(_)
            | Self::Stopped => None,
        }
    }
}

/// The engine's own error.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The file system refused the database file.
    #[error(transparent)]
    File(std::io::Error),
    /// PostgreSQL said no, or is not there.
    #[error(transparent)]
    Postgres(postgres::Error),
    /// SQLite said no.
    #[error(transparent)]
    Sqlite(rusqlite::Error),
}

impl EngineError {
    fn is_transient(&self) -> bool {
        use postgres::error::SqlState;
        match self {
            Self::File(_) => false,
            Self::Postgres(error) => error.code().is_some_and(|code| {
                *code == SqlState::T_R_SERIALIZATION_FAILURE
                    || *code == SqlState::T_R_DEADLOCK_DETECTED
            }),
            Self::Sqlite(error) => matches!(
                error.sqlite_error_code(),
                Some(rusqlite::ErrorCode::DatabaseBusy | rusqlite::ErrorCode::DatabaseLocked)
            ),
        }
    }

    fn is_unique_violation(&self) -> bool {
        match self {
            Self::File(_) => false,
            Self::Postgres(error) => error
                .code()
                .is_some_and(|code| *code == postgres::error::SqlState::UNIQUE_VIOLATION),
            Self::Sqlite(error) => error.sqlite_error().is_some_and(|e| {
                e.extended_code == rusqlite::ffi::SQLITE_CONSTRAINT_PRIMARYKEY
                    || e.extended_code == rusqlite::ffi::SQLITE_CONSTRAINT_UNIQUE
            }),
        }
    }

    fn is_unavailable(&self) -> bool {
        match self {
            Self::File(_) => true,
            Self::Postgres(error) => {
                error.is_closed()
                    || error.as_db_error().is_none_or(|db| {
                        let code = db.code().code();
                        code.starts_with("57P") || code.starts_with("08") || code.starts_with("53")
                    })
            }
            Self::Sqlite(error) => matches!(
                error.sqlite_error_code(),
                Some(
                    rusqlite::ErrorCode::CannotOpen
                        | rusqlite::ErrorCode::DiskFull
                        | rusqlite::ErrorCode::SystemIoFailure
                )
            ),
        }
    }
}
