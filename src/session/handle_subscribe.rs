//! SUBSCRIBE and UNSUBSCRIBE: there is nothing to be had yet, and every filter is told so. [§3.8], [§3.10]

use crate::{
    device_api::topics,
    limits::Limits,
    mqtt::{Properties, ProtocolVersion, ReasonCode, Subscribe, TopicFilter, Unsubscribe},
};

use super::{CloseReason, Session, filter_fits, properties_fit};

/// One code per filter, in their order. [MQTT-3.8.4-6]
///
/// # Errors
/// If the packet is over a bound.
pub fn judge_subscribe(
    subscribe: &Subscribe<'_>,
    session: &Session,
    limits: &Limits,
) -> Result<Vec<ReasonCode>, CloseReason> {
    check_bounds(subscribe.filters.len(), &subscribe.properties, limits)?;
    if subscribe.properties.subscription_identifiers().next().is_some() {
        // The CONNACK said that there are none. [§3.2.2.3.12]
        return Ok(vec![ReasonCode::SubscriptionIdentifiersNotSupported; subscribe.filters.len()]);
    }
    Ok(subscribe.filters.iter().map(|(filter, _)| refuse_filter(*filter, session.version, limits)).collect())
}

/// One code per filter; before version 5 there are none to give. [MQTT-3.10.4-4]
///
/// # Errors
/// If the packet is over a bound.
pub fn judge_unsubscribe(
    unsubscribe: &Unsubscribe<'_>,
    session: &Session,
    limits: &Limits,
) -> Result<Vec<ReasonCode>, CloseReason> {
    check_bounds(unsubscribe.filters.len(), &unsubscribe.properties, limits)?;
    Ok(match session.version {
        ProtocolVersion::V5 => vec![ReasonCode::NoSubscriptionExisted; unsubscribe.filters.len()],
        ProtocolVersion::V31 | ProtocolVersion::V311 => Vec::new(),
    })
}

fn check_bounds(filters: usize, properties: &Properties<'_>, limits: &Limits) -> Result<(), CloseReason> {
    if filters > limits.filters_per_packet as usize {
        return Err(CloseReason::TooManyFilters);
    }
    if !properties_fit(properties, limits) {
        return Err(CloseReason::TooManyUserProperties);
    }
    Ok(())
}

fn refuse_filter(filter: TopicFilter<'_>, version: ProtocolVersion, limits: &Limits) -> ReasonCode {
    if version != ProtocolVersion::V5 {
        return ReasonCode::UnspecifiedError;
    }
    if filter.as_str().starts_with("$share/") {
        return ReasonCode::SharedSubscriptionsNotSupported;
    }
    if !filter_fits(filter, limits) || topics::is_hub_filter(filter.as_str()) {
        return ReasonCode::TopicFilterInvalid;
    }
    ReasonCode::NotAuthorized
}
