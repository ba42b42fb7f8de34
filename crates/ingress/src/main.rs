//! The ingress service's process.

fn main() -> std::process::ExitCode {
    sotto_runtime::main::<sotto_ingress::service::Ingress>()
}
