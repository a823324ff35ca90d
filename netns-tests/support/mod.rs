//! What the tests are made of: namespaces, the machines in them, servers, clients, and farside itself.

pub mod capture;
pub mod dovecot;
pub mod namespace;
pub mod process;
pub mod wait;
pub mod world;
