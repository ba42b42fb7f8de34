//! The route table: the carriers file, ready to be asked.

use std::collections::BTreeMap;

use super::{Account, Barrier, CarriersFile, Route};
use crate::{AccountId, Facts, Timestamp, number::OperatorRange};

/// Routes and accounts of one version of the carriers file.
#[derive(Debug)]
pub struct RouteTable {
    version: String,
    accounts: BTreeMap<AccountId, Account>,
    /// Longest prefix first; of one prefix, the routes that name their classes first.
    routes: Vec<Route>,
}

impl RouteTable {
    /// The table of a checked file. `version` names it in every decision.
    pub fn new(file: CarriersFile, version: String) -> Self {
        let mut routes = file.routes;
        routes.sort_by_key(|route| {
            (std::cmp::Reverse(route.prefix.as_str().len()), route.classes.is_none(), route.prefix)
        });
        let accounts = file.accounts.into_iter().map(|account| (account.id.clone(), account)).collect();
        Self { version, accounts, routes }
    }

    /// The version's name.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// An account.
    pub fn account(&self, id: &AccountId) -> Option<&Account> {
        self.accounts.get(id)
    }

    /// Every account.
    pub fn accounts(&self) -> impl Iterator<Item = &Account> {
        self.accounts.values()
    }

    /// The one route of a message: the longest prefix that its range begins with and that takes its class.
    pub fn route(&self, facts: &Facts) -> Option<&Route> {
        self.routes.iter().find(|route| {
            facts.operator_range.starts_with(&route.prefix)
                && route.classes.as_ref().is_none_or(|classes| classes.contains(&facts.class))
        })
    }

    /// What may become of a message, before anything of it exists: its route, if it has one, and who would be asked.
    pub fn outlook(&self, facts: &Facts, now: Timestamp) -> Option<Outlook> {
        let route = self.route(facts)?;
        let weighted = route.accounts.iter().map(|account| (&account.id, Some(account.weight)));
        let spare = route.fallback.iter().map(|id| (id, None));
        let candidates = weighted.chain(spare).map(|(id, weight)| Candidate {
            account: id.clone(),
            weight,
            barrier: self.account(id).and_then(|account| account.barrier(facts, now)),
        });
        Some(Outlook { prefix: route.prefix, candidates: candidates.collect() })
    }
}

/// The route of a message and its accounts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outlook {
    /// The route's prefix.
    pub prefix: OperatorRange,
    /// Its accounts, weighted ones first, then the fallbacks in their order.
    pub candidates: Vec<Candidate>,
}

/// An account of a route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Which.
    pub account: AccountId,
    /// Its share of the messages beside the other weights; none: a fallback.
    pub weight: Option<u8>,
    /// Why it may not carry the message.
    pub barrier: Option<Barrier>,
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{MessageClass, MessageId, text::Encoding};

    #[test]
    fn the_outlook_names_the_route_and_what_stands_in_the_way() {
        let account = |id: &str, more: &str| {
            format!(
                "[[account]]\nid = \"{id}\"\nhost = \"127.0.0.1\"\nport = 2775\nsystem_id = \"s\"\npassword_file = \"p\"\n\
                 tls = \"waived\"\ntls_waiver_reason = \"a test on this machine\"\ntps = 10\nsimulator = true\n{more}\n"
            )
        };
        let text = [
            account("a", ""),
            account("b", "tenants = [\"globex\"]"),
            account("c", "countries = [\"DE\", \"VN\"]"),
            account("d", "countries = [\"DE\"]"),
            "[[route]]\nprefix = \"84\"\naccounts = [{ id = \"c\", weight = 1 }]\n".to_owned(),
            "[[route]]\nprefix = \"8498\"\nclasses = [\"otp\"]\naccounts = [{ id = \"a\", weight = 3 }, { id = \"b\", weight = 1 }]\n\
             fallback = [\"c\"]\n[[route]]\nprefix = \"49\"\naccounts = [{ id = \"d\", weight = 1 }]\n"
                .to_owned(),
        ]
        .concat();
        let table = RouteTable::new(CarriersFile::parse(&text).unwrap(), "v1".to_owned());
        let now = Timestamp::from_unix_seconds(1_795_493_815);
        let facts = |range: &str, class| Facts {
            message: MessageId::from_keyed_hash([1; 16]),
            tenant: "acme".parse().unwrap(),
            class,
            country: if range.starts_with("84") { "VN" } else { "FR" }.parse().unwrap(),
            operator_range: range.parse().unwrap(),
            encoding: Encoding::Gsm7,
            parts: 1,
            units: 1,
            accepted_at: now,
            expires_at: now.plus(Duration::from_secs(300)),
            content_mac: None,
            send_at: None,
        };
        let told = |range: &str, class| {
            let outlook = table.outlook(&facts(range, class), now)?;
            let candidates = outlook.candidates.into_iter();
            let told = candidates.map(|it| (it.account.to_string(), it.weight, it.barrier));
            Some((outlook.prefix.to_string(), told.collect::<Vec<_>>()))
        };
        let candidate = |id: &str, weight, barrier| (id.to_owned(), weight, barrier);
        assert_eq!(
            told("8498", MessageClass::Otp),
            Some((
                "8498".to_owned(),
                vec![
                    candidate("a", Some(3), None),
                    candidate("b", Some(1), Some(Barrier::Tenant)),
                    candidate("c", None, None),
                ]
            ))
        );
        let other = Some(("84".to_owned(), vec![candidate("c", Some(1), None)]));
        assert_eq!(told("8498", MessageClass::Transactional), other);
        let abroad = Some(("49".to_owned(), vec![candidate("d", Some(1), Some(Barrier::Country))]));
        assert_eq!(told("49", MessageClass::Otp), abroad);
        assert_eq!(told("33", MessageClass::Otp), None);
    }
}
