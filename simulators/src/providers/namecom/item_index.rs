//! Which order an item is in, found without looking through all of them: putting the ten thousandth
//! order takes as long as putting the first.

use std::{
    collections::{BTreeMap, HashMap},
    sync::LazyLock,
};

use super::orders::Order;
use super::stored_order::KeptOrder;
use crate::providers::overlay::{Shelf, Shelved};

/// Where the items of a world's own orders were put. A hint and no more: whoever asks looks there.
/// Filled when it is first asked, and no part of what a world is: a copy fills its own.
#[derive(Debug, Default)]
pub(super) struct Places(Option<HashMap<i32, i32>>);

impl Places {
    /// The order that has this item.
    pub(super) fn order_of(&mut self, item: i32, orders: &Shelf<KeptOrder>) -> Option<i32> {
        let has_it = |order: &i32| {
            orders.get(order).is_some_and(|kept| kept.open().items.iter().any(|candidate| candidate.id == item))
        };
        let own = self.filled(orders).get(&item).copied();
        own.filter(has_it).or_else(|| demo().get(&item).copied().filter(has_it))
    }

    /// Remembers where the items of an order are that is put now, and no longer where those were of
    /// the one that it replaces.
    pub(super) fn put(&mut self, order: &Order, orders: &Shelf<KeptOrder>) {
        let own = self.filled(orders);
        for gone in orders.get(&order.id).into_iter().flat_map(|before| before.open().items) {
            if own.get(&gone.id) == Some(&order.id) {
                own.remove(&gone.id);
            }
        }
        own.extend(order.items.iter().map(|item| (item.id, order.id)));
    }

    fn filled(&mut self, orders: &Shelf<KeptOrder>) -> &mut HashMap<i32, i32> {
        let places = || orders.own().flat_map(places_in).collect();
        self.0.get_or_insert_with(places)
    }
}

impl Clone for Places {
    fn clone(&self) -> Self {
        Self::default()
    }
}

impl PartialEq for Places {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

/// The same for the demo data.
fn demo() -> &'static BTreeMap<i32, i32> {
    static DEMO: LazyLock<BTreeMap<i32, i32>> =
        LazyLock::new(|| KeptOrder::demo().values().flat_map(places_in).collect());
    &DEMO
}

/// The items of one order, each with the order's number.
fn places_in(kept: &KeptOrder) -> impl Iterator<Item = (i32, i32)> {
    let Order { id, items, .. } = kept.open();
    items.into_iter().map(move |item| (item.id, id))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use time::OffsetDateTime;

    use super::super::{Item, State};
    use super::*;
    use crate::request::PaidTo;

    fn order(id: i32, items: &[i32]) -> Order {
        let items = items.iter().map(|item| Item::new(*item, "registration", "a.com".to_owned(), 1)).collect();
        Order { account: None, ..Order::new(id, "", items) }
    }

    #[test]
    fn the_demo_datas_items_are_taken_as_long_as_they_are_there() {
        let now = OffsetDateTime::UNIX_EPOCH;
        let mut state = State::demo(now);
        assert!(state.put_order(order(7, &[3_200_001]), now).is_err());
        assert!(state.put_order(order(7, &[3_300_002]), now).is_err());
        // Refunded, the order is the world's own, and its item still there.
        assert!(state.refund_item(200_001, 3_200_001, 1299, PaidTo::default(), None).is_some());
        assert!(state.put_order(order(7, &[3_200_001]), now).is_err());
        state.put_order(order(200_001, &[8]), now).unwrap();
        state.put_order(order(7, &[3_200_001]), now).unwrap();
    }

    proptest! {
        #[test]
        fn an_item_is_in_one_order_whatever_was_put(puts in prop::collection::vec((1..5_i32, prop::collection::btree_set(1..8_i32, 1..4)), 1..20), copied in 0..20_usize) {
            let now = OffsetDateTime::UNIX_EPOCH;
            let mut state = State::empty(now);
            for (count, (id, items)) in puts.into_iter().enumerate() {
                if count == copied {
                    state = state.clone();
                }
                let items: Vec<i32> = items.into_iter().collect();
                let is_taken = state.orders().iter().any(|other| other.id != id && other.items.iter().any(|item| items.contains(&item.id)));
                prop_assert_eq!(state.put_order(order(id, &items), now).is_err(), is_taken);
            }
        }
    }
}
