//! Requests as they arrive: a Poisson process whose rate drifts (AR(1) in its logarithm) and bursts, texts of different length, users.
//!
//! Enters: a load, a stream of random bits. Leaves: one request after another, in order. Never: a lane; that is the router's.

use super::chance::{Alias, Table, normal, unit};
use super::plan::Load;
use crate::random::Random;

/// A request.
#[derive(Debug, Clone, Copy)]
pub(super) struct Request {
    /// When it came, s.
    pub(super) at: f64,
    /// Tokens of its text.
    pub(super) tokens: u16,
    /// Its user, 0 where nobody counts them.
    pub(super) user: u32,
    /// Random bits for the router.
    pub(super) draw: u32,
}

/// What all runs of a load share.
#[derive(Debug)]
pub(super) struct Shape {
    gaps: Table,
    tokens: Vec<u16>,
    users: Option<Alias>,
}

impl Shape {
    pub(super) fn new(load: &Load) -> Self {
        let lengths = Table::lognormal(load.tokens_median, load.tokens_spread);
        let tokens = (0..1024u32).map(|i| lengths.at((i << 22) + (1 << 21)).clamp(4.0, 256.0) as u16).collect();
        let weights = |count: u32, exponent: f64| (1..=count).map(|n| libm::pow(f64::from(n), -exponent)).collect::<Vec<_>>();
        Self { gaps: Table::exponential(), tokens, users: load.users.map(|it| Alias::new(&weights(it.count, it.exponent))) }
    }
}

/// A stream of requests.
#[derive(Debug)]
pub(super) struct Traffic<'a> {
    load: &'a Load,
    shape: &'a Shape,
    random: Random,
    now: f64,
    rate: f64,
    step_end: f64,
    level: f64,
    burst_end: f64,
}

impl<'a> Traffic<'a> {
    pub(super) fn new(load: &'a Load, shape: &'a Shape, mut random: Random) -> Self {
        let level = load.spread * normal(&mut random);
        let mut traffic = Self { load, shape, random, now: 0.0, rate: 0.0, step_end: 0.0, level, burst_end: 0.0 };
        traffic.begin_step();
        traffic
    }

    pub(super) fn next(&mut self) -> Request {
        let bits = self.random.next();
        let mut gap = self.shape.gaps.at((bits >> 32) as u32);
        while gap > (self.step_end - self.now) * self.rate {
            gap -= (self.step_end - self.now) * self.rate;
            self.now = self.step_end;
            self.begin_step();
        }
        self.now += gap / self.rate;
        let user = self.shape.users.as_ref().map_or(0, |it| it.draw(&mut self.random));
        // A user's texts are alike: its length is that of its own place in the distribution, give or take a sixteenth of the places.
        let place = if self.shape.users.is_some() { own_place(user) + (bits & 63) as usize } else { (bits & 1023) as usize };
        Request { at: self.now, tokens: self.shape.tokens[place & 1023], user, draw: (bits as u32) & !1023 }
    }

    fn begin_step(&mut self) {
        let Load { ar1, spread, burst_every_s, burst_factor, burst_s, .. } = *self.load;
        self.level = ar1 * self.level + spread * (1.0 - ar1 * ar1).sqrt() * normal(&mut self.random);
        if burst_every_s > 0.0 && self.now >= self.burst_end && unit(&mut self.random) < 1.0 / burst_every_s {
            self.burst_end = self.now + burst_s;
        }
        let burst = if self.now < self.burst_end { burst_factor } else { 1.0 };
        self.rate = self.load.rate * burst * libm::exp(self.level - spread * spread / 2.0);
        self.step_end = self.now + 1.0;
    }
}

fn own_place(user: u32) -> usize {
    (user.wrapping_mul(0x9e37_79b1) >> 22) as usize
}
