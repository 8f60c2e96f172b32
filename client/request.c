/*
 * Kafka requests over the session: FAB_OP_REQUEST carries header and body without the size word, FAB_FRAME_RESPONSE the
 * body of the answer; both are tied by the id of the op. One implementation serves groups, offsets, metadata and admin.
 *
 * A request waits in client->requests from start to end. It is unsent while there is no session or no room; it is sent
 * again after a reconnection when asking twice does no harm, else it fails with -ECONNRESET and its owner decides.
 */

#include "client/client.h"
#include "base/clock.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct Request {
    List node; /* first: leat_client_free() casts */
    leat_client *client;
    RequestFn fn;
    void *userdata;
    int64_t deadline_ns;
    uint64_t op_id; /* 0 = unsent */
    bool again, was_sent;
    Buf frame; /* header and body */
};

static void request_free(Request *r)
{
    leat_client *c = r->client;
    Op *op = r->op_id ? client_find_op(c, r->op_id) : NULL;

    if (op)
        op->owner = NULL;
    if (!r->op_id)
        c->n_unsent--;
    c->n_requests--;
    list_remove(&r->node);
    buf_deinit(&r->frame);
    free(r);
}

static void request_end(Request *r, int error, const void *body, size_t size)
{
    RequestFn fn = r->fn;
    void *userdata = r->userdata;

    request_free(r);
    fn(userdata, error, body, size);
}

static void request_send(Request *r)
{
    FabSqe sqe = {.op = FAB_OP_REQUEST};
    Op *op;

    if (client_submit_copy(r->client, OP_REQUEST, r, &sqe, r->frame.data, r->frame.size, &op) < 0)
        return; /* stays unsent: the next turn tries again */
    r->op_id = op->id;
    r->was_sent = true;
    r->client->n_unsent--;
}

static int request_new(leat_client *c, const RequestOptions *o, int16_t version, Request **ret)
{
    if (c->n_requests >= CLIENT_REQUESTS_MAX)
        return client_fail(c, -EBUSY, "too many requests in flight");
    Request *r = calloc(1, sizeof *r);
    if (!r)
        return client_fail(c, -ENOMEM, "out of memory");
    *r = (Request){.client = c, .fn = o->fn, .userdata = o->userdata, .again = o->again};
    r->deadline_ns = clock_mono_ns() + o->timeout_ms * NS_PER_MS;
    list_append(&c->requests, &r->node);
    c->n_requests++;
    c->n_unsent++;
    KRequestHeader h = {.api_key = o->api_key, .api_version = version, .client_id = k_str(c->settings.client_id)};
    int e = k_request_header_encode(&h, &r->frame);
    if (e < 0) {
        request_free(r);
        return client_fail(c, e, "request %d version %d cannot be encoded", o->api_key, version);
    }
    *ret = r;
    return 0;
}

int request_start(leat_client *c, const RequestOptions *o, const void *message, Request **ret)
{
    const KApi *api = k_api_find(o->api_key);
    Request *r = NULL;

    int16_t version = request_version(o->api_key);
    assert(api && version >= api->version_min && version <= api->version_max);
    int e = request_new(c, o, version, &r);
    if (e < 0)
        return e;
    e = k_encode(api->request, version, message, &r->frame);
    if (e < 0) {
        request_free(r);
        return client_fail(c, e, "%s request cannot be encoded", api->name);
    }
    request_send(r);
    if (ret)
        *ret = r;
    return 0;
}

int request_start_raw(leat_client *c, const RequestOptions *o, int16_t version, const void *body, size_t size, Request **ret)
{
    Request *r = NULL;
    int e = request_new(c, o, version, &r);
    if (e < 0)
        return e;
    e = buf_append(&r->frame, body, size);
    if (e < 0) {
        request_free(r);
        return client_fail(c, e, "out of memory");
    }
    request_send(r);
    if (ret)
        *ret = r;
    return 0;
}

Request *request_cancel(Request *r)
{
    if (r)
        request_free(r);
    return NULL;
}

void request_answer(leat_client *c, Op *op, int16_t kafka_error, const void *body, size_t size)
{
    Request *r = op->owner;
    if (!r)
        return; /* cancelled, or it timed out */
    assert(r->client == c);
    op->owner = NULL;
    request_end(r, kafka_error ? client_fail_kafka(c, kafka_error, "request") : 0, body, size);
}

/* Callbacks may start, cancel and end other requests: start over after each. */
static bool end_one(leat_client *c, int64_t now_ns)
{
    list_for_each(it, &c->requests) {
        Request *r = CONTAINER_OF(it, Request, node);
        if (now_ns >= r->deadline_ns) {
            request_end(r, -ETIMEDOUT, NULL, 0);
            return true;
        }
        if (r->was_sent && !r->op_id && !r->again) {
            request_end(r, -ECONNRESET, NULL, 0);
            return true;
        }
    }
    return false;
}

void requests_turn(leat_client *c, int64_t now_ns)
{
    if (LIKELY(list_is_empty(&c->requests)))
        return;
    while (end_one(c, now_ns))
        ;
    if (c->n_unsent == 0 || !c->fab)
        return;
    list_for_each(it, &c->requests) {
        Request *r = CONTAINER_OF(it, Request, node);
        if (!r->op_id)
            request_send(r);
    }
}

int64_t requests_deadline_ns(const leat_client *c)
{
    int64_t at = INT64_MAX;

    list_for_each(it, &c->requests)
        at = MIN(at, CONTAINER_OF(it, Request, node)->deadline_ns);
    return at;
}

void requests_down(leat_client *c)
{
    list_for_each(it, &c->requests) {
        Request *r = CONTAINER_OF(it, Request, node);
        if (r->op_id) {
            r->op_id = 0;
            c->n_unsent++;
        }
    }
}

/* ---- waiting for one answer ---------------------------------------------------------------------------------------- */

typedef struct Call {
    bool done;
    int error;
    Buf body;
} Call;

static void call_answered(void *userdata, int error, const void *body, size_t size)
{
    Call *call = userdata;

    call->done = true;
    call->error = error;
    if (error == 0)
        call->error = buf_append(&call->body, body, size);
}

static bool call_is_done(void *userdata)
{
    return ((Call *)userdata)->done;
}

static int call_wait(leat_client *c, Request *r, Call *call, int64_t timeout_ms)
{
    int e = client_run_until(c, call_is_done, call, clock_mono_ns() + timeout_ms * NS_PER_MS + NS_PER_MS);
    if (!call->done)
        request_cancel(r);
    if (e == 0)
        e = call->error;
    if (e == -ETIMEDOUT)
        return client_fail(c, e, "no answer within %lld ms", (long long)timeout_ms);
    return e == -ECONNRESET ? client_fail(c, e, "the broker went away before it answered") : e;
}

int request_decode(int16_t api_key, const void *body, size_t size, Arena *arena, void *ret_response)
{
    return k_decode(k_api_find(api_key)->response, request_version(api_key), body, size, arena, ret_response);
}

int request_call(leat_client *c, int16_t api_key, bool again, const void *message, int64_t timeout_ms, Arena *arena,
                 void *ret_response)
{
    Call call = {0};
    Request *r = NULL;
    RequestOptions o = {.api_key = api_key, .again = again, .timeout_ms = timeout_ms, .fn = call_answered, .userdata = &call};
    int e = request_start(c, &o, message, &r);
    if (e == 0)
        e = call_wait(c, r, &call, timeout_ms);
    if (e == 0) { /* what is decoded points into the body: it moves to the arena */
        uint8_t *body = arena_alloc(arena, call.body.size + 1);
        if (body && call.body.size)
            memcpy(body, call.body.data, call.body.size);
        e = !body ? -ENOMEM : request_decode(api_key, body, call.body.size, arena, ret_response);
        if (e < 0)
            client_fail(c, e, "%s answer cannot be read", k_api_find(api_key)->name);
    }
    buf_deinit(&call.body);
    return e;
}

PUBLIC int leat_request(leat_client *client, int16_t api_key, int16_t api_version, const void *body, size_t size, int64_t timeout_ms,
                        void **ret_response, size_t *ret_size)
{
    int e = client_check(client);
    if (e < 0)
        return e;
    if (client->tcp)
        return client_fail(client, -ENOTSUP, "raw requests need a session (unix: bootstrap)");
    if (!ret_response || !ret_size || (size && !body))
        return client_fail(client, -EINVAL, "a body or a place for the answer is missing");
    timeout_ms = client_timeout_ms(client, timeout_ms);
    Call call = {0};
    Request *r = NULL;
    RequestOptions o = {.api_key = api_key, .timeout_ms = timeout_ms, .fn = call_answered, .userdata = &call};
    e = request_start_raw(client, &o, api_version, body, size, &r);
    if (e == 0)
        e = call_wait(client, r, &call, timeout_ms);
    if (e < 0) {
        buf_deinit(&call.body);
        return e;
    }
    *ret_size = call.body.size;
    *ret_response = call.body.data ? call.body.data : calloc(1, 1);
    return *ret_response ? 0 : -ENOMEM;
}
