//! Settings for what Debitsuccess' documentation leaves open.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{providers::setting_values, request::Deduplication};

/// The choices of Debitsuccess' documentation.
///
/// Each setting is marked: *documented* (and where), *inferred* (from documents and public
/// clients), *unknown* (a guess that a client must not rely on).
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
    /// Whether both namespaces and the SOAPAction must be exact. If not, any namespace is accepted,
    /// and any SOAPAction that ends in the operation's name. Default false. *Inferred*: WCF
    /// is strict, but the right names are not public.
    pub strict_names: bool,
    /// Whether members that are not in the order of the contract (base class first, then by name)
    /// are silently ignored. Default false. *Inferred*: what WCF's DataContractSerializer does.
    pub strict_order: bool,
    /// The limit that 13040 applies to an amount. Default `remaining`. *Documented*: "up to the
    /// total amount collected"; that earlier refunds count is *inferred*.
    pub refund_limit: RefundLimit,
    /// What happens to a Description above 4000 or a RequestInitiator above 100 characters. Default
    /// `refuse`. The lengths are *documented*, the consequence is *unknown*.
    pub over_length: OverLength,
    /// The RefundRequestNumber in a failed answer. Default `zero`. *Inferred*.
    pub failed_number: FailedNumber,
    /// The answer to invalid XML. Default `fault`. *Inferred* both ways: some WCF
    /// bindings answer a plain 400.
    pub unreadable_xml: UnreadableXml,
    /// The offset of every date in an answer, in minutes east of UTC, from -840 to 840. Default 720
    /// (New Zealand without summer time). *Inferred*.
    #[serde(deserialize_with = "setting_values::offset_minutes")]
    #[schemars(range(min = -840, max = 840))]
    pub utc_offset_minutes: i16,
    /// The seconds after its creation in which a refund becomes `Awaiting Review`; none for by hand
    /// only. Default none. *Unknown*.
    pub awaiting_review_after_seconds: Option<u64>,
    /// The seconds after its creation in which a refund is decided: `Approved`, or `Rejected` if
    /// its account says so; none for by hand only. Default none. *Unknown*.
    pub approved_after_seconds: Option<u64>,
    /// The seconds after its creation in which a refund becomes `Completed`; none for by hand only.
    /// Default none. *Unknown*.
    pub completed_after_seconds: Option<u64>,
    /// Whether an identifier that an account has already is refused with 14143. Default on.
    /// *Documented*; off helps to find mistakes.
    pub deduplication: Deduplication,
    /// The fee of a refund, in hundredths of the account's currency. It appears only in the books.
    /// Default 0. *Documented* without a size, and on no wire.
    pub service_fee_minor: i64,
    /// Whether a known identifier is refused before or after the amount is checked, and whether the
    /// account is checked after the request itself. Default `identifier_first`. *Inferred*: a
    /// re-send has to get 14143 although its first attempt has used up the money.
    pub check_order: CheckOrder,
    /// The answer if the two references name different accounts. Default `08`. *Inferred*.
    pub differing_references: DifferingReferences,
    /// The answer to an Amount of zero, below zero or with more than 8 whole digits. Default
    /// `13012`. *Inferred*.
    pub amount_out_of_range: AmountOutOfRange,
    /// Whether all errors in the request itself are noted, or only the first. Default
    /// `all`. *Unknown*.
    pub notes: Notes,
    /// The wording of 00 and 02. Default `method_page`. Both *documented*.
    pub texts: Texts,
    /// The word of Status for success. Default `Succeed`. *Documented*; a sibling page has
    /// `Success`.
    pub success_word: SuccessWord,
    /// The format of RefundAmount. Default `decimal`. *Documented* as an integer, which could not
    /// contain cents: *inferred*.
    pub refund_amount: RefundAmount,
    /// The HTTP status beside a Status that is no success, from 200 to 599. Default 200.
    /// *Inferred*: it is no SOAP fault.
    #[serde(deserialize_with = "setting_values::http_status")]
    #[schemars(range(min = 200, max = 599))]
    pub business_error_http_status: u16,
    /// Whether 02 is noted alone, or with the errors in the request itself. Default `alone`.
    /// *Inferred*.
    pub wrong_credentials: WrongCredentials,
    /// The answer of GetRefundStatus for an unknown refund. Default `08`. *Inferred*.
    pub missing_refund: MissingRefund,
    /// The answer of GetRefundStatus without number and identifier. Default `08`. *Inferred*.
    pub status_without_identifier: StatusWithoutIdentifier,
    /// The Status beside 01, 05, 06, 09 and 11, which report errors in processing. Default
    /// `Failed`. *Unknown*: `Unknown` is a documented word without an explanation.
    pub unfinished_status: UnfinishedStatus,
    /// Whether the control port can move a refund from Completed and Rejected. Default
    /// `final`. *Inferred*.
    pub final_statuses: FinalStatuses,
}

/// What is noted with 02.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
#[serde(rename_all = "snake_case")]
pub enum WrongCredentials {
    /// Nothing.
    #[default]
    Alone,
    /// The errors in the request itself.
    WithOthers,
}

/// The answer of GetRefundStatus for an unknown refund.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub enum MissingRefund {
    /// 08.
    #[default]
    #[serde(rename = "08")]
    NoRecord,
    /// Success, without a refund.
    #[serde(rename = "empty")]
    Empty,
}

/// The answer of GetRefundStatus without number and identifier.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub enum StatusWithoutIdentifier {
    /// 08.
    #[default]
    #[serde(rename = "08")]
    NoRecord,
    /// The system-wide code 100, `SOAP message validation error`.
    #[serde(rename = "100")]
    MessageValidation,
}

/// The Status of errors in processing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
#[allow(missing_docs, reason = "the words themselves")]
pub enum UnfinishedStatus {
    #[default]
    Failed,
    Unknown,
}

/// Whether a refund can be moved from Completed and Rejected.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
#[serde(rename_all = "snake_case")]
pub enum FinalStatuses {
    /// No.
    #[default]
    Final,
    /// Yes. A Rejected refund that is moved is paid after all.
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
    /// Only the first.
    First,
}

/// Which of identifier and amount is checked first.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
#[serde(rename_all = "snake_case")]
pub enum CheckOrder {
    /// 14143 before 13040.
    #[default]
    IdentifierFirst,
    /// 13040 before 14143.
    AmountFirst,
    /// 08 and 07 before the errors in the request itself; otherwise as `identifier_first`.
    AccountFirst,
}

/// The answer to two references that name different accounts.
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
    /// None: AccountReferenceNo counts.
    #[serde(rename = "account_reference")]
    AccountReference,
}

/// The answer to a number that is no refundable amount.
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

/// The wording of 00 and 02.
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

/// The format of RefundAmount.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
#[serde(rename_all = "snake_case")]
pub enum RefundAmount {
    /// `12.34`.
    #[default]
    Decimal,
    /// `12`: without the cents.
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

/// The limit that 13040 applies to an amount.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
#[serde(rename_all = "snake_case")]
pub enum RefundLimit {
    /// The collected sum minus all refunds that are not Rejected.
    #[default]
    Remaining,
    /// The collected sum, for each refund.
    Collected,
}

/// What happens to texts that are too long.
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

/// The RefundRequestNumber in a failed answer.
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

/// The answer to invalid XML.
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
