/* See ensure.h. */

#include "broker/api/ensure.h"

#include <stdio.h>
#include <string.h>

#define OFFSETS_CONFIGS 3

bool ensure_is_there(const Broker *b, KStr name)
{
    const Topic *topic = topic_find_str(&b->partitions, name);
    return topic && topic->unopened == 0;
}

static bool is_there(ApplyWait *w)
{
    const Ensure *e = CONTAINER_OF(w, Ensure, wait);
    for (int32_t i = 0; i < e->count; i++) {
        if (!ensure_is_there(e->broker, e->names[i]))
            return false;
    }
    return true;
}

static void waited(ApplyWait *w, bool there)
{
    Ensure *e = CONTAINER_OF(w, Ensure, wait);
    (void)there;
    e->waiting = false;
    e->done(e);
}

/* Names that the controller refused will not come: nobody waits for them. */
static bool all_created(const KCreateTopicsResponse *a)
{
    for (int32_t i = 0; i < a->topics.n; i++) {
        KafkaError error = a->topics.items[i].error_code;
        if (error != K_NONE && error != K_TOPIC_ALREADY_EXISTS)
            return false;
    }
    return true;
}

static void on_created(void *userdata, const void *body, size_t size)
{
    Ensure *e = userdata;
    Arena arena = ARENA_NULL;
    KCreateTopicsResponse a;
    e->call = NULL;
    bool ok = body && k_decode(&k_create_topics_response, 7, body, size, &arena, &a) == 0 && all_created(&a);
    arena_deinit(&arena);
    if (!ok) {
        e->done(e);
        return;
    }
    apply_changed(e->broker->apply);
    e->waiting = true;
    e->wait = (ApplyWait){.is_there = is_there, .done = waited};
    apply_wait(e->broker, &e->wait, (e->until_ns - broker_now_ns(e->broker)) / NS_PER_MS);
}

static int32_t offsets_configs(const Broker *b, KCreateTopicsRequestTopicsConfigs *configs, char text[24])
{
    snprintf(text, 24, "%lld", (long long)b->settings.offsets_segment_bytes);
    configs[0] = (KCreateTopicsRequestTopicsConfigs){.name = k_str("cleanup.policy"), .value = k_str("compact")};
    configs[1] = (KCreateTopicsRequestTopicsConfigs){.name = k_str("compression.type"), .value = k_str("producer")};
    configs[2] = (KCreateTopicsRequestTopicsConfigs){.name = k_str("segment.bytes"), .value = k_str(text)};
    return OFFSETS_CONFIGS;
}

static int call(Ensure *e, int64_t timeout_ms)
{
    KCreateTopicsRequestTopicsConfigs configs[OFFSETS_CONFIGS];
    char text[24];
    Arena arena = ARENA_NULL;
    Buf body = BUF_NULL;
    KCreateTopicsRequest q = {.timeout_ms = (int32_t)timeout_ms};
    q.topics.items = arena_alloc(&arena, (size_t)e->count * sizeof(*q.topics.items));
    q.topics.n = e->count;
    for (int32_t i = 0; q.topics.items && i < e->count; i++) {
        q.topics.items[i] = (KCreateTopicsRequestTopics){.name = e->names[i], .num_partitions = -1, .replication_factor = -1};
        if (k_str_equal(e->names[i], "__consumer_offsets")) {
            q.topics.items[i].num_partitions = e->broker->settings.offsets_partitions;
            q.topics.items[i].configs.items = configs;
            q.topics.items[i].configs.n = offsets_configs(e->broker, configs, text);
        }
    }
    int r = q.topics.items ? k_encode(&k_create_topics_request, 7, &q, &body) : -1;
    if (r == 0) {
        DaemonRequest request = {.api_key = API_CREATE_TOPICS,
                                 .api_version = 7,
                                 .body = body.data,
                                 .size = body.size,
                                 .who = e->who,
                                 .client_id = "leat-broker",
                                 .timeout_ms = timeout_ms};
        r = daemon_call(e->broker->controller, &request, on_created, e, &e->call);
    }
    buf_deinit(&body);
    arena_deinit(&arena);
    return r;
}

void ensure_topics(Broker *b, Ensure *e, const KStr *names, int32_t count, const Principal *who, int64_t timeout_ms,
                   void (*done)(Ensure *e))
{
    *e = (Ensure){.broker = b,
                  .names = names,
                  .count = count,
                  .who = who,
                  .done = done,
                  .until_ns = broker_now_ns(b) + timeout_ms * NS_PER_MS};
    bool missing = false;
    for (int32_t i = 0; i < count; i++)
        missing |= !ensure_is_there(b, names[i]);
    if (!missing || call(e, timeout_ms) < 0)
        done(e);
}

void ensure_cancel(Ensure *e)
{
    daemon_cancel(e->call);
    e->call = NULL;
    if (e->waiting)
        apply_cancel(e->broker, &e->wait);
    e->waiting = false;
}
