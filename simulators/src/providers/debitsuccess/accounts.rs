//! Debitsuccess' logins, accounts and refunds.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use crate::request::Effect;

/// The credentials in `User`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "DebitsuccessLogin")]
#[serde(deny_unknown_fields)]
pub struct Login {
    /// `User.Username`.
    #[schemars(extend("x-optional" = true))]
    pub username: String,
    /// `User.Password`. A secret: not part of `Debug`.
    #[schemars(extend("writeOnly" = true), description = "`User.Password`. Accepted and never returned.")]
    pub password: String,
}

/// A customer's account.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "DebitsuccessAccount")]
#[serde(deny_unknown_fields)]
pub struct Account {
    /// Debitsuccess's own reference, at most 15 characters.
    #[schemars(length(min = 1, max = 15), extend("x-optional" = true))]
    pub account_reference_no: String,
    /// The biller's reference, at most 50 characters; several accounts may share one.
    #[serde(default)]
    #[schemars(length(min = 1, max = 50))]
    pub external_account_reference_no: Option<String>,
    /// The sum collected, in hundredths. Default 50000.
    #[serde(default = "five_hundred")]
    #[schemars(range(min = 0))]
    pub collected_minor: i64,
    /// ISO 4217; not on the wire. Default AUD.
    #[serde(default = "aud")]
    pub currency: String,
    /// The system-wide code with which InitiateRefund fails for this account. Default `ready`:
    /// none.
    #[serde(default)]
    pub condition: Condition,
    /// The error code with which InitiateRefund is refused for this account: `13040`, `14143`, ...
    /// Default none.
    #[serde(default)]
    pub refund_answer: Option<String>,
    /// The time in seconds after which its refunds are `Completed`, or `Rejected` if `decision`
    /// says so. Overrides the setting `completed_after_seconds`. Default none.
    #[serde(default)]
    pub settles_after_seconds: Option<u64>,
    /// How the review of its refunds ends, if settings move refunds on. Default `approved`.
    #[serde(default)]
    pub decision: Decision,
}

/// Why InitiateRefund fails for an account. Nothing is recorded.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
#[serde(rename_all = "snake_case")]
pub enum Condition {
    /// It does not fail.
    #[default]
    Ready,
    /// 01 `The server is not available`.
    Unavailable,
    /// 05 `Request Time out`.
    TimedOut,
    /// 06 `Unknown exception occurred during processing of this message`.
    UnknownException,
    /// 09 `Failed to complete the process`.
    NotCompleted,
    /// 10 `Account is not active`.
    NotActive,
    /// 11 `Timeout/Deadlock Error - Please retry`.
    Deadlock,
}

/// How a review ends.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
#[serde(rename_all = "snake_case")]
pub enum Decision {
    /// The refund becomes Approved and Completed.
    #[default]
    Approved,
    /// The refund is Rejected, and its amount can be refunded again.
    Rejected,
}

/// A recorded refund.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "DebitsuccessRefund")]
#[serde(deny_unknown_fields)]
pub struct Refund {
    /// RefundRequestNumber.
    pub number: i32,
    /// ExternalRefundIdentifier: the caller's, or a generated GUID.
    pub identifier: String,
    /// The account's AccountReferenceNo.
    pub account: String,
    /// The amount, in hundredths.
    pub amount_minor: i64,
    /// ISO 4217.
    pub currency: String,
    /// The status of its review.
    pub status: RefundStatus,
    /// A note on the status.
    pub note: Option<String>,
    /// The reason given.
    pub description: String,
    /// RequestInitiator.
    pub request_initiator: Option<String>,
    /// The username of the request.
    pub username: String,
    /// When it was recorded.
    #[serde(with = "time::serde::rfc3339")]
    #[schemars(with = "String", extend("format" = "date-time"))]
    pub created: OffsetDateTime,
}

/// The status of a refund's review. In JSON the exact words of the wire.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum RefundStatus {
    /// Recorded, not yet in review.
    #[default]
    Submitted,
    /// In review.
    #[serde(rename = "Awaiting Review")]
    AwaitingReview,
    /// Will be paid.
    Approved,
    /// Paid. Final.
    Completed,
    /// Will not be paid. Final.
    Rejected,
}

/// Why an account cannot be put.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "each says what it is")]
pub enum PutError {
    #[error("account_reference_no must have 1 to 15 characters")]
    ReferenceLength,
    #[error("external_account_reference_no must have 1 to 50 characters")]
    ExternalReferenceLength,
    #[error("refund_answer must be an error code of InitiateRefund")]
    Answer,
    #[error("collected_minor must be from 0 to 99999999999")]
    CollectedOutOfRange,
}

/// Why a refund's status cannot be changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "each says what it is")]
pub enum MoveError {
    #[error("there is no refund with this number or identifier")]
    NoSuchRefund,
    #[error("several accounts have a refund with this identifier: name it by its number")]
    SeveralRefunds,
    #[error("the refund is {0}, which is final")]
    Final(&'static str),
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Login").field("username", &self.username).field("password", &"***").finish()
    }
}

impl Account {
    /// An account with 500.00 AUD collected.
    pub fn new(reference: &str, external_reference: &str) -> Self {
        Self {
            account_reference_no: reference.to_owned(),
            external_account_reference_no: Some(external_reference.to_owned()),
            collected_minor: five_hundred(),
            currency: aud(),
            condition: Condition::Ready,
            refund_answer: None,
            settles_after_seconds: None,
            decision: Decision::Approved,
        }
    }
}

impl Refund {
    /// The amount that it takes from the collected sum.
    pub(super) fn counted_minor(&self) -> i64 {
        if self.status == RefundStatus::Rejected { 0 } else { self.amount_minor }
    }

    /// Changes the status. Becoming Rejected is an effect, because the money does not move after
    /// all. So is leaving Rejected.
    pub(super) fn move_to(&mut self, status: RefundStatus) -> Option<Effect> {
        let before = std::mem::replace(&mut self.status, status);
        match (before == RefundStatus::Rejected, status == RefundStatus::Rejected) {
            (false, true) => Some(self.effect("refund_rejected")),
            (true, false) => Some(self.effect("refund")),
            (false, false) | (true, true) => None,
        }
    }

    pub(super) fn effect(&self, kind: &str) -> Effect {
        Effect {
            kind: kind.to_owned(),
            target: self.account.clone(),
            amount_minor: Some(self.amount_minor),
            currency: Some(self.currency.clone()),
            identifier: Some(self.identifier.clone()),
            reference: Some(self.number.to_string()),
            account: Some(self.account.clone()),
            fee_minor: None,
            paid_to: None,
        }
    }
}

impl RefundStatus {
    /// The word on the wire.
    pub fn word(self) -> &'static str {
        match self {
            Self::Submitted => "Submitted",
            Self::AwaitingReview => "Awaiting Review",
            Self::Approved => "Approved",
            Self::Completed => "Completed",
            Self::Rejected => "Rejected",
        }
    }

    pub(super) fn is_final(self) -> bool {
        matches!(self, Self::Completed | Self::Rejected)
    }

    pub(super) fn rank(self) -> u8 {
        match self {
            Self::Submitted => 0,
            Self::AwaitingReview => 1,
            Self::Approved => 2,
            Self::Completed | Self::Rejected => 3,
        }
    }
}

/// Hundredths as a decimal: 12.34.
pub(super) fn format_amount(minor: i64) -> String {
    let sign = if minor < 0 { "-" } else { "" };
    let minor = minor.unsigned_abs();
    format!("{sign}{}.{:02}", minor / 100, minor % 100)
}

fn five_hundred() -> i64 {
    50_000
}

fn aud() -> String {
    "AUD".to_owned()
}
