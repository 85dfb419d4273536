//! How refunds move on by themselves: which status they reach at which age, and whose turn is next.
//!
//! A queue, and not a look at all of them: there may be tens of thousands, and every request asks
//! whether one of them has moved.

use std::collections::BTreeSet;

use time::{Duration, OffsetDateTime};

use super::Settings;
use super::state::{Account, RefundStatus};
use super::stored_refund::Slip;

/// After how many seconds which status is reached.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Steps {
    awaiting_review: Option<u64>,
    approved: Option<u64>,
    completed: Option<u64>,
}

/// The queue, once somebody has asked for it. It follows from the rest of the state, so that two
/// states are alike whatever is in it.
#[derive(Clone, Default)]
pub(super) struct Queue(pub(super) Option<Upcoming>);

/// What will move by itself, the next one first.
#[derive(Clone)]
pub(super) struct Upcoming {
    /// What it was reckoned by.
    pub(super) by: Steps,
    /// The moment, the account, and the refund's place among those of its account.
    pub(super) moments: BTreeSet<(OffsetDateTime, String, usize)>,
}

impl Steps {
    pub(super) fn of(settings: &Settings) -> Steps {
        Steps {
            awaiting_review: settings.awaiting_review_after_seconds,
            approved: settings.approved_after_seconds,
            completed: settings.completed_after_seconds,
        }
    }

    /// An account may have an end of its own.
    pub(super) fn for_account(self, account: Option<&Account>) -> Steps {
        Steps { completed: account.and_then(|account| account.settles_after_seconds).or(self.completed), ..self }
    }

    /// When a refund moves next; never, where time itself ends before.
    pub(super) fn next(self, slip: &Slip) -> Option<OffsetDateTime> {
        let ahead = self.each().filter(|(status, _)| status.rank() > slip.status.rank());
        ahead.map(|(_, after)| after).min().and_then(|after| slip.created().checked_add(after))
    }

    /// The furthest status that a refund has reached by then.
    pub(super) fn reached(self, slip: &Slip, by: OffsetDateTime) -> Option<RefundStatus> {
        let age = by - slip.created();
        self.each().filter(|(_, after)| *after <= age).map(|(status, _)| status).max_by_key(|status| status.rank())
    }

    fn each(self) -> impl Iterator<Item = (RefundStatus, Duration)> {
        let steps = [
            (RefundStatus::AwaitingReview, self.awaiting_review),
            (RefundStatus::Approved, self.approved),
            (RefundStatus::Completed, self.completed),
        ];
        steps.into_iter().filter_map(|(status, after)| Some((status, seconds(after?))))
    }
}

impl PartialEq for Queue {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Upcoming {
    /// Notes down when a refund moves by itself next.
    pub(super) fn expect(&mut self, account: Option<&Account>, reference: &str, place: usize, slip: &Slip) {
        if let Some(at) = self.by.for_account(account).next(slip) {
            self.moments.insert((at, reference.to_owned(), place));
        }
    }

    /// The next one, where its moment has come by `now`.
    pub(super) fn pop_until(&mut self, now: OffsetDateTime) -> Option<(OffsetDateTime, String, usize)> {
        self.moments.first().filter(|(at, ..)| *at <= now)?;
        self.moments.pop_first()
    }
}

fn seconds(count: u64) -> Duration {
    Duration::seconds(i64::try_from(count).unwrap_or(i64::MAX))
}
