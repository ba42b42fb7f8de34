//! gRPC servers and channels over TLS, with the same limits everywhere.

use std::{io, net::SocketAddr, time::Duration};

use hyper_util::rt::TokioIo;
use opentelemetry::propagation::{Extractor, Injector};
use rustls_pki_types::ServerName;
use sotto_core::{Classified, ErrorClass};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::{
    Request, Status,
    metadata::{AsciiMetadataKey, MetadataMap},
    service::Interceptor,
    transport::{Channel, Endpoint, Server, Uri, server::Router},
};

use crate::{
    lifecycle::Stop,
    listener::{ListenerLimits, Peer, TlsListener},
    telemetry,
    tls::{ClientAuth, PeerService, Tls, TlsError},
};

/// The largest message that services should take or send, unless a method needs more (bytes, decoded).
pub const MAX_MESSAGE_BYTES: usize = 4 * 1024 * 1024;

const KEEPALIVE_EVERY: Duration = Duration::from_secs(20);
const KEEPALIVE_PATIENCE: Duration = Duration::from_secs(10);

/// Why a server or channel could not be made, or a server ended.
#[derive(Debug, thiserror::Error)]
pub enum GrpcError {
    /// The address cannot be bound.
    #[error("{address} cannot be listened on")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// TLS cannot be set up.
    #[error("TLS cannot be set up")]
    Tls(#[source] TlsError),
    /// The endpoint is not `https://host:port`.
    #[error("the endpoint must be https://host:port")]
    Endpoint,
    /// The expected name of the server is not a DNS name.
    #[error("the server's name is not a DNS name")]
    ServerName,
    /// The server ended.
    #[error("the gRPC server ended")]
    Serve(#[source] tonic::transport::Error),
}

impl Classified for GrpcError {
    fn class(&self) -> ErrorClass {
        match self {
            Self::Bind { .. } | Self::Tls(_) | Self::Endpoint | Self::ServerName => ErrorClass::Reject,
            Self::Serve(_) => ErrorClass::Bug,
        }
    }
}

/// A server's bounds.
#[derive(Clone, Copy, Debug)]
pub struct ServerLimits {
    /// Connections at a time; more wait unaccepted.
    pub connections: usize,
    /// Requests and streams at a time on one connection.
    pub streams: u32,
}

impl Default for ServerLimits {
    fn default() -> Self {
        Self { connections: 1024, streams: 256 }
    }
}

/// So many connections, and otherwise the usual bounds.
impl From<ServerLimits> for ListenerLimits {
    fn from(limits: ServerLimits) -> Self {
        limits.connections.into()
    }
}

/// A bound gRPC server that does not serve yet.
#[derive(Debug)]
pub struct GrpcServer {
    listener: TlsListener,
    limits: ServerLimits,
}

impl GrpcServer {
    /// Binds now; port 0 lets the system choose. [`ClientAuth::Required`] between services, [`ClientAuth::None`]
    /// for public endpoints. Bounds of the listener are the usual ones, see [`Self::bind_within`].
    ///
    /// # Errors
    /// When the address cannot be bound or TLS cannot be set up.
    pub async fn bind(
        listen: SocketAddr,
        tls: &Tls,
        auth: ClientAuth,
        limits: ServerLimits,
    ) -> Result<Self, GrpcError> {
        Self::bind_within(listen, tls, auth, limits, limits.into()).await
    }

    /// Binds with bounds of its own for the listener; its `connections` count, not those of `limits`.
    ///
    /// # Errors
    /// When the address cannot be bound or TLS cannot be set up.
    pub async fn bind_within(
        listen: SocketAddr,
        tls: &Tls,
        auth: ClientAuth,
        limits: ServerLimits,
        within: ListenerLimits,
    ) -> Result<Self, GrpcError> {
        let tls = tls.server(auth, &["h2"]).map_err(GrpcError::Tls)?;
        let listener = TlsListener::bind(listen, tls, within)
            .await
            .map_err(|source| GrpcError::Bind { address: listen, source })?;
        Ok(Self { listener, limits })
    }

    /// The bound address.
    pub fn local_addr(&self) -> SocketAddr {
        self.listener.local_addr()
    }

    /// Serves until a stop is asked for, then finishes the requests under way. `build` adds the services:
    /// `|server| server.add_service(...)`. Each service bounds its messages itself, see [`MAX_MESSAGE_BYTES`].
    ///
    /// # Errors
    /// When serving fails.
    pub async fn serve(
        self,
        stop: &Stop,
        build: impl FnOnce(&mut Server) -> Router,
    ) -> Result<(), GrpcError> {
        let mut server = Server::builder()
            .max_concurrent_streams(self.limits.streams)
            .http2_keepalive_interval(Some(KEEPALIVE_EVERY))
            .http2_keepalive_timeout(Some(KEEPALIVE_PATIENCE))
            .trace_fn(request_span);
        build(&mut server)
            .serve_with_incoming_shutdown(self.listener.into_stream(), stop.requested())
            .await
            .map_err(GrpcError::Serve)
    }
}

fn request_span(request: &axum::http::Request<()>) -> tracing::Span {
    struct Headers<'a>(&'a axum::http::HeaderMap);
    impl Extractor for Headers<'_> {
        fn get(&self, key: &str) -> Option<&str> {
            self.0.get(key)?.to_str().ok()
        }
        fn keys(&self) -> Vec<&str> {
            self.0.keys().map(axum::http::HeaderName::as_str).collect()
        }
    }
    let span = tracing::info_span!("grpc", method = request.uri().path());
    telemetry::continue_trace(&span, &Headers(request.headers()));
    span
}

/// Who sent a request, by connection.
pub fn peer<T>(request: &Request<T>) -> Option<Peer> {
    request.extensions().get::<Peer>().copied()
}

/// The service that sent a request, by its verified certificate.
///
/// # Errors
/// UNAUTHENTICATED when the connection carries no certificate of a known service.
pub fn peer_service<T>(request: &Request<T>) -> Result<PeerService, Status> {
    peer(request)
        .and_then(|peer| peer.service)
        .ok_or_else(|| Status::unauthenticated("a client certificate of a known service is required"))
}

/// A channel that connects when it is first used and again after a loss. `endpoint` is `https://host:port`;
/// `server_name` is the name that the server's certificate must be valid for (`privacy.sotto.internal`).
///
/// # Errors
/// When the endpoint or name does not parse, or TLS cannot be set up.
pub fn channel(
    endpoint: &str,
    tls: &Tls,
    server_name: &str,
    connect_timeout: Duration,
) -> Result<Channel, GrpcError> {
    let uri: Uri = endpoint.parse().map_err(|_| GrpcError::Endpoint)?;
    if uri.scheme_str() != Some("https") {
        return Err(GrpcError::Endpoint);
    }
    let host = uri.host().ok_or(GrpcError::Endpoint)?.trim_matches(['[', ']']).to_owned();
    let port = uri.port_u16().ok_or(GrpcError::Endpoint)?;
    let name = ServerName::try_from(server_name.to_owned()).map_err(|_| GrpcError::ServerName)?;
    let connector = Connector { tls: tls.clone(), host, port, name };
    // tonic would wrap an https:// endpoint in TLS of its own, which does not follow renewed certificates. The
    // connector speaks TLS itself, so tonic is told http:// for the wire and https:// for the requests.
    let authority = uri.authority().ok_or(GrpcError::Endpoint)?;
    let plain: Uri = format!("http://{authority}").parse().map_err(|_| GrpcError::Endpoint)?;
    let endpoint = Endpoint::from(plain)
        .origin(uri)
        .connect_timeout(connect_timeout)
        .http2_keep_alive_interval(KEEPALIVE_EVERY)
        .keep_alive_timeout(KEEPALIVE_PATIENCE)
        .keep_alive_while_idle(true);
    Ok(endpoint.connect_with_connector_lazy(tower::service_fn(move |_: Uri| {
        let connector = connector.clone();
        async move { connector.connect().await }
    })))
}

#[derive(Clone)]
struct Connector {
    tls: Tls,
    host: String,
    port: u16,
    name: ServerName<'static>,
}

impl Connector {
    async fn connect(&self) -> io::Result<TokioIo<tokio_rustls::client::TlsStream<TcpStream>>> {
        // Made anew for each connection, so that renewed authorities count.
        let config = self.tls.client(&["h2"]).map_err(io::Error::other)?;
        let stream = TcpStream::connect((self.host.as_str(), self.port)).await?;
        stream.set_nodelay(true)?;
        let stream =
            TlsConnector::from(std::sync::Arc::new(config)).connect(self.name.clone(), stream).await?;
        Ok(TokioIo::new(stream))
    }
}

/// Carries the current trace over a gRPC call: `Client::with_interceptor(channel, TraceCalls)`.
#[derive(Clone, Copy, Debug, Default)]
pub struct TraceCalls;

impl Interceptor for TraceCalls {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        struct Metadata<'a>(&'a mut MetadataMap);
        impl Injector for Metadata<'_> {
            fn set(&mut self, key: &str, value: String) {
                if let (Ok(key), Ok(value)) = (key.parse::<AsciiMetadataKey>(), value.parse()) {
                    self.0.insert(key, value);
                }
            }
        }
        telemetry::inject(&mut Metadata(request.metadata_mut()));
        Ok(request)
    }
}
