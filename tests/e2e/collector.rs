//! An OpenTelemetry collector that keeps the bytes of every trace it is sent (OTLP over gRPC), for the search of secrets.

use std::{
    convert::Infallible,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::{HeaderMap, Request, Response, body::Incoming, server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpListener;

/// Starts one that writes into this folder, and makes every service of the cell tell it everything at log level debug.
pub(crate) async fn listen_to_cell(root: &Path) {
    let folder = root.join("traces");
    std::fs::create_dir(&folder).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let listener = listener.into_std().unwrap();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(collect(listener, folder));
    });
    for service in crate::cell::SERVICES {
        let file = root.join(format!("config/{service}.toml"));
        let mut text = std::fs::read_to_string(&file).unwrap();
        text.push_str(&format!("\n[telemetry]\nlog = \"debug\"\notlp_endpoint = \"{endpoint}\"\n"));
        std::fs::write(file, text).unwrap();
    }
}

#[expect(clippy::disallowed_methods, reason = "a test's own server; it ends with the process")]
async fn collect(listener: std::net::TcpListener, folder: PathBuf) {
    let listener = TcpListener::from_std(listener).unwrap();
    let count = Arc::new(AtomicUsize::new(0));
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let (folder, count) = (folder.clone(), Arc::clone(&count));
        let keep = service_fn(move |request: Request<Incoming>| {
            let file = folder.join(format!("{}.otlp", count.fetch_add(1, Ordering::Relaxed)));
            async move {
                // What a client that ends meanwhile has not sent cannot be searched.
                if let Ok(body) = request.into_body().collect().await {
                    std::fs::write(file, body.to_bytes()).unwrap();
                }
                Ok::<_, Infallible>(taken())
            }
        });
        let connection =
            http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), keep);
        tokio::spawn(async move {
            // It ends with the service that it belongs to.
            let _ended = connection.await;
        });
    }
}

/// An empty `ExportTraceServiceResponse` in gRPC's framing.
fn taken() -> Response<impl hyper::body::Body<Data = Bytes, Error = Infallible>> {
    let trailers = HeaderMap::from_iter([("grpc-status".parse().unwrap(), "0".parse().unwrap())]);
    let body = Full::new(Bytes::from_static(&[0; 5])).with_trailers(async { Some(Ok(trailers)) });
    Response::builder().header("content-type", "application/grpc").body(body).unwrap()
}
