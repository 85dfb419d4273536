//! The words that recoup's own names are made of, and phrases that its prose does without.
//!
//! [docs/glossary.md](../../../docs/glossary.md) says what the terms mean. Names count that recoup
//! defines: types, functions, constants, modules, files, configuration keys, metrics and their
//! labels, spans, log fields. Names that a library or the protobuf contract fixes do not, and
//! neither does the language of the prose beyond the listed phrases.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use proc_macro2::{Delimiter, TokenStream, TokenTree};
use rstest::rstest;

use super::{is_test, read, root, sources};

/// A word that no name may contain, and the term that stands for it.
const BANNED_WORDS: &[(&str, &str)] = &[
    ("bell", "notify"),
    ("brisk", "fast"),
    ("crowd", "connection limit"),
    ("deepest", "max"),
    ("desk", "transaction"),
    ("dice", "rng"),
    ("doorway", "listener"),
    ("era", "generation"),
    ("errand", "detached operation"),
    ("errands", "detached operations"),
    ("everybody", "the actor's name"),
    ("farthest", "max"),
    ("furthest", "max"),
    ("handful", "batch"),
    ("harbour", "server context"),
    ("healed", "faults off"),
    ("lane", "account"),
    ("lanes", "accounts"),
    ("largest", "max"),
    ("longest", "max"),
    ("look", "lookup"),
    ("looked", "looked up"),
    ("looking", "lookup"),
    ("looks", "lookups"),
    ("nobody", "the actor's name"),
    ("parcels", "in flight"),
    ("pretence", "forged answer"),
    ("shelf", "overlay"),
    ("shelved", "overlay"),
    ("shortest", "min"),
    ("shut", "suspended, or open of a breaker"),
    ("somebody", "the actor's name"),
    ("soonest", "next"),
    ("stance", "permission"),
    ("steady", "monotonic"),
    ("stranger", "foreign target"),
    ("strangers", "foreign targets"),
    ("strays", "orphans"),
    ("tally", "state counts"),
    ("tell", "notify, report or return"),
    ("tells", "notifies, reports or returns"),
    ("told", "notified, reported or returned"),
    ("unsettled", "due for lookup"),
    ("went", "send result"),
    ("whoever", "the actor's name"),
];

/// A whole name that stood for something else, and what it is called.
const BANNED_NAMES: &[(&str, &str)] = &[
    ("Alarm", "HaltOnPanic"),
    ("BadMoney", "InvalidAmount"),
    ("BadName", "InvalidName"),
    ("Beat", "BodyStep"),
    ("Breakpoint", "Gate"),
    ("Circuit", "CircuitBreaker"),
    ("Cut", "Disconnect"),
    ("FieldFault", "FieldViolation"),
    ("Heard", "AccountSignal"),
    ("Mask", "Redactor"),
    ("Moment", "NewEvent"),
    ("MoveRefused", "IllegalTransition"),
    ("Observed", "Instrumented"),
    ("Policy", "kept for policies"),
    ("Position", "BreakerState"),
    ("Purpose", "RequestKind"),
    ("Recent", "RowCache or EventBuffer"),
    ("Shared", "EngineCore, LedgerState or ValidationCore"),
    ("Sign", "AccountSignal"),
    ("Slip", "StoredRefund"),
    ("Vocabulary", "KnownValues"),
    ("Word", "OpenEnum"),
];

/// What prose does without: a name or a plain verb says it.
const BANNED_PHRASES: &[&str] = &[
    "be it that",
    "everybody",
    "gone on with",
    "nobody",
    "of which",
    "on end",
    "said once",
    "soever",
    "somebody",
    "whoever",
    "whomever",
];

/// What each emulated provider has in a folder of its own.
const PER_PROVIDER: &str = "one for each emulated provider, in its own folder";

/// Types of one name in one crate that mean the same kind of thing, with the reason.
const SAME_NAME: &[(&str, &str, &str)] = &[
    ("simulators", "Account", PER_PROVIDER),
    ("simulators", "Call", PER_PROVIDER),
    ("simulators", "CheckOrder", PER_PROVIDER),
    ("simulators", "FirstCheck", PER_PROVIDER),
    ("simulators", "Order", PER_PROVIDER),
    ("simulators", "PutError", PER_PROVIDER),
    ("simulators", "Refusal", PER_PROVIDER),
    ("simulators", "Settings", PER_PROVIDER),
    ("simulators", "State", PER_PROVIDER),
    ("simulators", "Texts", PER_PROVIDER),
];

/// Folders of what tools and programs write, and of copied data.
const NOT_OURS: [&str; 9] =
    ["target", ".git", ".recoup", ".venv", "venv", "build", "generated", "node_modules", "testdata"];

/// Macros of `tracing`: what stands before `=` in them is a field, and the first text of a span its
/// name.
const LOG_MACROS: [&str; 10] =
    ["debug", "debug_span", "error", "error_span", "event", "info", "info_span", "trace", "warn", "warn_span"];

#[test]
fn names_use_the_terms_of_the_glossary() {
    let mut violations = BTreeSet::new();
    for (place, source) in code() {
        for name in file_words(&place).into_iter().chain(Defined::of(&source).names) {
            violations.extend(name_violation(&name).map(|why| format!("{place}: {why}")));
        }
    }
    for (place, names) in [("docker/recoup.toml", setting_names()), ("docs/metrics.md", metric_names())] {
        assert!(names.len() > 10, "the names in {place} were not found");
        for name in names {
            violations.extend(name_violation(&name).map(|why| format!("{place}: {why}")));
        }
    }
    assert!(violations.is_empty(), "\n{}", Vec::from_iter(violations).join("\n"));
}

#[test]
fn prose_does_without_the_listed_phrases() {
    let violations: Vec<String> = texts().iter().flat_map(|(place, text)| phrase_violations(place, text)).collect();
    assert!(violations.is_empty(), "\n{}", violations.join("\n"));
}

#[test]
fn comments_and_markdown_are_at_most_100_columns_wide() {
    let violations: Vec<String> = texts().iter().flat_map(|(place, text)| wide_lines(place, text)).collect();
    assert!(violations.is_empty(), "\n{}", violations.join("\n"));
}

#[test]
fn a_type_name_means_one_thing_in_its_crate() {
    for (crate_name, folder) in [("recoup", "src"), ("simulators", "simulators/src")] {
        let mut places: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for (place, source) in sources(&[folder]).into_iter().filter(|(place, _)| !is_test(place)) {
            for name in Defined::of(&source).types {
                places.entry(name).or_default().insert(place.clone());
            }
        }
        let accepted: BTreeSet<&str> =
            SAME_NAME.iter().filter(|(owner, ..)| *owner == crate_name).map(|(_, name, _)| *name).collect();
        let repeated: BTreeMap<&str, &BTreeSet<String>> = places
            .iter()
            .filter(|(name, places)| places.len() > 1 && !accepted.contains(name.as_str()))
            .map(|(name, places)| (name.as_str(), places))
            .collect();
        assert!(repeated.is_empty(), "{crate_name} has two types of one name: {repeated:#?}");
        let stale: Vec<&&str> =
            accepted.iter().filter(|name| places.get(**name).is_none_or(|places| places.len() < 2)).collect();
        assert!(stale.is_empty(), "{crate_name} has no two types of these names any more: {stale:?}");
    }
}

/// Our own Rust files, without this list.
fn code() -> Vec<(String, String)> {
    let mut code = sources(&["src", "tests", "benches", "simulators/src", "simulators/tests", "simulators/benches"]);
    code.retain(|(place, _)| !is_this_list(place));
    code
}

fn is_this_list(place: &str) -> bool {
    place.ends_with("tidy/vocabulary.rs")
}

/// All text that people read, without the changelog and this list.
fn texts() -> Vec<(String, String)> {
    let mut texts = code();
    let mut folders = vec![root().to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            let place = path.strip_prefix(root()).unwrap().to_str().unwrap().replace('\\', "/");
            if path.is_dir() {
                if !NOT_OURS.iter().any(|name| path.ends_with(name)) {
                    folders.push(path);
                }
            } else if is_prose(&path) && !place.ends_with("CHANGELOG.md") {
                texts.push((place.clone(), read(&place)));
            }
        }
    }
    texts
}

fn is_prose(path: &Path) -> bool {
    let kind = path.extension().and_then(|kind| kind.to_str()).unwrap_or_default();
    matches!(kind, "js" | "md" | "mjs" | "proto" | "sh" | "sql" | "toml" | "yaml")
}

/// The words of a file's name and of its folders.
fn file_words(place: &str) -> Vec<String> {
    place.trim_end_matches(".rs").split('/').map(|part| part.replace(['-', '.'], "_")).collect()
}

/// The settings of the commented reference, which a test compares with the reader.
fn setting_names() -> BTreeSet<String> {
    let text = read("docker/recoup.toml");
    let keys = text.lines().filter_map(|line| {
        let line = line.trim_start_matches("# ").trim_start_matches('#');
        let (key, _) = line.split_once(" = ")?;
        key.chars().all(|letter| letter.is_ascii_lowercase() || matches!(letter, '_' | '.')).then(|| key.to_owned())
    });
    keys.collect()
}

/// Metrics, their labels, spans and log fields of the manual, which a test compares with the code.
fn metric_names() -> BTreeSet<String> {
    let text = read("docs/metrics.md");
    let quoted = text.lines().filter(|line| line.starts_with('|')).flat_map(|line| line.split('`').skip(1).step_by(2));
    quoted.filter(|name| !name.contains(' ')).map(|name| name.replace('.', "_")).collect()
}

/// Why a name is not one of ours, if it is not.
fn name_violation(name: &str) -> Option<String> {
    if let Some((_, term)) = BANNED_NAMES.iter().find(|(banned, _)| *banned == name) {
        return Some(format!("{name}: the term is {term}"));
    }
    let words = words_of(name);
    words.iter().enumerate().find_map(|(at, word)| {
        let (banned, term) = BANNED_WORDS.iter().find(|(banned, _)| banned == word)?;
        // "To look up" is the verb of the lookup.
        let is_lookup = banned.starts_with("look") && words.get(at + 1).is_some_and(|next| next == "up");
        (!is_lookup).then(|| format!("{name}: \"{banned}\" is no term here, {term} is"))
    })
}

/// The words of a name in snake case, camel case or capitals, in small letters.
fn words_of(name: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut before_is_small = false;
    for letter in name.chars() {
        let begins = !letter.is_alphanumeric() || (letter.is_uppercase() && before_is_small);
        if begins {
            words.push(String::new());
        }
        if letter.is_alphanumeric() {
            words.last_mut().unwrap().extend(letter.to_lowercase());
        }
        before_is_small = letter.is_lowercase() || letter.is_numeric();
    }
    words.retain(|word| !word.is_empty());
    words
}

fn phrase_violations(place: &str, text: &str) -> Vec<String> {
    // Comments wrap: a phrase may begin in one line and end in the next.
    let lines: Vec<String> = text
        .lines()
        .map(|line| line.trim().trim_start_matches(['/', '!', '#', '-', '*', '>']).trim().to_lowercase())
        .collect();
    let mut violations = Vec::new();
    for (at, line) in lines.iter().enumerate() {
        let next = lines.get(at + 1).map_or("", |next| next.split(' ').next().unwrap_or_default());
        let joined = format!("{line} {next}");
        for phrase in BANNED_PHRASES {
            let is_new = |begin: usize| begin < line.len();
            if joined.match_indices(phrase).any(|(begin, _)| is_new(begin) && stands_alone(&joined, begin, phrase)) {
                violations.push(format!("{place}:{}: \"{phrase}\"", at + 1));
            }
        }
    }
    violations
}

/// "on end" is none in "on endpoints"; "soever" is one at the end of every word.
fn stands_alone(text: &str, begin: usize, phrase: &str) -> bool {
    // `somebody-else` is the name of an account.
    let is_letter =
        |letter: Option<char>| letter.is_some_and(|letter| letter.is_alphanumeric() || matches!(letter, '_' | '-'));
    let follows = is_letter(text[begin + phrase.len()..].chars().next());
    let precedes = is_letter(text[..begin].chars().next_back());
    !follows && (phrase == "soever" || !precedes)
}

fn wide_lines(place: &str, text: &str) -> Vec<String> {
    let is_markdown = place.ends_with(".md");
    let mut in_code = false;
    let mut wide = Vec::new();
    for (at, line) in text.lines().enumerate() {
        let content = line.trim_start();
        if is_markdown && content.starts_with("```") {
            in_code = !in_code;
        }
        let marker = match place.rsplit_once('.').map_or("", |(_, kind)| kind) {
            "rs" | "proto" | "js" | "mjs" => "//",
            "sql" => "--",
            "md" => "",
            _ => "#",
        };
        // Tables, links and copied output keep their lines.
        // So does a name that has to stand as it is printed.
        let is_name = content.starts_with("- `") && content.ends_with("`:");
        let is_free = content.starts_with('|') || line.contains("http") || in_code || line.contains("](") || is_name;
        if line.chars().count() > 100 && content.starts_with(marker) && !is_free {
            wide.push(format!("{place}:{}: {} columns", at + 1, line.chars().count()));
        }
    }
    wide
}

/// The names that a Rust file defines.
#[derive(Default)]
struct Defined {
    names: BTreeSet<String>,
    /// Types, but for those of a trait.
    types: BTreeSet<String>,
}

impl Defined {
    fn of(source: &str) -> Defined {
        let tokens: TokenStream = source.parse().unwrap();
        let mut defined = Defined::default();
        defined.walk(tokens, false);
        defined
    }

    fn walk(&mut self, tokens: TokenStream, is_implementation: bool) {
        let tokens: Vec<TokenTree> = tokens.into_iter().collect();
        let mut opens_implementation = false;
        let mut is_test_ahead = false;
        for (at, token) in tokens.iter().enumerate() {
            match token {
                TokenTree::Punct(punct) if punct.as_char() == ';' => {
                    (opens_implementation, is_test_ahead) = (false, false)
                }
                TokenTree::Punct(punct) if punct.as_char() == '#' => {
                    is_test_ahead |= matches!(tokens.get(at + 1), Some(TokenTree::Group(group)) if group.to_string().replace(' ', "") == "[cfg(test)]");
                }
                TokenTree::Group(group) => {
                    if is_log_macro(&tokens, at) {
                        self.log_fields(group.stream());
                    }
                    let is_body = group.delimiter() == Delimiter::Brace;
                    let before = self.types.clone();
                    self.walk(group.stream(), is_body && opens_implementation);
                    if is_body {
                        if is_test_ahead {
                            self.types = before;
                        }
                        (opens_implementation, is_test_ahead) = (false, false);
                    }
                }
                TokenTree::Ident(word) => {
                    let Some(TokenTree::Ident(name)) = tokens.get(at + 1) else {
                        if word == "impl" {
                            opens_implementation = true;
                        }
                        continue;
                    };
                    let name = name.to_string();
                    match word.to_string().as_str() {
                        "struct" | "enum" | "union" => {
                            self.types.insert(name.clone());
                            self.names.insert(name);
                        }
                        "trait" => {
                            opens_implementation = true;
                            self.types.insert(name.clone());
                            self.names.insert(name);
                        }
                        "type" if !is_implementation => {
                            self.types.insert(name.clone());
                            self.names.insert(name);
                        }
                        "fn" | "const" | "static" | "mod" if name != "fn" && name != "mut" => {
                            self.names.insert(name);
                        }
                        "impl" => opens_implementation = true,
                        _ => {}
                    }
                }
                _ => {}
            }
        }
    }

    fn log_fields(&mut self, tokens: TokenStream) {
        let tokens: Vec<TokenTree> = tokens.into_iter().collect();
        for (at, token) in tokens.iter().enumerate() {
            let is_assigned = matches!(tokens.get(at + 1), Some(TokenTree::Punct(punct)) if punct.as_char() == '=');
            match token {
                TokenTree::Ident(field) if is_assigned => {
                    self.names.insert(field.to_string());
                }
                // The name of a span.
                TokenTree::Literal(text) if at == 0 && matches!(tokens.get(1), Some(TokenTree::Punct(_))) => {
                    let text = text.to_string();
                    let name = text.trim_matches('"');
                    if !name.contains(' ') {
                        self.names.insert(name.to_owned());
                    }
                }
                _ => {}
            }
        }
    }
}

fn is_log_macro(tokens: &[TokenTree], at: usize) -> bool {
    let is_call = at >= 2 && matches!(&tokens[at - 1], TokenTree::Punct(punct) if punct.as_char() == '!');
    is_call && matches!(&tokens[at - 2], TokenTree::Ident(name) if LOG_MACROS.contains(&name.to_string().as_str()))
}

// The checker itself: what it must see, and what it must let pass.

#[rstest]
#[case::a_type("struct Told;", "Told")]
#[case::a_function("fn take_a_look() {}", "take_a_look")]
#[case::a_method("impl A { fn tell(&self) {} }", "tell")]
#[case::a_constant("const LONGEST_WAIT: u32 = 1;", "LONGEST_WAIT")]
#[case::a_module("mod lane { }", "lane")]
#[case::a_type_in_camel_case("enum SlowLane { A }", "SlowLane")]
#[case::a_span("fn f() { info_span!(\"look\", refund = 1); }", "look")]
#[case::a_log_field("fn f() { warn!(strangers = 3, \"many\"); }", "strangers")]
#[case::a_name_of_another_thing("struct Circuit;", "Circuit")]
fn a_banned_name_is_seen(#[case] source: &str, #[case] expected: &str) {
    let names = Defined::of(source).names;
    assert!(names.contains(expected), "{names:?}");
    assert!(names.iter().any(|name| name_violation(name).is_some()), "{names:?}");
}

#[rstest]
#[case::a_term("fn lookup() {} struct AccountRuntime; const MAX_WAIT: u32 = 1;")]
#[case::part_of_a_word("fn planet() {} struct Island;")]
#[case::a_call("fn f() { other.tell(); whole::look() }")]
#[case::a_verb("fn look_up() {} fn a_refund_is_looked_up_daily() {}")]
#[case::a_text("fn f() { g(\"told\") }")]
fn another_name_passes(#[case] source: &str) {
    assert_eq!(Defined::of(source).names.iter().find_map(|name| name_violation(name)), None);
}

#[rstest]
#[case("// One of which is ours.", 1)]
#[case("// The first, of\n// which there are two.", 1)]
#[case("/// Whoever comes.", 1)]
#[case("Three times on end.", 1)]
#[case("on endpoints, of whichever", 0)]
#[case("whatsoever", 1)]
fn a_banned_phrase_is_seen(#[case] text: &str, #[case] expected: usize) {
    assert_eq!(phrase_violations("x.md", text).len(), expected);
}

#[test]
fn two_types_of_one_name_are_seen_and_those_of_traits_are_not() {
    let types = |source: &str| Vec::from_iter(Defined::of(source).types);
    assert_eq!(types("struct A; mod b { enum C { D } } impl Iterator for A { type Item = u8; }"), ["A", "C"]);
    assert_eq!(types("trait T { type X; } #[cfg(test)] mod tests { struct A; } type B = u8;"), ["B", "T"]);
}
