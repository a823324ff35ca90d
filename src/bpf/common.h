// SPDX-License-Identifier: MIT OR Apache-2.0
//
// What the kernel programs share: short names, the kernel's helpers, headers.

#pragma once

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
static s64 (*csum_update)(void *skb, u32 sum) = (void *)BPF_FUNC_csum_update;
static long (*adjust_room)(void *skb, s32 grow, u32 mode, u64 flags) = (void *)BPF_FUNC_skb_adjust_room;
static long (*change_head)(void *skb, u32 grow, u64 flags) = (void *)BPF_FUNC_skb_change_head;
static long (*pull_data)(void *skb, u32 len) = (void *)BPF_FUNC_skb_pull_data;
static long (*redirect)(u32 ifindex, u64 flags) = (void *)BPF_FUNC_redirect;
// As of the last interrupt of the clock, which is up to 10 ms ago: it costs no look at the hardware's.
static u64 (*clock_ns)(void) = (void *)BPF_FUNC_ktime_get_coarse_ns;
static u32 (*this_cpu)(void) = (void *)BPF_FUNC_get_smp_processor_id;
static long (*load_bytes)(const void *skb, u32 offset, void *to, u32 len) = (void *)BPF_FUNC_skb_load_bytes;
static long (*xdp_load_bytes)(void *xdp, u32 offset, void *to, u32 len) = (void *)BPF_FUNC_xdp_load_bytes;
static long (*redirect_map)(void *map, u64 key, u64 flags) = (void *)BPF_FUNC_redirect_map;

// Wire bytes; IPv4 is the first word, the rest zero. Family is 4 or 6.
struct address {
	u32 addr[4];
	u32 family;
};

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

struct ipv6 {
	// Version, traffic class, flow label.
	u8 first[4];
	u16 payload;
	u8 next;
	u8 hop_limit;
	u32 src[4];
	u32 dst[4];
};

#define GRE_HEADER 4
#define UDP_HEADER 8
#define GUE_HEADER 4

INLINE void copy(u32 *to, const u32 *from)
{
	to[0] = from[0];
	to[1] = from[1];
	to[2] = from[2];
	to[3] = from[3];
}

// What csum_diff gives, as it stands in a header but for the complement.
INLINE u16 fold(s64 sum)
{
	sum = (sum & 0xffff) + (sum >> 16 & 0xffff);
	return (sum & 0xffff) + (sum >> 16);
}
