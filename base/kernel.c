/* See kernel.h. */

#include "base/kernel.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>

#ifndef MFD_NOEXEC_SEAL
#    define MFD_NOEXEC_SEAL 0x0008U /* Debian 12's headers are older */
#endif

bool kernel_is_old(void)
{
    const char *value = getenv("LEAT_OLD_KERNEL");
    return value != NULL && value[0] == '1';
}

int kernel_memfd(const char *name)
{
    unsigned flags = MFD_CLOEXEC | MFD_ALLOW_SEALING;
    int fd = kernel_is_old() ? -1 : memfd_create(name, flags | MFD_NOEXEC_SEAL);

    if (fd < 0)
        fd = memfd_create(name, flags);
    return fd < 0 ? -errno : fd;
}
