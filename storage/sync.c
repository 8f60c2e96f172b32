/*
 * Sync rounds (D1). The sync thread takes every log that waits, makes its dirty files durable, moves the logs' durable ends,
 * says so once, and writes the marks (D2). While it works the owners go on appending; what they append waits for the next
 * round, so the number of flushes does not grow with the number of batches.
 *
 * The hand-over needs no lock per append. Owner: write the bytes, look at file->registered (false: put the file into
 * log->dirty under the mutex), then store `end`. Thread: under the mutex take log->dirty and clear `registered`, then load
 * `end`. An owner that still saw `registered` set has written before it was cleared, that is before this round's fdatasync;
 * one that saw it clear stores its `end` only after the file is in the next round's list. So every byte below the `end` a
 * round loads is in a file which that round or an earlier one synced.
 *
 * An fdatasync costs about 0.1 ms whatever its size, one syncfs a little more but once for all files; running averages of
 * both decide. syncfs also waits for bytes of logs that nobody waits for, so those count against it.
 */

#include "storage/internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <fcntl.h>
#include <unistd.h>

#include "base/clock.h"

#define FILE_SYNC_NS_START   110000
#define SYNCFS_NS_START      120000
#define SYNCFS_FILE_NS_START 9000
#define DISK_BYTES_PER_US    1000 /* 1 GB/s: what a byte that nobody waits for costs a syncfs */
#define COST_STEP_NS         1000
#define MANY_FILES           16 /* from here on one slow file after the other is the worse surprise */

typedef struct RoundLog {
    Plog *log;
    int64_t end, bytes;
    size_t first_file, n_files;
    bool dir_dirty, unsettled;
} RoundLog;

typedef struct Round {
    RoundLog *logs;
    SegFile **files;
    size_t n_logs, n_files, n_dirs, capacity_logs, capacity_files;
    int64_t bytes; /* appended to the logs of this round since they were synced */
    int64_t file_ns, syncfs_ns, syncfs_file_ns; /* running averages */
} Round;

/* ---- owner side ---------------------------------------------------------------------------------------------------- */

void plog_mark_dirty(Plog *log, Segment *s)
{
    if (LIKELY(atomic_load(&s->file->registered)))
        return;
    pthread_mutex_lock(&log->dir->mutex);
    assert(log->n_dirty < log->capacity_dirty); /* plog_dirty_reserve() */
    log->dirty[log->n_dirty++] = seg_file_ref(s->file);
    atomic_store(&s->file->registered, true);
    if (log->dirty_since_ms == 0)
        log->dirty_since_ms = clock_mono_ms();
    pthread_mutex_unlock(&log->dir->mutex);
}

void plog_mark_dir_dirty(Plog *log)
{
    pthread_mutex_lock(&log->dir->mutex);
    log->dir_dirty = true;
    if (log->dirty_since_ms == 0)
        log->dirty_since_ms = clock_mono_ms();
    pthread_mutex_unlock(&log->dir->mutex);
}

int plog_dirty_reserve(Plog *log)
{
    int r = 0;

    pthread_mutex_lock(&log->dir->mutex);
    if (log->n_dirty + 3 > log->capacity_dirty) {
        size_t capacity = log->capacity_dirty + 4;
        SegFile **dirty = realloc(log->dirty, capacity * sizeof(SegFile *));
        if (dirty) {
            log->dirty = dirty;
            log->capacity_dirty = capacity;
        } else {
            r = -ENOMEM;
        }
    }
    pthread_mutex_unlock(&log->dir->mutex);
    return r;
}

void log_dir_want_sync_locked(LogDir *dir, Plog *log)
{
    if (!list_is_empty(&log->in_waiting))
        return;
    if (list_is_empty(&dir->waiting))
        pthread_cond_signal(&dir->wake_sync);
    list_append(&dir->waiting, &log->in_waiting);
}

void log_dir_want_sync(LogDir *dir, Plog *log)
{
    if (atomic_load(&log->durable) == atomic_load(&log->end))
        return;
    atomic_store(&log->sync_asked_bytes, atomic_load(&log->appended));
    pthread_mutex_lock(&dir->mutex);
    log_dir_want_sync_locked(dir, log);
    pthread_mutex_unlock(&dir->mutex);
}

static bool is_unsynced(const Plog *log)
{
    return atomic_load(&log->durable) != atomic_load(&log->end) || log->n_dirty > 0 || log->dir_dirty;
}

int log_dir_sync_log(LogDir *dir, Plog *log)
{
    int64_t end = atomic_load(&log->end);

    pthread_mutex_lock(&dir->mutex);
    if (is_unsynced(log))
        log_dir_want_sync_locked(dir, log);
    while (atomic_load(&log->durable) < end || !list_is_empty(&log->in_waiting) || log->in_round)
        pthread_cond_wait(&dir->progress, &dir->mutex);
    pthread_mutex_unlock(&dir->mutex);
    return 0;
}

int log_dir_sync_now(LogDir *dir)
{
    pthread_mutex_lock(&dir->mutex);
    list_for_each(it, &dir->logs) {
        Plog *log = CONTAINER_OF(it, Plog, in_dir);
        if (is_unsynced(log))
            log_dir_want_sync_locked(dir, log);
    }
    /* The logs that wait now are taken by the next round as one, so two more rounds cover them. */
    for (uint64_t until = dir->stats.rounds + 2;
         dir->stats.rounds < until && (!list_is_empty(&dir->waiting) || dir->in_round);)
        pthread_cond_wait(&dir->progress, &dir->mutex);
    pthread_mutex_unlock(&dir->mutex);
    return 0;
}

/* ---- the thread ---------------------------------------------------------------------------------------------------- */

static bool round_reserve(Round *round, size_t more_files)
{
    if (round->n_logs == round->capacity_logs) {
        size_t capacity = round->capacity_logs == 0 ? 64 : round->capacity_logs * 2;
        RoundLog *logs = realloc(round->logs, capacity * sizeof(*logs));
        if (!logs)
            return false;
        round->logs = logs;
        round->capacity_logs = capacity;
    }
    if (round->n_files + more_files > round->capacity_files) {
        size_t capacity = (round->n_files + more_files) * 2 + 64;
        SegFile **files = realloc(round->files, capacity * sizeof(SegFile *));
        if (!files)
            return false;
        round->files = files;
        round->capacity_files = capacity;
    }
    return true;
}

/* Under the mutex. */
static void round_take_log(Round *round, Plog *log)
{
    RoundLog *entry = &round->logs[round->n_logs++];

    *entry = (RoundLog){.log = log, .first_file = round->n_files, .n_files = log->n_dirty, .dir_dirty = log->dir_dirty,
                         .unsettled = log->unsettled};
    for (size_t i = 0; i < log->n_dirty; i++) {
        atomic_store(&log->dirty[i]->registered, false);
        round->files[round->n_files++] = log->dirty[i]; /* with its reference */
    }
    log->n_dirty = 0;
    log->dir_dirty = false;
    log->dirty_since_ms = 0;
    log->in_round = true;
    entry->end = atomic_load(&log->end); /* after `registered` was cleared */
    entry->bytes = atomic_load(&log->appended);
    round->n_dirs += entry->dir_dirty;
    round->bytes += entry->bytes - atomic_load(&log->synced_bytes);
}

/* Under the mutex: all waiting logs, or as many as memory allows. */
static void round_take(LogDir *dir, Round *round)
{
    round->n_logs = round->n_files = round->n_dirs = 0;
    round->bytes = 0;
    while (!list_is_empty(&dir->waiting)) {
        Plog *log = CONTAINER_OF(dir->waiting.next, Plog, in_waiting);
        if (!round_reserve(round, log->n_dirty))
            break;
        list_remove(&log->in_waiting);
        round_take_log(round, log);
    }
    dir->in_round = round->n_logs > 0;
    dir->round_since_ns = clock_mono_ns();
}

static bool syncfs_is_cheaper(const LogDir *dir, const Round *round)
{
    int64_t n = (int64_t)(round->n_files + round->n_dirs);
    int64_t others = atomic_load(&dir->appended_bytes) - atomic_load(&dir->synced_bytes) - round->bytes;
    int64_t together = round->syncfs_ns + n * round->syncfs_file_ns + MAX(others, 0) / DISK_BYTES_PER_US * NS_PER_US;

    if (n < 2)
        return false;
    return together < (n < MANY_FILES ? 1 : 2) * n * round->file_ns;
}

/* One stalled call says little about the next: it counts as twice the average at most. */
static void learn(int64_t *average, int64_t seen)
{
    *average += (MIN(seen, 2 * *average + COST_STEP_NS) - *average) / 8;
}

static int sync_dir_of(LogDir *dir, const Plog *log)
{
    int fd = openat(dir->fd, log->name, O_RDONLY | O_DIRECTORY | O_CLOEXEC), r;

    if (fd < 0 && errno == ENOENT)
        return 0; /* renamed by plog_delete: nobody waits for it any more */
    if (fd < 0) /* no descriptor: the dear way needs none */
        return syncfs(dir->fd) < 0 ? -errno : 0;
    r = fsync(fd) < 0 ? -errno : 0;
    close(fd);
    return r;
}

static int round_sync(LogDir *dir, Round *round, bool *ret_syncfs)
{
    int64_t n = (int64_t)(round->n_files + round->n_dirs), start = clock_mono_ns(), ns;
    int r = 0;

    *ret_syncfs = syncfs_is_cheaper(dir, round);
    if (*ret_syncfs) {
        r = syncfs(dir->fd) < 0 ? -errno : 0;
        ns = clock_mono_ns() - start;
        learn(&round->syncfs_ns, MAX(ns - n * round->syncfs_file_ns, 0));
        learn(&round->syncfs_file_ns, MAX(ns - round->syncfs_ns, 0) / n);
        return r;
    }
    for (size_t i = 0; r == 0 && i < round->n_files; i++)
        r = fdatasync(round->files[i]->fd) < 0 ? -errno : 0;
    for (size_t i = 0; r == 0 && i < round->n_logs; i++)
        if (round->logs[i].dir_dirty)
            r = sync_dir_of(dir, round->logs[i].log);
    if (n > 0)
        learn(&round->file_ns, (clock_mono_ns() - start) / n);
    /* A syncfs that was slow once is forgotten in time, else it would never be tried again. */
    round->syncfs_ns += (SYNCFS_NS_START - round->syncfs_ns) / 64;
    round->syncfs_file_ns += (SYNCFS_FILE_NS_START - round->syncfs_file_ns) / 64;
    return r;
}

static void round_publish(LogDir *dir, Round *round)
{
    int64_t bytes = 0;

    for (size_t i = 0; i < round->n_logs; i++) {
        RoundLog *entry = &round->logs[i];
        bytes += entry->bytes - atomic_load(&entry->log->synced_bytes);
        atomic_store(&entry->log->synced_bytes, entry->bytes);
        if (entry->unsettled)
            continue;
        if (atomic_load(&entry->log->durable) < entry->end)
            atomic_store(&entry->log->durable, entry->end);
        marks_set(dir->marks, entry->log->entry->mark_slot, entry->end);
    }
    atomic_fetch_add(&dir->synced_bytes, bytes);
    for (size_t i = 0; i < round->n_files; i++)
        seg_file_unref(round->files[i]);
}

static void round_finish(LogDir *dir, Round *round, int64_t ns, bool by_syncfs)
{
    pthread_mutex_lock(&dir->mutex);
    for (size_t i = 0; i < round->n_logs; i++)
        round->logs[i].log->in_round = false;
    dir->in_round = false;
    dir->stats.rounds++;
    dir->stats.files_synced += round->n_files;
    dir->stats.syncfs_calls += by_syncfs;
    dir->stats.last_round_ns = ns;
    dir->stats.max_round_ns = MAX(dir->stats.max_round_ns, ns);
    pthread_cond_broadcast(&dir->progress);
    pthread_mutex_unlock(&dir->mutex);
}

static void round_run(LogDir *dir, Round *round)
{
    int64_t start = clock_mono_ns();
    bool by_syncfs = false;
    int r = round_sync(dir, round, &by_syncfs);

    if (r < 0)
        log_dir_fail(dir, by_syncfs ? "syncfs" : "fdatasync", -r);
    round_publish(dir, round);
    start = clock_mono_ns() - start;
    if (dir->options.synced) /* before the marks: acknowledgements do not wait for them */
        dir->options.synced(dir->options.userdata);
    r = marks_write(dir->marks, false);
    if (r < 0)
        log_dir_fail(dir, "writing durable marks", -r);
    round_finish(dir, round, start, by_syncfs);
}

/* Under the mutex: logs that are dirty for longer than flush.ms or the checkpoint interval go along. */
static void take_overdue(LogDir *dir)
{
    int64_t now = clock_mono_ms();

    list_for_each(it, &dir->logs) {
        Plog *log = CONTAINER_OF(it, Plog, in_dir);
        if (log->dirty_since_ms != 0 && now - log->dirty_since_ms >= MIN(log->flush_ms, PLOG_CHECKPOINT_MS))
            log_dir_want_sync_locked(dir, log);
    }
}

static void wait_for_work(LogDir *dir)
{
    while (!dir->stop && list_is_empty(&dir->waiting)) {
        int64_t until = clock_mono_ns() + dir->tick_ms * NS_PER_MS;
        struct timespec t = {.tv_sec = until / NS_PER_S, .tv_nsec = until % NS_PER_S};
        if (pthread_cond_timedwait(&dir->wake_sync, &dir->mutex, &t) == ETIMEDOUT)
            take_overdue(dir);
    }
}

void *sync_thread_main(void *arg)
{
    LogDir *dir = arg;
    Round round = {.file_ns = FILE_SYNC_NS_START, .syncfs_ns = SYNCFS_NS_START, .syncfs_file_ns = SYNCFS_FILE_NS_START};

    for (;;) {
        bool stop;
        pthread_mutex_lock(&dir->mutex);
        wait_for_work(dir);
        round_take(dir, &round);
        stop = dir->stop && round.n_logs == 0;
        pthread_mutex_unlock(&dir->mutex);
        if (stop)
            break;
        if (round.n_logs > 0)
            round_run(dir, &round);
        else
            usleep(10000); /* no memory for the round: the logs stay in the queue */
    }
    free(round.logs);
    free(round.files);
    return NULL;
}
