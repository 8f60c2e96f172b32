/*
 * DeleteTopics and CreatePartitions, with Kafka's checks; every topic of a request succeeds or fails alone.
 */

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "controller/state/decide.h"

/* Names in sorted order, to find those that are there twice. */
int compare_names(const void *a, const void *b)
{
    const KStr *x = a, *y = b;
    int r = memcmp(x->ptr, y->ptr, (size_t)MIN(x->len, y->len));
    return r ? r : (x->len > y->len) - (x->len < y->len);
}

/* @names: n names, sorted in place. Return: how many equal `name`. */
int count_name(const KStr *sorted, int32_t n, KStr name)
{
    const KStr *at = bsearch(&name, sorted, (size_t)n, sizeof(KStr), compare_names);
    if (!at)
        return 0;
    bool twice = (at > sorted && k_str_same(at[-1], name)) || (at + 1 < sorted + n && k_str_same(at[1], name));
    return twice ? 2 : 1;
}

KStr *sorted_names(Decide *d, const void *first, size_t stride, int32_t n)
{
    KStr *names = take(d, (size_t)MAX(n, 0) * sizeof(KStr));
    for (int32_t i = 0; names && i < n; i++) {
        memcpy(&names[i], (const char *)first + (size_t)i * stride, sizeof(KStr)); /* the name is the first field */
        if (names[i].len < 0)
            names[i] = (KStr){"", 0};
    }
    if (names && n > 1)
        qsort(names, (size_t)n, sizeof(KStr), compare_names);
    return names;
}

/* ---- deletion ---- */

typedef KDeleteTopicsResponseResponses Gone;

static void delete_one(Decide *d, const MetaTopic *t, bool by_id, Gone *a)
{
    if (!t) {
        a->error_code = by_id ? K_UNKNOWN_TOPIC_ID : K_UNKNOWN_TOPIC_OR_PARTITION;
    } else if (!may(d, CTL_RIGHT_ADMIN)) {
        a->error_code = K_TOPIC_AUTHORIZATION_FAILED;
    } else if (!config_bool(d->ctl->conf, "delete.topic.enable")) {
        a->error_code = d->q->api_version < 3 ? K_INVALID_REQUEST : K_TOPIC_DELETION_DISABLED;
    } else {
        KMetaRemoveTopicRecord m = {.topic_id = t->id};
        put_record(d, &k_meta_remove_topic_record, &m);
        a->topic_id = t->id;
        a->name = say(d, "%s", t->name);
    }
    if (a->error_code != K_NONE)
        a->error_message = k_str(k_error_message(a->error_code));
}

typedef struct Named { /* an item of the request */
    KStr name;
    Uuid id;
    const MetaTopic *topic;
} Named;

/* A request that names a topic twice was not meant: as in Kafka it stays, and whoever names it hears so. */
static bool is_named_again(const Named *items, int32_t n, int32_t at)
{
    for (int32_t i = 0; items[at].topic && i < n; i++)
        if (i != at && items[i].topic == items[at].topic)
            return true;
    return false;
}

static void delete_item(Decide *d, KDeleteTopicsResponse *a, const Named *items, int32_t n, int32_t at)
{
    const Named *item = &items[at];
    bool by_id = item->name.len < 0;
    Gone *one = &a->responses.items[a->responses.n++];
    *one = (Gone){.name = item->name, .topic_id = item->id, .error_message = K_STR_NULL};
    if (by_id && uuid_is_zero(&item->id)) {
        one->error_code = K_INVALID_REQUEST;
        one->error_message = say(d, "Neither topic name nor id were specified.");
    } else if (!by_id && !uuid_is_zero(&item->id)) {
        one->error_code = K_INVALID_REQUEST;
        one->error_message = say(d, "You may not specify both topic name and topic id.");
    } else if (may(d, CTL_RIGHT_ADMIN) && is_named_again(items, n, at)) { /* others are not told whose id it is */
        one->error_code = K_INVALID_REQUEST;
        one->error_message = say(d, by_id ? "Duplicate topic id." : "Duplicate topic name.");
    } else {
        delete_one(d, item->topic, by_id, one);
    }
}

static Named named(const Decide *d, KStr name, Uuid id)
{
    Named item = {.name = name, .id = id};
    if (name.len < 0)
        item.topic = meta_topic_by_id(d->image, &id);
    else if (uuid_is_zero(&id)) /* both is neither */
        item.topic = meta_topic(d->image, name.ptr, (size_t)name.len);
    return item;
}

int decide_delete_topics(Decide *d, const void *request, void *response)
{
    const KDeleteTopicsRequest *q = request;
    KDeleteTopicsResponse *a = response;
    int32_t n = d->q->api_version >= 6 ? q->topics.n : q->topic_names.n;
    if (n > CTL_RECORDS_MAX) /* one answer for all would be no answer for each: too large to be meant */
        return -EBADMSG;
    Named *items = take(d, (size_t)n * sizeof(Named));
    a->responses.items = take(d, (size_t)n * sizeof(Gone));
    for (int32_t i = 0; i < n && d->error == 0; i++)
        items[i] = d->q->api_version >= 6 ? named(d, q->topics.items[i].name, q->topics.items[i].topic_id)
                                          : named(d, q->topic_names.items[i], (Uuid){{0}});
    for (int32_t i = 0; i < n && d->error == 0; i++)
        delete_item(d, a, items, n, i);
    return 0;
}

/* ---- more partitions ---- */

typedef KCreatePartitionsRequestTopics More;
typedef KCreatePartitionsResponseResults Grown;

static int fail(Grown *a, KafkaError error, KStr why)
{
    a->error_code = error;
    a->error_message = why;
    return -1;
}

static int check_growth(Decide *d, const More *q, const MetaTopic *t, int64_t so_far, Grown *a)
{
    int32_t more = t ? q->count - t->n_partitions : 0;
    if (!t)
        return fail(a, K_UNKNOWN_TOPIC_OR_PARTITION, k_str(k_error_message(K_UNKNOWN_TOPIC_OR_PARTITION)));
    if (!may(d, CTL_RIGHT_ADMIN))
        return fail(a, K_TOPIC_AUTHORIZATION_FAILED, K_STR_NULL);
    if (t->internal) /* a group lives in the partition that its name's hash gives: another number would lose it */
        return fail(a, K_INVALID_REQUEST, say(d, "The number of partitions of %s cannot be changed.", t->name));
    if (q->count == t->n_partitions)
        return fail(a, K_INVALID_PARTITIONS, say(d, "Topic already has %d partition(s).", t->n_partitions));
    if (q->count < t->n_partitions)
        return fail(a, K_INVALID_PARTITIONS,
                    say(d, "The topic %s currently has %d partition(s); %d would not be an increase.", t->name, t->n_partitions, q->count));
    if (q->assignments.n >= 0 && q->assignments.n != more)
        return fail(a, K_INVALID_REPLICA_ASSIGNMENT,
                    say(d, "Attempted to add %d additional partition(s), but only %d assignment(s) were specified.", more, q->assignments.n));
    if (so_far + more > CTL_RECORDS_MAX / 2 || (int64_t)meta_partitions(d->image) + so_far + more > CTL_PARTITIONS_MAX)
        return fail(a, K_POLICY_VIOLATION, say(d, "Excessively large number of partitions."));
    return 0;
}

/* Return: replica lists of the new partitions in the arena, or NULL with the error. */
static int32_t *grow_replicas(Decide *d, Loads **loads, const More *q, const MetaTopic *t, Grown *a)
{
    int n_replicas = t->partitions[0].n_replicas;
    int32_t more = q->count - t->n_partitions;
    KStr why = K_STR_NULL;
    if (q->assignments.n < 0) {
        if (!*loads)
            *loads = loads_new(d);
        int32_t *ids = *loads ? assign_replicas(d, *loads, t, more, n_replicas, &why) : NULL;
        if (!ids)
            fail(a, K_INVALID_REPLICATION_FACTOR, why);
        return ids;
    }
    int32_t *ids = take(d, (size_t)more * (size_t)n_replicas * sizeof(*ids));
    for (int32_t i = 0; i < more && ids; i++) {
        const KInt32Array *brokers = &q->assignments.items[i].broker_ids;
        KafkaError error = check_assignment(d, brokers, t->n_partitions + i, n_replicas, &why);
        if (error != K_NONE) {
            fail(a, error, why);
            return NULL;
        }
        memcpy(ids + (size_t)i * (size_t)n_replicas, brokers->items, (size_t)n_replicas * sizeof(*ids));
    }
    return ids;
}

int decide_create_partitions(Decide *d, const void *request, void *response)
{
    const KCreatePartitionsRequest *q = request;
    KCreatePartitionsResponse *a = response;
    Loads *loads = NULL;
    int64_t so_far = 0;
    static_assert(offsetof(More, name) == 0, "sorted_names()");
    KStr *names = sorted_names(d, q->topics.items, sizeof(More), q->topics.n);
    a->results.items = take(d, (size_t)q->topics.n * sizeof(Grown));
    for (int32_t i = 0; i < q->topics.n && d->error == 0; i++) {
        const More *m = &q->topics.items[i];
        const MetaTopic *t = m->name.len < 0 ? NULL : meta_topic(d->image, m->name.ptr, (size_t)m->name.len);
        Grown *one = &a->results.items[a->results.n++];
        *one = (Grown){.name = m->name, .error_message = K_STR_NULL};
        if (count_name(names, q->topics.n, m->name) > 1) {
            fail(one, K_INVALID_REQUEST, say(d, "Duplicate topic name."));
            continue;
        }
        if (check_growth(d, m, t, so_far, one) < 0)
            continue;
        int32_t *ids = grow_replicas(d, &loads, m, t, one);
        int n_replicas = t->partitions[0].n_replicas;
        for (int32_t p = 0; ids && !q->validate_only && p < m->count - t->n_partitions; p++)
            put_partition(d, &t->id, t->n_partitions + p, ids + (size_t)p * (size_t)n_replicas, n_replicas);
        so_far += ids ? m->count - t->n_partitions : 0;
    }
    return 0;
}
