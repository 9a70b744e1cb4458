//! The client that hears.

use crate::{BrokerAddress, Driven};
use bytes::Bytes;
use rumqttc::{Event, Packet, QoS, SubscribeFilter, SubscribeReasonCode};

/// What comes from the broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HearerEvent {
    /// The broker has taken all subscriptions: what is published from now on is heard.
    Subscribed,
    /// A publish to one of the filters.
    Message { topic: String, payload: Bytes },
    /// The connection ended, for this reason; it is made again.
    Lost(String),
}

/// Subscribes at QoS 1 and receives, over one connection after the other.
pub struct Hearer {
    driven: Driven,
    filters: Vec<String>,
}

impl Hearer {
    /// Hears these filters. `role` ends its client id.
    pub fn new(address: BrokerAddress, role: &'static str, filters: Vec<String>) -> Self {
        Self { driven: Driven::new(address, role), filters }
    }

    /// The next thing that happens. Not called, it hears nothing, and TCP presses the broker back.
    pub async fn next(&mut self) -> HearerEvent {
        loop {
            match self.driven.poll().await {
                Ok(Event::Incoming(Packet::ConnAck(_))) => {
                    let filters = self.filters.iter();
                    let filters =
                        filters.map(|filter| SubscribeFilter::new(filter.clone(), QoS::AtLeastOnce));
                    // Not awaited: the queue of a new client is empty, and only this task could make room in it.
                    if let Err(error) = self.driven.client.try_subscribe_many(filters) {
                        return HearerEvent::Lost(self.driven.fail(error.to_string()));
                    }
                }
                Ok(Event::Incoming(Packet::SubAck(ack))) => {
                    let codes = ack.return_codes.iter();
                    let refused =
                        codes.zip(&self.filters).find(|(code, _)| **code == SubscribeReasonCode::Failure);
                    return match refused {
                        None => HearerEvent::Subscribed,
                        Some((_, filter)) => {
                            let why = format!("the broker refuses the subscription to {filter}");
                            HearerEvent::Lost(self.driven.fail(why))
                        }
                    };
                }
                Ok(Event::Incoming(Packet::Publish(publish))) => {
                    return HearerEvent::Message { topic: publish.topic, payload: publish.payload };
                }
                Ok(_) => {}
                Err(why) => return HearerEvent::Lost(why),
            }
        }
    }
}
