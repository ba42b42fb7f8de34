//! SoftHSM2 inside a cell's folder. It finds its tokens by a variable of the environment, which a process cannot change of its
//! own: a command that needs them begins anew with it.

use std::{
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use sotto_keystore::TokenSettings;

use crate::{CliError, cell::CellDir, error::at, init::files};

/// By which SoftHSM2 finds its configuration.
pub(crate) const VARIABLE: &str = "SOFTHSM2_CONF";

/// The folder of the tokens.
pub(crate) const TOKENS: &str = "hsm/tokens";

/// SoftHSM2's own configuration.
pub(crate) fn conf(dir: &CellDir) -> PathBuf {
    dir.path("hsm/softhsm2.conf")
}

/// What stands in it.
pub(crate) fn softhsm_conf(tokens: &Path) -> String {
    format!("directories.tokendir = {}\nobjectstore.backend = file\nlog.level = ERROR\n", tokens.display())
}

/// Whether privacy's configuration says that a token keeps its buckets.
pub(crate) fn keeps_buckets(dir: &CellDir) -> bool {
    let text = std::fs::read_to_string(dir.config("privacy")).unwrap_or_default();
    let config: toml::Table = text.parse().unwrap_or_default();
    let kind = config.get("keystore").and_then(|section| section.get("kind")).and_then(toml::Value::as_str);
    kind == Some("pkcs11")
}

/// SoftHSM2's library.
pub(crate) fn module() -> Result<PathBuf, CliError> {
    let folders = [
        "/usr/lib/softhsm",
        "/usr/lib/x86_64-linux-gnu/softhsm",
        "/usr/lib/aarch64-linux-gnu/softhsm",
        "/usr/lib64/pkcs11",
    ];
    let mut paths = folders.iter().map(|folder| Path::new(folder).join("libsofthsm2.so"));
    paths.find(|path| path.is_file()).ok_or_else(|| {
        CliError::new("SoftHSM2 is not installed").fix("install it: apt-get install softhsm2, or make setup")
    })
}

/// A token of the cell for one command.
pub(crate) fn token(dir: &CellDir, label: String, pin_file: PathBuf) -> Result<TokenSettings, CliError> {
    let sync_folder = Some(dir.path(TOKENS));
    Ok(TokenSettings {
        module: module()?,
        label,
        pin_file,
        sessions: 1,
        wait: Duration::from_secs(10),
        sync_folder,
    })
}

/// Makes the folder of the tokens unless it is there, and begins this program anew unless it finds them already.
pub(crate) fn enter(dir: &CellDir) -> Result<(), CliError> {
    module()?;
    let root = std::path::absolute(dir.root()).map_err(at(dir.root()))?;
    let conf = conf(&CellDir::new(&root));
    if std::env::var_os(VARIABLE).is_some_and(|set| set == conf.as_os_str()) {
        if !conf.exists() {
            let tokens = root.join(TOKENS);
            files::folder_of_owner(&tokens)?;
            files::public(&conf, softhsm_conf(&tokens).as_bytes())?;
        }
        return Ok(());
    }
    let program = std::env::current_exe().map_err(|error| CliError::caused_by("this program", &error))?;
    // It returns only when it fails.
    let error = Command::new(&program).args(std::env::args_os().skip(1)).env(VARIABLE, &conf).exec();
    Err(CliError::caused_by(format!("{} cannot be started again", program.display()), &error))
}
