//! A pair of clients at a real listener: what one says the other hears, over one connection after the other.

use selvedge_broker_client::{BrokerAddress, Hearer, HearerEvent, Speaker, Spoken};
use selvedge_mqtt::broker::Credentials;
use selvedge_mqtt::{Broker, ConnectionLimits, Listener, ListenerConfig};
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::sync::watch;
use tokio::task::JoinHandle;

const PASSWORD: &str = "of-the-broker";

fn address(at: SocketAddr, password: &str) -> BrokerAddress {
    let credentials = Some(("pair".to_string(), password.to_string()));
    BrokerAddress { host: at.ip().to_string(), port: at.port(), credentials, client_id: "test".into() }
}

struct Running {
    at: SocketAddr,
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Running {
    async fn on(port: u16) -> Self {
        let config = ListenerConfig {
            address: ([127, 0, 0, 1], port).into(),
            max_connections: 10,
            max_connections_per_address: 10,
            limits: ConnectionLimits::default(),
        };
        let listener = Listener::bind(config).await.unwrap();
        let at = listener.local_addr().unwrap();
        let (username, password) = ("pair".to_string(), PASSWORD.to_string());
        let broker = Arc::new(Broker::new(Some(Credentials { username, password })));
        let (stop, stopped) = watch::channel(false);
        Self { at, stop, task: tokio::spawn(listener.run(broker, stopped)) }
    }

    async fn stop(self) {
        self.stop.send(true).unwrap();
        self.task.await.unwrap();
    }
}

async fn connected(hearer: &mut Hearer, speaker: &mut selvedge_broker_client::Speaking) {
    while hearer.next().await != HearerEvent::Subscribed {}
    while speaker.next().await != Spoken::Connected {}
}

#[tokio::test]
async fn what_one_says_the_other_hears_also_after_the_broker_was_away() {
    let running = Running::on(0).await;
    let at = running.at;
    let mut hearer = Hearer::new(address(at, PASSWORD), "-ears", vec!["a/+".into(), "b".into()]);
    let (speaker, mut speaking) = Speaker::new(address(at, PASSWORD), "-mouth");
    connected(&mut hearer, &mut speaking).await;
    let message = |topic: &str, payload: &'static [u8]| HearerEvent::Message {
        topic: topic.to_string(),
        payload: payload.into(),
    };
    {
        assert!(speaker.publish("a/1".into(), b"one".to_vec()).await);
        assert!(speaker.try_publish("b".into(), b"two".to_vec()));
        let driving = async { while speaking.next().await == Spoken::Connected {} };
        tokio::select! {
            () = driving => panic!("the connection ended"),
            () = async {
                assert_eq!(hearer.next().await, message("a/1", b"one"));
                assert_eq!(hearer.next().await, message("b", b"two"));
            } => {}
        }
    }
    running.stop().await;
    assert!(matches!(hearer.next().await, HearerEvent::Lost(_)));
    assert!(matches!(speaking.next().await, Spoken::Lost(_)));
    let running = Running::on(at.port()).await;
    connected(&mut hearer, &mut speaking).await;
    assert!(speaker.publish("b".into(), b"three".to_vec()).await);
    tokio::select! {
        lost = speaking.next() => panic!("{lost:?}"),
        heard = hearer.next() => assert_eq!(heard, message("b", b"three")),
    }
    running.stop().await;
}

#[tokio::test]
async fn wrong_credentials_are_said_and_never_shown() {
    let running = Running::on(0).await;
    let wrong = address(running.at, "a-wrong-one");
    assert!(!format!("{wrong:?} {wrong}").contains("a-wrong-one"));
    let HearerEvent::Lost(why) = Hearer::new(wrong.clone(), "", vec!["a".into()]).next().await else {
        panic!("it was let in")
    };
    assert!(why.contains("BadUserNamePassword") && !why.contains("a-wrong-one"), "{why}");
    let (_, mut speaking) = Speaker::new(wrong, "");
    assert_eq!(speaking.next().await, Spoken::Lost(why));
    running.stop().await;
}
