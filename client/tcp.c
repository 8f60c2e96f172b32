/* Configuration, connection and topics of the TCP road; see tcp.h. */

#include "client/tcp.h"
#include "base/clock.h"

#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define WHY_MAX 256

/* ---- errors ---------------------------------------------------------------------------------------------------------- */

int tcp_error(rd_kafka_resp_err_t e)
{
    if ((int)e > 0)
        return error_from_kafka((int16_t)e);
    if (e == RD_KAFKA_RESP_ERR_NO_ERROR)
        return 0;
    if (e == RD_KAFKA_RESP_ERR__TIMED_OUT || e == RD_KAFKA_RESP_ERR__MSG_TIMED_OUT || e == RD_KAFKA_RESP_ERR__TIMED_OUT_QUEUE)
        return -ETIMEDOUT;
    if (e == RD_KAFKA_RESP_ERR__QUEUE_FULL)
        return -EAGAIN;
    if (e == RD_KAFKA_RESP_ERR__TRANSPORT || e == RD_KAFKA_RESP_ERR__ALL_BROKERS_DOWN || e == RD_KAFKA_RESP_ERR__RESOLVE)
        return -ECONNRESET;
    if (e == RD_KAFKA_RESP_ERR__UNKNOWN_TOPIC || e == RD_KAFKA_RESP_ERR__UNKNOWN_PARTITION)
        return -ENOENT;
    if (e == RD_KAFKA_RESP_ERR__INVALID_ARG || e == RD_KAFKA_RESP_ERR__UNKNOWN_GROUP)
        return -EINVAL;
    if (e == RD_KAFKA_RESP_ERR__AUTO_OFFSET_RESET)
        return -ERANGE;
    if (e == RD_KAFKA_RESP_ERR__STATE || e == RD_KAFKA_RESP_ERR__FENCED || e == RD_KAFKA_RESP_ERR__ASSIGNMENT_LOST)
        return -ESTALE;
    if (e == RD_KAFKA_RESP_ERR__BAD_MSG || e == RD_KAFKA_RESP_ERR__BAD_COMPRESSION)
        return -EBADMSG;
    return -EIO;
}

int tcp_fail(leat_client *c, rd_kafka_resp_err_t e, const char *what)
{
    int r = client_fail(c, tcp_error(e), "%s: %s (%s)", what, rd_kafka_err2str(e), rd_kafka_err2name(e));
    c->kafka_error = (int)e > 0 ? (int16_t)e : 0;
    return r;
}

static void on_error(rd_kafka_t *rk, int err, const char *reason, void *opaque)
{
    (void)rk;
    (void)opaque;
    (void)reason;
    (void)err; /* single brokers come and go; handles report what ends a call or a batch */
}

/* ---- configuration --------------------------------------------------------------------------------------------------- */

static int set(leat_client *c, rd_kafka_conf_t *conf, const char *key, const char *value)
{
    char why[WHY_MAX];
    if (rd_kafka_conf_set(conf, key, value, why, sizeof why) == RD_KAFKA_CONF_OK)
        return 0;
    return client_fail(c, -EINVAL, "%s = %s: %s", key, value, why);
}

static int set_number(leat_client *c, rd_kafka_conf_t *conf, const char *key, int64_t value)
{
    char text[32];
    snprintf(text, sizeof text, "%" PRId64, value);
    return set(c, conf, key, text);
}

static int set_producer(leat_client *c, rd_kafka_conf_t *conf, const Settings *s)
{
    static const char *const codecs[] = {"none", "gzip", "snappy", "lz4", "zstd"};
    static const char *const partitioners[] = {"murmur2_random", "murmur2_random", "murmur2_random"};
    int r = set_number(c, conf, "acks", settings_acks(s));
    if (r == 0)
        r = set(c, conf, "enable.idempotence", s->idempotence && settings_acks(s) == -1 ? "true" : "false");
    if (r == 0)
        r = set_number(c, conf, "linger.ms", MIN(s->linger_ms, 900000));
    if (r == 0)
        r = set_number(c, conf, "batch.size", s->batch_size);
    if (r == 0)
        r = set(c, conf, "compression.type", codecs[s->compression]);
    if (r == 0 && s->compression_level != INT32_MIN)
        r = set_number(c, conf, "compression.level", s->compression_level);
    if (r == 0)
        r = set(c, conf, "partitioner", partitioners[s->partitioner]);
    if (r == 0)
        r = set_number(c, conf, "queue.buffering.max.kbytes", MAX(s->buffer_memory / 1024, 1));
    if (r == 0)
        r = set_number(c, conf, "delivery.timeout.ms", s->delivery_timeout_ms);
    if (r == 0)
        r = set_number(c, conf, "request.timeout.ms", s->request_timeout_ms);
    return r == 0 ? set_number(c, conf, "retry.backoff.ms", MIN(s->retry_backoff_ms, 300000)) : r;
}

static int set_consumer(leat_client *c, rd_kafka_conf_t *conf, const Settings *s)
{
    static const char *const resets[] = {"earliest", "latest", "error"};
    int r = set(c, conf, "group.id", s->group_id[0] ? s->group_id : "leat-without-group");
    if (r == 0 && s->group_instance_id[0])
        r = set(c, conf, "group.instance.id", s->group_instance_id);
    if (r == 0)
        r = set(c, conf, "auto.offset.reset", resets[s->offset_reset]);
    if (r == 0)
        r = set(c, conf, "enable.auto.commit", s->auto_commit && s->group_id[0] ? "true" : "false");
    if (r == 0)
        r = set_number(c, conf, "auto.commit.interval.ms", s->auto_commit_interval_ms);
    if (r == 0) /* stored at the next poll: what was handed out counts as processed then */
        r = set(c, conf, "enable.auto.offset.store", "false");
    if (r == 0)
        r = set(c, conf, "enable.partition.eof", "true");
    char strategies[128] = ""; /* librdkafka mixes no eager and cooperative ones */
    bool eager = false;
    for (size_t i = 0; i < s->n_strategies; i++)
        eager |= s->strategies[i] != STRATEGY_COOPERATIVE;
    for (size_t i = 0; i < s->n_strategies; i++)
        if (!eager || s->strategies[i] != STRATEGY_COOPERATIVE) {
            size_t used = strlen(strategies);
            snprintf(strategies + used, sizeof strategies - used, "%s%s", used ? "," : "", strategy_name(s->strategies[i]));
        }
    if (r == 0)
        r = set(c, conf, "partition.assignment.strategy", strategies);
    if (r == 0)
        r = set_number(c, conf, "session.timeout.ms", s->session_timeout_ms);
    if (r == 0)
        r = set_number(c, conf, "heartbeat.interval.ms", s->heartbeat_interval_ms);
    if (r == 0)
        r = set_number(c, conf, "max.poll.interval.ms", MAX(s->max_poll_interval_ms, s->session_timeout_ms));
    if (r == 0)
        r = set_number(c, conf, "fetch.min.bytes", MAX(s->fetch_min_bytes, 1));
    if (r == 0)
        r = set_number(c, conf, "fetch.wait.max.ms", s->fetch_max_wait_ms);
    if (r == 0)
        r = set_number(c, conf, "max.partition.fetch.bytes", s->max_partition_fetch_bytes);
    if (r == 0)
        r = set(c, conf, "check.crcs", s->check_crcs ? "true" : "false");
    return r == 0 ? set(c, conf, "isolation.level", s->isolation ? "read_committed" : "read_uncommitted") : r;
}

rd_kafka_conf_t *tcp_conf(leat_client *c, const leat_conf *conf, const Settings *s, rd_kafka_type_t type)
{
    rd_kafka_conf_t *out = rd_kafka_conf_new();
    const char *value = NULL, *key;
    int r = set(c, out, "bootstrap.servers", c->settings.bootstrap_servers);

    if (r == 0)
        r = set(c, out, "client.id", s->client_id[0] ? s->client_id : c->settings.client_id);
    if (r == 0)
        r = set_number(c, out, "socket.connection.setup.timeout.ms", MAX(s->connect_timeout_ms, 1000));
    if (r == 0)
        r = set_number(c, out, "reconnect.backoff.ms", s->reconnect_backoff_ms);
    if (r == 0)
        r = set_number(c, out, "reconnect.backoff.max.ms", MAX(s->reconnect_backoff_max_ms, s->reconnect_backoff_ms));
    if (r == 0)
        r = set_number(c, out, "metadata.max.age.ms", MAX(s->metadata_max_age_ms, 1000));
    if (r == 0) /* what Java's metadata.max.age.ms does, librdkafka does under this name */
        r = set_number(c, out, "topic.metadata.refresh.interval.ms", MIN(MAX(s->metadata_max_age_ms, 1000), 3600000));
    if (r == 0)
        r = set(c, out, "allow.auto.create.topics", s->auto_create ? "true" : "false");
    if (r == 0)
        r = type == RD_KAFKA_PRODUCER ? set_producer(c, out, s) : set_consumer(c, out, s);
    for (size_t i = 0; r == 0 && (key = conf_extra(conf, i, &value)); i++)
        r = set(c, out, key, value);
    rd_kafka_conf_set_log_cb(out, NULL); /* a library does not write to stderr */
    rd_kafka_conf_set_error_cb(out, on_error);
    if (r < 0) {
        rd_kafka_conf_destroy(out);
        return NULL;
    }
    return out;
}

/* ---- the client ------------------------------------------------------------------------------------------------------ */

int tcp_client_new(leat_client *c, const leat_conf *conf)
{
    TcpRoad *t = calloc(1, sizeof *t);
    if (!t)
        return client_fail(c, -ENOMEM, "out of memory");
    c->tcp = t;
    t->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    c->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    struct epoll_event ev = {.events = EPOLLIN};
    if (t->wake_fd < 0 || c->epoll_fd < 0 || epoll_ctl(c->epoll_fd, EPOLL_CTL_ADD, t->wake_fd, &ev) < 0)
        return client_fail(c, -errno, "epoll: %s", leat_strerror(-errno));
    t->base = tcp_conf(c, conf, &c->settings, RD_KAFKA_PRODUCER); /* of the admin handle; also checks the properties now */
    return t->base ? 0 : -EINVAL;
}

void tcp_client_free(leat_client *c)
{
    TcpRoad *t = TAKE(c->tcp);
    if (!t)
        return;
    bool here = !c->alive || *c->alive; /* in a forked child librdkafka's threads are gone: its handles cannot be ended */
    if (t->handle && here)
        rd_kafka_destroy(t->handle);
    if (t->base)
        rd_kafka_conf_destroy(t->base);
    if (t->wake_fd >= 0)
        close(t->wake_fd);
    free(t);
}

rd_kafka_t *tcp_handle(leat_client *c)
{
    TcpRoad *t = c->tcp;
    char why[WHY_MAX];

    /* A producer's handle first: it learns of the topic then, else its first record would wait for a timer of a second. */
    list_for_each(it, &c->producers)
        if (tcp_producer_handle(producer_of_node(it)))
            return tcp_producer_handle(producer_of_node(it));
    if (t->handle)
        return t->handle;
    rd_kafka_conf_t *conf = rd_kafka_conf_dup(t->base);
    t->handle = rd_kafka_new(RD_KAFKA_PRODUCER, conf, why, sizeof why);
    if (!t->handle) {
        rd_kafka_conf_destroy(conf);
        client_fail(c, -EIO, "librdkafka: %s", why);
    }
    return t->handle;
}

void tcp_signal(leat_client *c, rd_kafka_queue_t *queue)
{
    static const uint64_t one = 1;
    rd_kafka_queue_io_event_enable(queue, c->tcp->wake_fd, &one, sizeof one);
}

int tcp_turn(leat_client *c)
{
    uint64_t n;
    int r = client_check(c);
    if (r < 0)
        return r;
    while (read(c->tcp->wake_fd, &n, sizeof n) > 0)
        ;
    list_for_each(it, &c->producers)
        tcp_producer_turn(producer_of_node(it));
    return 0;
}

int tcp_sleep(leat_client *c, int64_t timeout_ms)
{
    struct pollfd p = {.fd = c->epoll_fd, .events = POLLIN};
    int ms = timeout_ms < 0 ? -1 : (int)MIN(timeout_ms, INT32_MAX);
    return poll(&p, 1, ms) < 0 && errno == EINTR ? -EINTR : 0;
}

bool tcp_is_connected(const leat_client *c)
{
    return !c->tcp->down;
}

int tcp_topic_open(leat_topic *t)
{
    leat_client *c = t->client;
    rd_kafka_t *rk = tcp_handle(c);
    if (!rk)
        return -EIO;
    int64_t deadline_ms = clock_mono_ms() + c->settings.request_timeout_ms;
    rd_kafka_topic_t *rkt = rd_kafka_topic_new(rk, t->name, NULL);
    for (;;) {
        const struct rd_kafka_metadata *m = NULL;
        int left_ms = (int)MAX(deadline_ms - clock_mono_ms(), 1);
        rd_kafka_resp_err_t e = rkt ? rd_kafka_metadata(rk, 0, rkt, &m, left_ms) : rd_kafka_last_error();
        c->tcp->down = e != RD_KAFKA_RESP_ERR_NO_ERROR;
        int32_t n = 0;
        if (e == RD_KAFKA_RESP_ERR_NO_ERROR) {
            e = m->topic_cnt == 1 ? m->topics[0].err : RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART;
            n = m->topic_cnt == 1 ? m->topics[0].partition_cnt : 0;
            rd_kafka_metadata_destroy(m);
        }
        if (e == RD_KAFKA_RESP_ERR_NO_ERROR && n > 0) {
            t->partitions = n;
            t->state = TOPIC_OPEN;
            rd_kafka_topic_destroy(rkt);
            return 0;
        }
        if (e != RD_KAFKA_RESP_ERR_LEADER_NOT_AVAILABLE || clock_mono_ms() >= deadline_ms) {
            if (rkt)
                rd_kafka_topic_destroy(rkt);
            return tcp_fail(c, e ? e : RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART, t->name);
        }
        poll(NULL, 0, (int)c->settings.retry_backoff_ms);
    }
}
