// SPDX-License-Identifier: MIT OR Apache-2.0
//
// The far end of tunnels at tc ingress, for `farside decap`: takes the outer headers off in place and hands what is inside to
// the tun device, as if it had been written to it. Nothing is copied, and segments that are joined stay joined.
//
// It takes the plain cases, by the rules of decap/strip.rs. All else goes on untouched (TC_ACT_UNSPEC) to the raw and UDP
// sockets of user space, which know all cases and count what they refuse: fragments, options and extension headers, odd
// flags, packets for nobody's VIP, padding, congestion that the inner packet cannot be told of.
//
// Built by scripts/build-bpf; the object beside this file is what is shipped. Oldest kernel: 6.1.

#include "common.h"

// BPF_F_ADJ_ROOM_DECAP_L3_IPV4 and _IPV6, of Linux 6.3: the kernel is told that what is left is of the other version. Older
// ones refuse them, and then such packets are the sockets'.
#define LEFT_IPV4 (1ULL << 7)
#define LEFT_IPV6 (1ULL << 8)

// Filled in when the program is loaded. TUN: the tun device's index; WRAPS: which are taken, bits of the numbers below.
const volatile u32 TUN;
const volatile u32 GUE_PORT;
const volatile u32 WRAPS;

// Wrap in decap/strip.rs; the variants of GUE apart.
#define WRAP_IPV4 0
#define WRAP_IPV6 1
#define WRAP_GRE 2
#define WRAP_GUE 3
#define WRAP_GUE1 4

// What an address is: the host's own, or one that clients connect to.
#define LOCAL 1
#define VIP 2

// What this CPU has taken, by wrap; bytes of the inner packets.
struct taken {
	u64 packets[5];
	u64 bytes;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16384);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct address);
	__type(value, u32);
} ADDRESSES SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct taken);
} TAKEN SEC(".maps");


// An IP packet inside the frame: its first byte is at `start`, what it carries at `payload`, and `end` is behind all of it.
struct packet {
	struct address dst;
	u32 start;
	u32 payload;
	u32 end;
	u8 protocol;
	u8 tos;
};

INLINE int read_ipv4(struct __sk_buff *skb, struct packet *p, int outer)
{
	struct ipv4 ip;

	if (load_bytes(skb, p->start, &ip, sizeof(ip)))
		return 0;
	u32 header = (ip.version_ihl & 15) * 4;
	u32 total = be16(ip.total);
	if (ip.version_ihl >> 4 != 4 || header < sizeof(ip) || header > total)
		return 0;
	if (outer) {
		// The sum is the sockets' kernel's to look at otherwise, and the congestion mark is under it.
		u16 sum = fold(csum_diff(0, 0, (u32 *)&ip, sizeof(ip), 0));
		if (header != sizeof(ip) || be16(ip.frag) & (IPV4_OFFSET | IPV4_MF) || sum != 0xffff)
			return 0;
	}
	p->dst.addr[0] = ip.dst;
	p->dst.family = 4;
	p->payload = p->start + header;
	p->end = p->start + total;
	p->protocol = ip.protocol;
	p->tos = ip.tos;
	return 1;
}

INLINE int read_ipv6(struct __sk_buff *skb, struct packet *p)
{
	struct ipv6 ip;

	if (load_bytes(skb, p->start, &ip, sizeof(ip)) || ip.first[0] >> 4 != 6)
		return 0;
	copy(p->dst.addr, ip.dst);
	p->dst.family = 6;
	p->payload = p->start + sizeof(ip);
	p->end = p->payload + be16(ip.payload);
	p->protocol = ip.next;
	p->tos = ip.first[0] << 4 | ip.first[1] >> 4;
	return 1;
}

INLINE u32 family_of(u16 ethertype)
{
	return ethertype == be16(ETH_P_IP) ? 4 : ethertype == be16(ETH_P_IPV6) ? 6 : 0;
}

INLINE u32 family_in(u8 protocol)
{
	return protocol == IPPROTO_IPIP ? 4 : protocol == IPPROTO_IPV6 ? 6 : 0;
}

// Where the inner packet starts, its family, and how it is wrapped. The family is 0 if it is not plain. `summed`: the
// tunnel has a checksum of its own, which is not looked at here.
struct inside {
	u32 start;
	u32 family;
	u32 wrap;
	u32 summed;
};

INLINE void find_inside(struct __sk_buff *skb, const struct packet *outer, struct inside *in)
{
	u32 at = outer->payload;

	if (outer->protocol == IPPROTO_GRE) {
		u16 gre[2];
		if (load_bytes(skb, at, gre, sizeof(gre)) || gre[0])
			return;
		in->wrap = WRAP_GRE;
		in->family = family_of(gre[1]);
		in->start = at + GRE_HEADER;
	} else if (outer->protocol == IPPROTO_UDP) {
		u16 udp[4];
		u8 gue[4];
		if (load_bytes(skb, at, udp, sizeof(udp)) || be16(udp[1]) != GUE_PORT || be16(udp[2]) != outer->end - at)
			return;
		in->summed = udp[3] != 0;
		if (load_bytes(skb, at + UDP_HEADER, gue, sizeof(gue)))
			return;
		if (gue[0] >> 6 == 1) {
			u32 version = gue[0] >> 4;
			in->wrap = WRAP_GUE1;
			in->family = version == 4 || version == 6 ? version : 0;
			in->start = at + UDP_HEADER;
		} else if (!gue[0] && !gue[2] && !gue[3]) {
			in->wrap = WRAP_GUE;
			in->family = family_in(gue[1]);
			in->start = at + UDP_HEADER + GUE_HEADER;
		}
	} else {
		in->family = family_in(outer->protocol);
		in->wrap = in->family == 4 ? WRAP_IPV4 : WRAP_IPV6;
		in->start = at;
	}
}

INLINE int is(const struct address *address, u32 what)
{
	u32 *found = map_lookup(&ADDRESSES, address);
	return found && *found & what;
}

#define ECT_1 1
#define ECT_0 2
#define CE 3

// RFC 6040, 4.2: strip::carry_mark. 0: the mark cannot be carried over.
INLINE int carry_mark(struct __sk_buff *skb, const struct packet *inner, u8 outer_tos)
{
	u8 mark = inner->tos & 3;
	u8 from = outer_tos & 3;
	u8 first[2];

	if (from == CE) {
		if (!mark)
			return 0;
	} else if (from != ECT_1 || mark != ECT_0) {
		return 1;
	}
	if (mark == from)
		return 1;
	if (load_bytes(skb, inner->start, first, sizeof(first)))
		return 0;
	if (inner->dst.family == 4) {
		u16 before, after;
		__builtin_memcpy(&before, first, 2);
		first[1] = (first[1] & ~3) | from;
		__builtin_memcpy(&after, first, 2);
		return !l3_replace(skb, inner->start + 10, before, after, 2) &&
		       !store_bytes(skb, inner->start, first, sizeof(first), 0);
	}
	first[1] = (first[1] & ~0x30) | from << 4;
	return !store_bytes(skb, inner->start, first, sizeof(first), BPF_F_RECOMPUTE_CSUM);
}

SEC("classifier/decap")
int farside_decap(struct __sk_buff *skb)
{
	struct packet outer = { .start = ETH_HLEN };
	struct packet inner = {};
	struct inside in = {};
	u32 zero = 0;

	if (skb->vlan_present || skb->pkt_type != PACKET_HOST)
		return TC_ACT_UNSPEC;
	if (skb->protocol == be16(ETH_P_IP)) {
		if (!read_ipv4(skb, &outer, 1))
			return TC_ACT_UNSPEC;
	} else if (skb->protocol != be16(ETH_P_IPV6) || !read_ipv6(skb, &outer)) {
		return TC_ACT_UNSPEC;
	}
	find_inside(skb, &outer, &in);
	if (!in.family || !(WRAPS & 1U << in.wrap) || outer.end > skb->len)
		return TC_ACT_UNSPEC;
	inner.start = in.start;
	if (in.family == 4 ? !read_ipv4(skb, &inner, 0) : !read_ipv6(skb, &inner))
		return TC_ACT_UNSPEC;
	// The tunnel ends here, and what is inside fills it: joined datagrams of a tunnel over UDP, each with headers of its own,
	// do not.
	if (inner.end != outer.end || !is(&inner.dst, VIP) || !is(&outer.dst, LOCAL))
		return TC_ACT_UNSPEC;
	// TCP has a checksum whatever becomes of the tunnel's. And joined UDP is not taken apart rightly once the headers are off:
	// the kernel goes on thinking of a tunnel.
	if (inner.protocol != IPPROTO_TCP && (in.summed || skb->gso_size))
		return TC_ACT_UNSPEC;
	struct taken *taken = map_lookup(&TAKEN, &zero);
	if (!taken || !carry_mark(skb, &inner, outer.tos))
		return TC_ACT_UNSPEC;
	u64 flags = BPF_F_ADJ_ROOM_FIXED_GSO;
	if (inner.dst.family != outer.dst.family)
		flags |= inner.dst.family == 4 ? LEFT_IPV4 : LEFT_IPV6;
	// The sockets carry a mark over again, to the same effect.
	if (adjust_room(skb, -(s32)(inner.start - ETH_HLEN), BPF_ADJ_ROOM_MAC, flags))
		return TC_ACT_UNSPEC;
	if (in.wrap <= WRAP_GUE1)
		taken->packets[in.wrap] += 1;
	taken->bytes += inner.end - inner.start;
	// A device without MAC addresses: the kernel takes the Ethernet header off.
	return redirect(TUN, BPF_F_INGRESS);
}

char LICENSE[] SEC("license") = "Dual MIT/GPL";
