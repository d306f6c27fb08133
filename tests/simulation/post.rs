//! What local clients wrote to each other, held against what arrives: the reference of every delivery.
//!
//! Who subscribed before a message was first sent, and has not lost the session since, is promised it: at least once, in
//! order, and exactly once where both ends ask for QoS 2 and keep their sessions.

use std::collections::{BTreeMap, BTreeSet};

use crate::session_half::Message;

/// Topics of retained messages begin so; each has one publisher.
pub const STATE: &str = "state/";
/// Topics of wills begin so.
pub const WILL: &str = "will/";
/// How a filter of a group begins.
const SHARE: &str = "$share/";

struct Letter {
    message: Message,
    publisher: usize,
    /// Who is promised it and does not have it yet.
    wanted_by: BTreeSet<usize>,
    /// Whether one of a group is promised it, and none has it yet.
    wanted_by_group: bool,
    /// PUBACK or PUBREC came.
    is_taken: bool,
    /// Its publisher's session is new since: it may have been routed before.
    may_repeat: bool,
}

struct Reader {
    filters: Vec<(String, u8)>,
    is_durable: bool,
    /// Whether it is promised anything.
    is_subscribed: bool,
    got: BTreeSet<usize>,
    /// The latest it got of each publisher and QoS.
    latest: BTreeMap<(usize, u8), usize>,
}

struct LeftWill {
    topic: String,
    qos: u8,
    wanted_by: BTreeSet<usize>,
    got_by: BTreeSet<usize>,
    /// The connection ended in a way that it is to be published.
    is_owed: bool,
}

/// All messages of a run, and everybody who reads and writes them.
#[derive(Default)]
pub struct Post {
    letters: Vec<Letter>,
    readers: Vec<Reader>,
    wills: Vec<LeftWill>,
    /// Letters sent to each topic with RETAIN, in order.
    retained: BTreeMap<String, Vec<usize>>,
}

impl Post {
    /// Adds a client; gives back what it is called here.
    pub fn add(&mut self, filters: Vec<(String, u8)>) -> usize {
        let (got, latest) = Default::default();
        self.readers.push(Reader { filters, is_durable: false, is_subscribed: false, got, latest });
        self.readers.len() - 1
    }

    /// Whether the reader's session was acknowledged and must be there.
    pub fn is_promised(&self, reader: usize) -> bool {
        self.readers[reader].is_subscribed
    }

    /// Whether it reads what is sent to `topic`, and with which QoS at most.
    pub fn granted(&self, reader: usize, topic: &str) -> Option<u8> {
        let filters = self.readers[reader].filters.iter();
        filters.filter(|(filter, _)| matches(filter, topic)).map(|(_, qos)| *qos).max()
    }

    // ---- sessions -----------------------------------------------------------------------------------------

    /// The client connects; whether its session is to outlive the connection.
    pub fn note_connecting(&mut self, client: usize, is_durable: bool) {
        self.readers[client].is_durable = is_durable;
    }

    pub fn note_subscribed(&mut self, reader: usize) {
        self.readers[reader].is_subscribed = true;
    }

    /// The client's connection is over: what a session that goes with it was promised is forgiven.
    pub fn note_lost(&mut self, reader: usize) {
        if !self.readers[reader].is_durable {
            self.forgive(reader);
        }
    }

    /// The client's session is new, or is asked to be.
    pub fn note_session_gone(&mut self, client: usize) {
        self.forgive(client);
        for letter in self.letters.iter_mut().filter(|letter| letter.publisher == client && !letter.is_taken)
        {
            letter.may_repeat = true;
        }
    }

    fn forgive(&mut self, reader: usize) {
        self.readers[reader].is_subscribed = false;
        // What is found on its way after all may be found once more.
        self.readers[reader].got.clear();
        self.readers[reader].latest.clear();
        let was_in_group = self.readers[reader].filters.iter().any(|(filter, _)| filter.starts_with(SHARE));
        for letter in &mut self.letters {
            letter.wanted_by.remove(&reader);
            // With the last of the group goes what was meant for it. [§4.8.2]
            letter.wanted_by_group &= !was_in_group;
        }
        for will in &mut self.wills {
            will.wanted_by.remove(&reader);
            will.got_by.remove(&reader);
        }
    }

    fn readers_of(&self, topic: &str, qos: u8) -> BTreeSet<usize> {
        let reads = |reader: &usize| {
            let granted = self.plainly_granted(*reader, topic);
            self.readers[*reader].is_subscribed && granted.is_some_and(|granted| granted.min(qos) > 0)
        };
        (0..self.readers.len()).filter(reads).collect()
    }

    /// As `granted`, groups apart.
    fn plainly_granted(&self, reader: usize, topic: &str) -> Option<u8> {
        let plain = self.readers[reader].filters.iter().filter(|(filter, _)| !filter.starts_with(SHARE));
        plain.filter(|(filter, _)| matches(filter, topic)).map(|(_, qos)| *qos).max()
    }

    fn is_for_a_group(&self, reader: usize, topic: &str) -> bool {
        let mut filters = self.readers[reader].filters.iter();
        filters.any(|(filter, _)| filter.starts_with(SHARE) && matches(filter, topic))
    }

    // ---- messages -----------------------------------------------------------------------------------------

    /// The next message of `publisher`; without text if it is to clear what is retained.
    pub fn write(&mut self, publisher: usize, topic: &str, qos: u8, retain: bool, clears: bool) -> Message {
        let number = self.letters.len();
        let text = if clears { String::new() } else { format!("letter {number}") };
        let message = Message { topic: topic.to_owned(), text, qos, retain };
        let in_group =
            |reader: usize| self.readers[reader].is_subscribed && self.is_for_a_group(reader, topic);
        let wanted_by_group = qos > 0 && (0..self.readers.len()).any(in_group);
        // One that clears has no number to be known by.
        let wanted_by = if clears { BTreeSet::new() } else { self.readers_of(topic, qos) };
        if retain {
            self.retained.entry(topic.to_owned()).or_default().push(number);
        }
        self.letters.push(Letter {
            message: message.clone(),
            publisher,
            wanted_by,
            wanted_by_group,
            is_taken: false,
            may_repeat: false,
        });
        message
    }

    /// The broker has acknowledged the message.
    pub fn note_taken(&mut self, publisher: usize, message: &Message) {
        let is_it = |letter: &&mut Letter| {
            letter.publisher == publisher && !letter.is_taken && letter.message == *message
        };
        if let Some(letter) = self.letters.iter_mut().find(is_it) {
            letter.is_taken = true;
        }
    }

    /// A message arrived that is neither retained, nor a will, nor a reading.
    pub fn note_got(&mut self, reader: usize, message: &Message) -> Result<(), String> {
        if message.text.is_empty() {
            return Ok(());
        }
        let number = message.text.strip_prefix("letter ").and_then(|text| text.parse::<usize>().ok());
        let number = number.filter(|number| *number < self.letters.len());
        let number = number.ok_or_else(|| format!("MADE UP: {message:?}"))?;
        let granted = self.granted(reader, &message.topic);
        let granted = granted.ok_or_else(|| format!("NOT ASKED FOR: {message:?}"))?;
        let in_group = self.is_for_a_group(reader, &message.topic);
        let (letter, to) = (&mut self.letters[number], &mut self.readers[reader]);
        let expected =
            Message { qos: letter.message.qos.min(granted), retain: false, ..letter.message.clone() };
        if *message != expected {
            return Err(format!("CHANGED: {expected:?} is now {message:?}"));
        }
        let publisher_keeps = !letter.may_repeat;
        let (publisher, qos) = (letter.publisher, letter.message.qos);
        letter.wanted_by_group &= !in_group;
        let is_first = to.got.insert(number);
        if !is_first && expected.qos == 2 && to.is_durable && publisher_keeps && !in_group {
            return Err(format!("TWICE: {message:?}"));
        }
        let was_wanted = letter.wanted_by.remove(&reader);
        if is_first && was_wanted && to.is_durable {
            let latest = to.latest.entry((publisher, qos)).or_insert(number);
            if number < *latest {
                return Err(format!("ORDER: letter {number} comes after letter {latest}"));
            }
            *latest = number;
        }
        Ok(())
    }

    // ---- retained messages --------------------------------------------------------------------------------

    /// For each topic the place of the last message that was acknowledged: nothing older may be found from now on.
    pub fn floors(&self) -> BTreeMap<String, usize> {
        let floor = |(topic, letters): (&String, &Vec<usize>)| {
            let place = letters.iter().rposition(|number| self.letters[*number].is_taken)?;
            Some((topic.clone(), place))
        };
        self.retained.iter().filter_map(floor).collect()
    }

    /// A retained message was found by somebody who subscribed when the floors were these.
    pub fn check_found(&self, floors: &BTreeMap<String, usize>, message: &Message) -> Result<(), String> {
        let letters = self.retained.get(&message.topic).map_or(&[][..], Vec::as_slice);
        let place = letters.iter().position(|number| self.letters[*number].message.text == message.text);
        let place = place.ok_or_else(|| format!("MADE UP: {message:?}"))?;
        match floors.get(&message.topic) {
            Some(floor) if place < *floor => {
                Err(format!("RETAINED: {message:?} is found, and a later one was acknowledged"))
            }
            _ => Ok(()),
        }
    }

    /// Topics on which something must have been found by then.
    pub fn must_be_found(&self, floors: &BTreeMap<String, usize>) -> Vec<String> {
        let is_never_cleared = |(topic, floor): &(&String, &usize)| {
            let letters = &self.retained[*topic][**floor..];
            letters.iter().all(|number| !self.letters[*number].message.text.is_empty())
        };
        floors.iter().filter(is_never_cleared).map(|(topic, _)| topic.clone()).collect()
    }

    // ---- wills --------------------------------------------------------------------------------------------

    /// A client is about to say a will; gives back its text.
    pub fn write_will(&mut self, topic: &str, qos: u8) -> String {
        let wanted_by =
            self.readers_of(topic, qos).into_iter().filter(|reader| self.readers[*reader].is_durable);
        let will = LeftWill {
            topic: topic.to_owned(),
            qos,
            wanted_by: wanted_by.collect(),
            got_by: BTreeSet::new(),
            is_owed: false,
        };
        self.wills.push(will);
        format!("will {}", self.wills.len() - 1)
    }

    /// The will of this text must be published.
    pub fn note_owed(&mut self, text: &str) {
        if let Some(will) = text.strip_prefix("will ").and_then(|number| number.parse::<usize>().ok()) {
            self.wills[will].is_owed = true;
        }
    }

    pub fn note_will_got(&mut self, reader: usize, message: &Message) -> Result<(), String> {
        let number = message.text.strip_prefix("will ").and_then(|text| text.parse::<usize>().ok());
        let will = number.and_then(|number| self.wills.get_mut(number));
        let Some(will) = will.filter(|will| will.topic == message.topic) else {
            return Err(format!("MADE UP: {message:?}"));
        };
        will.wanted_by.remove(&reader);
        let is_first = will.got_by.insert(reader);
        let is_once = message.qos == 2 && will.qos == 2 && self.readers[reader].is_durable;
        if is_first || !is_once { Ok(()) } else { Err(format!("TWICE: {message:?}")) }
    }

    // ---- all of it ----------------------------------------------------------------------------------------

    /// What was promised to `reader`, has been acknowledged to its sender, and has not arrived.
    pub fn outstanding(&self, reader: usize) -> Vec<&str> {
        let is_owed = |letter: &&Letter| letter.is_taken && letter.wanted_by.contains(&reader);
        self.letters.iter().filter(is_owed).map(|letter| &*letter.message.text).collect()
    }

    /// As above, promised to a group.
    pub fn outstanding_of_groups(&self) -> Vec<&str> {
        let is_owed = |letter: &&Letter| letter.is_taken && letter.wanted_by_group;
        self.letters.iter().filter(is_owed).map(|letter| &*letter.message.text).collect()
    }

    /// The store failed: a will in memory, or one on its way, is lost if the process is killed before the next commit.
    pub fn excuse_wills(&mut self) {
        self.wills.iter_mut().for_each(|will| will.wanted_by.clear());
    }

    /// What has not arrived yet, in words; nothing if all is well.
    pub fn missing(&self) -> Option<String> {
        let letter = self
            .letters
            .iter()
            .find(|letter| letter.is_taken && (!letter.wanted_by.is_empty() || letter.wanted_by_group))
            .map(|letter| format!("{:?} has not reached {:?}", letter.message, letter.wanted_by));
        let will = self.wills.iter().position(|will| will.is_owed && !will.wanted_by.is_empty());
        letter.or_else(|| {
            let will = will?;
            Some(format!("will {will} has not reached {:?}", self.wills[will].wanted_by))
        })
    }
}

/// Whether `filter` asks for `topic`; a group's asks for what the rest of it does. [§4.7.1]
fn matches(filter: &str, topic: &str) -> bool {
    let plain = filter.strip_prefix(SHARE).and_then(|rest| rest.split_once('/')).map_or(filter, |(_, f)| f);
    let mut levels = topic.split('/');
    for wanted in plain.split('/') {
        match (wanted, levels.next()) {
            ("#", _) => return true,
            ("+", Some(_)) => {}
            (wanted, Some(level)) if wanted == level => {}
            _ => return false,
        }
    }
    levels.next().is_none()
}
