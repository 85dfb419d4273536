//! How much a caller may ask for: what a refund counts, and whether the limits leave room for it.
//!
//! A day is any 24 hours. Sums are kept by the hour, and the oldest hour, which has partly passed,
//! counts in full: a limit is reached up to an hour early and never exceeded. Hours that lie ahead
//! of the clock count too, so a clock that is set back frees nothing.

use std::time::Duration;

use crate::domain::authority::{AccountLimits, Amounts, CallerLimits};
use crate::domain::clock::Timestamp;
use crate::domain::money::{Currency, Money};
use crate::domain::target::Target;

/// What one refund takes of a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Claim {
    /// The account's currency.
    pub currency: Currency,
    /// What the refund counts. None: nothing says how much it is.
    pub amount: Option<Money>,
}

/// A limit of the access file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Limit {
    /// [`CallerLimits::refund_max`]
    RefundMax,
    /// [`CallerLimits::daily_max`]
    DailyMax,
    /// [`CallerLimits::daily_count`]
    DailyCount,
    /// [`AccountLimits::daily_max`]
    AccountDailyMax,
    /// [`AccountLimits::daily_count`]
    AccountDailyCount,
}

/// The part of the limits that counts over a day, of a caller or of an account.
#[derive(Debug, Clone, Copy)]
pub struct DailyLimits<'a> {
    pub max: &'a Amounts,
    pub count: Option<u64>,
    /// The names of the two limits.
    pub names: (Limit, Limit),
}

/// What the refunds of one hour count together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HourSum {
    /// As of [`hour_of`].
    pub hour: i64,
    /// Refunds in whatever currency.
    pub count: u64,
    /// Hundredths of the currency that is asked about.
    pub minor_units: i64,
}

/// Why a daily limit leaves no room now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Full {
    pub limit: Limit,
    /// When there is room again if nothing else is recorded meanwhile.
    pub free_at: Timestamp,
}

/// The period that daily limits are about.
pub const DAY: Duration = Duration::from_secs(24 * 60 * 60);

const HOUR_MICROS: i64 = 3_600_000_000;

/// No single refund is larger. What is would overflow sums, so it counts as unknown.
const MAX_COUNTED_MINOR_UNITS: i64 = 10_000_000_000_000;

/// What a refund counts: the target's own amount; where it names none, the amount that the account
/// assumes for each item, which the caller's expectation can only raise.
pub fn counted_amount(
    target: &Target,
    expected: Option<Money>,
    assumed_per_item: Option<i64>,
    currency: Currency,
) -> Option<Money> {
    let counted = target.requested_amount().or_else(|| assumed_amount(target, expected, assumed_per_item, currency));
    counted.filter(|amount| amount.minor_units <= MAX_COUNTED_MINOR_UNITS)
}

fn assumed_amount(
    target: &Target,
    expected: Option<Money>,
    assumed_per_item: Option<i64>,
    currency: Currency,
) -> Option<Money> {
    let items = i64::try_from(target.item_ids().len().max(1)).unwrap_or(i64::MAX);
    let assumed = assumed_per_item?.saturating_mul(items);
    let expected = expected.filter(|expected| expected.currency == currency).map_or(0, |expected| expected.minor_units);
    Some(Money { currency, minor_units: assumed.max(expected) })
}

/// The hour of a time, since 1970.
pub const fn hour_of(time: Timestamp) -> i64 {
    time.as_micros().div_euclid(HOUR_MICROS)
}

/// When an hour of [`hour_of`] begins.
pub const fn begin_of(hour: i64) -> Timestamp {
    Timestamp::from_micros(hour.saturating_mul(HOUR_MICROS))
}

/// The oldest hour that counts at `now`.
pub fn first_hour(now: Timestamp) -> i64 {
    hour_of(now.saturating_sub(DAY))
}

/// The limit that this refund exceeds by itself, so that it can never be recorded.
pub fn exceeded(claim: &Claim, caller: Option<&CallerLimits>, account: Option<&AccountLimits>) -> Option<Limit> {
    let refund_max = caller.and_then(|limits| over(claim, &limits.refund_max, Limit::RefundMax));
    let daily = [caller.map(CallerLimits::daily), account.map(AccountLimits::daily)];
    refund_max.or_else(|| {
        daily.into_iter().flatten().find_map(|DailyLimits { max, count, names: (max_name, count_name) }| {
            over(claim, max, max_name).or((count == Some(0)).then_some(count_name))
        })
    })
}

/// A limit in money without an entry for the currency allows none of it.
fn over(claim: &Claim, max: &Amounts, name: Limit) -> Option<Limit> {
    let fits = |max: &i64| claim.amount.is_some_and(|amount| amount.minor_units <= *max);
    (!max.is_empty() && !max.get(&claim.currency).is_some_and(fits)).then_some(name)
}

/// Whether daily limits leave room for one more refund, after the hours from [`first_hour`] on, in
/// their order.
///
/// # Errors
/// [`Full`]; the refund fits into an empty day ([`exceeded`] says None).
pub fn check_day(claim: &Claim, limits: &DailyLimits<'_>, hours: &[HourSum]) -> Result<(), Full> {
    let DailyLimits { max, count, names: (max_name, count_name) } = limits;
    if let Some(count) = count {
        let has_room = |hours: &[HourSum]| total(hours.iter().map(|hour| hour.count)) < *count;
        check_room(hours, *count_name, has_room)?;
    }
    let Some((max, amount)) = max.get(&claim.currency).zip(claim.amount) else { return Ok(()) };
    check_room(hours, *max_name, |hours| {
        let spent = hours.iter().fold(0_i64, |sum, hour| sum.saturating_add(hour.minor_units));
        spent.saturating_add(amount.minor_units) <= *max
    })
}

/// The latest hours count longest, so room comes back as the oldest leave.
fn check_room(hours: &[HourSum], limit: Limit, has_room: impl Fn(&[HourSum]) -> bool) -> Result<(), Full> {
    let mut left = hours;
    let mut free_at = None;
    while !has_room(left) {
        let Some((oldest, later)) = left.split_first() else { break };
        free_at = Some(begin_of(oldest.hour.saturating_add(1)));
        left = later;
    }
    free_at.map_or(Ok(()), |end| Err(Full { limit, free_at: end.saturating_add(DAY) }))
}

fn total(counts: impl Iterator<Item = u64>) -> u64 {
    counts.fold(0, u64::saturating_add)
}

impl Limit {
    /// The name in the contract's error details.
    pub const fn as_str(self) -> &'static str {
        match self {
            Limit::RefundMax => "refund_max",
            Limit::DailyMax => "daily_max",
            Limit::DailyCount => "daily_count",
            Limit::AccountDailyMax => "account_daily_max",
            Limit::AccountDailyCount => "account_daily_count",
        }
    }
}

impl CallerLimits {
    /// The part that counts over a day.
    pub fn daily(&self) -> DailyLimits<'_> {
        DailyLimits { max: &self.daily_max, count: self.daily_count, names: (Limit::DailyMax, Limit::DailyCount) }
    }
}

impl AccountLimits {
    /// The part that counts over a day.
    pub fn daily(&self) -> DailyLimits<'_> {
        let names = (Limit::AccountDailyMax, Limit::AccountDailyCount);
        DailyLimits { max: &self.daily_max, count: self.daily_count, names }
    }
}

impl DailyLimits<'_> {
    /// Whether there is anything to count.
    pub fn is_empty(&self) -> bool {
        self.max.is_empty() && self.count.is_none()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;
    use crate::domain::target::{DebitsuccessFields, DebitsuccessTarget, NamecomTarget, SectigoTarget};

    const AUD: fn() -> Currency = || Currency::parse("AUD").unwrap();

    fn order() -> Target {
        Target::Sectigo(SectigoTarget::new("1", 11).unwrap())
    }

    fn items(count: i32) -> Target {
        Target::Namecom(NamecomTarget::new(1, &(1..=count).collect::<Vec<_>>()).unwrap())
    }

    fn payment() -> Target {
        let fields = DebitsuccessFields {
            account_reference_no: "DS1",
            external_account_reference_no: "",
            amount: Some(("AUD", 1250)),
            description: "x",
            request_initiator: "",
        };
        Target::Debitsuccess(DebitsuccessTarget::new(fields).unwrap())
    }

    fn usd(minor_units: i64) -> Money {
        Money { currency: Currency::USD, minor_units }
    }

    /// The target's own amount, else items times the assumed amount, which an expectation can only
    /// raise, and which nothing replaces.
    #[rstest]
    #[case(payment(), None, Some(9_900), Some(1_250))]
    #[case(payment(), None, None, Some(1_250))]
    #[case(order(), None, Some(9_900), Some(9_900))]
    #[case(order(), Some(100), Some(9_900), Some(9_900))]
    #[case(order(), Some(20_000), Some(9_900), Some(20_000))]
    #[case(order(), Some(20_000), None, None)]
    #[case(order(), None, None, None)]
    #[case(items(3), None, Some(1_000), Some(3_000))]
    #[case(items(3), Some(2_999), Some(1_000), Some(3_000))]
    #[case(items(200), None, Some(i64::MAX), None)]
    fn what_a_refund_counts(
        #[case] target: Target,
        #[case] expected: Option<i64>,
        #[case] assumed: Option<i64>,
        #[case] counted: Option<i64>,
    ) {
        let amount = counted_amount(&target, expected.map(usd), assumed, Currency::USD);
        assert_eq!(amount.map(|amount| amount.minor_units), counted);
    }

    fn amounts(of: &[(Currency, i64)]) -> Amounts {
        of.iter().copied().collect()
    }

    #[rstest]
    #[case::no_limits(CallerLimits::default(), Some(1), None)]
    #[case::no_limits_and_unknown(CallerLimits::default(), None, None)]
    #[case::up_to_it(CallerLimits { refund_max: amounts(&[(Currency::USD, 5)]), ..CallerLimits::default() }, Some(5), None)]
    #[case::above_it(
        CallerLimits { refund_max: amounts(&[(Currency::USD, 5)]), ..CallerLimits::default() }, Some(6), Some(Limit::RefundMax)
    )]
    #[case::unknown(
        CallerLimits { refund_max: amounts(&[(Currency::USD, 5)]), ..CallerLimits::default() }, None, Some(Limit::RefundMax)
    )]
    #[case::another_currency(
        CallerLimits { daily_max: amounts(&[(AUD(), 5)]), ..CallerLimits::default() }, Some(1), Some(Limit::DailyMax)
    )]
    #[case::more_than_a_day(
        CallerLimits { daily_max: amounts(&[(Currency::USD, 5)]), ..CallerLimits::default() }, Some(6), Some(Limit::DailyMax)
    )]
    #[case::none_at_all(CallerLimits { daily_count: Some(0), ..CallerLimits::default() }, Some(1), Some(Limit::DailyCount))]
    #[case::unknown_and_counted(CallerLimits { daily_count: Some(1), ..CallerLimits::default() }, None, None)]
    fn what_can_never_be_recorded(
        #[case] limits: CallerLimits,
        #[case] amount: Option<i64>,
        #[case] expected: Option<Limit>,
    ) {
        let claim = Claim { currency: Currency::USD, amount: amount.map(usd) };
        assert_eq!(exceeded(&claim, Some(&limits), None), expected);
        let account = AccountLimits { daily_max: limits.daily_max.clone(), ..AccountLimits::default() };
        let of_account = exceeded(&claim, None, Some(&account));
        assert_eq!(of_account, expected.filter(|limit| *limit == Limit::DailyMax).map(|_| Limit::AccountDailyMax));
    }

    fn at(hour: i64, minutes: i64) -> Timestamp {
        Timestamp::from_seconds(hour * 3_600 + minutes * 60)
    }

    /// Room comes back when the hour that has to leave is a day old to its last second.
    #[test]
    fn room_comes_back_when_the_oldest_hours_leave() {
        let hour = |hour, minor_units| HourSum { hour, count: 1, minor_units };
        let limits =
            CallerLimits { daily_max: amounts(&[(Currency::USD, 10)]), daily_count: Some(3), ..Default::default() };
        let claim = |minor_units| Claim { currency: Currency::USD, amount: Some(usd(minor_units)) };
        let hours = [hour(100, 4), hour(101, 4)];
        let check = |minor_units, hours: &[HourSum]| check_day(&claim(minor_units), &limits.daily(), hours);
        assert_eq!(check(2, &hours), Ok(()));
        assert_eq!(check(3, &hours), Err(Full { limit: Limit::DailyMax, free_at: at(125, 0) }));
        assert_eq!(check(7, &hours), Err(Full { limit: Limit::DailyMax, free_at: at(126, 0) }));
        let three = [hour(100, 0), hour(101, 0), hour(102, 0)];
        assert_eq!(check(1, &three), Err(Full { limit: Limit::DailyCount, free_at: at(125, 0) }));
        assert_eq!(first_hour(at(124, 59)), 100);
        assert_eq!(first_hour(at(125, 0)), 101);
    }

    proptest! {
        /// Whatever is recorded when, in whatever order of clocks, no 24 hours hold more than the
        /// limit.
        #[test]
        fn no_day_holds_more_than_the_limit(
            requests in proptest::collection::vec((-1_800_i64..9_000, 1_i64..5), 1..120),
        ) {
            let limits = CallerLimits { daily_max: amounts(&[(Currency::USD, 10)]), ..Default::default() };
            let mut recorded: Vec<(Timestamp, i64)> = Vec::new();
            let mut now = at(1_000, 0);
            for (seconds, minor_units) in requests {
                now = Timestamp::from_micros(now.as_micros() + seconds * 1_000_000);
                let from = first_hour(now);
                let mut hours: Vec<HourSum> = recorded
                    .iter()
                    .map(|(time, amount)| HourSum { hour: hour_of(*time), count: 1, minor_units: *amount })
                    .filter(|hour| hour.hour >= from)
                    .collect();
                hours.sort_by_key(|hour| hour.hour);
                let claim = Claim { currency: Currency::USD, amount: Some(usd(minor_units)) };
                match check_day(&claim, &limits.daily(), &hours) {
                    Ok(()) => recorded.push((now, minor_units)),
                    Err(full) => prop_assert!(full.free_at > now),
                }
            }
            for (begin, _) in &recorded {
                let end = begin.saturating_add(DAY);
                let sum: i64 = recorded.iter().filter(|(time, _)| begin <= time && *time < end).map(|(_, sum)| sum).sum();
                prop_assert!(sum <= 10);
            }
        }
    }

    #[test]
    fn an_hour_is_an_hour() {
        assert_eq!(i64::try_from(DAY.as_micros()), Ok(24 * HOUR_MICROS));
        assert_eq!(hour_of(Timestamp::from_micros(-1)), -1);
    }
}
