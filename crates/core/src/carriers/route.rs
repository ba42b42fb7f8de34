//! Reads one `[[route]]`.

use std::collections::BTreeSet;

use toml::Table;

use super::{
    CarrierFileError, Route, WeightedAccount,
    read::{self, Section},
};
use crate::{AccountId, facts::MessageClass, number::OperatorRange};

/// What could be read of a route: enough to check the rest of the file even if the route has problems.
#[derive(Debug)]
pub(super) struct RouteDraft {
    pub(super) path: String,
    pub(super) prefix: Option<OperatorRange>,
    /// Outer `None`: not readable; inner `None`: all classes.
    pub(super) classes: Option<Option<BTreeSet<MessageClass>>>,
    /// The accounts named, each with the path of its name.
    pub(super) names: Vec<(String, AccountId)>,
    /// Whether every name could be read.
    pub(super) names_complete: bool,
    pub(super) route: Option<Route>,
}

pub(super) fn read(path: String, table: &Table, errors: &mut Vec<CarrierFileError>) -> RouteDraft {
    let mut section = Section::new(path.clone(), table, errors);
    let s = &mut section;
    let prefix = s.required(
        "prefix",
        "give a country code such as \"84\", or a block of a Vietnamese operator such as \"8498\"",
        |v| {
            let prefix: OperatorRange = read::text(v)?
                .parse()
                .map_err(|_| "is not 1 to 7 digits, without + or leading 0".to_owned())?;
            if prefix.countries().is_empty() {
                return Err(format!("is {prefix}, with which no number's range begins"));
            }
            Ok(prefix)
        },
    );
    let classes = s.optional(
        "classes",
        "list some of otp, transactional, promotional and ad-invite, or leave it out for all",
        |v| {
            let classes = read::filled_list(v, |word| word.parse().map_err(|_| "is not a class".to_owned()))?;
            Ok(classes.into_iter().collect::<BTreeSet<MessageClass>>())
        },
    );
    let mut names = Vec::new();
    let mut accounts = Vec::new();
    let fix = "name at least one account with its weight: [{ id = \"...\", weight = 100 }]";
    let entries = s.tables("accounts", fix);
    let entries_read = !entries.is_empty();
    for (path, table) in entries {
        let mut entry = s.inner(path, table);
        let id: Option<AccountId> =
            entry.required("id", "give the id of an [[account]]", |v| account_id(read::text(v)?));
        let weight =
            entry.required("weight", "give a whole number from 1 to 100", |v| read::integer(v, 1..=100));
        if let Some(id) = &id {
            names.push((entry.path_of("id"), id.clone()));
        }
        entry.finish();
        accounts.push((id, weight));
    }
    let fallback = s.or("fallback", Vec::new(), "list ids of [[account]]s, or leave it out", |v| {
        read::list(v, account_id)
    });
    let fallback_path = s.path_of("fallback");
    names.extend(fallback.iter().flatten().map(|id| (fallback_path.clone(), id.clone())));
    section.finish();

    let names_complete = entries_read && fallback.is_some() && accounts.iter().all(|(id, _)| id.is_some());
    let assemble = || {
        let weighted =
            accounts.into_iter().map(|(id, weight)| Some(WeightedAccount { id: id?, weight: weight? }));
        Some(Route {
            prefix: prefix?,
            classes: classes.clone()?,
            accounts: weighted.collect::<Option<Vec<_>>>().filter(|accounts| !accounts.is_empty())?,
            fallback: fallback?,
        })
    };
    let route = assemble();
    RouteDraft { path, prefix, classes, names, names_complete, route }
}

fn account_id(id: &str) -> Result<AccountId, String> {
    id.parse().map_err(|_| "is not an account id".to_owned())
}
