//! What goes into a statement and comes out of it.

use std::str::FromStr;
use std::sync::Arc;

use jiff::Timestamp;
use uuid::Uuid;

use crate::error::StoreError;

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

/// What the rows of one answer have in common.
#[derive(Debug)]
pub(super) struct Shape {
    pub(super) sql: String,
    pub(super) columns: Vec<String>,
}

impl Row {
    pub(super) fn new(shape: &Arc<Shape>, values: Vec<Value>) -> Self {
        Self {
            shape: Arc::clone(shape),
            values,
        }
    }

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_is_found_for_the_error_text() {
        assert_eq!(table_of("SELECT a FROM runs WHERE b = 1"), "runs");
        assert_eq!(table_of("insert into agents(id) VALUES ($1)"), "agents");
        assert_eq!(table_of("UPDATE tasks SET x = 1"), "tasks");
        assert_eq!(table_of("SELECT 1"), "?");
    }
}
