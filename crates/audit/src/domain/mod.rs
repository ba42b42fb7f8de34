//! What the log means: its entries, the numbering of producers, the committed range of events. Pure.

mod entry;
mod index;
mod producers;

pub use entry::{Act, Category, Entry, EventRange, Gap, InvalidAct};
pub use index::{EventMarks, Index, Unsound};
