//! `sotto-simulator`: the carrier that misbehaves, as a process.

use clap::Parser;
use sotto_core::{Sensitive, SystemClock};
use sotto_simulator::{Behaviour, Options, Scenario, Simulator, TlsFiles, behaviour::BehaviourError};
use std::{
    error::Error,
    io::Write,
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
    time::Duration,
};
use tokio::signal::unix::{SignalKind, signal};

/// How long the answer to a probe may take.
const PATIENCE: Duration = Duration::from_secs(3);

/// An SMPP 3.4 carrier for tests and demos. Prints its addresses as one line of JSON and runs until SIGTERM.
#[derive(Parser)]
#[command(name = "sotto-simulator", version)]
struct Arguments {
    /// Where to serve SMPP; port 0 picks a free one
    #[arg(long, default_value = "127.0.0.1:2775")]
    listen: SocketAddr,
    /// Where to serve the admin API, which shows texts and numbers
    #[arg(long, default_value = "127.0.0.1:0")]
    admin: SocketAddr,
    /// Who may bind, repeatable: the password is the first line of the file
    #[arg(long = "account", value_name = "SYSTEM_ID:PASSWORD_FILE", required_unless_present = "probe", value_parser = account)]
    accounts: Vec<(String, PathBuf)>,
    /// Certificate chain (PEM); SMPP is then served over TLS
    #[arg(long, requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// Private key (PEM)
    #[arg(long, requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// Behaviour at the start, as for POST /behaviour
    #[arg(long, value_name = "JSON", default_value = "{}")]
    behaviour: String,
    /// A file of what to do at which time; it is played once, from the start
    #[arg(long, value_name = "FILE")]
    scenario: Option<PathBuf>,
    /// A file that every part is added to, as a line of JSON, before it is answered: it outlives this process, and shows
    /// texts and numbers
    #[arg(long, value_name = "FILE")]
    journal: Option<PathBuf>,
    /// Try the admin address of a running simulator, and exit: a container's health check
    #[arg(long)]
    probe: bool,
}

fn account(text: &str) -> Result<(String, PathBuf), String> {
    let (system_id, file) = text.split_once(':').ok_or("write SYSTEM_ID:PASSWORD_FILE")?;
    Ok((system_id.to_owned(), PathBuf::from(file)))
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let mut message = format!("sotto-simulator: {error}");
            let mut source = error.source();
            while let Some(cause) = source {
                message = format!("{message}: {cause}");
                source = cause.source();
            }
            // Nothing can be done if standard error is closed.
            drop(writeln!(std::io::stderr(), "{message}"));
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments) -> Result<(), Box<dyn Error>> {
    if arguments.probe {
        return Ok(TcpStream::connect_timeout(&arguments.admin, PATIENCE).map(drop)?);
    }
    let file = arguments.scenario.clone();
    let options = options(arguments)?;
    let scenario = file.map(|file| scenario(&file, &options.behaviour)).transpose()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let simulator = Simulator::start(options).await?;
        let addresses = serde_json::json!({
            "smpp": simulator.smpp().to_string(),
            "admin": simulator.admin().to_string(),
        });
        let mut out = std::io::stdout();
        writeln!(out, "{addresses}")?;
        out.flush()?;
        let playing = async {
            if let Some(scenario) = scenario {
                scenario.play(simulator.handle()).await?;
            }
            std::future::pending::<Result<(), BehaviourError>>().await
        };
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
            failed = playing => failed?,
        }
        simulator.stop().await;
        Ok(())
    })
}

fn scenario(file: &Path, initial: &Behaviour) -> Result<Scenario, Box<dyn Error>> {
    let text = std::fs::read_to_string(file)
        .map_err(|error| format!("cannot read scenario {}: {error}", file.display()))?;
    Ok(Scenario::parse(&text, initial)?)
}

fn options(arguments: Arguments) -> Result<Options, Box<dyn Error>> {
    let mut accounts = Vec::new();
    for (system_id, file) in arguments.accounts {
        let text = std::fs::read_to_string(&file)
            .map_err(|error| format!("cannot read password file {}: {error}", file.display()))?;
        let password = text.lines().next().unwrap_or_default().to_owned();
        accounts.push((system_id, Sensitive::new(password)));
    }
    let tls = arguments.tls_cert.zip(arguments.tls_key);
    Ok(Options {
        listen: arguments.listen,
        admin: arguments.admin,
        accounts,
        tls: tls.map(|(certificate, key)| TlsFiles { certificate, key }),
        behaviour: Behaviour::default().patched(serde_json::from_str(&arguments.behaviour)?)?,
        journal: arguments.journal,
        clock: Arc::new(SystemClock),
    })
}
