//! The bare axum handler: it reads the whole body and answers with prepared bytes.

use std::{net::SocketAddr, sync::Arc};

use axum::{Router, routing::post, serve::Listener};
use bytes::Bytes;
use http::{HeaderValue, header};
use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls::{ServerConfig, pki_types::PrivatePkcs8KeyDer};
use simulators::Provider;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

/// Serves until the process ends; returns the address and, over TLS, the certificate to trust.
pub(crate) async fn serve(provider: Provider, answer: Vec<u8>) -> (SocketAddr, Option<String>) {
    let (path, content_type) = match provider {
        Provider::Sectigo => ("/products/!AutoRefund", "text/plain"),
        Provider::Namecom => ("/core/v1/refund", "application/json"),
        Provider::Debitsuccess => ("/DSWebService/DSServices.svc", "text/xml; charset=utf-8"),
    };
    let answer = Bytes::from(answer);
    let handler = move |body: Bytes| {
        let answer = answer.clone();
        async move {
            drop(body);
            ([(header::CONTENT_TYPE, HeaderValue::from_static(content_type))], answer)
        }
    };
    let router = Router::new().route(path, post(handler));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    if provider != Provider::Sectigo {
        let listener = Plain { listener };
        tokio::spawn(async move { axum::serve(listener, router).await });
        return (address, None);
    }
    let CertifiedKey { cert, signing_key } = generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![cert.der().clone()], PrivatePkcs8KeyDer::from(signing_key.serialize_der()).into())
        .unwrap();
    let listener = Tls { listener, acceptor: TlsAcceptor::from(Arc::new(config)) };
    tokio::spawn(async move { axum::serve(listener, router).await });
    (address, Some(cert.pem()))
}

/// Without Nagle's algorithm, like the simulators.
struct Plain {
    listener: TcpListener,
}

impl Listener for Plain {
    type Io = TcpStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (TcpStream, SocketAddr) {
        let (stream, from) = self.listener.accept().await.unwrap();
        stream.set_nodelay(true).unwrap();
        (stream, from)
    }

    fn local_addr(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// A handshake delays the next connection: the load client connects one by one, before it measures.
struct Tls {
    listener: TcpListener,
    acceptor: TlsAcceptor,
}

impl Listener for Tls {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (TlsStream<TcpStream>, SocketAddr) {
        let (stream, from) = self.listener.accept().await.unwrap();
        stream.set_nodelay(true).unwrap();
        (self.acceptor.accept(stream).await.unwrap(), from)
    }

    fn local_addr(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}
