// SPDX-License-Identifier: MIT OR Apache-2.0
//
// The flow table, as the workers fill it (the theory is in flow/table.rs and flow/record.rs): keys, their hash, index and records.

#pragma once

#include "common.h"

// Source and destination as the packet has them.
struct tuple {
	u32 src[4];
	u32 dst[4];
	u16 sport;
	u16 dport;
	u8 protocol;
	u8 family;
};

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
		sip_word(&s, last | 14ULL << 56);
	} else {
		sip_word(&s, src[0] | (u64)src[1] << 32);
		sip_word(&s, src[2] | (u64)src[3] << 32);
		sip_word(&s, dst[0] | (u64)dst[1] << 32);
		sip_word(&s, dst[2] | (u64)dst[3] << 32);
		sip_word(&s, last | 38ULL << 56);
	}
	s.v2 ^= 0xff;
	sip_round(&s);
	sip_round(&s);
	sip_round(&s);
	u64 hash = s.v0 ^ s.v1 ^ s.v2 ^ s.v3;
	return hash ? hash : 1;
}

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

// max_entries of both are set when the programs are loaded.
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

#define LIVE 3
#define KIND_V6 (1U << 3)
#define KIND_UDP (1U << 4)
#define KIND_ACKS (1U << 5)
#define ENTRY_INDEX ((1U << 30) - 1)
#define ENTRY_SERVER (1U << 31)

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


// The record that a word of the index names, if it is that of a flow with this key.
INLINE struct record *record_of(u64 entry, const struct tuple *t, u32 *version)
{
	u32 index = entry & ENTRY_INDEX;
	struct record *record = map_lookup(&RECORDS, &index);
	if (!record)
		return 0;
	*version = *(volatile u32 *)&record->version;
	if ((*version & 7) != LIVE || (u16)(*version >> 11) != (u16)(entry >> 32))
		return 0;
	return matches(record, *version, entry & ENTRY_SERVER ? 1 : 0, t) ? record : 0;
}

INLINE u16 tag_of(u64 hash)
{
	u16 tag = (u16)(hash >> 48) ^ (u16)(hash >> 16);
	return tag ? tag : 1;
}

INLINE int answered_in(u64 half, u16 tag, const struct tuple *t)
{
	u32 key = half & FLOW_MASK;
	struct bucket *bucket = map_lookup(&FLOWS, &key);
	if (!bucket)
		return 0;
#pragma clang loop unroll(disable)
	for (u32 i = 0; i < 8; i++) {
		u64 entry = *(volatile u64 *)&bucket->words[i];
		u32 version;
		if ((u16)(entry >> 48) == tag && entry & ENTRY_SERVER && record_of(entry, t, &version))
			return 1;
	}
	return 0;
}

// Is this what a server sends on a flow that is on record? The flow is there before its first packet leaves, and so before any answer.
INLINE int is_answer(const struct tuple *t)
{
	u64 hash = flow_hash(t->src, t->dst, t->sport, t->dport, t->protocol, t->family);
	u16 tag = tag_of(hash);
	return answered_in(hash, tag, t) || answered_in(hash >> 32, tag, t);
}
