/*
 * Questions about offsets: ListOffsets, OffsetForLeaderEpoch, and DeleteRecords, which moves a log's start. All are answered
 * from the leader's log alone (kafka-wire: sections 4.4), never beyond the high watermark.
 */

#include "broker/api/api.h"

#include <errno.h>
#include <stdlib.h>

#include "broker/worker.h"

#define DOUBLES_MAX 1000 /* partitions of a topic that are compared with each other */

enum { /* ListOffsets timestamps with a meaning of their own */
    TIME_LATEST = -1,
    TIME_EARLIEST = -2,
    TIME_MAX_TIMESTAMP = -3, /* KIP-734 */
    TIME_EARLIEST_LOCAL = -4, /* KIP-405: without tiers the same as earliest */
};

/* As many zeroed answers as there are questions. false: no memory, and the request has ended. */
#define ROOM_FOR(r, answers, questions) \
    (((answers).items = room_for(r, (questions).n, sizeof(*(answers).items), &(answers).n)) != NULL)

static void *room_for(Request *r, int32_t n, size_t size, int32_t *ret_n)
{
    void *items = request_alloc(r, (size_t)MAX(n, 0), size);
    *ret_n = MAX(n, 0);
    if (!items)
        request_abandon(r, "out of memory");
    return items;
}

static KafkaError error_of_log(Request *r, const Partition *p, const char *what, int e)
{
    if (e < 0)
        partition_log_failed(r->broker, p, what, e);
    return e == 0 ? K_NONE : e == PLOG_E_CORRUPT ? K_CORRUPT_MESSAGE : e == PLOG_E_OUT_OF_RANGE ? K_OFFSET_OUT_OF_RANGE : K_KAFKA_STORAGE_ERROR;
}

static void at_time(Request *r, Partition *p, int e, const PlogTimeOffset *t, KListOffsetsResponseTopicsPartitions *ret)
{
    ret->error_code = error_of_log(r, p, "look-up by time", e);
    if (e == 0 && t->offset >= 0) {
        ret->offset = t->offset;
        ret->timestamp = t->timestamp;
        ret->leader_epoch = t->leader_epoch >= 0 ? t->leader_epoch : plog_epoch_at(p->log, t->offset);
    }
}

static bool is_listed_twice(const KListOffsetsRequestTopics *t, int32_t at)
{
    for (int32_t i = 0; i < t->partitions.n; i++) {
        if (i != at && t->partitions.items[i].partition_index == t->partitions.items[at].partition_index)
            return true;
    }
    return false;
}

static bool time_is_known(int16_t version, int64_t timestamp)
{
    static const int16_t since[] = {[-TIME_LATEST] = 1, [-TIME_EARLIEST] = 1, [-TIME_MAX_TIMESTAMP] = 7, [-TIME_EARLIEST_LOCAL] = 8};
    return timestamp >= 0 || (timestamp > -(int64_t)ARRAY_SIZE(since) && version >= since[-timestamp]);
}

static void list_one(Request *r, const KListOffsetsRequestTopics *topic, int32_t at, KListOffsetsResponseTopicsPartitions *ret)
{
    const KListOffsetsRequestTopicsPartitions *q = &topic->partitions.items[at];
    Partition *p = partition_find(&r->broker->partitions, topic->name, q->partition_index);
    PlogTimeOffset t = {.offset = -1, .timestamp = -1, .leader_epoch = -1};
    *ret = (KListOffsetsResponseTopicsPartitions){
        .partition_index = q->partition_index, .timestamp = -1, .offset = -1, .leader_epoch = -1};
    if (topic->partitions.n <= DOUBLES_MAX && is_listed_twice(topic, at))
        ret->error_code = K_INVALID_REQUEST;
    else if (!time_is_known(r->version, q->timestamp))
        ret->error_code = K_UNSUPPORTED_VERSION;
    else
        ret->error_code = partition_check(p, r->version >= 4 ? q->current_leader_epoch : -1);
    if (ret->error_code != K_NONE)
        return;
    switch (q->timestamp) {
    case TIME_LATEST: /* without transactions the last stable offset is the high watermark */
        ret->offset = partition_hw(p);
        ret->leader_epoch = p->replica.leader_epoch;
        return;
    case TIME_EARLIEST:
    case TIME_EARLIEST_LOCAL:
        ret->offset = plog_start(p->log);
        ret->leader_epoch = plog_epoch_at(p->log, ret->offset);
        return;
    case TIME_MAX_TIMESTAMP:
        at_time(r, p, plog_max_timestamp(p->log, partition_hw(p), &t), &t, ret);
        return;
    default:
        at_time(r, p, plog_offset_for_time(p->log, q->timestamp, partition_hw(p), &t), &t, ret);
    }
}

void api_list_offsets_handle(Request *r)
{
    const KListOffsetsRequest *q = r->body;
    KListOffsetsResponse a = {0};
    if (!ROOM_FOR(r, a.topics, q->topics))
        return;
    for (int32_t i = 0; i < a.topics.n; i++) {
        const KListOffsetsRequestTopics *from = &q->topics.items[i];
        KListOffsetsResponseTopics *to = &a.topics.items[i];
        to->name = from->name;
        if (!ROOM_FOR(r, to->partitions, from->partitions))
            return;
        for (int32_t j = 0; j < to->partitions.n; j++)
            list_one(r, from, j, &to->partitions.items[j]);
    }
    request_reply(r, &a);
}

/* --- OffsetForLeaderEpoch --- */

static void epoch_one(Request *r, KStr topic, const KOffsetForLeaderEpochRequestTopicsPartitions *q,
                      KOffsetForLeaderEpochResponseTopicsPartitions *ret)
{
    const Partition *p = partition_find(&r->broker->partitions, topic, q->partition);
    *ret = (KOffsetForLeaderEpochResponseTopicsPartitions){.partition = q->partition, .leader_epoch = -1, .end_offset = -1};
    ret->error_code = partition_check(p, q->current_leader_epoch);
    if (ret->error_code == K_NONE)
        plog_end_for_epoch(p->log, q->leader_epoch, &ret->leader_epoch, &ret->end_offset);
}

void api_epoch_end_handle(Request *r)
{
    const KOffsetForLeaderEpochRequest *q = r->body;
    KOffsetForLeaderEpochResponse a = {0};
    if (!ROOM_FOR(r, a.topics, q->topics))
        return;
    for (int32_t i = 0; i < a.topics.n; i++) {
        const KOffsetForLeaderEpochRequestTopics *from = &q->topics.items[i];
        KOffsetForLeaderEpochResponseTopics *to = &a.topics.items[i];
        to->topic = from->topic;
        if (!ROOM_FOR(r, to->partitions, from->partitions))
            return;
        for (int32_t j = 0; j < to->partitions.n; j++)
            epoch_one(r, from->topic, &from->partitions.items[j], &to->partitions.items[j]);
    }
    request_reply(r, &a);
}

/* --- DeleteRecords --- */

static void delete_one(Request *r, KStr topic, const KDeleteRecordsRequestTopicsPartitions *q, KDeleteRecordsResponseTopicsPartitions *ret)
{
    Partition *p = partition_find(&r->broker->partitions, topic, q->partition_index);
    *ret = (KDeleteRecordsResponseTopicsPartitions){.partition_index = q->partition_index, .low_watermark = -1};
    ret->error_code = partition_check(p, -1);
    if (ret->error_code != K_NONE)
        return;
    if (p->topic->internal || !p->topic->rules.deletes) { /* compaction alone decides there */
        ret->error_code = p->topic->internal ? K_INVALID_TOPIC_EXCEPTION : K_POLICY_VIOLATION;
        return;
    }
    int64_t to = q->offset == -1 ? partition_hw(p) : q->offset;
    if (to < 0 || to > partition_hw(p)) {
        ret->error_code = K_OFFSET_OUT_OF_RANGE;
        return;
    }
    if (to > plog_start(p->log))
        ret->error_code = error_of_log(r, p, "delete records", plog_set_start(p->log, to));
    if (ret->error_code != K_NONE)
        return;
    ret->low_watermark = plog_start(p->log);
    partition_wake(r->broker, p);
}

/* The answer waits for the checkpoint file, the reactor does not: the worker waits in its place, once for all partitions. */
typedef struct Deletion {
    WorkerJob job;
    LogDir *dir;
    Request *request; /* NULL: its source died */
    KDeleteRecordsResponse answer; /* its arrays are in the request's arena */
    int result;
} Deletion;

static void wait_for_checkpoint(WorkerJob *job)
{
    Deletion *d = CONTAINER_OF(job, Deletion, job);
    d->result = log_dir_checkpoint_wait(d->dir);
}

static void on_checkpoint(WorkerJob *job)
{
    Deletion *d = CONTAINER_OF(job, Deletion, job);
    Request *r = d->request;
    if (r) {
        r->state = NULL;
        r->cancel = NULL;
        if (d->result < 0)
            request_refuse(r, K_KAFKA_STORAGE_ERROR, "the new start cannot be kept: no space, memory or descriptors for the checkpoint");
        else
            request_reply(r, &d->answer);
    }
    free(d);
}

static void forget_request(Request *r)
{
    Deletion *d = r->state;
    d->request = NULL;
}

static void reply_when_kept(Request *r, const KDeleteRecordsResponse *a)
{
    Deletion *d = malloc(sizeof(*d));
    if (!d) {
        request_abandon(r, "out of memory");
        return;
    }
    *d = (Deletion){.job = {.run = wait_for_checkpoint, .done = on_checkpoint}, .dir = r->broker->log_dir, .request = r, .answer = *a};
    r->state = d;
    r->cancel = forget_request;
    worker_submit(r->broker->worker, &d->job);
}

void api_delete_records_handle(Request *r)
{
    const KDeleteRecordsRequest *q = r->body;
    KDeleteRecordsResponse a = {0};
    if (!ROOM_FOR(r, a.topics, q->topics))
        return;
    for (int32_t i = 0; i < a.topics.n; i++) {
        const KDeleteRecordsRequestTopics *from = &q->topics.items[i];
        KDeleteRecordsResponseTopics *to = &a.topics.items[i];
        to->name = from->name;
        if (!ROOM_FOR(r, to->partitions, from->partitions))
            return;
        for (int32_t j = 0; j < to->partitions.n; j++)
            delete_one(r, from->name, &from->partitions.items[j], &to->partitions.items[j]);
    }
    reply_when_kept(r, &a);
}
