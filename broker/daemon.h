#pragma once

/*
 * Daemon: requests that the controller or the coordinator answers. Each travels as FAB_FRAME_REQUEST (ForwardedRequest) on
 * that daemon's own session and comes back as FAB_OP_RESPONSE.
 *
 * Calls outlive the session: while the daemon is away they wait, and all that are unanswered are sent again, in order, when
 * it is back (the controller remembers what it answered, any other request is harmless twice). Past its deadline a call ends without a body.
 */

#include "broker/api/api.h"
#include "shm/fab_server.h"

#define DAEMON_CALLS_MAX 65536
#define DAEMON_CONTROLLER_CALLS_MAX META_ANSWERS_MAX /* whose answers the controller remembers */
#define DAEMON_OWN_CALLS 16 /* of these are for the broker itself: clients in a crowd do not end its heartbeats */
#define DAEMON_AWAY_MS   10000 /* how long a call waits for a daemon that is not there */

typedef struct Daemon Daemon;
typedef struct DaemonCall DaemonCall;

/* @body: the response body, NULL: expired or dropped. Runs exactly once unless the call was cancelled. */
typedef void (*DaemonDone)(void *userdata, const void *body, size_t size);

typedef struct DaemonRequest {
    int16_t api_key, api_version;
    const void *body; /* encoded request body */
    size_t size;
    const Principal *who; /* NULL: the broker itself */
    const char *client_id;
    int64_t timeout_ms;
} DaemonRequest;

int daemon_new(Broker *b, FabRole role, Daemon **ret);
Daemon *daemon_free(Daemon *d);
bool daemon_is_up(const Daemon *d);
void daemon_opened(Daemon *d, FabSession *s);
void daemon_closed(Daemon *d, FabSession *s);
/* Return: 0, or -ENOBUFS/-ENOMEM: done() will not run. */
int daemon_call(Daemon *d, const DaemonRequest *q, DaemonDone done, void *userdata, DaemonCall **ret);
/* Encodes `message` of the API first. @who: NULL the broker itself. */
int daemon_call_message(Daemon *d, int16_t api_key, int16_t api_version, const Principal *who, const void *message,
                        int64_t timeout_ms, DaemonDone done, void *userdata, DaemonCall **ret);
void daemon_cancel(DaemonCall *c);
void daemon_answered(Daemon *d, uint64_t tag, const void *body, size_t size);
/* One-way internal message, type = its number in the schema (MetadataChanged, CoordinatorEvent); dropped while the daemon is away. */
void daemon_notify(Daemon *d, int16_t type, const KMessage *m, const void *message);
