//! The sidecar: text in, embeddings out, on localhost; a copy of what happened goes to the control plane.
//!
//! Rooms, in reading order. Data runs down the page; no room reaches back up, and only [`app`] sees them all.
//! - [`app`]: wiring and shutdown
//! - [`config`]: `config.toml` and environment, checked at once
//! - [`http`]: the embedding API, the ops port, errors, the OpenAPI document
//! - [`router`]: which variant and arm serves a request
//! - [`tokenizer`]: text to token ids, on a pool of threads
//! - [`batcher`]: lanes, batches and the one executor of a device
//! - [`control`]: the stream from and the reports to the control plane; the last-known-good snapshot
//! - [`models`]: from a snapshot or the configuration to loaded, proven engines
//! - [`artifacts`]: pull, verify and cache files
//! - [`engine`]: one loaded ONNX graph
//! - [`telemetry`]: windows, the spool, the cost meter
//! - [`traces`]: OpenTelemetry spans
//! - [`serving`]: the table of what can be served now, published by `models`, read by `router` and `http`
//! - [`metrics`]: every metric's name
//! - [`lease`]: how long an experiment's canary may go on
//! - [`backoff`]: when to try again
//! - [`clock`]: time that only runs forward

pub mod app;
pub mod artifacts;
pub mod backoff;
pub mod batcher;
pub mod clock;
pub mod config;
pub mod control;
pub mod engine;
pub mod http;
pub mod lease;
pub mod metrics;
pub mod models;
pub mod router;
pub mod serving;
pub mod telemetry;
pub mod tokenizer;
pub mod traces;
