//! Checks what no account or route shows alone.

use std::collections::BTreeSet;

use super::{CarrierFileError, Countries, account::AccountDraft, route::RouteDraft};
use crate::{AccountId, facts::MessageClass, number::Country};

pub(super) fn check(accounts: &[AccountDraft], routes: &[RouteDraft], errors: &mut Vec<CarrierFileError>) {
    unique_ids(accounts, errors);
    known_names(accounts, routes, errors);
    one_route_for_each_message(routes, errors);
    if routes.iter().all(|route| route.names_complete) && !routes.is_empty() {
        every_account_used(accounts, routes, errors);
    }
    served_countries(accounts, routes, errors);
    licences(accounts, routes, errors);
}

fn push(errors: &mut Vec<CarrierFileError>, path: String, problem: String, fix: &str) {
    errors.push(CarrierFileError { path, problem, fix: fix.to_owned() });
}

fn unique_ids(accounts: &[AccountDraft], errors: &mut Vec<CarrierFileError>) {
    for (index, account) in accounts.iter().enumerate() {
        let earlier = accounts.iter().take(index).find(|other| other.id.is_some() && other.id == account.id);
        if let Some(other) = earlier {
            let problem = format!("is the id of {} too", other.path);
            push(errors, format!("{}.id", account.path), problem, "give each account its own id");
        }
    }
}

fn known_names(accounts: &[AccountDraft], routes: &[RouteDraft], errors: &mut Vec<CarrierFileError>) {
    let known = |id: &AccountId| accounts.iter().any(|account| account.id.as_ref() == Some(id));
    // With an unreadable id among the accounts, a missing name may well be that account's.
    let ids_complete = !accounts.is_empty() && accounts.iter().all(|account| account.id.is_some());
    for route in routes {
        let mut seen = BTreeSet::new();
        for (path, id) in &route.names {
            if ids_complete && !known(id) {
                push(
                    errors,
                    path.clone(),
                    format!("names {id}, which no [[account]] has"),
                    "mend the name or add the account",
                );
            }
            if !seen.insert(id) {
                push(
                    errors,
                    path.clone(),
                    format!("names {id} a second time in this route"),
                    "name each account once a route",
                );
            }
        }
    }
}

fn one_route_for_each_message(routes: &[RouteDraft], errors: &mut Vec<CarrierFileError>) {
    let clash =
        |one: &Option<BTreeSet<MessageClass>>, other: &Option<BTreeSet<MessageClass>>| match (one, other) {
            (None, None) => true,
            (Some(one), Some(other)) => !one.is_disjoint(other),
            // The route that names the class goes before the one for all classes.
            (None, Some(_)) | (Some(_), None) => false,
        };
    for (index, route) in routes.iter().enumerate() {
        let earlier = routes.iter().take(index).find(|other| {
            let classes = route.classes.as_ref().zip(other.classes.as_ref());
            route.prefix.is_some()
                && route.prefix == other.prefix
                && classes.is_some_and(|(a, b)| clash(a, b))
        });
        if let Some(other) = earlier {
            let problem = format!("has the same prefix and class as {}", other.path);
            push(errors, route.path.clone(), problem, "join the two routes or give them different classes");
        }
    }
}

fn every_account_used(accounts: &[AccountDraft], routes: &[RouteDraft], errors: &mut Vec<CarrierFileError>) {
    let used: BTreeSet<&AccountId> = routes.iter().flat_map(|route| &route.names).map(|(_, id)| id).collect();
    for account in accounts {
        if account.id.as_ref().is_some_and(|id| !used.contains(id)) {
            push(
                errors,
                account.path.clone(),
                "is named by no route".to_owned(),
                "name it in a [[route]] or remove it",
            );
        }
    }
}

fn served_countries(accounts: &[AccountDraft], routes: &[RouteDraft], errors: &mut Vec<CarrierFileError>) {
    for route in routes {
        let Some(prefix) = route.prefix else { continue };
        let reached = prefix.countries();
        for (path, id) in &route.names {
            let account = accounts.iter().find(|account| account.id.as_ref() == Some(id));
            let countries = account.and_then(|account| account.countries.as_ref());
            if countries.is_some_and(|countries| !reached.iter().any(|country| countries.allow(*country))) {
                let problem = format!("names {id}, whose countries leave out all numbers of prefix {prefix}");
                push(
                    errors,
                    path.clone(),
                    problem,
                    "take it out of the route or add the country to the account",
                );
            }
        }
    }
}

/// An account that Vietnamese numbers can reach has the operator's licence, unless it delivers to nobody (INV-4).
fn licences(accounts: &[AccountDraft], routes: &[RouteDraft], errors: &mut Vec<CarrierFileError>) {
    for account in accounts.iter().filter(|account| !account.licensed) {
        let reaches = |route: &RouteDraft| {
            route.names.iter().any(|(_, id)| account.id.as_ref() == Some(id))
                && route.prefix.is_some_and(|prefix| prefix.countries().contains(&Country::VIETNAM))
        };
        let vietnamese = match &account.countries {
            Some(Countries::Only(countries)) => countries.contains(&Country::VIETNAM),
            Some(Countries::All) => routes.iter().any(reaches),
            None => false,
        };
        if vietnamese {
            push(
                errors,
                format!("{}.licence", account.path),
                "is missing, and the account takes Vietnamese numbers".to_owned(),
                "add [account.licence] with type, number and expires, or write simulator = true for a test carrier",
            );
        }
    }
}
