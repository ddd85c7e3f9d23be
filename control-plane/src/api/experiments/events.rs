//! What happened. Enters: an id, the last event seen. Leaves: a page of history, or a stream that goes on until the experiment is over. Never: an
//! event twice, or one left out.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::time::Duration;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::HeaderMap;
use axum::response::Sse;
use axum::response::sse::{Event, KeepAlive};
use futures::{Stream, StreamExt, stream};
use serde::Serialize;
use serde_json::{Value, json};
use tokio::sync::watch;
use utoipa::ToSchema;

use crate::api::ApiState;
use crate::api::error::{ApiError, ErrorBody};
use crate::api::extract::Params;
use crate::api::page::Page;
use crate::api::view;
use crate::clock::rfc3339_ms;
use crate::db::events::{self as rows, EventRow};
use crate::db::{self, Db};
use crate::experiments as rules;

/// Events read at a time.
const BATCH: i64 = 200;
/// How long a failed read waits for the next try.
const PAUSE: Duration = Duration::from_secs(1);

/// Something that happened.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct EventView {
    id: i64,
    at: String,
    /// `created`, `started`, `settled`, `look`, `inconclusive`, `grown`, `paused`, `resumed`, `promoted`, `rolled-back` or `aborted`.
    kind: String,
    /// `token:<id>` or `decider`.
    actor: String,
    #[schema(value_type = Object)]
    detail: Value,
}

impl From<EventRow> for EventView {
    fn from(it: EventRow) -> Self {
        Self { id: it.id, at: rfc3339_ms(it.at), kind: it.kind, actor: it.actor, detail: view::json(&it.detail) }
    }
}

/// A page of history.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct History {
    history: Vec<EventView>,
    next: Option<String>,
}

/// What happened, oldest first, without single looks.
#[utoipa::path(get, path = "/experiments/{id}/history", tag = "experiments", params(("id" = String, Path), Page), responses((status = 200, body = History), (status = "4XX", body = ErrorBody)))]
pub(crate) async fn history(
    State(state): State<ApiState>,
    Path(id): Path<String>,
    Params(page): Params<Page>,
) -> Result<Json<History>, ApiError> {
    let mut conn = state.db.reader().await?;
    rules::find(&mut conn, &id).await?;
    let mut all = rows::list(&mut conn, &id, page.after_number()?, false, page.fetch()?).await?;
    let next = page.cut(&mut all, |it| it.id.to_string())?;
    Ok(Json(History { history: all.into_iter().map(Into::into).collect(), next }))
}

/// Server-sent events: everything that happened, single looks included, then what happens. Goes on after `Last-Event-ID`; ends with the
/// experiment.
#[utoipa::path(get, path = "/experiments/{id}/events", tag = "experiments", params(("id" = String, Path), ("Last-Event-ID" = Option<String>, Header)), responses((status = 200, body = String, content_type = "text/event-stream"), (status = "4XX", body = ErrorBody)))]
pub(crate) async fn events(
    State(state): State<ApiState>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>>>, ApiError> {
    rules::find(&mut *state.db.reader().await?, &id).await?;
    let last = headers.get("last-event-id").map_or(Some(0), |it| it.to_str().ok()?.trim().parse().ok());
    let last = last.ok_or_else(|| ApiError::Malformed("`Last-Event-ID` is not the id of an event".to_owned()))?;
    let news = state.notifier.events();
    let follower = Follower { db: state.db.clone(), experiment: id, last, news, ready: VecDeque::new(), over: false };
    let stop = state.stop.clone();
    let events = stream::unfold(follower, async |mut it| Some((it.next().await?, it)));
    let events = events.take_until(async move { stop.cancelled().await }).map(|it| Ok(event(it)));
    Ok(Sse::new(events).keep_alive(KeepAlive::default()))
}

fn event(it: EventRow) -> Event {
    let data = json!({"at": rfc3339_ms(it.at), "actor": it.actor, "detail": view::json(&it.detail)});
    Event::default().id(it.id.to_string()).event(it.kind).data(data.to_string())
}

/// Someone who follows an experiment.
struct Follower {
    db: Db,
    experiment: String,
    last: i64,
    news: watch::Receiver<u64>,
    ready: VecDeque<EventRow>,
    over: bool,
}

impl Follower {
    async fn next(&mut self) -> Option<EventRow> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                self.last = event.id;
                return Some(event);
            }
            if self.over {
                return None;
            }
            self.news.borrow_and_update();
            match self.read().await {
                Ok(()) if self.ready.is_empty() && !self.over => self.news.changed().await.ok()?,
                Ok(()) => {}
                Err(error) => {
                    tracing::error!(%error, experiment = self.experiment, "events could not be read");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    async fn read(&mut self) -> Result<(), db::Error> {
        let mut tx = self.db.begin_read().await?;
        self.ready = rows::list(&mut tx, &self.experiment, self.last, true, BATCH).await?.into();
        let all_read = (self.ready.len() as i64) < BATCH;
        let found = db::experiments::find(&mut tx, &self.experiment).await?;
        self.over = all_read && found.is_none_or(|it| it.life.is_over());
        Ok(())
    }
}
