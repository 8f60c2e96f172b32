#pragma once

/* A core on a fresh image, asked in structs: encodes the request, applies the records, decodes the answer. */

#include <check.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "controller/state/ctl.h"
#include "meta/config_keys.h"
#include "wire/error.h"
#include "wire/messages.h"

#define ALL_RIGHTS 15

typedef struct Cluster {
    Conf conf;
    Ctl *ctl;
    CtlOut out;
    Arena arena; /* of the last answer */
    int64_t now_ms;
    int32_t rights;
    bool own_host;
    Uuid sender; /* zero: requests have no name */
    int64_t call;
} Cluster;

static inline void cluster_apply(Cluster *c)
{
    for (size_t i = 0; i < c->out.n_records; i++)
        ck_assert_int_eq(ctl_apply(c->ctl, meta_index(ctl_image(c->ctl)) + 1, c->out.bytes.data + c->out.records[i].offset,
                                   c->out.records[i].size), 0);
}

static inline void cluster_open(Cluster *c)
{
    MetaImage *image;
    *c = (Cluster){.rights = ALL_RIGHTS, .now_ms = 1000};
    conf_set(&c->conf, "broker.session.timeout.ms", "1500", "test", 1);
    ck_assert_int_eq(meta_image_new(&image), 0);
    CtlOptions o = {.conf = &c->conf, .node_id = 1, .seed = 42, .now_ms = c->now_ms};
    ck_assert_int_eq(ctl_new(&o, image, &c->ctl), 0);
    ck_assert_int_eq(ctl_bootstrap(c->ctl, "cluster", 1, &c->out), 0);
    cluster_apply(c);
}

static inline void cluster_close(Cluster *c)
{
    ctl_free(c->ctl);
    ctl_out_deinit(&c->out);
    arena_deinit(&c->arena);
    conf_deinit(&c->conf);
}

static inline const MetaImage *image_of(const Cluster *c)
{
    return ctl_image(c->ctl);
}

/* Decides and decodes; does not apply. @ret: the answer's struct. */
static inline void cluster_decide(Cluster *c, int16_t key, int16_t version, const void *request, void *ret)
{
    const KApi *api = k_api_find(key);
    Buf body = BUF_NULL;
    ck_assert_int_eq(k_encode(api->request, version, request, &body), 0);
    CtlRequest q = {.api_key = key, .api_version = version, .rights = c->rights, .own_host = c->own_host, .body = body.data,
                    .size = body.size, .now_ms = c->now_ms, .sender = c->sender, .call = c->call};
    ck_assert_int_eq(ctl_decide(c->ctl, &q, &c->out), 0);
    arena_reset(&c->arena);
    void *copy = arena_alloc(&c->arena, c->out.response.size + 1);
    memcpy(copy, c->out.response.data, c->out.response.size);
    ck_assert_int_eq(k_decode(api->response, version, copy, c->out.response.size, &c->arena, ret), 0);
    buf_deinit(&body);
}

static inline void cluster_ask(Cluster *c, int16_t key, int16_t version, const void *request, void *ret)
{
    cluster_decide(c, key, version, request, ret);
    cluster_apply(c);
}

static inline Uuid dir_of(int32_t id, int generation)
{
    Uuid u = {{(uint8_t)id, (uint8_t)generation, 0xdd}};
    return u;
}

typedef struct Registering {
    int32_t id;
    int incarnation, dir_generation;
    int8_t state;
    const char *rack, *cluster;
} Registering;

static inline KRegisterBrokerResponse cluster_register_as(Cluster *c, const Registering *w)
{
    KRegisterBrokerRequestLogDirs dir = {.id = dir_of(w->id, w->dir_generation), .state = w->state};
    KRegisterBrokerRequestListeners l = {.name = k_str("PLAINTEXT"), .host = k_str("localhost"), .port = 9092};
    KRegisterBrokerRequest q = {.broker_id = w->id, .incarnation_id = {{9, (uint8_t)w->id, (uint8_t)w->incarnation}},
                                .cluster_id = k_str(w->cluster ? w->cluster : "cluster"), .rack = k_str(w->rack), .previous_epoch = -1};
    KRegisterBrokerResponse a;
    q.log_dirs.items = &dir;
    q.log_dirs.n = 1;
    q.listeners.items = &l;
    q.listeners.n = 1;
    cluster_ask(c, K_API_REGISTER_BROKER, 0, &q, &a);
    return a;
}

static inline int64_t cluster_register(Cluster *c, int32_t id, int incarnation, int8_t state)
{
    Registering w = {.id = id, .incarnation = incarnation, .state = state};
    KRegisterBrokerResponse a = cluster_register_as(c, &w);
    ck_assert_int_eq(a.error_code, 0);
    ck_assert_int_eq(a.metadata_index, (int64_t)meta_index(image_of(c)));
    return a.broker_epoch;
}

static inline KBrokerHeartbeatResponse cluster_beat_as(Cluster *c, int32_t id, int64_t epoch, int64_t index, bool fence, bool shutdown)
{
    KBrokerHeartbeatRequest q = {.broker_id = id, .broker_epoch = epoch, .metadata_index = index, .want_fence = fence,
                                 .want_shutdown = shutdown};
    KBrokerHeartbeatResponse a;
    cluster_ask(c, K_API_BROKER_HEARTBEAT, 0, &q, &a);
    return a;
}

static inline KBrokerHeartbeatResponse cluster_beat(Cluster *c, int32_t id, bool fence, bool shutdown)
{
    return cluster_beat_as(c, id, meta_broker(image_of(c), id)->epoch, (int64_t)meta_index(image_of(c)), fence, shutdown);
}

/* A registered, unfenced broker. */
static inline void cluster_start(Cluster *c, int32_t id)
{
    cluster_register(c, id, 1, META_DIR_CLEAN);
    ck_assert(!cluster_beat(c, id, false, false).is_fenced);
}

static inline KCreateTopicsResponseTopics cluster_create(Cluster *c, const char *name, int32_t partitions, int16_t replicas)
{
    KCreateTopicsRequestTopics t = {.name = k_str(name), .num_partitions = partitions, .replication_factor = replicas};
    KCreateTopicsRequest q = {.timeout_ms = 1000};
    KCreateTopicsResponse a;
    q.topics.items = &t;
    q.topics.n = 1;
    cluster_ask(c, K_API_CREATE_TOPICS, 7, &q, &a);
    ck_assert_int_eq(a.topics.n, 1);
    return a.topics.items[0];
}

static inline const MetaPartition *part(const Cluster *c, const char *topic, int32_t partition)
{
    const MetaPartition *p = meta_partition(image_of(c), topic, strlen(topic), partition);
    ck_assert_ptr_nonnull(p);
    return p;
}

static inline KafkaError cluster_set(Cluster *c, int8_t type, const char *name, const char *key, int8_t op, const char *value)
{
    KIncrementalAlterConfigsRequestResourcesConfigs one = {.name = k_str(key), .config_operation = op, .value = k_str(value)};
    KIncrementalAlterConfigsRequestResources r = {.resource_type = type, .resource_name = k_str(name)};
    KIncrementalAlterConfigsRequest q = {0};
    KIncrementalAlterConfigsResponse a;
    r.configs.items = &one;
    r.configs.n = 1;
    q.resources.items = &r;
    q.resources.n = 1;
    cluster_ask(c, K_API_INCREMENTAL_ALTER_CONFIGS, 1, &q, &a);
    ck_assert_int_eq(a.responses.n, 1);
    return a.responses.items[0].error_code;
}

/* The ids of a set as text: "1,2,3" */
static inline const char *ids(const int32_t *list, int n)
{
    static char text[8][64];
    static unsigned turn;
    char *t = text[turn++ % 8];
    size_t used = 0;
    t[0] = 0;
    for (int i = 0; i < n; i++)
        used += (size_t)snprintf(t + used, 64 - used, "%s%d", i ? "," : "", list[i]);
    return t;
}

/* leader, ISR, ELR, last known: the whole election state in one comparison */
static inline void expect_partition(const Cluster *c, const char *topic, int32_t partition, int32_t leader, const char *isr,
                                    const char *elr, const char *last)
{
    const MetaPartition *p = part(c, topic, partition);
    ck_assert_int_eq(p->leader, leader);
    ck_assert_str_eq(ids(p->isr, p->n_isr), isr);
    ck_assert_str_eq(ids(p->elr, p->n_elr), elr);
    ck_assert_str_eq(ids(p->last_known_elr, p->n_last_known_elr), last);
}

/* C5, C6, C9 and sound sets, for every partition; call after anything. */
static inline void expect_invariants(const Cluster *c)
{
    const MetaImage *image = image_of(c);
    for (const MetaTopic *t = NULL; (t = meta_topic_next(image, t));) {
        ConfigView view = {.conf = &c->conf, .topic = &t->configs, .cluster = meta_broker_configs(image, -1)};
        int64_t min_isr = config_view_topic_i64(&view, "min.insync.replicas");
        for (int32_t i = 0; i < t->n_partitions; i++) {
            const MetaPartition *p = &t->partitions[i];
            int active = 0;
            for (int k = 0; k < p->n_isr; k++) {
                const MetaBroker *b = meta_broker(image, p->isr[k]);
                ck_assert_msg(b && !b->fenced && !b->in_controlled_shutdown, "%s-%d: %d in the ISR is not active", t->name, i, p->isr[k]);
                active++;
            }
            ck_assert_msg((p->leader == -1) == (active == 0), "%s-%d: leader %d with %d active in the ISR", t->name, i, p->leader, active);
            for (int k = 0; k < p->n_elr; k++) {
                const MetaBroker *b = meta_broker(image, p->elr[k]);
                if (p->n_isr == 0)
                    ck_assert_msg(!b || b->fenced || b->in_controlled_shutdown, "%s-%d: active %d waits in the ELR", t->name, i, p->elr[k]);
            }
            if (p->n_isr >= min_isr || p->n_isr == p->n_replicas)
                ck_assert_msg(p->n_elr == 0 && p->n_last_known_elr == 0, "%s-%d: ELR beside a full ISR", t->name, i);
        }
    }
}
