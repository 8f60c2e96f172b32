/*
 * libleat for records, and Kafka requests for administration: over the local session by leat_request(), which finds every
 * daemon by itself, or over plain TCP (tcp.c) with the same tables when the target is host:port.
 */

#include "mqctl/connect.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "mqctl/node.h"

int connect_conf(Mq *m, leat_conf **ret)
{
    leat_conf *conf;
    const char *pair;
    int r = target_resolve(m);

    if (r != 0)
        return r;
    conf = leat_conf_new();
    if (conf == NULL || leat_conf_set(conf, "bootstrap.servers", m->target.bootstrap) < 0) {
        leat_conf_free(conf);
        return mq_fail(m, MQ_E_FAILED, "out of memory");
    }
    (void)leat_conf_set(conf, "client.id", "mqctl");
    (void)leat_conf_set(conf, "socket.connection.setup.timeout.ms", mq_printf(m, "%lld", (long long)MAX(MIN(m->timeout_ms, INT32_MAX), 1)));
    for (size_t i = 0; (pair = opt_nth(m, "client-config", i)) != NULL; i++) {
        const char *equal = strchr(pair, '=');
        int e = equal == NULL ? -EINVAL
                              : leat_conf_set(conf, mq_printf(m, "%.*s", (int)(equal - pair), pair), equal + 1);
        if (e < 0) {
            leat_conf_free(conf);
            return mq_fail(m, MQ_E_USAGE, "-X %s: %s", pair, e == -ENOENT ? "no such setting" : "expected KEY=VALUE");
        }
    }
    *ret = conf;
    return 0;
}

/* A socket that is not there means: not running. */
static int unreachable(Mq *m, int error, const char *why)
{
    const Target *t = &m->target;
    int status = error == -ENOENT || error == -ETIMEDOUT ? MQ_E_UNREACHABLE : mq_status_of_errno(error);

    mq_fail(m, status, "%s is not reachable: %s", t->name, why != NULL && why[0] != '\0' ? why : strerror(-error));
    if (status == MQ_E_DENIED)
        mq_hint(m, "users of a node are members of group leat-clients: usermod -aG leat-clients USER");
    else if (node_explain(m))
        return status;
    else if (t->kind == TARGET_SANDBOX)
        mq_hint(m, "mqctl sandbox start --dir %.*s", (int)(strrchr(t->node_dir, '/') - t->node_dir), t->node_dir);
    else if (t->kind == TARGET_INSTANCE)
        mq_hint(m, "mqctl -I %s supervisor start", t->instance);
    return status;
}

int connect_client(Mq *m, leat_client **ret)
{
    leat_conf *conf;
    int64_t deadline;
    int r;

    if (m->client != NULL) {
        *ret = m->client;
        return 0;
    }
    r = connect_conf(m, &conf);
    if (r != 0)
        return r;
    r = leat_client_new(conf, &m->client);
    leat_conf_free(conf);
    if (r < 0) {
        m->client = NULL;
        return unreachable(m, r, NULL);
    }
    deadline = clock_mono_ms() + m->timeout_ms;
    while (strncmp(m->target.bootstrap, "unix:", 5) == 0 && !leat_is_connected(m->client)) {
        int64_t left = deadline - clock_mono_ms();
        if (left <= 0 || mq_interrupted)
            return unreachable(m, -ETIMEDOUT, leat_error_text(m->client));
        (void)leat_wait(m->client, MIN(left, 50));
    }
    *ret = m->client;
    return 0;
}

void connect_close(Mq *m)
{
    m->client = leat_client_free(m->client);
    tcp_close(m);
}

int connect_fail(Mq *m, leat_client *client, int error, const char *fmt, ...)
{
    int16_t kafka = client != NULL ? leat_kafka_error(client) : 0;
    const char *why = client != NULL ? leat_error_text(client) : "";
    char what[512];
    int status;
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(what, sizeof what, fmt, ap);
    va_end(ap);
    if (error == -EINTR || mq_interrupted)
        return MQ_E_INTERRUPTED;
    status = kafka != 0 ? mq_status_of_kafka(kafka) : mq_status_of_errno(error);
    return mq_fail(m, status, "%s: %s%s%s%s", what, why[0] != '\0' ? why : leat_strerror(error), kafka ? " (" : "",
                   kafka ? k_error_name(kafka) : "", kafka ? ")" : "");
}

/* ---- requests ------------------------------------------------------------------------------------------------------ */

bool connect_is_tcp(const Mq *m)
{
    return m->target.kind == TARGET_ADDRESS && strncmp(m->target.bootstrap, "unix:", 5) != 0;
}

static int exchange(Mq *m, const char *address, const KApi *api, int16_t version, const Buf *body, Buf *ret)
{
    leat_client *client;
    void *data;
    size_t size;
    int r;

    if (connect_is_tcp(m))
        return tcp_call(m, address != NULL ? address : m->target.bootstrap, api, version, body, ret);
    r = connect_client(m, &client);
    if (r != 0)
        return r;
    r = leat_request(client, api->key, version, body->data, body->size, m->timeout_ms, &data, &size);
    if (r < 0) {
        r = connect_fail(m, client, r, "%s", api->name);
        if (r == MQ_E_TIMEOUT)
            (void)node_explain(m);
        return r;
    }
    *ret = (Buf){.data = data, .size = size, .capacity = size};
    return 0;
}

int api_call_at(Mq *m, const char *address, int16_t key, int16_t version, const void *request, void *ret_response)
{
    const KApi *api = k_api_find(key);
    _cleanup_(buf_deinit) Buf body = BUF_NULL, answer = BUF_NULL;
    uint8_t *kept;
    int r = target_resolve(m);

    assert(api != NULL && version >= api->version_min && version <= api->version_max);
    if (r != 0)
        return r;
    r = k_encode(api->request, version, request, &body);
    if (r < 0)
        return mq_fail_errno(m, r, "%s", api->name);
    r = exchange(m, address, api, version, &body, &answer);
    if (r != 0)
        return r;
    kept = mq_alloc(m, answer.size + 1); /* decoded strings point into it */
    if (answer.size > 0)
        memcpy(kept, answer.data, answer.size);
    r = k_decode(api->response, version, kept, answer.size, &m->arena, ret_response);
    return r < 0 ? mq_fail_errno(m, r, "answer to %s", api->name) : 0;
}

int api_call(Mq *m, int16_t key, int16_t version, const void *request, void *ret_response)
{
    return api_call_at(m, NULL, key, version, request, ret_response);
}
