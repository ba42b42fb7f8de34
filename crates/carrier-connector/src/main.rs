//! `sotto-carrier`.

fn main() -> std::process::ExitCode {
    sotto_runtime::main::<sotto_carrier::Carrier>()
}
