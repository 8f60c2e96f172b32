/*
 * Memberships of local sessions and their heartbeats. See agent.h.
 *
 * What the agent knows comes from the answers the coordinator gave: JoinGroup says member id and generation, LeaveGroup ends
 * it, an error in a heartbeat ends it too. A heartbeat names the session, which is where the coordinator's events go: one that
 * has restarted knows members from its log but no session, so all memberships are announced to it at once.
 * `stalled` begins when the progress word has not moved for the rebalance timeout.
 */

#include "broker/agent.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "broker/daemon.h"
#include "broker/session.h"

#define BEAT_MIN_MS 100 /* also until a coordinator that loads knows the member again */
#define BEAT_MAX_MS 3000
#define CALL_MS     30000
#define NAME_MAX_SIZE 512

enum { EVENT_REBALANCE, EVENT_LOST, EVENT_ASSIGNED };

typedef struct Membership {
    List node; /* Agent.all */
    Agent *agent;
    uint64_t session_id;
    char *group_id, *member_id;
    bool is_static;
    char *instance_id;
    int32_t generation_id;
    int32_t session_timeout_ms, max_poll_ms;
    uint64_t progress; /* last seen */
    int64_t progress_ns;
    DaemonCall *call;
    Deadline beat;
} Membership;

struct Agent {
    Broker *broker;
    List all;
    size_t count;
};

static char *dup_str(KStr s)
{
    char *copy = s.len >= 0 ? malloc((size_t)s.len + 1) : NULL;
    if (!copy)
        return NULL;
    memcpy(copy, s.ptr ? s.ptr : "", (size_t)s.len);
    copy[s.len] = '\0';
    return copy;
}

static void membership_free(Membership *m)
{
    daemon_cancel(m->call);
    deadline_clear(&m->agent->broker->deadlines, &m->beat);
    list_remove(&m->node);
    m->agent->count--;
    free(m->group_id);
    free(m->member_id);
    free(m->instance_id);
    free(m);
}

static Membership *find(Agent *a, uint64_t session_id, KStr group_id)
{
    list_for_each(l, &a->all) {
        Membership *m = CONTAINER_OF(l, Membership, node);
        if (m->session_id == session_id && k_str_equal(group_id, m->group_id))
            return m;
    }
    return NULL;
}

/* --- heartbeats --- */

static int64_t beat_ms(const Membership *m)
{
    return MAX(BEAT_MIN_MS, MIN(m->session_timeout_ms / 3, BEAT_MAX_MS));
}

static void tell(Membership *m, int8_t kind, KafkaError error)
{
    Session *s = session_by_id(m->agent->broker, m->session_id);
    KGroupEvent e = {.session_id = (int64_t)m->session_id,
                     .kind = kind,
                     .group_id = k_str(m->group_id),
                     .member_id = k_str(m->member_id),
                     .generation_id = m->generation_id,
                     .error_code = error};
    Buf out = BUF_NULL;
    if (s && k_encode(&k_group_event, 0, &e, &out) == 0)
        session_notify(s, 102, out.data, out.size);
    buf_deinit(&out);
}

static void on_beat(void *userdata, const void *body, size_t size)
{
    Membership *m = userdata;
    Arena arena = ARENA_NULL;
    KHeartbeatResponse a;
    m->call = NULL;
    bool ok = body && k_decode(&k_heartbeat_response, 3, body, size, &arena, &a) == 0;
    bool unheard = ok && (a.error_code == K_COORDINATOR_LOAD_IN_PROGRESS || a.error_code == K_COORDINATOR_NOT_AVAILABLE ||
                          a.error_code == K_NOT_COORDINATOR);
    arena_deinit(&arena);
    if (ok && a.error_code == K_REBALANCE_IN_PROGRESS) {
        tell(m, EVENT_REBALANCE, a.error_code);
    } else if (ok && (a.error_code == K_UNKNOWN_MEMBER_ID || a.error_code == K_ILLEGAL_GENERATION ||
                      a.error_code == K_FENCED_INSTANCE_ID)) {
        tell(m, EVENT_LOST, a.error_code);
        membership_free(m);
        return;
    }
    broker_set_deadline(m->agent->broker, &m->beat, unheard ? BEAT_MIN_MS : beat_ms(m));
}

static void leave_done(void *userdata, const void *body, size_t size)
{
    (void)userdata;
    (void)body;
    (void)size;
}

static void leave(Membership *m)
{
    if (m->is_static)
        return;
    KLeaveGroupRequestMembers member = {
        .member_id = k_str(m->member_id), .group_instance_id = K_STR_NULL, .reason = k_str("session ended")};
    KLeaveGroupRequest q = {.group_id = k_str(m->group_id)};
    q.members.items = &member;
    q.members.n = 1;
    (void)daemon_call_message(m->agent->broker->coordinator, API_LEAVE_GROUP, 5, NULL, &q, CALL_MS, leave_done, NULL, NULL);
}

static bool is_stalled(Membership *m, const Session *s)
{
    int64_t now_ns = broker_now_ns(m->agent->broker);
    uint64_t progress = fab_session_progress(s->fab);
    if (progress != m->progress) {
        m->progress = progress;
        m->progress_ns = now_ns;
    }
    return now_ns - m->progress_ns > m->max_poll_ms * NS_PER_MS;
}

static void beat(Deadline *d)
{
    Membership *m = CONTAINER_OF(d, Membership, beat);
    Broker *b = m->agent->broker;
    const Session *s = session_by_id(b, m->session_id);
    if (!s || is_stalled(m, s)) {
        tell(m, EVENT_LOST, K_UNKNOWN_MEMBER_ID);
        leave(m);
        membership_free(m);
        return;
    }
    KHeartbeatRequest q = {.group_id = k_str(m->group_id),
                           .generation_id = m->generation_id,
                           .member_id = k_str(m->member_id),
                           .group_instance_id = k_str(m->instance_id)};
    if (m->call || daemon_call_message(b->coordinator, API_HEARTBEAT, 3, &s->who, &q, CALL_MS, on_beat, m, &m->call) < 0)
        broker_set_deadline(b, &m->beat, beat_ms(m));
}

/* --- what passes through --- */

static void joined(Agent *a, const Request *r, const KJoinGroupResponse *answer)
{
    const KJoinGroupRequest *q = r->body;
    Membership *m = find(a, r->who.session_id, q->group_id);
    if (m)
        membership_free(m);
    if (a->count >= AGENT_MEMBERSHIPS_MAX || !(m = calloc(1, sizeof(*m))))
        return; /* no heartbeats: the coordinator's session timer ends the member */
    list_init(&m->node);
    m->agent = a;
    m->session_id = r->who.session_id;
    m->group_id = dup_str(q->group_id);
    m->member_id = dup_str(answer->member_id);
    m->is_static = q->group_instance_id.len > 0;
    m->instance_id = m->is_static ? dup_str(q->group_instance_id) : NULL;
    m->generation_id = answer->generation_id;
    m->session_timeout_ms = q->session_timeout_ms;
    m->max_poll_ms = q->rebalance_timeout_ms > 0 ? q->rebalance_timeout_ms : q->session_timeout_ms;
    m->beat.fn = beat;
    m->progress_ns = broker_now_ns(a->broker);
    a->count++;
    list_append(&a->all, &m->node);
    if (!m->group_id || !m->member_id || (m->is_static && !m->instance_id))
        membership_free(m);
    else
        broker_set_deadline(a->broker, &m->beat, beat_ms(m));
}

void agent_saw(Agent *a, const Request *r, const void *body, size_t size)
{
    Arena arena = ARENA_NULL;
    if (r->api->key == API_JOIN_GROUP) {
        KJoinGroupResponse answer;
        if (k_decode(r->api->response, r->version, body, size, &arena, &answer) == 0 && answer.error_code == K_NONE)
            joined(a, r, &answer);
    } else if (r->api->key == API_LEAVE_GROUP) {
        const KLeaveGroupRequest *q = r->body;
        Membership *m = find(a, r->who.session_id, q->group_id);
        if (m)
            membership_free(m);
    }
    arena_deinit(&arena);
}

void agent_session_closed(Agent *a, uint64_t session_id)
{
    list_for_each_safe(l, &a->all) {
        Membership *m = CONTAINER_OF(l, Membership, node);
        if (m->session_id != session_id)
            continue;
        leave(m);
        membership_free(m);
    }
}

void agent_coordinator_up(Agent *a)
{
    list_for_each(l, &a->all) {
        Membership *m = CONTAINER_OF(l, Membership, node);
        if (!m->call) /* one that is under way is sent again */
            broker_set_deadline(a->broker, &m->beat, 0);
    }
}

void agent_notified(Agent *a, const void *message, size_t size)
{
    Arena arena = ARENA_NULL;
    KGroupEvent e;
    if (k_decode(&k_group_event, 0, message, size, &arena, &e) == 0) {
        Session *s = session_by_id(a->broker, (uint64_t)e.session_id);
        if (s)
            session_notify(s, 102, message, size);
    }
    arena_deinit(&arena);
}

/* --- life --- */

int agent_new(Broker *b, Agent **ret)
{
    Agent *a = calloc(1, sizeof(*a));
    if (!a)
        return -ENOMEM;
    a->broker = b;
    list_init(&a->all);
    *ret = a;
    return 0;
}

Agent *agent_free(Agent *a)
{
    if (!a)
        return NULL;
    while (!list_is_empty(&a->all))
        membership_free(CONTAINER_OF(a->all.next, Membership, node));
    free(a);
    return NULL;
}
