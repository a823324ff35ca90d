//! A TPACKET_V2 receive ring.
