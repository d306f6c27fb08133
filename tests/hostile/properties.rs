//! A3: the properties of MQTT 5, each where it may not be, twice, or with a value it cannot have.

use crate::{
    support::{
        packets::Connect,
        wire::{TELEMETRY, Version, packet, properties, text},
    },
    table::{
        Expect::{Answered, Closed, Told, TurnedAway},
        Row, Sender,
        Sender::{Online, Stranger},
        row, run,
    },
};

use Version::V5;

/// Every property there is, with a value it may have. [§2.2.2.2]
const PROPERTIES: [(u8, &[u8]); 27] = [
    (0x01, &[1]),
    (0x02, &[0, 0, 0, 9]),
    (0x03, &[0, 1, b't']),
    (0x08, &[0, 1, b'r']),
    (0x09, &[0, 1, b'c']),
    (0x0B, &[1]),
    (0x11, &[0, 0, 0, 1]),
    (0x12, &[0, 1, b'a']),
    (0x13, &[0, 9]),
    (0x15, &[0, 1, b'm']),
    (0x16, &[0, 1, b'd']),
    (0x17, &[1]),
    (0x18, &[0, 0, 0, 9]),
    (0x19, &[1]),
    (0x1A, &[0, 1, b'i']),
    (0x1C, &[0, 1, b's']),
    (0x1F, &[0, 1, b'r']),
    (0x21, &[0, 1]),
    (0x22, &[0, 1]),
    (0x23, &[0, 1]),
    (0x24, &[1]),
    (0x25, &[1]),
    (0x26, &[0, 1, b'k', 0, 1, b'v']),
    (0x27, &[0, 0, 0xFF, 0xFF]),
    (0x28, &[1]),
    (0x29, &[1]),
    (0x2A, &[1]),
];

/// A packet a client sends: its name, what it may carry, and how it is made with properties in it.
struct Carrier {
    name: &'static str,
    from: Sender,
    may_carry: &'static [u8],
    make: fn(&[u8]) -> Vec<u8>,
}

const CARRIERS: [Carrier; 11] = [
    Carrier {
        name: "CONNECT",
        from: Stranger,
        may_carry: &[0x11, 0x15, 0x16, 0x17, 0x19, 0x21, 0x22, 0x26, 0x27],
        make: connect,
    },
    Carrier {
        name: "a will",
        from: Stranger,
        may_carry: &[0x01, 0x02, 0x03, 0x08, 0x09, 0x18, 0x26],
        make: will,
    },
    Carrier {
        name: "PUBLISH",
        from: Online(V5),
        may_carry: &[0x01, 0x02, 0x03, 0x08, 0x09, 0x23, 0x26],
        make: publish_with,
    },
    Carrier { name: "PUBACK", from: Online(V5), may_carry: &[0x1F, 0x26], make: |p| answer(0x40, p) },
    Carrier { name: "PUBREC", from: Online(V5), may_carry: &[0x1F, 0x26], make: |p| answer(0x50, p) },
    Carrier { name: "PUBREL", from: Online(V5), may_carry: &[0x1F, 0x26], make: |p| answer(0x62, p) },
    Carrier { name: "PUBCOMP", from: Online(V5), may_carry: &[0x1F, 0x26], make: |p| answer(0x70, p) },
    Carrier { name: "SUBSCRIBE", from: Online(V5), may_carry: &[0x0B, 0x26], make: subscribe_with },
    Carrier { name: "UNSUBSCRIBE", from: Online(V5), may_carry: &[0x26], make: unsubscribe_with },
    Carrier {
        name: "DISCONNECT",
        from: Online(V5),
        // Server Reference makes no sense from a client, but the table of the standard allows it here.
        may_carry: &[0x11, 0x1C, 0x1F, 0x26],
        make: |p| packet(0xE0, &[&[0][..], &properties(p)].concat()),
    },
    Carrier {
        name: "AUTH",
        from: Online(V5),
        may_carry: &[0x15, 0x16, 0x1F, 0x26],
        make: |p| packet(0xF0, &[&[0x18][..], &properties(p)].concat()),
    },
];

/// A carrier's answer to a property it may not carry, or not twice.
fn turned_down(carrier: &Carrier, what: String, bytes: &[u8]) -> Row {
    let expect = match carrier.from {
        Stranger => TurnedAway,
        Online(_) => Told(&[0x81, 0x82]),
    };
    row(format!("A-43 {what} in {}", carrier.name), carrier.from, (carrier.make)(bytes), expect)
}

fn connect(bytes: &[u8]) -> Vec<u8> {
    Connect::new(V5, "mallory").user("x").properties(bytes).bytes()
}

fn publish_with(bytes: &[u8]) -> Vec<u8> {
    publish_both(bytes, "{a:1}")
}

fn publish_both(bytes: &[u8], payload: &str) -> Vec<u8> {
    let mut body = text(TELEMETRY);
    body.extend([0, 1]);
    body.extend(properties(bytes));
    body.extend(payload.as_bytes());
    packet(0x32, &body)
}

fn will(bytes: &[u8]) -> Vec<u8> {
    let mut body = text("MQTT");
    body.extend([5, 0x86, 0, 60, 0]);
    body.extend(text("mallory"));
    body.extend(properties(bytes));
    for part in [TELEMETRY, "{w:1}", "x"] {
        body.extend(text(part));
    }
    packet(0x10, &body)
}

/// PUBACK and its like, for packet 1 and with code 0.
fn answer(first: u8, bytes: &[u8]) -> Vec<u8> {
    packet(first, &[&[0, 1, 0][..], &properties(bytes)].concat())
}

fn subscribe_with(bytes: &[u8]) -> Vec<u8> {
    packet(0x82, &[&[0, 1][..], &properties(bytes), &text("a"), &[0]].concat())
}

fn unsubscribe_with(bytes: &[u8]) -> Vec<u8> {
    packet(0xA2, &[&[0, 1][..], &properties(bytes), &text("a")].concat())
}

fn with(id: u8, value: &[u8]) -> Vec<u8> {
    [&[id], value].concat()
}

#[test]
fn every_property_in_every_packet_that_may_not_carry_it() {
    let mut rows: Vec<Row> = Vec::new();
    for carrier in &CARRIERS {
        for (id, value) in PROPERTIES.iter().filter(|(id, _)| !carrier.may_carry.contains(id)) {
            rows.push(turned_down(carrier, format!("{id:#04x}"), &with(*id, value)));
        }
    }
    run(&rows);
}

#[test]
fn properties_there_are_none_of() {
    let mut rows: Vec<Row> = Vec::new();
    for carrier in &CARRIERS {
        // Zeros are a value of every kind: a byte, an integer, an empty string, an empty pair.
        for id in (0..0x80).filter(|id| PROPERTIES.iter().all(|(known, _)| known != id)) {
            rows.push(turned_down(carrier, format!("{id:#04x}"), &with(id, &[0, 0, 0, 0])));
        }
        rows.push(turned_down(carrier, "an id of two bytes".to_owned(), &[0x80, 0x01, 0, 0]));
        rows.push(turned_down(carrier, "an overlong id".to_owned(), &[0xA6, 0x00, 0, 0, 0, 0]));
    }
    run(&rows);
}

#[test]
fn properties_twice() {
    let mut rows: Vec<Row> = Vec::new();
    for carrier in &CARRIERS {
        let once_only = |id: u8| carrier.may_carry.contains(&id) && id != 0x26;
        for (id, value) in PROPERTIES.iter().filter(|(id, _)| once_only(*id)) {
            let twice = [with(*id, value), with(*id, value)].concat();
            rows.push(turned_down(carrier, format!("{id:#04x} twice"), &twice));
        }
    }
    run(&rows);
}

#[test]
fn property_lengths_that_lie() {
    let raw = |after_id: &[u8]| packet(0x32, &[&text(TELEMETRY)[..], &[0, 1], after_id].concat());
    run(&[
        row("A-07 an overlong length", Online(V5), raw(&[0x80, 0x00, b'{', b'}']), Told(&[0x81])),
        row("A-42 five bytes of length", Online(V5), raw(&[0xFF, 0xFF, 0xFF, 0xFF, 0x01]), Told(&[0x81])),
        row("A-42 longer than the packet", Online(V5), raw(&[0x20, 0x01, 0x01]), Told(&[0x81])),
        row("A-42 ends inside an integer", Online(V5), raw(&[0x03, 0x02, 0, 0, 0, 0]), Told(&[0x81])),
        row("A-42 ends inside a pair", Online(V5), raw(&[0x05, 0x26, 0, 1, b'k', 0, 1, b'v']), Told(&[0x81])),
        row("A-42 no length at all", Online(V5), raw(&[]), Told(&[0x81])),
        row(
            "A-42 a string longer than the properties",
            Online(V5),
            raw(&[0x04, 0x03, 0, 9, b'x', b'y']),
            Told(&[0x81]),
        ),
        row(
            "A-42 longer than a CONNECT",
            Stranger,
            packet(0x10, b"\0\x04MQTT\x05\x02\0\x3c\x7f\0\0"),
            TurnedAway,
        ),
    ]);
}

#[test]
fn property_values_that_cannot_be() {
    let no_topic = packet(0x32, &[&text("")[..], &[0, 1], &properties(&[0x23, 0, 5]), b"{a:1}"].concat());
    run(&[
        row("A-45 an alias over the maximum", Online(V5), publish_with(&[0x23, 0, 21]), Told(&[0x94])),
        row("A-45 alias 0 [MQTT-3.3.2-8]", Online(V5), publish_with(&[0x23, 0, 0]), Told(&[0x94])),
        row("A-45 an unknown alias alone", Online(V5), no_topic, Told(&[0x82])),
        row("A-45 two aliases", Online(V5), publish_with(&[0x23, 0, 1, 0x23, 0, 1]), Told(&[0x82])),
        row("A-46 Receive Maximum 0", Stranger, connect(&with(0x21, &[0, 0])), TurnedAway),
        row("A-46 Maximum Packet Size 0", Stranger, connect(&with(0x27, &[0, 0, 0, 0])), TurnedAway),
        row("A-46 Request Problem Information 2", Stranger, connect(&with(0x17, &[2])), TurnedAway),
        row("A-46 Request Response Information 2", Stranger, connect(&with(0x19, &[2])), TurnedAway),
        row("A-47 a subscription id in a PUBLISH", Online(V5), publish_with(&[0x0B, 1]), Told(&[0x82])),
        row(
            "A-47 subscription id 0",
            Online(V5),
            packet(0x82, &[0, 1, 2, 0x0B, 0, 0, 1, b'a', 0]),
            Told(&[0x82]),
        ),
        row("A-51 an unknown method", Stranger, connect(&with(0x15, &[0, 1, b'm'])), TurnedAway),
        row("A-51 data without a method", Stranger, connect(&with(0x16, &[0, 1, b'd'])), TurnedAway),
        row("A-43 payload format 2", Online(V5), publish_with(&[0x01, 2]), Closed),
        row(
            "C-62 expiry raised at the end",
            Online(V5),
            packet(0xE0, &[0, 5, 0x11, 0, 0, 0, 9]),
            Told(&[0x82]),
        ),
        row("C-61 a DISCONNECT code only a server has", Online(V5), packet(0xE0, &[0x8E]), Told(&[0x82])),
        row(
            "C-61 a DISCONNECT code there is none of",
            Online(V5),
            packet(0xE0, &[0x55]),
            Told(&[0x81, 0x82]),
        ),
        row("C-61 a PUBACK code there is none of", Online(V5), packet(0x40, &[0, 1, 0x55]), Closed),
    ]);
}

#[test]
fn sixty_kilobytes_of_user_properties_cost_little_and_are_bounded_by_the_packet() {
    // the standard has no other bound, before CONNECT or after it.
    let many = [0x26, 0, 0, 0, 0].repeat(12_000);
    let in_connect = connect(&many[..3_500]);
    let answer = Answered(vec![0x40, 2, 0, 1]);
    run(&[
        row("A-41 60 KB of them in CONNECT", Stranger, connect(&many), TurnedAway),
        row("A-41 700 of them in CONNECT, and no token", Stranger, in_connect, TurnedAway),
        row("A-41 12,000 of them in PUBLISH", Online(V5), publish_both(&many, "{}"), answer.clone()),
        row("A-41 33 of them in PUBLISH", Online(V5), publish_both(&many[..33 * 5], "{}"), answer),
        row(
            "A-41 14,000 of them in PUBLISH",
            Online(V5),
            publish_with(&[0x26, 0, 0, 0, 0].repeat(14_000)),
            Told(&[0x95]),
        ),
    ]);
}
