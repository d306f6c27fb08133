//! SUBSCRIBE and UNSUBSCRIBE: which filters are granted, and which are refused with what code. [§3.8], [§3.10]

use crate::{
    device_api::{own_topics::OwnFilter, topics},
    limits::Limits,
    mqtt::{ProtocolVersion, QoS, ReasonCode, RetainHandling, TopicFilter},
};

use super::{Session, filter_fits};

/// The code for one filter: the QoS granted, or why it is refused. Before version 5 a refusal is sent as 0x80.
pub fn judge_filter(filter: TopicFilter<'_>, qos: QoS, session: &Session, limits: &Limits) -> ReasonCode {
    let plain = filter.share().map_or(filter, |(_, filter)| filter);
    if filter.is_malformed_share() || !filter_fits(filter, limits) {
        return ReasonCode::TopicFilterInvalid;
    }
    if let Some(own) = own_filter(filter, session) {
        return judge_own_filter(own, qos, session, limits);
    }
    if !session.rights.may_subscribe(plain) {
        // The hub has its own code for what it does not serve.
        let of_the_hub = session.rights.is_device() && topics::is_hub_filter(plain.as_str());
        return if of_the_hub { ReasonCode::TopicFilterInvalid } else { ReasonCode::NotAuthorized };
    }
    let is_new = !session.subscriptions.contains(filter.as_str());
    if is_new && session.subscription_count() >= session.subscriptions_max(limits) {
        return ReasonCode::QuotaExceeded;
    }
    match qos {
        QoS::AtMostOnce => ReasonCode::Success,
        QoS::AtLeastOnce => ReasonCode::GrantedQoS1,
        QoS::ExactlyOnce => ReasonCode::GrantedQoS2,
    }
}

/// The filter in the hub's name space that `filter` is to the device whose session this is.
pub fn own_filter(filter: TopicFilter<'_>, session: &Session) -> Option<OwnFilter> {
    OwnFilter::parse(filter.as_str()).filter(|_| session.rights.is_device())
}

/// The hub grants no more than QoS 1, and so do we: a device is to see no difference.
fn judge_own_filter(own: OwnFilter, qos: QoS, session: &Session, limits: &Limits) -> ReasonCode {
    let is_new = !session.own_subscriptions.contains_key(&own);
    match qos {
        _ if is_new && session.subscription_count() >= session.subscriptions_max(limits) => {
            ReasonCode::QuotaExceeded
        }
        QoS::AtMostOnce => ReasonCode::Success,
        QoS::AtLeastOnce | QoS::ExactlyOnce => ReasonCode::GrantedQoS1,
    }
}

/// Whether the retained messages that match `filter` are wanted now. [MQTT-3.3.1-9..11 of 5.0] A shared subscription gets
/// none. [§4.8.2]
pub fn wants_retained(filter: TopicFilter<'_>, handling: RetainHandling, is_new: bool) -> bool {
    filter.share().is_none()
        && match handling {
            RetainHandling::Send => true,
            RetainHandling::SendIfNew => is_new,
            RetainHandling::DoNotSend => false,
        }
}

/// What UNSUBACK carries: one code per filter, and before version 5 none. [MQTT-3.11.3-1]
pub fn unsuback_reasons(were_there: &[bool], version: ProtocolVersion) -> Vec<ReasonCode> {
    let code = |there: &bool| if *there { ReasonCode::Success } else { ReasonCode::NoSubscriptionExisted };
    match version {
        ProtocolVersion::V5 => were_there.iter().map(code).collect(),
        ProtocolVersion::V31 | ProtocolVersion::V311 => Vec::new(),
    }
}
