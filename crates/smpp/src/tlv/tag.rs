//! The tags of the optional parameters (SMPP 3.4 §5.3.2, SMPP 5.0 §4.8.1) and the form of each value.

/// The form that the specification gives a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// An integer of one octet.
    U8,
    /// An integer of two octets.
    U16,
    /// An integer of four octets.
    U32,
    /// A C-octet string.
    Text {
        /// The fewest octets, NUL included.
        least: usize,
        /// The most octets, NUL included.
        most: usize,
    },
    /// Octets of any meaning.
    Octets {
        /// The fewest.
        least: usize,
        /// The most.
        most: usize,
    },
    /// Nothing, or an integer of one octet (`alert_on_message_delivery`: 3.4 has the former, 5.0 the latter).
    OptionalU8,
    /// Kind of network and error.
    NetworkErrorCode,
    /// Behaviour, and the period that one of them needs.
    MsValidity,
    /// Kind of subaddress and its octets.
    Subaddress,
    /// Format of an area and its octets.
    BroadcastArea,
    /// Kind of network and content.
    BroadcastContentType,
    /// Unit of time and number.
    BroadcastFrequency,
    /// Number of a session and of a step in it.
    ItsSession,
}

macro_rules! tags {
    ($($name:ident = $value:literal, $format:expr;)*) => {
        $(
            #[doc = concat!("`", stringify!($name), "` in capitals as the specification has it in small letters.")]
            pub const $name: u16 = $value;
        )*

        /// Every tag of SMPP 3.4 and 5.0.
        pub const ALL: &[u16] = &[$($value),*];

        /// The name of a tag, if the specification has it.
        pub const fn name(tag: u16) -> Option<&'static str> {
            match tag {
                $($value => Some(stringify!($name)),)*
                _ => None,
            }
        }

        /// The form of a tag's value, if the specification has the tag.
        pub const fn format(tag: u16) -> Option<Format> {
            match tag {
                $($value => Some($format),)*
                _ => None,
            }
        }
    };
}

const fn text(least: usize, most: usize) -> Format {
    Format::Text { least, most }
}

const fn octets(least: usize, most: usize) -> Format {
    Format::Octets { least, most }
}

tags! {
    DEST_ADDR_SUBUNIT = 0x0005, Format::U8;
    DEST_NETWORK_TYPE = 0x0006, Format::U8;
    DEST_BEARER_TYPE = 0x0007, Format::U8;
    DEST_TELEMATICS_ID = 0x0008, Format::U16;
    SOURCE_ADDR_SUBUNIT = 0x000D, Format::U8;
    SOURCE_NETWORK_TYPE = 0x000E, Format::U8;
    SOURCE_BEARER_TYPE = 0x000F, Format::U8;
    // One octet in the specification, two in half of the implementations.
    SOURCE_TELEMATICS_ID = 0x0010, octets(1, 2);
    QOS_TIME_TO_LIVE = 0x0017, Format::U32;
    PAYLOAD_TYPE = 0x0019, Format::U8;
    ADDITIONAL_STATUS_INFO_TEXT = 0x001D, text(1, 256);
    RECEIPTED_MESSAGE_ID = 0x001E, text(1, 65);
    MS_MSG_WAIT_FACILITIES = 0x0030, Format::U8;
    PRIVACY_INDICATOR = 0x0201, Format::U8;
    SOURCE_SUBADDRESS = 0x0202, Format::Subaddress;
    DEST_SUBADDRESS = 0x0203, Format::Subaddress;
    USER_MESSAGE_REFERENCE = 0x0204, Format::U16;
    USER_RESPONSE_CODE = 0x0205, Format::U8;
    SOURCE_PORT = 0x020A, Format::U16;
    DESTINATION_PORT = 0x020B, Format::U16;
    SAR_MSG_REF_NUM = 0x020C, Format::U16;
    LANGUAGE_INDICATOR = 0x020D, Format::U8;
    SAR_TOTAL_SEGMENTS = 0x020E, Format::U8;
    SAR_SEGMENT_SEQNUM = 0x020F, Format::U8;
    SC_INTERFACE_VERSION = 0x0210, Format::U8;
    CALLBACK_NUM_PRES_IND = 0x0302, Format::U8;
    CALLBACK_NUM_ATAG = 0x0303, octets(0, 65);
    NUMBER_OF_MESSAGES = 0x0304, Format::U8;
    CALLBACK_NUM = 0x0381, octets(4, 19);
    DPF_RESULT = 0x0420, Format::U8;
    SET_DPF = 0x0421, Format::U8;
    MS_AVAILABILITY_STATUS = 0x0422, Format::U8;
    NETWORK_ERROR_CODE = 0x0423, Format::NetworkErrorCode;
    MESSAGE_PAYLOAD = 0x0424, octets(0, 65_535);
    DELIVERY_FAILURE_REASON = 0x0425, Format::U8;
    MORE_MESSAGES_TO_SEND = 0x0426, Format::U8;
    MESSAGE_STATE = 0x0427, Format::U8;
    CONGESTION_STATE = 0x0428, Format::U8;
    USSD_SERVICE_OP = 0x0501, Format::U8;
    BROADCAST_CHANNEL_INDICATOR = 0x0600, Format::U8;
    BROADCAST_CONTENT_TYPE = 0x0601, Format::BroadcastContentType;
    BROADCAST_CONTENT_TYPE_INFO = 0x0602, octets(0, 255);
    BROADCAST_MESSAGE_CLASS = 0x0603, Format::U8;
    BROADCAST_REP_NUM = 0x0604, Format::U16;
    BROADCAST_FREQUENCY_INTERVAL = 0x0605, Format::BroadcastFrequency;
    BROADCAST_AREA_IDENTIFIER = 0x0606, Format::BroadcastArea;
    BROADCAST_ERROR_STATUS = 0x0607, Format::U32;
    BROADCAST_AREA_SUCCESS = 0x0608, Format::U8;
    BROADCAST_END_TIME = 0x0609, text(1, 17);
    BROADCAST_SERVICE_GROUP = 0x060A, octets(1, 255);
    BILLING_IDENTIFICATION = 0x060B, octets(1, 1024);
    SOURCE_NETWORK_ID = 0x060D, text(7, 66);
    DEST_NETWORK_ID = 0x060E, text(7, 66);
    SOURCE_NODE_ID = 0x060F, octets(6, 6);
    DEST_NODE_ID = 0x0610, octets(6, 6);
    DEST_ADDR_NP_RESOLUTION = 0x0611, Format::U8;
    DEST_ADDR_NP_INFORMATION = 0x0612, octets(10, 10);
    DEST_ADDR_NP_COUNTRY = 0x0613, octets(1, 5);
    DISPLAY_TIME = 0x1201, Format::U8;
    SMS_SIGNAL = 0x1203, Format::U16;
    MS_VALIDITY = 0x1204, Format::MsValidity;
    ALERT_ON_MESSAGE_DELIVERY = 0x130C, Format::OptionalU8;
    ITS_REPLY_TYPE = 0x1380, Format::U8;
    ITS_SESSION_INFO = 0x1383, Format::ItsSession;
}
