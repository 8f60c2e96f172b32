/* The public face of consuming; see consumer.h for the parts. */

#include "client/consumer.h"
#include "base/clock.h"
#include "client/group.h"
#include "client/tcp.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CLOSE_TIMEOUT_MS    2000 /* last commit, leaving the group */
#define NOTIFY_GROUP_EVENT  102  /* number of GroupEvent in wire/schema/internal.txt */

/* ---- called by client.c ---------------------------------------------------------------------------------------------- */

void consumers_notify(leat_client *c, uint16_t type, const void *payload, size_t size)
{
    Arena arena = ARENA_NULL;
    KGroupEvent e;

    if (type != NOTIFY_GROUP_EVENT)
        return;
    if (k_decode(&k_group_event, 0, payload, size, &arena, &e) == 0)
        list_for_each(it, &c->consumers)
            if (consumer_of_node(it)->group)
                group_event(consumer_of_node(it)->group, e.group_id, e.member_id, e.kind, e.generation_id, e.error_code);
    arena_deinit(&arena);
}

bool consumer_has_records(const leat_consumer *k)
{
    if (k->tcp)
        return tcp_has_records(k);
    if (k->group && group_is_gated(k->group))
        return false;
    return k->cursor.part || k->pending_first < k->pending_end || k->n_leased > 0 || k->error < 0;
}

void consumer_up(leat_consumer *k)
{
    k->dirty = true;
    k->due_ns = 0;
}

void consumer_down(leat_consumer *k)
{
    if (k->tcp)
        return;
    delivery_clear(k);
    for (size_t i = 0; i < k->n_parts; i++) {
        Part *p = k->parts[i];
        p->generation = ++k->client->generation;
        p->at_end = false;
        lease_end(p);
        if (p->state == PART_LIVE || p->state == PART_LEASING || p->state == PART_LEASED)
            p->state = PART_READY;
        p->retry_at_ns = 0;
    }
    k->dirty = true;
    if (k->group)
        group_session_lost(k->group);
}

void consumer_turn(leat_consumer *k, int64_t now_ns, bool nested)
{
    if (k->tcp)
        return;
    if (k->group && !nested)
        group_turn(k->group, now_ns);
    parts_turn(k, now_ns);
}

int64_t consumer_deadline_ns(const leat_consumer *k)
{
    int64_t at = INT64_MAX;

    if (k->tcp)
        return at;
    if (k->dirty && k->client->fab)
        at = k->due_ns;
    return k->group ? MIN(at, group_deadline_ns(k->group)) : at;
}

void consumer_metadata_changed(leat_consumer *k)
{
    if (k->group)
        group_metadata_changed(k->group);
    k->dirty = true;
}

/* ---- telling the program --------------------------------------------------------------------------------------------- */

int consumer_names_reserve(leat_consumer *k, size_t n)
{
    if (n <= k->names_capacity)
        return 0;
    leat_partition *grown = reallocarray(k->names, n, sizeof *grown);
    if (!grown)
        return -ENOMEM;
    k->names = grown;
    k->names_capacity = n;
    return 0;
}

void consumer_event(leat_consumer *k, leat_group_event_kind kind, Part *const *parts, size_t n)
{
    if (!k->rebalance)
        return;
    leat_partition *items = calloc(n + 1, sizeof *items);
    if (!items) {
        consumer_report(k, -ENOMEM, 0, "a rebalance could not be told");
        return;
    }
    for (size_t i = 0; i < n; i++)
        items[i] = (leat_partition){.topic = parts[i]->topic->name, .partition = parts[i]->partition, .offset = parts[i]->position};
    free(k->names); /* what the event before lent */
    k->names = items;
    k->names_capacity = n + 1;
    leat_group_event event = {.kind = kind, .partitions = items, .n = n};
    k->in_event = true;
    k->rebalance(k, &event, k->rebalance_userdata);
    k->in_event = false;
}

PUBLIC void leat_on_rebalance(leat_consumer *consumer, leat_rebalance_fn fn, void *userdata)
{
    if (!consumer)
        return;
    consumer->rebalance = fn;
    consumer->rebalance_userdata = userdata;
}

/* ---- life ------------------------------------------------------------------------------------------------------------ */

static leat_consumer *consumer_free(leat_consumer *k, bool here)
{
    if (k->tcp)
        tcp_consumer_free(k);
    if (here && !k->tcp) {
        commits_cancel(k);
        offsets_cancel(k);
        k->group = group_free(k->group, CLOSE_TIMEOUT_MS);
        parts_clear(k);
        delivery_free(k);
        client_doorbell(k->client);
    }
    list_remove(&k->node);
    free(k->parts);
    free(k->names);
    settings_deinit(&k->settings);
    leat_client *client = k->owns_client ? k->client : NULL;
    free(k);
    leat_client_free(client);
    return NULL;
}

PUBLIC int leat_consumer_attach(leat_client *client, const leat_conf *conf, leat_consumer **ret)
{
    int r = client_check(client);
    if (r < 0)
        return r;
    if (!ret)
        return -EINVAL;
    leat_consumer *k = calloc(1, sizeof *k);
    if (!k)
        return client_fail(client, -ENOMEM, "out of memory");
    *k = (leat_consumer){.client = client};
    list_init(&k->node);
    list_init(&k->commits);
    r = settings_load(conf, &k->settings);
    if (r == 0) {
        list_append(&client->consumers, &k->node);
        k->auto_commit_at_ns = clock_mono_ns() + k->settings.auto_commit_interval_ms * NS_PER_MS;
        r = client->tcp ? tcp_consumer_new(k, conf) : 0;
    }
    if (r < 0) {
        consumer_free(k, true);
        return r;
    }
    *ret = k;
    return 0;
}

PUBLIC int leat_consumer_new(const leat_conf *conf, leat_consumer **ret)
{
    leat_client *client = NULL;
    int r = leat_client_new(conf, &client);
    if (r < 0)
        return r;
    r = leat_consumer_attach(client, conf, ret);
    if (r < 0) {
        client_orphan(client);
        leat_client_free(client);
        return r;
    }
    (*ret)->owns_client = true;
    return 0;
}

PUBLIC leat_client *leat_consumer_client(leat_consumer *consumer)
{
    return consumer ? consumer->client : NULL;
}

/* The public calls' common door; calls that change what is assigned may not come from inside the rebalance function. */
static int door(const leat_consumer *k, bool changes)
{
    int r = k ? client_check(k->client) : -EINVAL;
    if (r == 0 && changes && k->in_event)
        return client_fail(k->client, -EBUSY, "not from inside the rebalance function");
    return r;
}

static void commit_before_leaving(leat_consumer *k)
{
    bool holds = !k->group || !group_is_gated(k->group);
    if (k->settings.auto_commit && k->settings.group_id[0] && holds && k->client->fab)
        commit_and_wait(k, NULL, 0, CLOSE_TIMEOUT_MS);
}

PUBLIC leat_consumer *leat_consumer_close(leat_consumer *consumer)
{
    if (!consumer)
        return NULL;
    bool here = client_check(consumer->client) == 0;
    if (here && !consumer->tcp) {
        delivery_release(consumer);
        commit_before_leaving(consumer);
    }
    return consumer_free(consumer, here);
}

/* ---- what to read ---------------------------------------------------------------------------------------------------- */

/* Ends membership and assignment. */
static void drop_all(leat_consumer *k)
{
    if (k->group)
        commit_before_leaving(k);
    k->group = group_free(k->group, CLOSE_TIMEOUT_MS);
    delivery_clear(k);
    parts_clear(k);
}

PUBLIC int leat_subscribe(leat_consumer *consumer, const char *const *topics, size_t n)
{
    int r = door(consumer, true);
    if (r < 0)
        return r;
    leat_client *c = consumer->client;
    if (!consumer->settings.group_id[0])
        return client_fail(c, -EINVAL, "leat_subscribe() needs group.id");
    if (n == 0 || !topics)
        return client_fail(c, -EINVAL, "no topics");
    for (size_t i = 0; i < n; i++)
        if (!topics[i] || !topic_name_is_valid(topics[i], strlen(topics[i])))
            return client_fail(c, -EINVAL, "'%s' is no topic name", topics[i] ? topics[i] : "(null)");
    if (consumer->tcp)
        return tcp_subscribe(consumer, topics, n);
    drop_all(consumer);
    consumer->group = group_new(consumer, topics, n);
    return consumer->group ? 0 : client_fail(c, -ENOMEM, "out of memory");
}

PUBLIC int leat_unsubscribe(leat_consumer *consumer)
{
    int r = door(consumer, true);
    if (r < 0)
        return r;
    if (consumer->tcp)
        return tcp_unsubscribe(consumer);
    drop_all(consumer);
    return 0;
}

PUBLIC int leat_assign(leat_consumer *consumer, const leat_partition *partitions, size_t n)
{
    int r = door(consumer, true);
    if (r < 0)
        return r;
    if (n > 0 && !partitions)
        return -EINVAL;
    for (size_t i = 0; i < n; i++)
        if (!partitions[i].topic || !topic_name_is_valid(partitions[i].topic, strlen(partitions[i].topic)) ||
            partitions[i].partition < 0 ||
            (partitions[i].offset < LEAT_OFFSET_EARLIEST && partitions[i].offset != LEAT_OFFSET_COMMITTED))
            return client_fail(consumer->client, -EINVAL, "item %zu names no topic, partition and offset", i);
    if (consumer->tcp)
        return tcp_assign(consumer, partitions, n);
    drop_all(consumer);
    for (size_t i = 0; r == 0 && i < n; i++)
        r = part_add(consumer, partitions[i].topic, strlen(partitions[i].topic), partitions[i].partition, partitions[i].offset);
    if (r < 0)
        parts_clear(consumer);
    return r;
}

PUBLIC int leat_seek(leat_consumer *consumer, const char *topic, int32_t partition, int64_t offset)
{
    int r = door(consumer, false);
    if (r < 0)
        return r;
    if (offset < LEAT_OFFSET_EARLIEST && offset != LEAT_OFFSET_COMMITTED)
        return client_fail(consumer->client, -EINVAL, "offset %lld", (long long)offset);
    if (consumer->tcp)
        return tcp_seek(consumer, topic, partition, offset);
    Part *p = part_find(consumer, topic, partition);
    if (!p)
        return client_fail(consumer->client, -ENOENT, "%s-%d is not assigned", topic ? topic : "", partition);
    part_start_at(p, offset);
    return 0;
}

PUBLIC int leat_pause(leat_consumer *consumer, const char *topic, int32_t partition, bool pause)
{
    int r = door(consumer, false);
    if (r < 0)
        return r;
    if (consumer->tcp)
        return tcp_pause(consumer, topic, partition, pause);
    Part *p = part_find(consumer, topic, partition);
    if (!p)
        return client_fail(consumer->client, -ENOENT, "%s-%d is not assigned", topic ? topic : "", partition);
    part_pause(p, pause);
    return 0;
}

PUBLIC int64_t leat_position(const leat_consumer *consumer, const char *topic, int32_t partition)
{
    if (door(consumer, false) < 0)
        return -1;
    if (consumer->tcp)
        return tcp_position(consumer, topic, partition);
    const Part *p = part_find(consumer, topic, partition);
    return p ? p->position : -1;
}

PUBLIC size_t leat_assignment(const leat_consumer *consumer, leat_partition *ret, size_t n_max)
{
    if (door(consumer, false) < 0)
        return 0;
    if (consumer->tcp)
        return tcp_assignment(consumer, ret, n_max);
    for (size_t i = 0; i < MIN(n_max, consumer->n_parts); i++) {
        const Part *p = consumer->parts[i];
        ret[i] = (leat_partition){.topic = p->topic->name, .partition = p->partition, .offset = p->position};
    }
    return consumer->n_parts;
}

PUBLIC bool leat_at_end(const leat_consumer *consumer)
{
    if (door(consumer, false) < 0)
        return false;
    if (consumer->tcp)
        return tcp_at_end(consumer);
    for (size_t i = 0; i < consumer->n_parts; i++)
        if (!consumer->parts[i]->at_end)
            return false;
    return consumer->n_parts > 0;
}

/* ---- polling --------------------------------------------------------------------------------------------------------- */

/* Everything handed out by earlier polls counts as processed now. */
static void auto_commit(leat_consumer *k, int64_t now_ns)
{
    if (!k->settings.auto_commit || !k->settings.group_id[0] || now_ns < k->auto_commit_at_ns)
        return;
    k->auto_commit_at_ns = now_ns + k->settings.auto_commit_interval_ms * NS_PER_MS;
    if (list_is_empty(&k->commits) && !(k->group && group_is_gated(k->group)))
        commit_positions(k, NULL, NULL);
}

static int take_error(leat_consumer *k)
{
    int error = k->error;

    client_fail(k->client, error, "%s", k->error_text);
    k->client->kafka_error = k->kafka_error;
    k->error = 0;
    return error;
}

PUBLIC int leat_poll(leat_consumer *consumer, int64_t timeout_ms, leat_record *ret, size_t n_max)
{
    leat_consumer *k = consumer;
    int r = door(k, true);
    if (r < 0)
        return r;
    if (!ret || n_max == 0)
        return client_fail(k->client, -EINVAL, "no room for records");
    if (k->tcp)
        return tcp_poll(k, timeout_ms, ret, n_max);
    leat_client *c = k->client;
    int64_t now_ns = clock_mono_ns(), deadline_ns = timeout_ms < 0 ? INT64_MAX : now_ns + timeout_ms * NS_PER_MS;

    if (k->borrowed || k->n_spent)
        delivery_release(k);
    if (c->fab)
        fab_client_touch_progress(c->fab);
    auto_commit(k, now_ns);
    for (;;) {
        r = client_turn(c);
        if (r < 0)
            return r;
        if (!k->group || !group_is_gated(k->group)) {
            r = delivery_fill(k, ret, n_max);
            if (r > 0)
                return r;
        }
        if (k->error < 0)
            return take_error(k);
        now_ns = clock_mono_ns();
        if (now_ns >= deadline_ns || client_sleep(c, deadline_ns) == -EINTR)
            return 0;
    }
}

PUBLIC int leat_record_header(const leat_record *record, size_t i, leat_header *ret)
{
    if (!record || !ret)
        return -EINVAL;
    const void *at = record->headers;
    size_t size = record->headers_size;
    RecordHeader h;

    if (i >= record->headers_count)
        return -ENOENT;
    for (size_t k = 0; k <= i; k++) {
        int r = record_header_next(&at, &size, &h);
        if (r <= 0)
            return r < 0 ? r : -ENOENT;
    }
    *ret = (leat_header){.key = h.key, .key_size = (size_t)h.key_size, .value = h.value, .value_size = h.value_size};
    return 0;
}
