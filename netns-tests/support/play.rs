//! The usual play: POP3 at every site, light servers for both families on all real servers, farside on every box.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;

use serde_json::Value;

use super::client;
use super::config::{Config, quick_check, remote_target};
use super::farside::Farside;
use super::server::Pop3;
use super::wait::eventually;
use super::world::{BOTH, Family, World};

pub const PORT: u16 = 110;

pub struct Play {
    farsides: BTreeMap<u8, Farside>,
    /// By the name of the real server; none: fallen.
    servers: BTreeMap<String, Vec<Pop3>>,
    pub world: World,
}

impl Play {
    /// So many sites, all servers and remotes up.
    #[track_caller]
    pub fn new(sites: u8) -> Play {
        Play::with(sites, |_, _, config| config)
    }

    /// [`Play::new`], where `change` may change each site's [`standard`] configuration, and start the servers that it
    /// adds. A site whose configuration has no service left gets no farside.
    #[track_caller]
    pub fn with(sites: u8, mut change: impl FnMut(&World, u8, Config) -> Config) -> Play {
        let world = World::new(sites);
        let mut play = Play { farsides: BTreeMap::new(), servers: BTreeMap::new(), world };
        for site in 1..=sites {
            play.raise(site);
        }
        let configs: Vec<_> = (1..=sites).map(|site| change(&play.world, site, standard(&play.world, site))).collect();
        // All at once: each one's first round of checks wants answers from the others.
        for (config, site) in configs.iter().zip(1..).filter(|(config, _)| !config.services.is_empty()) {
            play.farsides.insert(site, Farside::launch(play.world.site(site), config));
        }
        for farside in play.farsides.values_mut() {
            farside.wait_ready();
        }
        for farside in play.farsides.values() {
            eventually("all targets up", || {
                let health = farside.show("health");
                let up = health.as_array().expect("a list").iter().all(|row| row["status"] == "up");
                if up { Ok(()) } else { Err(format!("{health:#}\n{}", farside.log())) }
            });
        }
        play
    }

    pub fn farside(&self, site: u8) -> &Farside {
        &self.farsides[&site]
    }

    /// Takes site `site`'s farside out of the play's hands.
    pub fn take_farside(&mut self, site: u8) -> Farside {
        self.farsides.remove(&site).expect("this site's farside")
    }

    pub fn put_farside(&mut self, site: u8, farside: Farside) {
        self.farsides.insert(site, farside);
    }

    /// The service of site `site`, as clients address it.
    pub fn vip(&self, site: u8, family: Family) -> SocketAddr {
        SocketAddr::new(self.world.site(site).vip(family), PORT)
    }

    /// Starts the POP3 servers of site `site` that do not run.
    pub fn raise(&mut self, site: u8) {
        for real in &self.world.site(site).reals {
            self.servers.entry(real.name.clone()).or_insert_with(|| {
                let start = |family| Pop3::start(&real.host, SocketAddr::new(real.address(family), PORT), &real.name);
                BOTH.map(start).into()
            });
        }
    }

    /// The POP3 servers of site `site` die, and its farside has noticed when this returns.
    #[track_caller]
    pub fn fall(&mut self, site: u8) {
        self.fell(site);
        self.wait_reals("down", site);
    }

    /// The POP3 servers of site `site` die, and nobody has noticed yet.
    pub fn fell(&mut self, site: u8) {
        self.servers.retain(|name, _| !name.starts_with(&format!("r{site}")));
    }

    /// The POP3 servers of site `site` come back, and its farside has noticed when this returns.
    #[track_caller]
    pub fn rise(&mut self, site: u8) {
        self.raise(site);
        self.wait_reals("up", site);
    }

    /// The health checks of site `site` fail from now on, though its servers live; its farside has noticed when this
    /// returns.
    #[track_caller]
    pub fn sicken(&self, site: u8) {
        for real in &self.world.site(site).reals {
            let own = self.world.site(site);
            let rules = format!(
                "table inet sick {{ chain input {{ type filter hook input priority 0;
                    ip saddr {{ {}, {} }} meta l4proto tcp reject with tcp reset;
                    ip6 saddr {{ {}, {} }} meta l4proto tcp reject with tcp reset;
                }}
                }}",
                own.lan_address(Family::V4),
                own.pip(Family::V4),
                own.lan_address(Family::V6),
                own.pip(Family::V6)
            );
            real.host.run("nft", &[&rules]);
        }
        self.wait_reals_of("", "down", site);
    }

    /// Undoes [`Play::sicken`].
    #[track_caller]
    pub fn heal(&self, site: u8) {
        for real in &self.world.site(site).reals {
            real.host.run("nft", &["delete table inet sick"]);
        }
        self.wait_reals_of("", "up", site);
    }

    /// Waits until site `site`'s farside gives this status to all its POP3 servers.
    #[track_caller]
    pub fn wait_reals(&self, status: &str, site: u8) {
        self.wait_reals_of("pop3", status, site);
    }

    /// [`Play::wait_reals`] for the services whose names start with `service`.
    #[track_caller]
    fn wait_reals_of(&self, service: &str, status: &str, site: u8) {
        let farside = self.farside(site);
        eventually(&format!("the real servers of site {site} {status}"), || {
            let health = farside.show("health");
            let rows = health.as_array().expect("a list of targets").iter();
            let is_of = |row: &&Value| {
                row["kind"] == "real" && row["target"].as_str().is_some_and(|target| target.starts_with(service))
            };
            let all = rows.filter(is_of).all(|row| row["status"] == status);
            if all { Ok(()) } else { Err(format!("{health:#}\n{}", farside.log())) }
        });
    }

    /// Waits until site `at`'s farside gives this status to site `remote`.
    #[track_caller]
    pub fn wait_remote(&self, status: &str, at: u8, remote: u8) {
        self.farside(at).wait_status(status, &BOTH.map(|family| remote_target("pop3", family, remote)));
    }

    /// Who serves a new session of the client at site `site`'s VIP.
    pub fn who(&self, site: u8, family: Family) -> io::Result<String> {
        client::who(&self.world.client, self.vip(site, family))
    }

    /// The site that serves a new session of the client at site `site`'s VIP.
    #[track_caller]
    pub fn serving_site(&self, site: u8, family: Family) -> u8 {
        let name = self.who(site, family).unwrap_or_else(|e| panic!("{family:?}: {e}\n{}", self.logs()));
        site_of(&name)
    }

    /// All farsides' logs, for messages.
    pub fn logs(&self) -> String {
        self.farsides.iter().map(|(site, farside)| format!("site {site}:\n{}\n", farside.log())).collect()
    }
}

/// The number of the site that the real server `name` belongs to.
pub fn site_of(name: &str) -> u8 {
    name[1..2].parse().expect("a name like r1a")
}

/// POP3 for both families at the site's VIPs, with all its real servers and all other sites.
pub fn standard(world: &World, site: u8) -> Config {
    Config::standard(world, site, "pop3", "tcp", PORT, &quick_check("pop3"))
}
