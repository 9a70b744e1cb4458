//! A plain live broker: it accepts every client (or those with one user name and password), gives each publish to the
//! connected subscribers, and acknowledges it once it is queued for them.
//!
//! It stores nothing. A QoS 1 publish that it has acknowledged is lost if its subscriber's connection ends before
//! delivery, and a client always finds its session gone. That is enough for the uplink, whose batches are resent until
//! the node has confirmed them.
//!
//! The program that embeds it can hear topics without being a client ([`super::inlet`]), and keep topics to itself: what clients
//! publish there is dropped.

use super::attendant::Application;
use super::departure::{Departure, DepartureLog};
use super::handle::Handle;
use super::inlet::Inlet;
use super::router::Router;
use bytestring::ByteString;
use selvedge_types::mqtt::QoS;
use selvedge_types::mqtt::{Accept, Ack, AckCode, Answer, CloseReason, Connect, Inbound, Publish, Refusal};
use selvedge_types::topic::Filter;
use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

/// What a client must show.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    pub username: String,
    pub password: String,
}

impl fmt::Debug for Credentials {
    /// Leaves the password out: settings are logged.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("username", &self.username).finish_non_exhaustive()
    }
}

impl Credentials {
    /// Takes the same time wherever the difference is.
    fn matches(&self, connect: &Connect) -> bool {
        let same = |want: &str, got: Option<&[u8]>| {
            let got = got.unwrap_or_default();
            let differ = want.bytes().zip(got).fold(0, |sum, (a, b)| sum | (a ^ b));
            std::hint::black_box(differ) == 0 && want.len() == got.len()
        };
        same(&self.username, connect.username.as_ref().map(|u| u.as_bytes().as_ref()))
            & same(&self.password, connect.password.as_deref())
    }
}

/// A broker that a program embeds: the login it asks for, its inlets, and the connected clients.
#[derive(Debug, Default)]
pub struct Broker {
    credentials: Option<Credentials>,
    inlets: Vec<Arc<Inlet>>,
    reserved: Vec<Filter>,
    router: Router,
    clients: Mutex<Clients>,
    departures: DepartureLog,
}

/// The connected clients, bounded by the listener's seats.
#[derive(Debug, Default)]
struct Clients {
    by_name: HashMap<ByteString, Arc<Handle>>,
    names: HashMap<u64, ByteString>,
}

impl Broker {
    /// A broker; with `credentials`, for those who show them.
    pub fn new(credentials: Option<Credentials>) -> Self {
        Self { credentials, ..Self::default() }
    }

    /// Adds inlets; a publish goes to the first inlet that covers its topic, and to clients.
    pub fn with_inlets(self, inlets: Vec<Arc<Inlet>>) -> Self {
        Self { inlets, ..self }
    }

    /// Reserves topics for the program itself: what clients publish there is dropped.
    pub fn with_reserved(self, reserved: Vec<Filter>) -> Self {
        Self { reserved, ..self }
    }

    /// Its subscriptions, for publishing from within this process: see [`Router::route`].
    pub fn router(&self) -> &Router {
        &self.router
    }

    fn connect(&self, handle: &Arc<Handle>, connect: &Connect) {
        if self.credentials.as_ref().is_some_and(|c| !c.matches(connect)) {
            return handle.answer(Answer::Refuse(Refusal::BadCredentials));
        }
        let assigned = connect.client_id.is_empty().then(|| format!("auto-{}", handle.id()).into());
        let name: &ByteString = assigned.as_ref().unwrap_or(&connect.client_id);
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        let before = clients.by_name.insert(name.clone(), handle.clone());
        clients.names.insert(handle.id(), name.clone());
        drop(clients);
        if let Some(before) = before {
            // It gets nothing more from here on, though its task may take a while to end.
            self.router.disconnect(before.id());
            before.close(CloseReason::TakenOver);
        }
        let accept = Accept { assigned_client_id: assigned, ..Accept::default() };
        handle.answer(Answer::Accept(Box::new(accept)));
    }

    /// Gives a client's publish on. True: it is to be acknowledged now.
    fn publish(&self, handle: &Arc<Handle>, publish: &Publish) -> bool {
        let routed = self.router.route(Some(handle.id()), &publish.topic, &publish.payload, publish.qos);
        if let Some(behind) = routed.behind {
            handle.wait_for(behind);
        }
        match self.inlets.iter().find(|inlet| inlet.hears(&publish.topic)) {
            Some(inlet) => inlet.put(handle, publish),
            None => return publish.qos != QoS::AtMostOnce,
        }
        false
    }

    fn is_reserved(&self, topic: &str) -> bool {
        self.reserved.iter().any(|filter| filter.matches(topic))
    }

    fn closed(&self, handle: &Arc<Handle>) {
        self.router.disconnect(handle.id());
        self.inlets.iter().for_each(|inlet| inlet.closed(handle.id()));
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(name) = clients.names.remove(&handle.id())
            && clients.by_name.get(&name).is_some_and(|h| h.id() == handle.id())
        {
            clients.by_name.remove(&name);
        }
    }
}

impl Application for Broker {
    fn inbound(&self, handle: &Arc<Handle>, events: &mut Vec<Inbound>) {
        let mut acks = Vec::new();
        for event in events.drain(..) {
            match event {
                Inbound::Connect(connect) => self.connect(handle, &connect),
                Inbound::Publish(p) if self.is_reserved(&p.topic) => {
                    if p.qos != QoS::AtMostOnce {
                        let why = "only the broker's own program publishes there";
                        acks.push(Answer::Ack(Ack::refused(p.token, AckCode::NotAuthorized, why)));
                    }
                }
                Inbound::Publish(p) => {
                    if self.publish(handle, &p) {
                        acks.push(Answer::Ack(Ack::kept(p.token)));
                    }
                }
                // It can't be given on, and its sender must not take it for given on.
                Inbound::Oversize(_) => handle.close(CloseReason::PacketTooLarge),
                Inbound::Release { token, .. } => acks.push(Answer::Ack(Ack::kept(token))),
                Inbound::Subscribe { token, subscriptions } => {
                    match self.router.subscribe(handle, &subscriptions) {
                        Ok(()) => acks.push(Answer::Subscribed { token, refused: Vec::new() }),
                        Err(_) => handle.close(CloseReason::Quota),
                    }
                }
                Inbound::Unsubscribe { token, filters } => {
                    self.router.unsubscribe(handle.id(), &filters);
                    acks.push(Answer::Unsubscribed { token });
                }
                Inbound::Closed(closed) => {
                    self.closed(handle);
                    if let Some(will) = closed.will.filter(|will| !self.is_reserved(&will.topic)) {
                        self.router.route(Some(handle.id()), &will.topic, &will.payload, will.qos);
                    }
                }
            }
        }
        handle.answers(acks);
    }

    fn departed(&self, departure: &Departure) {
        self.departures.note(departure, None);
    }
}
