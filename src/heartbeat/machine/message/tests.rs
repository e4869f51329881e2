use super::*;
use crate::heartbeat::machine::names::NodeName;
use proptest::prelude::*;

fn roster() -> Roster {
    let name = |text: &str| NodeName::parse(text).expect("a name");
    Roster::new([name("zeo-a"), name("zeo-b")], vec![name("edge")]).expect("a roster")
}

fn cluster() -> ClusterName {
    ClusterName::parse("site").expect("a name")
}

fn keys(all: &[&[u8]]) -> KeyRing {
    KeyRing::new(all).expect("keys")
}

const OLD: &[u8] = b"the key of last year, long enough";
const NEW: &[u8] = b"the key of this year, long enough";

prop_compose! {
    fn hearsay()(
        released: u64, left_us: u32, armed: u64, backed: u64, service in 0..3_usize,
    ) -> Hearsay {
        Hearsay { released: Epoch(released), left_us, armed: Epoch(armed), backed: Epoch(backed), service: SERVICES[service] }
    }
}

prop_compose! {
    fn beats()(
        ids in (0..2_u8, 0..3_u8, 0..4_u8, 1_u64.., any::<u64>()),
        echo: (u64, u64),
        seen: u64,
        vote in proptest::option::of((1_u64.., 0..2_u8)),
        standing in 1..4_usize,
        ask in proptest::option::of((1_u64.., any::<bool>(), 0..4_usize, any::<u32>())),
        answer in proptest::option::of((any::<u64>(), any::<u64>(), 0..10_usize)),
        members in (hearsay(), hearsay()),
        tids: (u64, u64, u64),
        flags: (bool, bool, u32, bool),
        last: (u64, u8, u8),
    ) -> Beat {
        Beat {
            from: NodeId(ids.0),
            to: NodeId(if ids.1 == ids.0 { 2 } else { ids.1 }),
            link: LinkId(ids.2),
            boot: BootId(ids.3),
            seq: ids.4,
            echo: Echo { boot: BootId(echo.0), seq: echo.1 },
            seen: Epoch(seen),
            vote: vote.map(|(epoch, id)| Vote { epoch: Epoch(epoch), candidate: NodeId(id) }),
            standing: STANDINGS[standing],
            held: Epoch(0),
            ask: ask.map(|(epoch, earnest, ground, hold_us)| Ask {
                epoch: Epoch(epoch), earnest, ground: GROUNDS[ground], hold_us,
            }),
            answer: answer.map(|(epoch, seq, verdict)| Answer {
                epoch: Epoch(epoch), seq, verdict: VERDICTS[verdict],
            }),
            members: [members.0, members.1],
            tid: Tid(tids.0),
            known: Known { epoch: Epoch(tids.1), tid: Tid(tids.2) },
            armed: flags.0,
            lease_us: flags.2,
            ready: flags.1,
            maintenance: Maintenance { version: flags.2, on: flags.3 },
            plea: Epoch(last.0),
            refusal: last.1,
            unready: last.2,
        }
    }
}

proptest! {
    #[test]
    fn a_beat_reads_back(beat in beats()) {
        let (keys, cluster, roster) = (keys(&[NEW]), cluster(), roster());
        prop_assert_eq!(decode(&encode(&beat, &keys, &cluster, &roster), &keys, &cluster, &roster), Ok(beat));
    }

    #[test]
    fn any_changed_bit_is_noticed(beat in beats(), bit in 0..DATAGRAM * 8) {
        let (keys, cluster, roster) = (keys(&[NEW]), cluster(), roster());
        let mut datagram = encode(&beat, &keys, &cluster, &roster);
        datagram[bit / 8] ^= 1 << (bit % 8);
        prop_assert!(decode(&datagram, &keys, &cluster, &roster).is_err());
    }

    #[test]
    fn any_bytes_are_no_beat_and_no_panic(bytes in proptest::collection::vec(any::<u8>(), 0..2 * DATAGRAM)) {
        prop_assert!(decode(&bytes, &keys(&[NEW]), &cluster(), &roster()).is_err());
    }

    #[test]
    fn any_body_under_a_good_seal_is_a_beat_or_senseless(body in proptest::collection::vec(any::<u8>(), BODY)) {
        let (keys, cluster, roster) = (keys(&[NEW]), cluster(), roster());
        let mut datagram = [0; DATAGRAM];
        let mut out = Writer { bytes: &mut datagram, at: 0 };
        out.put(&MAGIC);
        out.put(&[VERSION, 0, 0, 0]);
        out.put(cluster.bytes());
        out.u64(roster.digest());
        out.put(&body);
        let seal = keys.seal(&datagram[..HEAD + BODY]);
        datagram[HEAD + BODY..].copy_from_slice(&seal);
        let read = decode(&datagram, &keys, &cluster, &roster);
        prop_assert!(matches!(read, Ok(_) | Err(Reject::Field)));
    }
}

pub(in crate::heartbeat::machine) fn some_beat() -> Beat {
    let nothing =
        Hearsay { released: Epoch(0), left_us: 0, armed: Epoch(0), backed: Epoch(0), service: Service::Unknown };
    Beat {
        from: NodeId(0),
        to: NodeId(2),
        link: LinkId(0),
        boot: BootId(1),
        seq: 1,
        echo: Echo::default(),
        seen: Epoch(0),
        vote: None,
        standing: Standing::Standby,
        held: Epoch(0),
        ask: None,
        answer: None,
        members: [nothing; 2],
        tid: Tid(0),
        known: Known::default(),
        armed: false,
        lease_us: 0,
        ready: false,
        maintenance: Maintenance::default(),
        plea: Epoch(0),
        refusal: 0,
        unready: 0,
    }
}

#[test]
fn the_body_has_room_for_all_fields() {
    let mut datagram = [0; DATAGRAM];
    let mut out = Writer { bytes: &mut datagram, at: HEAD };
    body(&some_beat(), &mut out);
    assert!(out.at <= HEAD + BODY, "{} of {}", out.at - HEAD, BODY);
}

#[test]
fn keys_change_one_voter_after_the_other() {
    let (cluster, roster) = (cluster(), roster());
    let read = |sealed: &KeyRing, opened: &KeyRing| {
        decode(&encode(&some_beat(), sealed, &cluster, &roster), opened, &cluster, &roster)
    };
    let (old, both, new) = (keys(&[OLD]), keys(&[OLD, NEW]), keys(&[NEW, OLD]));
    assert!(read(&both, &old).is_ok() && read(&old, &both).is_ok() && read(&new, &both).is_ok());
    assert_eq!(read(&new, &old), Err(Reject::Key));
}

#[test]
fn what_is_not_ours_is_told_apart() {
    let (ring, here, roster) = (keys(&[NEW]), cluster(), roster());
    let datagram = encode(&some_beat(), &ring, &here, &roster);
    let elsewhere = ClusterName::parse("other").expect("a name");
    let name = |text: &str| NodeName::parse(text).expect("a name");
    let larger = Roster::new([name("zeo-a"), name("zeo-b")], vec![name("edge"), name("x")]).expect("a roster");
    let mut newer = datagram;
    newer[4] = 9;
    assert_eq!(decode(&datagram, &ring, &elsewhere, &roster), Err(Reject::Cluster));
    assert_eq!(decode(&datagram, &ring, &here, &larger), Err(Reject::Roster));
    assert_eq!(decode(&newer, &ring, &here, &roster), Err(Reject::Version(9)));
    assert_eq!(decode(&datagram[1..], &ring, &here, &roster), Err(Reject::Garbage));
}

#[test]
fn what_no_correct_voter_says_is_not_read() {
    let (ring, cluster, roster) = (keys(&[NEW]), cluster(), roster());
    let read = |beat: &Beat| decode(&encode(beat, &ring, &cluster, &roster), &ring, &cluster, &roster);
    for beat in [
        Beat { standing: Standing::Witness, ..some_beat() },
        Beat { standing: Standing::Active, ..some_beat() },
        Beat { to: NodeId(0), ..some_beat() },
        Beat { to: NodeId(3), ..some_beat() },
        Beat { boot: BootId(0), ..some_beat() },
        Beat { from: NodeId(2), to: NodeId(0), held: Epoch(1), standing: Standing::Witness, ..some_beat() },
    ] {
        assert_eq!(read(&beat), Err(Reject::Field), "{beat:?}");
    }
    assert!(read(&some_beat()).is_ok());
}

#[test]
fn a_key_is_not_a_word() {
    assert_eq!(KeyRing::new(&[]).err(), Some(BadKey::None));
    assert_eq!(KeyRing::new(&[OLD, b"secret"]).err(), Some(BadKey::Short { place: 2, length: 6 }));
    assert_eq!(KeyRing::new(&[OLD; 5]).err(), Some(BadKey::Many(5)));
}
