//! SoftHSM2 in a folder of its own, and a module in front of it that fails on command.
//!
//! SoftHSM finds its folder by the environment, and a process cannot change that of its own: [`inside`] runs the calling test
//! once more, in a process that has it.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use tempfile::TempDir;

use crate::{wait::must, write_secret};

const CONF: &str = "SOFTHSM2_CONF";
const FOLDER: &str = "SOTTO_SOFTHSM_FOLDER";
const MODULE: &str = "SOTTO_SHIM_MODULE";
const CONTROL: &str = "SOTTO_SHIM_CONTROL";

/// The user PIN of every token made here.
pub const PIN: &str = "4711-test";

/// A folder with tokens.
#[derive(Debug)]
pub struct SoftHsm {
    folder: PathBuf,
    /// None inside: the outer process owns it.
    _owner: Option<TempDir>,
}

impl SoftHsm {
    /// An empty one.
    ///
    /// # Panics
    /// When SoftHSM2 or a C compiler is not installed.
    pub fn new() -> Self {
        let owner = must("a temporary folder", TempDir::with_prefix("sotto-hsm-"));
        let hsm = Self { folder: owner.path().to_owned(), _owner: Some(owner) };
        must("the tokens' folder", fs::create_dir(hsm.tokens()));
        must("the shim's folder", fs::create_dir(hsm.control()));
        let conf = format!(
            "directories.tokendir = {}\nobjectstore.backend = file\nlog.level = ERROR\n",
            hsm.tokens().display()
        );
        must("softhsm2.conf", fs::write(hsm.conf(), conf));
        write_secret(&hsm.pin_file(), PIN);
        must("the shim's source", fs::write(hsm.folder.join("shim.c"), include_str!("softhsm.c")));
        let mut cc = Command::new("cc");
        cc.args(["-shared", "-fPIC", "-O1", "-o"]).arg(hsm.shim()).arg(hsm.folder.join("shim.c")).arg("-ldl");
        let built = must("cc (install it with: make setup)", cc.output());
        assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
        let _found = module();
        hsm
    }

    /// A token of this label, with the PIN of [`Self::pin_file`].
    ///
    /// # Panics
    /// When it cannot be made.
    pub fn make_token(&self, label: &str) {
        let mut tool = Command::new("softhsm2-util");
        tool.args(["--init-token", "--free", "--label", label, "--so-pin", "officer-pin", "--pin", PIN]);
        let made =
            must("softhsm2-util (install it with: make setup)", tool.envs(self.environment()).output());
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    }

    /// What a process needs in its environment to use these tokens.
    pub fn environment(&self) -> Vec<(&'static str, PathBuf)> {
        vec![
            (CONF, self.conf()),
            (MODULE, module()),
            (CONTROL, self.control()),
            (FOLDER, self.folder.clone()),
        ]
    }

    /// Changes what modules are in force: SoftHSM's `slots.mechanisms`.
    ///
    /// # Panics
    /// When the file cannot be written.
    pub fn limit_mechanisms(&self, mechanisms: &str) {
        let conf = must("softhsm2.conf", fs::read_to_string(self.conf()));
        must("softhsm2.conf", fs::write(self.conf(), format!("{conf}slots.mechanisms = {mechanisms}\n")));
    }

    /// The file with the user PIN.
    pub fn pin_file(&self) -> PathBuf {
        self.folder.join("pin")
    }

    /// The module in front of SoftHSM's.
    pub fn shim(&self) -> PathBuf {
        self.folder.join("shim.so")
    }

    /// The folder that SoftHSM keeps its tokens in.
    pub fn tokens(&self) -> PathBuf {
        self.folder.join("tokens")
    }

    /// Takes the tokens away, as if their HSM lost its power.
    ///
    /// # Panics
    /// When they are away already.
    pub fn take_away(&self) {
        must("the tokens to go", fs::rename(self.tokens(), self.folder.join("away")));
    }

    /// Brings them back.
    ///
    /// # Panics
    /// When they are not away.
    pub fn bring_back(&self) {
        must("the tokens to come back", fs::rename(self.folder.join("away"), self.tokens()));
    }

    /// Tells the shim: `slow` (milliseconds that each use of a key takes), `fail` (a code in hex that the next use gets), `closed` (a code in hex that every change gets), `die`
    /// (at which change the process dies: twice its number, and one more for after it).
    ///
    /// # Panics
    /// When the order cannot be written.
    pub fn order(&self, what: &str, value: &str) {
        must("the order", fs::write(self.control().join(what), value));
    }

    /// Takes an order back.
    pub fn rescind(&self, what: &str) {
        // It may have been carried out.
        let _gone = fs::remove_file(self.control().join(what));
    }

    fn conf(&self) -> PathBuf {
        self.folder.join("softhsm2.conf")
    }

    fn control(&self) -> PathBuf {
        self.folder.join("orders")
    }
}

impl Default for SoftHsm {
    fn default() -> Self {
        Self::new()
    }
}

/// SoftHSM's module.
///
/// # Panics
/// When it is not installed.
pub fn module() -> PathBuf {
    let folders =
        ["/usr/lib/softhsm", "/usr/lib/x86_64-linux-gnu/softhsm", "/usr/lib/aarch64-linux-gnu/softhsm"];
    let mut paths = folders.iter().map(|folder| Path::new(folder).join("libsofthsm2.so"));
    match paths.find(|path| path.is_file()) {
        Some(path) => path,
        None => panic!("SoftHSM2 is not installed on this machine. Install it with: make setup"),
    }
}

/// Runs `body` with a [`SoftHsm`] that this process finds: in a process of its own, which runs the test of this name alone.
///
/// # Panics
/// When the test fails there.
pub fn inside(test: &str, body: impl FnOnce(&SoftHsm)) {
    if let Some(folder) = std::env::var_os(FOLDER) {
        body(&SoftHsm { folder: folder.into(), _owner: None });
        return;
    }
    let hsm = SoftHsm::new();
    let mut again = Command::new(must("the running test's path", std::env::current_exe()));
    again.args([test, "--exact", "--nocapture", "--include-ignored"]).envs(hsm.environment());
    let output = must("the test's own process", again.output());
    let told =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && told.contains("1 passed"), "{told}");
}

/// Declares tests that run [`inside`] a SoftHSM.
#[macro_export]
macro_rules! softhsm_tests {
    ($($(#[$attribute:meta])* fn $name:ident($hsm:ident) $body:block)*) => {
        $(
            $(#[$attribute])*
            #[test]
            fn $name() {
                // Without the crate: as the test harness names it.
                let path = concat!(module_path!(), "::", stringify!($name));
                let name = path.split_once("::").map_or(path, |(_, name)| name);
                $crate::softhsm::inside(name, |$hsm| $body);
            }
        )*
    };
}
