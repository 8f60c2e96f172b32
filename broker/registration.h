#pragma once

/*
 * Registration: this broker's place in the cluster. Registers with the controller when its session opens, heartbeats every
 * broker.heartbeat.interval.ms, and says when the broker is ready: registered, unfenced, image caught up, logs recovered.
 */

#include "broker/broker.h"

int registration_new(Broker *b, Registration **ret);
Registration *registration_free(Registration *r);
void registration_controller_up(Registration *r);
void registration_controller_down(Registration *r);
void registration_recovered(Registration *r); /* all logs are open */
void registration_applied(Registration *r);   /* the image is as new as it gets */
void registration_look(Registration *r);      /* a sync round ended: perhaps nothing is left to wait for */
bool registration_is_ready(const Registration *r);
int64_t registration_epoch(const Registration *r); /* broker epoch, -1 before registration */
/* Controlled shutdown: asks for it once and calls done when the controller agrees or 2 s passed. */
void registration_leave(Registration *r, void (*done)(Broker *b));
