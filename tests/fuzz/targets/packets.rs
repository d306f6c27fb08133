//! Bytes to packets, in every version: any bytes are decoded or refused, and what is decoded survives the way back.

use forebay::mqtt::{DecodeError, Header, Packet, ProtocolVersion, decode, encode, parse_header};

/// Reads `input` as a stream of packets, once for each version.
pub fn run(input: &[u8]) {
    for version in [ProtocolVersion::V31, ProtocolVersion::V311, ProtocolVersion::V5] {
        let mut rest = input;
        while let Ok(Some((header, frame))) = frame(rest, version) {
            rest = &rest[header.frame_bytes()..];
            // As a connection does it: the version of all that follows is the one its CONNECT named.
            if let Ok(packet) = decode(header, &frame[header.header_bytes..], version) {
                check_way_back(&packet, frame, version);
            }
        }
        check_header_alone(input, version);
    }
}

/// The first packet of `bytes`, if it is whole.
fn frame(bytes: &[u8], version: ProtocolVersion) -> Result<Option<(Header, &[u8])>, DecodeError> {
    let Some(header) = parse_header(bytes, version)? else { return Ok(None) };
    assert!((2..=5).contains(&header.header_bytes), "a header has 2 to 5 bytes");
    Ok(bytes.get(..header.frame_bytes()).map(|frame| (header, frame)))
}

fn check_way_back(packet: &Packet<'_>, frame: &[u8], version: ProtocolVersion) {
    // A CONNECT is written in the version it names.
    let version = match packet {
        Packet::Connect(connect) => connect.version,
        _ => version,
    };
    let mut bytes = Vec::new();
    encode(packet, version, &mut bytes).expect("what was decoded can be said");
    assert!(bytes.len() <= frame.len(), "we say nothing in more bytes than our peer did");
    let (header, body) = match parse_header(&bytes, version) {
        Ok(Some(header)) => (header, &bytes[header.header_bytes..]),
        other => panic!("our own header was not understood: {other:?}"),
    };
    assert_eq!(decode(header, body, version).as_ref(), Ok(packet), "encoding and decoding change nothing");
    let mut again = Vec::new();
    encode(packet, version, &mut again).expect("as before");
    assert_eq!(again, bytes, "the same packet is the same bytes");
}

/// A header is judged as soon as it can be: more bytes neither help it nor harm it.
fn check_header_alone(input: &[u8], version: ProtocolVersion) {
    let whole = parse_header(input, version);
    for cut in 0..input.len().min(6) {
        match parse_header(&input[..cut], version) {
            Ok(None) => {}
            early => assert_eq!(early, whole, "cut at {cut}"),
        }
    }
}
