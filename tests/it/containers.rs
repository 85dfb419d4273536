//! The files in `docker/`, which are not compiled: their paths, versions, addresses, metrics and
//! alerts agree with the rest of the tree.
//!
//! No image is built here. Prometheus' own tool is used where it is installed; `PROMTOOL=required`
//! makes its absence a failure.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use recoup::api::{EndpointSettings, ListenerSettings};
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
fn read_code(path: &str) -> String {
    read(path).lines().filter(|line| !line.trim_start().starts_with('#')).map(|line| format!("{line}\n")).collect()
}

/// Words of letters, digits and underscores.
fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_').filter(|word| !word.is_empty())
}

#[test]
fn every_file_of_an_image_exists_and_is_in_the_build_context() {
    let included: Vec<String> =
        read_code(".dockerignore").lines().filter_map(|line| line.strip_prefix('!').map(str::to_owned)).collect();
    for path in &included {
        assert!(exists(path), "{path} is in the build context and does not exist");
    }
    let dockerfile = read_code("docker/Dockerfile");
    let from_here =
        dockerfile.lines().filter_map(|line| line.strip_prefix("COPY ")).filter(|line| !line.starts_with("--"));
    for copied in from_here {
        let (sources, _) = copied.rsplit_once(' ').unwrap();
        for source in sources.split(' ').filter(|source| *source != ".") {
            assert!(exists(source), "{source} is copied and does not exist");
            assert!(included.iter().any(|path| path == source), "{source} is copied, and .dockerignore excludes it");
        }
    }
    // The sources, and everything that is read when they are compiled.
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
        assert!(included.iter().any(|path| path == needed), "{needed} is excluded");
    }
    // It has the flags of the bundled SQLite, so it belongs into the layer of the dependencies.
    let (before_the_first_build, _) = dockerfile.split_once("cargo build").unwrap();
    assert!(before_the_first_build.contains("\nCOPY .cargo/config.toml .cargo/\n"));
    for secret in ["docker", ".git", ".recoup", "target"] {
        assert!(!included.iter().any(|path| path.starts_with(secret)), "{secret} is in the build context");
    }
}

#[test]
fn the_image_has_the_toolchain_and_the_version_of_the_manifest() {
    let dockerfile = read_code("docker/Dockerfile");
    let toolchain: toml::Table = read("rust-toolchain.toml").parse().unwrap();
    let channel = toolchain["toolchain"]["channel"].as_str().unwrap();
    let image = dockerfile.lines().find_map(|line| line.strip_prefix("FROM rust:")).unwrap();
    let (version, debian) = image.split(' ').next().unwrap().split_once('-').unwrap();
    assert!(channel == version || channel.starts_with(&format!("{version}.")), "{channel} is not {version}");
    // The final images have the C library that the programs were linked with.
    let finals: Vec<&str> = dockerfile.lines().filter_map(|line| line.strip_prefix("FROM debian:")).collect();
    assert_eq!(finals, [format!("{debian}-slim AS gateway"), format!("{debian}-slim AS simulators")]);
    let manifest: toml::Table = read("Cargo.toml").parse().unwrap();
    let version = manifest["workspace"]["package"]["version"].as_str().unwrap();
    assert_eq!(dockerfile.matches(&format!("ARG VERSION={version}\n")).count(), 2);
}

#[test]
fn an_image_runs_unprivileged_checks_its_health_and_has_time_to_drain() {
    let dockerfile = read_code("docker/Dockerfile");
    for (target, health_check) in [
        ("gateway", "[\"/usr/local/bin/recoup\", \"health\"]"),
        ("simulators", "[\"/usr/local/bin/simulators\", \"--health\"]"),
    ] {
        let stage = dockerfile.split("\nFROM ").find(|stage| stage.contains(&format!(" AS {target}\n"))).unwrap();
        for line in ["USER 10001:10001", "STOPSIGNAL SIGTERM", "ENTRYPOINT [\"/usr/local/bin/"] {
            assert!(stage.contains(line), "{target}: {line}");
        }
        assert!(stage.lines().any(|line| line.starts_with("HEALTHCHECK ") && line.ends_with(health_check)), "{target}");
    }
    let compose = read_code("docker/compose.yaml");
    let gateway = compose.split("\n  gateway:\n").nth(1).unwrap();
    let grace = gateway.lines().find_map(|line| line.trim().strip_prefix("stop_grace_period: ")).unwrap();
    let grace: u64 = grace.trim_end_matches('s').parse().unwrap();
    assert!(grace >= Settings::default().drain.as_secs() + 5, "{grace} s");
}

#[test]
fn every_path_and_target_in_compose_exists() {
    let compose = read_code("docker/compose.yaml");
    let dockerfile = read_code("docker/Dockerfile");
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
    // Ports are published on the loopback interface only.
    let ports: Vec<&str> = compose
        .lines()
        .map(str::trim)
        .filter_map(|line| line.strip_prefix("- \""))
        .filter(|line| line.ends_with("00\"") || line.ends_with("90\""))
        .collect();
    assert!(!ports.is_empty() && ports.iter().all(|port| port.starts_with("127.0.0.1:")), "{ports:?}");
}

#[tokio::test]
async fn the_configuration_for_compose_fits_the_other_services() {
    let dir = tempfile::tempdir().unwrap();
    let simulators = simulators_in(dir.path()).await;
    let secrets = Path::new(env!("CARGO_MANIFEST_DIR")).join("docker/secrets");
    let text = read("docker/staging.toml")
        .replace("/run/secrets", secrets.to_str().unwrap())
        .replace("/run/simulators/sectigo-ca.pem", dir.path().join("ca.pem").to_str().unwrap());
    let config = dir.path().join("recoup.toml");
    std::fs::write(&config, text).unwrap();
    let settings = Settings::load(Some(&config), []).unwrap();
    // The files of a checkout contain no real secrets.
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
    assert!(read_code("docker/prometheus.yaml").contains(&format!("[\"{scraped}\"]")), "{scraped}");
    let compose = read("docker/compose.yaml");
    let is_named = |listener: &ListenerSettings| match &listener.endpoint {
        EndpointSettings::Plaintext(address) | EndpointSettings::Tls(address, _) => {
            compose.contains(&format!(":{}", address.port()))
        }
        EndpointSettings::Unix { .. } => true,
    };
    assert!(settings.all_listeners().iter().all(is_named));
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
    texts.extend(["docker/alerts.yaml", "docker/alerts.test.yaml"].map(read_code));
    let ours = ["recoup_", "rpc_", "http_", "process_"];
    for text in &texts {
        for word in words(text).filter(|word| ours.iter().any(|prefix| word.starts_with(prefix))) {
            assert!(known.contains(word), "{word} is not declared: {text}");
        }
    }
    // Every metric is used in a rule or on the dashboard.
    let shown = texts.concat();
    let unseen: Vec<&str> =
        METRICS.iter().filter(|metric| !shown.contains(&metric.prometheus_name())).map(|metric| metric.name).collect();
    assert_eq!(unseen, Vec::<&str>::new());
}

/// Labels that Prometheus itself adds, or that `histogram_quantile` needs.
const COMMON_LABELS: [&str; 3] = ["instance", "job", "le"];

/// A selector with an undeclared label matches nothing, without an error.
#[test]
fn rules_and_panels_select_only_by_declared_labels() {
    let dashboard: serde_json::Value = serde_json::from_str(&read("docker/grafana/dashboards/recoup.json")).unwrap();
    let mut texts = expressions(&dashboard);
    texts.push(read_code("docker/alerts.yaml"));
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
                        let is_known = labels.contains(label) || COMMON_LABELS.contains(&label);
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
fn the_operations_guide_has_every_alert_with_its_expression() {
    let (rules, guide) = (read_code("docker/alerts.yaml"), read("docs/operations.md"));
    let flat = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let guide_flat = flat(&guide);
    let alerts: Vec<&str> = rules.split("- alert: ").skip(1).collect();
    assert!(alerts.len() > 8, "only {} alerts were found", alerts.len());
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
#[expect(clippy::disallowed_methods, reason = "the environment says whether the tool is required")]
fn prometheus_accepts_the_rules_and_they_fire_when_they_should() {
    if Command::new("promtool").arg("--version").output().is_err() {
        // CI has it; elsewhere the other tests are enough.
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
        let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        assert!(output.status.success(), "promtool {arguments:?}: {text}");
    }
    // The panels' expressions as rules, which the tool can read, with values for Grafana's
    // variables.
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
    let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success(), "the dashboard: {text}");
}
