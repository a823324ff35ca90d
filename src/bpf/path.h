// SPDX-License-Identifier: MIT OR Apache-2.0
//
// The kernel path: packets of flows that stand and that need nothing but a rewrite are carried from here, by the same
// records that the workers read (FLOWS, RECORDS; the theory is in flow/table.rs and flow/record.rs). The kernel asks for a packet,
// one right after the other on the same CPU, the fanout program (where there are several workers), the filter and the ingress
// program. The first of them decides, and leaves a word for the others: the filter leaves out of the ring, and the ingress program
// carries, what was decided to be carried. Whatever is in the least out of the ordinary is the workers'.

#pragma once

// Mirrors sys/rows.rs; what the fields mean is said in flow/record.rs.
struct record {
	u32 version;
	u32 last_seen;
	u64 state;
	u64 addrs[2];
	u64 ports;
	u32 packets[2];
	u64 bytes[2];
	u64 more[2][3];
	u32 acks[2];
	u32 birth;
	u32 owner;
};

// Mirrors route/hops.rs: mac 48 | port 8 | flags 8, bit 0 valid.
struct hop {
	u64 word;
	u32 mtu;
	u32 zero;
};

#define HOP_VALID (1ULL << 56)
#define HOP_USED (1U << 31)

// An interface by its number in hops; ifindex 0: nothing is carried that way. source: of tunnels that leave by it, IPv4 first;
// all zero: none.
struct port {
	u32 ifindex;
	u8 mac[6];
	u16 zero;
	u32 source[2][4];
};

#define SOURCES 16

struct routes {
	u32 epoch;
	// The kernel path is open.
	u32 open;
	u32 gue_port;
	// Sources of tunnels that are listed, IPv4 first; none: the port's.
	u32 listed[2];
	u32 sources[2][SOURCES][4];
};

// What this CPU has carried; one line each.
struct carried {
	u64 packets;
	u64 bytes;
	// Decided for the kernel path, and then the flow had changed.
	u64 missed;
	u64 zero[5];
};

// How far the worker is with a flow's packets; one for each record, the kernel programs' own. `need`: where the record's count of
// each side's packets is once the worker is done with all that it was handed. What is carried here raises that count and leaves
// this alone, so that two CPUs that carry packets of one flow at a time do not take each other's for the worker's. `since`: when
// the worker was last seen to be done.
struct step {
	u32 need[2];
	u16 generation;
	u16 since;
};

// max_entries of these three are set when the programs are loaded.
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, u32);
	__type(value, struct bucket);
} FLOWS SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, u32);
	__type(value, struct record);
} RECORDS SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct step);
} STEPS SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 16384);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, u32);
	__type(value, struct hop);
} HOPS SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 256);
	__type(key, u32);
	__type(value, struct port);
} PORTS SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct routes);
} ROUTES SEC(".maps");

// Targets' status words by slot; service/status.rs.
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 16384);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, u32);
	__type(value, u32);
} STATUS SEC(".maps");

#define STATUS_UP 1

// forward/paths.rs
#define PATHS_LEN 1024

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, PATHS_LEN);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, u32);
	__type(value, u64);
} PATHS SEC(".maps");

#define CPUS 1024

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, CPUS);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, u32);
	__type(value, struct carried);
} CARRIED SEC(".maps");

#define LIVE 3
#define KIND_V6 (1U << 3)
#define KIND_UDP (1U << 4)
#define KIND_ACKS (1U << 5)
#define MODE(version) ((version) >> 6 & 3)
#define MODE_REMOTE 1
#define MODE_DIRECT 2
#define MODE_TUNNEL 3
#define ENTRY_INDEX ((1U << 30) - 1)
#define ENTRY_SERVER (1U << 31)
#define ESTABLISHED 2
#define CLIENT_FIN 3
#define SERVER_FIN 4
#define UDP_STATE 9

#define TCP_ACK 0x10
// FIN, SYN, RST: they move the state, which is for the workers to see.
#define TCP_MOVES 0x07

// All that is asked about a packet before it is carried.
struct look {
	struct tuple t;
	// Bytes of the IP header.
	u32 header;
	// The IP packet's bytes, and those of the largest packet that it will be on the wire.
	u32 bytes;
	u32 largest;
	u32 ack;
	// There is more than one packet in it.
	u32 joined;
	// A router may cut it.
	u32 divisible;
};

// The word on a packet from program to program.
struct decision {
	// To be carried: by this record.
	u32 open;
	u32 index;
	u32 version;
	u32 side;
	u32 tick;
	// The whole packet's bytes.
	u32 len;
	struct look look;
	// The fanout program has asked for the filter too: whether the packet is farside's.
	u32 asked;
	u32 ours;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct decision);
} DECISION SEC(".maps");

INLINE struct decision *word_on_packet(void)
{
	u32 zero = 0;
	return map_lookup(&DECISION, &zero);
}

// UDP may be more than one datagram, or one that its sender's device shall fragment: then there is a gso_size, and for a tunnel it
// is a worker's.
INLINE int read_udp(struct __sk_buff *skb, u32 base, struct look *look)
{
	struct tuple *t = &look->t;
	u32 header = look->header;
	u16 udp[4];

	if (look->bytes < header + sizeof(udp) || load_bytes(skb, base + header, udp, sizeof(udp)))
		return 0;
	u32 length = be16(udp[2]);
	if (length < sizeof(udp) || length > look->bytes - header)
		return 0;
	t->sport = be16(udp[0]);
	t->dport = be16(udp[1]);
	look->largest = look->bytes;
	if (skb->gso_size && header + sizeof(udp) + skb->gso_size < look->bytes)
		look->largest = header + sizeof(udp) + skb->gso_size;
	return 1;
}

INLINE void first_word(u32 *addr, u32 word)
{
	addr[0] = word;
	addr[1] = addr[2] = addr[3] = 0;
}

// Reads the headers of a packet that the kernel path may carry: UDP, or TCP that moves no state; whole, without options.
INLINE int read_headers(struct __sk_buff *skb, u32 base, struct look *look)
{
	struct tuple *t = &look->t;
	u8 tcp[20];
	u8 ttl;

	if (skb->vlan_present || skb->pkt_type != PACKET_HOST)
		return 0;
	look->joined = skb->gso_size;
	if (skb->protocol == be16(ETH_P_IP)) {
		struct ipv4 ip;
		if (load_bytes(skb, base, &ip, sizeof(ip)) || ip.version_ihl != 0x45)
			return 0;
		if (be16(ip.frag) & (IPV4_OFFSET | IPV4_MF))
			return 0;
		t->family = 4;
		t->protocol = ip.protocol;
		first_word(t->src, ip.src);
		first_word(t->dst, ip.dst);
		ttl = ip.ttl;
		look->divisible = !(be16(ip.frag) & IPV4_DF);
		look->bytes = be16(ip.total);
		look->header = sizeof(ip);
	} else if (skb->protocol == be16(ETH_P_IPV6)) {
		struct ipv6 ip;
		if (load_bytes(skb, base, &ip, sizeof(ip)))
			return 0;
		t->family = 6;
		t->protocol = ip.next;
		copy(t->src, ip.src);
		copy(t->dst, ip.dst);
		ttl = ip.hop_limit;
		look->divisible = 0;
		look->bytes = be16(ip.payload) + sizeof(ip);
		look->header = sizeof(ip);
	} else {
		return 0;
	}
	u32 header = look->header;
	if (ttl < 2 || look->bytes > skb->len - base)
		return 0;
	if (t->protocol == IPPROTO_UDP)
		return read_udp(skb, base, look);
	if (t->protocol != IPPROTO_TCP || look->bytes < header + sizeof(tcp))
		return 0;
	if (load_bytes(skb, base + header, tcp, sizeof(tcp)))
		return 0;
	u32 tcp_header = (tcp[12] >> 4) * 4;
	if (tcp_header < sizeof(tcp) || header + tcp_header > look->bytes)
		return 0;
	if ((tcp[13] & (TCP_MOVES | TCP_ACK)) != TCP_ACK)
		return 0;
	t->sport = tcp[0] << 8 | tcp[1];
	t->dport = tcp[2] << 8 | tcp[3];
	look->ack = (u32)tcp[8] << 24 | tcp[9] << 16 | tcp[10] << 8 | tcp[11];
	look->largest = look->bytes;
	if (skb->gso_size && header + tcp_header + skb->gso_size < look->bytes)
		look->largest = header + tcp_header + skb->gso_size;
	return 1;
}

INLINE u64 pair(u32 low, u32 high)
{
	return low | (u64)high << 32;
}

// Record::matches
INLINE int matches(const struct record *record, u32 version, u32 side, const struct tuple *t)
{
	side &= 1;
	if (!(version & KIND_V6) != (t->family == 4) || !(version & KIND_UDP) != (t->protocol == IPPROTO_TCP))
		return 0;
	if (record->addrs[side] != pair(t->src[0], t->dst[0]))
		return 0;
	if ((u32)(record->ports >> (32 * side)) != (t->sport | (u32)t->dport << 16))
		return 0;
	if (t->family == 4)
		return 1;
	const u64 *more = record->more[side];
	return more[0] == pair(t->src[1], t->dst[1]) && more[1] == pair(t->src[2], t->dst[2]) &&
	       more[2] == pair(t->src[3], t->dst[3]);
}

INLINE u64 candidate(u64 half, u16 tag)
{
	u32 key = half & FLOW_MASK;
	struct bucket *bucket = map_lookup(&FLOWS, &key);
	u64 hit = 0;
	if (!bucket)
		return 0;
#pragma unroll
	for (int i = 0; i < 8; i++) {
		u64 word = *(volatile u64 *)&bucket->words[i];
		if ((u16)(word >> 48) == tag)
			hit = word;
	}
	return hit;
}

// A flow with this key as the table's entry says it. A second entry with the same tag in one bucket is not looked at: then
// the packet is a worker's.
INLINE struct record *at_entry(u64 entry, const struct tuple *t, struct decision *d)
{
	if (!entry)
		return 0;
	d->index = entry & ENTRY_INDEX;
	d->side = entry & ENTRY_SERVER ? 1 : 0;
	struct record *record = map_lookup(&RECORDS, &d->index);
	if (!record)
		return 0;
	d->version = *(volatile u32 *)&record->version;
	if ((d->version & 7) != LIVE || (u16)(d->version >> 11) != (u16)(entry >> 32))
		return 0;
	return matches(record, d->version, d->side, t) ? record : 0;
}

INLINE struct record *find_flow(const struct tuple *t, struct decision *d)
{
	u64 hash = flow_hash(t->src, t->dst, t->sport, t->dport, t->protocol, t->family);
	u16 tag = (u16)(hash >> 48) ^ (u16)(hash >> 16);
	if (!tag)
		tag = 1;
	struct record *record = at_entry(candidate(hash, tag), t, d);
	return record ? record : at_entry(candidate(hash >> 32, tag), t, d);
}

#define TARGET_V6(version) ((version) >> 10 & 1)
#define ENCAPSULATION(version) ((version) >> 8 & 3)
#define ENCAPSULATION_GRE 1
#define ENCAPSULATION_GUE 2
#define ENCAPSULATION_GUE1 3
#define V4_HEADER 20
#define V6_HEADER 40

// encap::overhead
INLINE u32 overhead(u32 version)
{
	u32 ip = TARGET_V6(version) ? V6_HEADER : V4_HEADER;
	switch (ENCAPSULATION(version)) {
	case ENCAPSULATION_GRE:
		return ip + GRE_HEADER;
	case ENCAPSULATION_GUE:
		return ip + UDP_HEADER + GUE_HEADER;
	case ENCAPSULATION_GUE1:
		return ip + UDP_HEADER;
	default:
		return ip;
	}
}

INLINE u32 tick_at(u64 now)
{
	return (now - START_NS) / TICK_NS;
}

#define TICKS 0xffffff
// Ten minutes.
#define PATH_KEPT_NS 600000000000ULL

// Paths::mtu: what is known of the largest packet that reaches the target of this record; 0: nothing.
INLINE u32 path_mtu(const struct record *record, u32 version, u32 now)
{
	u32 v6 = TARGET_V6(version);
	u64 a = (u32)record->addrs[1], b = 0, c = 0, d = 0;
	if (v6) {
		b = (u32)record->more[1][0];
		c = (u32)record->more[1][1];
		d = (u32)record->more[1][2];
	}
	u64 hash = (a | b << 32) * 0x9e3779b97f4a7c15ULL ^ rotl(c | d << 32, 29);
	hash = (hash ^ hash >> 31) * 0xbf58476d1ce4e5b9ULL;
	u64 tag = hash >> 40;
	u32 place = hash >> 20 & (PATHS_LEN - 1);
	u64 *known = map_lookup(&PATHS, &place);
	if (!known)
		return 0;
	u64 word = *(volatile u64 *)known;
	if (word >> 40 != (tag ? tag : 1) || ((u32)word - now & TICKS) > PATH_KEPT_NS / TICK_NS)
		return 0;
	return word >> 24 & 0xffff;
}

// service/build.rs, probe_address: checks come by a device of the process's own. Those of servers that have the VIP are on record as if
// they went to a remote site; where they go only the door says, which is a worker's to ask.
INLINE int is_probe(const struct tuple *t)
{
	return t->family == 4 ? (t->src[0] & 0xffff) == 0xfea9 : t->src[0] == 0x726166fd && t->src[1] == 0x65646973;
}

// By a record's state: the hop toward the server is for what the client sends. 0: it is not known, or not for now.
INLINE struct hop *next_hop(u64 state, u32 side)
{
	u32 id = (side ? state : state >> 16) & 0xffff;
	struct hop *hop = id ? map_lookup(&HOPS, &id) : 0;
	return hop && hop->word & HOP_VALID ? hop : 0;
}

// Where a packet of this flow leaves, as the record and the hop say now; 0 if that is a matter for a worker.
INLINE struct hop *way_out(const struct record *record, const struct decision *d)
{
	const struct look *look = &d->look;
	u32 zero = 0;
	u64 word = *(volatile u64 *)&record->state;
	u32 state = word >> 32 & 0xff;
	u32 mode = MODE(d->version);
	struct routes *routes = map_lookup(&ROUTES, &zero);

	if (!routes || !routes->open || (u8)routes->epoch != (u8)(word >> 40))
		return 0;
	if ((u16)(word >> 48) != (u16)(d->version >> 11))
		return 0;
	if (d->version & KIND_UDP) {
		// forward.rs, is_lost: a client's datagram leaves a target that is down.
		u32 slot = record->owner & 0xffff;
		u32 *status = map_lookup(&STATUS, &slot);
		if (state != UDP_STATE || (!d->side && !(status && *(volatile u32 *)status & STATUS_UP)))
			return 0;
	} else if (state != ESTABLISHED && state != CLIENT_FIN && state != SERVER_FIN) {
		return 0;
	}
	if (is_probe(&look->t))
		return 0;
	// forward/fragment.rs, passes: of all clients' packets from one PIP those that may be cut get an identification of farside's own.
	if (mode == MODE_REMOTE && !d->side && look->divisible)
		return 0;
	struct hop *hop = next_hop(word, d->side);
	if (!hop)
		return 0;
	u32 most = hop->mtu & ~HOP_USED;
	if (mode == MODE_TUNNEL) {
		u32 grown = overhead(d->version);
		u32 path = path_mtu(record, d->version, d->tick);
		if (path && path < most)
			most = path;
		if (d->version & KIND_UDP && look->joined)
			return 0;
		// A checksum over all of it is the device's work, and it cannot be asked for here.
		if (TARGET_V6(d->version) && ENCAPSULATION(d->version) >= ENCAPSULATION_GUE)
			return 0;
		// A source that is listed beyond these is chosen by a worker.
		if (routes->listed[TARGET_V6(d->version)] > SOURCES)
			return 0;
		if (most <= grown || look->bytes + grown > 0xffff)
			return 0;
		most -= grown;
	}
	return look->largest > most ? 0 : hop;
}

INLINE struct port *port_of(u64 hop)
{
	u32 number = hop >> 48 & 0xff;
	struct port *port = map_lookup(&PORTS, &number);
	return port && port->ifindex ? port : 0;
}

// Packets of both sides together before the kernel path takes a flow. A short connection is better off whole with a
// worker, which takes its packets in batches; what it costs to change over pays for those that stay.
#define SETTLED 16

// ktime in units of 2^24 ns, 60 to the second: after as long out of step as four of them, something was lost on its way to the
// worker. In a flood that is much, and until it is given up all that comes on the flow goes where there is no room.
#define STEP_CLOCK(ns) ((u16)((ns) >> 24))
#define STEP_LOST 4

// Has the worker sent all that it was handed of this side's packets? If not, this one would overtake them.
INLINE int in_step(struct step *step, const struct record *record, const struct decision *d, u64 now_ns)
{
	// Inverted, so that the first life of a record is not taken for known.
	u16 generation = ~(d->version >> 11);
	u16 now = STEP_CLOCK(now_ns);
	u32 side = d->side & 1;

	if (step->generation != generation) {
		step->generation = generation;
		step->need[0] = record->packets[0];
		step->need[1] = record->packets[1];
	}
	u32 sent = record->packets[side];
	s32 ahead = sent - step->need[side];
	if (ahead >= 0) {
		// So that it is never ahead by so much that it looks behind.
		if (ahead > 1 << 30)
			step->need[side] = sent;
		return 1;
	}
	if ((u16)(now - step->since) <= STEP_LOST)
		return 0;
	step->need[side] = sent;
	return 1;
}

// This side's packet goes to the worker.
INLINE void hand_over(struct step *step, const struct record *record, const struct decision *d, u64 now_ns)
{
	u32 side = d->side & 1;
	u32 sent = record->packets[side];

	if ((s32)(sent - step->need[side]) >= 0) {
		step->need[side] = sent + 1;
		step->since = STEP_CLOCK(now_ns);
	} else {
		step->need[side] += 1;
	}
}

// Shall the ingress program carry it? `base`: where the network header begins, from the start of what this program sees.
INLINE int decide(struct __sk_buff *skb, u32 base, struct decision *word)
{
	struct look *look = &word->look;

	word->open = 0;
	if (!read_headers(skb, base, look))
		return 0;
	struct record *record = find_flow(&look->t, word);
	if (!record)
		return 0;
	u32 index = word->index;
	struct step *step = map_lookup(&STEPS, &index);
	if (!step)
		return 0;
	u64 now = clock_ns();
	word->tick = tick_at(now);
	int ready = in_step(step, record, word, now) && record->packets[0] + record->packets[1] >= SETTLED;
	struct hop *hop = ready ? way_out(record, word) : 0;
	if (!hop || !port_of(hop->word)) {
		hand_over(step, record, word, now);
		return 0;
	}
	word->len = skb->len - base + ETH_HLEN;
	word->open = 1;
	return 1;
}

#define V6_PAYLOAD (ETH_HLEN + 4)
#define V6_SRC (ETH_HLEN + 8)
#define TCP_CHECK 16
#define UDP_CHECK 6

// The beginning of an IPv4 frame without options; two bytes ahead of it have the rest aligned.
struct front {
	u16 zero;
	u8 macs[12];
	u16 type;
	struct ipv4 ip;
	// As they lie on the wire, source first.
	u32 ports;
};

#define FRONT (ETH_HLEN + 24)

INLINE int load_front(struct __sk_buff *skb, struct front *front)
{
	return !load_bytes(skb, 0, front->macs, FRONT);
}

// As they lie on the wire.
INLINE u32 wire_ports(const struct tuple *t)
{
	return be16(t->sport) | (u32)be16(t->dport) << 16;
}

// Is this the packet that was decided on? One of which nobody was asked must not be carried by the last one's word.
INLINE int is_decided(struct __sk_buff *skb, const struct decision *d, struct front *front)
{
	const struct tuple *t = &d->look.t;
	u32 v6[9];

	if (skb->len != d->len)
		return 0;
	if (t->family == 4)
		return load_front(skb, front) && front->type == be16(ETH_P_IP) && front->ip.src == t->src[0] &&
		       front->ip.dst == t->dst[0] && front->ports == wire_ports(t);
	return skb->protocol == be16(ETH_P_IPV6) && !load_bytes(skb, V6_SRC, v6, sizeof(v6)) && same(v6, t->src) &&
	       same(v6 + 4, t->dst) && v6[8] == wire_ports(t);
}

INLINE u32 fold_once(u64 sum)
{
	return (sum & 0xffffffff) + (sum >> 32);
}

// What csum_diff would say of two words that take the place of two others.
INLINE u32 difference(u32 old0, u32 old1, u32 new0, u32 new1)
{
	u64 sum = (u64)(u32)~old0 + (u32)~old1 + new0 + new1;
	return fold_once(fold_once(sum));
}

// forward/rewrite.rs: addresses, TTL, ports, checksums, and the MACs. `first` (destination) and `second` (source) are the other
// side's ends.
INLINE int rewrite(struct __sk_buff *skb, const struct record *record, u32 side, const struct look *look,
		   struct front *front, const u8 *macs)
{
	u32 other = (side ^ 1) & 1;
	u32 ports = record->ports >> (32 * other);
	u32 old_ports = wire_ports(&look->t);
	u32 new_ports = be16((u16)(ports >> 16)) | (u32)be16((u16)ports) << 16;
	int udp = look->t.protocol == IPPROTO_UDP;
	u32 check = ETH_HLEN + look->header + (udp ? UDP_CHECK : TCP_CHECK);
	// A UDP sender that did not sum has said so with 0.
	u64 sum = udp ? BPF_F_MARK_MANGLED_0 : 0;
	u64 first = record->addrs[other];

	if (look->t.family == 4) {
		struct ipv4 *ip = &front->ip;
		u32 src = first >> 32, dst = first;
		u32 diff = difference(ip->src, ip->dst, src, dst);
		// The TTL is the upper half of its word.
		u16 less = be16(0x100);
		if (l4_replace(skb, check, 0, diff, BPF_F_PSEUDO_HDR | sum))
			return 0;
		if (old_ports != new_ports)
			l4_replace(skb, check, old_ports, new_ports, 4 | sum);
		ip->checksum = ~fold((u64)(u16)~ip->checksum + (diff & 0xffff) + (diff >> 16) + (u16)~less);
		ip->ttl -= 1;
		ip->src = src;
		ip->dst = dst;
		front->ports = new_ports;
		__builtin_memcpy(front->macs, macs, 12);
		return !store_bytes(skb, 0, front->macs, FRONT, 0);
	}
	// Payload length, next header and hop limit, then the addresses: what is summed (CHECKSUM_COMPLETE) changes
	// with them, and l4_replace takes their difference out again.
	u32 old[8], new[8], bytes[9];
	copy(old, look->t.src);
	copy(old + 4, look->t.dst);
#pragma unroll
	for (int i = 0; i < 3; i++) {
		u64 word = record->more[other][i];
		new[1 + i] = word >> 32;
		new[5 + i] = word;
	}
	new[0] = first >> 32;
	new[4] = first;
	s64 diff = csum_diff(old, 32, new, 32, 0);
	if (load_bytes(skb, V6_PAYLOAD, bytes, 4) || l4_replace(skb, check, 0, diff, BPF_F_PSEUDO_HDR | sum))
		return 0;
	((u8 *)bytes)[3] -= 1;
	copy(bytes + 1, new);
	copy(bytes + 5, new + 4);
	store_bytes(skb, V6_PAYLOAD, bytes, sizeof(bytes), BPF_F_RECOMPUTE_CSUM);
	if (old_ports != new_ports) {
		l4_replace(skb, check, old_ports, new_ports, 4 | sum);
		store_bytes(skb, ETH_HLEN + look->header, &new_ports, 4, 0);
	}
	return !store_bytes(skb, 0, macs, 12, 0);
}

// multipath_hash in forward.rs, of the client.
INLINE u64 flow_spread(const struct tuple *t)
{
	u32 ends = t->src[0] ^ t->src[1] ^ t->src[2] ^ t->src[3] ^ (u32)t->sport << 16;
	u64 hash = (u64)ends * 0x9e3779b97f4a7c15ULL;
	hash = (hash ^ hash >> 30) * 0xbf58476d1ce4e5b9ULL;
	hash = (hash ^ hash >> 27) * 0x94d049bb133111ebULL;
	return hash ^ hash >> 31;
}

#define OUTER_TTL 64
#define FIRST_PORT 49152

// A frame's new beginning; two bytes ahead of it have the rest aligned. Behind the outer headers there are the first words of an
// IPv4 packet, up to its checksum.
struct face {
	u16 zero;
	u8 macs[12];
	u16 type;
	u32 words[V6_HEADER / 4 + GRE_HEADER / 4 + 3];
};

// In one piece: each helper costs about as much as all that is written here. `outer`: bytes, known to the compiler.
INLINE int put_face(struct __sk_buff *skb, struct face *face, u32 outer, const struct front *front, int inner_v6)
{
	const u32 *inner = (const u32 *)&front->ip;
	u32 end = outer / 4;

	if (inner_v6)
		return !store_bytes(skb, 0, face->macs, ETH_HLEN + outer, 0);
	face->words[end] = inner[0];
	face->words[end + 1] = inner[1];
	face->words[end + 2] = inner[2];
	return !store_bytes(skb, 0, face->macs, ETH_HLEN + outer + 12, 0);
}

INLINE u32 halves(u32 word)
{
	return (word & 0xffff) + (word >> 16);
}

// forward/encap.rs: TTL, then the outer headers in front, and the MACs. Joined segments stay joined: the kernel knows what they are.
INLINE int encapsulate(struct __sk_buff *skb, const struct record *record, u32 version, const struct look *look,
		       struct front *front, const struct port *port, const u8 *macs)
{
	u32 zero = 0;
	u32 v6 = TARGET_V6(version);
	u32 kind = ENCAPSULATION(version);
	u32 grown = overhead(version);
	u64 spread = flow_spread(&look->t);
	int inner_v6 = look->t.family != 4;
	u8 inner = inner_v6 ? IPPROTO_IPV6 : IPPROTO_IPIP;
	u8 protocol = kind == 0 ? inner : kind == ENCAPSULATION_GRE ? IPPROTO_GRE : IPPROTO_UDP;
	u32 ethertype = be16(inner_v6 ? ETH_P_IPV6 : ETH_P_IP);
	struct routes *routes = map_lookup(&ROUTES, &zero);
	struct face face;
	u32 *words = face.words;
	u32 src[4];
	u8 tos;

	if (!routes)
		return 0;
	copy(src, port->source[v6]);
	u32 listed = routes->listed[v6];
	if (listed) {
		u32 choice = (u32)(spread >> 32) % listed;
		if (choice >= SOURCES)
			return 0;
		copy(src, routes->sources[v6][choice]);
	}
	if (!src[0] && !src[1] && !src[2] && !src[3])
		return 0;
	if (!inner_v6) {
		struct ipv4 *ip = &front->ip;
		// The TTL is the upper half of its word.
		u16 less = be16(0x100);
		tos = ip->tos;
		ip->checksum = ~fold((u64)(u16)~ip->checksum + (u16)~less);
		ip->ttl -= 1;
	} else {
		u8 first[8];
		if (load_bytes(skb, ETH_HLEN, first, sizeof(first)))
			return 0;
		tos = first[0] << 4 | first[1] >> 4;
		first[7] -= 1;
		if (store_bytes(skb, ETH_HLEN + 6, first + 6, 2, BPF_F_RECOMPUTE_CSUM))
			return 0;
	}
	u64 flags = BPF_F_ADJ_ROOM_FIXED_GSO | (v6 ? BPF_F_ADJ_ROOM_ENCAP_L3_IPV6 : BPF_F_ADJ_ROOM_ENCAP_L3_IPV4);
	if (kind == ENCAPSULATION_GRE)
		flags |= BPF_F_ADJ_ROOM_ENCAP_L4_GRE;
	if (kind >= ENCAPSULATION_GUE)
		flags |= BPF_F_ADJ_ROOM_ENCAP_L4_UDP;
	if (kind == ENCAPSULATION_GUE)
		flags |= BPF_F_ADJ_ROOM_ENCAP_L2(GUE_HEADER);
	if (adjust_room(skb, grown, BPF_ADJ_ROOM_MAC, flags))
		return 0;
	u32 length = look->bytes + grown;
	__builtin_memcpy(face.macs, macs, 12);
	if (v6) {
		face.type = be16(ETH_P_IPV6);
		words[0] = __builtin_bswap32(6U << 28 | (u32)tos << 20 | (u32)(spread >> 44));
		words[1] = be16(length - V6_HEADER) | (u32)protocol << 16 | OUTER_TTL << 24;
		copy(words + 2, src);
		words[6] = record->addrs[1];
		words[7] = record->more[1][0];
		words[8] = record->more[1][1];
		words[9] = record->more[1][2];
		if (kind == 0)
			return put_face(skb, &face, V6_HEADER, front, inner_v6);
		// UDP over IPv6 is a worker's.
		words[10] = ethertype << 16;
		return kind == ENCAPSULATION_GRE && put_face(skb, &face, V6_HEADER + GRE_HEADER, front, inner_v6);
	}
	face.type = be16(ETH_P_IP);
	words[0] = 0x45 | (u32)tos << 8 | (u32)be16(length) << 16;
	words[1] = 0x40 << 16;
	words[2] = OUTER_TTL | (u32)protocol << 8;
	words[3] = src[0];
	words[4] = record->addrs[1];
	u32 sum = 0;
#pragma unroll
	for (int i = 0; i < 5; i++)
		sum += halves(words[i]);
	words[2] |= (u32)(u16)~fold(sum) << 16;
	switch (kind) {
	case 0:
		return put_face(skb, &face, V4_HEADER, front, inner_v6);
	case ENCAPSULATION_GRE:
		words[5] = ethertype << 16;
		return put_face(skb, &face, V4_HEADER + GRE_HEADER, front, inner_v6);
	default:
		words[5] = be16((u16)(FIRST_PORT | spread >> 48)) | (u32)be16(routes->gue_port) << 16;
		words[6] = be16(length - V4_HEADER);
		if (kind == ENCAPSULATION_GUE1)
			return put_face(skb, &face, V4_HEADER + UDP_HEADER, front, inner_v6);
		words[7] = (u32)inner << 8;
		return put_face(skb, &face, V4_HEADER + UDP_HEADER + GUE_HEADER, front, inner_v6);
	}
}

// Direct mode changes no TTL: what would go back where it came from, or to this machine, is refused by a worker.
INLINE int in_a_circle(struct __sk_buff *skb, const u8 *hop_mac, const struct port *port)
{
	u8 from[6];
	if (load_bytes(skb, 6, from, sizeof(from)))
		return 1;
	int back = 1, own = 1;
#pragma unroll
	for (int i = 0; i < 6; i++) {
		back &= from[i] == hop_mac[i];
		own &= port->mac[i] == hop_mac[i];
	}
	return own || (back && port->ifindex == skb->ifindex);
}

// Carries what was decided on. -1: something has changed since.
INLINE int carry(struct __sk_buff *skb, struct decision *d)
{
	const struct look *look = &d->look;
	struct front front = {};
	u32 cpu = this_cpu();
	u32 index = d->index;

	d->open = 0;
	struct carried *carried = map_lookup(&CARRIED, &cpu);
	struct record *record = map_lookup(&RECORDS, &index);
	if (!carried || !record || !is_decided(skb, d, &front))
		return -1;
	u32 version = d->version;
	if (*(volatile u32 *)&record->version != version)
		goto missed;
	// What else was asked a moment ago on this CPU is not asked again; it could change the moment after as well.
	struct hop *hop = next_hop(*(volatile u64 *)&record->state, d->side);
	if (!hop)
		goto missed;
	u64 to = hop->word;
	struct port *port = port_of(to);
	if (!port)
		goto missed;
	if (!(hop->mtu & HOP_USED))
		__sync_fetch_and_or(&hop->mtu, HOP_USED);
	u32 ifindex = port->ifindex;
	u32 side = d->side & 1;
	u8 macs[12];
	__builtin_memcpy(macs, &to, 6);
	__builtin_memcpy(macs + 6, port->mac, 6);
	switch (MODE(version)) {
	case MODE_DIRECT:
		if (in_a_circle(skb, macs, port))
			goto missed;
		store_bytes(skb, 0, macs, sizeof(macs), 0);
		break;
	case MODE_TUNNEL:
		if (!encapsulate(skb, record, version, look, &front, port, macs))
			goto missed;
		break;
	default:
		if (!rewrite(skb, record, side, look, &front, macs))
			goto missed;
	}
	// FlowTable::touch and note_ack.
	record->last_seen = d->tick;
	record->packets[side] += 1;
	record->bytes[side] += look->bytes;
	if (version & KIND_ACKS)
		record->acks[side] = look->ack;
	carried->packets += 1;
	carried->bytes += skb->len;
	return redirect(ifindex, 0);
missed:
	carried->missed += 1;
	return -1;
}
