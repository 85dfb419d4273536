//! The shape of the house, kept by a test: who may name whom, where a refund may be sent from, how
//! files are called, what is locked.
//!
//! Source is read as tokens, not as lines: a `use` over several lines, a path in the middle of code
//! or of a macro, an alias and a `super::super` are all seen; comments and strings are not.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use rstest::rstest;

use self::names::Names;

mod cycles;
mod names;
mod vocabulary;

/// Which modules of the gateway a module may name besides itself. `""` is the crate's root, with
/// what is generated from `proto/` in it.
const LAYERS: [(&str, &[&str]); 18] = [
    (
        "",
        &[
            "access",
            "api",
            "app",
            "checkpoint",
            "config",
            "domain",
            "engine",
            "http",
            "ledger",
            "proto",
            "providers",
            "staging",
            "telemetry",
            "tls",
            "validation",
        ],
    ),
    ("main", &["app", "cli", "config", "staging", "telemetry"]),
    ("cli", &["access", "api", "checkpoint", "domain", "ledger", "proto", "tls"]),
    ("staging", &["access", "api", "app", "config", "telemetry"]),
    (
        "app",
        &[
            "access",
            "api",
            "checkpoint",
            "config",
            "domain",
            "engine",
            "ledger",
            "providers",
            "telemetry",
            "tls",
            "validation",
        ],
    ),
    (
        "config",
        &[
            "access",
            "api",
            "checkpoint",
            "domain",
            "engine",
            "http",
            "ledger",
            "providers",
            "telemetry",
            "tls",
            "validation",
        ],
    ),
    (
        "api",
        &["access", "checkpoint", "domain", "engine", "ledger", "proto", "providers", "telemetry", "tls", "validation"],
    ),
    ("access", &["domain"]),
    ("engine", &["domain", "ledger", "providers", "telemetry"]),
    ("validation", &["domain", "providers", "telemetry"]),
    ("providers", &["domain", "http", "telemetry"]),
    ("http", &["domain", "telemetry"]),
    ("checkpoint", &["domain", "ledger", "telemetry"]),
    ("ledger", &["domain", "telemetry"]),
    ("telemetry", &["domain", "tls"]),
    ("tls", &["domain"]),
    ("domain", &[]),
    ("proto", &[]),
];

/// What is named in some places alone: a path, where, and whether tests are free to name it
/// elsewhere.
const PLACES: [(&[&str], &[&str], bool); 19] = [
    (&["tonic"], &["src/api/", "src/app.rs", "src/cli/", "src/lib.rs", "src/proto/"], false),
    (&["tonic_health"], &["src/api/", "src/cli/"], false),
    (&["tonic_prost"], &["src/api/"], false),
    (&["tonic_reflection"], &["src/api/"], false),
    (&["tonic_types"], &["src/api/", "src/cli/"], false),
    (&["reqwest"], &["src/http/", "src/providers/mod.rs"], false),
    (&["rusqlite"], &["src/ledger/"], false),
    (&["opentelemetry"], &["src/telemetry/"], false),
    (&["opentelemetry_otlp"], &["src/telemetry/"], false),
    (&["opentelemetry_prometheus"], &["src/telemetry/"], false),
    (&["opentelemetry_sdk"], &["src/telemetry/"], false),
    (&["prometheus"], &["src/telemetry/"], false),
    (&["tracing_opentelemetry"], &["src/telemetry/"], false),
    (&["simulators"], &["src/staging.rs"], false),
    (&["anyhow"], &["src/main.rs"], false),
    (&["std", "env", "var"], &["src/config/"], true),
    (&["std", "env", "var_os"], &["src/config/"], true),
    (&["std", "env", "vars"], &["src/config/"], true),
    (&["std", "env", "vars_os"], &["src/config/"], true),
];

/// What `config` names of a layer besides the layer's own `Settings`: types, defaults and checks of
/// settings.
const SETTING_TYPES: [&str; 6] = ["FormerPlace", "LogFormat", "Url", "authorities_in", "defaults", "defaults_of"];

/// The crates that `domain` may name: no I/O in them, no framework, nothing that runs by itself.
const DOMAIN_CRATES: [&str; 3] = ["secrecy", "sha2", "thiserror"];

/// Dependencies that no source names: what the build makes from `proto/` does.
const NAMED_BY_WHAT_IS_MADE: [&str; 1] = ["tonic_prost"];

/// Where `RefundProvider::refund` is called. Inside `providers` a decorator passes it on.
const REFUND_PLACES: [&str; 2] = ["src/engine/attempt.rs", "src/providers/instrumented.rs"];

/// Names that say nothing, so that everything would fit into them.
const EMPTY_NAMES: [&str; 7] = ["common", "helper", "helpers", "misc", "shared", "util", "utils"];

/// One version of each, or their types would not fit together.
const ONE_VERSION: [&str; 11] =
    ["axum", "h2", "http", "hyper", "prost", "quick-xml", "rusqlite", "rustls", "serde_json", "tokio", "tonic"];

/// Second sources of TLS; rustls with ring is the first.
const NO_TLS: [&str; 7] = ["aws-lc-rs", "aws-lc-sys", "boring", "boring-sys", "native-tls", "openssl", "openssl-sys"];

/// `examples/run.sh` runs what a README says, so it says it once.
#[test]
fn each_example_says_in_ten_lines_or_so_how_it_runs() {
    let examples = ["bash", "cpp", "go", "java", "php", "python", "ruby", "rust", "typescript", "whmcs"];
    for example in examples {
        let path = format!("examples/{example}/README.md");
        let text = std::fs::read_to_string(root().join(&path)).unwrap();
        assert_eq!(text.matches("```sh\n").count(), 1, "{path}");
        assert!(text.lines().count() <= 25, "{path} is long");
        let is_named = |file: &str| std::fs::read_to_string(root().join(file)).unwrap().contains(example);
        assert!(is_named("examples/README.md") && is_named("examples/run.sh"), "{example}");
    }
}

#[test]
fn the_layers_name_each_other_downwards_only() {
    let faults: Vec<String> =
        sources(&["src", "simulators/src"]).iter().flat_map(|(place, source)| faults_of(place, source)).collect();
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

#[test]
fn files_have_a_name_and_a_first_line_that_say_something() {
    let files = sources(&["src", "simulators", "tests"]);
    let faults: Vec<String> = files.iter().filter_map(|(place, source)| story_fault(place, source)).collect();
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
    assert!(files.len() > 10, "the sources were not found");
}

#[test]
fn the_lock_file_holds_one_tls_and_one_version_of_what_is_shared() {
    assert_eq!(lock_faults(&read("Cargo.lock")), Vec::<String>::new());
}

#[test]
fn what_the_lock_file_may_not_hold_is_what_deny_toml_refuses() {
    let deny: toml::Table = read("deny.toml").parse().unwrap();
    let denied = deny["bans"]["deny"].as_array().unwrap().iter().map(|banned| banned["name"].as_str().unwrap());
    assert_eq!(denied.collect::<Vec<_>>(), NO_TLS);
}

#[test]
fn the_simulators_are_built_from_nothing_of_ours() {
    let manifest: toml::Table = read("simulators/Cargo.toml").parse().unwrap();
    for section in ["dependencies", "dev-dependencies", "build-dependencies"] {
        let names = manifest.get(section).and_then(toml::Value::as_table).into_iter().flat_map(toml::Table::keys);
        assert_eq!(names.filter(|name| *name == "recoup").count(), 0, "{section}");
    }
}

/// A name in test code is no use: what tests need is no dependency of the program.
#[test]
fn every_dependency_is_named_by_its_crate() {
    for (manifest, folder) in [("Cargo.toml", "src"), ("simulators/Cargo.toml", "simulators/src")] {
        let mut unused = dependencies(manifest);
        for (place, source) in sources(&[folder]).iter().filter(|(place, _)| !is_test(place)) {
            for (path, in_test) in Names::of(source, &module_of(place)).unwrap().paths {
                if !in_test && let Some(first) = path.first() {
                    unused.remove(first);
                }
            }
        }
        let unused: Vec<&String> =
            unused.iter().filter(|name| !NAMED_BY_WHAT_IS_MADE.contains(&name.as_str())).collect();
        assert!(unused.is_empty(), "{manifest} has what nothing in {folder} names: {unused:?}");
    }
}

/// Everything that a source file names and should not.
fn faults_of(place: &str, source: &str) -> BTreeSet<String> {
    let names = match Names::of(source, &module_of(place)) {
        Ok(names) => names,
        Err(problem) => return BTreeSet::from([format!("{place}: {problem}")]),
    };
    let mut faults = BTreeSet::new();
    let mut fault = |what: &str, why: &str| faults.insert(format!("{place}: names {what}, {why}"));
    let own = module_of(place).first().cloned().unwrap_or_default();
    let is_ours = place.starts_with("src/");
    for (path, in_test) in &names.paths {
        let shown = path.join("::");
        let segments: Vec<&str> = path.iter().map(String::as_str).collect();
        match segments.as_slice() {
            ["recoup", ..] if !is_ours => {
                fault(&shown, "and the simulators judge recoup: they may not share one struct with it");
            }
            _ if !is_ours => {}
            ["crate", "*"] if !matches!(own.as_str(), "" | "main" | "app") => {
                fault(&shown, "which brings every layer at once");
            }
            ["crate", module, ..] => {
                let allowed =
                    LAYERS.iter().find(|(layer, _)| *layer == own).map_or(&[] as &[&str], |(_, allowed)| allowed);
                let is_layer = LAYERS.iter().any(|(layer, _)| layer == module);
                if is_layer && *module != own && !allowed.contains(module) {
                    fault(&shown, &format!("which is not below {own}"));
                }
                let is_setting = |segment: &&str| segment.ends_with("Settings") || SETTING_TYPES.contains(segment);
                let others = is_layer && !matches!(*module, "config" | "domain");
                if own == "config" && others && !segments.iter().any(is_setting) {
                    fault(&shown, "and the configuration names only settings of a layer");
                }
            }
            [outside, ..]
                if own == "domain"
                    && !DOMAIN_CRATES.contains(outside)
                    && dependencies("Cargo.toml").contains(*outside) =>
            {
                fault(&shown, "and the domain has no framework, no I/O and nothing that runs by itself");
            }
            _ => {}
        }
        for (restricted, places, tests_are_free) in PLACES {
            let elsewhere = is_ours && !places.iter().any(|allowed| place.starts_with(allowed));
            if elsewhere && segments.starts_with(restricted) && !(tests_are_free && (*in_test || is_test(place))) {
                fault(&shown, &format!("which is for {} alone", places.join(", ")));
            }
        }
    }
    let by_path =
        names.paths.iter().filter(|(path, _)| path.ends_with(&["RefundProvider".to_owned(), "refund".to_owned()]));
    let mut sends = names.refund_calls.iter().chain(by_path.map(|(_, in_test)| in_test));
    if is_ours && sends.any(|in_test| !in_test && !is_test(place)) && !REFUND_PLACES.contains(&place) {
        fault("RefundProvider::refund", "which is for src/engine/attempt.rs alone: it records the attempt first");
    }
    if place == "src/engine/decide.rs" && names.awaits {
        fault("await", "and what decides does not act");
    }
    faults
}

fn story_fault(place: &str, source: &str) -> Option<String> {
    let parts = place.split('/').map(|part| part.strip_suffix(".rs").unwrap_or(part));
    if let Some(empty) = parts.into_iter().find(|part| EMPTY_NAMES.contains(part)) {
        return Some(format!("{place}: \"{empty}\" says nothing, so everything would fit into it"));
    }
    // The tests of a module that stand in a file of their own continue its story.
    let has_story = source.starts_with("//!") || is_test(place);
    (!has_story).then(|| format!("{place}: does not begin with `//!` and what the file is for"))
}

fn lock_faults(lock: &str) -> Vec<String> {
    let lock: toml::Table = lock.parse().unwrap();
    let mut versions: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for package in lock["package"].as_array().unwrap() {
        versions.entry(package["name"].as_str().unwrap()).or_default().push(package["version"].as_str().unwrap());
    }
    let banned =
        NO_TLS.iter().filter(|name| versions.contains_key(**name)).map(|name| format!("{name} is a second TLS"));
    let several = ONE_VERSION.iter().filter_map(|name| match versions.get(name).map(Vec::as_slice) {
        Some([_]) => None,
        Some(several) => Some(format!("{name} is there as {}", several.join(", "))),
        None => Some(format!("{name} is not there: take it out of this test's list")),
    });
    banned.chain(several).collect()
}

/// `src/engine/attempt.rs` is `engine::attempt`; the binary's file is a module of its own here.
fn module_of(place: &str) -> Vec<String> {
    let inside = place.strip_prefix("simulators/").unwrap_or(place);
    let path = inside.strip_prefix("src/").unwrap_or(inside).trim_end_matches(".rs");
    let path = path.strip_suffix("/mod").unwrap_or(path);
    path.split('/').filter(|part| *part != "lib").map(str::to_owned).collect()
}

fn is_test(place: &str) -> bool {
    place.ends_with("/tests.rs") || place.contains("/tests/") || place.contains("/contract_tests/")
}

fn dependencies(manifest: &str) -> BTreeSet<String> {
    let manifest: toml::Table = read(manifest).parse().unwrap();
    manifest["dependencies"].as_table().unwrap().keys().map(|name| name.replace('-', "_")).collect()
}

/// Every Rust file below the folders, by its place in the repository.
fn sources(folders: &[&str]) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut waiting: Vec<String> = folders.iter().map(|folder| (*folder).to_owned()).collect();
    while let Some(folder) = waiting.pop() {
        for entry in std::fs::read_dir(root().join(&folder)).unwrap() {
            let entry = entry.unwrap();
            let place = format!("{folder}/{}", entry.file_name().to_str().unwrap());
            if entry.file_type().unwrap().is_dir() {
                waiting.push(place);
            } else if place.ends_with(".rs") {
                let source = read(&place);
                found.push((place, source));
            }
        }
    }
    found.sort();
    found
}

fn read(place: &str) -> String {
    std::fs::read_to_string(root().join(place)).unwrap()
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

// The checker itself: what it must see, and what it must let pass.

#[rstest]
#[case::a_crate("src/engine/attempt.rs", "use tonic::Status;", "tonic::Status")]
#[case::a_group(
    "src/engine/attempt.rs",
    "use {\n    std::fmt,\n    crate::{\n        domain,\n        api::convert::{self, X},\n    },\n};",
    "crate::api::convert"
)]
#[case::in_code("src/engine/attempt.rs", "fn f() { let x = crate::api::convert::go(1); }", "crate::api::convert::go")]
#[case::in_a_type("src/engine/mod.rs", "struct A { b: Vec<tonic::Status> }", "tonic::Status")]
#[case::after_a_turbofish("src/engine/mod.rs", "fn f() { g::<::reqwest::Url>() }", "reqwest::Url")]
#[case::in_an_attribute("src/engine/mod.rs", "#[tonic::async_trait] impl A for B {}", "tonic::async_trait")]
#[case::in_a_macro("src/engine/mod.rs", "fn f() { tokio::select! { x = a => crate::api::go(x), } }", "crate::api::go")]
#[case::of_a_macro("src/providers/mod.rs", "macro_rules! m { () => { $crate::engine::go() } }", "crate::engine::go")]
#[case::an_alias("src/ledger/mod.rs", "use crate::engine as e;", "crate::engine")]
#[case::an_alias_of_the_root(
    "src/ledger/mod.rs",
    "use crate as root;\nfn f() { root::engine::go() }",
    "crate::engine::go"
)]
#[case::an_alias_in_a_group(
    "src/ledger/mod.rs",
    "use crate::{self as root};\nuse root::engine::Go;",
    "crate::engine::Go"
)]
#[case::an_alias_of_an_alias(
    "src/ledger/mod.rs",
    "use super as a; use a as b; fn f() { b::engine::go() }",
    "crate::engine::go"
)]
#[case::an_extern_crate("src/engine/mod.rs", "extern crate tonic as t;", "tonic")]
#[case::a_bare_crate("src/engine/mod.rs", "use tonic as t;", "tonic")]
#[case::a_raw_name("src/engine/mod.rs", "use r#tonic::Status;", "tonic::Status")]
#[case::above("src/ledger/sqlite/rows.rs", "use super::super::super::engine::Engine;", "crate::engine::Engine")]
#[case::above_in_a_module(
    "src/ledger/mod.rs",
    "mod tests { use super::super::engine::Engine; }",
    "crate::engine::Engine"
)]
#[case::everything("src/ledger/mod.rs", "use crate::*;", "crate::*")]
#[case::everything_above("src/ledger/mod.rs", "use super::*;", "crate::*")]
#[case::by_its_own_name("src/main.rs", "use recoup::engine::Engine;", "crate::engine::Engine")]
#[case::the_contract("src/engine/mod.rs", "use crate::proto::v1::Refund;", "crate::proto::v1::Refund")]
#[case::from_the_api("src/api/mod.rs", "use crate::config::Settings;", "crate::config::Settings")]
#[case::api_and_database("src/api/mod.rs", "use rusqlite::Connection;", "rusqlite::Connection")]
#[case::more_than_settings("src/config/mod.rs", "use crate::engine::Engine;", "crate::engine::Engine")]
#[case::beside("src/providers/mod.rs", "use crate::ledger::Ledger;", "crate::ledger::Ledger")]
#[case::from_the_domain("src/domain/money.rs", "use crate::telemetry;", "crate::telemetry")]
#[case::a_runtime("src/domain/money.rs", "async fn f() { tokio::time::sleep(d).await }", "tokio::time::sleep")]
#[case::a_format("src/domain/money.rs", "#[derive(serde::Serialize)] struct A;", "serde::Serialize")]
#[case::simulators(
    "src/providers/mod.rs",
    "#[cfg(test)] mod tests { use simulators::Simulators; }",
    "simulators::Simulators"
)]
#[case::ours("simulators/src/record/books.rs", "use recoup::domain::money::Money;", "recoup::domain::money::Money")]
#[case::the_environment("src/engine/mod.rs", "use std::env; fn f() { env::vars_os() }", "std::env::vars_os")]
#[case::a_refund("src/engine/workers.rs", "async fn f() { adapter.refund(&intent).await }", "RefundProvider::refund")]
#[case::a_refund_by_path(
    "src/engine/workers.rs",
    "async fn f() { RefundProvider::refund(&*adapter, &intent).await }",
    "RefundProvider::refund"
)]
#[case::a_refund_by_type(
    "src/app.rs",
    "fn f() { <dyn RefundProvider>::refund(adapter, &intent) }",
    "RefundProvider::refund"
)]
#[case::a_refund_by_alias(
    "src/app.rs",
    "use crate::providers::RefundProvider as P; fn f() { P::refund(adapter, &intent) }",
    "RefundProvider::refund"
)]
#[case::a_refund_as_a_value("src/app.rs", "fn f() { each(RefundProvider::refund) }", "RefundProvider::refund")]
#[case::an_act_in_a_decision("src/engine/decide.rs", "async fn f() { g().await }", "await")]
#[case::no_rust("src/engine/mod.rs", "fn f( {", "cannot be read")]
fn what_is_out_of_place_is_seen(#[case] place: &str, #[case] source: &str, #[case] expected: &str) {
    let faults = faults_of(place, source);
    assert!(faults.iter().any(|fault| fault.contains(&format!(" {expected}"))), "{faults:?}");
}

#[rstest]
#[case::downwards("src/api/mod.rs", "use crate::{engine::Engine, domain::money::Money}; use tonic::Status;")]
#[case::oneself("src/engine/attempt.rs", "use crate::engine::decide; use super::workers; use self::x::y;")]
#[case::in_words(
    "src/engine/attempt.rs",
    "//! crate::api, tonic::Status\n/// [`crate::api::X`]\nfn f() { g(\"tonic::Status\") }"
)]
#[case::a_field("src/engine/attempt.rs", "fn f() { self.tonic.reqwest(x.api) }")]
#[case::an_associated_name("src/engine/attempt.rs", "fn f() { Vec::<u8>::tonic(); <A as B>::reqwest(); }")]
#[case::everything_of_the_parent("src/config/tests.rs", "use super::*;")]
#[case::settings("src/config/mod.rs", "use crate::{engine::EngineSettings, telemetry::LogFormat};")]
#[case::everything_of_the_file("src/engine/attempt.rs", "mod tests { use super::*; fn f() { super::go() } }")]
#[case::the_root("src/lib.rs", "pub mod api; tonic::include_proto!(\"recoup.v1\");")]
#[case::the_contract("src/api/mod.rs", "use crate::proto::v1::Refund;")]
#[case::the_environment_of_a_test("src/engine/mod.rs", "#[cfg(test)] mod tests { fn f() { std::env::var(\"X\") } }")]
#[case::the_environment("src/config/mod.rs", "fn f() { std::env::vars_os() }")]
#[case::a_refund("src/engine/attempt.rs", "async fn f() { adapter.refund(&intent).await }")]
#[case::a_refund_of_a_test(
    "src/providers/sectigo/mod.rs",
    "#[cfg(test)]\nmod tests { async fn f() { a.refund(&intent).await } }"
)]
#[case::a_refund_of_a_tests_file("src/engine/tests/moved.rs", "async fn f() { a.refund(&intent).await }")]
#[case::the_word(
    "src/engine/mod.rs",
    "use crate::domain::refund; fn f() { x.refund; x.refund(); refund::new(refund) }"
)]
#[case::another_function(
    "src/ledger/sqlite/rows.rs",
    "fn f() { rows::refund(row); Place::refund(row); each(convert::refund) }"
)]
#[case::captures("src/engine/mod.rs", "fn f<'a>() -> impl Sized + use<'a> { crate::domain::go() }")]
#[case::the_simulators("simulators/src/record/books.rs", "use crate::clock::Clock; use tonic::Status;")]
fn what_is_in_place_passes(#[case] place: &str, #[case] source: &str) {
    assert_eq!(faults_of(place, source), BTreeSet::new());
}

#[rstest]
#[case("src/util.rs", "//! x", true)]
#[case("src/engine/helpers/mod.rs", "//! x", true)]
#[case("src/engine/common.rs", "//! x", true)]
#[case("src/engine/attempt.rs", "use x;\n//! x", true)]
#[case("src/engine/attempt.rs", "//! Sends an attempt.", false)]
#[case("src/engine/tests.rs", "use super::*;", false)]
fn a_file_without_a_story_is_seen(#[case] place: &str, #[case] source: &str, #[case] faulty: bool) {
    assert_eq!(story_fault(place, source).is_some(), faulty);
}

#[test]
fn a_lock_file_with_two_of_a_kind_is_seen() {
    let package = |name: &str, version: &str| format!("[[package]]\nname = \"{name}\"\nversion = \"{version}\"\n");
    let good: String = ONE_VERSION.iter().map(|name| package(name, "1.0.0")).collect();
    assert_eq!(lock_faults(&good), Vec::<String>::new());
    assert_eq!(lock_faults(&(good.clone() + &package("tokio", "2.0.0"))), ["tokio is there as 1.0.0, 2.0.0"]);
    assert_eq!(lock_faults(&(good + &package("aws-lc-rs", "1.0.0"))), ["aws-lc-rs is a second TLS"]);
}

#[test]
fn every_layer_is_a_module_that_exists() {
    let modules: BTreeSet<String> =
        sources(&["src"]).iter().filter_map(|(place, _)| module_of(place).first().cloned()).collect();
    for module in modules {
        assert!(
            LAYERS.iter().any(|(layer, _)| *layer == module),
            "{module} is in no layer: say in LAYERS what it may name"
        );
    }
}
