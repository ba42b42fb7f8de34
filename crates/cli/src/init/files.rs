//! Writing the files of a new cell: secrets are readable by their owner alone.

use std::{fs, io::Write as _, path::Path};

use crate::{CliError, error::at};

/// Writes a file that anybody may read.
pub(crate) fn public(path: &Path, content: &[u8]) -> Result<(), CliError> {
    write(path, content, 0o644)
}

/// Writes a file that only its owner may read.
pub(crate) fn secret(path: &Path, content: &[u8]) -> Result<(), CliError> {
    write(path, content, 0o600)
}

fn write(path: &Path, content: &[u8], mode: u32) -> Result<(), CliError> {
    use std::os::unix::fs::OpenOptionsExt as _;
    if let Some(folder) = path.parent() {
        folder_of_owner(folder)?;
    }
    // Never over something that is there: init makes a cell, it does not change one.
    let file = fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(path);
    let mut file = file.map_err(at(path))?;
    file.write_all(content).and_then(|()| file.sync_all()).map_err(at(path))
}

/// Puts a file that anybody may read in the place of what is there: a reader meets the old one or the new one, whole.
pub(crate) fn replace(path: &Path, content: &[u8]) -> Result<(), CliError> {
    let draft = path.with_added_extension("new");
    let _left_over = fs::remove_file(&draft);
    public(&draft, content)?;
    fs::rename(&draft, path).map_err(at(path))
}

/// Makes a folder that only its owner may enter.
pub(crate) fn folder_of_owner(path: &Path) -> Result<(), CliError> {
    use std::os::unix::fs::DirBuilderExt as _;
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(at(path))
}
