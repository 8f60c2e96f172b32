/* The simulated world around the group core: see lab.h. */

#include "lab.h"

#include <check.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "wire/error.h"

#define WORDS_MAX 24

typedef struct Words {
    char text[512];
    char *at[WORDS_MAX];
    int n;
} Words;

static void split(Words *w, const char *line)
{
    char *save = NULL;
    *w = (Words){.n = 0};
    snprintf(w->text, sizeof(w->text), "%s", line);
    for (char *p = strtok_r(w->text, " ", &save); p; p = strtok_r(NULL, " ", &save)) {
        ck_assert_int_lt(w->n, WORDS_MAX);
        w->at[w->n++] = p;
    }
}

/* The value of `key=` among the words, or fallback. */
static const char *option(const Words *w, const char *key, const char *fallback)
{
    size_t len = strlen(key);
    for (int i = 1; i < w->n; i++)
        if (strncmp(w->at[i], key, len) == 0 && w->at[i][len] == '=')
            return w->at[i] + len + 1;
    return fallback;
}

static int number(const Words *w, const char *key, int fallback)
{
    const char *s = option(w, key, NULL);
    return s ? atoi(s) : fallback;
}

static bool flag(const Words *w, const char *word)
{
    for (int i = 1; i < w->n; i++)
        if (strcmp(w->at[i], word) == 0)
            return true;
    return false;
}

/* Clients and names */

LabClient *lab_client(Lab *lab, const char *name)
{
    for (int i = 0; i < lab->n_clients; i++)
        if (strcmp(lab->clients[i].name, name) == 0)
            return &lab->clients[i];
    ck_assert_int_lt(lab->n_clients, LAB_CLIENTS_MAX);
    LabClient *c = &lab->clients[lab->n_clients++];
    *c = (LabClient){.generation = -1, .session_id = lab->n_clients};
    snprintf(c->name, sizeof(c->name), "%s", name);
    snprintf(c->group, sizeof(c->group), "g");
    return c;
}

static const char *name_of(Lab *lab, KStr id)
{
    static char text[4][64];
    static int next;
    if (id.len <= 0)
        return "-";
    char *out = text[next++ % 4];
    for (int i = 0; i < lab->n_clients; i++) {
        LabClient *c = &lab->clients[i];
        bool is_old = k_str_equal(id, c->old_id);
        if (k_str_equal(id, c->member_id) || is_old) {
            snprintf(out, 64, "%s%s", c->name, is_old && !k_str_equal(id, c->member_id) ? "'" : "");
            return out;
        }
    }
    return "?";
}

/* Printing answers */

static void learn_id(LabClient *c, const KJoinGroupResponse *r)
{
    if (r->member_id.len <= 0 || k_str_equal(r->member_id, c->member_id) || r->error_code == K_FENCED_INSTANCE_ID)
        return;
    memcpy(c->old_id, c->member_id, sizeof(c->old_id));
    snprintf(c->member_id, sizeof(c->member_id), "%.*s", r->member_id.len, r->member_id.ptr);
}

static void print_join(Lab *lab, LabClient *c, const KJoinGroupResponse *r)
{
    if (r->error_code != K_NONE) {
        buf_printf(&lab->out, "%s join %s\n", c->name, k_error_name(r->error_code));
        return;
    }
    c->generation = r->generation_id;
    buf_printf(&lab->out, "%s join gen=%d proto=%.*s leader=%s", c->name, r->generation_id, r->protocol_name.len, r->protocol_name.ptr,
               name_of(lab, r->leader));
    for (int32_t i = 0; i < r->members.n; i++)
        buf_printf(&lab->out, " %s:%.*s", name_of(lab, r->members.items[i].member_id), r->members.items[i].metadata.len,
                   (const char *)r->members.items[i].metadata.ptr);
    buf_printf(&lab->out, "%s\n", r->skip_assignment ? " skip" : "");
}

static void print_commit(Lab *lab, const char *name, const KOffsetCommitResponse *r)
{
    buf_printf(&lab->out, "%s commit", name);
    for (int32_t i = 0; i < r->topics.n; i++)
        for (int32_t p = 0; p < r->topics.items[i].partitions.n; p++)
            buf_printf(&lab->out, " %.*s/%d:%s", r->topics.items[i].name.len, r->topics.items[i].name.ptr,
                       r->topics.items[i].partitions.items[p].partition_index,
                       k_error_name(r->topics.items[i].partitions.items[p].error_code));
    buf_printf(&lab->out, "\n");
}

static void print_fetch(Lab *lab, const KOffsetFetchResponse *r, int16_t version)
{
    ck_assert_int_ge(version, 8);
    for (int32_t g = 0; g < r->groups.n; g++) {
        const KOffsetFetchResponseGroups *group = &r->groups.items[g];
        buf_printf(&lab->out, "fetch %s", k_error_name(group->error_code));
        for (int32_t i = 0; i < group->topics.n; i++)
            for (int32_t p = 0; p < group->topics.items[i].partitions.n; p++) {
                const KOffsetFetchResponseGroupsTopicsPartitions *o = &group->topics.items[i].partitions.items[p];
                buf_printf(&lab->out, " %.*s/%d=%lld:%.*s", group->topics.items[i].name.len, group->topics.items[i].name.ptr,
                           o->partition_index, (long long)o->committed_offset, o->metadata.len, o->metadata.ptr);
            }
        buf_printf(&lab->out, "\n");
    }
}

static void print_describe(Lab *lab, const KDescribeGroupsResponse *r)
{
    for (int32_t g = 0; g < r->groups.n; g++) {
        const KDescribeGroupsResponseGroups *d = &r->groups.items[g];
        buf_printf(&lab->out, "describe %s %.*s proto=%.*s", k_error_name(d->error_code), d->group_state.len, d->group_state.ptr,
                   d->protocol_data.len, d->protocol_data.ptr);
        for (int32_t i = 0; i < d->members.n; i++)
            buf_printf(&lab->out, " %s:%.*s", name_of(lab, d->members.items[i].member_id), d->members.items[i].member_assignment.len,
                       (const char *)d->members.items[i].member_assignment.ptr);
        buf_printf(&lab->out, "\n");
    }
}

static int by_group_id(const void *a, const void *b)
{
    const KListGroupsResponseGroups *x = a, *y = b;
    return strncmp(x->group_id.ptr, y->group_id.ptr, (size_t)MIN(x->group_id.len, y->group_id.len));
}

static void print_list(Lab *lab, const KListGroupsResponse *r)
{
    buf_printf(&lab->out, "list %s", k_error_name(r->error_code));
    if (r->groups.n)
        qsort(r->groups.items, (size_t)r->groups.n, sizeof(r->groups.items[0]), by_group_id);
    for (int32_t i = 0; i < r->groups.n; i++)
        buf_printf(&lab->out, " %.*s:%.*s", r->groups.items[i].group_id.len, r->groups.items[i].group_id.ptr,
                   r->groups.items[i].group_state.len, r->groups.items[i].group_state.ptr);
    buf_printf(&lab->out, "\n");
}

static void print_leave(Lab *lab, const char *name, const KLeaveGroupResponse *r, int16_t version)
{
    int16_t error = version >= 3 && r->error_code == K_NONE && r->members.n > 0 ? r->members.items[0].error_code : r->error_code;
    buf_printf(&lab->out, "%s leave %s\n", name, k_error_name(error));
}

static void print_forget(Lab *lab, const KOffsetDeleteResponse *r)
{
    buf_printf(&lab->out, "forget %s", k_error_name(r->error_code));
    for (int32_t i = 0; i < r->topics.n; i++)
        for (int32_t p = 0; p < r->topics.items[i].partitions.n; p++)
            buf_printf(&lab->out, " %.*s/%d:%s", r->topics.items[i].name.len, r->topics.items[i].name.ptr,
                       r->topics.items[i].partitions.items[p].partition_index,
                       k_error_name(r->topics.items[i].partitions.items[p].error_code));
    buf_printf(&lab->out, "\n");
}

static void print_answer(Lab *lab, const LabAsk *ask, const void *r)
{
    LabClient *c = ask->client >= 0 ? &lab->clients[ask->client] : NULL;
    const char *name = c ? c->name : "-";
    switch (ask->api_key) {
    case K_API_JOIN_GROUP:
        ck_assert_ptr_nonnull(c);
        print_join(lab, c, r);
        break;
    case K_API_SYNC_GROUP: {
        const KSyncGroupResponse *s = r;
        buf_printf(&lab->out, "%s sync %s", name, s->error_code ? k_error_name(s->error_code) : "");
        buf_printf(&lab->out, "%.*s\n", s->assignment.len, (const char *)s->assignment.ptr);
        break;
    }
    case K_API_HEARTBEAT:
        buf_printf(&lab->out, "%s beat %s\n", name, k_error_name(((const KHeartbeatResponse *)r)->error_code));
        break;
    case K_API_LEAVE_GROUP:
        print_leave(lab, name, r, ask->version);
        break;
    case K_API_OFFSET_COMMIT:
        print_commit(lab, name, r);
        break;
    case K_API_OFFSET_FETCH:
        print_fetch(lab, r, ask->version);
        break;
    case K_API_DESCRIBE_GROUPS:
        print_describe(lab, r);
        break;
    case K_API_LIST_GROUPS:
        print_list(lab, r);
        break;
    case K_API_OFFSET_DELETE:
        print_forget(lab, r);
        break;
    case K_API_DELETE_GROUPS: {
        const KDeleteGroupsResponse *d = r;
        for (int32_t i = 0; i < d->results.n; i++)
            buf_printf(&lab->out, "delete %.*s %s\n", d->results.items[i].group_id.len, d->results.items[i].group_id.ptr,
                       k_error_name(d->results.items[i].error_code));
        break;
    }
    default:
        ck_abort_msg("api %d", ask->api_key);
    }
}

/* Effects */

static KBytes own(KBytes b)
{
    void *p = b.len >= 0 ? malloc((size_t)b.len + 1) : NULL;
    if (b.len > 0)
        memcpy(p, b.ptr, (size_t)b.len);
    return (KBytes){p, b.len};
}

static void take_reply(Lab *lab, const GroupEffect *e)
{
    alignas(16) uint8_t response[512];
    ck_assert_uint_ge(e->asker.tag, 1);
    ck_assert_uint_le(e->asker.tag, lab->n_asks);
    LabAsk *ask = &lab->asks[e->asker.tag - 1];
    ck_assert_int_eq(++ask->answers, 1);
    ck_assert(!ask->is_lost);
    const KMessage *m = k_api_find(ask->api_key)->response;
    ck_assert_uint_le(k_message_struct_size(m), sizeof(response));
    ck_assert_int_eq(k_decode(m, ask->version, e->body.ptr, (size_t)e->body.len, &lab->arena, response), 0);
    if (lab->on_answer)
        lab->on_answer(lab, ask, response);
    print_answer(lab, ask, response);
}

static void take_id(Lab *lab, const GroupEffect *e)
{
    KJoinGroupResponse r;
    const LabAsk *ask = &lab->asks[e->asker.tag - 1];
    if (ask->api_key != K_API_JOIN_GROUP)
        return;
    ck_assert_int_eq(k_decode(&k_join_group_response, ask->version, e->body.ptr, (size_t)e->body.len, &lab->arena, &r), 0);
    learn_id(&lab->clients[ask->client], &r);
}

static void take_write(Lab *lab, const GroupEffect *e)
{
    if (lab->n_writes == lab->writes_capacity) {
        lab->writes_capacity = lab->writes_capacity ? 2 * lab->writes_capacity : 16;
        lab->writes = realloc(lab->writes, lab->writes_capacity * sizeof(lab->writes[0]));
    }
    LabWrite *w = &lab->writes[lab->n_writes++];
    *w = (LabWrite){.id = e->write_id, .partition = e->partition, .n = e->n_records};
    w->records = calloc(e->n_records, sizeof(w->records[0]));
    for (size_t i = 0; i < e->n_records; i++)
        w->records[i] = (LabRecord){e->partition, own(e->records[i].key), own(e->records[i].value)};
    buf_printf(&lab->out, "write %zu\n", e->n_records);
}

static void take_notice(Lab *lab, const KGroupEvent *n)
{
    static const char *const kinds[] = {"rebalance", "fenced", "assignment"};
    buf_printf(&lab->out, "event %s %s gen=%d\n", name_of(lab, n->member_id), kinds[n->kind], n->generation_id);
}

void lab_step(Lab *lab, GroupEvent *event)
{
    event->now_ms = lab->now_ms;
    event->wall_ms = lab->wall_ms;
    group_effects_clear(&lab->effects);
    group_step(lab->groups, event, &lab->effects);
    for (size_t i = 0; i < lab->effects.n; i++) /* ids first: the leader's answer names members that are told below it */
        if (lab->effects.items[i].kind == GROUP_EFFECT_REPLY)
            take_id(lab, &lab->effects.items[i]);
    for (size_t i = 0; i < lab->effects.n; i++) {
        const GroupEffect *e = &lab->effects.items[i];
        if (e->kind == GROUP_EFFECT_REPLY)
            take_reply(lab, e);
        else if (e->kind == GROUP_EFFECT_WRITE)
            take_write(lab, e);
        else
            take_notice(lab, &e->notice);
    }
}

uint64_t lab_ask(Lab *lab, int client, int16_t api_key, int16_t version, const void *body)
{
    if (lab->n_asks == lab->asks_capacity) {
        lab->asks_capacity = lab->asks_capacity ? 2 * lab->asks_capacity : 64;
        lab->asks = realloc(lab->asks, lab->asks_capacity * sizeof(lab->asks[0]));
    }
    lab->asks[lab->n_asks++] = (LabAsk){.client = client, .api_key = api_key, .version = version, .note = lab->next_note};
    uint64_t tag = lab->n_asks;
    const LabClient *c = client >= 0 ? &lab->clients[client] : NULL;
    GroupEvent e = {
        .kind = GROUP_REQUEST,
        .asker = {.tag = tag, .api_key = api_key, .api_version = version},
        .body = body,
        .client_id = k_str(c ? c->name : "admin"),
        .client_host = k_str("/127.0.0.1"),
        .session_id = c ? c->session_id : 0,
        .local = c && c->local,
    };
    lab_step(lab, &e);
    return tag;
}

void lab_ack(Lab *lab, int16_t error)
{
    ck_assert_uint_gt(lab->n_writes, 0);
    LabWrite w = lab->writes[0];
    memmove(lab->writes, lab->writes + 1, --lab->n_writes * sizeof(w));
    for (size_t i = 0; i < w.n; i++) {
        if (error != K_NONE) {
            free((void *)(uintptr_t)w.records[i].key.ptr);
            free((void *)(uintptr_t)w.records[i].value.ptr);
            continue;
        }
        if (lab->n_log == lab->log_capacity) {
            lab->log_capacity = lab->log_capacity ? 2 * lab->log_capacity : 64;
            lab->log = realloc(lab->log, lab->log_capacity * sizeof(lab->log[0]));
        }
        lab->log[lab->n_log++] = w.records[i];
    }
    free(w.records);
    lab_step(lab, &(GroupEvent){.kind = GROUP_WRITTEN, .write_id = w.id, .error = error});
}

/* Life */

static bool exists(void *userdata, KStr topic, int32_t partition)
{
    (void)userdata;
    return partition < 10 && !k_str_equal(topic, "missing");
}

static Groups *new_groups(Lab *lab, uint64_t seed)
{
    Groups *g;
    GroupsOps ops = {.partition_exists = exists};
    ck_assert_int_eq(groups_new(&lab->settings, &ops, seed, &g), 0);
    return g;
}

static void lead(Lab *lab, bool load)
{
    lab_step(lab, &(GroupEvent){.kind = GROUP_PARTITIONS, .partition = LAB_PARTITIONS});
    for (int32_t p = 0; p < LAB_PARTITIONS; p++) {
        lab_step(lab, &(GroupEvent){.kind = GROUP_LOADING, .partition = p});
        for (size_t i = 0; i < lab->n_log; i++)
            if (lab->log[i].partition == p)
                ck_assert_int_eq(groups_apply(lab->groups, p, lab->log[i].key, lab->log[i].value), 0);
        if (load)
            lab_step(lab, &(GroupEvent){.kind = GROUP_LOADED, .partition = p});
    }
}

void lab_init(Lab *lab)
{
    *lab = (Lab){
        .settings = {.session_min_ms = 6000, .session_max_ms = 1800000, .size_max = 1000, .metadata_max = 16, .retention_ms = 3600000},
        .now_ms = 1000,
        .wall_ms = 1700000000000,
    };
    lab->groups = new_groups(lab, 1);
    lead(lab, true);
}

void lab_deinit(Lab *lab)
{
    groups_free(lab->groups);
    for (size_t i = 0; i < lab->n_log; i++) {
        free((void *)(uintptr_t)lab->log[i].key.ptr);
        free((void *)(uintptr_t)lab->log[i].value.ptr);
    }
    for (size_t i = 0; i < lab->n_writes; i++) {
        for (size_t j = 0; j < lab->writes[i].n; j++) {
            free((void *)(uintptr_t)lab->writes[i].records[j].key.ptr);
            free((void *)(uintptr_t)lab->writes[i].records[j].value.ptr);
        }
        free(lab->writes[i].records);
    }
    free(lab->writes);
    free(lab->log);
    free(lab->asks);
    group_effects_deinit(&lab->effects);
    buf_deinit(&lab->out);
    arena_deinit(&lab->arena);
}

Groups *lab_replay(Lab *lab)
{
    Groups *live = lab->groups, *copy = new_groups(lab, 2);
    size_t printed = lab->out.size;
    lab->groups = copy;
    lead(lab, true);
    lab->groups = live;
    ck_assert_uint_eq(lab->out.size, printed); /* replay itself says nothing */
    return copy;
}

void lab_check_replay(Lab *lab)
{
    ck_assert_uint_eq(lab->n_writes, 0);
    Groups *copy = lab_replay(lab);
    Buf live = BUF_NULL, replayed = BUF_NULL;
    ck_assert_int_eq(groups_dump(lab->groups, &live), 0);
    ck_assert_int_eq(groups_dump(copy, &replayed), 0);
    buf_append(&live, "", 1);
    buf_append(&replayed, "", 1);
    ck_assert_str_eq((const char *)live.data, (const char *)replayed.data);
    buf_deinit(&live);
    buf_deinit(&replayed);
    groups_free(copy);
}

/* Commands */

static void do_join(Lab *lab, const Words *w)
{
    LabClient *c = lab_client(lab, w->at[1]);
    if (option(w, "g", NULL))
        snprintf(c->group, sizeof(c->group), "%s", option(w, "g", NULL));
    if (option(w, "inst", NULL))
        snprintf(c->instance, sizeof(c->instance), "%s", option(w, "inst", NULL));
    c->local |= flag(w, "local");
    char protocols[128];
    snprintf(protocols, sizeof(protocols), "%s", option(w, "proto", "range:m"));
    KJoinGroupRequestProtocols items[8];
    KJoinGroupRequest q;
    k_message_init(&k_join_group_request, &q);
    q.protocols.items = items;
    char *save = NULL;
    for (char *p = strtok_r(protocols, ",", &save); p; p = strtok_r(NULL, ",", &save)) {
        char *meta = strchr(p, ':');
        if (meta)
            *meta++ = '\0';
        items[q.protocols.n++] = (KJoinGroupRequestProtocols){k_str(p), {meta ? meta : "", meta ? (int32_t)strlen(meta) : 0}};
    }
    q.group_id = k_str(c->group);
    q.session_timeout_ms = number(w, "session", 10000);
    q.rebalance_timeout_ms = number(w, "rebalance", 60000);
    q.member_id = k_str(flag(w, "new") ? "" : c->member_id);
    q.group_instance_id = c->instance[0] ? k_str(c->instance) : K_STR_NULL;
    q.protocol_type = k_str(option(w, "type", "consumer"));
    lab_ask(lab, (int)(c - lab->clients), K_API_JOIN_GROUP, (int16_t)number(w, "v", 9), &q);
}

static void do_sync(Lab *lab, const Words *w)
{
    LabClient *c = lab_client(lab, w->at[1]);
    KSyncGroupRequestAssignments items[WORDS_MAX];
    KSyncGroupRequest q;
    k_message_init(&k_sync_group_request, &q);
    q.assignments.items = items;
    for (int i = 2; i < w->n; i++) {
        char *colon = strchr(w->at[i], ':');
        if (!colon)
            continue;
        *colon = '\0';
        const char *id = lab_client(lab, w->at[i])->member_id;
        items[q.assignments.n++] = (KSyncGroupRequestAssignments){k_str(id), {colon + 1, (int32_t)strlen(colon + 1)}};
    }
    q.group_id = k_str(c->group);
    q.generation_id = number(w, "gen", c->generation);
    q.member_id = k_str(c->member_id);
    q.group_instance_id = c->instance[0] ? k_str(c->instance) : K_STR_NULL;
    q.protocol_name = k_str(option(w, "proto", NULL));
    lab_ask(lab, (int)(c - lab->clients), K_API_SYNC_GROUP, (int16_t)number(w, "v", 5), &q);
}

static void do_beat(Lab *lab, const Words *w)
{
    LabClient *c = lab_client(lab, w->at[1]);
    KHeartbeatRequest q = {
        .group_id = k_str(c->group),
        .generation_id = number(w, "gen", c->generation),
        .member_id = k_str(flag(w, "old") ? c->old_id : c->member_id),
        .group_instance_id = c->instance[0] ? k_str(c->instance) : K_STR_NULL,
    };
    lab_ask(lab, (int)(c - lab->clients), K_API_HEARTBEAT, (int16_t)number(w, "v", 4), &q);
}

static void do_leave(Lab *lab, const Words *w)
{
    LabClient *c = lab_client(lab, w->at[1]);
    const char *instance = option(w, "inst", NULL);
    KLeaveGroupRequestMembers one = {.member_id = k_str(instance ? "" : c->member_id), .group_instance_id = k_str(instance), .reason = K_STR_NULL};
    KLeaveGroupRequest q = {.group_id = k_str(c->group), .member_id = k_str(c->member_id), .members = {&one, 1}};
    lab_ask(lab, (int)(c - lab->clients), K_API_LEAVE_GROUP, (int16_t)number(w, "v", 4), &q);
}

/* "t/3=17:meta" */
static KStr parse_partition(char *word, int32_t *ret_partition, char **ret_rest)
{
    char *slash = strchr(word, '/');
    ck_assert_ptr_nonnull(slash);
    *slash = '\0';
    *ret_partition = (int32_t)strtol(slash + 1, ret_rest, 10);
    return k_str(word);
}

static void do_commit(Lab *lab, const Words *w)
{
    LabClient *c = strcmp(w->at[1], "-") == 0 ? NULL : lab_client(lab, w->at[1]);
    KOffsetCommitRequestTopics topics[WORDS_MAX];
    KOffsetCommitRequestTopicsPartitions partitions[WORDS_MAX];
    KOffsetCommitRequest q;
    k_message_init(&k_offset_commit_request, &q);
    q.topics.items = topics;
    for (int i = 2; i < w->n; i++) {
        if (!strchr(w->at[i], '/'))
            continue;
        int32_t n = q.topics.n++;
        char *rest;
        partitions[n] = (KOffsetCommitRequestTopicsPartitions){.committed_leader_epoch = -1, .committed_metadata = K_STR_NULL};
        topics[n] = (KOffsetCommitRequestTopics){.name = parse_partition(w->at[i], &partitions[n].partition_index, &rest)};
        partitions[n].committed_offset = strtoll(rest + 1, &rest, 10);
        if (*rest == ':')
            partitions[n].committed_metadata = k_str(rest + 1);
        topics[n].partitions.items = &partitions[n];
        topics[n].partitions.n = 1;
    }
    q.group_id = k_str(option(w, "g", c ? c->group : "g"));
    q.generation_id_or_member_epoch = number(w, "gen", c ? c->generation : -1);
    q.member_id = k_str(c ? c->member_id : "");
    q.group_instance_id = c && c->instance[0] ? k_str(c->instance) : K_STR_NULL;
    q.retention_time_ms = number(w, "retention", -1);
    lab_ask(lab, c ? (int)(c - lab->clients) : -1, K_API_OFFSET_COMMIT, (int16_t)number(w, "v", 8), &q);
}

static void do_fetch(Lab *lab, const Words *w)
{
    KOffsetFetchRequestGroupsTopics topics[WORDS_MAX];
    int32_t partitions[WORDS_MAX], n = 0;
    for (int i = 1; i < w->n; i++) {
        char *rest;
        if (!strchr(w->at[i], '/'))
            continue;
        topics[n] = (KOffsetFetchRequestGroupsTopics){.name = parse_partition(w->at[i], &partitions[n], &rest)};
        topics[n].partition_indexes = (KInt32Array){&partitions[n], 1};
        n++;
    }
    KOffsetFetchRequestGroups group = {.group_id = k_str(option(w, "g", "g")), .member_id = K_STR_NULL, .member_epoch = -1};
    group.topics.items = topics;
    group.topics.n = n ? n : -1;
    KOffsetFetchRequest q;
    k_message_init(&k_offset_fetch_request, &q);
    q.groups.items = &group;
    q.groups.n = 1;
    lab_ask(lab, -1, K_API_OFFSET_FETCH, (int16_t)number(w, "v", 8), &q);
}

static void do_delete(Lab *lab, const Words *w)
{
    KStr names[WORDS_MAX];
    KDeleteGroupsRequest q = {.groups_names = {names, w->n - 1}};
    for (int i = 1; i < w->n; i++)
        names[i - 1] = k_str(w->at[i]);
    lab_ask(lab, -1, K_API_DELETE_GROUPS, 2, &q);
}

static void do_forget(Lab *lab, const Words *w)
{
    KOffsetDeleteRequestTopics topics[WORDS_MAX];
    KOffsetDeleteRequestTopicsPartitions partitions[WORDS_MAX];
    KOffsetDeleteRequest q = {.group_id = k_str(option(w, "g", "g")), .topics = {topics, 0}};
    for (int i = 1; i < w->n; i++) {
        char *rest;
        if (!strchr(w->at[i], '/'))
            continue;
        int32_t n = q.topics.n++;
        topics[n] = (KOffsetDeleteRequestTopics){.name = parse_partition(w->at[i], &partitions[n].partition_index, &rest)};
        topics[n].partitions.items = &partitions[n];
        topics[n].partitions.n = 1;
    }
    lab_ask(lab, -1, K_API_OFFSET_DELETE, 0, &q);
}

static void do_describe(Lab *lab, const Words *w)
{
    KStr id = k_str(option(w, "g", "g"));
    KDescribeGroupsRequest q = {.groups = {&id, 1}};
    lab_ask(lab, -1, K_API_DESCRIBE_GROUPS, (int16_t)number(w, "v", 5), &q);
}

static void do_list(Lab *lab, const Words *w)
{
    KStr state = k_str(w->n > 1 ? w->at[1] : "");
    KListGroupsRequest q = {.states_filter = {&state, w->n > 1}};
    lab_ask(lab, -1, K_API_LIST_GROUPS, 4, &q);
}

static int16_t error_by_name(const char *name)
{
    for (int16_t e = -1; e < 140; e++)
        if (strcmp(k_error_name(e), name) == 0)
            return e;
    ck_abort_msg("no error %s", name);
    return 0;
}

static void advance(Lab *lab, int64_t ms)
{
    int64_t end = lab->now_ms + ms;
    for (int64_t next; (next = groups_next_deadline(lab->groups)) <= end;) {
        int64_t step = MAX(next, lab->now_ms) - lab->now_ms;
        lab->now_ms += step;
        lab->wall_ms += step;
        lab_step(lab, &(GroupEvent){.kind = GROUP_TICK});
    }
    lab->wall_ms += end - lab->now_ms;
    lab->now_ms = end;
    lab_step(lab, &(GroupEvent){.kind = GROUP_TICK});
}

static void lose_asks(Lab *lab)
{
    for (size_t i = 0; i < lab->n_asks; i++)
        lab->asks[i].is_lost = true;
}

static void drop_topic(Lab *lab, const Words *w)
{
    lab_step(lab, &(GroupEvent){.kind = GROUP_TOPIC_DELETED, .topic = k_str(w->at[1])});
}

static void for_each_partition(Lab *lab, GroupEventKind kind)
{
    for (int32_t p = 0; p < LAB_PARTITIONS; p++)
        lab_step(lab, &(GroupEvent){.kind = kind, .partition = p});
}

void lab_command(Lab *lab, const char *line)
{
    static const struct {
        const char *word;
        void (*run)(Lab *, const Words *);
    } commands[] = {
        {"join", do_join},     {"sync", do_sync},       {"beat", do_beat},     {"leave", do_leave}, {"commit", do_commit},
        {"fetch", do_fetch},   {"delete", do_delete},   {"forget", do_forget}, {"list", do_list},   {"describe", do_describe},
        {"drop", drop_topic},
    };
    Words w;
    split(&w, line);
    for (size_t i = 0; i < ARRAY_SIZE(commands); i++)
        if (strcmp(w.at[0], commands[i].word) == 0) {
            commands[i].run(lab, &w);
            return;
        }
    if (strcmp(w.at[0], "ack") == 0) {
        lab_ack(lab, w.n > 1 ? error_by_name(w.at[1]) : 0);
    } else if (strcmp(w.at[0], "time") == 0) {
        advance(lab, atoi(w.at[1]));
    } else if (strcmp(w.at[0], "suspend") == 0) {
        lab_step(lab, &(GroupEvent){.kind = GROUP_SUSPEND});
        lose_asks(lab);
    } else if (strcmp(w.at[0], "resume") == 0) {
        lab_step(lab, &(GroupEvent){.kind = GROUP_RESUME});
    } else if (strcmp(w.at[0], "expire") == 0) {
        lab_step(lab, &(GroupEvent){.kind = GROUP_EXPIRE});
    } else if (strcmp(w.at[0], "lose") == 0) {
        for_each_partition(lab, GROUP_LOST);
    } else if (strcmp(w.at[0], "loading") == 0) {
        lead(lab, false);
    } else if (strcmp(w.at[0], "loaded") == 0) {
        for_each_partition(lab, GROUP_LOADED);
    } else if (strcmp(w.at[0], "restart") == 0) {
        groups_free(lab->groups);
        lab->groups = new_groups(lab, 3);
        lose_asks(lab);
        lead(lab, true);
    } else {
        ck_abort_msg("unknown command: %s", line);
    }
}

/* The next line of the transcript, without blanks in front; false at the end. */
static bool next_line(const char **inout_at, char *out, size_t size)
{
    const char *p = *inout_at;
    while (*p == ' ' || *p == '\n')
        p++;
    if (!*p)
        return false;
    size_t len = strcspn(p, "\n");
    ck_assert_uint_lt(len, size);
    memcpy(out, p, len);
    out[len] = '\0';
    *inout_at = p + len;
    return true;
}

static void expect_output(Lab *lab, const Buf *expected, const char *command)
{
    buf_append(&lab->out, "", 1);
    ck_assert_msg(strcmp((char *)lab->out.data, expected->size ? (char *)expected->data : "") == 0, "after '%s'\nexpected:\n%sbut got:\n%s", command,
                  expected->size ? (char *)expected->data : "", (char *)lab->out.data);
    buf_clear(&lab->out);
}

void lab_run(Lab *lab, const char *transcript)
{
    char line[512], command[512] = "";
    Buf expected = BUF_NULL;
    while (next_line(&transcript, line, sizeof(line))) {
        if (line[0] != '>') {
            buf_printf(&expected, "%s\n", line);
            continue;
        }
        if (command[0])
            expect_output(lab, &expected, command);
        buf_clear(&expected);
        snprintf(command, sizeof(command), "%s", line + 2);
        lab_command(lab, command);
    }
    expect_output(lab, &expected, command);
    buf_deinit(&expected);
}
