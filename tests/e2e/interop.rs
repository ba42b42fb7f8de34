//! `make interop`: peers that nobody here wrote, installed from Debian and PyPI. docs/INTEROP.md says what each needed.

mod carriers;
mod clients;
mod nats;
