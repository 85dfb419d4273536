//! The providers' side: their states, their books, what is on its way to them, and their bad days.
//!
//! The providers themselves are the simulators' pure functions, bytes in and bytes out. What they
//! really did stands in the books.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, header};
use simulators::request::{Effect, Handled, Request, RequestInfo, Response};
use simulators::{providers::debitsuccess, providers::namecom, providers::sectigo};
use time::OffsetDateTime;

use crate::plan::{AccountKind, Harm, ItemFate, OrderKind, Outage, Plan, TargetPlan, Who};
use crate::setups::{self, Behind, Spot};
use crate::sim::Sim;

/// All three providers, once for each set of books.
pub(crate) struct World {
    /// By their number: see [`Behind::books`].
    states: Vec<States>,
    behind: Behind,
    settings: Settings,
    /// What really happened, in order.
    pub(crate) books: Vec<Entry>,
    /// Every call that left the gateway, or tried to, in order.
    pub(crate) wire: Vec<Sent>,
    /// By the moment of arrival.
    parcels: BTreeMap<(i64, usize), Request>,
    answers: BTreeMap<usize, Response>,
    outages: Vec<(Who, Outage, i64)>,
    /// The states before each effect, where a plan asks for the past.
    past: Option<Vec<(i64, usize, States)>>,
    /// Calls so far about one target.
    calls: BTreeMap<(u8, bool), u32>,
    credentials_refused: [bool; 3],
    /// Items of which somebody else has asked for a refund that is not decided.
    begun_by_others: BTreeSet<i32>,
    /// The numbers of what somebody else has asked Debitsuccess for, in the first books.
    debits_of_others: BTreeSet<i32>,
}

#[derive(Clone)]
struct States {
    sectigo: sectigo::State,
    namecom: namecom::State,
    debitsuccess: debitsuccess::State,
}

struct Settings {
    sectigo: sectigo::Settings,
    namecom: namecom::Settings,
    debitsuccess: debitsuccess::Settings,
}

/// One line of the books.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) at: i64,
    pub(crate) who: Who,
    /// Which of the provider's books.
    pub(crate) books: u8,
    pub(crate) effect: Effect,
    /// The call that caused it.
    pub(crate) sent: Option<usize>,
    /// Somebody else's doing.
    pub(crate) foreign: bool,
    /// Paid after it had been rejected.
    pub(crate) corrects: bool,
}

/// One call of the gateway.
#[derive(Debug, Clone)]
pub(crate) struct Sent {
    pub(crate) at: i64,
    /// How far the gateway's clock had been set forward by then in all, at least and at most.
    pub(crate) forward: [i64; 2],
    /// How far it was ahead, likewise.
    pub(crate) ahead: [i64; 2],
    pub(crate) who: Who,
    /// Where it went.
    pub(crate) spot: Spot,
    pub(crate) operation: String,
    pub(crate) moving: bool,
    pub(crate) target: Option<u8>,
    /// Whose attempt it is, where it moves money.
    pub(crate) refund: Option<String>,
    pub(crate) attempt: u32,
    /// The gateway was told that no byte left, or that nothing was processed.
    pub(crate) not_processed: bool,
    /// When an answer was read, by the order of answers; 0 where none was.
    pub(crate) answered: u64,
    /// A lookup at Debitsuccess: there is no such record.
    pub(crate) shows_nothing: bool,
    /// All that makes a second send the same.
    pub(crate) bytes: Vec<u8>,
}

pub(crate) const PASSWORD: &str = "c4nary-p4ssword";
pub(crate) const SECTIGO_LOGIN: &str = "demo";
pub(crate) const NAMECOM_LOGIN: &str = "demo-test";
pub(crate) const DEBITSUCCESS_LOGIN: &str = "demo";
pub(crate) const DEBITSUCCESS_PATH: &str = "/DSWebService/DSServices.svc";

impl World {
    pub(crate) fn new(plan: &Plan, now: i64) -> World {
        let habits = &plan.habits;
        let dedup = |on: bool| match on {
            true => simulators::request::Deduplication::On,
            false => simulators::request::Deduplication::Off,
        };
        let settings = Settings {
            sectigo: sectigo::Settings {
                deduplication: dedup(habits.sectigo_deduplicates),
                calls_per_minute: habits.sectigo_calls_per_minute,
                status_lag_seconds: habits.sectigo_status_lag_s,
                ..sectigo::Settings::default()
            },
            namecom: namecom::Settings {
                deduplication: dedup(habits.namecom_deduplicates),
                requests_per_second: habits.namecom_requests_per_second,
                cached_answers: match habits.namecom_remembers_refusals {
                    true => namecom::CachedAnswers::All,
                    false => namecom::CachedAnswers::Success,
                },
                ..namecom::Settings::default()
            },
            debitsuccess: debitsuccess::Settings {
                awaiting_review_after_seconds: habits.debitsuccess_completes_after_s.map(|after| after / 3),
                approved_after_seconds: habits.debitsuccess_completes_after_s.map(|after| after / 2),
                completed_after_seconds: habits.debitsuccess_completes_after_s,
                ..debitsuccess::Settings::default()
            },
        };
        let asks_for_the_past = plan.harms.iter().any(|harm| matches!(harm.harm, Harm::Stale { .. }));
        let empty = States {
            sectigo: sectigo::State::default(),
            namecom: namecom::State::default(),
            debitsuccess: debitsuccess::State::default(),
        };
        let mut world = World {
            // Two hosts and two logins, where the configuration ever changes.
            states: vec![empty; if plan.setups.is_empty() { 1 } else { 4 }],
            behind: plan.behind,
            settings,
            books: Vec::new(),
            wire: Vec::new(),
            parcels: BTreeMap::new(),
            answers: BTreeMap::new(),
            outages: Vec::new(),
            past: asks_for_the_past.then(Vec::new),
            calls: BTreeMap::new(),
            credentials_refused: [false; 3],
            begun_by_others: BTreeSet::new(),
            debits_of_others: BTreeSet::new(),
        };
        world.accept_credentials(Who::Sectigo, true);
        world.accept_credentials(Who::Namecom, true);
        world.accept_credentials(Who::Debitsuccess, true);
        let else_account = sectigo::Account { login_name: "else".to_owned(), password: "e".to_owned(), locked: false };
        for (books, states) in (0..).zip(&mut world.states) {
            states.sectigo.put_account(else_account.clone()).unwrap();
            for (target, planned) in (0..).zip(&plan.targets) {
                world.books.extend(states.put(books, target, planned, now));
            }
        }
        world
    }

    // The wire's side.

    /// Which call about its target this is, from 0.
    pub(crate) fn count_call(&mut self, target: u8, moving: bool) -> u32 {
        let calls = self.calls.entry((target, moving)).or_default();
        *calls += 1;
        *calls - 1
    }

    /// What the provider does to everybody just now.
    pub(crate) fn outage(&self, who: Who, now: i64) -> Option<Outage> {
        self.outages.iter().rev().find(|(whose, _, until)| *whose == who && now < *until).map(|(_, kind, _)| *kind)
    }

    /// The bad days are over.
    pub(crate) fn heal(&mut self, plan: &Plan, now: i64) {
        for (_, _, until) in &mut self.outages {
            *until = now.min(*until);
        }
        for (target, planned) in (0..).zip(&plan.targets) {
            let TargetPlan::Amount { kind: AccountKind::Deadlock, .. } = planned else { continue };
            for states in &mut self.states {
                let Some(mut account) = states.debitsuccess.account(&account_reference(target)).cloned() else {
                    continue;
                };
                account.condition = debitsuccess::Condition::Ready;
                states.debitsuccess.put_account(account).unwrap();
            }
        }
    }

    pub(crate) fn begin_outage(&mut self, who: Who, kind: Outage, until: i64) {
        self.outages.push((who, kind, until));
    }

    /// Puts a call on its way.
    pub(crate) fn post(&mut self, sent: usize, arrives: i64, request: Request) {
        self.parcels.insert((arrives, sent), request);
    }

    /// What was on its way when its sender ended: its last bytes may never have left.
    pub(crate) fn lose(&mut self, mut is_lost: impl FnMut(usize) -> bool) {
        self.parcels.retain(|(_, sent), _| !is_lost(*sent));
    }

    /// Everything arrives that is due.
    pub(crate) fn deliver(&mut self, sim: &Sim, now: i64) {
        while let Some(parcel) = self.parcels.first_entry().filter(|parcel| parcel.key().0 <= now) {
            let ((at, sent), request) = parcel.remove_entry();
            let spot = self.wire[sent].spot;
            let performed = self.perform(spot, at, &request);
            sim.trace(format_args!(
                "  arrives #{sent}: {} {} effects",
                performed.response.status,
                performed.effects.len()
            ));
            self.write(spot.who, self.behind.books(spot), at, performed.effects, Some(sent), false);
            self.answers.insert(sent, performed.response);
        }
    }

    pub(crate) fn take_answer(&mut self, sent: usize) -> Option<Response> {
        self.answers.remove(&sent)
    }

    /// When the last thing that is on its way arrives.
    pub(crate) fn last_arrival(&self) -> Option<i64> {
        self.parcels.last_key_value().map(|((at, _), _)| *at)
    }

    /// Whether anything about a target is still on its way.
    pub(crate) fn is_on_its_way(&self, target: u8) -> bool {
        self.parcels.keys().any(|(_, sent)| self.wire[*sent].moving && self.wire[*sent].target == Some(target))
    }

    fn perform(&mut self, spot: Spot, at: i64, request: &Request) -> Handled {
        let who = spot.who;
        let accepted = self.outage(who, at) != Some(Outage::Credentials);
        if accepted == self.credentials_refused[who as usize] {
            self.accept_credentials(who, accepted);
        }
        let books = self.behind.books(spot);
        let before = self.before(books);
        let request = spot.as_booked(&self.behind, request);
        let performed = self.states[usize::from(books)].perform(&self.settings, who, at, &request);
        if !performed.effects.is_empty() {
            self.remember(at, books, before);
        }
        Handled { response: setups::with_key_as_sent(performed.response), ..performed }
    }

    /// How it stands, where a plan asks for the past.
    fn before(&self, books: u8) -> Option<States> {
        self.past.is_some().then(|| self.states[usize::from(books)].clone())
    }

    fn remember(&mut self, at: i64, books: u8, before: Option<States>) {
        if let (Some(past), Some(before)) = (&mut self.past, before) {
            past.push((at, books.into(), before));
        }
    }

    /// What would be answered, nothing being done: as of then, and as if these had come before.
    pub(crate) fn pretend(&self, spot: Spot, as_of: i64, requests: &[&Request]) -> Option<Response> {
        let books = usize::from(self.behind.books(spot));
        let past =
            self.past.iter().flatten().find(|(at, of, _)| *of == books && *at > as_of).map(|(.., states)| states);
        let mut states = past.unwrap_or(&self.states[books]).clone();
        let mut settings = Settings {
            sectigo: self.settings.sectigo.clone(),
            namecom: self.settings.namecom.clone(),
            debitsuccess: self.settings.debitsuccess.clone(),
        };
        if requests.len() > 1 {
            settings.sectigo.deduplication = simulators::request::Deduplication::On;
            settings.namecom.deduplication = simulators::request::Deduplication::On;
        }
        let answer =
            |request| states.perform(&settings, spot.who, as_of, &spot.as_booked(&self.behind, request)).response;
        requests.iter().copied().map(answer).last().map(setups::with_key_as_sent)
    }

    fn accept_credentials(&mut self, who: Who, accepted: bool) {
        self.credentials_refused[who as usize] = !accepted;
        for states in &mut self.states {
            let password = if accepted { PASSWORD } else { "another" }.to_owned();
            match who {
                Who::Sectigo => {
                    let account = sectigo::Account { login_name: SECTIGO_LOGIN.to_owned(), password, locked: false };
                    states.sectigo.put_account(account).unwrap();
                }
                Who::Namecom => states.namecom.put_account(namecom::Account::new(NAMECOM_LOGIN, &password)),
                Who::Debitsuccess => {
                    let login = debitsuccess::Login { username: DEBITSUCCESS_LOGIN.to_owned(), password };
                    states.debitsuccess.put_login(login);
                }
            }
        }
    }

    fn write(&mut self, who: Who, books: u8, at: i64, effects: Vec<Effect>, sent: Option<usize>, foreign: bool) {
        // Whoever's request it was that showed it: a debit that others began stays theirs.
        let debits = &self.debits_of_others;
        let began = |effect: &Effect| effect.reference.as_deref().and_then(|number| number.parse().ok());
        let entries = effects.into_iter().map(|effect| {
            let is_theirs = who == Who::Debitsuccess && books == 0;
            let foreign = foreign || is_theirs && began(&effect).is_some_and(|number: i32| debits.contains(&number));
            let identifier = effect.identifier.as_deref().map(|key| setups::unbound(key).to_owned());
            let effect = Effect { identifier, ..effect };
            Entry { at, who, books, effect, sent, foreign, corrects: false }
        });
        self.books.extend(entries);
    }

    // What happens at the provider without the gateway.

    /// The provider goes on with what it has taken of a target; everything that waits, where none
    /// is named.
    pub(crate) fn settle(&mut self, plan: &Plan, target: Option<u8>, yes: bool, now: i64) {
        for books in 0..self.states.len() as u8 {
            // What had ended by itself by now has ended: a look may have shown it already.
            let debits = &mut self.states[usize::from(books)].debitsuccess;
            for (at, effect) in debits.advance(&self.settings.debitsuccess, moment(now)) {
                let at = i64::try_from(at.unix_timestamp_nanos() / 1_000).unwrap();
                self.write(Who::Debitsuccess, books, at, vec![effect], None, false);
            }
            for (number, planned) in
                (0..).zip(&plan.targets).filter(|(number, _)| target.is_none_or(|one| one == *number))
            {
                self.settle_at(books, number, planned, yes, now);
            }
        }
    }

    fn settle_at(&mut self, books: u8, number: u8, planned: &TargetPlan, yes: bool, now: i64) {
        match planned {
            TargetPlan::Order { .. } => {}
            TargetPlan::Items { items } => {
                for item in (0..).zip(items).map(|(place, _)| item_id(number, place)) {
                    let outcome = if yes { namecom::Outcome::Refunded } else { namecom::Outcome::Canceled };
                    let before = self.before(books);
                    let domains = &mut self.states[usize::from(books)].namecom;
                    let paid = domains.settle_item(order_id(number), item, outcome).unwrap_or_default();
                    if !paid.is_empty() {
                        self.remember(now, books, before);
                    }
                    let foreign = books == 0 && self.begun_by_others.contains(&item);
                    self.write(Who::Namecom, books, now, paid, None, foreign);
                }
            }
            TargetPlan::Amount { kind, .. } => {
                for refund in self.debits(books, number, false) {
                    let yes = yes && *kind != AccountKind::Rejects;
                    let status =
                        if yes { debitsuccess::RefundStatus::Completed } else { debitsuccess::RefundStatus::Rejected };
                    let debits = &mut self.states[usize::from(books)].debitsuccess;
                    let moved = debits.set_refund_status(&refund.to_string(), status, None);
                    let effects = moved.map(|(_, effects)| effects).unwrap_or_default();
                    self.write(Who::Debitsuccess, books, now, effects, None, false);
                }
            }
        }
    }

    /// Debitsuccess pays what it had rejected of a target.
    pub(crate) fn correct(&mut self, target: u8, now: i64) {
        for books in 0..self.states.len() as u8 {
            for refund in self.debits(books, target, true) {
                let debits = &mut self.states[usize::from(books)].debitsuccess;
                let paid = debits.move_refund(
                    &refund.to_string(),
                    debitsuccess::RefundStatus::Completed,
                    None,
                    debitsuccess::FinalStatuses::CanBeLeft,
                );
                let first = self.books.len();
                let effects = paid.map(|(_, effects)| effects).unwrap_or_default();
                self.write(Who::Debitsuccess, books, now, effects, None, false);
                self.books[first..].iter_mut().for_each(|entry| entry.corrects = true);
            }
        }
    }

    /// The numbers of the refunds of an account: those that are open, or those that were rejected.
    fn debits(&self, books: u8, target: u8, rejected: bool) -> Vec<i32> {
        use debitsuccess::RefundStatus::{Completed, Rejected};
        let account = account_reference(target);
        let refunds = self.states[usize::from(books)].debitsuccess.refunds();
        let of_account = refunds.iter().filter(|refund| refund.account == account);
        let wanted = of_account.filter(|refund| match rejected {
            true => refund.status == Rejected,
            false => !matches!(refund.status, Completed | Rejected),
        });
        wanted.map(|refund| refund.number).collect()
    }

    /// Whether a provider has taken something of a target and not finished.
    pub(crate) fn is_open(&self, target: u8, planned: &TargetPlan) -> bool {
        (0..self.states.len() as u8).any(|books| match planned {
            TargetPlan::Order { .. } => false,
            TargetPlan::Items { .. } => {
                let order = self.states[usize::from(books)].namecom.order(order_id(target));
                order.is_some_and(|order| order.items.iter().any(|item| item.pending.is_some()))
            }
            TargetPlan::Amount { .. } => !self.debits(books, target, false).is_empty(),
        })
    }

    /// Somebody else refunds the same thing.
    pub(crate) fn refund_by_others(&mut self, target: u8, planned: &TargetPlan, now: i64) {
        let before = self.before(0);
        let mut effects = Vec::new();
        let who = planned.who();
        match planned {
            TargetPlan::Order { .. } => {
                let Some(mut order) = self.states[0].sectigo.order(&order_number(target)) else { return };
                if order.refunded_at.is_some() {
                    return;
                }
                order.refunded_at = Some(moment(now));
                order.status_before_refund = order.validation.order_status.replace("Refunded".to_owned());
                effects.push(effect_of(&order.order_number, order.price_minor, None));
                self.states[0].sectigo.put_order(order, moment(now)).unwrap();
            }
            TargetPlan::Items { .. } => {
                let Some(mut order) = self.states[0].namecom.order(order_id(target)) else { return };
                let is_there =
                    |item: &&mut namecom::Item| item.status == namecom::ItemStatus::Success && item.pending.is_none();
                for item in order.items.iter_mut().filter(is_there) {
                    item.status = namecom::ItemStatus::Refunded;
                    effects.push(effect_of(&item.id.to_string(), item.price_minor, None));
                }
                self.states[0].namecom.put_order(order, moment(now)).unwrap();
            }
            TargetPlan::Amount { .. } => {}
        }
        self.remember(now, 0, before);
        self.write(who, 0, now, effects, None, true);
    }

    /// Somebody else with our credentials uses the key or identifier that a refund of ours has.
    pub(crate) fn use_key_by_others(&mut self, key: &str, target: u8, planned: &TargetPlan, now: i64) {
        let request = match planned {
            TargetPlan::Order { .. } => return,
            TargetPlan::Items { items } => {
                let ids: Vec<i32> = (0..).zip(items).map(|(place, _)| item_id(target, place)).take(1).collect();
                let body = format!("{{\"orderId\": {}, \"orderItemIds\": {ids:?}}}", order_id(target));
                namecom_request(key, body)
            }
            TargetPlan::Amount { .. } => debitsuccess_request(key, &account_reference(target), "0.07"),
        };
        let before = self.debits(0, target, false);
        let performed = self.perform(Spot::usual(planned.who()), now, &request);
        let begun = self.debits(0, target, false);
        self.debits_of_others.extend(begun.into_iter().filter(|number| !before.contains(number)));
        // What has ended meanwhile of our own debits comes to light with their request, and is not
        // theirs.
        let is_theirs = !matches!(planned, TargetPlan::Amount { .. });
        self.write(planned.who(), 0, now, performed.effects, None, is_theirs);
        let items = self.states[0].namecom.order(order_id(target)).map(|order| order.items).unwrap_or_default();
        let is_theirs = |item: &namecom::Item| {
            item.pending.as_ref().is_some_and(|pending| pending.identifier.as_deref() == Some(key))
        };
        self.begun_by_others.extend(items.iter().filter(|item| is_theirs(item)).map(|item| item.id));
    }
}

impl States {
    /// Puts a target, and tells what stands in the books of it from the beginning.
    fn put(&mut self, books: u8, target: u8, planned: &TargetPlan, now: i64) -> Option<Entry> {
        let moment = moment(now);
        let mut already = None;
        match planned {
            TargetPlan::Order { kind } => {
                let mut order = sectigo::Order::new(order_number(target));
                match kind {
                    OrderKind::Plain => {}
                    OrderKind::PeriodOver => order.purchased_at = Some(moment - time::Duration::days(400)),
                    OrderKind::AlreadyRefunded => {
                        order.refunded_at = Some(moment - time::Duration::days(2));
                        order.validation.order_status = Some("Refunded".to_owned());
                        already = Some(Entry {
                            at: now,
                            who: Who::Sectigo,
                            books,
                            effect: effect_of(&order_number(target), order.price_minor, None),
                            sent: None,
                            foreign: true,
                            corrects: false,
                        });
                    }
                    OrderKind::MultiDomain => order.multi_domain = true,
                    OrderKind::SomebodyElses => order.account = Some("else".to_owned()),
                    OrderKind::FailsBefore => order.processing = sectigo::Processing::FailsBeforeRefund,
                    OrderKind::FailsAfter => order.processing = sectigo::Processing::FailsAfterRefund,
                }
                self.sectigo.put_order(order, moment).unwrap();
            }
            TargetPlan::Items { items } => {
                let mut name = String::new();
                let mut put = Vec::new();
                for (number, planned) in (0..).zip(items) {
                    let kind = match planned.fate {
                        ItemFate::Privacy => "whois_privacy",
                        ItemFate::NotEligible => "renewal",
                        _ => "registration",
                    };
                    if kind == "registration" || name.is_empty() {
                        name = format!("d{target}-{number}.com");
                    }
                    let mut item = namecom::Item::new(item_id(target, number), kind, name.clone(), planned.price_minor);
                    match planned.fate {
                        ItemFate::Refunded | ItemFate::Privacy | ItemFate::NotEligible => {}
                        ItemFate::Failed => item.refund_outcome = namecom::Outcome::Failed,
                        ItemFate::Canceled => item.refund_outcome = namecom::Outcome::Canceled,
                        ItemFate::Initialized => item.refund_outcome = namecom::Outcome::Initialized,
                        ItemFate::RegistryDown => item.registry = namecom::RegistryCondition::Unreachable,
                        ItemFate::WindowOver => item.agp_expires = Some(moment - time::Duration::DAY),
                    }
                    put.push(item);
                }
                let mut order = namecom::Order::new(order_id(target), NAMECOM_LOGIN, put);
                // The window outlasts every run: what it does is shown by the items whose window is
                // over.
                for item in &mut order.items {
                    item.agp_expires.get_or_insert(moment + time::Duration::days(365));
                }
                self.namecom.put_order(order, moment).unwrap();
            }
            TargetPlan::Amount { minor, kind } => {
                let reference = account_reference(target);
                let mut account = debitsuccess::Account::new(&reference, &format!("EXT-{reference}"));
                account.collected_minor = 9_000_000_000;
                match kind {
                    AccountKind::Plain => {}
                    AccountKind::Poor => account.collected_minor = minor - 1,
                    AccountKind::NotActive => account.condition = debitsuccess::Condition::NotActive,
                    AccountKind::Deadlock => account.condition = debitsuccess::Condition::Deadlock,
                    AccountKind::Rejects => account.decision = debitsuccess::Decision::Rejected,
                }
                self.debitsuccess.put_account(account).unwrap();
            }
        }
        already
    }

    fn perform(&mut self, settings: &Settings, who: Who, at: i64, request: &Request) -> Handled {
        match who {
            Who::Sectigo => sectigo::handle(&mut self.sectigo, &settings.sectigo, moment(at), request),
            Who::Namecom => namecom::handle(&mut self.namecom, &settings.namecom, moment(at), request),
            Who::Debitsuccess => {
                debitsuccess::handle(&mut self.debitsuccess, &settings.debitsuccess, moment(at), request)
            }
        }
    }
}

/// What a call says of itself.
pub(crate) fn identify(who: Who, request: &Request) -> RequestInfo {
    match who {
        Who::Sectigo => sectigo::inspect(request),
        Who::Namecom => namecom::inspect(request),
        Who::Debitsuccess => debitsuccess::inspect(request),
    }
}

/// Which target a call is about.
pub(crate) fn target_of(who: Who, named: &str) -> Option<u8> {
    // A domain is named after its target.
    if let Some((target, _)) = named.strip_prefix('d').and_then(|domain| domain.split_once('-')) {
        return target.parse().ok();
    }
    let number: i64 = named.trim_start_matches("DS").parse().ok()?;
    let base = match who {
        Who::Sectigo => 1_000_000,
        Who::Namecom => 200_000,
        Who::Debitsuccess => 0,
    };
    u8::try_from(number - base).ok()
}

pub(crate) fn order_number(target: u8) -> String {
    (1_000_000 + u32::from(target)).to_string()
}

pub(crate) fn order_id(target: u8) -> i32 {
    200_000 + i32::from(target)
}

pub(crate) fn item_id(target: u8, place: i32) -> i32 {
    300_000 + i32::from(target) * 10 + place
}

pub(crate) fn account_reference(target: u8) -> String {
    format!("DS{:06}", u32::from(target))
}

fn moment(micros: i64) -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp_nanos(i128::from(micros) * 1_000).unwrap()
}

fn effect_of(target: &str, minor: i64, identifier: Option<String>) -> Effect {
    Effect {
        kind: "refund".to_owned(),
        target: target.to_owned(),
        amount_minor: Some(minor),
        currency: Some("USD".to_owned()),
        identifier,
        reference: None,
        account: None,
        fee_minor: None,
        paid_to: None,
    }
}

fn namecom_request(key: &str, body: String) -> Request {
    use base64::Engine as _;
    let basic = base64::prelude::BASE64_STANDARD.encode(format!("{NAMECOM_LOGIN}:{PASSWORD}"));
    let headers = HeaderMap::from_iter([
        (header::AUTHORIZATION, HeaderValue::from_str(&format!("Basic {basic}")).unwrap()),
        (header::CONTENT_TYPE, HeaderValue::from_static("application/json")),
        (header::HeaderName::from_static("x-idempotency-key"), HeaderValue::from_str(key).unwrap()),
    ]);
    let path = "/core/v1/refund".to_owned();
    Request::new(Method::POST, path, headers, Bytes::from(body), true)
}

fn debitsuccess_request(identifier: &str, account: &str, amount: &str) -> Request {
    let body = format!(
        "<s:Envelope xmlns:s=\"http://schemas.xmlsoap.org/soap/envelope/\"><s:Body>\
         <InitiateRefund xmlns=\"http://tempuri.org/\">\
         <request xmlns:d=\"http://schemas.datacontract.org/2004/07/DSWebService\">\
         <d:User><d:Password>{PASSWORD}</d:Password><d:Username>{DEBITSUCCESS_LOGIN}</d:Username></d:User>\
         <d:AccountReferenceNo>{account}</d:AccountReferenceNo><d:Amount>{amount}</d:Amount>\
         <d:Description>Somebody else's</d:Description>\
         <d:ExternalRefundIdentifier>{identifier}</d:ExternalRefundIdentifier>\
         </request></InitiateRefund></s:Body></s:Envelope>"
    );
    let headers = HeaderMap::from_iter([
        (header::CONTENT_TYPE, HeaderValue::from_static("text/xml; charset=utf-8")),
        (
            header::HeaderName::from_static("soapaction"),
            HeaderValue::from_static("\"http://tempuri.org/IDSServices/InitiateRefund\""),
        ),
    ]);
    let path = DEBITSUCCESS_PATH.to_owned();
    Request::new(Method::POST, path, headers, Bytes::from(body), true)
}
