#pragma once

/*
 * One child: events go to its core, and what the core wants is done (spawn, signals, messages, the reason on disk).
 * process_feed() is the only place where a core moves; then node_progress() looks what the whole node does next.
 */

#include "supervisor/node.h"

/* @argument: DRAIN, EXTEND a time in ns; DRAINED 1 = ok. */
void process_feed(NodeChild *c, CoreEventType type, int64_t argument);
void process_tick(NodeChild *c, int64_t now_ns); /* is it alive, does its heart beat? */
int process_signal(NodeChild *c, int signal);
void process_describe_exit(const Failure *f, char *out, size_t size); /* "SIGKILL", "exit 74" */
void process_forget(NodeChild *c); /* its descriptors, when it is gone */
