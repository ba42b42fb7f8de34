//! The `sotto-identity` program.

fn main() -> std::process::ExitCode {
    sotto_runtime::main::<sotto_identity::Identity>()
}
