//! What the pages of Debitsuccess leave open, as settings.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{providers::setting_values, request::Deduplication};

/// Where the documentation leaves a choice.
///
/// Each setting is marked: *documented* (and where), *inferred* (reasoned from documents and public
/// clients), *unknown* (a guess that a client must not rest on).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "DebitsuccessSettings")]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// The namespace of the operations. Default `http://tempuri.org/`. *Inferred* (WCF default).
    pub service_namespace: String,
    /// The name of the service contract, part of each SOAPAction. Default `IDSServices`. *Unknown*.
    pub contract: String,
    /// The namespace of the members. Default
    /// `http://schemas.datacontract.org/2004/07/DSWebService`. *Unknown*.
    pub data_namespace: String,
    /// Whether both namespaces and the SOAPAction must be exactly right; if not, any namespace is
    /// taken, and any SOAPAction that ends in the operation's name. Default false. *Inferred*: WCF
    /// is strict, but the right names are not public.
    pub strict_names: bool,
    /// Whether members that stand out of the contract's order (base class first, then by name) are
    /// dropped without a word. Default false. *Inferred*: what WCF's DataContractSerializer does.
    pub strict_order: bool,
    /// What 13040 measures an amount against. Default `remaining`. *Documented*: "up to the total
    /// amount collected"; that earlier refunds count is *inferred*.
    pub refund_limit: RefundLimit,
    /// What happens to a Description above 4000 or a RequestInitiator above 100 characters. Default
    /// `refuse`. The lengths are *documented*, the consequence is *unknown*.
    pub over_length: OverLength,
    /// What RefundRequestNumber is in a failed answer. Default `zero`. *Inferred*.
    pub failed_number: FailedNumber,
    /// How XML that cannot be read is answered. Default `fault`. *Inferred* both ways: some WCF
    /// bindings answer a plain 400.
    pub unreadable_xml: UnreadableXml,
    /// The offset of every date in an answer, in minutes east of UTC, from -840 to 840. Default 720
    /// (New Zealand without summer time). *Inferred*.
    #[serde(deserialize_with = "setting_values::offset_minutes")]
    #[schemars(range(min = -840, max = 840))]
    pub utc_offset_minutes: i16,
    /// How many seconds after its creation a refund becomes `Awaiting Review`; none is by hand
    /// only. Default none. *Unknown*.
    pub awaiting_review_after_seconds: Option<u64>,
    /// How many seconds after its creation a refund is decided: `Approved`, or `Rejected` where its
    /// account says so; none is by hand only. Default none. *Unknown*.
    pub approved_after_seconds: Option<u64>,
    /// How many seconds after its creation a refund becomes `Completed`; none is by hand only.
    /// Default none. *Unknown*.
    pub completed_after_seconds: Option<u64>,
    /// Whether an identifier that an account has already is refused with 14143. Default on.
    /// *Documented*; off is for finding mistakes.
    pub deduplication: Deduplication,
    /// What is charged for a refund, in hundredths of the account's currency; it stands in the
    /// books alone. Default 0. *Documented* without a size, and on no wire.
    pub service_fee_minor: i64,
    /// Whether a known identifier is refused before an amount is held against what was collected,
    /// or after, and whether an account is looked up behind all that a request shows by itself.
    /// Default `identifier_first`. *Inferred*: a re-send has to hear 14143 although its first try
    /// has used up the money.
    pub check_order: CheckOrder,
    /// What both references given are that name different accounts. Default `08`. *Inferred*.
    pub differing_references: DifferingReferences,
    /// How an Amount of zero, below zero or of more than 8 whole digits is answered. Default
    /// `13012`. *Inferred*.
    pub amount_out_of_range: AmountOutOfRange,
    /// Whether all errors that the request shows by itself are noted, or the first alone. Default
    /// `all`. *Unknown*.
    pub notes: Notes,
    /// In whose wording 00 and 02 are. Default `method_page`. Both *documented*.
    pub texts: Texts,
    /// The word of Status for success. Default `Succeed`. *Documented*; a sibling page has
    /// `Success`.
    pub success_word: SuccessWord,
    /// How RefundAmount is written. Default `decimal`. *Documented* as an integer, which could not
    /// tell cents: *inferred*.
    pub refund_amount: RefundAmount,
    /// The HTTP status beside a Status that is no success, from 200 to 599. Default 200.
    /// *Inferred*: it is no SOAP fault.
    #[serde(deserialize_with = "setting_values::http_status")]
    #[schemars(range(min = 200, max = 599))]
    pub business_error_http_status: u16,
    /// Whether 02 stands alone, or with what else the request shows by itself. Default `alone`.
    /// *Inferred*.
    pub wrong_credentials: WrongCredentials,
    /// What GetRefundStatus answers about a refund that is not there. Default `08`. *Inferred*.
    pub missing_refund: MissingRefund,
    /// What GetRefundStatus answers without a number and an identifier. Default `08`. *Inferred*.
    pub status_without_identifier: StatusWithoutIdentifier,
    /// The Status beside 01, 05, 06, 09 and 11, which say that something went wrong in processing.
    /// Default `Failed`. *Unknown*: `Unknown` is documented as a word, and nothing about it.
    pub unfinished_status: UnfinishedStatus,
    /// Whether a refund can be moved on from Completed and Rejected, over the control port. Default
    /// `final`. *Inferred*.
    pub final_statuses: FinalStatuses,
}

/// What 02 stands with.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
#[serde(rename_all = "snake_case")]
pub enum WrongCredentials {
    /// Nothing: nothing else is looked at.
    #[default]
    Alone,
    /// The errors that the request shows by itself.
    WithOthers,
}

/// What GetRefundStatus answers about a refund that is not there.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub enum MissingRefund {
    /// 08.
    #[default]
    #[serde(rename = "08")]
    NoRecord,
    /// Success, with nothing in it.
    #[serde(rename = "empty")]
    Empty,
}

/// What GetRefundStatus answers without a number and an identifier.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub enum StatusWithoutIdentifier {
    /// 08: there is nothing to be found.
    #[default]
    #[serde(rename = "08")]
    NoRecord,
    /// The system-wide code 100, `SOAP message validation error`.
    #[serde(rename = "100")]
    MessageValidation,
}

/// The Status of what went wrong in processing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
#[allow(missing_docs, reason = "the words themselves")]
pub enum UnfinishedStatus {
    #[default]
    Failed,
    Unknown,
}

/// Whether a refund can be moved on from Completed and Rejected.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
#[serde(rename_all = "snake_case")]
pub enum FinalStatuses {
    /// It cannot.
    #[default]
    Final,
    /// It can. A Rejected refund that is moved on is paid after all.
    CanBeLeft,
}

/// Which errors are noted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
#[serde(rename_all = "snake_case")]
pub enum Notes {
    /// All that apply.
    #[default]
    All,
    /// The first alone.
    First,
}

/// Which of an identifier and an amount is looked at first.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
#[serde(rename_all = "snake_case")]
pub enum CheckOrder {
    /// 14143 before 13040.
    #[default]
    IdentifierFirst,
    /// 13040 before 14143.
    AmountFirst,
    /// 08 and 07 before what the request shows by itself; else as `identifier_first`.
    AccountFirst,
}

/// What two references are that name different accounts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub enum DifferingReferences {
    /// 08: there is no such account.
    #[default]
    #[serde(rename = "08")]
    NoRecord,
    /// 07: there are several.
    #[serde(rename = "07")]
    Several,
    /// AccountReferenceNo counts, and the other one is not looked at.
    #[serde(rename = "account_reference")]
    AccountReference,
}

/// How an amount is answered that is a number, but none to refund.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub enum AmountOutOfRange {
    /// 13012 `Invalid Amount value`.
    #[default]
    #[serde(rename = "13012")]
    InvalidAmount,
    /// The system-wide code 100, `SOAP message validation error`.
    #[serde(rename = "100")]
    MessageValidation,
}

/// In whose wording 00 and 02 are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
#[serde(rename_all = "snake_case")]
pub enum Texts {
    /// `Success`, `Invalid user credentials`.
    #[default]
    MethodPage,
    /// `Success!`, `Invalid credentials provided`.
    SystemPage,
}

/// The word of Status for success.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
#[allow(missing_docs, reason = "the words themselves")]
pub enum SuccessWord {
    #[default]
    Succeed,
    Success,
}

/// How RefundAmount is written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
#[serde(rename_all = "snake_case")]
pub enum RefundAmount {
    /// `12.34`.
    #[default]
    Decimal,
    /// `12`: what is behind the point is dropped.
    Integer,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            service_namespace: "http://tempuri.org/".to_owned(),
            contract: "IDSServices".to_owned(),
            data_namespace: "http://schemas.datacontract.org/2004/07/DSWebService".to_owned(),
            strict_names: false,
            strict_order: false,
            refund_limit: RefundLimit::default(),
            over_length: OverLength::default(),
            failed_number: FailedNumber::default(),
            unreadable_xml: UnreadableXml::default(),
            utc_offset_minutes: 720,
            awaiting_review_after_seconds: None,
            approved_after_seconds: None,
            completed_after_seconds: None,
            deduplication: Deduplication::default(),
            service_fee_minor: 0,
            check_order: CheckOrder::default(),
            differing_references: DifferingReferences::default(),
            amount_out_of_range: AmountOutOfRange::default(),
            notes: Notes::default(),
            texts: Texts::default(),
            success_word: SuccessWord::default(),
            refund_amount: RefundAmount::default(),
            business_error_http_status: 200,
            wrong_credentials: WrongCredentials::default(),
            missing_refund: MissingRefund::default(),
            status_without_identifier: StatusWithoutIdentifier::default(),
            unfinished_status: UnfinishedStatus::default(),
            final_statuses: FinalStatuses::default(),
        }
    }
}

/// What 13040 measures an amount against.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
#[serde(rename_all = "snake_case")]
pub enum RefundLimit {
    /// The collected sum less all refunds that are not Rejected.
    #[default]
    Remaining,
    /// The collected sum, literally: each refund on its own.
    Collected,
}

/// What happens to a text that is longer than documented.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
#[serde(rename_all = "snake_case")]
pub enum OverLength {
    /// The system-wide code 100, `SOAP message validation error`.
    #[default]
    Refuse,
    /// It is cut.
    Truncate,
}

/// What RefundRequestNumber is in a failed answer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
#[serde(rename_all = "snake_case")]
pub enum FailedNumber {
    /// `0`.
    #[default]
    Zero,
    /// `i:nil="true"`.
    Nil,
}

/// How XML that cannot be read is answered.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
#[serde(rename_all = "snake_case")]
pub enum UnreadableXml {
    /// A SOAP fault with HTTP 500.
    #[default]
    Fault,
    /// HTTP 400 without a body.
    BadRequest,
}
