/*
 * Metadata: brokers and topics from this host's image, without asking anyone. A topic that is asked for by name and does not
 * exist is created first where that is allowed, so that the first answer names it already.
 */

#include "broker/api/api.h"

#include <string.h>

#include "broker/api/ensure.h"

#define ALL_TOPIC_OPERATIONS   3576  /* read write create delete alter describe describe_configs alter_configs */
#define ALL_CLUSTER_OPERATIONS 8096
#define AUTO_CREATE_MS         5000

typedef struct MetadataOp {
    Request *request;
    Ensure ensure;
} MetadataOp;

static const MetaEndpoint *endpoint_for(const Request *r, const MetaBroker *broker)
{
    for (int i = 0; i < broker->n_endpoints; i++) {
        if (!r->who.listener || strcmp(broker->endpoints[i].name, r->who.listener) == 0)
            return &broker->endpoints[i];
    }
    return NULL;
}

static bool list_brokers(Request *r, KMetadataResponse *a)
{
    const MetaImage *image = r->broker->image;
    size_t count = 0;
    for (const MetaBroker *b = meta_broker_next(image, NULL); b; b = meta_broker_next(image, b))
        count++;
    a->brokers.items = request_alloc(r, count, sizeof(*a->brokers.items));
    if (!a->brokers.items)
        return false;
    for (const MetaBroker *b = meta_broker_next(image, NULL); b; b = meta_broker_next(image, b)) {
        const MetaEndpoint *e = endpoint_for(r, b);
        if (b->fenced || (!e && r->who.listener))
            continue;
        a->brokers.items[a->brokers.n++] = (KMetadataResponseBrokers){.node_id = b->id,
                                                                      .host = e ? k_str(e->host) : k_str("localhost"),
                                                                      .port = e ? e->port : 0,
                                                                      .rack = b->rack[0] ? k_str(b->rack) : K_STR_NULL};
    }
    return true;
}

static bool is_alive(const Request *r, int32_t id)
{
    const MetaBroker *b = meta_broker(r->broker->image, id);
    return b && !b->fenced;
}

static bool list_offline(Request *r, const MetaPartition *mp, KMetadataResponseTopicsPartitions *p)
{
    for (int i = 0; i < mp->n_replicas; i++) {
        if (is_alive(r, mp->replicas[i]))
            continue;
        if (!p->offline_replicas.items)
            p->offline_replicas.items = request_alloc(r, (size_t)mp->n_replicas, sizeof(int32_t));
        if (!p->offline_replicas.items)
            return false;
        p->offline_replicas.items[p->offline_replicas.n++] = mp->replicas[i];
    }
    return true;
}

static bool fill_topic(Request *r, const MetaTopic *mt, KMetadataResponseTopics *t)
{
    const KMetadataRequest *q = r->body;
    t->name = k_str(mt->name);
    t->topic_id = mt->id;
    t->is_internal = mt->internal;
    t->topic_authorized_operations = q->include_topic_authorized_operations ? ALL_TOPIC_OPERATIONS : INT32_MIN;
    t->partitions.items = request_alloc(r, (size_t)mt->n_partitions, sizeof(*t->partitions.items));
    if (!t->partitions.items)
        return false;
    t->partitions.n = mt->n_partitions;
    for (int32_t i = 0; i < mt->n_partitions; i++) {
        const MetaPartition *mp = &mt->partitions[i];
        KMetadataResponseTopicsPartitions *p = &t->partitions.items[i];
        *p = (KMetadataResponseTopicsPartitions){.partition_index = mp->index,
                                                 .leader_id = mp->leader,
                                                 .leader_epoch = mp->leader_epoch,
                                                 .replica_nodes = {mp->replicas, mp->n_replicas},
                                                 .isr_nodes = {mp->isr, mp->n_isr}};
        p->error_code = mp->leader < 0 ? K_LEADER_NOT_AVAILABLE : K_NONE;
        if (!list_offline(r, mp, p))
            return false;
    }
    return true;
}

static bool list_all(Request *r, KMetadataResponse *a)
{
    const MetaImage *image = r->broker->image;
    a->topics.items = request_alloc(r, meta_topics(image), sizeof(*a->topics.items));
    if (!a->topics.items)
        return false;
    for (const MetaTopic *mt = meta_topic_next(image, NULL); mt; mt = meta_topic_next(image, mt)) {
        if (!fill_topic(r, mt, &a->topics.items[a->topics.n++]))
            return false;
    }
    return true;
}

static bool describe(Request *r, const KMetadataRequestTopics *q, KMetadataResponseTopics *t)
{
    const MetaImage *image = r->broker->image;
    bool by_id = q->name.len < 0;
    *t = (KMetadataResponseTopics){.name = q->name, .topic_id = q->topic_id, .topic_authorized_operations = INT32_MIN};
    if (r->version < 12 && (by_id || !uuid_is_zero(&q->topic_id))) {
        t->error_code = K_INVALID_REQUEST;
        t->name = by_id ? (KStr){"", 0} : q->name;
        return true;
    }
    const MetaTopic *mt = by_id ? meta_topic_by_id(image, &q->topic_id) : meta_topic(image, q->name.ptr, (size_t)q->name.len);
    if (mt)
        return fill_topic(r, mt, t);
    bool valid = by_id || topic_name_is_valid(q->name.ptr, (size_t)q->name.len);
    t->error_code = !valid ? K_INVALID_TOPIC_EXCEPTION : by_id ? K_UNKNOWN_TOPIC_ID : K_UNKNOWN_TOPIC_OR_PARTITION;
    return true;
}

static bool list_asked(Request *r, KMetadataResponse *a)
{
    const KMetadataRequest *q = r->body;
    a->topics.items = request_alloc(r, (size_t)q->topics.n, sizeof(*a->topics.items));
    if (!a->topics.items)
        return false;
    a->topics.n = q->topics.n;
    for (int32_t i = 0; i < q->topics.n; i++) {
        if (!describe(r, &q->topics.items[i], &a->topics.items[i]))
            return false;
    }
    return true;
}

static bool wants_all(const Request *r)
{
    const KMetadataRequest *q = r->body;
    return q->topics.n < 0 || (r->version == 0 && q->topics.n == 0);
}

static void answer(Request *r)
{
    const KMetadataRequest *q = r->body;
    KMetadataResponse a;
    k_message_init(&k_metadata_response, &a);
    a.cluster_id = k_str(r->broker->cluster_id);
    a.controller_id = r->broker->node_id; /* this broker forwards what only the controller does */
    if (r->version >= 8 && r->version <= 10 && q->include_cluster_authorized_operations)
        a.cluster_authorized_operations = ALL_CLUSTER_OPERATIONS;
    bool ok = list_brokers(r, &a) && (wants_all(r) ? list_all(r, &a) : list_asked(r, &a));
    if (ok)
        request_reply(r, &a);
    else
        request_abandon(r, "out of memory");
}

static void ensured(Ensure *e)
{
    answer(CONTAINER_OF(e, MetadataOp, ensure)->request);
}

static void cancel(Request *r)
{
    MetadataOp *op = r->state;
    ensure_cancel(&op->ensure);
}

/* Names that may be created because they were asked for. */
static int32_t to_create(Request *r, KStr *names)
{
    const KMetadataRequest *q = r->body;
    int32_t n = 0;
    bool allowed = r->broker->settings.auto_create_topics && (r->version < 4 || q->allow_auto_topic_creation) &&
                   request_may(r, RIGHT_CREATE) && !r->broker->disk_low;
    for (int32_t i = 0; allowed && i < q->topics.n; i++) {
        KStr name = q->topics.items[i].name;
        if (name.len > 0 && topic_name_is_valid(name.ptr, (size_t)name.len) && !api_topic_is_internal(name) &&
            !meta_topic(r->broker->image, name.ptr, (size_t)name.len))
            names[n++] = name;
    }
    return n;
}

void api_metadata_handle(Request *r)
{
    const KMetadataRequest *q = r->body;
    KStr *names = request_alloc(r, (size_t)MAX(q->topics.n, 0), sizeof(KStr));
    MetadataOp *op = request_alloc(r, 1, sizeof(*op));
    if (!names || !op) {
        request_abandon(r, "out of memory");
        return;
    }
    int32_t n = to_create(r, names);
    if (n == 0) {
        answer(r);
        return;
    }
    op->request = r;
    r->state = op;
    r->cancel = cancel;
    ensure_topics(r->broker, &op->ensure, names, n, &r->who, AUTO_CREATE_MS, ensured);
}
