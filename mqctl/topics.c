/* Metadata, offsets and settings of topics, for the nouns that need them. */

#include "mqctl/topics.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/text.h"
#include "meta/config_keys.h"
#include "mqctl/connect.h"

#define API_LIST_OFFSETS    2
#define API_METADATA        3
#define AUTO_CREATE_WAIT_MS 5000

int topics_metadata(Mq *m, const char *const *names, int n, KMetadataResponse *ret)
{
    KMetadataRequest request;

    k_message_init(&k_metadata_request, &request);
    request.allow_auto_topic_creation = false;
    request.topics.n = n;
    if (n > 0)
        request.topics.items = mq_alloc(m, (size_t)n * sizeof *request.topics.items);
    for (int i = 0; i < n; i++)
        request.topics.items[i].name = k_str(names[i]);
    return api_call(m, API_METADATA, 12, &request, ret);
}

int topic_fail(Mq *m, KafkaError error, const char *message, const char *name)
{
    int status = mq_fail_kafka(m, error, message, "topic %s", name);

    if (status == MQ_E_NOT_FOUND)
        topic_suggest(m, name);
    return status;
}

void topic_suggest(Mq *m, const char *name)
{
    KMetadataResponse all;
    const char **names, *near;
    size_t n = 0;

    if (m->quiet || topics_metadata(m, NULL, -1, &all) != 0)
        return;
    names = mq_alloc(m, (size_t)MAX(all.topics.n, 1) * sizeof *names);
    for (int32_t i = 0; i < all.topics.n; i++)
        if (all.topics.items[i].name.len > 0 && !all.topics.items[i].is_internal)
            names[n++] = mq_printf(m, "%.*s", all.topics.items[i].name.len, all.topics.items[i].name.ptr);
    near = text_suggest(name, names, n);
    if (near != NULL)
        mq_hint(m, "did you mean %s?", near);
    else
        mq_hint(m, "mqctl topic list");
}

int topic_partitions(Mq *m, const char *topic, int32_t *ret_n)
{
    KMetadataResponse response;
    int r = topics_metadata(m, &topic, 1, &response);

    if (r != 0)
        return r;
    if (response.topics.n != 1)
        return mq_fail(m, MQ_E_FAILED, "topic %s: the answer names no topic", topic);
    if (response.topics.items[0].error_code != 0)
        return topic_fail(m, response.topics.items[0].error_code, NULL, topic);
    *ret_n = response.topics.items[0].partitions.n;
    return 0;
}

static int offsets_answer(Mq *m, const char *topic, const KListOffsetsResponse *response, OffsetQuery *queries, size_t n)
{
    for (int32_t t = 0; t < response->topics.n; t++)
        for (int32_t i = 0; i < response->topics.items[t].partitions.n; i++) {
            const KListOffsetsResponseTopicsPartitions *p = &response->topics.items[t].partitions.items[i];

            if (p->error_code != 0)
                return mq_fail_kafka(m, p->error_code, NULL, "offsets of %s-%d", topic, p->partition_index);
            if ((size_t)i < n && queries[i].partition == p->partition_index) { /* answers stand in the order of the questions */
                queries[i].offset = p->offset;
                queries[i].timestamp_ms = p->timestamp;
            }
        }
    return 0;
}

int topic_query_offsets(Mq *m, const char *topic, OffsetQuery *queries, size_t n)
{
    KListOffsetsRequest request;
    KListOffsetsRequestTopics one = {.name = k_str(topic)};
    KListOffsetsResponse response;
    int r;

    if (n == 0)
        return 0;
    k_message_init(&k_list_offsets_request, &request);
    request.replica_id = -1;
    request.topics.items = &one;
    request.topics.n = 1;
    one.partitions.n = (int32_t)n;
    one.partitions.items = mq_alloc(m, n * sizeof *one.partitions.items);
    for (size_t i = 0; i < n; i++) {
        one.partitions.items[i].partition_index = queries[i].partition;
        one.partitions.items[i].current_leader_epoch = -1;
        one.partitions.items[i].timestamp = queries[i].at_ms;
        queries[i].offset = queries[i].timestamp_ms = -1;
    }
    r = api_call(m, API_LIST_OFFSETS, 7, &request, &response);
    return r ? r : offsets_answer(m, topic, &response, queries, n);
}

int topic_offsets(Mq *m, const char *topic, int64_t timestamp, int32_t n, int64_t *ret)
{
    OffsetQuery *queries = mq_alloc(m, (size_t)MAX(n, 1) * sizeof *queries);
    int r;

    for (int32_t i = 0; i < n; i++)
        queries[i] = (OffsetQuery){.partition = i, .at_ms = timestamp};
    r = topic_query_offsets(m, topic, queries, (size_t)n);
    for (int32_t i = 0; r == 0 && i < n; i++)
        ret[i] = queries[i].offset;
    return r;
}

int partition_list(Mq *m, const char *text, int32_t n, bool **ret)
{
    bool *flags;

    *ret = NULL;
    if (text == NULL)
        return 0;
    flags = mq_alloc(m, (size_t)MAX(n, 1));
    while (*text != '\0') {
        size_t size = strcspn(text, ",");
        int64_t v;

        if (parse_i64(mq_printf(m, "%.*s", (int)size, text), &v) < 0 || v < 0)
            return mq_fail(m, MQ_E_USAGE, "-p %s: expected partition numbers", text);
        if (v >= n)
            return mq_fail(m, MQ_E_NOT_FOUND, "there is no partition %lld; the topic has %d", (long long)v, n);
        flags[v] = true;
        text += size + (text[size] == ',');
    }
    *ret = flags;
    return 0;
}

/* Metadata with creation allowed, as a Kafka client asks; then the topic appears if auto.create.topics.enable says so. */
static int ask_for_topic(Mq *m, const char *name)
{
    KMetadataRequestTopics topic = {.name = k_str(name)};
    KMetadataRequest request;
    KMetadataResponse response;

    k_message_init(&k_metadata_request, &request);
    request.topics.items = &topic;
    request.topics.n = 1;
    request.allow_auto_topic_creation = true;
    return api_call(m, API_METADATA, 9, &request, &response);
}

int topic_open(Mq *m, leat_client *client, const char *name, bool create, leat_topic **ret)
{
    int64_t deadline = clock_mono_ms() + AUTO_CREATE_WAIT_MS;
    int r = leat_topic_open(client, name, ret), e;

    while (r == -ENOENT && create && clock_mono_ms() < deadline && !mq_interrupted) {
        e = ask_for_topic(m, name);
        if (e != 0)
            return e;
        r = leat_topic_open(client, name, ret);
        if (r == -ENOENT)
            (void)leat_wait(client, 10);
    }
    if (r >= 0)
        return 0;
    e = connect_fail(m, client, r, "topic %s", name);
    if (e == MQ_E_NOT_FOUND)
        topic_suggest(m, name);
    if (e == MQ_E_NOT_FOUND && create)
        mq_hint(m, "mqctl topic create %s", name);
    return e;
}

int topic_config_pair(Mq *m, const char *pair, const char **ret_name, const char **ret_value)
{
    const char *equal = strchr(pair, '=');
    const ConfigKey *key;
    char value[4096], why[512] = "";
    char *name;

    if (equal == NULL)
        return mq_fail(m, MQ_E_USAGE, "-c %s: expected KEY=VALUE", pair);
    name = mq_printf(m, "%.*s", (int)(equal - pair), pair);
    key = config_key(name);
    if (key == NULL) { /* retention -> retention.ms */
        const ConfigKey *with_unit = config_key(mq_printf(m, "%s.ms", name));
        if (with_unit != NULL)
            key = with_unit;
    }
    *ret_name = key != NULL ? key->name : name;
    *ret_value = NULL;
    if (key == NULL || !(key->scope & CONFIG_SCOPE_TOPIC)) {
        const char *names[512], *near;
        size_t n = 0;

        for (size_t i = 0; (key = config_key_at(i)) != NULL && n < ARRAY_SIZE(names) - 1; i++)
            if (key->scope & CONFIG_SCOPE_TOPIC) {
                size_t size = strlen(key->name);

                names[n++] = key->name;
                if (size > 3 && strcmp(key->name + size - 3, ".ms") == 0)
                    names[n++] = mq_printf(m, "%.*s", (int)size - 3, key->name);
            }
        near = text_suggest(name, names, n);
        return mq_fail(m, MQ_E_USAGE, "-c %s: no such topic setting%s%s%s", name, near ? " (did you mean " : "", near ? near : "",
                       near ? "?)" : "");
    }
    if (equal[1] == '\0')
        return 0;
    if (config_normalize(key, equal + 1, value, sizeof value, why, sizeof why) < 0)
        return mq_fail(m, MQ_E_USAGE, "-c %s: %s", pair, why);
    *ret_value = mq_printf(m, "%s", value);
    return 0;
}
