//! teeth: JSON lines between the agent of a bare-metal machine and its controller.
//!
//! The agent dials; after that either side may send commands. One JSON object a line, answered by a
//! line with the same `id`. What goes wrong with a single command is an error response; what goes
//! wrong with the connection is one `fatal_error` line and a close (teeth contract, sections 2-4).
//!
//! | file | what |
//! |---|---|
//! | [`wire`] | framing, messages, [`wire::Limits`] |
//! | [`json`] | JSON kept as checked text, so that a small line cannot become a big tree |
//! | [`commands`] | names and parameters of every command, in all spellings |
//! | [`controller`] | the session of the server |
//! | [`agent`] | the session of the agent |
//! | [`tasks`] | the agent's book of tasks, which outlives a connection |
//! | [`backoff`] | when to dial again |
//!
//! Versions: every real program says `v1`. Quirks of the real programs that are honoured stand at
//! the line that honours them: an error may be a bare string, a result may be `null`, an unknown
//! method is fatal for a peer that did not list its `methods`, and a peer without `methods` is never
//! sent a `ping` (teeth contract, section 9).
//!
//! What the product does otherwise than the real programs: a fatal error is always flushed, a line
//! that is no object or too long is told so before the close, nesting is bounded, and an answer to a
//! call that was given up is ignored.

#![cfg_attr(
    not(test),
    deny(
        clippy::arithmetic_side_effects,
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::panic,
        clippy::string_slice,
        clippy::unwrap_used
    )
)]

pub mod agent;
pub mod backoff;
mod channel;
pub mod commands;
pub mod controller;
pub mod json;
pub mod tasks;
pub mod wire;

pub use channel::{CallError, CallId, CallRefused, CloseReason, Counters, SessionRng, Ticket};
pub use json::Json;
pub use wire::Limits;
