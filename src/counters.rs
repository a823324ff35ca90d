//! Every count, one per drop reason. Each worker counts for itself in memory that only it writes, so that counting is
//! a plain load and store; readers add the workers up.

use crossbeam_utils::CachePadded;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Kinds of things that are counted, as an enum whose values number their counts, each with its name.
macro_rules! names {
    ($(#[$of:meta])* $kind:ident $prefix:literal { $($(#[$doc:meta])* $variant:ident = $name:literal,)* }) => {
        $(#[$of])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $kind { $($(#[$doc])* $variant,)* }

        impl $kind {
            pub const ALL: &'static [$kind] = &[$($kind::$variant,)*];

            /// As `show counters` and the metrics have it.
            pub const fn name(self) -> &'static str {
                match self { $($kind::$variant => concat!($prefix, $name),)* }
            }
        }
    };
}
pub(crate) use names;

names! {
    /// Things that happened.
    Count "" {
        RxPackets = "rx_packets",
        RxBytes = "rx_bytes",
        TxPackets = "tx_packets",
        TxBytes = "tx_bytes",
        /// Frames that the kernel's filter let through and that turned out to be the host's.
        NotOurs = "not_ours",
        FlowsLocal = "flows_local",
        FlowsRemote = "flows_remote",
        /// Checks of remote sites; they count nowhere else.
        FlowsProbe = "flows_probe",
        FlowsEnded = "flows_ended",
        /// UDP flows whose target was down and that another one took over.
        UdpFlowsMoved = "udp_flows_moved",
        /// RSTs of farside's own.
        ResetsSent = "resets_sent",
        /// RSTs and ICMP errors that the rate limit kept back.
        AnswersSuppressed = "answers_suppressed",
        IcmpErrorsSent = "icmp_errors_sent",
        IcmpErrorsTranslated = "icmp_errors_translated",
        EchoReplies = "echo_replies",
        ArpReplies = "arp_replies",
        NeighborAdvertisements = "neighbor_advertisements",
        MssClamped = "mss_clamped",
        /// Packets that left in an encapsulation.
        Encapsulated = "encapsulated",
        /// Times a router said that what is sent into a tunnel is too large for its next link.
        TunnelMtuLearned = "tunnel_mtu_learned",
        /// Packets that left in pieces: joined segments that had to be parted, or too large ones that may be fragmented.
        Cut = "cut",
        /// Packets that waited for a neighbor's MAC.
        Held = "held",
        /// Fragments that came before the first one of their packet and waited for it.
        FragmentsHeld = "fragments_held",
        /// Packets of which fragments may still be under way, forgotten for want of room.
        FragmentsForgotten = "fragments_forgotten",
        /// A second worker was inserting the same flow at the same time; its packet went by the first one's record.
        FlowTwins = "flow_twins",
        /// Connections given to a backup, since no other real server took them.
        ChosenBackup = "chosen_backup",
        /// Connections given to a remote site though real servers are up: those have as many as they may.
        ChosenOverflow = "chosen_overflow",
        /// Connections of clients that were remembered and got to the same real server again.
        PersistenceHits = "persistence_hits",
        /// Connections of clients that were remembered and whose real server takes none now.
        PersistenceMoved = "persistence_moved",
        /// Clients forgotten before their time, for want of room (`[datapath] max_persistent`).
        PersistenceEvicted = "persistence_evicted",
    }
}

names! {
    /// Why a packet went no further.
    Refusal "drop_" {
        /// The ring's slot was too small for it.
        Truncated = "truncated",
        /// No room for an Ethernet header.
        ShortFrame = "short_frame",
        /// No room for an ARP packet of Ethernet and IPv4.
        ArpShort = "arp_short",
        /// The IP header's version is not what the frame's type says.
        IpVersion = "ip_version",
        /// No room for an IP header, or it gives itself an impossible length.
        IpHeader = "ip_header",
        /// The length field says more than there is, or less than a header.
        IpLength = "ip_length",
        /// The IPv4 header's checksum is wrong.
        IpChecksum = "ip_checksum",
        /// IPv4 options, or an IPv6 routing header.
        IpOptions = "ip_options",
        /// IPv6 extension headers cut off, or too many.
        IpExtension = "ip_extension",
        /// A later fragment of a packet whose first one was refused, or whose flow is over.
        Fragment = "fragment",
        /// A first fragment without a whole TCP, UDP or ICMP header, or another one that reaches into it.
        FragmentTiny = "fragment_tiny",
        /// A fragment of no length, of one that is no multiple of 8 though others follow, or that ends behind byte 65535.
        FragmentLength = "fragment_length",
        /// The same piece of a packet once more.
        FragmentDuplicate = "fragment_duplicate",
        /// Another piece of what has passed in part already, or behind the packet's end, and all that follows of that packet.
        FragmentOverlap = "fragment_overlap",
        /// It waited for its packet's first fragment, and that did not come.
        FragmentTimeout = "fragment_timeout",
        /// No room to keep another fragment until its packet's first one comes.
        FragmentHoldFull = "fragment_hold_full",
        /// An ICMP message in pieces that is no echo request.
        FragmentIcmp = "fragment_icmp",
        /// A source that cannot be: loopback, multicast, broadcast, its own destination.
        Martian = "martian",
        /// A source that is a VIP or PIP of this site: a packet of our own has come back, or somebody plays us.
        Loop = "loop",
        /// No room for a TCP header, or it gives itself an impossible length.
        TcpHeader = "tcp_header",
        /// TCP flags that no sender sets together.
        TcpFlags = "tcp_flags",
        /// No room for a UDP header, or its length field does not fit the packet.
        UdpLength = "udp_length",
        /// TCP or UDP from or to port 0.
        PortZero = "port_zero",
        /// No room for an ICMP header.
        IcmpShort = "icmp_short",
        /// An ICMP error that quotes nothing usable.
        IcmpQuote = "icmp_quote",
        /// An ICMP error about no flow on record.
        IcmpUnsolicited = "icmp_unsolicited",
        /// Source quench: it tells senders to slow down, which anybody could, and is to be ignored (RFC 6633).
        SourceQuench = "source_quench",
        /// An ICMP type that a VIP does not answer.
        IcmpType = "icmp_type",
        /// The ICMP checksum is wrong.
        IcmpChecksum = "icmp_checksum",
        /// A neighbor solicitation that breaks the rules of RFC 4861 7.1.1.
        NeighborSolicitation = "neighbor_solicitation",
        /// No service, flow or answer for it, though it is addressed to us.
        NoService = "no_service",
        /// TCP without a flow and no SYN: refused with RST.
        NoFlow = "no_flow",
        /// No healthy server at any site.
        NoServer = "no_server",
        /// No server is up, and the first check of one is under way: dropped, for the client to send it again, as a refusal could be wrong.
        NotChecked = "not_checked",
        /// A peer's connection, and no healthy server at this site: it is never carried on.
        NoServerForPeer = "no_server_for_peer",
        /// The service has as many connections as it may (`[[service]] max_connections`).
        ServiceFull = "service_full",
        /// All real servers that are up have as many connections as they may (`[[service.real]] max_connections`), and no
        /// remote site takes the overflow.
        ServersFull = "servers_full",
        /// All PIP ports towards this remote site are lent.
        PortsExhausted = "ports_exhausted",
        /// No room for another flow (`[datapath] max_flows`).
        TableFull = "table_full",
        /// The same client address and port already talks to the chosen real server by another VIP.
        TupleClash = "tuple_clash",
        /// Another worker was inserting the same flow, and neither got through.
        LostRace = "lost_race",
        /// The host has no route to where it should go.
        NoRoute = "no_route",
        /// Direct mode: the way to the real server leads by a gateway, which would not know what to do with the packet.
        NotOnLink = "not_on_link",
        /// Tunnel mode: no address to send the encapsulated packet from (`[datapath] tunnel_sources`).
        NoTunnelSource = "no_tunnel_source",
        /// The next hop did not answer ARP or neighbor solicitation in time.
        NeighborUnresolved = "neighbor_unresolved",
        /// Too many packets wait for neighbors.
        HoldFull = "hold_full",
        /// It has passed too many routers already: answered with an ICMP error.
        TtlExceeded = "ttl_exceeded",
        /// Larger than the next hop's MTU.
        TooBig = "too_big",
        /// The transmit queue was full.
        TxFull = "tx_full",
        /// The worker was too slow and its receive ring full: the kernel dropped it.
        RingFull = "ring_full",
        /// The kernel refused to send it: interface down, its queue full.
        SendRefused = "send_refused",
    }
}

const COUNTS: usize = Count::ALL.len();
const SLOTS: usize = COUNTS + Refusal::ALL.len();

/// One worker's counts.
pub struct WorkerCounters {
    slots: CachePadded<[AtomicU64; SLOTS]>,
}

impl WorkerCounters {
    fn new() -> WorkerCounters {
        WorkerCounters { slots: CachePadded::new([const { AtomicU64::new(0) }; SLOTS]) }
    }

    /// Only the worker that owns these counters may call this: it is no read-modify-write.
    #[inline]
    pub fn add(&self, count: Count, n: u64) {
        self.bump(count as usize, n);
    }

    /// As [`WorkerCounters::add`].
    #[inline]
    pub fn refuse(&self, reason: Refusal) {
        self.refuse_many(reason, 1);
    }

    /// As [`WorkerCounters::add`].
    pub fn refuse_many(&self, reason: Refusal, n: u64) {
        self.bump(COUNTS + reason as usize, n);
    }

    #[inline]
    fn bump(&self, slot: usize, n: u64) {
        let slot = &self.slots[slot];
        slot.store(slot.load(Relaxed) + n, Relaxed);
    }

    pub fn get(&self, count: Count) -> u64 {
        self.slots[count as usize].load(Relaxed)
    }

    pub fn refused(&self, reason: Refusal) -> u64 {
        self.slots[COUNTS + reason as usize].load(Relaxed)
    }
}

/// All workers' counts.
pub struct Counters {
    workers: Box<[WorkerCounters]>,
}

impl Counters {
    pub fn new(workers: usize) -> Counters {
        Counters { workers: (0..workers).map(|_| WorkerCounters::new()).collect() }
    }

    pub fn worker(&self, worker: usize) -> &WorkerCounters {
        &self.workers[worker]
    }

    pub fn workers(&self) -> usize {
        self.workers.len()
    }

    pub fn total(&self, count: Count) -> u64 {
        self.workers.iter().map(|worker| worker.get(count)).sum()
    }

    pub fn total_refused(&self, reason: Refusal) -> u64 {
        self.workers.iter().map(|worker| worker.refused(reason)).sum()
    }

    /// Every count with its name, drops included, summed over workers.
    pub fn totals(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        let counts = Count::ALL.iter().map(|count| (count.name(), self.total(*count)));
        counts.chain(Refusal::ALL.iter().map(|reason| (reason.name(), self.total_refused(*reason))))
    }
}
