#pragma once

/* The table behind meta/config_keys.h; only config_*.c and its test look at it directly. */

#include "meta/config_keys.h"

extern const ConfigKey config_catalog[]; /* sorted by name */
extern const size_t config_catalog_size;
