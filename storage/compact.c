/*
 * Compaction (cleanup.policy=compact): when a log is dirty enough, which segments are cleaned, and the swap of the result.
 *
 * Only closed segments wholly below the caller's end (the high watermark) are touched. `cleaned_to`, kept in
 * cleaner-offset-checkpoint, parts the log into a clean head, where each key stands once, and a dirty rest.
 *
 * The swap, safe against a crash between any two steps (tests/storage/test_compact.c stops after each):
 *   1. <base>.*.cleaned are complete and synced                crash: recovery deletes them, the old files are whole
 *   2. renamed to .swap, the .log last; folder synced          crash before the .log's rename: as 1
 *   3. the old segments of the group are renamed to .deleted   from here on recovery finishes: it drops every segment that
 *   4. .swap is renamed to its final name, the .log last       begins within the offsets of the .log.swap, then does step 4
 * A source that begins behind the last kept record survives such a crash uncleaned: its records are the ones that were
 * dropped from it or none at all, never a second copy of a kept one.
 */

#include "storage/compact.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/fs.h"

/* ---- the plan ------------------------------------------------------------------------------------------------------ */

static int64_t first_dirty(const Plog *log)
{
    int64_t first = MAX(plog_start(log), log->segments[0]->base_offset), to = atomic_load(&log->cleaned_to);
    return to < first || to > plog_end(log) ? first : to;
}

static bool is_too_young(Plog *log, Segment *s, int64_t now_ms)
{
    int64_t lag = log->config.min_compaction_lag_ms, timestamp, offset;

    if (lag <= 0)
        return false;
    if (now_ms == INT64_MIN || segment_max_timestamp(log, s, &timestamp, &offset) < 0)
        return true;
    return now_ms - timestamp < lag;
}

/* Leading segments that may be cleaned at all. */
static size_t count_cleanable(Plog *log, int64_t now_ms, int64_t end_offset)
{
    size_t n = 0;

    for (; n + 1 < log->n_segments && plog_segment_end(log, n) <= end_offset; n++) {
        Segment *s = log->segments[n];
        if (is_too_young(log, s, now_ms) || damage_in(log, s, -1))
            break;
    }
    return n;
}

static bool is_overdue(Plog *log, Segment *first_dirty_segment, int64_t now_ms)
{
    int64_t timestamp, offset;

    if (now_ms == INT64_MIN || log->config.max_compaction_lag_ms == INT64_MAX ||
        segment_max_timestamp(log, first_dirty_segment, &timestamp, &offset) < 0 || timestamp < 0)
        return false;
    return now_ms - timestamp > log->config.max_compaction_lag_ms;
}

static bool is_due(Plog *log, size_t n, int64_t now_ms)
{
    int64_t clean = 0, dirty = 0, from = first_dirty(log);
    Segment *first = NULL;

    for (size_t i = 0; i < n; i++) {
        if (plog_segment_end(log, i) <= from) {
            clean += log->segments[i]->size;
            continue;
        }
        dirty += log->segments[i]->size;
        first = first ? first : log->segments[i];
    }
    if (!first || dirty == 0)
        return false;
    return (double)dirty / (double)(clean + dirty) >= log->config.min_cleanable_dirty_ratio || is_overdue(log, first, now_ms);
}

static int by_producer(const void *a, const void *b)
{
    int64_t x = ((const ProducerLast *)a)->producer_id, y = ((const ProducerLast *)b)->producer_id;
    return x < y ? -1 : x > y;
}

static int copy_producers(const Plog *log, CompactJob *job)
{
    job->producers = calloc(MAX(log->producers.n, (size_t)1), sizeof(*job->producers));
    if (!job->producers)
        return -ENOMEM;
    for (size_t i = 0; i < log->producers.n; i++) {
        const ProducerState *s = &log->producers.states[i];
        if (s->n > 0)
            job->producers[job->n_producers++] = (ProducerLast){s->producer_id, s->window[s->n - 1].last_offset};
    }
    qsort(job->producers, job->n_producers, sizeof(*job->producers), by_producer);
    return 0;
}

/* Neighbours that fit one segment by size and by offset span. */
static void make_groups(CompactJob *job)
{
    for (size_t i = 0; i < job->n_sources;) {
        CompactGroup *g = &job->groups[job->n_groups++];
        int64_t bytes = job->sources[i].size;
        *g = (CompactGroup){.from = i, .to = i + 1};
        while (g->to < job->n_sources && bytes + job->sources[g->to].size <= job->config.segment_bytes &&
               job->sources[g->to].end_offset - job->sources[i].base_offset <= SEGMENT_OFFSETS_MAX)
            bytes += job->sources[g->to++].size;
        i = g->to;
    }
}

static CompactJob *job_free(CompactJob *job)
{
    if (!job)
        return NULL;
    for (size_t i = 0; i < job->n_sources; i++)
        seg_file_unref(job->sources[i].file);
    free(job->sources);
    free(job->groups);
    free(job->producers);
    free(job);
    return NULL;
}

static int fill_job(Plog *log, CompactJob *job, size_t n)
{
    int r = copy_producers(log, job);

    job->sources = calloc(n, sizeof(*job->sources));
    job->groups = calloc(n, sizeof(*job->groups));
    if (r < 0 || !job->sources || !job->groups)
        return -ENOMEM;
    for (size_t i = 0; i < n; i++) {
        Segment *s = log->segments[i];
        r = segment_use(log, s);
        if (r < 0)
            return r;
        job->sources[job->n_sources++] = (CompactSource){.file = seg_file_ref(s->file), .id = s->id,
                                                         .base_offset = s->base_offset, .size = s->size,
                                                         .end_offset = plog_segment_end(log, i)};
    }
    make_groups(job);
    return 0;
}

/* *ret NULL: nothing to do. */
static int plan(Plog *log, int64_t now_ms, int64_t end_offset, CompactJob **ret)
{
    CompactJob *job;
    size_t n;
    int r = plog_load_active(log);

    *ret = NULL;
    if (r < 0 || !log->config.cleanup_compact || log->n_segments == 0)
        return r;
    n = count_cleanable(log, now_ms, end_offset);
    if (n == 0 || !is_due(log, n, now_ms) || log_dir_refuses(log->dir, true, true))
        return 0;
    job = calloc(1, sizeof(*job));
    if (!job)
        return -ENOMEM;
    job->dir = log->dir;
    job->config = log->config;
    job->now_ms = now_ms;
    job->first_dirty = first_dirty(log);
    (void)snprintf(job->name, sizeof(job->name), "%s", log->name);
    r = fill_job(log, job, n);
    if (r < 0)
        job_free(job);
    else
        *ret = job;
    return r;
}

/* ---- the swap ------------------------------------------------------------------------------------------------------ */

static int rename_all(Plog *log, int64_t base, const char *from, const char *to)
{
    static const char *const kinds[] = {".index", ".timeindex", ".log"}; /* the .log decides, so it is last */
    char suffix[32];
    PathBuf a, b;

    for (size_t i = 0; i < ARRAY_SIZE(kinds); i++) {
        (void)snprintf(suffix, sizeof(suffix), "%s%s", kinds[i], from);
        segment_path(log->name, base, suffix, &a);
        (void)snprintf(suffix, sizeof(suffix), "%s%s", kinds[i], to);
        if (renameat(log->dir->fd, a.s, log->dir->fd, segment_path(log->name, base, suffix, &b)) < 0)
            return -errno;
    }
    return 0;
}

static int sync_folder(Plog *log)
{
    _cleanup_(base_closep) int fd = openat(log->dir->fd, log->name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

    if (fd < 0)
        return -errno;
    if (fsync(fd) < 0)
        log_dir_fail(log->dir, "fsync", errno);
    return 0;
}

/* Steps 1 and 2 for all groups at once: the folder is synced by the owner, while its clients wait. */
static int prepare_swap(Plog *log, CompactJob *job)
{
    int r = 0;

    for (size_t i = 0; r == 0 && i < job->n_groups; i++)
        if (!job->groups[i].unchanged)
            r = rename_all(log, job->sources[job->groups[i].from].base_offset, ".cleaned", ".swap");
    if (r == 0)
        r = sync_folder(log);
    if (r < 0)
        compact_remove_output(job); /* a .swap that stayed would be finished by the next start, whatever the log holds then */
    return r;
}

static int swap_group(Plog *log, CompactJob *job, const CompactGroup *g)
{
    int64_t base = job->sources[g->from].base_offset;
    size_t at = plog_segment_floor(log, base), before = log->n_segments;
    Segment *s = segment_new(log, base);
    int r;

    if (!s) {
        compact_remove_output(job); /* nothing of this group has begun: as in prepare_swap() */
        return -ENOMEM;
    }
    r = plog_drop_segments(log, at, at + (g->to - g->from));
    if (r == 0)
        r = rename_all(log, base, ".swap", "");
    if (r < 0) {
        segment_free(s);
        if (log->n_segments == before) {
            compact_remove_output(job);
            return r;
        }
        log_dir_note_failure(log->dir, "rename of a compacted segment", -r); /* a hole until the next start finishes the swap */
        return -EIO;
    }
    s->size = s->allocated = g->size;
    s->max_timestamp = g->max_timestamp;
    s->max_timestamp_offset = g->max_timestamp_offset;
    s->index_checked = true;
    log->size_bytes += s->size;
    plog_forget_cursors(log);
    plog_mark_dir_dirty(log);
    return plog_add_segment(log, s);
}

/* Whether the log still has exactly the segments the job read. */
static bool is_current(const Plog *log, const CompactJob *job)
{
    size_t at = plog_segment_floor(log, job->sources[0].base_offset);

    if (at + job->n_sources >= log->n_segments)
        return false;
    for (size_t i = 0; i < job->n_sources; i++)
        if (log->segments[at + i]->id != job->sources[i].id)
            return false;
    return true;
}

static int take_result(Plog *log, CompactJob *job, bool *ret_did)
{
    const Damage *d;
    int r = job->result;

    if (r == -EBADMSG) { /* the next pass ends before the damage */
        size_t at = plog_segment_floor(log, job->bad_base);
        r = log->segments[at]->base_offset != job->bad_base ? 0
                                                            : damage_find(log, at, job->bad_position, job->bad_base, &d);
        return r;
    }
    if (r == -ENOSPC || r == -EDQUOT)
        return PLOG_E_NO_SPACE;
    if (r == -EIO)
        log_dir_note_failure(log->dir, "compaction", EIO);
    if (r < 0)
        return r;
    if (!is_current(log, job)) {
        compact_remove_output(job);
        return 0;
    }
    r = prepare_swap(log, job);
    for (size_t i = 0; r == 0 && i < job->n_groups; i++)
        if (!job->groups[i].unchanged)
            r = swap_group(log, job, &job->groups[i]);
    if (r == 0) {
        atomic_store(&log->cleaned_to, job->cleaned_to);
        *ret_did = true;
    }
    return r;
}

/* ---- interface ----------------------------------------------------------------------------------------------------- */

static void *job_main(void *arg)
{
    CompactJob *job = arg;

    compact_run(job);
    atomic_store(&job->done, true);
    return NULL;
}

void compact_cancel(Plog *log)
{
    CompactJob *job = log->job;

    if (!job)
        return;
    atomic_store(&job->cancel, true);
    pthread_join(job->thread, NULL);
    compact_remove_output(job);
    atomic_store(&log->dir->cleaner_busy, false);
    log->job = job_free(job);
}

static int collect(Plog *log, bool *ret_did)
{
    CompactJob *job = log->job;
    int r;

    pthread_join(job->thread, NULL);
    r = take_result(log, job, ret_did);
    atomic_store(&log->dir->cleaner_busy, false);
    log->job = job_free(job);
    return r;
}

bool plog_is_compacting(const Plog *log)
{
    return log->job != NULL;
}

int plog_compact(Plog *log, int64_t now_ms, int64_t end_offset, bool *ret_did)
{
    CompactJob *job;
    int r;

    *ret_did = false;
    if (log->job)
        return collect(log, ret_did);
    r = plan(log, now_ms, end_offset, &job);
    if (r < 0 || !job)
        return r;
    compact_run(job);
    r = take_result(log, job, ret_did);
    job_free(job);
    return r;
}

int plog_compact_background(Plog *log, int64_t now_ms, int64_t end_offset, bool *ret_did)
{
    CompactJob *job;
    int r;

    *ret_did = false;
    if (log->job)
        return atomic_load(&log->job->done) ? collect(log, ret_did) : 0;
    if (!log->config.cleanup_compact || atomic_exchange(&log->dir->cleaner_busy, true))
        return 0;
    r = plan(log, now_ms, end_offset, &job);
    if (r == 0 && job) {
        r = -pthread_create(&job->thread, NULL, job_main, job);
        if (r == 0) {
            log->job = job;
            return 0;
        }
        job_free(job);
    }
    atomic_store(&log->dir->cleaner_busy, false);
    return r;
}
