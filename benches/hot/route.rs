//! Which account takes a message.

use std::{fmt::Write as _, hint::black_box};

use bytes::Bytes;
use criterion::Criterion;
use sotto_core::{
    WorkItem,
    carriers::{CarriersFile, RouteTable},
    work::Envelope,
};

use crate::{
    domain::decide::{Decision, decide},
    messages::{NOW, facts},
};

const ACCOUNTS: usize = 20;

/// Twenty accounts, and a route for each block of Vietnamese mobile numbers from 8481 on.
fn table() -> RouteTable {
    let mut file = String::new();
    for n in 0..ACCOUNTS {
        write!(
            file,
            "[[account]]\nid = \"a{n}\"\nhost = \"localhost\"\nport = 1\nsystem_id = \"s\"\npassword_file = \"p\"\n\
             tls = \"waived\"\ntls_waiver_reason = \"simulator on this machine\"\ntps = 10\nsimulator = true\n\n"
        )
        .unwrap();
    }
    for prefix in (8481..8500).filter(|prefix| *prefix != 8495) {
        let (first, second, last) = (prefix % ACCOUNTS, (prefix + 1) % ACCOUNTS, (prefix + 2) % ACCOUNTS);
        write!(
            file,
            "[[route]]\nprefix = \"{prefix}\"\naccounts = [{{ id = \"a{first}\", weight = 75 }}, \
             {{ id = \"a{second}\", weight = 25 }}]\nfallback = [\"a{last}\"]\n\n"
        )
        .unwrap();
    }
    RouteTable::new(CarriersFile::parse(&file).unwrap(), "v1".to_owned())
}

pub(crate) fn benches(criterion: &mut Criterion) {
    let table = table();
    let item = WorkItem::accepted(facts(1), Envelope(Bytes::new()));
    assert!(matches!(decide(&table, &item, NOW), Decision::Send { attempt: 1, .. }));
    criterion.bench_function("route/decide, 18 routes", |bench| {
        bench.iter(|| decide(black_box(&table), black_box(&item), NOW));
    });
}
