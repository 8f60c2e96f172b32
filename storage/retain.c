/*
 * What takes bytes away: retention by time and size, DeleteRecords, truncation, and the owner's timer work that goes along
 * (idle files closed, checkpoints, rolling by age).
 *
 * A dropped segment is renamed to `.deleted` and goes after file.delete.delay.ms, to the pool if it may (pool.c). Time
 * retention looks at record timestamps and needs a wall clock that the caller believes (D12).
 */

#include "storage/internal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fs.h"

/* ---- dropping ------------------------------------------------------------------------------------------------------ */

static int drop_files(Plog *log, const Segment *s)
{
    static const char *const caches[] = {".index", ".timeindex", ".txnindex", ".snapshot"};
    LogDir *dir = log->dir;
    PathBuf from, to;

    segment_path(log->name, s->base_offset, ".log", &from);
    segment_path(log->name, s->base_offset, ".log.deleted", &to);
    if (renameat(dir->fd, from.s, dir->fd, to.s) < 0 && errno != ENOENT)
        return -errno;
    log_dir_delete_later(dir, to.s, log->config.file_delete_delay_ms, s);
    for (size_t i = 0; i < ARRAY_SIZE(caches); i++)
        (void)unlinkat(dir->fd, segment_path(log->name, s->base_offset, caches[i], &from), 0); /* of no use alone */
    return 0;
}

/* A round that never comes would keep the inode, and its space, alive. */
static void forget_dirty(Plog *log, const Segment *s)
{
    SegFile *found = NULL;

    pthread_mutex_lock(&log->dir->mutex);
    for (size_t i = 0; i < log->n_dirty && s->file && !found; i++)
        if (log->dirty[i] == s->file) {
            found = s->file;
            log->dirty[i] = log->dirty[--log->n_dirty];
        }
    pthread_mutex_unlock(&log->dir->mutex);
    seg_file_unref(found);
}

int plog_drop_segments(Plog *log, size_t from, size_t to)
{
    size_t i;
    int r = 0;

    assert(from <= to && to <= log->n_segments);
    for (i = from; i < to && r == 0; i++) {
        Segment *s = log->segments[i];
        r = drop_files(log, s);
        if (r < 0)
            break;
        log->size_bytes -= s->size;
        forget_dirty(log, s);
        segment_free(s);
    }
    memmove(&log->segments[from], &log->segments[i], (log->n_segments - i) * sizeof(Segment *));
    log->n_segments -= i - from;
    if (i > from)
        plog_mark_dir_dirty(log);
    return r;
}

static int forget_damage_below(Plog *log, int64_t offset)
{
    size_t kept = 0;

    for (size_t i = 0; i < log->n_damage; i++)
        if (log->damage[i].next_offset > offset)
            log->damage[kept++] = log->damage[i];
    if (kept == log->n_damage)
        return 0;
    log->n_damage = kept;
    return damage_write(log);
}

static int drop_first(Plog *log, size_t n)
{
    int r = n == 0 ? 0 : plog_drop_segments(log, 0, n);

    if (r == 0 && n > 0) {
        atomic_store(&log->start, MAX(plog_start(log), log->segments[0]->base_offset));
        epoch_cache_cut_start(&log->epochs, plog_start(log));
        r = forget_damage_below(log, plog_start(log));
    }
    return r;
}

/* ---- retention ----------------------------------------------------------------------------------------------------- */

static int64_t timestamp_for_age(Plog *log, Segment *s)
{
    struct stat st;
    int64_t timestamp, offset;

    if (segment_max_timestamp(log, s, &timestamp, &offset) < 0)
        return INT64_MAX; /* unreadable: not a reason to delete */
    if (timestamp >= 0)
        return timestamp;
    if (segment_use(log, s) < 0 || fstat(s->file->fd, &st) < 0)
        return INT64_MAX;
    return (int64_t)st.st_mtim.tv_sec * 1000;
}

static bool is_expired(Plog *log, Segment *s, int64_t now_ms)
{
    int64_t retention = log->config.retention_ms, timestamp;

    if (retention < 0 || now_ms == INT64_MIN || s->size == 0)
        return false;
    timestamp = timestamp_for_age(log, s);
    return timestamp != INT64_MAX && now_ms > timestamp && now_ms - timestamp > retention;
}

/* Leading segments that one of the rules lets go; the active one is never among them. */
static size_t count_deletable(Plog *log, int64_t now_ms, int64_t end_offset)
{
    int64_t left = log->size_bytes;
    size_t n = 0;

    for (; n + 1 < log->n_segments && plog_segment_end(log, n) <= end_offset; n++) {
        Segment *s = log->segments[n];
        bool below_start = plog_segment_end(log, n) <= plog_start(log);
        bool by_size = log->config.retention_bytes >= 0 && left - s->size >= log->config.retention_bytes;
        if (!below_start && !(log->config.cleanup_delete && (by_size || is_expired(log, s, now_ms))))
            break;
        left -= s->size;
    }
    return n;
}

/* The active segment closes when it is old enough, or when everything in it may go. */
static int roll_by_age(Plog *log, int64_t now_ms, int64_t end_offset)
{
    Segment *s = plog_active(log);
    const PlogConfig *c = &log->config;
    int64_t age_max_ms;
    bool due;

    if (!s || s->size == 0)
        return 0;
    age_max_ms = plog_active_age_max_ms(log);
    due = clock_mono_ms() - log->active_created_ms >= age_max_ms;
    if (now_ms != INT64_MIN && s->first_timestamp >= 0)
        due = due || (now_ms > s->first_timestamp && now_ms - s->first_timestamp >= age_max_ms);
    if (c->cleanup_delete && plog_end(log) <= end_offset)
        due = due || is_expired(log, s, now_ms);
    if (plog_start(log) == plog_end(log) && plog_end(log) <= end_offset)
        due = true; /* DeleteRecords took everything */
    return due ? plog_roll(log) : 0;
}

static void close_idle_files(Plog *log)
{
    int64_t now = clock_mono_ms();

    for (size_t i = 0; i < log->n_segments; i++)
        if (log->segments[i]->file && now - log->segments[i]->used_ms >= PLOG_FD_IDLE_MS)
            segment_close(log->segments[i]);
}

int plog_retain(Plog *log, int64_t now_ms, int64_t end_offset)
{
    int r;

    if (clock_mono_ms() - log->checkpoint_ms >= PLOG_CHECKPOINT_MS)
        (void)plog_checkpoint(log); /* a longer recovery, nothing worse */
    close_idle_files(log);
    r = roll_by_age(log, now_ms, end_offset);
    if (r == 0 && log->n_segments > 0)
        r = drop_first(log, count_deletable(log, now_ms, end_offset));
    return r;
}

/* ---- DeleteRecords ------------------------------------------------------------------------------------------------- */

int plog_set_start(Plog *log, int64_t offset)
{
    if (offset > plog_end(log))
        return PLOG_E_OUT_OF_RANGE;
    if (offset <= plog_start(log))
        return 0;
    atomic_store(&log->start, offset);
    epoch_cache_cut_start(&log->epochs, offset);
    return 0;
}

/* ---- truncation ---------------------------------------------------------------------------------------------------- */

/* INV-PLOG-3: bytes that were durable, or that others may look at, are not cut in place: the rest moves to a new file. */
static int copy_front(Plog *log, Segment *s, int64_t size)
{
    _cleanup_(base_freep) uint8_t *memory = malloc(SEG_WALK_LARGE);
    _cleanup_(base_closep) int fd = -1;
    PathBuf from, to;
    size_t got;
    int r = memory ? 0 : -ENOMEM;

    fd = openat(log->dir->fd, segment_path(log->name, s->base_offset, ".log.cleaned", &from),
                O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd < 0)
        return -errno;
    for (int64_t at = 0; r == 0 && at < size; at += (int64_t)got) {
        r = fs_pread_all(s->file->fd, memory, (size_t)MIN((int64_t)SEG_WALK_LARGE, size - at), at, &got);
        if (r == 0 && got == 0)
            r = -EIO;
        if (r == 0)
            r = fs_pwrite_all(fd, memory, got, at);
    }
    if (r == 0 && fdatasync(fd) < 0)
        log_dir_fail(log->dir, "fdatasync", errno);
    if (r == 0 && renameat(log->dir->fd, from.s, log->dir->fd, segment_path(log->name, s->base_offset, ".log", &to)) < 0)
        r = -errno;
    if (r < 0)
        return r;
    segment_close(s);
    s->leased_ever = s->lent = false;
    s->leases = 0;
    s->id = ++log->next_segment_id;
    return 0;
}

static int cut_segment(Plog *log, Segment *s, int64_t position, bool in_place)
{
    int r = segment_use(log, s);

    if (r < 0 || position == s->size)
        return r;
    if (!in_place || s->leased_ever || s->lent)
        r = copy_front(log, s, position);
    else if (ftruncate(s->file->fd, position) < 0)
        r = -errno;
    if (r == 0) {
        log->size_bytes -= s->size - position;
        s->size = s->allocated = position;
        s->prewritten = 0;
        s->verified_from = MIN(s->verified_from, position);
    }
    return r;
}

/* The marks must fall before the bytes do, or a crash in between would look like lost data. */
static int lower_marks(Plog *log, int64_t offset)
{
    int r = log_dir_sync_log(log->dir, log);

    if (r < 0)
        return r;
    plog_set_end(log, offset);
    atomic_store(&log->durable, offset);
    plog_mark_dir_dirty(log); /* something to sync, so that the round runs and writes the mark */
    r = log_dir_sync_log(log->dir, log);
    if (r == 0 && marks_sync(log->dir->marks) < 0)
        log_dir_fail(log->dir, "fdatasync", errno);
    return r < 0 ? r : log_dir_checkpoint_wait(log->dir);
}

static void drop_snapshots_from(Plog *log, int64_t offset)
{
    PathBuf path;
    size_t kept = 0;

    for (size_t i = 0; i < ARRAY_SIZE(log->snapshot_offsets) && log->snapshot_offsets[i] >= 0; i++) {
        if (log->snapshot_offsets[i] > offset)
            (void)unlinkat(log->dir->fd, segment_path(log->name, log->snapshot_offsets[i], ".snapshot", &path), 0);
        else
            log->snapshot_offsets[kept++] = log->snapshot_offsets[i];
    }
    for (; kept < ARRAY_SIZE(log->snapshot_offsets); kept++)
        log->snapshot_offsets[kept] = -1;
}

int plog_truncate(Plog *log, int64_t offset)
{
    bool in_place = offset >= plog_durable_end(log);
    PlogSlice slice;
    size_t index;
    int r = plog_load_active(log);

    if (r < 0 || offset >= plog_end(log))
        return r;
    if (offset < plog_start(log))
        return PLOG_E_OUT_OF_RANGE;
    compact_cancel(log);
    r = plog_locate(log, offset, INT64_MAX, 1, true, &slice);
    if (r != 0)
        return r;
    r = index_builder_flush(&log->index, log->dir->fd, log->name, "", false);
    if (r == 0)
        r = lower_marks(log, offset);
    index = plog_segment_floor(log, offset);
    if (r == 0)
        r = plog_drop_segments(log, index + 1, log->n_segments);
    if (r == 0)
        r = cut_segment(log, log->segments[index], slice.position, in_place);
    if (r != 0)
        return r;
    epoch_cache_cut_end(&log->epochs, offset);
    drop_snapshots_from(log, offset);
    plog_forget_cursors(log);
    log->loaded = false;
    r = plog_load_active(log);
    if (r == 0)
        r = epoch_cache_write(&log->epochs, log->dir->fd, log->name);
    return r;
}
