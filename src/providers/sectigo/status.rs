//! Interprets an answer to `!getPostPaymentStatus` for callers who ask for a validation status.
//!
//! ```text
//! HTTP 200, errorCode 0, the order asked for   the page
//! -16                                          login or source address refused
//! -4 for orderNumber                           no such order, or another account's
//! -14 -160, HTTP 5xx                           not now
//! -42, HTTP 429                                not now, nor within a minute
//! any other code                               refused, with the code verbatim
//! anything else                                not documented, so nothing in it is believed
//! ```
//!
//! -14 ("unknown error") and -160 ("general error") are failures of the provider and say nothing
//! against the request. A read moves nothing, so asking again is harmless and the only remedy;
//! reported as a refusal, they would make a caller give up.

use std::time::Duration;

use async_trait::async_trait;

use super::Sectigo;
use super::status_wire::{OrderStatusReply, PageReader};
use crate::domain::outcome::DoubtReason;
use crate::domain::validation::{OrderKey, StatusAnswer};
use crate::http::client::{HttpOutcome, HttpResponse};
use crate::providers::{StatusError, ValidationProvider};

/// Sectigo does not document how long its call limit lasts. A minute is the shortest usual window;
/// asking sooner would only count against the limit.
const CALL_LIMIT_PAUSE: Duration = Duration::from_secs(60);

#[async_trait]
impl ValidationProvider for Sectigo {
    async fn validation_status(&self, order: &OrderKey) -> Result<StatusAnswer, StatusError> {
        let certificate_id = order.certificate_id().map(|id| id.to_string());
        match self.request_status(order.order_number(), certificate_id.as_deref()).await {
            HttpOutcome::Answered(answer) => {
                let status = read_validation_status(&answer, order, &self.pages);
                if matches!(status, Err(StatusError::CredentialsRefused { .. })) {
                    self.login_password.report_refusal();
                }
                status
            }
            HttpOutcome::NotSent { evidence } => Err(StatusError::Unreachable { why: evidence, retry_after: None }),
            HttpOutcome::Unknown { reason: DoubtReason::Timeout, .. } => Err(StatusError::Timeout),
            // The body was longer than any page can be.
            HttpOutcome::Unknown { reason: DoubtReason::UnreadableReply, evidence } => {
                Err(StatusError::Protocol { problem: evidence })
            }
            HttpOutcome::Unknown { evidence, .. } => Err(StatusError::Unreachable { why: evidence, retry_after: None }),
        }
    }
}

fn read_validation_status(
    answer: &HttpResponse,
    order: &OrderKey,
    pages: &PageReader,
) -> Result<StatusAnswer, StatusError> {
    match answer.status {
        200 => {}
        // A proxy in front of the provider also says "later", in its own way.
        429 => {
            return Err(StatusError::Unreachable { why: "HTTP 429".to_owned(), retry_after: Some(CALL_LIMIT_PAUSE) });
        }
        status @ 500.. => return Err(StatusError::Unreachable { why: format!("HTTP {status}"), retry_after: None }),
        status => return Err(StatusError::Protocol { problem: format!("HTTP {status}") }),
    }
    match pages.read(answer) {
        Err(problem) => Err(StatusError::Protocol { problem: problem.to_string() }),
        Ok(OrderStatusReply::Page(page)) if !page.page.is_of(order.order_number()) => {
            Err(StatusError::Protocol { problem: "data.orderNumber: the answer is not for this order".to_owned() })
        }
        Ok(OrderStatusReply::Page(page)) => Ok(*page),
        Ok(OrderStatusReply::Error { code, message }) => Err(refusal(code, message, order)),
    }
}

fn refusal(number: i32, message: String, order: &OrderKey) -> StatusError {
    let code = number.to_string();
    match number {
        -16 => StatusError::CredentialsRefused { code, message },
        -4 if names_another_argument(&message) => StatusError::Refused { code, message },
        -4 => StatusError::OrderNotFound { order_number: order.order_number().to_owned(), code, message },
        -14 | -160 => StatusError::NotNow { code, message, retry_after: None },
        -42 => StatusError::NotNow { code, message, retry_after: Some(CALL_LIMIT_PAUSE) },
        _ => StatusError::Refused { code, message },
    }
}

/// `The value of the 'CertificateID' argument is invalid!` is not about the order. A message
/// without a name can only be about the order.
fn names_another_argument(message: &str) -> bool {
    let named = message.split('\'').nth(1);
    named.is_some_and(|name| !name.eq_ignore_ascii_case("orderNumber"))
}

#[cfg(test)]
mod tests;
