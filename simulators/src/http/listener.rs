//! The provider ports of a world: listening sockets that can be closed and opened again at the same
//! address, so that a client is really refused.
//!
//! ```text
//! a world's rules --(each time it is unlocked)--> ProviderListeners::apply_refusals
//!                                                   `--> PausableListener: listening | closed
//!                                                          `--> served by the given closure
//! ```
//!
//! The demo world has the ports of the start. Another world has its own ports if it was created
//! with them. Otherwise its requests come to the ports of the demo world and are identified by
//! their usernames.

use std::{
    fmt,
    future::poll_fn,
    io,
    net::SocketAddr,
    pin::pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    task::Poll,
};

use tokio::{
    net::{TcpListener, TcpSocket, TcpStream},
    runtime::Handle,
    sync::{Notify, watch},
    task::JoinHandle,
};

use crate::{config::PortAddresses, request::Provider};

/// The maximum number of worlds with ports of their own. Each needs six descriptors, and many
/// systems allow a process little more than a thousand.
pub const MAX_WITH_OWN_PORTS: usize = 100;
/// The number of connections that the system queues before they are accepted.
const BACKLOG: u32 = 1024;

/// A listening socket that can be closed and opened again at the same address.
pub(crate) struct PausableListener {
    provider: Provider,
    tls: bool,
    address: SocketAddr,
    runtime: Handle,
    socket: Mutex<Socket>,
    changed: Notify,
}

enum Socket {
    Listening(TcpListener),
    /// Bound without listening, so that no other process gets the port meanwhile.
    Closed(#[expect(dead_code, reason = "the socket keeps the port")] Option<TcpSocket>),
    /// Closed for good.
    Gone,
}

/// The listeners of one world.
pub(crate) struct ProviderListeners {
    listeners: Vec<Arc<PausableListener>>,
    addresses: PortAddresses,
    /// The providers whose ports are closed by rules, as bits: compared first, because it rarely
    /// changes.
    closed: AtomicUsize,
    stopping: watch::Sender<bool>,
    tasks: Mutex<Vec<JoinHandle<()>>>,
}

/// What new listeners need, and what clients need to know about all ports.
#[derive(Clone)]
pub(crate) struct ServerContext {
    pub(crate) runtime: Handle,
    /// The ports of the start. New ones are opened at the same IP addresses.
    pub(crate) first: PortAddresses,
    /// The certificate that clients of the TLS ports have to trust, PEM.
    pub(crate) ca_pem: Arc<str>,
}

impl PausableListener {
    /// Listens at an address.
    pub(crate) fn open(
        provider: Provider,
        tls: bool,
        address: SocketAddr,
        runtime: &Handle,
    ) -> io::Result<PausableListener> {
        let _entered = runtime.enter();
        let listener = bound(address)?.listen(BACKLOG)?;
        let address = listener.local_addr()?;
        let (socket, changed) = (Mutex::new(Socket::Listening(listener)), Notify::new());
        Ok(PausableListener { provider, tls, address, runtime: runtime.clone(), socket, changed })
    }

    /// Accepts the next connection, also across closing and opening.
    pub(crate) async fn accept(&self) -> io::Result<TcpStream> {
        loop {
            let mut changed = pin!(self.changed.notified());
            // Registered before the check, so that no change between the two is missed.
            changed.as_mut().enable();
            // The lock is held only while polling, so that closing the listener never waits.
            let accepted = poll_fn(|cx| match &*self.socket() {
                Socket::Listening(listener) => listener.poll_accept(cx),
                Socket::Closed(_) | Socket::Gone => Poll::Pending,
            });
            tokio::select! {
                accepted = accepted => return accepted.map(|(stream, _)| stream),
                () = changed => {}
            }
        }
    }

    /// Lets the system refuse clients. Existing connections are not affected.
    fn close(&self) {
        let mut socket = self.socket();
        if matches!(*socket, Socket::Listening(_)) {
            // In this order: a listening port cannot be bound a second time.
            *socket = Socket::Closed(None);
            let bound = bound(self.address);
            if let Err(error) = &bound {
                tracing::warn!(address = %self.address, %error, "could not reserve a closed port");
            }
            *socket = Socket::Closed(bound.ok());
            self.changed.notify_waiters();
        }
    }

    /// Listens again.
    fn reopen(&self) -> io::Result<()> {
        let mut socket = self.socket();
        if matches!(*socket, Socket::Closed(_)) {
            let _entered = self.runtime.enter();
            *socket = Socket::Listening(bound(self.address)?.listen(BACKLOG)?);
            self.changed.notify_waiters();
        }
        Ok(())
    }

    pub(crate) fn provider(&self) -> Provider {
        self.provider
    }

    pub(crate) fn tls(&self) -> bool {
        self.tls
    }

    fn socket(&self) -> MutexGuard<'_, Socket> {
        self.socket.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ProviderListeners {
    /// Opens a listener for each port. They are not served yet.
    ///
    /// # Errors
    /// `open` fails for one of them.
    pub(crate) fn open<E>(
        mut open: impl FnMut(Provider, bool) -> Result<PausableListener, E>,
    ) -> Result<ProviderListeners, E> {
        let mut listeners = Vec::new();
        let addresses = PortAddresses::try_for_each_port(|provider, tls| {
            let listener = open(provider, tls)?;
            let address = listener.address;
            listeners.push(Arc::new(listener));
            Ok(address)
        })?;
        let (stopping, _) = watch::channel(false);
        Ok(ProviderListeners { listeners, addresses, closed: AtomicUsize::new(0), stopping, tasks: Mutex::default() })
    }

    pub(crate) fn addresses(&self) -> PortAddresses {
        self.addresses
    }

    /// Starts a task for each listener. The task has to end when its signal says so.
    pub(crate) fn serve(&self, spawn: impl Fn(&Arc<PausableListener>, watch::Receiver<bool>) -> JoinHandle<()>) {
        let tasks = self.listeners.iter().map(|listener| spawn(listener, self.stopping.subscribe()));
        self.tasks().extend(tasks);
    }

    /// Closes the ports of these providers and opens the others.
    pub(crate) fn apply_refusals(&self, refused: impl Iterator<Item = Provider>) {
        let wanted = refused.fold(0, |bits, provider| bits | bit(provider));
        if self.closed.load(Ordering::Acquire) == wanted {
            return;
        }
        let mut closed = wanted;
        for listener in &self.listeners {
            if wanted & bit(listener.provider) != 0 {
                listener.close();
            } else if let Err(error) = listener.reopen() {
                // Retried the next time that the world is unlocked.
                tracing::warn!(address = %listener.address, %error, "could not listen again");
                closed |= bit(listener.provider);
            }
        }
        self.closed.store(closed, Ordering::Release);
    }

    /// Closes the ports for good and signals the tasks to end. Returns the tasks.
    pub(crate) fn close(&self) -> Vec<JoinHandle<()>> {
        for listener in &self.listeners {
            *listener.socket() = Socket::Gone;
            listener.changed.notify_waiters();
        }
        self.stopping.send_replace(true);
        std::mem::take(&mut *self.tasks())
    }

    fn tasks(&self) -> MutexGuard<'_, Vec<JoinHandle<()>>> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ServerContext {
    /// Opens ports for another world: any free ports at the IP addresses of the start.
    pub(crate) fn open_listeners(&self) -> io::Result<ProviderListeners> {
        ProviderListeners::open(|provider, tls| {
            let address = SocketAddr::new(self.first.get(provider, tls).ip(), 0);
            PausableListener::open(provider, tls, address, &self.runtime)
        })
    }
}

/// A socket that is bound to an address without listening. Several sockets can be bound there as
/// long as none of them listens.
fn bound(address: SocketAddr) -> io::Result<TcpSocket> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    Ok(socket)
}

fn bit(provider: Provider) -> usize {
    1 << provider as usize
}

impl fmt::Debug for ProviderListeners {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProviderListeners")
            .field("addresses", &self.addresses)
            .field("closed", &self.closed)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for ServerContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerContext").field("first", &self.first).finish_non_exhaustive()
    }
}
