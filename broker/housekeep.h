#pragma once

/*
 * Housekeeping on the reactor, in small slices: retention, compaction, checkpoints, expiry of producer ids, free space,
 * trust in the clock (D12), counters. One log per tick at most, so that no client waits for it.
 */

#include "broker/broker.h"

int housekeep_new(Broker *b, Housekeeper **ret);
Housekeeper *housekeep_free(Housekeeper *h);
void housekeep_start(Housekeeper *h);
int housekeep_accept_clock(Housekeeper *h); /* an operator says that it is right; <0: that cannot be kept on disk */
