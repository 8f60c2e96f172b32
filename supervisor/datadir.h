#pragma once

/*
 * What the supervisor keeps in the data directory:
 *   .lock             flock: one supervisor (children inherit the descriptor, so also no child of an earlier one)
 *   meta.properties   the node's cluster id, node id and format; LOG/meta.properties adds the directory id (Kafka's file)
 *   clean-shutdown    exists while the node is stopped and was stopped in order
 *   failure-ROLE      why ROLE is failed
 */

#include "base/conf.h"
#include "base/text.h"
#include "shm/counters.h"
#include <limits.h>

#define DATADIR_WHY_MAX 512

typedef struct DataDir {
    char path[PATH_MAX], log_path[PATH_MAX];
    int dir_fd;
    int lock_fds[2]; /* data and, when elsewhere, log directory; not for exec'ed strangers, but for every child */
    char cluster_id[UUID_TEXT_SIZE], directory_id[UUID_TEXT_SIZE];
    int32_t node_id;
    bool is_new;     /* nothing was there before */
    bool log_is_new; /* the node is not, but its log directory is: a new disk, or one that is not mounted */
    const char *previous_state; /* clean, synced, suspect */
} DataDir;

/* Return: 0; or the exit code that the failure deserves (65, 74, 78) with `why` filled. */
int datadir_open(const char *path, const Conf *conf, DataDir *ret, char *why, size_t why_size);
void datadir_close(DataDir *d);
/* Before the first child runs: from here on only a marker written by datadir_mark_clean() means a clean stop. */
int datadir_begin(DataDir *d);
int datadir_mark_clean(DataDir *d);

typedef struct Failure {
    int64_t at_ms;
    int exit_code, signal;
    char kind[32], why[512];
} Failure;

int datadir_keep_failure(DataDir *d, CountersRole role, const Failure *f);
int datadir_forget_failure(DataDir *d, CountersRole role);
bool datadir_read_failure(const DataDir *d, CountersRole role, Failure *ret);
