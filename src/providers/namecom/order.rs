//! Get Order: what became of the items, for a refund whose answer was lost or that was not finished.
//!
//! "Once an order item has been officially refunded", it has the status `refunded`. Nothing else is
//! a proof: `success` means that it was bought, not that no refund of it is on its way. What its
//! domain adds to that is in [`super::domains`].
//!
//! The answer is only read, so it is taken in every form that loses nothing.

use std::sync::Once;

use crate::domain::clock::Timestamp;
use crate::domain::money::Money;
use crate::domain::outcome::{
    Confirmation, ErrorCategory, Heard, ItemResult, ItemState, Lookup, Outcome, ProviderError, provider_text,
};
use crate::domain::target::NamecomTarget;
use crate::providers::http::Answer;
use crate::providers::mask::Mask;
use crate::providers::namecom::fields::Fields;
use crate::providers::namecom::rows::{dollars_of, is_requested};
use crate::providers::namecom::wire::{ErrorBody, refuses_the_login};
use crate::providers::text;

/// What an answer to Get Order says of a refund.
pub(super) enum Seen {
    /// All that is to be found out of it now.
    Settled(Lookup),
    /// Not every requested item is given back: the domains may say more.
    Open(Open),
}

/// An order in which requested items are not given back.
pub(super) struct Open {
    /// What was seen of each requested item, in words.
    pub(super) evidence: String,
    /// The same as values.
    pub(super) items: Vec<ItemResult>,
    /// When the order was made, as far as it says so.
    pub(super) created: Option<Timestamp>,
    /// The requested registrations that are shown as bought.
    pub(super) registrations: Vec<Registration>,
    /// Every requested item is among them and may be refunded, and no answer has said anything of
    /// one.
    pub(super) may_be_untouched: bool,
}

/// A requested registration.
pub(super) struct Registration {
    pub(super) item: i32,
    /// The name of its item, which is the domain.
    pub(super) domain: String,
    pub(super) is_refundable: bool,
}

/// What an answer to Get Order says of the refund of `target`, whose items were `told` of before.
pub(super) fn read_order(answer: &Answer, target: &NamecomTarget, told: &[ItemResult], mask: &Mask) -> Seen {
    match OrderView::of(answer, target, mask) {
        Ok(order) => order.judge(answer.status, target, told, mask),
        Err(NoOrder { evidence, heard }) => Seen::Settled(Lookup::Unavailable { evidence, heard }),
    }
}

/// Of a privacy item that the order shows as refunded, and that the answer to this refund never named.
const WHOSE_IS_NOT_TOLD: &str = "refunded, by this refund or by another: the order does not tell";

/// Why an answer is not the order.
struct NoOrder {
    evidence: String,
    heard: Heard,
}

impl From<&str> for NoOrder {
    fn from(evidence: &str) -> Self {
        NoOrder { evidence: evidence.to_owned(), heard: Heard::Nothing }
    }
}

/// `Order`, of which no member is required.
struct OrderView {
    created: Option<Timestamp>,
    /// What was given back of it so far.
    refunded: Option<Money>,
    in_dollars: bool,
    items: Vec<OrderItem>,
    /// Elements of the list that are no items with a number.
    odd: usize,
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
    fn of(answer: &Answer, target: &NamecomTarget, mask: &Mask) -> Result<OrderView, NoOrder> {
        let text = text::read(answer);
        if answer.status != 200 {
            // Only an accepted login gets this answer in the provider's own words; a proxy uses
            // other words.
            let said = text.ok().and_then(|body| ErrorBody::read(&body, mask));
            let heard = match answer.status {
                404 if said.is_some() => Heard::NoTarget,
                status if refuses_the_login(status, said.as_deref()) => Heard::LoginRefused,
                _ => Heard::Nothing,
            };
            return Err(NoOrder { evidence: format!("HTTP {} and not the order", answer.status), heard });
        }
        let Some(fields) = text.as_deref().ok().and_then(Fields::of) else {
            return Err("the answer is not an order in JSON".into());
        };
        let Some(order) = fields.unwrapped("id", "order") else {
            return Err("there is no order in the answer".into());
        };
        if order.integer("id") != Some(i64::from(target.order_id())) {
            let id = order.text("id").unwrap_or_else(|| "without a number".to_owned());
            return Err(mask.text(&format!("the answer tells of another order, {id}")).as_str().into());
        }
        let listed = order.objects("orderItems");
        let count = listed.len();
        let items: Vec<OrderItem> = listed.into_iter().filter_map(|item| OrderItem::of(&item?)).collect();
        let view = OrderView {
            created: order.moment("createDate"),
            refunded: order.raw("totalRefund").and_then(dollars_of).filter(|total| total.minor_units > 0),
            in_dollars: order.text("currency").is_none_or(|code| matches!(code.as_str(), "USD" | "")),
            odd: count - items.len(),
            items,
        };
        static SAID: Once = Once::new();
        warn_of_items_without_a_number(view.odd, &SAID);
        Ok(view)
    }

    fn judge(&self, http_status: u16, target: &NamecomTarget, told: &[ItemResult], mask: &Mask) -> Seen {
        let mut items = Vec::new();
        let mut seen = Vec::new();
        let mut registrations = Vec::new();
        let mut intact = 0;
        for id in target.order_item_ids() {
            let mut listed = self.items.iter().filter(|item| item.id == i64::from(*id));
            let item = match (listed.next(), listed.next()) {
                (item, None) => item,
                (_, Some(_)) => {
                    return Seen::Settled(Lookup::unavailable(format!("the order lists item {id} twice")));
                }
            };
            let word = item.map_or("not listed", |item| item.status.as_deref().unwrap_or("without a status"));
            // An order never shows a refusal: a refused item stays as it was bought.
            let refused =
                |row: &&ItemResult| row.requested && row.state == ItemState::Failed && row.item_id == id.to_string();
            if let Some(refused) = told.iter().find(refused).filter(|_| word != "refunded") {
                seen.push(format!("item {id} refused: {}", refused.message));
                items.push(refused.clone());
                continue;
            }
            seen.push(format!("item {id} {}", shown(word)));
            if let Some(item) = item.filter(|item| item.is_registration() && word == "success") {
                intact += usize::from(item.is_refundable);
                registrations.push(Registration {
                    item: *id,
                    domain: item.name.clone().unwrap_or_default(),
                    is_refundable: item.is_refundable,
                });
            }
            // `failed` is said of the purchase: it did not come about, so nothing was paid for the
            // item and nothing can be given back. Alone that is no proof that a refund was refused;
            // beside refunded items it says which of them the refund did not reach.
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
            if self.odd > 0 {
                seen.push(format!("{} without a number left out", self.odd));
            }
            // A reported refusal stays; what the order says of a purchase is none.
            let is_told = |item: &ItemResult| told.iter().any(|row| row == item);
            for item in items.iter_mut().filter(|item| item.state == ItemState::Failed && !is_told(item)) {
                item.state = ItemState::InDoubt;
            }
            // Money that was given back for no item that shows it may be ours.
            let is_explained = self.refunded.is_none() || self.refunded_items().next().is_some();
            let was_told = told.iter().any(|row| row.requested && row.state != ItemState::InDoubt);
            let may_be_untouched = intact == target.order_item_ids().len() && is_explained && !was_told;
            let evidence = mask.text(&seen.join(", "));
            return Seen::Open(Open { evidence, items, created: self.created, registrations, may_be_untouched });
        }
        let error = any(ItemState::Failed).then(|| ProviderError {
            code: "failed".to_owned(),
            message: provider_text(&seen.join(", ")),
            http_status,
            category: ErrorCategory::Other,
        });
        items.extend(self.refunded_along(target).map(|item| {
            let item_id = item.id.to_string();
            told_row(told, &item_id).cloned().unwrap_or_else(|| ItemResult {
                item_id,
                message: WHOSE_IS_NOT_TOLD.to_owned(),
                ..row(0, ItemState::Succeeded, false)
            })
        }));
        let amount = self.refunded_for(target).or_else(|| {
            // A sum that leaves an item out would be untrue.
            let refunded = items.iter().filter(|item| item.state == ItemState::Succeeded);
            Money::total(refunded.map(|item| item.refunded_amount))
        });
        Seen::Settled(Lookup::Found(Outcome::Refunded(Confirmation {
            status: Some("refunded".to_owned()),
            amount,
            items,
            error,
            ..Confirmation::default()
        })))
    }

    /// What was given back for the target: the order's total, where it can be for nothing else.
    ///
    /// An attached privacy item may have been refunded with its registration, or for itself on another day: the total does not tell, and
    /// an amount that is not told is better than one that counts another refund's money.
    fn refunded_for(&self, target: &NamecomTarget) -> Option<Money> {
        let ours_alone = self.odd == 0 && self.refunded_items().all(|item| is_requested(item.id, target));
        self.refunded.filter(|_| self.in_dollars && ours_alone)
    }

    /// Privacy items that are refunded and were not asked for.
    fn refunded_along(&self, target: &NamecomTarget) -> impl Iterator<Item = &OrderItem> {
        self.refunded_items()
            .filter(|item| item.kind.as_deref() == Some("whois_privacy") && !is_requested(item.id, target))
    }

    fn refunded_items(&self) -> impl Iterator<Item = &OrderItem> {
        self.items.iter().filter(|item| item.status.as_deref() == Some("refunded"))
    }
}

impl OrderItem {
    fn of(fields: &Fields<'_>) -> Option<OrderItem> {
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

/// A documented word, or ours for none, as it is; another one in quotation marks, so that its
/// blanks and capitals show.
fn shown(word: &str) -> String {
    match word {
        "success" | "failed" | "refunded" | "not listed" | "without a status" => word.to_owned(),
        other => format!("\"{other}\""),
    }
}

/// What the provider said of an item that it had given back, when it last spoke of the refund.
fn told_row<'a>(told: &'a [ItemResult], item_id: &str) -> Option<&'a ItemResult> {
    told.iter().find(|row| row.state == ItemState::Succeeded && row.item_id == item_id)
}

fn warn_of_items_without_a_number(count: usize, said: &Once) {
    if count > 0 {
        said.call_once(|| tracing::warn!("name.com lists items in an order that have no number: left out"));
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
    use crate::providers::samples::{answer, logged, mutated, mutations, outcome_word};

    fn look(status: u16, body: &[u8]) -> String {
        let target = NamecomTarget::new(7, &[1, 2]).unwrap();
        let mask = Mask::new("demo", &SecretString::from("c4nary-secret"));
        match lookup_of(read_order(&answer(status, &[], body), &target, &[], &mask)) {
            Lookup::Found(outcome) => outcome_word(&outcome),
            Lookup::NotFound { evidence, .. } => format!("not_found {evidence}"),
            Lookup::Unavailable { evidence, .. } => format!("unavailable {evidence}"),
        }
    }

    /// Without what the domains say.
    fn lookup_of(seen: Seen) -> Lookup {
        match seen {
            Seen::Settled(lookup) => lookup,
            Seen::Open(open) => Lookup::not_found(open.evidence),
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
    #[case::foreign_word(PAID, &["1 refunded registration", "2 REFUNDED registration"], "not_found item 1 refunded, item 2 \"REFUNDED\"")]
    #[case::twice(PAID, &["1 refunded registration", "1 success registration", "2 refunded registration"], "unavailable the order lists item 1 twice")]
    #[case::other_order("\"id\":8", &["1 refunded registration", "2 refunded registration"], "unavailable the answer tells of another order, 8")]
    #[case::nameless_order("\"currency\":\"USD\"", &["1 refunded registration", "2 refunded registration"], "unavailable there is no order in the answer")]
    #[case::order_in_a_text("\"id\":\"7\",\"totalRefund\":15.98", &["1 refunded registration", "2 refunded registration"], "refunded 15.98 USD")]
    #[case::items_in_texts(PAID, &["\"1\" refunded registration", "\"2\" refunded registration"], "refunded 15.98 USD")]
    #[case::an_odd_item(PAID, &["1 refunded registration", "2 refunded registration", "null success registration"], "refunded")]
    #[case::an_odd_item_not_yet(PAID, &["1 refunded registration", "2 success registration", "{} refunded registration"], "not_found item 1 refunded, item 2 success, 1 without a number left out")]
    #[case::listed_twice_in_two_forms(PAID, &["1 refunded registration", "\"1\" success registration", "2 refunded registration"], "unavailable the order lists item 1 twice")]
    #[case::blank(PAID, &["1 refunded registration", "2 refunded\u{a0} registration"], "not_found item 1 refunded, item 2 \"refunded\u{a0}\"")]
    fn only_the_word_refunded_proves_it(#[case] members: &str, #[case] items: &[&str], #[case] expected: &str) {
        assert_eq!(look(200, order(members, items).as_bytes()), expected);
    }

    #[rstest]
    #[case(200, "", "unavailable the answer is not an order in JSON")]
    #[case(200, "<html></html>", "unavailable the answer is not an order in JSON")]
    #[case(200, "{\"id\":7,\"orderItems\":[{\"id\":1,", "unavailable the answer is not an order in JSON")]
    #[case(200, "[]", "unavailable the answer is not an order in JSON")]
    #[case(200, "{}", "unavailable there is no order in the answer")]
    #[case(200, "{\"order\":null}", "unavailable there is no order in the answer")]
    #[case(200, "{\"message\":\"x\"}", "unavailable there is no order in the answer")]
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
    #[case::login_refused(401, "{\"message\":\"Unauthorized\"}", Heard::LoginRefused)]
    #[case::account_refused(
        403,
        "{\"message\":\"Permission denied\",\"details\":\"Failed authentication\"}",
        Heard::LoginRefused
    )]
    #[case::forbidden(403, "{\"message\":\"Permission Denied\"}", Heard::Nothing)]
    #[case::broken(500, "{\"message\":\"Internal Server Error\"}", Heard::Nothing)]
    fn an_order_that_is_not_there_shows_that_the_login_is_taken(
        #[case] status: u16,
        #[case] body: &str,
        #[case] expected: Heard,
    ) {
        let mask = Mask::new("demo", &SecretString::from("x"));
        let target = NamecomTarget::new(7, &[1]).unwrap();
        let lookup = lookup_of(read_order(&answer(status, &[], body.as_bytes()), &target, &[], &mask));
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
            lookup_of(read_order(&answer(200, &[], order(PAID, items).as_bytes()), &target, told, &mask))
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
        let lookup = lookup_of(read_order(&answer(200, &[], body.as_bytes()), &target, &[], &mask));
        let Lookup::Found(Outcome::Refunded(yes)) = lookup else { panic!("{lookup:?}") };
        let items: Vec<(&str, bool)> = yes.items.iter().map(|item| (item.item_id.as_str(), item.requested)).collect();
        assert_eq!(items, [("1", true), ("3", false)]);
        assert_eq!(yes.status.as_deref(), Some("refunded"));
        assert!(!yes.is_partial());
        assert_eq!(yes.items.last().unwrap().message, WHOSE_IS_NOT_TOLD);

        let told = [row(1, ItemState::Submitted, true), row(3, ItemState::Succeeded, false)];
        let lookup = lookup_of(read_order(&answer(200, &[], body.as_bytes()), &target, &told, &mask));
        let Lookup::Found(Outcome::Refunded(yes)) = lookup else { panic!("{lookup:?}") };
        assert_eq!(yes.items.last(), told.last(), "the answer had named it");
    }

    #[test]
    fn an_order_is_read_in_every_form_that_loses_nothing() {
        let target = NamecomTarget::new(7, &[1, 2]).unwrap();
        let mask = Mask::new("demo", &SecretString::from("x"));
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
            let seen = read_order(&answer, &target, &[], &mask);
            let Lookup::Found(outcome) = lookup_of(seen) else { panic!("{}", String::from_utf8_lossy(&body)) };
            assert_eq!(outcome_word(&outcome), "refunded 15.98 USD");
        }
        assert_eq!(look(200, one_for_a_list.as_bytes()), "not_found item 1 refunded, item 2 not listed");
    }

    #[test]
    fn items_without_a_number_are_logged_once() {
        let said = Once::new();
        for (count, lines) in [(0, 0), (2, 1), (1, 0)] {
            let log = logged(|| warn_of_items_without_a_number(count, &said));
            assert_eq!(log.lines().count(), lines, "{log}");
        }
    }

    /// What another refund gave back is not listed, and what was asked for is listed once.
    #[test]
    fn only_privacy_that_was_not_asked_for_is_refunded_along() {
        let items = ["1 refunded whois_privacy", "2 refunded registration", "3 refunded registration"];
        let body = order(PAID, &items);
        let target = NamecomTarget::new(7, &[1, 2]).unwrap();
        let mask = Mask::new("demo", &SecretString::from("x"));
        let lookup = lookup_of(read_order(&answer(200, &[], body.as_bytes()), &target, &[], &mask));
        let Lookup::Found(Outcome::Refunded(yes)) = lookup else { panic!("{lookup:?}") };
        let items: Vec<&str> = yes.items.iter().map(|item| item.item_id.as_str()).collect();
        assert_eq!((items, yes.error), (vec!["1", "2"], None));
    }

    /// Which item was not refunded, for the person who asks why.
    #[test]
    fn a_yes_in_part_says_which_items_it_leaves_out() {
        let body = order(PAID, &["1 refunded registration", "2 failed registration"]);
        let target = NamecomTarget::new(7, &[1, 2]).unwrap();
        let mask = Mask::new("demo", &SecretString::from("x"));
        let lookup = lookup_of(read_order(&answer(200, &[], body.as_bytes()), &target, &[], &mask));
        let Lookup::Found(Outcome::Refunded(yes)) = lookup else { panic!("{lookup:?}") };
        let error = yes.error.unwrap();
        assert_eq!((error.code.as_str(), error.message.as_str()), ("failed", "item 1 refunded, item 2 failed"));
    }

    proptest! {
        /// A refund is found only where both items are said to be refunded, whatever else happens
        /// to the answer.
        #[test]
        fn no_mutation_finds_a_refund(mutations in mutations(), word in "success|failed|refunde|Refunded", wrapped: bool) {
            let items = ["1 refunded registration".to_owned(), format!("2 {word} registration")];
            let whole = order(PAID, &[&items[0], &items[1]]);
            let whole = if wrapped { format!("{{\"order\":{whole}}}") } else { whole };
            let body = mutated(whole.as_bytes(), &mutations);
            let text = String::from_utf8_lossy(&body);
            // A change may well write the word, or leave the other item as one whose purchase
            // failed.
            let says_so = text.matches("\"refunded\"").count() > 1 || text.contains("\"failed\"");
            prop_assert!(says_so || !look(200, &body).starts_with("refunded"), "{text}");
        }
    }

    /// Get Order shows no amount of an item, so the amount in the answer to the refund is kept.
    #[test]
    fn a_refunded_item_keeps_the_amount_that_the_answer_named() {
        let target = NamecomTarget::new(7, &[1, 2]).unwrap();
        let mask = Mask::new("demo", &SecretString::from("x"));
        let body = order("\"id\":7", &["1 refunded registration", "2 refunded registration"]);
        let dollars = |minor_units| Some(Money { currency: Currency::USD, minor_units });
        let paid = |id, minor_units| ItemResult {
            refunded_amount: dollars(minor_units),
            ..row(id, ItemState::Succeeded, true)
        };
        for (told, items, amount) in [
            (vec![paid(1, 999), paid(2, 599)], vec![paid(1, 999), paid(2, 599)], dollars(1598)),
            // A sum that leaves an item out would be untrue.
            (vec![paid(1, 999)], vec![paid(1, 999), row(2, ItemState::Succeeded, true)], None),
        ] {
            let lookup = lookup_of(read_order(&answer(200, &[], body.as_bytes()), &target, &told, &mask));
            let Lookup::Found(Outcome::Refunded(yes)) = lookup else { panic!("{lookup:?}") };
            assert_eq!((yes.items, yes.amount), (items, amount));
        }
    }
}
