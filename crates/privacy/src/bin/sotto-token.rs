//! `sotto-token`: makes privacy's token, once, and ends (deploy/compose/hsm.yml).

use std::{collections::BTreeMap, error::Error, io::Write as _, path::PathBuf, process::ExitCode};

use clap::Parser;
use sotto_privacy::{
    config::{Config, DEFAULT_TOML},
    token::make_once,
};
use sotto_runtime::{
    config::{Sources, load},
    telemetry::chain,
};

/// Makes the token of a software HSM that privacy's configuration names, and the keystore of bucket keys in it. Run again, it
/// makes nothing.
#[derive(Parser)]
#[command(name = "sotto-token", version)]
struct Arguments {
    /// Privacy's configuration
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// The PIN of the token's security officer (mode 600)
    #[arg(long, value_name = "FILE")]
    officer_pin: PathBuf,
    /// Written when the token is made. Where it is there, a token that is missing is not made anew
    #[arg(long, value_name = "FILE")]
    made: PathBuf,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(made) => {
            let done = if made { "the token is made" } else { "the token was made before" };
            // Nothing can be done if standard output is closed.
            let _printed = writeln!(std::io::stdout(), "{done}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            let _printed = writeln!(std::io::stderr(), "sotto-token: {}", chain(error.as_ref()));
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<bool, Box<dyn Error>> {
    let environment: BTreeMap<String, String> = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect();
    let sources =
        Sources { file: Some(&arguments.config), environment: Some(&environment), ..Sources::default() };
    let loaded = load::<Config>(DEFAULT_TOML, sources)?;
    Ok(make_once(&loaded.config.keystore, &arguments.officer_pin, &arguments.made)?)
}
