//! One request's way: router, tokenizer, batcher, vectors, cost. The same for every dialect of the API.
//!
//! Enters: a question. Leaves: an answer or an error, and one record. Never: JSON, a status.

use std::sync::Arc;
use std::time::{Duration, Instant};

use akidb_domain::cost::{dollars, spend_until};
use akidb_domain::vocabulary::ModelRef;

use super::AppState;
use super::caller::Caller;
use super::error::ApiError;
use super::question::Question;
use super::record::Record;
use super::vectors;
use crate::batcher::{BatchError, Embedded, Pair, Work};
use crate::models::demand::Unmet;
use crate::router::{self, Ask, Rivals, Route, RouteError};
use crate::serving::Loaded;
use crate::tokenizer::Encoded;
use crate::traces::RequestTrace;

/// What it gets.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) loaded: Arc<Loaded>,
    pub(super) vectors: Vec<Vec<f32>>,
    pub(super) tokens: u64,
    pub(super) truncated: u64,
    /// Decimal USD; `None` without a price.
    pub(super) cost: Option<String>,
    pub(super) tokenize: Duration,
    pub(super) queue: Duration,
    pub(super) engine: Duration,
}

/// Why a try ended.
enum Stop {
    /// The engine was removed between routing and queueing.
    Gone,
    Error(ApiError),
}

impl<E: Into<ApiError>> From<E> for Stop {
    fn from(error: E) -> Self {
        Self::Error(error.into())
    }
}

/// Answers a question.
pub(super) async fn embed(state: &AppState, question: Question, caller: Caller) -> Result<Answer, ApiError> {
    // One draw a request: whatever has to be chosen again meets the same arm.
    let random = rand::random();
    let choose =
        async || find(state, &question, &caller, random).await.inspect_err(|error| state.metrics.error_without_variant(error.code()));
    let route = choose().await?;
    let (telemetry, metrics, consumer) = (state.telemetry.clone(), state.metrics.clone(), caller.consumer.clone());
    let mut record = Record::open(telemetry, metrics, &route, consumer, question.arrived);
    record.texts = question.input.len() as u64;
    let mut result = attempt(state, &question, &caller, route, &mut record).await;
    if matches!(result, Err(Stop::Gone)) {
        // The table has its successor by now.
        result = match choose().await {
            Ok(route) => {
                record.reroute(&route);
                attempt(state, &question, &caller, route, &mut record).await
            }
            Err(error) => Err(Stop::Error(error)),
        };
    }
    let result = result.map_err(|stop| match stop {
        Stop::Gone => ApiError::from(BatchError::Gone),
        Stop::Error(error) => error,
    });
    record.close(&result);
    if let Some(trace) = &caller.trace {
        let served = result.as_ref().map(|it| (it.loaded.model.as_str(), it.loaded.variant.as_str())).map_err(ApiError::code);
        trace.outcome(question.input.len() as u64, served);
    }
    if let Ok(answer) = &result {
        state.text_log.offer(&answer.loaded.model, &question.input);
    }
    result
}

/// How often a request asks for an engine that is evicted again before it gets there.
const ASKS: usize = 3;

/// A route; a variant that is known but not loaded is waited for within the deadline.
async fn find(state: &AppState, question: &Question, caller: &Caller, random: u64) -> Result<Route, ApiError> {
    let deadline = question.arrived + question.timeout;
    for _ in 0..ASKS {
        let (model, variant, was) = match choose(state, question, caller, random) {
            Err(RouteError::NotReady { model, variant, state }) => (model, variant, state),
            other => return Ok(other?),
        };
        let not_ready = |model, state| Err(RouteError::NotReady { model, variant: variant.clone(), state }.into());
        match state.demand.want(&model, &variant, deadline.into()).await {
            Ok(()) => {}
            Err(Unmet::Deadline) => return Err(ApiError::Deadline),
            Err(Unmet::Refused(why)) => return not_ready(model, why),
            Err(Unmet::Nobody) => return not_ready(model, was),
        }
    }
    Ok(choose(state, question, caller, random)?)
}

fn choose(state: &AppState, question: &Question, caller: &Caller, random: u64) -> Result<Route, RouteError> {
    let serving = state.serving.load();
    let model: Option<ModelRef> = match &question.model {
        Some(name) => Some(name.parse().map_err(|_| router::unknown_model(&serving, name))?),
        None => None,
    };
    let (sticky, app) = (caller.sticky.as_deref(), caller.consumer.app.as_str());
    let ask = Ask { model: model.as_ref(), purpose: question.purpose, app, sticky, random };
    router::route(&serving, &ask, &state.leases)
}

async fn attempt(state: &AppState, question: &Question, caller: &Caller, route: Route, record: &mut Record) -> Result<Answer, Stop> {
    let Route { loaded, lane, probe, .. } = route;
    let _in_use = loaded.residence.enter(state.clock.now_ns());
    let deadline = question.arrived + question.timeout;
    let started = Instant::now();
    let encoding = question.encode(&loaded, state.limits.texts);
    let encoded = tokio::time::timeout_at(deadline.into(), encoding).await.map_err(|_| ApiError::Deadline)??;
    let tokenize = started.elapsed();
    record.tokens = encoded.iter().map(|it| it.ids.len() as u64).sum();
    record.longest = encoded.iter().map(|it| it.ids.len() as u32).max().unwrap_or(0);
    record.truncated = encoded.iter().filter(|it| it.truncated).count() as u64;
    let trace = caller.trace.as_ref().map(RequestTrace::link);
    let app = caller.consumer.app.clone();
    let work = Work { lane, engine: loaded.engine, texts: ids(encoded), deadline, app, trace, probe: probe.map(pair) };
    let submitted = Instant::now();
    let done = match state.batcher.submit(work).await {
        Ok(done) => done,
        Err(BatchError::Gone) => return Err(Stop::Gone),
        Err(error) => return Err(error.into()),
    };
    record.queue = done.queue;
    if let Some(trace) = &caller.trace {
        trace.stage("tokenize", started, tokenize);
        trace.stage("queue", submitted, done.queue);
        trace.stage("infer", submitted + done.queue, done.engine);
    }
    let cost = cost(state, &done);
    let Embedded { mut vectors, queue, engine, .. } = done;
    for vector in &mut vectors {
        vectors::fit(vector, question.dimensions, question.normalize && !loaded.normalized);
    }
    Ok(Answer { vectors, tokens: record.tokens, truncated: record.truncated, cost, tokenize, queue, engine, loaded })
}

fn pair(rivals: Rivals) -> Arc<Pair> {
    let Rivals { baseline, canary, budget } = rivals;
    Arc::new(Pair { baseline: baseline.engine, canary: canary.engine, canary_variant: canary.variant.clone(), budget })
}

fn ids(encoded: Vec<Encoded>) -> Vec<Vec<u32>> {
    encoded.into_iter().map(|it| it.ids).collect()
}

fn cost(state: &AppState, done: &Embedded) -> Option<String> {
    let rate = state.telemetry.price()?;
    Some(dollars(spend_until(rate.picodollars_per_hour, rate.share_ppm, done.engine_share_ns)))
}
