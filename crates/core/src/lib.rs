//! What Muster is about, without any of the ways it is told or kept.
//!
//! Domain types, the run machine, schedule arithmetic and planning. Nothing here does I/O, is
//! async, is `Serialize`, reads a clock or knows a protocol: wire types live in `muster-proto`,
//! rows in `muster-store`, and each front or link translates.

pub mod agent;
pub mod credential;
pub mod host;
pub mod id;
pub mod kind;
pub mod plan;
pub mod range;
pub mod result;
pub mod retry;
pub mod run;
#[cfg(test)]
mod run_tests;
pub mod sample;
pub mod schedule;
pub mod task;
pub mod time;
mod word;

pub use agent::{Agent, AgentState, Capability, Wire};
pub use id::{AgentId, CredentialId, EnrolKeyId, HostId, ItemId, RunId, TaskId};
pub use kind::{ActionClass, Kind, SchedulingClass};
pub use run::{End, EndKind, IllegalMove, Lease, Run, RunState, Window};
pub use schedule::{Schedule, Start};
pub use task::{Task, TaskState};
pub use word::UnknownWord;
