//! The client that speaks.

use crate::{BrokerAddress, Driven};
use rumqttc::{AsyncClient, Event, Packet, QoS};
use std::sync::{Arc, Mutex, PoisonError};

/// What becomes of the connection over which a [`Speaker`] publishes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Spoken {
    Connected,
    /// It ended, for this reason, and what waited in it is gone; it is made again.
    Lost(String),
}

/// Publishes at QoS 1. Something has to drive its [`Speaking`] meanwhile.
#[derive(Clone)]
pub struct Speaker(Arc<Mutex<AsyncClient>>);

impl Speaker {
    /// A speaker, and what drives it. `role` ends its client id.
    pub fn new(address: BrokerAddress, role: &'static str) -> (Self, Speaking) {
        let driven = Driven::new(address, role);
        let speaker = Self(Arc::new(Mutex::new(driven.client.clone())));
        (speaker.clone(), Speaking { driven, speaker })
    }

    /// The client of the current connection. Never held across an await.
    fn client(&self) -> AsyncClient {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Publishes, when there is room. False: the connection ended before, and the message is gone.
    pub async fn publish(&self, topic: String, payload: Vec<u8>) -> bool {
        self.client().publish(topic, QoS::AtLeastOnce, false, payload).await.is_ok()
    }

    /// Publishes, if there is room at once. False: there is none, and the message is gone.
    pub fn try_publish(&self, topic: String, payload: Vec<u8>) -> bool {
        self.client().try_publish(topic, QoS::AtLeastOnce, false, payload).is_ok()
    }
}

/// Drives a [`Speaker`]'s connection.
pub struct Speaking {
    driven: Driven,
    speaker: Speaker,
}

impl Speaking {
    /// The next thing that happens to the connection. Not called, nothing is sent.
    pub async fn next(&mut self) -> Spoken {
        loop {
            match self.driven.poll().await {
                Ok(Event::Incoming(Packet::ConnAck(_))) => return Spoken::Connected,
                Ok(_) => {}
                Err(why) => {
                    let client = self.driven.client.clone();
                    *self.speaker.0.lock().unwrap_or_else(PoisonError::into_inner) = client;
                    return Spoken::Lost(why);
                }
            }
        }
    }
}
