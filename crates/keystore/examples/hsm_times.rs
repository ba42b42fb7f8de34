//! How long wraps take in a file and in a token of SoftHSM2, on this machine: `cargo run -p sotto-keystore --example hsm_times`.

use std::{io::Write as _, time::Duration};

use sotto_crypto::{AeadKey, wrap::WrapBinding};
use sotto_keystore::{
    BucketKeystore, KeystoreError, Pkcs11Buckets, SoftBuckets, Token, TokenSettings, UnlockSecret,
};
use sotto_testkit::{SoftHsm, softhsm};

const BUCKET: &str = "otp/2026-11-24T06";
const CALLS: usize = 20_000;
const THREADS: usize = 4;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    if std::env::var_os("SOFTHSM2_CONF").is_none() {
        // SoftHSM finds its folder by the environment alone.
        let hsm = SoftHsm::new();
        hsm.make_token("times");
        let mut again = std::process::Command::new(std::env::current_exe()?);
        let status = again.arg(hsm.pin_file()).envs(hsm.environment()).status()?;
        return if status.success() { Ok(()) } else { Err("the measuring process failed".into()) };
    }
    let pin_file = std::env::args_os().nth(1).ok_or("the PIN file")?.into();
    let folder = tempfile::tempdir()?;
    let secret = UnlockSecret::create(&folder.path().join("unlock"))?;
    measure("file", &SoftBuckets::create(&folder.path().join("buckets"), secret, "privacy")?)?;
    let settings = TokenSettings {
        module: softhsm::module(),
        label: "times".to_owned(),
        pin_file,
        sessions: 8,
        wait: Duration::from_secs(2),
        sync_folder: None,
    };
    measure("SoftHSM2", &Pkcs11Buckets::create(Token::open(settings)?, "privacy")?)?;
    Ok(())
}

fn measure(name: &str, buckets: &dyn BucketKeystore) -> Result<(), Box<dyn std::error::Error>> {
    buckets.create_bucket(BUCKET, 2, 1)?;
    let session = AeadKey::generate()?;
    let binding =
        WrapBinding { cell: "vn", tenant: "acme", class: "otp", bucket: BUCKET, key_id: b"0123456789abcdef" };
    let wrapped = buckets.wrap_session_key(&binding, &session)?;
    times(name, "wrap", &|| buckets.wrap_session_key(&binding, &session).map(drop))?;
    times(name, "unwrap", &|| buckets.unwrap_session_key(&binding, &wrapped).map(drop))
}

type Call<'a> = &'a (dyn Fn() -> Result<(), KeystoreError> + Sync);

fn times(name: &str, what: &str, call: Call<'_>) -> Result<(), Box<dyn std::error::Error>> {
    for threads in [1, THREADS] {
        let mut taken: Vec<Duration> = std::thread::scope(|scope| {
            let each = || {
                let one = |_| {
                    let begun = tokio::time::Instant::now();
                    call().map(|()| begun.elapsed())
                };
                (0..CALLS / threads).map(one).collect::<Result<Vec<_>, _>>()
            };
            let running: Vec<_> = (0..threads).map(|_| scope.spawn(each)).collect();
            running
                .into_iter()
                .map(|one| one.join().map_err(|_| "a thread panicked"))
                .collect::<Result<Vec<_>, _>>()
        })?
        .into_iter()
        .collect::<Result<Vec<_>, _>>()?
        .concat();
        taken.sort_unstable();
        let at = |share: usize| taken.get(taken.len() * share / 1000).copied().unwrap_or_default();
        writeln!(
            std::io::stdout(),
            "{name:9} {what:7} {threads} thread(s): p50 {:?}, p99 {:?}, p99.9 {:?}",
            at(500),
            at(990),
            at(999)
        )?;
    }
    Ok(())
}
