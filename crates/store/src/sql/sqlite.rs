//! Statements on SQLite.

use std::sync::Arc;

use super::row::{Row, Shape, Value};
use crate::error::EngineError;

fn prepare<'c>(
    conn: &'c rusqlite::Connection,
    sql: &str,
    read_only: bool,
) -> Result<rusqlite::CachedStatement<'c>, EngineError> {
    let statement = conn
        .prepare_cached(&question_marks(sql))
        .map_err(EngineError::Sqlite)?;
    if read_only && !statement.readonly() {
        let code = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_READONLY);
        let error = rusqlite::Error::SqliteFailure(code, None);
        return Err(EngineError::Sqlite(error));
    }
    Ok(statement)
}

pub(super) fn execute(
    conn: &rusqlite::Connection,
    sql: &str,
    params: &[Value],
    read_only: bool,
) -> Result<u64, EngineError> {
    prepare(conn, sql, read_only)?
        .execute(rusqlite::params_from_iter(params))
        .map(|count| u64::try_from(count).unwrap_or(u64::MAX))
        .map_err(EngineError::Sqlite)
}

pub(super) fn query(
    conn: &rusqlite::Connection,
    sql: &str,
    params: &[Value],
    read_only: bool,
) -> Result<Vec<Row>, EngineError> {
    use rusqlite::types::ValueRef;
    let mut statement = prepare(conn, sql, read_only)?;
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
        answer.push(Row::new(&shape, values));
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
}
