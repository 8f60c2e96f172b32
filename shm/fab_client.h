#pragma once

/*
 * The client's side of the fabric; used by libleat and by the controller and coordinator. No threads, no callbacks, one
 * thread per FabClient. After fork() every call in the child returns -ECHILD (the maps are MADV_DONTFORK).
 *
 * A dead broker shows as -ECONNRESET from fab_client_process(); maps stay valid until fab_client_free(), so the caller can
 * still read what it had been given. Reconnecting is a new FabClient: who owns re-sending is the layer above.
 */

#include "shm/fab_format.h"
#include <sys/types.h>

typedef struct FabClient FabClient;

typedef struct FabClientOptions {
    const char *socket_path;
    FabRole role;
    const char *client_id;
    const char *build_id; /* daemons */
    uint32_t arena_size, delivery_size; /* 0 = defaults */
    int64_t timeout_ms;   /* of the handshake */
} FabClientOptions;

/* Return: 0; -ECONNREFUSED/-ENOENT no broker; -EACCES etc. with ret_why (>= 256 bytes) filled from the refusal. */
int fab_client_new(const FabClientOptions *o, FabClient **ret, char *ret_why, size_t why_size);
/* The same in steps that never block: begin, then finish each time the socket is readable until it is not -EAGAIN. */
int fab_client_begin(const FabClientOptions *o, FabClient **ret); /* -EAGAIN: the broker's backlog is full */
int fab_client_socket(const FabClient *c);
int fab_client_finish(FabClient *c, char *ret_why, size_t why_size);
FabClient *fab_client_free(FabClient *c);
const char *fab_client_why(const FabClient *c); /* the broker's last sentence: why it closed, or why the arena did not grow */
const FabWelcome *fab_client_welcome(const FabClient *c);

/* Arena blocks: a private allocator over the shared arena. NULL: none free now. The first NULL also asks the broker for
 * more arena (D22: 4 MiB in all, or the wish in HELLO); blocks in use stay where they are. After a NULL the fd also wakes
 * for space. Payloads larger than fab_arena_block_max() go by fab_client_submit_memfd(). */
void *fab_arena_alloc(FabClient *c, uint32_t size);
uint32_t fab_arena_block_max(const FabClient *c);
void fab_arena_shrink(FabClient *c, void *block, uint32_t size); /* gives the tail back */
void fab_arena_free(FabClient *c, void *block);
uint64_t fab_arena_offset(const FabClient *c, const void *block);

/* Copies the descriptor into the queue and publishes it; the doorbell rings with fab_client_flush().
 * Return: 0; -EAGAIN queue full; -ECONNRESET; -ECHILD. */
int fab_client_submit(FabClient *c, const FabSqe *sqe);
/* The same, and gives the block away: it is free again when the broker has taken the descriptor. For ops that owe no
 * completion, and for PRODUCE whose caller does not want to wait for CONSUMED. */
int fab_client_submit_block(FabClient *c, const FabSqe *sqe, void *block);
/* Payload that fits no arena block: sent as a sealed memfd before the descriptor; off, len and flags are filled here. */
int fab_client_submit_memfd(FabClient *c, const FabSqe *sqe, const void *payload, size_t size);
void fab_client_flush(FabClient *c); /* one doorbell if the broker sleeps on us */

/* Completions: pointer valid until the next call that reaps. */
bool fab_client_reap(FabClient *c, FabCqe *ret);

/* Delivery: frames in order, each with its outer type resolved (never PAD, EXCHANGE or MEMFD). Payload pointers stay valid until released; release in order, any number at once. */
typedef struct FabDelivery {
    FabFrame frame;      /* private copy */
    const void *payload; /* read-only map, or a private map of a memfd */
    uint64_t release_at; /* token for fab_client_release() */
    int fds[FAB_FRAME_FDS_MAX]; /* FAB_FRAME_LEASE: owned by the receiver; -1 = none */
} FabDelivery;
bool fab_client_next(FabClient *c, FabDelivery *ret);
void fab_client_release(FabClient *c, uint64_t release_at); /* the broker learns of it at the next flush or arm */
void fab_client_touch_progress(FabClient *c);

/* Sleeping. fd is readable when something may have arrived after fab_client_arm() returned true. arm flushes too. */
int fab_client_fd(const FabClient *c);
bool fab_client_arm(FabClient *c); /* false: something is there already, do not sleep */
int fab_client_wait(FabClient *c, int64_t timeout_ns); /* arm + poll; 0 woken or timed out; -ECONNRESET; -EINTR */
/* Eats the doorbell's edge and looks at the socket. Return: 0; -ECONNRESET broker gone; -ECHILD. */
int fab_client_process(FabClient *c);
