//! Zones: groups of gateways that are likely to fail together, such as the boxes in one cabinet or behind one fuse.
//!
//! # Placement
//! A shard has at most `each` replicas in one zone. `each` is 1 if there are at least as many zones as replicas.
//! Otherwise it is the least number with which every replica finds a place: with two zones and three replicas, one zone
//! has two of them. A gateway without a zone is a zone of its own.
//!
//! # Load
//! A zone's share of all replicas follows the weight of its gateways, up to `each` replicas of every shard, and its
//! gateways divide that share by weight. What exceeds a zone's limit goes to the other zones. A gateway that is alone
//! in its zone may therefore hold more than its weighted share of the site. The bound on a gateway's load is 1.1 times
//! its share, rounded up, as it is without zones.
//!
//! # Why every shard is complete
//! A shard that finds too few members with room in the right zones gets one along an augmenting path: it takes a member
//! that has no room, a shard of that member takes another member instead, and so on up to a member with room. Such a
//! path exists as long as a shard is incomplete. If each member gave every shard an equal fraction of its share, all
//! shards would be complete within the bounds; and a network with whole capacities that has such a flow also has a
//! whole one (Ford and Fulkerson, 1956).
//!
//! # Limits
//! For preferred leaders there is no such proof. If the zones allow no exchange, a shard is led by the one of its
//! members that exceeds its bound of leaderships the least.

use super::{LOAD_BOUND_TENTHS, Member, Placing};
use selvedge_types::ids::GatewayId;
use std::collections::BTreeMap;

/// A fractional number of replicas: numerator and denominator.
type Share = (u128, u128);

/// The zones of a ring's members. Members and zones are indices.
pub(super) struct Zones {
    /// By member: its zone.
    of: Vec<usize>,
    /// By zone: the number of its members.
    sizes: Vec<usize>,
    /// How many replicas of one shard may be in one zone.
    each: usize,
}

impl Zones {
    /// The zones of these members; `None` if zones would not restrict any placement.
    pub fn new(members: &[Member], named: &BTreeMap<GatewayId, String>, replication: usize) -> Option<Self> {
        let (mut of, mut sizes) = (Vec::with_capacity(members.len()), Vec::new());
        let mut known: BTreeMap<&str, usize> = BTreeMap::new();
        for member in members {
            let next = sizes.len();
            let zone = match named.get(&member.id) {
                Some(name) => *known.entry(name).or_insert(next),
                None => next,
            };
            if zone == next {
                sizes.push(0);
            }
            sizes[zone] += 1;
            of.push(zone);
        }
        let places = |each: usize| sizes.iter().map(|size| each.min(*size)).sum::<usize>();
        let each = (1..=replication).find(|each| places(*each) >= replication)?;
        let bounds_something = sizes.iter().any(|size| *size.min(&replication) > each);
        bounds_something.then_some(Self { of, sizes, each })
    }

    /// Whether a shard with the members `set`, without `leaves`, may also take `comes`.
    pub fn allow(&self, set: &[usize], leaves: Option<usize>, comes: usize) -> bool {
        let zone = self.of[comes];
        set.iter().filter(|m| Some(**m) != leaves && self.of[**m] == zone).count() < self.each
    }

    /// How many of the `shards` x `replication` replicas each member may hold.
    pub fn caps(&self, shards: usize, replication: usize, weights: &[u32]) -> Vec<usize> {
        let mut by_zone = vec![0u128; self.sizes.len()];
        for (zone, weight) in self.of.iter().zip(weights) {
            by_zone[*zone] += u128::from(*weight);
        }
        let limits: Vec<u128> =
            self.sizes.iter().map(|size| (self.each.min(*size) * shards) as u128).collect();
        let places = shares(((shards * replication) as u128, 1), &limits, &by_zone);
        let mut caps = vec![0; weights.len()];
        for (zone, of_zone) in places.into_iter().enumerate() {
            let members: Vec<usize> = (0..weights.len()).filter(|m| self.of[*m] == zone).collect();
            let weights: Vec<u128> = members.iter().map(|m| u128::from(weights[*m])).collect();
            let limits = vec![shards as u128; members.len()];
            for (m, (num, den)) in members.into_iter().zip(shares(of_zone, &limits, &weights)) {
                caps[m] = shards.min((LOAD_BOUND_TENTHS * num).div_ceil(10 * den.max(1)) as usize);
            }
        }
        caps
    }

    /// Gives the shard `short` one more member along the shortest augmenting path. Returns whether there was a path.
    pub fn augment(&self, placing: &mut Placing, short: usize) -> bool {
        // By member reached: the shard that would take it, and the member that this shard would give up for it.
        let mut taken: Vec<Option<(usize, Option<usize>)>> = vec![None; placing.load.len()];
        let mut reached = Vec::new();
        for (m, by) in taken.iter_mut().enumerate() {
            if !placing.sets[short].contains(&m) && self.allow(&placing.sets[short], None, m) {
                *by = Some((short, None));
                reached.push(m);
            }
        }
        let mut next = 0;
        while let Some(&m) = reached.get(next) {
            next += 1;
            if placing.load[m] < placing.load_cap[m] {
                placing.load[m] += 1;
                let mut hand = Some(m);
                while let Some(comes) = hand {
                    let Some((shard, leaves)) = taken[comes] else { break };
                    match leaves.and_then(|gone| placing.sets[shard].iter().position(|m| *m == gone)) {
                        Some(at) => placing.sets[shard][at] = comes,
                        None => placing.sets[shard].push(comes),
                    }
                    hand = leaves;
                }
                return true;
            }
            for shard in (0..placing.sets.len()).filter(|shard| placing.sets[*shard].contains(&m)) {
                let set = &placing.sets[shard];
                for (other, by) in taken.iter_mut().enumerate() {
                    if by.is_none() && !set.contains(&other) && self.allow(set, Some(m), other) {
                        *by = Some((shard, Some(m)));
                        reached.push(other);
                    }
                }
            }
        }
        false
    }
}

/// Divides a share by weight. What exceeds one part's limit is divided among the others.
fn shares((num, den): Share, limits: &[u128], weights: &[u128]) -> Vec<Share> {
    let mut full = vec![false; limits.len()];
    loop {
        let of_full: u128 = (0..full.len()).filter(|i| full[*i]).map(|i| limits[i]).sum();
        let left = num.saturating_sub(of_full * den);
        let weight: u128 = (0..full.len()).filter(|i| !full[*i]).map(|i| weights[i]).sum();
        let over = |i: &usize| !full[*i] && left * weights[*i] > limits[*i] * den * weight;
        let more: Vec<usize> = (0..full.len()).filter(over).collect();
        if more.is_empty() {
            let share = |i: usize| if full[i] { (limits[i], 1) } else { (left * weights[i], den * weight) };
            return (0..full.len()).map(share).collect();
        }
        more.into_iter().for_each(|i| full[i] = true);
    }
}
