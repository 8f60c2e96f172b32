#pragma once

/*
 * Produce: the road of a batch from its producer - local session or Kafka request - to its acknowledgement.
 *
 *   produce_begin()    memory for a private copy; the caller copies the batch there
 *   produce_submit()   checks the copy (header, CRC, every record: D25) and queues it on its partition
 *   produce_flush()    end of turn: all queued batches of a partition go to the log in one plog_append()
 *   partition_advance  durable or replicated far enough: item->done() runs, once, and the item is freed
 *
 * Copy first, then look: the bytes a local client owns may change at any moment, our copy does not. Compressed batches are
 * expanded on the worker, so the reactor never expands megabytes; batches of that partition queue behind it, in order.
 *
 * Bounds: the staging area is one block; what waits for the worker or in flight is counted against
 * queued.max.request.bytes (produce_has_room).
 */

#include "base/list.h"
#include "broker/worker.h"
#include "wire/batch.h"

typedef struct Broker Broker;
typedef struct Partition Partition;
typedef struct Produce Produce;

#define PRODUCE_STAGE_SIZE (2u << 20)
#define PRODUCE_EXPANDED_MAX (128u << 20) /* what a compressed batch may expand to */

typedef enum ProduceState { PRODUCE_NEW, PRODUCE_VALIDATING, PRODUCE_READY, PRODUCE_APPENDED, PRODUCE_DONE } ProduceState;

struct Produce {
    List node;       /* staged, wait_local or wait_hw of the partition */
    List owner_node; /* the session's or request's open items */
    Partition *partition; /* NULL once the topic is gone */
    uint8_t *batch;
    size_t size;
    BatchHeader header;
    ProduceState state;
    int16_t acks;
    bool heap;       /* batch is ours to free */
    bool borrowed;   /* batch belongs to the caller and outlives the item */
    bool privileged; /* may write internal topics */
    bool duplicate;
    int64_t deadline_ns; /* of an acks=all wait, INT64_MAX none */

    /* result */
    int16_t error; /* Kafka error */
    const char *why; /* static text, may be NULL */
    Buf bad_records; /* int32_t indexes, empty when the batch as a whole is at fault */
    int64_t base_offset, last_offset, log_append_ms;

    void (*done)(Produce *item); /* exactly once, the item is freed behind it; NULL: the owner is gone */
    void *owner;
    uint64_t tag;
    WorkerJob job;
    BatchRules rules;
    BatchCheck check;
    bool walk;           /* every record is looked at, so check.max_timestamp_seen is known */
    int store_codec;     /* codec the topic wants it stored in, -1 = as it is */
    int store_level;     /* of store_codec */
    size_t size_counted; /* what heap_bytes holds for it while the worker may exchange the batch */
    Broker *broker;
};

typedef struct ProduceQueue {
    uint8_t *stage;
    size_t stage_used;
    List partitions; /* Partition.staged_node */
    List unsynced;   /* Partition.unsynced_node */
    List free_items;
    size_t free_count;
    size_t heap_bytes; /* copies outside the stage */
    size_t waiting;    /* items not yet done */
} ProduceQueue;

int produce_init(Broker *b);
void produce_deinit(Broker *b);
/* @memory: NULL = the item gets memory of its own for the copy (item->batch); else borrowed until done().
 * Return: NULL when out of memory or budget. */
Produce *produce_begin(Broker *b, Partition *p, size_t size, void *memory);
/* Takes the item; done() may run before this returns. */
void produce_submit(Produce *item);
/* Runs done() and frees the item; its result fields are set. */
void produce_finish(Produce *item);
/* Fails an item without a look at its batch. */
void produce_fail(Produce *item, int16_t error, const char *why);
/* The memory lent to produce_begin() is about to go: the item copies what is not in the log yet, or fails. */
void produce_detach(Produce *item);
bool produce_is_pending(const Broker *b); /* something is staged */
void produce_flush(Broker *b);
void produce_synced(Broker *b);  /* a sync round ended */
/* The log's end is not durable: asks for a round as the topic's flush settings say, and follows it. Also for what recovery
 * found past the durable mark, which has been acknowledged perhaps and must be visible again. */
void produce_want_sync(Broker *b, Partition *p);
bool produce_is_durable(const Broker *b); /* every log whose topic waits for stable storage is on it */
void produce_expire(Broker *b, int64_t now_ns);  /* acks=all beyond its deadline: REQUEST_TIMED_OUT */
void produce_drop(Broker *b, Partition *p, int16_t error); /* the partition goes: all its items fail */
