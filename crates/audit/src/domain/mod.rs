//! What the log means: its entries, the numbering of producers, the committed range of events,
//! and whether keys were opened by those who announced it. Pure.

mod closing;
mod entry;
mod index;
mod openings;
mod producers;

pub use closing::{ClosingBalance, Fold, Keep, Survey, TooMany};
pub use entry::{Act, Category, Entry, EventRange, Gap, InvalidAct};
pub use index::{Closed, EventMarks, Index, Unsound};
pub use openings::{Openings, Unjustified};
