//! How the uplink is doing, as plain values for people: `forebay status`, `$SYS`, the watchdog's line.

use std::{fmt, time::Duration};

use crate::{clock::Mono, ids::DeviceName, mqtt::ProtocolVersion};

use super::downlink::DownlinkCounts;

/// How the uplink is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// What it is doing; [`State`] says it in words.
    pub state: State,
    /// Since when the hub has let us in, or, if it has not, since when it has not: the last connection, or the start.
    pub since: Mono,
    /// When it is tried again, while that is waited for.
    pub next_attempt: Option<Mono>,
    /// When the hub last took readings, since the start.
    pub last_upload: Option<Mono>,
    /// Something only a person can put right, in words.
    pub alarm: Option<String>,
    /// What went wrong last, in words, and when.
    pub last_error: Option<(String, Mono)>,
    /// What is spoken with the hub, while there is a connection.
    pub version: Option<ProtocolVersion>,
    /// Readings on disk that the hub does not have yet; for a device's own uplink at most so many.
    pub backlog: u64,
    /// Readings sent and not yet acknowledged.
    pub in_flight: usize,
    /// Readings held in memory.
    pub in_memory: usize,
    /// Readings the hub has acknowledged since the start.
    pub uploaded: u64,
    /// Readings the hub does not take, since the start.
    pub rejected: u64,
    /// Readings an ordinary broker has taken although nobody is subscribed to them there, since the start.
    pub unheard: u64,
    /// Devices whose last readings were so; at most
    /// [`UPLINK_UNHEARD_DEVICES`](crate::limits::UPLINK_UNHEARD_DEVICES).
    pub unheard_devices: Vec<DeviceName>,
    /// Readings set aside until it is clear whether it is they or the hub.
    pub suspected: usize,
    /// Readings acknowledged in the last minute.
    pub uploaded_last_minute: u64,
    /// Readings stored in the last minute.
    pub stored_last_minute: u64,
    /// How long the backlog will last at this rate; `None` if it does not shrink.
    pub drains_in: Option<Duration>,
    /// Bytes given to the connection since the start.
    pub bytes_sent: u64,
    /// Connections that came as far as being let in, since the start.
    pub connections: u64,
    /// What came for devices, and what they answered.
    pub downlink: DownlinkCounts,
}

/// What the uplink is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Waiting before it tries again.
    BackingOff,
    /// Waiting for name, TCP and TLS.
    Connecting,
    /// Waiting to be let in.
    Greeting,
    /// Asking what it may send.
    Asking,
    /// Sending readings.
    Uploading,
    /// The hub has everything.
    UpToDate,
    /// Readings wait until the clock is set.
    WaitingForClock,
    /// Readings wait because the hub wants fewer at a time.
    Slowed,
    /// The hub does not let us in, or takes nothing; it is tried again now and then.
    Refused,
    /// Told to stop.
    Stopped,
}

impl State {
    /// Whether there is a connection that the hub has let us into.
    pub fn is_open(self) -> bool {
        match self {
            Self::Asking | Self::Uploading | Self::UpToDate | Self::WaitingForClock | Self::Slowed => true,
            Self::BackingOff | Self::Connecting | Self::Greeting | Self::Refused | Self::Stopped => false,
        }
    }
}

/// How long `backlog` lasts if each minute takes `uploaded` from it and adds `stored`.
pub fn drains_in(backlog: u64, uploaded: u64, stored: u64) -> Option<Duration> {
    if backlog == 0 {
        return Some(Duration::ZERO);
    }
    let shrinks = uploaded.checked_sub(stored).filter(|rate| *rate > 0)?;
    Some(Duration::from_secs(backlog.saturating_mul(60) / shrinks))
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::BackingOff => "waiting to try again",
            Self::Connecting => "connecting",
            Self::Greeting => "connected, waiting to be let in",
            Self::Asking => "let in, asking for the limits",
            Self::Uploading => "uploading",
            Self::UpToDate => "up to date",
            Self::WaitingForClock => "waiting for the clock to be set",
            Self::Slowed => "slowed down for the hub",
            Self::Refused => "refused by the hub",
            Self::Stopped => "stopped",
        })
    }
}

/// A line for the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// Whether it works but somebody should look.
    pub is_warning: bool,
    /// What changed.
    pub words: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backlog_drains_at_the_rate_at_which_it_shrinks() {
        assert_eq!(drains_in(0, 0, 5), Some(Duration::ZERO));
        assert_eq!(drains_in(1000, 160, 60), Some(Duration::from_secs(600)));
        assert_eq!(drains_in(1000, 60, 60), None);
        assert_eq!(drains_in(1000, 10, 60), None);
    }
}
