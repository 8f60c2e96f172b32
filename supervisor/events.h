#pragma once

/* MESSAGE_IDs of the events that an operator acts on; systemd/leat.catalog explains each. */

#define MESSAGE_NODE_READY      "5b0d1f3c8f0e4d3e9a6d0f6f1c2a7b01"
#define MESSAGE_NODE_STOPPED    "5b0d1f3c8f0e4d3e9a6d0f6f1c2a7b02"
#define MESSAGE_CONFIG_REJECTED "5b0d1f3c8f0e4d3e9a6d0f6f1c2a7b03"
#define MESSAGE_CHILD_DIED      "5b0d1f3c8f0e4d3e9a6d0f6f1c2a7b04"
#define MESSAGE_CHILD_HUNG      "5b0d1f3c8f0e4d3e9a6d0f6f1c2a7b05"
#define MESSAGE_CRASH_LOOP      "5b0d1f3c8f0e4d3e9a6d0f6f1c2a7b06"
#define MESSAGE_STORAGE_FAILED  "5b0d1f3c8f0e4d3e9a6d0f6f1c2a7b07"
#define MESSAGE_CHILD_FAILED    "5b0d1f3c8f0e4d3e9a6d0f6f1c2a7b08"
#define MESSAGE_START_REFUSED   "5b0d1f3c8f0e4d3e9a6d0f6f1c2a7b09"
#define MESSAGE_RELOADED        "5b0d1f3c8f0e4d3e9a6d0f6f1c2a7b0a"
#define MESSAGE_CLOCK           "5b0d1f3c8f0e4d3e9a6d0f6f1c2a7b0b"
