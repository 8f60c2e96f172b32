#pragma once

/* Inside compaction: the job that compact.c plans and swaps in, and compact_run.c executes on files alone. */

#include "storage/internal.h"

/* ---- offset_map.c -------------------------------------------------------------------------------------------------- */

/* Newest offset by key. Keys are known by a 128-bit hash with a random seed: two keys of one pass share one with a chance of
 * 1 in 10^25, and nobody can choose keys that do. */
typedef struct OffsetMapSlot {
    uint64_t low, high;
    int64_t offset_plus_1; /* 0 free */
} OffsetMapSlot;
typedef struct OffsetMap {
    OffsetMapSlot *slots;
    size_t n, n_slots;
    uint64_t seed;
} OffsetMap;

int offset_map_init(OffsetMap *m, size_t keys_expected, size_t bytes_max);
void offset_map_deinit(OffsetMap *m);
bool offset_map_is_full(const OffsetMap *m);
void offset_map_put(OffsetMap *m, const void *key, size_t size, int64_t offset);
int64_t offset_map_get(const OffsetMap *m, const void *key, size_t size); /* -1 none */

/* ---- the job ------------------------------------------------------------------------------------------------------- */

typedef struct CompactSource {
    SegFile *file;
    uint64_t id;
    int64_t base_offset, end_offset, size;
} CompactSource;

typedef struct CompactGroup { /* sources [from, to) become one segment with the base of the first */
    size_t from, to;
    int64_t size;
    int64_t max_timestamp, max_timestamp_offset;
    bool unchanged; /* nothing to gain: no file was left */
} CompactGroup;

typedef struct ProducerLast {
    int64_t producer_id, last_offset;
} ProducerLast;

typedef struct CompactJob {
    LogDir *dir;
    char name[264];
    PlogConfig config;
    int64_t now_ms; /* INT64_MIN: no clock to believe, tombstones stay */
    CompactSource *sources;
    size_t n_sources;
    CompactGroup *groups;
    size_t n_groups;
    ProducerLast *producers; /* sorted by id */
    size_t n_producers;
    int64_t first_dirty;

    int64_t cleaned_to; /* result */
    int result;
    int64_t bad_base; /* result -EBADMSG: in which source, where */
    int64_t bad_position;

    pthread_t thread; /* of plog_compact_background */
    atomic_bool cancel, done;
} CompactJob;

/* Writes `<base>.{log,index,timeindex}.cleaned` of every group, synced. Sets result. */
void compact_run(CompactJob *job);
void compact_remove_output(CompactJob *job);
