//! The token endpoint: authenticates a client, grants scopes, signs.

use std::{
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use sotto_core::{Classified as _, Clock, ErrorClass, Sensitive, Timestamp};
use sotto_crypto::{compare, random::random_array};
use sotto_keystore::{Keystore, KeystoreError};
use sotto_runtime::telemetry::chain;
use tokio::time::Instant;

use super::{SECRETS_RING, keys::TokenKeys, secret_digest};
use crate::{
    domain::{
        AccessClaims, Authentication, Client, ClientId, Credential, Refusal, Scopes, TokenRequest,
        access::Parties,
        assertion::{self, AssertionError},
        jws::Compact,
        request::Disbelief,
        secret,
        throttle::{Limits, Throttle},
    },
    error::keystore_class,
    metrics::IdentityMetrics,
    ports::{Act, AuditTrail, Category, ClientStore, ReplayGuard},
};

/// What the endpoint works with.
#[derive(Debug)]
pub struct Deps {
    /// Who issues tokens and for whom.
    pub parties: Parties,
    /// How long a token is good for.
    pub lifetime: Duration,
    /// How many failed attempts are taken.
    pub limits: Limits,
    /// The signing keys.
    pub keys: TokenKeys,
    /// Digests of secrets.
    pub keystore: Arc<dyn Keystore>,
    /// The clients.
    pub store: Arc<dyn ClientStore>,
    /// Used assertions.
    pub replay: Arc<dyn ReplayGuard>,
    /// Where acts are told.
    pub audit: Arc<dyn AuditTrail>,
    /// The wall clock.
    pub clock: Arc<dyn Clock>,
    /// What is counted.
    pub metrics: IdentityMetrics,
}

/// A token and what it grants.
#[derive(Debug)]
pub struct Issued {
    /// The signed token.
    pub access_token: Sensitive<String>,
    /// How long it is good for.
    pub lifetime: Duration,
    /// What was granted.
    pub scopes: Scopes,
}

/// The token endpoint.
#[derive(Debug)]
pub struct Tokens {
    deps: Deps,
    throttle: Mutex<Throttle>,
}

impl Tokens {
    /// The endpoint, with no failed attempts yet.
    pub fn new(deps: Deps) -> Self {
        let throttle = Mutex::new(Throttle::new(deps.limits));
        Self { deps, throttle }
    }

    /// Who issues tokens and for whom.
    pub fn parties(&self) -> &Parties {
        &self.deps.parties
    }

    /// The signing keys.
    pub fn keys(&self) -> &TokenKeys {
        &self.deps.keys
    }

    /// Answers a token request: the `Authorization` header's value, the form, and where it comes from.
    ///
    /// # Errors
    /// Why there is no token.
    pub async fn issue(
        &self,
        authorization: Option<&str>,
        form: &[u8],
        source: IpAddr,
    ) -> Result<Issued, Refusal> {
        let began = Instant::now();
        let answer = self.answer(authorization, form, source).await;
        self.deps.metrics.asked(&answer, began.elapsed());
        answer
    }

    async fn answer(
        &self,
        authorization: Option<&str>,
        form: &[u8],
        source: IpAddr,
    ) -> Result<Issued, Refusal> {
        let now = self.deps.clock.now();
        self.check_limits(None, source, now)?;
        let request = TokenRequest::parse(authorization, form)
            .inspect_err(|refusal| self.refused(*refusal, None, source, now))?;
        let claimed = request.credential.claimed_client();
        self.check_limits(claimed.as_ref(), source, now)?;
        let granted = self.grant(&request, claimed.as_ref(), now).await;
        granted.inspect_err(|refusal| self.refused(*refusal, claimed, source, now))
    }

    /// Attempts over the limit are not told one by one: reaching the limit was.
    fn check_limits(&self, client: Option<&ClientId>, source: IpAddr, now: Timestamp) -> Result<(), Refusal> {
        let waits = self.throttle().check(client, source, now);
        waits.map_err(|retry_after| Refusal::TooManyFailures { retry_after })
    }

    async fn grant(
        &self,
        request: &TokenRequest,
        claimed: Option<&ClientId>,
        now: Timestamp,
    ) -> Result<Issued, Refusal> {
        let client = self.authenticate(&request.credential, claimed, now).await?;
        if !client.is_enabled() {
            return Err(Refusal::UnauthorizedClient);
        }
        let scopes = request.scope.clone().unwrap_or_else(|| client.scopes.clone());
        if !scopes.is_within(&client.scopes) {
            return Err(Refusal::InvalidScope("a scope is not among those the client is registered with"));
        }
        if request.resources.iter().any(|resource| *resource != self.deps.parties.audience) {
            return Err(Refusal::InvalidTarget);
        }
        let jti = random_array::<16>().map_err(|e| internal(&e))?;
        let lifetime = self.deps.lifetime;
        let claims = AccessClaims::new(&self.deps.parties, &client, &scopes, &jti, now, lifetime);
        let access_token = self.deps.keys.sign(&claims).await.map_err(|e| failed(&e, e.class()))?;
        self.tell("token.issued", Some(client.id), Some(client.tenant), claims.jti, "ok", now);
        Ok(Issued { access_token: Sensitive::new(access_token), lifetime, scopes })
    }

    async fn authenticate(
        &self,
        credential: &Credential,
        claimed: Option<&ClientId>,
        now: Timestamp,
    ) -> Result<Client, Refusal> {
        let found = match claimed {
            Some(id) => self.deps.store.find(id).await.map_err(|e| internal(&e))?,
            None => None,
        };
        match credential {
            Credential::Secret { secret, .. } => self.check_secret(found, secret).await,
            Credential::Assertion { client, assertion } => {
                // RFC 7521 §4.2: client_id, if it is there, is the assertion's subject.
                let same = client.is_none() || client.as_ref() == subject(assertion).as_ref();
                let found = found.filter(|_| same).ok_or(disbelief(Disbelief::UnknownClient))?;
                self.check_assertion(found, assertion, now).await
            }
        }
    }

    async fn check_secret(
        &self,
        found: Option<Client>,
        secret: &Sensitive<String>,
    ) -> Result<Client, Refusal> {
        let Some(client) = found else {
            // The same work as for a client that exists: time tells nobody which ids there are.
            self.digest(ClientId::from_random(&[0; 16]), None, secret).await?;
            return Err(disbelief(Disbelief::UnknownClient));
        };
        let Authentication::ClientSecret { key_id, digest } = &client.authentication else {
            self.digest(client.id.clone(), None, secret).await?;
            return Err(disbelief(Disbelief::OtherMethod));
        };
        let given = self.digest(client.id.clone(), Some(key_id.clone()), secret).await?;
        if compare::equal(&given, digest) && secret::is_well_formed(secret.expose()) {
            Ok(client)
        } else {
            Err(disbelief(Disbelief::WrongSecret))
        }
    }

    /// A secret's digest by the key that made the client's, or by the current one.
    async fn digest(
        &self,
        client: ClientId,
        key_id: Option<String>,
        secret: &Sensitive<String>,
    ) -> Result<[u8; 32], Refusal> {
        let secret = secret.clone();
        let work = move |keystore: &dyn Keystore| {
            let key_id = match key_id {
                Some(key_id) => key_id,
                None => keystore.current(SECRETS_RING)?.id,
            };
            secret_digest(keystore, &key_id, &client, &secret)
        };
        let failed = |e: KeystoreError| failed(&e, keystore_class(&e));
        super::blocking(&self.deps.keystore, |e| internal(&e), failed, work).await
    }

    async fn check_assertion(
        &self,
        client: Client,
        assertion: &Sensitive<String>,
        now: Timestamp,
    ) -> Result<Client, Refusal> {
        let Authentication::PrivateKeyJwt(key) = &client.authentication else {
            return Err(disbelief(Disbelief::OtherMethod));
        };
        let wrong = |why: AssertionError| disbelief(Disbelief::Assertion(why));
        let parsed = Compact::parse(assertion.expose()).map_err(|e| wrong(AssertionError::Jws(e)))?;
        let once =
            assertion::check(&parsed, &client.id, key, &self.deps.parties.issuer, now).map_err(wrong)?;
        match self.deps.replay.first_use(&once, now).await {
            Ok(true) => Ok(client),
            Ok(false) => Err(disbelief(Disbelief::Replayed)),
            Err(unknown) => {
                // Without the memory of used assertions each would count again: fail closed.
                tracing::warn!(error = chain(&unknown), "an assertion was refused");
                Err(Refusal::Unavailable)
            }
        }
    }

    fn refused(&self, refusal: Refusal, claimed: Option<ClientId>, source: IpAddr, now: Timestamp) {
        let outcome = refusal.outcome();
        match refusal {
            Refusal::InvalidClient(why) => {
                let limited = self.throttle().failed(claimed.as_ref(), source, now);
                // An id that nobody has is a stranger's text: it does not go into the log.
                let known = claimed.filter(|_| why != Disbelief::UnknownClient);
                let object = known.map(|client| client.to_string()).unwrap_or_default();
                self.tell("token.refused", None, None, object.clone(), outcome, now);
                if limited {
                    self.tell("token.limited", None, None, object, "too_many_failures", now);
                }
            }
            Refusal::UnauthorizedClient
            | Refusal::InvalidScope(_)
            | Refusal::InvalidTarget
            | Refusal::Unavailable => {
                // Without a client it was only a malformed request.
                if let Some(client) = claimed {
                    self.tell("token.refused", Some(client), None, String::new(), outcome, now);
                }
            }
            Refusal::InvalidRequest(_)
            | Refusal::UnsupportedGrantType
            | Refusal::TooManyFailures { .. }
            | Refusal::Internal => {}
        }
    }

    fn tell(
        &self,
        action: &'static str,
        actor: Option<ClientId>,
        tenant: Option<sotto_core::TenantId>,
        object: String,
        outcome: &'static str,
        now: Timestamp,
    ) {
        let category = Category::Authentication;
        self.deps.audit.tell(Act { category, action, actor, tenant, object, outcome }, now);
    }

    fn throttle(&self) -> MutexGuard<'_, Throttle> {
        self.throttle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Credential {
    /// Whom the request claims to come from.
    fn claimed_client(&self) -> Option<ClientId> {
        match self {
            Self::Secret { client, .. } => client.clone(),
            Self::Assertion { client: Some(client), .. } => Some(client.clone()),
            Self::Assertion { client: None, assertion } => subject(assertion),
        }
    }
}

fn subject(assertion: &Sensitive<String>) -> Option<ClientId> {
    assertion::claimed_client(&Compact::parse(assertion.expose()).ok()?)
}

const fn disbelief(why: Disbelief) -> Refusal {
    Refusal::InvalidClient(why)
}

/// A keystore that may work again in a moment is worth another try.
fn failed(error: &(dyn std::error::Error + 'static), class: ErrorClass) -> Refusal {
    match class {
        ErrorClass::Retry { .. } => {
            tracing::warn!(error = chain(error), "no token can be made now");
            Refusal::Unavailable
        }
        ErrorClass::Reject | ErrorClass::Poison | ErrorClass::Bug => internal(error),
    }
}

fn internal(error: &(dyn std::error::Error + 'static)) -> Refusal {
    tracing::error!(error = chain(error), "no token could be made");
    Refusal::Internal
}
