//! `muster up`: server and local agent in one process.

use crate::cli::args::{Global, UpArgs};
use crate::cli::error::CliError;
use crate::cli::output::Output;
use crate::config::{Config, Purpose};
use crate::server_run::Server;
use crate::signals;

/// Runs until the first work has ended (`--once`) or a signal comes.
pub(crate) async fn run(global: &Global, _out: Output, args: UpArgs) -> Result<(), CliError> {
    let folder = crate::cli::state::folder(global);
    let config = Config::load(&args.config, &folder, Purpose::Up)?;
    let cancel = signals::drain_on_signal()?;
    let server = Server::start(&folder, &config, &cancel).await?;
    tracing::info!(
        state = %server.path().display(), pin = %server.fingerprint,
        started = %server.control.started(), "up"
    );
    if !args.once {
        cancel.cancelled().await;
    }
    cancel.cancel();
    server.drained().await
}
