//! An order as it is kept: small, for there may be tens of thousands, and nearly all of them say
//! little more than a number and a domain.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{
    orders::{Order, Processing},
    status_page::{Parts, ShownData},
    validation::PostPaymentData,
};
use crate::record::packed::{Packer, Phrases, Unpacker};

/// An order in one piece, but for what it shows where that is anything unusual; in JSON it is the
/// order.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(into = "Order", from = "Order")]
pub(super) struct KeptOrder {
    rest: Box<[u8]>,
    /// Copies of a world share it.
    shown: Option<Arc<PostPaymentData>>,
}

/// What stands in nearly every order.
static WORDS: Phrases = Phrases::new(&["Processed", "Refunded", "example.com", "order-", "USD"]);

const PROCESSINGS: [Processing; 3] = [Processing::Works, Processing::FailsBeforeRefund, Processing::FailsAfterRefund];

impl KeptOrder {
    /// The whole order.
    pub(super) fn open(&self) -> Order {
        let mut packed = Unpacker::new(&self.rest);
        Order {
            order_number: words(&mut packed),
            account: packed.maybe(words),
            purchased_at: packed.maybe(Unpacker::time),
            multi_domain: packed.number() == 1,
            price_minor: packed.signed(),
            currency: words(&mut packed),
            processing: packed.one_of(&PROCESSINGS, |processing| processing as u64),
            refund_answer: packed.maybe(|packed| i32::try_from(packed.signed()).unwrap_or_default()),
            status_lag_seconds: packed.maybe(|packed| u32::try_from(packed.number()).unwrap_or_default()),
            status_fails: packed.number() == 1,
            refunded_at: packed.maybe(Unpacker::time),
            status_before_refund: packed.maybe(words),
            validation: match &self.shown {
                Some(data) => ShownData::of(Parts::Other(data)),
                None => {
                    let (domain, status) = (words(&mut packed), words(&mut packed));
                    ShownData::of(Parts::Ssl { domain: &domain, status: &status })
                }
            },
        }
    }
}

impl From<&Order> for KeptOrder {
    fn from(order: &Order) -> KeptOrder {
        let Order { order_number, account, purchased_at, multi_domain, price_minor, currency, processing, .. } = order;
        let Order { refund_answer, status_lag_seconds, status_fails, refunded_at, status_before_refund, .. } = order;
        let packer = put_words(Packer::default(), order_number).maybe(account.as_deref(), put_words);
        let packer = packer.maybe(*purchased_at, Packer::time).number((*multi_domain).into());
        let packer = put_words(packer.signed(*price_minor), currency).number(*processing as u64);
        let packer = packer.maybe(refund_answer.map(i64::from), Packer::signed);
        let packer = packer.maybe(status_lag_seconds.map(u64::from), Packer::number).number((*status_fails).into());
        let packer = packer.maybe(*refunded_at, Packer::time).maybe(status_before_refund.as_deref(), put_words);
        match order.validation.parts() {
            Parts::Ssl { domain, status } => {
                KeptOrder { rest: put_words(put_words(packer, domain), status).done(), shown: None }
            }
            Parts::Other(data) => KeptOrder { rest: packer.done(), shown: Some(data.clone()) },
        }
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
        for processing in PROCESSINGS {
            for validation in [PostPaymentData::everything().into(), ShownData::ssl("a.example")] {
                let full = Order {
                    account: Some("who".to_owned()),
                    purchased_at: Some(datetime!(2026-03-01 12:00:00.123456789 UTC)),
                    multi_domain: true,
                    price_minor: i64::MAX,
                    currency: "EUR".to_owned(),
                    processing,
                    refund_answer: Some(-99),
                    status_lag_seconds: Some(u32::MAX),
                    status_fails: true,
                    refunded_at: Some(datetime!(1999-01-01 0:00 UTC)),
                    status_before_refund: Some("Pending".to_owned()),
                    validation,
                    ..Order::new("7")
                };
                assert_eq!(KeptOrder::from(&full).open(), full);
            }
        }
        let order = Order::new("1000001");
        let kept = KeptOrder::from(&order);
        assert_eq!(kept.open(), order);
        // Tens of thousands of them are a few mebibytes.
        assert!(kept.rest.len() <= 48, "{}", kept.rest.len());
    }
}
