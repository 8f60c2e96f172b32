/*
 * Catching up by lease. A consumer that is far behind asks for the closed segment that holds its position, gets a read-only
 * fd, and reads batches with pread into memory of its own: the broker's reactor neither reads nor copies them.
 *
 * The broker may punch out a leased segment that retention has removed, after a grace. So nothing read by lease is believed
 * without its CRC, and at any doubt (short read, no batch where one should be, CRC) the part subscribes again at its
 * position and the broker says what is what. A lease ends with its segment, with the part's generation, or with the session.
 */

#include "client/consumer.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define CHUNK_BYTES (256u << 10)
#define AHEAD_BYTES (4u << 20)

void lease_consider(Part *p, const FabFrame *frame, size_t size, int64_t first_offset)
{
    leat_consumer *k = p->consumer;
    int64_t seen = p->position - first_offset, left = frame->high_watermark - p->position;

    if (k->settings.lease_min_bytes == 0 || k->settings.isolation != 0 || p->state != PART_LIVE || seen <= 0 || left <= 0)
        return;
    if ((double)size / (double)seen * (double)left < (double)k->settings.lease_min_bytes) {
        p->try_lease = false;
        p->lease_refused_at = 0;
        return;
    }
    /* After a refusal (the segment is the active one) it is not asked again for as many records as a lease is worth. */
    if (p->position < p->lease_refused_at)
        return;
    p->try_lease = true;
    part_unsubscribe(p);
    part_again(p);
}

void lease_ask(Part *p)
{
    FabSqe sqe = {.op = FAB_OP_LEASE, .handle = p->topic->handle, .partition = p->partition};
    Op *op;

    if (client_submit_copy(p->consumer->client, OP_LEASE, p->consumer, &sqe, &p->position, sizeof p->position, &op) < 0)
        return; /* the next turn */
    op->generation = p->generation;
    p->lease = (Lease){.fd = -1, .op_id = op->id};
    p->state = PART_LEASING;
}

static Part *part_of(leat_consumer *k, uint32_t generation)
{
    for (size_t i = 0; k && i < k->n_parts; i++)
        if (k->parts[i]->generation == generation && k->parts[i]->state == PART_LEASING)
            return k->parts[i];
    return NULL;
}

static void release(leat_client *c, Op *op)
{
    FabSqe sqe = {.op = FAB_OP_LEASE_RELEASE};
    op->owner = NULL;
    client_submit_again(c, op, &sqe); /* failing: the session's end releases it */
}

void lease_granted(leat_client *c, Op *op, FabDelivery *d)
{
    Part *p = part_of(op->owner, op->generation);
    FabLeaseRange range;
    bool granted = d->frame.kafka_error == K_NONE && d->fds[0] >= 0 && d->frame.size >= sizeof range;

    if (granted)
        memcpy(&range, d->payload, sizeof range);
    if (!granted || !p || range.position < 0 || range.end_position <= range.position) {
        if (granted)
            release(c, op);
        else
            client_op_free(c, op);
        if (p) {
            p->lease = (Lease){.fd = -1};
            p->try_lease = false;
            p->lease_refused_at = p->position + MAX((d->frame.high_watermark - p->position) / 4, 100000);
            part_again(p);
        }
        return;
    }
    p->lease.fd = d->fds[0];
    d->fds[0] = -1;
    p->lease.at = range.position;
    p->lease.end = range.end_position;
    p->lease.next_offset = d->frame.next_offset;
    p->high_watermark = d->frame.high_watermark;
    p->state = PART_LEASED;
    p->consumer->n_leased++;
    posix_fadvise(p->lease.fd, p->lease.at, 0, POSIX_FADV_SEQUENTIAL);
}

void lease_end(Part *p)
{
    leat_client *c = p->consumer->client;
    Op *op = p->lease.op_id ? client_find_op(c, p->lease.op_id) : NULL;

    if (p->lease.fd >= 0) {
        close(p->lease.fd);
        p->consumer->n_leased--;
        if (op)
            release(c, op);
    } else if (op) {
        op->owner = NULL; /* the answer is not here yet: lease_granted() releases */
    }
    p->lease = (Lease){.fd = -1};
}

/* Whole batches from the start of a buffer, as far as their offsets rise within the segment: base offsets are not covered by
 * the CRC. Return: their bytes; *ret_need is what the first one needs if that is 0. */
static size_t whole_batches(const Lease *l, const uint8_t *data, size_t size, size_t *ret_need, int64_t *ret_next_offset)
{
    BatchHeader h;
    size_t at = 0;
    int64_t above = -1;

    *ret_need = 0;
    while (batch_header_decode(data + at, size - at, &h) == 0) {
        if (h.base_offset <= above || h.last_offset_delta < 0 || h.base_offset > l->next_offset ||
            batch_last_offset(&h) >= l->next_offset)
            break;
        if (batch_total_size(&h) > size - at) {
            *ret_need = batch_total_size(&h);
            break;
        }
        at += batch_total_size(&h);
        above = batch_last_offset(&h);
        *ret_next_offset = batch_last_offset(&h) + 1;
    }
    return at;
}

/* Return: true with a chunk of batches; false: the lease was given up. */
static bool read_chunk(Part *p, Pending *ret)
{
    Lease *l = &p->lease;
    size_t want = (size_t)MIN((int64_t)CHUNK_BYTES, l->end - l->at), need = 0;
    int64_t next_offset = p->position;

    for (int tries = 0; tries < 2; tries++) {
        uint8_t *data = malloc(want);
        ssize_t n = data ? pread(l->fd, data, want, l->at) : -1;
        size_t size = n > 0 ? whole_batches(l, data, (size_t)n, &need, &next_offset) : 0;
        if (size > 0) {
            l->at += (int64_t)size;
            if (l->at >= l->ahead && l->at < l->end) {
                posix_fadvise(l->fd, l->at, AHEAD_BYTES, POSIX_FADV_WILLNEED);
                l->ahead = l->at + AHEAD_BYTES / 2;
            }
            *ret = (Pending){.payload = data, .copy = data, .leased = true};
            ret->frame = (FabFrame){.type = FAB_FRAME_BATCHES, .size = (uint32_t)size, .handle = p->topic->handle,
                                    .partition = p->partition, .generation = p->generation, .high_watermark = p->high_watermark,
                                    .next_offset = l->at >= l->end ? l->next_offset : next_offset};
            return true;
        }
        free(data);
        if (need <= want || need > FAB_BATCH_MAX || (int64_t)need > l->end - l->at)
            break;
        want = need;
    }
    p->try_lease = false;
    part_again(p);
    return false;
}

bool lease_read(leat_consumer *k, Pending *ret)
{
    for (size_t i = 0; i < k->n_parts && k->n_leased > 0; i++) {
        Part *p = k->parts[(k->lease_turn + i) % k->n_parts];
        if (p->state == PART_LEASED && p->lease.at < p->lease.end && read_chunk(p, ret))
            return true;
    }
    return false;
}
