//! What the callers know: every call, and its result where there was one.

use std::collections::BTreeMap;

use recoup::domain::history::EventRecord;
use recoup::domain::ids::AccountName;
use recoup::domain::refund::{Intent, Refund};
use recoup::domain::state::State;
use recoup::engine::EngineError;

/// What was seen of the gateway over all its processes.
#[derive(Default)]
pub(crate) struct History {
    pub(crate) calls: Vec<CallRecord>,
    /// The event stream, as its one reader has received it.
    pub(crate) streamed: Vec<EventRecord>,
    /// What the ledger has acknowledged to the engine.
    pub(crate) recorded: Vec<Recorded>,
    /// Refunds that the operator had sent again, once for each time.
    pub(crate) resends_by_operator: Vec<String>,
    /// The pauses that the operator knew of: the account, the last event before the operator knew,
    /// and the last one before the operator asked to resume it.
    pub(crate) pauses: Vec<(AccountName, u64, Option<u64>)>,
    /// How many attempts of a refund were recorded and then not sent.
    pub(crate) abandoned_attempts: BTreeMap<String, usize>,
    /// Since when, in the world's time, every answered lookup of a refund has shown no record.
    pub(crate) absent_since: BTreeMap<String, i64>,
    /// Since when, in the world's time, a refund has waited to be sent.
    pub(crate) pending_since: BTreeMap<String, i64>,
    /// When, in the world's time, a refund was recorded.
    pub(crate) created_at: BTreeMap<String, i64>,
}

/// A state of a refund that is on the disk.
pub(crate) struct Recorded {
    pub(crate) id: String,
    pub(crate) revision: u64,
    pub(crate) state: State,
}

/// One call.
pub(crate) struct CallRecord {
    pub(crate) what: &'static str,
    pub(crate) id: String,
    /// The content of a create request.
    pub(crate) requested: Option<Intent>,
    pub(crate) result: CallResult,
}

/// The result of a call, as its caller knows it.
pub(crate) enum CallResult {
    /// The caller gave up, or the process ended.
    Unknown,
    Refund(Box<Refund>),
    Error(EngineError),
}

impl From<Result<Refund, EngineError>> for CallResult {
    fn from(result: Result<Refund, EngineError>) -> Self {
        match result {
            Ok(refund) => CallResult::Refund(Box::new(refund)),
            Err(error) => CallResult::Error(error),
        }
    }
}

impl History {
    pub(crate) fn begin(&mut self, what: &'static str, id: &str, requested: Option<Intent>) -> usize {
        self.calls.push(CallRecord { what, id: id.to_owned(), requested, result: CallResult::Unknown });
        self.calls.len() - 1
    }

    pub(crate) fn end(&mut self, call: usize, result: CallResult) {
        self.calls[call].result = result;
    }

    /// The operator knows that the account is paused.
    pub(crate) fn pause_known(&mut self, account: AccountName, last_event: u64) {
        if !self.pauses.iter().any(|(paused, _, end)| *paused == account && end.is_none()) {
            self.pauses.push((account, last_event, None));
        }
    }

    /// The operator asks to resume the account.
    pub(crate) fn resume_asked(&mut self, account: &AccountName, last_event: u64) {
        for (paused, _, end) in &mut self.pauses {
            if paused == account && end.is_none() {
                *end = Some(last_event);
            }
        }
    }

    pub(crate) fn record(&mut self, refund: &Refund) {
        let (id, revision, state) = (refund.id().as_str().to_owned(), refund.revision, refund.state);
        self.recorded.push(Recorded { id, revision, state });
    }
}
