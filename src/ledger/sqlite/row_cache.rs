//! The rows of refunds in flight that this writer wrote last, so that an outcome is recorded
//! without reading and verifying them again.
//!
//! The cache is right only while no other program writes to the file: the writer checks that in
//! each transaction and clears the cache if one has. It also clears it when a transaction is rolled
//! back.

use std::collections::BTreeMap;

use crate::domain::ids::RefundId;
use crate::domain::state::State;
use crate::ledger::encoding::StoredRefund;

#[derive(Debug, Default)]
pub(super) struct RowCache(BTreeMap<RefundId, StoredRefund>);

/// The accounts' attempt slots bound the refunds in flight to some hundreds. Beyond this, rows are
/// read again.
const MAX_ROWS: usize = 4_096;

impl RowCache {
    /// Removes the row, which is as it is in the file.
    pub(super) fn take(&mut self, id: &RefundId) -> Option<StoredRefund> {
        self.0.remove(id)
    }

    /// Caches a row just written if the refund is DISPATCHING: its outcome comes soon.
    pub(super) fn put(&mut self, stored: StoredRefund) {
        if stored.refund.state == State::Dispatching && self.0.len() < MAX_ROWS {
            self.0.insert(stored.refund.id().clone(), stored);
        } else {
            self.0.remove(stored.refund.id());
        }
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }
}
