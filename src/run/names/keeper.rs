//! Keeps the store of the dynamic mode: restores it from its file at the start, forgets what is over, and writes it to the file now and
//! then and at the end. A thread of its own, since a disk may be slow.

use crate::affinity::file::Broken;
use crate::affinity::{Share, Store};
use crate::config::file::io_words;
use crate::dns::steer::learn::Learner;
use crate::sites::Registry;
use arc_swap::ArcSwapOption;
use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tracing::{error, info, warn};

/// The file's name in the state directory.
const FILE: &str = "store";

/// The time between two writings of the file: so much is forgotten at most if the machine stops at once.
const SAVE_EVERY: Duration = Duration::from_secs(300);

/// The time between two looks at a part of the store for what is over.
const SWEEP_EVERY: Duration = Duration::from_secs(1);

/// In so many of them the whole store has been looked at.
const SWEEPS: usize = 60;

/// What groups of resolvers are learned by.
pub struct Learning {
    pub learner: Arc<Learner>,
    /// Of all pools.
    pub shares: Vec<Share>,
}

/// The store and its thread.
pub struct Keeper {
    learning: Arc<ArcSwapOption<Learning>>,
    store: Arc<Store>,
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Keeper {
    /// Takes the memory for `most` records and restores those in `directory`. Errors are sentences; that the file is of no use is none.
    pub fn start(most: u32, directory: &Path, sites: Arc<Registry>) -> Result<Keeper, String> {
        let cannot = |why: String| format!("[dns] the store of resolvers' sites cannot be made: {why}");
        let random = || getrandom::u64().map_err(|why| cannot(format!("no random numbers: {why}")));
        let store = Arc::new(Store::new(most, (random()?, random()?)));
        let path = directory.join(FILE);
        restore(&store, &path, &sites);
        let (stop, stopped) = mpsc::channel();
        let kept = store.clone();
        let learning = Arc::new(ArcSwapOption::empty());
        let learns: Arc<ArcSwapOption<Learning>> = learning.clone();
        let run = move || {
            let (mut at, mut saved, mut told) = (0, Instant::now(), false);
            let slice = kept.buckets().div_ceil(SWEEPS);
            while stopped.recv_timeout(SWEEP_EVERY) == Err(RecvTimeoutError::Timeout) {
                at = kept.sweep(at, slice, unix_ms());
                if let Some(Learning { learner, shares }) = learns.load().as_deref() {
                    learner.learn(&kept, &sites, shares, unix_ms());
                }
                if saved.elapsed() >= SAVE_EVERY {
                    saved = Instant::now();
                    tell(save(&kept, &path, &sites), &path, &mut told);
                }
            }
            tell(save(&kept, &path, &sites), &path, &mut told);
        };
        let thread = std::thread::Builder::new().name("dns-store".into()).spawn(run);
        let thread = thread.map_err(|why| cannot(io_words(&why)))?;
        Ok(Keeper { learning, store, stop: Some(stop), thread: Some(thread) })
    }

    pub fn store(&self) -> &Arc<Store> {
        &self.store
    }

    /// Groups of resolvers are learned so from now on, or not.
    pub fn learn(&self, learning: Option<Learning>) {
        self.learning.store(learning.map(Arc::new));
    }

    /// Writes the file for the last time.
    pub fn stop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Milliseconds since 1970, as records are stamped.
fn unix_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

/// Says once that it cannot be written, and once that it can again.
fn tell(saved: io::Result<u64>, path: &Path, told: &mut bool) {
    match saved {
        Ok(_) if std::mem::take(told) => info!("resolvers' sites are written to {} again", path.display()),
        Ok(_) => {}
        Err(why) if !std::mem::replace(told, true) => {
            error!(
                "resolvers' sites cannot be written to {}: {}; they will not be known after a restart",
                path.display(),
                io_words(&why)
            );
        }
        Err(_) => {}
    }
}

fn beside(path: &Path, end: &str) -> PathBuf {
    path.with_extension(end)
}

/// Writes the file aside and puts it in place of the one before.
fn save(store: &Store, path: &Path, sites: &Registry) -> io::Result<u64> {
    let new = beside(path, "new");
    let file = File::create(&new)?;
    let count = store.save(&file, unix_ms(), sites)?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    // The directory's entry, too, outlives a loss of power.
    path.parent().map_or(Ok(()), |directory| File::open(directory)?.sync_all())?;
    Ok(count)
}

fn restore(store: &Store, path: &Path, sites: &Registry) {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(why) if why.kind() == ErrorKind::NotFound => return,
        Err(why) => {
            warn!(
                "resolvers' sites cannot be read from {}: {}; they are chosen afresh",
                path.display(),
                io_words(&why)
            );
            return;
        }
    };
    let what = match store.load(file, unix_ms(), sites) {
        Ok(loaded) => {
            let back = Duration::from_millis(loaded.back_ms);
            if back >= Duration::from_secs(1) {
                let file = path.display();
                warn!("the clock has gone back by {} s since {file} was written", back.as_secs());
            }
            let left = if loaded.left > 0 { format!("; {} more are over", loaded.left) } else { String::new() };
            info!("{} resolvers' sites are remembered from before{left}", loaded.taken);
            return;
        }
        Err(Broken::Unreadable(why)) => format!("cannot be read: {}", io_words(&why)),
        Err(Broken::Foreign) => "is none of this version's".into(),
        Err(Broken::Damaged) => "is damaged".into(),
    };
    let aside = beside(path, "broken");
    let left = match fs::rename(path, &aside) {
        Ok(()) => format!("it is left as {}", aside.display()),
        Err(why) => format!("and cannot be put aside: {}", io_words(&why)),
    };
    warn!("the file of resolvers' sites, {}, {what}; {left}, and sites are chosen afresh", path.display());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::affinity::Who;
    use std::net::IpAddr;

    fn sites() -> Arc<Registry> {
        let sites = Registry::default();
        assert!(sites.number("south").is_some() && sites.number("north").is_some());
        Arc::new(sites)
    }

    fn who() -> Who {
        Who::from(IpAddr::from([192, 0, 2, 1]))
    }

    #[test]
    fn a_keeper_knows_what_the_one_before_it_knew() {
        let (home, sites) = (tempfile::tempdir().unwrap(), sites());
        let north = sites.find("north").unwrap();
        let mut keeper = Keeper::start(100, home.path(), sites.clone()).unwrap();
        keeper.store().put(who(), Share(1), north, 60, unix_ms(), u64::MAX);
        keeper.stop();
        assert!(!home.path().join("store.new").exists());
        let mut again = Keeper::start(100, home.path(), sites).unwrap();
        assert_eq!(again.store().follow(who(), Share(1), unix_ms(), u64::MAX), Some(north));
        again.stop();
    }

    #[test]
    fn a_broken_file_is_put_aside_and_no_reason_not_to_start() {
        let (home, sites) = (tempfile::tempdir().unwrap(), sites());
        fs::write(home.path().join("store"), "rubbish").unwrap();
        let mut keeper = Keeper::start(100, home.path(), sites).unwrap();
        assert_eq!(keeper.store().counts().records, 0);
        keeper.stop();
        assert_eq!(fs::read(home.path().join("store.broken")).unwrap(), b"rubbish");
        assert!(home.path().join("store").exists());
    }
}
