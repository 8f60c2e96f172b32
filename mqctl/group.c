/* mqctl group list, describe and delete; what lag means: groups.c. */

#include <fnmatch.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/text.h"
#include "mqctl/connect.h"
#include "mqctl/groups.h"
#include "mqctl/output.h"

static char *text_of(Mq *m, KStr s)
{
    return s.len < 0 ? NULL : mq_printf(m, "%.*s", s.len, s.ptr);
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

int group_list_run(Mq *m)
{
    static const Column columns[] = {{"GROUP", "group", COL_TEXT, false},      {"STATE", "state", COL_TEXT, false},
                                     {"MEMBERS", "members", COL_COUNT, false}, {"PARTITIONS", "partitions", COL_COUNT, false},
                                     {"LAG", "lag", COL_COUNT, false},         {"LAG TIME", "lag_ms", COL_MS, false},
                                     {"PROTOCOL", "protocol_type", COL_TEXT, true}, {NULL, NULL, COL_TEXT, false}};
    const char *sort = opt(m, "sort");
    GroupName *names;
    json_t **rows, *doc, *list;
    size_t n_names, n = 0;
    int r;

    if (sort != NULL && strcmp(sort, "lag") != 0 && strcmp(sort, "name") != 0)
        return mq_fail(m, MQ_E_USAGE, "--sort: lag or name");
    r = group_names(m, &names, &n_names);
    if (r != 0)
        return r;
    rows = mq_alloc(m, MAX(n_names, 1) * sizeof *rows);
    for (size_t i = 0; r == 0 && i < n_names; i++)
        if (wanted(m, names[i].name)) {
            r = group_summary(m, &names[i], &rows[n]);
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
                                       {"LAG", "lag", COL_COUNT, false},             {"LAG TIME", "lag_ms", COL_MS, false},
                                       {"MEMBER", "member", COL_TEXT, false},        {NULL, NULL, COL_TEXT, false}};

static void print_group(Mq *m, json_t *doc)
{
    size_t members = json_array_size(json_object_get(doc, "members"));
    char lag_time[64];

    format_duration_ms(doc_i64(doc, "lag_ms", 0), lag_time, sizeof lag_time);
    printf("%s  %s  %zu member%s  lag %lld, oldest unread %s\n", doc_text(doc, "group", ""), doc_text(doc, "state", "?"), members,
           members == 1 ? "" : "s", (long long)doc_i64(doc, "lag", 0), doc_i64(doc, "lag", 0) > 0 ? lag_time : "-");
    output_table(m, json_object_get(doc, "partitions"), group_columns);
}

/* Marks who reads what. Members that use another protocol have no assignment that we can read. */
static void add_members(Mq *m, const KDescribeGroupsResponseGroups *g, GroupRows *rows, json_t *members)
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

                group_row(m, rows, topic, partition)->member = id;
                json_array_append_new(parts, json_string(mq_printf(m, "%s-%d", topic, partition)));
            }
    }
}

int group_describe_run(Mq *m)
{
    const char *group = m->args[0];
    KDescribeGroupsResponseGroups g;
    json_t *doc, *members;
    GroupRows rows = {0};
    int64_t lag, lag_ms;
    int r = group_describe(m, group, &g);

    r = r ? r : group_fetch_committed(m, group, &rows);
    if (r != 0)
        return r;
    if (k_str_equal(g.group_state, "Dead") && rows.n == 0)
        return group_not_found(m, group);
    members = json_array();
    add_members(m, &g, &rows, members);
    r = group_fetch_ends(m, &rows);
    r = r ? r : group_fetch_lag_times(m, &rows);
    if (r != 0) {
        json_decref(members);
        return r;
    }
    doc = json_object();
    doc_set_text(doc, "group", group);
    doc_set_text(doc, "state", text_of(m, g.group_state));
    doc_set_text(doc, "protocol_type", text_of(m, g.protocol_type));
    doc_set_text(doc, "assignor", text_of(m, g.protocol_data));
    doc_set(doc, "members", members);
    doc_set(doc, "partitions", group_rows_doc(&rows, &lag, &lag_ms));
    doc_set(doc, "lag", json_integer(lag));
    doc_set(doc, "lag_ms", json_integer(lag_ms));
    return output_detail(m, doc, json_object_get(doc, "partitions"), group_columns, print_group);
}

/* ---- delete -------------------------------------------------------------------------------------------------------- */

static KafkaError delete_error(const void *response)
{
    const KDeleteGroupsResponse *r = response;
    return r->results.n > 0 ? r->results.items[0].error_code : K_NONE;
}

/* Groups may have different coordinators, so each is a request of its own. Return: its exit status. */
static int delete_one(Mq *m, const char *group)
{
    KStr name = k_str(group);
    KDeleteGroupsRequest request;
    KDeleteGroupsResponse response;
    int r;

    k_message_init(&k_delete_groups_request, &request);
    request.groups_names.items = &name;
    request.groups_names.n = 1;
    r = group_call(m, group, K_API_DELETE_GROUPS, 1, &request, &response, delete_error);
    if (r == 0 && delete_error(&response) != K_NONE)
        r = mq_fail_kafka(m, delete_error(&response), NULL, "group %s", group);
    return r;
}

int group_delete_run(Mq *m)
{
    static const Column columns[] = {{"GROUP", "group", COL_TEXT, false}, {"RESULT", "result", COL_TEXT, false}, {NULL, NULL, COL_TEXT, false}};
    json_t *doc, *rows;
    int r = MQ_OK, e;

    if (!m->dry_run)
        r = mq_confirm(m, "delete group %s%s with all offsets?", m->args[0], m->n_args > 1 ? " and the others" : "");
    if (r != 0)
        return r;
    doc = json_object();
    rows = json_array();
    doc_set(doc, "groups", rows);
    for (int i = 0; i < m->n_args; i++) {
        json_t *row = json_object();

        e = m->dry_run ? MQ_OK : delete_one(m, m->args[i]);
        doc_set_text(row, "group", m->args[i]);
        doc_set(row, "result", json_string(m->dry_run ? "would be deleted" : e != 0 ? "failed" : "deleted"));
        json_array_append_new(rows, row);
        r = r != 0 && e != 0 && r != e ? MQ_E_FAILED : r ? r : e;
    }
    doc_set(doc, "dry_run", json_boolean(m->dry_run));
    e = output_rows(m, doc, "groups", columns);
    return r ? r : m->dry_run ? MQ_E_REFUSED : e;
}
