//! What an event makes of a message's state.

use std::hint::black_box;

use criterion::{BatchSize, Criterion};
use sotto_core::delivery::{Delivery, Outcome};

use crate::messages::life;

pub(crate) fn benches(criterion: &mut Criterion) {
    let events = life(1);
    assert_eq!(Delivery::fold(&events).unwrap().outcome(), Some(Outcome::Delivered));
    criterion.bench_function("delivery/fold a life of 5 events", |bench| {
        bench.iter(|| Delivery::fold(black_box(&events)));
    });
    let (last, before) = events.split_last().unwrap();
    let state = Delivery::fold(before).unwrap();
    criterion.bench_function("delivery/step to the end", |bench| {
        bench.iter_batched_ref(|| state.clone(), |state| state.step(black_box(last)), BatchSize::SmallInput);
    });
}
