//! What the callers know: every call, and what they were told, if they were told.

use std::collections::BTreeMap;

use recoup::domain::history::EventRecord;
use recoup::domain::refund::{Intent, Refund};
use recoup::domain::state::State;
use recoup::engine::EngineError;

/// What has been told to anybody, over all processes.
#[derive(Default)]
pub(crate) struct History {
    pub(crate) calls: Vec<Called>,
    /// The event feed as its one reader has it.
    pub(crate) feed: Vec<EventRecord>,
    /// What the engine was told is on disk: refund, revision, state.
    pub(crate) recorded: Vec<(String, u64, State)>,
    /// Refunds that a person had sent again, once for each time.
    pub(crate) sent_by_a_person: Vec<String>,
    /// Since when, by the world's time, all lookups of a refund that were answered have shown no
    /// record.
    pub(crate) absent_since: BTreeMap<String, i64>,
    /// Since when a refund has waited to be sent, by the world's time.
    pub(crate) pending_since: BTreeMap<String, i64>,
}

/// One call.
pub(crate) struct Called {
    pub(crate) what: &'static str,
    pub(crate) id: String,
    /// What a create request asked for.
    pub(crate) asked: Option<Intent>,
    pub(crate) told: Told,
}

/// What became of a call.
pub(crate) enum Told {
    /// The caller left, or the process ended.
    Nothing,
    /// This.
    Refund(Box<Refund>),
    Error(EngineError),
}

impl History {
    pub(crate) fn begin(&mut self, what: &'static str, id: &str, asked: Option<Intent>) -> usize {
        self.calls.push(Called { what, id: id.to_owned(), asked, told: Told::Nothing });
        self.calls.len() - 1
    }

    pub(crate) fn end(&mut self, call: usize, told: Told) {
        self.calls[call].told = told;
    }

    pub(crate) fn saw(&mut self, refund: &Refund) {
        self.recorded.push((refund.id().as_str().to_owned(), refund.revision, refund.state));
    }
}
