//! `sotto subject find`: the messages that a number got, for the person whose number it is.

use std::{collections::HashSet, path::PathBuf};

use sotto_core::{Clock, Sensitive, number::E164};
use sotto_proto::{
    from_wire_time,
    message::v1::{FindMessagesRequest, message_service_client::MessageServiceClient},
};

use super::{
    authorised, channel, refused,
    send::{client, standard_input},
};
use crate::{CliError, Output, cell::CellDir};

/// Finds them. The number comes from a file or standard input: what stands on a command line other users of the machine see.
pub(crate) async fn find(
    dir: &CellDir,
    name: &str,
    file: Option<PathBuf>,
    clock: &dyn Clock,
    output: &Output,
) -> Result<(), CliError> {
    let number = match file {
        None => standard_input()?,
        Some(file) => std::fs::read_to_string(&file)
            .map_err(|error| CliError::caused_by(format!("{} cannot be read", file.display()), &error))?,
    };
    let number = Sensitive::new(number);
    let text = number.expose().trim();
    let masked = E164::parse(text)
        .map_err(|error| CliError::caused_by("this is not a number", &error).fix("give one number, alone"))?
        .masked();
    let credentials = client(dir, name)?;
    let mut ingress = MessageServiceClient::new(channel(dir, "ingress")?);
    let mut told = HashSet::new();
    let mut page_token = String::new();
    loop {
        // A long search may outlive a token.
        let token = credentials.token(dir, "subject:read", clock).await?;
        let request = FindMessagesRequest { number: text.to_owned(), page_token };
        let answer = ingress.find_messages(authorised(request, &token)?).await;
        let part = answer.map_err(|status| refused("the messages cannot be found", &status))?.into_inner();
        for found in part.messages {
            let from = found.accepted_from.map(from_wire_time).map(|at| at.to_string()).unwrap_or_default();
            if told.insert(found.message_id.clone()) {
                output.json(&serde_json::json!({
                    "message_id": found.message_id, "accepted_from": from,
                }))?;
                output.line(format!("{}  accepted in the hour from {from}", found.message_id))?;
            }
        }
        if part.next_page_token.is_empty() {
            break;
        }
        page_token = part.next_page_token;
    }
    output.json(&serde_json::json!({ "number": masked.to_string(), "found": told.len() }))?;
    output.line(format!("{} message(s) to {masked}", told.len()))
}
