//! The side that is bound to: a carrier towards its partners.

use crate::{
    COctets, Command, CommandId, CommandStatus, DecodeError, Framing, FramingError, Header, Pdu, Session,
    SessionOptions, Tolerance,
    framing::error_response,
    link::{Role, open},
    pdu::{Bind, BindResp, INTERFACE_VERSION_34, is_known_request},
    tlv::{Tlvs, tag},
};
use bytes::BytesMut;
use futures::StreamExt;
use std::{fmt, io};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf},
    time::timeout,
};
use tokio_util::codec::FramedRead;

/// PDUs that a peer may send before its bind.
const PATIENCE: usize = 8;

/// The largest PDU taken before a bind, in octets: a stranger gets no more of our memory. A bind of full fields
/// takes 98.
const STRANGER_MAX_PDU: u32 = 1024;

/// Octets of read buffer for a bound partner.
const READ_BUFFER: usize = 8 * 1024;

/// Why a connection did not come to a bind.
#[derive(Debug, thiserror::Error)]
pub enum AcceptError {
    /// No bind within the response timeout.
    #[error("no bind in time")]
    TimedOut,
    /// The peer closed the connection.
    #[error("connection closed before a bind")]
    Closed,
    /// The peer sent other things than a bind.
    #[error("peer does not bind")]
    NoBind,
    /// The bind cannot be read.
    #[error("bind cannot be read")]
    Decode(#[source] DecodeError),
    /// The peer does not speak SMPP.
    #[error("peer does not speak SMPP")]
    Framing(#[source] FramingError),
    /// The transport failed.
    #[error("transport failed before a bind")]
    Io(#[source] io::Error),
}

/// A bind that waits for a decision.
pub struct BindRequest<IO> {
    /// What the peer sent.
    pub bind: Bind,
    sequence: u32,
    frames: FramedRead<ReadHalf<IO>, Framing>,
    writer: WriteHalf<IO>,
    options: SessionOptions,
    tolerance: Tolerance,
}

impl<IO> fmt::Debug for BindRequest<IO> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BindRequest").field("bind", &self.bind).finish_non_exhaustive()
    }
}

/// Waits for the bind on a new connection. Everything is read by the letter.
///
/// # Errors
/// See [`AcceptError`]; the connection is answered where SMPP says so and dropped.
pub async fn accept<IO>(io: IO, options: SessionOptions) -> Result<BindRequest<IO>, AcceptError>
where
    IO: AsyncRead + AsyncWrite + Send + 'static,
{
    accept_with(io, options, Tolerance::STRICT).await
}

/// Waits for the bind on a new connection of a partner to whom some things are forgiven.
///
/// # Errors
/// See [`AcceptError`]; the connection is answered where SMPP says so and dropped.
pub async fn accept_with<IO>(
    io: IO,
    options: SessionOptions,
    tolerance: Tolerance,
) -> Result<BindRequest<IO>, AcceptError>
where
    IO: AsyncRead + AsyncWrite + Send + 'static,
{
    let (reader, mut writer) = tokio::io::split(io);
    let framing = Framing::new(options.max_pdu.min(STRANGER_MAX_PDU));
    let mut frames = FramedRead::with_capacity(reader, framing, 256);
    let first = timeout(options.response_timeout, wait_for_bind(&mut frames, &mut writer, tolerance));
    let (bind, sequence) = first.await.map_err(|_| AcceptError::TimedOut)??;
    Ok(BindRequest { bind, sequence, frames, writer, options, tolerance })
}

async fn wait_for_bind<IO: AsyncRead + AsyncWrite>(
    frames: &mut FramedRead<ReadHalf<IO>, Framing>,
    writer: &mut WriteHalf<IO>,
    tolerance: Tolerance,
) -> Result<(Bind, u32), AcceptError> {
    for _ in 0..PATIENCE {
        let raw = match frames.next().await {
            None => return Err(AcceptError::Closed),
            Some(Err(FramingError::Io(error))) => return Err(AcceptError::Io(error)),
            Some(Err(error)) => {
                if let FramingError::Length { sequence, .. } = error {
                    let status = CommandStatus::ESME_RINVCMDLEN;
                    say(writer, Header { id: CommandId::GENERIC_NACK, status, sequence }).await?;
                }
                return Err(AcceptError::Framing(error));
            }
            Some(Ok(raw)) => raw,
        };
        let header = raw.header;
        match raw.decode_with(tolerance) {
            Ok(Pdu::Bind(bind)) => return Ok((bind, header.sequence)),
            Ok(Pdu::EnquireLink) => {
                say(writer, error_response(header, true, CommandStatus::ESME_ROK)).await?;
            }
            Ok(_) if !header.id.wants_response() => {}
            Ok(_) if is_known_request(header.id) => {
                say(writer, error_response(header, true, CommandStatus::ESME_RINVBNDSTS)).await?;
            }
            Ok(_) => say(writer, error_response(header, false, CommandStatus::ESME_RINVCMDID)).await?,
            Err(_) if !header.id.wants_response() => {}
            Err(error) => {
                say(writer, error_response(header, is_known_request(header.id), error.status())).await?;
                return Err(AcceptError::Decode(error));
            }
        }
    }
    Err(AcceptError::NoBind)
}

async fn say<W: AsyncWrite + Unpin>(writer: &mut W, header: Header) -> Result<(), AcceptError> {
    let mut octets = BytesMut::new();
    header.encode_alone(&mut octets);
    writer.write_all(&octets).await.map_err(AcceptError::Io)?;
    writer.flush().await.map_err(AcceptError::Io)
}

impl<IO: AsyncRead + AsyncWrite + Send + 'static> BindRequest<IO> {
    /// Lets the peer in; the answer is the first thing the session's driver writes.
    pub fn accept<T: Send + 'static>(self, system_id: &COctets) -> Session<T> {
        let Self { bind, sequence, mut frames, writer, options, tolerance } = self;
        *frames.decoder_mut() = Framing::new(options.max_pdu);
        frames.read_buffer_mut().reserve(READ_BUFFER);
        // A name too long for the field is told as none: the peer does nothing with it.
        let system_id = if system_id.len() < 16 { system_id.clone() } else { COctets::default() };
        let tlvs = Tlvs::new().with_u8(tag::SC_INTERFACE_VERSION, INTERFACE_VERSION_34);
        let pdu = Pdu::BindResp(BindResp { kind: bind.kind, system_id, tlvs });
        let session = open((frames, writer), Role::Server, bind.kind, options, tolerance, 1);
        let mut octets = BytesMut::new();
        let answer = Command { status: CommandStatus::ESME_ROK, sequence, pdu };
        match answer.encode(&mut octets) {
            Ok(()) => session.link.send_raw(&octets),
            Err(error) => {
                tracing::error!(%error, "bind answer cannot be encoded");
                session.link.abort();
            }
        }
        session
    }

    /// Refuses the bind and closes.
    ///
    /// # Errors
    /// The transport failed; the peer may not have heard it.
    pub async fn refuse(mut self, status: CommandStatus) -> Result<(), AcceptError> {
        let id = Pdu::Bind(self.bind).id().response();
        say(&mut self.writer, Header { id, status, sequence: self.sequence }).await?;
        self.writer.shutdown().await.map_err(AcceptError::Io)
    }
}
