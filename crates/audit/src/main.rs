//! `sotto-audit`, the process.

fn main() -> std::process::ExitCode {
    sotto_runtime::main::<sotto_audit::service::Audit>()
}
