//! Get Order: what became of the items of a refund whose answer was lost, or that was not finished.
//!
//! "Once an order item has been officially refunded", its status is `refunded`. Nothing else is a
//! proof: `success` means that the item was bought, not that no refund of it is on its way.
//! [`super::domains`] adds what the item's domain proves.
//!
//! The answer is only read, so every lossless form is accepted.

use std::sync::Once;

use crate::domain::clock::Timestamp;
use crate::domain::money::Money;
use crate::domain::outcome::{
    AccountSignal, Confirmation, ErrorCategory, ItemResult, ItemState, Lookup, Outcome, ProviderError,
    sanitize_provider_text,
};
use crate::domain::target::NamecomTarget;
use crate::http::client::HttpResponse;
use crate::providers::namecom::fields::JsonFields;
use crate::providers::namecom::rows::{dollars_of, is_requested};
use crate::providers::namecom::wire::{ErrorBody, refuses_the_login};
use crate::providers::redact::Redactor;
use crate::providers::text;

/// What an answer to Get Order says about a refund.
pub(super) enum OrderReading {
    /// The result of the lookup: the domains cannot add anything.
    Conclusive(Lookup),
    /// Not every requested item is refunded: the domains may prove more.
    Unrefunded(UnrefundedOrder),
}

/// An order in which requested items are not refunded.
pub(super) struct UnrefundedOrder {
    /// What was seen of each requested item, in a sentence.
    pub(super) evidence: String,
    /// The same as values.
    pub(super) items: Vec<ItemResult>,
    /// When the order was created, if it says so.
    pub(super) created: Option<Timestamp>,
    /// The requested registrations whose status is `success`.
    pub(super) registrations: Vec<Registration>,
    /// Every requested item is such a registration and refundable, and no earlier answer reported
    /// on one.
    pub(super) may_be_untouched: bool,
}

pub(super) struct Registration {
    pub(super) item: i32,
    /// The name of the item, which is the domain.
    pub(super) domain: String,
    pub(super) is_refundable: bool,
}

/// What an answer to Get Order says about the refund of `target`. `previous` are the items as
/// reported before.
pub(super) fn read_order(
    answer: &HttpResponse,
    target: &NamecomTarget,
    previous: &[ItemResult],
    redactor: &Redactor,
) -> OrderReading {
    match OrderView::of(answer, target, redactor) {
        Ok(order) => order.interpret(answer.status, target, previous, redactor),
        Err(OrderUnavailable { evidence, signal }) => {
            OrderReading::Conclusive(Lookup::Unavailable { evidence, signal })
        }
    }
}

/// The message of a privacy item that the order shows as refunded and that the answer to this
/// refund never named.
const UNKNOWN_CAUSE_OF_ITEM_REFUND: &str = "refunded by this refund or by another one: the order does not show which";

/// Why an answer does not contain the order.
struct OrderUnavailable {
    evidence: String,
    signal: AccountSignal,
}

impl From<&str> for OrderUnavailable {
    fn from(evidence: &str) -> Self {
        OrderUnavailable { evidence: evidence.to_owned(), signal: AccountSignal::Failure }
    }
}

/// `Order`. No member is required.
struct OrderView {
    created: Option<Timestamp>,
    /// The amount refunded so far.
    refunded: Option<Money>,
    in_dollars: bool,
    items: Vec<OrderItem>,
    /// Number of list elements that are not items with a number.
    unnumbered: usize,
}

/// `OrderItem`.
struct OrderItem {
    id: i64,
    name: Option<String>,
    status: Option<String>,
    kind: Option<String>,
    is_refundable: bool,
}

impl OrderView {
    fn of(answer: &HttpResponse, target: &NamecomTarget, redactor: &Redactor) -> Result<OrderView, OrderUnavailable> {
        let text = text::read(answer);
        if answer.status != 200 {
            // Only an accepted login gets this answer in the provider's own form. A proxy's answer
            // differs.
            let error_text = text.ok().and_then(|body| ErrorBody::read(&body, redactor));
            let signal = match answer.status {
                404 if error_text.is_some() => AccountSignal::Healthy,
                status if refuses_the_login(status, error_text.as_deref()) => AccountSignal::CredentialsRefused,
                _ => AccountSignal::Failure,
            };
            return Err(OrderUnavailable { evidence: format!("HTTP {} without the order", answer.status), signal });
        }
        let Some(fields) = text.as_deref().ok().and_then(JsonFields::of) else {
            return Err("the answer is not JSON of an order".into());
        };
        let Some(order) = fields.unwrapped("id", "order") else {
            return Err("the answer contains no order".into());
        };
        if order.integer("id") != Some(i64::from(target.order_id())) {
            let id = order.text("id").unwrap_or_else(|| "without a number".to_owned());
            return Err(redactor.text(&format!("the answer is about another order, {id}")).as_str().into());
        }
        let listed = order.objects("orderItems");
        let count = listed.len();
        let items: Vec<OrderItem> = listed.into_iter().filter_map(|item| OrderItem::of(&item?)).collect();
        let view = OrderView {
            created: order.timestamp("createDate"),
            refunded: order.raw("totalRefund").and_then(dollars_of).filter(|total| total.minor_units > 0),
            in_dollars: order.text("currency").is_none_or(|code| matches!(code.as_str(), "USD" | "")),
            unnumbered: count - items.len(),
            items,
        };
        static LOGGED: Once = Once::new();
        warn_of_items_without_a_number(view.unnumbered, &LOGGED);
        Ok(view)
    }

    fn interpret(
        &self,
        http_status: u16,
        target: &NamecomTarget,
        previous: &[ItemResult],
        redactor: &Redactor,
    ) -> OrderReading {
        let mut items = Vec::new();
        let mut parts = Vec::new();
        let mut registrations = Vec::new();
        let mut intact = 0;
        for id in target.order_item_ids() {
            let mut listed = self.items.iter().filter(|item| item.id == i64::from(*id));
            let item = match (listed.next(), listed.next()) {
                (item, None) => item,
                (_, Some(_)) => {
                    return OrderReading::Conclusive(Lookup::unavailable(format!("the order lists item {id} twice")));
                }
            };
            let status = item.map_or("not listed", |item| item.status.as_deref().unwrap_or("without a status"));
            // An order never shows a refusal: a refused item keeps the status of its purchase.
            let refused =
                |row: &&ItemResult| row.requested && row.state == ItemState::Failed && row.item_id == id.to_string();
            if let Some(refused) = previous.iter().find(refused).filter(|_| status != "refunded") {
                parts.push(format!("item {id} refused: {}", refused.message));
                items.push(refused.clone());
                continue;
            }
            parts.push(format!("item {id} {}", shown(status)));
            if let Some(item) = item.filter(|item| item.is_registration() && status == "success") {
                intact += usize::from(item.is_refundable);
                registrations.push(Registration {
                    item: *id,
                    domain: item.name.clone().unwrap_or_default(),
                    is_refundable: item.is_refundable,
                });
            }
            // `failed` is about the purchase: nothing was paid for the item, so nothing can be
            // refunded. Alone that does not prove that a refund was refused; beside refunded items
            // it shows which ones the refund did not reach.
            items.push(match status {
                "refunded" => {
                    let earlier = previous_item(previous, &id.to_string());
                    let refunded_amount = earlier.and_then(|row| row.refunded_amount);
                    ItemResult { refunded_amount, ..row(*id, ItemState::Succeeded, true) }
                }
                "failed" => row(*id, ItemState::Failed, true),
                _ => row(*id, ItemState::InDoubt, true),
            });
        }
        let any = |state: ItemState| items.iter().any(|item| item.state == state);
        if any(ItemState::InDoubt) || !any(ItemState::Succeeded) {
            if self.unnumbered > 0 {
                parts.push(format!("{} without a number left out", self.unnumbered));
            }
            // A reported refusal stays; the status of a purchase is not one.
            let is_reported = |item: &ItemResult| previous.iter().any(|row| row == item);
            for item in items.iter_mut().filter(|item| item.state == ItemState::Failed && !is_reported(item)) {
                item.state = ItemState::InDoubt;
            }
            // Money that was refunded without an item that shows it may belong to this refund.
            let is_total_explained = self.refunded.is_none() || self.refunded_items().next().is_some();
            let was_reported = previous.iter().any(|row| row.requested && row.state != ItemState::InDoubt);
            let may_be_untouched = intact == target.order_item_ids().len() && is_total_explained && !was_reported;
            let evidence = redactor.text(&parts.join(", "));
            return OrderReading::Unrefunded(UnrefundedOrder {
                evidence,
                items,
                created: self.created,
                registrations,
                may_be_untouched,
            });
        }
        let error = any(ItemState::Failed).then(|| ProviderError {
            code: "failed".to_owned(),
            message: sanitize_provider_text(&parts.join(", ")),
            http_status,
            category: ErrorCategory::Other,
        });
        items.extend(self.refunded_along(target).map(|item| {
            let item_id = item.id.to_string();
            previous_item(previous, &item_id).cloned().unwrap_or_else(|| ItemResult {
                item_id,
                message: UNKNOWN_CAUSE_OF_ITEM_REFUND.to_owned(),
                ..row(0, ItemState::Succeeded, false)
            })
        }));
        let amount = self.refunded_for(target).or_else(|| {
            // A sum that leaves out an item would be wrong.
            let refunded = items.iter().filter(|item| item.state == ItemState::Succeeded);
            Money::total(refunded.map(|item| item.refunded_amount))
        });
        OrderReading::Conclusive(Lookup::Found(Outcome::Refunded(Confirmation {
            status: Some("refunded".to_owned()),
            amount,
            items,
            error,
            ..Confirmation::default()
        })))
    }

    /// The amount refunded for the target: the order's total, if it cannot include anything else.
    ///
    /// An attached privacy item may have been refunded with its registration or separately on
    /// another day, and the total does not show which. No amount is better than one that includes
    /// another refund.
    fn refunded_for(&self, target: &NamecomTarget) -> Option<Money> {
        let ours_alone = self.unnumbered == 0 && self.refunded_items().all(|item| is_requested(item.id, target));
        self.refunded.filter(|_| self.in_dollars && ours_alone)
    }

    /// Privacy items that are refunded and were not requested.
    fn refunded_along(&self, target: &NamecomTarget) -> impl Iterator<Item = &OrderItem> {
        self.refunded_items()
            .filter(|item| item.kind.as_deref() == Some("whois_privacy") && !is_requested(item.id, target))
    }

    fn refunded_items(&self) -> impl Iterator<Item = &OrderItem> {
        self.items.iter().filter(|item| item.status.as_deref() == Some("refunded"))
    }
}

impl OrderItem {
    fn of(fields: &JsonFields<'_>) -> Option<OrderItem> {
        Some(OrderItem {
            id: fields.integer("id")?,
            name: fields.text("name"),
            status: fields.text("status"),
            kind: fields.text("type"),
            is_refundable: fields.is_true("isRefundable"),
        })
    }

    fn is_registration(&self) -> bool {
        self.kind.as_deref() == Some("registration")
    }
}

/// A documented status, or our own text for a missing one, as it is; any other status in quotation
/// marks, so that blanks and case are visible.
fn shown(status: &str) -> String {
    match status {
        "success" | "failed" | "refunded" | "not listed" | "without a status" => status.to_owned(),
        other => format!("\"{other}\""),
    }
}

/// What the provider last reported about a refunded item.
fn previous_item<'a>(previous: &'a [ItemResult], item_id: &str) -> Option<&'a ItemResult> {
    previous.iter().find(|row| row.state == ItemState::Succeeded && row.item_id == item_id)
}

fn warn_of_items_without_a_number(count: usize, logged: &Once) {
    if count > 0 {
        logged.call_once(|| tracing::warn!("name.com order lists items without a number; ignoring them"));
    }
}

fn row(id: i32, state: ItemState, requested: bool) -> ItemResult {
    ItemResult { item_id: id.to_string(), state, refunded_amount: None, message: String::new(), requested }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;
    use secrecy::SecretString;

    use super::*;
    use crate::domain::money::Currency;
    use crate::providers::testing::fixtures::{answer, apply_mutations, mutations, outcome_summary};
    use crate::providers::testing::log_capture::logged;

    fn lookup(status: u16, body: &[u8]) -> String {
        let target = NamecomTarget::new(7, &[1, 2]).unwrap();
        let redactor = Redactor::new("demo", &SecretString::from("c4nary-secret"));
        match lookup_of(read_order(&answer(status, &[], body), &target, &[], &redactor)) {
            Lookup::Found(outcome) => outcome_summary(&outcome),
            Lookup::NotFound { evidence, .. } => format!("not_found {evidence}"),
            Lookup::Unavailable { evidence, .. } => format!("unavailable {evidence}"),
        }
    }

    /// The lookup without the domains.
    fn lookup_of(reading: OrderReading) -> Lookup {
        match reading {
            OrderReading::Conclusive(lookup) => lookup,
            OrderReading::Unrefunded(open) => Lookup::not_found(open.evidence),
        }
    }

    fn order(members: &str, items: &[&str]) -> String {
        let items: Vec<String> = items
            .iter()
            .map(|text| {
                let parts: Vec<&str> = text.split(' ').collect();
                format!("{{\"id\":{},\"status\":\"{}\",\"type\":\"{}\"}}", parts[0], parts[1], parts[2])
            })
            .collect();
        format!("{{{members},\"orderItems\":[{}]}}", items.join(","))
    }

    const PAID: &str = "\"id\":7,\"currency\":\"USD\",\"totalRefund\":15.98";

    #[rstest]
    #[case::all(PAID, &["1 refunded registration", "2 refunded whois_privacy"], "refunded 15.98 USD")]
    #[case::no_currency("\"id\":7,\"totalRefund\":\"15.98\"", &["1 refunded registration", "2 refunded whois_privacy"], "refunded 15.98 USD")]
    #[case::currency_of_another("\"id\":7,\"currency\":\"CNY\",\"totalRefund\":115.98", &["1 refunded registration", "2 refunded whois_privacy"], "refunded")]
    #[case::no_total("\"id\":7", &["1 refunded registration", "2 refunded whois_privacy"], "refunded")]
    #[case::total_no_number("\"id\":7,\"totalRefund\":\"NaN\"", &["1 refunded registration", "2 refunded whois_privacy"], "refunded")]
    #[case::total_not_yet("\"id\":7,\"totalRefund\":0.00", &["1 refunded registration", "2 refunded whois_privacy"], "refunded")]
    #[case::privacy_along(PAID, &["1 refunded registration", "2 refunded registration", "3 refunded whois_privacy"], "refunded")]
    #[case::another_refund(PAID, &["1 refunded registration", "2 refunded registration", "3 refunded registration"], "refunded")]
    #[case::another_item_bought(PAID, &["1 refunded registration", "2 refunded registration", "3 success registration"], "refunded 15.98 USD")]
    #[case::in_part(PAID, &["1 refunded registration", "2 success whois_privacy"], "not_found item 1 refunded, item 2 success")]
    #[case::purchase_failed_in_part(PAID, &["1 refunded registration", "2 failed registration"], "refunded 15.98 USD (partly)")]
    #[case::purchase_failed(PAID, &["1 failed registration", "2 failed registration"], "not_found item 1 failed, item 2 failed")]
    #[case::not_yet(PAID, &["1 success registration", "2 success registration"], "not_found item 1 success, item 2 success")]
    #[case::not_listed(PAID, &["1 refunded registration"], "not_found item 1 refunded, item 2 not listed")]
    #[case::no_items(PAID, &[], "not_found item 1 not listed, item 2 not listed")]
    #[case::another_case(PAID, &["1 refunded registration", "2 REFUNDED registration"], "not_found item 1 refunded, item 2 \"REFUNDED\"")]
    #[case::twice(PAID, &["1 refunded registration", "1 success registration", "2 refunded registration"], "unavailable the order lists item 1 twice")]
    #[case::other_order("\"id\":8", &["1 refunded registration", "2 refunded registration"], "unavailable the answer is about another order, 8")]
    #[case::nameless_order("\"currency\":\"USD\"", &["1 refunded registration", "2 refunded registration"], "unavailable the answer contains no order")]
    #[case::order_in_a_text("\"id\":\"7\",\"totalRefund\":15.98", &["1 refunded registration", "2 refunded registration"], "refunded 15.98 USD")]
    #[case::items_in_texts(PAID, &["\"1\" refunded registration", "\"2\" refunded registration"], "refunded 15.98 USD")]
    #[case::an_irregular_item(PAID, &["1 refunded registration", "2 refunded registration", "null success registration"], "refunded")]
    #[case::an_irregular_item_not_yet(PAID, &["1 refunded registration", "2 success registration", "{} refunded registration"], "not_found item 1 refunded, item 2 success, 1 without a number left out")]
    #[case::listed_twice_in_two_forms(PAID, &["1 refunded registration", "\"1\" success registration", "2 refunded registration"], "unavailable the order lists item 1 twice")]
    #[case::blank(PAID, &["1 refunded registration", "2 refunded\u{a0} registration"], "not_found item 1 refunded, item 2 \"refunded\u{a0}\"")]
    fn only_the_status_refunded_proves_a_refund(#[case] members: &str, #[case] items: &[&str], #[case] expected: &str) {
        assert_eq!(lookup(200, order(members, items).as_bytes()), expected);
    }

    #[rstest]
    #[case(200, "", "unavailable the answer is not JSON of an order")]
    #[case(200, "<html></html>", "unavailable the answer is not JSON of an order")]
    #[case(200, "{\"id\":7,\"orderItems\":[{\"id\":1,", "unavailable the answer is not JSON of an order")]
    #[case(200, "[]", "unavailable the answer is not JSON of an order")]
    #[case(200, "{}", "unavailable the answer contains no order")]
    #[case(200, "{\"order\":null}", "unavailable the answer contains no order")]
    #[case(200, "{\"message\":\"x\"}", "unavailable the answer contains no order")]
    #[case(401, "{\"message\":\"Unauthorized\"}", "unavailable HTTP 401 without the order")]
    #[case(404, "{\"message\":\"Not Found\"}", "unavailable HTTP 404 without the order")]
    #[case(429, "{\"message\":\"Rate Limit Exceeded\"}", "unavailable HTTP 429 without the order")]
    #[case(500, "{\"id\":7}", "unavailable HTTP 500 without the order")]
    fn an_answer_without_an_order_is_unavailable(#[case] status: u16, #[case] body: &str, #[case] expected: &str) {
        assert_eq!(lookup(status, body.as_bytes()), expected);
    }

    #[rstest]
    #[case::in_its_own_form(404, "{\"message\":\"Not Found\"}", AccountSignal::Healthy)]
    #[case::a_proxy(404, "<html></html>", AccountSignal::Failure)]
    #[case::empty(404, "{}", AccountSignal::Failure)]
    #[case::login_refused(401, "{\"message\":\"Unauthorized\"}", AccountSignal::CredentialsRefused)]
    #[case::account_refused(
        403,
        "{\"message\":\"Permission denied\",\"details\":\"Failed authentication\"}",
        AccountSignal::CredentialsRefused
    )]
    #[case::forbidden(403, "{\"message\":\"Permission Denied\"}", AccountSignal::Failure)]
    #[case::broken(500, "{\"message\":\"Internal Server Error\"}", AccountSignal::Failure)]
    fn a_missing_order_shows_that_the_login_is_accepted(
        #[case] status: u16,
        #[case] body: &str,
        #[case] expected: AccountSignal,
    ) {
        let redactor = Redactor::new("demo", &SecretString::from("x"));
        let target = NamecomTarget::new(7, &[1]).unwrap();
        let lookup = lookup_of(read_order(&answer(status, &[], body.as_bytes()), &target, &[], &redactor));
        assert!(matches!(lookup, Lookup::Unavailable { signal, .. } if signal == expected), "{lookup:?}");
    }

    /// Otherwise SUBMITTED would last for ever: a refused item stays `success` in its order.
    #[test]
    fn an_item_refused_in_the_answer_stays_refused() {
        let target = NamecomTarget::new(7, &[1, 2]).unwrap();
        let redactor = Redactor::new("demo", &SecretString::from("x"));
        let previous = [
            row(1, ItemState::Submitted, true),
            ItemResult { message: "Not eligible.".to_owned(), ..row(2, ItemState::Failed, true) },
        ];
        let lookup = |items: &[&str], previous: &[ItemResult]| {
            lookup_of(read_order(&answer(200, &[], order(PAID, items).as_bytes()), &target, previous, &redactor))
        };
        let Lookup::Found(outcome) = lookup(&["1 refunded registration", "2 success registration"], &previous) else {
            panic!("not found")
        };
        assert_eq!(outcome_summary(&outcome), "refunded 15.98 USD (partly)");
        let Outcome::Refunded(yes) = outcome else { panic!("{outcome:?}") };
        assert_eq!(yes.items.get(1), previous.get(1), "with the message that refused it");

        let not_yet = lookup(&["1 success registration", "2 success registration"], &previous);
        assert!(matches!(not_yet, Lookup::NotFound { .. }), "{not_yet:?}");
        let both = lookup(&["1 refunded registration", "2 refunded registration"], &previous);
        assert!(matches!(&both, Lookup::Found(Outcome::Refunded(yes)) if !yes.is_partial()), "{both:?}");
    }

    #[test]
    fn items_refunded_along_are_listed_as_not_requested() {
        let body = order(PAID, &["3 refunded whois_privacy", "1 refunded registration"]);
        let target = NamecomTarget::new(7, &[1]).unwrap();
        let redactor = Redactor::new("demo", &SecretString::from("x"));
        let lookup = lookup_of(read_order(&answer(200, &[], body.as_bytes()), &target, &[], &redactor));
        let Lookup::Found(Outcome::Refunded(yes)) = lookup else { panic!("{lookup:?}") };
        let items: Vec<(&str, bool)> = yes.items.iter().map(|item| (item.item_id.as_str(), item.requested)).collect();
        assert_eq!(items, [("1", true), ("3", false)]);
        assert_eq!(yes.status.as_deref(), Some("refunded"));
        assert!(!yes.is_partial());
        assert_eq!(yes.items.last().unwrap().message, UNKNOWN_CAUSE_OF_ITEM_REFUND);

        let previous = [row(1, ItemState::Submitted, true), row(3, ItemState::Succeeded, false)];
        let lookup = lookup_of(read_order(&answer(200, &[], body.as_bytes()), &target, &previous, &redactor));
        let Lookup::Found(Outcome::Refunded(yes)) = lookup else { panic!("{lookup:?}") };
        assert_eq!(yes.items.last(), previous.last(), "the answer had named it");
    }

    #[test]
    fn an_order_is_read_in_every_lossless_form() {
        let target = NamecomTarget::new(7, &[1, 2]).unwrap();
        let redactor = Redactor::new("demo", &SecretString::from("x"));
        let body = order(PAID, &["1 refunded registration", "2 refunded b\u{fc}cher"]);
        let sixteen: Vec<u8> = format!("\u{FEFF}{body}").encode_utf16().flat_map(u16::to_be_bytes).collect();
        let latin: Vec<u8> = body.chars().map(|character| character as u8).collect();
        let one_for_a_list = "{\"id\":7,\"orderItems\":{\"id\":1,\"status\":\"refunded\"}}".to_owned();
        for (content_type, body) in [
            ("application/json", body.clone().into_bytes()),
            ("application/json", sixteen),
            ("application/json; charset=iso-8859-1", latin),
            ("application/json", format!("{{\"order\":{body}}}").into_bytes()),
            ("application/json", format!("\u{FEFF}{{\"order\":[{body}],\"more\":{{}}}}").into_bytes()),
        ] {
            let answer = answer(200, &[("content-type", content_type)], &body);
            let reading = read_order(&answer, &target, &[], &redactor);
            let Lookup::Found(outcome) = lookup_of(reading) else { panic!("{}", String::from_utf8_lossy(&body)) };
            assert_eq!(outcome_summary(&outcome), "refunded 15.98 USD");
        }
        assert_eq!(lookup(200, one_for_a_list.as_bytes()), "not_found item 1 refunded, item 2 not listed");
    }

    #[test]
    fn items_without_a_number_are_logged_once() {
        let has_logged = Once::new();
        for (count, lines) in [(0, 0), (2, 1), (1, 0)] {
            let log = logged(|| warn_of_items_without_a_number(count, &has_logged));
            assert_eq!(log.lines().count(), lines, "{log}");
        }
    }

    /// Items that another refund gave back are not listed, and requested ones are listed once.
    #[test]
    fn only_privacy_that_was_not_requested_is_refunded_along() {
        let items = ["1 refunded whois_privacy", "2 refunded registration", "3 refunded registration"];
        let body = order(PAID, &items);
        let target = NamecomTarget::new(7, &[1, 2]).unwrap();
        let redactor = Redactor::new("demo", &SecretString::from("x"));
        let lookup = lookup_of(read_order(&answer(200, &[], body.as_bytes()), &target, &[], &redactor));
        let Lookup::Found(Outcome::Refunded(yes)) = lookup else { panic!("{lookup:?}") };
        let items: Vec<&str> = yes.items.iter().map(|item| item.item_id.as_str()).collect();
        assert_eq!((items, yes.error), (vec!["1", "2"], None));
    }

    #[test]
    fn a_partial_refund_says_which_items_it_leaves_out() {
        let body = order(PAID, &["1 refunded registration", "2 failed registration"]);
        let target = NamecomTarget::new(7, &[1, 2]).unwrap();
        let redactor = Redactor::new("demo", &SecretString::from("x"));
        let lookup = lookup_of(read_order(&answer(200, &[], body.as_bytes()), &target, &[], &redactor));
        let Lookup::Found(Outcome::Refunded(yes)) = lookup else { panic!("{lookup:?}") };
        let error = yes.error.unwrap();
        assert_eq!((error.code.as_str(), error.message.as_str()), ("failed", "item 1 refunded, item 2 failed"));
    }

    proptest! {
        /// A refund is found only if both items have the status refunded, whatever happens to the
        /// answer.
        #[test]
        fn no_mutation_proves_a_refund(mutations in mutations(), status in "success|failed|refunde|Refunded", wrapped: bool) {
            let items = ["1 refunded registration".to_owned(), format!("2 {status} registration")];
            let whole = order(PAID, &[&items[0], &items[1]]);
            let whole = if wrapped { format!("{{\"order\":{whole}}}") } else { whole };
            let body = apply_mutations(whole.as_bytes(), &mutations);
            let text = String::from_utf8_lossy(&body);
            // A change may produce the status, or turn the other item into one whose purchase
            // failed.
            let may_be_proof = text.matches("\"refunded\"").count() > 1 || text.contains("\"failed\"");
            prop_assert!(may_be_proof || !lookup(200, &body).starts_with("refunded"), "{text}");
        }
    }

    /// Get Order shows no amount per item, so the amount from the answer to the refund is kept.
    #[test]
    fn a_refunded_item_keeps_the_amount_from_the_refund_answer() {
        let target = NamecomTarget::new(7, &[1, 2]).unwrap();
        let redactor = Redactor::new("demo", &SecretString::from("x"));
        let body = order("\"id\":7", &["1 refunded registration", "2 refunded registration"]);
        let dollars = |minor_units| Some(Money { currency: Currency::USD, minor_units });
        let paid = |id, minor_units| ItemResult {
            refunded_amount: dollars(minor_units),
            ..row(id, ItemState::Succeeded, true)
        };
        for (previous, items, amount) in [
            (vec![paid(1, 999), paid(2, 599)], vec![paid(1, 999), paid(2, 599)], dollars(1598)),
            // A sum that leaves out an item would be wrong.
            (vec![paid(1, 999)], vec![paid(1, 999), row(2, ItemState::Succeeded, true)], None),
        ] {
            let lookup = lookup_of(read_order(&answer(200, &[], body.as_bytes()), &target, &previous, &redactor));
            let Lookup::Found(Outcome::Refunded(yes)) = lookup else { panic!("{lookup:?}") };
            assert_eq!((yes.items, yes.amount), (items, amount));
        }
    }
}
