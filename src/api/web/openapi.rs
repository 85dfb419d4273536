//! `GET /openapi.json`: the calls of the JSON endpoint as an OpenAPI 3.1 document, from the
//! contract's descriptors and comments.
//!
//! A stream has no form in OpenAPI: its operation describes the message of one envelope.

use std::collections::BTreeSet;

use prost_reflect::{
    EnumDescriptor, FieldDescriptor, FileDescriptor, Kind, MessageDescriptor, MethodDescriptor, ServiceDescriptor,
};
use serde_json::{Map, Value, json};

use super::contract::Contract;

const CALLS: &str = "Each call is a POST with the JSON form of its message. A repeated CreateRefund with the same \
                     refund_id is safe. Errors have a reason in `details`: see google.rpc.ErrorInfo.";
const STREAM: &str = "A stream of the Connect protocol: request and response are envelopes of one byte of flags, \
                      four bytes of length and a message. The last envelope has the flag 2 and the stream's end.";

/// The document.
pub(super) fn document(contract: &Contract) -> Value {
    let mut paths = Map::new();
    let mut schemas = Schemas::default();
    for service in contract.services() {
        // A stream of requests has no form here at all.
        for method in service.methods().filter(|method| !method.is_client_streaming()) {
            let path = format!("/{}/{}", service.full_name(), method.name());
            paths.insert(path, json!({"post": operation(&service, &method, &mut schemas)}));
        }
    }
    schemas.add_referenced();
    let mut components = schemas.done;
    components.insert("Error".to_owned(), error_schema());
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "recoup",
            "version": env!("CARGO_PKG_VERSION"),
            "description": CALLS,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "security": [{"bearer": []}],
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer", "description": "A token of `recoup token new`."},
            },
        },
    })
}

fn operation(service: &ServiceDescriptor, method: &MethodDescriptor, schemas: &mut Schemas) -> Value {
    let is_stream = method.is_server_streaming();
    let media_type = if is_stream { "application/connect+json" } else { "application/json" };
    let content = |schema: Value| json!({media_type: {"schema": schema}});
    let comment = comment(&method.parent_file(), method.path());
    let description = if is_stream { format!("{comment} {STREAM}") } else { comment };
    json!({
        "operationId": format!("{}_{}", service.name(), method.name()),
        "tags": [service.name()],
        "summary": method.name(),
        "description": description,
        "requestBody": {"required": true, "content": content(schemas.reference(&method.input()))},
        "responses": {
            "200": {"description": "The response.", "content": content(schemas.reference(&method.output()))},
            "default": {
                "description": "The call has failed.",
                "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}},
            },
        },
    })
}

fn error_schema() -> Value {
    json!({
        "type": "object",
        "description": "An error of the Connect protocol. One with a google.rpc.ErrorInfo says that this call \
                        recorded nothing and sent nothing.",
        "required": ["code"],
        "properties": {
            "code": {"type": "string", "description": "The code of gRPC in lower case, such as already_exists."},
            "message": {"type": "string", "description": "One sentence for a person."},
            "details": {
                "type": "array",
                "items": {
                    "type": "object",
                    "required": ["type", "value"],
                    "properties": {
                        "type": {"type": "string", "description": "Such as google.rpc.ErrorInfo."},
                        "value": {"type": "string", "description": "The protobuf message as base64, unpadded."},
                        "debug": {"type": "object", "description": "The same message as JSON."},
                    },
                },
            },
        },
    })
}

/// The schemas of messages and enums that the document refers to.
#[derive(Default)]
struct Schemas {
    done: Map<String, Value>,
    known: BTreeSet<String>,
    messages: Vec<MessageDescriptor>,
    enums: Vec<EnumDescriptor>,
}

impl Schemas {
    fn reference(&mut self, message: &MessageDescriptor) -> Value {
        if let Some(schema) = well_known(message.full_name()) {
            return schema;
        }
        if self.known.insert(message.full_name().to_owned()) {
            self.messages.push(message.clone());
        }
        json!({"$ref": format!("#/components/schemas/{}", message.full_name())})
    }

    fn enum_reference(&mut self, of: &EnumDescriptor) -> Value {
        if self.known.insert(of.full_name().to_owned()) {
            self.enums.push(of.clone());
        }
        json!({"$ref": format!("#/components/schemas/{}", of.full_name())})
    }

    fn add_referenced(&mut self) {
        while let Some(message) = self.messages.pop() {
            let schema = self.schema(&message);
            self.done.insert(message.full_name().to_owned(), schema);
        }
        for of in std::mem::take(&mut self.enums) {
            let values: Vec<String> = of.values().map(|value| value.name().to_owned()).collect();
            let description = comment(&of.parent_file(), of.path());
            let schema = json!({"type": "string", "enum": values, "description": description});
            self.done.insert(of.full_name().to_owned(), schema);
        }
    }

    fn schema(&mut self, message: &MessageDescriptor) -> Value {
        let mut properties = Map::new();
        for field in message.fields() {
            properties.insert(field.json_name().to_owned(), self.property(&field));
        }
        json!({
            "type": "object",
            "description": comment(&message.parent_file(), message.path()),
            "properties": properties,
            "additionalProperties": false,
        })
    }

    fn property(&mut self, field: &FieldDescriptor) -> Value {
        let mut schema = if let Kind::Message(entry) = field.kind()
            && field.is_map()
        {
            json!({"type": "object", "additionalProperties": self.value(&entry.map_entry_value_field())})
        } else if field.is_list() {
            json!({"type": "array", "items": self.value(field)})
        } else {
            self.value(field)
        };
        let mut description = comment(&field.parent_file(), field.path());
        if let Some(oneof) = field.containing_oneof().filter(|oneof| oneof.fields().len() > 1) {
            let others: Vec<String> = oneof.fields().map(|other| other.json_name().to_owned()).collect();
            description = format!("{description} At most one of {} is set.", others.join(", "));
        }
        if let Some(fields) = schema.as_object_mut().filter(|_| !description.is_empty()) {
            fields.insert("description".to_owned(), json!(description));
        }
        schema
    }

    /// One value of a field, in its JSON form.
    fn value(&mut self, field: &FieldDescriptor) -> Value {
        match field.kind() {
            Kind::Message(message) => self.reference(&message),
            Kind::Enum(of) => self.enum_reference(&of),
            Kind::String => json!({"type": "string"}),
            Kind::Bytes => json!({"type": "string", "contentEncoding": "base64"}),
            Kind::Bool => json!({"type": "boolean"}),
            Kind::Double | Kind::Float => json!({"type": "number"}),
            Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => json!({"type": "integer", "format": "int32"}),
            Kind::Uint32 | Kind::Fixed32 => json!({"type": "integer", "minimum": 0}),
            // Numbers of 64 bits are text in JSON, and both are read.
            Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => json!({"type": ["string", "integer"], "format": "int64"}),
            Kind::Uint64 | Kind::Fixed64 => json!({"type": ["string", "integer"], "format": "uint64"}),
        }
    }
}

/// Types with a JSON form of their own.
fn well_known(name: &str) -> Option<Value> {
    match name {
        "google.protobuf.Timestamp" => Some(json!({"type": "string", "format": "date-time"})),
        "google.protobuf.Duration" => Some(json!({"type": "string", "pattern": r"^-?[0-9]+(\.[0-9]{1,9})?s$"})),
        "google.protobuf.Any" => Some(json!({"type": "object"})),
        _ => None,
    }
}

/// The comment before an element of a file, in one line.
fn comment(file: &FileDescriptor, path: &[i32]) -> String {
    let info = file.file_descriptor_proto().source_code_info.as_ref();
    let locations = info.map(|info| info.location.as_slice()).unwrap_or_default();
    let location = locations.iter().find(|location| location.path == path);
    let text = location.and_then(|location| location.leading_comments.as_deref()).unwrap_or_default();
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_call_is_described_with_its_comment() {
        let contract = Contract::new().unwrap();
        let document = document(&contract);
        for method in contract.services().flat_map(|service| service.methods().collect::<Vec<_>>()) {
            let path = format!("/{}/{}", method.parent_service().full_name(), method.name());
            let operation = &document["paths"][&path]["post"];
            let description = operation["description"].as_str().unwrap_or_else(|| panic!("{path} is missing"));
            assert!(!description.is_empty() || path.starts_with("/grpc."), "{path} has no comment");
        }
        let refund = &document["components"]["schemas"]["recoup.v1.Refund"]["properties"];
        assert_eq!(refund["refundId"]["type"], "string");
        assert_eq!(refund["state"]["$ref"], "#/components/schemas/recoup.v1.Refund.State");
        assert_eq!(refund["createTime"]["format"], "date-time");
        let create = &document["components"]["schemas"]["recoup.v1.CreateRefundRequest"]["properties"];
        assert!(
            create["sectigo"]["description"]
                .as_str()
                .unwrap()
                .ends_with("At most one of sectigo, namecom, debitsuccess is set.")
        );
    }

    /// Every reference has its schema.
    #[test]
    fn no_reference_is_dangling() {
        let document = document(&Contract::new().unwrap());
        let text = document.to_string();
        for name in text.split("#/components/schemas/").skip(1).filter_map(|rest| rest.split('"').next()) {
            assert!(document["components"]["schemas"].get(name).is_some(), "{name}");
        }
    }

    #[test]
    fn it_is_the_same_each_time() {
        let contract = Contract::new().unwrap();
        assert_eq!(document(&contract).to_string(), document(&contract).to_string());
    }
}
