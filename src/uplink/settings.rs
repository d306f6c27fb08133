//! What the operator says about the uplink, as plain values: made by the configuration, only read here.

use std::{borrow::Cow, fmt, time::Duration};

use crate::{
    ids::DeviceName,
    limits::{
        UPLINK_ACK_TIMEOUT, UPLINK_CLOCK_WAIT, UPLINK_DEVICE_FLIGHT_BYTES, UPLINK_DEVICE_LANE_BYTES,
        UPLINK_DEVICE_LANE_ROWS, UPLINK_FLIGHT_BYTES, UPLINK_FRESH_PERCENT, UPLINK_KEEP_ALIVE_S,
        UPLINK_LANE_BYTES, UPLINK_LANE_ROWS, UPLINK_PAYLOAD_BYTES, UPLINK_WINDOW,
    },
    record::Outbound,
};

use super::{device_mode, gateway_mode, plain_mode};

/// How the uplink behaves.
#[derive(Clone, Debug)]
pub struct Settings {
    /// What is at the other end, and who we are there.
    pub mode: Mode,
    /// The client identifier; the hub does not care, other brokers do.
    pub client_id: String,
    /// Which readings go first while there is a backlog.
    pub order: Order,
    /// Of a hundred messages, how many carry fresh readings while a backlog drains; 1 to 99.
    pub fresh_percent: u8,
    /// The largest payload the other end takes, in bytes, until it says so itself; four fifths of it are used.
    pub payload_bytes: usize,
    /// Messages on their way at once, 1 to [`UPLINK_WINDOW`]; the other end may allow less.
    pub window: u16,
    /// Bytes on their way at once; a slow link gets fewer.
    pub flight_bytes: usize,
    /// Readings held in memory at once, in each of two lanes.
    pub lane_rows: usize,
    /// Bytes of their values.
    pub lane_bytes: usize,
    /// Seconds without a word after which a PINGREQ is sent; the other end may want another number.
    pub keep_alive_s: u16,
    /// How long an answer may take while the link is not known to be slow.
    pub ack_timeout: Duration,
    /// How long after boot readings whose time is not known yet wait for the clock, and longer if the hub was away, until it
    /// was there for [`UPLINK_CLOCK_WAIT_WITH_HUB`](crate::limits::UPLINK_CLOCK_WAIT_WITH_HUB); `None` if they do not wait.
    pub clock_wait: Option<Duration>,
    /// Rates the operator sets; those the hub tells are kept as well.
    pub rates: RateTexts,
}

/// What is at the other end, and who we are there.
#[derive(Clone, Debug)]
pub enum Mode {
    /// The hub, which knows us as a gateway and our devices by their names.
    Gateway {
        /// Our access token.
        token: Secret,
    },
    /// The hub, to which we speak as one of our devices; the journal gives us the readings of that device alone.
    Device {
        /// The device's own access token.
        token: Secret,
    },
    /// An ordinary broker.
    Plain {
        /// Where readings are published; `{device}` stands for the device's name.
        topic: String,
        /// Our user name, if any.
        user_name: Option<Secret>,
        /// Our password, if any.
        password: Option<Secret>,
    },
}

/// Which readings go first while there is a backlog.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Order {
    /// The backlog, oldest first, with a share for readings stored since the connection came up.
    #[default]
    FreshBeside,
    /// Strictly as they were stored.
    OldestFirst,
}

/// Rates as the hub writes them, `20:1,600:60` for 20 in one second and 600 in sixty; empty for no bound.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RateTexts {
    /// Messages that are not telemetry.
    pub messages: String,
    /// Messages of telemetry.
    pub telemetry_messages: String,
    /// Values in telemetry.
    pub data_points: String,
}

/// A text nobody is to see: it has no `Display`, and `Debug` hides it.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Hides `text`.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text in the clear, for CONNECT alone.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

impl Mode {
    /// Whether the other end wants to be told of each device, and sends us messages for them.
    pub(super) fn is_gateway(&self) -> bool {
        matches!(self, Self::Gateway { .. })
    }

    /// Whether the other end can tell its limits.
    pub(super) fn asks_for_limits(&self) -> bool {
        matches!(self, Self::Gateway { .. } | Self::Device { .. })
    }

    /// Whether only readings of one device are ours, so that places in the journal are more than our readings.
    pub(super) fn is_device(&self) -> bool {
        matches!(self, Self::Device { .. })
    }

    /// What a person may look at if the other end acknowledges nothing, or forbids us to publish.
    pub(super) fn when_it_takes_nothing(&self) -> &'static str {
        match self {
            Self::Gateway { .. } => "is it told there that this device is a gateway?",
            Self::Device { .. } => "may this device send telemetry there?",
            Self::Plain { .. } => "may we publish to the topic of `topic`?",
        }
    }

    /// User name and password.
    pub(super) fn credentials(&self) -> (Option<&str>, Option<&str>) {
        match self {
            Self::Gateway { token } | Self::Device { token } => (Some(token.reveal()), None),
            Self::Plain { user_name, password, .. } => {
                (user_name.as_ref().map(Secret::reveal), password.as_ref().map(Secret::reveal))
            }
        }
    }

    /// Where readings of `device` go.
    pub(super) fn topic(&self, device: &DeviceName) -> Cow<'static, str> {
        match self {
            Self::Gateway { .. } => gateway_mode::TOPIC.into(),
            Self::Device { .. } => device_mode::TOPIC.into(),
            Self::Plain { topic, .. } => plain_mode::topic(topic, device).into(),
        }
    }

    /// Bytes of the longest topic there may be.
    pub(super) fn topic_bytes_max(&self) -> usize {
        match self {
            Self::Gateway { .. } => gateway_mode::TOPIC.len(),
            Self::Device { .. } => device_mode::TOPIC.len(),
            Self::Plain { topic, .. } => plain_mode::topic_bytes_max(topic),
        }
    }

    /// A message of readings of one device.
    pub(super) fn payload(&self, device: &DeviceName, rows: &[Outbound]) -> String {
        match self {
            Self::Gateway { .. } => gateway_mode::payload(device, rows),
            Self::Device { .. } | Self::Plain { .. } => device_mode::payload(rows),
        }
    }

    /// Bytes of such a message beside its readings.
    pub(super) fn envelope_bytes(&self, device: &DeviceName) -> usize {
        match self {
            Self::Gateway { .. } => gateway_mode::envelope_bytes(device),
            Self::Device { .. } | Self::Plain { .. } => device_mode::envelope_bytes(),
        }
    }
}

impl Settings {
    /// The defaults for `mode`.
    pub fn new(mode: Mode) -> Self {
        // There may be as many connections as devices, each with its own share of the memory.
        let (flight_bytes, lane_rows, lane_bytes) = match mode {
            Mode::Device { .. } => {
                (UPLINK_DEVICE_FLIGHT_BYTES, UPLINK_DEVICE_LANE_ROWS, UPLINK_DEVICE_LANE_BYTES)
            }
            Mode::Gateway { .. } | Mode::Plain { .. } => {
                (UPLINK_FLIGHT_BYTES, UPLINK_LANE_ROWS, UPLINK_LANE_BYTES)
            }
        };
        Self {
            mode,
            client_id: "forebay".to_owned(),
            order: Order::default(),
            fresh_percent: UPLINK_FRESH_PERCENT,
            payload_bytes: UPLINK_PAYLOAD_BYTES,
            window: UPLINK_WINDOW,
            flight_bytes,
            lane_rows,
            lane_bytes,
            keep_alive_s: UPLINK_KEEP_ALIVE_S,
            ack_timeout: UPLINK_ACK_TIMEOUT,
            clock_wait: Some(UPLINK_CLOCK_WAIT),
            rates: RateTexts::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_secret_shows_in_debug_output() {
        let mode = Mode::Plain {
            topic: "t/{device}".to_owned(),
            user_name: Some(Secret::new("HUSH")),
            password: Some(Secret::new("HUSH")),
        };
        assert!(!format!("{:?}", Settings::new(mode)).contains("HUSH"));
        for mode in
            [Mode::Gateway { token: Secret::new("HUSH") }, Mode::Device { token: Secret::new("HUSH") }]
        {
            assert!(!format!("{mode:?}").contains("HUSH"));
        }
    }
}
