/*
 * Descriptors, completions and doorbells of one session.
 *
 * Nothing in C is believed. A word is loaded once into a local; a descriptor is copied to the stack by eight relaxed loads
 * and only the copy is looked at; bounds are those of this process. What cannot come from an honest library dooms the
 * session: a queue position that jumps, reserved bits, a payload outside of the arena.
 *
 * Going to sleep (INV-FAB-1): store need_doorbell, full fence, load the client's words again. The client stores its words,
 * full fence, loads need_doorbell. One of the two sees the other. The same pair, mirrored, stands between publishing to D
 * and need_wakeup. Fences are taken once for all sessions, in fab_server.c.
 *
 * The gate: completions that are posted, waiting or owed never exceed the queue, so a client that does not reap stops
 * being scanned instead of making us remember more for it.
 */

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "shm/fab_memfd.h"
#include "shm/fab_server_private.h"

#define SQ_ENTRIES FAB_SQ_ENTRIES_DEFAULT
#define CQ_ENTRIES FAB_CQ_ENTRIES_DEFAULT
static_assert((SQ_ENTRIES & (SQ_ENTRIES - 1)) == 0 && (CQ_ENTRIES & (CQ_ENTRIES - 1)) == 0,
              "masks");
static_assert(ATOMIC_LLONG_LOCK_FREE == 2, "shared words need no lock");

/* Between CONSUMED and ACKED of the next descriptor. */
#define CQ_PER_SQE 2

void fab_session_mark(FabSession *s, bool event)
{
    if (s->doomed) /* out of all lists already */
        return;
    if (event)
        s->published_event = true;
    else
        s->published_space = true;
    if (list_is_empty(&s->dirty_link))
        list_append(&s->server->dirty, &s->dirty_link);
}

void fab_session_activate(FabSession *s)
{
    if (s->doomed || !s->open)
        return;
    s->scans_empty = 0;
    if (list_is_empty(&s->active_link))
        list_append(&s->server->active, &s->active_link);
}

void fab_session_on_doorbell(void *userdata, uint32_t events UNUSED)
{
    fab_session_activate(userdata);
}

void fab_session_ring(FabSession *s)
{
    uint64_t need = atomic_load_explicit(&s->in->need_wakeup, memory_order_relaxed);
    bool wanted = s->published_event || (s->published_space && (need & 1));

    s->published_event = s->published_space = false;
    if (need == s->rung || !wanted)
        return;
    s->rung = need;
    uint64_t one = 1;
    (void)!write(s->wakeup_fd, &one,
                 sizeof(one)); /* ours alone and non-blocking: EAGAIN would mean that it is ready */
}

/* ---- completions ---- */

static bool gate_is_open(const FabSession *s, uint64_t cq_head)
{
    uint64_t used = s->cq_tail - cq_head;
    return s->gone || used + s->n_overflow + s->n_owed + CQ_PER_SQE <= CQ_ENTRIES;
}

/* The client's cq_head; false: it lies, the session is doomed. */
static bool load_cq_head(FabSession *s)
{
    uint64_t head = atomic_load_explicit(&s->in->cq_head, memory_order_acquire);
    if (head - s->cq_head > s->cq_tail - s->cq_head) {
        fab_session_violate(s, "cq_head outside of the queue");
        return false;
    }
    s->cq_head = head;
    return true;
}

static void post(FabSession *s, const FabCqe *cqe)
{
    assert(s->cq_tail - s->cq_head < CQ_ENTRIES);
    memcpy(s->cq + (s->cq_tail & (CQ_ENTRIES - 1)) * sizeof(*cqe), cqe, sizeof(*cqe));
    s->cq_tail++;
    atomic_store_explicit(&s->out->cq_tail, s->cq_tail, memory_order_release);
}

static int overflow_append(FabSession *s, const FabCqe *cqe)
{
    if (s->n_overflow == s->overflow_capacity) {
        uint32_t capacity = MAX(s->overflow_capacity * 2, 16u);
        FabCqe *grown =
            capacity > CQ_ENTRIES * 2 ? NULL : realloc(s->overflow, capacity * sizeof(*grown));
        if (!grown)
            return -ENOBUFS;
        s->overflow = grown;
        s->overflow_capacity = capacity;
    }
    s->overflow[s->n_overflow++] = *cqe;
    return 0;
}

static void overflow_flush(FabSession *s)
{
    uint32_t n = 0;

    if (s->n_overflow == 0 || !load_cq_head(s))
        return;
    while (n < s->n_overflow && s->cq_tail - s->cq_head < CQ_ENTRIES)
        post(s, &s->overflow[n++]);
    if (n == 0)
        return;
    memmove(s->overflow, s->overflow + n, (s->n_overflow - n) * sizeof(*s->overflow));
    s->n_overflow -= n;
    fab_session_mark(s, true);
}

void fab_session_complete(FabSession *s, const FabCqe *cqe)
{
    const FabSqe *now = s->current;

    if (cqe->kind != FAB_CQE_CONSUMED && s->n_owed > 0)
        s->n_owed--;
    if (s->doomed || s->gone)
        return;
    if (s->n_overflow == 0 && s->cq_tail - s->cq_head == CQ_ENTRIES && !load_cq_head(s))
        return;
    if (s->n_overflow > 0 || s->cq_tail - s->cq_head == CQ_ENTRIES) {
        if (overflow_append(s, cqe) < 0)
            fab_session_close(s, "too many completions that the client does not take");
        else
            fab_session_activate(s); /* to be armed for cq_head */
        return;
    }
    post(s, cqe);
    bool quiet = cqe->kind == FAB_CQE_CONSUMED && now && now->op == FAB_OP_PRODUCE &&
                 now->acks != 0 && now->user_data == cqe->user_data;
    fab_session_mark(s, !quiet);
}

/* ---- the socket ---- */

static int arena_extend(FabSession *s, int fd, uint64_t size, FabControl *reply)
{
    if (size == 0 || size % fab_page_size() != 0 || fab_memfd_check(fd, FAB_SEALS_C, size) < 0)
        return -EPROTO;
    if (s->arena_size > s->arena_limit || size > s->arena_limit - s->arena_size) {
        reply->error = -E2BIG;
        (void)snprintf(reply->why, sizeof(reply->why),
                       "the arena of this session ends at %llu bytes; ask for more when connecting",
                       (unsigned long long)s->arena_limit);
        return 0;
    }
    if (!fab_server_charge(s, size)) {
        reply->error = -ENOBUFS;
        (void)snprintf(
            reply->why, sizeof(reply->why),
            "all sessions together would pass session.memory.max = %llu; raise it or close sessions",
            (unsigned long long)s->server->o.memory_max);
        return 0;
    }
    int r = fab_map_at(s->c_map + s->server->arena_offset + s->arena_size, size, PROT_READ, fd, 0);
    if (r < 0) {
        fab_server_discharge(s, size);
        reply->error = r;
        (void)snprintf(reply->why, sizeof(reply->why), "the broker cannot map more memory: %s",
                       strerror(-r));
        return 0;
    }
    s->arena_size += size;
    return 0;
}

static void control_arena(FabSession *s, int fd, uint64_t size)
{
    FabControl reply = {.magic = FAB_MAGIC, .kind = FAB_CONTROL_ARENA_REPLY};

    if (arena_extend(s, fd, size, &reply) < 0) {
        fab_session_violate(s, "arena memory that is not sealed or sized as agreed");
        return;
    }
    reply.size = s->arena_size;
    if (fab_session_say(s, &reply, NULL, 0) < 0)
        fab_session_close(s, "the client does not read its socket");
}

static void control_handle(FabSession *s, const FabControl *m, int fd)
{
    if (m->magic != FAB_MAGIC || m->rsv != 0 || m->rsv1 != 0 || fd < 0) {
        fab_session_violate(s, "a datagram that is no control message");
    } else if (m->kind == FAB_CONTROL_ARENA) {
        control_arena(s, fd, m->size);
    } else if (m->kind == FAB_CONTROL_PAYLOAD && m->size > 0 && m->size <= FAB_BATCH_MAX &&
               fab_memfd_check(fd, FAB_SEALS_PAYLOAD, m->size) == 0) {
        s->payloads[s->n_payloads++] = (FabPayload){.fd = fd, .size = m->size};
        return; /* kept */
    } else {
        fab_session_violate(s, "a control message or payload memory that is not as agreed");
    }
    fab_fd_discard(fd);
}

int fab_session_read_socket(FabSession *s)
{
    while (!s->doomed) {
        FabControl m;
        int fd = -1;

        s->socket_unread = s->n_payloads == FAB_PAYLOADS_IN_MAX;
        if (s->socket_unread)
            return 0; /* read on when a descriptor has taken one */
        ssize_t n = fab_recv_fd(s->socket_fd, &m, sizeof(m), &fd);
        if (n == -EAGAIN)
            return 0;
        if (n == (ssize_t)sizeof(m)) {
            control_handle(s, &m, fd);
            continue;
        }
        fab_fd_discard(fd);
        if (n <= 0 && n != -EMSGSIZE)
            return -ECONNRESET;
        fab_session_violate(s, "a datagram that is no control message");
    }
    return 0;
}

/* ---- descriptors ---- */

static FabSqe sqe_load(const FabSession *s, uint64_t position)
{
    const void *at = s->sq + (position & (SQ_ENTRIES - 1)) * sizeof(FabSqe);
    const _Atomic uint64_t *from = at;
    union {
        FabSqe sqe;
        uint64_t words[sizeof(FabSqe) / sizeof(uint64_t)];
    } copy;

    for (size_t i = 0; i < ARRAY_SIZE(copy.words); i++)
        copy.words[i] = atomic_load_explicit(&from[i], memory_order_relaxed);
    return copy.sqe;
}

static const char *sqe_fault(const FabSession *s, const FabSqe *sqe)
{
    if (sqe->op >= FAB_OP_COUNT)
        return "unknown op";
    if ((sqe->op == FAB_OP_RESPONSE || sqe->op == FAB_OP_NOTIFY) && s->role == FAB_ROLE_CLIENT)
        return "an op of daemons";
    if ((sqe->flags & ~FAB_SQE_IN_MEMFD) || sqe->rsv0 || sqe->rsv1[0] || sqe->rsv1[1] ||
        sqe->rsv1[2])
        return "reserved bits set";
    if (sqe->flags & FAB_SQE_IN_MEMFD)
        return sqe->len == 0 ? "an empty payload in a memfd" : NULL;
    if (sqe->len > 0 && (sqe->off > s->arena_size || sqe->len > s->arena_size - sqe->off))
        return "payload outside of the arena";
    return NULL;
}

static bool sqe_owes_final(const FabSqe *sqe)
{
    switch ((FabOp)sqe->op) {
    case FAB_OP_PRODUCE:
        return sqe->acks != 0;
    case FAB_OP_OPEN:
    case FAB_OP_SUBSCRIBE:
    case FAB_OP_UNSUBSCRIBE:
    case FAB_OP_LEASE_RELEASE:
        return true;
    case FAB_OP_NOP:
    case FAB_OP_REQUEST:
    case FAB_OP_RESPONSE:
    case FAB_OP_NOTIFY:
    case FAB_OP_LEASE:
    case FAB_OP_COUNT:
        break;
    }
    return false;
}

/*
 * The client's memfd is read, not mapped: a read of a hole gives zeros, while a page fault on one would allocate a page at
 * our expense that the client could keep for ever.
 */
static const void *payload_load(FabSession *s, const FabSqe *sqe)
{
    size_t got = 0;

    if (s->payload_data)
        return s->payload_data;
    /* Sent before the descriptor, so it is in the socket; a hang-up is noticed elsewhere. */
    if (s->n_payloads == 0)
        (void)fab_session_read_socket(s);
    if (s->doomed)
        return NULL;
    if (s->n_payloads == 0 || s->payloads[0].size != sqe->len) {
        fab_session_violate(s, "no memfd for this descriptor");
        return NULL;
    }
    if (!fab_server_charge(s, sqe->len)) {
        fab_session_close(s, "a large payload would pass session.memory.max");
        return NULL;
    }
    s->payload_data = malloc(sqe->len);
    if (!s->payload_data ||
        fs_pread_all(s->payloads[0].fd, s->payload_data, sqe->len, 0, &got) < 0 ||
        got != sqe->len) {
        fab_session_close(s, "out of memory for a large payload");
        return NULL;
    }
    return s->payload_data;
}

static void payload_drop(FabSession *s)
{
    assert(s->n_payloads > 0);
    free(s->payload_data);
    s->payload_data = NULL;
    close(s->payloads[0].fd);
    fab_server_discharge(s, s->payloads[0].size);
    s->n_payloads--;
    memmove(s->payloads, s->payloads + 1, s->n_payloads * sizeof(s->payloads[0]));
    if (s->socket_unread)
        (void)fab_session_read_socket(s);
}

/* Return: true when the descriptor at the head was taken. */
static bool take_one(FabSession *s, FabSqe *ret_sqe)
{
    FabSqe sqe = sqe_load(s, s->sq_head);
    const char *fault = sqe_fault(s, &sqe);
    const void *payload = NULL;
    FabServer *server = s->server;

    if (fault) {
        fab_session_violate(s, fault);
        return false;
    }
    if (sqe.flags & FAB_SQE_IN_MEMFD)
        payload = payload_load(s, &sqe);
    else if (sqe.len > 0)
        payload = s->arena + sqe.off;
    if (s->doomed)
        return false;

    bool owes = sqe_owes_final(&sqe);
    s->n_owed += owes;
    s->current = &sqe;
    int r = server->ops.on_sqe(server->userdata, s, &sqe, payload);
    s->current = NULL;
    if (r == FAB_RETRY) {
        s->n_owed -= owes && s->n_owed > 0;
        s->paused = true;
        return false;
    }
    if (r < 0) {
        fab_session_violate(s, "a descriptor that the broker refuses");
        return false;
    }
    if (sqe.flags & FAB_SQE_IN_MEMFD)
        payload_drop(s);
    s->sq_head++;
    *ret_sqe = sqe;
    return true;
}

static unsigned take(FabSession *s, uint64_t tail, unsigned max, uint64_t max_bytes)
{
    uint64_t bytes = 0;
    unsigned n = 0;

    while (s->sq_head != tail && !s->paused && !s->doomed && n < max && bytes < max_bytes) {
        FabSqe sqe;

        if (!gate_is_open(s, s->cq_head) && (!load_cq_head(s) || !gate_is_open(s, s->cq_head)))
            break;
        if (!take_one(s, &sqe))
            break;
        bytes += sqe.len;
        n++;
    }
    if (n > 0) {
        atomic_store_explicit(&s->out->sq_head, s->sq_head, memory_order_release);
        fab_session_mark(s, false);
    }
    return n;
}

/* The client's tail; false: it lies, the session is doomed. */
static bool load_sq_tail(FabSession *s, uint64_t *ret)
{
    uint64_t tail = atomic_load_explicit(&s->in->sq_tail, memory_order_acquire);
    if (tail - s->sq_head > SQ_ENTRIES) {
        fab_session_violate(s, "sq_tail outside of the queue");
        return false;
    }
    *ret = tail;
    return true;
}

void fab_session_scan(FabSession *s)
{
    uint64_t tail;

    overflow_flush(s);
    if (!s->doomed && fab_delivery_can_run(s)) {
        fab_delivery_run(s);
        s->scans_empty = 0;
    }
    if (s->doomed || !load_sq_tail(s, &tail))
        return;
    if (take(s, tail, FAB_SCAN_SQES, FAB_SCAN_BYTES) > 0)
        s->scans_empty = 0;
    else
        s->scans_empty++;
}

void fab_session_drain(FabSession *s)
{
    uint64_t tail;

    s->gone = true;
    if (!s->doomed && load_sq_tail(s, &tail))
        (void)take(s, tail, SQ_ENTRIES, UINT64_MAX);
}

bool fab_session_has_work(const FabSession *s)
{
    bool open = gate_is_open(s, s->cq_head);

    if (!open ||
        s->n_overflow > 0) { /* else cq_head does not matter, and its line stays where it is */
        uint64_t cq_head = atomic_load_explicit(&s->in->cq_head, memory_order_relaxed);
        if (s->n_overflow > 0 && cq_head != s->cq_head)
            return true;
        open = gate_is_open(s, cq_head);
    }
    if (!s->paused && open &&
        atomic_load_explicit(&s->in->sq_tail, memory_order_relaxed) != s->sq_head)
        return true;
    return fab_delivery_can_run(s);
}

void fab_session_arm(FabSession *s)
{
    bool gated = s->n_overflow > 0 || !gate_is_open(s, s->cq_head);

    atomic_store_explicit(&s->out->want_consumed, fab_delivery_want(s), memory_order_relaxed);
    atomic_store_explicit(&s->out->want_cq_head, gated ? s->cq_head + 1 : UINT64_MAX,
                          memory_order_relaxed);
    s->n_arms++;
    atomic_store_explicit(&s->out->need_doorbell, s->n_arms, memory_order_release);
}

void fab_session_resume(FabSession *s)
{
    s->paused = false;
    fab_session_activate(s);
}

void fab_session_deinit_queues(FabSession *s)
{
    for (unsigned i = 0; i < s->n_payloads; i++)
        close(s->payloads[i].fd);
    s->n_payloads = 0;
    free(s->payload_data);
    s->payload_data = NULL;
    free(s->overflow);
    s->overflow = NULL;
}
