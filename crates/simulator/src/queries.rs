//! Answers to `query_sm`.

use sotto_smpp::{CommandStatus, Pdu, Requests, pdu::QuerySmResp};

use crate::carrier::Carrier;

/// Answers the questions of one link as long as it lives, and refuses its other requests.
pub(crate) async fn answer(carrier: &Carrier, requests: Option<Requests>) {
    let Some(mut requests) = requests else { return };
    while let Some((request, responder)) = requests.recv().await {
        let Some(responder) = responder else { continue };
        let Pdu::QuerySm(question) = request else {
            responder.respond(CommandStatus::ESME_RINVCMDID);
            continue;
        };
        match carrier.tell(&question) {
            Some(state) => {
                let answer = QuerySmResp {
                    message_id: question.message_id.clone(),
                    message_state: state.octet(),
                    ..QuerySmResp::default()
                };
                responder.respond_pdu(CommandStatus::ESME_ROK, Pdu::QuerySmResp(Box::new(answer)));
            }
            None => responder.respond(CommandStatus::ESME_RQUERYFAIL),
        }
    }
}
