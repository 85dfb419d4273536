//! The gateway's port as the command line sees it, and its errors as one sentence.

use std::error::Error as _;
use std::time::Duration;

use recoup::proto::code_name;
use recoup::proto::v1::refund_service_client::RefundServiceClient;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};
use tonic_types::StatusExt as _;

use super::Failure;

/// A gateway on this machine answers at once or not at all.
const CONNECT_TIME: Duration = Duration::from_secs(5);
/// For what the ledger alone answers.
pub(super) const READING: Duration = Duration::from_secs(30);
/// For what a provider answers: its own limit is 60 s.
pub(super) const ASKING: Duration = Duration::from_secs(90);

/// Connects to `server`, such as `http://127.0.0.1:50051`.
pub(super) async fn connect(server: &str) -> Result<RefundServiceClient<Channel>, Failure> {
    channel(server).await.map(RefundServiceClient::new)
}

/// The connection alone, for whichever service.
pub(super) async fn channel(server: &str) -> Result<Channel, Failure> {
    let wrong =
        || Failure::usage(format!("--server must be an address such as http://127.0.0.1:50051, and is {server}"));
    let endpoint = Endpoint::from_shared(server.to_owned()).map_err(|_| wrong())?;
    if endpoint.uri().scheme_str() != Some("http") || endpoint.uri().host().is_none() {
        return Err(wrong());
    }
    endpoint.connect_timeout(CONNECT_TIME).connect().await.map_err(|error| {
        Failure::new(format!("no gateway answers at {server}: {}; is it running?", root_cause(&error)))
    })
}

/// A request that the gateway answers within `limit`, with what it knows by then or with
/// DEADLINE_EXCEEDED.
pub(super) fn within<T>(limit: Duration, message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(limit);
    request
}

/// The gateway's no, with its reason, every wrong field and what else it tells.
pub(super) fn refusal(status: &Status) -> Failure {
    let details = status.get_error_details();
    let violations: Vec<(&str, &str)> = details
        .bad_request()
        .map(|bad| bad.field_violations.iter().map(|one| (one.field.as_str(), one.description.as_str())).collect())
        .unwrap_or_default();
    let Some(info) = details.error_info() else {
        return without_reason(status);
    };
    let mut metadata: Vec<(&str, &str)> =
        info.metadata.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
    metadata.sort_unstable();

    let told = if violations.is_empty() {
        status.message().to_owned()
    } else {
        // The message tells the first few: here is room for all of them.
        let all: Vec<String> = violations.iter().map(|(field, why)| format!("{field} {why}")).collect();
        format!("the request is wrong: {}", all.join("; "))
    };
    let extra: String = metadata.iter().map(|(key, value)| format!(", {key} {value}")).collect();
    let sentence = format!("{told} ({}{extra})", info.reason);
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

/// From the transport, or from a failure in the middle: what the call came to is not known.
fn without_reason(status: &Status) -> Failure {
    let said = words_of(status);
    let sentence =
        format!("the gateway gave no answer that tells what was done ({}): {said}", code_name(status.code()));
    let json = serde_json::json!({ "code": code_name(status.code()), "message": said });
    Failure { sentence, json: Some(json), code: 1 }
}

/// What a status says in words.
pub(super) fn words_of(status: &Status) -> String {
    status.source().map_or_else(|| status.message().to_owned(), root_cause)
}

/// The innermost cause: the outer ones only say that something failed.
fn root_cause(error: &(dyn std::error::Error + 'static)) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}
