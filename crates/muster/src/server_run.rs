//! `muster server run|check|migrate`.

use crate::cli::args::{Global, ServerCommand};
use crate::cli::error::{CliError, Code};
use crate::cli::output::Output;

/// Runs one of the server's commands.
pub(crate) async fn run(
    _global: &Global,
    _out: Output,
    _command: ServerCommand,
) -> Result<(), CliError> {
    Err(CliError::failed(Code::INTERNAL, "`server` has not landed"))
}
