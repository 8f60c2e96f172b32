#pragma once

/*
 * Where commands go: target.c resolves the options to a node, connect.c opens libleat or a plain TCP connection to it,
 * control.c asks its supervisor.
 */

#include "mqctl/mqctl.h"
#include "shm/counters.h"

/* ---- target.c ------------------------------------------------------------------------------------------------------ */
int target_resolve(Mq *m); /* idempotent; fills m->target */
int target_need_node(Mq *m); /* resolve, and refuse a bare address: files and supervisor are needed */
int target_sandbox(Mq *m, const char *dir, int node, Target *ret);
int target_instance(Mq *m, const char *name, Target *ret);
/* DIR for sandbox verbs: --dir, --sandbox, MQCTL_SANDBOX or the default. In m->arena, absolute. */
int target_sandbox_dir(Mq *m, const char **ret);
const char *target_socket(Mq *m, const Target *t, const char *name); /* "control.sock" in the run directory */
int target_log_dir(Mq *m, const char **ret); /* the first of log.dirs */
#define TARGET_LOCK_NAME ".lock"
/* Takes the lock of a stopped node's data directory for offline work. Refuses (MQ_E_CONFLICT) while it runs. */
int target_lock_data(Mq *m, const Target *t, int *ret_fd);
/* For root: the files that are written next belong to whom the data directory belongs to, so that the daemons can read them. */
int target_become_owner(Mq *m, const Target *t);
bool target_is_running(Mq *m, const Target *t); /* somebody holds the lock of its data directory */

/* ---- connect.c ----------------------------------------------------------------------------------------------------- */
int connect_conf(Mq *m, leat_conf **ret); /* bootstrap, client.id, -X; leat_conf_free() it */
int connect_client(Mq *m, leat_client **ret); /* m->client */
void connect_close(Mq *m);
int connect_fail(Mq *m, leat_client *client, int error, const char *fmt, ...) PRINTF_LIKE(4, 5); /* of a libleat call */
bool connect_is_tcp(const Mq *m); /* of a resolved target */
/* One request: struct in, struct out (in m->arena). Over the session, or over TCP when the target is host:port. */
int api_call(Mq *m, int16_t key, int16_t version, const void *request, void *ret_response);
/* As api_call(); over TCP to this broker. NULL: the one that the user named. */
int api_call_at(Mq *m, const char *address, int16_t key, int16_t version, const void *request, void *ret_response);

/* ---- tcp.c --------------------------------------------------------------------------------------------------------- */
int tcp_call(Mq *m, const char *address, const KApi *api, int16_t version, const Buf *body, Buf *ret);
void tcp_close(Mq *m);

/* ---- control.c ----------------------------------------------------------------------------------------------------- */
/* Asks the supervisor. *ret_body: JSON of the answer or NULL; decref it. Silent variant for polling: says nothing. */
int control_call(Mq *m, const Target *t, const char *verb, const char *const *args, int n_args, int64_t timeout_ms, json_t **ret_body);
int control_try(Mq *m, const Target *t, const char *verb, const char *const *args, int n_args, int64_t timeout_ms, json_t **ret_body,
                char **ret_error);
/* The counters file of a node, also when its daemons hang: {"broker": {"heartbeat": ...}, ...}; NULL when there is none. */
json_t *counters_read(Mq *m, const Target *t);
