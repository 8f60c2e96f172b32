#pragma once

/*
 * The commit log of one partition, in Kafka's on-disk format: `<topic>-<partition>/` with segments
 * 00000000000000000000.{log,index,timeindex,txnindex,snapshot}, leader-epoch-checkpoint and partition.metadata.
 *
 * Writing and reading happen on the thread that owns the log; the log directory's sync thread (log_dir.h) only fsyncs.
 *
 * INV-PLOG-1 offsets in the log are dense, except where compaction removed records
 * INV-PLOG-2 log_start <= durable_end <= log_end
 * INV-PLOG-3 bytes before the durable mark are never rewritten in place (compaction and truncation write new files)
 * INV-PLOG-4 index files are caches: rebuilt on any doubt
 * INV-PLOG-5 a segment inode that was ever leased carries the sticky bit and is never reused (D9)
 */

#include "base/buf.h"
#include "base/text.h"
#include "wire/batch.h"

typedef struct LogDir LogDir; /* log_dir.h */
typedef struct Plog Plog;

/* Results > 0: documented outcomes for the direct caller. */
enum {
    PLOG_E_DUPLICATE = 1,    /* idempotent re-send: ret_offset is the old one */
    PLOG_E_OUT_OF_ORDER,     /* 45 */
    PLOG_E_PRODUCER_EPOCH,   /* 47 */
    PLOG_E_OUT_OF_RANGE,     /* offset below log_start or above log_end */
    PLOG_E_CORRUPT,          /* the range is damaged (D2): CORRUPT_MESSAGE */
    PLOG_E_TOO_LARGE,        /* batch larger than segment.bytes */
    PLOG_E_NO_SPACE,         /* below disk.reserve, or ENOSPC; nothing was written */
};

typedef struct PlogConfig { /* from the topic's effective configs; may change at run time */
    int64_t segment_bytes, segment_ms, segment_jitter_ms;
    int64_t retention_ms, retention_bytes; /* -1 = no limit */
    int32_t index_interval_bytes, segment_index_bytes;
    int64_t flush_messages, flush_ms;      /* flush_messages 1: durable before ack (D6) */
    bool cleanup_delete, cleanup_compact;
    double min_cleanable_dirty_ratio;
    int64_t min_compaction_lag_ms, max_compaction_lag_ms, delete_retention_ms;
    int64_t file_delete_delay_ms;
    bool internal;                         /* may go on below disk.reserve (D7) */
} PlogConfig;
#define PLOG_CONFIG_DEFAULT                                                                        \
    (PlogConfig){.segment_bytes = 1 << 30, .segment_ms = 604800000, .retention_ms = 604800000,      \
                 .retention_bytes = -1, .index_interval_bytes = 4096, .segment_index_bytes = 10 << 20, \
                 .flush_messages = 1, .flush_ms = INT64_MAX, .cleanup_delete = true,                \
                 .min_cleanable_dirty_ratio = 0.5, .max_compaction_lag_ms = INT64_MAX,              \
                 .delete_retention_ms = 86400000, .file_delete_delay_ms = 60000}

typedef struct PlogId {
    char topic[250];
    int32_t partition;
    Uuid topic_id;
} PlogId;

/* Creates the directory's files if it is new, else recovers (essay in recover.c). ret_why: up to 256 bytes on failure. */
int plog_open(LogDir *dir, const PlogId *id, const PlogConfig *config, Plog **ret, char *ret_why, size_t why_size);
Plog *plog_close(Plog *log); /* flushes; segments are cut to their valid size */
int plog_delete(Plog *log);  /* renames to <name>.<uuid>-delete; files go after file.delete.delay.ms. Closes, also when it fails */
/* The same for a log that is not open, perhaps was never whole. -ENOENT: no folder of this name has this topic id. */
int plog_delete_closed(LogDir *dir, const PlogId *id, int64_t delay_ms);
int plog_set_aside(LogDir *dir, const PlogId *id); /* renames to <name>.<uuid>-stray; the files stay for a person to judge */
void plog_set_config(Plog *log, const PlogConfig *config);
const PlogId *plog_id(const Plog *log);

int64_t plog_start(const Plog *log);
int64_t plog_end(const Plog *log);         /* offset of the next record */
int64_t plog_durable_end(const Plog *log); /* on stable storage; moved by the sync thread, may be read by any thread */
int64_t plog_size(const Plog *log);        /* bytes in .log files */
size_t plog_segments(const Plog *log);
bool plog_is_damaged(const Plog *log);     /* a quarantined range exists (D2) */
int32_t plog_last_epoch(const Plog *log);

typedef struct PlogAppend { /* a validated batch: CRC, counts and records are checked by the caller (broker, D25) */
    void *batch;            /* base offset and leader epoch are patched in place */
    size_t size;
    const BatchHeader *header; /* decoded; max_timestamp is trusted */
    int32_t leader_epoch;
    int64_t now_ms;
    bool from_client; /* check producer state; false for replication and recovery */
    bool keep_offset; /* a follower's copy: base offset and epoch stay as the batch has them; PLOG_E_OUT_OF_RANGE below the end */
} PlogAppend;

/**
 * plog_append() - append batches of one partition with one pwritev
 * @ret_offset: n entries, first offset of each
 * Stops at the first that does not go; *ret_done = how many were appended. Not durable until plog_durable_end() passes.
 * Return: 0 all; PLOG_E_* for batch *ret_done; -EIO: storage failure, the process must end (D3).
 */
int plog_append(Plog *log, PlogAppend *batches, size_t n, int64_t *ret_offset, size_t *ret_done);

typedef struct PlogSlice { /* bytes of whole batches in one segment file */
    int64_t position;
    size_t size;
    int64_t first_offset;  /* base offset of the first batch; <= the offset asked for */
    int64_t next_offset;   /* behind the last batch of the slice */
} PlogSlice;

/**
 * plog_locate() - where the batches from `offset` on lie
 * @end_offset: exclusive bound (high watermark, last stable offset): no batch at or past it is included
 * @size_max: upper bound in bytes; the first batch is included whole even if larger when `at_least_one`
 * Start is the batch that contains offset. size 0: nothing to read below end_offset.
 * Return: 0; PLOG_E_OUT_OF_RANGE; PLOG_E_CORRUPT (ret->next_offset: where reading can go on); -EIO.
 */
int plog_locate(Plog *log, int64_t offset, int64_t end_offset, size_t size_max, bool at_least_one, PlogSlice *ret);
/* The file that a located slice (size > 0) lies in. Borrowed: until the next call on any log of the directory. */
int plog_slice_fd(Plog *log, const PlogSlice *slice);
/* locate + pread into memory of the caller (a delivery frame). Also PLOG_E_TOO_LARGE: the first batch
 * alone needs ret->size bytes (with `at_least_one`; else size 0). Bytes that this process did not write are CRC-checked. */
int plog_read(Plog *log, int64_t offset, int64_t end_offset, void *memory, size_t size_max, bool at_least_one, PlogSlice *ret);

typedef struct PlogTimeOffset {
    int64_t offset, timestamp; /* -1, -1: none */
    int32_t leader_epoch;
} PlogTimeOffset;
/* Smallest offset below end_offset whose record timestamp >= timestamp_ms (exact, decompresses). */
int plog_offset_for_time(Plog *log, int64_t timestamp_ms, int64_t end_offset, PlogTimeOffset *ret);
int plog_max_timestamp(Plog *log, int64_t end_offset, PlogTimeOffset *ret);
int32_t plog_epoch_at(const Plog *log, int64_t offset); /* leader epoch of the record at offset, -1 unknown */
/* OffsetForLeaderEpoch */
void plog_end_for_epoch(const Plog *log, int32_t epoch, int32_t *ret_epoch, int64_t *ret_end);

/* DeleteRecords. Survives a crash once log_dir_checkpoint_wait() has returned. 0; PLOG_E_OUT_OF_RANGE beyond the end. */
int plog_set_start(Plog *log, int64_t offset);
int plog_truncate(Plog *log, int64_t offset);   /* drops offset.. (followers, later) */
int plog_assign_epoch(Plog *log, int32_t epoch); /* this host became leader: epoch cache entry at log_end */
int plog_roll(Plog *log);
/* Writes index tails and a producer snapshot (no fsync), so that a crash has less to scan. plog_append does it every 64 MiB;
 * the owner's timer calls it every 5 s. Cheap when nothing was appended. */
int plog_checkpoint(Plog *log);

/* Leases (shm.md 8 c): a closed segment wholly below end_offset that holds `offset`. The fd is a fresh O_RDONLY one, the
 * caller's; the inode is marked. -ENODATA: no such closed segment. */
typedef struct PlogLease {
    int fd;
    int64_t position, end_position; /* bytes of batches; start is the batch that holds offset */
    int64_t first_offset, next_offset;
    uint64_t segment_id;
} PlogLease;
int plog_lease(Plog *log, int64_t offset, int64_t end_offset, PlogLease *ret);
void plog_lease_end(Plog *log, uint64_t segment_id);

/* Housekeeping, called by the owner's timer. @now_ms: trusted wall clock, or INT64_MIN while it is not (D12). */
int plog_retain(Plog *log, int64_t now_ms, int64_t end_offset);
int plog_compact(Plog *log, int64_t now_ms, int64_t end_offset, bool *ret_did); /* one pass, crash-safe swap */
/* The same without stopping the owner: a call starts a pass on a thread of its own (one in the log directory at a time), a
 * later call swaps the result in and sets *ret_did. Daemons use this one. */
int plog_compact_background(Plog *log, int64_t now_ms, int64_t end_offset, bool *ret_did);
bool plog_is_compacting(const Plog *log); /* a pass is under way, or its result waits for the next call */

/* Idempotent producers (kafka-wire.md section 8), kept with the log because recovery rebuilds them. */
typedef struct PlogProducer {
    int64_t producer_id;
    int16_t epoch;
    int32_t last_sequence;
    int64_t last_offset, last_timestamp;
} PlogProducer;
size_t plog_producers(const Plog *log, PlogProducer *ret, size_t n_max);
void plog_expire_producers(Plog *log, int64_t now_ms, int64_t expiration_ms);
