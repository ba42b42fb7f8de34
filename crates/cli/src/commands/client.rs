//! `sotto client create | list | disable`: the programs that may send.

use sotto_core::Clock;
use sotto_proto::identity::v1::{
    ClientAuthentication, CreateClientRequest, DisableClientRequest, ListClientsRequest,
    client_authentication::Method, client_service_client::ClientServiceClient,
};

use tonic::Code;

use super::{authorised, channel, refused};
use crate::{
    CliError, Output, Tone,
    cell::CellDir,
    credentials::{Credentials, NewKey},
};

/// A client to be made.
#[derive(Debug, clap::Args)]
pub(crate) struct NewClient {
    /// Name: also of the file clients/NAME.json that holds its credentials
    #[arg(long)]
    name: String,
    /// Tenant it acts for (a-z, 0-9, -)
    #[arg(long)]
    tenant: String,
    /// Scope it may ask for; repeat for several
    #[arg(long = "scope", default_values_t = ["message:send".to_owned(), "message:read".to_owned()])]
    scopes: Vec<String>,
    /// Brandname, short code or number its messages may come from; repeat for several
    #[arg(long = "sender")]
    senders: Vec<String>,
}

impl NewClient {
    /// One that may send from one sender, and read.
    pub(crate) fn new(name: &str, tenant: &str, sender: &str) -> Self {
        Self {
            name: name.to_owned(),
            tenant: tenant.to_owned(),
            scopes: vec!["message:send".to_owned(), "message:read".to_owned()],
            senders: vec![sender.to_owned()],
        }
    }
}

pub(crate) async fn create(
    dir: &CellDir,
    new: NewClient,
    clock: &dyn Clock,
    output: &Output,
) -> Result<(), CliError> {
    let plain =
        !new.name.is_empty() && new.name.chars().all(|c| c.is_ascii_alphanumeric() || "-_".contains(c));
    if !plain {
        return Err(CliError::new("the name becomes a file's").fix("use letters, digits, - and _ in --name"));
    }
    let file = Credentials::client_file(dir, &new.name);
    if file.exists() {
        return Err(CliError::new(format!("{} is there already", file.display())).fix("take another --name"));
    }
    let token = owner(dir)?.token(dir, "admin:clients", clock).await?;
    let mut identity = ClientServiceClient::new(channel(dir, "identity")?);
    let key = NewKey::for_file(file)?;
    let request = CreateClientRequest {
        tenant: new.tenant,
        name: new.name,
        scopes: new.scopes,
        authentication: Some(ClientAuthentication { method: Some(Method::PublicJwk(key.public_jwk())) }),
        senders: new.senders,
    };
    let client = match identity.create_client(authorised(request, &token)?).await {
        Ok(response) => response.into_inner().client.unwrap_or_default(),
        Err(status) => {
            if !is_doubtful(status.code()) {
                key.forget();
            }
            return Err(refused("the client was refused", &status));
        }
    };
    let file = key.registered(&client.client_id, &client.tenant)?;
    output.json(
        &serde_json::json!({ "client_id": client.client_id, "tenant": client.tenant, "credentials": file }),
    )?;
    output.line(format!(
        "client {} of tenant {}, credentials in {}",
        client.client_id,
        client.tenant,
        file.display()
    ))
}

pub(crate) async fn list(dir: &CellDir, clock: &dyn Clock, output: &Output) -> Result<(), CliError> {
    let token = owner(dir)?.token(dir, "admin:clients", clock).await?;
    let mut identity = ClientServiceClient::new(channel(dir, "identity")?);
    let mut page_token = String::new();
    loop {
        let request = ListClientsRequest { page_size: 100, page_token, ..Default::default() };
        let page = identity
            .list_clients(authorised(request, &token)?)
            .await
            .map_err(|status| refused("the clients cannot be listed", &status))?
            .into_inner();
        for client in page.clients {
            output.json(&serde_json::json!({
                "client_id": client.client_id, "tenant": client.tenant, "name": client.name,
                "scopes": client.scopes, "enabled": client.enabled,
            }))?;
            let tone = if client.enabled { Tone::Plain } else { Tone::Faint };
            let state = if client.enabled { "" } else { " (disabled)" };
            let line = format!(
                "{}  {}  {}  {}{state}",
                client.client_id,
                client.tenant,
                client.name,
                client.scopes.join(" ")
            );
            output.line(output.tone(tone, &line))?;
        }
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return Ok(());
        }
    }
}

pub(crate) async fn disable(
    dir: &CellDir,
    client_id: String,
    clock: &dyn Clock,
    output: &Output,
) -> Result<(), CliError> {
    let token = owner(dir)?.token(dir, "admin:clients", clock).await?;
    let mut identity = ClientServiceClient::new(channel(dir, "identity")?);
    identity
        .disable_client(authorised(DisableClientRequest { client_id: client_id.clone() }, &token)?)
        .await
        .map_err(|status| refused("the client cannot be disabled", &status))?;
    output.json(&serde_json::json!({ "client_id": client_id, "enabled": false }))?;
    output.line(format!("client {client_id} gets no more tokens; those it has end within 10 minutes"))
}

/// Whether the service may have done it all the same.
const fn is_doubtful(code: Code) -> bool {
    match code {
        Code::Ok
        | Code::Cancelled
        | Code::Unknown
        | Code::DeadlineExceeded
        | Code::Aborted
        | Code::Internal
        | Code::Unavailable
        | Code::DataLoss => true,
        Code::InvalidArgument
        | Code::NotFound
        | Code::AlreadyExists
        | Code::PermissionDenied
        | Code::ResourceExhausted
        | Code::FailedPrecondition
        | Code::OutOfRange
        | Code::Unimplemented
        | Code::Unauthenticated => false,
    }
}

fn owner(dir: &CellDir) -> Result<Credentials, CliError> {
    Credentials::read(&Credentials::owner_file(dir), "become the owner first: sotto owner claim")
}
