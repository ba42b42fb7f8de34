//! Clients: who may ask for tokens, and the rules by which they are registered.

use std::{fmt, str::FromStr, sync::Arc};

use sotto_core::{
    TenantId, Timestamp,
    sender::{SenderId, SenderKind},
};
use sotto_crypto::sign::PublicKey;

use super::{
    jwk,
    scope::{Scope, Scopes},
};

/// The tenant of the cell's own operators. No business has this name.
pub const OPERATORS: &str = "cell";

/// The most characters of a client's name.
const MAX_NAME: usize = 64;

/// The most senders of one client: they stand in every token.
const MAX_SENDERS: usize = 50;

const ID_PREFIX: &str = "client-";
const ID_RANDOM: usize = 16;

/// A client's id, the `client_id` of OAuth: `client-` and 128 random bits in hex.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClientId(Arc<str>);

impl ClientId {
    /// The id made of random bytes.
    pub fn from_random(random: &[u8; ID_RANDOM]) -> Self {
        Self(format!("{ID_PREFIX}{:032x}", u128::from_be_bytes(*random)).into())
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Text that is no client id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a client id is client- and 32 hex digits, as it was given when the client was registered")]
pub struct InvalidClientId;

impl FromStr for ClientId {
    type Err = InvalidClientId;
    fn from_str(text: &str) -> Result<Self, InvalidClientId> {
        let digits = text.strip_prefix(ID_PREFIX).ok_or(InvalidClientId)?;
        let ok = digits.len() == 2 * ID_RANDOM
            && digits.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        if ok { Ok(Self(text.into())) } else { Err(InvalidClientId) }
    }
}

impl fmt::Display for ClientId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for ClientId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// How a client proves who it is.
#[derive(Clone, PartialEq, Eq)]
pub enum Authentication {
    /// `private_key_jwt` (RFC 7523): the client's public key.
    PrivateKeyJwt(PublicKey),
    /// A secret, of which only a keyed digest is kept.
    ClientSecret {
        /// The keystore's key that made the digest.
        key_id: String,
        /// HMAC-SHA-256 over client id and secret.
        digest: [u8; 32],
    },
}

impl fmt::Debug for Authentication {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PrivateKeyJwt(key) => f.debug_tuple("PrivateKeyJwt").field(key).finish(),
            Self::ClientSecret { key_id, .. } => {
                f.debug_struct("ClientSecret").field("key_id", key_id).finish_non_exhaustive()
            }
        }
    }
}

/// A client as registered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Client {
    /// Its id.
    pub id: ClientId,
    /// The tenant it acts for.
    pub tenant: TenantId,
    /// Its name for people.
    pub name: String,
    /// The scopes it may ask for.
    pub scopes: Scopes,
    /// The senders its messages may carry.
    pub senders: Vec<SenderId>,
    /// How it proves who it is.
    pub authentication: Authentication,
    /// When it was registered.
    pub created_at: Timestamp,
    /// When it was disabled: it gets no more tokens since.
    pub disabled_at: Option<Timestamp>,
}

impl Client {
    /// Whether it may get tokens.
    pub fn is_enabled(&self) -> bool {
        self.disabled_at.is_none()
    }
}

/// How a new client wants to prove who it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// With the private half of this key.
    Key(PublicKey),
    /// With a secret that identity makes.
    Secret,
}

/// The same, as asked for.
#[derive(Clone, Copy)]
pub enum WantedText<'a> {
    /// Nothing was said.
    Nothing,
    /// A JSON Web Key.
    Jwk(&'a str),
    /// Whether a secret shall be made.
    Secret(bool),
}

/// A client to be registered, as asked for.
#[derive(Clone, Copy)]
pub struct DraftText<'a> {
    /// The tenant.
    pub tenant: &'a str,
    /// The name for people.
    pub name: &'a str,
    /// The scopes.
    pub scopes: &'a [String],
    /// The senders.
    pub senders: &'a [String],
    /// How it will authenticate.
    pub authentication: WantedText<'a>,
}

impl fmt::Debug for WantedText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Nothing => "Nothing",
            Self::Jwk(_) => "Jwk",
            Self::Secret(_) => "Secret",
        })
    }
}

impl fmt::Debug for DraftText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DraftText").field("scopes", &self.scopes).finish_non_exhaustive()
    }
}

/// A client that may be registered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Draft {
    /// The tenant.
    pub tenant: TenantId,
    /// The name for people.
    pub name: String,
    /// The scopes.
    pub scopes: Scopes,
    /// The senders.
    pub senders: Vec<SenderId>,
    /// How it will authenticate.
    pub authentication: Wanted,
}

/// What is wrong with one field of a request, and how to mend it. Repeats nothing of what was given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The field's path in the request.
    pub field: String,
    /// What is wrong.
    pub description: String,
}

impl Violation {
    /// A violation of a field.
    pub fn new(field: impl Into<String>, description: impl fmt::Display) -> Self {
        Self { field: field.into(), description: description.to_string() }
    }
}

impl Draft {
    /// Checks a client to be registered.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn check(text: DraftText<'_>) -> Result<Self, Vec<Violation>> {
        let mut wrong = Vec::new();
        let tenant = keep(&mut wrong, check_tenant(text.tenant));
        let name = keep(&mut wrong, check_name(text.name));
        let scopes = check_scopes(text.scopes, text.tenant, &mut wrong);
        let senders = check_senders(text.senders, &scopes, &mut wrong);
        let authentication = keep(&mut wrong, check_authentication(text.authentication));
        match (tenant, name, authentication) {
            (Some(tenant), Some(name), Some(authentication)) if wrong.is_empty() => {
                Ok(Self { tenant, name, scopes, senders, authentication })
            }
            _ => Err(wrong),
        }
    }

    /// The owner's client: every scope of operators, and no messages.
    ///
    /// # Errors
    /// What is wrong with `authentication`.
    pub fn owner(authentication: WantedText<'_>) -> Result<Self, Vec<Violation>> {
        let scopes: Vec<String> = Scopes::of_the_owner().iter().map(|s| s.as_str().to_owned()).collect();
        Self::check(DraftText {
            tenant: OPERATORS,
            name: "owner",
            scopes: &scopes,
            senders: &[],
            authentication,
        })
    }

    /// The client, once its id and digest are made.
    pub fn register(self, id: ClientId, authentication: Authentication, now: Timestamp) -> Client {
        let Self { tenant, name, scopes, senders, authentication: _ } = self;
        Client { id, tenant, name, scopes, senders, authentication, created_at: now, disabled_at: None }
    }
}

/// A sender in the one spelling that reads back as itself: a number with `+`, or it might read as a short code.
pub fn sender_text(sender: &SenderId) -> String {
    match sender.kind() {
        SenderKind::Number => format!("+{}", sender.address()),
        SenderKind::Brandname | SenderKind::ShortCode => sender.address().to_owned(),
    }
}

fn keep<T>(wrong: &mut Vec<Violation>, checked: Result<T, Violation>) -> Option<T> {
    checked.map_err(|violation| wrong.push(violation)).ok()
}

fn check_tenant(tenant: &str) -> Result<TenantId, Violation> {
    let tenant: TenantId = tenant.parse().map_err(|e| Violation::new("tenant", e))?;
    if tenant.is_unowned() {
        return Err(Violation::new("tenant", "stands for what belongs to nobody: choose another name"));
    }
    Ok(tenant)
}

fn check_name(name: &str) -> Result<String, Violation> {
    let ok = (1..=MAX_NAME).contains(&name.chars().count())
        && !name.chars().any(char::is_control)
        && name.trim() == name;
    if ok {
        Ok(name.to_owned())
    } else {
        let rule = format!(
            "must have 1 to {MAX_NAME} characters, without control characters and spaces at the ends"
        );
        Err(Violation::new("name", rule))
    }
}

fn check_scopes(given: &[String], tenant: &str, wrong: &mut Vec<Violation>) -> Scopes {
    let operators = tenant == OPERATORS;
    if given.is_empty() {
        wrong.push(Violation::new("scopes", "must name at least one scope"));
    }
    let mut scopes = Vec::new();
    for (at, text) in given.iter().enumerate() {
        let field = format!("scopes[{at}]");
        match text.parse::<Scope>() {
            Err(unknown) => wrong.push(Violation::new(field, unknown)),
            Ok(scope) if scopes.contains(&scope) => wrong.push(Violation::new(field, "is there twice")),
            Ok(scope) if scope.is_for_operators() && !operators => {
                wrong.push(Violation::new(field, format!("is only for tenant {OPERATORS}")));
            }
            Ok(scope) if !scope.is_for_operators() && operators => {
                let why = format!("tenant {OPERATORS} has no messages: register a client for the business");
                wrong.push(Violation::new(field, why));
            }
            Ok(scope) => scopes.push(scope),
        }
    }
    Scopes::from_iter(scopes)
}

fn check_senders(given: &[String], scopes: &Scopes, wrong: &mut Vec<Violation>) -> Vec<SenderId> {
    let sends = scopes.contains(Scope::MessageSend);
    if sends && given.is_empty() {
        wrong.push(Violation::new("senders", "must name at least one sender for message:send"));
    } else if !sends && !given.is_empty() {
        wrong.push(Violation::new("senders", "must be empty without message:send"));
    } else if given.len() > MAX_SENDERS {
        wrong.push(Violation::new("senders", format!("must not be more than {MAX_SENDERS}")));
        return Vec::new();
    }
    let mut senders = Vec::new();
    for (at, text) in given.iter().enumerate() {
        let field = format!("senders[{at}]");
        match SenderId::parse(text) {
            Err(error) => wrong.push(Violation::new(field, error)),
            Ok(sender) if senders.contains(&sender) => wrong.push(Violation::new(field, "is there twice")),
            Ok(sender) => senders.push(sender),
        }
    }
    senders
}

fn check_authentication(wanted: WantedText<'_>) -> Result<Wanted, Violation> {
    match wanted {
        WantedText::Jwk(text) => {
            jwk::parse(text).map(Wanted::Key).map_err(|e| Violation::new("authentication.public_jwk", e))
        }
        WantedText::Secret(true) => Ok(Wanted::Secret),
        WantedText::Secret(false) => {
            Err(Violation::new("authentication.generate_secret", "must be true, or give public_jwk"))
        }
        WantedText::Nothing => Err(Violation::new("authentication", "must be public_jwk or generate_secret")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(text: DraftText<'_>) -> Vec<String> {
        Draft::check(text).err().unwrap_or_default().into_iter().map(|wrong| wrong.field).collect()
    }

    fn strings(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|text| (*text).to_owned()).collect()
    }

    fn draft<'a>(scopes: &'a [String], senders: &'a [String]) -> DraftText<'a> {
        let authentication = WantedText::Secret(true);
        DraftText { tenant: "acme", name: "Acme", scopes, senders, authentication }
    }

    #[test]
    fn a_sound_client_passes() {
        let scopes = strings(&["message:read", "message:send"]);
        let senders = strings(&["ACME", "+2908123", "156"]);
        let draft = Draft::check(draft(&scopes, &senders)).unwrap();
        let spelled: Vec<_> = draft.senders.iter().map(sender_text).collect();
        assert_eq!(spelled, senders);
        assert_eq!(Draft::owner(WantedText::Secret(true)).unwrap().scopes, Scopes::of_the_owner());
    }

    #[test]
    fn every_fault_is_told_at_once() {
        let (scopes, senders) = (strings(&["message:send", "x", "message:send"]), strings(&["", "A", "A"]));
        let all = DraftText {
            tenant: "A B",
            name: " ",
            scopes: &scopes,
            senders: &senders,
            authentication: WantedText::Nothing,
        };
        let expected =
            ["tenant", "name", "scopes[1]", "scopes[2]", "senders[0]", "senders[2]", "authentication"];
        assert_eq!(fields(all), expected);
    }

    #[test]
    fn scopes_keep_businesses_and_operators_apart() {
        for (tenant, scope, ok) in [
            ("acme", "message:read", true),
            ("acme", "admin:clients", false),
            ("acme", "audit:read", false),
            (OPERATORS, "audit:read", true),
            (OPERATORS, "message:read", false),
            (OPERATORS, "message:send", false),
        ] {
            let scopes = strings(&[scope]);
            let refused = fields(DraftText { tenant, ..draft(&scopes, &[]) });
            assert_eq!(!refused.contains(&"scopes[0]".to_owned()), ok, "{tenant} {scope}");
        }
        assert_eq!(fields(draft(&[], &[])), ["scopes"]);
    }

    #[test]
    fn senders_and_message_send_go_together() {
        let (send, read, sender) = (strings(&["message:send"]), strings(&["message:read"]), strings(&["A"]));
        assert_eq!(fields(draft(&send, &[])), ["senders"]);
        assert_eq!(fields(draft(&read, &sender)), ["senders"]);
        let many: Vec<String> = (0..=MAX_SENDERS).map(|n| (100 + n).to_string()).collect();
        assert_eq!(fields(draft(&send, &many)), ["senders"]);
        assert!(fields(draft(&send, &many[1..])).is_empty());
    }

    #[test]
    fn names_have_bounds() {
        let scopes = strings(&["message:read"]);
        for (name, ok) in
            [("", false), ("\u{7}", false), (" a", false), (&"ă".repeat(64), true), (&"a".repeat(65), false)]
        {
            assert_eq!(fields(DraftText { name, ..draft(&scopes, &[]) }).is_empty(), ok, "{name:?}");
        }
    }

    #[test]
    fn ids_have_one_spelling() {
        let id = ClientId::from_random(&[0xab; 16]);
        assert_eq!(id.as_str(), "client-abababababababababababababababab");
        assert_eq!(id.as_str().parse(), Ok(id));
        for bad in
            ["", "client-", "client-ABABABABABABABABABABABABABABABAB", "abababababababababababababababab"]
        {
            assert!(bad.parse::<ClientId>().is_err(), "{bad}");
        }
    }
}
