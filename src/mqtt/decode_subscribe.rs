//! SUBSCRIBE and UNSUBSCRIBE: the packets that are lists of filters. [§3.8], [§3.10]
//!
//! A filter that is none closes the connection. So does one whose `$share` part is malformed, in 5.0; earlier versions do
//! not know of such a thing, and the list is delivered with it, to be answered filter by filter.

use nom::number::complete::be_u8;

use super::{
    error::DecodeError,
    packet::{PacketType, ProtocolVersion, QoS, RetainHandling, Subscribe, SubscriptionOptions, Unsubscribe},
    topic::TopicFilter,
    wire::{self, Parsed},
};

pub(super) const NO_LOCAL: u8 = 0b0000_0100;
pub(super) const RETAIN_AS_PUBLISHED: u8 = 0b0000_1000;
/// How far left of the lowest bit retain handling stands.
pub(super) const RETAIN_HANDLING_SHIFT: u8 = 4;
const RESERVED: u8 = 0b1100_0000;
const RESERVED_BEFORE_V5: u8 = 0b1111_1100;

/// SUBSCRIBE. [§3.8]
pub(super) fn subscribe(version: ProtocolVersion) -> impl Fn(&[u8]) -> Parsed<'_, Subscribe<'_>> {
    move |input| {
        let (rest, packet_id) = wire::packet_id(input)?;
        let (rest, properties) = wire::properties(PacketType::Subscribe, version)(rest)?;
        let (rest, filters) = list(rest, PacketType::Subscribe, subscription(version))?;
        Ok((rest, Subscribe { packet_id, properties, filters }))
    }
}

/// UNSUBSCRIBE. [§3.10]
pub(super) fn unsubscribe(version: ProtocolVersion) -> impl Fn(&[u8]) -> Parsed<'_, Unsubscribe<'_>> {
    move |input| {
        let (rest, packet_id) = wire::packet_id(input)?;
        let (rest, properties) = wire::properties(PacketType::Unsubscribe, version)(rest)?;
        let (rest, filters) = list(rest, PacketType::Unsubscribe, filter(version))?;
        Ok((rest, Unsubscribe { packet_id, properties, filters }))
    }
}

/// Reads items until the end, at least one.
fn list<'a, T>(
    input: &'a [u8],
    packet_type: PacketType,
    item: impl Fn(&'a [u8]) -> Parsed<'a, T>,
) -> Parsed<'a, Vec<T>> {
    if input.is_empty() {
        return Err(DecodeError::NoFilters(packet_type).into());
    }
    let (mut rest, mut items) = (input, Vec::new());
    while !rest.is_empty() {
        let (after, found) = item(rest)?;
        items.push(found);
        rest = after;
    }
    Ok((rest, items))
}

fn filter(version: ProtocolVersion) -> impl Fn(&[u8]) -> Parsed<'_, TopicFilter<'_>> {
    move |input| {
        let (rest, text) = wire::name(input)?;
        let filter = TopicFilter::from_checked(text).map_err(DecodeError::TopicFilter)?;
        if version == ProtocolVersion::V5 && filter.is_malformed_share() {
            return Err(DecodeError::MalformedShare.into());
        }
        Ok((rest, filter))
    }
}

fn subscription(
    version: ProtocolVersion,
) -> impl Fn(&[u8]) -> Parsed<'_, (TopicFilter<'_>, SubscriptionOptions)> {
    move |input| {
        let (rest, filter) = filter(version)(input)?;
        let (rest, bits) = be_u8(rest)?;
        let options = options(bits, version)?;
        if options.no_local && filter.share().is_some() {
            return Err(DecodeError::NoLocalOnShared.into());
        }
        Ok((rest, (filter, options)))
    }
}

fn options(bits: u8, version: ProtocolVersion) -> Result<SubscriptionOptions, DecodeError> {
    let reserved = if version < ProtocolVersion::V5 { RESERVED_BEFORE_V5 } else { RESERVED };
    if bits & reserved != 0 {
        return Err(DecodeError::SubscribeOptionsReserved);
    }
    Ok(SubscriptionOptions {
        qos: QoS::from_bits(bits).ok_or(DecodeError::SubscribeQoS3)?,
        no_local: bits & NO_LOCAL != 0,
        retain_as_published: bits & RETAIN_AS_PUBLISHED != 0,
        retain_handling: match bits >> RETAIN_HANDLING_SHIFT & 0b11 {
            0 => RetainHandling::Send,
            1 => RetainHandling::SendIfNew,
            2 => RetainHandling::DoNotSend,
            _ => return Err(DecodeError::RetainHandling3),
        },
    })
}
