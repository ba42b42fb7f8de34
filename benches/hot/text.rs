//! How a text is counted, and cut into parts.

use std::hint::black_box;

use criterion::Criterion;
use sotto_core::text::{count, segment};

use crate::messages::CODE;

pub(crate) fn benches(criterion: &mut Criterion) {
    let long = CODE.repeat(6);
    let latin = "Your code is 482913. Never share it. ".repeat(8);
    criterion.bench_function("text/count, 1 part of UCS-2", |bench| bench.iter(|| count(black_box(CODE))));
    criterion
        .bench_function("text/segment, 1 part of UCS-2", |bench| bench.iter(|| segment(black_box(CODE))));
    criterion
        .bench_function("text/segment, 5 parts of UCS-2", |bench| bench.iter(|| segment(black_box(&long))));
    criterion.bench_function("text/segment, 2 parts of GSM 7-bit", |bench| {
        bench.iter(|| segment(black_box(&latin)))
    });
    assert_eq!((segment(&long).unwrap().parts.len(), segment(&latin).unwrap().parts.len()), (5, 2));
}
