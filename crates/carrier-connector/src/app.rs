//! The flow of one account: what waits for it, what it answers, what it reports.

pub(crate) mod account;
pub(crate) mod asking;
mod batch;
pub(crate) mod conduct;
mod doubts;
pub(crate) mod ended;
mod gate;
mod inbound;
pub(crate) mod keyring;
pub(crate) mod line;
pub(crate) mod orphans;
pub(crate) mod rebuild;
mod receipts;
pub(crate) mod reliance;
mod send;
pub(crate) mod status;
mod tally;
pub(crate) mod tenure;
pub(crate) mod trial;

#[cfg(test)]
mod tests;
