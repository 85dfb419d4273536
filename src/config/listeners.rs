//! `[listeners.<name>]`: where the gateway listens besides the short form `listen`; `[http]`, the
//! JSON endpoint; and `[metrics]`'s own certificates.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use super::reader::Reader;
use crate::api::{EndpointSettings, ListenerSettings, ProtocolSettings, ReflectionSettings, WebSettings};
use crate::tls::TlsSettings;

const FILE_KEYS: [&str; 4] = ["certificate_file", "key_file", "client_ca_file", "client_crl_file"];
const TLS_KEYS: [&str; 6] =
    ["certificate_file", "key_file", "client_ca_file", "client_crl_file", "client_certificates", "min_tls"];
const MAX_NAME_LENGTH: usize = 32;
/// Only the user that the gateway runs as.
const DEFAULT_SOCKET_MODE: u32 = 0o600;

/// Reads all listeners besides the short form. Leaves a faulty one out and records its errors.
pub(super) fn read(read: &mut Reader<'_>, needs_credentials: bool) -> Vec<ListenerSettings> {
    read.section("listeners");
    let mut listeners = Vec::new();
    for (name, path) in read.names_in("listeners") {
        if !is_name(&name) {
            read.error(
                &path,
                "must have a name of 1 to 32 lower-case letters, digits and \"-\", other than \"listen\" and \"http\"",
            );
            continue;
        }
        read.section(&path);
        listeners.extend(ListenerReader { read, path }.listener(name, needs_credentials));
    }
    listeners.extend(json_endpoint(read, needs_credentials));
    reject_shared_addresses(read, &listeners);
    listeners
}

/// `[http]`. None if it is absent or faulty.
fn json_endpoint(read: &mut Reader<'_>, needs_credentials: bool) -> Option<ListenerSettings> {
    let path = ListenerSettings::HTTP.to_owned();
    read.section(&path);
    let hosts = read.list("http.hosts", parse_host);
    let allowed_origins = read.list("http.allowed_origins", parse_origin);
    let mut reader = ListenerReader { read, path: path.clone() };
    let (address_key, tls) = (reader.key("listen"), reader.tls(&["h2", "http/1.1"]));
    let address = reader.read.optional(&address_key, parse_address);
    let connections_per_source = reader.connections_per_source();
    if !reader.read.is_set(&address_key) {
        if !reader.read.names_in(&path).is_empty() {
            reader.read.error(&address_key, "is required: an address such as \"127.0.0.1:8080\"");
        }
        return None;
    }
    reader.require_certificate(&address_key, address);
    if !needs_credentials {
        reader.read.error(&address_key, "needs callers: set `access.file`, each of its calls shows a token");
    }
    let endpoint = match (address?, tls) {
        (address, Some(tls)) => EndpointSettings::Tls(address, tls),
        (address, None) => EndpointSettings::Plaintext(address),
    };
    let protocol = ProtocolSettings::Http(WebSettings { hosts, allowed_origins });
    let reflection = ReflectionSettings::Off;
    Some(ListenerSettings { name: path, endpoint, connections_per_source, reflection, needs_credentials, protocol })
}

/// Where the settings of a listener are.
fn section_of(listener: &ListenerSettings) -> String {
    match listener.protocol {
        ProtocolSettings::Grpc => format!("listeners.{}", listener.name),
        ProtocolSettings::Http(_) => ListenerSettings::HTTP.to_owned(),
    }
}

/// The key of a listener's address or path.
fn place_key(listener: &ListenerSettings) -> String {
    let name = match (&listener.protocol, &listener.endpoint) {
        (ProtocolSettings::Http(_), _) => "listen",
        (_, EndpointSettings::Unix { .. }) => "unix",
        (_, EndpointSettings::Plaintext(_) | EndpointSettings::Tls(..)) => "address",
    };
    format!("{}.{name}", section_of(listener))
}

/// The files of a listener, each with its key.
pub(super) fn files_of(listener: &ListenerSettings) -> Vec<(String, &Path)> {
    let key = |name: &str| format!("{}.{name}", section_of(listener));
    match &listener.endpoint {
        EndpointSettings::Plaintext(_) => Vec::new(),
        EndpointSettings::Tls(_, tls) => {
            let files = [
                Some(&tls.certificate_file),
                Some(&tls.key_file),
                tls.client_ca_file.as_ref(),
                tls.client_crl_file.as_ref(),
            ];
            FILE_KEYS.iter().zip(files).filter_map(|(name, file)| Some((key(name), file?.as_path()))).collect()
        }
        EndpointSettings::Unix { path, .. } => vec![(key("unix"), path.as_path())],
    }
}

/// The certificate of the metrics endpoint, if it has one.
pub(super) fn metrics_tls(read: &mut Reader<'_>) -> Option<TlsSettings> {
    let certificate_file = read.optional("metrics.certificate_file", super::parse_file_path);
    let key_file = read.optional("metrics.key_file", super::parse_file_path);
    pair(read, "metrics", certificate_file, key_file).map(|(certificate_file, key_file)| TlsSettings {
        certificate_file,
        key_file,
        client_ca_file: None,
        client_crl_file: None,
        requires_client_certificate: false,
        allows_tls12: true,
        protocols: vec!["http/1.1"],
    })
}

/// A certificate and its key, or neither.
fn pair(
    read: &mut Reader<'_>,
    path: &str,
    certificate: Option<PathBuf>,
    key: Option<PathBuf>,
) -> Option<(PathBuf, PathBuf)> {
    let [certificate_key, key_key] = ["certificate_file", "key_file"].map(|name| format!("{path}.{name}"));
    if read.is_set(&certificate_key) != read.is_set(&key_key) {
        let missing = if read.is_set(&certificate_key) { &key_key } else { &certificate_key };
        read.error(missing, "is required: a certificate and its key belong together");
    }
    certificate.zip(key)
}

/// Reads one listener.
struct ListenerReader<'r, 'a> {
    read: &'r mut Reader<'a>,
    path: String,
}

impl ListenerReader<'_, '_> {
    fn listener(mut self, name: String, needs_credentials: bool) -> Option<ListenerSettings> {
        let (address_key, unix_key, mode_key) = (self.key("address"), self.key("unix"), self.key("mode"));
        let is_unix = self.read.is_set(&unix_key);
        let is_port = self.read.is_set(&address_key);
        // Keys of the other kind are reported by `report_misplaced`.
        let (mut unix, mut mode, mut address, mut tls) = (None, DEFAULT_SOCKET_MODE, None, None);
        if is_unix || !is_port {
            unix = self.read.optional(&unix_key, super::parse_file_path);
            self.read.parsed(&mode_key, parse_mode, &mut mode);
        }
        if is_port || !is_unix {
            address = self.read.optional(&address_key, parse_address);
            tls = self.tls(&["h2"]);
        }
        let connections_per_source = self.connections_per_source();

        if is_unix == is_port {
            self.read.error(&self.path, "must have either `address` or `unix`");
        } else {
            self.report_misplaced(is_unix);
        }
        self.require_certificate(&address_key, address);
        if !needs_credentials {
            self.read.error(&self.path, "needs callers: set `access.file`, the only listener without it is `listen`");
        }
        let endpoint = match (unix, address, tls) {
            (Some(path), _, _) => EndpointSettings::Unix { path, mode },
            (None, Some(address), Some(tls)) => EndpointSettings::Tls(address, tls),
            (None, Some(address), None) => EndpointSettings::Plaintext(address),
            (None, None, _) => return None,
        };
        let mut reflection = match endpoint {
            EndpointSettings::Unix { .. } => ReflectionSettings::Callers,
            EndpointSettings::Plaintext(_) | EndpointSettings::Tls(..) => ReflectionSettings::Off,
        };
        self.read.parsed(&self.key("reflection"), parse_reflection, &mut reflection);
        let protocol = ProtocolSettings::Grpc;
        Some(ListenerSettings { name, endpoint, connections_per_source, reflection, needs_credentials, protocol })
    }

    fn connections_per_source(&mut self) -> usize {
        let mut connections = ListenerSettings::CONNECTIONS_PER_SOURCE;
        self.read.number(&self.key("connections_per_source"), 0..=100_000, &mut connections);
        connections
    }

    /// Off loopback nothing is sent without encryption.
    fn require_certificate(&mut self, address_key: &str, address: Option<SocketAddr>) {
        let has_tls = self.read.is_set(&self.key("certificate_file"));
        if let Some(address) = address.filter(|address| !address.ip().is_loopback() && !has_tls) {
            let kind = if address.ip().is_unspecified() { "every address of this machine" } else { "the network" };
            let sentence = format!("is {kind}: `certificate_file` and `key_file` are required off loopback");
            self.read.error(address_key, sentence);
        }
    }

    /// Keys of the other kind of listener.
    fn report_misplaced(&mut self, is_unix: bool) {
        let (names, sentence): (&[&str], _) = if is_unix {
            (&TLS_KEYS, "is for a listener with an `address`: a unix socket has no TLS")
        } else {
            (&["mode"], "is for a listener with `unix`")
        };
        for key in names.iter().map(|name| self.key(name)).collect::<Vec<_>>() {
            if self.read.is_set(&key) {
                self.read.error(&key, sentence);
            }
        }
    }

    fn tls(&mut self, protocols: &[&'static str]) -> Option<TlsSettings> {
        let [certificate_file, key_file, client_ca_file, client_crl_file] =
            FILE_KEYS.map(|name| self.read.optional(&self.key(name), super::parse_file_path));
        let [ca_key, crl_key, certificates_key] =
            ["client_ca_file", "client_crl_file", "client_certificates"].map(|name| self.key(name));
        let has_ca = self.read.is_set(&ca_key);
        let mut requires_client_certificate = has_ca;
        self.read.parsed(&certificates_key, parse_client_certificates, &mut requires_client_certificate);
        for key in [&crl_key, &certificates_key] {
            if self.read.is_set(key) && !has_ca {
                self.read.error(key, "needs `client_ca_file`");
            }
        }
        let mut allows_tls12 = false;
        self.read.parsed(&self.key("min_tls"), parse_min_tls, &mut allows_tls12);
        let (certificate_file, key_file) = pair(self.read, &self.path, certificate_file, key_file)?;
        Some(TlsSettings {
            certificate_file,
            key_file,
            client_ca_file,
            client_crl_file,
            requires_client_certificate,
            allows_tls12,
            protocols: protocols.to_vec(),
        })
    }

    fn key(&self, name: &str) -> String {
        format!("{}.{name}", self.path)
    }
}

/// Port 0 is another port each time.
fn reject_shared_addresses(read: &mut Reader<'_>, listeners: &[ListenerSettings]) {
    for (at, listener) in listeners.iter().enumerate() {
        let is_same = |other: &ListenerSettings| match (&listener.endpoint, &other.endpoint) {
            (EndpointSettings::Unix { path, .. }, EndpointSettings::Unix { path: other, .. }) => path == other,
            _ => address_of(listener)
                .filter(|address| address.port() != 0)
                .is_some_and(|address| address_of(other) == Some(address)),
        };
        if let Some(other) = listeners.iter().take(at).find(|other| is_same(other)) {
            let sentence = format!("must be another address than that of the listener \"{}\"", other.name);
            read.error(&place_key(listener), sentence);
        }
    }
}

pub(super) fn address_of(listener: &ListenerSettings) -> Option<SocketAddr> {
    match &listener.endpoint {
        EndpointSettings::Plaintext(address) | EndpointSettings::Tls(address, _) => Some(*address),
        EndpointSettings::Unix { .. } => None,
    }
}

/// Names are labels of metrics and parts of variables.
fn is_name(name: &str) -> bool {
    let is_allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    let is_taken = name == ListenerSettings::SHORT_FORM || name == ListenerSettings::HTTP;
    (1..=MAX_NAME_LENGTH).contains(&name.len()) && name.bytes().all(is_allowed) && !is_taken
}

/// A name or address, as in the `Host` header, without a port.
fn parse_host(text: &str) -> Result<String, &'static str> {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b':' | b'[' | b']');
    let has_port = !text.starts_with('[') && text.contains(':');
    if text.is_empty() || has_port || !text.bytes().all(is_allowed) {
        return Err("it must be a host name without scheme and port, such as \"recoup.example\"");
    }
    Ok(text.to_ascii_lowercase())
}

/// As in the `Origin` header: no path, no wildcard.
fn parse_origin(text: &str) -> Result<String, &'static str> {
    let authority = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://")).unwrap_or_default();
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b':' | b'[' | b']');
    if authority.is_empty() || !authority.bytes().all(is_allowed) {
        return Err("it must be an origin as browsers send it, such as \"https://shop.example\"");
    }
    Ok(text.to_ascii_lowercase())
}

fn parse_address(text: &str) -> Result<SocketAddr, &'static str> {
    text.parse().map_err(|_| "must be an IP address and a port, such as \"0.0.0.0:50051\"")
}

/// Octal, as in `chmod`. Every user of this machine may never connect.
fn parse_mode(text: &str) -> Result<u32, &'static str> {
    let mode = u32::from_str_radix(text, 8).ok().filter(|mode| mode & !0o770 == 0 && mode & 0o600 == 0o600);
    mode.ok_or("must be octal permissions for the owner and perhaps the group, such as \"0600\" or \"0660\"")
}

fn parse_reflection(text: &str) -> Result<ReflectionSettings, &'static str> {
    match text {
        "off" => Ok(ReflectionSettings::Off),
        "callers" => Ok(ReflectionSettings::Callers),
        _ => Err("must be \"off\" or \"callers\""),
    }
}

/// Whether a certificate is required.
fn parse_client_certificates(text: &str) -> Result<bool, &'static str> {
    match text {
        "required" => Ok(true),
        "optional" => Ok(false),
        _ => Err("must be \"required\" or \"optional\""),
    }
}

/// Whether TLS 1.2 is accepted.
fn parse_min_tls(text: &str) -> Result<bool, &'static str> {
    match text {
        "1.2" => Ok(true),
        "1.3" => Ok(false),
        _ => Err("must be \"1.2\" or \"1.3\""),
    }
}
