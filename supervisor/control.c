/*
 * See control.h. Why not nng's own REP socket: in nng 1.5 its listener ends for good when its hello meets a client that has
 * left (EPIPE becomes NNG_ECLOSED, which it takes for its own end). Here nothing a client does ends the accepting; what is
 * said to one is in sp.c.
 *
 * Clients are freed in dispatch() alone. No more than CONTROL_CALLS_MAX requests are with the node at a time, the others
 * queue; no more than CLIENTS_MAX clients are connected, the oldest idle one makes room.
 */

#include "supervisor/control.h"

#include <errno.h>
#include <grp.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/list.h"
#include "base/log.h"
#include "supervisor/sockets.h"
#include "supervisor/sp.h"

#define CONTROL_MODE 0660
#define GROUPS_MAX   256
#define CLIENTS_MAX  128
#define RETRY_NS     100000000 /* after a failed accept: out of descriptors or memory */
#define LINGER_NS    1000000
#define LINGER_TRIES 50

typedef enum CallState { CALL_NONE, CALL_QUEUED, CALL_BUSY } CallState;

/* A client, and the one call it may have at a time. */
struct ControlCall {
    List link;   /* in clients, by age */
    List queued; /* in queue */
    Control *control;
    SpPeer peer;
    CallState state;
    bool is_gone; /* closed, and counted so */
};

struct Control {
    Loop *loop;
    ControlFn fn;
    void *userdata;
    int wake_fd;
    LoopFd *wake;
    LoopTimer *retry;
    nng_stream_listener *listener;
    NngOp accept;
    bool is_welcome; /* who was accepted last; written before accept is done */
    bool is_closing;
    List clients, queue;
    size_t n_clients;
    size_t n_busy; /* calls of clients that are still there */
};

static bool is_in_admin_group(uid_t uid, gid_t gid)
{
    char text[4096], user_text[4096];
    gid_t groups[GROUPS_MAX];
    struct passwd user, *found_user = NULL;
    struct group group, *found = NULL;
    int n = GROUPS_MAX;

    if (getgrnam_r(GROUP_ADMIN, &group, text, sizeof(text), &found) != 0 || found == NULL)
        return false;
    if (gid == found->gr_gid)
        return true;
    if (getpwuid_r(uid, &user, user_text, sizeof(user_text), &found_user) != 0 ||
        found_user == NULL)
        return false;
    if (getgrouplist(user.pw_name, user.pw_gid, groups, &n) < 0)
        n = GROUPS_MAX;
    for (int i = 0; i < n; i++)
        if (groups[i] == found->gr_gid)
            return true;
    return false;
}

static bool is_welcome(nng_stream *stream)
{
    uint64_t uid, gid;

    if (nng_stream_get_uint64(stream, NNG_OPT_IPC_PEER_UID, &uid) != 0 ||
        nng_stream_get_uint64(stream, NNG_OPT_IPC_PEER_GID, &gid) != 0)
        return false;
    if (uid == 0 || uid == geteuid() || is_in_admin_group((uid_t)uid, (gid_t)gid))
        return true;
    jlog_limited(
        LOG_WARNING,
        "control connection of uid %llu refused: neither root, nor ours, nor in group " GROUP_ADMIN,
        (unsigned long long)uid);
    return false;
}

/* On a thread of nng's: the names of groups may come from far away. */
static void before_accepted(void *userdata, nng_aio *aio)
{
    Control *c = userdata;

    if (nng_aio_result(aio) == 0)
        c->is_welcome = is_welcome(nng_aio_get_output(aio, 0));
}

static void wake(Control *c)
{
    uint64_t one = 1;

    (void)!write(c->wake_fd, &one,
                 sizeof(one)); /* EAGAIN: the counter is full, so it is readable */
}

/* ---- calls ---- */

/* It is closed, by us or by itself. A call that is with the node goes on, but keeps nobody out. */
static void drop(ControlCall *call)
{
    sp_close(&call->peer);
    if (call->is_gone)
        return;
    call->is_gone = true;
    if (call->state == CALL_QUEUED) { /* nobody would hear the answer */
        list_remove(&call->queued);
        call->state = CALL_NONE;
    }
    if (call->state == CALL_BUSY)
        call->control->n_busy--;
}

void control_answer(ControlCall *call, int exit_code, const char *error, const char *body)
{
    KControlResponse m = {.exit_code = exit_code, .error = k_str(error), .body = k_str(body)};
    _cleanup_(buf_deinit) Buf out = BUF_NULL;
    int r = k_pack(&k_control_response, 0, &m, &out);

    assert(call->state == CALL_BUSY);
    call->state = CALL_NONE;
    if (!call->is_gone)
        call->control->n_busy--;
    if (sp_answer(&call->peer, out.data, out.size) < 0 || r < 0) {
        jlog(LOG_ERR, "out of memory: a control request stays without an answer");
        drop(call);
    }
    wake(call->control); /* for the next in the queue, and to free a client that has left */
}

static void run(ControlCall *call)
{
    _cleanup_(arena_deinit) Arena arena = {.limit_bytes = 4 * SP_REQUEST_MAX};
    KControlRequest request;
    int16_t version;
    int r = k_unpack(&k_control_request, call->peer.body + call->peer.tags_size,
                     call->peer.body_size - call->peer.tags_size, &arena, &request, &version);

    call->state = CALL_BUSY;
    call->control->n_busy++;
    if (r < 0)
        control_answer(call, 2, "the request cannot be understood: is mqctl of another version?",
                       NULL);
    else
        call->control->fn(call->control->userdata, call, &request);
}

/* ---- all clients ---- */

static int add_client(Control *c, nng_stream *stream)
{
    ControlCall *call = calloc(1, sizeof(*call));

    if (call == NULL)
        return -ENOMEM;
    call->control = c;
    if (sp_init(&call->peer, stream, c->wake_fd) < 0) {
        free(call);
        return -ENOMEM;
    }
    list_append(&c->clients, &call->link);
    list_init(&call->queued);
    c->n_clients++;
    return 0;
}

static void client_free(ControlCall *call)
{
    list_remove(&call->link);
    list_remove(&call->queued);
    call->control->n_clients--;
    sp_deinit(&call->peer);
    free(call);
}

static void client_step(ControlCall *call)
{
    Control *c = call->control;
    bool has_come = sp_step(&call->peer);

    if (call->peer.is_closed || (has_come && c->is_closing)) {
        drop(call);
    } else if (has_come) {
        call->state = CALL_QUEUED;
        list_append(&c->queue, &call->queued);
    }
    if (call->is_gone && sp_is_still(&call->peer) && call->state == CALL_NONE)
        client_free(call);
}

static void start_accept(Control *c)
{
    if (!c->is_closing && !c->accept.is_running && c->n_clients < CLIENTS_MAX)
        nng_stream_listener_accept(c->listener, nng_op_begin(&c->accept));
}

static void on_retry(void *userdata)
{
    start_accept(userdata);
}

/* When no client is idle, the next one waits in the backlog until a call is answered. */
static void make_room(Control *c)
{
    if (c->n_clients < CLIENTS_MAX)
        return;
    list_for_each (l, &c->clients) {
        ControlCall *call = CONTAINER_OF(l, ControlCall, link);

        if (call->state == CALL_NONE && !call->peer.tx.is_running) {
            drop(call); /* does nothing when it is leaving already */
            return;
        }
    }
}

static void on_accepted(Control *c)
{
    int r = nng_aio_result(c->accept.aio);
    nng_stream *stream;

    if (r != 0) {
        if (c->is_closing)
            return;
        jlog_limited(LOG_WARNING, "a control connection cannot be accepted: %s", nng_strerror(r));
        loop_timer_set(c->retry, loop_now_ns(c->loop) + RETRY_NS);
        return;
    }
    stream = nng_aio_get_output(c->accept.aio, 0);
    if (c->is_closing || !c->is_welcome || add_client(c, stream) < 0)
        nng_stream_free(stream); /* closes it */
    start_accept(c);
}

static void dispatch(Control *c)
{
    if (nng_op_has_ended(&c->accept))
        on_accepted(c);
    list_for_each_safe (l, &c->clients)
        client_step(CONTAINER_OF(l, ControlCall, link));
    while (!c->is_closing && c->n_busy < CONTROL_CALLS_MAX && !list_is_empty(&c->queue))
        run(CONTAINER_OF(list_pop(&c->queue), ControlCall, queued));
    make_room(c);
    if (loop_timer_deadline(c->retry) == INT64_MAX)
        start_accept(c);
}

static void on_wake(void *userdata, uint32_t events UNUSED)
{
    Control *c = userdata;
    uint64_t n;

    (void)!read(c->wake_fd, &n, sizeof(n)); /* before looking: what ends later wakes again */
    dispatch(c);
}

/* Return: 0, or an error of nng's. */
static int open_listener(Control *c, const char *path)
{
    char url[512];
    int r;

    (void)snprintf(url, sizeof(url), "ipc://%.400s", path);
    c->accept = (NngOp){.wake_fd = c->wake_fd, .before = before_accepted, .userdata = c};
    r = nng_op_init(&c->accept);
    if (r == 0)
        r = nng_stream_listener_alloc(&c->listener, url);
    if (r == 0)
        r = nng_stream_listener_set_int(c->listener, NNG_OPT_IPC_PERMISSIONS, CONTROL_MODE);
    if (r == 0)
        r = nng_stream_listener_listen(c->listener);
    if (r != 0)
        return r;
    nng_aio_set_timeout(c->accept.aio, NNG_DURATION_INFINITE);
    start_accept(c);
    return 0;
}

static int open_sources(Control *c)
{
    int r;

    c->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (c->wake_fd < 0)
        return -errno;
    r = loop_add_fd(c->loop, c->wake_fd, EPOLLIN, on_wake, c, &c->wake);
    return r < 0 ? r : loop_add_timer(c->loop, on_retry, c, &c->retry);
}

int control_open(Loop *loop,
                 const char *path,
                 ControlFn fn,
                 void *userdata,
                 Control **ret,
                 char *why,
                 size_t why_size)
{
    Control *c = calloc(1, sizeof(*c));
    int r;

    if (c == NULL)
        return -ENOMEM;
    *c = (Control){.loop = loop, .fn = fn, .userdata = userdata, .wake_fd = -1};
    list_init(&c->clients);
    list_init(&c->queue);
    r = open_sources(c);
    if (r < 0) {
        (void)snprintf(why, why_size, "%.300s cannot be opened: %s", path, strerror(-r));
        (void)control_close(c);
        return r;
    }
    r = open_listener(c, path);
    if (r != 0) {
        (void)snprintf(why, why_size, "%.300s cannot be opened: %s", path, nng_strerror(r));
        (void)control_close(c);
        return r == NNG_EADDRINUSE ? -EADDRINUSE : r == NNG_ENOMEM ? -ENOMEM : -EIO;
    }
    sockets_give_to_group(path, GROUP_ADMIN);
    *ret = c;
    return 0;
}

static bool is_sending(Control *c)
{
    list_for_each (l, &c->clients)
        if (CONTAINER_OF(l, ControlCall, link)->peer.tx.is_running)
            return true;
    return false;
}

Control *control_close(Control *c)
{
    struct timespec linger = {.tv_nsec = LINGER_NS};

    if (c == NULL)
        return NULL;
    c->is_closing = true;
    for (int i = 0; i < LINGER_TRIES && is_sending(c); i++) {
        (void)nanosleep(&linger, NULL);
        dispatch(c);
    }
    if (c->listener != NULL)
        nng_stream_listener_close(c->listener);
    if (c->accept.aio != NULL)
        nng_aio_stop(c->accept.aio);
    if (c->accept.is_running && nng_aio_result(c->accept.aio) == 0)
        nng_stream_free(nng_aio_get_output(c->accept.aio, 0));
    nng_op_deinit(&c->accept);
    if (c->listener != NULL)
        nng_stream_listener_free(c->listener);
    list_for_each_safe (l, &c->clients)
        client_free(CONTAINER_OF(l, ControlCall, link));
    c->retry = loop_timer_free(c->retry);
    c->wake = loop_fd_free(c->wake);
    if (c->wake_fd >= 0)
        (void)close(c->wake_fd);
    free(c);
    return NULL;
}
