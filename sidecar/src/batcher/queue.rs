//! x
#[derive(Debug)]
pub(super) struct Queue;
