//! From a snapshot or the configuration to loaded, proven engines.
//!
//! Enters: [`Plan`]s. Leaves: the [`Table`] of what can be served. Never: a variant taken away before its successor serves; a failure of
//! one artifact that holds up another.
//!
//! Rooms, in reading order:
//! - [`plan`]: what this machine is to serve; pure
//! - [`entries`]: a plan from the configuration
//! - [`bundles`]: manifests by URI
//! - [`demand`]: requests that need what is not loaded
//! - `owner`: the task that owns every engine's state; `slots` what it knows of each
//! - [`budget`]: who may take memory; pure
//! - [`memory`]: how much there is
//! - [`activate`]: one artifact from its files to parity
//! - `proof`: its engine loaded and run beside the requests
//! - `table`: the published table; pure
//! - [`marker`]: artifacts that took the process down
//! - `last_good`: what served before

pub mod activate;
pub mod budget;
pub mod bundles;
pub mod demand;
pub mod entries;
mod last_good;
pub mod marker;
pub mod memory;
mod owner;
pub mod plan;
mod proof;
mod slots;
mod table;

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub use activate::Parts;
pub use demand::Demand;
pub use plan::{Machine, Plan};

use crate::serving::Table;

/// The handle.
#[derive(Debug, Clone)]
pub struct Models {
    plans: watch::Sender<Plan>,
    table: Table,
    changes: watch::Receiver<u64>,
    demand: Demand,
}

impl Models {
    /// Starts the task with a first plan; the table knows its models when this returns.
    pub fn start(parts: Parts, plan: Plan, stop: CancellationToken) -> (Self, JoinHandle<()>) {
        let (plans, receiver) = watch::channel(plan.clone());
        let (tell, changes) = watch::channel(0);
        let table = Table::default();
        let (demand, wants) = Demand::channel();
        let owner = owner::Owner::new(parts, plan, table.clone(), tell, wants);
        let task = tokio::spawn(owner.run(receiver, stop));
        (Self { plans, table, changes, demand }, task)
    }

    /// What can be served now.
    pub fn table(&self) -> Table {
        self.table.clone()
    }

    /// Where requests ask for what is not loaded.
    pub fn demand(&self) -> Demand {
        self.demand.clone()
    }

    /// Replaces the plan.
    pub fn follow(&self, plan: Plan) {
        self.plans.send_replace(plan);
    }

    /// Changes with the table.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.clone()
    }
}
