//! `muster bench pscheduler`.

use crate::cli::args::Global;
use crate::cli::error::{CliError, Code};
use crate::cli::output::Output;

/// Options of the load.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Args {}

/// Runs the load and prints the figures.
pub(crate) async fn run(_global: &Global, _out: Output, _args: Args) -> Result<(), CliError> {
    Err(CliError::failed(
        Code::INTERNAL,
        "this load generator has not landed",
    ))
}
