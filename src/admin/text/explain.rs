//! What would be answered to whom, for people.

use super::super::rows::{ExplainRow, RecordRow, WayRow};
use super::Align::{Left, Right};
use super::{Column, Table, age, printable};
use std::io::{self, Write};

/// Errors are the writer's.
pub fn explain(out: &mut impl Write, row: &ExplainRow) -> io::Result<()> {
    let subnet = row.client_subnet.as_ref().map_or(String::new(), |subnet| format!(" for a client in {subnet}"));
    writeln!(out, "{} {} asked by {}{subnet}", printable(&row.name), row.kind, row.resolver)?;
    writeln!(out, "zone    {}", row.zone.as_deref().unwrap_or("none"))?;
    writeln!(
        out,
        "pool    {}",
        row.pool.as_deref().unwrap_or("none: the addresses are in the zone's file, if there are any")
    )?;
    if row.pool.is_some() {
        writeln!(out, "asker   {}", row.asker)?;
    }
    let answer = &row.answer;
    let addresses = if answer.addresses.is_empty() { "no address".into() } else { answer.addresses.join(" ") };
    let ttl = answer.ttl_s.map_or(String::new(), |ttl_s| format!(", TTL {ttl_s} s"));
    let scope =
        if answer.scope > 0 { format!(", for the client's first {} bits", answer.scope) } else { String::new() };
    writeln!(out, "answer  {}, {addresses}{ttl}{scope}", answer.rcode)?;
    if let Some(record) = &row.record {
        writeln!(out, "record  {}", remembered(record))?;
    }
    if row.pool.is_some() {
        let lasts = match row.lasts_s {
            Some(lasts_s) => format!("by its checks no member comes or goes within {}", age(lasts_s)),
            None => "nothing is checked that could change it".into(),
        };
        writeln!(out, "change  {lasts}")?;
    }
    let modes: Vec<Vec<String>> = row
        .modes
        .iter()
        .map(|mode| vec![mode.mode.clone(), if mode.decides { "yes" } else { "no" }.into(), mode.why.clone()])
        .collect();
    let members: Vec<Vec<String>> = row
        .members
        .iter()
        .map(|member| {
            let is = if member.up { "in" } else { "out" };
            vec![member.name.clone(), member.site.clone(), is.into(), member.addresses.join(" "), member.reason.clone()]
        })
        .collect();
    let tables: [(&[Column], Vec<Vec<String>>); 3] = [
        (&[Column("MODE", Left), Column("DECIDES", Left), Column("WHY", Left)], modes),
        (
            &[
                Column("MEMBER", Left),
                Column("SITE", Left),
                Column("STATUS", Left),
                Column("ADDRESSES", Left),
                Column("WHY", Left),
            ],
            members,
        ),
        (
            &[
                Column("WAY FROM", Left),
                Column("RTT", Right),
                Column("LOSS", Right),
                Column("HOPS", Right),
                Column("MEASURED", Left),
            ],
            row.ways.iter().map(way).collect(),
        ),
    ];
    for (columns, rows) in tables.iter().filter(|(_, rows)| !rows.is_empty()) {
        writeln!(out)?;
        Table::default().print(out, columns, rows)?;
    }
    Ok(())
}

fn way(way: &WayRow) -> Vec<String> {
    let or_dash = |text: Option<String>| text.unwrap_or("-".into());
    let known = way.round_trip_ms.is_some();
    let measured = match (way.age_s, known) {
        (None, _) => "no".into(),
        (Some(age_s), true) => format!("{} ago", age(age_s.into())),
        (Some(age_s), false) => format!("{} ago: nobody answers", age(age_s.into())),
    };
    vec![
        way.site.clone(),
        or_dash(way.round_trip_ms.map(|ms| format!("{ms:.1}ms"))),
        or_dash(way.loss_permille.map(|permille| format!("{:.1}%", f64::from(permille) / 10.0))),
        or_dash(way.hops.map(|hops| hops.to_string())),
        measured,
    ]
}

fn remembered(record: &RecordRow) -> String {
    let left = match record.left_s {
        Some(left_s) => format!("holds for another {}", age(left_s)),
        None => "holds no more".into(),
    };
    let RecordRow { site, age_s, ttl_s, hits, .. } = record;
    let asked = age(*age_s);
    format!(
        "site {site}, last asked for {asked} ago, {left} (TTL {}), has answered {hits} times",
        age(u64::from(*ttl_s))
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_explanation_says_the_answer_first_and_then_why() {
        let row: ExplainRow = serde_json::from_value(json!({
            "name": "www.company.example", "type": "A", "resolver": "10.0.0.1", "client_subnet": "10.7.0.0/16",
            "zone": "company.example.", "pool": "www", "asker": "10.7.0.0/16",
            "members": [
                {"name": "a", "site": "south", "addresses": ["192.0.2.1"], "up": true, "reason": "nothing is checked"},
                {"name": "b", "site": "north", "addresses": ["192.0.2.2"], "up": false, "reason": "drained"}
            ],
            "modes": [
                {"mode": "topology", "decides": false, "why": "no network holds it"},
                {"mode": "stripe", "decides": true, "why": "member 1 of the 1 that are up, at site south"}
            ],
            "answer": {"rcode": "NOERROR", "addresses": ["192.0.2.1"], "ttl_s": 30, "scope": 16},
            "ways": [
                {"site": "south", "age_s": 61, "round_trip_ms": 12.34, "loss_permille": 125, "hops": 7},
                {"site": "north", "age_s": 5}, {"site": "east"}
            ],
            "record": {"site": "south", "age_s": 61, "ttl_s": 3600, "left_s": 3539, "hits": 4}, "lasts_s": 8
        }))
        .unwrap();
        let mut out = Vec::new();
        explain(&mut out, &row).unwrap();
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "\
www.company.example A asked by 10.0.0.1 for a client in 10.7.0.0/16
zone    company.example.
pool    www
asker   10.7.0.0/16
answer  NOERROR, 192.0.2.1, TTL 30 s, for the client's first 16 bits
record  site south, last asked for 1m1s ago, holds for another 58m59s (TTL 1h0m), has answered 4 times
change  by its checks no member comes or goes within 8s

MODE      DECIDES  WHY
topology  no       no network holds it
stripe    yes      member 1 of the 1 that are up, at site south

MEMBER  SITE   STATUS  ADDRESSES  WHY
a       south  in      192.0.2.1  nothing is checked
b       north  out     192.0.2.2  drained

WAY FROM     RTT   LOSS  HOPS  MEASURED
south     12.3ms  12.5%     7  1m1s ago
north          -      -     -  5s ago: nobody answers
east           -      -     -  no
"
        );
    }
}
