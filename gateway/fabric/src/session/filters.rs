//! SUBSCRIBE and UNSUBSCRIBE: those of a durable session are answered when the shard of its client id has chosen them.

use super::{ASKED, Phase, Session, SessionContext, SessionEffects};
use crate::machine::{Item, ItemOutcome, MAX_FILTER_BYTES};
use selvedge_types::canary::{self, Canary};
use selvedge_types::mqtt::{Answer, Subscription};
use selvedge_types::topic::Filter;
use std::collections::VecDeque;

/// How many filters go to the shard of the client id in one item.
const FILTERS_ITEM_ENTRIES: usize = 64;

/// A SUBSCRIBE or an UNSUBSCRIBE of a durable session.
#[derive(Debug, Default)]
pub(super) struct AskedFilters {
    subscriptions: Vec<Subscription>,
    filters: Vec<Filter>,
    /// Items that are not settled: the indices of the subscriptions in each.
    items: VecDeque<Vec<usize>>,
    /// Indices of the subscriptions that a bound refuses.
    refused: Vec<usize>,
}

impl Session {
    /// Subscribes a durable session. Its subscriptions count, and SUBACK leaves, once the shard of the client id
    /// has chosen them.
    pub(super) fn subscribe(
        &mut self,
        site: SessionContext<'_>,
        token: u64,
        list: Vec<Subscription>,
        out: &mut SessionEffects,
    ) {
        if !self.persistent() {
            out.subscribe.extend(list);
            out.answers.push(Answer::Subscribed { token, refused: Vec::new() });
            return;
        }
        let fits = |(_, s): &(usize, &Subscription)| s.filter.as_str().len() <= MAX_FILTER_BYTES;
        let (fit, too_long): (Vec<_>, Vec<_>) = list.iter().enumerate().partition(fits);
        let mut asked = AskedFilters {
            refused: too_long.into_iter().map(|(i, _)| i).collect(),
            ..AskedFilters::default()
        };
        // One item is far smaller than a batch may be.
        for chunk in fit.chunks(FILTERS_ITEM_ENTRIES) {
            let add = chunk.iter().map(|(_, s)| (s.filter.as_str().to_string(), s.options())).collect();
            asked.items.push_back(chunk.iter().map(|(i, _)| *i).collect());
            self.submit_filters(site, token, add, Vec::new(), out);
        }
        asked.subscriptions = list;
        self.ask(token, asked, out);
    }

    pub(super) fn unsubscribe(
        &mut self,
        site: SessionContext<'_>,
        token: u64,
        filters: Vec<Filter>,
        out: &mut SessionEffects,
    ) {
        if !self.persistent() {
            out.unsubscribe.extend(filters);
            out.answers.push(Answer::Unsubscribed { token });
            return;
        }
        let mut asked = AskedFilters::default();
        // The shard holds no filter that is longer.
        let fit: Vec<_> = filters.iter().filter(|f| f.as_str().len() <= MAX_FILTER_BYTES).collect();
        for chunk in fit.chunks(FILTERS_ITEM_ENTRIES) {
            let remove = chunk.iter().map(|f| f.as_str().to_string()).collect();
            asked.items.push_back(Vec::new());
            self.submit_filters(site, token, Vec::new(), remove, out);
        }
        asked.filters = filters;
        self.ask(token, asked, out);
    }

    fn submit_filters(
        &self,
        site: SessionContext<'_>,
        token: u64,
        add: Vec<(String, u8)>,
        remove: Vec<String>,
        out: &mut SessionEffects,
    ) {
        let (client, epoch) = (self.client.clone(), self.epoch);
        self.submit(site, ASKED + token, Item::Subscriptions { client, epoch, add, remove }, out);
    }

    fn ask(&mut self, token: u64, asked: AskedFilters, out: &mut SessionEffects) {
        let nothing_to_wait_for = asked.items.is_empty();
        self.asked.insert(token, asked);
        if nothing_to_wait_for || canary::makes(Canary::SubackBeforeChosen) {
            self.answer_asked(token, out);
        }
    }

    /// Settles the next item of a SUBSCRIBE or UNSUBSCRIBE: items are settled in the order in which they were
    /// submitted.
    pub(super) fn asked_settled(&mut self, token: u64, outcome: ItemOutcome, out: &mut SessionEffects) {
        let Some(asked) = self.asked.get_mut(&token) else { return };
        let item = asked.items.pop_front().unwrap_or_default();
        match outcome {
            ItemOutcome::Refused(_) => asked.refused.extend(item),
            ItemOutcome::Subscribed { refused } => {
                asked.refused.extend(refused.iter().filter_map(|i| item.get(usize::from(*i))));
            }
            _ => {}
        }
        if asked.items.is_empty() {
            self.answer_asked(token, out);
        }
    }

    fn answer_asked(&mut self, token: u64, out: &mut SessionEffects) {
        let Some(asked) = self.asked.remove(&token).filter(|_| self.phase == Phase::Open) else { return };
        out.answers.push(match asked.filters.is_empty() {
            true => Answer::Subscribed { token, refused: asked.refused.clone() },
            false => Answer::Unsubscribed { token },
        });
        let granted = asked.subscriptions.into_iter().enumerate().filter(|(i, _)| !asked.refused.contains(i));
        out.subscribe.extend(granted.map(|(_, s)| s));
        out.unsubscribe.extend(asked.filters);
    }
}
