//! Registering clients: who may, and what becomes durable before the answer.

use std::sync::Arc;

use sotto_core::{Clock, Sensitive, TenantId, Timestamp};
use sotto_crypto::random::random_array;
use sotto_keystore::Keystore;

use super::{SECRETS_RING, keys::TokenKeys, secret_digest};
use crate::{
    domain::{
        Authentication, Client, ClientId, Draft, Scope, Scopes, TokenRefused,
        access::{self, Parties},
        client::{DraftText, Wanted, WantedText},
        invitation::InvitationRefused,
        secret,
    },
    error::ClientsError,
    ports::{Act, AuditTrail, Category, ClientStore, Invitations, StoreError},
};

/// What registration works with.
#[derive(Debug)]
pub struct Deps {
    /// Who issues tokens and for whom.
    pub parties: Parties,
    /// The environment's name in secrets.
    pub environment: String,
    /// The signing keys, to check callers' tokens.
    pub keys: TokenKeys,
    /// Digests of secrets.
    pub keystore: Arc<dyn Keystore>,
    /// The clients.
    pub store: Arc<dyn ClientStore>,
    /// The owner's invitation.
    pub invitations: Arc<dyn Invitations>,
    /// Where acts are told.
    pub audit: Arc<dyn AuditTrail>,
    /// The wall clock.
    pub clock: Arc<dyn Clock>,
}

/// A client just registered.
#[derive(Debug)]
pub struct Registered {
    /// The client.
    pub client: Client,
    /// Its secret, if it wanted one: shown now and never again.
    pub secret: Option<Sensitive<String>>,
}

/// An operator who may register clients.
#[derive(Debug)]
pub struct Admin(ClientId);

/// Registration.
#[derive(Debug)]
pub struct Clients(Deps);

impl Clients {
    /// Registration on these parts.
    pub fn new(deps: Deps) -> Self {
        Self(deps)
    }

    /// Lets in who has a token with `admin:clients` of a client that is still enabled.
    ///
    /// # Errors
    /// Why not.
    pub async fn authorize(&self, token: &Sensitive<String>) -> Result<Admin, ClientsError> {
        let keys = self.0.keys.published();
        let claims = access::verify(token.expose(), &keys, &self.0.parties, self.0.clock.now())
            .map_err(ClientsError::Token)?;
        let id: ClientId = claims.client_id.parse().map_err(|_| ClientsError::Token(TokenRefused::Claims))?;
        let needed = Scope::AdminClients;
        if !claims.scope.parse::<Scopes>().is_ok_and(|scopes| scopes.contains(needed)) {
            return Err(ClientsError::Scope(needed.as_str()));
        }
        // Elsewhere a token counts until it ends; here the store is at hand, so disabling works at once.
        let client = self.0.store.find(&id).await.map_err(ClientsError::Store)?;
        if client.is_some_and(|client| client.is_enabled()) {
            Ok(Admin(id))
        } else {
            Err(ClientsError::Disabled)
        }
    }

    /// Redeems the owner's invitation. It counts as redeemed before the answer.
    ///
    /// # Errors
    /// Why it is not taken.
    pub async fn redeem(
        &self,
        text: &Sensitive<String>,
        authentication: WantedText<'_>,
    ) -> Result<Registered, ClientsError> {
        let now = self.0.clock.now();
        let draft = Draft::owner(authentication).map_err(ClientsError::Fields)?;
        let redeemed = self.redeem_checked(text, draft, now).await;
        match &redeemed {
            Ok(owner) => {
                let client = &owner.client;
                self.tell("invitation.redeemed", Some(client.id.clone()), client, now);
            }
            Err(ClientsError::Invitation(_) | ClientsError::Store(StoreError::Redeemed)) => {
                let (category, action) = (Category::Authentication, "invitation.refused");
                let object = String::new();
                let act = Act {
                    category,
                    action,
                    actor: None,
                    tenant: None,
                    object,
                    outcome: "invitation_refused",
                };
                self.0.audit.tell(act, now);
            }
            Err(
                ClientsError::Token(_)
                | ClientsError::Disabled
                | ClientsError::Scope(_)
                | ClientsError::Fields(_)
                | ClientsError::InvitationFile(_)
                | ClientsError::Store(_)
                | ClientsError::Keystore(_)
                | ClientsError::Crypto(_)
                | ClientsError::Blocking(_),
            ) => {}
        }
        redeemed
    }

    async fn redeem_checked(
        &self,
        text: &Sensitive<String>,
        draft: Draft,
        now: Timestamp,
    ) -> Result<Registered, ClientsError> {
        let invitation = self.0.invitations.read().await.map_err(ClientsError::InvitationFile)?;
        let invitation = invitation.ok_or(ClientsError::Invitation(InvitationRefused::Wrong))?;
        invitation.check(text, now).map_err(ClientsError::Invitation)?;
        self.register(draft, Some(invitation.hash), now).await
    }

    /// Registers a client.
    ///
    /// # Errors
    /// What is wrong with it, or why it could not be done.
    pub async fn create(&self, admin: &Admin, draft: DraftText<'_>) -> Result<Registered, ClientsError> {
        let now = self.0.clock.now();
        let draft = Draft::check(draft).map_err(ClientsError::Fields)?;
        let registered = self.register(draft, None, now).await?;
        self.tell("client.created", Some(admin.0.clone()), &registered.client, now);
        Ok(registered)
    }

    /// At most `limit` clients after `after`, and whether there are more.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn list(
        &self,
        _: &Admin,
        tenant: Option<&TenantId>,
        after: Option<&ClientId>,
        limit: usize,
    ) -> Result<(Vec<Client>, bool), ClientsError> {
        let page = self.0.store.page(tenant, after, limit.saturating_add(1)).await;
        let mut page = page.map_err(ClientsError::Store)?;
        let more = page.len() > limit;
        page.truncate(limit);
        Ok((page, more))
    }

    /// Disables a client.
    ///
    /// # Errors
    /// When there is no such client, or the store fails.
    pub async fn disable(&self, admin: &Admin, id: &ClientId) -> Result<Client, ClientsError> {
        let now = self.0.clock.now();
        let client = self.0.store.disable(id, now).await.map_err(ClientsError::Store)?;
        self.tell("client.disabled", Some(admin.0.clone()), &client, now);
        Ok(client)
    }

    async fn register(
        &self,
        draft: Draft,
        redeems: Option<[u8; 32]>,
        now: Timestamp,
    ) -> Result<Registered, ClientsError> {
        let id = ClientId::from_random(&random_array().map_err(ClientsError::Crypto)?);
        let (authentication, secret) = match &draft.authentication {
            Wanted::Key(key) => (Authentication::PrivateKeyJwt(*key), None),
            Wanted::Secret => {
                let random = random_array().map_err(ClientsError::Crypto)?;
                let secret = secret::render(&self.0.environment, &random);
                (self.digest(id.clone(), secret.clone()).await?, Some(secret))
            }
        };
        let client = draft.register(id, authentication, now);
        self.0.store.add(client.clone(), redeems).await.map_err(ClientsError::Store)?;
        Ok(Registered { client, secret })
    }

    async fn digest(&self, id: ClientId, secret: Sensitive<String>) -> Result<Authentication, ClientsError> {
        super::blocking(&self.0.keystore, ClientsError::Blocking, ClientsError::Keystore, move |keystore| {
            let key_id = keystore.current(SECRETS_RING)?.id;
            let digest = secret_digest(keystore, &key_id, &id, &secret)?;
            Ok(Authentication::ClientSecret { key_id, digest })
        })
        .await
    }

    fn tell(&self, action: &'static str, actor: Option<ClientId>, client: &Client, now: Timestamp) {
        let (category, tenant) = (Category::Configuration, Some(client.tenant.clone()));
        let object = client.id.to_string();
        self.0.audit.tell(Act { category, action, actor, tenant, object, outcome: "ok" }, now);
    }
}
