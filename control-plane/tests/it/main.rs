//! The control plane as its users meet it: a real server over TCP, a real database, real bundles.

mod access;
mod app;
mod backup;
mod bundle;
mod catalog;
mod energy;
mod experiments;
mod fleet;
mod imports;
mod ledger;
mod openapi;
mod process;
mod rollout;
mod s3;
mod sidecar;
