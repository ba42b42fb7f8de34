//! The smallest service: what a `main.rs` and a configuration look like, and the process that the tests of this
//! crate start, stop and break.

use std::time::Duration;

use serde::Deserialize;
use sotto_core::{Classified, ErrorClass};
use sotto_runtime::{
    Context, Service,
    config::{AdminConfig, ConfigErrors, KeyPath, SecretFile, ShutdownConfig, TelemetryConfig, Validate},
    fuse::Fuses,
    service::ProcessConfig,
};
use tokio::time::Instant;

#[derive(Debug, Deserialize)]
struct Config {
    behaviour: Behaviour,
    password_file: SecretFile,
    telemetry: TelemetryConfig,
    admin: AdminConfig,
    shutdown: ShutdownConfig,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Behaviour {
    Serve,
    Return,
    Fail,
    Panic,
    Hold,
    Linger,
    Fuse,
}

impl Validate for Config {
    fn validate(&self, at: &KeyPath, errors: &mut ConfigErrors) {
        let strong = self.password_file.expose().len() >= 8;
        errors.require(at, "password_file", strong, "must hold at least 8 characters", "make a longer one");
        self.telemetry.validate(&at.key("telemetry"), errors);
        self.admin.validate(&at.key("admin"), errors);
        self.shutdown.validate(&at.key("shutdown"), errors);
    }
}

impl ProcessConfig for Config {
    fn telemetry(&self) -> &TelemetryConfig {
        &self.telemetry
    }
    fn admin(&self) -> &AdminConfig {
        &self.admin
    }
    fn shutdown(&self) -> &ShutdownConfig {
        &self.shutdown
    }
}

#[derive(Debug, thiserror::Error)]
#[error("told to fail")]
struct ToldToFail;

impl Classified for ToldToFail {
    fn class(&self) -> ErrorClass {
        ErrorClass::Bug
    }
}

struct Tiny;

impl Service for Tiny {
    const NAME: &'static str = "tiny";
    const DEFAULT_TOML: &'static str = include_str!("tiny.toml");
    type Config = Config;
    type Error = ToldToFail;

    async fn run(config: Config, context: Context) -> Result<(), ToldToFail> {
        let warm = context.ready.condition("warm");
        tracing::info_span!("tiny_start").in_scope(|| tracing::info!("warming up"));
        match config.behaviour {
            Behaviour::Serve => {}
            Behaviour::Return => return Ok(()),
            Behaviour::Fail => return Err(ToldToFail),
            Behaviour::Panic => context.tasks.spawn_critical("fragile", async { broken() }),
            Behaviour::Hold => {
                let held = context.tasks.hold("stubborn work");
                context.tasks.spawn_background("never done", async move {
                    let _held = held;
                    std::future::pending::<()>().await;
                });
            }
            Behaviour::Linger => {
                let (held, stop) = (context.tasks.hold("lingering work"), context.stop.clone());
                context.tasks.spawn_background("lingers", async move {
                    stop.requested().await;
                    tokio::time::sleep(Duration::from_millis(300)).await;
                    tracing::info!("lingering work done");
                    drop(held);
                });
            }
            Behaviour::Fuse => context.tasks.spawn_critical("fuses", fuses()),
        }
        warm.set(true);
        context.stop.requested().await;
        Ok(())
    }
}

/// Sets one fuse again and again, and drops others.
async fn fuses() -> std::io::Result<()> {
    let fuses = Fuses::start()?;
    let fuse = fuses.fuse();
    for time in 1_u64.. {
        fuse.set(Instant::now() + Duration::from_secs(1)).await?;
        fuses.fuse().set(Instant::now() + Duration::from_millis(50)).await?;
        tracing::info!(time, "fuse set");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Ok(())
}

/// Indexes past the end, as a bug would.
fn broken() {
    let empty: [u8; 0] = [];
    let index = usize::from(std::process::id() > 0);
    tracing::info!(value = empty[index..].len(), "not reached");
}

fn main() -> std::process::ExitCode {
    sotto_runtime::main::<Tiny>()
}
