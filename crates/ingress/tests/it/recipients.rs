//! What a number gets in a day from all tenants together, counted in a real Redis.

use std::sync::atomic::Ordering;

use sotto_core::{Clock as _, MessageId, SystemClock};
use sotto_proto::message::v1::{MessageClass, OutboundMessage, SendRequest};
use sotto_testkit::eventually;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::{
    cell::{ABUSE, BOUND},
    clients::{World, code},
    tokens,
};

fn to(number: &str, key: &str) -> SendRequest {
    let message = OutboundMessage { to: number.to_owned(), ..code() };
    SendRequest { message: Some(message), idempotency_key: key.to_owned(), ..Default::default() }
}

fn is_full(refused: &Status) -> bool {
    let reason = refused.get_details_error_info().map(|info| info.reason);
    // Nothing to wait for: a code that comes tomorrow is of no use.
    refused.code() == Code::ResourceExhausted
        && reason.as_deref() == Some("RECIPIENT_LIMIT")
        && refused.get_details_retry_info().is_none()
}

fn counted(world: &World, result: &str) -> u64 {
    let (page, line) =
        (world.context.metrics.page(), format!("sotto_ingress_recipients_total{{result=\"{result}\"}} "));
    page.lines().find_map(|it| it.strip_prefix(&line)).map_or(0, |count| count.parse().unwrap())
}

/// Each key that counts, with a member of it in hexadecimal, and when it ends.
async fn kept(world: &World) -> Vec<String> {
    let script = "local out = {} for _, key in ipairs(redis.call('KEYS', 'sotto:ingress:*:codes:*')) do \
                  for _, one in ipairs(redis.call('SMEMBERS', key)) do \
                  local hex = string.gsub(one, '.', function(c) return string.format('%02x', string.byte(c)) end) \
                  table.insert(out, key .. ' ' .. hex .. ' ' .. redis.call('PEXPIRETIME', key)) end end \
                  return redis.status_reply(table.concat(out, ';'))";
    let answer = world.redis.command(&format!("EVAL \"{script}\" 0")).await;
    answer.trim_start_matches('+').split(';').map(str::to_owned).collect()
}

const NUMBER: &str = "+84912345678";

#[tokio::test]
async fn a_number_gets_so_many_codes_a_day_from_all_tenants_together() {
    let world = World::start("[recipients]\ncodes_per_day = 2\nabove = 'refuse'\n").await;
    let acme = world.client();
    let globex = world.client_with(&tokens::claims("globex", SystemClock.now()));
    let first = acme.send(to(NUMBER, "first")).await.unwrap();
    globex.send(to(NUMBER, "")).await.unwrap();
    for client in [&acme, &globex] {
        let refused = client.send(to(NUMBER, "third")).await.unwrap_err();
        assert!(is_full(&refused), "{refused:?}");
        // Nor does it become accepted by being asked for again.
        assert!(is_full(&client.send(to(NUMBER, "third")).await.unwrap_err()));
    }
    // What was accepted is, and is counted once.
    let again = acme.send(to(NUMBER, "first")).await.unwrap();
    assert_eq!((again.message_id.as_str(), again.repeated), (first.message_id.as_str(), true));
    // Others, and what is no code, are sent.
    acme.send(to("+84912345679", "")).await.unwrap();
    let mut notice = to(NUMBER, "");
    notice.message.as_mut().unwrap().class = MessageClass::Transactional.into();
    // What reads like a code is one, whatever it is called.
    assert!(is_full(&acme.send(notice.clone()).await.unwrap_err()));
    notice.message.as_mut().unwrap().text = "Don hang cua ban da duoc giao".to_owned();
    acme.send(notice).await.unwrap();
    assert_eq!(counted(&world, "within"), 3);
    assert_eq!(counted(&world, "above"), 5);
    let refused = "sotto_ingress_refused_total{reason=\"recipient_full\"} 5";
    assert!(world.context.metrics.page().contains(refused));

    // Neither number nor message can be told from what is kept, and that ends with the day.
    let kept = kept(&world).await;
    assert_eq!(kept.len(), 3, "{kept:?}");
    let id: MessageId = first.message_id.parse().unwrap();
    let plain = id.as_bytes().map(|byte| format!("{byte:02x}")).concat();
    let ends = world.peers.keys.abuse_dies_at().unix_millis().to_string();
    for one in &kept {
        assert!(one.ends_with(&ends) && !one.contains("912345678") && !one.contains(&plain), "{one}");
    }
    world.stop().await;
}

#[tokio::test]
async fn what_is_above_is_only_counted_until_somebody_says_otherwise() {
    let world = World::start("recipients.codes_per_day = 1\n").await;
    let client = world.client();
    for _ in 0..3 {
        client.send(to(NUMBER, "")).await.unwrap();
    }
    assert_eq!((counted(&world, "within"), counted(&world, "above")), (1, 2));
    world.stop().await;
}

#[tokio::test]
async fn codes_are_taken_uncounted_without_a_key_and_another_day_counts_anew() {
    let world = World::start("[recipients]\ncodes_per_day = 1\nabove = 'refuse'\n").await;
    let client = world.client();
    world.peers.keys.indexless.store(true, Ordering::SeqCst);
    client.send(to(NUMBER, "")).await.unwrap();
    client.send(to(NUMBER, "")).await.unwrap();
    assert_eq!(counted(&world, "uncounted"), 2);
    world.peers.keys.indexless.store(false, Ordering::SeqCst);
    eventually(BOUND, "the key to be asked for again", async || {
        client.send(to(NUMBER, "")).await.is_err_and(|refused| is_full(&refused))
    })
    .await;
    // An operator destroys the day's key: what was counted by it means nothing any more.
    world.peers.keys.new_abuse_key();
    world.peers.keys.ended.lock().unwrap().destroyed.push(ABUSE[0].to_owned());
    eventually(BOUND, "the old key to be forgotten", async || client.send(to(NUMBER, "")).await.is_ok())
        .await;
    assert!(is_full(&client.send(to(NUMBER, "")).await.unwrap_err()));
    world.stop().await;
}
