//! The keyed hash of a [`FlowKey`]: SipHash-1-3 under a key that is drawn at every start, so that nobody outside can
//! choose packets that crowd one bucket. `src/bpf/farside.c` computes the same, bit for bit.

use crate::sys::sip::Sip;
use crate::wire::ip::{Addr, FlowKey, V4};

/// The key of the flow hash.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct HashKey {
    pub k0: u64,
    pub k1: u64,
}

impl HashKey {
    /// A fresh key from the system's random numbers.
    pub fn random() -> Result<HashKey, getrandom::Error> {
        Ok(HashKey { k0: getrandom::u64()?, k1: getrandom::u64()? })
    }

    /// The hash of a 5-tuple; never 0, which stands for "empty" in tables of hashes.
    ///
    /// The message is the addresses as they lie on the wire, source first, then six bytes: `src_port | dst_port << 16 |
    /// protocol << 32 | family << 40`, little-endian, with the ports in host order. 14 bytes for IPv4, 38 for IPv6: with the
    /// length, which SipHash puts behind the message, two words or five.
    #[inline(always)]
    pub fn hash(&self, key: &FlowKey) -> u64 {
        let last = u64::from(key.src.port)
            | u64::from(key.dst.port) << 16
            | u64::from(key.protocol) << 32
            | u64::from(key.family) << 40;
        let mut sip = Sip::new(self.k0, self.k1);
        if key.family == V4 {
            sip.word(pair(key.src.addr.0[0], key.dst.addr.0[0]));
            sip.word(last | 14 << 56);
        } else {
            for addr in [&key.src.addr, &key.dst.addr] {
                let [low, high] = halves(addr);
                sip.word(low);
                sip.word(high);
            }
            sip.word(last | 38 << 56);
        }
        sip.finish().max(1)
    }

    /// The hash of an address as a message of whole words: IPv4, the address; IPv6, its two halves and two words of 0; then `last`.
    pub fn hash_addr(&self, addr: &Addr, family: u8, last: u64) -> u64 {
        let mut sip = Sip::new(self.k0, self.k1);
        let [low, high] = halves(addr);
        let words: &[u64] = if family == V4 { &[low, last] } else { &[low, high, 0, 0, last] };
        words.iter().for_each(|word| sip.word(*word));
        sip.word((words.len() as u64 * 8) << 56);
        sip.finish().max(1)
    }
}

/// The key stays secret, in logs too.
impl std::fmt::Debug for HashKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("HashKey")
    }
}

#[inline]
fn pair(low: u32, high: u32) -> u64 {
    u64::from(u32::from_le(low)) | u64::from(u32::from_le(high)) << 32
}

#[inline]
fn halves(addr: &Addr) -> [u64; 2] {
    [pair(addr.0[0], addr.0[1]), pair(addr.0[2], addr.0[3])]
}
