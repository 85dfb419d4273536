//! The order of each item, found without a scan of all orders.

use std::{
    collections::{BTreeMap, HashMap},
    sync::LazyLock,
};

use super::orders::Order;
use crate::providers::overlay::{Overlay, Seeded};

/// The order of each item in a world's own orders. Only a hint: a hit is checked against the order.
/// Built when it is first used, and not part of the state: a copy builds its own.
#[derive(Debug, Default)]
pub(super) struct ItemIndex(Option<HashMap<i32, i32>>);

impl ItemIndex {
    /// The order that contains this item.
    pub(super) fn order_of(&mut self, item: i32, orders: &Overlay<Order>) -> Option<i32> {
        let contains_it = |order: &i32| {
            orders.get(order).is_some_and(|order| order.items.iter().any(|candidate| candidate.id == item))
        };
        let own = self.built(orders).get(&item).copied();
        own.filter(contains_it).or_else(|| demo().get(&item).copied().filter(contains_it))
    }

    /// Indexes the items of an order that is about to be put, and removes those of the order that
    /// it replaces.
    pub(super) fn put(&mut self, order: &Order, orders: &Overlay<Order>) {
        let own = self.built(orders);
        for replaced in orders.get(&order.id).into_iter().flat_map(|before| &before.items) {
            if own.get(&replaced.id) == Some(&order.id) {
                own.remove(&replaced.id);
            }
        }
        own.extend(order.items.iter().map(|item| (item.id, order.id)));
    }

    fn built(&mut self, orders: &Overlay<Order>) -> &mut HashMap<i32, i32> {
        self.0.get_or_insert_with(|| orders.own().flat_map(index_items).collect())
    }
}

impl Clone for ItemIndex {
    fn clone(&self) -> Self {
        Self::default()
    }
}

impl PartialEq for ItemIndex {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

/// The index of the demo data.
fn demo() -> &'static BTreeMap<i32, i32> {
    static DEMO: LazyLock<BTreeMap<i32, i32>> =
        LazyLock::new(|| Order::demo().values().flat_map(index_items).collect());
    &DEMO
}

/// The ids of an order's items, each with the order's id.
fn index_items(order: &Order) -> impl Iterator<Item = (i32, i32)> {
    order.items.iter().map(|item| (item.id, order.id))
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
    fn an_item_id_of_the_demo_data_is_taken_while_the_item_exists() {
        let now = OffsetDateTime::UNIX_EPOCH;
        let mut state = State::demo(now);
        assert!(state.put_order(order(7, &[3_200_001]), now).is_err());
        assert!(state.put_order(order(7, &[3_300_002]), now).is_err());
        // After a refund the world has its own copy of the order, with the item.
        assert!(state.refund_item(200_001, 3_200_001, 1299, PaidTo::default(), None).is_some());
        assert!(state.put_order(order(7, &[3_200_001]), now).is_err());
        state.put_order(order(200_001, &[8]), now).unwrap();
        state.put_order(order(7, &[3_200_001]), now).unwrap();
    }

    proptest! {
        #[test]
        fn an_item_id_is_in_one_order_only(puts in prop::collection::vec((1..5_i32, prop::collection::btree_set(1..8_i32, 1..4)), 1..20), copied in 0..20_usize) {
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
