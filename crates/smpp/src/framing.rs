//! Cuts the byte stream into PDUs. This is the only place that looks at `command_length`, so nothing that a PDU
//! holds can reach into its neighbours.

use crate::{
    command::{CommandId, HEADER_LENGTH, Header},
    octets::{DecodeError, EncodeError, Tolerance},
    pdu::{Command, Pdu},
};
use bytes::{Buf, Bytes, BytesMut};
use std::{fmt, io};
use tokio_util::codec::{Decoder, Encoder};

/// The largest PDU taken unless told otherwise, in octets.
pub const DEFAULT_MAX_PDU: u32 = 65_536;

/// A PDU whose extent is known and whose body is not read yet.
#[derive(Clone, PartialEq, Eq)]
pub struct RawPdu {
    /// Its header.
    pub header: Header,
    /// Everything after the header, and nothing more.
    pub body: Bytes,
}

impl RawPdu {
    /// Reads the body by the letter.
    pub fn decode(&self) -> Result<Pdu, DecodeError> {
        self.decode_with(Tolerance::STRICT)
    }

    /// Reads the body as far as `tolerance` goes.
    pub fn decode_with(&self, tolerance: Tolerance) -> Result<Pdu, DecodeError> {
        Pdu::decode_with(self.header.id, self.body.clone(), tolerance)
    }
}

impl fmt::Debug for RawPdu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} body[{} octets]", self.header, self.body.len())
    }
}

/// Why the stream cannot be cut further. The session answers and closes: where the next PDU starts is unknown.
#[derive(Debug, thiserror::Error)]
pub enum FramingError {
    /// `command_length` is below 16 or above the limit; answer `generic_nack` with `ESME_RINVCMDLEN`.
    #[error("command_length {length} is not between 16 and the limit")]
    Length {
        /// What it was.
        length: u32,
        /// The sequence number to name in the `generic_nack`; 0 when there was none to read.
        sequence: u32,
    },
    /// The stream ended inside a PDU.
    #[error("stream ended inside a PDU")]
    Truncated,
    /// A PDU of ours cannot be written.
    #[error("PDU cannot be encoded")]
    Encode(#[source] EncodeError),
    /// The transport failed.
    #[error("transport failed")]
    Io(#[source] io::Error),
}

impl From<io::Error> for FramingError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// The codec: octets to [`RawPdu`], [`Command`] to octets.
#[derive(Clone, Copy, Debug)]
pub struct Framing {
    max_pdu: u32,
}

impl Framing {
    /// A codec that refuses PDUs above `max_pdu` octets.
    pub const fn new(max_pdu: u32) -> Self {
        Self { max_pdu }
    }
}

impl Default for Framing {
    fn default() -> Self {
        Self::new(DEFAULT_MAX_PDU)
    }
}

impl Decoder for Framing {
    type Item = RawPdu;
    type Error = FramingError;

    fn decode(&mut self, stream: &mut BytesMut) -> Result<Option<RawPdu>, FramingError> {
        let Some(length) = stream.first_chunk::<4>().map(|octets| u32::from_be_bytes(*octets)) else {
            return Ok(None);
        };
        let size = usize::try_from(length).unwrap_or(usize::MAX);
        if size < HEADER_LENGTH {
            return Err(FramingError::Length { length, sequence: 0 });
        }
        let Some((_, rest)) = stream.split_first_chunk::<4>() else { return Ok(None) };
        let Some(header) = rest.first_chunk().map(Header::read) else { return Ok(None) };
        if length > self.max_pdu {
            return Err(FramingError::Length { length, sequence: header.sequence });
        }
        if stream.len() < size {
            // No room is made ahead: a peer that only announces a large PDU must not get our memory for it.
            return Ok(None);
        }
        let mut body = stream.split_to(size).freeze();
        body.advance(HEADER_LENGTH);
        Ok(Some(RawPdu { header, body }))
    }

    fn decode_eof(&mut self, stream: &mut BytesMut) -> Result<Option<RawPdu>, FramingError> {
        match self.decode(stream)? {
            Some(pdu) => Ok(Some(pdu)),
            None if stream.is_empty() => Ok(None),
            None => Err(FramingError::Truncated),
        }
    }
}

impl Encoder<&Command> for Framing {
    type Error = FramingError;

    fn encode(&mut self, command: &Command, out: &mut BytesMut) -> Result<(), FramingError> {
        command.encode(out).map_err(FramingError::Encode)
    }
}

/// The header-only answer to a request that cannot be served: its own response, or `generic_nack` when the
/// command itself is unknown (SMPP 3.4 §4.3).
pub(crate) fn error_response(request: Header, known: bool, status: crate::CommandStatus) -> Header {
    let id = if known { request.id.response() } else { CommandId::GENERIC_NACK };
    Header { id, status, sequence: request.sequence }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::CommandStatus;

    fn enquire(sequence: u32) -> BytesMut {
        let mut out = BytesMut::new();
        Command { status: CommandStatus::ESME_ROK, sequence, pdu: Pdu::EnquireLink }
            .encode(&mut out)
            .unwrap();
        out
    }

    #[test]
    fn waits_for_a_whole_pdu_and_leaves_the_rest() {
        let mut wire = enquire(1);
        wire.extend_from_slice(&enquire(2));
        let mut stream = BytesMut::new();
        let mut codec = Framing::default();
        let mut sequences = Vec::new();
        for octet in wire {
            stream.extend_from_slice(&[octet]);
            sequences.extend(codec.decode(&mut stream).unwrap().map(|pdu| pdu.header.sequence));
        }
        assert_eq!(sequences, [1, 2]);
        assert!(stream.is_empty());
    }

    #[test]
    fn refuses_lengths_outside_the_limits() {
        let mut codec = Framing::new(64);
        let mut short = BytesMut::from(&[0, 0, 0, 15][..]);
        assert!(matches!(codec.decode(&mut short), Err(FramingError::Length { length: 15, sequence: 0 })));
        let mut long = enquire(7);
        long[3] = 65;
        assert!(matches!(codec.decode(&mut long), Err(FramingError::Length { length: 65, sequence: 7 })));
    }

    #[test]
    fn a_stream_that_ends_inside_a_pdu_is_an_error() {
        let mut half = enquire(1).split_to(9);
        assert!(matches!(Framing::default().decode_eof(&mut half), Err(FramingError::Truncated)));
        assert!(matches!(Framing::default().decode_eof(&mut BytesMut::new()), Ok(None)));
    }
}
