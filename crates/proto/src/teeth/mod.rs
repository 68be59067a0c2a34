//! The teeth protocol.
