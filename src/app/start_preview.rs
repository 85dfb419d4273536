//! Previews what a start would do with the refunds in the ledger, without starting anything.

use std::sync::Arc;

use crate::config::Settings;
use crate::domain::clock::{Clock, SystemClock};
use crate::domain::ids::RefundId;
use crate::engine::places::{self, StartEffect};
use crate::ledger::sqlite::{OpenError, Survey};
use crate::ledger::{LedgerError, OpenRefunds};
use crate::telemetry::metrics::Metrics;

use super::StartError;

/// Refunds of one account and place whose account has changed.
#[derive(Debug)]
pub struct DisplacedRefunds {
    /// Their recorded account and place, and their number.
    pub open: OpenRefunds,
    /// What a start would do with them.
    pub start_effect: StartEffect,
    /// Refunds that cannot move, each with the conflict that prevents it.
    pub left: Vec<(RefundId, LedgerError)>,
}

/// Why there is no preview.
#[derive(Debug, thiserror::Error)]
pub enum PreviewError {
    /// An account cannot be used as configured.
    #[error(transparent)]
    Configuration(#[from] StartError),
    /// The ledger cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The ledger cannot be read.
    #[error("could not read the ledger: {0}")]
    Read(#[from] LedgerError),
}

/// Refunds per read of the ledger.
const PAGE_SIZE: u32 = 1_000;

impl DisplacedRefunds {
    /// Number of refunds that would wait for their account.
    pub fn waiting(&self) -> u64 {
        match self.start_effect {
            StartEffect::Moves => u64::try_from(self.left.len()).unwrap_or(u64::MAX),
            StartEffect::Waits(_) => self.open.count,
        }
    }
}

/// Lists the refunds in the configured ledger whose account is gone or has changed. Changes
/// nothing: a gateway may be running on the ledger.
///
/// # Errors
/// [`PreviewError`]
pub fn preview_start(settings: &Settings) -> Result<Vec<DisplacedRefunds>, PreviewError> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let accounts = super::connect(settings, &clock, &Metrics::off())?;
    let survey = Survey::open(&settings.ledger_path)?;
    let mut all = Vec::new();
    for open in survey.open_refunds()? {
        let Some(start_effect) = places::start_effect(&accounts, &open) else { continue };
        let mut left = Vec::new();
        if let (StartEffect::Moves, Some(account)) = (&start_effect, accounts.get(&open.at.account)) {
            let related = places::related_logins_of(account, &accounts);
            let mut after = 0;
            loop {
                let page = survey.open_at(&open.at, after, PAGE_SIZE)?;
                let Some(last) = page.last() else { break };
                after = last.ordinal;
                for listed in page {
                    let reassign = places::reassign_to_present_place(account, &related, &listed.refund, clock.now());
                    match survey.may_be_reassigned(&listed, &reassign) {
                        Ok(()) => {}
                        Err(problem) if problem.is_conflict() => left.push((reassign.id, problem)),
                        Err(error) => return Err(error.into()),
                    }
                }
            }
        }
        all.push(DisplacedRefunds { open, start_effect, left });
    }
    Ok(all)
}
