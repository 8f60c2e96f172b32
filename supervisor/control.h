#pragma once

/*
 * The control socket, RUN_DIR/control.sock: nng over ipc, answering REQ sockets as REP does; one msgpack ControlRequest in, one
 * ControlResponse out (wire/schema/internal.txt 140, 141). Only control.c and sp.c use nng in the supervisor (D18). A client
 * has one request under way at a time; one that asks again before the answer is disconnected.
 *
 * Verbs, args -> body (JSON text; every answer also has exit_code and, when not 0, error):
 *   status                     the node; exit_code 0 ok, 1 degraded
 *   start ROLE                 up again, clears a failure; answers when ready
 *   stop [ROLE|all] [drain]    answers when down; `all` (the default) ends the supervisor
 *   restart [ROLE|all]         answers when ready again, in turn
 *   drain, undrain             new sessions are refused, groups finish; answers when drained or taken back
 *   reload                     {"applied":[...],"waits":[...],"processes":[...],"warnings":[...]}; 78 rejected, nothing changed
 *   accept-clock               a wall clock that jumped is right (D12): {"distrusted_by":[role...],"wall_ms":...}
 *   kill ROLE SIGNAL           sends a signal (sandbox); ROLE may be supervisor
 *   config                     effective configuration with sources
 * timeout_ms bounds the waiting (0: 60 s); exit_code 7 = timed out, the work goes on. Exit codes are mqctl's.
 */

#include "base/loop.h"
#include "wire/messages.h"

typedef struct Control Control;
typedef struct ControlCall ControlCall;

#define CONTROL_CALLS_MAX 32

/* The request is borrowed for the call of fn; the call is answered there or later, exactly once. */
typedef void (*ControlFn)(void *userdata, ControlCall *call, const KControlRequest *request);

int control_open(Loop *loop, const char *path, ControlFn fn, void *userdata, Control **ret, char *why, size_t why_size);
Control *control_close(Control *c); /* sends what was answered, for a moment */
void control_answer(ControlCall *call, int exit_code, const char *error, const char *body);
