//! What a caller sees of lists and of the history: refunds of its accounts, and nothing of others.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::{Stream, StreamExt as _, stream};
use prost::Message as _;
use tonic::Status;

use crate::api::{convert, status};
use crate::domain::authority::{AccountSet, Authority};
use crate::domain::event::EventKind;
use crate::domain::history::EventRecord;
use crate::domain::ids::{AccountName, RefundId};
use crate::engine::{Engine, SharedEvent};
use crate::proto::v1 as proto;

/// Leaves the events of other accounts out of a stream. What is left has gaps in its sequence, and
/// no chain hash: it would prove nothing without the events between.
pub(super) struct VisibleEvents {
    engine: Engine,
    by: Authority,
    /// Whether a refund is visible, as of its last event seen here.
    known: HashMap<RefundId, bool>,
}

/// Above it, everything is forgotten and read again.
const MAX_KNOWN: usize = 10_000;

/// The accounts whose refunds a caller sees. None: all.
pub(super) fn visible_accounts(by: &Authority) -> Option<Vec<AccountName>> {
    if by.sees_all() {
        return None;
    }
    match by.caller().map(|caller| &caller.accounts) {
        Some(AccountSet::Named(names)) => Some(names.iter().cloned().collect()),
        // `sees_all` holds for every caller of all accounts.
        Some(AccountSet::All) | None => Some(Vec::new()),
    }
}

/// An event of a visible refund, for this caller.
pub(super) fn visible_event(by: &Authority, event: EventRecord) -> proto::RefundEvent {
    let event = convert::event(event);
    if by.sees_all() { event } else { proto::RefundEvent { chain_hash: Vec::new(), ..event } }
}

impl VisibleEvents {
    pub(super) fn new(engine: Engine, by: Authority) -> Self {
        Self { engine, by, known: HashMap::new() }
    }

    /// The visible events of these pages, and the end of the stream.
    pub(super) fn filter(
        self,
        pages: impl Stream<Item = Result<Vec<Arc<SharedEvent>>, Status>> + Send + 'static,
    ) -> impl Stream<Item = Result<proto::StreamRefundEventsResponse, Status>> + Send + 'static {
        let visible = stream::unfold((self, Box::pin(pages), false), |(mut filter, mut pages, ended)| async move {
            if ended {
                return None;
            }
            let (events, end) = match pages.next().await? {
                Ok(page) => filter.visible(page).await,
                Err(end) => (Vec::new(), Some(end)),
            };
            let ended = end.is_some();
            let items: Vec<_> = events.into_iter().map(Ok).chain(end.map(Err)).collect();
            Some((stream::iter(items), (filter, pages, ended)))
        });
        visible.flatten()
    }

    /// The visible events of a page, and why the stream ends with them.
    async fn visible(
        &mut self,
        page: Vec<Arc<SharedEvent>>,
    ) -> (Vec<proto::StreamRefundEventsResponse>, Option<Status>) {
        let mut events = Vec::new();
        for event in page {
            match self.is_visible(&event.record).await {
                Ok(true) => {
                    let encoded = visible_event(&self.by, event.record.clone()).encode_to_vec();
                    events.push(proto::StreamRefundEventsResponse::from_encoded(Bytes::from(encoded)));
                }
                Ok(false) => {}
                Err(end) => return (events, Some(end)),
            }
        }
        (events, None)
    }

    async fn is_visible(&mut self, event: &EventRecord) -> Result<bool, Status> {
        if event.kind == EventKind::Reassigned || self.known.len() >= MAX_KNOWN {
            self.known.clear();
        }
        if let Some(is_visible) = self.known.get(&event.refund) {
            return Ok(*is_visible);
        }
        let refund = self.engine.get(&event.refund).await.map_err(status::from_engine)?;
        let is_visible = self.by.sees_refund(&refund);
        self.known.insert(event.refund.clone(), is_visible);
        Ok(is_visible)
    }
}
