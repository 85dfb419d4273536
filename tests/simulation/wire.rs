//! The wire of a run: carries the adapters' real bytes to the providers and back, with the faults
//! of the plan.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use recoup::domain::ids::RefundId;
use recoup::domain::outcome::DoubtReason;
use recoup::domain::place::Destination;
use recoup::domain::refund::Refund;
use recoup::domain::state::State;
use recoup::http::client::{HttpOutcome, HttpRequest, HttpResponse, RequestKind, Transport};
use recoup::ledger::{Ledger, ListQuery};
use recoup::providers::Url;
use simulators::request::{Request, Response as ProviderAnswer};

use crate::plan::{CrashAt, Fault, Lie, Outage, ProviderKind};
use crate::rng::SeededRng;
use crate::setups::Site;
use crate::sim::{Process, Sim, lock, micros};
use crate::world::{self, SentRequest};

/// The transport of one account in one process.
pub(crate) struct SimTransport {
    pub(crate) site: Site,
    /// The account and its place, as the process is configured.
    pub(crate) at: Destination,
    pub(crate) sim: Arc<Sim>,
    pub(crate) process: Arc<Process>,
}

/// The setting `total_timeout`.
pub(crate) const TOTAL_TIMEOUT: Duration = Duration::from_secs(60);

/// A request on its way, and its answer.
struct InTransit<'a> {
    sim: &'a Sim,
    process: &'a Process,
    sent: usize,
    begun: tokio::time::Instant,
    /// From the send to the arrival.
    request_leg: Duration,
    /// From the arrival to the answer.
    answer_leg: Duration,
}

#[async_trait]
impl Transport for SimTransport {
    async fn exchange(&self, url: Url, call: HttpRequest, purpose: RequestKind, max_bytes: usize) -> HttpOutcome {
        self.process.stop_if_ended().await;
        let _busy = self.sim.busy();
        let moves_money = purpose == RequestKind::Refund;
        let request = Request::new(call.method, call.path, call.headers, call.body, url.scheme() == "https");
        let provider = self.site.provider;
        if url.host_str() != self.site.endpoint().host_str() {
            self.sim.violation("redirect never followed", format_args!("a request with credentials was sent to {url}"));
            return answered(StatusCode::OK, Bytes::from_static(b"0"), max_bytes);
        }
        let identified = world::identify(provider, &request);
        let target = identified.target.as_deref().and_then(|named| world::target_of(provider, named));
        let refund = if moves_money { self.refund_of(identified.identifier.as_deref(), target).await } else { None };
        if !moves_money {
            self.judge_lookup(identified.identifier.as_deref(), target).await;
        }
        let (sent, nth) = self.record(&request, &identified.operation, moves_money, target, refund);
        let fault = self.fault(target, moves_money, nth, sent);
        let mut rng = self.sim.rng(&[1, u64::from(target.unwrap_or(255)), u64::from(moves_money), u64::from(nth)]);
        let exchange = self.carry(sent, &request, fault, &mut rng, max_bytes).await;
        self.process.stop_if_ended().await;
        self.sim.trace(format_args!("wire< #{sent} {}", summary(&exchange)));
        lock(&self.sim.world).wire[sent].has_outcome = true;
        if let HttpOutcome::Answered(answer) = &exchange {
            let mut world = lock(&self.sim.world);
            let last = world.wire.iter().map(|one| one.answered).max().unwrap_or(0);
            world.wire[sent].answered = last + 1;
            world.wire[sent].shows_nothing = String::from_utf8_lossy(&answer.body).contains("Code>08<");
        }
        if matches!(exchange, HttpOutcome::NotSent { .. }) || is_not_processed(provider, &exchange) {
            lock(&self.sim.world).wire[sent].not_processed = true;
        }
        exchange
    }
}

impl SimTransport {
    /// The refund whose attempt a request is, as the ledger knows it.
    async fn refund_of(&self, identifier: Option<&str>, target: Option<u8>) -> Option<Refund> {
        let ledger = self.sim.ledger()?;
        if self.site.provider != ProviderKind::Sectigo {
            return ledger.get(&RefundId::parse(identifier?).ok()?).await.ok()?;
        }
        let query = ListQuery {
            target_reference: target.map(world::order_number),
            states: vec![State::Dispatching],
            limit: 10,
            ..ListQuery::default()
        };
        let mut dispatching: Vec<Refund> =
            ledger.list(query).await.ok()?.into_iter().map(|listed| listed.refund).collect();
        // The same order number at two sites is two orders.
        let here = dispatching.iter().position(|refund| refund.destination() == self.at);
        here.map(|index| dispatching.remove(index)).or_else(|| dispatching.pop())
    }

    /// Judges a read as it is sent: it must be about a refund that belongs here.
    async fn judge_lookup(&self, identifier: Option<&str>, target: Option<u8>) {
        let Some(ledger) = self.sim.ledger() else { return };
        let all = ListQuery { states: State::ALL.to_vec(), limit: 1_000, ..ListQuery::default() };
        let Ok(all) = ledger.list(all).await else { return };
        let is_meant = |refund: &&Refund| match (self.site.provider, identifier) {
            (ProviderKind::Debitsuccess, Some(identifier)) => refund.id().as_str() == identifier,
            _ => refund.provider() == self.site.provider && crate::oracle::target_of(&refund.intent) == target,
        };
        let meant: Vec<&Refund> = all.iter().map(|listed| &listed.refund).filter(is_meant).collect();
        if !meant.iter().any(|refund| refund.destination() == self.at) {
            self.sim.violation(
                "looked up where it belongs",
                format_args!("{} looks up target {target:?}, and no refund of it belongs there", self.at.account),
            );
        }
    }

    /// Records a request that is sent. Returns its index and its number about its target.
    fn record(
        &self,
        request: &Request,
        operation: &str,
        moves_money: bool,
        target: Option<u8>,
        refund: Option<Refund>,
    ) -> (usize, u32) {
        let mut world = lock(&self.sim.world);
        let nth = target.map_or(0, |target| world.count_request(target, moves_money));
        let key = request.headers.get("x-idempotency-key").map(|key| key.as_bytes().to_vec()).unwrap_or_default();
        let bytes = [request.path.as_bytes(), &key, &request.body].join(&b'\n');
        let sent = SentRequest {
            at: self.sim.now(),
            set_forward: self.sim.set_forward(),
            ahead: self.sim.ahead(),
            provider: self.site.provider,
            site: self.site,
            operation: operation.to_owned(),
            moves_money,
            target,
            attempt: refund.as_ref().map_or(0, |refund| refund.attempt_count),
            refund: refund.as_ref().map(|refund| refund.id().as_str().to_owned()),
            recorded: refund.as_ref().and_then(|refund| refund.last_dispatch_time),
            has_outcome: false,
            not_processed: false,
            answered: 0,
            shows_nothing: false,
            bytes,
        };
        let number = world.wire.len();
        let name = sent.refund.clone().unwrap_or_default();
        self.sim.trace(format_args!(
            "wire> #{number} {} {operation} target {target:?} {name} attempt {}",
            self.at.account, sent.attempt
        ));
        if moves_money {
            crate::places::judge_place(&self.sim, &world.wire, &sent, refund.as_ref(), &self.at);
            crate::oracle::judge_send(&self.sim, &world.wire, &sent, refund.as_ref());
        }
        world.wire.push(sent);
        (number, nth)
    }

    /// What goes wrong with this request.
    fn fault(&self, target: Option<u8>, moves_money: bool, nth: u32, sent: usize) -> Option<Fault> {
        if self.sim.are_faults_off() {
            return None;
        }
        let planned =
            self.sim.plan.wire_faults.iter().find(|planned| {
                Some(planned.target) == target && planned.moves_money == moves_money && planned.nth == nth
            });
        let by_outage = || match lock(&self.sim.world).outage(self.site.provider, self.sim.now())? {
            Outage::Refuses => Some(Fault::NotSent),
            Outage::Silent => Some(Fault::LostBefore { timeout: true }),
            Outage::Maintenance => Some(Fault::Status { code: 503, done: false }),
            Outage::Credentials => None,
            Outage::Flaps => match sent % 4 {
                0 => Some(Fault::NotSent),
                1 => Some(Fault::Status { code: 502, done: false }),
                2 => Some(Fault::LostBefore { timeout: false }),
                _ => None,
            },
        };
        let fault = match planned {
            Some(planned) if moves_money || !matches!(planned.fault, Fault::LateCommit { .. }) => Some(planned.fault),
            _ => by_outage(),
        };
        if let Some(fault) = fault {
            self.sim.count(|figures| *figures.faults.entry(fault.class()).or_default() += 1);
            self.sim.trace(format_args!("  fault #{sent}: {fault:?}"));
        }
        fault
    }

    async fn carry(
        &self,
        sent: usize,
        request: &Request,
        fault: Option<Fault>,
        rng: &mut SeededRng,
        max_bytes: usize,
    ) -> HttpOutcome {
        let leg_ms = self.sim.plan.behaviour.leg_ms;
        let request_leg = Duration::from_millis(rng.between(1, leg_ms));
        let mut answer_leg = Duration::from_millis(rng.between(1, leg_ms));
        if let Some(Fault::Slow { ms }) = fault {
            answer_leg += Duration::from_millis(ms);
        }
        let both_legs = request_leg + answer_leg;
        let begun = tokio::time::Instant::now();
        let transit = InTransit { sim: &self.sim, process: &self.process, sent, begun, request_leg, answer_leg };
        match fault {
            None | Some(Fault::Slow { .. }) => transit.exchange(request, max_bytes, |answer| answer).await,
            Some(Fault::NotSent) => {
                transit.wait_until(request_leg).await;
                HttpOutcome::NotSent { evidence: "no connection: refused".to_owned() }
            }
            Some(Fault::LostBefore { timeout }) => transit.lost(timeout, request_leg).await,
            Some(Fault::LostAfter { timeout }) => {
                transit.send(request, request_leg);
                transit.lost(timeout, both_legs).await
            }
            Some(Fault::LateCommit { after_s }) => {
                transit.send(request, Duration::from_secs(after_s));
                transit.lost(true, TOTAL_TIMEOUT).await
            }
            Some(Fault::Status { code, done }) => {
                let status = StatusCode::from_u16(code).unwrap();
                let page = Bytes::from_static(b"<html>upstream error</html>");
                transit.answer_instead(request, done, answered(status, page, max_bytes)).await
            }
            Some(Fault::Garbage { done }) => {
                let bytes = Bytes::from_static(b"\xff\xfe\x00 0 {\"<>&;\x1b[2J");
                transit.answer_instead(request, done, answered(StatusCode::OK, bytes, max_bytes)).await
            }
            Some(Fault::WebPage { done }) => {
                let page = Bytes::from_static(b"<!DOCTYPE html><html><body>Welcome</body></html>");
                transit.answer_instead(request, done, answered(StatusCode::OK, page, max_bytes)).await
            }
            Some(Fault::Oversized { done }) => {
                let flood = Bytes::from(vec![b'0'; max_bytes + 1]);
                transit.answer_instead(request, done, answered(StatusCode::OK, flood, max_bytes)).await
            }
            Some(Fault::Redirect { done }) => {
                let location = HeaderValue::from_static("https://elsewhere.example/steal");
                let headers = HeaderMap::from_iter([(header::LOCATION, location)]);
                let answer = HttpResponse { status: 307, headers, body: Bytes::new() };
                transit.answer_instead(request, done, HttpOutcome::Answered(answer)).await
            }
            Some(Fault::Truncated { percent }) => {
                let cut = |mut answer: ProviderAnswer| {
                    answer.body.truncate(answer.body.len() * usize::from(percent.min(99)) / 100);
                    answer
                };
                transit.exchange(request, max_bytes, cut).await
            }
            Some(Fault::WrongIdentifiers) => transit.exchange(request, max_bytes, with_wrong_identifiers).await,
            Some(Fault::Relabelled { code }) => {
                transit.exchange(request, max_bytes, |answer| beside_a_message(answer, code)).await
            }
            Some(Fault::Stale { by_s }) => {
                transit.wait_until(request_leg).await;
                let as_of = self.sim.now() - micros(Duration::from_secs(by_s));
                let answer = lock(&self.sim.world).pretend(self.site, as_of, &[request]);
                transit.wait_until(both_legs).await;
                as_outcome(answer, max_bytes)
            }
            Some(Fault::Lie { lie }) => {
                let answer = self.lie(lie, request);
                transit.wait_until(both_legs).await;
                as_outcome(answer, max_bytes)
            }
            Some(Fault::Crash { at }) => {
                match at {
                    CrashAt::BeforeItLeaves => {}
                    CrashAt::OnItsWay => transit.send(request, request_leg),
                    CrashAt::BeforeTheAnswerIsRead => {
                        transit.send(request, request_leg);
                        transit.wait_until(request_leg).await;
                        lock(&self.sim.world).deliver(&self.sim, self.sim.now());
                    }
                }
                self.sim.crash(&self.process, "on the wire", rng.between(0, 900));
                std::future::pending().await
            }
        }
    }

    fn lie(&self, lie: Lie, request: &Request) -> Option<ProviderAnswer> {
        let world = lock(&self.sim.world);
        let now = self.sim.now();
        // Without a key the second request is new to a provider that replays answers.
        let mut keyless = request.clone();
        keyless.headers.remove("x-idempotency-key");
        match lie {
            Lie::Yes | Lie::Taken => world.pretend(self.site, now, &[request]),
            Lie::Replay => world.pretend(self.site, now, &[request, request]),
            Lie::Already if self.site.provider == ProviderKind::Debitsuccess => {
                world.pretend(self.site, now, &[request, request])
            }
            Lie::Already => world.pretend(self.site, now, &[&keyless, &keyless]),
        }
    }
}

impl InTransit<'_> {
    /// Waits until this long after the send.
    async fn wait_until(&self, since_begin: Duration) {
        tokio::time::sleep_until(self.begun + since_begin).await;
        self.process.stop_if_ended().await;
    }

    fn send(&self, request: &Request, after: Duration) {
        lock(&self.sim.world).put_in_flight(self.sent, self.sim.now() + micros(after), request.clone());
    }

    async fn lost(&self, timeout: bool, after: Duration) -> HttpOutcome {
        self.wait_until(if timeout { TOTAL_TIMEOUT } else { after }).await;
        lock(&self.sim.world).deliver(self.sim, self.sim.now());
        let (reason, evidence) = match timeout {
            true => (DoubtReason::Timeout, "no answer: operation timed out"),
            false => (DoubtReason::ConnectionLost, "no answer: connection closed before message completed"),
        };
        HttpOutcome::Unknown { reason, evidence: evidence.to_owned() }
    }

    async fn exchange(
        &self,
        request: &Request,
        max_bytes: usize,
        change: impl FnOnce(ProviderAnswer) -> ProviderAnswer,
    ) -> HttpOutcome {
        self.send(request, self.request_leg);
        if self.request_leg + self.answer_leg > TOTAL_TIMEOUT {
            return self.lost(true, TOTAL_TIMEOUT).await;
        }
        self.wait_until(self.request_leg).await;
        lock(&self.sim.world).deliver(self.sim, self.sim.now());
        self.wait_until(self.request_leg + self.answer_leg).await;
        let answer = lock(&self.sim.world).take_answer(self.sent);
        as_outcome(answer.map(change), max_bytes)
    }

    /// Answers with `exchange` in place of the provider's answer.
    async fn answer_instead(&self, request: &Request, done: bool, exchange: HttpOutcome) -> HttpOutcome {
        if done {
            self.send(request, self.request_leg);
            self.wait_until(self.request_leg).await;
            lock(&self.sim.world).deliver(self.sim, self.sim.now());
        }
        self.wait_until(self.request_leg + self.answer_leg).await;
        exchange
    }
}

/// The provider's answer as the HTTP client returns it.
fn as_outcome(answer: Option<ProviderAnswer>, max_bytes: usize) -> HttpOutcome {
    let Some(ProviderAnswer { status, headers, body }) = answer else {
        return HttpOutcome::Unknown { reason: DoubtReason::ConnectionLost, evidence: "no answer".to_owned() };
    };
    match answered(status, body, max_bytes) {
        HttpOutcome::Answered(answer) => HttpOutcome::Answered(HttpResponse { headers, ..answer }),
        other => other,
    }
}

fn answered(status: StatusCode, body: Bytes, max_bytes: usize) -> HttpOutcome {
    if body.len() > max_bytes {
        let evidence = format!("HTTP {} with a body longer than {max_bytes} bytes", status.as_u16());
        return HttpOutcome::Unknown { reason: DoubtReason::UnreadableReply, evidence };
    }
    HttpOutcome::Answered(HttpResponse { status: status.as_u16(), headers: HeaderMap::new(), body })
}

/// The rows of an answer under another status, beside a message that contradicts them.
fn beside_a_message(mut answer: ProviderAnswer, code: u16) -> ProviderAnswer {
    let rows = serde_json::from_slice::<serde_json::Value>(&answer.body);
    if let Ok(serde_json::Value::Object(mut members)) = rows
        && members.contains_key("results")
    {
        members.insert("message".to_owned(), "Conflict".into());
        members.insert("details".to_owned(), "The request could not be completed.".into());
        answer.status = StatusCode::from_u16(code).unwrap();
        answer.body = Bytes::from(serde_json::to_vec(&members).unwrap());
    }
    answer
}

/// An answer to another request.
fn with_wrong_identifiers(mut answer: ProviderAnswer) -> ProviderAnswer {
    let text = String::from_utf8_lossy(&answer.body).into_owned();
    // Only order numbers, order ids and identifiers of a run begin like this.
    let text =
        text.replace("\"10000", "\"19999").replace("Id\":2000", "Id\":2999").replace("\"id\":2000", "\"id\":2999");
    answer.body = Bytes::from(text.replace(">r", ">q"));
    if let Some(key) = answer.headers.get_mut("x-idempotency-key") {
        *key = HeaderValue::from_static("another");
    }
    answer
}

/// Whether a provider answers, in one of its documented ways, that it has processed nothing.
fn is_not_processed(provider: ProviderKind, exchange: &HttpOutcome) -> bool {
    let HttpOutcome::Answered(answer) = exchange else { return false };
    match provider {
        ProviderKind::Sectigo => answer.body.starts_with(b"-42"),
        ProviderKind::Namecom => matches!(answer.status, 401 | 429),
        ProviderKind::Debitsuccess => String::from_utf8_lossy(&answer.body).contains("Code>02<"),
    }
}

/// One line for the trace.
fn summary(exchange: &HttpOutcome) -> String {
    match exchange {
        HttpOutcome::Answered(answer) => {
            let text = String::from_utf8_lossy(&answer.body);
            let shown: String = text.chars().take(120).collect::<String>().escape_debug().collect();
            format!("{} {} bytes {shown}", answer.status, answer.body.len())
        }
        HttpOutcome::NotSent { evidence } => format!("not sent: {evidence}"),
        HttpOutcome::Unknown { reason, evidence } => format!("lost: {} ({evidence})", reason.as_str()),
    }
}
