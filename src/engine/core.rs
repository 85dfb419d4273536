//! The engine's state, and what every operation needs: reading a refund, recording events, finding
//! its account, and the retry rules that apply to it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{Instrument as _, debug_span};

use crate::domain::authority::{Actor, Authority};
use crate::domain::clock::{Clock as _, Timestamp};
use crate::domain::event::Event;
use crate::domain::ids::{AccountName, RefundId};
use crate::domain::refund::Refund;
use crate::domain::state::State;
use crate::engine::account::AccountRuntime;
use crate::engine::circuit_breaker::AccountHealth;
use crate::engine::decide::RetryRules;
use crate::engine::error::EngineError;
use crate::engine::event_buffer::EventBuffer;
use crate::engine::monotonic_clock::MonotonicClock;
use crate::engine::settings::EngineSettings;
use crate::engine::waiters::Waiters;
use crate::ledger::{Ledger, LedgerError, RecordEvents, Recorded, Reschedule};
use crate::providers::Accounts;

/// What all clones of the engine and all its tasks share.
pub(crate) struct EngineCore {
    pub(super) ledger: Arc<dyn Ledger>,
    /// The configured accounts.
    pub(super) registry: Arc<Accounts>,
    /// Their run-time state.
    pub(super) accounts: BTreeMap<AccountName, Arc<AccountRuntime>>,
    pub(super) clock: Arc<MonotonicClock>,
    /// The age of a deduplication key that was first used before this time is not known.
    pub(super) keys_trusted_from: Timestamp,
    pub(super) settings: EngineSettings,
    pub(super) waiters: Waiters,
    /// One permit for each event stream that may be open.
    pub(super) event_stream_slots: Arc<Semaphore>,
    pub(super) event_buffer: Arc<EventBuffer>,
    /// One permit for each operation that runs on although its caller may have left.
    pub(super) detached_operations: Arc<Semaphore>,
    /// What the drain waits for.
    pub(super) tasks: TaskTracker,
    pub(super) draining: CancellationToken,
    /// Cancelled when the ledger stops writing: nothing changes from then on until the next start.
    pub(super) ledger_stopped: CancellationToken,
}

/// What keeps a refund from being processed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WaitingFor {
    /// A free slot, or the account's rate limiter.
    Turn,
    /// The time after an attempt that was provably not processed.
    Backoff,
    /// The provider gives no usable answer, and the account is suspended.
    Provider,
    /// Credentials that the provider accepts.
    Credentials,
    /// The account that it was recorded for: gone, or at another place now.
    Account,
    /// A second person.
    Approval,
    /// An operator who resumes the account.
    Resume,
}

impl WaitingFor {
    /// Its name in the log.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            WaitingFor::Turn => "turn",
            WaitingFor::Backoff => "backoff",
            WaitingFor::Provider => "provider",
            WaitingFor::Credentials => "credentials",
            WaitingFor::Account => "account",
            WaitingFor::Approval => "approval",
            WaitingFor::Resume => "resume",
        }
    }
}

/// The pause after an error of the ledger, before the work is tried again.
pub(super) const LEDGER_ERROR_BACKOFF: Duration = Duration::from_secs(1);

/// Detached operations at the same time. Their callers may have left, so the API's limit on calls
/// does not bound them.
pub(super) const MAX_DETACHED_OPERATIONS: usize = 1_024;

impl EngineCore {
    /// Reads a refund.
    ///
    /// # Errors
    /// [`LedgerError::NotFound`] among others of the ledger.
    pub(super) async fn get(&self, id: &RefundId) -> Result<Refund, EngineError> {
        Ok(self.ledger.get(id).await?.ok_or_else(|| LedgerError::NotFound(id.clone()))?)
    }

    /// Reads a refund for a caller, for whom one that it may not know of does not exist.
    ///
    /// # Errors
    /// As [`EngineCore::get`].
    pub(super) async fn get_for(&self, by: &Authority, id: &RefundId) -> Result<Refund, EngineError> {
        let refund = self.get(id).await?;
        if by.sees_refund(&refund) { Ok(refund) } else { Err(LedgerError::NotFound(id.clone()).into()) }
    }

    /// A configured account, for a caller for whom one that it may not use does not exist.
    ///
    /// # Errors
    /// [`EngineError::AccountNotFound`]
    pub(super) fn account_for(&self, by: &Authority, name: &AccountName) -> Result<&Arc<AccountRuntime>, EngineError> {
        let account = self.accounts.get(name).filter(|_| by.sees(name));
        account.ok_or_else(|| EngineError::AccountNotFound(name.clone()))
    }

    /// Records events and notifies the waiters. Waits while the ledger's queue is full: what has
    /// happened must not be lost.
    ///
    /// # Errors
    /// Those of the ledger, except [`LedgerError::Overloaded`].
    pub(super) async fn record(
        &self,
        refund: &Refund,
        events: Vec<Event>,
        next_check: Option<Timestamp>,
        actor: &Actor,
    ) -> Result<Recorded<Refund>, LedgerError> {
        let mut pause = Duration::from_millis(1);
        loop {
            let record = RecordEvents {
                id: refund.id().clone(),
                revision: refund.revision,
                events: events.clone(),
                next_check,
                actor: actor.clone(),
                now: self.clock.now(),
            };
            match self.ledger.record(record).instrument(debug_span!("commit", step = "record")).await {
                Err(LedgerError::Overloaded) => {
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(Duration::from_millis(100));
                }
                Ok(recorded) => {
                    self.observe_doubt_duration(refund, &recorded.outcome);
                    self.waiters.notify(&recorded.outcome);
                    return Ok(recorded);
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Sets when a refund is looked up next, after a lookup that showed nothing new.
    ///
    /// # Errors
    /// Those of the ledger, except [`LedgerError::Overloaded`].
    pub(super) async fn reschedule(
        &self,
        refund: &Refund,
        next_check: Option<Timestamp>,
        unheard: bool,
    ) -> Result<Refund, LedgerError> {
        let reschedule = Reschedule { id: refund.id().clone(), revision: refund.revision, next_check, unheard };
        loop {
            match self.ledger.reschedule(reschedule.clone()).await {
                Err(LedgerError::Overloaded) => tokio::time::sleep(Duration::from_millis(10)).await,
                other => return other,
            }
        }
    }

    /// Measures how long the outcome of a refund was unknown once it is known: since its doubt
    /// began, or since it was first sent if it was sent again. Also counts corrections.
    fn observe_doubt_duration(&self, before: &Refund, after: &Refund) {
        let Some(account) = self.accounts.get(&before.account) else { return };
        if after.corrected_time != before.corrected_time {
            account.configured.metrics.record_correction();
        }
        let is_open = matches!(after.state, State::Pending | State::Dispatching | State::InDoubt | State::NeedsReview);
        let begin = before.doubt.as_ref().map(|doubt| doubt.since).or(before.dispatch_time);
        if before.unanswered_attempts > 0
            && !is_open
            && let Some(begin) = begin
        {
            account.configured.metrics.record_doubt(after.state, after.update_time.saturating_duration_since(begin));
        }
    }

    /// The account that a refund is sent from and looked up at.
    ///
    /// # Errors
    /// [`EngineError::AccountChanged`] if that account is gone or at another place, where nothing
    /// is known of the refund.
    pub(super) fn account_of(&self, refund: &Refund) -> Result<&Arc<AccountRuntime>, EngineError> {
        let gone = || EngineError::AccountChanged { differing: vec!["account"] };
        let account = self.accounts.get(&refund.account).ok_or_else(gone)?;
        let differing = account.configured.differing_fields(refund);
        if differing.is_empty() { Ok(account) } else { Err(EngineError::AccountChanged { differing }) }
    }

    /// See [`RetryRules::may_resend`].
    pub(super) fn may_resend(&self, account: &AccountRuntime, refund: &Refund) -> bool {
        self.rules(account, refund).may_resend(refund, self.clock.now())
    }

    /// The rules for decisions on a refund of this account.
    pub(super) fn rules<'a>(&'a self, account: &'a AccountRuntime, refund: &Refund) -> RetryRules<'a> {
        let EngineSettings { schedule, backoff, rejection_follow_up: follow_up, .. } = &self.settings;
        let age_is_known = refund.dispatch_time.is_some_and(|first| first >= self.keys_trusted_from);
        RetryRules {
            contract: &account.configured.contract,
            schedule,
            backoff: *backoff,
            key_is_bound: age_is_known && refund.credential == account.configured.refunds.credential(refund.id()),
            follow_up: *follow_up,
            total_timeout: account.configured.total_timeout,
            jumpless_now: self.clock.jumpless_now(),
        }
    }

    /// What keeps a refund from being processed; none if nothing does.
    pub(super) fn waiting_for(&self, refund: &Refund) -> Option<WaitingFor> {
        if refund.state == State::AwaitingApproval {
            return Some(WaitingFor::Approval);
        }
        if refund.state != State::Pending && !refund.state.is_in_question() {
            return None;
        }
        let Ok(account) = self.account_of(refund) else { return Some(WaitingFor::Account) };
        let suspended = match account.health() {
            AccountHealth::Serving => None,
            AccountHealth::Suspended => Some(WaitingFor::Provider),
            AccountHealth::CredentialsRefused => Some(WaitingFor::Credentials),
        };
        match refund.state {
            State::Pending if account.is_paused() => Some(WaitingFor::Resume),
            State::Pending if suspended.is_some() => suspended,
            State::Pending if refund.not_before.is_some_and(|at| at > self.clock.now()) => Some(WaitingFor::Backoff),
            State::Pending => Some(WaitingFor::Turn),
            // Lookups continue while an account is suspended, so the refund waits only if its last
            // one had no answer.
            State::InDoubt | State::Submitted if refund.unheard => suspended,
            _ => None,
        }
    }

    /// Runs work to its end even if the caller leaves. The drain waits for it.
    pub(super) fn spawn<T: Send + 'static>(&self, work: impl Future<Output = T> + Send + 'static) -> JoinHandle<T> {
        self.tasks.spawn(work.in_current_span())
    }

    /// As [`EngineCore::spawn`], for an operation that a caller waits for; at most
    /// [`MAX_DETACHED_OPERATIONS`] run at the same time.
    ///
    /// # Errors
    /// [`EngineError::TooManyOperations`], and those of the operation.
    pub(super) async fn run_detached<T: Send + 'static>(
        &self,
        operation: impl Future<Output = Result<T, EngineError>> + Send + 'static,
    ) -> Result<T, EngineError> {
        let permit =
            self.detached_operations.clone().try_acquire_owned().map_err(|_| EngineError::TooManyOperations)?;
        let work = async move {
            let _permit = permit;
            operation.await
        };
        self.spawn(work).await.map_err(|_| EngineError::Panicked)?
    }
}
