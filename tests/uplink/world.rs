//! A gateway's journal, the uplink, a network that can be made bad, and a hub: all in memory and in simulated time.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

use forebay::{
    clock::{Mono, Now, Wall},
    device_api::downlink::Downlink,
    ids::{DeviceName, Seq},
    limits::{UPLINK_LANE_ROWS, UPLINK_SUSPECTS},
    record::{Outbound, Placed, Settlement},
    uplink::{Failure, FailureKind, Mode, ReadRequest, Secret, Settings, Uplink},
};

use crate::hub::{Hub, HubConnection, Manners};

pub const MILLI: Duration = Duration::from_millis(1);
pub const SECOND: Duration = Duration::from_secs(1);

/// How far the journal is looked through for one device's readings at a time.
const LOOKS_AT: u64 = 300;

/// What the network does.
#[derive(Clone, Copy, Debug)]
pub struct Network {
    pub latency: Duration,
    /// Bytes per second, either way; zero for no bound.
    pub bytes_per_second: u64,
    /// Whether connections can be made.
    pub is_up: bool,
    /// Whether bytes vanish without a word.
    pub swallows: bool,
}

enum Travelling {
    ToHub(Vec<u8>),
    ToUplink(Vec<u8>),
    HubCloses,
}

pub struct World {
    pub now: Now,
    pub settings: Settings,
    pub uplink: Uplink,
    pub hub: Hub,
    pub network: Network,
    /// The journal: everything stored, settled or not.
    pub journal: BTreeMap<u64, Outbound>,
    /// The one device whose readings the uplink is given, if it has a connection of its own.
    pub own: Option<String>,
    /// Places of the journal looked at for that device.
    pub looked_at: u64,
    /// What is on disk of the settlement.
    pub disk: Settlement,
    /// Readings on disk as rejected, with the reason.
    pub rejected: BTreeMap<u64, String>,
    pub clock_synchronised: bool,
    /// The journal does not answer for now; the question it has.
    pub reads_wait: bool,
    asked: Option<ReadRequest>,
    /// Of a hundred settlements and reads, how many fail.
    pub disk_fails: u64,
    pub connections: u64,
    pub notices: Vec<String>,
    /// Devices connected to the gateway.
    pub here: BTreeSet<String>,
    /// What the hub has sent for devices, as the uplink has handed it on.
    pub downlinks: Vec<Downlink>,
    /// What the hub has, and how many of its arrivals are in there.
    arrived: BTreeSet<(String, String)>,
    noted: usize,
    connecting: Option<Mono>,
    link: Option<HubConnection>,
    link_is_dead: bool,
    travelling: VecDeque<(Mono, Travelling)>,
    busy_until: [Mono; 2],
    last_arrival: [Mono; 2],
    next_seq: u64,
    chance: u64,
    boot_ms: i64,
}

pub fn settings() -> Settings {
    let mut settings = Settings::new(Mode::Gateway { token: Secret::new("TOKEN") });
    settings.clock_wait = None;
    settings
}

impl World {
    pub fn new(seed: u64, settings: Settings, manners: Manners) -> Self {
        let now = Now { mono: Mono(1_000_000), wall: Wall(1_700_000_000_000) };
        let manners_device = manners.device.clone();
        let mut world = Self {
            uplink: Uplink::new(settings.clone(), Settlement::default(), Seq(0), seed, now),
            hub: Hub::new(manners, seed),
            network: Network { latency: 5 * MILLI, bytes_per_second: 0, is_up: true, swallows: false },
            now,
            settings,
            journal: BTreeMap::new(),
            own: manners_device,
            looked_at: 0,
            disk: Settlement::default(),
            rejected: BTreeMap::new(),
            clock_synchronised: true,
            reads_wait: false,
            asked: None,
            disk_fails: 0,
            connections: 0,
            notices: Vec::new(),
            here: BTreeSet::new(),
            downlinks: Vec::new(),
            arrived: BTreeSet::new(),
            noted: 0,
            connecting: None,
            link: None,
            link_is_dead: false,
            travelling: VecDeque::new(),
            busy_until: [Mono(0); 2],
            last_arrival: [Mono(0); 2],
            next_seq: 1,
            chance: seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1,
            boot_ms: 1_700_000_000_000,
        };
        world.uplink.handle_clock(true, world.now);
        world.serve();
        world
    }

    pub fn draw(&mut self, bound: u64) -> u64 {
        self.chance ^= self.chance >> 12;
        self.chance ^= self.chance << 25;
        self.chance ^= self.chance >> 27;
        (self.chance.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 32) % bound
    }

    // ---- what happens at the gateway --------------------------------------------------------------------

    /// A reading of `device` is stored; its value tells it from all others.
    pub fn store(&mut self, device: &str) -> u64 {
        let seq = self.next_seq;
        self.store_values(device, &format!(r#"{{"n":{seq}}}"#))
    }

    pub fn store_values(&mut self, device: &str, values: &str) -> u64 {
        let seq = self.put(device, values);
        self.tell_stored(seq);
        self.commit(false);
        self.serve();
        seq
    }

    /// The same, and the device has told its time.
    pub fn store_of(&mut self, device: &str, ts: i64) -> u64 {
        let seq = self.next_seq;
        self.put(device, &format!(r#"{{"n":{seq}}}"#));
        self.journal.get_mut(&seq).expect("just put there").time = Placed::Given(ts);
        self.tell_stored(seq);
        self.serve();
        seq
    }

    /// So many readings, round robin over the devices, in one commit.
    pub fn store_many(&mut self, devices: &[&str], count: u64) {
        for place in 0..count {
            let seq = self.next_seq;
            self.put(devices[(place % devices.len() as u64) as usize], &format!(r#"{{"n":{seq}}}"#));
        }
        self.tell_stored(self.next_seq - count);
        self.commit(false);
        self.serve();
    }

    /// The uplink is told of what was stored from `first` on, as the loop does it.
    fn tell_stored(&mut self, first: u64) {
        let Some(own) = &self.own else {
            return self.uplink.handle_stored(Seq(self.next_seq - 1), self.now);
        };
        let mut seqs = self.journal.range(first..).filter(|(_, row)| row.device.as_str() == own);
        let Some((first, _)) = seqs.next() else { return };
        let (last, count) = seqs.fold((first, 1), |(_, count), (seq, _)| (seq, count + 1));
        self.uplink.handle_own_stored(Seq(*first), Seq(*last), count, self.now);
    }

    /// Readings that are there before the uplink is.
    pub fn with_backlog(mut self, devices: &[&str], count: u64) -> Self {
        self.store_many(devices, count);
        self
    }

    fn put(&mut self, device: &str, values: &str) -> u64 {
        let seq = self.next_seq;
        self.next_seq += 1;
        let ts = self.boot_ms + self.now.mono.as_millis();
        let time = if self.clock_synchronised { Placed::Known(ts) } else { Placed::Pending(ts) };
        let device = DeviceName::parse(device).expect("valid");
        self.journal.insert(seq, Outbound { seq: Seq(seq), device, time, values: values.to_owned() });
        seq
    }

    /// The journal has lost readings, as it does when it is full.
    pub fn forget(&mut self, seqs: std::ops::RangeInclusive<u64>) {
        self.journal.retain(|seq, _| !seqs.contains(seq));
    }

    pub fn synchronise(&mut self, offset_ms: i64) {
        self.clock_synchronised = true;
        for row in self.journal.values_mut() {
            if let Placed::Pending(ts) = row.time {
                row.time = Placed::Known(ts + offset_ms);
            }
        }
        self.uplink.handle_clock(true, self.now);
        self.serve();
    }

    /// Power is cut and comes back: what is on disk is all there is.
    pub fn crash(&mut self) {
        let resumed = Settlement { rejected: Vec::new(), ..self.disk.clone() };
        let seed = self.draw(1 << 40);
        self.link = None;
        self.connecting = None;
        self.travelling.clear();
        let last_seq = Seq(self.next_seq - 1);
        self.uplink = Uplink::new(self.settings.clone(), resumed, last_seq, seed, self.now);
        self.uplink.handle_clock(self.clock_synchronised, self.now);
        for device in self.here.clone() {
            self.tell_presence(&device);
        }
        self.serve();
    }

    /// A device connects to the gateway.
    pub fn comes(&mut self, device: &str) {
        self.here.insert(device.to_owned());
        self.tell_presence(device);
        self.serve();
    }

    /// Its last connection is gone.
    pub fn goes(&mut self, device: &str) {
        self.here.remove(device);
        self.tell_presence(device);
        self.serve();
    }

    fn tell_presence(&mut self, device: &str) {
        let name = DeviceName::parse(device).expect("valid");
        self.uplink.handle_presence(&name, self.here.contains(device), self.now);
    }

    /// Devices the hub takes for connected.
    pub fn connected(&self) -> BTreeSet<String> {
        self.link.as_ref().map(|link| link.announced.clone()).unwrap_or_default()
    }

    /// Whether the hub may send messages for devices.
    pub fn takes_downlinks(&self) -> bool {
        self.link.as_ref().is_some_and(|link| link.wants_downlink)
    }

    /// The bytes of a message the hub sends for a device.
    pub fn publish_of_hub(&self, topic: &str, payload: &str) -> Vec<u8> {
        self.hub.sends(self.link.as_ref().expect("there is a connection"), topic, payload)
    }

    /// The hub sends a message for a device.
    pub fn hub_sends(&mut self, topic: &str, payload: &str) {
        let bytes = self.publish_of_hub(topic, payload);
        self.travel(1, bytes.len(), Travelling::ToUplink(bytes));
    }

    // ---- what happens on the way ------------------------------------------------------------------------

    /// The connection is cut, after some of what is on its way has arrived.
    pub fn cut(&mut self, kind: FailureKind) {
        self.connecting = None;
        if self.link.take().is_some() {
            self.travelling.clear();
            self.uplink.handle_disconnected(Failure::new(kind, format!("cut: {kind:?}")), self.now);
            self.serve();
        }
    }

    /// The hub ends all connections, and takes new ones.
    pub fn hub_restarts(&mut self) {
        self.cut(FailureKind::Closed);
    }

    // ---- time -------------------------------------------------------------------------------------------

    /// Lets time pass until `is_done`, or for `span`; whether it was done.
    pub fn run_until(&mut self, span: Duration, mut is_done: impl FnMut(&mut World) -> bool) -> bool {
        let end = self.now.mono + span;
        let mut steps_at_once = 0;
        while !is_done(self) {
            let next = self.next_event();
            let Some(next) = next.filter(|next| *next <= end) else {
                self.set_time(end);
                return is_done(self);
            };
            steps_at_once = if next > self.now.mono { 0 } else { steps_at_once + 1 };
            assert!(steps_at_once < 100_000, "time stands still: {:?}", self.uplink.status(self.now));
            self.set_time(next);
            self.step();
        }
        true
    }

    pub fn run(&mut self, span: Duration) {
        self.run_until(span, |_| false);
    }

    /// Lets time pass until the hub has everything the gateway has.
    pub fn drain(&mut self, span: Duration) {
        let done = self.run_until(span, |world| world.uplink.status(world.now).backlog == 0);
        assert!(
            done,
            "not drained: {:#?}\n{:#?}",
            self.uplink.status(self.now),
            self.notices.iter().rev().take(10).collect::<Vec<_>>()
        );
        self.check_promises();
    }

    /// Life goes on: a reading now and then, so that those under suspicion are judged beside others, until the hub has
    /// everything.
    pub fn live_and_drain(&mut self, devices: &[&str]) {
        for round in 0..480 {
            if self.uplink.status(self.now).backlog == 0 {
                break;
            }
            self.store(devices[round % devices.len()]);
            self.run(30 * SECOND);
        }
        self.drain(60 * SECOND);
        self.run(10 * SECOND);
    }

    fn next_event(&self) -> Option<Mono> {
        let arrival = self.travelling.iter().map(|(at, _)| *at).min();
        [self.uplink.poll_timeout(), arrival, self.connecting].into_iter().flatten().min()
    }

    fn set_time(&mut self, mono: Mono) {
        let passed = mono.since(self.now.mono);
        self.now = Now {
            mono: self.now.mono.max(mono),
            wall: Wall(self.now.wall.0 + i64::try_from(passed.as_millis()).expect("short")),
        };
    }

    fn step(&mut self) {
        if self.connecting.is_some_and(|at| at <= self.now.mono) {
            self.connecting = None;
            if self.network.is_up {
                self.link = Some(self.hub.accept(self.now.mono));
                self.link_is_dead = false;
                self.last_arrival = [self.now.mono; 2];
                self.busy_until = [self.now.mono; 2];
                self.connections += 1;
                self.uplink.handle_connected(self.now);
            } else {
                let failure = Failure::new(FailureKind::Unreachable, "there is no way to the hub");
                self.uplink.handle_connect_failed(failure, self.now);
            }
        }
        while let Some((at, _)) = self.travelling.front()
            && *at <= self.now.mono
        {
            let (_, what) = self.travelling.pop_front().expect("it is there");
            self.arrive(what);
            self.serve();
        }
        if self.uplink.poll_timeout().is_some_and(|at| at <= self.now.mono) {
            self.uplink.handle_timeout(self.now);
        }
        self.serve();
    }

    fn arrive(&mut self, what: Travelling) {
        match what {
            Travelling::ToHub(bytes) => {
                let Some(link) = &mut self.link else { return };
                self.hub.minds_silence = self.network.bytes_per_second == 0;
                let reaction = self.hub.receive(link, &bytes, self.now.mono);
                if !reaction.bytes.is_empty() {
                    self.travel(1, reaction.bytes.len(), Travelling::ToUplink(reaction.bytes));
                }
                if reaction.closes {
                    self.travel(1, 0, Travelling::HubCloses);
                }
            }
            Travelling::ToUplink(bytes) => {
                // In pieces, so that packets begin in one and end in another.
                let piece = 1 + self.draw(64) as usize;
                for bytes in bytes.chunks(piece) {
                    self.uplink.handle_bytes(bytes, self.now);
                }
            }
            Travelling::HubCloses => self.cut(FailureKind::Closed),
        }
    }

    fn travel(&mut self, way: usize, bytes: usize, what: Travelling) {
        // What a connection has lost it never gets again: all behind it is lost as well.
        self.link_is_dead |= self.network.swallows;
        if self.link_is_dead {
            return;
        }
        let begin = self.busy_until[way].max(self.now.mono);
        let takes = match self.network.bytes_per_second {
            0 => Duration::ZERO,
            rate => Duration::from_secs_f64(bytes as f64 / rate as f64),
        };
        self.busy_until[way] = begin + takes;
        // Bytes never overtake each other, also when the way has become a shorter one.
        let arrival = (begin + takes + self.network.latency).max(self.last_arrival[way]);
        self.last_arrival[way] = arrival;
        let place = self.travelling.iter().position(|(at, _)| *at > arrival).unwrap_or(self.travelling.len());
        self.travelling.insert(place, (arrival, what));
    }

    /// Does what the uplink asks for, as the loop would.
    pub fn serve(&mut self) {
        while let Some(mut request) = self.asked.take().or_else(|| self.uplink.poll_read()) {
            if self.reads_wait {
                self.asked = Some(request);
                break;
            }
            if self.draw(100) < self.disk_fails {
                self.uplink.handle_read_failed(request, self.now);
                break;
            }
            let mut rows = Vec::new();
            let mut bytes = 0;
            if self.own.is_some() {
                request.through = request.through.min(Seq(request.after.0 + LOOKS_AT));
                self.looked_at += request.through.0 - request.after.0;
            }
            for row in self.journal.range(request.after.0 + 1..=request.through.0).map(|(_, row)| row) {
                if rows.len() >= request.rows_max || bytes >= request.bytes_max {
                    break;
                }
                if self.own.as_deref().is_some_and(|own| own != row.device.as_str()) {
                    continue;
                }
                bytes += row.values.len();
                rows.push(row.clone());
            }
            self.uplink.handle_rows(request, rows, self.now);
        }
        if self.uplink.settlement_is_due() {
            self.commit(true);
        }
        let output: Vec<u8> = {
            let (front, back) = self.uplink.output().as_slices();
            [front, back].concat()
        };
        if !output.is_empty() {
            let length = output.len();
            self.uplink.output().consume(length);
            if self.link.is_some() {
                let cut = self.draw(length as u64 + 1) as usize;
                for piece in [&output[..cut], &output[cut..]] {
                    self.travel(0, piece.len(), Travelling::ToHub(piece.to_vec()));
                }
            }
        }
        if self.uplink.poll_close() {
            self.link = None;
            self.connecting = None;
            self.travelling.clear();
        }
        if self.uplink.poll_connect() {
            self.connecting = Some(self.now.mono + self.network.latency);
        }
        while let Some(downlink) = self.uplink.poll_downlink() {
            self.downlinks.push(downlink);
        }
        while let Some(notice) = self.uplink.poll_notice() {
            self.notices.push(format!("{:?} {}", Duration::from_micros(self.now.mono.0), notice.words));
        }
        self.check_bounds();
    }

    /// A commit is made; the settlement rides in it if there is one.
    pub fn commit(&mut self, must: bool) {
        let Some(settlement) = self.uplink.poll_settlement() else {
            assert!(!must, "a commit for nothing");
            return;
        };
        if self.draw(100) < self.disk_fails {
            return self.uplink.handle_settle_failed(self.now);
        }
        for rejected in &settlement.rejected {
            // Twice, if a power cut came between: the disk does not know every stretch.
            self.rejected.insert(rejected.seq.0, rejected.reason.clone());
        }
        self.check_settlement(&settlement);
        self.disk = settlement;
        self.uplink.handle_settled(self.now);
    }

    // ---- what must hold ---------------------------------------------------------------------------------

    fn check_bounds(&mut self) {
        let status = self.uplink.status(self.now);
        assert!(status.in_memory <= 2 * (UPLINK_LANE_ROWS + 1) + UPLINK_SUSPECTS, "{status:?}");
        assert!(self.uplink.output().len() <= 4 * 1024 * 1024 + 65_536);
        assert!(status.suspected <= UPLINK_SUSPECTS);
        assert_eq!(self.hub.complaints, [""; 0], "the hub complains");
    }

    /// Nothing is settled that the hub does not have, unless it was rejected or is not there any more.
    fn check_settlement(&mut self, settlement: &Settlement) {
        self.note_arrivals();
        let stretches = settlement.beyond.iter().copied();
        let mut previous = settlement.through;
        for (first, last) in stretches.clone() {
            assert!(previous.next() < first && first <= last, "{settlement:?}");
            previous = last;
        }
        // What the disk has as settled up to its mark was checked before.
        for (first, last) in std::iter::once((self.disk.through.next(), settlement.through)).chain(stretches)
        {
            for (seq, row) in self.journal.range(first.0..last.0.max(first.0 - 1) + 1) {
                let is_ours = self.own.as_deref().is_none_or(|own| own == row.device.as_str());
                let has = self.has_arrived(row) || self.rejected.contains_key(seq);
                assert!(has || !is_ours, "reading {seq} is settled and lost");
            }
        }
        assert!(settlement.through >= self.disk.through, "the mark never goes back");
    }

    fn note_arrivals(&mut self) {
        let new = self.hub.arrivals.iter().skip(self.noted);
        self.arrived.extend(new.map(|arrival| (arrival.device.clone(), arrival.values.clone())));
        self.noted = self.hub.arrivals.len();
    }

    fn has_arrived(&self, row: &Outbound) -> bool {
        self.arrived.contains(&(row.device.as_str().to_owned(), row.values.clone()))
    }

    /// Everything arrived or was rejected, only poison was rejected, and no poison arrived.
    pub fn check_promises(&mut self) {
        self.note_arrivals();
        for (seq, row) in &self.journal {
            let has = self.has_arrived(row);
            let is_poison = row.values.contains("poison");
            assert!(has || is_poison, "reading {seq} of {} is lost", row.device);
            assert!(!(has && is_poison));
            assert!(is_poison || !self.rejected.contains_key(seq), "reading {seq} was rejected for nothing");
        }
    }

    /// The places of a device's readings in the order of their first arrival.
    pub fn first_arrivals(&self, device: &str) -> Vec<u64> {
        let mut seen = BTreeSet::new();
        let of_device = self.hub.arrivals.iter().filter(|arrival| arrival.device == device);
        of_device.filter_map(|arrival| seq_of(&arrival.values)).filter(|seq| seen.insert(*seq)).collect()
    }

    /// How many arrivals were repeats.
    pub fn repeats(&self) -> usize {
        let all: Vec<_> =
            self.hub.arrivals.iter().map(|arrival| (&arrival.device, &arrival.values)).collect();
        all.len() - all.iter().collect::<BTreeSet<_>>().len()
    }
}

pub fn seq_of(values: &str) -> Option<u64> {
    let values: serde_json::Value = serde_json::from_str(values).expect("JSON");
    values["n"].as_u64()
}
