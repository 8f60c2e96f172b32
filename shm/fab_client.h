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
FabClient *fab_client_free(FabClient *c);
const FabWelcome *fab_client_welcome(const FabClient *c);

/* Arena blocks: private first-fit/size-class allocator over the shared arena. NULL: none free now (grows up to
 * FAB_ARENA_MAX by exchange of the memfd when allowed). */
void *fab_arena_alloc(FabClient *c, uint32_t size);
void fab_arena_shrink(FabClient *c, void *block, uint32_t size); /* gives the tail back */
void fab_arena_free(FabClient *c, void *block);
uint64_t fab_arena_offset(const FabClient *c, const void *block);

/* Copies the descriptor into the queue and publishes it; the doorbell rings with fab_client_flush().
 * Return: 0; -EAGAIN queue full; -ECONNRESET; -ECHILD. */
int fab_client_submit(FabClient *c, const FabSqe *sqe);
/* Payload that fits no arena block: sent as a sealed memfd before the descriptor. */
int fab_client_submit_memfd(FabClient *c, const FabSqe *sqe, const void *payload, size_t size);
void fab_client_flush(FabClient *c); /* one doorbell if the broker sleeps on us */

/* Completions: pointer valid until the next call that reaps. */
bool fab_client_reap(FabClient *c, FabCqe *ret);

/* Delivery: frames in order. Payload pointers stay valid until released; release in order, any number at once. */
typedef struct FabDelivery {
    FabFrame frame;      /* private copy */
    const void *payload; /* read-only map, or a private map of a memfd */
    uint64_t release_at; /* token for fab_client_release() */
    int fds[4];          /* FAB_FRAME_LEASE: owned by the receiver; -1 = none */
} FabDelivery;
bool fab_client_next(FabClient *c, FabDelivery *ret);
void fab_client_release(FabClient *c, uint64_t release_at);
void fab_client_touch_progress(FabClient *c);

/* Sleeping. fd is readable when something may have arrived after fab_client_arm() returned true. */
int fab_client_fd(const FabClient *c);
bool fab_client_arm(FabClient *c); /* false: something is there already, do not sleep */
int fab_client_wait(FabClient *c, int64_t timeout_ns); /* arm + futex/poll; 0 woken or timed out; -ECONNRESET; -EINTR */
/* Eats the doorbell's edge and looks at the socket. Return: 0; -ECONNRESET broker gone; -ECHILD. */
int fab_client_process(FabClient *c);
