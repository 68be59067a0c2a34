//! The pscheduler protocol.
