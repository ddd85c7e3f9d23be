//! Every way a command can fail. Enters: causes. Leaves: one sentence that names what, its value and the way out, and an exit code.
//! Never: a token.

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The server said no, or something this version cannot read.
    #[error("{0}")]
    Refused(String),
    /// A value on the command line, in a file or in the environment.
    #[error("{0}")]
    Input(String),
    /// No answer.
    #[error("cannot reach the control plane at {server}: {cause}; is it running, and is --server (AKIDB_SERVER) right?")]
    Unreachable {
        /// As configured.
        server: String,
        /// What the connection said.
        cause: String,
    },
}

impl Failure {
    /// 1 refused, 2 bad input (as for a command line that cannot be parsed), 3 unreachable.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Refused(_) => 1,
            Self::Input(_) => 2,
            Self::Unreachable { .. } => 3,
        }
    }
}
