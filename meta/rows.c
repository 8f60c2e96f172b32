/*
 * Keys and records of rows (rows.h, docs/formats/metadata.md). Keys order as bytes: numbers are big-endian.
 */

#include "meta/rows.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/hash.h"
#include "wire/messages.h"

#define RESOURCE_TOPIC  2
#define RESOURCE_BROKER 4

const char *meta_table_name(MetaTable table)
{
    static const char *const names[] = {"state", "brokers", "topics", "partitions", "configs"};
    static_assert(ARRAY_SIZE(names) == META_TABLE_COUNT, "one name per table");
    return names[table];
}

static void put(MetaRowKey *k, const void *data, size_t size)
{
    assert(k->size + size <= META_KEY_MAX);
    memcpy(k->bytes + k->size, data, size);
    k->size = (uint16_t)(k->size + size);
}

static void put_u32(MetaRowKey *k, uint32_t v)
{
    uint8_t b[4] = {(uint8_t)(v >> 24), (uint8_t)(v >> 16), (uint8_t)(v >> 8), (uint8_t)v};
    put(k, b, sizeof(b));
}

static void key_state(char kind, KStr name, MetaRowKey *k)
{
    *k = (MetaRowKey){.table = META_TABLE_STATE, .kind = kind, .name = name};
    put(k, &kind, 1);
    if (name.len > 0)
        put(k, name.ptr, (size_t)name.len);
}

static void key_answer(int32_t slot, MetaRowKey *k)
{
    key_state('a', K_STR_NULL, k);
    k->id = slot;
    put_u32(k, (uint32_t)slot);
}

static void key_broker(int32_t id, char kind, MetaRowKey *k)
{
    *k = (MetaRowKey){.table = META_TABLE_BROKERS, .kind = kind, .id = id};
    put_u32(k, (uint32_t)id);
    put(k, &kind, 1);
}

void meta_key_topic(const Uuid *id, MetaRowKey *k)
{
    *k = (MetaRowKey){.table = META_TABLE_TOPICS, .topic = *id};
    put(k, id->b, sizeof(id->b));
}

static void key_partition(const Uuid *id, int32_t partition, MetaRowKey *k)
{
    *k = (MetaRowKey){.table = META_TABLE_PARTITIONS, .topic = *id, .id = partition};
    put(k, id->b, sizeof(id->b));
    put_u32(k, (uint32_t)partition);
}

static void key_resource(int8_t type, KStr resource, MetaRowKey *k)
{
    *k = (MetaRowKey){.table = META_TABLE_CONFIGS, .resource_type = type, .name = resource};
    put(k, &type, 1);
    put(k, resource.ptr, (size_t)resource.len);
    put(k, "", 1); /* no name contains NUL: "a" + NUL is no prefix of another resource's keys */
}

static void key_config(int8_t type, KStr resource, KStr config, MetaRowKey *k)
{
    key_resource(type, resource, k);
    k->config = config;
    put(k, config.ptr, (size_t)config.len);
}

void meta_key_topic_configs(KStr topic, MetaRowKey *k)
{
    key_resource(RESOURCE_TOPIC, topic, k);
}

/* ---- records ---- */

static int row_answer(const MetaImage *image, int32_t slot, Buf *out)
{
    if (!image->answers || !image->answers[slot].body)
        return -ENOENT;
    const MetaAnswer *a = &image->answers[slot];
    KMetaAnswerRecord m = {.number = a->number, .sender = a->sender, .call = a->call, .api_key = a->api_key,
                           .api_version = a->api_version, .body = {a->body, (int32_t)a->size}};
    return k_pack(&k_meta_answer_record, 0, &m, out);
}

static int row_state(const MetaImage *image, const MetaRowKey *k, Buf *out)
{
    if (k->kind == 'a')
        return row_answer(image, k->id, out);
    if (k->kind == 'c') {
        KMetaClusterRecord m = {.cluster_id = k_str(image->cluster_id), .created_ms = image->created_ms};
        return image->cluster_id[0] ? k_pack(&k_meta_cluster_record, 0, &m, out) : -ENOENT;
    }
    if (k->kind == 'p') {
        KMetaProducerIdsRecord m = {.broker_id = -1, .broker_epoch = -1, .next_producer_id = image->next_producer_id};
        return image->next_producer_id > 0 ? k_pack(&k_meta_producer_ids_record, 0, &m, out) : -ENOENT;
    }
    for (size_t i = 0; i < image->n_features; i++)
        if (k_str_equal(k->name, image->features[i].name)) {
            KMetaFeatureLevelRecord m = {.name = k->name, .level = image->features[i].level};
            return k_pack(&k_meta_feature_level_record, 0, &m, out);
        }
    return -ENOENT;
}

static int row_broker(const MetaImage *image, const MetaRowKey *k, Buf *out, uint64_t *ret_index)
{
    KMetaRegisterBrokerRecordLogDirs dirs[META_LOG_DIRS_MAX];
    KMetaRegisterBrokerRecordEndpoints ends[META_ENDPOINTS_MAX];
    const MetaBroker *b = meta_broker(image, k->id);
    if (!b || (k->kind == 's' && !b->in_controlled_shutdown))
        return -ENOENT;
    *ret_index = (uint64_t)b->epoch;
    if (k->kind == 's') {
        KMetaBrokerChangeRecord c = {.broker_id = b->id, .broker_epoch = b->epoch, .controlled_shutdown = 1};
        return k_pack(&k_meta_broker_change_record, 0, &c, out);
    }
    for (int i = 0; i < b->n_log_dirs; i++)
        dirs[i] = (KMetaRegisterBrokerRecordLogDirs){.id = b->log_dirs[i].id, .state = b->log_dirs[i].state};
    for (int i = 0; i < b->n_endpoints; i++)
        ends[i] = (KMetaRegisterBrokerRecordEndpoints){
            .name = k_str(b->endpoints[i].name), .host = k_str(b->endpoints[i].host), .port = b->endpoints[i].port};
    KMetaRegisterBrokerRecord m = {.broker_id = b->id, .incarnation_id = b->incarnation_id,
                                   .rack = b->rack[0] ? k_str(b->rack) : K_STR_NULL, .fenced = b->fenced};
    m.log_dirs.items = dirs;
    m.log_dirs.n = b->n_log_dirs;
    m.endpoints.items = ends;
    m.endpoints.n = b->n_endpoints;
    return k_pack(&k_meta_register_broker_record, 0, &m, out);
}

static int row_topic(const MetaImage *image, const MetaRowKey *k, Buf *out)
{
    const MetaTopic *t = meta_topic_by_id(image, &k->topic);
    if (!t)
        return -ENOENT;
    KMetaTopicRecord m = {.name = k_str(t->name), .topic_id = t->id};
    return k_pack(&k_meta_topic_record, 0, &m, out);
}

static int row_partition(const MetaImage *image, const MetaRowKey *k, Buf *out)
{
    const MetaTopic *t = meta_topic_by_id(image, &k->topic);
    if (!t || k->id < 0 || k->id >= t->n_partitions)
        return -ENOENT;
    const MetaPartition *p = &t->partitions[k->id];
    KMetaPartitionRecord m = {.topic_id = t->id, .partition = p->index, .replicas = {p->replicas, p->n_replicas},
                              .isr = {p->isr, p->n_isr}, .elr = {p->elr, p->n_elr},
                              .last_known_elr = {p->last_known_elr, p->n_last_known_elr}, .leader = p->leader,
                              .leader_epoch = p->leader_epoch, .partition_epoch = p->partition_epoch,
                              .directories = {p->directories, p->n_replicas}};
    return k_pack(&k_meta_partition_record, 0, &m, out);
}

static int row_config(const MetaImage *image, const MetaRowKey *k, Buf *out)
{
    char name[256], text[256];
    const MetaConfigs *configs = NULL;
    int64_t id = -1;
    snprintf(name, sizeof(name), "%.*s", k->config.len, k->config.ptr);
    snprintf(text, sizeof(text), "%.*s", k->name.len, k->name.ptr);
    if (k->resource_type == RESOURCE_TOPIC) {
        const MetaTopic *t = meta_topic(image, k->name.ptr, (size_t)k->name.len);
        configs = t ? &t->configs : NULL;
    } else if (k->name.len == 0 || parse_i64(text, &id) == 0) {
        configs = meta_broker_configs(image, (int32_t)id);
    }
    const char *value = configs ? meta_config_value(configs, name) : NULL;
    if (!value)
        return -ENOENT;
    KMetaConfigRecord m = {.resource_type = k->resource_type, .resource_name = k->name, .name = k->config, .value = k_str(value)};
    return k_pack(&k_meta_config_record, 0, &m, out);
}

int meta_row(const MetaImage *image, const MetaRowKey *k, Buf *out, uint64_t *ret_index)
{
    buf_clear(out);
    *ret_index = 0;
    switch (k->table) {
    case META_TABLE_STATE:
        return row_state(image, k, out);
    case META_TABLE_BROKERS:
        return row_broker(image, k, out, ret_index);
    case META_TABLE_TOPICS:
        return row_topic(image, k, out);
    case META_TABLE_PARTITIONS:
        return row_partition(image, k, out);
    case META_TABLE_CONFIGS:
        return row_config(image, k, out);
    case META_TABLE_COUNT:
    default:
        return -ENOENT;
    }
}

/* ---- all rows ---- */

typedef struct Walk {
    const MetaImage *image;
    MetaRowFn fn;
    void *userdata;
    Buf record;
} Walk;

static int visit(Walk *w, const MetaRowKey *k)
{
    uint64_t index;
    int r = meta_row(w->image, k, &w->record, &index);
    if (r == -ENOENT)
        return 0;
    return r < 0 ? r : w->fn(w->userdata, k, index, w->record.data, w->record.size);
}

static int walk_state(Walk *w)
{
    MetaRowKey k;
    int r = 0;
    for (int32_t slot = 0; slot < META_ANSWERS_MAX && w->image->answers && r == 0; slot++) {
        key_answer(slot, &k);
        r = visit(w, &k);
    }
    key_state('c', K_STR_NULL, &k);
    r = r ? r : visit(w, &k);
    for (size_t i = 0; i < w->image->n_features && r == 0; i++) {
        key_state('f', k_str(w->image->features[i].name), &k);
        r = visit(w, &k);
    }
    if (r)
        return r;
    key_state('p', K_STR_NULL, &k);
    return visit(w, &k);
}

static int walk_brokers(Walk *w)
{
    MetaRowKey k;
    int r = 0;
    for (size_t i = 0; i < w->image->n_brokers && r == 0; i++) {
        key_broker(w->image->brokers[i]->id, 'r', &k);
        r = visit(w, &k);
        key_broker(w->image->brokers[i]->id, 's', &k);
        r = r ? r : visit(w, &k);
    }
    return r;
}

static int walk_topics(Walk *w)
{
    MetaRowKey k;
    int r = 0;
    for (size_t i = 0; i < w->image->n_topics && r == 0; i++) {
        const MetaTopic *t = &w->image->by_name[i]->topic;
        meta_key_topic(&t->id, &k);
        r = visit(w, &k);
        for (int32_t p = 0; p < t->n_partitions && r == 0; p++) {
            key_partition(&t->id, p, &k);
            r = visit(w, &k);
        }
    }
    return r;
}

static int walk_configs(Walk *w, int8_t type, KStr resource, const MetaConfigs *configs)
{
    MetaRowKey k;
    int r = 0;
    for (size_t i = 0; i < configs->n && r == 0; i++) {
        key_config(type, resource, k_str(configs->items[i].name), &k);
        r = visit(w, &k);
    }
    return r;
}

static int walk_all_configs(Walk *w)
{
    char id[16];
    int r = 0;
    for (size_t i = 0; i < w->image->n_topics && r == 0; i++) {
        const MetaTopic *t = &w->image->by_name[i]->topic;
        r = walk_configs(w, RESOURCE_TOPIC, k_str(t->name), &t->configs);
    }
    for (size_t i = 0; i < w->image->n_broker_configs && r == 0; i++) {
        const BrokerConfigs *b = &w->image->broker_configs[i];
        snprintf(id, sizeof(id), "%d", b->id);
        r = walk_configs(w, RESOURCE_BROKER, k_str(b->id < 0 ? "" : id), &b->configs);
    }
    return r;
}

int meta_rows_each(const MetaImage *image, MetaRowFn fn, void *userdata)
{
    Walk w = {.image = image, .fn = fn, .userdata = userdata};
    int r = walk_state(&w);
    r = r ? r : walk_brokers(&w);
    r = r ? r : walk_topics(&w);
    r = r ? r : walk_all_configs(&w);
    buf_deinit(&w.record);
    return r;
}

/* ---- touched rows ---- */

static int touch_broker(int32_t id, MetaKeyFn fn, void *userdata)
{
    MetaRowKey k;
    key_broker(id, 'r', &k);
    int r = fn(userdata, &k);
    key_broker(id, 's', &k);
    return r ? r : fn(userdata, &k);
}

static int touch(int16_t type, const void *message, MetaKeyFn fn, void *userdata, Uuid *ret_removed)
{
    MetaRowKey k;
    switch (type) {
    case K_TYPE_META_NO_OP_RECORD:
        return 0;
    case K_TYPE_META_CLUSTER_RECORD:
        key_state('c', K_STR_NULL, &k);
        return fn(userdata, &k);
    case K_TYPE_META_ANSWER_RECORD:
        key_answer((int32_t)(((const KMetaAnswerRecord *)message)->number % META_ANSWERS_MAX), &k);
        return fn(userdata, &k);
    case K_TYPE_META_PRODUCER_IDS_RECORD:
        key_state('p', K_STR_NULL, &k);
        return fn(userdata, &k);
    case K_TYPE_META_FEATURE_LEVEL_RECORD:
        key_state('f', ((const KMetaFeatureLevelRecord *)message)->name, &k);
        return fn(userdata, &k);
    case K_TYPE_META_REGISTER_BROKER_RECORD:
        return touch_broker(((const KMetaRegisterBrokerRecord *)message)->broker_id, fn, userdata);
    case K_TYPE_META_UNREGISTER_BROKER_RECORD:
        return touch_broker(((const KMetaUnregisterBrokerRecord *)message)->broker_id, fn, userdata);
    case K_TYPE_META_BROKER_CHANGE_RECORD:
        return touch_broker(((const KMetaBrokerChangeRecord *)message)->broker_id, fn, userdata);
    case K_TYPE_META_TOPIC_RECORD:
        meta_key_topic(&((const KMetaTopicRecord *)message)->topic_id, &k);
        return fn(userdata, &k);
    case K_TYPE_META_PARTITION_RECORD: {
        const KMetaPartitionRecord *m = message;
        key_partition(&m->topic_id, m->partition, &k);
        return fn(userdata, &k);
    }
    case K_TYPE_META_PARTITION_CHANGE_RECORD: {
        const KMetaPartitionChangeRecord *m = message;
        key_partition(&m->topic_id, m->partition, &k);
        return fn(userdata, &k);
    }
    case K_TYPE_META_CONFIG_RECORD: {
        const KMetaConfigRecord *m = message;
        key_config(m->resource_type, m->resource_name, m->name, &k);
        return fn(userdata, &k);
    }
    case K_TYPE_META_REMOVE_TOPIC_RECORD:
        *ret_removed = ((const KMetaRemoveTopicRecord *)message)->topic_id;
        return 0;
    default:
        return -EBADMSG;
    }
}

int meta_rows_touched(const void *record, size_t size, Arena *arena, MetaKeyFn fn, void *userdata, Uuid *ret_removed)
{
    int16_t type, version;
    const KMessage *table = k_unpack_type(record, size, &type, &version) < 0 ? NULL : k_message_by_type(type);
    *ret_removed = (Uuid){0};
    if (!table)
        return -EBADMSG;
    void *message = arena_alloc(arena, k_message_struct_size(table));
    if (!message)
        return -ENOMEM;
    int r = k_unpack(table, record, size, arena, message, NULL);
    return r < 0 ? r : touch(type, message, fn, userdata, ret_removed);
}

/* ---- digest ---- */

static int hash_row(void *userdata, const MetaRowKey *k, uint64_t index, const void *record, size_t size)
{
    uint64_t *h = userdata, parts[] = {*h, (uint64_t)k->table, hash64(k->bytes, k->size), index, hash64(record, size)};
    *h = hash64(parts, sizeof(parts));
    return 0;
}

uint64_t meta_digest(const MetaImage *image)
{
    uint64_t h = image->index;
    int r = meta_rows_each(image, hash_row, &h);
    return r == 0 ? h : 0; /* out of memory: equal to nothing useful */
}
