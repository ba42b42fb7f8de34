//! Tenants that may ask in clear over the broker for a while, because the operator says so.

use std::collections::BTreeMap;

use sotto_core::{TenantId, Timestamp};

/// Who may ask in clear, and until when.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Waivers(BTreeMap<TenantId, Timestamp>);

impl Waivers {
    /// Each tenant until its time.
    pub fn new(waivers: impl IntoIterator<Item = (TenantId, Timestamp)>) -> Self {
        Self(waivers.into_iter().collect())
    }

    /// Whether this tenant may ask in clear now.
    pub fn allow(&self, tenant: &TenantId, now: Timestamp) -> bool {
        self.0.get(tenant).is_some_and(|until| now < *until)
    }

    /// All of them, also those whose time is over.
    pub fn iter(&self) -> impl Iterator<Item = (&TenantId, Timestamp)> {
        self.0.iter().map(|(tenant, until)| (tenant, *until))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_waiver_is_for_one_tenant_and_ends() {
        let until = Timestamp::from_unix_seconds(100);
        let waivers = Waivers::new([("acme".parse().unwrap(), until)]);
        let allow = |tenant: &str, millis| {
            waivers.allow(&tenant.parse().unwrap(), Timestamp::from_unix_millis(millis))
        };
        assert!(allow("acme", 99_999));
        assert!(!allow("acme", 100_000));
        assert!(!allow("other", 0));
    }
}
