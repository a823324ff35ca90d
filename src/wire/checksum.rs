//! The Internet checksum (RFC 1071), changed in place (RFC 1624).
