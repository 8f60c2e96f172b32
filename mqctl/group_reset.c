/*
 * mqctl group reset: shows where the offsets of a group would move, and moves them with --execute.
 *
 * The coordinator takes offsets from outside only while a group has no members. --force takes the members out first, as
 * leaving themselves would, and commits at once; they join again as soon as they hear of it and start from the new offsets.
 * What they still try to commit from before is refused, because their membership is gone. A member that is back before our
 * commit makes it fail; then both are done again.
 */

#include <string.h>

#include "base/clock.h"
#include "mqctl/connect.h"
#include "mqctl/groups.h"
#include "mqctl/output.h"
#include "mqctl/range.h"
#include "mqctl/topics.h"

#define FORCE_TRIES 50

static bool topic_chosen(const Mq *m, const char *topic)
{
    const char *t;

    for (size_t i = 0; (t = opt_nth(m, "topic", i)) != NULL; i++)
        if (strcmp(t, topic) == 0)
            return true;
    return opt_nth(m, "topic", 0) == NULL;
}

/* Topics named with -t take part with all their partitions, also those without an offset. */
static int add_named_topics(Mq *m, GroupRows *rows)
{
    const char *topic;

    for (size_t i = 0; (topic = opt_nth(m, "topic", i)) != NULL; i++) {
        int32_t n;
        int r = topic_partitions(m, topic, &n);

        if (r != 0)
            return r;
        for (int32_t p = 0; p < n; p++)
            (void)group_row(m, rows, topic, p);
    }
    return 0;
}

static int new_offset(Mq *m, const GroupRow *row, const Point *to, int64_t *ret)
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

static KafkaError commit_error(const void *response)
{
    const KOffsetCommitResponse *r = response;

    for (int32_t t = 0; t < r->topics.n; t++)
        for (int32_t p = 0; p < r->topics.items[t].partitions.n; p++)
            if (r->topics.items[t].partitions.items[p].error_code != 0)
                return r->topics.items[t].partitions.items[p].error_code;
    return K_NONE;
}

/* Return: 0 with the first error of the answer, or an exit status. */
static int commit_moves(Mq *m, const char *group, const json_t *moves, KOffsetCommitResponse *ret)
{
    KOffsetCommitRequest request;
    size_t i;
    json_t *move;

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
    return group_call(m, group, K_API_OFFSET_COMMIT, 7, &request, ret, commit_error);
}

static KafkaError leave_error(const void *response)
{
    return ((const KLeaveGroupResponse *)response)->error_code;
}

static int expel(Mq *m, const KDescribeGroupsResponseGroups *g)
{
    KLeaveGroupRequest request;
    KLeaveGroupResponse response;
    int r;

    k_message_init(&k_leave_group_request, &request);
    request.group_id = g->group_id;
    request.members.n = g->members.n;
    request.members.items = mq_alloc(m, (size_t)MAX(g->members.n, 1) * sizeof *request.members.items);
    for (int32_t i = 0; i < g->members.n; i++) {
        request.members.items[i].member_id = g->members.items[i].member_id;
        request.members.items[i].group_instance_id = g->members.items[i].group_instance_id;
        request.members.items[i].reason = k_str("mqctl group reset --force");
    }
    r = group_call(m, mq_printf(m, "%.*s", g->group_id.len, g->group_id.ptr), K_API_LEAVE_GROUP, 5, &request, &response, leave_error);
    if (r == 0 && response.error_code != 0)
        r = mq_fail_kafka(m, response.error_code, NULL, "members of group %.*s", g->group_id.len, g->group_id.ptr);
    return r; /* a member that has gone by itself is no error */
}

static int report_commit(Mq *m, const KOffsetCommitResponse *response)
{
    int status = MQ_OK;

    for (int32_t t = 0; t < response->topics.n; t++)
        for (int32_t p = 0; p < response->topics.items[t].partitions.n; p++)
            if (response->topics.items[t].partitions.items[p].error_code != 0)
                status = mq_fail_kafka(m, response->topics.items[t].partitions.items[p].error_code, NULL, "%.*s-%d",
                                       response->topics.items[t].name.len, response->topics.items[t].name.ptr,
                                       response->topics.items[t].partitions.items[p].partition_index);
    return status;
}

static int execute_moves(Mq *m, const char *group, const json_t *moves, bool force)
{
    KDescribeGroupsResponseGroups g;
    KOffsetCommitResponse response;

    for (int try = 0;; try++) {
        int r = group_describe(m, group, &g);

        if (r == 0 && g.members.n > 0 && !force) {
            mq_fail(m, MQ_E_CONFLICT, "group %s has %d member%s; stop them first, or pass --force", group, g.members.n,
                    g.members.n == 1 ? "" : "s");
            mq_hint(m, "mqctl group describe %s", group);
            return MQ_E_CONFLICT;
        }
        if (r == 0 && g.members.n > 0)
            r = expel(m, &g);
        r = r ? r : commit_moves(m, group, moves, &response);
        if (r != 0)
            return r;
        if (commit_error(&response) != K_UNKNOWN_MEMBER_ID || !force || mq_interrupted)
            return report_commit(m, &response);
        if (try == FORCE_TRIES)
            return mq_fail(m, MQ_E_CONFLICT, "members of group %s come back faster than its offsets can be moved; stop them", group);
    }
}

static int collect_moves(Mq *m, GroupRows *rows, const Point *to, json_t *moves)
{
    for (size_t i = 0; i < rows->n; i++) {
        const GroupRow *row = &rows->items[i];
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
    bool execute = opt_has(m, "execute") && !m->dry_run, force = opt_has(m, "force");
    KDescribeGroupsResponseGroups g;
    json_t *doc, *moves;
    GroupRows rows = {0};
    Point to;
    int r;

    if (text == NULL)
        return mq_fail(m, MQ_E_USAGE, "say where to: --to start, end, 47, -100 or @-1h");
    if (point_parse(text, clock_wall_ms(), &to, &why) < 0)
        return mq_fail(m, MQ_E_USAGE, "--to %s: %s", text, why);
    r = group_describe(m, group, &g);
    r = r ? r : group_fetch_committed(m, group, &rows);
    r = r ? r : add_named_topics(m, &rows);
    r = r ? r : group_fetch_ends(m, &rows);
    if (r != 0)
        return r;
    if (rows.n == 0) {
        if (k_str_equal(g.group_state, "Dead") && opt_nth(m, "topic", 0) == NULL)
            return group_not_found(m, group);
        r = mq_fail(m, MQ_E_NOT_FOUND, "group %s has no offsets", group);
        mq_hint(m, "mqctl group reset %s -t TOPIC --to %s --execute", group, text);
        return r;
    }
    doc = json_object();
    moves = json_array();
    doc_set_text(doc, "group", group);
    doc_set_text(doc, "state", mq_printf(m, "%.*s", g.group_state.len, g.group_state.ptr));
    doc_set(doc, "members", json_integer(g.members.n));
    doc_set(doc, "partitions", moves);
    r = collect_moves(m, &rows, &to, moves);
    if (r == 0 && execute)
        r = execute_moves(m, group, moves, force);
    if (r != 0) {
        json_decref(doc);
        return r;
    }
    doc_set(doc, "executed", json_boolean(execute));
    r = output_rows(m, doc, "partitions", columns);
    if (!execute)
        mq_note(m, "nothing changed; add --execute to apply");
    if (!execute && g.members.n > 0 && !force)
        mq_note(m, "group is %.*s: stop its %d member%s or pass --force", g.group_state.len, g.group_state.ptr, g.members.n,
                g.members.n == 1 ? "" : "s");
    else if (execute && g.members.n > 0)
        mq_note(m, "%d member%s taken out; those that live join again and start from the new offsets", g.members.n,
                g.members.n == 1 ? "" : "s");
    return r ? r : m->dry_run ? MQ_E_REFUSED : MQ_OK;
}
