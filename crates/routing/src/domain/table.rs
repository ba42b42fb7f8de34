//! The route table: the carriers file, ready to be asked.

use std::collections::BTreeMap;

use sotto_core::{
    AccountId, Facts,
    carriers::{Account, CarriersFile, Route},
};

/// Routes and accounts of one version of the carriers file.
#[derive(Debug)]
pub(crate) struct RouteTable {
    version: String,
    accounts: BTreeMap<AccountId, Account>,
    /// Longest prefix first; of one prefix, the routes that name their classes first.
    routes: Vec<Route>,
}

impl RouteTable {
    /// The table of a checked file. `version` names it in every decision.
    pub(crate) fn new(file: CarriersFile, version: String) -> Self {
        let mut routes = file.routes;
        routes.sort_by_key(|route| {
            (std::cmp::Reverse(route.prefix.as_str().len()), route.classes.is_none(), route.prefix)
        });
        let accounts = file.accounts.into_iter().map(|account| (account.id.clone(), account)).collect();
        Self { version, accounts, routes }
    }

    /// The version's name.
    pub(crate) fn version(&self) -> &str {
        &self.version
    }

    /// An account.
    pub(crate) fn account(&self, id: &AccountId) -> Option<&Account> {
        self.accounts.get(id)
    }

    /// Every account.
    pub(crate) fn accounts(&self) -> impl Iterator<Item = &Account> {
        self.accounts.values()
    }

    /// The one route of a message: the longest prefix that its range begins with and that takes its class.
    pub(crate) fn route(&self, facts: &Facts) -> Option<&Route> {
        self.routes.iter().find(|route| {
            facts.operator_range.starts_with(&route.prefix)
                && route.classes.as_ref().is_none_or(|classes| classes.contains(&facts.class))
        })
    }
}
