//! The `sotto-routing` program.

fn main() -> std::process::ExitCode {
    sotto_runtime::main::<sotto_routing::Routing>()
}
