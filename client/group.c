/*
 * The member's state machine (states in group.h). Requests' callbacks only note what came and change state; the steps run in
 * group_turn(), where the program may be called.
 *
 * Eager protocol (range, roundrobin, sticky, or any mix): before joining, the program is told that everything is revoked,
 * positions are committed (with auto-commit), partitions are dropped. Cooperative: partitions stay and deliver during the
 * rebalance; only what the new assignment lacks is revoked, then the member joins once more.
 *
 * After a reconnection the member rejoins with what it had. Nothing is revoked beforehand, because most often nothing
 * changes; but nothing is handed out either until the coordinator has confirmed (group_is_gated), since the partitions may
 * have another owner by now. The difference, if any, is told to the program then.
 */

#include "client/group.h"
#include "base/clock.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define COMMIT_WAIT_MS   5000 /* a rebalance waits no longer for the last commit */
#define JOIN_SLACK_MS    5000

typedef enum GroupState {
    GROUP_UNJOINED,   /* wants to join (after retry_at_ns) */
    GROUP_REVOKE,     /* about to rejoin: tell the program, commit */
    GROUP_COMMITTING, /* waits for that commit */
    GROUP_JOINING,
    GROUP_METADATA, /* leader: waits for partition counts */
    GROUP_SYNCING,
    GROUP_APPLY, /* the assignment is here: tell the program */
    GROUP_STABLE,
    GROUP_LOST,   /* the coordinator does not know us: tell the program, start anew */
    GROUP_FAILED, /* for good */
} GroupState;

typedef struct Want { /* one partition of the new assignment */
    char *topic;
    int32_t partition;
} Want;

struct Group {
    leat_consumer *consumer;
    GroupState state;
    bool cooperative; /* all configured strategies are */
    bool resuming;    /* rejoins after a reconnection with its partitions */
    bool rejoin;      /* a rebalance was announced */
    char **topics;
    size_t n_topics;
    char *member_id; /* "" until the coordinator gave one */
    int32_t generation;
    char *protocol;
    Leader *leader; /* not NULL: we lead */
    Request *request;
    bool commit_pending;
    int16_t lost_error;
    const char *lost_what;
    int64_t retry_at_ns, commit_deadline_ns;
    Want *wants;
    size_t n_wants;
};

static void rejoin_after(Group *g, int64_t wait_ms)
{
    if (g->state == GROUP_STABLE)
        g->rejoin = true; /* by way of GROUP_REVOKE */
    else
        g->state = GROUP_UNJOINED;
    g->retry_at_ns = clock_mono_ns() + wait_ms * NS_PER_MS;
}

static void group_fail(Group *g, int16_t kafka_error, const char *what)
{
    g->state = GROUP_FAILED;
    consumer_report(g->consumer, error_from_kafka(kafka_error), kafka_error, what);
}

static bool member_id_set(Group *g, const char *id, size_t size)
{
    char *copy = strndup(id, size);
    if (!copy)
        return false;
    free(g->member_id);
    g->member_id = copy;
    return true;
}

static void wants_clear(Group *g)
{
    for (size_t i = 0; i < g->n_wants; i++)
        free(g->wants[i].topic);
    free(g->wants);
    g->wants = NULL;
    g->n_wants = 0;
}

static void step_lost(Group *g)
{
    leat_consumer *k = g->consumer;

    if (g->lost_error != K_ILLEGAL_GENERATION)
        member_id_set(g, "", 0);
    g->generation = -1;
    g->resuming = g->rejoin = false;
    g->leader = leader_free(g->leader);
    if (k->n_parts > 0)
        consumer_event(k, LEAT_GROUP_LOST, k->parts, k->n_parts);
    delivery_clear(k);
    parts_clear(k);
    g->state = GROUP_UNJOINED;
    g->retry_at_ns = 0;
    if (g->lost_error == K_FENCED_INSTANCE_ID)
        group_fail(g, g->lost_error, g->lost_what);
}

/* ---- leaving the old generation -------------------------------------------------------------------------------------- */

static void revoke_commit_done(void *userdata, int error, int16_t kafka_error)
{
    Group *g = userdata;
    (void)error; /* what could not be committed will be read again */
    (void)kafka_error;
    g->commit_pending = false;
}

static void step_revoke(Group *g)
{
    leat_consumer *k = g->consumer;

    g->rejoin = false;
    if (!g->cooperative && !g->resuming && k->n_parts > 0)
        consumer_event(k, LEAT_GROUP_REVOKED, k->parts, k->n_parts);
    g->state = GROUP_COMMITTING;
    g->commit_deadline_ns = clock_mono_ns() + COMMIT_WAIT_MS * NS_PER_MS;
    if (k->settings.auto_commit && g->generation >= 0 && !g->commit_pending)
        g->commit_pending = commit_positions(k, revoke_commit_done, g) == 0;
}

static void step_committing(Group *g, int64_t now_ns)
{
    leat_consumer *k = g->consumer;

    if (g->commit_pending && now_ns < g->commit_deadline_ns)
        return;
    if (!g->cooperative && !g->resuming) {
        delivery_clear(k);
        parts_clear(k);
    }
    g->state = GROUP_UNJOINED;
    g->retry_at_ns = 0;
}

/* ---- joining --------------------------------------------------------------------------------------------------------- */

/* One place for the errors that JoinGroup, SyncGroup, commits and events share. */
static void membership_error(Group *g, int16_t e, const char *what)
{
    switch (e) {
    case K_UNKNOWN_MEMBER_ID:
    case K_ILLEGAL_GENERATION:
    case K_FENCED_INSTANCE_ID:
        g->state = GROUP_LOST;
        g->lost_error = e;
        g->lost_what = what;
        return;
    case K_REBALANCE_IN_PROGRESS:
        rejoin_after(g, 0);
        return;
    default:
        if (k_error_is_retriable(e) || e == K_UNKNOWN_SERVER_ERROR)
            rejoin_after(g, g->consumer->settings.retry_backoff_ms);
        else
            group_fail(g, e, what);
    }
}

static void join_answered(void *userdata, int error, const void *body, size_t size);
static void leader_ask_metadata(Group *g);
static void send_sync(Group *g);

static int encode_protocols(Group *g, Arena *arena, KJoinGroupRequest *q)
{
    leat_consumer *k = g->consumer;
    GroupClaim claim = {.topics = (const char *const *)g->topics, .n_topics = g->n_topics, .owned = k->parts,
                        .n_owned = k->n_parts, .generation = k->n_parts ? g->generation : -1};

    q->protocols.items = arena_alloc(arena, k->settings.n_strategies * sizeof *q->protocols.items);
    if (!q->protocols.items)
        return -ENOMEM;
    for (size_t i = 0; i < k->settings.n_strategies; i++) {
        Buf blob = BUF_NULL;
        int r = leader_encode_subscription(k->settings.strategies[i], &claim, &blob);
        char *copy = r == 0 ? arena_strndup(arena, (const char *)blob.data, blob.size) : NULL;
        q->protocols.items[q->protocols.n++] =
            (KJoinGroupRequestProtocols){k_str(strategy_name(k->settings.strategies[i])), {copy, (int32_t)blob.size}};
        buf_deinit(&blob);
        if (!copy)
            return -ENOMEM;
    }
    return 0;
}

static void step_unjoined(Group *g, int64_t now_ns)
{
    leat_consumer *k = g->consumer;
    Arena arena = ARENA_NULL;
    KJoinGroupRequest q;

    if (now_ns < g->retry_at_ns || !k->client->fab)
        return;
    k_message_init(&k_join_group_request, &q);
    q.group_id = k_str(k->settings.group_id);
    q.session_timeout_ms = (int32_t)k->settings.session_timeout_ms;
    q.rebalance_timeout_ms = (int32_t)k->settings.max_poll_interval_ms;
    q.member_id = k_str(g->member_id);
    q.group_instance_id = k->settings.group_instance_id[0] ? k_str(k->settings.group_instance_id) : K_STR_NULL;
    q.protocol_type = k_str("consumer");
    RequestOptions o = {.api_key = K_API_JOIN_GROUP, 
                        .timeout_ms = k->settings.max_poll_interval_ms + JOIN_SLACK_MS, .fn = join_answered, .userdata = g};
    if (encode_protocols(g, &arena, &q) == 0 && request_start(k->client, &o, &q, &g->request) == 0) {
        g->state = GROUP_JOINING;
        g->rejoin = false; /* this is it */
    } else {
        rejoin_after(g, k->settings.retry_backoff_ms);
    }
    arena_deinit(&arena);
}

static void joined(Group *g, const KJoinGroupResponse *a)
{
    bool leads = a->leader.len > 0 && k_str_same(a->leader, a->member_id);

    g->leader = leader_free(g->leader);
    free(g->protocol);
    g->protocol = strndup(a->protocol_name.ptr ? a->protocol_name.ptr : "", (size_t)MAX(a->protocol_name.len, 0));
    if (!g->protocol || !member_id_set(g, a->member_id.ptr, (size_t)MAX(a->member_id.len, 0)) ||
        (leads && leader_new(a, &g->leader) < 0)) {
        rejoin_after(g, g->consumer->settings.retry_backoff_ms);
        return;
    }
    g->generation = a->generation_id;
    if (leads)
        leader_ask_metadata(g);
    else
        send_sync(g);
}

static void join_answered(void *userdata, int error, const void *body, size_t size)
{
    Group *g = userdata;
    Arena arena = ARENA_NULL;
    KJoinGroupResponse a;

    g->request = NULL;
    if (error == 0)
        error = request_decode(K_API_JOIN_GROUP, body, size, &arena, &a);
    if (error < 0)
        rejoin_after(g, g->consumer->settings.retry_backoff_ms);
    else if (a.error_code == K_MEMBER_ID_REQUIRED)
        rejoin_after(g, member_id_set(g, a.member_id.ptr, (size_t)MAX(a.member_id.len, 0)) ? 0 : 100);
    else if (a.error_code != K_NONE)
        membership_error(g, a.error_code, "joining the group");
    else
        joined(g, &a);
    arena_deinit(&arena);
}

/* ---- leading --------------------------------------------------------------------------------------------------------- */

static void metadata_answered(void *userdata, int error, const void *body, size_t size)
{
    Group *g = userdata;
    leat_client *c = g->consumer->client;
    Arena arena = ARENA_NULL;
    KMetadataResponse m;

    g->request = NULL;
    if (error == 0)
        error = request_decode(K_API_METADATA, body, size, &arena, &m);
    if (error < 0) {
        rejoin_after(g, g->consumer->settings.retry_backoff_ms);
    } else {
        for (int32_t i = 0; i < m.topics.n; i++) {
            if (m.topics.items[i].error_code != K_NONE)
                continue;
            leader_set_partitions(g->leader, m.topics.items[i].name, m.topics.items[i].partitions.n);
            leat_topic *t = topic_find(c, m.topics.items[i].name.ptr, (size_t)MAX(m.topics.items[i].name.len, 0));
            if (t)
                topic_set_partitions(t, m.topics.items[i].partitions.n);
        }
        send_sync(g);
    }
    arena_deinit(&arena);
}

static void leader_ask_metadata(Group *g)
{
    leat_client *c = g->consumer->client;
    Arena arena = ARENA_NULL;
    KMetadataRequest q;
    const char *const *names;
    size_t n = leader_topics(g->leader, &names);

    k_message_init(&k_metadata_request, &q);
    q.allow_auto_topic_creation = g->consumer->settings.auto_create;
    q.topics.items = arena_alloc(&arena, n * sizeof *q.topics.items + 1);
    q.topics.n = (int32_t)n;
    for (size_t i = 0; q.topics.items && i < n; i++) {
        q.topics.items[i].name = k_str(names[i]);
        topic_intern(c, names[i], strlen(names[i])); /* so that its growth is noticed */
    }
    RequestOptions o = {.api_key = K_API_METADATA, .again = false,
                        .timeout_ms = c->settings.request_timeout_ms, .fn = metadata_answered, .userdata = g};
    g->state = GROUP_METADATA;
    if (!q.topics.items || request_start(c, &o, &q, &g->request) < 0)
        rejoin_after(g, g->consumer->settings.retry_backoff_ms);
    arena_deinit(&arena);
}

/* ---- the assignment -------------------------------------------------------------------------------------------------- */

static int wants_decode(Group *g, KBytes blob)
{
    Arena arena = ARENA_NULL;
    KConsumerAssignment a = {0};
    size_t n = 0;
    int r = blob.len > 0 ? k_decode(&k_consumer_assignment, -1, blob.ptr, (size_t)blob.len, &arena, &a) : 0;

    wants_clear(g);
    for (int32_t i = 0; r == 0 && i < a.assigned_partitions.n; i++)
        n += (size_t)MAX(a.assigned_partitions.items[i].partitions.n, 0);
    if (r == 0 && !(g->wants = calloc(n + 1, sizeof *g->wants)))
        r = -ENOMEM;
    for (int32_t i = 0; r == 0 && i < a.assigned_partitions.n; i++)
        for (int32_t j = 0; r == 0 && j < a.assigned_partitions.items[i].partitions.n; j++) {
            Want *w = &g->wants[g->n_wants];
            w->partition = a.assigned_partitions.items[i].partitions.items[j];
            w->topic = strndup(a.assigned_partitions.items[i].topic.ptr, (size_t)MAX(a.assigned_partitions.items[i].topic.len, 0));
            if (!w->topic)
                r = -ENOMEM;
            else
                g->n_wants++;
        }
    arena_deinit(&arena);
    return r;
}

static void sync_answered(void *userdata, int error, const void *body, size_t size)
{
    Group *g = userdata;
    Arena arena = ARENA_NULL;
    KSyncGroupResponse a;

    g->request = NULL;
    if (error == 0)
        error = request_decode(K_API_SYNC_GROUP, body, size, &arena, &a);
    if (error < 0)
        rejoin_after(g, g->consumer->settings.retry_backoff_ms);
    else if (a.error_code != K_NONE)
        membership_error(g, a.error_code, "taking the group's assignment");
    else if (wants_decode(g, a.assignment) < 0)
        rejoin_after(g, g->consumer->settings.retry_backoff_ms);
    else
        g->state = GROUP_APPLY;
    arena_deinit(&arena);
}

static void send_sync(Group *g)
{
    leat_consumer *k = g->consumer;
    Arena arena = ARENA_NULL;
    KSyncGroupRequest q;
    int r = 0;

    k_message_init(&k_sync_group_request, &q);
    q.group_id = k_str(k->settings.group_id);
    q.generation_id = g->generation;
    q.member_id = k_str(g->member_id);
    q.group_instance_id = k->settings.group_instance_id[0] ? k_str(k->settings.group_instance_id) : K_STR_NULL;
    if (g->leader)
        r = leader_assign(g->leader, k_str(g->protocol), &arena, &q);
    RequestOptions o = {.api_key = K_API_SYNC_GROUP, 
                        .timeout_ms = k->settings.max_poll_interval_ms + JOIN_SLACK_MS, .fn = sync_answered, .userdata = g};
    g->state = GROUP_SYNCING;
    if (r == 0)
        r = request_start(k->client, &o, &q, &g->request);
    if (r < 0)
        rejoin_after(g, k->settings.retry_backoff_ms);
    arena_deinit(&arena);
}

static bool is_wanted(const Group *g, const Part *p)
{
    for (size_t i = 0; i < g->n_wants; i++)
        if (g->wants[i].partition == p->partition && strcmp(g->wants[i].topic, p->topic->name) == 0)
            return true;
    return false;
}

/* Partitions to be given up go to the end of the array. Return: how many stay. */
static size_t split_wanted(Group *g)
{
    leat_consumer *k = g->consumer;
    size_t stay = 0;

    for (size_t i = 0; i < k->n_parts; i++)
        if (is_wanted(g, k->parts[i])) {
            Part *p = k->parts[i];
            k->parts[i] = k->parts[stay];
            k->parts[stay++] = p;
        }
    return stay;
}

static void step_apply(Group *g)
{
    leat_consumer *k = g->consumer;
    size_t stay = split_wanted(g);
    bool gave_up = k->n_parts > stay, was_resuming = g->resuming;

    g->resuming = false;
    g->state = GROUP_STABLE;
    if (gave_up) {
        if (k->settings.auto_commit && !g->commit_pending)
            g->commit_pending = commit_positions(k, revoke_commit_done, g) == 0;
        consumer_event(k, LEAT_GROUP_REVOKED, k->parts + stay, k->n_parts - stay);
        while (k->n_parts > stay)
            part_remove(k, k->n_parts - 1);
    }
    for (size_t i = 0; i < g->n_wants; i++)
        if (!part_find(k, g->wants[i].topic, g->wants[i].partition))
            if (part_add(k, g->wants[i].topic, strlen(g->wants[i].topic), g->wants[i].partition, LEAT_OFFSET_COMMITTED) < 0)
                consumer_report(k, -ENOMEM, 0, "an assigned partition cannot be taken");
    wants_clear(g);
    if (!was_resuming || k->n_parts > stay)
        consumer_event(k, LEAT_GROUP_ASSIGNED, k->parts + stay, k->n_parts - stay);
    k->auto_commit_at_ns = clock_mono_ns() + k->settings.auto_commit_interval_ms * NS_PER_MS;
    if (gave_up && g->cooperative)
        g->rejoin = true; /* what we gave up is handed out in the next round */
}

/* ---- turns ----------------------------------------------------------------------------------------------------------- */

void group_turn(Group *g, int64_t now_ns)
{
    for (int steps = 0; steps < 8; steps++) { /* each step leads on; none comes back within one turn */
        GroupState before = g->state;
        switch (g->state) {
        case GROUP_UNJOINED:
            step_unjoined(g, now_ns);
            break;
        case GROUP_REVOKE:
            step_revoke(g);
            break;
        case GROUP_COMMITTING:
            step_committing(g, now_ns);
            break;
        case GROUP_APPLY:
            step_apply(g);
            break;
        case GROUP_LOST:
            step_lost(g);
            break;
        case GROUP_STABLE:
            if (g->rejoin)
                g->state = GROUP_REVOKE;
            break;
        case GROUP_JOINING:
        case GROUP_METADATA:
        case GROUP_SYNCING:
        case GROUP_FAILED:
        default:
            break;
        }
        if (g->state == before)
            return;
    }
}

int64_t group_deadline_ns(const Group *g)
{
    if (g->state == GROUP_UNJOINED)
        return g->consumer->client->fab ? g->retry_at_ns : INT64_MAX;
    if (g->state == GROUP_COMMITTING)
        return g->commit_pending ? g->commit_deadline_ns : 0;
    return g->state == GROUP_REVOKE || g->state == GROUP_APPLY || g->state == GROUP_LOST || (g->state == GROUP_STABLE && g->rejoin) ? 0 : INT64_MAX;
}

bool group_is_gated(const Group *g)
{
    return g->state != GROUP_STABLE && (!g->cooperative || g->resuming);
}

void group_session_lost(Group *g)
{
    if (g->state == GROUP_FAILED)
        return;
    /* A request in flight ends with -ECONNRESET and would rejoin later; this comes first. */
    g->request = request_cancel(g->request);
    if (g->state == GROUP_LOST)
        return;
    g->resuming = g->consumer->n_parts > 0;
    g->rejoin = false;
    g->state = g->resuming ? GROUP_REVOKE : GROUP_UNJOINED;
    g->retry_at_ns = 0;
}

void group_event(Group *g, KStr group_id, KStr member_id, int8_t kind, int32_t generation, int16_t error_code)
{
    leat_consumer *k = g->consumer;

    if (!k_str_equal(group_id, k->settings.group_id) || !k_str_equal(member_id, g->member_id))
        return;
    if (generation >= 0 && generation < g->generation)
        return; /* old news */
    if (kind == 0 && (g->state == GROUP_STABLE || g->state == GROUP_SYNCING || g->state == GROUP_APPLY))
        g->rejoin = true; /* the next rebalance may begin before this one's assignment is here */
    else if (kind == 1 && g->state == GROUP_STABLE)
        membership_error(g, error_code ? error_code : K_UNKNOWN_MEMBER_ID, "group membership");
}

void group_commit_failed(Group *g, int16_t e)
{
    if (g->state != GROUP_STABLE)
        return;
    if (e == K_REBALANCE_IN_PROGRESS)
        g->rejoin = true;
    else if (e == K_UNKNOWN_MEMBER_ID || e == K_ILLEGAL_GENERATION || e == K_FENCED_INSTANCE_ID)
        membership_error(g, e, "offset commit");
}

void group_stamp_commit(const Group *g, KOffsetCommitRequest *q)
{
    if (!g || g->generation < 0)
        return;
    q->generation_id_or_member_epoch = g->generation;
    q->member_id = k_str(g->member_id);
    if (g->consumer->settings.group_instance_id[0])
        q->group_instance_id = k_str(g->consumer->settings.group_instance_id);
}

void group_metadata_changed(Group *g)
{
    if (g->state == GROUP_STABLE && g->leader && leader_topics_changed(g->leader, g->consumer->client))
        g->rejoin = true;
}

/* ---- life ------------------------------------------------------------------------------------------------------------ */

Group *group_new(leat_consumer *k, const char *const *topics, size_t n)
{
    Group *g = calloc(1, sizeof *g);
    if (!g)
        return NULL;
    *g = (Group){.consumer = k, .generation = -1, .cooperative = true};
    for (size_t i = 0; i < k->settings.n_strategies; i++)
        g->cooperative &= k->settings.strategies[i] == STRATEGY_COOPERATIVE;
    g->member_id = strdup("");
    g->topics = calloc(n + 1, sizeof *g->topics);
    bool ok = g->member_id && g->topics;
    for (size_t i = 0; ok && i < n; i++) {
        g->topics[i] = strdup(topics[i]);
        ok = g->topics[i] != NULL;
        g->n_topics += ok;
    }
    return ok ? g : group_free(g, 0);
}

static void send_leave(Group *g, int64_t timeout_ms)
{
    leat_consumer *k = g->consumer;
    Arena arena = ARENA_NULL;
    KLeaveGroupRequest q;
    KLeaveGroupResponse a;
    KLeaveGroupRequestMembers me = {.member_id = k_str(g->member_id), .group_instance_id = K_STR_NULL, .reason = K_STR_NULL};

    k_message_init(&k_leave_group_request, &q);
    q.group_id = k_str(k->settings.group_id);
    q.members.items = &me;
    q.members.n = 1;
    request_call(k->client, K_API_LEAVE_GROUP, false, &q, timeout_ms, &arena, &a); /* else the session's end says it */
    arena_deinit(&arena);
}

Group *group_free(Group *g, int64_t timeout_ms)
{
    if (!g)
        return NULL;
    leat_consumer *k = g->consumer;
    request_cancel(g->request);
    if (k->group == g)
        k->group = NULL; /* nested turns must not step it */
    if (timeout_ms > 0 && g->member_id && g->member_id[0] && !k->settings.group_instance_id[0] && k->client->fab)
        send_leave(g, timeout_ms);
    for (size_t i = 0; i < g->n_topics; i++)
        free(g->topics[i]);
    free(g->topics);
    wants_clear(g);
    leader_free(g->leader);
    free(g->member_id);
    free(g->protocol);
    free(g);
    return NULL;
}
