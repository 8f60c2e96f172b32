#pragma once

/* Records for tests: packed, and a random walk of records that are valid for an image. */

#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "meta/image.h"
#include "wire/messages.h"

static inline Buf rec(const KMessage *m, const void *message)
{
    Buf b = BUF_NULL;
    ck_assert_int_eq(k_pack(m, 0, message, &b), 0);
    return b;
}

static inline Uuid uuid_of(uint64_t n)
{
    Uuid u = {{0}};
    for (int i = 0; i < 8; i++)
        u.b[8 + i] = (uint8_t)(n >> (56 - 8 * i));
    u.b[0] = 0xaa;
    return u;
}

static inline Buf rec_cluster(const char *id)
{
    KMetaClusterRecord m = {.cluster_id = k_str(id), .created_ms = 5};
    return rec(&k_meta_cluster_record, &m);
}

static inline Buf rec_feature(const char *name, int16_t level)
{
    KMetaFeatureLevelRecord m = {.name = k_str(name), .level = level};
    return rec(&k_meta_feature_level_record, &m);
}

static inline Buf rec_register(int32_t id, uint64_t incarnation, const char *rack)
{
    KMetaRegisterBrokerRecordLogDirs dir = {.id = uuid_of(incarnation + 1000), .state = META_DIR_CLEAN};
    KMetaRegisterBrokerRecordEndpoints end = {.name = k_str("PLAINTEXT"), .host = k_str("localhost"), .port = 9092};
    KMetaRegisterBrokerRecord m = {.broker_id = id, .incarnation_id = uuid_of(incarnation), .rack = k_str(rack), .fenced = true};
    m.log_dirs.items = &dir;
    m.log_dirs.n = 1;
    m.endpoints.items = &end;
    m.endpoints.n = 1;
    return rec(&k_meta_register_broker_record, &m);
}

static inline Buf rec_broker_change(int32_t id, int64_t epoch, int8_t fenced, int8_t shutdown)
{
    KMetaBrokerChangeRecord m = {.broker_id = id, .broker_epoch = epoch, .fenced = fenced, .controlled_shutdown = shutdown};
    return rec(&k_meta_broker_change_record, &m);
}

static inline Buf rec_topic(const char *name, Uuid id)
{
    KMetaTopicRecord m = {.name = k_str(name), .topic_id = id};
    return rec(&k_meta_topic_record, &m);
}

static inline Buf rec_partition(Uuid id, int32_t partition, int32_t *replicas, int n, int n_isr, int32_t leader)
{
    KMetaPartitionRecord m = {.topic_id = id, .partition = partition, .replicas = {replicas, n}, .isr = {replicas, n_isr},
                              .leader = leader};
    return rec(&k_meta_partition_record, &m);
}

static inline Buf rec_config(int8_t type, const char *resource, const char *name, const char *value)
{
    KMetaConfigRecord m = {.resource_type = type, .resource_name = k_str(resource), .name = k_str(name), .value = k_str(value)};
    return rec(&k_meta_config_record, &m);
}

static inline Buf rec_remove(Uuid id)
{
    KMetaRemoveTopicRecord m = {.topic_id = id};
    return rec(&k_meta_remove_topic_record, &m);
}

static inline Buf rec_producer_ids(int64_t next)
{
    KMetaProducerIdsRecord m = {.broker_id = 1, .next_producer_id = next};
    return rec(&k_meta_producer_ids_record, &m);
}

static inline Buf rec_answer(int64_t number, int64_t call, int32_t size)
{
    static const char body[META_ANSWER_SIZE_MAX + 1];
    KMetaAnswerRecord m = {.number = number, .sender = uuid_of(3), .call = call, .api_key = 19, .body = {body, size}};
    return rec(&k_meta_answer_record, &m);
}

/* Isr loses or regains its last member, leader follows. */
static inline Buf rec_shrink(const MetaTopic *t, int32_t partition)
{
    const MetaPartition *p = &t->partitions[partition];
    KMetaPartitionChangeRecord m;
    k_message_init(&k_meta_partition_change_record, &m);
    m.topic_id = t->id;
    m.partition = partition;
    int n = p->n_isr > 1 ? p->n_isr - 1 : p->n_replicas;
    m.isr = (KInt32Array){p->replicas, n};
    m.elr = (KInt32Array){p->replicas + n, p->n_replicas - n};
    m.last_known_elr = (KInt32Array){NULL, 0};
    m.leader = p->leader == p->replicas[0] ? -2 : p->replicas[0];
    return rec(&k_meta_partition_change_record, &m);
}

static inline const MetaTopic *any_topic(const MetaImage *image, Rng *rng)
{
    const MetaTopic *t = NULL;
    uint64_t n = meta_topics(image) ? rng_below(rng, meta_topics(image)) : 0;
    for (uint64_t i = 0; i <= n; i++)
        t = meta_topic_next(image, t);
    return t;
}

/* The next record of a random walk that starts with rec_cluster(). */
static inline Buf rec_random(const MetaImage *image, Rng *rng, uint64_t *serial)
{
    static const char *const names[] = {"retention.ms", "segment.bytes", "cleanup.policy"};
    char name[64], value[32];
    int32_t replicas[3] = {1, 2, 3};
    const MetaTopic *t = any_topic(image, rng);
    uint64_t kind = rng_below(rng, 13);
    snprintf(value, sizeof(value), "%d", (int)rng_below(rng, 5));
    snprintf(name, sizeof(name), "t%d", (int)rng_below(rng, 30));
    if (kind < 2 && !meta_topic(image, name, strlen(name)))
        return rec_topic(name, uuid_of(++*serial));
    if (kind < 6 && t)
        return rec_partition(t->id, t->n_partitions, replicas, 3, 3, 1);
    if (kind < 8 && t && t->n_partitions > 0)
        return rec_shrink(t, (int32_t)rng_below(rng, (uint64_t)t->n_partitions));
    if (kind < 10 && t)
        return rec_config(2, t->name, names[rng_below(rng, 3)], rng_below(rng, 3) ? value : NULL);
    if (kind == 10 && t && rng_below(rng, 2))
        return rec_remove(t->id);
    if (kind == 12) /* now and then one that reuses a slot */
        return rec_answer(meta_next_answer(image) + (int64_t)rng_below(rng, META_ANSWERS_MAX), (int64_t)*serial, 1 + (int32_t)rng_below(rng, 90));
    const MetaBroker *b = meta_broker(image, 1);
    switch (rng_below(rng, 5)) {
    case 0:
        return rec_config(4, rng_below(rng, 2) ? "" : "1", "log.retention.ms", rng_below(rng, 2) ? value : NULL);
    case 1:
        return rec_register((int32_t)rng_below(rng, 4), ++*serial, rng_below(rng, 2) ? "rack" : NULL);
    case 2:
        if (!b)
            return rec_producer_ids(meta_next_producer_id(image) + 1000);
        return rec_broker_change(1, b->epoch, (int8_t)((int)rng_below(rng, 3) - 1), (int8_t)rng_below(rng, 2));
    case 3:
        return rec_producer_ids(meta_next_producer_id(image) + 1000);
    default:
        return rec_feature("metadata.version", (int16_t)rng_below(rng, 9));
    }
}
