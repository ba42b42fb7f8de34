//! `sotto.identity.v1.ClientService`: wire to work and back.

use std::{sync::Arc, time::Duration};

use sotto_core::{Classified as _, ErrorClass, Sensitive, TenantId};
use sotto_proto::{
    identity::v1::{
        Client as WireClient, ClientAuthentication, CreateClientRequest, CreateClientResponse,
        DisableClientRequest, DisableClientResponse, ListClientsRequest, ListClientsResponse,
        RedeemInvitationRequest, RedeemInvitationResponse,
        client_authentication::Method,
        client_service_server::{ClientService, ClientServiceServer},
    },
    to_wire_time,
};
use sotto_runtime::{grpc::peer_service, telemetry::chain, tls::PeerService};
use tonic::{Code, Request, Response, Status};
use tonic_types::{ErrorDetails, FieldViolation, StatusExt as _};

use crate::{
    app::clients::{Admin, Clients, Registered},
    domain::{
        Client, ClientId, Violation,
        client::{DraftText, WantedText, sender_text},
    },
    error::ClientsError,
    ports::StoreError,
};

/// Who our error reasons belong to (google.rpc.ErrorInfo).
const ERROR_DOMAIN: &str = "identity.sotto.internal";

/// The largest request (bytes): fifty senders and a key, with room to spare.
const MAX_REQUEST: usize = 64 * 1024;

const DEFAULT_PAGE: u32 = 100;
const MAX_PAGE: u32 = 1_000;

/// The service on the wire.
#[derive(Clone, Debug)]
pub struct ClientServer(Arc<Clients>);

impl ClientServer {
    /// The gRPC service over `clients`.
    pub fn service(clients: Arc<Clients>) -> ClientServiceServer<Self> {
        ClientServiceServer::new(Self(clients)).max_decoding_message_size(MAX_REQUEST)
    }

    /// Lets in the operator's tool with an operator's token.
    async fn admin<T>(&self, request: &Request<T>) -> Result<Admin, Status> {
        at_the_tool(request)?;
        let header = request.metadata().get("authorization").and_then(|value| value.to_str().ok());
        let token = header
            .and_then(|text| text.split_once(' '))
            .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("Bearer"));
        let (_, token) = token.ok_or_else(|| {
            Status::unauthenticated("an access token is required: authorization: Bearer ...")
        })?;
        self.0.authorize(&Sensitive::new(token.to_owned())).await.map_err(|e| status(&e))
    }
}

#[tonic::async_trait]
impl ClientService for ClientServer {
    async fn redeem_invitation(
        &self,
        request: Request<RedeemInvitationRequest>,
    ) -> Result<Response<RedeemInvitationResponse>, Status> {
        at_the_tool(&request)?;
        let RedeemInvitationRequest { invitation, authentication } = request.into_inner();
        let invitation = Sensitive::new(invitation);
        let redeemed = self.0.redeem(&invitation, wanted(authentication.as_ref())).await;
        let (client, client_secret) = registered(redeemed.map_err(|e| status(&e))?);
        Ok(Response::new(RedeemInvitationResponse { client: Some(client), client_secret }))
    }

    async fn create_client(
        &self,
        request: Request<CreateClientRequest>,
    ) -> Result<Response<CreateClientResponse>, Status> {
        let admin = self.admin(&request).await?;
        let request = request.get_ref();
        let draft = DraftText {
            tenant: &request.tenant,
            name: &request.name,
            scopes: &request.scopes,
            senders: &request.senders,
            authentication: wanted(request.authentication.as_ref()),
        };
        let created = self.0.create(&admin, draft).await.map_err(|e| status(&e))?;
        let (client, client_secret) = registered(created);
        Ok(Response::new(CreateClientResponse { client: Some(client), client_secret }))
    }

    async fn list_clients(
        &self,
        request: Request<ListClientsRequest>,
    ) -> Result<Response<ListClientsResponse>, Status> {
        let admin = self.admin(&request).await?;
        let page = Page::read(request.get_ref()).map_err(|wrong| status(&ClientsError::Fields(wrong)))?;
        let listed = self.0.list(&admin, page.tenant.as_ref(), page.after.as_ref(), page.size).await;
        let (clients, more) = listed.map_err(|e| status(&e))?;
        let next = clients.last().filter(|_| more).map(|client| client.id.to_string());
        let clients = clients.iter().map(wire).collect();
        Ok(Response::new(ListClientsResponse { clients, next_page_token: next.unwrap_or_default() }))
    }

    async fn disable_client(
        &self,
        request: Request<DisableClientRequest>,
    ) -> Result<Response<DisableClientResponse>, Status> {
        let admin = self.admin(&request).await?;
        let id = request.get_ref().client_id.parse::<ClientId>();
        let id = id.map_err(|e| status(&ClientsError::Fields(vec![Violation::new("client_id", e)])))?;
        let client = self.0.disable(&admin, &id).await.map_err(|e| status(&e))?;
        Ok(Response::new(DisableClientResponse { client: Some(wire(&client)) }))
    }
}

/// Only the operator's tool comes here: a service of the cell has no use for it, so one that was broken into cannot
/// use an owner's token that it came by.
fn at_the_tool<T>(request: &Request<T>) -> Result<(), Status> {
    if peer_service(request)? == PeerService::Operator {
        return Ok(());
    }
    let mut details = ErrorDetails::new();
    details.set_error_info("OPERATOR_CERTIFICATE_REQUIRED", ERROR_DOMAIN, std::collections::HashMap::new());
    let message = "clients are registered with the operator's certificate only";
    Err(Status::with_error_details(Code::PermissionDenied, message, details))
}

/// Which clients are asked for. The token of the next page is the last client's id.
struct Page {
    tenant: Option<TenantId>,
    after: Option<ClientId>,
    size: usize,
}

impl Page {
    fn read(request: &ListClientsRequest) -> Result<Self, Vec<Violation>> {
        let mut wrong = Vec::new();
        let tenant = optional(&request.tenant, "tenant", &mut wrong);
        let after = optional(&request.page_token, "page_token", &mut wrong);
        let size = match request.page_size {
            0 => DEFAULT_PAGE,
            size => size,
        };
        if size > MAX_PAGE {
            wrong.push(Violation::new("page_size", format!("must be 1 to {MAX_PAGE}")));
        }
        let size = usize::try_from(size).unwrap_or(usize::MAX);
        if wrong.is_empty() { Ok(Self { tenant, after, size }) } else { Err(wrong) }
    }
}

fn optional<T: std::str::FromStr<Err: std::fmt::Display>>(
    text: &str,
    field: &str,
    wrong: &mut Vec<Violation>,
) -> Option<T> {
    if text.is_empty() {
        return None;
    }
    text.parse().map_err(|e| wrong.push(Violation::new(field, e))).ok()
}

fn wanted(authentication: Option<&ClientAuthentication>) -> WantedText<'_> {
    match authentication.and_then(|authentication| authentication.method.as_ref()) {
        None => WantedText::Nothing,
        Some(Method::PublicJwk(text)) => WantedText::Jwk(text),
        Some(Method::GenerateSecret(made)) => WantedText::Secret(*made),
    }
}

fn registered(registered: Registered) -> (WireClient, String) {
    let secret = registered.secret.map(|secret| secret.expose().clone());
    (wire(&registered.client), secret.unwrap_or_default())
}

fn wire(client: &Client) -> WireClient {
    WireClient {
        client_id: client.id.to_string(),
        tenant: client.tenant.to_string(),
        name: client.name.clone(),
        scopes: client.scopes.iter().map(|scope| scope.as_str().to_owned()).collect(),
        enabled: client.is_enabled(),
        created_at: Some(to_wire_time(client.created_at)),
        senders: client.senders.iter().map(sender_text).collect(),
    }
}

fn status(error: &ClientsError) -> Status {
    let mut details = ErrorDetails::new();
    let (code, reason, message) = match error {
        ClientsError::Token(why) => (Code::Unauthenticated, "INVALID_TOKEN", why.to_string()),
        ClientsError::Disabled => (Code::Unauthenticated, "CLIENT_DISABLED", error.to_string()),
        ClientsError::Scope(_) => (Code::PermissionDenied, "INSUFFICIENT_SCOPE", error.to_string()),
        ClientsError::Invitation(why) => (Code::PermissionDenied, "INVITATION_REFUSED", why.to_string()),
        ClientsError::Store(why @ StoreError::Redeemed) => {
            (Code::PermissionDenied, "INVITATION_REFUSED", why.to_string())
        }
        ClientsError::Fields(wrong) => {
            details.set_bad_request(wrong.iter().map(violation).collect::<Vec<_>>());
            (Code::InvalidArgument, "INVALID_FIELDS", first(wrong))
        }
        ClientsError::Store(why @ StoreError::UnknownClient) => {
            (Code::NotFound, "UNKNOWN_CLIENT", why.to_string())
        }
        ClientsError::Store(why @ StoreError::Full) => {
            (Code::ResourceExhausted, "TOO_MANY_CLIENTS", why.to_string())
        }
        ClientsError::InvitationFile(_)
        | ClientsError::Store(StoreError::Failed(_))
        | ClientsError::Keystore(_)
        | ClientsError::Crypto(_)
        | ClientsError::Blocking(_) => {
            tracing::error!(error = chain(error), "a request about clients failed");
            match error.class() {
                ErrorClass::Retry { after } => return unavailable(after),
                ErrorClass::Reject | ErrorClass::Poison | ErrorClass::Bug => {
                    (Code::Internal, "INTERNAL", "the request failed: see identity's log".to_owned())
                }
            }
        }
    };
    details.set_error_info(reason, ERROR_DOMAIN, std::collections::HashMap::new());
    Status::with_error_details(code, message, details)
}

fn unavailable(after: Duration) -> Status {
    let mut details = ErrorDetails::new();
    details.set_retry_info(Some(after));
    details.set_error_info("UNAVAILABLE", ERROR_DOMAIN, std::collections::HashMap::new());
    Status::with_error_details(Code::Unavailable, "the clients cannot be changed now", details)
}

fn violation(violation: &Violation) -> FieldViolation {
    FieldViolation {
        field: violation.field.clone(),
        description: violation.description.clone(),
        reason: "INVALID".to_owned(),
        localized_message: None,
    }
}

fn first(wrong: &[Violation]) -> String {
    wrong.first().map(|wrong| format!("{} {}", wrong.field, wrong.description)).unwrap_or_default()
}
