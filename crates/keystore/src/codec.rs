//! The primitive shapes inside a keystore file; see docs/formats/keystore.md.

use sotto_crypto::Zeroizing;

use crate::KeystoreError;

/// The longest label, slot or bucket id, in bytes.
pub(crate) const MAX_NAME: usize = 64;

/// Accepts a name of 1 to 64 visible ASCII characters.
pub(crate) fn check_name(name: &str) -> Result<(), KeystoreError> {
    let visible = name.bytes().all(|byte| byte.is_ascii_graphic());
    if name.is_empty() || name.len() > MAX_NAME || !visible { Err(KeystoreError::Name) } else { Ok(()) }
}

/// Writes into one buffer whose size is fixed before, so that no copy of a key is left behind by growth.
pub(crate) struct Writer(Zeroizing<Vec<u8>>);

impl Writer {
    pub(crate) fn with_capacity(capacity: usize) -> Self {
        Self(Zeroizing::new(Vec::with_capacity(capacity)))
    }

    pub(crate) fn bytes(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    pub(crate) fn u8(&mut self, value: u8) {
        self.bytes(&[value]);
    }

    pub(crate) fn u64(&mut self, value: u64) {
        self.bytes(&value.to_be_bytes());
    }

    pub(crate) fn i64(&mut self, value: i64) {
        self.bytes(&value.to_be_bytes());
    }

    /// Writes a checked name: its length in one byte, then itself.
    pub(crate) fn name(&mut self, name: &str) -> Result<(), KeystoreError> {
        check_name(name)?;
        self.u8(u8::try_from(name.len()).map_err(|_| KeystoreError::Name)?);
        self.bytes(name.as_bytes());
        Ok(())
    }

    pub(crate) fn finish(self) -> Zeroizing<Vec<u8>> {
        self.0
    }
}

/// Reads the same shapes; `None` where the bytes end or are impossible.
pub(crate) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (first, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*first)
    }

    pub(crate) fn u8(&mut self) -> Option<u8> {
        self.array().map(|[byte]| byte)
    }

    pub(crate) fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_be_bytes)
    }

    pub(crate) fn i64(&mut self) -> Option<i64> {
        self.array().map(i64::from_be_bytes)
    }

    pub(crate) fn name(&mut self) -> Option<&'a str> {
        let length = usize::from(self.u8()?);
        let (name, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        let name = str::from_utf8(name).ok()?;
        check_name(name).ok().map(|()| name)
    }

    pub(crate) fn rest(&self) -> &'a [u8] {
        self.0
    }
}
