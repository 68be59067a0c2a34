//! One SQL dialect over two engines: values, rows, and the transaction they are used in.
//!
//! Columns are BIGINT, DOUBLE PRECISION, TEXT or BYTEA, parameters are `$1`, `$2`, ... (architecture,
//! section 7). Nothing here opens a connection or decides when to commit; that is `store.rs`.
//!
//! PostgreSQL infers a parameter's type from its place. Where there is none (`SELECT $1`), write
//! `CAST($1 AS BIGINT)`. `SUM` of a BIGINT is NUMERIC there and is read as an integer when it is one.

use std::collections::BTreeMap;
use std::str::FromStr;
use std::sync::Arc;

use jiff::Timestamp;
use postgres::types::{FromSql, IsNull, ToSql, Type};
use uuid::Uuid;

use crate::error::{EngineError, StoreError};

/// One cell of a row, or one parameter.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// Absent.
    Null,
    /// BIGINT.
    Int(i64),
    /// DOUBLE PRECISION.
    Real(f64),
    /// TEXT; PostgreSQL refuses U+0000 in it.
    Text(String),
    /// BYTEA.
    Bytes(Vec<u8>),
}

/// Makes a parameter list: `tx.execute("... $1 ... $2", params![id, now])`.
#[macro_export]
macro_rules! params {
    () => { &[] as &[$crate::Value] };
    ($($value:expr),+ $(,)?) => { &[$($crate::Value::from($value)),+] as &[$crate::Value] };
}

macro_rules! value_from {
    ($($from:ty => |$name:ident| $to:expr;)+) => {
        $(impl From<$from> for Value {
            fn from($name: $from) -> Self {
                $to
            }
        })+
    };
}

value_from! {
    i64 => |v| Value::Int(v);
    i32 => |v| Value::Int(i64::from(v));
    u32 => |v| Value::Int(i64::from(v));
    u16 => |v| Value::Int(i64::from(v));
    u8 => |v| Value::Int(i64::from(v));
    bool => |v| Value::Int(i64::from(v));
    usize => |v| Value::Int(i64::try_from(v).unwrap_or(i64::MAX));
    f64 => |v| Value::Real(v);
    String => |v| Value::Text(v);
    &String => |v| Value::Text(v.clone());
    &str => |v| Value::Text(v.to_owned());
    Vec<u8> => |v| Value::Bytes(v);
    &[u8] => |v| Value::Bytes(v.to_vec());
    Uuid => |v| Value::Text(v.to_string());
    &Uuid => |v| Value::Text(v.to_string());
    Timestamp => |v| Value::Int(v.as_microsecond());
    &Value => |v| v.clone();
}

impl<T: Into<Value>> From<Option<T>> for Value {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Null, Into::into)
    }
}

/// One row of an answer.
#[derive(Clone, Debug)]
pub struct Row {
    shape: Arc<Shape>,
    values: Vec<Value>,
}

#[derive(Debug)]
struct Shape {
    sql: String,
    columns: Vec<String>,
}

impl Row {
    /// The cell of a column.
    ///
    /// # Errors
    /// [`StoreError::Inconsistent`] when the statement returns no such column; so for all accessors.
    pub fn value(&self, column: &str) -> Result<&Value, StoreError> {
        self.shape
            .columns
            .iter()
            .position(|name| name == column)
            .and_then(|index| self.values.get(index))
            .ok_or_else(|| self.inconsistent(column))
    }

    /// TEXT that is not NULL.
    ///
    /// # Errors
    /// [`StoreError::Inconsistent`] for NULL and for another type; so for all accessors.
    pub fn text(&self, column: &str) -> Result<&str, StoreError> {
        self.opt_text(column)?
            .ok_or_else(|| self.inconsistent(column))
    }

    /// TEXT or NULL.
    ///
    /// # Errors
    /// As [`Row::text`].
    pub fn opt_text(&self, column: &str) -> Result<Option<&str>, StoreError> {
        match self.value(column)? {
            Value::Null => Ok(None),
            Value::Text(text) => Ok(Some(text)),
            Value::Int(_) | Value::Real(_) | Value::Bytes(_) => Err(self.inconsistent(column)),
        }
    }

    /// BIGINT that is not NULL.
    ///
    /// # Errors
    /// As [`Row::text`].
    pub fn int(&self, column: &str) -> Result<i64, StoreError> {
        self.opt_int(column)?
            .ok_or_else(|| self.inconsistent(column))
    }

    /// BIGINT or NULL.
    ///
    /// # Errors
    /// As [`Row::text`].
    pub fn opt_int(&self, column: &str) -> Result<Option<i64>, StoreError> {
        match self.value(column)? {
            Value::Null => Ok(None),
            Value::Int(int) => Ok(Some(*int)),
            Value::Real(_) | Value::Text(_) | Value::Bytes(_) => Err(self.inconsistent(column)),
        }
    }

    /// BIGINT as any smaller integer type.
    ///
    /// # Errors
    /// As [`Row::text`], also when it does not fit.
    pub fn number<T: TryFrom<i64>>(&self, column: &str) -> Result<T, StoreError> {
        T::try_from(self.int(column)?).map_err(|_| self.inconsistent(column))
    }

    /// BIGINT or NULL as any smaller integer type.
    ///
    /// # Errors
    /// As [`Row::number`].
    pub fn opt_number<T: TryFrom<i64>>(&self, column: &str) -> Result<Option<T>, StoreError> {
        self.opt_int(column)?
            .map(|int| T::try_from(int).map_err(|_| self.inconsistent(column)))
            .transpose()
    }

    /// DOUBLE PRECISION that is not NULL; an integer is taken too.
    ///
    /// # Errors
    /// As [`Row::text`].
    pub fn real(&self, column: &str) -> Result<f64, StoreError> {
        self.opt_real(column)?
            .ok_or_else(|| self.inconsistent(column))
    }

    /// DOUBLE PRECISION or NULL; an integer is taken too.
    ///
    /// # Errors
    /// As [`Row::text`].
    pub fn opt_real(&self, column: &str) -> Result<Option<f64>, StoreError> {
        match self.value(column)? {
            Value::Null => Ok(None),
            Value::Real(real) => Ok(Some(*real)),
            #[expect(clippy::cast_precision_loss, reason = "a count shown as a real number")]
            Value::Int(int) => Ok(Some(*int as f64)),
            Value::Text(_) | Value::Bytes(_) => Err(self.inconsistent(column)),
        }
    }

    /// BYTEA that is not NULL.
    ///
    /// # Errors
    /// As [`Row::text`].
    pub fn bytes(&self, column: &str) -> Result<&[u8], StoreError> {
        self.opt_bytes(column)?
            .ok_or_else(|| self.inconsistent(column))
    }

    /// BYTEA or NULL.
    ///
    /// # Errors
    /// As [`Row::text`].
    pub fn opt_bytes(&self, column: &str) -> Result<Option<&[u8]>, StoreError> {
        match self.value(column)? {
            Value::Null => Ok(None),
            Value::Bytes(bytes) => Ok(Some(bytes)),
            Value::Int(_) | Value::Real(_) | Value::Text(_) => Err(self.inconsistent(column)),
        }
    }

    /// A truth value, kept as BIGINT 0 or 1.
    ///
    /// # Errors
    /// As [`Row::text`], also for any other number.
    pub fn bool(&self, column: &str) -> Result<bool, StoreError> {
        match self.int(column)? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(self.inconsistent(column)),
        }
    }

    /// A time, kept as BIGINT microseconds since the epoch.
    ///
    /// # Errors
    /// As [`Row::text`], also for a time beyond the calendar.
    pub fn timestamp(&self, column: &str) -> Result<Timestamp, StoreError> {
        self.opt_timestamp(column)?
            .ok_or_else(|| self.inconsistent(column))
    }

    /// A time or NULL.
    ///
    /// # Errors
    /// As [`Row::timestamp`].
    pub fn opt_timestamp(&self, column: &str) -> Result<Option<Timestamp>, StoreError> {
        self.opt_int(column)?
            .map(|micros| {
                Timestamp::from_microsecond(micros).map_err(|_| self.inconsistent(column))
            })
            .transpose()
    }

    /// An id, kept as TEXT.
    ///
    /// # Errors
    /// As [`Row::text`], also for text that is no UUID.
    pub fn uuid(&self, column: &str) -> Result<Uuid, StoreError> {
        self.parse(column)
    }

    /// An id or NULL.
    ///
    /// # Errors
    /// As [`Row::uuid`].
    pub fn opt_uuid(&self, column: &str) -> Result<Option<Uuid>, StoreError> {
        self.opt_parse(column)
    }

    /// Anything that is kept as TEXT and reads itself back.
    ///
    /// # Errors
    /// As [`Row::text`], also when the text does not parse.
    pub fn parse<T: FromStr>(&self, column: &str) -> Result<T, StoreError> {
        self.text(column)?
            .parse()
            .map_err(|_| self.inconsistent(column))
    }

    /// The same for TEXT that may be NULL.
    ///
    /// # Errors
    /// As [`Row::parse`].
    pub fn opt_parse<T: FromStr>(&self, column: &str) -> Result<Option<T>, StoreError> {
        self.opt_text(column)?
            .map(|text| text.parse().map_err(|_| self.inconsistent(column)))
            .transpose()
    }

    /// The error for a row whose `column` makes no sense, for `TryFrom<&Row>` of the domain modules.
    #[must_use]
    pub fn inconsistent(&self, column: &str) -> StoreError {
        let key = match self.values.first() {
            None | Some(Value::Null) => "null".to_owned(),
            Some(Value::Int(int)) => int.to_string(),
            Some(Value::Real(real)) => real.to_string(),
            Some(Value::Text(text)) => text.chars().take(64).collect(),
            Some(Value::Bytes(bytes)) => format!("{} bytes", bytes.len()),
        };
        StoreError::Inconsistent {
            table: table_of(&self.shape.sql).to_owned(),
            column: column.to_owned(),
            key,
        }
    }
}

/// First table a statement names; for error texts only.
fn table_of(sql: &str) -> &str {
    let mut words = sql
        .split(|c: char| !(c.is_alphanumeric() || c == '_'))
        .filter(|w| !w.is_empty());
    while let Some(word) = words.next() {
        if ["from", "into", "update"]
            .iter()
            .any(|k| word.eq_ignore_ascii_case(k))
        {
            return words.next().unwrap_or("?");
        }
    }
    "?"
}

/// Something others in this process may be waiting for; sent after the commit, lost with a rollback.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Kind of thing that changed, for example `run`.
    pub topic: String,
    /// Its key; may be empty.
    pub key: String,
}

/// An open transaction. It lives on one blocking thread, inside the closure given to
/// [`Store::write`](crate::Store::write) or [`Store::read`](crate::Store::read), which also ends it.
///
/// A failed statement spoils the transaction on both engines (PostgreSQL would turn the commit into a
/// rollback without saying so): whatever the closure returns, nothing is kept. Use [`Tx::savepoint`] for a
/// part that may fail alone.
pub struct Tx<'c> {
    conn: Conn<'c>,
    changes: Vec<Change>,
    poisoned: bool,
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

    fn new(conn: Conn<'c>) -> Self {
        Self {
            conn,
            changes: Vec::new(),
            poisoned: false,
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
            Conn::Sqlite(conn) => sqlite_execute(conn, sql, params),
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
            Conn::Sqlite(conn) => sqlite_query(conn, sql, params),
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
        let kept = self.changes.len();
        self.depth += 1;
        let outcome = part(self);
        self.depth -= 1;
        match outcome {
            Ok(value) if !self.poisoned => {
                self.batch(&format!("RELEASE SAVEPOINT {name}"))?;
                Ok(value)
            }
            outcome => {
                self.changes.truncate(kept);
                if !self.transient {
                    self.poisoned = false;
                    self.batch(&format!("ROLLBACK TO SAVEPOINT {name}"))?;
                    self.batch(&format!("RELEASE SAVEPOINT {name}"))?;
                }
                outcome.and(Err(StoreError::Poisoned))
            }
        }
    }

    /// Tells listeners of [`Store::changes`](crate::Store::changes), once this transaction is committed.
    pub fn announce(&mut self, topic: &str, key: impl ToString) {
        let change = Change {
            topic: topic.to_owned(),
            key: key.to_string(),
        };
        if self.changes.last() != Some(&change) {
            self.changes.push(change);
        }
    }

    pub(crate) fn take_changes(&mut self) -> Vec<Change> {
        std::mem::take(&mut self.changes)
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

fn sqlite_execute(
    conn: &rusqlite::Connection,
    sql: &str,
    params: &[Value],
) -> Result<u64, EngineError> {
    let mut statement = conn
        .prepare_cached(&question_marks(sql))
        .map_err(EngineError::Sqlite)?;
    statement
        .execute(rusqlite::params_from_iter(params))
        .map(|count| u64::try_from(count).unwrap_or(u64::MAX))
        .map_err(EngineError::Sqlite)
}

fn sqlite_query(
    conn: &rusqlite::Connection,
    sql: &str,
    params: &[Value],
) -> Result<Vec<Row>, EngineError> {
    use rusqlite::types::ValueRef;
    let mut statement = conn
        .prepare_cached(&question_marks(sql))
        .map_err(EngineError::Sqlite)?;
    let columns: Vec<String> = statement.column_names().map(str::to_owned).collect();
    let width = columns.len();
    let shape = Arc::new(Shape {
        sql: sql.to_owned(),
        columns,
    });
    let mut rows = statement
        .query(rusqlite::params_from_iter(params))
        .map_err(EngineError::Sqlite)?;
    let mut answer = Vec::new();
    while let Some(row) = rows.next().map_err(EngineError::Sqlite)? {
        let mut values = Vec::with_capacity(width);
        for index in 0..width {
            values.push(match row.get_ref(index).map_err(EngineError::Sqlite)? {
                ValueRef::Null => Value::Null,
                ValueRef::Integer(int) => Value::Int(int),
                ValueRef::Real(real) => Value::Real(real),
                ValueRef::Text(text) => Value::Text(String::from_utf8_lossy(text).into_owned()),
                ValueRef::Blob(bytes) => Value::Bytes(bytes.to_vec()),
            });
        }
        answer.push(Row {
            shape: Arc::clone(&shape),
            values,
        });
    }
    Ok(answer)
}

impl rusqlite::ToSql for Value {
    fn to_sql(&self) -> rusqlite::Result<rusqlite::types::ToSqlOutput<'_>> {
        use rusqlite::types::{ToSqlOutput, ValueRef};
        Ok(ToSqlOutput::Borrowed(match self {
            Self::Null => ValueRef::Null,
            Self::Int(int) => ValueRef::Integer(*int),
            Self::Real(real) => ValueRef::Real(*real),
            Self::Text(text) => ValueRef::Text(text.as_bytes()),
            Self::Bytes(bytes) => ValueRef::Blob(bytes),
        }))
    }
}

/// SQLite numbers `$1` by first appearance, `?1` by its number. Quoted text and comments stay as they are.
fn question_marks(sql: &str) -> String {
    let mut out = String::with_capacity(sql.len());
    let mut chars = sql.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\'' | '"' => {
                out.push(c);
                for inner in chars.by_ref() {
                    out.push(inner);
                    if inner == c {
                        break;
                    }
                }
            }
            '-' if chars.peek() == Some(&'-') => {
                out.push(c);
                for inner in chars.by_ref() {
                    out.push(inner);
                    if inner == '\n' {
                        break;
                    }
                }
            }
            '$' if chars.peek().is_some_and(char::is_ascii_digit) => out.push('?'),
            _ => out.push(c),
        }
    }
    out
}

/// A PostgreSQL client with the statements it has prepared. Must be used and dropped on threads that may
/// block: the client drives a runtime of its own and panics on an async thread.
pub(crate) struct PgConn {
    client: postgres::Client,
    statements: BTreeMap<String, postgres::Statement>,
}

/// Prepared statements kept for each connection; more are forgotten together. The crate has fewer texts.
const STATEMENTS_MAX: usize = 512;

impl PgConn {
    pub(crate) fn new(client: postgres::Client) -> Self {
        Self {
            client,
            statements: BTreeMap::new(),
        }
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.client.is_closed()
    }

    pub(crate) fn batch(&mut self, sql: &str) -> Result<(), EngineError> {
        self.client
            .batch_execute(sql)
            .map_err(EngineError::Postgres)
    }

    fn statement(&mut self, sql: &str) -> Result<postgres::Statement, EngineError> {
        if let Some(statement) = self.statements.get(sql) {
            return Ok(statement.clone());
        }
        let statement = self.client.prepare(sql).map_err(EngineError::Postgres)?;
        if self.statements.len() >= STATEMENTS_MAX {
            self.statements.clear();
        }
        self.statements.insert(sql.to_owned(), statement.clone());
        Ok(statement)
    }

    fn execute(&mut self, sql: &str, params: &[Value]) -> Result<u64, EngineError> {
        let statement = self.statement(sql)?;
        let params: Vec<&(dyn ToSql + Sync)> = params
            .iter()
            .map(|value| value as &(dyn ToSql + Sync))
            .collect();
        self.client
            .execute(&statement, &params)
            .map_err(EngineError::Postgres)
    }

    fn query(&mut self, sql: &str, params: &[Value]) -> Result<Vec<Row>, EngineError> {
        let statement = self.statement(sql)?;
        let columns = statement
            .columns()
            .iter()
            .map(|c| c.name().to_owned())
            .collect();
        let shape = Arc::new(Shape {
            sql: sql.to_owned(),
            columns,
        });
        let params: Vec<&(dyn ToSql + Sync)> = params
            .iter()
            .map(|value| value as &(dyn ToSql + Sync))
            .collect();
        let rows = self
            .client
            .query(&statement, &params)
            .map_err(EngineError::Postgres)?;
        rows.into_iter()
            .map(|row| {
                let values = (0..row.len())
                    .map(|index| row.try_get(index).map_err(EngineError::Postgres))
                    .collect::<Result<_, _>>()?;
                Ok(Row {
                    shape: Arc::clone(&shape),
                    values,
                })
            })
            .collect()
    }
}

type Boxed = Box<dyn std::error::Error + Sync + Send>;

impl ToSql for Value {
    fn to_sql(
        &self,
        ty: &Type,
        out: &mut postgres::types::private::BytesMut,
    ) -> Result<IsNull, Boxed> {
        match self {
            Self::Null => Ok(IsNull::Yes),
            Self::Int(int) => match *ty {
                Type::INT2 => i16::try_from(*int)?.to_sql(ty, out),
                Type::INT4 => i32::try_from(*int)?.to_sql(ty, out),
                Type::INT8 => int.to_sql(ty, out),
                Type::BOOL => (*int != 0).to_sql(ty, out),
                #[expect(clippy::cast_precision_loss, reason = "the column is a real number")]
                Type::FLOAT8 => (*int as f64).to_sql(ty, out),
                _ => Err(format!("integer given where PostgreSQL expects {ty}").into()),
            },
            Self::Real(real) => match *ty {
                Type::FLOAT8 => real.to_sql(ty, out),
                _ => Err(format!("real number given where PostgreSQL expects {ty}").into()),
            },
            Self::Text(text) => {
                if <&str as ToSql>::accepts(ty) {
                    text.as_str().to_sql(ty, out)
                } else {
                    Err(format!("text given where PostgreSQL expects {ty}").into())
                }
            }
            Self::Bytes(bytes) => match *ty {
                Type::BYTEA => bytes.as_slice().to_sql(ty, out),
                _ => Err(format!("bytes given where PostgreSQL expects {ty}").into()),
            },
        }
    }

    fn accepts(_: &Type) -> bool {
        true
    }

    postgres::types::to_sql_checked!();
}

impl<'a> FromSql<'a> for Value {
    fn from_sql(ty: &Type, raw: &'a [u8]) -> Result<Self, Boxed> {
        Ok(match *ty {
            Type::BOOL => Self::Int(i64::from(bool::from_sql(ty, raw)?)),
            Type::INT2 => Self::Int(i64::from(i16::from_sql(ty, raw)?)),
            Type::INT4 => Self::Int(i64::from(i32::from_sql(ty, raw)?)),
            Type::INT8 => Self::Int(i64::from_sql(ty, raw)?),
            Type::FLOAT4 => Self::Real(f64::from(f32::from_sql(ty, raw)?)),
            Type::FLOAT8 => Self::Real(f64::from_sql(ty, raw)?),
            Type::BYTEA => Self::Bytes(raw.to_vec()),
            Type::NUMERIC => numeric(raw).ok_or("NUMERIC that is no integer in 64 bits")?,
            _ if <&str as FromSql<'_>>::accepts(ty) => {
                Self::Text(<&str>::from_sql(ty, raw)?.to_owned())
            }
            _ => return Err(format!("column type {ty} is none of the four that are used").into()),
        })
    }

    fn from_sql_null(_: &Type) -> Result<Self, Boxed> {
        Ok(Self::Null)
    }

    fn accepts(_: &Type) -> bool {
        true
    }
}

/// PostgreSQL's NUMERIC (what `SUM` of a BIGINT is), when it holds a whole number.
fn numeric(raw: &[u8]) -> Option<Value> {
    let word = |index: usize| -> Option<u16> {
        let start = index.checked_mul(2)?;
        let pair = raw.get(start..start.checked_add(2)?)?;
        Some(u16::from_be_bytes([*pair.first()?, *pair.get(1)?]))
    };
    let digits = usize::from(word(0)?);
    let weight = i32::from(word(1)?.cast_signed());
    let sign = word(2)?;
    let mut total: i128 = 0;
    for place in 0..=weight.max(-1) {
        let index = usize::try_from(place).ok()?;
        let digit = if index < digits {
            word(index.checked_add(4)?)?
        } else {
            0
        };
        total = total.checked_mul(10_000)?.checked_add(i128::from(digit))?;
    }
    let whole = usize::try_from(weight.checked_add(1)?).ok()?;
    if digits > whole {
        return None;
    }
    match sign {
        0x0000 => i64::try_from(total).ok().map(Value::Int),
        0x4000 => i64::try_from(total.checked_neg()?).ok().map(Value::Int),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn placeholders_keep_their_number_and_quoted_text_stays() {
        let cases = [
            ("SELECT $2, $1", "SELECT ?2, ?1"),
            ("SELECT '$1', \"$2\", $12", "SELECT '$1', \"$2\", ?12"),
            ("SELECT 'it''s $1' || $1", "SELECT 'it''s $1' || ?1"),
            ("-- $1 is not one\nSELECT $1", "-- $1 is not one\nSELECT ?1"),
            ("SELECT a - -$1, '-- $2'", "SELECT a - -?1, '-- $2'"),
            ("SELECT $ x", "SELECT $ x"),
        ];
        for (given, expected) in cases {
            assert_eq!(question_marks(given), expected);
        }
    }

    #[test]
    fn table_is_found_for_the_error_text() {
        assert_eq!(table_of("SELECT a FROM runs WHERE b = 1"), "runs");
        assert_eq!(table_of("insert into agents(id) VALUES ($1)"), "agents");
        assert_eq!(table_of("UPDATE tasks SET x = 1"), "tasks");
        assert_eq!(table_of("SELECT 1"), "?");
    }

    #[test]
    fn numeric_reads_whole_numbers_only() {
        // ndigits, weight, sign, dscale, digits of base 10,000
        let raw = |words: &[u16]| {
            words
                .iter()
                .flat_map(|w| w.to_be_bytes())
                .collect::<Vec<_>>()
        };
        assert_eq!(numeric(&raw(&[0, 0, 0, 0])), Some(Value::Int(0)));
        assert_eq!(
            numeric(&raw(&[2, 1, 0, 0, 12, 3456])),
            Some(Value::Int(123_456))
        );
        assert_eq!(
            numeric(&raw(&[1, 1, 0x4000, 0, 7])),
            Some(Value::Int(-70_000))
        );
        assert_eq!(numeric(&raw(&[1, 0xffff, 0, 1, 5000])), None);
        assert_eq!(numeric(&raw(&[0, 0, 0xc000, 0])), None);
        assert_eq!(
            numeric(&raw(&[5, 4, 0, 0, 922, 3372, 368, 5477, 5807])),
            Some(Value::Int(i64::MAX))
        );
        assert_eq!(
            numeric(&raw(&[5, 4, 0, 0, 922, 3372, 368, 5477, 5808])),
            None
        );
        assert_eq!(numeric(&[0, 1]), None);
    }
}
