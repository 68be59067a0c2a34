//! Statements on PostgreSQL.

use std::collections::BTreeMap;
use std::sync::Arc;

use postgres::types::{FromSql, IsNull, ToSql, Type};

use super::row::{Row, Shape, Value};
use crate::error::EngineError;

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

    pub(super) fn execute(&mut self, sql: &str, params: &[Value]) -> Result<u64, EngineError> {
        let statement = self.statement(sql)?;
        let params: Vec<&(dyn ToSql + Sync)> = params
            .iter()
            .map(|value| value as &(dyn ToSql + Sync))
            .collect();
        self.client
            .execute(&statement, &params)
            .map_err(EngineError::Postgres)
    }

    pub(super) fn query(&mut self, sql: &str, params: &[Value]) -> Result<Vec<Row>, EngineError> {
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
                Ok(Row::new(&shape, values))
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
