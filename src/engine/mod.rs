//! The engine: records refunds, sends each at most once, and finds out the outcome of those in
//! doubt.
//!
//! ```text
//! AWAITING_APPROVAL -> PENDING  enough others than who asked for it approved it
//!              -> CANCELLED     rejected by one, or cancelled
//!              -> FAILED        not approved in time
//! PENDING      -> DISPATCHING   an attempt is on disk, its first byte may leave
//!              -> CANCELLED     by the caller, nothing was processed
//!              -> FAILED        it waited too long, nothing was processed
//! DISPATCHING  -> SUCCEEDED | PARTIALLY_SUCCEEDED | FAILED | SUBMITTED   the provider said so
//!              -> PENDING       proof that nothing was processed; sent again with backoff
//!              -> IN_DOUBT      anything else, always
//! SUBMITTED    -> SUCCEEDED | PARTIALLY_SUCCEEDED | FAILED               the provider finished
//!              -> NEEDS_REVIEW  the provider has forgotten it, has another one on record, or does
//!                               not finish within 30 days
//! IN_DOUBT     -> SUCCEEDED | PARTIALLY_SUCCEEDED | FAILED | SUBMITTED   a lookup showed it
//!              -> DISPATCHING   sent again, while the retry contract makes that safe
//!              -> NEEDS_REVIEW  no lookup can show it, or none is answered for days
//! NEEDS_REVIEW -> SUCCEEDED | PARTIALLY_SUCCEEDED | FAILED | DISPATCHING a person resolved it
//!              -> SUCCEEDED | FAILED   the record under our own identifier (Debitsuccess)
//! IN_DOUBT, SUBMITTED -> SUCCEEDED | PARTIALLY_SUCCEEDED | FAILED        a person took over
//! start-up     : DISPATCHING -> IN_DOUBT
//! ```
//!
//! ```text
//! mod (the handle)
//!  ├─ create  cancel  approve  resolve  reassign  probe     one caller operation each
//!  ├─ startup ─ workers                            what is due: dispatch, expiry, reconciling
//!  │             └─ reconcile                      one refund in question: lookup or resend
//!  ├─ approval_expiry                              what was not approved in time
//!  ├─ second_person                                who may not decide about a refund
//!  ├─ visibility                                   what a caller may know of
//!  ├─ attempt  lookup                              the calls to the provider
//!  ├─ event_stream                                 the history for readers
//!  └─ core                                         state, recording, retry rules
//!      └─ account (circuit_breaker, recent_lookups), decide, event_buffer, waiters,
//!         monotonic_clock
//! ```
//!
//! A module imports only modules below it. [`decide`] is pure: it says what follows from an answer.
//! No work lives in a caller's future, so a caller that leaves interrupts nothing.

mod account;
mod approval_expiry;
mod approve;
mod attempt;
mod cancel;
pub mod circuit_breaker;
mod commands;
mod core;
mod create;
pub mod decide;
mod error;
mod event_buffer;
mod event_stream;
mod lookup;
mod monotonic_clock;
mod outcome_log;
pub mod pause;
pub mod places;
pub mod probe;
mod probe_queue;
mod reassign;
mod recent_lookups;
mod reconcile;
mod resolve;
mod second_person;
mod settings;
mod spans;
mod startup;
mod visibility;
mod waiters;
mod workers;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, timeout};
use tracing::warn;

use crate::domain::authority::Authority;
use crate::domain::clock::{Clock, Timestamp};
use crate::domain::history::EventRecord;
use crate::domain::ids::{AccountName, RefundId};
use crate::domain::probe::ProbeReport;
use crate::domain::refund::Refund;
use crate::domain::state::State;
use crate::ledger::{Ledger, LedgerError, ListQuery, ListedRefund};
use crate::providers::Accounts;

use self::core::EngineCore;

pub use self::account::AccountStatus;
pub use self::circuit_breaker::AccountHealth;
pub use self::commands::{ApprovalCommand, CreateCommand, CreateResult, ReassignCommand, ResolveCommand};
pub use self::core::WaitingFor;
pub use self::error::EngineError;
pub use self::event_buffer::SharedEvent;
pub use self::event_stream::EventStream;
pub use self::settings::EngineSettings;

/// The engine. Cheap to clone; all clones share one state.
#[derive(Clone)]
pub struct Engine(Arc<EngineCore>);

impl Engine {
    /// Continues where the last process ended: attempts that were on their way become IN_DOUBT, and
    /// waiting refunds are sent.
    ///
    /// # Errors
    /// [`LedgerError`] if the ledger cannot be read or written.
    pub async fn start(
        ledger: Arc<dyn Ledger>,
        accounts: Arc<Accounts>,
        clock: Arc<dyn Clock>,
        settings: EngineSettings,
    ) -> Result<Engine, LedgerError> {
        Ok(Engine(startup::start(ledger, accounts, clock, settings).await?))
    }

    /// Records a refund and sends it, or finds the one that has this id; then waits for an outcome.
    ///
    /// # Errors
    /// Nothing was recorded and nothing sent, except with [`EngineError::Panicked`].
    pub async fn create(&self, command: CreateCommand) -> Result<CreateResult, EngineError> {
        self.create_and_wait(command, || true).await
    }

    /// As [`Engine::create`]. Asks `may_wait` when the refund is on disk and nothing is left but to
    /// wait for its outcome; returns without waiting if that says no.
    ///
    /// # Errors
    /// As [`Engine::create`].
    pub async fn create_and_wait(
        &self,
        command: CreateCommand,
        may_wait: impl FnOnce() -> bool + Send,
    ) -> Result<CreateResult, EngineError> {
        create::create(&self.0, command, may_wait).await
    }

    /// What [`Engine::create`] would record. Records and sends nothing.
    ///
    /// # Errors
    /// As [`Engine::create`].
    pub async fn dry_run(&self, command: CreateCommand) -> Result<CreateResult, EngineError> {
        create::dry_run(&self.0, command).await
    }

    /// One refund.
    ///
    /// # Errors
    /// [`LedgerError::NotFound`] among others of the ledger.
    pub async fn get(&self, id: &RefundId) -> Result<Refund, EngineError> {
        self.0.get(id).await
    }

    /// One refund, for a caller for whom one that it may not know of does not exist.
    ///
    /// # Errors
    /// As [`Engine::get`].
    pub async fn get_for(&self, by: &Authority, id: &RefundId) -> Result<Refund, EngineError> {
        self.0.get_for(by, id).await
    }

    /// A page of refunds, newest first.
    ///
    /// # Errors
    /// Those of the ledger.
    pub async fn list(&self, query: ListQuery) -> Result<Vec<ListedRefund>, EngineError> {
        Ok(self.0.ledger.list(query).await?)
    }

    /// Waits until the refund has passed `after_revision` or is terminal, at most until `until`.
    ///
    /// # Errors
    /// [`LedgerError::NotFound`] among others of the ledger.
    pub async fn wait(&self, id: &RefundId, after_revision: u64, until: Instant) -> Result<Refund, EngineError> {
        let has_passed = move |refund: &Refund| refund.revision > after_revision || refund.state.is_terminal();
        let wait = self.0.waiters.until(id, until, has_passed, || self.0.get(id));
        tokio::select! {
            biased;
            waited = wait => waited,
            // A waiting caller must not delay the shutdown.
            () = self.0.draining.cancelled() => self.0.get(id).await,
            () = self.0.ledger_stopped.cancelled() => self.0.get(id).await,
        }
    }

    /// Cancels a refund that was not processed. Repeating it changes nothing.
    ///
    /// # Errors
    /// [`EngineError::NotCancellable`], [`EngineError::EtagMismatch`], those of the ledger.
    pub async fn cancel(&self, id: &RefundId, etag: Option<&str>, by: Authority) -> Result<Refund, EngineError> {
        // Detached: waiters are notified of the cancellation even if the caller leaves.
        let cancel = cancel::cancel(self.0.clone(), id.clone(), etag.map(str::to_owned), by);
        self.0.run_detached(cancel).await
    }

    /// Records a second person's decision on a refund that waits for an approval. The same caller's
    /// repeat returns the refund as it is, whatever the etag.
    ///
    /// # Errors
    /// [`EngineError::NotAwaitingApproval`], [`EngineError::EtagMismatch`],
    /// [`EngineError::OwnRefund`], [`EngineError::CreatorRevoked`], those of the ledger.
    pub async fn decide_approval(&self, command: ApprovalCommand) -> Result<Refund, EngineError> {
        self.refuse_while_draining()?;
        self.0.run_detached(approve::decide(self.0.clone(), command)).await
    }

    /// Looks a refund up at its provider now, and records what that shows. Where a lookup of it has
    /// just ended ([`EngineSettings::reconcile_interval`]), returns the refund as it is.
    ///
    /// # Errors
    /// [`EngineError::NotInDoubt`] if nothing about the refund is open at the provider,
    /// [`EngineError::AccountChanged`], those of the ledger.
    pub async fn reconcile(&self, id: &RefundId, by: Authority) -> Result<Refund, EngineError> {
        self.refuse_while_draining()?;
        self.0.run_detached(reconcile::reconcile(self.0.clone(), id.clone(), by)).await
    }

    /// Records an operator's decision on a refund whose outcome the gateway cannot find out.
    ///
    /// With [`crate::domain::event::Resolution::SendAgain`] it returns once the attempt is on disk
    /// and on its way.
    ///
    /// # Errors
    /// [`EngineError::NotInReview`], [`EngineError::EtagMismatch`], [`EngineError::Invalid`],
    /// [`EngineError::AccountChanged`], [`EngineError::OwnRefund`], those of the ledger.
    pub async fn resolve(&self, command: ResolveCommand) -> Result<Refund, EngineError> {
        self.refuse_while_draining()?;
        self.0.run_detached(resolve::resolve(self.0.clone(), command)).await
    }

    /// Continues a refund, whose account is gone or has changed, at a configured account.
    ///
    /// # Errors
    /// [`EngineError::NotReassignable`], [`EngineError::EtagMismatch`],
    /// [`EngineError::AccountNotFound`], [`EngineError::AccountMismatch`],
    /// [`EngineError::Invalid`], [`EngineError::OwnRefund`], and those of the ledger: another
    /// refund may hold the target there, or be similar.
    pub async fn reassign(&self, command: ReassignCommand) -> Result<Refund, EngineError> {
        self.refuse_while_draining()?;
        self.0.run_detached(reassign::reassign(self.0.clone(), command)).await
    }

    /// Keeps an account from sending until [`Engine::resume`], also after a restart. Lookups go on.
    /// Changes nothing if it is paused already.
    ///
    /// # Errors
    /// [`EngineError::AccountNotFound`], those of the ledger.
    pub async fn pause(&self, account: AccountName, reason: String, by: Authority) -> Result<(), EngineError> {
        self.0.run_detached(pause::pause(self.0.clone(), account, reason, by)).await
    }

    /// Lets a paused account go on. Changes nothing if it is not paused.
    ///
    /// # Errors
    /// As [`Engine::pause`].
    pub async fn resume(&self, account: AccountName, by: Authority) -> Result<(), EngineError> {
        self.0.run_detached(pause::resume(self.0.clone(), account, by)).await
    }

    /// Asks the account's provider whether it is reached, accepts the login and is the service that
    /// is configured. Moves no money.
    ///
    /// # Errors
    /// [`EngineError::AccountNotFound`], [`EngineError::Draining`]
    pub async fn probe(&self, by: &Authority, account: &AccountName) -> Result<ProbeReport, EngineError> {
        probe::probe(&self.0, by, account).await
    }

    /// What keeps a refund from being processed; none if nothing does.
    pub fn waiting_for(&self, refund: &Refund) -> Option<WaitingFor> {
        self.0.waiting_for(refund)
    }

    /// How many refunds wait for their account, by its name: it is not configured, or has changed.
    ///
    /// # Errors
    /// Those of the ledger.
    pub async fn waiting_for_account(&self) -> Result<BTreeMap<AccountName, u64>, LedgerError> {
        let mut waiting = BTreeMap::new();
        for open in self.0.ledger.open_refunds().await? {
            if !places::is_configured(&self.0.registry, &open) {
                let count: &mut u64 = waiting.entry(open.at.account).or_default();
                *count = count.saturating_add(open.count);
            }
        }
        Ok(waiting)
    }

    /// The engine's own time: never behind the ledger's.
    pub fn now(&self) -> Timestamp {
        self.0.clock.now()
    }

    /// How far the ledger's times are ahead of the machine's clock.
    pub fn clock_ahead(&self) -> Duration {
        self.0.clock.ahead()
    }

    /// The history of one refund after `revision`, oldest first.
    ///
    /// # Errors
    /// [`LedgerError::NotFound`] among others of the ledger.
    pub async fn events_of(
        &self,
        id: &RefundId,
        after_revision: u64,
        limit: u32,
    ) -> Result<Vec<EventRecord>, EngineError> {
        self.0.get(id).await?;
        Ok(self.0.ledger.events_of(id, after_revision, limit).await?)
    }

    /// Streams the ledger's events after `after_sequence`: past events, then new ones, without a
    /// gap. Ends with [`EngineError::Draining`].
    ///
    /// # Errors
    /// [`EngineError::TooManyEventStreams`], [`EngineError::BeyondLastEvent`]
    pub fn stream_events(&self, after_sequence: u64) -> Result<EventStream, EngineError> {
        EventStream::open(&self.0, after_sequence)
    }

    /// The number of event streams that may be open at the same time.
    pub fn max_event_streams(&self) -> usize {
        self.0.settings.max_event_streams
    }

    /// The number of open event streams.
    pub fn event_stream_count(&self) -> usize {
        self.0.settings.max_event_streams.saturating_sub(self.0.event_stream_slots.available_permits())
    }

    /// All accounts with their health.
    pub fn accounts(&self) -> Vec<AccountStatus> {
        self.0.accounts.values().map(|account| account.status(self.now())).collect()
    }

    /// How many refunds of each account are PENDING. None: none.
    ///
    /// # Errors
    /// Those of the ledger.
    pub async fn pending_counts(&self) -> Result<BTreeMap<AccountName, u64>, EngineError> {
        let counts = self.0.ledger.open_states().await?.into_iter();
        let pending = counts.filter(|(_, state, _)| *state == State::Pending);
        Ok(pending.map(|(account, _, count)| (account, count)).collect())
    }

    /// The state of each account's circuit breaker, one of
    /// [`crate::telemetry::metrics::BREAKER_STATES`].
    pub fn breaker_states(&self) -> Vec<(AccountName, &'static str)> {
        self.0.accounts.values().map(|account| (account.name().clone(), account.breaker_state())).collect()
    }

    /// An account logs in with a new secret from now on. If the previous one was refused, the
    /// account is probed immediately.
    pub fn credentials_changed(&self, account: &AccountName) {
        if let Some(account) = self.0.accounts.get(account) {
            account.credentials_changed();
        }
    }

    /// Whether the account's retry contract makes a second attempt of a refund safe now. False for
    /// accounts that are no longer configured, and while an interrupted request may be on its way.
    pub fn resend_safe(&self, refund: &Refund) -> bool {
        self.0.account_of(refund).is_ok_and(|account| self.0.may_resend(account, refund))
    }

    /// Accepts nothing new, ends the event streams, and waits for what is on the wire, at most for
    /// `limit`.
    ///
    /// What is still on its way then stays DISPATCHING on disk; the next start puts it IN_DOUBT.
    pub async fn drain(&self, limit: Duration) {
        self.0.draining.cancel();
        self.0.tasks.close();
        if timeout(limit, self.0.tasks.wait()).await.is_err() {
            warn!(
                tasks = self.0.tasks.len(),
                "work is still on its way at the end of the drain; the next start shows its doubt"
            );
        }
    }

    fn refuse_while_draining(&self) -> Result<(), EngineError> {
        if self.0.draining.is_cancelled() { Err(EngineError::Draining) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests;
