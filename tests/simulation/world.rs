//! The providers' side: their states, their books, the requests in flight, and their outages.
//!
//! The providers themselves are the simulators' pure functions, bytes in and bytes out. The books
//! hold what really happened.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, header};
use recoup::domain::clock::Timestamp;
use simulators::request::{Effect, Handled, Request, RequestInfo, Response};
use simulators::{providers::debitsuccess, providers::namecom, providers::sectigo};
use time::OffsetDateTime;

use crate::plan::{AccountKind, Fault, ItemFate, OrderKind, Outage, PROVIDERS, Plan, ProviderKind, TargetPlan};
use crate::setups::{self, SharedBooks, Site};
use crate::sim::{MicrosRange, Sim};

/// All three providers, once for each set of books.
pub(crate) struct World {
    /// By the number of the books: see [`SharedBooks::books`].
    states: Vec<States>,
    shared_books: SharedBooks,
    settings: Settings,
    /// What really happened, in order.
    pub(crate) books: Vec<BookEntry>,
    /// Every request that left the gateway, or tried to, in order.
    pub(crate) wire: Vec<SentRequest>,
    in_flight: BTreeMap<Arrival, Request>,
    answers: BTreeMap<usize, Response>,
    outages: Vec<OngoingOutage>,
    /// The states before each effect, where a plan has reads of stale state.
    past: Option<Vec<PastStates>>,
    /// Requests so far, by target and kind.
    requests: BTreeMap<RequestKey, u32>,
    credentials_refused: BTreeSet<ProviderKind>,
    /// Items that another client has requested a refund of, while it is undecided.
    begun_by_others: BTreeSet<i32>,
    /// The numbers of the refunds that another client has requested of Debitsuccess, in the first
    /// books.
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

/// When a request in flight arrives. Requests arrive in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Arrival {
    at: i64,
    /// Its index in [`World::wire`].
    sent: usize,
}

#[derive(Debug, Clone, Copy)]
struct OngoingOutage {
    provider: ProviderKind,
    kind: Outage,
    until: i64,
}

/// The states of some books until the effect at `at`.
struct PastStates {
    at: i64,
    books: u8,
    states: States,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct RequestKey {
    target: u8,
    moves_money: bool,
}

/// One line of the books.
#[derive(Debug, Clone)]
pub(crate) struct BookEntry {
    pub(crate) at: i64,
    pub(crate) provider: ProviderKind,
    /// The number of the provider's books.
    pub(crate) books: u8,
    pub(crate) effect: Effect,
    /// The request that caused it.
    pub(crate) sent: Option<usize>,
    /// Another client caused it.
    pub(crate) foreign: bool,
    /// Paid after it had been rejected.
    pub(crate) corrects: bool,
}

/// One request of the gateway.
#[derive(Debug, Clone)]
pub(crate) struct SentRequest {
    pub(crate) at: i64,
    /// How far the gateway's clock had been set forward by then, in all.
    pub(crate) set_forward: MicrosRange,
    /// How far the gateway's clock was ahead.
    pub(crate) ahead: MicrosRange,
    pub(crate) provider: ProviderKind,
    /// Where it went.
    pub(crate) site: Site,
    pub(crate) operation: String,
    pub(crate) moves_money: bool,
    pub(crate) target: Option<u8>,
    /// The refund whose attempt it is, where it moves money.
    pub(crate) refund: Option<String>,
    pub(crate) attempt: u32,
    /// When its attempt was recorded, by the gateway's clock.
    pub(crate) recorded: Option<Timestamp>,
    /// The process that sent it has had its outcome: it did not end before.
    pub(crate) has_outcome: bool,
    /// The gateway knows that no byte left, or that nothing was processed.
    pub(crate) not_processed: bool,
    /// The answer's number in the order in which answers were read; 0 where none was read.
    pub(crate) answered: u64,
    /// A lookup at Debitsuccess that found no record.
    pub(crate) shows_nothing: bool,
    /// Everything that a second send must repeat.
    pub(crate) bytes: Vec<u8>,
}

pub(crate) const PASSWORD: &str = "c4nary-p4ssword";
pub(crate) const SECTIGO_LOGIN: &str = "demo";
pub(crate) const NAMECOM_LOGIN: &str = "demo-test";
pub(crate) const DEBITSUCCESS_LOGIN: &str = "demo";
pub(crate) const DEBITSUCCESS_PATH: &str = "/DSWebService/DSServices.svc";

impl World {
    pub(crate) fn new(plan: &Plan, now: i64) -> World {
        let behaviour = &plan.behaviour;
        let dedup = |on: bool| match on {
            true => simulators::request::Deduplication::On,
            false => simulators::request::Deduplication::Off,
        };
        let settings = Settings {
            sectigo: sectigo::Settings {
                deduplication: dedup(behaviour.sectigo_deduplicates),
                calls_per_minute: behaviour.sectigo_calls_per_minute,
                status_lag_seconds: behaviour.sectigo_status_lag_s,
                ..sectigo::Settings::default()
            },
            namecom: namecom::Settings {
                deduplication: dedup(behaviour.namecom_deduplicates),
                requests_per_second: behaviour.namecom_requests_per_second,
                cached_answers: match behaviour.namecom_remembers_refusals {
                    true => namecom::CachedAnswers::All,
                    false => namecom::CachedAnswers::Success,
                },
                ..namecom::Settings::default()
            },
            debitsuccess: debitsuccess::Settings {
                awaiting_review_after_seconds: behaviour.debitsuccess_completes_after_s.map(|after| after / 3),
                approved_after_seconds: behaviour.debitsuccess_completes_after_s.map(|after| after / 2),
                completed_after_seconds: behaviour.debitsuccess_completes_after_s,
                ..debitsuccess::Settings::default()
            },
        };
        let asks_for_the_past = plan.wire_faults.iter().any(|planned| matches!(planned.fault, Fault::Stale { .. }));
        let empty = States {
            sectigo: sectigo::State::default(),
            namecom: namecom::State::default(),
            debitsuccess: debitsuccess::State::default(),
        };
        let mut world = World {
            // Two hosts and two logins, where the configuration changes at all.
            states: vec![empty; if plan.setups.is_empty() { 1 } else { 4 }],
            shared_books: plan.shared_books,
            settings,
            books: Vec::new(),
            wire: Vec::new(),
            in_flight: BTreeMap::new(),
            answers: BTreeMap::new(),
            outages: Vec::new(),
            past: asks_for_the_past.then(Vec::new),
            requests: BTreeMap::new(),
            credentials_refused: BTreeSet::new(),
            begun_by_others: BTreeSet::new(),
            debits_of_others: BTreeSet::new(),
        };
        for provider in PROVIDERS {
            world.accept_credentials(provider, true);
        }
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

    /// The number of this request among those of its kind about its target, from 0.
    pub(crate) fn count_request(&mut self, target: u8, moves_money: bool) -> u32 {
        let requests = self.requests.entry(RequestKey { target, moves_money }).or_default();
        *requests += 1;
        *requests - 1
    }

    /// The outage of a provider at this time.
    pub(crate) fn outage(&self, provider: ProviderKind, now: i64) -> Option<Outage> {
        let is_current = |outage: &&OngoingOutage| outage.provider == provider && now < outage.until;
        self.outages.iter().rev().find(is_current).map(|outage| outage.kind)
    }

    /// Ends every outage, and what is set to go wrong at the providers.
    pub(crate) fn end_outages(&mut self, plan: &Plan, now: i64) {
        for outage in &mut self.outages {
            outage.until = now.min(outage.until);
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

    pub(crate) fn begin_outage(&mut self, provider: ProviderKind, kind: Outage, until: i64) {
        self.outages.push(OngoingOutage { provider, kind, until });
    }

    /// Puts a request on its way to its provider.
    pub(crate) fn put_in_flight(&mut self, sent: usize, arrives: i64, request: Request) {
        self.in_flight.insert(Arrival { at: arrives, sent }, request);
    }

    /// Drops requests in flight: where the sender's process ends, the last bytes may never leave.
    pub(crate) fn drop_in_flight(&mut self, mut is_lost: impl FnMut(usize) -> bool) {
        self.in_flight.retain(|arrival, _| !is_lost(arrival.sent));
    }

    /// Delivers every request that arrives by now.
    pub(crate) fn deliver(&mut self, sim: &Sim, now: i64) {
        while let Some(first) = self.in_flight.first_entry().filter(|first| first.key().at <= now) {
            let (Arrival { at, sent }, request) = first.remove_entry();
            let site = self.wire[sent].site;
            let performed = self.perform(site, at, &request);
            sim.trace(format_args!(
                "  arrives #{sent}: {} {} effects",
                performed.response.status,
                performed.effects.len()
            ));
            self.write(site.provider, self.shared_books.books(site), at, performed.effects, Some(sent), false);
            self.answers.insert(sent, performed.response);
        }
    }

    pub(crate) fn take_answer(&mut self, sent: usize) -> Option<Response> {
        self.answers.remove(&sent)
    }

    /// When the last request in flight arrives.
    pub(crate) fn last_arrival(&self) -> Option<i64> {
        self.in_flight.last_key_value().map(|(arrival, _)| arrival.at)
    }

    /// Whether a request that may move money is still in flight to a target.
    pub(crate) fn is_in_flight(&self, target: u8) -> bool {
        let is_about = |sent: &SentRequest| sent.moves_money && sent.target == Some(target);
        self.in_flight.keys().any(|arrival| is_about(&self.wire[arrival.sent]))
    }

    fn perform(&mut self, site: Site, at: i64, request: &Request) -> Handled {
        let provider = site.provider;
        let accepted = self.outage(provider, at) != Some(Outage::Credentials);
        if accepted == self.credentials_refused.contains(&provider) {
            self.accept_credentials(provider, accepted);
        }
        let books = self.shared_books.books(site);
        let before = self.before(books);
        let request = site.as_booked(&self.shared_books, request);
        let performed = self.states[usize::from(books)].perform(&self.settings, provider, at, &request);
        if !performed.effects.is_empty() {
            self.remember(at, books, before);
        }
        Handled { response: setups::with_key_as_sent(performed.response), ..performed }
    }

    /// A copy of the states of some books, where the plan has reads of stale state.
    fn before(&self, books: u8) -> Option<States> {
        self.past.is_some().then(|| self.states[usize::from(books)].clone())
    }

    fn remember(&mut self, at: i64, books: u8, before: Option<States>) {
        if let (Some(past), Some(before)) = (&mut self.past, before) {
            past.push(PastStates { at, books, states: before });
        }
    }

    /// What the provider would answer to the last of these requests at that time, if it had
    /// received the others before. Nothing is done.
    pub(crate) fn pretend(&self, site: Site, as_of: i64, requests: &[&Request]) -> Option<Response> {
        let books = self.shared_books.books(site);
        let past = self.past.iter().flatten().find(|past| past.books == books && past.at > as_of);
        let mut states = past.map_or(&self.states[usize::from(books)], |past| &past.states).clone();
        let mut settings = Settings {
            sectigo: self.settings.sectigo.clone(),
            namecom: self.settings.namecom.clone(),
            debitsuccess: self.settings.debitsuccess.clone(),
        };
        if requests.len() > 1 {
            settings.sectigo.deduplication = simulators::request::Deduplication::On;
            settings.namecom.deduplication = simulators::request::Deduplication::On;
        }
        let answer = |request| {
            states.perform(&settings, site.provider, as_of, &site.as_booked(&self.shared_books, request)).response
        };
        requests.iter().copied().map(answer).last().map(setups::with_key_as_sent)
    }

    fn accept_credentials(&mut self, provider: ProviderKind, accepted: bool) {
        if accepted {
            self.credentials_refused.remove(&provider);
        } else {
            self.credentials_refused.insert(provider);
        }
        for states in &mut self.states {
            let password = if accepted { PASSWORD } else { "another" }.to_owned();
            match provider {
                ProviderKind::Sectigo => {
                    let account = sectigo::Account { login_name: SECTIGO_LOGIN.to_owned(), password, locked: false };
                    states.sectigo.put_account(account).unwrap();
                }
                ProviderKind::Namecom => states.namecom.put_account(namecom::Account::new(NAMECOM_LOGIN, &password)),
                ProviderKind::Debitsuccess => {
                    let login = debitsuccess::Login { username: DEBITSUCCESS_LOGIN.to_owned(), password };
                    states.debitsuccess.put_login(login);
                }
            }
        }
    }

    fn write(
        &mut self,
        provider: ProviderKind,
        books: u8,
        at: i64,
        effects: Vec<Effect>,
        sent: Option<usize>,
        foreign: bool,
    ) {
        // A debit that another client began stays foreign, even where one of our requests completes
        // it.
        let debits = &self.debits_of_others;
        let began = |effect: &Effect| effect.reference.as_deref().and_then(|number| number.parse().ok());
        let entries = effects.into_iter().map(|effect| {
            let is_theirs = provider == ProviderKind::Debitsuccess && books == 0;
            let foreign = foreign || is_theirs && began(&effect).is_some_and(|number: i32| debits.contains(&number));
            let identifier = effect.identifier.as_deref().map(|key| setups::unbound_key(key).to_owned());
            let effect = Effect { identifier, ..effect };
            BookEntry { at, provider, books, effect, sent, foreign, corrects: false }
        });
        self.books.extend(entries);
    }

    // What happens at the provider without the gateway.

    /// The provider decides what it has accepted of a target, or of all targets where none is
    /// given.
    pub(crate) fn settle(&mut self, plan: &Plan, target: Option<u8>, yes: bool, now: i64) {
        for books in 0..self.states.len() as u8 {
            // First what has completed by itself: a lookup may have shown it already.
            let debits = &mut self.states[usize::from(books)].debitsuccess;
            for (at, effect) in debits.advance(&self.settings.debitsuccess, moment(now)) {
                let at = i64::try_from(at.unix_timestamp_nanos() / 1_000).unwrap();
                self.write(ProviderKind::Debitsuccess, books, at, vec![effect], None, false);
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
                    self.write(ProviderKind::Namecom, books, now, paid, None, foreign);
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
                    self.write(ProviderKind::Debitsuccess, books, now, effects, None, false);
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
                self.write(ProviderKind::Debitsuccess, books, now, effects, None, false);
                self.books[first..].iter_mut().for_each(|entry| entry.corrects = true);
            }
        }
    }

    /// The numbers of an account's refunds: the open ones, or the rejected ones.
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

    /// Whether a provider has accepted a refund of a target and not decided it.
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

    /// Another client refunds the same target.
    pub(crate) fn refund_by_others(&mut self, target: u8, planned: &TargetPlan, now: i64) {
        let before = self.before(0);
        let mut effects = Vec::new();
        let provider = planned.provider();
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
        self.write(provider, 0, now, effects, None, true);
    }

    /// Another client with our credentials uses the key or identifier of one of our refunds.
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
        let performed = self.perform(Site::usual(planned.provider()), now, &request);
        let begun = self.debits(0, target, false);
        self.debits_of_others.extend(begun.into_iter().filter(|number| !before.contains(number)));
        // Their request may also complete debits of our own, which are not foreign.
        let is_theirs = !matches!(planned, TargetPlan::Amount { .. });
        self.write(planned.provider(), 0, now, performed.effects, None, is_theirs);
        let items = self.states[0].namecom.order(order_id(target)).map(|order| order.items).unwrap_or_default();
        let is_theirs = |item: &namecom::Item| {
            item.pending.as_ref().is_some_and(|pending| pending.identifier.as_deref() == Some(key))
        };
        self.begun_by_others.extend(items.iter().filter(|item| is_theirs(item)).map(|item| item.id));
    }
}

impl States {
    /// Puts a target. Returns the entry that is in the books from the beginning.
    fn put(&mut self, books: u8, target: u8, planned: &TargetPlan, now: i64) -> Option<BookEntry> {
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
                        already = Some(BookEntry {
                            at: now,
                            provider: ProviderKind::Sectigo,
                            books,
                            effect: effect_of(&order_number(target), order.price_minor, None),
                            sent: None,
                            foreign: true,
                            corrects: false,
                        });
                    }
                    OrderKind::MultiDomain => order.multi_domain = true,
                    OrderKind::OfAnotherAccount => order.account = Some("else".to_owned()),
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
                // The window outlasts every run: items with WindowOver test its end.
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
                    AccountKind::TooLittleCollected => account.collected_minor = minor - 1,
                    AccountKind::NotActive => account.condition = debitsuccess::Condition::NotActive,
                    AccountKind::Deadlock => account.condition = debitsuccess::Condition::Deadlock,
                    AccountKind::Rejects => account.decision = debitsuccess::Decision::Rejected,
                }
                self.debitsuccess.put_account(account).unwrap();
            }
        }
        already
    }

    fn perform(&mut self, settings: &Settings, provider: ProviderKind, at: i64, request: &Request) -> Handled {
        match provider {
            ProviderKind::Sectigo => sectigo::handle(&mut self.sectigo, &settings.sectigo, moment(at), request),
            ProviderKind::Namecom => namecom::handle(&mut self.namecom, &settings.namecom, moment(at), request),
            ProviderKind::Debitsuccess => {
                debitsuccess::handle(&mut self.debitsuccess, &settings.debitsuccess, moment(at), request)
            }
        }
    }
}

/// What a request says about itself.
pub(crate) fn identify(provider: ProviderKind, request: &Request) -> RequestInfo {
    match provider {
        ProviderKind::Sectigo => sectigo::inspect(request),
        ProviderKind::Namecom => namecom::inspect(request),
        ProviderKind::Debitsuccess => debitsuccess::inspect(request),
    }
}

/// The plan's target that a provider knows under this name.
pub(crate) fn target_of(provider: ProviderKind, named: &str) -> Option<u8> {
    // A domain is named after its target.
    if let Some((target, _)) = named.strip_prefix('d').and_then(|domain| domain.split_once('-')) {
        return target.parse().ok();
    }
    let number: i64 = named.trim_start_matches("DS").parse().ok()?;
    let base = match provider {
        ProviderKind::Sectigo => 1_000_000,
        ProviderKind::Namecom => 200_000,
        ProviderKind::Debitsuccess => 0,
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
         <d:Description>Another client's</d:Description>\
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
