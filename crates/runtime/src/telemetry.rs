//! Logs to standard error, traces to OpenTelemetry. Neither ever carries a number, a sender, a body or a key.

use std::{io::IsTerminal as _, time::Duration};

use opentelemetry::{
    global,
    propagation::{Extractor, Injector},
    trace::TracerProvider as _,
};
use opentelemetry_otlp::WithExportConfig as _;
use opentelemetry_sdk::{Resource, propagation::TraceContextPropagator, trace::SdkTracerProvider};
use sotto_core::{Classified, ErrorClass};
use tracing_opentelemetry::OpenTelemetrySpanExt as _;
use tracing_subscriber::{
    EnvFilter, Layer as _, fmt, layer::SubscriberExt as _, util::SubscriberInitExt as _,
};

use crate::config::{LogFormat, TelemetryConfig};

/// How long the last spans may take to leave when the process ends.
const FLUSH: Duration = Duration::from_secs(3);

/// Telemetry could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The log filter does not parse (checked by the configuration).
    #[error("the log filter is not valid")]
    Filter(#[source] tracing_subscriber::filter::ParseError),
    /// The exporter could not be built.
    #[error("the OTLP exporter could not be built")]
    Exporter(#[source] opentelemetry_otlp::ExporterBuildError),
    /// A subscriber is installed already.
    #[error("a log subscriber is already installed")]
    Installed(#[source] tracing_subscriber::util::TryInitError),
}

impl Classified for TelemetryError {
    fn class(&self) -> ErrorClass {
        match self {
            Self::Filter(_) | Self::Exporter(_) => ErrorClass::Reject,
            Self::Installed(_) => ErrorClass::Bug,
        }
    }
}

/// The process's telemetry; [`Telemetry::flush`] sends what is still held.
#[derive(Debug)]
pub(crate) struct Telemetry(Option<SdkTracerProvider>);

impl Telemetry {
    /// Installs the log subscriber and, where an endpoint is given, the trace exporter. Needs a running runtime.
    pub(crate) fn start(
        config: &TelemetryConfig,
        service: &str,
        instance: &str,
    ) -> Result<Self, TelemetryError> {
        // rusmpp logs raw PDUs at debug level: it stays off whatever the configuration says.
        let filter = EnvFilter::builder()
            .parse(format!("{},rusmpp=off", config.log))
            .map_err(TelemetryError::Filter)?;
        let logs = match config.format {
            LogFormat::Text => {
                let ansi = std::io::stderr().is_terminal();
                fmt::layer().with_writer(std::io::stderr).with_ansi(ansi).boxed()
            }
            LogFormat::Json => {
                fmt::layer().with_writer(std::io::stderr).with_ansi(false).json().flatten_event(true).boxed()
            }
        };
        global::set_text_map_propagator(TraceContextPropagator::new());
        let provider = match &config.otlp_endpoint {
            Some(endpoint) => Some(provider(endpoint, service, instance)?),
            None => None,
        };
        let traces = provider
            .as_ref()
            .map(|provider| tracing_opentelemetry::layer().with_tracer(provider.tracer("sotto")));
        let installed = tracing_subscriber::registry().with(filter).with(logs).with(traces).try_init();
        installed.map_err(TelemetryError::Installed)?;
        log_panics();
        Ok(Self(provider))
    }

    /// Sends what is still held; blocks for a few seconds at most.
    pub(crate) fn flush(self) {
        if let Some(Err(e)) = self.0.map(|provider| provider.shutdown_with_timeout(FLUSH)) {
            tracing::warn!(error = %e, "the last traces could not be sent");
        }
    }
}

fn provider(endpoint: &str, service: &str, instance: &str) -> Result<SdkTracerProvider, TelemetryError> {
    let exporter = opentelemetry_otlp::SpanExporter::builder()
        .with_tonic()
        .with_endpoint(endpoint)
        .with_timeout(FLUSH)
        .build()
        .map_err(TelemetryError::Exporter)?;
    let resource = Resource::builder_empty()
        .with_service_name(format!("sotto-{service}"))
        .with_attribute(opentelemetry::KeyValue::new("service.instance.id", instance.to_owned()))
        .build();
    Ok(SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(resource).build())
}

/// A panic is an error in the log with its place. Its text is logged only when it is a constant: a formatted one
/// may carry data.
fn log_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        let text = panic.payload().downcast_ref::<&'static str>().copied().unwrap_or("(message withheld)");
        tracing::error!(place, panic = text, "panicked");
    }));
}

/// An error with its causes, outermost first, for the one place that logs it.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

/// Puts the current span's trace context (W3C `traceparent`) into `carrier`.
pub(crate) fn inject(carrier: &mut dyn Injector) {
    let context = tracing::Span::current().context();
    global::get_text_map_propagator(|propagator| propagator.inject_context(&context, carrier));
}

/// Makes the trace context in `carrier` the parent of `span`. Nothing happens where tracing is off.
pub(crate) fn continue_trace(span: &tracing::Span, carrier: &dyn Extractor) {
    let context = global::get_text_map_propagator(|propagator| propagator.extract(carrier));
    if let Err(e) = span.set_parent(context) {
        tracing::trace!(error = %e, "the span takes no parent");
    }
}
