/*
 * From Stable (or Empty) to the next generation: the join phase, its timers, the choice of protocol and leader.
 *
 *   EMPTY --first join--> PREPARING --everybody joined, or time is up--> COMPLETING --assignments durable--> STABLE
 *     ^                     |  ^                                              |                                |
 *     +----nobody left------+  +----------- member came, left, changed -------+--------------------------------+
 *
 * One timer per group serves the phase it is in: PHASE_INITIAL (wait for more members of an empty group), PHASE_JOIN,
 * PHASE_SYNC (who does not fetch its assignment in time is out).
 */

#include "consumer-coord/group/private.h"

#include <string.h>

#include "wire/error.h"

int32_t group_rebalance_timeout(const Group *group)
{
    int32_t timeout = 0;
    list_for_each(it, &group->members)
    {
        timeout = MAX(timeout, CONTAINER_OF(it, Member, node)->rebalance_timeout_ms);
    }
    return timeout;
}

void phase_set(Step *s, Group *group, Phase phase, int64_t delay_ms)
{
    group->phase = phase;
    bool off = phase == PHASE_NONE || s->g->suspended;
    timer_set(&s->g->timers, &group->timer, off ? TIMER_OFF : s->ev->now_ms + delay_ms);
}

static void set_session_timer(Step *s, Member *m)
{
    int64_t delay = m->is_new ? GROUP_NEW_MEMBER_MS : m->session_timeout_ms;
    timer_set(&s->g->timers, &m->timer, s->g->suspended ? TIMER_OFF : s->ev->now_ms + delay);
}

void touch_member(Step *s, Member *m)
{
    if (s->ev->kind == GROUP_REQUEST) {
        m->local = s->ev->local;
        m->session_id = s->ev->session_id;
    }
    set_session_timer(s, m);
}

/* Protocols */

static bool all_offer(const Group *group, KStr name)
{
    list_for_each(it, &group->members)
    {
        const Protocols *p = &CONTAINER_OF(it, Member, node)->protocols;
        bool found = false;
        for (int32_t i = 0; i < p->n && !found; i++)
            found = k_str_same(p->items[i].name, name);
        if (!found)
            return false;
    }
    return true;
}

bool join_offers_protocol(const KJoinGroupRequest *q, const Group *group)
{
    if (q->protocol_type.len <= 0 || q->protocols.n <= 0)
        return false;
    if (group->state == GROUP_EMPTY || group->state == GROUP_DEAD || group->n_members == 0)
        return true;
    if (!group->protocol_type || !k_str_equal(q->protocol_type, group->protocol_type))
        return false;
    for (int32_t i = 0; i < q->protocols.n; i++)
        if (all_offer(group, q->protocols.items[i].name))
            return true;
    return false;
}

/* Each member votes for its first protocol that everybody offers; most votes win, then the first member's order. */
static KStr select_protocol(const Group *group)
{
    const Protocols *first = &CONTAINER_OF(group->members.next, Member, node)->protocols;
    int votes[GROUP_PROTOCOLS_MAX] = {0};
    bool common[GROUP_PROTOCOLS_MAX];
    assert(first->n <= GROUP_PROTOCOLS_MAX);
    for (int32_t i = 0; i < first->n; i++)
        common[i] = all_offer(group, first->items[i].name);
    list_for_each(it, &group->members)
    {
        const Protocols *p = &CONTAINER_OF(it, Member, node)->protocols;
        int32_t choice = -1;
        for (int32_t j = 0; j < p->n && choice < 0; j++)
            for (int32_t i = 0; i < first->n && choice < 0; i++)
                if (common[i] && k_str_same(first->items[i].name, p->items[j].name))
                    choice = i;
        if (choice >= 0)
            votes[choice]++;
    }
    int32_t best = -1;
    for (int32_t i = 0; i < first->n; i++)
        if (votes[i] > (best < 0 ? 0 : votes[best]))
            best = i;
    return best < 0 ? K_STR_NULL : first->items[best].name;
}

bool group_would_keep_protocol(const Group *group)
{
    return group->protocol && k_str_equal(select_protocol(group), group->protocol);
}

/* Into the join phase */

static void fail_parked_syncs(Step *s, Group *group, int16_t error)
{
    list_for_each(it, &group->members)
    {
        Member *m = CONTAINER_OF(it, Member, node);
        member_set_assignment(m, (KBytes){NULL, 0});
        answer_sync(s, m, error);
    }
}

static bool first_is_local(const Group *group)
{
    return group->n_members > 0 && CONTAINER_OF(group->members.next, Member, node)->local;
}

static void begin_initial_phase(Step *s, Group *group)
{
    int32_t delay = first_is_local(group) ? 0 : s->g->settings.initial_delay_ms;
    group->initial_left_ms = MAX(group_rebalance_timeout(group) - delay, 0);
    group->new_member_added = false;
    phase_set(s, group, PHASE_INITIAL, delay);
}

void prepare_rebalance(Step *s, Group *group)
{
    if (group->state == GROUP_COMPLETING)
        fail_parked_syncs(s, group, K_REBALANCE_IN_PROGRESS);
    bool was_empty = group->state == GROUP_EMPTY;
    group->state = GROUP_PREPARING;
    group->sync_is_written = false;
    group->changes++;
    if (was_empty)
        begin_initial_phase(s, group);
    else
        phase_set(s, group, PHASE_JOIN, group_rebalance_timeout(group));
    list_for_each(it, &group->members)
    {
        Member *m = CONTAINER_OF(it, Member, node);
        if (!m->join.is)
            notify_member(s, m, EVENT_REBALANCE, K_REBALANCE_IN_PROGRESS);
    }
    try_complete_join(s, group);
}

void maybe_prepare_rebalance(Step *s, Group *group)
{
    if (group->state == GROUP_EMPTY || group->state == GROUP_STABLE || group->state == GROUP_COMPLETING)
        prepare_rebalance(s, group);
}

/* Out of the join phase */

static void drop_absent_members(Step *s, Group *group)
{
    list_for_each_safe(it, &group->members)
    {
        Member *m = CONTAINER_OF(it, Member, node);
        if (m->join.is || m->instance_id)
            continue;
        notify_member(s, m, EVENT_FENCED, K_UNKNOWN_MEMBER_ID);
        member_free(s->g, m);
    }
}

/* The leader stays while it takes part. Return: false: nobody who could lead has joined. */
static bool elect_leader(Group *group)
{
    if (group->leader && group->leader->join.is)
        return true;
    list_for_each(it, &group->members)
    {
        Member *m = CONTAINER_OF(it, Member, node);
        if (m->join.is) {
            group->leader = m;
            return true;
        }
    }
    return false;
}

static void become_empty(Step *s, Group *group)
{
    group->state = GROUP_EMPTY;
    group->generation++;
    str_set(&group->protocol, K_STR_NULL);
    group->leader = NULL;
    group->state_since_ms = s->ev->wall_ms;
    phase_set(s, group, PHASE_NONE, 0);
    if (writes_full(s->g))
        return; /* the members are then found by replay and expire once more */
    Write *w = write_new(s, WRITE_GROUP, group, NULL);
    write_group(w, group, NULL);
    write_start(s, w);
}

static void begin_generation(Step *s, Group *group)
{
    group->generation++;
    KStr protocol = select_protocol(group);
    assert(protocol.len >= 0); /* each join was checked against those before it */
    str_set(&group->protocol, protocol);
    group->state = GROUP_COMPLETING;
    group->state_since_ms = s->ev->wall_ms;
    group->sync_is_written = false;
    s->g->counts.rebalances++;
    list_for_each(it, &group->members)
    {
        Member *m = CONTAINER_OF(it, Member, node);
        m->is_new = false;
        m->has_synced = !m->join.is;
        if (!m->join.is)
            continue; /* static, away: its session timer alone decides */
        m->join.is = false;
        answer_join(s, m, &m->join.asker, group->leader->id, m == group->leader, false);
        set_session_timer(s, m);
    }
    phase_set(s, group, PHASE_SYNC, group_rebalance_timeout(group));
}

static void complete_join(Step *s, Group *group)
{
    drop_absent_members(s, group);
    if (group->n_members == 0)
        become_empty(s, group);
    else if (elect_leader(group))
        begin_generation(s, group);
    else /* only static members, all away: they may come back until their sessions end */
        phase_set(s, group, PHASE_JOIN, group_rebalance_timeout(group));
}

static bool everybody_joined(const Group *group)
{
    if (group->n_pending > 0)
        return false;
    list_for_each(it, &group->members)
    {
        if (!CONTAINER_OF(it, Member, node)->join.is)
            return false;
    }
    return true;
}

void try_complete_join(Step *s, Group *group)
{
    if (group->state != GROUP_PREPARING)
        return;
    bool is_over = group->phase == PHASE_INITIAL
                       ? group->n_members + group->n_pending == 0 || group->timer.deadline_ms <= s->ev->now_ms
                       : everybody_joined(group);
    if (is_over)
        complete_join(s, group);
}

/* Timers */

static void on_phase_over(Step *s, Group *group)
{
    switch (group->phase) {
    case PHASE_INITIAL:
        if (group->new_member_added && group->initial_left_ms > 0) {
            int32_t delay = MIN(s->g->settings.initial_delay_ms, group->initial_left_ms);
            group->initial_left_ms -= delay;
            group->new_member_added = false;
            phase_set(s, group, PHASE_INITIAL, delay);
            break;
        }
        complete_join(s, group);
        break;
    case PHASE_JOIN:
        complete_join(s, group);
        break;
    case PHASE_SYNC:
        list_for_each_safe(it, &group->members)
        {
            Member *m = CONTAINER_OF(it, Member, node);
            if (m->has_synced)
                continue;
            notify_member(s, m, EVENT_FENCED, K_UNKNOWN_MEMBER_ID);
            member_free(s->g, m);
        }
        prepare_rebalance(s, group);
        break;
    case PHASE_NONE:
        break;
    }
}

void group_lost_member(Step *s, Group *group)
{
    if (group->state == GROUP_STABLE || group->state == GROUP_COMPLETING)
        prepare_rebalance(s, group);
    else
        try_complete_join(s, group);
}

void expel_member(Step *s, Member *m, int16_t error)
{
    if (m->join.is)
        answer_join_error(s, &m->join.asker, error, k_str(m->id));
    if (m->sync.is)
        answer_sync_error(s, &m->sync.asker, error);
    notify_member(s, m, EVENT_FENCED, error);
    member_free(s->g, m);
}

static void on_session_over(Step *s, Member *m)
{
    Group *group = m->group;
    if (!m->is_new && (m->join.is || m->sync.is)) { /* who waits for us is alive */
        set_session_timer(s, m);
        return;
    }
    expel_member(s, m, K_UNKNOWN_MEMBER_ID);
    group_lost_member(s, group);
}

void on_timers(Step *s)
{
    GroupTimer *t;
    while (!s->g->suspended && (t = timers_pop(&s->g->timers, s->ev->now_ms))) {
        if (t->kind == TIMER_MEMBER) {
            on_session_over(s, CONTAINER_OF(t, Member, timer));
        } else if (t->kind == TIMER_PENDING) {
            Pending *p = CONTAINER_OF(t, Pending, timer);
            Group *group = p->group;
            pending_free(s->g, p);
            try_complete_join(s, group);
            drop_if_hollow(s->g, group);
        } else {
            on_phase_over(s, CONTAINER_OF(t, Group, timer));
        }
    }
}

/* Suspension (D23) */

static void forget_askers(Step *s, Group *group)
{
    list_for_each_safe(it, &group->members)
    {
        Member *m = CONTAINER_OF(it, Member, node);
        bool was_joining = m->join.is;
        m->join.is = m->sync.is = false;
        if (was_joining && m->is_new && !m->id_is_known)
            member_free(s->g, m); /* its client never learned this id and will ask for another */
    }
}

void on_suspend(Step *s)
{
    for (Group *group = groups_next(s->g, NULL), *next; group; group = next) {
        next = groups_next(s->g, group);
        timer_set(&s->g->timers, &group->timer, TIMER_OFF);
        list_for_each(it, &group->members)
        {
            timer_set(&s->g->timers, &CONTAINER_OF(it, Member, node)->timer, TIMER_OFF);
        }
        list_for_each(it, &group->pending)
        {
            timer_set(&s->g->timers, &CONTAINER_OF(it, Pending, node)->timer, TIMER_OFF);
        }
        forget_askers(s, group);
    }
    list_for_each(it, &s->g->writes)
    {
        Reply *r = CONTAINER_OF(it, Write, node)->reply;
        if (r)
            r->is_dead = true;
    }
    s->g->suspended = true;
}

static int64_t phase_length(const Step *s, const Group *group)
{
    int32_t timeout = group_rebalance_timeout(group);
    return group->phase == PHASE_INITIAL ? MIN(s->g->settings.initial_delay_ms, timeout) : timeout;
}

/* Every timer of the group, in full. */
void group_arm_all(Step *s, Group *group)
{
    list_for_each(it, &group->members)
    {
        set_session_timer(s, CONTAINER_OF(it, Member, node));
    }
    list_for_each(it, &group->pending)
    {
        Pending *p = CONTAINER_OF(it, Pending, node);
        timer_set(&s->g->timers, &p->timer, s->ev->now_ms + p->session_timeout_ms);
    }
    phase_set(s, group, group->phase, phase_length(s, group));
}

void on_resume(Step *s)
{
    s->g->suspended = false;
    for (Group *group = groups_next(s->g, NULL), *next; group; group = next) {
        next = groups_next(s->g, group);
        group_arm_all(s, group);
        if (group->state == GROUP_PREPARING && group->n_members == 0)
            try_complete_join(s, group);
    }
}
