//! pScheduler's REST interface, API level 6, both ends.
//!
//! The reference is pScheduler 5.2.5. An exchange is one HTTP request and its answer: the
//! [`controller`] end decodes requests into an [`controller::Ask`] and encodes answers, the
//! [`agent`] end is a client of it: of participants, of the clock of another node, of a server that
//! tasks are posted to. Quirks of real peers are honoured where they are met and named after the
//! contract's checklist (section 19): addresses follow the request's host, `--help` is a 400, `_`
//! members become null, booleans come as `True`.
//!
//! What one participant needs is here: immediate and repeating tasks of the tests in
//! [`plugins::Catalogue`]. Tasks with several participants, archives or contexts are refused in the
//! protocol's words.

pub mod agent;
mod builtin;
pub mod cli;
pub mod controller;
pub mod json;
pub mod plugins;
pub mod schemas;
pub mod text;
pub mod time;
pub mod tools;
pub mod wire;

/// The highest API level served and spoken.
pub const API_LEVEL: u32 = 6;

/// The highest version of the task object.
pub const TASK_SCHEMA_MAX: u8 = 5;

/// How far ahead runs are planned.
pub const HORIZON: &str = "P1D";
