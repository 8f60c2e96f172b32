/*
 * What takes offsets and groups away: DeleteGroups, OffsetDelete, retention, deleted topics. All write tombstones; memory
 * changes when they are durable.
 */

#include "consumer-coord/group/private.h"

#include <stdlib.h>
#include <string.h>

#include "wire/error.h"

static bool has_writes(const Groups *g, const Group *group)
{
    list_for_each(it, &g->writes)
    {
        if (CONTAINER_OF(it, Write, node)->group_serial == group->serial)
            return true;
    }
    return false;
}

static void tombstones_for_all(Write *w, const Group *group)
{
    for (int32_t i = 0; i < group->offsets.n; i++)
        for (int32_t p = 0; p < group->offsets.topics[i].n; p++)
            write_offset_tombstone(w, group->id, offset_topic_name(&group->offsets.topics[i]),
                                   group->offsets.topics[i].items[p].partition);
}

/* Nobody may join or commit until the tombstones are durable: state Dead answers COORDINATOR_NOT_AVAILABLE. */
static Write *kill_group(Step *s, Group *group, Reply *r)
{
    group->state = GROUP_DEAD;
    Write *w = write_new(s, WRITE_DELETE, group, r);
    tombstones_for_all(w, group);
    write_group_tombstone(w, group->id);
    return w;
}

/* DeleteGroups */

static int16_t check_delete(Step *s, KStr id, Group **ret)
{
    int32_t partition;
    int16_t error = partition_error(s->g, id, &partition);
    if (error != K_NONE)
        return error;
    Group *group = group_find(s->g, id);
    if (!group || group->state == GROUP_DEAD)
        return K_GROUP_ID_NOT_FOUND;
    if (group->state != GROUP_EMPTY || group->n_pending > 0)
        return K_NON_EMPTY_GROUP;
    if (has_writes(s->g, group)) /* what the last member left behind is on its way to the log: ask again */
        return K_COORDINATOR_NOT_AVAILABLE;
    *ret = group;
    return writes_full(s->g) ? K_COORDINATOR_NOT_AVAILABLE : K_NONE;
}

void on_delete_groups(Step *s)
{
    const KDeleteGroupsRequest *q = s->ev->body;
    Reply *r = reply_new(s, &k_delete_groups_response);
    KDeleteGroupsResponse *a = r->response;
    a->results.n = q->groups_names.n;
    a->results.items = must(arena_alloc(&r->arena, (size_t)q->groups_names.n * sizeof(a->results.items[0]) + 1));
    for (int32_t i = 0; i < q->groups_names.n; i++) {
        KStr id = q->groups_names.items[i];
        Group *group = NULL;
        a->results.items[i].group_id = reply_str(r, id);
        a->results.items[i].error_code = check_delete(s, id, &group);
        if (a->results.items[i].error_code != K_NONE)
            continue;
        Write *w = kill_group(s, group, r);
        w->errors = must(malloc(sizeof(w->errors[0])));
        w->errors[w->n_errors++] = &a->results.items[i].error_code;
        write_start(s, w);
    }
    reply_release(s, r);
}

/* OffsetDelete */

/* Of a group whose members speak the consumer protocol; -1: what they are subscribed to is not known. */
static int is_subscribed(const Group *group, KStr topic)
{
    int found = 0;
    list_for_each(it, &group->members)
    {
        const Protocols *p = &CONTAINER_OF(it, Member, node)->protocols;
        for (int32_t i = 0; i < p->n; i++) {
            Arena arena = ARENA_NULL;
            KConsumerSubscription sub;
            int r = k_decode(&k_consumer_subscription, -1, p->items[i].metadata.ptr, (size_t)p->items[i].metadata.len, &arena, &sub);
            for (int32_t t = 0; r == 0 && t < sub.topics.n; t++)
                found |= k_str_same(sub.topics.items[t], topic);
            arena_deinit(&arena);
            if (r < 0)
                return -1;
        }
    }
    return found;
}

static bool is_consumer_group(const Group *group)
{
    return group->protocol_type && strcmp(group->protocol_type, "consumer") == 0;
}

static int16_t check_offset_delete(Step *s, const KOffsetDeleteRequest *q, Group **ret)
{
    int32_t partition;
    int16_t error = partition_error(s->g, q->group_id, &partition);
    if (error != K_NONE)
        return error;
    Group *group = group_find(s->g, q->group_id);
    if (!group || group->state == GROUP_DEAD)
        return K_GROUP_ID_NOT_FOUND;
    if (group->state != GROUP_EMPTY && !is_consumer_group(group))
        return K_NON_EMPTY_GROUP;
    *ret = group;
    return writes_full(s->g) ? K_COORDINATOR_NOT_AVAILABLE : K_NONE;
}

static void delete_in_topic(Step *s, Write *w, const Group *group, const KOffsetDeleteRequestTopics *q, KOffsetDeleteResponseTopics *a)
{
    const GroupsOps *ops = &s->g->ops;
    int16_t error = is_subscribed(group, q->name) != 0 ? K_GROUP_SUBSCRIBED_TO_TOPIC : K_NONE;
    for (int32_t p = 0; p < q->partitions.n; p++) {
        int32_t index = q->partitions.items[p].partition_index;
        a->partitions.items[p].partition_index = index;
        a->partitions.items[p].error_code = error;
        if (error != K_NONE)
            continue;
        if (!offsets_find(&group->offsets, q->name, index)) {
            if (!ops->partition_exists(ops->userdata, q->name, index))
                a->partitions.items[p].error_code = K_UNKNOWN_TOPIC_OR_PARTITION;
            continue;
        }
        write_offset_tombstone(w, group->id, q->name, index);
        w->errors[w->n_errors++] = &a->partitions.items[p].error_code;
    }
}

void on_offset_delete(Step *s)
{
    const KOffsetDeleteRequest *q = s->ev->body;
    Reply *r = reply_new(s, &k_offset_delete_response);
    KOffsetDeleteResponse *a = r->response;
    Group *group = NULL;
    a->error_code = check_offset_delete(s, q, &group);
    if (a->error_code == K_NONE) {
        size_t n = 0;
        a->topics.n = q->topics.n;
        a->topics.items = must(arena_alloc(&r->arena, (size_t)q->topics.n * sizeof(a->topics.items[0]) + 1));
        for (int32_t i = 0; i < q->topics.n; i++) {
            KOffsetDeleteResponseTopics *to = &a->topics.items[i];
            to->name = reply_str(r, q->topics.items[i].name);
            to->partitions.n = q->topics.items[i].partitions.n;
            to->partitions.items = must(arena_alloc(&r->arena, (size_t)to->partitions.n * sizeof(to->partitions.items[0]) + 1));
            n += (size_t)to->partitions.n;
        }
        Write *w = write_new(s, WRITE_RECORDS, group, r);
        w->errors = must(malloc((n + 1) * sizeof(w->errors[0])));
        for (int32_t i = 0; i < q->topics.n; i++)
            delete_in_topic(s, w, group, &q->topics.items[i], &a->topics.items[i]);
        write_start(s, w);
    }
    reply_release(s, r);
}

/* Retention: from the moment a group became empty; a group that never had members, from each commit. */

static bool is_expired(const Step *s, const Group *group, KStr topic, const CommittedOffset *o)
{
    if (o->expire_ms >= 0)
        return s->ev->wall_ms >= o->expire_ms;
    bool is_empty = group->state == GROUP_EMPTY;
    int64_t since = is_empty && group->protocol_type ? MAX(o->commit_ms, group->state_since_ms) : o->commit_ms;
    if (s->ev->wall_ms - since < s->g->settings.retention_ms)
        return false;
    if (is_empty)
        return true;
    return group->state == GROUP_STABLE && is_consumer_group(group) && is_subscribed(group, topic) == 0;
}

static void expire_group(Step *s, Group *group)
{
    int64_t expired = 0;
    bool can_die = group->state == GROUP_EMPTY && group->n_pending == 0 && !has_writes(s->g, group);
    Write *w = write_new(s, WRITE_RECORDS, group, NULL);
    for (int32_t i = 0; i < group->offsets.n; i++) {
        const OffsetTopic *t = &group->offsets.topics[i];
        for (int32_t p = 0; p < t->n; p++) {
            if (!is_expired(s, group, offset_topic_name(t), &t->items[p]))
                continue;
            write_offset_tombstone(w, group->id, offset_topic_name(t), t->items[p].partition);
            expired++;
        }
    }
    if (can_die && expired == group->offsets.total) {
        if (group->generation > 0)
            write_group_tombstone(w, group->id);
        if (w->n == 0) {
            write_free(s->g, w);
            drop_if_hollow(s->g, group);
            return;
        }
        group->state = GROUP_DEAD;
        w->kind = WRITE_DELETE;
    }
    write_start(s, w);
}

void on_expire(Step *s)
{
    for (Group *group = groups_next(s->g, NULL), *next; group && !writes_full(s->g); group = next) {
        next = groups_next(s->g, group);
        if (group->state != GROUP_DEAD && s->g->partitions[group->partition] == PARTITION_LED)
            expire_group(s, group);
    }
}

void on_topic_deleted(Step *s)
{
    for (Group *group = groups_next(s->g, NULL); group && !writes_full(s->g); group = groups_next(s->g, group)) {
        const OffsetTopic *t = offsets_topic(&group->offsets, s->ev->topic);
        if (!t || group->state == GROUP_DEAD || s->g->partitions[group->partition] != PARTITION_LED)
            continue;
        Write *w = write_new(s, WRITE_RECORDS, group, NULL);
        for (int32_t p = 0; p < t->n; p++)
            write_offset_tombstone(w, group->id, offset_topic_name(t), t->items[p].partition);
        write_start(s, w);
    }
}
