/*
 * Staging, validation and appending. See produce.h for the road of a batch.
 *
 * INV-PRODUCE-1 batches of one partition reach the log in the order in which they were submitted
 * INV-PRODUCE-2 after a flush nothing points into the stage: what stays queued stands behind a batch that is on the worker,
 *               and everything from that batch on has memory of its own
 * INV-PRODUCE-3 done() runs exactly once for every submitted item
 */

#include "broker/produce.h"

#include "base/clock.h"
#include "broker/api/api.h"
#include "broker/registration.h"
#include "broker/session.h"
#include "wire/compress.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define APPEND_MAX      128          /* batches in one plog_append() */
#define FREE_ITEMS_MAX  4096
#define INLINE_SIZE_MAX (16u << 10)  /* compressed batches up to this are tried on the reactor ... */
#define INLINE_EXPANDED_MAX (256u << 10) /* ... if they expand to no more than this */

int produce_init(Broker *b)
{
    ProduceQueue *q = &b->produce;
    list_init(&q->partitions);
    list_init(&q->unsynced);
    list_init(&q->free_items);
    q->stage = malloc(PRODUCE_STAGE_SIZE);
    return q->stage ? 0 : -ENOMEM;
}

void produce_deinit(Broker *b)
{
    ProduceQueue *q = &b->produce;
    if (!q->stage)
        return;
    for (List *l; (l = list_pop(&q->free_items)) != NULL;)
        free(CONTAINER_OF(l, Produce, node));
    free(q->stage);
    *q = (ProduceQueue){0};
}

static Produce *item_new(Broker *b)
{
    ProduceQueue *q = &b->produce;
    List *l = list_pop(&q->free_items);
    Produce *item;
    if (l) {
        item = CONTAINER_OF(l, Produce, node);
        q->free_count--;
        memset(item, 0, sizeof(*item));
    } else {
        item = calloc(1, sizeof(*item));
        if (!item)
            return NULL;
    }
    list_init(&item->node);
    list_init(&item->owner_node);
    item->broker = b;
    item->deadline_ns = INT64_MAX;
    item->base_offset = item->log_append_ms = -1;
    return item;
}

static void release_batch(Produce *item)
{
    if (item->heap) {
        item->broker->produce.heap_bytes -= item->size;
        free(item->batch);
        sessions_wake(item->broker->sessions);
    }
    item->batch = NULL;
    item->heap = false;
}

static void item_free(Produce *item)
{
    ProduceQueue *q = &item->broker->produce;
    release_batch(item);
    buf_deinit(&item->bad_records);
    if (q->free_count >= FREE_ITEMS_MAX) {
        free(item);
        return;
    }
    list_append(&q->free_items, &item->node);
    q->free_count++;
}

static bool take_heap(Produce *item, const void *copy_from)
{
    ProduceQueue *q = &item->broker->produce;
    if (q->heap_bytes + item->size > (uint64_t)item->broker->settings.queued_max_bytes && q->heap_bytes > 0)
        return false;
    uint8_t *memory = malloc(item->size);
    if (!memory)
        return false;
    if (copy_from)
        memcpy(memory, copy_from, item->size);
    item->batch = memory;
    item->heap = true;
    item->borrowed = false;
    q->heap_bytes += item->size;
    return true;
}

Produce *produce_begin(Broker *b, Partition *p, size_t size, void *memory)
{
    ProduceQueue *q = &b->produce;
    Produce *item = item_new(b);
    if (!item)
        return NULL;
    item->partition = p;
    item->size = size;
    if (memory) {
        item->batch = memory;
        item->borrowed = true;
    } else if (!(p && p->validating) && size <= PRODUCE_STAGE_SIZE / 4) {
        if (q->stage_used + size > PRODUCE_STAGE_SIZE)
            produce_flush(b);
        item->batch = q->stage + q->stage_used;
        q->stage_used += align_up(size, 64);
    } else if (!take_heap(item, NULL)) {
        item_free(item);
        return NULL;
    }
    q->waiting++;
    return item;
}

void produce_finish(Produce *item)
{
    Broker *b = item->broker;
    assert(item->state != PRODUCE_DONE && item->state != PRODUCE_VALIDATING);
    item->state = PRODUCE_DONE;
    list_remove(&item->node);
    list_remove(&item->owner_node);
    b->produce.waiting--;
    if (item->error != K_NONE)
        item->base_offset = item->log_append_ms = -1;
    if (item->done)
        item->done(item);
    item_free(item);
}

void produce_fail(Produce *item, int16_t error, const char *why)
{
    item->error = error;
    item->why = why;
    produce_finish(item);
}

void produce_detach(Produce *item)
{
    list_remove(&item->owner_node);
    if (!item->borrowed || item->state == PRODUCE_APPENDED)
        return;
    assert(item->state == PRODUCE_READY); /* on the worker they have memory of their own */
    if (!take_heap(item, item->batch))
        produce_fail(item, K_UNKNOWN_SERVER_ERROR, NULL);
}

/* --- validation --- */

static KafkaError may_append(Broker *b, const Produce *item)
{
    const Partition *p = item->partition;
    KafkaError e = partition_check(p, -1);
    if (e != K_NONE)
        return e;
    if (item->acks < -1 || item->acks > 1)
        return K_INVALID_REQUIRED_ACKS;
    if (p->topic->internal && !item->privileged)
        return K_INVALID_TOPIC_EXCEPTION;
    if (b->disk_low && !p->topic->internal)
        return K_KAFKA_STORAGE_ERROR; /* D7 */
    if (item->acks == -1 && replica_in_sync_count(&p->replica) < p->topic->rules.min_insync_replicas)
        return K_NOT_ENOUGH_REPLICAS;
    return K_NONE;
}

static KafkaError check_batch(Produce *item)
{
    const Partition *p = item->partition;
    const TopicRules *rules = &p->topic->rules;
    item->rules = (BatchRules){.compacted = rules->compacted,
                               .log_append_time = rules->log_append_time,
                               .from_client = true,
                               .now_ms = clock_wall_ms(),
                               .before_max_ms = rules->before_max_ms,
                               .after_max_ms = rules->after_max_ms};
    int r = batch_header_decode(item->batch, item->size, &item->header);
    if (r < 0) {
        item->why = r == -EAGAIN ? "shorter than a batch header" : "not a record batch of magic 2";
        return r == -EAGAIN ? K_CORRUPT_MESSAGE : K_INVALID_RECORD;
    }
    KafkaError e = batch_check_header(&item->header, item->size, &item->rules, &item->check);
    if (e != K_NONE)
        return e;
    if (item->size > (size_t)rules->max_message_bytes) {
        item->why = "larger than max.message.bytes";
        return K_MESSAGE_TOO_LARGE;
    }
    if (item->size > (uint64_t)rules->plog.segment_bytes) {
        item->why = "larger than segment.bytes";
        return K_RECORD_LIST_TOO_LARGE;
    }
    if (!batch_crc_is_valid(item->batch, &item->header)) {
        item->why = "CRC does not match";
        return K_CORRUPT_MESSAGE;
    }
    if (item->header.attributes & BATCH_ATTR_TXN) {
        item->why = "transactions are not offered";
        return K_INVALID_TXN_STATE;
    }
    return K_NONE;
}

static BatchCodec codec_of(const Produce *item)
{
    return (BatchCodec)(item->header.attributes & BATCH_ATTR_CODEC_MASK);
}

static KafkaError recompress(Produce *item)
{
    Buf out = BUF_NULL;
    int r = batch_compress(item->batch, item->size, (BatchCodec)item->store_codec, item->store_level, &out);
    BatchHeader header;
    if (r < 0 || batch_header_decode(out.data, out.size, &header) < 0) {
        buf_deinit(&out);
        return r == -ENOMEM ? K_UNKNOWN_SERVER_ERROR : K_CORRUPT_MESSAGE;
    }
    /* heap_bytes is the reactor's: the caller there accounts for the exchange */
    if (item->heap)
        free(item->batch);
    item->batch = out.data;
    item->size = out.size;
    item->header = header;
    return K_NONE;
}

static KafkaError walk_records(Produce *item, const void *records, size_t size)
{
    KafkaError e = batch_check_records(&item->header, records, size, &item->rules, &item->check);
    if (e != K_NONE && item->check.bad_record >= 0)
        (void)batch_list_refused(&item->header, records, size, &item->rules, &item->bad_records); /* fewer are named then */
    return e;
}

/* Every record, on whichever thread; touches the item alone. */
static KafkaError check_records(Produce *item, size_t expanded_max, bool *ret_too_large)
{
    const uint8_t *records = item->batch + BATCH_HEADER_SIZE;
    size_t size = item->size - BATCH_HEADER_SIZE;
    *ret_too_large = false;
    if (codec_of(item) == CODEC_NONE)
        return walk_records(item, records, size);

    Buf expanded = BUF_NULL;
    KafkaError e;
    int r = codec_decompress(codec_of(item), records, size, expanded_max, &expanded);
    if (r == 0) {
        e = walk_records(item, expanded.data, expanded.size);
    } else if (r == -EFBIG) {
        *ret_too_large = true;
        item->check.why = "expands to more than a batch may";
        e = K_MESSAGE_TOO_LARGE;
    } else {
        item->check.why = "compressed records are damaged";
        e = r == -ENOMEM ? K_UNKNOWN_SERVER_ERROR : K_CORRUPT_MESSAGE;
    }
    buf_deinit(&expanded);
    return e;
}

static void queue_partition(Broker *b, Partition *p)
{
    if (list_is_empty(&p->staged_node))
        list_append(&b->produce.partitions, &p->staged_node);
}

/* Timestamps that the broker owns; may recompute the CRC. */
static void stamp(Produce *item)
{
    BatchHeader *h = &item->header;
    bool append_time = item->rules.log_append_time;
    int64_t max = append_time ? item->rules.now_ms : item->check.max_timestamp_seen;
    if (append_time)
        item->log_append_ms = max;
    if (!append_time && (!item->walk || h->max_timestamp == max))
        return;
    batch_set_max_timestamp(item->batch, max, append_time);
    int r = batch_header_decode(item->batch, item->size, h);
    assert(r == 0);
}

static int target_codec(const Produce *item)
{
    int codec = item->partition->topic->rules.compression;
    return codec >= 0 && codec != (int)codec_of(item) ? codec : -1;
}

static void validated(Produce *item, KafkaError e)
{
    if (e != K_NONE) {
        produce_fail(item, e, item->check.why);
        return;
    }
    item->state = PRODUCE_READY;
    stamp(item);
    queue_partition(item->broker, item->partition);
}

static void on_worker(WorkerJob *job)
{
    Produce *item = CONTAINER_OF(job, Produce, job);
    bool too_large;
    KafkaError e = K_NONE;
    if (item->walk)
        e = check_records(item, PRODUCE_EXPANDED_MAX, &too_large);
    if (e == K_NONE && item->store_codec >= 0)
        e = recompress(item);
    item->error = e;
}

static void back_on_loop(WorkerJob *job)
{
    Produce *item = CONTAINER_OF(job, Produce, job);
    Partition *p = item->partition;
    Broker *b = item->broker;
    b->produce.heap_bytes += item->size - item->size_counted;
    item->size_counted = item->size;
    item->state = PRODUCE_READY;
    if (!p) { /* the topic went meanwhile */
        produce_fail(item, K_UNKNOWN_TOPIC_OR_PARTITION, NULL);
        return;
    }
    p->validating = false;
    list_for_each(l, &p->staged) {
        if (CONTAINER_OF(l, Produce, node)->state == PRODUCE_VALIDATING)
            p->validating = true;
    }
    KafkaError e = item->error;
    item->error = K_NONE;
    validated(item, e);
    queue_partition(b, p); /* what stands behind it may go now, also when it failed */
}

static void to_worker(Produce *item)
{
    if (!item->heap && !take_heap(item, item->batch)) {
        produce_fail(item, K_KAFKA_STORAGE_ERROR, "out of memory for requests (queued.max.request.bytes)");
        return;
    }
    item->size_counted = item->size;
    item->state = PRODUCE_VALIDATING;
    item->partition->validating = true;
    item->job.run = on_worker;
    item->job.done = back_on_loop;
    worker_submit(item->broker->worker, &item->job);
}

void produce_submit(Produce *item)
{
    KafkaError e = may_append(item->broker, item);
    if (e == K_NONE)
        e = check_batch(item);
    if (e != K_NONE) {
        produce_fail(item, e, item->why ? item->why : item->check.why);
        return;
    }
    list_append(&item->partition->staged, &item->node);
    item->store_codec = target_codec(item);
    item->store_level = item->partition->topic->rules.compression_level;
    item->walk = item->broker->settings.validate_records || item->rules.compacted;
    bool plain = codec_of(item) == CODEC_NONE || !item->walk;
    if (item->store_codec >= 0 || (!plain && item->size > INLINE_SIZE_MAX)) {
        to_worker(item);
        return;
    }
    bool too_large = false;
    if (item->walk)
        e = check_records(item, INLINE_EXPANDED_MAX, &too_large);
    if (too_large)
        to_worker(item);
    else
        validated(item, e);
}

/* --- appending --- */

static void appended(Produce *item, int64_t base_offset)
{
    Broker *b = item->broker;
    Partition *p = item->partition;
    item->state = PRODUCE_APPENDED;
    item->base_offset = base_offset;
    item->last_offset = base_offset + item->header.last_offset_delta;
    list_remove(&item->node);
    release_batch(item);
    if (!item->duplicate) {
        counter_add(b->row, COUNTER_BATCHES_IN, 1);
        counter_add(b->row, COUNTER_RECORDS_IN, (uint64_t)item->header.records_count);
        p->unflushed_records += item->header.records_count;
    }
    if (item->acks == 0)
        produce_finish(item);
    else
        list_append(item->acks == 1 ? &p->wait_local : &p->wait_hw, &item->node);
}

static KafkaError error_of_append(int r)
{
    switch (r) {
    case PLOG_E_OUT_OF_ORDER:
        return K_OUT_OF_ORDER_SEQUENCE_NUMBER;
    case PLOG_E_PRODUCER_EPOCH:
        return K_INVALID_PRODUCER_EPOCH;
    case PLOG_E_TOO_LARGE:
        return K_RECORD_LIST_TOO_LARGE;
    case PLOG_E_NO_SPACE:
        return K_KAFKA_STORAGE_ERROR;
    default:
        return K_UNKNOWN_SERVER_ERROR;
    }
}

static void refused(Produce *item, int r, int64_t offset)
{
    if (r == PLOG_E_DUPLICATE) {
        item->duplicate = true;
        item->log_append_ms = -1;
        appended(item, offset);
        return;
    }
    if (r == PLOG_E_NO_SPACE)
        item->broker->disk_low = true;
    produce_fail(item, error_of_append(r), NULL);
}

static void append_some(Broker *b, Partition *p, Produce **items, PlogAppend *appends, size_t n)
{
    int64_t offsets[APPEND_MAX];
    size_t at = 0;
    while (at < n) {
        size_t done = 0;
        int r = plog_append(p->log, appends + at, n - at, offsets + at, &done);
        for (size_t i = 0; i < done; i++)
            appended(items[at + i], offsets[at + i]);
        at += done;
        if (r < 0) {
            partition_log_failed(b, p, "append", r);
            for (; at < n; at++)
                produce_fail(items[at], K_KAFKA_STORAGE_ERROR, strerror(-r));
        }
        if (r > 0) {
            assert(at < n);
            refused(items[at], r, offsets[at]);
            at++;
        }
    }
}

void produce_want_sync(Broker *b, Partition *p)
{
    if (plog_durable_end(p->log) >= plog_end(p->log))
        return;
    if (list_is_empty(&p->unsynced_node))
        list_append(&b->produce.unsynced, &p->unsynced_node);
    const PlogConfig *c = &p->topic->rules.plog;
    bool now = p->topic->rules.wait_durable || p->unflushed_records >= c->flush_messages;
    if (now) {
        log_dir_want_sync(b->log_dir, p->log);
        p->unflushed_records = 0;
        p->flush_due_ns = INT64_MAX;
    } else if (p->flush_due_ns == INT64_MAX && c->flush_ms < INT64_MAX / NS_PER_MS) {
        p->flush_due_ns = broker_now_ns(b) + c->flush_ms * NS_PER_MS;
    }
}

static void flush_partition(Broker *b, Partition *p)
{
    Produce *items[APPEND_MAX];
    PlogAppend appends[APPEND_MAX];
    int64_t now_ms = clock_wall_ms();
    for (;;) {
        size_t n = 0;
        list_for_each(l, &p->staged) {
            Produce *item = CONTAINER_OF(l, Produce, node);
            if (item->state != PRODUCE_READY || n == APPEND_MAX)
                break;
            items[n] = item;
            appends[n++] = (PlogAppend){.batch = item->batch,
                                        .size = item->size,
                                        .header = &item->header,
                                        .leader_epoch = p->replica.leader_epoch,
                                        .now_ms = now_ms,
                                        .from_client = true};
        }
        if (n == 0)
            break;
        append_some(b, p, items, appends, n);
    }
    produce_want_sync(b, p);
    partition_advance(b, p);
}

bool produce_is_pending(const Broker *b)
{
    return !list_is_empty(&b->produce.partitions);
}

void produce_flush(Broker *b)
{
    ProduceQueue *q = &b->produce;
    for (List *l; (l = list_pop(&q->partitions)) != NULL;)
        flush_partition(b, CONTAINER_OF(l, Partition, staged_node));
    q->stage_used = 0; /* INV-PRODUCE-2 */
}

void produce_synced(Broker *b)
{
    list_for_each_safe(l, &b->produce.unsynced) {
        Partition *p = CONTAINER_OF(l, Partition, unsynced_node);
        partition_advance(b, p);
        if (plog_durable_end(p->log) >= plog_end(p->log))
            list_remove(&p->unsynced_node);
    }
    registration_look(b->registration);
}

bool produce_is_durable(const Broker *b)
{
    list_for_each(l, &b->produce.unsynced) {
        if (CONTAINER_OF(l, Partition, unsynced_node)->topic->rules.wait_durable)
            return false;
    }
    return true;
}

void produce_expire(Broker *b, int64_t now_ns)
{
    list_for_each(l, &b->produce.unsynced) {
        Partition *p = CONTAINER_OF(l, Partition, unsynced_node);
        if (p->flush_due_ns <= now_ns) {
            p->unflushed_records = p->topic->rules.plog.flush_messages;
            produce_want_sync(b, p);
        }
        list_for_each_safe(w, &p->wait_hw) {
            Produce *item = CONTAINER_OF(w, Produce, node);
            if (item->deadline_ns <= now_ns)
                produce_fail(item, K_REQUEST_TIMED_OUT, NULL);
        }
    }
}

void produce_drop(Broker *b, Partition *p, int16_t error)
{
    (void)b;
    List *lists[] = {&p->staged, &p->wait_local, &p->wait_hw};
    for (size_t i = 0; i < ARRAY_SIZE(lists); i++) {
        list_for_each_safe(l, lists[i]) {
            Produce *item = CONTAINER_OF(l, Produce, node);
            if (item->state == PRODUCE_VALIDATING) {
                item->partition = NULL; /* the worker still reads it: back_on_loop() ends it */
                list_remove(&item->node);
            } else {
                produce_fail(item, error, NULL);
            }
        }
    }
    list_remove(&p->staged_node);
    list_remove(&p->unsynced_node);
}
