#pragma once

/*
 * One `log.dirs` entry (DATA/log): the sync thread with its durable marks, the pool of prewritten segment files, Kafka's
 * checkpoint files, the disk reserve, and the list of logs. Everything in it belongs to one process (flock by the
 * supervisor).
 *
 * Sync rounds (D1): the owner's thread appends and calls log_dir_want_sync(log); the sync thread takes all waiting logs,
 * fdatasyncs each - or one syncfs when that is cheaper - writes the durable marks (D2), moves plog_durable_end() and calls
 * `synced` once per round from its own thread (post to a loop there). An error from any fsync ends the process with
 * status 74 after writing the storage-failure flag (D3).
 */

#include "storage/plog.h"

typedef enum LogDirState { LOG_DIR_CLEAN, LOG_DIR_SYNCED, LOG_DIR_SUSPECT } LogDirState; /* D4 */

typedef struct LogDirOptions {
    const char *path;        /* DATA/log */
    int64_t pool_bytes;      /* log.pool.bytes */
    bool pool_on_disk_only;  /* nobody asked for these bytes: none where files are memory (tmpfs) */
    int64_t reserve_bytes;   /* disk.reserve, computed */
    int64_t segment_bytes_default; /* pool file size is min(this, 64 MiB...) as pool.c says */
    void (*synced)(void *userdata); /* from the sync thread, once a round */
    void (*failed)(void *userdata, const char *why); /* before the process exits 74 */
    /* While a log is read from end to end, at start or on first use: called by the reading thread after every few MiB, so that
     * it can show life. `done` never falls. */
    void (*progress)(void *userdata, const PlogId *id, int64_t done_bytes, int64_t total_bytes);
    void *userdata;
} LogDirOptions;

int log_dir_open(const LogDirOptions *o, LogDir **ret, char *ret_why, size_t why_size);
void log_dir_set_reserve(LogDir *dir, int64_t bytes); /* instead of options.reserve_bytes from now on */
/* The cleaner's limits from now on: memory of its key map, bytes read and written in a second. */
void log_dir_set_cleaner(LogDir *dir, int64_t map_bytes, int64_t bytes_per_second);
/* plog_close() of many logs, several at a time. `fn`: a few times a second, on the caller's thread. */
typedef void (*LogDirClosingFn)(void *userdata, size_t done, size_t total);
void log_dir_close_logs(LogDir *dir, Plog **logs, size_t n, LogDirClosingFn fn, void *userdata);
/* Clean stop: flush all, checkpoints, clean-shutdown marker. The logs must be closed before. */
LogDir *log_dir_close(LogDir *dir, bool clean);
const Uuid *log_dir_id(const LogDir *dir);
LogDirState log_dir_state(const LogDir *dir); /* how the last stop was */
int log_dir_fd(const LogDir *dir);

/* Directories of a batch of new partitions, then one syncfs (D34). */
int log_dir_create_logs(LogDir *dir, const PlogId *ids, size_t n);
/* Names `topic-partition` found on disk, for start-up and for logs whose topic is gone. */
int log_dir_list(LogDir *dir, PlogId **ret, size_t *ret_n);

void log_dir_want_sync(LogDir *dir, Plog *log); /* owner's thread */
/* Blocks until every byte appended so far to any log is durable. */
int log_dir_sync_now(LogDir *dir);
typedef struct LogDirStats {
    uint64_t rounds, files_synced, syncfs_calls;
    int64_t last_round_ns, max_round_ns;
    int64_t running_round_ns; /* of the round that is not over; 0: none runs */
    int64_t free_bytes, reserve_bytes, pool_bytes;
    bool low;          /* below the reserve: client produce is refused */
    bool exhausted;    /* below a quarter of it */
} LogDirStats;
void log_dir_stats(LogDir *dir, LogDirStats *ret);
/* Every 5 s and every 64 MiB: recovery-point, log-start, replication-offset (high watermark) checkpoints. */
int log_dir_checkpoint(LogDir *dir);
int log_dir_checkpoint_wait(LogDir *dir); /* any thread that may wait for a disk: everything up to now is in the files, synced */
void log_dir_set_high_watermark(LogDir *dir, Plog *log, int64_t hw); /* goes into replication-offset-checkpoint */
int64_t log_dir_checkpointed_high_watermark(LogDir *dir, const PlogId *id); /* -1 none */
void log_dir_housekeep(LogDir *dir, int64_t now_ms); /* delayed deletes, pool refill in idle time, free space */
