//! Rest: no fault any more, the gateway settles what it can by itself, and a person settles the
//! rest by the evidence.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt, stream};
use recoup::proto::v1 as proto;
use recoup::proto::v1::refund::State;
use recoup::proto::v1::refund_service_client::RefundServiceClient;
use recoup::proto::v1::resolve_refund_request::Resolution;
use tokio::time::Instant;
use tonic::transport::Channel;

use crate::callers::{self, Board, CALLERS, name};
use crate::history::{Answer, Call};
use crate::rng::Dice;

/// Nothing may be under way for longer.
const LIMIT: Duration = Duration::from_secs(60);

/// Everything as the gateway shows it at rest.
#[derive(Clone)]
pub(crate) struct AtRest {
    /// All refunds.
    pub(crate) refunds: Vec<proto::Refund>,
    /// Those that it lists as in doubt or left to a person.
    pub(crate) listed_doubts: Vec<proto::Refund>,
}

/// Waits until nothing is open that the gateway settles by itself, has a person resolve the rest,
/// and tells how everything stands.
///
/// `go_on` has the providers do now what they were to do later.
pub(crate) async fn bring(
    gateway: SocketAddr,
    board: &Arc<Board>,
    dice: &mut Dice,
    go_on: impl Fn(),
) -> Result<AtRest, String> {
    let client = callers::client(gateway);
    settled(&client).await?;
    look_up(&client, board, State::Submitted).await?;
    // Sent again by a person's word, it may be in doubt again.
    for _ in 0..3 {
        let left = list(&client, &[State::NeedsReview]).await?;
        let mut words = 0;
        for refund in left {
            words += usize::from(resolve(&client, board, dice, CALLERS, refund).await?);
        }
        if words == 0 {
            break;
        }
        settled(&client).await?;
    }
    // What was sent again is reviewed too: nothing may end between what is listed here and the end
    // of the gateway.
    go_on();
    look_up(&client, board, State::Submitted).await?;
    Ok(AtRest {
        refunds: list(&client, &[]).await?,
        listed_doubts: list(&client, &[State::InDoubt, State::NeedsReview]).await?,
    })
}

/// All refunds in any of these states; of all states where none is named.
pub(crate) async fn list(
    client: &RefundServiceClient<Channel>,
    states: &[State],
) -> Result<Vec<proto::Refund>, String> {
    let mut refunds = Vec::new();
    let mut page_token = String::new();
    loop {
        let states = states.iter().map(|state| i32::from(*state)).collect();
        let filter = Some(proto::RefundFilter { states, ..Default::default() });
        let request = proto::ListRefundsRequest { page_size: 1000, page_token, filter };
        let page = client.clone().list_refunds(request).await;
        let page = page.map_err(|status| format!("answers at rest: ListRefunds was answered {status}"))?.into_inner();
        refunds.extend(page.refunds);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return Ok(refunds);
        }
    }
}

/// Waits until no refund waits, is on its way or in doubt: the gateway itself sees to all of them,
/// or leaves them to a person.
async fn settled(client: &RefundServiceClient<Channel>) -> Result<(), String> {
    let until = Instant::now() + LIMIT;
    loop {
        let mut open = list(client, &[State::Pending, State::Dispatching, State::InDoubt]).await?;
        // What belongs elsewhere waits until its account is there.
        open.retain(|refund| refund.waiting_for() != proto::refund::WaitingFor::Account);
        let Some(one) = open.first() else { return Ok(()) };
        let wait = proto::WaitRefundRequest {
            name: one.name.clone(),
            after_revision: one.revision,
            timeout: Some(callers::milliseconds(500)),
        };
        // How it stands then, the list tells.
        let _ = client.clone().wait_refund(wait).await;
        if Instant::now() >= until {
            let open: Vec<_> = open.iter().map(|one| format!("{one:?}")).collect();
            return Err(format!("comes to rest: after {LIMIT:?} these are still open: {open:#?}"));
        }
    }
}

async fn look_up(client: &RefundServiceClient<Channel>, board: &Arc<Board>, state: State) -> Result<(), String> {
    let open = list(client, &[state]).await?;
    let looks = stream::iter(open).map(|refund| {
        let (mut client, board) = (client.clone(), board.clone());
        async move {
            let began = board.history.now();
            let answer = client.reconcile_refund(proto::ReconcileRefundRequest { name: refund.name }).await;
            let answer = answer.map(|answer| answer.into_inner().refund);
            let answer = Answer::of(answer.as_ref(), false);
            board.history.write(began, CALLERS, Call::Reconcile(refund.refund_id), answer);
        }
    });
    looks.buffer_unordered(16).collect::<()>().await;
    Ok(())
}

/// What a person does who has the provider's books before them. False where nothing was resolved.
pub(crate) async fn resolve(
    client: &RefundServiceClient<Channel>,
    board: &Arc<Board>,
    dice: &mut Dice,
    caller: usize,
    refund: proto::Refund,
) -> Result<bool, String> {
    let Some(plan) = board.plans().into_iter().find(|plan| plan.id == refund.refund_id) else {
        return Err(format!("every refund was asked for: nobody asked for {}", refund.refund_id));
    };
    let began = board.history.now();
    let books = board.books();
    let happened = |part: &str| {
        let times =
            |kind: &str| books.iter().filter(|entry| entry.effect.kind == kind && entry.effect.target == part).count();
        times("refund") > times("refund_rejected")
    };
    let parts = plan.parts();
    let done = parts.iter().filter(|(part, _)| happened(part)).count();
    // An account that is not there sends nothing.
    let may_send = refund.waiting_for() != proto::refund::WaitingFor::Account;
    let (word, resolution) = match (done, parts.len()) {
        (0, _) if dice.percent(50) && may_send => ("send again", Resolution::SendAgain),
        (0, _) => ("not refunded", Resolution::NotRefunded),
        _ => ("refunded", Resolution::Refunded),
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
    board.history.write(began, caller, Call::Resolve { id: refund.refund_id, word }, answer);
    Ok(accepted)
}
