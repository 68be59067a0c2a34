//! Muster's control plane: [`Control`], the fronts of the four wires, the admin
//! API and the reconcilers.
//!
//! It writes no SQL (that is `muster-store`), opens no socket (that is `muster-net`) and executes no
//! work (that is an agent).

pub mod app;
pub mod control;
pub mod fronts;
pub mod kinds;
pub mod reconcile;

pub use control::Control;
