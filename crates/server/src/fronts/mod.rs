//! Fronts: each translates one wire's types to domain types and errors back to its own words. They
//! decide nothing.

pub mod admin;
pub mod fusion;
mod login;
pub mod pscheduler;
pub mod teeth;
pub mod zabbix;
