#pragma once

/* The verbs of the control socket; control.h says how calls arrive. */

#include "supervisor/control.h"
#include "supervisor/node.h"

void verbs_call(void *userdata, ControlCall *call, const KControlRequest *request); /* userdata: Node */
void verbs_progress(Node *n);           /* something changed: which waiting calls can be answered? */
int64_t verbs_deadline_ns(const Node *n); /* of the waiting call with the least patience */
void verbs_finish(Node *n);             /* the node is down: answers every call that still waits */
void verbs_reload(Node *n);             /* SIGHUP: as the verb, the result goes to the log */
