/* The kinds of faults that a run can meet. Each one that is injected passes through world_fault
 * (sim/world.h), which numbers, counts and notes it, and may leave it out: so a failing run can be
 * made smaller, fault by fault (sim/shrink.h). */
#ifndef SIM_FAULT_KIND_H
#define SIM_FAULT_KIND_H

enum fault_kind {
    FAULT_DROP = 0,       /* a message is lost, and with it the rest of its stream */
    FAULT_DUPLICATE,      /* a call arrives twice */
    FAULT_REORDER,        /* a message is held back, and others overtake it */
    FAULT_SLOW,           /* a delay far out in the tail */
    FAULT_PARTITION,      /* a site hears nobody and nobody hears it */
    FAULT_PARTITION_UP,   /* it hears, but is not heard */
    FAULT_PARTITION_DOWN, /* it is heard, but hears nothing */
    FAULT_CLOG,           /* link after link stops, and they come back in another order */
    FAULT_RESET,          /* a stream is reset */
    FAULT_RESET_TRANSFER, /* ... inside a payload or a snapshot */
    FAULT_SITE_CRASH,     /* at any moment */
    FAULT_COORDINATOR_CRASH,
    FAULT_CRASH_AT_WRITE, /* after a durable write */
    FAULT_PAUSE,          /* a process stands still for longer than it counts as present */
    FAULT_CLOCK_JUMP,     /* the wall clock, by up to an hour */
    FAULT_CLOCK_DRIFT,    /* all clocks of a machine run fast or slow */
    FAULT_FSYNC,          /* a sync fails: what it was for may be on the disk or not */
    FAULT_NO_SPACE,
    FAULT_SHORT_WRITE,
    FAULT_LOST_WRITES,     /* a crash loses what was written and not synced */
    FAULT_TORN_SECTOR,     /* a crash leaves garbage at the end of a file */
    FAULT_FLIPPED_PAYLOAD, /* a bit, on its way */
    FAULT_FLIPPED_BLOB,    /* at rest */
    FAULT_FLIPPED_RECORD,
    FAULT_OLD_BACKUP,   /* a site's disk is put back from an old copy */
    FAULT_WIPED,        /* a site loses its disk, except its key */
    FAULT_TAKEOVER,     /* another coordinator takes over, with the next epoch */
    FAULT_LATE_RECEIPT, /* a receipt of an epoch that has been superseded arrives */
    FAULT_STRAY_ANSWER, /* a coordinator that has been superseded goes on: it answers from a ledger
                           of its own */
    FAULT_BYZANTINE_SITE,    /* a site sends what must be refused */
    FAULT_CHANGED_CLIENT,    /* an enrolled site asks for as much as it can get */
    FAULT_FALSE_COORDINATOR, /* somebody answers a site with what no honest coordinator says */
    FAULT_HOSTILE_INPUT,     /* a stranger offers bytes to every parser */
    FAULT_THEFT,             /* somebody else uses a site's invitation first */
    FAULT_LEAVE,             /* a fast site goes for good, without a word */
    FAULT_DRAIN,             /* a site's operator lets it leave, and starts it again */
    FAULT_ORDER,             /* the admin does something at a random moment */
    FAULT_KIND_COUNT
};

extern const char *const fault_names[FAULT_KIND_COUNT];

#endif
