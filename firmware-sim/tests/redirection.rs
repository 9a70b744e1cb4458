//! Devices that are sent to other servers, by CONNACK and later by DISCONNECT, go there with all they have to send.

use firmware_sim::fleet::{Fleet, FleetSettings};
use selvedge_mqtt::{Application, ConnectionLimits, Departure, Handle, Listener, ListenerConfig};
use selvedge_types::mqtt::{Ack, Answer, Inbound, Version};
use std::collections::HashSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::watch;

/// How a server treats devices that speak MQTT 5. It keeps those of version 3.
#[derive(Debug, Clone)]
enum Manners {
    /// Refuses them with this reference.
    Refuses(String),
    /// Accepts them, and sends them away with this reference while their first publish is not answered.
    Dismisses(String),
    Keeps,
}

struct Server {
    manners: Manners,
    /// The connections whose clients speak MQTT 5, and how many publishes these made.
    new: Mutex<(HashSet<u64>, u64)>,
}

impl Application for Server {
    fn inbound(&self, connection: &Arc<Handle>, events: &mut Vec<Inbound>) {
        let mut new = self.new.lock().unwrap();
        for event in events.drain(..) {
            match event {
                Inbound::Connect(connect) => {
                    let is_new = connect.version == Version::V5;
                    if let (true, Manners::Refuses(to)) = (is_new, &self.manners) {
                        connection.send_away(Some(to.as_str().into()));
                        return;
                    }
                    if is_new {
                        new.0.insert(connection.id());
                    }
                    connection.answer(Answer::Accept(Box::default()));
                }
                Inbound::Publish(publish) => {
                    if new.0.contains(&connection.id()) {
                        new.1 += 1;
                        if let Manners::Dismisses(to) = &self.manners {
                            connection.send_away(Some(to.as_str().into()));
                        }
                    }
                    connection.answer(Answer::Ack(Ack::kept(publish.token)));
                }
                Inbound::Release { token, .. } => connection.answer(Answer::Ack(Ack::kept(token))),
                _ => {}
            }
        }
    }

    fn departed(&self, _: &Departure) {}
}

async fn serve(manners: Manners, stopped: watch::Receiver<bool>) -> (Arc<Server>, String) {
    let config = ListenerConfig {
        address: ([127, 0, 0, 1], 0).into(),
        max_connections: 100,
        max_connections_per_address: 100,
        limits: ConnectionLimits::default(),
    };
    let listener = Listener::bind(config).await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let server = Arc::new(Server { manners, new: Mutex::default() });
    tokio::spawn(listener.run(server.clone(), stopped));
    (server, address)
}

#[tokio::test]
async fn devices_follow_the_references_and_lose_nothing() {
    let (stop, stopped) = watch::channel(false);
    let (last, at_last) = serve(Manners::Keeps, stopped.clone()).await;
    // The first of the list is no server at all.
    let nobody = selvedge_ports::claim(1).unwrap();
    let references = format!("127.0.0.1:{nobody} {at_last}");
    let (second, at_second) = serve(Manners::Dismisses(references), stopped.clone()).await;
    let (first, at_first) = serve(Manners::Refuses(at_second), stopped).await;
    let mut fleet = Fleet::start(&FleetSettings {
        gateways: vec![at_first],
        devices: 9, // one of each kind: five speak MQTT 5
        rate: 50.0,
        seed: 3,
        boot: 1,
        faults: false,
        in_flight_entries: 4,
        window_ms: 1_000,
        recordings: Vec::new(),
        speed: None,
    });
    let patience = Duration::from_secs(60);
    let until = async |done: &dyn Fn(&Fleet) -> bool| {
        let look = async {
            while !done(&fleet) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(patience, look).await.unwrap();
    };
    until(&|_| {
        let new = last.new.lock().unwrap();
        new.0.len() == 5 && new.1 >= 50
    })
    .await;
    fleet.drain();
    until(&|fleet| fleet.is_done()).await;
    let progress = fleet.progress();
    assert_eq!((progress.acked, progress.pending), (progress.published, 0), "{progress:?}");
    assert_eq!(progress.sent_away, 10, "each by the first and by the second server");
    assert_eq!((first.new.lock().unwrap().1, second.new.lock().unwrap().0.len()), (0, 5));
    fleet.stop().await;
    stop.send(true).unwrap();
}
