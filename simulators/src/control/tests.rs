//! The OpenAPI document against the routes.

use std::collections::BTreeSet;

use serde_json::Value;

use super::*;

fn document() -> Value {
    openapi::document(&routes())
}

fn operations(document: &Value) -> Vec<(String, String, Value)> {
    let paths = document["paths"].as_object().unwrap();
    let operations = paths.iter().flat_map(|(path, methods)| {
        methods.as_object().unwrap().iter().map(|(method, operation)| (method.clone(), path.clone(), operation.clone()))
    });
    operations.collect()
}

/// Collects every value of a key, at any depth.
fn find_all<'a>(value: &'a Value, key: &str, found: &mut Vec<&'a Value>) {
    match value {
        Value::Object(fields) => fields.iter().for_each(|(name, field)| {
            if name == key {
                found.push(field);
            }
            find_all(field, key, found);
        }),
        Value::Array(entries) => entries.iter().for_each(|entry| find_all(entry, key, found)),
        _ => {}
    }
}

#[test]
fn every_route_is_documented_and_every_documented_call_has_a_route() {
    let document = document();
    let documented: BTreeSet<_> = operations(&document).into_iter().map(|(method, path, _)| (method, path)).collect();
    let served = routes().into_iter().flat_map(|route| {
        let in_world = route.path.strip_prefix("/v1").filter(|_| route.scope == RouteScope::World);
        let in_world = in_world.map(|call| format!("/v1/worlds/{{world}}{call}"));
        let paths = std::iter::once(route.path.to_owned()).chain(in_world);
        paths.map(move |path| (route.method.to_owned(), path))
    });
    let served: BTreeSet<_> = served.collect();
    assert_eq!(documented, served);
}

#[test]
fn every_operation_is_documented_completely() {
    let document = document();
    assert_eq!(document["openapi"], "3.1.0");
    let mut names = BTreeSet::new();
    for (method, path, operation) in operations(&document) {
        assert!(!operation["summary"].as_str().unwrap().is_empty(), "{method} {path}");
        assert!(names.insert(operation["operationId"].as_str().unwrap().to_owned()), "{method} {path}");
        let parameters = operation["parameters"].as_array().cloned().unwrap_or_default();
        // A path parameter that must be a number can be invalid.
        let is_number = |parameter: &Value| parameter["in"] == "path" && parameter["schema"]["type"] == "integer";
        let documents_400 = !parameters.iter().any(is_number) || operation["responses"]["400"].is_object();
        assert!(documents_400, "{method} {path}");
        let named: BTreeSet<_> = parameters
            .iter()
            .filter(|parameter| parameter["in"] == "path")
            .map(|parameter| parameter["name"].as_str().unwrap().to_owned())
            .collect();
        let in_path: BTreeSet<_> =
            path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}')).map(str::to_owned).collect();
        assert_eq!(named, in_path, "{method} {path}");
        assert!(operation["responses"].as_object().unwrap().keys().any(|status| status.starts_with('2')));
    }
}

#[test]
fn every_reference_has_its_schema_and_every_schema_is_used() {
    let document = document();
    let mut references = Vec::new();
    find_all(&document, "$ref", &mut references);
    let used: BTreeSet<_> = references
        .iter()
        .map(|reference| reference.as_str().unwrap().strip_prefix("#/components/schemas/").unwrap().to_owned())
        .collect();
    let defined: BTreeSet<_> = document["components"]["schemas"].as_object().unwrap().keys().cloned().collect();
    assert_eq!(used, defined);
}

#[test]
fn every_schema_has_its_own_name_and_no_internal_mark() {
    let document = document();
    for name in document["components"]["schemas"].as_object().unwrap().keys() {
        // A second type of the same name would get a number.
        assert!(!name.ends_with(|last: char| last.is_ascii_digit()), "{name}");
    }
    let mut marks = Vec::new();
    find_all(&document, "x-optional", &mut marks);
    assert!(marks.is_empty());
}

#[test]
fn secrets_and_keys_of_the_path_are_optional_and_passwords_are_write_only() {
    let schemas = &document()["components"]["schemas"];
    let account = &schemas["SectigoAccount"];
    assert_eq!(account["required"], Value::Null);
    assert_eq!(account["properties"]["password"]["writeOnly"], true);
    assert_eq!(schemas["NamecomOrder"]["required"], serde_json::json!(["items"]));
    assert_eq!(schemas["Random"]["required"], serde_json::json!(["share"]));
    assert_eq!(schemas["Claim"]["required"], serde_json::json!(["provider", "target"]));
}
