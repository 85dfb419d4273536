//! The part of JSON Schema that the OpenAPI document uses. A keyword that is not implemented here
//! fails the test.

use serde_json::Value;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

/// Checks a value against its schema; an error names the place. Fields that the schema does not
/// describe are errors.
pub(crate) fn check(document: &Value, schema: &Value, value: &Value) -> Result<(), String> {
    let Some(keywords) = schema.as_object() else { return Err(format!("{schema} is not a schema")) };
    for (word, wanted) in keywords {
        let fits = match word.as_str() {
            "$ref" => {
                let target = document.pointer(wanted.as_str().unwrap().strip_prefix('#').unwrap()).unwrap();
                check(document, target, value)?;
                true
            }
            "type" => match wanted {
                Value::Array(types) => types.iter().any(|wanted| is_a(wanted, value)),
                wanted => is_a(wanted, value),
            },
            "const" => wanted == value,
            "enum" => wanted.as_array().unwrap().contains(value),
            "oneOf" => {
                let ways = wanted.as_array().unwrap();
                ways.iter().filter(|way| check(document, way, value).is_ok()).count() == 1
            }
            "anyOf" => wanted.as_array().unwrap().iter().any(|choice| check(document, choice, value).is_ok()),
            "minimum" => number(value).is_none_or(|number| number >= wanted.as_f64().unwrap()),
            "maximum" => number(value).is_none_or(|number| number <= wanted.as_f64().unwrap()),
            "minLength" => length(value).is_none_or(|length| length >= wanted.as_u64().unwrap()),
            "maxLength" => length(value).is_none_or(|length| length <= wanted.as_u64().unwrap()),
            "minItems" => value.as_array().is_none_or(|items| items.len() as u64 >= wanted.as_u64().unwrap()),
            "maxItems" => value.as_array().is_none_or(|items| items.len() as u64 <= wanted.as_u64().unwrap()),
            "format" => match (wanted.as_str().unwrap(), value.as_str()) {
                ("date-time", Some(text)) => OffsetDateTime::parse(text, &Rfc3339).is_ok(),
                ("date-time" | "int32" | "int64" | "double" | "password", _) => true,
                (format, _) => return Err(format!("the format {format} is not implemented here")),
            },
            "items" => {
                for (index, item) in value.as_array().into_iter().flatten().enumerate() {
                    check(document, wanted, item).map_err(|wrong| format!("[{index}]{wrong}"))?;
                }
                true
            }
            "prefixItems" => {
                let items = value.as_array().into_iter().flatten().zip(wanted.as_array().unwrap());
                for (index, (item, wanted)) in items.enumerate() {
                    check(document, wanted, item).map_err(|wrong| format!("[{index}]{wrong}"))?;
                }
                true
            }
            "required" => value.as_object().is_none_or(|fields| {
                wanted.as_array().unwrap().iter().all(|name| fields.contains_key(name.as_str().unwrap()))
            }),
            "properties" | "additionalProperties" => true,
            "description" | "default" | "writeOnly" | "title" | "examples" => true,
            word => return Err(format!(": `{word}` is not implemented here")),
        };
        if !fits {
            return Err(format!(": {value} does not fit {word} {wanted}"));
        }
    }
    fields(document, schema, value)
}

fn fields(document: &Value, schema: &Value, value: &Value) -> Result<(), String> {
    let (named, others) = (schema["properties"].as_object(), &schema["additionalProperties"]);
    let Some(fields) = value.as_object() else { return Ok(()) };
    for (name, field) in fields {
        match (named.and_then(|named| named.get(name)), others) {
            (Some(schema), _) => check(document, schema, field).map_err(|wrong| format!(".{name}{wrong}"))?,
            (None, Value::Object(_)) => check(document, others, field).map_err(|wrong| format!(".{name}{wrong}"))?,
            (None, Value::Bool(true)) => {}
            // An object schema without fields allows any field.
            (None, Value::Null) if named.is_none() => {}
            (None, _) => return Err(format!(".{name} is not documented")),
        }
    }
    Ok(())
}

fn is_a(wanted: &Value, value: &Value) -> bool {
    match wanted.as_str().unwrap() {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "string" => value.is_string(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        other => panic!("{other} is not a type"),
    }
}

fn number(value: &Value) -> Option<f64> {
    value.as_f64()
}

fn length(value: &Value) -> Option<u64> {
    value.as_str().map(|text| text.chars().count() as u64)
}
