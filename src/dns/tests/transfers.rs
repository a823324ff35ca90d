//! Zones on their way to secondaries, read as those do.

use super::transfer::{Transfer, notify, refuse};
use super::*;
use proptest::test_runner::TestCaseError;
use std::collections::BTreeSet;

type Key = (String, u16, u32, Vec<u8>);

/// All records of all messages, in order; data as the crate composes them, uncompressed.
fn receive(mut transfer: Transfer, most: usize) -> Vec<Key> {
    let mut records = Vec::new();
    let mut out = Vec::new();
    while transfer.next(most, &mut out) {
        assert!(out.len() <= most);
        let message = Message::from_octets(&*out).unwrap();
        assert!(message.header().qr() && message.header().aa() && message.header().id() == 0x1234);
        assert_eq!(message.header_counts().qdcount(), 1);
        for record in message.answer().unwrap() {
            let record = record.unwrap().into_record::<AllRecordData<_, _>>().unwrap().unwrap();
            let mut data = Vec::new();
            domain::base::rdata::ComposeRecordData::compose_rdata(record.data(), &mut data).unwrap();
            records.push((record.owner().to_string(), record.rtype().to_int(), record.ttl().as_secs(), data));
        }
        assert!(message.answer().unwrap().next_section().unwrap().is_some());
    }
    assert!(!transfer.next(most, &mut out));
    records
}

fn whole(zone: &Arc<Zone>) -> Vec<Key> {
    receive(Transfer::new(&query("company.example.", "AXFR"), None, vec![zone.clone()]), 65535)
}

/// Takes what an IXFR says into a copy of the old version, strictly.
pub fn check_changes(old: &Arc<Zone>, new: &Arc<Zone>) -> Result<(), TestCaseError> {
    let ixfr = Transfer::new(&query("company.example.", "IXFR"), Some(1), vec![new.clone(), old.clone()]);
    let records = receive(ixfr, 65535);
    let soas: Vec<usize> = (0..records.len()).filter(|at| records[*at].1 == 6).collect();
    proptest::prop_assert_eq!(soas.len(), 4);
    proptest::prop_assert_eq!((soas[0], soas[1], soas[3]), (0, 1, records.len() - 1));
    let (was, is) = (whole(old), whole(new));
    let mut copy: BTreeSet<Key> = was[1..was.len() - 1].iter().cloned().collect();
    for gone in &records[2..soas[2]] {
        proptest::prop_assert!(copy.remove(gone), "{:?} was not there", gone);
    }
    for come in &records[soas[2] + 1..soas[3]] {
        proptest::prop_assert!(copy.insert(come.clone()), "{:?} was there", come);
    }
    proptest::prop_assert_eq!(&records[1], &was[0]);
    proptest::prop_assert!(records[0] == is[0] && records[soas[2]] == is[0] && records[soas[3]] == is[0]);
    proptest::prop_assert_eq!(copy, is[1..is.len() - 1].iter().cloned().collect());
    Ok(())
}

#[test]
fn a_whole_zone_begins_and_ends_with_its_soa() {
    let lab = Lab::new(&[("company.example.", ZONE)]);
    let zone = &lab.snapshot.zones()[0];
    let records = whole(zone);
    assert_eq!((records[0].1, records.last()), (6, Some(&records[0])));
    assert_eq!(records.len(), zone.records().count() + 1);
    assert_eq!(records.iter().filter(|record| record.1 == 6).count(), 2);
    // The same in small messages: no record is cut, lost or doubled.
    for most in [200, 333, 512, 1000] {
        assert_eq!(receive(Transfer::new(&query("company.example.", "AXFR"), None, vec![zone.clone()]), most), records);
    }
}

#[test]
fn a_pool_member_that_goes_is_one_change() {
    let names = vec![Name::parse("mail.company.example.").unwrap()];
    let member = |address: &str| Member { name: address.into(), addresses: vec![address.parse().unwrap()], weight: 1 };
    let (members, when_down) = (vec![member("192.0.2.1"), member("192.0.2.2")], WhenDown::All);
    let pool = Pool {
        name: "mail".into(),
        slot: 0,
        names,
        ttl_s: 30,
        max_answers: 1,
        min_up: 1,
        when_down,
        members,
        plan: None,
    };
    let text = "$TTL 60\n@ SOA ns.example. admin 1 1h 15m 2w 5m\n NS ns.example.\n MX 1 mail\n";
    let mut lab = Lab::with(&[("company.example.", text)], &[Arc::new(pool)], Settings::default());
    let old = lab.snapshot.zones()[0].clone();
    lab.states(&[0b10]);
    let new = lab.snapshot.zones()[0].clone();
    check_changes(&old, &new).unwrap();
    let ixfr = |since| {
        let kinds = receive(
            Transfer::new(&query("company.example.", "IXFR"), Some(since), vec![new.clone(), old.clone()]),
            65535,
        );
        kinds.iter().map(|record| record.1).collect::<Vec<_>>()
    };
    assert_eq!(ixfr(1), [6, 6, 1, 6, 6]);
    // Not known any more: the whole zone. Known already, or from the future: the SOA.
    assert_eq!(ixfr(0), [6, 2, 15, 1, 6]);
    assert_eq!(ixfr(2), [6]);
    assert_eq!(ixfr(3), [6]);
}

#[test]
fn who_may_not_have_it_is_told_so() {
    let mut out = [0; 512];
    let long = refuse(&query("company.example.", "AXFR"), wire::rcode::REFUSED, &mut out);
    assert_eq!(show(&out[..long]), "REFUSED rd");
    let long = refuse(&edns(query("company.example.", "AXFR"), 1232, 0, &[]), wire::rcode::NOTAUTH, &mut out);
    assert_eq!(show(&out[..long]), "NOTAUTH rd");
    assert_eq!(refuse(&query("company.example.", "AXFR"), 5, &mut [0; 20]), 0);
}

#[test]
fn a_notification_is_a_question_with_the_soa_beside_it() {
    let lab = Lab::new(&[("company.example.", ZONE)]);
    let message = notify(&lab.snapshot.zones()[0], 7);
    let message = Message::from_octets(&*message).unwrap();
    assert_eq!((message.header().id(), message.header().opcode().to_int(), message.header().aa()), (7, 4, true));
    assert_eq!(message.sole_question().unwrap().qtype(), Rtype::SOA);
    let soa = message.answer().unwrap().limit_to::<domain::rdata::Soa<_>>().next().unwrap().unwrap();
    assert_eq!(
        (soa.owner().to_string(), soa.data().serial().into_int()),
        ("company.example".to_owned(), 2_026_112_101)
    );
}
