//! One connection to the server, from its opening to its loss.

use super::resp::{Client, Command, Reply};
use super::text;
use crate::affinity::{Consumer, Record, Store};
use crate::sites::Registry;
use std::io::{self, Error, ErrorKind};
use std::time::{SystemTime, UNIX_EPOCH};

/// Records of one change.
const BATCH: usize = 500;

/// Changes that are sent before the first one's reply is read.
const BATCHES: usize = 8;

/// Changes that the server keeps for those who have not read them yet, about; who was away for longer reads all records.
const KEPT: &str = "20000";

/// Changes that are read at a time, and keys that are looked through at a time.
const READ: &str = "64";
const SCANNED: &str = "1000";

/// Clocks that differ by less count as the same.
const SAME_MS: u64 = 500;

/// Buckets that are looked through at a time.
const SLICE: usize = 4096;

/// Puts records, unless what is there has a newer stamp, and the change behind the others: KEYS are the stream and the records, ARGV the
/// node, the number of changes kept, the lines, and of each record its value and the milliseconds that it holds.
const SCRIPT: &str = "
for i = 2, #KEYS do
  local new, old = ARGV[2 * i], redis.call('GET', KEYS[i])
  local newer = not old
  if old then
    local was, is = tonumber(string.match(old, '^%d+')), tonumber(string.match(new, '^%d+'))
    newer = not was or is > was or (is == was and string.match(new, '%S+$') < string.match(old, '%S+$'))
  end
  if newer then redis.call('SET', KEYS[i], new, 'PX', ARGV[2 * i + 1]) end
end
redis.call('XADD', KEYS[1], 'MAXLEN', '~', ARGV[2], '*', 'node', ARGV[1], 'records', ARGV[3])
return 1";

/// What a session goes by.
pub struct Ground<'g> {
    pub store: &'g Store,
    pub sites: &'g Registry,
    pub prefix: &'g str,
    /// By which a node knows its own changes.
    pub node: &'g str,
}

pub struct Session<'g> {
    client: Client,
    ground: &'g Ground<'g>,
    /// By how much the server's clock is ahead.
    ahead_ms: i64,
    /// The last change that has been read.
    last: String,
}

/// Milliseconds since 1970.
pub fn unix_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

fn odd(what: &str) -> Error {
    Error::new(ErrorKind::InvalidData, format!("its answer to {what} is none that farside knows"))
}

impl<'g> Session<'g> {
    /// Gives the number of the server's life too, which changes with each of its starts.
    pub fn open(client: Client, ground: &'g Ground<'g>) -> io::Result<(Session<'g>, String)> {
        let mut session = Session { client, ground, ahead_ms: 0, last: "0-0".into() };
        let info = session.client.one(&[b"INFO", b"server"])?;
        let life = info.text().and_then(|info| info.lines().find_map(|line| line.strip_prefix("run_id:")));
        let life = life.ok_or_else(|| odd("INFO"))?.to_string();
        session.set_clock()?;
        Ok((session, life))
    }

    fn key(&self, rest: &str) -> String {
        format!("{}:{rest}", self.ground.prefix)
    }

    /// Looks how far the server's clock is ahead.
    pub fn set_clock(&mut self) -> io::Result<()> {
        let before = unix_ms();
        let time = self.client.one(&[b"TIME"])?;
        let number = |at: usize| time.parts().get(at).and_then(Reply::text).and_then(|text| text.parse::<u64>().ok());
        let (seconds, micros) = number(0).zip(number(1)).ok_or_else(|| odd("TIME"))?;
        let server_ms = seconds.saturating_mul(1000).saturating_add(micros / 1000);
        let own_ms = before + unix_ms().saturating_sub(before) / 2;
        let same = server_ms.abs_diff(own_ms) < SAME_MS;
        self.ahead_ms = if same { 0 } else { server_ms.cast_signed().wrapping_sub(own_ms.cast_signed()) };
        Ok(())
    }

    /// Takes over all that the server has. What changes from here on is read by [`Session::pull`].
    pub fn pull_all(&mut self) -> io::Result<()> {
        let newest = self.client.one(&[b"XREVRANGE", self.key("changes").as_bytes(), b"+", b"-", b"COUNT", b"1"])?;
        if let Some(id) = newest.parts().first().and_then(|entry| entry.parts().first()).and_then(Reply::text) {
            self.last = id.into();
        }
        let front = self.key("r:");
        // What means something in a pattern means itself behind a backslash.
        let special = |c: char| matches!(c, '*' | '?' | '[' | ']' | '^' | '-');
        let mut pattern: String =
            front.chars().flat_map(|c| special(c).then_some('\\').into_iter().chain([c])).collect();
        pattern.push('*');
        let mut cursor = "0".to_string();
        loop {
            let scan = [b"SCAN", cursor.as_bytes(), b"MATCH", pattern.as_bytes(), b"COUNT", SCANNED.as_bytes()];
            let page = self.client.one(&scan)?;
            let [next, keys] = page.parts() else { return Err(odd("SCAN")) };
            let keys: Vec<&[u8]> = keys.parts().iter().filter_map(Reply::data).collect();
            if !keys.is_empty() {
                let get: Vec<&[u8]> = [&b"MGET"[..]].into_iter().chain(keys.iter().copied()).collect();
                let values = self.client.one(&get)?;
                for (key, value) in keys.iter().zip(values.parts()) {
                    let name = std::str::from_utf8(key).ok().and_then(|key| key.strip_prefix(&front));
                    if let (Some(name), Some(value)) = (name, value.text()) {
                        self.take(name, value);
                    }
                }
            }
            cursor = next.text().ok_or_else(|| odd("SCAN"))?.into();
            if cursor == "0" {
                return Ok(());
            }
        }
    }

    fn take(&self, name: &str, value: &str) {
        let Ground { store, sites, .. } = self.ground;
        if let Some(record) = text::record(name, value, self.ahead_ms, sites) {
            store.merge(&record, Some(Consumer::Server), unix_ms(), sites);
        }
    }

    /// Takes over what other nodes have changed.
    pub fn pull(&mut self) -> io::Result<()> {
        let stream = self.key("changes");
        loop {
            let read = [b"XREAD", b"COUNT", READ.as_bytes(), b"STREAMS", stream.as_bytes(), self.last.as_bytes()];
            let streams = self.client.one(&read)?;
            let entries =
                streams.parts().first().and_then(|stream| stream.parts().get(1)).map_or(&[][..], Reply::parts);
            for entry in entries {
                let [id, fields] = entry.parts() else { return Err(odd("XREAD")) };
                let field = |name: &str| {
                    let mut pairs = fields.parts().chunks_exact(2);
                    pairs.find_map(|pair| (pair[0].text() == Some(name)).then(|| pair[1].text()).flatten())
                };
                if field("node") != Some(self.ground.node) {
                    let lines = field("records").unwrap_or_default().lines();
                    lines.filter_map(|line| line.split_once(' ')).for_each(|(name, value)| self.take(name, value));
                }
                self.last = id.text().ok_or_else(|| odd("XREAD"))?.into();
            }
            if entries.is_empty() {
                return Ok(());
            }
        }
    }

    /// All records of this node are to be told, as those that have changed are: the server may have none of them.
    pub fn tell_all(&self) {
        let (store, mut from) = (self.ground.store, Some(0));
        while let Some(at) = from {
            let mut all = Vec::new();
            from = store.scan(at, SLICE, |record| all.push(record));
            all.iter().for_each(|record| store.untold(Consumer::Server, record));
        }
    }

    /// Tells of what has changed here. What cannot be told is to be told later.
    pub fn push(&mut self) -> io::Result<()> {
        let mut from = Some(0);
        while let Some(at) = from {
            let mut changed = Vec::new();
            from = self.ground.store.changes(Consumer::Server, at, BATCH * BATCHES, &mut changed);
            let told = self.tell(&changed);
            if told.is_err() {
                changed.iter().for_each(|record| self.ground.store.untold(Consumer::Server, record));
                return told;
            }
        }
        Ok(())
    }

    fn tell(&mut self, changed: &[Record]) -> io::Result<()> {
        let now_ms = unix_ms();
        let (mut commands, mut count) = (Command::default(), 0);
        for batch in changed.chunks(BATCH) {
            let (mut lines, mut keys, mut values) = (String::new(), vec![self.key("changes")], Vec::new());
            for record in batch.iter().filter(|record| record.until_ms() > now_ms) {
                let (name, value) = (text::name(record), text::value(record, self.ahead_ms, self.ground.sites));
                lines.push_str(&format!("{name} {value}\n"));
                keys.push(self.key(&format!("r:{name}")));
                values.extend([value, (record.until_ms() - now_ms).to_string()]);
            }
            if values.is_empty() {
                continue;
            }
            let number = keys.len().to_string();
            let first = ["EVAL", SCRIPT, &number];
            let fixed = [self.ground.node, KEPT, &lines];
            let words = first.into_iter().chain(keys.iter().map(String::as_str)).chain(fixed);
            let words: Vec<&[u8]> = words.chain(values.iter().map(String::as_str)).map(str::as_bytes).collect();
            commands.add(&words);
            count += 1;
        }
        if count > 0 {
            self.client.ask(&commands, count)?;
        }
        Ok(())
    }
}
