// SPDX-License-Identifier: MIT OR Apache-2.0
//
// The kernel path: packets of flows that stand and that need nothing but a rewrite are carried from here, by the same
// records that the workers read (FLOWS, RECORDS; the theory is in flow/table.rs and flow/record.rs). The kernel asks for a packet,
// one right after the other on the same CPU, the fanout program (where there are several workers), the filter and the ingress
// program. The first of them decides, and leaves a word for the others: the filter leaves out of the ring, and the ingress program
// carries, what was decided to be carried. Whatever is in the least out of the ordinary is the workers'.

#pragma once

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

// max_entries is set when the programs are loaded.
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

#define MODE(version) ((version) >> 6 & 3)
#define MODE_REMOTE 1
#define MODE_DIRECT 2
#define MODE_TUNNEL 3
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

// The word of a bucket with this tag: of several the last.
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
	return record_of(entry, t, &d->version);
}

INLINE struct record *find_flow(const struct tuple *t, struct decision *d)
{
	u64 hash = flow_hash(t->src, t->dst, t->sport, t->dport, t->protocol, t->family);
	u16 tag = tag_of(hash);
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
INLINE u32 overhead(u32 v6, u32 kind)
{
	// By kind, a byte each.
	u32 behind_ip = GRE_HEADER << 8 | (UDP_HEADER + GUE_HEADER) << 16 | UDP_HEADER << 24;
	return (v6 ? V6_HEADER : V4_HEADER) + (behind_ip >> 8 * kind & 0xff);
}

INLINE u32 tick_at(u64 now)
{
	return (now - START_NS) / TICK_NS;
}

#define TICKS 0xffffff
// Ten minutes.
#define PATH_KEPT_NS 600000000000ULL
// forward/paths.rs: nobody is believed less.
#define LEAST_V4 552
#define LEAST_V6 1280

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
		u32 v6 = TARGET_V6(d->version);
		u32 kind = ENCAPSULATION(d->version);
		u32 grown = overhead(v6, kind);
		u32 largest = look->largest + grown;
		if (d->version & KIND_UDP && look->joined)
			return 0;
		// A checksum over all of it is the device's work, and it cannot be asked for here.
		if (v6 && kind >= ENCAPSULATION_GUE)
			return 0;
		// A source that is listed beyond these is chosen by a worker.
		if (routes->listed[v6] > SOURCES || look->bytes + grown > 0xffff)
			return 0;
		// What fits every path need not know this one.
		if (largest > (v6 ? LEAST_V6 : LEAST_V4)) {
			u32 path = path_mtu(record, d->version, d->tick);
			if (path && path < most)
				most = path;
		}
		return largest > most ? 0 : hop;
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

// Of an IPv4 frame without options, up to its ports.
#define FRONT_V4 (ETH_HLEN + 24)
#define FRONT_V6 (ETH_HLEN + 44)

// The frame's first `len` bytes, where they lie; 0: it has not as many. A helper that copies them costs as much as all that is done
// with them.
INLINE u8 *beginning(struct __sk_buff *skb, u32 len)
{
	u8 *data = (u8 *)(long)skb->data;
	if (data + len <= (u8 *)(long)skb->data_end)
		return data;
	if (pull_data(skb, len))
		return 0;
	data = (u8 *)(long)skb->data;
	return data + len <= (u8 *)(long)skb->data_end ? data : 0;
}

// As they lie on the wire.
INLINE u32 wire_ports(const struct tuple *t)
{
	return be16(t->sport) | (u32)be16(t->dport) << 16;
}

// The beginning of the packet that was decided on; 0: this is another. One of which nobody was asked must not be carried by the last
// one's word.
INLINE u8 *decided(struct __sk_buff *skb, const struct decision *d)
{
	const struct tuple *t = &d->look.t;

	if (skb->len != d->len)
		return 0;
	if (t->family == 4) {
		u8 *at = beginning(skb, FRONT_V4);
		if (!at || skb->protocol != be16(ETH_P_IP))
			return 0;
		struct ipv4 *ip = (struct ipv4 *)(at + ETH_HLEN);
		return ip->src == t->src[0] && ip->dst == t->dst[0] && *(u32 *)(ip + 1) == wire_ports(t) ? at : 0;
	}
	u8 *at = beginning(skb, FRONT_V6);
	if (!at || skb->protocol != be16(ETH_P_IPV6))
		return 0;
	struct ipv6 *ip = (struct ipv6 *)(at + ETH_HLEN);
	return same(ip->src, t->src) && same(ip->dst, t->dst) && *(u32 *)(ip + 1) == wire_ports(t) ? at : 0;
}

// To 32 bits; the first step may carry once more.
INLINE u32 fold_words(u64 sum)
{
	sum = (sum & 0xffffffff) + (sum >> 32);
	return (sum & 0xffffffff) + (sum >> 32);
}

// What csum_diff would say of two words that take the place of two others.
INLINE u32 difference(u32 old0, u32 old1, u32 new0, u32 new1)
{
	return fold_words((u64)(u32)~old0 + (u32)~old1 + new0 + new1);
}

// A frame's MACs as they lie on the wire: the first eight bytes, the last four.
struct macs {
	u64 first;
	u32 last;
};

INLINE struct macs macs_to(u64 hop, const struct port *port)
{
	const u16 *own = (const u16 *)port->mac;
	struct macs macs = { (hop & 0xffffffffffff) | (u64)own[0] << 48, own[1] | (u32)own[2] << 16 };
	return macs;
}

INLINE void put_macs(u8 *at, const struct macs *macs)
{
	*(u64 *)at = macs->first;
	*(u32 *)(at + 8) = macs->last;
}

// forward/rewrite.rs: addresses, TTL, ports, checksums, and the MACs. `first` (destination) and `second` (source) are the other
// side's ends.
INLINE int rewrite(struct __sk_buff *skb, const struct record *record, u32 side, const struct look *look, const struct macs *macs)
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
		u32 src = first >> 32, dst = first;
		u32 diff = difference(look->t.src[0], look->t.dst[0], src, dst);
		// The TTL is the upper half of its word.
		u16 less = be16(0x100);
		if (l4_replace(skb, check, 0, diff, BPF_F_PSEUDO_HDR | sum))
			return 0;
		if (old_ports != new_ports)
			l4_replace(skb, check, old_ports, new_ports, 4 | sum);
		u8 *at = beginning(skb, FRONT_V4);
		if (!at)
			return 0;
		struct ipv4 *ip = (struct ipv4 *)(at + ETH_HLEN);
		ip->checksum = ~fold((u64)(u16)~ip->checksum + (diff & 0xffff) + (diff >> 16) + (u16)~less);
		ip->ttl -= 1;
		ip->src = src;
		ip->dst = dst;
		*(u32 *)(ip + 1) = new_ports;
		put_macs(at, macs);
		return 1;
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
	u8 *at = beginning(skb, ETH_HLEN);
	if (!at)
		return 0;
	put_macs(at, macs);
	return 1;
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

// A checksum that its device was to fill in is still the sum of the pseudo header alone. One in 65,000 that is not looks like it.
INLINE int may_be_partial(struct __sk_buff *skb, int v6, const struct look *look)
{
	const struct tuple *t = &look->t;
	u8 *check = (u8 *)(long)skb->data + ETH_HLEN + (v6 ? V6_HEADER : V4_HEADER) +
		    (t->protocol == IPPROTO_UDP ? UDP_CHECK : TCP_CHECK);
	if (check + 2 > (u8 *)(long)skb->data_end)
		return 1;
	// None at all is not one that is still to come.
	if (!*(u16 *)check)
		return 0;
	u64 sum = (u64)t->src[0] + t->dst[0] + be16(t->protocol) + be16(look->bytes - look->header);
	if (v6)
		sum += (u64)t->src[1] + t->src[2] + t->src[3] + t->dst[1] + t->dst[2] + t->dst[3];
	return fold(fold_words(sum)) == *(u16 *)check;
}

// Room for the outer headers. What is neither joined nor waits for its device to sum it needs no word to the kernel of what is inside:
// it is a frame with a longer beginning. Its old MACs are in the room then, and the kernel goes on calling the inner IP
// header the packet's own.
INLINE int make_room(struct __sk_buff *skb, u32 v6, u32 kind, int inner_v6, const struct look *look)
{
	u32 grown = overhead(v6, kind);

	if (!skb->gso_size && !v6 == !inner_v6 && !may_be_partial(skb, inner_v6, look))
		return !change_head(skb, grown, 0);
	u64 flags = BPF_F_ADJ_ROOM_FIXED_GSO | (v6 ? BPF_F_ADJ_ROOM_ENCAP_L3_IPV6 : BPF_F_ADJ_ROOM_ENCAP_L3_IPV4);
	if (kind == ENCAPSULATION_GRE)
		flags |= BPF_F_ADJ_ROOM_ENCAP_L4_GRE;
	if (kind >= ENCAPSULATION_GUE)
		flags |= BPF_F_ADJ_ROOM_ENCAP_L4_UDP;
	if (kind == ENCAPSULATION_GUE)
		flags |= BPF_F_ADJ_ROOM_ENCAP_L2(GUE_HEADER);
	return !adjust_room(skb, grown, BPF_ADJ_ROOM_MAC, flags);
}

// The source of a tunnel's packets; 0: there is none.
INLINE const u32 *tunnel_source(const struct routes *routes, const struct port *port, u32 v6, const struct tuple *t)
{
	const u32 *src = port->source[v6];
	u32 listed = routes->listed[v6];

	if (listed) {
		u32 choice = (u32)(flow_spread(t) >> 32) % listed;
		if (listed > SOURCES)
			return 0;
		// The kernel has to see that it is none beyond, which the compiler knows.
		asm volatile("" : "+r"(choice));
		src = routes->sources[v6][choice & (SOURCES - 1)];
	}
	return src[0] || (v6 && (src[1] || src[2] || src[3])) ? src : 0;
}

// The TTL of what goes into a tunnel. `ip`: its header, of which the caller has seen 20 bytes.
INLINE void pass_inner(struct __sk_buff *skb, u8 *ip, int v6)
{
	if (!v6) {
		struct ipv4 *v4 = (struct ipv4 *)ip;
		// The TTL is the upper half of its word.
		u16 less = be16(0x100);
		v4->checksum = ~fold((u64)(u16)~v4->checksum + (u16)~less);
		v4->ttl -= 1;
		return;
	}
	u16 *limit = (u16 *)(ip + 6);
	u16 old = *limit, new = old - be16(1);
	*limit = new;
	csum_update(skb, fold_words((u64)~(u32)old + new));
}

// forward/encap.rs: TTL, the outer headers in front, and the MACs. Joined segments stay joined: the kernel knows what they are. Of the
// `usual` kinds, IPv4 in IPv4, room is made first: the line of memory before the packet is in nobody's cache, and is on its way while the
// rest is done.
INLINE int encapsulate(struct __sk_buff *skb, u8 *at, int usual, u32 v6, u32 kind, int inner_v6, const struct record *record,
		       const struct look *look, const struct port *port, const struct macs *macs)
{
	u32 zero = 0;
	u8 inner = inner_v6 ? IPPROTO_IPV6 : IPPROTO_IPIP;
	u8 protocol = kind == 0 ? inner : kind == ENCAPSULATION_GRE ? IPPROTO_GRE : IPPROTO_UDP;
	u32 ethertype = be16(inner_v6 ? ETH_P_IPV6 : ETH_P_IP);
	u32 grown = overhead(v6, kind);
	u32 length = look->bytes + grown;
	struct routes *routes = map_lookup(&ROUTES, &zero);
	const u32 *src = routes ? tunnel_source(routes, port, v6, &look->t) : 0;

	if (!src)
		return 0;
	u8 tos = inner_v6 ? at[ETH_HLEN] << 4 | at[ETH_HLEN + 1] >> 4 : at[ETH_HLEN + 1];
	if (!usual)
		pass_inner(skb, at + ETH_HLEN, inner_v6);
	if (!make_room(skb, v6, kind, inner_v6, look))
		return 0;
	if (v6) {
		at = beginning(skb, ETH_HLEN + V6_HEADER + GRE_HEADER);
		if (!at)
			return 0;
		u32 *words = (u32 *)(at + ETH_HLEN);
		put_macs(at, macs);
		*(u16 *)(at + 12) = be16(ETH_P_IPV6);
		words[0] = __builtin_bswap32(6U << 28 | (u32)tos << 20 | (u32)(flow_spread(&look->t) >> 44));
		words[1] = be16(length - V6_HEADER) | (u32)protocol << 16 | OUTER_TTL << 24;
		copy(words + 2, src);
		words[6] = record->addrs[1];
		words[7] = record->more[1][0];
		words[8] = record->more[1][1];
		words[9] = record->more[1][2];
		// UDP over IPv6 is a worker's.
		if (kind == ENCAPSULATION_GRE)
			words[10] = ethertype << 16;
		return kind <= ENCAPSULATION_GRE;
	}
	at = beginning(skb, ETH_HLEN + V4_HEADER + (usual ? grown : UDP_HEADER + GUE_HEADER));
	if (!at)
		return 0;
	if (usual)
		pass_inner(skb, at + ETH_HLEN + grown, 0);
	u32 *words = (u32 *)(at + ETH_HLEN);
	u32 first = 0x45 | (u32)tos << 8 | (u32)be16(length) << 16;
	u32 third = OUTER_TTL | (u32)protocol << 8;
	u32 dst = record->addrs[1];
	u64 sum = (u64)first + (0x40 << 16) + third + src[0] + dst;
	put_macs(at, macs);
	*(u16 *)(at + 12) = be16(ETH_P_IP);
	words[0] = first;
	words[1] = 0x40 << 16;
	words[2] = third | (u32)(u16)~fold(fold_words(sum)) << 16;
	words[3] = src[0];
	words[4] = dst;
	if (kind == 0)
		return 1;
	if (kind == ENCAPSULATION_GRE) {
		words[5] = ethertype << 16;
		return 1;
	}
	words[5] = be16((u16)(FIRST_PORT | flow_spread(&look->t) >> 48)) | (u32)be16(routes->gue_port) << 16;
	words[6] = be16(length - V4_HEADER);
	if (kind == ENCAPSULATION_GUE)
		words[7] = (u32)inner << 8;
	return 1;
}

// The compiler makes one of each of the usual kinds, with nothing left in it to ask.
INLINE int into_tunnel(struct __sk_buff *skb, u8 *at, const struct record *record, u32 version, const struct look *look,
		       const struct port *port, const struct macs *macs)
{
	u32 v6 = TARGET_V6(version);
	u32 kind = ENCAPSULATION(version);
	int inner_v6 = look->t.family != 4;

	if (v6 || inner_v6)
		return encapsulate(skb, at, 0, v6, kind, inner_v6, record, look, port, macs);
	switch (kind) {
	case 0:
		return encapsulate(skb, at, 1, 0, 0, 0, record, look, port, macs);
	case ENCAPSULATION_GRE:
		return encapsulate(skb, at, 1, 0, ENCAPSULATION_GRE, 0, record, look, port, macs);
	case ENCAPSULATION_GUE:
		return encapsulate(skb, at, 1, 0, ENCAPSULATION_GUE, 0, record, look, port, macs);
	default:
		return encapsulate(skb, at, 1, 0, ENCAPSULATION_GUE1, 0, record, look, port, macs);
	}
}

// Direct mode changes no TTL: what would go back where it came from, or to this machine, is refused by a worker.
INLINE int in_a_circle(struct __sk_buff *skb, const u8 *at, const struct macs *macs, u32 ifindex)
{
	u64 to = macs->first & 0xffffffffffff;
	u64 from = *(u32 *)(at + 6) | (u64)*(u16 *)(at + 10) << 32;
	u64 own = macs->first >> 48 | (u64)macs->last << 16;
	return to == own || (to == from && ifindex == skb->ifindex);
}

// Carries what was decided on. -1: something has changed since.
INLINE int carry(struct __sk_buff *skb, struct decision *d)
{
	const struct look *look = &d->look;
	u32 cpu = this_cpu();
	u32 index = d->index;

	d->open = 0;
	struct carried *carried = map_lookup(&CARRIED, &cpu);
	struct record *record = map_lookup(&RECORDS, &index);
	u8 *at = carried && record ? decided(skb, d) : 0;
	if (!at)
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
	struct macs macs = macs_to(to, port);
	switch (MODE(version)) {
	case MODE_DIRECT:
		if (in_a_circle(skb, at, &macs, ifindex))
			goto missed;
		put_macs(at, &macs);
		break;
	case MODE_TUNNEL:
		if (!into_tunnel(skb, at, record, version, look, port, &macs))
			goto missed;
		break;
	default:
		if (!rewrite(skb, record, side, look, &macs))
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
