//! Made-up packets, the same for the same seed.

use super::*;

/// A small generator of chance (xorshift64*).
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    pub(super) fn next(&mut self) -> u32 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 32) as u32
    }

    pub(super) fn below(&mut self, bound: u32) -> u32 {
        self.next() % bound
    }

    fn coin(&mut self) -> bool {
        self.below(2) == 1
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u32) as usize]
    }
}

/// What borrowed packets borrow from.
#[derive(Default)]
pub(super) struct Backing {
    text: String,
    bytes: Vec<u8>,
    properties: PropertiesBuf,
    will_properties: PropertiesBuf,
}

const NAMES: [&str; 8] = ["t", "a/b", "/", "v1/devices/me/telemetry", "$SYS/x", "ä/ポ//", " ", "\u{FEFF}a"];
const FILTERS: [&str; 9] = [
    "t",
    "a/+",
    "#",
    "+/+/#",
    "$share/g/a/#",
    "$share/x/t",
    "$share/y//",
    "ü/+",
    "v1/devices/me/rpc/request/+",
];

impl Backing {
    /// New contents for the next packet: texts without control characters, bytes of all kinds.
    pub(super) fn refill(&mut self, random: &mut Random, packet_type: PacketType) {
        let letters = ['a', 'Z', '0', 'é', 'ポ', '𝄞', ' ', '-'];
        let length = random_length(random);
        self.text = (0..length).map(|_| random.pick(&letters)).collect();
        let length = random_length(random);
        self.bytes = (0..length).map(|_| random.next() as u8).collect();
        self.properties = made_up_properties(random, PropertyPlace::Packet(packet_type));
        self.will_properties = made_up_properties(random, PropertyPlace::Will);
    }
}

/// Mostly short, sometimes long enough for lengths of two and three bytes.
fn random_length(random: &mut Random) -> u32 {
    let bound = random.pick(&[2, 8, 8, 8, 200, 20_000]);
    random.below(bound)
}

/// Made-up properties that `place` may carry.
fn made_up_properties(random: &mut Random, place: PropertyPlace) -> PropertiesBuf {
    let mut buf = PropertiesBuf::new();
    for id in PropertyId::ALL.iter().filter(|id| id.is_allowed_in(place)) {
        let times = if id.may_repeat_in(place) { random.below(3) } else { random.below(2) };
        (0..times).for_each(|_| buf.push(made_up_property(random, *id)));
    }
    let properties = buf.as_properties();
    let lacks_method = properties.authentication_method().is_none();
    let needs_method = properties.authentication_data().is_some()
        || place == PropertyPlace::Packet(PacketType::Auth) && random.below(4) > 0;
    if lacks_method && needs_method {
        buf.push(Property::AuthenticationMethod("m"));
    }
    buf
}

fn made_up_property(random: &mut Random, id: PropertyId) -> Property<'static> {
    use PropertyId as Id;
    let text = random.pick(&["", "x", "two\nlines", "ポ"]);
    let data: &[u8] = random.pick(&[&b""[..], b"\0", b"\xFF\xFE\xFD"]);
    let (flag, number) = (random.coin(), random.next());
    let short = number as u16;
    match id {
        Id::PayloadFormatIndicator => Property::PayloadFormatIndicator(flag),
        Id::MessageExpiryInterval => Property::MessageExpiryInterval(number),
        Id::ContentType => Property::ContentType(text),
        Id::ResponseTopic => Property::ResponseTopic(topic(random.pick(&NAMES))),
        Id::CorrelationData => Property::CorrelationData(data),
        Id::SubscriptionIdentifier => {
            Property::SubscriptionIdentifier(random.pick(&[1, 127, 128, 16_384, 268_435_455]))
        }
        Id::SessionExpiryInterval => Property::SessionExpiryInterval(number),
        Id::AssignedClientIdentifier => Property::AssignedClientIdentifier("assigned"),
        Id::ServerKeepAlive => Property::ServerKeepAlive(short),
        Id::AuthenticationMethod => Property::AuthenticationMethod(text),
        Id::AuthenticationData => Property::AuthenticationData(data),
        Id::RequestProblemInformation => Property::RequestProblemInformation(flag),
        Id::WillDelayInterval => Property::WillDelayInterval(number),
        Id::RequestResponseInformation => Property::RequestResponseInformation(flag),
        Id::ResponseInformation => Property::ResponseInformation(text),
        Id::ServerReference => Property::ServerReference(text),
        Id::ReasonString => Property::ReasonString(text),
        Id::ReceiveMaximum => Property::ReceiveMaximum(short.max(1)),
        Id::TopicAliasMaximum => Property::TopicAliasMaximum(short),
        Id::TopicAlias => Property::TopicAlias(short.max(1)),
        Id::MaximumQoS => Property::MaximumQoS(random.pick(&[QoS::AtMostOnce, QoS::AtLeastOnce])),
        Id::RetainAvailable => Property::RetainAvailable(flag),
        Id::UserProperty => Property::UserProperty(text, "v"),
        Id::MaximumPacketSize => Property::MaximumPacketSize(number.max(1)),
        Id::WildcardSubscriptionAvailable => Property::WildcardSubscriptionAvailable(flag),
        Id::SubscriptionIdentifierAvailable => Property::SubscriptionIdentifierAvailable(flag),
        Id::SharedSubscriptionAvailable => Property::SharedSubscriptionAvailable(flag),
    }
}

/// A packet with nothing in it that `version` could not say.
pub(super) fn made_up_packet<'a>(
    random: &mut Random,
    packet_type: PacketType,
    version: ProtocolVersion,
    backing: &'a Backing,
) -> Packet<'a> {
    let v5 = version == ProtocolVersion::V5;
    let properties = if v5 { backing.properties.as_properties() } else { Properties::EMPTY };
    let packet_id = id(random.next() as u16 | 1);
    let reason = made_up_reason(random, packet_type, version);
    match packet_type {
        PacketType::Connect => Packet::Connect(made_up_connect(random, version, properties, backing)),
        PacketType::ConnAck => {
            let session_present = random.coin() && version > ProtocolVersion::V31;
            Packet::ConnAck(ConnAck { session_present, reason, properties })
        }
        PacketType::Publish => Packet::Publish(made_up_publish(random, packet_id, properties, backing)),
        PacketType::PubAck => Packet::PubAck(Ack { packet_id, reason, properties }),
        PacketType::PubRec => Packet::PubRec(Ack { packet_id, reason, properties }),
        PacketType::PubRel => Packet::PubRel(Ack { packet_id, reason, properties }),
        PacketType::PubComp => Packet::PubComp(Ack { packet_id, reason, properties }),
        PacketType::Subscribe => {
            let filters = (0..=random.below(5)).map(|_| made_up_subscription(random, v5)).collect();
            Packet::Subscribe(Subscribe { packet_id, properties, filters })
        }
        PacketType::SubAck => {
            let more = (0..random.below(5)).map(|_| made_up_reason(random, packet_type, version));
            let reasons = more.chain([reason]).collect();
            Packet::SubAck(SubAck { packet_id, properties, reasons })
        }
        PacketType::Unsubscribe => {
            let filters = (0..=random.below(5)).map(|_| filter(random.pick(&FILTERS))).collect();
            Packet::Unsubscribe(Unsubscribe { packet_id, properties, filters })
        }
        PacketType::UnsubAck => {
            let reasons = if v5 { vec![reason; 1 + random.below(4) as usize] } else { vec![] };
            Packet::UnsubAck(UnsubAck { packet_id, properties, reasons })
        }
        PacketType::PingReq => Packet::PingReq,
        PacketType::PingResp => Packet::PingResp,
        PacketType::Disconnect => Packet::Disconnect(Disconnect { reason, properties }),
        PacketType::Auth => Packet::Auth(made_up_auth(reason, properties)),
    }
}

fn made_up_reason(random: &mut Random, packet_type: PacketType, version: ProtocolVersion) -> ReasonCode {
    let sayable = |code: &ReasonCode| match packet_type {
        _ if version == ProtocolVersion::V5 => code.is_defined_in(packet_type),
        PacketType::ConnAck => {
            ReasonCode::from_connack_return_code(code.connack_return_code()) == Some(*code)
        }
        PacketType::SubAck => code.is_defined_in(packet_type) && code.as_byte() <= 0x80,
        _ => *code == ReasonCode::Success,
    };
    let codes: Vec<_> = ReasonCode::ALL.iter().copied().filter(sayable).collect();
    if codes.is_empty() { ReasonCode::Success } else { random.pick(&codes) }
}

fn made_up_auth(reason: ReasonCode, properties: Properties<'_>) -> Auth<'_> {
    match properties.authentication_method() {
        Some(_) => Auth { reason, properties },
        None => Auth { reason: ReasonCode::Success, properties: Properties::EMPTY },
    }
}

fn made_up_connect<'a>(
    random: &mut Random,
    version: ProtocolVersion,
    properties: Properties<'a>,
    backing: &'a Backing,
) -> Connect<'a> {
    let v5 = version == ProtocolVersion::V5;
    let will_properties = if v5 { backing.will_properties.as_properties() } else { Properties::EMPTY };
    let will = Will {
        topic: topic(random.pick(&NAMES)),
        payload: &backing.bytes,
        qos: made_up_qos(random),
        retain: random.coin(),
        properties: will_properties,
    };
    let user_name = random.coin().then_some(backing.text.as_str());
    let password = (random.coin() && (v5 || user_name.is_some())).then_some(backing.bytes.as_slice());
    Connect {
        version,
        clean: random.coin(),
        keep_alive_s: random.next() as u16,
        client_id: &backing.text,
        will: random.coin().then_some(will),
        user_name,
        password,
        properties,
    }
}

fn made_up_publish<'a>(
    random: &mut Random,
    packet_id: PacketId,
    properties: Properties<'a>,
    backing: &'a Backing,
) -> Publish<'a> {
    let qos = made_up_qos(random);
    let only_alias = properties.topic_alias().is_some() && random.coin();
    Publish {
        dup: random.coin() && qos != QoS::AtMostOnce,
        qos,
        retain: random.coin(),
        topic: (!only_alias).then(|| topic(random.pick(&NAMES))),
        packet_id: (qos != QoS::AtMostOnce).then_some(packet_id),
        properties,
        payload: &backing.bytes,
    }
}

fn made_up_subscription(random: &mut Random, v5: bool) -> (TopicFilter<'static>, SubscriptionOptions) {
    let filter = filter(random.pick(&FILTERS));
    let plain = plain_options(made_up_qos(random));
    if !v5 {
        return (filter, plain);
    }
    let handling = [RetainHandling::Send, RetainHandling::SendIfNew, RetainHandling::DoNotSend];
    let options = SubscriptionOptions {
        no_local: random.coin() && filter.share().is_none(),
        retain_as_published: random.coin(),
        retain_handling: random.pick(&handling),
        ..plain
    };
    (filter, options)
}

fn made_up_qos(random: &mut Random) -> QoS {
    random.pick(&[QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce])
}
