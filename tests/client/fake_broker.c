#include "tests/client/fake_broker.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/fs.h"
#include "base/loop.h"
#include "shm/fab_server.h"
#include "wire/batch.h"
#include "wire/messages.h"
#include "wire/error.h"

#define TOPICS_MAX     16
#define PARTITIONS_MAX 16
#define MEMBERS_MAX    16
#define PRODUCERS_MAX  32
#define WINDOW         5
#define ANSWER_ROOM    8192

typedef struct Stored {
    uint8_t *data;
    size_t size;
    int64_t base, next;
} Stored;

typedef struct ProducerState {
    int64_t id;
    int16_t epoch;
    int32_t next_sequence;
    int32_t window_first[WINDOW], window_count[WINDOW];
    int64_t window_offset[WINDOW];
    int n_window; /* ever */
} ProducerState;

typedef struct Log {
    Stored *batches;
    int n;
    int64_t start, end, committed;
    ProducerState producers[PRODUCERS_MAX];
    int n_producers;
} Log;

typedef struct Topic {
    char name[64];
    int32_t partitions;
    Log logs[PARTITIONS_MAX];
} Topic;

typedef struct Sub {
    bool used, told_end;
    int topic;
    int32_t partition;
    uint32_t generation;
    int64_t offset;
} Sub;

typedef struct Session {
    FabSession *fab;
    Sub subs[TOPICS_MAX * PARTITIONS_MAX];
} Session;

typedef struct Member {
    bool used, joined; /* joined: its JoinGroup is parked */
    char id[64], instance[64];
    FabSession *fab;
    uint64_t tag;
    int16_t version;
    uint8_t metadata[4096]; /* of every protocol, as the request's own bytes */
    size_t metadata_size;
    char protocols[4][32];
    KBytes blobs[4];
    int n_protocols;
    uint64_t sync_tag;
    bool syncing;
    uint8_t assignment[4096];
    size_t assignment_size;
} Member;

struct FakeBroker {
    pthread_mutex_t lock;
    pthread_t thread;
    bool running;
    char dir[64], bootstrap[128];
    int listen_fd;
    Loop *loop;
    FabServer *server;
    uint64_t epoch;
    Session *sessions[64];
    Topic topics[TOPICS_MAX];
    int n_topics;
    int64_t next_producer_id;
    int16_t refuse_error;
    int refuse_n, duplicates, n_member_ids;
    bool hold_acks;
    double damage;
    int16_t lagging_api, lagging_version; /* see fake_lag(); -1 none */
    int leases, leases_held;
    Member members[MEMBERS_MAX];
    int generation;
    enum { EMPTY, PREPARING, COMPLETING, STABLE } state;
    char leader[64], protocol[32];
};

/* ---- logs ------------------------------------------------------------------------------------------------------------ */

static int find_topic(const FakeBroker *b, const char *name, size_t size)
{
    for (int i = 0; i < b->n_topics; i++)
        if (strlen(b->topics[i].name) == size && memcmp(b->topics[i].name, name, size) == 0)
            return i;
    return -1;
}

static void add_topic(FakeBroker *b, KStr name, int32_t partitions)
{
    Topic *t = &b->topics[b->n_topics++];
    snprintf(t->name, sizeof t->name, "%.*s", (int)name.len, name.ptr);
    t->partitions = partitions;
    for (int i = 0; i < PARTITIONS_MAX; i++)
        t->logs[i].committed = -1;
}

static Log *find_log(FakeBroker *b, const char *topic, int32_t partition)
{
    int t = find_topic(b, topic, strlen(topic));
    ck_assert_int_ge(t, 0);
    return &b->topics[t].logs[partition];
}

static ProducerState *producer_state(Log *log, int64_t id)
{
    for (int i = 0; i < log->n_producers; i++)
        if (log->producers[i].id == id)
            return &log->producers[i];
    ck_assert_int_lt(log->n_producers, PRODUCERS_MAX);
    ProducerState *p = &log->producers[log->n_producers++];
    *p = (ProducerState){.id = id, .epoch = -1};
    return p;
}

/* Kafka's rules (kafka-wire.md section 8). Return: error; *ret_offset of a duplicate, else -1. */
static int16_t check_sequence(Log *log, const BatchHeader *h, int64_t *ret_offset)
{
    *ret_offset = -1;
    if (h->producer_id < 0)
        return K_NONE;
    ProducerState *p = producer_state(log, h->producer_id);
    if (p->epoch == h->producer_epoch)
        for (int i = 0; i < MIN(p->n_window, WINDOW); i++)
            if (p->window_first[i] == h->base_sequence && p->window_count[i] == h->records_count) {
                *ret_offset = p->window_offset[i];
                return K_NONE;
            }
    if (p->epoch >= 0 && h->producer_epoch < p->epoch)
        return K_INVALID_PRODUCER_EPOCH;
    if (h->producer_epoch > p->epoch && p->epoch >= 0) {
        if (h->base_sequence != 0)
            return K_OUT_OF_ORDER_SEQUENCE_NUMBER;
        p->n_window = 0;
    } else if (p->epoch >= 0 && h->base_sequence != p->next_sequence) {
        return K_OUT_OF_ORDER_SEQUENCE_NUMBER;
    }
    p->epoch = h->producer_epoch;
    int at = p->n_window++ % WINDOW;
    p->window_first[at] = h->base_sequence;
    p->window_count[at] = h->records_count;
    p->window_offset[at] = log->end;
    p->next_sequence = (int32_t)(((uint32_t)h->base_sequence + (uint32_t)h->records_count) & 0x7fffffff);
    return K_NONE;
}

static int16_t append(FakeBroker *b, Log *log, const void *payload, size_t size, int64_t *ret_offset, bool *ret_duplicate)
{
    BatchHeader h;
    BatchCheck check;
    BatchRules rules = {.from_client = true, .now_ms = INT64_MAX / 2, .before_max_ms = INT64_MAX, .after_max_ms = INT64_MAX};
    uint8_t *copy = malloc(size);

    memcpy(copy, payload, size);
    int16_t e = K_CORRUPT_MESSAGE;
    if (batch_header_decode(copy, size, &h) == 0 && batch_total_size(&h) == size && batch_crc_is_valid(copy, &h))
        e = batch_check_header(&h, size, &rules, &check);
    int64_t duplicate = -1;
    if (e == K_NONE)
        e = check_sequence(log, &h, &duplicate);
    *ret_duplicate = e == K_NONE && duplicate >= 0;
    *ret_offset = *ret_duplicate ? duplicate : log->end;
    if (e != K_NONE || *ret_duplicate) {
        b->duplicates += *ret_duplicate;
        free(copy);
        return e;
    }
    batch_set_base_offset(copy, log->end);
    batch_set_leader_epoch(copy, 3);
    log->batches = realloc(log->batches, (size_t)(log->n + 1) * sizeof(Stored));
    log->batches[log->n++] = (Stored){copy, size, log->end, log->end + h.records_count};
    log->end += h.records_count;
    return K_NONE;
}

/* ---- delivery -------------------------------------------------------------------------------------------------------- */

static FabFrame frame_of(FakeBroker *b, const Sub *s, uint16_t type)
{
    Log *log = &b->topics[s->topic].logs[s->partition];
    return (FabFrame){.type = type, .handle = (uint32_t)s->topic, .partition = s->partition, .generation = s->generation,
                      .next_offset = s->offset, .high_watermark = log->end, .log_start = log->start, .leader_epoch = 3};
}

static bool deliver_one(FakeBroker *b, Session *s, Sub *sub)
{
    Log *log = &b->topics[sub->topic].logs[sub->partition];
    if (sub->offset < log->start || sub->offset > log->end) {
        FabFrame f = frame_of(b, sub, FAB_FRAME_ERROR);
        f.kafka_error = K_OFFSET_OUT_OF_RANGE;
        fab_session_send(s->fab, &f, NULL);
        sub->used = false;
        return false;
    }
    for (int i = 0; i < log->n; i++) {
        Stored *batch = &log->batches[i];
        if (batch->next <= sub->offset)
            continue;
        FabFrame f = frame_of(b, sub, FAB_FRAME_BATCHES);
        f.size = (uint32_t)batch->size;
        f.next_offset = batch->next;
        if (batch->size + ANSWER_ROOM > fab_session_frame_max(s->fab)) {
            fab_session_send(s->fab, &f, batch->data);
        } else {
            uint8_t *at = fab_session_reserve(s->fab, batch->size + ANSWER_ROOM);
            if (!at)
                return false;
            memcpy(at, batch->data, batch->size);
            fab_session_commit(s->fab, &f);
        }
        sub->offset = batch->next;
        sub->told_end = false;
        return true;
    }
    if (!sub->told_end) {
        FabFrame f = frame_of(b, sub, FAB_FRAME_POSITION);
        f.aux = 1;
        fab_session_send(s->fab, &f, NULL);
        sub->told_end = true;
    }
    return false;
}

static void deliver(FakeBroker *b, Session *s)
{
    for (size_t i = 0; i < ARRAY_SIZE(s->subs); i++)
        while (s->subs[i].used && deliver_one(b, s, &s->subs[i]))
            ;
}

static void deliver_all(FakeBroker *b)
{
    for (size_t i = 0; i < ARRAY_SIZE(b->sessions); i++)
        if (b->sessions[i])
            deliver(b, b->sessions[i]);
}

/* ---- groups ---------------------------------------------------------------------------------------------------------- */

static void respond(FabSession *fab, uint64_t tag, const KMessage *m, int16_t version, const void *message)
{
    Buf out = BUF_NULL;
    ck_assert_int_eq(k_encode(m, version, message, &out), 0);
    FabFrame f = {.type = FAB_FRAME_RESPONSE, .tag = tag, .size = (uint32_t)out.size};
    fab_session_send(fab, &f, out.data);
    buf_deinit(&out);
}

static void notify_rebalance(FakeBroker *b)
{
    for (int i = 0; i < MEMBERS_MAX; i++) {
        Member *m = &b->members[i];
        if (!m->used || m->joined || !m->fab)
            continue;
        KGroupEvent e = {.kind = 0, .group_id = k_str("g"), .member_id = k_str(m->id), .generation_id = b->generation};
        Buf out = BUF_NULL;
        k_encode(&k_group_event, 0, &e, &out);
        FabFrame f = {.type = FAB_FRAME_NOTIFY, .inner_type = 102, .size = (uint32_t)out.size};
        fab_session_send(m->fab, &f, out.data);
        buf_deinit(&out);
    }
}

static const KBytes *blob_of(const Member *m, const char *protocol)
{
    for (int i = 0; i < m->n_protocols; i++)
        if (strcmp(m->protocols[i], protocol) == 0)
            return &m->blobs[i];
    return NULL;
}

static void choose_protocol(FakeBroker *b)
{
    Member *first = NULL;
    for (int i = 0; i < MEMBERS_MAX && !first; i++)
        if (b->members[i].used)
            first = &b->members[i];
    ck_assert_ptr_nonnull(first);
    for (int p = 0; first && p < first->n_protocols; p++) {
        bool all = true;
        for (int i = 0; i < MEMBERS_MAX; i++)
            all &= !b->members[i].used || blob_of(&b->members[i], first->protocols[p]);
        if (all) {
            snprintf(b->protocol, sizeof b->protocol, "%s", first->protocols[p]);
            return;
        }
    }
    ck_abort_msg("no common protocol");
}

static void complete_join(FakeBroker *b)
{
    KJoinGroupResponseMembers list[MEMBERS_MAX];
    int n = 0;

    for (int i = 0; i < MEMBERS_MAX; i++)
        if (b->members[i].used && !b->members[i].joined)
            return;
    b->generation++;
    b->state = COMPLETING;
    choose_protocol(b);
    b->leader[0] = '\0';
    for (int i = 0; i < MEMBERS_MAX; i++) {
        Member *m = &b->members[i];
        if (!m->used)
            continue;
        if (!b->leader[0])
            snprintf(b->leader, sizeof b->leader, "%s", m->id);
        const KBytes *blob = blob_of(m, b->protocol);
        list[n++] = (KJoinGroupResponseMembers){k_str(m->id), m->instance[0] ? k_str(m->instance) : K_STR_NULL,
                                                blob ? *blob : K_BYTES_NULL};
    }
    for (int i = 0; i < MEMBERS_MAX; i++) {
        Member *m = &b->members[i];
        if (!m->used)
            continue;
        KJoinGroupResponse a = {.generation_id = b->generation, .protocol_type = k_str("consumer"),
                                .protocol_name = k_str(b->protocol), .leader = k_str(b->leader), .member_id = k_str(m->id)};
        if (strcmp(m->id, b->leader) == 0) {
            a.members.items = list;
            a.members.n = n;
        }
        m->joined = false;
        m->assignment_size = 0;
        respond(m->fab, m->tag, &k_join_group_response, m->version, &a);
    }
}

static Member *member_by_id(FakeBroker *b, KStr id)
{
    for (int i = 0; i < MEMBERS_MAX; i++)
        if (b->members[i].used && k_str_equal(id, b->members[i].id))
            return &b->members[i];
    return NULL;
}

static void refuse_join(FabSession *fab, uint64_t tag, int16_t version, int16_t e, const char *id)
{
    KJoinGroupResponse a = {.error_code = e, .generation_id = -1, .protocol_type = K_STR_NULL, .protocol_name = k_str(""),
                            .leader = k_str(""), .member_id = k_str(id)};
    respond(fab, tag, &k_join_group_response, version, &a);
}

static void join_group(FakeBroker *b, FabSession *fab, uint64_t tag, int16_t version, const KJoinGroupRequest *q)
{
    Member *m = member_by_id(b, q->member_id);
    bool is_static = q->group_instance_id.len > 0;

    for (int i = 0; is_static && !m && i < MEMBERS_MAX; i++)
        if (b->members[i].used && k_str_equal(q->group_instance_id, b->members[i].instance))
            m = &b->members[i];
    if (!m && q->member_id.len > 0 && strncmp(q->member_id.ptr, "m-", 2) != 0) {
        refuse_join(fab, tag, version, K_UNKNOWN_MEMBER_ID, "");
        return;
    }
    if (!m && q->member_id.len == 0 && !is_static) {
        char id[64];
        snprintf(id, sizeof id, "m-%d", ++b->n_member_ids);
        refuse_join(fab, tag, version, K_MEMBER_ID_REQUIRED, id);
        return;
    }
    if (!m) {
        for (int i = 0; i < MEMBERS_MAX && !m; i++)
            if (!b->members[i].used)
                m = &b->members[i];
        ck_assert_ptr_nonnull(m);
        if (!m)
            return;
        *m = (Member){.used = true};
        if (is_static)
            snprintf(m->id, sizeof m->id, "%.*s-%d", (int)q->group_instance_id.len, q->group_instance_id.ptr, ++b->n_member_ids);
        else
            snprintf(m->id, sizeof m->id, "%.*s", (int)q->member_id.len, q->member_id.ptr);
    }
    snprintf(m->instance, sizeof m->instance, "%.*s", (int)MAX(q->group_instance_id.len, 0), is_static ? q->group_instance_id.ptr : "");
    m->fab = fab;
    m->tag = tag;
    m->version = version;
    m->joined = true;
    m->syncing = false;
    m->n_protocols = 0;
    m->metadata_size = 0;
    for (int32_t i = 0; i < q->protocols.n && i < 4; i++) {
        KBytes blob = q->protocols.items[i].metadata;
        ck_assert_uint_le(m->metadata_size + (size_t)blob.len, sizeof m->metadata);
        memcpy(m->metadata + m->metadata_size, blob.ptr, (size_t)blob.len);
        m->blobs[i] = (KBytes){m->metadata + m->metadata_size, blob.len};
        m->metadata_size += (size_t)blob.len;
        snprintf(m->protocols[i], sizeof m->protocols[i], "%.*s", (int)q->protocols.items[i].name.len, q->protocols.items[i].name.ptr);
        m->n_protocols++;
    }
    if (b->state == STABLE || b->state == EMPTY || b->state == COMPLETING) {
        b->state = PREPARING;
        notify_rebalance(b);
    }
    complete_join(b);
}

static void sync_group(FakeBroker *b, FabSession *fab, uint64_t tag, int16_t version, const KSyncGroupRequest *q)
{
    Member *m = member_by_id(b, q->member_id);
    KSyncGroupResponse a = {.protocol_type = K_STR_NULL, .protocol_name = K_STR_NULL, .assignment = {"", 0}};
    if (!m || q->generation_id != b->generation || b->state == PREPARING) {
        a.error_code = !m ? K_UNKNOWN_MEMBER_ID : q->generation_id != b->generation ? K_ILLEGAL_GENERATION : K_REBALANCE_IN_PROGRESS;
        respond(fab, tag, &k_sync_group_response, version, &a);
        return;
    }
    m->syncing = true;
    m->sync_tag = tag;
    m->version = version;
    if (strcmp(m->id, b->leader) == 0) {
        b->state = STABLE;
        for (int32_t i = 0; i < q->assignments.n; i++) {
            Member *to = member_by_id(b, q->assignments.items[i].member_id);
            ck_assert_ptr_nonnull(to);
            to->assignment_size = (size_t)q->assignments.items[i].assignment.len;
            ck_assert_uint_le(to->assignment_size, sizeof to->assignment);
            memcpy(to->assignment, q->assignments.items[i].assignment.ptr, to->assignment_size);
        }
    }
    for (int i = 0; b->state == STABLE && i < MEMBERS_MAX; i++) {
        Member *to = &b->members[i];
        if (!to->used || !to->syncing)
            continue;
        to->syncing = false;
        a.assignment = (KBytes){to->assignment, (int32_t)to->assignment_size};
        respond(to->fab, to->sync_tag, &k_sync_group_response, to->version, &a);
    }
}

static void member_gone(FakeBroker *b, Member *m)
{
    m->used = false;
    bool any = false;
    for (int i = 0; i < MEMBERS_MAX; i++)
        any |= b->members[i].used;
    b->state = any ? PREPARING : EMPTY;
    if (any) {
        notify_rebalance(b);
        complete_join(b);
    }
}

static int16_t check_member(FakeBroker *b, KStr id, int32_t generation)
{
    if (generation < 0)
        return K_NONE;
    if (!member_by_id(b, id))
        return K_UNKNOWN_MEMBER_ID;
    return generation != b->generation ? K_ILLEGAL_GENERATION : b->state == COMPLETING ? K_REBALANCE_IN_PROGRESS : K_NONE;
}

/* ---- requests -------------------------------------------------------------------------------------------------------- */

static void metadata(FakeBroker *b, FabSession *fab, uint64_t tag, int16_t version, const KMetadataRequest *q)
{
    KMetadataResponse a = {.cluster_id = k_str("fake"), .controller_id = 1};
    KMetadataResponseTopics topics[TOPICS_MAX] = {0};
    static KMetadataResponseTopicsPartitions partitions[PARTITIONS_MAX];
    for (int i = 0; i < PARTITIONS_MAX; i++)
        partitions[i].partition_index = i;
    a.topics.items = topics;
    a.topics.n = MIN(q->topics.n, TOPICS_MAX);
    for (int32_t i = 0; i < a.topics.n; i++) {
        int t = find_topic(b, q->topics.items[i].name.ptr, (size_t)q->topics.items[i].name.len);
        topics[i].name = q->topics.items[i].name;
        if (t < 0 && q->allow_auto_topic_creation && topics[i].name.len > 5 && memcmp(topics[i].name.ptr, "auto-", 5) == 0) {
            add_topic(b, topics[i].name, 1);
            topics[i].error_code = K_LEADER_NOT_AVAILABLE; /* as Kafka answers the request that creates */
            continue;
        }
        topics[i].error_code = t < 0 ? K_UNKNOWN_TOPIC_OR_PARTITION : K_NONE;
        topics[i].partitions.items = partitions;
        topics[i].partitions.n = t < 0 ? 0 : b->topics[t].partitions;
    }
    respond(fab, tag, &k_metadata_response, version, &a);
}

static void list_offsets(FakeBroker *b, FabSession *fab, uint64_t tag, int16_t version, const KListOffsetsRequest *q, Arena *arena)
{
    KListOffsetsResponse a = {0};
    a.topics.n = q->topics.n;
    a.topics.items = arena_alloc(arena, (size_t)q->topics.n * sizeof *a.topics.items + 1);
    for (int32_t i = 0; i < q->topics.n; i++) {
        for (int32_t k = 0; k < i; k++)
            ck_assert(!k_str_same(q->topics.items[k].name, q->topics.items[i].name));
        int t = find_topic(b, q->topics.items[i].name.ptr, (size_t)q->topics.items[i].name.len);
        a.topics.items[i].name = q->topics.items[i].name;
        int32_t n = a.topics.items[i].partitions.n = q->topics.items[i].partitions.n;
        a.topics.items[i].partitions.items = arena_alloc(arena, (size_t)n * sizeof *a.topics.items[i].partitions.items + 1);
        for (int32_t j = 0; j < n; j++) {
            KListOffsetsRequestTopicsPartitions *p = &q->topics.items[i].partitions.items[j];
            KListOffsetsResponseTopicsPartitions *r = &a.topics.items[i].partitions.items[j];
            *r = (KListOffsetsResponseTopicsPartitions){.partition_index = p->partition_index, .timestamp = -1, .offset = -1};
            for (int32_t k = 0; k < j; k++) /* as Kafka does */
                if (q->topics.items[i].partitions.items[k].partition_index == p->partition_index)
                    r->error_code = K_INVALID_REQUEST;
            if (r->error_code)
                continue;
            if (t < 0 || p->partition_index >= b->topics[t].partitions)
                r->error_code = K_UNKNOWN_TOPIC_OR_PARTITION;
            else
                r->offset = p->timestamp == -2 ? b->topics[t].logs[p->partition_index].start : b->topics[t].logs[p->partition_index].end;
        }
    }
    respond(fab, tag, &k_list_offsets_response, version, &a);
}

static void offset_commit(FakeBroker *b, FabSession *fab, uint64_t tag, int16_t version, const KOffsetCommitRequest *q, Arena *arena)
{
    KOffsetCommitResponse a = {0};
    int16_t e = check_member(b, q->member_id, q->generation_id_or_member_epoch);
    a.topics.n = q->topics.n;
    a.topics.items = arena_alloc(arena, (size_t)q->topics.n * sizeof *a.topics.items + 1);
    for (int32_t i = 0; i < q->topics.n; i++) {
        int t = find_topic(b, q->topics.items[i].name.ptr, (size_t)q->topics.items[i].name.len);
        int32_t n = q->topics.items[i].partitions.n;
        a.topics.items[i].name = q->topics.items[i].name;
        a.topics.items[i].partitions.n = n;
        a.topics.items[i].partitions.items = arena_alloc(arena, (size_t)n * sizeof *a.topics.items[i].partitions.items + 1);
        for (int32_t j = 0; j < n; j++) {
            KOffsetCommitRequestTopicsPartitions *p = &q->topics.items[i].partitions.items[j];
            a.topics.items[i].partitions.items[j].partition_index = p->partition_index;
            a.topics.items[i].partitions.items[j].error_code = e;
            if (e == K_NONE && t >= 0)
                b->topics[t].logs[p->partition_index].committed = p->committed_offset;
        }
    }
    respond(fab, tag, &k_offset_commit_response, version, &a);
}

static void offset_fetch(FakeBroker *b, FabSession *fab, uint64_t tag, int16_t version, const KOffsetFetchRequest *q, Arena *arena)
{
    KOffsetFetchResponse a = {0};
    a.topics.n = q->topics.n;
    a.topics.items = arena_alloc(arena, (size_t)q->topics.n * sizeof *a.topics.items + 1);
    for (int32_t i = 0; i < q->topics.n; i++) {
        int t = find_topic(b, q->topics.items[i].name.ptr, (size_t)q->topics.items[i].name.len);
        int32_t n = q->topics.items[i].partition_indexes.n;
        a.topics.items[i].name = q->topics.items[i].name;
        a.topics.items[i].partitions.n = n;
        a.topics.items[i].partitions.items = arena_alloc(arena, (size_t)n * sizeof *a.topics.items[i].partitions.items + 1);
        for (int32_t j = 0; j < n; j++) {
            int32_t p = q->topics.items[i].partition_indexes.items[j];
            a.topics.items[i].partitions.items[j] = (KOffsetFetchResponseTopicsPartitions){
                .partition_index = p, .committed_offset = t < 0 ? -1 : b->topics[t].logs[p].committed, .committed_leader_epoch = -1,
                .metadata = k_str("")};
        }
    }
    respond(fab, tag, &k_offset_fetch_response, version, &a);
}

static void create_topics(FakeBroker *b, FabSession *fab, uint64_t tag, int16_t version, const KCreateTopicsRequest *q)
{
    KCreateTopicsResponse a = {0};
    KCreateTopicsResponseTopics t = {.name = q->topics.items[0].name, .error_message = K_STR_NULL, .num_partitions = -1};
    if (find_topic(b, t.name.ptr, (size_t)t.name.len) >= 0) {
        t.error_code = K_TOPIC_ALREADY_EXISTS;
        t.error_message = k_str("there is one already");
    } else {
        add_topic(b, t.name, MAX(q->topics.items[0].num_partitions, 1));
    }
    a.topics.items = &t;
    a.topics.n = 1;
    respond(fab, tag, &k_create_topics_response, version, &a);
}

static void leave_group(FakeBroker *b, FabSession *fab, uint64_t tag, int16_t version, const KLeaveGroupRequest *q)
{
    KLeaveGroupResponse a = {0};
    Member *m = q->members.n > 0 ? member_by_id(b, q->members.items[0].member_id) : NULL;
    respond(fab, tag, &k_leave_group_response, version, &a);
    if (m)
        member_gone(b, m);
}

static void api_versions(FakeBroker *b, FabSession *fab, uint64_t tag, int16_t version, Arena *arena)
{
    KApiVersionsResponse a = {0};
    const KApi *api;
    for (size_t i = 0; (api = k_api_at(i)) != NULL; i++)
        a.api_keys.n++;
    a.api_keys.items = arena_alloc(arena, (size_t)a.api_keys.n * sizeof *a.api_keys.items);
    for (int32_t i = 0; i < a.api_keys.n; i++) {
        api = k_api_at((size_t)i);
        a.api_keys.items[i] = (KApiVersionsResponseApiKeys){
            api->key, api->version_min, api->key == b->lagging_api ? b->lagging_version : api->version_max};
    }
    respond(fab, tag, &k_api_versions_response, version, &a);
}

static int on_request(FakeBroker *b, FabSession *fab, const FabSqe *sqe, const void *payload)
{
    KRequestHeader h;
    size_t at;
    Arena arena = ARENA_NULL;
    ck_assert_int_eq(k_request_header_decode(payload, sqe->len, &h, &at), 0);
    const KMessage *m = k_api_find(h.api_key)->request;
    void *q = arena_alloc(&arena, k_message_struct_size(m));
    ck_assert_int_eq(k_decode(m, h.api_version, (const uint8_t *)payload + at, sqe->len - at, &arena, q), 0);
    uint64_t tag = sqe->user_data;
    int16_t v = h.api_version;
    if (getenv("FAKE_TRACE"))
        fprintf(stderr, "# session %llu: %s v%d\n", (unsigned long long)fab_session_id(fab), k_api_find(h.api_key)->name, v);
    switch (h.api_key) {
    case K_API_API_VERSIONS:
        api_versions(b, fab, tag, v, &arena);
        break;
    case K_API_METADATA:
        metadata(b, fab, tag, v, q);
        break;
    case K_API_LIST_OFFSETS:
        list_offsets(b, fab, tag, v, q, &arena);
        break;
    case K_API_OFFSET_COMMIT:
        offset_commit(b, fab, tag, v, q, &arena);
        break;
    case K_API_OFFSET_FETCH:
        offset_fetch(b, fab, tag, v, q, &arena);
        break;
    case K_API_JOIN_GROUP:
        join_group(b, fab, tag, v, q);
        break;
    case K_API_SYNC_GROUP:
        sync_group(b, fab, tag, v, q);
        break;
    case K_API_LEAVE_GROUP:
        leave_group(b, fab, tag, v, q);
        break;
    case K_API_CREATE_TOPICS:
        create_topics(b, fab, tag, v, q);
        break;
    case K_API_INIT_PRODUCER_ID: {
        KInitProducerIdResponse a = {.producer_id = ++b->next_producer_id};
        respond(fab, tag, &k_init_producer_id_response, v, &a);
        break;
    }
    default:
        ck_abort_msg("request %d", h.api_key);
    }
    arena_deinit(&arena);
    return 0;
}

/* ---- the server ------------------------------------------------------------------------------------------------------ */

static int authorize(void *userdata, const PeerCred *peer, const FabHello *hello, char *why, size_t why_size)
{
    (void)userdata, (void)peer, (void)hello, (void)why, (void)why_size;
    return 0;
}

static void opened(void *userdata, FabSession *fab)
{
    FakeBroker *b = userdata;
    pthread_mutex_lock(&b->lock);
    Session *s = calloc(1, sizeof *s);
    s->fab = fab;
    fab_session_set_userdata(fab, s);
    for (size_t i = 0; i < ARRAY_SIZE(b->sessions); i++)
        if (!b->sessions[i]) {
            b->sessions[i] = s;
            break;
        }
    pthread_mutex_unlock(&b->lock);
}

static void closed(void *userdata, FabSession *fab, const char *why)
{
    FakeBroker *b = userdata;
    (void)why;
    pthread_mutex_lock(&b->lock);
    for (size_t i = 0; i < ARRAY_SIZE(b->sessions); i++)
        if (b->sessions[i] == fab_session_userdata(fab))
            b->sessions[i] = NULL;
    for (int i = 0; i < MEMBERS_MAX; i++)
        if (b->members[i].fab == fab) {
            b->members[i].fab = NULL;
            b->members[i].joined = b->members[i].syncing = false;
        }
    free(fab_session_userdata(fab));
    pthread_mutex_unlock(&b->lock);
}

static void done(FabSession *fab, const FabSqe *sqe, int16_t e, int64_t value, int32_t partitions)
{
    FabCqe cqe = {.user_data = sqe->user_data, .kind = FAB_CQE_DONE, .kafka_error = e, .base_offset = value, .partitions = partitions};
    fab_session_complete(fab, &cqe);
}

static void on_produce(FakeBroker *b, FabSession *fab, const FabSqe *sqe, const void *payload)
{
    FabCqe cqe = {.user_data = sqe->user_data, .kind = FAB_CQE_CONSUMED, .base_offset = -1, .log_append_ms = -1};
    int64_t offset = -1;
    bool duplicate = false;
    int16_t e = K_UNKNOWN_TOPIC_OR_PARTITION;
    if (b->refuse_n > 0) {
        b->refuse_n--;
        e = b->refuse_error;
    } else if (sqe->handle < (uint32_t)b->n_topics && sqe->partition < b->topics[sqe->handle].partitions) {
        e = append(b, &b->topics[sqe->handle].logs[sqe->partition], payload, sqe->len, &offset, &duplicate);
    }
    fab_session_complete(fab, &cqe);
    if (sqe->acks == 0 || b->hold_acks)
        return;
    cqe.kind = FAB_CQE_ACKED;
    cqe.kafka_error = e;
    cqe.base_offset = e ? -1 : offset;
    cqe.flags = duplicate ? FAB_CQE_DUPLICATE : 0;
    fab_session_complete(fab, &cqe);
}

static void on_subscribe(FakeBroker *b, FabSession *fab, const FabSqe *sqe, const void *payload)
{
    Session *s = fab_session_userdata(fab);
    FabSubscribe want;
    memcpy(&want, payload, sizeof want);
    ck_assert_uint_lt(sqe->handle, (uint32_t)b->n_topics);
    Sub *sub = &s->subs[sqe->handle * PARTITIONS_MAX + (uint32_t)sqe->partition];
    *sub = (Sub){.used = true, .topic = (int)sqe->handle, .partition = sqe->partition, .generation = want.generation, .offset = want.offset};
    done(fab, sqe, K_NONE, -1, 0);
    deliver(b, s);
}

/* All batches but the last, as if they were a closed segment, behind some bytes that belong to nobody. */
static void on_lease(FakeBroker *b, FabSession *fab, const FabSqe *sqe, const void *payload)
{
    FabFrame f = {.type = FAB_FRAME_LEASE, .tag = sqe->user_data, .handle = sqe->handle, .partition = sqe->partition};
    Log *log = &b->topics[sqe->handle].logs[sqe->partition];
    int64_t offset, range[3] = {100, 100, 0};
    memcpy(&offset, payload, sizeof offset);
    f.high_watermark = log->end;
    if (log->n < 2 || offset >= log->batches[log->n - 2].next) {
        f.kafka_error = K_OFFSET_NOT_AVAILABLE;
        fab_session_send(fab, &f, NULL);
        return;
    }
    int fd = memfd_create("segment", MFD_CLOEXEC);
    for (int i = 0; i + 1 < log->n; i++) {
        if (log->batches[i].next <= offset)
            continue;
        ck_assert_int_eq(fs_pwrite_all(fd, log->batches[i].data, log->batches[i].size, range[1]), 0);
        range[1] += (int64_t)log->batches[i].size;
        f.next_offset = log->batches[i].next;
    }
    if (b->damage >= 0) {
        uint8_t byte;
        size_t got;
        int64_t at = range[0] + (int64_t)((double)(range[1] - range[0] - 1) * b->damage);
        fs_pread_all(fd, &byte, 1, at, &got);
        byte ^= 0x20;
        fs_pwrite_all(fd, &byte, 1, at);
    }
    b->leases++;
    b->leases_held++;
    f.size = sizeof range;
    fab_session_send_fds(fab, &f, range, &fd, 1);
    close(fd);
}

static int on_sqe(void *userdata, FabSession *fab, const FabSqe *sqe, const void *payload)
{
    FakeBroker *b = userdata;
    pthread_mutex_lock(&b->lock);
    switch (sqe->op) {
    case FAB_OP_OPEN: {
        int t = find_topic(b, payload, sqe->len);
        done(fab, sqe, t < 0 ? K_UNKNOWN_TOPIC_OR_PARTITION : K_NONE, t, t < 0 ? 0 : b->topics[t].partitions);
        break;
    }
    case FAB_OP_PRODUCE:
        on_produce(b, fab, sqe, payload);
        deliver_all(b);
        break;
    case FAB_OP_SUBSCRIBE:
        on_subscribe(b, fab, sqe, payload);
        break;
    case FAB_OP_UNSUBSCRIBE: {
        Session *s = fab_session_userdata(fab);
        s->subs[sqe->handle * PARTITIONS_MAX + (uint32_t)sqe->partition].used = false;
        done(fab, sqe, K_NONE, -1, 0);
        break;
    }
    case FAB_OP_REQUEST:
        on_request(b, fab, sqe, payload);
        break;
    case FAB_OP_LEASE:
        on_lease(b, fab, sqe, payload);
        break;
    case FAB_OP_LEASE_RELEASE:
        b->leases_held--;
        done(fab, sqe, K_NONE, -1, 0);
        break;
    default:
        ck_abort_msg("op %d", sqe->op);
    }
    pthread_mutex_unlock(&b->lock);
    return 0;
}

static void on_space(void *userdata, FabSession *fab)
{
    FakeBroker *b = userdata;
    pthread_mutex_lock(&b->lock);
    deliver(b, fab_session_userdata(fab));
    pthread_mutex_unlock(&b->lock);
}

static void *serve(void *userdata)
{
    FakeBroker *b = userdata;
    loop_run(b->loop);
    fab_server_free(b->server);
    b->server = NULL;
    return NULL;
}

static void quit(void *userdata)
{
    loop_quit(((FakeBroker *)userdata)->loop, 0);
}

void fake_start(FakeBroker *b)
{
    static const FabServerOps ops = {.authorize = authorize, .opened = opened, .closed = closed, .on_sqe = on_sqe, .on_space = on_space};
    FabServerOptions o = {.listen_fd = b->listen_fd, .broker_epoch = ++b->epoch, .node_id = 1, .memory_max = 256 << 20,
                          .sessions_max = 64, .message_max_bytes = 8 << 20};
    ck_assert(!b->running);
    ck_assert_int_eq(loop_new(&b->loop), 0);
    ck_assert_int_eq(fab_server_new(b->loop, &o, &ops, b, &b->server), 0);
    ck_assert_int_eq(pthread_create(&b->thread, NULL, serve, b), 0);
    b->running = true;
}

void fake_kill(FakeBroker *b)
{
    ck_assert(b->running);
    loop_post(b->loop, quit, b);
    pthread_join(b->thread, NULL);
    b->loop = loop_free(b->loop);
    b->running = false;
}

FakeBroker *fake_new(void)
{
    FakeBroker *b = calloc(1, sizeof *b);
    char path[96];
    ck_assert_ptr_nonnull(b);
    pthread_mutex_init(&b->lock, NULL);
    strcpy(b->dir, "/tmp/leat-fake-XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(b->dir));
    snprintf(path, sizeof path, "%s/client.sock", b->dir);
    snprintf(b->bootstrap, sizeof b->bootstrap, "unix:%s", path);
    b->listen_fd = sock_listen_unix(path, SOCK_SEQPACKET, 0600, 16);
    ck_assert_int_ge(b->listen_fd, 0);
    b->next_producer_id = 4000;
    b->damage = -1;
    b->lagging_api = -1;
    fake_start(b);
    return b;
}

void fake_free(FakeBroker *b)
{
    if (b->running)
        fake_kill(b);
    close(b->listen_fd);
    fs_remove_tree(b->dir);
    for (int t = 0; t < b->n_topics; t++)
        for (int p = 0; p < PARTITIONS_MAX; p++) {
            for (int i = 0; i < b->topics[t].logs[p].n; i++)
                free(b->topics[t].logs[p].batches[i].data);
            free(b->topics[t].logs[p].batches);
        }
    free(b);
}

/* ---- what tests do with it ------------------------------------------------------------------------------------------- */

const char *fake_bootstrap(const FakeBroker *b)
{
    return b->bootstrap;
}

void fake_add_topic(FakeBroker *b, const char *name, int32_t partitions)
{
    pthread_mutex_lock(&b->lock);
    add_topic(b, k_str(name), partitions);
    pthread_mutex_unlock(&b->lock);
}

void fake_grow_topic(FakeBroker *b, const char *name, int32_t partitions)
{
    pthread_mutex_lock(&b->lock);
    b->topics[find_topic(b, name, strlen(name))].partitions = partitions;
    pthread_mutex_unlock(&b->lock);
}

void fake_refuse(FakeBroker *b, int16_t kafka_error, int n)
{
    pthread_mutex_lock(&b->lock);
    b->refuse_error = kafka_error;
    b->refuse_n = n;
    pthread_mutex_unlock(&b->lock);
}

void fake_lag(FakeBroker *b, int16_t api_key, int16_t version)
{
    pthread_mutex_lock(&b->lock);
    b->lagging_api = api_key;
    b->lagging_version = version;
    pthread_mutex_unlock(&b->lock);
}

void fake_hold_acks(FakeBroker *b, bool hold)
{
    pthread_mutex_lock(&b->lock);
    b->hold_acks = hold;
    pthread_mutex_unlock(&b->lock);
}

void fake_evict_member(FakeBroker *b, const char *member_id)
{
    pthread_mutex_lock(&b->lock);
    for (int i = 0; i < MEMBERS_MAX; i++)
        if (b->members[i].used && (!member_id || strcmp(b->members[i].id, member_id) == 0))
            b->members[i].used = false;
    b->state = EMPTY;
    pthread_mutex_unlock(&b->lock);
}

void fake_trim(FakeBroker *b, const char *topic, int32_t partition, int64_t start)
{
    pthread_mutex_lock(&b->lock);
    find_log(b, topic, partition)->start = start;
    pthread_mutex_unlock(&b->lock);
}

void fake_damage_leases(FakeBroker *b, double where)
{
    pthread_mutex_lock(&b->lock);
    b->damage = where;
    pthread_mutex_unlock(&b->lock);
}

#define GETTER(type, name, args, value)                                                            \
    type name args                                                                                 \
    {                                                                                              \
        pthread_mutex_lock(&b->lock);                                                              \
        type result = value;                                                                       \
        pthread_mutex_unlock(&b->lock);                                                            \
        return result;                                                                             \
    }
GETTER(int64_t, fake_end_offset, (FakeBroker * b, const char *topic, int32_t partition), find_log(b, topic, partition)->end)
GETTER(int, fake_batches, (FakeBroker * b, const char *topic, int32_t partition), find_log(b, topic, partition)->n)
GETTER(int64_t, fake_committed, (FakeBroker * b, const char *topic, int32_t partition), find_log(b, topic, partition)->committed)
GETTER(int, fake_duplicates, (FakeBroker * b), b->duplicates)
GETTER(int, fake_leases, (FakeBroker * b), b->leases)
GETTER(int, fake_leases_held, (FakeBroker * b), b->leases_held)
GETTER(int, fake_generation, (FakeBroker * b), b->generation)

int fake_sessions(FakeBroker *b)
{
    int n = 0;
    pthread_mutex_lock(&b->lock);
    for (size_t i = 0; i < ARRAY_SIZE(b->sessions); i++)
        n += b->sessions[i] != NULL;
    pthread_mutex_unlock(&b->lock);
    return n;
}

int fake_codec(FakeBroker *b, const char *topic, int32_t partition)
{
    BatchHeader h = {0};
    pthread_mutex_lock(&b->lock);
    Log *log = find_log(b, topic, partition);
    if (log->n > 0)
        batch_header_decode(log->batches[log->n - 1].data, log->batches[log->n - 1].size, &h);
    pthread_mutex_unlock(&b->lock);
    return h.attributes & BATCH_ATTR_CODEC_MASK;
}

const char *fake_value(FakeBroker *b, const char *topic, int32_t partition, int64_t offset)
{
    static char value[256];
    value[0] = '\0';
    pthread_mutex_lock(&b->lock);
    Log *log = find_log(b, topic, partition);
    for (int i = 0; i < log->n; i++) {
        if (log->batches[i].base > offset || log->batches[i].next <= offset)
            continue;
        BatchHeader h;
        BatchIter it;
        Record r;
        batch_header_decode(log->batches[i].data, log->batches[i].size, &h);
        batch_iter_init(&it, &h, log->batches[i].data + BATCH_HEADER_SIZE, log->batches[i].size - BATCH_HEADER_SIZE);
        while (batch_iter_next(&it, &r) > 0)
            if (r.offset == offset)
                snprintf(value, sizeof value, "%.*s", (int)r.value_size, (const char *)r.value);
    }
    pthread_mutex_unlock(&b->lock);
    return value;
}

leat_conf *fake_conf(const FakeBroker *b, const char *const *extra)
{
    leat_conf *conf = leat_conf_new();
    ck_assert_ptr_nonnull(conf);
    ck_assert_int_eq(leat_conf_set(conf, "bootstrap.servers", b->bootstrap), 0);
    for (size_t i = 0; extra && extra[i]; i += 2)
        ck_assert_int_eq(leat_conf_set(conf, extra[i], extra[i + 1]), 0);
    return conf;
}
