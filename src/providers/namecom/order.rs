//! Get Order: what became of the items, for a refund whose answer was lost or that was not finished.
//!
//! "Once an order item has been officially refunded", it has the status `refunded`. Nothing else is a proof: `success` means that it was
//! bought, not that no refund of it is on its way.

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::domain::money::Money;
use crate::domain::outcome::{
    Confirmation, ErrorCategory, Heard, ItemResult, ItemState, Lookup, Outcome, ProviderError, provider_text,
};
use crate::domain::target::NamecomTarget;
use crate::providers::http::Answer;
use crate::providers::mask::Mask;
use crate::providers::namecom::rows::{dollars_of, is_requested as is_of_target, total_of};
use crate::providers::namecom::wire::ErrorBody;
use crate::providers::object::Object;
use crate::providers::text;

/// What an answer to Get Order says of the refund of `target`, whose items were `told` of before.
pub(super) fn read_order(answer: &Answer, target: &NamecomTarget, told: &[ItemResult], mask: &Mask) -> Lookup {
    if answer.status != 200 {
        // Only a login that was taken is told so in the provider's own words; a proxy has other ones.
        let has_no_target =
            answer.status == 404 && text::read(answer).is_ok_and(|body| ErrorBody::read(&body, mask).is_some());
        let heard = if has_no_target { Heard::NoTarget } else { Heard::Nothing };
        return Lookup::Unavailable { evidence: format!("HTTP {} and not the order", answer.status), heard };
    }
    let Ok(Object(order)) = serde_json::from_slice::<Object<Order<'_>>>(&answer.body) else {
        return Lookup::unavailable("the answer is not an order in JSON");
    };
    if order.id != Some(i64::from(target.order_id())) {
        return Lookup::unavailable("the answer tells of another order");
    }
    let mut items = Vec::new();
    let mut seen = Vec::new();
    for id in target.order_item_ids() {
        let mut listed = order.order_items.iter().map(|Object(item)| item).filter(|item| item.id == i64::from(*id));
        let word = match (listed.next(), listed.next()) {
            (Some(item), None) => item.status.as_deref().unwrap_or("without a status"),
            (None, _) => "not listed",
            (Some(_), Some(_)) => return Lookup::unavailable(format!("the order lists item {id} twice")),
        };
        // The order never tells of a refusal: an item that was refused stays as it was bought.
        let refused =
            |row: &&ItemResult| row.requested && row.state == ItemState::Failed && row.item_id == id.to_string();
        if let Some(refused) = told.iter().find(refused).filter(|_| word != "refunded") {
            seen.push(format!("item {id} refused: {}", refused.message));
            items.push(refused.clone());
            continue;
        }
        seen.push(format!("item {id} {word}"));
        // `failed` is said of the purchase: it did not come about, so nothing was paid for the item and nothing can be given back.
        // Alone that is no proof that a refund was refused; beside refunded items it says which of them the refund did not reach.
        items.push(match word {
            "refunded" => {
                let told = told_row(told, &id.to_string());
                let refunded_amount = told.and_then(|row| row.refunded_amount);
                ItemResult { refunded_amount, ..row(*id, ItemState::Succeeded, true) }
            }
            "failed" => row(*id, ItemState::Failed, true),
            _ => row(*id, ItemState::InDoubt, true),
        });
    }
    let any = |state: ItemState| items.iter().any(|item| item.state == state);
    if any(ItemState::InDoubt) || !any(ItemState::Succeeded) {
        return Lookup::not_found(mask.text(&seen.join(", ")));
    }
    let error = any(ItemState::Failed).then(|| ProviderError {
        code: "failed".to_owned(),
        message: provider_text(&seen.join(", ")),
        http_status: answer.status,
        category: ErrorCategory::Other,
    });
    items.extend(order.refunded_along(target).map(|item| {
        let item_id = item.id.to_string();
        told_row(told, &item_id).cloned().unwrap_or_else(|| ItemResult {
            item_id,
            message: WHOSE_IS_NOT_TOLD.to_owned(),
            ..row(0, ItemState::Succeeded, false)
        })
    }));
    let amount = order.refunded_for(target).or_else(|| {
        let refunded = || items.iter().filter(|item| item.state == ItemState::Succeeded);
        // A sum that leaves an item out would be untrue.
        let all_told = refunded().all(|item| item.refunded_amount.is_some());
        all_told.then(|| total_of(refunded().filter_map(|item| item.refunded_amount))).flatten()
    });
    Lookup::Found(Outcome::Refunded(Confirmation {
        reference: None,
        status: Some("refunded".to_owned()),
        amount,
        items,
        error,
        ..Confirmation::default()
    }))
}

/// Of a privacy item that the order shows as refunded, and that the answer to this refund never named.
const WHOSE_IS_NOT_TOLD: &str = "refunded, by this refund or by another: the order does not tell";

/// `Order`, of which no member is required.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Order<'a> {
    id: Option<i64>,
    currency: Option<String>,
    #[serde(borrow)]
    total_refund: Option<&'a RawValue>,
    #[serde(default)]
    order_items: Vec<Object<OrderItem>>,
}

/// `OrderItem`.
#[derive(Deserialize)]
struct OrderItem {
    id: i64,
    status: Option<String>,
    #[serde(rename = "type")]
    kind: Option<String>,
}

impl Order<'_> {
    /// What was given back for the target: the order's total, where it can be for nothing else.
    ///
    /// An attached privacy item may have been refunded with its registration, or for itself on another day: the total does not tell, and
    /// an amount that is not told is better than one that counts another refund's money.
    fn refunded_for(&self, target: &NamecomTarget) -> Option<Money> {
        let in_dollars = self.currency.as_deref().is_none_or(|code| matches!(code, "USD" | ""));
        let ours_alone = self.refunded_items().all(|item| is_requested(item, target));
        let total = self.total_refund.and_then(dollars_of).filter(|total| total.minor_units > 0)?;
        (in_dollars && ours_alone).then_some(total)
    }

    /// Privacy items that are refunded and were not asked for.
    fn refunded_along(&self, target: &NamecomTarget) -> impl Iterator<Item = &OrderItem> {
        self.refunded_items()
            .filter(|item| item.kind.as_deref() == Some("whois_privacy") && !is_requested(item, target))
    }

    fn refunded_items(&self) -> impl Iterator<Item = &OrderItem> {
        self.order_items.iter().map(|Object(item)| item).filter(|item| item.status.as_deref() == Some("refunded"))
    }
}

/// What the provider said of an item that it had given back, when it last spoke of the refund.
fn told_row<'a>(told: &'a [ItemResult], item_id: &str) -> Option<&'a ItemResult> {
    told.iter().find(|row| row.state == ItemState::Succeeded && row.item_id == item_id)
}

fn is_requested(item: &OrderItem, target: &NamecomTarget) -> bool {
    is_of_target(item.id, target)
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
    use crate::providers::samples::{answer, outcome_word};

    fn look(status: u16, body: &[u8]) -> String {
        let target = NamecomTarget::new(7, &[1, 2]).unwrap();
        let mask = Mask::new("demo", &SecretString::from("c4nary-secret"));
        match read_order(&answer(status, &[], body), &target, &[], &mask) {
            Lookup::Found(outcome) => outcome_word(&outcome),
            Lookup::NotFound { evidence, .. } => format!("not_found {evidence}"),
            Lookup::Unavailable { evidence, .. } => format!("unavailable {evidence}"),
        }
    }

    fn order(members: &str, items: &[&str]) -> String {
        let items: Vec<String> = items
            .iter()
            .map(|text| {
                let words: Vec<&str> = text.split(' ').collect();
                format!("{{\"id\":{},\"status\":\"{}\",\"type\":\"{}\"}}", words[0], words[1], words[2])
            })
            .collect();
        format!("{{{members},\"orderItems\":[{}]}}", items.join(","))
    }

    const PAID: &str = "\"id\":7,\"currency\":\"USD\",\"totalRefund\":15.98";

    #[rstest]
    #[case::all(PAID, &["1 refunded registration", "2 refunded whois_privacy"], "refunded 15.98 USD")]
    #[case::currency_not_said("\"id\":7,\"totalRefund\":\"15.98\"", &["1 refunded registration", "2 refunded whois_privacy"], "refunded 15.98 USD")]
    #[case::currency_of_another("\"id\":7,\"currency\":\"CNY\",\"totalRefund\":115.98", &["1 refunded registration", "2 refunded whois_privacy"], "refunded")]
    #[case::total_not_said("\"id\":7", &["1 refunded registration", "2 refunded whois_privacy"], "refunded")]
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
    #[case::foreign_word(PAID, &["1 refunded registration", "2 REFUNDED registration"], "not_found item 1 refunded, item 2 REFUNDED")]
    #[case::twice(PAID, &["1 refunded registration", "1 success registration", "2 refunded registration"], "unavailable the order lists item 1 twice")]
    #[case::other_order("\"id\":8", &["1 refunded registration", "2 refunded registration"], "unavailable the answer tells of another order")]
    #[case::nameless_order("\"currency\":\"USD\"", &["1 refunded registration", "2 refunded registration"], "unavailable the answer tells of another order")]
    fn only_the_word_refunded_proves_it(#[case] members: &str, #[case] items: &[&str], #[case] expected: &str) {
        assert_eq!(look(200, order(members, items).as_bytes()), expected);
    }

    #[rstest]
    #[case(200, "", "unavailable the answer is not an order in JSON")]
    #[case(200, "<html></html>", "unavailable the answer is not an order in JSON")]
    #[case(200, "{\"id\":7,\"orderItems\":[{\"id\":1,", "unavailable the answer is not an order in JSON")]
    #[case(200, "[]", "unavailable the answer is not an order in JSON")]
    #[case(401, "{\"message\":\"Unauthorized\"}", "unavailable HTTP 401 and not the order")]
    #[case(404, "{\"message\":\"Not Found\"}", "unavailable HTTP 404 and not the order")]
    #[case(429, "{\"message\":\"Rate Limit Exceeded\"}", "unavailable HTTP 429 and not the order")]
    #[case(500, "{\"id\":7}", "unavailable HTTP 500 and not the order")]
    fn an_answer_that_is_no_order_teaches_nothing(#[case] status: u16, #[case] body: &str, #[case] expected: &str) {
        assert_eq!(look(status, body.as_bytes()), expected);
    }

    #[rstest]
    #[case::in_its_own_words(404, "{\"message\":\"Not Found\"}", Heard::NoTarget)]
    #[case::a_proxy(404, "<html></html>", Heard::Nothing)]
    #[case::empty(404, "{}", Heard::Nothing)]
    #[case::login_refused(401, "{\"message\":\"Unauthorized\"}", Heard::Nothing)]
    #[case::broken(500, "{\"message\":\"Internal Server Error\"}", Heard::Nothing)]
    fn an_order_that_is_not_there_shows_that_the_login_is_taken(
        #[case] status: u16,
        #[case] body: &str,
        #[case] expected: Heard,
    ) {
        let mask = Mask::new("demo", &SecretString::from("x"));
        let target = NamecomTarget::new(7, &[1]).unwrap();
        let lookup = read_order(&answer(status, &[], body.as_bytes()), &target, &[], &mask);
        assert!(matches!(lookup, Lookup::Unavailable { heard, .. } if heard == expected), "{lookup:?}");
    }

    /// SUBMITTED would last for ever: an item that was refused stays `success` in its order.
    #[test]
    fn an_item_that_the_answer_refused_is_not_waited_for() {
        let target = NamecomTarget::new(7, &[1, 2]).unwrap();
        let mask = Mask::new("demo", &SecretString::from("x"));
        let told = [
            row(1, ItemState::Submitted, true),
            ItemResult { message: "Not eligible.".to_owned(), ..row(2, ItemState::Failed, true) },
        ];
        let look = |items: &[&str], told: &[ItemResult]| {
            read_order(&answer(200, &[], order(PAID, items).as_bytes()), &target, told, &mask)
        };
        let Lookup::Found(outcome) = look(&["1 refunded registration", "2 success registration"], &told) else {
            panic!("not found")
        };
        assert_eq!(outcome_word(&outcome), "refunded 15.98 USD (partly)");
        let Outcome::Refunded(yes) = outcome else { panic!("{outcome:?}") };
        assert_eq!(yes.items.get(1), told.get(1), "with the words that refused it");

        let not_yet = look(&["1 success registration", "2 success registration"], &told);
        assert!(matches!(not_yet, Lookup::NotFound { .. }), "{not_yet:?}");
        let both = look(&["1 refunded registration", "2 refunded registration"], &told);
        assert!(matches!(&both, Lookup::Found(Outcome::Refunded(yes)) if !yes.is_partial()), "{both:?}");
    }

    #[test]
    fn items_refunded_along_are_listed_as_not_asked_for() {
        let body = order(PAID, &["3 refunded whois_privacy", "1 refunded registration"]);
        let target = NamecomTarget::new(7, &[1]).unwrap();
        let mask = Mask::new("demo", &SecretString::from("x"));
        let lookup = read_order(&answer(200, &[], body.as_bytes()), &target, &[], &mask);
        let Lookup::Found(Outcome::Refunded(yes)) = lookup else { panic!("{lookup:?}") };
        let items: Vec<(&str, bool)> = yes.items.iter().map(|item| (item.item_id.as_str(), item.requested)).collect();
        assert_eq!(items, [("1", true), ("3", false)]);
        assert!(!yes.is_partial());
        assert_eq!(yes.items.last().unwrap().message, WHOSE_IS_NOT_TOLD);

        let told = [row(1, ItemState::Submitted, true), row(3, ItemState::Succeeded, false)];
        let lookup = read_order(&answer(200, &[], body.as_bytes()), &target, &told, &mask);
        let Lookup::Found(Outcome::Refunded(yes)) = lookup else { panic!("{lookup:?}") };
        assert_eq!(yes.items.last(), told.last(), "the answer had named it");
    }

    proptest! {
        #[test]
        fn no_noise_finds_a_refund(body in proptest::collection::vec(any::<u8>(), 0..300)) {
            prop_assert!(!look(200, &body).starts_with("refunded"));
        }
    }
}
