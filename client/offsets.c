/*
 * Offsets by request: commit, the group's committed offsets, earliest and latest. Answers find their parts by generation, so
 * a part that was moved or taken away in the meantime is left alone.
 */

#include "client/consumer.h"
#include "base/clock.h"
#include "client/group.h"
#include "client/tcp.h"
#include "wire/messages.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct AskItem {
    leat_topic *topic;
    int32_t partition;
    uint32_t generation;
    int64_t want; /* LEAT_OFFSET_EARLIEST or _LATEST */
} AskItem;

typedef struct OffsetsAsk {
    leat_consumer *consumer;
    size_t n;
    AskItem items[];
} OffsetsAsk;

/* ---- asking for parts ---------------------------------------------------------------------------------------------- */

static OffsetsAsk *ask_new(leat_consumer *k, PartState state)
{
    OffsetsAsk *ask = calloc(1, sizeof *ask + k->n_parts * sizeof ask->items[0]);
    if (!ask)
        return NULL;
    ask->consumer = k;
    for (size_t i = 0; i < k->n_parts; i++) {
        Part *p = k->parts[i];
        if (p->state != state || p->asked || p->retry_at_ns > clock_mono_ns())
            continue;
        p->asked = true;
        ask->items[ask->n++] = (AskItem){p->topic, p->partition, p->generation, p->want};
    }
    return ask;
}

static Part *ask_part(const AskItem *item)
{
    Part *p = item->partition < item->topic->n_parts ? item->topic->parts[item->partition] : NULL;
    return p && p->generation == item->generation ? p : NULL;
}

/* Parts that got no answer ask again a little later. */
static void ask_end(OffsetsAsk *ask)
{
    leat_consumer *k = ask->consumer;
    int64_t later_ns = clock_mono_ns() + k->settings.retry_backoff_ms * NS_PER_MS;

    for (size_t i = 0; i < ask->n; i++) {
        Part *p = ask_part(&ask->items[i]);
        if (p && p->asked) {
            p->asked = false;
            p->retry_at_ns = later_ns;
        }
    }
    k->dirty = true;
    k->due_ns = 0;
    free(ask);
}

static Part *answer_part(const OffsetsAsk *ask, KStr topic, int32_t partition)
{
    for (size_t i = 0; i < ask->n; i++)
        if (ask->items[i].partition == partition && k_str_equal(topic, ask->items[i].topic->name))
            return ask_part(&ask->items[i]);
    return NULL;
}

/* Distinct topics of the items in order of first appearance. Return: count. */
static size_t topics_of(const AskItem *items, size_t n, leat_topic **ret)
{
    size_t n_topics = 0;

    for (size_t i = 0; i < n; i++) {
        size_t k = 0;
        while (k < n_topics && ret[k] != items[i].topic)
            k++;
        if (k == n_topics)
            ret[n_topics++] = items[i].topic;
    }
    return n_topics;
}

static int reset_offset(const leat_consumer *k)
{
    return k->settings.offset_reset == RESET_EARLIEST ? LEAT_OFFSET_EARLIEST : LEAT_OFFSET_LATEST;
}

static void part_has_no_commit(Part *p)
{
    char what[300];

    if (p->consumer->settings.offset_reset != RESET_NONE) {
        part_start_at(p, reset_offset(p->consumer));
        return;
    }
    snprintf(what, sizeof what, "%.200s-%d has no committed offset and auto.offset.reset=none", p->topic->name, p->partition);
    p->state = PART_FAILED;
    consumer_report(p->consumer, -ERANGE, K_OFFSET_OUT_OF_RANGE, what);
}

static void committed_part(Part *p, int64_t offset, int32_t epoch, int16_t error)
{
    if (error != K_NONE)
        return; /* ask_end() asks again */
    p->asked = false;
    if (offset < 0) {
        part_has_no_commit(p);
        return;
    }
    part_start_at(p, offset);
    p->committed = offset;
    p->leader_epoch = epoch;
}

static void committed_answered(void *userdata, int error, const void *body, size_t size)
{
    OffsetsAsk *ask = userdata;
    leat_consumer *k = ask->consumer;
    Arena arena = ARENA_NULL;
    KOffsetFetchResponse a;

    k->committed_request = NULL;
    k->committed_ask = NULL;
    if (error == 0)
        error = request_decode(K_API_OFFSET_FETCH, body, size, &arena, &a);
    if (error == 0 && a.error_code != K_NONE && !k_error_is_retriable(a.error_code))
        consumer_report(k, error_from_kafka(a.error_code), a.error_code, "committed offsets");
    for (int32_t i = 0; error == 0 && a.error_code == K_NONE && i < a.topics.n; i++) {
        KOffsetFetchResponseTopics *t = &a.topics.items[i];
        for (int32_t j = 0; j < t->partitions.n; j++) {
            KOffsetFetchResponseTopicsPartitions *q = &t->partitions.items[j];
            Part *p = answer_part(ask, t->name, q->partition_index);
            if (p)
                committed_part(p, q->committed_offset, q->committed_leader_epoch, q->error_code);
        }
    }
    arena_deinit(&arena);
    ask_end(ask);
}

static int committed_encode(leat_consumer *k, const AskItem *items, size_t n, const RequestOptions *o, Request **ret)
{
    Arena arena = ARENA_NULL;
    KOffsetFetchRequest q;
    leat_topic **topics = arena_alloc(&arena, n * sizeof *topics + 1);
    size_t n_topics = topics ? topics_of(items, n, topics) : 0;
    int r = -ENOMEM;

    k_message_init(&k_offset_fetch_request, &q);
    q.group_id = k_str(k->settings.group_id);
    q.topics.items = arena_alloc(&arena, n_topics * sizeof *q.topics.items + 1);
    q.topics.n = (int32_t)n_topics;
    int32_t *indexes = arena_alloc(&arena, n * sizeof *indexes + 1);
    if (topics && q.topics.items && indexes) {
        for (size_t i = 0; i < n_topics; i++) {
            q.topics.items[i].name = k_str(topics[i]->name);
            q.topics.items[i].partition_indexes.items = indexes;
            for (size_t j = 0; j < n; j++)
                if (items[j].topic == topics[i])
                    *indexes++ = items[j].partition;
            q.topics.items[i].partition_indexes.n = (int32_t)(indexes - q.topics.items[i].partition_indexes.items);
        }
        r = request_start(k->client, o, &q, ret);
    }
    arena_deinit(&arena);
    return r;
}

void offsets_ask_committed(leat_consumer *k)
{
    if (k->committed_request)
        return; /* its answer sets dirty */
    if (!k->settings.group_id[0]) {
        for (size_t i = 0; i < k->n_parts; i++)
            if (k->parts[i]->state == PART_NEED_COMMITTED)
                part_has_no_commit(k->parts[i]);
        return;
    }
    OffsetsAsk *ask = ask_new(k, PART_NEED_COMMITTED);
    if (!ask)
        return;
    RequestOptions o = {.api_key = K_API_OFFSET_FETCH, .again = true,
                        .timeout_ms = k->settings.request_timeout_ms, .fn = committed_answered, .userdata = ask};
    if (ask->n == 0 || committed_encode(k, ask->items, ask->n, &o, &k->committed_request) < 0)
        ask_end(ask);
    else
        k->committed_ask = ask;
}

/* ---- earliest and latest ------------------------------------------------------------------------------------------- */

static void list_answered(void *userdata, int error, const void *body, size_t size)
{
    OffsetsAsk *ask = userdata;
    leat_consumer *k = ask->consumer;
    Arena arena = ARENA_NULL;
    KListOffsetsResponse a;

    k->offsets_request = NULL;
    k->offsets_ask = NULL;
    if (error == 0)
        error = request_decode(K_API_LIST_OFFSETS, body, size, &arena, &a);
    for (int32_t i = 0; error == 0 && i < a.topics.n; i++) {
        KListOffsetsResponseTopics *t = &a.topics.items[i];
        for (int32_t j = 0; j < t->partitions.n; j++) {
            KListOffsetsResponseTopicsPartitions *q = &t->partitions.items[j];
            Part *p = answer_part(ask, t->name, q->partition_index);
            if (p && q->error_code == K_NONE && q->offset >= 0)
                part_start_at(p, q->offset);
            else if (p && q->error_code == K_TOPIC_AUTHORIZATION_FAILED)
                part_error(p, q->error_code);
        }
    }
    arena_deinit(&arena);
    ask_end(ask);
}

static int list_encode(leat_consumer *k, const OffsetsAsk *ask, const RequestOptions *o)
{
    Arena arena = ARENA_NULL;
    KListOffsetsRequest q;
    leat_topic **topics = arena_alloc(&arena, ask->n * sizeof *topics + 1);
    size_t n_topics = topics ? topics_of(ask->items, ask->n, topics) : 0;
    KListOffsetsRequestTopicsPartitions *at = arena_alloc(&arena, ask->n * sizeof *at + 1);
    int r = -ENOMEM;

    k_message_init(&k_list_offsets_request, &q);
    q.replica_id = -1;
    q.isolation_level = (int8_t)k->settings.isolation;
    q.topics.items = arena_alloc(&arena, n_topics * sizeof *q.topics.items + 1);
    q.topics.n = (int32_t)n_topics;
    if (topics && at && q.topics.items) {
        for (size_t i = 0; i < n_topics; i++) {
            q.topics.items[i].name = k_str(topics[i]->name);
            q.topics.items[i].partitions.items = at;
            for (size_t j = 0; j < ask->n; j++) {
                if (ask->items[j].topic != topics[i])
                    continue;
                at->partition_index = ask->items[j].partition;
                at->current_leader_epoch = -1;
                at++->timestamp = ask->items[j].want;
            }
            q.topics.items[i].partitions.n = (int32_t)(at - q.topics.items[i].partitions.items);
        }
        r = request_start(k->client, o, &q, &k->offsets_request);
    }
    arena_deinit(&arena);
    return r;
}

void offsets_ask_list(leat_consumer *k)
{
    if (k->offsets_request)
        return;
    OffsetsAsk *ask = ask_new(k, PART_NEED_OFFSET);
    if (!ask)
        return;
    RequestOptions o = {.api_key = K_API_LIST_OFFSETS, .again = true,
                        .timeout_ms = k->settings.request_timeout_ms, .fn = list_answered, .userdata = ask};
    if (ask->n == 0 || list_encode(k, ask, &o) < 0)
        ask_end(ask);
    else
        k->offsets_ask = ask;
}

void offsets_cancel(leat_consumer *k)
{
    k->offsets_request = request_cancel(k->offsets_request);
    k->committed_request = request_cancel(k->committed_request);
    free(TAKE(k->offsets_ask));
    free(TAKE(k->committed_ask));
}

/* ---- commit -------------------------------------------------------------------------------------------------------- */

typedef struct Commit {
    List node; /* consumer->commits */
    leat_consumer *consumer;
    Request *request;
    CommitFn fn;
    void *userdata;
    size_t n;
    CommitItem items[];
} Commit;

static void commit_end(Commit *m, int error, int16_t kafka_error)
{
    CommitFn fn = m->fn;
    void *userdata = m->userdata;

    list_remove(&m->node);
    free(m);
    if (fn)
        fn(userdata, error, kafka_error);
}

static void commit_answered(void *userdata, int error, const void *body, size_t size)
{
    Commit *m = userdata;
    leat_consumer *k = m->consumer;
    Arena arena = ARENA_NULL;
    KOffsetCommitResponse a;
    int16_t first = K_NONE;

    if (error == 0)
        error = request_decode(K_API_OFFSET_COMMIT, body, size, &arena, &a);
    for (int32_t i = 0; error == 0 && i < a.topics.n; i++)
        for (int32_t j = 0; j < a.topics.items[i].partitions.n; j++)
            if (first == K_NONE)
                first = a.topics.items[i].partitions.items[j].error_code;
    arena_deinit(&arena);
    for (size_t i = 0; error == 0 && first == K_NONE && i < m->n; i++) {
        Part *p = m->items[i].partition < m->items[i].topic->n_parts ? m->items[i].topic->parts[m->items[i].partition] : NULL;
        if (p && p->consumer == k)
            p->committed = m->items[i].offset;
    }
    if (first != K_NONE && k->group)
        group_commit_failed(k->group, first);
    commit_end(m, first != K_NONE ? error_from_kafka(first) : error, first);
}

static int commit_encode(Commit *m, const RequestOptions *o)
{
    leat_consumer *k = m->consumer;
    Arena arena = ARENA_NULL;
    KOffsetCommitRequest q;
    KOffsetCommitRequestTopicsPartitions *at = arena_alloc(&arena, m->n * sizeof *at + 1);
    int r = -ENOMEM;

    k_message_init(&k_offset_commit_request, &q);
    q.group_id = k_str(k->settings.group_id);
    q.generation_id_or_member_epoch = -1;
    q.member_id = k_str("");
    q.group_instance_id = K_STR_NULL;
    group_stamp_commit(k->group, &q);
    q.topics.items = arena_alloc(&arena, m->n * sizeof *q.topics.items + 1);
    q.topics.n = 0;
    for (size_t i = 0; at && q.topics.items && i < m->n; i++) {
        bool seen = false;
        for (size_t j = 0; j < i && !seen; j++)
            seen = m->items[j].topic == m->items[i].topic;
        if (seen)
            continue;
        KOffsetCommitRequestTopics *t = &q.topics.items[q.topics.n++];
        t->name = k_str(m->items[i].topic->name);
        t->partitions.items = at;
        for (size_t j = i; j < m->n; j++)
            if (m->items[j].topic == m->items[i].topic)
                *at++ = (KOffsetCommitRequestTopicsPartitions){
                    .partition_index = m->items[j].partition, .committed_offset = m->items[j].offset,
                    .committed_leader_epoch = m->items[j].leader_epoch, .committed_metadata = k_str("")};
        t->partitions.n = (int32_t)(at - t->partitions.items);
    }
    if (at && q.topics.items)
        r = request_start(k->client, o, &q, &m->request);
    arena_deinit(&arena);
    return r;
}

int commit_start(leat_consumer *k, const CommitItem *items, size_t n, CommitFn fn, void *userdata)
{
    if (!k->settings.group_id[0])
        return client_fail(k->client, -EINVAL, "committing needs group.id");
    Commit *m = calloc(1, sizeof *m + n * sizeof m->items[0]);
    if (!m)
        return client_fail(k->client, -ENOMEM, "out of memory");
    *m = (Commit){.consumer = k, .fn = fn, .userdata = userdata, .n = n};
    memcpy(m->items, items, n * sizeof *items);
    list_append(&k->commits, &m->node);
    RequestOptions o = {.api_key = K_API_OFFSET_COMMIT, .again = true,
                        .timeout_ms = k->settings.request_timeout_ms, .fn = commit_answered, .userdata = m};
    int r = commit_encode(m, &o);
    if (r < 0) {
        list_remove(&m->node);
        free(m);
    }
    return r;
}

int commit_positions(leat_consumer *k, CommitFn fn, void *userdata)
{
    CommitItem *items = calloc(k->n_parts + 1, sizeof *items);
    size_t n = 0;

    if (!items)
        return client_fail(k->client, -ENOMEM, "out of memory");
    for (size_t i = 0; i < k->n_parts; i++) {
        Part *p = k->parts[i];
        if (p->position >= 0 && p->position != p->committed)
            items[n++] = (CommitItem){p->topic, p->partition, p->position, p->leader_epoch};
    }
    int r = n == 0 ? 1 : commit_start(k, items, n, fn, userdata);
    free(items);
    return r;
}

void commits_cancel(leat_consumer *k)
{
    while (!list_is_empty(&k->commits)) {
        Commit *m = CONTAINER_OF(k->commits.next, Commit, node);
        request_cancel(m->request);
        list_remove(&m->node);
        free(m);
    }
}

/* ---- public -------------------------------------------------------------------------------------------------------- */

typedef struct CommitCall {
    bool done;
    int error;
    int16_t kafka_error;
} CommitCall;

static void commit_call_done(void *userdata, int error, int16_t kafka_error)
{
    *(CommitCall *)userdata = (CommitCall){.done = true, .error = error, .kafka_error = kafka_error};
}

static bool commit_call_is_done(void *userdata)
{
    return ((CommitCall *)userdata)->done;
}

static int items_from_public(leat_consumer *k, const leat_partition *items, size_t n, CommitItem **ret)
{
    CommitItem *out = calloc(n + 1, sizeof *out);
    if (!out)
        return client_fail(k->client, -ENOMEM, "out of memory");
    for (size_t i = 0; i < n; i++) {
        leat_topic *t = topic_intern(k->client, items[i].topic, strlen(items[i].topic));
        if (!t) {
            free(out);
            return client_fail(k->client, -ENOMEM, "out of memory");
        }
        out[i] = (CommitItem){t, items[i].partition, items[i].offset, -1};
    }
    *ret = out;
    return 0;
}

/* In a group one may be told to wait: the coordinator loads, or rebalances while our generation still holds. A topic that is
 * not there is no reason to wait, as in Java. */
static bool is_passing(int16_t kafka_error)
{
    return kafka_error != K_NONE && kafka_error != K_UNKNOWN_TOPIC_OR_PARTITION && k_error_is_retriable(kafka_error);
}

int commit_and_wait(leat_consumer *k, const CommitItem *items, size_t n, int64_t timeout_ms)
{
    int64_t deadline_ns = clock_mono_ns() + timeout_ms * NS_PER_MS;
    int16_t last_error = K_NONE;

    for (;;) {
        CommitCall call = {0};
        int r = items ? commit_start(k, items, n, commit_call_done, &call) : commit_positions(k, commit_call_done, &call);
        if (r != 0)
            return r > 0 ? 0 : r;
        r = client_run_until(k->client, commit_call_is_done, &call, deadline_ns);
        if (!call.done) { /* the answer, if it comes, finds nobody */
            list_for_each(it, &k->commits)
                if (CONTAINER_OF(it, Commit, node)->userdata == &call)
                    CONTAINER_OF(it, Commit, node)->fn = NULL;
            if (r == -ETIMEDOUT && last_error)
                return client_fail_kafka(k->client, last_error, "offset commit");
            return r < 0 ? client_fail(k->client, r, "offsets: no answer within %lld ms", (long long)timeout_ms) : r;
        }
        if (call.error == 0)
            return 0;
        last_error = call.kafka_error;
        if (!is_passing(call.kafka_error) || !client_back_off(k->client, deadline_ns))
            return call.kafka_error ? client_fail_kafka(k->client, call.kafka_error, "offset commit")
                                    : client_fail(k->client, call.error, "offset commit: %s", leat_strerror(call.error));
    }
}

PUBLIC int leat_commit_offsets(leat_consumer *consumer, const leat_partition *items, size_t n, int64_t timeout_ms)
{
    int r = consumer ? items_check(consumer->client, items, items ? n : 0) : -EINVAL;
    if (r < 0)
        return r;
    for (size_t i = 0; items && i < n; i++)
        if (items[i].offset < 0)
            return client_fail(consumer->client, -EINVAL, "item %zu: offset %lld", i, (long long)items[i].offset);
    timeout_ms = client_timeout_ms(consumer->client, timeout_ms);
    if (consumer->tcp)
        return tcp_commit_offsets(consumer, items, n, timeout_ms);
    CommitItem *list = NULL;
    if (items && (r = items_from_public(consumer, items, n, &list)) < 0)
        return r;
    if (timeout_ms > 0) {
        r = commit_and_wait(consumer, list, n, timeout_ms);
    } else {
        r = list ? commit_start(consumer, list, n, NULL, NULL) : commit_positions(consumer, NULL, NULL);
        r = MIN(r, 0);
        client_doorbell(consumer->client);
    }
    free(list);
    return r;
}

/* One answer of OffsetFetch put into the caller's items. */
static void committed_fill(const KOffsetFetchResponse *a, leat_partition *inout, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        inout[i].offset = -1;
        inout[i].error = -ENOENT;
        for (int32_t t = 0; t < a->topics.n; t++) {
            if (!k_str_equal(a->topics.items[t].name, inout[i].topic))
                continue;
            for (int32_t j = 0; j < a->topics.items[t].partitions.n; j++) {
                KOffsetFetchResponseTopicsPartitions *q = &a->topics.items[t].partitions.items[j];
                if (q->partition_index != inout[i].partition)
                    continue;
                inout[i].offset = q->committed_offset;
                inout[i].error = error_from_kafka(q->error_code);
            }
        }
    }
}

PUBLIC int leat_committed(leat_consumer *consumer, leat_partition *inout, size_t n, int64_t timeout_ms)
{
    int r = consumer ? items_check(consumer->client, inout, n) : -EINVAL;
    if (r < 0)
        return r;
    timeout_ms = client_timeout_ms(consumer->client, timeout_ms);
    if (consumer->tcp)
        return tcp_committed(consumer, inout, n, timeout_ms);
    leat_client *c = consumer->client;
    if (!consumer->settings.group_id[0])
        return client_fail(c, -EINVAL, "committed offsets need group.id");
    int64_t deadline_ns = clock_mono_ns() + timeout_ms * NS_PER_MS;
    Arena arena = ARENA_NULL;
    KOffsetFetchRequest q;
    KOffsetFetchResponse a;
    k_message_init(&k_offset_fetch_request, &q);
    q.group_id = k_str(consumer->settings.group_id);
    q.topics.items = arena_alloc(&arena, n * sizeof *q.topics.items + 1);
    q.topics.n = (int32_t)n;
    for (size_t i = 0; q.topics.items && i < n; i++) {
        q.topics.items[i].name = k_str(inout[i].topic);
        q.topics.items[i].partition_indexes.items = &inout[i].partition;
        q.topics.items[i].partition_indexes.n = 1;
    }
    do {
        int64_t left_ms = MAX((deadline_ns - clock_mono_ns()) / NS_PER_MS, 1);
        r = q.topics.items ? request_call(c, K_API_OFFSET_FETCH, true, &q, left_ms, &arena, &a) : -ENOMEM;
    } while (r == 0 && is_passing(a.error_code) && client_back_off(c, deadline_ns));
    if (r == 0 && a.error_code != K_NONE)
        r = client_fail_kafka(c, a.error_code, "committed offsets");
    if (r == 0)
        committed_fill(&a, inout, n);
    arena_deinit(&arena);
    return r;
}
