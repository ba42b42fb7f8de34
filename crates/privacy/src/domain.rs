//! The pure decisions: which bucket, how far ahead, for how long one key seals, who may open what, how often, who may end a key, and what is told of it.

pub mod approval;
pub mod bucket;
pub mod limits;
pub mod place;
pub mod policy;
pub mod rate;
pub mod retention;
pub mod rotation;
pub mod steady;
pub mod tally;
