//! What a provider's answer *means*. Deliberately not a `Result`: `?` must not be able to discard
//! an answer about money.

use crate::domain::characters::is_control_or_format;
use crate::domain::clock::Timestamp;
use crate::domain::money::Money;

/// The outcome of one attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The provider confirms this very refund.
    Refunded(Confirmation),
    /// The provider accepted the refund and has not finished it.
    Accepted(Acceptance),
    /// The provider definitely refused.
    Refused {
        error: ProviderError,
        /// name.com: the result of each item.
        items: Vec<ItemResult>,
    },
    /// Proof that nothing was processed: no byte left, or the answer is documented to mean that.
    NotSent {
        /// Why. The code is empty if no answer was read.
        error: ProviderError,
        /// When the provider says that it accepts requests again.
        retry_at: Option<Timestamp>,
    },
    /// Everything else.
    Unknown {
        reason: DoubtReason,
        /// What was seen, in a sentence without secrets, through [`sanitize_provider_text`].
        evidence: String,
    },
}

/// The result of one lookup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lookup {
    /// The provider has the refund; this is what became of it.
    Found(Outcome),
    /// The provider does not show the refund. That does not prove that it never happened: it may
    /// show up later.
    NotFound {
        evidence: String,
        /// name.com: what was seen of each requested item. Empty for the other providers.
        items: Vec<ItemResult>,
        /// What the absence proves.
        absence: Absence,
    },
    /// No usable answer: nothing was learnt about the refund.
    Unavailable {
        evidence: String,
        /// What the answer still reveals about the account's health.
        signal: AccountSignal,
    },
}

/// What one attempt led to: the outcome for the refund, and what the answer says about the account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttemptReport {
    /// What became of the refund.
    pub outcome: Outcome,
    /// What the answer says about the account that the attempt was made from.
    pub signal: AccountSignal,
}

/// What an answer to an attempt, a lookup or a probe says about the account that asked. The circuit
/// breaker decides by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AccountSignal {
    /// The provider accepted the login and answered about the request itself.
    Healthy,
    /// The provider refused the login.
    CredentialsRefused,
    /// The provider answers, but says that the target does not belong to this login: either the
    /// target is wrong or the login.
    ForeignTarget,
    /// No answer, or none that can be believed.
    Failure,
}

/// What a lookup that does not show the refund proves about its absence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Absence {
    /// Nothing: the provider's view may lag behind.
    Unproven,
    /// What a refund would have destroyed first is still there (name.com: the domain of every
    /// requested item). Observed a settle time after the last attempt, it proves that no attempt
    /// had an effect.
    Untouched,
    /// The provider has destroyed what it destroys first, and shows no refund: the refund may still
    /// come, or may never come.
    HalfDone,
}

impl Lookup {
    /// An absence that proves nothing, without items.
    pub fn not_found(evidence: impl Into<String>) -> Self {
        Lookup::NotFound { evidence: evidence.into(), items: Vec::new(), absence: Absence::Unproven }
    }

    /// Nothing was learnt, neither about the refund nor about the account.
    pub fn unavailable(evidence: impl Into<String>) -> Self {
        Lookup::Unavailable { evidence: evidence.into(), signal: AccountSignal::Failure }
    }

    /// What the lookup says about the account that asked.
    pub fn account_signal(&self) -> AccountSignal {
        match self {
            Lookup::Found(_) | Lookup::NotFound { .. } => AccountSignal::Healthy,
            Lookup::Unavailable { signal, .. } => *signal,
        }
    }
}

impl AccountSignal {
    /// What the outcome of an attempt says about the account where the provider's answer holds
    /// nothing further about it.
    pub fn of_attempt(outcome: &Outcome) -> Self {
        match outcome {
            Outcome::NotSent { error, .. } if error.category == ErrorCategory::CredentialsRefused => {
                AccountSignal::CredentialsRefused
            }
            // No byte left: the provider was not reached.
            Outcome::NotSent { error, .. } if error.http_status == 0 => AccountSignal::Failure,
            // The provider answered about the request itself, so it has accepted the login.
            Outcome::Refunded(_) | Outcome::Accepted(_) | Outcome::Refused { .. } | Outcome::NotSent { .. } => {
                AccountSignal::Healthy
            }
            Outcome::Unknown { .. } => AccountSignal::Failure,
        }
    }
}

impl From<Outcome> for AttemptReport {
    /// A report whose signal is [`AccountSignal::of_attempt`].
    fn from(outcome: Outcome) -> Self {
        Self { signal: AccountSignal::of_attempt(&outcome), outcome }
    }
}

/// A provider's confirmation of a refund.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Confirmation {
    /// The provider's number of the refund.
    pub reference: Option<String>,
    /// The provider's name of the state, verbatim.
    pub status: Option<String>,
    /// The amount that the provider reports as refunded.
    pub amount: Option<Money>,
    /// name.com: one entry per item.
    pub items: Vec<ItemResult>,
    /// A partial refund: the refusal of the other items.
    pub error: Option<ProviderError>,
    /// The provider says that it replays an earlier answer and did nothing now.
    pub replayed: bool,
    /// The provider's remark on the state, through [`sanitize_provider_text`].
    pub status_note: Option<String>,
    /// Other facts from the answer, for the history: warnings beside a success, the id of the
    /// provider's message. Each through [`sanitize_provider_text`].
    pub remarks: Vec<String>,
}

/// A provider's receipt of a refund that it has not finished.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Acceptance {
    /// The provider's number of the refund.
    pub reference: Option<String>,
    /// The provider's name of the state, verbatim.
    pub status: Option<String>,
    /// The amount refunded so far, where some items are done.
    pub amount: Option<Money>,
    /// name.com: one entry per item.
    pub items: Vec<ItemResult>,
    /// The provider says that it replays an earlier answer and did nothing now.
    pub replayed: bool,
    /// The provider's remark on the state, through [`sanitize_provider_text`].
    pub status_note: Option<String>,
    /// Other facts from the answer, for the history: warnings beside a success, the id of the
    /// provider's message. Each through [`sanitize_provider_text`].
    pub remarks: Vec<String>,
}

/// A provider's refusal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProviderError {
    /// The provider's code, verbatim; empty if no answer was read.
    pub code: String,
    /// The provider's text, through [`sanitize_provider_text`].
    pub message: String,
    /// 0 if no HTTP answer was read.
    pub http_status: u16,
    pub category: ErrorCategory,
}

/// The kind of a refusal, the same for every provider.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorCategory {
    /// The request itself is wrong.
    InvalidRequest,
    /// The provider did not accept the account's credentials.
    CredentialsRefused,
    /// The account is not allowed to do this.
    PermissionDenied,
    /// No such order, item or account.
    TargetNotFound,
    /// Several accounts match the references.
    TargetAmbiguous,
    /// The target was refunded before.
    AlreadyRefunded,
    /// Targets of this kind are not refundable.
    NotEligible,
    /// The refund period is over.
    RefundPeriodOver,
    /// The amount exceeds what was paid.
    AmountTooLarge,
    /// The idempotency key or the identifier is in use.
    IdentifierInUse,
    /// A rate limit, a quota or a threshold.
    LimitReached,
    /// A reviewer at the provider rejected it.
    RejectedOnReview,
    /// None of these.
    Other,
}

/// The result of one item of an order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ItemResult {
    /// The provider's number of the item.
    pub item_id: String,
    pub state: ItemState,
    /// The amount refunded for it.
    pub refunded_amount: Option<Money>,
    /// The provider's text, through [`sanitize_provider_text`].
    pub message: String,
    /// False for an item that the provider refunded along with a requested one.
    pub requested: bool,
}

/// The state of one item.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ItemState {
    /// Accepted, not finished.
    Submitted,
    /// Refunded.
    Succeeded,
    /// Refused.
    Failed,
    InDoubt,
}

/// Why an outcome is unknown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DoubtReason {
    /// No answer within `total_timeout`.
    Timeout,
    /// The connection ended before the answer did.
    ConnectionLost,
    /// HTTP 5xx.
    ProviderServerError,
    /// The answer is not one that the provider documents.
    UnreadableReply,
    /// The provider itself says that it does not know.
    ProviderSaysUnknown,
    /// The gateway stopped while the attempt was on its way.
    GatewayRestarted,
    /// Two facts that cannot both be true.
    Contradiction,
}

/// Maximum length of a provider's text that is kept, in bytes.
pub const MAX_PROVIDER_TEXT_BYTES: usize = 512;

/// Makes a provider's text safe to keep and to show: escapes control and format characters, trims
/// blanks, and cuts it at [`MAX_PROVIDER_TEXT_BYTES`].
pub fn sanitize_provider_text(text: &str) -> String {
    exact_text(text.trim()).0
}

/// As [`sanitize_provider_text`], but keeps the blanks at both ends: a blank may be the only
/// difference between a value and the documented one. Also returns whether the text was cut.
pub fn exact_text(text: &str) -> (String, bool) {
    let mut kept = String::with_capacity(text.len().min(MAX_PROVIDER_TEXT_BYTES));
    for character in text.chars() {
        let length = kept.len();
        if is_unsafe_to_show(character) {
            kept.extend(character.escape_default());
        } else {
            kept.push(character);
        }
        if kept.len() > MAX_PROVIDER_TEXT_BYTES {
            kept.truncate(length);
            return (kept, true);
        }
    }
    (kept, false)
}

/// Control and format characters, and the Unicode separators that begin a new line.
fn is_unsafe_to_show(character: char) -> bool {
    is_control_or_format(character) || matches!(character, '\u{2028}' | '\u{2029}')
}

impl Confirmation {
    /// Whether a requested item was not refunded although others were.
    pub fn is_partial(&self) -> bool {
        self.items.iter().any(|item| item.requested && item.state != ItemState::Succeeded)
    }
}

impl ProviderError {
    /// Code and text, for use inside a sentence.
    pub fn to_text(&self) -> String {
        let message = self.message.trim_end_matches('.');
        if self.code.is_empty() { message.to_owned() } else { format!("{} {message}", self.code).trim_end().to_owned() }
    }
}

impl DoubtReason {
    pub const ALL: [DoubtReason; 7] = [
        DoubtReason::Timeout,
        DoubtReason::ConnectionLost,
        DoubtReason::ProviderServerError,
        DoubtReason::UnreadableReply,
        DoubtReason::ProviderSaysUnknown,
        DoubtReason::GatewayRestarted,
        DoubtReason::Contradiction,
    ];

    /// The name used in the ledger, the logs and the metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            DoubtReason::Timeout => "timeout",
            DoubtReason::ConnectionLost => "connection_lost",
            DoubtReason::ProviderServerError => "provider_server_error",
            DoubtReason::UnreadableReply => "unreadable_reply",
            DoubtReason::ProviderSaysUnknown => "provider_says_unknown",
            DoubtReason::GatewayRestarted => "gateway_restarted",
            DoubtReason::Contradiction => "contradiction",
        }
    }

    /// The inverse of [`DoubtReason::as_str`].
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|one| one.as_str() == text)
    }
}

impl ErrorCategory {
    pub const ALL: [ErrorCategory; 13] = [
        ErrorCategory::InvalidRequest,
        ErrorCategory::CredentialsRefused,
        ErrorCategory::PermissionDenied,
        ErrorCategory::TargetNotFound,
        ErrorCategory::TargetAmbiguous,
        ErrorCategory::AlreadyRefunded,
        ErrorCategory::NotEligible,
        ErrorCategory::RefundPeriodOver,
        ErrorCategory::AmountTooLarge,
        ErrorCategory::IdentifierInUse,
        ErrorCategory::LimitReached,
        ErrorCategory::RejectedOnReview,
        ErrorCategory::Other,
    ];

    /// The name used in the ledger and the logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            ErrorCategory::InvalidRequest => "invalid_request",
            ErrorCategory::CredentialsRefused => "credentials_refused",
            ErrorCategory::PermissionDenied => "permission_denied",
            ErrorCategory::TargetNotFound => "target_not_found",
            ErrorCategory::TargetAmbiguous => "target_ambiguous",
            ErrorCategory::AlreadyRefunded => "already_refunded",
            ErrorCategory::NotEligible => "not_eligible",
            ErrorCategory::RefundPeriodOver => "refund_period_over",
            ErrorCategory::AmountTooLarge => "amount_too_large",
            ErrorCategory::IdentifierInUse => "identifier_in_use",
            ErrorCategory::LimitReached => "limit_reached",
            ErrorCategory::RejectedOnReview => "rejected_on_review",
            ErrorCategory::Other => "other",
        }
    }

    /// The inverse of [`ErrorCategory::as_str`].
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|one| one.as_str() == text)
    }
}

impl ItemState {
    pub const ALL: [ItemState; 4] = [ItemState::Submitted, ItemState::Succeeded, ItemState::Failed, ItemState::InDoubt];

    /// The name used in the ledger and the logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            ItemState::Submitted => "submitted",
            ItemState::Succeeded => "succeeded",
            ItemState::Failed => "failed",
            ItemState::InDoubt => "in_doubt",
        }
    }

    /// The inverse of [`ItemState::as_str`].
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|one| one.as_str() == text)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    fn not_sent(category: ErrorCategory, http_status: u16) -> Outcome {
        let error = ProviderError { code: String::new(), message: String::new(), http_status, category };
        Outcome::NotSent { error, retry_at: None }
    }

    fn refused() -> Outcome {
        let (code, message, category) = ("-18".to_owned(), String::new(), ErrorCategory::NotEligible);
        Outcome::Refused { error: ProviderError { code, message, http_status: 200, category }, items: Vec::new() }
    }

    #[rstest]
    #[case::refunded(Outcome::Refunded(Confirmation::default()), AccountSignal::Healthy)]
    #[case::accepted(Outcome::Accepted(Acceptance::default()), AccountSignal::Healthy)]
    #[case::refused(refused(), AccountSignal::Healthy)]
    #[case::login_refused(not_sent(ErrorCategory::CredentialsRefused, 401), AccountSignal::CredentialsRefused)]
    #[case::not_processed(not_sent(ErrorCategory::LimitReached, 429), AccountSignal::Healthy)]
    #[case::not_connected(not_sent(ErrorCategory::Other, 0), AccountSignal::Failure)]
    #[case::unknown(
        Outcome::Unknown { reason: DoubtReason::Timeout, evidence: String::new() },
        AccountSignal::Failure
    )]
    fn an_attempt_says_something_about_the_account(#[case] outcome: Outcome, #[case] expected: AccountSignal) {
        assert_eq!(AttemptReport::from(outcome).signal, expected);
    }

    #[rstest]
    #[case::found(Lookup::Found(refused()), AccountSignal::Healthy)]
    #[case::not_found(Lookup::not_found("Processed"), AccountSignal::Healthy)]
    #[case::no_answer(Lookup::unavailable("timeout"), AccountSignal::Failure)]
    #[case::foreign_target(unavailable(AccountSignal::ForeignTarget), AccountSignal::ForeignTarget)]
    #[case::login_refused(unavailable(AccountSignal::CredentialsRefused), AccountSignal::CredentialsRefused)]
    #[case::nothing_learnt(unavailable(AccountSignal::Healthy), AccountSignal::Healthy)]
    fn a_lookup_says_something_about_the_account(#[case] lookup: Lookup, #[case] expected: AccountSignal) {
        assert_eq!(lookup.account_signal(), expected);
    }

    fn unavailable(signal: AccountSignal) -> Lookup {
        Lookup::Unavailable { evidence: "odd".to_owned(), signal }
    }

    #[test]
    fn control_characters_are_escaped() {
        assert_eq!(sanitize_provider_text("a\u{1b}[2J\r\nb\u{202e}c"), "a\\u{1b}[2J\\r\\nb\\u{202e}c");
        assert_eq!(sanitize_provider_text(" a\u{200b}\u{2028}b\u{e0041} "), "a\\u{200b}\\u{2028}b\\u{e0041}");
    }

    proptest! {
        #[test]
        fn provider_text_is_bounded_and_clean(text in any::<String>()) {
            let kept = sanitize_provider_text(&text);
            prop_assert!(kept.len() <= MAX_PROVIDER_TEXT_BYTES);
            prop_assert!(!kept.chars().any(is_control_or_format));
        }

        #[test]
        fn an_exact_text_is_whole_or_reported_as_cut(text in "[\\PC&&[^\u{2028}\u{2029}]]{0,600}") {
            let (kept, cut) = exact_text(&text);
            prop_assert!(text.starts_with(&kept));
            prop_assert_eq!(cut, kept != text);
        }
    }
}
