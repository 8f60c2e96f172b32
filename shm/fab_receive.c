/*
 * Delivery at the client: frames in order, the rings and memfds that they come in, the socket.
 *
 * A payload pointer stays valid until its position is released: so a ring that EXCHANGE left behind, and the map of a large
 * payload, hang in a list until then. The broker cannot pass the released position, so reading in place is free of races.
 */

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fs.h"
#include "shm/fab_client_private.h"
#include "shm/fab_memfd.h"

#define HEADER sizeof(FabFrame)

/* ---- the socket ---- */

static void mail_discard(FabMail *mail)
{
    for (size_t i = 0; i < mail->n_fds; i++)
        close(mail->fds[i]);
    mail->n_fds = 0;
}

static void control_handle(FabClient *c, const FabControl *m, FabMail *mail)
{
    switch ((FabControlKind)m->kind) {
    case FAB_CONTROL_FDS:
        c->inbox[c->n_inbox++] = *mail;
        return;
    case FAB_CONTROL_ARENA_REPLY:
        fab_client_arena_reply(c, m);
        break;
    case FAB_CONTROL_CLOSED:
        (void)snprintf(c->why, sizeof(c->why), "%.*s", (int)sizeof(m->why) - 1, m->why);
        c->farewell = true;
        break;
    case FAB_CONTROL_ARENA:
    case FAB_CONTROL_PAYLOAD:
        break; /* never sent to us; of a later version: not needed to go on */
    }
    mail_discard(mail);
}

void fab_client_read_socket(FabClient *c)
{
    while (c->n_inbox < FAB_INBOX_MAX) {
        FabMail mail = {.n_fds = FAB_FRAME_FDS_MAX};
        FabControl m;

        ssize_t n = sock_recv_fds(c->socket_fd, &m, sizeof(m), mail.fds, &mail.n_fds);
        if (n == -EAGAIN)
            return;
        if (n <= 0) {
            fab_client_break(c, "the broker hung up");
            return;
        }
        if (n != (ssize_t)sizeof(m) || m.magic != FAB_MAGIC) {
            mail_discard(&mail);
            fab_client_break(c, "a datagram that is no control message");
            return;
        }
        mail.size = m.size;
        control_handle(c, &m, &mail);
    }
}

/* The fds of the frame at hand; they were sent before it was published. */
static bool mail_take(FabClient *c, FabMail *ret)
{
    if (c->n_inbox == 0)
        fab_client_read_socket(c);
    if (c->n_inbox == 0) {
        fab_client_break(c, "a frame without its memory");
        return false;
    }
    *ret = c->inbox[0];
    c->n_inbox--;
    memmove(c->inbox, c->inbox + 1, c->n_inbox * sizeof(c->inbox[0]));
    return true;
}

static bool has_size(int fd, uint64_t size)
{
    struct stat st;
    return fstat(fd, &st) == 0 && st.st_size >= 0 && (uint64_t)st.st_size == size;
}

/* ---- memory that goes away with a position ---- */

static void foreign_release(FabForeign *list, unsigned *n, uint64_t released)
{
    unsigned gone = 0;

    while (gone < *n && list[gone].release_at <= released) {
        (void)munmap(list[gone].map, list[gone].size);
        gone++;
    }
    *n -= gone;
    memmove(list, list + gone, *n * sizeof(*list));
}

static void set_released(FabClient *c, uint64_t position)
{
    c->released = position;
    atomic_store_explicit(&c->out->delivery_consumed, position, memory_order_release);
    if (c->n_maps > 0)
        foreign_release(c->maps, &c->n_maps, position);
    if (c->n_rings > 0)
        foreign_release(c->rings, &c->n_rings, position);
}

void fab_client_release(FabClient *c, uint64_t release_at)
{
    if (!fab_client_is_ours(c) || release_at <= c->released)
        return;
    assert(release_at <= c->next);
    set_released(c, release_at);
}

static int ring_switch(FabClient *c, const FabMail *mail, uint64_t size)
{
    if (mail->n_fds != 1 || mail->size != size || size <= c->ring_size || size > FAB_DELIVERY_MAX ||
        (size & (size - 1)) != 0 || !has_size(mail->fds[0], size) || c->n_rings == FAB_RINGS_MAX)
        return -EPROTO;
    uint8_t *map = fab_map_reserve(2 * size);
    if (!map)
        return -ENOMEM;
    int r = fab_map_twice(map, size, PROT_READ, mail->fds[0], 0);
    if (r < 0) {
        (void)munmap(map, 2 * size);
        return r;
    }
    if (c->ring_map)
        c->rings[c->n_rings++] =
            (FabForeign){.map = c->ring_map, .size = 2 * c->ring_size, .release_at = c->next};
    c->ring_map = map;
    c->ring = map;
    c->ring_size = size;
    return 0;
}

/* The frame at c->next was EXCHANGE. */
static void exchange(FabClient *c, const FabFrame *frame)
{
    FabMail mail;

    if (!mail_take(c, &mail))
        return;
    int r = ring_switch(c, &mail, frame->tag);
    mail_discard(&mail);
    if (r < 0) {
        fab_client_break(c, "the next delivery ring cannot be used");
        return;
    }
    bool all_released = c->released == c->next;
    c->next += HEADER;
    if (all_released)
        set_released(c, c->next);
}

/* The frame at c->next has its payload in a memfd. */
static bool take_large(FabClient *c, FabDelivery *ret)
{
    FabMail mail;

    if (c->n_maps == FAB_MAPS_MAX || !mail_take(c, &mail))
        return false;
    size_t size = ret->frame.size;
    void *map = MAP_FAILED;
    if (mail.n_fds == 1 && size > 0 && has_size(mail.fds[0], size))
        map = mmap(NULL, size, PROT_READ, MAP_SHARED, mail.fds[0], 0);
    mail_discard(&mail);
    if (map == MAP_FAILED) {
        fab_client_break(c, "a large payload that cannot be mapped");
        return false;
    }
    (void)madvise(map, size, MADV_DONTFORK);
    (void)madvise(map, size, MADV_DONTDUMP);
    c->next += HEADER;
    c->maps[c->n_maps++] = (FabForeign){.map = map, .size = size, .release_at = c->next};
    ret->frame.type = ret->frame.inner_type;
    ret->frame.inner_type = 0;
    ret->payload = map;
    return true;
}

static bool take_small(FabClient *c, FabDelivery *ret, uint64_t bytes)
{
    if (ret->frame.flags & FAB_FRAME_HAS_FDS) {
        FabMail mail;
        if (!mail_take(c, &mail))
            return false;
        for (size_t i = 0; i < mail.n_fds; i++)
            ret->fds[i] = mail.fds[i];
    }
    ret->payload = c->ring + (c->next & (c->ring_size - 1)) + HEADER;
    c->next += bytes;
    return true;
}

/* Loads the frame at c->next. Return: its bytes in the ring; 0: none, or nonsense. */
static uint64_t frame_load(FabClient *c, FabFrame *ret)
{
    if (c->next == c->tail) {
        c->tail = atomic_load_explicit(&c->in->delivery_tail, memory_order_acquire);
        if (c->next == c->tail)
            return 0;
    }
    memcpy(ret, c->ring + (c->next & (c->ring_size - 1)), HEADER);
    uint64_t payload = ret->type == FAB_FRAME_MEMFD ? 0 : align_up(ret->size, FAB_FRAME_ALIGN);
    if (c->tail - c->next > FAB_DELIVERY_MAX || ret->type >= FAB_FRAME_COUNT ||
        payload > c->ring_size / 2 || HEADER + payload > c->tail - c->next) {
        fab_client_break(c, "a frame that makes no sense");
        return 0;
    }
    return HEADER + payload;
}

bool fab_client_next(FabClient *c, FabDelivery *ret)
{
    if (UNLIKELY(!fab_client_is_ours(c)))
        return false;
    for (;;) {
        FabDelivery d = {
            .fds = {-1, -1, -1, -1}
        };
        uint64_t bytes = frame_load(c, &d.frame);

        if (bytes == 0)
            return false;
        if (d.frame.type == FAB_FRAME_PAD) {
            c->next += bytes;
            continue;
        }
        if (d.frame.type == FAB_FRAME_EXCHANGE) {
            exchange(c, &d.frame);
            if (c->broken)
                return false;
            continue;
        }
        bool large = d.frame.type == FAB_FRAME_MEMFD;
        if (!(large ? take_large(c, &d) : take_small(c, &d, bytes)))
            return false;
        d.frame.flags &= (uint16_t)~FAB_FRAME_HAS_FDS;
        d.release_at = c->next;
        *ret = d;
        return true;
    }
}

void fab_receive_deinit(FabClient *c, bool unmap)
{
    for (unsigned i = 0; i < c->n_inbox; i++)
        mail_discard(&c->inbox[i]);
    if (!unmap)
        return;
    foreign_release(c->maps, &c->n_maps, UINT64_MAX);
    foreign_release(c->rings, &c->n_rings, UINT64_MAX);
    if (c->ring_map)
        (void)munmap(c->ring_map, 2 * c->ring_size);
}
