//! The refunds that callers may request. Every refund has a new target, and at some targets the
//! provider refuses or does something unusual.

use recoup::proto::v1 as proto;
use recoup::proto::v1::create_refund_request::Target as Wanted;
use simulators::providers::debitsuccess::{Account, Decision};
use simulators::providers::namecom::{Item, Order as DomainOrder, Outcome};
use simulators::providers::sectigo::{Order as CertificateOrder, Processing};
use simulators::request::Provider;
use simulators::worlds::World;

use crate::rng::SeededRng;
use crate::support::demo_accounts::account_name;

/// A refund that a caller may request.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) id: String,
    pub(crate) provider: Provider,
    pub(crate) target: Target,
    pub(crate) kind: PlanKind,
}

/// The target of a refund, as the books name it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Target {
    /// A Sectigo order; its price is on no wire.
    Order(String),
    /// Items of a name.com order, each with its price.
    Items { order: i32, items: Vec<(i32, i64)> },
    /// An amount of a Debitsuccess account.
    Account { reference: String, minor_units: i64 },
}

/// What the provider does with the refund.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PlanKind {
    /// It refunds.
    Plain,
    /// It always refuses.
    Refuses,
    /// Sectigo: refunds and answers -14. name.com: fails one item. Debitsuccess: rejects the refund
    /// on review.
    Unusual,
}

/// Makes plans, one after another.
#[derive(Debug)]
pub(crate) struct Plans {
    prefix: String,
    made: i32,
    rng: SeededRng,
}

impl Plans {
    pub(crate) fn new(prefix: String, rng: SeededRng) -> Plans {
        Plans { prefix, made: 0, rng }
    }

    /// The next plan, at any provider.
    pub(crate) fn next(&mut self) -> Plan {
        let provider =
            self.rng.weighted(&[(1, Provider::Sectigo), (1, Provider::Namecom), (1, Provider::Debitsuccess)]);
        let kind = self.rng.weighted(&[(85, PlanKind::Plain), (8, PlanKind::Refuses), (7, PlanKind::Unusual)]);
        self.make(provider, kind)
    }

    /// The next plan, at this provider and of the plain kind.
    pub(crate) fn plain(&mut self, provider: Provider) -> Plan {
        self.make(provider, PlanKind::Plain)
    }

    fn make(&mut self, provider: Provider, kind: PlanKind) -> Plan {
        self.made += 1;
        let number = self.made;
        let target = match provider {
            Provider::Sectigo => Target::Order(format!("{}", 50_000_000 + number)),
            Provider::Namecom => {
                let several = self.rng.percent(25) || kind == PlanKind::Unusual;
                let items = if several { 2 } else { 1 };
                let price = |item: i32| 999 + i64::from(item) * 100;
                let items = (0..items).map(|item| (10_000_000 + number * 2 + item, price(item))).collect();
                Target::Items { order: 1_000_000 + number, items }
            }
            Provider::Debitsuccess => {
                // Spread, so that some of the amounts need a second person.
                let minor_units = 100 + i64::from(number) * 7_919 % 40_000;
                Target::Account { reference: format!("K{number:08}"), minor_units }
            }
        };
        Plan { id: format!("{}-{number}", self.prefix), provider, target, kind }
    }
}

impl Plan {
    /// The request, to the account that is named like its provider.
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
            account: account_name(self.provider).to_owned(),
            target: Some(target),
            ..Default::default()
        }
    }

    /// The same id with other content, which must be refused.
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

    /// The parts of the target by their names in the books, each with its amount where the wire has
    /// it.
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
                order.multi_domain = self.kind == PlanKind::Refuses;
                if self.kind == PlanKind::Unusual {
                    order.processing = Processing::FailsAfterRefund;
                }
                world.providers.sectigo.put_order(order, now).unwrap();
            }
            Target::Items { order, items } => {
                let mut bought: Vec<Item> = items
                    .iter()
                    .map(|(id, minor)| Item::new(*id, "registration", format!("kill-{id}.com"), *minor))
                    .collect();
                match self.kind {
                    PlanKind::Plain => {}
                    PlanKind::Refuses => bought[0].kind = "renewal".to_owned(),
                    PlanKind::Unusual => bought[1].refund_outcome = Outcome::Failed,
                }
                world.providers.namecom.put_order(DomainOrder::new(*order, "demo-test", bought), now).unwrap();
            }
            Target::Account { reference, minor_units } => {
                let mut account = Account::new(reference, &format!("EXT-{reference}"));
                match self.kind {
                    // Most are paid soon, some are never decided.
                    PlanKind::Plain if minor_units % 5 > 0 => account.settles_after_seconds = Some(1),
                    PlanKind::Plain => {}
                    PlanKind::Refuses => account.collected_minor = 1,
                    PlanKind::Unusual => {
                        account.settles_after_seconds = Some(1);
                        account.decision = Decision::Rejected;
                    }
                }
                world.providers.debitsuccess.put_account(account).unwrap();
            }
        }
    }
}
