//! `sotto owner claim`: redeems the invitation that `sotto init` made.

use sotto_proto::identity::v1::{
    ClientAuthentication, RedeemInvitationRequest, client_authentication::Method,
    client_service_client::ClientServiceClient,
};

use super::{channel, refused};
use crate::{
    CliError, Output,
    cell::CellDir,
    credentials::{Credentials, NewKey},
    error::at,
};

pub(crate) async fn claim(dir: &CellDir, output: &Output) -> Result<(), CliError> {
    let path = dir.path("owner-invitation");
    let invitation = std::fs::read_to_string(&path).map_err(at(&path)).map_err(|error| {
        error.fix("the invitation works once: use the owner's credentials in operator/owner.json")
    })?;
    let key = NewKey::generate()?;
    let request = RedeemInvitationRequest {
        invitation: invitation.trim().to_owned(),
        authentication: Some(ClientAuthentication { method: Some(Method::PublicJwk(key.public_jwk())) }),
    };
    let mut identity = ClientServiceClient::new(channel(dir, "identity")?);
    let response = identity
        .redeem_invitation(request)
        .await
        .map_err(|status| refused("the invitation was refused", &status))?;
    let client = response.into_inner().client.unwrap_or_default();
    let file = Credentials::owner_file(dir);
    key.registered(client.client_id.clone(), client.tenant).write(&file)?;
    std::fs::remove_file(&path).map_err(at(&path))?;
    output.json(&serde_json::json!({ "client_id": client.client_id, "credentials": file }))?;
    output.line(format!("you are the owner: client {}, credentials in {}", client.client_id, file.display()))
}
