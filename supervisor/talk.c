/*
 * See talk.h. A full socket means that the child has not read for a long time: what must arrive (Siblings, Stop) is sent
 * again with the next tick, the rest is dropped; a child that goes on not reading is hung and ends by the watchdog.
 */

#include "supervisor/talk.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/build_id.h"
#include "base/clock.h"
#include "base/fs.h"
#include "base/log.h"
#include "supervisor/notify.h"
#include "supervisor/process.h"
#include "supervisor/waits.h"
#include "wire/messages.h"

#define DECODE_MAX  65536u
#define MESSAGE_MAX 8192u

static int send_to(NodeChild *c, const KMessage *type, const void *message, int fd)
{
    _cleanup_(buf_deinit) Buf out = BUF_NULL;
    int r = c->sock < 0 ? -ENOTCONN : k_pack(type, 0, message, &out);

    if (r == 0)
        r = sock_send_fds(c->sock, out.data, out.size, &fd, fd >= 0);
    if (r < 0 && r != -EAGAIN && r != -EPIPE && r != -ECONNRESET && r != -ENOTCONN)
        jlog_errno(LOG_WARNING, r, "message %s to %s is lost", k_message_name(type),
                   child_role_name(c->role));
    return r;
}

static void send_siblings(NodeChild *to)
{
    KSiblingsChildren items[ROW_COUNT];
    KSiblings m = {
        .children = {items, 0}
    };

    node_for_each(c, to->node)
    {
        if (c->pid > 0)
            items[m.children.n++] = (KSiblingsChildren){
                .role = (int8_t)c->role, .pid = (int32_t)c->pid, .ready = core_is_up(&c->core)};
    }
    to->resend_siblings = send_to(to, &k_siblings, &m, -1) == -EAGAIN;
}

void talk_siblings(Node *n)
{
    node_for_each(c, n)
    {
        if (c->pid > 0)
            send_siblings(c);
    }
}

void talk_died(NodeChild *dead, pid_t pid)
{
    KSiblingDied m = {.role = (int8_t)dead->role, .pid = (int32_t)pid};

    node_for_each(c, dead->node)
    {
        if (c != dead && c->pid > 0)
            (void)send_to(c, &k_sibling_died, &m, -1); /* Siblings follows and says it again */
    }
}

void talk_drain(NodeChild *c, int64_t timeout_ns)
{
    KDrain m = {.timeout_ms = timeout_ns / NS_PER_MS};

    (void)send_to(c, &k_drain, &m, -1); /* lost: the drain ends with its patience */
}

void talk_undrain(NodeChild *c)
{
    KUndrain m = {0};

    (void)send_to(c, &k_undrain, &m, -1);
}

void talk_stop(NodeChild *c)
{
    KStop m = {0};

    c->resend_stop = send_to(c, &k_stop, &m, -1) == -EAGAIN;
}

static void ask(NodeChild *c, Ask *order, const KMessage *type, const void *message, int fd)
{
    order->state = send_to(c, type, message, fd) == 0 ? ASK_SENT : ASK_REFUSED;
    (void)snprintf(order->text, sizeof(order->text), "%s",
                   order->state == ASK_SENT ? "" : "the process does not read its messages");
}

void talk_reload(NodeChild *c, int config_fd)
{
    KReload m = {.digest = k_str(c->node->digest)};

    ask(c, &c->reload, &k_reload, &m, config_fd);
}

void talk_accept_clock(NodeChild *c)
{
    KAcceptClock m = {0};

    ask(c, &c->accept_clock, &k_accept_clock, &m, -1);
}

void talk_retry(NodeChild *c)
{
    if (c->resend_siblings)
        send_siblings(c);
    if (c->resend_stop)
        talk_stop(c);
}

static void copy_text(char *out, size_t size, KStr s)
{
    size_t n = s.len < 0 ? 0 : MIN((size_t)s.len, size - 1);

    if (n > 0)
        memcpy(out, s.ptr, n);
    out[n] = '\0';
}

static void on_ready(NodeChild *c, const KChildReady *m)
{
    if (!k_str_equal(m->build_id, build_id())) {
        (void)snprintf(c->why, sizeof(c->why), "it is of build %.*s, the supervisor of build %s",
                       MAX(m->build_id.len, 0), m->build_id.ptr, build_id());
        (void)process_signal(c, SIGKILL);
        return;
    }
    c->ready_after_ns = clock_mono_ns() - c->spawned_ns;
    c->status[0] = '\0';
    jlog(LOG_INFO, "%s is ready, pid %d, after %lld ms", child_role_name(c->role), (int)c->pid,
         (long long)(c->ready_after_ns / NS_PER_MS));
    process_feed(c, CORE_EV_READY, 0);
}

static void on_status(NodeChild *c, const KChildStatus *m)
{
    int64_t extend_ms = MIN(MAX(m->extend_timeout_ms, 0), INT64_C(3600000));

    copy_text(c->status, sizeof(c->status), m->text);
    process_feed(c, CORE_EV_EXTEND, extend_ms * NS_PER_MS);
    notify_progress(c->node, c, extend_ms);
}

static void on_answer(NodeChild *c, Ask *order, bool ok, KStr text)
{
    order->state = ok ? ASK_DONE : ASK_REFUSED;
    copy_text(order->text, sizeof(order->text), text);
    waits_look(c->node);
}

static void dispatch(NodeChild *c, const void *data, size_t size)
{
    union {
        KChildReady ready;
        KChildStatus status;
        KChildFailed failed;
        KDrained drained;
        KReloaded reloaded;
        KClockAccepted accepted;
    } m;
    _cleanup_(arena_deinit) Arena arena = {.limit_bytes = DECODE_MAX};
    const KMessage *type = NULL;
    int16_t number, version;
    int r = k_unpack_type(data, size, &number, &version);

    if (r == 0)
        type = k_message_by_type(number);
    if (type != &k_child_ready && type != &k_child_status && type != &k_child_failed &&
        type != &k_drained && type != &k_reloaded && type != &k_clock_accepted)
        r = -EBADMSG;
    if (r == 0)
        r = k_unpack(type, data, size, &arena, &m, &version);
    if (r < 0) {
        jlog_errno(LOG_ERR, r, "message of %zu bytes from %s cannot be understood", size,
                   child_role_name(c->role));
        return;
    }
    if (type == &k_child_ready)
        on_ready(c, &m.ready);
    else if (type == &k_child_status)
        on_status(c, &m.status);
    else if (type == &k_child_failed)
        copy_text(c->why, sizeof(c->why), m.failed.why);
    else if (type == &k_drained)
        process_feed(c, CORE_EV_DRAINED, m.drained.ok);
    else if (type == &k_reloaded)
        on_answer(c, &c->reload, m.reloaded.ok, m.reloaded.text);
    else
        on_answer(c, &c->accept_clock, m.accepted.ok, m.accepted.text);
}

void talk_read(NodeChild *c)
{
    uint8_t data[MESSAGE_MAX];

    while (c->sock >= 0) {
        ssize_t n = sock_recv_fds(c->sock, data, sizeof(data), NULL, NULL);

        if (n == -EMSGSIZE)
            continue;
        if (n ==
            -ECONNRESET) /* it ended with messages of ours unread; the error stands before its last words */
            continue;
        if (n == -EAGAIN)
            return;
        if (n <= 0) { /* it closed its end: the exit follows */
            c->sock_source = loop_fd_free(c->sock_source);
            base_closep(&c->sock);
            return;
        }
        dispatch(c, data, (size_t)n);
    }
}
