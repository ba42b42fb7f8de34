//! What is stored, and what is refused.

use crate::{publish::names, simulated::contract::agree};

#[tokio::test]
async fn what_is_stored_has_the_next_number_and_what_nobody_takes_is_told_at_once() {
    let script = async |broker: &super::Broker| {
        vec![
            broker.publish("log.a", "1", &[]).await,
            broker.publish("log.b", "2", &[]).await,
            broker.publish("work.one.0", "3", &[]).await,
            broker.publish("elsewhere", "4", &[]).await,
        ]
    };
    agree(script, &["stored 1", "stored 2", "stored 1", "nobody"]).await;
}

#[tokio::test]
async fn an_id_that_is_known_swallows_also_what_is_no_repeat() {
    let script = async |broker: &super::Broker| {
        let id = [(names::MESSAGE_ID, "x")];
        let mut told = vec![
            broker.publish("work.one.0", "a", &id).await,
            broker.publish("work.one.0", "a", &id).await,
            broker.publish("work.two.0", "other", &id).await,
            broker.publish("log.a", "another stream", &id).await,
        ];
        let mut pull = broker.pull("WORK.one", 1, None).await;
        let delivered = pull.next().await;
        broker.answer(&delivered, "+ACK").await;
        told.push(delivered.told);
        told.push(broker.publish("work.one.0", "again, once it is gone", &id).await);
        told
    };
    let expected = ["stored 1", "known as 1", "known as 1", "stored 1", "a for time 1", "known as 1"];
    agree(script, &expected).await;
}

#[tokio::test]
async fn compared_and_set_by_the_last_sequence_of_the_subject() {
    let script = async |broker: &super::Broker| {
        let mut told = Vec::new();
        for (subject, expected) in
            [("a", "0"), ("a", "0"), ("b", "0"), ("a", "2"), ("a", "1"), ("a", "1"), ("a", "3")]
        {
            let headers = [(names::EXPECTED, expected)];
            let answer = broker.publish(&format!("register.{subject}"), "v", &headers).await;
            // Servers tell the conflict by one of two codes; both are known (`register.rs`).
            told.push(answer.replace("10164", "10071"));
        }
        told.push(broker.held("REGISTER").await.to_string());
        told
    };
    let conflict = "refused 400 10071";
    agree(script, &["stored 1", conflict, "stored 2", conflict, "stored 3", conflict, "stored 4", "2"]).await;
}

#[tokio::test]
async fn a_repeat_of_what_was_compared_and_set_is_a_conflict_with_itself() {
    let script = async |broker: &super::Broker| {
        let headers = [(names::EXPECTED, "0"), (names::MESSAGE_ID, "x")];
        let mut told = vec![
            broker.publish("register.a", "v", &headers).await,
            broker.publish("register.a", "v", &headers).await,
        ];
        let refused = [(names::EXPECTED, "9"), (names::MESSAGE_ID, "y")];
        told.push(broker.publish("register.a", "w", &refused).await.replace("10164", "10071"));
        let right = [(names::EXPECTED, "1"), (names::MESSAGE_ID, "y")];
        told.push(broker.publish("register.a", "w", &right).await);
        told
    };
    agree(script, &["stored 1", "refused 400 10071", "refused 400 10071", "stored 2"]).await;
}

#[tokio::test]
async fn a_full_subject_refuses_alone_and_takes_again_what_it_refused() {
    let script = async |broker: &super::Broker| {
        let id = [(names::MESSAGE_ID, "x")];
        broker.store("bounded.a", &["1", "2"]).await;
        let mut told = vec![
            broker.publish("bounded.a", "3", &id).await,
            broker.publish("bounded.b", "other", &[]).await,
        ];
        let mut pull = broker.pull("BOUNDED.three", 1, None).await;
        let delivered = pull.next().await;
        broker.answer(&delivered, "+ACK").await;
        told.push(delivered.told);
        told.push(broker.publish("bounded.a", "3", &id).await);
        told
    };
    agree(script, &["refused 503 10077", "stored 3", "1 for time 1", "stored 4"]).await;
}

#[tokio::test]
async fn a_full_stream_refuses_and_drops_nothing() {
    let script = async |broker: &super::Broker| {
        let big = "x".repeat(1_500);
        let mut told = vec![
            broker.publish("work.one.0", &big, &[]).await,
            broker.publish("work.two.0", &big, &[]).await,
        ];
        told.push(broker.held("WORK").await.to_string());
        told
    };
    agree(script, &["stored 1", "refused 503 10077", "1"]).await;
}

#[tokio::test]
async fn a_register_keeps_the_latest_word_of_each_key() {
    let script = async |broker: &super::Broker| {
        broker.store("register.a", &["1", "2"]).await;
        broker.store("register.b", &["3"]).await;
        let mut told = vec![broker.held("REGISTER").await.to_string()];
        told.extend(
            broker.get("REGISTER", serde_json::json!({ "multi_last": ["sotto.v1.vn.register.*"] })).await,
        );
        told.extend(
            broker.get("REGISTER", serde_json::json!({ "multi_last": ["sotto.v1.vn.register.a"] })).await,
        );
        told.extend(
            broker.get("REGISTER", serde_json::json!({ "multi_last": ["sotto.v1.vn.register.z"] })).await,
        );
        told
    };
    let expected =
        ["2", "2 register.a 2", "3 register.b 3", "204 after 3", "2 register.a 2", "204 after 2", "404"];
    agree(script, &expected).await;
}
