// SPDX-License-Identifier: MIT OR Apache-2.0
//
// Which packets are plain questions to farside's name server, asked at three places in the kernel:
//
//   questions_filter   on every packet socket     takes them, leaves the rest
//   questions_ingress  at tc ingress, after the packet sockets have had their copy: keeps them from the host
//   questions_fanout   on every fanout group      which thread
//
// All three ask asked(), so that there is one truth: what a thread gets, the host does not, and the other way round. Plain is what
// hardly any question is not: UDP to an address and port that are listed, whole, without options or extension headers, without a VLAN
// tag, in one piece, from an address that may ask. Checksums are the threads' to look at: the host would drop what has a wrong one.
//
// Built by scripts/build-bpf. Oldest kernel: 6.6.

#include "common.h"

// Filled in when the programs are loaded.
const volatile u32 THREADS = 1;
const volatile u64 KEY;

// The longest packet that is taken: the sockets' slots have room for it.
#define LONGEST 1500

#define UDP_AND_HEADER 20

#define IPV4_PLAIN 0x45

// Addresses are wire bytes; IPv4 is the first word, the rest zero. The port is in host order. Family is 4 or 6.
struct listener {
	u32 addr[4];
	u16 port;
	u16 family;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1024);
	__type(key, struct listener);
	__type(value, u32);
} LISTENERS SEC(".maps");

struct udp {
	u16 source;
	u16 dest;
	u16 length;
	u16 checksum;
};

// `length`: bytes of the packet behind its IP header.
INLINE int datagram(struct __sk_buff *skb, u32 offset, u32 length, struct listener *to, u32 *steer)
{
	struct udp udp;

	if (length < UDP_AND_HEADER || load_bytes(skb, offset, &udp, sizeof(udp)) || be16(udp.length) != length || !udp.source)
		return 0;
	to->port = be16(udp.dest);
	if (!map_lookup(&LISTENERS, to))
		return 0;
	*steer ^= udp.source;
	return 1;
}

// From this host, a group, everybody: the host knows what to do with these.
INLINE int may_ask4(u32 src)
{
	u8 first = src & 255;
	return first && first != 127 && first < 224;
}

// Not from a group, a link-local address (its answer needs to know the link), nor any that begins with eight zeros: this host,
// none, IPv4 in IPv6.
INLINE int may_ask6(const u32 *src)
{
	return (src[0] & 255) != 0xff && !((src[0] & 255) == 0xfe && (src[0] >> 8 & 0xc0) == 0x80) && (src[0] | src[1]);
}

INLINE int ipv4(struct __sk_buff *skb, u32 base, u32 room, u32 *steer)
{
	struct listener to = { .family = 4 };
	struct ipv4 ip;

	if (load_bytes(skb, base, &ip, sizeof(ip)) || ip.version_ihl != IPV4_PLAIN || ip.protocol != IPPROTO_UDP)
		return 0;
	u32 total = be16(ip.total);
	if (be16(ip.frag) & (IPV4_OFFSET | IPV4_MF) || total > room || total < sizeof(ip))
		return 0;
	if (!may_ask4(ip.src) || ip.src == ip.dst)
		return 0;
	to.addr[0] = ip.dst;
	*steer = ip.src;
	return datagram(skb, base + sizeof(ip), total - sizeof(ip), &to, steer);
}

INLINE int ipv6(struct __sk_buff *skb, u32 base, u32 room, u32 *steer)
{
	struct listener to = { .family = 6 };
	struct ipv6 ip;

	if (load_bytes(skb, base, &ip, sizeof(ip)) || ip.first[0] >> 4 != 6 || ip.next != IPPROTO_UDP)
		return 0;
	u32 payload = be16(ip.payload);
	if (payload + sizeof(ip) > room || !may_ask6(ip.src))
		return 0;
	if (ip.src[0] == ip.dst[0] && ip.src[1] == ip.dst[1] && ip.src[2] == ip.dst[2] && ip.src[3] == ip.dst[3])
		return 0;
	copy(to.addr, ip.dst);
	*steer = ip.src[0] ^ ip.src[1] ^ ip.src[2] ^ ip.src[3];
	return datagram(skb, base + sizeof(ip), payload, &to, steer);
}

// `base`: where the network header begins, from the start of what this kind of program sees.
INLINE int asked(struct __sk_buff *skb, u32 base, u32 *steer)
{
	u32 room = skb->len - base;

	if (skb->pkt_type != PACKET_HOST || skb->vlan_present || skb->gso_size || skb->len < base || room > LONGEST)
		return 0;
	switch (be16(skb->protocol)) {
	case ETH_P_IP:
		return ipv4(skb, base, room, steer);
	case ETH_P_IPV6:
		return ipv6(skb, base, room, steer);
	default:
		return 0;
	}
}

SEC("socket/filter")
int questions_filter(struct __sk_buff *skb)
{
	u32 steer = 0;
	return asked(skb, ETH_HLEN, &steer) ? -1 : 0;
}

SEC("classifier/ingress")
int questions_ingress(struct __sk_buff *skb)
{
	u32 steer = 0;
	return asked(skb, ETH_HLEN, &steer) ? TC_ACT_SHOT : TC_ACT_UNSPEC;
}

// The fanout hook runs before the hardware header is pushed back.
SEC("socket/fanout")
int questions_fanout(struct __sk_buff *skb)
{
	u32 steer = 0;
	if (!asked(skb, 0, &steer))
		return 0;
	u64 mixed = (steer ^ KEY) * 0x9e3779b97f4a7c15ULL;
	return (u32)(mixed >> 32) % THREADS;
}

char LICENSE[] SEC("license") = "Dual MIT/GPL";
