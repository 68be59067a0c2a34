//! Muster's agent: the working end of the four wires.
//!
//! A **link** (one file per protocol under `links/`) speaks to a server and turns what it asks
//! into [`crew::Job`]s. The **crew** checks each job against the local policy file, runs the
//! **tool** that knows its kind, and tells the link what happens as [`crew::News`]. Nothing here
//! knows the server's tables, and nothing here reads a clock or an environment variable of its
//! own accord: `muster_net::clock` and paths are arguments.
//!
//! - [`agent`]: the whole of it, from the state folder to an orderly end.
//! - [`identity`]: who it is.
//! - [`crew`]: takes jobs, runs them, at most once each.
//! - [`policy`] and [`audit`]: what the machine's owner allows, and the record of each decision.
//! - [`tools`]: the work itself; [`tools::registry`] lists it.

pub mod agent;
pub mod audit;
pub mod crew;
pub mod identity;
pub mod links;
pub mod policy;
pub mod tools;
