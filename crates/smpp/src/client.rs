//! The side that binds: an ESME towards a carrier.

use crate::{
    COctets, Command, CommandId, CommandStatus, EncodeError, Framing, FramingError, Header, Pdu, RawPdu,
    Session, SessionOptions, Tolerance,
    link::{Role, open},
    pdu::{Address, Bind, BindKind, BindResp, INTERFACE_VERSION_34},
};
use bytes::BytesMut;
use futures::StreamExt;
use std::{io, time::Duration};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf},
    time::timeout,
};
use tokio_util::codec::FramedRead;

/// The sequence number of the bind; requests follow it.
const BIND_SEQUENCE: u32 = 1;

/// How long the end of a connection without a session may take.
const FAREWELL: Duration = Duration::from_secs(1);

/// Who binds, and how. `Debug` shows neither name nor password.
#[derive(Clone, Debug)]
pub struct BindOptions {
    /// Directions.
    pub kind: BindKind,
    /// Our name at the carrier, at most 15 octets.
    pub system_id: COctets,
    /// Our password, at most 8 octets.
    pub password: COctets,
    /// Kind of system, at most 12 octets.
    pub system_type: COctets,
    /// 0x34 for 3.4.
    pub interface_version: u8,
    /// The addresses we serve.
    pub address_range: Address,
    /// What is forgiven to the carrier.
    pub tolerance: Tolerance,
}

impl BindOptions {
    /// A transceiver bind of version 3.4 with a name and a password.
    pub fn transceiver(system_id: impl Into<COctets>, password: impl Into<COctets>) -> Self {
        Self {
            kind: BindKind::Transceiver,
            system_id: system_id.into(),
            password: password.into(),
            system_type: COctets::default(),
            interface_version: INTERFACE_VERSION_34,
            address_range: Address::default(),
            tolerance: Tolerance::CARRIER,
        }
    }
}

/// Why there is no session. Nothing was submitted in any of these cases.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// The options break a limit of SMPP.
    #[error("bind cannot be encoded")]
    Encode(#[source] EncodeError),
    /// The peer refused.
    #[error("bind refused with {0}")]
    Refused(CommandStatus),
    /// No answer within the response timeout.
    #[error("bind was not answered in time")]
    TimedOut,
    /// The peer closed the connection.
    #[error("connection closed during bind")]
    Closed,
    /// The peer does not speak SMPP.
    #[error("peer's answer is not SMPP")]
    Framing(#[source] FramingError),
    /// The transport failed.
    #[error("transport failed during bind")]
    Io(#[source] io::Error),
}

/// Binds over a connection that is already made (and already encrypted, where it must be).
///
/// # Errors
/// See [`BindError`]; the connection is closed.
pub async fn bind<T, IO>(
    io: IO,
    bind: BindOptions,
    options: SessionOptions,
) -> Result<(Session<T>, BindResp), BindError>
where
    T: Send + 'static,
    IO: AsyncRead + AsyncWrite + Send + 'static,
{
    let (reader, mut writer) = tokio::io::split(io);
    let mut frames = FramedRead::new(reader, Framing::new(options.max_pdu));
    let (kind, tolerance) = (bind.kind, bind.tolerance);
    let handshake = handshake(&mut frames, &mut writer, bind);
    let bound = timeout(options.response_timeout, handshake).await.unwrap_or(Err(BindError::TimedOut));
    let resp = match bound {
        Ok(resp) => resp,
        Err(error) => {
            // Inside TLS a peer that is not told of the end must take it for a cut (RFC 8446 §6.1).
            let _gone = timeout(FAREWELL, writer.shutdown()).await;
            return Err(error);
        }
    };
    let next = BIND_SEQUENCE.saturating_add(1);
    let session = open((frames, writer), Role::Client, kind, options, tolerance, next);
    Ok((session, resp))
}

async fn handshake<IO: AsyncRead + AsyncWrite>(
    frames: &mut FramedRead<ReadHalf<IO>, Framing>,
    writer: &mut WriteHalf<IO>,
    options: BindOptions,
) -> Result<BindResp, BindError> {
    let BindOptions { kind, system_id, password, system_type, interface_version, address_range, tolerance } =
        options;
    let bind = Bind { kind, system_id, password, system_type, interface_version, address_range };
    let command = Command { status: CommandStatus::ESME_ROK, sequence: BIND_SEQUENCE, pdu: Pdu::Bind(bind) };
    let mut octets = BytesMut::new();
    command.encode(&mut octets).map_err(BindError::Encode)?;
    loop {
        writer.write_all(&octets).await.map_err(BindError::Io)?;
        writer.flush().await.map_err(BindError::Io)?;
        octets.clear();
        let raw = match frames.next().await {
            None => return Err(BindError::Closed),
            Some(Err(FramingError::Io(error))) => return Err(BindError::Io(error)),
            Some(Err(error)) => return Err(BindError::Framing(error)),
            Some(Ok(raw)) => raw,
        };
        if let Some(resp) = answer(&raw, kind, tolerance)? {
            return Ok(resp);
        }
        if raw.header.id == CommandId::ENQUIRE_LINK {
            let Header { sequence, .. } = raw.header;
            Header { id: CommandId::ENQUIRE_LINK_RESP, status: CommandStatus::ESME_ROK, sequence }
                .encode_alone(&mut octets);
        }
    }
}

/// The peer's word on our bind, if this PDU is it.
fn answer(raw: &RawPdu, kind: BindKind, tolerance: Tolerance) -> Result<Option<BindResp>, BindError> {
    let Header { id, status, sequence } = raw.header;
    if id == CommandId::GENERIC_NACK {
        return Err(BindError::Refused(status));
    }
    if !Bind::is_response(id) || sequence != BIND_SEQUENCE {
        return Ok(None);
    }
    if !status.is_ok() {
        return Err(BindError::Refused(status));
    }
    // A success whose body cannot be read is a success: the name in it is only told.
    match raw.decode_with(tolerance) {
        Ok(Pdu::BindResp(resp)) => Ok(Some(resp)),
        Ok(_) | Err(_) => Ok(Some(BindResp::empty(kind))),
    }
}
