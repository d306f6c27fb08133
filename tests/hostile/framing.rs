//! A1: fixed headers, lengths, packets in the wrong place.

use crate::{
    support::{
        packets::{Connect, Publish},
        wire::{PINGREQ, TELEMETRY, VERSIONS, Version, packet, publish, subscribe, text, unsubscribe},
    },
    table::{
        Expect::{Closed, Left, Refused, Told, TurnedAway},
        Row,
        Sender::{Online, Stranger},
        row, run,
    },
};

use Version::{V5, V31, V311};

fn connect(version: Version) -> Connect {
    Connect::new(version, "mallory").user("NoDeviceHasThisToken")
}

/// The parts of a CONNECT with another name, level and flags than usual.
fn connect_with(name: &str, level: u8, flags: u8, payload: &[Vec<u8>]) -> Vec<u8> {
    let mut body = text(name);
    body.extend([level, flags, 0, 60]);
    body.extend(payload.concat());
    packet(0x10, &body)
}

#[test]
fn remaining_lengths_that_are_none() {
    let smuggled = publish(V311, TELEMETRY, 1, 1, "{a:1}");
    let behind = |bytes: &[u8]| [bytes, &smuggled].concat();
    let mut rows = vec![
        row("A-01 five bytes", Stranger, [0x10, 0xFF, 0xFF, 0xFF, 0xFF, 0x01], Closed),
        row("A-01 four empty groups", Stranger, [0x10, 0x80, 0x80, 0x80, 0x80, 0x00], Closed),
        row("A-02 256 MiB", Stranger, [0x10, 0xFF, 0xFF, 0xFF, 0x7F], Closed),
        row("A-02 just over connect_bytes", Stranger, [0x10, 0x80, 0x20], Closed),
        row("A-05 200 announced, three come, FIN", Stranger, [0x10, 0xC8, 0x01, 0, 4, b'M'], Closed)
            .then_fin(),
        row("A-07 overlong length of a CONNECT", Stranger, [0x10, 0x80, 0x80, 0x00], Closed),
        row("A-12 nothing but FIN", Stranger, [], Closed).then_fin(),
    ];
    for version in VERSIONS {
        let half = row(
            "A-05 4096 announced, three come, FIN",
            Online(version),
            [0x30, 0x80, 0x20, 0, 1, b'a'],
            Left,
        );
        rows.push(half.then_fin());
        rows.extend([
            row("A-01 five bytes", Online(version), behind(&[0x30, 0xFF, 0xFF, 0xFF, 0xFF, 0x01]), Closed),
            row(
                "A-01 four empty groups",
                Online(version),
                behind(&[0xC0, 0x80, 0x80, 0x80, 0x80, 0x00]),
                Closed,
            ),
            row("A-02 256 MiB", Online(version), [0x30, 0xFF, 0xFF, 0xFF, 0x7F], Closed),
            row("A-02 just over packet_bytes", Online(version), [0x30, 0xFE, 0xFF, 0x03], Closed),
        ]);
    }
    // Before 5.0 there is no rule against it.
    rows.push(row("A-07 overlong zero", Online(V5), behind(&[0xC0, 0x80, 0x00]), Told(&[0x81])));
    rows.push(row("A-02 256 MiB", Online(V5), [0x30, 0xFF, 0xFF, 0xFF, 0x7F], Told(&[0x95])));
    run(&rows);
}

#[test]
fn fields_that_do_not_fit_their_packet() {
    let mut rows = Vec::new();
    for version in VERSIONS {
        let body = connect(version).body_with_flags(connect(version).flags());
        rows.push(row(
            "A-06 a byte after the payload",
            Stranger,
            packet(0x10, &[&body[..], &[0]].concat()),
            TurnedAway,
        ));
        rows.push(row("A-06 a byte is missing", Stranger, packet(0x10, &body[..body.len() - 1]), TurnedAway));
        rows.extend([
            row(
                "A-08 topic longer than its packet",
                Online(version),
                packet(0x30, &[0xFF, 0xFF, 1, 2, 3, 4, 5]),
                Closed,
            ),
            row("A-08 no room for a packet id", Online(version), packet(0x32, &text("v2/t")), Closed),
            row(
                "A-08 half a packet id",
                Online(version),
                packet(0x32, &[&text("v2/t")[..], &[0]].concat()),
                Closed,
            ),
            row("A-08 no topic length", Online(version), packet(0x30, &[0]), Closed),
            row("A-08 empty", Online(version), packet(0x30, &[]), Closed),
            row("A-06 PINGREQ with a body", Online(version), packet(0xC0, &[0]), Closed),
            row("A-06 PUBACK of one byte", Online(version), packet(0x40, &[0]), Closed),
        ]);
        let no_properties: &[u8] = if version == V5 { &[0] } else { &[] };
        let head = [&[0, 1], no_properties].concat();
        let filter = [&head[..], &text("a")].concat();
        rows.extend([
            row("A-10 SUBSCRIBE without an option byte", Online(version), packet(0x82, &filter), Closed),
            row("A-11 SUBSCRIBE without a filter", Online(version), packet(0x82, &head), Closed),
            row("A-11 UNSUBSCRIBE without a filter", Online(version), packet(0xA2, &head), Closed),
            row("A-11 SUBSCRIBE, empty", Online(version), packet(0x82, &[]), Closed),
            row("A-11 UNSUBSCRIBE, empty", Online(version), packet(0xA2, &[]), Closed),
            row("A-11 SUBSCRIBE of one byte", Online(version), packet(0x82, &[0]), Closed),
            row("A-11 UNSUBSCRIBE of one byte", Online(version), packet(0xA2, &[0]), Closed),
            row("A-11 SUBSCRIBE of two bytes", Online(version), packet(0x82, &[0, 1]), Closed),
            row("A-11 UNSUBSCRIBE of two bytes", Online(version), packet(0xA2, &[0, 1]), Closed),
        ]);
    }
    rows.push(row("A-11 no filter, told", Online(V5), packet(0x82, &[0, 1, 0]), Told(&[0x82, 0x81])));
    run(&rows);
}

#[test]
fn packets_in_the_wrong_place() {
    let servers_own: [(&str, &[u8]); 5] = [
        ("CONNACK", &[0x20, 0x02, 0, 0]),
        ("SUBACK", &[0x90, 0x03, 0, 1, 0]),
        ("UNSUBACK", &[0xB0, 0x02, 0, 1]),
        ("PINGRESP", &[0xD0, 0x00]),
        ("type 0", &[0x00, 0x00]),
    ];
    let clients_own: [(&str, Vec<u8>); 9] = [
        ("PUBLISH", publish(V311, TELEMETRY, 0, 0, "{a:1}")),
        ("PUBACK", packet(0x40, &[0, 1])),
        ("PUBREC", packet(0x50, &[0, 1])),
        ("PUBREL", packet(0x62, &[0, 1])),
        ("PUBCOMP", packet(0x70, &[0, 1])),
        ("SUBSCRIBE", subscribe(V311, 1, &[("a", 0)])),
        ("UNSUBSCRIBE", unsubscribe(V311, 1, &["a"])),
        ("PINGREQ", PINGREQ.to_vec()),
        ("DISCONNECT", packet(0xE0, &[])),
    ];
    let mut rows = Vec::new();
    for (name, bytes) in &clients_own {
        rows.push(row(format!("A-17 {name} first [MQTT-3.1.0-1]"), Stranger, bytes.clone(), Closed));
    }
    for (name, bytes) in servers_own {
        rows.push(row(format!("A-15, A-16 {name} first"), Stranger, bytes, Closed));
        for version in VERSIONS {
            rows.push(row(format!("A-15, A-16 {name} after CONNECT"), Online(version), bytes, Closed));
        }
    }
    rows.push(row("A-15 type 15 first", Stranger, [0xF0, 0x00], Closed));
    rows.push(row("A-15 type 15 is none before 5.0", Online(V311), [0xF0, 0x00], Closed));
    rows.push(row("A-51 AUTH without a method", Online(V5), [0xF0, 0x00], Told(&[0x82, 0x8C])));
    for version in VERSIONS {
        let second = connect(version).bytes();
        let other = Connect::new(version, "another").user("NoDeviceHasThisToken").bytes();
        rows.push(row("A-18 a second CONNECT [MQTT-3.1.0-2]", Online(version), second, Closed));
        rows.push(row("A-18 a second CONNECT, other id", Online(version), other, Closed));
        let filler: Vec<u8> = [0x00, 0x3C].repeat(2000);
        rows.push(row("A-21 dense filler", Online(version), filler, Closed));
    }
    rows.push(row("A-18 told", Online(V5), connect(V5).bytes(), Told(&[0x82])));
    run(&rows);
}

/// sixteen types, sixteen flags; what the standard does not allow ends the connection.
#[test]
fn fixed_header_flags() {
    let mut rows: Vec<Row> = Vec::new();
    for version in VERSIONS {
        // Type, a body that is right for it, and the flags that are right if a client may send it here at all.
        let types: [(u8, Vec<u8>, Option<u8>); 15] = [
            (0, vec![], None),
            (1, connect(version).bytes()[2..].to_vec(), None),
            (2, vec![0, 0], None),
            (4, vec![0, 1], Some(0)),
            (5, vec![0, 1], Some(0)),
            (6, vec![0, 1], Some(2)),
            (7, vec![0, 1], Some(0)),
            (8, subscribe(version, 1, &[("a", 0)])[2..].to_vec(), Some(2)),
            (9, vec![0, 1, 0], None),
            (10, unsubscribe(version, 1, &["a"])[2..].to_vec(), Some(2)),
            (11, vec![0, 1], None),
            (12, vec![], Some(0)),
            (13, vec![], None),
            (14, vec![], Some(0)),
            (15, vec![], None),
        ];
        for (kind, body, right) in &types {
            // In 3.1 these may carry DUP; that went with 3.1.1.
            let may_repeat = version == V31 && *right == Some(2);
            for flags in (0..16).filter(|flags| Some(*flags) != *right && !(may_repeat && *flags == 0x0A)) {
                let name = format!("A-19 type {kind} with flags {flags:#06b} [MQTT-2.2.2-2]");
                rows.push(row(name, Online(version), packet(kind << 4 | flags, body), Closed));
                if right.is_none() && *kind != 1 {
                    let name = format!("A-19 type {kind} with flags {flags:#06b}, first");
                    rows.push(row(name, Stranger, packet(kind << 4 | flags, body), Closed));
                }
            }
        }
        for flags in 1..16 {
            let body = connect(version).body_with_flags(connect(version).flags());
            let name = format!("A-19 CONNECT with flags {flags:#06b}");
            rows.push(row(name, Stranger, packet(0x10 | flags, &body), TurnedAway));
        }
        let with_id = publish(version, TELEMETRY, 1, 1, "{a:1}")[2..].to_vec();
        let without = publish(version, TELEMETRY, 0, 0, "{a:1}")[2..].to_vec();
        for flags in [0x6, 0x7, 0xE, 0xF] {
            let name = format!("A-22 PUBLISH with QoS 3, flags {flags:#06b} [MQTT-3.3.1-4]");
            rows.push(row(name, Online(version), packet(0x30 | flags, &with_id), Closed));
        }
        rows.push(row("C-25 QoS 0 with DUP [MQTT-3.3.1-2]", Online(version), packet(0x38, &without), Closed));
    }
    run(&rows);
}

#[test]
fn quality_and_identifiers_out_of_range() {
    let mut rows = Vec::new();
    for version in VERSIONS {
        rows.extend([
            row("A-22 SUBSCRIBE with QoS 3", Online(version), subscribe(version, 1, &[("a", 3)]), Closed),
            row("C-39 reserved option bits", Online(version), subscribe(version, 1, &[("a", 0xC0)]), Closed),
            row(
                "C-06 PUBLISH with packet id 0",
                Online(version),
                publish(version, TELEMETRY, 1, 0, "{a:1}"),
                Closed,
            ),
            row(
                "C-06 SUBSCRIBE with packet id 0",
                Online(version),
                subscribe(version, 0, &[("a", 0)]),
                Closed,
            ),
            row(
                "C-06 UNSUBSCRIBE with packet id 0",
                Online(version),
                unsubscribe(version, 0, &["a"]),
                Closed,
            ),
            row("C-06 PUBACK with packet id 0", Online(version), packet(0x40, &[0, 0]), Closed),
            row(
                "A-22 will with QoS 3",
                Stranger,
                connect(version).will(Publish::new("a", "x").qos(3, 0)).bytes(),
                TurnedAway,
            ),
        ]);
        let plain = connect(version);
        let with = |flags: u8| packet(0x10, &plain.body_with_flags(flags));
        rows.extend([
            row("C-11 reserved connect flag [MQTT-3.1.2-3]", Stranger, with(plain.flags() | 1), TurnedAway),
            row("C-12 will QoS without a will", Stranger, with(plain.flags() | 0x08), TurnedAway),
            row("C-12 will retain without a will", Stranger, with(plain.flags() | 0x20), TurnedAway),
            row("C-12 a will flag without a will", Stranger, with(plain.flags() | 0x04), TurnedAway),
            row("A-06 a password flag without a password", Stranger, with(plain.flags() | 0x40), TurnedAway),
        ]);
    }
    rows.push(row("C-28 retain handling 3", Online(V5), subscribe(V5, 1, &[("a", 0x30)]), Closed));
    for version in [V31, V311] {
        let lonely = Connect::new(version, "mallory").password("secret").bytes();
        rows.push(row("C-13 a password without a user name [MQTT-3.1.2-22]", Stranger, lonely, Closed));
    }
    run(&rows);
}

#[test]
fn protocol_names_and_levels() {
    let id = || text("mallory");
    let mut rows = vec![
        row("C-10 level 6 [MQTT-3.1.2-2]", Stranger, connect_with("MQTT", 6, 2, &[id()]), TurnedAway),
        row("C-10 level 0", Stranger, connect_with("MQTT", 0, 2, &[id()]), Refused(1)),
        row("C-10 level 3 of MQTT", Stranger, connect_with("MQTT", 3, 2, &[id()]), Refused(1)),
        row("C-10 bridge bit on 3.1", Stranger, connect_with("MQIsdp", 0x83, 2, &[id()]), TurnedAway),
        row("C-10 bridge bit on 3.1.1", Stranger, connect_with("MQTT", 0x84, 2, &[id()]), TurnedAway),
        row(
            "C-16 3.1 with an id of 24 bytes",
            Stranger,
            Connect::new(V31, "x".repeat(24)).user("x").bytes(),
            Refused(2),
        ),
        row("C-16 3.1 with an empty id", Stranger, Connect::new(V31, "").user("x").bytes(), Refused(2)),
    ];
    for name in ["", "MQT", "MQTTT", "mqtt", "MQIsdq", "AMQP", "MQTT\0"] {
        let bytes = connect_with(name, 4, 2, &[id()]);
        rows.push(row(format!("C-10 named {name:?} [MQTT-3.1.2-1]"), Stranger, bytes, Closed));
    }
    run(&rows);
}
