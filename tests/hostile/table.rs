//! How a table of hostile packets is run: one broker for all rows, one canary that must notice nothing.

use std::time::Duration;

use crate::support::{
    broker::{Broker, Setup},
    client::{Client, Event},
    home::Device,
    packets::Connect,
    process,
    wait::{SOON, until_true},
    wire::{Reply, Version},
};

use Expect::{Answered, Closed, Left, NotSubscribed, Refused, Told, TurnedAway};

/// Longest wait for the canary's PINGRESP. The catalogue asks for a quarter of a second; a busy machine gets more.
const CANARY_PATIENCE: Duration = Duration::from_secs(2);
/// How much the resident memory may have grown after everything, in KiB.
const GROWTH_KIB_MAX: u64 = 6 * 1024;

/// Who sends the bytes.
#[derive(Clone, Copy, Debug)]
pub enum Sender {
    /// A connection that has not said CONNECT.
    Stranger,
    /// A device that was let in.
    Online(Version),
}

/// What must come of it.
#[derive(Clone, Debug)]
pub enum Expect {
    /// The connection ends: without a word before 5.0, with some DISCONNECT in it.
    Closed,
    /// The sender has gone; the connection ends, and whether there are last words is nobody's business.
    Left,
    /// A 5.0 client gets a DISCONNECT with one of these codes, then the end.
    Told(&'static [u8]),
    /// A stranger gets a CONNACK with this code, then the end.
    Refused(u8),
    /// A stranger is not let in: the end, before which a CONNACK may say why.
    TurnedAway,
    /// Exactly these bytes come back, and the connection lives.
    Answered(Vec<u8>),
    /// No filter is granted: a SUBACK full of refusals, or the end.
    NotSubscribed,
}

/// One row.
#[derive(Clone, Debug)]
pub struct Row {
    name: String,
    from: Sender,
    bytes: Vec<u8>,
    expect: Expect,
    then_fin: bool,
}

/// A row of the table.
pub fn row(name: impl Into<String>, from: Sender, bytes: impl Into<Vec<u8>>, expect: Expect) -> Row {
    Row { name: name.into(), from, bytes: bytes.into(), expect, then_fin: false }
}

impl Row {
    /// After the bytes comes the sender's FIN.
    pub fn then_fin(mut self) -> Self {
        self.then_fin = true;
        self
    }
}

/// A broker with a canary on it.
pub struct Mine {
    /// The broker.
    pub broker: Broker,
    /// The device hostile clients pretend to be.
    pub device: Device,
    canary: Client,
    resident_kib: u64,
    descriptors: usize,
}

impl Mine {
    /// A broker that does not slow down who is refused often, or comes often: that has tests of its own.
    pub fn open(setup: Setup) -> Self {
        let broker = setup.hurried().limit("refusals_per_address", 1_000_000).start();
        let device = broker.add_device("mallory");
        let tweety = broker.add_device("canary");
        // Buffers that are made once are made before the baseline is taken.
        for version in crate::support::wire::VERSIONS {
            let mut client = broker.online(version, &device, "warm");
            client.send(&[0xE0, 0x00]);
            client.until_closed(SOON);
        }
        let mut canary = Client::dial(broker.plain());
        let connect = Connect::new(Version::V311, "canary").user(&tweety.token).keep_alive_s(600);
        assert_eq!(canary.ask_in(Version::V311, &connect).connack(), Some(0));
        let (resident_kib, descriptors) =
            (process::resident_kib(broker.pid()), process::descriptors(broker.pid()));
        Self { broker, device, canary, resident_kib, descriptors }
    }

    /// The canary still sings.
    pub fn canary_sings(&mut self, after: &str) {
        assert!(self.canary.ping(CANARY_PATIENCE), "the canary fell silent after {after}");
    }

    /// The broker is in the state it was in before: same process, memory and descriptors back, a bounded log.
    pub fn close(mut self, log_lines_max: usize) {
        self.canary_sings("everything");
        let pid = self.broker.pid();
        assert!(self.broker.exit_status().is_none(), "the broker is gone");
        let descriptors = self.descriptors;
        until_true("descriptors are given back", SOON, || process::descriptors(pid) <= descriptors);
        let grown = process::resident_kib(pid).saturating_sub(self.resident_kib);
        assert!(grown <= GROWTH_KIB_MAX, "memory has grown by {grown} KiB and stays");
        let lines = self.broker.log().lines().count();
        assert!(
            lines <= log_lines_max,
            "{lines} log lines, {log_lines_max} are plenty: {}",
            self.broker.log()
        );
        self.broker.stop();
    }

    /// A connection in the state a row starts from.
    pub fn connection(&self, from: Sender) -> Client {
        match from {
            Sender::Stranger => Client::dial(self.broker.plain()),
            Sender::Online(version) => self.broker.online(version, &self.device, "mallory"),
        }
    }
}

/// Runs every row, and reports all that went wrong, not only the first.
pub fn run(rows: &[Row]) {
    println!("{} rows", rows.len());
    let mut mine = Mine::open(Setup::new());
    let mut wrong = Vec::new();
    for row in rows {
        if let Err(what) = outcome(&mine, row) {
            wrong.push(format!("{} {:?}: expected {:?}, {what}", row.name, row.from, row.expect));
        }
        mine.canary_sings(&row.name);
    }
    assert_eq!(mine.broker.telemetry().len(), 0, "nothing of it is stored");
    assert!(wrong.is_empty(), "{} of {} rows:\n{}", wrong.len(), rows.len(), wrong.join("\n"));
    mine.close(rows.len() + 20);
}

fn outcome(mine: &Mine, row: &Row) -> Result<(), String> {
    let mut client = mine.connection(row.from);
    client.send(&row.bytes);
    if row.then_fin {
        client.finish_sending();
    }
    if let Answered(bytes) = &row.expect {
        return answered(&mut client, bytes);
    }
    let mut replies = Vec::new();
    let mut ended = false;
    while !ended {
        match client.next(SOON) {
            Event::Packet(reply) => {
                let done = matches!(row.expect, NotSubscribed) && is_full_refusal(&reply, row.from);
                replies.push(reply);
                if done {
                    return Ok(());
                }
            }
            Event::Closed => ended = true,
            Event::Silence => return Err(format!("it stayed open and sent {replies:02X?}")),
        }
    }
    let silent = replies.is_empty();
    let code_of_the_only = |code: fn(&Reply) -> Option<u8>| match &replies[..] {
        [only] => code(only),
        _ => None,
    };
    let disconnect = code_of_the_only(Reply::disconnect);
    let connack = code_of_the_only(Reply::connack);
    let fine = match (&row.expect, row.from) {
        (Closed | NotSubscribed, Sender::Online(Version::V5)) => disconnect.is_some_and(|code| code >= 0x80),
        (Closed | NotSubscribed, _) => silent,
        (Left, _) => replies.iter().all(|reply| reply.disconnect().is_some()),
        (Told(codes), _) => disconnect.is_some_and(|code| codes.contains(&code)),
        (Refused(code), _) => connack == Some(*code),
        (TurnedAway, _) => silent || connack.is_some_and(|code| code != 0),
        (Answered(_), _) => false,
    };
    if fine { Ok(()) } else { Err(format!("it closed after {replies:02X?}")) }
}

fn answered(client: &mut Client, bytes: &[u8]) -> Result<(), String> {
    let mut left = bytes.to_vec();
    while let Some(expected) = Reply::take(&mut left) {
        match client.next(SOON) {
            Event::Packet(reply) if reply == expected => {}
            other => return Err(format!("got {other:02X?}")),
        }
    }
    if client.ping(SOON) { Ok(()) } else { Err("it answered, and then no more".to_owned()) }
}

/// A SUBACK without a single grant.
fn is_full_refusal(reply: &Reply, from: Sender) -> bool {
    let Sender::Online(version) = from else { return false };
    let id = reply.body.get(..2).map_or(0, |id| u16::from_be_bytes([id[0], id[1]]));
    reply.first == 0x90
        && reply
            .codes(version, id)
            .is_some_and(|codes| !codes.is_empty() && codes.iter().all(|code| *code >= 0x80))
}
