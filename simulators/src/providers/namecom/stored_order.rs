//! An order as it is kept: small, for there may be tens of thousands, and of most of what an order
//! could say it says nothing.

use serde::{Deserialize, Serialize};

use super::orders::{Item, ItemStatus, Order, OrderStatus, Outcome, Pending, Registry};
use crate::record::packed::{Packer, Phrases, Unpacker};
use crate::request::PaidTo;

/// An order in one piece; in JSON it is the order.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(into = "Order", from = "Order")]
pub(super) struct KeptOrder(Box<[u8]>);

/// What stands in nearly every order.
static WORDS: Phrases =
    Phrases::new(&["registration", "name.com", "year", "whois_privacy", ".com", "example", "renewal"]);

const ORDER_STATUSES: [OrderStatus; 5] =
    [OrderStatus::Success, OrderStatus::Failed, OrderStatus::Initialized, OrderStatus::Review, OrderStatus::Started];
const ITEM_STATUSES: [ItemStatus; 3] = [ItemStatus::Success, ItemStatus::Failed, ItemStatus::Refunded];
const OUTCOMES: [Outcome; 5] =
    [Outcome::Refunded, Outcome::Failed, Outcome::Initialized, Outcome::Canceled, Outcome::Deleted];
const REGISTRIES: [Registry; 4] = [Registry::Reachable, Registry::Broken, Registry::Unreachable, Registry::Slow];

impl KeptOrder {
    /// The whole order.
    pub(super) fn open(&self) -> Order {
        let mut packed = Unpacker::new(&self.0);
        let id = number(&mut packed);
        let account = packed.maybe(words);
        let created = packed.maybe(Unpacker::time);
        let status = packed.one_of(&ORDER_STATUSES, |status| status as u64);
        let registrar = words(&mut packed);
        let items = (0..packed.number()).map(|_| item(&mut packed)).collect();
        Order { id, account, created, status, registrar, items }
    }
}

impl From<&Order> for KeptOrder {
    fn from(order: &Order) -> KeptOrder {
        let Order { id, account, created, status, registrar, items } = order;
        let packer = Packer::default().signed((*id).into()).maybe(account.as_deref(), put_words);
        let packer = packer.maybe(*created, Packer::time).number(*status as u64);
        let packer = put_words(packer, registrar).number(items.len() as u64);
        KeptOrder(items.iter().fold(packer, put_item).done())
    }
}

impl From<Order> for KeptOrder {
    fn from(order: Order) -> KeptOrder {
        KeptOrder::from(&order)
    }
}

impl From<KeptOrder> for Order {
    fn from(kept: KeptOrder) -> Order {
        kept.open()
    }
}

fn put_item(packer: Packer, item: &Item) -> Packer {
    let Item {
        id, kind, name, tld, price_minor, original_price_minor, tax_minor, duration, interval, quantity, ..
    } = item;
    let Item { status, agp_expires, refund_outcome, refund_message, refund_answer, .. } = item;
    let Item { settles_after_seconds, registry, pending, domain_created, domain_deleted, refund_to, .. } = item;
    let packer = put_words(packer.signed((*id).into()), kind);
    let packer = packer.maybe(name.as_deref(), put_words).maybe(tld.as_deref(), put_words);
    let packer = packer.signed(*price_minor).maybe(*original_price_minor, Packer::signed);
    let packer = packer.maybe(*tax_minor, Packer::signed).signed((*duration).into());
    let packer = packer.maybe(interval.as_deref(), put_words).signed((*quantity).into());
    let packer = packer.number(*status as u64).maybe(*agp_expires, Packer::time).number(*refund_outcome as u64);
    let packer = packer.maybe(refund_message.as_deref(), Packer::text);
    let packer = packer.maybe(refund_answer.map(u64::from), Packer::number);
    let packer = packer.maybe(*settles_after_seconds, Packer::number).number(*registry as u64);
    let packer = packer.maybe(pending.as_ref(), |packer, Pending { since, identifier, amount_minor }| {
        packer.time(*since).maybe(identifier.as_deref(), Packer::text).maybe(*amount_minor, Packer::signed)
    });
    let packer = packer.maybe(*domain_created, Packer::time).number((*domain_deleted).into());
    packer.maybe(refund_to.map(|refund_to| refund_to as u64), Packer::number)
}

fn item(packed: &mut Unpacker<'_>) -> Item {
    Item {
        id: number(packed),
        kind: words(packed),
        name: packed.maybe(words),
        tld: packed.maybe(words),
        price_minor: packed.signed(),
        original_price_minor: packed.maybe(Unpacker::signed),
        tax_minor: packed.maybe(Unpacker::signed),
        duration: number(packed),
        interval: packed.maybe(words),
        quantity: number(packed),
        status: packed.one_of(&ITEM_STATUSES, |status| status as u64),
        agp_expires: packed.maybe(Unpacker::time),
        refund_outcome: packed.one_of(&OUTCOMES, |outcome| outcome as u64),
        refund_message: packed.maybe(|packed| packed.text().to_owned()),
        refund_answer: packed.maybe(|packed| u16::try_from(packed.number()).unwrap_or_default()),
        settles_after_seconds: packed.maybe(Unpacker::number),
        registry: packed.one_of(&REGISTRIES, |registry| registry as u64),
        pending: packed.maybe(|packed| Pending {
            since: packed.time(),
            identifier: packed.maybe(|packed| packed.text().to_owned()),
            amount_minor: packed.maybe(Unpacker::signed),
        }),
        domain_created: packed.maybe(Unpacker::time),
        domain_deleted: packed.number() == 1,
        refund_to: packed.maybe(|packed| packed.one_of(&PaidTo::ALL, |refund_to| refund_to as u64)),
    }
}

/// What was written from an `i32`.
fn number(packed: &mut Unpacker<'_>) -> i32 {
    i32::try_from(packed.signed()).unwrap_or_default()
}

fn words(packed: &mut Unpacker<'_>) -> String {
    packed.phrased(&WORDS)
}

fn put_words(packer: Packer, text: &str) -> Packer {
    packer.phrased(&WORDS, text)
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;

    #[test]
    fn an_order_is_the_same_again_with_all_that_it_can_say_and_with_nothing() {
        let plain = Item::new(3_200_001, "registration", "shop-1.com".to_owned(), 1299);
        for outcome in OUTCOMES {
            for (status, registry) in ITEM_STATUSES.into_iter().zip(REGISTRIES.into_iter().skip(1)) {
                let full = Item {
                    id: i32::MAX,
                    name: None,
                    tld: Some("co.uk".to_owned()),
                    original_price_minor: Some(i64::MAX),
                    tax_minor: Some(0),
                    duration: -1,
                    interval: None,
                    status,
                    agp_expires: Some(datetime!(2026-03-01 12:00:00.123456789 UTC)),
                    refund_outcome: outcome,
                    refund_message: Some("later".to_owned()),
                    refund_answer: Some(504),
                    settles_after_seconds: Some(u64::MAX),
                    registry,
                    pending: Some(Pending {
                        since: datetime!(2026-03-01 12:00 UTC),
                        identifier: Some("key".to_owned()),
                        amount_minor: Some(1),
                    }),
                    domain_created: Some(datetime!(1999-01-02 0:00 UTC)),
                    domain_deleted: true,
                    refund_to: Some(PaidTo::AccountBalance),
                    ..plain.clone()
                };
                for order_status in ORDER_STATUSES {
                    let order = Order {
                        status: order_status,
                        created: Some(datetime!(1999-01-01 0:00 UTC)),
                        ..Order::new(7, "who", vec![full.clone(), plain.clone()])
                    };
                    assert_eq!(KeptOrder::from(&order).open(), order);
                }
            }
        }
        let order = Order { account: None, ..Order::new(200_001, "", vec![plain]) };
        let kept = KeptOrder::from(&order);
        assert_eq!(kept.open(), order);
        // Tens of thousands of them are a few mebibytes.
        assert!(kept.0.len() <= 64, "{}", kept.0.len());
    }
}
