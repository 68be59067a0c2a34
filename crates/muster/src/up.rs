//! `muster up`: server and local agent in one process.

use crate::cli::args::{Global, UpArgs};
use crate::cli::error::{CliError, Code};
use crate::cli::output::Output;

/// Runs until the first work has ended (`--once`) or a signal comes.
pub(crate) async fn run(_global: &Global, _out: Output, _args: UpArgs) -> Result<(), CliError> {
    Err(CliError::failed(Code::INTERNAL, "`up` has not landed"))
}
