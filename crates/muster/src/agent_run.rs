//! `muster agent run`: the agent alone.

use crate::cli::args::{AgentRunArgs, Global};
use crate::cli::error::{CliError, Code};
use crate::cli::output::Output;

/// Runs until a signal comes.
pub(crate) async fn run(
    _global: &Global,
    _out: Output,
    _args: AgentRunArgs,
) -> Result<(), CliError> {
    Err(CliError::failed(
        Code::INTERNAL,
        "`agent run` has not landed",
    ))
}
