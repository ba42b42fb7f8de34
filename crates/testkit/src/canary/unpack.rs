//! Finds what is packed in bytes, and unpacks it.

use std::io::{Read, Write as _};

use flate2::{
    Compression,
    read::{MultiGzDecoder, ZlibDecoder},
    write::{GzEncoder, ZlibEncoder},
};

use crate::wait::must;

/// Most that is unpacked from one place. A block of a stream of NATS holds 8 MiB.
const MOST: u64 = 64 << 20;

/// What a gzip member begins with (RFC 1952 §2.3.1: deflate is the only method).
const GZIP: &[u8] = &[0x1f, 0x8b, 8];

/// The chunk that a stream of S2 or framed Snappy begins with (Snappy framing format §4.1).
const S2: &[u8] = b"\xff\x06\x00\x00S2sTwO";
const SNAPPY: &[u8] = b"\xff\x06\x00\x00sNaPpY";

/// Everything packed in `bytes`: where, how, and what it holds. Of what is cut short, as much as there is.
pub(super) fn unpacked(bytes: &[u8]) -> Vec<(usize, &'static str, Vec<u8>)> {
    let mut all = Vec::new();
    for at in 0..bytes.len() {
        let Some(rest) = bytes.get(at..) else { continue };
        let (packing, inside) = match rest {
            [0x1f, 0x8b, ..] if rest.starts_with(GZIP) => ("gzip", read(MultiGzDecoder::new(rest))),
            // The four levels that zlib's first two bytes can tell of (RFC 1950 §2.2), with the usual window.
            [0x78, 0x01 | 0x5e | 0x9c | 0xda, ..] => ("zlib", read(ZlibDecoder::new(rest))),
            [0xff, 0x06, ..] if rest.starts_with(S2) => ("S2", read(minlz::Reader::new(rest))),
            [0xff, 0x06, ..] if rest.starts_with(SNAPPY) => ("Snappy", read(minlz::Reader::new(rest))),
            _ => continue,
        };
        if !inside.is_empty() {
            all.push((at, packing, inside));
        }
    }
    all
}

fn read(packed: impl Read) -> Vec<u8> {
    let mut inside = Vec::new();
    // What follows is no part of it, or it is cut short: what came before is searched all the same.
    let _end = packed.take(MOST).read_to_end(&mut inside);
    inside
}

/// The same bytes in each packing that has a writer.
pub(super) fn packed(bytes: &[u8]) -> Vec<(&'static str, Vec<u8>)> {
    let mut gzip = GzEncoder::new(Vec::new(), Compression::best());
    must("gzip", gzip.write_all(bytes));
    let mut zlib = ZlibEncoder::new(Vec::new(), Compression::default());
    must("zlib", zlib.write_all(bytes));
    let mut s2 = Vec::new();
    let mut writer = minlz::Writer::new(&mut s2);
    must("S2", writer.write_all(bytes));
    must("S2", writer.flush());
    drop(writer);
    vec![("gzip", must("gzip", gzip.finish())), ("zlib", must("zlib", zlib.finish())), ("S2", s2)]
}
