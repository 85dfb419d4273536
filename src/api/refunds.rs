//! `RefundService`: each handler converts the request, calls the engine, and converts the answer.

use std::pin::Pin;
use std::time::Duration;

use futures_util::{Stream, StreamExt as _, stream};
use tonic::metadata::MetadataMap;
use tonic::{Code, Request, Response, Status};
use tracing::Span;

use crate::api::convert::{EngineView, Violations};
use crate::api::deadline::Deadline;
use crate::api::layers::authentication::Grant;
use crate::api::layers::permits::CallPermit;
use crate::api::layers::response_parts::ResponseParts;
use crate::api::visibility::{VisibleEvents, visible_accounts, visible_event};
use crate::api::{convert, page_token, status};
use crate::domain::authority::Authority;
use crate::domain::ids::RefundId;
use crate::domain::refund::Refund;
use crate::engine::{ApprovalCommand, CreateCommand, Engine};
use crate::ledger::{LedgerError, ListQuery};
use crate::proto::v1 as proto;
use crate::proto::v1::refund_service_server::RefundService;
use crate::telemetry::traces;

pub(super) struct RefundsApi {
    pub(super) engine: Engine,
    /// Longest time that a caller may wait in one call.
    pub(super) max_wait: Duration,
}

/// What many callers may ask for at the same time, and far below clients' default limit of 4 MiB
/// for one message.
const MAX_PAGE_BYTES: usize = 1024 * 1024;
/// Refunds that are read at once. Each has up to 25 kB, so that those of a whole page could have
/// many times [`MAX_PAGE_BYTES`] before they are counted.
const MAX_PART: u32 = 16;

/// What is left of a page.
struct PageRoom {
    entries: u32,
    bytes: usize,
    is_empty: bool,
    /// The position of the last entry.
    last: u64,
}

#[tonic::async_trait]
impl RefundService for RefundsApi {
    async fn create_refund(
        &self,
        request: Request<proto::CreateRefundRequest>,
    ) -> Result<Response<proto::CreateRefundResponse>, Status> {
        let deadline = Deadline::from_metadata(request.metadata());
        let trace_parent = traceparent_in(request.metadata());
        let by = Grant::of(&request)?.by;
        let permit = CallPermit::of(&request);
        let request = request.into_inner();
        let (validate_only, allow_similar) = (request.validate_only, request.allow_similar);
        let mut violations = Violations::default();
        let wait = convert::duration("wait", request.wait, &mut violations);
        let intent = convert::intent(request, &mut violations);
        let intent = violations.into_result(intent)?;
        note_trace_id(trace_parent.as_deref(), &intent.id);
        let command = CreateCommand {
            intent,
            allow_similar,
            by,
            answer_by: deadline.instant(),
            wait_until: deadline.wait(wait, self.max_wait),
            trace_parent,
        };
        let result = if validate_only {
            deadline.bound(async { self.engine.dry_run(command).await.map_err(status::from_engine) }).await?
        } else {
            let created = self.engine.create_and_wait(command, || permit.release_for_wait()).await;
            created.map_err(status::from_engine)?
        };
        let view = EngineView { is_hypothetical: validate_only && !result.replayed, ..self.view(&result.refund) };
        let refund = Some(convert::refund(&result.refund, view));
        Ok(Response::new(proto::CreateRefundResponse { refund, replayed: result.replayed }))
    }

    async fn get_refund(
        &self,
        request: Request<proto::GetRefundRequest>,
    ) -> Result<Response<proto::GetRefundResponse>, Status> {
        let deadline = Deadline::from_metadata(request.metadata());
        let by = Grant::of(&request)?.by;
        let id = convert::refund_name(&request.get_ref().name)?;
        let read = async { self.engine.get_for(&by, &id).await.map_err(status::from_engine) };
        let refund = deadline.bound(read).await?;
        Ok(Response::new(proto::GetRefundResponse { refund: Some(self.to_proto(&refund)) }))
    }

    async fn list_refunds(
        &self,
        request: Request<proto::ListRefundsRequest>,
    ) -> Result<Response<proto::ListRefundsResponse>, Status> {
        let deadline = Deadline::from_metadata(request.metadata());
        let by = Grant::of(&request)?.by;
        let request = request.into_inner();
        let request_key = request.filter.as_ref().map(prost::Message::encode_to_vec).unwrap_or_default();
        let mut violations = Violations::default();
        let limit = convert::page_size(request.page_size, &mut violations);
        let query = convert::filter(request.filter, &mut violations);
        let before_ordinal = position_in(&request_key, &request.page_token, &mut violations);
        violations.check()?;
        let mut query = ListQuery { before_ordinal, visible_accounts: visible_accounts(&by), ..query };
        let (mut room, mut parts) = (PageRoom::new(limit), ResponseParts::default());
        loop {
            // One more than requested shows whether there is a next page.
            query.limit = MAX_PART.min(room.entries.saturating_add(1));
            let listed = self.engine.list(query.clone());
            let listed = deadline.bound(async { listed.await.map_err(status::from_engine) }).await?;
            let is_last = listed.len() < usize::try_from(query.limit).unwrap_or(usize::MAX);
            let entries = listed.iter().map(|listed| (listed.ordinal, self.to_proto(&listed.refund)));
            let (taken, is_full) = room.take(entries);
            for refund in taken {
                parts.push(&proto::ListRefundsResponse { refunds: vec![refund], ..Default::default() });
            }
            if is_full || is_last {
                let next_page_token = if is_full { page_token::token(&request_key, room.last) } else { String::new() };
                parts.push(&proto::ListRefundsResponse { next_page_token, ..Default::default() });
                let mut response = Response::new(proto::ListRefundsResponse::default());
                response.extensions_mut().insert(parts);
                return Ok(response);
            }
            query.before_ordinal = Some(room.last);
        }
    }

    async fn wait_refund(
        &self,
        request: Request<proto::WaitRefundRequest>,
    ) -> Result<Response<proto::WaitRefundResponse>, Status> {
        let deadline = Deadline::from_metadata(request.metadata());
        let by = Grant::of(&request)?.by;
        let permit = CallPermit::of(&request);
        let request = request.into_inner();
        let mut violations = Violations::default();
        let timeout = convert::duration("timeout", request.timeout, &mut violations);
        let after_revision = u64::try_from(request.after_revision).ok();
        if after_revision.is_none() {
            violations.add("after_revision", "must not be below 0");
        }
        let id = violations.ok_or_record("name", RefundId::parse_resource(&request.name));
        let (id, after_revision) = violations.into_result(id.zip(after_revision))?;
        let until = deadline.wait(timeout, self.max_wait);
        self.check_visible(&by, &id).await?;
        permit.begin_wait()?;
        let refund = self.engine.wait(&id, after_revision, until).await.map_err(status::from_engine)?;
        // It may have been reassigned meanwhile.
        if !by.sees_refund(&refund) {
            return Err(status::from_engine(LedgerError::NotFound(id).into()));
        }
        Ok(Response::new(proto::WaitRefundResponse { refund: Some(self.to_proto(&refund)) }))
    }

    async fn cancel_refund(
        &self,
        request: Request<proto::CancelRefundRequest>,
    ) -> Result<Response<proto::CancelRefundResponse>, Status> {
        let deadline = Deadline::from_metadata(request.metadata());
        let trace_parent = traceparent_in(request.metadata());
        let by = Grant::of(&request)?.by;
        let request = request.into_inner();
        let id = convert::refund_name(&request.name)?;
        note_trace_id(trace_parent.as_deref(), &id);
        let etag = Some(request.etag.as_str()).filter(|etag| !etag.is_empty());
        let refund = match tokio::time::timeout_at(deadline.instant(), self.engine.cancel(&id, etag, by)).await {
            Ok(cancelled) => cancelled.map_err(status::from_engine)?,
            // The cancellation continues without its caller.
            Err(_) => return Err(status::outcome_unknown(Code::DeadlineExceeded, "the deadline passed")),
        };
        Ok(Response::new(proto::CancelRefundResponse { refund: Some(self.to_proto(&refund)) }))
    }

    async fn reconcile_refund(
        &self,
        request: Request<proto::ReconcileRefundRequest>,
    ) -> Result<Response<proto::ReconcileRefundResponse>, Status> {
        let deadline = Deadline::from_metadata(request.metadata());
        let by = Grant::of(&request)?.by;
        let id = convert::refund_name(&request.get_ref().name)?;
        note_trace_id(traceparent_in(request.metadata()).as_deref(), &id);
        CallPermit::of(&request).begin_wait()?;
        let refund = match tokio::time::timeout_at(deadline.instant(), self.engine.reconcile(&id, by)).await {
            Ok(reconciled) => reconciled.map_err(status::from_engine)?,
            // The lookup continues without its caller. Returning the refund as it is now would look
            // like the lookup's result.
            Err(_) => return Err(status::outcome_unknown(Code::DeadlineExceeded, "the deadline passed")),
        };
        Ok(Response::new(proto::ReconcileRefundResponse { refund: Some(self.to_proto(&refund)) }))
    }

    async fn resolve_refund(
        &self,
        request: Request<proto::ResolveRefundRequest>,
    ) -> Result<Response<proto::ResolveRefundResponse>, Status> {
        let deadline = Deadline::from_metadata(request.metadata());
        let trace_parent = traceparent_in(request.metadata());
        let by = Grant::of(&request)?.by;
        let command = convert::resolve_command(request.into_inner(), by)?;
        note_trace_id(trace_parent.as_deref(), &command.id);
        let refund = match tokio::time::timeout_at(deadline.instant(), self.engine.resolve(command)).await {
            Ok(resolved) => resolved.map_err(status::from_engine)?,
            // The operator's decision is still recorded without the caller.
            Err(_) => return Err(status::outcome_unknown(Code::DeadlineExceeded, "the deadline passed")),
        };
        Ok(Response::new(proto::ResolveRefundResponse { refund: Some(self.to_proto(&refund)) }))
    }

    async fn reassign_refund(
        &self,
        request: Request<proto::ReassignRefundRequest>,
    ) -> Result<Response<proto::ReassignRefundResponse>, Status> {
        let deadline = Deadline::from_metadata(request.metadata());
        let trace_parent = traceparent_in(request.metadata());
        let by = Grant::of(&request)?.by;
        let command = convert::reassign_command(request.into_inner(), by)?;
        note_trace_id(trace_parent.as_deref(), &command.id);
        let refund = match tokio::time::timeout_at(deadline.instant(), self.engine.reassign(command)).await {
            Ok(reassigned) => reassigned.map_err(status::from_engine)?,
            // The operator's decision is still recorded without the caller.
            Err(_) => return Err(status::outcome_unknown(Code::DeadlineExceeded, "the deadline passed")),
        };
        Ok(Response::new(proto::ReassignRefundResponse { refund: Some(self.to_proto(&refund)) }))
    }

    async fn approve_refund(
        &self,
        request: Request<proto::ApproveRefundRequest>,
    ) -> Result<Response<proto::ApproveRefundResponse>, Status> {
        let deadline = Deadline::from_metadata(request.metadata());
        let trace_parent = traceparent_in(request.metadata());
        let by = Grant::of(&request)?.by;
        let command = convert::approve_command(request.into_inner(), by)?;
        let refund = self.decide_approval(command, &deadline, trace_parent.as_deref()).await?;
        Ok(Response::new(proto::ApproveRefundResponse { refund: Some(refund) }))
    }

    async fn reject_refund(
        &self,
        request: Request<proto::RejectRefundRequest>,
    ) -> Result<Response<proto::RejectRefundResponse>, Status> {
        let deadline = Deadline::from_metadata(request.metadata());
        let trace_parent = traceparent_in(request.metadata());
        let by = Grant::of(&request)?.by;
        let command = convert::reject_command(request.into_inner(), by)?;
        let refund = self.decide_approval(command, &deadline, trace_parent.as_deref()).await?;
        Ok(Response::new(proto::RejectRefundResponse { refund: Some(refund) }))
    }

    async fn list_refund_events(
        &self,
        request: Request<proto::ListRefundEventsRequest>,
    ) -> Result<Response<proto::ListRefundEventsResponse>, Status> {
        let deadline = Deadline::from_metadata(request.metadata());
        let by = Grant::of(&request)?.by;
        let request = request.into_inner();
        let mut violations = Violations::default();
        let limit = convert::page_size(request.page_size, &mut violations);
        let id = violations.ok_or_record("name", RefundId::parse_resource(&request.name));
        let request_key = request.name.as_bytes();
        let after = position_in(request_key, &request.page_token, &mut violations).unwrap_or(0);
        let id = violations.into_result(id)?;
        let read = async {
            self.check_visible(&by, &id).await?;
            self.engine.events_of(&id, after, limit + 1).await.map_err(status::from_engine)
        };
        let events = deadline.bound(read).await?;
        let events = events.into_iter().map(|event| (event.revision, visible_event(&by, event)));
        let (events, next_page_token) = page(request_key, limit, events);
        Ok(Response::new(proto::ListRefundEventsResponse { events, next_page_token }))
    }

    type StreamRefundEventsStream =
        Pin<Box<dyn Stream<Item = Result<proto::StreamRefundEventsResponse, Status>> + Send + 'static>>;

    async fn stream_refund_events(
        &self,
        request: Request<proto::StreamRefundEventsRequest>,
    ) -> Result<Response<Self::StreamRefundEventsStream>, Status> {
        let deadline = Deadline::for_stream(request.metadata());
        let by = Grant::of(&request)?.by;
        let mut violations = Violations::default();
        let after = u64::try_from(request.get_ref().after_sequence).ok();
        if after.is_none() {
            violations.add("after_sequence", "must not be below 0");
        }
        let events = self.engine.stream_events(violations.into_result(after)?).map_err(status::from_engine)?;
        let pages = stream::unfold(Some(events), move |events| async move {
            let mut events = events?;
            match deadline.bound(async { events.next().await.map_err(status::from_engine) }).await {
                Ok(page) => Some((Ok(page), Some(events))),
                // Ends the stream.
                Err(status) => Some((Err(status), None)),
            }
        });
        if !by.sees_all() {
            return Ok(Response::new(Box::pin(VisibleEvents::new(self.engine.clone(), by).filter(pages))));
        }
        let events = pages.flat_map(|page| {
            let (events, end) = page.map_or_else(|status| (Vec::new(), Some(Err(status))), |events| (events, None));
            stream::iter(events.into_iter().map(|event| Ok(convert::stream_response(&event))).chain(end))
        });
        Ok(Response::new(Box::pin(events)))
    }
}

impl RefundsApi {
    async fn decide_approval(
        &self,
        command: ApprovalCommand,
        deadline: &Deadline,
        trace_parent: Option<&str>,
    ) -> Result<proto::Refund, Status> {
        note_trace_id(trace_parent, &command.id);
        match tokio::time::timeout_at(deadline.instant(), self.engine.decide_approval(command)).await {
            Ok(decided) => Ok(self.to_proto(&decided.map_err(status::from_engine)?)),
            // The decision is still recorded without the caller.
            Err(_) => Err(status::outcome_unknown(Code::DeadlineExceeded, "the deadline passed")),
        }
    }

    /// Without a read for a caller that sees every refund.
    async fn check_visible(&self, by: &Authority, id: &RefundId) -> Result<(), Status> {
        match by.sees_all() {
            true => Ok(()),
            false => self.engine.get_for(by, id).await.map(drop).map_err(status::from_engine),
        }
    }

    fn to_proto(&self, refund: &Refund) -> proto::Refund {
        convert::refund(refund, self.view(refund))
    }

    fn view(&self, refund: &Refund) -> EngineView {
        EngineView {
            resend_safe: self.engine.resend_safe(refund),
            waiting_for: self.engine.waiting_for(refund),
            is_hypothetical: false,
        }
    }
}

fn traceparent_in(metadata: &MetadataMap) -> Option<String> {
    traces::parse_traceparent(metadata.get("traceparent")?.to_str().ok()?)
}

/// Puts the refund's own trace id into the call's log lines, unless the caller named a trace.
fn note_trace_id(trace_parent: Option<&str>, id: &RefundId) {
    if trace_parent.is_none() {
        traces::record_refund_trace_id(&Span::current(), None, id);
    }
}

/// The end of the previous page. None for the first page, and for an invalid token.
fn position_in(request_key: &[u8], token: &str, violations: &mut Violations) -> Option<u64> {
    let position = page_token::position(request_key, token);
    if position.is_none() && !token.is_empty() {
        violations
            .add(status::PAGE_TOKEN, "must be the next_page_token of the same call with the same filter, or empty");
    }
    position
}

impl PageRoom {
    fn new(limit: u32) -> Self {
        Self { entries: limit, bytes: MAX_PAGE_BYTES, is_empty: true, last: 0 }
    }

    /// The first entries, as far as there is room, and whether some are left.
    fn take<T: prost::Message>(&mut self, entries: impl Iterator<Item = (u64, T)>) -> (Vec<T>, bool) {
        let mut taken = Vec::new();
        for (position, entry) in entries {
            let left = self.bytes.checked_sub(entry.encoded_len());
            // At least one entry per page, so that paging always advances.
            if self.entries == 0 || (left.is_none() && !self.is_empty) {
                return (taken, true);
            }
            *self =
                Self { entries: self.entries - 1, bytes: left.unwrap_or_default(), is_empty: false, last: position };
            taken.push(entry);
        }
        (taken, false)
    }
}

/// At most `limit` entries and [`MAX_PAGE_BYTES`], and the token of the next page if entries are
/// left.
fn page<T: prost::Message>(
    request_key: &[u8],
    limit: u32,
    entries: impl Iterator<Item = (u64, T)>,
) -> (Vec<T>, String) {
    let mut room = PageRoom::new(limit);
    let (taken, is_full) = room.take(entries);
    (taken, if is_full { page_token::token(request_key, room.last) } else { String::new() })
}
