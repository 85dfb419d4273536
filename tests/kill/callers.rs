//! Callers: several at once, each with its own connection, who create, repeat, change, wait,
//! withdraw and look up while the gateway dies and comes back. They believe nothing but what they
//! are told, and write all of it down.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use recoup::proto::v1 as proto;
use recoup::proto::v1::refund::State;
use recoup::proto::v1::refund_service_client::RefundServiceClient;
use simulators::{BookEntry, WorldHandle};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tonic::transport::{Channel, Endpoint};

use crate::history::{Answer, Call, History};
use crate::plans::Plan;
use crate::rng::Dice;
use crate::{providers, quiescence};

/// How many there are.
pub(crate) const CALLERS: usize = 6;
/// Behind the last attempt, or a look, for so long nothing is still to come: effects come at most a
/// second late.
const OLD_DOUBT_SECONDS: i64 = 5;
/// A call that takes longer hangs: no wait that is asked for comes near it.
const CALL_LIMIT: Duration = Duration::from_secs(15);

/// What the callers share.
pub(crate) struct Board {
    /// Where the gateway is; none while it is down.
    pub(crate) address: watch::Sender<Option<SocketAddr>>,
    /// Refunds that nobody asked for yet.
    pub(crate) stock: Mutex<VecDeque<Plan>>,
    pub(crate) history: History,
    /// What the callers have asked for.
    asked: Mutex<Vec<Asked>>,
    /// What the follower was told, in order.
    pub(crate) followed: Mutex<Vec<proto::RefundEvent>>,
    pub(crate) ended: CancellationToken,
    /// Where a person looks before giving their word.
    worlds: Mutex<[WorldHandle; 2]>,
}

#[derive(Clone)]
struct Asked {
    plan: Plan,
    acknowledged: bool,
    state: Option<State>,
}

/// What a caller does next.
#[derive(Debug, Clone, Copy)]
enum Turn {
    Create,
    Repeat,
    Change,
    Rival,
    Validate,
    Get,
    List,
    Wait,
    Cancel,
    Reconcile,
    Resolve,
}

const TURNS: [(u64, Turn); 11] = [
    (40, Turn::Create),
    (16, Turn::Repeat),
    (3, Turn::Change),
    (4, Turn::Rival),
    (2, Turn::Validate),
    (6, Turn::Get),
    (3, Turn::List),
    (8, Turn::Wait),
    (8, Turn::Cancel),
    (10, Turn::Reconcile),
    (3, Turn::Resolve),
];

impl Board {
    pub(crate) fn new(worlds: [WorldHandle; 2]) -> Arc<Board> {
        Arc::new(Board {
            address: watch::Sender::new(None),
            stock: Mutex::default(),
            history: History::begin(),
            asked: Mutex::default(),
            followed: Mutex::default(),
            ended: CancellationToken::new(),
            worlds: Mutex::new(worlds),
        })
    }

    /// The worlds are other ones now.
    pub(crate) fn show(&self, worlds: [WorldHandle; 2]) {
        *self.worlds.lock().unwrap() = worlds;
    }

    /// What really happened in all books, for a person to see.
    pub(crate) fn books(&self) -> Vec<BookEntry> {
        let worlds = self.worlds.lock().unwrap().clone();
        worlds.iter().flat_map(WorldHandle::books).collect()
    }

    /// All refunds that were asked for, rivals among them.
    pub(crate) fn plans(&self) -> Vec<Plan> {
        self.asked.lock().unwrap().iter().map(|asked| asked.plan.clone()).collect()
    }

    /// Any refund that was asked for, of those that fit; the latest are the likeliest.
    fn any(&self, dice: &mut Dice, fits: impl Fn(&Asked) -> bool) -> Option<Plan> {
        let asked = self.asked.lock().unwrap();
        let fitting: Vec<&Asked> = asked.iter().rev().filter(|asked| fits(asked)).take(200).collect();
        let reach = if dice.percent(70) { fitting.len().min(20) } else { fitting.len() };
        fitting.get(dice.place(reach)).map(|asked| asked.plan.clone())
    }

    fn ask(&self, plan: Plan) {
        let mut asked = self.asked.lock().unwrap();
        if asked.iter().all(|asked| asked.plan.id != plan.id) {
            asked.push(Asked { plan, acknowledged: false, state: None });
        }
    }

    fn note(&self, answer: &Answer) {
        let mut asked = self.asked.lock().unwrap();
        for seen in answer.seen() {
            if let Some(known) = asked.iter_mut().rev().find(|asked| asked.plan.id == seen.id) {
                known.acknowledged = true;
                known.state = Some(seen.state);
            }
        }
    }
}

/// Sets all of them to work; they end when the board says so.
pub(crate) fn set_to_work(board: &Arc<Board>, seed: u64, run: u64) -> JoinSet<()> {
    let mut callers = JoinSet::new();
    for number in 0..CALLERS {
        let dice = Dice::new(seed, &[run, 1, number as u64]);
        callers.spawn(Caller { board: board.clone(), number, dice, client: None }.work());
    }
    callers.spawn(follow(board.clone()));
    callers
}

/// A client of the gateway at this address, without a connection yet.
pub(crate) fn client(address: SocketAddr) -> RefundServiceClient<Channel> {
    let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap().timeout(CALL_LIMIT);
    RefundServiceClient::new(endpoint.connect_lazy()).max_decoding_message_size(64 * 1024 * 1024)
}

struct Caller {
    board: Arc<Board>,
    number: usize,
    dice: Dice,
    client: Option<(SocketAddr, RefundServiceClient<Channel>)>,
}

impl Caller {
    async fn work(mut self) {
        let board = self.board.clone();
        let mut address = board.address.subscribe();
        loop {
            let there = tokio::select! {
                () = board.ended.cancelled() => return,
                there = address.wait_for(Option::is_some) => there.map(|address| *address),
            };
            let Ok(Some(there)) = there else { return };
            let client = match &self.client {
                Some((known, client)) if *known == there => client.clone(),
                _ => {
                    let client = client(there);
                    self.client = Some((there, client.clone()));
                    client
                }
            };
            let is_known = self.turn(client).await;
            // What people do between two calls, and where the gateway is of no use.
            let pause = if is_known { self.dice.weighted(&[(6, 0), (3, 2), (1, 15)]) } else { 10 };
            tokio::time::sleep(Duration::from_millis(pause)).await;
        }
    }

    /// One call. False where nobody knows what it came to, or nothing came to mind.
    async fn turn(&mut self, mut client: RefundServiceClient<Channel>) -> bool {
        let board = self.board.clone();
        let dice = &mut self.dice;
        let began = board.history.now();
        let (call, answer) = match dice.weighted(&TURNS) {
            Turn::Resolve => return resolve_one(&client, &board, dice, self.number).await,
            Turn::Create => {
                let Some(plan) = board.stock.lock().unwrap().pop_front() else { return false };
                let request = plan.request();
                board.ask(plan);
                (Call::Create(request.refund_id.clone()), create(&mut client, request, dice).await)
            }
            Turn::Repeat => {
                // Mostly those of which nothing is known: that is what a repeated call is for.
                let unknown = dice.percent(60);
                let Some(plan) = board.any(dice, |asked| !unknown || !asked.acknowledged) else { return false };
                (Call::Create(plan.id.clone()), create(&mut client, plan.request(), dice).await)
            }
            Turn::Change => {
                let Some(plan) = board.any(dice, |asked| asked.acknowledged) else { return false };
                (Call::Change(plan.id.clone()), create(&mut client, plan.changed(), dice).await)
            }
            Turn::Rival => {
                let Some(plan) = board.any(dice, |_| true) else { return false };
                let rival = Plan { id: format!("{}-r{}", plan.id, dice.between(0, 9)), ..plan.clone() };
                let request = rival.request();
                let call = Call::Rival { id: rival.id.clone(), of: plan.id };
                board.ask(rival);
                (call, create(&mut client, request, dice).await)
            }
            Turn::Validate => {
                let Some(plan) = board.any(dice, |_| true) else { return false };
                let id = format!("{}-v", plan.id);
                let request =
                    proto::CreateRefundRequest { refund_id: id.clone(), validate_only: true, ..plan.request() };
                let answer = client.create_refund(request).await;
                let answer = answer.map(|answer| answer.into_inner().refund);
                // What would be recorded is not recorded: nothing was seen.
                let answer = Answer::of(answer.as_ref().map(|_| []), false);
                (Call::Validate(id), answer)
            }
            Turn::Get => {
                let Some(plan) = board.any(dice, |_| true) else { return false };
                let name = name(&plan.id);
                let answer = client.get_refund(proto::GetRefundRequest { name }).await;
                let answer = answer.map(|answer| answer.into_inner().refund);
                (Call::Get(plan.id), Answer::of(answer.as_ref(), false))
            }
            Turn::List => {
                let states = match dice.between(0, 2) {
                    0 => vec![],
                    1 => vec![State::InDoubt.into(), State::NeedsReview.into()],
                    _ => vec![State::Pending.into()],
                };
                let filter = Some(proto::RefundFilter { states, ..Default::default() });
                let request = proto::ListRefundsRequest { page_size: 50, filter, ..Default::default() };
                let answer = client.list_refunds(request).await.map(|answer| answer.into_inner().refunds);
                (Call::List, Answer::of(answer.as_ref(), false))
            }
            Turn::Wait => {
                let Some(plan) = board.any(dice, |_| true) else { return false };
                let timeout = Some(milliseconds(dice.between(0, 300)));
                let after_revision = i64::try_from(dice.between(0, 3)).unwrap();
                let request = proto::WaitRefundRequest { name: name(&plan.id), after_revision, timeout };
                let answer = client.wait_refund(request).await.map(|answer| answer.into_inner().refund);
                (Call::Wait(plan.id), Answer::of(answer.as_ref(), false))
            }
            Turn::Cancel => {
                let pending = dice.percent(70);
                let fits = |asked: &Asked| !pending || asked.state == Some(State::Pending);
                let Some(plan) = board.any(dice, fits) else { return false };
                let request = proto::CancelRefundRequest { name: name(&plan.id), etag: String::new() };
                let answer = client.cancel_refund(request).await.map(|answer| answer.into_inner().refund);
                (Call::Cancel(plan.id), Answer::of(answer.as_ref(), false))
            }
            Turn::Reconcile => {
                let open = [Some(State::InDoubt), Some(State::Submitted), Some(State::NeedsReview)];
                let Some(plan) = board.any(dice, |asked| open.contains(&asked.state)) else { return false };
                let answer = client.reconcile_refund(proto::ReconcileRefundRequest { name: name(&plan.id) }).await;
                let answer = answer.map(|answer| answer.into_inner().refund);
                (Call::Reconcile(plan.id), Answer::of(answer.as_ref(), false))
            }
        };
        board.note(&answer);
        let is_known = !matches!(answer, Answer::Unknown(_));
        board.history.write(began, self.number, call, answer);
        is_known
    }
}

/// A person resolves a refund that was left to people, the oldest doubts first. Not before all is
/// done that the providers do late: what is not in the books then has not happened and will not.
async fn resolve_one(
    client: &RefundServiceClient<Channel>,
    board: &Arc<Board>,
    dice: &mut Dice,
    caller: usize,
) -> bool {
    let Ok(mut left) = quiescence::list(client, &[State::NeedsReview]).await else { return false };
    let now = providers::now().unix_timestamp();
    left.retain(|refund| {
        let since = refund.update_time.map_or(now, |since| since.seconds);
        now - since >= OLD_DOUBT_SECONDS
    });
    let Some(refund) = left.pop() else { return false };
    // A refusal is an answer too; that nobody asked for the refund the oracle finds out by itself.
    quiescence::resolve(client, board, dice, caller, refund).await.unwrap_or(false)
}

async fn create(
    client: &mut RefundServiceClient<Channel>,
    request: proto::CreateRefundRequest,
    dice: &mut Dice,
) -> Answer {
    let wait = dice.weighted(&[(3, Some(0)), (3, Some(60)), (2, Some(400)), (1, None)]);
    let request = proto::CreateRefundRequest { wait: wait.map(milliseconds), ..request };
    let answer = client.create_refund(request).await.map(tonic::Response::into_inner);
    let replayed = answer.as_ref().is_ok_and(|answer| answer.replayed);
    Answer::of(answer.as_ref().map(|answer| answer.refund.as_ref()), replayed)
}

/// Follows the ledger from where it was when the stream broke off, over every restart.
async fn follow(board: Arc<Board>) {
    let mut address = board.address.subscribe();
    loop {
        let there = tokio::select! {
            () = board.ended.cancelled() => return,
            there = address.wait_for(Option::is_some) => there.map(|address| *address),
        };
        let Ok(Some(there)) = there else { return };
        let after_sequence = board.followed.lock().unwrap().last().map_or(0, |event| event.sequence);
        let mut client =
            RefundServiceClient::new(match Endpoint::from_shared(format!("http://{there}")).unwrap().connect().await {
                Ok(channel) => channel,
                Err(_) => {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                    continue;
                }
            });
        let followed: Result<(), Status> = async {
            let request = proto::StreamRefundEventsRequest { after_sequence };
            let mut events = client.stream_refund_events(request).await?.into_inner();
            loop {
                let next = tokio::select! {
                    () = board.ended.cancelled() => return Ok(()),
                    next = events.message() => next?,
                };
                let Some(next) = next else { return Ok(()) };
                board.followed.lock().unwrap().extend(next.event);
            }
        }
        .await;
        if followed.is_err() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

pub(crate) fn name(id: &str) -> String {
    format!("refunds/{id}")
}

pub(crate) fn milliseconds(number: u64) -> prost_types::Duration {
    let nanos = i32::try_from(number % 1000).unwrap() * 1_000_000;
    prost_types::Duration { seconds: i64::try_from(number / 1000).unwrap(), nanos }
}
