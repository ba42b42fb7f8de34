//! A work item as its bytes came: what this version does not know of it is kept too.

use bytes::{Buf as _, Bytes};
use prost::{
    DecodeError, Message as _,
    encoding::{DecodeContext, WireType, decode_key, encode_key, encode_varint, skip_field},
};
use sotto_proto::pipeline::v1::{KeyWrap, WorkItem};

/// `WorkBatch.key_wraps` and `WorkBatch.items`.
const KEY_WRAPS: u32 = 1;
const ITEMS: u32 = 2;

/// `QuarantineRecord.sealed`.
const SEALED: u32 = 10;

/// The shortest envelope there is (docs/formats/envelope.md): an item with less has nothing sealed.
const SHORTEST_ENVELOPE: usize = 78;

/// The item at `index` of an encoded `WorkBatch`, as a `WorkBatch` of its own with the wraps of its key; none if it
/// holds no envelope.
pub(super) fn item(payload: &Bytes, index: usize) -> Option<Vec<u8>> {
    let (wraps, items) = split(payload.clone()).ok()?;
    let item = items.into_iter().nth(index)?;
    let envelope = WorkItem::decode(item.clone()).ok()?.envelope;
    if envelope.len() < SHORTEST_ENVELOPE {
        return None;
    }
    let mut batch = Vec::new();
    for wrap in wraps {
        let key_id = KeyWrap::decode(wrap.clone()).map(|wrap| wrap.key_id).unwrap_or_default();
        // Where in the envelope its key is named is known for this version only.
        if !key_id.is_empty() && envelope.windows(key_id.len()).any(|part| part == key_id) {
            field(&mut batch, KEY_WRAPS, &wrap);
        }
    }
    field(&mut batch, ITEMS, &item);
    Some(batch)
}

/// Adds the field `sealed` to an encoded `QuarantineRecord` without it.
pub(super) fn append(record: &mut Vec<u8>, sealed: &[u8]) {
    field(record, SEALED, sealed);
}

fn field(to: &mut Vec<u8>, tag: u32, bytes: &[u8]) {
    encode_key(tag, WireType::LengthDelimited, to);
    encode_varint(u64::try_from(bytes.len()).unwrap_or(u64::MAX), to);
    to.extend_from_slice(bytes);
}

/// The encoded wraps and items of a batch.
fn split(mut batch: Bytes) -> Result<(Vec<Bytes>, Vec<Bytes>), DecodeError> {
    let (mut wraps, mut items) = (Vec::new(), Vec::new());
    while batch.has_remaining() {
        let (tag, wire_type) = decode_key(&mut batch)?;
        let fields = match tag {
            KEY_WRAPS => &mut wraps,
            ITEMS => &mut items,
            _ => {
                skip_field(wire_type, tag, &mut batch, DecodeContext::default())?;
                continue;
            }
        };
        let mut bytes = Bytes::new();
        prost::encoding::bytes::merge(wire_type, &mut bytes, &mut batch, DecodeContext::default())?;
        fields.push(bytes);
    }
    Ok((wraps, items))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use sotto_proto::pipeline::v1::{QuarantineRecord, WorkBatch};

    use super::*;

    fn wrap(id: u8) -> KeyWrap {
        KeyWrap { key_id: vec![id; 16].into(), tenant: "acme".to_owned(), ..KeyWrap::default() }
    }

    fn sealed(key: u8) -> WorkItem {
        let envelope = [vec![1, 1], vec![key; 16], vec![0; 60]].concat();
        WorkItem { envelope: envelope.into(), ..WorkItem::default() }
    }

    fn batch(items: Vec<WorkItem>) -> Bytes {
        WorkBatch { key_wraps: vec![wrap(1), wrap(2), wrap(3)], items }.encode_to_vec().into()
    }

    #[test]
    fn an_item_is_kept_with_its_own_wrap_and_its_unknown_fields() {
        let mut newer = sealed(2).encode_to_vec();
        field(&mut newer, 99, b"of a later version");
        let mut payload = batch(vec![sealed(1)]).to_vec();
        field(&mut payload, ITEMS, &newer);
        let kept = item(&payload.into(), 1).unwrap();
        assert!(kept.ends_with(&newer));
        let kept = WorkBatch::decode(kept.as_slice()).unwrap();
        assert_eq!((kept.key_wraps, kept.items), (vec![wrap(2)], vec![sealed(2)]));
    }

    #[test]
    fn what_is_not_sealed_is_not_kept() {
        let clear = WorkItem { envelope: b"Ma OTP cua ban la 482913".to_vec().into(), ..WorkItem::default() };
        let payload = batch(vec![clear, WorkItem::default()]);
        for index in 0..4 {
            assert_eq!(item(&payload, index), None);
        }
    }

    #[test]
    fn a_record_takes_the_sealed_item_as_its_field() {
        let mut record = QuarantineRecord { error: "why".to_owned(), ..QuarantineRecord::default() };
        let mut bytes = record.encode_to_vec();
        let one = WorkBatch { key_wraps: vec![wrap(1)], items: vec![sealed(1)] };
        append(&mut bytes, &one.encode_to_vec());
        record.sealed = Some(one);
        assert_eq!(QuarantineRecord::decode(bytes.as_slice()).unwrap(), record);
    }

    proptest! {
        #[test]
        fn noise_makes_no_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), index in 0..4_usize) {
            let _kept = item(&bytes.into(), index);
        }
    }
}
