#pragma once

/* Clocks. Time-outs use the monotonic one; only record timestamps and retention see the wall clock (D12). */

#include <stdint.h>

#define NS_PER_US 1000LL
#define NS_PER_MS 1000000LL
#define NS_PER_S  1000000000LL

int64_t clock_mono_ns(void);
int64_t clock_mono_ms(void);
int64_t clock_wall_ms(void);
