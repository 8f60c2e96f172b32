#pragma once

/*
 * A FabClient on a daemon's loop: connects to the broker's socket, reconnects with backoff (10 ms doubling to 1 s) when it
 * dies, hands every frame and completion to its owner. The controller's and the coordinator's only road to the broker.
 */

#include "base/loop.h"
#include "shm/fab_client.h"

typedef struct FabLink FabLink;

typedef struct FabLinkOps {
    void (*up)(void *userdata, const FabWelcome *welcome);
    void (*down)(void *userdata, const char *why); /* what was in flight is lost; the owner re-sends after up() */
    /* The payload is released when this returns. */
    void (*frame)(void *userdata, const FabDelivery *delivery);
    void (*completion)(void *userdata, const FabCqe *cqe);
    void (*turn_end)(void *userdata); /* after a burst of frames and completions; may be NULL */
    /* The broker is there and said no (another build, an unknown pid); the link keeps trying. May be NULL. */
    void (*refused)(void *userdata, int error, const char *why);
} FabLinkOps;

/* The loop's hooks refer to the link: free it after the loop's last turn, and never in one of its own callbacks. */
int fab_link_new(Loop *loop, const FabClientOptions *o, const FabLinkOps *ops, void *userdata, FabLink **ret);
FabLink *fab_link_free(FabLink *link);
bool fab_link_is_up(const FabLink *link);
FabClient *fab_link_client(FabLink *link); /* NULL while down */
/* Copies payload to the arena (or a memfd) and submits; the block is freed when the broker has consumed it. Queued
 * privately when ring or arena is full (bounded: 64 MiB, then -ENOBUFS). sqe->off and len are filled here.
 * Return: 0; -ENOTCONN while down. Doorbell: rung at the end of the loop's turn. */
int fab_link_send(FabLink *link, const FabSqe *sqe, const void *payload, size_t size);
