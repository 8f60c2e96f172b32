#pragma once

/*
 * A fabric server with a small service on it, for tests: it acknowledges PRODUCE, echoes REQUEST as RESPONSE, and streams
 * numbered frames to SUBSCRIBE. Both ends may live in one process, where the test turns the loop by hand, or the clients in
 * forked ones.
 */

#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/types.h>

#include "base/hash.h"
#include "base/loop.h"
#include "shm/fab_client.h"
#include "shm/fab_server.h"

typedef struct Stream { /* of one session: frames 0..n-1 of `size` bytes */
    uint64_t n, sent;
    uint32_t size;
} Stream;

typedef struct Rig {
    char dir[64], path[96];
    Loop *loop;
    FabServer *server;
    FabServerOptions o;
    int listen_fd;
    /* what happened */
    unsigned n_opened, n_closed, n_sqes, n_produced, n_spaces;
    uint64_t produced_bytes, produced_sum;
    char last_why[256];
    FabSession *last; /* opened most recently, NULL once closed */
    /* how to behave */
    int authorize_error;
    int retry;          /* answer FAB_RETRY so many times */
    bool hold_acks;     /* ACKED is not posted */
    bool mute;          /* nothing is posted */
    int (*on_sqe)(struct Rig *rig, FabSession *s, const FabSqe *sqe, const void *payload); /* instead of the service */
} Rig;

void rig_setup(Rig *rig, const FabServerOptions *o); /* NULL: roomy defaults */
void rig_teardown(Rig *rig);
void rig_turn(Rig *rig);                  /* until the server would sleep */
int rig_connect_with(Rig *rig, const FabClientOptions *o, FabClient **ret, char *why); /* in this process; why: 256 bytes */
FabClient *rig_connect(Rig *rig);
void rig_stream(Rig *rig, FabSession *s); /* continues the stream of s */

/* In client processes: a failure ends them with status 1. */
#define REQUIRE(x)                                                                                 \
    do {                                                                                           \
        if (!(x)) {                                                                                \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #x);                                \
            _exit(1);                                                                              \
        }                                                                                          \
    } while (0)

FabClient *rig_join(const char *path); /* connect from another process; REQUIREs success */
/* Forks; the child runs fn(path, argument) and exits with 0. */
pid_t rig_fork(Rig *rig, void (*fn)(const char *path, uint64_t argument), uint64_t argument);
/* Serves until the child ends; its wait status. */
int rig_serve_until_exit(Rig *rig, pid_t pid);

unsigned count_fds(void);
void fill_pattern(void *data, size_t size, uint64_t seed);
bool has_pattern(const void *data, size_t size, uint64_t seed);
