//! What lies in the broker, as bytes: a batch of a hundred.

use std::hint::black_box;

use criterion::Criterion;
use sotto_proto::{
    Batch, LogEvent,
    pipeline::v1::{EventBatch, WorkBatch},
};

use crate::messages::{deliveries, life};

const ITEMS: u64 = 100;

fn both<B: Batch>(criterion: &mut Criterion, name: &str, items: &[B::Item]) {
    criterion.bench_function(&format!("proto/encode 100 {name}"), |bench| {
        bench.iter(|| B::from_items(black_box(items)).encode_to_vec());
    });
    let bytes = B::from_items(items).encode_to_vec();
    criterion.bench_function(&format!("proto/decode 100 {name}"), |bench| {
        bench.iter(|| B::decode(black_box(bytes.as_slice())).unwrap().into_items());
    });
}

pub(crate) fn benches(criterion: &mut Criterion) {
    both::<WorkBatch>(criterion, "work items", &deliveries(ITEMS));
    let events: Vec<_> = (0..ITEMS / 5).flat_map(life).map(LogEvent::Delivery).collect();
    both::<EventBatch>(criterion, "events", &events);
}
