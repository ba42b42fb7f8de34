//! What stands for a number to the whole cell and for one day: all tenants together must not flood one.

/// The name that stands in buckets where a class stands for messages.
pub const CLASS: &str = "abuse";

/// What a message is counted by, beside its id: whoever reads the count learns no id.
pub const COUNTED_LABEL: &str = "sotto.abuse.counted.v1";
