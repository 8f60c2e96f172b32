/*
 * The effect of each metadata record on an image. The only code that changes one.
 *
 * A record is checked against the image before anything moves, so a refusal leaves it unchanged. Refusals never happen to
 * records that a controller of this version decided; they guard against damaged files and foreign versions.
 * INV-META-4: ISR, ELR and last known ELR are distinct members of the replicas; ISR and ELR are disjoint; a leader is in the ISR.
 */

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "meta/image_private.h"
#include "wire/messages.h"

#define CONFIG_NAME_MAX  200
#define CONFIG_VALUE_END 32767
#define RESOURCE_TOPIC   2
#define RESOURCE_BROKER  4

static int copy_text(char *to, size_t size, KStr from)
{
    if (from.len < 0 || (size_t)from.len >= size || memchr(from.ptr, 0, (size_t)from.len))
        return -EBADMSG;
    memcpy(to, from.ptr, (size_t)from.len);
    to[from.len] = 0;
    return 0;
}

/* Opens a gap of one element at `at`; memory is reserved first. */
static int insert_gap(void **array, size_t size, size_t n, size_t at)
{
    char *p = realloc(*array, (n + 1) * size);
    if (!p)
        return -ENOMEM;
    memmove(p + (at + 1) * size, p + at * size, (n - at) * size);
    *array = p;
    return 0;
}

static int apply_feature(MetaImage *image, const void *message)
{
    const KMetaFeatureLevelRecord *m = message;
    FeatureLevel f = {.level = m->level};
    size_t at = 0;
    if (copy_text(f.name, sizeof(f.name), m->name) < 0 || m->level < 0)
        return -EBADMSG;
    while (at < image->n_features && strcmp(image->features[at].name, f.name) < 0)
        at++;
    if (at < image->n_features && strcmp(image->features[at].name, f.name) == 0) {
        image->features[at] = f;
        return 0;
    }
    if (image->n_features == META_FEATURES_MAX)
        return -EBADMSG;
    memmove(&image->features[at + 1], &image->features[at], (image->n_features - at) * sizeof(f));
    image->features[at] = f;
    image->n_features++;
    return 0;
}

static int apply_cluster(MetaImage *image, const void *message)
{
    const KMetaClusterRecord *m = message;
    char id[sizeof(image->cluster_id)];
    if (copy_text(id, sizeof(id), m->cluster_id) < 0 || id[0] == 0)
        return -EBADMSG;
    if (image->cluster_id[0] && strcmp(image->cluster_id, id) != 0)
        return -EBADMSG; /* a cluster keeps its name for ever */
    memcpy(image->cluster_id, id, sizeof(id));
    image->created_ms = m->created_ms;
    return 0;
}

static int fill_broker(MetaBroker *b, uint64_t index, const KMetaRegisterBrokerRecord *m)
{
    if (m->broker_id < 0 || m->endpoints.n > META_ENDPOINTS_MAX || m->log_dirs.n > META_LOG_DIRS_MAX)
        return -EBADMSG;
    *b = (MetaBroker){.id = m->broker_id, .epoch = (int64_t)index, .incarnation_id = m->incarnation_id, .fenced = m->fenced};
    if (m->rack.len >= 0 && copy_text(b->rack, sizeof(b->rack), m->rack) < 0)
        return -EBADMSG;
    for (int32_t i = 0; i < m->endpoints.n; i++) {
        MetaEndpoint *e = &b->endpoints[b->n_endpoints++];
        e->port = m->endpoints.items[i].port;
        if (copy_text(e->name, sizeof(e->name), m->endpoints.items[i].name) < 0 ||
            copy_text(e->host, sizeof(e->host), m->endpoints.items[i].host) < 0)
            return -EBADMSG;
    }
    for (int32_t i = 0; i < m->log_dirs.n; i++)
        b->log_dirs[b->n_log_dirs++] = (MetaLogDir){m->log_dirs.items[i].id, m->log_dirs.items[i].state};
    return 0;
}

static int apply_register(MetaImage *image, uint64_t index, const void *message)
{
    MetaBroker b;
    size_t at;
    int r = fill_broker(&b, index, message);
    if (r < 0)
        return r;
    if (!meta_find_broker(image, b.id, &at)) {
        if (image->n_brokers == META_BROKERS_MAX)
            return -EBADMSG;
        MetaBroker *new = malloc(sizeof(*new));
        void *array = image->brokers;
        r = new ? insert_gap(&array, sizeof(MetaBroker *), image->n_brokers, at) : -ENOMEM;
        if (r < 0) {
            free(new);
            return r;
        }
        image->brokers = array;
        image->brokers[at] = new;
        image->n_brokers++;
    }
    *image->brokers[at] = b;
    return 0;
}

static MetaBroker *broker_of(MetaImage *image, int32_t id, int64_t epoch)
{
    size_t at;
    if (!meta_find_broker(image, id, &at) || image->brokers[at]->epoch != epoch)
        return NULL;
    return image->brokers[at];
}

static int apply_unregister(MetaImage *image, const void *message)
{
    const KMetaUnregisterBrokerRecord *m = message;
    size_t at;
    if (!broker_of(image, m->broker_id, m->broker_epoch))
        return -EBADMSG;
    (void)meta_find_broker(image, m->broker_id, &at);
    free(image->brokers[at]);
    memmove(&image->brokers[at], &image->brokers[at + 1], (image->n_brokers - at - 1) * sizeof(MetaBroker *));
    image->n_brokers--;
    return 0;
}

static int apply_broker_change(MetaImage *image, const void *message)
{
    const KMetaBrokerChangeRecord *m = message;
    MetaBroker *b = broker_of(image, m->broker_id, m->broker_epoch);
    if (!b || m->fenced < -1 || m->fenced > 1 || m->controlled_shutdown < 0 || m->controlled_shutdown > 1)
        return -EBADMSG;
    if (m->fenced)
        b->fenced = m->fenced > 0;
    if (m->controlled_shutdown)
        b->in_controlled_shutdown = true;
    return 0;
}

static int reserve_topic(MetaImage *image)
{
    if (image->n_topics < image->capacity_topics)
        return 0;
    size_t capacity = image->capacity_topics ? 2 * image->capacity_topics : 64;
    TopicNode **a = realloc(image->by_name, capacity * sizeof(TopicNode *));
    if (!a)
        return -ENOMEM;
    image->by_name = a;
    TopicNode **b = realloc(image->by_id, capacity * sizeof(TopicNode *));
    if (!b)
        return -ENOMEM;
    image->by_id = b;
    image->capacity_topics = capacity;
    return 0;
}

static void insert_topic(TopicNode **array, size_t n, size_t at, TopicNode *node)
{
    memmove(&array[at + 1], &array[at], (n - at) * sizeof(node));
    array[at] = node;
}

static int apply_topic(MetaImage *image, const void *message)
{
    const KMetaTopicRecord *m = message;
    size_t at_name, at_id;
    if (m->name.len < 0 || !topic_name_is_valid(m->name.ptr, (size_t)m->name.len) || uuid_is_zero(&m->topic_id) ||
        meta_find_topic(image, m->name.ptr, (size_t)m->name.len, &at_name) ||
        meta_find_topic_id(image, &m->topic_id, &at_id))
        return -EBADMSG;
    if (reserve_topic(image) < 0)
        return -ENOMEM;
    TopicNode *node = calloc(1, sizeof(*node));
    if (!node)
        return -ENOMEM;
    memcpy(node->topic.name, m->name.ptr, (size_t)m->name.len);
    node->topic.id = m->topic_id;
    node->topic.internal =
        strcmp(node->topic.name, META_TOPIC_OFFSETS) == 0 || strcmp(node->topic.name, META_TOPIC_TRANSACTIONS) == 0;
    insert_topic(image->by_name, image->n_topics, at_name, node);
    insert_topic(image->by_id, image->n_topics, at_id, node);
    image->n_topics++;
    return 0;
}

static int apply_remove_topic(MetaImage *image, const void *message)
{
    const KMetaRemoveTopicRecord *m = message;
    size_t at_id, at_name;
    if (!meta_find_topic_id(image, &m->topic_id, &at_id))
        return -EBADMSG;
    TopicNode *node = image->by_id[at_id];
    bool found = meta_find_topic(image, node->topic.name, strlen(node->topic.name), &at_name);
    assert(found && image->by_name[at_name] == node); /* INV-META-2 */
    size_t rest = image->n_topics - 1;
    memmove(&image->by_id[at_id], &image->by_id[at_id + 1], (rest - at_id) * sizeof(node));
    memmove(&image->by_name[at_name], &image->by_name[at_name + 1], (rest - at_name) * sizeof(node));
    image->n_topics = rest;
    image->n_partitions -= (size_t)node->topic.n_partitions;
    for (int32_t i = 0; i < node->topic.n_partitions; i++)
        meta_partition_clear(&node->topic.partitions[i]);
    free(node->topic.partitions);
    meta_configs_clear(&node->topic.configs);
    free(node);
    return 0;
}

static bool has(const int32_t *list, int n, int32_t id)
{
    for (int i = 0; i < n; i++)
        if (list[i] == id)
            return true;
    return false;
}

static bool is_distinct_subset(const int32_t *list, int n, const int32_t *of, int n_of)
{
    for (int i = 0; i < n; i++)
        if (!has(of, n_of, list[i]) || has(list, i, list[i]))
            return false;
    return true;
}

static bool partition_is_sound(const MetaPartition *p)
{
    if (p->n_replicas < 1 || p->n_replicas > META_REPLICAS_MAX || p->leader_epoch < 0 || p->partition_epoch < 0)
        return false;
    for (int i = 0; i < p->n_elr; i++)
        if (has(p->isr, p->n_isr, p->elr[i]))
            return false;
    return is_distinct_subset(p->replicas, p->n_replicas, p->replicas, p->n_replicas) &&
           is_distinct_subset(p->isr, p->n_isr, p->replicas, p->n_replicas) &&
           is_distinct_subset(p->elr, p->n_elr, p->replicas, p->n_replicas) &&
           is_distinct_subset(p->last_known_elr, p->n_last_known_elr, p->replicas, p->n_replicas) &&
           (p->leader == -1 || has(p->isr, p->n_isr, p->leader));
}

static int32_t *put_ids(int32_t **at, const int32_t *from, int n)
{
    int32_t *to = *at;
    if (n > 0)
        memcpy(to, from, (size_t)n * sizeof(int32_t));
    *at += n;
    return to;
}

/* Replaces *to by a copy of *from in one block of its own: replicas, isr, elr, last_known_elr, directories.
 * from's arrays may lie in to's block. from->directories NULL: unassigned. */
static int partition_replace(MetaPartition *to, const MetaPartition *from)
{
    size_t ids = (size_t)(from->n_replicas + from->n_isr + from->n_elr + from->n_last_known_elr);
    size_t dirs = (size_t)from->n_replicas * sizeof(Uuid);
    int32_t *block = calloc(1, ids * sizeof(int32_t) + dirs), *at = block;
    if (!block)
        return -ENOMEM;
    MetaPartition p = *from;
    p.replicas = put_ids(&at, from->replicas, from->n_replicas);
    p.isr = put_ids(&at, from->isr, from->n_isr);
    p.elr = put_ids(&at, from->elr, from->n_elr);
    p.last_known_elr = put_ids(&at, from->last_known_elr, from->n_last_known_elr);
    p.directories = (Uuid *)(void *)at;
    if (from->directories)
        memcpy(p.directories, from->directories, dirs);
    int32_t *old = to->replicas;
    *to = p;
    free(old);
    return 0;
}

static int reserve_partition(TopicNode *node)
{
    if (node->topic.n_partitions < node->capacity)
        return 0;
    int32_t capacity = node->capacity ? 2 * node->capacity : 4;
    MetaPartition *p = realloc(node->topic.partitions, (size_t)capacity * sizeof(*p));
    if (!p)
        return -ENOMEM;
    node->topic.partitions = p;
    node->capacity = capacity;
    return 0;
}

static int apply_partition(MetaImage *image, const void *message)
{
    const KMetaPartitionRecord *m = message;
    size_t at;
    if (!meta_find_topic_id(image, &m->topic_id, &at))
        return -EBADMSG;
    TopicNode *node = image->by_id[at];
    MetaPartition p = {.index = m->partition, .leader = m->leader, .leader_epoch = m->leader_epoch,
                       .partition_epoch = m->partition_epoch, .replicas = m->replicas.items, .isr = m->isr.items,
                       .elr = m->elr.items, .last_known_elr = m->last_known_elr.items, .n_replicas = m->replicas.n,
                       .n_isr = m->isr.n, .n_elr = m->elr.n, .n_last_known_elr = m->last_known_elr.n,
                       .directories = m->directories.n > 0 ? m->directories.items : NULL};
    if (m->partition != node->topic.n_partitions || !partition_is_sound(&p) ||
        (m->directories.n > 0 && m->directories.n != m->replicas.n))
        return -EBADMSG; /* partitions come in order; changes are another record */
    if (reserve_partition(node) < 0)
        return -ENOMEM;
    MetaPartition *slot = &node->topic.partitions[m->partition];
    *slot = (MetaPartition){0};
    if (partition_replace(slot, &p) < 0)
        return -ENOMEM;
    node->topic.n_partitions++;
    image->n_partitions++;
    return 0;
}

static void change_ids(KInt32Array from, int32_t **ids, int *n)
{
    if (from.n >= 0) {
        *ids = from.items;
        *n = from.n;
    }
}

static int apply_partition_change(MetaImage *image, const void *message)
{
    const KMetaPartitionChangeRecord *m = message;
    size_t at;
    if (!meta_find_topic_id(image, &m->topic_id, &at) || m->partition < 0 ||
        m->partition >= image->by_id[at]->topic.n_partitions || m->leader < -2)
        return -EBADMSG;
    MetaPartition *slot = &image->by_id[at]->topic.partitions[m->partition], p = *slot;
    change_ids(m->replicas, &p.replicas, &p.n_replicas);
    change_ids(m->isr, &p.isr, &p.n_isr);
    change_ids(m->elr, &p.elr, &p.n_elr);
    change_ids(m->last_known_elr, &p.last_known_elr, &p.n_last_known_elr);
    if (m->directories.n >= 0)
        p.directories = m->directories.items;
    else if (p.n_replicas != slot->n_replicas)
        p.directories = NULL;
    if (m->leader != -2) {
        p.leader = m->leader;
        p.leader_epoch++;
    }
    p.partition_epoch++;
    if ((m->directories.n >= 0 && m->directories.n != p.n_replicas) || !partition_is_sound(&p))
        return -EBADMSG;
    return partition_replace(slot, &p);
}

static int broker_configs_at(MetaImage *image, int32_t id, MetaConfigs **ret)
{
    size_t at;
    if (!meta_find_broker_configs(image, id, &at)) {
        void *array = image->broker_configs;
        if (image->n_broker_configs > META_BROKERS_MAX)
            return -EBADMSG;
        if (insert_gap(&array, sizeof(BrokerConfigs), image->n_broker_configs, at) < 0)
            return -ENOMEM;
        image->broker_configs = array;
        image->broker_configs[at] = (BrokerConfigs){.id = id};
        image->n_broker_configs++;
    }
    *ret = &image->broker_configs[at].configs;
    return 0;
}

static int config_broker_id(KStr name, int32_t *ret)
{
    char text[16];
    int64_t id;
    if (name.len == 0) {
        *ret = -1;
        return 0;
    }
    if (copy_text(text, sizeof(text), name) < 0 || parse_i64(text, &id) < 0 || id < 0 || id > INT32_MAX)
        return -EBADMSG;
    *ret = (int32_t)id;
    return 0;
}

/* Sets without configs do not stay: an image has one form only (digests). */
static void drop_empty_broker_configs(MetaImage *image, int32_t id)
{
    size_t at;
    if (!meta_find_broker_configs(image, id, &at) || image->broker_configs[at].configs.n > 0)
        return;
    meta_configs_clear(&image->broker_configs[at].configs);
    memmove(&image->broker_configs[at], &image->broker_configs[at + 1],
            (image->n_broker_configs - at - 1) * sizeof(BrokerConfigs));
    image->n_broker_configs--;
}

static int apply_config(MetaImage *image, const void *message)
{
    const KMetaConfigRecord *m = message;
    char name[CONFIG_NAME_MAX];
    MetaConfigs *configs;
    int32_t broker = -2;
    size_t at;
    int r = 0;
    if (copy_text(name, sizeof(name), m->name) < 0 || name[0] == 0 || m->resource_name.len < 0 ||
        m->value.len > CONFIG_VALUE_END || (m->value.len > 0 && memchr(m->value.ptr, 0, (size_t)m->value.len)))
        return -EBADMSG;
    if (m->resource_type == RESOURCE_TOPIC) {
        if (!meta_find_topic(image, m->resource_name.ptr, (size_t)m->resource_name.len, &at))
            return -EBADMSG;
        configs = &image->by_name[at]->topic.configs;
    } else if (m->resource_type == RESOURCE_BROKER) {
        r = config_broker_id(m->resource_name, &broker);
        r = r < 0 ? r : broker_configs_at(image, broker, &configs);
    } else {
        r = -EBADMSG;
    }
    if (r < 0)
        return r;
    r = meta_configs_set(configs, m->name, m->value);
    if (broker != -2)
        drop_empty_broker_configs(image, broker);
    return r;
}

static int apply_producer_ids(MetaImage *image, const void *message)
{
    const KMetaProducerIdsRecord *m = message;
    if (m->next_producer_id < image->next_producer_id)
        return -EBADMSG; /* blocks never come back (C20) */
    image->next_producer_id = m->next_producer_id;
    return 0;
}

/* Rows are loaded slot by slot, so a number may be lower than the last one's, but never in its slot. */
static int apply_answer(MetaImage *image, const void *message)
{
    const KMetaAnswerRecord *m = message;
    if (m->number < 0 || m->body.len <= 0 || (size_t)m->body.len > META_ANSWER_SIZE_MAX)
        return -EBADMSG;
    if (!image->answers && !(image->answers = calloc(META_ANSWERS_MAX, sizeof(MetaAnswer))))
        return -ENOMEM;
    MetaAnswer *slot = &image->answers[m->number % META_ANSWERS_MAX];
    if (slot->body && slot->number >= m->number)
        return -EBADMSG;
    void *body = malloc((size_t)m->body.len);
    if (!body)
        return -ENOMEM;
    memcpy(body, m->body.ptr, (size_t)m->body.len);
    free(slot->body);
    *slot = (MetaAnswer){.number = m->number, .sender = m->sender, .call = m->call, .api_key = m->api_key,
                         .api_version = m->api_version, .body = body, .size = (size_t)m->body.len};
    image->next_answer = MAX(image->next_answer, m->number + 1);
    return 0;
}

static int apply_message(MetaImage *image, uint64_t index, int16_t type, const void *message)
{
    switch (type) {
    case K_TYPE_META_NO_OP_RECORD:
        return 0;
    case K_TYPE_META_FEATURE_LEVEL_RECORD:
        return apply_feature(image, message);
    case K_TYPE_META_REGISTER_BROKER_RECORD:
        return apply_register(image, index, message);
    case K_TYPE_META_UNREGISTER_BROKER_RECORD:
        return apply_unregister(image, message);
    case K_TYPE_META_BROKER_CHANGE_RECORD:
        return apply_broker_change(image, message);
    case K_TYPE_META_TOPIC_RECORD:
        return apply_topic(image, message);
    case K_TYPE_META_PARTITION_RECORD:
        return apply_partition(image, message);
    case K_TYPE_META_PARTITION_CHANGE_RECORD:
        return apply_partition_change(image, message);
    case K_TYPE_META_REMOVE_TOPIC_RECORD:
        return apply_remove_topic(image, message);
    case K_TYPE_META_CONFIG_RECORD:
        return apply_config(image, message);
    case K_TYPE_META_PRODUCER_IDS_RECORD:
        return apply_producer_ids(image, message);
    case K_TYPE_META_CLUSTER_RECORD:
        return apply_cluster(image, message);
    case K_TYPE_META_ANSWER_RECORD:
        return apply_answer(image, message);
    default:
        return -EBADMSG;
    }
}

int meta_apply_record(MetaImage *image, uint64_t index, const void *record, size_t size)
{
    int16_t type, version;
    int r = k_unpack_type(record, size, &type, &version);
    const KMessage *table = r < 0 ? NULL : k_message_by_type(type);
    if (!table)
        return -EBADMSG;
    arena_reset(&image->scratch);
    void *message = arena_alloc(&image->scratch, k_message_struct_size(table));
    if (!message)
        return -ENOMEM;
    r = k_unpack(table, record, size, &image->scratch, message, NULL);
    if (r == 0)
        r = apply_message(image, index, type, message);
    return r == 0 || r == -ENOMEM ? r : -EBADMSG;
}

int meta_apply(MetaImage *image, uint64_t index, const void *record, size_t size)
{
    if (index <= image->index)
        return -EBADMSG;
    int r = meta_apply_record(image, index, record, size);
    if (r == 0)
        image->index = index;
    return r;
}
