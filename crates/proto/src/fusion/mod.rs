//! FusionInventory and GLPI: agents that pull their tasks over HTTP.
//!
//! Three dialects share one agent family, and all three arrive on the same paths:
//!
//! - **P1**, the published task scheduling protocol: `GET …/api/tasks` answered with tasks, jobs
//!   and targets ([`p1`]);
//! - **P2**, the XML of FusionInventory 2.x and of GLPI agents' network tasks ([`p2`], [`reply`]),
//!   with a small JSON side protocol over GET ([`side`]);
//! - **P3**, the JSON of GLPI Agent 1.x ([`p3`]).
//!
//! The exchange is a pure function either way: [`controller::decode`] turns a request into an
//! [`controller::Ask`] and [`controller::encode`] an [`controller::Answer`] into a response;
//! [`agent`] builds requests and reads answers. Nothing here knows who a peer is, what it may have
//! or where results go.
//!
//! Quirks of real peers honoured here, with the section of the FusionInventory contract they come
//! from: an answer has the compression of its request (2.1); attributes and child elements are the
//! same thing (2.3); text that is not UTF-8 is Latin-1 (2.2); START comes once per range and END
//! twice (2.4); a GET without an action or a request id is an error, as it may be a redirected
//! upload (11.10); the generation of a lease travels in the id the peer echoes (1.4, 2.3).

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
pub mod body;
pub mod controller;
pub mod inventory;
pub mod json;
pub mod news;
pub mod p1;
pub mod p2;
pub mod p3;
pub mod place;
pub mod reply;
pub mod side;
pub mod snmp;
pub mod wire;
pub mod xml;

pub use wire::Limits;
