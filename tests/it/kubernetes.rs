//! The example for Kubernetes in `packaging/kubernetes`, which no cluster checks here: its image,
//! flags, keys, paths and ports agree with the rest of the tree.

use std::collections::BTreeSet;
use std::path::Path;

use recoup::access::AccessPolicy;
use recoup::access::credentials::{ShownCredentials, UnixPeer};
use recoup::api::{EndpointSettings, ListenerSettings};
use recoup::config::Settings;

use crate::support::process::run;

fn read(path: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

fn manifest() -> String {
    read("packaging/kubernetes/recoup.yaml")
}

/// The documents of the manifest, without comments.
fn documents() -> Vec<String> {
    let code: Vec<String> =
        manifest().lines().filter(|line| !line.trim_start().starts_with('#')).map(|line| format!("{line}\n")).collect();
    code.concat().split("---\n").map(str::to_owned).collect()
}

fn document(kind: &str) -> String {
    documents().into_iter().find(|one| one.contains(&format!("kind: {kind}\n"))).unwrap()
}

/// The configuration in the ConfigMap, as the container sees it.
fn configuration() -> String {
    let map = manifest();
    let (_, block) = map.split_once("  recoup.toml: |\n").unwrap();
    let lines = block.lines().take_while(|line| line.is_empty() || line.starts_with("    "));
    lines.map(|line| format!("{}\n", line.strip_prefix("    ").unwrap_or_default())).collect()
}

/// Reads the configuration with the container's folders under `root`.
fn settings(root: &Path) -> Settings {
    let path = |folder: &str| root.join(folder).display().to_string();
    for folder in ["run/tls", "run/secrets/recoup", "etc/recoup-access", "var/lib/recoup"] {
        std::fs::create_dir_all(root.join(folder)).unwrap();
    }
    let text = configuration()
        .replace("/run/", &format!("{}/", path("run")))
        .replace("/etc/", &format!("{}/", path("etc")))
        .replace("/var/lib/", &format!("{}/", path("var/lib")));
    for name in mounted_secrets() {
        write_private(&root.join("run/secrets/recoup").join(name), "demo-secret");
    }
    let access = root.join("etc/recoup-access/access.toml");
    write_private(&access, &read("packaging/kubernetes/access.toml"));
    let config = root.join("recoup.toml");
    write_private(&config, &text);
    Settings::load(Some(&config), []).unwrap_or_else(|errors| panic!("{errors}"))
}

fn write_private(path: &Path, text: &str) {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::write(path, text).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
}

/// The files of the Secret with the providers' passwords, as the README makes it.
fn mounted_secrets() -> Vec<String> {
    let readme = read("packaging/kubernetes/README.md");
    let made = readme.lines().flat_map(|line| line.split(' ')).filter_map(|word| word.strip_prefix("--from-file="));
    made.filter(|file| !file.contains('=')).map(str::to_owned).collect()
}

#[test]
fn the_configuration_is_valid_and_its_accounts_and_callers_fit() {
    let root = tempfile::tempdir().unwrap();
    let settings = settings(root.path());
    let accounts: BTreeSet<_> = settings.accounts.iter().map(|account| account.name.clone()).collect();
    assert_eq!(accounts.len(), 2);
    let policy = AccessPolicy::parse(&read("packaging/kubernetes/access.toml")).unwrap();
    policy.check_accounts(&accounts).unwrap();
    assert_eq!(policy.warnings(Some(&accounts)), Vec::<String>::new());
    // Operators and probes are the container's own user, over the socket.
    let manifest = manifest();
    let user = manifest.lines().find_map(|line| line.trim().strip_prefix("runAsUser: ")).unwrap();
    let peer = Some(UnixPeer { uid: user.parse().unwrap(), gid: 0 });
    let shown = ShownCredentials { peer, ..ShownCredentials::default() };
    let now = recoup::domain::clock::Timestamp::from_seconds(1_800_000_000);
    assert_eq!(policy.identify(&shown, now).unwrap().caller, "operators");
    // The caller's certificate has the name of the access file.
    let certified = manifest.lines().find_map(|line| line.trim().strip_prefix("- spiffe://")).unwrap();
    assert!(policy.text().contains(&format!("spiffe = \"spiffe://{certified}\"")), "{certified}");
}

#[test]
fn paths_ports_and_probes_are_those_of_the_configuration() {
    let (set, service, network) = (document("StatefulSet"), document("Service"), document("NetworkPolicy"));
    let root = tempfile::tempdir().unwrap();
    let settings = settings(root.path());
    let container = |path: &Path| path.to_str().unwrap().replace(root.path().to_str().unwrap(), "");
    let mut ports = vec![settings.metrics_listen.unwrap().port()];
    for ListenerSettings { endpoint, .. } in settings.all_listeners() {
        match endpoint {
            EndpointSettings::Plaintext(address) => panic!("{address} is plaintext"),
            EndpointSettings::Tls(address, tls) => {
                assert!(address.ip().is_unspecified());
                ports.push(address.port());
                assert!(container(&tls.certificate_file).starts_with("/run/tls/"));
            }
            EndpointSettings::Unix { path, .. } => {
                let probe = format!("[\"recoup\", \"health\", \"--server\", \"unix:{}\"]", container(&path));
                assert_eq!(set.matches(&probe).count(), 3, "{probe}");
            }
        }
    }
    assert_eq!(ports.len(), 2);
    for port in ports {
        assert!(set.contains(&format!("containerPort: {port}\n")) && service.contains(&format!("port: {port}\n")));
    }
    for name in ["grpc", "metrics"] {
        assert!(network.contains(&format!("port: {name}\n")) && service.contains(&format!("targetPort: {name}\n")));
    }
    // Every mount has its volume.
    for mount in ["ledger", "configuration", "access", "tls", "secrets"] {
        assert!(set.matches(&format!("name: {mount}\n")).count() >= 2, "{mount}");
    }
    assert!(set.contains("mountPath: /run/secrets/recoup\n") && set.contains("secretName: recoup-secrets\n"));
    let grace = set.lines().find_map(|line| line.trim().strip_prefix("terminationGracePeriodSeconds: ")).unwrap();
    assert!(grace.parse::<u64>().unwrap() >= settings.drain.as_secs() + 5, "{grace} s");
}

#[test]
fn the_image_and_the_flags_exist() {
    let set = document("StatefulSet");
    let dockerfile = read("docker/Dockerfile");
    assert!(set.contains("image: recoup\n") && dockerfile.contains("--target gateway    --tag recoup "));
    assert!(
        dockerfile.contains("ENTRYPOINT [\"/usr/local/bin/recoup\"]\n") && dockerfile.contains("USER 10001:10001\n")
    );
    assert!(set.contains("args: [\"serve\", \"--config\", \"/etc/recoup/recoup.toml\"]\n"));
    for (command, flag) in [("serve", "--config"), ("health", "--server"), ("refunds", "--server")] {
        let help = String::from_utf8(run(&[command, "--help"]).stdout).unwrap();
        assert!(help.contains(flag), "recoup {command} has no {flag}");
    }
    for replica in ["replicas: 1\n", "ReadWriteOncePod", "readOnlyRootFilesystem: true", "runAsNonRoot: true"] {
        assert!(set.contains(replica), "{replica}");
    }
}
