//! What ingress tells the audit log, without ever holding up a message (AUD-1).

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use sotto_bus::{Act, Bus};
use sotto_core::TenantId;
use sotto_metrics::Counter;

use crate::metrics::IngressMetrics;

pub use sotto_bus::AuditCategory as Category;

/// Denials are told as sums over this time.
pub const SUM_OVER: Duration = Duration::from_secs(10);

/// Takes acts. Clones share everything.
#[derive(Clone, Debug)]
pub struct AuditTrail {
    trail: sotto_bus::AuditTrail,
    denials: Arc<Denials>,
}

/// Denied calls and refused requests.
#[derive(Debug)]
struct Denials {
    metrics: IngressMetrics,
    /// By action and reason.
    untold: Mutex<BTreeMap<(&'static str, &'static str), Denied>>,
}

#[derive(Debug)]
struct Denied {
    untold: u64,
    all: Counter,
}

impl AuditTrail {
    /// A trail of this process.
    pub fn start(bus: &Bus, metrics: IngressMetrics) -> Self {
        Self { trail: sotto_bus::AuditTrail::start(bus), denials: Arc::new(Denials::new(metrics)) }
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
    fn new(metrics: IngressMetrics) -> Self {
        Self { metrics, untold: Mutex::default() }
    }

    fn count(&self, action: &'static str, reason: &'static str) {
        let mut denied = self.untold.lock().unwrap_or_else(PoisonError::into_inner);
        let first = || Denied { untold: 0, all: self.metrics.denied(action, reason) };
        let denied = denied.entry((action, reason)).or_insert_with(first);
        denied.untold += 1;
        denied.all.one();
    }

    fn take(&self) -> BTreeMap<(&'static str, &'static str), u64> {
        let mut denied = self.untold.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = denied.iter_mut().map(|(of, denied)| (*of, std::mem::take(&mut denied.untold)));
        taken.filter(|(_, untold)| *untold > 0).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn denials_are_summed_up_and_told_once() {
        let metrics = sotto_metrics::Metrics::default();
        let denials = Denials::new(IngressMetrics::new(&metrics));
        for _ in 0..1000 {
            denials.count("token.denied", "expired");
        }
        denials.count("submission.refused", "expired");
        let summed =
            BTreeMap::from([(("token.denied", "expired"), 1000), (("submission.refused", "expired"), 1)]);
        assert_eq!(denials.take(), summed);
        assert!(denials.take().is_empty());
        assert!(metrics.page().contains("{action=\"token.denied\",reason=\"expired\"} 1000\n"));
    }
}
