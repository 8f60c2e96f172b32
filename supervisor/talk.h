#pragma once

/* Messages between the supervisor and one child (wire/schema/internal.txt 120-132). */

#include "supervisor/node.h"

void talk_read(NodeChild *c); /* everything that waits in its socket */
void talk_siblings(Node *n);  /* to all running children: pids or readiness changed */
void talk_died(NodeChild *dead, pid_t pid);
void talk_drain(NodeChild *c, int64_t timeout_ns);
void talk_undrain(NodeChild *c);
void talk_stop(NodeChild *c);
void talk_reload(NodeChild *c, int config_fd); /* answered in c->reload */
void talk_accept_clock(NodeChild *c);          /* answered in c->accept_clock */
void talk_retry(NodeChild *c); /* what did not fit into a full socket */
