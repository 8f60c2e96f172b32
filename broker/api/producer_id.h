#pragma once

/* The block of producer ids that this broker hands out. A block is lost with the process: ids are 64 bits. */

#include "broker/broker.h"

int producer_ids_new(Broker *b, ProducerIds **ret);
ProducerIds *producer_ids_free(ProducerIds *ids);
