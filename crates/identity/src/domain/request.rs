//! Token requests (RFC 6749 §4.4.2) and the refusals of §5.2.

use std::{collections::BTreeMap, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use sotto_core::Sensitive;

use super::{
    assertion::{self, AssertionError},
    client::ClientId,
    scope::Scopes,
};

const GRANT: &str = "client_credentials";

/// The one parameter that may come more than once (RFC 8707 §2).
const RESOURCE: &str = "resource";

/// A token request, read but not authenticated.
#[derive(Debug)]
pub struct TokenRequest {
    /// How the client wants to prove who it is.
    pub credential: Credential,
    /// The scopes it asks for; `None` for all it is registered with (RFC 6749 §3.3).
    pub scope: Option<Scopes>,
    /// The resources it asks for (RFC 8707).
    pub resources: Vec<String>,
}

/// What a client proves itself with.
#[derive(Debug)]
pub enum Credential {
    /// `client_secret_basic` or `client_secret_post`.
    Secret {
        /// The client; `None` if the text given is no id of ours.
        client: Option<ClientId>,
        /// The secret as given.
        secret: Sensitive<String>,
    },
    /// `private_key_jwt`.
    Assertion {
        /// The client, if the request names one besides the assertion.
        client: Option<ClientId>,
        /// The assertion as given.
        assertion: Sensitive<String>,
    },
}

/// Why a client is not believed. Who has not proved to hold the client's credential is told nothing of this.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disbelief {
    /// No credential, or of a kind that is not taken here.
    NoCredential,
    /// No such client.
    UnknownClient,
    /// The client is registered with another method.
    OtherMethod,
    /// The secret is not the client's.
    WrongSecret,
    /// The assertion does not count.
    Assertion(AssertionError),
    /// The assertion was used before.
    Replayed,
}

/// Why there is no token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The request is not one (RFC 6749 §5.2).
    InvalidRequest(&'static str),
    /// The client is not believed.
    InvalidClient(Disbelief),
    /// The client is disabled.
    UnauthorizedClient,
    /// Another grant than client credentials.
    UnsupportedGrantType,
    /// A scope is unknown or not the client's.
    InvalidScope(&'static str),
    /// A resource is not this cell (RFC 8707 §2).
    InvalidTarget,
    /// Too many failed attempts; more are not looked at for so long.
    TooManyFailures {
        /// When an attempt will be looked at again.
        retry_after: Duration,
    },
    /// What is needed for the answer is down.
    Unavailable,
    /// Our own fault.
    Internal,
}

impl Refusal {
    /// The value of `error`.
    pub const fn code(self) -> &'static str {
        match self {
            Self::InvalidRequest(_) => "invalid_request",
            Self::InvalidClient(_) => "invalid_client",
            Self::UnauthorizedClient => "unauthorized_client",
            Self::UnsupportedGrantType => "unsupported_grant_type",
            Self::InvalidScope(_) => "invalid_scope",
            Self::InvalidTarget => "invalid_target",
            Self::TooManyFailures { .. } | Self::Unavailable => "temporarily_unavailable",
            Self::Internal => "server_error",
        }
    }

    /// The HTTP status.
    pub const fn status(self) -> u16 {
        match self {
            Self::InvalidRequest(_)
            | Self::UnauthorizedClient
            | Self::UnsupportedGrantType
            | Self::InvalidScope(_)
            | Self::InvalidTarget => 400,
            Self::InvalidClient(_) => 401,
            Self::TooManyFailures { .. } => 429,
            Self::Internal => 500,
            Self::Unavailable => 503,
        }
    }

    /// How long to wait before another attempt, if waiting helps.
    pub const fn retry_after(self) -> Option<Duration> {
        match self {
            Self::TooManyFailures { retry_after } => Some(retry_after),
            Self::Unavailable => Some(Duration::from_secs(1)),
            Self::InvalidRequest(_)
            | Self::InvalidClient(_)
            | Self::UnauthorizedClient
            | Self::UnsupportedGrantType
            | Self::InvalidScope(_)
            | Self::InvalidTarget
            | Self::Internal => None,
        }
    }

    /// The value of `error_description`: what to mend. Repeats nothing of the request.
    pub fn description(self) -> String {
        match self {
            Self::InvalidRequest(why) | Self::InvalidScope(why) => why.to_owned(),
            Self::InvalidClient(why) => why.description(),
            Self::UnauthorizedClient => "the client is disabled: ask an operator of the cell".to_owned(),
            Self::UnsupportedGrantType => format!("grant_type must be {GRANT}"),
            Self::InvalidTarget => "resource must be this cell's, or be left out".to_owned(),
            Self::TooManyFailures { .. } => "too many failed attempts: wait as Retry-After says".to_owned(),
            Self::Unavailable => "assertions cannot be checked now: try again with a new one".to_owned(),
            Self::Internal => "the token could not be made".to_owned(),
        }
    }

    /// The stable name of the outcome in the log.
    pub const fn outcome(self) -> &'static str {
        match self {
            Self::InvalidClient(Disbelief::NoCredential) => "no_credential",
            Self::InvalidClient(Disbelief::UnknownClient) => "unknown_client",
            Self::InvalidClient(Disbelief::OtherMethod) => "other_method",
            Self::InvalidClient(Disbelief::WrongSecret) => "wrong_secret",
            Self::InvalidClient(Disbelief::Replayed) => "assertion_replayed",
            Self::InvalidClient(Disbelief::Assertion(why)) => why.outcome(),
            Self::UnauthorizedClient => "client_disabled",
            Self::TooManyFailures { .. } => "too_many_failures",
            Self::InvalidRequest(_)
            | Self::UnsupportedGrantType
            | Self::InvalidScope(_)
            | Self::InvalidTarget
            | Self::Unavailable
            | Self::Internal => self.code(),
        }
    }
}

impl Disbelief {
    fn description(self) -> String {
        match self {
            Self::NoCredential => "authenticate with private_key_jwt, client_secret_basic or \
                                   client_secret_post"
                .to_owned(),
            Self::UnknownClient
            | Self::OtherMethod
            | Self::WrongSecret
            | Self::Assertion(AssertionError::Jws(_)) => "the client could not be authenticated".to_owned(),
            // Only the holder of the key gets here.
            Self::Assertion(why) => why.to_string(),
            Self::Replayed => "the assertion was used before: make a new jti for each request".to_owned(),
        }
    }
}

impl AssertionError {
    const fn outcome(self) -> &'static str {
        match self {
            Self::Jws(_) => "assertion_signature",
            Self::Type => "assertion_type",
            Self::Malformed => "assertion_malformed",
            Self::Subject => "assertion_subject",
            Self::Audience => "assertion_audience",
            Self::NoExpiry | Self::TooLong => "assertion_lifetime",
            Self::Expired | Self::Old => "assertion_expired",
            Self::NotYet => "assertion_not_yet",
            Self::NoId => "assertion_id",
        }
    }
}

impl TokenRequest {
    /// Reads a request: the `Authorization` header's value, if there is one, and the form.
    ///
    /// # Errors
    /// [`Refusal::InvalidRequest`], [`Refusal::UnsupportedGrantType`], [`Refusal::InvalidScope`],
    /// [`Refusal::InvalidClient`] without credential.
    pub fn parse(authorization: Option<&str>, form: &[u8]) -> Result<Self, Refusal> {
        let mut form = Form::parse(form)?;
        match form.take("grant_type").as_deref() {
            None => return Err(Refusal::InvalidRequest("grant_type is required")),
            Some(GRANT) => {}
            Some(_) => return Err(Refusal::UnsupportedGrantType),
        }
        let credential = credential(authorization, &mut form)?;
        let unknown = |_| Refusal::InvalidScope("a scope is unknown");
        let scope = form.take("scope").map(|text| text.parse().map_err(unknown)).transpose()?;
        Ok(Self { credential, scope, resources: form.resources })
    }
}

fn credential(authorization: Option<&str>, form: &mut Form) -> Result<Credential, Refusal> {
    let client = form.take("client_id");
    let secret = form.take("client_secret");
    let assertion = form.take("client_assertion");
    let assertion_type = form.take("client_assertion_type");
    let parsed = |id: &str| id.parse().ok();
    match (authorization, secret, assertion, assertion_type) {
        (Some(header), None, None, None) => {
            let (id, secret) = basic(header)?;
            if client.is_some_and(|client| client != id) {
                return Err(Refusal::InvalidRequest("client_id is not that of the Authorization header"));
            }
            Ok(Credential::Secret { client: parsed(&id), secret })
        }
        (None, Some(secret), None, None) => {
            let id = client.ok_or(Refusal::InvalidRequest("client_secret needs client_id"))?;
            Ok(Credential::Secret { client: parsed(&id), secret: Sensitive::new(secret) })
        }
        (None, None, Some(assertion), Some(kind)) => {
            if kind != assertion::TYPE {
                return Err(Refusal::InvalidClient(Disbelief::NoCredential));
            }
            let id = client.as_deref().map(|id| id.parse::<ClientId>()).transpose();
            let client = id.map_err(|_| Refusal::InvalidClient(Disbelief::UnknownClient))?;
            Ok(Credential::Assertion { client, assertion: Sensitive::new(assertion) })
        }
        (None, None, None, None) => Err(Refusal::InvalidClient(Disbelief::NoCredential)),
        (None, None, Some(_), None) | (None, None, None, Some(_)) => {
            Err(Refusal::InvalidRequest("client_assertion and client_assertion_type need each other"))
        }
        // RFC 6749 §2.3: not more than one method a request.
        (Some(_), ..) | (None, Some(_), ..) => {
            Err(Refusal::InvalidRequest("authenticate with one method only"))
        }
    }
}

/// `client_secret_basic`: both halves are form-encoded before they go into the header (RFC 6749 §2.3.1).
fn basic(header: &str) -> Result<(String, Sensitive<String>), Refusal> {
    const BROKEN: Refusal = Refusal::InvalidRequest("the Authorization header is not well-formed");
    let (scheme, encoded) = header.split_once(' ').ok_or(BROKEN)?;
    if !scheme.eq_ignore_ascii_case("Basic") {
        return Err(Refusal::InvalidClient(Disbelief::NoCredential));
    }
    let decoded = Sensitive::new(STANDARD.decode(encoded.trim()).map_err(|_| BROKEN)?);
    let colon = decoded.expose().iter().position(|byte| *byte == b':').ok_or(BROKEN)?;
    let (id, secret) = decoded.expose().split_at(colon);
    let secret = secret.get(1..).unwrap_or_default();
    Ok((unescape(id).ok_or(BROKEN)?, Sensitive::new(unescape(secret).ok_or(BROKEN)?)))
}

/// A form (application/x-www-form-urlencoded) in which no parameter comes twice (RFC 6749 §3.2).
struct Form {
    parameters: BTreeMap<String, String>,
    resources: Vec<String>,
}

impl Form {
    fn parse(body: &[u8]) -> Result<Self, Refusal> {
        let mut form = Self { parameters: BTreeMap::new(), resources: Vec::new() };
        for pair in body.split(|byte| *byte == b'&').filter(|pair| !pair.is_empty()) {
            let equals = pair.iter().position(|byte| *byte == b'=').unwrap_or(pair.len());
            let (name, value) = pair.split_at(equals);
            let (Some(name), Some(value)) = (unescape(name), unescape(value.get(1..).unwrap_or_default()))
            else {
                return Err(Refusal::InvalidRequest("the form is not well-formed"));
            };
            if name == RESOURCE {
                form.resources.push(value);
            } else if form.parameters.insert(name, value).is_some() {
                return Err(Refusal::InvalidRequest("a parameter is there twice"));
            }
        }
        Ok(form)
    }

    /// A parameter; one without value counts as left out (RFC 6749 §3.2).
    fn take(&mut self, name: &str) -> Option<String> {
        self.parameters.remove(name).filter(|value| !value.is_empty())
    }
}

/// Undoes the form's escapes; `None` for a broken escape or what is not UTF-8.
fn unescape(text: &[u8]) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let [first, tail @ ..] = rest {
        rest = tail;
        match first {
            b'+' => bytes.push(b' '),
            b'%' => {
                let [high, low, tail @ ..] = rest else { return None };
                let digit = |byte: &u8| char::from(*byte).to_digit(16);
                bytes.push(u8::try_from(digit(high)? * 16 + digit(low)?).ok()?);
                rest = tail;
            }
            byte => bytes.push(*byte),
        }
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ID: &str = "client-01010101010101010101010101010101";

    fn parse(form: &str) -> Result<TokenRequest, Refusal> {
        TokenRequest::parse(None, form.as_bytes())
    }

    fn with_header(header: &str, form: &str) -> Result<TokenRequest, Refusal> {
        TokenRequest::parse(Some(header), form.as_bytes())
    }

    #[test]
    fn reads_each_method() {
        let post =
            parse(&format!("grant_type=client_credentials&client_id={ID}&client_secret=s%2Bt")).unwrap();
        let Credential::Secret { client: Some(client), secret } = post.credential else { panic!() };
        assert_eq!((client.as_str(), secret.expose().as_str()), (ID, "s+t"));
        assert_eq!(post.scope, None);

        let basic = STANDARD.encode(format!("{ID}:s%3At:u"));
        let form =
            format!("grant_type=client_credentials&scope=message%3Asend+message:read&scopes=&client_id={ID}");
        let read = with_header(&format!("bAsIc {basic}"), &form).unwrap();
        let Credential::Secret { secret, .. } = read.credential else { panic!() };
        assert_eq!(secret.expose(), "s:t:u");
        assert_eq!(read.scope.unwrap().to_string(), "message:send message:read");

        let kind = "urn%3Aietf%3Aparams%3Aoauth%3Aclient-assertion-type%3Ajwt-bearer";
        let form = format!(
            "grant_type=client_credentials&client_assertion_type={kind}&client_assertion=a.b.c&resource=x&resource=y"
        );
        let read = parse(&form).unwrap();
        assert!(matches!(read.credential, Credential::Assertion { client: None, .. }));
        assert_eq!(read.resources, ["x", "y"]);
        assert!(!format!("{read:?}").contains("a.b.c"));
    }

    #[test]
    fn refuses_with_the_code_of_rfc_6749() {
        let start = "grant_type=client_credentials";
        let full = format!("{start}&client_id={ID}&client_secret=s");
        for (form, code) in [
            (String::new(), "invalid_request"),
            ("grant_type=".to_owned(), "invalid_request"),
            ("grant_type=password".to_owned(), "unsupported_grant_type"),
            (start.to_owned(), "invalid_client"),
            (format!("{start}&client_id={ID}"), "invalid_client"),
            (format!("{start}&client_secret=s"), "invalid_request"),
            (format!("{full}&grant_type=client_credentials"), "invalid_request"),
            (format!("{full}&x=1&x=1"), "invalid_request"),
            (format!("{full}&client_assertion=a&client_assertion_type=b"), "invalid_request"),
            (format!("{start}&client_assertion=a"), "invalid_request"),
            (format!("{start}&client_assertion_type=b"), "invalid_request"),
            (format!("{start}&client_assertion=a&client_assertion_type=b"), "invalid_client"),
            (format!("{full}&scope=message:send%20nothing"), "invalid_scope"),
            (format!("{full}&scope=%ZZ"), "invalid_request"),
            (format!("{full}&scope=%F"), "invalid_request"),
            (format!("{full}&scope=%ff"), "invalid_request"),
        ] {
            assert_eq!(parse(&form).unwrap_err().code(), code, "{form}");
        }
        for (header, form, code) in [
            ("Basic", start, "invalid_request"),
            ("Basic !", start, "invalid_request"),
            ("Basic bm9jb2xvbg==", start, "invalid_request"),
            ("Bearer abc", start, "invalid_client"),
            ("Basic YTpi", full.as_str(), "invalid_request"),
            ("Basic YTpi", "grant_type=client_credentials&client_id=other", "invalid_request"),
        ] {
            assert_eq!(with_header(header, form).unwrap_err().code(), code, "{header} {form}");
        }
        let unknown = with_header("Basic YTpi", start).unwrap();
        assert!(matches!(unknown.credential, Credential::Secret { client: None, .. }));
    }

    #[test]
    fn strangers_are_told_nothing() {
        let texts: Vec<_> = [Disbelief::UnknownClient, Disbelief::OtherMethod, Disbelief::WrongSecret]
            .into_iter()
            .map(|why| Refusal::InvalidClient(why).description())
            .collect();
        assert!(texts.iter().all(|text| *text == texts[0]));
    }

    proptest! {
        #[test]
        fn no_bytes_break_it(header in proptest::option::of("\\PC{0,80}|Basic [A-Za-z0-9+/=]{0,80}"), form: Vec<u8>) {
            let _any = TokenRequest::parse(header.as_deref(), &form);
        }
    }
}
