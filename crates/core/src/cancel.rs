//! Which comes first: a message's way to a carrier, or its cancellation.
//!
//! One mark a message in Redis decides it. A connector sets it to the attempt when it passes to intent, before the first
//! byte; ingress sets it to [`CANCELLED`], unless it is set. Whoever is second finds the other's mark. Both stand in
//! the log too (as `submitting`, as `cancelled`), from which a lost Redis gets them back; where both do, the
//! cancellation was first, because a connector that is refused has told its intent by then, and takes it back.

use std::time::Duration;

use crate::{MessageId, ShardId, Timestamp};

/// The mark of a cancelled message.
pub const CANCELLED: &str = "x";

/// How long a mark is kept beyond its message's expiry: deliveries that come later are refused by the expiry.
pub const KEEP_BEYOND: Duration = Duration::from_secs(15 * 60);

/// The key of a message's mark. It shares its hash tag with the message's claims.
pub fn mark_key(shard: ShardId, message: &MessageId) -> String {
    format!("{}sent:{message}", prefix(shard))
}

/// The key without which no mark of a shard can be relied on: it begins with the run id of this Redis.
pub fn ready_key(shard: ShardId) -> String {
    format!("{}ready", prefix(shard))
}

fn prefix(shard: ShardId) -> String {
    format!("sotto:carrier:{{s{shard}}}:")
}

/// How long the mark of a message is kept from now.
pub fn keep(expires_at: Timestamp, now: Timestamp) -> Duration {
    expires_at.since(now) + KEEP_BEYOND
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU16;

    use super::*;
    use crate::Shards;

    #[test]
    fn the_keys_are_those_that_ingress_may_use() {
        // `sotto init` writes these forms into the rights of ingress at Redis.
        let (shard, message) =
            (Shards::new(NonZeroU16::MIN).iter().next().unwrap(), MessageId::from_keyed_hash([7; 16]));
        assert_eq!(ready_key(shard), "sotto:carrier:{s0}:ready");
        assert_eq!(mark_key(shard, &message), format!("sotto:carrier:{{s0}}:sent:{message}"));
    }
}
