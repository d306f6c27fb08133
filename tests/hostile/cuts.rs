//! Every packet cut at every byte, split at every byte, and with every bit turned.

use crate::{
    support::{
        broker::Setup,
        chance::Chance,
        client::{Client, Event},
        packets::{Connect, Publish},
        wait::SOON,
        wire::{PINGREQ, Reply, TELEMETRY, VERSIONS, Version, packet, publish, subscribe, unsubscribe},
    },
    table::{Mine, Sender},
};

use Sender::{Online, Stranger};
use Version::V5;

/// A CONNECT with all there can be in one.
fn full_connect(version: Version, token: &str) -> Vec<u8> {
    let connect = Connect::new(version, "mallory")
        .user(token)
        .password("secret")
        .will(Publish::new(TELEMETRY, "{w:1}").qos(1, 0));
    let connect = if version == V5 { connect.properties(&[0x11, 0, 0, 0, 0, 0x21, 0, 9]) } else { connect };
    connect.bytes()
}

/// What a device that is let in may send, and what comes back.
fn conversation(version: Version) -> Vec<(Vec<u8>, u8)> {
    vec![
        (publish(version, TELEMETRY, 1, 0x0102, r#"{"split":1}"#), 0x40),
        (subscribe(version, 0x0103, &[("a/b", 0), ("c/+", 1)]), 0x90),
        (unsubscribe(version, 0x0104, &["a/b", "c/+"]), 0xB0),
        (PINGREQ.to_vec(), 0xD0),
    ]
}

#[test]
fn a_12_every_cut_of_a_connect_followed_by_fin_ends_the_connection() {
    let mut mine = Mine::open(Setup::new());
    for version in VERSIONS {
        let connect = full_connect(version, &mine.device.token);
        for cut in 0..connect.len() {
            let mut client = mine.connection(Stranger);
            client.send(&connect[..cut]);
            client.finish_sending();
            assert_eq!(client.until_closed(SOON), [], "{version:?} cut at {cut}");
        }
        mine.canary_sings("cut CONNECTs");
    }
    mine.close(400);
}

#[test]
fn every_cut_of_every_other_packet_followed_by_fin_ends_the_connection() {
    let mut mine = Mine::open(Setup::new());
    for version in VERSIONS {
        for (bytes, _) in conversation(version) {
            for cut in 0..bytes.len() {
                let mut client = mine.connection(Online(version));
                client.send(&bytes[..cut]);
                client.finish_sending();
                let replies = client.until_closed(SOON);
                let words: Vec<&Reply> =
                    replies.iter().filter(|reply| reply.disconnect().is_none()).collect();
                assert!(words.is_empty(), "{version:?} {bytes:02X?} cut at {cut}: {words:02X?}");
            }
        }
        mine.canary_sings("cut packets");
    }
    assert_eq!(mine.broker.telemetry().len(), 0);
    mine.close(400);
}

#[test]
fn a_packet_may_come_in_two_pieces_split_anywhere() {
    let mut mine = Mine::open(Setup::new());
    for version in VERSIONS {
        let connect = full_connect(version, &mine.device.token);
        for split in 1..connect.len() {
            let mut client = mine.connection(Stranger);
            client.send(&connect[..split]);
            // Once the canary has its answer, the broker has seen the first piece.
            mine.canary_sings("half a CONNECT");
            client.send(&connect[split..]);
            assert_eq!(client.packet().connack(), Some(0), "{version:?} CONNECT split at {split}");
            client.send(&packet(0xE0, &[]));
            client.until_closed(SOON);
        }
        let mut client = mine.connection(Online(version));
        for (bytes, answer) in conversation(version) {
            for split in 1..bytes.len() {
                client.send(&bytes[..split]);
                mine.canary_sings("half a packet");
                client.send(&bytes[split..]);
                assert_eq!(client.packet().first, answer, "{version:?} {bytes:02X?} split at {split}");
            }
        }
    }
    mine.close(400);
}

#[test]
fn a_conversation_may_come_byte_by_byte_or_all_at_once() {
    let mut mine = Mine::open(Setup::new());
    for version in VERSIONS {
        let mut bytes = full_connect(version, &mine.device.token);
        let mut expected = vec![0x20];
        for (packet, answer) in conversation(version) {
            bytes.extend(packet);
            expected.push(answer);
        }
        // A PINGRESP waits for nothing and may overtake acknowledgements that wait for the disk.
        expected.sort_unstable();
        for chunk in [1, 2, 3, 7, bytes.len()] {
            let mut client = mine.connection(Stranger);
            for piece in bytes.chunks(chunk) {
                client.send(piece);
                if chunk == 1 {
                    mine.canary_sings("one byte");
                }
            }
            let mut answers: Vec<u8> = expected.iter().map(|_| client.packet().first).collect();
            assert_eq!(answers[0], 0x20, "the CONNACK comes first [MQTT-3.2.0-1]");
            answers.sort_unstable();
            assert_eq!(answers, expected, "{version:?} in pieces of {chunk}");
        }
    }
    mine.close(400);
}

#[test]
fn every_turned_bit_of_every_packet_is_survived() {
    let mut mine = Mine::open(Setup::new());
    for version in VERSIONS {
        let mut starts = vec![(Stranger, full_connect(version, &mine.device.token))];
        starts.extend(conversation(version).into_iter().map(|(bytes, _)| (Online(version), bytes)));
        for (from, bytes) in starts {
            for bit in 0..bytes.len() * 8 {
                let mut turned = bytes.clone();
                turned[bit / 8] ^= 1 << (bit % 8);
                survive(&mut mine.connection(from), &turned);
            }
            mine.canary_sings("turned bits");
        }
    }
    mine.close(2000);
}

#[test]
fn a_94_noise_is_survived() {
    let mut chance = Chance::of_today();
    let mut mine = Mine::open(Setup::new());
    for round in 0..1500 {
        let from = match chance.below(4) {
            0 => Stranger,
            n => Online(VERSIONS[n as usize - 1]),
        };
        let length = chance.below(200) as usize;
        let mut noise = chance.bytes(length);
        if round % 2 == 0 && noise.len() > 1 {
            // A believable length makes it past the frame and into the packets' own rules.
            noise[1] = (noise.len() - 2) as u8 & 0x7F;
        }
        survive(&mut mine.connection(from), &noise);
        if round % 50 == 0 {
            mine.canary_sings("noise");
        }
    }
    mine.close(2000);
}

/// Whatever is answered, the connection comes to an end once the sender has.
fn survive(client: &mut Client, bytes: &[u8]) {
    client.send(bytes);
    client.finish_sending();
    loop {
        match client.next(SOON) {
            Event::Packet(_) => {}
            Event::Closed => return,
            Event::Silence => panic!("still open after FIN: {bytes:02X?}"),
        }
    }
}
