/*
 * The table of topics (a hash by name) and what moves when a partition's log moves. partition_advance() is the one place
 * where a high watermark changes: producers are answered first, then readers woken. See partition.h.
 */

#include "broker/partition.h"

#include "base/hash.h"
#include "base/log.h"
#include "broker/api/api.h"
#include "broker/delivery.h"
#include "wire/error.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define BUCKETS 4096u /* chains stay short up to some ten thousand topics */

int partition_table_init(PartitionTable *t)
{
    *t = (PartitionTable){.buckets_count = BUCKETS};
    t->buckets = calloc(BUCKETS, sizeof(Topic *));
    return t->buckets ? 0 : -ENOMEM;
}

void partition_table_deinit(PartitionTable *t)
{
    for (Topic *topic = topic_next(t, NULL); topic; topic = topic_next(t, NULL)) {
        for (int32_t i = 0; i < topic->partitions_count; i++)
            topic->partitions[i] = partition_free(topic->partitions[i]);
        topic_remove(t, topic);
    }
    free(t->buckets);
    *t = (PartitionTable){0};
}

static Topic **bucket(const PartitionTable *t, const char *name, size_t size)
{
    return &t->buckets[hash64(name, size) & (t->buckets_count - 1)];
}

Topic *topic_find(const PartitionTable *t, const char *name, size_t size)
{
    if (size == 0 || size >= sizeof(((Topic *)0)->name))
        return NULL;
    for (Topic *topic = *bucket(t, name, size); topic; topic = topic->next) {
        if (memcmp(topic->name, name, size) == 0 && topic->name[size] == '\0')
            return topic;
    }
    return NULL;
}

Topic *topic_find_str(const PartitionTable *t, KStr name)
{
    return name.len > 0 ? topic_find(t, name.ptr, (size_t)name.len) : NULL;
}

Topic *topic_find_id(const PartitionTable *t, const Uuid *id)
{
    for (Topic *topic = topic_next(t, NULL); topic; topic = topic_next(t, topic)) {
        if (uuid_equal(&topic->id, id))
            return topic;
    }
    return NULL;
}

Topic *topic_next(const PartitionTable *t, const Topic *after)
{
    size_t i = 0;
    if (after) {
        if (after->next)
            return after->next;
        i = (size_t)(bucket(t, after->name, strlen(after->name)) - t->buckets) + 1;
    }
    for (; i < t->buckets_count; i++) {
        if (t->buckets[i])
            return t->buckets[i];
    }
    return NULL;
}

int topic_add(PartitionTable *t, const char *name, const Uuid *id, bool internal, Topic **ret)
{
    size_t size = strlen(name);
    Topic *topic = calloc(1, sizeof(*topic));
    if (!topic)
        return -ENOMEM;
    assert(size < sizeof(topic->name) && !topic_find(t, name, size));
    memcpy(topic->name, name, size + 1);
    topic->id = *id;
    topic->internal = internal;
    topic->refs = 1;
    Topic **head = bucket(t, name, size);
    topic->next = *head;
    *head = topic;
    t->topics_count++;
    *ret = topic;
    return 0;
}

void topic_remove(PartitionTable *t, Topic *topic)
{
    Topic **at = bucket(t, topic->name, strlen(topic->name));
    while (*at != topic) {
        assert(*at);
        at = &(*at)->next;
    }
    *at = topic->next;
    topic->next = NULL;
    topic->deleted = true;
    t->topics_count--;
    topic_unref(topic);
}

int topic_resize(Topic *topic, int32_t partitions_count)
{
    if (partitions_count <= topic->partitions_count)
        return 0;
    Partition **partitions = realloc(topic->partitions, (size_t)partitions_count * sizeof(Partition *));
    if (!partitions)
        return -ENOMEM;
    for (int32_t i = topic->partitions_count; i < partitions_count; i++)
        partitions[i] = NULL;
    topic->partitions = partitions;
    topic->partitions_count = partitions_count;
    return 0;
}

Topic *topic_unref(Topic *topic)
{
    if (!topic || --topic->refs > 0)
        return NULL;
    assert(topic->deleted);
    for (int32_t i = 0; i < topic->partitions_count; i++)
        assert(!topic->partitions[i]);
    free(topic->partitions);
    free(topic);
    return NULL;
}

Partition *partition_of(const Topic *topic, int32_t index)
{
    return topic && index >= 0 && index < topic->partitions_count ? topic->partitions[index] : NULL;
}

Partition *partition_find(const PartitionTable *t, KStr topic, int32_t index)
{
    return partition_of(topic_find_str(t, topic), index);
}

int partition_new(Topic *topic, int32_t index, Partition **ret)
{
    assert(index >= 0 && index < topic->partitions_count && !topic->partitions[index]);
    Partition *p = calloc(1, sizeof(*p));
    if (!p)
        return -ENOMEM;
    p->topic = topic;
    p->index = index;
    p->flush_due_ns = INT64_MAX;
    List *lists[] = {&p->staged,      &p->wait_local,  &p->wait_hw,      &p->fetch_waits,
                     &p->subscribers, &p->staged_node, &p->unsynced_node};
    for (size_t i = 0; i < ARRAY_SIZE(lists); i++)
        list_init(lists[i]);
    topic->partitions[index] = p;
    *ret = p;
    return 0;
}

Partition *partition_free(Partition *p)
{
    if (!p)
        return NULL;
    list_remove(&p->staged_node);
    list_remove(&p->unsynced_node);
    assert(list_is_empty(&p->staged) && list_is_empty(&p->wait_local) && list_is_empty(&p->wait_hw));
    assert(list_is_empty(&p->fetch_waits) && list_is_empty(&p->subscribers));
    p->log = plog_close(p->log);
    free(p);
    return NULL;
}

static void answer_up_to(List *waiting, int64_t end)
{
    while (!list_is_empty(waiting)) {
        Produce *item = CONTAINER_OF(waiting->next, Produce, node);
        if (item->last_offset >= end)
            break;
        produce_finish(item);
    }
}

void partition_advance(Broker *b, Partition *p)
{
    if (!p->log)
        return;
    int64_t durable_end = plog_durable_end(p->log), end = plog_end(p->log);
    bool moved = replica_progress(&p->replica, b->node_id, end, MIN(durable_end, end));
    answer_up_to(&p->wait_local, replica_local_end(&p->replica));
    answer_up_to(&p->wait_hw, partition_hw(p)); /* INV-REPLICA-3 */
    if (moved) {
        log_dir_set_high_watermark(b->log_dir, p->log, partition_hw(p));
        partition_wake(b, p);
    }
}

void partition_wake(Broker *b, Partition *p)
{
    api_fetch_wake(b, p);
    delivery_wake(b, p);
}

void partition_log_failed(Broker *b, const Partition *p, const char *what, int error)
{
    if (error == -EIO)
        child_fail(b->child, 74, "%s of %s-%d: %s", what, p->topic->name, (int)p->index, strerror(-error));
    jlog_limited(LOG_ERR, "%s of %s-%d: %s", what, p->topic->name, (int)p->index, strerror(-error));
}

int16_t partition_check(const Partition *p, int32_t current_epoch)
{
    if (!p)
        return K_UNKNOWN_TOPIC_OR_PARTITION;
    if (!p->log) /* recovering, or damaged beyond opening */
        return p->topic->unopened > 0 ? K_NOT_LEADER_OR_FOLLOWER : K_KAFKA_STORAGE_ERROR;
    if (!replica_is_leader(&p->replica))
        return K_NOT_LEADER_OR_FOLLOWER;
    if (current_epoch >= 0 && current_epoch < p->replica.leader_epoch)
        return K_FENCED_LEADER_EPOCH;
    if (current_epoch > p->replica.leader_epoch)
        return K_UNKNOWN_LEADER_EPOCH;
    return K_NONE;
}
