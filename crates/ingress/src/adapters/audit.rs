//! What ingress tells the audit log, without ever holding up a message (AUD-1).

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use sotto_bus::{Act, Bus};
use sotto_core::TenantId;

pub use sotto_bus::AuditCategory as Category;

/// Denials are told as sums over this time.
pub const SUM_OVER: Duration = Duration::from_secs(10);

/// Takes acts. Clones share everything.
#[derive(Clone, Debug)]
pub struct AuditTrail {
    trail: sotto_bus::AuditTrail,
    denials: Arc<Denials>,
}

/// Denied calls and refused requests, by action and reason.
#[derive(Debug, Default)]
struct Denials(Mutex<BTreeMap<(&'static str, &'static str), u64>>);

impl AuditTrail {
    /// A trail of this process.
    pub fn start(bus: &Bus) -> Self {
        Self { trail: sotto_bus::AuditTrail::start(bus), denials: Arc::default() }
    }

    /// Tells an act. Returns at once.
    pub fn tell(
        &self,
        category: Category,
        action: &'static str,
        actor: &str,
        tenant: Option<&TenantId>,
        object: String,
        outcome: &'static str,
    ) {
        let actor = if actor.is_empty() { "ingress" } else { actor }.to_owned();
        self.trail.tell(Act { category, action, actor, tenant: tenant.cloned(), object, outcome });
    }

    /// Counts a denied call; a flood of them makes one record in ten seconds for each reason.
    pub fn denied(&self, reason: &'static str) {
        self.denials.count("token.denied", reason);
    }

    /// Counts a request over the broker that was refused as a whole, in the same way.
    pub fn refused(&self, reason: &'static str) {
        self.denials.count("submission.refused", reason);
    }

    /// Tells the denials since the last time. Called every [`SUM_OVER`] and at the end.
    pub fn tell_denied(&self) {
        for ((action, reason), times) in self.denials.take() {
            self.tell(Category::Authentication, action, "", None, format!("calls={times}"), reason);
        }
    }
}

impl Denials {
    fn count(&self, action: &'static str, reason: &'static str) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner).entry((action, reason)).or_insert(0) += 1;
    }

    fn take(&self) -> BTreeMap<(&'static str, &'static str), u64> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn denials_are_summed_up_and_told_once() {
        let denials = Denials::default();
        for _ in 0..1000 {
            denials.count("token.denied", "expired");
        }
        denials.count("submission.refused", "expired");
        let summed =
            BTreeMap::from([(("token.denied", "expired"), 1000), (("submission.refused", "expired"), 1)]);
        assert_eq!(denials.take(), summed);
        assert!(denials.take().is_empty());
    }
}
