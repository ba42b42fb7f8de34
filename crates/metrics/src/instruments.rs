//! Handles to what is counted.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use prometheus_client::metrics::{counter, gauge};
use tokio::time::Instant;

/// Counts up. Clones count the same.
#[derive(Clone, Debug, Default)]
pub struct Counter(pub(crate) counter::Counter);

impl Counter {
    /// One more.
    pub fn one(&self) {
        self.0.inc();
    }

    /// So many more.
    pub fn add(&self, count: usize) {
        self.0.inc_by(u64::try_from(count).unwrap_or(u64::MAX));
    }

    /// The count.
    pub fn get(&self) -> u64 {
        self.0.get()
    }
}

/// Stands at a number. Clones stand at the same.
#[derive(Clone, Debug, Default)]
pub struct Gauge(pub(crate) gauge::Gauge<f64, AtomicU64>);

impl Gauge {
    /// Stands at this number from now on.
    pub fn set(&self, number: f64) {
        self.0.set(number);
    }

    /// Stands at a count, exact up to 2^53.
    #[expect(clippy::cast_precision_loss, reason = "what is counted here is smaller than 2^53")]
    pub fn set_count(&self, count: u64) {
        self.set(count as f64);
    }

    /// Stands at this many seconds.
    pub fn set_seconds(&self, duration: Duration) {
        self.set(duration.as_secs_f64());
    }

    /// Where it stands.
    pub fn get(&self) -> f64 {
        self.0.get()
    }
}

/// Counts by size, without a lock. Clones count the same.
#[derive(Clone, Debug)]
pub struct Histogram(Arc<Buckets>);

#[derive(Debug)]
struct Buckets {
    /// How many of the smallest unit are one of the unit that is served.
    scale: u64,
    /// Upper bounds in the smallest unit, ascending, each with what is at most that and above the bound before.
    bounds: Vec<(u64, AtomicU64)>,
    above: AtomicU64,
    /// In the smallest unit.
    sum: AtomicU64,
}

/// What a histogram holds at a moment.
pub(crate) struct Held {
    pub(crate) sum: f64,
    pub(crate) count: u64,
    /// Upper bounds in the unit that is served, each with what is at most that and above the bound before; the last is endless.
    pub(crate) buckets: Vec<(f64, u64)>,
}

impl Histogram {
    /// Of times, with bounds in seconds; kept in nanoseconds.
    pub(crate) fn of_times(bounds: &[Duration]) -> Self {
        Self::new(1_000_000_000, bounds.iter().map(|bound| nanoseconds(*bound)))
    }

    /// Of sizes.
    pub(crate) fn of_sizes(bounds: &[u64]) -> Self {
        Self::new(1, bounds.iter().copied())
    }

    fn new(scale: u64, bounds: impl Iterator<Item = u64>) -> Self {
        let bounds = bounds.map(|bound| (bound, AtomicU64::new(0))).collect();
        Self(Arc::new(Buckets { scale, bounds, above: AtomicU64::new(0), sum: AtomicU64::new(0) }))
    }

    /// One that took so long.
    pub fn took(&self, duration: Duration) {
        self.note(nanoseconds(duration), 1);
    }

    /// So many that took so long each.
    pub fn took_each(&self, duration: Duration, count: usize) {
        self.note(nanoseconds(duration), u64::try_from(count).unwrap_or(u64::MAX));
    }

    /// One of this size.
    pub fn sized(&self, size: usize) {
        self.note(u64::try_from(size).unwrap_or(u64::MAX), 1);
    }

    fn note(&self, size: u64, count: u64) {
        let Buckets { bounds, above, sum, .. } = &*self.0;
        let bucket = bounds.iter().find(|(bound, _)| size <= *bound).map_or(above, |(_, bucket)| bucket);
        bucket.fetch_add(count, Ordering::Relaxed);
        sum.fetch_add(size.saturating_mul(count), Ordering::Relaxed);
    }

    pub(crate) fn held(&self) -> Held {
        let Buckets { scale, bounds, above, sum } = &*self.0;
        let bounded = bounds.iter().map(|(bound, count)| (ratio(*bound, *scale), count));
        let buckets: Vec<_> = bounded
            .chain([(f64::INFINITY, above)])
            .map(|(bound, count)| (bound, count.load(Ordering::Relaxed)))
            .collect();
        let count = buckets.iter().map(|(_, count)| count).sum();
        Held { sum: ratio(sum.load(Ordering::Relaxed), *scale), count, buckets }
    }
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[expect(clippy::cast_precision_loss, reason = "exact up to 2^53")]
fn ratio(number: u64, of: u64) -> f64 {
    number as f64 / of as f64
}

/// How long ago something last happened. Clones share it.
#[derive(Clone, Debug)]
pub struct Age {
    made: Instant,
    /// Milliseconds from `made` to the last time.
    last: Arc<AtomicU64>,
}

impl Default for Age {
    fn default() -> Self {
        Self { made: Instant::now(), last: Arc::default() }
    }
}

impl Age {
    /// It happens now.
    pub fn now(&self) {
        let since = u64::try_from(self.made.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last.store(since, Ordering::Relaxed);
    }

    /// How long ago it was; since this was made while it never was.
    pub fn get(&self) -> Duration {
        self.made.elapsed().saturating_sub(Duration::from_millis(self.last.load(Ordering::Relaxed)))
    }
}

/// Tells a number when it is asked.
pub(crate) type Reading = Arc<dyn Fn() -> Option<f64> + Send + Sync>;

/// What stands behind a series.
#[derive(Clone)]
pub(crate) enum Instrument {
    Counter(Counter),
    Gauge(Gauge),
    Histogram(Histogram),
    Read(Reading),
    ReadCounter(Reading),
}

impl fmt::Debug for Instrument {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Instrument").finish_non_exhaustive()
    }
}
