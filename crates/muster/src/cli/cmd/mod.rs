//! What each command does, a file for a noun.

pub(super) mod agent;
pub(super) mod decode;
pub(super) mod doctor;
pub(super) mod explain;
pub(super) mod host;
pub(super) mod item;
pub(super) mod kind;
pub(super) mod local;
pub(super) mod probe;
pub(super) mod run;
pub(super) mod send;
pub(super) mod status;
pub(super) mod task;
