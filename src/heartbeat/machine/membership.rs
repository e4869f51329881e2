//! Who is heard, on which link, in which direction, and since when not.
//!
//! A beat counts only if it is newer than the last one of its link, and a sender's new start only if its beat echoes one of
//! ours that is newer than all that were echoed before: a recorded datagram cannot do that. Silence is counted from the last
//! beat, and never from before `judge_from`: the start, or the end of a stall of our own.

use super::lease::At;
use super::message::Beat;
use super::message::Echo;
use super::names::BootId;
use super::names::LINKS_MAX;
use super::names::LinkId;

/// One link to one voter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Link {
    /// The number of the newest beat on it.
    seq: u64,
    /// When that came.
    pub(super) heard: Option<At>,
    /// The newest of our beats that was echoed on it, by its send time.
    pub(super) echoed: Option<At>,
    /// A start that has not yet shown that it is no recording, and when it was heard.
    pending: Option<(Echo, At)>,
    /// The longest pause between two beats.
    pub(super) gap: At,
    /// Its lateness was told.
    pub(super) late: bool,
    /// That it carries one way only was told.
    pub(super) one_way: bool,
}

/// One voter, as it is heard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Peer {
    /// Its start.
    pub(super) boot: BootId,
    /// The newest beat of it, on whatever link.
    pub(super) said: Option<Beat>,
    /// When something of it was last heard.
    pub(super) heard: Option<At>,
    /// Its links.
    pub(super) links: [Link; LINKS_MAX],
    /// That it is dead was told.
    pub(super) dead: bool,
    /// The newest of our beats that it has ever echoed.
    echo_floor: u64,
}

/// What became of a beat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Taken {
    /// It says something newer than all before.
    News,
    /// It is newer on its link, but another link was faster: it shows that the link lives, no more.
    Known,
    /// The sender has started anew and has shown it: news, and all that was heard of its former self is void.
    Restarted,
    /// A start that has yet to show that it is no recording: it will, if we echo it.
    Unproven,
    /// Older than what was heard: a replay, or a straggler.
    Old,
}

impl Peer {
    pub(super) fn new() -> Self {
        Self {
            boot: BootId(0),
            said: None,
            heard: None,
            links: [Link::default(); LINKS_MAX],
            dead: false,
            echo_floor: 0,
        }
    }

    /// Takes a beat that was meant for us; `me` is our own start.
    pub(super) fn hear(&mut self, beat: &Beat, link: LinkId, me: BootId, now: At) -> Taken {
        let Some(slot) = self.links.get_mut(usize::from(link.0)) else { return Taken::Old };
        let echoes_us = beat.echo.boot == me;
        let restarted = beat.boot != self.boot;
        if restarted {
            if !echoes_us || beat.echo.seq <= self.echo_floor {
                slot.pending = Some((Echo { boot: beat.boot, seq: beat.seq }, now));
                return Taken::Unproven;
            }
            let kept = self.links.map(|link| Link { gap: link.gap, ..Link::default() });
            (self.boot, self.said, self.links) = (beat.boot, None, kept);
        }
        let Some(slot) = self.links.get_mut(usize::from(link.0)) else { return Taken::Old };
        if slot.heard.is_some() && beat.seq <= slot.seq {
            return Taken::Old;
        }
        slot.seq = beat.seq;
        slot.gap = slot.gap.max(slot.heard.map_or(0, |before| now.saturating_sub(before)));
        slot.heard = Some(now);
        slot.late = false;
        self.heard = Some(now);
        if echoes_us {
            self.echo_floor = self.echo_floor.max(beat.echo.seq);
            slot.echoed = slot.echoed.max(Some(beat.echo.seq));
        }
        if self.said.is_some_and(|said| said.seq >= beat.seq) {
            return Taken::Known;
        }
        self.said = Some(*beat);
        if restarted { Taken::Restarted } else { Taken::News }
    }

    /// What to echo on a link; `odd` alternates while a new start waits to be echoed.
    pub(super) fn echo(&self, link: LinkId, odd: bool) -> Echo {
        let Some(slot) = self.links.get(usize::from(link.0)) else { return Echo::default() };
        let accepted = slot.heard.map(|_| Echo { boot: self.boot, seq: slot.seq });
        match (slot.pending, accepted) {
            (Some((echo, at)), Some(accepted)) => {
                if slot.heard.is_some_and(|heard| heard < at) && odd {
                    echo
                } else {
                    accepted
                }
            }
            (Some((echo, _)), None) => echo,
            (None, accepted) => accepted.unwrap_or_default(),
        }
    }

    /// Forgets what its former start has said.
    pub(super) fn silent_for(&self, judge_from: At, now: At) -> At {
        now.saturating_sub(self.heard.unwrap_or(0).max(judge_from))
    }

    /// Whether it was heard within `span`, whatever stalls there were.
    pub(super) fn heard_within(&self, span: At, now: At) -> bool {
        self.heard.is_some_and(|heard| now.saturating_sub(heard) < span)
    }

    /// Whether the link hears it, within `warn`, but it does not hear us: its echo is older than `dead`. Who is not heard any more
    /// is not deaf.
    pub(super) fn deaf_on(&self, link: usize, warn: At, dead: At, judge_from: At, now: At) -> bool {
        let within = |at: At, span: At| now.saturating_sub(at) < span;
        self.links.get(link).is_some_and(|link| {
            let heard = link.heard.is_some_and(|at| within(at, warn));
            heard && !within(link.echoed.unwrap_or(0).max(judge_from), dead)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::message::sample;
    use super::*;
    use Taken::*;

    const ME: BootId = BootId(7);

    fn beat(boot: u64, seq: u64, echo: (u64, u64)) -> Beat {
        Beat { boot: BootId(boot), seq, echo: Echo { boot: BootId(echo.0), seq: echo.1 }, ..sample() }
    }

    #[test]
    fn a_beat_counts_once_and_a_start_when_it_echoes_us() {
        let mut peer = Peer::new();
        for (at, boot, seq, echo, link, expected) in [
            (1, 1, 10, (0, 0), 0, Unproven),
            (2, 1, 20, (7, 1), 0, Restarted),
            (3, 1, 20, (7, 1), 0, Old),
            (4, 1, 20, (7, 1), 1, Known),
            (5, 1, 15, (7, 1), 1, Old),
            (6, 1, 30, (7, 5), 1, News),
            (7, 1, 25, (7, 4), 0, Known),
            // It starts anew; then somebody replays its former self, and its echoes of us.
            (8, 2, 1, (0, 0), 0, Unproven),
            (9, 2, 2, (7, 8), 0, Restarted),
            (10, 1, 40, (7, 5), 0, Unproven),
            (11, 2, 3, (7, 9), 0, News),
        ] {
            assert_eq!(peer.hear(&beat(boot, seq, echo), LinkId(link), ME, at), expected, "at {at}");
        }
        assert_eq!(peer.boot, BootId(2));
    }

    #[test]
    fn a_new_start_is_echoed_even_while_its_former_self_was_just_heard() {
        let mut peer = Peer::new();
        peer.hear(&beat(1, 10, (7, 1)), LinkId(0), ME, 5);
        peer.hear(&beat(2, 1, (0, 0)), LinkId(0), ME, 6);
        let echoed = [false, true].map(|odd| peer.echo(LinkId(0), odd).boot.0);
        assert_eq!(echoed, [1, 2]);
    }

    #[test]
    fn one_way_is_told_by_the_echo() {
        let mut peer = Peer::new();
        peer.hear(&beat(1, 10, (7, 100)), LinkId(0), ME, 120);
        assert!(!peer.deaf_on(0, 250, 500, 0, 200));
        peer.hear(&beat(1, 20, (7, 100)), LinkId(0), ME, 900);
        assert!(peer.deaf_on(0, 250, 500, 0, 901), "it is heard, and has heard nothing of ours for 800");
        assert!(!peer.deaf_on(0, 250, 500, 800, 901), "we stalled until 800");
        assert!(!peer.deaf_on(0, 250, 500, 0, 1_200), "it is late, and may be dead");
        assert!(!peer.deaf_on(1, 250, 500, 0, 901), "nothing is heard there at all");
    }
}
