//! Removes what [`super::recovery`] had to leave out, so that it is told of once and takes no place.

use rusqlite::{
    Connection, Row, TransactionBehavior, params_from_iter,
    types::{ToSqlOutput, Value, ValueRef},
};

use super::session_tables::Table;

/// A row that is there and was not used: damaged, or part of something that is.
#[derive(Debug)]
pub(super) struct LeftOut {
    table: Table,
    key: Vec<KeyValue>,
}

/// One value of a key, whatever damage has made of it.
#[derive(Debug)]
enum KeyValue {
    Plain(Value),
    /// The bytes of a text, which need not be UTF-8.
    Text(Vec<u8>),
}

impl LeftOut {
    /// `row` of `table`, whose first columns are its key.
    pub(super) fn row(table: Table, row: &Row<'_>) -> rusqlite::Result<Self> {
        let value = |column| {
            row.get_ref(column).map(|value| match value {
                ValueRef::Null => KeyValue::Plain(Value::Null),
                ValueRef::Integer(number) => KeyValue::Plain(Value::Integer(number)),
                ValueRef::Real(number) => KeyValue::Plain(Value::Real(number)),
                ValueRef::Blob(bytes) => KeyValue::Plain(Value::Blob(bytes.to_vec())),
                ValueRef::Text(bytes) => KeyValue::Text(bytes.to_vec()),
            })
        };
        Ok(Self { table, key: (0..table.keys).map(value).collect::<Result<_, _>>()? })
    }

    /// The row of `table` with this number.
    pub(super) fn numbered(table: Table, number: u64) -> Self {
        Self { table, key: vec![KeyValue::Plain(Value::Integer(number.cast_signed()))] }
    }
}

/// Removes the rows in one transaction. One that cannot be found by its key, for the damage is there, stays.
pub(super) fn remove(connection: &mut Connection, left_out: &[LeftOut]) -> rusqlite::Result<()> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    for LeftOut { table, key } in left_out {
        let conditions = table.columns.iter().zip(key).zip(1..).map(|((column, value), n)| match value {
            KeyValue::Plain(_) => format!("{column} IS ?{n}"),
            KeyValue::Text(_) => format!("{column} IS CAST(?{n} AS TEXT)"),
        });
        let conditions: Vec<String> = conditions.collect();
        let sql = format!("DELETE FROM {} WHERE {}", table.name, conditions.join(" AND "));
        let values = key.iter().map(|value| match value {
            KeyValue::Plain(value) => ToSqlOutput::Borrowed(value.into()),
            KeyValue::Text(bytes) => ToSqlOutput::Borrowed(ValueRef::Blob(bytes)),
        });
        transaction.prepare_cached(&sql)?.execute(params_from_iter(values))?;
    }
    transaction.commit()
}
