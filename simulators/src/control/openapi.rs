//! The OpenAPI document as it is served: `openapi.json`, and each call about a world a second time,
//! under the world's own path.

use std::sync::OnceLock;

use bytes::Bytes;
use serde_json::{Map, Value, json};

use super::{About, routes};

const WRITTEN: &str = include_str!("openapi.json");

/// The whole document.
pub(super) fn bytes() -> Bytes {
    static DOCUMENT: OnceLock<Bytes> = OnceLock::new();
    DOCUMENT.get_or_init(|| document().to_string().into()).clone()
}

fn document() -> Value {
    let mut document: Value = serde_json::from_str(WRITTEN).unwrap_or_default();
    let Some(paths) = document.get_mut("paths").and_then(Value::as_object_mut) else { return document };
    let foreign = json!({
        "description": "`Host` is neither loopback nor configured, or `Origin` is another server's.",
        "content": { "application/json": { "schema": { "$ref": "#/components/schemas/Error" } } }
    });
    let operations = paths.values_mut().filter_map(Value::as_object_mut).flat_map(Map::values_mut);
    for responses in operations.filter_map(|operation| operation.get_mut("responses")?.as_object_mut()) {
        responses.insert("403".to_owned(), foreign.clone());
    }
    for route in routes().into_iter().filter(|route| route.about == About::World) {
        let Some(call) = route.path.strip_prefix("/v1") else { continue };
        let Some(written) = paths.get(route.path).and_then(|methods| methods.get(route.method)) else { continue };
        let copy = in_a_world(written.clone());
        let methods = paths.entry(format!("/v1/worlds/{{world}}{call}")).or_insert(json!({}));
        if let Some(methods) = methods.as_object_mut() {
            methods.insert(route.method.to_owned(), copy);
        }
    }
    document
}

fn in_a_world(mut operation: Value) -> Value {
    let Some(fields) = operation.as_object_mut() else { return operation };
    for (name, more) in [("operationId", "InWorld"), ("summary", " (in one world)")] {
        if let Some(Value::String(text)) = fields.get_mut(name) {
            text.push_str(more);
        }
    }
    let world = json!({
        "name": "world", "in": "path", "required": true, "schema": { "type": "string" },
        "description": "The id of a world, as `POST /v1/worlds` gave it; `demo` is the demo world."
    });
    match fields.entry("parameters").or_insert(json!([])) {
        Value::Array(parameters) => parameters.insert(0, world),
        other => *other = json!([world]),
    }
    // A world that is not there is not found, whatever else the call says.
    if let Some(responses) = fields.get_mut("responses").and_then(Value::as_object_mut) {
        let refused = responses.get("400").or_else(|| responses.get("default")).cloned();
        if let Some(Value::Object(mut refused)) = refused {
            refused.insert("description".to_owned(), "There is no such world, or not what was asked for in it.".into());
            responses.entry("404").or_insert(Value::Object(refused));
        }
    }
    operation
}
