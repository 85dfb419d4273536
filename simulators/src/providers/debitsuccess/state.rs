//! Debitsuccess' state: logins, accounts with what was collected, and refunds in review.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::LazyLock;

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::accounts::{Account, Decision, Login, MoveError, PutError, Refund, RefundStatus};
use super::notes;
use super::review_schedule::{ReviewSchedule, Steps, Upcoming};
use super::settings::{FinalStatuses, Settings};
use crate::providers::emulated::{MAGIC_DELAY_SECONDS, MAGIC_WIRE_NAMES};
use crate::providers::overlay::{Overlay, Row, Seeded};
use crate::request::Effect;
use crate::seeded_rng::{SPLITMIX64_GAMMA, splitmix64_finalize};

/// Accounts DSCODE... answer a refund with that code.
pub(super) const MAGIC_CODES: [&str; 17] = [
    "01", "02", "05", "06", "07", "08", "09", "10", "11", "100", "12016", "12017", "13012", "13040", "13203", "13204",
    "14143",
];

/// Everything Debitsuccess remembers. Grows with what is put and refunded.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct State {
    /// The username of the main login.
    main: String,
    /// Username to password.
    logins: BTreeMap<String, String>,
    accounts: Overlay<Account>,
    /// By AccountReferenceNo, oldest first. Copies of a world share the refunds.
    refunds: BTreeMap<String, Vec<Row<Refund>>>,
    /// Accounts whose refunds settle after a time of their own, whatever the settings say.
    settling: BTreeSet<String>,
    /// Derived from the rest of the state. A change there updates it or resets it.
    #[serde(skip)]
    schedule: ReviewSchedule,
    next_number: i32,
    /// The number of the last generated GUID, from which the next one is computed.
    guids: u64,
}

/// The data of a refund to record.
pub(super) struct NewRefund {
    pub(super) account: String,
    pub(super) currency: String,
    pub(super) identifier: Option<String>,
    pub(super) amount_minor: i64,
    pub(super) description: String,
    pub(super) request_initiator: Option<String>,
    pub(super) username: String,
    pub(super) created: OffsetDateTime,
}

/// The first RefundRequestNumber.
const FIRST_NUMBER: i32 = 1001;
const DEMO_LOGIN: &str = "demo";
/// More than a refund can ask for, and small enough that no sum can overflow.
const MAX_COLLECTED_MINOR: i64 = 99_999_999_999;

impl Default for State {
    fn default() -> Self {
        Self {
            main: DEMO_LOGIN.to_owned(),
            logins: BTreeMap::new(),
            accounts: Overlay::default(),
            refunds: BTreeMap::new(),
            settling: BTreeSet::new(),
            schedule: ReviewSchedule::default(),
            next_number: FIRST_NUMBER,
            guids: 0,
        }
    }
}

impl Seeded for Account {
    type Key = String;

    fn demo() -> &'static BTreeMap<String, Account> {
        static DEMO: LazyLock<BTreeMap<String, Account>> = LazyLock::new(|| {
            let numbered = (1..=999).map(|n| Account::new(&format!("DS{n:06}"), &format!("EXT-{n:06}")));
            let twice = ["DSTWICE01", "DSTWICE02"].map(|reference| Account::new(reference, "EXT-TWICE"));
            let magic_account = |reference: String| Account::new(&reference, &format!("EXT-{reference}"));
            let refused = MAGIC_CODES
                .map(|code| Account { refund_answer: Some(code.to_owned()), ..magic_account(format!("DSCODE{code}")) });
            let on_the_wire = MAGIC_WIRE_NAMES.map(|name| magic_account(format!("DS{name}")));
            let settles_after_seconds = Some(u64::from(MAGIC_DELAY_SECONDS));
            let late = [
                Account { settles_after_seconds, ..magic_account("DSSETTLES".to_owned()) },
                Account {
                    settles_after_seconds,
                    decision: Decision::Rejected,
                    ..magic_account("DSREJECTS".to_owned())
                },
            ];
            let accounts = numbered.chain(twice).chain(refused).chain(on_the_wire).chain(late);
            accounts.map(|account| (account.account_reference_no.clone(), account)).collect()
        });
        &DEMO
    }
}

impl State {
    /// The demo data: login `demo` / `demo-password`; accounts DS000001 to DS000999 (external
    /// EXT-000001 to EXT-000999) with 500.00 AUD collected each; DSTWICE01 and DSTWICE02, both with
    /// the external reference EXT-TWICE. It does not depend on the time.
    pub fn demo(_now: OffsetDateTime) -> Self {
        Self { accounts: Overlay::demo([]), ..Self::empty() }
    }

    /// Nothing but the main login.
    pub(crate) fn empty() -> Self {
        Self { logins: [(DEMO_LOGIN.to_owned(), "demo-password".to_owned())].into(), ..Self::default() }
    }

    /// The main login: username and password.
    pub(crate) fn main(&self) -> (&str, &str) {
        (&self.main, self.logins.get(&self.main).map(String::as_str).unwrap_or_default())
    }

    /// Gives the main login another name and password, and every other login another name.
    pub(crate) fn rename(&mut self, main: (String, String), other: impl Fn(&str) -> String) {
        let old_main = std::mem::replace(&mut self.main, main.0.clone());
        let logins = std::mem::take(&mut self.logins).into_iter();
        self.logins = logins
            .map(|(name, password)| if name == old_main { main.clone() } else { (other(&name), password) })
            .collect();
    }

    /// Adds a login, or replaces the password of this username. Every login sees every account.
    pub fn put_login(&mut self, login: Login) {
        self.logins.insert(login.username, login.password);
    }

    /// All logins, by username. They contain their passwords.
    pub fn logins(&self) -> Vec<Login> {
        let logins = self.logins.iter();
        logins.map(|(username, password)| Login { username: username.clone(), password: password.clone() }).collect()
    }

    /// Adds an account, or replaces the one of this AccountReferenceNo; its refunds stay.
    pub fn put_account(&mut self, account: Account) -> Result<(), PutError> {
        let fits = |text: &str, limit: usize| !text.trim().is_empty() && text.chars().count() <= limit;
        if !fits(&account.account_reference_no, 15) {
            return Err(PutError::ReferenceLength);
        }
        if account.external_account_reference_no.as_ref().is_some_and(|reference| !fits(reference, 50)) {
            return Err(PutError::ExternalReferenceLength);
        }
        if account.refund_answer.as_deref().is_some_and(|code| notes::by_code(code).is_none()) {
            return Err(PutError::Answer);
        }
        if !(0..=MAX_COLLECTED_MINOR).contains(&account.collected_minor) {
            return Err(PutError::CollectedOutOfRange);
        }
        if account.settles_after_seconds.is_some() {
            self.settling.insert(account.account_reference_no.clone());
        }
        if self.refunds.contains_key(&account.account_reference_no) {
            self.schedule = ReviewSchedule::default();
        }
        self.accounts.insert(account.account_reference_no.clone(), account);
        Ok(())
    }

    /// All accounts, by AccountReferenceNo.
    pub fn accounts(&self) -> Vec<&Account> {
        self.accounts.values().collect()
    }

    /// One account, by AccountReferenceNo.
    pub fn account(&self, reference: &str) -> Option<&Account> {
        self.accounts.get(reference)
    }

    /// All refunds, by number.
    pub fn refunds(&self) -> Vec<Refund> {
        let mut refunds: Vec<Refund> = self.refunds.values().flatten().map(|refund| Refund::clone(refund)).collect();
        refunds.sort_unstable_by_key(|refund| refund.number);
        refunds
    }

    /// Changes the status of a refund, found by its number or else by its identifier. A given note
    /// replaces the old one.
    ///
    /// Completed and Rejected are final. Becoming Rejected is an effect (`refund_rejected`): the
    /// money does not move after all.
    ///
    /// # Errors
    /// There is not exactly one such refund, or its status is final.
    pub fn set_refund_status(
        &mut self,
        number_or_identifier: &str,
        status: RefundStatus,
        note: Option<String>,
    ) -> Result<(Refund, Vec<Effect>), MoveError> {
        self.move_refund(number_or_identifier, status, note, FinalStatuses::Final)
    }

    /// As [`Self::set_refund_status`], with a choice whether a final status can be left. A refund
    /// that leaves Rejected is paid after all: an effect (`refund`).
    ///
    /// # Errors
    /// There is not exactly one such refund, or its status is final and `finals` says so.
    pub fn move_refund(
        &mut self,
        number_or_identifier: &str,
        status: RefundStatus,
        note: Option<String>,
        finals: FinalStatuses,
    ) -> Result<(Refund, Vec<Effect>), MoveError> {
        let wanted = number_or_identifier.parse::<i32>().ok();
        let is_numbered = |refund: &Refund| Some(refund.number) == wanted;
        let by_number = self.refunds.values().flatten().any(|refund| is_numbered(refund));
        let is_named =
            |refund: &Refund| if by_number { is_numbered(refund) } else { refund.identifier == number_or_identifier };
        let mut named = self
            .refunds
            .values_mut()
            .flat_map(|refunds| refunds.iter_mut().enumerate())
            .filter(|(_, refund)| is_named(refund));
        let (index, refund) = named.next().ok_or(MoveError::NoSuchRefund)?;
        if named.next().is_some() {
            return Err(MoveError::SeveralRefunds);
        }
        if refund.status.is_final() && refund.status != status && finals == FinalStatuses::Final {
            return Err(MoveError::Final(refund.status.word()));
        }
        let refund = Row::make_mut(refund);
        refund.note = note.or(refund.note.take());
        let effects = refund.move_to(status).into_iter().collect();
        let moved = refund.clone();
        self.schedule_next(&moved.account, index);
        Ok((moved, effects))
    }

    /// Moves refunds on as far as the settings say for their age. Returns each effect with its
    /// time. Nothing moves back, and nothing moves without a setting.
    #[must_use = "a rejection is an effect, and belongs in the books"]
    pub fn advance(&mut self, settings: &Settings, now: OffsetDateTime) -> Vec<(OffsetDateTime, Effect)> {
        let by = Steps::of(settings);
        if self.schedule.0.as_ref().is_none_or(|upcoming| upcoming.by != by) {
            self.schedule = ReviewSchedule(Some(self.compute_schedule(by)));
        }
        let mut effects = Vec::new();
        while let Some((at, reference, index)) = self.schedule.0.as_mut().and_then(|upcoming| upcoming.pop_until(now)) {
            let account = self.accounts.get(&reference);
            let steps = by.for_account(account);
            let decision = account.map(|account| account.decision).unwrap_or_default();
            let Some(refund) = self.refunds.get_mut(&reference).and_then(|refunds| refunds.get_mut(index)) else {
                continue;
            };
            // It may have been moved by hand meanwhile.
            let Some(reached) = steps.reached(refund, at).filter(|_| steps.next(refund) == Some(at)) else { continue };
            let is_rejected = reached.rank() >= RefundStatus::Approved.rank() && decision == Decision::Rejected;
            let next = if is_rejected { RefundStatus::Rejected } else { reached };
            effects.extend(Row::make_mut(refund).move_to(next).map(|effect| (at, effect)));
            self.schedule_next(&reference, index);
        }
        effects
    }

    /// All moves that will happen without a request.
    fn compute_schedule(&self, by: Steps) -> Upcoming {
        let mut upcoming = Upcoming { by, moves: BTreeSet::new() };
        for (reference, refunds) in &self.refunds {
            if by == Steps::default() && !self.settling.contains(reference) {
                continue;
            }
            let steps = by.for_account(self.account(reference));
            let next = refunds.iter().enumerate().filter_map(|(index, refund)| Some((steps.next(refund)?, index)));
            upcoming.moves.extend(next.map(|(at, index)| (at, reference.clone(), index)));
        }
        upcoming
    }

    /// Schedules the next move of a refund.
    fn schedule_next(&mut self, reference: &str, index: usize) {
        let account = self.accounts.get(reference);
        let refund = self.refunds.get(reference).and_then(|refunds| refunds.get(index));
        if let (Some(upcoming), Some(refund)) = (&mut self.schedule.0, refund) {
            upcoming.schedule(account, reference, index, refund);
        }
    }

    pub(super) fn knows(&self, username: &str, password: &str) -> bool {
        self.logins.get(username).is_some_and(|known| known == password)
    }

    pub(super) fn refunds_of(&self, account: &str) -> &[Row<Refund>] {
        self.refunds.get(account).map(Vec::as_slice).unwrap_or_default()
    }

    /// Records a refund as Submitted. The only place where money begins to move.
    pub(super) fn record(&mut self, new: NewRefund) -> Refund {
        let number = self.next_number;
        self.next_number = self.next_number.saturating_add(1);
        let refund = Refund {
            number,
            identifier: new.identifier.unwrap_or_else(|| self.next_guid()),
            account: new.account,
            amount_minor: new.amount_minor,
            currency: new.currency,
            status: RefundStatus::Submitted,
            note: None,
            description: new.description,
            request_initiator: new.request_initiator,
            username: new.username,
            created: new.created,
        };
        let account = self.accounts.get(&refund.account);
        if account.is_some_and(|account| account.settles_after_seconds.is_some()) {
            self.settling.insert(refund.account.clone());
        }
        let refunds = self.refunds.entry(refund.account.clone()).or_default();
        if let Some(upcoming) = &mut self.schedule.0 {
            upcoming.schedule(account, &refund.account, refunds.len(), &refund);
        }
        refunds.push(Row::new(refund.clone()));
        refund
    }

    /// Makes the sequence of GUIDs depend on `seed`.
    pub(crate) fn reseed_guids(&mut self, seed: u64) {
        self.guids = mixed(seed);
    }

    /// A GUID as .NET prints it. The same calls in the same order give the same GUIDs.
    pub(super) fn next_guid(&mut self) -> String {
        self.guids = self.guids.wrapping_add(1);
        let high = mixed(self.guids.wrapping_mul(2));
        let low = mixed(self.guids.wrapping_mul(2).wrapping_add(1));
        // Version 4, variant 1, so that strict readers take it.
        let high = (high & !0xF000) | 0x4000;
        let low = (low & !(0xC000 << 48)) | (0x8000 << 48);
        format!(
            "{:08x}-{:04x}-{:04x}-{:04x}-{:012x}",
            high >> 32,
            (high >> 16) & 0xFFFF,
            high & 0xFFFF,
            low >> 48,
            low & 0xFFFF_FFFF_FFFF
        )
    }
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("State")
            .field("logins", &self.logins.keys())
            .field("accounts", &self.accounts)
            .field("refunds", &self.refunds)
            .field("next_number", &self.next_number)
            .field("guids", &self.guids)
            .finish()
    }
}

/// Consecutive numbers in, unrelated numbers out.
fn mixed(number: u64) -> u64 {
    splitmix64_finalize(number.wrapping_mul(SPLITMIX64_GAMMA))
}
