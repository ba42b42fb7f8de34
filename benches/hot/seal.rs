//! Sealing in ingress, opening in a connector.

use std::hint::black_box;

use criterion::Criterion;
use sotto_crypto::{
    AeadKey,
    envelope::{Binding, MAX_SEALS, Sealer, open},
};

use crate::messages::CODE;

pub(crate) fn benches(criterion: &mut Criterion) {
    let id = [7; 16];
    let binding = Binding { cell: "vn-1", tenant: "acme", class: "otp", message_id: &id, schema: 1 };
    let key = || AeadKey::from_bytes([1; 32]);
    let sealer = Sealer::new([5; 16], key(), MAX_SEALS);
    let sealed = sealer.seal(&binding, CODE.as_bytes()).unwrap();

    criterion.bench_function("envelope/seal", |bench| {
        bench.iter(|| sealer.seal(black_box(&binding), black_box(CODE.as_bytes())));
    });
    criterion.bench_function("envelope/open", |bench| {
        let key = key();
        bench.iter(|| open(&key, black_box(&binding), black_box(&sealed)));
    });
}
