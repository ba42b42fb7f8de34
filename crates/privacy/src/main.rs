//! The privacy service's process.

fn main() -> std::process::ExitCode {
    sotto_runtime::main::<sotto_privacy::service::Privacy>()
}
