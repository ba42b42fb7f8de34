//! The whole process, and clients of it as the outside has them.

use std::{marker::PhantomData, time::Duration};

use bytes::{Buf as _, BufMut as _, Bytes};
use prost::Message as _;
use serde_json::Value;
use sotto_bus::Topology;
use sotto_core::{Clock as _, SystemClock};
use sotto_ingress::service::Ingress;
use sotto_proto::message::v1::{
    FindMessagesRequest, FindMessagesResponse, GetMessageRequest, GetMessageResponse, MessageClass,
    OutboundMessage, SendRequest, SendResponse, SendStreamRequest, SendStreamResponse, WatchEventsRequest,
    WatchEventsResponse, message_service_client::MessageServiceClient,
};
use sotto_runtime::{Context, Service as _, grpc::channel};
use sotto_testkit::{Pki, RedisServer, eventually};
use tonic::{
    Request, Status, Streaming,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    transport::Channel,
};

use crate::{
    cell::{self, BOUND, Broker, Peers},
    tokens,
};

/// A running ingress and everything around it.
pub(crate) struct World {
    pub(crate) pki: Pki,
    pub(crate) redis: RedisServer,
    pub(crate) broker: Broker,
    pub(crate) context: Context,
    pub(crate) port: u16,
    pub(crate) peers: Peers,
}

impl World {
    /// With these lines of configuration on top.
    pub(crate) async fn start(lines: &str) -> Self {
        Self::start_in(lines, &Topology::embedded().unwrap()).await
    }

    /// In a cell that was made with this list of streams.
    pub(crate) async fn start_in(lines: &str, list: &Topology) -> Self {
        let pki = Pki::new();
        let broker = Broker::start_with(&pki, list);
        let (redis, broker, peers) = tokio::join!(cell::redis(&pki), broker, Peers::start(&pki));
        let lines = format!(
            "nats.url = '{}'\nredis.url = '{}'\ntokens.jwks_url = 'https://localhost:{}/jwks'\n\
             privacy.endpoint = 'https://localhost:{}'\n{lines}",
            broker.server.tls_url(),
            redis.url(),
            peers.jwks,
            peers.privacy,
        );
        let config = cell::config(&pki, &lines);
        let context = Context::detached(std::sync::Arc::new(SystemClock), "run-1");
        context.tasks.spawn_critical("service", Ingress::run(config, context.clone()));
        let all = ["bus", "grpc", "jwks"].map(|name| (name.to_owned(), true)).into();
        eventually(BOUND, "readiness", async || context.ready.conditions() == all).await;
        let port = context.info.addresses()["grpc"].rsplit(':').next().unwrap().parse().unwrap();
        let world = Self { pki, redis, broker, context, port, peers };
        world.rebuilt().await;
        world
    }

    /// Waits until what Redis holds is whole.
    pub(crate) async fn rebuilt(&self) {
        let store = cell::store(&self.pki, self.redis.address().port(), std::sync::Arc::new(SystemClock));
        eventually(BOUND, "a whole Redis", async || {
            for shard in cell::shards().iter() {
                if store.is_ready(shard).await != Ok(true) {
                    return false;
                }
            }
            true
        })
        .await;
    }

    pub(crate) fn channel(&self) -> Channel {
        self.channel_to(self.port)
    }

    pub(crate) fn channel_to(&self, port: u16) -> Channel {
        let endpoint = format!("https://localhost:{port}");
        // Clients show no certificate; the server does not ask for one.
        channel(&endpoint, &cell::tls(&self.pki, "anybody"), "ingress.sotto.internal", BOUND).unwrap()
    }

    pub(crate) fn client(&self) -> Client {
        self.client_with(&tokens::claims("acme", SystemClock.now()))
    }

    pub(crate) fn client_with(&self, claims: &Value) -> Client {
        Client::new(self.channel(), &tokens::token(claims))
    }

    pub(crate) async fn stop(self) {
        self.context.stop.request();
        eventually(BOUND, "the end", async || self.context.tasks.held().is_empty()).await;
    }
}

/// One client with its token.
#[derive(Clone)]
pub(crate) struct Client {
    channel: Channel,
    authorization: String,
}

impl Client {
    pub(crate) fn new(channel: Channel, token: &str) -> Self {
        Self { channel, authorization: format!("Bearer {token}") }
    }

    fn stub(&self) -> MessageServiceClient<Channel> {
        MessageServiceClient::new(self.channel.clone())
    }

    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.metadata_mut().insert("authorization", self.authorization.parse().unwrap());
        request
    }

    pub(crate) async fn send(&self, request: SendRequest) -> Result<SendResponse, Status> {
        self.stub().send(self.request(request)).await.map(tonic::Response::into_inner)
    }

    pub(crate) async fn get(&self, id: &str) -> Result<GetMessageResponse, Status> {
        let request = GetMessageRequest { message_id: id.to_owned() };
        self.stub().get_message(self.request(request)).await.map(tonic::Response::into_inner)
    }

    pub(crate) async fn find(&self, number: &str, page_token: &str) -> Result<FindMessagesResponse, Status> {
        let request = FindMessagesRequest { number: number.to_owned(), page_token: page_token.to_owned() };
        self.stub().find_messages(self.request(request)).await.map(tonic::Response::into_inner)
    }

    pub(crate) async fn watch(
        &self,
        request: WatchEventsRequest,
    ) -> Result<Streaming<WatchEventsResponse>, Status> {
        self.stub().watch_events(self.request(request)).await.map(tonic::Response::into_inner)
    }

    pub(crate) async fn stream(
        &self,
        requests: impl tonic::IntoStreamingRequest<Message = SendStreamRequest>,
    ) -> Result<Streaming<SendStreamResponse>, Status> {
        let mut request = requests.into_streaming_request();
        request.metadata_mut().insert("authorization", self.authorization.parse().unwrap());
        self.stub().send_stream(request).await.map(tonic::Response::into_inner)
    }

    /// Sends these bytes as a request of `Send`.
    pub(crate) async fn send_raw(&self, bytes: Bytes) -> Result<SendResponse, Status> {
        let mut grpc = tonic::client::Grpc::new(self.channel.clone());
        grpc.ready().await.unwrap();
        let path = "/sotto.message.v1.MessageService/Send".parse().unwrap();
        grpc.unary(self.request(bytes), path, Raw::default()).await.map(tonic::Response::into_inner)
    }

    /// Begins a request of `Send` and never ends it.
    pub(crate) async fn send_nothing(&self) -> Result<SendResponse, Status> {
        let mut grpc = tonic::client::Grpc::new(self.channel.clone());
        grpc.ready().await.unwrap();
        let path = "/sotto.message.v1.MessageService/Send".parse().unwrap();
        let never = self.request(futures::stream::pending::<Bytes>());
        grpc.client_streaming(never, path, Raw::default()).await.map(tonic::Response::into_inner)
    }

    /// Sends these bytes as requests of `SendStream`.
    pub(crate) async fn stream_raw(
        &self,
        requests: Vec<Bytes>,
    ) -> Result<Streaming<SendStreamResponse>, Status> {
        let mut grpc = tonic::client::Grpc::new(self.channel.clone());
        grpc.ready().await.unwrap();
        let path = "/sotto.message.v1.MessageService/SendStream".parse().unwrap();
        let requests = self.request(futures::stream::iter(requests));
        grpc.streaming(requests, path, Raw::default()).await.map(tonic::Response::into_inner)
    }
}

/// Requests as they are, answers decoded.
struct Raw<T>(PhantomData<T>);

impl<T> Default for Raw<T> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T: prost::Message + Default + Send + 'static> Codec for Raw<T> {
    type Encode = Bytes;
    type Decode = T;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self::default()
    }

    fn decoder(&mut self) -> Self {
        Self::default()
    }
}

impl<T> Encoder for Raw<T> {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put(item);
        Ok(())
    }
}

impl<T: prost::Message + Default> Decoder for Raw<T> {
    type Item = T;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<T>, Status> {
        let bytes = buffer.copy_to_bytes(buffer.remaining());
        T::decode(bytes).map(Some).map_err(|error| Status::internal(error.to_string()))
    }
}

/// A good one-time code.
pub(crate) fn code() -> OutboundMessage {
    OutboundMessage {
        to: "+84912345678".to_owned(),
        from: "ACME".to_owned(),
        text: "Ma xac thuc: 482913".to_owned(),
        class: MessageClass::Otp.into(),
        validity: None,
        ..Default::default()
    }
}

pub(crate) fn with_key(key: &str) -> SendRequest {
    SendRequest { message: Some(code()), idempotency_key: key.to_owned(), ..Default::default() }
}

pub(crate) fn numbered(reference: u64) -> SendStreamRequest {
    SendStreamRequest { reference, message: Some(code()), idempotency_key: String::new() }
}

/// The bytes of a message with more bytes behind.
pub(crate) fn and(message: &impl prost::Message, more: &[u8]) -> Bytes {
    let mut bytes = message.encode_to_vec();
    bytes.extend(more);
    bytes.into()
}

/// A request whose message has these bytes instead of a good one.
pub(crate) fn around(message: &[u8]) -> Bytes {
    let mut bytes = vec![0x0a, u8::try_from(message.len()).unwrap()];
    bytes.extend(message);
    bytes.into()
}

pub(crate) const SHORT: Duration = Duration::from_secs(2);

pub(crate) fn encoded(request: &SendStreamRequest) -> Bytes {
    request.encode_to_vec().into()
}
