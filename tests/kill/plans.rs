//! What is to be refunded: every refund has a target of its own that nobody refunded before, some
//! of them with a will of their own.

use recoup::proto::v1 as proto;
use recoup::proto::v1::create_refund_request::Target as Wanted;
use simulators::providers::debitsuccess::{Account, Decision};
use simulators::providers::namecom::{Item, Order as DomainOrder, Outcome};
use simulators::providers::sectigo::{Order as CertificateOrder, Processing};
use simulators::request::Provider;
use simulators::worlds::World;

use crate::rng::Dice;
use crate::run::word;

/// A refund that a caller may ask for.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) id: String,
    pub(crate) provider: Provider,
    pub(crate) target: Target,
    pub(crate) nature: Nature,
}

/// What it gives back, as the books name it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Target {
    /// A Sectigo order; its price is on no wire.
    Order(String),
    /// Items of a name.com order, each with its price.
    Items { order: i32, items: Vec<(i32, i64)> },
    /// So much of a Debitsuccess account.
    Account { reference: String, minor_units: i64 },
}

/// What the provider makes of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Nature {
    /// A refund works.
    Plain,
    /// It is refused, always.
    Refuses,
    /// Sectigo: it works and is answered with -14. name.com: one item fails. Debitsuccess: it is
    /// rejected on review.
    Twisted,
}

/// Makes plans, one after the other.
#[derive(Debug)]
pub(crate) struct Plans {
    prefix: String,
    made: i32,
    dice: Dice,
}

impl Plans {
    pub(crate) fn new(prefix: String, dice: Dice) -> Plans {
        Plans { prefix, made: 0, dice }
    }

    /// The next one, at any provider.
    pub(crate) fn next(&mut self) -> Plan {
        let provider =
            self.dice.weighted(&[(1, Provider::Sectigo), (1, Provider::Namecom), (1, Provider::Debitsuccess)]);
        let nature = self.dice.weighted(&[(85, Nature::Plain), (8, Nature::Refuses), (7, Nature::Twisted)]);
        self.make(provider, nature)
    }

    /// The next one, at this provider, and nothing wrong with it.
    pub(crate) fn plain(&mut self, provider: Provider) -> Plan {
        self.make(provider, Nature::Plain)
    }

    fn make(&mut self, provider: Provider, nature: Nature) -> Plan {
        self.made += 1;
        let number = self.made;
        let target = match provider {
            Provider::Sectigo => Target::Order(format!("{}", 50_000_000 + number)),
            Provider::Namecom => {
                let several = self.dice.percent(25) || nature == Nature::Twisted;
                let items = if several { 2 } else { 1 };
                let price = |item: i32| 999 + i64::from(item) * 100;
                let items = (0..items).map(|item| (10_000_000 + number * 2 + item, price(item))).collect();
                Target::Items { order: 1_000_000 + number, items }
            }
            Provider::Debitsuccess => {
                let minor_units = i64::from(100 + number % 40_000);
                Target::Account { reference: format!("K{number:08}"), minor_units }
            }
        };
        Plan { id: format!("{}-{number}", self.prefix), provider, target, nature }
    }
}

impl Plan {
    /// What a caller asks for, of the account that is called as its provider.
    pub(crate) fn request(&self) -> proto::CreateRefundRequest {
        let target = match &self.target {
            Target::Order(order_number) => {
                let reason = proto::SectigoRefundReason::Other.into();
                Wanted::Sectigo(proto::SectigoTarget { order_number: order_number.clone(), reason })
            }
            Target::Items { order, items } => {
                let order_item_ids = items.iter().map(|(item, _)| *item).collect();
                Wanted::Namecom(proto::NamecomTarget { order_id: *order, order_item_ids })
            }
            Target::Account { reference, minor_units } => {
                let amount = Some(proto::Money { currency_code: "AUD".to_owned(), minor_units: *minor_units });
                let target = proto::DebitsuccessTarget {
                    account_reference_no: reference.clone(),
                    amount,
                    description: "Charged twice".to_owned(),
                    ..Default::default()
                };
                Wanted::Debitsuccess(target)
            }
        };
        proto::CreateRefundRequest {
            refund_id: self.id.clone(),
            account: word(self.provider).to_owned(),
            target: Some(target),
            ..Default::default()
        }
    }

    /// The same id with other content: never to be taken.
    pub(crate) fn changed(&self) -> proto::CreateRefundRequest {
        let mut request = self.request();
        match &mut request.target {
            Some(Wanted::Sectigo(target)) => target.reason = proto::SectigoRefundReason::BetterPrice.into(),
            Some(Wanted::Namecom(target)) => target.order_id += 500_000_000,
            Some(Wanted::Debitsuccess(target)) => {
                target.amount.as_mut().unwrap().minor_units += 1;
            }
            None => {}
        }
        request
    }

    /// What the books call its parts, and how much each is worth where that is on the wire.
    pub(crate) fn parts(&self) -> Vec<(String, Option<i64>)> {
        match &self.target {
            Target::Order(number) => vec![(number.clone(), None)],
            Target::Items { items, .. } => items.iter().map(|(item, minor)| (item.to_string(), Some(*minor))).collect(),
            Target::Account { reference, minor_units } => vec![(reference.clone(), Some(*minor_units))],
        }
    }

    /// Puts the target into the provider's data.
    pub(crate) fn put(&self, world: &mut World) {
        let now = world.clock.now();
        match &self.target {
            Target::Order(number) => {
                let mut order = CertificateOrder::new(number.clone());
                order.multi_domain = self.nature == Nature::Refuses;
                if self.nature == Nature::Twisted {
                    order.processing = Processing::FailsAfterRefund;
                }
                world.providers.sectigo.put_order(order, now).unwrap();
            }
            Target::Items { order, items } => {
                let mut bought: Vec<Item> = items
                    .iter()
                    .map(|(id, minor)| Item::new(*id, "registration", format!("kill-{id}.com"), *minor))
                    .collect();
                match self.nature {
                    Nature::Plain => {}
                    Nature::Refuses => bought[0].kind = "renewal".to_owned(),
                    Nature::Twisted => bought[1].refund_outcome = Outcome::Failed,
                }
                world.providers.namecom.put_order(DomainOrder::new(*order, "demo-test", bought), now).unwrap();
            }
            Target::Account { reference, minor_units } => {
                let mut account = Account::new(reference, &format!("EXT-{reference}"));
                match self.nature {
                    // Most are paid soon; some are never finished.
                    Nature::Plain if minor_units % 5 > 0 => account.settles_after_seconds = Some(1),
                    Nature::Plain => {}
                    Nature::Refuses => account.collected_minor = 1,
                    Nature::Twisted => {
                        account.settles_after_seconds = Some(1);
                        account.decision = Decision::Rejected;
                    }
                }
                world.providers.debitsuccess.put_account(account).unwrap();
            }
        }
    }
}
