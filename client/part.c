/*
 * Assigned partitions: from "assigned" to "subscribed at an offset", and back when something goes wrong.
 *
 *   NEED_COMMITTED --offset--> READY --subscribe--> LIVE
 *        | none, auto.offset.reset                    | seek, pause, error, session died: new generation
 *        v                                            v
 *   NEED_OFFSET ------offset--> READY <---------------+
 *                                 ^--- LEASED <--- LEASING <--- far behind: lease.c
 *
 * Latest and earliest are resolved to a number before subscribing. So a position is known from the start, and a consumer
 * that had not seen a record yet when the broker died goes on where it began, not at a later "latest".
 */

#include "client/consumer.h"
#include "base/clock.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

Part *part_find(const leat_consumer *k, const char *topic, int32_t partition)
{
    const leat_topic *t = topic ? topic_find(k->client, topic, strlen(topic)) : NULL;
    if (!t || partition < 0 || partition >= t->n_parts || !t->parts[partition] || t->parts[partition]->consumer != k)
        return NULL;
    return t->parts[partition];
}

void consumer_report(leat_consumer *k, int error, int16_t kafka_error, const char *what)
{
    if (k->error < 0)
        return; /* the first one stands */
    k->error = error;
    k->kafka_error = kafka_error;
    snprintf(k->error_text, sizeof k->error_text, "%s: %s", what, kafka_error ? k_error_message(kafka_error) : leat_strerror(error));
}

/* What the broker delivers under the old generation is dropped when it is met. */
static void part_outdate(Part *p)
{
    lease_end(p);
    p->generation = ++p->consumer->client->generation;
    p->at_end = false;
    delivery_forget_part(p->consumer, p);
}

static void part_set(Part *p, PartState state, int64_t retry_at_ns)
{
    p->state = state;
    p->retry_at_ns = retry_at_ns;
    p->consumer->dirty = true;
}

void part_unsubscribe(Part *p)
{
    FabSqe sqe = {.op = FAB_OP_UNSUBSCRIBE, .handle = p->topic->handle, .partition = p->partition};
    if (p->state == PART_LIVE && p->topic->state == TOPIC_OPEN)
        client_submit(p->consumer->client, OP_UNSUBSCRIBE, NULL, &sqe, NULL);
}

void part_again(Part *p)
{
    part_outdate(p);
    part_set(p, PART_READY, 0);
}

void part_start_at(Part *p, int64_t offset)
{
    if (offset < 0 && p->state == PART_LIVE)
        part_unsubscribe(p); /* no frames while the number is looked up */
    part_outdate(p);
    p->asked = false;
    if (offset >= 0) {
        p->position = offset;
        part_set(p, PART_READY, 0);
        return;
    }
    p->position = -1;
    p->want = offset;
    part_set(p, offset == LEAT_OFFSET_COMMITTED ? PART_NEED_COMMITTED : PART_NEED_OFFSET, 0);
}

int part_add(leat_consumer *k, const char *topic, size_t topic_size, int32_t partition, int64_t offset)
{
    leat_client *c = k->client;
    leat_topic *t = topic_intern(c, topic, topic_size);

    if (!t || partition < 0 || topic_require_partition(t, partition) < 0)
        return t && partition < 0 ? -EINVAL : client_fail(c, -ENOMEM, "out of memory");
    if (t->parts[partition])
        return client_fail(c, -EBUSY, "%s-%d has a consumer on this client already", t->name, partition);
    if (k->n_parts >= CONSUMER_PARTS_MAX)
        return client_fail(c, -ENOSPC, "more than %d partitions", CONSUMER_PARTS_MAX);
    if ((k->n_parts & (k->n_parts - 1)) == 0) {
        Part **grown = reallocarray(k->parts, MAX(2 * k->n_parts, 4), sizeof(Part *));
        if (!grown)
            return client_fail(c, -ENOMEM, "out of memory");
        k->parts = grown;
    }
    Part *p = calloc(1, sizeof *p);
    if (!p)
        return client_fail(c, -ENOMEM, "out of memory");
    *p = (Part){.consumer = k, .topic = t, .partition = partition, .lease = {.fd = -1}, .high_watermark = -1, .committed = -1, .leader_epoch = -1};
    t->parts[partition] = p;
    t->wanted = true;
    k->parts[k->n_parts++] = p;
    part_start_at(p, offset);
    return 0;
}

void part_remove(leat_consumer *k, size_t i)
{
    Part *p = k->parts[i];

    part_unsubscribe(p);
    lease_end(p);
    delivery_forget_part(k, p);
    p->topic->parts[p->partition] = NULL;
    k->parts[i] = k->parts[--k->n_parts];
    free(p);
}

void parts_clear(leat_consumer *k)
{
    while (k->n_parts > 0)
        part_remove(k, k->n_parts - 1);
    if (!k->borrowed)
        delivery_release(k);
}

void part_pause(Part *p, bool pause)
{
    if (p->paused == pause)
        return;
    p->paused = pause;
    if (pause && p->state >= PART_LIVE && p->state <= PART_LEASED) {
        part_unsubscribe(p);
        part_outdate(p);
        part_set(p, PART_READY, 0);
    }
    p->consumer->dirty = true;
}

void part_error(Part *p, int16_t e)
{
    leat_consumer *k = p->consumer;
    int64_t later_ns = clock_mono_ns() + k->settings.retry_backoff_ms * NS_PER_MS;
    char what[300];

    snprintf(what, sizeof what, "%.200s-%d at offset %lld", p->topic->name, p->partition, (long long)p->position);
    part_outdate(p);
    p->retry_at_ns = later_ns;
    switch (e) {
    case K_OFFSET_OUT_OF_RANGE:
        if (k->settings.offset_reset == RESET_NONE) {
            part_set(p, PART_FAILED, 0);
            consumer_report(k, -ERANGE, e, what);
            return;
        }
        p->want = k->settings.offset_reset == RESET_EARLIEST ? LEAT_OFFSET_EARLIEST : LEAT_OFFSET_LATEST;
        part_set(p, PART_NEED_OFFSET, 0);
        return;
    case K_UNKNOWN_TOPIC_OR_PARTITION:
    case K_UNKNOWN_TOPIC_ID:
        topic_reopen(p->topic);
        break;
    case K_CORRUPT_MESSAGE:
    case K_TOPIC_AUTHORIZATION_FAILED:
    case K_GROUP_AUTHORIZATION_FAILED:
    case K_INVALID_TOPIC_EXCEPTION:
        consumer_report(k, error_from_kafka(e), e, what); /* and tried again: an operator may mend it */
        p->retry_at_ns = later_ns = clock_mono_ns() + NS_PER_S;
        break;
    default:
        break;
    }
    part_set(p, p->position >= 0 ? PART_READY : p->state, later_ns);
}

void consumer_subscription_failed(leat_consumer *k, uint32_t generation, int16_t kafka_error)
{
    for (size_t i = 0; i < k->n_parts; i++)
        if (k->parts[i]->generation == generation) {
            part_error(k->parts[i], kafka_error);
            return;
        }
}

static void part_subscribe(Part *p)
{
    leat_consumer *k = p->consumer;
    FabSubscribe s = {
        .offset = p->position,
        .leader_epoch = p->leader_epoch,
        .min_bytes = (uint32_t)k->settings.fetch_min_bytes,
        .max_wait_ms = (uint32_t)k->settings.fetch_max_wait_ms,
        .max_frame_bytes = (uint32_t)k->settings.max_partition_fetch_bytes,
        .isolation = (uint8_t)k->settings.isolation,
    };
    FabSqe sqe = {.op = FAB_OP_SUBSCRIBE, .handle = p->topic->handle, .partition = p->partition};
    Op *op;

    s.generation = p->generation = ++k->client->generation;
    int r = client_submit_copy(k->client, OP_SUBSCRIBE, k, &sqe, &s, sizeof s, &op);
    if (r < 0) {
        part_set(p, PART_READY, clock_mono_ns() + (r == -EAGAIN ? NS_PER_MS : 0));
        return;
    }
    op->generation = s.generation;
    p->state = PART_LIVE;
    p->at_end = false;
}

static bool part_step(Part *p, int64_t now_ns, bool *ask_committed, bool *ask_list)
{
    if (p->retry_at_ns > now_ns)
        return true;
    switch (p->state) {
    case PART_NEED_COMMITTED:
        *ask_committed = !p->asked;
        return false; /* the answer sets dirty */
    case PART_NEED_OFFSET:
        *ask_list = !p->asked;
        return false;
    case PART_READY:
        if (p->paused)
            return false;
        if (p->topic->state != TOPIC_OPEN) {
            p->topic->wanted = true; /* also after this client has deleted it: another may make it anew */
            return false;            /* topic_opened() sets dirty */
        }
        if (p->try_lease)
            lease_ask(p);
        else
            part_subscribe(p);
        return p->state == PART_READY;
    case PART_LIVE:
    case PART_LEASING:
    case PART_LEASED:
    case PART_FAILED:
    default:
        return false;
    }
}

void parts_turn(leat_consumer *k, int64_t now_ns)
{
    if (LIKELY(!k->dirty) || !k->client->fab)
        return;
    bool ask_committed = false, ask_list = false, left = false;
    k->due_ns = INT64_MAX;
    for (size_t i = 0; i < k->n_parts; i++) {
        bool committed = false, list = false;
        if (part_step(k->parts[i], now_ns, &committed, &list)) {
            left = true;
            k->due_ns = MIN(k->due_ns, MAX(k->parts[i]->retry_at_ns, now_ns + NS_PER_MS));
        }
        ask_committed |= committed;
        ask_list |= list;
    }
    k->dirty = left;
    if (ask_committed)
        offsets_ask_committed(k);
    if (ask_list)
        offsets_ask_list(k);
}
