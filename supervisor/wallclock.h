#pragma once

/*
 * The wall clock that broker and coordinator do not believe (D12, base/wall.h): telling the operator, and taking his word that
 * it is right. The supervisor looks at no clock itself; children say in the counters whether they believe theirs.
 */

#include <jansson.h>

#include "supervisor/control.h"
#include "supervisor/node.h"

#define WALLCLOCK_DISTRUSTED "the wall clock jumped: nothing expires by it until it was steady for an hour, or: mqctl supervisor accept-clock"

bool wallclock_is_distrusted(Node *n);
void wallclock_watch(Node *n); /* with every tick: a change goes to the log */

void wallclock_accept(Node *n, ControlCall *call, int64_t timeout_ns); /* the verb */
bool wallclock_is_under_way(Node *n);
void wallclock_answer(Node *n, ControlCall *call, json_t *take_body);
