//! Muster: one fleet over four protocols, as server, as agent, and as a client of the admin API.
//!
//! This binary is wiring: subcommands, configuration, logging, signals.

mod agent_run;
mod bench;
mod cli;
mod config;
mod logging;
mod server_run;
mod signals;
mod state;
mod up;

fn main() -> std::process::ExitCode {
    state::forbid_core_dumps();
    // The libraries of TLS look for a provider of the process.
    muster_net::tls::install_provider();
    cli::main(std::env::args_os().collect())
}
