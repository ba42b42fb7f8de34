//! `default.toml` as types. Its text is the reference.

use std::{collections::HashSet, net::SocketAddr, path::PathBuf, str::FromStr, time::Duration};

use serde::Deserialize;
use sotto_bus::NatsConfig;
use sotto_core::{MessageClass, TenantId};
use sotto_crypto::sign::PublicKey;
use sotto_keystore::TokenSettings;
use sotto_runtime::{
    config::{
        AdminConfig, CellConfig, ConfigDuration, ConfigError, ConfigErrors, KeyPath, KeystoreKind,
        Pkcs11Config, ResidencyConfig, ShutdownConfig, TelemetryConfig, TlsConfig, Validate,
    },
    service::ProcessConfig,
};

use crate::{
    app::MAX_WRAPS,
    domain::{
        approval::Person,
        bucket::Contents,
        limits::{self, LIMITS, Limits},
        place::LONGEST_OWNER,
        policy::{Allowed, Policy, Rule},
        rate::Bound,
        retention::Retention,
        rotation::{self, Rotation},
    },
};

/// The embedded defaults.
pub const DEFAULT_TOML: &str = include_str!("default.toml");

/// Tenants with keys of their own: each multiplies the keys of a cell.
const MOST_OWNERS: usize = 64;

/// All of the configuration.
#[derive(Clone, Debug, Deserialize)]
pub struct Config {
    /// `[cell]`
    pub cell: CellConfig,
    /// `[residency]`
    pub residency: ResidencyConfig,
    /// `[grpc]`
    pub grpc: GrpcConfig,
    /// `[tls]`
    pub tls: TlsConfig,
    /// `[nats]`
    pub nats: NatsConfig,
    /// `[keystore]`
    pub keystore: KeystoreConfig,
    /// `[retention]`
    pub retention: RetentionConfig,
    /// `[rotation]`
    pub rotation: RotationConfig,
    /// `[session]`
    pub session: SessionConfig,
    /// `[destruction]`
    pub destruction: DestructionConfig,
    /// `[rate]`
    pub rate: RateConfig,
    /// `[[unwrap]]`
    pub unwrap: Vec<RuleConfig>,
    /// `[own_keys]`
    pub own_keys: OwnKeysConfig,
    /// `[approval]`
    pub approval: ApprovalConfig,
    /// `[admin]`
    pub admin: AdminConfig,
    /// `[telemetry]`
    pub telemetry: TelemetryConfig,
    /// `[shutdown]`
    pub shutdown: ShutdownConfig,
}

/// Where the key service listens.
#[derive(Clone, Debug, Deserialize)]
pub struct GrpcConfig {
    /// The address.
    pub listen: SocketAddr,
}

/// Where the bucket keys are.
#[derive(Clone, Debug, Deserialize)]
pub struct KeystoreConfig {
    /// What keeps the keys.
    pub kind: KeystoreKind,
    /// The file of bucket keys.
    pub buckets_file: PathBuf,
    /// The secret that opens it: 32 bytes, not text.
    pub unlock_secret_file: PathBuf,
    /// `[keystore.pkcs11]`
    pub pkcs11: Pkcs11Config,
}

impl KeystoreConfig {
    /// The file with the key that signs receipts, beside that of the buckets.
    pub fn receipts_file(&self) -> PathBuf {
        self.buckets_file.with_file_name("receipts.sks")
    }

    /// The token as the keystore knows it; none when a file keeps the keys.
    pub fn token(&self) -> Option<TokenSettings> {
        let Pkcs11Config { module, token, pin_file, sessions, wait, sync_folder } = self.pkcs11.clone();
        let settings =
            TokenSettings { module, label: token, pin_file, sessions, wait: wait.get(), sync_folder };
        (self.kind == KeystoreKind::Pkcs11).then_some(settings)
    }
}

/// How far ahead messages may wait.
#[derive(Clone, Debug, Deserialize)]
pub struct RetentionConfig {
    /// The rules that bound the others.
    pub limits: String,
    /// Of one-time codes.
    pub otp: ConfigDuration,
    /// Of service notices.
    pub transactional: ConfigDuration,
    /// Of advertising.
    pub promotional: ConfigDuration,
    /// Of invitations.
    pub ad_invite: ConfigDuration,
    /// Of messages from handsets.
    pub inbound: ConfigDuration,
    /// Of the index.
    pub index: ConfigDuration,
    /// Submit timeout and skew on top.
    pub submit_margin: ConfigDuration,
}

/// How long one key seals before another takes its place.
#[derive(Clone, Debug, Deserialize)]
pub struct RotationConfig {
    /// Of one-time codes.
    pub otp: ConfigDuration,
    /// Of service notices.
    pub transactional: ConfigDuration,
    /// Of advertising.
    pub promotional: ConfigDuration,
    /// Of invitations.
    pub ad_invite: ConfigDuration,
    /// Of messages from handsets.
    pub inbound: ConfigDuration,
    /// Of the index.
    pub index: ConfigDuration,
}

/// Who has bucket keys of their own.
#[derive(Clone, Debug, Deserialize)]
pub struct OwnKeysConfig {
    /// The tenants.
    pub tenants: Vec<String>,
}

/// Who may approve the destruction of keys before their time.
#[derive(Clone, Debug, Deserialize)]
pub struct ApprovalConfig {
    /// They.
    pub people: Vec<PersonConfig>,
}

/// Somebody whose word counts.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PersonConfig {
    /// What the cell calls them.
    pub name: String,
    /// Their Ed25519 public key, base64url.
    pub key: String,
}

impl PersonConfig {
    fn read(&self) -> Result<Person, &'static str> {
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        if !(1..=32).contains(&self.name.len()) || !self.name.bytes().all(plain) {
            return Err("name must be 1 to 32 characters of a-z, 0-9 and '-'");
        }
        let key = PublicKey::from_jwk_x(&self.key).ok_or("key must be what sotto keys person printed")?;
        Ok(Person { name: self.name.clone(), key })
    }
}

impl RetentionConfig {
    /// Key in the configuration, class and value of each.
    const fn classes(&self) -> [(&'static str, &'static str, ConfigDuration); 6] {
        [
            ("otp", "otp", self.otp),
            ("transactional", "transactional", self.transactional),
            ("promotional", "promotional", self.promotional),
            ("ad_invite", "ad-invite", self.ad_invite),
            ("inbound", "inbound", self.inbound),
            ("index", "index", self.index),
        ]
    }

    /// The rules as the domain knows them; none under a name that validation refuses.
    fn rules(&self) -> Vec<limits::Rule> {
        let rule = |(_, class, kept): (&str, &str, ConfigDuration)| {
            let limit = Limits::named(&self.limits)?.of(class)?;
            Some(limits::Rule::new(*limit, kept.get(), class == "otp"))
        };
        self.classes().into_iter().filter_map(rule).collect()
    }
}

/// What a session key may do.
#[derive(Clone, Debug, Deserialize)]
pub struct SessionConfig {
    /// How long it seals.
    pub lifetime: ConfigDuration,
}

/// When buckets are destroyed.
#[derive(Clone, Debug, Deserialize)]
pub struct DestructionConfig {
    /// How often they are looked through.
    pub sweep_every: ConfigDuration,
}

/// How fast an account opens keys.
#[derive(Clone, Debug, Deserialize)]
pub struct RateConfig {
    /// Keys a second.
    pub per_second: u32,
    /// Keys at once.
    pub burst: u32,
}

/// One rule of who may open whose messages.
#[derive(Clone, Debug, Deserialize)]
pub struct RuleConfig {
    /// The accounts, or `*`.
    pub accounts: Vec<String>,
    /// The tenants, or `*`.
    pub tenants: Vec<String>,
}

impl Config {
    /// The retention as the domain knows it.
    pub const fn retention(&self) -> Retention {
        Retention {
            otp: self.retention.otp.get(),
            transactional: self.retention.transactional.get(),
            promotional: self.retention.promotional.get(),
            ad_invite: self.retention.ad_invite.get(),
            inbound: self.retention.inbound.get(),
            index: self.retention.index.get(),
            submit_margin: self.retention.submit_margin.get(),
            session: self.session.lifetime.get(),
        }
    }

    /// The schedule of keys as the domain knows it.
    pub const fn rotation(&self) -> Rotation {
        Rotation {
            otp: self.rotation.otp.get(),
            transactional: self.rotation.transactional.get(),
            promotional: self.rotation.promotional.get(),
            ad_invite: self.rotation.ad_invite.get(),
            inbound: self.rotation.inbound.get(),
            index: self.rotation.index.get(),
        }
    }

    /// The bound as the domain knows it.
    pub const fn bound(&self) -> Bound {
        Bound { per_second: self.rate.per_second, burst: self.rate.burst }
    }

    /// How long each class is kept, within which bounds.
    pub fn rules(&self) -> Vec<limits::Rule> {
        self.retention.rules()
    }

    /// The tenants with keys of their own. One that does not parse (validation refuses it) has none.
    pub fn own_keys(&self) -> HashSet<TenantId> {
        self.own_keys.tenants.iter().filter_map(|name| name.parse().ok()).collect()
    }

    /// The people as the domain knows them. One that does not parse (validation refuses it) has no word.
    pub fn people(&self) -> Vec<Person> {
        self.approval.people.iter().filter_map(|person| person.read().ok()).collect()
    }

    /// The policy as the domain knows it. A rule that does not parse (validation refuses it) allows nobody.
    pub fn policy(&self) -> Policy {
        let rule = |rule: &RuleConfig| {
            Some(Rule { accounts: allowed(&rule.accounts)?, tenants: allowed(&rule.tenants)? })
        };
        Policy::new(self.unwrap.iter().filter_map(rule).collect())
    }
}

/// `*` alone, or names; none of anything else.
fn allowed<T: FromStr>(names: &[String]) -> Option<Allowed<T>> {
    match names {
        [] => None,
        [all] if all == "*" => Some(Allowed::All),
        names => names.iter().map(|name| name.parse().ok()).collect::<Option<_>>().map(Allowed::Only),
    }
}

impl ProcessConfig for Config {
    fn telemetry(&self) -> &TelemetryConfig {
        &self.telemetry
    }
    fn admin(&self) -> &AdminConfig {
        &self.admin
    }
    fn shutdown(&self) -> &ShutdownConfig {
        &self.shutdown
    }
}

impl Validate for Config {
    fn validate(&self, at: &KeyPath, errors: &mut ConfigErrors) {
        self.cell.validate(&at.key("cell"), errors);
        let places = [("nats.url", self.nats.url.as_str())];
        let telemetry = self.telemetry.otlp_endpoint.as_deref().map(|url| ("telemetry.otlp_endpoint", url));
        self.residency.check(at, places.into_iter().chain(telemetry), errors);
        self.tls.validate(&at.key("tls"), errors);
        for fault in self.nats.faults() {
            let (key, problem) = fault.split_once(": ").unwrap_or(("", &fault));
            errors.push(ConfigError::new(at.key("nats").key(key), problem));
        }
        self.keystore.validate(&at.key("keystore"), errors);
        self.retention.validate(&at.key("retention"), errors);
        self.rotation.validate(&self.retention(), &at.key("rotation"), errors);
        let session = Duration::from_secs(10)..=Duration::from_secs(300);
        errors.duration_in(&at.key("session"), "lifetime", self.session.lifetime, session);
        let sweep = Duration::from_millis(500)..=Duration::from_secs(60);
        errors.duration_in(&at.key("destruction"), "sweep_every", self.destruction.sweep_every, sweep);
        self.rate.validate(&at.key("rate"), errors);
        validate_rules(&self.unwrap, at, errors);
        self.own_keys.validate(&at.key("own_keys"), errors);
        self.approval.validate(&at.key("approval"), errors);
        self.admin.validate(&at.key("admin"), errors);
        self.telemetry.validate(&at.key("telemetry"), errors);
        self.shutdown.validate(&at.key("shutdown"), errors);
    }
}

impl Validate for KeystoreConfig {
    fn validate(&self, at: &KeyPath, errors: &mut ConfigErrors) {
        if self.kind == KeystoreKind::Pkcs11 {
            self.pkcs11.validate(&at.key("pkcs11"), errors);
            return;
        }
        for (key, path) in
            [("buckets_file", &self.buckets_file), ("unlock_secret_file", &self.unlock_secret_file)]
        {
            errors.require(at, key, path.is_file(), "must name a file", "sotto init makes it");
        }
    }
}

impl Validate for RetentionConfig {
    fn validate(&self, at: &KeyPath, errors: &mut ConfigErrors) {
        let margin = Duration::from_secs(10)..=Duration::from_secs(900);
        errors.duration_in(at, "submit_margin", self.submit_margin, margin);
        let Some(limits) = Limits::named(&self.limits) else {
            let known: Vec<_> = LIMITS.iter().map(|limits| limits.name).collect();
            let problem = format!("must be one of: {}", known.join(", "));
            errors
                .push(ConfigError::new(at.key("limits"), problem).fix("vn, unless a lawyer said otherwise"));
            return;
        };
        for (key, class, value) in self.classes() {
            if let Some(limit) = limits.of(class) {
                errors.duration_in(at, key, value, limit.least..=limit.most);
            }
        }
    }
}

impl RotationConfig {
    /// How long messages are kept bounds how often their keys may be replaced.
    fn validate(&self, retention: &Retention, at: &KeyPath, errors: &mut ConfigErrors) {
        for (key, contents, value) in [
            ("otp", MessageClass::Otp.into(), self.otp),
            ("transactional", MessageClass::Transactional.into(), self.transactional),
            ("promotional", MessageClass::Promotional.into(), self.promotional),
            ("ad_invite", MessageClass::AdInvite.into(), self.ad_invite),
            ("inbound", Contents::Inbound, self.inbound),
            ("index", Contents::Index, self.index),
        ] {
            errors.duration_in(at, key, value, rotation::bounds(contents, retention));
        }
    }
}

impl Validate for OwnKeysConfig {
    fn validate(&self, at: &KeyPath, errors: &mut ConfigErrors) {
        let names = self.tenants.iter();
        let owns = |name: &String| {
            name.len() <= LONGEST_OWNER && name.parse::<TenantId>().is_ok_and(|tenant| !tenant.is_unowned())
        };
        if let Some(wrong) = names.clone().find(|name| !owns(name)) {
            let problem = format!("{wrong:?} must be a tenant of at most {LONGEST_OWNER} characters");
            errors
                .push(ConfigError::new(at.key("tenants"), problem).fix("name tenants as clients have them"));
        }
        let fix = "keep to those who must be deleted alone: each has up to 203 keys at a time";
        errors.require(at, "tenants", names.len() <= MOST_OWNERS, "must name at most 64 tenants", fix);
    }
}

impl Validate for ApprovalConfig {
    fn validate(&self, at: &KeyPath, errors: &mut ConfigErrors) {
        let fix = "make each person's key with: sotto keys person NAME --out FILE";
        let mut problem = |number: usize, problem: &str| {
            let text = format!("person {}: {problem}", number + 1);
            errors.push(ConfigError::new(at.key("people"), text).fix(fix));
        };
        for (number, person) in self.people.iter().enumerate() {
            if let Err(wrong) = person.read() {
                problem(number, wrong);
            }
            let before = || self.people.iter().take(number);
            if before().any(|other| other.name == person.name) {
                problem(number, "name is another person's too");
            }
            // Two names with one key would be one person with two words.
            if before().any(|other| other.key == person.key) {
                problem(number, "key is another person's too");
            }
        }
    }
}

impl Validate for RateConfig {
    fn validate(&self, at: &KeyPath, errors: &mut ConfigErrors) {
        errors.in_range(at, "per_second", self.per_second, 1..=1_000_000, "keys");
        // A smaller burst could never let the largest request through.
        let largest = u32::try_from(MAX_WRAPS).unwrap_or(u32::MAX);
        errors.in_range(at, "burst", self.burst, largest..=1_000_000, "keys");
    }
}

fn validate_rules(rules: &[RuleConfig], at: &KeyPath, errors: &mut ConfigErrors) {
    let fix = "allow all of the cell by accounts = [\"*\"] and tenants = [\"*\"], or name them";
    errors.require(at, "unwrap", !rules.is_empty(), "must hold a rule: nobody could open anything", fix);
    for (number, rule) in rules.iter().enumerate() {
        let problem = |list, kind| format!("rule {}: {list} must be [\"*\"] or names of {kind}", number + 1);
        if allowed::<sotto_core::AccountId>(&rule.accounts).is_none() {
            errors.push(ConfigError::new(at.key("unwrap"), problem("accounts", "accounts")).fix(fix));
        }
        if allowed::<sotto_core::TenantId>(&rule.tenants).is_none() {
            errors.push(ConfigError::new(at.key("unwrap"), problem("tenants", "tenants")).fix(fix));
        }
    }
}
