//! A load generator for embedding servers that keeps a complete account: every request it meant to send is in the report, with the time
//! since it was due.
//!
//! Rooms, in reading order: [`plan`] (what to send, how fast, until when) -> [`texts`] (the bodies, from a seed) -> [`client`] (one
//! connection, one request at a time) -> [`run`] (the clients and their clock) -> [`account`] (what became of each request) -> [`report`]
//! (figures, as text and JSON). A further mode (compare, SLO validation, benchmark, rehearsal) is a sub-command beside `run` that builds a
//! [`plan::Plan`] and reads an [`account::Account`].

pub mod account;
pub mod client;
pub mod plan;
pub mod report;
pub mod run;
pub mod texts;
