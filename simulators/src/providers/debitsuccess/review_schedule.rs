//! The automatic review of refunds: which status is reached at which age, and which move is next.
//!
//! Every request asks whether a refund has moved, and there may be tens of thousands of refunds: so
//! the moves are kept in order of time.

use std::collections::BTreeSet;

use time::{Duration, OffsetDateTime};

use super::accounts::{Account, Refund, RefundStatus};
use super::settings::Settings;

/// The age in seconds at which each status is reached.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Steps {
    awaiting_review: Option<u64>,
    approved: Option<u64>,
    completed: Option<u64>,
}

/// The schedule, computed when it is first needed. Derived from the rest of the state, so that two
/// states are equal whatever it holds.
#[derive(Clone, Default)]
pub(super) struct ReviewSchedule(pub(super) Option<Upcoming>);

/// The moves that will happen without a request, the next one first.
#[derive(Clone)]
pub(super) struct Upcoming {
    /// The steps that it was computed with.
    pub(super) by: Steps,
    /// The time, the account, and the refund's index among those of its account.
    pub(super) moves: BTreeSet<(OffsetDateTime, String, usize)>,
}

impl Steps {
    pub(super) fn of(settings: &Settings) -> Steps {
        Steps {
            awaiting_review: settings.awaiting_review_after_seconds,
            approved: settings.approved_after_seconds,
            completed: settings.completed_after_seconds,
        }
    }

    /// The steps of an account, which may have its own time of completion.
    pub(super) fn for_account(self, account: Option<&Account>) -> Steps {
        Steps { completed: account.and_then(|account| account.settles_after_seconds).or(self.completed), ..self }
    }

    /// When a refund moves next. None also if that time cannot be represented.
    pub(super) fn next(self, refund: &Refund) -> Option<OffsetDateTime> {
        let ahead = self.each().filter(|(status, _)| status.rank() > refund.status.rank());
        ahead.map(|(_, after)| after).min().and_then(|after| refund.created.checked_add(after))
    }

    /// The last status that a refund has reached by then.
    pub(super) fn reached(self, refund: &Refund, by: OffsetDateTime) -> Option<RefundStatus> {
        let age = by - refund.created;
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

impl PartialEq for ReviewSchedule {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Upcoming {
    /// Schedules the next move of a refund.
    pub(super) fn schedule(&mut self, account: Option<&Account>, reference: &str, index: usize, refund: &Refund) {
        if let Some(at) = self.by.for_account(account).next(refund) {
            self.moves.insert((at, reference.to_owned(), index));
        }
    }

    /// Takes the next move, if it is due by `now`.
    pub(super) fn pop_until(&mut self, now: OffsetDateTime) -> Option<(OffsetDateTime, String, usize)> {
        self.moves.first().filter(|(at, ..)| *at <= now)?;
        self.moves.pop_first()
    }
}

fn seconds(count: u64) -> Duration {
    Duration::seconds(i64::try_from(count).unwrap_or(i64::MAX))
}
