//! A TCP proxy that fails on command.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::wait::must;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Pass,
    Slow(Duration),
    Uneven(Duration),
    Cut,
    Stall,
}

/// What the connections watch: the mode, and a count that grows when open connections must end.
#[derive(Clone, Copy, Debug)]
struct Order {
    mode: Mode,
    era: u64,
}

/// A stable address in front of a server that may go away or come back elsewhere. It ends with this value.
#[derive(Debug)]
pub struct ChaosProxy {
    address: SocketAddr,
    orders: watch::Sender<Order>,
    backend: Arc<Mutex<SocketAddr>>,
    open: TaskTracker,
    end: CancellationToken,
}

impl ChaosProxy {
    /// Listens on a free port of 127.0.0.1 and passes everything to `backend`.
    ///
    /// # Panics
    /// When no port can be bound.
    pub async fn start(backend: SocketAddr) -> Self {
        let listener = must("a port for the proxy", TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await);
        let address = must("the proxy's address", listener.local_addr());
        let (orders, watched) = watch::channel(Order { mode: Mode::Pass, era: 0 });
        let proxy = Self {
            address,
            orders,
            backend: Arc::new(Mutex::new(backend)),
            open: TaskTracker::new(),
            end: CancellationToken::new(),
        };
        let (backend, open, end) = (Arc::clone(&proxy.backend), proxy.open.clone(), proxy.end.clone());
        proxy
            .open
            .spawn(end.clone().run_until_cancelled_owned(accept(listener, backend, watched, open, end)));
        proxy
    }

    /// Where clients connect.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Passes bytes again; new connections reach the backend.
    pub fn pass(&self) {
        self.orders.send_modify(|order| order.mode = Mode::Pass);
    }

    /// Passes bytes, each piece later by `delay`, as a path that is far too long does.
    pub fn slow(&self, delay: Duration) {
        self.orders.send_modify(|order| order.mode = Mode::Slow(delay));
    }

    /// Passes bytes, those of every second connection later by `delay`: what is sent on one is overtaken on another.
    pub fn uneven(&self, delay: Duration) {
        self.orders.send_modify(|order| order.mode = Mode::Uneven(delay));
    }

    /// Drops all connections and every new one.
    pub fn cut(&self) {
        self.orders.send_modify(|order| *order = Order { mode: Mode::Cut, era: order.era + 1 });
    }

    /// Keeps connections open (and takes new ones) but passes nothing, as a dead network path does.
    pub fn stall(&self) {
        self.orders.send_modify(|order| order.mode = Mode::Stall);
    }

    /// Sends new connections to `backend`; drops those that are open.
    pub fn retarget(&self, backend: SocketAddr) {
        *self.backend.lock().unwrap_or_else(PoisonError::into_inner) = backend;
        self.orders.send_modify(|order| order.era += 1);
    }
}

impl Drop for ChaosProxy {
    fn drop(&mut self) {
        self.end.cancel();
    }
}

async fn accept(
    listener: TcpListener,
    backend: Arc<Mutex<SocketAddr>>,
    orders: watch::Receiver<Order>,
    open: TaskTracker,
    end: CancellationToken,
) {
    let mut late = true;
    loop {
        let Ok((client, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(20)).await;
            continue;
        };
        let order = *orders.borrow();
        if order.mode == Mode::Cut {
            continue;
        }
        let backend = *backend.lock().unwrap_or_else(PoisonError::into_inner);
        late = !late;
        let path = Path { orders: orders.clone(), late };
        open.spawn(end.clone().run_until_cancelled_owned(connection(client, backend, path, order.era)));
    }
}

/// The way of one connection.
#[derive(Clone, Debug)]
struct Path {
    orders: watch::Receiver<Order>,
    /// Whether it is one of those that are late where not all are.
    late: bool,
}

impl Path {
    /// Waits while stalled, and as long as a slow path takes; `None` when the proxy is gone.
    async fn passing(&mut self) -> Option<()> {
        let passes = |order: &Order| matches!(order.mode, Mode::Pass | Mode::Slow(_) | Mode::Uneven(_));
        let mode = self.orders.wait_for(passes).await.ok()?.mode;
        match mode {
            Mode::Slow(delay) => tokio::time::sleep(delay).await,
            Mode::Uneven(delay) if self.late => tokio::time::sleep(delay).await,
            Mode::Uneven(_) | Mode::Pass | Mode::Cut | Mode::Stall => {}
        }
        Some(())
    }
}

async fn connection(client: TcpStream, backend: SocketAddr, mut path: Path, era: u64) {
    if path.passing().await.is_none() {
        return;
    }
    let Ok(server) = TcpStream::connect(backend).await else { return };
    // Delayed bytes would only make tests slower.
    let _best_effort = (client.set_nodelay(true), server.set_nodelay(true));
    let (client_in, client_out) = client.into_split();
    let (server_in, server_out) = server.into_split();
    let ended = async {
        let mut orders = path.orders.clone();
        let _closed = orders.wait_for(|order| order.era != era).await;
    };
    tokio::select! {
        () = ended => {}
        ((), ()) = async {
            tokio::join!(
                copy(client_in, server_out, path.clone()),
                copy(server_in, client_out, path.clone()),
            )
        } => {}
    }
}

async fn copy(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut path: Path) {
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let Ok(read) = from.read(&mut buffer).await else { return };
        if path.passing().await.is_none() {
            return;
        }
        let Some(bytes) = buffer.get(..read) else { return };
        // Passing on the end of one direction keeps half-closed connections working.
        let done = if read == 0 { to.shutdown().await } else { to.write_all(bytes).await };
        if done.is_err() || read == 0 {
            return;
        }
    }
}
