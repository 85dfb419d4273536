//! The only place where an error becomes a `tonic::Status`.
//!
//! A status carries an `ErrorInfo` in the domain `recoup.v1`, whose reason is an [`ErrorReason`]
//! without its prefix. On `RefundService` it guarantees that this call recorded nothing and sent
//! nothing. A status without that guarantee carries no `ErrorInfo` ([`outcome_unknown`]). A
//! provider's refusal is a refund's state and never a call's status.

use std::collections::HashMap;
use std::time::Duration;

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use crate::access::scope::Scope;
use crate::domain::ids::{AccountName, RefundId};
use crate::domain::target::FieldViolation;
use crate::engine::EngineError;
use crate::ledger::LedgerError;
use crate::proto::v1::ErrorReason;
use crate::providers::StatusError;
use crate::validation::ValidationError;

const DOMAIN: &str = "recoup.v1";
/// Details above some 12 kB reach clients as a broken stream. This limit leaves room for the other
/// trailers.
const MAX_DETAILS_BYTES: usize = 4 * 1024;
/// Retry delay for a momentary overload.
const RETRY_SOON: Duration = Duration::from_millis(250);
/// Retry delay for a restart.
const RETRY_LATER: Duration = Duration::from_secs(5);

tokio::task_local! {
    /// The id of the call that this task answers.
    static REQUEST_ID: String;
}

/// The token field of every paged call. If only this field is invalid, the status has a reason of
/// its own, so that a caller can start over.
pub(super) const PAGE_TOKEN: &str = "page_token";

/// Reports all invalid fields together.
pub(super) fn invalid(violations: Vec<FieldViolation>) -> Status {
    match violations.as_slice() {
        [only] if only.field == PAGE_TOKEN => {
            with_violations(ErrorReason::InvalidPageToken, "the page token is invalid", violations)
        }
        _ => with_violations(ErrorReason::InvalidRequest, "the request is invalid", violations),
    }
}

/// The request is not gRPC.
pub(super) fn not_grpc(what: &str) -> Status {
    let message = format!("{what}: nothing was recorded");
    status(Code::InvalidArgument, ErrorReason::InvalidRequest, &message, [], |_| {})
}

/// An HTTP request that is no call.
pub(super) fn not_a_call(what: &str, code: Code) -> Status {
    let message = format!("{what}: nothing was recorded");
    status(code, ErrorReason::InvalidRequest, &message, [], |_| {})
}

const ACCEPT_ENCODING: &str = "grpc-accept-encoding";

/// Converts a status of the transport for a request that no handler saw. None if a handler may have
/// seen it.
///
/// Every status of a handler has details, so one without details is from the transport.
pub(super) fn from_transport(refusal: &Status, call: &str) -> Option<Status> {
    if !refusal.details().is_empty() {
        return None;
    }
    match refusal.code() {
        Code::Unimplemented if refusal.message().is_empty() => Some(not_offered(&format!("unknown method {call}"))),
        Code::Unimplemented => {
            let mut refused = not_offered(refusal.message());
            // The compression is not supported: the answer names the supported ones.
            if let Some(accepted) = refusal.metadata().get(ACCEPT_ENCODING) {
                refused.metadata_mut().insert(ACCEPT_ENCODING, accepted.clone());
            }
            Some(refused)
        }
        // The message is malformed, or too large before or after decompression.
        Code::OutOfRange | Code::ResourceExhausted | Code::Internal => {
            let message = format!("could not read the request: {}", refusal.message());
            Some(status(Code::InvalidArgument, ErrorReason::InvalidRequest, &message, [], |details| {
                // The empty path means the whole message.
                details.add_bad_request_violation("", refusal.message());
            }))
        }
        _ => None,
    }
}

/// The caller's deadline has passed. Only if nothing was recorded.
pub(super) fn deadline() -> Status {
    status(
        Code::DeadlineExceeded,
        ErrorReason::Deadline,
        "the deadline passed before anything was recorded",
        [],
        |_| {},
    )
}

/// The call was opened, but its message has not arrived.
pub(super) fn message_missing(limit: Duration) -> Status {
    let message = format!("the request message did not arrive within {limit:?}: nothing was recorded");
    status(Code::DeadlineExceeded, ErrorReason::Deadline, &message, [], |_| {})
}

/// The call shows no credential, or two.
pub(super) fn credentials_missing() -> Status {
    let message = "the call needs one credential, such as `authorization: Bearer recoup_...`: nothing was recorded";
    status(Code::Unauthenticated, ErrorReason::CredentialsMissing, message, [], |_| {})
}

/// The credential is unknown, expired, revoked, or of another listener. One text for all.
pub(super) fn credentials_invalid() -> Status {
    let message = "the credential is not valid: nothing was recorded";
    status(Code::Unauthenticated, ErrorReason::CredentialsInvalid, message, [], |_| {})
}

/// The caller may not do this, whatever the object.
pub(super) fn scope_missing(scope: Scope) -> Status {
    let message = format!("the caller has no scope {scope}: nothing was recorded");
    let metadata = [("scope", scope.as_str().to_owned())];
    status(Code::PermissionDenied, ErrorReason::ScopeMissing, &message, metadata, |_| {})
}

/// The caller is at a limit of its own.
pub(super) fn quota_exceeded(caller: &str, limit: &str, retry_after: Duration) -> Status {
    let message = format!("the caller {caller} is at its limit {limit}: nothing was recorded");
    let metadata = [("limit", limit.to_owned())];
    status(Code::ResourceExhausted, ErrorReason::QuotaExceeded, &message, metadata, |details| {
        details.set_retry_info(Some(retry_after));
        details.add_quota_failure_violation(format!("caller:{caller}"), message.as_str());
    })
}

/// The accounts of a stream's caller have changed.
pub(super) fn accounts_changed() -> Status {
    retryable(
        Code::Unavailable,
        ErrorReason::Overloaded,
        "the caller may use other accounts now: open the stream again",
        RETRY_SOON,
    )
}

/// The gateway is at one of its limits.
pub(super) fn overloaded(what: &str) -> Status {
    retryable(Code::Unavailable, ErrorReason::Overloaded, what, RETRY_SOON)
}

/// The gateway is shutting down.
pub(super) fn draining() -> Status {
    retryable(Code::Unavailable, ErrorReason::Draining, "the gateway is shutting down", RETRY_LATER)
}

/// The call ended without a known outcome, like a lost connection. It has no `ErrorInfo`, which
/// would guarantee that nothing was recorded. The caller finds out by repeating the call.
pub(super) fn outcome_unknown(code: Code, what: &str) -> Status {
    let message = format!("{what}; it is unknown whether anything was recorded: repeat the call to find out");
    Status::with_error_details(code, truncated(&message), ErrorDetails::with_retry_info(Some(RETRY_LATER)))
}

/// This version does not offer the call.
pub(super) fn not_offered(message: &str) -> Status {
    status(Code::Unimplemented, ErrorReason::NotOffered, message, [], |_| {})
}

/// Runs a call whose errors quote this id.
pub(super) async fn with_request_id<T>(request_id: String, call: impl Future<Output = T>) -> T {
    REQUEST_ID.scope(request_id, call).await
}

/// A bug in work that several callers share. The log has it under none of their request ids.
pub(super) fn internal() -> Status {
    status(Code::Internal, ErrorReason::Internal, "a bug in the gateway; see its log", [], |_| {})
}

/// A panic, possibly after something was recorded. Without an `ErrorInfo`, like
/// [`outcome_unknown`]. The caller gets a request id, under which the log has the details.
pub(super) fn panicked() -> Status {
    let mut details = ErrorDetails::with_retry_info(Some(RETRY_LATER));
    let place = match REQUEST_ID.try_with(String::clone) {
        Ok(request_id) => {
            details.set_request_info(request_id, "");
            " under the request id"
        }
        // In a stream that has started.
        Err(_) => "",
    };
    let message = format!("a bug in the gateway; see its log{place}; repeat the call to find out what was recorded");
    Status::with_error_details(Code::Internal, message, details)
}

pub(super) fn from_engine(error: EngineError) -> Status {
    let message = error.to_string();
    match error {
        EngineError::AccountNotFound(account) => account_not_found(account.as_str()),
        EngineError::AccountMismatch { .. } => precondition(ErrorReason::AccountMismatch, &message, []),
        EngineError::Invalid(violations) => invalid(violations),
        EngineError::NotCancellable(state) => {
            precondition(ErrorReason::NotCancellable, &message, [("state", state.to_string())])
        }
        EngineError::NotInDoubt(state) => {
            precondition(ErrorReason::NotInDoubt, &message, [("state", state.to_string())])
        }
        EngineError::NotInReview(state) => {
            precondition(ErrorReason::NotInReview, &message, [("state", state.to_string())])
        }
        EngineError::AccountChanged { differing } => {
            precondition(ErrorReason::AccountChanged, &message, [("differing_fields", differing.join(","))])
        }
        EngineError::AccountPaused(account) => account_paused(&account, &message),
        EngineError::NotReassignable(state) => {
            precondition(ErrorReason::NotReassignable, &message, [("state", state.to_string())])
        }
        EngineError::NotAwaitingApproval(state) => {
            precondition(ErrorReason::NotAwaitingApproval, &message, [("state", state.to_string())])
        }
        EngineError::OwnRefund => status(Code::PermissionDenied, ErrorReason::OwnRefund, &message, [], |_| {}),
        EngineError::CreatorRevoked(_) => precondition(ErrorReason::CreatorRevoked, &message, []),
        EngineError::RefundIdTaken(id) => {
            status(Code::AlreadyExists, ErrorReason::RefundIdReused, &message, [], |details| {
                set_refund(details, &id, "it exists, at an account that the caller may not use");
            })
        }
        EngineError::HiddenConflict => precondition(ErrorReason::TargetHasRefund, &message, []),
        EngineError::HiddenSimilar { is_firm } => {
            precondition(ErrorReason::SimilarRefund, &format!("{message}; {}", similar_advice(is_firm)), [])
        }
        EngineError::EtagMismatch { present } => {
            status(Code::Aborted, ErrorReason::EtagMismatch, &message, [("etag", present)], |_| {})
        }
        EngineError::Deadline => deadline(),
        EngineError::Draining => draining(),
        EngineError::TooManyOperations | EngineError::TooManyEventStreams => overloaded(&message),
        EngineError::BeyondLastEvent { last } => invalid(vec![FieldViolation::new(
            "after_sequence",
            format!("must be at most {last}, the ledger's last event"),
        )]),
        EngineError::Ledger(error) => from_ledger(error),
        EngineError::Panicked => panicked(),
    }
}

pub(super) fn account_not_found(account: &str) -> Status {
    not_found(ErrorReason::AccountNotFound, "account", account, &format!("unknown account \"{account}\""))
}

fn account_paused(account: &AccountName, message: &str) -> Status {
    precondition(ErrorReason::AccountPaused, message, [("account", account.to_string())])
}

/// The call does not apply to accounts of this provider.
pub(super) fn account_mismatch(message: &str) -> Status {
    precondition(ErrorReason::AccountMismatch, message, [])
}

pub(super) fn from_validation(error: &ValidationError) -> Status {
    let message = error.to_string();
    match error {
        ValidationError::AccountNotFound(account) => account_not_found(account.as_str()),
        ValidationError::NotSectigo { .. } => account_mismatch(&message),
        ValidationError::Overloaded | ValidationError::TooManyWatches => overloaded(&message),
        ValidationError::Draining => draining(),
        ValidationError::Panicked => internal(),
        ValidationError::Provider(problem) => match problem {
            StatusError::Unreachable { retry_after, .. } => retryable(
                Code::Unavailable,
                ErrorReason::ProviderUnreachable,
                &message,
                retry_after.unwrap_or(RETRY_LATER),
            ),
            StatusError::NotNow { code, message: text, retry_after } => {
                let metadata = provider_metadata(code, text);
                status(Code::Unavailable, ErrorReason::ProviderUnreachable, &message, metadata, |details| {
                    details.set_retry_info(Some(retry_after.unwrap_or(RETRY_LATER)));
                })
            }
            StatusError::Timeout => status(Code::DeadlineExceeded, ErrorReason::ProviderTimeout, &message, [], |_| {}),
            StatusError::Protocol { problem } => {
                let metadata = [("provider", "sectigo".to_owned()), ("problem", problem.clone())];
                status(Code::Internal, ErrorReason::ProviderProtocol, &message, metadata, |_| {})
            }
            StatusError::CredentialsRefused { code, message: text } => {
                precondition(ErrorReason::ProviderCredentialsRefused, &message, provider_metadata(code, text))
            }
            StatusError::OrderNotFound { order_number, code, message: text } => {
                let metadata = provider_metadata(code, text);
                status(Code::NotFound, ErrorReason::OrderNotFound, &message, metadata, |details| {
                    details.set_resource_info("sectigo order", order_number.as_str(), "", message.as_str());
                })
            }
            StatusError::Refused { code, message: text } => {
                precondition(ErrorReason::ProviderRefused, &message, provider_metadata(code, text))
            }
        },
    }
}

fn from_ledger(error: LedgerError) -> Status {
    let message = error.to_string();
    match error {
        LedgerError::RefundIdReused { id, fields } if fields.is_empty() => {
            status(Code::AlreadyExists, ErrorReason::RefundIdReused, &message, [], |details| {
                set_refund(details, &id, "its id differs only in upper and lower case");
            })
        }
        LedgerError::RefundIdReused { id, fields } => {
            let metadata = [("differing_fields", fields.join(","))];
            status(Code::AlreadyExists, ErrorReason::RefundIdReused, &message, metadata, |details| {
                set_refund(details, &id, "it exists with different content");
            })
        }
        LedgerError::TargetHasRefund { conflicting } => {
            precondition(ErrorReason::TargetHasRefund, &message, [("conflicting_refund", conflicting.resource())])
        }
        LedgerError::SimilarRefund { conflicting, firm_until } => {
            let message = format!("{message}; {}", similar_advice(firm_until.is_some()));
            precondition(ErrorReason::SimilarRefund, &message, [("conflicting_refund", conflicting.resource())])
        }
        LedgerError::LimitExceeded { limit } => {
            precondition(ErrorReason::LimitExceeded, &message, [("limit", limit.as_str().to_owned())])
        }
        LedgerError::QuotaExceeded { limit, subject, retry_after } => {
            let metadata = [("limit", limit.as_str().to_owned())];
            status(Code::ResourceExhausted, ErrorReason::QuotaExceeded, &message, metadata, |details| {
                details.set_retry_info(Some(retry_after));
                details.add_quota_failure_violation(subject, message.as_str());
            })
        }
        LedgerError::NotFound(id) => not_found(ErrorReason::RefundNotFound, "refund", &id.resource(), &message),
        // The engine retries both with the present state. A caller sees one only after many lost
        // races.
        LedgerError::StaleRevision { present } => {
            status(Code::Aborted, ErrorReason::EtagMismatch, &message, [("etag", present.etag())], |_| {})
        }
        LedgerError::IllegalTransition(_) => precondition(ErrorReason::NotCancellable, &message, []),
        LedgerError::AccountPaused(account) => account_paused(&account, &message),
        LedgerError::Cancelled => deadline(),
        LedgerError::Overloaded => overloaded(&message),
        LedgerError::CommitFailed(_) => outcome_unknown(Code::Unavailable, &message),
        LedgerError::Unavailable(_) => {
            retryable(Code::Unavailable, ErrorReason::LedgerUnavailable, &message, RETRY_LATER)
        }
        LedgerError::Corrupt { .. } => status(Code::DataLoss, ErrorReason::LedgerCorrupt, &message, [], |_| {}),
    }
}

fn similar_advice(is_firm: bool) -> &'static str {
    match is_firm {
        true => "it may still take effect, so allow_similar does not help until its settle time is over",
        false => "set allow_similar to send it nevertheless",
    }
}

fn with_violations(reason: ErrorReason, what: &str, violations: Vec<FieldViolation>) -> Status {
    let mut room = MAX_DETAILS_BYTES / 2;
    let mut reported = Vec::new();
    let total = violations.len();
    for violation in violations {
        let size = violation.field.len() + violation.description.len() + 16;
        if size > room {
            break;
        }
        room -= size;
        reported.push(tonic_types::FieldViolation::new(violation.field, violation.description));
    }
    let sentences: Vec<String> =
        reported.iter().take(4).map(|violation| format!("{} {}", violation.field, violation.description)).collect();
    let more = if total > sentences.len() { format!("; and {} more", total - sentences.len()) } else { String::new() };
    let message = format!("{what}: {}{more}", sentences.join("; "));
    status(Code::InvalidArgument, reason, &message, [], |details| {
        details.set_bad_request(reported);
    })
}

fn not_found(reason: ErrorReason, kind: &str, name: &str, message: &str) -> Status {
    status(Code::NotFound, reason, message, [], |details| {
        details.set_resource_info(kind, name, "", message);
    })
}

fn precondition<const N: usize>(reason: ErrorReason, message: &str, metadata: [(&str, String); N]) -> Status {
    status(Code::FailedPrecondition, reason, message, metadata, |_| {})
}

fn retryable(code: Code, reason: ErrorReason, message: &str, delay: Duration) -> Status {
    status(code, reason, message, [], |details| {
        details.set_retry_info(Some(delay));
    })
}

fn set_refund(details: &mut ErrorDetails, id: &RefundId, description: &str) {
    details.set_resource_info("refund", id.resource(), "", description);
}

fn provider_metadata(code: &str, message: &str) -> [(&'static str, String); 2] {
    [("provider_code", code.to_owned()), ("provider_message", message.to_owned())]
}

fn status<const N: usize>(
    code: Code,
    reason: ErrorReason,
    message: &str,
    metadata: [(&str, String); N],
    more: impl FnOnce(&mut ErrorDetails),
) -> Status {
    let reason = reason.as_str_name().trim_start_matches("ERROR_REASON_");
    let metadata: HashMap<String, String> =
        metadata.into_iter().map(|(key, value)| (key.to_owned(), truncated(&value).to_owned())).collect();
    let mut details = ErrorDetails::with_error_info(reason, DOMAIN, metadata);
    more(&mut details);
    Status::with_error_details(code, truncated(message), details)
}

/// Texts of callers and providers are bounded individually; this bounds a sentence that contains
/// several of them.
fn truncated(text: &str) -> &str {
    let end =
        text.char_indices().map(|(at, _)| at).chain([text.len()]).take_while(|at| *at <= 1024).last().unwrap_or(0);
    text.get(..end).unwrap_or("")
}

#[cfg(test)]
mod tests {
    use super::*;
    use prost::Message as _;

    #[test]
    fn a_thousand_invalid_fields_fit_into_the_trailers() {
        let violations =
            (0..1000).map(|index| FieldViolation::new(format!("labels[{index}]"), "must be shorter")).collect();
        let answer = invalid(violations);
        assert!(answer.details().len() <= MAX_DETAILS_BYTES, "{} bytes", answer.details().len());
        let status = tonic_types::pb::Status::decode(answer.details()).unwrap();
        assert!(status.details.len() == 2);
    }

    #[test]
    fn only_certain_errors_guarantee_that_nothing_was_recorded() {
        let guarantees = |error| from_ledger(error).get_error_details().error_info().is_some();
        assert!(guarantees(LedgerError::Unavailable("no such file".to_owned())));
        assert!(!guarantees(LedgerError::CommitFailed("disk I/O error".to_owned())));
    }

    #[tokio::test]
    async fn a_bug_is_reported_with_the_request_id_of_the_call_or_with_none() {
        let request_id_in =
            |status: Status| status.get_error_details().request_info().map(|info| info.request_id.clone());
        let panicked = with_request_id("0000002a".to_owned(), async { from_engine(EngineError::Panicked) }).await;
        assert_eq!(request_id_in(panicked).as_deref(), Some("0000002a"));
        let shared = async { from_validation(&ValidationError::Panicked) };
        let shared = with_request_id("0000002a".to_owned(), shared).await;
        assert!(!shared.message().contains("request id"), "{}", shared.message());
        assert_eq!(request_id_in(shared), None);
    }

    #[test]
    fn long_texts_are_truncated_between_characters() {
        assert_eq!(truncated(&"ü".repeat(2000)).len(), 1024);
        assert_eq!(truncated("short"), "short");
    }
}
