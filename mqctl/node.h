#pragma once

/* What status, supervisor, sandbox and debug share: a node of this machine as its supervisor and its files tell it. */

#include "mqctl/connect.h"

#define STATUS_TIMEOUT_MS 3000

typedef enum NodeState { NODE_DOWN, NODE_NOT_READY, NODE_DEGRADED, NODE_OK } NodeState;

/* The supervisor's status document. Return: 0 also when the node is degraded; says nothing; *ret_why (arena) on failure. */
int node_status(Mq *m, const Target *t, int64_t timeout_ms, json_t **ret, char **ret_why);
NodeState node_state(const json_t *status); /* NULL: NODE_DOWN */
const char *node_state_name(NodeState s);
int64_t node_counter(const json_t *status, const char *role, const char *name); /* 0 = unknown */
/* What a person does about a problem (of the status document, or of a check), and about a node that is down. In the arena. */
const char *node_way_out(Mq *m, const char *problem);
const char *node_start_command(Mq *m);
const char *node_mend_command(Mq *m, int status); /* of node_status() */
/* After a request that was not answered: what the supervisor complains of, with the ways out; once. Return: false when
 * nothing was said. */
bool node_explain(Mq *m);
/* "127.0.0.1:19092" of the first Kafka listener, or "". */
const char *node_kafka_address(Mq *m, const json_t *status);

/* sandbox.c */
int sandbox_start_node(Mq *m, const char *dir, int node, int64_t port, json_t **ret_status);
int sandbox_stop_node(Mq *m, const Target *t, bool drain);
int64_t wait_timeout(const Mq *m, int64_t fallback_ms); /* --timeout when given */

/* supervisor.c */
bool under_systemd(const Target *t); /* systemd manages this instance and we may ask it */
int run_program(Mq *m, const char *const *argv); /* waits; its exit status; stdio is ours */
