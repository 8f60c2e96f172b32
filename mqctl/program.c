/* The program; everything else is a library so that tests can link it. */

#include "mqctl/mqctl.h"

int main(int argc, char **argv)
{
    return mqctl_main(argc, argv);
}
