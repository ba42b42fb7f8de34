//! The page that Prometheus reads.

use std::fmt;

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric as _, MetricEncoder, NoLabelSet, prometheus_text::encode},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
    registry::Registry,
};

use crate::{
    About, Kind, Labels, Metrics,
    instruments::{Held, Instrument},
};

/// Everything of a registry, as the library writes it.
pub(crate) fn write(metrics: &Metrics) -> String {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(All(metrics.clone())));
    let mut page = String::new();
    match encode(&mut page, &registry) {
        Ok(()) => page,
        // To write into a string never fails.
        Err(fmt::Error) => String::new(),
    }
}

#[derive(Debug)]
struct All(Metrics);

impl Collector for All {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        // What is read may make instruments: nothing is held meanwhile.
        let families: Vec<_> =
            self.0.lock().values().map(|family| (family.about, family.kind, family.series.clone())).collect();
        families.into_iter().try_for_each(|(about, kind, series)| one(&mut encoder, about, kind, &series))
    }
}

fn one(
    encoder: &mut DescriptorEncoder<'_>,
    about: About,
    kind: Kind,
    series: &[(Labels, Instrument)],
) -> fmt::Result {
    // The library adds the suffix of a counter itself.
    let (name, kind) = match kind {
        Kind::Counter => (about.name.strip_suffix("_total").unwrap_or(about.name), MetricType::Counter),
        Kind::Gauge => (about.name, MetricType::Gauge),
        Kind::Histogram => (about.name, MetricType::Histogram),
    };
    let help = format!("{}.", about.what);
    let mut of_family = encoder.encode_descriptor(name, &help, None, kind)?;
    series.iter().try_for_each(|(labels, instrument)| value(of_family.encode_family(labels)?, instrument))
}

fn value(mut encoder: MetricEncoder<'_>, instrument: &Instrument) -> fmt::Result {
    match instrument {
        Instrument::Counter(counter) => counter.0.encode(encoder),
        Instrument::Gauge(gauge) => gauge.0.encode(encoder),
        Instrument::Histogram(histogram) => {
            let Held { sum, count, buckets } = histogram.held();
            encoder.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)
        }
        Instrument::Read(read) => read().map_or(Ok(()), |number| ConstGauge::new(number).encode(encoder)),
        Instrument::ReadCounter(read) => {
            read().map_or(Ok(()), |number| ConstCounter::new(number).encode(encoder))
        }
    }
}
