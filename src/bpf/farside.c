// SPDX-License-Identifier: MIT OR Apache-2.0
//
// Which packets are farside's, asked at four places in the kernel:
//
//   farside_filter   on every packet socket, by way of farside_door    takes farside's packets, leaves the rest
//   farside_ingress  at tc ingress, after the packet sockets have had their copy: keeps farside's packets from the host
//   farside_fanout   on every fanout group     which worker
//   farside_xdp      at the driver, before all of these, where AF_XDP is the backend: takes farside's packets to the queue's
//                    AF_XDP socket. What has none there, or is the host's besides, goes the way of the others.
//
// All four ask classify(), so that there is one truth: what a worker gets, the host does not, and the other way round.
// What is farside's is said there, in classify.h, the flow table is in table.h. What the programs carry themselves is in path.h.
//
// Built by scripts/build-bpf; the objects beside this file are what is shipped: farside.o has all (XDP is defined), plain.o is for
// kernels without AF_XDP, which take no map of its sockets. Oldest kernel: 6.1.

#include "common.h"

// Filled in when the programs are loaded.
const volatile u64 KEY0;
const volatile u64 KEY1;
const volatile u32 WORKERS = 1;
// Buckets of the flow table's index, less one.
const volatile u64 FLOW_MASK;
// CLOCK_MONOTONIC when the workers' ticks began, and the length of a tick.
const volatile u64 START_NS;
const volatile u64 TICK_NS = 250000000;

#include "classify.h"
#include "path.h"

// A packet as a socket's program or tc has it. bpf_skb_load_bytes is used, not its _relative cousin, since that one does not look
// beyond the linear part of the buffer.
INLINE int classify_skb(struct __sk_buff *skb, u32 base, u32 *steer)
{
	struct view view = { .ctx = skb, .protocol = skb->protocol, .kind = skb->pkt_type };
	return skb->vlan_present ? 0 : classify(&view, base, steer);
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
	struct decision *word = word_on_packet();
	if (!word)
		return 0;
	// The kernel runs this right after the fanout program, for the same packet.
	if (word->asked) {
		word->asked = 0;
		return word->ours ? -1 : 0;
	}
	if (decide(skb, ETH_HLEN, word))
		return 0;
	return classify_skb(skb, ETH_HLEN, &steer) ? -1 : 0;
}

SEC("classifier/ingress")
int farside_ingress(struct __sk_buff *skb)
{
	u32 steer = 0;
	struct decision *word = word_on_packet();
	if (word && word->open) {
		int verdict = carry(skb, word);
		if (verdict >= 0)
			return verdict;
	}
	return classify_skb(skb, ETH_HLEN, &steer) == 1 ? TC_ACT_SHOT : TC_ACT_UNSPEC;
}

#ifdef XDP

// Queues that fragments came by which XDP has let pass since they may be the host's as well, by what their datagram is steered by:
// if the first one turns out to be farside's, it will go to the worker that has the queue.
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 8192);
	__type(key, u32);
	__type(value, u32);
} QUEUES SEC(".maps");

#endif

// The fanout hook runs before the hardware header is pushed back.
SEC("socket/fanout")
int farside_fanout(struct __sk_buff *skb)
{
	u32 steer = 0;
	struct decision *word = word_on_packet();
	if (!word)
		return 0;
	word->ours = !decide(skb, 0, word) && classify_skb(skb, 0, &steer);
	word->asked = 1;
	if (!word->ours)
		return 0;
#ifdef XDP
	u32 *queue = map_lookup(&QUEUES, &steer);
	if (queue)
		return *queue % WORKERS;
#endif
	return steer % WORKERS;
}

#ifdef XDP

// An interface whose packets come by XDP: its hardware address, and where its queues' sockets begin in SOCKETS.
struct entrance {
	u8 mac[6];
	u16 queues;
	u32 first;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 256);
	__type(key, u32);
	__type(value, struct entrance);
} ENTRANCES SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_XSKMAP);
	__uint(max_entries, 16384);
	__type(key, u32);
	__type(value, u32);
} SOCKETS SEC(".maps");

INLINE u32 kind_of(const u8 *to, const u8 *own)
{
	u32 differs = 0;
#pragma unroll
	for (int i = 0; i < 6; i++)
		differs |= to[i] ^ own[i];
	if (!differs)
		return PACKET_HOST;
	return to[0] & 1 ? PACKET_MULTICAST : PACKET_OTHERHOST;
}

// Whether a checksum is still partial nobody says here: the one who reads the socket has to find out.
SEC("xdp.frags")
int farside_xdp(struct xdp_md *ctx)
{
	struct ethhdr ethernet;
	u32 steer = 0;
	u32 ifindex = ctx->ingress_ifindex;
	u32 queue = ctx->rx_queue_index;
	struct entrance *entrance = map_lookup(&ENTRANCES, &ifindex);

	if (!entrance || queue >= entrance->queues || xdp_load_bytes(ctx, 0, &ethernet, sizeof(ethernet)))
		return XDP_PASS;
	struct view view = { .ctx = ctx, .xdp = 1, .protocol = ethernet.h_proto };
	view.kind = kind_of(ethernet.h_dest, entrance->mac);
	int verdict = classify(&view, ETH_HLEN, &steer);
	if (verdict == BOTH)
		map_update(&QUEUES, &steer, &queue, BPF_ANY);
	if (verdict != 1)
		return XDP_PASS;
	return redirect_map(&SOCKETS, entrance->first + queue, XDP_PASS);
}

#endif

char LICENSE[] SEC("license") = "Dual MIT/GPL";
