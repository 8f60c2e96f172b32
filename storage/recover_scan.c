/*
 * The scan after an unclean stop. From RecoverPlan.from on every header is read: producers, epochs and indexes are built from
 * them. From `verify` (the recovery point) on every CRC is checked too. An invalid batch is judged by the durable mark:
 *
 *   | where the log stands | bytes behind it                  | done                                                       |
 *   |----------------------|----------------------------------|------------------------------------------------------------|
 *   | end of the segments' | zeros or garbage, next segment   | cut: a roll whose truncation was lost                      |
 *   | own offsets          | follows                          |                                                            |
 *   | at or past the mark  | anything                         | torn tail: cut, with all later segments; kept beside it    |
 *   |                      |                                  | when a valid batch stands in it                            |
 *   | before the mark      | a valid batch somewhere          | corruption: the range is recorded, the scan goes on behind |
 *   | before the mark      | nothing valid, later segments    | the rest of the segment is recorded                        |
 *   | before the mark      | nothing valid, last segment      | cut; the caller records the offsets up to the mark         |
 *
 * A power cut may leave holes before newer valid blocks, so valid batches behind a torn one mean nothing past the mark.
 */

#include "storage/internal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fs.h"

#define REPORT_STEP (8 << 20)

/* A long walk over a log, in the eyes of the owner. */
typedef struct Report {
    const Plog *log;
    int64_t before, total; /* bytes of the segments that are done, of all */
    int64_t next;          /* when to report */
} Report;

typedef struct Scan {
    Plog *log;
    const RecoverPlan *plan;
    Report report;
    uint8_t *memory;
    SegWalk walk;
    size_t index; /* of the segment under the scan */
    int64_t position, expected;
    int64_t verified_from; /* position of the first CRC-checked batch, -1 none yet */
    bool cut;              /* the log ends at `position` */
} Scan;

static Segment *segment_of(const Scan *scan)
{
    return scan->log->segments[scan->index];
}

static bool is_last(const Scan *scan)
{
    return scan->index + 1 == scan->log->n_segments;
}

/* ---- progress ------------------------------------------------------------------------------------------------------ */

static Report report_of(const Plog *log, size_t from_index)
{
    Report report = {.log = log, .next = REPORT_STEP};

    for (size_t i = from_index; i < log->n_segments; i++)
        report.total += log->segments[i]->size;
    return report;
}

/* `position` of the segment under the walk is reached. */
static void report_at(Report *report, int64_t position)
{
    const LogDirOptions *o = &report->log->dir->options;
    int64_t done = report->before + position;

    if (LIKELY(done < report->next) || !o->progress)
        return;
    report->next = done + REPORT_STEP;
    o->progress(o->userdata, &report->log->id, MIN(done, report->total), report->total);
}

/* ---- cutting ------------------------------------------------------------------------------------------------------- */

/* Best effort: the bytes were never acknowledged; they are kept for whoever wants to look. */
static void keep_bytes(Scan *scan, int64_t from, int64_t to)
{
    _cleanup_(base_closep) int fd = -1;
    Segment *s = segment_of(scan);
    PathBuf path;
    size_t got;

    fd = openat(scan->log->dir->fd, segment_path(scan->log->name, s->base_offset, ".log.torn", &path),
                O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd < 0)
        return;
    scan->walk.buffer_size = 0; /* its memory is used here */
    for (int64_t at = from; at < to; at += (int64_t)got) {
        size_t want = (size_t)MIN((int64_t)SEG_WALK_LARGE, to - at);
        if (fs_pread_all(s->file->fd, scan->memory, want, at, &got) < 0 || got == 0 ||
            fs_pwrite_all(fd, scan->memory, got, at - from) < 0)
            return;
    }
}

/* A later segment of a log that ends earlier. */
static int drop_last_segment(Scan *scan)
{
    Plog *log = scan->log;
    Segment *s = plog_active(log);
    PathBuf from, to;
    BatchHeader h;
    SegWalk w;
    bool keep;
    int r = segment_use(log, s);

    if (r < 0)
        return r;
    w = SEG_WALK(s->file->fd, s->size, scan->memory, SEG_WALK_SMALL);
    scan->walk.buffer_size = 0;
    keep = seg_walk_header(&w, 0, &h) == 1;
    segment_path(log->name, s->base_offset, ".log", &from);
    if (keep && renameat(log->dir->fd, from.s, log->dir->fd, segment_path(log->name, s->base_offset, ".log.torn", &to)) < 0)
        return -errno;
    if (!keep && unlinkat(log->dir->fd, from.s, 0) < 0)
        return -errno;
    (void)unlinkat(log->dir->fd, segment_path(log->name, s->base_offset, ".index", &to), 0);
    (void)unlinkat(log->dir->fd, segment_path(log->name, s->base_offset, ".timeindex", &to), 0);
    log->size_bytes -= s->size;
    segment_free(s);
    log->n_segments--;
    return 0;
}

/* The log ends at scan->position. */
static int cut_tail(Scan *scan)
{
    Segment *s = segment_of(scan);
    int64_t found;
    BatchHeader h;
    int r = 0;

    if (scan->position < s->size) {
        r = seg_walk_resync(&scan->walk, scan->position + 1, scan->expected, INT64_MAX, &found, &h);
        if (r == 1)
            keep_bytes(scan, scan->position, s->size);
    }
    while (r >= 0 && !is_last(scan))
        r = drop_last_segment(scan);
    scan->cut = true;
    return r < 0 ? r : 0;
}

static int truncate_to_position(Scan *scan)
{
    Segment *s = segment_of(scan);

    if (scan->position == s->size)
        return 0;
    if (ftruncate(s->file->fd, scan->position) < 0)
        return -errno;
    scan->log->size_bytes -= s->size - scan->position;
    s->size = s->allocated = scan->position;
    scan->walk.end = scan->position;
    return 0;
}

/* ---- judging ------------------------------------------------------------------------------------------------------- */

static int record_damage(Scan *scan, int64_t next_offset, int64_t end_position)
{
    Damage d = {.first_offset = scan->expected, .next_offset = next_offset, .segment_base = segment_of(scan)->base_offset,
                .position = scan->position, .end_position = end_position};
    int r = damage_add(scan->log, &d);

    scan->position = end_position;
    scan->expected = next_offset;
    return r;
}

/* No valid batch stands at scan->position. Moves the scan on, or ends it. */
static int judge(Scan *scan)
{
    Segment *s = segment_of(scan);
    int64_t next_base = is_last(scan) ? INT64_MAX : scan->log->segments[scan->index + 1]->base_offset, found;
    bool data = false;
    BatchHeader h;
    int r;

    if (!is_last(scan) && scan->expected == next_base)
        return truncate_to_position(scan);
    if (scan->expected >= scan->plan->mark) {
        r = seg_walk_any_data(&scan->walk, scan->position, &data);
        if (r == 0 && !data && is_last(scan)) {
            scan->cut = true; /* the space ahead of the writer: the usual end */
            return 0;
        }
        return r < 0 ? r : cut_tail(scan);
    }
    r = seg_walk_resync(&scan->walk, scan->position + 1, scan->expected + 1, next_base, &found, &h);
    if (r < 0)
        return r;
    if (r == 1)
        return record_damage(scan, h.base_offset, found);
    if (!is_last(scan))
        return record_damage(scan, next_base, s->size);
    return cut_tail(scan);
}

/* The segment's bytes end before the next segment begins. */
static int judge_gap(Scan *scan)
{
    int64_t next_base = scan->log->segments[scan->index + 1]->base_offset;

    if (scan->expected >= next_base || scan->expected < scan->plan->verify)
        return 0;
    if (scan->expected >= scan->plan->mark)
        return cut_tail(scan);
    /* Compaction leaves gaps, nothing else does: a file that lost its end. */
    return scan->log->config.cleanup_compact ? 0 : record_damage(scan, next_base, scan->position);
}

/* ---- walking ------------------------------------------------------------------------------------------------------- */

/* Durable offsets of a log that was never compacted are dense: a batch cannot jump over the mark. */
static bool skips_the_mark(const Scan *scan, const BatchHeader *h)
{
    return !scan->log->config.cleanup_compact && h->base_offset > scan->expected && scan->expected < scan->plan->mark &&
           batch_last_offset(h) >= scan->plan->mark;
}

/* Return: 1 a batch that belongs here, 0 end of the segment, -EBADMSG, other negative errno. */
static int next_batch(Scan *scan, BatchHeader *h)
{
    const Segment *s = segment_of(scan);
    int r = seg_walk_header(&scan->walk, scan->position, h);

    if (r != 1)
        return r;
    if (h->base_offset < scan->expected || batch_last_offset(h) - s->base_offset > SEGMENT_OFFSETS_MAX ||
        (!is_last(scan) && batch_last_offset(h) >= scan->log->segments[scan->index + 1]->base_offset))
        return -EBADMSG;
    if (batch_last_offset(h) < scan->plan->verify)
        return 1;
    r = seg_walk_crc(&scan->walk, scan->position, h);
    if (r < 0)
        return r;
    if (r == 0 || seg_walk_is_misplaced(&scan->walk, scan->position, h, scan->expected) || skips_the_mark(scan, h))
        return -EBADMSG;
    if (scan->verified_from < 0)
        scan->verified_from = scan->position;
    return 1;
}

static int accept(Scan *scan, const BatchHeader *h)
{
    Plog *log = scan->log;
    int r = index_builder_add(&log->index, h, scan->position, log->config.index_interval_bytes);

    if (r == 0 && h->base_offset >= scan->plan->producers_from)
        r = producers_update(&log->producers, h);
    if (r == 0)
        r = epoch_cache_assign(&log->epochs, h->leader_epoch, h->base_offset);
    scan->expected = batch_last_offset(h) + 1;
    scan->position += (int64_t)batch_total_size(h);
    return r;
}

/* Where the walk of this segment begins: at the last index entry before `from`, if that holds. */
static int find_beginning(Scan *scan)
{
    Plog *log = scan->log;
    Segment *s = segment_of(scan);
    BatchHeader h;
    int r;

    scan->position = 0;
    scan->expected = MAX(scan->expected, s->base_offset);
    scan->verified_from = -1;
    index_builder_reset(&log->index, s->base_offset);
    if (scan->plan->from <= s->base_offset)
        return 0;
    scan->expected = s->base_offset;
    r = index_builder_load(&log->index, log->dir->fd, log->name, s->size);
    if (r < 0)
        return r;
    index_builder_cut(&log->index, scan->plan->from - 1);
    if (log->index.n_offsets > 0) {
        const IndexEntry *e = &log->index.offsets[log->index.n_offsets - 1];
        if (seg_walk_header(&scan->walk, e->position, &h) == 1 && h.base_offset >= s->base_offset &&
            batch_last_offset(&h) == s->base_offset + e->relative_offset) {
            const TimeEntry *t = log->index.n_times > 0 ? &log->index.times[log->index.n_times - 1] : NULL;
            IndexEntry before = {0};
            if (t && !index_builder_find(&log->index, s->base_offset + t->relative_offset, INT64_MAX, &before))
                before.position = 0;
            if (!t || timeindex_entry_holds(&scan->walk, before.position, s->base_offset, t)) {
                scan->position = e->position;
                scan->expected = h.base_offset;
                return 0;
            }
        }
    }
    index_builder_reset(&log->index, s->base_offset);
    return 0;
}

/* D3: what the page cache says was not believed; what is kept goes to the disk again. */
static int rewrite(Scan *scan)
{
    Segment *s = segment_of(scan);
    size_t got;
    int r = 0;

    scan->walk.buffer_size = 0;
    for (int64_t at = MAX(scan->verified_from, 0); r == 0 && at < scan->position; at += (int64_t)got) {
        r = fs_pread_all(s->file->fd, scan->memory, (size_t)MIN((int64_t)SEG_WALK_LARGE, scan->position - at), at, &got);
        if (r == 0 && got == 0)
            return -EIO;
        if (r == 0)
            r = fs_pwrite_all(s->file->fd, scan->memory, got, at);
        scan->report.next = 0; /* writing is life, too */
        report_at(&scan->report, scan->position);
    }
    return r;
}

static int begin_segment(Scan *scan)
{
    Segment *s = segment_of(scan);
    int r = segment_use(scan->log, s);

    if (r < 0)
        return r;
    if (scan->plan->suspect) { /* pages of a failed write-back count as clean: drop them, so that the disk answers */
        if (fdatasync(s->file->fd) < 0)
            return -errno;
        (void)posix_fadvise(s->file->fd, 0, 0, POSIX_FADV_DONTNEED);
    }
    scan->walk = SEG_WALK(s->file->fd, s->size, scan->memory, SEG_WALK_LARGE);
    return find_beginning(scan);
}

static int end_segment(Scan *scan)
{
    Plog *log = scan->log;
    Segment *s = segment_of(scan);
    int r = 0;

    if (scan->cut)
        r = truncate_to_position(scan);
    else if (!is_last(scan))
        r = judge_gap(scan);
    if (r == 0 && scan->plan->suspect && scan->verified_from >= 0)
        r = rewrite(scan);
    if (r < 0)
        return r;
    s->verified_from = scan->verified_from >= 0 ? scan->verified_from : s->size;
    s->max_timestamp = log->index.max_timestamp;
    s->max_timestamp_offset = log->index.max_timestamp_offset;
    s->index_checked = true;
    if (!is_last(scan))
        r = index_builder_flush(&log->index, log->dir->fd, log->name, "", true);
    return r;
}

static int scan_segment(Scan *scan)
{
    BatchHeader h;
    int r = begin_segment(scan);

    while (r == 0 && !scan->cut && scan->position < segment_of(scan)->size) {
        const Damage *d = damage_in(scan->log, segment_of(scan), scan->position);
        if (d && d->position <= scan->position) {
            scan->position = MIN(d->end_position, segment_of(scan)->size);
            scan->expected = MAX(scan->expected, d->next_offset);
            continue;
        }
        r = next_batch(scan, &h);
        if (r == 1) {
            if (scan->position == 0)
                segment_of(scan)->first_timestamp = h.max_timestamp;
            r = accept(scan, &h);
        } else if (r == -EBADMSG) {
            r = judge(scan);
        }
        report_at(&scan->report, scan->position);
    }
    return r == 0 ? end_segment(scan) : r;
}

int recover_scan(Plog *log, const RecoverPlan *plan)
{
    Scan scan = {.log = log, .plan = plan, .memory = malloc(SEG_WALK_LARGE)};
    int r = 0;

    if (!scan.memory)
        return -ENOMEM;
    assert(log->n_segments > 0);
    plog_forget_cursors(log);
    scan.index = plog_segment_floor(log, plan->from);
    scan.report = report_of(log, scan.index);
    for (; r == 0; scan.index++) {
        int64_t size = segment_of(&scan)->size;
        r = scan_segment(&scan);
        if (scan.cut || is_last(&scan))
            break;
        scan.report.before += size;
    }
    free(scan.memory);
    if (r < 0)
        return r;
    epoch_cache_cut_end(&log->epochs, scan.expected + 1); /* an epoch may begin at the end, not behind it */
    plog_set_end(log, scan.expected);
    log->loaded = true;
    return 0;
}

/* ---- producers alone ----------------------------------------------------------------------------------------------- */

static int walk_segment(Plog *log, SegWalk *w, Report *report, size_t index, int64_t from, int64_t end)
{
    Segment *s = log->segments[index];
    int64_t position = 0;
    IndexEntry entry;
    BatchHeader h;
    int r = segment_use(log, s);

    if (r < 0)
        return r;
    w->fd = s->file->fd;
    w->end = s->size;
    w->buffer_size = 0;
    if (from > s->base_offset && s != plog_active(log) &&
        index_file_find(log->dir->fd, log->name, s, from - 1, INT64_MAX, &entry) == 1 &&
        seg_walk_header(w, entry.position, &h) == 1 && batch_last_offset(&h) == s->base_offset + entry.relative_offset)
        position = entry.position;
    if (from > s->base_offset && s == plog_active(log) && index_builder_find(&log->index, from - 1, s->size, &entry))
        position = entry.position;
    while (position < s->size) {
        const Damage *d = damage_in(log, s, position);
        if (d && d->position <= position) {
            position = d->end_position;
            continue;
        }
        r = seg_walk_header(w, position, &h);
        if (r < 0 && r != -EBADMSG)
            return r;
        if (r != 1 || h.base_offset >= end)
            return 0;
        if (h.base_offset >= from) {
            r = producers_update(&log->producers, &h);
            if (r < 0)
                return r;
        }
        position += (int64_t)batch_total_size(&h);
        report_at(report, position);
    }
    report->before += s->size;
    return 0;
}

int recover_walk_producers(Plog *log, int64_t from_offset, int64_t end_offset)
{
    _cleanup_(base_freep) uint8_t *memory = malloc(SEG_WALK_LARGE);
    SegWalk w = SEG_WALK(-1, 0, memory, SEG_WALK_LARGE);
    size_t first = plog_segment_floor(log, from_offset);
    Report report = report_of(log, first);
    int r = memory ? 0 : -ENOMEM;

    for (size_t i = first; r == 0 && i < log->n_segments; i++)
        r = walk_segment(log, &w, &report, i, from_offset, end_offset);
    return r;
}
