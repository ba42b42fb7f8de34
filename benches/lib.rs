//! Benches of the pure code that every message passes (docs/PERFORMANCE.md): `make bench-micro`.
