#pragma once

/*
 * Delivery: subscriptions of local sessions. Committed batches are copied from the log straight into the session's ring
 * (one pread), up to the high watermark, while the client has released enough of it; a slow client stops only itself.
 *
 * A subscription is idle (waits on its partition) or ready. At the end of a turn the ready sessions take turns, each ready
 * subscription of a session sends one frame per round, until rings are full, data is out, or the turn's budget is spent.
 */

#include "broker/broker.h"
#include "shm/fab_format.h"

typedef struct Session Session;
typedef struct Subscription Subscription;

#define DELIVERY_TURN_BYTES (4u << 20)
#define SUBSCRIPTIONS_MAX   16384 /* of one session */

int delivery_new(Broker *b, Delivery **ret);
Delivery *delivery_free(Delivery *d);
/* Starts or moves. Return: Kafka error for the DONE completion. */
int16_t delivery_subscribe(Session *s, uint32_t handle, int32_t partition, const FabSubscribe *sub);
int16_t delivery_unsubscribe(Session *s, uint32_t handle, int32_t partition);
void delivery_session_closed(Session *s);
void delivery_space(Session *s);
void delivery_wake(Broker *b, Partition *p); /* the high watermark moved, or the partition changed */
bool delivery_is_pending(const Broker *b);
void delivery_run(Broker *b);
