//! What stands under `docker/` and is not compiled: its paths, versions, addresses, metrics and
//! alerts, compared with what they are about.
//!
//! An image is not built here. Prometheus' own tool is asked where it is on the machine, and
//! `PROMTOOL=required` makes its absence a failure.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use recoup::config::Settings;
use recoup::telemetry::metrics::{METRICS, MetricKind};

use crate::support::simulators_in;

fn read(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn exists(path: &str) -> bool {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path).exists()
}

/// A file without its comments.
fn told(path: &str) -> String {
    read(path).lines().filter(|line| !line.trim_start().starts_with('#')).map(|line| format!("{line}\n")).collect()
}

/// Words of letters, digits and underscores.
fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_').filter(|word| !word.is_empty())
}

#[test]
fn an_image_is_built_from_what_is_there_and_let_in() {
    let let_in: Vec<String> =
        told(".dockerignore").lines().filter_map(|line| line.strip_prefix('!').map(str::to_owned)).collect();
    for path in &let_in {
        assert!(exists(path), "{path} is let in, and is not there");
    }
    let dockerfile = told("docker/Dockerfile");
    let from_here =
        dockerfile.lines().filter_map(|line| line.strip_prefix("COPY ")).filter(|line| !line.starts_with("--"));
    for copied in from_here {
        let (sources, _) = copied.rsplit_once(' ').unwrap();
        for source in sources.split(' ').filter(|source| *source != ".") {
            assert!(exists(source), "{source} is copied, and is not there");
            assert!(let_in.iter().any(|path| path == source), "{source} is copied, and .dockerignore keeps it out");
        }
    }
    // What the programs are made of: the sources, and whatever they read when they are compiled.
    for needed in [
        ".cargo/config.toml",
        "Cargo.toml",
        "Cargo.lock",
        "build.rs",
        "proto",
        "src",
        "simulators/Cargo.toml",
        "simulators/src",
    ] {
        assert!(let_in.iter().any(|path| path == needed), "{needed} is kept out");
    }
    // It has the flags of the bundled SQLite, which is a dependency, and belongs into their layer.
    let (before_the_first_build, _) = dockerfile.split_once("cargo build").unwrap();
    assert!(before_the_first_build.contains("\nCOPY .cargo/config.toml .cargo/\n"));
    for secret in ["docker", ".git", ".recoup", "target"] {
        assert!(!let_in.iter().any(|path| path.starts_with(secret)), "{secret} is let in");
    }
}

#[test]
fn the_image_is_of_the_toolchain_and_of_the_version_that_the_manifest_names() {
    let dockerfile = told("docker/Dockerfile");
    let toolchain: toml::Table = read("rust-toolchain.toml").parse().unwrap();
    let channel = toolchain["toolchain"]["channel"].as_str().unwrap();
    let image = dockerfile.lines().find_map(|line| line.strip_prefix("FROM rust:")).unwrap();
    let (version, debian) = image.split(' ').next().unwrap().split_once('-').unwrap();
    assert!(channel == version || channel.starts_with(&format!("{version}.")), "{channel} is not {version}");
    // The C library that a program was linked with is the one that it finds.
    let finals: Vec<&str> = dockerfile.lines().filter_map(|line| line.strip_prefix("FROM debian:")).collect();
    assert_eq!(finals, [format!("{debian}-slim AS gateway"), format!("{debian}-slim AS simulators")]);
    let manifest: toml::Table = read("Cargo.toml").parse().unwrap();
    let version = manifest["workspace"]["package"]["version"].as_str().unwrap();
    assert_eq!(dockerfile.matches(&format!("ARG VERSION={version}\n")).count(), 2);
}

#[test]
fn an_image_runs_as_nobody_is_asked_by_its_own_program_and_has_time_to_drain() {
    let dockerfile = told("docker/Dockerfile");
    for (target, asked) in [
        ("gateway", "[\"/usr/local/bin/recoup\", \"health\"]"),
        ("simulators", "[\"/usr/local/bin/simulators\", \"--health\"]"),
    ] {
        let stage = dockerfile.split("\nFROM ").find(|stage| stage.contains(&format!(" AS {target}\n"))).unwrap();
        for line in ["USER 10001:10001", "STOPSIGNAL SIGTERM", "ENTRYPOINT [\"/usr/local/bin/"] {
            assert!(stage.contains(line), "{target}: {line}");
        }
        assert!(stage.lines().any(|line| line.starts_with("HEALTHCHECK ") && line.ends_with(asked)), "{target}");
    }
    let compose = told("docker/compose.yaml");
    let gateway = compose.split("\n  gateway:\n").nth(1).unwrap();
    let grace = gateway.lines().find_map(|line| line.trim().strip_prefix("stop_grace_period: ")).unwrap();
    let grace: u64 = grace.trim_end_matches('s').parse().unwrap();
    assert!(grace >= Settings::default().drain.as_secs() + 5, "{grace} s");
}

#[test]
fn compose_names_what_there_is() {
    let compose = told("docker/compose.yaml");
    let dockerfile = told("docker/Dockerfile");
    let mut paths = 0;
    for line in compose.lines().map(|line| line.trim().trim_start_matches("- ")) {
        if let Some(path) = line.trim_start_matches("file: ").strip_prefix("./") {
            let path = format!("docker/{}", path.split(':').next().unwrap());
            assert!(exists(&path), "{path}");
            paths += 1;
        }
        if let Some(target) = line.strip_prefix("target: ") {
            assert!(dockerfile.contains(&format!(" AS {target}\n")), "{target}");
        }
        if let Some(path) = line.strip_prefix("dockerfile: ") {
            assert!(exists(path), "{path}");
        }
        if let Some(service) = line.strip_prefix("network_mode: ") {
            assert_eq!(service, "\"service:network\"");
        }
    }
    assert!(paths >= 8, "only {paths} paths were found");
    // Published ports are for this machine alone.
    let ports: Vec<&str> = compose
        .lines()
        .map(str::trim)
        .filter_map(|line| line.strip_prefix("- \""))
        .filter(|line| line.ends_with("00\"") || line.ends_with("90\""))
        .collect();
    assert!(!ports.is_empty() && ports.iter().all(|port| port.starts_with("127.0.0.1:")), "{ports:?}");
}

#[tokio::test]
async fn the_gateway_of_compose_has_a_configuration_that_fits_what_stands_beside_it() {
    let dir = tempfile::tempdir().unwrap();
    let simulators = simulators_in(dir.path()).await;
    let secrets = Path::new(env!("CARGO_MANIFEST_DIR")).join("docker/secrets");
    let text = read("docker/staging.toml")
        .replace("/run/secrets", secrets.to_str().unwrap())
        .replace("/run/simulators/sectigo-ca.pem", dir.path().join("ca.pem").to_str().unwrap());
    let config = dir.path().join("recoup.toml");
    std::fs::write(&config, text).unwrap();
    let settings = Settings::load(Some(&config), []).unwrap();
    // Of a checkout: what stands in these files is no secret.
    let others =
        settings.warnings.iter().filter(|warning| !warning.contains("every user of this machine can read the file"));
    assert_eq!(others.collect::<Vec<_>>(), Vec::<&String>::new());

    let beside = simulators::Config::default();
    let expected = [("sectigo", beside.sectigo), ("namecom", beside.namecom), ("debitsuccess", beside.debitsuccess)];
    assert_eq!(settings.accounts.len(), expected.len());
    for (name, address) in expected {
        let account = settings.accounts.iter().find(|account| account.name.as_str() == name).unwrap();
        assert!(account.endpoint.as_str().contains(&address.to_string()), "{name}");
    }
    let scraped = settings.metrics_listen.unwrap();
    assert!(told("docker/prometheus.yaml").contains(&format!("[\"{scraped}\"]")), "{scraped}");
    assert!(read("docker/compose.yaml").contains(&format!("127.0.0.1:{}", settings.listen.port())));
    drop(simulators);
}

#[test]
fn every_metric_and_label_in_a_rule_and_on_the_dashboard_is_declared() {
    let mut known: BTreeSet<String> = BTreeSet::new();
    for metric in METRICS {
        let name = metric.prometheus_name();
        match metric.kind {
            MetricKind::Histogram(_) => known.extend(["_bucket", "_sum", "_count"].map(|part| format!("{name}{part}"))),
            MetricKind::Counter | MetricKind::Gauge => drop(known.insert(name)),
        }
        known.extend(metric.attributes.iter().map(|attribute| attribute.replace('.', "_")));
    }
    let dashboard: serde_json::Value = serde_json::from_str(&read("docker/grafana/dashboards/recoup.json")).unwrap();
    let mut texts = expressions(&dashboard);
    assert!(texts.len() > 20, "the dashboard's expressions were not found");
    texts.extend(["docker/alerts.yaml", "docker/alerts.test.yaml"].map(told));
    let ours = ["recoup_", "rpc_", "http_", "process_"];
    for text in &texts {
        for word in words(text).filter(|word| ours.iter().any(|prefix| word.starts_with(prefix))) {
            assert!(known.contains(word), "{word} is not declared: {text}");
        }
    }
    // And nothing is measured that nobody looks at.
    let shown = texts.concat();
    let unseen: Vec<&str> =
        METRICS.iter().filter(|metric| !shown.contains(&metric.prometheus_name())).map(|metric| metric.name).collect();
    assert_eq!(unseen, Vec::<&str>::new());
}

/// What Prometheus itself puts to a series, or `histogram_quantile` asks of it.
const LABELS_OF_ALL: [&str; 3] = ["instance", "job", "le"];

/// A label that a metric does not have selects nothing, and nobody is told.
#[test]
fn what_a_rule_or_a_panel_selects_by_is_a_label_of_that_metric() {
    let dashboard: serde_json::Value = serde_json::from_str(&read("docker/grafana/dashboards/recoup.json")).unwrap();
    let mut texts = expressions(&dashboard);
    texts.push(told("docker/alerts.yaml"));
    let mut selectors = 0;
    for metric in METRICS {
        let name = metric.prometheus_name();
        let labels: BTreeSet<String> = metric.attributes.iter().map(|attribute| attribute.replace('.', "_")).collect();
        for text in &texts {
            for part in ["", "_bucket", "_sum", "_count"] {
                for (_, rest) in
                    text.match_indices(&format!("{name}{part}{{")).map(|(at, found)| text.split_at(at + found.len()))
                {
                    selectors += 1;
                    for matcher in rest.split('}').next().unwrap().split(", ") {
                        let label = words(matcher).next().unwrap_or_default();
                        let is_known = labels.contains(label) || LABELS_OF_ALL.contains(&label);
                        assert!(is_known, "{name} has no label {label}: {text}");
                    }
                }
            }
        }
    }
    assert!(selectors > 20, "only {selectors} were found");
}

/// Every `expr` and `query` in the dashboard.
fn expressions(value: &serde_json::Value) -> Vec<String> {
    match value {
        serde_json::Value::Object(fields) => fields
            .iter()
            .flat_map(|(name, value)| match value.as_str() {
                Some(text) if name == "expr" || name == "query" => vec![text.to_owned()],
                _ => expressions(value),
            })
            .collect(),
        serde_json::Value::Array(values) => values.iter().flat_map(expressions).collect(),
        _ => Vec::new(),
    }
}

#[test]
fn the_guide_has_every_alert_with_its_expression() {
    let (rules, guide) = (told("docker/alerts.yaml"), read("docs/operations.md"));
    let flat = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let guide_flat = flat(&guide);
    let alerts: Vec<&str> = rules.split("- alert: ").skip(1).collect();
    assert_eq!(alerts.len(), 8);
    for alert in alerts {
        let (name, rest) = alert.split_once('\n').unwrap();
        let (_, rest) = rest.split_once("expr: ").unwrap();
        let (expression, rest) = rest.split_once("\n        for: ").unwrap();
        let (hold, _) = rest.split_once('\n').unwrap();
        assert!(guide.contains(&format!("### {name}\n")), "{name} has no chapter");
        let expression = flat(expression.trim_start_matches('|'));
        assert!(guide_flat.contains(&expression), "{name}: the guide lacks {expression}");
        assert!(guide_flat.contains(&format!("{expression} ``` for {hold}")), "{name}: for {hold}");
        assert!(alert.contains(&format!("runbook: docs/operations.md#{}", name.to_lowercase())), "{name}");
    }
}

#[test]
#[expect(clippy::disallowed_methods, reason = "it is the machine that says whether the tool must be there")]
fn prometheus_takes_the_rules_and_they_fire_when_they_should() {
    if Command::new("promtool").arg("--version").output().is_err() {
        // In CI it is there; elsewhere the other tests say what can be said.
        assert!(std::env::var_os("PROMTOOL").is_none(), "promtool is not installed");
        println!("skipped: promtool is not installed (it comes with Debian's package prometheus)");
        return;
    }
    for arguments in [
        ["check", "config", "prometheus.yaml"],
        ["check", "rules", "alerts.yaml"],
        ["test", "rules", "alerts.test.yaml"],
    ] {
        let docker = Path::new(env!("CARGO_MANIFEST_DIR")).join("docker");
        let output = Command::new("promtool").args(arguments).current_dir(docker).output().unwrap();
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        assert!(output.status.success(), "promtool {arguments:?}: {said}");
    }
    // The panels' expressions, as rules, since that is what the tool reads; with values in place of
    // Grafana's variables.
    let dashboard: serde_json::Value = serde_json::from_str(&read("docker/grafana/dashboards/recoup.json")).unwrap();
    let panels = expressions(&dashboard).into_iter().filter(|text| !text.starts_with("label_values("));
    let rules: Vec<serde_json::Value> = panels
        .map(|text| text.replace("$__rate_interval", "5m").replace("$__range", "1h"))
        .enumerate()
        .map(|(place, expression)| serde_json::json!({ "record": format!("panel:{place}"), "expr": expression }))
        .collect();
    let file = tempfile::NamedTempFile::new().unwrap();
    let groups = serde_json::json!({ "groups": [{ "name": "dashboard", "rules": rules }] });
    std::fs::write(file.path(), groups.to_string()).unwrap();
    let output = Command::new("promtool").args(["check", "rules"]).arg(file.path()).output().unwrap();
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success(), "the dashboard: {said}");
}
