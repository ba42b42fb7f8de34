//! A handler's span continues the publisher's trace.

use std::sync::{Arc, Mutex};

use opentelemetry::trace::{TraceContextExt as _, TraceId, TracerProvider as _};
use opentelemetry_sdk::trace::SdkTracerProvider;
use sotto_bus::{Delivery, Handler, Outcome, Service};
use sotto_core::Lane;
use sotto_testkit::eventually;
use tracing::Instrument as _;
use tracing_opentelemetry::OpenTelemetrySpanExt as _;
use tracing_subscriber::layer::SubscriberExt as _;

use crate::cell::{BOUND, TestCell, Texts, accepted, publisher, quick, route};

#[derive(Default)]
struct Traced(Mutex<Vec<TraceId>>);

impl Handler<Texts> for Traced {
    async fn handle(&self, delivery: Delivery<Texts>) -> Vec<Outcome> {
        self.0.lock().unwrap().push(current());
        vec![Outcome::Done; delivery.items.len()]
    }
}

fn current() -> TraceId {
    tracing::Span::current().context().span().span_context().trace_id()
}

#[tokio::test]
async fn the_trace_goes_on_in_the_handler() {
    let provider = SdkTracerProvider::builder().build();
    let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer("test"));
    let _guard = tracing::subscriber::set_default(tracing_subscriber::registry().with(layer));
    let cell = TestCell::start().await;
    let publisher = publisher(&cell.bus(Service::Ingress).await);
    let sent = async {
        publisher.publish(&accepted(Lane::Otp), "a".to_owned()).await.unwrap();
        current()
    }
    .instrument(tracing::info_span!("client"))
    .await;
    assert_ne!(sent, TraceId::INVALID);
    let traced = Arc::new(Traced::default());
    let worker = route(&cell.bus(Service::Routing).await, &traced, quick()).await;
    eventually(BOUND, "the handler", || async { traced.0.lock().unwrap().len() == 1 }).await;
    assert_eq!(traced.0.lock().unwrap().clone(), [sent]);
    assert!(worker.stop(BOUND).await);
}
