//! The other sites as the control thread sees them: it says how this site is, and heeds what they say of themselves.

mod voices;

use super::load::Meter;
use super::metrics::Page;
use super::names::Names;
use crate::admin::rows::SiteRow;
use crate::affinity::Store;
use crate::config::Config;
use crate::link::tls::Identity;
use crate::link::{Common, Links, PeerOf, Report};
use crate::service::status::StatusTable;
use crate::service::{Service, ServiceMap, Target};
use crate::sites::state::{Served, State, member_id};
use crate::sites::{Load, Registry, SiteTable, Ways};
use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tracing::error;
use voices::{Said, Voices, Way};

/// This site is looked at so often at most.
const LOOK: Duration = Duration::from_millis(250);

/// What other sites say of members of pools that are theirs: by the site's name, and [`member_id`].
#[derive(Default)]
pub struct Heard(HashMap<String, HashMap<u64, bool>>);

impl Heard {
    /// None: the site is not heard, or says nothing of this member.
    pub fn is_up(&self, site: &str, pool: &str, member: &str) -> Option<bool> {
        self.0.get(site)?.get(&member_id(pool, member)).copied()
    }
}

/// What of all counts is of packets that came in: the forwarder's, and queries.
pub const ARRIVALS: &[&str] = &["rx_packets", "dns_queries_udp", "dns_queries_tcp"];

/// This site's services and the words of their targets.
pub type Own<'s> = (&'s ServiceMap, &'s StatusTable);

/// What is known beside what other sites say.
#[derive(Clone, Default)]
pub struct Known {
    pub sites: Arc<Registry>,
    pub table: Arc<SiteTable>,
    /// None: no resolver is remembered.
    pub store: Option<Arc<Store>>,
    /// None: no pool chooses by metrics.
    pub ways: Option<Arc<Ways>>,
}

pub struct Sites {
    known: Known,
    waker: Option<Arc<mio::Waker>>,
    linked: Option<Linked>,
    /// Through a Redis server, if the configuration names one.
    voices: Option<Voices>,
    /// Whom control has heeded last, and by which way it was heard.
    ways: HashMap<String, Way>,
    /// When some of what was heeded ends to be good.
    ends: Option<Instant>,
    meter: Meter,
    looked: Option<Instant>,
    state: State,
    heard: Arc<Heard>,
    /// How often something had been heard when it was heeded last, by either way; None: it is to be heeded again.
    heeded: Option<(u64, u64)>,
}

/// What the links were made of, and they themselves.
struct Linked {
    own: String,
    listen: Vec<SocketAddr>,
    identity: Identity,
    peers: Vec<PeerOf>,
    links: Links,
}

/// What a reload has read and not yet taken; None: there are no links.
pub struct Prepared(Option<(Identity, Vec<PeerOf>)>);

impl Sites {
    /// Reads the certificates and begins to dial. The error is a sentence.
    pub fn start(config: &Config, known: Known) -> Result<Sites, String> {
        let mut made = Sites {
            known,
            waker: None,
            linked: None,
            voices: None,
            ways: HashMap::new(),
            ends: None,
            meter: Meter::default(),
            looked: None,
            state: State::default(),
            heard: Arc::default(),
            heeded: None,
        };
        let prepared = made.prepare(config)?;
        made.link(config, prepared)?;
        made.voices = Voices::start(config)?;
        Ok(made)
    }

    pub fn heard(&self) -> Arc<Heard> {
        self.heard.clone()
    }

    /// Control is woken when something has been heard.
    pub fn set_waker(&mut self, waker: Arc<mio::Waker>) {
        if let Some(linked) = &self.linked {
            linked.links.set_waker(waker.clone());
        }
        if let Some(voices) = &self.voices {
            voices.states.set_waker(waker.clone());
        }
        self.waker = Some(waker);
    }

    /// Reads what `config` asks for and changes nothing. The error is what is wrong with it.
    pub fn prepare(&self, config: &Config) -> Result<Prepared, String> {
        let Some(link) = &config.link else { return Ok(Prepared(None)) };
        let linked = || config.peers.iter().filter_map(|peer| Some((&peer.name, peer.link.as_ref()?)));
        let certificates = linked().map(|(_, link)| &*link.certificate);
        let identity = Identity::read(&link.certificate, &link.key, certificates).map_err(|why| {
            format!("[link] {why} (`farside site keygen` makes a certificate and a key; each site has its own)")
        })?;
        let peer = |(name, link): (&String, &crate::config::PeerLink)| {
            let site = self.known.sites.number(name).ok_or_else(|| {
                format!("[link] site {name} is one more than can be known from start to end: restart farside")
            })?;
            Ok(PeerOf { name: name.clone(), site, address: link.address })
        };
        Ok(Prepared(Some((identity, linked().map(peer).collect::<Result<_, String>>()?))))
    }

    /// Makes it so, if anything is other than it was.
    pub fn adopt(&mut self, config: &Config, prepared: Prepared, known: Option<Known>) {
        self.heeded = None;
        self.adopt_voices(config);
        let known = known.unwrap_or_else(|| self.known.clone());
        let tells = |known: &Known| (known.store.is_some(), known.ways.is_some());
        let same_tables = tells(&self.known) == tells(&known);
        self.known = known;
        let was = self.linked.as_ref().map(|was| (&was.identity, &was.peers));
        let same = prepared.0.as_ref().map(|(identity, peers)| (identity, peers)) == was;
        let listen = config.link.as_ref().map(|link| &link.listen);
        let settings = self.linked.as_ref().map(|was| (&was.own, &was.listen));
        if same && same_tables && settings.is_none_or(|was| was == (&config.site, listen.unwrap_or(&Vec::new()))) {
            return;
        }
        // The old listeners must be closed before the new ones can be opened.
        self.linked = None;
        if let Err(why) = self.link(config, prepared) {
            error!("{why}; other sites hear nothing of this one");
        }
    }

    fn adopt_voices(&mut self, config: &Config) {
        if self.voices.as_ref().map_or(voices::wanted(config).is_none(), |voices| voices.is_of(config)) {
            return;
        }
        // Control does not wait for a server that may be gone.
        if let Some(voices) = self.voices.take() {
            voices.states.leave();
        }
        match Voices::start(config) {
            Ok(voices) => self.voices = voices,
            Err(why) => error!("{why}; sites say nothing through it"),
        }
        if let Some(voices) = &self.voices {
            self.waker.iter().for_each(|waker| voices.states.set_waker(waker.clone()));
            voices.states.tell(&self.state);
        }
    }

    fn link(&mut self, config: &Config, prepared: Prepared) -> Result<(), String> {
        let (Some(link), Some((identity, peers))) = (&config.link, prepared.0) else { return Ok(()) };
        let common = Common {
            own: config.site.clone(),
            sites: self.known.sites.clone(),
            table: self.known.table.clone(),
            store: self.known.store.clone(),
            ways: self.known.ways.clone(),
        };
        let links = Links::start(common, identity.clone(), peers.clone(), &link.listen)?;
        if let Some(waker) = &self.waker {
            links.set_waker(waker.clone());
        }
        links.tell(self.state.clone());
        self.linked = Some(Linked { own: config.site.clone(), listen: link.listen.clone(), identity, peers, links });
        Ok(())
    }

    /// Tells the others how this site is, and heeds what they have said. `packets`: that came in, ever.
    pub fn tick(
        &mut self,
        now: Instant,
        config: &Config,
        own: Option<Own>,
        names: Option<&Names>,
        packets: impl FnOnce() -> u64,
    ) {
        if self.looked.is_none_or(|at| now.duration_since(at) >= LOOK) {
            self.looked = Some(now);
            self.meter.look(now, packets);
            self.state = self.measure(config, own, names);
            if let Some(site) = self.known.sites.number(&config.site) {
                let State { full, connections, packets_per_s, cpu_permille, .. } = self.state;
                let load = Load { full, connections, packets_per_s, cpu_permille, ..Load::HERE };
                self.known.table.set(site, &load);
            }
            if let Some(linked) = &self.linked {
                linked.links.tell(self.state.clone());
            }
            if let Some(voices) = &self.voices {
                voices.states.tell(&self.state);
            }
        }
        let linked = self.linked.as_ref().map_or(0, |linked| linked.links.news());
        let news = (linked, self.voices.as_ref().map_or(0, |voices| voices.states.news()));
        if self.heeded != Some(news) || self.ends.is_some_and(|ends| ends <= now) {
            self.heeded = Some(news);
            self.heed(now, own);
        }
    }

    fn measure(&self, config: &Config, own: Option<Own>, names: Option<&Names>) -> State {
        let services: &[Service] = own.map_or(&[], |(services, _)| services.services());
        let served: Vec<Served> =
            own.map_or(Vec::new(), |(_, status)| services.iter().map(|one| served(one, status)).collect());
        let connections = own.map_or(0, |(_, status)| services.iter().map(|one| status.service_active(one.slot)).sum());
        let mut up = served.iter().filter(|served| served.up).peekable();
        State {
            full: up.peek().is_some() && up.all(|served| served.full),
            connections,
            packets_per_s: self.meter.packets_per_s(),
            cpu_permille: self.meter.cpu_permille(),
            services: served,
            members: names.map_or(Vec::new(), |names| names.own_members(&config.site)),
        }
    }

    /// Marks the forwarder's targets, and keeps what was said of pools' members and of loads.
    fn heed(&mut self, now: Instant, own: Option<Own>) {
        let said = self.said(now);
        if let Some((services, status)) = own {
            for service in services.services() {
                for remote in &service.remotes {
                    let (refuses, headroom) = said_of(remote, service, &said);
                    status.slot(remote.slot).set_said(refuses, headroom);
                }
            }
        }
        let members = |said: &Said| (said.name.clone(), said.state.members.iter().copied().collect());
        self.heard = Arc::new(Heard(said.iter().map(members).collect()));
        self.ends = said.iter().filter_map(|said| said.ends).min();
        let ways = said.iter().map(|said| (said.name.clone(), said.way)).collect();
        let before = std::mem::replace(&mut self.ways, ways);
        self.note_loads(&said, &before);
        if let Some(voices) = &mut self.voices {
            voices.tell_changes(now, &self.ways);
        }
    }

    /// Links note the loads that they hear of themselves, and how far away a site is; through a server that is not known.
    fn note_loads(&self, said: &[Said], before: &HashMap<String, Way>) {
        let Known { sites, table, .. } = &self.known;
        for Said { name, state, .. } in said.iter().filter(|said| said.way == Way::Redis) {
            let State { full, connections, packets_per_s, cpu_permille, .. } = **state;
            let load = Load { full, connections, packets_per_s, cpu_permille, ..Load::default() };
            sites.number(name).iter().for_each(|site| table.set(*site, &load));
        }
        let silent = before.iter().filter(|(name, way)| **way == Way::Redis && !self.ways.contains_key(*name));
        silent.filter_map(|(name, _)| sites.find(name)).for_each(|site| table.forget(site));
    }

    /// Whoever has said how it is: a link's word goes before what comes through a server.
    fn said(&self, now: Instant) -> Vec<Said> {
        let linked = self
            .reports()
            .into_iter()
            .filter_map(|report| Some(Said { name: report.name, state: report.state?, way: Way::Link, ends: None }));
        let mut said: Vec<Said> = linked.collect();
        for report in self.voices.iter().flat_map(|voices| voices.states.reports(now)) {
            if let Some(state) = report.state
                && said.iter().all(|said| said.name != report.name)
            {
                said.push(Said { name: report.name, state, way: Way::Redis, ends: report.ends });
            }
        }
        said
    }

    fn reports(&self) -> Vec<Report> {
        self.linked.as_ref().map_or(Vec::new(), |linked| linked.links.reports())
    }

    /// `show sites`: this one first.
    pub fn rows(&self, config: &Config) -> Vec<SiteRow> {
        let state = &self.state;
        let own = SiteRow {
            connections: Some(state.connections),
            packets_per_s: Some(state.packets_per_s),
            cpu_permille: Some(state.cpu_permille),
            full: Some(state.full),
            certificate_ends: self.linked.as_ref().and_then(|linked| linked.identity.ends()),
            ..SiteRow::new(&config.site, "own")
        };
        let reports = self.reports();
        let mut rows = vec![own];
        for peer in &config.peers {
            rows.push(match reports.iter().find(|report| report.name == peer.name) {
                Some(report) => row(report),
                None => SiteRow::new(&peer.name, "none"),
            });
        }
        if let Some(voices) = &self.voices {
            voices.complete(Instant::now(), &mut rows);
        }
        rows
    }

    /// Of `show counters`.
    pub fn counts(&self) -> BTreeMap<String, u64> {
        let mut all = Vec::new();
        if let Some(linked) = &self.linked {
            let counts = linked.links.counts();
            all.extend([
                ("link_begun", counts.begun),
                ("link_lost", counts.lost),
                ("link_refused", counts.refused),
                ("link_records_sent", counts.records_sent),
                ("link_records_received", counts.records_received),
                ("link_records_taken", counts.records_taken),
                ("link_repairs", counts.repairs),
            ]);
        }
        if let Some(voices) = &self.voices {
            let counts = voices.states.counts();
            all.extend([
                ("redis_states_rounds", counts.rounds),
                ("redis_states_unreadable", counts.unreadable),
                ("redis_states_lost", counts.lost),
            ]);
        }
        all.into_iter().map(|(name, count)| (name.to_string(), count)).collect()
    }

    /// Of `/metrics`, beside what [`Sites::counts`] counts.
    pub fn metrics(&self, page: &mut Page, config: &Config) {
        let rows = self.rows(config);
        let mut gauge = |name: &str, help: &str, value: &dyn Fn(&SiteRow) -> Option<f64>| {
            page.metric(name, "gauge", help);
            for row in &rows {
                if let Some(value) = value(row) {
                    page.sample(name, &[("site", &row.site)], value);
                }
            }
        };
        let linked = |row: &SiteRow| ["up", "down"].contains(&&*row.link);
        gauge("farside_link_up", "1: the link to the site stands.", &|row| {
            linked(row).then(|| f64::from(u8::from(row.link == "up")))
        });
        gauge("farside_link_round_trip_seconds", "There and back.", &|row| Some(row.round_trip_ms? / 1000.0));
        gauge("farside_link_skew_seconds", "By how much the site's clock is ahead.", &|row| {
            Some(row.skew_ms? / 1000.0)
        });
        let loss = "Of what is sent to the site, how much has to be sent again.";
        gauge("farside_link_loss_ratio", loss, &|row| Some(f64::from(row.loss_permille?) / 1000.0));
        gauge("farside_link_hops", "Routers between.", &|row| row.hops.map(f64::from));
        let ends = "When the site's certificate ends, in seconds since 1970.";
        gauge("farside_link_certificate_ends_seconds", ends, &|row| row.certificate_ends.map(|ends| ends as f64));
        gauge("farside_site_connections", "Open connections, as the site says.", &|row| row.connections.map(f64::from));
        let packets = "Packets that come in, as the site says.";
        gauge("farside_site_packets_per_second", packets, &|row| row.packets_per_s.map(f64::from));
        let cpu = "How busy the site's CPUs are, as it says.";
        gauge("farside_site_cpu_ratio", cpu, &|row| Some(f64::from(row.cpu_permille?) / 1000.0));
        let heard = "1: what the site says of itself is known here, by a link or through Redis.";
        gauge("farside_site_heard", heard, &|row| {
            (row.link != "own").then(|| f64::from(u8::from(row.heard.is_some())))
        });
        let full = "1: the site says that it takes no new connection.";
        gauge("farside_site_full", full, &|row| row.full.map(|full| f64::from(u8::from(full))));
        if let Some(voices) = &self.voices {
            let help = "1: the server through which sites tell each other how they are answers.";
            page.metric("farside_redis_states_up", "gauge", help);
            page.sample("farside_redis_states_up", &[], u8::from(voices.states.is_connected()));
        }
    }
}

fn row(report: &Report) -> SiteRow {
    let state = report.state.as_deref();
    let ms = |us: i64| us as f64 / 1000.0;
    SiteRow {
        since_s: Some(report.since.elapsed().as_secs()),
        why: (!report.stands).then(|| report.why.clone()),
        address: report.address.map(|address| address.to_string()),
        skew_ms: report.ahead_us.map(ms),
        round_trip_ms: report.round_trip_us.map(|us| ms(us.into())),
        loss_permille: report.loss_permille,
        hops: report.hops,
        certificate_ends: report.ends,
        connections: state.map(|state| state.connections),
        packets_per_s: state.map(|state| state.packets_per_s),
        cpu_permille: state.map(|state| state.cpu_permille),
        full: state.map(|state| state.full),
        heard: state.map(|_| Way::Link.word().into()),
        ..SiteRow::new(&report.name, if report.stands { "up" } else { "down" })
    }
}

fn served(service: &Service, status: &StatusTable) -> Served {
    let takes = |real: &&Target| real.weight > 0 && status.slot(real.slot).takes_new();
    let has_room = |real: &Target| {
        let active = status.slot(real.slot).active();
        real.max_connections == 0 || active < real.max_connections
    };
    let most = service.terms.max_connections;
    let all = most > 0 && status.service_active(service.slot) >= most;
    let up = service.reals.iter().any(|real| takes(&real));
    Served {
        vip: service.vip.addr.to_ip(service.family),
        port: service.vip.port,
        protocol: service.protocol,
        up,
        full: up && (all || !service.reals.iter().filter(takes).any(has_room)),
    }
}

/// Whether a site refuses what would be carried to `remote`, and what is left of its CPUs, in 255ths and at least 1; 0: not known.
fn said_of(remote: &Target, service: &Service, said: &[Said]) -> (bool, u8) {
    let site = remote.name.rsplit_once('/').map_or("", |(_, site)| site);
    let Some(Said { state, .. }) = said.iter().find(|said| said.name == site) else { return (false, 0) };
    let vip = remote.endpoint.addr.to_ip(service.family);
    let same =
        |served: &&Served| (served.vip, served.port, served.protocol) == (vip, remote.endpoint.port, service.protocol);
    let refuses = state.full || state.services.iter().find(same).is_some_and(|served| served.full || !served.up);
    let left = 255 - u32::from(state.cpu_permille.min(1000)) * 255 / 1000;
    (refuses, left.max(1) as u8)
}
