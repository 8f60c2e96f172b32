/* The door of the core: events to handlers, partitions coming and going, and what the owner may ask. */

#include "consumer-coord/group/private.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "wire/error.h"

typedef struct Handler {
    int16_t api_key;
    void (*run)(Step *s);
} Handler;

static const Handler handlers[] = {
    {K_API_OFFSET_COMMIT, on_commit},   {K_API_OFFSET_FETCH, on_fetch},       {K_API_JOIN_GROUP, on_join},
    {K_API_HEARTBEAT, on_heartbeat},    {K_API_LEAVE_GROUP, on_leave},        {K_API_SYNC_GROUP, on_sync},
    {K_API_DESCRIBE_GROUPS, on_describe}, {K_API_LIST_GROUPS, on_list},       {K_API_DELETE_GROUPS, on_delete_groups},
    {K_API_OFFSET_DELETE, on_offset_delete},
};

static const Handler *find_handler(int16_t api_key)
{
    for (size_t i = 0; i < ARRAY_SIZE(handlers); i++)
        if (handlers[i].api_key == api_key)
            return &handlers[i];
    return NULL;
}

bool groups_handles(int16_t api_key)
{
    return find_handler(api_key) != NULL;
}

int groups_new(const GroupSettings *settings, const GroupsOps *ops, uint64_t seed, Groups **ret)
{
    Groups *g = calloc(1, sizeof(*g));
    if (!g)
        return -ENOMEM;
    g->settings = *settings;
    g->ops = *ops;
    rng_init(&g->rng, seed);
    list_init(&g->writes);
    *ret = g;
    return 0;
}

static void remove_all_groups(Groups *g)
{
    for (size_t b = 0; b < BUCKETS_COUNT; b++)
        while (g->buckets[b])
            group_remove(g, g->buckets[b]);
}

Groups *groups_free(Groups *g)
{
    if (!g)
        return NULL;
    remove_all_groups(g);
    List *node;
    while (!list_is_empty(&g->writes)) {
        node = g->writes.next;
        Write *w = CONTAINER_OF(node, Write, node);
        if (w->reply && --w->reply->refs == 0) {
            arena_deinit(&w->reply->arena);
            free(w->reply);
        }
        write_free(g, w);
    }
    timers_deinit(&g->timers);
    free(g->partitions);
    free(g);
    return NULL;
}

void groups_set_settings(Groups *g, const GroupSettings *settings)
{
    g->settings = *settings;
}

int64_t groups_next_deadline(Groups *g)
{
    return g->suspended ? INT64_MAX : timers_next(&g->timers);
}

GroupPartitionState groups_partition_state(const Groups *g, int32_t partition)
{
    return partition >= 0 && partition < g->n_partitions ? (GroupPartitionState)g->partitions[partition] : PARTITION_NOT_LED;
}

GroupsCounts groups_counts(const Groups *g)
{
    return g->counts;
}

int16_t partition_error(const Groups *g, KStr group_id, int32_t *ret_partition)
{
    if (has_nul(group_id))
        return K_INVALID_GROUP_ID;
    if (g->n_partitions == 0)
        return K_COORDINATOR_NOT_AVAILABLE;
    *ret_partition = k_partition_for_id(group_id, g->n_partitions);
    switch ((GroupPartitionState)g->partitions[*ret_partition]) {
    case PARTITION_LOADING:
        return K_COORDINATOR_LOAD_IN_PROGRESS;
    case PARTITION_LED:
        return K_NONE;
    case PARTITION_NOT_LED:
        break;
    }
    return K_NOT_COORDINATOR;
}

/* Partitions */

static void set_partitions(Step *s)
{
    int32_t n = MAX(s->ev->partition, s->g->n_partitions); /* partitions are only ever added */
    uint8_t *p = must(realloc(s->g->partitions, (size_t)n + 1));
    for (int32_t i = s->g->n_partitions; i < n; i++)
        p[i] = PARTITION_NOT_LED;
    s->g->partitions = p;
    s->g->n_partitions = n;
}

static void lose_writes(Step *s, int32_t partition)
{
    list_for_each_safe(it, &s->g->writes)
    {
        Write *w = CONTAINER_OF(it, Write, node);
        if (w->partition != partition)
            continue;
        for (size_t i = 0; i < w->n_errors; i++)
            *w->errors[i] = K_NOT_COORDINATOR;
        write_end(s, w);
    }
}

static void lose_groups(Step *s, int32_t partition)
{
    for (Group *group = groups_next(s->g, NULL), *next; group; group = next) {
        next = groups_next(s->g, group);
        if (group->partition != partition)
            continue;
        while (!list_is_empty(&group->members)) {
            Member *m = CONTAINER_OF(group->members.next, Member, node);
            m->local = false; /* it has lost its coordinator, not its membership */
            expel_member(s, m, K_NOT_COORDINATOR);
        }
        group_remove(s->g, group);
    }
}

static void set_partition(Step *s, GroupPartitionState state)
{
    int32_t p = s->ev->partition;
    assert(p >= 0 && p < s->g->n_partitions);
    if (state != PARTITION_LED) {
        lose_writes(s, p);
        lose_groups(s, p);
    }
    s->g->partitions[p] = (uint8_t)state;
    if (state != PARTITION_LED)
        return;
    for (Group *group = groups_next(s->g, NULL); group; group = groups_next(s->g, group))
        if (group->partition == p)
            group_arm_all(s, group);
}

static void on_request(Step *s)
{
    const Handler *h = find_handler(s->ev->asker.api_key);
    assert(h); /* the owner asked groups_handles() */
    h->run(s);
}

void group_step(Groups *g, const GroupEvent *event, GroupEffects *out)
{
    Step s = {.g = g, .ev = event, .out = out};
    switch (event->kind) {
    case GROUP_REQUEST:
        on_request(&s);
        break;
    case GROUP_WRITTEN:
        on_written(&s);
        break;
    case GROUP_TICK:
        on_timers(&s);
        break;
    case GROUP_SUSPEND:
        on_suspend(&s);
        break;
    case GROUP_RESUME:
        on_resume(&s);
        break;
    case GROUP_PARTITIONS:
        set_partitions(&s);
        break;
    case GROUP_LOADING:
        set_partition(&s, PARTITION_LOADING);
        break;
    case GROUP_LOADED:
        set_partition(&s, PARTITION_LED);
        break;
    case GROUP_LOST:
        set_partition(&s, PARTITION_NOT_LED);
        break;
    case GROUP_EXPIRE:
        on_expire(&s);
        break;
    case GROUP_TOPIC_DELETED:
        on_topic_deleted(&s);
        break;
    }
}
