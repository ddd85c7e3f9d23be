//! The sidecar as its users meet it.

mod inference;
mod supply;
