//! `sotto send`: hands over one message.

use std::io::Read as _;

use sotto_core::{Clock, Timestamp};
use sotto_proto::{
    from_wire_time,
    message::v1::{
        Encoding, MessageClass, OutboundMessage, RouteOutlook, SendRequest, SendResponse,
        message_service_client::MessageServiceClient,
    },
    to_wire_time,
};

use super::{authorised, channel, refused};
use crate::{CliError, Output, Tone, cell::CellDir, credentials::Credentials};

/// The most that is read from standard input: far more than ten parts.
const MAX_TEXT: u64 = 64 * 1024;

/// What messages are for, as they are written here.
pub(super) const CLASSES: [&str; 4] = ["otp", "transactional", "promotional", "ad-invite"];

/// A message.
#[derive(clap::Args)]
pub(crate) struct NewMessage {
    /// Client that sends: the name given to `sotto client create`
    #[arg(long)]
    pub(super) client: String,
    /// Recipient in E.164: +84912345678; `-` reads it from the first line of standard input, where other users of the
    /// machine cannot see it
    #[arg(long)]
    to: String,
    /// Sender: one of the client's
    #[arg(long)]
    from: String,
    /// Text; `-` reads it from standard input, from the second line if `--to` took the first
    #[arg(long)]
    text: String,
    /// What it is for
    #[arg(long, value_parser = CLASSES, default_value = "otp")]
    class: String,
    /// Seconds it may take until a carrier has it; default by class
    #[arg(long)]
    validity: Option<u32>,
    /// When to send it, at most 30 days ahead, as in RFC 3339: 2026-11-30T09:00:00+07:00; the validity counts from then. Not
    /// for one-time codes
    #[arg(long, value_name = "TIME")]
    at: Option<Timestamp>,
    /// Write letters with marks without them where that saves parts: "Mã" becomes "Ma"; digits and links stay
    #[arg(long)]
    transliterate: bool,
    /// Only check: tell encoding and parts, send nothing
    #[arg(long)]
    pub(super) dry_run: bool,
    /// The same key sends once, however often it is asked
    #[arg(long, default_value = "")]
    pub(super) idempotency_key: String,
}

impl std::fmt::Debug for NewMessage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NewMessage")
            .field("client", &self.client)
            .field("class", &self.class)
            .finish_non_exhaustive()
    }
}

pub(crate) async fn send(
    dir: &CellDir,
    new: NewMessage,
    clock: &dyn Clock,
    output: &Output,
) -> Result<(), CliError> {
    let credentials = client(dir, &new.client)?;
    let token = credentials.token(dir, "message:send", clock).await?;
    let (idempotency_key, validate_only) = (new.idempotency_key.clone(), new.dry_run);
    let request = SendRequest { message: Some(outbound(new)?), idempotency_key, validate_only };
    let mut ingress = MessageServiceClient::new(channel(dir, "ingress")?);
    let sent = ingress
        .send(authorised(request, &token)?)
        .await
        .map_err(|status| refused("the message was refused", &status))?
        .into_inner();
    accepted(&sent, if validate_only { "would be accepted" } else { "accepted" }, output)
}

/// The message that the command line and standard input tell.
pub(super) fn outbound(new: NewMessage) -> Result<OutboundMessage, CliError> {
    let (to, text) = content(new.to, new.text, standard_input)?;
    let class = class(&new.class);
    Ok(OutboundMessage {
        to,
        from: new.from,
        text,
        class: class.into(),
        validity: new.validity.map(|seconds| prost_types::Duration { seconds: i64::from(seconds), nanos: 0 }),
        transliterate: new.transliterate,
        send_at: new.at.map(to_wire_time),
    })
}

/// One of [`CLASSES`].
pub(super) fn class(name: &str) -> MessageClass {
    match name {
        "otp" => MessageClass::Otp,
        "transactional" => MessageClass::Transactional,
        "promotional" => MessageClass::Promotional,
        _ => MessageClass::AdInvite,
    }
}

/// Tells what an accepted message costs.
pub(super) fn accepted(sent: &SendResponse, done: &str, output: &Output) -> Result<(), CliError> {
    let encoding = match sent.encoding() {
        Encoding::Unspecified => "",
        Encoding::Gsm7 => "GSM-7",
        Encoding::Ucs2 => "UCS-2",
    };
    output.json(&serde_json::json!({
        "message_id": sent.message_id, "encoding": encoding, "parts": sent.parts, "units": sent.units,
        "repeated": sent.repeated, "transliterated": sent.transliterated,
        "send_at": sent.send_at.map(|at| from_wire_time(at).to_string()),
        "route": sent.route.as_ref().map(|route| serde_json::json!({
            "reason": route.reason, "prefix": route.prefix,
            "candidates": route.candidates.iter().map(|it| serde_json::json!({
                "account": it.account, "weight": it.weight, "barrier": it.barrier,
            })).collect::<Vec<_>>(),
        })),
    }))?;
    let at = sent.send_at.map(|at| format!(", to be sent at {}", from_wire_time(at))).unwrap_or_default();
    let written = if sent.transliterated { ", written without marks" } else { "" };
    output.line(format!(
        "{} {}  {} part(s), {encoding}, {} units{written}{at}",
        output.tone(Tone::Good, done),
        sent.message_id,
        sent.parts,
        sent.units
    ))?;
    sent.route.as_ref().map_or(Ok(()), |route| outlook(route, output))
}

/// Tells where a message would go.
fn outlook(route: &RouteOutlook, output: &Output) -> Result<(), CliError> {
    let by = if route.prefix.is_empty() { String::new() } else { format!(" {}", route.prefix) };
    output.line(format!("  route{by}: {}", route.reason))?;
    for candidate in &route.candidates {
        let share = match candidate.weight {
            0 => "fallback".to_owned(),
            weight => format!("weight {weight}"),
        };
        let barrier = match candidate.barrier.as_str() {
            "" => String::new(),
            barrier => format!(", not for its {barrier}"),
        };
        output.line(format!("    {}  {share}{barrier}", candidate.account))?;
    }
    Ok(())
}

/// The credentials of a client by its name.
pub(crate) fn client(dir: &CellDir, name: &str) -> Result<Credentials, CliError> {
    let fix = "make it with: sotto client create --name NAME --tenant TENANT --sender SENDER";
    Credentials::read(&Credentials::client_file(dir, name), fix)
}

/// Number and text, of which `-` stands for what standard input holds: the number in the first line, the text in all
/// that follows.
pub(super) fn content(
    to: String,
    text: String,
    input: impl FnOnce() -> Result<String, CliError>,
) -> Result<(String, String), CliError> {
    match (to.as_str(), text.as_str()) {
        ("-", "-") => {
            let input = input()?;
            let (to, text) = input.split_once('\n').ok_or_else(|| {
                CliError::new("standard input has one line")
                    .fix("give the number in the first line, then the text")
            })?;
            Ok((to.trim().to_owned(), text.to_owned()))
        }
        ("-", _) => {
            let to = input()?.trim().to_owned();
            if to.contains('\n') {
                return Err(CliError::new("standard input has more than one line")
                    .fix("give the number alone, or also --text - for the text that follows it"));
            }
            Ok((to, text))
        }
        (_, "-") => Ok((to, input()?)),
        (_, _) => Ok((to, text)),
    }
}

pub(super) fn standard_input() -> Result<String, CliError> {
    let mut text = String::new();
    std::io::stdin()
        .take(MAX_TEXT)
        .read_to_string(&mut text)
        .map_err(|error| CliError::caused_by("the text cannot be read", &error).fix("give UTF-8 text"))?;
    Ok(text.trim_end_matches('\n').to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn content_of(to: &str, text: &str, input: &str) -> Result<(String, String), String> {
        content(to.to_owned(), text.to_owned(), || Ok(input.to_owned()))
            .map_err(|error| error.remedy().unwrap_or_default().to_owned())
    }

    #[test]
    fn number_and_text_come_from_the_command_line_or_from_standard_input() {
        let both = |to: &str, text: &str| Ok((to.to_owned(), text.to_owned()));
        assert_eq!(content_of("+1", "hi", "unread"), both("+1", "hi"));
        assert_eq!(content_of("+1", "-", "a\nb"), both("+1", "a\nb"));
        assert_eq!(content_of("-", "hi", " +1\r\n"), both("+1", "hi"));
        assert_eq!(content_of("-", "-", "+1\na\nb"), both("+1", "a\nb"));
        assert!(content_of("-", "-", "+1").unwrap_err().contains("then the text"));
        assert!(content_of("-", "hi", "+1\nhello").unwrap_err().contains("--text -"));
    }
}
