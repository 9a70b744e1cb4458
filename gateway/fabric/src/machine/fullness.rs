//! How full the tables of a shard are, measured by its bounds, for operators.

use super::Machine;

/// From this share of a bound on, in hundredths, operators are warned.
pub const WARN_PERCENT: u64 = 80;

/// How much of one bound is used.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Fullness {
    /// The rule that bounds it.
    pub rule: &'static str,
    /// How much there is.
    pub used: u64,
    /// How much there may be.
    pub most: u64,
    /// Which device or client it is, of rules that bound each of them: the one that uses most.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub who: Option<String>,
}

impl Fullness {
    /// Whether operators are to be warned.
    pub fn is_near(&self) -> bool {
        self.used.saturating_mul(100) >= self.most.saturating_mul(WARN_PERCENT)
    }

    /// How much of the bound is used, from 0 to 1 (more if the bound was lowered).
    pub fn share(&self) -> f64 {
        self.used as f64 / self.most.max(1) as f64
    }

    /// What happens at the bound, and what an operator can do.
    pub fn advice(&self) -> &'static str {
        match self.rule {
            "max_streams" | "max_streams_per_device" | "max_streams_per_client" | "max_names_bytes" => {
                "readings of further streams are set aside at the bound; retire what is gone (DELETE /v1/devices/{device}), \
                 set rules.retire_idle_after_s, or raise the rule"
            }
            "max_open_parts" => {
                "streams silent for longest close their windows early at the bound; raise the rule"
            }
            "max_sessions" => "the idle session that ends first is discarded at the bound; raise the rule",
            "max_subscriptions" => "further subscriptions are refused at the bound; raise the rule",
            "max_clients" => {
                "the client unheard of for longest is forgotten at the bound, and what it sends again counts again; \
                 raise the rule"
            }
            _ => "publishes are refused at the bound; see that the node can be reached",
        }
    }
}

impl Machine {
    /// How much of each bound is used.
    pub fn fullness(&self) -> Vec<Fullness> {
        let (rules, sizes) = (&self.rules, self.sizes());
        let bound = |rule, used: usize, most: u32| Fullness {
            rule,
            used: used as u64,
            most: u64::from(most),
            who: None,
        };
        let of = |who: Option<(&str, usize)>, rule, most| {
            let (name, used) = who.unwrap_or_default();
            Fullness { who: who.map(|_| name.to_string()), ..bound(rule, used, most) }
        };
        let maker = self.names.busiest_maker().map(|(client, streams)| (client, streams as usize));
        vec![
            bound("max_streams", sizes.streams, rules.max_streams),
            of(self.names.largest_device(), "max_streams_per_device", rules.max_streams_per_device),
            of(maker, "max_streams_per_client", rules.max_streams_per_client),
            bound("max_names_bytes", sizes.names_bytes, rules.max_names_bytes),
            bound("max_open_parts", sizes.open_parts, rules.max_open_parts),
            bound("max_sessions", sizes.sessions, rules.max_sessions),
            bound("max_subscriptions", sizes.subscriptions, rules.max_subscriptions),
            bound("max_clients", sizes.clients, rules.max_clients),
            bound("max_outbox_batches", self.outbox.unconfirmed() as usize, rules.max_outbox_batches),
        ]
    }
}
