//! SIGINT and SIGTERM: the first drains, the second ends the process now.

use std::process;

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::cli::error::{CliError, Code};

/// A token that the first signal cancels. From the second one on the process ends at once, with the
/// status a shell gives to who died of it.
pub(crate) fn drain_on_signal() -> Result<CancellationToken, CliError> {
    let listen = |kind| {
        signal(kind).map_err(|error| {
            CliError::failed(Code::INTERNAL, "cannot listen for signals").cause(&error)
        })
    };
    let mut interrupt = listen(SignalKind::interrupt())?;
    let mut terminate = listen(SignalKind::terminate())?;
    let token = CancellationToken::new();
    let drain = token.clone();
    tokio::spawn(async move {
        loop {
            let number = tokio::select! {
                _ = interrupt.recv() => 2,
                _ = terminate.recv() => 15,
            };
            if drain.is_cancelled() {
                process::exit(128 + number);
            }
            tracing::info!("stopping: finishing what is in hand; another signal ends now");
            drain.cancel();
        }
    });
    Ok(token)
}
