//! What the hub sends to a device through its gateway, and what the device answers: payloads of `v1/gateway/attributes`
//! and `v1/gateway/rpc`, taken apart and put together.
//!
//! The parts that are not ours to understand, attributes and parameters, stay the text the hub wrote.

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::ids::DeviceName;

use super::gateway::quoted;

/// Where the hub tells a gateway of attributes of its devices that were changed.
pub const ATTRIBUTES_TOPIC: &str = "v1/gateway/attributes";
/// Where the hub sends commands to a gateway's devices, and where their answers go.
pub const RPC_TOPIC: &str = "v1/gateway/rpc";

/// Something from the hub for one device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Downlink {
    /// For whom.
    pub device: DeviceName,
    /// What it is.
    pub kind: DownlinkKind,
    /// What the device gets: JSON text.
    pub payload: String,
}

/// What the hub sends to devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DownlinkKind {
    /// Shared attributes that have changed or are gone.
    Attributes,
    /// A command of this number; the number is the device's, not ours.
    Rpc(i32),
}

/// Why a message of the hub cannot be handed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DownlinkError {
    /// It is not JSON of the form it should have.
    Malformed,
    /// It names a device that no device of ours can be called.
    ImpossibleName,
}

#[derive(Deserialize)]
struct AttributesText<'a> {
    device: String,
    #[serde(borrow)]
    data: &'a RawValue,
}

#[derive(Deserialize)]
struct RpcText<'a> {
    device: String,
    #[serde(borrow)]
    data: CommandText<'a>,
}

#[derive(Deserialize)]
struct CommandText<'a> {
    id: i32,
    #[serde(borrow)]
    method: &'a RawValue,
    #[serde(borrow)]
    params: Option<&'a RawValue>,
}

impl Downlink {
    /// Reads `{"device":"A","data":{..}}`, which came on [`ATTRIBUTES_TOPIC`].
    ///
    /// # Errors
    /// If it is none.
    pub fn attributes(payload: &[u8]) -> Result<Self, DownlinkError> {
        let text: AttributesText<'_> = read(payload)?;
        if !text.data.get().starts_with('{') {
            return Err(DownlinkError::Malformed);
        }
        let (device, payload) = (name(&text.device)?, text.data.get().to_owned());
        Ok(Self { device, kind: DownlinkKind::Attributes, payload })
    }

    /// Reads `{"device":"A","data":{"id":1,"method":"m","params":..}}`, which came on [`RPC_TOPIC`].
    ///
    /// # Errors
    /// If it is none.
    pub fn rpc(payload: &[u8]) -> Result<Self, DownlinkError> {
        let RpcText { device, data } = read(payload)?;
        let CommandText { id, method, params } = data;
        if !method.get().starts_with('"') {
            return Err(DownlinkError::Malformed);
        }
        let params = params.map(|params| format!(r#","params":{params}"#)).unwrap_or_default();
        let payload = format!(r#"{{"method":{method}{params}}}"#);
        Ok(Self { device: name(&device)?, kind: DownlinkKind::Rpc(id), payload })
    }
}

/// The payload that brings the hub the answer of `device` to the command `id`: JSON as it is, anything else as a string.
pub fn rpc_answer(device: &str, id: i32, answer: &[u8]) -> String {
    let device = quoted(device);
    match serde_json::from_slice::<&RawValue>(answer) {
        Ok(json) => format!(r#"{{"device":{device},"id":{id},"data":{json}}}"#),
        Err(_) => {
            let text = quoted(&String::from_utf8_lossy(answer));
            format!(r#"{{"device":{device},"id":{id},"data":{text}}}"#)
        }
    }
}

/// What is answered in place of a device that cannot: `why` needs no escapes.
pub fn rpc_error(why: &'static str) -> String {
    format!(r#"{{"error":"{why}"}}"#)
}

fn read<'a, T: Deserialize<'a>>(payload: &'a [u8]) -> Result<T, DownlinkError> {
    serde_json::from_slice(payload).map_err(|_| DownlinkError::Malformed)
}

fn name(text: &str) -> Result<DeviceName, DownlinkError> {
    DeviceName::parse(text).map_err(|_| DownlinkError::ImpossibleName)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_reach_the_device_as_the_hub_wrote_them() {
        for data in [r#"{"on":true,"x":1.50}"#, r#"{"deleted":["a","b"]}"#, "{}"] {
            let payload = format!(r#" {{"device":"Pumpe 3", "data": {data}}}"#);
            let downlink = Downlink::attributes(payload.as_bytes()).expect("well-formed");
            assert_eq!(downlink.device.as_str(), "Pumpe 3");
            assert_eq!((downlink.kind, downlink.payload.as_str()), (DownlinkKind::Attributes, data));
        }
    }

    #[test]
    fn a_command_loses_its_number_and_keeps_its_parameters() {
        for (data, expected) in [
            (r#"{"id":7,"method":"open","params":{"by":2.0}}"#, r#"{"method":"open","params":{"by":2.0}}"#),
            (r#"{"params":"[1]","id":7,"method":"o\"n"}"#, r#"{"method":"o\"n","params":"[1]"}"#),
            (r#"{"id":7,"method":"open","more":1}"#, r#"{"method":"open"}"#),
        ] {
            let payload = format!(r#"{{"device":"pump","data":{data}}}"#);
            let downlink = Downlink::rpc(payload.as_bytes()).expect("well-formed");
            assert_eq!((downlink.kind, downlink.payload.as_str()), (DownlinkKind::Rpc(7), expected));
        }
    }

    #[test]
    fn what_is_not_of_the_form_is_malformed() {
        for payload in [
            "",
            "[]",
            "null",
            r#"{"device":"pump"}"#,
            r#"{"data":{}}"#,
            r#"{"device":1,"data":{}}"#,
            r#"{"device":"pump","data":[]}"#,
            r#"{"device":"pump","data":{}"#,
            r#"{"device":"pump","device":"fan","data":{}}"#,
        ] {
            assert_eq!(Downlink::attributes(payload.as_bytes()), Err(DownlinkError::Malformed), "{payload}");
        }
        for data in
            [r#"{"method":"m"}"#, r#"{"id":1}"#, r#"{"id":1.5,"method":"m"}"#, r#"{"id":1,"method":2}"#, "1"]
        {
            let payload = format!(r#"{{"device":"pump","data":{data}}}"#);
            assert_eq!(Downlink::rpc(payload.as_bytes()), Err(DownlinkError::Malformed), "{data}");
        }
        assert_eq!(Downlink::attributes(b"{\"device\":\"\xFF\",\"data\":{}}"), Err(DownlinkError::Malformed));
    }

    #[test]
    fn a_name_that_no_device_can_have_is_told_apart() {
        for name in ["", "a/b", "+", "#"] {
            let payload = format!(r#"{{"device":"{name}","data":{{}}}}"#);
            assert_eq!(Downlink::attributes(payload.as_bytes()), Err(DownlinkError::ImpossibleName));
        }
    }

    #[test]
    fn an_answer_that_is_json_stays_so_and_any_other_becomes_a_string() {
        for (answer, data) in [
            (&br#" {"ok": 1.0} "#[..], r#"{"ok": 1.0}"#),
            (b"null", "null"),
            (b"\"x\"", "\"x\""),
            (b"", "\"\""),
            (b"done", "\"done\""),
            (b"{ok:1}", "\"{ok:1}\""),
            (b"a\"b\n", r#""a\"b\n""#),
            (b"\xFF", "\"\u{FFFD}\""),
        ] {
            let payload = rpc_answer("a\\b", -3, answer);
            assert_eq!(payload, format!(r#"{{"device":"a\\b","id":-3,"data":{data}}}"#));
        }
        let error = rpc_error("device is not connected");
        assert_eq!(error, r#"{"error":"device is not connected"}"#);
    }
}
