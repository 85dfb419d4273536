//! Quiescence: no more faults, the gateway reconciles what it can, and the operator resolves the
//! rest by the books.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt, stream};
use recoup::proto::v1 as proto;
use recoup::proto::v1::refund::State;
use recoup::proto::v1::resolve_refund_request::Resolution;
use tokio::time::Instant;

use crate::access::{self, Client};
use crate::callers::{self, CALLERS, CallerState, name};
use crate::history::{Answer, Call};
use crate::rng::SeededRng;

/// No refund may stay open for longer.
const LIMIT: Duration = Duration::from_secs(60);

/// Everything that the gateway shows at quiescence.
#[derive(Clone)]
pub(crate) struct Quiescent {
    /// All refunds.
    pub(crate) refunds: Vec<proto::Refund>,
    /// The refunds that it lists as in doubt or in review.
    pub(crate) listed_doubts: Vec<proto::Refund>,
}

/// Waits until the gateway has reconciled what it can, and has the operator resolve the rest.
///
/// `finish_late_effects` makes the providers do now what they would do later.
pub(crate) async fn reach(
    gateway: SocketAddr,
    caller_state: &Arc<CallerState>,
    rng: &mut SeededRng,
    finish_late_effects: impl Fn(),
) -> Result<Quiescent, String> {
    let client = callers::client(gateway);
    access::resume_all(gateway).await?;
    wait_until_none_open(&client).await?;
    reconcile_all(&client, caller_state, State::Submitted).await?;
    // A refund that the operator had sent again may be in doubt again.
    for _ in 0..3 {
        let left = list(&client, &[State::NeedsReview]).await?;
        let mut resolved = 0;
        for refund in left {
            resolved += usize::from(resolve(&client, caller_state, rng, CALLERS, refund).await?);
        }
        if resolved == 0 {
            break;
        }
        wait_until_none_open(&client).await?;
    }
    // Refunds that were sent again may be decided late, too: nothing may change between this list
    // and the end of the gateway.
    finish_late_effects();
    reconcile_all(&client, caller_state, State::Submitted).await?;
    Ok(Quiescent {
        refunds: list(&client, &[]).await?,
        listed_doubts: list(&client, &[State::InDoubt, State::NeedsReview]).await?,
    })
}

/// All refunds in any of these states, or in all states where none is given.
pub(crate) async fn list(client: &Client, states: &[State]) -> Result<Vec<proto::Refund>, String> {
    let mut refunds = Vec::new();
    let mut page_token = String::new();
    loop {
        let states = states.iter().map(|state| i32::from(*state)).collect();
        let filter = Some(proto::RefundFilter { states, ..Default::default() });
        let request = proto::ListRefundsRequest { page_size: 1000, page_token, filter };
        let page = client.clone().list_refunds(request).await;
        let page = page
            .map_err(|status| format!("answers at quiescence: ListRefunds was answered with {status}"))?
            .into_inner();
        refunds.extend(page.refunds);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return Ok(refunds);
        }
    }
}

/// Waits until no refund is PENDING, DISPATCHING or IN_DOUBT: the gateway ends these states by
/// itself, or leaves the refund to the operator.
async fn wait_until_none_open(client: &Client) -> Result<(), String> {
    let until = Instant::now() + LIMIT;
    loop {
        let mut open = list(client, &[State::Pending, State::Dispatching, State::InDoubt]).await?;
        // A refund whose account is not configured waits for it.
        open.retain(|refund| refund.waiting_for() != proto::refund::WaitingFor::Account);
        let Some(one) = open.first() else { return Ok(()) };
        let wait = proto::WaitRefundRequest {
            name: one.name.clone(),
            after_revision: one.revision,
            timeout: Some(callers::milliseconds(500)),
        };
        // The next list shows the result.
        let _ = client.clone().wait_refund(wait).await;
        if Instant::now() >= until {
            let open: Vec<_> = open.iter().map(|one| format!("{one:?}")).collect();
            return Err(format!("reaches quiescence: after {LIMIT:?} these are still open: {open:#?}"));
        }
    }
}

async fn reconcile_all(client: &Client, caller_state: &Arc<CallerState>, state: State) -> Result<(), String> {
    let open = list(client, &[state]).await?;
    let calls = stream::iter(open).map(|refund| {
        let (mut client, caller_state) = (client.clone(), caller_state.clone());
        async move {
            let began = caller_state.history.now();
            let answer = client.reconcile_refund(proto::ReconcileRefundRequest { name: refund.name }).await;
            let answer = answer.map(|answer| answer.into_inner().refund);
            let answer = Answer::of(answer.as_ref(), false);
            caller_state.history.write(began, CALLERS, Call::Reconcile(refund.refund_id), answer);
        }
    });
    calls.buffer_unordered(16).collect::<()>().await;
    Ok(())
}

/// The operator resolves a refund as the provider's books say. False where it was not accepted.
pub(crate) async fn resolve(
    client: &Client,
    caller_state: &Arc<CallerState>,
    rng: &mut SeededRng,
    caller: usize,
    refund: proto::Refund,
) -> Result<bool, String> {
    let Some(plan) = caller_state.plans().into_iter().find(|plan| plan.id == refund.refund_id) else {
        return Err(format!("every refund was requested: no caller requested {}", refund.refund_id));
    };
    let began = caller_state.history.now();
    let books = caller_state.books();
    let happened = |part: &str| {
        let times =
            |kind: &str| books.iter().filter(|entry| entry.effect.kind == kind && entry.effect.target == part).count();
        times("refund") > times("refund_rejected")
    };
    let parts = plan.parts();
    let done = parts.iter().filter(|(part, _)| happened(part)).count();
    // An account that is not configured sends nothing.
    let may_send = refund.waiting_for() != proto::refund::WaitingFor::Account;
    let resolution = match done {
        0 if rng.percent(50) && may_send => Resolution::SendAgain,
        0 => Resolution::NotRefunded,
        _ => Resolution::Refunded,
    };
    let of_item = |(part, _): &(String, Option<i64>)| proto::resolve_refund_request::ItemResolution {
        item_id: part.clone(),
        refunded: happened(part),
        refunded_amount: None,
    };
    let items = if done > 0 && done < parts.len() { parts.iter().map(of_item).collect() } else { Vec::new() };
    let request = proto::ResolveRefundRequest {
        name: name(&refund.refund_id),
        etag: refund.etag,
        resolution: resolution.into(),
        evidence: "the books of the simulators".to_owned(),
        refunded_amount: None,
        items,
        ..Default::default()
    };
    let answer = client.clone().resolve_refund(request).await.map(|answer| answer.into_inner().refund);
    let answer = Answer::of(answer.as_ref(), false);
    let accepted = matches!(answer, Answer::Ok(_));
    caller_state.history.write(began, caller, Call::Resolve { id: refund.refund_id, resolution }, answer);
    Ok(accepted)
}
