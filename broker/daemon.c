/*
 * Calls to another daemon, keyed by a tag of ours: slot number below, a sequence above, so that a late answer to an ended
 * call meets nobody. `calls` keeps the order in which they were made, which is the order of re-sending. See daemon.h.
 */

#include "broker/daemon.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"

struct DaemonCall {
    List node; /* Daemon.calls */
    Daemon *daemon;
    uint64_t tag;
    Buf payload; /* ForwardedRequest */
    DaemonDone done;
    void *userdata;
    Deadline deadline;
};

struct Daemon {
    Broker *broker;
    FabRole role;
    FabSession *session; /* NULL: away */
    List calls;
    DaemonCall **slots;
    uint32_t slots_count, used, next_free;
    uint32_t sequence;
};

int daemon_new(Broker *b, FabRole role, Daemon **ret)
{
    Daemon *d = calloc(1, sizeof(*d));
    if (!d)
        return -ENOMEM;
    d->broker = b;
    d->role = role;
    list_init(&d->calls);
    *ret = d;
    return 0;
}

static void call_free(DaemonCall *c)
{
    Daemon *d = c->daemon;
    d->slots[(uint32_t)c->tag] = NULL;
    d->used--;
    list_remove(&c->node);
    deadline_clear(&d->broker->deadlines, &c->deadline);
    buf_deinit(&c->payload);
    free(c);
}

static void call_end(DaemonCall *c, const void *body, size_t size)
{
    DaemonDone done = c->done;
    void *userdata = c->userdata;
    call_free(c);
    done(userdata, body, size);
}

Daemon *daemon_free(Daemon *d)
{
    if (!d)
        return NULL;
    while (!list_is_empty(&d->calls))
        call_end(CONTAINER_OF(d->calls.next, DaemonCall, node), NULL, 0);
    free(d->slots);
    free(d);
    return NULL;
}

bool daemon_is_up(const Daemon *d)
{
    return d->session != NULL;
}

static void send_call(DaemonCall *c)
{
    FabFrame frame = {.type = FAB_FRAME_REQUEST, .size = (uint32_t)c->payload.size, .tag = c->tag};
    (void)fab_session_send(c->daemon->session, &frame, c->payload.data); /* failing closes the session: sent again after */
}

void daemon_opened(Daemon *d, FabSession *s)
{
    d->session = s;
    list_for_each(l, &d->calls)
        send_call(CONTAINER_OF(l, DaemonCall, node));
}

static void limit_wait(DaemonCall *c)
{
    Broker *b = c->daemon->broker;
    int64_t at_ns = broker_now_ns(b) + DAEMON_AWAY_MS * NS_PER_MS;
    if (deadline_is_set(&c->deadline) && c->deadline.at_ns <= at_ns)
        return;
    broker_set_deadline(b, &c->deadline, DAEMON_AWAY_MS);
}

void daemon_closed(Daemon *d, FabSession *s)
{
    if (d->session != s)
        return; /* a newer one has taken its place */
    d->session = NULL;
    list_for_each(l, &d->calls)
        limit_wait(CONTAINER_OF(l, DaemonCall, node));
}

static void on_deadline(Deadline *deadline)
{
    call_end(CONTAINER_OF(deadline, DaemonCall, deadline), NULL, 0);
}

static int take_slot(Daemon *d, bool for_client, uint32_t *ret)
{
    uint32_t most = d->role == FAB_ROLE_CONTROLLER ? DAEMON_CONTROLLER_CALLS_MAX : DAEMON_CALLS_MAX;
    if (d->used >= (for_client ? most - DAEMON_OWN_CALLS : most))
        return -ENOBUFS;
    if (d->used == d->slots_count) {
        uint32_t count = d->slots_count ? 2 * d->slots_count : 64;
        DaemonCall **slots = realloc(d->slots, count * sizeof(DaemonCall *));
        if (!slots)
            return -ENOMEM;
        memset(slots + d->slots_count, 0, (count - d->slots_count) * sizeof(DaemonCall *));
        d->slots = slots;
        d->slots_count = count;
    }
    while (d->slots[d->next_free])
        d->next_free = (d->next_free + 1) % d->slots_count;
    *ret = d->next_free;
    return 0;
}

static int pack(const DaemonCall *c, const DaemonRequest *q, Buf *out)
{
    KForwardedRequest f = {.api_key = q->api_key,
                           .api_version = q->api_version,
                           .session_id = q->who ? (int64_t)q->who->session_id : 0,
                           .local = q->who ? q->who->local : true,
                           .uid = q->who ? (int32_t)q->who->uid : 0,
                           .rights = q->who ? (int32_t)q->who->rights : RIGHT_ALL_CLIENT | RIGHT_INTERNAL,
                           .client_id = k_str(q->client_id),
                           .client_host = k_str(q->who && q->who->client_host ? q->who->client_host : "/local"),
                           .body = {q->body, (int32_t)q->size},
                           .sender = c->daemon->broker->incarnation_id,
                           .call = (int64_t)c->tag};
    return k_encode(&k_forwarded_request, 0, &f, out);
}

int daemon_call(Daemon *d, const DaemonRequest *q, DaemonDone done, void *userdata, DaemonCall **ret)
{
    uint32_t slot;
    int r = take_slot(d, q->who != NULL, &slot);
    if (r < 0)
        return r;
    DaemonCall *c = calloc(1, sizeof(*c));
    if (!c)
        return -ENOMEM;
    c->daemon = d;
    c->tag = (uint64_t)++d->sequence << 32 | slot;
    r = pack(c, q, &c->payload);
    if (r < 0) {
        buf_deinit(&c->payload);
        free(c);
        return r;
    }
    list_init(&c->node);
    c->done = done;
    c->userdata = userdata;
    c->deadline.fn = on_deadline;
    d->slots[slot] = c;
    d->used++;
    list_append(&d->calls, &c->node);
    broker_set_deadline(d->broker, &c->deadline, q->timeout_ms);
    if (d->session)
        send_call(c);
    else
        limit_wait(c);
    if (ret)
        *ret = c;
    return 0;
}

int daemon_call_message(Daemon *d, int16_t api_key, int16_t api_version, const Principal *who, const void *message,
                        int64_t timeout_ms, DaemonDone done, void *userdata, DaemonCall **ret)
{
    const KApi *api = k_api_find(api_key);
    Buf body = BUF_NULL;
    assert(api);
    int r = k_encode(api->request, api_version, message, &body);
    if (r == 0) {
        DaemonRequest q = {.api_key = api_key,
                           .api_version = api_version,
                           .body = body.data,
                           .size = body.size,
                           .who = who,
                           .client_id = "leat-broker",
                           .timeout_ms = timeout_ms};
        r = daemon_call(d, &q, done, userdata, ret);
    }
    buf_deinit(&body);
    return r;
}

void daemon_cancel(DaemonCall *c)
{
    if (c)
        call_free(c);
}

void daemon_answered(Daemon *d, uint64_t tag, const void *body, size_t size)
{
    uint32_t slot = (uint32_t)tag;
    DaemonCall *c = slot < d->slots_count ? d->slots[slot] : NULL;
    if (c && c->tag == tag) /* else: it expired, or the answer came twice because it was sent again */
        call_end(c, body, size);
}

void daemon_notify(Daemon *d, int16_t type, const KMessage *m, const void *message)
{
    if (!d->session)
        return;
    Buf out = BUF_NULL;
    if (k_encode(m, 0, message, &out) == 0) {
        FabFrame frame = {.type = FAB_FRAME_NOTIFY, .inner_type = (uint16_t)type, .size = (uint32_t)out.size};
        (void)fab_session_send(d->session, &frame, out.data);
    }
    buf_deinit(&out);
}
