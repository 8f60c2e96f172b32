/*
 * Topics as one client sees them: a name for life, a handle for each session, a partition count that only grows.
 *
 * A handle comes from FAB_OP_OPEN. After a reconnection every topic is opened again, with retries: a broker that has just
 * started may not know its topics yet. Growth is noticed by a Metadata request every metadata.max.age.ms, or at once when
 * somebody asks for a partition that is not there.
 */

#include "client/client.h"
#include "base/clock.h"
#include "client/consumer.h"
#include "client/producer.h"
#include "client/tcp.h"
#include "wire/error.h"
#include "wire/messages.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define OPEN_RETRY_MS     50
#define BY_HANDLE_MAX     65536u
#define TOPIC_WAIT_MS     100 /* between two looks at a topic that is being created */

leat_topic *topic_find(const leat_client *c, const char *name, size_t size)
{
    for (size_t i = 0; i < c->n_topics; i++)
        if (strlen(c->topics[i]->name) == size && memcmp(c->topics[i]->name, name, size) == 0)
            return c->topics[i];
    return NULL;
}

leat_topic *topic_intern(leat_client *c, const char *name, size_t size)
{
    leat_topic *t = topic_find(c, name, size);
    if (t)
        return t;
    if ((c->n_topics & (c->n_topics - 1)) == 0) {
        leat_topic **grown = reallocarray(c->topics, MAX(2 * c->n_topics, 4), sizeof *grown);
        if (!grown)
            return NULL;
        c->topics = grown;
    }
    t = calloc(1, sizeof *t);
    char *copy = t ? strndup(name, size) : NULL;
    if (!copy) {
        free(t);
        return NULL;
    }
    *t = (leat_topic){.client = c, .name = copy, .index = (uint32_t)c->n_topics};
    c->topics[c->n_topics++] = t;
    c->topics_unopened++;
    if (c->metadata_due_ns == INT64_MAX)
        c->metadata_due_ns = clock_mono_ns() + c->settings.metadata_max_age_ms * NS_PER_MS;
    return t;
}

leat_topic *topic_by_handle(const leat_client *c, uint32_t handle)
{
    if (LIKELY(handle < c->n_by_handle))
        return c->by_handle[handle];
    for (size_t i = 0; i < c->n_topics; i++)
        if (c->topics[i]->state == TOPIC_OPEN && c->topics[i]->handle == handle)
            return c->topics[i];
    return NULL;
}

static void handle_remember(leat_client *c, leat_topic *t)
{
    if (t->handle >= BY_HANDLE_MAX)
        return;
    if (t->handle >= c->n_by_handle) {
        size_t n = MAX((size_t)t->handle + 1, 2 * c->n_by_handle);
        leat_topic **grown = reallocarray(c->by_handle, n, sizeof *grown);
        if (!grown)
            return; /* topic_by_handle() scans */
        memset(grown + c->n_by_handle, 0, (n - c->n_by_handle) * sizeof *grown);
        c->by_handle = grown;
        c->n_by_handle = n;
    }
    c->by_handle[t->handle] = t;
}

void topic_set_partitions(leat_topic *t, int32_t partitions)
{
    if (partitions > t->partitions)
        t->partitions = partitions;
}

int topic_require_partition(leat_topic *t, int32_t partition)
{
    if (partition < t->n_parts)
        return 0;
    int32_t n = MAX(partition + 1, t->partitions);
    Part **grown = reallocarray(t->parts, (size_t)n, sizeof *grown);
    if (!grown)
        return -ENOMEM;
    memset(grown + t->n_parts, 0, (size_t)(n - t->n_parts) * sizeof *grown);
    t->parts = grown;
    t->n_parts = n;
    return 0;
}

static void topic_start_open(leat_topic *t)
{
    FabSqe sqe = {.op = FAB_OP_OPEN};
    if (client_submit_copy(t->client, OP_OPEN, t, &sqe, t->name, strlen(t->name), NULL) == 0)
        t->state = TOPIC_OPENING;
}

void topic_opened(leat_topic *t, const FabCqe *cqe)
{
    leat_client *c = t->client;

    t->kafka_error = cqe->kafka_error;
    if (cqe->kafka_error != K_NONE || cqe->base_offset < 0 || cqe->base_offset > UINT32_MAX || cqe->partitions <= 0) {
        if (t->kafka_error == K_NONE)
            t->kafka_error = K_UNKNOWN_SERVER_ERROR;
        t->state = TOPIC_CLOSED;
        t->retry_at_ns = clock_mono_ns() + OPEN_RETRY_MS * NS_PER_MS;
        return;
    }
    t->state = TOPIC_OPEN;
    t->handle = (uint32_t)cqe->base_offset;
    t->partitions = cqe->partitions; /* also fewer: it may be another topic of the same name */
    handle_remember(c, t);
    assert(c->topics_unopened > 0);
    c->topics_unopened--;
    list_for_each(it, &c->producers)
        producer_topic_opened(producer_of_node(it), t);
    list_for_each(it, &c->consumers)
        consumer_up(consumer_of_node(it));
}

void topics_down(leat_client *c)
{
    for (size_t i = 0; i < c->n_topics; i++) {
        c->topics[i]->state = TOPIC_CLOSED;
        c->topics[i]->retry_at_ns = 0;
    }
    c->topics_unopened = c->n_topics;
    if (c->by_handle)
        memset(c->by_handle, 0, c->n_by_handle * sizeof *c->by_handle);
}

void topics_free(leat_client *c)
{
    for (size_t i = 0; i < c->n_topics; i++) {
        free(c->topics[i]->name);
        free(c->topics[i]->parts);
        free(c->topics[i]);
    }
    free(c->topics);
    c->topics = NULL;
    c->n_topics = 0;
}

/* ---- metadata ------------------------------------------------------------------------------------------------------ */

static void metadata_answered(void *userdata, int error, const void *body, size_t size)
{
    leat_client *c = userdata;
    Arena arena = ARENA_NULL;
    KMetadataResponse m;

    c->metadata_request = NULL;
    c->metadata_due_ns = clock_mono_ns() + c->settings.metadata_max_age_ms * NS_PER_MS;
    if (error < 0 || request_decode(K_API_METADATA, body, size, &arena, &m) < 0)
        m.topics.n = 0;
    for (int32_t i = 0; i < m.topics.n; i++) {
        leat_topic *t = topic_find(c, m.topics.items[i].name.ptr, (size_t)MAX(m.topics.items[i].name.len, 0));
        if (t && m.topics.items[i].error_code == K_NONE)
            topic_set_partitions(t, m.topics.items[i].partitions.n);
    }
    arena_deinit(&arena);
    list_for_each(it, &c->consumers)
        consumer_metadata_changed(consumer_of_node(it));
}

int topics_refresh(leat_client *c)
{
    if (c->metadata_request || c->n_topics == 0)
        return 0;
    Arena arena = ARENA_NULL;
    KMetadataRequest q;
    k_message_init(&k_metadata_request, &q);
    q.allow_auto_topic_creation = false;
    q.topics.items = arena_alloc(&arena, c->n_topics * sizeof *q.topics.items);
    q.topics.n = (int32_t)c->n_topics;
    int r = -ENOMEM;
    if (q.topics.items) {
        for (size_t i = 0; i < c->n_topics; i++)
            q.topics.items[i].name = k_str(c->topics[i]->name);
        RequestOptions o = {.api_key = K_API_METADATA, .again = true,
                            .timeout_ms = c->settings.request_timeout_ms, .fn = metadata_answered, .userdata = c};
        r = request_start(c, &o, &q, &c->metadata_request);
    }
    arena_deinit(&arena);
    return r;
}

void topic_reopen(leat_topic *t)
{
    if (t->state != TOPIC_OPEN)
        return;
    t->state = TOPIC_CLOSED;
    t->retry_at_ns = clock_mono_ns() + OPEN_RETRY_MS * NS_PER_MS;
    t->client->topics_unopened++;
    if (t->handle < t->client->n_by_handle)
        t->client->by_handle[t->handle] = NULL;
}

static bool is_due(const leat_topic *t, int64_t now_ns)
{
    return t->state == TOPIC_CLOSED && t->wanted && now_ns >= t->retry_at_ns;
}

void topics_turn(leat_client *c, int64_t now_ns)
{
    if (UNLIKELY(now_ns >= c->metadata_due_ns) && c->fab) {
        c->metadata_due_ns = now_ns + c->settings.metadata_max_age_ms * NS_PER_MS;
        topics_refresh(c);
    }
    if (LIKELY(c->topics_unopened == 0) || !c->fab)
        return;
    for (size_t i = 0; i < c->n_topics; i++)
        if (is_due(c->topics[i], now_ns))
            topic_start_open(c->topics[i]);
}

int64_t topics_deadline_ns(const leat_client *c)
{
    int64_t at = c->metadata_due_ns;

    for (size_t i = 0; c->fab && c->topics_unopened && i < c->n_topics; i++)
        if (c->topics[i]->state == TOPIC_CLOSED && c->topics[i]->wanted)
            at = MIN(at, c->topics[i]->retry_at_ns);
    return at;
}

/* ---- public -------------------------------------------------------------------------------------------------------- */

static bool topic_is_settled(void *userdata)
{
    leat_topic *t = userdata;
    return t->state == TOPIC_OPEN || (t->state == TOPIC_CLOSED && t->kafka_error != K_NONE);
}

/* Asks for the topic by Metadata with auto-creation; the broker decides whether it does and says so in *ret_error. */
static int topic_ask_for(leat_client *c, const char *name, int64_t deadline_ns, int16_t *ret_error)
{
    Arena arena = ARENA_NULL;
    KMetadataRequest q;
    KMetadataResponse m;
    KMetadataRequestTopics item = {.name = k_str(name)};

    k_message_init(&k_metadata_request, &q);
    q.allow_auto_topic_creation = true;
    q.topics.items = &item;
    q.topics.n = 1;
    int64_t left_ms = (deadline_ns - clock_mono_ns()) / NS_PER_MS;
    int r = request_call(c, K_API_METADATA, true, &q, MAX(left_ms, 1), &arena, &m);
    *ret_error = r == 0 && m.topics.n == 1 ? m.topics.items[0].error_code : K_UNKNOWN_TOPIC_OR_PARTITION;
    arena_deinit(&arena);
    return r;
}

/* Return: 0 open; an errno with text. */
static int topic_wait(leat_topic *t, int64_t deadline_ns)
{
    leat_client *c = t->client;
    bool may_create = c->settings.auto_create || !list_is_empty(&c->producers); /* a producer always asks, as Kafka's do */
    bool asked = false;
    char what[300];

    t->wanted = true;
    snprintf(what, sizeof what, "topic '%.250s'", t->name);
    for (;;) {
        t->kafka_error = K_NONE;
        if (t->state == TOPIC_CLOSED)
            t->retry_at_ns = 0;
        int r = client_run_until(c, topic_is_settled, t, deadline_ns);
        if (r == -ETIMEDOUT)
            return client_fail(c, r, "%s: not opened in time%s", what, c->fab ? "" : ", no broker");
        if (r < 0 || t->state == TOPIC_OPEN)
            return r;
        int16_t e = t->kafka_error;
        bool again = k_error_is_retriable(e), at_once = false;
        if (e == K_UNKNOWN_TOPIC_OR_PARTITION) {
            r = may_create ? topic_ask_for(c, t->name, deadline_ns, &e) : 0;
            if (r < 0)
                return r;
            again = e == K_NONE || (k_error_is_retriable(e) && e != K_UNKNOWN_TOPIC_OR_PARTITION);
            at_once = e == K_NONE && !asked;
            asked = true;
        }
        if (!again || clock_mono_ns() >= deadline_ns)
            return client_fail_kafka(c, e == K_NONE ? K_UNKNOWN_TOPIC_OR_PARTITION : e, what);
        if (!at_once)
            client_sleep(c, MIN(deadline_ns, clock_mono_ns() + TOPIC_WAIT_MS * NS_PER_MS));
    }
}

PUBLIC int leat_topic_open(leat_client *client, const char *name, leat_topic **ret)
{
    int r = client_check(client);
    if (r < 0)
        return r;
    if (!name || !ret || !topic_name_is_valid(name, strlen(name)))
        return client_fail(client, -EINVAL, "'%s' is no topic name", name ? name : "(null)");
    leat_topic *t = topic_intern(client, name, strlen(name));
    if (!t)
        return client_fail(client, -ENOMEM, "out of memory");
    bool had = t->wanted;
    if (client->tcp)
        r = tcp_topic_open(t);
    else
        r = topic_wait(t, clock_mono_ns() + client->settings.request_timeout_ms * NS_PER_MS);
    if (r < 0) {
        t->wanted = had;
        return r;
    }
    *ret = t;
    return 0;
}

PUBLIC const char *leat_topic_name(const leat_topic *topic)
{
    return topic ? topic->name : "";
}

PUBLIC int32_t leat_topic_partitions(const leat_topic *topic)
{
    return topic ? topic->partitions : 0;
}
