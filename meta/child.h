#pragma once

/*
 * What the three child daemons share: arguments from the supervisor, the effective configuration, the socket pair to the
 * supervisor, the counters row and its heartbeat. Runs on the daemon's loop.
 *
 * The supervisor starts a child as
 *   leat-ROLE --super-fd N --config-fd N --counters-fd N [--client-fd N] [--kafka-fd NAME=N]...
 * config-fd is a sealed memfd with conf_serialize() text. Besides leat.conf's keys it holds what the supervisor worked out:
 *   leat.instance, leat.data.dir (with meta/ and log/ below), leat.run.dir (client.sock, control.sock, counters),
 *   leat.node.id, leat.cluster.id, leat.build.id, leat.previous.state (clean, synced or suspect: how the last stop was),
 *   leat.log.file (JSON log, empty: stderr or journal)
 * and `listeners` names the ports that are really bound.
 */

#include "base/conf.h"
#include "base/loop.h"
#include "shm/counters.h"

typedef struct Child Child;

typedef struct ChildSibling {
    CountersRole role;
    pid_t pid;
    bool ready;
} ChildSibling;

#define CHILD_CONFIG_MAX (4u << 20) /* text of the configuration */
#define CHILD_MESSAGE_MAX 65536     /* one datagram between supervisor and child */

const char *child_role_name(CountersRole role); /* "supervisor", "controller", "broker", "consumer-coord" */
CountersRole child_role_parse(const char *name); /* ROW_COUNT: unknown */

typedef struct ChildOps { /* any may be NULL */
    void (*siblings)(void *userdata, const ChildSibling *children, size_t n);
    void (*sibling_died)(void *userdata, CountersRole role, pid_t pid);
    void (*drain)(void *userdata, int64_t timeout_ms); /* answer with child_drained() */
    void (*undrain)(void *userdata);
    void (*stop)(void *userdata); /* clean stop: finish, then loop_quit(loop, 0) */
    /* 0 = applied: then child_conf() is this one, and text borrowed from the one before dies at the next reload. */
    int (*reload)(void *userdata, const Conf *conf, char *why, size_t why_size);
    int (*accept_clock)(void *userdata, char *why, size_t why_size); /* the wall clock is right (D12); 0 = believed from now on */
} ChildOps;

#define CHILD_FDS_MAX 8

/* Parses argv, sets PDEATHSIG, maps the counters (starting the 1 s heartbeat timer), opens the log. Exits with a clear
 * message (64) when not started by the supervisor. Supervisor gone = exit. */
int child_init(int argc, char **argv, CountersRole role, Loop *loop, const ChildOps *ops, void *userdata, Child **ret);
Child *child_free(Child *child);
const Conf *child_conf(const Child *child);
CountersRow *child_row(const Child *child);
int child_client_fd(const Child *child);                                      /* listening client.sock, -1 none */
int child_kafka_fd(const Child *child, size_t i, const char **ret_listener);  /* listening TCP sockets; -1 past the end */
const char *child_build_id(const Child *child);

int child_ready(Child *child);
/* STATUS=, EXTEND_TIMEOUT. Counts as a heartbeat, so a long recovery on the main thread reports and is not taken for hung:
 * call it at least every few seconds, or announce the longest silence in extend_timeout_ms. */
int child_status(Child *child, const char *text, int64_t extend_timeout_ms);
int child_drained(Child *child, bool ok);
/* Tells the supervisor why, then _exit(code): 74 storage, 78 configuration, 65 damaged data. Any thread. */
_Noreturn void child_fail(Child *child, int code, const char *fmt, ...) PRINTF_LIKE(3, 4);
