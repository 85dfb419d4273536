//! What the pages of Sectigo leave open, as settings.

use serde::{Deserialize, Serialize};

use crate::exchange::Deduplication;

/// Where the documentation leaves a choice, or names a number.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// For how many days after its purchase an order can be refunded; then -18. Default 30. *Inferred* from the general return
    /// policy; 14 is documented for SiteLock.
    pub refund_period_days: u32,
    /// How long after a refund `orderStatus` still shows what it was before, in seconds. Default 0. *Unknown*.
    pub status_lag_seconds: u32,
    /// Authenticated calls per account and minute, all calls together; beyond it -42. Default none. *Documented* for SiteLock
    /// without a number.
    pub calls_per_minute: Option<u32>,
    /// Whether an order number that is not all digits is -4; if not, it is an unknown order. Default true. *Inferred*: a string on
    /// the AutoRefund page, an integer on the SiteLock page.
    pub order_numbers_are_digits: bool,
    /// Whether the lines of a plain answer end in CR LF. Default false. *Unknown*.
    pub crlf: bool,
    /// Whether a plain answer ends with a line ending. Default false. *Unknown*.
    pub trailing_newline: bool,
    /// Whether an order that was refunded is refused a second refund. Default on. *Documented* for SiteLock; off is for finding mistakes.
    pub deduplication: Deduplication,
    /// With which code. Default -18. Both *documented* for SiteLock.
    pub already_refunded: AlreadyRefunded,
    /// In whose wording the texts are that differ between the pages. Default each call in its own page's. *Inferred*.
    pub texts: Texts,
    /// The HTTP status beside a code below 0. Default 200. *Inferred*.
    pub refusal_http_status: u16,
    /// The longest order number, in characters. Default 128. *Documented* twice: 64 in the older copy.
    pub longest_order_number: u16,
    /// The code of the status call for an order that is not the account's. Default -4. *Inferred*.
    pub unknown_order_to_status_call: UnknownOrder,
    /// Whether the arguments are checked before the login, or behind it. Default before. *Unknown*.
    pub check_order: CheckOrder,
    /// How methods are answered that are neither POST nor GET. Default -17. *Inferred*: documented for GET.
    pub other_methods: OtherMethods,
    /// What a second argument of one name is. Default -2. *Inferred*: one argument too many.
    pub repeated_argument: RepeatedArgument,
    /// What a required argument without a value is. Default -3. *Inferred*.
    pub empty_argument: EmptyArgument,
    /// How the status call writes an answer without `data`. Default left out. *Inferred*.
    pub no_data: NoData,
}

/// The code for an order that was refunded already.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum AlreadyRefunded {
    /// -18 `This order has already been refunded`.
    #[default]
    #[serde(rename = "-18")]
    Refused,
    /// -20 `The order has already been canceled`.
    #[serde(rename = "-20")]
    Canceled,
}

/// In whose wording texts are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Texts {
    /// Each call in its own page's.
    #[default]
    OfEachPage,
    /// All in that of the AutoRefund page: `unrecognized`, `HTTPS`.
    AutoRefundPage,
    /// All in that of the mark-certificates pages: `unrecognised`, `https`.
    MarkCertificatesPage,
}

/// The code of the status call for an order that is not the account's.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
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
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CheckOrder {
    /// -2, -3, -4, then -16 for the login.
    #[default]
    ArgumentsFirst,
    /// -16 for the login, then -2, -3, -4.
    LoginFirst,
}

/// How methods are answered that are neither POST nor GET.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum OtherMethods {
    /// -17, as GET is.
    #[default]
    #[serde(rename = "-17")]
    AsGet,
    /// HTTP 405.
    #[serde(rename = "405")]
    NotAllowed,
}

/// What a second argument of one name is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum RepeatedArgument {
    /// -2.
    #[default]
    #[serde(rename = "-2")]
    Unrecognized,
    /// Nothing: the first one counts.
    #[serde(rename = "ignored")]
    Ignored,
}

/// What a required argument without a value is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
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
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
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
            longest_order_number: 128,
            unknown_order_to_status_call: UnknownOrder::default(),
            check_order: CheckOrder::default(),
            other_methods: OtherMethods::default(),
            repeated_argument: RepeatedArgument::default(),
            empty_argument: EmptyArgument::default(),
            no_data: NoData::default(),
        }
    }
}
