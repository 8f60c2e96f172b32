/*
 * Delivery: the ring of a session, what waits for room in it, its growth, and payloads too large for it.
 *
 * Positions are bytes and only grow; a frame stands at `position & (size - 1)` and, the ring being mapped twice in a row,
 * never wraps. One frame header always stays free for EXCHANGE: behind it the ring goes on at the same position in the next
 * memfd, four times larger. The old bytes in flight still count against the new ring, so credit needs no second account.
 *
 * Three things can hold a frame back: the ring (space_need), the socket (socket_blocked), large payloads not yet released
 * (n_outs). Frames then wait in a bounded private queue, in order, and fab_session_reserve() grants nothing before it is
 * empty. A reader that does not read costs this queue at most, or nothing when the caller uses reserve.
 */

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "shm/fab_memfd.h"
#include "shm/fab_server_private.h"

#define HEADER        sizeof(FabFrame)
#define GROWTH_FACTOR 4
static_assert(sizeof(FabFrame) == FAB_FRAME_ALIGN, "a header is one unit of the ring");

static uint64_t frame_bytes(size_t payload)
{
    return HEADER + align_up(payload, FAB_FRAME_ALIGN);
}

static uint64_t room_at(const FabSession *s, uint64_t consumed)
{
    uint64_t in_flight = s->tail - consumed + HEADER;
    return in_flight < s->ring.size ? s->ring.size - in_flight : 0;
}

static uint8_t *ring_at(const FabSession *s, uint64_t position)
{
    return s->ring.data + (position & (s->ring.size - 1));
}

static void outs_release(FabSession *s)
{
    unsigned n = 0;

    while (n < s->n_outs && s->outs[n].release_at <= s->consumed) {
        (void)!ftruncate(s->outs[n].fd, 0); /* frees the pages, also where the client kept a map */
        close(s->outs[n].fd);
        fab_server_discharge(s, s->outs[n].size);
        n++;
    }
    s->n_outs -= n;
    memmove(s->outs, s->outs + n, s->n_outs * sizeof(s->outs[0]));
}

/* false: the client lies, the session is doomed */
static bool load_consumed(FabSession *s)
{
    uint64_t consumed = atomic_load_explicit(&s->in->delivery_consumed, memory_order_acquire);
    if (consumed - s->consumed > s->tail - s->consumed) {
        fab_session_violate(s, "delivery_consumed outside of the ring");
        return false;
    }
    s->consumed = consumed;
    if (s->n_outs > 0)
        outs_release(s);
    return true;
}

/* The frame at the tail, its payload in place, becomes visible. */
static void publish(FabSession *s, const FabFrame *frame, size_t payload_in_ring)
{
    memcpy(ring_at(s, s->tail), frame, HEADER);
    s->tail += frame_bytes(payload_in_ring);
    s->reserved = 0;
    atomic_store_explicit(&s->out->delivery_tail, s->tail, memory_order_release);
    fab_session_mark(s, true);
}

/* ---- growth ---- */

static int ring_make(uint64_t size, FabRing *ret, int *ret_fd)
{
    _cleanup_(base_closep) int fd = fab_memfd_new("leat-ring", size, true);
    if (fd < 0)
        return fd;
    uint8_t *map = fab_map_reserve(2 * size);
    if (!map)
        return -ENOMEM;
    int r = fab_map_twice(map, size, PROT_READ | PROT_WRITE, fd, 0);
    if (r == 0)
        r = fab_memfd_seal(fd, FAB_SEALS_D);
    if (r < 0) {
        (void)munmap(map, 2 * size);
        return r;
    }
    *ret = (FabRing){.data = map, .size = size, .own_map = map};
    *ret_fd = fd;
    fd = -1;
    return 0;
}

static void ring_drop(FabRing *ring)
{
    if (ring->own_map)
        (void)munmap(ring->own_map, 2 * ring->size);
    *ring = (FabRing){0};
}

static int ring_grow(FabSession *s)
{
    FabControl control = {.magic = FAB_MAGIC, .kind = FAB_CONTROL_FDS};
    FabFrame frame = {.type = FAB_FRAME_EXCHANGE, .flags = FAB_FRAME_HAS_FDS};
    uint64_t size = MIN(s->ring.size * GROWTH_FACTOR, s->ring_limit);
    _cleanup_(base_closep) int fd = -1;
    FabRing grown;

    if (size <= s->ring.size)
        return -E2BIG;
    if (!fab_server_charge(s, size)) /* the old one stays charged: the client may keep it mapped */
        return -ENOBUFS;
    int r = ring_make(size, &grown, &fd);
    if (r < 0) {
        fab_server_discharge(s, size);
        return r;
    }
    control.size = size;
    r = fab_session_say(s, &control, &fd, 1);
    if (r < 0) {
        ring_drop(&grown);
        fab_server_discharge(s, size);
        return r;
    }
    frame.tag = size;
    publish(s, &frame, 0);
    ring_drop(&s->ring);
    s->ring = grown;
    s->space_need = 0;
    return 0;
}

/* Out of credit. Grows the ring when that keeps happening to a reader that reads. Return: true if it grew. */
static bool stalled(FabSession *s)
{
    if (s->stall_consumed != s->consumed) {
        s->stall_consumed = s->consumed;
        s->n_stalls++;
    }
    if (s->n_stalls < FAB_STALLS_TO_GROW || s->ring.size >= s->ring_limit ||
        loop_now_ns(s->server->loop) < s->growth_after_ns)
        return false;
    s->n_stalls = 0;
    if (ring_grow(s) == 0)
        return true;
    s->growth_after_ns = loop_now_ns(s->server->loop) + FAB_GROWTH_RETRY_NS;
    return false;
}

/* ---- into the ring ---- */

static uint8_t *ring_reserve(FabSession *s, size_t payload)
{
    uint64_t need = frame_bytes(payload);

    if (room_at(s, s->consumed) < need) {
        if (!load_consumed(s))
            return NULL;
        if (room_at(s, s->consumed) < need && (!stalled(s) || room_at(s, s->consumed) < need)) {
            s->space_need = need;
            fab_session_activate(s); /* armed with what it wants before the loop sleeps */
            return NULL;
        }
    }
    s->reserved = need;
    return ring_at(s, s->tail) + HEADER;
}

size_t fab_session_frame_max(const FabSession *s)
{
    return s->ring.size / 2 - HEADER;
}

size_t fab_session_frame_room(const FabSession *s)
{
    uint64_t consumed = atomic_load_explicit(&s->in->delivery_consumed, memory_order_relaxed);
    if (s->doomed || !list_is_empty(&s->queue) || consumed - s->consumed > s->tail - s->consumed)
        return 0;
    uint64_t room = room_at(s, consumed);
    return room < HEADER ? 0 : MIN(room - HEADER, fab_session_frame_max(s));
}

void *fab_session_reserve(FabSession *s, size_t size)
{
    assert(size <= fab_session_frame_max(s));
    if (s->doomed || !s->open)
        return NULL;
    void *at = list_is_empty(&s->queue) ? ring_reserve(s, size) : NULL;
    if (!at)
        s->space_asked = true;
    return at;
}

void fab_session_commit(FabSession *s, const FabFrame *frame)
{
    assert(s->reserved > 0 && frame_bytes(frame->size) <= s->reserved);
    if (s->doomed)
        return;
    publish(s, frame, frame->size);
}

static int push_large(FabSession *s, const FabFrame *frame, const void *payload)
{
    FabControl control = {.magic = FAB_MAGIC, .kind = FAB_CONTROL_FDS, .size = frame->size};
    FabFrame outer = *frame;

    if (s->n_outs == FAB_PAYLOADS_OUT_MAX &&
        (!load_consumed(s) || s->n_outs == FAB_PAYLOADS_OUT_MAX)) {
        fab_session_activate(s);
        return -EAGAIN;
    }
    if (!ring_reserve(s, 0))
        return -EAGAIN;
    if (!fab_server_charge(s, frame->size))
        return -ENOBUFS;
    _cleanup_(base_closep) int fd = fab_memfd_new("leat-payload", frame->size, false);
    int r = fd < 0 ? fd : fs_pwrite_all(fd, payload, frame->size, 0);
    if (r == 0)
        r = fab_memfd_seal(fd, FAB_SEALS_OUT);
    if (r == 0)
        r = fab_session_say(s, &control, &fd, 1);
    if (r < 0) {
        fab_server_discharge(s, frame->size);
        s->socket_blocked = r == -EAGAIN;
        return r;
    }
    outer.inner_type = frame->type;
    outer.type = FAB_FRAME_MEMFD;
    outer.flags |= FAB_FRAME_HAS_FDS;
    publish(s, &outer, 0);
    s->outs[s->n_outs++] = (FabOut){.fd = fd, .size = frame->size, .release_at = s->tail};
    fd = -1;
    return 0;
}

/* Return: 0; -EAGAIN: something holds it back; other: fatal for the session. */
static int
push(FabSession *s, const FabFrame *frame, const void *payload, const int *fds, size_t n_fds)
{
    FabControl control = {.magic = FAB_MAGIC, .kind = FAB_CONTROL_FDS};
    FabFrame out = *frame;

    if (frame->size > fab_session_frame_max(s))
        return n_fds > 0 ? -EMSGSIZE : push_large(s, frame, payload);
    uint8_t *at = ring_reserve(s, frame->size);
    if (!at)
        return -EAGAIN;
    out.flags &= (uint16_t)~FAB_FRAME_HAS_FDS;
    if (n_fds > 0) {
        int r = fab_session_say(s, &control, fds, n_fds);
        if (r < 0) {
            s->socket_blocked = r == -EAGAIN;
            return r;
        }
        out.flags |= FAB_FRAME_HAS_FDS;
    }
    if (frame->size > 0)
        memcpy(at, payload, frame->size);
    publish(s, &out, frame->size);
    return 0;
}

/* ---- the private queue ---- */

static void queued_free(FabQueued *q)
{
    for (size_t i = 0; i < q->n_fds; i++)
        close(q->fds[i]);
    free(q);
}

static uint64_t queued_bytes(const FabQueued *q)
{
    return sizeof(*q) + q->frame.size;
}

static int
enqueue(FabSession *s, const FabFrame *frame, const void *payload, const int *fds, size_t n_fds)
{
    uint64_t bytes = sizeof(FabQueued) + frame->size;

    if (s->queue_bytes + bytes > FAB_QUEUE_MAX + sizeof(FabQueued)) {
        fab_session_close(s, "64 MiB of answers wait that the client does not read");
        return -ENOBUFS;
    }
    if (!fab_server_charge(s, bytes)) {
        fab_session_close(s, "answers that the client does not read would pass session.memory.max");
        return -ENOBUFS;
    }
    FabQueued *q = malloc(bytes);
    if (!q) {
        fab_server_discharge(s, bytes);
        return -ENOMEM;
    }
    *q = (FabQueued){.frame = *frame};
    for (; q->n_fds < n_fds; q->n_fds++) {
        q->fds[q->n_fds] = fcntl(fds[q->n_fds], F_DUPFD_CLOEXEC, 0);
        if (q->fds[q->n_fds] < 0) {
            int r = -errno;
            fab_server_discharge(s, bytes);
            queued_free(q);
            return r;
        }
    }
    if (frame->size > 0)
        memcpy(q->payload, payload, frame->size);
    list_append(&s->queue, &q->link);
    s->queue_bytes += bytes;
    return 0;
}

static void queue_pop(FabSession *s, FabQueued *q)
{
    list_remove(&q->link);
    s->queue_bytes -= queued_bytes(q);
    fab_server_discharge(s, queued_bytes(q));
    queued_free(q);
}

int fab_session_send_fds(
    FabSession *s, const FabFrame *frame, const void *payload, const int *fds, size_t n_fds)
{
    assert(n_fds <= FAB_FRAME_FDS_MAX);
    assert(n_fds == 0 || frame->size <= FAB_RING_MIN / 2 - HEADER); /* fits whatever the ring is */
    if (s->doomed || s->gone || !s->open)
        return -ECONNRESET;
    if (frame->size > FAB_BATCH_MAX)
        return -EMSGSIZE;
    int r = list_is_empty(&s->queue) ? push(s, frame, payload, fds, n_fds) : -EAGAIN;
    if (r == -EAGAIN)
        r = enqueue(s, frame, payload, fds, n_fds);
    if (r < 0)
        fab_session_close(s, "a message could not be handed to the client");
    return r;
}

int fab_session_send(FabSession *s, const FabFrame *frame, const void *payload)
{
    return fab_session_send_fds(s, frame, payload, NULL, 0);
}

void fab_delivery_run(FabSession *s)
{
    if (!load_consumed(s))
        return;
    if (s->space_need > 0 && room_at(s, s->consumed) < s->space_need)
        return;
    s->space_need = 0;
    while (!list_is_empty(&s->queue)) {
        FabQueued *q = CONTAINER_OF(s->queue.next, FabQueued, link);
        int r = push(s, &q->frame, q->payload, q->fds, q->n_fds);

        if (r == -EAGAIN)
            return;
        if (r < 0) {
            fab_session_close(s, "a message could not be handed to the client");
            return;
        }
        queue_pop(s, q);
    }
    if (s->space_asked) {
        s->space_asked = false;
        s->server->ops.on_space(s->server->userdata, s);
    }
}

bool fab_delivery_can_run(const FabSession *s)
{
    uint64_t consumed = atomic_load_explicit(&s->in->delivery_consumed, memory_order_relaxed);

    if (consumed - s->consumed > s->tail - s->consumed)
        return true; /* a lie, for load_consumed() to find */
    if (s->n_outs > 0 && consumed >= s->outs[0].release_at)
        return true;
    if (list_is_empty(&s->queue) && !s->space_asked)
        return false;
    if (s->space_need > 0)
        return room_at(s, consumed) >= s->space_need;
    return list_is_empty(&s->queue) || (!s->socket_blocked && s->n_outs < FAB_PAYLOADS_OUT_MAX);
}

uint64_t fab_delivery_want(const FabSession *s)
{
    uint64_t want = s->n_outs > 0 ? s->outs[0].release_at : UINT64_MAX;

    if (s->space_need > 0) /* the position at which room_at() is space_need */
        want = MIN(want, s->tail + HEADER + s->space_need - s->ring.size);
    return want;
}

void fab_delivery_deinit(FabSession *s)
{
    while (!list_is_empty(&s->queue))
        queue_pop(s, CONTAINER_OF(s->queue.next, FabQueued, link));
    for (unsigned i = 0; i < s->n_outs; i++) {
        if (s->violation) /* others may still read what they were given */
            (void)!ftruncate(s->outs[i].fd, 0);
        close(s->outs[i].fd);
    }
    s->n_outs = 0;
    ring_drop(&s->ring);
}
