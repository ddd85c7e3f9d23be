//! The two signals that end a server. Enters: SIGTERM or SIGINT. Leaves: a future that is done. Never: an exit of its own.

use tokio::signal::unix::{SignalKind, signal};

/// Done at the first SIGTERM or SIGINT. Where handlers cannot be set the process ends as the system has it.
pub async fn stop() {
    let (Ok(mut term), Ok(mut int)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = term.recv() => {}
        _ = int.recv() => {}
    }
}
