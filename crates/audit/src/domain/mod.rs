//! What the log means: its entries, the numbering of producers, the committed range of events,
//! and whether keys were opened by those who announced it. Pure.

mod entry;
mod index;
mod openings;
mod producers;

pub use entry::{Act, Category, Entry, EventRange, Gap, InvalidAct};
pub use index::{EventMarks, Index, Unsound};
pub use openings::{Openings, Unjustified};
