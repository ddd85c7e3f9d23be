//! What happened, counted: observations in, windows out to the spool, and the cost meter behind `/api/v1/cost-per-request`.
//!
//! Enters: [`Observation`]s from the executor and the HTTP room. Leaves: windows on disk, figures on request. Never: a request held up;
//! a full channel drops the observation and counts it.

pub mod observation;

pub use observation::{BatchDone, Consumer, Observation, RequestDone};
