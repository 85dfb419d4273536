//! The tracing spans of a refund's work, and how they join the trace that the refund was recorded
//! in.

use tracing::field::Empty;
use tracing::{Span, info_span};

use crate::domain::refund::Refund;
use crate::engine::account::AccountRuntime;
use crate::engine::core::EngineCore;
use crate::telemetry::traces;

/// The span of one attempt.
pub(super) fn attempt_span(account: &AccountRuntime, refund: &Refund) -> Span {
    info_span!("attempt", refund = %refund.id(), account = %account.name(), attempt = attempt_number(refund))
}

/// The span in which a refund that has waited is sent. It continues the caller's trace, although
/// the caller may have left.
pub(super) async fn dispatch_span(core: &EngineCore, refund: &Refund) -> Span {
    let span = info_span!("dispatch", refund = %refund.id(), account = %refund.account, trace_id = Empty);
    continue_trace_of(core, refund, span).await
}

/// The span of a log line about a refund that nothing is sent for. It continues the caller's trace.
pub(super) async fn refund_span(core: &EngineCore, refund: &Refund) -> Span {
    let span = info_span!(
        "refund", refund = %refund.id(), account = %refund.account, attempt = attempt_number(refund), trace_id = Empty
    );
    continue_trace_of(core, refund, span).await
}

/// The span of reconciling one refund. Once entered, it is [linked](link_to_refund) to the refund's
/// trace.
pub(super) fn reconcile_span(account: &AccountRuntime, refund: &Refund) -> Span {
    info_span!(
        "reconcile", refund = %refund.id(), account = %account.name(), attempt = attempt_number(refund), trace_id = Empty
    )
}

/// The span of one lookup that a caller asked for.
pub(super) fn lookup_span(account: &AccountRuntime, refund: &Refund) -> Span {
    info_span!("lookup", refund = %refund.id(), account = %account.name(), attempt = attempt_number(refund))
}

/// The span of one lookup that tests an account whose circuit breaker is open. Once entered, it is
/// [linked](link_to_refund) to the refund's trace.
pub(super) fn circuit_probe_span(account: &AccountRuntime, refund: &Refund) -> Span {
    info_span!("circuit_probe", refund = %refund.id(), account = %account.name(), trace_id = Empty)
}

/// Links the current span, which begins a trace of its own, to the trace that a refund was recorded
/// in.
pub(super) async fn link_to_refund(core: &EngineCore, refund: &Refund) {
    let parent = parent_trace(core, refund).await;
    traces::link(parent.as_deref());
    traces::record_refund_trace_id(&Span::current(), parent.as_deref(), refund.id());
}

/// Links the current span, which is part of a caller's trace, to the trace that a refund was
/// recorded in.
pub(super) async fn link_call_to_refund(core: &EngineCore, refund: &Refund) {
    if traces::is_on() {
        traces::link(parent_trace(core, refund).await.as_deref());
    }
}

async fn continue_trace_of(core: &EngineCore, refund: &Refund, span: Span) -> Span {
    traces::continue_from(&span, parent_trace(core, refund).await.as_deref(), refund.id());
    span
}

async fn parent_trace(core: &EngineCore, refund: &Refund) -> Option<String> {
    // An error only disconnects the trace; the work that follows meets and reports it.
    core.ledger.trace_parent_of(refund.id()).await.unwrap_or_default()
}

/// Signed, because a trace would hold an unsigned number as text.
fn attempt_number(refund: &Refund) -> i64 {
    refund.attempt_count.into()
}
