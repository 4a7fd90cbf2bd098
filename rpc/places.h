/* Who may stay where there is not room for all: connections and calls, shared by role.
 *
 * Whoever comes is a stranger until it has shown who it is: then it is an admin, or one of a group
 * that has a limit of its own (a site, or a site's calls of one kind). Strangers have few places,
 * for a limited time; admins have a reserve; the rest is the groups'. Nobody is refused at the
 * door, for who stands there is not known yet. Somebody who is inside goes:
 *
 *     a stranger whose time is up;
 *     with too many strangers, of the source that has most of them one that has said nothing, or
 *         else the oldest (of equal sources: of the one whose oldest came first);
 *     with too many of one group, the group's oldest (a peer that came back over a new connection
 *         has left the old one behind);
 *     with too many of all groups together, the oldest of the largest group;
 *     with too many admins, the oldest.
 *
 * So what strangers do costs strangers only, and what one group does that group only, as long as
 * it has more than the others. Pure: no clock, no threads.
 */
#ifndef RPC_PLACES_H
#define RPC_PLACES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum place_role { PLACE_STRANGER, PLACE_MEMBER, PLACE_ADMIN };

struct places_limits { /* 0: no such limit */
    size_t strangers, members, admins;
    uint64_t stranger_ms;
    uint64_t silent_ms; /* who has something to say says it by then; 0: nobody is asked */
};

struct place {
    uint64_t id;
    uint64_t group; /* a stranger's source, a member's group */
    uint64_t since_ms;
    enum place_role role;
    bool spoke;      /* the caller sets it, where silent_ms is set */
    uint64_t handle; /* the caller's own */
    bool leaving;    /* it was chosen to go and is not counted any more ... */
    bool told;       /* ... and places_evict has said so */
};

struct places {
    struct places_limits limits;
    struct place *items; /* [count], in no order */
    size_t count, capacity;
};

void places_init(struct places *places, const struct places_limits *limits);
void places_deinit(struct places *places);
/* A stranger comes. Ids are the caller's, one each. */
void places_enter(struct places *places, uint64_t id, uint64_t source, uint64_t now_ms);
/* Somebody comes who is known at once: it never takes a stranger's place. Arguments as below. */
void places_enter_known(struct places *places, uint64_t id, enum place_role role, uint64_t group,
                        size_t group_limit, uint64_t now_ms);
/* It has shown who it is. group_limit: how many of that group may be there; 0: no such limit.
 * Again is a no-op, and so is an id that is not there. */
void places_claim(struct places *places, uint64_t id, enum place_role role, uint64_t group,
                  size_t group_limit);
void places_leave(struct places *places, uint64_t id); /* it is gone; not there: a no-op */
/* It has to go, whatever the room. */
void places_expel(struct places *places, uint64_t id);
/* Something else than places is short: a stranger has to go, or the oldest of the largest group if
 * that has more than one. False: nobody can be spared. */
bool places_spare(struct places *places, uint64_t now_ms);
/* Says, once each, who has to go. False: nobody any more. */
bool places_evict(struct places *places, uint64_t now_ms, uint64_t *id);
const struct place *places_find(const struct places *places, uint64_t id); /* NULL: not there */

#endif
