#pragma once

/*
 * The committed offsets of one group: topics sorted by name, partitions sorted by number. Pure; strings are owned.
 */

#include "wire/codec.h"

typedef struct CommittedOffset {
    int32_t partition;
    int32_t leader_epoch; /* -1 unknown */
    int64_t offset;
    int64_t commit_ms;    /* wall clock */
    int64_t expire_ms;    /* only records of old brokers have one; -1 = by offsets.retention.minutes */
    char *metadata;       /* any bytes; NULL when empty */
    int32_t metadata_len;
} CommittedOffset;

typedef struct OffsetTopic {
    char *name;
    int32_t name_len;
    CommittedOffset *items; /* by partition */
    int32_t n, capacity;
} OffsetTopic;

typedef struct OffsetTable {
    OffsetTopic *topics; /* by name */
    int32_t n, capacity;
    int64_t total; /* offsets in all topics */
} OffsetTable;

static inline KStr offset_topic_name(const OffsetTopic *t)
{
    return (KStr){t->name, t->name_len};
}
static inline KStr offset_metadata(const CommittedOffset *o)
{
    return (KStr){o->metadata ? o->metadata : "", o->metadata_len};
}

void offsets_deinit(OffsetTable *t);
const OffsetTopic *offsets_topic(const OffsetTable *t, KStr topic);
const CommittedOffset *offsets_find(const OffsetTable *t, KStr topic, int32_t partition);
/* Copies everything. Return: 0 or -ENOMEM (unchanged then). */
int offsets_set(OffsetTable *t, KStr topic, const CommittedOffset *o, KStr metadata);
bool offsets_remove(OffsetTable *t, KStr topic, int32_t partition);
