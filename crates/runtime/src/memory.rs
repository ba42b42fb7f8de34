//! The allocator of every program that is built on this crate.

use mimalloc::MiMalloc;

/// Messages are many small values that one thread makes and another frees: glibc's allocator took a third of ingress's
/// processor time at full speed (ADR 0013).
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;
