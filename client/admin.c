/*
 * Administration: one request, one answer, one topic at a time. Errors carry the broker's own sentence. Create, delete and
 * grow may have been done although the answer was lost with a session: they fail with -ECONNRESET and the caller looks.
 */

#include "client/client.h"
#include "client/tcp.h"
#include "base/clock.h"
#include "wire/error.h"
#include "wire/messages.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define RESOURCE_TOPIC    2
#define CONFIG_OP_SET     0
#define CONFIG_OP_DELETE  1
#define ADMIN_CONFIGS_MAX 128 /* of one topic in one call */

/* The broker's word on the one thing that was asked about; n: how many things the answer speaks of. */
static int verdict(leat_client *c, int32_t n, int16_t e, KStr text, const char *what)
{
    if (n != 1)
        return client_fail(c, -EPROTO, "%s: the answer does not speak of it", what);
    if (e == K_NONE)
        return 0;
    int r = client_fail_kafka(c, e, what);
    if (text.len > 0) {
        client_fail(c, r, "%s: %.*s (%s)", what, (int)text.len, text.ptr, k_error_name(e));
        c->kafka_error = e;
    }
    return r;
}
#define VERDICT(client, list, name)                                                                                              \
    verdict(client, (list).n, (list).n > 0 ? (list).items[0].error_code : K_NONE,                                              \
            (list).n > 0 ? (list).items[0].error_message : K_STR_NULL, name)

static int check(leat_client *c, const char *name)
{
    int r = client_check(c);
    if (r < 0)
        return r;
    if (!name || !topic_name_is_valid(name, strlen(name)))
        return client_fail(c, -EINVAL, "'%s' is no topic name", name ? name : "(null)");
    return 0;
}

static int check_configs(leat_client *c, const char *name, const leat_config_item *configs, size_t n, bool values_may_be_null)
{
    int r = check(c, name);
    if (r < 0)
        return r;
    if (n > ADMIN_CONFIGS_MAX || (n > 0 && !configs))
        return client_fail(c, -EINVAL, "%s: more than %d configs, or none given", name, ADMIN_CONFIGS_MAX);
    for (size_t i = 0; i < n; i++)
        if (!configs[i].name || (!values_may_be_null && !configs[i].value))
            return client_fail(c, -EINVAL, "%s: config %zu has no name or no value", name, i);
    return 0;
}

static int32_t timeout_of(int64_t timeout_ms)
{
    return (int32_t)MIN(MAX(timeout_ms, 1), INT32_MAX);
}

PUBLIC int leat_topic_create(leat_client *client, const char *name, int32_t partitions, int16_t replicas,
                             const leat_config_item *configs, size_t n, int64_t timeout_ms)
{
    int r = check_configs(client, name, configs, n, false);
    if (r < 0)
        return r;
    timeout_ms = client_timeout_ms(client, timeout_ms);
    if (client->tcp)
        return tcp_topic_create(client, name, partitions, replicas, configs, n, timeout_ms);
    Arena arena = ARENA_NULL;
    KCreateTopicsRequest q;
    KCreateTopicsResponse a;
    KCreateTopicsRequestTopicsConfigs items[ADMIN_CONFIGS_MAX];
    KCreateTopicsRequestTopics t = {.name = k_str(name), .num_partitions = partitions, .replication_factor = replicas};
    t.configs.items = items;
    t.configs.n = (int32_t)n;
    for (size_t i = 0; i < n; i++)
        items[i] = (KCreateTopicsRequestTopicsConfigs){k_str(configs[i].name), k_str(configs[i].value)};
    k_message_init(&k_create_topics_request, &q);
    q.topics.items = &t;
    q.topics.n = 1;
    q.timeout_ms = timeout_of(timeout_ms);
    r = request_call(client, K_API_CREATE_TOPICS, false, &q, timeout_ms, &arena, &a);
    if (r == 0)
        r = VERDICT(client, a.topics, name);
    arena_deinit(&arena);
    return r;
}

PUBLIC int leat_topic_delete(leat_client *client, const char *name, int64_t timeout_ms)
{
    int r = check(client, name);
    if (r < 0)
        return r;
    timeout_ms = client_timeout_ms(client, timeout_ms);
    if (client->tcp)
        return tcp_topic_delete(client, name, timeout_ms);
    Arena arena = ARENA_NULL;
    KDeleteTopicsRequest q;
    KDeleteTopicsResponse a;
    KStr item = k_str(name);
    k_message_init(&k_delete_topics_request, &q);
    q.topic_names.items = &item;
    q.topic_names.n = 1;
    q.timeout_ms = timeout_of(timeout_ms);
    r = request_call(client, K_API_DELETE_TOPICS, false, &q, timeout_ms, &arena, &a);
    if (r == 0)
        r = VERDICT(client, a.responses, name);
    arena_deinit(&arena);
    leat_topic *t = topic_find(client, name, strlen(name));
    if (r == 0 && t) { /* one of the same name would have another handle */
        topic_reopen(t);
        t->wanted = false;
    }
    return r;
}

PUBLIC int leat_topic_grow(leat_client *client, const char *name, int32_t partitions, int64_t timeout_ms)
{
    int r = check(client, name);
    if (r < 0)
        return r;
    timeout_ms = client_timeout_ms(client, timeout_ms);
    if (client->tcp)
        return tcp_topic_grow(client, name, partitions, timeout_ms);
    Arena arena = ARENA_NULL;
    KCreatePartitionsRequest q;
    KCreatePartitionsResponse a;
    KCreatePartitionsRequestTopics t = {.name = k_str(name), .count = partitions};
    t.assignments.n = -1;
    k_message_init(&k_create_partitions_request, &q);
    q.topics.items = &t;
    q.topics.n = 1;
    q.timeout_ms = timeout_of(timeout_ms);
    r = request_call(client, K_API_CREATE_PARTITIONS, false, &q, timeout_ms, &arena, &a);
    if (r == 0)
        r = VERDICT(client, a.results, name);
    arena_deinit(&arena);
    leat_topic *known = topic_find(client, name, strlen(name));
    if (r == 0 && known)
        topic_set_partitions(known, partitions);
    return r;
}

PUBLIC int leat_topic_configure(leat_client *client, const char *name, const leat_config_item *configs, size_t n, int64_t timeout_ms)
{
    int r = check_configs(client, name, configs, n, true);
    if (r < 0)
        return r;
    timeout_ms = client_timeout_ms(client, timeout_ms);
    if (client->tcp)
        return tcp_topic_configure(client, name, configs, n, timeout_ms);
    Arena arena = ARENA_NULL;
    KIncrementalAlterConfigsRequest q;
    KIncrementalAlterConfigsResponse a;
    KIncrementalAlterConfigsRequestResourcesConfigs items[ADMIN_CONFIGS_MAX];
    KIncrementalAlterConfigsRequestResources t = {.resource_type = RESOURCE_TOPIC, .resource_name = k_str(name)};
    t.configs.items = items;
    t.configs.n = (int32_t)n;
    for (size_t i = 0; i < n; i++)
        items[i] = (KIncrementalAlterConfigsRequestResourcesConfigs){
            .name = k_str(configs[i].name),
            .config_operation = configs[i].value ? CONFIG_OP_SET : CONFIG_OP_DELETE,
            .value = k_str(configs[i].value)};
    k_message_init(&k_incremental_alter_configs_request, &q);
    q.resources.items = &t;
    q.resources.n = 1;
    r = request_call(client, K_API_INCREMENTAL_ALTER_CONFIGS, false, &q, timeout_ms, &arena, &a);
    if (r == 0)
        r = VERDICT(client, a.responses, name);
    arena_deinit(&arena);
    return r;
}

/* ---- offsets of partitions ------------------------------------------------------------------------------------------- */

int items_check(leat_client *c, const leat_partition *items, size_t n)
{
    int r = client_check(c);
    if (r < 0)
        return r;
    if (n > 0 && !items)
        return client_fail(c, -EINVAL, "no items");
    for (size_t i = 0; i < n; i++)
        if (!items[i].topic || items[i].partition < 0)
            return client_fail(c, -EINVAL, "item %zu names no topic and partition", i);
    return 0;
}

static bool is_item(const leat_partition *item, KStr topic, int32_t partition)
{
    return item->partition == partition && k_str_equal(topic, item->topic);
}

static bool is_same(const leat_partition *a, const leat_partition *b)
{
    return a->partition == b->partition && strcmp(a->topic, b->topic) == 0;
}

/* A request may name a partition once: later mentions move behind the first [0, return) items and wait for another request. */
static size_t unique_first(leat_partition **items, size_t n)
{
    size_t unique = 0;

    for (size_t i = 0; i < n; i++) {
        bool seen = false;
        for (size_t k = 0; k < unique && !seen; k++)
            seen = is_same(items[k], items[i]);
        if (seen)
            continue;
        leat_partition *item = items[i];
        memmove(items + unique + 1, items + unique, (i - unique) * sizeof *items);
        items[unique++] = item;
    }
    return unique;
}

/* Asks for the items, offset of each in and out. *ret_again: some had an error that passes (a leader being elected). */
static int list_once(leat_client *c, leat_partition **items, size_t n, int64_t timeout_ms, bool *ret_again)
{
    Arena arena = ARENA_NULL;
    KListOffsetsRequest q;
    KListOffsetsResponse a;
    KListOffsetsRequestTopicsPartitions *at = arena_alloc(&arena, n * sizeof *at + 1);

    *ret_again = false;
    k_message_init(&k_list_offsets_request, &q);
    q.replica_id = -1;
    q.topics.items = arena_alloc(&arena, n * sizeof *q.topics.items + 1);
    q.topics.n = 0;
    for (size_t i = 0; at && q.topics.items && i < n; i++) {
        at[i] = (KListOffsetsRequestTopicsPartitions){.partition_index = items[i]->partition, .current_leader_epoch = -1,
                                                      .timestamp = items[i]->offset};
        KListOffsetsRequestTopics *last = q.topics.n ? &q.topics.items[q.topics.n - 1] : NULL;
        if (last && k_str_equal(last->name, items[i]->topic)) {
            last->partitions.n++;
            continue;
        }
        last = &q.topics.items[q.topics.n++];
        last->name = k_str(items[i]->topic);
        last->partitions.items = &at[i];
        last->partitions.n = 1;
    }
    int r = at && q.topics.items ? request_call(c, K_API_LIST_OFFSETS, true, &q, timeout_ms, &arena, &a)
                                 : client_fail(c, -ENOMEM, "out of memory");
    for (size_t i = 0; r == 0 && i < n; i++)
        items[i]->error = -EPROTO;
    for (int32_t t = 0; r == 0 && t < a.topics.n; t++)
        for (int32_t k = 0; k < a.topics.items[t].partitions.n; k++)
            for (size_t i = 0; i < n; i++) {
                KListOffsetsResponseTopicsPartitions *p = &a.topics.items[t].partitions.items[k];
                if (!is_item(items[i], a.topics.items[t].name, p->partition_index))
                    continue;
                items[i]->error = p->error_code ? client_fail_kafka(c, p->error_code, items[i]->topic) : 0;
                if (p->error_code == K_NONE)
                    items[i]->offset = p->offset;
                *ret_again |= p->error_code != K_NONE && k_error_is_retriable(p->error_code) &&
                              p->error_code != K_UNKNOWN_TOPIC_OR_PARTITION;
                break;
            }
    arena_deinit(&arena);
    return r;
}

/* Items without error go behind the others, so that only those are asked again. Return: how many are left. */
static size_t left_over(leat_partition **items, size_t n)
{
    size_t left = 0;

    for (size_t i = 0; i < n; i++)
        if (items[i]->error < 0) {
            leat_partition *item = items[i];
            items[i] = items[left];
            items[left++] = item;
        }
    return left;
}

PUBLIC int leat_list_offsets(leat_client *client, leat_partition *inout, size_t n, int64_t timeout_ms)
{
    int r = items_check(client, inout, n);
    if (r < 0 || n == 0)
        return r;
    for (size_t i = 0; i < n; i++)
        if (inout[i].offset < LEAT_OFFSET_EARLIEST)
            return client_fail(client, -EINVAL, "item %zu: neither earliest, latest nor a time", i);
    timeout_ms = client_timeout_ms(client, timeout_ms);
    if (client->tcp)
        return tcp_list_offsets(client, inout, n, timeout_ms);
    int64_t deadline_ns = clock_mono_ns() + timeout_ms * NS_PER_MS;
    leat_partition **items = calloc(n, sizeof *items);
    if (!items)
        return client_fail(client, -ENOMEM, "out of memory");
    for (size_t i = 0; i < n; i++)
        items[i] = &inout[i];
    for (size_t done = 0; r == 0 && done < n;) {
        size_t asked = unique_first(items + done, n - done), left = asked;
        bool again = true;
        while (r == 0 && again && left > 0) {
            r = list_once(client, items + done, left, MAX((deadline_ns - clock_mono_ns()) / NS_PER_MS, 1), &again);
            left = left_over(items + done, left);
            again = r == 0 && again && client_back_off(client, deadline_ns);
        }
        done += asked;
    }
    free(items);
    for (size_t i = 0; r == 0 && i < n; i++)
        r = inout[i].error;
    for (size_t i = 0; i < n; i++)
        if (inout[i].error < 0)
            inout[i].offset = -1;
    return r;
}

PUBLIC int leat_delete_records(leat_client *client, leat_partition *before, size_t n, int64_t timeout_ms)
{
    int r = items_check(client, before, n);
    if (r < 0 || n == 0)
        return r;
    timeout_ms = client_timeout_ms(client, timeout_ms);
    if (client->tcp)
        return tcp_delete_records(client, before, n, timeout_ms);
    Arena arena = ARENA_NULL;
    KDeleteRecordsRequest q;
    KDeleteRecordsResponse a;
    KDeleteRecordsRequestTopicsPartitions *at = arena_alloc(&arena, n * sizeof *at + 1);
    k_message_init(&k_delete_records_request, &q);
    q.timeout_ms = timeout_of(timeout_ms);
    q.topics.items = arena_alloc(&arena, n * sizeof *q.topics.items + 1);
    q.topics.n = (int32_t)n;
    for (size_t i = 0; at && q.topics.items && i < n; i++) {
        at[i] = (KDeleteRecordsRequestTopicsPartitions){before[i].partition, before[i].offset};
        q.topics.items[i].name = k_str(before[i].topic);
        q.topics.items[i].partitions.items = &at[i];
        q.topics.items[i].partitions.n = 1;
    }
    r = at && q.topics.items
            ? request_call(client, K_API_DELETE_RECORDS, true, &q, timeout_ms, &arena, &a)
            : client_fail(client, -ENOMEM, "out of memory");
    for (size_t i = 0; r == 0 && i < n; i++)
        before[i].error = -EPROTO;
    for (int32_t t = 0; r == 0 && t < a.topics.n; t++)
        for (int32_t k = 0; k < a.topics.items[t].partitions.n; k++)
            for (size_t i = 0; i < n; i++) {
                KDeleteRecordsResponseTopicsPartitions *p = &a.topics.items[t].partitions.items[k];
                if (!is_item(&before[i], a.topics.items[t].name, p->partition_index))
                    continue;
                before[i].error = p->error_code ? client_fail_kafka(client, p->error_code, before[i].topic) : 0;
                if (p->error_code == K_NONE)
                    before[i].offset = p->low_watermark;
            }
    for (size_t i = 0; r == 0 && i < n; i++)
        r = before[i].error;
    arena_deinit(&arena);
    return r;
}
