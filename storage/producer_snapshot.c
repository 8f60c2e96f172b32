/*
 * `<offset>.snapshot`: the producers of a log as they were when its end was <offset>. Kafka's format, version 1: i16
 * version, u32 CRC-32C of all that follows, then an array of producers with their last batch. Kafka reads the array and
 * stops there; behind it, under the same CRC, we keep the whole window of five batches, so that a batch sent again right
 * after a restart is still known (docs/formats/log.md).
 */

#include "storage/internal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/fs.h"
#include "base/hash.h"
#include "wire/bigendian.h"

#define SNAPSHOT_VERSION   1
#define SNAPSHOT_HEAD_SIZE 10 /* version, crc, count */
#define ENTRY_SIZE         46
#define WINDOW_MAGIC       0x4c574e31u /* "LWN1" */
#define WINDOW_ENTRY_SIZE  32
#define SNAPSHOT_SIZE_MAX  (SNAPSHOT_HEAD_SIZE + PLOG_PRODUCERS_MAX * (ENTRY_SIZE + 1 + PRODUCER_WINDOW * WINDOW_ENTRY_SIZE) + 4)

static void put_entry(uint8_t *e, const ProducerState *s)
{
    const ProducerBatch *last = s->n == 0 ? NULL : &s->window[s->n - 1];

    put_be64(e, (uint64_t)s->producer_id);
    put_be16(e + 8, (uint16_t)s->epoch);
    put_be32(e + 10, last ? (uint32_t)last->last_sequence : UINT32_MAX);
    put_be64(e + 14, last ? (uint64_t)last->last_offset : UINT64_MAX);
    put_be32(e + 22, last ? (uint32_t)(last->last_offset - last->first_offset) : 0);
    put_be64(e + 26, (uint64_t)s->last_timestamp);
    put_be32(e + 34, (uint32_t)s->coordinator_epoch);
    put_be64(e + 38, (uint64_t)s->txn_first_offset);
}

static int put_window(Buf *out, const ProducerState *s)
{
    uint8_t b[1 + PRODUCER_WINDOW * WINDOW_ENTRY_SIZE];
    uint8_t *p = b;

    *p++ = (uint8_t)s->n;
    for (unsigned i = 0; i < s->n; i++, p += WINDOW_ENTRY_SIZE) {
        put_be32(p, (uint32_t)s->window[i].first_sequence);
        put_be32(p + 4, (uint32_t)s->window[i].last_sequence);
        put_be64(p + 8, (uint64_t)s->window[i].first_offset);
        put_be64(p + 16, (uint64_t)s->window[i].last_offset);
        put_be64(p + 24, (uint64_t)s->window[i].timestamp);
    }
    return buf_append(out, b, (size_t)(p - b));
}

int producers_encode(const Producers *p, Buf *out)
{
    uint8_t head[SNAPSHOT_HEAD_SIZE], entry[ENTRY_SIZE], magic[4];
    size_t start = out->size;
    int r;

    put_be16(head, SNAPSHOT_VERSION);
    put_be32(head + 2, 0);
    put_be32(head + 6, (uint32_t)p->n);
    r = buf_append(out, head, sizeof(head));
    for (size_t i = 0; r >= 0 && i < p->n; i++) {
        put_entry(entry, &p->states[i]);
        r = buf_append(out, entry, sizeof(entry));
    }
    put_be32(magic, WINDOW_MAGIC);
    if (r >= 0)
        r = buf_append(out, magic, sizeof(magic));
    for (size_t i = 0; r >= 0 && i < p->n; i++)
        r = put_window(out, &p->states[i]);
    if (r < 0)
        return r;
    put_be32(out->data + start + 2, crc32c(0, out->data + start + 6, out->size - start - 6));
    return 0;
}

static int add_entry(Producers *p, const uint8_t *e)
{
    BatchHeader h = {.producer_id = (int64_t)get_be64(e),
                     .producer_epoch = (int16_t)get_be16(e + 8),
                     .last_offset_delta = (int32_t)get_be32(e + 22),
                     .max_timestamp = (int64_t)get_be64(e + 26)};
    int32_t last_sequence = (int32_t)get_be32(e + 10);
    int64_t last_offset = (int64_t)get_be64(e + 14);
    ProducerState *s;
    int r;

    if (h.producer_id < 0 || h.last_offset_delta < 0 || producers_find(p, h.producer_id))
        return -EBADMSG;
    h.base_offset = last_offset - h.last_offset_delta;
    h.base_sequence = last_sequence < 0 ? -1 : (int32_t)(((uint32_t)last_sequence - (uint32_t)h.last_offset_delta) & 0x7fffffffu);
    r = producers_update(p, &h);
    if (r < 0)
        return r;
    s = &p->states[p->n - 1];
    s->epoch = h.producer_epoch; /* also of one that has no batch */
    s->coordinator_epoch = (int32_t)get_be32(e + 34);
    s->txn_first_offset = (int64_t)get_be64(e + 38);
    return 0;
}

static int read_window(ProducerState *s, const uint8_t **inout_at, const uint8_t *end)
{
    const uint8_t *at = *inout_at;
    unsigned n;

    if (at == end || *at > PRODUCER_WINDOW || (size_t)(end - at) < 1 + (size_t)*at * WINDOW_ENTRY_SIZE)
        return -EBADMSG;
    n = *at++;
    for (unsigned i = 0; i < n; i++, at += WINDOW_ENTRY_SIZE)
        s->window[i] = (ProducerBatch){.first_sequence = (int32_t)get_be32(at),
                                       .last_sequence = (int32_t)get_be32(at + 4),
                                       .first_offset = (int64_t)get_be64(at + 8),
                                       .last_offset = (int64_t)get_be64(at + 16),
                                       .timestamp = (int64_t)get_be64(at + 24)};
    s->n = (uint16_t)n;
    *inout_at = at;
    return 0;
}

int producers_decode(Producers *p, const void *data, size_t size)
{
    const uint8_t *b = data, *at, *end = b + size;
    uint32_t count;
    int r = 0;

    producers_clear(p);
    if (size < SNAPSHOT_HEAD_SIZE || get_be16(b) != SNAPSHOT_VERSION || crc32c(0, b + 6, size - 6) != get_be32(b + 2))
        return -EBADMSG;
    count = get_be32(b + 6);
    if (count > PLOG_PRODUCERS_MAX || (size - SNAPSHOT_HEAD_SIZE) / ENTRY_SIZE < count)
        return -EBADMSG;
    at = b + SNAPSHOT_HEAD_SIZE;
    for (uint32_t i = 0; r == 0 && i < count; i++, at += ENTRY_SIZE)
        r = add_entry(p, at);
    if (r == 0 && end - at >= 4 && get_be32(at) == WINDOW_MAGIC) {
        at += 4;
        for (uint32_t i = 0; r == 0 && i < count; i++)
            r = read_window(&p->states[i], &at, end);
    }
    if (r < 0)
        producers_clear(p);
    return r;
}

int producers_write_snapshot(const Producers *p, int dir_fd, const char *log_name, int64_t offset)
{
    _cleanup_(buf_deinit) Buf data = BUF_NULL;
    _cleanup_(base_closep) int fd = -1;
    PathBuf path;
    int r = producers_encode(p, &data);

    if (r < 0)
        return r;
    /* Written in place and not synced: the CRC tells a torn one, and recovery then takes the one before. */
    fd = openat(dir_fd, segment_path(log_name, offset, ".snapshot", &path), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd < 0)
        return -errno;
    return fs_pwrite_all(fd, data.data, data.size, 0);
}

int producers_read_snapshot(Producers *p, int dir_fd, const char *log_name, int64_t offset)
{
    _cleanup_(buf_deinit) Buf data = BUF_NULL;
    PathBuf path;
    int r = fs_read_file_at(dir_fd, segment_path(log_name, offset, ".snapshot", &path), SNAPSHOT_SIZE_MAX, &data);

    if (r < 0)
        return r;
    return producers_decode(p, data.data, data.size);
}
