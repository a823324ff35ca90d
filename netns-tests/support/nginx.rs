//! nginx as a real server's web server: it takes files by PUT and gives them back.

use std::fs;
use std::path::PathBuf;

use super::process::Process;
use super::wait::until;
use super::world::{Family, Real, Site};

/// A running nginx. Dropping it kills it.
pub struct Nginx {
    _process: Process,
    log: PathBuf,
}

impl Nginx {
    /// Starts nginx on a real server, port 80 of all its addresses, those of later too; returns once it answers.
    pub fn start(site: &Site, real: &Real) -> Nginx {
        let home = site.directory().join(format!("{}-web", real.name));
        fs::create_dir_all(home.join("files")).expect("a directory for nginx");
        fs::write(home.join("files/index.html"), format!("{}\n", real.name)).expect("a page");
        let (file, log) = (home.join("nginx.conf"), home.join("access.log"));
        // One process, so that none is left when it is killed.
        let text = format!(
            "daemon off; master_process off; user root; pid {home}/nginx.pid; error_log {home}/error.log;
events {{ }}
http {{
  log_format who '$request_method $uri $status from $remote_addr at $server_addr';
  access_log {home}/access.log who;
  client_max_body_size 0;
  client_body_temp_path {home}/body;
  proxy_temp_path {home}/proxy;
  fastcgi_temp_path {home}/fastcgi;
  uwsgi_temp_path {home}/uwsgi;
  scgi_temp_path {home}/scgi;
  server {{
    listen 80;
    listen [::]:80;
    root {home}/files;
    location / {{ dav_methods PUT; }}
  }}
}}
",
            home = home.display()
        );
        fs::write(&file, text).expect("nginx's configuration");
        let file = file.to_str().expect("a readable path");
        let process = real.host.spawn("nginx", "nginx", &["-e", "stderr", "-c", file]);
        let url = format!("http://{}/", real.address(Family::V4));
        until("nginx", || real.host.output("curl", &["-fsS", "-m", "5", &url]).status.success());
        Nginx { _process: process, log }
    }

    /// What it has served, a line each: `PUT /file 201 from 192.0.2.10 at 10.1.0.11`.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }
}
