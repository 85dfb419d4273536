//! A refund in doubt at name.com whose key has expired: only the domains of the order can prove
//! that nothing was refunded, and without that proof nothing is sent again.
//!
//! Each test ends with a look at the simulators' books.

use recoup::proto::v1::item_result::State as ItemState;
use recoup::proto::v1::refund::State;
use rstest::rstest;
use simulators::faults::{FaultEffect, Point, Repeat};
use simulators::providers::namecom::{Item, Order};
use simulators::request::Provider;

use crate::support::{Stack, namecom};

const ORDER: i32 = 410_001;
const FIRST: i32 = 71;
const SECOND: i32 = 72;

/// Lookups follow each other quickly; the lifetime of a key and the settle time are one second.
async fn stack() -> Stack {
    Stack::start_as(|configuration| {
        let short = "key_lifetime_s = 1\nsettle_time_s = 1\nusername = \"demo-test\"";
        configuration.replace("username = \"demo-test\"", short).replacen(
            "[accounts",
            "engine.lookups_after_ms = \"300\"\nengine.lookups_every_ms = 100\n[accounts",
            1,
        )
    })
    .await
}

fn registration(id: i32, name: &str) -> Item {
    Item::new(id, "registration", name.to_owned(), 1_099)
}

fn put(stack: &Stack, items: Vec<Item>) {
    let order = Order::new(ORDER, "demo-test", items);
    stack.simulators.with_world(|world| {
        let now = world.now();
        world.providers.namecom.put_order(order, now).unwrap();
    });
}

/// What happens at the provider after the request was lost.
type Change = fn(&Stack);

fn nothing(_: &Stack) {}

/// The domain of the first item is deleted, and its refund does not follow.
fn deleted(stack: &Stack) {
    change_first(stack, |item| item.domain_deleted = true);
}

/// The domain was deleted and registered again, in the same account.
fn registered_again(stack: &Stack) {
    let later = stack.simulators.with_world(|world| world.now()) + time::Duration::minutes(1);
    change_first(stack, |item| item.domain_created = Some(later));
}

fn change_first(stack: &Stack, change: impl FnOnce(&mut Item)) {
    stack.simulators.with_world(|world| {
        let mut order = world.providers.namecom.order(ORDER).unwrap();
        change(&mut order.items[0]);
        let now = world.now();
        world.providers.namecom.put_order(order, now).unwrap();
    });
}

#[rstest]
#[case::untouched(vec![registration(FIRST, "one.com")], nothing, true, "")]
#[case::both_untouched(vec![registration(FIRST, "one.com"), registration(SECOND, "two.com")], nothing, true, "")]
#[case::deleted(vec![registration(FIRST, "one.com")], deleted, false, "one.com")]
#[case::one_of_two_deleted(vec![registration(FIRST, "one.com"), registration(SECOND, "two.com")], deleted, false, "one.com")]
#[case::registered_again(vec![registration(FIRST, "one.com")], registered_again, false, "proves no absence")]
#[case::privacy(
    vec![Item::new(FIRST, "whois_privacy", "one.com".to_owned(), 499)],
    nothing,
    false,
    "proves no absence"
)]
#[case::privacy_beside(
    vec![registration(FIRST, "one.com"), Item::new(SECOND, "whois_privacy", "two.com".to_owned(), 499)],
    nothing,
    false,
    "proves no absence"
)]
#[tokio::test]
async fn a_refund_is_sent_again_only_where_all_domains_are_untouched(
    #[case] items: Vec<Item>,
    #[case] change: Change,
    #[case] sent_again: bool,
    #[case] evidence: &str,
) {
    let stack = stack().await;
    let ids: Vec<i32> = items.iter().map(|item| item.id).collect();
    put(&stack, items);
    // The first request, and every resend while the key is valid.
    stack.arm(Provider::Namecom, Point::BeforeEffect, FaultEffect::Close, Repeat::Standing);
    assert_eq!(stack.refund(namecom("lost", ORDER, &ids)).await.state(), State::InDoubt);
    change(&stack);
    let is_expired = |refund: &recoup::proto::v1::Refund| refund.doubt.as_ref().is_some_and(|doubt| !doubt.resend_safe);
    stack.until("lost", is_expired).await;
    stack.simulators.with_world(|world| {
        let armed: Vec<_> = world.faults.list().iter().map(|armed| armed.id).collect();
        armed.into_iter().for_each(|id| drop(world.faults.disarm(id)));
    });
    let covered = stack.attempts(&ORDER.to_string());

    let refund = stack.until("lost", |refund| refund.state() != State::InDoubt && refund.state() != State::Dispatching);
    let refund = refund.await;
    let (end, sent) = if sent_again { (State::Succeeded, covered + 1) } else { (State::NeedsReview, covered) };
    assert_eq!((refund.state(), stack.attempts(&ORDER.to_string())), (end, sent), "{refund:?}");
    let shown = refund.doubt.map(|doubt| doubt.last_evidence).unwrap_or_default();
    assert!(shown.contains(evidence), "{shown}");
    let keys: Vec<Option<String>> = stack
        .simulators
        .journal()
        .into_iter()
        .filter(|entry| entry.moves_money)
        .map(|entry| entry.identifier)
        .collect();
    assert!(keys.iter().all(|key| key.is_some() && key == &keys[0]), "{keys:?}");
    let refunded = ids.iter().map(|id| stack.effects(&id.to_string())).collect::<Vec<usize>>();
    assert_eq!(refunded, vec![usize::from(sent_again); ids.len()]);
}

/// The documented 502 after the domain was deleted: nothing is sent again, and the review says why.
#[tokio::test]
async fn a_refund_whose_domain_is_deleted_goes_to_review() {
    let stack = stack().await;
    put(&stack, vec![registration(FIRST, "one.com"), registration(SECOND, "two.com")]);
    stack.arm(Provider::Namecom, Point::BeforeEffect, FaultEffect::HalfWay, Repeat::Once);
    stack.create(namecom("half", ORDER, &[FIRST])).await.unwrap();
    let refund = stack.until("half", |refund| refund.state() == State::NeedsReview).await;
    let shown = refund.doubt.unwrap().last_evidence;
    assert!(shown.contains("one.com") && shown.contains("may still come"), "{shown}");
    assert!(refund.items.iter().all(|item| item.state() != ItemState::Succeeded), "{:?}", refund.items);
    assert_eq!(stack.effects(&FIRST.to_string()), 0);
}
