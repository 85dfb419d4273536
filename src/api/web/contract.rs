//! The contract's methods and messages at run time: protobuf as JSON, and back.

use std::sync::Arc;

use bytes::Bytes;
use prost::Message as _;
use prost_reflect::{
    DescriptorPool, DeserializeOptions, DynamicMessage, Kind, MessageDescriptor, MethodDescriptor, ServiceDescriptor,
};
use serde_json::{Deserializer, Map, Value};
use tonic::Status;

use crate::api::{DESCRIPTORS, status};
use crate::domain::target::FieldViolation;

/// What the endpoint knows of the services behind it.
#[derive(Clone)]
pub(super) struct Contract(Arc<Descriptors>);

struct Descriptors {
    services: Vec<DescriptorPool>,
    error_details: DescriptorPool,
}

/// An unknown field of a message within lists of messages: no request is nested deeper.
const MAX_DEPTH: usize = 16;
/// Named in one answer.
const MAX_VIOLATIONS: usize = 100;

impl Contract {
    /// # Errors
    /// A descriptor set of this program is inconsistent.
    pub(super) fn new() -> Result<Self, prost_reflect::DescriptorError> {
        Self::of(vec![
            DescriptorPool::decode(DESCRIPTORS)?,
            DescriptorPool::decode(tonic_health::pb::FILE_DESCRIPTOR_SET)?,
        ])
    }

    /// # Errors
    /// As [`Contract::new`].
    pub(super) fn of(services: Vec<DescriptorPool>) -> Result<Self, prost_reflect::DescriptorError> {
        let error_details = DescriptorPool::decode(tonic_types::pb::FILE_DESCRIPTOR_SET)?;
        Ok(Self(Arc::new(Descriptors { services, error_details })))
    }

    /// The method of a path such as `/recoup.v1.RefundService/GetRefund`.
    pub(super) fn method(&self, path: &str) -> Option<MethodDescriptor> {
        let (service, method) = path.strip_prefix('/')?.split_once('/')?;
        let mut services = self.services();
        let service = services.find(|known| known.full_name() == service)?;
        service.methods().find(|known| known.name() == method)
    }

    /// Whether the path is of a service that there is.
    pub(super) fn is_service_path(&self, path: &str) -> bool {
        let service = path.strip_prefix('/').and_then(|path| path.split_once('/'));
        service.is_some_and(|(service, _)| self.services().any(|known| known.full_name() == service))
    }

    pub(super) fn services(&self) -> impl Iterator<Item = ServiceDescriptor> + '_ {
        self.0.services.iter().flat_map(DescriptorPool::services)
    }

    /// An error detail as JSON. None for a type that is none of google.rpc.
    pub(super) fn error_detail(&self, type_name: &str, value: &[u8]) -> Option<Value> {
        let descriptor = self.0.error_details.get_message_by_name(type_name)?;
        serde_json::to_value(DynamicMessage::decode(descriptor, value).ok()?).ok()
    }
}

/// A message in its JSON form, as protobuf.
///
/// # Errors
/// It is no JSON, has unknown fields (all of them are named), or a field of another type.
pub(super) fn from_json(descriptor: MessageDescriptor, json: &[u8]) -> Result<Vec<u8>, Status> {
    let not_json = |error: serde_json::Error| invalid("", format!("is not JSON: {error}"));
    let value: Value = serde_json::from_slice(json).map_err(not_json)?;
    let Value::Object(fields) = &value else { return Err(invalid("", "must be a JSON object".to_owned())) };
    let mut unknown = Vec::new();
    add_unknown_fields(&descriptor, fields, "", 0, &mut unknown);
    if !unknown.is_empty() {
        return Err(status::invalid(unknown));
    }
    // Of the text, so that the error has a line and a column.
    let mut deserializer = Deserializer::from_slice(json);
    let options = DeserializeOptions::new().deny_unknown_fields(true);
    let message = DynamicMessage::deserialize_with_options(descriptor, &mut deserializer, &options)
        .map_err(|error| invalid("", format!("cannot be read: {error}")))?;
    Ok(message.encode_to_vec())
}

/// A message as JSON in the standard mapping: fields with their default are left out.
///
/// # Errors
/// It is no message of this type.
pub(super) fn to_json(descriptor: MessageDescriptor, message: Bytes) -> Result<Vec<u8>, Status> {
    let message = DynamicMessage::decode(descriptor, message).map_err(|_| status::internal())?;
    serde_json::to_vec(&message).map_err(|_| status::internal())
}

fn invalid(field: &str, sentence: String) -> Status {
    status::invalid(vec![FieldViolation::new(field, sentence)])
}

/// Every field that the message does not have: a misspelt field of a refund must not be ignored.
fn add_unknown_fields(
    descriptor: &MessageDescriptor,
    fields: &Map<String, Value>,
    path: &str,
    depth: usize,
    unknown: &mut Vec<FieldViolation>,
) {
    for (key, value) in fields {
        let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
        let known = descriptor.get_field_by_json_name(key).or_else(|| descriptor.get_field_by_name(key));
        let Some(field) = known else {
            if unknown.len() < MAX_VIOLATIONS {
                unknown.push(FieldViolation::new(path, format!("is not a field of {}", descriptor.full_name())));
            }
            continue;
        };
        let Kind::Message(inner) = field.kind() else { continue };
        // Types of google.protobuf have JSON forms of their own.
        if field.is_map() || inner.full_name().starts_with("google.protobuf.") || depth >= MAX_DEPTH {
            continue;
        }
        match value {
            Value::Object(fields) => add_unknown_fields(&inner, fields, &path, depth + 1, unknown),
            Value::Array(items) => {
                for (at, item) in items.iter().enumerate() {
                    if let Value::Object(fields) = item {
                        add_unknown_fields(&inner, fields, &format!("{path}[{at}]"), depth + 1, unknown);
                    }
                }
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use tonic_types::StatusExt as _;

    use super::*;
    use crate::proto::v1 as proto;

    fn create_refund() -> MessageDescriptor {
        Contract::new().unwrap().method("/recoup.v1.RefundService/CreateRefund").unwrap().input()
    }

    #[rstest]
    #[case::json_names(r#"{"refundId":"a","account":"s","sectigo":{"orderNumber":"1"}}"#)]
    #[case::field_names(r#"{"refund_id":"a","account":"s","sectigo":{"order_number":"1"}}"#)]
    fn both_forms_of_names_are_read(#[case] json: &str) {
        let bytes = from_json(create_refund(), json.as_bytes()).unwrap();
        let request = proto::CreateRefundRequest::decode(bytes.as_slice()).unwrap();
        assert_eq!((request.refund_id.as_str(), request.account.as_str()), ("a", "s"));
        assert!(matches!(
            request.target,
            Some(proto::create_refund_request::Target::Sectigo(target)) if target.order_number == "1"
        ));
    }

    #[rstest]
    #[case(r#"{"refundid":"a","sectigo":{"order":"1","reason":"X","more":1}}"#, &["refundid", "sectigo.more", "sectigo.order"])]
    #[case("{", &[""])]
    #[case("[]", &[""])]
    #[case("", &[""])]
    #[case(r#"{"refundId":7}"#, &[""])]
    #[case(r#"{"sectigo":{"reason":"NO_SUCH_REASON"}}"#, &[""])]
    #[case(r#"{"refundId":"a"} {"refundId":"b"}"#, &[""])]
    fn wrong_json_is_refused_and_every_unknown_field_is_named(#[case] json: &str, #[case] fields: &[&str]) {
        let status = from_json(create_refund(), json.as_bytes()).unwrap_err();
        let details = status.get_error_details();
        assert_eq!(details.error_info().map(|info| info.reason.as_str()), Some("INVALID_REQUEST"));
        let mut named: Vec<String> =
            details.bad_request().unwrap().field_violations.iter().map(|violation| violation.field.clone()).collect();
        named.sort();
        assert_eq!(named, fields, "{}", status.message());
    }

    #[test]
    fn json_is_the_standard_mapping() {
        let contract = Contract::new().unwrap();
        let output = contract.method("/recoup.v1.RefundService/GetRefund").unwrap().output();
        let refund = proto::Refund {
            refund_id: "a".to_owned(),
            state: proto::refund::State::Succeeded.into(),
            revision: 3,
            create_time: Some(prost_types::Timestamp { seconds: 1, nanos: 0 }),
            ..proto::Refund::default()
        };
        let response = proto::GetRefundResponse { refund: Some(refund) };
        let json = to_json(output, response.encode_to_vec().into()).unwrap();
        let value: Value = serde_json::from_slice(&json).unwrap();
        let expected = serde_json::json!({"refund": {
            "refundId": "a", "state": "STATE_SUCCEEDED", "revision": "3", "createTime": "1970-01-01T00:00:01Z",
        }});
        assert_eq!(value, expected);
    }

    #[rstest]
    #[case("/recoup.v1.RefundService/CreateRefund", true, true)]
    #[case("/grpc.health.v1.Health/Check", true, true)]
    #[case("/recoup.v1.RefundService/Nothing", true, false)]
    #[case("/recoup.v2.RefundService/CreateRefund", false, false)]
    #[case("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", false, false)]
    #[case("/", false, false)]
    #[case("", false, false)]
    fn paths_are_those_of_the_services(#[case] path: &str, #[case] service: bool, #[case] method: bool) {
        let contract = Contract::new().unwrap();
        assert_eq!((contract.is_service_path(path), contract.method(path).is_some()), (service, method));
    }
}
