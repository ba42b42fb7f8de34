//! `invitation.json`, which `sotto init` writes: `{"hash": "<64 hex digits>", "expires_at": "<RFC 3339>"}`.
//!
//! It is read anew for each redemption, so that an operator may put another one there. That it was redeemed stands
//! with the clients: it is not redeemed again even if this file comes back.

use std::{fs::File, io, io::Read as _, os::unix::fs::PermissionsExt as _, path::PathBuf};

use futures::future::BoxFuture;
use serde::Deserialize;
use sotto_core::Timestamp;

use crate::{
    domain::invitation::Invitation,
    ports::{InvitationUnreadable, Invitations},
};

/// Larger than any invitation (bytes).
const MAX_LEN: u64 = 4096;

/// The file of the owner's invitation.
#[derive(Clone, Debug)]
pub struct InvitationFile(PathBuf);

/// Why the file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum InvitationFileError {
    /// It cannot be read.
    #[error("{} cannot be read", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Who may write it could make himself the owner.
    #[error("{} may be written by others: chmod 600 it, and make another invitation", path.display())]
    Mode {
        /// The file.
        path: PathBuf,
    },
    /// It does not hold an invitation.
    #[error("{} is not an invitation: {{\"hash\": 64 hex digits, \"expires_at\": RFC 3339}}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
    },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Content {
    hash: String,
    expires_at: String,
}

impl InvitationFile {
    /// At this path.
    pub fn new(path: PathBuf) -> Self {
        Self(path)
    }

    fn load(self) -> Result<Option<Invitation>, InvitationFileError> {
        let Self(path) = self;
        let read = || {
            let file = File::open(&path)?;
            let mode = file.metadata()?.permissions().mode();
            let mut text = String::new();
            file.take(MAX_LEN).read_to_string(&mut text)?;
            Ok::<_, io::Error>((mode, text))
        };
        let (mode, text) = match read() {
            Ok(read) => read,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(InvitationFileError::Read { path, source }),
        };
        if mode & 0o022 != 0 {
            return Err(InvitationFileError::Mode { path });
        }
        parse(&text).map(Some).ok_or(InvitationFileError::Content { path })
    }
}

fn parse(text: &str) -> Option<Invitation> {
    let content: Content = serde_json::from_str(text).ok()?;
    let hash = hex::decode(content.hash).ok()?.try_into().ok()?;
    let expires_at: jiff::Timestamp = content.expires_at.parse().ok()?;
    Some(Invitation { hash, expires_at: Timestamp::from_unix_millis(expires_at.as_millisecond()) })
}

impl Invitations for InvitationFile {
    fn read(&self) -> BoxFuture<'_, Result<Option<Invitation>, InvitationUnreadable>> {
        let file = self.clone();
        Box::pin(async move {
            let loaded = tokio::task::spawn_blocking(|| file.load()).await;
            let loaded = loaded.map_err(|e| InvitationUnreadable(Box::new(e)))?;
            loaded.map_err(|e| InvitationUnreadable(Box::new(e)))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_init_writes_and_nothing_else() {
        let hash = "ab".repeat(32);
        let end = Timestamp::from_unix_millis(1_795_000_000_500);
        let invitation = parse(&format!(r#"{{"expires_at":"{end}","hash":"{hash}"}}"#)).unwrap();
        assert_eq!(invitation, Invitation { hash: [0xab; 32], expires_at: end });
        for bad in [
            String::new(),
            "{}".to_owned(),
            format!(r#"{{"hash":"{hash}"}}"#),
            format!(r#"{{"hash":"ab","expires_at":"{end}"}}"#),
            format!(r#"{{"hash":"{hash}","expires_at":"soon"}}"#),
            format!(r#"{{"hash":"{hash}","expires_at":"{end}","x":1}}"#),
        ] {
            assert_eq!(parse(&bad), None, "{bad}");
        }
    }
}
