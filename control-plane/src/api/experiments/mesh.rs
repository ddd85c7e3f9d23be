//! An experiment's split for a service mesh, where the canary has pods of its own. Enters: an id. Leaves: an Istio `VirtualService` whose weights
//! are the share that was decided. Never: a call to a cluster.

use akidb_domain::vocabulary::is_name;
use axum::Json;
use axum::extract::{Path, State};
use axum::http::header;
use axum::response::{AppendHeaders, IntoResponse, Response};
use serde::Deserialize;
use serde_json::{Value, json};
use utoipa::IntoParams;

use super::ExperimentView;
use crate::api::ApiState;
use crate::api::error::{ApiError, ErrorBody};
use crate::api::extract::Params;
use crate::experiments as rules;

/// Where to.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct RouteQuery {
    /// Service that the routes are of; default `akidb-rest`.
    host: Option<String>,
    /// Default `akidb`.
    namespace: Option<String>,
    /// `json` (default) or `yaml`.
    format: Option<String>,
}

/// The split as an Istio `VirtualService`: subsets are named after variants, weights are percent.
#[utoipa::path(get, path = "/experiments/{id}/routes", tag = "experiments", params(("id" = String, Path), RouteQuery), responses((status = 200, body = Object), (status = "4XX", body = ErrorBody)))]
pub(crate) async fn routes(
    State(state): State<ApiState>,
    Path(id): Path<String>,
    Params(query): Params<RouteQuery>,
) -> Result<Response, ApiError> {
    let (host, namespace) = (name("host", query.host, "akidb-rest")?, name("namespace", query.namespace, "akidb")?);
    let it: ExperimentView = rules::find(&mut *state.db.reader().await?, &id).await?.into();
    let service = virtual_service(&it, &host, &namespace);
    match query.format.as_deref() {
        None | Some("json") => Ok(Json(service).into_response()),
        Some("yaml") => Ok((AppendHeaders([(header::CONTENT_TYPE, "application/yaml")]), yaml(&it, &host, &namespace)).into_response()),
        Some(other) => Err(ApiError::Invalid(format!("`format` is `{other}`: write `json` or `yaml`"))),
    }
}

fn name(field: &str, given: Option<String>, default: &str) -> Result<String, ApiError> {
    let given = given.unwrap_or_else(|| default.to_owned());
    if is_name(&given) { Ok(given) } else { Err(ApiError::Invalid(format!("`{field}` `{given}` is not 1-128 of A-Za-z0-9._-"))) }
}

/// Percent of canary and baseline. A share that is no whole percent is rounded down: never more than was decided.
fn weights(it: &ExperimentView) -> [(&str, u32); 2] {
    let canary = it.share_ppm / 10_000;
    [(&it.canary.variant, canary), (&it.baseline.variant, 100 - canary)]
}

fn virtual_service(it: &ExperimentView, host: &str, namespace: &str) -> Value {
    let route = weights(it).map(|(subset, weight)| json!({"destination": {"host": host, "subset": subset}, "weight": weight}));
    json!({
        "apiVersion": "networking.istio.io/v1",
        "kind": "VirtualService",
        "metadata": {"name": format!("{host}-{}", it.id.to_ascii_lowercase()), "namespace": namespace},
        "spec": {"hosts": [host], "http": [{"route": route}]}
    })
}

fn yaml(it: &ExperimentView, host: &str, namespace: &str) -> String {
    let routes = weights(it).map(|(subset, weight)| {
        format!("    - destination:\n        host: {host}\n        subset: \"{subset}\"\n      weight: {weight}\n")
    });
    format!(
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata:\n  name: {host}-{}\n  namespace: {namespace}\nspec:\n  hosts:\n  - {host}\n  http:\n  - route:\n{}",
        it.id.to_ascii_lowercase(),
        routes.concat()
    )
}
