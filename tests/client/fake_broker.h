#pragma once

/*
 * A broker in a thread, on the real fabric: topics in memory, idempotent produce with Kafka's sequence rules, delivery,
 * offsets, and a group coordinator without timers. It can die and come back with what it had, refuse, and hold back
 * acknowledgements. Enough to test the client's logic; it proves nothing about the broker.
 */

#include <check.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "client/include/leat/leat.h"

typedef struct FakeBroker FakeBroker;

FakeBroker *fake_new(void); /* running */
void fake_free(FakeBroker *b);
void fake_kill(FakeBroker *b);  /* sessions end at once; the socket stays, as the supervisor holds it */
void fake_start(FakeBroker *b);
const char *fake_bootstrap(const FakeBroker *b); /* unix:... */

void fake_add_topic(FakeBroker *b, const char *name, int32_t partitions);
void fake_grow_topic(FakeBroker *b, const char *name, int32_t partitions);

/* The next n batches are refused with the error, before they are appended. */
void fake_refuse(FakeBroker *b, int16_t kafka_error, int n);
/* From now on it speaks no later version of that API. */
void fake_lag(FakeBroker *b, int16_t api_key, int16_t version);
/* Appended, but never acknowledged. */
void fake_hold_acks(FakeBroker *b, bool hold);
/* The group's members are told that a rebalance begins, as after a newcomer. */
void fake_evict_member(FakeBroker *b, const char *member_id); /* unknown from now on; NULL = all */
/* Leases show the log with a flipped byte at this share of their length (0..1); negative: as it is. */
void fake_damage_leases(FakeBroker *b, double where);
int fake_leases(FakeBroker *b);      /* granted so far */
int fake_leases_held(FakeBroker *b); /* and not released */
void fake_trim(FakeBroker *b, const char *topic, int32_t partition, int64_t start);

/* What it has. */
int64_t fake_end_offset(FakeBroker *b, const char *topic, int32_t partition);
int fake_batches(FakeBroker *b, const char *topic, int32_t partition);
int fake_duplicates(FakeBroker *b); /* batches that came again and were recognised */
int fake_codec(FakeBroker *b, const char *topic, int32_t partition); /* of the last batch */
int64_t fake_committed(FakeBroker *b, const char *topic, int32_t partition);
int fake_generation(FakeBroker *b);
int fake_sessions(FakeBroker *b);
/* Value of the record at an offset as text, copied to a static buffer; "" when there is none. Uncompressed batches only. */
const char *fake_value(FakeBroker *b, const char *topic, int32_t partition, int64_t offset);

/* A conf for it: extra = {"key", "value", ..., NULL}. */
leat_conf *fake_conf(const FakeBroker *b, const char *const *extra);
