use super::*;
use crate::heartbeat::machine::Action;
use crate::heartbeat::machine::Began;
use crate::heartbeat::machine::BootId;
use crate::heartbeat::machine::Input;
use crate::heartbeat::machine::Journal;
use crate::heartbeat::machine::LinkId;
use crate::heartbeat::machine::NodeName;
use crate::heartbeat::machine::Note;
use crate::heartbeat::machine::Order;
use crate::heartbeat::machine::Roster;
use crate::heartbeat::machine::Saved;
use crate::heartbeat::machine::Settings;
use crate::heartbeat::machine::TAKEOVERS_KEPT;
use crate::heartbeat::machine::message::Echo;
use crate::heartbeat::machine::message::sample;

const ME: BootId = BootId(7);

/// A standby of three voters, and what it can be told.
struct Standby {
    machine: Machine,
    now: Instant,
    seq: u64,
    actions: Vec<Action>,
    disk: Saved,
}

impl Standby {
    fn new(saved: &Saved, change: impl FnOnce(&mut Settings)) -> Self {
        let name = |text: &str| NodeName::parse(text).expect("a name");
        let roster = Roster::new([name("zeo-a"), name("zeo-b")], vec![name("edge")]).expect("a roster");
        let mut settings = Settings::fast(NodeId(1), roster, [1; 9]);
        change(&mut settings);
        let (now, mut actions) = (Instant::now(), Vec::new());
        let began = Began { boot: ME, at: now, wall: 1_795_000_000 };
        let machine = Machine::new(settings, began, &Journal::Found(*saved), &mut actions);
        let mut new = Self { machine, now, seq: 1, actions, disk: *saved };
        new.tell(Input::AddressDone { epoch: Epoch(0), raised: false, result: Ok(()) });
        new.tell(Input::ResourceDone { epoch: Epoch(0), started: false, result: Ok(()) });
        new
    }

    /// What it wants written is on the disk at once.
    fn tell(&mut self, input: Input) {
        let mut next = Some(input);
        while let Some(input) = next.take() {
            let before = self.actions.len();
            self.machine.handle(input, self.now, &mut self.actions);
            for action in self.actions.iter().skip(before) {
                if let Action::SaveEpoch { ticket, saved } = action {
                    self.disk = *saved;
                    next = Some(Input::EpochSaved { ticket: *ticket, result: Ok(()) });
                }
            }
        }
    }

    /// So many seconds pass, with a tick in each.
    fn pass(&mut self, seconds: u64) {
        for _ in 0..seconds {
            self.now += Duration::from_secs(1);
            self.tell(Input::Tick);
        }
    }

    /// The other member serves in epoch 3, and has that transaction.
    fn hear_active(&mut self, tid: Tid) {
        let mut last = 0;
        for action in &self.actions {
            if let Action::Send { to: NodeId(0), beat, .. } = action {
                last = beat.seq;
            }
        }
        for _ in 0..2 {
            self.seq += 1;
            let echo = Echo { boot: ME, seq: last };
            let (from, to, link) = (NodeId(0), NodeId(1), LinkId(0));
            let held = Epoch(3);
            let beat = Beat { from, to, link, boot: BootId(5), seq: self.seq, echo, held, seen: held, tid, ..sample() };
            self.tell(Input::Heard { link, beat: Beat { standing: Standing::Active, ..beat } });
        }
    }

    fn order(&mut self, order: Order) -> Option<Refused> {
        self.actions.clear();
        self.tell(Input::Operator(order));
        self.actions.iter().find_map(|action| match action {
            Action::Note(Note::OrderRefused(told, refused)) if *told == order => Some(refused.clone()),
            _ => None,
        })
    }
}

#[test]
fn who_is_behind_tells_which_transactions_it_lacks_and_for_how_long() {
    let mut standby = Standby::new(&Saved::default(), |_| {});
    standby.tell(Input::Copy(Tid(0x040d_34aa_d000_0000)));
    standby.hear_active(Tid(0x040d_34aa_e000_0000));
    // What was told a moment ago may be under way to the copy; what is missing two seconds later is not.
    assert_eq!(standby.machine.status(standby.now).ready, Ok(()));
    standby.pass(2);
    standby.hear_active(Tid(0x040d_34aa_e000_0000));
    assert_eq!(standby.machine.status(standby.now).ready, Err(Refusal::Behind));
    let told = standby.machine.explained(Refusal::Behind);
    let expected = "its copy ends in transaction 0x040d34aad0000000 of 2026-11-23 09:14:48 UTC, the active of epoch 3 \
                    acknowledged up to 0x040d34aae0000000 of 2026-11-23 09:14:52 UTC: what came in the 3.750 s between \
                    them is missing";
    assert_eq!(told, Refused { by: NodeId(1), refusal: Refusal::Behind, facts: vec![expected.to_owned()] });
}

#[test]
fn an_order_that_is_not_followed_is_answered_with_what_stands_in_its_way() {
    let mut standby = Standby::new(&Saved::default(), |_| {});
    standby.tell(Input::Copy(Tid(1)));
    standby.hear_active(Tid(1));
    for (order, refusal) in [
        (Order::Switchover, Some(Refusal::NotActive)),
        (Order::ForceTakeover, Some(Refusal::PeerServes)),
        (Order::Standby, None),
        (Order::Online, None),
        (Order::Maintenance(true), None),
    ] {
        let told = standby.order(order);
        assert_eq!(told.as_ref().map(|told| told.refusal), refusal, "{order:?}");
        assert!(told.is_none_or(|told| told.by == NodeId(1)));
    }
    assert_eq!(standby.machine.status(standby.now).ready, Err(Refusal::Maintenance));
}

#[test]
fn takeovers_and_standby_outlive_a_restart_and_online_begins_anew() {
    let mut takeovers = [0; TAKEOVERS_KEPT];
    // One from the future, for the clock was wrong, two of this hour, one of the last.
    for (slot, ago) in takeovers.iter_mut().zip([-500_i64, 30, 3_000, 4_000]) {
        *slot = u32::try_from(1_795_000_000 - ago).expect("a date");
    }
    let saved = Saved { standby: true, takeovers, ..Saved::default() };
    let mut standby = Standby::new(&saved, |settings| settings.takeovers_max = 3);
    standby.tell(Input::Copy(Tid(1)));
    standby.hear_active(Tid(1));
    let told = |standby: &Standby| {
        let status = standby.machine.status(standby.now);
        (status.ready, status.takeovers)
    };
    assert_eq!(told(&standby), (Err(Refusal::Standby), 3));
    standby.machine.register.want.standby = false;
    assert_eq!(told(&standby), (Err(Refusal::TooMany), 3));
    let facts = standby.machine.explained(Refusal::TooMany).facts;
    assert_eq!(facts, ["3 are allowed; the first of them counts for 600 s more"]);
    assert_eq!(standby.order(Order::Online), None);
    assert_eq!(told(&standby), (Ok(()), 0));
    assert_eq!((standby.disk.standby, standby.disk.takeovers), (false, [0; TAKEOVERS_KEPT]), "it is on the disk");
}

#[test]
fn every_refusal_has_a_word_of_its_own_a_reason_and_a_remedy() {
    let words: std::collections::BTreeSet<&str> = Refusal::ALL.iter().map(|refusal| refusal.word()).collect();
    assert_eq!(words.len(), Refusal::ALL.len());
    for refusal in Refusal::ALL {
        assert_eq!(Refusal::of(refusal.code()), Some(refusal));
        assert!(!refusal.reason().is_empty() && !refusal.remedy().is_empty());
    }
    assert_eq!((Refusal::of(0), Refusal::of(24)), (None, None));
}
