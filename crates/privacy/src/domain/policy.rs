//! Which carrier account may open whose messages.

use sotto_core::{AccountId, TenantId};

/// Everybody of the cell, or those named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Allowed<T> {
    /// Everybody of the cell.
    All,
    /// Only these.
    Only(Vec<T>),
}

impl<T: PartialEq> Allowed<T> {
    fn covers(&self, one: &T) -> bool {
        match self {
            Self::All => true,
            Self::Only(named) => named.contains(one),
        }
    }
}

/// One rule: these accounts may open these tenants' messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// The accounts.
    pub accounts: Allowed<AccountId>,
    /// The tenants.
    pub tenants: Allowed<TenantId>,
}

/// The rules; what none of them allows is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy(Vec<Rule>);

impl Policy {
    /// A policy of these rules.
    pub const fn new(rules: Vec<Rule>) -> Self {
        Self(rules)
    }

    /// Whether `account` may open messages of `tenant`.
    pub fn allows(&self, account: &AccountId, tenant: &TenantId) -> bool {
        self.0.iter().any(|rule| rule.accounts.covers(account) && rule.tenants.covers(tenant))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account(name: &str) -> AccountId {
        name.parse().unwrap()
    }

    fn tenant(name: &str) -> TenantId {
        name.parse().unwrap()
    }

    #[test]
    fn allows_only_what_one_rule_allows_whole() {
        let policy = Policy::new(vec![
            Rule {
                accounts: Allowed::Only(vec![account("viettel-otp"), account("vina")]),
                tenants: Allowed::Only(vec![tenant("acme")]),
            },
            Rule { accounts: Allowed::Only(vec![account("mobi")]), tenants: Allowed::All },
            Rule { accounts: Allowed::All, tenants: Allowed::Only(vec![tenant("demo")]) },
        ]);
        for (a, t, allowed) in [
            ("viettel-otp", "acme", true),
            ("vina", "acme", true),
            ("vina", "globex", false),
            ("mobi", "globex", true),
            ("other", "acme", false),
            ("other", "demo", true),
        ] {
            assert_eq!(policy.allows(&account(a), &tenant(t)), allowed, "{a} {t}");
        }
    }

    #[test]
    fn no_rule_allows_nobody() {
        assert!(!Policy::new(Vec::new()).allows(&account("a"), &tenant("t")));
    }
}
