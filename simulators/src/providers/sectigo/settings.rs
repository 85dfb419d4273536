//! Settings for what Sectigo's documentation leaves open.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Processing;
use crate::{providers::setting_values, request::Deduplication};

/// The choices and numbers of Sectigo's documentation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "SectigoSettings")]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// The number of days after its purchase in which an order can be refunded; then -18. Default
    /// 30. *Inferred* from the general return policy; 14 is documented for SiteLock.
    pub refund_period_days: u32,
    /// How long after a refund `orderStatus` still shows its old value, in seconds. Default 0.
    /// *Unknown*.
    pub status_lag_seconds: u32,
    /// Authenticated calls per account and minute, all calls together; beyond it -42. Default none.
    /// *Documented* for SiteLock without a number.
    pub calls_per_minute: Option<u32>,
    /// Whether an order number that is not all digits is -4; if not, it is an unknown order.
    /// Default true. *Inferred*: a string on the AutoRefund page, an integer on the SiteLock page.
    pub order_numbers_are_digits: bool,
    /// Whether the lines of a plain answer end in CR LF. Default false. *Unknown*.
    pub crlf: bool,
    /// Whether a plain answer ends with a line ending. Default false. *Unknown*.
    pub trailing_newline: bool,
    /// Whether an order that was refunded is refused a second refund. Default on. *Documented* for
    /// SiteLock; off helps to find mistakes.
    pub deduplication: Deduplication,
    /// The code of that refusal. Default -18. Both *documented* for SiteLock.
    pub already_refunded: AlreadyRefunded,
    /// The wording of texts that differ between the pages. Default: each call has that of its own
    /// page. *Inferred*.
    pub texts: Texts,
    /// The HTTP status beside a code below 0, from 200 to 599. Default 200. *Inferred*.
    #[serde(deserialize_with = "setting_values::http_status")]
    #[schemars(range(min = 200, max = 599))]
    pub refusal_http_status: u16,
    /// The maximum length of an order number, in characters. Default 128. *Documented* twice: 64 in
    /// the older copy.
    pub max_order_number_chars: u16,
    /// The code of the status call for an order that is not the account's. Default -4. *Inferred*.
    pub unknown_order_to_status_call: UnknownOrder,
    /// Whether the arguments are checked before the login, or after it. Default before. *Unknown*.
    pub check_order: CheckOrder,
    /// The answer to methods that are neither POST nor GET. Default -17. *Inferred*: documented
    /// for GET.
    pub other_methods: OtherMethods,
    /// The answer to a second argument of one name. Default -2. *Inferred*: one argument too many.
    pub repeated_argument: RepeatedArgument,
    /// The answer to a required argument without a value. Default -3. *Inferred*.
    pub empty_argument: EmptyArgument,
    /// How the status call writes an answer without `data`. Default left out. *Inferred*.
    pub no_data: NoData,
    /// Whether -1 is checked first, or -17. Default `https`. *Unknown*.
    pub first_check: FirstCheck,
    /// The `Content-Type` of a plain answer. Default `text/plain`. *Inferred*: documented for a
    /// sibling.
    #[serde(deserialize_with = "setting_values::media_type")]
    #[schemars(length(min = 1, max = 500))]
    pub plain_content_type: String,
    /// The `Content-Type` of the status call's answer. Default `application/json; charset=UTF-8`.
    /// *Inferred*.
    #[serde(deserialize_with = "setting_values::media_type")]
    #[schemars(length(min = 1, max = 500))]
    pub status_content_type: String,
    /// Arguments in the query string. Default `ignored`. *Inferred*: a form is documented, and no
    /// query.
    pub arguments_in_query: ArgumentsInQuery,
    /// How the names of arguments are read. Default `exact`. *Inferred*; a public client spells
    /// `LOGINPASSWORD` (*observed*).
    pub argument_names: ArgumentNames,
    /// A body of another content type than a form. Default `no_arguments`. *Inferred*.
    pub other_content_types: OtherContentTypes,
    /// A value that is not UTF-8. Default -4. *Inferred*: no other code is about a value.
    pub invalid_utf8: InvalidUtf8,
    /// The code for a wrong login and for a locked account, from -999 to -1. Default -16.
    /// *Inferred*.
    #[serde(deserialize_with = "setting_values::refusal_code")]
    #[schemars(range(min = -999, max = -1))]
    pub wrong_login_code: i32,
    /// The code of the refund calls for an order that is not the account's. Default -16.
    /// *Inferred*.
    pub unknown_order: UnknownOrder,
    /// The argument `responseFormat`, which one public client sends with a refund. Default -2.
    /// *Inferred*: no page of the call has it.
    pub response_format: ResponseFormat,
    /// What `!AutoReject` does. Default `rejects`. *Inferred* from its name and its page.
    pub auto_reject: AutoReject,
    /// The code of a refund for an order that was rejected. Default -18. *Inferred*.
    pub rejected_order: AlreadyRefunded,
    /// The `orderStatus` after a refund. Default `Refunded`. *Inferred* for SSL, documented for
    /// SiteLock.
    pub status_after_refund: StatusAfterRefund,
    /// `CertificateID` of the status call. Default `accepted`. *Unknown*: the newer page alone has
    /// it, without an effect.
    pub certificate_id: CertificateId,
    /// How the processing of a refund goes unless its order says otherwise: what a -14 leaves
    /// behind. Default `works`. *Unknown*.
    pub processing: Processing,
    /// The sentence of -18 for an order that was refunded. *Documented* as a description.
    #[serde(deserialize_with = "setting_values::sentence")]
    #[schemars(length(min = 1, max = 500))]
    pub already_refunded_text: String,
    /// The sentence of -18 for a multi-domain order. *Inferred*.
    #[serde(deserialize_with = "setting_values::sentence")]
    #[schemars(length(min = 1, max = 500))]
    pub multi_domain_text: String,
    /// The sentence of -18 after the refund period. *Inferred*.
    #[serde(deserialize_with = "setting_values::sentence")]
    #[schemars(length(min = 1, max = 500))]
    pub period_over_text: String,
    /// The sentence of -18 for an order that was rejected. *Inferred*.
    #[serde(deserialize_with = "setting_values::sentence")]
    #[schemars(length(min = 1, max = 500))]
    pub rejected_text: String,
    /// The sentence of -18 by which `!AutoReject` refuses an order that was refunded or rejected.
    /// *Inferred*.
    #[serde(deserialize_with = "setting_values::sentence")]
    #[schemars(length(min = 1, max = 500))]
    pub not_rejectable_text: String,
}

/// Which of -1 and -17 is checked first.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
#[serde(rename_all = "snake_case")]
pub enum FirstCheck {
    /// -1.
    #[default]
    Https,
    /// -17 (and HTTP 404 and 405), also without TLS.
    Method,
}

/// How the names of arguments are read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
#[serde(rename_all = "snake_case")]
pub enum ArgumentNames {
    /// As documented. Names in other letters are unrecognized, and only identify the world.
    #[default]
    Exact,
    /// In any case.
    AnyCase,
}

/// Arguments in the query string.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
#[serde(rename_all = "snake_case")]
pub enum ArgumentsInQuery {
    /// They are ignored, and only identify the world.
    #[default]
    Ignored,
    /// They follow those of the body.
    Read,
}

/// A body of another content type than a form.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
#[serde(rename_all = "snake_case")]
pub enum OtherContentTypes {
    /// Its arguments are ignored, and only identify the world.
    #[default]
    NoArguments,
    /// It is read as a form.
    Read,
}

/// A value that is not UTF-8.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub enum InvalidUtf8 {
    /// -4.
    #[default]
    #[serde(rename = "-4")]
    Invalid,
    /// It is accepted, with U+FFFD in it.
    #[serde(rename = "replaced")]
    Replaced,
}

/// The argument `responseFormat` of a refund.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub enum ResponseFormat {
    /// -2.
    #[default]
    #[serde(rename = "-2")]
    Unrecognized,
    /// 0 asks for lines, 1 for `errorCode=...&errorMessage=...`.
    #[serde(rename = "honoured")]
    Honoured,
}

/// What `!AutoReject` does.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
#[serde(rename_all = "snake_case")]
pub enum AutoReject {
    /// The order is rejected and can no longer be refunded.
    #[default]
    Rejects,
    /// -16, and nothing is done.
    Refused,
}

/// The `orderStatus` after a refund.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub enum StatusAfterRefund {
    /// `Refunded`.
    #[default]
    Refunded,
    /// `Rejected`.
    Rejected,
    /// Unchanged.
    #[serde(rename = "unchanged")]
    Unchanged,
}

/// `CertificateID` of the status call.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub enum CertificateId {
    /// Up to 16 digits, without an effect.
    #[default]
    #[serde(rename = "accepted")]
    Accepted,
    /// -2, as the older page does not know it.
    #[serde(rename = "-2")]
    Unrecognized,
    /// -4: no certificate has that number.
    #[serde(rename = "-4")]
    Invalid,
}

/// The code for an order that was refunded already.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub enum AlreadyRefunded {
    /// -18 `This order has already been refunded`.
    #[default]
    #[serde(rename = "-18")]
    Refused,
    /// -20 `The order has already been canceled`.
    #[serde(rename = "-20")]
    Canceled,
}

/// The wording of texts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
#[serde(rename_all = "snake_case")]
pub enum Texts {
    /// Each call has that of its own page.
    #[default]
    OfEachPage,
    /// That of the AutoRefund page: `unrecognized`, `HTTPS`.
    AutoRefundPage,
    /// That of the mark-certificates pages: `unrecognised`, `https`.
    MarkCertificatesPage,
}

/// The code of a call for an order that is not the account's.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub enum UnknownOrder {
    /// -4.
    #[default]
    #[serde(rename = "-4")]
    InvalidValue,
    /// -16.
    #[serde(rename = "-16")]
    PermissionDenied,
}

/// What is checked first.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
#[serde(rename_all = "snake_case")]
pub enum CheckOrder {
    /// -2, -3, -4, then -16 for the login.
    #[default]
    ArgumentsFirst,
    /// -16 for the login, then -2, -3, -4.
    LoginFirst,
}

/// The answer to methods that are neither POST nor GET.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub enum OtherMethods {
    /// -17, as GET is.
    #[default]
    #[serde(rename = "-17")]
    AsGet,
    /// HTTP 405.
    #[serde(rename = "405")]
    NotAllowed,
}

/// The answer to a second argument of one name.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub enum RepeatedArgument {
    /// -2.
    #[default]
    #[serde(rename = "-2")]
    Unrecognized,
    /// None: the first one counts.
    #[serde(rename = "ignored")]
    Ignored,
}

/// The answer to a required argument without a value.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub enum EmptyArgument {
    /// -3.
    #[default]
    #[serde(rename = "-3")]
    Missing,
    /// -4.
    #[serde(rename = "-4")]
    Invalid,
}

/// How the status call writes an answer without `data`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
#[serde(rename_all = "snake_case")]
pub enum NoData {
    /// Without the property.
    #[default]
    LeftOut,
    /// With `"data": null`.
    Null,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            refund_period_days: 30,
            status_lag_seconds: 0,
            calls_per_minute: None,
            order_numbers_are_digits: true,
            crlf: false,
            trailing_newline: false,
            deduplication: Deduplication::default(),
            already_refunded: AlreadyRefunded::default(),
            texts: Texts::default(),
            refusal_http_status: 200,
            max_order_number_chars: 128,
            unknown_order_to_status_call: UnknownOrder::default(),
            check_order: CheckOrder::default(),
            other_methods: OtherMethods::default(),
            repeated_argument: RepeatedArgument::default(),
            empty_argument: EmptyArgument::default(),
            no_data: NoData::default(),
            first_check: FirstCheck::default(),
            plain_content_type: "text/plain".to_owned(),
            status_content_type: "application/json; charset=UTF-8".to_owned(),
            arguments_in_query: ArgumentsInQuery::default(),
            argument_names: ArgumentNames::default(),
            other_content_types: OtherContentTypes::default(),
            invalid_utf8: InvalidUtf8::default(),
            wrong_login_code: -16,
            unknown_order: UnknownOrder::PermissionDenied,
            response_format: ResponseFormat::default(),
            auto_reject: AutoReject::default(),
            rejected_order: AlreadyRefunded::default(),
            status_after_refund: StatusAfterRefund::default(),
            certificate_id: CertificateId::default(),
            processing: Processing::default(),
            already_refunded_text: "This order has already been refunded".to_owned(),
            multi_domain_text: "Multi-domain orders cannot be refunded automatically, please submit a ticket"
                .to_owned(),
            period_over_text: "The refund period for this order is over".to_owned(),
            rejected_text: "This order has been rejected".to_owned(),
            not_rejectable_text: "This order can no longer be rejected".to_owned(),
        }
    }
}
