//! The one `main` of every service.

use std::{collections::BTreeMap, io::Write as _, path::PathBuf, process::ExitCode, time::Duration};

use serde::de::DeserializeOwned;
use sotto_core::Classified;
use sotto_metrics::Metrics;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::{
    config::{self, AdminConfig, ConfigErrors, ShutdownConfig, Sources, TelemetryConfig, Validate},
    guard,
    health::{self, AdminServer, Info, Readiness},
    lifecycle::{Context, Stop, Tasks},
    measures,
    telemetry::{Telemetry, chain},
    tls,
};

/// `EX_USAGE` of sysexits.h: the command line or the configuration is wrong.
const EX_USAGE: u8 = 64;

/// How often a drain says what it waits for.
const REPORT_EVERY: Duration = Duration::from_secs(3);

/// One service of the platform.
pub trait Service: Sized + 'static {
    /// Its short name (`ingress`).
    const NAME: &'static str;
    /// Its version: `env!("CARGO_PKG_VERSION")`.
    const VERSION: &'static str = env!("CARGO_PKG_VERSION");
    /// Its embedded defaults: `include_str!("default.toml")`, which is also the reference of its options.
    const DEFAULT_TOML: &'static str;
    /// Its configuration.
    type Config: DeserializeOwned + Validate + ProcessConfig + Send + 'static;
    /// Why it failed.
    type Error: std::error::Error + Classified + Send + 'static;

    /// Serves until `context.stop` is requested, then returns. Returning before that, or an error, is a failure of
    /// the process. What was spawned on `context.tasks` is drained afterwards.
    fn run(config: Self::Config, context: Context) -> impl Future<Output = Result<(), Self::Error>> + Send;
}

/// The sections that every service's configuration has.
pub trait ProcessConfig {
    /// `[telemetry]`
    fn telemetry(&self) -> &TelemetryConfig;
    /// `[admin]`
    fn admin(&self) -> &AdminConfig;
    /// `[shutdown]`
    fn shutdown(&self) -> &ShutdownConfig;
}

#[derive(Debug, clap::Parser)]
struct Arguments {
    /// Configuration file (TOML), above the embedded defaults and below the environment (SOTTO__SECTION__KEY)
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Check the configuration, tell everything that is wrong with it, and exit
    #[arg(long, conflicts_with = "print_config")]
    check_config: bool,
    /// Print the effective configuration, without secrets, and exit
    #[arg(long)]
    print_config: bool,
    /// Ask the service that runs with this configuration whether it is ready, and exit with 0 if it is: a container's
    /// health check
    #[arg(long, conflicts_with_all = ["check_config", "print_config"])]
    probe: bool,
    /// End when the process that started this one ends: for `sotto up`, which names its own process id
    #[arg(long, hide = true, value_name = "PARENT", num_args = 0..=1, require_equals = true, default_missing_value = "0")]
    die_with_parent: Option<u32>,
}

/// Runs the service as a process: the one line of its `main.rs`.
///
/// Exit codes: 0 stopped when asked to; 1 failed, stopped by itself, or did not drain in time; 64 the command line
/// or the configuration is wrong.
pub fn main<S: Service>() -> ExitCode {
    if let Err(error) = guard::keep_memory_in() {
        // Secrets could end in a core file: better not to start.
        let _printed =
            writeln!(std::io::stderr(), "sotto-{}: core dumps cannot be turned off: {error}", S::NAME);
        return ExitCode::FAILURE;
    }
    if let Err(error) = guard::open_as_many_files_as_allowed() {
        let _printed =
            writeln!(std::io::stderr(), "sotto-{}: the limit of open files stays as it is: {error}", S::NAME);
    }
    tls::install_provider();
    let arguments = match parse_arguments::<S>() {
        Ok(arguments) => arguments,
        Err(code) => return code,
    };
    if let Some(parent) = arguments.die_with_parent
        && let Err(error) = guard::die_with_parent(parent)
    {
        let _printed = writeln!(std::io::stderr(), "sotto-{}: {error}", S::NAME);
        return ExitCode::FAILURE;
    }
    let environment: BTreeMap<String, String> = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect();
    let sources =
        Sources { file: arguments.config.as_deref(), environment: Some(&environment), ..Sources::default() };
    let loaded = match config::load::<S::Config>(S::DEFAULT_TOML, sources) {
        Ok(loaded) => loaded,
        Err(errors) => return refuse::<S>(&errors),
    };
    if arguments.print_config {
        return print(&loaded.to_redacted_toml());
    }
    if arguments.check_config {
        return print("the configuration is valid\n");
    }
    if arguments.probe {
        return probe::<S>(loaded.config.admin());
    }
    run_process::<S>(loaded.config)
}

fn probe<S: Service>(admin: &AdminConfig) -> ExitCode {
    match health::ask(admin.listen, "/ready") {
        Ok(200) => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(e) => {
            let _printed =
                writeln!(std::io::stderr(), "sotto-{}: {} does not answer: {e}", S::NAME, admin.listen);
            ExitCode::FAILURE
        }
    }
}

fn parse_arguments<S: Service>() -> Result<Arguments, ExitCode> {
    use clap::{CommandFactory as _, FromArgMatches as _};
    let command =
        Arguments::command().name(S::NAME).bin_name(format!("sotto-{}", S::NAME)).version(S::VERSION);
    let parsed = command.try_get_matches().and_then(|matches| Arguments::from_arg_matches(&matches));
    parsed.map_err(|e| {
        // Help and version are "errors" that print to standard output. Nothing can be done if printing fails.
        let _printed = e.print();
        if e.use_stderr() { ExitCode::from(EX_USAGE) } else { ExitCode::SUCCESS }
    })
}

fn refuse<S: Service>(errors: &ConfigErrors) -> ExitCode {
    // Nothing can be done if standard error is closed.
    let _printed = writeln!(std::io::stderr(), "sotto-{}: {errors}", S::NAME);
    ExitCode::from(EX_USAGE)
}

fn print(text: &str) -> ExitCode {
    match std::io::stdout().write_all(text.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn run_process<S: Service>(config: S::Config) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().thread_name(S::NAME).build()
    {
        Ok(runtime) => runtime,
        Err(e) => {
            let _printed = writeln!(std::io::stderr(), "sotto-{}: the runtime cannot start: {e}", S::NAME);
            return ExitCode::FAILURE;
        }
    };
    let instance = match instance() {
        Ok(instance) => instance,
        Err(e) => {
            let _printed = writeln!(std::io::stderr(), "sotto-{}: {}", S::NAME, chain(&e));
            return ExitCode::FAILURE;
        }
    };
    let telemetry = {
        let _entered = runtime.enter();
        match Telemetry::start(config.telemetry(), S::NAME, &instance) {
            Ok(telemetry) => telemetry,
            Err(e) => {
                let _printed = writeln!(std::io::stderr(), "sotto-{}: {}", S::NAME, chain(&e));
                return ExitCode::FAILURE;
            }
        }
    };
    let code = runtime.block_on(supervise::<S>(config, instance));
    telemetry.flush();
    // Blocking work that ignores the stop must not hold up the end of the process.
    runtime.shutdown_timeout(Duration::from_secs(1));
    code
}

async fn supervise<S: Service>(config: S::Config, instance: String) -> ExitCode {
    tracing::info!(service = S::NAME, version = S::VERSION, instance, "starting");
    let stop = Stop::default();
    let metrics = Metrics::default();
    let context = Context {
        clock: crate::clock::clock(S::NAME),
        tasks: Tasks::new(stop.clone()),
        ready: Readiness::measured(&metrics),
        info: Info::new(S::NAME, S::VERSION, &instance),
        metrics,
        instance,
        stop: stop.clone(),
    };
    measures::of_process(&context, S::NAME, S::VERSION);
    let admin = AdminServer::start(config.admin(), &context);
    let admin = match admin {
        Ok(admin) => admin,
        Err(e) => {
            let address = config.admin().listen;
            tracing::error!(%address, error = %e, "the admin server cannot start; give admin.listen a free address");
            return ExitCode::FAILURE;
        }
    };
    let signals = match Signals::new() {
        Ok(signals) => signals,
        Err(e) => {
            tracing::error!(error = %e, "signals cannot be received");
            return ExitCode::FAILURE;
        }
    };
    let grace = config.shutdown().grace.get();
    let tasks = context.tasks.clone();
    tasks.spawn_critical("service", S::run(config, context));
    let life = async {
        stop.requested().await;
        tasks.drain(grace, REPORT_EVERY).await;
    };
    tokio::select! {
        () = life => {}
        () = signals.obey(&stop) => {}
    }
    drop(admin);
    if stop.ended_well() {
        tracing::info!(service = S::NAME, "stopped");
        ExitCode::SUCCESS
    } else {
        tracing::error!(service = S::NAME, "stopped with a failure");
        ExitCode::FAILURE
    }
}

/// The signals that end a process.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    /// The first signal asks for a stop, the second forces it. Never completes.
    async fn obey(mut self, stop: &Stop) {
        self.next().await;
        tracing::info!("stopping: finishing what is under way; a second signal cuts it short");
        stop.request();
        self.next().await;
        tracing::warn!("a second signal: dropping what is under way");
        stop.force();
        std::future::pending().await
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// A random name of this run of the process.
fn instance() -> Result<String, sotto_crypto::CryptoError> {
    Ok(format!("{:016x}", u64::from_be_bytes(sotto_crypto::random::random_array()?)))
}
