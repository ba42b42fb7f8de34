//! A service's named keys in a token.
//!
//! A ring's keys have serial numbers. Its current key is the one whose number the newest fact `current` of the ring names, and
//! as long as there is none, the first. So a promotion is one object that is made: there is no moment without a current key.

use std::{
    cell::Cell,
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use cryptoki::{
    mechanism::{
        Mechanism,
        eddsa::{EddsaParams, EddsaSignatureScheme},
    },
    object::{AttributeType, ObjectClass, ObjectHandle},
};
use sotto_crypto::{
    MacKey, Zeroizing,
    hpke::{OpeningKey, Sealed, SubmissionBinding},
    random::random_array,
    sign::{PublicKey, SIGNATURE_LEN},
};

use super::{
    Token,
    objects::{self, ID_LEN, Object, Trouble, asked, label},
    pool::Conn,
    sealed,
};
use crate::{KeyInfo, KeyKind, KeyRole, Keystore, KeystoreError, codec::check_name};

/// Where the HMAC keys of a slot do their work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MacHome {
    /// In the token: each tag is a call to it.
    Token,
    /// In this process, for tags of every message; they rest in the token, sealed.
    Process,
}

/// The keystore of a slot in a token. Ed25519 keys never leave it. X25519 keys rest in it sealed and work in this process,
/// wiped when it ends: HPKE is not what tokens do.
pub struct Pkcs11Keystore {
    token: Token,
    slot: String,
    macs: MacHome,
    state: Mutex<State>,
    /// Held for a change, so that those of one process come one after the other.
    changing: Mutex<()>,
}

#[derive(Clone, Default)]
struct State {
    /// In which the handles are good; 0: they must be looked up.
    epoch: u64,
    rings: BTreeMap<String, Ring>,
}

#[derive(Clone, Default)]
struct Ring {
    current: u64,
    /// By serial number.
    keys: Vec<Entry>,
}

#[derive(Clone)]
struct Entry {
    id: String,
    serial: u64,
    created_at_ms: i64,
    key: Key,
    /// In the order in which they are destroyed: without the first there is no such key.
    objects: Vec<ObjectHandle>,
}

#[derive(Clone)]
enum Key {
    Ed25519(ObjectHandle, PublicKey),
    HmacSha256(ObjectHandle),
    SealedHmac(Arc<MacKey>),
    X25519(Arc<OpeningKey>),
}

/// The words in the label of a key.
const KEY: &str = "key";
/// Of a key that seals another one.
const SEAL: &str = "seal";
/// Of what it seals.
const SEALED: &str = "sealed";
/// Of the fact which key of a ring is current.
const CURRENT: &str = "current";

impl Pkcs11Keystore {
    /// Makes the empty keystore of a slot in a token that has none.
    ///
    /// # Errors
    /// [`KeystoreError::Exists`], [`KeystoreError::Name`], and what a token says.
    pub fn create(token: Token, slot: &str, macs: MacHome) -> Result<Self, KeystoreError> {
        super::buckets::make_slot(&token, slot)?;
        Self::open(token, slot, macs)
    }

    /// Opens the keystore of a slot.
    ///
    /// # Errors
    /// [`KeystoreError::Slot`] when the token has none; what a token says.
    pub fn open(token: Token, slot: &str, macs: MacHome) -> Result<Self, KeystoreError> {
        check_name(slot)?;
        let keystore =
            Self { token, slot: slot.to_owned(), macs, state: Mutex::default(), changing: Mutex::new(()) };
        keystore.reload()?;
        Ok(keystore)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Only ever replaced whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn forget(&self) {
        self.state().epoch = 0;
    }

    /// Reads the token when what is known is of another epoch.
    fn sync(&self, conn: &Conn<'_>) -> Result<(), Trouble> {
        if self.state().epoch == conn.epoch { Ok(()) } else { self.read(conn) }
    }

    fn read(&self, conn: &Conn<'_>) -> Result<(), Trouble> {
        let objects = self.token.list(conn, &self.slot)?;
        let known = self.state().clone();
        let mut rings: BTreeMap<String, Ring> = BTreeMap::new();
        for object in &objects {
            if let Some(entry) = self.entry(conn, object, &objects, &known)? {
                let (ring, entry) = entry;
                rings.entry(ring).or_default().keys.push(entry);
            }
        }
        for (name, ring) in &mut rings {
            ring.keys.sort_by(|a, b| (a.serial, &a.id).cmp(&(b.serial, &b.id)));
            let first = ring.keys.first().map_or(0, |key| key.serial);
            ring.current = facts_of(&objects, name).map(|(serial, _)| serial).max().unwrap_or(first);
        }
        *self.state() = State { epoch: conn.epoch, rings };
        Ok(())
    }

    /// A key, if the object is one's foremost part and no part is missing.
    fn entry(
        &self,
        conn: &Conn<'_>,
        object: &Object,
        all: &[Object],
        known: &State,
    ) -> Result<Option<(String, Entry)>, Trouble> {
        let words = object.words(KEY).or_else(|| object.words(SEAL));
        let Some([ring, serial, made, kind]) = words.as_deref() else { return Ok(None) };
        let unsound = || Trouble::Own(self.token.unsound("the label of a key does not parse"));
        let serial = serial.parse().map_err(|_| unsound())?;
        let created_at_ms = made.parse().map_err(|_| unsound())?;
        let kind = kind_of(kind).ok_or_else(unsound)?;
        let with = |handle, (id, key)| {
            let objects = vec![object.handle, handle];
            Some(((*ring).to_owned(), Entry { id, serial, created_at_ms, key, objects }))
        };
        if object.words(SEAL).is_some() {
            let sealed_label = label(SEALED, &self.slot, &[&hex::encode(&object.id)]);
            let Some(beside) = all.iter().find(|other| other.is_labelled(&sealed_label)) else {
                return Ok(None);
            };
            let key = self.unsealed(conn, object, beside, kind, known)?;
            return Ok(with(beside.handle, key));
        }
        if object.class == ObjectClass::SECRET_KEY && kind == KeyKind::HmacSha256 {
            let key = (URL_SAFE_NO_PAD.encode(&object.id), Key::HmacSha256(object.handle));
            return Ok(with(object.handle, key));
        }
        if object.class != ObjectClass::PRIVATE_KEY {
            return Ok(None);
        }
        let public = all.iter().find(|other| other.class == ObjectClass::PUBLIC_KEY && other.id == object.id);
        let Some(public) = public else { return Ok(None) };
        let point = objects::bytes_of(conn, public.handle, AttributeType::EcPoint)?;
        // A DER octet string, or the point alone: modules differ.
        let point = point.strip_prefix(&[0x04, 0x20]).unwrap_or(&point);
        let point = <[u8; 32]>::try_from(point)
            .map_err(|_| Trouble::Own(self.token.unsound("a public key has not 32 bytes")))?;
        let key = PublicKey::from_bytes(point);
        Ok(with(public.handle, (key.thumbprint(), Key::Ed25519(object.handle, key))))
    }

    /// Opens a key that works here, unless it is known already.
    fn unsealed(
        &self,
        conn: &Conn<'_>,
        seal: &Object,
        beside: &Object,
        kind: KeyKind,
        known: &State,
    ) -> Result<(String, Key), Trouble> {
        let mac_id = URL_SAFE_NO_PAD.encode(&seal.id);
        let known = known.rings.values().flat_map(|ring| &ring.keys).find(|entry| {
            entry.objects.first() == Some(&seal.handle)
                && known.epoch == conn.epoch
                && entry.key.kind() == kind
        });
        if let Some(entry) = known {
            return Ok((entry.id.clone(), entry.key.clone()));
        }
        let bytes = objects::bytes_of(conn, beside.handle, AttributeType::Value)?;
        let opened = sealed::open(conn, seal.handle, seal.label(), &bytes)?;
        let secret = opened.ok_or_else(|| self.token.unsound("a sealed key does not open"))?;
        match kind {
            KeyKind::HmacSha256 => Ok((mac_id, Key::SealedHmac(Arc::new(MacKey::from_bytes(*secret))))),
            KeyKind::X25519 => {
                let key = OpeningKey::from_bytes(*secret).map_err(KeystoreError::Crypto)?;
                Ok((key.public().thumbprint(), Key::X25519(Arc::new(key))))
            }
            KeyKind::Ed25519 => Err(self.token.unsound("a signing key is sealed").into()),
        }
    }

    fn key(&self, key_id: &str) -> Result<Key, KeystoreError> {
        let state = self.state();
        let found = state.rings.values().flat_map(|ring| &ring.keys).find(|entry| entry.id == key_id);
        found.map(|entry| entry.key.clone()).ok_or(KeystoreError::UnknownKey)
    }

    /// Changes what the token holds, as it is now.
    fn change<T>(&self, act: impl Fn(&Conn<'_>, &State) -> Result<T, Trouble>) -> Result<T, KeystoreError> {
        let _alone = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        self.token.attempt(
            || self.forget(),
            |conn| {
                self.read(conn)?;
                let state = self.state().clone();
                let done = act(conn, &state)?;
                self.token.sync()?;
                self.read(conn)?;
                Ok(done)
            },
        )
    }

    /// Destroys what a change that broke off left.
    fn tidy(&self, conn: &Conn<'_>, ring: &str, state: &State) -> Result<(), Trouble> {
        let objects = self.token.list(conn, &self.slot)?;
        let whole: Vec<_> = state
            .rings
            .values()
            .flat_map(|ring| &ring.keys)
            .flat_map(|entry| entry.objects.iter().copied())
            .collect();
        let of_ring = |object: &&Object| {
            let words = object.words(KEY).or_else(|| object.words(SEAL));
            words.is_some_and(|words| words.first() == Some(&ring)) && !whole.contains(&object.handle)
        };
        objects.iter().filter(of_ring).try_for_each(|object| objects::destroy(conn, object.handle))
    }

    fn make(&self, conn: &Conn<'_>, at: (&str, u64, i64), kind: KeyKind, id: &[u8]) -> Result<(), Trouble> {
        let (ring, serial, now_ms) = at;
        let words: [&dyn fmt::Display; 4] = [&ring, &serial, &now_ms, &kind_word(kind)];
        let inside = label(KEY, &self.slot, &words);
        let outside = label(SEAL, &self.slot, &words);
        match (kind, self.macs) {
            (KeyKind::Ed25519, _) => objects::make_ed25519(conn, &inside, id),
            (KeyKind::HmacSha256, MacHome::Token) => objects::make_mac(conn, &inside, id).map(|_| ()),
            (KeyKind::HmacSha256, MacHome::Process) | (KeyKind::X25519, _) => {
                sealed::make(conn, &outside, &label(SEALED, &self.slot, &[&hex::encode(id)]), id)
            }
        }
    }
}

impl Keystore for Pkcs11Keystore {
    fn generate(&self, ring: &str, kind: KeyKind, now_ms: i64) -> Result<KeyInfo, KeystoreError> {
        check_name(ring)?;
        // Fixed before anything is tried, so that what an attempt made before it broke off is known again.
        let id = random_array::<ID_LEN>().map_err(KeystoreError::Crypto)?;
        let serial = Cell::new(None);
        self.change(|conn, state| {
            let keys = state.rings.get(ring).map_or(&[][..], |ring| &ring.keys);
            if let Some(serial) = serial.get()
                && keys.iter().any(|entry| entry.serial == serial && entry.created_at_ms == now_ms)
            {
                return Ok(());
            }
            let known = state.rings.get(ring).cloned().unwrap_or_default();
            if keys.iter().any(|entry| entry.key.kind() != kind) {
                return Err(KeystoreError::Kind.into());
            }
            if keys.iter().any(|entry| known.role(entry) == KeyRole::Next) {
                return Err(KeystoreError::NextExists.into());
            }
            self.tidy(conn, ring, state)?;
            let next = keys.last().map_or(0, |entry| entry.serial).max(known.current) + 1;
            serial.set(Some(next));
            self.make(conn, (ring, next, now_ms), kind, &id)
        })?;
        let made = self.keys(ring)?;
        // The newest: next, or current where there was none.
        made.into_iter().next().ok_or(KeystoreError::UnknownKey)
    }

    fn promote(&self, ring: &str) -> Result<KeyInfo, KeystoreError> {
        let target = Cell::new(None);
        self.change(|conn, state| {
            let known = state.rings.get(ring).ok_or(KeystoreError::NoNext)?;
            if target.get().is_some_and(|serial| serial == known.current) {
                return Ok(());
            }
            let next = known.keys.iter().find(|entry| known.role(entry) == KeyRole::Next);
            let serial = next.ok_or(KeystoreError::NoNext)?.serial;
            target.set(Some(serial));
            let objects = self.token.list(conn, &self.slot)?;
            objects::make_fact(conn, &label(CURRENT, &self.slot, &[&ring, &serial]), &[])?;
            facts_of(&objects, ring).try_for_each(|(_, older)| objects::destroy(conn, older))
        })?;
        self.current(ring)
    }

    fn retire(&self, key_id: &str) -> Result<(), KeystoreError> {
        let begun = Cell::new(false);
        self.change(|conn, state| {
            let found = state.rings.values().find_map(|ring| {
                ring.keys.iter().find(|entry| entry.id == key_id).map(|entry| (ring, entry))
            });
            let Some((ring, entry)) = found else {
                return if begun.get() { Ok(()) } else { Err(KeystoreError::UnknownKey.into()) };
            };
            if ring.role(entry) == KeyRole::Current {
                return Err(KeystoreError::Current.into());
            }
            begun.set(true);
            entry.objects.iter().try_for_each(|object| objects::destroy(conn, *object))
        })
    }

    fn keys(&self, ring: &str) -> Result<Vec<KeyInfo>, KeystoreError> {
        let state = self.state();
        let Some(ring) = state.rings.get(ring) else { return Ok(Vec::new()) };
        let mut infos: Vec<_> = ring.keys.iter().rev().map(|entry| entry.info(ring.role(entry))).collect();
        infos.sort_by_key(|info| info.role);
        Ok(infos)
    }

    fn reload(&self) -> Result<(), KeystoreError> {
        self.token.attempt(|| self.forget(), |conn| self.read(conn))
    }

    fn check(&self) -> Result<(), KeystoreError> {
        self.token.check()
    }

    fn sign(&self, key_id: &str, message: &[u8]) -> Result<[u8; SIGNATURE_LEN], KeystoreError> {
        let by = Mechanism::Eddsa(EddsaParams::new(EddsaSignatureScheme::Ed25519));
        self.token.attempt(
            || self.forget(),
            |conn| {
                self.sync(conn)?;
                let Key::Ed25519(handle, _) = self.key(key_id)? else {
                    return Err(KeystoreError::Kind.into());
                };
                let signature = conn.sign(&by, handle, message).map_err(asked("sign"))?;
                let sized = signature.try_into();
                sized.map_err(|_| self.token.unsound("a signature has not 64 bytes").into())
            },
        )
    }

    fn mac(&self, key_id: &str, purpose: &str, fields: &[&[u8]]) -> Result<[u8; 32], KeystoreError> {
        // What works here needs no token.
        if let Key::SealedHmac(key) = self.key(key_id)? {
            return Ok(key.mac(purpose, fields));
        }
        let input = MacKey::input(purpose, fields);
        self.token.attempt(
            || self.forget(),
            |conn| {
                self.sync(conn)?;
                let Key::HmacSha256(handle) = self.key(key_id)? else {
                    return Err(KeystoreError::Kind.into());
                };
                let tag = objects::tag(conn, handle, &input)?;
                tag.as_slice().try_into().map_err(|_| self.token.unsound("a tag has not 32 bytes").into())
            },
        )
    }

    fn open_submission(
        &self,
        key_id: &str,
        binding: &SubmissionBinding<'_>,
        sealed: &Sealed,
    ) -> Result<Zeroizing<Vec<u8>>, KeystoreError> {
        let Key::X25519(key) = self.key(key_id)? else { return Err(KeystoreError::Kind) };
        key.open_submission(binding, &sealed.encapsulated_key, &sealed.ciphertext)
            .map_err(KeystoreError::Crypto)
    }
}

impl fmt::Debug for Pkcs11Keystore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pkcs11Keystore")
            .field("slot", &self.slot)
            .field("token", &self.token)
            .finish_non_exhaustive()
    }
}

impl Ring {
    fn role(&self, entry: &Entry) -> KeyRole {
        match entry.serial.cmp(&self.current) {
            std::cmp::Ordering::Greater => KeyRole::Next,
            std::cmp::Ordering::Equal => KeyRole::Current,
            std::cmp::Ordering::Less => KeyRole::Previous,
        }
    }
}

impl Entry {
    fn info(&self, role: KeyRole) -> KeyInfo {
        let (public, sealing) = match &self.key {
            Key::Ed25519(_, public) => (Some(*public), None),
            Key::HmacSha256(_) | Key::SealedHmac(_) => (None, None),
            Key::X25519(key) => (None, Some(key.public())),
        };
        KeyInfo {
            id: self.id.clone(),
            kind: self.key.kind(),
            role,
            created_at_ms: self.created_at_ms,
            public,
            sealing,
        }
    }
}

impl Key {
    fn kind(&self) -> KeyKind {
        match self {
            Self::Ed25519(..) => KeyKind::Ed25519,
            Self::HmacSha256(_) | Self::SealedHmac(_) => KeyKind::HmacSha256,
            Self::X25519(_) => KeyKind::X25519,
        }
    }
}

/// The facts that say which key of a ring is current.
fn facts_of<'a>(objects: &'a [Object], ring: &'a str) -> impl Iterator<Item = (u64, ObjectHandle)> + 'a {
    objects.iter().filter_map(move |object| match object.words(CURRENT)?.as_slice() {
        [of, serial] if *of == ring => Some((serial.parse().ok()?, object.handle)),
        _ => None,
    })
}

const fn kind_word(kind: KeyKind) -> &'static str {
    match kind {
        KeyKind::Ed25519 => "ed25519",
        KeyKind::HmacSha256 => "hmac-sha256",
        KeyKind::X25519 => "x25519",
    }
}

fn kind_of(word: &str) -> Option<KeyKind> {
    [KeyKind::Ed25519, KeyKind::HmacSha256, KeyKind::X25519].into_iter().find(|kind| kind_word(*kind) == word)
}
