#pragma once

/* What systemd hears: READY, STATUS, WATCHDOG, EXTEND_TIMEOUT_USEC, RELOADING, STOPPING. Nothing without NOTIFY_SOCKET. */

#include "supervisor/node.h"

void notify_init(Node *n); /* reads the watchdog's interval */
void notify_ready(Node *n);
void notify_status(Node *n); /* STATUS= from the node's state */
void notify_progress(Node *n, const NodeChild *c, int64_t extend_ms); /* a child at work on its recovery */
void notify_reloading(void);
void notify_reloaded(Node *n);
void notify_stopping(Node *n);
/* With every tick: WATCHDOG=1 only while the heartbeats of all running children move. */
void notify_watchdog(Node *n, int64_t now_ns);
