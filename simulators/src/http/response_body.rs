//! An answer on its way out: whole, or in the way that the rules say.
//!
//! The head always goes out whole and tells the length of the whole body, so that a client can see
//! what is missing.

use std::{
    collections::VecDeque,
    convert::Infallible,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use tokio::time::Sleep;

use crate::{
    faults::gates::Parked,
    http::connection::{Cut, Fate},
};

/// What happens to a body from one of its bytes on.
#[derive(Debug)]
pub(crate) enum Act {
    Wait(Duration),
    /// Waits until a gate lets it go on.
    Gate(Parked),
    Corrupt(usize),
    Drip {
        bytes: usize,
        every: Duration,
    },
    Cut(Cut),
}

/// The whole course of a body.
#[derive(Debug)]
pub(crate) struct Plan {
    beats: VecDeque<Beat>,
    /// What will have gone out at the end.
    sent: Bytes,
    cut: Option<Cut>,
    whole: u64,
    is_slow: bool,
    is_plain: bool,
}

#[derive(Debug)]
enum Beat {
    Bytes(Bytes),
    Drip { left: Bytes, bytes: usize, every: Duration },
    Wait(Duration),
    Gate(Parked),
    Cut(Cut),
}

impl Plan {
    /// The whole body at once.
    pub(crate) fn plain(body: Bytes) -> Plan {
        Plan::new(body, Vec::new())
    }

    /// Acts at the same byte happen in their order; what begins behind the end of the body begins
    /// at its end.
    pub(crate) fn new(body: Bytes, mut acts: Vec<(usize, Act)>) -> Plan {
        let whole = body.len() as u64;
        let is_plain = acts.is_empty();
        acts.sort_by_key(|(at, _)| *at);
        let body = corrupted(body, &acts);
        let mut plan = Plan { beats: VecDeque::new(), sent: body.clone(), cut: None, whole, is_slow: false, is_plain };
        let mut dripping = None;
        let mut position = 0;
        for (at, act) in acts {
            let at = at.min(body.len());
            plan.pass(body.slice(position..at), dripping);
            position = at;
            match act {
                Act::Corrupt(_) => {}
                Act::Drip { bytes, every } => dripping = Some((bytes, every)),
                Act::Wait(wait) => plan.slowly(Beat::Wait(wait)),
                Act::Gate(parked) => plan.slowly(Beat::Gate(parked)),
                Act::Cut(cut) => {
                    plan.beats.push_back(Beat::Cut(cut));
                    plan.cut = Some(cut);
                    plan.sent = body.slice(..at);
                    return plan;
                }
            }
        }
        plan.pass(body.slice(position..), dripping);
        plan
    }

    /// Whether nothing at all is done to it.
    pub(crate) fn is_plain(&self) -> bool {
        self.is_plain
    }

    /// How it is cut at the end, if it is.
    pub(crate) fn cut(&self) -> Option<Cut> {
        self.cut
    }

    /// The bytes of the body that go out.
    pub(crate) fn sent(&self) -> &Bytes {
        &self.sent
    }

    /// Whether less goes out than there is.
    pub(crate) fn is_short(&self) -> bool {
        (self.sent.len() as u64) < self.whole
    }

    /// Whether it waits on its way.
    pub(crate) fn is_slow(&self) -> bool {
        self.is_slow
    }

    fn pass(&mut self, bytes: Bytes, dripping: Option<(usize, Duration)>) {
        match dripping {
            _ if bytes.is_empty() => {}
            None => self.beats.push_back(Beat::Bytes(bytes)),
            Some((piece, every)) => self.slowly(Beat::Drip { left: bytes, bytes: piece, every }),
        }
    }

    fn slowly(&mut self, beat: Beat) {
        self.is_slow = true;
        self.beats.push_back(beat);
    }
}

/// Each byte inverted, so that a corrupted byte is always another one.
fn corrupted(body: Bytes, acts: &[(usize, Act)]) -> Bytes {
    if !acts.iter().any(|(_, act)| matches!(act, Act::Corrupt(_))) {
        return body;
    }
    let mut body = body.to_vec();
    for (at, act) in acts {
        if let Act::Corrupt(bytes) = act {
            body.iter_mut().skip(*at).take(*bytes).for_each(|byte| *byte = !*byte);
        }
    }
    body.into()
}

/// Whom to tell how it went, where that is not clear beforehand.
pub(crate) type Report = Box<dyn FnOnce(Went) + Send>;

/// How a slow answer went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Went {
    /// As planned: nothing more is to come.
    AsPlanned,
    /// The client had gone after so many bytes.
    ClientGone { sent: usize },
}

/// A body as HTTP sends it.
pub(crate) struct Outgoing {
    beats: VecDeque<Beat>,
    left: u64,
    given: usize,
    sleep: Option<Pin<Box<Sleep>>>,
    report: Option<Report>,
    /// Whether a cut is yet to come.
    cut: Option<Cut>,
    line: Option<LineEnd>,
}

/// Where a body tells its connection what comes next.
#[derive(Clone)]
pub(crate) struct LineEnd {
    pub(crate) fate: Fate,
    /// Whether the next bytes on the line are a request's first.
    pub(crate) next_is_due: Arc<AtomicBool>,
}

impl Outgoing {
    pub(crate) fn new(plan: Plan, report: Option<Report>, line: LineEnd) -> Outgoing {
        Outgoing { beats: plan.beats, left: plan.whole, given: 0, sleep: None, report, cut: plan.cut, line: Some(line) }
    }

    fn give(&mut self, bytes: Bytes) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.given += bytes.len();
        self.left = self.left.saturating_sub(bytes.len() as u64);
        // Before the last bytes leave, so that a client that has them finds the journal complete.
        if self.beats.iter().all(|beat| matches!(beat, Beat::Cut(_))) {
            self.tell(Went::AsPlanned);
        }
        Poll::Ready(Some(Ok(Frame::data(bytes))))
    }

    fn tell(&mut self, went: Went) {
        if let Some(report) = self.report.take() {
            report(went);
        }
    }

    fn poll_sleep(&mut self, wait: Duration, cx: &mut Context<'_>) -> Poll<()> {
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(tokio::time::sleep(wait)));
        ready!(sleep.as_mut().poll(cx));
        self.sleep = None;
        Poll::Ready(())
    }
}

impl Body for Outgoing {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        loop {
            match self.beats.pop_front() {
                None => return Poll::Ready(None),
                Some(Beat::Bytes(bytes)) => return self.give(bytes),
                Some(Beat::Wait(wait)) => {
                    if self.poll_sleep(wait, cx).is_pending() {
                        self.beats.push_front(Beat::Wait(wait));
                        return Poll::Pending;
                    }
                }
                Some(Beat::Gate(mut parked)) => {
                    if parked.poll(cx).is_pending() {
                        self.beats.push_front(Beat::Gate(parked));
                        return Poll::Pending;
                    }
                }
                Some(Beat::Drip { mut left, bytes, every }) => {
                    if self.poll_sleep(every, cx).is_pending() {
                        self.beats.push_front(Beat::Drip { left, bytes, every });
                        return Poll::Pending;
                    }
                    let piece = left.split_to(bytes.min(left.len()));
                    if !left.is_empty() {
                        self.beats.push_front(Beat::Drip { left, bytes, every });
                    }
                    return self.give(piece);
                }
                Some(Beat::Cut(cut)) => {
                    self.tell(Went::AsPlanned);
                    self.cut = None;
                    if let (Some(line), true) = (&self.line, cut != Cut::Silence) {
                        line.fate.decide_when_flushed(cut);
                    }
                    // The connection ends under this body: it has nothing to be woken for.
                    self.beats.push_front(Beat::Cut(Cut::Silence));
                    return Poll::Pending;
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.beats.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

impl Drop for Outgoing {
    fn drop(&mut self) {
        let Some(line) = self.line.take() else { return };
        line.next_is_due.store(true, Ordering::Relaxed);
        // A body that HTTP has no more use for (all bytes are given, or none is wanted) is dropped
        // unasked, and its cut is still due.
        if let Some(cut) = self.cut.take().filter(|_| cut_is_next(&self.beats)) {
            line.fate.decide_when_flushed(cut);
        }
        let sent = self.given;
        self.tell(if self.beats.is_empty() { Went::AsPlanned } else { Went::ClientGone { sent } });
    }
}

fn cut_is_next(beats: &VecDeque<Beat>) -> bool {
    matches!(beats.front(), Some(Beat::Cut(cut)) if *cut != Cut::Silence)
}
