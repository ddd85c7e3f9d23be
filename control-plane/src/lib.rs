//! The control plane: catalog, price book, ledger and fleet, behind an admin REST API and a gRPC service for sidecars.
//!
//! Enters: a [`config::Config`]. Leaves: a running [`app::App`]. Never: a request for an embedding; the data plane works without it.
//!
//! Rooms, in reading order:
//! - [`config`], [`clock`]: what is set, what time it is
//! - [`app`]: the wiring, and the only place that knows every room
//! - `api`: admin REST; `access`: tokens and roles
//! - `grpc`: what sidecars speak to; `publisher`: snapshots for them
//! - `import`, `blobs`: bundles come in, files are kept by their digest
//! - `catalog`: the rules of models, artifacts and aliases; `change`: one audited transaction
//! - `ledger`: windows become money, exactly once
//! - `experiments`: the rules of rollouts; `decider`: looks, verdicts and what follows; `leases`: how long a canary may go on; [`replay`]: a
//!   decision once more
//! - `db`: the only room that speaks SQL
//! - `retention`, [`backup`]: what is deleted, what is kept elsewhere
//! - `metrics`: every metric's name; [`logs`], [`signals`], [`token`]: what the program around it needs

mod access;
mod api;
pub mod app;
pub mod backup;
mod blobs;
mod catalog;
mod change;
pub mod clock;
pub mod config;
mod data_dir;
mod db;
mod decider;
mod experiments;
mod grpc;
mod import;
mod leases;
mod ledger;
pub mod logs;
mod metrics;
mod publisher;
pub mod replay;
mod retention;
pub mod signals;
pub mod token;
