//! What lies in the token: keys that never leave it, and facts beside them. Nothing is ever altered: a fact is made, and
//! destroyed when another has taken its place. Each step leaves a state that reads as the one before or after it.
//!
//! What an object is stands in its label, in words: `sotto1`, what, the slot, and the rest by what.

use cryptoki::{
    error::{Error, RvError},
    mechanism::{Mechanism, MechanismType, aead::GcmParams},
    object::{Attribute, AttributeType, KeyType, ObjectClass, ObjectHandle},
};
use sotto_crypto::{Zeroizing, aead::NONCE_LEN, random::random_array};

use super::{Token, pool::Conn};
use crate::KeystoreError;

const FORMAT: &str = "sotto1";

/// Bytes in the id that binds the objects of one key.
pub(super) const ID_LEN: usize = 16;

/// The DER of `id-Ed25519` (RFC 8410 §3), as CKA_EC_PARAMS wants it.
const ED25519: [u8; 5] = [0x06, 0x03, 0x2b, 0x65, 0x70];

/// What went wrong while the token was in use.
#[derive(Debug)]
pub(super) enum Trouble {
    /// The module said so, when asked for this.
    Device(&'static str, Error),
    /// Anything else: the token is well.
    Own(KeystoreError),
}

impl From<KeystoreError> for Trouble {
    fn from(error: KeystoreError) -> Self {
        Self::Own(error)
    }
}

pub(super) fn asked(operation: &'static str) -> impl FnOnce(Error) -> Trouble {
    move |error| Trouble::Device(operation, error)
}

/// An object of ours.
#[derive(Clone, Debug)]
pub(super) struct Object {
    pub(super) handle: ObjectHandle,
    pub(super) class: ObjectClass,
    pub(super) id: Vec<u8>,
    label: String,
}

impl Object {
    pub(super) fn label(&self) -> &str {
        &self.label
    }

    pub(super) fn is_labelled(&self, label: &str) -> bool {
        self.label == label
    }

    /// The words after format, `what` and slot, if it is that.
    pub(super) fn words(&self, what: &str) -> Option<Vec<&str>> {
        let mut words = self.label.split(' ');
        let (_format, is, _slot) = (words.next()?, words.next()?, words.next()?);
        (is == what).then(|| words.collect())
    }
}

/// The label of an object. Names are visible ASCII, so a space parts them.
pub(super) fn label(what: &str, slot: &str, words: &[&dyn std::fmt::Display]) -> String {
    words.iter().fold(format!("{FORMAT} {what} {slot}"), |label, word| format!("{label} {word}"))
}

impl Token {
    /// Does something in a session. When the token was lost, it is looked for and the same is done once more; when an object
    /// is not where it was, `forget` makes the next try look for it again.
    pub(super) fn attempt<T>(
        &self,
        forget: impl Fn(),
        act: impl Fn(&Conn<'_>) -> Result<T, Trouble>,
    ) -> Result<T, KeystoreError> {
        let mut last = false;
        loop {
            let conn = self.connect()?;
            let (operation, error) = match act(&conn) {
                Ok(done) => return Ok(done),
                Err(Trouble::Own(error)) => return Err(error),
                Err(Trouble::Device(operation, error)) => (operation, error),
            };
            forget();
            let failed = self.failed(operation, &error);
            if !is_loss(&error) && conn.lives() {
                if last || !is_stale(&error) {
                    return Err(failed);
                }
            } else {
                conn.lost();
                if last {
                    return Err(KeystoreError::Away {
                        label: self.label().to_owned(),
                        source: Some(Box::new(failed)),
                    });
                }
            }
            last = true;
        }
    }

    /// All that is in the token of a slot.
    pub(super) fn list(&self, conn: &Conn<'_>, slot: &str) -> Result<Vec<Object>, Trouble> {
        let found = conn.find_objects(&[Attribute::Token(true)]).map_err(asked("list its objects"))?;
        let mut objects = Vec::with_capacity(found.len());
        let ours = label("", slot, &[]);
        let ours = (FORMAT, ours.rsplit(' ').next().unwrap_or_default());
        for handle in found {
            let object = read(conn, handle)?;
            let mut words = object.label.split(' ');
            if (words.next(), words.nth(1)) == (Some(ours.0), Some(ours.1)) {
                objects.push(object);
            }
        }
        // A token that is taken away is empty, and does not say why.
        if !conn.lives() {
            return Err(Trouble::Device(
                "list its objects",
                Error::Pkcs11(RvError::DeviceRemoved, cryptoki::context::Function::FindObjects),
            ));
        }
        if !objects.iter().any(|object| object.words("slot").is_some()) {
            return Err(KeystoreError::Slot { label: self.label().to_owned(), slot: slot.to_owned() }.into());
        }
        Ok(objects)
    }
}

/// Whether the session is over, whatever the token says of itself.
fn is_loss(error: &Error) -> bool {
    matches!(
        error,
        Error::Pkcs11(
            RvError::SessionHandleInvalid
                | RvError::SessionClosed
                | RvError::UserNotLoggedIn
                | RvError::DeviceRemoved
                | RvError::DeviceError
                | RvError::TokenNotPresent
                | RvError::TokenNotRecognized
                | RvError::CryptokiNotInitialized,
            _
        )
    )
}

fn is_stale(error: &Error) -> bool {
    matches!(error, Error::Pkcs11(RvError::ObjectHandleInvalid | RvError::KeyHandleInvalid, _))
}

fn read(conn: &Conn<'_>, handle: ObjectHandle) -> Result<Object, Trouble> {
    let wanted = [AttributeType::Class, AttributeType::Label, AttributeType::Id];
    let attributes = conn.get_attributes(handle, &wanted).map_err(asked("read an object"))?;
    let mut object = Object { handle, class: ObjectClass::DATA, id: Vec::new(), label: String::new() };
    for attribute in attributes {
        if let Attribute::Class(class) = attribute {
            object.class = class;
        } else if let Attribute::Label(label) = attribute {
            object.label = String::from_utf8(label).unwrap_or_default();
        } else if let Attribute::Id(id) = attribute {
            object.id = id;
        }
    }
    Ok(object)
}

/// The bytes of a fact, or of a public key's point.
pub(super) fn bytes_of(
    conn: &Conn<'_>,
    handle: ObjectHandle,
    kind: AttributeType,
) -> Result<Vec<u8>, Trouble> {
    let attributes = conn.get_attributes(handle, &[kind]).map_err(asked("read an object"))?;
    let bytes = attributes.into_iter().find_map(|attribute| {
        if let Attribute::Value(bytes) | Attribute::EcPoint(bytes) = attribute { Some(bytes) } else { None }
    });
    Ok(bytes.unwrap_or_default())
}

/// A fact: found by its label, and never altered.
pub(super) fn make_fact(conn: &Conn<'_>, label: &str, value: &[u8]) -> Result<ObjectHandle, Trouble> {
    let template = [
        Attribute::Class(ObjectClass::DATA),
        Attribute::Token(true),
        Attribute::Private(true),
        Attribute::Modifiable(false),
        Attribute::Application(FORMAT.as_bytes().to_vec()),
        Attribute::Label(label.as_bytes().to_vec()),
        Attribute::Value(value.to_vec()),
    ];
    conn.create_object(&template).map_err(asked("make an object"))
}

/// What every private or secret key of ours is: made inside, and there for good.
fn inside(label: &str, id: &[u8]) -> Vec<Attribute> {
    vec![
        Attribute::Token(true),
        Attribute::Private(true),
        Attribute::Sensitive(true),
        Attribute::Extractable(false),
        Attribute::Modifiable(false),
        Attribute::Derive(false),
        Attribute::Id(id.to_vec()),
        Attribute::Label(label.as_bytes().to_vec()),
    ]
}

/// An AES-256 key that seals and opens.
pub(super) fn make_aes(conn: &Conn<'_>, label: &str, id: &[u8]) -> Result<ObjectHandle, Trouble> {
    let mut template = inside(label, id);
    template.extend([
        Attribute::ValueLen(32.into()),
        Attribute::Encrypt(true),
        Attribute::Decrypt(true),
        Attribute::Wrap(false),
        Attribute::Unwrap(false),
        Attribute::Sign(false),
        Attribute::Verify(false),
    ]);
    conn.generate_key(&Mechanism::AesKeyGen, &template).map_err(asked("make a key"))
}

/// An HMAC-SHA-256 key.
pub(super) fn make_mac(conn: &Conn<'_>, label: &str, id: &[u8]) -> Result<ObjectHandle, Trouble> {
    let mut template = inside(label, id);
    template.extend([
        Attribute::KeyType(KeyType::GENERIC_SECRET),
        Attribute::ValueLen(32.into()),
        Attribute::Sign(true),
        Attribute::Verify(false),
        Attribute::Encrypt(false),
        Attribute::Decrypt(false),
        Attribute::Wrap(false),
        Attribute::Unwrap(false),
    ]);
    conn.generate_key(&Mechanism::GenericSecretKeyGen, &template).map_err(asked("make a key"))
}

/// An Ed25519 key pair: both halves under one label and id.
pub(super) fn make_ed25519(conn: &Conn<'_>, label: &str, id: &[u8]) -> Result<(), Trouble> {
    let public = [
        Attribute::Token(true),
        Attribute::Private(false),
        Attribute::Modifiable(false),
        Attribute::Verify(true),
        Attribute::EcParams(ED25519.to_vec()),
        Attribute::Id(id.to_vec()),
        Attribute::Label(label.as_bytes().to_vec()),
    ];
    let mut private = inside(label, id);
    private.push(Attribute::Sign(true));
    conn.generate_key_pair(&Mechanism::EccEdwardsKeyPairGen, &public, &private)
        .map(|_| ())
        .map_err(asked("make a key pair"))
}

/// Destroys an object; one that is gone already is destroyed.
pub(super) fn destroy(conn: &Conn<'_>, handle: ObjectHandle) -> Result<(), Trouble> {
    match conn.destroy_object(handle) {
        Err(error) if !(is_stale(&error) && conn.lives()) => Err(Trouble::Device("destroy an object", error)),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// AES-256-GCM inside the token under a random nonce that is made here: nonce, ciphertext, tag.
pub(super) fn seal(
    conn: &Conn<'_>,
    key: ObjectHandle,
    context: &[u8],
    plaintext: &[u8],
) -> Result<Vec<u8>, Trouble> {
    let nonce = random_array::<NONCE_LEN>().map_err(KeystoreError::Crypto)?;
    let mut iv = nonce;
    let parameters = GcmParams::new(&mut iv, context, 128.into()).map_err(asked("seal"))?;
    let sealed = conn.encrypt(&Mechanism::AesGcm(parameters), key, plaintext).map_err(asked("seal"))?;
    Ok([nonce.as_slice(), &sealed].concat())
}

/// HMAC-SHA-256 inside the token.
pub(super) fn tag(conn: &Conn<'_>, key: ObjectHandle, input: &[u8]) -> Result<Zeroizing<Vec<u8>>, Trouble> {
    conn.sign(&Mechanism::Sha256Hmac, key, input).map(Zeroizing::new).map_err(asked("make a tag"))
}

/// Opens what [`seal`] made; none when key, context or a bit differs. Modules say the same of that as of a failure, so
/// before it is believed the key must prove that it works.
pub(super) fn open(
    conn: &Conn<'_>,
    key: ObjectHandle,
    context: &[u8],
    sealed: &[u8],
) -> Result<Option<Zeroizing<Vec<u8>>>, Trouble> {
    match try_open(conn, key, context, sealed) {
        Ok(opened) => Ok(Some(opened)),
        Err(Trouble::Device(operation, error)) if may_be_refusal(&error) => {
            let proof = seal(conn, key, context, &[0; 32])?;
            match try_open(conn, key, context, &proof) {
                Ok(_) => Ok(None),
                Err(_) => Err(Trouble::Device(operation, error)),
            }
        }
        Err(trouble) => Err(trouble),
    }
}

fn try_open(
    conn: &Conn<'_>,
    key: ObjectHandle,
    context: &[u8],
    sealed: &[u8],
) -> Result<Zeroizing<Vec<u8>>, Trouble> {
    let refused = || Error::Pkcs11(RvError::EncryptedDataInvalid, cryptoki::context::Function::Decrypt);
    let (nonce, ciphertext) =
        sealed.split_first_chunk::<NONCE_LEN>().ok_or_else(|| Trouble::Device("open", refused()))?;
    let mut iv = *nonce;
    let parameters = GcmParams::new(&mut iv, context, 128.into()).map_err(asked("open"))?;
    conn.decrypt(&Mechanism::AesGcm(parameters), key, ciphertext).map(Zeroizing::new).map_err(asked("open"))
}

fn may_be_refusal(error: &Error) -> bool {
    matches!(
        error,
        Error::Pkcs11(
            RvError::EncryptedDataInvalid
                | RvError::EncryptedDataLenRange
                | RvError::GeneralError
                | RvError::FunctionFailed
                | RvError::SignatureInvalid
                | RvError::ArgumentsBad
                | RvError::DataInvalid
                | RvError::DataLenRange,
            cryptoki::context::Function::Decrypt
        )
    )
}

/// What both keystores need of a token.
pub(super) const MECHANISMS: [MechanismType; 6] = [
    MechanismType::AES_KEY_GEN,
    MechanismType::AES_GCM,
    MechanismType::ECC_EDWARDS_KEY_PAIR_GEN,
    MechanismType::EDDSA,
    MechanismType::GENERIC_SECRET_KEY_GEN,
    MechanismType::SHA256_HMAC,
];
