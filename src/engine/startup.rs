//! Start-up: continues where the last process ended, and starts the workers.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

use crate::domain::clock::{Clock, Timestamp};
use crate::domain::ids::AccountName;
use crate::domain::state::State;
use crate::engine::account::AccountRuntime;
use crate::engine::core::{EngineCore, MAX_DETACHED_OPERATIONS};
use crate::engine::monotonic_clock::MonotonicClock;
use crate::engine::settings::EngineSettings;
use crate::engine::waiters::Waiters;
use crate::engine::{approval_expiry, event_stream, places, spans, workers};
use crate::ledger::{AccountPause, Health, Ledger, LedgerError};
use crate::providers::Accounts;

/// The number of interrupted attempts that are logged, one line each.
const MAX_LOGGED: u32 = 100;

/// See [`crate::engine::Engine::start`].
pub(super) async fn start(
    ledger: Arc<dyn Ledger>,
    registry: Arc<Accounts>,
    clock: Arc<dyn Clock>,
    settings: EngineSettings,
) -> Result<Arc<EngineCore>, LedgerError> {
    let committed = *ledger.committed().borrow();
    let last_event = ledger.events_after(committed.saturating_sub(1), 1).await?.pop().map(|event| event.time);
    let is_behind = last_event.is_some_and(|last| clock.now() < last);
    let clock = Arc::new(MonotonicClock::new(clock, last_event.unwrap_or(Timestamp::MIN)));
    let keys_trusted_from = if is_behind { clock.now() } else { Timestamp::MIN };
    if is_behind {
        warn!(
            "the machine's clock is behind the ledger's last event: no deduplication key from before this start is used again"
        );
    }
    let interrupted = ledger.mark_interrupted(clock.now()).await?;
    places::move_to_present(&*ledger, &registry, clock.now()).await?;
    let pauses = ledger.pauses().await?;
    let mut accounts = BTreeMap::new();
    for account in registry.iter() {
        let standstills = ledger.standstills(&account.destination()).await?;
        let related = places::related_logins_of(account, &registry);
        let runtime =
            AccountRuntime::new(account.clone(), related, standstills, settings.circuit, settings.reconcile_interval);
        for pause in pauses.iter().filter(|pause| pause.account == account.name) {
            runtime.set_pause(pause.clone());
        }
        if let Some(AccountPause { by, reason, .. }) = runtime.pause() {
            warn!(account = %account.name, by = by.name, reason, "the account is paused: its refunds stay PENDING");
        }
        accounts.insert(account.name.clone(), Arc::new(runtime));
    }
    let core = Arc::new(EngineCore {
        ledger,
        registry,
        accounts,
        clock,
        keys_trusted_from,
        event_stream_slots: Arc::new(Semaphore::new(settings.max_event_streams)),
        event_buffer: Arc::default(),
        detached_operations: Arc::new(Semaphore::new(MAX_DETACHED_OPERATIONS)),
        settings,
        waiters: Waiters::default(),
        tasks: TaskTracker::new(),
        draining: CancellationToken::new(),
        ledger_stopped: CancellationToken::new(),
    });
    if interrupted > 0 {
        warn!(refunds = interrupted, "attempts were on their way when the gateway last stopped: they are IN_DOUBT now");
        log_interrupted(&core, committed).await?;
    }
    let open = open_by_account(core.ledger.open_states().await?);
    for account in core.accounts.values() {
        // Where none waits, a refund that comes before the dispatcher's first query is sent at
        // once.
        let waits = open.get(account.name()).is_some_and(|open| open.pending.is_some());
        account.has_backlog.store(waits, Ordering::Release);
    }
    for (account, open) in open {
        let OpenCounts { pending, in_doubt, submitted, needs_review, awaiting_approval } = open;
        info!(%account, pending, in_doubt, submitted, needs_review, awaiting_approval, "open refunds were taken up");
    }
    // A single task forwards a ledger failure, so that waiters wake in a deterministic order (the
    // simulation depends on it). The drain does not wait for it: callers may keep waiting while the
    // ledger is writing.
    tokio::spawn(cancel_on_ledger_failure(core.ledger.health(), core.ledger_stopped.clone()));
    for account in core.accounts.values() {
        core.tasks.spawn(workers::run_dispatcher(core.clone(), account.clone()));
        core.tasks.spawn(workers::run_reconciler(core.clone(), account.clone()));
    }
    core.tasks.spawn(approval_expiry::run(core.clone()));
    core.tasks.spawn(event_stream::follow_ledger(core.clone()));
    Ok(core)
}

/// How many open refunds an account has; none where there are none.
#[derive(Default)]
struct OpenCounts {
    pending: Option<u64>,
    in_doubt: Option<u64>,
    submitted: Option<u64>,
    needs_review: Option<u64>,
    awaiting_approval: Option<u64>,
}

fn open_by_account(states: Vec<(AccountName, State, u64)>) -> BTreeMap<AccountName, OpenCounts> {
    let mut accounts: BTreeMap<AccountName, OpenCounts> = BTreeMap::new();
    for (account, state, count) in states {
        let open = accounts.entry(account).or_default();
        match state {
            State::Pending => open.pending = Some(count),
            State::InDoubt => open.in_doubt = Some(count),
            State::Submitted => open.submitted = Some(count),
            State::NeedsReview => open.needs_review = Some(count),
            State::AwaitingApproval => open.awaiting_approval = Some(count),
            // None of these is open.
            State::Dispatching | State::Succeeded | State::PartiallySucceeded | State::Failed | State::Cancelled => {}
        }
    }
    accounts
}

async fn cancel_on_ledger_failure(mut health: watch::Receiver<Health>, ledger_stopped: CancellationToken) {
    // An error means that the ledger itself is gone, which has the same consequence.
    drop(health.wait_for(|health| *health != Health::Writing).await);
    ledger_stopped.cancel();
}

/// Logs each interrupted attempt, so that the log of its refund shows the doubt. `before` is the
/// last event before they were marked. Those beyond [`MAX_LOGGED`] are found by ListRefunds.
async fn log_interrupted(core: &EngineCore, before: u64) -> Result<(), LedgerError> {
    for event in core.ledger.events_after(before, MAX_LOGGED).await? {
        let Some(refund) = core.ledger.get(&event.refund).await? else { continue };
        let state = refund.state.as_str();
        let span = spans::refund_span(core, &refund).await;
        span.in_scope(|| warn!(state, "the attempt was on its way when the gateway last stopped"));
    }
    Ok(())
}
