//! The site that sessions in tests belong to.

use selvedge_fabric::decode::{Decoder, Form, TopicRule};
use selvedge_fabric::machine::Origin;
use selvedge_fabric::ring::{Member, Ring};
use selvedge_fabric::session::SessionContext;
use selvedge_types::ids::GatewayId;
use selvedge_types::time::EpochMs;

/// The process of gateway 1.
pub const ORIGIN: Origin = Origin { gateway: GatewayId(1), start: 2 };
/// The wall time at which everything begins.
pub const BEGIN: EpochMs = EpochMs(1_764_000_000_000);

/// One gateway with 16 shards. `d/DEVICE/STREAM` takes a value of any form, `many` a SenML pack for several devices.
pub struct Site {
    pub ring: Ring,
    pub decoder: Decoder,
}

impl Site {
    pub fn new() -> Self {
        let rule = |topic: &str, decoder| TopicRule { topic: topic.into(), decoder, ..TopicRule::default() };
        let rules = vec![rule("d/{device}/{stream}", Form::Auto), rule("many", Form::SenmlJson)];
        let ring = Ring::new(16, &[Member { id: ORIGIN.gateway, weight: 1 }], 1).unwrap();
        Self { ring, decoder: Decoder::new(rules).unwrap() }
    }

    pub fn at<'a>(
        &'a self,
        origin: Origin,
        now: EpochMs,
        listens: &'a dyn Fn(&str) -> bool,
    ) -> SessionContext<'a> {
        SessionContext { ring: &self.ring, decoder: &self.decoder, origin, now, listens }
    }
}
