//! The ports of a world: listening sockets that can be shut and opened again where they were, so
//! that a client is truly refused.
//!
//! ```text
//! a world's rules --(each time its lock is let go)--> Ports::follow --> Doorway listening | shut
//!                                                                          `--> Port::serve (`server`)
//! ```
//!
//! The demo world has the ports of the start. Another world has ports of its own where it was made
//! with them; else its requests come in at those of the demo world, and are told apart by their
//! usernames.

use std::{
    fmt,
    future::poll_fn,
    io,
    net::SocketAddr,
    pin::pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    task::Poll,
};

use schemars::JsonSchema;
use serde::Serialize;
use tokio::{
    net::{TcpListener, TcpSocket, TcpStream},
    runtime::Handle,
    sync::{Notify, watch},
    task::JoinHandle,
};
use tokio_rustls::TlsAcceptor;

use crate::{
    http::server::Port,
    request::Provider,
    worlds::{SharedWorld, Worlds},
};

/// How many worlds have ports of their own at most: each takes six, and a process has not many more
/// than a thousand descriptors everywhere.
pub const MAX_WITH_OWN_PORTS: usize = 100;
/// How many connections the system holds that nobody has accepted yet.
const BACKLOG: u32 = 1024;

/// Where the providers listen for a world.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[schemars(inline)]
pub struct PortAddresses {
    /// Sectigo, over TLS.
    #[schemars(with = "String")]
    pub sectigo: SocketAddr,
    /// Sectigo in plaintext, to answer -1.
    #[schemars(with = "String")]
    pub sectigo_plaintext: SocketAddr,
    /// name.com, over TLS.
    #[schemars(with = "String")]
    pub namecom: SocketAddr,
    /// name.com in plaintext.
    #[schemars(with = "String")]
    pub namecom_plaintext: SocketAddr,
    /// Debitsuccess, over TLS.
    #[schemars(with = "String")]
    pub debitsuccess: SocketAddr,
    /// Debitsuccess in plaintext.
    #[schemars(with = "String")]
    pub debitsuccess_plaintext: SocketAddr,
}

/// One listening socket, which can be shut and opened again at the same address, at once and from
/// anywhere.
pub(crate) struct Doorway {
    provider: Provider,
    tls: bool,
    address: SocketAddr,
    runtime: Handle,
    socket: Mutex<Socket>,
    changed: Notify,
}

enum Socket {
    Listening(TcpListener),
    /// Bound and not listening, so that the system gives the port to nobody else meanwhile.
    Shut(#[expect(dead_code, reason = "it is held, and that is all")] Option<TcpSocket>),
    /// For good.
    Gone,
}

/// The doorways of one world.
pub(crate) struct Ports {
    doorways: Vec<Arc<Doorway>>,
    addresses: PortAddresses,
    /// Which of them rules have shut, as bits by provider: so that nothing has to be done where
    /// nothing has changed.
    shut: AtomicUsize,
    closing: watch::Sender<bool>,
    tasks: Mutex<Vec<JoinHandle<()>>>,
}

/// What all ports of the process have in common, and where new ones are opened.
#[derive(Clone)]
pub(crate) struct Harbour {
    pub(crate) acceptor: TlsAcceptor,
    /// Counts connections over all ports.
    pub(crate) connections: Arc<AtomicU64>,
    pub(crate) runtime: Handle,
    /// Those of the start: new ones are opened at the same addresses of the machine.
    pub(crate) first: PortAddresses,
    /// What a client of the TLS ports has to trust, PEM.
    pub(crate) ca_pem: Arc<str>,
}

impl Doorway {
    /// Listens there.
    pub(crate) fn open(provider: Provider, tls: bool, address: SocketAddr, runtime: &Handle) -> io::Result<Doorway> {
        let _entered = runtime.enter();
        let listener = bound(address)?.listen(BACKLOG)?;
        let address = listener.local_addr()?;
        let (socket, changed) = (Mutex::new(Socket::Listening(listener)), Notify::new());
        Ok(Doorway { provider, tls, address, runtime: runtime.clone(), socket, changed })
    }

    /// The next connection, however often the doorway is shut before it comes.
    pub(crate) async fn accept(&self) -> io::Result<TcpStream> {
        loop {
            let mut changed = pin!(self.changed.notified());
            // Asked for before the look, so that no change between the two is missed.
            changed.as_mut().enable();
            // The lock is held for a look, never for the wait: whoever shuts the doorway need not
            // wait either.
            let accepted = poll_fn(|cx| match &*self.socket() {
                Socket::Listening(listener) => listener.poll_accept(cx),
                Socket::Shut(_) | Socket::Gone => Poll::Pending,
            });
            tokio::select! {
                accepted = accepted => return accepted.map(|(stream, _)| stream),
                () = changed => {}
            }
        }
    }

    /// From now on the system itself turns clients away. Connections that stand are not touched.
    fn shut(&self) {
        let mut socket = self.socket();
        if matches!(*socket, Socket::Listening(_)) {
            // In this order: a port that is listened on cannot be bound a second time.
            *socket = Socket::Shut(None);
            let held = bound(self.address);
            if let Err(error) = &held {
                tracing::warn!(address = %self.address, %error, "a shut port can be taken by others");
            }
            *socket = Socket::Shut(held.ok());
            self.changed.notify_waiters();
        }
    }

    /// Listens again. What holds the port meanwhile is let go behind that.
    fn reopen(&self) -> io::Result<()> {
        let mut socket = self.socket();
        if matches!(*socket, Socket::Shut(_)) {
            let _entered = self.runtime.enter();
            *socket = Socket::Listening(bound(self.address)?.listen(BACKLOG)?);
            self.changed.notify_waiters();
        }
        Ok(())
    }

    fn socket(&self) -> MutexGuard<'_, Socket> {
        self.socket.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ports {
    /// These doorways, at which nobody is served yet.
    pub(crate) fn new(doorways: [Doorway; 6]) -> Ports {
        let [sectigo, sectigo_plaintext, namecom, namecom_plaintext, debitsuccess, debitsuccess_plaintext] = &doorways;
        let addresses = PortAddresses {
            sectigo: sectigo.address,
            sectigo_plaintext: sectigo_plaintext.address,
            namecom: namecom.address,
            namecom_plaintext: namecom_plaintext.address,
            debitsuccess: debitsuccess.address,
            debitsuccess_plaintext: debitsuccess_plaintext.address,
        };
        let (closing, _) = watch::channel(false);
        let doorways = doorways.map(Arc::new).into();
        Ports { doorways, addresses, shut: AtomicUsize::new(0), closing, tasks: Mutex::default() }
    }

    pub(crate) fn addresses(&self) -> PortAddresses {
        self.addresses
    }

    /// Begins to serve there; `owner` is the world to which all that comes in belongs, none where
    /// each request says that by itself.
    pub(crate) fn serve(&self, harbour: &Harbour, worlds: &Worlds, owner: Option<&SharedWorld>) {
        let served = self.doorways.iter().map(|doorway| {
            let port = Port {
                provider: doorway.provider,
                tls: doorway.tls.then(|| harbour.acceptor.clone()),
                worlds: worlds.clone(),
                owner: owner.cloned(),
                connections: harbour.connections.clone(),
                stopping: self.closing.subscribe(),
            };
            doorway.runtime.spawn(port.serve(doorway.clone()))
        });
        self.tasks().extend(served);
    }

    /// Shuts the ports of the providers at which clients are refused, and opens the others.
    pub(crate) fn follow(&self, refused: impl Iterator<Item = Provider>) {
        let wanted = refused.fold(0, |bits, provider| bits | bit(provider));
        if self.shut.load(Ordering::Acquire) == wanted {
            return;
        }
        let mut shut = wanted;
        for doorway in &self.doorways {
            if wanted & bit(doorway.provider) != 0 {
                doorway.shut();
            } else if let Err(error) = doorway.reopen() {
                // Tried again the next time that the world is looked at.
                tracing::warn!(address = %doorway.address, %error, "cannot listen again");
                shut |= bit(doorway.provider);
            }
        }
        self.shut.store(shut, Ordering::Release);
    }

    /// Closes the ports for good, has what is under way end, and gives what serves them to be
    /// waited for.
    pub(crate) fn close(&self) -> Vec<JoinHandle<()>> {
        for doorway in &self.doorways {
            *doorway.socket() = Socket::Gone;
            doorway.changed.notify_waiters();
        }
        self.closing.send_replace(true);
        std::mem::take(&mut *self.tasks())
    }

    fn tasks(&self) -> MutexGuard<'_, Vec<JoinHandle<()>>> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Harbour {
    /// Opens ports for one more world, each any free one beside that of the start.
    pub(crate) fn open(&self) -> io::Result<Ports> {
        let free = |provider, tls, first: SocketAddr| {
            Doorway::open(provider, tls, SocketAddr::new(first.ip(), 0), &self.runtime)
        };
        Ok(Ports::new([
            free(Provider::Sectigo, true, self.first.sectigo)?,
            free(Provider::Sectigo, false, self.first.sectigo_plaintext)?,
            free(Provider::Namecom, true, self.first.namecom)?,
            free(Provider::Namecom, false, self.first.namecom_plaintext)?,
            free(Provider::Debitsuccess, true, self.first.debitsuccess)?,
            free(Provider::Debitsuccess, false, self.first.debitsuccess_plaintext)?,
        ]))
    }
}

/// A socket that is bound there and does not listen. Others may be bound there too, as long as none
/// of them listens.
fn bound(address: SocketAddr) -> io::Result<TcpSocket> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    Ok(socket)
}

fn bit(provider: Provider) -> usize {
    match provider {
        Provider::Sectigo => 1,
        Provider::Namecom => 2,
        Provider::Debitsuccess => 4,
    }
}

impl fmt::Debug for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ports").field("addresses", &self.addresses).field("shut", &self.shut).finish_non_exhaustive()
    }
}

impl fmt::Debug for Harbour {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Harbour").field("first", &self.first).finish_non_exhaustive()
    }
}
