//! What a provider's answer *means*. Never a `Result`: `?` must not be able to throw a money answer
//! away.

use crate::domain::characters::is_control_or_format;
use crate::domain::clock::Timestamp;
use crate::domain::money::Money;

/// What became of one attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The provider says yes, for this very refund.
    Refunded(Confirmation),
    /// The provider took it and has not finished.
    Accepted(Acceptance),
    /// The provider's definite no.
    Refused {
        /// Its words.
        error: ProviderError,
        /// What it said of single items (name.com).
        items: Vec<ItemResult>,
    },
    /// Proof that nothing was processed: no byte left, or an answer documented to mean so.
    NotSent {
        /// Why; an empty code where no answer was read.
        error: ProviderError,
        /// When the provider says that it will listen again.
        retry_at: Option<Timestamp>,
    },
    /// Anything else, always.
    Unknown {
        /// In which way it is not known.
        reason: DoubtReason,
        /// What was seen, in words, without secrets: bounded by [`sanitize_provider_text`].
        evidence: String,
    },
}

/// What a look at the provider showed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lookup {
    /// The provider knows the refund, and this is what became of it.
    Found(Outcome),
    /// The provider does not show the refund. That is no proof that it never happened: it may still
    /// show later.
    NotFound {
        /// What was seen.
        evidence: String,
        /// name.com: what was seen of each requested item. Empty at the others.
        items: Vec<ItemResult>,
        /// What the provider shows besides.
        absence: Absence,
    },
    /// No usable answer: nothing was learnt of the refund.
    Unavailable {
        /// Why.
        evidence: String,
        /// What the answer tells of the account all the same.
        signal: AccountSignal,
    },
}

/// What an answer that tells nothing of a refund tells of the account that asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AccountSignal {
    /// Nothing: there was no answer, or none that can be believed.
    None,
    /// The provider refused the login.
    LoginRefused,
    /// The provider is there. It does not show the target to this login: the target is wrong, or
    /// the login.
    ForeignTarget,
    /// The provider took the login, and has no such target.
    UnknownTarget,
    /// The provider answers, but did not process the request: a matter of the settings, not of the
    /// circuit breaker.
    NotDispatched,
}

/// What a lookup that does not show the refund says about its absence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Absence {
    /// Nothing: the provider's view may lag behind.
    Unproven,
    /// What the refund would have destroyed first is still there (name.com: the domain of every
    /// requested item). Seen a settle time after the last attempt, that proves that no attempt had
    /// an effect.
    Untouched,
    /// The provider has destroyed what it destroys first, and shows no refund: the refund may still
    /// come, or never.
    HalfDone,
}

impl Lookup {
    /// The provider does not show the refund, and nothing besides.
    pub fn not_found(evidence: impl Into<String>) -> Self {
        Lookup::NotFound { evidence: evidence.into(), items: Vec::new(), absence: Absence::Unproven }
    }

    /// Nothing was learnt, of the refund or of the account.
    pub fn unavailable(evidence: impl Into<String>) -> Self {
        Lookup::Unavailable { evidence: evidence.into(), signal: AccountSignal::None }
    }
}

/// The provider's yes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Confirmation {
    /// The provider's own number for the refund.
    pub reference: Option<String>,
    /// The provider's own word for the state, verbatim.
    pub status: Option<String>,
    /// What it says it gave back.
    pub amount: Option<Money>,
    /// name.com: one entry an item.
    pub items: Vec<ItemResult>,
    /// A yes in part: what was said of the items that were refused.
    pub error: Option<ProviderError>,
    /// The provider says that it repeats an earlier answer and has done nothing now.
    pub replayed: bool,
    /// The provider's own remark beside the state, through [`sanitize_provider_text`].
    pub status_note: Option<String>,
    /// What else the answer said, for the history: warnings with a success, the number of the
    /// provider's message. Each through [`sanitize_provider_text`].
    pub remarks: Vec<String>,
}

/// The provider's "taken".
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Acceptance {
    /// The provider's own number for the refund.
    pub reference: Option<String>,
    /// The provider's own word for the state, verbatim.
    pub status: Option<String>,
    /// What it says it has given back so far (items of which some are done).
    pub amount: Option<Money>,
    /// name.com: one entry an item.
    pub items: Vec<ItemResult>,
    /// The provider says that it repeats an earlier answer and has done nothing now.
    pub replayed: bool,
    /// The provider's own remark beside the state, through [`sanitize_provider_text`].
    pub status_note: Option<String>,
    /// What else the answer said, for the history: warnings with a success, the number of the
    /// provider's message. Each through [`sanitize_provider_text`].
    pub remarks: Vec<String>,
}

/// What a provider said when it refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProviderError {
    /// The provider's own code, verbatim; empty where no answer was read.
    pub code: String,
    /// The provider's own text, through [`sanitize_provider_text`].
    pub message: String,
    /// 0 where no HTTP answer was read.
    pub http_status: u16,
    /// The same for every provider.
    pub category: ErrorCategory,
}

/// The kinds of refusal, the same for every provider.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorCategory {
    /// The request itself is wrong.
    InvalidRequest,
    /// The account's credentials were not accepted.
    CredentialsRefused,
    /// The account may not do this.
    PermissionDenied,
    /// No such order, item or account.
    TargetNotFound,
    /// Several accounts fit.
    TargetAmbiguous,
    /// It was refunded before.
    AlreadyRefunded,
    /// This kind of thing is not refunded.
    NotEligible,
    /// Too late.
    RefundPeriodOver,
    /// More than was paid.
    AmountTooLarge,
    /// The key or identifier is in use.
    IdentifierInUse,
    /// A rate, a quota or a threshold.
    LimitReached,
    /// A person at the provider said no.
    RejectedOnReview,
    /// None of these.
    Other,
}

/// One item of an order, and what became of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ItemResult {
    /// The provider's number of the item.
    pub item_id: String,
    /// Where it stands.
    pub state: ItemState,
    /// What was given back for it.
    pub refunded_amount: Option<Money>,
    /// The provider's words, through [`sanitize_provider_text`].
    pub message: String,
    /// False for an item that the provider refunded along with a requested one.
    pub requested: bool,
}

/// Where an item stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ItemState {
    /// Taken, not finished.
    Submitted,
    /// Given back.
    Succeeded,
    /// Refused.
    Failed,
    /// Not known.
    InDoubt,
}

/// In which way an outcome is not known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DoubtReason {
    /// No answer in time.
    Timeout,
    /// The connection ended before the answer did.
    ConnectionLost,
    /// A 5xx.
    ProviderServerError,
    /// An answer that cannot be read as the documents describe it.
    UnreadableReply,
    /// The provider itself says that it does not know.
    ProviderSaysUnknown,
    /// The gateway stopped while the attempt was on its way.
    GatewayRestarted,
    /// Two facts that cannot both be true.
    Contradiction,
}

/// The longest text of a provider that is kept, in bytes.
pub const MAX_PROVIDER_TEXT_BYTES: usize = 512;

/// A provider's text made safe to keep and to show: control and format characters escaped, blanks
/// at its ends left out, at most [`MAX_PROVIDER_TEXT_BYTES`] bytes.
pub fn sanitize_provider_text(text: &str) -> String {
    exact_text(text.trim()).0
}

/// As [`sanitize_provider_text`], but keeps the blanks at both ends: a blank may be all that distinguishes a
/// value from a documented one. Also returns whether the text was cut.
pub fn exact_text(text: &str) -> (String, bool) {
    let mut kept = String::with_capacity(text.len().min(MAX_PROVIDER_TEXT_BYTES));
    for character in text.chars() {
        let mark = kept.len();
        if is_unsafe_to_show(character) {
            kept.extend(character.escape_default());
        } else {
            kept.push(character);
        }
        if kept.len() > MAX_PROVIDER_TEXT_BYTES {
            kept.truncate(mark);
            return (kept, true);
        }
    }
    (kept, false)
}

/// Control and format characters, and the separators that begin a new line.
fn is_unsafe_to_show(character: char) -> bool {
    is_control_or_format(character) || matches!(character, '\u{2028}' | '\u{2029}')
}

impl Confirmation {
    /// Whether a requested item was refused while others were given back.
    pub fn is_partial(&self) -> bool {
        self.items.iter().any(|item| item.requested && item.state != ItemState::Succeeded)
    }
}

impl ProviderError {
    /// Its code and its text, to be read inside a sentence.
    pub fn to_text(&self) -> String {
        let message = self.message.trim_end_matches('.');
        if self.code.is_empty() { message.to_owned() } else { format!("{} {message}", self.code).trim_end().to_owned() }
    }
}

impl DoubtReason {
    /// All of them.
    pub const ALL: [DoubtReason; 7] = [
        DoubtReason::Timeout,
        DoubtReason::ConnectionLost,
        DoubtReason::ProviderServerError,
        DoubtReason::UnreadableReply,
        DoubtReason::ProviderSaysUnknown,
        DoubtReason::GatewayRestarted,
        DoubtReason::Contradiction,
    ];

    /// The word used in the ledger and the logs.
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

    /// Reads that word.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|one| one.as_str() == text)
    }
}

impl ErrorCategory {
    /// All of them.
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

    /// The word used in the ledger and the logs.
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

    /// Reads that word.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|one| one.as_str() == text)
    }
}

impl ItemState {
    /// All of them.
    pub const ALL: [ItemState; 4] = [ItemState::Submitted, ItemState::Succeeded, ItemState::Failed, ItemState::InDoubt];

    /// The word used in the ledger and the logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            ItemState::Submitted => "submitted",
            ItemState::Succeeded => "succeeded",
            ItemState::Failed => "failed",
            ItemState::InDoubt => "in_doubt",
        }
    }

    /// Reads that word.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|one| one.as_str() == text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn control_characters_are_shown_and_not_obeyed() {
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
        fn an_exact_text_is_whole_or_says_that_it_is_cut(text in "[\\PC&&[^\u{2028}\u{2029}]]{0,600}") {
            let (kept, cut) = exact_text(&text);
            prop_assert!(text.starts_with(&kept));
            prop_assert_eq!(cut, kept != text);
        }
    }
}
