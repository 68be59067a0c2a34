//! All SQL of Muster: the server's [`Store`], the agent's spool, migrations, and the codec of sample blocks.
//!
//! It decides nothing: what is due, who may and what comes next is asked of `muster-core` and answered by
//! the server; functions here read and write rows. It is synchronous inside: a transaction is a closure over
//! [`Tx`] that runs on a blocking thread, so no future holds one open.
//!
//! **Invariant:** what `write` answered with `Ok` is durable, and what it answered with `Err` left nothing.

pub mod access;
pub mod agents;
pub mod block;
mod column;
pub mod duties;
mod error;
pub mod hosts;
pub mod idset;
pub mod journal;
pub mod migrate;
mod page;
pub mod runs;
pub mod samples;
pub mod sealed;
pub mod spool;
pub mod sql;
mod store;
pub mod tasks;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
mod varint;

pub use block::{Content, Flags, Reading};
pub use column::ColumnError;
pub use error::{EngineError, StoreError};
pub use idset::{IdSet, IdSetError};
pub use migrate::{SchemaError, SchemaState};
pub use samples::{Accepted, Batch, IngestError, Last, Samples, Span};
pub use spool::Spool;
pub use sql::{Engine, Row, Tx, Value};
pub use store::{Bell, Pause, Store, StoreUrl, Topics};
