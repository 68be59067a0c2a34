//! Links: each speaks one wire to one server and turns what it asks into jobs of the crew. They
//! decide nothing.

pub mod fusion;
pub mod teeth;
pub mod zabbix;
