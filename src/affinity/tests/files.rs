use super::super::file::{Broken, Loaded};
use super::*;
use std::io::Cursor;

fn saved(store: &Store, now_ms: u64) -> Vec<u8> {
    let mut file = Vec::new();
    store.save(&mut file, now_ms, &sites()).unwrap();
    file
}

fn filled() -> Store {
    let (store, sites) = (Store::new(5000, SEED), sites());
    for n in 0..1000 {
        let site = SiteNumber((n % 3) as u8);
        let record = Record { share: Share(u64::from(n % 2)), hits: n, ..record(n, site, 100_000 + u64::from(n)) };
        assert!(store.merge(&record, None, 100_000, &sites));
    }
    store
}

#[test]
fn a_restart_keeps_what_was_known_by_the_names_of_sites() {
    let (store, file) = (filled(), saved(&filled(), 110_000));
    let again = Store::new(5000, (9, 9));
    assert_eq!(again.load(Cursor::new(&file), 120_000, &sites()).unwrap(), Loaded { taken: 1000, left: 0, back_ms: 0 });
    assert_eq!(all(&again), all(&store));
    assert!(changes(&again, Consumer::Links).is_empty(), "others have it");
    // The same names have other numbers, and one is gone.
    let (others, other) = (Registry::default(), Store::new(5000, SEED));
    ["new", "north", "south"].iter().for_each(|name| assert!(others.number(name).is_some()));
    let loaded = other.load(Cursor::new(&file), 120_000, &others).unwrap();
    assert_eq!((loaded.taken, loaded.left), (667, 333));
    assert_eq!(other.read(who(0), Share(0)).map(|record| record.site), Some(SiteNumber(2)));
    assert_eq!(other.read(who(1), Share(1)).map(|record| record.site), Some(SiteNumber(1)));
    assert_eq!(other.read(who(2), Share(0)), None);
}

#[test]
fn what_is_over_meanwhile_is_left() {
    let (file, again) = (saved(&filled(), 110_000), Store::new(5000, SEED));
    let loaded = again.load(Cursor::new(&file), 160_500, &sites()).unwrap();
    assert_eq!((loaded.taken, loaded.left), (500, 500));
    assert!(again.load(Cursor::new(&saved(&filled(), 170_000)), 100_000, &sites()).unwrap().left == 0);
}

#[test]
fn after_a_clock_that_went_back_records_are_as_old_as_they_were() {
    let (file, again) = (saved(&filled(), 110_000), Store::new(5000, SEED));
    let loaded = again.load(Cursor::new(&file), 30_000, &sites()).unwrap();
    assert_eq!((loaded.taken, loaded.back_ms), (1000, 80_000));
    assert_eq!(again.read(who(7), Share(1)).map(|record| record.stamp_ms), Some(20_007));
}

#[test]
fn of_a_broken_file_nothing_is_taken() {
    let file = saved(&filled(), 110_000);
    let load = |file: &[u8]| {
        let store = Store::new(5000, SEED);
        let loaded = store.load(Cursor::new(file), 120_000, &sites());
        assert!(loaded.is_ok() || store.counts().records == 0);
        loaded
    };
    let mut flipped = file.clone();
    for at in (14..file.len()).step_by(997) {
        flipped[at] ^= 4;
        assert!(matches!(load(&flipped), Err(Broken::Damaged)), "{at}");
        flipped[at] ^= 4;
    }
    assert!(load(&flipped).is_ok());
    for long in [14, 20, 21, 22, 30, 400, file.len() - 9, file.len() - 1] {
        assert!(matches!(load(&file[..long]), Err(Broken::Damaged)), "{long}");
    }
    let longer = [&file[..], b"\0"].concat();
    assert!(matches!(load(&longer), Err(Broken::Damaged)));
    for foreign in [&b""[..], b"farside", b"farside store\x02and more that is new", &[0; 100]] {
        assert!(matches!(load(foreign), Err(Broken::Foreign)));
    }
}
