//! Zones: what is likely to fail together, such as the boxes of one cabinet or behind one fuse.
//!
//! With zones a shard has at most `each` replicas in one of them. That is one if there are at least as many zones as replicas, and
//! otherwise the least number with which every replica still finds a place: of two zones one has two of three. A gateway without a zone
//! stands alone.
//!
//! The bound of the load follows the zones: of all replicas a zone's share is by the weight of its gateways, but at most `each` of
//! every shard, and its gateways divide that by weight. A gateway that is alone in its zone may so take more than its weighted share
//! of the site, since nobody else can stand there. The bound is 1.1 times the share, rounded up, as without zones.
//!
//! Shards that find too few members with room in the right zones get them along an augmenting path: a shard takes a member that has no
//! room, one of whose shards takes another member in its place, and so on until one has room. Such a path exists as long as a
//! shard is short: if each shard gave each member its share divided by the number of shards, all shards would be complete and no
//! bound broken, and where a network whose capacities are whole has such a flow it has a whole one (Ford and Fulkerson, 1956).
//!
//! No exchange is proved to exist for preferred leaders: where zones leave none, a shard is led by the one of its members that leads
//! the least above its bound.

use super::{LOAD_BOUND_TENTHS, Member, Placing};
use selvedge_types::ids::GatewayId;
use std::collections::BTreeMap;

/// A number of replicas: numerator and denominator.
type Share = (u128, u128);

/// The zones of members that are named by their index.
pub(super) struct Zones {
    /// The zone of each member.
    of: Vec<usize>,
    /// How many members each zone has.
    sizes: Vec<usize>,
    /// The most replicas of one shard in one zone.
    each: usize,
}

impl Zones {
    /// The zones of these members; nothing if they leave everything as it is without any.
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

    /// Whether a shard with the members `set` may take `comes` as well, when `leaves` has gone.
    pub fn allow(&self, set: &[usize], leaves: Option<usize>, comes: usize) -> bool {
        let zone = self.of[comes];
        set.iter().filter(|m| Some(**m) != leaves && self.of[**m] == zone).count() < self.each
    }

    /// How many of `shards` x `replication` places each member may take.
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

    /// Gives `short` one more member, along the shortest augmenting path. Returns whether there was one.
    pub fn augment(&self, placing: &mut Placing, short: usize) -> bool {
        // For a member reached: which shard would take it, and whom that shard would give up for it.
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

/// Divides places by weight, where nobody takes more than its limit: what exceeds that is shared by the others.
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
