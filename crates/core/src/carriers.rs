//! The carriers file: one TOML text that names the accounts at carriers and the routes to them.
//!
//! [`EXAMPLE`] documents every key. Parsing is pure: what the file points at (passwords, certificates) is read by
//! the caller. All problems are reported at once.

mod account;
mod check;
mod read;
mod route;
mod table;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    time::Duration,
};

use crate::{
    AccountId, Classified, ErrorClass, TenantId, Timestamp,
    facts::{Facts, MessageClass},
    number::{Country, OperatorRange},
    sender::SenderKind,
};

pub use table::{Candidate, Outlook, RouteTable};

/// A complete carriers file with a comment on every key.
pub const EXAMPLE: &str = include_str!("carriers/example.toml");

/// The most octets a password file may hold, without the end of line (SMPP 3.4 §4.1: nine with the final NUL).
pub const PASSWORD_MAX_OCTETS: usize = 8;

/// The longest that a submit may wait for its answer.
pub const RESPONSE_TIMEOUT_MAX: Duration = Duration::from_secs(60);

/// How long after a carrier's patience a batch that nobody acknowledged is delivered again: more than the connector's
/// greatest allowance for clocks and pauses.
pub const REDELIVERY_AFTER: Duration = Duration::from_secs(15);

/// One problem of a carriers file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {problem}: {fix}")]
pub struct CarrierFileError {
    /// Where: `account[2].tps` is key `tps` of the second `[[account]]`.
    pub path: String,
    /// What is wrong.
    pub problem: String,
    /// What to write instead.
    pub fix: String,
}

impl Classified for CarrierFileError {
    fn class(&self) -> ErrorClass {
        ErrorClass::Reject
    }
}

/// A carriers file whose every field and reference has been checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CarriersFile {
    /// The accounts in the file's order; ids are unique, and each is named by a route.
    pub accounts: Vec<Account>,
    /// The routes in the file's order; the accounts they name exist.
    pub routes: Vec<Route>,
}

impl CarriersFile {
    /// Reads a carriers file, or says everything that is wrong with it.
    pub fn parse(text: &str) -> Result<Self, Vec<CarrierFileError>> {
        let mut errors = Vec::new();
        let file = Self::read(text, &mut errors);
        match file {
            Some(file) if errors.is_empty() => Ok(file),
            Some(_) | None => Err(errors),
        }
    }

    fn read(text: &str, errors: &mut Vec<CarrierFileError>) -> Option<Self> {
        let table = read::parse(text, errors)?;
        let mut file = read::Section::new(String::new(), &table, errors);
        let accounts = file.tables("account", "describe at least one carrier account");
        let routes = file.tables("route", "name at least one route, or no message finds a carrier");
        file.finish();
        let accounts: Vec<_> =
            accounts.into_iter().map(|(path, table)| account::read(path, table, errors)).collect();
        let routes: Vec<_> =
            routes.into_iter().map(|(path, table)| route::read(path, table, errors)).collect();
        check::check(&accounts, &routes, errors);
        Some(Self {
            accounts: accounts.into_iter().map(|draft| draft.account).collect::<Option<_>>()?,
            routes: routes.into_iter().map(|draft| draft.route).collect::<Option<_>>()?,
        })
    }

    /// When what waits for each account, was pulled and not acknowledged comes again: its carrier may still answer until
    /// then.
    pub fn redeliveries(&self) -> impl Iterator<Item = (AccountId, Duration)> {
        self.accounts.iter().map(|account| {
            // Whole seconds, as the broker's settings are written.
            let patience = Duration::from_secs(
                account.response_timeout.as_millis().div_ceil(1_000).try_into().unwrap_or(u64::MAX),
            );
            (account.id.clone(), patience.saturating_add(REDELIVERY_AFTER))
        })
    }

    /// The account of this id.
    pub fn account(&self, id: &AccountId) -> Option<&Account> {
        self.accounts.iter().find(|account| account.id == *id)
    }
}

/// One contract with a carrier.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// Our name for it.
    pub id: AccountId,
    /// Where the carrier takes binds, at least one place. Binds are spread over them, and each goes on to the next place
    /// when one fails.
    pub hosts: Vec<Host>,
    /// How a bind is made.
    pub bind: BindKind,
    /// Binds of the contract, 1 to 64, over all replicas of the connector.
    pub binds: u16,
    /// User name at the carrier, 1 to 15 ASCII characters.
    pub system_id: String,
    /// File with the password, from the carriers file's folder if relative.
    pub password_file: PathBuf,
    /// System type of the bind, 0 to 12 ASCII characters.
    pub system_type: String,
    /// The version of SMPP that the bind announces.
    pub interface_version: InterfaceVersion,
    /// The addresses that the bind serves, 0 to 40 ASCII characters.
    pub address_range: String,
    /// Service type of each submit, 0 to 5 ASCII characters.
    pub service_type: String,
    /// How the connection is protected.
    pub tls: Tls,
    /// Submits that may be without answer at a time on one bind, 1 to 1000.
    pub window: u16,
    /// Parts a second over all binds, 1 to 10,000.
    pub tps: u16,
    /// Quiet time after which the link is probed.
    pub enquire_link: Duration,
    /// How long a submit waits for its answer.
    pub response_timeout: Duration,
    /// How long a submitted part waits for its final receipt.
    pub receipt_wait: Duration,
    /// How long after the submit the carrier is asked for a receipt that has not come, and how often then (`query_sm`);
    /// `None`: never.
    pub query_after: Option<Duration>,
    /// Whether each submit carries a reference of ours, by which a receipt whose id is unknown finds its part
    /// (`user_message_reference`).
    pub user_message_reference: bool,
    /// Whether a receipt whose id is unknown is taken for the only part in doubt that went to its recipient.
    pub match_by_recipient: bool,
    /// What is forgiven to the carrier's PDUs.
    pub tolerance: Tolerance,
    /// How the carrier writes message ids in its answers to submits.
    pub message_id_in_response: MessageIdForm,
    /// How the carrier writes message ids in receipts.
    pub message_id_in_receipt: MessageIdForm,
    /// How the carrier's receipts are told from messages of handsets.
    pub receipts: ReceiptMark,
    /// What `data_coding` 0 means at the carrier.
    pub default_alphabet: DefaultAlphabet,
    /// How parts of a message are marked as belonging together.
    pub concatenation: Concatenation,
    /// Types of number and numbering plans.
    pub addressing: Addressing,
    /// The countries whose numbers it may take.
    pub countries: Countries,
    /// The tenants whose messages it may take.
    pub tenants: Tenants,
    /// Whose the numbers are that handsets write to through it: short codes and long numbers, in digits.
    pub inbound: BTreeMap<String, TenantId>,
    /// The operator's licence; present if Vietnamese numbers can reach the account, unless it is a simulator.
    pub licence: Option<Licence>,
    /// A test carrier that delivers to nobody.
    pub simulator: bool,
}

impl Account {
    /// Whether the account may carry this message now: country, tenant, and a licence in force where one is needed
    /// (INV-4). Asked when a route is chosen and again before submit, so that no path leads around it.
    pub fn permits(&self, facts: &Facts, now: Timestamp) -> bool {
        self.barrier(facts, now).is_none()
    }

    /// Why the account may not carry this message now, if it may not.
    pub fn barrier(&self, facts: &Facts, now: Timestamp) -> Option<Barrier> {
        let tenant = (!self.tenants.allow(&facts.tenant)).then_some(Barrier::Tenant);
        tenant.or_else(|| self.barrier_to(facts.country, now))
    }

    /// Why the account may not carry anything to a country now, if it may not.
    pub fn barrier_to(&self, country: Country, now: Timestamp) -> Option<Barrier> {
        if !self.countries.allow(country) {
            Some(Barrier::Country)
        } else if self.licence.as_ref().is_some_and(|licence| !licence.in_force(now)) {
            Some(Barrier::Licence)
        } else {
            None
        }
    }
}

/// Why an account may not carry a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Barrier {
    /// It does not serve the country.
    Country,
    /// It does not serve the tenant.
    Tenant,
    /// Its licence is not in force.
    Licence,
}

impl Barrier {
    /// The word for people.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Country => "country",
            Self::Tenant => "tenant",
            Self::Licence => "licence",
        }
    }
}

/// A place where a carrier takes binds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// DNS name or IP address.
    pub name: String,
    /// TCP port, never 0.
    pub port: u16,
}

/// How a bind is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BindKind {
    /// One `bind_transceiver`: messages and receipts on one connection.
    Transceiver,
    /// A `bind_transmitter` for messages and a `bind_receiver` for receipts; together they are one bind.
    TransmitterReceiver,
}

/// The version of SMPP that we announce. What is read is the same with both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InterfaceVersion {
    /// 3.4.
    V34,
    /// 5.0.
    V50,
}

/// What a reader forgives (docs/formats/smpp.md).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tolerance {
    /// What carriers are seen to send: a missing final NUL, octets too many.
    Carrier,
    /// The specification and nothing else.
    Strict,
}

/// How the connection to a carrier is protected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tls {
    /// TLS with a verified certificate.
    Required {
        /// Certificates to trust, from the carriers file's folder if relative; `None`: the system's.
        ca_file: Option<PathBuf>,
        /// The name the certificate must have; `None`: that of the host.
        server_name: Option<String>,
        /// SHA-256 of the key that the certificate must have besides (SubjectPublicKeyInfo, RFC 7469 §2.4).
        pin: Option<[u8; 32]>,
        /// Our own certificate and its key, from the carriers file's folder if relative.
        client: Option<ClientCertificate>,
    },
    /// No TLS, by a decision of the operator.
    Waived {
        /// Why, at least ten characters.
        reason: String,
    },
}

/// Files with the certificate that we show to a carrier.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientCertificate {
    /// The certificate chain, PEM.
    pub cert_file: PathBuf,
    /// Its key, PEM.
    pub key_file: PathBuf,
}

/// How a carrier writes message ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MessageIdForm {
    /// A decimal number, perhaps with leading zeros.
    Decimal,
    /// A hexadecimal number in either case, perhaps with leading zeros.
    Hex,
    /// A UUID, in either case, with or without hyphens and braces.
    Uuid,
    /// Any text, compared as it is.
    Opaque,
}

/// How a carrier's receipts are told from messages of handsets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReceiptMark {
    /// By `esm_class` or `receipted_message_id`, as SMPP 3.4 §5.2.12 and §5.3.2.12 say.
    Specified,
    /// Also by a text that begins with the fields of Appendix B: for carriers that mark nothing. Whoever can send a message to
    /// our number there can write such a text.
    Text,
}

/// What `data_coding` 0, the SMSC's default alphabet, stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DefaultAlphabet {
    /// The GSM 7-bit default alphabet, one septet an octet.
    Gsm7,
    /// ISO 8859-1: a text with a character that it lacks cannot go to the account.
    Latin1,
    /// ASCII: the same.
    Ascii,
}

/// How the parts of one message are joined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Concatenation {
    /// A user data header with an 8-bit reference (3GPP TS 23.040 §9.2.3.24.1).
    Udh,
    /// The same with a 16-bit reference (§9.2.3.24.8). Its parts hold less: a text that needs more of them than were accepted
    /// cannot go to the account.
    Udh16,
    /// The optional parameters `sar_msg_ref_num`, `sar_total_segments` and `sar_segment_seqnum` (SMPP 3.4 §5.3.2.22).
    Sar,
    /// Not at all: the whole text goes in one submit, in `message_payload` (§5.3.2.32), and the carrier cuts it.
    Payload,
}

/// Type of number and numbering plan indicator of an address (SMPP 3.4 §5.2.5 and §5.2.6).
pub type TonNpi = (u8, u8);

/// What a carrier wants to be told of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Addressing {
    /// Of a brandname.
    pub alphanumeric: TonNpi,
    /// Of a short code.
    pub short_code: TonNpi,
    /// Of a number that sends.
    pub number: TonNpi,
    /// Of the recipient.
    pub destination: TonNpi,
    /// Of the address range of the bind.
    pub bind: TonNpi,
}

impl Default for Addressing {
    /// Alphanumeric and unknown plan; network specific and unknown plan; international and ISDN (E.164); unknown.
    fn default() -> Self {
        Self { alphanumeric: (5, 0), short_code: (3, 0), number: (1, 1), destination: (1, 1), bind: (0, 0) }
    }
}

impl Addressing {
    /// Of a sender.
    pub const fn of(&self, kind: SenderKind) -> TonNpi {
        match kind {
            SenderKind::Brandname => self.alphanumeric,
            SenderKind::ShortCode => self.short_code,
            SenderKind::Number => self.number,
        }
    }
}

/// The countries an account serves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Countries {
    /// Every country.
    All,
    /// These.
    Only(BTreeSet<Country>),
}

impl Countries {
    /// Whether numbers of the country may go to the account.
    pub fn allow(&self, country: Country) -> bool {
        match self {
            Self::All => true,
            Self::Only(countries) => countries.contains(&country),
        }
    }
}

/// The tenants an account serves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tenants {
    /// Every tenant of the cell.
    All,
    /// These.
    Only(BTreeSet<TenantId>),
}

impl Tenants {
    /// Whether the tenant's messages may go to the account.
    pub fn allow(&self, tenant: &TenantId) -> bool {
        match self {
            Self::All => true,
            Self::Only(tenants) => tenants.contains(tenant),
        }
    }
}

/// The licence or agreement under which an operator carries the account's messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Licence {
    /// What it is.
    pub kind: String,
    /// Its number.
    pub number: String,
    /// Its last day.
    pub expires: jiff::civil::Date,
}

impl Licence {
    /// Whether the licence holds at this time: to the end of its last day in Vietnam (UTC+7 all year).
    pub fn in_force(&self, now: Timestamp) -> bool {
        jiff::Timestamp::from_millisecond(now.unix_millis())
            .is_ok_and(|now| jiff::tz::Offset::constant(7).to_datetime(now).date() <= self.expires)
    }
}

/// Which accounts take the numbers of a range.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Leading digits of the ranges it takes; the longest prefix wins.
    pub prefix: OperatorRange,
    /// The classes it takes; `None`: all that no other route of the same prefix names.
    pub classes: Option<BTreeSet<MessageClass>>,
    /// The accounts to draw from, at least one.
    pub accounts: Vec<WeightedAccount>,
    /// The accounts to try after these, in order.
    pub fallback: Vec<AccountId>,
}

/// An account and its share of a route's messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WeightedAccount {
    /// The account.
    pub id: AccountId,
    /// Its share relative to the other weights of the route, 1 to 100.
    pub weight: u8,
}
