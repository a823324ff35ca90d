// SPDX-License-Identifier: MIT OR Apache-2.0
//
// Which packets are farside's, asked at three places in the kernel:
//
//   farside_filter   on every packet socket, by way of farside_door    takes farside's packets, leaves the rest
//   farside_ingress  at tc ingress, after the packet sockets have had their copy: keeps farside's packets from the host
//   farside_fanout   on every fanout group     which worker
//
// All three ask classify(), so that there is one truth: what a worker gets, the host does not, and the other way round.
// Farside's are:
//
//   a  TCP and UDP to a service (VIP, port, protocol)
//   b  TCP and UDP to a PIP and a port it lends
//   c  TCP and UDP that the claims set holds: what a real server answers on a flow in NAT mode
//   d  ICMP to a VIP; errors that quote a packet of a, b or c; the rest of ICMP to a PIP
//   e  ARP requests and neighbour solicitations for a VIP or PIP
//   f  fragments of all these; later ones follow the first, those of an unknown one follow their address, or are a real server's
//      and go to both
//
// Farside's and the host's:
//
//   g  ICMP to the host that says that a packet which may be one of farside's tunnels' is too large
//
// An address that the host has itself (OWNED) stays the host's in d, e and f as far as no service or lent port is meant.
// VLAN-tagged packets and packets to other machines' hardware addresses are never farside's.
//
// The kernel path: packets of flows that stand and that need nothing but a rewrite are carried from here, by the same
// records that the workers read (FLOWS, RECORDS; the theory is in flow/table.rs and flow/record.rs). The filter decides and
// leaves the packet out of the ring, the ingress program, which the kernel runs next for the same packet on the same CPU,
// finds the decision and carries it out. Whatever is in the least out of the ordinary is the workers'.
//
// Built by scripts/build-bpf; the object beside this file is what is shipped. Oldest kernel: 6.1.

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <linux/in.h>
#include <linux/in6.h>
#include <linux/pkt_cls.h>

#define SEC(name) __attribute__((section(name), used))
#define INLINE static inline __attribute__((always_inline))
#define __uint(name, value) int(*name)[value]
#define __type(name, value) value *name
#define be16(x) ((__u16)__builtin_bswap16(x))

typedef __u8 u8;
typedef __u16 u16;
typedef __u32 u32;
typedef __u64 u64;
typedef __s32 s32;
typedef __s64 s64;

static void *(*map_lookup)(void *map, const void *key) = (void *)BPF_FUNC_map_lookup_elem;
static long (*map_update)(void *map, const void *key, const void *value, u64 flags) = (void *)BPF_FUNC_map_update_elem;
static long (*map_delete)(void *map, const void *key) = (void *)BPF_FUNC_map_delete_elem;
static long (*tail_call)(void *skb, void *map, u32 index) = (void *)BPF_FUNC_tail_call;
static long (*store_bytes)(void *skb, u32 offset, const void *from, u32 len, u64 flags) = (void *)BPF_FUNC_skb_store_bytes;
static long (*l3_replace)(void *skb, u32 offset, u64 from, u64 to, u64 flags) = (void *)BPF_FUNC_l3_csum_replace;
static long (*l4_replace)(void *skb, u32 offset, u64 from, u64 to, u64 flags) = (void *)BPF_FUNC_l4_csum_replace;
static s64 (*csum_diff)(const u32 *from, u32 from_size, const u32 *to, u32 to_size, u32 seed) =
	(void *)BPF_FUNC_csum_diff;
static long (*adjust_room)(void *skb, s32 grow, u32 mode, u64 flags) = (void *)BPF_FUNC_skb_adjust_room;
static long (*redirect)(u32 ifindex, u64 flags) = (void *)BPF_FUNC_redirect;
static u64 (*clock_ns)(void) = (void *)BPF_FUNC_ktime_get_ns;
static u32 (*this_cpu)(void) = (void *)BPF_FUNC_get_smp_processor_id;
static long (*load_bytes)(const void *skb, u32 offset, void *to, u32 len) = (void *)BPF_FUNC_skb_load_bytes;

// Filled in when the programs are loaded.
const volatile u64 KEY0;
const volatile u64 KEY1;
// Buckets of the claims set, less one.
const volatile u64 BUCKET_MASK;
const volatile u32 WORKERS = 1;
// Buckets of the flow table's index, less one.
const volatile u64 FLOW_MASK;
// CLOCK_MONOTONIC when the workers' ticks began, and the length of a tick.
const volatile u64 START_NS;
const volatile u64 TICK_NS = 250000000;

// The host has this address itself.
#define OWNED 1

// Addresses are wire bytes; IPv4 is the first word, the rest zero. Ports are in host order. Family is 4 or 6.
struct service {
	u32 addr[4];
	u16 port;
	u8 protocol;
	u8 family;
};

struct address {
	u32 addr[4];
	u32 family;
};

struct pip {
	u16 first;
	u16 last;
	u32 flags;
};

struct bucket {
	u64 words[8];
};

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

// How far the worker is with a flow's packets; one for each record, the kernel programs' own. `handed`: packets of each side
// that were handed to the worker or carried here, as far as the record's counts have got when the worker is done with all.
// `since`: when that was last so.
struct step {
	u16 generation;
	u16 handed[2];
	u16 since;
};

// The filter's word to the ingress program. open: there is one.
struct decision {
	u32 open;
	u32 index;
	u32 version;
	u32 side;
};

struct datagram {
	u32 src[4];
	u32 dst[4];
	u32 id;
	u8 protocol;
	u8 family;
	u16 zero;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16384);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct service);
	__type(value, u32);
} SERVICES SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16384);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct address);
	__type(value, u32);
} VIPS SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct address);
	__type(value, struct pip);
} PIPS SEC(".maps");

// max_entries is set when the programs are loaded.
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, u32);
	__type(value, struct bucket);
} CLAIMS SEC(".maps");

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

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct decision);
} DECISION SEC(".maps");

#define DATAGRAM_OURS 1
#define DATAGRAM_HOSTS 2

// Datagrams whose first fragment was farside's; and of real servers also those of the host.
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 8192);
	__type(key, struct datagram);
	__type(value, u32);
} DATAGRAMS SEC(".maps");

// Real servers whose answers pass by here, where the host does not forward: a later fragment of theirs that has overtaken its first
// may be farside's or for the host itself, so both get it.
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16384);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct address);
	__type(value, u32);
} REALS SEC(".maps");

// Source and destination as the packet has them.
struct tuple {
	u32 src[4];
	u32 dst[4];
	u16 sport;
	u16 dport;
	u8 protocol;
	u8 family;
};

INLINE void copy(u32 *to, const u32 *from)
{
	to[0] = from[0];
	to[1] = from[1];
	to[2] = from[2];
	to[3] = from[3];
}

INLINE int same(const u32 *a, const u32 *b)
{
	return a[0] == b[0] && a[1] == b[1] && a[2] == b[2] && a[3] == b[3];
}

INLINE u64 rotl(u64 x, int n)
{
	return x << n | x >> (64 - n);
}

struct sip {
	u64 v0, v1, v2, v3;
};

INLINE void sip_round(struct sip *s)
{
	s->v0 += s->v1;
	s->v1 = rotl(s->v1, 13) ^ s->v0;
	s->v0 = rotl(s->v0, 32);
	s->v2 += s->v3;
	s->v3 = rotl(s->v3, 16) ^ s->v2;
	s->v0 += s->v3;
	s->v3 = rotl(s->v3, 21) ^ s->v0;
	s->v2 += s->v1;
	s->v1 = rotl(s->v1, 17) ^ s->v2;
	s->v2 = rotl(s->v2, 32);
}

INLINE void sip_word(struct sip *s, u64 word)
{
	s->v3 ^= word;
	sip_round(s);
	s->v0 ^= word;
}

// SipHash-1-3 (Aumasson, Bernstein 2012) of a flow's key; user space computes the same in flow/key.rs.
INLINE u64 flow_hash(const u32 *src, const u32 *dst, u16 sport, u16 dport, u8 protocol, u8 family)
{
	struct sip s = {
		KEY0 ^ 0x736f6d6570736575ULL,
		KEY1 ^ 0x646f72616e646f6dULL,
		KEY0 ^ 0x6c7967656e657261ULL,
		KEY1 ^ 0x7465646279746573ULL,
	};
	u64 last = sport | (u64)dport << 16 | (u64)protocol << 32 | (u64)family << 40;
	if (family == 4) {
		sip_word(&s, src[0] | (u64)dst[0] << 32);
		sip_word(&s, last);
		sip_word(&s, 16ULL << 56);
	} else {
		sip_word(&s, src[0] | (u64)src[1] << 32);
		sip_word(&s, src[2] | (u64)src[3] << 32);
		sip_word(&s, dst[0] | (u64)dst[1] << 32);
		sip_word(&s, dst[2] | (u64)dst[3] << 32);
		sip_word(&s, last);
		sip_word(&s, 40ULL << 56);
	}
	s.v2 ^= 0xff;
	sip_round(&s);
	sip_round(&s);
	sip_round(&s);
	u64 hash = s.v0 ^ s.v1 ^ s.v2 ^ s.v3;
	return hash ? hash : 1;
}

INLINE int in_bucket(u64 index, u64 hash)
{
	u32 key = index & BUCKET_MASK;
	struct bucket *bucket = map_lookup(&CLAIMS, &key);
	if (!bucket)
		return 0;
	int found = 0;
#pragma unroll
	for (int i = 0; i < 8; i++)
		found |= *(volatile u64 *)&bucket->words[i] == hash;
	return found;
}

INLINE int claimed(const u32 *src, const u32 *dst, u16 sport, u16 dport, u8 protocol, u8 family)
{
	u64 hash = flow_hash(src, dst, sport, dport, protocol, family);
	return in_bucket(hash, hash) || in_bucket(hash >> 32, hash);
}

INLINE u32 *find_service(const u32 *addr, u16 port, u8 protocol, u8 family)
{
	struct service key = { .port = port, .protocol = protocol, .family = family };
	copy(key.addr, addr);
	return map_lookup(&SERVICES, &key);
}

INLINE u32 *find_vip(const u32 *addr, u8 family)
{
	struct address key = { .family = family };
	copy(key.addr, addr);
	return map_lookup(&VIPS, &key);
}

INLINE struct pip *find_pip(const u32 *addr, u8 family)
{
	struct address key = { .family = family };
	copy(key.addr, addr);
	return map_lookup(&PIPS, &key);
}

INLINE int lends(const struct pip *pip, u16 port)
{
	return port >= pip->first && port <= pip->last;
}

// A VIP or PIP that the host does not have itself.
INLINE int farsides_alone(const u32 *addr, u8 family)
{
	u32 *vip = find_vip(addr, family);
	if (vip)
		return !(*vip & OWNED);
	struct pip *pip = find_pip(addr, family);
	return pip && !(pip->flags & OWNED);
}

// The same for both directions of a flow if it is given the client's end each time.
INLINE u32 spread(const u32 *addr, u16 port)
{
	u64 x = (addr[0] | (u64)addr[1] << 32) ^ rotl(addr[2] | (u64)addr[3] << 32, 17) ^ (u64)port << 40 ^ KEY0;
	x ^= x >> 32;
	x *= 0x9e3779b97f4a7c15ULL;
	x ^= x >> 29;
	x *= 0xbf58476d1ce4e5b9ULL;
	return x >> 32;
}

INLINE u32 spread_datagram(const struct datagram *d)
{
	return spread(d->src, d->id ^ d->id >> 16) ^ d->dst[0] ^ d->dst[3];
}

// a, b, c
INLINE int transport(const struct tuple *t, u32 *steer)
{
	if (find_service(t->dst, t->dport, t->protocol, t->family)) {
		*steer = spread(t->src, t->sport);
		return 1;
	}
	struct pip *pip = find_pip(t->dst, t->family);
	if (pip && lends(pip, t->dport)) {
		*steer = t->dport;
		return 1;
	}
	if (claimed(t->src, t->dst, t->sport, t->dport, t->protocol, t->family)) {
		*steer = spread(t->dst, t->dport);
		return 1;
	}
	return 0;
}

// d, an error that quotes `t`, a TCP or UDP packet, and was sent to `dst`
INLINE int quoted(const struct tuple *t, const u32 *dst)
{
	if (same(t->src, dst)) {
		if (find_service(dst, t->sport, t->protocol, t->family))
			return 1;
		struct pip *pip = find_pip(dst, t->family);
		if (pip && lends(pip, t->sport))
			return 1;
	}
	return claimed(t->dst, t->src, t->dport, t->sport, t->protocol, t->family);
}

// What classify() says of g, and of a later fragment that may be either's.
#define BOTH 2

// A packet of protocol `protocol` may be what farside has put a client's packet in.
INLINE int may_be_tunnel(u8 protocol)
{
	return protocol == IPPROTO_IPIP || protocol == IPPROTO_IPV6 || protocol == IPPROTO_GRE || protocol == IPPROTO_UDP;
}

INLINE int load_ports(struct __sk_buff *skb, u32 offset, struct tuple *t)
{
	u16 ports[2];
	if (load_bytes(skb, offset, ports, sizeof(ports)))
		return 0;
	t->sport = be16(ports[0]);
	t->dport = be16(ports[1]);
	return 1;
}

INLINE int is_transport(u8 protocol)
{
	return protocol == IPPROTO_TCP || protocol == IPPROTO_UDP;
}

INLINE int is_host(struct __sk_buff *skb)
{
	return skb->pkt_type == PACKET_HOST;
}

// f. `ours`: whether the first fragment is farside's, if this is it.
INLINE int fragment(struct datagram *d, int first, int ours, u32 *steer)
{
	struct address key = { .family = d->family };
	copy(key.addr, d->src);
	u32 *real = map_lookup(&REALS, &key);

	*steer = spread_datagram(d);
	if (first) {
		// Identifications come again: what follows the host's first fragment is the host's, whatever was called so before.
		u32 whose = ours ? DATAGRAM_OURS : DATAGRAM_HOSTS;
		if (ours || real)
			map_update(&DATAGRAMS, d, &whose, BPF_ANY);
		else
			map_delete(&DATAGRAMS, d);
		return ours;
	}
	u32 *whose = map_lookup(&DATAGRAMS, d);
	if (whose)
		return *whose == DATAGRAM_OURS;
	if (farsides_alone(d->dst, d->family))
		return 1;
	return real ? BOTH : 0;
}

struct ipv4 {
	u8 version_ihl;
	u8 tos;
	u16 total;
	u16 id;
	u16 frag;
	u8 ttl;
	u8 protocol;
	u16 checksum;
	u32 src;
	u32 dst;
};

#define IPV4_OFFSET 0x1fff
#define IPV4_MF 0x2000
#define IPV4_DF 0x4000

INLINE int icmp4(struct __sk_buff *skb, u32 offset, const u32 *dst)
{
	struct tuple t = { .family = 4 };
	struct ipv4 ip;
	u8 head[2];

	if (farsides_alone(dst, 4))
		return 1;
	if (load_bytes(skb, offset, head, 2))
		return 0;
	u8 type = head[0];
	if (type != 3 && type != 4 && type != 11 && type != 12)
		return 0;
	if (load_bytes(skb, offset + 8, &ip, sizeof(ip)) || ip.version_ihl >> 4 != 4)
		return 0;
	if (be16(ip.frag) & IPV4_OFFSET)
		return 0;
	int tunnel = type == 3 && head[1] == 4 && ip.src == dst[0] && may_be_tunnel(ip.protocol) ? BOTH : 0;
	if (!is_transport(ip.protocol))
		return tunnel;
	t.src[0] = ip.src;
	t.dst[0] = ip.dst;
	t.protocol = ip.protocol;
	if (!load_ports(skb, offset + 8 + (ip.version_ihl & 15) * 4, &t))
		return 0;
	return quoted(&t, dst) ? 1 : tunnel;
}

INLINE int ipv4(struct __sk_buff *skb, u32 base, u32 *steer)
{
	struct tuple t = { .family = 4 };
	struct ipv4 ip;
	int ours = 0;

	if (!is_host(skb) || load_bytes(skb, base, &ip, sizeof(ip)) || ip.version_ihl >> 4 != 4)
		return 0;
	u32 offset = base + (ip.version_ihl & 15) * 4;
	u16 frag = be16(ip.frag) & (IPV4_OFFSET | IPV4_MF);
	int first = !(frag & IPV4_OFFSET);
	t.src[0] = ip.src;
	t.dst[0] = ip.dst;
	t.protocol = ip.protocol;
	if (first) {
		if (is_transport(ip.protocol))
			ours = load_ports(skb, offset, &t) && transport(&t, steer);
		else if (ip.protocol == IPPROTO_ICMP)
			ours = icmp4(skb, offset, t.dst);
		if (!frag)
			return ours;
		if (ours == BOTH)
			return 0;
	}
	struct datagram d = { .id = ip.id, .protocol = ip.protocol, .family = 4 };
	d.src[0] = ip.src;
	d.dst[0] = ip.dst;
	return fragment(&d, first, ours, steer);
}

struct ipv6 {
	u32 version_flow;
	u16 payload;
	u8 next;
	u8 hop_limit;
	u32 src[4];
	u32 dst[4];
};

#define ICMPV6_ERROR_LAST 127
#define ICMPV6_TOO_BIG 2
#define ICMPV6_NS 135

INLINE int icmp6(struct __sk_buff *skb, u32 offset, const u32 *dst)
{
	struct tuple t = { .family = 6 };
	struct ipv6 ip;
	u8 type;

	if (load_bytes(skb, offset, &type, 1))
		return 0;
	if (type == ICMPV6_NS) {
		u32 target[4];
		return !load_bytes(skb, offset + 8, target, sizeof(target)) && farsides_alone(target, 6);
	}
	if (!is_host(skb))
		return 0;
	if (farsides_alone(dst, 6))
		return 1;
	if (type > ICMPV6_ERROR_LAST || load_bytes(skb, offset + 8, &ip, sizeof(ip)))
		return 0;
	u32 ports = offset + 8 + sizeof(ip);
	if (ip.next == IPPROTO_FRAGMENT) {
		u8 header[8];
		if (load_bytes(skb, ports, header, sizeof(header)) || header[2] || header[3] & 0xf8)
			return 0;
		ip.next = header[0];
		ports += sizeof(header);
	}
	int tunnel = type == ICMPV6_TOO_BIG && same(ip.src, dst) && may_be_tunnel(ip.next) ? BOTH : 0;
	if (!is_transport(ip.next))
		return tunnel;
	copy(t.src, ip.src);
	copy(t.dst, ip.dst);
	t.protocol = ip.next;
	return load_ports(skb, ports, &t) && quoted(&t, dst) ? 1 : tunnel;
}

INLINE int ipv6(struct __sk_buff *skb, u32 base, u32 *steer)
{
	struct tuple t = { .family = 6 };
	struct ipv6 ip;
	u32 id = 0;
	u16 frag = 0;
	u8 fragment_of = 0;
	int ours = 0;

	if (load_bytes(skb, base, &ip, sizeof(ip)))
		return 0;
	u32 offset = base + sizeof(ip);
	u8 next = ip.next;
	// Extension headers: at most four, as many as anybody sends.
#pragma unroll
	for (int i = 0; i < 4; i++) {
		u8 extension[8];
		if (next != IPPROTO_HOPOPTS && next != IPPROTO_ROUTING && next != IPPROTO_DSTOPTS && next != IPPROTO_FRAGMENT)
			break;
		if (load_bytes(skb, offset, extension, sizeof(extension)))
			return 0;
		if (next == IPPROTO_FRAGMENT) {
			frag = (extension[2] << 8 | extension[3]) & 0xfff9;
			id = extension[4] | extension[5] << 8 | extension[6] << 16 | (u32)extension[7] << 24;
			fragment_of = extension[0];
			offset += 8;
		} else {
			offset += (extension[1] + 1) * 8;
		}
		next = extension[0];
		if (frag & 0xfff8)
			break;
	}
	copy(t.src, ip.src);
	copy(t.dst, ip.dst);
	t.protocol = next;
	int first = !(frag & 0xfff8);
	if (first) {
		if (is_transport(next))
			ours = is_host(skb) && load_ports(skb, offset, &t) && transport(&t, steer);
		else if (next == IPPROTO_ICMPV6)
			ours = icmp6(skb, offset, t.dst);
		// A fragment header with neither offset nor more to come is a whole packet (RFC 6946).
		if (!frag)
			return ours;
		if (ours == BOTH)
			return 0;
	}
	if (!is_host(skb))
		return 0;
	struct datagram d = { .id = id, .protocol = fragment_of, .family = 6 };
	copy(d.src, ip.src);
	copy(d.dst, ip.dst);
	return fragment(&d, first, ours, steer);
}

INLINE int arp(struct __sk_buff *skb, u32 base)
{
	u16 operation;
	u32 target[4] = {};

	if (load_bytes(skb, base + 6, &operation, 2) || be16(operation) != 1 || load_bytes(skb, base + 24, target, 4))
		return 0;
	return farsides_alone(target, 4);
}

// `base`: where the network header begins, from the start of what this kind of program sees. bpf_skb_load_bytes is
// used, not its _relative cousin, since that one does not look beyond the linear part of the buffer.
INLINE int classify(struct __sk_buff *skb, u32 base, u32 *steer)
{
	if (skb->vlan_present || skb->pkt_type == PACKET_OTHERHOST)
		return 0;
	switch (be16(skb->protocol)) {
	case ETH_P_IP:
		return ipv4(skb, base, steer);
	case ETH_P_IPV6:
		return ipv6(skb, base, steer);
	case ETH_P_ARP:
		return arp(skb, base);
	default:
		return 0;
	}
}

// ---- The kernel path

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
	u32 l4;
	// The IP packet's bytes, and those of the largest packet that it will be on the wire.
	u32 bytes;
	u32 largest;
	u32 ack;
	// There is more than one packet in it.
	u32 joined;
	// A router may cut it.
	u32 divisible;
};

// UDP may be more than one datagram, or one that its sender's device shall fragment: then there is a gso_size, and for a tunnel it
// is a worker's.
INLINE int read_udp(struct __sk_buff *skb, u32 header, struct look *look)
{
	struct tuple *t = &look->t;
	u16 udp[4];

	if (look->bytes < header + sizeof(udp) || load_bytes(skb, look->l4, udp, sizeof(udp)))
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

// Reads the headers of a packet that the kernel path may carry: UDP, or TCP that moves no state; whole, without options.
INLINE int read_headers(struct __sk_buff *skb, u32 base, struct look *look)
{
	struct tuple *t = &look->t;
	u8 tcp[20];
	u8 ttl;

	if (skb->vlan_present || !is_host(skb))
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
		t->src[0] = ip.src;
		t->dst[0] = ip.dst;
		ttl = ip.ttl;
		look->divisible = !(be16(ip.frag) & IPV4_DF);
		look->bytes = be16(ip.total);
		look->l4 = base + sizeof(ip);
	} else if (skb->protocol == be16(ETH_P_IPV6)) {
		struct ipv6 ip;
		if (load_bytes(skb, base, &ip, sizeof(ip)))
			return 0;
		t->family = 6;
		t->protocol = ip.next;
		copy(t->src, ip.src);
		copy(t->dst, ip.dst);
		ttl = ip.hop_limit;
		look->bytes = be16(ip.payload) + sizeof(ip);
		look->l4 = base + sizeof(ip);
	} else {
		return 0;
	}
	u32 header = look->l4 - base;
	if (ttl < 2 || look->bytes > skb->len - base)
		return 0;
	if (t->protocol == IPPROTO_UDP)
		return read_udp(skb, header, look);
	if (t->protocol != IPPROTO_TCP || look->bytes < header + sizeof(tcp))
		return 0;
	if (load_bytes(skb, look->l4, tcp, sizeof(tcp)))
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
#define GRE_HEADER 4
#define UDP_HEADER 8
#define GUE_HEADER 4

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

INLINE u32 tick(void)
{
	return (clock_ns() - START_NS) / TICK_NS;
}

#define TICKS 0xffffff
// Ten minutes.
#define PATH_KEPT_NS 600000000000ULL

// Paths::mtu: what is known of the largest packet that reaches the target of this record; 0: nothing.
INLINE u32 path_mtu(const struct record *record, u32 version)
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
	if (word >> 40 != (tag ? tag : 1) || ((u32)word - tick() & TICKS) > PATH_KEPT_NS / TICK_NS)
		return 0;
	return word >> 24 & 0xffff;
}

// service/build.rs, probe_address: checks come by a device of the process's own. Those of servers that have the VIP are on record as if
// they went to a remote site; where they go only the door says, which is a worker's to ask.
INLINE int is_probe(const struct tuple *t)
{
	return t->family == 4 ? (t->src[0] & 0xffff) == 0xfea9 : t->src[0] == 0x726166fd && t->src[1] == 0x65646973;
}

// Where a packet of this flow leaves, as the record and the hop say now; 0 if that is a matter for a worker.
INLINE struct hop *way_out(const struct record *record, const struct decision *d, const struct look *look)
{
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
	// The hop toward the server is for what the client sends.
	u32 id = (d->side ? word : word >> 16) & 0xffff;
	struct hop *hop = id ? map_lookup(&HOPS, &id) : 0;
	if (!hop || !(hop->word & HOP_VALID))
		return 0;
	u32 most = hop->mtu & ~HOP_USED;
	if (mode == MODE_TUNNEL) {
		u32 grown = overhead(d->version);
		u32 path = path_mtu(record, d->version);
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

// ktime in units of 2^26 ns, 15 to the second: after as long out of step, something was lost on its way to the worker.
#define STEP_CLOCK(ns) ((u16)((ns) >> 26))
#define STEP_LOST 15

// Has the worker sent all that it was handed of this side's packets? If not, this one would overtake them.
INLINE int in_step(struct step *step, const struct record *record, const struct decision *d)
{
	// Inverted, so that the first life of a record is not taken for known.
	u16 generation = ~(d->version >> 11);
	u16 now = STEP_CLOCK(clock_ns());
	u32 side = d->side & 1;

	if (step->generation != generation) {
		step->generation = generation;
		step->handed[0] = record->packets[0];
		step->handed[1] = record->packets[1];
		step->since = now;
	}
	u16 sent = record->packets[side];
	if ((__s16)(u16)(sent - step->handed[side]) >= 0) {
		// Ahead it is by packets that were never counted here, such as the SYN.
		step->handed[side] = sent;
		step->since = now;
		return 1;
	}
	if ((u16)(now - step->since) <= STEP_LOST)
		return 0;
	step->handed[side] = sent;
	step->since = now;
	return 1;
}

// The filter's question: shall the ingress program carry it?
INLINE int decide(struct __sk_buff *skb, u32 base)
{
	struct decision found = {};
	struct look look = {};
	u32 zero = 0;
	struct decision *word = map_lookup(&DECISION, &zero);

	if (!word)
		return 0;
	word->open = 0;
	if (!read_headers(skb, base, &look))
		return 0;
	struct record *record = find_flow(&look.t, &found);
	if (!record)
		return 0;
	struct step *step = map_lookup(&STEPS, &found.index);
	if (!step)
		return 0;
	int ready = in_step(step, record, &found) && record->packets[0] + record->packets[1] >= SETTLED;
	step->handed[found.side & 1] += 1;
	struct hop *hop = ready ? way_out(record, &found, &look) : 0;
	if (!hop || !port_of(hop->word))
		return 0;
	found.open = 1;
	*word = found;
	return 1;
}

#define V4_TTL (ETH_HLEN + 8)
#define V4_CHECK (ETH_HLEN + 10)
#define V4_SRC (ETH_HLEN + 12)
#define V6_PAYLOAD (ETH_HLEN + 4)
#define TCP_CHECK 16
#define UDP_CHECK 6

// forward/rewrite.rs: addresses, TTL, ports, checksums. `first` (destination) and `second` (source) are the other side's ends.
INLINE int rewrite(struct __sk_buff *skb, const struct record *record, u32 side, const struct look *look)
{
	u32 other = (side ^ 1) & 1;
	u32 ports = record->ports >> (32 * other);
	// As they lie on the wire.
	u32 old_ports = be16(look->t.sport) | (u32)be16(look->t.dport) << 16;
	u32 new_ports = be16((u16)(ports >> 16)) | (u32)be16((u16)ports) << 16;
	int udp = look->t.protocol == IPPROTO_UDP;
	u32 check = look->l4 + (udp ? UDP_CHECK : TCP_CHECK);
	// A UDP sender that did not sum has said so with 0.
	u64 sum = udp ? BPF_F_MARK_MANGLED_0 : 0;
	u64 first = record->addrs[other];
	u32 old[8], new[8];

	if (look->t.family == 4) {
		old[0] = look->t.src[0];
		old[1] = look->t.dst[0];
		new[0] = first >> 32;
		new[1] = first;
		u16 ttl[1];
		s64 diff = csum_diff(old, 8, new, 8, 0);
		if (load_bytes(skb, V4_TTL, ttl, 2))
			return 0;
		u16 less = ttl[0] - 1;
		if (l4_replace(skb, check, 0, diff, BPF_F_PSEUDO_HDR | sum) || l3_replace(skb, V4_CHECK, 0, diff, 0) ||
		    l3_replace(skb, V4_CHECK, ttl[0], less, 2))
			return 0;
		store_bytes(skb, V4_TTL, &less, 2, 0);
		store_bytes(skb, V4_SRC, new, 8, 0);
	} else {
		// Payload length, next header and hop limit, then the addresses: what is summed (CHECKSUM_COMPLETE) changes
		// with them, and l4_replace takes their difference out again.
		u32 bytes[9];
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
	}
	if (old_ports != new_ports) {
		l4_replace(skb, check, old_ports, new_ports, 4 | sum);
		store_bytes(skb, look->l4, &new_ports, 4, 0);
	}
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

#define PROTOCOL_IPIP 4
#define PROTOCOL_IPV6 41
#define PROTOCOL_GRE 47
#define OUTER_TTL 64
#define FIRST_PORT 49152

// forward/encap.rs: TTL, then the outer headers in front. Joined segments stay joined: the kernel knows what they are.
INLINE int encapsulate(struct __sk_buff *skb, const struct record *record, u32 version, const struct look *look,
		       const struct port *port)
{
	u32 zero = 0;
	u32 v6 = TARGET_V6(version);
	u32 kind = ENCAPSULATION(version);
	u32 grown = overhead(version);
	u64 spread = flow_spread(&look->t);
	int inner_v6 = look->t.family != 4;
	u8 inner = inner_v6 ? PROTOCOL_IPV6 : PROTOCOL_IPIP;
	u8 protocol = kind == 0 ? inner : kind == ENCAPSULATION_GRE ? PROTOCOL_GRE : IPPROTO_UDP;
	struct routes *routes = map_lookup(&ROUTES, &zero);
	u32 header[12] = {};
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
		u16 ttl[1];
		if (load_bytes(skb, ETH_HLEN + 1, &tos, 1) || load_bytes(skb, V4_TTL, ttl, 2))
			return 0;
		u16 less = ttl[0] - 1;
		if (l3_replace(skb, V4_CHECK, ttl[0], less, 2) || store_bytes(skb, V4_TTL, &less, 2, 0))
			return 0;
	} else {
		u8 first[2], hop_limit[2];
		if (load_bytes(skb, ETH_HLEN, first, 2) || load_bytes(skb, ETH_HLEN + 6, hop_limit, 2))
			return 0;
		tos = first[0] << 4 | first[1] >> 4;
		hop_limit[1] -= 1;
		if (store_bytes(skb, ETH_HLEN + 6, hop_limit, 2, BPF_F_RECOMPUTE_CSUM))
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
	u32 *l4;
	u16 type = be16(v6 ? ETH_P_IPV6 : ETH_P_IP);
	if (v6) {
		header[0] = __builtin_bswap32(6U << 28 | (u32)tos << 20 | (u32)(spread >> 44));
		header[1] = be16(length - V6_HEADER) | (u32)protocol << 16 | OUTER_TTL << 24;
		copy(header + 2, src);
		header[6] = record->addrs[1];
		header[7] = record->more[1][0];
		header[8] = record->more[1][1];
		header[9] = record->more[1][2];
		// GRE only: UDP over IPv6 is a worker's.
		header[10] = (u32)be16(inner_v6 ? ETH_P_IPV6 : ETH_P_IP) << 16;
	} else {
		header[0] = 0x45 | (u32)tos << 8 | (u32)be16(length) << 16;
		header[1] = 0x40 << 16;
		header[2] = OUTER_TTL | (u32)protocol << 8;
		header[3] = src[0];
		header[4] = record->addrs[1];
		s64 sum = csum_diff(0, 0, header, V4_HEADER, 0);
		sum = (sum & 0xffff) + (sum >> 16 & 0xffff);
		sum = (sum & 0xffff) + (sum >> 16);
		header[2] |= (u32)(u16)~sum << 16;
		l4 = header + 5;
		if (kind == ENCAPSULATION_GRE) {
			l4[0] = (u32)be16(inner_v6 ? ETH_P_IPV6 : ETH_P_IP) << 16;
		} else if (kind >= ENCAPSULATION_GUE) {
			l4[0] = be16((u16)(FIRST_PORT | spread >> 48)) | (u32)be16(routes->gue_port) << 16;
			l4[1] = be16(length - V4_HEADER);
			l4[2] = (u32)inner << 8;
		}
	}
	if (store_bytes(skb, 12, &type, 2, 0))
		return 0;
	// The verifier wants to know a length.
	switch (grown) {
	case V4_HEADER:
		return !store_bytes(skb, ETH_HLEN, header, V4_HEADER, 0);
	case V4_HEADER + GRE_HEADER:
		return !store_bytes(skb, ETH_HLEN, header, V4_HEADER + GRE_HEADER, 0);
	case V4_HEADER + UDP_HEADER:
		return !store_bytes(skb, ETH_HLEN, header, V4_HEADER + UDP_HEADER, 0);
	case V4_HEADER + UDP_HEADER + GUE_HEADER:
		return !store_bytes(skb, ETH_HLEN, header, V4_HEADER + UDP_HEADER + GUE_HEADER, 0);
	case V6_HEADER:
		return !store_bytes(skb, ETH_HLEN, header, V6_HEADER, 0);
	case V6_HEADER + GRE_HEADER:
		return !store_bytes(skb, ETH_HLEN, header, V6_HEADER + GRE_HEADER, 0);
	default:
		return 0;
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

// Carries what the filter has decided on. -1: something has changed since.
INLINE int carry(struct __sk_buff *skb, struct decision *word)
{
	struct decision d = *word;
	struct look look = {};
	u32 cpu = this_cpu();

	word->open = 0;
	struct carried *carried = map_lookup(&CARRIED, &cpu);
	struct record *record = map_lookup(&RECORDS, &d.index);
	if (!carried || !record || !read_headers(skb, ETH_HLEN, &look))
		return -1;
	if (*(volatile u32 *)&record->version != d.version || !matches(record, d.version, d.side, &look.t))
		goto missed;
	struct hop *hop = way_out(record, &d, &look);
	if (!hop)
		goto missed;
	u64 to = hop->word;
	struct port *port = port_of(to);
	if (!port)
		goto missed;
	if (!(hop->mtu & HOP_USED))
		__sync_fetch_and_or(&hop->mtu, HOP_USED);
	u32 ifindex = port->ifindex;
	u8 macs[12];
	__builtin_memcpy(macs, &to, 6);
	__builtin_memcpy(macs + 6, port->mac, 6);
	switch (MODE(d.version)) {
	case MODE_DIRECT:
		if (in_a_circle(skb, macs, port))
			goto missed;
		break;
	case MODE_TUNNEL:
		if (!encapsulate(skb, record, d.version, &look, port))
			goto missed;
		break;
	default:
		if (!rewrite(skb, record, d.side, &look))
			goto missed;
	}
	store_bytes(skb, 0, macs, sizeof(macs), 0);
	// FlowTable::touch and note_ack.
	u32 side = d.side & 1;
	record->last_seen = tick();
	record->packets[side] += 1;
	record->bytes[side] += look.bytes;
	if (d.version & KIND_ACKS)
		record->acks[side] = look.ack;
	carried->packets += 1;
	carried->bytes += skb->len;
	return redirect(ifindex, 0);
missed:
	carried->missed += 1;
	return -1;
}

// Holds farside_filter.
struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, u32);
} FILTERS SEC(".maps");

// A socket's program is charged to the socket's option memory (sk_filter_charge in net/core/filter.c), of which old
// kernels grant 20 KB (net.core.optmem_max before 6.7): too little for farside_filter. What it calls costs nothing.
SEC("socket/door")
int farside_door(struct __sk_buff *skb)
{
	tail_call(skb, &FILTERS, 0);
	return 0;
}

SEC("socket/filter")
int farside_filter(struct __sk_buff *skb)
{
	u32 steer = 0;
	if (decide(skb, ETH_HLEN))
		return 0;
	return classify(skb, ETH_HLEN, &steer) ? -1 : 0;
}

SEC("classifier/ingress")
int farside_ingress(struct __sk_buff *skb)
{
	u32 steer = 0;
	u32 zero = 0;
	struct decision *decision = map_lookup(&DECISION, &zero);
	if (decision && decision->open) {
		int verdict = carry(skb, decision);
		if (verdict >= 0)
			return verdict;
	}
	return classify(skb, ETH_HLEN, &steer) == 1 ? TC_ACT_SHOT : TC_ACT_UNSPEC;
}

// The fanout hook runs before the hardware header is pushed back.
SEC("socket/fanout")
int farside_fanout(struct __sk_buff *skb)
{
	u32 steer = 0;
	classify(skb, 0, &steer);
	return steer % WORKERS;
}

char LICENSE[] SEC("license") = "Dual MIT/GPL";
