/*
 * mqctl group. Lag is end offset minus committed offset, per partition; a partition that a member reads but nobody has
 * committed yet counts from the log's start.
 */

#include <errno.h>
#include <fnmatch.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "mqctl/connect.h"
#include "mqctl/output.h"
#include "mqctl/range.h"
#include "mqctl/topics.h"

#define API_OFFSET_COMMIT   8
#define API_OFFSET_FETCH    9
#define API_DESCRIBE_GROUPS 15
#define API_LIST_GROUPS     16
#define API_DELETE_GROUPS   42

typedef struct Row { /* one partition of a group */
    const char *topic;
    int32_t partition;
    int64_t committed; /* -1 = none */
    int64_t start, end;
    const char *member; /* NULL = nobody */
    const char *metadata;
} Row;

typedef struct Rows {
    Row *items;
    size_t n, capacity;
} Rows;

static char *text_of(Mq *m, KStr s)
{
    return s.len < 0 ? NULL : mq_printf(m, "%.*s", s.len, s.ptr);
}

static Row *row_get(Mq *m, Rows *rows, const char *topic, int32_t partition)
{
    for (size_t i = 0; i < rows->n; i++)
        if (rows->items[i].partition == partition && strcmp(rows->items[i].topic, topic) == 0)
            return &rows->items[i];
    if (rows->n == rows->capacity) {
        size_t capacity = rows->capacity ? rows->capacity * 2 : 64;
        Row *items = mq_alloc(m, capacity * sizeof *items);

        if (rows->n > 0)
            memcpy(items, rows->items, rows->n * sizeof *items);
        rows->items = items;
        rows->capacity = capacity;
    }
    rows->items[rows->n] = (Row){.topic = topic, .partition = partition, .committed = -1, .start = -1, .end = -1};
    return &rows->items[rows->n++];
}

static int by_place(const void *a, const void *b)
{
    const Row *x = a, *y = b;
    int c = strcmp(x->topic, y->topic);

    return c != 0 ? c : (x->partition > y->partition) - (x->partition < y->partition);
}

static int64_t row_lag(const Row *r)
{
    if (r->end < 0)
        return -1;
    return MAX(r->end - MAX(r->committed, r->start), 0);
}

/* ---- what the coordinator and the logs know ------------------------------------------------------------------------ */

static int fetch_committed(Mq *m, const char *group, Rows *rows)
{
    KOffsetFetchRequest request;
    KOffsetFetchResponse response;
    int r;

    k_message_init(&k_offset_fetch_request, &request);
    request.group_id = k_str(group);
    request.topics.n = -1; /* all */
    r = api_call(m, API_OFFSET_FETCH, 7, &request, &response);
    if (r != 0)
        return r;
    if (response.error_code != 0)
        return mq_fail_kafka(m, response.error_code, NULL, "offsets of group %s", group);
    for (int32_t t = 0; t < response.topics.n; t++) {
        const char *topic = text_of(m, response.topics.items[t].name);

        for (int32_t i = 0; i < response.topics.items[t].partitions.n; i++) {
            Row *row = row_get(m, rows, topic, response.topics.items[t].partitions.items[i].partition_index);
            row->committed = response.topics.items[t].partitions.items[i].committed_offset;
            row->metadata = text_of(m, response.topics.items[t].partitions.items[i].metadata);
        }
    }
    return 0;
}

/* Start and end of every partition that has a row. A topic that is gone keeps -1. */
static int fetch_ends(Mq *m, Rows *rows)
{
    qsort(rows->items, rows->n, sizeof *rows->items, by_place);
    for (size_t i = 0; i < rows->n;) {
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
        for (; i < rows->n && strcmp(rows->items[i].topic, topic) == 0; i++)
            if (rows->items[i].partition < n) {
                rows->items[i].start = start[rows->items[i].partition];
                rows->items[i].end = end[rows->items[i].partition];
            }
    }
    return 0;
}

static int describe(Mq *m, const char *group, KDescribeGroupsResponse *ret)
{
    KStr name = k_str(group);
    KDescribeGroupsRequest request;
    int r;

    k_message_init(&k_describe_groups_request, &request);
    request.groups.items = &name;
    request.groups.n = 1;
    r = api_call(m, API_DESCRIBE_GROUPS, 5, &request, ret);
    if (r == 0 && ret->groups.n != 1)
        return mq_fail(m, MQ_E_FAILED, "group %s: empty answer", group);
    if (r == 0 && ret->groups.items[0].error_code != 0)
        return mq_fail_kafka(m, ret->groups.items[0].error_code, NULL, "group %s", group);
    return r;
}

/* Marks who reads what. Members that use another protocol have no assignment that we can read. */
static void add_members(Mq *m, const KDescribeGroupsResponseGroups *g, Rows *rows, json_t *members)
{
    for (int32_t i = 0; i < g->members.n; i++) {
        const KDescribeGroupsResponseGroupsMembers *x = &g->members.items[i];
        const char *id = text_of(m, x->member_id);
        KConsumerAssignment a = {0};
        json_t *member = json_object(), *parts = json_array();

        doc_set_text(member, "member", id);
        doc_set_text(member, "instance_id", text_of(m, x->group_instance_id));
        doc_set_text(member, "client_id", text_of(m, x->client_id));
        doc_set_text(member, "host", text_of(m, x->client_host));
        doc_set(member, "partitions", parts);
        json_array_append_new(members, member);
        if (x->member_assignment.len <= 0 || k_decode(&k_consumer_assignment, -1, x->member_assignment.ptr,
                                                      (size_t)x->member_assignment.len, &m->arena, &a) < 0)
            continue;
        for (int32_t t = 0; t < a.assigned_partitions.n; t++)
            for (int32_t p = 0; p < a.assigned_partitions.items[t].partitions.n; p++) {
                const char *topic = text_of(m, a.assigned_partitions.items[t].topic);
                int32_t partition = a.assigned_partitions.items[t].partitions.items[p];

                row_get(m, rows, topic, partition)->member = id;
                json_array_append_new(parts, json_string(mq_printf(m, "%s-%d", topic, partition)));
            }
    }
}

static json_t *rows_doc(const Rows *rows, int64_t *ret_lag)
{
    json_t *list = json_array();

    *ret_lag = 0;
    for (size_t i = 0; i < rows->n; i++) {
        const Row *r = &rows->items[i];
        json_t *row = json_object();

        doc_set_text(row, "topic", r->topic);
        doc_set(row, "partition", json_integer(r->partition));
        doc_set(row, "committed", r->committed >= 0 ? json_integer(r->committed) : json_null());
        doc_set(row, "start", r->start >= 0 ? json_integer(r->start) : json_null());
        doc_set(row, "end", r->end >= 0 ? json_integer(r->end) : json_null());
        doc_set(row, "lag", row_lag(r) >= 0 ? json_integer(row_lag(r)) : json_null());
        doc_set_text(row, "member", r->member);
        *ret_lag += MAX(row_lag(r), 0);
        json_array_append_new(list, row);
    }
    return list;
}

/* ---- list ---------------------------------------------------------------------------------------------------------- */

static bool wanted(const Mq *m, const char *name)
{
    for (int i = 0; i < m->n_args; i++)
        if (fnmatch(m->args[i], name, 0) == 0)
            return true;
    return m->n_args == 0;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(doc_text(*(json_t *const *)a, "group", ""), doc_text(*(json_t *const *)b, "group", ""));
}

static int by_lag(const void *a, const void *b)
{
    int64_t x = doc_i64(*(json_t *const *)a, "lag", 0), y = doc_i64(*(json_t *const *)b, "lag", 0);
    return x != y ? (x < y) - (x > y) : by_name(a, b);
}

static int list_row(Mq *m, const KListGroupsResponseGroups *g, json_t **ret)
{
    const char *name = text_of(m, g->group_id);
    KDescribeGroupsResponse described;
    Rows rows = {0};
    json_t *row, *parts;
    int64_t lag;
    int r = fetch_committed(m, name, &rows);

    r = r ? r : fetch_ends(m, &rows);
    r = r ? r : describe(m, name, &described);
    if (r != 0)
        return r;
    parts = rows_doc(&rows, &lag);
    row = json_object();
    doc_set_text(row, "group", name);
    doc_set_text(row, "state", text_of(m, g->group_state));
    doc_set_text(row, "protocol_type", text_of(m, g->protocol_type));
    doc_set(row, "members", json_integer(described.groups.items[0].members.n));
    doc_set(row, "partitions", json_integer((json_int_t)json_array_size(parts)));
    doc_set(row, "lag", json_integer(lag));
    json_decref(parts);
    *ret = row;
    return 0;
}

/* Rows {group, state, lag} of one group or of all, for `check lag`. */
int group_lag(Mq *m, const char *only, json_t **ret)
{
    KListGroupsRequest request;
    KListGroupsResponse response;
    json_t *list = json_array(), *row;
    int r;

    k_message_init(&k_list_groups_request, &request);
    r = api_call(m, API_LIST_GROUPS, 4, &request, &response);
    for (int32_t i = 0; r == 0 && i < response.groups.n; i++) {
        if (only != NULL && !k_str_equal(response.groups.items[i].group_id, only))
            continue;
        r = list_row(m, &response.groups.items[i], &row);
        if (r == 0)
            json_array_append_new(list, row);
    }
    if (r != 0) {
        json_decref(list);
        return r;
    }
    *ret = list;
    return 0;
}

int group_list_run(Mq *m)
{
    static const Column columns[] = {{"GROUP", "group", COL_TEXT, false},           {"STATE", "state", COL_TEXT, false},
                                     {"MEMBERS", "members", COL_COUNT, false},      {"PARTITIONS", "partitions", COL_COUNT, false},
                                     {"LAG", "lag", COL_COUNT, false},              {"PROTOCOL", "protocol_type", COL_TEXT, true},
                                     {NULL, NULL, COL_TEXT, false}};
    const char *sort = opt(m, "sort");
    KListGroupsRequest request;
    KListGroupsResponse response;
    json_t **rows, *doc, *list;
    size_t n = 0;
    int r;

    if (sort != NULL && strcmp(sort, "lag") != 0 && strcmp(sort, "name") != 0)
        return mq_fail(m, MQ_E_USAGE, "--sort: lag or name");
    k_message_init(&k_list_groups_request, &request);
    r = api_call(m, API_LIST_GROUPS, 4, &request, &response);
    if (r != 0)
        return r;
    if (response.error_code != 0)
        return mq_fail_kafka(m, response.error_code, NULL, "list of groups");
    rows = mq_alloc(m, (size_t)MAX(response.groups.n, 1) * sizeof *rows);
    for (int32_t i = 0; r == 0 && i < response.groups.n; i++)
        if (wanted(m, text_of(m, response.groups.items[i].group_id))) {
            r = list_row(m, &response.groups.items[i], &rows[n]);
            n += r == 0;
        }
    qsort(rows, n, sizeof *rows, sort != NULL && strcmp(sort, "lag") == 0 ? by_lag : by_name);
    doc = json_object();
    list = json_array();
    doc_set(doc, "groups", list);
    for (size_t i = 0; i < n; i++)
        json_array_append_new(list, rows[i]);
    if (r == 0)
        return output_rows(m, doc, "groups", columns);
    json_decref(doc);
    return r;
}

/* ---- describe ------------------------------------------------------------------------------------------------------ */

static const Column group_columns[] = {{"TOPIC", "topic", COL_TEXT, false},          {"PARTITION", "partition", COL_COUNT, false},
                                       {"COMMITTED", "committed", COL_COUNT, false}, {"END", "end", COL_COUNT, false},
                                       {"LAG", "lag", COL_COUNT, false},             {"MEMBER", "member", COL_TEXT, false},
                                       {NULL, NULL, COL_TEXT, false}};

static void print_group(Mq *m, json_t *doc)
{
    printf("%s  %s  %zu member%s  lag %lld\n", doc_text(doc, "group", ""), doc_text(doc, "state", "?"),
           json_array_size(json_object_get(doc, "members")), json_array_size(json_object_get(doc, "members")) == 1 ? "" : "s",
           (long long)doc_i64(doc, "lag", 0));
    output_table(m, json_object_get(doc, "partitions"), group_columns);
}

int group_describe_run(Mq *m)
{
    const char *group = m->args[0];
    KDescribeGroupsResponse response;
    const KDescribeGroupsResponseGroups *g;
    json_t *doc, *members;
    Rows rows = {0};
    int64_t lag;
    int r = describe(m, group, &response);

    r = r ? r : fetch_committed(m, group, &rows);
    if (r != 0)
        return r;
    g = &response.groups.items[0];
    if (k_str_equal(g->group_state, "Dead") && rows.n == 0)
        return mq_fail(m, MQ_E_NOT_FOUND, "there is no group %s", group);
    members = json_array();
    add_members(m, g, &rows, members);
    r = fetch_ends(m, &rows);
    if (r != 0) {
        json_decref(members);
        return r;
    }
    doc = json_object();
    doc_set_text(doc, "group", group);
    doc_set_text(doc, "state", text_of(m, g->group_state));
    doc_set_text(doc, "protocol_type", text_of(m, g->protocol_type));
    doc_set_text(doc, "assignor", text_of(m, g->protocol_data));
    doc_set(doc, "members", members);
    doc_set(doc, "partitions", rows_doc(&rows, &lag));
    doc_set(doc, "lag", json_integer(lag));
    return output_detail(m, doc, json_object_get(doc, "partitions"), group_columns, print_group);
}

/* ---- reset --------------------------------------------------------------------------------------------------------- */

static bool topic_chosen(const Mq *m, const char *topic)
{
    const char *t;

    for (size_t i = 0; (t = opt_nth(m, "topic", i)) != NULL; i++)
        if (strcmp(t, topic) == 0)
            return true;
    return opt_nth(m, "topic", 0) == NULL;
}

/* Topics named with -t take part with all their partitions, also those without an offset. */
static int add_named_topics(Mq *m, Rows *rows)
{
    const char *topic;

    for (size_t i = 0; (topic = opt_nth(m, "topic", i)) != NULL; i++) {
        int32_t n;
        int r = topic_partitions(m, topic, &n);

        if (r != 0)
            return r;
        for (int32_t p = 0; p < n; p++)
            (void)row_get(m, rows, topic, p);
    }
    return 0;
}

static int new_offset(Mq *m, const Row *row, const Point *to, int64_t *ret)
{
    int64_t at = -1;

    if (to->kind == POINT_TIME) {
        int64_t *all = mq_alloc(m, (size_t)(row->partition + 1) * sizeof *all);
        int r = topic_offsets(m, row->topic, to->n, row->partition + 1, all);

        if (r != 0)
            return r;
        at = all[row->partition];
    }
    *ret = point_resolve(to, row->start, row->end, at);
    return 0;
}

static int commit_rows(Mq *m, const char *group, json_t *moves)
{
    KOffsetCommitRequest request;
    KOffsetCommitResponse response;
    size_t i;
    json_t *move;
    int r, status = MQ_OK;

    k_message_init(&k_offset_commit_request, &request);
    request.group_id = k_str(group);
    request.member_id = k_str("");
    request.group_instance_id = K_STR_NULL;
    request.generation_id_or_member_epoch = -1;
    request.topics.items = mq_alloc(m, MAX(json_array_size(moves), 1) * sizeof *request.topics.items);
    json_array_foreach(moves, i, move) { /* one entry a partition: the protocol allows a topic twice */
        KOffsetCommitRequestTopics *t = &request.topics.items[request.topics.n++];
        KOffsetCommitRequestTopicsPartitions *p = mq_alloc(m, sizeof *p);

        t->name = k_str(doc_text(move, "topic", ""));
        p->partition_index = (int32_t)doc_i64(move, "partition", 0);
        p->committed_offset = doc_i64(move, "new", 0);
        p->committed_leader_epoch = -1;
        p->committed_metadata = k_str("");
        t->partitions.items = p;
        t->partitions.n = 1;
    }
    r = api_call(m, API_OFFSET_COMMIT, 7, &request, &response);
    if (r != 0)
        return r;
    for (int32_t t = 0; t < response.topics.n; t++)
        for (int32_t p = 0; p < response.topics.items[t].partitions.n; p++)
            if (response.topics.items[t].partitions.items[p].error_code != 0)
                status = mq_fail_kafka(m, response.topics.items[t].partitions.items[p].error_code, NULL, "%s-%d",
                                       text_of(m, response.topics.items[t].name),
                                       response.topics.items[t].partitions.items[p].partition_index);
    return status;
}

static int collect_moves(Mq *m, Rows *rows, const Point *to, json_t *moves)
{
    for (size_t i = 0; i < rows->n; i++) {
        const Row *row = &rows->items[i];
        json_t *move;
        int64_t at;
        int r;

        if (!topic_chosen(m, row->topic) || row->end < 0)
            continue;
        r = new_offset(m, row, to, &at);
        if (r != 0)
            return r;
        move = json_object();
        doc_set_text(move, "topic", row->topic);
        doc_set(move, "partition", json_integer(row->partition));
        doc_set(move, "current", row->committed >= 0 ? json_integer(row->committed) : json_null());
        doc_set(move, "new", json_integer(at));
        doc_set(move, "move", json_integer(row->committed >= 0 ? at - row->committed : 0));
        json_array_append_new(moves, move);
    }
    return 0;
}

int group_reset_run(Mq *m)
{
    static const Column columns[] = {{"TOPIC", "topic", COL_TEXT, false},      {"PARTITION", "partition", COL_COUNT, false},
                                     {"CURRENT", "current", COL_COUNT, false}, {"NEW", "new", COL_COUNT, false},
                                     {"MOVE", "move", COL_COUNT, false},       {NULL, NULL, COL_TEXT, false}};
    const char *group = m->args[0], *text = opt(m, "to"), *why;
    bool execute = opt_has(m, "execute") && !m->dry_run;
    KDescribeGroupsResponse described;
    json_t *doc, *moves;
    Rows rows = {0};
    Point to;
    int r;

    if (text == NULL)
        return mq_fail(m, MQ_E_USAGE, "say where to: --to start, end, 47, -100 or @-1h");
    if (point_parse(text, clock_wall_ms(), &to, &why) < 0)
        return mq_fail(m, MQ_E_USAGE, "--to %s: %s", text, why);
    r = describe(m, group, &described);
    r = r ? r : fetch_committed(m, group, &rows);
    r = r ? r : add_named_topics(m, &rows);
    r = r ? r : fetch_ends(m, &rows);
    if (r != 0)
        return r;
    if (rows.n == 0) {
        r = mq_fail(m, MQ_E_NOT_FOUND, "group %s has no offsets", group);
        mq_hint(m, "mqctl group reset %s -t TOPIC --to %s --execute", group, text);
        return r;
    }
    if (execute && described.groups.items[0].members.n > 0)
        return mq_fail(m, MQ_E_CONFLICT, "group %s has %d members; stop them first", group, described.groups.items[0].members.n);
    doc = json_object();
    moves = json_array();
    doc_set_text(doc, "group", group);
    doc_set(doc, "partitions", moves);
    r = collect_moves(m, &rows, &to, moves);
    if (r == 0 && execute)
        r = commit_rows(m, group, moves);
    if (r != 0) {
        json_decref(doc);
        return r;
    }
    doc_set(doc, "executed", json_boolean(execute));
    r = output_rows(m, doc, "partitions", columns);
    if (!execute)
        mq_note(m, "nothing changed; add --execute to apply");
    return r ? r : m->dry_run ? MQ_E_REFUSED : MQ_OK;
}

/* ---- delete -------------------------------------------------------------------------------------------------------- */

static bool coordinator_is_busy(const KDeleteGroupsResponse *response)
{
    for (int32_t i = 0; i < response->results.n; i++) {
        if (response->results.items[i].error_code == K_COORDINATOR_NOT_AVAILABLE)
            return true;
    }
    return false;
}

int group_delete_run(Mq *m)
{
    static const Column columns[] = {{"GROUP", "group", COL_TEXT, false}, {"RESULT", "result", COL_TEXT, false}, {NULL, NULL, COL_TEXT, false}};
    KStr *names = mq_alloc(m, (size_t)m->n_args * sizeof *names);
    KDeleteGroupsRequest request;
    KDeleteGroupsResponse response;
    json_t *doc, *rows;
    int r, e;

    if (m->dry_run) {
        doc = json_object();
        rows = json_array();
        doc_set(doc, "groups", rows);
        for (int i = 0; i < m->n_args; i++)
            json_array_append_new(rows, json_pack("{ssss}", "group", m->args[i], "result", "would be deleted"));
        doc_set(doc, "dry_run", json_true());
        e = output_rows(m, doc, "groups", columns);
        return e ? e : MQ_E_REFUSED;
    }
    r = mq_confirm(m, "delete group %s%s with all offsets?", m->args[0], m->n_args > 1 ? " and the others" : "");
    if (r != 0)
        return r;
    k_message_init(&k_delete_groups_request, &request);
    for (int i = 0; i < m->n_args; i++)
        names[i] = k_str(m->args[i]);
    request.groups_names.items = names;
    request.groups_names.n = m->n_args;
    int64_t until_ms = clock_mono_ms() + 2000;
    do { /* the last member's traces may still be on their way to the log */
        r = api_call(m, API_DELETE_GROUPS, 1, &request, &response);
        if (r != 0)
            return r;
    } while (coordinator_is_busy(&response) && clock_mono_ms() < until_ms && usleep(20000) == 0);
    doc = json_object();
    rows = json_array();
    doc_set(doc, "groups", rows);
    for (int32_t i = 0; i < response.results.n; i++) {
        const char *name = text_of(m, response.results.items[i].group_id);
        json_t *row = json_object();

        if (response.results.items[i].error_code != 0)
            r = mq_fail_kafka(m, response.results.items[i].error_code, NULL, "group %s", name);
        doc_set_text(row, "group", name);
        doc_set(row, "result", json_string(response.results.items[i].error_code ? "failed" : "deleted"));
        json_array_append_new(rows, row);
    }
    e = output_rows(m, doc, "groups", columns);
    return r ? r : e;
}
