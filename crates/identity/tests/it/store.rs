//! The file of clients: what was answered is in it, whatever ended the process, and what is not ours is not used.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use futures::future::join_all;
use serde_json::{Value, value::RawValue};
use sotto_core::{Clock as _, SystemClock, Timestamp};
use sotto_identity::{adapters::file_store::STORE_RING, app::SECRETS_RING};
use sotto_keystore::{KeyKind, Keystore as _, SoftKeystore};
use sotto_proto::identity::v1::{
    Client, CreateClientRequest, DisableClientRequest, ListClientsRequest, RedeemInvitationRequest,
    client_service_client::ClientServiceClient,
};
use sotto_runtime::Context;
use sotto_testkit::{Process, eventually, eventually_ok, process::http_get};
use tonic::{Code, Status, transport::Channel};
use tonic_types::StatusExt as _;

use crate::{
    tokens::{acme, bearing, owner_token},
    world::{BOUND, INVITATION, Key, Running, World, with_secret},
};

fn clients_file(world: &World) -> PathBuf {
    world.path("clients.json")
}

async fn create(running: &Running, token: &str, name: &str) -> Result<String, Status> {
    let request = CreateClientRequest { name: name.to_owned(), ..acme() };
    let made = running.grpc().create_client(bearing(request, token)).await?.into_inner();
    Ok(made.client.unwrap().client_id)
}

async fn list(mut grpc: ClientServiceClient<Channel>, token: &str) -> Vec<Client> {
    let request = ListClientsRequest { page_size: 1_000, ..ListClientsRequest::default() };
    grpc.list_clients(bearing(request, token)).await.unwrap().into_inner().clients
}

/// A stopped cell with an owner, a client and a disabled one, and how they were listed.
struct Stopped {
    world: World,
    owner: Key,
    clients: Vec<Client>,
    bytes: Vec<u8>,
}

impl Stopped {
    async fn new() -> Self {
        let world = World::new().await;
        let running = world.start().await;
        let owner = running.owner().await;
        let token = owner_token(&world, &running, &owner).await;
        create(&running, &token, "Acme").await.unwrap();
        let client_id = create(&running, &token, "Gone").await.unwrap();
        let request = bearing(DisableClientRequest { client_id }, &token);
        running.grpc().disable_client(request).await.unwrap();
        let clients = list(running.grpc(), &token).await;
        running.stop().await;
        let bytes = fs::read(clients_file(&world)).unwrap();
        Self { world, owner, clients, bytes }
    }

    fn file(&self) -> PathBuf {
        clients_file(&self.world)
    }

    /// Everybody is there after a start, and the next change works.
    async fn is_whole(&self) {
        let running = self.world.start().await;
        let token = owner_token(&self.world, &running, &self.owner).await;
        assert_eq!(list(running.grpc(), &token).await, self.clients);
        create(&running, &token, "Next").await.unwrap();
        running.stop().await;
        fs::write(self.file(), &self.bytes).unwrap();
    }

    /// With this content the service does not start, says so, and leaves the file as it is.
    async fn refuses(&self, content: &[u8], why: &str) {
        fs::write(self.file(), content).unwrap();
        let told = self.world.fails_to_start().await;
        assert!(told.contains("clients.json") && told.contains(why), "{told}\nexpected: {why}");
        for client in &self.clients {
            assert!(!told.contains(&client.client_id) && !told.contains("ACME"), "{told}");
        }
        assert_eq!(fs::read(self.file()).unwrap(), content, "untouched: somebody may want to look at it");
    }
}

#[tokio::test]
async fn everything_is_there_after_a_restart() {
    let cell = Stopped::new().await;
    assert_eq!(cell.clients.len(), 3);
    assert_eq!(cell.clients.iter().filter(|client| client.enabled).count(), 2);
    let mode = fs::metadata(cell.file()).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode, 0o600);
    cell.is_whole().await;
}

#[tokio::test]
async fn what_a_crash_left_half_written_beside_it_is_passed_over() {
    let cell = Stopped::new().await;
    let beside = cell.world.path("clients.json.new");
    for (left, mode) in [(&b""[..], 0o600), (&cell.bytes[..cell.bytes.len() / 2], 0o600), (b"\0\0\0", 0o644)]
    {
        fs::write(&beside, left).unwrap();
        fs::set_permissions(&beside, fs::Permissions::from_mode(mode)).unwrap();
        cell.is_whole().await;
        assert!(!beside.exists(), "the next change replaced it");
        let mode = fs::metadata(cell.file()).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o600, "whatever the leftover's mode was");
    }
}

#[tokio::test]
async fn a_file_cut_short_or_changed_is_refused_and_left_alone() {
    let cell = Stopped::new().await;
    let (bytes, text) = (&cell.bytes, String::from_utf8(cell.bytes.clone()).unwrap());
    for length in [0, 1, bytes.len() / 4, bytes.len() / 2, bytes.len() - 3] {
        cell.refuses(&bytes[..length], "is not a file of clients").await;
    }
    cell.refuses(b"not JSON at all", "it is not JSON of the expected shape").await;
    cell.refuses(&[bytes.as_slice(), b"{}"].concat(), "it is not JSON of the expected shape").await;
    cell.refuses(&vec![0; bytes.len()], "it is not JSON of the expected shape").await;
    let swapped = |from: &str, to: &str| {
        assert_eq!(text.matches(from).count(), 1, "{from}");
        text.replace(from, to).into_bytes()
    };
    let altered = "was altered, or belongs to another keystore: restore it from a backup";
    cell.refuses(&swapped(r#""version":1"#, r#""version":2"#), "version is not known").await;
    cell.refuses(&swapped("sotto.identity.clients", "sotto.identity.client"), "version is not known").await;
    cell.refuses(&swapped(r#""scopes":"admin:clients audit:read""#, r#""scopes":"admin:clients""#), altered)
        .await;
    cell.refuses(&swapped(r#""name":"Acme""#, r#""name":"Acmf""#), altered).await;
    cell.refuses(&swapped(r#","redeemed"#, r#", "redeemed"#), altered).await;
    let file: Value = serde_json::from_str(&text).unwrap();
    let (mac, key) = (file["mac"].as_str().unwrap(), file["mac_key"].as_str().unwrap());
    cell.refuses(&swapped(mac, &"0".repeat(64)), altered).await;
    cell.refuses(&swapped(mac, &mac[..62]), altered).await;
    cell.refuses(&swapped(mac, "none"), "the MAC of a client is not valid").await;
    cell.refuses(&swapped(key, "AAAAAAAAAAAAAAAAAAAAAA"), altered).await;

    fs::write(cell.file(), &cell.bytes).unwrap();
    cell.is_whole().await;
}

#[tokio::test]
async fn only_the_key_that_is_for_the_file_counts() {
    #[derive(serde::Deserialize)]
    struct Sealed {
        content: Box<RawValue>,
    }
    let cell = Stopped::new().await;
    let sealed: Sealed = serde_json::from_slice(&cell.bytes).unwrap();
    let content = sealed.content.get();
    let wrap = |keystore: &SoftKeystore, ring: &str, purpose: &str, content: &str| {
        let key = keystore.current(ring).unwrap().id;
        let mac = keystore.mac(&key, purpose, &[content.as_bytes()]).unwrap();
        let mac: String = mac.iter().map(|byte| format!("{byte:02x}")).collect();
        let head = r#"{"format":"sotto.identity.clients","version":1"#;
        format!(r#"{head},"mac_key":"{key}","mac":"{mac}","content":{content}}}"#).into_bytes()
    };
    let purpose = "sotto.identity.clients.v1";
    let own = cell.world.keystore();
    let by_own = wrap(&own, STORE_RING, purpose, content);
    fs::write(cell.file(), &by_own).unwrap();
    cell.is_whole().await;

    let altered = "was altered";
    cell.refuses(&wrap(&own, SECRETS_RING, purpose, content), altered).await;
    cell.refuses(&wrap(&own, STORE_RING, "sotto.client-secret.v1", content), altered).await;
    let other = World::new().await;
    other.start().await.stop().await;
    cell.refuses(&wrap(&other.keystore(), STORE_RING, purpose, content), altered).await;
    cell.refuses(&fs::read(clients_file(&other)).unwrap(), altered).await;
    // Whole, but what no version of ours wrote.
    let strange = content.replace(r#""scopes":"admin:clients audit:read""#, r#""scopes":"admin:everything""#);
    assert_ne!(strange, content);
    cell.refuses(&wrap(&own, STORE_RING, purpose, &strange), "a scope of a client is not valid").await;
    let more = content.replace(r#""generation""#, r#""unheard_of":1,"generation""#);
    cell.refuses(&wrap(&own, STORE_RING, purpose, &more), "it is not JSON of the expected shape").await;
}

#[tokio::test]
async fn a_file_that_others_may_use_is_refused_with_the_fix() {
    let cell = Stopped::new().await;
    for mode in [0o640, 0o620, 0o604, 0o602, 0o666] {
        fs::set_permissions(cell.file(), fs::Permissions::from_mode(mode)).unwrap();
        cell.refuses(&cell.bytes, &format!("has mode {mode:o}: others may use it; chmod 600 it")).await;
    }
    fs::set_permissions(cell.file(), fs::Permissions::from_mode(0o600)).unwrap();
    cell.is_whole().await;
}

#[tokio::test]
async fn a_file_that_is_gone_is_missed() {
    let cell = Stopped::new().await;
    fs::remove_file(cell.file()).unwrap();
    let told = cell.world.fails_to_start().await;
    assert!(told.contains("is missing although clients were registered"), "{told}");
    assert!(!cell.file().exists(), "an empty one would make the used invitation good again");
    fs::write(cell.file(), &cell.bytes).unwrap();
    fs::set_permissions(cell.file(), fs::Permissions::from_mode(0o600)).unwrap();
    cell.is_whole().await;
}

#[tokio::test]
async fn a_first_start_that_broke_off_begins_again() {
    // After the ring's first key, before the file.
    let world = World::new().await;
    world.keystore().generate(STORE_RING, KeyKind::HmacSha256, 1).unwrap();
    let running = world.start().await;
    running.owner().await;
    running.stop().await;
    // After the file, before the ring's second key: a new ring with the same first key is what a copy of then has.
    let world = World::new().await;
    let slot = world.path("identity.sks");
    world.keystore().generate(STORE_RING, KeyKind::HmacSha256, 1).unwrap();
    let early = fs::read(&slot).unwrap();
    world.start().await.stop().await;
    fs::write(&slot, early).unwrap();
    let running = world.start().await;
    running.owner().await;
    running.stop().await;
    fs::remove_file(clients_file(&world)).unwrap();
    assert!(world.fails_to_start().await.contains("is missing"));
}

#[tokio::test]
async fn two_processes_never_share_a_file() {
    let world = World::new().await;
    let running = world.start().await;
    let told = world.fails_to_start().await;
    assert!(told.contains("clients.json is in use: only one identity process may run"), "{told}");
    running.owner().await;
    running.stop().await;
    world.start().await.stop().await;
}

#[tokio::test]
async fn a_keystore_that_cannot_be_opened_is_told_and_nothing_is_made_anew() {
    let cell = Stopped::new().await;
    let slot = cell.world.path("identity.sks");
    let sound = fs::read(&slot).unwrap();
    let mut flipped = sound.clone();
    *flipped.last_mut().unwrap() ^= 1;
    for wrong in [&b""[..], &sound[..sound.len() - 1], &flipped] {
        fs::write(&slot, wrong).unwrap();
        let told = cell.world.fails_to_start().await;
        assert!(told.contains("the keystore cannot be opened") && told.contains("identity.sks"), "{told}");
        assert_eq!(fs::read(&slot).unwrap(), wrong);
        assert_eq!(fs::read(cell.file()).unwrap(), cell.bytes);
    }
    fs::write(&slot, &sound).unwrap();
    fs::set_permissions(&slot, fs::Permissions::from_mode(0o640)).unwrap();
    assert!(cell.world.fails_to_start().await.contains("640"));
    fs::set_permissions(&slot, fs::Permissions::from_mode(0o600)).unwrap();
    // Another cell's keystore opens, but the clients are not its own.
    let other = World::new().await;
    fs::copy(other.path("identity.sks"), &slot).unwrap();
    fs::copy(other.path("unlock"), cell.world.path("unlock")).unwrap();
    let told = cell.world.fails_to_start().await;
    assert!(told.contains("was altered, or belongs to another keystore"), "{told}");
}

#[tokio::test]
async fn a_change_that_cannot_be_written_did_not_happen() {
    let world = World::new().await;
    let running = world.start().await;
    let owner = running.owner().await;
    let token = owner_token(&world, &running, &owner).await;
    let id = create(&running, &token, "Acme").await.unwrap();
    let before = fs::read(clients_file(&world)).unwrap();
    world.told.take();
    // Where the new file would be written stands a folder: no write works, whoever runs this.
    fs::create_dir(world.path("clients.json.new")).unwrap();
    let disable = bearing(DisableClientRequest { client_id: id.clone() }, &token);
    for status in [
        create(&running, &token, "Lost").await.unwrap_err(),
        running.grpc().disable_client(disable).await.unwrap_err(),
    ] {
        assert_eq!(status.code(), Code::Unavailable, "{status:?}");
        assert!(status.get_details_retry_info().unwrap().retry_delay.is_some());
    }
    assert_eq!(fs::read(clients_file(&world)).unwrap(), before);
    assert_eq!(world.told.take(), Vec::<String>::new());
    let listed = list(running.grpc(), &token).await;
    assert!(listed.iter().all(|client| client.enabled && client.name != "Lost"), "{listed:?}");
    fs::remove_dir(world.path("clients.json.new")).unwrap();
    let request = bearing(DisableClientRequest { client_id: id }, &token);
    assert!(!running.grpc().disable_client(request).await.unwrap().into_inner().client.unwrap().enabled);
}

/// `sotto-identity` as a process of its own.
struct Program {
    process: Process,
    running: Running,
}

impl Program {
    fn launch(world: &World) -> Process {
        let admin = world.path("admin");
        drop(fs::remove_file(&admin));
        world.write("seed", &nkeys::KeyPair::new_user().seed().unwrap());
        let more = format!(
            "admin.address_file = '{}'\nnats.nkey_seed_file = '{}'\nnats.url = 'tls://localhost:1'\n\
             telemetry.log = 'info,sotto_identity=trace'\n",
            admin.display(),
            world.path("seed").display(),
        );
        world.write("identity.toml", &world.config_text(&more));
        let environment: [(&str, &str); 0] = [];
        let arguments = ["--config".to_owned(), world.path("identity.toml").display().to_string()];
        let binary: &Path = env!("CARGO_BIN_EXE_sotto-identity").as_ref();
        Process::start(binary, arguments, environment, &world.path("identity.out"))
    }

    /// It has no broker, so it serves without ever being ready.
    async fn start(world: &World) -> Self {
        let mut process = Self::launch(world);
        let addresses = eventually_ok(BOUND, "the addresses", || {
            let (log, ended) = (process.log(), !process.is_running());
            async move {
                if ended {
                    return Err(format!("it has ended: {log}"));
                }
                let admin = fs::read_to_string(world.path("admin")).map_err(|e| e.to_string())?;
                let admin = admin.parse().map_err(|e| format!("{e}"))?;
                let (_, info) = http_get(admin, "/info").await.map_err(|e| e.to_string())?;
                let info: Value = serde_json::from_str(&info).map_err(|e| e.to_string())?;
                let addresses: BTreeMap<String, String> =
                    serde_json::from_value(info["addresses"].clone()).map_err(|e| e.to_string())?;
                let both = addresses.contains_key("https") && addresses.contains_key("grpc");
                both.then_some(addresses).ok_or(log)
            }
        })
        .await;
        let running = world.at(Context::detached(world.clock.clone(), "test"), &addresses);
        Self { process, running }
    }
}

#[tokio::test]
async fn what_was_answered_before_a_kill_is_there_after_it() {
    let world = World::new().await;
    // The year 2100: the process has the machine's clock.
    world.invite(INVITATION, Timestamp::from_unix_seconds(4_102_444_800));
    world.clock.set(SystemClock.now());
    let mut program = Program::start(&world).await;
    let owner = program.running.owner().await;
    let mut told: BTreeMap<String, String> = BTreeMap::from([(owner.id.clone(), "owner".to_owned())]);
    let mut tried = 1;
    for round in 0..4_usize {
        world.clock.set(SystemClock.now());
        let token = owner_token(&world, &program.running, &owner).await;
        // Five at a time, without end; it is killed with some under way.
        let Program { process, running } = &mut program;
        let creating = async {
            loop {
                let names: Vec<_> = (0..5).map(|at| format!("{round}-{}", tried + at)).collect();
                tried += names.len();
                let made = join_all(names.iter().map(|name| create(running, &token, name))).await;
                let ended = made.iter().any(Result::is_err);
                told.extend(made.into_iter().zip(names).filter_map(|(id, name)| Some((id.ok()?, name))));
                if ended {
                    return;
                }
            }
        };
        let enough = 10 * (round + 1) + 1;
        let killing = async {
            eventually(BOUND, "some clients", async || {
                fs::read_to_string(clients_file(&world)).unwrap().matches("client_id").count() >= enough
            })
            .await;
            process.kill().await;
        };
        tokio::join!(creating, killing);
        assert!(told.len() > 10 * round, "{}", told.len());

        program = Program::start(&world).await;
        let token = owner_token(&world, &program.running, &owner).await;
        let listed = list(program.running.grpc(), &token).await;
        let listed: BTreeMap<_, _> =
            listed.into_iter().map(|client| (client.client_id, client.name)).collect();
        for (id, name) in &told {
            assert_eq!(listed.get(id), Some(name), "answered before the kill");
        }
        assert!(listed.len() <= tried, "{} of {tried}", listed.len());
        let names: BTreeSet<_> = listed.values().collect();
        assert_eq!(names.len(), listed.len(), "nobody twice");
        // Those whose answer the kill cut off may have been written.
        told = listed;
    }
    let again =
        RedeemInvitationRequest { invitation: INVITATION.to_owned(), authentication: Some(with_secret()) };
    let again = program.running.grpc().redeem_invitation(again).await;
    assert_eq!(again.unwrap_err().code(), Code::PermissionDenied);
    let status = program.process.terminate(BOUND).await;
    assert!(status.success(), "{}", program.process.log());
    let log = program.process.log();
    assert!(log.contains("listening"), "{log}");
    for secret in ["sotto_dev_", INVITATION, "eyJ", "a-good-password", "ACME"] {
        assert!(!log.contains(secret), "{secret} in {log}");
    }
}

#[tokio::test]
async fn a_process_that_cannot_use_the_file_says_so_and_ends() {
    let cell = Stopped::new().await;
    let half = &cell.bytes[..cell.bytes.len() / 2];
    fs::write(cell.file(), half).unwrap();
    let mut process = Program::launch(&cell.world);
    let status = process.wait(BOUND).await;
    assert_eq!(status.code(), Some(1), "{}", process.log());
    let log = process.log();
    assert!(log.contains("the registered clients cannot be used") && log.contains("clients.json"), "{log}");
    assert_eq!(fs::read(cell.file()).unwrap(), half);
}
