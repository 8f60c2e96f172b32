/*
 * SyncGroup, Heartbeat, LeaveGroup: what members say between two joins.
 *
 * The leader's SyncGroup carries everybody's assignment. It is written before anybody hears of it; members that asked
 * earlier are parked until then.
 */

#include "consumer-coord/group/private.h"

#include <stdlib.h>

#include "wire/error.h"

/* Return: 0, UNKNOWN_MEMBER_ID, or FENCED_INSTANCE_ID when another member has taken over that instance id. */
int16_t validate_member(const Group *group, KStr member_id, KStr instance_id, Member **ret)
{
    Member *m = NULL;
    if (instance_id.len >= 0) {
        m = member_by_instance(group, instance_id);
        if (m && !k_str_equal(member_id, m->id))
            return K_FENCED_INSTANCE_ID;
    } else {
        m = member_find(group, member_id);
    }
    if (!m)
        return K_UNKNOWN_MEMBER_ID;
    *ret = m;
    return K_NONE;
}

/* SyncGroup */

void answer_sync_error(Step *s, const GroupAsker *asker, int16_t error)
{
    KSyncGroupResponse r;
    k_message_init(&k_sync_group_response, &r);
    r.error_code = error;
    r.assignment = (KBytes){"", 0};
    reply(s, asker, &k_sync_group_response, &r);
}

static void answer_assignment(Step *s, const Member *m, const GroupAsker *asker)
{
    KSyncGroupResponse r;
    k_message_init(&k_sync_group_response, &r);
    r.protocol_type = k_str(m->group->protocol_type);
    r.protocol_name = k_str(m->group->protocol);
    r.assignment = (KBytes){m->assignment ? m->assignment : "", m->assignment_size};
    reply(s, asker, &k_sync_group_response, &r);
}

void answer_sync(Step *s, Member *m, int16_t error)
{
    if (!m->sync.is)
        return;
    m->sync.is = false;
    if (error != K_NONE)
        answer_sync_error(s, &m->sync.asker, error);
    else
        answer_assignment(s, m, &m->sync.asker);
}

static bool everybody_synced(const Group *group)
{
    list_for_each(it, &group->members)
    {
        if (!CONTAINER_OF(it, Member, node)->has_synced)
            return false;
    }
    return true;
}

void on_assignments_written(Step *s, Group *group, int16_t error)
{
    group->sync_is_written = false;
    if (error != K_NONE) {
        list_for_each(it, &group->members)
        {
            answer_sync(s, CONTAINER_OF(it, Member, node), error);
        }
        prepare_rebalance(s, group);
        return;
    }
    group->state = GROUP_STABLE;
    list_for_each(it, &group->members)
    {
        Member *m = CONTAINER_OF(it, Member, node);
        bool waited = m->sync.is;
        answer_sync(s, m, K_NONE);
        if (waited)
            touch_member(s, m);
        notify_member(s, m, EVENT_ASSIGNMENT, K_NONE);
    }
    if (everybody_synced(group))
        phase_set(s, group, PHASE_NONE, 0);
}

static int16_t check_sync(const Group *group, const KSyncGroupRequest *q, Member **ret)
{
    if (!group)
        return K_UNKNOWN_MEMBER_ID;
    if (group->state == GROUP_DEAD)
        return K_COORDINATOR_NOT_AVAILABLE;
    int16_t error = validate_member(group, q->member_id, q->group_instance_id, ret);
    if (error != K_NONE)
        return error;
    if (q->generation_id != group->generation)
        return K_ILLEGAL_GENERATION;
    if (q->protocol_type.len >= 0 && group->protocol_type && !k_str_equal(q->protocol_type, group->protocol_type))
        return K_INCONSISTENT_GROUP_PROTOCOL;
    if (q->protocol_name.len >= 0 && group->protocol && !k_str_equal(q->protocol_name, group->protocol))
        return K_INCONSISTENT_GROUP_PROTOCOL;
    if (group->state == GROUP_EMPTY)
        return K_UNKNOWN_MEMBER_ID;
    return group->state == GROUP_PREPARING ? K_REBALANCE_IN_PROGRESS : K_NONE;
}

static void sync_completing(Step *s, Group *group, Member *m, const KSyncGroupRequest *q)
{
    if (m->sync.is)
        answer_sync_error(s, &m->sync.asker, K_REBALANCE_IN_PROGRESS);
    m->sync = (Parked){true, s->ev->asker};
    m->has_synced = true;
    m->id_is_known = true;
    touch_member(s, m);
    if (m != group->leader || group->sync_is_written)
        return;
    if (writes_full(s->g)) {
        on_assignments_written(s, group, K_COORDINATOR_NOT_AVAILABLE);
        return;
    }
    Write *w = write_new(s, WRITE_SYNC, group, NULL);
    write_group(w, group, &(NewAssignments){q});
    group->sync_is_written = true;
    write_start(s, w);
}

void on_sync(Step *s)
{
    const KSyncGroupRequest *q = s->ev->body;
    int32_t partition;
    int16_t error = partition_error(s->g, q->group_id, &partition);
    Group *group = NULL;
    Member *m = NULL;
    if (error == K_COORDINATOR_LOAD_IN_PROGRESS)
        error = K_REBALANCE_IN_PROGRESS; /* clients of every age know what to do then */
    if (error == K_NONE && q->group_id.len == 0)
        error = K_INVALID_GROUP_ID;
    if (error == K_NONE) {
        group = group_find(s->g, q->group_id);
        error = check_sync(group, q, &m);
    }
    if (error != K_NONE) {
        answer_sync_error(s, &s->ev->asker, error);
    } else if (group->state == GROUP_COMPLETING) {
        sync_completing(s, group, m, q);
    } else {
        m->has_synced = true;
        touch_member(s, m);
        answer_assignment(s, m, &s->ev->asker);
        if (group->phase == PHASE_SYNC && everybody_synced(group))
            phase_set(s, group, PHASE_NONE, 0);
    }
}

/* Heartbeat */

static int16_t beat(Step *s, const KHeartbeatRequest *q)
{
    const Group *group = group_find(s->g, q->group_id);
    Member *m;
    if (!group)
        return K_UNKNOWN_MEMBER_ID;
    if (group->state == GROUP_DEAD)
        return K_COORDINATOR_NOT_AVAILABLE;
    int16_t error = validate_member(group, q->member_id, q->group_instance_id, &m);
    if (error != K_NONE)
        return error;
    if (q->generation_id != group->generation)
        return K_ILLEGAL_GENERATION;
    if (group->state == GROUP_EMPTY)
        return K_UNKNOWN_MEMBER_ID;
    m->id_is_known = true;
    touch_member(s, m);
    return group->state == GROUP_PREPARING ? K_REBALANCE_IN_PROGRESS : K_NONE;
}

void on_heartbeat(Step *s)
{
    const KHeartbeatRequest *q = s->ev->body;
    int32_t partition;
    KHeartbeatResponse r;
    k_message_init(&k_heartbeat_response, &r);
    r.error_code = partition_error(s->g, q->group_id, &partition);
    if (r.error_code == K_COORDINATOR_LOAD_IN_PROGRESS && !s->ev->local)
        r.error_code = K_NONE; /* its session is as good as new once the group is loaded; a broker's agent must say it again */
    else if (r.error_code == K_NONE)
        r.error_code = q->group_id.len == 0 ? K_INVALID_GROUP_ID : beat(s, q);
    reply(s, &s->ev->asker, &k_heartbeat_response, &r);
}

/* LeaveGroup */

static int16_t leave_one(Step *s, Group *group, KStr member_id, KStr instance_id)
{
    Member *m = NULL;
    if (member_id.len <= 0 && instance_id.len >= 0) { /* an administrator removes a static member */
        m = member_by_instance(group, instance_id);
        if (!m)
            return K_UNKNOWN_MEMBER_ID;
    } else {
        Pending *p = pending_find(group, member_id);
        if (p) {
            pending_free(s->g, p);
            return K_NONE;
        }
        int16_t error = validate_member(group, member_id, instance_id, &m);
        if (error != K_NONE)
            return error;
    }
    if (s->ev->local && s->ev->session_id == m->session_id)
        m->local = false; /* it need not be told */
    expel_member(s, m, K_UNKNOWN_MEMBER_ID);
    return K_NONE;
}

static int16_t leave_all(Step *s, const KLeaveGroupRequest *q, KLeaveGroupResponse *r)
{
    Group *group = group_find(s->g, q->group_id);
    if (group && group->state == GROUP_DEAD)
        return K_COORDINATOR_NOT_AVAILABLE;
    int32_t gone = 0;
    for (int32_t i = 0; i < r->members.n; i++) {
        KLeaveGroupResponseMembers *m = &r->members.items[i];
        m->error_code = group ? leave_one(s, group, m->member_id, m->group_instance_id) : K_UNKNOWN_MEMBER_ID;
        gone += m->error_code == K_NONE;
    }
    if (gone) {
        group_lost_member(s, group);
        drop_if_hollow(s->g, group);
    }
    return K_NONE;
}

void on_leave(Step *s)
{
    const KLeaveGroupRequest *q = s->ev->body;
    bool single = s->ev->asker.api_version < 3;
    KLeaveGroupResponse r;
    k_message_init(&k_leave_group_response, &r);
    r.members.n = single ? 1 : q->members.n;
    r.members.items = effect_alloc(s, (size_t)MAX(r.members.n, 1) * sizeof(r.members.items[0]));
    for (int32_t i = 0; i < r.members.n; i++) {
        r.members.items[i].member_id = single ? q->member_id : q->members.items[i].member_id;
        r.members.items[i].group_instance_id = single ? K_STR_NULL : q->members.items[i].group_instance_id;
    }
    int32_t partition;
    r.error_code = partition_error(s->g, q->group_id, &partition);
    if (r.error_code == K_NONE && q->group_id.len == 0)
        r.error_code = K_INVALID_GROUP_ID;
    if (r.error_code == K_NONE)
        r.error_code = leave_all(s, q, &r);
    else
        r.members.n = 0;
    if (single && r.error_code == K_NONE)
        r.error_code = r.members.items[0].error_code;
    reply(s, &s->ev->asker, &k_leave_group_response, &r);
}
