#pragma once

/*
 * Starting a child: executables opened once (one build, D17: an upgrade on disk changes nothing until the supervisor itself
 * restarts), the configuration in a sealed memfd, fork and fexecve with only async-signal-safe calls between, because nng's
 * threads run in this process (D18).
 */

#include "supervisor/datadir.h"
#include "supervisor/sockets.h"

typedef struct Program {
    int fd;
    char path[PATH_MAX];
} Program;

/* LEAT_LIBEXECDIR, else beside our own executable, else where build tree and installation have it. Return: 0 or exit code. */
int spawn_open_program(CountersRole role, Program *ret, char *why, size_t why_size);

int spawn_config_memfd(const void *text, size_t size); /* sealed; fd or negative errno */

typedef struct SpawnOrder {
    CountersRole role;
    const Program *program;
    int config_fd, counters_fd;
    const Sockets *sockets; /* the broker's; NULL for others */
    const DataDir *data;    /* its lock is inherited */
} SpawnOrder;

typedef struct Spawned {
    pid_t pid;
    int pidfd;
    int sock; /* our end */
} Spawned;

int spawn_child(const SpawnOrder *order, Spawned *ret); /* 0 or negative errno */
