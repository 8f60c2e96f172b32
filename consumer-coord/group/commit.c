/*
 * OffsetCommit and OffsetFetch. A commit is validated, written, and only then visible and answered; the partitions that
 * fail validation are answered with those that were written.
 */

#include "consumer-coord/group/private.h"

#include <stdlib.h>
#include <string.h>

#include "wire/error.h"

typedef KOffsetCommitRequestTopics QTopic;
typedef KOffsetCommitResponseTopics RTopic;

static int16_t check_member(Step *s, const Group *group, const KOffsetCommitRequest *q)
{
    int32_t generation = q->generation_id_or_member_epoch;
    if (generation < 0 && group->state == GROUP_EMPTY)
        return K_NONE; /* a consumer that assigns by itself, or an administrator */
    if (generation < 0 && q->member_id.len == 0 && q->group_instance_id.len < 0)
        return K_UNKNOWN_MEMBER_ID;
    Member *m;
    int16_t error = validate_member(group, q->member_id, q->group_instance_id, &m);
    if (error != K_NONE)
        return error;
    if (generation != group->generation)
        return K_ILLEGAL_GENERATION;
    if (group->state == GROUP_COMPLETING)
        return K_REBALANCE_IN_PROGRESS;
    touch_member(s, m);
    return K_NONE;
}

static int16_t find_group(Step *s, const KOffsetCommitRequest *q, Group **ret)
{
    int32_t partition;
    int16_t error = partition_error(s->g, q->group_id, &partition);
    if (error != K_NONE)
        return error;
    Group *group = group_find(s->g, q->group_id);
    if (writes_full(s->g) || (!group && groups_full(s->g)))
        return K_COORDINATOR_NOT_AVAILABLE;
    if (!group) {
        if (q->generation_id_or_member_epoch >= 0)
            return s->ev->asker.api_version >= 9 ? K_GROUP_ID_NOT_FOUND : K_ILLEGAL_GENERATION;
        group = group_add(s->g, q->group_id, partition);
        group->state_since_ms = s->ev->wall_ms;
    }
    if (group->state == GROUP_DEAD)
        return K_COORDINATOR_NOT_AVAILABLE;
    *ret = group;
    return check_member(s, group, q);
}

static int16_t check_offset(const Step *s, KStr topic, int32_t partition, KStr metadata)
{
    const GroupsOps *ops = &s->g->ops;
    if (metadata.len > MIN(s->g->settings.metadata_max, INT16_MAX))
        return K_OFFSET_METADATA_TOO_LARGE;
    if (!ops->partition_exists(ops->userdata, topic, partition))
        return K_UNKNOWN_TOPIC_OR_PARTITION;
    return K_NONE;
}

/* The answer in its own memory, every partition with `error`. */
static void echo(const KOffsetCommitRequest *q, Reply *r, int16_t error)
{
    KOffsetCommitResponse *a = r->response;
    a->topics.n = q->topics.n;
    a->topics.items = must(arena_alloc(&r->arena, (size_t)q->topics.n * sizeof(RTopic) + 1));
    for (int32_t i = 0; i < q->topics.n; i++) {
        const QTopic *from = &q->topics.items[i];
        RTopic *to = &a->topics.items[i];
        to->name = reply_str(r, from->name);
        to->topic_id = from->topic_id;
        to->partitions.n = from->partitions.n;
        to->partitions.items = must(arena_alloc(&r->arena, (size_t)from->partitions.n * sizeof(to->partitions.items[0]) + 1));
        for (int32_t p = 0; p < from->partitions.n; p++) {
            to->partitions.items[p].partition_index = from->partitions.items[p].partition_index;
            to->partitions.items[p].error_code = error;
        }
    }
}

static size_t count_partitions(const KOffsetCommitRequest *q)
{
    size_t n = 0;
    for (int32_t i = 0; i < q->topics.n; i++)
        n += (size_t)q->topics.items[i].partitions.n;
    return n;
}

/* Versions 2 to 4 may name how long an offset stays; others leave it to the group (KIP-211). */
static int64_t expiry(const Step *s)
{
    const KOffsetCommitRequest *q = s->ev->body;
    return q->retention_time_ms < 0 ? -1 : s->ev->wall_ms + MIN(q->retention_time_ms, INT64_MAX / 2);
}

static void commit_topic(Step *s, Write *w, const QTopic *q, RTopic *a)
{
    for (int32_t i = 0; i < q->partitions.n; i++) {
        const KOffsetCommitRequestTopicsPartitions *p = &q->partitions.items[i];
        KStr metadata = p->committed_metadata.len < 0 ? k_str("") : p->committed_metadata;
        int16_t *error = &a->partitions.items[i].error_code;
        *error = check_offset(s, q->name, p->partition_index, metadata);
        if (*error != K_NONE)
            continue;
        CommittedOffset o = {
            .partition = p->partition_index,
            .leader_epoch = p->committed_leader_epoch,
            .offset = p->committed_offset,
            .commit_ms = s->ev->wall_ms,
            .expire_ms = expiry(s),
        };
        write_offset(w, w->group_id, q->name, &o, metadata);
        w->errors[w->n_errors++] = error;
    }
}

void on_commit(Step *s)
{
    const KOffsetCommitRequest *q = s->ev->body;
    Reply *r = reply_new(s, &k_offset_commit_response);
    KOffsetCommitResponse *a = r->response;
    Group *group = NULL;
    int16_t error = find_group(s, q, &group);
    echo(q, r, error);
    if (error == K_NONE) {
        Write *w = write_new(s, WRITE_RECORDS, group, r);
        w->errors = must(malloc((count_partitions(q) + 1) * sizeof(w->errors[0])));
        for (int32_t i = 0; i < q->topics.n; i++)
            commit_topic(s, w, &q->topics.items[i], &a->topics.items[i]);
        write_start(s, w);
    }
    reply_release(s, r);
}

/* OffsetFetch. Versions up to 7 ask for one group, later ones for several; both are answered from these two. */

typedef KOffsetFetchResponseGroupsTopics GroupTopic;
typedef KOffsetFetchResponseGroupsTopicsPartitions GroupPartition;

static GroupPartition fetched(const CommittedOffset *o, int32_t partition)
{
    if (!o)
        return (GroupPartition){.partition_index = partition, .committed_offset = -1, .committed_leader_epoch = -1, .metadata = k_str("")};
    return (GroupPartition){
        .partition_index = partition,
        .committed_offset = o->offset,
        .committed_leader_epoch = o->leader_epoch,
        .metadata = offset_metadata(o),
    };
}

static void fetch_all(Step *s, const Group *group, KOffsetFetchResponseGroups *a)
{
    const OffsetTable *t = &group->offsets;
    a->topics.n = t->n;
    a->topics.items = effect_alloc(s, (size_t)t->n * sizeof(GroupTopic) + 1);
    for (int32_t i = 0; i < t->n; i++) {
        GroupTopic *to = &a->topics.items[i];
        to->name = offset_topic_name(&t->topics[i]);
        to->partitions.n = t->topics[i].n;
        to->partitions.items = effect_alloc(s, (size_t)t->topics[i].n * sizeof(GroupPartition) + 1);
        for (int32_t p = 0; p < t->topics[i].n; p++)
            to->partitions.items[p] = fetched(&t->topics[i].items[p], t->topics[i].items[p].partition);
    }
}

static void fetch_some(Step *s, const Group *group, const KOffsetFetchRequestGroups *q, KOffsetFetchResponseGroups *a)
{
    a->topics.n = q->topics.n;
    a->topics.items = effect_alloc(s, (size_t)q->topics.n * sizeof(GroupTopic) + 1);
    for (int32_t i = 0; i < q->topics.n; i++) {
        const KOffsetFetchRequestGroupsTopics *from = &q->topics.items[i];
        GroupTopic *to = &a->topics.items[i];
        to->name = from->name;
        to->partitions.n = from->partition_indexes.n;
        to->partitions.items = effect_alloc(s, (size_t)from->partition_indexes.n * sizeof(GroupPartition) + 1);
        for (int32_t p = 0; p < from->partition_indexes.n; p++) {
            int32_t index = from->partition_indexes.items[p];
            to->partitions.items[p] = fetched(group ? offsets_find(&group->offsets, from->name, index) : NULL, index);
        }
    }
}

static void fetch_group(Step *s, const KOffsetFetchRequestGroups *q, KOffsetFetchResponseGroups *a)
{
    int32_t partition;
    a->group_id = q->group_id;
    a->error_code = partition_error(s->g, q->group_id, &partition);
    if (a->error_code != K_NONE)
        return;
    const Group *group = group_find(s->g, q->group_id);
    if (q->topics.n >= 0)
        fetch_some(s, group, q, a);
    else if (group)
        fetch_all(s, group, a);
}

/* Version 1 has no place for a group's error but the partitions. */
static void spread_error(Step *s, const KOffsetFetchRequestGroups *q, KOffsetFetchResponseGroups *a)
{
    fetch_some(s, NULL, q, a);
    for (int32_t i = 0; i < a->topics.n; i++)
        for (int32_t p = 0; p < a->topics.items[i].partitions.n; p++)
            a->topics.items[i].partitions.items[p].error_code = a->error_code;
}

static void fetch_single(Step *s, const KOffsetFetchRequest *q)
{
    KOffsetFetchRequestGroups one = {.group_id = q->group_id, .member_id = K_STR_NULL, .member_epoch = -1};
    one.topics.n = q->topics.n;
    one.topics.items = effect_alloc(s, (size_t)MAX(q->topics.n, 0) * sizeof(one.topics.items[0]) + 1);
    for (int32_t i = 0; i < q->topics.n; i++) {
        one.topics.items[i].name = q->topics.items[i].name;
        one.topics.items[i].partition_indexes = q->topics.items[i].partition_indexes;
    }
    KOffsetFetchResponseGroups a = {0};
    fetch_group(s, &one, &a);
    if (a.error_code != K_NONE && s->ev->asker.api_version < 2)
        spread_error(s, &one, &a);
    KOffsetFetchResponse r;
    k_message_init(&k_offset_fetch_response, &r);
    r.error_code = a.error_code;
    r.topics.n = a.topics.n;
    r.topics.items = effect_alloc(s, (size_t)a.topics.n * sizeof(r.topics.items[0]) + 1);
    for (int32_t i = 0; i < a.topics.n; i++) {
        r.topics.items[i].name = a.topics.items[i].name;
        int32_t n = r.topics.items[i].partitions.n = a.topics.items[i].partitions.n;
        r.topics.items[i].partitions.items = effect_alloc(s, (size_t)n * sizeof(r.topics.items[i].partitions.items[0]) + 1);
        for (int32_t p = 0; p < n; p++) {
            const GroupPartition *from = &a.topics.items[i].partitions.items[p];
            r.topics.items[i].partitions.items[p] = (KOffsetFetchResponseTopicsPartitions){
                .partition_index = from->partition_index,
                .committed_offset = from->committed_offset,
                .committed_leader_epoch = from->committed_leader_epoch,
                .metadata = from->metadata,
                .error_code = from->error_code,
            };
        }
    }
    reply(s, &s->ev->asker, &k_offset_fetch_response, &r);
}

void on_fetch(Step *s)
{
    const KOffsetFetchRequest *q = s->ev->body;
    if (s->ev->asker.api_version < 8) {
        fetch_single(s, q);
        return;
    }
    KOffsetFetchResponse r;
    k_message_init(&k_offset_fetch_response, &r);
    r.groups.n = q->groups.n;
    r.groups.items = effect_alloc(s, (size_t)q->groups.n * sizeof(r.groups.items[0]) + 1);
    for (int32_t i = 0; i < q->groups.n; i++)
        fetch_group(s, &q->groups.items[i], &r.groups.items[i]);
    reply(s, &s->ev->asker, &k_offset_fetch_response, &r);
}
