//! The rows that this writer wrote last of refunds on the wire, so that an outcome is recorded
//! without reading and proving them again.
//!
//! Nobody else may have touched the file since: the writer asks in each transaction and forgets
//! everything where somebody has. What a transaction that did not come about has left here is
//! forgotten too.

use std::collections::BTreeMap;

use super::rows::StoredRefund;
use crate::domain::ids::RefundId;
use crate::domain::state::State;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct RowCache(BTreeMap<RefundId, StoredRefund>);

/// Refunds on the wire at once are bounded by the accounts' slots, some hundreds. Beyond this, rows
/// are read again.
const MAX_ROWS: usize = 4_096;

impl RowCache {
    /// The row as it is in the file.
    pub(super) fn take(&mut self, id: &RefundId) -> Option<StoredRefund> {
        self.0.remove(id)
    }

    /// A row has just been written so; it is kept where more is to be heard of it soon.
    pub(super) fn keep(&mut self, stored: StoredRefund) {
        if stored.refund.state == State::Dispatching && self.0.len() < MAX_ROWS {
            self.0.insert(stored.refund.id().clone(), stored);
        } else {
            self.0.remove(stored.refund.id());
        }
    }

    pub(super) fn forget(&mut self) {
        self.0.clear();
    }
}
