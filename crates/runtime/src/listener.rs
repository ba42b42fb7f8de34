//! Accepts TLS connections: bounded in number, with handshakes that cannot hold up one another.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context as TaskContext, Poll},
    time::Duration,
};

use futures::{FutureExt as _, StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tonic::transport::server::Connected;

use crate::tls::{PeerService, TlsServer};

/// A client that does not finish its handshake in this time is dropped.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// After the system refuses to accept (no file descriptors left), wait before the next try.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A TLS listener for gRPC and HTTP servers.
#[derive(Debug)]
pub struct TlsListener {
    tcp: TcpListener,
    address: SocketAddr,
    tls: TlsServer,
    slots: Arc<Semaphore>,
    handshakes: FuturesUnordered<BoxFuture<'static, Option<TlsConnection>>>,
}

impl TlsListener {
    /// Binds `listen` (port 0 lets the system choose) for at most `connections` at a time; more wait unaccepted.
    ///
    /// # Errors
    /// When the address cannot be bound.
    pub async fn bind(listen: SocketAddr, tls: TlsServer, connections: usize) -> io::Result<Self> {
        let tcp = TcpListener::bind(listen).await?;
        let address = tcp.local_addr()?;
        let slots = Arc::new(Semaphore::new(connections));
        Ok(Self { tcp, address, tls, slots, handshakes: FuturesUnordered::new() })
    }

    /// The bound address.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// The next connection whose handshake succeeded.
    pub async fn accept(&mut self) -> TlsConnection {
        loop {
            tokio::select! {
                Some(done) = self.handshakes.next() => {
                    if let Some(connection) = done {
                        return connection;
                    }
                }
                accepted = accept_tcp(&self.tcp, &self.slots) => {
                    let Some((stream, peer, slot)) = accepted else { continue };
                    let acceptor = TlsAcceptor::from(self.tls.current());
                    self.handshakes.push(handshake(acceptor, stream, peer, slot).boxed());
                }
            }
        }
    }

    /// The listener as a stream of connections, for tonic.
    pub(crate) fn into_stream(self) -> impl futures::Stream<Item = io::Result<TlsConnection>> + Send {
        futures::stream::unfold(self, async |mut listener| {
            let connection = listener.accept().await;
            Some((Ok(connection), listener))
        })
    }
}

async fn accept_tcp(
    tcp: &TcpListener,
    slots: &Arc<Semaphore>,
) -> Option<(TcpStream, SocketAddr, OwnedSemaphorePermit)> {
    // The semaphore is never closed.
    let slot = Arc::clone(slots).acquire_owned().await.ok()?;
    match tcp.accept().await {
        Ok((stream, peer)) => Some((stream, peer, slot)),
        Err(e) => {
            tracing::warn!(error = %e, "a connection could not be accepted");
            tokio::time::sleep(ACCEPT_PAUSE).await;
            None
        }
    }
}

async fn handshake(
    acceptor: TlsAcceptor,
    stream: TcpStream,
    address: SocketAddr,
    slot: OwnedSemaphorePermit,
) -> Option<TlsConnection> {
    if let Err(e) = stream.set_nodelay(true) {
        tracing::debug!(%address, error = %e, "TCP_NODELAY could not be set");
    }
    match tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => {
            let certificate = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
            let service = certificate.and_then(PeerService::of);
            Some(TlsConnection { stream, peer: Peer { address, service }, _slot: slot })
        }
        Ok(Err(e)) => {
            tracing::debug!(%address, error = %e, "a TLS handshake failed");
            None
        }
        Err(_) => {
            tracing::debug!(%address, "a TLS handshake took too long");
            None
        }
    }
}

/// Who is at the other end of a connection. gRPC handlers find it in a request's extensions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its address.
    pub address: SocketAddr,
    /// The service its verified certificate names; `None` without client certificate or for another name.
    pub service: Option<PeerService>,
}

/// An accepted connection. Its slot is free again when it is dropped.
#[derive(Debug)]
pub struct TlsConnection {
    stream: TlsStream<TcpStream>,
    peer: Peer,
    _slot: OwnedSemaphorePermit,
}

impl TlsConnection {
    /// Who is at the other end.
    pub fn peer(&self) -> Peer {
        self.peer
    }
}

impl Connected for TlsConnection {
    type ConnectInfo = Peer;
    fn connect_info(&self) -> Peer {
        self.peer
    }
}

impl AsyncRead for TlsConnection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut TaskContext<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for TlsConnection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut TaskContext<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

impl axum::serve::Listener for TlsListener {
    type Io = TlsConnection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (TlsConnection, SocketAddr) {
        let connection = TlsListener::accept(self).await;
        let address = connection.peer.address;
        (connection, address)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.address)
    }
}
