//! A refund as it is kept: small, for there may be tens of thousands.

use std::collections::{BTreeMap, HashMap};

use serde::{Deserialize as _, Deserializer, Serialize as _, Serializer};
use time::OffsetDateTime;

use super::state::{Refund, RefundStatus};
use crate::{
    record::packed::{Packer, Unpacker},
    request::Effect,
};

/// A refund but for its account, by which it is found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Slip {
    pub(super) number: i32,
    pub(super) status: RefundStatus,
    pub(super) amount_minor: i64,
    /// When it was recorded, and its texts, the identifier first.
    rest: Box<[u8]>,
}

impl Slip {
    pub(super) fn new(refund: &Refund) -> Slip {
        let Refund { number, identifier, amount_minor, currency, status, note, description, .. } = refund;
        let packer = Packer::default().time(refund.created).text(identifier).text(currency);
        let packer = packer.text(description).text(&refund.username);
        let packer = packer.maybe(note.as_deref(), Packer::text);
        let packer = packer.maybe(refund.request_initiator.as_deref(), Packer::text);
        Slip { number: *number, status: *status, amount_minor: *amount_minor, rest: packer.done() }
    }

    /// The whole refund.
    pub(super) fn refund(&self, account: &str) -> Refund {
        let mut rest = Unpacker::new(&self.rest);
        let created = rest.time();
        let [identifier, currency, description, username] = [(); 4].map(|()| rest.text().to_owned());
        let [note, request_initiator] = [(); 2].map(|()| rest.maybe(Unpacker::text).map(str::to_owned));
        Refund {
            number: self.number,
            identifier,
            account: account.to_owned(),
            amount_minor: self.amount_minor,
            currency,
            status: self.status,
            note,
            description,
            request_initiator,
            username,
            created,
        }
    }

    pub(super) fn created(&self) -> OffsetDateTime {
        Unpacker::new(&self.rest).time()
    }

    pub(super) fn identifier(&self) -> &str {
        let mut rest = Unpacker::new(&self.rest);
        rest.time();
        rest.text()
    }

    /// What it takes from the collected sum.
    pub(super) fn counted_minor(&self) -> i64 {
        if self.status == RefundStatus::Rejected { 0 } else { self.amount_minor }
    }

    /// Becoming Rejected is an effect: the money does not move after all. Being Rejected no longer
    /// is one, too.
    pub(super) fn move_to(&mut self, account: &str, status: RefundStatus) -> Option<Effect> {
        let before = std::mem::replace(&mut self.status, status);
        let kind = match (before == RefundStatus::Rejected, status == RefundStatus::Rejected) {
            (false, true) => "refund_rejected",
            (true, false) => "refund",
            (false, false) | (true, true) => return None,
        };
        Some(self.refund(account).effect(kind))
    }
}

/// By account, in no order: that would cost a dozen comparisons of cold texts for each refund. In
/// JSON the refunds are whole.
pub(super) type Slips = HashMap<String, Vec<Slip>>;

pub(super) fn serialize<S: Serializer>(slips: &Slips, serializer: S) -> Result<S::Ok, S::Error> {
    let refunds = slips.iter().map(|(account, slips)| (account, slips.iter().map(|slip| slip.refund(account))));
    let refunds: BTreeMap<&String, Vec<Refund>> =
        refunds.map(|(account, refunds)| (account, refunds.collect())).collect();
    refunds.serialize(serializer)
}

pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Slips, D::Error> {
    let refunds = BTreeMap::<String, Vec<Refund>>::deserialize(deserializer)?;
    Ok(refunds.into_iter().map(|(account, refunds)| (account, refunds.iter().map(Slip::new).collect())).collect())
}
