/*
 * JoinGroup: who may come in, under which id, and whether that starts a rebalance (the table in kafka-wire.md section 9).
 */

#include "consumer-coord/group/private.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "wire/error.h"

#define MEMBER_ID_PREFIX_MAX 255 /* of the client's or instance's name: ids must fit every version's strings */

void answer_join_error(Step *s, const GroupAsker *asker, int16_t error, KStr member_id)
{
    KJoinGroupResponse r;
    k_message_init(&k_join_group_response, &r);
    r.error_code = error;
    r.generation_id = -1;
    r.protocol_name = asker->api_version >= 7 ? K_STR_NULL : k_str("");
    r.leader = k_str("");
    r.member_id = member_id.len < 0 ? k_str("") : member_id;
    reply(s, asker, &k_join_group_response, &r);
}

static void fill_members(Step *s, const Group *group, KJoinGroupResponse *r)
{
    r->members.items = effect_alloc(s, (size_t)group->n_members * sizeof(r->members.items[0]));
    r->members.n = group->n_members;
    int32_t i = 0;
    list_for_each(it, &group->members)
    {
        const Member *m = CONTAINER_OF(it, Member, node);
        const KBytes *metadata = protocols_find(&m->protocols, group->protocol);
        r->members.items[i++] = (KJoinGroupResponseMembers){
            .member_id = k_str(m->id),
            .group_instance_id = k_str(m->instance_id),
            .metadata = metadata ? *metadata : (KBytes){"", 0},
        };
    }
}

void answer_join(Step *s, Member *m, const GroupAsker *asker, const char *leader, bool with_members, bool skip_assignment)
{
    const Group *group = m->group;
    KJoinGroupResponse r;
    k_message_init(&k_join_group_response, &r);
    r.generation_id = group->generation;
    r.protocol_type = k_str(group->protocol_type);
    r.protocol_name = k_str(str_or_empty(group->protocol));
    r.leader = k_str(leader);
    r.skip_assignment = skip_assignment;
    r.member_id = k_str(m->id);
    if (with_members)
        fill_members(s, group, &r);
    reply(s, asker, &k_join_group_response, &r);
}

/* The newer request of a member replaces the one that waits; every request gets its answer. */
static void park_join(Step *s, Member *m)
{
    if (m->join.is)
        answer_join_error(s, &m->join.asker, K_REBALANCE_IN_PROGRESS, k_str(m->id));
    m->join = (Parked){true, s->ev->asker};
}

static void set_from_request(Member *m, const KJoinGroupRequest *q, const GroupEvent *ev)
{
    m->session_timeout_ms = q->session_timeout_ms;
    m->rebalance_timeout_ms = q->rebalance_timeout_ms > 0 ? q->rebalance_timeout_ms : q->session_timeout_ms;
    str_set(&m->client_id, ev->client_id.len < 0 ? k_str("") : ev->client_id);
    str_set(&m->client_host, ev->client_host.len < 0 ? k_str("") : ev->client_host);
    protocols_set(&m->protocols, q);
}

static char *new_member_id(Step *s, KStr name)
{
    int len = MIN(MAX(name.len, 0), MEMBER_ID_PREFIX_MAX);
    uint64_t a = rng_next(&s->g->rng), b = rng_next(&s->g->rng);
    char *id = effect_alloc(s, (size_t)len + 38);
    snprintf(id, (size_t)len + 38, "%.*s-%08x-%04x-4%03x-%04x-%012llx", len, len ? name.ptr : "", (uint32_t)(a >> 32),
             (unsigned)(a >> 16 & 0xffff), (unsigned)(a & 0xfff), (unsigned)(0x8000 | (b >> 48 & 0x3fff)),
             (unsigned long long)(b & 0xffffffffffff));
    return id;
}

static void park_and_rebalance(Step *s, Member *m)
{
    Group *group = m->group;
    park_join(s, m);
    touch_member(s, m);
    if (group->state == GROUP_PREPARING)
        try_complete_join(s, group);
    else
        prepare_rebalance(s, group);
}

static void update_and_rebalance(Step *s, Member *m, const KJoinGroupRequest *q)
{
    set_from_request(m, q, s->ev);
    park_and_rebalance(s, m);
}

static void add_member(Step *s, Group *group, KStr id, bool id_is_known, const KJoinGroupRequest *q)
{
    if (group->n_members == 0)
        str_set(&group->protocol_type, q->protocol_type);
    Pending *p = pending_find(group, id);
    if (p)
        pending_free(s->g, p);
    Member *m = member_add(s->g, group, id);
    str_set(&m->instance_id, q->group_instance_id);
    m->is_new = true;
    m->id_is_known = id_is_known;
    if (group->state == GROUP_PREPARING && group->phase == PHASE_INITIAL)
        group->new_member_added = true;
    update_and_rebalance(s, m, q);
}

static void answer_current(Step *s, Member *m, bool with_members)
{
    touch_member(s, m);
    answer_join(s, m, &s->ev->asker, m->group->leader ? m->group->leader->id : "", with_members, false);
}

static void rejoin(Step *s, Member *m, const KJoinGroupRequest *q)
{
    Group *group = m->group;
    bool is_leader = group->leader == m, same = protocols_equal(&m->protocols, q);
    m->id_is_known = true;
    if (group->state == GROUP_COMPLETING && same)
        answer_current(s, m, is_leader);
    else if (group->state == GROUP_STABLE && same && !is_leader)
        answer_current(s, m, false);
    else
        update_and_rebalance(s, m, q);
}

/* A static member that comes back without its id takes over from its former self. */
static Member *replace_static(Step *s, Member *old, KStr new_id)
{
    if (old->join.is)
        answer_join_error(s, &old->join.asker, K_FENCED_INSTANCE_ID, k_str(old->id));
    if (old->sync.is)
        answer_sync_error(s, &old->sync.asker, K_FENCED_INSTANCE_ID);
    notify_member(s, old, EVENT_FENCED, K_FENCED_INSTANCE_ID);
    old->join.is = old->sync.is = false;
    str_set(&old->id, new_id);
    old->id_is_known = false;
    return old;
}

/* The group goes on as it is; only the member's new id has to survive. */
static void keep_generation(Step *s, Member *m, const char *old_leader)
{
    Group *group = m->group;
    bool is_leader = group->leader == m;
    bool may_skip = s->ev->asker.api_version >= 9;
    Reply *r = reply_new(s, &k_join_group_response);
    KJoinGroupResponse *a = r->response;
    a->generation_id = group->generation;
    KStr texts[] = {k_str(group->protocol_type), k_str(str_or_empty(group->protocol)), k_str(m->id),
                    k_str(may_skip ? group->leader->id : old_leader)};
    for (size_t i = 0; i < ARRAY_SIZE(texts); i++)
        texts[i] = reply_str(r, texts[i]);
    a->protocol_type = texts[0];
    a->protocol_name = texts[1];
    a->member_id = texts[2];
    a->leader = texts[3];
    a->skip_assignment = is_leader && may_skip;
    if (a->skip_assignment) {
        KJoinGroupResponse current;
        fill_members(s, group, &current);
        a->members.n = current.members.n;
        a->members.items = must(arena_alloc(&r->arena, (size_t)current.members.n * sizeof(current.members.items[0])));
        for (int32_t i = 0; i < current.members.n; i++) {
            KJoinGroupResponseMembers *to = &a->members.items[i], *from = &current.members.items[i];
            *to = *from;
            to->member_id = reply_str(r, from->member_id);
            to->group_instance_id = reply_str(r, from->group_instance_id);
            to->metadata.ptr = must(arena_strndup(&r->arena, from->metadata.ptr, (size_t)from->metadata.len));
        }
    }
    Write *w = write_new(s, WRITE_GROUP, group, r);
    w->errors = must(malloc(sizeof(w->errors[0])));
    w->errors[w->n_errors++] = &a->error_code;
    write_group(w, group, NULL);
    write_start(s, w);
    reply_release(s, r);
}

static void static_join(Step *s, Group *group, Member *old, const KJoinGroupRequest *q)
{
    const char *leader = group->leader ? group->leader->id : "";
    char *old_leader = effect_alloc(s, strlen(leader) + 1);
    memcpy(old_leader, leader, strlen(leader) + 1);
    Member *m = replace_static(s, old, k_str(new_member_id(s, q->group_instance_id)));
    bool stable = group->state == GROUP_STABLE;
    set_from_request(m, q, s->ev);
    if (stable && group_would_keep_protocol(group) && !writes_full(s->g)) {
        touch_member(s, m);
        keep_generation(s, m, old_leader);
        return;
    }
    park_and_rebalance(s, m);
}

static bool is_full(const Groups *g, const Group *group, bool is_member)
{
    if (is_member)
        return false;
    return group->n_members + group->n_pending >= g->settings.size_max || members_full(g);
}

static void join_without_id(Step *s, Group *group, const KJoinGroupRequest *q)
{
    Member *old = q->group_instance_id.len >= 0 ? member_by_instance(group, q->group_instance_id) : NULL;
    if (is_full(s->g, group, old != NULL)) {
        answer_join_error(s, &s->ev->asker, K_GROUP_MAX_SIZE_REACHED, q->member_id);
    } else if (old) {
        static_join(s, group, old, q);
    } else if (q->group_instance_id.len >= 0) {
        add_member(s, group, k_str(new_member_id(s, q->group_instance_id)), false, q);
    } else if (s->ev->asker.api_version < 4) {
        add_member(s, group, k_str(new_member_id(s, s->ev->client_id)), false, q);
    } else {
        Pending *p = pending_add(s->g, group, k_str(new_member_id(s, s->ev->client_id)), q->session_timeout_ms);
        timer_set(&s->g->timers, &p->timer, s->ev->now_ms + q->session_timeout_ms);
        answer_join_error(s, &s->ev->asker, K_MEMBER_ID_REQUIRED, k_str(p->id));
    }
}

static void join_with_id(Step *s, Group *group, const KJoinGroupRequest *q)
{
    if (pending_find(group, q->member_id)) {
        add_member(s, group, q->member_id, true, q);
        return;
    }
    Member *m;
    int16_t error = validate_member(group, q->member_id, q->group_instance_id, &m);
    if (error == K_NONE && group->state == GROUP_EMPTY)
        error = K_UNKNOWN_MEMBER_ID;
    if (error != K_NONE)
        answer_join_error(s, &s->ev->asker, error, q->member_id);
    else
        rejoin(s, m, q);
}

static int16_t check_request(const Step *s, const KJoinGroupRequest *q, int32_t *ret_partition)
{
    int16_t error = partition_error(s->g, q->group_id, ret_partition);
    if (error != K_NONE)
        return error;
    if (q->group_id.len == 0)
        return K_INVALID_GROUP_ID;
    if (q->session_timeout_ms < s->g->settings.session_min_ms || q->session_timeout_ms > s->g->settings.session_max_ms)
        return K_INVALID_SESSION_TIMEOUT;
    bool bad = q->protocols.n > GROUP_PROTOCOLS_MAX || has_nul(q->group_instance_id) || has_nul(q->protocol_type);
    for (int32_t i = 0; i < q->protocols.n && !bad; i++)
        bad = has_nul(q->protocols.items[i].name);
    return bad ? K_INVALID_REQUEST : K_NONE;
}

void on_join(Step *s)
{
    const KJoinGroupRequest *q = s->ev->body;
    int32_t partition;
    int16_t error = check_request(s, q, &partition);
    Group *group = error == K_NONE ? group_find(s->g, q->group_id) : NULL;
    if (error == K_NONE && !group) {
        if (q->member_id.len > 0)
            error = K_UNKNOWN_MEMBER_ID;
        else if (q->protocol_type.len <= 0 || q->protocols.n <= 0)
            error = K_INCONSISTENT_GROUP_PROTOCOL;
        else if (groups_full(s->g) || members_full(s->g))
            error = K_GROUP_MAX_SIZE_REACHED;
        else
            group = group_add(s->g, q->group_id, partition);
    }
    if (group && group->state == GROUP_DEAD)
        error = K_COORDINATOR_NOT_AVAILABLE;
    else if (group && !join_offers_protocol(q, group))
        error = K_INCONSISTENT_GROUP_PROTOCOL;
    if (error != K_NONE)
        answer_join_error(s, &s->ev->asker, error, q->member_id);
    else if (q->member_id.len == 0)
        join_without_id(s, group, q);
    else
        join_with_id(s, group, q);
}
