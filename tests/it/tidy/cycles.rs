//! Import cycles: files that name each other, directly or through others.
//!
//! Test code does not count, and neither do words in comments. A file may name the `mod.rs` of its
//! own folder, which declares it; in the engine not even that, since there `mod.rs` is the handle
//! that the callers hold.

use std::collections::{BTreeMap, BTreeSet};

use rstest::rstest;

use super::names::Names;
use super::{is_test, module_of, sources};

/// Files that may name each other, with the reason in a word.
const ACCEPTED: &[&[&str]] = &[];

#[test]
fn files_do_not_import_each_other_in_cycles() {
    let mut violations = Vec::new();
    for folder in ["src/engine", "src/ledger", "simulators/src"] {
        let files: Vec<(String, String)> =
            sources(&[folder]).into_iter().filter(|(place, _)| !is_test(place)).collect();
        assert!(files.len() > 10, "the sources of {folder} were not found");
        violations.extend(cycles_of(&files));
    }
    let is_accepted = |cycle: &Vec<String>| ACCEPTED.iter().any(|accepted| cycle.iter().eq(accepted.iter()));
    let violations: Vec<String> =
        violations.into_iter().filter(|cycle| !is_accepted(cycle)).map(|cycle| cycle.join(" <-> ")).collect();
    assert!(violations.is_empty(), "\n{}", violations.join("\n"));
}

/// Sets of files in which each reaches each by its imports.
fn cycles_of(files: &[(String, String)]) -> Vec<Vec<String>> {
    let places: BTreeMap<Vec<String>, &str> =
        files.iter().map(|(place, _)| (module_of(place), place.as_str())).collect();
    let mut imports: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for (place, source) in files {
        let module = module_of(place);
        let names = Names::of(source, &module).unwrap();
        for (path, _) in names.paths.iter().filter(|(path, in_test)| !in_test && path[0] == "crate") {
            let named = (1..=path.len()).rev().find_map(|length| places.get(&path[1..length]));
            if let Some(named) = named.filter(|named| **named != place.as_str() && !is_own_folder(place, named)) {
                imports.entry(place).or_default().insert(named);
            }
        }
    }
    let reach: BTreeMap<&str, BTreeSet<&str>> =
        files.iter().map(|(place, _)| (place.as_str(), reached_from(place, &imports))).collect();
    let mut cycles: BTreeSet<Vec<String>> = BTreeSet::new();
    for (place, reached) in &reach {
        if reached.contains(place) {
            let cycle = reached.iter().filter(|other| reach[**other].contains(place));
            cycles.insert(cycle.map(|other| (*other).to_owned()).collect());
        }
    }
    cycles.into_iter().collect()
}

fn is_own_folder(place: &str, named: &str) -> bool {
    let folder = named.strip_suffix("mod.rs").or_else(|| named.strip_suffix("lib.rs"));
    folder.is_some_and(|folder| folder != "src/engine/" && place.starts_with(folder))
}

fn reached_from<'a>(place: &str, imports: &BTreeMap<&'a str, BTreeSet<&'a str>>) -> BTreeSet<&'a str> {
    let mut reached = BTreeSet::new();
    let mut waiting: Vec<&str> = imports.get(place).into_iter().flatten().copied().collect();
    while let Some(next) = waiting.pop() {
        if reached.insert(next) {
            waiting.extend(imports.get(next).into_iter().flatten());
        }
    }
    reached
}

#[test]
fn a_cycle_is_seen_and_a_chain_is_none() {
    let file = |place: &str, source: &str| (place.to_owned(), source.to_owned());
    let chain = [
        file("src/engine/a.rs", "use super::b::X;"),
        file("src/engine/b.rs", "use crate::engine::c; #[cfg(test)] mod tests { use crate::engine::a; }"),
        file("src/engine/c.rs", "//! crate::engine::a"),
    ];
    assert_eq!(cycles_of(&chain), Vec::<Vec<String>>::new());
    let mut cycle = chain.to_vec();
    cycle[2].1 = "fn f() { super::a::go() }".to_owned();
    assert_eq!(cycles_of(&cycle), [["src/engine/a.rs", "src/engine/b.rs", "src/engine/c.rs"]]);
    let parent = [file("src/engine/mod.rs", "use self::a::X;"), file("src/engine/a.rs", "use super::Y;")];
    assert_eq!(cycles_of(&parent), [["src/engine/a.rs", "src/engine/mod.rs"]]);
    let folder = [file("src/ledger/mod.rs", "use self::a::X;"), file("src/ledger/a.rs", "use super::Y;")];
    assert_eq!(cycles_of(&folder), Vec::<Vec<String>>::new());
}

#[rstest]
#[case::two_ways("use crate::engine::b;", "fn f() { super::a::go() }", true)]
#[case::one_way("use crate::engine::b::{self, Go};", "use crate::domain::x;", false)]
#[case::in_a_test("use crate::engine::b;", "#[cfg(test)] mod tests { use crate::engine::a::go; }", false)]
fn a_cycle_of_imports_is_seen(#[case] a: &str, #[case] b: &str, #[case] is_cycle: bool) {
    let files = [("src/engine/a.rs", a), ("src/engine/b.rs", b), ("src/engine/mod.rs", "use self::a::X;")];
    let files = files.map(|(place, source)| (place.to_owned(), source.to_owned()));
    assert_eq!(!cycles_of(&files).is_empty(), is_cycle);
}
