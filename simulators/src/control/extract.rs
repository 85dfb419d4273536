//! What comes in at the control port, read strictly, and how a refusal looks.

use axum::{
    Json,
    extract::{FromRequest, FromRequestParts, Path, Query, Request},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use http::{StatusCode, request::Parts};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

use crate::worlds::{WorldError, WorldRef, Worlds};

/// A refusal: a status and one sentence.
#[derive(Debug)]
pub(super) struct Refused {
    status: StatusCode,
    sentence: String,
}

/// A JSON body. The content type does not matter: `curl -d` is meant to be enough.
pub(super) struct Body<T>(pub(super) T);

/// A body that must be empty or `{}`.
pub(super) struct NoBody;

/// The world that a call is about: the one in its path, or else the demo world.
pub(super) struct Of(pub(super) WorldRef);

/// The id of a world, as it stood in the path before the router saw it.
#[derive(Debug, Clone)]
pub(super) struct WorldInPath(pub(super) String);

/// The query.
pub(super) struct Asked<T>(pub(super) T);

/// The variable parts of the path.
pub(super) struct Named<T>(pub(super) T);

/// Which part of a long list.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Page {
    pub(super) after: Option<String>,
    limit: Option<usize>,
}

/// A part of a list, and how long the whole is.
#[derive(Serialize)]
struct Listed<T> {
    entries: Vec<T>,
    total: usize,
}

/// What a list shows where nothing is said.
pub(super) const USUAL_LIMIT: usize = 100;
/// What a list shows at most.
pub(super) const MAX_LIMIT: usize = 10_000;

impl Refused {
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
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        (self.status, Json(json!({ "error": self.sentence }))).into_response()
    }
}

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Body<T> {
    type Rejection = Refused;

    async fn from_request(request: Request, state: &S) -> Result<Self, Refused> {
        let body = whole(request, state).await?;
        // A call all of whose parts may be left out may leave out the body as well.
        let nothing = if body.is_empty() { serde_json::from_slice(b"{}").ok() } else { None };
        let read = nothing.map_or_else(|| serde_json::from_slice(&body), Ok);
        read.map(Body).map_err(|error| Refused::bad_request(format!("the body is not what this call takes: {error}")))
    }
}

impl<S: Send + Sync> FromRequest<S> for NoBody {
    type Rejection = Refused;

    async fn from_request(request: Request, state: &S) -> Result<Self, Refused> {
        let body = whole(request, state).await?;
        let body = body.trim_ascii();
        if body.is_empty() || body == b"{}" { Ok(NoBody) } else { Err(Refused::bad_request("this call takes no body")) }
    }
}

impl FromRequestParts<Worlds> for Of {
    type Rejection = Refused;

    async fn from_request_parts(parts: &mut Parts, worlds: &Worlds) -> Result<Self, Refused> {
        match parts.extensions.get::<WorldInPath>() {
            Some(WorldInPath(id)) => Ok(Of(worlds.get(id)?)),
            None => Ok(Of(worlds.demo().clone())),
        }
    }
}

impl From<WorldError> for Refused {
    fn from(error: WorldError) -> Self {
        match error {
            WorldError::NoSuchWorld(_) => Refused::not_found(error),
            WorldError::DemoStays
            | WorldError::TooMany
            | WorldError::TooManyPorts
            | WorldError::NoPorts(_)
            | WorldError::Taken { .. } => Refused::conflict(error),
            WorldError::Name | WorldError::TwoBeginnings | WorldError::Snapshot(_) => Refused::bad_request(error),
        }
    }
}

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Asked<T> {
    type Rejection = Refused;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refused> {
        let query = Query::from_request_parts(parts, state).await;
        query.map(|Query(query)| Asked(query)).map_err(|error| Refused::bad_request(error.body_text()))
    }
}

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for Named<T> {
    type Rejection = Refused;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refused> {
        let path = Path::from_request_parts(parts, state).await;
        path.map(|Path(path)| Named(path)).map_err(|error| Refused::bad_request(error.body_text()))
    }
}

impl Page {
    /// This part of a list that is sorted by its keys.
    pub(super) fn of<T: Serialize>(
        &self,
        all: Vec<T>,
        is_after: impl Fn(&T, &str) -> bool,
    ) -> Result<Response, Refused> {
        let total = all.len();
        let wanted = all.into_iter().filter(|entry| self.after.as_deref().is_none_or(|key| is_after(entry, key)));
        let entries = wanted.take(limit(self.limit)?).collect();
        Ok(Json(Listed { entries, total }).into_response())
    }
}

/// How many to show.
pub(super) fn limit(asked: Option<usize>) -> Result<usize, Refused> {
    let limit = asked.unwrap_or(USUAL_LIMIT);
    if (1..=MAX_LIMIT).contains(&limit) {
        Ok(limit)
    } else {
        Err(Refused::bad_request(format!("`limit` is 1 to {MAX_LIMIT}")))
    }
}

/// A body whose key stands in the path: it may repeat the key, and may not contradict it.
pub(super) fn keyed<T: DeserializeOwned>(body: Value, field: &str, key: Value) -> Result<T, Refused> {
    let Value::Object(mut fields) = body else { return Err(Refused::bad_request("the body must be a JSON object")) };
    match fields.get(field) {
        Some(given) if *given != key => {
            return Err(Refused::bad_request(format!("`{field}` is {given} in the body and {key} in the path")));
        }
        Some(_) => {}
        None => drop(fields.insert(field.to_owned(), key)),
    }
    let read = serde_json::from_value(Value::Object(fields));
    read.map_err(|error| Refused::bad_request(format!("the body is not what this call takes: {error}")))
}

async fn whole<S: Send + Sync>(request: Request, state: &S) -> Result<Bytes, Refused> {
    let body = Bytes::from_request(request, state).await;
    body.map_err(|error| Refused { status: error.status(), sentence: error.body_text() })
}
