//! An overlay: the objects of one kind in a world, by key. The demo data exists once per process
//! and is shared by all worlds. A world stores only what was put or changed in it, and copies of a
//! world share those rows, so that a hundred worlds and their snapshots stay small.

use std::{borrow::Borrow, collections::BTreeMap, iter::Peekable, ops::Deref, sync::Arc};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// An object with demo data.
pub(crate) trait Seeded: Clone + 'static {
    /// What the object is found by.
    type Key: Ord + Clone + 'static;

    /// The demo data of this kind, the same in every world that has it: nothing in it may depend on
    /// time or credentials.
    fn demo() -> &'static BTreeMap<Self::Key, Self>;
}

/// All objects of one kind. In JSON: whether the demo data is there, and what differs from it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(
    deny_unknown_fields,
    bound(
        serialize = "T: Serialize, T::Key: Serialize",
        deserialize = "T: Deserialize<'de>, T::Key: Deserialize<'de>"
    )
)]
pub(crate) struct Overlay<T: Seeded> {
    /// Whether the demo data lies under `own`.
    #[serde(default)]
    demo: bool,
    #[serde(default = "BTreeMap::new")]
    own: BTreeMap<T::Key, Row<T>>,
}

impl<T: Seeded> Default for Overlay<T> {
    fn default() -> Self {
        Self { demo: false, own: BTreeMap::new() }
    }
}

impl<T: Seeded> Overlay<T> {
    /// The demo data, and over it what depends on the world.
    pub(crate) fn demo(own: impl IntoIterator<Item = (T::Key, T)>) -> Self {
        Self { demo: true, own: own.into_iter().map(|(key, value)| (key, Row::new(value))).collect() }
    }

    pub(crate) fn get<Q>(&self, key: &Q) -> Option<&T>
    where
        T::Key: Borrow<Q>,
        Q: Ord + ?Sized,
    {
        self.own.get(key).map(|value| &**value).or_else(|| self.demo_data()?.get(key))
    }

    /// The object for a change. A demo object is copied first.
    pub(crate) fn get_mut(&mut self, key: &T::Key) -> Option<&mut T> {
        if !self.own.contains_key(key) {
            let copy = self.demo_data()?.get(key)?.clone();
            self.own.insert(key.clone(), Row::new(copy));
        }
        self.own.get_mut(key).map(Row::make_mut)
    }

    pub(crate) fn insert(&mut self, key: T::Key, value: T) {
        self.own.insert(key, Row::new(value));
    }

    /// What was put or changed here.
    pub(crate) fn own(&self) -> impl Iterator<Item = &T> {
        self.own.values().map(|value| &**value)
    }

    /// As [`Self::own`], for a change. Demo data names no accounts, so that a change of credentials
    /// need not touch it.
    pub(crate) fn own_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.own.values_mut().map(Row::make_mut)
    }

    /// All objects, in the order of their keys.
    pub(crate) fn values(&self) -> impl Iterator<Item = &T> {
        let own = self.own.iter().map(|(key, value)| (key, &**value));
        let demo = self.demo_data().map(BTreeMap::iter).unwrap_or_default();
        Merged { own: own.peekable(), demo: demo.peekable() }.map(|(_, value)| value)
    }

    fn demo_data(&self) -> Option<&'static BTreeMap<T::Key, T>> {
        self.demo.then(T::demo)
    }
}

/// A value that copies of a world share until one of them changes it.
#[derive(Debug, PartialEq)]
pub(crate) struct Row<T>(Arc<T>);

impl<T> Row<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(Arc::new(value))
    }

    /// The value for a change. A shared value is copied first.
    pub(crate) fn make_mut(row: &mut Self) -> &mut T
    where
        T: Clone,
    {
        Arc::make_mut(&mut row.0)
    }
}

impl<T> Clone for Row<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T> Deref for Row<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T: Serialize> Serialize for Row<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Row<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        T::deserialize(deserializer).map(Self::new)
    }
}

struct Merged<O: Iterator, D: Iterator> {
    own: Peekable<O>,
    demo: Peekable<D>,
}

impl<'a, K: Ord + 'a, V: 'a, O, D> Iterator for Merged<O, D>
where
    O: Iterator<Item = (&'a K, &'a V)>,
    D: Iterator<Item = (&'a K, &'a V)>,
{
    type Item = (&'a K, &'a V);

    fn next(&mut self) -> Option<Self::Item> {
        let (Some((own, _)), Some((demo, _))) = (self.own.peek(), self.demo.peek()) else {
            return self.own.next().or_else(|| self.demo.next());
        };
        match own.cmp(demo) {
            std::cmp::Ordering::Less => self.own.next(),
            std::cmp::Ordering::Greater => self.demo.next(),
            std::cmp::Ordering::Equal => {
                self.demo.next();
                self.own.next()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use super::*;

    impl Seeded for String {
        type Key = i32;

        fn demo() -> &'static BTreeMap<i32, String> {
            static DEMO: LazyLock<BTreeMap<i32, String>> =
                LazyLock::new(|| [1, 3, 5].map(|n| (n, format!("demo {n}"))).into());
            &DEMO
        }
    }

    #[test]
    fn a_changed_object_belongs_to_the_world_and_the_rest_is_shared() {
        let mut overlay: Overlay<String> = Overlay::demo([(2, "own 2".to_owned())]);
        overlay.insert(6, "own 6".to_owned());
        overlay.get_mut(&3).unwrap().push_str(" changed");
        assert_eq!(overlay.get_mut(&4), None);
        let all: Vec<&str> = overlay.values().map(String::as_str).collect();
        assert_eq!(all, ["demo 1", "own 2", "demo 3 changed", "demo 5", "own 6"]);
        let again: Overlay<String> = serde_json::from_value(serde_json::to_value(&overlay).unwrap()).unwrap();
        assert_eq!(again, overlay);
        assert_eq!(overlay.own.len(), 3);
        assert_eq!(Overlay::<String>::demo([]).get(&3).unwrap(), "demo 3");
        assert_eq!(Overlay::<String>::default().values().count(), 0);
    }
}
