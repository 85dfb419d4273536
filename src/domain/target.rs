//! What a refund refunds: a Sectigo order, items of a name.com order, or an amount of a
//! Debitsuccess account.

use std::time::Duration;

use crate::domain::characters::is_control_or_format;
use crate::domain::ids::ProviderKind;
use crate::domain::money::{Currency, Money};

/// The validated target of a refund.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// A whole certificate order.
    Sectigo(SectigoTarget),
    /// Items of one domain order.
    Namecom(NamecomTarget),
    /// An amount of one direct-debit account.
    Debitsuccess(DebitsuccessTarget),
}

/// Sectigo `!AutoRefund`: a whole certificate order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SectigoTarget {
    order_number: String,
    reason_code: u8,
}

/// name.com Process Refund: items of one order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamecomTarget {
    order_id: i32,
    order_item_ids: Vec<i32>,
}

/// Debitsuccess `InitiateRefund`: an amount of one account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DebitsuccessTarget {
    account_reference_no: Option<String>,
    external_account_reference_no: Option<String>,
    amount: Money,
    description: String,
    request_initiator: Option<String>,
}

/// A field with an invalid value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldViolation {
    /// Path from the request's root; from a constructor in this file, path from the target:
    /// `amount.minor_units`.
    pub field: String,
    /// What would be valid. Completes a sentence that begins with the field's name.
    pub description: String,
}

/// Two Debitsuccess refunds of the same account and amount within this time are likely duplicates.
pub const SIMILAR_WITHIN: Duration = Duration::from_secs(24 * 60 * 60);

/// The longest order number that all of Sectigo's pages accept.
const MAX_SECTIGO_ORDER_NUMBER_CHARS: usize = 64;
/// A limit of ours, not documented. It keeps an answer with a row and a sentence for each item,
/// attached ones included, below 64 KiB.
const MAX_NAMECOM_ITEMS: usize = 200;
const MAX_ACCOUNT_REFERENCE_CHARS: usize = 15;
const MAX_EXTERNAL_REFERENCE_CHARS: usize = 50;
const MAX_DESCRIPTION_CHARS: usize = 4_000;
const MAX_REQUEST_INITIATOR_CHARS: usize = 100;
/// Decimal (10, 2): eight digits before the point.
const MAX_DEBITSUCCESS_MINOR_UNITS: i64 = 9_999_999_999;

impl FieldViolation {
    pub fn new(field: impl Into<String>, description: impl Into<String>) -> Self {
        Self { field: field.into(), description: description.into() }
    }
}

impl Target {
    pub fn provider(&self) -> ProviderKind {
        match self {
            Target::Sectigo(_) => ProviderKind::Sectigo,
            Target::Namecom(_) => ProviderKind::Namecom,
            Target::Debitsuccess(_) => ProviderKind::Debitsuccess,
        }
    }

    /// The references that a caller can search for, as given: order number, order id or account
    /// reference.
    pub fn references(&self) -> Vec<String> {
        match self {
            Target::Sectigo(target) => vec![target.order_number.clone()],
            Target::Namecom(target) => vec![target.order_id.to_string()],
            Target::Debitsuccess(target) => {
                target.account_reference_no.iter().chain(&target.external_account_reference_no).cloned().collect()
            }
        }
    }

    /// The references that the ledger indexes: [`Target::references`], and the canonical form of an
    /// order number, so that every spelling of it finds the refund.
    pub fn index_references(&self) -> Vec<String> {
        let mut references = self.references();
        if let Target::Sectigo(target) = self {
            references.push(canonical_order_number(&target.order_number));
        }
        references.sort_unstable();
        references.dedup();
        references
    }

    /// The keys that only one refund may hold at a time. Empty where an amount may be refunded
    /// repeatedly.
    pub fn reservation_keys(&self) -> Vec<String> {
        match self {
            Target::Sectigo(target) => vec![format!("order:{}", canonical_order_number(&target.order_number))],
            Target::Namecom(target) => target.order_item_ids.iter().map(|item| format!("item:{item}")).collect(),
            Target::Debitsuccess(_) => Vec::new(),
        }
    }

    /// name.com: the provider's numbers of the items to refund. Empty for the other providers.
    pub fn item_ids(&self) -> Vec<String> {
        match self {
            Target::Namecom(target) => target.order_item_ids.iter().map(i32::to_string).collect(),
            Target::Sectigo(_) | Target::Debitsuccess(_) => Vec::new(),
        }
    }

    /// Debitsuccess: the requested amount, which is also the most that can be refunded.
    pub fn requested_amount(&self) -> Option<Money> {
        match self {
            Target::Debitsuccess(target) => Some(target.amount),
            Target::Sectigo(_) | Target::Namecom(_) => None,
        }
    }

    /// Debitsuccess: each reference of the account that is paid, in upper case, because the
    /// provider's database probably ignores case. Two references may name one account. Empty for
    /// the other providers.
    pub fn payee_references(&self) -> Vec<String> {
        match self {
            Target::Sectigo(_) | Target::Namecom(_) => Vec::new(),
            Target::Debitsuccess(target) => {
                let own = target.account_reference_no.iter().map(|text| format!("own:{}", text.to_uppercase()));
                let external =
                    target.external_account_reference_no.iter().map(|text| format!("ext:{}", text.to_uppercase()));
                own.chain(external).collect()
            }
        }
    }

    /// Debitsuccess: the key that likely duplicates share, made of an account reference and the
    /// amount.
    pub fn similarity_key(&self, payee_reference: &str) -> String {
        let amount = self.requested_amount().map_or(0, |amount| amount.minor_units);
        format!("{payee_reference}:{amount}")
    }

    /// The contract's names of the fields in which the two differ; empty if they are equal.
    pub fn differing_fields(&self, other: &Target) -> Vec<&'static str> {
        match (self, other) {
            (Target::Sectigo(a), Target::Sectigo(b)) => differing([
                ("sectigo.order_number", a.order_number != b.order_number),
                ("sectigo.reason", a.reason_code != b.reason_code),
            ]),
            (Target::Namecom(a), Target::Namecom(b)) => differing([
                ("namecom.order_id", a.order_id != b.order_id),
                ("namecom.order_item_ids", a.order_item_ids != b.order_item_ids),
            ]),
            (Target::Debitsuccess(a), Target::Debitsuccess(b)) => differing([
                ("debitsuccess.account_reference_no", a.account_reference_no != b.account_reference_no),
                (
                    "debitsuccess.external_account_reference_no",
                    a.external_account_reference_no != b.external_account_reference_no,
                ),
                ("debitsuccess.amount", a.amount != b.amount),
                ("debitsuccess.description", a.description != b.description),
                ("debitsuccess.request_initiator", a.request_initiator != b.request_initiator),
            ]),
            _ => vec!["target"],
        }
    }
}

impl SectigoTarget {
    /// Checks an order number and a `refundReasonCode` of 1 to 11.
    ///
    /// # Errors
    /// Every field that is wrong.
    pub fn new(order_number: &str, reason_code: i32) -> Result<Self, Vec<FieldViolation>> {
        let mut violations = Vec::new();
        if let Some(violation) = order_number_violation("order_number", order_number) {
            violations.push(violation);
        }
        let reason = u8::try_from(reason_code).ok().filter(|code| (1..=11).contains(code));
        if reason.is_none() {
            violations.push(FieldViolation::new("reason", "must be one of the eleven reasons of the provider"));
        }
        match reason {
            Some(reason_code) if violations.is_empty() => {
                Ok(Self { order_number: order_number.to_owned(), reason_code })
            }
            _ => Err(violations),
        }
    }

    /// As the caller gave it.
    pub fn order_number(&self) -> &str {
        &self.order_number
    }

    /// The provider's `refundReasonCode`, 1 to 11.
    pub fn reason_code(&self) -> u8 {
        self.reason_code
    }
}

/// Whether two Sectigo order numbers mean one order: "0100" and "100" do, for a provider that reads
/// numbers.
pub fn is_same_order(one: &str, other: &str) -> bool {
    canonical_order_number(one) == canonical_order_number(other)
}

/// The violation of a Sectigo order number, if it is invalid.
pub fn order_number_violation(field: &str, order_number: &str) -> Option<FieldViolation> {
    let fits = (1..=MAX_SECTIGO_ORDER_NUMBER_CHARS).contains(&order_number.len())
        && order_number.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'));
    (!fits).then(|| FieldViolation::new(field, "must be 1 to 64 of A-Z a-z 0-9 \"-\" \"_\" \".\""))
}

impl NamecomTarget {
    /// Checks an order id and its item ids, and sorts the ids: their order has no meaning.
    ///
    /// # Errors
    /// Every field that is wrong.
    pub fn new(order_id: i32, order_item_ids: &[i32]) -> Result<Self, Vec<FieldViolation>> {
        let mut violations = Vec::new();
        if order_id < 1 {
            violations.push(FieldViolation::new("order_id", "must be above 0"));
        }
        if !(1..=MAX_NAMECOM_ITEMS).contains(&order_item_ids.len()) {
            violations
                .push(FieldViolation::new("order_item_ids", format!("must contain 1 to {MAX_NAMECOM_ITEMS} items")));
        }
        let mut sorted = order_item_ids.to_vec();
        sorted.sort_unstable();
        if sorted.first().is_some_and(|smallest| *smallest < 1) {
            violations.push(FieldViolation::new("order_item_ids", "must all be above 0"));
        }
        let before = sorted.len();
        sorted.dedup();
        if sorted.len() != before {
            violations.push(FieldViolation::new("order_item_ids", "must name each item once"));
        }
        if violations.is_empty() { Ok(Self { order_id, order_item_ids: sorted }) } else { Err(violations) }
    }

    pub fn order_id(&self) -> i32 {
        self.order_id
    }

    /// Ascending.
    pub fn order_item_ids(&self) -> &[i32] {
        &self.order_item_ids
    }
}

/// The fields of a Debitsuccess refund as the caller gave them; an empty text counts as absent.
#[derive(Debug, Clone, Copy)]
pub struct DebitsuccessFields<'a> {
    /// At most 15 characters.
    pub account_reference_no: &'a str,
    /// At most 50 characters.
    pub external_account_reference_no: &'a str,
    /// Currency code and hundredths; None if the caller left it out.
    pub amount: Option<(&'a str, i64)>,
    /// 1 to 4,000 characters.
    pub description: &'a str,
    /// At most 100 characters.
    pub request_initiator: &'a str,
}

impl DebitsuccessTarget {
    /// # Errors
    /// Every field that is wrong.
    pub fn new(fields: DebitsuccessFields<'_>) -> Result<Self, Vec<FieldViolation>> {
        let mut violations = Vec::new();
        let references = [
            ("account_reference_no", fields.account_reference_no, MAX_ACCOUNT_REFERENCE_CHARS),
            ("external_account_reference_no", fields.external_account_reference_no, MAX_EXTERNAL_REFERENCE_CHARS),
        ];
        for (field, text, max_chars) in references {
            if text.chars().count() > max_chars {
                violations.push(FieldViolation::new(field, format!("must be at most {max_chars} characters")));
            } else if text.trim() != text || text.chars().any(is_forbidden_in_text) {
                let right = "must contain no control or format character and no blank at either end";
                violations.push(FieldViolation::new(field, right));
            }
        }
        if references.iter().all(|(_, text, _)| text.is_empty()) {
            violations.push(FieldViolation::new(
                "account_reference_no",
                "is required unless external_account_reference_no is set",
            ));
        }
        let amount = parse_amount(fields.amount, &mut violations);
        for (field, text, max_chars) in [
            ("description", fields.description, MAX_DESCRIPTION_CHARS),
            ("request_initiator", fields.request_initiator, MAX_REQUEST_INITIATOR_CHARS),
        ] {
            if text.chars().count() > max_chars {
                violations.push(FieldViolation::new(field, format!("must be at most {max_chars} characters")));
            }
        }
        if fields.description.chars().any(|one| is_forbidden_in_text(one) && !matches!(one, '\n' | '\r')) {
            let right = "must contain no control or format character except line breaks";
            violations.push(FieldViolation::new("description", right));
        }
        if fields.request_initiator.chars().any(is_forbidden_in_text) {
            violations.push(FieldViolation::new("request_initiator", "must contain no control or format character"));
        }
        if fields.description.trim().is_empty() {
            violations.push(FieldViolation::new("description", "is required"));
        }
        match amount {
            Some(amount) if violations.is_empty() => Ok(Self {
                account_reference_no: non_empty(fields.account_reference_no),
                external_account_reference_no: non_empty(fields.external_account_reference_no),
                amount,
                description: fields.description.to_owned(),
                request_initiator: non_empty(fields.request_initiator),
            }),
            _ => Err(violations),
        }
    }

    /// Debitsuccess's reference of the account.
    pub fn account_reference_no(&self) -> Option<&str> {
        self.account_reference_no.as_deref()
    }

    /// The business's own reference of the account.
    pub fn external_account_reference_no(&self) -> Option<&str> {
        self.external_account_reference_no.as_deref()
    }

    pub fn amount(&self) -> Money {
        self.amount
    }

    /// The reason, for the provider's reviewers.
    pub fn description(&self) -> &str {
        &self.description
    }

    /// Who requested the refund; the provider logs it.
    pub fn request_initiator(&self) -> Option<&str> {
        self.request_initiator.as_deref()
    }
}

fn canonical_order_number(order_number: &str) -> String {
    let order = order_number.to_ascii_lowercase();
    let all_digits = order.bytes().all(|byte| byte.is_ascii_digit());
    if all_digits { order.trim_start_matches('0').to_owned() } else { order }
}

fn parse_amount(amount: Option<(&str, i64)>, violations: &mut Vec<FieldViolation>) -> Option<Money> {
    let Some((code, minor_units)) = amount else {
        violations.push(FieldViolation::new("amount", "is required"));
        return None;
    };
    if !(1..=MAX_DEBITSUCCESS_MINOR_UNITS).contains(&minor_units) {
        violations.push(FieldViolation::new("amount.minor_units", "must be above 0 and at most 9999999999"));
    }
    match Currency::parse(code) {
        Ok(currency) => Some(Money { currency, minor_units }),
        Err(error) => {
            violations.push(FieldViolation::new("amount.currency_code", error.to_string()));
            None
        }
    }
}

fn non_empty(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}

/// Invisible characters, and those that XML 1.0, and so Debitsuccess, cannot carry.
fn is_forbidden_in_text(character: char) -> bool {
    is_control_or_format(character) || !is_xml_text(character)
}

/// Whether XML 1.0 can represent the character.
pub fn is_xml_text(character: char) -> bool {
    matches!(character, '\t' | '\n' | '\r' | ' '..='\u{D7FF}' | '\u{E000}'..='\u{FFFD}' | '\u{10000}'..)
}

fn differing<const N: usize>(fields: [(&'static str, bool); N]) -> Vec<&'static str> {
    fields.into_iter().filter(|(_, differs)| *differs).map(|(field, _)| field).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    const GOOD: DebitsuccessFields<'static> = DebitsuccessFields {
        account_reference_no: "DS000001",
        external_account_reference_no: "",
        amount: Some(("AUD", 1250)),
        description: "Duplicate charge",
        request_initiator: "",
    };

    fn fields_of<T>(result: Result<T, Vec<FieldViolation>>) -> Vec<String> {
        result.err().into_iter().flatten().map(|violation| violation.field).collect()
    }

    #[rstest]
    #[case("1000001", 11, &[])]
    #[case("", 11, &["order_number"])]
    #[case("1000001 ", 1, &["order_number"])]
    #[case("1000001", 0, &["reason"])]
    #[case("1000001", 12, &["reason"])]
    #[case("", -1, &["order_number", "reason"])]
    fn every_wrong_sectigo_field_is_named(#[case] order: &str, #[case] reason: i32, #[case] wrong: &[&str]) {
        assert_eq!(fields_of(SectigoTarget::new(order, reason)), wrong);
    }

    #[rstest]
    #[case(1, &[2, 3], &[])]
    #[case(0, &[], &["order_id", "order_item_ids"])]
    #[case(1, &[2, 2], &["order_item_ids"])]
    #[case(1, &[0], &["order_item_ids"])]
    fn every_wrong_namecom_field_is_named(#[case] order: i32, #[case] items: &[i32], #[case] wrong: &[&str]) {
        assert_eq!(fields_of(NamecomTarget::new(order, items)), wrong);
    }

    #[rstest]
    #[case(GOOD, &[])]
    #[case(DebitsuccessFields { account_reference_no: "", ..GOOD }, &["account_reference_no"])]
    #[case(DebitsuccessFields { account_reference_no: "0123456789ABCDEF", ..GOOD }, &["account_reference_no"])]
    #[case(DebitsuccessFields { amount: None, description: " ", ..GOOD }, &["amount", "description"])]
    #[case(DebitsuccessFields { amount: Some(("aud", 0)), ..GOOD }, &["amount.minor_units", "amount.currency_code"])]
    #[case(DebitsuccessFields { amount: Some(("JPY", 5)), ..GOOD }, &["amount.currency_code"])]
    #[case(DebitsuccessFields { amount: Some(("AUD", 10_000_000_000)), ..GOOD }, &["amount.minor_units"])]
    #[case(DebitsuccessFields { description: "a\u{0}b", ..GOOD }, &["description"])]
    #[case(DebitsuccessFields { description: "a\r\nb\nc", ..GOOD }, &[])]
    #[case(DebitsuccessFields { description: "a\tb", ..GOOD }, &["description"])]
    #[case(DebitsuccessFields { description: "a\u{ffff}b", ..GOOD }, &["description"])]
    #[case(DebitsuccessFields { description: "a\u{200b}b", request_initiator: "a\nb", ..GOOD }, &["description", "request_initiator"])]
    #[case(DebitsuccessFields { request_initiator: "a\u{202e}b", ..GOOD }, &["request_initiator"])]
    #[case(DebitsuccessFields { account_reference_no: "DS\u{ad}1", ..GOOD }, &["account_reference_no"])]
    #[case(
        DebitsuccessFields { account_reference_no: "DS\t1", external_account_reference_no: "\u{feff}x", ..GOOD },
        &["account_reference_no", "external_account_reference_no"]
    )]
    fn every_wrong_debitsuccess_field_is_named(#[case] fields: DebitsuccessFields<'_>, #[case] wrong: &[&str]) {
        assert_eq!(fields_of(DebitsuccessTarget::new(fields)), wrong);
    }

    #[test]
    fn an_order_number_with_leading_zeros_is_the_same_order() {
        let keys = |order: &str| Target::Sectigo(SectigoTarget::new(order, 11).unwrap()).reservation_keys();
        assert_eq!(keys("0001000001"), keys("1000001"));
        assert_ne!(keys("1000002"), keys("1000001"));
    }

    #[test]
    fn the_order_of_items_has_no_meaning() {
        let a = Target::Namecom(NamecomTarget::new(1, &[3, 2]).unwrap());
        let b = Target::Namecom(NamecomTarget::new(1, &[2, 3]).unwrap());
        assert_eq!(a.differing_fields(&b), Vec::<&str>::new());
    }
}
