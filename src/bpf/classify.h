// SPDX-License-Identifier: MIT OR Apache-2.0
//
// What is farside's: one truth for all programs that ask.
//
// Farside's are:
//
//   a  TCP and UDP to a service (VIP, port, protocol)
//   b  TCP and UDP to a PIP and a port it lends
//   c  TCP and UDP that a server sends on a flow that is on record: what a real server answers in NAT mode
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

#pragma once

#include "common.h"
#include "table.h"

// The host has this address itself.
#define OWNED 1

// Addresses are wire bytes; IPv4 is the first word, the rest zero. Ports are in host order. Family is 4 or 6.
struct service {
	u32 addr[4];
	u16 port;
	u8 protocol;
	u8 family;
};

struct pip {
	u16 first;
	u16 last;
	u32 flags;
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

// A packet as one of the kinds of program sees it. All of it is known when the program is compiled, but for the packet's own.
struct view {
	void *ctx;
	// An XDP program's, or else a socket's or tc's.
	u32 xdp;
	// ETH_P_*, as on the wire.
	u32 protocol;
	// PACKET_*: to whom, by the hardware address.
	u32 kind;
};

INLINE int get(const struct view *view, u32 offset, void *to, u32 len)
{
	return view->xdp ? xdp_load_bytes(view->ctx, offset, to, len) : load_bytes(view->ctx, offset, to, len);
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
	if (is_answer(t)) {
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
	struct tuple answer = { .sport = t->dport, .dport = t->sport, .protocol = t->protocol, .family = t->family };
	copy(answer.src, t->dst);
	copy(answer.dst, t->src);
	return is_answer(&answer);
}

// What classify() says of g, and of a later fragment that may be either's.
#define BOTH 2

// A packet of protocol `protocol` may be what farside has put a client's packet in.
INLINE int may_be_tunnel(u8 protocol)
{
	return protocol == IPPROTO_IPIP || protocol == IPPROTO_IPV6 || protocol == IPPROTO_GRE || protocol == IPPROTO_UDP;
}

INLINE int load_ports(const struct view *view, u32 offset, struct tuple *t)
{
	u16 ports[2];
	if (get(view, offset, ports, sizeof(ports)))
		return 0;
	t->sport = be16(ports[0]);
	t->dport = be16(ports[1]);
	return 1;
}

INLINE int is_transport(u8 protocol)
{
	return protocol == IPPROTO_TCP || protocol == IPPROTO_UDP;
}

INLINE int is_host(const struct view *view)
{
	return view->kind == PACKET_HOST;
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

#define IPV4_DF 0x4000

INLINE int icmp4(const struct view *view, u32 offset, const u32 *dst)
{
	struct tuple t = { .family = 4 };
	struct ipv4 ip;
	u8 head[2];

	if (farsides_alone(dst, 4))
		return 1;
	if (get(view, offset, head, 2))
		return 0;
	u8 type = head[0];
	if (type != 3 && type != 4 && type != 11 && type != 12)
		return 0;
	if (get(view, offset + 8, &ip, sizeof(ip)) || ip.version_ihl >> 4 != 4)
		return 0;
	if (be16(ip.frag) & IPV4_OFFSET)
		return 0;
	int tunnel = type == 3 && head[1] == 4 && ip.src == dst[0] && may_be_tunnel(ip.protocol) ? BOTH : 0;
	if (!is_transport(ip.protocol))
		return tunnel;
	t.src[0] = ip.src;
	t.dst[0] = ip.dst;
	t.protocol = ip.protocol;
	if (!load_ports(view, offset + 8 + (ip.version_ihl & 15) * 4, &t))
		return 0;
	return quoted(&t, dst) ? 1 : tunnel;
}

INLINE int ipv4(const struct view *view, u32 base, u32 *steer)
{
	struct tuple t = { .family = 4 };
	struct ipv4 ip;
	int ours = 0;

	if (!is_host(view) || get(view, base, &ip, sizeof(ip)) || ip.version_ihl >> 4 != 4)
		return 0;
	u32 offset = base + (ip.version_ihl & 15) * 4;
	u16 frag = be16(ip.frag) & (IPV4_OFFSET | IPV4_MF);
	int first = !(frag & IPV4_OFFSET);
	t.src[0] = ip.src;
	t.dst[0] = ip.dst;
	t.protocol = ip.protocol;
	if (first) {
		if (is_transport(ip.protocol))
			ours = load_ports(view, offset, &t) && transport(&t, steer);
		else if (ip.protocol == IPPROTO_ICMP)
			ours = icmp4(view, offset, t.dst);
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

#define ICMPV6_ERROR_LAST 127
#define ICMPV6_TOO_BIG 2
#define ICMPV6_NS 135

INLINE int icmp6(const struct view *view, u32 offset, const u32 *dst)
{
	struct tuple t = { .family = 6 };
	struct ipv6 ip;
	u8 type;

	if (get(view, offset, &type, 1))
		return 0;
	if (type == ICMPV6_NS) {
		u32 target[4];
		return !get(view, offset + 8, target, sizeof(target)) && farsides_alone(target, 6);
	}
	if (!is_host(view))
		return 0;
	if (farsides_alone(dst, 6))
		return 1;
	if (type > ICMPV6_ERROR_LAST || get(view, offset + 8, &ip, sizeof(ip)))
		return 0;
	u32 ports = offset + 8 + sizeof(ip);
	if (ip.next == IPPROTO_FRAGMENT) {
		u8 header[8];
		if (get(view, ports, header, sizeof(header)) || header[2] || header[3] & 0xf8)
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
	return load_ports(view, ports, &t) && quoted(&t, dst) ? 1 : tunnel;
}

INLINE int ipv6(const struct view *view, u32 base, u32 *steer)
{
	struct tuple t = { .family = 6 };
	struct ipv6 ip;
	u32 id = 0;
	u16 frag = 0;
	u8 fragment_of = 0;
	int ours = 0;

	if (get(view, base, &ip, sizeof(ip)))
		return 0;
	u32 offset = base + sizeof(ip);
	u8 next = ip.next;
	// Extension headers: at most four, as many as anybody sends.
#pragma unroll
	for (int i = 0; i < 4; i++) {
		u8 extension[8];
		if (next != IPPROTO_HOPOPTS && next != IPPROTO_ROUTING && next != IPPROTO_DSTOPTS && next != IPPROTO_FRAGMENT)
			break;
		if (get(view, offset, extension, sizeof(extension)))
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
			ours = is_host(view) && load_ports(view, offset, &t) && transport(&t, steer);
		else if (next == IPPROTO_ICMPV6)
			ours = icmp6(view, offset, t.dst);
		// A fragment header with neither offset nor more to come is a whole packet (RFC 6946).
		if (!frag)
			return ours;
		if (ours == BOTH)
			return 0;
	}
	if (!is_host(view))
		return 0;
	struct datagram d = { .id = id, .protocol = fragment_of, .family = 6 };
	copy(d.src, ip.src);
	copy(d.dst, ip.dst);
	return fragment(&d, first, ours, steer);
}

INLINE int arp(const struct view *view, u32 base)
{
	u16 operation;
	u32 target[4] = {};

	if (get(view, base + 6, &operation, 2) || be16(operation) != 1 || get(view, base + 24, target, 4))
		return 0;
	return farsides_alone(target, 4);
}

// `base`: where the network header begins, from the start of what this kind of program sees.
INLINE int classify(const struct view *view, u32 base, u32 *steer)
{
	if (view->kind == PACKET_OTHERHOST)
		return 0;
	switch (be16(view->protocol)) {
	case ETH_P_IP:
		return ipv4(view, base, steer);
	case ETH_P_IPV6:
		return ipv6(view, base, steer);
	case ETH_P_ARP:
		return arp(view, base);
	default:
		return 0;
	}
}
