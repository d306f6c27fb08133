//! What was set aside is stored again, or dropped, because a person says so.

use std::fmt;

use crate::{
    clock::Now,
    device_api::{
        gateway,
        gateway_messages::{self, DeviceReadings},
        telemetry::{self, Reading},
    },
    ids::DeviceName,
    record::{Placed, SetAsideId},
    store::SetAside,
};

use super::EventLoop;

/// What is to become of something set aside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// It is stored behind all other readings, with its own time, and goes to the hub again.
    Retry,
    /// It is forgotten.
    Drop,
}

impl EventLoop {
    /// Does it, on disk when this returns; gives back how many readings were stored.
    ///
    /// # Errors
    /// Why it was not done, in words.
    pub(super) fn resolve(&mut self, id: SetAsideId, fate: Fate, now: Now) -> Result<usize, String> {
        let found = self.buffer.set_aside(id).map_err(|error| error.to_string())?;
        let found = found.ok_or_else(|| format!("nothing called {id} is set aside"))?;
        let all = match fate {
            Fate::Retry => again(&found)?,
            Fate::Drop => Vec::new(),
        };
        if is_gateways(&found) {
            self.broker.check_behind_gateway(&all)?;
        }
        let (count, before) = (all.iter().map(|of| of.readings.len()).sum(), self.broker.counters().commits);
        self.broker.handle_resolved(id, all, now)?;
        self.commit(now);
        if self.broker.counters().commits == before {
            return Err("it could not be written down; the broker's log says more".to_owned());
        }
        tell(fate, id, &found.device);
        Ok(count)
    }
}

fn tell(fate: Fate, id: SetAsideId, device: &DeviceName) {
    let done = match fate {
        Fate::Retry => "stored again",
        Fate::Drop => "dropped",
    };
    log::info!("{done}, as asked: {id} of {device}");
}

/// The readings in what was set aside, each with a time of its own.
fn again(found: &SetAside) -> Result<Vec<DeviceReadings>, String> {
    let id = found.id;
    let own = |readings| vec![DeviceReadings { device: found.device.clone(), readings }];
    let not_yet = |error: &dyn fmt::Display| format!("{id} still cannot be understood: {error}");
    let mut all = match id {
        SetAsideId::Payload(_) if is_gateways(found) => {
            gateway_messages::parse_telemetry(&found.payload).map_err(|error| not_yet(&error))?
        }
        SetAsideId::Payload(_) => own(telemetry::parse(&found.payload).map_err(|error| not_yet(&error))?),
        SetAsideId::Reading(_) => {
            let values = String::from_utf8(found.payload.clone()).map_err(|_| format!("{id} is damaged"))?;
            own(vec![Reading { device_ts: None, values }])
        }
    };
    for reading in all.iter_mut().flat_map(|of| &mut of.readings) {
        if reading.device_ts.is_none() {
            reading.device_ts = Some(time_of(found)?);
        }
    }
    Ok(all)
}

fn time_of(found: &SetAside) -> Result<i64, String> {
    match found.time {
        Placed::Given(ts) | Placed::Known(ts) | Placed::Estimated(ts) => Ok(ts),
        Placed::Pending(_) => Err("its time is not known before the clock is set; try again then".to_owned()),
    }
}

/// Whether a gateway has sent it, of devices behind it.
fn is_gateways(found: &SetAside) -> bool {
    found.topic.as_deref() == Some(gateway::TELEMETRY_TOPIC)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::Seq;

    fn set_aside(id: SetAsideId, time: Placed, payload: &str) -> SetAside {
        SetAside {
            id,
            device: DeviceName::parse("pump").expect("a name"),
            time,
            reason: "too deep".into(),
            topic: None,
            payload: payload.into(),
        }
    }

    #[test]
    fn a_reading_comes_back_as_it_was_with_the_time_it_had() {
        for (time, ts) in [(Placed::Given(7), 7), (Placed::Known(8), 8), (Placed::Estimated(9), 9)] {
            let found = set_aside(SetAsideId::Reading(Seq(1)), time, "{\"n\":1}");
            let readings = vec![Reading { device_ts: Some(ts), values: "{\"n\":1}".into() }];
            assert_eq!(again(&found), Ok(vec![DeviceReadings { device: found.device.clone(), readings }]));
        }
        let pending = set_aside(SetAsideId::Reading(Seq(1)), Placed::Pending(9), "{}");
        assert!(again(&pending).expect_err("too early").contains("clock is set"));
    }

    #[test]
    fn a_payload_is_judged_anew() {
        let id = SetAsideId::Payload(4);
        let good = set_aside(id, Placed::Known(8), "[{\"ts\":5,\"values\":{\"n\":1}},{\"n\":2}]");
        let times: Vec<_> =
            again(&good).expect("understood")[0].readings.iter().map(|reading| reading.device_ts).collect();
        assert_eq!(times, [Some(5), Some(8)]);
        let timed = set_aside(id, Placed::Pending(8), "{\"ts\":5,\"values\":{\"n\":1}}");
        assert!(again(&timed).is_ok(), "it needs no other time than its own");
        let words = again(&set_aside(id, Placed::Known(8), "{")).expect_err("not JSON");
        assert!(words.starts_with("p4 still cannot be understood: "), "{words}");
    }

    #[test]
    fn what_a_gateway_sent_goes_to_the_devices_behind_it() {
        let mut found =
            set_aside(SetAsideId::Payload(4), Placed::Known(8), "{\"A\":[{\"n\":1}],\"B\":[{\"n\":2}]}");
        found.topic = Some(gateway::TELEMETRY_TOPIC.into());
        let all = again(&found).expect("understood");
        let names: Vec<_> = all.iter().map(|of| (of.device.as_str(), of.readings[0].device_ts)).collect();
        assert_eq!(names, [("A", Some(8)), ("B", Some(8))]);
    }
}
