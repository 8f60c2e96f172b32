#pragma once

/*
 * The node: three children under their cores, the order in which they start and stop, and what they tell each other.
 *
 * Start: controller, broker, consumer-coord, each when the one before is ready. Stop: the other way round. Everything runs
 * on the loop's thread. When a child has moved (process.c) node_progress() looks what the whole node does next, and waiting
 * control calls are looked at (waits.c).
 */

#include "base/list.h"
#include "base/loop.h"
#include "meta/child.h"
#include "supervisor/config.h"
#include "supervisor/core.h"
#include "supervisor/datadir.h"
#include "supervisor/spawn.h"

typedef struct Control Control;
typedef struct Node Node;

typedef enum NodePhase {
    NODE_STARTING, /* until all were ready once: a child that fails for good ends the supervisor with its exit code */
    NODE_RUNNING,  /* a child that fails for good degrades the node */
    NODE_DRAINING, /* on the way to a stop */
    NODE_STOPPING,
} NodePhase;

/* An order to a child that it answers. */
typedef enum AskState { ASK_NONE, ASK_SENT, ASK_DONE, ASK_REFUSED } AskState;

typedef struct Ask {
    AskState state;
    char text[256]; /* why it refused */
} Ask;

typedef struct NodeChild {
    Node *node;
    CountersRole role;
    Core core;
    Program program;
    pid_t pid; /* of the living, 0 none */
    int pidfd, sock;
    LoopFd *exit_source, *sock_source;
    uint64_t heartbeat;   /* counter value last seen */
    int64_t heartbeat_ns; /* when it moved */
    int64_t spawned_ns, started_ms, ready_after_ns;
    bool resend_siblings, resend_stop; /* its socket was full */
    char status[256];                  /* last ChildStatus */
    char why[512];                     /* ChildFailed of this life */
    bool has_exited;
    Failure last_exit;
    Ask reload, accept_clock;
} NodeChild;

struct Node {
    Loop *loop;
    const Options *options;
    Conf conf;    /* checked; what children get, less leat.* */
    Conf pending; /* of the last reload, with the keys that wait for a restart of the node */
    char digest[CONFIG_DIGEST_SIZE];
    DataDir data;
    Sockets sockets;
    Counters *counters;
    char counters_path[PATH_MAX], control_path[PATH_MAX];
    NodeChild children[ROW_COUNT]; /* [ROW_SUPERVISOR] unused */
    NodePhase phase;
    bool was_ready; /* all were, once: READY=1 was sent */
    int exit_code;
    int64_t started_ms, started_ns;
    LoopTimer *tick;
    int64_t next_tick_ns;
    Control *control;
    List waits; /* control calls that wait for something, waits.c */
    bool is_clock_distrusted; /* by a child, as of the last tick */
    int64_t drain_until_ns;
    int64_t watchdog_ns, watchdog_sent_ns; /* 0: no watchdog */
    char status_sent[512]; /* STATUS= that systemd knows */
    bool finished;
};

/* Everything up to the first spawn. Return: 0 or an exit code, logged. */
int node_open(Node *n, Loop *loop, const Options *o, Conf *take_conf);
int node_start(Node *n); /* 0 or exit code */
void node_close(Node *n);

/* Orders */
void node_begin_stop(Node *n, int64_t drain_ns); /* drain_ns 0: at once; then loop_quit(n->exit_code) */
void node_kill_all(Node *n);
void node_arm_tick(Node *n); /* a deadline may have come nearer */
void node_progress(Node *n); /* a child moved: what does the node do next? */
/* Config as of `applicable` to all running children; their answers arrive in NodeChild.reload. */
int node_send_reload(Node *n, Conf *take_applicable);

/* Facts */
static inline NodeChild *node_child(Node *n, CountersRole role)
{
    return &n->children[role];
}
#define node_for_each(c, n) for (NodeChild *c = &(n)->children[ROW_CONTROLLER]; c < &(n)->children[ROW_COUNT]; c++)
bool node_all_up(const Node *n);
bool node_all_down(const Node *n);
bool node_is_drained(const Node *n);
int node_child_config(Node *n); /* sealed memfd: the checked configuration and what only the supervisor knows; <0 errno */
