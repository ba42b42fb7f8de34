//! Whose bucket a key is for: everybody's of a cell, or one tenant's own.

use std::{fmt, str::FromStr};

use sotto_core::TenantId;

use super::bucket::{Bucket, InvalidBucket};

/// The longest name of a tenant with keys of its own: a keystore's names have 64 characters.
pub const LONGEST_OWNER: usize = 35;

/// A bucket and whose it is: `transactional/2026-11-28`, or `transactional/2026-11-28@bank`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// What is in it, and when it dies.
    pub bucket: Bucket,
    /// The tenant that it is for; none: every tenant that has no keys of its own.
    pub owner: Option<TenantId>,
}

impl Place {
    /// The one that takes its place.
    pub fn next(&self) -> Option<Self> {
        Some(Self { bucket: self.bucket.next()?, owner: self.owner.clone() })
    }

    /// Whether keys of this tenant may hang on it.
    pub fn is_for(&self, tenant: &TenantId) -> bool {
        self.owner.as_ref().is_none_or(|owner| owner == tenant)
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.owner {
            Some(owner) => write!(f, "{}@{owner}", self.bucket),
            None => self.bucket.fmt(f),
        }
    }
}

impl FromStr for Place {
    type Err = InvalidBucket;

    fn from_str(name: &str) -> Result<Self, InvalidBucket> {
        let Some((bucket, owner)) = name.split_once('@') else {
            return Ok(Self { bucket: name.parse()?, owner: None });
        };
        let owner = owner.parse().map_err(|_| InvalidBucket)?;
        Ok(Self { bucket: bucket.parse()?, owner: Some(owner) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tenants_own_bucket_has_one_spelling_and_is_for_nobody_else() {
        let own: Place = "transactional/2026-11-28.999@bank".parse().unwrap();
        assert_eq!(own.to_string(), "transactional/2026-11-28.999@bank");
        let tenant = |name: &str| name.parse::<TenantId>().unwrap();
        assert!(own.is_for(&tenant("bank")) && !own.is_for(&tenant("acme")));
        let all: Place = "transactional/2026-11-28".parse().unwrap();
        assert!(all.owner.is_none() && all.is_for(&tenant("bank")));
        for wrong in
            ["otp/2026-11-24T06@", "otp/2026-11-24T06@Bank", "otp/2026-11-24T06@a@b", "@bank", "x@bank"]
        {
            assert_eq!(wrong.parse::<Place>(), Err(InvalidBucket), "{wrong}");
        }
    }

    #[test]
    fn the_longest_name_fits_into_a_keystore() {
        let owner = "a".repeat(LONGEST_OWNER);
        let name = format!("transactional/2026-11-28.999@{owner}");
        assert_eq!(name.parse::<Place>().unwrap().to_string(), name);
        assert_eq!(name.len(), 64);
    }

    #[test]
    fn what_takes_its_place_is_for_the_same_tenant() {
        let own: Place = "otp/2026-11-24T06@bank".parse().unwrap();
        assert_eq!(own.next().unwrap().to_string(), "otp/2026-11-24T06.2@bank");
    }
}
