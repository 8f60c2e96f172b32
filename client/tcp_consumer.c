/*
 * Consuming through librdkafka. Records of a poll are librdkafka's messages, destroyed at the next poll; headers are encoded
 * again in the form of a record batch, so that leat_record_header() has one kind to walk.
 */

#include "client/tcp.h"
#include "base/clock.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

typedef struct Place { /* of one partition */
    leat_topic *topic;
    int32_t partition;
    int64_t position, stored; /* behind the last record handed out; -1 */
    bool at_end;
} Place;

struct TcpConsumer {
    rd_kafka_t *handle;
    rd_kafka_queue_t *queue;
    rd_kafka_message_t **messages; /* borrowed by the program */
    size_t n_messages, capacity;
    Arena headers;
    Place *places;
    size_t n_places;
    rd_kafka_resp_err_t error; /* of a partition, for the next poll */
    bool more; /* the last poll was full: the queue signals the fd only when it was empty */
};

/* ---- places ---------------------------------------------------------------------------------------------------------- */

static Place *place_find(const TcpConsumer *t, const char *topic, int32_t partition)
{
    for (size_t i = 0; i < t->n_places; i++)
        if (t->places[i].partition == partition && strcmp(t->places[i].topic->name, topic) == 0)
            return &t->places[i];
    return NULL;
}

static void places_add(leat_consumer *k, const rd_kafka_topic_partition_list_t *list)
{
    TcpConsumer *t = k->tcp;
    Place *grown = reallocarray(t->places, t->n_places + (size_t)list->cnt + 1, sizeof *grown);
    if (!grown)
        return;
    t->places = grown;
    for (int i = 0; i < list->cnt; i++) {
        leat_topic *topic = topic_intern(k->client, list->elems[i].topic, strlen(list->elems[i].topic));
        if (topic && !place_find(t, list->elems[i].topic, list->elems[i].partition))
            t->places[t->n_places++] = (Place){.topic = topic, .partition = list->elems[i].partition, .position = -1, .stored = -1};
    }
}

static void places_remove(TcpConsumer *t, const rd_kafka_topic_partition_list_t *list)
{
    for (int i = 0; i < list->cnt; i++) {
        Place *p = place_find(t, list->elems[i].topic, list->elems[i].partition);
        if (p)
            *p = t->places[--t->n_places];
    }
}

/* What was handed out by earlier polls may be committed. */
static void places_store(TcpConsumer *t)
{
    rd_kafka_topic_partition_list_t *list = NULL;
    for (size_t i = 0; i < t->n_places; i++) {
        Place *p = &t->places[i];
        if (p->position < 0 || p->position == p->stored)
            continue;
        if (!list)
            list = rd_kafka_topic_partition_list_new(8);
        rd_kafka_topic_partition_list_add(list, p->topic->name, p->partition)->offset = p->position;
        p->stored = p->position;
    }
    if (!list)
        return;
    rd_kafka_offsets_store(t->handle, list);
    rd_kafka_topic_partition_list_destroy(list);
}

/* ---- rebalance ------------------------------------------------------------------------------------------------------- */

static void tell(leat_consumer *k, leat_group_event_kind kind, const rd_kafka_topic_partition_list_t *list)
{
    if (!k->rebalance || consumer_names_reserve(k, (size_t)list->cnt + 1) < 0)
        return;
    for (int i = 0; i < list->cnt; i++) {
        leat_topic *topic = topic_intern(k->client, list->elems[i].topic, strlen(list->elems[i].topic));
        k->names[i] = (leat_partition){.topic = topic ? topic->name : "", .partition = list->elems[i].partition,
                                       .offset = tcp_position(k, list->elems[i].topic, list->elems[i].partition)};
    }
    leat_group_event event = {.kind = kind, .partitions = k->names, .n = (size_t)list->cnt};
    k->in_event = true;
    k->rebalance(k, &event, k->rebalance_userdata);
    k->in_event = false;
}

static void on_rebalance(rd_kafka_t *rk, rd_kafka_resp_err_t e, rd_kafka_topic_partition_list_t *list, void *opaque)
{
    leat_consumer *k = opaque;
    bool cooperative = strcmp(rd_kafka_rebalance_protocol(rk), "COOPERATIVE") == 0;
    rd_kafka_error_t *error = NULL;

    if (e == RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS) {
        if (cooperative)
            error = rd_kafka_incremental_assign(rk, list);
        else
            rd_kafka_assign(rk, list);
        places_add(k, list);
        tell(k, LEAT_GROUP_ASSIGNED, list);
    } else {
        bool lost = rd_kafka_assignment_lost(rk);
        places_store(k->tcp);
        tell(k, lost ? LEAT_GROUP_LOST : LEAT_GROUP_REVOKED, list);
        if (!lost && k->settings.auto_commit && k->settings.group_id[0])
            rd_kafka_commit(rk, NULL, 0);
        if (cooperative)
            error = rd_kafka_incremental_unassign(rk, list);
        else
            rd_kafka_assign(rk, NULL);
        places_remove(k->tcp, list);
    }
    if (error)
        rd_kafka_error_destroy(error);
}

/* ---- life ------------------------------------------------------------------------------------------------------------ */

int tcp_consumer_new(leat_consumer *k, const leat_conf *conf)
{
    char why[256];
    TcpConsumer *t = calloc(1, sizeof *t);
    if (!t)
        return client_fail(k->client, -ENOMEM, "out of memory");
    k->tcp = t;
    rd_kafka_conf_t *rkc = tcp_conf(k->client, conf, &k->settings, RD_KAFKA_CONSUMER);
    if (!rkc)
        return -EINVAL;
    rd_kafka_conf_set_opaque(rkc, k);
    rd_kafka_conf_set_rebalance_cb(rkc, on_rebalance);
    t->handle = rd_kafka_new(RD_KAFKA_CONSUMER, rkc, why, sizeof why);
    if (!t->handle) {
        rd_kafka_conf_destroy(rkc);
        return client_fail(k->client, -EINVAL, "librdkafka: %s", why);
    }
    rd_kafka_poll_set_consumer(t->handle);
    t->queue = rd_kafka_queue_get_consumer(t->handle);
    tcp_signal(k->client, t->queue);
    return 0;
}

static void release(TcpConsumer *t)
{
    for (size_t i = 0; i < t->n_messages; i++)
        rd_kafka_message_destroy(t->messages[i]);
    t->n_messages = 0;
    arena_reset(&t->headers);
}

void tcp_consumer_free(leat_consumer *k)
{
    TcpConsumer *t = k->tcp;
    if (client_check(k->client) == 0 && t->handle) {
        release(t);
        places_store(t);
        rd_kafka_consumer_close(t->handle); /* may call on_rebalance */
        rd_kafka_queue_destroy(t->queue);
        rd_kafka_destroy(t->handle);
    }
    free(t->messages);
    free(t->places);
    arena_deinit(&t->headers);
    free(t);
    k->tcp = NULL;
}

/* ---- what to read ---------------------------------------------------------------------------------------------------- */

int tcp_subscribe(leat_consumer *k, const char *const *topics, size_t n)
{
    rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new((int)n);
    for (size_t i = 0; i < n; i++)
        rd_kafka_topic_partition_list_add(list, topics[i], RD_KAFKA_PARTITION_UA);
    rd_kafka_resp_err_t e = rd_kafka_subscribe(k->tcp->handle, list);
    rd_kafka_topic_partition_list_destroy(list);
    return e ? tcp_fail(k->client, e, "subscribe") : 0;
}

int tcp_unsubscribe(leat_consumer *k)
{
    rd_kafka_resp_err_t e = rd_kafka_unsubscribe(k->tcp->handle);
    rd_kafka_assign(k->tcp->handle, NULL);
    k->tcp->n_places = 0;
    return e ? tcp_fail(k->client, e, "unsubscribe") : 0;
}

static rd_kafka_topic_partition_list_t *list_of(const leat_partition *items, size_t n)
{
    rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new((int)n);
    for (size_t i = 0; i < n; i++) /* LEAT_OFFSET_* are librdkafka's numbers */
        rd_kafka_topic_partition_list_add(list, items[i].topic, items[i].partition)->offset = items[i].offset;
    return list;
}

int tcp_assign(leat_consumer *k, const leat_partition *partitions, size_t n)
{
    static_assert(LEAT_OFFSET_COMMITTED == RD_KAFKA_OFFSET_STORED && LEAT_OFFSET_LATEST == RD_KAFKA_OFFSET_END &&
                      LEAT_OFFSET_EARLIEST == RD_KAFKA_OFFSET_BEGINNING,
                  "same numbers");
    rd_kafka_topic_partition_list_t *list = list_of(partitions, n);
    k->tcp->n_places = 0;
    rd_kafka_resp_err_t e = rd_kafka_assign(k->tcp->handle, list);
    if (!e)
        places_add(k, list);
    rd_kafka_topic_partition_list_destroy(list);
    return e ? tcp_fail(k->client, e, "assign") : 0;
}

/* librdkafka seeks only what it fetches: a partition that an error stopped is given back and taken again. Members of an eager
 * group may only take all they have at once. */
static rd_kafka_resp_err_t start_again(TcpConsumer *t, const rd_kafka_topic_partition_list_t *list)
{
    if (strcmp(rd_kafka_rebalance_protocol(t->handle), "EAGER") == 0) {
        rd_kafka_topic_partition_list_t *all = rd_kafka_topic_partition_list_new((int)t->n_places);
        for (size_t i = 0; i < t->n_places; i++) {
            const Place *p = &t->places[i];
            bool sought = strcmp(p->topic->name, list->elems[0].topic) == 0 && p->partition == list->elems[0].partition;
            rd_kafka_topic_partition_list_add(all, p->topic->name, p->partition)->offset =
                sought ? list->elems[0].offset : p->position >= 0 ? p->position : RD_KAFKA_OFFSET_STORED;
        }
        rd_kafka_resp_err_t e = rd_kafka_assign(t->handle, all);
        rd_kafka_topic_partition_list_destroy(all);
        return e;
    }
    rd_kafka_error_t *error = rd_kafka_incremental_unassign(t->handle, list);
    if (!error)
        error = rd_kafka_incremental_assign(t->handle, list);
    rd_kafka_resp_err_t e = rd_kafka_error_code(error);
    if (error)
        rd_kafka_error_destroy(error);
    return e;
}

int tcp_seek(leat_consumer *k, const char *topic, int32_t partition, int64_t offset)
{
    Place *p = topic ? place_find(k->tcp, topic, partition) : NULL;
    if (!p)
        return client_fail(k->client, -ENOENT, "%s-%d is not assigned", topic ? topic : "", partition);
    leat_partition item = {.topic = topic, .partition = partition, .offset = offset};
    rd_kafka_topic_partition_list_t *list = list_of(&item, 1);
    rd_kafka_resp_err_t e = RD_KAFKA_RESP_ERR_NO_ERROR;
    int timeout_ms = (int)k->settings.request_timeout_ms;
    if (offset == LEAT_OFFSET_COMMITTED) {
        e = rd_kafka_committed(k->tcp->handle, list, timeout_ms);
        if (!e && list->elems[0].offset < 0)
            list->elems[0].offset = k->settings.offset_reset == RESET_EARLIEST ? RD_KAFKA_OFFSET_BEGINNING : RD_KAFKA_OFFSET_END;
    }
    rd_kafka_error_t *error = e ? NULL : rd_kafka_seek_partitions(k->tcp->handle, list, timeout_ms);
    if (error)
        e = rd_kafka_error_code(error);
    else if (!e)
        e = list->elems[0].err;
    if (error)
        rd_kafka_error_destroy(error);
    if (e == RD_KAFKA_RESP_ERR__STATE)
        e = start_again(k->tcp, list);
    rd_kafka_topic_partition_list_destroy(list);
    p->position = offset >= 0 ? offset : -1;
    p->at_end = false;
    return e ? tcp_fail(k->client, e, topic) : 0;
}

int tcp_pause(leat_consumer *k, const char *topic, int32_t partition, bool pause)
{
    if (!topic || !place_find(k->tcp, topic, partition))
        return client_fail(k->client, -ENOENT, "%s-%d is not assigned", topic ? topic : "", partition);
    leat_partition item = {.topic = topic, .partition = partition};
    rd_kafka_topic_partition_list_t *list = list_of(&item, 1);
    rd_kafka_resp_err_t e = pause ? rd_kafka_pause_partitions(k->tcp->handle, list) : rd_kafka_resume_partitions(k->tcp->handle, list);
    rd_kafka_topic_partition_list_destroy(list);
    return e ? tcp_fail(k->client, e, topic) : 0;
}

int64_t tcp_position(const leat_consumer *k, const char *topic, int32_t partition)
{
    const Place *p = topic ? place_find(k->tcp, topic, partition) : NULL;
    return p ? p->position : -1;
}

size_t tcp_assignment(const leat_consumer *k, leat_partition *ret, size_t n_max)
{
    const TcpConsumer *t = k->tcp;
    for (size_t i = 0; i < MIN(n_max, t->n_places); i++)
        ret[i] = (leat_partition){.topic = t->places[i].topic->name, .partition = t->places[i].partition, .offset = t->places[i].position};
    return t->n_places;
}

bool tcp_at_end(const leat_consumer *k)
{
    for (size_t i = 0; i < k->tcp->n_places; i++)
        if (!k->tcp->places[i].at_end)
            return false;
    return k->tcp->n_places > 0;
}

/* ---- commits --------------------------------------------------------------------------------------------------------- */

int tcp_commit_offsets(leat_consumer *k, const leat_partition *items, size_t n, int64_t timeout_ms)
{
    TcpConsumer *t = k->tcp;
    rd_kafka_topic_partition_list_t *list;

    if (!k->settings.group_id[0])
        return client_fail(k->client, -EINVAL, "committing needs group.id");
    if (items) {
        list = list_of(items, n);
    } else {
        list = rd_kafka_topic_partition_list_new((int)t->n_places);
        for (size_t i = 0; i < t->n_places; i++)
            if (t->places[i].position >= 0)
                rd_kafka_topic_partition_list_add(list, t->places[i].topic->name, t->places[i].partition)->offset = t->places[i].position;
    }
    rd_kafka_resp_err_t e = list->cnt ? rd_kafka_commit(t->handle, list, timeout_ms == 0) : RD_KAFKA_RESP_ERR_NO_ERROR;
    rd_kafka_topic_partition_list_destroy(list);
    return e ? tcp_fail(k->client, e, "offset commit") : 0;
}

int tcp_committed(leat_consumer *k, leat_partition *inout, size_t n, int64_t timeout_ms)
{
    if (!k->settings.group_id[0])
        return client_fail(k->client, -EINVAL, "committed offsets need group.id");
    rd_kafka_topic_partition_list_t *list = list_of(inout, n);
    rd_kafka_resp_err_t e = rd_kafka_committed(k->tcp->handle, list, (int)MIN(MAX(timeout_ms, 1), INT32_MAX));
    for (size_t i = 0; !e && i < n; i++) {
        const rd_kafka_topic_partition_t *at = rd_kafka_topic_partition_list_find(list, inout[i].topic, inout[i].partition);
        inout[i].error = at ? tcp_error(at->err) : -EPROTO;
        inout[i].offset = at && at->offset >= 0 ? at->offset : -1;
    }
    rd_kafka_topic_partition_list_destroy(list);
    return e ? tcp_fail(k->client, e, "committed offsets") : 0;
}

/* ---- polling --------------------------------------------------------------------------------------------------------- */

static void encode_headers(TcpConsumer *t, rd_kafka_message_t *m, leat_record *ret)
{
    rd_kafka_headers_t *headers;
    if (rd_kafka_message_headers(m, &headers) != RD_KAFKA_RESP_ERR_NO_ERROR)
        return;
    size_t size = 0, n = 0, value_size;
    const char *name;
    const void *value;
    while (rd_kafka_header_get_all(headers, n, &name, &value, &value_size) == RD_KAFKA_RESP_ERR_NO_ERROR) {
        size += 20 + strlen(name) + value_size;
        n++;
    }
    uint8_t *at = arena_alloc(&t->headers, size + 1), *start = at;
    if (!at)
        return;
    for (size_t i = 0; i < n; i++) {
        rd_kafka_header_get_all(headers, i, &name, &value, &value_size);
        size_t name_size = strlen(name);
        at += varint_encode((int64_t)name_size, at);
        memcpy(at, name, name_size);
        at += name_size;
        at += varint_encode(value ? (int64_t)value_size : -1, at);
        if (value && value_size)
            memcpy(at, value, value_size);
        at += value ? value_size : 0;
    }
    ret->headers = start;
    ret->headers_size = (size_t)(at - start);
    ret->headers_count = n;
}

static void take_record(leat_consumer *k, rd_kafka_message_t *m, leat_record *ret)
{
    const char *name = rd_kafka_topic_name(m->rkt);
    rd_kafka_timestamp_type_t type;
    Place *p = place_find(k->tcp, name, m->partition);

    *ret = (leat_record){
        .topic = p ? p->topic : topic_intern(k->client, name, strlen(name)),
        .partition = m->partition,
        .leader_epoch = -1,
        .offset = m->offset,
        .timestamp_ms = rd_kafka_message_timestamp(m, &type),
        .key = m->key,
        .key_size = m->key ? (ptrdiff_t)m->key_len : -1,
        .value = m->payload,
        .value_size = m->payload ? (ptrdiff_t)m->len : -1,
    };
    encode_headers(k->tcp, m, ret);
    if (p) {
        p->position = m->offset + 1;
        p->at_end = false;
    }
    k->tcp->messages[k->tcp->n_messages++] = m;
}

/* librdkafka goes on by itself after these. */
static bool is_passing(rd_kafka_resp_err_t e)
{
    return e == RD_KAFKA_RESP_ERR__TRANSPORT || e == RD_KAFKA_RESP_ERR__ALL_BROKERS_DOWN || e == RD_KAFKA_RESP_ERR__RESOLVE ||
           e == RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART || e == RD_KAFKA_RESP_ERR__TIMED_OUT ||
           ((int)e > 0 && k_error_is_retriable((KafkaError)e));
}

static void take_error(leat_consumer *k, rd_kafka_message_t *m)
{
    if (m->err == RD_KAFKA_RESP_ERR__PARTITION_EOF) {
        Place *p = place_find(k->tcp, rd_kafka_topic_name(m->rkt), m->partition);
        if (p)
            p->at_end = true;
    } else if (!is_passing(m->err)) {
        k->tcp->error = m->err;
        consumer_report(k, tcp_error(m->err), (int16_t)MAX((int)m->err, 0), m->rkt ? rd_kafka_topic_name(m->rkt) : "consumer");
    }
    rd_kafka_message_destroy(m);
}

bool tcp_has_records(const leat_consumer *k)
{
    return k->tcp->more || k->error < 0;
}

int tcp_poll(leat_consumer *k, int64_t timeout_ms, leat_record *ret, size_t n_max)
{
    TcpConsumer *t = k->tcp;
    int64_t deadline_ms = timeout_ms < 0 ? INT64_MAX : clock_mono_ms() + timeout_ms;
    size_t n = 0;

    release(t);
    places_store(t);
    t->more = false;
    n_max = MIN(n_max, 65536);
    if (n_max > t->capacity) {
        rd_kafka_message_t **grown = reallocarray(t->messages, n_max, sizeof(rd_kafka_message_t *));
        if (!grown)
            return client_fail(k->client, -ENOMEM, "out of memory");
        t->messages = grown;
        t->capacity = n_max;
    }
    tcp_turn(k->client);
    while (n < n_max && k->error == 0) {
        int64_t left_ms = n ? 0 : MAX(deadline_ms - clock_mono_ms(), 0);
        rd_kafka_message_t *m = rd_kafka_consumer_poll(t->handle, (int)MIN(left_ms, 100));
        if (m && m->err)
            take_error(k, m);
        else if (m)
            take_record(k, m, &ret[n++]);
        else if (n || left_ms <= 100) /* slices, so that a signal handler's flag is seen */
            break;
    }
    t->more = n == n_max;
    if (n == 0 && k->error < 0) {
        client_fail(k->client, k->error, "%s", k->error_text);
        k->client->kafka_error = k->kafka_error;
        int r = k->error;
        k->error = 0;
        return r;
    }
    return (int)n;
}
