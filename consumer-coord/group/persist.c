/*
 * Records: how decisions get to __consumer_offsets and come back. A Write is built in one step, handed to the owner as an
 * effect, and finished by GROUP_WRITTEN; groups_apply() is what both replay and a finished write go through.
 */

#include "consumer-coord/group/private.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "wire/error.h"

/* Building */

bool writes_full(const Groups *g)
{
    return g->n_writes >= GROUP_WRITES_MAX;
}

Write *write_new(Step *s, WriteKind kind, const Group *group, Reply *r)
{
    Write *w = must(calloc(1, sizeof(*w)));
    w->id = ++s->g->next_write_id;
    w->kind = kind;
    w->partition = group->partition;
    w->group_serial = group->serial;
    w->changes = group->changes;
    w->group_id = str_copy(k_str(group->id));
    w->reply = r;
    if (r)
        r->refs++;
    list_init(&w->node);
    return w;
}

static KBytes keep(Write *w, Buf *b)
{
    KBytes bytes = {.len = (int32_t)b->size, .ptr = must(arena_alloc(&w->arena, b->size + 1))};
    memcpy((void *)(uintptr_t)bytes.ptr, b->data, b->size);
    buf_deinit(b);
    return bytes;
}

static void add(Write *w, const RecordKey *key, Buf *value)
{
    if (w->n == w->capacity) {
        w->capacity = w->capacity ? 2 * w->capacity : 4;
        w->records = must(realloc(w->records, w->capacity * sizeof(w->records[0])));
    }
    Buf k = BUF_NULL;
    int r = record_key_encode(key, &k);
    assert(r != -EINVAL);
    must(r < 0 ? NULL : w);
    w->records[w->n++] = (GroupRecord){.key = keep(w, &k), .value = value ? keep(w, value) : K_BYTES_NULL};
}

void write_offset(Write *w, const char *group, KStr topic, const CommittedOffset *o, KStr metadata)
{
    Buf value = BUF_NULL;
    int r = record_offset_encode(o, metadata, &value);
    assert(r != -EINVAL);
    must(r < 0 ? NULL : w);
    add(w, &(RecordKey){.kind = RECORD_OFFSET, .group = k_str(group), .topic = topic, .partition = o->partition}, &value);
}

void write_offset_tombstone(Write *w, const char *group, KStr topic, int32_t partition)
{
    add(w, &(RecordKey){.kind = RECORD_OFFSET, .group = k_str(group), .topic = topic, .partition = partition}, NULL);
}

void write_group_tombstone(Write *w, const char *group)
{
    add(w, &(RecordKey){.kind = RECORD_GROUP, .group = k_str(group)}, NULL);
}

static KBytes assignment_of(const Member *m, const NewAssignments *new_ones)
{
    if (!new_ones)
        return (KBytes){m->assignment ? m->assignment : "", m->assignment_size};
    for (int32_t i = 0; i < new_ones->request->assignments.n; i++)
        if (k_str_equal(new_ones->request->assignments.items[i].member_id, m->id))
            return new_ones->request->assignments.items[i].assignment;
    return (KBytes){"", 0};
}

void write_group(Write *w, const Group *group, const NewAssignments *assignments)
{
    KGroupMetadataValue v;
    k_message_init(&k_group_metadata_value, &v);
    v.protocol_type = k_str(str_or_empty(group->protocol_type));
    v.generation = group->generation;
    v.protocol = k_str(group->protocol);
    v.leader = group->leader ? k_str(group->leader->id) : K_STR_NULL;
    v.current_state_timestamp = group->state_since_ms;
    v.members.n = group->n_members;
    v.members.items = must(calloc((size_t)group->n_members + 1, sizeof(v.members.items[0])));
    int32_t i = 0;
    list_for_each(it, &group->members)
    {
        const Member *m = CONTAINER_OF(it, Member, node);
        const KBytes *subscription = protocols_find(&m->protocols, group->protocol);
        v.members.items[i++] = (KGroupMetadataValueMembers){
            .member_id = k_str(m->id),
            .group_instance_id = k_str(m->instance_id),
            .client_id = k_str(str_or_empty(m->client_id)),
            .client_host = k_str(str_or_empty(m->client_host)),
            .rebalance_timeout = m->rebalance_timeout_ms,
            .session_timeout = m->session_timeout_ms,
            .subscription = subscription ? *subscription : (KBytes){"", 0},
            .assignment = assignment_of(m, assignments),
        };
    }
    Buf value = BUF_NULL;
    int r = record_group_encode(&v, &value);
    assert(r != -EINVAL);
    must(r < 0 ? NULL : w);
    free(v.members.items);
    add(w, &(RecordKey){.kind = RECORD_GROUP, .group = k_str(group->id)}, &value);
}

void write_start(Step *s, Write *w)
{
    if (w->n == 0) {
        write_end(s, w);
        return;
    }
    list_append(&s->g->writes, &w->node);
    s->g->n_writes++;
    GroupEffect *e = effect_new(s, GROUP_EFFECT_WRITE);
    e->write_id = w->id;
    e->partition = w->partition;
    e->timestamp_ms = s->ev->wall_ms;
    e->records = w->records;
    e->n_records = w->n;
}

void write_free(Groups *g, Write *w)
{
    if (!list_is_empty(&w->node))
        g->n_writes--;
    list_remove(&w->node);
    free(w->group_id);
    free(w->records);
    free(w->errors);
    arena_deinit(&w->arena);
    free(w);
}

void write_end(Step *s, Write *w)
{
    reply_release(s, w->reply);
    write_free(s->g, w);
}

Reply *reply_new(Step *s, const KMessage *m)
{
    Reply *r = must(calloc(1, sizeof(*r)));
    r->refs = 1;
    r->asker = s->ev->asker;
    r->message = m;
    r->response = must(arena_alloc(&r->arena, k_message_struct_size(m)));
    k_message_init(m, r->response);
    return r;
}

KStr reply_str(Reply *r, KStr s)
{
    return s.len < 0 ? s : (KStr){must(arena_strndup(&r->arena, s.ptr, (size_t)s.len)), s.len};
}

void reply_release(Step *s, Reply *r)
{
    if (!r || --r->refs > 0)
        return;
    if (!r->is_dead)
        reply(s, &r->asker, r->message, r->response);
    arena_deinit(&r->arena);
    free(r);
}

/* Applying */

static void apply_offset(Groups *g, Group *group, const RecordKey *key, const CommittedOffset *o, KStr metadata)
{
    int64_t before = group->offsets.total;
    must(offsets_set(&group->offsets, key->topic, o, metadata) < 0 ? NULL : g);
    g->counts.offsets += (uint64_t)(group->offsets.total - before);
}

static void drop_offset(Groups *g, const RecordKey *key)
{
    Group *group = group_find(g, key->group);
    if (group && offsets_remove(&group->offsets, key->topic, key->partition))
        g->counts.offsets--;
}

void drop_if_hollow(Groups *g, Group *group)
{
    bool idle = group->state == GROUP_EMPTY || group->state == GROUP_DEAD;
    if (idle && group->generation == 0 && group->offsets.total == 0 && group->n_members == 0 && group->n_pending == 0)
        group_remove(g, group);
}

static void drop_members(Groups *g, Group *group)
{
    List *node;
    while ((node = list_pop(&group->members)))
        member_free(g, CONTAINER_OF(node, Member, node));
    group->leader = NULL;
}

static void replay_member(Groups *g, Group *group, const KGroupMetadataValue *v, int32_t i)
{
    const KGroupMetadataValueMembers *from = &v->members.items[i];
    Member *m = member_add(g, group, from->member_id);
    str_set(&m->instance_id, from->group_instance_id);
    str_set(&m->client_id, from->client_id);
    str_set(&m->client_host, from->client_host);
    m->session_timeout_ms = from->session_timeout;
    m->rebalance_timeout_ms = from->rebalance_timeout > 0 ? from->rebalance_timeout : from->session_timeout;
    m->id_is_known = true;
    m->has_synced = true;
    KJoinGroupRequestProtocols offer = {.name = v->protocol.len < 0 ? k_str("") : v->protocol, .metadata = from->subscription};
    KJoinGroupRequest q = {.protocols = {&offer, 1}};
    protocols_set(&m->protocols, &q);
    member_set_assignment(m, from->assignment);
    if (k_str_same(v->leader, from->member_id))
        group->leader = m;
}

static void replay_group(Groups *g, Group *group, const KGroupMetadataValue *v)
{
    drop_members(g, group);
    str_set(&group->protocol_type, v->protocol_type.len > 0 ? v->protocol_type : K_STR_NULL);
    str_set(&group->protocol, v->protocol);
    group->generation = v->generation;
    group->state_since_ms = v->current_state_timestamp;
    group->state = v->members.n > 0 ? GROUP_STABLE : GROUP_EMPTY;
    for (int32_t i = 0; i < v->members.n; i++)
        replay_member(g, group, v, i);
    if (!group->leader && group->n_members)
        group->leader = CONTAINER_OF(group->members.next, Member, node);
}

static void replay_group_tombstone(Groups *g, const RecordKey *key)
{
    Group *group = group_find(g, key->group);
    if (!group)
        return;
    drop_members(g, group);
    group->generation = 0;
    group->state = GROUP_EMPTY;
    str_set(&group->protocol_type, K_STR_NULL);
    str_set(&group->protocol, K_STR_NULL);
    drop_if_hollow(g, group);
}

static Group *find_or_add(Groups *g, KStr id, int32_t partition)
{
    Group *group = group_find(g, id);
    return group ? group : group_add(g, id, partition);
}

/* One record as it stands in the log. For a finished write the group's metadata never come this way. */
static int apply(Groups *g, int32_t partition, KBytes key, KBytes value, bool replay)
{
    RecordKey k;
    int r = record_key_decode(key, &k);
    if (r < 0 || k.kind == RECORD_UNKNOWN)
        return r;
    if (has_nul(k.group))
        return -EBADMSG;
    if (value.len < 0) {
        if (k.kind == RECORD_OFFSET)
            drop_offset(g, &k);
        else
            replay_group_tombstone(g, &k);
        return 0;
    }
    if (k.kind == RECORD_OFFSET) {
        CommittedOffset o;
        KStr metadata;
        r = record_offset_decode(value, &o, &metadata);
        Group *group = r < 0 ? NULL : find_or_add(g, k.group, partition);
        if (!group)
            return r;
        o.partition = k.partition;
        apply_offset(g, group, &k, &o, metadata);
        return 0;
    }
    assert(replay);
    Arena arena = ARENA_NULL;
    KGroupMetadataValue v;
    r = record_group_decode(value, &arena, &v);
    Group *group = r < 0 ? NULL : find_or_add(g, k.group, partition);
    if (group)
        replay_group(g, group, &v);
    arena_deinit(&arena);
    return r;
}

int groups_apply(Groups *g, int32_t partition, KBytes key, KBytes value)
{
    return apply(g, partition, key, value, true);
}

/* The assignments of a generation are durable: the record, not the request, says what they are. */
static void apply_assignments(Group *group, const Write *w)
{
    Arena arena = ARENA_NULL;
    KGroupMetadataValue v;
    int r = record_group_decode(w->records[0].value, &arena, &v);
    assert(r == 0);
    for (int32_t i = 0; i < v.members.n; i++) {
        Member *m = member_find(group, v.members.items[i].member_id);
        if (m)
            member_set_assignment(m, v.members.items[i].assignment);
    }
    arena_deinit(&arena);
}

/* Kafka's translation: errors of the log mean nothing to a group member. */
static int16_t client_error(int16_t log_error, bool is_commit)
{
    switch (log_error) {
    case K_NONE:
        return K_NONE;
    case K_UNKNOWN_TOPIC_OR_PARTITION:
    case K_NOT_ENOUGH_REPLICAS:
    case K_NOT_ENOUGH_REPLICAS_AFTER_APPEND:
    case K_REQUEST_TIMED_OUT:
    case K_COORDINATOR_NOT_AVAILABLE:
        return K_COORDINATOR_NOT_AVAILABLE;
    case K_NOT_LEADER_OR_FOLLOWER:
    case K_KAFKA_STORAGE_ERROR:
    case K_NOT_COORDINATOR:
        return K_NOT_COORDINATOR;
    case K_MESSAGE_TOO_LARGE:
    case K_RECORD_LIST_TOO_LARGE:
    case K_INVALID_FETCH_SIZE:
        return is_commit ? K_INVALID_COMMIT_OFFSET_SIZE : K_UNKNOWN_SERVER_ERROR;
    default:
        return K_UNKNOWN_SERVER_ERROR;
    }
}

static Write *find_write(const Groups *g, uint64_t id)
{
    list_for_each(it, &g->writes)
    {
        Write *w = CONTAINER_OF(it, Write, node);
        if (w->id == id)
            return w;
    }
    return NULL;
}

static void finish_sync(Step *s, const Write *w, int16_t error)
{
    Group *group = group_by_serial(s->g, w->group_id, w->group_serial);
    if (!group || group->changes != w->changes || group->state != GROUP_COMPLETING)
        return; /* a rebalance overtook it; who waited was told then */
    if (error == K_NONE)
        apply_assignments(group, w);
    on_assignments_written(s, group, error);
}

/* A group that had a record of its own is gone with its tombstone; others, and after a failure all, are still there. */
static void finish_delete(Step *s, const Write *w)
{
    Group *group = group_by_serial(s->g, w->group_id, w->group_serial);
    if (!group)
        return;
    group->state = GROUP_EMPTY;
    drop_if_hollow(s->g, group);
}

void on_written(Step *s)
{
    Write *w = find_write(s->g, s->ev->write_id);
    if (!w)
        return; /* its partition was lost meanwhile */
    int16_t error = client_error(s->ev->error, w->kind == WRITE_RECORDS);
    for (size_t i = 0; i < w->n_errors && error != K_NONE; i++)
        *w->errors[i] = error;
    if (w->kind == WRITE_SYNC)
        finish_sync(s, w, error);
    if (w->kind == WRITE_RECORDS || w->kind == WRITE_DELETE)
        for (size_t i = 0; i < w->n && error == K_NONE; i++)
            (void)apply(s->g, w->partition, w->records[i].key, w->records[i].value, false);
    if (w->kind == WRITE_DELETE)
        finish_delete(s, w);
    write_end(s, w);
}
