//! The connection to a gateway, and its errors as one sentence.

use std::error::Error as _;
use std::time::Duration;

use recoup::proto::code_name;
use recoup::proto::v1::refund_service_client::RefundServiceClient;
use recoup::tls::ClientTlsSettings;
use secrecy::ExposeSecret as _;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;
use tonic::{Request, Status};
use tonic_types::StatusExt as _;

use super::Failure;
use super::connector;
use super::context::ClientOptions;

/// A connection whose calls show who calls.
pub(super) type Connection = InterceptedService<Channel, Authorization>;

/// Adds the token to each call.
#[derive(Clone)]
pub(super) struct Authorization(Option<MetadataValue<Ascii>>);

/// For calls that need only the ledger.
pub(super) const READ_TIMEOUT: Duration = Duration::from_secs(30);
/// For calls that need a provider, whose own limit is 60 s.
pub(super) const PROVIDER_TIMEOUT: Duration = Duration::from_secs(90);

/// Connects to the gateway.
pub(super) async fn connect(options: &ClientOptions) -> Result<RefundServiceClient<Connection>, Failure> {
    connection(options).await.map(RefundServiceClient::new)
}

/// A connection for any service.
pub(super) async fn connection(options: &ClientOptions) -> Result<Connection, Failure> {
    Ok(InterceptedService::new(channel(options).await?, Authorization::of(options)))
}

async fn channel(options: &ClientOptions) -> Result<Channel, Failure> {
    let tls = ClientTlsSettings {
        ca_file: options.ca.clone(),
        certificate: options.cert.clone().zip(options.key.clone()),
        gateway_certificate_file: options.gateway_certificate.clone(),
    };
    connector::connect(&options.server, &tls).await
}

impl Authorization {
    fn of(options: &ClientOptions) -> Self {
        let header = options.token.as_ref().and_then(|token| {
            let mut value: MetadataValue<Ascii> = format!("Bearer {}", token.expose_secret()).parse().ok()?;
            value.set_sensitive(true);
            Some(value)
        });
        Self(header)
    }
}

impl Interceptor for Authorization {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(header) = &self.0 {
            request.metadata_mut().insert("authorization", header.clone());
        }
        Ok(request)
    }
}

/// A request with a deadline.
pub(super) fn with_timeout<T>(limit: Duration, message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(limit);
    request
}

/// The gateway's error with its reason, every invalid field and its other details.
pub(super) fn failure_of(status: &Status) -> Failure {
    let details = status.get_error_details();
    let violations: Vec<(&str, &str)> = details
        .bad_request()
        .map(|bad| bad.field_violations.iter().map(|one| (one.field.as_str(), one.description.as_str())).collect())
        .unwrap_or_default();
    let Some(info) = details.error_info() else {
        return failure_without_reason(status);
    };
    let mut metadata: Vec<(&str, &str)> =
        info.metadata.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
    metadata.sort_unstable();

    let message = if violations.is_empty() {
        status.message().to_owned()
    } else {
        // The message lists only the first few.
        let all: Vec<String> = violations.iter().map(|(field, why)| format!("{field} {why}")).collect();
        format!("the request is invalid: {}", all.join("; "))
    };
    let extra: String = metadata.iter().map(|(key, value)| format!(", {key} {value}")).collect();
    let sentence = format!("{message} ({}{extra})", info.reason);
    let json = serde_json::json!({
        "code": code_name(status.code()),
        "message": status.message(),
        "reason": info.reason,
        "metadata": info.metadata,
        "fieldViolations": violations
            .iter()
            .map(|(field, description)| serde_json::json!({ "field": field, "description": description }))
            .collect::<Vec<_>>(),
    });
    Failure { sentence, json: Some(json), code: 1 }
}

/// An error of the transport, or in the middle of a call: the outcome of the call is unknown.
fn failure_without_reason(status: &Status) -> Failure {
    let message = message_of(status);
    let sentence = format!("the outcome of the call is unknown ({}): {message}", code_name(status.code()));
    let json = serde_json::json!({ "code": code_name(status.code()), "message": message });
    Failure { sentence, json: Some(json), code: 1 }
}

/// The status's message, or the root cause of a transport error.
pub(super) fn message_of(status: &Status) -> String {
    status.source().map_or_else(|| status.message().to_owned(), root_cause)
}

/// The innermost cause. The outer ones only state that something failed.
pub(super) fn root_cause(error: &(dyn std::error::Error + 'static)) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}
