//! What Debitsuccess knows: logins, accounts with what was collected, refunds and where their
//! review stands.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::LazyLock;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::review::{Queue, Steps, Upcoming};
use super::stored_refund::{Slip, Slips};
use super::{FinalStatuses, Settings};
use crate::faults::magic_targets;
use crate::providers::overlay::{Shelf, Shelved};
use crate::request::{Effect, Provider};

/// Everything Debitsuccess remembers. Grows with what is put and what is refunded.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct State {
    /// The login that a world gives out.
    main: String,
    /// Username to password.
    logins: BTreeMap<String, String>,
    /// Boxed: a map's nodes are half empty.
    accounts: Shelf<Box<Account>>,
    /// By AccountReferenceNo, oldest first.
    #[serde(with = "super::stored_refund")]
    refunds: Slips,
    /// Accounts with refunds that are settled by themselves whatever the settings say.
    settling: BTreeSet<String>,
    /// Reckoned from all the rest: whoever changes that notes down what it changes here, or throws
    /// it away.
    #[serde(skip)]
    upcoming: Queue,
    next_number: i32,
    /// How many GUIDs were given out: each is computed from its place in the row.
    guids: u64,
}

/// Credentials, as they stand in `User`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "DebitsuccessLogin")]
#[serde(deny_unknown_fields)]
pub struct Login {
    /// `User.Username`.
    #[schemars(extend("x-optional" = true))]
    pub username: String,
    /// `User.Password`. A secret: not part of `Debug`.
    #[schemars(extend("writeOnly" = true), description = "`User.Password`. Accepted and never returned.")]
    pub password: String,
}

/// A customer's account.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "DebitsuccessAccount")]
#[serde(deny_unknown_fields)]
pub struct Account {
    /// Debitsuccess's own reference, at most 15 characters.
    #[schemars(length(min = 1, max = 15), extend("x-optional" = true))]
    pub account_reference_no: String,
    /// The biller's reference, at most 50 characters; several accounts may share one.
    #[serde(default)]
    #[schemars(length(min = 1, max = 50))]
    pub external_account_reference_no: Option<String>,
    /// What was collected to date, in hundredths. Default 50000.
    #[serde(default = "five_hundred")]
    #[schemars(range(min = 0))]
    pub collected_minor: i64,
    /// ISO 4217; it is not on the wire. Default AUD.
    #[serde(default = "aud")]
    pub currency: String,
    /// Whether InitiateRefund fails for this account with a system-wide code. Default `ready`.
    #[serde(default)]
    pub condition: Condition,
    /// The error code that InitiateRefund is answered with for this account, nothing being
    /// recorded: `13040`, `14143`, ... Default none.
    #[serde(default)]
    pub refund_answer: Option<String>,
    /// After how many seconds its refunds are `Completed`, or `Rejected` where that is decided,
    /// over the setting `completed_after_seconds`. Default none.
    #[serde(default)]
    pub settles_after_seconds: Option<u64>,
    /// How the review of its refunds ends where settings move refunds on. Default `approved`.
    #[serde(default)]
    pub decision: Decision,
}

/// Why InitiateRefund fails for an account, with nothing recorded.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
#[serde(rename_all = "snake_case")]
pub enum Condition {
    /// It does not.
    #[default]
    Ready,
    /// 01 `The server is not available`.
    Unavailable,
    /// 05 `Request Time out`.
    TimedOut,
    /// 06 `Unknown exception occurred during processing of this message`.
    UnknownException,
    /// 09 `Failed to complete the process`.
    NotCompleted,
    /// 10 `Account is not active`.
    NotActive,
    /// 11 `Timeout/Deadlock Error - Please retry`.
    Deadlock,
}

/// How a review ends.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
#[serde(rename_all = "snake_case")]
pub enum Decision {
    /// The refund goes on to Approved and Completed.
    #[default]
    Approved,
    /// The refund is Rejected, and its amount can be refunded again.
    Rejected,
}

/// A recorded refund.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "DebitsuccessRefund")]
#[serde(deny_unknown_fields)]
pub struct Refund {
    /// RefundRequestNumber.
    pub number: i32,
    /// ExternalRefundIdentifier: the caller's, or a GUID made for it.
    pub identifier: String,
    /// The account's AccountReferenceNo.
    pub account: String,
    /// In hundredths.
    pub amount_minor: i64,
    /// ISO 4217.
    pub currency: String,
    /// Where its review stands.
    pub status: RefundStatus,
    /// Extra text on the status.
    pub note: Option<String>,
    /// The reason given.
    pub description: String,
    /// RequestInitiator.
    pub request_initiator: Option<String>,
    /// Whose credentials asked for it.
    pub username: String,
    /// When it was recorded.
    #[serde(with = "time::serde::rfc3339")]
    #[schemars(with = "String", extend("format" = "date-time"))]
    pub created: OffsetDateTime,
}

/// Where the review of a refund stands; in JSON by the exact words of the wire.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum RefundStatus {
    /// Recorded, not looked at.
    #[default]
    Submitted,
    /// In review.
    #[serde(rename = "Awaiting Review")]
    AwaitingReview,
    /// Will be paid.
    Approved,
    /// Paid. Final.
    Completed,
    /// Will not be paid. Final.
    Rejected,
}

/// Why something was not put.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "each says what it is")]
pub enum NotPut {
    #[error("account_reference_no must have 1 to 15 characters")]
    ReferenceLength,
    #[error("external_account_reference_no must have 1 to 50 characters")]
    ExternalReferenceLength,
    #[error("refund_answer must be an error code of InitiateRefund")]
    Answer,
    #[error("collected_minor must be from 0 to 99999999999")]
    CollectedOutOfRange,
}

/// Why a refund was not moved on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "each says what it is")]
pub enum NotMoved {
    #[error("there is no refund with this number or identifier")]
    NoSuchRefund,
    #[error("several accounts have a refund with this identifier: name it by its number")]
    SeveralRefunds,
    #[error("the refund is {0}, which is final")]
    Final(&'static str),
}

/// What a refund is recorded from.
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

/// RefundRequestNumbers count up from here.
const FIRST_NUMBER: i32 = 1001;
const DEMO_LOGIN: &str = "demo";
/// Beyond what a refund can ask for, and small enough that no sum can overflow.
const MAX_COLLECTED_MINOR: i64 = 99_999_999_999;

impl Default for State {
    fn default() -> Self {
        Self {
            main: DEMO_LOGIN.to_owned(),
            logins: BTreeMap::new(),
            accounts: Shelf::default(),
            refunds: Slips::new(),
            settling: BTreeSet::new(),
            upcoming: Queue::default(),
            next_number: FIRST_NUMBER,
            guids: 0,
        }
    }
}

impl Shelved for Box<Account> {
    type Key = String;

    fn demo() -> &'static BTreeMap<String, Box<Account>> {
        static DEMO: LazyLock<BTreeMap<String, Box<Account>>> = LazyLock::new(|| {
            let numbered = (1..=999).map(|n| Account::new(&format!("DS{n:06}"), &format!("EXT-{n:06}")));
            let twice = ["DSTWICE01", "DSTWICE02"].map(|reference| Account::new(reference, "EXT-TWICE"));
            let magic_account = |reference: String| Account::new(&reference, &format!("EXT-{reference}"));
            let refused = magic_targets::DEBITSUCCESS_CODES
                .map(|code| Account { refund_answer: Some(code.to_owned()), ..magic_account(format!("DSCODE{code}")) });
            let on_the_wire = magic_targets::wire_targets(Provider::Debitsuccess).map(magic_account);
            let settles_after_seconds = Some(u64::from(magic_targets::LATE_SECONDS));
            let late = [
                Account { settles_after_seconds, ..magic_account("DSSETTLES".to_owned()) },
                Account {
                    settles_after_seconds,
                    decision: Decision::Rejected,
                    ..magic_account("DSREJECTS".to_owned())
                },
            ];
            let accounts = numbered.chain(twice).chain(refused).chain(on_the_wire).chain(late);
            accounts.map(|account| (account.account_reference_no.clone(), Box::new(account))).collect()
        });
        &DEMO
    }
}

impl State {
    /// The demo data: login `demo` / `demo-password`; accounts DS000001 to DS000999 (external
    /// EXT-000001 to EXT-000999) with 500.00 AUD collected each; DSTWICE01 and DSTWICE02, both with
    /// the external reference EXT-TWICE. Nothing in it depends on the time.
    pub fn demo(_now: OffsetDateTime) -> Self {
        Self { accounts: Shelf::demo([]), ..Self::empty() }
    }

    /// Nothing but the login.
    pub(crate) fn empty() -> Self {
        Self { logins: [(DEMO_LOGIN.to_owned(), "demo-password".to_owned())].into(), ..Self::default() }
    }

    /// The login that the world gives out.
    pub(crate) fn main(&self) -> (&str, &str) {
        (&self.main, self.logins.get(&self.main).map(String::as_str).unwrap_or_default())
    }

    /// Gives the first login another name and password, and each other one another name.
    pub(crate) fn rename(&mut self, main: (String, String), other: impl Fn(&str) -> String) {
        let old_main = std::mem::replace(&mut self.main, main.0.clone());
        let logins = std::mem::take(&mut self.logins).into_iter();
        self.logins = logins
            .map(|(name, password)| if name == old_main { main.clone() } else { (other(&name), password) })
            .collect();
    }

    /// Adds credentials, or replaces the password of this username. Every login sees every account.
    pub fn put_login(&mut self, login: Login) {
        self.logins.insert(login.username, login.password);
    }

    /// All credentials, by username. They hold their passwords.
    pub fn logins(&self) -> Vec<Login> {
        let logins = self.logins.iter();
        logins.map(|(username, password)| Login { username: username.clone(), password: password.clone() }).collect()
    }

    /// Adds an account, or replaces the one of this AccountReferenceNo; its refunds stay.
    pub fn put_account(&mut self, account: Account) -> Result<(), NotPut> {
        let fits = |text: &str, limit: usize| !text.trim().is_empty() && text.chars().count() <= limit;
        if !fits(&account.account_reference_no, 15) {
            return Err(NotPut::ReferenceLength);
        }
        if account.external_account_reference_no.as_ref().is_some_and(|reference| !fits(reference, 50)) {
            return Err(NotPut::ExternalReferenceLength);
        }
        if account.refund_answer.as_deref().is_some_and(|code| super::notes::by_code(code).is_none()) {
            return Err(NotPut::Answer);
        }
        if !(0..=MAX_COLLECTED_MINOR).contains(&account.collected_minor) {
            return Err(NotPut::CollectedOutOfRange);
        }
        if account.settles_after_seconds.is_some() {
            self.settling.insert(account.account_reference_no.clone());
        }
        if self.refunds.contains_key(&account.account_reference_no) {
            self.upcoming = Queue::default();
        }
        self.accounts.insert(account.account_reference_no.clone(), Box::new(account));
        Ok(())
    }

    /// All accounts, by AccountReferenceNo.
    pub fn accounts(&self) -> Vec<&Account> {
        self.accounts.values().map(|account| &**account).collect()
    }

    /// One account, by AccountReferenceNo.
    pub fn account(&self, reference: &str) -> Option<&Account> {
        self.accounts.get(reference).map(|account| &**account)
    }

    /// All refunds, by number.
    pub fn refunds(&self) -> Vec<Refund> {
        let refunds = self.refunds.iter().flat_map(|(account, slips)| slips.iter().map(|slip| slip.refund(account)));
        let mut refunds: Vec<Refund> = refunds.collect();
        refunds.sort_unstable_by_key(|refund| refund.number);
        refunds
    }

    /// Moves a refund to a status, named by its number or else by its identifier; a given note
    /// replaces the one it has.
    ///
    /// Completed and Rejected are final. Becoming Rejected is an effect (`refund_rejected`): the
    /// money does not move after all.
    pub fn set_refund_status(
        &mut self,
        number_or_identifier: &str,
        status: RefundStatus,
        note: Option<String>,
    ) -> Result<(Refund, Vec<Effect>), NotMoved> {
        self.move_refund(number_or_identifier, status, note, FinalStatuses::Final)
    }

    /// The same, and whether a final status may be left. One that is left from Rejected is paid
    /// after all: an effect (`refund`).
    pub fn move_refund(
        &mut self,
        number_or_identifier: &str,
        status: RefundStatus,
        note: Option<String>,
        finals: FinalStatuses,
    ) -> Result<(Refund, Vec<Effect>), NotMoved> {
        let wanted = number_or_identifier.parse::<i32>().ok();
        let is_numbered = |slip: &Slip| Some(slip.number) == wanted;
        let by_number = self.refunds.values().flatten().any(is_numbered);
        let is_named =
            |slip: &Slip| if by_number { is_numbered(slip) } else { slip.identifier() == number_or_identifier };
        let slips = self
            .refunds
            .iter_mut()
            .flat_map(|(account, slips)| slips.iter_mut().enumerate().map(move |(place, slip)| (account, place, slip)));
        let mut named = slips.filter(|(_, _, slip)| is_named(slip));
        let (account, place, slip) = named.next().ok_or(NotMoved::NoSuchRefund)?;
        if named.next().is_some() {
            return Err(NotMoved::SeveralRefunds);
        }
        if slip.status.is_final() && slip.status != status && finals == FinalStatuses::Final {
            return Err(NotMoved::Final(slip.status.word()));
        }
        if note.is_some() {
            *slip = Slip::new(&Refund { note, ..slip.refund(account) });
        }
        let effects = slip.move_to(account, status).into_iter().collect();
        let moved = slip.refund(account);
        self.expect(&moved.account, place);
        Ok((moved, effects))
    }

    /// Moves refunds on as far as the settings say for their age, and tells what that did and when.
    /// Nothing moves back, and nothing moves without a setting.
    #[must_use = "a rejection is an effect, and belongs in the books"]
    pub fn advance(&mut self, settings: &Settings, now: OffsetDateTime) -> Vec<(OffsetDateTime, Effect)> {
        let by = Steps::of(settings);
        if self.upcoming.0.as_ref().is_none_or(|upcoming| upcoming.by != by) {
            self.upcoming = Queue(Some(self.reckon(by)));
        }
        let mut effects = Vec::new();
        while let Some((at, reference, place)) = self.upcoming.0.as_mut().and_then(|upcoming| upcoming.pop_until(now)) {
            let account = self.accounts.get(&reference);
            let steps = by.for_account(account.map(|account| &**account));
            let decision = account.map(|account| account.decision).unwrap_or_default();
            let Some(slip) = self.refunds.get_mut(&reference).and_then(|slips| slips.get_mut(place)) else { continue };
            // Somebody may have moved it meanwhile.
            let Some(reached) = steps.reached(slip, at).filter(|_| steps.next(slip) == Some(at)) else { continue };
            let is_rejected = reached.rank() >= RefundStatus::Approved.rank() && decision == Decision::Rejected;
            let next = if is_rejected { RefundStatus::Rejected } else { reached };
            effects.extend(slip.move_to(&reference, next).map(|effect| (at, effect)));
            self.expect(&reference, place);
        }
        effects
    }

    /// Everything that will move by itself.
    fn reckon(&self, by: Steps) -> Upcoming {
        let mut upcoming = Upcoming { by, moments: BTreeSet::new() };
        for (reference, slips) in &self.refunds {
            if by == Steps::default() && !self.settling.contains(reference) {
                continue;
            }
            let steps = by.for_account(self.account(reference));
            let next = slips.iter().enumerate().filter_map(|(place, slip)| Some((steps.next(slip)?, place)));
            upcoming.moments.extend(next.map(|(at, place)| (at, reference.clone(), place)));
        }
        upcoming
    }

    /// Notes down when a refund moves by itself next.
    fn expect(&mut self, reference: &str, place: usize) {
        let account = self.accounts.get(reference).map(|account| &**account);
        let slip = self.refunds.get(reference).and_then(|slips| slips.get(place));
        if let (Some(upcoming), Some(slip)) = (&mut self.upcoming.0, slip) {
            upcoming.expect(account, reference, place, slip);
        }
    }

    // For the calls.

    pub(super) fn knows(&self, username: &str, password: &str) -> bool {
        self.logins.get(username).is_some_and(|known| known == password)
    }

    pub(super) fn refunds_of(&self, account: &str) -> &[Slip] {
        self.refunds.get(account).map(Vec::as_slice).unwrap_or_default()
    }

    /// Records a refund as Submitted. The one place where money begins to move.
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
        let account = self.accounts.get(&refund.account).map(|account| &**account);
        if account.is_some_and(|account| account.settles_after_seconds.is_some()) {
            self.settling.insert(refund.account.clone());
        }
        // Most accounts are refunded once, and a vector's own first step is room for four.
        let slips = self.refunds.entry(refund.account.clone()).or_insert_with(|| Vec::with_capacity(1));
        let slip = Slip::new(&refund);
        if let Some(upcoming) = &mut self.upcoming.0 {
            upcoming.expect(account, &refund.account, slips.len(), &slip);
        }
        slips.push(slip);
        refund
    }

    /// Has the row of GUIDs begin somewhere else for each number.
    pub(crate) fn begin_guids(&mut self, number: u64) {
        self.guids = scattered(number);
    }

    /// A GUID as .NET prints it, the same in each run that asks in the same order.
    pub(super) fn next_guid(&mut self) -> String {
        self.guids = self.guids.wrapping_add(1);
        let high = scattered(self.guids.wrapping_mul(2));
        let low = scattered(self.guids.wrapping_mul(2).wrapping_add(1));
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

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Login").field("username", &self.username).field("password", &"***").finish()
    }
}

impl Account {
    /// An account with 500.00 AUD collected.
    pub fn new(reference: &str, external_reference: &str) -> Self {
        Self {
            account_reference_no: reference.to_owned(),
            external_account_reference_no: Some(external_reference.to_owned()),
            collected_minor: five_hundred(),
            currency: aud(),
            condition: Condition::Ready,
            refund_answer: None,
            settles_after_seconds: None,
            decision: Decision::Approved,
        }
    }
}

impl Refund {
    pub(super) fn effect(&self, kind: &str) -> Effect {
        Effect {
            kind: kind.to_owned(),
            target: self.account.clone(),
            amount_minor: Some(self.amount_minor),
            currency: Some(self.currency.clone()),
            identifier: Some(self.identifier.clone()),
            reference: Some(self.number.to_string()),
            account: Some(self.account.clone()),
            fee_minor: None,
            paid_to: None,
        }
    }
}

impl RefundStatus {
    /// The exact word of the wire.
    pub fn word(self) -> &'static str {
        match self {
            Self::Submitted => "Submitted",
            Self::AwaitingReview => "Awaiting Review",
            Self::Approved => "Approved",
            Self::Completed => "Completed",
            Self::Rejected => "Rejected",
        }
    }

    pub(super) fn is_final(self) -> bool {
        matches!(self, Self::Completed | Self::Rejected)
    }

    pub(super) fn rank(self) -> u8 {
        match self {
            Self::Submitted => 0,
            Self::AwaitingReview => 1,
            Self::Approved => 2,
            Self::Completed | Self::Rejected => 3,
        }
    }
}

/// Hundredths as a decimal: 12.34.
pub(super) fn format_amount(minor: i64) -> String {
    let sign = if minor < 0 { "-" } else { "" };
    let minor = minor.unsigned_abs();
    format!("{sign}{}.{:02}", minor / 100, minor % 100)
}

/// SplitMix64: neighbours in, strangers out.
fn scattered(place: u64) -> u64 {
    let mut bits = place.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    bits ^ (bits >> 31)
}

fn five_hundred() -> i64 {
    50_000
}

fn aud() -> String {
    "AUD".to_owned()
}
