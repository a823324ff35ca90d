//! Answering takes no memory: counted at the allocator.

use farside::affinity::{Share, Store};
use farside::dns::ahead::MOST;
use farside::dns::dnssec::{Algorithm, Key, Signer};
use farside::dns::steer::prefixes::Prefixes;
use farside::dns::steer::{Dynamic, Memory, Place, Plan, Steering, Stripe, Survey};
use farside::dns::{
    Ahead, Asked, Cookies, Count, Counts, Member, Name, Outcome, Pool, PoolState, RateLimit, Scratch, Settings,
    Silence, Snapshot, Transport, WhenDown, Zone, answer, master,
};
use farside::sites::ways::Way;
use farside::sites::{Load, SiteNumber, SiteTable, Ways};
use std::path::Path;
use std::sync::Arc;

mod counting;
use counting::counted;

const ZONE: &str = "
$TTL 1h
@ SOA ns1 admin 1 1h 15m 2w 5m
  NS ns1
  MX 10 mail
ns1 A 192.0.2.1
www CNAME ns1
*.wild A 192.0.2.2
child NS ns.child
ns.child A 192.0.2.3
old DNAME new
";

/// A query for signatures, with a cookie, NSID and a client's subnet.
fn query(name: &str, rtype: u8) -> Vec<u8> {
    let mut message = vec![0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 1];
    message.extend_from_slice(Name::parse(name).unwrap().wire());
    message.extend_from_slice(&[0, rtype, 0, 1, 0, 0, 41, 4, 208, 0, 0, 0x80, 0, 0, 27]);
    message.extend_from_slice(b"\x00\x0a\x00\x0812345678\x00\x03\x00\x00\x00\x08\x00\x07\x00\x01\x18\x00\xc0\x00\x02");
    message
}

#[test]
fn answers_of_all_kinds_take_no_memory() {
    take_no_memory(None);
}

#[test]
fn nor_do_signatures() {
    for algorithm in [Algorithm::Ecdsap256, Algorithm::Ed25519] {
        let (key, _) = Key::generate(algorithm).unwrap();
        take_no_memory(Signer::new(vec![key]).map(Arc::new));
    }
}

fn take_no_memory(signer: Option<Arc<Signer>>) {
    let origin = Name::parse("company.example.").unwrap();
    let names = vec![Name::parse("mail.company.example.").unwrap()];
    let member = |address: &str| Member { name: address.into(), addresses: vec![address.parse().unwrap()], weight: 1 };
    let members = vec![member("192.0.2.10"), member("2001:db8::10"), member("192.0.2.11")];
    let (when_down, ttl_s) = (WhenDown::All, 30);
    let (max_answers, plan) = (0, None);
    let mail = Pool { name: "mail".into(), slot: 0, names, ttl_s, max_answers, min_up: 1, when_down, members, plan };
    let place = |site| Place { site: SiteNumber(site), hash: site.into() };
    let plan = |stripe| Plan {
        dynamic: Some(Dynamic { share: Share(1), ttl_by_hour_s: [60; 24] }),
        topology: true,
        stripe,
        metrics: true,
        client_subnet: true,
        places: vec![place(0), place(1), place(0)],
    };
    let name = |name: &str| vec![Name::parse(name).unwrap()];
    let (by_stripe, in_turn) = (Some(plan(Some(Stripe::Rendezvous))), Some(plan(None)));
    let web = Pool { slot: 1, names: name("web.company.example."), plan: by_stripe, ..mail.clone() };
    let turn = Pool { slot: 2, names: name("turn.company.example."), plan: in_turn, ..mail.clone() };
    let by_way = Plan { dynamic: None, topology: false, client_subnet: false, ..plan(None) };
    let near = Pool { slot: 3, names: name("near.company.example."), plan: Some(by_way), ..mail.clone() };
    let pools = [mail, web, turn, near].map(Arc::new);
    // Of one network the ways are known, of the other they are not.
    let (loads, ways) = (Arc::new(SiteTable::default()), Arc::new(Ways::new(64, SiteNumber(0), (1, 2))));
    (0..2).for_each(|site| loads.set(SiteNumber(site), &Load::default()));
    ways.set_measuring(true, 600);
    let way = Way { round_trip_us: Some(9000), loss_permille: 0, hops: Some(3), age_s: 0 };
    ways.measured([192, 0, 2, 9].into(), &way, 5);
    ways.hear(SiteNumber(1), [192, 0, 2, 9].into(), &way, 5);
    let steering = Steering {
        topology: Arc::new(Prefixes::new(&[("192.0.2.64/26".parse().unwrap(), 1)]).unwrap()),
        memory: Memory::Kept(Arc::new(Store::new(64, (1, 2)))),
        loads,
        ways: Survey::Kept(ways.clone()),
        ..Steering::default()
    };
    let mut read = |_: &Path| Ok(ZONE.as_bytes().to_vec());
    let contents = master::load_signed(&origin, Path::new("zone"), &pools, signer.as_ref(), &mut read).unwrap();
    let zone = Zone::new(Arc::new(contents), &[PoolState { up: 7, ttl_most_s: u32::MAX }; 4], 1, 0);
    let settings = Settings {
        nsid: b"ns1".into(),
        cookies: Some(Cookies { secret: [1; 16], previous: Some([2; 16]) }),
        rate_limit: Some(RateLimit { per_second: 50, ..RateLimit::default() }),
        ..Settings::default()
    };
    let counts: Arc<Counts> = Arc::default();
    let mut scratch = Scratch::new(counts.clone(), &settings, 1);
    let snapshot = Snapshot::new(vec![Arc::new(zone)], Arc::new(settings)).with(steering);
    let queries: Vec<Vec<u8>> =
        ["", "mail.", "web.", "turn.", "near.", "www.", "x.wild.", "x.child.", "x.old.", "nothing.", "x.y.z."]
            .iter()
            .flat_map(|front| [1, 2, 6, 15, 28, 255].map(|rtype| query(&format!("{front}company.example."), rtype)))
            .chain([query("elsewhere.example.", 1), vec![0; 11], vec![0xff; 40], vec![1; 40]])
            .collect();
    let (mut out, mut ahead) = (vec![0; 1232], Ahead::default());
    let mut answers = 0;
    let calls = counted(|| {
        for round in 0..100_u64 {
            let network = if round % 2 == 0 { [192, 0, 2] } else { [198, 51, 100] };
            let from = [network[0], network[1], network[2], round as u8].into();
            for batch in queries.chunks(MOST) {
                ahead.look(&snapshot, batch.len(), |i| &batch[i], |_| Some(from));
                for (i, message) in batch.iter().enumerate() {
                    let (to, transport, foreseen) = ([192, 0, 2, 1].into(), Transport::Udp, ahead.foreseen(i));
                    let asked = Asked { message, from, to, transport, now_ms: round, unix_ms: 5000, foreseen };
                    let outcome = answer(&asked, &snapshot, &mut scratch, &mut out);
                    answers += u64::from(matches!(outcome, Outcome::Answer(_)));
                }
            }
        }
    });
    assert_eq!(calls, 0);
    assert!(answers > 3000, "{answers}");
    assert!(ways.next_noted().is_some());
    for count in
        [Count::Nxdomain, Count::Nodata, Count::Referrals, Count::PoolAnswers, Count::Refused, Count::Badcookie]
    {
        assert!(counts.get(count) > 0, "{count:?} was not among them");
    }
    assert_eq!(counts.get(Count::Signatures) > 10, signer.is_some());
    for silence in [Silence::Short, Silence::Response, Silence::RateLimited] {
        assert!(counts.dropped(silence) > 0, "{silence:?} was not among them");
    }
}
