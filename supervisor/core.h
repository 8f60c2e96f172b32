#pragma once

/*
 * The life of one child as a table of state x event: what to do next is decided here, done by node.c. Pure: time is in the
 * event, nothing is called.
 *
 *               START              READY             DRAIN
 *    STOPPED ----------> STARTING ------> READY <-----------> DRAINING
 *       ^  ^                | ^  died       | died   UNDRAIN     | died
 *       |  |                v |             v                    v
 *       |  +--- STOP --- BACKOFF <---- (4 counted deaths at most) ----> FAILED (5th, or exit 64/65/74/78)
 *       |                                                                 | START clears
 *       +------ EXITED -- STOPPING <-- STOP, RESTART from any running state
 *
 * Rules (D16): the first restart is at once. A death counts towards the crash loop only before READY or within 1 s after
 * it; 10 s of READY clear the count; 0.1 to 5 s between counted deaths; the fifth in a row fails the child for good. A
 * child whose heartbeat stands still for child.hang.ms is hung: SIGABRT, 2 s later SIGKILL. Exit codes 64, 65, 74 and 78
 * are never retried: the next attempt would end the same way, or (74) must not trust the page cache.
 */

#include "base/compiler.h"

#define CORE_DEATHS_MAX      5
#define CORE_COUNTED_NS      INT64_C(1000000000)  /* after READY: still a death at start */
#define CORE_STABLE_NS       INT64_C(10000000000) /* of READY: forget the count */
#define CORE_KILL_AFTER_NS   INT64_C(2000000000)  /* SIGABRT to SIGKILL */
#define CORE_STOP_NS         INT64_C(30000000000) /* Stop to SIGKILL; recovery reports move it */
#define CORE_TICK_GAP_NS     INT64_C(5000000000)  /* the supervisor itself was stopped: heartbeats start anew */

typedef enum CoreState {
    CORE_STOPPED,
    CORE_STARTING,
    CORE_READY,
    CORE_DRAINING, /* also when drained: see Core.drained */
    CORE_STOPPING,
    CORE_BACKOFF,
    CORE_FAILED,
    CORE_STATE_COUNT
} CoreState;

typedef enum CoreEventType {
    CORE_EV_START, /* wanted up; clears a failure */
    CORE_EV_STOP,  /* wanted down */
    CORE_EV_RESTART,
    CORE_EV_DRAIN,
    CORE_EV_UNDRAIN,
    CORE_EV_READY,
    CORE_EV_DRAINED,
    CORE_EV_EXITED,
    CORE_EV_HEARTBEAT, /* the counter moved */
    CORE_EV_EXTEND,    /* the child reported and asks for time */
    CORE_EV_TICK,      /* once a second and at core_deadline_ns() */
    CORE_EV_COUNT
} CoreEventType;

typedef struct CoreEvent {
    CoreEventType type;
    int64_t now_ns;
    int64_t timeout_ns; /* DRAIN: patience; EXTEND: silence announced; TICK: silence that is a hang */
    int exit_code;      /* EXITED: -1 when by signal */
    int signal;         /* EXITED: 0 when by exit */
    bool ok;            /* DRAINED */
} CoreEvent;

/* What the shell has to do, as a set; it works through them in this order. */
typedef enum CoreAction {
    CORE_DO_ABORT = 1 << 0,         /* SIGABRT: hung */
    CORE_DO_KILL = 1 << 1,          /* SIGKILL */
    CORE_DO_TELL_DIED = 1 << 2,     /* SiblingDied to the others, before anything else happens */
    CORE_DO_KEEP_REASON = 1 << 3,   /* write why it failed to the data directory */
    CORE_DO_FORGET_REASON = 1 << 4,
    CORE_DO_SPAWN = 1 << 5,
    CORE_DO_SEND_DRAIN = 1 << 6,
    CORE_DO_SEND_UNDRAIN = 1 << 7,
    CORE_DO_SEND_STOP = 1 << 8,
    CORE_DO_BROADCAST = 1 << 9, /* Siblings: pids or readiness changed */
} CoreAction;

typedef enum CoreFailure {
    CORE_FAILURE_NONE,
    CORE_FAILURE_CRASH_LOOP,
    CORE_FAILURE_USAGE,   /* 64 */
    CORE_FAILURE_DATA,    /* 65 */
    CORE_FAILURE_STORAGE, /* 74 */
    CORE_FAILURE_CONFIG,  /* 78 */
} CoreFailure;

typedef struct Core {
    CoreState state;
    CoreFailure failure;
    unsigned counted_deaths;
    uint64_t restarts;     /* after deaths, not on request */
    int64_t tick_ns;       /* last tick */
    int64_t heartbeat_ns;  /* last sign of life, or the end of an announced silence */
    int64_t ready_ns;      /* since when READY; 0 = not reached in this life */
    int64_t deadline_ns;   /* BACKOFF: next try; DRAINING, STOPPING: end of patience */
    int64_t drain_ns;      /* patience of the drain that is wanted */
    int64_t abort_ns;      /* when SIGABRT was sent, 0 = not */
    bool kill_sent;
    bool drain_wanted;     /* survives a death: the next life drains again */
    bool drained, drained_ok;
    bool restart_wanted;   /* STOPPING: up again afterwards */
    bool exited_clean;     /* last exit was 0 after a stop */
} Core;

void core_init(Core *c);
/* Return: the set of CoreAction. */
unsigned core_step(Core *c, const CoreEvent *ev);
int64_t core_deadline_ns(const Core *c); /* next TICK that matters; INT64_MAX none */
bool core_is_running(const Core *c);     /* a process exists */
bool core_is_up(const Core *c);          /* READY or DRAINING */
bool core_is_down(const Core *c);        /* STOPPED or FAILED */
const char *core_state_name(CoreState state);
const char *core_failure_name(CoreFailure failure); /* "storage"; "" none */
