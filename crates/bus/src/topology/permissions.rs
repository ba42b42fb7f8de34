//! Least subjects: what each service may publish and subscribe, derived from the list of streams.

use std::collections::BTreeSet;

use super::{
    Topology,
    expand::{Cell, stream_name, whole},
};
use crate::{Service, requests::QUEUE, subject};
use sotto_core::{CellId, TenantId};

/// What a NATS user may do. Everything else is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Permissions {
    /// Subjects it may publish to, sorted.
    pub publish: Vec<String>,
    /// Subjects it may subscribe to, sorted.
    pub subscribe: Vec<String>,
}

/// The permissions of one service or tool in a cell.
pub fn permissions(topology: &Topology, service: Service, cell: &Cell) -> Permissions {
    let mut publish = BTreeSet::new();
    for stream in &topology.streams {
        let name = stream_name(&cell.id, &stream.name);
        let mut touches = false;
        for publisher in stream.publishers.iter().filter(|publisher| publisher.service.includes(service)) {
            publish.extend(whole(&cell.id, &publisher.subjects_of(service)));
            touches = true;
        }
        for consumer in stream.consumers.iter().filter(|consumer| consumer.service == service) {
            for consumer in consumers(topology, cell, &stream.name, &consumer.name) {
                publish.insert(format!("$JS.API.CONSUMER.MSG.NEXT.{name}.{consumer}"));
                publish.insert(format!("$JS.API.CONSUMER.INFO.{name}.{consumer}"));
                publish.insert(format!("$JS.ACK.{name}.{consumer}.>"));
            }
            touches = true;
        }
        if service == Service::Operator || stream.readers.iter().any(|reader| reader.service == service) {
            publish.insert(format!("$JS.API.DIRECT.GET.{name}"));
            touches = true;
        }
        if stream.readers.iter().any(|reader| reader.service == service && reader.deletes) {
            publish.insert(format!("$JS.API.STREAM.MSG.DELETE.{name}"));
        }
        if stream.readers.iter().any(|reader| reader.service == service && reader.trims) {
            publish.insert(format!("$JS.API.STREAM.PURGE.{name}"));
        }
        match service {
            Service::Operator => {
                publish.insert(format!("$JS.API.CONSUMER.INFO.{name}.*"));
            }
            Service::Provisioner => {
                publish.insert(format!("$JS.API.STREAM.CREATE.{name}"));
                publish.insert(format!("$JS.API.STREAM.UPDATE.{name}"));
                publish.insert(format!("$JS.API.CONSUMER.CREATE.{name}.*"));
                publish.insert(format!("$JS.API.CONSUMER.INFO.{name}.*"));
                publish.insert(format!("$JS.API.CONSUMER.NAMES.{name}"));
                touches = true;
            }
            Service::Ingress
            | Service::Routing
            | Service::Carrier
            | Service::Identity
            | Service::Privacy
            | Service::Audit => {}
        }
        if touches {
            // Settings are read back at start.
            publish.insert(format!("$JS.API.STREAM.INFO.{name}"));
        }
    }
    let mut subscribe = vec![format!("{}.>", inbox_prefix(service))];
    for asked in topology.requests.iter().filter(|asked| asked.service == service) {
        // Only as one of those who share them, so that no process can listen beside them.
        for subject in whole(&cell.id, std::slice::from_ref(&asked.subject)) {
            subscribe.push(format!("{subject} {QUEUE}"));
        }
        publish.insert(ANSWERS.to_owned());
    }
    Permissions { publish: publish.into_iter().collect(), subscribe }
}

/// Where answers to another account go: the broker puts a subject of its own in the place of the client's inbox, so that
/// who answers can reach nothing but that inbox, whatever a client named as one.
const ANSWERS: &str = "_R_.>";

/// What the NATS user of a client may do: ask as its tenant, and hear its own answers.
pub fn client_permissions(cell: &CellId, tenant: &TenantId, client: &str) -> Permissions {
    Permissions {
        publish: vec![subject::submit(cell, tenant)],
        subscribe: vec![format!("{}.>", client_inbox(client))],
    }
}

/// The inboxes of a client.
pub(crate) fn client_inbox(client: &str) -> String {
    format!("_INBOX.{client}")
}

/// Each service has inboxes of its own: nobody hears another's answers.
pub(crate) fn inbox_prefix(service: Service) -> String {
    format!("_INBOX.{service}")
}

/// The names a consumer with placeholders has in permissions: all of them, or `*` where accounts come and go.
fn consumers(topology: &Topology, cell: &Cell, stream: &str, template: &str) -> Vec<String> {
    if template.contains("{account}") {
        return vec!["*".to_owned()];
    }
    let whole_name = stream_name(&cell.id, stream);
    topology
        .consumers(cell, &[])
        .unwrap_or_default()
        .into_iter()
        .filter(|spec| spec.stream == whole_name && matches(template, &spec.name))
        .map(|spec| spec.name)
        .collect()
}

/// Whether `name` was made from `template`, which has at most one placeholder.
fn matches(template: &str, name: &str) -> bool {
    match (template.find('{'), template.find('}')) {
        (Some(open), Some(close)) => {
            name.starts_with(template.get(..open).unwrap_or_default())
                && name.ends_with(template.get(close + 1..).unwrap_or_default())
                && name.len() > template.len() - (close + 1 - open)
        }
        _ => template == name,
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU16;

    use sotto_core::Shards;

    use super::*;

    fn of(service: Service) -> Permissions {
        let cell = Cell {
            id: "vn".parse().unwrap(),
            shards: Shards::new(NonZeroU16::new(2).unwrap()),
            replicas: sotto_core::Replicas::One,
        };
        permissions(&Topology::embedded().unwrap(), service, &cell)
    }

    #[test]
    fn privacy_may_tell_audit_and_quarantine_and_read_the_index_and_nothing_else() {
        assert_eq!(
            of(Service::Privacy),
            Permissions {
                publish: [
                    "$JS.API.DIRECT.GET.VN_INDEX",
                    "$JS.API.STREAM.INFO.VN_AUDIT",
                    "$JS.API.STREAM.INFO.VN_INDEX",
                    "$JS.API.STREAM.INFO.VN_QUARANTINE",
                    "sotto.v1.vn.audit.privacy.*",
                    "sotto.v1.vn.quarantine.*",
                ]
                .map(ToOwned::to_owned)
                .to_vec(),
                subscribe: vec!["_INBOX.privacy.>".to_owned()],
            }
        );
    }

    #[test]
    fn audit_does_not_get_the_projections_consumers() {
        let audit = of(Service::Audit).publish;
        assert!(audit.contains(&"$JS.API.DIRECT.GET.VN_EVENTS".to_owned()));
        assert!(!audit.iter().any(|subject| subject.starts_with("$JS.ACK.VN_EVENTS")));
        assert!(audit.contains(&"$JS.ACK.VN_AUDIT.audit-acts.>".to_owned()));
        assert!(!audit.iter().any(|subject| subject.contains("projection")));
        let ingress = of(Service::Ingress).publish;
        assert!(ingress.contains(&"$JS.API.CONSUMER.MSG.NEXT.VN_EVENTS.projection-1".to_owned()));
        assert!(!ingress.iter().any(|subject| subject.contains("audit-acts")));
    }

    #[test]
    fn nobody_may_delete_or_purge_but_what_was_moved_or_closed() {
        let moved = "$JS.API.STREAM.MSG.DELETE.VN_SCHEDULED";
        let purged = ["AUDIT", "CARRIED", "EVENTS"].map(|stream| format!("STREAM.PURGE.VN_{stream}"));
        let left = "STREAM.MSG.DELETE.VN_CARRIED".to_owned();
        let closed: Vec<_> = purged.into_iter().chain([left]).map(|api| format!("$JS.API.{api}")).collect();
        assert!(closed.iter().all(|subject| of(Service::Audit).publish.contains(subject)));
        for service in Service::ALL {
            for subject in of(service).publish {
                let moves = service == Service::Ingress && subject == moved;
                if moves || (service == Service::Audit && closed.contains(&subject)) {
                    continue;
                }
                assert!(!subject.contains("DELETE") && !subject.contains("PURGE"), "{service}: {subject}");
                assert!(!subject.starts_with('>') && subject != "$JS.API.>", "{service}: {subject}");
            }
        }
    }
}
