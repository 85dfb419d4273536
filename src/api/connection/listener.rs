//! The places where connections are accepted: TCP ports with and without TLS, and unix sockets.

use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::{fmt, fs, io};

use rustix::fs::Mode;
use rustix::process::umask;
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

use crate::domain::clock::Clock;
use crate::tls::{ServerTls, TlsError, TlsSettings};

/// One listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenerSettings {
    /// Its name; [`ListenerSettings::SHORT_FORM`] for the key `listen`.
    pub name: String,
    /// Where it listens.
    pub endpoint: EndpointSettings,
    /// Connections of one address or user. 0: no limit.
    pub connections_per_source: usize,
    /// Who may use server reflection.
    pub reflection: ReflectionSettings,
    /// Whether calls need a credential.
    pub needs_credentials: bool,
    /// What it speaks.
    pub protocol: ProtocolSettings,
}

/// What a listener speaks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProtocolSettings {
    /// gRPC over HTTP/2.
    Grpc,
    /// The JSON endpoint: the Connect protocol and gRPC-Web over HTTP/1.1 and HTTP/2.
    Http(WebSettings),
}

/// What keeps web pages from calling the JSON endpoint.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WebSettings {
    /// Host names, in lower case and without a port, that requests may be sent to, besides those of
    /// loopback.
    pub hosts: Vec<String>,
    /// The origins whose pages may call.
    pub allowed_origins: Vec<String>,
}

/// Where a listener listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EndpointSettings {
    /// A TCP port without encryption; loopback only.
    Plaintext(SocketAddr),
    /// A TCP port with TLS.
    Tls(SocketAddr, TlsSettings),
    /// A unix socket.
    Unix {
        /// Its path.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
}

impl fmt::Display for EndpointSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Plaintext(address) => write!(f, "{address}"),
            Self::Tls(address, tls) => {
                let clients = match (&tls.client_ca_file, tls.requires_client_certificate) {
                    (None, _) => "no client certificates",
                    (Some(_), true) => "client certificates required",
                    (Some(_), false) => "client certificates optional",
                };
                write!(f, "{address} with TLS {}, {clients}", if tls.allows_tls12 { "1.2 or 1.3" } else { "1.3" })
            }
            Self::Unix { path, mode } => write!(f, "unix:{} ({mode:04o})", path.display()),
        }
    }
}

/// Who may use server reflection on a listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReflectionSettings {
    /// Not served.
    Off,
    /// Every caller with a valid credential.
    Callers,
    /// Everyone who reaches the port.
    Open,
}

impl ListenerSettings {
    /// The listener's name of the key `listen`.
    pub const SHORT_FORM: &str = "listen";
    /// The name of the JSON endpoint.
    pub const HTTP: &str = "http";
    /// `connections_per_source`
    pub const CONNECTIONS_PER_SOURCE: usize = 256;

    /// A plaintext port on loopback.
    pub fn short_form(address: SocketAddr) -> Self {
        Self {
            name: Self::SHORT_FORM.to_owned(),
            endpoint: EndpointSettings::Plaintext(address),
            connections_per_source: Self::CONNECTIONS_PER_SOURCE,
            reflection: ReflectionSettings::Open,
            needs_credentials: false,
            protocol: ProtocolSettings::Grpc,
        }
    }
}

/// Why a listener does not listen.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// The port is not available.
    #[error("cannot listen on {address}: {source}")]
    Port {
        /// The address.
        address: SocketAddr,
        /// The cause.
        source: io::Error,
    },
    /// The unix socket is not available.
    #[error("cannot listen on {}: {problem}", path.display())]
    Socket {
        /// The path.
        path: PathBuf,
        /// The cause.
        problem: String,
    },
    /// The certificates cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

/// A listener that accepts connections.
pub struct BoundListener {
    pub(super) name: Arc<str>,
    pub(super) settings: ListenerSettings,
    pub(super) socket: ListenerSocket,
    /// None: without encryption.
    pub(super) tls: Option<ServerTls>,
}

pub(super) enum ListenerSocket {
    Tcp(TcpListener, SocketAddr),
    Unix(UnixListener, SocketFile),
}

/// An accepted socket with its peer.
pub(super) enum Accepted {
    Tcp(TcpStream, SocketAddr),
    Unix(UnixStream),
}

/// The file of a unix socket; removed at the end, unless another process has replaced it.
pub(super) struct SocketFile {
    path: PathBuf,
    inode: u64,
}

impl BoundListener {
    /// Begins to listen.
    ///
    /// # Errors
    /// [`ListenError`]
    pub async fn bind(settings: ListenerSettings, clock: Arc<dyn Clock>) -> Result<Self, ListenError> {
        let mut tls = None;
        let socket = match &settings.endpoint {
            EndpointSettings::Plaintext(address) => bind_port(*address).await?,
            EndpointSettings::Tls(address, files) => {
                tls = Some(ServerTls::load(files.clone(), clock)?);
                bind_port(*address).await?
            }
            EndpointSettings::Unix { path, mode } => bind_socket(path, *mode)?,
        };
        Ok(Self { name: settings.name.as_str().into(), settings, socket, tls })
    }

    /// The listener's name.
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// The address of a TCP port.
    pub fn address(&self) -> Option<SocketAddr> {
        match &self.socket {
            ListenerSocket::Tcp(_, address) => Some(*address),
            ListenerSocket::Unix(..) => None,
        }
    }

    /// The path of a unix socket.
    pub fn path(&self) -> Option<&Path> {
        match &self.socket {
            ListenerSocket::Tcp(..) => None,
            ListenerSocket::Unix(_, file) => Some(&file.path),
        }
    }

    /// Its certificates.
    pub fn tls(&self) -> Option<&ServerTls> {
        self.tls.as_ref()
    }
}

impl ListenerSocket {
    pub(super) async fn accept(&self) -> io::Result<Accepted> {
        match self {
            Self::Tcp(listener, _) => listener.accept().await.map(|(stream, address)| Accepted::Tcp(stream, address)),
            Self::Unix(listener, _) => listener.accept().await.map(|(stream, _)| Accepted::Unix(stream)),
        }
    }
}

async fn bind_port(address: SocketAddr) -> Result<ListenerSocket, ListenError> {
    let failed = |source| ListenError::Port { address, source };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let bound = listener.local_addr().map_err(failed)?;
    Ok(ListenerSocket::Tcp(listener, bound))
}

/// Listens on a unix socket, and removes one that no process listens on any more.
fn bind_socket(path: &Path, mode: u32) -> Result<ListenerSocket, ListenError> {
    let failed = |problem: String| ListenError::Socket { path: path.to_owned(), problem };
    match fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => {
            return Err(failed("there is a file that is not a socket".to_owned()));
        }
        Ok(_) => match std::os::unix::net::UnixStream::connect(path) {
            Ok(_) => return Err(failed("another process listens there".to_owned())),
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                fs::remove_file(path).map_err(|error| failed(format!("could not remove the old socket: {error}")))?;
            }
            Err(error) => return Err(failed(format!("could not see whether the old socket is in use: {error}"))),
        },
        Err(_) => {}
    }
    // The socket has its permissions from the first moment on.
    let before = umask(Mode::from_raw_mode(0o777 & !mode));
    let listener = UnixListener::bind(path);
    umask(before);
    let listener = listener.map_err(|error| failed(error.to_string()))?;
    let inode = fs::symlink_metadata(path).map_err(|error| failed(error.to_string()))?.ino();
    Ok(ListenerSocket::Unix(listener, SocketFile { path: path.to_owned(), inode }))
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if fs::symlink_metadata(&self.path).is_ok_and(|found| found.ino() == self.inode) {
            // One that is left is removed at the next start.
            let _removed = fs::remove_file(&self.path);
        }
    }
}
