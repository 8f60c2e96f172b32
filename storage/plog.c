/*
 * The log of one partition: opening, appending, rolling, closing. Reading is in read.c and time_lookup.c, what happens at
 * start in recover.c, what takes segments away in retain.c and compact.c.
 *
 * Appending. Batches of one call are checked and staged one by one (producer state, indexes and epochs already count
 * them), then written with one pwritev per segment. Space is reserved before a batch is staged, so a full disk shows
 * itself while nothing has changed. Should the write itself fail for want of space, the staged part is undone: scalars
 * of the index from a copy, producers by reading them again.
 *
 * Rolling costs no fsync: the old file is cut, its indexes and a producer snapshot are written to the page cache, the new
 * file is created or taken from the pool; the next sync round makes file, size and name durable before any offset in the
 * new segment is.
 *
 * Opening is lazy. plog_open after a clean stop reads names, sizes and the epoch file; plog_load_active, on the first append
 * or read near the end, loads the index and the producers and checks that the active file ends where it should.
 */

#include "storage/internal.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fs.h"
#include "base/hash.h"

#define WALK_IS_CHEAP (64 << 10)
#define HOT_MS 5000 /* two growth steps within this time: the log is busy and may take from the pool */

/* ---- segments of the log ------------------------------------------------------------------------------------------- */

int64_t plog_segment_end(const Plog *log, size_t index)
{
    assert(index < log->n_segments);
    return index + 1 < log->n_segments ? log->segments[index + 1]->base_offset : plog_end(log);
}

size_t plog_segment_floor(const Plog *log, int64_t offset)
{
    size_t low = 0, high = log->n_segments;

    if (high > 0 && log->segments[high - 1]->base_offset <= offset) /* reads at the tail */
        return high - 1;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (log->segments[middle]->base_offset <= offset)
            low = middle + 1;
        else
            high = middle;
    }
    return low == 0 ? 0 : low - 1;
}

int plog_add_segment(Plog *log, Segment *s)
{
    size_t i;

    if (log->n_segments == log->capacity_segments) {
        size_t capacity = log->capacity_segments == 0 ? 2 : log->capacity_segments * 2;
        Segment **segments = realloc(log->segments, capacity * sizeof(Segment *));
        if (!segments)
            return -ENOMEM;
        log->segments = segments;
        log->capacity_segments = capacity;
    }
    for (i = log->n_segments; i > 0 && log->segments[i - 1]->base_offset > s->base_offset; i--)
        log->segments[i] = log->segments[i - 1];
    log->segments[i] = s;
    log->n_segments++;
    return 0;
}

void plog_forget_cursors(Plog *log)
{
    for (size_t i = 0; i < PLOG_CURSORS; i++)
        log->cursors[i].offset = -1;
}

void plog_set_end(Plog *log, int64_t end_offset)
{
    atomic_store(&log->end, end_offset);
}

/* ---- rolling ------------------------------------------------------------------------------------------------------- */

/* Snapshots between segment bases shorten recovery; those no longer needed go. One at or below the durable end stays. */
int plog_snapshot_producers(Plog *log)
{
    int64_t end = plog_end(log), durable = plog_durable_end(log);
    size_t n = ARRAY_SIZE(log->snapshot_offsets), kept = 0, newest_durable = SIZE_MAX;
    PathBuf path;
    int r = producers_write_snapshot(&log->producers, log->dir->fd, log->name, end);

    if (r < 0)
        return r;
    for (size_t i = 0; i < n && log->snapshot_offsets[i] >= 0; i++)
        if (log->snapshot_offsets[i] <= durable)
            newest_durable = i;
    for (size_t i = 0; i < n && log->snapshot_offsets[i] >= 0; i++) {
        int64_t offset = log->snapshot_offsets[i];
        size_t floor = plog_segment_floor(log, offset);
        bool is_base = log->n_segments > 0 && log->segments[floor]->base_offset == offset;
        bool superseded = (newest_durable != SIZE_MAX && i < newest_durable) || kept + 1 == n;
        if (offset == end)
            continue;
        if (superseded && !is_base)
            (void)unlinkat(log->dir->fd, segment_path(log->name, offset, ".snapshot", &path), 0);
        if (!superseded)
            log->snapshot_offsets[kept++] = offset;
    }
    log->snapshot_offsets[kept++] = end;
    while (kept < n)
        log->snapshot_offsets[kept++] = -1;
    return 0;
}

/* Index files and a snapshot save the next start a walk. Over a few batches the walk is cheaper than three files, and a
 * node with thousands of small logs stops in a fraction of the time. */
static bool is_worth_files(const Plog *log)
{
    return log->n_segments > 1 || log->producers.n > 0 || plog_tail(log)->size > WALK_IS_CHEAP;
}

/* On a full disk the caches stay unwritten or cut short, which their readers notice; the log itself must be able to go on. */
static int write_caches(Plog *log, bool last)
{
    int r = 0;

    if (!last || is_worth_files(log)) {
        r = index_builder_flush(&log->index, log->dir->fd, log->name, "", true);
        if (r == 0)
            r = plog_snapshot_producers(log);
    }
    if (r == 0 && log->epochs.changed)
        r = epoch_cache_write(&log->epochs, log->dir->fd, log->name);
    return r == -ENOSPC || r == -EDQUOT ? 0 : r;
}

/* For the next round to sync. */
static int cut_to_roll(Plog *log, Segment *s)
{
    int r = segment_use(log, s);

    if (r == 0)
        r = plog_dirty_reserve(log);
    if (r == 0 && ftruncate(s->file->fd, s->size) < 0)
        r = -errno;
    if (r == 0)
        plog_mark_dirty(log, s);
    return r;
}

/* The syncfs of the clean stop covers it. A file that is closed does not enter the table, which is the owner's thread's. */
static int cut_to_seal(const Plog *log, const Segment *s)
{
    PathBuf path;
    _cleanup_(base_closep) int own = -1;

    if (!s->file)
        own = openat(log->dir->fd, segment_path(log->name, s->base_offset, ".log", &path), O_WRONLY | O_CLOEXEC | O_NOFOLLOW);
    if (!s->file && own < 0)
        return -errno;
    return ftruncate(s->file ? s->file->fd : own, s->size) < 0 ? -errno : 0;
}

/* Flushes its indexes, writes the producers, cuts the file. @last: a clean stop; the segment stays the active one. */
static int close_active(Plog *log, bool last)
{
    Segment *s = plog_tail(log);
    int r = 0;

    assert(log->loaded);
    if (s->allocated > s->size) {
        r = last ? cut_to_seal(log, s) : cut_to_roll(log, s);
        if (r < 0)
            return r;
        atomic_fetch_add(&log->dir->free_bytes, s->allocated - s->size);
        s->allocated = s->size;
        s->prewritten = 0;
    }
    s->max_timestamp = log->index.max_timestamp;
    s->max_timestamp_offset = log->index.max_timestamp_offset;
    s->index_checked = true;
    return write_caches(log, last);
}

/* Creates the file of a new segment, from the pool or empty. */
static int create_file(Plog *log, Segment *s, bool from_pool)
{
    PathBuf path;
    int r = 0;

    segment_path(log->name, s->base_offset, ".log", &path);
    if (from_pool) {
        r = pool_take(log->dir, log->config.segment_bytes, path.s, &s->prewritten);
        if (r < 0)
            return r;
        s->allocated = s->prewritten;
    }
    r = segment_open(s, r == 1 ? 0 : O_CREAT | O_EXCL);
    if (r < 0 && r != -EEXIST) /* whichever way it came into being: the next attempt begins anew */
        (void)unlinkat(log->dir->fd, path.s, 0);
    return r;
}

int plog_start_segment(Plog *log, int64_t base_offset, bool from_pool)
{
    Segment *s = segment_new(log, base_offset);
    PathBuf path;
    int r;

    if (!s)
        return -ENOMEM;
    assert(!plog_active(log) || plog_active(log)->base_offset < base_offset);
    r = plog_dirty_reserve(log);
    if (r == 0)
        r = create_file(log, s, from_pool);
    if (r == 0) {
        r = plog_add_segment(log, s);
        if (r < 0)
            (void)unlinkat(log->dir->fd, segment_path(log->name, base_offset, ".log", &path), 0);
    }
    if (r < 0) {
        segment_free(s);
        return r;
    }
    if (log->n_segments > PLOG_FDS_BEHIND + 1)
        segment_close(log->segments[log->n_segments - PLOG_FDS_BEHIND - 2]); /* a reader opens it again */
    s->used_ms = log->active_created_ms = clock_mono_ms();
    log->grown_ms = s->prewritten > 0 ? s->used_ms : 0;
    index_builder_reset(&log->index, base_offset);
    log->loaded = true;
    plog_mark_dir_dirty(log);
    return 0;
}

static int roll(Plog *log, bool from_pool)
{
    int r = close_active(log, false);
    return r < 0 ? r : plog_start_segment(log, plog_end(log), from_pool);
}

int plog_roll(Plog *log)
{
    const Segment *s;
    int r = plog_load_active(log);

    if (r < 0)
        return r;
    s = plog_active(log);
    return !s || s->size == 0 ? 0 : roll(log, false);
}

/* Whether the last growth step is recent: a busy log, worth a file of the pool. */
static bool is_hot(const Plog *log)
{
    return log->grown_ms != 0 && clock_mono_ms() - log->grown_ms < HOT_MS;
}

/* ---- appending ----------------------------------------------------------------------------------------------------- */

typedef struct Staged { /* batches not written yet, all for the active segment */
    struct iovec iov[PLOG_APPEND_IOV_MAX];
    size_t n, first; /* `first`: index in the call's array */
    int64_t bytes, end, records;
    bool lost; /* writing failed: [first, ..) are not in the log */
    IndexBuilder index_before;
} Staged;

static void staged_begin(Plog *log, Staged *st, size_t first)
{
    st->n = 0;
    st->first = first;
    st->bytes = st->records = 0;
    st->end = plog_end(log);
    st->lost = false;
    st->index_before = log->index;
}

/* What staged batches changed in the producers and the epochs, back to the end of the log. */
static void forget_unwritten(Plog *log)
{
    epoch_cache_cut_end(&log->epochs, plog_end(log));
    (void)plog_reload_producers(log, plog_end(log)); /* fails only with the disk: the next append sees it */
}

static void staged_undo(Plog *log, Staged *st)
{
    IndexBuilder *index = &log->index;

    st->n = 0;
    st->lost = true;
    index->n_offsets = st->index_before.n_offsets;
    index->n_times = st->index_before.n_times;
    index->bytes_since_entry = st->index_before.bytes_since_entry;
    index->max_timestamp = st->index_before.max_timestamp;
    index->max_timestamp_offset = st->index_before.max_timestamp_offset;
    forget_unwritten(log);
}

static int write_all(int fd, struct iovec *iov, size_t n, int64_t position)
{
    while (n > 0) {
        ssize_t w = pwritev(fd, iov, (int)n, position);
        if (w < 0) {
            if (errno == EINTR || errno == EAGAIN)
                continue;
            return errno == ENOSPC || errno == EDQUOT ? PLOG_E_NO_SPACE : -errno;
        }
        position += w;
        for (; n > 0 && (size_t)w >= iov->iov_len; iov++, n--)
            w -= (ssize_t)iov->iov_len;
        if (n > 0) {
            iov->iov_base = (char *)iov->iov_base + w;
            iov->iov_len -= (size_t)w;
        }
    }
    return 0;
}

static int storage_failed(Plog *log, const char *what, int r)
{
    log_dir_note_failure(log->dir, what, -r);
    return -EIO;
}

/* After this the batches are in the log: visible to readers, known to the sync thread. */
static void staged_publish(Plog *log, const Staged *st)
{
    Segment *s = plog_tail(log);

    s->size += st->bytes;
    log->size_bytes += st->bytes;
    log->records_since_sync += st->records;
    plog_mark_dirty(log, s);
    atomic_fetch_add(&log->appended, st->bytes);
    atomic_fetch_add(&log->dir->appended_bytes, st->bytes);
    plog_set_end(log, st->end); /* last: sync.c relies on the order */
}

static int staged_write(Plog *log, Staged *st)
{
    Segment *s = plog_tail(log);
    int r;

    if (st->n == 0)
        return 0;
    r = write_all(s->file->fd, st->iov, st->n, s->size);
    if (LIKELY(r == 0)) {
        staged_publish(log, st);
        st->n = 0;
        return 0;
    }
    if (r < 0 && r != -ENOMEM) /* no page for the cache says nothing about the disk */
        r = storage_failed(log, "pwritev", r);
    else if (ftruncate(s->file->fd, s->size) < 0) /* nothing half-written stays behind */
        r = storage_failed(log, "ftruncate", -errno);
    else
        s->allocated = s->size;
    staged_undo(log, st); /* last: it may open so many files that this one is closed */
    return r;
}

/* segment.ms less a part of segment.jitter.ms that name and offset choose: logs made together do not all close together. */
int64_t plog_active_age_max_ms(const Plog *log)
{
    const PlogConfig *c = &log->config;
    int64_t age = c->cleanup_compact ? MIN(c->segment_ms, c->max_compaction_lag_ms) : c->segment_ms;
    uint64_t jitter = (uint64_t)MIN(c->segment_jitter_ms, age), seed[2];

    if (LIKELY(jitter == 0)) /* the default; every append asks */
        return age;
    seed[0] = hash64(log->name, strlen(log->name));
    seed[1] = (uint64_t)plog_tail(log)->base_offset;
    return age - (int64_t)(hash64(seed, sizeof(seed)) % jitter);
}

/* Whether the batch has to begin a new segment. */
static bool is_full(const Plog *log, const Staged *st, const PlogAppend *a)
{
    const Segment *s = plog_tail(log);
    const PlogConfig *c = &log->config;
    const BatchHeader *h = a->header;
    int64_t index_max = MAX(c->segment_index_bytes / TIMEINDEX_ENTRY_SIZE, 1);
    int64_t base = a->keep_offset ? h->base_offset : st->end;

    if (s->size + st->bytes == 0)
        return false;
    if (s->size + st->bytes + (int64_t)a->size > c->segment_bytes || (int64_t)log->index.n_offsets >= index_max)
        return true;
    if (base + h->last_offset_delta - s->base_offset > SEGMENT_OFFSETS_MAX)
        return true;
    if (s->first_timestamp >= 0 && h->max_timestamp >= 0)
        return h->max_timestamp - s->first_timestamp >= plog_active_age_max_ms(log);
    return clock_mono_ms() - log->active_created_ms >= plog_active_age_max_ms(log);
}

/* Whether the space ahead is used up while the pool can offer more: then a new segment is cheaper than growing this one. */
static bool should_roll_into_pool(Plog *log, const Staged *st, size_t size)
{
    const Segment *s = plog_tail(log);

    return s->size + st->bytes + (int64_t)size > s->allocated && s->size + st->bytes > 0 && is_hot(log) &&
           pool_has(log->dir, log->config.segment_bytes);
}

static int reserve(Plog *log, const Staged *st, size_t size)
{
    Segment *s = plog_tail(log);

    if (LIKELY(s->size + st->bytes + (int64_t)size <= s->allocated))
        return 0;
    log->grown_ms = clock_mono_ms();
    return segment_reserve(log, s, st->bytes + (int64_t)size);
}

static int stage(Plog *log, Staged *st, const PlogAppend *a)
{
    Segment *s = plog_tail(log);
    BatchHeader h = *a->header;
    int r;

    if (!a->keep_offset) {
        h.base_offset = st->end;
        h.leader_epoch = a->leader_epoch;
    }
    if (s->size + st->bytes == 0)
        s->first_timestamp = h.max_timestamp;
    r = epoch_cache_assign(&log->epochs, h.leader_epoch, h.base_offset);
    if (r == 0)
        r = producers_update(&log->producers, &h);
    if (r == 0)
        r = index_builder_add(&log->index, &h, s->size + st->bytes, log->config.index_interval_bytes);
    if (r < 0)
        return r;
    batch_set_base_offset(a->batch, h.base_offset);
    batch_set_leader_epoch(a->batch, h.leader_epoch);
    st->iov[st->n++] = (struct iovec){a->batch, a->size};
    st->bytes += (int64_t)a->size;
    st->records += h.records_count;
    st->end = batch_last_offset(&h) + 1;
    return 0;
}

static int check_batch(const Plog *log, const Staged *st, const PlogAppend *a, int64_t *ret_offset)
{
    if ((int64_t)a->size > log->config.segment_bytes)
        return PLOG_E_TOO_LARGE;
    if (log_dir_refuses(log->dir, log->config.internal, a->from_client))
        return PLOG_E_NO_SPACE;
    if (a->keep_offset && a->header->base_offset < st->end)
        return PLOG_E_OUT_OF_RANGE;
    if (a->from_client && !(a->header->attributes & BATCH_ATTR_CONTROL))
        return producers_check(&log->producers, a->header, ret_offset);
    return 0;
}

/* Writes what is staged; then the active segment has room for one more batch, a new segment if need be. */
static int make_way(Plog *log, Staged *st, const PlogAppend *a, size_t index)
{
    bool full = is_full(log, st, a), pool = !full && should_roll_into_pool(log, st, a->size);
    int r;

    if (!full && !pool && st->n < PLOG_APPEND_IOV_MAX)
        return reserve(log, st, a->size);
    r = staged_write(log, st);
    if (r == 0 && (full || pool))
        r = roll(log, pool || is_hot(log));
    if (r != 0)
        return r;
    staged_begin(log, st, index);
    return reserve(log, st, a->size);
}

static int append_one(Plog *log, Staged *st, const PlogAppend *a, size_t index, int64_t *ret_offset)
{
    int r = check_batch(log, st, a, ret_offset);

    if (r == 0)
        r = make_way(log, st, a, index);
    if (r == 0)
        r = stage(log, st, a);
    if (r == 0)
        *ret_offset = st->end - 1 - a->header->last_offset_delta;
    return r;
}

/*
 * What nobody waits for (flush.messages > 1) is synced by count, by flush.ms, every 5 s, and when a directory has gathered 1 GiB:
 * recovery reads no more than that. Syncing every 64 MiB of each log instead halved the rate of a burst.
 */
static void ask_for_sync(Plog *log)
{
    int64_t unasked = atomic_load(&log->appended) - atomic_load(&log->sync_asked_bytes);
    int64_t unsynced = atomic_load(&log->dir->appended_bytes) - atomic_load(&log->dir->synced_bytes);
    bool by_count = log->config.flush_messages > 1 && log->records_since_sync >= log->config.flush_messages;

    if (by_count || (unsynced >= PLOG_UNSYNCED_MAX && unasked >= PLOG_UNSYNCED_STEP)) {
        log->records_since_sync = 0;
        log_dir_want_sync(log->dir, log);
    }
}

int plog_append(Plog *log, PlogAppend *batches, size_t n, int64_t *ret_offset, size_t *ret_done)
{
    Staged st;
    size_t i;
    int r = plog_load_active(log), w;

    *ret_done = 0;
    if (r == 0 && !plog_active(log))
        r = plog_start_segment(log, plog_end(log), false);
    if (r == 0)
        r = segment_use(log, plog_tail(log));
    if (r == 0)
        r = plog_dirty_reserve(log);
    if (r < 0)
        return r;
    staged_begin(log, &st, 0);
    for (i = 0; i < n; i++) {
        r = append_one(log, &st, &batches[i], i, &ret_offset[i]);
        if (r != 0)
            break;
    }
    w = staged_write(log, &st);
    *ret_done = st.lost ? st.first : i;
    if (r == -ENOMEM)
        forget_unwritten(log);
    ask_for_sync(log);
    if (atomic_load(&log->appended) - log->checkpoint_at_bytes >= PLOG_CHECKPOINT_BYTES)
        (void)plog_checkpoint(log); /* shortens the next recovery, nothing else */
    return w != 0 ? w : r;
}

int plog_assign_epoch(Plog *log, int32_t epoch)
{
    int r = epoch_cache_assign(&log->epochs, epoch, plog_end(log));

    if (r == 0 && log->epochs.changed)
        r = epoch_cache_write(&log->epochs, log->dir->fd, log->name);
    return r;
}

/* ---- checkpoints of one log ---------------------------------------------------------------------------------------- */

int plog_checkpoint(Plog *log)
{
    int r = 0;

    log->checkpoint_ms = clock_mono_ms();
    log->checkpoint_at_bytes = atomic_load(&log->appended);
    if (!log->loaded || !plog_active(log) || log->checkpoint_offset == plog_end(log))
        return 0;
    r = index_builder_flush(&log->index, log->dir->fd, log->name, "", false);
    if (r == 0)
        r = plog_snapshot_producers(log);
    if (r == 0 && log->epochs.changed)
        r = epoch_cache_write(&log->epochs, log->dir->fd, log->name);
    if (r == 0)
        log->checkpoint_offset = plog_end(log);
    return r;
}

/* ---- opening and closing ------------------------------------------------------------------------------------------- */

static void free_log(Plog *log)
{
    for (size_t i = 0; i < log->n_segments; i++)
        segment_free(log->segments[i]);
    free(log->segments);
    index_builder_deinit(&log->index);
    producers_deinit(&log->producers);
    epoch_cache_deinit(&log->epochs);
    for (size_t i = 0; i < log->n_dirty; i++)
        seg_file_unref(log->dirty[i]);
    free(log->dirty);
    free(log->damage);
    free(log);
}

/* The folder with its partition.metadata; a log that nobody made before is made here. */
static int prepare_folder(Plog *log, char *why, size_t why_size)
{
    Uuid on_disk = {0};
    bool created = false;
    int r = partition_metadata_read(log->dir->fd, log->name, &on_disk);

    if (r == -ENOENT) {
        r = log_dir_create_log(log->dir, &log->id);
        on_disk = log->id.topic_id;
        created = true;
    }
    if (r == 0 && created && syncfs(log->dir->fd) < 0)
        log_dir_fail(log->dir, "syncfs", errno);
    if (r == 0 && uuid_is_zero(&log->id.topic_id))
        log->id.topic_id = on_disk;
    if (r == 0 && !uuid_equal(&on_disk, &log->id.topic_id))
        r = -ESTALE;
    if (r < 0)
        (void)snprintf(why, why_size, "%s: %s", log->name,
                       r == -ESTALE ? "the folder belongs to another topic id" : strerror(-r));
    return r;
}

static int open_steps(Plog *log, char *why, size_t why_size)
{
    int r = prepare_folder(log, why, why_size);

    if (r < 0)
        return r;
    r = log_dir_attach(log->dir, log);
    if (r == 0)
        r = recover_open(log, why, why_size);
    else
        (void)snprintf(why, why_size, "%s: %s", log->name, strerror(-r));
    return r;
}

int plog_open(LogDir *dir, const PlogId *id, const PlogConfig *config, Plog **ret, char *ret_why, size_t why_size)
{
    Plog *log = calloc(1, sizeof(*log));
    int r;

    if (!log)
        return -ENOMEM;
    log->dir = dir;
    log->id = *id;
    list_init(&log->in_dir);
    list_init(&log->in_waiting);
    plog_forget_cursors(log);
    memset(log->snapshot_offsets, 0xff, sizeof(log->snapshot_offsets));
    log->checkpoint_offset = -1;
    atomic_init(&log->high_watermark, -1);
    atomic_init(&log->cleaned_to, -1);
    (void)snprintf(log->name, sizeof(log->name), "%s-%" PRId32, id->topic, id->partition);
    plog_set_config(log, config);
    if (!topic_name_is_valid(id->topic, strnlen(id->topic, sizeof(id->topic))) || id->partition < 0) {
        (void)snprintf(ret_why, why_size, "not a topic name or partition");
        r = -EINVAL;
    } else {
        r = open_steps(log, ret_why, why_size);
    }
    if (r < 0) {
        if (log->entry)
            log_dir_detach(dir, log, false);
        free_log(log);
        return r;
    }
    *ret = log;
    return 0;
}

int plog_seal(Plog *log)
{
    int r = 0;

    if (log->sealed)
        return 0;
    if (plog_durable_end(log) != plog_end(log))
        r = log_dir_sync_log(log->dir, log);
    if (r == 0 && log->loaded && plog_active(log))
        r = close_active(log, true);
    else if (r == 0 && log->epochs.changed)
        r = epoch_cache_write(&log->epochs, log->dir->fd, log->name);
    if (r == -EIO)
        log_dir_fail(log->dir, "closing a log", EIO);
    log->sealed = r == 0;
    return r;
}

Plog *plog_close(Plog *log)
{
    if (!log)
        return NULL;
    compact_cancel(log);
    (void)plog_seal(log); /* an error (no space for an index) costs the next start a scan: the end is durable and checkpointed */
    log_dir_detach(log->dir, log, true);
    free_log(log);
    return NULL;
}

int plog_delete(Plog *log)
{
    LogDir *dir = log->dir;
    char folder[FOLDER_NAME_MAX];
    int r;

    compact_cancel(log);
    r = log_dir_rename_folder(dir, log->name, "delete", folder);
    if (r < 0) {
        plog_close(log);
        return r;
    }
    log_dir_detach(dir, log, false);
    log_dir_forget(dir, log->entry);
    log_dir_delete_later(dir, folder, log->config.file_delete_delay_ms, NULL);
    free_log(log);
    return 0;
}

void plog_set_config(Plog *log, const PlogConfig *config)
{
    log->config = *config;
    log->config.segment_bytes = MIN(MAX(config->segment_bytes, (int64_t)BATCH_HEADER_SIZE), (int64_t)INT32_MAX);
    log->config.index_interval_bytes = MAX(config->index_interval_bytes, 0);
    pthread_mutex_lock(&log->dir->mutex);
    log->flush_ms = config->flush_ms;
    if (config->flush_ms / 2 < log->dir->tick_ms) {
        log->dir->tick_ms = MAX((int64_t)10, config->flush_ms / 2);
        pthread_cond_signal(&log->dir->wake_sync);
    }
    pthread_mutex_unlock(&log->dir->mutex);
}

/* ---- small ones ---------------------------------------------------------------------------------------------------- */

const PlogId *plog_id(const Plog *log)
{
    return &log->id;
}

int64_t plog_start(const Plog *log)
{
    return atomic_load_explicit(&log->start, memory_order_relaxed);
}

int64_t plog_end(const Plog *log)
{
    return atomic_load_explicit(&log->end, memory_order_relaxed); /* the owner's own */
}

int64_t plog_durable_end(const Plog *log)
{
    return atomic_load(&log->durable);
}

int64_t plog_size(const Plog *log)
{
    return log->size_bytes;
}

size_t plog_segments(const Plog *log)
{
    return log->n_segments;
}

bool plog_is_damaged(const Plog *log)
{
    return log->n_damage > 0;
}

int32_t plog_last_epoch(const Plog *log)
{
    return epoch_cache_last(&log->epochs);
}

int32_t plog_epoch_at(const Plog *log, int64_t offset)
{
    return offset < plog_start(log) || offset >= plog_end(log) ? -1 : epoch_cache_at(&log->epochs, offset);
}

void plog_end_for_epoch(const Plog *log, int32_t epoch, int32_t *ret_epoch, int64_t *ret_end)
{
    epoch_cache_end_for(&log->epochs, epoch, plog_end(log), ret_epoch, ret_end);
}

size_t plog_producers(const Plog *log, PlogProducer *ret, size_t n_max)
{
    size_t n = MIN(log->producers.n, n_max);

    for (size_t i = 0; i < n; i++) {
        const ProducerState *s = &log->producers.states[i];
        const ProducerBatch *last = s->n == 0 ? NULL : &s->window[s->n - 1];
        ret[i] = (PlogProducer){.producer_id = s->producer_id,
                                .epoch = s->epoch,
                                .last_sequence = last ? last->last_sequence : -1,
                                .last_offset = last ? last->last_offset : -1,
                                .last_timestamp = s->last_timestamp};
    }
    return log->producers.n;
}

void plog_expire_producers(Plog *log, int64_t now_ms, int64_t expiration_ms)
{
    if (log->loaded && now_ms != INT64_MIN && expiration_ms <= now_ms)
        producers_expire(&log->producers, now_ms - expiration_ms);
}
