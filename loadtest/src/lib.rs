//! A load generator for embedding servers that keeps a complete account: every request it meant to send is in the report, with the time
//! since it was due.
//!
//! Rooms, in reading order: [`plan`] (what to send, how fast, until when) -> [`texts`] (the bodies, from a seed) -> [`client`] (one
//! connection, one request at a time) -> [`load`] (the clients and their clock) -> [`account`] (what became of each request).
//! [`run`] measures one server and [`report`]s; [`compare`] alternates two and gives ratios with intervals; [`validate`] holds a service
//! against its objectives and sends no load; [`benchmark`] renders the results of the engines' benchmark; [`rehearse`] tries a
//! rollout's plan on a simulated device. Beside them: [`scrape`] (metrics of a server), [`watch`] (memory of a process), and the pure
//! [`quantile`], [`bootstrap`] and `random`.

pub mod account;
pub mod benchmark;
pub mod bootstrap;
pub mod client;
pub mod compare;
pub mod http;
pub mod load;
pub mod plan;
pub mod quantile;
mod random;
pub mod rehearse;
pub mod report;
pub mod run;
pub mod scrape;
pub mod texts;
pub mod validate;
pub mod watch;
