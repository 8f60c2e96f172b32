#pragma once

/*
 * The broker's side of the fabric: accepts sessions on the client socket, scans submission queues, writes completions and
 * delivery frames, rings doorbells. It knows descriptors and bytes, not topics: meaning is in FabServerOps.
 *
 * Trust: everything in C is hostile. A descriptor is copied once to private memory, bounds are checked in u64 against
 * private sizes, payload pointers given to on_sqe may change under the reader - copy first, then look. A violation closes
 * that session and no other. One thread (the reactor's loop).
 *
 * Life of a descriptor: scanned -> on_sqe(private copy, payload pointer) -> the callee copies what it needs, posts
 * fab_session_complete() (CONSUMED at once for PRODUCE), and later ACKED. Returning FAB_RETRY leaves the descriptor at the
 * head; the session is scanned again after fab_session_resume(). The payload is readable during on_sqe only: sq_head moves
 * past the descriptor when it returns 0, and the client then reuses the block, completion or not.
 *
 * Order of hooks: descriptors are taken in the server's turn_end hook. Make the server before the modules whose own turn_end
 * hooks write out what on_sqe gathered; their completions ring doorbells in the same turn, before the loop sleeps.
 * Free the server right before its loop, or after the loop's last turn.
 */

#include "base/fs.h"
#include "base/loop.h"
#include "shm/fab_format.h"

typedef struct FabServer FabServer;
typedef struct FabSession FabSession;

#define FAB_RETRY 1

typedef struct FabServerOptions {
    int listen_fd;           /* SOCK_SEQPACKET, listening; owned by the caller */
    uint64_t broker_epoch;
    int32_t node_id;
    char cluster_id[24];
    char build_id[24];
    uint64_t memory_max;     /* session.memory.max, all sessions together; refusal names the key */
    uint32_t sessions_max;   /* max.sessions; the daemons' own sessions do not count */
    uint32_t sessions_per_uid_max; /* 0 = no bound of its own */
    uint32_t message_max_bytes;
    int64_t hello_timeout_ms; /* connection without HELLO: closed; 0 = 5 s */
    bool lock_memory;
} FabServerOptions;

typedef struct FabServerOps {
    /* May this peer open a session in this role? Return 0 or negative errno (why filled: a sentence with the way out). */
    int (*authorize)(void *userdata, const PeerCred *peer, const FabHello *hello, char *why, size_t why_size);
    void (*opened)(void *userdata, FabSession *s);
    /* The last call for s: leases, waiters, group memberships end here. why is for the log. */
    void (*closed)(void *userdata, FabSession *s, const char *why);
    /* @sqe: private copy, bounds checked. @payload: sqe->len bytes in C (or a sealed memfd), NULL if len is 0.
     * Return: 0 taken; FAB_RETRY; negative errno = protocol violation, the session is closed. */
    int (*on_sqe)(void *userdata, FabSession *s, const FabSqe *sqe, const void *payload);
    /* The client released delivery space while fab_session_reserve() had failed. */
    void (*on_space)(void *userdata, FabSession *s);
} FabServerOps;

int fab_server_new(Loop *loop, const FabServerOptions *o, const FabServerOps *ops, void *userdata, FabServer **ret);
FabServer *fab_server_free(FabServer *server); /* closes every session */
void fab_server_stop_accepting(FabServer *server); /* drain: new HELLOs are refused with -ESHUTDOWN */
size_t fab_server_sessions(const FabServer *server);
uint64_t fab_server_memory(const FabServer *server);
uint64_t fab_server_violations(const FabServer *server); /* sessions dropped for a breach of the protocol */

/* Session facts */
uint64_t fab_session_id(const FabSession *s);
FabRole fab_session_role(const FabSession *s);
const PeerCred *fab_session_peer(const FabSession *s);
const char *fab_session_client_id(const FabSession *s);
void *fab_session_userdata(const FabSession *s);
void fab_session_set_userdata(FabSession *s, void *userdata);
uint64_t fab_session_progress(const FabSession *s); /* the client's progress word, loaded once */
void fab_session_close(FabSession *s, const char *why); /* safe inside callbacks: takes effect when they return */

/* Completions. The CQ cannot overflow: the server stops scanning a session whose completions could not all be posted.
 * PRODUCE owes CONSUMED and, unless acks is 0, ACKED; OPEN, SUBSCRIBE, UNSUBSCRIBE and LEASE_RELEASE owe DONE; the others
 * nothing. CONSUMED posted inside on_sqe for acks other than 0 wakes nobody: ACKED will. */
void fab_session_complete(FabSession *s, const FabCqe *cqe);
void fab_session_resume(FabSession *s); /* after FAB_RETRY */

/**
 * fab_session_reserve() - room in the delivery ring for one frame
 * @size: payload bytes; at most fab_session_frame_max()
 * Return: where the payload goes (64-byte aligned, contiguous), or NULL: no credit now; on_space follows.
 * The frame appears to the client with fab_session_commit(); an uncommitted reservation is simply forgotten by the next.
 */
void *fab_session_reserve(FabSession *s, size_t size);
void fab_session_commit(FabSession *s, const FabFrame *frame); /* frame->size <= reserved size */
size_t fab_session_frame_max(const FabSession *s);  /* half the ring */
size_t fab_session_frame_room(const FabSession *s); /* payload bytes that reserve() would grant now */
/* Any size: through the ring, or a sealed memfd when larger than frame_max. Queued privately while there is no room, up to
 * 64 MiB for a session, then the session is closed. For responses, notifications, requests. */
int fab_session_send(FabSession *s, const FabFrame *frame, const void *payload);
/* Frame with fds on the socket (leases); at most FAB_FRAME_FDS_MAX, which stay the caller's. */
int fab_session_send_fds(FabSession *s, const FabFrame *frame, const void *payload, const int *fds, size_t n_fds);
