/*
 * Groups as their coordinator and the logs tell them; see groups.h.
 *
 * Lag is end offset minus committed offset, per partition; a partition that a member reads but nobody has committed yet
 * counts from the log's start. Lag in time is the age of the oldest record not yet read. The broker's time index answers it:
 * ListOffsets names the first record at or after a time, so the time of the record at an offset is found by halving, for all
 * partitions of a topic together, without reading a record.
 */

#include "mqctl/groups.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/text.h"
#include "mqctl/connect.h"
#include "mqctl/output.h"
#include "mqctl/topics.h"

#define AGAIN_MS        20
#define PATIENCE_MS     1000              /* then the user is told what we wait for */
#define AHEAD_MS        INT64_C(86400000) /* no record is dated further ahead of us */
#define HUNT_ROUNDS_MAX 60

static char *text_of(Mq *m, KStr s)
{
    return s.len < 0 ? NULL : mq_printf(m, "%.*s", s.len, s.ptr);
}

/* ---- requests ------------------------------------------------------------------------------------------------------ */

static const char *address_of(Mq *m, KStr host, int32_t port)
{
    bool v6 = memchr(host.ptr, ':', (size_t)host.len) != NULL;
    return mq_printf(m, v6 ? "[%.*s]:%d" : "%.*s:%d", host.len, host.ptr, port);
}

/* Who coordinates a group. Over a session the broker knows; but asking also makes the topic of the offsets, which a new node
 * lacks, so there we ask when the coordinator was not available. Return: 0 with *ret_error, or an exit status. */
static int find_coordinator(Mq *m, const char *group, bool again, const char **ret_address, KafkaError *ret_error)
{
    KFindCoordinatorRequest request;
    KFindCoordinatorResponse response;
    int r = target_resolve(m);

    *ret_address = NULL;
    *ret_error = K_NONE;
    if (r != 0 || (!connect_is_tcp(m) && !again))
        return r;
    k_message_init(&k_find_coordinator_request, &request);
    request.key = k_str(group);
    r = api_call(m, K_API_FIND_COORDINATOR, 2, &request, &response);
    if (r != 0)
        return r;
    *ret_error = response.error_code;
    if (response.error_code == K_NONE && connect_is_tcp(m))
        *ret_address = address_of(m, response.host, response.port);
    return 0;
}

static bool may_change(KafkaError error)
{
    return error == K_COORDINATOR_LOAD_IN_PROGRESS || error == K_COORDINATOR_NOT_AVAILABLE || error == K_NOT_COORDINATOR;
}

int group_call(Mq *m, const char *group, int16_t key, int16_t version, const void *request, void *ret_response,
               KafkaError (*error_of)(const void *response))
{
    int64_t start = clock_mono_ms();
    bool told = false;

    for (bool again = false;; again = true) {
        const char *address;
        KafkaError error;
        int64_t waited;
        int r = find_coordinator(m, group, again, &address, &error);

        if (r == 0 && error == K_NONE) {
            r = api_call_at(m, address, key, version, request, ret_response);
            error = r == 0 ? error_of(ret_response) : K_NONE;
            if (r == 0 && !may_change(error))
                return 0;
        } else if (r == 0 && !may_change(error)) {
            r = mq_fail_kafka(m, error, NULL, "coordinator of group %s", group);
        }
        if (r != 0)
            return r;
        waited = clock_mono_ms() - start;
        if (mq_interrupted)
            return MQ_E_INTERRUPTED;
        if (waited >= m->timeout_ms) {
            mq_fail_kafka(m, error, NULL, "coordinator of group %s, after %lld ms", group, (long long)waited);
            mq_hint(m, "mqctl supervisor status");
            return MQ_E_TIMEOUT;
        }
        if (!told && waited >= PATIENCE_MS) {
            mq_note(m, "waiting for the coordinator of group %s (%s)", group, k_error_name(error));
            told = true;
        }
        usleep(AGAIN_MS * 1000);
    }
}

static KafkaError describe_error(const void *response)
{
    const KDescribeGroupsResponse *r = response;
    return r->groups.n > 0 ? r->groups.items[0].error_code : K_NONE;
}

int group_describe(Mq *m, const char *group, KDescribeGroupsResponseGroups *ret)
{
    KStr name = k_str(group);
    KDescribeGroupsRequest request;
    KDescribeGroupsResponse response;
    int r;

    k_message_init(&k_describe_groups_request, &request);
    request.groups.items = &name;
    request.groups.n = 1;
    r = group_call(m, group, K_API_DESCRIBE_GROUPS, 5, &request, &response, describe_error);
    if (r == 0 && response.groups.n != 1)
        return mq_fail(m, MQ_E_FAILED, "group %s: empty answer", group);
    if (r == 0 && response.groups.items[0].error_code != 0)
        return mq_fail_kafka(m, response.groups.items[0].error_code, NULL, "group %s", group);
    if (r == 0)
        *ret = response.groups.items[0];
    return r;
}

static KafkaError list_error(const void *response)
{
    return ((const KListGroupsResponse *)response)->error_code;
}

/* The groups of one coordinator. @address NULL: of the node at the other end of the session. */
static int names_of(Mq *m, const char *address, GroupName **inout, size_t *inout_n)
{
    int64_t deadline = clock_mono_ms() + m->timeout_ms;
    KListGroupsRequest request;
    KListGroupsResponse response;
    GroupName *all;
    int r;

    k_message_init(&k_list_groups_request, &request);
    do {
        r = api_call_at(m, address, K_API_LIST_GROUPS, 4, &request, &response);
    } while (r == 0 && may_change(list_error(&response)) && clock_mono_ms() < deadline && !mq_interrupted &&
             usleep(AGAIN_MS * 1000) == 0);
    if (r == 0 && response.error_code != 0)
        r = mq_fail_kafka(m, response.error_code, NULL, "list of groups");
    if (r != 0)
        return r;
    all = mq_alloc(m, (*inout_n + (size_t)response.groups.n + 1) * sizeof *all);
    if (*inout_n > 0)
        memcpy(all, *inout, *inout_n * sizeof *all);
    for (int32_t i = 0; i < response.groups.n; i++) {
        const KListGroupsResponseGroups *g = &response.groups.items[i];
        all[(*inout_n)++] = (GroupName){text_of(m, g->group_id), text_of(m, g->group_state), text_of(m, g->protocol_type)};
    }
    *inout = all;
    return 0;
}

int group_names(Mq *m, GroupName **ret, size_t *ret_n)
{
    KMetadataResponse meta;
    int r = target_resolve(m);

    *ret = NULL;
    *ret_n = 0;
    if (r != 0 || !connect_is_tcp(m))
        return r ? r : names_of(m, NULL, ret, ret_n);
    r = topics_metadata(m, NULL, 0, &meta);
    for (int32_t i = 0; r == 0 && i < meta.brokers.n; i++)
        r = names_of(m, address_of(m, meta.brokers.items[i].host, meta.brokers.items[i].port), ret, ret_n);
    return r;
}

int group_not_found(Mq *m, const char *group)
{
    GroupName *all;
    const char **names, *near = NULL;
    size_t n;

    mq_fail(m, MQ_E_NOT_FOUND, "there is no group %s", group);
    if (!m->quiet && group_names(m, &all, &n) == 0) {
        names = mq_alloc(m, MAX(n, 1) * sizeof *names);
        for (size_t i = 0; i < n; i++)
            names[i] = all[i].name;
        near = text_suggest(group, names, n);
    }
    if (near != NULL)
        mq_hint(m, "did you mean %s?", near);
    else
        mq_hint(m, "mqctl group list");
    return MQ_E_NOT_FOUND;
}

/* ---- rows ---------------------------------------------------------------------------------------------------------- */

GroupRow *group_row(Mq *m, GroupRows *rows, const char *topic, int32_t partition)
{
    for (size_t i = 0; i < rows->n; i++)
        if (rows->items[i].partition == partition && strcmp(rows->items[i].topic, topic) == 0)
            return &rows->items[i];
    if (rows->n == rows->capacity) {
        size_t capacity = rows->capacity ? rows->capacity * 2 : 64;
        GroupRow *items = mq_alloc(m, capacity * sizeof *items);

        if (rows->n > 0)
            memcpy(items, rows->items, rows->n * sizeof *items);
        rows->items = items;
        rows->capacity = capacity;
    }
    rows->items[rows->n] = (GroupRow){.topic = topic, .partition = partition, .committed = -1, .start = -1, .end = -1, .lag_ms = -1};
    return &rows->items[rows->n++];
}

static int by_place(const void *a, const void *b)
{
    const GroupRow *x = a, *y = b;
    int c = strcmp(x->topic, y->topic);

    return c != 0 ? c : (x->partition > y->partition) - (x->partition < y->partition);
}

int64_t group_row_lag(const GroupRow *r)
{
    return r->end < 0 ? -1 : MAX(r->end - MAX(r->committed, r->start), 0);
}

static KafkaError fetch_error(const void *response)
{
    return ((const KOffsetFetchResponse *)response)->error_code;
}

int group_fetch_committed(Mq *m, const char *group, GroupRows *rows)
{
    KOffsetFetchRequest request;
    KOffsetFetchResponse response;
    int r;

    k_message_init(&k_offset_fetch_request, &request);
    request.group_id = k_str(group);
    request.topics.n = -1; /* all */
    r = group_call(m, group, K_API_OFFSET_FETCH, 7, &request, &response, fetch_error);
    if (r != 0)
        return r;
    if (response.error_code != 0)
        return mq_fail_kafka(m, response.error_code, NULL, "offsets of group %s", group);
    for (int32_t t = 0; t < response.topics.n; t++) {
        const char *topic = text_of(m, response.topics.items[t].name);

        for (int32_t i = 0; i < response.topics.items[t].partitions.n; i++)
            group_row(m, rows, topic, response.topics.items[t].partitions.items[i].partition_index)->committed =
                response.topics.items[t].partitions.items[i].committed_offset;
    }
    return 0;
}

/* The rows of one topic stand together. */
static size_t rows_of_topic(const GroupRows *rows, size_t from)
{
    size_t n = 1;

    while (from + n < rows->n && strcmp(rows->items[from + n].topic, rows->items[from].topic) == 0)
        n++;
    return n;
}

int group_fetch_ends(Mq *m, GroupRows *rows)
{
    if (rows->n > 0)
        qsort(rows->items, rows->n, sizeof *rows->items, by_place);
    for (size_t i = 0, size; i < rows->n; i += size) {
        const char *topic = rows->items[i].topic;
        KMetadataResponse meta;
        int64_t *start, *end;
        int32_t n;
        int r = topics_metadata(m, &topic, 1, &meta);

        if (r != 0)
            return r;
        n = meta.topics.n == 1 && meta.topics.items[0].error_code == 0 ? meta.topics.items[0].partitions.n : 0;
        start = mq_alloc(m, (size_t)MAX(n, 1) * sizeof *start);
        end = mq_alloc(m, (size_t)MAX(n, 1) * sizeof *end);
        r = topic_offsets(m, topic, OFFSETS_EARLIEST, n, start);
        r = r ? r : topic_offsets(m, topic, OFFSETS_LATEST, n, end);
        if (r != 0)
            return r;
        size = rows_of_topic(rows, i);
        for (size_t k = i; k < i + size; k++)
            if (rows->items[k].partition < n) {
                rows->items[k].start = start[rows->items[k].partition];
                rows->items[k].end = end[rows->items[k].partition];
            }
    }
    return 0;
}

/* ---- lag in time --------------------------------------------------------------------------------------------------- */

typedef struct Hunt { /* for the time of the record at an offset */
    GroupRow *row;
    int64_t offset;
    int64_t low_ms, high_ms; /* a record at or before `offset` is that late; the first one at high_ms is behind `offset` */
    int64_t next_ms;         /* time of the first record known behind `offset`; -1 */
    bool found;
} Hunt;

static void hunt_step(Hunt *h, const OffsetQuery *q)
{
    if (q->offset < 0 || q->offset > h->offset) {
        h->high_ms = q->at_ms;
        h->next_ms = q->offset < 0 ? h->next_ms : q->timestamp_ms;
        return;
    }
    h->low_ms = q->timestamp_ms;
    h->found = q->offset == h->offset;
}

/* Where the record itself is gone (compaction), the next one is the oldest not yet read. */
static int64_t hunt_result_ms(const Hunt *h)
{
    return h->found || h->next_ms < 0 ? h->low_ms : h->next_ms;
}

static int hunt(Mq *m, const char *topic, Hunt *hunts, size_t n)
{
    OffsetQuery *queries = mq_alloc(m, MAX(n, 1) * sizeof *queries);
    Hunt **of = mq_alloc(m, MAX(n, 1) * sizeof *of);

    for (int round = 0; round < HUNT_ROUNDS_MAX; round++) {
        size_t open = 0;
        int r;

        for (size_t i = 0; i < n; i++) {
            Hunt *h = &hunts[i];

            if (h->found || h->high_ms - h->low_ms <= 1)
                continue;
            of[open] = h;
            queries[open++] = (OffsetQuery){.partition = h->row->partition,
                                            .at_ms = round == 0 ? 0 : h->low_ms + (h->high_ms - h->low_ms) / 2};
        }
        if (open == 0)
            return 0;
        r = topic_query_offsets(m, topic, queries, open);
        if (r != 0)
            return r;
        for (size_t i = 0; i < open; i++)
            hunt_step(of[i], &queries[i]);
    }
    return 0;
}

int group_fetch_lag_times(Mq *m, GroupRows *rows)
{
    for (size_t i = 0, size; i < rows->n; i += size) {
        int64_t now = clock_wall_ms();
        Hunt *hunts;
        size_t n = 0;
        int r;

        size = rows_of_topic(rows, i);
        hunts = mq_alloc(m, size * sizeof *hunts);
        for (size_t k = i; k < i + size; k++) {
            GroupRow *row = &rows->items[k];

            if (group_row_lag(row) > 0)
                hunts[n++] = (Hunt){.row = row, .offset = MAX(row->committed, row->start), .low_ms = -1, .high_ms = now + AHEAD_MS, .next_ms = -1};
            else
                row->lag_ms = group_row_lag(row); /* 0, or -1 */
        }
        r = hunt(m, rows->items[i].topic, hunts, n);
        if (r != 0)
            return r;
        for (size_t k = 0; k < n; k++)
            if (hunt_result_ms(&hunts[k]) >= 0)
                hunts[k].row->lag_ms = MAX(now - hunt_result_ms(&hunts[k]), 0);
    }
    return 0;
}

/* ---- documents ----------------------------------------------------------------------------------------------------- */

static json_t *count_or_null(int64_t n)
{
    return n >= 0 ? json_integer(n) : json_null();
}

json_t *group_rows_doc(const GroupRows *rows, int64_t *ret_lag, int64_t *ret_lag_ms)
{
    json_t *list = json_array();

    *ret_lag = *ret_lag_ms = 0;
    for (size_t i = 0; i < rows->n; i++) {
        const GroupRow *r = &rows->items[i];
        json_t *row = json_object();

        doc_set_text(row, "topic", r->topic);
        doc_set(row, "partition", json_integer(r->partition));
        doc_set(row, "committed", count_or_null(r->committed));
        doc_set(row, "start", count_or_null(r->start));
        doc_set(row, "end", count_or_null(r->end));
        doc_set(row, "lag", count_or_null(group_row_lag(r)));
        doc_set(row, "lag_ms", count_or_null(r->lag_ms));
        doc_set_text(row, "member", r->member);
        *ret_lag += MAX(group_row_lag(r), 0);
        *ret_lag_ms = MAX(*ret_lag_ms, r->lag_ms);
        json_array_append_new(list, row);
    }
    return list;
}

int group_summary(Mq *m, const GroupName *g, json_t **ret)
{
    KDescribeGroupsResponseGroups described;
    GroupRows rows = {0};
    json_t *row, *parts;
    int64_t lag, lag_ms;
    int r = group_fetch_committed(m, g->name, &rows);

    r = r ? r : group_fetch_ends(m, &rows);
    r = r ? r : group_fetch_lag_times(m, &rows);
    r = r ? r : group_describe(m, g->name, &described);
    if (r != 0)
        return r;
    parts = group_rows_doc(&rows, &lag, &lag_ms);
    row = json_object();
    doc_set_text(row, "group", g->name);
    doc_set_text(row, "state", g->state);
    doc_set_text(row, "protocol_type", g->protocol_type);
    doc_set(row, "members", json_integer(described.members.n));
    doc_set(row, "partitions", json_integer((json_int_t)json_array_size(parts)));
    doc_set(row, "lag", json_integer(lag));
    doc_set(row, "lag_ms", json_integer(lag_ms));
    json_decref(parts);
    *ret = row;
    return 0;
}
