#pragma once

/*
 * Leases: read-only fds of closed, fully committed segments for bulk catch-up (shm.md 8 c). The inode is marked (D9), so
 * neither compaction nor the pool ever rewrites it under a reader; the fd alone keeps the bytes when retention unlinks it.
 */

#include "broker/session.h"

#define LEASES_MAX 64 /* of one session */

/* FAB_OP_LEASE: handle, partition; payload: the offset wanted (i64). Answer: FAB_FRAME_LEASE with tag = user_data. */
int lease_grant(Session *s, const FabSqe *sqe, const void *payload);
/* FAB_OP_LEASE_RELEASE: user_data of the grant. Return: Kafka error. */
int16_t lease_release(Session *s, uint64_t tag);
void lease_session_closed(Session *s);
