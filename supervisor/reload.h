#pragma once

/* The verb reload, and SIGHUP: new configuration for the node and its children, all of it or nothing. */

#include <jansson.h>

#include "supervisor/control.h"
#include "supervisor/node.h"

void reload_begin(Node *n, ControlCall *call, int64_t timeout_ns); /* call NULL: SIGHUP, the result goes to the log */
bool reload_is_under_way(Node *n);                                 /* a child has not answered */
void reload_answer(Node *n, ControlCall *call, json_t *take_body); /* what waits.c calls at the end of it, or of its time */
