#pragma once

/*
 * A wait is a control call whose answer depends on something that has not happened yet. It ends by its condition, by its
 * time, or with the node. waits_look() looks at all of them; node.c calls it whenever something changed.
 */

#include <jansson.h>

#include "supervisor/control.h"
#include "supervisor/node.h"

typedef enum WaitKind {
    WAIT_UP,
    WAIT_DOWN,
    WAIT_RESTARTED,
    WAIT_DRAINED,
    WAIT_RELOADED,
    WAIT_CLOCK_ACCEPTED,
    WAIT_END,
    WAIT_KIND_COUNT
} WaitKind;

typedef struct Wait {
    List link;
    ControlCall *call; /* NULL: nobody asked (SIGHUP) */
    WaitKind kind;
    CountersRole role; /* the one that it is about, ROW_COUNT: the node */
    bool all;          /* RESTARTED: go on with the next role */
    pid_t old_pid;     /* RESTARTED */
    int64_t deadline_ns;
    json_t *body; /* what is known of the answer already, or NULL */
} Wait;

/* Return: NULL when out of memory; the call is answered then. */
Wait *waits_add(Node *n, ControlCall *call, WaitKind kind, CountersRole role, int64_t timeout_ns);
void waits_look(Node *n);
int64_t waits_deadline_ns(const Node *n); /* of the one with the least patience */
void waits_finish(Node *n);               /* the node is down: answers all that are left */
