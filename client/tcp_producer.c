/* Producing through librdkafka: reports arrive through its delivery report callback inside our own calls. */

#include "client/tcp.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct TcpProducer {
    rd_kafka_t *handle;
    rd_kafka_queue_t *queue;
};

static void on_delivery(rd_kafka_t *rk, const rd_kafka_message_t *m, void *opaque)
{
    leat_producer *p = opaque;
    leat_client *c = p->client;
    const char *name = rd_kafka_topic_name(m->rkt);
    (void)rk;

    assert(p->in_flight > 0);
    p->in_flight--;
    int error = tcp_error(m->err);
    if (error < 0) {
        p->lost++;
        p->refused = true;
        tcp_fail(c, m->err, name);
    }
    if (error == 0 && !m->_private)
        return;
    rd_kafka_timestamp_type_t type;
    leat_report r = {.opaque = m->_private, .error = error, .kafka_error = (int16_t)MAX((int)m->err, 0),
                     .topic = topic_find(c, name, strlen(name)), .partition = m->partition,
                     .offset = error == 0 && p->acks != 0 ? m->offset : -1,
                     .timestamp_ms = rd_kafka_message_timestamp(m, &type), .records = 1};
    producer_report(p, &r);
}

int tcp_producer_new(leat_producer *p, const leat_conf *conf)
{
    char why[256];
    TcpProducer *t = calloc(1, sizeof *t);
    if (!t)
        return client_fail(p->client, -ENOMEM, "out of memory");
    p->tcp = t;
    rd_kafka_conf_t *rkc = tcp_conf(p->client, conf, &p->settings, RD_KAFKA_PRODUCER);
    if (!rkc)
        return -EINVAL;
    rd_kafka_conf_set_opaque(rkc, p);
    rd_kafka_conf_set_dr_msg_cb(rkc, on_delivery);
    t->handle = rd_kafka_new(RD_KAFKA_PRODUCER, rkc, why, sizeof why);
    if (!t->handle) {
        rd_kafka_conf_destroy(rkc);
        return client_fail(p->client, -EINVAL, "librdkafka: %s", why);
    }
    t->queue = rd_kafka_queue_get_main(t->handle);
    tcp_signal(p->client, t->queue);
    return 0;
}

void tcp_producer_free(leat_producer *p)
{
    TcpProducer *t = TAKE(p->tcp);
    bool here = client_check(p->client) == 0;

    if (t->handle && here) {
        rd_kafka_purge(t->handle, RD_KAFKA_PURGE_F_QUEUE | RD_KAFKA_PURGE_F_INFLIGHT);
        rd_kafka_poll(t->handle, 0);
        rd_kafka_queue_destroy(t->queue);
        rd_kafka_destroy(t->handle);
    }
    free(t);
}

rd_kafka_t *tcp_producer_handle(const leat_producer *p)
{
    return p->tcp ? p->tcp->handle : NULL;
}

void tcp_producer_turn(leat_producer *p)
{
    if (p->tcp && p->tcp->handle)
        rd_kafka_poll(p->tcp->handle, 0);
}

static rd_kafka_headers_t *headers_of(const leat_message *m)
{
    rd_kafka_headers_t *out = rd_kafka_headers_new(m->headers_count);
    for (size_t i = 0; out && i < m->headers_count; i++)
        rd_kafka_header_add(out, m->headers[i].key, (ssize_t)m->headers[i].key_size, m->headers[i].value,
                            m->headers[i].value_size < 0 ? -1 : m->headers[i].value_size);
    return out;
}

int tcp_produce(leat_producer *p, const leat_message *m)
{
    if (m->partition < LEAT_PARTITION_ANY)
        return client_fail(p->client, -EINVAL, "partition %d", m->partition);
    if (m->partition >= m->topic->partitions)
        return client_fail(p->client, -ENOENT, "topic '%s' has no partition %d", m->topic->name, m->partition);
    rd_kafka_headers_t *headers = m->headers_count ? headers_of(m) : NULL;
    /* librdkafka tells an empty key or value from null by the pointer. */
    const void *key = m->key_size < 0 ? NULL : m->key_size == 0 ? "" : m->key;
    const void *value = m->value_size < 0 ? NULL : m->value_size == 0 ? "" : m->value;
    int32_t partition = m->partition;

    if (partition == LEAT_PARTITION_ANY && p->settings.partitioner == PARTITIONER_ROUNDROBIN && m->topic->partitions > 0)
        partition = (int32_t)(p->round_robin++ % (uint64_t)m->topic->partitions);
    else if (partition == LEAT_PARTITION_ANY)
        partition = RD_KAFKA_PARTITION_UA;
    rd_kafka_vu_t args[] = {
        {.vtype = RD_KAFKA_VTYPE_TOPIC, .u.cstr = m->topic->name},
        {.vtype = RD_KAFKA_VTYPE_PARTITION, .u.i32 = partition},
        {.vtype = RD_KAFKA_VTYPE_MSGFLAGS, .u.i = RD_KAFKA_MSG_F_COPY},
        {.vtype = RD_KAFKA_VTYPE_KEY, .u.mem = {(void *)(uintptr_t)key, (size_t)MAX(m->key_size, 0)}},
        {.vtype = RD_KAFKA_VTYPE_VALUE, .u.mem = {(void *)(uintptr_t)value, (size_t)MAX(m->value_size, 0)}},
        {.vtype = RD_KAFKA_VTYPE_TIMESTAMP, .u.i64 = m->timestamp_ms},
        {.vtype = RD_KAFKA_VTYPE_OPAQUE, .u.ptr = m->opaque},
        {.vtype = RD_KAFKA_VTYPE_HEADERS, .u.headers = headers},
    };
    rd_kafka_error_t *e = rd_kafka_produceva(p->tcp->handle, args, headers ? 8 : 7);
    if (!e) {
        if ((++p->in_flight & 255) == 0)
            rd_kafka_poll(p->tcp->handle, 0);
        return 0;
    }
    rd_kafka_resp_err_t code = rd_kafka_error_code(e);
    rd_kafka_error_destroy(e);
    if (headers)
        rd_kafka_headers_destroy(headers);
    rd_kafka_poll(p->tcp->handle, 0);
    return tcp_fail(p->client, code, m->topic->name);
}

int tcp_flush(leat_producer *p, int64_t timeout_ms)
{
    rd_kafka_resp_err_t e = rd_kafka_flush(p->tcp->handle, timeout_ms < 0 ? -1 : (int)MIN(timeout_ms, INT32_MAX));
    if (e)
        return tcp_fail(p->client, e, "flush");
    return p->refused ? -EIO : 0;
}

uint64_t tcp_in_flight(const leat_producer *p)
{
    return p->in_flight;
}
