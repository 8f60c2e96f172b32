#pragma once

/*
 * Net: the Kafka protocol on TCP. The supervisor owns the listening sockets; the broker accepts, frames, answers in order.
 *
 * Hostile until proven otherwise: memory follows the bytes that arrived, never a length that was announced; every
 * connection has an idle, a half-frame and a write deadline; a peer that does not read stops being served.
 */

#include "broker/broker.h"

#define NET_CONNECTIONS_PER_TURN 64
#define NET_HALF_FRAME_MS        30000 /* no byte of a begun frame arrived for so long */
#define NET_WRITE_STALL_MS       10000 /* the peer took nothing for so long */
#define NET_OUT_QUEUE_BYTES      (1u << 20) /* beyond it a connection's next request is not started */

int net_new(Broker *b, Net **ret);
Net *net_free(Net *n);
int net_start(Net *n);
void net_stop_accepting(Net *n, bool stop);
size_t net_connections(const Net *n);
void net_take_settings(Net *n); /* they changed */
void net_run(Net *n); /* end of turn: connections whose budget or order now allows more */
