//! `clients.json`, version 1: an envelope with a MAC, and the clients as the exact text that the MAC covers.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use sotto_core::{TenantId, Timestamp, sender::SenderId};

use super::file_store::Content;
use crate::domain::{Authentication, Client, ClientId, client::sender_text, jwk};

const FORMAT: &str = "sotto.identity.clients";
const VERSION: u32 = 1;

/// Why a text is not such a file. Tells no content.
#[derive(Debug, thiserror::Error)]
pub enum FormatError {
    /// Not JSON of this shape.
    #[error("it is not JSON of the expected shape")]
    Json(#[source] serde_json::Error),
    /// Another format or version.
    #[error("its format or version is not known: use the version of Sotto that wrote it, or a newer one")]
    Version,
    /// A value is not one that was written.
    #[error("{0} of a client is not valid")]
    Value(&'static str),
}

/// The parts of the envelope.
#[derive(Debug)]
pub(super) struct Envelope {
    pub(super) mac_key: String,
    pub(super) mac: Vec<u8>,
    pub(super) content: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct EnvelopeForm {
    format: String,
    version: u32,
    mac_key: String,
    mac: String,
    content: Box<RawValue>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ContentForm {
    generation: u64,
    clients: Vec<ClientForm>,
    redeemed_invitations: Vec<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ClientForm {
    client_id: String,
    tenant: String,
    name: String,
    scopes: String,
    senders: Vec<String>,
    authentication: AuthenticationForm,
    created_at_ms: i64,
    disabled_at_ms: Option<i64>,
}

#[derive(Serialize, Deserialize)]
#[serde(tag = "method", rename_all = "snake_case", deny_unknown_fields)]
enum AuthenticationForm {
    PrivateKeyJwt { x: String },
    ClientSecret { key_id: String, hmac: String },
}

/// Takes the envelope apart; nothing is believed yet.
pub(super) fn open(bytes: &[u8]) -> Result<Envelope, FormatError> {
    let form: EnvelopeForm = serde_json::from_slice(bytes).map_err(FormatError::Json)?;
    if form.format != FORMAT || form.version != VERSION {
        return Err(FormatError::Version);
    }
    let mac = hex::decode(form.mac).map_err(|_| FormatError::Value("the MAC"))?;
    Ok(Envelope { mac_key: form.mac_key, mac, content: form.content.get().to_owned() })
}

/// The envelope around a content.
pub(super) fn wrap(content: String, mac_key: String, mac: &[u8; 32]) -> Result<Vec<u8>, FormatError> {
    let content = RawValue::from_string(content).map_err(FormatError::Json)?;
    let form =
        EnvelopeForm { format: FORMAT.to_owned(), version: VERSION, mac_key, mac: hex::encode(mac), content };
    let mut bytes = serde_json::to_vec(&form).map_err(FormatError::Json)?;
    bytes.push(b'\n');
    Ok(bytes)
}

/// The content as the text that the MAC covers.
pub(super) fn render(content: &Content) -> Result<String, FormatError> {
    let form = ContentForm {
        generation: content.generation,
        clients: content.clients.values().map(ClientForm::of).collect(),
        redeemed_invitations: content.redeemed.iter().map(hex::encode).collect(),
    };
    serde_json::to_string(&form).map_err(FormatError::Json)
}

/// The content, after its MAC was checked.
pub(super) fn parse(text: &str) -> Result<Content, FormatError> {
    let form: ContentForm = serde_json::from_str(text).map_err(FormatError::Json)?;
    let clients = form.clients.into_iter().map(|form| form.parse().map(|client| (client.id.clone(), client)));
    let redeemed = form.redeemed_invitations.iter().map(|hash| bytes(hash, "an invitation"));
    Ok(Content {
        generation: form.generation,
        clients: clients.collect::<Result<_, _>>()?,
        redeemed: redeemed.collect::<Result<_, _>>()?,
    })
}

impl ClientForm {
    fn of(client: &Client) -> Self {
        let authentication = match &client.authentication {
            Authentication::PrivateKeyJwt(key) => AuthenticationForm::PrivateKeyJwt { x: key.jwk_x() },
            Authentication::ClientSecret { key_id, digest } => {
                AuthenticationForm::ClientSecret { key_id: key_id.clone(), hmac: hex::encode(digest) }
            }
        };
        Self {
            client_id: client.id.to_string(),
            tenant: client.tenant.to_string(),
            name: client.name.clone(),
            scopes: client.scopes.to_string(),
            senders: client.senders.iter().map(sender_text).collect(),
            authentication,
            created_at_ms: client.created_at.unix_millis(),
            disabled_at_ms: client.disabled_at.map(Timestamp::unix_millis),
        }
    }

    fn parse(self) -> Result<Client, FormatError> {
        let wrong = FormatError::Value;
        let authentication = match self.authentication {
            AuthenticationForm::PrivateKeyJwt { x } => {
                Authentication::PrivateKeyJwt(jwk::parse_x(&x).ok_or(wrong("the key"))?)
            }
            AuthenticationForm::ClientSecret { key_id, hmac } => {
                Authentication::ClientSecret { key_id, digest: bytes(&hmac, "the secret")? }
            }
        };
        let senders = self.senders.iter().map(|text| SenderId::parse(text).map_err(|_| wrong("a sender")));
        Ok(Client {
            id: self.client_id.parse::<ClientId>().map_err(|_| wrong("the id"))?,
            tenant: self.tenant.parse::<TenantId>().map_err(|_| wrong("the tenant"))?,
            name: self.name,
            scopes: self.scopes.parse().map_err(|_| wrong("a scope"))?,
            senders: senders.collect::<Result<_, _>>()?,
            authentication,
            created_at: Timestamp::from_unix_millis(self.created_at_ms),
            disabled_at: self.disabled_at_ms.map(Timestamp::from_unix_millis),
        })
    }
}

fn bytes(text: &str, what: &'static str) -> Result<[u8; 32], FormatError> {
    let bytes = hex::decode(text).map_err(|_| FormatError::Value(what))?;
    bytes.try_into().map_err(|_| FormatError::Value(what))
}
