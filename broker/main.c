/* leat-broker: started by the supervisor (meta/child.h says with what). */

#include "base/log.h"
#include "broker/broker.h"

int main(int argc, char **argv)
{
    Loop *loop;
    Broker *b;
    int r = loop_new(&loop);
    if (r == 0)
        r = broker_new(loop, argc, argv, &b);
    if (r < 0) {
        jlog_errno(LOG_ERR, r, "broker cannot start");
        return 1;
    }
    r = loop_run(loop);
    if (r < 0)
        jlog_errno(LOG_ERR, r, "loop");
    broker_free(b);
    loop_free(loop);
    return r < 0 ? 1 : r;
}
