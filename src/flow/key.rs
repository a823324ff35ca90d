//! The keyed hash of a [`FlowKey`]: SipHash-1-3 under a key that is drawn at every start, so that nobody outside can
//! choose packets that crowd one bucket. `src/bpf/farside.c` computes the same, bit for bit.

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
    /// The message is a row of 64-bit words, written little-endian. IPv4, two words: `src | dst << 32` (the four wire bytes
    /// of each read little-endian), then `src_port | dst_port << 16 | protocol << 32 | family << 40` with the ports in
    /// host order. IPv6, five words: source bytes 0..8 and 8..16, destination 0..8 and 8..16, then the same last word.
    #[inline]
    pub fn hash(&self, key: &FlowKey) -> u64 {
        let last = u64::from(key.src.port)
            | u64::from(key.dst.port) << 16
            | u64::from(key.protocol) << 32
            | u64::from(key.family) << 40;
        let mut sip = Sip::new(self);
        let bytes = if key.family == V4 {
            sip.word(pair(key.src.addr.0[0], key.dst.addr.0[0]));
            sip.word(last);
            16
        } else {
            for addr in [&key.src.addr, &key.dst.addr] {
                let [low, high] = halves(addr);
                sip.word(low);
                sip.word(high);
            }
            sip.word(last);
            40
        };
        sip.finish(bytes).max(1)
    }
}

/// The key stays secret, in logs too.
impl std::fmt::Debug for HashKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("HashKey")
    }
}

fn pair(low: u32, high: u32) -> u64 {
    u64::from(u32::from_le(low)) | u64::from(u32::from_le(high)) << 32
}

fn halves(addr: &Addr) -> [u64; 2] {
    [pair(addr.0[0], addr.0[1]), pair(addr.0[2], addr.0[3])]
}

/// SipHash-1-3 over whole words (Aumasson and Bernstein, "SipHash: a fast short-input PRF", 2012).
struct Sip([u64; 4]);

impl Sip {
    #[inline]
    fn new(key: &HashKey) -> Sip {
        Sip([
            key.k0 ^ 0x736f_6d65_7073_6575,
            key.k1 ^ 0x646f_7261_6e64_6f6d,
            key.k0 ^ 0x6c79_6765_6e65_7261,
            key.k1 ^ 0x7465_6462_7974_6573,
        ])
    }

    #[inline]
    fn round(&mut self) {
        let [mut a, mut b, mut c, mut d] = self.0;
        a = a.wrapping_add(b);
        b = b.rotate_left(13) ^ a;
        a = a.rotate_left(32);
        c = c.wrapping_add(d);
        d = d.rotate_left(16) ^ c;
        a = a.wrapping_add(d);
        d = d.rotate_left(21) ^ a;
        c = c.wrapping_add(b);
        b = b.rotate_left(17) ^ c;
        c = c.rotate_left(32);
        self.0 = [a, b, c, d];
    }

    #[inline]
    fn word(&mut self, word: u64) {
        self.0[3] ^= word;
        self.round();
        self.0[0] ^= word;
    }

    /// `bytes`: the length of the message.
    #[inline]
    fn finish(mut self, bytes: u64) -> u64 {
        self.word(bytes << 56);
        self.0[2] ^= 0xff;
        for _ in 0..3 {
            self.round();
        }
        self.0[0] ^ self.0[1] ^ self.0[2] ^ self.0[3]
    }
}
