//! The pure kernel of Sotto: ids, numbers, text encodings, derived facts and the delivery state machine.
//!
//! Promises: no I/O, no async runtime, no clock and no randomness of its own. Everything that varies is a
//! parameter, so every decision made here can be replayed. What is personal (numbers, senders, bodies) lives in
//! types whose `Debug` and `Display` print nothing of it.

pub mod abuse;
pub mod approval;
pub mod cancel;
pub mod carriers;
pub mod clock;
pub mod control;
pub mod deletion;
pub mod delivery;
pub mod error;
pub mod facts;
pub mod ids;
pub mod inbound;
pub mod index;
pub mod ledger;
pub mod number;
pub mod restored;
pub mod sender;
pub mod sensitive;
pub mod text;
pub mod work;

pub use clock::{Clock, ManualClock, SystemClock, Timestamp};
pub use error::{Classified, ErrorClass};
pub use facts::{Facts, Lane, MessageClass};
pub use ids::{AccountId, CellId, InvalidReplicas, MessageId, Replicas, ShardId, Shards, TenantId};
pub use restored::Restored;
pub use sensitive::Sensitive;
pub use work::WorkItem;
