//! The command line.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use clap::{ArgGroup, Args as ArgsOf, Parser, Subcommand};
use sotto_core::{AccountId, CellId, Replicas, Shards};

use crate::bench::Bench;
use crate::cell::DOMAIN;
use crate::commands::{
    carriers::Stopped, client::NewClient, keys::Keys, list::Wanted, retention::RetentionCommand,
    send::NewMessage, simulator::Simulator, top::Top,
};

/// Sotto: a self-hosted, confidential SMS aggregator.
#[derive(Debug, Parser)]
#[command(name = "sotto", version, arg_required_else_help = true)]
pub(crate) struct Args {
    /// Folder of the cell
    #[arg(long, global = true, default_value = "cell", value_name = "DIR")]
    pub(crate) cell: PathBuf,
    /// Results as JSON, one object a line
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// No colours, also on a terminal
    #[arg(long, global = true)]
    pub(crate) no_colour: bool,
    /// What to do
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Make a cell: keys, certificates, configuration; once and offline
    Init {
        /// Name of the cell (a-z, 0-9, -), part of every subject
        #[arg(long, default_value = "vn")]
        id: CellId,
        /// Number of shards, 1 to 64; fixed for the cell's life. More for a Redis cluster, or where one processor
        /// does not fold the log; each makes batches smaller
        #[arg(long, default_value = "1", value_parser = shards)]
        shards: Shards,
        /// Brokers, each with a copy of every message: 1, or 3 of which any one may be lost; fixed for the cell's life
        #[arg(long, default_value = "1", value_parser = replicas)]
        replicas: Replicas,
        /// DNS name or IP address by which clients on other machines reach the cell; repeat for several. The first is
        /// also the token issuer's: https://HOST:7444
        #[arg(long = "host", value_parser = host)]
        hosts: Vec<String>,
        /// Token issuer, if clients reach it elsewhere: https://host or https://host:port
        #[arg(long, value_parser = origin)]
        issuer: Option<String>,
        /// Make it for containers, one a process, and put what each may see into a folder of its own in here. What is
        /// made already is only put there again
        #[arg(long, value_name = "DIR")]
        containers: Option<PathBuf>,
        /// Where its containers find one another, each at <process>.DOMAIN; in Kubernetes <namespace>.svc
        #[arg(long, value_parser = domain, default_value = DOMAIN, requires = "containers")]
        domain: String,
        /// Keep the services' keys in tokens of SoftHSM2 inside the cell's folder instead of files: what an HSM does, on
        /// one machine. With --containers privacy's alone, in its volume; its own image makes the token
        #[arg(long)]
        hsm: bool,
    },
    /// Set up the broker's streams of a cell in containers
    Provision {
        /// Carriers file, whose accounts get their queues; default: carriers.toml of the cell
        #[arg(long, value_name = "FILE")]
        carriers: Option<PathBuf>,
    },
    /// Run the cell on this machine until Ctrl-C
    Up {
        /// Carriers file; without it, the simulator that delivers to nobody
        #[arg(long, value_name = "FILE")]
        carriers: Option<PathBuf>,
        /// Where clients connect (gRPC over TLS); port 0 lets the system choose
        #[arg(long, default_value = "127.0.0.1:7443")]
        listen: SocketAddr,
        /// Where tokens are asked for (HTTPS); port 0 lets the system choose
        #[arg(long, default_value = "127.0.0.1:7444")]
        token_listen: SocketAddr,
        /// Where clients over NATS connect (TLS with a client certificate); port 0 lets the system choose
        #[arg(long, default_value = "127.0.0.1:0")]
        nats_listen: SocketAddr,
        /// Folder of the services' programs; default: beside this program
        #[arg(long, value_name = "DIR")]
        programs: Option<PathBuf>,
        /// Parts a second that the simulator's account is given, 1 to 10000
        #[arg(long, default_value = "10000", value_parser = clap::value_parser!(u16).range(1..=10_000), conflicts_with = "carriers")]
        simulator_tps: u16,
        /// The longest pause, in seconds, before a process that keeps dying is started again
        #[arg(long, value_name = "SECONDS", default_value = "60", value_parser = seconds)]
        longest_pause: Duration,
    },
    /// Copy a cell that does not run, but for the keys that die on time and what opens the others
    Backup {
        /// A folder that is empty or not there yet
        folder: PathBuf,
        /// Also copy what opens it (secrets/, ca/), into this folder, to be kept elsewhere
        #[arg(long, value_name = "FOLDER")]
        secrets: Option<PathBuf>,
    },
    /// Put a cell back from a backup, and hold all that may have been sent since: `sotto release`
    #[command(group(ArgGroup::new("from").required(true).args(["folder", "in_place"])))]
    Restore {
        /// The folder that `sotto backup` wrote. The cell's own must be empty or not there yet, but for
        /// keystore/buckets.sks, secrets/ and ca/
        folder: Option<PathBuf>,
        /// The folder that `sotto backup --secrets` wrote
        #[arg(long, value_name = "FOLDER", conflicts_with = "in_place")]
        secrets: Option<PathBuf>,
        /// The cell's folder and stores were put back by other means: hold it, and make a file of keys that die on time if
        /// none has survived
        #[arg(long)]
        in_place: bool,
    },
    /// Let go what a cell that was put back from a backup holds; what may have been sent already ends as unknown
    Release {
        /// Send it instead, as long as it is valid, and maybe for the second time; not one-time codes
        #[arg(long)]
        resend: bool,
        /// Why, for those who look later (at most 200 characters, no names or numbers of people)
        #[arg(long, default_value = "")]
        reason: String,
    },
    /// The owner of the cell
    #[command(subcommand)]
    Owner(Owner),
    /// The programs that may send
    #[command(subcommand)]
    Client(Client),
    /// Send a message
    Send(NewMessage),
    /// Send a message over NATS, sealed; the client is let in by `sotto client nats add`
    NatsSend(NewMessage),
    /// The key that clients over NATS seal to
    #[command(subcommand)]
    IntakeKey(IntakeKey),
    /// Look at messages
    #[command(subcommand)]
    Message(Message),
    /// Watch what happens to a client's messages, until Ctrl-C
    Watch {
        /// Client that watches: the name given to `sotto client create`; it sees all messages of its tenant
        #[arg(long)]
        client: String,
        /// Go on after this cursor, as an earlier watch told it (`--json`); default: from now on
        #[arg(long, default_value = "")]
        after: String,
        /// Only this message
        #[arg(long, value_name = "ID", default_value = "")]
        message: String,
    },
    /// What is known of a person, for the person
    #[command(subcommand)]
    Subject(Subject),
    /// The ledger: every accepted message is somewhere
    #[command(subcommand)]
    Ledger(Ledger),
    /// Rebuild what Redis holds from the log, while traffic runs
    Rebuild,
    /// The audit log
    #[command(subcommand)]
    Audit(Audit),
    /// The keys that messages hang on: see, replace, and by two people destroy them
    #[command(subcommand)]
    Keys(Keys),
    /// What dies next, and the proof of what is dead
    #[command(subcommand)]
    Retention(RetentionCommand),
    /// What could not be handled
    #[command(subcommand)]
    Quarantine(Quarantine),
    /// Look at carrier accounts, try them, pause and drain them
    Carriers {
        /// Without one: the state of every account
        #[command(subcommand)]
        command: Option<Carriers>,
    },
    /// Watch what the cell does: rates, queues, carriers, what bounds it now; until Ctrl-C
    Top(Top),
    /// Stop traffic within five seconds, or lift a stop; what is stopped waits
    Stop(Stop),
    /// The simulated carrier: what it was sent, and what it is to do wrong
    Simulator(Simulator),
    /// Measure this machine with a cell of its own, which is gone afterwards
    Bench(Bench),
    /// Look for what is wrong with this machine, the cell and its processes
    Doctor,
}

/// `sotto carriers …`
#[derive(Debug, Subcommand)]
pub(crate) enum Carriers {
    /// Try the way to a carrier: connection, TLS, and a sign of life on each bind that is up
    Test {
        /// The account
        account: AccountId,
        /// Also send a test message to this handset of yours, in E.164; `-` reads the number from standard input
        #[arg(long, requires = "from")]
        to: Option<String>,
        /// Its sender, one that the carrier knows as yours
        #[arg(long, requires = "to")]
        from: Option<String>,
    },
    /// Show the PDUs of an account's binds as they go, without addresses, texts and ids
    Trace {
        /// The account
        account: AccountId,
        /// For so many seconds, 1 to 600
        #[arg(long, default_value = "30", value_parser = clap::value_parser!(u32).range(1..=600))]
        seconds: u32,
    },
    /// Give an account no more messages; what waits for it goes to others, receipts still come
    Pause(Flow),
    /// Give it messages again
    Resume(Flow),
    /// Pause it, and unbind once its answers are here
    Drain(Flow),
}

/// An account, and why it is to be run so.
#[derive(Debug, ArgsOf)]
pub(crate) struct Flow {
    /// The account
    pub(crate) account: AccountId,
    /// Why, for those who look later (at most 200 characters, no names or numbers of people)
    #[arg(long, default_value = "")]
    pub(crate) reason: String,
}

/// `sotto stop`
#[derive(Debug, ArgsOf)]
#[command(group(ArgGroup::new("what").required(true).args(["all", "tenant", "sender", "carrier", "list"])))]
pub(crate) struct Stop {
    /// Everything
    #[arg(long)]
    pub(crate) all: bool,
    /// The messages of a tenant
    #[arg(long)]
    pub(crate) tenant: Option<String>,
    /// The messages with a sender
    #[arg(long)]
    pub(crate) sender: Option<String>,
    /// What goes to a carrier account; unlike a pause, it waits for that account
    #[arg(long, value_name = "ACCOUNT")]
    pub(crate) carrier: Option<String>,
    /// Show what is stopped, paused or draining
    #[arg(long)]
    pub(crate) list: bool,
    /// Lift the stop
    #[arg(long, conflicts_with = "list")]
    pub(crate) lift: bool,
    /// Why, for those who look later (at most 200 characters, no names or numbers of people)
    #[arg(long, default_value = "")]
    pub(crate) reason: String,
}

impl Stop {
    /// What is to be stopped; none: only to be listed.
    pub(crate) fn what(&self) -> Option<Stopped> {
        let tenant = self.tenant.clone().map(Stopped::Tenant);
        let sender = self.sender.clone().map(Stopped::Sender);
        let carrier = self.carrier.clone().map(Stopped::Carrier);
        tenant.or(sender).or(carrier).or_else(|| self.all.then_some(Stopped::All))
    }
}

/// `sotto owner …`
#[derive(Clone, Copy, Debug, Subcommand)]
pub(crate) enum Owner {
    /// Redeem the invitation that `sotto init` made
    Claim,
}

/// `sotto client …`
#[derive(Debug, Subcommand)]
pub(crate) enum Client {
    /// Register a client and write its credentials
    Create(NewClient),
    /// List the clients
    List,
    /// Give a client no more tokens
    Disable {
        /// Its id
        client_id: String,
    },
    /// Which clients may ask over NATS
    #[command(subcommand)]
    Nats(ClientNats),
}

/// `sotto client nats …`
#[derive(Clone, Debug, Subcommand)]
pub(crate) enum ClientNats {
    /// Make a client's keys for the broker, and have the broker let it in
    Add {
        /// The name given to `sotto client create`
        name: String,
    },
    /// Have the broker let a client in no more, and cut its connections
    Remove {
        /// The name given to `sotto client create`
        name: String,
    },
}

/// `sotto intake-key …`
#[derive(Clone, Debug, Subcommand)]
pub(crate) enum IntakeKey {
    /// List the keys that requests are opened with
    List,
    /// Make another key the one to seal to; the one before still opens
    Rotate,
    /// Destroy a key that clients do not seal to any more
    Retire {
        /// Its id, as `sotto intake-key list` tells it
        #[arg(allow_hyphen_values = true)]
        key_id: String,
    },
}

/// `sotto subject …`
#[derive(Clone, Debug, Subcommand)]
pub(crate) enum Subject {
    /// Find the messages that a number got in the last 90 days. The number, in E.164, is read from standard input
    Find {
        /// Client that asks, with the scope subject:read: the name given to `sotto client create`
        #[arg(long)]
        client: String,
        /// Read the number from this file instead
        #[arg(long)]
        file: Option<PathBuf>,
    },
}

/// `sotto message …`
#[derive(Debug, Subcommand)]
pub(crate) enum Message {
    /// Show a message's state and journey
    Show {
        /// Its id
        message_id: String,
        /// Client that asks: the name given to `sotto client create`
        #[arg(long)]
        client: String,
        /// Wait so many seconds for its end
        #[arg(long, value_parser = seconds)]
        wait: Option<Duration>,
    },
    /// List a client's messages that live or ended lately, the latest accepted first
    List(Wanted),
    /// Cancel a message that no carrier has been handed yet
    Cancel {
        /// Its id
        message_id: String,
        /// Client that asks: the name given to `sotto client create`
        #[arg(long)]
        client: String,
    },
}

/// `sotto ledger …`
#[derive(Clone, Copy, Debug, Subcommand)]
pub(crate) enum Ledger {
    /// Prove from the log that accepted = waiting + in flight + ended, and that nothing is lost
    Check,
}

/// `sotto audit …`
#[derive(Debug, Subcommand)]
pub(crate) enum Audit {
    /// Prove that an event of a message's journey is in the log, and check the proof here
    Prove {
        /// Event sequence, as `sotto message show` tells it
        event_sequence: u64,
        /// Wait so many seconds for the log to commit it
        #[arg(long, value_parser = seconds, default_value = "10")]
        wait: Duration,
    },
    /// Show the newest act of a kind with the proof that it is in the log, and check the proof here
    Act {
        /// What was done: token.issued, client.created, service.started …
        action: String,
        /// Only acts by this client or service
        #[arg(long)]
        actor: Option<String>,
        /// Only acts about this object
        #[arg(long)]
        object: Option<String>,
        /// Wait so many seconds for one
        #[arg(long, value_parser = seconds, default_value = "10")]
        wait: Duration,
    },
    /// Verify a copy of the whole log offline: every tile, every entry, the signature
    Verify {
        /// Folder with the log; default: the cell's own
        #[arg(long, value_name = "DIR")]
        log: Option<PathBuf>,
        /// Verifier key of the log (C2SP vkey); default: the cell's own
        #[arg(long)]
        key: Option<String>,
        /// An older checkpoint of the log, kept elsewhere: its tree must be in this one
        #[arg(long, value_name = "FILE")]
        checkpoint: Option<PathBuf>,
    },
}

/// `sotto quarantine …`
#[derive(Clone, Copy, Debug, Subcommand)]
pub(crate) enum Quarantine {
    /// List what is in quarantine, newest last
    List,
    /// Show all that is known of one thing in quarantine
    Show {
        /// Its number, as `sotto quarantine list` tells it
        number: u64,
    },
}

fn shards(text: &str) -> Result<Shards, String> {
    let count: std::num::NonZeroU16 = text.parse().map_err(|_| "not a number from 1 to 64".to_owned())?;
    if count.get() <= 64 { Ok(Shards::new(count)) } else { Err("at most 64".to_owned()) }
}

fn replicas(text: &str) -> Result<Replicas, String> {
    let count: u8 = text.parse().map_err(|_| sotto_core::InvalidReplicas.to_string())?;
    Replicas::try_from(count).map_err(|error| error.to_string())
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: u64 = text.parse().map_err(|_| "not a number of seconds".to_owned())?;
    if seconds <= 86_400 { Ok(Duration::from_secs(seconds)) } else { Err("at most 86400".to_owned()) }
}

fn host(text: &str) -> Result<String, String> {
    match rustls_pki_types::ServerName::try_from(text) {
        Ok(_) => Ok(text.to_owned()),
        Err(_) => Err("not a DNS name (sms.example.vn) and not an IP address".to_owned()),
    }
}

fn domain(text: &str) -> Result<String, String> {
    match rustls_pki_types::DnsName::try_from(text) {
        Ok(_) if !text.ends_with('.') => Ok(text.to_owned()),
        _ => Err("not a DNS name (sotto.svc)".to_owned()),
    }
}

fn origin(text: &str) -> Result<String, String> {
    let authority = text.strip_prefix("https://").filter(|rest| !rest.is_empty());
    if authority.is_some_and(|rest| !rest.contains(['/', '?', '#', '@', '"', '\\']) && rest.is_ascii()) {
        Ok(text.to_owned())
    } else {
        Err("not of the form https://host or https://host:port".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One in 64 of what is base64url begins with a hyphen.
    #[test]
    fn a_key_or_its_id_may_begin_with_a_hyphen() {
        for words in [&["retention", "status", "--key", "-fQ7"][..], &["intake-key", "retire", "-fQ7"]] {
            let read = Args::try_parse_from(["sotto"].iter().chain(words));
            assert!(format!("{:?}", read.unwrap()).contains("-fQ7"));
        }
    }

    #[test]
    fn hosts_and_issuers_are_what_goes_into_certificates_and_configuration() {
        for good in ["sms.example.vn", "203.0.113.9", "2001:db8::1"] {
            assert_eq!(host(good).as_deref(), Ok(good));
        }
        for bad in ["", "sms example", "https://sms.example.vn", "sms.example.vn:7443"] {
            assert!(host(bad).is_err(), "{bad}");
        }
        assert_eq!(domain("sotto.svc").as_deref(), Ok("sotto.svc"));
        for bad in ["", "sotto svc", "203.0.113.9", "sotto.svc.", "*.svc", "sotto.svc:4222"] {
            assert!(domain(bad).is_err(), "{bad}");
        }
        for good in ["https://id.example", "https://id.example:8443"] {
            assert_eq!(origin(good).as_deref(), Ok(good));
        }
        for bad in ["id.example", "http://id.example", "https://", "https://id.example/path", "https://a\"b"]
        {
            assert!(origin(bad).is_err(), "{bad}");
        }
    }
}
