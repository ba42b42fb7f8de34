use std::path::PathBuf;

use sotto_core::{ManualClock, Timestamp};
use sotto_keystore::{SoftKeystore, UnlockSecret};

use super::*;
use crate::init::tests::new_cell;

struct Made {
    folder: tempfile::TempDir,
    new: NewCell,
}

impl Made {
    fn new() -> Self {
        Self::with(new_cell())
    }

    fn with(new: NewCell) -> Self {
        let new = NewCell { layout: Layout::Containers, ..new };
        let made = Self { folder: tempfile::tempdir().unwrap(), new };
        made.again().unwrap();
        made
    }

    fn again(&self) -> Result<(), CliError> {
        let clock = ManualClock::new(Timestamp::from_unix_seconds(1_795_000_000));
        prepare(&self.cell(), &self.new, &self.folder.path().join("shares"), &clock, &Output::new(true, true))
    }

    fn cell(&self) -> CellDir {
        CellDir::new(self.folder.path().join("cell"))
    }

    fn share(&self, path: &str) -> PathBuf {
        self.folder.path().join("shares").join(path)
    }

    fn files(&self, process: &str) -> Vec<String> {
        let root = self.share(process);
        let mut folders = vec![root.clone()];
        let mut files = Vec::new();
        while let Some(folder) = folders.pop() {
            for path in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
                if path.is_dir() {
                    folders.push(path);
                } else {
                    files.push(path.strip_prefix(&root).unwrap().display().to_string());
                }
            }
        }
        files.sort();
        files
    }
}

#[test]
fn nobody_gets_the_secrets_of_others() {
    let made = Made::new();
    for share in shares(Replicas::One, false, false) {
        let name = share.places[0].as_str();
        for path in made.files(name) {
            let mode = fs::metadata(made.share(name).join(&path)).unwrap().permissions().mode() & 0o777;
            let text = fs::read(made.share(name).join(&path)).unwrap();
            assert!(!path.starts_with("ca/") && !path.contains("invitation-"), "{name}: {path}");
            let secret =
                ["secrets/", "keystore/", "nats/nkeys/"].iter().any(|folder| path.starts_with(folder));
            if secret || path.ends_with(".key") {
                assert_eq!(mode, 0o600, "{name}: {path}");
                // The test carrier's password is known to both of its ends.
                let own =
                    path.contains(name) || path == "secrets/simulator" || path == "keystore/buckets.sks";
                assert!(own && !text.is_empty(), "{name}: {path}");
            }
        }
    }
    assert_eq!(
        made.files("routing"),
        [
            "carriers.toml",
            "config/routing.toml",
            "nats/nkeys/routing.current.seed",
            "tls/ca.pem",
            "tls/routing.key",
            "tls/routing.pem"
        ]
    );
}

#[test]
fn a_cell_is_put_back_without_the_keys_that_die_on_time_which_no_backup_has() {
    let made = Made::new();
    let keys = made.share("privacy/keystore/buckets.sks");
    let before = fs::read(&keys).unwrap();
    let back = || {
        let clock = ManualClock::new(Timestamp::from_unix_seconds(1_795_000_100));
        crate::commands::backup::restore_in_place(&made.cell(), &clock, &Output::new(true, true))
    };
    // Those that have survived stay.
    back().unwrap();
    assert_eq!(fs::read(&keys).unwrap(), before);
    fs::remove_dir_all(made.share("privacy")).unwrap();
    // Nothing is handed out before all of it is back, and by then it is held.
    let (kept, aside) = (made.share("audit/keystore/audit.sks"), made.share("aside"));
    fs::rename(&kept, &aside).unwrap();
    assert!(made.again().is_err());
    back().unwrap();
    assert!(made.again().unwrap_err().to_string().ends_with("is gone"));
    fs::rename(&aside, &kept).unwrap();
    made.again().unwrap();
    assert_ne!(fs::read(&keys).unwrap(), before);
    assert_eq!(fs::metadata(&keys).unwrap().permissions().mode() & 0o777, 0o600);
    for service in ["routing", "carrier", "ingress"] {
        let told = made.share(service).join(format!("config/{service}.toml"));
        assert!(fs::read_to_string(told).unwrap().contains("[restored]"), "{service} does not hold");
    }
}

#[test]
fn a_second_run_brings_what_changed_and_leaves_what_is_a_processs_own() {
    let made = Made::new();
    let (clients, keystore) =
        (made.cell().path("nats/clients.conf"), made.share("ingress/keystore/ingress.sks"));
    fs::write(&clients, "users: [ ]").unwrap();
    fs::write(&keystore, "written by ingress").unwrap();
    made.again().unwrap();
    assert_eq!(fs::read_to_string(made.share("nats/nats/clients.conf")).unwrap(), "users: [ ]");
    assert_eq!(fs::read_to_string(&keystore).unwrap(), "written by ingress");
    fs::remove_file(&keystore).unwrap();
    assert!(made.again().unwrap_err().to_string().ends_with("is gone"));
}

#[test]
fn a_keystore_is_in_one_place_and_the_cell_finds_it() {
    let made = Made::new();
    let path = made.cell().path("keystore/ingress.sks");
    assert_eq!(fs::read_link(&path).unwrap(), made.share("ingress/keystore/ingress.sks"));
    let secret = UnlockSecret::read(&made.share("ingress/secrets/unlock-ingress")).unwrap();
    SoftKeystore::open(&path, secret, "ingress").unwrap();
    assert_eq!(fs::read_link(made.cell().path(LOG_DIR)).unwrap(), made.share("audit").join(LOG_DIR));
}

#[test]
fn volumes_of_two_cells_are_not_mixed() {
    let made = Made::new();
    fs::remove_dir_all(made.cell().root()).unwrap();
    let error = made.again().unwrap_err().to_string();
    assert!(error.ends_with("is of another cell"), "{error}");
}

#[test]
fn a_cell_of_one_machine_is_refused() {
    let made = Made { folder: tempfile::tempdir().unwrap(), new: new_cell() };
    let clock = ManualClock::new(Timestamp::from_unix_seconds(1_795_000_000));
    init::init(&made.cell(), &new_cell(), &clock).unwrap();
    assert!(made.again().unwrap_err().to_string().contains("for one machine"));
}

#[test]
fn a_token_keeps_the_keys_that_die_and_files_the_others() {
    let made = Made::with(NewCell { hsm: true, ..new_cell() });
    assert_eq!(
        made.files("privacy"),
        [
            "config/privacy.toml",
            "hsm/privacy.conf",
            "nats/nkeys/privacy.current.seed",
            "secrets/pin-privacy",
            "tls/ca.pem",
            "tls/privacy.key",
            "tls/privacy.pem",
        ]
    );
    assert_eq!(made.files("officer"), ["secrets/pin-privacy-officer"]);
    for pin in ["privacy/secrets/pin-privacy", "officer/secrets/pin-privacy-officer"] {
        let mode = fs::metadata(made.share(pin)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{pin}");
    }
    assert!(made.share("audit/keystore/audit.sks").is_file());
    made.again().unwrap();
    // The volume is lost, and with it the token.
    fs::remove_dir_all(made.share("privacy")).unwrap();
    assert!(made.again().unwrap_err().to_string().ends_with("hsm/privacy.conf is gone"));
}

#[test]
fn of_two_redis_either_may_be_the_one_that_leads_and_services_know_of_one() {
    let three = NewCell { replicas: Replicas::Three, ..new_cell() };
    let made = Made::with(three);
    let files = [
        "redis/redis.conf",
        "redis/users.acl",
        "secrets/redis-replica",
        "tls/ca.pem",
        "tls/redis.key",
        "tls/redis.pem",
    ];
    for server in ["redis", "redis-2"] {
        assert_eq!(made.files(server), files, "{server}");
        assert!(made.share(server).join("data/redis").is_dir(), "{server}");
    }
    for file in files {
        assert_eq!(
            fs::read(made.share("redis").join(file)).unwrap(),
            fs::read(made.share("redis-2").join(file)).unwrap(),
            "{file}"
        );
    }
    let mode = fs::metadata(made.share("redis-2/secrets/redis-replica")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    // A cell of before.
    fs::remove_file(made.cell().path(REPLICA_PASSWORD)).unwrap();
    fs::remove_dir_all(made.share("redis-2")).unwrap();
    made.again().unwrap();
    assert!(!made.share("redis-2").exists());
    assert!(!Made::new().share("redis-2").exists());
}
