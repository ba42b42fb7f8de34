//! Judges who calls before anything of a request's body is read: strangers cost no memory but their headers, and a
//! process decodes no more single requests than it may have under way.

use std::{
    convert::Infallible,
    task::{Context, Poll},
};

use futures::future::BoxFuture;
use sotto_proto::message::v1::message_service_server::MessageServiceServer;
use tonic::{Status, body::Body, codegen::Service, server::NamedService};

use super::{Messages, READ, SEND, SUBJECTS, refusal};

/// The public service behind its door.
#[derive(Clone, Debug)]
pub struct Door {
    messages: Messages,
    inner: MessageServiceServer<Messages>,
}

impl Door {
    pub(super) fn new(messages: Messages, inner: MessageServiceServer<Messages>) -> Self {
        Self { messages, inner }
    }
}

impl NamedService for Door {
    const NAME: &'static str = MessageServiceServer::<Messages>::NAME;
}

impl Service<http::Request<Body>> for Door {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: http::Request<Body>) -> Self::Future {
        let Self { messages, mut inner } = self.clone();
        Box::pin(async move {
            let path = request.uri().path();
            let reads =
                ["/GetMessage", "/ListMessages", "/WatchEvents"].iter().any(|name| path.ends_with(name));
            let scope = match () {
                () if path.ends_with("/FindMessages") => SUBJECTS,
                () if reads => READ,
                () => SEND,
            };
            let streams = path.ends_with("/SendStream") || path.ends_with("/WatchEvents");
            match messages.authorise(request.headers(), scope).await {
                Ok(caller) => request.extensions_mut().insert(caller),
                Err(status) => return Ok(status.into_http()),
            };
            if streams {
                return inner.call(request).await;
            }
            let Ok(_call) = messages.0.calls.try_acquire() else {
                return Ok(refusal::status(&messages.0.load.overloaded()).into_http());
            };
            // Giving up a call cuts nothing: what was begun comes to its end by itself.
            match tokio::time::timeout(messages.0.bounds.stall, inner.call(request)).await {
                Ok(answer) => answer,
                Err(_) => Ok(Status::deadline_exceeded("the request did not come to its end").into_http()),
            }
        })
    }
}
