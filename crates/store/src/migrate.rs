//! Schema versions: which files make the schema, which of them a database has, and how it gets the rest.
//!
//! A migration is a numbered file in `migrations/`, one for both engines or a pair where they must differ.
//! What was applied is kept with its checksum, so that a changed file or a database of a newer build is
//! refused instead of guessed at. All pending files are applied in one transaction, under a lock that other
//! replicas wait for; afterwards the schema is whole or untouched.

use jiff::Timestamp;
use sha2::{Digest as _, Sha256};

use crate::error::StoreError;
use crate::params;
use crate::sql::{Engine, Tx};
use crate::store::Store;

/// One numbered step of a schema.
#[derive(Clone, Copy, Debug)]
pub struct Migration {
    /// Its number; they are applied in this order, and numbers may be left out.
    pub number: u32,
    /// Its name, as in the file's.
    pub name: &'static str,
    sqlite: &'static str,
    postgres: &'static str,
}

impl Migration {
    const fn both(number: u32, name: &'static str, sql: &'static str) -> Self {
        Self {
            number,
            name,
            sqlite: sql,
            postgres: sql,
        }
    }

    const fn pair(
        number: u32,
        name: &'static str,
        sqlite: &'static str,
        postgres: &'static str,
    ) -> Self {
        Self {
            number,
            name,
            sqlite,
            postgres,
        }
    }

    fn sql(&self, engine: Engine) -> &'static str {
        match engine {
            Engine::Postgres => self.postgres,
            Engine::Sqlite => self.sqlite,
        }
    }

    fn checksum(&self, engine: Engine) -> String {
        let digest = Sha256::digest(self.sql(engine).as_bytes());
        digest.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// The schema of a server's database.
pub(crate) const SERVER: &[Migration] = &[
    Migration::both(1, "core", include_str!("../migrations/001_core.sql")),
    Migration::pair(
        2,
        "samples",
        include_str!("../migrations/002_samples.sqlite.sql"),
        include_str!("../migrations/002_samples.postgres.sql"),
    ),
    Migration::both(4, "duties", include_str!("../migrations/004_duties.sql")),
    Migration::both(
        5,
        "retention",
        include_str!("../migrations/005_retention.sql"),
    ),
];

/// The schema of an agent's spool.
pub(crate) const SPOOL: &[Migration] = &[Migration::both(
    3,
    "spool",
    include_str!("../migrations/003_spool.sql"),
)];

/// Why a schema cannot be used or brought up to date.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SchemaError {
    /// An applied migration is not the file this build has.
    #[error("migration {number} was applied with another content than this build has")]
    Altered {
        /// Its number.
        number: u32,
    },
    /// The schema lacks migrations of this build.
    #[error("the schema lacks {pending} migrations; run `muster server migrate`")]
    Behind {
        /// How many.
        pending: usize,
    },
    /// The database has migrations this build does not know.
    #[error("the schema has migration {number}, which is newer than this build")]
    Newer {
        /// The first unknown number.
        number: u32,
    },
}

/// What a database has of its schema.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SchemaState {
    /// Numbers and names of what was applied, in order.
    pub applied: Vec<(u32, String)>,
    /// Numbers and names of what is still to be applied.
    pub pending: Vec<(u32, String)>,
    /// Why it can be neither used nor migrated, if so.
    pub trouble: Option<SchemaError>,
}

impl SchemaState {
    /// Whether this build can work on the schema as it is.
    ///
    /// # Errors
    /// What stands against it.
    pub fn ready(&self) -> Result<(), SchemaError> {
        match &self.trouble {
            Some(trouble) => Err(trouble.clone()),
            None if self.pending.is_empty() => Ok(()),
            None => Err(SchemaError::Behind {
                pending: self.pending.len(),
            }),
        }
    }
}

impl Store {
    /// Applies what is pending of the server's schema; answers how many files that were.
    ///
    /// # Errors
    /// [`StoreError::Schema`] for an altered or newer schema, [`StoreError::Sql`] when a file fails.
    pub async fn migrate(&self, now: Timestamp) -> Result<usize, StoreError> {
        self.write(move |tx| migrate(tx, SERVER, now)).await
    }

    /// What the database has of the server's schema.
    ///
    /// # Errors
    /// [`StoreError::Sql`] when it cannot be read.
    pub async fn schema_state(&self) -> Result<SchemaState, StoreError> {
        self.read(|tx| state(tx, SERVER)).await
    }
}

/// Applies what is pending of `set`.
pub(crate) fn migrate(
    tx: &mut Tx<'_>,
    set: &[Migration],
    now: Timestamp,
) -> Result<usize, StoreError> {
    if tx.engine() == Engine::Postgres {
        // SQLite's transaction is exclusive already.
        tx.query(
            "SELECT pg_advisory_xact_lock(hashtext('muster schema ' || current_schema()))::text",
            &[],
        )?;
    }
    tx.batch(TABLE)?;
    let before = state(tx, set)?;
    if let Some(trouble) = before.trouble {
        return Err(trouble.into());
    }
    for (number, _) in &before.pending {
        let Some(migration) = set.iter().find(|m| m.number == *number) else {
            continue;
        };
        tx.batch(migration.sql(tx.engine()))?;
        let checksum = migration.checksum(tx.engine());
        tx.execute(
            "INSERT INTO muster_schema (number, name, checksum, applied_at) VALUES ($1, $2, $3, $4)",
            params![migration.number, migration.name, checksum, now],
        )?;
    }
    Ok(before.pending.len())
}

const TABLE: &str = "CREATE TABLE IF NOT EXISTS muster_schema (
    number     BIGINT PRIMARY KEY,
    name       TEXT   NOT NULL,
    checksum   TEXT   NOT NULL,
    applied_at BIGINT NOT NULL
)";

pub(crate) fn state(tx: &mut Tx<'_>, set: &[Migration]) -> Result<SchemaState, StoreError> {
    let exists = match tx.engine() {
        Engine::Postgres => {
            "SELECT 1 AS found FROM pg_tables \
             WHERE schemaname = current_schema() AND tablename = 'muster_schema'"
        }
        Engine::Sqlite => {
            "SELECT 1 AS found FROM sqlite_master WHERE type = 'table' AND name = 'muster_schema'"
        }
    };
    let rows = if tx.query_opt(exists, &[])?.is_some() {
        tx.query(
            "SELECT number, name, checksum FROM muster_schema ORDER BY number",
            &[],
        )?
    } else {
        Vec::new()
    };
    let mut applied = Vec::new();
    let mut trouble = None;
    for row in rows {
        let number: u32 = row.number("number")?;
        match set.iter().find(|m| m.number == number) {
            None => trouble = trouble.or(Some(SchemaError::Newer { number })),
            Some(known) if known.checksum(tx.engine()) != row.text("checksum")? => {
                trouble = trouble.or(Some(SchemaError::Altered { number }));
            }
            Some(_) => {}
        }
        applied.push((number, row.text("name")?.to_owned()));
    }
    let pending = set
        .iter()
        .filter(|m| !applied.iter().any(|(number, _)| *number == m.number))
        .map(|m| (m.number, m.name.to_owned()))
        .collect();
    Ok(SchemaState {
        applied,
        pending,
        trouble,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::for_each_bare_store;

    const ONE: Migration = Migration::both(
        1,
        "one",
        "CREATE TABLE one (a BIGINT); INSERT INTO one VALUES (1);",
    );
    const TWO: Migration = Migration::both(2, "two", "INSERT INTO one VALUES (2);");
    const BROKEN: Migration = Migration::both(
        3,
        "broken",
        "INSERT INTO one VALUES (3); INSERT INTO nowhere VALUES (1);",
    );

    fn at() -> Timestamp {
        Timestamp::UNIX_EPOCH
    }

    fn count(tx: &mut Tx<'_>) -> Result<i64, StoreError> {
        tx.query_one("SELECT count(*) AS n FROM one", &[])?.int("n")
    }

    #[test]
    fn every_file_is_in_exactly_one_set() {
        let mut listed: Vec<String> = SERVER
            .iter()
            .chain(SPOOL)
            .map(|m| format!("{:03}_{}", m.number, m.name))
            .collect();
        listed.sort();
        let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("migrations");
        let mut files: Vec<String> = std::fs::read_dir(dir)
            .unwrap()
            .map(|entry| {
                let name = entry.unwrap().file_name().into_string().unwrap();
                name.split('.').next().unwrap().to_owned()
            })
            .collect();
        files.sort();
        files.dedup();
        assert_eq!(files, listed);
    }

    #[test]
    fn pending_files_are_applied_once_and_in_order() {
        for_each_bare_store(|store| async move {
            let first = store.write(|tx| migrate(tx, &[ONE], at())).await.unwrap();
            assert_eq!(first, 1);
            let behind = store.read(|tx| state(tx, &[ONE, TWO])).await.unwrap();
            assert_eq!(behind.ready(), Err(SchemaError::Behind { pending: 1 }));
            assert_eq!(
                store
                    .write(|tx| migrate(tx, &[ONE, TWO], at()))
                    .await
                    .unwrap(),
                1
            );
            assert_eq!(
                store
                    .write(|tx| migrate(tx, &[ONE, TWO], at()))
                    .await
                    .unwrap(),
                0
            );
            assert_eq!(store.read(count).await.unwrap(), 2);
            let ready = store.read(|tx| state(tx, &[ONE, TWO])).await.unwrap();
            assert_eq!(ready.ready(), Ok(()));
        });
    }

    #[test]
    fn a_failing_file_leaves_the_schema_untouched() {
        for_each_bare_store(|store| async move {
            store.write(|tx| migrate(tx, &[ONE], at())).await.unwrap();
            let failed = store
                .write(|tx| migrate(tx, &[ONE, TWO, BROKEN], at()))
                .await;
            assert!(matches!(failed, Err(StoreError::Sql { .. })), "{failed:?}");
            assert_eq!(store.read(count).await.unwrap(), 1);
            let now = store
                .read(|tx| state(tx, &[ONE, TWO, BROKEN]))
                .await
                .unwrap();
            assert_eq!(now.pending.len(), 2);
        });
    }

    #[test]
    fn an_altered_or_newer_schema_is_refused() {
        const OTHER: Migration = Migration::both(1, "one", "CREATE TABLE one (b BIGINT);");
        for_each_bare_store(|store| async move {
            store
                .write(|tx| migrate(tx, &[ONE, TWO], at()))
                .await
                .unwrap();
            for (set, expected) in [
                (&[OTHER, TWO][..], SchemaError::Altered { number: 1 }),
                (&[ONE][..], SchemaError::Newer { number: 2 }),
            ] {
                let set: Vec<Migration> = set.to_vec();
                let again = set.clone();
                let state = store.read(move |tx| state(tx, &set)).await.unwrap();
                assert_eq!(state.ready(), Err(expected.clone()));
                let refused = store.write(move |tx| migrate(tx, &again, at())).await;
                assert!(
                    matches!(&refused, Err(StoreError::Schema(e)) if *e == expected),
                    "{refused:?}"
                );
            }
        });
    }

    #[test]
    fn an_empty_database_is_behind_and_reading_it_creates_nothing() {
        for_each_bare_store(|store| async move {
            let state = store.schema_state().await.unwrap();
            assert!(state.applied.is_empty());
            assert_eq!(state.pending.len(), SERVER.len());
            assert!(store.migrate(at()).await.unwrap() > 0);
            assert_eq!(store.schema_state().await.unwrap().ready(), Ok(()));
        });
    }
}
