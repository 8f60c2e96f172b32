/* leat-consumer-coord: consumer groups and committed offsets. Started by leat-supervisor; coord.h says what runs here. */

#include "consumer-coord/coord.h"

#include <stdio.h>
#include <string.h>

int main(int argc, char **argv)
{
    Loop *loop = NULL;
    Coord *coord = NULL;
    int r = loop_new(&loop);
    if (r == 0)
        r = coord_new(loop, argc, argv, &coord);
    if (r < 0) {
        fprintf(stderr, "leat-consumer-coord: cannot start: %s\n", strerror(-r));
        return 1;
    }
    r = loop_run(loop);
    coord_free(coord);
    loop_free(loop);
    return r < 0 ? 1 : r;
}
