//! Direct gets, and what the broker tells of streams and consumers.

use serde_json::{Value, json};

use crate::simulated::contract::{Broker, agree};

async fn fill(broker: &Broker) {
    broker.store("log.a", &["1"]).await;
    broker.store("log.b", &["2"]).await;
    broker.store("log.a", &["3", "4"]).await;
}

#[tokio::test]
async fn one_message_is_read_from_a_sequence_on() {
    let script = async |broker: &Broker| {
        fill(broker).await;
        let mut told = Vec::new();
        for (seq, of) in
            [(1, ">"), (2, "sotto.v1.vn.log.a"), (1, "sotto.v1.vn.log.b"), (3, "sotto.v1.vn.log.b"), (9, ">")]
        {
            told.extend(broker.get("LOG", json!({ "seq": seq, "next_by_subj": of })).await);
        }
        told
    };
    agree(script, &["1 log.a 1", "3 log.a 3", "2 log.b 2", "404", "404"]).await;
}

#[tokio::test]
async fn many_are_read_with_a_mark_at_their_end() {
    let script = async |broker: &Broker| {
        fill(broker).await;
        let mut told = Vec::new();
        for (seq, batch, of) in [(1, 2, ">"), (2, 10, "sotto.v1.vn.log.a"), (9, 2, ">")] {
            told.extend(broker.get("LOG", json!({ "seq": seq, "batch": batch, "next_by_subj": of })).await);
        }
        told
    };
    let expected = ["1 log.a 1", "2 log.b 2", "204 after 2", "3 log.a 3", "4 log.a 4", "204 after 4", "404"];
    agree(script, &expected).await;
}

#[tokio::test]
async fn a_stream_tells_how_much_it_holds_and_where() {
    let script = async |broker: &Broker| {
        fill(broker).await;
        let info = broker.api("STREAM.INFO.VN_LOG", json!({ "subjects_filter": ">" })).await;
        let state = &info["state"];
        vec![
            format!("{} {} {}", state["messages"], state["first_seq"], state["last_seq"]),
            state["subjects"].to_string(),
            broker.api("STREAM.INFO.VN_NONE", json!({})).await["error"]["err_code"].to_string(),
            broker.api("CONSUMER.INFO.VN_LOG.none", json!({})).await["error"]["err_code"].to_string(),
        ]
    };
    let subjects = r#"{"sotto.v1.vn.log.a":3,"sotto.v1.vn.log.b":1}"#;
    agree(script, &["4 1 4", subjects, "10059", "10014"]).await;
}

#[tokio::test]
async fn a_message_is_deleted_once_and_the_sequence_goes_on() {
    let script = async |broker: &Broker| {
        fill(broker).await;
        let delete = async |seq: u64| {
            let told = broker.api("STREAM.MSG.DELETE.VN_LOG", json!({ "seq": seq, "no_erase": true })).await;
            if told["success"] == true { "gone".to_owned() } else { told["error"]["err_code"].to_string() }
        };
        let mut told = vec![delete(1).await, delete(1).await, delete(4).await];
        told.extend(broker.get("LOG", json!({ "seq": 1, "batch": 9, "next_by_subj": ">" })).await);
        told.push(broker.publish("log.a", "5", &[]).await);
        told
    };
    let expected = ["gone", "10057", "gone", "2 log.b 2", "3 log.a 3", "204 after 3", "stored 5"];
    agree(script, &expected).await;
}

#[tokio::test]
async fn a_consumer_tells_how_far_it_is() {
    let script = async |broker: &Broker| {
        let place = async || {
            let info: Value = broker.api("CONSUMER.INFO.VN_WORK.two", json!({})).await;
            format!("{} {}", info["delivered"]["stream_seq"], info["ack_floor"]["stream_seq"])
        };
        let mut told = vec![place().await];
        broker.store("work.two.0", &["1", "2", "3"]).await;
        let mut pull = broker.pull("WORK.two", 3, None).await;
        let all = [pull.next().await, pull.next().await, pull.next().await];
        told.push(place().await);
        broker.answer(&all[1], "+ACK").await;
        told.push(place().await);
        broker.answer(&all[0], "+ACK").await;
        told.push(place().await);
        broker.answer(&all[2], "+ACK").await;
        told.push(place().await);
        told
    };
    agree(script, &["0 0", "3 0", "3 0", "3 2", "3 3"]).await;
}
