//! Reads the requests of the control port strictly, and writes its refusals.

use std::marker::PhantomData;

use axum::{
    Json,
    extract::{FromRequest, FromRequestParts, Path, Query, Request},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use http::{StatusCode, request::Parts};
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::DeserializeOwned};
use serde_json::Value;

use crate::worlds::{WorldError, WorldRef, Worlds};

/// A refusal: a status and one sentence.
#[derive(Debug)]
pub(super) struct ApiError {
    status: StatusCode,
    sentence: String,
}

/// A refusal.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Error")]
pub(super) struct ApiErrorBody {
    /// One sentence that says what is wrong.
    error: String,
}

/// A JSON body. The content type does not matter, so that a plain `curl -d` works.
pub(super) struct JsonBody<T>(pub(super) T);

/// A body that must be empty or `{}`.
pub(super) struct EmptyBody;

/// The world that a call acts on: the one in its path, or else the demo world.
pub(super) struct WorldParam(pub(super) WorldRef);

/// The id of a world, taken out of the path before the router reads it.
#[derive(Debug, Clone)]
pub(super) struct WorldInPath(pub(super) String);

/// The query.
pub(super) struct QueryParams<T>(pub(super) T);

/// The variable parts of the path.
pub(super) struct PathParam<T>(pub(super) T);

/// An answer with status 201.
pub(super) struct Created<T>(pub(super) T);

/// A JSON value that the OpenAPI document describes as a `T`: part of one that is completed before
/// it is read, or one without its secret.
pub(super) struct JsonOf<T> {
    pub(super) value: Value,
    described_as: PhantomData<T>,
}

/// Which part of a list sorted by key.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ListParams {
    /// Only entries after this key.
    pub(super) after: Option<String>,
    /// How many entries at most.
    #[schemars(range(min = 1, max = MAX_LIMIT), extend("default" = DEFAULT_LIMIT))]
    limit: Option<usize>,
}

/// Part of a list, sorted by key.
#[derive(Serialize, JsonSchema)]
#[schemars(inline)]
pub(super) struct ListPart<T> {
    entries: Vec<T>,
    /// The length of the whole list.
    total: usize,
}

pub(super) const DEFAULT_LIMIT: usize = 100;
pub(super) const MAX_LIMIT: usize = 10_000;

impl ApiError {
    pub(super) fn bad_request(sentence: impl ToString) -> Self {
        Self { status: StatusCode::BAD_REQUEST, sentence: sentence.to_string() }
    }

    pub(super) fn forbidden(sentence: impl ToString) -> Self {
        Self { status: StatusCode::FORBIDDEN, sentence: sentence.to_string() }
    }

    pub(super) fn not_found(sentence: impl ToString) -> Self {
        Self { status: StatusCode::NOT_FOUND, sentence: sentence.to_string() }
    }

    pub(super) fn method_not_allowed(sentence: impl ToString) -> Self {
        Self { status: StatusCode::METHOD_NOT_ALLOWED, sentence: sentence.to_string() }
    }

    pub(super) fn conflict(sentence: impl ToString) -> Self {
        Self { status: StatusCode::CONFLICT, sentence: sentence.to_string() }
    }

    pub(super) fn invalid_body(error: &serde_json::Error) -> Self {
        Self::bad_request(format!("the body is not what this call takes: {error}"))
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        (self.status, Json(ApiErrorBody { error: self.sentence })).into_response()
    }
}

impl<T: Serialize> IntoResponse for Created<T> {
    fn into_response(self) -> Response {
        (StatusCode::CREATED, Json(self.0)).into_response()
    }
}

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for JsonBody<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        let body = read_body(request, state).await?;
        // An empty body stands for `{}` where every field is optional.
        let empty = if body.is_empty() { serde_json::from_slice(b"{}").ok() } else { None };
        let parsed = empty.map_or_else(|| serde_json::from_slice(&body), Ok);
        parsed.map(JsonBody).map_err(|error| ApiError::invalid_body(&error))
    }
}

impl<S: Send + Sync> FromRequest<S> for EmptyBody {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        let body = read_body(request, state).await?;
        let body = body.trim_ascii();
        if body.is_empty() || body == b"{}" {
            Ok(EmptyBody)
        } else {
            Err(ApiError::bad_request("this call takes no body"))
        }
    }
}

impl FromRequestParts<Worlds> for WorldParam {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, worlds: &Worlds) -> Result<Self, ApiError> {
        match parts.extensions.get::<WorldInPath>() {
            Some(WorldInPath(id)) => Ok(WorldParam(worlds.get(id)?)),
            None => Ok(WorldParam(worlds.demo().clone())),
        }
    }
}

impl From<WorldError> for ApiError {
    fn from(error: WorldError) -> Self {
        match error {
            WorldError::NoSuchWorld(_) => ApiError::not_found(error),
            WorldError::DemoStays
            | WorldError::TooMany
            | WorldError::TooManyPorts
            | WorldError::NoPorts(_)
            | WorldError::Taken { .. } => ApiError::conflict(error),
            WorldError::Name | WorldError::TwoBeginnings | WorldError::Snapshot(_) => ApiError::bad_request(error),
        }
    }
}

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for QueryParams<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let query = Query::from_request_parts(parts, state).await;
        query.map(|Query(query)| QueryParams(query)).map_err(|error| ApiError::bad_request(error.body_text()))
    }
}

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for PathParam<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let path = Path::from_request_parts(parts, state).await;
        path.map(|Path(path)| PathParam(path)).map_err(|error| ApiError::bad_request(error.body_text()))
    }
}

impl<T> From<Value> for JsonOf<T> {
    fn from(value: Value) -> Self {
        Self { value, described_as: PhantomData }
    }
}

impl<T> Serialize for JsonOf<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.value.serialize(serializer)
    }
}

impl<'de, T> Deserialize<'de> for JsonOf<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Value::deserialize(deserializer).map(Self::from)
    }
}

impl<T: JsonSchema> JsonSchema for JsonOf<T> {
    fn inline_schema() -> bool {
        T::inline_schema()
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        T::schema_name()
    }

    fn schema_id() -> std::borrow::Cow<'static, str> {
        T::schema_id()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        T::json_schema(generator)
    }
}

impl ListParams {
    /// This part of a list that is sorted by key.
    pub(super) fn part_of<T>(
        &self,
        all: Vec<T>,
        is_after: impl Fn(&T, &str) -> bool,
    ) -> Result<Json<ListPart<T>>, ApiError> {
        let total = all.len();
        let after = all.into_iter().filter(|entry| self.after.as_deref().is_none_or(|key| is_after(entry, key)));
        let entries = after.take(check_limit(self.limit)?).collect();
        Ok(Json(ListPart { entries, total }))
    }
}

/// The limit of a query, or the default.
pub(super) fn check_limit(limit: Option<usize>) -> Result<usize, ApiError> {
    let limit = limit.unwrap_or(DEFAULT_LIMIT);
    if (1..=MAX_LIMIT).contains(&limit) {
        Ok(limit)
    } else {
        Err(ApiError::bad_request(format!("`limit` is 1 to {MAX_LIMIT}")))
    }
}

/// Parses a body whose key is part of the path: the body may repeat the key, and must not
/// contradict it.
pub(super) fn parse_keyed<T: DeserializeOwned>(body: JsonOf<T>, field: &str, key: Value) -> Result<T, ApiError> {
    let Value::Object(mut fields) = body.value else {
        return Err(ApiError::bad_request("the body must be a JSON object"));
    };
    match fields.get(field) {
        Some(given) if *given != key => {
            return Err(ApiError::bad_request(format!("`{field}` is {given} in the body and {key} in the path")));
        }
        Some(_) => {}
        None => drop(fields.insert(field.to_owned(), key)),
    }
    serde_json::from_value(Value::Object(fields)).map_err(|error| ApiError::invalid_body(&error))
}

async fn read_body<S: Send + Sync>(request: Request, state: &S) -> Result<Bytes, ApiError> {
    let body = Bytes::from_request(request, state).await;
    body.map_err(|error| ApiError { status: error.status(), sentence: error.body_text() })
}
