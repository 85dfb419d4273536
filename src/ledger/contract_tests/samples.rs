//! Refunds, events and requests that the ledger's tests use.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::domain::approval::Approver;
use crate::domain::authority::{AccountSet, Actor, Amounts, ApprovalRule, Authority, CallerLimits, CallerRules, Rules};
use crate::domain::clock::Timestamp;
use crate::domain::event::{Event, Observation, RecordSeen};
use crate::domain::ids::{AccountName, RefundId};
use crate::domain::money::{Currency, Money};
use crate::domain::outcome::{
    Acceptance, Confirmation, DoubtReason, ErrorCategory, ItemResult, ItemState, ProviderError,
};
use crate::domain::place::{Destination, Place};
use crate::domain::refund::{Intent, Refund};
use crate::domain::state::State;
use crate::domain::target::{DebitsuccessFields, DebitsuccessTarget, NamecomTarget, SectigoTarget, Target};
use crate::ledger::{FirstAttempt, NewRefund, Reassign, RecordEvents, RelatedLogins, Ticket};

pub(in crate::ledger) const NOW: Timestamp = Timestamp::from_seconds(1_800_000_000);

/// Counts the attempts that have begun.
pub(in crate::ledger) const ATTEMPTS: &str = "SELECT count(*) FROM events WHERE to_state = 'DISPATCHING'";

/// The caller of an access file, or anyone where there is none.
pub(in crate::ledger) fn called_by(name: Option<&str>) -> Actor {
    let (credential, policy) = (Some("token:1".to_owned()), Some("0123abcd".to_owned()));
    name.map_or_else(|| actor("caller"), |name| Actor { credential, policy, ..actor(name) })
}

/// Without rules.
pub(in crate::ledger) fn acting(actor: Actor) -> Authority {
    Authority { actor, ..Authority::unrestricted() }
}

/// A caller of an access file with these limits and rules, which names three owners.
pub(in crate::ledger) fn ruled(name: &str, limits: CallerLimits, change: impl FnOnce(&mut Rules)) -> Authority {
    let caller = |owner: &str| CallerRules {
        owner: owner.to_owned(),
        may_create: true,
        accounts: AccountSet::All,
        limits: limits.clone(),
    };
    let owners = [("shop", "team"), ("desk", "team"), ("finance", "finance"), ("audit", "audit")];
    let callers = owners.into_iter().map(|(name, owner)| (name.to_owned(), caller(owner))).collect();
    let mut rules = Rules { callers, ..Rules::default() };
    change(&mut rules);
    Authority { actor: called_by(Some(name)), rules: Arc::new(rules) }
}

/// Hundredths of USD.
pub(in crate::ledger) fn usd(minor_units: i64) -> Amounts {
    Amounts::from([(Currency::USD, minor_units)])
}

/// A caller every refund of whom waits for `needed` approvals.
pub(in crate::ledger) fn approved_by(needed: u32) -> Authority {
    ruled("shop", CallerLimits::default(), |rules| {
        rules.approvals.push(ApprovalRule {
            name: "large".to_owned(),
            accounts: AccountSet::All,
            at_least: usd(0),
            similar: false,
            needed,
            expire_after: Duration::from_secs(3_600),
        });
    })
}

/// An approval by this owner's caller of the same name.
pub(in crate::ledger) fn approved(owner: &str, is_last: bool) -> Event {
    let by = Approver { caller: owner.to_owned(), owner: owner.to_owned() };
    Event::Approved { by, comment: "seen".to_owned(), is_last }
}

/// Moves a refund to another account under the same login.
pub(in crate::ledger) fn reassign_to(refund: &Refund, account: &str) -> Reassign {
    Reassign {
        id: refund.id().clone(),
        revision: refund.revision,
        to: Destination { account: AccountName::parse(account).unwrap(), place: refund.place.clone() },
        related: RelatedLogins::default(),
        reject_similar: false,
        evidence: "the same account".to_owned(),
        actor: actor("operator"),
        now: NOW.saturating_add(Duration::from_secs(5)),
    }
}

pub(in crate::ledger) fn actor(name: &str) -> Actor {
    Actor { name: name.to_owned(), credential: None, policy: None }
}

/// A place with this login.
pub(in crate::ledger) fn place(login: &str) -> Place {
    Place { endpoint: "https://provider.example".to_owned(), login: login.to_owned(), currency: Currency::USD }
}

pub(in crate::ledger) fn first_attempt(dispatch: bool) -> Option<FirstAttempt> {
    dispatch.then_some(FirstAttempt { credential: None })
}

pub(in crate::ledger) fn at(account: &str) -> Destination {
    Destination { account: AccountName::parse(account).unwrap(), place: place("demo") }
}

pub(in crate::ledger) fn create(intent: Intent) -> NewRefund {
    NewRefund {
        intent,
        place: place("demo"),
        related: RelatedLogins::default(),
        dispatch: None,
        allow_similar: false,
        by: acting(actor("caller")),
        now: NOW,
        ticket: Ticket::default(),
        trace_parent: None,
    }
}

pub(in crate::ledger) fn record(refund: &Refund, events: &[Event]) -> RecordEvents {
    RecordEvents {
        id: refund.id().clone(),
        revision: refund.revision,
        events: events.to_vec(),
        next_check: None,
        actor: Actor::gateway(),
        now: NOW.saturating_add(Duration::from_secs(1)),
    }
}

pub(in crate::ledger) fn intent(id: &str, account: &str, target: Target) -> Intent {
    Intent {
        id: RefundId::parse(id).unwrap(),
        account: AccountName::parse(account).unwrap(),
        target,
        labels: BTreeMap::from([("ticket".to_owned(), "T-1".to_owned())]),
        expected_amount: None,
    }
}

pub(in crate::ledger) fn sectigo(id: &str, order: &str) -> Intent {
    intent(id, "certs", Target::Sectigo(SectigoTarget::new(order, 11).unwrap()))
}

pub(in crate::ledger) fn namecom(id: &str, items: &[i32]) -> Intent {
    intent(id, "domains", Target::Namecom(NamecomTarget::new(77, items).unwrap()))
}

pub(in crate::ledger) fn debitsuccess(id: &str, account_reference_no: &str, minor_units: i64) -> Intent {
    let fields = DebitsuccessFields {
        account_reference_no,
        external_account_reference_no: "",
        amount: Some(("AUD", minor_units)),
        description: "Charged twice",
        request_initiator: "",
    };
    intent(id, "debits", Target::Debitsuccess(DebitsuccessTarget::new(fields).unwrap()))
}

/// A new refund that [`events_to`] lead to `state`.
pub(in crate::ledger) fn create_for(state: State, intent: Intent) -> NewRefund {
    match state {
        State::AwaitingApproval => NewRefund { by: approved_by(1), ..create(intent) },
        _ => create(intent),
    }
}

/// Events that lead a refund of [`create_for`] to `state`.
pub(in crate::ledger) fn events_to(state: State) -> Vec<Event> {
    let mut events = match state {
        State::Pending | State::Cancelled | State::AwaitingApproval => Vec::new(),
        _ => vec![Event::Dispatched { credential: None }],
    };
    events.extend(match state {
        State::Pending | State::Dispatching | State::AwaitingApproval => Vec::new(),
        State::Submitted => vec![Event::Accepted(Acceptance::default())],
        State::InDoubt => vec![doubted()],
        State::NeedsReview => {
            vec![doubted(), Event::Escalated { evidence: "nothing more to ask".to_owned(), foreign_record: false }]
        }
        State::Succeeded => vec![Event::Refunded(Confirmation::default())],
        State::PartiallySucceeded => vec![Event::Refunded(partial())],
        State::Failed => vec![refused()],
        State::Cancelled => vec![Event::Cancelled],
    });
    events
}

pub(in crate::ledger) fn one_event_of_each_kind() -> Vec<Event> {
    vec![
        Event::Dispatched { credential: None },
        Event::NotSent { error: error(0), retry_at: NOW.saturating_add(Duration::from_secs(60)) },
        Event::Refunded(Confirmation::default()),
        Event::Refunded(partial()),
        Event::Accepted(Acceptance::default()),
        refused(),
        doubted(),
        Event::Interrupted,
        Event::Checked(Observation::new("nothing there", RecordSeen::Absent)),
        Event::Escalated { evidence: "nothing more to ask".to_owned(), foreign_record: false },
        Event::Cancelled,
        approved("audit", true),
        Event::Rejected {
            by: Approver { caller: "f".to_owned(), owner: "finance".to_owned() },
            comment: "no".to_owned(),
        },
    ]
}

pub(in crate::ledger) fn doubted() -> Event {
    Event::Doubted {
        reason: DoubtReason::Timeout,
        evidence: "no answer within 60 s".to_owned(),
        error: None,
        not_processed: false,
    }
}

pub(in crate::ledger) fn refused() -> Event {
    Event::Refused { error: error(400), items: Vec::new(), follow_until: None }
}

pub(in crate::ledger) fn partial() -> Confirmation {
    let amount = Some(Money { currency: Currency::USD, minor_units: 1299 });
    Confirmation {
        amount,
        items: vec![item(1, ItemState::Succeeded), item(2, ItemState::Failed)],
        ..Default::default()
    }
}

pub(in crate::ledger) fn item(id: i32, state: ItemState) -> ItemResult {
    ItemResult { item_id: id.to_string(), state, refunded_amount: None, message: String::new(), requested: true }
}

pub(in crate::ledger) fn error(http_status: u16) -> ProviderError {
    ProviderError {
        code: "-18".to_owned(),
        message: "no".to_owned(),
        http_status,
        category: ErrorCategory::AlreadyRefunded,
    }
}
