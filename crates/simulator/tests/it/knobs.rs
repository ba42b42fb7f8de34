//! Each way to behave.

use crate::support::{SOON, bind, message, start, try_bind, until};
use serde_json::json;
use sotto_simulator::Written;
use sotto_smpp::{
    Address, BindKind, COctets, CloseReason, CommandStatus, MessageState, Pdu, SubmitError,
    client::BindOptions, pdu::QuerySm,
};
use std::time::Duration;
use tokio::time::timeout;

#[tokio::test]
async fn a_submit_is_answered_remembered_and_receipted() {
    let simulator = start(json!({"receipt_delay_ms": 1})).await;
    let mut partner = bind(&simulator).await;
    let response = partner.answered(message("84901234567", "Ma xac thuc 123")).await;
    assert!(response.status.is_ok());
    let id = response.message_id.unwrap();
    let receipt = partner.receipt().await;
    assert_eq!((receipt.id.as_str(), receipt.state), (id.as_str().unwrap(), MessageState::Delivered));
    let handle = simulator.handle();
    let record = handle.messages(10).remove(0);
    assert_eq!((record.destination.as_str(), record.text.as_str()), ("84901234567", "Ma xac thuc 123"));
    assert_eq!(record.message_id, receipt.id);
    until(&handle, |counters| counters.receipts_acked == 1).await;
    let counters = handle.counters();
    assert_eq!((counters.binds, counters.links, counters.submits, counters.parts), (1, 1, 1, 1));
    assert_eq!(counters.responses.get("ESME_ROK"), Some(&1));
    simulator.stop().await;
    assert!(partner.driver.join_next().await.is_some());
}

#[tokio::test]
async fn only_its_accounts_bind() {
    let simulator = start(json!({})).await;
    for (system_id, password, status) in [
        ("other", "secret", CommandStatus::ESME_RINVSYSID),
        ("sotto", "wrong", CommandStatus::ESME_RINVPASWD),
    ] {
        let refused =
            try_bind(simulator.smpp(), BindOptions::transceiver(system_id, password), SOON).await.err();
        assert_eq!(refused.unwrap().to_string(), format!("bind refused with {status}"));
    }
    until(&simulator.handle(), |counters| counters.binds_refused == 2 && counters.links == 0).await;
}

#[tokio::test]
async fn no_more_binds_than_the_contract_allows() {
    let simulator = start(json!({"max_binds": 2})).await;
    let options = || BindOptions::transceiver("sotto", "secret");
    let one = bind(&simulator).await;
    let _two = bind(&simulator).await;
    let refused = try_bind(simulator.smpp(), options(), SOON).await.err();
    let status = CommandStatus::ESME_RALYBND;
    assert_eq!(refused.unwrap().to_string(), format!("bind refused with {status}"));
    // One that ends makes room.
    drop(one);
    until(&simulator.handle(), |counters| counters.links == 1).await;
    let _three = bind(&simulator).await;
    assert_eq!(simulator.handle().counters().most_links, 2);
}

#[tokio::test]
async fn makes_each_noise_as_often_as_asked() {
    let noise = json!({
        "early_receipts": 0.5, "enroute_receipts": 0.5, "duplicate_receipts": 0.5, "orphan_receipts": 0.5,
        "message_id_form": "uuid", "receipt_delay_ms": 1,
    });
    let simulator = start(noise).await;
    let partner = bind(&simulator).await;
    for text in ["1", "2", "3", "4"] {
        assert!(partner.answered(message("1", text)).await.status.is_ok());
    }
    // Four final ones, two doubled, two before them, two of nobody.
    until(&simulator.handle(), |counters| counters.receipts_sent == 10 && counters.orphans_sent == 2).await;
    for record in simulator.handle().messages(4) {
        assert_eq!(record.message_id.len(), 36, "{}", record.message_id);
    }
}

#[tokio::test]
async fn counts_duplicates() {
    let simulator = start(json!({})).await;
    let partner = bind(&simulator).await;
    for (destination, text) in [("1", "a"), ("1", "b"), ("2", "a"), ("1", "a")] {
        partner.answered(message(destination, text)).await;
    }
    let counters = simulator.handle().counters();
    assert_eq!((counters.submits, counters.parts, counters.duplicates), (4, 3, 1));
    simulator.handle().reset();
    let counters = simulator.handle().counters();
    assert_eq!((counters.submits, counters.links), (0, 1));
    assert!(simulator.handle().messages(10).is_empty());
}

#[tokio::test]
async fn refuses_a_share_with_the_status_asked_for() {
    let simulator = start(json!({"refuse_share": 0.25, "refuse_status": 0x14})).await;
    let partner = bind(&simulator).await;
    let mut refused = 0;
    for text in ["1", "2", "3", "4", "5", "6", "7", "8"] {
        let status = partner.answered(message("1", text)).await.status;
        refused += i32::from(status == CommandStatus::ESME_RMSGQFUL);
    }
    assert_eq!(refused, 2);
    assert_eq!(simulator.handle().counters().parts, 6);
}

#[tokio::test]
async fn throttles_within_a_second() {
    let simulator = start(json!({"throttle_per_second": 3})).await;
    let partner = bind(&simulator).await;
    let mut pending = Vec::new();
    for text in ["1", "2", "3", "4", "5"] {
        pending.push(partner.submit(message("1", text)).await);
    }
    let mut throttled = 0;
    for pending in pending {
        throttled += i32::from(pending.await.unwrap().status == CommandStatus::ESME_RTHROTTLED);
    }
    assert_eq!(throttled, 2);
}

#[tokio::test]
async fn leaves_a_share_unanswered_but_taken() {
    let simulator = start(json!({"never_answer_share": 1.0, "receipt_delay_ms": 1})).await;
    let options = BindOptions::transceiver("sotto", "secret");
    let mut partner = try_bind(simulator.smpp(), options, Duration::from_secs(1)).await.unwrap();
    let pending = partner.submit(message("1", "x")).await;
    assert_eq!(partner.receipt().await.state, MessageState::Delivered);
    assert_eq!(pending.await, Err(SubmitError::TimedOut));
    let counters = simulator.handle().counters();
    assert_eq!((counters.parts, counters.unanswered), (1, 1));
}

#[tokio::test]
async fn answers_late() {
    let simulator = start(json!({"response_delay_ms": 2000, "receipts": false})).await;
    let options = BindOptions::transceiver("sotto", "secret");
    let mut partner = try_bind(simulator.smpp(), options, Duration::from_secs(1)).await.unwrap();
    assert_eq!(partner.submit(message("1", "x")).await.await, Err(SubmitError::TimedOut));
    let late = partner.late.recv().await.unwrap();
    assert_eq!(late.token, 7);
    assert!(late.response.message_id.is_some());
}

#[tokio::test]
async fn sends_the_receipt_first() {
    let simulator = start(json!({"receipt_before_response": true})).await;
    let mut partner = bind(&simulator).await;
    let mut pending = partner.submit(message("1", "x")).await;
    let id = tokio::select! {
        biased;
        delivery = partner.incoming.recv() => {
            let (sm, responder) = delivery.unwrap();
            responder.respond(CommandStatus::ESME_ROK);
            Some(sotto_smpp::Receipt::parse(&sm).unwrap().id)
        }
        _ = &mut pending => None,
    };
    assert_eq!(id.as_deref(), pending.await.unwrap().message_id.unwrap().as_str());
}

#[tokio::test]
async fn sends_receipts_twice_and_in_the_state_asked_for() {
    let patch = json!({
        "duplicate_receipts": 1.0, "receipt_state": "UNDELIV", "receipt_form": "text", "receipt_delay_ms": 0,
    });
    let simulator = start(patch).await;
    let mut partner = bind(&simulator).await;
    partner.answered(message("1", "x")).await;
    let (first, second) = (partner.receipt().await, partner.receipt().await);
    assert_eq!(first, second);
    assert_eq!((first.state, first.error.as_deref()), (MessageState::Undeliverable, Some("001")));
}

#[tokio::test]
async fn writes_ids_in_hex() {
    let simulator = start(json!({"message_id_form": "hex", "receipts": false})).await;
    let partner = bind(&simulator).await;
    let id = partner.answered(message("1", "x")).await.message_id.unwrap();
    let id = u64::from_str_radix(id.as_str().unwrap(), 16).unwrap();
    simulator.handle().behave(json!({"message_id_form": "decimal"})).unwrap();
    let next = partner.answered(message("1", "y")).await.message_id.unwrap();
    assert_eq!(next.as_str().unwrap().parse::<u64>().unwrap(), id + 1);
}

#[tokio::test]
async fn cuts_a_link_at_its_nth_submit() {
    let simulator = start(json!({"drop_after_submits": 2, "receipts": false})).await;
    let mut partner = bind(&simulator).await;
    assert!(partner.answered(message("1", "x")).await.status.is_ok());
    let lost = partner.submit(message("1", "y")).await.await.unwrap_err();
    assert!(lost.is_ambiguous());
    let reason = partner.driver.join_next().await.unwrap().unwrap();
    assert!(matches!(reason, CloseReason::PeerClosed | CloseReason::Io(_)));
    assert_eq!(simulator.handle().counters().parts, 2, "the last one was taken");
}

#[tokio::test]
async fn receipts_wait_for_a_link_that_receives() {
    let simulator = start(json!({"receipt_delay_ms": 0})).await;
    let transmitter =
        BindOptions { kind: BindKind::Transmitter, ..BindOptions::transceiver("sotto", "secret") };
    let partner = try_bind(simulator.smpp(), transmitter, SOON).await.unwrap();
    let id = partner.answered(message("1", "x")).await.message_id.unwrap();
    let handle = simulator.handle();
    until(&handle, |counters| counters.receipts_waiting == 1).await;
    let receiver = BindOptions { kind: BindKind::Receiver, ..BindOptions::transceiver("sotto", "secret") };
    let mut receiver = try_bind(simulator.smpp(), receiver, SOON).await.unwrap();
    assert_eq!(receiver.receipt().await.id, id.as_str().unwrap());
}

#[tokio::test]
async fn a_receipt_that_is_not_taken_comes_again() {
    let simulator = start(json!({"receipt_delay_ms": 0})).await;
    let mut partner = bind(&simulator).await;
    partner.answered(message("1", "x")).await;
    let handle = simulator.handle();
    let (first, responder) = partner.incoming.recv().await.unwrap();
    assert_eq!(handle.counters().receipts_waiting, 1, "for its answer");
    drop(responder);
    until(&handle, |counters| counters.receipts_failed == 1).await;
    assert_eq!(handle.counters().receipts_waiting, 1, "for its second time");
    let (second, responder) = partner.incoming.recv().await.unwrap();
    assert_eq!(handle.counters().receipts_waiting, 1, "for its second answer");
    responder.respond(CommandStatus::ESME_ROK);
    assert_eq!(first, second);
    until(&simulator.handle(), |counters| counters.receipts_acked == 1 && counters.receipts_failed == 1)
        .await;
}

#[tokio::test]
async fn cuts_every_link_and_takes_new_ones() {
    let simulator = start(json!({})).await;
    let mut partner = bind(&simulator).await;
    simulator.handle().drop_links();
    assert!(partner.driver.join_next().await.is_some());
    let partner = bind(&simulator).await;
    assert!(partner.answered(message("1", "x")).await.status.is_ok());
}

#[tokio::test]
async fn takes_thousands() {
    let simulator = start(json!({"receipt_delay_ms": 0})).await;
    let mut partner = bind(&simulator).await;
    let link = partner.link.clone();
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(async move {
        let mut pending = Vec::new();
        for number in 0..3000 {
            let permit = link.reserve().await.unwrap();
            pending.push(link.send(permit, message("1", &number.to_string()), number).unwrap());
        }
        for pending in pending {
            assert!(pending.await.unwrap().status.is_ok());
        }
    });
    for _ in 0..3000 {
        partner.receipt().await;
    }
    tasks.join_all().await;
    let counters = simulator.handle().counters();
    assert_eq!((counters.parts, counters.duplicates, counters.receipts_lost), (3000, 0, 0));
}

#[tokio::test]
async fn writes_ids_in_receipts_in_another_form_and_echoes_the_text() {
    let patch = json!({
        "message_id_form": "hex", "receipt_id_form": "decimal", "receipt_form": "text",
        "receipt_echoes_text": true, "receipt_delay_ms": 0,
    });
    let simulator = start(patch).await;
    let mut partner = bind(&simulator).await;
    let id = partner.answered(message("1", "Ma xac thuc 482913")).await.message_id.unwrap();
    let (sm, responder) = partner.incoming.recv().await.unwrap();
    responder.respond(CommandStatus::ESME_ROK);
    let receipt = sotto_smpp::Receipt::parse(&sm).unwrap();
    let answered = u64::from_str_radix(id.as_str().unwrap(), 16).unwrap();
    assert_eq!(receipt.id, answered.to_string());
    assert!(sm.short_message.ends_with(b"text:Ma xac thuc 482913"));
}

#[tokio::test]
async fn tells_enroute_before_the_end() {
    let simulator = start(json!({"receipt_enroute_first": true, "receipt_delay_ms": 1})).await;
    let mut partner = bind(&simulator).await;
    partner.answered(message("1", "x")).await;
    let (first, second) = (partner.receipt().await, partner.receipt().await);
    assert_eq!((first.state, second.state), (MessageState::Enroute, MessageState::Delivered));
    assert_eq!(first.id, second.id);
    until(&simulator.handle(), |counters| counters.receipts_acked == 2).await;
}

#[tokio::test]
async fn refuses_binds_and_stays_mute() {
    let simulator = start(json!({"refuse_bind_status": 13})).await;
    let bound = || BindOptions::transceiver("sotto", "secret");
    let refused = try_bind(simulator.smpp(), bound(), SOON).await.err().unwrap();
    assert_eq!(refused.to_string(), format!("bind refused with {}", CommandStatus::ESME_RBINDFAIL));
    assert_eq!(simulator.handle().counters().binds_refused, 1);
    simulator.handle().behave(json!({"refuse_bind_status": null, "mute_bind": true})).unwrap();
    let mute = try_bind(simulator.smpp(), bound(), Duration::from_millis(300)).await;
    assert!(mute.is_err());
    simulator.handle().behave(json!({"mute_bind": false})).unwrap();
    assert!(try_bind(simulator.smpp(), bound(), SOON).await.is_ok());
}

#[tokio::test]
async fn unbinds_and_takes_new_binds() {
    let simulator = start(json!({})).await;
    let mut partner = bind(&simulator).await;
    simulator.handle().unbind();
    let reason = partner.driver.join_next().await.unwrap().unwrap();
    assert_eq!(reason, CloseReason::PeerUnbound);
    until(&simulator.handle(), |counters| counters.links == 0).await;
    assert!(bind(&simulator).await.answered(message("1", "x")).await.status.is_ok());
}

#[tokio::test]
async fn receipts_that_wait_for_their_time_are_counted_and_forgotten_by_a_reset() {
    let simulator = start(json!({"receipt_delay_ms": 500})).await;
    let mut partner = bind(&simulator).await;
    let handle = simulator.handle();
    partner.answered(message("1", "old")).await;
    assert_eq!(handle.counters().receipts_waiting, 1);
    handle.reset();
    assert_eq!(handle.counters().receipts_waiting, 0);
    let id = partner.answered(message("1", "new")).await.message_id.unwrap();
    assert_eq!(partner.receipt().await.id, id.as_str().unwrap(), "the old one never comes");
    until(&handle, |counters| (counters.receipts_sent, counters.receipts_waiting) == (1, 0)).await;
}

#[tokio::test]
async fn what_a_handset_writes_is_sent_until_it_is_taken() {
    let simulator = start(json!({})).await;
    let handle = simulator.handle();
    let written = Written {
        partner: "sotto".to_owned(),
        from: "84912345678".to_owned(),
        to: "9029".to_owned(),
        text: "x".repeat(161),
    };
    // Nobody is bound yet.
    assert_eq!(handle.write(&written), Ok(2));
    let mut partner = bind(&simulator).await;
    for (status, taken) in
        [(CommandStatus::ESME_RX_T_APPN, 0), (CommandStatus::ESME_ROK, 1), (CommandStatus::ESME_ROK, 2)]
    {
        let (sm, responder) = timeout(SOON, partner.incoming.recv()).await.unwrap().unwrap();
        assert_eq!(
            (sm.source.value.as_str(), sm.destination.value.as_str()),
            (Some("84912345678"), Some("9029"))
        );
        assert_eq!(sm.split_header().0.len(), 6);
        responder.respond(status);
        until(&handle, |counters| counters.written_acked == taken).await;
    }
    let counters = handle.counters();
    assert_eq!((counters.written, counters.written_failed, counters.written_lost), (2, 1, 0));
    assert_eq!((counters.receipts_sent, counters.receipts_waiting), (0, 0));
    simulator.stop().await;
}

#[tokio::test]
async fn tells_what_became_of_a_part_when_its_sender_asks() {
    let simulator =
        start(json!({"receipts": false, "receipt_delay_ms": 100, "receipt_state": "UNDELIV"})).await;
    let partner = bind(&simulator).await;
    let id = partner.answered(message("84901", "hi")).await.message_id.unwrap();
    let ask = async |sender: &str| {
        let source = Address { value: COctets::from(sender.to_owned()), ..Address::default() };
        let question = QuerySm { message_id: id.clone(), source, ..QuerySm::default() };
        let permit = partner.link.reserve().await.unwrap();
        let answer =
            partner.link.request(permit, Pdu::QuerySm(Box::new(question)), 7).unwrap().await.unwrap();
        match answer.pdu {
            Some(Pdu::QuerySmResp(told)) if answer.status.is_ok() => Ok(told.message_state),
            _ => Err(answer.status),
        }
    };
    assert_eq!(ask("Other").await, Err(CommandStatus::ESME_RQUERYFAIL));
    let undeliverable = Ok(MessageState::Undeliverable.octet());
    let told = timeout(SOON, async {
        loop {
            let told = ask("Sotto").await;
            if told == undeliverable {
                return;
            }
            assert_eq!(told, Ok(MessageState::Enroute.octet()));
        }
    });
    told.await.unwrap();
    assert!(simulator.handle().counters().queries >= 2);
}
