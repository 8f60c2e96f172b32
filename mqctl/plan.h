#pragma once

/* The arithmetic of `topic plan`. Pure. */

#include "base/compiler.h"

typedef struct PlanInput {
    double rate;         /* records per second */
    int64_t size_bytes;  /* of a record */
    int64_t retention_ms;
    int64_t replicas;
    int64_t partitions; /* 0 = propose */
} PlanInput;

typedef struct Plan {
    double bytes_per_s;
    double records_kept;
    int64_t bytes_per_replica; /* of values and keys kept, decimal units when printed */
    int64_t bytes_all_replicas;
    int64_t partitions;
    int64_t segments_per_partition;
    double seconds_per_segment;
} Plan;

#define PLAN_PARTITION_BYTES_PER_S (50 * 1000 * 1000) /* what one partition takes with ease */
#define PLAN_SEGMENT_BYTES         (INT64_C(1) << 30)

void plan_compute(const PlanInput *in, Plan *ret);
