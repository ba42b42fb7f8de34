//! Accepts TLS connections: bounded in number, in all and from one place, with handshakes that cannot hold up one
//! another. Who is silent before it has asked for anything is dropped; who only stays is found by keep-alives.

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context as TaskContext, Poll},
    time::Duration,
};

use futures::{FutureExt as _, StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, Sleep},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tonic::transport::server::Connected;

use crate::tls::{PeerService, TlsServer};

/// What a client must have sent to count as one that asks: the length of HTTP/2's preface (RFC 9113 §3.4); no request
/// of HTTP/1.1 with its Host header is shorter.
const OPENING: usize = 24;

/// A peer that vanished without a word is found by TCP in about a minute.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(30);
const KEEPALIVE_EVERY: Duration = Duration::from_secs(10);
const KEEPALIVE_TRIES: u32 = 3;

/// After the system refuses to accept (no file descriptors left), wait before the next try.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A listener's bounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListenerLimits {
    /// Connections at a time; more wait unaccepted.
    pub connections: usize,
    /// Connections at a time from one address (one /64 of IPv6); more are closed at once. Behind a proxy that hides its
    /// clients' addresses, as many as `connections`.
    pub per_address: usize,
    /// How long a client may take for its handshake, and then again for the first bytes of a request.
    pub patience: Duration,
}

impl Default for ListenerLimits {
    fn default() -> Self {
        Self { connections: 1024, per_address: 256, patience: Duration::from_secs(10) }
    }
}

/// So many connections, and otherwise the usual bounds.
impl From<usize> for ListenerLimits {
    fn from(connections: usize) -> Self {
        Self { connections, ..Self::default() }
    }
}

/// A TLS listener for gRPC and HTTP servers.
#[derive(Debug)]
pub struct TlsListener {
    tcp: TcpListener,
    address: SocketAddr,
    tls: TlsServer,
    limits: ListenerLimits,
    slots: Arc<Semaphore>,
    places: Arc<Places>,
    handshakes: FuturesUnordered<BoxFuture<'static, Option<TlsConnection>>>,
}

impl TlsListener {
    /// Binds `listen` (port 0 lets the system choose).
    ///
    /// # Errors
    /// When the address cannot be bound.
    pub async fn bind(
        listen: SocketAddr,
        tls: TlsServer,
        limits: impl Into<ListenerLimits>,
    ) -> io::Result<Self> {
        let limits = limits.into();
        let tcp = TcpListener::bind(listen).await?;
        let address = tcp.local_addr()?;
        let slots = Arc::new(Semaphore::new(limits.connections));
        let places = Arc::new(Places::default());
        Ok(Self { tcp, address, tls, limits, slots, places, handshakes: FuturesUnordered::new() })
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
                    let Some(place) = self.places.take(peer.ip(), self.limits.per_address) else {
                        tracing::debug!(address = %peer, "too many connections from one address");
                        continue;
                    };
                    let acceptor = TlsAcceptor::from(self.tls.current());
                    let room = Room { _slot: slot, _place: place };
                    let patience = self.limits.patience;
                    self.handshakes.push(handshake(acceptor, stream, peer, room, patience).boxed());
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

/// Connections by where they come from.
#[derive(Debug, Default)]
struct Places(Mutex<HashMap<IpAddr, usize>>);

impl Places {
    /// A place for one more connection from `address`; none when there are `most` already.
    fn take(self: &Arc<Self>, address: IpAddr, most: usize) -> Option<Place> {
        let origin = origin(address);
        let mut places = self.lock();
        let taken = places.entry(origin).or_insert(0);
        if *taken >= most {
            return None;
        }
        *taken += 1;
        Some(Place { places: Arc::clone(self), origin })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<IpAddr, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What counts as one address: whoever has one of IPv6 usually has its whole /64.
fn origin(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(v4) => IpAddr::V4(v4),
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX))),
    }
}

/// One connection's share of its address; free again when dropped.
#[derive(Debug)]
struct Place {
    places: Arc<Places>,
    origin: IpAddr,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut places = self.places.lock();
        if let Some(taken) = places.get_mut(&self.origin) {
            *taken -= 1;
            if *taken == 0 {
                places.remove(&self.origin);
            }
        }
    }
}

/// What a connection takes up.
#[derive(Debug)]
struct Room {
    _slot: OwnedSemaphorePermit,
    _place: Place,
}

fn keep_alive(stream: &TcpStream) -> io::Result<()> {
    use rustix::net::sockopt;
    stream.set_nodelay(true)?;
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, KEEPALIVE_IDLE)?;
    sockopt::set_tcp_keepintvl(stream, KEEPALIVE_EVERY)?;
    sockopt::set_tcp_keepcnt(stream, KEEPALIVE_TRIES)?;
    Ok(())
}

async fn handshake(
    acceptor: TlsAcceptor,
    stream: TcpStream,
    address: SocketAddr,
    room: Room,
    patience: Duration,
) -> Option<TlsConnection> {
    if let Err(e) = keep_alive(&stream) {
        tracing::debug!(%address, error = %e, "a connection's options could not be set");
    }
    match tokio::time::timeout(patience, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => {
            let certificate = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
            let service = certificate.and_then(PeerService::of);
            let until = Instant::now() + patience;
            let opening = Some(Opening { read: 0, ends: Box::pin(tokio::time::sleep_until(until)) });
            Some(TlsConnection { stream, peer: Peer { address, service }, opening, _room: room })
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
    /// Until the client has begun to ask.
    opening: Option<Opening>,
    _room: Room,
}

/// The time in which a client must begin to ask.
#[derive(Debug)]
struct Opening {
    read: usize,
    ends: Pin<Box<Sleep>>,
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
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(cx, buf);
        let read = buf.filled().len() - before;
        if let Some(opening) = &mut self.opening {
            opening.read += read;
            if opening.read >= OPENING {
                self.opening = None;
            } else if polled.is_pending() && opening.ends.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
        }
        polled
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_of_an_address_are_counted_and_come_back() {
        let places = Arc::new(Places::default());
        let address = |text: &str| text.parse::<IpAddr>().unwrap();
        let here = address("192.0.2.1");
        let held: Vec<_> = (0..3).map(|_| places.take(here, 3).unwrap()).collect();
        assert!(places.take(here, 3).is_none());
        // The same address in its other spelling, and a neighbour.
        assert!(places.take(address("::ffff:192.0.2.1"), 3).is_none());
        assert!(places.take(address("192.0.2.2"), 3).is_some());
        drop(held);
        assert!(places.take(here, 3).is_some());
        assert!(places.lock().is_empty(), "nothing is remembered of those who left");
    }

    #[test]
    fn a_network_of_ipv6_counts_as_one_address() {
        let at = |text: &str| origin(text.parse().unwrap());
        assert_eq!(at("2001:db8:1:2:3:4:5:6"), at("2001:db8:1:2::1"));
        assert_ne!(at("2001:db8:1:3::1"), at("2001:db8:1:2::1"));
    }
}
