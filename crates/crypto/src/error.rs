//! The failures that any operation may meet.

/// A primitive could not be carried out; no input decides this except an absurd length.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CryptoError {
    /// The operating system gave no random bytes. A process that meets this must not go on.
    #[error("the operating system's random generator failed")]
    Random,
    /// The input is longer than the primitive allows (AES-GCM: 2^36 - 32 bytes).
    #[error("the input is too long for the primitive")]
    TooLong,
    /// The ciphertext is shorter than a nonce and a tag.
    #[error("the ciphertext is too short")]
    TooShort,
    /// The tag does not fit: wrong key, wrong context or altered bytes. Which of them is not knowable.
    #[error("the ciphertext was not made with this key and context")]
    Refused,
    /// The bytes are no key of this kind.
    #[error("not a key of this kind")]
    Key,
}
