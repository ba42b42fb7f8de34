//! Deliveries, and what answers to them do.

use std::time::Duration;

use super::{
    Broker, agree,
    broker::{Delivered, pass},
};

/// The `ack_wait` of the consumer `WORK.one`, and a little.
const OVER: Duration = Duration::from_millis(1_300);
const WAIT: Option<Duration> = Some(Duration::from_secs(5));

#[tokio::test]
async fn a_pull_gives_what_is_there_in_order_and_says_when_there_is_no_more() {
    let script = async |broker: &Broker| {
        broker.store("work.two.0", &["1", "2"]).await;
        broker.store("work.one.0", &["not theirs"]).await;
        let mut told = broker.pull("WORK.two", 3, None).await.take(4).await;
        told.extend(broker.pull("WORK.two", 1, None).await.take(2).await);
        told
    };
    let expected =
        ["1 for time 1", "2 for time 1", "404 No Messages", "nothing", "404 No Messages", "nothing"];
    agree(script, &expected).await;
}

#[tokio::test]
async fn a_pull_that_waits_gets_what_comes_and_ends() {
    let script = async |broker: &Broker| {
        let mut pull = broker.pull("WORK.two", 2, Some(Duration::from_secs(1))).await;
        let mut told = vec![pull.next().await.told];
        broker.store("work.two.0", &["1"]).await;
        told.push(pull.next().await.told);
        told.push(pull.within(2 * OVER).await.told);
        broker.store("work.two.0", &["2"]).await;
        told.push(pull.next().await.told);
        told
    };
    agree(script, &["nothing", "1 for time 1", "408 Request Timeout", "nothing"]).await;
}

#[tokio::test]
async fn what_is_not_answered_comes_again_after_ack_wait_and_a_late_answer_is_taken_for_the_newest() {
    let script = async |broker: &Broker| {
        broker.store("work.one.0", &["1", "2"]).await;
        let first = broker.pull("WORK.one", 1, None).await.next().await;
        let mut pull = broker.pull("WORK.one", 3, WAIT).await;
        let mut told = vec![first.told.clone(), pull.next().await.told];
        let again = pull.within(2 * OVER).await;
        told.push(again.told.clone());
        // To the delivery before this one.
        told.push(format!("confirmed {}", broker.answer(&first, "+ACK").await));
        told.push(broker.held("WORK").await.to_string());
        told.push(pull.within(2 * OVER).await.told);
        told
    };
    let expected = ["1 for time 1", "2 for time 1", "1 for time 2", "confirmed true", "1", "2 for time 2"];
    agree(script, &expected).await;
}

#[tokio::test]
async fn a_sign_of_life_puts_the_next_delivery_off() {
    let script = async |broker: &Broker| {
        broker.store("work.one.0", &["1"]).await;
        let first = broker.pull("WORK.one", 1, None).await.next().await;
        let mut pull = broker.pull("WORK.one", 1, WAIT).await;
        for _ in 0..3 {
            pass(Duration::from_millis(600)).await;
            broker.answer(&first, "+WPI").await;
        }
        vec![first.told, pull.next().await.told, pull.within(2 * OVER).await.told]
    };
    agree(script, &["1 for time 1", "nothing", "1 for time 2"]).await;
}

#[tokio::test]
async fn what_is_given_back_comes_again_after_its_delay_before_what_is_new() {
    let script = async |broker: &Broker| {
        broker.store("work.two.0", &["1", "2"]).await;
        let first = broker.pull("WORK.two", 1, None).await.next().await;
        broker.answer(&first, "-NAK {\"delay\": 700000000}").await;
        let mut pull = broker.pull("WORK.two", 3, WAIT).await;
        let second = pull.next().await;
        let mut told = vec![first.told, second.told.clone(), pull.next().await.told];
        told.push(pull.within(OVER).await.told);
        // Without a delay at once.
        broker.answer(&second, "-NAK").await;
        broker.store("work.two.0", &["3"]).await;
        told.push(pull.next().await.told);
        told
    };
    let expected = ["1 for time 1", "2 for time 1", "nothing", "1 for time 2", "2 for time 2"];
    agree(script, &expected).await;
}

#[tokio::test]
async fn what_is_ended_never_comes_again() {
    let script = async |broker: &Broker| {
        broker.store("work.one.0", &["1", "2"]).await;
        let mut pull = broker.pull("WORK.one", 2, None).await;
        let (one, two) = (pull.next().await, pull.next().await);
        broker.answer(&one, "+TERM").await;
        broker.answer(&two, "+ACK").await;
        let held = broker.held("WORK").await.to_string();
        let more = broker.pull("WORK.one", 1, Some(OVER)).await.within(2 * OVER).await.told;
        vec![one.told, two.told, held, more]
    };
    agree(script, &["1 for time 1", "2 for time 1", "0", "408 Request Timeout"]).await;
}

#[tokio::test]
async fn no_more_is_delivered_than_may_be_unanswered() {
    let script = async |broker: &Broker| {
        broker.store("work.two.0", &["other"]).await;
        broker.store("log.a", &["1", "2"]).await;
        let first = broker.pull("LOG.ordered", 2, WAIT).await.next().await;
        let mut waits = broker.pull("LOG.ordered", 1, WAIT).await;
        let mut told = vec![first.told.clone(), waits.next().await.told];
        broker.answer(&first, "+ACK").await;
        told.push(format!("held {}", broker.held("LOG").await));
        told
    };
    agree(script, &["1 for time 1", "nothing", "held 2"]).await;
}

#[tokio::test]
async fn a_pull_that_does_not_wait_is_kept_while_too_much_is_unanswered() {
    let script = async |broker: &Broker| {
        broker.store("log.a", &["1", "2"]).await;
        let first = broker.pull("LOG.ordered", 1, None).await.next().await;
        let mut kept = broker.pull("LOG.ordered", 1, None).await;
        let mut told = vec![first.told.clone(), kept.next().await.told];
        broker.answer(&first, "+ACK").await;
        told.push(kept.next().await.told);
        told
    };
    agree(script, &["1 for time 1", "nothing", "2 for time 1"]).await;
}

#[tokio::test]
async fn an_answer_is_confirmed_also_the_second_time() {
    let script = async |broker: &Broker| {
        broker.store("work.two.0", &["1"]).await;
        let first: Delivered = broker.pull("WORK.two", 1, None).await.next().await;
        let mut told = vec![broker.answer(&first, "+ACK").await, broker.answer(&first, "+ACK").await];
        told.push(broker.answer(&first, "-NAK {\"delay\": 1000000}").await);
        let mut told: Vec<_> = told.into_iter().map(|confirmed| format!("confirmed {confirmed}")).collect();
        told.push(broker.pull("WORK.two", 1, None).await.next().await.told);
        told
    };
    let expected = ["confirmed true", "confirmed true", "confirmed true", "404 No Messages"];
    agree(script, &expected).await;
}

#[tokio::test]
async fn pulls_are_served_in_turn() {
    let script = async |broker: &Broker| {
        let mut one = broker.pull("WORK.two", 2, WAIT).await;
        let mut two = broker.pull("WORK.two", 2, WAIT).await;
        broker.store("work.two.0", &["1", "2", "3", "4"]).await;
        let mut told = one.take(2).await;
        told.extend(two.take(2).await);
        told.sort();
        told
    };
    agree(script, &["1 for time 1", "2 for time 1", "3 for time 1", "4 for time 1"]).await;
}
