//! `RefundService`: each handler is convert, call, convert.

use std::pin::Pin;
use std::time::Duration;

use futures_util::{Stream, StreamExt as _, stream};
use tonic::metadata::MetadataMap;
use tonic::{Code, Request, Response, Status};
use tracing::Span;

use crate::api::convert::{Faults, Outlook};
use crate::api::deadline::Deadline;
use crate::api::{convert, page_token, status};
use crate::domain::ids::RefundId;
use crate::domain::refund::Refund;
use crate::engine::{CreateCommand, Engine};
use crate::ledger::ListQuery;
use crate::proto::v1 as proto;
use crate::proto::v1::refund_service_server::RefundService;
use crate::telemetry::traces;

/// The service over one engine.
pub(super) struct RefundsApi {
    pub(super) engine: Engine,
    /// The longest that a caller may wait in one call.
    pub(super) max_wait: Duration,
}

/// Who is named in the history. There is no authentication yet, and the gateway listens on loopback
/// alone.
const CALLER: &str = "caller";
/// A page ends before clients' default limit of 4 MiB for one message.
const PAGE_BYTES: usize = 3 * 1024 * 1024;

#[tonic::async_trait]
impl RefundService for RefundsApi {
    async fn create_refund(
        &self,
        request: Request<proto::CreateRefundRequest>,
    ) -> Result<Response<proto::CreateRefundResponse>, Status> {
        let deadline = Deadline::of(request.metadata());
        let trace_parent = traceparent_in(request.metadata());
        let request = request.into_inner();
        let (validate_only, allow_similar) = (request.validate_only, request.allow_similar);
        let mut faults = Faults::default();
        let wait = convert::duration("wait", request.wait, &mut faults);
        let intent = convert::intent(request, &mut faults);
        let intent = faults.finish(intent)?;
        name_trace(trace_parent.as_deref(), &intent.id);
        let command = CreateCommand {
            intent,
            allow_similar,
            actor: CALLER.to_owned(),
            answer_by: deadline.instant(),
            wait_until: deadline.wait(wait, self.max_wait),
            trace_parent,
        };
        let result = if validate_only {
            deadline.bound(async { self.engine.dry_run(command).await.map_err(status::of_engine) }).await?
        } else {
            self.engine.create(command).await.map_err(status::of_engine)?
        };
        let outlook = Outlook { is_hypothetical: validate_only && !result.replayed, ..self.outlook(&result.refund) };
        let refund = Some(convert::refund(&result.refund, outlook));
        Ok(Response::new(proto::CreateRefundResponse { refund, replayed: result.replayed }))
    }

    async fn get_refund(
        &self,
        request: Request<proto::GetRefundRequest>,
    ) -> Result<Response<proto::GetRefundResponse>, Status> {
        let deadline = Deadline::of(request.metadata());
        let id = convert::refund_name(&request.get_ref().name)?;
        let refund = deadline.bound(async { self.engine.get(&id).await.map_err(status::of_engine) }).await?;
        Ok(Response::new(proto::GetRefundResponse { refund: Some(self.shown(&refund)) }))
    }

    async fn list_refunds(
        &self,
        request: Request<proto::ListRefundsRequest>,
    ) -> Result<Response<proto::ListRefundsResponse>, Status> {
        let deadline = Deadline::of(request.metadata());
        let request = request.into_inner();
        let question = request.filter.as_ref().map(prost::Message::encode_to_vec).unwrap_or_default();
        let mut faults = Faults::default();
        let limit = convert::page_size(request.page_size, &mut faults);
        let query = convert::filter(request.filter, &mut faults);
        let before_ordinal = position_in(&question, &request.page_token, &mut faults);
        faults.check()?;
        // One more than asked for tells whether there is a next page.
        let query = ListQuery { before_ordinal, limit: limit + 1, ..query };
        let listed = deadline.bound(async { self.engine.list(query).await.map_err(status::of_engine) }).await?;
        let shown = listed.iter().map(|one| (one.ordinal, self.shown(&one.refund)));
        let (refunds, next_page_token) = page(&question, limit, shown);
        Ok(Response::new(proto::ListRefundsResponse { refunds, next_page_token }))
    }

    async fn wait_refund(
        &self,
        request: Request<proto::WaitRefundRequest>,
    ) -> Result<Response<proto::WaitRefundResponse>, Status> {
        let deadline = Deadline::of(request.metadata());
        let request = request.into_inner();
        let mut faults = Faults::default();
        let timeout = convert::duration("timeout", request.timeout, &mut faults);
        let after_revision = u64::try_from(request.after_revision).ok();
        if after_revision.is_none() {
            faults.add("after_revision", "must not be below 0");
        }
        let id = faults.take("name", RefundId::parse_resource(&request.name));
        let (id, after_revision) = faults.finish(id.zip(after_revision))?;
        let until = deadline.wait(timeout, self.max_wait);
        let refund = self.engine.wait(&id, after_revision, until).await.map_err(status::of_engine)?;
        Ok(Response::new(proto::WaitRefundResponse { refund: Some(self.shown(&refund)) }))
    }

    async fn cancel_refund(
        &self,
        request: Request<proto::CancelRefundRequest>,
    ) -> Result<Response<proto::CancelRefundResponse>, Status> {
        let deadline = Deadline::of(request.metadata());
        let told = traceparent_in(request.metadata());
        let request = request.into_inner();
        let id = convert::refund_name(&request.name)?;
        name_trace(told.as_deref(), &id);
        let etag = Some(request.etag.as_str()).filter(|etag| !etag.is_empty());
        let refund = match tokio::time::timeout_at(deadline.instant(), self.engine.cancel(&id, etag, CALLER)).await {
            Ok(cancelled) => cancelled.map_err(status::of_engine)?,
            // The withdrawal goes on without its caller.
            Err(_) => return Err(status::not_known(Code::DeadlineExceeded, "the deadline passed")),
        };
        Ok(Response::new(proto::CancelRefundResponse { refund: Some(self.shown(&refund)) }))
    }

    async fn reconcile_refund(
        &self,
        request: Request<proto::ReconcileRefundRequest>,
    ) -> Result<Response<proto::ReconcileRefundResponse>, Status> {
        let deadline = Deadline::of(request.metadata());
        let id = convert::refund_name(&request.get_ref().name)?;
        name_trace(traceparent_in(request.metadata()).as_deref(), &id);
        let refund = match tokio::time::timeout_at(deadline.instant(), self.engine.reconcile(&id, CALLER)).await {
            Ok(reconciled) => reconciled.map_err(status::of_engine)?,
            // The look goes on without its caller. The refund as it was would be taken for what the
            // look showed.
            Err(_) => return Err(status::not_known(Code::DeadlineExceeded, "the deadline passed")),
        };
        Ok(Response::new(proto::ReconcileRefundResponse { refund: Some(self.shown(&refund)) }))
    }

    async fn resolve_refund(
        &self,
        request: Request<proto::ResolveRefundRequest>,
    ) -> Result<Response<proto::ResolveRefundResponse>, Status> {
        let deadline = Deadline::of(request.metadata());
        let told = traceparent_in(request.metadata());
        let command = convert::resolve_command(request.into_inner(), CALLER)?;
        name_trace(told.as_deref(), &command.id);
        let refund = match tokio::time::timeout_at(deadline.instant(), self.engine.resolve(command)).await {
            Ok(resolved) => resolved.map_err(status::of_engine)?,
            // The person's word goes on without the caller.
            Err(_) => return Err(status::not_known(Code::DeadlineExceeded, "the deadline passed")),
        };
        Ok(Response::new(proto::ResolveRefundResponse { refund: Some(self.shown(&refund)) }))
    }

    async fn reassign_refund(
        &self,
        request: Request<proto::ReassignRefundRequest>,
    ) -> Result<Response<proto::ReassignRefundResponse>, Status> {
        let deadline = Deadline::of(request.metadata());
        let trace = traceparent_in(request.metadata());
        let command = convert::reassign_command(request.into_inner(), CALLER)?;
        name_trace(trace.as_deref(), &command.id);
        let refund = match tokio::time::timeout_at(deadline.instant(), self.engine.reassign(command)).await {
            Ok(reassigned) => reassigned.map_err(status::of_engine)?,
            // The decision goes on without the caller.
            Err(_) => return Err(status::not_known(Code::DeadlineExceeded, "the deadline passed")),
        };
        Ok(Response::new(proto::ReassignRefundResponse { refund: Some(self.shown(&refund)) }))
    }

    async fn list_refund_events(
        &self,
        request: Request<proto::ListRefundEventsRequest>,
    ) -> Result<Response<proto::ListRefundEventsResponse>, Status> {
        let deadline = Deadline::of(request.metadata());
        let request = request.into_inner();
        let mut faults = Faults::default();
        let limit = convert::page_size(request.page_size, &mut faults);
        let id = faults.take("name", RefundId::parse_resource(&request.name));
        let question = request.name.as_bytes();
        let after = position_in(question, &request.page_token, &mut faults).unwrap_or(0);
        let id = faults.finish(id)?;
        let read = async { self.engine.events_of(&id, after, limit + 1).await.map_err(status::of_engine) };
        let events = deadline.bound(read).await?;
        let (events, next_page_token) =
            page(question, limit, events.into_iter().map(|event| (event.revision, convert::event(event))));
        Ok(Response::new(proto::ListRefundEventsResponse { events, next_page_token }))
    }

    type StreamRefundEventsStream =
        Pin<Box<dyn Stream<Item = Result<proto::StreamRefundEventsResponse, Status>> + Send + 'static>>;

    async fn stream_refund_events(
        &self,
        request: Request<proto::StreamRefundEventsRequest>,
    ) -> Result<Response<Self::StreamRefundEventsStream>, Status> {
        let deadline = Deadline::of_stream(request.metadata());
        let mut faults = Faults::default();
        let after = u64::try_from(request.get_ref().after_sequence).ok();
        if after.is_none() {
            faults.add("after_sequence", "must not be below 0");
        }
        let feed = self.engine.stream_events(faults.finish(after)?).map_err(status::of_engine)?;
        let pages = stream::unfold(Some(feed), move |feed| async move {
            let mut feed = feed?;
            match deadline.bound(async { feed.next().await.map_err(status::of_engine) }).await {
                Ok(events) => Some((Ok(events), Some(feed))),
                // The last word of the stream.
                Err(status) => Some((Err(status), None)),
            }
        });
        let events = pages.flat_map(|page| {
            let (events, end) = page.map_or_else(|status| (Vec::new(), Some(Err(status))), |events| (events, None));
            stream::iter(events.into_iter().map(|event| Ok(convert::streamed(&event))).chain(end))
        });
        Ok(Response::new(Box::pin(events)))
    }
}

impl RefundsApi {
    fn shown(&self, refund: &Refund) -> proto::Refund {
        convert::refund(refund, self.outlook(refund))
    }

    fn outlook(&self, refund: &Refund) -> Outlook {
        Outlook {
            resend_safe: self.engine.resend_safe(refund),
            waiting_for: self.engine.waiting_for(refund),
            is_hypothetical: false,
        }
    }
}

fn traceparent_in(metadata: &MetadataMap) -> Option<String> {
    traces::traceparent_in(metadata.get("traceparent")?.to_str().ok()?)
}

/// A caller that named its trace has it in the call's log lines already.
fn name_trace(told: Option<&str>, id: &RefundId) {
    if told.is_none() {
        traces::note_trace_of(&Span::current(), None, id);
    }
}

/// Where the page before ended; none for the first page, and for a token that is a fault.
fn position_in(question: &[u8], token: &str, faults: &mut Faults) -> Option<u64> {
    let position = page_token::position(question, token);
    if position.is_none() && !token.is_empty() {
        faults.add(status::PAGE_TOKEN, "must be the next_page_token of the same call with the same filter, or empty");
    }
    position
}

/// At most `limit` entries and [`PAGE_BYTES`], and the token of the next page where entries are
/// left.
fn page<T: prost::Message>(question: &[u8], limit: u32, entries: impl Iterator<Item = (u64, T)>) -> (Vec<T>, String) {
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let (mut taken, mut bytes, mut last) = (Vec::new(), 0_usize, 0);
    for (position, entry) in entries {
        bytes = bytes.saturating_add(entry.encoded_len());
        // One entry always fits, so that every page moves on.
        if taken.len() >= limit || (bytes > PAGE_BYTES && !taken.is_empty()) {
            return (taken, page_token::token(question, last));
        }
        taken.push(entry);
        last = position;
    }
    (taken, String::new())
}
