//! Each rule broken once, on bytes written out by hand.

use super::*;
use DecodeError as E;
use ProtocolVersion::{V5, V31, V311};

const CONNECT: u8 = 0x10;
const SUBSCRIBE: u8 = 0x82;
const UNSUBSCRIBE: u8 = 0xA2;

fn connect_v311(flags: u8, payload: &[u8]) -> DecodeError {
    refusal(CONNECT, &[b"\0\x04MQTT\x04", &[flags, 0, 60][..], payload].concat(), V311)
}

fn publish_v5(properties: &[u8]) -> DecodeError {
    let body = [b"\0\x01t", &[properties.len() as u8][..], properties].concat();
    refusal(0x30, &body, V5)
}

fn connect_v5(properties: &[u8]) -> DecodeError {
    let length = [properties.len() as u8];
    refusal(CONNECT, &[b"\0\x04MQTT\x05\x02\0\x3C", &length[..], properties, b"\0\x01i"].concat(), V5)
}

#[test]
fn a_packet_type_of_zero_is_refused() {
    assert_eq!(refusal(0x00, b"", V311), E::PacketTypeZero);
}

#[test]
fn header_flags_the_packet_does_not_have_are_refused_mqtt_2_2_2_2() {
    assert_eq!(refusal(0x80, b"\0\x01\0\x01a\0", V311), E::HeaderFlags(PacketType::Subscribe));
    assert_eq!(refusal(0xE1, b"", V5), E::HeaderFlags(PacketType::Disconnect));
}

#[test]
fn publish_of_qos_3_is_refused_mqtt_3_3_1_4() {
    assert_eq!(refusal(0x36, b"\0\x01a\0\x01", V311), E::PublishQoS3);
}

#[test]
fn publish_of_qos_3_is_refused_by_decode_alone_too_mqtt_3_3_1_4() {
    let header = Header { packet_type: PacketType::Publish, flags: 0b0110, header_bytes: 2, body_bytes: 5 };
    assert_eq!(decode(header, b"\0\x01a\0\x01", V311), Err(E::PublishQoS3));
}

#[test]
fn publish_of_qos_0_with_dup_is_refused_mqtt_3_3_1_2() {
    assert_eq!(refusal(0x38, b"\0\x01a", V311), E::DupWithQoS0);
}

#[test]
fn auth_is_refused_before_5_0() {
    for version in [V31, V311] {
        assert_eq!(refusal(0xF0, b"", version), E::NotInVersion(PacketType::Auth));
        let auth = Packet::Auth(Auth { reason: ReasonCode::Success, properties: Properties::EMPTY });
        let mut out = vec![9];
        let refused = encode(&auth, version, &mut out);
        assert_eq!(refused, Err(EncodeError::NotInVersion(PacketType::Auth, version)));
        assert_eq!(out, [9], "nothing is written");
    }
}

#[test]
fn a_length_of_five_bytes_is_refused() {
    assert_eq!(decode_frame(b"\x10\xFF\xFF\xFF\xFF\x01", V5), Err(E::VarintTooLong));
    assert_eq!(refusal(0x30, b"\0\x01t\x80\x80\x80\x80\x01", V5), E::VarintTooLong);
    assert_eq!(publish_v5(b"\x0B\xFF\xFF\xFF\xFF\x7F"), E::VarintTooLong);
}

#[test]
fn a_length_that_is_not_minimal_is_refused_mqtt_1_5_5_1() {
    assert_eq!(decode_frame(b"\xC0\x80\x00", V5), Err(E::VarintNotMinimal));
    assert_eq!(decode_frame(b"\xC0\x80\x00", V311), Ok(Some(Packet::PingReq)));
    assert_eq!(refusal(0x30, b"\0\x01t\x80\x00", V5), E::VarintNotMinimal);
    assert_eq!(publish_v5(b"\x0B\x81\x00"), E::VarintNotMinimal);
    assert_eq!(publish_v5(b"\x81\x00\x01"), E::VarintNotMinimal);
}

#[test]
fn a_packet_that_ends_early_is_refused() {
    assert_eq!(refusal(CONNECT, b"", V311), E::BodyTooShort);
    assert_eq!(refusal(0x40, b"\x01", V311), E::BodyTooShort);
    assert_eq!(refusal(SUBSCRIBE, b"\0\x01\0\x01a", V311), E::BodyTooShort);
    assert_eq!(refusal(0x20, b"\0\0", V5), E::BodyTooShort);
    assert_eq!(refusal(0xF0, b"\x18", V5), E::BodyTooShort);
}

#[test]
fn a_user_name_that_is_announced_and_missing_is_refused_in_every_version() {
    assert_eq!(refusal(CONNECT, b"\0\x06MQIsdp\x03\x82\0\x3C\0\x01i", V31), E::BodyTooShort);
    assert_eq!(connect_v311(0x82, b"\0\x01i"), E::BodyTooShort);
    assert_eq!(connect_v311(0xC2, b"\0\x01i\0\x01u"), E::BodyTooShort);
}

#[test]
fn a_text_longer_than_its_packet_is_refused() {
    assert_eq!(refusal(0x30, b"\xFF\xFFabcde", V311), E::FieldPastEnd);
    assert_eq!(connect_v311(0x02, b"\0\x02i"), E::FieldPastEnd);
}

#[test]
fn a_packet_that_goes_on_is_refused() {
    assert_eq!(connect_v311(0x02, b"\0\x01i\0"), E::TrailingBytes);
    assert_eq!(refusal(0xC0, b"\0", V311), E::TrailingBytes);
    assert_eq!(refusal(0xD0, b"\0", V5), E::TrailingBytes);
    assert_eq!(refusal(0x40, b"\0\x01\0", V311), E::TrailingBytes);
    assert_eq!(refusal(0x40, b"\0\x01\0\0\0", V5), E::TrailingBytes);
    assert_eq!(refusal(0xE0, b"\0", V311), E::TrailingBytes);
    assert_eq!(refusal(0xB0, b"\0\x01\0", V311), E::TrailingBytes);
    assert_eq!(refusal(0x20, b"\0\0\0", V311), E::TrailingBytes);
}

#[test]
fn texts_that_are_not_utf8_are_refused_in_every_field_mqtt_1_5_3_1() {
    assert_eq!(refusal(0x30, b"\0\x02\xC0\x80", V311), E::NotUtf8);
    assert_eq!(connect_v311(0x02, b"\0\x03\xED\xA0\x80"), E::NotUtf8);
    assert_eq!(connect_v311(0x82, b"\0\0\0\x01\xFF"), E::NotUtf8);
    assert_eq!(connect_v311(0x06, b"\0\0\0\x01\xFF\0\0"), E::NotUtf8);
    assert_eq!(refusal(SUBSCRIBE, b"\0\x01\0\x01\x80\0", V311), E::NotUtf8);
    assert_eq!(refusal(UNSUBSCRIBE, b"\0\x01\0\x01\x80", V311), E::NotUtf8);
    assert_eq!(publish_v5(b"\x03\0\x01\xFF"), E::NotUtf8);
    assert_eq!(publish_v5(b"\x26\0\x01k\0\x01\xFF"), E::NotUtf8);
}

#[test]
fn nul_characters_are_refused_in_every_field_mqtt_1_5_3_2() {
    assert_eq!(refusal(0x30, b"\0\x02a\0", V311), E::NulCharacter);
    assert_eq!(connect_v311(0x02, b"\0\x01\0"), E::NulCharacter);
    assert_eq!(connect_v311(0x82, b"\0\0\0\x01\0"), E::NulCharacter);
    assert_eq!(refusal(SUBSCRIBE, b"\0\x01\0\x01\0\0", V311), E::NulCharacter);
    assert_eq!(publish_v5(b"\x26\0\x01\0\0\0"), E::NulCharacter);
}

#[test]
fn control_characters_are_refused_in_names_1_5_4() {
    assert_eq!(refusal(0x30, b"\0\x02a\n", V311), E::ForbiddenCharacter);
    assert_eq!(connect_v311(0x02, b"\0\x01\x1F"), E::ForbiddenCharacter);
    assert_eq!(connect_v311(0x82, b"\0\0\0\x01\x7F"), E::ForbiddenCharacter);
    assert_eq!(connect_v311(0x06, b"\0\0\0\x02\xC2\x9F\0\0"), E::ForbiddenCharacter);
    assert_eq!(refusal(UNSUBSCRIBE, b"\0\x01\0\x03\xEF\xBF\xBF", V311), E::ForbiddenCharacter);
    assert_eq!(publish_v5(b"\x08\0\x01\x01"), E::ForbiddenCharacter);
    let bytes = framed(0x30, b"\0\x01t\x0B\x26\0\x01\n\0\x01\r\x03\0\x01\t");
    assert!(decode_frame(&bytes, V5).is_ok(), "user properties and content types may hold them");
}

#[test]
fn publish_with_packet_id_zero_is_refused_mqtt_2_3_1_1() {
    for version in [V31, V311, V5] {
        assert_eq!(refusal(0x32, b"\0\x01a\0\0\0", version), E::PacketIdZero);
    }
}

#[test]
fn every_other_packet_with_packet_id_zero_is_refused_mqtt_2_3_1_1() {
    for first in [0x40, 0x50, 0x62, 0x70, 0x82, 0x90, 0xA2, 0xB0] {
        assert_eq!(refusal(first, b"\0\0", V311), E::PacketIdZero, "{first:#x}");
    }
}

#[test]
fn topic_names_that_are_none_are_refused_mqtt_3_3_2_2_and_4_7_3_1() {
    assert_eq!(refusal(0x30, b"\0\x03a/+", V311), E::TopicName(TopicError::WildcardInName));
    assert_eq!(refusal(0x30, b"\0\0", V311), E::TopicName(TopicError::Empty));
    assert_eq!(refusal(0x30, b"\0\0\0", V5), E::TopicName(TopicError::Empty));
    assert_eq!(refusal(0x30, b"\0\x01#\x03\x23\0\x01", V5), E::TopicName(TopicError::WildcardInName));
    assert_eq!(connect_v311(0x06, b"\0\0\0\x01#\0\0"), E::TopicName(TopicError::WildcardInName));
    assert_eq!(connect_v311(0x06, b"\0\0\0\0\0\0"), E::TopicName(TopicError::Empty));
}

#[test]
fn topic_filters_that_are_none_are_refused_mqtt_4_7_1_2_and_4_7_1_3() {
    assert_eq!(refusal(SUBSCRIBE, b"\0\x01\0\x02a#\0", V311), E::TopicFilter(TopicError::HashMisplaced));
    assert_eq!(refusal(SUBSCRIBE, b"\0\x01\0\x02a+\0", V311), E::TopicFilter(TopicError::PlusMisplaced));
    assert_eq!(refusal(SUBSCRIBE, b"\0\x01\0\0\0", V311), E::TopicFilter(TopicError::Empty));
    assert_eq!(refusal(UNSUBSCRIBE, b"\0\x01\0\0", V311), E::TopicFilter(TopicError::Empty));
}

#[test]
fn a_protocol_that_is_not_mqtt_is_refused_mqtt_3_1_2_1() {
    for body in [&b"\0\x04mqtt\x04\x02\0\0\0\0"[..], b"\0\x04HTTP", b"\0\0\x04", b"\0\x05MQTT\0\x04"] {
        assert_eq!(refusal(CONNECT, body, V311), E::UnknownProtocolName);
    }
}

#[test]
fn a_level_not_spoken_here_is_told_apart_mqtt_3_1_2_2() {
    for (body, level) in [
        (&b"\0\x04MQTT\x06\xFF"[..], 6),
        (b"\0\x04MQTT\x03\x02\0\0\0\0", 3),
        (b"\0\x06MQIsdp\x04\x02\0\0\0\0", 4),
        (b"\0\x04MQTT\x84\x02\0\0\0\0", 0x84),
    ] {
        assert_eq!(refusal(CONNECT, body, V311), E::UnsupportedProtocolLevel(level));
    }
}

#[test]
fn the_reserved_flag_of_connect_is_refused_mqtt_3_1_2_3() {
    assert_eq!(connect_v311(0x03, b"\0\x01i"), E::ConnectReservedFlag);
}

#[test]
fn a_will_qos_without_a_will_is_refused_mqtt_3_1_2_13() {
    for flags in [0x0A, 0x12, 0x1A] {
        assert_eq!(connect_v311(flags, b"\0\x01i"), E::WillQoSWithoutWill);
    }
}

#[test]
fn will_retain_without_a_will_is_refused_mqtt_3_1_2_15() {
    assert_eq!(connect_v311(0x22, b"\0\x01i"), E::WillRetainWithoutWill);
}

#[test]
fn a_will_of_qos_3_is_refused_mqtt_3_1_2_14() {
    assert_eq!(connect_v311(0x1E, b"\0\x01i\0\x01t\0\0"), E::WillQoS3);
    assert_eq!(refusal(CONNECT, b"\0\x06MQIsdp\x03\x1E\0\x3C\0\x01i\0\x01t\0\0", V31), E::WillQoS3);
}

#[test]
fn a_password_without_a_user_name_is_refused_before_5_0_mqtt_3_1_2_22() {
    assert_eq!(connect_v311(0x42, b"\0\x01i\0\x01p"), E::PasswordWithoutUserName);
    let old = refusal(CONNECT, b"\0\x06MQIsdp\x03\x42\0\x3C\0\x01i\0\x01p", V31);
    assert_eq!(old, E::PasswordWithoutUserName);
}

#[test]
fn reserved_flags_of_connack_are_refused_mqtt_3_2_2_1_of_5_0() {
    assert_eq!(refusal(0x20, b"\x02\0", V311), E::ConnAckFlags);
    assert_eq!(refusal(0x20, b"\x81\0\0", V5), E::ConnAckFlags);
}

#[test]
fn reason_codes_the_packet_cannot_carry_are_refused_mqtt_3_6_2_1() {
    assert_eq!(refusal(0x62, b"\0\x01\x91", V5), E::ReasonCode(PacketType::PubRel, 0x91));
    assert_eq!(refusal(0x40, b"\0\x01\x92", V5), E::ReasonCode(PacketType::PubAck, 0x92));
    assert_eq!(refusal(0x40, b"\0\x01\x03", V5), E::ReasonCode(PacketType::PubAck, 0x03));
    assert_eq!(refusal(0x90, b"\0\x01\0\x03", V5), E::ReasonCode(PacketType::SubAck, 0x03));
    assert_eq!(refusal(0xE0, b"\x84", V5), E::ReasonCode(PacketType::Disconnect, 0x84));
    assert_eq!(refusal(0xF0, b"\x80\0", V5), E::ReasonCode(PacketType::Auth, 0x80));
    assert_eq!(refusal(0x20, b"\0\x01\0", V5), E::ReasonCode(PacketType::ConnAck, 0x01));
}

#[test]
fn every_reason_code_is_accepted_exactly_where_it_is_defined() {
    for (first, packet_type) in
        [(0x40, PacketType::PubAck), (0x50, PacketType::PubRec), (0x62, PacketType::PubRel)]
    {
        for byte in 0..=u8::MAX {
            let defined = ReasonCode::from_byte(byte).is_some_and(|code| code.is_defined_in(packet_type));
            let bytes = framed(first, &[0, 1, byte]);
            assert_eq!(decode_frame(&bytes, V5).is_ok(), defined, "{byte:#x} in {packet_type}");
        }
    }
}

#[test]
fn return_codes_before_5_0_are_few_mqtt_3_9_3_2() {
    assert_eq!(refusal(0x20, b"\0\x06", V311), E::ReasonCode(PacketType::ConnAck, 6));
    assert_eq!(refusal(0x90, b"\0\x01\x03", V311), E::ReasonCode(PacketType::SubAck, 3));
    assert_eq!(refusal(0x90, b"\0\x01\x87", V311), E::ReasonCode(PacketType::SubAck, 0x87));
}

#[test]
fn suback_and_unsuback_without_codes_are_refused_mqtt_3_8_4_5() {
    assert_eq!(refusal(0x90, b"\0\x01", V311), E::NoReasonCodes(PacketType::SubAck));
    assert_eq!(refusal(0x90, b"\0\x01\0", V5), E::NoReasonCodes(PacketType::SubAck));
    assert_eq!(refusal(0xB0, b"\0\x01\0", V5), E::NoReasonCodes(PacketType::UnsubAck));
}

#[test]
fn subscribe_and_unsubscribe_without_filters_are_refused_mqtt_3_8_3_3_and_3_10_3_2() {
    assert_eq!(refusal(SUBSCRIBE, b"\0\x01", V311), E::NoFilters(PacketType::Subscribe));
    assert_eq!(refusal(SUBSCRIBE, b"\0\x01\0", V5), E::NoFilters(PacketType::Subscribe));
    assert_eq!(refusal(UNSUBSCRIBE, b"\0\x01", V311), E::NoFilters(PacketType::Unsubscribe));
}

#[test]
fn reserved_bits_of_subscription_options_are_refused_mqtt_3_8_3_4() {
    for bit in 2..8 {
        let body = [b"\0\x01\0\x01a", &[1 << bit][..]].concat();
        assert_eq!(refusal(SUBSCRIBE, &body, V311), E::SubscribeOptionsReserved);
    }
    assert_eq!(refusal(SUBSCRIBE, b"\0\x01\0\0\x01a\x40", V5), E::SubscribeOptionsReserved);
    assert_eq!(refusal(SUBSCRIBE, b"\0\x01\0\0\x01a\x80", V5), E::SubscribeOptionsReserved);
}

#[test]
fn a_subscription_of_qos_3_is_refused_mqtt_3_8_3_4() {
    assert_eq!(refusal(SUBSCRIBE, b"\0\x01\0\x01a\x03", V311), E::SubscribeQoS3);
    assert_eq!(refusal(SUBSCRIBE, b"\0\x01\0\0\x01a\x03", V5), E::SubscribeQoS3);
}

#[test]
fn retain_handling_3_is_refused() {
    assert_eq!(refusal(SUBSCRIBE, b"\0\x01\0\0\x01a\x30", V5), E::RetainHandling3);
}

#[test]
fn no_local_on_a_shared_subscription_is_refused_mqtt_3_8_3_4_of_5_0() {
    assert_eq!(refusal(SUBSCRIBE, b"\0\x01\0\0\x0A$share/g/a\x04", V5), E::NoLocalOnShared);
}

#[test]
fn properties_longer_than_their_packet_are_refused() {
    assert_eq!(refusal(0x30, b"\0\x01t\x05\x01\x00", V5), E::PropertiesPastEnd);
    assert_eq!(refusal(0xE0, b"\0\x01", V5), E::PropertiesPastEnd);
}

#[test]
fn properties_that_end_in_the_middle_of_one_are_refused() {
    assert_eq!(publish_v5(b"\x26\0\x01k"), E::PropertyCutShort);
    assert_eq!(publish_v5(b"\x26\0\x01k\0"), E::PropertyCutShort);
    assert_eq!(publish_v5(b"\x26\0\x01k\0\x02v"), E::PropertyCutShort);
    assert_eq!(publish_v5(b"\x02\0\0\0"), E::PropertyCutShort);
    assert_eq!(publish_v5(b"\x0B\x80"), E::PropertyCutShort);
    assert_eq!(publish_v5(b"\x01"), E::PropertyCutShort);
}

#[test]
fn a_property_nobody_knows_is_refused() {
    assert_eq!(publish_v5(b"\x04\0"), E::PropertyUnknown(4));
    assert_eq!(publish_v5(b"\x81\x01"), E::PropertyUnknown(129));
}

#[test]
fn a_property_of_another_packet_is_refused() {
    let place = PropertyPlace::Packet(PacketType::Publish);
    assert_eq!(publish_v5(b"\x21\0\x01"), E::PropertyNotAllowed(PropertyId::ReceiveMaximum, place));
    let body = b"\0\x04MQTT\x05\x06\0\x3C\0\0\x01i\x02\x17\x01\0\x01t\0\0";
    let expected = E::PropertyNotAllowed(PropertyId::RequestProblemInformation, PropertyPlace::Will);
    assert_eq!(refusal(CONNECT, body, V5), expected);
}

#[test]
fn a_property_said_twice_is_refused() {
    assert_eq!(publish_v5(b"\x01\0\x01\0"), E::PropertyTwice(PropertyId::PayloadFormatIndicator));
    assert_eq!(publish_v5(b"\x23\0\x01\x23\0\x02"), E::PropertyTwice(PropertyId::TopicAlias));
}

#[test]
fn properties_that_must_not_be_zero_are_refused() {
    assert_eq!(connect_v5(b"\x21\0\0"), E::PropertyZero(PropertyId::ReceiveMaximum));
    assert_eq!(connect_v5(b"\x27\0\0\0\0"), E::PropertyZero(PropertyId::MaximumPacketSize));
    assert_eq!(publish_v5(b"\x23\0\0"), E::PropertyZero(PropertyId::TopicAlias));
    let subscribe = refusal(SUBSCRIBE, b"\0\x01\x02\x0B\0\0\x01a\0", V5);
    assert_eq!(subscribe, E::PropertyZero(PropertyId::SubscriptionIdentifier));
}

#[test]
fn flags_that_are_neither_0_nor_1_are_refused() {
    assert_eq!(publish_v5(b"\x01\x02"), E::PropertyValue(PropertyId::PayloadFormatIndicator));
    assert_eq!(connect_v5(b"\x17\x02"), E::PropertyValue(PropertyId::RequestProblemInformation));
    assert_eq!(connect_v5(b"\x19\xFF"), E::PropertyValue(PropertyId::RequestResponseInformation));
    for (number, id) in [
        (0x24, PropertyId::MaximumQoS),
        (0x25, PropertyId::RetainAvailable),
        (0x28, PropertyId::WildcardSubscriptionAvailable),
        (0x29, PropertyId::SubscriptionIdentifierAvailable),
        (0x2A, PropertyId::SharedSubscriptionAvailable),
    ] {
        assert_eq!(refusal(0x20, &[0, 0, 2, number, 2], V5), E::PropertyValue(id));
    }
}

#[test]
fn authentication_data_without_a_method_are_refused() {
    assert_eq!(connect_v5(b"\x16\0\x01d"), E::AuthDataWithoutMethod);
    assert_eq!(refusal(0xF0, b"\x18\x04\x16\0\x01d", V5), E::AuthDataWithoutMethod);
}

#[test]
fn auth_without_a_method_is_refused() {
    assert_eq!(refusal(0xF0, b"\x18\0", V5), E::AuthMethodMissing);
    assert_eq!(refusal(0xF0, b"\x00\x04\x1F\0\x01r", V5), E::AuthMethodMissing);
}

#[test]
fn a_response_topic_that_is_none_is_refused_mqtt_3_3_2_14() {
    assert_eq!(publish_v5(b"\x08\0\x01#"), E::ResponseTopic(TopicError::WildcardInName));
    assert_eq!(publish_v5(b"\x08\0\x03a/+"), E::ResponseTopic(TopicError::WildcardInName));
    assert_eq!(publish_v5(b"\x08\0\0"), E::ResponseTopic(TopicError::Empty));
}

#[test]
fn a_server_says_malformed_or_protocol_error_as_the_standard_does_4_13() {
    let id = PropertyId::TopicAlias;
    for (error, code) in [
        (E::VarintNotMinimal, ReasonCode::MalformedPacket),
        (E::PropertiesPastEnd, ReasonCode::MalformedPacket),
        (E::PropertyCutShort, ReasonCode::MalformedPacket),
        (E::PropertyUnknown(4), ReasonCode::MalformedPacket),
        (E::NotUtf8, ReasonCode::MalformedPacket),
        (E::PublishQoS3, ReasonCode::MalformedPacket),
        (E::SubscribeOptionsReserved, ReasonCode::MalformedPacket),
        (E::ConnectReservedFlag, ReasonCode::MalformedPacket),
        (E::PropertyTwice(id), ReasonCode::ProtocolError),
        (E::PropertyNotAllowed(id, PropertyPlace::Will), ReasonCode::MalformedPacket),
        (E::DupWithQoS0, ReasonCode::MalformedPacket),
        (E::MalformedShare, ReasonCode::MalformedPacket),
        (E::TopicFilter(TopicError::Empty), ReasonCode::MalformedPacket),
        (E::PropertyZero(id), ReasonCode::TopicAliasInvalid),
        (E::PropertyZero(PropertyId::ReceiveMaximum), ReasonCode::ProtocolError),
        (E::PropertyValue(id), ReasonCode::ProtocolError),
        (E::AuthDataWithoutMethod, ReasonCode::ProtocolError),
        (E::ResponseTopic(TopicError::WildcardInName), ReasonCode::ProtocolError),
        (E::TopicName(TopicError::Empty), ReasonCode::ProtocolError),
        (E::NoFilters(PacketType::Subscribe), ReasonCode::ProtocolError),
        (E::RetainHandling3, ReasonCode::ProtocolError),
        (E::NoLocalOnShared, ReasonCode::ProtocolError),
        (E::TopicName(TopicError::WildcardInName), ReasonCode::MalformedPacket),
        (E::TopicFilter(TopicError::HashMisplaced), ReasonCode::MalformedPacket),
        (E::UnsupportedProtocolLevel(6), ReasonCode::UnsupportedProtocolVersion),
        (E::UnknownProtocolName, ReasonCode::UnsupportedProtocolVersion),
    ] {
        assert_eq!(error.reason_code(), code, "{error}");
    }
}

#[test]
fn errors_say_what_they_are_and_cite_the_standard() {
    let error = E::PropertyNotAllowed(PropertyId::TopicAlias, PropertyPlace::Will);
    assert_eq!(error.to_string(), "the property Topic Alias in the will of CONNECT");
    assert_eq!(E::ReasonCode(PacketType::PubRel, 0x91).to_string(), "code 0x91, which PUBREL cannot carry");
    assert_eq!(E::ReasonCode(PacketType::PubRel, 0x91).clause(), "MQTT-3.6.2-1 of 5.0");
    assert_eq!(E::PacketIdZero.clause(), "MQTT-2.3.1-1");
    assert_eq!(E::TopicFilter(TopicError::PlusMisplaced).clause(), "MQTT-4.7.1-3");
    assert_eq!(E::PropertyValue(PropertyId::MaximumQoS).clause(), "§3.2.2.3.4 of 5.0");
    let error = EncodeError::NotInVersion(PacketType::Auth, V311);
    assert_eq!(error.to_string(), "cannot encode AUTH: level 4 of the protocol does not have it");
}

#[test]
fn what_the_protocol_cannot_carry_is_not_begun() {
    let long = "x".repeat(65_536);
    let connect = Connect {
        version: V311,
        clean: true,
        keep_alive_s: 0,
        client_id: &long,
        will: None,
        user_name: None,
        password: None,
        properties: Properties::EMPTY,
    };
    let mut out = vec![1, 2];
    assert_eq!(encode(&Packet::Connect(connect), V311, &mut out), Err(EncodeError::TooLarge));
    assert_eq!(out, [1, 2]);
    assert_eq!(EncodeError::TooLarge.to_string(), "cannot encode a packet larger than the protocol allows");
}

#[test]
fn a_body_no_length_can_say_is_not_begun() {
    // The body is counted, never written: 4,097 times one filter of 65,533 bytes.
    let long = "x".repeat(65_533);
    let filters = vec![filter(&long); 4097];
    let unsubscribe = Unsubscribe { packet_id: id(1), properties: Properties::EMPTY, filters };
    let mut out = Vec::new();
    assert_eq!(encode(&Packet::Unsubscribe(unsubscribe), V311, &mut out), Err(EncodeError::TooLarge));
    assert!(out.is_empty() && out.capacity() == 0);
}
