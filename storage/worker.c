/*
 * The worker: what may wait and must not stop an owner. Checkpoint files, deletes whose delay has passed, the free space, and
 * in idle time the pool. One thread per directory; it asks for nothing and holds the mutex only to take its next job.
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

#define TICK_MS         1000
#define POOL_TICK_MS    250
#define IDLE_BYTES      (1 << 20) /* appended in a POOL_TICK: less than this is idle */
#define ENTRIES_A_TIME  64

/* ---- checkpoint files ---------------------------------------------------------------------------------------------- */

typedef struct Checkpoints {
    Buf recovery, start, high_watermark, cleaner;
    size_t n_recovery, n_start, n_high_watermark, n_cleaner;
    bool all_recovered; /* every log found at the start was opened, or is gone */
} Checkpoints;

static int add_line(Buf *lines, size_t *n, const DirEntry *e, int64_t offset)
{
    if (offset < 0)
        return 0;
    ++*n;
    return checkpoint_append_line(lines, e->topic, e->partition, offset);
}

/* Under the mutex. */
static int gather_entry(Checkpoints *c, const DirEntry *e)
{
    Plog *log = e->recovered ? e->log : NULL; /* one under recovery knows neither start nor end */
    int r;

    if (!e->found)
        return 0;
    if (!e->recovered)
        c->all_recovered = false;
    r = add_line(&c->recovery, &c->n_recovery, e, log ? atomic_load(&log->durable) : e->recovery_point);
    if (r >= 0)
        r = add_line(&c->start, &c->n_start, e, log ? atomic_load(&log->start) : e->start);
    if (r >= 0)
        r = add_line(&c->high_watermark, &c->n_high_watermark, e,
                     log ? atomic_load(&log->high_watermark) : e->high_watermark);
    if (r >= 0)
        r = add_line(&c->cleaner, &c->n_cleaner, e, log ? atomic_load(&log->cleaned_to) : e->cleaned_to);
    return r;
}

static int gather(LogDir *dir, Checkpoints *c)
{
    size_t done = 0;
    bool more = true;
    int r = 0;

    c->all_recovered = true;
    while (more && r >= 0) {
        pthread_mutex_lock(&dir->mutex); /* a slice at a time: owners wait for microseconds, not for thousands of logs */
        for (size_t i = 0; r >= 0 && i < ENTRIES_A_TIME && done < dir->n_entries; i++, done++)
            r = gather_entry(c, dir->entries[done]);
        more = done < dir->n_entries;
        pthread_mutex_unlock(&dir->mutex);
    }
    return r;
}

static int write_all(LogDir *dir, const Checkpoints *c)
{
    int r = checkpoint_write(dir->fd, CHECKPOINT_START, &c->start, c->n_start);
    if (r == 0)
        r = checkpoint_write(dir->fd, CHECKPOINT_RECOVERY, &c->recovery, c->n_recovery);
    if (r == 0)
        r = checkpoint_write(dir->fd, CHECKPOINT_HW, &c->high_watermark, c->n_high_watermark);
    if (r == 0)
        r = checkpoint_write(dir->fd, CHECKPOINT_CLEANER, &c->cleaner, c->n_cleaner);
    return r;
}

/* The flag of the storage failure before goes once everything was reread, rewritten and synced (D3). */
static int clear_flag(LogDir *dir, bool all_recovered)
{
    if (!dir->flag_found || !all_recovered)
        return 0;
    if (unlinkat(dir->fd, STORAGE_FAILURE_FILE, 0) < 0 && errno != ENOENT)
        return -errno;
    dir->flag_found = false;
    return fsync(dir->fd) < 0 ? -errno : 0;
}

int log_dir_write_checkpoints(LogDir *dir)
{
    Checkpoints c = {0};
    int r = gather(dir, &c);

    if (r >= 0)
        r = write_all(dir, &c);
    if (r == 0)
        r = clear_flag(dir, c.all_recovered);
    buf_deinit(&c.recovery);
    buf_deinit(&c.start);
    buf_deinit(&c.high_watermark);
    buf_deinit(&c.cleaner);
    return r;
}

int log_dir_checkpoint(LogDir *dir)
{
    int r;

    pthread_mutex_lock(&dir->mutex);
    dir->checkpoint_asked++;
    r = dir->checkpoint_result;
    pthread_cond_signal(&dir->wake_worker);
    pthread_mutex_unlock(&dir->mutex);
    return r;
}

int log_dir_checkpoint_wait(LogDir *dir)
{
    uint64_t ticket;
    int r;

    pthread_mutex_lock(&dir->mutex);
    ticket = ++dir->checkpoint_asked;
    pthread_cond_signal(&dir->wake_worker);
    while (dir->checkpoint_done < ticket)
        pthread_cond_wait(&dir->progress, &dir->mutex);
    r = dir->checkpoint_result;
    pthread_mutex_unlock(&dir->mutex);
    return r;
}

bool log_dir_is_harmless(int r)
{
    return r == 0 || r == -ENOSPC || r == -EDQUOT || fs_is_shortage(r);
}

static void run_checkpoint(LogDir *dir, uint64_t ticket)
{
    int r = log_dir_write_checkpoints(dir), s = marks_sync(dir->marks);

    if (s < 0 || !log_dir_is_harmless(r))
        log_dir_fail(dir, "writing checkpoints", s < 0 ? -s : -r);
    pthread_mutex_lock(&dir->mutex);
    dir->checkpoint_done = ticket;
    dir->checkpoint_result = r;
    pthread_cond_broadcast(&dir->progress);
    pthread_mutex_unlock(&dir->mutex);
}

/* ---- deletes ------------------------------------------------------------------------------------------------------- */

void log_dir_delete_later(LogDir *dir, const char *path, int64_t delay_ms, const Segment *s)
{
    DelayedDelete *d = calloc(1, sizeof(*d));

    if (d)
        d->path = strdup(path);
    if (!d || !d->path) { /* found again, by its name, at the next start */
        free(d);
        return;
    }
    d->due_ms = clock_mono_ms() + MAX(delay_ms, 0);
    d->punch = s && s->leases > 0;
    d->no_pool = s && (s->leased_ever || s->lent);
    pthread_mutex_lock(&dir->mutex);
    list_append(&dir->deletes, &d->node);
    if (delay_ms <= 0)
        pthread_cond_signal(&dir->wake_worker);
    pthread_mutex_unlock(&dir->mutex);
}

/* A lease may hold the inode for as long as it likes; its disk space it gets no longer (shm.md 8 c). */
static void punch(LogDir *dir, const char *path)
{
    _cleanup_(base_closep) int fd = openat(dir->fd, path, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
    struct stat st;

    if (fd >= 0 && fstat(fd, &st) == 0 && st.st_size > 0)
        (void)fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, (off_t)align_up((uint64_t)st.st_size, 1 << 20));
}

static void run_delete(LogDir *dir, const DelayedDelete *d)
{
    struct stat st;
    char *path = NULL;

    if (fstatat(dir->fd, d->path, &st, AT_SYMLINK_NOFOLLOW) < 0)
        return;
    if (S_ISDIR(st.st_mode)) {
        if (asprintf(&path, "%s/%s", dir->path, d->path) >= 0)
            (void)fs_remove_tree(path); /* what is left goes at the next start */
        free(path);
        return;
    }
    if (d->punch)
        punch(dir, d->path);
    else if (!d->no_pool && pool_recycle(dir, d->path))
        return;
    (void)unlinkat(dir->fd, d->path, 0);
}

/* Under the mutex: the first that is due, out of the list. */
static DelayedDelete *take_due(LogDir *dir)
{
    int64_t now = clock_mono_ms();

    list_for_each_safe(it, &dir->deletes) {
        DelayedDelete *d = CONTAINER_OF(it, DelayedDelete, node);
        if (d->due_ms <= now) {
            list_remove(&d->node);
            return d;
        }
    }
    return NULL;
}

/* ---- the thread ---------------------------------------------------------------------------------------------------- */

typedef struct Idle {
    int64_t sample_ms, sample_bytes;
    int64_t free_ms;
} Idle;

/* At most IDLE_BYTES were appended in the last POOL_TICK. */
static bool is_idle(LogDir *dir, Idle *idle)
{
    int64_t now = clock_mono_ms(), bytes = atomic_load(&dir->appended_bytes);
    bool quiet = bytes - idle->sample_bytes < IDLE_BYTES && idle->sample_ms != 0 && now - idle->sample_ms >= POOL_TICK_MS;

    if (idle->sample_ms == 0 || now - idle->sample_ms >= POOL_TICK_MS) {
        idle->sample_ms = now;
        idle->sample_bytes = bytes;
    }
    return quiet;
}

/* Files for the pool, one after the other, until there is something else to do. */
static bool fill_pool(LogDir *dir, const Idle *idle)
{
    bool wanted, more = true;

    do {
        wanted = pool_fill_step(dir);
        pthread_mutex_lock(&dir->mutex);
        more = !dir->stop && dir->checkpoint_asked == dir->checkpoint_done && list_is_empty(&dir->deletes);
        pthread_mutex_unlock(&dir->mutex);
    } while (wanted && more && atomic_load(&dir->appended_bytes) - idle->sample_bytes < IDLE_BYTES);
    return wanted;
}

static void look_at_free_space(LogDir *dir, Idle *idle)
{
    int64_t now = clock_mono_ms();

    if (now - idle->free_ms < TICK_MS)
        return;
    idle->free_ms = now;
    if (log_dir_scan_free(dir) == 0 && atomic_load(&dir->free_bytes) < atomic_load(&dir->reserve_bytes)) {
        pool_give_up(dir);
        (void)log_dir_scan_free(dir); /* fails only together with everything else */
    }
}

static void wait_for_job(LogDir *dir, bool pool_wanted)
{
    int64_t until = clock_mono_ns() + (pool_wanted ? POOL_TICK_MS : TICK_MS) * NS_PER_MS;
    struct timespec t = {.tv_sec = until / NS_PER_S, .tv_nsec = until % NS_PER_S};

    if (!dir->stop && dir->checkpoint_asked == dir->checkpoint_done)
        pthread_cond_timedwait(&dir->wake_worker, &dir->mutex, &t);
}

void *worker_thread_main(void *arg)
{
    LogDir *dir = arg;
    Idle idle = {0};
    bool pool_wanted = true;

    for (;;) {
        DelayedDelete *d;
        uint64_t ticket;
        bool stop;

        pthread_mutex_lock(&dir->mutex);
        d = take_due(dir);
        if (!d)
            wait_for_job(dir, pool_wanted);
        ticket = dir->checkpoint_asked == dir->checkpoint_done ? 0 : dir->checkpoint_asked;
        stop = dir->stop;
        pthread_mutex_unlock(&dir->mutex);
        if (ticket != 0)
            run_checkpoint(dir, ticket);
        if (d) {
            run_delete(dir, d);
            free(d->path);
            free(d);
        }
        if (stop)
            return NULL;
        look_at_free_space(dir, &idle);
        if (!d && is_idle(dir, &idle))
            pool_wanted = fill_pool(dir, &idle);
    }
}

void log_dir_housekeep(LogDir *dir, int64_t now_ms)
{
    (void)now_ms; /* delays run on the monotonic clock: a wall clock that jumps deletes nothing */
    pthread_mutex_lock(&dir->mutex);
    pthread_cond_signal(&dir->wake_worker);
    pthread_mutex_unlock(&dir->mutex);
}
