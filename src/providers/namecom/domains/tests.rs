use proptest::prelude::*;
use rstest::rstest;
use secrecy::SecretString;

use super::*;
use crate::domain::outcome::{ItemResult, ItemState};
use crate::domain::target::NamecomTarget;
use crate::providers::namecom::order::{OrderReading, read_order};
use crate::providers::testing::fixtures::{answer, apply_mutations, mutations};

fn redactor() -> Redactor {
    Redactor::new("demo", &SecretString::from("c4nary-secret"))
}

/// Items from `71 success registration a.com true`.
fn order(members: &str, items: &[&str]) -> String {
    let items: Vec<String> = items
        .iter()
        .map(|item| {
            let parts: Vec<&str> = item.split(' ').collect();
            format!(
                "{{\"id\":{},\"status\":\"{}\",\"type\":\"{}\",\"name\":\"{}\",\"isRefundable\":{}}}",
                parts[0], parts[1], parts[2], parts[3], parts[4]
            )
        })
        .collect();
    format!("{{\"id\":7,{members}\"orderItems\":[{}]}}", items.join(","))
}

const CREATED: &str = "\"createDate\":\"2026-03-04T05:06:40Z\",";

fn there(name: &str, created: &str) -> String {
    format!("{{\"domainName\":\"{name}\",\"createDate\":\"{created}\",\"locked\":true}}")
}

const AT_ORDER: &str = "2026-03-04T05:06:40Z";
const GONE: &str = "{\"message\":\"Not Found\",\"details\":\"Domain a.com does not exist.\"}";

/// The result of a lookup of items 71 and 72, given the order and the answers about the domains.
fn lookup(order: &str, domains: &[(&str, u16, &str)], previous: &[ItemResult]) -> (Absence, Vec<ItemState>, String) {
    let target = NamecomTarget::new(7, &[71, 72]).unwrap();
    let open = match read_order(&answer(200, &[], order.as_bytes()), &target, previous, &redactor()) {
        OrderReading::Unrefunded(open) => open,
        OrderReading::Conclusive(lookup) => panic!("{lookup:?}"),
    };
    let known: Vec<(String, DomainState)> = domains
        .iter()
        .map(|(name, status, body)| {
            let answer = answer(*status, &[], body.as_bytes());
            ((*name).to_owned(), read_domain(&answer, name, &redactor()))
        })
        .collect();
    match conclude(open, &known, &redactor()) {
        Lookup::NotFound { evidence, items, absence } => {
            assert!(evidence.len() <= 512, "{evidence}");
            (absence, items.iter().map(|item| item.state).collect(), evidence)
        }
        other => panic!("{other:?}"),
    }
}

const BOTH: [&str; 2] = ["71 success registration a.com true", "72 success registration b.com true"];

#[test]
fn domains_still_of_the_order_prove_that_nothing_was_refunded() {
    let both = order(CREATED, &BOTH);
    let domains = [("a.com", 200, there("A.com", AT_ORDER)), ("b.com", 200, there("b.com", "2026-03-04T05:06:39.9Z"))];
    let domains: Vec<(&str, u16, &str)> =
        domains.iter().map(|(name, status, body)| (*name, *status, body.as_str())).collect();
    let (absence, states, evidence) = lookup(&both, &domains, &[]);
    assert_eq!((absence, states), (Absence::Untouched, vec![ItemState::InDoubt; 2]));
    assert_eq!(
        evidence,
        "item 71 success, item 72 success; domain a.com is there, created 2026-03-04T05:06:40Z; domain b.com is there, \
         created 2026-03-04T05:06:39.9Z"
    );
    // In every lossless form.
    let wrapped = format!("{{\"order\":{both}}}");
    let domain = format!("{{\"domain\":{}}}", there("b.com", "2026-03-04T07:06:40+02:00"));
    let domains = [domains[0], ("b.com", 200, domain.as_str())];
    assert_eq!(lookup(&wrapped, &domains, &[]).0, Absence::Untouched);
}

#[rstest]
#[case::privacy_item(CREATED, &[BOTH[0], "72 success whois_privacy a.com true"])]
#[case::another_kind(CREATED, &[BOTH[0], "72 success renewal b.com true"])]
#[case::kind_in_another_case(CREATED, &[BOTH[0], "72 success Registration b.com true"])]
#[case::not_refundable(CREATED, &[BOTH[0], "72 success registration b.com false"])]
#[case::refundable_in_a_text(CREATED, &[BOTH[0], "72 success registration b.com \"true\""])]
#[case::refundable_missing(CREATED, &[BOTH[0], "72 success registration b.com null"])]
#[case::another_status(CREATED, &[BOTH[0], "72 initialized registration b.com true"])]
#[case::value_in_another_case(CREATED, &[BOTH[0], "72 Success registration b.com true"])]
#[case::one_refunded(CREATED, &[BOTH[0], "72 refunded registration b.com true"])]
#[case::purchase_failed(CREATED, &[BOTH[0], "72 failed registration b.com true"])]
#[case::one_missing(CREATED, &[BOTH[0]])]
#[case::one_domain_twice(CREATED, &[BOTH[0], "72 success registration A.com true"])]
#[case::no_name(CREATED, &[BOTH[0], "72 success registration  true"])]
#[case::a_name_that_is_a_path(CREATED, &[BOTH[0], "72 success registration ../orders true"])]
#[case::order_without_a_date("", &BOTH)]
#[case::order_with_no_date("\"createDate\":\"yesterday\",", &BOTH)]
#[case::order_before_its_domains("\"createDate\":\"2026-03-04T05:06:39Z\",", &BOTH)]
#[case::order_hours_behind("\"createDate\":\"2026-03-03T22:06:40Z\",", &BOTH)]
#[case::money_given_back_for_no_item("\"createDate\":\"2026-03-04T05:06:40Z\",\"totalRefund\":10.99,", &BOTH)]
fn an_order_that_shows_less_proves_nothing(#[case] members: &str, #[case] items: &[&str]) {
    let (a, b) = (there("a.com", AT_ORDER), there("b.com", AT_ORDER));
    let order = order(members, items);
    let (absence, ..) = lookup(&order, &[("a.com", 200, &a), ("b.com", 200, &b)], &[]);
    assert_eq!(absence, Absence::Unproven, "{order}");
}

#[rstest]
#[case::not_refundable(CREATED, "false", "created 2026-03-04T05:06:40Z, and its item is not marked refundable")]
#[case::order_without_a_date("", "true", "created 2026-03-04T05:06:40Z, and the order has no creation date")]
fn the_evidence_names_what_is_missing_in_the_order(
    #[case] members: &str,
    #[case] refundable: &str,
    #[case] expected: &str,
) {
    let item = format!("71 success registration a.com {refundable}");
    let order = order(members, &[&item, BOTH[1]]);
    let (a, b) = (there("a.com", AT_ORDER), there("b.com", AT_ORDER));
    let (absence, _, evidence) = lookup(&order, &[("a.com", 200, &a), ("b.com", 200, &b)], &[]);
    assert_eq!(absence, Absence::Unproven);
    assert!(evidence.contains(&format!("domain a.com is there, {expected}")), "{evidence}");
}

#[rstest]
#[case::later(200, &there("b.com", "2026-03-04T05:06:41Z"), "created 2026-03-04T05:06:41Z, which is not before the order")]
#[case::anew(200, &there("b.com", "2026-03-09T00:00:00Z"), "which is not before the order")]
#[case::without_a_date(200, "{\"domainName\":\"b.com\"}", "domain b.com is there, without a creation date")]
#[case::no_date(200, &there("b.com", "soon"), "created \"soon\", which is not a timestamp")]
#[case::another_domain(200, &there("b.net", AT_ORDER), "the answer is about another domain, \"b.net\"")]
#[case::blank(200, &there("b.com ", AT_ORDER), "the answer is about another domain, \"b.com \"")]
#[case::no_domain(200, "{}", "the answer contains no domain")]
#[case::no_json(200, "<html>", "the answer contains no domain")]
#[case::gone_says_a_proxy(404, "<html>Not Found</html>", "domain b.com: HTTP 404")]
#[case::gone_without_a_message(404, "{}", "domain b.com: HTTP 404")]
#[case::login_refused(401, "{\"message\":\"Unauthorized\"}", "domain b.com: HTTP 401")]
#[case::forbidden(403, "{\"message\":\"Permission denied\"}", "domain b.com: HTTP 403")]
#[case::too_many(429, "{\"message\":\"Rate Limit Exceeded\"}", "domain b.com: HTTP 429")]
#[case::broken(500, "{\"message\":\"Internal Server Error\"}", "domain b.com: HTTP 500")]
fn one_domain_that_shows_less_proves_nothing(#[case] status: u16, #[case] body: &str, #[case] expected: &str) {
    let a = there("a.com", AT_ORDER);
    let (absence, _, evidence) = lookup(&order(CREATED, &BOTH), &[("a.com", 200, &a), ("b.com", status, body)], &[]);
    assert_eq!(absence, Absence::Unproven);
    assert!(evidence.contains(expected), "{evidence}");
    let (absence, _, evidence) = lookup(&order(CREATED, &BOTH), &[("a.com", 200, &a)], &[]);
    assert_eq!(absence, Absence::Unproven);
    assert!(evidence.ends_with("domain \"b.com\" was not read"), "{evidence}");
}

#[test]
fn a_deleted_domain_without_a_refund_is_reported() {
    let a = there("a.com", AT_ORDER);
    let (absence, states, evidence) = lookup(&order(CREATED, &BOTH), &[("a.com", 200, &a), ("b.com", 404, GONE)], &[]);
    assert_eq!((absence, states), (Absence::HalfDone, vec![ItemState::InDoubt; 2]));
    assert!(evidence.starts_with("domain b.com is deleted and its item 72 is not refunded"), "{evidence}");
    // One item is refunded; the provider has begun with the other.
    let half = order(CREATED, &["71 refunded registration a.com false", "72 success registration b.com false"]);
    let (absence, states, _) = lookup(&half, &[("b.com", 404, GONE)], &[]);
    assert_eq!((absence, states), (Absence::HalfDone, vec![ItemState::Succeeded, ItemState::InDoubt]));
    // An item that was never bought has no domain that could be deleted.
    let failed = order(CREATED, &[BOTH[0], "72 failed registration b.com false"]);
    assert_eq!(lookup(&failed, &[("a.com", 200, &a), ("b.com", 404, GONE)], &[]).0, Absence::Unproven);
}

#[rstest]
#[case::taken(ItemState::Submitted, Absence::Unproven)]
#[case::refused(ItemState::Failed, Absence::Unproven)]
#[case::given_back(ItemState::Succeeded, Absence::Unproven)]
#[case::seen_in_doubt(ItemState::InDoubt, Absence::Untouched)]
fn an_item_with_a_reported_result_is_not_untouched(#[case] state: ItemState, #[case] expected: Absence) {
    let previous =
        ItemResult { item_id: "71".to_owned(), state, refunded_amount: None, message: "m".to_owned(), requested: true };
    let (a, b) = (there("a.com", AT_ORDER), there("b.com", AT_ORDER));
    let domains = [("a.com", 200, a.as_str()), ("b.com", 200, &b)];
    let (absence, states, _) = lookup(&order(CREATED, &BOTH), &domains, std::slice::from_ref(&previous));
    assert_eq!(absence, expected);
    // A reported refusal stays with its item, or the wait for it would never end.
    let shown = if state == ItemState::Failed { ItemState::Failed } else { ItemState::InDoubt };
    assert_eq!(states, [shown, ItemState::InDoubt]);
}

#[rstest]
#[case("a.com", true)]
#[case("xn--bcher-kva.example", true)]
#[case("A-1.co.uk", true)]
#[case("com", false)]
#[case("a..com", false)]
#[case(".com", false)]
#[case("a.com.", false)]
#[case("../orders", false)]
#[case("a.com/x", false)]
#[case("a.com?x=y", false)]
#[case("a.com%2f", false)]
#[case("b\u{fc}cher.example", false)]
#[case("a.com\r\nx: y", false)]
#[case("", false)]
fn only_a_domain_name_is_requested(#[case] text: &str, #[case] expected: bool) {
    assert_eq!(is_name(text), expected);
    assert!(!is_name(&format!("{}.com", "a".repeat(250))));
}

proptest! {
    /// Whatever happens to the answers, the proof needs every part of it.
    #[test]
    fn no_mutation_proves_an_absence(of_order in mutations(), of_domain in mutations(), which in 0..4_usize) {
        let (members, items, date) = match which {
            0 => (CREATED, [BOTH[0], "72 success registration b.com false"], AT_ORDER),
            1 => (CREATED, [BOTH[0], "72 refunded registration b.com true"], AT_ORDER),
            2 => (CREATED, [BOTH[0], "72 success whois_privacy b.com true"], AT_ORDER),
            _ => ("\"createDate\":\"1926-03-04T05:06:40Z\",", BOTH, "2126-03-04T05:06:40Z"),
        };
        let target = NamecomTarget::new(7, &[71, 72]).unwrap();
        let order = apply_mutations(order(members, &items).as_bytes(), &of_order);
        let OrderReading::Unrefunded(open) = read_order(&answer(200, &[], &order), &target, &[], &redactor()) else { return Ok(()) };
        let known: Vec<(String, DomainState)> = ["a.com", "b.com"]
            .into_iter()
            .map(|name| {
                let body = apply_mutations(there(name, date).as_bytes(), &of_domain);
                (name.to_owned(), read_domain(&answer(200, &[], &body), name, &redactor()))
            })
            .collect();
        let Lookup::NotFound { absence, .. } = conclude(open, &known, &redactor()) else { return Ok(()) };
        // A change of one digit may turn a year into one that is a proof.
        prop_assert!(which == 3 || absence != Absence::Untouched);
    }
}
