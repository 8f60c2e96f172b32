#pragma once

/*
 * A log's folder without a running broker: dump, verify, repair (mqctl log ...). Nothing here changes a file except
 * inspect_repair(), and that must run alone on the folder.
 */

#include "base/text.h"
#include "wire/batch.h"

typedef struct InspectBatch {
    int64_t segment_base, position;
    size_t size;
    BatchHeader header;
    bool crc_valid;
    const void *bytes; /* the whole batch, borrowed for the call */
} InspectBatch;

typedef enum InspectKind {
    INSPECT_BAD_BATCH,   /* no valid batch where one should be: repairable */
    INSPECT_OFFSETS,     /* a batch begins before its segment: a file under a wrong name */
    INSPECT_GAP,         /* offsets missing; normal in a compacted log */
    INSPECT_TAIL,        /* bytes behind the last batch: the next start cuts them */
    INSPECT_INDEX,       /* .index or .timeindex wrong or missing: rebuilt by itself */
    INSPECT_SNAPSHOT,    /* .snapshot unreadable: rebuilt by itself */
    INSPECT_EPOCHS,      /* leader-epoch-checkpoint unreadable: rebuilt by itself */
    INSPECT_UNREADABLE,  /* the disk refuses */
} InspectKind;

typedef struct InspectProblem {
    InspectKind kind;
    int64_t segment_base;
    int64_t position, end_position; /* bytes concerned */
    int64_t first_offset, next_offset;
    char text[160];
} InspectProblem;

typedef struct InspectSummary {
    uint64_t segments, batches, records, bytes;
    int64_t start_offset, end_offset;
    int64_t min_timestamp, max_timestamp; /* of batches; -1 none */
    uint64_t problems, bad_batches;
} InspectSummary;

/* Return of the callbacks: 0 go on, other: stop, handed through. */
typedef int (*InspectBatchFn)(void *userdata, const InspectBatch *batch);
typedef int (*InspectProblemFn)(void *userdata, const InspectProblem *problem);

/* All batches of one .log file, in order; a place without a valid batch goes to on_problem (may be NULL) and the walk goes on
 * behind it. */
int inspect_segment(const char *log_file, InspectBatchFn on_batch, InspectProblemFn on_problem, void *userdata,
                    InspectSummary *ret);
/* All segments of a folder `<topic>-<partition>`. */
int inspect_log(const char *folder, InspectBatchFn on_batch, InspectProblemFn on_problem, void *userdata, InspectSummary *ret);
/* The same and every other file of the folder. */
int inspect_verify(const char *folder, InspectProblemFn on_problem, void *userdata, InspectSummary *ret);

typedef struct InspectIndexEntry {
    int64_t offset, position, timestamp; /* position -1: time index; timestamp -1: offset index */
} InspectIndexEntry;
typedef int (*InspectIndexFn)(void *userdata, const InspectIndexEntry *entry);
int inspect_index(const char *index_or_timeindex_file, InspectIndexFn fn, void *userdata);

typedef struct InspectProducer {
    int64_t producer_id;
    int16_t epoch;
    int32_t last_sequence;
    int64_t last_offset, last_timestamp, txn_first_offset;
    unsigned batches; /* in the window */
} InspectProducer;
typedef int (*InspectProducerFn)(void *userdata, const InspectProducer *producer);
int inspect_snapshot(const char *snapshot_file, InspectProducerFn fn, void *userdata);

/**
 * inspect_repair() - take one INSPECT_BAD_BATCH out of its segment
 * Its offsets stay: an empty batch of 61 bytes stands for them, as compaction leaves them, so that no later offset moves.
 * The segment is written anew and swapped in; the bad bytes are kept in `<base>.log.bad.<position>`. Several problems of one
 * segment: last one first, or verify again in between.
 */
int inspect_repair(const char *folder, const InspectProblem *problem);
