//! The line itself: who goes next when a thread is free.

use super::Ask;
use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::collections::HashMap;

/// Somebody's place in the line; a later one has a larger number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ticket(pub u64);

/// Who counts as one client: a network, as a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClientKey(pub u64);

/// How urgent a request is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Class {
    /// Somebody at work: logged in.
    Editor,
    /// A visitor.
    Anonymous,
    /// Nobody waits for it: robots, refreshing of what is stored.
    Background,
}

impl Class {
    /// All of them, the most urgent first.
    pub const ALL: [Self; 3] = [Self::Editor, Self::Anonymous, Self::Background];

    /// The word in metrics and logs.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Editor => "editor",
            Self::Anonymous => "anonymous",
            Self::Background => "background",
        }
    }

    /// What one grant costs a class: its share of threads is the inverse, 8 to 4 to 1, while all have somebody waiting.
    fn cost(self) -> u64 {
        match self {
            Self::Editor => 1,
            Self::Anonymous => 2,
            Self::Background => 8,
        }
    }

    /// With so many of `max` places taken nobody of this class joins any more.
    #[must_use]
    pub fn places(self, max: usize) -> usize {
        match self {
            Self::Editor => max,
            Self::Anonymous => max - max / 8,
            Self::Background => max - max / 2,
        }
    }

    fn index(self) -> usize {
        self as usize
    }
}

/// Somebody who waits.
#[derive(Clone, Copy, Debug)]
pub struct Waiting {
    /// What he asked for.
    pub ask: Ask,
}

/// All who wait, in fair order.
#[derive(Clone, Debug, Default)]
pub struct Line {
    ranks: [Rank; Class::ALL.len()],
    places: BTreeMap<Ticket, (Waiting, u64)>,
    /// How far the service of classes has come.
    now: u64,
    next_ticket: u64,
}

/// Those of one class who wait.
#[derive(Clone, Debug, Default)]
struct Rank {
    /// By start tag, then by arrival.
    order: BTreeSet<(u64, Ticket)>,
    clients: HashMap<ClientKey, Share>,
    /// Clients with somebody waiting.
    active: usize,
    /// How far the service of this class's clients has come: one round, in which each client is served once, is
    /// [`ROUND`].
    now: u64,
    /// When, in the time of `Line::now`, this class is due.
    due: u64,
}

/// What one client has of the line.
#[derive(Clone, Copy, Debug, Default)]
struct Share {
    waiting: usize,
    last_tag: Option<u64>,
}

/// The service of each client once.
const ROUND: u64 = 1 << 20;

/// Clients that are remembered although they do not wait.
const REMEMBERED: usize = 256;

impl Share {
    /// Where this client's next request stands: a round after his last, or now.
    fn next_tag(self, now: u64) -> u64 {
        self.last_tag.map_or(now, |last| now.max(last + ROUND))
    }
}

impl Rank {
    /// Forgets clients who have no request here and whose last is a round ago.
    fn forget_clients(&mut self) {
        if self.clients.len() <= 2 * self.active + REMEMBERED {
            return;
        }
        let now = self.now;
        self.clients.retain(|_, share| share.waiting > 0 || share.next_tag(now) > now);
        if self.clients.len() > 2 * self.active + REMEMBERED {
            // Very many clients in one round: forgetting costs them nothing but a place.
            self.clients.retain(|_, share| share.waiting > 0);
        }
    }
}

impl Line {
    /// Takes a place.
    pub fn join(&mut self, waiting: Waiting) -> Ticket {
        let ticket = Ticket(self.next_ticket);
        self.next_ticket += 1;
        let now = self.now;
        let rank = &mut self.ranks[waiting.ask.class.index()];
        if rank.order.is_empty() {
            // A class that nobody waited in has nothing saved up.
            rank.due = rank.due.max(now);
        }
        let share = rank.clients.entry(waiting.ask.client).or_default();
        if share.waiting == 0 {
            rank.active += 1;
        }
        let tag = share.next_tag(rank.now);
        *share = Share { waiting: share.waiting + 1, last_tag: Some(tag) };
        rank.order.insert((tag, ticket));
        self.places.insert(ticket, (waiting, tag));
        ticket
    }

    /// Leaves without being served; says whether there was such a place. It cost his client no turn: his later ones move up,
    /// and whoever presses reload stands where he stood.
    pub fn leave(&mut self, ticket: Ticket) -> bool {
        let Some((waiting, mut free)) = self.remove(ticket) else { return false };
        let client = waiting.ask.client;
        let rank = &mut self.ranks[waiting.ask.class.index()];
        let Some(share) = rank.clients.get_mut(&client) else { return true };
        if share.waiting > 0 {
            let places = &mut self.places;
            let is_his = |ticket: &Ticket| places.get(ticket).is_some_and(|(other, _)| other.ask.client == client);
            let later: Vec<(u64, Ticket)> =
                rank.order.range((free, ticket)..).filter(|(_, ticket)| is_his(ticket)).copied().collect();
            for (tag, ticket) in later {
                rank.order.remove(&(tag, ticket));
                rank.order.insert((free, ticket));
                if let Some((_, place)) = places.get_mut(&ticket) {
                    *place = free;
                }
                free = tag;
            }
        }
        // The next one gets this turn, or a later one if it has passed.
        share.last_tag = free.checked_sub(ROUND);
        if share.waiting == 0 && share.next_tag(rank.now) <= rank.now {
            rank.clients.remove(&client);
        }
        true
    }

    /// Leaves because it is his turn.
    pub fn serve(&mut self, ticket: Ticket) {
        let Some((waiting, tag)) = self.remove(ticket) else { return };
        let class = waiting.ask.class;
        let rank = &mut self.ranks[class.index()];
        // Those who still wait and the one who goes share the round.
        rank.now = rank.now.max(tag) + ROUND / (rank.active as u64 + 1);
        rank.forget_clients();
        self.now = self.now.max(rank.due);
        rank.due = self.now + class.cost();
    }

    fn remove(&mut self, ticket: Ticket) -> Option<(Waiting, u64)> {
        let (waiting, tag) = self.places.remove(&ticket)?;
        let rank = &mut self.ranks[waiting.ask.class.index()];
        rank.order.remove(&(tag, ticket));
        if let Some(share) = rank.clients.get_mut(&waiting.ask.client) {
            share.waiting -= 1;
            if share.waiting == 0 {
                rank.active -= 1;
            }
        }
        Some((waiting, tag))
    }

    /// All who wait, the next first.
    pub fn in_order(&self) -> impl Iterator<Item = (Ticket, &Waiting)> {
        let mut ranks: Vec<&Rank> = self.ranks.iter().filter(|rank| !rank.order.is_empty()).collect();
        // Stable: of equals the more urgent class comes first.
        ranks.sort_by_key(|rank| rank.due);
        let tickets = ranks.into_iter().flat_map(|rank| rank.order.iter().map(|(_, ticket)| *ticket));
        tickets.filter_map(|ticket| Some((ticket, &self.places.get(&ticket)?.0)))
    }

    /// How many would go before a newcomer: of his class those with an earlier turn, of the others what their share lets
    /// them take meanwhile.
    pub fn ahead_of(&self, class: Class, client: ClientKey) -> usize {
        let rank = &self.ranks[class.index()];
        let tag = rank.clients.get(&client).copied().unwrap_or_default().next_tag(rank.now);
        let own = rank.order.range(..(tag, Ticket(u64::MAX))).count();
        let cost = class.cost();
        let others = Class::ALL.iter().filter(|other| **other != class).map(|other| {
            let share = (own as u64 + 1) * cost / other.cost();
            self.of_class(*other).min(usize::try_from(share).unwrap_or(usize::MAX))
        });
        own + others.sum::<usize>()
    }

    /// How many of this client's requests of a class wait.
    pub fn of_client(&self, class: Class, client: ClientKey) -> usize {
        self.ranks[class.index()].clients.get(&client).map_or(0, |share| share.waiting)
    }

    /// How many of a class wait.
    pub fn of_class(&self, class: Class) -> usize {
        self.ranks[class.index()].order.len()
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// Whether nobody waits.
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asks(line: &mut Line, client: u64) -> Ticket {
        let ask = Ask { client: ClientKey(client), class: Class::Anonymous, avoid: None, pinned: None, hash: 0 };
        line.join(Waiting { ask })
    }

    fn order(line: &Line) -> Vec<Ticket> {
        line.in_order().map(|(ticket, _)| ticket).collect()
    }

    #[test]
    fn who_presses_reload_again_and_again_stands_where_he_stood() {
        let mut line = Line::default();
        let others = [asks(&mut line, 1), asks(&mut line, 2)];
        let mut his = asks(&mut line, 9);
        for _ in 0..20 {
            assert!(line.leave(his));
            his = asks(&mut line, 9);
        }
        let newcomers = [asks(&mut line, 3), asks(&mut line, 4)];
        assert_eq!(order(&line), [others[0], others[1], his, newcomers[0], newcomers[1]]);
    }

    #[test]
    fn when_one_of_many_leaves_those_behind_him_move_up_and_what_was_served_still_counts() {
        let mut line = Line::default();
        let many: Vec<Ticket> = (0..4).map(|_| asks(&mut line, 1)).collect();
        let other: Vec<Ticket> = (0..3).map(|_| asks(&mut line, 2)).collect();
        line.serve(many[0]);
        line.leave(many[1]);
        assert_eq!(order(&line), [other[0], many[2], other[1], many[3], other[2]]);
        let last = asks(&mut line, 1);
        assert_eq!(order(&line), [other[0], many[2], other[1], many[3], other[2], last]);
        for ticket in [many[2], many[3], last] {
            line.leave(ticket);
        }
        let again = asks(&mut line, 1);
        assert_eq!(order(&line), [other[0], other[1], again, other[2]], "his second turn, for he had one");
    }

    #[test]
    fn ever_new_clients_who_leave_unserved_do_not_fill_the_memory() {
        let mut line = Line::default();
        for client in 0..1000 {
            let ticket = asks(&mut line, client);
            line.leave(ticket);
        }
        assert!(line.ranks.iter().all(|rank| rank.clients.is_empty()));
    }

    #[test]
    fn ever_new_clients_do_not_fill_the_memory() {
        let mut line = Line::default();
        for client in 0..20 * REMEMBERED as u64 {
            let ask = Ask { client: ClientKey(client), class: Class::Anonymous, avoid: None, pinned: None, hash: 0 };
            let ticket = line.join(Waiting { ask });
            line.serve(ticket);
            let known = line.ranks.iter().map(|rank| rank.clients.len()).max();
            assert!(known <= Some(REMEMBERED + 1), "{known:?}");
        }
        assert!(line.is_empty());
    }
}
