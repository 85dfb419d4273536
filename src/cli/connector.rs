//! Connections to a gateway: plaintext, TLS, or a unix socket.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use recoup::tls::{ClientTlsSettings, client_config};
use rustls::pki_types::ServerName;
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint, Uri};
use tower::service_fn;

use super::Failure;
use super::client::root_cause;

/// Ample for a gateway on this machine or beside it.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const HTTPS_PORT: u16 = 443;
/// What HTTP calls the server behind a unix socket.
const LOCAL_SERVER: &str = "http://localhost";

/// Connects to `server`: `http://HOST:PORT`, `https://HOST:PORT` or `unix:/PATH`.
pub(super) async fn connect(server: &str, tls: &ClientTlsSettings) -> Result<Channel, Failure> {
    let connected = if let Some(path) = socket_path(server) {
        local_endpoint(server)?
            .connect_with_connector(service_fn(move |_: Uri| {
                let path = path.clone();
                async move { UnixStream::connect(path).await.map(TokioIo::new) }
            }))
            .await
    } else {
        let uri: Uri = server.parse().map_err(|_| wrong_server(server))?;
        let host = uri.host().ok_or_else(|| wrong_server(server))?.to_owned();
        match uri.scheme_str() {
            Some("http") => endpoint(uri, server)?.connect().await,
            Some("https") => {
                let config = client_config(tls).map_err(|problem| Failure::usage(problem.to_string()))?;
                let connector = TlsConnector::from(Arc::new(config));
                let port = uri.port_u16().unwrap_or(HTTPS_PORT);
                let host = host.trim_matches(['[', ']']).to_owned();
                let name = ServerName::try_from(host.clone()).map_err(|_| wrong_server(server))?;
                let plain = format!("http://{}", uri.authority().map_or("", |authority| authority.as_str()));
                // The library's own TLS is not built in; the origin says https all the same.
                let plain: Uri = plain.parse().map_err(|_| wrong_server(server))?;
                let endpoint = endpoint(plain, server)?.origin(uri);
                endpoint
                    .connect_with_connector(service_fn(move |_: Uri| {
                        let (connector, host, name) = (connector.clone(), host.clone(), name.clone());
                        async move {
                            let stream = TcpStream::connect((host, port)).await?;
                            stream.set_nodelay(true)?;
                            let stream = connector.connect(name, stream).await?;
                            Ok::<_, io::Error>(TokioIo::new(stream))
                        }
                    }))
                    .await
            }
            _ => return Err(wrong_server(server)),
        }
    };
    connected.map_err(|error| {
        Failure::new(format!("no gateway answers at {server}: {}; is it running?", root_cause(&error)))
    })
}

fn endpoint(uri: Uri, server: &str) -> Result<Endpoint, Failure> {
    let endpoint = Endpoint::from_shared(uri.to_string()).map_err(|_| wrong_server(server))?;
    Ok(endpoint.connect_timeout(CONNECT_TIMEOUT))
}

fn local_endpoint(server: &str) -> Result<Endpoint, Failure> {
    endpoint(Uri::from_static(LOCAL_SERVER), server)
}

/// `unix:/PATH`, also with an empty authority.
fn socket_path(server: &str) -> Option<PathBuf> {
    let path = server.strip_prefix("unix:")?;
    Some(PathBuf::from(path.strip_prefix("//").unwrap_or(path)))
}

fn wrong_server(server: &str) -> Failure {
    Failure::usage(format!(
        "--server must be an address such as http://127.0.0.1:50051, https://HOST:PORT or unix:/PATH, not {server}"
    ))
}
