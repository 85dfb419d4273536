//! The OpenAPI document, generated from the types that the handlers take and answer.
//!
//! ```text
//! handler's types     -> parameters, bodies, statuses         (operation.rs)
//! the route's entry   -> operation id, summary, other errors  (route.rs)
//! types' doc comments -> descriptions; serde and schemars attributes -> bounds
//! ```
//!
//! Each call about a world appears a second time, under the world's own path.

use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

use super::{
    extract::ApiErrorBody,
    operation::{OperationDoc, Schemas, merge, parameter},
    route::{Route, RouteScope},
};

/// The document of these calls.
pub(super) fn document(routes: &[Route]) -> Value {
    let settings = SchemaSettings::draft2020_12().with(|settings| {
        settings.definitions_path = "/components/schemas".into();
        settings.meta_schema = None;
    });
    let mut schemas = Schemas {
        taken: settings.clone().for_deserialize().into_generator(),
        answered: settings.for_serialize().into_generator(),
    };
    let mut paths = Map::new();
    for route in routes {
        let operation = operation(route, &mut schemas);
        if let (RouteScope::World, Some(call)) = (route.scope, route.path.strip_prefix("/v1")) {
            add(&mut paths, format!("/v1/worlds/{{world}}{call}"), route, in_a_world(operation.clone()));
        }
        add(&mut paths, route.path.to_owned(), route, operation);
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
        operation.answers::<ApiErrorBody>(*status, description);
    }
    operation
        .answers::<ApiErrorBody>(403, "`Host` is neither loopback nor configured, or `Origin` names another server.");
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
