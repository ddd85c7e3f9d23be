//! What handlers take: a checked caller, a JSON body, a query. Enters: requests. Leaves: values, or our own error body. Never: a request under
//! `/api/v1` without a token.

use axum::extract::{FromRequest, FromRequestParts, Query, Request, State};
use axum::http::{Method, StatusCode, header, request::Parts};
use axum::middleware::Next;
use axum::response::Response;
use axum::{Extension, Json};
use serde::de::DeserializeOwned;

use akidb_domain::vocabulary::Role;

use super::ApiState;
use super::error::ApiError;
use crate::access::Caller;

/// Lets a caller through whose role allows the method.
pub(crate) async fn authorize(State(state): State<ApiState>, mut request: Request, next: Next) -> Result<Response, ApiError> {
    if !request.uri().path().starts_with("/api/v1/") {
        return Ok(next.run(request).await);
    }
    let header = request.headers().get(header::AUTHORIZATION).and_then(|it| it.to_str().ok());
    let caller = state.access.caller(header).await?;
    let reads = matches!(*request.method(), Method::GET | Method::HEAD);
    match caller.role {
        Role::Admin => {}
        Role::Viewer if reads => {}
        Role::Viewer => return Err(ApiError::Forbidden("role `viewer` may only read".to_owned())),
        Role::Sidecar => return Err(ApiError::Forbidden("role `sidecar` only speaks gRPC".to_owned())),
    }
    request.extensions_mut().insert(caller);
    Ok(next.run(request).await)
}

/// Who calls; every handler under `/api/v1` may take it.
pub(crate) type Who = Extension<Caller>;

/// A JSON body.
#[derive(Debug)]
pub(crate) struct Body<T>(pub(crate) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Body<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        match Json::<T>::from_request(request, state).await {
            Ok(Json(it)) => Ok(Self(it)),
            Err(error) if error.status() == StatusCode::PAYLOAD_TOO_LARGE => Err(ApiError::TooLarge(error.body_text())),
            Err(error) => Err(ApiError::Malformed(error.body_text())),
        }
    }
}

/// A query string.
#[derive(Debug)]
pub(crate) struct Params<T>(pub(crate) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Params<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        match Query::<T>::from_request_parts(parts, state).await {
            Ok(Query(it)) => Ok(Self(it)),
            Err(error) => Err(ApiError::Malformed(error.body_text())),
        }
    }
}
