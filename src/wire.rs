//! Bytes to fields: one pass over a frame gives a [`Packet`] or a named refusal.
pub mod checksum;
pub mod ip;
