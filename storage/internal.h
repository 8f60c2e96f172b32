#pragma once

/*
 * What the files of storage/ share. Nothing outside the folder includes this.
 *
 * Threads. A Plog belongs to one thread (its owner). The log directory has three helpers: the sync thread (rounds,
 * sync.c), the worker (checkpoint files, delayed deletes, pool, free space; worker.c) and, while a compaction runs in the
 * background, the cleaner (compact.c), which touches closed segments only. Between them:
 *   - LogDir.mutex guards every list and table of LogDir and the fields of Plog under "shared"; it is never held across a
 *     system call that can wait for a disk
 *   - the atomics of Plog: `end` is stored by the owner after the bytes are written and loaded by the sync thread before it
 *     syncs; `durable` the other way round
 *   - a SegFile is reference-counted, so a file can be closed by its owner while a round still syncs it
 */

#include <pthread.h>
#include <stdatomic.h>

#include "base/list.h"
#include "storage/log_dir.h"
#include "storage/plog.h"

#define PLOG_DECOMPRESS_MAX    (256 << 20) /* bound of one decompressed batch */
#define PLOG_DAMAGE_MAX        64          /* ranges kept apart; beyond, the last one is extended */
#define PLOG_PRODUCERS_MAX     65536       /* per log; beyond, the longest idle sixteenth is dropped */
#define PLOG_CURSORS           8           /* readers of one log whose place is remembered */
#define PLOG_APPEND_IOV_MAX    64
#define PLOG_CHECKPOINT_BYTES  (64 << 20)  /* D2: indexes and producers of a log */
#define PLOG_UNSYNCED_MAX      (1LL << 30) /* of a directory, before logs that nobody waits for are synced too */
#define PLOG_UNSYNCED_STEP     (16 << 20)  /* a log with less is left to the 5 s timer */
#define PLOG_CHECKPOINT_MS     5000
#define PLOG_CHUNK_SMALL       (1 << 20)   /* fallocate step of a small segment (D8) */
#define PLOG_CHUNK_LARGE       (16 << 20)
#define PLOG_FD_IDLE_MS        60000
#define FOLDER_NAME_MAX        350         /* <log>.<uuid>-delete */
#define PLOG_FDS_BEHIND        4           /* closed segments that the writer leaves open behind itself */
#define SEGMENT_OFFSETS_MAX    INT32_MAX   /* relative offsets are 32 bits in the index */
#define POOL_FILE_MAX          (64 << 20)
#define POOL_FILE_MIN          (1 << 20)

#define CHECKPOINT_RECOVERY    "recovery-point-offset-checkpoint"
#define CHECKPOINT_START       "log-start-offset-checkpoint"
#define CHECKPOINT_HW          "replication-offset-checkpoint"
#define CHECKPOINT_CLEANER     "cleaner-offset-checkpoint"
#define CLEAN_SHUTDOWN_FILE    ".kafka_cleanshutdown"
#define STORAGE_FAILURE_FILE   "storage-failure"
#define DURABLE_MARKS_FILE     "durable-marks"
#define META_PROPERTIES_FILE   "meta.properties"
#define EPOCH_CHECKPOINT_FILE  "leader-epoch-checkpoint"
#define PARTITION_METADATA     "partition.metadata"
#define DAMAGE_FILE            "damaged-ranges"

/* ---- segments (segment.c) ------------------------------------------------------------------------------------------ */

typedef struct SegFile {
    int fd;
    atomic_int refs;
    atomic_bool registered; /* in Plog.dirty, or nothing written since the round that took it began */
} SegFile;

typedef struct Segment {
    int64_t base_offset;
    int64_t size;          /* bytes of valid batches */
    int64_t allocated;     /* file size; > size only in the active segment */
    int64_t prewritten;    /* bytes that came written from the pool */
    int64_t max_timestamp; /* -1 none; TIMESTAMP_UNREAD */
    int64_t max_timestamp_offset;
    int64_t first_timestamp; /* of the first batch; TIMESTAMP_UNREAD */
    int64_t verified_from;   /* bytes from here on were written or CRC-checked by this process */
    int64_t used_ms;         /* monotonic; when the fd was last used */
    SegFile *file;           /* NULL: not open */
    Plog *log;
    List in_open;            /* LogDir.open_segments while the file is open */
    uint64_t id;             /* never reused while the log is open */
    uint32_t leases;
    bool leased_ever; /* the inode carries the sticky bit (D9) */
    bool lent;        /* plog_slice_fd gave the fd away: pages of it may still sit in socket buffers (sendfile) */
    bool index_checked;
} Segment;

#define TIMESTAMP_UNREAD INT64_MIN

typedef struct PathBuf {
    char s[384];
} PathBuf;

SegFile *seg_file_new(int fd);
SegFile *seg_file_ref(SegFile *f);
SegFile *seg_file_unref(SegFile *f);
/* "<log>/<20 digits><suffix>" relative to the log directory. */
const char *segment_path(const char *log_name, int64_t base_offset, const char *suffix, PathBuf *buf);
/* Parses "<20 digits><suffix>"; suffix points into name. */
bool segment_name_parse(const char *name, int64_t *ret_base, const char **ret_suffix);
/* Opens the .log when it is not open. A file stays open for the next call; when descriptors run short, those that were used
 * least recently are closed, all but the newest few: no call works with more at once. */
int segment_use(Plog *log, Segment *s);
int segment_open(Segment *s, int flags); /* O_CREAT... for a new file */
void segment_close(Segment *s);          /* idempotent; a round that still syncs the file has its own reference */
/* Room for `more` bytes behind size, fallocated in chunks. Return: 0; PLOG_E_NO_SPACE; negative errno. */
int segment_reserve(Plog *log, Segment *s, int64_t more);
Segment *segment_new(Plog *log, int64_t base_offset);
Segment *segment_free(Segment *s);

/*
 * SegWalk reads the batches of a file in order through one buffer. Headers are checked against the bytes present; a CRC
 * is computed in pieces, so that a batch of any length needs no more memory than the buffer.
 */
typedef struct SegWalk {
    int fd;
    int64_t end; /* bytes of the file that count */
    uint8_t *buffer;
    size_t capacity; /* >= BATCH_HEADER_SIZE */
    int64_t buffer_at;
    size_t buffer_size;
} SegWalk;

#define SEG_WALK(fd_, end_, memory, size) ((SegWalk){.fd = (fd_), .end = (end_), .buffer = (memory), .capacity = (size)})
#define SEG_WALK_SMALL 4096
#define SEG_WALK_LARGE (1 << 20)

/* Header at `position`. Return: 1; 0 at the end exactly; -EBADMSG no whole batch stands there; other negative errno. */
int seg_walk_header(SegWalk *w, int64_t position, BatchHeader *ret);
/* 1 valid, 0 not, negative errno. */
int seg_walk_crc(SegWalk *w, int64_t position, const BatchHeader *h);
/* Whether the batch's base offset cannot be right: it is outside the CRC, so a flipped bit shows only in the neighbours. A gap
 * is fine (compaction) as long as the next batch lies behind. */
bool seg_walk_is_misplaced(SegWalk *w, int64_t position, const BatchHeader *h, int64_t expected);
/* First position >= from where a batch with a valid CRC and base_offset_min <= base offset < base_offset_end stands.
 * Return: 1; 0 none up to the end; negative errno. */
int seg_walk_resync(SegWalk *w, int64_t from, int64_t base_offset_min, int64_t base_offset_end, int64_t *ret_position,
                    BatchHeader *ret);
/* Whether any byte in [from, end) is not zero; holes are skipped. */
int seg_walk_any_data(SegWalk *w, int64_t from, bool *ret);

/* ---- indexes (index.c) --------------------------------------------------------------------------------------------- */

#define INDEX_ENTRY_SIZE     8
#define TIMEINDEX_ENTRY_SIZE 12

typedef struct IndexEntry {
    uint32_t relative_offset, position;
} IndexEntry;
typedef struct TimeEntry {
    int64_t timestamp;
    uint32_t relative_offset;
} TimeEntry;

/* The indexes of a segment that grows: the active one, one being compacted, one being rebuilt. */
typedef struct IndexBuilder {
    int64_t base_offset;
    IndexEntry *offsets;
    TimeEntry *times;
    size_t n_offsets, n_times, capacity_offsets, capacity_times;
    size_t flushed_offsets, flushed_times; /* entries that are in the files */
    int64_t bytes_since_entry;
    int64_t max_timestamp, max_timestamp_offset;
} IndexBuilder;

void index_builder_reset(IndexBuilder *b, int64_t base_offset); /* keeps the memory */
void index_builder_deinit(IndexBuilder *b);
int index_builder_add(IndexBuilder *b, const BatchHeader *h, int64_t position, int32_t interval_bytes);
/* Writes what is not in the files yet; `final` adds the closing time entry and cuts the files to size. */
int index_builder_flush(IndexBuilder *b, int dir_fd, const char *log_name, const char *suffix, bool final);
/* Drops entries whose batch ends behind `offset`. */
void index_builder_cut(IndexBuilder *b, int64_t offset);
/* Loads both files as far as they are sane and lie before `position_end`. */
int index_builder_load(IndexBuilder *b, int dir_fd, const char *log_name, int64_t position_end);
/* Greatest entry with offset <= `offset` (and position < position_end); false: none, start at 0. */
bool index_builder_find(const IndexBuilder *b, int64_t offset, int64_t position_end, IndexEntry *ret);
/* The same on the files of a closed segment. Return: 1, 0 none, -EBADMSG damaged or missing. */
int index_file_find(int dir_fd, const char *log_name, const Segment *s, int64_t offset, int64_t position_end, IndexEntry *ret);
int timeindex_file_last(int dir_fd, const char *log_name, const Segment *s, TimeEntry *ret);
/* Greatest relative offset whose time entry is < timestamp. Return: 1, 0, -EBADMSG. */
int timeindex_file_find(int dir_fd, const char *log_name, const Segment *s, int64_t timestamp, TimeEntry *ret);
bool timeindex_builder_find(const IndexBuilder *b, int64_t timestamp, TimeEntry *ret);
/* Whether the batch the entry names, looked for from `position` on, has that last offset and that greatest timestamp. */
bool timeindex_entry_holds(SegWalk *w, int64_t position, int64_t base_offset, const TimeEntry *e);
/* Header walk of a closed segment; writes both files anew. */
int index_rebuild(Plog *log, Segment *s);

/* ---- producers (producer_state.c, producer_snapshot.c) ------------------------------------------------------------- */

#define PRODUCER_WINDOW 5

typedef struct ProducerBatch {
    int32_t first_sequence, last_sequence;
    int64_t first_offset, last_offset;
    int64_t timestamp;
} ProducerBatch;

typedef struct ProducerState {
    int64_t producer_id;
    int64_t last_timestamp;
    int64_t txn_first_offset; /* -1: no open transaction */
    int32_t coordinator_epoch;
    int16_t epoch;
    uint16_t n; /* batches in the window, oldest first */
    ProducerBatch window[PRODUCER_WINDOW];
} ProducerState;

typedef struct Producers {
    ProducerState *states; /* dense */
    uint32_t *slots;       /* open addressing, index + 1; 0 empty */
    size_t n, capacity, n_slots;
} Producers;

void producers_deinit(Producers *p);
void producers_clear(Producers *p);
const ProducerState *producers_find(const Producers *p, int64_t producer_id);
/* Rules of kafka-wire.md section 8. Return: 0, PLOG_E_DUPLICATE with the old first offset, PLOG_E_OUT_OF_ORDER,
 * PLOG_E_PRODUCER_EPOCH. */
int producers_check(const Producers *p, const BatchHeader *h, int64_t *ret_offset);
/* h->base_offset is final. */
int producers_update(Producers *p, const BatchHeader *h);
void producers_expire(Producers *p, int64_t before_ms);
int producers_encode(const Producers *p, Buf *out);
int producers_decode(Producers *p, const void *data, size_t size); /* -EBADMSG leaves p empty */
int producers_write_snapshot(const Producers *p, int dir_fd, const char *log_name, int64_t offset);
int producers_read_snapshot(Producers *p, int dir_fd, const char *log_name, int64_t offset);

/* ---- leader epochs (epoch_cache.c) --------------------------------------------------------------------------------- */

typedef struct EpochEntry {
    int32_t epoch;
    int64_t start_offset;
} EpochEntry;
typedef struct EpochCache { /* both columns strictly increasing */
    EpochEntry *entries;
    size_t n, capacity;
    bool changed; /* since the file was written */
} EpochCache;

void epoch_cache_deinit(EpochCache *c);
int epoch_cache_assign(EpochCache *c, int32_t epoch, int64_t start_offset);
void epoch_cache_cut_end(EpochCache *c, int64_t end_offset);
void epoch_cache_cut_start(EpochCache *c, int64_t start_offset);
int32_t epoch_cache_at(const EpochCache *c, int64_t offset);
int32_t epoch_cache_last(const EpochCache *c);
void epoch_cache_end_for(const EpochCache *c, int32_t epoch, int64_t log_end, int32_t *ret_epoch, int64_t *ret_end);
int epoch_cache_read(EpochCache *c, int dir_fd, const char *log_name);
int epoch_cache_write(EpochCache *c, int dir_fd, const char *log_name); /* rename without fsync: the log can rebuild it */

/* ---- Kafka's text checkpoints (checkpoint.c) ----------------------------------------------------------------------- */

typedef int (*CheckpointLineFn)(void *userdata, const char *topic, int32_t partition, int64_t offset);
/* -ENOENT missing, -EBADMSG malformed (fn may have been called for good lines before). */
int checkpoint_read(int dir_fd, const char *name, CheckpointLineFn fn, void *userdata);
int checkpoint_append_line(Buf *lines, const char *topic, int32_t partition, int64_t offset);
int checkpoint_write(int dir_fd, const char *name, const Buf *lines, size_t n); /* synced */

/* ---- durable marks (marks.c) --------------------------------------------------------------------------------------- */

typedef struct Marks Marks;
/* ret_state: false when a part could not be read or the file belongs to another directory id. */
int marks_open(int dir_fd, const Uuid *dir_id, Marks **ret, bool *ret_whole);
Marks *marks_close(Marks *m);
/* Finds the slot of a log or takes a free one. ret_offset: -1 when there was no mark. */
int marks_slot(Marks *m, const Uuid *topic_id, int32_t partition, uint32_t *ret_slot, int64_t *ret_offset);
void marks_set(Marks *m, uint32_t slot, int64_t offset);
void marks_drop(Marks *m, uint32_t slot);
/* The pages that changed, each into the copy that is not the newest. `sync`: also durable when it returns. Sync thread. */
int marks_write(Marks *m, bool sync);
int marks_sync(Marks *m); /* any thread */

/* ---- the log ------------------------------------------------------------------------------------------------------- */

typedef struct Damage {
    int64_t first_offset, next_offset;
    int64_t segment_base;
    int64_t position, end_position; /* equal when the bytes are gone */
} Damage;

typedef struct Cursor {
    int64_t offset; /* the batch at `position` holds it, or begins behind it; -1 free */
    int64_t position;
    uint64_t segment_id;
} Cursor;

typedef struct DirEntry { /* one per log that the directory knows, open or not */
    char *topic;
    int32_t partition;
    bool found;     /* its folder exists */
    bool recovered; /* was opened by this process */
    bool clean;     /* what is kept below is the word of a clean stop */
    int64_t recovery_point, start, high_watermark, cleaned_to; /* -1 unknown; when closed */
    uint32_t mark_slot;
    Plog *log; /* NULL: closed */
} DirEntry;

struct Plog {
    PlogId id;
    char name[264]; /* topic-partition */
    PlogConfig config;
    LogDir *dir;
    DirEntry *entry;

    Segment **segments; /* sorted; the last is active */
    size_t n_segments, capacity_segments;
    IndexBuilder index; /* of the active segment, once `loaded` */
    bool unsettled;     /* under the mutex: under recovery, durable and end say nothing; rounds sync files, no more */
    bool loaded;        /* the active segment's end was checked, its index and the producers are in memory */
    bool sealed;        /* plog_seal() is done */
    Producers producers;
    EpochCache epochs;
    Damage *damage; /* sorted by first_offset */
    size_t n_damage;
    Cursor cursors[PLOG_CURSORS];
    unsigned next_cursor;
    uint64_t next_segment_id;
    int64_t mark_at_open; /* durable mark that was on disk, -1 none */
    int64_t size_bytes;            /* all segments */
    int64_t checkpoint_at_bytes;   /* `appended` when plog_checkpoint ran last */
    int64_t checkpoint_ms;         /* monotonic */
    int64_t checkpoint_offset;     /* end then */
    int64_t snapshot_offsets[4];   /* snapshots between segment bases, oldest first; -1 free */
    int64_t active_created_ms;     /* monotonic */
    int64_t grown_ms;              /* monotonic time of the last growth step; 0 none */
    int64_t records_since_sync;
    struct CompactJob *job;        /* running in the background */

    _Atomic int64_t start, end, durable;
    _Atomic int64_t high_watermark, cleaned_to;
    _Atomic int64_t appended; /* bytes since open */
    _Atomic int64_t synced_bytes;     /* `appended` at the start of the last round that took this log */
    _Atomic int64_t sync_asked_bytes; /* `appended` when a sync was asked for last */

    /* shared, under LogDir.mutex */
    List in_dir;
    List in_waiting; /* waits for a round */
    bool in_round;
    bool dir_dirty; /* a file was created or renamed since the last round */
    SegFile **dirty;
    size_t n_dirty, capacity_dirty;
    int64_t dirty_since_ms; /* monotonic; 0 clean */
    int64_t flush_ms;       /* copy of the configuration's */
};

static inline Segment *plog_active(const Plog *log)
{
    return log->n_segments == 0 ? NULL : log->segments[log->n_segments - 1];
}
static inline Segment *plog_tail(const Plog *log) /* where there must be one */
{
    assert(log->n_segments > 0);
    return log->segments[log->n_segments - 1];
}
int64_t plog_active_age_max_ms(const Plog *log); /* from which the active segment closes */
/* Offset behind the segment: the base of the next one, or the end of the log. */
int64_t plog_segment_end(const Plog *log, size_t index);
/* Index of the segment with the greatest base <= offset, or 0. */
size_t plog_segment_floor(const Plog *log, int64_t offset);
int plog_add_segment(Plog *log, Segment *s); /* keeps the order */
void plog_forget_cursors(Plog *log);
void plog_mark_dirty(Plog *log, Segment *s); /* after bytes were written to s */
void plog_mark_dir_dirty(Plog *log);
int plog_dirty_reserve(Plog *log); /* before a write to a file that may not be registered */
/* Loads what appending and exact lookups need; verifies the end of a cleanly closed active segment. */
int plog_load_active(Plog *log);
int plog_start_segment(Plog *log, int64_t base_offset, bool from_pool); /* new active segment */
/* Makes the end durable and leaves the files as a clean stop should. Any thread, while nobody else uses the log. */
int plog_seal(Plog *log);
int plog_snapshot_producers(Plog *log);
void plog_set_end(Plog *log, int64_t end_offset);
int plog_reload_producers(Plog *log, int64_t end_offset);

/* recover.c, recover_scan.c */
typedef struct RecoverPlan {
    int64_t from;   /* headers are walked from here (epochs, indexes) */
    int64_t producers_from; /* the snapshot that was loaded */
    int64_t verify; /* CRCs are checked from here: the recovery point */
    int64_t mark;   /* an invalid batch below it is corruption, at or past it a tail */
    bool suspect;   /* reread from the device and write again (D3) */
} RecoverPlan;
int recover_open(Plog *log, char *why, size_t why_size);
int recover_scan(Plog *log, const RecoverPlan *plan);
/* Applies the batches of [from, end) to the producers. */
int recover_walk_producers(Plog *log, int64_t from_offset, int64_t end_offset);
/* Loads the newest readable snapshot at or below `offset` into the producers. *ret_offset -1: there is none. */
int recover_load_snapshot(Plog *log, int64_t offset, int64_t *ret_offset);

/* damage.c */
int damage_add(Plog *log, const Damage *d);
int damage_read(Plog *log);
int damage_write(Plog *log);
const Damage *damage_at(const Plog *log, int64_t offset);
const Damage *damage_in(const Plog *log, const Segment *s, int64_t position); /* first with end_position > position */
/* A batch that should stand at `position` does not: finds how far the damage goes and keeps it. NULL: no offset is missing,
 * the segment ends at `position`. */
int damage_find(Plog *log, size_t segment_index, int64_t position, int64_t expected_offset, const Damage **ret);

/* compact.c */
void compact_cancel(Plog *log); /* waits for a background job and drops its result */

/* retain.c */
/* Removes segments [0, n) or any range from the log: renames them to .deleted and hands them to the worker. */
int plog_drop_segments(Plog *log, size_t from, size_t to);

/* time_lookup.c: greatest timestamp of a segment and the last offset of the batch that has it; -1, -1: none. */
int segment_max_timestamp(Plog *log, Segment *s, int64_t *ret_timestamp, int64_t *ret_offset);
/* read.c: end of the undamaged bytes from `position` on. */
int64_t plog_readable_end(const Plog *log, const Segment *s, int64_t position);

/* ---- the directory ------------------------------------------------------------------------------------------------- */

typedef struct PoolFile {
    uint64_t number;
    int64_t size;
    bool cold; /* from the process before: its pages may not be in the cache */
} PoolFile;
#define POOL_FILES_MAX 1024

typedef struct Pool {
    PoolFile files[POOL_FILES_MAX]; /* ready: zeroed and synced */
    size_t n;
    int64_t file_size, target_bytes, ready_bytes;
    uint64_t next_number;
} Pool;

typedef struct DelayedDelete {
    List node;
    char *path; /* relative to the directory; a file or a "-delete" folder */
    int64_t due_ms; /* monotonic */
    bool punch;     /* leased: empty the inode for those who still hold it */
    bool no_pool;   /* somebody may still look at its pages */
} DelayedDelete;

struct LogDir {
    LogDirOptions options;
    char *path;
    int fd;
    Uuid id;
    LogDirState state;
    bool flag_found; /* a storage failure ended the process before (D3) */
    _Atomic int64_t reserve_bytes; /* of the options, until log_dir_set_reserve() */

    pthread_mutex_t mutex;
    pthread_cond_t wake_sync, wake_worker, progress;
    pthread_t sync_thread, worker_thread;
    bool sync_started, worker_started, stop, in_round;

    DirEntry **entries; /* only grows: a dropped log keeps its entry, `found` and `log` cleared */
    size_t n_entries, capacity_entries;
    uint32_t *entry_slots; /* open addressing by topic and partition: index + 1 */
    size_t n_entry_slots;
    List open_segments; /* of all logs, the longest unused first; the owners' thread only */
    int64_t descriptors_short_ms; /* monotonic; since when calls wait for some; the owners' thread only */
    List logs;    /* open */
    List waiting; /* for a round */
    uint64_t checkpoint_asked, checkpoint_done; /* tickets */
    int checkpoint_result;
    uint64_t forgotten, forgotten_on_disk; /* logs that went; of those, how many the checkpoint files no longer name */
    int64_t tick_ms; /* how often the sync thread looks for logs that are dirty for too long */
    Marks *marks;
    Pool pool;
    List deletes;
    LogDirStats stats;
    int64_t round_since_ns; /* monotonic; of the round that runs */

    atomic_bool cleaner_busy;       /* one compaction in the background at a time */
    _Atomic int64_t cleaner_map_bytes, cleaner_rate; /* log_dir_set_cleaner() */
    _Atomic int64_t free_bytes;     /* at the last look, less what was fallocated since */
    _Atomic int64_t appended_bytes; /* all logs */
    _Atomic int64_t synced_bytes;   /* part of appended_bytes that rounds have covered */
};

DirEntry *log_dir_entry(LogDir *dir, const char *topic, int32_t partition, bool create); /* under mutex */
void log_dir_want_sync_locked(LogDir *dir, Plog *log);
/* "<topic>-<partition>"; "-delete" folders and everything else: false. */
bool log_dir_name_parse(const char *name, char ret_topic[250], int32_t *ret_partition);
int partition_metadata_read(int dir_fd, const char *log_name, Uuid *ret); /* -ENOENT, -EBADMSG */
int log_dir_scan_free(LogDir *dir);
int log_dir_attach(LogDir *dir, Plog *log); /* plog_open */
void log_dir_detach(LogDir *dir, Plog *log, bool save); /* waits until no round uses it */
int log_dir_rename_folder(LogDir *dir, const char *log_name, const char *kind, char ret_folder[FOLDER_NAME_MAX]);
void log_dir_forget(LogDir *dir, DirEntry *e);           /* its folder is gone */
int log_dir_create_log(LogDir *dir, const PlogId *id);   /* not synced */
/* Writes the flag, tells the caller, ends the process (D3). */
_Noreturn void log_dir_fail(LogDir *dir, const char *what, int error);
/* Errors that say nothing about data already acknowledged: want of space, memory or descriptors. */
bool log_dir_is_harmless(int r);
void log_dir_note_failure(LogDir *dir, const char *what, int error); /* the flag file only */
void log_dir_delete_later(LogDir *dir, const char *path, int64_t delay_ms, const Segment *s);
bool log_dir_refuses(const LogDir *dir, bool internal, bool from_client);
int log_dir_write_checkpoints(LogDir *dir); /* worker, or close */
int log_dir_sync_log(LogDir *dir, Plog *log); /* blocks until plog_end() is durable */

void *sync_thread_main(void *arg);
void *worker_thread_main(void *arg);

/* pool.c */
void pool_open(LogDir *dir);
/* Moves a prewritten file to `path`. Return: 1 and its size, 0 none, negative errno. */
int pool_take(LogDir *dir, int64_t size_max, const char *path, int64_t *ret_size);
bool pool_has(LogDir *dir, int64_t size_max);
bool pool_recycle(LogDir *dir, const char *path); /* worker: true when it took the file */
bool pool_fill_step(LogDir *dir);                 /* worker: one file; false when nothing is wanted */
void pool_give_up(LogDir *dir);                   /* deletes all files: the disk is low */
