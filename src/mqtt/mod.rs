//! Bytes to packets and back: MQTT 3.1, 3.1.1 and 5.0, both directions.
//!
//! Not a state machine: rules that span packets belong to `session/`, limits of the configuration too.
//! Everything here borrows from the caller's bytes; decoding a PUBLISH and encoding a PUBACK allocate nothing.
//! Clause ids are those of 3.1.1 where it has the rule and of 5.0 otherwise; sections (§) are those of 5.0.
//!
//! ```text
//! bytes -> frame::parse_header -> decode -> Packet<'_>        Packet<'_> -> encode -> bytes
//! ```

pub mod decode;
pub mod encode;
pub mod error;
pub mod frame;
pub mod packet;
pub mod properties;
pub mod properties_buf;
pub mod property;
pub mod property_table;
pub mod reason;
pub mod topic;

mod decode_connect;
mod decode_subscribe;
mod sink;
mod strings;
mod wire;

#[cfg(test)]
mod tests;

pub use decode::decode;
pub use encode::encode;
pub use error::{DecodeError, EncodeError};
pub use frame::{Header, parse_header};
pub use packet::{
    Ack, Auth, ConnAck, Connect, Disconnect, Packet, PacketId, PacketType, ProtocolVersion, Publish, QoS,
    RetainHandling, SubAck, Subscribe, SubscriptionOptions, UnsubAck, Unsubscribe, Will,
};
pub use properties::Properties;
pub use properties_buf::PropertiesBuf;
pub use property::Property;
pub use property_table::{PropertyId, PropertyPlace};
pub use reason::ReasonCode;
pub use topic::{TopicError, TopicFilter, TopicName};
