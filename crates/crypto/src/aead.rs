//! AES-256-GCM (SP 800-38D) with a random 96-bit nonce, for small stores; messages use [`crate::envelope`].

use ring::aead;
use zeroize::Zeroizing;

use crate::{AeadKey, CryptoError, random::random_array};

/// Bytes in a nonce.
pub const NONCE_LEN: usize = 12;

/// Bytes in a tag.
pub const TAG_LEN: usize = 16;

/// Seals `plaintext` under a random nonce: nonce, ciphertext, tag.
///
/// One key may seal at most 2^32 times this way (SP 800-38D §8.3); the caller counts.
///
/// # Errors
/// [`CryptoError::Random`], [`CryptoError::TooLong`].
pub fn seal(key: &AeadKey, context: &[u8], plaintext: &[u8]) -> Result<Vec<u8>, CryptoError> {
    let nonce = random_array::<NONCE_LEN>()?;
    let mut out = Vec::with_capacity(NONCE_LEN + plaintext.len() + TAG_LEN);
    out.extend_from_slice(&nonce);
    out.extend_from_slice(plaintext);
    let tag = seal_in_place(key, nonce, context, out.get_mut(NONCE_LEN..).unwrap_or_default())?;
    out.extend_from_slice(&tag);
    Ok(out)
}

/// Opens what [`seal`] made with the same key and context.
///
/// # Errors
/// [`CryptoError::TooShort`], [`CryptoError::Refused`].
pub fn open(key: &AeadKey, context: &[u8], sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, CryptoError> {
    let (nonce, ciphertext) = sealed.split_first_chunk::<NONCE_LEN>().ok_or(CryptoError::TooShort)?;
    open_parts(key, *nonce, context, ciphertext)
}

/// Encrypts `data` in place and returns the tag. The caller answers for the nonce.
pub(crate) fn seal_in_place(
    key: &AeadKey,
    nonce: [u8; NONCE_LEN],
    context: &[u8],
    data: &mut [u8],
) -> Result<[u8; TAG_LEN], CryptoError> {
    let tag = expand(key)?
        .seal_in_place_separate_tag(aead::Nonce::assume_unique_for_key(nonce), aead::Aad::from(context), data)
        .map_err(|_| CryptoError::TooLong)?;
    let mut out = [0; TAG_LEN];
    out.copy_from_slice(tag.as_ref());
    Ok(out)
}

/// Opens ciphertext and tag.
pub(crate) fn open_parts(
    key: &AeadKey,
    nonce: [u8; NONCE_LEN],
    context: &[u8],
    ciphertext_and_tag: &[u8],
) -> Result<Zeroizing<Vec<u8>>, CryptoError> {
    let length = ciphertext_and_tag.len().checked_sub(TAG_LEN).ok_or(CryptoError::TooShort)?;
    let mut buffer = Zeroizing::new(ciphertext_and_tag.to_vec());
    expand(key)?
        .open_in_place(
            aead::Nonce::assume_unique_for_key(nonce),
            aead::Aad::from(context),
            buffer.as_mut_slice(),
        )
        .map_err(|_| CryptoError::Refused)?;
    buffer.truncate(length);
    Ok(buffer)
}

fn expand(key: &AeadKey) -> Result<aead::LessSafeKey, CryptoError> {
    // A 32-byte key always fits AES-256; the type of the error keeps this total without a panic.
    aead::UnboundKey::new(&aead::AES_256_GCM, key.expose())
        .map(aead::LessSafeKey::new)
        .map_err(|_| CryptoError::TooLong)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Vector {
        key: &'static str,
        nonce: &'static str,
        aad: &'static str,
        plaintext: &'static str,
        ciphertext: &'static str,
        tag: &'static str,
    }

    /// The AES-256 cases with 96-bit nonces of the GCM specification submitted to NIST (McGrew and Viega, 13-16).
    const VECTORS: [Vector; 4] = [
        Vector {
            key: "0000000000000000000000000000000000000000000000000000000000000000",
            nonce: "000000000000000000000000",
            aad: "",
            plaintext: "",
            ciphertext: "",
            tag: "530f8afbc74536b9a963b4f1c4cb738b",
        },
        Vector {
            key: "0000000000000000000000000000000000000000000000000000000000000000",
            nonce: "000000000000000000000000",
            aad: "",
            plaintext: "00000000000000000000000000000000",
            ciphertext: "cea7403d4d606b6e074ec5d3baf39d18",
            tag: "d0d1c8a799996bf0265b98b5d48ab919",
        },
        Vector {
            key: "feffe9928665731c6d6a8f9467308308feffe9928665731c6d6a8f9467308308",
            nonce: "cafebabefacedbaddecaf888",
            aad: "",
            plaintext: "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a72\
                        1c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b391aafd255",
            ciphertext: "522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa\
                         8cb08e48590dbb3da7b08b1056828838c5f61e6393ba7a0abcc9f662898015ad",
            tag: "b094dac5d93471bdec1a502270e3cc6c",
        },
        Vector {
            key: "feffe9928665731c6d6a8f9467308308feffe9928665731c6d6a8f9467308308",
            nonce: "cafebabefacedbaddecaf888",
            aad: "feedfacedeadbeeffeedfacedeadbeefabaddad2",
            plaintext: "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a72\
                        1c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b39",
            ciphertext: "522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa\
                         8cb08e48590dbb3da7b08b1056828838c5f61e6393ba7a0abcc9f662",
            tag: "76fc6ece0f4e1768cddf8853bb2d551b",
        },
    ];

    fn array<const N: usize>(text: &str) -> [u8; N] {
        hex::decode(text).unwrap().try_into().unwrap()
    }

    #[test]
    fn aes_256_gcm_agrees_with_the_published_vectors() {
        for vector in VECTORS {
            let key = AeadKey::from_bytes(array(vector.key));
            let aad = hex::decode(vector.aad).unwrap();
            let mut data = hex::decode(vector.plaintext).unwrap();
            let tag = seal_in_place(&key, array(vector.nonce), &aad, &mut data).unwrap();
            assert_eq!(hex::encode(&data), vector.ciphertext);
            assert_eq!(hex::encode(tag), vector.tag);

            data.extend_from_slice(&tag);
            let opened = open_parts(&key, array(vector.nonce), &aad, &data).unwrap();
            assert_eq!(hex::encode(opened.as_slice()), vector.plaintext);
        }
    }
}
