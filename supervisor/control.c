/*
 * See control.h. A client is one nng stream: both sides say the eight bytes of SP's hello, then messages go as SP frames do,
 * one byte 1, eight bytes of length, the body, which begins with the words by which REQ knows its answer again.
 *
 * Why not nng's own REP socket: in nng 1.5 its listener ends for good when its hello meets a client that has left (EPIPE
 * becomes NNG_ECLOSED, which it takes for its own end). And a connection whose bytes were there before nng asked for them
 * was never armed in nng's poller, so that its hang-up is reported without end. Hence two rules here: nothing a client does
 * ends the accepting, and every client always has a receive under way, which arms it and learns of its leaving.
 *
 * nng calls back on its own threads; a callback marks its operation done and wakes the loop, where everything else
 * happens. Clients are freed in dispatch() alone. No more than CONTROL_CALLS_MAX requests are with the node at a time, the
 * others queue; no more than CLIENTS_MAX clients are connected, the oldest idle one makes room.
 */

#include "supervisor/control.h"

#include <errno.h>
#include <grp.h>
#include <pwd.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <nng/nng.h>

#include "base/list.h"
#include "base/log.h"
#include "supervisor/sockets.h"

#define CONTROL_MODE    0660
#define GROUPS_MAX      256
#define CLIENTS_MAX     128
#define SEND_TIMEOUT_MS 10000
#define RETRY_NS        100000000 /* after a failed accept: out of descriptors or memory */
#define LINGER_NS       1000000
#define LINGER_TRIES    50
#define HELLO_SIZE      8
#define HEAD_SIZE       9
#define TAG_SIZE        4

static const uint8_t hello_of_rep[HELLO_SIZE] = {0, 'S', 'P', 0, 0, 0x31, 0, 0};
static const uint8_t hello_of_req[HELLO_SIZE] = {0, 'S', 'P', 0, 0, 0x30, 0, 0};

typedef struct Op {
    Control *control;
    nng_aio *aio;
    bool is_running; /* the loop's view: begun and not yet seen to be done */
    atomic_bool is_done;
} Op;

typedef enum Stage { STAGE_HELLO, STAGE_HEAD, STAGE_BODY } Stage;
typedef enum CallState { CALL_NONE, CALL_QUEUED, CALL_BUSY } CallState;

/* A client, and the one call it may have at a time. */
struct ControlCall {
    List link;   /* in clients, by age */
    List queued; /* in queue */
    Control *control;
    nng_stream *stream;
    Op rx, tx;
    bool is_closed; /* freed as soon as nothing is under way and its call is answered */

    Stage stage;
    uint8_t head[HEAD_SIZE];
    uint8_t *into;
    size_t want, got;

    CallState state;
    uint8_t *body;
    size_t body_size, tags_size;

    Buf out, next; /* out is being sent and must stay where it is */
    size_t sent;
};

struct Control {
    Loop *loop;
    ControlFn fn;
    void *userdata;
    int wake_fd;
    LoopFd *wake;
    LoopTimer *retry;
    nng_stream_listener *listener;
    Op accept;
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

/* ---- operations of nng ---- */

static void wake(Control *c)
{
    uint64_t one = 1;

    (void)!write(c->wake_fd, &one, sizeof(one)); /* EAGAIN: the counter is full, so it is readable */
}

/* On a thread of nng's. */
static void on_done(void *userdata)
{
    Op *op = userdata;

    atomic_store_explicit(&op->is_done, true, memory_order_release);
    wake(op->control);
}

/* On a thread of nng's: the names of groups may come from far away. */
static void on_accept_done(void *userdata)
{
    Op *op = userdata;

    if (nng_aio_result(op->aio) == 0)
        op->control->is_welcome = is_welcome(nng_aio_get_output(op->aio, 0));
    on_done(op);
}

static int op_init(Op *op, Control *c, void (*fn)(void *userdata))
{
    op->control = c;
    return nng_aio_alloc(&op->aio, fn, op);
}

static void op_deinit(Op *op)
{
    if (op->aio == NULL)
        return;
    nng_aio_stop(op->aio); /* after it no callback runs */
    nng_aio_free(op->aio);
}

static nng_aio *op_begin(Op *op)
{
    assert(!op->is_running);
    op->is_running = true;
    atomic_store_explicit(&op->is_done, false, memory_order_relaxed);
    return op->aio;
}

static bool op_has_ended(Op *op)
{
    if (!op->is_running || !atomic_load_explicit(&op->is_done, memory_order_acquire))
        return false;
    op->is_running = false;
    return true;
}

/* ---- one client ---- */

static void drop(ControlCall *call)
{
    if (call->is_closed)
        return;
    call->is_closed = true;
    if (call->state == CALL_QUEUED) { /* nobody would hear the answer */
        list_remove(&call->queued);
        call->state = CALL_NONE;
    }
    if (call->state == CALL_BUSY) /* goes on, but keeps nobody out */
        call->control->n_busy--;
    nng_stream_close(call->stream);
}

static void client_free(ControlCall *call)
{
    Control *c = call->control;

    list_remove(&call->link);
    list_remove(&call->queued);
    c->n_clients--;
    if (call->stream != NULL)
        nng_stream_close(call->stream);
    op_deinit(&call->rx);
    op_deinit(&call->tx);
    if (call->stream != NULL)
        nng_stream_free(call->stream);
    free(call->body);
    buf_deinit(&call->out);
    buf_deinit(&call->next);
    free(call);
}

static void send_more(ControlCall *call)
{
    nng_iov iov = {.iov_buf = call->out.data + call->sent, .iov_len = call->out.size - call->sent};

    (void)nng_aio_set_iov(call->tx.aio, 1, &iov);
    nng_stream_send(call->stream, op_begin(&call->tx));
}

static void flush(ControlCall *call)
{
    Buf sent = call->out;

    if (call->is_closed || call->tx.is_running || call->next.size == 0)
        return;
    call->out = call->next;
    call->next = sent;
    buf_clear(&call->next);
    call->sent = 0;
    send_more(call);
}

static void on_sent(ControlCall *call)
{
    if (nng_aio_result(call->tx.aio) != 0) {
        drop(call);
        return;
    }
    call->sent += nng_aio_count(call->tx.aio);
    if (call->is_closed)
        return;
    if (call->sent < call->out.size)
        send_more(call);
    else
        flush(call);
}

static void receive_more(ControlCall *call)
{
    nng_iov iov = {.iov_buf = call->into + call->got, .iov_len = call->want - call->got};

    (void)nng_aio_set_iov(call->rx.aio, 1, &iov);
    nng_stream_recv(call->stream, op_begin(&call->rx));
}

static void receive(ControlCall *call, Stage stage, uint8_t *into, size_t size)
{
    call->stage = stage;
    call->into = into;
    call->want = size;
    call->got = 0;
    receive_more(call);
}

/* The head of a frame is here. A client that asks again before it has its answer is none of ours. */
static bool take_head(ControlCall *call)
{
    uint64_t size = 0;

    for (size_t i = 1; i < HEAD_SIZE; i++)
        size = size << 8 | call->head[i];
    if (call->head[0] != 1 || size < TAG_SIZE || size > CONTROL_REQUEST_MAX ||
        call->state != CALL_NONE || call->next.size != 0)
        return false;
    call->body = malloc((size_t)size);
    if (call->body == NULL)
        return false;
    call->body_size = (size_t)size;
    receive(call, STAGE_BODY, call->body, call->body_size);
    return true;
}

/* The words before the request: the way the answer goes back; the last one has its highest bit set. */
static bool take_body(ControlCall *call)
{
    size_t i = 0;

    while (i + TAG_SIZE <= call->body_size && (call->body[i] & 0x80) == 0)
        i += TAG_SIZE;
    if (i + TAG_SIZE > call->body_size)
        return false;
    call->tags_size = i + TAG_SIZE;
    call->state = CALL_QUEUED;
    list_append(&call->control->queue, &call->queued);
    receive(call, STAGE_HEAD, call->head, HEAD_SIZE);
    return true;
}

static bool take_hello(ControlCall *call)
{
    if (memcmp(call->head, hello_of_req, HELLO_SIZE) != 0)
        return false;
    receive(call, STAGE_HEAD, call->head, HEAD_SIZE);
    return true;
}

static void on_received(ControlCall *call)
{
    bool ok = false;

    if (call->is_closed)
        return;
    if (nng_aio_result(call->rx.aio) != 0 || call->control->is_closing) {
        drop(call);
        return;
    }
    call->got += nng_aio_count(call->rx.aio);
    if (call->got < call->want) {
        receive_more(call);
        return;
    }
    switch (call->stage) {
    case STAGE_HELLO:
        ok = take_hello(call);
        break;
    case STAGE_HEAD:
        ok = take_head(call);
        break;
    case STAGE_BODY:
        ok = take_body(call);
        break;
    }
    if (!ok)
        drop(call);
}

/* ---- calls ---- */

static int
put_frame(Buf *out, const void *tags, size_t tags_size, const void *body, size_t body_size)
{
    uint64_t size = tags_size + body_size;
    uint8_t head[HEAD_SIZE] = {1};

    for (size_t i = HEAD_SIZE; --i > 0; size >>= 8)
        head[i] = (uint8_t)size;
    return buf_reserve(out, HEAD_SIZE + tags_size + body_size) < 0 ||
                   buf_append(out, head, HEAD_SIZE) < 0 || buf_append(out, tags, tags_size) < 0 ||
                   buf_append(out, body, body_size) < 0 ?
               -ENOMEM :
               0;
}

void control_answer(ControlCall *call, int exit_code, const char *error, const char *body)
{
    KControlResponse m = {.exit_code = exit_code, .error = k_str(error), .body = k_str(body)};
    _cleanup_(buf_deinit) Buf out = BUF_NULL;

    assert(call->state == CALL_BUSY);
    call->state = CALL_NONE;
    if (!call->is_closed)
        call->control->n_busy--;
    if (!call->is_closed &&
        (k_pack(&k_control_response, 0, &m, &out) < 0 ||
         put_frame(&call->next, call->body, call->tags_size, out.data, out.size) < 0)) {
        jlog(LOG_ERR, "out of memory: a control request stays without an answer");
        drop(call);
    }
    free(call->body);
    call->body = NULL;
    flush(call);
    wake(call->control); /* for the next in the queue, and to free a client that has left */
}

static void run(ControlCall *call)
{
    _cleanup_(arena_deinit) Arena arena = {.limit_bytes = 4 * CONTROL_REQUEST_MAX};
    KControlRequest request;
    int16_t version;
    int r = k_unpack(&k_control_request, call->body + call->tags_size,
                     call->body_size - call->tags_size, &arena, &request, &version);

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
    list_append(&c->clients, &call->link);
    list_init(&call->queued);
    c->n_clients++;
    if (op_init(&call->rx, c, on_done) != 0 || op_init(&call->tx, c, on_done) != 0 ||
        buf_append(&call->next, hello_of_rep, HELLO_SIZE) < 0) {
        client_free(call);
        return -ENOMEM;
    }
    call->stream = stream;
    nng_aio_set_timeout(call->rx.aio, NNG_DURATION_INFINITE);
    nng_aio_set_timeout(call->tx.aio, SEND_TIMEOUT_MS);
    receive(call, STAGE_HELLO, call->head, HELLO_SIZE);
    flush(call);
    return 0;
}

static void start_accept(Control *c)
{
    if (!c->is_closing && !c->accept.is_running && c->n_clients < CLIENTS_MAX)
        nng_stream_listener_accept(c->listener, op_begin(&c->accept));
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

        if (call->state == CALL_NONE && !call->tx.is_running) {
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
    if (op_has_ended(&c->accept))
        on_accepted(c);
    list_for_each_safe (l, &c->clients) {
        ControlCall *call = CONTAINER_OF(l, ControlCall, link);

        if (op_has_ended(&call->tx))
            on_sent(call);
        if (op_has_ended(&call->rx))
            on_received(call);
        if (call->is_closed && !call->tx.is_running && !call->rx.is_running &&
            call->state == CALL_NONE)
            client_free(call);
    }
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
    r = op_init(&c->accept, c, on_accept_done);
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
        if (CONTAINER_OF(l, ControlCall, link)->tx.is_running)
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
    op_deinit(&c->accept);
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
