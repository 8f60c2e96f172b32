#pragma once

/*
 * Agent: the broker heartbeats for local group members (D23). It learns of memberships by looking at the JoinGroup,
 * SyncGroup and LeaveGroup requests that pass through, and heartbeats while the session's progress word moves: a stalled
 * application loses its membership after max.poll.interval (its rebalance timeout), a dead one at once.
 */

#include "broker/api/api.h"

#define AGENT_MEMBERSHIPS_MAX 65536

int agent_new(Broker *b, Agent **ret);
Agent *agent_free(Agent *a);
/* A group request of a local session was answered without a top-level error. */
void agent_saw(Agent *a, const Request *r, const void *response_body, size_t size);
void agent_session_closed(Agent *a, uint64_t session_id);
/* A new session with the coordinator, which may have forgotten whose session is whose: heartbeats for all, now. */
void agent_coordinator_up(Agent *a);
/* The coordinator's GroupEvent, encoded: passes it to the session. */
void agent_notified(Agent *a, const void *message, size_t size);
