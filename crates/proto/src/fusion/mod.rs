//! The fusion protocol.
