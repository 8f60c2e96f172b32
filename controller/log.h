#pragma once

/*
 * The metadata log with one voter: proposals in, commitments out. A thread of its own commits; while one commit waits for
 * the disk the proposals of many requests gather, and the next one takes them all.
 *
 * The interface is that of a quorum (propose with a cookie, hear of each cookie once, in order), so that Raft can be put
 * beneath without touching the core or the server. With one voter, durable is committed.
 *
 * Durable before told: a cookie is resolved only after its entries, the hard state, their effect on the tables and the
 * applied index are in one synchronous transaction. Any error but a full map ends the process (D3).
 */

#include "base/loop.h"
#include "meta/store.h"

typedef struct MetaLog MetaLog;

#define META_LOG_KEEP        10000    /* entries kept for readers that follow the log */
#define META_LOG_KEEP_TIGHT  500      /* the same while the map is fuller than: */
#define META_LOG_TIGHT_PERMILLE 500
#define META_LOG_QUEUE_BYTES (64u << 20)

typedef struct MetaLogOps { /* on the loop's thread */
    /* Everything up to `index` is committed; cookies of proposals up to it follow by resolved(). */
    void (*committed)(void *userdata, uint64_t index);
    void (*resolved)(void *userdata, uint64_t cookie, bool ok);
    /* The map is full and cannot grow: this and all later proposals were refused. @image: the committed state, taken over. */
    void (*refused)(void *userdata, MetaImage *image);
    void (*map_used)(void *userdata, uint32_t permille);
    /* From the commit thread: the process must end. */
    void (*failed)(void *userdata, int error, const char *what);
} MetaLogOps;

typedef struct MetaLogOptions {
    Loop *loop;
    const char *meta_dir;
    size_t map_size;
    const MetaLogOps *ops;
    void *userdata;
} MetaLogOptions;

/* Opens the store, bumps the term, loads the committed state into *ret_image (the caller's). @ret_why >= 256 bytes. */
int meta_log_open(const MetaLogOptions *o, MetaLog **ret, MetaImage **ret_image, char *ret_why, size_t why_size);
MetaLog *meta_log_close(MetaLog *log); /* after the loop's last turn; commits what is queued, tells nobody */

typedef struct MetaProposal {
    const void *bytes; /* packed records, borrowed for the call */
    size_t size;
    const struct MetaProposalRecord {
        size_t offset, size;
    } *records;
    size_t n_records;
    uint64_t cookie;
} MetaProposal;

/* The records get the next indexes, in order; *ret_first is the first. A proposal without records resolves with what was
 * proposed before it. Return: 0; -ENOBUFS too much is waiting. */
int meta_log_propose(MetaLog *log, const MetaProposal *p, uint64_t *ret_first);
uint64_t meta_log_next_index(const MetaLog *log);
