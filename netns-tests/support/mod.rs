//! What the tests are made of: namespaces, the machines in them, servers, clients, and farside itself.

pub mod capture;
pub mod client;
pub mod config;
pub mod crowd;
pub mod dovecot;
pub mod download;
pub mod echo;
pub mod farside;
pub mod lines;
pub mod link;
pub mod names;
pub mod namespace;
pub mod nginx;
pub mod play;
pub mod process;
pub mod redis;
pub mod resolvers;
pub mod server;
pub mod tunnel;
pub mod wait;
pub mod world;
