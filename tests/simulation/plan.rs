//! The plan of a run: an explicit value, drawn from a seed, that can be printed, pasted, and made
//! shorter.
//!
//! Whatever is not in it (how long a leg on the wire or a commit takes) is drawn from its seed and
//! from a name that does not depend on what else happens, so that a plan made shorter still does
//! the same with what is left.

use crate::setups::{Behind, Setup};

/// Everything that happens in one run.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Plan {
    /// Decides how long things take.
    pub(crate) seed: u64,
    /// How the providers and the machine are.
    pub(crate) habits: Habits,
    /// What there is to be refunded.
    pub(crate) targets: Vec<TargetPlan>,
    /// What callers, providers and the operator do, in order.
    pub(crate) steps: Vec<Step>,
    /// What goes wrong on the wire.
    pub(crate) harms: Vec<WireHarm>,
    /// What goes wrong with the ledger.
    pub(crate) disk: Vec<DiskHarm>,
    /// How the accounts are configured from a start on, by rising starts; before that as usual.
    pub(crate) setups: Vec<Setup>,
    /// Which places have the same books behind them.
    pub(crate) behind: Behind,
    /// One bit a refund: its callers name the provider's second account.
    pub(crate) at_second_account: u8,
    /// Before all comes to rest the accounts are configured as usual again.
    pub(crate) comes_back: bool,
}

/// How the providers and the machine are, within what the providers' documents allow.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Habits {
    /// Sectigo promises nothing; it may still refuse a second refund of an order.
    pub(crate) sectigo_deduplicates: bool,
    /// name.com promises its keys; it may also refuse an item that was refunded.
    pub(crate) namecom_deduplicates: bool,
    /// Refusals are remembered under a key, too.
    pub(crate) namecom_remembers_refusals: bool,
    /// What stands before 429.
    pub(crate) namecom_requests_per_second: u32,
    /// What stands before -42.
    pub(crate) sectigo_calls_per_minute: Option<u32>,
    /// How long `orderStatus` lags.
    pub(crate) sectigo_status_lag_s: u32,
    /// Debitsuccess finishes by itself after so long.
    pub(crate) debitsuccess_completes_after_s: Option<u64>,
    /// The longest usual leg on the wire.
    pub(crate) leg_ms: u64,
    /// The longest usual half of a commit.
    pub(crate) commit_ms: u64,
    /// Attempts of an account on the wire at once.
    pub(crate) in_flight: usize,
    /// The gateway's own pace with name.com.
    pub(crate) paced: bool,
    /// Answers may be lies: only what can be asked of a gateway that is lied to is asked.
    pub(crate) liar: bool,
}

/// Whose provider.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Who {
    Sectigo,
    Namecom,
    Debitsuccess,
}

/// One thing to be refunded.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum TargetPlan {
    Order { kind: OrderKind },
    Items { items: Vec<ItemPlan> },
    Amount { minor: i64, kind: AccountKind },
}

/// What there is about a Sectigo order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OrderKind {
    Plain,
    PeriodOver,
    AlreadyRefunded,
    MultiDomain,
    SomebodyElses,
    FailsBefore,
    FailsAfter,
}

/// One name.com item.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ItemPlan {
    pub(crate) price_minor: i64,
    pub(crate) fate: ItemFate,
}

/// What becomes of an item that is to be refunded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ItemFate {
    Refunded,
    Failed,
    Canceled,
    Initialized,
    /// The registry does not answer: the items before it are refunded, and the call is a 5xx.
    RegistryDown,
    /// Not asked for; goes with the registration before it.
    Privacy,
    NotEligible,
    WindowOver,
}

/// What there is about a Debitsuccess account.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AccountKind {
    Plain,
    /// Less was collected than is asked for.
    Poor,
    NotActive,
    Deadlock,
    /// The review says no.
    Rejects,
}

/// One step: so long after the one before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Step {
    pub(crate) after_ms: u64,
    pub(crate) op: Op,
}

/// What somebody does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Op {
    /// A caller asks for a refund; `variant` 0 is the plain content, others differ.
    Create {
        refund: u8,
        target: u8,
        variant: u8,
        wait_ms: u64,
        similar: bool,
        leaves_ms: Option<u64>,
    },
    /// What Create would say.
    Check {
        refund: u8,
        target: u8,
    },
    Wait {
        refund: u8,
        wait_ms: u64,
        leaves_ms: Option<u64>,
    },
    Cancel {
        refund: u8,
        old_etag: bool,
        leaves_ms: Option<u64>,
    },
    Reconcile {
        refund: u8,
        leaves_ms: Option<u64>,
    },
    /// A person looks into the books and says what is in them.
    Resolve {
        refund: u8,
        send_again: bool,
        /// Though the gateway has not finished finding out.
        take_over: bool,
    },
    /// A person lets a refund go on at another account, where it is known to be the same books.
    Reassign {
        refund: u8,
        /// At the provider's second account.
        second: bool,
        stale_etag: bool,
    },
    Get {
        refund: u8,
    },
    List,
    /// The provider goes on with what it has taken.
    Settle {
        target: u8,
        yes: bool,
    },
    /// The provider pays what it had rejected.
    Correct {
        target: u8,
    },
    /// Somebody else refunds the same target.
    Foreign {
        target: u8,
    },
    /// Somebody else uses our key or identifier for something else.
    ForeignKey {
        refund: u8,
        target: u8,
    },
    Outage {
        who: Who,
        kind: Outage,
        for_s: u64,
    },
    /// All clocks go on at once.
    Leap {
        minutes: u64,
    },
    /// The gateway's clock alone.
    Skew {
        seconds: i64,
    },
    Crash {
        down_s: u64,
    },
    /// SIGTERM: the work that is on its way gets this long.
    Restart {
        drain_s: u64,
        down_s: u64,
    },
}

/// What a provider does for a while.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outage {
    /// No connection.
    Refuses,
    /// Connections, and not a word.
    Silent,
    /// The credentials are not accepted.
    Credentials,
    /// 503, nothing done.
    Maintenance,
    /// One of these, by turns.
    Flaps,
}

/// What goes wrong with the nth call about a target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct WireHarm {
    pub(crate) target: u8,
    /// A call that may move money, or a read.
    pub(crate) moving: bool,
    /// From 0.
    pub(crate) nth: u32,
    pub(crate) harm: Harm,
}

/// What goes wrong with a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Harm {
    /// No byte left.
    NotSent,
    /// It never arrived.
    LostBefore { timeout: bool },
    /// It was done, and the answer is lost.
    LostAfter { timeout: bool },
    /// A time-out now, and it is done later.
    Late { after_s: u64 },
    /// So long on its way.
    Slow { ms: u64 },
    /// This status and no usable body.
    Status { code: u16, done: bool },
    /// No sense in the body.
    Garbage { done: bool },
    /// A web page with status 200.
    Page { done: bool },
    /// Only the first part of the body.
    Cut { percent: u8 },
    /// More than the bound.
    Flood { done: bool },
    /// Go to another host with it.
    Redirect { done: bool },
    /// Identifiers that are not this refund's.
    OtherIds,
    /// The provider's own answer under another status, with a message beside its rows.
    Relabelled { code: u16 },
    /// A read answered as of so long ago.
    Stale { by_s: u64 },
    /// The process ends here.
    Crash { at: CrashAt },
    /// A lie: nothing is done, and this is said of it.
    Lie { lie: Lie },
}

/// Where a process ends that has something on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CrashAt {
    BeforeItLeaves,
    OnItsWay,
    BeforeTheAnswerIsRead,
}

/// What a provider that obeyed its documents would never say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lie {
    /// Done.
    Yes,
    /// Done before.
    Replay,
    /// Taken.
    Taken,
    /// 14143, -18, "already been refunded".
    Already,
}

/// What goes wrong with the nth write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct DiskHarm {
    /// From 0, over the whole run.
    pub(crate) nth: u32,
    pub(crate) harm: WriteHarm,
}

/// What goes wrong with a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WriteHarm {
    CrashBefore,
    /// It is on the disk, and nobody was told.
    CrashAfter,
    /// The sync fails, and nothing is on the disk.
    FailsAndIsLost,
    /// The sync fails, and it is on the disk.
    FailsAndIsKept,
    /// The queue is full.
    Busy,
    /// It takes so long.
    Slow {
        ms: u64,
    },
}

impl Plan {
    /// Nothing happens, nothing goes wrong, and nothing changes.
    pub(crate) const USUAL: Plan = Plan {
        seed: 0,
        habits: Habits::USUAL,
        targets: Vec::new(),
        steps: Vec::new(),
        harms: Vec::new(),
        disk: Vec::new(),
        setups: Vec::new(),
        behind: Behind::EACH_ITS_OWN,
        at_second_account: 0,
        comes_back: false,
    };

    /// As Rust, for `reproductions.rs`.
    pub(crate) fn as_source(&self) -> String {
        let source = format!("{self:#?}").replace(": [", ": vec![");
        ["one_behind_hosts", "one_behind_logins"]
            .into_iter()
            .fold(source, |source, array| source.replace(&format!("{array}: vec!["), &format!("{array}: [")))
    }

    /// How far the gateway's clock is set forward in all.
    pub(crate) fn set_forward_s(&self) -> i64 {
        let forward = self.steps.iter().filter_map(|step| match step.op {
            Op::Skew { seconds } => Some(seconds.max(0)),
            _ => None,
        });
        forward.sum()
    }

    /// Whether the gateway's clock is ever set back.
    pub(crate) fn sets_clock_back(&self) -> bool {
        self.steps.iter().any(|step| matches!(step.op, Op::Skew { seconds } if seconds < 0))
    }
}

impl Habits {
    /// Providers that do what they promise, at their usual speed.
    pub(crate) const USUAL: Habits = Habits {
        sectigo_deduplicates: true,
        namecom_deduplicates: true,
        namecom_remembers_refusals: false,
        namecom_requests_per_second: 20,
        sectigo_calls_per_minute: None,
        sectigo_status_lag_s: 0,
        debitsuccess_completes_after_s: None,
        leg_ms: 40,
        commit_ms: 10,
        in_flight: 2,
        paced: false,
        liar: false,
    };
}

impl TargetPlan {
    pub(crate) fn who(&self) -> Who {
        match self {
            TargetPlan::Order { .. } => Who::Sectigo,
            TargetPlan::Items { .. } => Who::Namecom,
            TargetPlan::Amount { .. } => Who::Debitsuccess,
        }
    }
}

impl Who {
    pub(crate) const ALL: [Who; 3] = [Who::Sectigo, Who::Namecom, Who::Debitsuccess];

    /// The account's name at the gateway.
    pub(crate) fn account(self) -> &'static str {
        match self {
            Who::Sectigo => "sectigo",
            Who::Namecom => "namecom",
            Who::Debitsuccess => "debitsuccess",
        }
    }
}

impl Op {
    /// The refund that it is about.
    pub(crate) fn refund(self) -> Option<u8> {
        match self {
            Op::Create { refund, .. }
            | Op::Check { refund, .. }
            | Op::Wait { refund, .. }
            | Op::Cancel { refund, .. }
            | Op::Reconcile { refund, .. }
            | Op::Resolve { refund, .. }
            | Op::Reassign { refund, .. }
            | Op::Get { refund }
            | Op::ForeignKey { refund, .. } => Some(refund),
            _ => None,
        }
    }
}

impl Harm {
    /// Its class in the fault table.
    pub(crate) fn class(self) -> &'static str {
        match self {
            Harm::NotSent => "no byte left",
            Harm::LostBefore { .. } => "lost before the effect",
            Harm::LostAfter { .. } => "lost after the effect",
            Harm::Late { .. } => "late commit",
            Harm::Slow { .. } => "slow",
            Harm::Status { .. } => "server error",
            Harm::Garbage { .. } | Harm::Page { .. } => "garbage",
            Harm::Cut { .. } => "truncated",
            Harm::Flood { .. } => "oversized",
            Harm::Redirect { .. } => "redirect",
            Harm::OtherIds => "wrong identifiers",
            Harm::Relabelled { .. } => "rows beside a message",
            Harm::Stale { .. } => "stale lookup",
            Harm::Crash { .. } => "crash on the wire",
            Harm::Lie { .. } => "lie",
        }
    }
}
