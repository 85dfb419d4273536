//! Every call with its answer, recorded outside of the gateway.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use recoup::proto::v1 as proto;
use recoup::proto::v1::refund::State;
use recoup::proto::v1::resolve_refund_request::Resolution;
use tonic::Status;
use tonic_types::StatusExt;

/// All calls of one run, in the order in which they ended.
pub(crate) struct History {
    began: Instant,
    entries: Mutex<Vec<Entry>>,
}

/// One call and its answer.
#[derive(Debug, Clone)]
#[expect(dead_code, reason = "the caller is for the reader of a kept history")]
pub(crate) struct Entry {
    pub(crate) began: Duration,
    pub(crate) ended: Duration,
    pub(crate) caller: usize,
    pub(crate) call: Call,
    pub(crate) answer: Answer,
}

/// A call, and the refund that it is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Call {
    Create(String),
    /// The same id with other content, after the first was acknowledged.
    Change(String),
    /// Another id for the target of a refund.
    Rival {
        id: String,
        of: String,
    },
    Validate(String),
    Get(String),
    List,
    Wait(String),
    Cancel(String),
    Reconcile(String),
    Approve(String),
    Reject(String),
    /// The operator resolves a refund as the books say.
    Resolve {
        id: String,
        resolution: Resolution,
    },
}

/// The answer to a call.
#[derive(Debug, Clone)]
pub(crate) enum Answer {
    Ok(Vec<Seen>),
    /// An error with an ErrorInfo: nothing was recorded.
    Refused {
        reason: String,
        /// The refund in the way, where there is one.
        conflicting: Option<String>,
    },
    /// Any other error: the refund may have been recorded.
    #[expect(dead_code, reason = "the error is for the reader of a kept history")]
    Unknown(String),
}

/// A refund as a caller saw it.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub(crate) id: String,
    pub(crate) revision: i64,
    pub(crate) state: State,
    pub(crate) replayed: bool,
    pub(crate) has_doubt: bool,
    pub(crate) created: Option<prost_types::Timestamp>,
}

impl History {
    #[expect(clippy::disallowed_methods, reason = "the order of calls to another process is one of real time")]
    pub(crate) fn begin() -> History {
        History { began: Instant::now(), entries: Mutex::default() }
    }

    /// Real time since the beginning.
    pub(crate) fn now(&self) -> Duration {
        self.began.elapsed()
    }

    pub(crate) fn write(&self, began: Duration, caller: usize, call: Call, answer: Answer) {
        let mut entries = self.entries.lock().unwrap();
        let ended = self.now();
        entries.push(Entry { began, ended, caller, call, answer });
    }

    pub(crate) fn entries(&self) -> Vec<Entry> {
        self.entries.lock().unwrap().clone()
    }
}

impl Call {
    /// The refund that the call is about; none for lists.
    pub(crate) fn id(&self) -> Option<&str> {
        match self {
            Call::Create(id)
            | Call::Change(id)
            | Call::Rival { id, .. }
            | Call::Validate(id)
            | Call::Get(id)
            | Call::Wait(id)
            | Call::Cancel(id)
            | Call::Reconcile(id)
            | Call::Approve(id)
            | Call::Reject(id)
            | Call::Resolve { id, .. } => Some(id),
            Call::List => None,
        }
    }

    /// Whether the call can record a refund.
    pub(crate) fn creates(&self) -> bool {
        matches!(self, Call::Create(_) | Call::Change(_) | Call::Rival { .. })
    }
}

impl Answer {
    pub(crate) fn of<'a>(
        answered: Result<impl IntoIterator<Item = &'a proto::Refund>, &Status>,
        replayed: bool,
    ) -> Answer {
        match answered {
            Ok(refunds) => Answer::Ok(refunds.into_iter().map(|refund| Seen::of(refund, replayed)).collect()),
            Err(status) => Answer::refusal(status),
        }
    }

    fn refusal(status: &Status) -> Answer {
        match status.get_error_details().error_info() {
            Some(info) if info.domain == "recoup.v1" => {
                let conflicting = info.metadata.get("conflicting_refund").cloned();
                Answer::Refused { reason: info.reason.clone(), conflicting }
            }
            _ => Answer::Unknown(format!("{:?}: {}", status.code(), status.message())),
        }
    }

    pub(crate) fn seen(&self) -> &[Seen] {
        match self {
            Answer::Ok(seen) => seen,
            Answer::Refused { .. } | Answer::Unknown(_) => &[],
        }
    }
}

impl Seen {
    fn of(refund: &proto::Refund, replayed: bool) -> Seen {
        Seen {
            id: refund.refund_id.clone(),
            revision: refund.revision,
            state: refund.state(),
            replayed,
            has_doubt: refund.doubt.is_some(),
            created: refund.create_time,
        }
    }
}
