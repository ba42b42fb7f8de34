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
    let mut identity = ClientServiceClient::new(channel(dir, "identity")?);
    let key = NewKey::for_file(Credentials::owner_file(dir))?;
    let request = RedeemInvitationRequest {
        invitation: invitation.trim().to_owned(),
        authentication: Some(ClientAuthentication { method: Some(Method::PublicJwk(key.public_jwk())) }),
    };
    let response = identity.redeem_invitation(request).await.map_err(|status| {
        let error = refused("the invitation was refused", &status);
        if error.remedy().is_some() {
            return error;
        }
        // The answer to an earlier attempt may have been lost: then its key is the owner's.
        error.fix("it counts once, for seven days; if an earlier claim broke off, see docs/cli.md")
    })?;
    let client = response.into_inner().client.unwrap_or_default();
    let file = key.registered(&client.client_id, &client.tenant)?;
    std::fs::remove_file(&path).map_err(at(&path))?;
    output.json(&serde_json::json!({ "client_id": client.client_id, "credentials": file }))?;
    output.line(format!("you are the owner: client {}, credentials in {}", client.client_id, file.display()))
}
