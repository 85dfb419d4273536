//! The OpenAPI operation of one call, described by the types of its handler.
//!
//! ```text
//! handler's arguments -> parameters, request body, 400    (trait Input)
//! handler's result    -> the answer and its status        (trait Output)
//! ```

use axum::{Json, extract::State};
use schemars::{JsonSchema, SchemaGenerator};
use serde_json::{Map, Value, json};

use super::extract::{ApiError, ApiErrorBody, Created, EmptyBody, JsonBody, PathParam, QueryParams, WorldParam};
use crate::worlds::Worlds;

/// The schemas of the document. A type that is both taken and answered is described as it is taken:
/// with what may be left out.
pub(super) struct Schemas {
    pub(super) taken: SchemaGenerator,
    pub(super) answered: SchemaGenerator,
}

/// One call's operation while it is put together.
pub(super) struct OperationDoc<'a> {
    pub(super) path: &'static str,
    pub(super) answer: &'static str,
    pub(super) parameters: Vec<Value>,
    pub(super) body: Option<Value>,
    pub(super) responses: Map<String, Value>,
    pub(super) schemas: &'a mut Schemas,
}

/// An argument of a handler. The default is for one that the document does not show.
pub(super) trait Input {
    fn describe(_operation: &mut OperationDoc<'_>) {}
}

/// A result of a handler.
pub(super) trait Output {
    fn describe(operation: &mut OperationDoc<'_>);
}

/// A handler whose arguments and result describe themselves. `Args` distinguishes the
/// implementations for different numbers of arguments.
pub(super) trait Documented<Args> {
    fn describe(operation: &mut OperationDoc<'_>);
}

macro_rules! documented {
    ($($argument:ident),*) => {
        impl<F, Fut, O, $($argument),*> Documented<($($argument,)*)> for F
        where
            F: Fn($($argument),*) -> Fut,
            Fut: Future<Output = O>,
            O: Output,
            $($argument: Input,)*
        {
            fn describe(operation: &mut OperationDoc<'_>) {
                $($argument::describe(operation);)*
                O::describe(operation);
            }
        }
    };
}

documented!();
documented!(A);
documented!(A, B);
documented!(A, B, C);
documented!(A, B, C, D);

impl Input for WorldParam {}

impl Input for State<Worlds> {}

impl Input for EmptyBody {
    fn describe(operation: &mut OperationDoc<'_>) {
        operation.can_be_malformed();
    }
}

impl<T: JsonSchema> Input for JsonBody<T> {
    fn describe(operation: &mut OperationDoc<'_>) {
        let schema = operation.schemas.taken.subschema_for::<T>().to_value();
        // A body all of whose fields are optional may be left out as a whole.
        let required = T::json_schema(&mut operation.schemas.taken).get("required").is_some();
        operation.body = Some(json!({ "required": required, "content": { "application/json": { "schema": schema } } }));
        operation.can_be_malformed();
    }
}

impl<T: JsonSchema> Input for PathParam<T> {
    fn describe(operation: &mut OperationDoc<'_>) {
        let names = operation.path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'));
        let schema = T::json_schema(&mut operation.schemas.taken).to_value();
        // Several variable parts are a tuple.
        let schemas = match schema.get("prefixItems").and_then(Value::as_array) {
            Some(parts) => parts.clone(),
            None => vec![schema],
        };
        let parameters: Vec<Value> =
            names.zip(schemas).map(|(name, schema)| parameter("path", name, true, schema)).collect();
        operation.parameters.extend(parameters);
        operation.can_be_malformed();
    }
}

impl<T: JsonSchema> Input for QueryParams<T> {
    fn describe(operation: &mut OperationDoc<'_>) {
        let schema = T::json_schema(&mut operation.schemas.taken);
        let properties = schema.get("properties").and_then(Value::as_object).cloned().unwrap_or_default();
        let parameters =
            properties.into_iter().map(|(name, schema)| parameter("query", &name, false, not_null(schema)));
        operation.parameters.extend(parameters);
        operation.can_be_malformed();
    }
}

impl<T: JsonSchema> Output for Json<T> {
    fn describe(operation: &mut OperationDoc<'_>) {
        operation.answers::<T>(200, operation.answer);
    }
}

impl<T: JsonSchema> Output for Created<T> {
    fn describe(operation: &mut OperationDoc<'_>) {
        operation.answers::<T>(201, operation.answer);
    }
}

impl<O: Output> Output for Result<O, ApiError> {
    fn describe(operation: &mut OperationDoc<'_>) {
        O::describe(operation);
    }
}

impl OperationDoc<'_> {
    /// An answer in JSON.
    pub(super) fn answers<T: JsonSchema>(&mut self, status: u16, description: &str) {
        let schema = self.schemas.answered.subschema_for::<T>().to_value();
        self.insert(status, description, "application/json", &schema);
    }

    /// The answer that the route's entry describes, of any content type.
    pub(super) fn answers_with(&mut self, status: u16, content_type: &str, schema: &Value) {
        self.insert(status, self.answer, content_type, schema);
    }

    fn insert(&mut self, status: u16, description: &str, content_type: &str, schema: &Value) {
        let response = json!({ "description": description, "content": { content_type: { "schema": schema } } });
        self.responses.insert(status.to_string(), response);
    }

    fn can_be_malformed(&mut self) {
        self.answers::<ApiErrorBody>(400, "The request is not what this call takes; nothing was changed.");
    }
}

/// A parameter; a description of its schema becomes its own.
pub(super) fn parameter(place: &str, name: &str, required: bool, mut schema: Value) -> Value {
    let own = schema.as_object_mut().and_then(|schema| schema.remove("description"));
    let description = match name {
        "world" => Some(json!("The id of a world, as `POST /v1/worlds` gave it; `demo` is the demo world.")),
        _ => own,
    };
    let mut parameter = json!({ "name": name, "in": place, "schema": schema });
    if required {
        parameter = merge(parameter, json!({ "required": true }));
    }
    match description {
        Some(description) => merge(parameter, json!({ "description": description })),
        None => parameter,
    }
}

/// A schema without `null`: a parameter of the query has a value, or is left out.
fn not_null(mut schema: Value) -> Value {
    let Some(fields) = schema.as_object_mut() else { return schema };
    if let Some(types) = fields.get("type").and_then(Value::as_array) {
        let others: Vec<Value> = types.iter().filter(|one| **one != "null").cloned().collect();
        if let [only] = others.as_slice() {
            fields.insert("type".to_owned(), only.clone());
        }
    }
    if let Some(Value::Array(choices)) = fields.remove("anyOf") {
        let other = choices.into_iter().find(|choice| choice["type"] != "null");
        return merge(schema, other.unwrap_or_default());
    }
    schema
}

pub(super) fn merge(mut into: Value, from: Value) -> Value {
    if let (Value::Object(into), Value::Object(from)) = (&mut into, from) {
        into.extend(from);
    }
    into
}
