//! Bodies described once: the order of the fields is the order on the wire, in both directions.

use super::{Address, Opaque};
use crate::{
    octets::{COctets, DecodeError, EncodeError, Field, Reader, put_c_octets, put_message, put_time},
    tlv::Tlvs,
};
use bytes::{BufMut, BytesMut};

/// A kind of field.
pub(super) trait Part: Sized {
    fn take(body: &mut Reader, field: Field) -> Result<Self, DecodeError>;
    fn put(&self, out: &mut BytesMut, field: Field) -> Result<(), EncodeError>;
}

impl Part for u8 {
    fn take(body: &mut Reader, _: Field) -> Result<Self, DecodeError> {
        body.u8()
    }

    fn put(&self, out: &mut BytesMut, _: Field) -> Result<(), EncodeError> {
        out.put_u8(*self);
        Ok(())
    }
}

impl Part for COctets {
    fn take(body: &mut Reader, field: Field) -> Result<Self, DecodeError> {
        body.c_octets(field)
    }

    fn put(&self, out: &mut BytesMut, field: Field) -> Result<(), EncodeError> {
        let time = matches!(field, Field::ScheduleDeliveryTime | Field::ValidityPeriod | Field::FinalDate);
        if time { put_time(out, self, field) } else { put_c_octets(out, self, field) }
    }
}

impl Part for Address {
    fn take(body: &mut Reader, field: Field) -> Result<Self, DecodeError> {
        Self::decode(body, field)
    }

    fn put(&self, out: &mut BytesMut, field: Field) -> Result<(), EncodeError> {
        self.encode(out, field)
    }
}

/// `sm_length` and the message.
impl Part for Opaque {
    fn take(body: &mut Reader, _: Field) -> Result<Self, DecodeError> {
        body.message().map(Self)
    }

    fn put(&self, out: &mut BytesMut, _: Field) -> Result<(), EncodeError> {
        put_message(out, &self.0)
    }
}

impl Part for Tlvs {
    fn take(body: &mut Reader, _: Field) -> Result<Self, DecodeError> {
        Self::decode(body)
    }

    fn put(&self, out: &mut BytesMut, _: Field) -> Result<(), EncodeError> {
        self.encode(out)
    }
}

/// A struct whose fields are read and written in their order. `as` names the field whose limit and status count.
macro_rules! body {
    ($(#[$doc:meta])* $name:ident { $($(#[$about:meta])* $field:ident: $type:ty $(as $limit:ident)?,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, Default)]
        pub struct $name {
            $($(#[$about])* pub $field: $type,)*
        }

        impl $name {
            pub(super) fn decode(
                body: &mut $crate::octets::Reader,
            ) -> Result<Self, $crate::octets::DecodeError> {
                Ok(Self { $($field: $crate::pdu::body::Part::take(body, body!(@ $($limit)?))?,)* })
            }

            pub(super) fn encode(&self, out: &mut ::bytes::BytesMut) -> Result<(), $crate::octets::EncodeError> {
                $($crate::pdu::body::Part::put(&self.$field, out, body!(@ $($limit)?))?;)*
                Ok(())
            }
        }
    };
    (@) => { $crate::octets::Field::Pdu };
    (@ $limit:ident) => { $crate::octets::Field::$limit };
}
pub(super) use body;
