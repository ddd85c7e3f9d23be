//! What runs next. Pure: it decides from what waits and a moment it is given.
//!
//! Enters: requests as lengths, cancellations, how long batches took. Leaves: which texts run together, or until when to wait. Never: a
//! thread, a clock, a token.
//!
//! - Lanes take turns, a batch each. Within a lane apps have equal credit in tokens, and within an app so have classes of length: a long
//!   text pays more, so short ones are not stuck behind it.
//! - Within a class the earliest deadline is first. Each further text of a request counts as due later by the engine time of those before
//!   it, so a request of a thousand texts lets others in between.
//! - A batch holds as many tokens as its engine's budget: the configured one, or one learnt at warm-up. Where little waits, a batch of long texts holds
//!   half of it as long as much shorter ones come in too: they would wait for all of it.
//! - Padding in a batch may cost what one more run would (learnt), but no more than a 32nd of the budget, and a
//!   32nd of the batch on top.
//! - An engine with a shape profile says itself how large its batches may be and what lengths it pads to; only what the configuration pins is
//!   kept smaller. There a run costs much and padding little: up to a quarter of the budget.
//! - An idle device runs at once. Otherwise a batch that is not full waits for the window: `max_wait`, or if adaptive, the fixed cost of a
//!   run when at least one more text is expected within it, else nothing.

mod cost;
mod fair;
mod shape;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::time::{Duration, Instant};

use cost::Cost;
use fair::Fair;
use shape::{Shape, class_of};

use super::{BatcherConfig, EngineId};
use crate::engine::Limits;

/// Tokens by which credit grows: a few short texts.
const QUANTUM: i64 = 128;
/// So many waiting texts are few: latency counts more than throughput.
const FEW: usize = 16;
/// A text so many times as long as another is long beside it,
const LONG: u32 = 4;
/// and so long after it.
const RECENT: Duration = Duration::from_millis(500);
/// Most of the budget that padding may take on an engine that takes any shape,
const PADDING_PART: usize = 32;
/// and on one with a shape profile.
const PROFILED_PADDING_PART: usize = 4;
/// Overhead may take a tenth of a busy device.
const OVERHEAD_PART: u64 = 9;
/// Most overhead that is saved up.
const OVERHEAD_CREDIT: i64 = 50_000_000;

/// A request, as far as the policy cares.
#[derive(Debug, Clone)]
pub struct Ask<L> {
    /// Names it; unique.
    pub request: u64,
    /// Lane it waits in.
    pub lane: L,
    /// Engine that runs it.
    pub engine: EngineId,
    /// Who asks.
    pub app: String,
    /// Tokens of each text.
    pub lengths: Vec<u32>,
    /// When it must be answered.
    pub deadline: Instant,
}

/// A text in a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Item {
    /// Its request.
    pub request: u64,
    /// Its place in the request.
    pub text: usize,
    /// Its tokens.
    pub tokens: u32,
}

/// A batch to run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cut<L> {
    /// Lane it is from.
    pub lane: L,
    /// Engine that runs it.
    pub engine: EngineId,
    /// Its texts.
    pub items: Vec<Item>,
    /// Why now.
    pub reason: &'static str,
}

/// What to do now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next<L> {
    /// Run this.
    Run(Cut<L>),
    /// Ask again then, or when something comes in.
    WaitUntil(Instant),
    /// Nothing waits.
    Idle,
}

/// What waits and what was learnt.
#[derive(Debug)]
pub struct Policy<L> {
    config: BatcherConfig,
    /// In order of their turns.
    lanes: VecDeque<Lane<L>>,
    requests: HashMap<u64, Request<L>>,
    costs: BTreeMap<EngineId, Cost>,
    /// Learnt; an engine without one has the configured budget.
    budgets: BTreeMap<EngineId, usize>,
    /// Of engines with a shape profile.
    limits: BTreeMap<EngineId, Limits>,
    texts: usize,
    tokens: u64,
    /// Tokens of the batches that run.
    running: u64,
    /// Tokens of the shortest text of late, and when it came.
    shortest: Option<(u32, Instant)>,
    last_arrival: Option<Instant>,
    /// Mean time between texts, ns.
    gap_ns: f64,
    idle: bool,
    overhead_credit: i64,
}

#[derive(Debug)]
struct Lane<L> {
    key: L,
    engine: EngineId,
    apps: Fair<String, App>,
    arrivals: BTreeSet<(Instant, u64)>,
    texts: usize,
    tokens: u64,
}

#[derive(Debug, Default)]
struct App {
    classes: Fair<u32, Class>,
}

/// Where a text waits in a lane: it is the first of its class.
#[derive(Debug)]
struct Place {
    app: usize,
    class: usize,
    item: Item,
}

/// Texts of about the same length, by when they are due.
type Class = BTreeMap<(Instant, u64, usize), u32>;

#[derive(Debug)]
struct Request<L> {
    lane: L,
    app: String,
    arrival: Instant,
    /// When each text is due, and its tokens; `None` once it is in a batch.
    texts: Vec<Option<(Instant, u32)>>,
    left: usize,
}

impl<L: Clone + Eq> Policy<L> {
    /// Nothing waits, nothing is known.
    pub fn new(config: BatcherConfig) -> Self {
        Self {
            config,
            lanes: VecDeque::new(),
            requests: HashMap::new(),
            costs: BTreeMap::new(),
            budgets: BTreeMap::new(),
            limits: BTreeMap::new(),
            texts: 0,
            tokens: 0,
            running: 0,
            shortest: None,
            last_arrival: None,
            gap_ns: f64::INFINITY,
            idle: true,
            overhead_credit: 0,
        }
    }

    /// Whether a request fits the queue and can be done `within` its time, as far as is known; if not, when there should be room. An empty
    /// queue takes any.
    pub fn admit(&self, engine: EngineId, lengths: &[u32], within: Duration) -> Result<(), Duration> {
        let tokens: u64 = lengths.iter().map(|it| u64::from(*it)).sum();
        let work = self.estimate(engine, self.tokens + tokens);
        // What would be answered too late is refused now: engine time spent on it would make the next one late, too.
        let most = self.config.max_queued.min(within.saturating_sub(self.estimate(engine, self.running)));
        if self.texts == 0 || (self.texts + lengths.len() <= self.config.max_queued_texts && work <= most) {
            return Ok(());
        }
        // Room for it is there when the queue has shrunk by its size.
        let excess = work.saturating_sub(most).max(self.estimate(engine, tokens));
        Err(excess.min(self.estimate(engine, self.tokens)))
    }

    /// A request comes in.
    pub fn push(&mut self, now: Instant, ask: Ask<L>) {
        let Ask { request, lane: key, engine, app, lengths, deadline } = ask;
        self.learn_arrivals(now, lengths.len());
        self.learn_shortest(now, lengths.iter().copied().min());
        let mut due = deadline;
        let mut texts = Vec::with_capacity(lengths.len());
        for tokens in lengths {
            texts.push(Some((due, tokens)));
            due += self.estimate(engine, u64::from(tokens));
        }
        let lane = self.lane_mut(&key, engine);
        lane.arrivals.insert((now, request));
        let app_at = lane.apps.place(&app);
        let classes = &mut lane.apps.at(app_at).classes;
        for (text, (due, tokens)) in texts.iter().flatten().enumerate() {
            let class = classes.place(&class_of(*tokens));
            classes.at(class).insert((*due, request, text), *tokens);
        }
        let (count, tokens) = (texts.len(), texts.iter().flatten().map(|it| u64::from(it.1)).sum::<u64>());
        lane.texts += count;
        lane.tokens += tokens;
        self.texts += count;
        self.tokens += tokens;
        self.requests.insert(request, Request { lane: key, app, arrival: now, left: count, texts });
    }

    /// A request is no longer wanted: what of it still waits is dropped.
    pub fn remove(&mut self, request: u64) {
        let Some(found) = self.requests.get(&request) else { return };
        let waiting: Vec<Item> = found.waiting(request).collect();
        let lane = self.lanes.iter().position(|it| it.key == found.lane);
        for item in waiting {
            self.take(item, false);
        }
        if let Some(at) = lane {
            self.tidy(at);
        }
    }

    /// What to do now, on a device that runs nothing.
    pub fn next(&mut self, now: Instant) -> Next<L> {
        self.next_for(now, |_| true)
    }

    /// As [`Policy::next`], for one that has only the engines that `has` says.
    pub fn next_for(&mut self, now: Instant, has: impl Fn(EngineId) -> bool) -> Next<L> {
        let mut wake: Option<Instant> = None;
        for at in 0..self.lanes.len() {
            if !has(self.lanes[at].engine) {
                continue;
            }
            match self.reason(&self.lanes[at], now) {
                Ok(reason) => return Next::Run(self.cut(at, reason, now)),
                Err(until) => wake = Some(wake.map_or(until, |it| it.min(until))),
            }
        }
        self.idle = wake.is_none();
        wake.map_or(Next::Idle, Next::WaitUntil)
    }

    /// Whether a request that just came in changes what a lane that waits for its window should do: it is its first, or fills a batch.
    pub fn is_ripe(&self, lane: &L, texts: usize) -> bool {
        let full = |it: &Lane<L>| it.texts >= self.max_rows(it.engine) || it.tokens >= self.budget(it.engine) as u64;
        !self.config.enabled || self.lanes.iter().filter(|it| it.key == *lane).any(|it| it.texts <= texts || full(it))
    }

    /// The engine of each lane, and whether it should run now rather than wait for its window.
    pub fn lanes(&self, now: Instant) -> impl Iterator<Item = (EngineId, bool)> {
        self.lanes.iter().map(move |it| (it.engine, self.reason(it, now).is_ok()))
    }

    /// A batch of so many tokens failed; its time says nothing of the next one.
    pub fn failed(&mut self, tokens: u64) {
        self.running = self.running.saturating_sub(tokens);
    }

    /// A batch took so long.
    pub fn finished(&mut self, engine: EngineId, tokens: u64, padded_tokens: u64, took: Duration) {
        self.running = self.running.saturating_sub(tokens);
        self.costs.entry(engine).or_default().learn(tokens, padded_tokens, took);
        self.overhead_credit = OVERHEAD_CREDIT.min(self.overhead_credit + (took.as_nanos() as u64 / OVERHEAD_PART) as i64);
    }

    /// Whether device time may go to something that no request asked for.
    pub fn overhead_allowed(&self) -> bool {
        self.texts == 0 || self.overhead_credit > 0
    }

    /// It took so long.
    pub fn overhead_finished(&mut self, took: Duration) {
        if self.texts > 0 {
            self.overhead_credit -= took.as_nanos() as i64;
        }
    }

    /// A batch without padding took so long at warm-up.
    pub fn probed(&mut self, engine: EngineId, tokens: u64, took: Duration) {
        self.costs.entry(engine).or_default().learn(tokens, tokens, took);
    }

    /// Most tokens of this engine's batches from now on; a configured budget that is pinned stays.
    pub fn set_budget(&mut self, engine: EngineId, tokens: usize) {
        if self.config.learn_budget {
            self.budgets.insert(engine, tokens.max(1));
        }
    }

    /// An engine with a shape profile says what suits it.
    pub fn set_limits(&mut self, engine: EngineId, limits: Limits) {
        self.limits.insert(engine, limits);
    }

    /// What suits an engine, if it says so.
    pub fn limits(&self, engine: EngineId) -> Option<&Limits> {
        self.limits.get(&engine)
    }

    /// Most tokens of an engine's batches.
    pub fn budget(&self, engine: EngineId) -> usize {
        let most = self.limits.get(&engine).map_or(usize::MAX, |it| it.max_tokens);
        let unknown = if self.config.learn_budget && most < usize::MAX { most } else { self.config.max_batch_tokens };
        self.budgets.get(&engine).copied().unwrap_or(unknown).min(most)
    }

    /// Most texts of an engine's batches.
    pub fn max_rows(&self, engine: EngineId) -> usize {
        let configured = self.config.max_batch_size.max(1);
        match self.limits.get(&engine) {
            Some(limits) if self.config.learn_size => limits.max_rows,
            Some(limits) => limits.max_rows.min(configured),
            None => configured,
        }
    }

    /// What was learnt of an engine is forgotten.
    pub fn forget(&mut self, engine: EngineId) {
        self.costs.remove(&engine);
        self.budgets.remove(&engine);
        self.limits.remove(&engine);
    }

    /// Texts that wait in a lane.
    pub fn waiting_in(&self, lane: &L) -> usize {
        self.lanes.iter().filter(|it| it.key == *lane).map(|it| it.texts).sum()
    }

    /// Texts that wait.
    pub fn waiting(&self) -> usize {
        self.texts
    }

    fn estimate(&self, engine: EngineId, tokens: u64) -> Duration {
        self.costs.get(&engine).map_or(Duration::ZERO, |it| it.estimate(tokens))
    }

    fn lane_mut(&mut self, key: &L, engine: EngineId) -> &mut Lane<L> {
        let found = self.lanes.iter().position(|it| it.key == *key);
        let at = found.unwrap_or_else(|| {
            let (key, arrivals) = (key.clone(), BTreeSet::new());
            self.lanes.push_back(Lane { key, engine, apps: Fair::default(), arrivals, texts: 0, tokens: 0 });
            self.lanes.len() - 1
        });
        &mut self.lanes[at]
    }

    fn learn_arrivals(&mut self, now: Instant, texts: usize) {
        if let Some(last) = self.last_arrival.replace(now) {
            let gap = now.saturating_duration_since(last).as_nanos() as f64 / texts.max(1) as f64;
            self.gap_ns = if self.gap_ns.is_finite() { 0.9 * self.gap_ns + 0.1 * gap } else { gap };
        }
    }

    fn learn_shortest(&mut self, now: Instant, tokens: Option<u32>) {
        let Some(tokens) = tokens else { return };
        let holds = |it: &(u32, Instant)| it.0 < tokens && now.saturating_duration_since(it.1) < RECENT;
        if !self.shortest.as_ref().is_some_and(holds) {
            self.shortest = Some((tokens, now));
        }
    }

    /// Most tokens of a batch that begins with a text of `tokens`.
    fn room(&self, lane: &Lane<L>, tokens: u32, now: Instant) -> usize {
        let budget = self.budget(lane.engine);
        let shorter = |it: &(u32, Instant)| it.0 * LONG <= tokens && now.saturating_duration_since(it.1) < RECENT;
        if lane.texts <= FEW && self.shortest.as_ref().is_some_and(shorter) { budget / 2 } else { budget }
    }

    /// Why a lane should run now, or when it should at the latest.
    fn reason(&self, lane: &Lane<L>, now: Instant) -> Result<&'static str, Instant> {
        let oldest = lane.arrivals.first().map_or(now, |it| it.0);
        let until = oldest + self.window(lane.engine);
        match () {
            () if !self.config.enabled => Ok("unbatched"),
            () if lane.texts >= self.max_rows(lane.engine) => Ok("size"),
            () if lane.tokens >= self.budget(lane.engine) as u64 => Ok("tokens"),
            () if self.idle || self.requests.len() == 1 => Ok("idle"),
            () if until <= now => Ok("window"),
            () => Err(until),
        }
    }

    fn window(&self, engine: EngineId) -> Duration {
        if !self.config.adaptive {
            return self.config.max_wait;
        }
        let fixed = self.costs.get(&engine).map_or(Duration::ZERO, Cost::fixed);
        if self.gap_ns < fixed.as_nanos() as f64 { fixed.min(self.config.max_wait) } else { Duration::ZERO }
    }

    fn cut(&mut self, at: usize, reason: &'static str, now: Instant) -> Cut<L> {
        self.idle = false;
        let (key, engine) = (self.lanes[at].key.clone(), self.lanes[at].engine);
        let limits = self.limits.get(&engine);
        let part = if limits.is_some() { PROFILED_PADDING_PART } else { PADDING_PART };
        // What was learnt on a busy machine may be far off.
        let free_padding = self.costs.get(&engine).map_or(0, Cost::fixed_tokens).min(self.budget(engine) / part);
        let lengths = limits.map(|it| it.lengths.clone()).unwrap_or_default();
        let shape = |budget| Shape::new(self.max_rows(engine), budget, free_padding).padding_to(lengths.clone());
        let first = self.lanes[at].best(&shape(self.budget(engine))).map_or(0, |it| it.item.tokens);
        let mut shape = shape(self.room(&self.lanes[at], first, now));
        self.lanes.rotate_left(at + 1);
        // Its next turn is after all others'.
        let at = self.lanes.len() - 1;
        let mut items = Vec::new();
        while let Some(place) = self.lanes[at].best(&shape) {
            shape.add(place.item.tokens);
            items.push(place.item);
            self.take_at(at, &place);
            if !self.config.enabled {
                break;
            }
        }
        if let (false, [first]) = (self.config.enabled, &items[..]) {
            let rest = self.rest_of(*first, &mut shape);
            items.extend(rest);
        }
        self.tidy(at);
        self.running += items.iter().map(|it| u64::from(it.tokens)).sum::<u64>();
        Cut { lane: key, engine, items, reason }
    }

    /// Takes the text whose turn it is in a lane, which is charged for it. Of five hundred in a batch each goes this way, with the queue's lock
    /// held: nothing is looked for again that is known, and what became empty stays until [`Policy::tidy`].
    fn take_at(&mut self, at: usize, place: &Place) {
        let apps = &mut self.lanes[at].apps;
        let cost = i64::from(place.item.tokens);
        let classes = &mut apps.at(place.app).classes;
        classes.at(place.class).pop_first();
        classes.charge(place.class, cost);
        apps.charge(place.app, cost);
        self.uncount(at, place.item);
    }

    /// A text is in no class of its lane any more. As a call of its own it cost a tenth of what the queue passes (the bench `queue`).
    #[inline]
    fn uncount(&mut self, at: usize, item: Item) {
        let (lane, tokens) = (&mut self.lanes[at], u64::from(item.tokens));
        (lane.texts, lane.tokens) = (lane.texts - 1, lane.tokens - tokens);
        (self.texts, self.tokens) = (self.texts - 1, self.tokens - tokens);
        let Some(request) = self.requests.get_mut(&item.request) else { return };
        request.texts[item.text] = None;
        request.left -= 1;
        if request.left == 0 {
            lane.arrivals.remove(&(request.arrival, item.request));
            self.requests.remove(&item.request);
        }
    }

    /// Classes, apps and a lane of which nothing waits are gone.
    fn tidy(&mut self, at: usize) {
        self.lanes[at].tidy();
        if self.lanes[at].texts == 0 {
            self.lanes.remove(at);
        }
    }

    /// Takes what fits of the same request, nearest in length first.
    fn rest_of(&mut self, first: Item, shape: &mut Shape) -> Vec<Item> {
        let Some(request) = self.requests.get(&first.request) else { return Vec::new() };
        let mut waiting: Vec<Item> = request.waiting(first.request).collect();
        waiting.sort_by_key(|it| (it.tokens.abs_diff(first.tokens), it.text));
        waiting.retain(|it| shape.add(it.tokens));
        for item in &waiting {
            self.take(*item, true);
        }
        waiting
    }

    /// Takes a text out of the queue; `charged` to its app and class if it is to run. What became empty stays until [`Policy::tidy`].
    fn take(&mut self, item: Item, charged: bool) {
        let Some(request) = self.requests.get(&item.request) else { return };
        let Some((due, _)) = request.texts.get(item.text).copied().flatten() else { return };
        let Some(at) = self.lanes.iter().position(|it| it.key == request.lane) else { return };
        self.lanes[at].take(&request.app, (due, item.request, item.text), item.tokens, charged);
        self.uncount(at, item);
    }
}

impl<L> Request<L> {
    fn waiting(&self, request: u64) -> impl Iterator<Item = Item> {
        let texts = self.texts.iter().enumerate();
        texts.filter_map(move |(text, it)| it.map(|(_, tokens)| Item { request, text, tokens }))
    }
}

impl<L> Lane<L> {
    fn take(&mut self, app: &String, key: (Instant, u64, usize), tokens: u32, charged: bool) {
        let app = self.apps.place(app);
        let classes = &mut self.apps.at(app).classes;
        let class = classes.place(&class_of(tokens));
        classes.at(class).remove(&key);
        if charged {
            classes.charge(class, i64::from(tokens));
            self.apps.charge(app, i64::from(tokens));
        }
    }

    fn tidy(&mut self) {
        self.apps.each(|app| app.classes.drop_where(Class::is_empty));
        self.apps.drop_where(|it| it.classes.is_empty());
    }

    /// The text whose turn it is among those that fit.
    fn best(&self, shape: &Shape) -> Option<Place> {
        let first = |class: &Class| {
            let ((_, request, text), tokens) = class.first_key_value()?;
            shape.fits(*tokens).then_some(Item { request: *request, text: *text, tokens: *tokens })
        };
        let (app, (class, item)) = self.apps.best(|app| app.classes.best(first))?;
        Some(Place { app, class, item })
    }
}

#[cfg(test)]
mod tests;
