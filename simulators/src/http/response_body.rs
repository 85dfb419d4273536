//! The body of a response, with the faults that rules apply to it.
//!
//! The head is always sent whole and announces the length of the whole body, so that a client can
//! see what is missing.

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

use crate::http::connection::{Disconnect, DisconnectSignal};

/// A wait until something else lets the body continue.
pub(crate) type Hold = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A fault that begins at a byte of a body.
pub(crate) enum BodyFault {
    Wait(Duration),
    Hold(Hold),
    Corrupt(usize),
    Slice { bytes: usize, every: Duration },
    Disconnect(Disconnect),
}

/// How a body is sent.
pub(crate) struct BodyScript {
    steps: VecDeque<BodyStep>,
    /// The bytes that are sent.
    sent: Bytes,
    disconnect: Option<Disconnect>,
    whole: u64,
    is_slow: bool,
    is_plain: bool,
}

enum BodyStep {
    Bytes(Bytes),
    Slice { remaining: Bytes, bytes: usize, every: Duration },
    Wait(Duration),
    Hold(Hold),
    Disconnect(Disconnect),
}

impl BodyScript {
    /// The whole body without faults.
    pub(crate) fn plain(body: Bytes) -> BodyScript {
        BodyScript::new(body, Vec::new())
    }

    /// The body with faults, each from a byte on. Faults at the same byte happen in order. A fault
    /// after the end of the body happens at its end.
    pub(crate) fn new(body: Bytes, mut faults: Vec<(usize, BodyFault)>) -> BodyScript {
        let whole = body.len() as u64;
        let is_plain = faults.is_empty();
        faults.sort_by_key(|(at, _)| *at);
        let body = corrupted(body, &faults);
        let mut script = BodyScript {
            steps: VecDeque::new(),
            sent: body.clone(),
            disconnect: None,
            whole,
            is_slow: false,
            is_plain,
        };
        let mut slicing = None;
        let mut position = 0;
        for (at, fault) in faults {
            let at = at.min(body.len());
            script.pass(body.slice(position..at), slicing);
            position = at;
            match fault {
                BodyFault::Corrupt(_) => {}
                BodyFault::Slice { bytes, every } => slicing = Some((bytes, every)),
                BodyFault::Wait(wait) => script.slowly(BodyStep::Wait(wait)),
                BodyFault::Hold(hold) => script.slowly(BodyStep::Hold(hold)),
                BodyFault::Disconnect(disconnect) => {
                    script.steps.push_back(BodyStep::Disconnect(disconnect));
                    script.disconnect = Some(disconnect);
                    script.sent = body.slice(..at);
                    return script;
                }
            }
        }
        script.pass(body.slice(position..), slicing);
        script
    }

    /// Whether there are no faults.
    pub(crate) fn is_plain(&self) -> bool {
        self.is_plain
    }

    /// How the connection is ended within or after the body, if it is.
    pub(crate) fn disconnect(&self) -> Option<Disconnect> {
        self.disconnect
    }

    /// The bytes of the body that are sent.
    pub(crate) fn sent(&self) -> &Bytes {
        &self.sent
    }

    /// Whether not all of the body is sent.
    pub(crate) fn is_short(&self) -> bool {
        (self.sent.len() as u64) < self.whole
    }

    /// Whether it contains waits.
    pub(crate) fn is_slow(&self) -> bool {
        self.is_slow
    }

    fn pass(&mut self, bytes: Bytes, slicing: Option<(usize, Duration)>) {
        match slicing {
            _ if bytes.is_empty() => {}
            None => self.steps.push_back(BodyStep::Bytes(bytes)),
            Some((slice, every)) => self.slowly(BodyStep::Slice { remaining: bytes, bytes: slice, every }),
        }
    }

    fn slowly(&mut self, step: BodyStep) {
        self.is_slow = true;
        self.steps.push_back(step);
    }
}

/// Inverts bytes, so that a corrupted byte always differs.
fn corrupted(body: Bytes, faults: &[(usize, BodyFault)]) -> Bytes {
    if !faults.iter().any(|(_, fault)| matches!(fault, BodyFault::Corrupt(_))) {
        return body;
    }
    let mut body = body.to_vec();
    for (at, fault) in faults {
        if let BodyFault::Corrupt(bytes) = fault {
            body.iter_mut().skip(*at).take(*bytes).for_each(|byte| *byte = !*byte);
        }
    }
    body.into()
}

/// Called once with the result, if that is not known beforehand.
pub(crate) type OnSent = Box<dyn FnOnce(SendResult) + Send>;

/// The result of sending a slow body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SendResult {
    /// The script was carried out.
    Completed,
    /// The client disconnected after this many bytes.
    ClientGone { sent: usize },
}

/// A body for hyper.
pub(crate) struct FaultyBody {
    steps: VecDeque<BodyStep>,
    remaining: u64,
    sent_bytes: usize,
    sleep: Option<Pin<Box<Sleep>>>,
    on_sent: Option<OnSent>,
    /// The disconnect that is still to come.
    disconnect: Option<Disconnect>,
    connection: Option<ConnectionControl>,
}

/// The parts of a connection that its bodies control.
#[derive(Clone)]
pub(crate) struct ConnectionControl {
    pub(crate) signal: DisconnectSignal,
    /// Set when the next bytes on the connection begin a request.
    pub(crate) at_request_start: Arc<AtomicBool>,
}

impl FaultyBody {
    pub(crate) fn new(script: BodyScript, on_sent: Option<OnSent>, connection: ConnectionControl) -> FaultyBody {
        FaultyBody {
            steps: script.steps,
            remaining: script.whole,
            sent_bytes: 0,
            sleep: None,
            on_sent,
            disconnect: script.disconnect,
            connection: Some(connection),
        }
    }

    fn send(&mut self, bytes: Bytes) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.sent_bytes += bytes.len();
        self.remaining = self.remaining.saturating_sub(bytes.len() as u64);
        // Before the last bytes are sent, so that a client that has them finds the journal
        // complete.
        if self.steps.iter().all(|step| matches!(step, BodyStep::Disconnect(_))) {
            self.report(SendResult::Completed);
        }
        Poll::Ready(Some(Ok(Frame::data(bytes))))
    }

    fn report(&mut self, result: SendResult) {
        if let Some(on_sent) = self.on_sent.take() {
            on_sent(result);
        }
    }

    fn poll_sleep(&mut self, wait: Duration, cx: &mut Context<'_>) -> Poll<()> {
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(tokio::time::sleep(wait)));
        ready!(sleep.as_mut().poll(cx));
        self.sleep = None;
        Poll::Ready(())
    }
}

impl Body for FaultyBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        loop {
            match self.steps.pop_front() {
                None => return Poll::Ready(None),
                Some(BodyStep::Bytes(bytes)) => return self.send(bytes),
                Some(BodyStep::Wait(wait)) => {
                    if self.poll_sleep(wait, cx).is_pending() {
                        self.steps.push_front(BodyStep::Wait(wait));
                        return Poll::Pending;
                    }
                }
                Some(BodyStep::Hold(mut hold)) => {
                    if hold.as_mut().poll(cx).is_pending() {
                        self.steps.push_front(BodyStep::Hold(hold));
                        return Poll::Pending;
                    }
                }
                Some(BodyStep::Slice { mut remaining, bytes, every }) => {
                    if self.poll_sleep(every, cx).is_pending() {
                        self.steps.push_front(BodyStep::Slice { remaining, bytes, every });
                        return Poll::Pending;
                    }
                    let slice = remaining.split_to(bytes.min(remaining.len()));
                    if !remaining.is_empty() {
                        self.steps.push_front(BodyStep::Slice { remaining, bytes, every });
                    }
                    return self.send(slice);
                }
                Some(BodyStep::Disconnect(disconnect)) => {
                    self.report(SendResult::Completed);
                    self.disconnect = None;
                    if let (Some(connection), true) = (&self.connection, disconnect != Disconnect::Hang) {
                        connection.signal.decide_when_flushed(disconnect);
                    }
                    // The connection is ended from outside, so the body is never woken.
                    self.steps.push_front(BodyStep::Disconnect(Disconnect::Hang));
                    return Poll::Pending;
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.steps.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.remaining)
    }
}

impl Drop for FaultyBody {
    fn drop(&mut self) {
        let Some(connection) = self.connection.take() else { return };
        connection.at_request_start.store(true, Ordering::Relaxed);
        // hyper drops the body without polling once all bytes are out (or for HEAD). A pending
        // disconnect still has to happen.
        if let Some(disconnect) = self.disconnect.take().filter(|_| disconnect_is_next(&self.steps)) {
            connection.signal.decide_when_flushed(disconnect);
        }
        let sent = self.sent_bytes;
        self.report(if self.steps.is_empty() { SendResult::Completed } else { SendResult::ClientGone { sent } });
    }
}

fn disconnect_is_next(steps: &VecDeque<BodyStep>) -> bool {
    matches!(steps.front(), Some(BodyStep::Disconnect(disconnect)) if *disconnect != Disconnect::Hang)
}
