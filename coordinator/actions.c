/* The list of actions that the state machine fills (coordinator/coordinator_state.h): cleared
 * between events, its buffers kept. */
#include <stdlib.h>
#include <string.h>

#include "coordinator/coordinator_state.h"

void coordinator_actions_clear(struct coordinator_actions *actions) {
    for (size_t i = 0; i < actions->count; i++) buffer_deinit(&actions->items[i].bytes);
    actions->count = 0;
}

void coordinator_actions_deinit(struct coordinator_actions *actions) {
    coordinator_actions_clear(actions);
    free(actions->items);
    *actions = (struct coordinator_actions){0};
}
