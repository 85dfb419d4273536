//! The wire of a run: carries the adapters' real bytes to the providers and back, as well as the
//! plan lets it.

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
use simulators::request::{Request, Response as Said};

use crate::plan::{CrashAt, Harm, Lie, Outage, Who};
use crate::rng::Dice;
use crate::setups::Spot;
use crate::sim::{Life, Sim, lock, micros};
use crate::world::{self, Sent};

/// The wire of one account, for one process.
pub(crate) struct SimWire {
    pub(crate) spot: Spot,
    /// The account and its place, as the process has them.
    pub(crate) at: Destination,
    pub(crate) sim: Arc<Sim>,
    pub(crate) life: Arc<Life>,
}

/// As configured: `total_timeout`.
pub(crate) const TOTAL_TIMEOUT: Duration = Duration::from_secs(60);

/// A call that is on its way.
struct Course<'a> {
    sim: &'a Sim,
    life: &'a Life,
    sent: usize,
    begun: tokio::time::Instant,
    /// Until it arrives, and from there on until the answer is here.
    legs: [Duration; 2],
}

#[async_trait]
impl Transport for SimWire {
    async fn exchange(&self, url: Url, call: HttpRequest, purpose: RequestKind, longest: usize) -> HttpOutcome {
        self.life.breathe().await;
        let _busy = self.sim.busy();
        let moving = purpose == RequestKind::Refund;
        let request = Request::new(call.method, call.path, call.headers, call.body, url.scheme() == "https");
        let who = self.spot.who;
        if url.host_str() != self.spot.endpoint().host_str() {
            self.sim.wrong("redirect never followed", format_args!("a call with credentials went to {url}"));
            return answered(StatusCode::OK, Bytes::from_static(b"0"), longest);
        }
        let identified = world::identify(who, &request);
        let target = identified.target.as_deref().and_then(|named| world::target_of(who, named));
        let whose = if moving { self.whose(identified.identifier.as_deref(), target).await } else { None };
        if !moving {
            self.judge_look(identified.identifier.as_deref(), target).await;
        }
        let (sent, nth) = self.note(&request, &identified.operation, moving, target, whose);
        let harm = self.harm(target, moving, nth, sent);
        let mut dice = self.sim.dice(&[1, u64::from(target.unwrap_or(255)), u64::from(moving), u64::from(nth)]);
        let exchange = self.carry(sent, &request, harm, &mut dice, longest).await;
        self.life.breathe().await;
        let told = told(&exchange);
        self.sim.trace(format_args!("wire< #{sent} {told}"));
        if let HttpOutcome::Answered(answer) = &exchange {
            let mut world = lock(&self.sim.world);
            let last = world.wire.iter().map(|one| one.answered).max().unwrap_or(0);
            world.wire[sent].answered = last + 1;
            world.wire[sent].shows_nothing = String::from_utf8_lossy(&answer.body).contains("Code>08<");
        }
        if matches!(exchange, HttpOutcome::NotSent { .. }) || is_not_processed(who, &exchange) {
            lock(&self.sim.world).wire[sent].not_processed = true;
        }
        exchange
    }
}

impl SimWire {
    /// Whose attempt a call is: the ledger must know it, or it is nobody's.
    async fn whose(&self, identifier: Option<&str>, target: Option<u8>) -> Option<Refund> {
        let ledger = self.sim.ledger()?;
        if self.spot.who != Who::Sectigo {
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
        // The same order number at two places is two orders.
        let here = dispatching.iter().position(|refund| refund.destination() == self.at);
        here.map(|place| dispatching.remove(place)).or_else(|| dispatching.pop())
    }

    /// Asked as a read leaves: it is about a refund that belongs here.
    async fn judge_look(&self, identifier: Option<&str>, target: Option<u8>) {
        let Some(ledger) = self.sim.ledger() else { return };
        let all = ListQuery { states: State::ALL.to_vec(), limit: 1_000, ..ListQuery::default() };
        let Ok(all) = ledger.list(all).await else { return };
        let is_meant = |refund: &&Refund| match (self.spot.who, identifier) {
            (Who::Debitsuccess, Some(identifier)) => refund.id().as_str() == identifier,
            _ => refund.provider() == self.spot.who.provider() && crate::oracle::target_of(&refund.intent) == target,
        };
        let meant: Vec<&Refund> = all.iter().map(|listed| &listed.refund).filter(is_meant).collect();
        if !meant.iter().any(|refund| refund.destination() == self.at) {
            self.sim.wrong(
                "asked where it belongs",
                format_args!("{} asks for target {target:?}, and no refund of it belongs there", self.at.account),
            );
        }
    }

    fn note(
        &self,
        request: &Request,
        operation: &str,
        moving: bool,
        target: Option<u8>,
        whose: Option<Refund>,
    ) -> (usize, u32) {
        let mut world = lock(&self.sim.world);
        let nth = target.map_or(0, |target| world.count_call(target, moving));
        let key = request.headers.get("x-idempotency-key").map(|key| key.as_bytes().to_vec()).unwrap_or_default();
        let bytes = [request.path.as_bytes(), &key, &request.body].join(&b'\n');
        let sent = Sent {
            at: self.sim.now(),
            forward: self.sim.forward(),
            ahead: self.sim.ahead(),
            who: self.spot.who,
            spot: self.spot,
            operation: operation.to_owned(),
            moving,
            target,
            attempt: whose.as_ref().map_or(0, |refund| refund.attempt_count),
            refund: whose.as_ref().map(|refund| refund.id().as_str().to_owned()),
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
        if moving {
            crate::places::judge_place(&self.sim, &world.wire, &sent, whose.as_ref(), &self.at);
            crate::oracle::judge_send(&self.sim, &world.wire, &sent, whose.as_ref());
        }
        world.wire.push(sent);
        (number, nth)
    }

    /// What goes wrong with this call.
    fn harm(&self, target: Option<u8>, moving: bool, nth: u32, sent: usize) -> Option<Harm> {
        if self.sim.is_healed() {
            return None;
        }
        let planned = self
            .sim
            .plan
            .harms
            .iter()
            .find(|harm| Some(harm.target) == target && harm.moving == moving && harm.nth == nth);
        let by_outage = || match lock(&self.sim.world).outage(self.spot.who, self.sim.now())? {
            Outage::Refuses => Some(Harm::NotSent),
            Outage::Silent => Some(Harm::LostBefore { timeout: true }),
            Outage::Maintenance => Some(Harm::Status { code: 503, done: false }),
            Outage::Credentials => None,
            Outage::Flaps => match sent % 4 {
                0 => Some(Harm::NotSent),
                1 => Some(Harm::Status { code: 502, done: false }),
                2 => Some(Harm::LostBefore { timeout: false }),
                _ => None,
            },
        };
        let harm = match planned {
            Some(planned) if moving || !matches!(planned.harm, Harm::Late { .. }) => Some(planned.harm),
            _ => by_outage(),
        };
        if let Some(harm) = harm {
            self.sim.count(|figures| *figures.harms.entry(harm.class()).or_default() += 1);
            self.sim.trace(format_args!("  harm #{sent}: {harm:?}"));
        }
        harm
    }

    async fn carry(
        &self,
        sent: usize,
        request: &Request,
        harm: Option<Harm>,
        dice: &mut Dice,
        longest: usize,
    ) -> HttpOutcome {
        let leg = self.sim.plan.habits.leg_ms;
        let mut legs = [dice.between(1, leg), dice.between(1, leg)].map(Duration::from_millis);
        if let Some(Harm::Slow { ms }) = harm {
            legs[1] += Duration::from_millis(ms);
        }
        let course = Course { sim: &self.sim, life: &self.life, sent, begun: tokio::time::Instant::now(), legs };
        match harm {
            None | Some(Harm::Slow { .. }) => course.there_and_back(request, longest, |said| said).await,
            Some(Harm::NotSent) => {
                course.passes(legs[0]).await;
                HttpOutcome::NotSent { evidence: "no connection: refused".to_owned() }
            }
            Some(Harm::LostBefore { timeout }) => course.lost(timeout, legs[0]).await,
            Some(Harm::LostAfter { timeout }) => {
                course.post(request, legs[0]);
                course.lost(timeout, legs[0] + legs[1]).await
            }
            Some(Harm::Late { after_s }) => {
                course.post(request, Duration::from_secs(after_s));
                course.lost(true, TOTAL_TIMEOUT).await
            }
            Some(Harm::Status { code, done }) => {
                let status = StatusCode::from_u16(code).unwrap();
                let page = Bytes::from_static(b"<html>upstream error</html>");
                course.instead(request, done, answered(status, page, longest)).await
            }
            Some(Harm::Garbage { done }) => {
                let bytes = Bytes::from_static(b"\xff\xfe\x00 0 {\"<>&;\x1b[2J");
                course.instead(request, done, answered(StatusCode::OK, bytes, longest)).await
            }
            Some(Harm::Page { done }) => {
                let page = Bytes::from_static(b"<!DOCTYPE html><html><body>Welcome</body></html>");
                course.instead(request, done, answered(StatusCode::OK, page, longest)).await
            }
            Some(Harm::Flood { done }) => {
                let flood = Bytes::from(vec![b'0'; longest + 1]);
                course.instead(request, done, answered(StatusCode::OK, flood, longest)).await
            }
            Some(Harm::Redirect { done }) => {
                let location = HeaderValue::from_static("https://elsewhere.example/steal");
                let headers = HeaderMap::from_iter([(header::LOCATION, location)]);
                let answer = HttpResponse { status: 307, headers, body: Bytes::new() };
                course.instead(request, done, HttpOutcome::Answered(answer)).await
            }
            Some(Harm::Cut { percent }) => {
                let cut = |mut said: Said| {
                    said.body.truncate(said.body.len() * usize::from(percent.min(99)) / 100);
                    said
                };
                course.there_and_back(request, longest, cut).await
            }
            Some(Harm::OtherIds) => course.there_and_back(request, longest, with_other_ids).await,
            Some(Harm::Relabelled { code }) => {
                course.there_and_back(request, longest, |said| beside_a_message(said, code)).await
            }
            Some(Harm::Stale { by_s }) => {
                course.passes(legs[0]).await;
                let as_of = self.sim.now() - micros(Duration::from_secs(by_s));
                let said = lock(&self.sim.world).pretend(self.spot, as_of, &[request]);
                course.passes(legs[0] + legs[1]).await;
                heard(said, longest)
            }
            Some(Harm::Lie { lie }) => {
                let said = self.lie(lie, request);
                course.passes(legs[0] + legs[1]).await;
                heard(said, longest)
            }
            Some(Harm::Crash { at }) => {
                match at {
                    CrashAt::BeforeItLeaves => {}
                    CrashAt::OnItsWay => course.post(request, legs[0]),
                    CrashAt::BeforeTheAnswerIsRead => {
                        course.post(request, legs[0]);
                        course.passes(legs[0]).await;
                        lock(&self.sim.world).deliver(&self.sim, self.sim.now());
                    }
                }
                self.sim.crash(&self.life, "on the wire", dice.between(0, 900));
                std::future::pending().await
            }
        }
    }

    fn lie(&self, lie: Lie, request: &Request) -> Option<Said> {
        let world = lock(&self.sim.world);
        let now = self.sim.now();
        // Under no key, so that the second is a new request to a provider that replays.
        let mut keyless = request.clone();
        keyless.headers.remove("x-idempotency-key");
        match lie {
            Lie::Yes | Lie::Taken => world.pretend(self.spot, now, &[request]),
            Lie::Replay => world.pretend(self.spot, now, &[request, request]),
            Lie::Already if self.spot.who == Who::Debitsuccess => world.pretend(self.spot, now, &[request, request]),
            Lie::Already => world.pretend(self.spot, now, &[&keyless, &keyless]),
        }
    }
}

impl Course<'_> {
    /// Until so long after the beginning.
    async fn passes(&self, since_the_beginning: Duration) {
        tokio::time::sleep_until(self.begun + since_the_beginning).await;
        self.life.breathe().await;
    }

    fn post(&self, request: &Request, after: Duration) {
        lock(&self.sim.world).post(self.sent, self.sim.now() + micros(after), request.clone());
    }

    async fn lost(&self, timeout: bool, after: Duration) -> HttpOutcome {
        self.passes(if timeout { TOTAL_TIMEOUT } else { after }).await;
        lock(&self.sim.world).deliver(self.sim, self.sim.now());
        let (reason, evidence) = match timeout {
            true => (DoubtReason::Timeout, "no answer: operation timed out"),
            false => (DoubtReason::ConnectionLost, "no answer: connection closed before message completed"),
        };
        HttpOutcome::Unknown { reason, evidence: evidence.to_owned() }
    }

    async fn there_and_back(
        &self,
        request: &Request,
        longest: usize,
        change: impl FnOnce(Said) -> Said,
    ) -> HttpOutcome {
        let [there, back] = self.legs;
        self.post(request, there);
        if there + back > TOTAL_TIMEOUT {
            return self.lost(true, TOTAL_TIMEOUT).await;
        }
        self.passes(there).await;
        lock(&self.sim.world).deliver(self.sim, self.sim.now());
        self.passes(there + back).await;
        let said = lock(&self.sim.world).take_answer(self.sent);
        heard(said.map(change), longest)
    }

    /// Another answer takes the place of the provider's.
    async fn instead(&self, request: &Request, done: bool, exchange: HttpOutcome) -> HttpOutcome {
        let [there, back] = self.legs;
        if done {
            self.post(request, there);
            self.passes(there).await;
            lock(&self.sim.world).deliver(self.sim, self.sim.now());
        }
        self.passes(there + back).await;
        exchange
    }
}

/// The provider's answer as the client's library hands it on.
fn heard(said: Option<Said>, longest: usize) -> HttpOutcome {
    let Some(Said { status, headers, body }) = said else {
        return HttpOutcome::Unknown { reason: DoubtReason::ConnectionLost, evidence: "no answer".to_owned() };
    };
    match answered(status, body, longest) {
        HttpOutcome::Answered(answer) => HttpOutcome::Answered(HttpResponse { headers, ..answer }),
        other => other,
    }
}

fn answered(status: StatusCode, body: Bytes, longest: usize) -> HttpOutcome {
    if body.len() > longest {
        let evidence = format!("HTTP {} with a body longer than {longest} bytes", status.as_u16());
        return HttpOutcome::Unknown { reason: DoubtReason::UnreadableReply, evidence };
    }
    HttpOutcome::Answered(HttpResponse { status: status.as_u16(), headers: HeaderMap::new(), body })
}

/// The rows of an answer under another status, and with words that say something else.
fn beside_a_message(mut said: Said, code: u16) -> Said {
    let rows = serde_json::from_slice::<serde_json::Value>(&said.body);
    if let Ok(serde_json::Value::Object(mut members)) = rows
        && members.contains_key("results")
    {
        members.insert("message".to_owned(), "Conflict".into());
        members.insert("details".to_owned(), "The request could not be completed.".into());
        said.status = StatusCode::from_u16(code).unwrap();
        said.body = Bytes::from(serde_json::to_vec(&members).unwrap());
    }
    said
}

/// An answer to somebody else.
fn with_other_ids(mut said: Said) -> Said {
    let text = String::from_utf8_lossy(&said.body).into_owned();
    // Order numbers, order ids and identifiers of a run begin so, and nothing else does.
    let text =
        text.replace("\"10000", "\"19999").replace("Id\":2000", "Id\":2999").replace("\"id\":2000", "\"id\":2999");
    said.body = Bytes::from(text.replace(">r", ">q"));
    if let Some(key) = said.headers.get_mut("x-idempotency-key") {
        *key = HeaderValue::from_static("another");
    }
    said
}

/// The documented ways of a provider to say that it has processed nothing.
fn is_not_processed(who: Who, exchange: &HttpOutcome) -> bool {
    let HttpOutcome::Answered(answer) = exchange else { return false };
    match who {
        Who::Sectigo => answer.body.starts_with(b"-42"),
        Who::Namecom => matches!(answer.status, 401 | 429),
        Who::Debitsuccess => String::from_utf8_lossy(&answer.body).contains("Code>02<"),
    }
}

fn told(exchange: &HttpOutcome) -> String {
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
