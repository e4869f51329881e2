use super::*;
use crate::zodb::writer::Data;
use crate::zodb::writer::Writer;
use proptest::prelude::*;

/// How a walk ended.
#[derive(Debug, PartialEq, Eq)]
struct Walked {
    transactions: u64,
    records: u64,
    skipping: u64,
    end: Result<(u64, bool), Fault>,
}

fn walk_on(mut bytes: &[u8], mut checker: Checker) -> Walked {
    let end = loop {
        match checker.step(&mut bytes) {
            Ok(Step::Good(_)) => {}
            Ok(Step::End) => break Ok((checker.mark().position, false)),
            Ok(Step::Unfinished) => break Ok((checker.mark().position, true)),
            Err(Trouble::Fault(fault)) => break Err(fault),
        }
    };
    let (transactions, records) = (checker.transactions(), checker.records());
    Walked { transactions, records, skipping: checker.remarks().skipping, end }
}

fn walk(mut bytes: &[u8]) -> Walked {
    match Checker::whole(&mut bytes, 1 << 20) {
        Ok(checker) => walk_on(bytes, checker),
        Err(Trouble::Fault(fault)) => Walked { transactions: 0, records: 0, skipping: 0, end: Err(fault) },
    }
}

fn fault(bytes: &[u8]) -> Fault {
    walk(bytes).end.expect_err("it is wrong")
}

/// Three transactions; the positions of each, and of the records in the last.
struct Sample {
    bytes: Vec<u8>,
    begins: [u64; 3],
    /// Of object 1, its third record, which has its data in the first; and of object 2, its second.
    records: [u64; 2],
    first: [u64; 2],
}

fn sample() -> Sample {
    let mut writer = Writer::new();
    let one = writer.transaction(b'p', b"/site", &[(1, Data::Own(b"root")), (2, Data::Own(b"page"))]);
    let first = [writer.place(1), writer.place(2)];
    let two = writer.transaction(b' ', b"", &[(1, Data::Own(b"changed"))]);
    let three = writer.transaction(b' ', b"undo", &[(1, Data::Back(first[0])), (2, Data::Own(b"page 2"))]);
    let records = [writer.place(1), writer.place(2)];
    Sample { bytes: writer.bytes, begins: [one, two, three], records, first }
}

fn put(bytes: &mut [u8], at: u64, with: &[u8]) {
    let at = usize::try_from(at).unwrap();
    bytes[at..at + with.len()].copy_from_slice(with);
}

#[test]
fn a_good_file_is_good_with_or_without_memory() {
    let mut sample = sample();
    let end = sample.bytes.len() as u64;
    let good = Walked { transactions: 3, records: 5, skipping: 0, end: Ok((end, false)) };
    assert_eq!(walk(&sample.bytes), good);
    assert_eq!(walk_on(&sample.bytes, Checker::after(Mark::START)), good, "every pointer is followed");
    sample.bytes.truncate(4);
    assert_eq!(walk(&sample.bytes).end, Ok((4, false)), "a new storage has no transaction");
}

#[test]
fn every_field_that_is_wrong_is_named_with_its_place() {
    let good = sample();
    let [begins, end] = [good.begins[2], good.bytes.len() as u64];
    let [one, two] = good.records;
    let at = |at, what| Fault { at, transaction: begins, what };
    let tid = |at: u64| {
        let at = usize::try_from(at).unwrap();
        Tid(u64::from_be_bytes(good.bytes[at..at + 8].try_into().unwrap()))
    };
    let (last, own) = (tid(good.begins[1]), tid(begins));
    let len = end - 8 - begins;
    let other = What::Previous { oid: Oid(2), pointer: good.first[0], why: Astray::Other(Oid(1)) };
    let cases: &[(u64, &[u8], Fault)] = &[
        (begins, &last.0.to_be_bytes(), at(begins, What::Order { tid: last, last })),
        (begins, &[0; 8], at(begins, What::Order { tid: Tid(0), last })),
        (begins + 8, &(len + 1).to_be_bytes(), at(begins, What::CutOff { announced: len + 9, present: len + 8 })),
        (begins + 8, &[0xff; 8], at(begins, What::CutOff { announced: u64::MAX, present: len + 8 })),
        (begins + 8, &(len - 1).to_be_bytes(), at(two, What::RecordBeyond(end - 9))),
        (begins + 8, &[0; 8], at(begins, What::Head { head: 27, len: 0 })),
        (begins + 16, b"x", at(begins, What::Status(b'x'))),
        (good.begins[1] + 16, b"c", Fault { at: good.begins[1], transaction: good.begins[1], what: What::Unfinished }),
        (begins + 21, &[0xff, 0xff], at(begins, What::Head { head: 27 + 65535, len })),
        (one + 8, &last.0.to_be_bytes(), at(one, What::Tid { says: last, stands: own })),
        (one + 16, &one.to_be_bytes(), at(one, previous(1, one, Astray::Forwards))),
        (one + 16, &4_u64.to_be_bytes(), at(one, previous(1, 4, Astray::NoRecord))),
        (one + 16, &[0xff; 8], at(one, previous(1, u64::MAX, Astray::Forwards))),
        (two + 16, &good.first[0].to_be_bytes(), at(two, other)),
        (one + 24, &[0; 8], at(one, What::Place { says: 0, begins })),
        (one + 32, &[0, 1], at(one, What::Version(1))),
        (two + 34, &7_u64.to_be_bytes(), at(two, What::RecordBeyond(end - 8))),
        (two + 34, &[0xff; 8], at(two, What::RecordBeyond(end - 8))),
        (one + 42, &5_u64.to_be_bytes(), at(one, back(5, Astray::NoRecord))),
        (one + 42, &two.to_be_bytes(), at(one, back(two, Astray::Forwards))),
        (one + 42, &good.first[1].to_be_bytes(), at(one, back(good.first[1], Astray::Other(Oid(2))))),
        (end - 8, &[0; 8], at(begins, What::Trailer { len, says: 0 })),
        (0, b"FS21", Fault { at: 0, transaction: 0, what: What::Magic }),
    ];
    for (place, bytes, expected) in cases {
        let mut damaged = good.bytes.clone();
        put(&mut damaged, *place, bytes);
        assert_eq!(fault(&damaged), *expected, "{bytes:?} at {place}");
    }
    assert_eq!(fault(b"").what, What::Empty);
    assert_eq!(fault(b"FS3").what, What::Magic);
}

fn previous(oid: u64, pointer: u64, why: Astray) -> What {
    What::Previous { oid: Oid(oid), pointer, why }
}

fn back(pointer: u64, why: Astray) -> What {
    What::Back { oid: Oid(1), pointer, why }
}

#[test]
fn a_pointer_that_skips_a_record_is_remarked_on() {
    let good = sample();
    let mut odd = good.bytes.clone();
    put(&mut odd, good.records[0] + 16, &good.first[0].to_be_bytes());
    assert_eq!(walk(&odd).skipping, 1);
    put(&mut odd, good.records[0] + 16, &[0; 8]);
    put(&mut odd, good.records[1] + 16, &[0; 8]);
    assert_eq!(walk(&odd), Walked { skipping: 2, ..walk(&good.bytes) });
}

#[test]
fn two_records_of_an_object_in_one_transaction_point_to_the_same() {
    let mut writer = Writer::new();
    writer.transaction(b' ', b"", &[(1, Data::Own(b"a"))]);
    writer.transaction(b' ', b"", &[(1, Data::Own(b"b")), (1, Data::Own(b"c"))]);
    writer.transaction(b' ', b"", &[(1, Data::Own(b"d"))]);
    let end = writer.position();
    assert_eq!(walk(&writer.bytes), Walked { transactions: 3, records: 4, skipping: 0, end: Ok((end, false)) });
}

#[test]
fn a_file_cut_anywhere_is_found_out_unless_it_is_cut_between_transactions() {
    let good = sample();
    let bounds: Vec<u64> = good.begins.iter().copied().chain([good.bytes.len() as u64]).collect();
    for len in 4..good.bytes.len() {
        let cut = walk(&good.bytes[..len]);
        let between = bounds.iter().position(|bound| *bound == len as u64);
        match between {
            Some(transactions) => {
                assert_eq!((cut.transactions, cut.end), (transactions as u64, Ok((len as u64, false))));
            }
            None => {
                assert!(cut.end.is_err(), "cut to {len}: {cut:?}");
            }
        }
    }
}

#[test]
fn an_unfinished_transaction_at_the_end_is_no_fault_however_much_of_it_is_written() {
    let mut good = sample();
    let begins = good.begins[2];
    put(&mut good.bytes, begins + 16, b"c");
    for len in begins + 17..=good.bytes.len() as u64 {
        let cut = walk(&good.bytes[..usize::try_from(len).unwrap()]);
        assert_eq!((cut.transactions, cut.end), (2, Ok((begins, true))), "cut to {len}");
    }
    // What there is of it must be good: damage must not pass for an unfinished transaction.
    let len = usize::try_from(good.records[0] + 42).unwrap();
    let mut damaged = good.bytes[..len].to_vec();
    put(&mut damaged, good.records[0] + 24, &[1; 8]);
    assert_eq!(fault(&damaged).at, good.records[0]);
    put(&mut good.bytes, begins, &[0; 8]);
    assert_eq!(fault(&good.bytes[..usize::try_from(begins).unwrap() + 17]).at, begins);
}

#[test]
fn the_last_transactions_are_found_from_the_end_and_a_mark_holds_only_where_it_was_made() {
    let good = sample();
    let end = good.bytes.len() as u64;
    let mut bytes = &good.bytes[..];
    for (count, position, transactions) in
        [(0, end, 0), (1, good.begins[2], 1), (2, good.begins[1], 2), (3, 4, 3), (9, 4, 3)]
    {
        let mark = tail(&mut bytes, count).unwrap().expect("it ends with a whole transaction");
        assert_eq!(mark.position, position);
        assert!(mark.holds(&mut bytes).unwrap());
        let walked = walk_on(bytes, Checker::after(mark));
        assert_eq!((walked.transactions, walked.end), (transactions, Ok((end, false))));
        assert!(!Mark { tid: Tid(mark.tid.0 + 1), ..mark }.holds(&mut bytes).unwrap());
        assert!(!Mark { position: mark.position + 1, ..mark }.holds(&mut bytes).unwrap());
    }
    let mut cut = &good.bytes[..good.bytes.len() - 1];
    assert_eq!(tail(&mut cut, 1), Ok(None));
    let mut swapped = good.bytes.clone();
    put(&mut swapped, good.begins[1], &[0xff; 8]);
    assert_eq!(tail(&mut &swapped[..], 2), Ok(None), "ids decrease");
}

#[test]
fn a_fault_can_be_tried_again_when_the_file_has_changed() {
    let good = sample();
    let mut damaged = good.bytes.clone();
    put(&mut damaged, good.records[1] + 24, &[0; 8]);
    let mut checker = Checker::whole(&mut &damaged[..], 1 << 20).ok().unwrap();
    let good_steps = [(); 4].map(|()| checker.step(&mut &damaged[..]).is_ok());
    assert_eq!(good_steps, [true, true, false, false]);
    assert_eq!(walk_on(&good.bytes, checker), walk(&good.bytes));
}

/// Random histories: transactions of writes and undos.
fn history() -> impl Strategy<Value = Vec<u8>> {
    let record = (0_u64..6, proptest::option::weighted(0.8, proptest::collection::vec(any::<u8>(), 1..30)));
    let transaction = (proptest::collection::vec(record, 0..5), proptest::collection::vec(any::<u8>(), 0..10));
    proptest::collection::vec(transaction, 0..8).prop_map(|history| {
        let mut writer = Writer::new();
        for (records, text) in &history {
            let data = |oid: u64, own: &'_ Option<Vec<u8>>| own.is_none().then(|| writer.place(oid));
            let pointers: Vec<Option<u64>> = records.iter().map(|(oid, own)| data(*oid, own)).collect();
            let records: Vec<(u64, Data<'_>)> = records
                .iter()
                .zip(pointers)
                .map(|((oid, own), pointer)| match (own, pointer) {
                    (Some(own), _) => (*oid, Data::Own(own)),
                    (None, pointer) => (*oid, Data::Back(pointer.unwrap_or(0))),
                })
                .collect();
            writer.transaction(b' ', text, &records);
        }
        writer.bytes
    })
}

proptest! {
    #[test]
    fn what_zodb_would_write_is_good(bytes in history()) {
        let walked = walk(&bytes);
        prop_assert_eq!(walked.end, Ok((bytes.len() as u64, false)));
        prop_assert_eq!(walked.skipping, 0);
        prop_assert_eq!(walk_on(&bytes, Checker::after(Mark::START)), walked);
    }

    #[test]
    fn any_damage_is_judged_without_a_panic(mut bytes in history(), at: prop::sample::Index, with: [u8; 9]) {
        let at = at.index(bytes.len());
        for (byte, with) in bytes[at..].iter_mut().zip(with) {
            *byte = with;
        }
        let walked = walk(&bytes);
        let followed = walk_on(&bytes, Checker::after(Mark::START));
        if bytes.starts_with(&MAGIC) {
            prop_assert_eq!(walked.end, followed.end, "what is remembered and what is followed agree");
        }
        let _ = tail(&mut &bytes[..], 3);
    }

    #[test]
    fn any_bytes_are_judged_without_a_panic(rest in proptest::collection::vec(any::<u8>(), 0..200)) {
        let bytes = [&MAGIC[..], &rest].concat();
        prop_assert!(rest.is_empty() || walk(&bytes).end.is_err() || walk(&bytes).end == Ok((4, true)));
        let _ = tail(&mut &bytes[..], 3);
    }
}
