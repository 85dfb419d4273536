//! The only place where an error becomes a `tonic::Status`.
//!
//! A status carries an `ErrorInfo` in the domain `recoup.v1`, whose reason is an [`ErrorReason`]
//! without its prefix. On `RefundService` that means: this call recorded nothing and sent nothing.
//! The few that cannot say so carry none ([`not_known`]). A provider's status never gets here
//! unmapped: refusals are a refund's state, not a call's failure.

use std::collections::HashMap;
use std::time::Duration;

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use crate::domain::ids::RefundId;
use crate::domain::target::FieldViolation;
use crate::engine::EngineError;
use crate::ledger::LedgerError;
use crate::proto::v1::ErrorReason;
use crate::providers::StatusError;
use crate::validation::ValidationError;

const DOMAIN: &str = "recoup.v1";
/// Details above some 12 kB reach clients as a broken stream; this leaves room for the rest of the
/// trailers.
const MAX_DETAILS_BYTES: usize = 4 * 1024;
/// A busy moment passes about so fast.
const SOON: Duration = Duration::from_millis(250);
/// A restart takes about so long.
const LATER: Duration = Duration::from_secs(5);

tokio::task_local! {
    /// Of the call that this task answers.
    static REQUEST_ID: String;
}

/// The field of every call that shows pages; alone at fault, it has a reason of its own, so that a
/// caller can begin anew.
pub(super) const PAGE_TOKEN: &str = "page_token";

/// Every field that is wrong, at once.
pub(super) fn invalid(faults: Vec<FieldViolation>) -> Status {
    match faults.as_slice() {
        [only] if only.field == PAGE_TOKEN => {
            with_violations(ErrorReason::InvalidPageToken, "the page token is wrong", faults)
        }
        _ => with_violations(ErrorReason::InvalidRequest, "the request is wrong", faults),
    }
}

/// A request that is not gRPC at all.
pub(super) fn not_grpc(what: &str) -> Status {
    let message = format!("{what}: nothing was recorded");
    status(Code::InvalidArgument, ErrorReason::InvalidRequest, &message, [], |_| {})
}

const ACCEPT_ENCODING: &str = "grpc-accept-encoding";

/// What the transport refused before any handler saw it, said in our words; none where it is not
/// known that no handler did.
///
/// Every status of a handler has details, so one without them is the transport's own.
pub(super) fn of_transport(refusal: &Status, call: &str) -> Option<Status> {
    if !refusal.details().is_empty() {
        return None;
    }
    match refusal.code() {
        Code::Unimplemented if refusal.message().is_empty() => Some(not_offered(&format!("there is no call {call}"))),
        Code::Unimplemented => {
            let mut refused = not_offered(refusal.message());
            // The compression is not supported: the answer names the supported ones.
            if let Some(accepted) = refusal.metadata().get(ACCEPT_ENCODING) {
                refused.metadata_mut().insert(ACCEPT_ENCODING, accepted.clone());
            }
            Some(refused)
        }
        // The message is too large, before or after it is inflated, or malformed.
        Code::OutOfRange | Code::ResourceExhausted | Code::Internal => {
            let message = format!("the request cannot be read: {}", refusal.message());
            Some(status(Code::InvalidArgument, ErrorReason::InvalidRequest, &message, [], |details| {
                // The empty path is the message itself.
                details.add_bad_request_violation("", refusal.message());
            }))
        }
        _ => None,
    }
}

/// The caller's time is over. Only where nothing was recorded.
pub(super) fn deadline() -> Status {
    status(
        Code::DeadlineExceeded,
        ErrorReason::Deadline,
        "the deadline passed before anything was recorded",
        [],
        |_| {},
    )
}

/// The call was opened, and its message has not come.
pub(super) fn message_missing(within: Duration) -> Status {
    let message = format!("the call's message did not come within {within:?}: nothing was recorded");
    status(Code::DeadlineExceeded, ErrorReason::Deadline, &message, [], |_| {})
}

/// More calls at once than the gateway takes.
pub(super) fn overloaded(what: &str) -> Status {
    retryable(Code::Unavailable, ErrorReason::Overloaded, what, SOON)
}

/// The gateway is shutting down.
pub(super) fn draining() -> Status {
    retryable(Code::Unavailable, ErrorReason::Draining, "the gateway is shutting down", LATER)
}

/// The call broke off, and what it came to is not known: like a lost connection, so without an
/// `ErrorInfo`, which would say that nothing was recorded. The same call again finds out.
pub(super) fn not_known(code: Code, what: &str) -> Status {
    let message = format!("{what}; whether anything was recorded is not known: the same call again finds out");
    Status::with_error_details(code, shortened(&message), ErrorDetails::with_retry_info(Some(LATER)))
}

/// A call that this version does not offer.
pub(super) fn not_offered(message: &str) -> Status {
    status(Code::Unimplemented, ErrorReason::NotOffered, message, [], |_| {})
}

/// Runs a call, whose log lines carry this id.
pub(super) async fn with_request_id<T>(request_id: String, call: impl Future<Output = T>) -> T {
    REQUEST_ID.scope(request_id, call).await
}

/// A bug in work that several callers share, so that the log has it under no request id of theirs.
pub(super) fn internal() -> Status {
    status(Code::Internal, ErrorReason::Internal, "a bug in the gateway; its log has more", [], |_| {})
}

/// A call that broke off, perhaps after it had recorded something: without an `ErrorInfo`, as
/// [`not_known`]. The caller gets a number to quote; what happened is in the log under it.
pub(super) fn panicked() -> Status {
    let mut details = ErrorDetails::with_retry_info(Some(LATER));
    let place = match REQUEST_ID.try_with(String::clone) {
        Ok(request_id) => {
            details.set_request_info(request_id, "");
            " under the request id"
        }
        // A stream that has begun.
        Err(_) => "",
    };
    let message =
        format!("a bug in the gateway; its log has more{place}; the same call again finds out what was recorded");
    Status::with_error_details(Code::Internal, message, details)
}

/// The engine's no.
pub(super) fn of_engine(error: EngineError) -> Status {
    let message = error.to_string();
    match error {
        EngineError::AccountNotFound(account) => account_not_found(account.as_str()),
        EngineError::AccountMismatch { .. } => precondition(ErrorReason::AccountMismatch, &message, []),
        EngineError::Invalid(faults) => invalid(faults),
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
        EngineError::NotReassignable(state) => {
            precondition(ErrorReason::NotReassignable, &message, [("state", state.to_string())])
        }
        EngineError::EtagMismatch { present } => {
            status(Code::Aborted, ErrorReason::EtagMismatch, &message, [("etag", present)], |_| {})
        }
        EngineError::Deadline => deadline(),
        EngineError::Draining => draining(),
        EngineError::TooManyOperations | EngineError::TooManyFeeds => overloaded(&message),
        EngineError::BeyondLastEvent { last } => invalid(vec![FieldViolation::new(
            "after_sequence",
            format!("must be at most {last}, the ledger's last event"),
        )]),
        EngineError::Ledger(error) => of_ledger(error),
        EngineError::Panicked => panicked(),
    }
}

/// No account of this name.
pub(super) fn account_not_found(account: &str) -> Status {
    not_found(ErrorReason::AccountNotFound, "account", account, &format!("there is no account \"{account}\""))
}

/// An account of another provider than the call is about.
pub(super) fn account_mismatch(message: &str) -> Status {
    precondition(ErrorReason::AccountMismatch, message, [])
}

/// Why a validation status could not be had.
pub(super) fn of_validation(error: &ValidationError) -> Status {
    let message = error.to_string();
    match error {
        ValidationError::AccountNotFound(account) => account_not_found(account.as_str()),
        ValidationError::NotSectigo { .. } => account_mismatch(&message),
        ValidationError::Overloaded | ValidationError::TooManyWatches => overloaded(&message),
        ValidationError::Draining => draining(),
        ValidationError::Panicked => internal(),
        ValidationError::Provider(problem) => match problem {
            StatusError::Unreachable { retry_after, .. } => {
                retryable(Code::Unavailable, ErrorReason::ProviderUnreachable, &message, retry_after.unwrap_or(LATER))
            }
            StatusError::NotNow { code, message: said, retry_after } => {
                let metadata = provider_words(code, said);
                status(Code::Unavailable, ErrorReason::ProviderUnreachable, &message, metadata, |details| {
                    details.set_retry_info(Some(retry_after.unwrap_or(LATER)));
                })
            }
            StatusError::Timeout => status(Code::DeadlineExceeded, ErrorReason::ProviderTimeout, &message, [], |_| {}),
            StatusError::Protocol { problem } => {
                let metadata = [("provider", "sectigo".to_owned()), ("problem", problem.clone())];
                status(Code::Internal, ErrorReason::ProviderProtocol, &message, metadata, |_| {})
            }
            StatusError::CredentialsRefused { code, message: said } => {
                precondition(ErrorReason::ProviderCredentialsRefused, &message, provider_words(code, said))
            }
            StatusError::OrderNotFound { order_number, code, message: said } => {
                let metadata = provider_words(code, said);
                status(Code::NotFound, ErrorReason::OrderNotFound, &message, metadata, |details| {
                    details.set_resource_info("sectigo order", order_number.as_str(), "", message.as_str());
                })
            }
            StatusError::Refused { code, message: said } => {
                precondition(ErrorReason::ProviderRefused, &message, provider_words(code, said))
            }
        },
    }
}

fn of_ledger(error: LedgerError) -> Status {
    let message = error.to_string();
    match error {
        LedgerError::RefundIdReused { id, fields } if fields.is_empty() => {
            status(Code::AlreadyExists, ErrorReason::RefundIdReused, &message, [], |details| {
                set_refund(details, &id, "its id differs in upper and lower case alone");
            })
        }
        LedgerError::RefundIdReused { id, fields } => {
            let metadata = [("differing_fields", fields.join(","))];
            status(Code::AlreadyExists, ErrorReason::RefundIdReused, &message, metadata, |details| {
                set_refund(details, &id, "it exists with other content");
            })
        }
        LedgerError::TargetHasRefund { conflicting } => {
            precondition(ErrorReason::TargetHasRefund, &message, [("conflicting_refund", conflicting.resource())])
        }
        LedgerError::SimilarRefund { conflicting, firm_until } => {
            let way = match firm_until {
                Some(_) => "it may still have an effect, so allow_similar does not help until its settle time is over",
                None => "with allow_similar it is sent all the same",
            };
            let message = format!("{message}; {way}");
            precondition(ErrorReason::SimilarRefund, &message, [("conflicting_refund", conflicting.resource())])
        }
        LedgerError::NotFound(id) => not_found(ErrorReason::RefundNotFound, "refund", &id.resource(), &message),
        // The engine answers both with a fresh look; what reaches a caller is a race lost many
        // times over.
        LedgerError::StaleRevision { present } => {
            status(Code::Aborted, ErrorReason::EtagMismatch, &message, [("etag", present.etag())], |_| {})
        }
        LedgerError::IllegalTransition(_) => precondition(ErrorReason::NotCancellable, &message, []),
        LedgerError::Cancelled => deadline(),
        LedgerError::Overloaded => overloaded(&message),
        LedgerError::CommitFailed(_) => not_known(Code::Unavailable, &message),
        LedgerError::Unavailable(_) => retryable(Code::Unavailable, ErrorReason::LedgerUnavailable, &message, LATER),
        LedgerError::Corrupt { .. } => status(Code::DataLoss, ErrorReason::LedgerCorrupt, &message, [], |_| {}),
    }
}

fn with_violations(reason: ErrorReason, what: &str, faults: Vec<FieldViolation>) -> Status {
    let mut room = MAX_DETAILS_BYTES / 2;
    let mut told = Vec::new();
    let total = faults.len();
    for fault in faults {
        let size = fault.field.len() + fault.description.len() + 16;
        if size > room {
            break;
        }
        room -= size;
        told.push(tonic_types::FieldViolation::new(fault.field, fault.description));
    }
    let sentences: Vec<String> =
        told.iter().take(4).map(|violation| format!("{} {}", violation.field, violation.description)).collect();
    let more = if total > sentences.len() { format!("; and {} more", total - sentences.len()) } else { String::new() };
    let message = format!("{what}: {}{more}", sentences.join("; "));
    status(Code::InvalidArgument, reason, &message, [], |details| {
        details.set_bad_request(told);
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

fn provider_words(code: &str, message: &str) -> [(&'static str, String); 2] {
    [("provider_code", code.to_owned()), ("provider_message", message.to_owned())]
}

fn status<const N: usize>(
    code: Code,
    reason: ErrorReason,
    message: &str,
    metadata: [(&str, String); N],
    more: impl FnOnce(&mut ErrorDetails),
) -> Status {
    let word = reason.as_str_name().trim_start_matches("ERROR_REASON_");
    let metadata: HashMap<String, String> =
        metadata.into_iter().map(|(key, value)| (key.to_owned(), shortened(&value).to_owned())).collect();
    let mut details = ErrorDetails::with_error_info(word, DOMAIN, metadata);
    more(&mut details);
    Status::with_error_details(code, shortened(message), details)
}

/// Texts of callers and providers are bounded where they come in; this keeps the sum of several of
/// them within the trailers.
fn shortened(text: &str) -> &str {
    let end =
        text.char_indices().map(|(at, _)| at).chain([text.len()]).take_while(|at| *at <= 1024).last().unwrap_or(0);
    text.get(..end).unwrap_or("")
}

#[cfg(test)]
mod tests {
    use super::*;
    use prost::Message as _;

    #[test]
    fn a_thousand_wrong_fields_fit_into_the_trailers() {
        let faults =
            (0..1000).map(|index| FieldViolation::new(format!("labels[{index}]"), "must be shorter")).collect();
        let answer = invalid(faults);
        assert!(answer.details().len() <= MAX_DETAILS_BYTES, "{} bytes", answer.details().len());
        let told = tonic_types::pb::Status::decode(answer.details()).unwrap();
        assert!(told.details.len() == 2);
    }

    #[test]
    fn only_what_is_certain_says_that_nothing_was_recorded() {
        let says_so = |error| of_ledger(error).get_error_details().error_info().is_some();
        assert!(says_so(LedgerError::Unavailable("no such file".to_owned())));
        assert!(!says_so(LedgerError::CommitFailed("disk I/O error".to_owned())));
    }

    #[tokio::test]
    async fn a_bug_is_told_with_the_calls_own_number_or_with_none() {
        let number_in = |status: Status| status.get_error_details().request_info().map(|info| info.request_id.clone());
        let broke_off = with_request_id("0000002a".to_owned(), async { of_engine(EngineError::Panicked) }).await;
        assert_eq!(number_in(broke_off).as_deref(), Some("0000002a"));
        let shared = async { of_validation(&ValidationError::Panicked) };
        let shared = with_request_id("0000002a".to_owned(), shared).await;
        assert!(!shared.message().contains("request id"), "{}", shared.message());
        assert_eq!(number_in(shared), None);
    }

    #[test]
    fn long_words_are_cut_between_characters() {
        assert_eq!(shortened(&"ü".repeat(2000)).len(), 1024);
        assert_eq!(shortened("short"), "short");
    }
}
