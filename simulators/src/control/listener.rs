//! The connections of the control port. Their number and the time for a request head are limited,
//! so that clients that only open connections do not keep others out or use unlimited memory.

use axum::{Router, body::Body};
use http::Request;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    time::sleep,
};
use tower::ServiceExt;

use crate::{
    http::connection_limit::{ActiveFlag, ConnectionSet},
    http::server::{ACCEPT_RETRY_DELAY, MAX_CONNECTIONS, MAX_HEAD_TIME, STOP_GRACE},
};

/// Serves until shutdown is requested; then lets connections finish for a short time.
pub(super) async fn serve(listener: TcpListener, app: Router, mut stopping: watch::Receiver<bool>) {
    let mut crowd = ConnectionSet::new(MAX_CONNECTIONS);
    loop {
        let has_room = crowd.make_room();
        tokio::select! {
            accepted = listener.accept(), if has_room => match accepted {
                Ok((stream, _)) => crowd.spawn(|stays| connection(stream, stays, app.clone(), stopping.clone())),
                Err(error) => {
                    tracing::warn!(%error, "could not accept a connection to the control port");
                    crowd.evict_idle();
                    sleep(ACCEPT_RETRY_DELAY).await;
                }
            },
            true = crowd.join_next() => {}
            () = crate::shutdown::requested(&mut stopping) => break,
        }
    }
    drop(listener);
    while crowd.join_next().await {}
}

async fn connection(stream: TcpStream, stays: ActiveFlag, app: Router, mut stopping: watch::Receiver<bool>) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "could not switch off Nagle's algorithm");
    }
    let service = service_fn(|request: Request<Incoming>| {
        stays.set();
        app.clone().oneshot(request.map(Body::new))
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(MAX_HEAD_TIME)
        .serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = crate::shutdown::requested(&mut stopping) => {
            connection.as_mut().graceful_shutdown();
            tokio::time::timeout(STOP_GRACE, connection).await.unwrap_or(Ok(()))
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection to the control port ended with an error");
    }
}
