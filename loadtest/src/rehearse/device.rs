//! One device and its executor: lanes served in turn, batches whose mates share their latency, stragglers, probes at idle moments.
//!
//! Enters: requests in lanes, a time to work until. Leaves: [`Counts`], as a sidecar's telemetry has them. Never: a figure that only a simulator
//! could know.
//!
//! An idle device runs what waits at once; a busy one gathers. A probe runs both engines on a batch that was served since the last probe, in
//! random order, while little waits; what arrives meanwhile waits for it. Its time is paid from a budget.

use std::collections::VecDeque;

use akidb_domain::decision::look::Probe;
use akidb_domain::decision::verdict::Threshold;

use super::chance::{Table, geometric, normal, unit};
use super::counts::Counts;
use super::plan::{Arm, Device};
use super::router::{Lane, Router};
use super::traffic::{Request, Traffic};
use crate::random::Random;

/// An engine; also an index.
const BASELINE: usize = 0;
const CANARY: usize = 1;
const LANES: [Lane; 3] = [Lane::Rest, Lane::Control, Lane::Canary];

/// The device under simulation.
#[derive(Debug)]
pub(super) struct Machine<'a> {
    device: &'a Device,
    arm: &'a Arm,
    noise: &'a Table,
    traffic: Traffic<'a>,
    router: Router,
    random: Random,
    now: f64,
    look_start: f64,
    next: Request,
    queues: [VecDeque<(Request, u32)>; 3],
    turn: usize,
    engines: [usize; 3],
    stage: u32,
    drift: (f64, f64),
    until_error: [u64; 2],
    until_failed_batch: u64,
    budget: f64,
    budget_rate: f64,
    candidate: Candidate,
    thresholds: Vec<Option<Threshold>>,
    counts: Counts,
}

/// A batch kept for the next probe: one of all since the last, each as likely.
#[derive(Debug, Default)]
struct Candidate {
    tokens: f64,
    among: u64,
}

impl<'a> Machine<'a> {
    pub(super) fn new(
        device: &'a Device,
        arm: &'a Arm,
        noise: &'a Table,
        mut traffic: Traffic<'a>,
        router: Router,
        mut random: Random,
    ) -> Self {
        let next = traffic.next();
        let until_error = arm.errors.map(|it| geometric(&mut random, it));
        let until_failed_batch = geometric(&mut random, arm.failed_batches);
        Self {
            device,
            arm,
            noise,
            traffic,
            router,
            random,
            now: 0.0,
            look_start: 0.0,
            next,
            queues: Default::default(),
            turn: 0,
            engines: [BASELINE; 3],
            stage: 0,
            drift: (0.0, 0.0),
            until_error,
            until_failed_batch,
            budget: 0.0,
            budget_rate: 0.0,
            candidate: Candidate::default(),
            thresholds: Vec::new(),
            counts: Counts::default(),
        }
    }

    /// A stage begins: shares of canary, control and rest, and which lanes the canary's engine serves. Requests that wait keep their engine
    /// and are in nobody's counts, as telemetry is cut at a change of the split.
    pub(super) fn begin(&mut self, shares: [f64; 3], canary: [bool; 3]) {
        self.router.begin(shares);
        self.engines = canary.map(usize::from);
        self.stage += 1;
    }

    /// Until the next look: part of the probe budget that is wanted, and the thresholds that sticky users are held against.
    pub(super) fn wanted(&mut self, probing: f64, thresholds: Vec<Option<Threshold>>) {
        self.budget_rate = probing;
        self.thresholds = thresholds;
    }

    /// Works until `end` (s) and gives the counts since the last call.
    pub(super) fn work_until(&mut self, end: f64) -> Counts {
        self.look_start = self.now;
        while self.now < end {
            self.admit();
            match (0..3).map(|i| (self.turn + i) % 3).find(|it| !self.queues[*it].is_empty()) {
                _ if self.may_probe() => self.probe(),
                Some(lane) => self.serve(lane),
                None => {
                    let until = self.next.at.min(end);
                    self.earn(0.0, until - self.now);
                    self.now = until;
                }
            }
        }
        let mut counts = std::mem::take(&mut self.counts);
        counts.elapsed_s = self.now - self.look_start;
        counts.units = self.router.units();
        counts.sticky = self.router.is_sticky();
        counts
    }

    fn admit(&mut self) {
        while self.next.at <= self.now {
            let lane = self.router.lane(self.next);
            self.queues[lane as usize].push_back((self.next, self.stage));
            self.next = self.traffic.next();
        }
    }

    fn serve(&mut self, lane: usize) {
        self.turn = (lane + 1) % 3;
        let size = self.queues[lane].len().min(self.device.max_batch);
        let longest = self.queues[lane].iter().take(size).map(|it| it.0.tokens).max().unwrap_or_default();
        let tokens = f64::from(longest) * size as f64;
        let time = self.time(self.engines[lane], tokens);
        self.now += time;
        self.counts.busy_s += time;
        self.earn(time, 0.0);
        self.candidate.among += 1;
        if (unit(&mut self.random) * self.candidate.among as f64) < 1.0 {
            self.candidate.tokens = tokens;
        }
        self.until_failed_batch -= 1;
        let failed = self.until_failed_batch == 0;
        if failed {
            self.until_failed_batch = geometric(&mut self.random, self.arm.failed_batches);
        }
        for _ in 0..size {
            if let Some((request, stage)) = self.queues[lane].pop_front() {
                let failed = self.fails(self.engines[lane]) || failed;
                if stage == self.stage {
                    self.answer(lane, request, failed);
                }
            }
        }
    }

    fn fails(&mut self, engine: usize) -> bool {
        self.until_error[engine] -= 1;
        if self.until_error[engine] > 0 {
            return false;
        }
        self.until_error[engine] = geometric(&mut self.random, self.arm.errors[engine]);
        true
    }

    fn answer(&mut self, lane: usize, request: Request, failed: bool) {
        let latency = self.now - request.at;
        let failed = failed || latency * 1e3 > self.device.deadline_ms;
        let counts = &mut self.counts.lanes[lane];
        counts.all += 1;
        counts.all_errors += u64::from(failed);
        if self.router.unfailed(request.user) {
            counts.answer((self.now - self.look_start).max(0.0) as usize, failed && self.router.first_failure(request.user));
        }
        let class = usize::from(request.tokens > super::counts::SHORT);
        let exceeds = if failed {
            counts.failures += 1;
            self.thresholds.iter().any(Option::is_some)
        } else {
            let bucket = counts.record(class, (latency * 1e9) as u64);
            let at = self.thresholds.get(class).copied().flatten();
            at.is_some_and(|at| bucket >= if LANES[lane] == Lane::Canary { at.canary } else { at.control })
        };
        counts.first_late += u64::from(exceeds && self.router.first_late(request.user));
    }

    /// Engine time of a batch, s.
    fn time(&mut self, engine: usize, tokens: f64) -> f64 {
        while self.drift.0 <= self.now {
            let spread = self.device.drift;
            self.drift = (self.drift.0 + 1.0, 0.98 * self.drift.1 + spread * (1.0 - 0.98f64 * 0.98).sqrt() * normal(&mut self.random));
        }
        let bits = self.random.next();
        let straggles = (bits as u32) < (self.device.stragglers * f64::from(u32::MAX)) as u32;
        let factor = if straggles { self.device.straggler_factor } else { 1.0 } * self.noise.at((bits >> 32) as u32);
        let ratio = if engine == CANARY { self.arm.time_ratio } else { 1.0 };
        (self.device.base_ms / 1e3 + self.device.token_us / 1e6 * tokens) * ratio * factor * (1.0 + self.drift.1).max(0.2)
    }

    /// Budget for probes comes with time; at most a look's worth of it is saved.
    fn earn(&mut self, busy_s: f64, idle_s: f64) {
        let earned = self.device.probe_budget * (busy_s + idle_s) + self.device.probe_budget_idle * idle_s;
        self.budget = (self.budget + self.budget_rate * earned).min(1.0);
    }

    fn may_probe(&self) -> bool {
        let waiting: usize = self.queues.iter().map(VecDeque::len).sum();
        self.budget_rate > 0.0 && self.budget > 0.0 && self.candidate.among > 0 && waiting <= self.device.probe_queue
    }

    fn probe(&mut self) {
        let canary_first = self.random.next() & 1 == 0;
        let order = if canary_first { [CANARY, BASELINE] } else { [BASELINE, CANARY] };
        let mut times = [0.0; 2];
        for (engine, warm) in order.into_iter().zip([1.0, self.device.second_run]) {
            times[engine] = warm * self.time(engine, self.candidate.tokens);
            self.now += times[engine];
            self.budget -= times[engine];
            self.counts.probe_s += times[engine];
        }
        let around = |mean: f64, random: &mut Random| (mean * 2.0 * unit(random)).min(1.0);
        self.counts.probes.push(Probe {
            canary_ns: (times[CANARY] * 1e9) as u64,
            baseline_ns: (times[BASELINE] * 1e9) as u64,
            cosine: 1.0 - around(self.arm.cosine_loss, &mut self.random),
            recall: 1.0 - around(self.arm.recall_loss, &mut self.random),
        });
        self.candidate = Candidate::default();
    }
}
