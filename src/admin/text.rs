//! `show`'s answers for people: aligned columns; or for programs: JSON.

mod explain;

pub use explain::explain;

use super::rows::{
    DnsRows, FlowRow, HealthRow, ServiceRow, SignedRow, SiteRow, StateRow, StoreRow, TargetRow, WaysRow, What,
    WorkerRow, ZoneRow,
};
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};

/// Prints an answer piece by piece, so that a million flows need no memory here either.
pub struct Printer {
    what: What,
    json: bool,
    table: Table,
    /// Rows printed so far.
    printed: usize,
}

impl Printer {
    pub fn new(what: What, json: bool) -> Printer {
        Printer { what, json, table: Table::default(), printed: 0 }
    }

    /// The next piece of the answer; None ends it. Errors are the writer's, and `InvalidData` for an answer that this
    /// version does not understand.
    pub fn print(&mut self, out: &mut impl Write, piece: Option<Value>) -> io::Result<()> {
        match (self.json, self.what) {
            (true, What::Flows) => self.flows_json(out, piece),
            (true, _) => match piece {
                Some(answer) => {
                    serde_json::to_writer_pretty(&mut *out, &answer)?;
                    writeln!(out)
                }
                None => Ok(()),
            },
            (false, _) => self.text(out, piece),
        }
    }

    /// One list, one flow a line.
    fn flows_json(&mut self, out: &mut impl Write, piece: Option<Value>) -> io::Result<()> {
        let Some(rows) = piece else {
            return if self.printed == 0 { writeln!(out, "[]") } else { writeln!(out, "\n]") };
        };
        for row in rows.as_array().into_iter().flatten() {
            out.write_all(if self.printed == 0 { b"[\n" } else { b",\n" })?;
            serde_json::to_writer(&mut *out, row)?;
            self.printed += 1;
        }
        Ok(())
    }

    fn text(&mut self, out: &mut impl Write, piece: Option<Value>) -> io::Result<()> {
        let Some(piece) = piece else {
            if self.what == What::Flows && self.printed == 0 {
                self.table.print(out, FLOW_COLUMNS, &[])?;
            }
            return Ok(());
        };
        match self.what {
            What::Services => {
                let rows: Vec<_> = understood::<ServiceRow>(piece)?.iter().flat_map(service_cells).collect();
                self.table.print(out, SERVICE_COLUMNS, &rows)
            }
            What::Flows => {
                let rows: Vec<_> = understood::<FlowRow>(piece)?.into_iter().map(flow_cells).collect();
                if rows.is_empty() {
                    return Ok(());
                }
                self.printed += rows.len();
                self.table.print(out, FLOW_COLUMNS, &rows)
            }
            What::Health => {
                let rows: Vec<_> = understood::<HealthRow>(piece)?.into_iter().map(health_cells).collect();
                self.table.print(out, HEALTH_COLUMNS, &rows)
            }
            What::Counters => {
                let counts: BTreeMap<String, u64> = serde_json::from_value(piece)?;
                let rows: Vec<_> = counts.into_iter().map(|(name, count)| vec![name, count.to_string()]).collect();
                self.table.print(out, &[Column("COUNTER", Left), Column("COUNT", Right)], &rows)
            }
            What::Sites => {
                let rows: Vec<_> = understood::<SiteRow>(piece)?.into_iter().map(site_cells).collect();
                self.table.print(out, SITE_COLUMNS, &rows)
            }
            What::Dns => dns_text(out, &serde_json::from_value(piece)?),
            What::Workers => {
                let (columns, rows) = worker_cells(&understood::<WorkerRow>(piece)?);
                let columns: Vec<_> = columns
                    .iter()
                    .enumerate()
                    .map(|(i, name)| Column(name, if i == 0 { Left } else { Right }))
                    .collect();
                self.table.print(out, &columns, &rows)
            }
        }
    }
}

/// Tables, those that are empty left out.
fn dns_text(out: &mut impl Write, dns: &DnsRows) -> io::Result<()> {
    let zone = |zone: &ZoneRow| {
        let keys = |signed: &SignedRow| signed.keys.iter().map(u16::to_string).collect::<Vec<_>>().join(", ");
        let signed = zone.dnssec.as_ref().map_or("no".into(), |signed| format!("by key {}", keys(signed)));
        vec![zone.origin.clone(), zone.serial.map_or("not served yet".into(), |serial| serial.to_string()), signed]
    };
    let state = |pool: Option<&str>, row: &StateRow| {
        let is = match (row.up, pool) {
            (true, None) => "up",
            (false, None) => "down",
            (true, Some(_)) => "in",
            (false, Some(_)) => "out",
        };
        let name = pool.map_or(row.name.clone(), |pool| format!("{pool}/{}", row.name));
        vec![name, is.into(), row.reason.clone()]
    };
    let lines = dns.lines.iter().map(|line| state(None, line)).collect();
    let members = dns.pools.iter().flat_map(|pool| pool.members.iter().map(|row| state(Some(&pool.name), row)));
    let used = dns.store != StoreRow::default();
    let StoreRow { records, hits, misses, evicted, expired, merged } = &dns.store;
    let store = [records, hits, misses, evicted, expired, merged].map(u64::to_string).to_vec();
    const STORE: [Column; 6] = [
        Column("REMEMBERED", Right),
        Column("HITS", Right),
        Column("MISSES", Right),
        Column("EVICTED", Right),
        Column("EXPIRED", Right),
        Column("FROM OTHERS", Right),
    ];
    let learned = dns.learned.iter().map(|group| vec![group.join(", ")]);
    let redis = dns
        .redis
        .iter()
        .map(|redis| vec![redis.address.clone(), if redis.connected { "connected" } else { "does not answer" }.into()]);
    let ways = dns.ways.iter().map(|ways| {
        let WaysRow { networks, measured, unanswered, rate_limited, evicted, told, taken_over } = ways;
        [networks, measured, unanswered, rate_limited, evicted, told, taken_over].map(u64::to_string).to_vec()
    });
    const WAYS: [Column; 7] = [
        Column("NETWORKS", Right),
        Column("MEASURED", Right),
        Column("UNANSWERED", Right),
        Column("RATE LIMITED", Right),
        Column("EVICTED", Right),
        Column("TOLD", Right),
        Column("TAKEN OVER", Right),
    ];
    let tables: [(&[Column], Vec<Vec<String>>); 7] = [
        (&[Column("ZONE", Left), Column("SERIAL", Left), Column("SIGNED", Left)], dns.zones.iter().map(zone).collect()),
        (&[Column("LINE", Left), Column("STATUS", Left), Column("WHY", Left)], lines),
        (&[Column("MEMBER", Left), Column("STATUS", Left), Column("WHY", Left)], members.collect()),
        (&STORE, if used { vec![store] } else { Vec::new() }),
        (&[Column("LEARNED GROUP", Left)], learned.collect()),
        (&[Column("SHARED THROUGH", Left), Column("STATUS", Left)], redis.collect()),
        (&WAYS, ways.collect()),
    ];
    let mut first = true;
    for (columns, rows) in tables.iter().filter(|(_, rows)| !rows.is_empty()) {
        if !std::mem::take(&mut first) {
            writeln!(out)?;
        }
        Table::default().print(out, columns, rows)?;
    }
    if first { writeln!(out, "no zones: there is no [dns] in the configuration") } else { Ok(()) }
}

fn understood<T: DeserializeOwned>(piece: Value) -> io::Result<Vec<T>> {
    Ok(serde_json::from_value(piece)?)
}

#[derive(Clone, Copy)]
enum Align {
    Left,
    Right,
}
use Align::{Left, Right};

struct Column<'n>(&'n str, Align);

/// Columns as wide as the widest cell so far.
#[derive(Default)]
struct Table {
    widths: Vec<usize>,
}

impl Table {
    /// The header comes before the first rows.
    fn print(&mut self, out: &mut impl Write, columns: &[Column], rows: &[Vec<String>]) -> io::Result<()> {
        let first = self.widths.is_empty();
        self.widths.resize(columns.len(), 0);
        for (width, column) in self.widths.iter_mut().zip(columns) {
            *width = (*width).max(column.0.chars().count());
        }
        let rows: Vec<Vec<String>> = rows.iter().map(|row| row.iter().map(|cell| printable(cell)).collect()).collect();
        for row in &rows {
            for (width, cell) in self.widths.iter_mut().zip(row) {
                *width = (*width).max(cell.chars().count());
            }
        }
        if first {
            let names: Vec<String> = columns.iter().map(|column| column.0.to_string()).collect();
            self.line(out, columns, &names)?;
        }
        rows.iter().try_for_each(|row| self.line(out, columns, row))
    }

    fn line(&self, out: &mut impl Write, columns: &[Column], cells: &[String]) -> io::Result<()> {
        let mut line = String::new();
        for ((cell, width), column) in cells.iter().zip(&self.widths).zip(columns) {
            match column.1 {
                Left => line.push_str(&format!("{cell:<width$}  ")),
                Right => line.push_str(&format!("{cell:>width$}  ")),
            }
        }
        writeln!(out, "{}", line.trim_end())
    }
}

/// What a server said must not command the terminal.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { c.escape_debug().to_string() } else { c.to_string() }).collect()
}

const SERVICE_COLUMNS: &[Column] = &[
    Column("SERVICE", Left),
    Column("ADDRESS", Left),
    Column("KIND", Left),
    Column("STATUS", Left),
    Column("PRIORITY", Right),
    Column("WEIGHT", Right),
    Column("ACTIVE", Right),
    Column("TOTAL", Right),
];

/// The service, then its targets, set in.
fn service_cells(service: &ServiceRow) -> Vec<Vec<String>> {
    let up = service.targets.iter().filter(|target| target.status == "up").count();
    let head = vec![
        service.service.clone(),
        format!("{} {}", super::rows::endpoint(&service.vip, service.port), service.protocol),
        service.mode.clone(),
        format!("{up} of {} up", service.targets.len()),
        String::new(),
        String::new(),
        of_most(service.active, service.max_connections),
        service.total.to_string(),
    ];
    let target = |target: &TargetRow| {
        let name = target.target.split_once('/').map_or(target.target.as_str(), |(_, name)| name);
        vec![
            format!("  {name}"),
            target.address.clone(),
            if target.backup { "backup".into() } else { target.kind.clone() },
            target.status.clone(),
            target.priority.map_or(String::new(), |priority| priority.to_string()),
            target.weight.to_string(),
            of_most(target.active, target.max_connections),
            target.total.to_string(),
        ]
    };
    std::iter::once(head).chain(service.targets.iter().map(target)).collect()
}

/// Connections, and how many there may be.
fn of_most(active: u64, most: u32) -> String {
    if most == 0 { active.to_string() } else { format!("{active} of {most}") }
}

const FLOW_COLUMNS: &[Column] = &[
    Column("SERVICE", Left),
    Column("PROTOCOL", Left),
    Column("CLIENT", Left),
    Column("VIP", Left),
    Column("LOCAL", Left),
    Column("TARGET", Left),
    Column("MODE", Left),
    Column("STATE", Left),
    Column("AGE", Right),
    Column("IDLE", Right),
    Column("PACKETS UP", Right),
    Column("BYTES UP", Right),
    Column("PACKETS DOWN", Right),
    Column("BYTES DOWN", Right),
    Column("WORKER", Right),
];

fn flow_cells(flow: FlowRow) -> Vec<String> {
    vec![
        flow.service,
        flow.protocol,
        flow.client,
        flow.vip,
        flow.local.unwrap_or("-".into()),
        flow.target,
        flow.mode,
        flow.state,
        age(flow.age_s),
        age(flow.idle_s),
        flow.client_packets.to_string(),
        flow.client_bytes.to_string(),
        flow.server_packets.to_string(),
        flow.server_bytes.to_string(),
        flow.worker.to_string(),
    ]
}

const HEALTH_COLUMNS: &[Column] = &[
    Column("TARGET", Left),
    Column("KIND", Left),
    Column("STATUS", Left),
    Column("SINCE", Right),
    Column("LAST ERROR", Left),
];

fn health_cells(health: HealthRow) -> Vec<String> {
    vec![health.target, health.kind, health.status, age(health.since_s), health.last_error.unwrap_or("-".into())]
}

const SITE_COLUMNS: &[Column] = &[
    Column("SITE", Left),
    Column("LINK", Left),
    Column("HEARD BY", Left),
    Column("SINCE", Right),
    Column("RTT", Right),
    Column("LOSS", Right),
    Column("HOPS", Right),
    Column("SKEW", Right),
    Column("CPU", Right),
    Column("CONNECTIONS", Right),
    Column("PACKETS/S", Right),
    Column("ROOM", Left),
    Column("WHY", Left),
];

fn site_cells(site: SiteRow) -> Vec<String> {
    let or_none = |text: Option<String>| text.unwrap_or("-".into());
    vec![
        site.site,
        site.link,
        or_none(site.heard),
        or_none(site.since_s.map(age)),
        or_none(site.round_trip_ms.map(|ms| format!("{ms:.1}ms"))),
        or_none(site.loss_permille.map(|loss| format!("{:.1}%", f64::from(loss) / 10.0))),
        or_none(site.hops.map(|hops| hops.to_string())),
        or_none(site.skew_ms.map(|ms| format!("{ms:+.1}ms"))),
        or_none(site.cpu_permille.map(|cpu| format!("{:.1}%", f64::from(cpu) / 10.0))),
        or_none(site.connections.map(|count| count.to_string())),
        or_none(site.packets_per_s.map(|count| count.to_string())),
        or_none(site.full.map(|full| if full { "full" } else { "yes" }.to_string())),
        or_none(site.why),
    ]
}

/// A column for each worker: they are fewer than what they count.
fn worker_cells(workers: &[WorkerRow]) -> (Vec<String>, Vec<Vec<String>>) {
    let columns = std::iter::once("WORKER".to_string()).chain(workers.iter().map(|worker| worker.worker.to_string()));
    let line = |name: &str, cell: &dyn Fn(&WorkerRow) -> Option<String>| {
        let cells = workers.iter().map(|worker| cell(worker).unwrap_or("-".to_string()));
        std::iter::once(name.to_string()).chain(cells).collect::<Vec<_>>()
    };
    let names: BTreeSet<&String> = workers.iter().flat_map(|worker| worker.counts.keys()).collect();
    let cpus = line("cpu", &|worker| worker.cpu.map(|cpu| cpu.to_string()));
    let backends = line("backend", &|worker| worker.backend.clone());
    let counts = names.into_iter().map(|name| line(name, &|worker| worker.counts.get(name).map(u64::to_string)));
    (columns.collect(), [cpus, backends].into_iter().chain(counts).collect())
}

/// The two biggest units: "3d4h", "2h4m", "59s".
fn age(seconds: u64) -> String {
    let (days, hours, minutes) = (seconds / 86400, seconds / 3600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, _) => format!("{minutes}m{}s", seconds % 60),
        (0, _, _) => format!("{hours}h{minutes}m"),
        _ => format!("{days}d{hours}h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn printed(what: What, json: bool, pieces: &[Value]) -> String {
        let mut out = Vec::new();
        let mut printer = Printer::new(what, json);
        for piece in pieces {
            printer.print(&mut out, Some(piece.clone())).unwrap();
        }
        printer.print(&mut out, None).unwrap();
        String::from_utf8(out).unwrap()
    }

    fn flow(client: &str) -> Value {
        json!({"service": "pop3", "protocol": "tcp", "client": client, "vip": "203.0.113.10:110",
            "target": "198.51.100.10:110", "mode": "remote", "local": "203.0.113.250:1024", "state": "established",
            "age_s": 61, "idle_s": 2, "client_packets": 5, "client_bytes": 300, "server_packets": 4,
            "server_bytes": 900, "worker": 0})
    }

    #[test]
    fn flows_are_one_list_however_many_pieces_they_come_in() {
        let pieces = [json!([flow("192.0.2.1:1"), flow("192.0.2.2:2")]), json!([]), json!([flow("192.0.2.3:3")])];
        let list: Vec<FlowRow> = serde_json::from_str(&printed(What::Flows, true, &pieces)).unwrap();
        let clients: Vec<_> = list.iter().map(|flow| flow.client.as_str()).collect();
        assert_eq!(clients, ["192.0.2.1:1", "192.0.2.2:2", "192.0.2.3:3"]);
        assert_eq!(printed(What::Flows, true, &[json!([])]), "[]\n");
        let text = printed(What::Flows, false, &pieces);
        assert_eq!(text.lines().count(), 4, "{text}");
        assert!(text.starts_with("SERVICE  PROTOCOL  CLIENT"), "{text}");
        assert!(text.contains("1m1s"), "{text}");
        assert_eq!(printed(What::Flows, false, &[json!([])]).lines().count(), 1);
    }

    #[test]
    fn health_is_aligned_and_cannot_command_the_terminal() {
        let rows = json!([
            {"target": "pop3/pop-a", "kind": "real", "status": "up", "since_s": 7500, "last_error": null},
            {"target": "pop3/north", "kind": "remote", "status": "down", "since_s": 5, "last_error": "said \u{1b}[2J"},
        ]);
        let expected = "\
TARGET      KIND    STATUS  SINCE  LAST ERROR
pop3/pop-a  real    up       2h5m  -
pop3/north  remote  down       5s  said \\u{1b}[2J
";
        assert_eq!(printed(What::Health, false, &[rows]), expected);
    }

    #[test]
    fn services_show_their_targets() {
        let rows = json!([{"service": "pop3", "vip": "2001:db8::10", "port": 110, "protocol": "tcp", "mode": "nat",
            "scheduler": "maglev", "active": 3, "max_connections": 50, "total": 10, "targets": [
                {"target": "pop3/pop-a", "kind": "real", "address": "[fd00::1]:110", "status": "down", "weight": 1,
                 "priority": null, "active": 0, "max_connections": 9, "backup": true, "total": 7},
                {"target": "pop3/north", "kind": "remote", "address": "[2001:db8:2::10]:110", "status": "up",
                 "weight": 1, "priority": 2, "active": 3, "total": 3}]}]);
        let expected = "\
SERVICE  ADDRESS                 KIND    STATUS     PRIORITY  WEIGHT   ACTIVE  TOTAL
pop3     [2001:db8::10]:110 tcp  nat     1 of 2 up                    3 of 50     10
  pop-a  [fd00::1]:110           backup  down                      1   0 of 9      7
  north  [2001:db8:2::10]:110    remote  up                2       1        3      3
";
        assert_eq!(printed(What::Services, false, &[rows]), expected);
    }

    #[test]
    fn counters_and_workers() {
        let counters = json!({"received": 12, "drop_bad_checksum": 3});
        assert_eq!(
            printed(What::Counters, false, std::slice::from_ref(&counters)),
            "COUNTER            COUNT\ndrop_bad_checksum      3\nreceived              12\n"
        );
        assert_eq!(
            serde_json::from_str::<Value>(&printed(What::Counters, true, std::slice::from_ref(&counters))).unwrap(),
            counters
        );
        let workers = json!([
            {"worker": 0, "cpu": 2, "backend": "af_xdp", "frames_in": 7},
            {"worker": 1, "cpu": null, "sleeps": 1}
        ]);
        assert_eq!(
            printed(What::Workers, false, &[workers]),
            "WORKER          0  1\ncpu             2  -\nbackend    af_xdp  -\nframes_in       7  -\nsleeps          -  1\n"
        );
    }

    #[test]
    fn dns_in_tables() {
        let dns = json!({
            "zones": [
                {"origin": "company.example.", "serial": 7, "dnssec": {"keys": [4711, 12], "until": 9}},
                {"origin": "b.example.", "serial": null}
            ],
            "lines": [{"name": "isp1", "up": false, "reason": "9.9.9.9: no answer"}],
            "pools": [{"name": "mail", "members": [{"name": "a", "up": true, "reason": "nothing is checked"}]}],
            "store": {"records": 3, "hits": 1000, "misses": 4},
            "learned": [["192.0.2.1", "192.0.2.2"]],
            "redis": {"address": "10.0.0.5:6379", "connected": false},
            "ways": {"networks": 5, "measured": 4, "unanswered": 1, "rate_limited": 0, "evicted": 0, "told": 8, "taken_over": 3}
        });
        assert_eq!(
            printed(What::Dns, false, &[dns]),
            "ZONE              SERIAL          SIGNED\ncompany.example.  7               by key 4711, 12\n\
             b.example.        not served yet  no\n\n\
             LINE  STATUS  WHY\nisp1  down    9.9.9.9: no answer\n\n\
             MEMBER  STATUS  WHY\nmail/a  in      nothing is checked\n\n\
             REMEMBERED  HITS  MISSES  EVICTED  EXPIRED  FROM OTHERS\n         3  1000       4        0        0            0\n\n\
             LEARNED GROUP\n192.0.2.1, 192.0.2.2\n\n\
             SHARED THROUGH  STATUS\n10.0.0.5:6379   does not answer\n\n\
             NETWORKS  MEASURED  UNANSWERED  RATE LIMITED  EVICTED  TOLD  TAKEN OVER\n\
            \x20      5         4           1             0        0     8           3\n"
        );
        let nothing = json!({"zones": [], "lines": [], "pools": [], "store": {"records": 0, "hits": 0, "misses": 0}});
        assert!(printed(What::Dns, false, &[nothing]).starts_with("no zones"));
    }

    #[test]
    fn sites_with_what_is_known_of_them() {
        let rows = json!([
            {"site": "south", "link": "own", "full": false, "connections": 7, "packets_per_s": 1200, "cpu_permille": 125},
            {"site": "north", "link": "up", "heard": "link", "since_s": 100, "address": "198.51.100.2:4353",
             "certificate_ends": 2000000000, "skew_ms": -3.12, "round_trip_ms": 18.25, "loss_permille": 1, "hops": 7, "full": true,
             "connections": 9, "packets_per_s": 0, "cpu_permille": 1000},
            {"site": "west", "link": "none", "heard": "redis", "since_s": 9, "full": false, "connections": 0, "packets_per_s": 4,
             "cpu_permille": 5},
            {"site": "east", "link": "down", "since_s": 3, "why": "nobody listens there"},
        ]);
        let expected = "\
SITE   LINK  HEARD BY  SINCE     RTT  LOSS  HOPS    SKEW     CPU  CONNECTIONS  PACKETS/S  ROOM  WHY
south  own   -             -       -     -     -       -   12.5%            7       1200  yes   -
north  up    link      1m40s  18.2ms  0.1%     7  -3.1ms  100.0%            9          0  full  -
west   none  redis        9s       -     -     -       -    0.5%            0          4  yes   -
east   down  -            3s       -     -     -       -       -            -          -  -     nobody listens there
";
        assert_eq!(printed(What::Sites, false, &[rows]), expected);
    }

    #[test]
    fn an_answer_of_another_version_is_an_error() {
        let mut out = Vec::new();
        let error = Printer::new(What::Health, false).print(&mut out, Some(json!([{"target": 1}]))).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }
}
