//! A shelf: what a world has of one kind, by key. Demo data stands in the process once, however
//! many worlds show it; a world keeps only what was put or changed in it, so that a hundred worlds,
//! their copies and their snapshots stay small.

use std::{collections::BTreeMap, iter::Peekable};

use serde::{Deserialize, Serialize};

/// Something that can stand on a shelf.
pub(crate) trait Shelved: Clone + 'static {
    /// What it is found by.
    type Key: Ord + Clone + 'static;

    /// The demo data of this kind, the same in every world that has it: nothing in it may depend on
    /// time or credentials.
    fn demo() -> &'static BTreeMap<Self::Key, Self>;
}

/// All of one kind. In JSON: whether the demo data is there, and what differs from it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(
    deny_unknown_fields,
    bound(
        serialize = "T: Serialize, T::Key: Serialize",
        deserialize = "T: Deserialize<'de>, T::Key: Deserialize<'de>"
    )
)]
pub(crate) struct Shelf<T: Shelved> {
    /// Whether the demo data stands behind `own`.
    #[serde(default)]
    demo: bool,
    #[serde(default = "BTreeMap::new")]
    own: BTreeMap<T::Key, T>,
}

impl<T: Shelved> Default for Shelf<T> {
    fn default() -> Self {
        Self { demo: false, own: BTreeMap::new() }
    }
}

impl<T: Shelved> Shelf<T> {
    /// The demo data, and over it what depends on more than the kind.
    pub(crate) fn demo(own: impl IntoIterator<Item = (T::Key, T)>) -> Self {
        Self { demo: true, own: own.into_iter().collect() }
    }

    pub(crate) fn get<Q>(&self, key: &Q) -> Option<&T>
    where
        T::Key: std::borrow::Borrow<Q>,
        Q: Ord + ?Sized,
    {
        self.own.get(key).or_else(|| self.behind()?.get(key))
    }

    /// For a change: from now on it is the world's own.
    pub(crate) fn get_mut(&mut self, key: &T::Key) -> Option<&mut T> {
        if !self.own.contains_key(key) {
            let copy = self.behind()?.get(key)?.clone();
            self.own.insert(key.clone(), copy);
        }
        self.own.get_mut(key)
    }

    pub(crate) fn insert(&mut self, key: T::Key, value: T) {
        self.own.insert(key, value);
    }

    /// What was put or changed here.
    pub(crate) fn own(&self) -> impl Iterator<Item = &T> {
        self.own.values()
    }

    /// The same, for a change: all that a change of credentials has to touch.
    pub(crate) fn own_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.own.values_mut()
    }

    /// Everything, in the order of the keys.
    pub(crate) fn values(&self) -> impl Iterator<Item = &T> {
        let behind = self.behind().map(BTreeMap::iter).unwrap_or_default();
        Merged { own: self.own.iter().peekable(), behind: behind.peekable() }.map(|(_, value)| value)
    }

    fn behind(&self) -> Option<&'static BTreeMap<T::Key, T>> {
        self.demo.then(T::demo)
    }
}

struct Merged<O: Iterator, B: Iterator> {
    own: Peekable<O>,
    behind: Peekable<B>,
}

impl<'a, K: Ord + 'a, V: 'a, O, B> Iterator for Merged<O, B>
where
    O: Iterator<Item = (&'a K, &'a V)>,
    B: Iterator<Item = (&'a K, &'a V)>,
{
    type Item = (&'a K, &'a V);

    fn next(&mut self) -> Option<Self::Item> {
        let (Some((own, _)), Some((behind, _))) = (self.own.peek(), self.behind.peek()) else {
            return self.own.next().or_else(|| self.behind.next());
        };
        match own.cmp(behind) {
            std::cmp::Ordering::Less => self.own.next(),
            std::cmp::Ordering::Greater => self.behind.next(),
            std::cmp::Ordering::Equal => {
                self.behind.next();
                self.own.next()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use super::*;

    impl Shelved for String {
        type Key = i32;

        fn demo() -> &'static BTreeMap<i32, String> {
            static DEMO: LazyLock<BTreeMap<i32, String>> =
                LazyLock::new(|| [1, 3, 5].map(|n| (n, format!("demo {n}"))).into());
            &DEMO
        }
    }

    #[test]
    fn what_is_changed_is_the_worlds_own_and_the_rest_is_everybodys() {
        let mut shelf: Shelf<String> = Shelf::demo([(2, "own 2".to_owned())]);
        shelf.insert(6, "own 6".to_owned());
        shelf.get_mut(&3).unwrap().push_str(" changed");
        assert_eq!(shelf.get_mut(&4), None);
        let all: Vec<&str> = shelf.values().map(String::as_str).collect();
        assert_eq!(all, ["demo 1", "own 2", "demo 3 changed", "demo 5", "own 6"]);
        let again: Shelf<String> = serde_json::from_value(serde_json::to_value(&shelf).unwrap()).unwrap();
        assert_eq!(again, shelf);
        assert_eq!(shelf.own.len(), 3);
        assert_eq!(Shelf::<String>::demo([]).get(&3).unwrap(), "demo 3");
        assert_eq!(Shelf::<String>::default().values().count(), 0);
    }
}
