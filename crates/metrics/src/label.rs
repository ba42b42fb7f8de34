//! Labels whose values are known when the program is built.

use sotto_core::{
    Lane, MessageClass,
    delivery::{ReceiptState, RejectCause},
};

/// A label with a closed set of values.
pub trait Label: Copy + PartialEq + 'static {
    /// The label's name.
    const NAME: &'static str;
    /// Every value.
    const ALL: &'static [Self];
    /// The value as it is served.
    fn value(self) -> &'static str;
}

/// Makes an enum that is a [`Label`]: `pub enum Way("way") { Grpc = "grpc", Nats = "nats" }`.
#[macro_export]
macro_rules! label {
    ($(#[$meta:meta])* $visible:vis enum $name:ident($label:literal) {
        $($(#[$about:meta])* $variant:ident = $value:literal,)+
    }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        $visible enum $name { $($(#[$about])* $variant,)+ }

        impl $crate::Label for $name {
            const NAME: &'static str = $label;
            const ALL: &'static [Self] = &[$(Self::$variant,)+];
            fn value(self) -> &'static str {
                match self { $(Self::$variant => $value,)+ }
            }
        }
    };
}

impl Label for Lane {
    const NAME: &'static str = "lane";
    const ALL: &'static [Self] = &Self::ALL;
    fn value(self) -> &'static str {
        self.name()
    }
}

impl Label for MessageClass {
    const NAME: &'static str = "class";
    const ALL: &'static [Self] = &Self::ALL;
    fn value(self) -> &'static str {
        self.name()
    }
}

impl Label for RejectCause {
    const NAME: &'static str = "cause";
    const ALL: &'static [Self] = &Self::ALL;
    fn value(self) -> &'static str {
        self.name()
    }
}

impl Label for ReceiptState {
    const NAME: &'static str = "state";
    const ALL: &'static [Self] = &Self::ALL;
    fn value(self) -> &'static str {
        self.name()
    }
}

/// One of something for each value of a label.
#[derive(Clone, Debug)]
pub struct Each<L, M> {
    first: M,
    others: Vec<(L, M)>,
}

impl<L: Label, M> Each<L, M> {
    /// Made anew for each value.
    ///
    /// A label has at least one value.
    pub(crate) fn new(make: impl Fn(L) -> M) -> Self {
        let mut made = L::ALL.iter().map(|label| (*label, make(*label)));
        let (_, first) = made.next().unwrap_or_else(|| unreachable!("a label without values"));
        Self { first, others: made.collect() }
    }

    /// That of a value.
    pub fn of(&self, label: L) -> &M {
        self.others.iter().find(|(other, _)| *other == label).map_or(&self.first, |(_, of)| of)
    }
}
