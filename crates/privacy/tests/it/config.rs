use std::{fs, path::Path};

use sotto_privacy::config::{Config, DEFAULT_TOML};
use sotto_runtime::config::testing::{faults_not_reported, load_text};
use tempfile::TempDir;

/// Sets what has no default, with files that exist.
pub(crate) fn required(folder: &Path) -> String {
    let file = |name: &str| {
        let path = folder.join(name);
        fs::write(&path, "text").unwrap();
        path.display().to_string()
    };
    format!(
        "cell.id = 'vn'\n\
         tls.ca_file = '{0}'\ntls.cert_file = '{1}'\ntls.key_file = '{2}'\n\
         nats.ca_file = '{0}'\nnats.cert_file = '{1}'\nnats.key_file = '{2}'\nnats.nkey_seed_file = '{5}'\n\
         keystore.buckets_file = '{3}'\nkeystore.unlock_secret_file = '{4}'\n",
        file("ca.pem"),
        file("cert.pem"),
        file("key.pem"),
        file("buckets.sks"),
        file("unlock"),
        file("seed"),
    )
}

#[test]
fn every_field_wrong_in_turn_is_told_with_its_path() {
    let folder = TempDir::new().unwrap();
    let unreported = faults_not_reported::<Config>(DEFAULT_TOML, &required(folder.path()));
    assert_eq!(unreported, Vec::<String>::new());
}

#[test]
fn every_range_is_checked() {
    let folder = TempDir::new().unwrap();
    let required = required(folder.path());
    for (wrong, path) in [
        ("retention.otp = '25 h'", "retention.otp"),
        ("retention.otp = '59 s'", "retention.otp"),
        ("retention.otp = '16 m'", "retention.otp"),
        ("retention.transactional = '73 h'", "retention.transactional"),
        ("retention.limits = 'mars'", "retention.limits"),
        ("own_keys.tenants = ['No Tenant']", "own_keys.tenants"),
        ("own_keys.tenants = ['unowned']", "own_keys.tenants"),
        ("own_keys.tenants = ['a12345678901234567890123456789012345']", "own_keys.tenants"),
        ("retention.limits = 'technical'\nretention.otp = '25 h'", "retention.otp"),
        (
            "[[approval.people]]\nname = 'An'\nkey = 'AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA'",
            "approval.people",
        ),
        ("[[approval.people]]\nname = 'an'\nkey = 'AAAA'", "approval.people"),
        (
            "[[approval.people]]\nname = 'an'\nkey = 'AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA'\n\
             [[approval.people]]\nname = 'binh'\nkey = 'AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA'",
            "approval.people",
        ),
        ("retention.transactional = '1 s'", "retention.transactional"),
        ("retention.promotional = '59 s'", "retention.promotional"),
        ("retention.ad_invite = '31 d'", "retention.ad_invite"),
        ("retention.index = '59 s'", "retention.index"),
        ("retention.submit_margin = '9 s'", "retention.submit_margin"),
        ("retention.submit_margin = '16 m'", "retention.submit_margin"),
        ("rotation.otp = '9 s'", "rotation.otp"),
        ("rotation.transactional = '59 m'", "rotation.transactional"),
        ("rotation.promotional = '91 d'", "rotation.promotional"),
        ("rotation.ad_invite = '1 s'", "rotation.ad_invite"),
        ("rotation.inbound = '59 m'", "rotation.inbound"),
        ("rotation.index = '5 h'", "rotation.index"),
        // So many keys would take a bucket's names before it dies.
        ("rotation.otp = '10 s'\nretention.limits = 'technical'\nretention.otp = '24 h'", "rotation.otp"),
        (
            "rotation.promotional = '1 h'\nretention.limits = 'technical'\nretention.promotional = '30 d'",
            "rotation.promotional",
        ),
        ("session.lifetime = '301 s'", "session.lifetime"),
        ("session.lifetime = '9 s'", "session.lifetime"),
        ("destruction.sweep_every = '61 s'", "destruction.sweep_every"),
        ("destruction.sweep_every = '499 ms'", "destruction.sweep_every"),
        ("rate.per_second = 0", "rate.per_second"),
        ("rate.burst = 255", "rate.burst"),
        ("unwrap = []", "unwrap"),
        ("[[unwrap]]\naccounts = []\ntenants = ['*']", "unwrap"),
        ("[[unwrap]]\naccounts = ['*', 'vina']\ntenants = ['*']", "unwrap"),
        ("[[unwrap]]\naccounts = ['*']\ntenants = ['No Tenant']", "unwrap"),
        ("keystore.buckets_file = '/no/such/file'", "keystore.buckets_file"),
        ("keystore.unlock_secret_file = ''", "keystore.unlock_secret_file"),
        ("cell.shards = 65", "cell.shards"),
        ("nats.url = 'nats://localhost:4222'", "nats.url"),
        ("nats.nkey_seed_file = ''", "nats.nkey_seed_file"),
        ("nats.connect_timeout_ms = 99", "nats.connect_timeout_ms"),
    ] {
        let text = without(&required, wrong);
        let errors = load_text::<Config>(DEFAULT_TOML, &format!("{text}{wrong}\n")).unwrap_err();
        let paths: Vec<_> = errors.iter().map(|error| error.path.as_str()).collect();
        assert_eq!(paths, [path], "{wrong}");
    }
}

/// The text without the line that sets the same key.
fn without(text: &str, line: &str) -> String {
    let key = line.split('=').next().unwrap();
    text.lines().filter(|old| !old.starts_with(key)).map(|old| format!("{old}\n")).collect()
}

#[test]
fn rules_of_the_file_replace_the_default() {
    let folder = TempDir::new().unwrap();
    let text = format!("{}[[unwrap]]\naccounts = ['vina']\ntenants = ['acme']\n", required(folder.path()));
    let policy = load_text::<Config>(DEFAULT_TOML, &text).unwrap().config.policy();
    let allows =
        |account: &str, tenant: &str| policy.allows(&account.parse().unwrap(), &tenant.parse().unwrap());
    assert!(allows("vina", "acme"));
    assert!(!allows("vina", "globex"));
    assert!(!allows("mobi", "acme"));
    let default = load_text::<Config>(DEFAULT_TOML, &required(folder.path())).unwrap().config.policy();
    assert!(default.allows(&"mobi".parse().unwrap(), &"globex".parse().unwrap()));
}
