/* Memory and look-ups of the core: groups in a hash table, members and pending ids in lists, effects. */

#include "consumer-coord/group/private.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

void *must(void *p)
{
    if (!p)
        abort();
    return p;
}

char *str_copy(KStr s)
{
    if (s.len < 0)
        return NULL;
    char *p = must(malloc((size_t)s.len + 1));
    if (s.len)
        memcpy(p, s.ptr, (size_t)s.len);
    p[s.len] = '\0';
    return p;
}

void str_set(char **s, KStr value)
{
    char *copy = str_copy(value);
    free(*s);
    *s = copy;
}

bool has_nul(KStr s)
{
    return s.len > 0 && memchr(s.ptr, '\0', (size_t)s.len) != NULL;
}

static size_t bucket(KStr id)
{
    return hash64(id.ptr, (size_t)id.len) % BUCKETS_COUNT;
}

Group *group_find(const Groups *g, KStr id)
{
    for (Group *group = g->buckets[bucket(id)]; group; group = group->next)
        if (k_str_equal(id, group->id))
            return group;
    return NULL;
}

Group *group_by_serial(const Groups *g, const char *id, uint64_t serial)
{
    Group *group = group_find(g, k_str(id));
    return group && group->serial == serial ? group : NULL;
}

Group *group_add(Groups *g, KStr id, int32_t partition)
{
    Group *group = must(calloc(1, sizeof(*group)));
    group->id = str_copy(id);
    group->partition = partition;
    group->serial = ++g->next_serial;
    group->timer = (GroupTimer){.deadline_ms = TIMER_OFF, .kind = TIMER_PHASE};
    list_init(&group->members);
    list_init(&group->pending);
    Group **head = &g->buckets[bucket(id)];
    group->next = *head;
    *head = group;
    g->counts.groups++;
    return group;
}

static void group_unlink(Groups *g, Group *group)
{
    Group **at = &g->buckets[bucket(k_str(group->id))];
    while (*at != group)
        at = &(*at)->next;
    *at = group->next;
    g->counts.groups--;
}

void group_remove(Groups *g, Group *group)
{
    List *node;
    while ((node = list_pop(&group->members)))
        member_free(g, CONTAINER_OF(node, Member, node));
    while ((node = list_pop(&group->pending)))
        pending_free(g, CONTAINER_OF(node, Pending, node));
    timer_remove(&g->timers, &group->timer);
    g->counts.offsets -= (uint64_t)group->offsets.total;
    offsets_deinit(&group->offsets);
    group_unlink(g, group);
    free(group->id);
    free(group->protocol_type);
    free(group->protocol);
    free(group);
}

Group *groups_next(const Groups *g, const Group *after)
{
    size_t b = 0;
    if (after) {
        if (after->next)
            return after->next;
        b = bucket(k_str(after->id)) + 1;
    }
    for (; b < BUCKETS_COUNT; b++)
        if (g->buckets[b])
            return g->buckets[b];
    return NULL;
}

bool members_full(const Groups *g)
{
    return g->counts.members >= GROUP_MEMBERS_MAX;
}

bool groups_full(const Groups *g)
{
    return g->counts.groups >= GROUPS_MAX;
}

Member *member_add(Groups *g, Group *group, KStr id)
{
    Member *m = must(calloc(1, sizeof(*m)));
    m->group = group;
    m->id = str_copy(id);
    m->timer = (GroupTimer){.deadline_ms = TIMER_OFF, .kind = TIMER_MEMBER};
    list_append(&group->members, &m->node);
    group->n_members++;
    g->counts.members++;
    return m;
}

void member_free(Groups *g, Member *m)
{
    Group *group = m->group;
    list_remove(&m->node);
    group->n_members--;
    g->counts.members--;
    if (group->leader == m)
        group->leader = list_is_empty(&group->members) ? NULL : CONTAINER_OF(group->members.next, Member, node);
    timer_remove(&g->timers, &m->timer);
    free(m->id);
    free(m->instance_id);
    free(m->client_id);
    free(m->client_host);
    free(m->protocols.items);
    free(m->assignment);
    free(m);
}

Member *member_find(const Group *group, KStr id)
{
    list_for_each(it, &group->members)
    {
        Member *m = CONTAINER_OF(it, Member, node);
        if (k_str_equal(id, m->id))
            return m;
    }
    return NULL;
}

Member *member_by_instance(const Group *group, KStr instance_id)
{
    list_for_each(it, &group->members)
    {
        Member *m = CONTAINER_OF(it, Member, node);
        if (m->instance_id && k_str_equal(instance_id, m->instance_id))
            return m;
    }
    return NULL;
}

Pending *pending_add(Groups *g, Group *group, KStr id, int32_t session_timeout_ms)
{
    Pending *p = must(calloc(1, sizeof(*p)));
    p->group = group;
    p->id = str_copy(id);
    p->session_timeout_ms = session_timeout_ms;
    p->timer = (GroupTimer){.deadline_ms = TIMER_OFF, .kind = TIMER_PENDING};
    list_append(&group->pending, &p->node);
    group->n_pending++;
    g->counts.members++;
    return p;
}

Pending *pending_find(const Group *group, KStr id)
{
    list_for_each(it, &group->pending)
    {
        Pending *p = CONTAINER_OF(it, Pending, node);
        if (k_str_equal(id, p->id))
            return p;
    }
    return NULL;
}

void pending_free(Groups *g, Pending *p)
{
    list_remove(&p->node);
    p->group->n_pending--;
    g->counts.members--;
    timer_remove(&g->timers, &p->timer);
    free(p->id);
    free(p);
}

void protocols_set(Protocols *p, const KJoinGroupRequest *q)
{
    size_t n = (size_t)MAX(q->protocols.n, 0), bytes = 0;
    for (size_t i = 0; i < n; i++)
        bytes += (size_t)q->protocols.items[i].name.len + (size_t)q->protocols.items[i].metadata.len;
    char *text;
    Protocols copy = {.n = (int32_t)n, .items = must(malloc(n * sizeof(p->items[0]) + bytes + 1))};
    text = (char *)(copy.items + n);
    for (size_t i = 0; i < n; i++) {
        KStr name = q->protocols.items[i].name;
        KBytes metadata = q->protocols.items[i].metadata;
        copy.items[i].name = (KStr){text, name.len};
        if (name.len)
            memcpy(text, name.ptr, (size_t)name.len);
        text += name.len;
        copy.items[i].metadata = (KBytes){text, metadata.len};
        if (metadata.len)
            memcpy(text, metadata.ptr, (size_t)metadata.len);
        text += metadata.len;
    }
    free(p->items);
    *p = copy;
}

static bool bytes_equal(KBytes a, KBytes b)
{
    return a.len == b.len && (a.len <= 0 || memcmp(a.ptr, b.ptr, (size_t)a.len) == 0);
}

bool protocols_equal(const Protocols *p, const KJoinGroupRequest *q)
{
    if (p->n != q->protocols.n)
        return false;
    for (int32_t i = 0; i < p->n; i++)
        if (!k_str_same(p->items[i].name, q->protocols.items[i].name) ||
            !bytes_equal(p->items[i].metadata, q->protocols.items[i].metadata))
            return false;
    return true;
}

const KBytes *protocols_find(const Protocols *p, const char *name)
{
    for (int32_t i = 0; i < p->n && name; i++)
        if (k_str_equal(p->items[i].name, name))
            return &p->items[i].metadata;
    return NULL;
}

void member_set_assignment(Member *m, KBytes assignment)
{
    void *copy = NULL;
    if (assignment.len > 0) {
        copy = must(malloc((size_t)assignment.len));
        memcpy(copy, assignment.ptr, (size_t)assignment.len);
    }
    free(m->assignment);
    m->assignment = copy;
    m->assignment_size = MAX(assignment.len, 0);
}

static GroupEffect *effect_add(GroupEffects *e, GroupEffectKind kind)
{
    if (e->n == e->capacity) {
        e->capacity = e->capacity ? 2 * e->capacity : 16;
        e->items = must(realloc(e->items, e->capacity * sizeof(e->items[0])));
    }
    e->items[e->n] = (GroupEffect){.kind = kind};
    return &e->items[e->n++];
}

GroupEffect *effect_new(Step *s, GroupEffectKind kind)
{
    return effect_add(s->out, kind);
}

void *effect_alloc(Step *s, size_t size)
{
    return must(arena_alloc(&s->out->arena, size));
}

void group_effects_clear(GroupEffects *e)
{
    e->n = 0;
    arena_reset(&e->arena);
}

void group_effects_deinit(GroupEffects *e)
{
    free(e->items);
    arena_deinit(&e->arena);
    *e = GROUP_EFFECTS_NULL;
}

void reply(Step *s, const GroupAsker *asker, const KMessage *m, const void *response)
{
    Buf body = BUF_NULL;
    int r = k_encode(m, asker->api_version, response, &body);
    assert(r != -EINVAL && r != -EOPNOTSUPP); /* we chose the values, the asker a version that was decoded */
    must(r < 0 ? NULL : s);
    GroupEffect *e = effect_new(s, GROUP_EFFECT_REPLY);
    e->asker = *asker;
    e->body.len = (int32_t)body.size;
    e->body.ptr = effect_alloc(s, body.size + 1);
    memcpy((void *)(uintptr_t)e->body.ptr, body.data, body.size);
    buf_deinit(&body);
}

void notify_member(Step *s, const Member *m, int8_t kind, int16_t error)
{
    if (!m->local)
        return;
    size_t group_len = strlen(m->group->id), id_len = strlen(m->id);
    char *text = effect_alloc(s, group_len + id_len + 1);
    memcpy(text, m->group->id, group_len);
    memcpy(text + group_len, m->id, id_len);
    GroupEffect *e = effect_new(s, GROUP_EFFECT_NOTIFY);
    e->notice = (KGroupEvent){
        .session_id = m->session_id,
        .kind = kind,
        .group_id = {text, (int32_t)group_len},
        .member_id = {text + group_len, (int32_t)id_len},
        .generation_id = m->group->generation,
        .error_code = error,
    };
}
