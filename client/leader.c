/*
 * The leader of a group reads what each member wants and has (Subscription blobs of any version and client), runs the
 * assignor that the coordinator chose, and writes the Assignment blobs.
 *
 * What a member claims to own comes from owned_partitions (version 1 and later), else from the sticky assignor's user data.
 * The claim's generation: generation_id (version 2), else the user data: cooperative-sticky of Java puts an i32 there,
 * sticky a StickyUserData. A blob that cannot be read makes a member without topics, never a failure of the group.
 */

#include "client/assignor/assignor.h"
#include "client/group.h"

#include <endian.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define SUBSCRIPTION_VERSION 2
#define ASSIGNMENT_VERSION   1
#define STICKY_VERSION       1

struct Leader {
    Arena arena; /* holds all below and a copy of the blobs */
    AssignMember *members;
    size_t n_members;
    const char **topics; /* distinct, in order of first appearance */
    AssignTopic *assign_topics;
    size_t n_topics, topics_capacity;
};

/* ---- what we say ----------------------------------------------------------------------------------------------------- */

typedef struct Owned { /* claims grouped by topic */
    KStr topic;
    KInt32Array partitions;
} Owned;

static Owned *owned_by_topic(const GroupClaim *claim, Arena *arena, int32_t *ret_n)
{
    Owned *out = arena_alloc(arena, claim->n_owned * sizeof *out + 1);
    int32_t *numbers = arena_alloc(arena, claim->n_owned * sizeof *numbers + 1), n = 0;

    *ret_n = 0;
    if (!out || !numbers)
        return NULL;
    for (size_t i = 0; i < claim->n_owned; i++) {
        bool seen = false;
        for (int32_t k = 0; k < n && !seen; k++)
            seen = k_str_equal(out[k].topic, claim->owned[i]->topic->name);
        if (seen)
            continue;
        Owned *o = &out[n++];
        o->topic = k_str(claim->owned[i]->topic->name);
        o->partitions.items = numbers;
        for (size_t j = i; j < claim->n_owned; j++)
            if (claim->owned[j]->topic == claim->owned[i]->topic)
                *numbers++ = claim->owned[j]->partition;
        o->partitions.n = (int32_t)(numbers - o->partitions.items);
    }
    *ret_n = n;
    return out;
}

static int encode_user_data(Strategy s, const GroupClaim *claim, const Owned *owned, int32_t n, Arena *arena, Buf *out)
{
    if (s == STRATEGY_COOPERATIVE) {
        uint32_t be = htobe32((uint32_t)claim->generation);
        return buf_append(out, &be, sizeof be);
    }
    if (s != STRATEGY_STICKY)
        return 0;
    KStickyUserData u = {.generation = claim->generation};
    u.previous_assignment.items = arena_alloc(arena, (size_t)n * sizeof *u.previous_assignment.items + 1);
    u.previous_assignment.n = n;
    if (!u.previous_assignment.items)
        return -ENOMEM;
    for (int32_t i = 0; i < n; i++)
        u.previous_assignment.items[i] = (KStickyUserDataPreviousAssignment){owned[i].topic, owned[i].partitions};
    return k_encode(&k_sticky_user_data, STICKY_VERSION, &u, out);
}

int leader_encode_subscription(Strategy s, const GroupClaim *claim, Buf *out)
{
    Arena arena = ARENA_NULL;
    Buf user = BUF_NULL;
    KConsumerSubscription b = {.generation_id = claim->generation, .rack_id = K_STR_NULL};
    int32_t n;
    int r = -ENOMEM;

    Owned *owned = owned_by_topic(claim, &arena, &n);
    b.topics.items = arena_alloc(&arena, claim->n_topics * sizeof(KStr) + 1);
    b.topics.n = (int32_t)claim->n_topics;
    b.owned_partitions.items = arena_alloc(&arena, (size_t)n * sizeof *b.owned_partitions.items + 1);
    b.owned_partitions.n = n;
    if (owned && b.topics.items && b.owned_partitions.items && encode_user_data(s, claim, owned, n, &arena, &user) == 0) {
        for (size_t i = 0; i < claim->n_topics; i++)
            b.topics.items[i] = k_str(claim->topics[i]);
        for (int32_t i = 0; i < n; i++)
            b.owned_partitions.items[i] = (KConsumerSubscriptionOwnedPartitions){owned[i].topic, owned[i].partitions};
        b.user_data = (KBytes){user.data ? user.data : (const void *)"", (int32_t)user.size}; /* never null: old clients */
        r = k_encode(&k_consumer_subscription, SUBSCRIPTION_VERSION, &b, out);
    }
    buf_deinit(&user);
    arena_deinit(&arena);
    return r;
}

/* ---- what the others say --------------------------------------------------------------------------------------------- */

static int32_t topic_index(Leader *l, KStr name)
{
    for (size_t i = 0; i < l->n_topics; i++)
        if (k_str_equal(name, l->topics[i]))
            return (int32_t)i;
    if (l->n_topics == l->topics_capacity) {
        size_t n = MAX(2 * l->topics_capacity, 16);
        const char **grown = reallocarray(l->topics, n, sizeof *grown);
        if (!grown)
            return -1;
        l->topics = grown;
        l->topics_capacity = n;
    }
    char *copy = arena_strndup(&l->arena, name.ptr, (size_t)MAX(name.len, 0));
    if (!copy)
        return -1;
    l->topics[l->n_topics] = copy;
    return (int32_t)l->n_topics++;
}

static int claim_add(Leader *l, KStr topic, KInt32Array partitions, AssignPartition *out, size_t *n)
{
    int32_t index = topic_index(l, topic);
    if (index < 0)
        return -ENOMEM;
    for (int32_t i = 0; i < partitions.n; i++)
        out[(*n)++] = (AssignPartition){index, partitions.items[i]};
    return 0;
}

static int member_owned(Leader *l, AssignMember *m, const KConsumerSubscription *s)
{
    KStickyUserData u = {.generation = -1};
    size_t total = 0, n = 0;
    bool sticky = s->owned_partitions.n <= 0 && s->user_data.len > 4 &&
                  (k_decode(&k_sticky_user_data, 1, s->user_data.ptr, (size_t)s->user_data.len, &l->arena, &u) == 0 ||
                   k_decode(&k_sticky_user_data, 0, s->user_data.ptr, (size_t)s->user_data.len, &l->arena, &u) == 0);

    m->generation = s->generation_id;
    if (m->generation < 0 && sticky)
        m->generation = u.generation;
    if (m->generation < 0 && s->user_data.len == 4) {
        uint32_t be;
        memcpy(&be, s->user_data.ptr, sizeof be);
        m->generation = (int32_t)be32toh(be);
    }
    for (int32_t i = 0; i < s->owned_partitions.n; i++)
        total += (size_t)MAX(s->owned_partitions.items[i].partitions.n, 0);
    for (int32_t i = 0; sticky && i < u.previous_assignment.n; i++)
        total += (size_t)MAX(u.previous_assignment.items[i].partitions.n, 0);
    AssignPartition *owned = arena_alloc(&l->arena, total * sizeof *owned + 1);
    if (!owned)
        return -ENOMEM;
    int r = 0;
    for (int32_t i = 0; r == 0 && i < s->owned_partitions.n; i++)
        r = claim_add(l, s->owned_partitions.items[i].topic, s->owned_partitions.items[i].partitions, owned, &n);
    for (int32_t i = 0; r == 0 && sticky && i < u.previous_assignment.n; i++)
        r = claim_add(l, u.previous_assignment.items[i].topic, u.previous_assignment.items[i].partitions, owned, &n);
    m->owned = owned;
    m->n_owned = n;
    return r;
}

static int member_init(Leader *l, AssignMember *m, const KJoinGroupResponseMembers *from)
{
    KConsumerSubscription s;

    m->id = arena_strndup(&l->arena, from->member_id.ptr, (size_t)MAX(from->member_id.len, 0));
    if (from->group_instance_id.len > 0)
        m->instance_id = arena_strndup(&l->arena, from->group_instance_id.ptr, (size_t)from->group_instance_id.len);
    m->generation = -1;
    if (!m->id)
        return -ENOMEM;
    if (k_decode(&k_consumer_subscription, -1, from->metadata.ptr, (size_t)MAX(from->metadata.len, 0),
                 &l->arena, &s) < 0)
        return 0;
    int32_t *topics = arena_alloc(&l->arena, (size_t)MAX(s.topics.n, 0) * sizeof *topics + 1);
    if (!topics)
        return -ENOMEM;
    for (int32_t i = 0; i < s.topics.n; i++)
        if ((topics[i] = topic_index(l, s.topics.items[i])) < 0)
            return -ENOMEM;
    m->topics = topics;
    m->n_topics = (size_t)MAX(s.topics.n, 0);
    return member_owned(l, m, &s);
}

int leader_new(const KJoinGroupResponse *joined, Leader **ret)
{
    size_t n = (size_t)MAX(joined->members.n, 0);
    Leader *l = n <= ASSIGN_MEMBERS_MAX ? calloc(1, sizeof *l) : NULL;
    int r = l ? 0 : -ENOMEM;

    if (l && !(l->members = calloc(n + 1, sizeof *l->members)))
        r = -ENOMEM;
    for (size_t i = 0; r == 0 && i < n; i++)
        r = member_init(l, &l->members[l->n_members++], &joined->members.items[i]);
    if (r == 0 && !(l->assign_topics = calloc(l->n_topics + 1, sizeof *l->assign_topics)))
        r = -ENOMEM;
    if (r < 0) {
        leader_free(l);
        return r;
    }
    for (size_t i = 0; i < l->n_topics; i++)
        l->assign_topics[i].name = l->topics[i];
    *ret = l;
    return 0;
}

Leader *leader_free(Leader *l)
{
    if (!l)
        return NULL;
    free(l->members);
    free(l->topics);
    free(l->assign_topics);
    arena_deinit(&l->arena);
    free(l);
    return NULL;
}

size_t leader_topics(const Leader *l, const char *const **ret_names)
{
    *ret_names = l->topics;
    return l->n_topics;
}

void leader_set_partitions(Leader *l, KStr topic, int32_t partitions)
{
    for (size_t i = 0; i < l->n_topics; i++)
        if (k_str_equal(topic, l->topics[i]))
            l->assign_topics[i].partitions = partitions;
}

bool leader_topics_changed(const Leader *l, const leat_client *c)
{
    for (size_t i = 0; i < l->n_topics; i++) {
        const leat_topic *t = topic_find(c, l->topics[i], strlen(l->topics[i]));
        if (t && t->partitions > l->assign_topics[i].partitions)
            return true;
    }
    return false;
}

/* ---- the assignment -------------------------------------------------------------------------------------------------- */

static int encode_assignment(const Leader *l, const AssignShare *share, Buf *out)
{
    Arena arena = ARENA_NULL;
    KConsumerAssignment a = {.user_data = {"", 0}};
    int32_t *numbers = arena_alloc(&arena, share->n * sizeof *numbers + 1);
    int r = -ENOMEM;

    a.assigned_partitions.items = arena_alloc(&arena, l->n_topics * sizeof *a.assigned_partitions.items + 1);
    if (numbers && a.assigned_partitions.items) {
        for (size_t t = 0; t < l->n_topics; t++) {
            KConsumerAssignmentAssignedPartitions *p = &a.assigned_partitions.items[a.assigned_partitions.n];
            p->topic = k_str(l->topics[t]);
            p->partitions.items = numbers;
            for (size_t i = 0; i < share->n; i++)
                if (share->items[i].topic == (int32_t)t)
                    *numbers++ = share->items[i].partition;
            p->partitions.n = (int32_t)(numbers - p->partitions.items);
            a.assigned_partitions.n += p->partitions.n > 0;
        }
        r = k_encode(&k_consumer_assignment, ASSIGNMENT_VERSION, &a, out);
    }
    arena_deinit(&arena);
    return r;
}

static int assign(KStr protocol, const AssignInput *in, AssignShare *shares)
{
    static int (*const assignors[STRATEGY_COUNT])(const AssignInput *, AssignShare *) = {
        [STRATEGY_RANGE] = assign_range,
        [STRATEGY_ROUNDROBIN] = assign_roundrobin,
        [STRATEGY_STICKY] = assign_sticky,
        [STRATEGY_COOPERATIVE] = assign_cooperative,
    };
    for (Strategy s = 0; s < STRATEGY_COUNT; s++)
        if (k_str_equal(protocol, strategy_name(s)))
            return assignors[s](in, shares);
    return -EOPNOTSUPP;
}

int leader_assign(const Leader *l, KStr protocol, Arena *arena, KSyncGroupRequest *q)
{
    AssignInput in = {.topics = l->assign_topics, .n_topics = l->n_topics, .members = l->members, .n_members = l->n_members};
    AssignShare *shares = calloc(l->n_members + 1, sizeof *shares);
    int r = shares ? assign(protocol, &in, shares) : -ENOMEM;

    q->assignments.items = arena_alloc(arena, l->n_members * sizeof *q->assignments.items + 1);
    q->assignments.n = 0;
    if (!q->assignments.items)
        r = -ENOMEM;
    for (size_t i = 0; r == 0 && i < l->n_members; i++) {
        Buf blob = BUF_NULL;
        r = encode_assignment(l, &shares[i], &blob);
        char *copy = r == 0 ? arena_strndup(arena, (const char *)blob.data, blob.size) : NULL;
        if (r == 0 && !copy)
            r = -ENOMEM;
        if (r == 0)
            q->assignments.items[q->assignments.n++] =
                (KSyncGroupRequestAssignments){k_str(l->members[i].id), {copy, (int32_t)blob.size}};
        buf_deinit(&blob);
    }
    assign_shares_deinit(shares, l->n_members);
    free(shares);
    return r;
}
