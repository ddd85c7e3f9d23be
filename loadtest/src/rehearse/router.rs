//! Which lane a request meets, and what is known of each user.
//!
//! Enters: requests, the shares of a stage. Leaves: lanes, counts of distinct units. Sticky users go through the product's own split. Never:
//! more than a sidecar remembers: whether a user was seen, was late, has failed in this stage.

use akidb_domain::decision::look::Units;
use akidb_domain::split::{BUCKETS, Shares, arm, bucket};
use akidb_domain::vocabulary::Arm;

use super::plan::Load;
use super::traffic::Request;

/// A lane of the device's executor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lane {
    /// What is compared with nothing.
    Rest,
    /// The lane compared with.
    Control,
    /// The canary's compared lane.
    Canary,
}

/// Assigns and remembers.
#[derive(Debug)]
pub(super) struct Router {
    /// Shares of canary and control in 2^32 parts.
    cuts: [u32; 2],
    sticky: Option<Sticky>,
    units: Units,
}

#[derive(Debug)]
struct Sticky {
    buckets: Vec<u32>,
    lanes: Vec<Lane>,
    known: Vec<u8>,
}

const SEEN: u8 = 1;
const LATE: u8 = 2;
const FAILED: u8 = 4;

impl Router {
    pub(super) fn new(load: &Load, salt: &str) -> Self {
        let sticky = load.users.filter(|it| it.sticky).map(|users| Sticky {
            buckets: (0..users.count).map(|it| bucket(salt, &it.to_le_bytes())).collect(),
            lanes: Vec::new(),
            known: Vec::new(),
        });
        Self { cuts: [0, 0], sticky, units: Units::default() }
    }

    /// A stage begins with these shares of canary, control and rest.
    pub(super) fn begin(&mut self, shares: [f64; 3]) {
        self.cuts = [shares[0], 1.0 - shares[1]].map(|it| (it * f64::from(u32::MAX)) as u32);
        let ppm = |it: f64| (it * f64::from(BUCKETS)).round() as u32;
        if let Some(sticky) = &mut self.sticky {
            let shares = Shares { canary_ppm: ppm(shares[0]), control_ppm: ppm(shares[1]), canary_sample_ppm: 0 };
            sticky.lanes = sticky.buckets.iter().map(|it| Lane::from(arm(*it, shares))).collect();
            sticky.known = vec![0; sticky.buckets.len()];
        }
        self.units = Units::default();
    }

    pub(super) fn lane(&mut self, request: Request) -> Lane {
        let lane = match &self.sticky {
            Some(sticky) => sticky.lanes[request.user as usize],
            None if request.draw < self.cuts[0] => Lane::Canary,
            None if request.draw >= self.cuts[1] => Lane::Control,
            None => Lane::Rest,
        };
        if self.first_time(request.user, SEEN) {
            match lane {
                Lane::Canary => self.units.canary += 1,
                Lane::Control => self.units.control += 1,
                Lane::Rest => self.units.rest += 1,
            }
        }
        lane
    }

    /// Whether this request's user has not failed before. Without sticky users every request is one of its own.
    pub(super) fn unfailed(&self, user: u32) -> bool {
        self.sticky.as_ref().is_none_or(|it| it.known[user as usize] & FAILED == 0)
    }

    /// Whether this is the user's first failure.
    pub(super) fn first_failure(&mut self, user: u32) -> bool {
        self.first_time(user, FAILED)
    }

    /// Whether this is the first time that the user waited too long.
    pub(super) fn first_late(&mut self, user: u32) -> bool {
        self.first_time(user, LATE)
    }

    /// Distinct units since the last call.
    pub(super) fn units(&mut self) -> Units {
        std::mem::take(&mut self.units)
    }

    pub(super) fn is_sticky(&self) -> bool {
        self.sticky.is_some()
    }

    fn first_time(&mut self, user: u32, what: u8) -> bool {
        let Some(sticky) = &mut self.sticky else { return true };
        let known = &mut sticky.known[user as usize];
        let first = *known & what == 0;
        *known |= what;
        first
    }
}

impl From<Arm> for Lane {
    fn from(arm: Arm) -> Self {
        match arm {
            Arm::Canary | Arm::CanarySample => Self::Canary,
            Arm::Control => Self::Control,
            Arm::Baseline => Self::Rest,
        }
    }
}
