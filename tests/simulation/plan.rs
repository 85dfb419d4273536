//! The plan of a run: an explicit value, drawn from a seed, that can be printed, pasted and
//! shortened.
//!
//! Everything that is not in the plan (how long a leg on the wire or a commit takes) is drawn from
//! the plan's seed and from a name that does not depend on what else happens. So a shortened plan
//! still does the same with what is left.

pub(crate) use recoup::domain::ids::ProviderKind;

use crate::people::RulesPlan;
use crate::setups::{AccountSetup, SharedBooks};

/// Everything that happens in one run.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Plan {
    /// Decides how long things take.
    pub(crate) seed: u64,
    pub(crate) behaviour: ProviderBehaviour,
    /// What can be refunded.
    pub(crate) targets: Vec<TargetPlan>,
    /// What callers, providers and the operator do, in order.
    pub(crate) steps: Vec<Step>,
    pub(crate) wire_faults: Vec<WireFault>,
    pub(crate) disk_faults: Vec<DiskFault>,
    /// How the accounts are configured from a given start on, ordered by start; before that as
    /// usual.
    pub(crate) setups: Vec<AccountSetup>,
    /// Which sites of a provider have the same books.
    pub(crate) shared_books: SharedBooks,
    /// One bit per refund: its callers name the provider's second account.
    pub(crate) at_second_account: u8,
    /// Before the run reaches quiescence, the accounts are configured as usual again.
    pub(crate) restores_accounts: bool,
    /// What the access file says. None: there is none.
    pub(crate) rules: Option<RulesPlan>,
}

/// How the providers and the machine behave, within what the providers' documents allow.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ProviderBehaviour {
    /// Sectigo promises nothing; it may still refuse a second refund of an order.
    pub(crate) sectigo_deduplicates: bool,
    /// name.com promises its idempotency keys; it may also refuse an item that was refunded.
    pub(crate) namecom_deduplicates: bool,
    /// Refusals are remembered under a key, too.
    pub(crate) namecom_remembers_refusals: bool,
    /// The rate above which name.com answers 429.
    pub(crate) namecom_requests_per_second: u32,
    /// The rate above which Sectigo answers -42.
    pub(crate) sectigo_calls_per_minute: Option<u32>,
    /// How long `orderStatus` lags behind.
    pub(crate) sectigo_status_lag_s: u32,
    /// Debitsuccess completes a refund by itself after this time.
    pub(crate) debitsuccess_completes_after_s: Option<u64>,
    /// The longest usual leg on the wire.
    pub(crate) leg_ms: u64,
    /// The longest usual half of a commit.
    pub(crate) commit_ms: u64,
    /// Setting `max_in_flight` of every account.
    pub(crate) max_in_flight: usize,
    /// The gateway limits its own request rate at name.com.
    pub(crate) rate_limited: bool,
    /// Some answers are Byzantine ([`Lie`]): then the checks that no gateway could pass are left
    /// out.
    pub(crate) liar: bool,
}

/// All providers, in a fixed order.
pub(crate) const PROVIDERS: [ProviderKind; 3] =
    [ProviderKind::Sectigo, ProviderKind::Namecom, ProviderKind::Debitsuccess];

/// One thing that can be refunded.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum TargetPlan {
    Order { kind: OrderKind },
    Items { items: Vec<ItemPlan> },
    Amount { minor: i64, kind: AccountKind },
}

/// What is special about a Sectigo order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OrderKind {
    Plain,
    PeriodOver,
    AlreadyRefunded,
    MultiDomain,
    OfAnotherAccount,
    FailsBefore,
    FailsAfter,
}

/// One name.com item.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ItemPlan {
    pub(crate) price_minor: i64,
    pub(crate) fate: ItemFate,
}

/// What happens to an item when its refund is requested.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ItemFate {
    Refunded,
    Failed,
    Canceled,
    Initialized,
    /// The registry does not answer: the items before it are refunded, and the call is a 5xx.
    RegistryDown,
    /// Not requested; refunded together with the registration before it.
    Privacy,
    NotEligible,
    WindowOver,
}

/// What is special about a Debitsuccess account.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AccountKind {
    Plain,
    /// Less was collected than the refund asks for.
    TooLittleCollected,
    NotActive,
    Deadlock,
    /// The review rejects the refund.
    Rejects,
}

/// An operation, and how long after the previous one it happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Step {
    pub(crate) after_ms: u64,
    pub(crate) op: Op,
}

/// What a caller, a provider or the operator does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Op {
    /// A caller requests a refund; `variant` 0 is the plain content, other variants differ from it.
    Create {
        refund: u8,
        target: u8,
        variant: u8,
        wait_ms: u64,
        similar: bool,
        gives_up_after_ms: Option<u64>,
    },
    /// CreateRefund with `validate_only`.
    DryRun {
        refund: u8,
        target: u8,
    },
    Wait {
        refund: u8,
        wait_ms: u64,
        gives_up_after_ms: Option<u64>,
    },
    Cancel {
        refund: u8,
        old_etag: bool,
        gives_up_after_ms: Option<u64>,
    },
    Reconcile {
        refund: u8,
        gives_up_after_ms: Option<u64>,
    },
    /// The operator reads the provider's books and resolves the refund accordingly.
    Resolve {
        refund: u8,
        send_again: bool,
        /// Although the gateway is still reconciling.
        take_over: bool,
    },
    /// The operator moves a refund to another account that is known to have the same books.
    Reassign {
        refund: u8,
        /// To the provider's second account.
        second: bool,
        stale_etag: bool,
    },
    /// One of the callers approves or rejects a refund.
    Decide {
        refund: u8,
        caller: u8,
        reject: bool,
        stale_etag: bool,
    },
    Get {
        refund: u8,
    },
    List,
    /// The operator pauses an account of a provider, or lets it go on.
    Pause {
        provider: ProviderKind,
        second: bool,
    },
    Resume {
        provider: ProviderKind,
        second: bool,
    },
    /// The provider decides what it has accepted so far.
    Settle {
        target: u8,
        yes: bool,
    },
    /// The provider pays what it had rejected.
    Correct {
        target: u8,
    },
    /// Another client of the provider refunds the same target.
    RefundByOthers {
        target: u8,
    },
    /// Another client of the provider uses our key or identifier for something else.
    KeyUsedByOthers {
        refund: u8,
        target: u8,
    },
    Outage {
        provider: ProviderKind,
        kind: Outage,
        for_s: u64,
    },
    /// Moves all clocks forward together.
    AdvanceClock {
        minutes: u64,
    },
    /// Changes the gateway's clock only.
    SkewClock {
        seconds: i64,
    },
    Crash {
        down_s: u64,
    },
    /// SIGTERM, with this long to drain.
    Restart {
        drain_s: u64,
        down_s: u64,
    },
}

/// What is wrong with a provider for a while.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outage {
    /// It refuses connections.
    Refuses,
    /// It accepts connections and never answers.
    Silent,
    /// It refuses the credentials.
    Credentials,
    /// It answers 503 and does nothing.
    Maintenance,
    /// Each request meets another one of these.
    Flaps,
}

/// What goes wrong with the nth request about a target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct WireFault {
    pub(crate) target: u8,
    /// Counts requests that may move money, or else reads.
    pub(crate) moves_money: bool,
    /// From 0.
    pub(crate) nth: u32,
    pub(crate) fault: Fault,
}

/// What goes wrong with a request. `done`: the provider processed it all the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// No byte leaves.
    NotSent,
    /// The request never arrives.
    LostBefore { timeout: bool },
    /// The request is processed and the answer is lost.
    LostAfter { timeout: bool },
    /// The client times out, and the request is processed later.
    LateCommit { after_s: u64 },
    /// The answer takes this much longer.
    Slow { ms: u64 },
    /// This status without a usable body.
    Status { code: u16, done: bool },
    /// A body without any meaning.
    Garbage { done: bool },
    /// A web page with status 200.
    WebPage { done: bool },
    /// Only the first part of the body.
    Truncated { percent: u8 },
    /// A body longer than the bound.
    Oversized { done: bool },
    /// A redirect to another host.
    Redirect { done: bool },
    /// Identifiers of another refund.
    WrongIdentifiers,
    /// The provider's own answer under another status, with a message beside its rows.
    Relabelled { code: u16 },
    /// A read is answered from the state of this long ago.
    Stale { by_s: u64 },
    /// The gateway's process ends.
    Crash { at: CrashAt },
    /// A Byzantine answer: nothing is done.
    Lie { lie: Lie },
}

/// Where a process ends while it has a request on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CrashAt {
    BeforeItLeaves,
    OnItsWay,
    BeforeTheAnswerIsRead,
}

/// A Byzantine answer: one that a provider that obeys its documents would never give.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lie {
    /// Done.
    Yes,
    /// Done before.
    Replay,
    /// Accepted.
    Taken,
    /// 14143, -18, "already been refunded".
    Already,
}

/// What goes wrong with the nth write of the ledger.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct DiskFault {
    /// From 0, over the whole run.
    pub(crate) nth: u32,
    pub(crate) fault: WriteFault,
}

/// What goes wrong with a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WriteFault {
    CrashBefore,
    /// The write is on the disk, and the process ends before it is acknowledged.
    CrashAfter,
    /// The sync fails, and nothing is on the disk.
    FailsAndIsLost,
    /// The sync fails, and the write is on the disk.
    FailsAndIsKept,
    /// The queue is full.
    Busy,
    /// The write takes this much longer.
    Slow {
        ms: u64,
    },
}

impl Plan {
    /// No operation, no fault, no change of the configuration.
    pub(crate) const USUAL: Plan = Plan {
        seed: 0,
        behaviour: ProviderBehaviour::USUAL,
        targets: Vec::new(),
        steps: Vec::new(),
        wire_faults: Vec::new(),
        disk_faults: Vec::new(),
        setups: Vec::new(),
        shared_books: SharedBooks::NONE,
        at_second_account: 0,
        restores_accounts: false,
        rules: None,
    };

    /// As Rust, for `reproductions.rs`.
    pub(crate) fn as_source(&self) -> String {
        format!("{self:#?}").replace(": [", ": vec![")
    }

    /// How far the gateway's clock is set forward in all.
    pub(crate) fn set_forward_s(&self) -> i64 {
        let forward = self.steps.iter().filter_map(|step| match step.op {
            Op::SkewClock { seconds } => Some(seconds.max(0)),
            _ => None,
        });
        forward.sum()
    }

    /// Whether the gateway's clock is ever set back.
    pub(crate) fn sets_clock_back(&self) -> bool {
        self.steps.iter().any(|step| matches!(step.op, Op::SkewClock { seconds } if seconds < 0))
    }
}

impl ProviderBehaviour {
    /// The providers do what they promise, at their usual speed.
    pub(crate) const USUAL: ProviderBehaviour = ProviderBehaviour {
        sectigo_deduplicates: true,
        namecom_deduplicates: true,
        namecom_remembers_refusals: false,
        namecom_requests_per_second: 20,
        sectigo_calls_per_minute: None,
        sectigo_status_lag_s: 0,
        debitsuccess_completes_after_s: None,
        leg_ms: 40,
        commit_ms: 10,
        max_in_flight: 2,
        rate_limited: false,
        liar: false,
    };
}

impl TargetPlan {
    pub(crate) fn provider(&self) -> ProviderKind {
        match self {
            TargetPlan::Order { .. } => ProviderKind::Sectigo,
            TargetPlan::Items { .. } => ProviderKind::Namecom,
            TargetPlan::Amount { .. } => ProviderKind::Debitsuccess,
        }
    }
}

impl Op {
    /// The refund that the operation is about.
    pub(crate) fn refund(self) -> Option<u8> {
        match self {
            Op::Create { refund, .. }
            | Op::DryRun { refund, .. }
            | Op::Wait { refund, .. }
            | Op::Cancel { refund, .. }
            | Op::Reconcile { refund, .. }
            | Op::Resolve { refund, .. }
            | Op::Reassign { refund, .. }
            | Op::Decide { refund, .. }
            | Op::Get { refund }
            | Op::KeyUsedByOthers { refund, .. } => Some(refund),
            _ => None,
        }
    }
}

impl Fault {
    /// The class in the fault table.
    pub(crate) fn class(self) -> &'static str {
        match self {
            Fault::NotSent => "no byte left",
            Fault::LostBefore { .. } => "lost before the effect",
            Fault::LostAfter { .. } => "lost after the effect",
            Fault::LateCommit { .. } => "late commit",
            Fault::Slow { .. } => "slow",
            Fault::Status { .. } => "server error",
            Fault::Garbage { .. } | Fault::WebPage { .. } => "garbage",
            Fault::Truncated { .. } => "truncated",
            Fault::Oversized { .. } => "oversized",
            Fault::Redirect { .. } => "redirect",
            Fault::WrongIdentifiers => "wrong identifiers",
            Fault::Relabelled { .. } => "rows beside a message",
            Fault::Stale { .. } => "stale lookup",
            Fault::Crash { .. } => "crash on the wire",
            Fault::Lie { .. } => "lie",
        }
    }
}
