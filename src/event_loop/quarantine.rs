//! What was set aside is stored again, or dropped, because a person says so.

use crate::{
    clock::Now,
    device_api::telemetry::{self, Reading},
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
        let readings = match fate {
            Fate::Retry => again(&found)?,
            Fate::Drop => Vec::new(),
        };
        let (count, before) = (readings.len(), self.broker.counters().commits);
        self.broker.handle_resolved(id, &found.device, readings, now)?;
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
fn again(found: &SetAside) -> Result<Vec<Reading>, String> {
    let ts = match found.time {
        Placed::Given(ts) | Placed::Known(ts) | Placed::Estimated(ts) => ts,
        Placed::Pending(_) => {
            return Err("its time is not known before the clock is set; try again then".to_owned());
        }
    };
    let id = found.id;
    let readings = match id {
        SetAsideId::Payload(_) => telemetry::parse(&found.payload)
            .map_err(|error| format!("{id} still cannot be understood: {error}"))?,
        SetAsideId::Reading(_) => {
            let values = String::from_utf8(found.payload.clone()).map_err(|_| format!("{id} is damaged"))?;
            vec![Reading { device_ts: None, values }]
        }
    };
    let placed = |reading: Reading| Reading { device_ts: reading.device_ts.or(Some(ts)), ..reading };
    Ok(readings.into_iter().map(placed).collect())
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
            assert_eq!(again(&found), Ok(vec![Reading { device_ts: Some(ts), values: "{\"n\":1}".into() }]));
        }
        let pending = set_aside(SetAsideId::Reading(Seq(1)), Placed::Pending(9), "{}");
        assert!(again(&pending).expect_err("too early").contains("clock is set"));
    }

    #[test]
    fn a_payload_is_judged_anew() {
        let id = SetAsideId::Payload(4);
        let good = set_aside(id, Placed::Known(8), "[{\"ts\":5,\"values\":{\"n\":1}},{\"n\":2}]");
        let times: Vec<_> =
            again(&good).expect("understood").iter().map(|reading| reading.device_ts).collect();
        assert_eq!(times, [Some(5), Some(8)]);
        let words = again(&set_aside(id, Placed::Known(8), "{")).expect_err("not JSON");
        assert!(words.starts_with("p4 still cannot be understood: "), "{words}");
    }
}
