/*
 * Offsets by timestamp (ListOffsets). The time index only says where to begin; the answer comes from the records, so it is
 * exact inside compressed batches too. A segment's greatest timestamp is read from the end of its time index after a
 * check against the batches behind the last index entry, since retention deletes by it.
 */

#include "storage/internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/fs.h"
#include "wire/compress.h"

/* ---- greatest timestamp of a segment ------------------------------------------------------------------------------- */

/* Return: 1 the index files agree with the end of the segment, 0 not. */
static int check_index(Plog *log, Segment *s, const TimeEntry *last, bool has_last)
{
    uint8_t buffer[SEG_WALK_SMALL];
    SegWalk w;
    IndexEntry entry = {0};
    int64_t position = 0, expected = s->base_offset;
    BatchHeader h;
    int r = segment_use(log, s);

    if (r < 0)
        return r;
    w = SEG_WALK(s->file->fd, s->size, buffer, sizeof(buffer));
    r = index_file_find(log->dir->fd, log->name, s, INT64_MAX, INT64_MAX, &entry);
    if (r < 0)
        return r == -EBADMSG ? 0 : r;
    position = entry.position;
    while ((r = seg_walk_header(&w, position, &h)) == 1) {
        if (h.base_offset < expected || (position == entry.position && position > 0 &&
                                         batch_last_offset(&h) != s->base_offset + entry.relative_offset))
            return 0;
        if (h.max_timestamp >= 0 && (!has_last || h.max_timestamp > last->timestamp))
            return 0;
        expected = batch_last_offset(&h) + 1;
        position += (int64_t)batch_total_size(&h);
    }
    return r == 0 || r == -EBADMSG ? 1 : r; /* damage is found by reading, not here */
}

static int read_max_timestamp(Plog *log, Segment *s)
{
    TimeEntry last = {0};
    int r = timeindex_file_last(log->dir->fd, log->name, s, &last);
    bool has_last = r == 1;

    if (r == 0 || r == 1)
        r = check_index(log, s, &last, has_last);
    if (r == 0 || r == -EBADMSG)
        return s == plog_active(log) ? plog_load_active(log) : index_rebuild(log, s);
    if (r < 0)
        return r;
    s->max_timestamp = has_last ? last.timestamp : -1;
    s->max_timestamp_offset = has_last ? s->base_offset + last.relative_offset : -1;
    return 0;
}

int segment_max_timestamp(Plog *log, Segment *s, int64_t *ret_timestamp, int64_t *ret_offset)
{
    bool was_open = s->file != NULL;
    int r = 0;

    if (s->size == 0) {
        *ret_timestamp = *ret_offset = -1;
        return 0;
    }
    if (s->max_timestamp == TIMESTAMP_UNREAD && !(s == plog_active(log) && log->loaded))
        r = read_max_timestamp(log, s);
    if (!was_open) /* retention asks every log: thousands of idle ones must not hold a descriptor each */
        segment_close(s);
    if (r < 0)
        return r;
    if (s == plog_active(log) && log->loaded) {
        *ret_timestamp = log->index.max_timestamp;
        *ret_offset = log->index.max_timestamp_offset;
    } else {
        *ret_timestamp = s->max_timestamp;
        *ret_offset = s->max_timestamp_offset;
    }
    return 0;
}

/* ---- looking into batches ------------------------------------------------------------------------------------------ */

typedef struct BatchSeek {
    Plog *log;
    size_t segment;
    int64_t from, end; /* offsets */
    int64_t wanted;    /* batches whose header claims less are passed over */
    bool greatest;     /* remember the greatest instead of stopping at the first */
    int64_t best_timestamp, best_offset;
} BatchSeek;

/* Record of the batch at `position` with timestamp >= wanted and offset in [from, end): the first, or the first of the greatest
 * timestamp. Return: 1, 0, negative. */
static int search_batch(Segment *s, int64_t position, const BatchHeader *h, const BatchSeek *seek, int64_t wanted, PlogTimeOffset *ret)
{
    _cleanup_(base_freep) uint8_t *batch = malloc(batch_total_size(h));
    _cleanup_(buf_deinit) Buf plain = BUF_NULL;
    BatchCodec codec = (BatchCodec)(h->attributes & BATCH_ATTR_CODEC_MASK);
    const uint8_t *records;
    size_t got, size;
    BatchIter it;
    Record record;
    int r = batch ? fs_pread_all(s->file->fd, batch, batch_total_size(h), position, &got) : -ENOMEM;

    if (r < 0)
        return r;
    if (got < batch_total_size(h) || !batch_crc_is_valid(batch, h))
        return 0; /* damage: the reader that comes here is told */
    records = batch + BATCH_HEADER_SIZE;
    size = got - BATCH_HEADER_SIZE;
    if (codec != CODEC_NONE) {
        r = codec_decompress(codec, records, size, PLOG_DECOMPRESS_MAX, &plain);
        if (r < 0)
            return r == -ENOMEM ? r : 0;
        records = plain.data;
        size = plain.size;
    }
    batch_iter_init(&it, h, records, size);
    r = 0;
    while ((r == 0 || seek->greatest) && batch_iter_next(&it, &record) == 1)
        if (record.timestamp >= wanted && record.offset >= seek->from && record.offset < seek->end) {
            *ret = (PlogTimeOffset){.offset = record.offset, .timestamp = record.timestamp, .leader_epoch = h->leader_epoch};
            wanted = record.timestamp + 1;
            r = 1;
        }
    return r;
}

/* A batch whose header claims more than the best so far. What it claims may be of a record below the log start. */
static int consider_batch(BatchSeek *seek, Segment *s, int64_t position, const BatchHeader *h)
{
    PlogTimeOffset found = {.timestamp = h->max_timestamp, .offset = batch_last_offset(h)};
    int r = h->base_offset < seek->from ? search_batch(s, position, h, seek, seek->best_timestamp + 1, &found) : 1;

    if (r == 1) {
        seek->best_timestamp = found.timestamp;
        seek->best_offset = found.offset;
    }
    return MIN(r, 0);
}

/* Walks one segment from offset `from`. Return: 1 found (in *ret), 0, negative errno. */
static int seek_segment(BatchSeek *seek, PlogTimeOffset *ret)
{
    _cleanup_(base_freep) uint8_t *memory = malloc(SEG_WALK_LARGE);
    Plog *log = seek->log;
    Segment *s = log->segments[seek->segment];
    int64_t position = 0;
    PlogSlice slice;
    BatchHeader h;
    SegWalk w;
    int r = memory ? segment_use(log, s) : -ENOMEM;

    if (r < 0)
        return r;
    if (seek->from > s->base_offset) {
        r = plog_locate(log, seek->from, seek->end, 1, true, &slice);
        if (r < 0)
            return r;
        if (r == 0 && slice.size > 0 && slice.first_offset < plog_segment_end(log, seek->segment))
            position = slice.position;
    }
    w = SEG_WALK(s->file->fd, s->size, memory, SEG_WALK_LARGE);
    while (position < s->size) {
        const Damage *d = damage_in(log, s, position);
        if (d && d->position <= position) {
            position = d->end_position;
            continue;
        }
        r = seg_walk_header(&w, position, &h);
        if (r != 1 || h.base_offset >= seek->end)
            return r == -EBADMSG || r == 1 ? 0 : r;
        if (seek->greatest && h.max_timestamp > seek->best_timestamp && batch_last_offset(&h) < seek->end) {
            r = consider_batch(seek, s, position, &h);
            if (r < 0)
                return r;
        }
        if (!seek->greatest && h.max_timestamp >= seek->wanted && batch_last_offset(&h) >= seek->from) {
            r = search_batch(s, position, &h, seek, seek->wanted, ret);
            if (r != 0)
                return r;
        }
        position += (int64_t)batch_total_size(&h);
    }
    return 0;
}

/* Whether a time entry says the truth about its batch; whatever entry that is, nothing up to its offset is younger. */
static bool entry_holds(Plog *log, Segment *s, const TimeEntry *entry)
{
    uint8_t buffer[SEG_WALK_SMALL];
    SegWalk w;
    PlogSlice slice;
    int r = plog_locate(log, s->base_offset + entry->relative_offset, INT64_MAX, 1, true, &slice);

    if (r != 0 || slice.size == 0 || slice.first_offset < s->base_offset)
        return false;
    w = SEG_WALK(s->file->fd, s->size, buffer, sizeof(buffer));
    return timeindex_entry_holds(&w, slice.position, s->base_offset, entry);
}

/* Offset up to which every record of the segment is known to be older than `timestamp`. */
static int64_t skip_by_index(Plog *log, Segment *s, int64_t timestamp)
{
    TimeEntry entry;
    int r;

    for (int attempt = 0; attempt < 2; attempt++) {
        if (s == plog_active(log))
            r = timeindex_builder_find(&log->index, timestamp, &entry);
        else
            r = timeindex_file_find(log->dir->fd, log->name, s, timestamp, &entry);
        if (r == 1 && s->base_offset + entry.relative_offset < plog_start(log))
            return s->base_offset;
        if (r == 1 && entry_holds(log, s, &entry))
            return s->base_offset + entry.relative_offset + 1;
        if (r == 0 || s == plog_active(log) || index_rebuild(log, s) < 0)
            break;
    }
    return s->base_offset;
}

int plog_offset_for_time(Plog *log, int64_t timestamp_ms, int64_t end_offset, PlogTimeOffset *ret)
{
    BatchSeek seek = {.log = log, .end = MIN(end_offset, plog_end(log)), .wanted = timestamp_ms};
    PlogTimeOffset found;
    int r = plog_load_active(log);

    if (r < 0)
        return r;
    for (seek.segment = plog_segment_floor(log, plog_start(log)); seek.segment < log->n_segments; seek.segment++) {
        Segment *s = log->segments[seek.segment];
        int64_t greatest, offset;
        if (s->base_offset >= seek.end)
            break;
        r = segment_max_timestamp(log, s, &greatest, &offset);
        if (r < 0)
            return r;
        if (greatest < timestamp_ms)
            continue;
        seek.from = MAX(plog_start(log), skip_by_index(log, s, timestamp_ms));
        r = seek_segment(&seek, &found);
        if (r == 1) {
            *ret = found;
            return 0;
        }
        if (r < 0)
            return r;
    }
    *ret = (PlogTimeOffset){.offset = -1, .timestamp = -1, .leader_epoch = -1};
    return 0;
}

/* ---- the greatest of all ------------------------------------------------------------------------------------------- */

/* The batch that ends with `offset` begins below the log start. */
static bool is_cut_by_start(Plog *log, const Segment *s, int64_t offset)
{
    PlogSlice slice;

    return s->base_offset < plog_start(log) && plog_locate(log, offset, INT64_MAX, 1, true, &slice) == 0 &&
           slice.first_offset < plog_start(log);
}

static int consider_segment(BatchSeek *seek)
{
    Plog *log = seek->log;
    Segment *s = log->segments[seek->segment];
    int64_t greatest, offset;
    int r = segment_max_timestamp(log, s, &greatest, &offset);

    if (r < 0 || greatest <= seek->best_timestamp)
        return r;
    if (offset >= seek->end || offset < plog_start(log) || is_cut_by_start(log, s, offset)) /* its greatest does not count: look at each batch */
        return seek_segment(seek, NULL);
    seek->best_timestamp = greatest;
    seek->best_offset = offset;
    return 0;
}

int plog_max_timestamp(Plog *log, int64_t end_offset, PlogTimeOffset *ret)
{
    BatchSeek seek = {.log = log, .from = plog_start(log), .end = MIN(end_offset, plog_end(log)), .greatest = true,
                      .best_timestamp = -1, .best_offset = -1};
    PlogTimeOffset found = {.offset = -1, .timestamp = -1, .leader_epoch = -1};
    int r = plog_load_active(log);

    for (seek.segment = plog_segment_floor(log, seek.from); r >= 0 && seek.segment < log->n_segments; seek.segment++)
        if (log->segments[seek.segment]->base_offset < seek.end)
            r = consider_segment(&seek);
    if (r < 0)
        return r;
    if (seek.best_offset >= 0) { /* the batch is known; its first record with that timestamp is the answer */
        seek.greatest = false;
        seek.wanted = seek.best_timestamp;
        seek.from = MAX(plog_start(log), 0);
        seek.segment = plog_segment_floor(log, seek.best_offset);
        seek.from = MAX(seek.from, log->segments[seek.segment]->base_offset);
        r = seek_segment(&seek, &found);
        if (r < 0)
            return r;
    }
    *ret = found;
    return 0;
}
