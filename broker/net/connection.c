/*
 * Framing, order and flow of one connection. See connection.h.
 *
 * INV-NET-1 responses leave in the order in which their requests arrived
 * INV-NET-2 a buffer is never more than twice as large as the bytes that arrived for it (64 KiB at least)
 * INV-NET-3 a dead connection starts nothing, and its requests are orphaned exactly once
 */

#include "broker/net/connection.h"

#include "base/log.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#define READ_CHUNK     (256u << 10) /* Net.scratch */
#define READ_PER_TURN  (1u << 20)   /* one connection may take so much of a turn */
#define GROW_MIN       (64u << 10)
#define WRITEV_MAX     64
#define FRAME_SIZE_MIN 8 /* api key, version, correlation id */

typedef struct Out { /* bytes, or a range of a file whose fd is ours */
    List node;
    Buf bytes;
    int fd;
    int64_t position;
    size_t size, done;
} Out;

struct Connection {
    Net *net;
    int fd;
    LoopFd *source;
    uint32_t events;
    List node, flush_node, paused_node;
    Principal who;
    char host[48], listener[32];
    uint32_t ip_hash;
    bool dead, eof;

    uint8_t size_word[4];
    size_t size_have;
    size_t frame_size; /* announced; 0 = between frames */
    Buf frame;
    Request *next; /* complete, must wait for its turn */

    List slots; /* Slot */
    size_t slots_count, produces_count;
    List out; /* Out */
    size_t out_bytes;

    Deadline deadline;
    int64_t read_ns, write_ns, used_ns; /* last progress of each kind */
};

static void feed(Connection *c, const uint8_t *data, size_t size);
static void start_next(Connection *c);

Connection *connection_of_node(List *node)
{
    return CONTAINER_OF(node, Connection, node);
}

Connection *connection_of_flush_node(List *node)
{
    return CONTAINER_OF(node, Connection, flush_node);
}

Connection *connection_of_paused_node(List *node)
{
    return CONTAINER_OF(node, Connection, paused_node);
}

uint32_t connection_ip_hash(const Connection *c)
{
    return c->ip_hash;
}

/* --- deadlines --- */

static bool is_reading(const Connection *c)
{
    return c->events & EPOLLIN;
}

static int64_t earliest_due(const Connection *c)
{
    int64_t due = INT64_MAX, idle_ms = c->net->broker->settings.connections_max_idle_ms;
    if (!list_is_empty(&c->out))
        due = c->write_ns + NET_WRITE_STALL_MS * 1000000LL;
    if (is_reading(c) && (c->frame_size > 0 || c->size_have > 0))
        due = MIN(due, c->read_ns + NET_HALF_FRAME_MS * 1000000LL);
    if (idle_ms > 0 && c->slots_count == 0 && list_is_empty(&c->out))
        due = MIN(due, c->used_ns + idle_ms * 1000000LL);
    return due;
}

void connection_arm(Connection *c)
{
    int64_t due = earliest_due(c);
    if (due == INT64_MAX || c->dead)
        return;
    if (deadline_is_set(&c->deadline) && c->deadline.at_ns <= due)
        return; /* fires early, looks again */
    broker_set_deadline(c->net->broker, &c->deadline, MAX((due - broker_now_ns(c->net->broker)) / 1000000, 1));
}

static void on_deadline(Deadline *d)
{
    Connection *c = CONTAINER_OF(d, Connection, deadline);
    if (earliest_due(c) > broker_now_ns(c->net->broker)) {
        connection_arm(c);
        return;
    }
    connection_kill(c, !list_is_empty(&c->out)                   ? "the peer does not read"
                       : c->frame_size > 0 || c->size_have > 0 ? "half a request and no more"
                                                               : "idle");
}

/* --- life --- */

static void set_events(Connection *c)
{
    uint32_t want = 0;
    if (c->dead)
        return;
    if (!c->next && !c->eof && list_is_empty(&c->paused_node) && c->out_bytes <= NET_OUT_QUEUE_BYTES)
        want |= EPOLLIN;
    if (!list_is_empty(&c->out))
        want |= EPOLLOUT;
    if (want == c->events)
        return;
    if (want & ~c->events & EPOLLIN)
        c->read_ns = broker_now_ns(c->net->broker);
    c->events = want;
    (void)loop_fd_set_events(c->source, want);
    connection_arm(c);
}

static Out *out_free(Out *o)
{
    list_remove(&o->node);
    buf_deinit(&o->bytes);
    base_closep(&o->fd);
    free(o);
    return NULL;
}

static void outs_free(List *head)
{
    for (List *l; (l = list_pop(head)) != NULL;)
        out_free(CONTAINER_OF(l, Out, node));
}

static void slot_free(Slot *s)
{
    Connection *c = s->connection;
    list_remove(&s->node);
    if (c) {
        c->slots_count--;
        c->net->in_bytes -= s->frame_bytes;
    }
    outs_free(&s->out);
    free(s);
}

void connection_kill(Connection *c, const char *why)
{
    if (c->dead)
        return;
    c->dead = true;
    jlog(LOG_DEBUG, "connection of %s closed: %s", c->host + 1, why);
    c->source = loop_fd_free(c->source);
    deadline_clear(&c->net->broker->deadlines, &c->deadline);
    list_remove(&c->flush_node);
    list_remove(&c->paused_node);
    list_remove(&c->node);
    list_append(&c->net->dead, &c->node);
    c->net->connections_count--;
}

Connection *connection_free(Connection *c)
{
    Net *n = c->net;
    assert(c->dead);
    if (c->next) {
        c->next->source = NULL;
        request_abandon(c->next, "closed");
    }
    list_for_each_safe(l, &c->slots) {
        Slot *s = CONTAINER_OF(l, Slot, node);
        Request *r = s->request;
        s->request = NULL;
        if (r)
            request_orphan(r);
    }
    for (List *l; (l = c->slots.next) != &c->slots;)
        slot_free(CONTAINER_OF(l, Slot, node));
    outs_free(&c->out);
    n->in_bytes -= c->frame.capacity;
    buf_deinit(&c->frame);
    base_closep(&c->fd);
    free(c);
    return NULL;
}

/* --- writing --- */

static Out *out_new(List *to)
{
    Out *o = calloc(1, sizeof(*o));
    if (!o)
        return NULL;
    o->fd = -1;
    list_append(to, &o->node);
    return o;
}

/* Bytes collect in one Out until a file range comes between. */
static int out_bytes(List *to, const void *data, size_t size)
{
    Out *o = list_is_empty(to) ? NULL : CONTAINER_OF(to->prev, Out, node);
    if (!o || o->fd >= 0)
        o = out_new(to);
    int r = o ? buf_append(&o->bytes, data, size) : -ENOMEM;
    if (r == 0)
        o->size = o->bytes.size;
    return r;
}

static int out_pieces(List *to, const ReplyPiece *pieces, size_t n)
{
    int r = 0;
    for (size_t i = 0; i < n; i++) {
        if (pieces[i].data) {
            if (r == 0)
                r = out_bytes(to, pieces[i].data, pieces[i].size);
            continue;
        }
        Out *o = r == 0 ? out_new(to) : NULL;
        if (o) {
            o->fd = pieces[i].fd;
            o->position = pieces[i].position;
            o->size = pieces[i].size;
        } else {
            base_closep(&(int){pieces[i].fd});
            r = -ENOMEM;
        }
    }
    return r;
}

/* Finished slots at the front: their bytes may leave. */
static void advance_slots(Connection *c)
{
    while (!list_is_empty(&c->slots)) {
        Slot *s = CONTAINER_OF(c->slots.next, Slot, node);
        if (!s->done)
            break;
        bool was_empty = list_is_empty(&c->out);
        for (List *l; (l = list_pop(&s->out)) != NULL;) {
            c->out_bytes += CONTAINER_OF(l, Out, node)->size;
            list_append(&c->out, l);
        }
        if (was_empty)
            c->write_ns = broker_now_ns(c->net->broker);
        slot_free(s);
    }
    if (list_is_empty(&c->flush_node))
        list_append(&c->net->flush, &c->flush_node);
}

static void slot_done(Slot *s)
{
    Connection *c = s->connection;
    if (s->request->api && s->request->api->key == API_PRODUCE)
        c->produces_count--;
    s->request = NULL;
    s->done = true;
    if (!c->dead)
        advance_slots(c);
}

static void on_reply(Request *r, const ReplyPiece *pieces, size_t n)
{
    Slot *s = r->source_data;
    Connection *c = s->connection;
    Buf head = BUF_NULL;
    uint8_t size_word[4] = {0};
    size_t body = 0;
    for (size_t i = 0; i < n; i++)
        body += pieces[i].size;
    int e = buf_append(&head, size_word, sizeof(size_word));
    if (e == 0)
        e = k_response_header_encode(r->api->key, r->version, r->correlation_id, &head);
    size_t total = head.size - 4 + body;
    if (e == 0 && total > INT32_MAX)
        e = -EFBIG;
    if (e == 0) {
        for (int i = 0; i < 4; i++)
            head.data[i] = (uint8_t)(total >> (24 - 8 * i));
        e = out_bytes(&s->out, head.data, head.size);
    }
    buf_deinit(&head);
    if (e == 0) {
        e = out_pieces(&s->out, pieces, n);
    } else {
        for (size_t i = 0; i < n; i++) {
            if (!pieces[i].data)
                base_closep(&(int){pieces[i].fd});
        }
    }
    if (e < 0)
        connection_kill(c, "no memory for a response");
    slot_done(s);
}

static void on_abandon(Request *r, const char *why)
{
    Slot *s = r->source_data;
    Connection *c = s->connection;
    jlog_limited(LOG_INFO, "closing the connection of %s: %s", c->host + 1, why);
    connection_kill(c, why);
    slot_done(s);
}

static void on_silent(Request *r)
{
    slot_done(r->source_data);
}

static const RequestSource tcp_source = {.reply = on_reply, .abandon = on_abandon, .silent = on_silent};

static ssize_t write_bytes(Connection *c)
{
    struct iovec v[WRITEV_MAX];
    int n = 0;
    list_for_each(l, &c->out) {
        Out *o = CONTAINER_OF(l, Out, node);
        if (o->fd >= 0 || n == WRITEV_MAX)
            break;
        v[n++] = (struct iovec){.iov_base = o->bytes.data + o->done, .iov_len = o->size - o->done};
    }
    struct msghdr m = {.msg_iov = v, .msg_iovlen = (size_t)n};
    bool file_next = false;
    list_for_each(l, &c->out) {
        if (CONTAINER_OF(l, Out, node)->fd >= 0)
            file_next = true;
    }
    return sendmsg(c->fd, &m, MSG_NOSIGNAL | MSG_DONTWAIT | (file_next ? MSG_MORE : 0));
}

static ssize_t write_file(Connection *c, Out *o)
{
    off_t at = (off_t)(o->position + (int64_t)o->done);
    ssize_t n = sendfile(c->fd, o->fd, &at, o->size - o->done);
    if (n == 0) {
        errno = ENODATA; /* the file is shorter than the slice: it was cut under us, the response cannot be completed */
        return -1;
    }
    return n;
}

static void sent(Connection *c, size_t n)
{
    c->out_bytes -= n;
    c->write_ns = c->used_ns = broker_now_ns(c->net->broker);
    while (n > 0) {
        Out *o = CONTAINER_OF(c->out.next, Out, node);
        size_t part = MIN(n, o->size - o->done);
        o->done += part;
        n -= part;
        if (o->done == o->size)
            out_free(o);
    }
}

void connection_flush(Connection *c)
{
    while (!c->dead && !list_is_empty(&c->out)) {
        Out *o = CONTAINER_OF(c->out.next, Out, node);
        if (o->done == o->size) {
            out_free(o);
            continue;
        }
        ssize_t n = o->fd >= 0 ? write_file(c, o) : write_bytes(c);
        if (n < 0) {
            if (errno == EINTR)
                continue;
            if (errno != EAGAIN)
                connection_kill(c, strerror(errno));
            break;
        }
        sent(c, (size_t)n);
    }
    if (c->dead)
        return;
    start_next(c);
    if (!c->dead && c->eof && c->slots_count == 0 && !c->next && list_is_empty(&c->out))
        connection_kill(c, "closed by the peer");
    set_events(c);
    if (!c->dead)
        connection_arm(c);
}

/* --- reading --- */

static bool may_start(const Connection *c, const Request *r)
{
    if (c->slots_count == 0)
        return c->out_bytes <= NET_OUT_QUEUE_BYTES;
    bool produce = r->api && r->api->key == API_PRODUCE;
    return produce && c->produces_count == c->slots_count && c->slots_count < CONNECTION_PIPELINE_MAX &&
           c->out_bytes <= NET_OUT_QUEUE_BYTES;
}

static void start(Connection *c, Request *r)
{
    Slot *s = calloc(1, sizeof(*s));
    if (!s) {
        request_abandon(r, "out of memory");
        connection_kill(c, "out of memory");
        return;
    }
    list_init(&s->node);
    list_init(&s->out);
    s->connection = c;
    s->request = r;
    s->frame_bytes = r->frame.capacity;
    c->net->in_bytes += s->frame_bytes;
    list_append(&c->slots, &s->node);
    c->slots_count++;
    if (r->api && r->api->key == API_PRODUCE)
        c->produces_count++;
    r->source = &tcp_source;
    r->source_data = s;
    request_start(r);
}

static void start_next(Connection *c)
{
    while (!c->dead && c->next && may_start(c, c->next)) {
        Request *r = c->next;
        c->next = NULL;
        start(c, r);
    }
}

static void frame_complete(Connection *c)
{
    c->net->in_bytes -= c->frame.capacity;
    Request *r = request_new(c->net->broker, &c->frame, &c->who);
    c->frame = BUF_NULL;
    c->frame_size = c->size_have = 0;
    if (!r) {
        connection_kill(c, "malformed request header");
        return;
    }
    if (may_start(c, r))
        start(c, r);
    else
        c->next = r;
}

static void begin_frame(Connection *c)
{
    uint32_t size = 0;
    for (int i = 0; i < 4; i++)
        size = size << 8 | c->size_word[i];
    if (size < FRAME_SIZE_MIN || size > (uint64_t)c->net->broker->settings.request_max_bytes) {
        /* also what TLS or HTTP on this port looks like */
        connection_kill(c, "impossible request size");
        return;
    }
    c->frame_size = size;
}

/* Room for more of the frame: doubles what is there, never beyond the frame. */
static size_t frame_room(Connection *c)
{
    size_t left = c->frame_size - c->frame.size, before = c->frame.capacity;
    if (c->frame.capacity - c->frame.size < MIN(left, GROW_MIN)) {
        size_t more = MIN(left, MAX(GROW_MIN, c->frame.size));
        if (buf_reserve(&c->frame, more) < 0) {
            connection_kill(c, "out of memory");
            return 0;
        }
        c->net->in_bytes += c->frame.capacity - before;
    }
    return MIN(left, c->frame.capacity - c->frame.size);
}

static void feed(Connection *c, const uint8_t *data, size_t size)
{
    while (size > 0 && !c->dead && !c->next) {
        if (c->frame_size == 0) {
            size_t n = MIN(size, sizeof(c->size_word) - c->size_have);
            memcpy(c->size_word + c->size_have, data, n);
            c->size_have += n;
            data += n;
            size -= n;
            if (c->size_have == sizeof(c->size_word))
                begin_frame(c);
            continue;
        }
        size_t n = MIN(size, frame_room(c));
        if (c->dead)
            return;
        memcpy(c->frame.data + c->frame.size, data, n);
        c->frame.size += n;
        data += n;
        size -= n;
        if (c->frame.size == c->frame_size)
            frame_complete(c);
    }
    assert(size == 0 || c->dead || c->next);
}

/* How much one read may take. With requests kept one at a time, never more than the current frame once one waits. */
static size_t read_limit(const Connection *c)
{
    if (c->frame_size == 0)
        return sizeof(c->size_word) - c->size_have;
    return c->frame_size - c->frame.size;
}

static void on_readable(Connection *c)
{
    size_t taken = 0;
    while (!c->dead && !c->next && taken < READ_PER_TURN) {
        if (!net_has_room(c->net) && c->frame.size >= GROW_MIN) {
            list_append(&c->net->paused, &c->paused_node); /* back-pressure: queued.max.request.bytes */
            break;
        }
        size_t limit = read_limit(c);
        uint8_t *to = c->net->scratch;
        bool direct = c->frame_size > 0;
        if (direct) {
            limit = frame_room(c);
            to = c->frame.data + c->frame.size;
        }
        if (c->dead)
            break;
        ssize_t n = recv(c->fd, to, MIN(limit, READ_CHUNK), MSG_DONTWAIT);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0) {
            if (errno != EAGAIN)
                connection_kill(c, strerror(errno));
            break;
        }
        if (n == 0) {
            if (c->slots_count > 0 || !list_is_empty(&c->out))
                c->eof = true; /* half-closed: answer what was asked */
            else
                connection_kill(c, "closed by the peer");
            break;
        }
        taken += (size_t)n;
        c->read_ns = c->used_ns = broker_now_ns(c->net->broker);
        if (direct) {
            c->frame.size += (size_t)n;
            if (c->frame.size == c->frame_size)
                frame_complete(c);
        } else {
            feed(c, to, (size_t)n);
        }
    }
    if (!c->dead) {
        set_events(c);
        connection_arm(c);
    }
}

void connection_resume(Connection *c)
{
    if (!c->dead)
        on_readable(c);
}

static void on_event(void *userdata, uint32_t events)
{
    Connection *c = userdata;
    if (events & EPOLLOUT)
        connection_flush(c);
    if (!c->dead && (events & EPOLLIN) && is_reading(c))
        on_readable(c);
    if (!c->dead && (events & (EPOLLERR | EPOLLHUP)))
        connection_kill(c, "closed by the peer");
}

Connection *connection_new(Net *n, int fd, const struct Listener *listener, uint32_t ip_hash, const char *host, bool loopback)
{
    Connection *c = calloc(1, sizeof(*c));
    if (!c) {
        close(fd);
        return NULL;
    }
    c->net = n;
    c->fd = fd;
    c->ip_hash = ip_hash;
    list_init(&c->node);
    list_init(&c->flush_node);
    list_init(&c->paused_node);
    list_init(&c->slots);
    list_init(&c->out);
    memccpy(c->host, host, 0, sizeof(c->host) - 1);
    memccpy(c->listener, listener->name, 0, sizeof(c->listener) - 1);
    c->who = (Principal){.rights = rights_of_tcp(loopback, n->broker->settings.listener_admin),
                         .uid = UINT32_MAX,
                         .listener = c->listener,
                         .client_host = c->host};
    c->deadline.fn = on_deadline;
    c->read_ns = c->write_ns = c->used_ns = broker_now_ns(n->broker);
    c->events = EPOLLIN;
    if (loop_add_fd(n->broker->loop, fd, EPOLLIN, on_event, c, &c->source) < 0) {
        close(fd);
        free(c);
        return NULL;
    }
    list_append(&n->connections, &c->node);
    n->connections_count++;
    connection_arm(c);
    return c;
}
