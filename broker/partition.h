#pragma once

/*
 * Topics and partitions that this broker holds, found by name or id. Partition: the log, the replica core that decides the
 * high watermark, and everyone who waits for it to move.
 *
 * A topic lives until it is deleted *and* nobody refers to it (sessions hold handles): `deleted` says that its logs are gone.
 */

#include "base/list.h"
#include "broker/replica/replica.h"
#include "storage/log_dir.h"
#include "wire/codec.h"

typedef struct Broker Broker;
typedef struct Partition Partition;
typedef struct Topic Topic;

typedef struct TopicRules { /* effective topic configs that the hot path reads */
    int32_t max_message_bytes;
    int32_t min_insync_replicas;
    bool compacted, deletes, log_append_time;
    bool wait_durable; /* flush.messages=1 */
    int compression;   /* BatchCodec to store in, -1 = as the producer sent it */
    int compression_level; /* INT32_MIN: the codec's default */
    int64_t before_max_ms, after_max_ms;
    PlogConfig plog;
} TopicRules;

struct Partition {
    Topic *topic;
    int32_t index;
    Plog *log; /* NULL: closed (topic deleted, or damaged beyond opening) */
    Replica replica;
    List staged;        /* Produce: accepted, not appended yet, in order of arrival */
    List wait_local;    /* Produce, acks=1, by offset */
    List wait_hw;       /* Produce, acks=all, by offset */
    List fetch_waits;   /* FetchWait */
    List subscribers;   /* Subscription without data to send */
    List staged_node;   /* in ProduceQueue.partitions */
    List unsynced_node; /* in ProduceQueue.unsynced: log end > durable end */
    int64_t unflushed_records; /* since the last want_sync (flush.messages > 1) */
    int64_t flush_due_ns;      /* flush.ms; INT64_MAX = nothing to flush */
    bool validating;           /* a staged batch is on the worker */
};

struct Topic {
    char name[250];
    Uuid id;
    bool internal, deleted;
    unsigned refs; /* the table and each handle */
    TopicRules rules;
    uint64_t configs_hash;
    uint64_t pass;     /* of apply.c: the last one that saw it in the image */
    unsigned unopened; /* partitions whose log is not open yet */
    Partition **partitions; /* dense; entries may be NULL: no replica here */
    int32_t partitions_count;
    Topic *next; /* hash chain */
};

typedef struct PartitionTable {
    Topic **buckets;
    size_t buckets_count, topics_count, partitions_count;
} PartitionTable;

int partition_table_init(PartitionTable *t);
void partition_table_deinit(PartitionTable *t);
Topic *topic_find(const PartitionTable *t, const char *name, size_t size);
Topic *topic_find_str(const PartitionTable *t, KStr name);
Topic *topic_find_id(const PartitionTable *t, const Uuid *id); /* linear: admin paths */
Topic *topic_next(const PartitionTable *t, const Topic *after); /* NULL begins, NULL ends; no order */
int topic_add(PartitionTable *t, const char *name, const Uuid *id, bool internal, Topic **ret);
void topic_remove(PartitionTable *t, Topic *topic); /* out of the table, deleted = true, unref */
int topic_resize(Topic *topic, int32_t partitions_count); /* only grows */
static inline Topic *topic_ref(Topic *topic)
{
    topic->refs++;
    return topic;
}
Topic *topic_unref(Topic *topic);

/* NULL: unknown, or no replica here. */
Partition *partition_of(const Topic *topic, int32_t index);
Partition *partition_find(const PartitionTable *t, KStr topic, int32_t index);
int partition_new(Topic *topic, int32_t index, Partition **ret);
Partition *partition_free(Partition *p);

static inline int64_t partition_hw(const Partition *p)
{
    return p->replica.high_watermark;
}
/* The log grew or became durable: moves the high watermark, answers producers, wakes fetches and subscriptions. */
void partition_advance(Broker *b, Partition *p);
/* Everyone who waits looks again (new epoch, deletion, log start moved). */
void partition_wake(Broker *b, Partition *p);
/* A log call gave a negative errno: -EIO ends the process (D3), anything else (descriptors, memory) is logged and the caller
 * answers KAFKA_STORAGE_ERROR. */
void partition_log_failed(Broker *b, const Partition *p, const char *what, int error);
/* What a client may be told: K_NONE, K_UNKNOWN_TOPIC_OR_PARTITION, K_NOT_LEADER_OR_FOLLOWER, K_KAFKA_STORAGE_ERROR,
 * or an epoch error (current_epoch -1: not checked). */
int16_t partition_check(const Partition *p, int32_t current_epoch);
