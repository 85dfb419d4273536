//! The OpenAPI document, generated from the types that the handlers take and answer.
//!
//! ```text
//! handler's arguments -> parameters, request body, 400       (trait Input)
//! handler's result    -> the answer and its status            (trait Output)
//! the route's entry   -> operation id, summary, other errors  (routes.rs)
//! types' doc comments -> descriptions; serde and schemars attributes -> bounds
//! ```
//!
//! Each call about a world appears a second time, under the world's own path.

use std::sync::OnceLock;

use axum::{Json, extract::State};
use bytes::Bytes;
use schemars::{JsonSchema, SchemaGenerator, generate::SchemaSettings};
use serde_json::{Map, Value, json};

use super::{
    extract::{ApiError, Created, EmptyBody, ErrorBody, JsonBody, PathParam, QueryParams, WorldParam},
    routes::{Route, RouteScope, routes},
};
use crate::worlds::Worlds;

/// The schemas of the document. A type that is both taken and answered is described as it is taken:
/// with what may be left out.
struct Schemas {
    taken: SchemaGenerator,
    answered: SchemaGenerator,
}

/// One call's operation while it is put together.
pub(super) struct OperationDoc<'a> {
    path: &'static str,
    answer: &'static str,
    parameters: Vec<Value>,
    body: Option<Value>,
    responses: Map<String, Value>,
    schemas: &'a mut Schemas,
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
        self.answers::<ErrorBody>(400, "The request is not what this call takes; nothing was changed.");
    }
}

/// The whole document.
pub(super) fn bytes() -> Bytes {
    static DOCUMENT: OnceLock<Bytes> = OnceLock::new();
    DOCUMENT.get_or_init(|| document().to_string().into()).clone()
}

fn document() -> Value {
    let settings = SchemaSettings::draft2020_12().with(|settings| {
        settings.definitions_path = "/components/schemas".into();
        settings.meta_schema = None;
    });
    let mut schemas = Schemas {
        taken: settings.clone().for_deserialize().into_generator(),
        answered: settings.for_serialize().into_generator(),
    };
    let mut paths = Map::new();
    for route in routes() {
        let operation = operation(&route, &mut schemas);
        if let (RouteScope::World, Some(call)) = (route.scope, route.path.strip_prefix("/v1")) {
            add(&mut paths, format!("/v1/worlds/{{world}}{call}"), &route, in_a_world(operation.clone()));
        }
        add(&mut paths, route.path.to_owned(), &route, operation);
    }
    let mut components = schemas.answered.take_definitions(false);
    components.extend(schemas.taken.take_definitions(false));
    let mut document = json!({ "paths": paths, "components": { "schemas": components } });
    tidy(&mut document);
    merge(document, head())
}

fn head() -> Value {
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "recoup simulators: control port",
            "version": "1",
            "description": "Put and read what the emulated providers know, see what really happened, arm faults, move \
                            the clock. JSON without a password: keep it on loopback. Unknown fields are refused \
                            everywhere; every refusal is `{\"error\": \"one sentence\"}`.",
            "license": { "name": "Apache-2.0", "identifier": "Apache-2.0" },
        },
        "servers": [{ "url": "http://127.0.0.1:7100" }],
        "security": [],
        "tags": [
            { "name": "simulators", "description": "The process." },
            {
                "name": "worlds",
                "description": "Sets of credentials, each with its own orders, books, journal, faults, clock and settings.",
            },
            { "name": "records", "description": "What really happened, and what was sent and answered." },
            { "name": "faults", "description": "What goes wrong, and where." },
            { "name": "gates", "description": "Where requests wait." },
            { "name": "clock", "description": "The world's time." },
            { "name": "settings", "description": "What the providers' documents leave open." },
            { "name": "sectigo", "description": "Certificates." },
            { "name": "namecom", "description": "Domains." },
            { "name": "debitsuccess", "description": "Direct debit." },
        ],
    })
}

fn operation(route: &Route, schemas: &mut Schemas) -> Value {
    let mut operation = OperationDoc {
        path: route.path,
        answer: route.answer,
        parameters: Vec::new(),
        body: None,
        responses: Map::new(),
        schemas,
    };
    (route.describe)(&mut operation);
    for (status, description) in &route.errors {
        operation.answers::<ErrorBody>(*status, description);
    }
    operation.answers::<ErrorBody>(403, "`Host` is neither loopback nor configured, or `Origin` names another server.");
    let mut fields = json!({
        "operationId": route.operation_id,
        "tags": [route.tag],
        "summary": route.summary,
        "responses": operation.responses,
    });
    if !operation.parameters.is_empty() {
        fields = merge(fields, json!({ "parameters": operation.parameters }));
    }
    if let Some(body) = operation.body {
        fields = merge(fields, json!({ "requestBody": body }));
    }
    fields
}

fn add(paths: &mut Map<String, Value>, path: String, route: &Route, operation: Value) {
    if let Some(methods) = paths.entry(path).or_insert(json!({})).as_object_mut() {
        methods.insert(route.method.to_owned(), operation);
    }
}

/// The same call under a world's own path.
fn in_a_world(mut operation: Value) -> Value {
    let Some(fields) = operation.as_object_mut() else { return operation };
    for (name, more) in [("operationId", "InWorld"), ("summary", " (in one world)")] {
        if let Some(Value::String(text)) = fields.get_mut(name) {
            text.push_str(more);
        }
    }
    let world = parameter("path", "world", true, json!({ "type": "string" }));
    match fields.entry("parameters").or_insert(json!([])) {
        Value::Array(parameters) => parameters.insert(0, world),
        other => *other = json!([world]),
    }
    // Any call about a world can find that there is no such world.
    if let Some(responses) = fields.get_mut("responses").and_then(Value::as_object_mut) {
        let refused = responses.get("403").cloned();
        if let Some(Value::Object(mut refused)) = refused {
            let description = "There is no such world, or no such entry in it.";
            refused.insert("description".to_owned(), description.into());
            responses.entry("404").or_insert(Value::Object(refused));
        }
    }
    operation
}

/// A parameter; a description of its schema becomes its own.
fn parameter(place: &str, name: &str, required: bool, mut schema: Value) -> Value {
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

fn merge(mut into: Value, from: Value) -> Value {
    if let (Value::Object(into), Value::Object(from)) = (&mut into, from) {
        into.extend(from);
    }
    into
}

/// What holds for every schema of the document, wherever it stands:
///
/// - objects have no other fields than those described;
/// - a field marked `x-optional` (the path or the server gives it) or `writeOnly` (a secret, which
///   is kept where it is left out and never shown) is not required;
/// - descriptions have no line breaks and no links to Rust items;
/// - formats that only Rust knows are dropped, and so are defaults that are no single value.
fn tidy(value: &mut Value) {
    match value {
        Value::Array(values) => values.iter_mut().for_each(tidy),
        Value::Object(fields) => {
            if let Some(Value::String(text)) = fields.get_mut("description") {
                *text = without_rust(&text.replace('\n', " "));
            }
            let is_rust_only = |format: &str| format.starts_with("uint") || format == "int16";
            if fields.get("format").and_then(Value::as_str).is_some_and(is_rust_only) {
                fields.remove("format");
            }
            if fields.get("default").is_some_and(|default| default.is_object() || default.is_null()) {
                fields.remove("default");
            }
            if let Some(Value::Object(properties)) = fields.remove("properties") {
                let (properties, optional) = tidy_properties(properties);
                if let Some(Value::Array(required)) = fields.get_mut("required") {
                    required.retain(|name| !optional.iter().any(|optional| name == optional));
                }
                if fields.get("required") == Some(&json!([])) {
                    fields.remove("required");
                }
                fields.entry("additionalProperties").or_insert(false.into());
                fields.values_mut().for_each(tidy);
                fields.insert("properties".to_owned(), properties.into());
            } else {
                fields.values_mut().for_each(tidy);
            }
        }
        _ => {}
    }
}

/// A description without links, in which a variant has its name in JSON.
fn without_rust(text: &str) -> String {
    let in_json = |(index, part): (usize, &str)| match part.rsplit_once("::") {
        Some((_, variant)) if index % 2 == 1 => snake_case(variant),
        _ => part.to_owned(),
    };
    let text = text.replace("[`", "`").replace("`]", "`");
    text.split('`').enumerate().map(in_json).collect::<Vec<String>>().join("`")
}

fn snake_case(variant: &str) -> String {
    let mut name = String::new();
    for letter in variant.chars() {
        if letter.is_ascii_uppercase() && !name.is_empty() {
            name.push('_');
        }
        name.push(letter.to_ascii_lowercase());
    }
    name
}

/// Tidies each, and returns the names of those that are not required.
fn tidy_properties(mut properties: Map<String, Value>) -> (Map<String, Value>, Vec<String>) {
    let mut optional = Vec::new();
    for (name, schema) in &mut properties {
        let marked = schema.as_object_mut().and_then(|schema| schema.remove("x-optional"));
        if marked.is_some() || schema["writeOnly"] == true {
            optional.push(name.clone());
        }
        tidy(schema);
    }
    (properties, optional)
}
