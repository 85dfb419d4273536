//! The configuration: addresses, TLS, and the start. Rust tests build it as a value, the binary
//! reads it from a TOML file and flags, all with the same names.

mod file;

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
};

use clap::Args;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use self::file::ConfigError;
use crate::{providers::Settings, request::Provider};

/// The file name of the certificate authority in [`Config::with_ca_in`].
pub const CA_FILE_NAME: &str = "sectigo-ca.pem";

/// Where the simulators listen, and how they start. In TOML every field is a key with a default.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The control port. Default 127.0.0.1:7100.
    pub control: SocketAddr,
    /// Further names, without port, that requests to the control port may have in `Host`, besides
    /// those of loopback. Default none. Requests with other names or from pages of another origin
    /// are refused with 403.
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
    /// The file with the certificate of the TLS ports' authority, PEM. Its key is in `FILE.key`.
    /// Existing files are reused, missing ones are created. Without a file, which is the default of
    /// the library, the authority exists only in the process: see [`crate::Simulators::ca_pem`].
    pub ca_file: Option<PathBuf>,
    /// A certificate for the TLS ports, PEM, followed by its chain. By default the simulators' own
    /// authority issues one.
    pub tls_certificate: Option<PathBuf>,
    /// The key of that certificate, PEM.
    pub tls_key: Option<PathBuf>,
    /// Further names and addresses in the certificate that the simulators' own authority issues,
    /// besides 127.0.0.1, ::1 and localhost.
    pub tls_names: Vec<String>,
    /// The seed of generated credentials, GUIDs and random faults. The same seed and calls give the
    /// same results. The keys of the TLS ports do not depend on it. Default 0.
    pub seed: u64,
    /// A snapshot, JSON, with which the demo world starts, including settings and credentials. By
    /// default it starts with the demo data.
    pub world_file: Option<PathBuf>,
    /// The choices that the providers' documentation leaves open, at the start and after every
    /// reset.
    pub settings: Settings,
}

/// The addresses at which the providers listen for a world.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[schemars(inline)]
pub struct PortAddresses {
    /// Sectigo over TLS.
    #[schemars(with = "String")]
    pub sectigo: SocketAddr,
    /// Sectigo in plaintext, which answers -1 to everything.
    #[schemars(with = "String")]
    pub sectigo_plaintext: SocketAddr,
    /// name.com over TLS.
    #[schemars(with = "String")]
    pub namecom: SocketAddr,
    /// name.com in plaintext.
    #[schemars(with = "String")]
    pub namecom_plaintext: SocketAddr,
    /// Debitsuccess over TLS.
    #[schemars(with = "String")]
    pub debitsuccess: SocketAddr,
    /// Debitsuccess in plaintext.
    #[schemars(with = "String")]
    pub debitsuccess_plaintext: SocketAddr,
}

const PORTS: &str = "Ports (0 takes any free one)";

/// The flags of the provider ports, which win over a file.
#[derive(Debug, Args)]
pub struct PortFlags {
    /// Sectigo over TLS [default: 127.0.0.1:7101]
    #[arg(long, value_name = "ADDRESS", help_heading = PORTS)]
    sectigo: Option<SocketAddr>,
    /// Sectigo in plaintext, which answers -1 to everything [default: 127.0.0.1:7111]
    #[arg(long, value_name = "ADDRESS", help_heading = PORTS)]
    sectigo_plaintext: Option<SocketAddr>,
    /// name.com over TLS [default: 127.0.0.1:7102]
    #[arg(long, value_name = "ADDRESS", help_heading = PORTS)]
    namecom: Option<SocketAddr>,
    /// name.com in plaintext: the same without TLS [default: 127.0.0.1:7112]
    #[arg(long, value_name = "ADDRESS", help_heading = PORTS)]
    namecom_plaintext: Option<SocketAddr>,
    /// Debitsuccess over TLS [default: 127.0.0.1:7103]
    #[arg(long, value_name = "ADDRESS", help_heading = PORTS)]
    debitsuccess: Option<SocketAddr>,
    /// Debitsuccess in plaintext: the same without TLS [default: 127.0.0.1:7113]
    #[arg(long, value_name = "ADDRESS", help_heading = PORTS)]
    debitsuccess_plaintext: Option<SocketAddr>,
}

impl PortFlags {
    /// Replaces the addresses for which there is a flag.
    pub fn apply_to(self, config: &mut Config) {
        let set = |address: &mut SocketAddr, flag: Option<SocketAddr>| *address = flag.unwrap_or(*address);
        set(&mut config.sectigo, self.sectigo);
        set(&mut config.sectigo_plaintext, self.sectigo_plaintext);
        set(&mut config.namecom, self.namecom);
        set(&mut config.namecom_plaintext, self.namecom_plaintext);
        set(&mut config.debitsuccess, self.debitsuccess);
        set(&mut config.debitsuccess_plaintext, self.debitsuccess_plaintext);
    }
}

impl PortAddresses {
    /// The address of each port, by provider and whether it has TLS.
    ///
    /// # Errors
    /// The first error of `address`.
    pub(crate) fn try_for_each_port<E>(
        mut address: impl FnMut(Provider, bool) -> Result<SocketAddr, E>,
    ) -> Result<Self, E> {
        Ok(Self {
            sectigo: address(Provider::Sectigo, true)?,
            sectigo_plaintext: address(Provider::Sectigo, false)?,
            namecom: address(Provider::Namecom, true)?,
            namecom_plaintext: address(Provider::Namecom, false)?,
            debitsuccess: address(Provider::Debitsuccess, true)?,
            debitsuccess_plaintext: address(Provider::Debitsuccess, false)?,
        })
    }

    /// The address of a provider's port, with TLS or in plaintext.
    pub fn get(&self, provider: Provider, tls: bool) -> SocketAddr {
        match (provider, tls) {
            (Provider::Sectigo, true) => self.sectigo,
            (Provider::Sectigo, false) => self.sectigo_plaintext,
            (Provider::Namecom, true) => self.namecom,
            (Provider::Namecom, false) => self.namecom_plaintext,
            (Provider::Debitsuccess, true) => self.debitsuccess,
            (Provider::Debitsuccess, false) => self.debitsuccess_plaintext,
        }
    }
}

impl Config {
    /// The configured addresses of the provider ports.
    pub(crate) fn ports(&self) -> PortAddresses {
        PortAddresses {
            sectigo: self.sectigo,
            sectigo_plaintext: self.sectigo_plaintext,
            namecom: self.namecom,
            namecom_plaintext: self.namecom_plaintext,
            debitsuccess: self.debitsuccess,
            debitsuccess_plaintext: self.debitsuccess_plaintext,
        }
    }

    /// Free ports on 127.0.0.1, for parallel tests.
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

    /// The same, with the authority's certificate in this directory, as [`CA_FILE_NAME`].
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
