//! What goes over a session, told to whoever looks: never an address, a text, an id or a password.

use super::state::Shared;
use crate::{Framing, Header, RawPdu};
use bytes::BytesMut;
use tokio::sync::broadcast;
use tokio_util::codec::Decoder as _;

/// PDUs that may wait for one who looks; who is slower misses the oldest, and is told how many.
const WAITING: usize = 1_024;

/// One PDU, without its contents.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Traced {
    /// From us to the peer.
    pub outgoing: bool,
    /// Command, status and sequence number.
    pub header: Header,
    /// Its length, header included.
    pub octets: usize,
    /// What is not personal of its fields; the error if it cannot be read.
    pub fields: String,
}

impl<T> Shared<T> {
    /// Tells of PDUs from now on.
    pub(super) fn traced(&self) -> broadcast::Receiver<Traced> {
        self.trace.get_or_init(|| broadcast::Sender::new(WAITING)).subscribe()
    }

    /// Somebody who looks.
    fn looked_at(&self) -> Option<&broadcast::Sender<Traced>> {
        self.trace.get().filter(|trace| trace.receiver_count() > 0)
    }

    /// A PDU has come.
    pub(super) fn trace_incoming(&self, raw: &RawPdu) {
        if let Some(trace) = self.looked_at() {
            self.tell(trace, raw, false);
        }
    }

    /// These are written now, whole ones.
    pub(super) fn trace_outgoing(&self, octets: &BytesMut) {
        let Some(trace) = self.looked_at() else { return };
        let mut octets = octets.clone();
        let mut framing = Framing::default();
        while let Ok(Some(raw)) = framing.decode(&mut octets) {
            self.tell(trace, &raw, true);
        }
    }

    fn tell(&self, trace: &broadcast::Sender<Traced>, raw: &RawPdu, outgoing: bool) {
        let read = raw.decode_with(self.tolerance);
        let fields = read.map_or_else(|error| error.to_string(), |pdu| format!("{pdu:?}"));
        let octets = raw.body.len().saturating_add(crate::command::HEADER_LENGTH);
        // Whoever looked may have gone.
        let _heard = trace.send(Traced { outgoing, header: raw.header, octets, fields });
    }
}
