/*
 * The public face of producing. leat_produce() is the hot path: pick a lane, append to its open batch, and only when that
 * batch is full, or nothing of the lane is under way and linger.ms is 0, submit it. No allocation and no system call for a
 * record that fits; the clock is read precisely for the first record of a batch and coarsely (a tick) for the others.
 *
 * Natural batching (linger.ms=0): a record that finds nothing of its partition in flight goes at once; while a batch is in
 * flight the next one gathers, and goes when the first is acknowledged. Idle costs no delay, load makes large batches.
 */

#include "client/producer.h"
#include "base/clock.h"
#include "client/tcp.h"
#include "wire/messages.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define REAP_EVERY               16 /* records between two looks at the completions; a power of two */

/* ---- life ---------------------------------------------------------------------------------------------------------- */

static void id_answered(void *userdata, int error, const void *body, size_t size)
{
    leat_producer *p = userdata;
    Arena arena = ARENA_NULL;
    KInitProducerIdResponse a;

    p->id_request = NULL;
    p->id_error = error < 0 ? error : request_decode(K_API_INIT_PRODUCER_ID, body, size, &arena, &a);
    if (p->id_error == 0 && a.error_code == K_NONE)
        p->producer_id = a.producer_id;
    else if (p->id_error == 0)
        p->id_error = client_fail_kafka(p->client, a.error_code, "producer id");
    if (p->id_error == 0 || k_error_is_retriable(p->client->kafka_error))
        p->id_error = p->id_error ? -EAGAIN : 0;
    arena_deinit(&arena);
    p->id_retry_at_ns = clock_mono_ns() + p->settings.retry_backoff_ms * NS_PER_MS;
    p->stalled = true; /* lanes wait for it */
}

void producer_renew_id(leat_producer *p)
{
    RequestOptions o = {.api_key = K_API_INIT_PRODUCER_ID, .again = true, .timeout_ms = p->settings.request_timeout_ms,
                        .fn = id_answered, .userdata = p};
    KInitProducerIdRequest q;

    if (p->id_request)
        return;
    if (clock_mono_ns() < p->id_retry_at_ns) {
        p->due_ns = MIN(p->due_ns, p->id_retry_at_ns);
        return;
    }
    k_message_init(&k_init_producer_id_request, &q);
    q.transactional_id = K_STR_NULL;
    q.transaction_timeout_ms = INT32_MAX;
    p->id_error = request_start(p->client, &o, &q, &p->id_request);
}

static bool id_is_settled(void *userdata)
{
    return !((leat_producer *)userdata)->id_request;
}

static int producer_id_get(leat_producer *p)
{
    leat_client *c = p->client;
    int64_t deadline_ns = clock_mono_ns() + p->settings.request_timeout_ms * NS_PER_MS;

    for (;;) {
        producer_renew_id(p);
        int r = client_run_until(c, id_is_settled, p, deadline_ns);
        if (p->producer_id >= 0)
            return 0;
        if (r == 0 && p->id_error == -EAGAIN && client_back_off(c, deadline_ns))
            continue;
        return r == -ETIMEDOUT ? client_fail(c, r, "producer id: no answer within request.timeout.ms") : MIN(r, p->id_error);
    }
}

static leat_producer *producer_free(leat_producer *p)
{
    request_cancel(p->id_request);
    if (p->tcp)
        tcp_producer_free(p);
    producer_free_lanes(p);
    list_remove(&p->node);
    free(p->headers);
    free(p->reports);
    settings_deinit(&p->settings);
    leat_client *client = p->owns_client ? p->client : NULL;
    free(p);
    leat_client_free(client);
    return NULL;
}

PUBLIC int leat_producer_attach(leat_client *client, const leat_conf *conf, leat_producer **ret)
{
    int r = client_check(client);
    if (r < 0)
        return r;
    if (!ret)
        return -EINVAL;
    leat_producer *p = calloc(1, sizeof *p);
    if (!p)
        return client_fail(client, -ENOMEM, "out of memory");
    list_init(&p->node);
    list_init(&p->active);
    p->client = client;
    p->due_ns = INT64_MAX;
    p->producer_id = -1;
    r = settings_load(conf, &p->settings);
    const char *transactional_id = leat_conf_get(conf, "transactional.id");
    if (r == 0 && transactional_id && transactional_id[0])
        r = client_fail(client, -ENOTSUP, "transactional.id: there are no transactions yet; without it a producer is idempotent");
    if (r == 0) {
        p->acks = settings_acks(&p->settings);
        p->idempotent = p->settings.idempotence && p->acks != 0;
        list_append(&client->producers, &p->node);
        r = client->tcp ? tcp_producer_new(p, conf) : p->idempotent ? producer_id_get(p) : 0;
    }
    if (r < 0) {
        producer_free(p);
        return r;
    }
    *ret = p;
    return 0;
}

PUBLIC int leat_producer_new(const leat_conf *conf, leat_producer **ret)
{
    leat_client *client = NULL;
    int r = leat_client_new(conf, &client);
    if (r < 0)
        return r;
    r = leat_producer_attach(client, conf, ret);
    if (r < 0) {
        client_orphan(client);
        leat_client_free(client);
        return r;
    }
    (*ret)->owns_client = true;
    return 0;
}

PUBLIC leat_producer *leat_producer_close(leat_producer *producer, uint64_t *ret_lost)
{
    if (!producer)
        return NULL;
    if (client_check(producer->client) == 0) {
        if (producer->claim)
            leat_abort(producer);
        leat_flush(producer, producer->settings.delivery_timeout_ms);
        if (ret_lost)
            *ret_lost = producer->lost + leat_in_flight(producer);
    }
    return producer_free(producer);
}

PUBLIC leat_client *leat_producer_client(leat_producer *producer)
{
    return producer ? producer->client : NULL;
}

/* ---- records ------------------------------------------------------------------------------------------------------- */

/* The coarse clock lags by a tick: within a batch no record is dated before the first one. */
static inline int64_t record_now_ms(leat_producer *p, bool first)
{
    if (first)
        return p->first_now_ms = clock_wall_ms();
    struct timespec t;
    clock_gettime(CLOCK_REALTIME_COARSE, &t);
    return MAX(t.tv_sec * 1000 + t.tv_nsec / NS_PER_MS, p->first_now_ms);
}

static __attribute__((noinline)) int partition_missing(leat_producer *p, const leat_message *m)
{
    if (m->partition < LEAT_PARTITION_ANY)
        return client_fail(p->client, -EINVAL, "partition %d", m->partition);
    topics_refresh(p->client); /* perhaps it has grown */
    return client_fail(p->client, -ENOENT, "topic '%s' has no partition %d", m->topic->name, m->partition);
}

static __attribute__((noinline)) Lane *lane_slow(leat_producer *p, leat_topic *t, int32_t partition)
{
    Lane *lane = lane_get(p, t, partition);
    if (!lane)
        client_fail(p->client, -ENOMEM, "out of memory");
    return lane;
}

static inline int pick_lane(leat_producer *p, const leat_message *m, Lane **ret)
{
    leat_topic *t = m->topic;
    ProducerTopic *pt = LIKELY(t->index < p->n_topics) ? &p->topics[t->index] : NULL;
    int32_t partition = m->partition, n = t->partitions;

    if (partition == LEAT_PARTITION_ANY && n > 0) {
        if (p->settings.partitioner == PARTITIONER_MURMUR2 && m->key_size >= 0)
            partition = partition_for_key(m->key, (size_t)m->key_size, n);
        else if (p->settings.partitioner == PARTITIONER_ROUNDROBIN)
            partition = (int32_t)(p->round_robin++ % (uint64_t)n);
        else
            partition = pt ? pt->sticky : 0;
    }
    if (UNLIKELY(partition < 0 || partition >= n))
        return partition_missing(p, m);
    Lane *lane = LIKELY(pt && partition < pt->n_lanes) ? pt->lanes[partition] : NULL;
    if (UNLIKELY(!lane) && !(lane = lane_slow(p, t, partition)))
        return -ENOMEM;
    *ret = lane;
    return 0;
}

static inline bool bytes_are_sane(const void *data, ptrdiff_t size)
{
    return (uint64_t)size + 1 <= INT32_MAX && (size <= 0 || data);
}

static __attribute__((noinline)) int headers_check(leat_producer *p, const leat_message *m)
{
    if (m->headers_count > PRODUCER_HEADERS_MAX || !m->headers)
        return client_fail(p->client, -EINVAL, "more than %d headers, or none given", PRODUCER_HEADERS_MAX);
    for (size_t i = 0; i < m->headers_count; i++) {
        const leat_header *h = &m->headers[i];
        if (!h->key || h->key_size >= INT32_MAX || !bytes_are_sane(h->value, h->value_size))
            return client_fail(p->client, -EINVAL, "header %zu has no key, or a value without its bytes", i);
    }
    return 0;
}

static int headers_convert(leat_producer *p, const leat_message *m, RecordView *v)
{
    if (!p->headers && !(p->headers = calloc(PRODUCER_HEADERS_MAX, sizeof *p->headers)))
        return client_fail(p->client, -ENOMEM, "out of memory");
    for (size_t i = 0; i < m->headers_count; i++) {
        const leat_header *h = &m->headers[i];
        p->headers[i] = (RecordHeader){.key = h->key, .key_size = (int32_t)h->key_size, .value = h->value,
                                       .value_size = (int32_t)h->value_size};
    }
    v->headers = p->headers;
    v->headers_count = (int32_t)m->headers_count;
    return 0;
}

/* Everything that is not the straight road. */
static __attribute__((noinline)) int gate(leat_producer *p, const leat_message *m)
{
    if (!p)
        return -EINVAL;
    int r = client_check(p->client);
    if (r < 0)
        return r;
    if (p->claim)
        return client_fail(p->client, -EBUSY, "leat_claim() without leat_commit() or leat_abort()");
    if (p->refused)
        return -EIO; /* the text of the refusal stands */
    if (!m || m->size < sizeof *m || !m->topic || m->topic->client != p->client)
        return client_fail(p->client, -EINVAL, "message without a topic of this client");
    if (!bytes_are_sane(m->key, m->key_size) || !bytes_are_sane(m->value, m->value_size))
        return client_fail(p->client, -EINVAL, "key or value: a size from -1 to 2^31-2, and bytes if it is above 0");
    if (m->opaque && p->reports_end - p->reports_first >= PRODUCER_REPORTS_MAX)
        return client_fail(p->client, -EAGAIN, "reports are not read");
    return 0;
}

static inline bool is_plain(const leat_producer *p, const leat_message *m)
{
    return p && m && client_check(p->client) == 0 && !p->claim && !p->refused && m->size >= sizeof *m && m->topic &&
           m->topic->client == p->client && bytes_are_sane(m->key, m->key_size) && bytes_are_sane(m->value, m->value_size) &&
           !m->opaque;
}

/* Room for one record in the lane's open batch. Return: 0; -EAGAIN; -EMSGSIZE; -ECONNRESET; -ENOMEM. */
static __attribute__((noinline)) int make_room(leat_producer *p, Lane *lane, size_t record_size)
{
    leat_client *c = p->client;

    if (BATCH_HEADER_SIZE + record_size > FAB_BATCH_MAX ||
        (c->fab && BATCH_HEADER_SIZE + record_size > fab_client_welcome(c->fab)->message_max_bytes))
        return client_fail(c, -EMSGSIZE, "a record of %zu bytes exceeds message.max.bytes", record_size);
    if (!c->fab && clock_mono_ns() - c->down_since_ns > p->settings.delivery_timeout_ms * NS_PER_MS)
        return -ECONNRESET;
    if (lane->open && lane->open->builder.count > 0)
        lane_close(lane, true);
    else if (lane->open)
        lane_discard_open(lane);
    lane_pump(lane, clock_mono_ns());
    client_doorbell(c);
    int r = lane_open(lane, record_size);
    if (r == -EAGAIN) {
        client_reap(c);
        if (c->broken || !c->fab)
            client_turn_quietly(c);
        r = lane_open(lane, record_size);
    }
    return r == -ENOMEM ? client_fail(c, r, "out of memory") : r;
}

/* After a record went into lane->open. */
static inline void appended(leat_producer *p, Lane *lane)
{
    p->in_flight++;
    if (lane->n_queued == 0 && p->settings.linger_ms == 0) {
        lane_close(lane, false);
        lane_pump(lane, 0);
        client_doorbell(p->client);
        return;
    }
    int32_t n = lane->open->builder.count;
    if (n <= 4 || (n & (REAP_EVERY - 1)) == 0) {
        client_reap(p->client);
        if (UNLIKELY(p->settings.linger_ms > 0) || UNLIKELY(p->client->broken) || UNLIKELY(!p->client->fab))
            client_turn_quietly(p->client);
    }
}

PUBLIC int leat_produce(leat_producer *producer, const leat_message *message)
{
    leat_producer *p = producer;
    const leat_message *m = message;
    Lane *lane;
    int r;

    if (UNLIKELY(!is_plain(p, m)) && (r = gate(p, m)) < 0)
        return r;
    if (UNLIKELY(m->headers_count > 0) && (r = headers_check(p, m)) < 0)
        return r;
    if (UNLIKELY(p->tcp))
        return tcp_produce(p, m);
    if (UNLIKELY((r = pick_lane(p, m, &lane)) < 0))
        return r;
    RecordView v = {.timestamp = m->timestamp_ms, .key = m->key, .key_size = (int32_t)m->key_size, .value = m->value,
                    .value_size = (int32_t)m->value_size};
    if (UNLIKELY(m->headers_count > 0) && (r = headers_convert(p, m, &v)) < 0)
        return r;
    if (v.timestamp == 0)
        v.timestamp = record_now_ms(p, !lane->open || lane->open->builder.count == 0);
    if (UNLIKELY(!lane->open) || batch_builder_append(&lane->open->builder, &v) < 0) {
        r = make_room(p, lane, batch_record_size_max(&v));
        if (r == 0)
            r = batch_builder_append(&lane->open->builder, &v);
        if (r < 0)
            return r;
    }
    if (UNLIKELY(m->opaque != NULL) && batch_mark(lane->open, m->opaque, v.timestamp) < 0)
        client_fail(p->client, -ENOMEM, "out of memory: a record will have no report");
    appended(p, lane);
    return 0;
}

/* ---- claims -------------------------------------------------------------------------------------------------------- */

PUBLIC int leat_claim(leat_producer *producer, const leat_message *message, size_t value_size, void **ret_value)
{
    leat_producer *p = producer;
    const leat_message *m = message;
    Lane *lane;
    int r = gate(p, m);

    if (r < 0)
        return r;
    if (p->tcp)
        return client_fail(p->client, -ENOTSUP, "claims need a session (unix: bootstrap)");
    if (!ret_value || value_size > INT32_MAX || m->headers_count > 0)
        return client_fail(p->client, -EINVAL, "a claimed record has a value below 2 GiB and no headers");
    if ((r = pick_lane(p, m, &lane)) < 0)
        return r;
    RecordView v = {.timestamp = m->timestamp_ms ? m->timestamp_ms : clock_wall_ms(), .key = m->key,
                    .key_size = (int32_t)m->key_size, .value_size = (int32_t)value_size};
    BatchBuilder undo = lane->open ? lane->open->builder : (BatchBuilder){0};
    void *value = lane->open ? batch_builder_claim(&lane->open->builder, v.timestamp, v.key, v.key_size, v.value_size) : NULL;
    if (!value) {
        r = make_room(p, lane, batch_record_size_max(&v));
        if (r < 0)
            return r;
        undo = lane->open->builder;
        value = batch_builder_claim(&lane->open->builder, v.timestamp, v.key, v.key_size, v.value_size);
        if (!value)
            return -EMSGSIZE;
    }
    p->claim = lane;
    p->claim_undo = undo;
    p->claim_opaque = m->opaque;
    p->claim_timestamp_ms = v.timestamp;
    *ret_value = value;
    return 0;
}

PUBLIC int leat_commit(leat_producer *producer)
{
    if (!producer)
        return -EINVAL;
    int r = client_check(producer->client);
    if (r < 0)
        return r;
    Lane *lane = TAKE(producer->claim);
    if (!lane)
        return client_fail(producer->client, -EINVAL, "nothing is claimed");
    if (producer->claim_opaque && batch_mark(lane->open, producer->claim_opaque, producer->claim_timestamp_ms) < 0)
        client_fail(producer->client, -ENOMEM, "out of memory: a record will have no report");
    appended(producer, lane);
    return 0;
}

PUBLIC int leat_abort(leat_producer *producer)
{
    if (!producer)
        return -EINVAL;
    int r = client_check(producer->client);
    if (r < 0)
        return r;
    Lane *lane = TAKE(producer->claim);
    if (!lane)
        return client_fail(producer->client, -EINVAL, "nothing is claimed");
    lane->open->builder = producer->claim_undo;
    if (lane->open->builder.count == 0)
        lane_discard_open(lane);
    return 0;
}

/* ---- waiting and reports ------------------------------------------------------------------------------------------- */

static bool is_flushed(void *userdata)
{
    return ((leat_producer *)userdata)->in_flight == 0;
}

PUBLIC int leat_flush(leat_producer *producer, int64_t timeout_ms)
{
    if (!producer)
        return -EINVAL;
    leat_client *c = producer->client;
    int r = client_check(c);
    if (r < 0)
        return r;
    if (producer->tcp)
        return tcp_flush(producer, timeout_ms);
    if (producer->claim)
        return client_fail(c, -EBUSY, "leat_claim() without leat_commit() or leat_abort()");
    int64_t now_ns = clock_mono_ns();
    producer_flush_lanes(producer, now_ns);
    client_doorbell(c);
    r = client_run_until(c, is_flushed, producer, timeout_ms < 0 ? INT64_MAX : now_ns + timeout_ms * NS_PER_MS);
    producer->flushing = false;
    if (r == -ETIMEDOUT)
        return client_fail(c, r, "%llu records are not acknowledged yet: %s", (unsigned long long)producer->in_flight,
                           producer_obstacle(producer));
    return r == 0 && producer->refused ? -EIO : r;
}

PUBLIC uint64_t leat_in_flight(const leat_producer *producer)
{
    if (!producer || client_check(producer->client) < 0)
        return 0;
    return producer->tcp ? tcp_in_flight(producer) : producer->in_flight;
}

PUBLIC size_t leat_reports(leat_producer *producer, leat_report *ret, size_t n_max)
{
    if (!producer || client_check(producer->client) < 0 || !ret)
        return 0;
    if (producer->tcp)
        tcp_turn(producer->client);
    size_t n = 0;
    while (n < n_max && producer->reports_first < producer->reports_end)
        ret[n++] = producer->reports[producer->reports_first++ & producer->reports_mask];
    if (producer->reports_first == producer->reports_end)
        producer->refused = false;
    return n;
}
