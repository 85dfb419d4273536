//! Where the simulators listen, and how they start: a value in a Rust test, a TOML file for the
//! binary, the same names in both.

mod file;

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
};

use serde::Deserialize;

pub use self::file::ConfigError;
use crate::worlds::Settings;

/// The name of the authority's certificate where only a directory is given.
pub const CA_FILE_NAME: &str = "sectigo-ca.pem";

/// Where the simulators listen, and how they start. As TOML: every field is a key, and what is left
/// out has its default.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The control port. Default 127.0.0.1:7100.
    pub control: SocketAddr,
    /// Further names that a request to the control port may have in `Host`, besides those of
    /// loopback: without the port. Default none. Whatever else is asked for there, and each page of
    /// another origin, is refused with 403.
    pub control_hosts: Vec<String>,
    /// Sectigo over TLS. Default 127.0.0.1:7101.
    pub sectigo: SocketAddr,
    /// Sectigo in plaintext, which answers -1 to everything. Default 127.0.0.1:7111.
    pub sectigo_plaintext: SocketAddr,
    /// name.com over TLS. Default 127.0.0.1:7102.
    pub namecom: SocketAddr,
    /// name.com in plaintext: the same without TLS. Default 127.0.0.1:7112.
    pub namecom_plaintext: SocketAddr,
    /// Debitsuccess over TLS. Default 127.0.0.1:7103.
    pub debitsuccess: SocketAddr,
    /// Debitsuccess in plaintext: the same without TLS. Default 127.0.0.1:7113.
    pub debitsuccess_plaintext: SocketAddr,
    /// Where the certificate of the TLS ports' authority is kept, PEM, with its key in a second
    /// file, `FILE.key`: reused where they are there, made where they are not. Nowhere by default:
    /// then the authority is gone with the process, and [`crate::Simulators::ca_pem`] has its
    /// certificate.
    pub ca_file: Option<PathBuf>,
    /// A certificate for the TLS ports, PEM, its chain behind it; none by default: then the
    /// simulators' own authority makes one.
    pub tls_certificate: Option<PathBuf>,
    /// Its key, PEM.
    pub tls_key: Option<PathBuf>,
    /// Names and addresses that the certificate of the simulators' own authority holds for, besides
    /// 127.0.0.1, ::1 and localhost.
    pub tls_names: Vec<String>,
    /// What everything that looks random is computed from: generated credentials, GUIDs, random
    /// faults. The same seed and the same calls give the same. (The keys of the TLS ports are the
    /// exception: they are never anybody's to guess.) Default 0.
    pub seed: u64,
    /// A snapshot of a world, JSON, which the demo world starts as, its settings and credentials
    /// included; the demo data by default.
    pub world_file: Option<PathBuf>,
    /// The choices that the providers' documents leave open, at the start and after every reset.
    pub settings: Settings,
}

impl Config {
    /// Free ports on 127.0.0.1, for tests side by side.
    pub fn free_ports() -> Self {
        let free = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
        Self {
            control: free,
            sectigo: free,
            sectigo_plaintext: free,
            namecom: free,
            namecom_plaintext: free,
            debitsuccess: free,
            debitsuccess_plaintext: free,
            ..Self::default()
        }
    }

    /// The same, with the authority's certificate written into this directory as [`CA_FILE_NAME`].
    #[must_use]
    pub fn with_ca_in(self, directory: impl Into<PathBuf>) -> Self {
        Self { ca_file: Some(directory.into().join(CA_FILE_NAME)), ..self }
    }
}

impl Default for Config {
    fn default() -> Self {
        let port = |port| SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port);
        Self {
            control: port(7100),
            control_hosts: Vec::new(),
            sectigo: port(7101),
            sectigo_plaintext: port(7111),
            namecom: port(7102),
            namecom_plaintext: port(7112),
            debitsuccess: port(7103),
            debitsuccess_plaintext: port(7113),
            ca_file: None,
            tls_certificate: None,
            tls_key: None,
            tls_names: Vec::new(),
            seed: 0,
            world_file: None,
            settings: Settings::default(),
        }
    }
}
