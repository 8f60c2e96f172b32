/*
 * Opening a log that is on disk.
 *
 * 1. The names: segments with their sizes, snapshots; left-overs of a crash are finished or undone. `.deleted` and
 *    `.cleaned` files go; a `.log.swap` is a complete result of compaction whose renames were cut short, so they are done
 *    now (compact.c says why each step can be repeated).
 * 2. After a clean stop the recovery point is the end of the log, and that is all: no file of the log but its epochs is read.
 *    plog_load_active() checks the active segment when somebody needs it.
 * 3. Else recover_scan(): headers from the newest usable producer snapshot, CRCs from the recovery point, against the
 *    durable mark.
 */

#include "storage/internal.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fs.h"

/* ---- names --------------------------------------------------------------------------------------------------------- */

typedef struct Bases {
    int64_t *v;
    size_t n;
} Bases;

typedef struct Names {
    Bases swaps;        /* of .log.swap files */
    Bases index_swaps;  /* of .index.swap and .timeindex.swap files */
} Names;

static DIR *open_folder(Plog *log)
{
    int fd = openat(log->dir->fd, log->name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *d = fd < 0 ? NULL : fdopendir(fd);
    if (!d && fd >= 0)
        close(fd);
    return d;
}

static bool ends_with(const char *name, const char *suffix)
{
    size_t n = strlen(name), m = strlen(suffix);
    return n >= m && strcmp(name + n - m, suffix) == 0;
}

static int add_file(Plog *log, int64_t base)
{
    struct stat st;
    PathBuf path;
    Segment *s;
    int r;

    if (fstatat(log->dir->fd, segment_path(log->name, base, ".log", &path), &st, AT_SYMLINK_NOFOLLOW) < 0)
        return -errno;
    if (!S_ISREG(st.st_mode))
        return -EINVAL;
    s = segment_new(log, base);
    if (!s)
        return -ENOMEM;
    s->size = s->allocated = s->verified_from = st.st_size;
    s->leased_ever = (st.st_mode & S_ISVTX) != 0;
    r = plog_add_segment(log, s);
    if (r < 0)
        segment_free(s);
    else
        log->size_bytes += s->size;
    return r;
}

static int add_base(Bases *bases, int64_t base)
{
    int64_t *v = realloc(bases->v, (bases->n + 1) * sizeof(*v));
    if (!v)
        return -ENOMEM;
    bases->v = v;
    v[bases->n++] = base;
    return 0;
}

static int take_name(Plog *log, const char *name, Names *names)
{
    char path[600];
    const char *suffix;
    int64_t base;

    (void)snprintf(path, sizeof(path), "%s/%s", log->name, name);
    if (ends_with(name, ".deleted")) {
        log_dir_delete_later(log->dir, path, 0, NULL);
        return 0;
    }
    if (ends_with(name, ".cleaned") || ends_with(name, ".tmp")) {
        (void)unlinkat(log->dir->fd, path, 0);
        return 0;
    }
    if (!segment_name_parse(name, &base, &suffix))
        return 0;
    if (strcmp(suffix, ".log") == 0)
        return add_file(log, base);
    if (strcmp(suffix, ".log.swap") == 0)
        return add_base(&names->swaps, base);
    if (ends_with(suffix, ".swap"))
        return add_base(&names->index_swaps, base);
    return 0;
}

static int list_files(Plog *log, Names *names)
{
    DIR *d = open_folder(log);
    struct dirent *e;
    int r = 0;

    if (!d)
        return -errno;
    while (r == 0 && (errno = 0, e = readdir(d)) != NULL)
        r = take_name(log, e->d_name, names);
    if (r == 0 && errno != 0)
        r = -errno;
    closedir(d);
    return r;
}

/* ---- swaps --------------------------------------------------------------------------------------------------------- */

/* Offset behind the last batch of a finished compaction's file. */
static int swap_end(Plog *log, int64_t base, int64_t *ret_end)
{
    _cleanup_(base_closep) int fd = -1;
    _cleanup_(base_freep) uint8_t *memory = malloc(SEG_WALK_LARGE);
    int64_t position = 0;
    struct stat st;
    BatchHeader h;
    PathBuf path;
    SegWalk w;
    int r;

    if (!memory)
        return -ENOMEM;
    fd = openat(log->dir->fd, segment_path(log->name, base, ".log.swap", &path), O_RDONLY | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &st) < 0)
        return -errno;
    w = SEG_WALK(fd, st.st_size, memory, SEG_WALK_LARGE);
    *ret_end = base + 1;
    while ((r = seg_walk_header(&w, position, &h)) == 1) {
        *ret_end = batch_last_offset(&h) + 1;
        position += (int64_t)batch_total_size(&h);
    }
    return r;
}

static int rename_suffix(Plog *log, int64_t base, const char *from, const char *to)
{
    PathBuf a, b;
    if (renameat(log->dir->fd, segment_path(log->name, base, from, &a), log->dir->fd,
                 segment_path(log->name, base, to, &b)) < 0)
        return -errno;
    return 0;
}

static int finish_swap(Plog *log, int64_t base)
{
    int64_t end;
    size_t from = 0, to;
    int r = swap_end(log, base, &end);

    if (r < 0)
        return r;
    while (from < log->n_segments && log->segments[from]->base_offset < base)
        from++;
    for (to = from; to < log->n_segments && log->segments[to]->base_offset < end;)
        to++;
    r = plog_drop_segments(log, from, to);
    if (r < 0)
        return r;
    (void)rename_suffix(log, base, ".index.swap", ".index"); /* caches: rebuilt when missing */
    (void)rename_suffix(log, base, ".timeindex.swap", ".timeindex");
    r = rename_suffix(log, base, ".log.swap", ".log");
    return r < 0 ? r : add_file(log, base);
}

static int list_and_repair(Plog *log)
{
    Names names = {0};
    PathBuf path;
    int r = list_files(log, &names);

    for (size_t i = 0; r == 0 && i < names.swaps.n; i++)
        r = finish_swap(log, names.swaps.v[i]);
    if (names.swaps.n > 0 && r == 0)
        plog_mark_dir_dirty(log);
    for (size_t i = 0; r == 0 && i < names.index_swaps.n; i++) { /* whose .log was not renamed yet: undone */
        (void)unlinkat(log->dir->fd, segment_path(log->name, names.index_swaps.v[i], ".index.swap", &path), 0);
        (void)unlinkat(log->dir->fd, segment_path(log->name, names.index_swaps.v[i], ".timeindex.swap", &path), 0);
    }
    free(names.swaps.v);
    free(names.index_swaps.v);
    return r;
}

/* ---- snapshots ----------------------------------------------------------------------------------------------------- */

static int newer_first(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return x > y ? -1 : x < y;
}

static int list_snapshots(Plog *log, int64_t **ret, size_t *ret_n)
{
    DIR *d = open_folder(log);
    int64_t *offsets = NULL, offset;
    const char *suffix;
    size_t n = 0;
    struct dirent *e;

    if (!d)
        return -errno;
    while ((e = readdir(d)) != NULL) {
        int64_t *grown;
        if (!segment_name_parse(e->d_name, &offset, &suffix) || strcmp(suffix, ".snapshot") != 0)
            continue;
        grown = realloc(offsets, (n + 1) * sizeof(*offsets));
        if (!grown) {
            free(offsets);
            closedir(d);
            return -ENOMEM;
        }
        offsets = grown;
        offsets[n++] = offset;
    }
    closedir(d);
    if (n > 0)
        qsort(offsets, n, sizeof(*offsets), newer_first);
    *ret = offsets;
    *ret_n = n;
    return 0;
}

int recover_load_snapshot(Plog *log, int64_t offset, int64_t *ret_offset)
{
    int64_t *offsets = NULL;
    size_t n = 0;
    int r = list_snapshots(log, &offsets, &n);

    producers_clear(&log->producers);
    *ret_offset = -1;
    for (size_t i = 0; r == 0 && i < n && *ret_offset < 0; i++) {
        if (offsets[i] > offset)
            continue;
        r = producers_read_snapshot(&log->producers, log->dir->fd, log->name, offsets[i]);
        if (r == 0)
            *ret_offset = offsets[i];
        else if (r == -EBADMSG || r == -ENOENT || r == -EFBIG)
            r = 0; /* torn: the one before serves, with a longer walk */
    }
    free(offsets);
    return r;
}

/* The state at `end`: what lies behind it never happened, and of what lies between segments the newest few are kept. */
static int sort_out_snapshots(Plog *log, int64_t end)
{
    int64_t *offsets = NULL;
    size_t n = 0, kept = 0, max = ARRAY_SIZE(log->snapshot_offsets);
    PathBuf path;
    int r = list_snapshots(log, &offsets, &n);

    for (size_t i = 0; r == 0 && i < n; i++) {
        size_t floor = plog_segment_floor(log, offsets[i]);
        bool is_base = log->n_segments > 0 && log->segments[floor]->base_offset == offsets[i];
        if (offsets[i] <= end && kept < max - 1)
            log->snapshot_offsets[kept++] = offsets[i];
        else if (offsets[i] > end || !is_base)
            (void)unlinkat(log->dir->fd, segment_path(log->name, offsets[i], ".snapshot", &path), 0);
    }
    for (size_t i = 0; i < kept / 2; i++) { /* oldest first */
        int64_t swap = log->snapshot_offsets[i];
        log->snapshot_offsets[i] = log->snapshot_offsets[kept - 1 - i];
        log->snapshot_offsets[kept - 1 - i] = swap;
    }
    free(offsets);
    return r;
}

/* ---- opening ------------------------------------------------------------------------------------------------------- */

static void set_bounds(Plog *log, int64_t start, int64_t end, int64_t durable)
{
    assert(start <= durable && durable <= end);
    atomic_store(&log->start, start);
    atomic_store(&log->durable, durable);
    plog_set_end(log, end);
}

static int64_t start_of(const Plog *log)
{
    int64_t first = log->n_segments > 0 ? log->segments[0]->base_offset : 0;
    return MAX(log->entry->start, first);
}

static void note_suspect(LogDir *dir)
{
    pthread_mutex_lock(&dir->mutex);
    dir->state = LOG_DIR_SUSPECT;
    pthread_mutex_unlock(&dir->mutex);
}

/* A log without segments: new, or everything was deleted up to its end, or lost. */
static int open_empty(Plog *log)
{
    int64_t start = MAX(log->entry->start, 0), end = MAX(MAX(log->entry->recovery_point, log->mark_at_open), start);

    set_bounds(log, start, end, end);
    log->loaded = true;
    if (start < end) {
        Damage d = {.first_offset = start, .next_offset = end};
        note_suspect(log->dir);
        return damage_add(log, &d);
    }
    return 0;
}

/* Whether a clean stop can be believed without a look into the segments. */
static bool is_clean(const Plog *log, bool epochs_known)
{
    int64_t end = log->entry->recovery_point;
    return log->entry->clean && epochs_known && end >= 0 && end >= plog_tail(log)->base_offset && end >= start_of(log);
}

/* Everything from the durable end on goes through one more round before it counts. */
static int queue_sync(Plog *log)
{
    int r = 0;

    for (size_t i = plog_segment_floor(log, plog_durable_end(log)); r == 0 && i < log->n_segments; i++) {
        r = plog_dirty_reserve(log);
        if (r == 0)
            r = segment_use(log, log->segments[i]);
        if (r == 0)
            plog_mark_dirty(log, log->segments[i]);
    }
    plog_mark_dir_dirty(log);
    pthread_mutex_lock(&log->dir->mutex);
    log->unsettled = false; /* all its files are known to the thread */
    log_dir_want_sync_locked(log->dir, log);
    pthread_mutex_unlock(&log->dir->mutex);
    return r;
}

static void set_unsettled(Plog *log, bool unsettled)
{
    pthread_mutex_lock(&log->dir->mutex);
    while (log->in_round)
        pthread_cond_wait(&log->dir->progress, &log->dir->mutex);
    log->unsettled = unsettled;
    pthread_mutex_unlock(&log->dir->mutex);
}

static int open_by_scan(Plog *log, bool epochs_known)
{
    int64_t start = start_of(log), point = log->entry->recovery_point, mark = log->mark_at_open, snapshot, end;
    RecoverPlan plan = {.suspect = log->dir->flag_found};
    int r;

    if (log->entry->clean)
        mark = MAX(mark, point);
    plan.verify = MAX(point, log->segments[0]->base_offset);
    plan.mark = MAX(mark, plan.verify);
    if (point < 0 && mark < 0)
        plan.mark = log->segments[0]->base_offset;
    r = recover_load_snapshot(log, plan.verify, &snapshot);
    if (r < 0)
        return r;
    plan.from = MAX(snapshot, log->segments[0]->base_offset);
    if (!epochs_known)
        plan.from = log->segments[0]->base_offset;
    plan.producers_from = MAX(snapshot, log->segments[0]->base_offset);
    plog_set_end(log, INT64_MAX);
    r = recover_scan(log, &plan);
    if (r < 0)
        return r;
    end = MAX(plog_end(log), start);
    if (plan.mark > end) { /* acknowledged records are missing at the end: their offsets are never given again */
        Damage d = {.first_offset = end, .next_offset = plan.mark, .segment_base = plog_tail(log)->base_offset,
                    .position = plog_tail(log)->size, .end_position = plog_tail(log)->size};
        r = damage_add(log, &d);
        end = plan.mark;
        note_suspect(log->dir);
    }
    set_bounds(log, start, end, MAX(MIN(plan.mark, end), start));
    if (r == 0)
        r = sort_out_snapshots(log, end);
    if (r == 0)
        r = queue_sync(log);
    return r;
}

int recover_open(Plog *log, char *why, size_t why_size)
{
    bool epochs_known;
    int r = list_and_repair(log);

    if (r == 0)
        r = damage_read(log);
    if (r == 0) {
        r = epoch_cache_read(&log->epochs, log->dir->fd, log->name);
        epochs_known = r == 0;
        atomic_store(&log->high_watermark, log->entry->high_watermark);
        atomic_store(&log->cleaned_to, log->entry->cleaned_to);
        if (r < 0 && r != -ENOENT && r != -EBADMSG)
            ;
        else if (log->n_segments == 0)
            r = open_empty(log);
        else if (is_clean(log, epochs_known)) {
            set_bounds(log, start_of(log), log->entry->recovery_point, log->entry->recovery_point);
            /* For plog_producers(); appending loads them again, with a walk if this one is torn. */
            (void)producers_read_snapshot(&log->producers, log->dir->fd, log->name, plog_end(log));
            r = 0;
        } else {
            r = open_by_scan(log, epochs_known);
        }
    }
    if (r == 0) {
        epoch_cache_cut_start(&log->epochs, plog_start(log));
        pthread_mutex_lock(&log->dir->mutex);
        log->entry->recovered = true;
        log->entry->clean = false;
        log->unsettled = false;
        pthread_mutex_unlock(&log->dir->mutex);
        log->checkpoint_offset = -1;
        log->checkpoint_ms = log->active_created_ms = clock_mono_ms();
    } else {
        (void)snprintf(why, why_size, "%s: %s", log->name, strerror(-r));
    }
    return r;
}

/* ---- lazy part ----------------------------------------------------------------------------------------------------- */

int plog_reload_producers(Plog *log, int64_t end_offset)
{
    int64_t snapshot;
    int r = recover_load_snapshot(log, end_offset, &snapshot);

    if (r == 0 && snapshot != end_offset)
        r = recover_walk_producers(log, MAX(snapshot, 0), end_offset);
    return r;
}

/* The last time entry stands for the greatest timestamp of all that is not walked. */
static bool last_time_holds(const Plog *log, SegWalk *w)
{
    const IndexBuilder *b = &log->index;
    IndexEntry before = {0};

    if (b->n_times == 0)
        return true;
    if (!index_builder_find(b, b->base_offset + b->times[b->n_times - 1].relative_offset, INT64_MAX, &before))
        before.position = 0;
    return timeindex_entry_holds(w, before.position, b->base_offset, &b->times[b->n_times - 1]);
}

/* Walks from the last index entry to the end of the file. Return: whether the log ends there, as the clean stop said. */
static int active_ends_well(Plog *log, Segment *s)
{
    _cleanup_(base_freep) uint8_t *memory = malloc(SEG_WALK_LARGE);
    int64_t position = 0, expected = s->base_offset;
    BatchHeader h;
    SegWalk w;
    int r;

    if (!memory)
        return -ENOMEM;
    w = SEG_WALK(s->file->fd, s->size, memory, SEG_WALK_SMALL);
    if (seg_walk_header(&w, 0, &h) == 1)
        s->first_timestamp = h.max_timestamp;
    if (log->index.n_offsets > 0) {
        const IndexEntry *e = &log->index.offsets[log->index.n_offsets - 1];
        position = e->position;
        if (seg_walk_header(&w, position, &h) != 1 || batch_last_offset(&h) != s->base_offset + e->relative_offset)
            return 0;
        expected = h.base_offset;
        log->index.bytes_since_entry = 0;
        if (!last_time_holds(log, &w))
            return 0;
    }
    w.capacity = SEG_WALK_LARGE;
    while ((r = seg_walk_header(&w, position, &h)) == 1 && h.base_offset >= expected &&
           batch_last_offset(&h) - s->base_offset <= SEGMENT_OFFSETS_MAX) {
        r = index_builder_add(&log->index, &h, position, log->config.index_interval_bytes);
        if (r < 0)
            return r;
        expected = batch_last_offset(&h) + 1;
        position += (int64_t)batch_total_size(&h);
    }
    if (r < 0 && r != -EBADMSG)
        return r;
    return position == s->size && (expected == plog_end(log) || damage_at(log, expected) != NULL || s->size == 0);
}

static int scan_active(Plog *log)
{
    Segment *s = plog_tail(log);
    RecoverPlan plan = {.from = s->base_offset, .verify = s->base_offset, .mark = plog_end(log)};
    int64_t end = plog_end(log), snapshot;
    int r = recover_load_snapshot(log, s->base_offset, &snapshot);

    if (r < 0)
        return r;
    plan.producers_from = MAX(snapshot, log->segments[0]->base_offset);
    plan.from = MIN(plan.from, plan.producers_from);
    set_unsettled(log, true);
    plog_set_end(log, INT64_MAX);
    r = recover_scan(log, &plan);
    if (r == 0 && plog_end(log) < end) {
        Damage d = {.first_offset = plog_end(log), .next_offset = end, .segment_base = plog_tail(log)->base_offset,
                    .position = plog_tail(log)->size, .end_position = plog_tail(log)->size};
        r = damage_add(log, &d);
        note_suspect(log->dir);
    }
    plog_set_end(log, end);
    set_unsettled(log, false);
    if (r == 0)
        r = queue_sync(log);
    return r;
}

int plog_load_active(Plog *log)
{
    Segment *s = plog_active(log);
    int r;

    if (LIKELY(log->loaded))
        return 0;
    if (!s) {
        log->loaded = true;
        return 0;
    }
    r = segment_use(log, s);
    if (r < 0)
        return r;
    log->index.base_offset = s->base_offset;
    r = index_builder_load(&log->index, log->dir->fd, log->name, s->size);
    if (r < 0)
        return r;
    r = active_ends_well(log, s);
    if (r == 0) {
        r = scan_active(log);
    } else if (r == 1) {
        r = plog_reload_producers(log, plog_end(log));
        if (r == 0)
            r = sort_out_snapshots(log, plog_end(log));
    }
    log->loaded = r == 0;
    return r;
}
