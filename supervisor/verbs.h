#pragma once

/* The verbs of the control socket; control.h says how calls arrive. */

#include "supervisor/control.h"
#include "supervisor/node.h"

void verbs_call(void *userdata, ControlCall *call, const KControlRequest *request); /* userdata: Node */
void verbs_reload(Node *n); /* SIGHUP: as the verb, the result goes to the log */
