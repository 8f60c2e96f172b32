/*
 * Finding and reading batches. A reader that goes on where it stopped costs one small read: its place is kept in one of
 * a few cursors, keyed by offset. Everybody else pays a lookup in the sparse index and a walk over a few headers.
 *
 * What was written by this process, or CRC-checked by recovery, is handed out as it is. Older bytes are checked when they
 * are read into memory (plog_read): at 25-45 GB/s beside a copy that costs little, and a flipped bit in a closed segment
 * answers PLOG_E_CORRUPT instead of reaching a client. plog_locate hands out file ranges unread.
 */

#include "storage/internal.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/fs.h"

#define FOUND INT_MAX /* beside 0 (nothing there), PLOG_E_* and negative errno */

typedef struct Place { /* of the batch that holds an offset, or of the first one behind it */
    size_t segment;
    int64_t position;
    int64_t expected; /* offset at which the batch should begin at the latest known */
} Place;

/* ---- cursors ------------------------------------------------------------------------------------------------------- */

static void cursor_keep(Plog *log, int64_t from_offset, const Segment *s, int64_t next_offset, int64_t position)
{
    Cursor *slot = NULL;

    for (size_t i = 0; i < PLOG_CURSORS && !slot; i++)
        if (log->cursors[i].offset == from_offset)
            slot = &log->cursors[i];
    if (!slot) {
        slot = &log->cursors[log->next_cursor];
        log->next_cursor = (log->next_cursor + 1) % PLOG_CURSORS;
    }
    *slot = (Cursor){.offset = next_offset, .position = position, .segment_id = s->id};
}

static bool cursor_find(const Plog *log, int64_t offset, const Segment *s, int64_t *ret_position)
{
    for (size_t i = 0; i < PLOG_CURSORS; i++)
        if (log->cursors[i].offset == offset && log->cursors[i].segment_id == s->id) {
            *ret_position = log->cursors[i].position;
            return true;
        }
    return false;
}

/* ---- lookup -------------------------------------------------------------------------------------------------------- */

/* Greatest index entry for `offset` whose batch really stands there, and that batch's base offset; rebuilds a closed
 * segment's index once. Return: FOUND, 0 none (start at 0), negative errno. */
static int index_find(Plog *log, size_t index, SegWalk *w, int64_t offset, int64_t position_end, IndexEntry *ret,
                      int64_t *ret_base)
{
    Segment *s = log->segments[index];
    BatchHeader h;
    int r;

    for (int attempt = 0; attempt < 2; attempt++) {
        if (s == plog_active(log))
            r = index_builder_find(&log->index, offset, position_end, ret);
        else
            r = index_file_find(log->dir->fd, log->name, s, offset, position_end, ret);
        if (r == 0)
            return 0;
        if (r == 1 && ret->position < s->size) {
            r = seg_walk_header(w, ret->position, &h);
            if (r == 1 && h.base_offset >= s->base_offset && batch_last_offset(&h) == s->base_offset + ret->relative_offset) {
                *ret_base = h.base_offset;
                return FOUND;
            }
        }
        if (r < 0 && r != -EBADMSG)
            return r;
        if (s == plog_active(log) || attempt > 0)
            break;
        r = index_rebuild(log, s);
        if (r < 0)
            return r;
    }
    return 0; /* the walk from the start finds out what is wrong */
}

/* From `place` forward to the batch that ends behind `offset`. */
static int walk_to(Plog *log, SegWalk *w, int64_t offset, Place *place)
{
    Segment *s = log->segments[place->segment];
    int64_t end = plog_segment_end(log, place->segment);
    BatchHeader h;

    while (place->position < s->size) {
        const Damage *d = damage_in(log, s, place->position);
        int r;
        if (d && d->position <= place->position) {
            place->position = d->end_position;
            place->expected = d->next_offset;
            continue;
        }
        r = seg_walk_header(w, place->position, &h);
        if (r < 0 && r != -EBADMSG)
            return r;
        if (r != 1 || batch_last_offset(&h) >= end || seg_walk_is_misplaced(w, place->position, &h, place->expected)) {
            r = damage_find(log, place->segment, place->position, place->expected, &d);
            if (r < 0)
                return r;
            if (d && offset < d->next_offset)
                return PLOG_E_CORRUPT;
            continue;
        }
        if (batch_last_offset(&h) >= offset)
            return FOUND;
        place->expected = batch_last_offset(&h) + 1;
        place->position += (int64_t)batch_total_size(&h);
    }
    return 0;
}

static int locate_in_segment(Plog *log, SegWalk *w, int64_t offset, Place *place)
{
    Segment *s = log->segments[place->segment];
    IndexEntry entry;
    int r;

    place->position = 0;
    place->expected = s->base_offset;
    r = segment_use(log, s);
    if (r < 0)
        return r;
    w->fd = s->file->fd;
    w->end = s->size;
    w->buffer_size = 0;
    if (offset > s->base_offset && cursor_find(log, offset, s, &place->position)) {
        place->expected = offset;
        return place->position < s->size ? FOUND : 0;
    }
    if (offset > s->base_offset) {
        r = index_find(log, place->segment, w, offset, INT64_MAX, &entry, &place->expected);
        if (r < 0)
            return r;
        if (r == FOUND)
            place->position = entry.position;
    }
    return walk_to(log, w, offset, place);
}

static int locate(Plog *log, SegWalk *w, int64_t offset, Place *place)
{
    int r = 0;

    place->segment = plog_segment_floor(log, offset);
    for (; r == 0 && place->segment < log->n_segments; place->segment++) {
        r = locate_in_segment(log, w, offset, place);
        if (r != 0)
            break;
    }
    return r;
}

static void slice_empty(PlogSlice *ret, int64_t offset)
{
    *ret = (PlogSlice){.first_offset = offset, .next_offset = offset};
}

/* What both readers check before they look at a file. FOUND: go on. */
static int check_range(Plog *log, int64_t offset, int64_t end_offset, PlogSlice *ret)
{
    const Damage *d;

    if (offset < plog_start(log) || offset > plog_end(log))
        return PLOG_E_OUT_OF_RANGE;
    slice_empty(ret, offset);
    if (offset >= MIN(end_offset, plog_end(log)))
        return 0;
    d = damage_at(log, offset);
    if (d) {
        ret->next_offset = d->next_offset;
        return PLOG_E_CORRUPT;
    }
    return FOUND;
}

/* Start of the next damage in the segment, or its end. */
int64_t plog_readable_end(const Plog *log, const Segment *s, int64_t position)
{
    const Damage *d = damage_in(log, s, position);
    return d ? MIN(d->position, s->size) : s->size;
}

static int read_failed(Plog *log, int r)
{
    if (r == -EIO)
        log_dir_note_failure(log->dir, "pread", EIO);
    return r;
}

static int is_corrupt(Plog *log, int64_t offset, PlogSlice *ret)
{
    const Damage *d = damage_at(log, offset);

    slice_empty(ret, offset);
    ret->next_offset = d ? d->next_offset : offset;
    return PLOG_E_CORRUPT;
}

/* The batch at `place` turned out bad. */
static int found_damage(Plog *log, const Place *place, int64_t offset, PlogSlice *ret)
{
    const Damage *d;
    int r = damage_find(log, place->segment, place->position, place->expected, &d);

    return r < 0 ? read_failed(log, r) : is_corrupt(log, offset, ret);
}

/* Finds the batch for `offset`. FOUND: `place` is set; everything else is the final answer. */
static int begin(Plog *log, int64_t offset, int64_t end_offset, SegWalk *w, Place *place, PlogSlice *ret)
{
    int r = check_range(log, offset, end_offset, ret);

    if (r != FOUND)
        return r;
    if (!log->loaded && plog_segment_floor(log, offset) + 1 == log->n_segments)
        r = plog_load_active(log);
    if (r >= 0)
        r = locate(log, w, offset, place);
    if (r == PLOG_E_CORRUPT)
        return is_corrupt(log, offset, ret);
    return r < 0 ? read_failed(log, r) : r;
}

/* ---- locate -------------------------------------------------------------------------------------------------------- */

/* A batch boundary at or before position + size_max and the offset there, found by the index, to shorten the walk. */
static int jump_ahead(Plog *log, SegWalk *w, const Place *place, int64_t limit, int64_t end_offset, size_t size_max,
                      int64_t *inout_position, int64_t *inout_offset)
{
    int64_t position_end = place->position + (int64_t)MIN(size_max, (size_t)INT32_MAX), base;
    IndexEntry entry;
    int r = index_find(log, place->segment, w, end_offset - 1, MIN(position_end, limit), &entry, &base);

    if (r == FOUND && entry.position > place->position) {
        *inout_position = entry.position;
        *inout_offset = base;
    }
    return r < 0 ? r : 0;
}

/* Extends [place, *inout_end) batch by batch. */
static int extend(SegWalk *w, const Place *place, int64_t limit, int64_t end_offset, size_t size_max, bool at_least_one,
                  int64_t *inout_end, int64_t *ret_next_offset)
{
    BatchHeader h;

    while (*inout_end < limit) {
        int64_t size;
        int r = seg_walk_header(w, *inout_end, &h);
        if (r < 0 && r != -EBADMSG)
            return r;
        if (r != 1) /* damage: the next read begins at it and says so */
            return 0;
        size = *inout_end + (int64_t)batch_total_size(&h) - place->position;
        if (batch_last_offset(&h) >= end_offset || (size > (int64_t)MIN(size_max, (size_t)INT64_MAX) &&
                                                    !(at_least_one && *inout_end == place->position)))
            return 0;
        *inout_end += (int64_t)batch_total_size(&h);
        *ret_next_offset = batch_last_offset(&h) + 1;
    }
    return 0;
}

static int measure(Plog *log, SegWalk *w, const Place *place, int64_t end_offset, size_t size_max, bool at_least_one,
                   PlogSlice *ret)
{
    Segment *s = log->segments[place->segment];
    int64_t limit = plog_readable_end(log, s, place->position), at = place->position;
    BatchHeader h;
    int r = seg_walk_header(w, place->position, &h);

    if (r < 0)
        return r;
    *ret = (PlogSlice){.position = at, .first_offset = h.base_offset, .next_offset = h.base_offset};
    if (limit == s->size && plog_segment_end(log, place->segment) <= end_offset && (uint64_t)(limit - at) <= size_max) {
        ret->size = (size_t)(limit - at);
        ret->next_offset = plog_segment_end(log, place->segment);
        return 0;
    }
    r = jump_ahead(log, w, place, limit, end_offset, size_max, &at, &ret->next_offset);
    if (r == 0)
        r = extend(w, place, limit, end_offset, size_max, at_least_one, &at, &ret->next_offset);
    ret->size = (size_t)(at - place->position);
    return r;
}

int plog_locate(Plog *log, int64_t offset, int64_t end_offset, size_t size_max, bool at_least_one, PlogSlice *ret)
{
    uint8_t buffer[SEG_WALK_SMALL];
    SegWalk w = SEG_WALK(-1, 0, buffer, sizeof(buffer));
    Place place;
    int r;

    end_offset = MIN(end_offset, plog_end(log));
    r = begin(log, offset, end_offset, &w, &place, ret);
    if (r != FOUND)
        return r;
    r = measure(log, &w, &place, end_offset, size_max, at_least_one, ret);
    if (r == -EBADMSG)
        return found_damage(log, &place, offset, ret);
    if (r < 0)
        return read_failed(log, r);
    if (ret->size == 0) {
        slice_empty(ret, offset);
        return 0;
    }
    cursor_keep(log, offset, log->segments[place.segment], ret->next_offset, place.position + (int64_t)ret->size);
    return 0;
}

int plog_slice_fd(Plog *log, const PlogSlice *slice)
{
    Segment *s = log->segments[plog_segment_floor(log, slice->first_offset)];
    int r = segment_use(log, s);

    s->lent = true;
    return r < 0 ? r : s->file->fd;
}

/* ---- read ---------------------------------------------------------------------------------------------------------- */

typedef struct InMemory {
    const uint8_t *data;
    size_t size;
    int64_t limit; /* bytes up to the readable end of the segment, from the first byte of data */
    int64_t expected, end_offset, segment_end;
    int64_t crc_before; /* batches that begin before this many bytes are CRC-checked */
} InMemory;

/* As seg_walk_is_misplaced, on what is in memory. */
static bool is_misplaced(const InMemory *m, size_t at, const BatchHeader *h, int64_t expected)
{
    size_t next_at = at + batch_total_size(h);
    BatchHeader next;

    return h->base_offset > expected && m->size >= next_at + BATCH_HEADER_SIZE && (int64_t)next_at < m->limit &&
           batch_header_decode(m->data + next_at, m->size - next_at, &next) == 0 && next.base_offset <= batch_last_offset(h);
}

/* Whole, valid batches at the front of the memory. Return: 0; PLOG_E_TOO_LARGE: the first needs *ret_size bytes;
 * -EBADMSG: the first is damaged. */
static int take_batches(const InMemory *m, size_t *ret_size, int64_t *ret_first, int64_t *ret_next)
{
    size_t at = 0;
    int64_t expected = m->expected;
    BatchHeader h;

    while (m->size - at >= BATCH_HEADER_SIZE) {
        const uint8_t *batch = m->data + at;
        size_t total;
        bool bad = batch_header_decode(batch, m->size - at, &h) < 0 || h.base_offset < expected || h.last_offset_delta < 0 ||
                   batch_last_offset(&h) >= m->segment_end;
        total = bad ? 0 : batch_total_size(&h);
        bad = bad || (int64_t)(at + total) > m->limit;
        if (!bad && total > m->size - at) {
            if (at == 0 && batch_last_offset(&h) < m->end_offset) {
                *ret_size = total;
                return PLOG_E_TOO_LARGE;
            }
            break;
        }
        if (!bad && (int64_t)at < m->crc_before)
            bad = !batch_crc_is_valid(batch, &h) || is_misplaced(m, at, &h, expected);
        if (bad && at == 0)
            return -EBADMSG;
        if (bad || batch_last_offset(&h) >= m->end_offset)
            break;
        if (at == 0)
            *ret_first = h.base_offset;
        at += total;
        *ret_next = expected = batch_last_offset(&h) + 1;
    }
    if (at == 0 && m->size < BATCH_HEADER_SIZE && m->limit > (int64_t)m->size) {
        *ret_size = BATCH_HEADER_SIZE;
        return PLOG_E_TOO_LARGE;
    }
    if (at == 0 && m->limit < BATCH_HEADER_SIZE)
        return -EBADMSG;
    *ret_size = at;
    return 0;
}

int plog_read(Plog *log, int64_t offset, int64_t end_offset, void *memory, size_t size_max, bool at_least_one, PlogSlice *ret)
{
    uint8_t buffer[SEG_WALK_SMALL];
    SegWalk w = SEG_WALK(-1, 0, buffer, sizeof(buffer));
    InMemory m = {.data = memory, .end_offset = MIN(end_offset, plog_end(log))};
    Place place;
    Segment *s;
    size_t size = 0;
    int r = begin(log, offset, m.end_offset, &w, &place, ret);

    if (r != FOUND)
        return r;
    s = log->segments[place.segment];
    m.limit = plog_readable_end(log, s, place.position) - place.position;
    m.expected = place.expected;
    m.segment_end = plog_segment_end(log, place.segment);
    m.crc_before = s->verified_from - place.position;
    r = fs_pread_all(s->file->fd, memory, MIN(size_max, (size_t)m.limit), place.position, &m.size);
    if (r < 0)
        return read_failed(log, r);
    *ret = (PlogSlice){.position = place.position, .first_offset = offset, .next_offset = offset};
    r = take_batches(&m, &size, &ret->first_offset, &ret->next_offset);
    if (r == -EBADMSG)
        return found_damage(log, &place, offset, ret);
    if (r == PLOG_E_TOO_LARGE && !at_least_one) {
        size = 0;
        r = 0;
    }
    ret->size = size;
    if (r == 0 && size > 0)
        cursor_keep(log, offset, s, ret->next_offset, place.position + (int64_t)size);
    return r;
}
