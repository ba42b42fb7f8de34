//! A proxy that can hold back what the server says: the request arrives, the answer does not.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::watch,
};
use tokio_util::task::{AbortOnDropHandle, TaskTracker};

#[derive(Clone, Copy, PartialEq, Eq)]
struct Order {
    answers: bool,
    era: u64,
}

pub(crate) struct Gate {
    address: SocketAddr,
    orders: watch::Sender<Order>,
    passed: Arc<AtomicU64>,
    _listening: AbortOnDropHandle<()>,
}

impl Gate {
    pub(crate) async fn start(server: SocketAddr) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (orders, watched) = watch::channel(Order { answers: true, era: 0 });
        let passed = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&passed);
        let tasks = TaskTracker::new();
        let open = tasks.clone();
        let listening = tasks.spawn(async move {
            loop {
                let (client, _) = listener.accept().await.unwrap();
                open.spawn(connection(client, server, watched.clone(), Arc::clone(&counted)));
            }
        });
        Self { address, orders, passed, _listening: AbortOnDropHandle::new(listening) }
    }

    pub(crate) fn port(&self) -> u16 {
        self.address.port()
    }

    /// Bytes from clients that went through.
    pub(crate) fn passed(&self) -> u64 {
        self.passed.load(Ordering::SeqCst)
    }

    /// Holds back the server's bytes.
    pub(crate) fn hold_answers(&self) {
        self.orders.send_modify(|order| order.answers = false);
    }

    /// Breaks all connections, with what was held back; new ones pass both ways.
    pub(crate) fn break_and_pass(&self) {
        self.orders.send_modify(|order| *order = Order { answers: true, era: order.era + 1 });
    }
}

async fn connection(
    client: TcpStream,
    server: SocketAddr,
    mut orders: watch::Receiver<Order>,
    passed: Arc<AtomicU64>,
) {
    let era = orders.borrow().era;
    let server = TcpStream::connect(server).await.unwrap();
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let mut held = orders.clone();
    let up = async move {
        let mut buffer = vec![0; 16_384];
        while let Ok(read @ 1..) = from_client.read(&mut buffer).await {
            to_server.write_all(buffer.get(..read).unwrap()).await.unwrap();
            passed.fetch_add(u64::try_from(read).unwrap(), Ordering::SeqCst);
        }
    };
    let down = async move {
        let mut buffer = vec![0; 16_384];
        while let Ok(read @ 1..) = from_server.read(&mut buffer).await {
            held.wait_for(|order| order.answers && order.era == era).await.unwrap();
            to_client.write_all(buffer.get(..read).unwrap()).await.unwrap();
        }
    };
    tokio::select! {
        () = up => {}
        () = down => {}
        _ = orders.wait_for(|order| order.era != era) => {}
    }
}
