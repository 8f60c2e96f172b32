#pragma once

/*
 * Kernel features newer than Debian 12's Linux 6.1, each with what is done without it (D21). LEAT_OLD_KERNEL=1 in the
 * environment hides them all, so that the suites run both ways on one machine (docs/testing.md).
 *
 *   6.3 MFD_NOEXEC_SEAL   without: the memfd could be executed; sizes and contents are sealed either way
 *   6.5 SO_PEERPIDFD      without: pidfd_open() of the peer's pid (sock_peer_cred)
 */

#include <stdbool.h>

bool kernel_is_old(void);
/* Sealable, close-on-exec, not executable where the kernel can promise that. Return: fd or negative errno. */
int kernel_memfd(const char *name);
