//! The pure core: vocabulary, bundle format, money, latency sketches and the traffic split.
//!
//! Enters: plain values. Leaves: plain values. Never: I/O, a clock, tokio, protobuf, SQL.
//!
//! Rooms, in reading order:
//! - [`vocabulary`]: the words every other room uses (model, variant, arm, provider, precision, target)
//! - [`profile`]: the shapes that an engine was built for
//! - [`bundle`]: the manifest of an engine and the digest that names it
//! - [`snapshot`]: what a control plane tells a sidecar to serve
//! - [`split`]: which arm of an experiment a request meets
//! - [`sketch`]: mergeable latency histograms
//! - [`window`]: what a sidecar reports of a second of work
//! - [`cost`]: spend, direct cost, overhead and idle to the picodollar
//! - [`energy`]: the same of what devices drew, to the millijoule
//! - [`decision`]: when a canary grows, waits or is rolled back
//! - [`reference`](mod@reference): parity with reference vectors
//! - [`agreement`]: how far two engines' vectors agree, recall@10 among it
//! - [`benchmark`]: results of a benchmark of engines

pub mod agreement;
pub mod benchmark;
pub mod bundle;
pub mod cost;
pub mod decision;
pub mod energy;
pub mod profile;
pub mod reference;
pub mod sketch;
pub mod snapshot;
pub mod split;
pub mod vocabulary;
pub mod window;
