/*
 * One pass of compaction over closed, immutable files. First the map: newest offset of every key in the dirty part. Then
 * every group of segments is written anew with the records that are the newest of their key, in their old batches: offsets,
 * base offset and last offset delta of a batch never change, so that sequences and offsets stay what they were.
 *
 * Tombstones stay until their batch's delete horizon: the first pass that keeps one sets it to now + delete.retention.ms
 * (attribute bit 6, in the place of the base timestamp, as Kafka does). A batch left without records goes, unless it is
 * the last one of a producer, whose sequence would be lost; that one stays as a bare header. Control batches stay.
 */

#include "storage/compact.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/fs.h"
#include "wire/compress.h"

#define OUTPUT_STEP  (1 << 20)
#define PAUSES_PER_S 50

typedef struct Pass {
    CompactJob *job;
    OffsetMap map;
    Buf batch, plain, kept, packed; /* one batch: as it stands, records, kept records, kept and compressed */
    /* the segment being written */
    int fd;
    Buf out;
    int64_t written;
    int64_t unpaid; /* bytes read and written since the last pause */
    IndexBuilder index;
    bool changed;
} Pass;

typedef struct LoadedBatch {
    BatchHeader header;
    const uint8_t *bytes;
    const uint8_t *records;
    size_t records_size;
} LoadedBatch;

/* log.cleaner.io.max.bytes.per.second: a pause for every share of a second's bytes. */
static int keep_rate(Pass *pass, size_t bytes)
{
    static const struct timespec pause = {.tv_nsec = 1000000000 / PAUSES_PER_S};

    pass->unpaid += (int64_t)bytes;
    for (;;) {
        int64_t share = MAX(atomic_load(&pass->job->dir->cleaner_rate) / PAUSES_PER_S, 1);
        if (pass->unpaid < share)
            return 0;
        if (atomic_load(&pass->job->cancel))
            return -ECANCELED;
        (void)nanosleep(&pause, NULL);
        pass->unpaid -= share;
    }
}

/* ---- reading ------------------------------------------------------------------------------------------------------- */

static int load_batch(Pass *pass, int fd, int64_t position, const BatchHeader *h, LoadedBatch *ret)
{
    BatchCodec codec = (BatchCodec)(h->attributes & BATCH_ATTR_CODEC_MASK);
    size_t size = batch_total_size(h), got;
    int r;

    buf_clear(&pass->batch);
    r = buf_reserve(&pass->batch, size);
    if (r == 0)
        r = fs_pread_all(fd, pass->batch.data, size, position, &got);
    if (r < 0)
        return r;
    if (got < size || !batch_crc_is_valid(pass->batch.data, h))
        return -EBADMSG;
    *ret = (LoadedBatch){.header = *h, .bytes = pass->batch.data, .records = pass->batch.data + BATCH_HEADER_SIZE,
                         .records_size = size - BATCH_HEADER_SIZE};
    if (codec == CODEC_NONE || h->records_count == 0)
        return 0;
    buf_clear(&pass->plain);
    r = codec_decompress(codec, ret->records, ret->records_size, PLOG_DECOMPRESS_MAX, &pass->plain);
    ret->records = pass->plain.data;
    ret->records_size = pass->plain.size;
    return r == -ENOMEM ? r : r < 0 ? -EBADMSG : 0;
}

typedef int (*BatchFn)(Pass *pass, const LoadedBatch *b);

/* -ECANCELED; 1: fn asked to stop. */
static int each_batch(Pass *pass, const CompactSource *source, int64_t from_offset, BatchFn fn)
{
    uint8_t buffer[SEG_WALK_SMALL];
    SegWalk w = SEG_WALK(source->file->fd, source->size, buffer, sizeof(buffer));
    int64_t position = 0;
    LoadedBatch b;
    BatchHeader h;
    int r;

    while ((r = seg_walk_header(&w, position, &h)) == 1) {
        if (batch_last_offset(&h) >= from_offset) {
            r = atomic_load(&pass->job->cancel) ? -ECANCELED : load_batch(pass, w.fd, position, &h, &b);
            if (r == 0)
                r = keep_rate(pass, batch_total_size(&h));
            if (r == 0)
                r = fn(pass, &b);
            if (r != 0)
                break;
        }
        position += (int64_t)batch_total_size(&h);
    }
    if (r == -EBADMSG) {
        pass->job->bad_base = source->base_offset;
        pass->job->bad_position = position;
    }
    return r;
}

/* ---- the map ------------------------------------------------------------------------------------------------------- */

static int map_batch(Pass *pass, const LoadedBatch *b)
{
    BatchIter it;
    Record record;
    int r;

    if (b->header.attributes & BATCH_ATTR_CONTROL)
        return 0;
    batch_iter_init(&it, &b->header, b->records, b->records_size);
    while ((r = batch_iter_next(&it, &record)) == 1) {
        if (record.key_size < 0 || record.offset < pass->job->first_dirty)
            continue;
        if (offset_map_is_full(&pass->map)) {
            pass->job->cleaned_to = record.offset;
            return 1;
        }
        offset_map_put(&pass->map, record.key, (size_t)record.key_size, record.offset);
    }
    return r;
}

/* An upper bound of the keys: a record has at least 7 bytes, a compressed batch says how many it holds. */
static int count_records(CompactJob *job, size_t enough, size_t *ret)
{
    uint8_t buffer[SEG_WALK_SMALL];
    size_t n = 0;
    BatchHeader h;

    for (size_t i = 0; i < job->n_sources; i++) {
        SegWalk w = SEG_WALK(job->sources[i].file->fd, job->sources[i].size, buffer, sizeof(buffer));
        if (job->sources[i].end_offset <= job->first_dirty)
            continue;
        for (int64_t at = 0; n < enough && seg_walk_header(&w, at, &h) == 1; at += (int64_t)batch_total_size(&h))
            n += (size_t)h.records_count;
    }
    *ret = n;
    return 0;
}

static int build_map(Pass *pass)
{
    CompactJob *job = pass->job;
    size_t expected, map_bytes = (size_t)atomic_load(&job->dir->cleaner_map_bytes);
    int r = count_records(job, map_bytes / sizeof(OffsetMapSlot), &expected);

    if (r == 0)
        r = offset_map_init(&pass->map, expected + expected / 4, map_bytes);
    job->cleaned_to = job->sources[job->n_sources - 1].end_offset;
    for (size_t i = 0; r == 0 && i < job->n_sources; i++)
        if (job->sources[i].end_offset > job->first_dirty)
            r = each_batch(pass, &job->sources[i], job->first_dirty, map_batch);
    return r == 1 ? 0 : r;
}

/* ---- writing ------------------------------------------------------------------------------------------------------- */

static int flush_output(Pass *pass)
{
    int r = fs_pwrite_all(pass->fd, pass->out.data, pass->out.size, pass->written);
    if (r < 0)
        return r;
    size_t bytes = pass->out.size;
    pass->written += (int64_t)bytes;
    buf_clear(&pass->out);
    return keep_rate(pass, bytes);
}

static int emit(Pass *pass, const BatchHeader *h, const void *head, const void *records, size_t records_size)
{
    int64_t position = pass->written + (int64_t)pass->out.size;
    int r = index_builder_add(&pass->index, h, position, pass->job->config.index_interval_bytes);

    if (r == 0)
        r = buf_append(&pass->out, head, BATCH_HEADER_SIZE);
    if (r == 0 && records_size > 0)
        r = buf_append(&pass->out, records, records_size);
    if (r == 0 && pass->out.size >= OUTPUT_STEP)
        r = flush_output(pass);
    return r;
}

static int emit_changed(Pass *pass, BatchHeader *h, const void *records, size_t records_size)
{
    _cleanup_(buf_deinit) Buf whole = BUF_NULL;
    uint8_t head[BATCH_HEADER_SIZE] = {0};
    int r;

    pass->changed = true;
    h->batch_length = (int32_t)(BATCH_HEADER_SIZE - BATCH_LOG_OVERHEAD + records_size);
    h->crc = 0;
    batch_header_encode(h, head);
    r = buf_append(&whole, head, sizeof(head));
    if (r == 0 && records_size > 0)
        r = buf_append(&whole, records, records_size);
    if (r < 0)
        return r;
    h->crc = batch_crc_compute(whole.data, h);
    batch_header_encode(h, head);
    return emit(pass, h, head, records, records_size);
}

/* Copies a record with its timestamp relative to another base. */
static int append_rebased(Buf *out, const uint8_t *record, size_t size, int64_t shift)
{
    const uint8_t *at = record, *end = record + size;
    uint8_t head[24];
    size_t n, rest;
    int64_t length, delta;
    uint8_t attributes;
    uint8_t encoded[10];
    int r = varint_decode(&at, end, &length);

    if (r < 0 || at == end)
        return -EBADMSG;
    attributes = *at++;
    r = varint_decode(&at, end, &delta);
    if (r < 0)
        return r;
    rest = (size_t)(end - at);
    n = varint_encode(delta + shift, encoded);
    length = (int64_t)(1 + n + rest);
    r = (int)varint_encode(length, head);
    head[r] = attributes;
    memcpy(head + r + 1, encoded, n);
    r = buf_append(out, head, (size_t)r + 1 + n);
    return r < 0 ? r : buf_append(out, at, rest);
}

static bool is_last_of_producer(const CompactJob *job, const BatchHeader *h)
{
    size_t low = 0, high = job->n_producers;

    while (low < high) {
        size_t middle = (low + high) / 2;
        if (job->producers[middle].producer_id < h->producer_id)
            low = middle + 1;
        else
            high = middle;
    }
    return low < job->n_producers && job->producers[low].producer_id == h->producer_id &&
           job->producers[low].last_offset == batch_last_offset(h);
}

static int emit_empty(Pass *pass, const LoadedBatch *b)
{
    BatchHeader h = b->header;

    pass->changed = pass->changed || h.records_count > 0;
    if (h.producer_id < 0 || !is_last_of_producer(pass->job, &h)) {
        pass->changed = true;
        return 0;
    }
    if (h.records_count == 0)
        return emit(pass, &h, b->bytes, b->records, b->records_size);
    h.attributes = (int16_t)(h.attributes & (BATCH_ATTR_LOG_APPEND | BATCH_ATTR_TXN));
    h.base_timestamp = h.max_timestamp;
    h.records_count = 0;
    return emit_changed(pass, &h, NULL, 0);
}

typedef struct Choice { /* what stays of a batch */
    int32_t kept, total, tombstones;
    int64_t max_timestamp;
} Choice;

static bool is_kept(const Pass *pass, const Record *record, bool tombstones_expired)
{
    if (record->key_size < 0) /* cannot be asked for: compacted topics refuse them */
        return false;
    if (offset_map_get(&pass->map, record->key, (size_t)record->key_size) > record->offset)
        return false;
    return record->value_size >= 0 || !tombstones_expired;
}

/* Gathers the kept records, moved by `shift` ms, in pass->kept. */
static int choose(Pass *pass, const LoadedBatch *b, bool expired, int64_t shift, Choice *ret)
{
    BatchIter it;
    Record record;
    int r;

    *ret = (Choice){.max_timestamp = -1};
    buf_clear(&pass->kept);
    batch_iter_init(&it, &b->header, b->records, b->records_size);
    for (;;) {
        const uint8_t *from = it.at;
        r = batch_iter_next(&it, &record);
        if (r != 1)
            return r;
        ret->total++;
        if (!is_kept(pass, &record, expired))
            continue;
        ret->kept++;
        ret->tombstones += record.value_size < 0;
        ret->max_timestamp = MAX(ret->max_timestamp, record.timestamp);
        r = shift == 0 ? buf_append(&pass->kept, from, (size_t)(it.at - from))
                       : append_rebased(&pass->kept, from, (size_t)(it.at - from), shift);
        if (r < 0)
            return r;
    }
}

static int emit_kept(Pass *pass, const LoadedBatch *b, const Choice *choice)
{
    BatchHeader h = b->header;
    BatchCodec codec = (BatchCodec)(h.attributes & BATCH_ATTR_CODEC_MASK);
    const Buf *records = &pass->kept;

    if (codec != CODEC_NONE) {
        int r;
        buf_clear(&pass->packed);
        r = codec_compress(codec, INT32_MIN, pass->kept.data, pass->kept.size, &pass->packed);
        if (r < 0)
            return r;
        records = &pass->packed;
    }
    h.records_count = choice->kept;
    if (!(h.attributes & BATCH_ATTR_LOG_APPEND))
        h.max_timestamp = choice->max_timestamp;
    return emit_changed(pass, &h, records->data, records->size);
}

static int write_batch(Pass *pass, const LoadedBatch *b)
{
    const CompactJob *job = pass->job;
    bool trusted = job->now_ms != INT64_MIN, has_horizon = (b->header.attributes & BATCH_ATTR_HORIZON) != 0;
    bool expired = trusted && has_horizon && job->now_ms >= b->header.base_timestamp;
    LoadedBatch changed = *b;
    Choice choice;
    int r;

    if (b->header.attributes & BATCH_ATTR_CONTROL)
        return emit(pass, &b->header, b->bytes, b->bytes + BATCH_HEADER_SIZE,
                    batch_total_size(&b->header) - BATCH_HEADER_SIZE);
    r = choose(pass, b, expired, 0, &choice);
    if (r < 0)
        return r;
    if (choice.kept == 0)
        return emit_empty(pass, b);
    if (choice.tombstones > 0 && !has_horizon && trusted) {
        changed.header.base_timestamp = job->now_ms + job->config.delete_retention_ms;
        changed.header.attributes |= BATCH_ATTR_HORIZON;
        r = choose(pass, b, expired, b->header.base_timestamp - changed.header.base_timestamp, &choice);
        return r < 0 ? r : emit_kept(pass, &changed, &choice);
    }
    if (choice.kept == choice.total)
        return emit(pass, &b->header, b->bytes, b->bytes + BATCH_HEADER_SIZE,
                    batch_total_size(&b->header) - BATCH_HEADER_SIZE);
    return emit_kept(pass, b, &choice);
}

/* ---- groups -------------------------------------------------------------------------------------------------------- */

static void remove_group_output(const CompactJob *job, const CompactGroup *g)
{
    static const char *const suffixes[] = {".log.swap", ".index.swap", ".timeindex.swap", /* the .log decides: it goes first */
                                           ".log.cleaned", ".index.cleaned", ".timeindex.cleaned"};
    PathBuf path;

    for (size_t i = 0; i < ARRAY_SIZE(suffixes); i++)
        (void)unlinkat(job->dir->fd, segment_path(job->name, job->sources[g->from].base_offset, suffixes[i], &path), 0);
}

static int sync_output(Pass *pass, CompactGroup *g)
{
    int r = flush_output(pass);

    if (r == 0)
        r = index_builder_flush(&pass->index, pass->job->dir->fd, pass->job->name, ".cleaned", true);
    if (r == 0 && fdatasync(pass->fd) < 0)
        log_dir_fail(pass->job->dir, "fdatasync", errno);
    g->size = pass->written;
    g->max_timestamp = pass->index.max_timestamp;
    g->max_timestamp_offset = pass->index.max_timestamp_offset;
    return r;
}

static int write_group(Pass *pass, CompactGroup *g)
{
    CompactJob *job = pass->job;
    int64_t base = job->sources[g->from].base_offset;
    PathBuf path;
    int r = 0;

    pass->fd = openat(job->dir->fd, segment_path(job->name, base, ".log.cleaned", &path),
                      O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (pass->fd < 0)
        return -errno;
    pass->written = 0;
    buf_clear(&pass->out);
    pass->changed = g->to - g->from > 1;
    index_builder_reset(&pass->index, base);
    for (size_t i = g->from; r == 0 && i < g->to; i++)
        r = each_batch(pass, &job->sources[i], 0, write_batch);
    if (r == 0 && !pass->changed) {
        g->unchanged = true;
        remove_group_output(job, g);
    } else if (r == 0) {
        r = sync_output(pass, g);
    }
    close(pass->fd);
    return r;
}

void compact_remove_output(CompactJob *job)
{
    for (size_t i = 0; i < job->n_groups; i++)
        remove_group_output(job, &job->groups[i]);
}

void compact_run(CompactJob *job)
{
    Pass pass = {.job = job, .fd = -1};
    int r = build_map(&pass);

    for (size_t i = 0; r == 0 && i < job->n_groups; i++)
        r = write_group(&pass, &job->groups[i]);
    if (r < 0)
        compact_remove_output(job);
    job->result = r;
    offset_map_deinit(&pass.map);
    index_builder_deinit(&pass.index);
    buf_deinit(&pass.batch);
    buf_deinit(&pass.plain);
    buf_deinit(&pass.kept);
    buf_deinit(&pass.packed);
    buf_deinit(&pass.out);
}
