//! Callers: several of them, each with its own connection, that create, repeat, change, wait for,
//! cancel and reconcile refunds while the gateway is killed and restarted. They record every call
//! and its answer.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use recoup::proto::v1 as proto;
use recoup::proto::v1::refund::State;
use simulators::{BookEntry, WorldHandle};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tonic::transport::{Channel, Endpoint};

use crate::access::{self, Client, Pause, Person};
use crate::history::{Answer, Call, History};
use crate::plans::Plan;
use crate::rng::SeededRng;
use crate::{providers, quiescence};

pub(crate) const CALLERS: usize = 6;
/// The age of a review after which no effect can still come: effects are at most a second late.
const MIN_REVIEW_AGE_SECONDS: i64 = 5;
/// A call that takes longer hangs: every requested wait is much shorter.
const MAX_CALL_TIME: Duration = Duration::from_secs(15);

/// The reason of a refusal by the daily limit.
pub(crate) const QUOTA_EXCEEDED: &str = "QUOTA_EXCEEDED";

/// The state that all callers share.
pub(crate) struct CallerState {
    /// The address of the gateway; none while it is down.
    pub(crate) address: watch::Sender<Option<SocketAddr>>,
    /// Refunds that no caller has requested yet.
    pub(crate) unrequested: Mutex<VecDeque<Plan>>,
    pub(crate) history: History,
    /// Refunds that callers have requested.
    requested: Mutex<Vec<RequestedRefund>>,
    /// The events that the follower received, in order.
    pub(crate) followed: Mutex<Vec<proto::RefundEvent>>,
    /// The pauses that the operator began and ended.
    pub(crate) pauses: Mutex<Vec<Pause>>,
    pub(crate) ended: CancellationToken,
    /// The books that the operator reads before resolving a refund.
    worlds: Mutex<[WorldHandle; 2]>,
}

#[derive(Clone)]
struct RequestedRefund {
    plan: Plan,
    acknowledged: bool,
    over_the_limit: bool,
    state: Option<State>,
}

impl RequestedRefund {
    /// Whether its caller does not know if it is recorded.
    fn is_unknown(&self) -> bool {
        !self.acknowledged && !self.over_the_limit
    }
}

/// A call that a caller makes.
#[derive(Debug, Clone, Copy)]
enum Action {
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
    Decide,
}

const ACTIONS: [(u64, Action); 12] = [
    (40, Action::Create),
    (16, Action::Repeat),
    (3, Action::Change),
    (4, Action::Rival),
    (2, Action::Validate),
    (6, Action::Get),
    (3, Action::List),
    (8, Action::Wait),
    (8, Action::Cancel),
    (10, Action::Reconcile),
    (3, Action::Resolve),
    (5, Action::Decide),
];

impl CallerState {
    pub(crate) fn new(worlds: [WorldHandle; 2]) -> Arc<CallerState> {
        Arc::new(CallerState {
            address: watch::Sender::new(None),
            unrequested: Mutex::default(),
            history: History::begin(),
            requested: Mutex::default(),
            followed: Mutex::default(),
            pauses: Mutex::default(),
            ended: CancellationToken::new(),
            worlds: Mutex::new(worlds),
        })
    }

    /// Replaces the worlds after a restart of the simulators.
    pub(crate) fn set_worlds(&self, worlds: [WorldHandle; 2]) {
        *self.worlds.lock().unwrap() = worlds;
    }

    /// What really happened, in all books.
    pub(crate) fn books(&self) -> Vec<BookEntry> {
        let worlds = self.worlds.lock().unwrap().clone();
        worlds.iter().flat_map(WorldHandle::books).collect()
    }

    /// All refunds that were requested, including rivals.
    pub(crate) fn plans(&self) -> Vec<Plan> {
        self.requested.lock().unwrap().iter().map(|refund| refund.plan.clone()).collect()
    }

    /// A random requested refund among those that fit; the latest are the likeliest.
    fn pick_requested(&self, rng: &mut SeededRng, fits: impl Fn(&RequestedRefund) -> bool) -> Option<Plan> {
        let requested = self.requested.lock().unwrap();
        let fitting: Vec<&RequestedRefund> = requested.iter().rev().filter(|refund| fits(refund)).take(200).collect();
        let reach = if rng.percent(70) { fitting.len().min(20) } else { fitting.len() };
        fitting.get(rng.index(reach)).map(|refund| refund.plan.clone())
    }

    fn add_requested(&self, plan: Plan) {
        let mut requested = self.requested.lock().unwrap();
        if requested.iter().all(|refund| refund.plan.id != plan.id) {
            requested.push(RequestedRefund { plan, acknowledged: false, over_the_limit: false, state: None });
        }
    }

    fn record_answer(&self, call: &Call, answer: &Answer) {
        let mut requested = self.requested.lock().unwrap();
        if let (Some(id), Answer::Refused { reason, .. }) = (call.id(), answer)
            && reason == QUOTA_EXCEEDED
            && let Some(known) = requested.iter_mut().rev().find(|refund| refund.plan.id == id)
        {
            known.over_the_limit = true;
        }
        for seen in answer.seen() {
            if let Some(known) = requested.iter_mut().rev().find(|refund| refund.plan.id == seen.id) {
                known.acknowledged = true;
                known.state = Some(seen.state);
            }
        }
    }
}

/// Starts all callers; they end when `ended` is cancelled.
pub(crate) fn spawn(caller_state: &Arc<CallerState>, seed: u64, run: u64) -> JoinSet<()> {
    let mut callers = JoinSet::new();
    for number in 0..CALLERS {
        let rng = SeededRng::new(seed, &[run, 1, number as u64]);
        callers.spawn(Caller { caller_state: caller_state.clone(), number, rng, client: None }.work());
    }
    callers.spawn(follow(caller_state.clone()));
    callers.spawn(access::operate(caller_state.clone(), SeededRng::new(seed, &[run, 5])));
    callers
}

/// A client of the gateway at this address, without a connection yet.
pub(crate) fn client(address: SocketAddr) -> Client {
    access::client(channel(address)).max_decoding_message_size(64 * 1024 * 1024)
}

pub(crate) fn channel(address: SocketAddr) -> Channel {
    Endpoint::from_shared(format!("http://{address}")).unwrap().timeout(MAX_CALL_TIME).connect_lazy()
}

struct Caller {
    caller_state: Arc<CallerState>,
    number: usize,
    rng: SeededRng,
    client: Option<(SocketAddr, Client)>,
}

impl Caller {
    async fn work(mut self) {
        let caller_state = self.caller_state.clone();
        let mut address = caller_state.address.subscribe();
        loop {
            let there = tokio::select! {
                () = caller_state.ended.cancelled() => return,
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
            let is_known = self.act(client).await;
            // A pause between two calls, and a longer one while the gateway is down.
            let pause = if is_known { self.rng.weighted(&[(6, 0), (3, 2), (1, 15)]) } else { 10 };
            tokio::time::sleep(Duration::from_millis(pause)).await;
        }
    }

    /// Makes one call. False where its outcome is not known, or no refund fits.
    async fn act(&mut self, mut client: Client) -> bool {
        let caller_state = self.caller_state.clone();
        let rng = &mut self.rng;
        let began = caller_state.history.now();
        let (call, answer) = match rng.weighted(&ACTIONS) {
            Action::Decide => return decide_one(&client, &caller_state, rng, self.number).await,
            Action::Resolve => return resolve_one(&client, &caller_state, rng, self.number).await,
            Action::Create => {
                let Some(plan) = caller_state.unrequested.lock().unwrap().pop_front() else { return false };
                caller_state.add_requested(plan.clone());
                (Call::Create(plan.id.clone()), create(&mut client, &plan, plan.request(), rng).await)
            }
            Action::Repeat => {
                // Mostly unacknowledged refunds: those are what callers repeat.
                let unknown = rng.percent(60);
                let Some(plan) = caller_state.pick_requested(rng, |refund| !unknown || refund.is_unknown()) else {
                    return false;
                };
                (Call::Create(plan.id.clone()), create(&mut client, &plan, plan.request(), rng).await)
            }
            Action::Change => {
                let Some(plan) = caller_state.pick_requested(rng, |refund| refund.acknowledged) else { return false };
                (Call::Change(plan.id.clone()), create(&mut client, &plan, plan.changed(), rng).await)
            }
            Action::Rival => {
                let Some(plan) = caller_state.pick_requested(rng, |_| true) else { return false };
                let rival = Plan { id: format!("{}-r{}", plan.id, rng.between(0, 9)), ..plan.clone() };
                let call = Call::Rival { id: rival.id.clone(), of: plan.id };
                caller_state.add_requested(rival.clone());
                (call, create(&mut client, &rival, rival.request(), rng).await)
            }
            Action::Validate => {
                let Some(plan) = caller_state.pick_requested(rng, |_| true) else { return false };
                let id = format!("{}-v", plan.id);
                let request =
                    proto::CreateRefundRequest { refund_id: id.clone(), validate_only: true, ..plan.request() };
                let answer = client.create_refund(Person::creator_of(&plan).request(request)).await;
                let answer = answer.map(|answer| answer.into_inner().refund);
                // The answer shows a refund that is not recorded, so it proves nothing.
                let answer = Answer::of(answer.as_ref().map(|_| []), false);
                (Call::Validate(id), answer)
            }
            Action::Get => {
                let Some(plan) = caller_state.pick_requested(rng, |_| true) else { return false };
                let name = name(&plan.id);
                let answer = client.get_refund(proto::GetRefundRequest { name }).await;
                let answer = answer.map(|answer| answer.into_inner().refund);
                (Call::Get(plan.id), Answer::of(answer.as_ref(), false))
            }
            Action::List => {
                let states = match rng.between(0, 2) {
                    0 => vec![],
                    1 => vec![State::InDoubt.into(), State::NeedsReview.into()],
                    _ => vec![State::Pending.into()],
                };
                let filter = Some(proto::RefundFilter { states, ..Default::default() });
                let request = proto::ListRefundsRequest { page_size: 50, filter, ..Default::default() };
                let answer = client.list_refunds(request).await.map(|answer| answer.into_inner().refunds);
                (Call::List, Answer::of(answer.as_ref(), false))
            }
            Action::Wait => {
                let Some(plan) = caller_state.pick_requested(rng, |_| true) else { return false };
                let timeout = Some(milliseconds(rng.between(0, 300)));
                let after_revision = i64::try_from(rng.between(0, 3)).unwrap();
                let request = proto::WaitRefundRequest { name: name(&plan.id), after_revision, timeout };
                let answer = client.wait_refund(request).await.map(|answer| answer.into_inner().refund);
                (Call::Wait(plan.id), Answer::of(answer.as_ref(), false))
            }
            Action::Cancel => {
                let pending = rng.percent(70);
                let fits = |refund: &RequestedRefund| !pending || refund.state == Some(State::Pending);
                let Some(plan) = caller_state.pick_requested(rng, fits) else { return false };
                let request = proto::CancelRefundRequest { name: name(&plan.id), etag: String::new() };
                let answer = client.cancel_refund(request).await.map(|answer| answer.into_inner().refund);
                (Call::Cancel(plan.id), Answer::of(answer.as_ref(), false))
            }
            Action::Reconcile => {
                let open = [Some(State::InDoubt), Some(State::Submitted), Some(State::NeedsReview)];
                let Some(plan) = caller_state.pick_requested(rng, |refund| open.contains(&refund.state)) else {
                    return false;
                };
                let answer = client.reconcile_refund(proto::ReconcileRefundRequest { name: name(&plan.id) }).await;
                let answer = answer.map(|answer| answer.into_inner().refund);
                (Call::Reconcile(plan.id), Answer::of(answer.as_ref(), false))
            }
        };
        caller_state.record_answer(&call, &answer);
        let is_known = !matches!(answer, Answer::Unknown(_));
        caller_state.history.write(began, self.number, call, answer);
        is_known
    }
}

/// The operator resolves the oldest refund in review. Not before every late effect has happened:
/// what is not in the books then never happens.
async fn resolve_one(client: &Client, caller_state: &Arc<CallerState>, rng: &mut SeededRng, caller: usize) -> bool {
    let Ok(mut left) = quiescence::list(client, &[State::NeedsReview]).await else { return false };
    let now = providers::now().unix_timestamp();
    left.retain(|refund| {
        let since = refund.update_time.map_or(now, |since| since.seconds);
        now - since >= MIN_REVIEW_AGE_SECONDS
    });
    let Some(refund) = left.pop() else { return false };
    // A refusal is an answer, too. A refund that no caller requested is found by the oracle.
    quiescence::resolve(client, caller_state, rng, caller, refund).await.unwrap_or(false)
}

/// Approves or rejects a refund that waits for it: as another owner, or as a colleague of the
/// creator, who may not approve it.
async fn decide_one(client: &Client, caller_state: &CallerState, rng: &mut SeededRng, caller: usize) -> bool {
    let Ok(waiting) = quiescence::list(client, &[State::AwaitingApproval]).await else { return false };
    if waiting.is_empty() {
        return false;
    }
    let refund = waiting[rng.index(waiting.len())].clone();
    let person = rng.weighted(&[(3, Person::Finance), (1, Person::Colleague)]);
    let is_approval = rng.percent(80) || person == Person::Colleague;
    let (name, etag, comment) = (refund.name, refund.etag, "decided at random".to_owned());
    let (id, began, mut client) = (refund.refund_id, caller_state.history.now(), client.clone());
    let (call, answer) = if is_approval {
        let request = person.request(proto::ApproveRefundRequest { name, etag, comment });
        (Call::Approve(id), client.approve_refund(request).await.map(|answer| answer.into_inner().refund))
    } else {
        let request = person.request(proto::RejectRefundRequest { name, etag, comment });
        (Call::Reject(id), client.reject_refund(request).await.map(|answer| answer.into_inner().refund))
    };
    let answer = Answer::of(answer.as_ref(), false);
    caller_state.record_answer(&call, &answer);
    let is_known = !matches!(answer, Answer::Unknown(_));
    caller_state.history.write(began, caller, call, answer);
    is_known
}

async fn create(client: &mut Client, plan: &Plan, request: proto::CreateRefundRequest, rng: &mut SeededRng) -> Answer {
    let wait = rng.weighted(&[(3, Some(0)), (3, Some(60)), (2, Some(400)), (1, None)]);
    let request = proto::CreateRefundRequest { wait: wait.map(milliseconds), ..request };
    let answer = client.create_refund(Person::creator_of(plan).request(request)).await;
    let answer = answer.map(tonic::Response::into_inner);
    let replayed = answer.as_ref().is_ok_and(|answer| answer.replayed);
    Answer::of(answer.as_ref().map(|answer| answer.refund.as_ref()), replayed)
}

/// Follows the event stream over every restart, from the last event that was received.
async fn follow(caller_state: Arc<CallerState>) {
    let mut address = caller_state.address.subscribe();
    loop {
        let there = tokio::select! {
            () = caller_state.ended.cancelled() => return,
            there = address.wait_for(Option::is_some) => there.map(|address| *address),
        };
        let Ok(Some(there)) = there else { return };
        let after_sequence = caller_state.followed.lock().unwrap().last().map_or(0, |event| event.sequence);
        let mut client =
            access::client(match Endpoint::from_shared(format!("http://{there}")).unwrap().connect().await {
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
                    () = caller_state.ended.cancelled() => return Ok(()),
                    next = events.message() => next?,
                };
                let Some(next) = next else { return Ok(()) };
                caller_state.followed.lock().unwrap().extend(next.event);
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
