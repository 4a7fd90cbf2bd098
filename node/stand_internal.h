/* The inside of stand.c (the memory and its files) and stand_resume.c (who comes back). Nobody else
 * includes it. */
#ifndef NODE_STAND_INTERNAL_H
#define NODE_STAND_INTERNAL_H

#include "crypto/digest.h"
#include "node/stand.h"

struct stand_fragment {
    uint64_t order; /* of the session, the last one that was dealt with; 0: none */
    uint64_t version, in_flight, over;
    uint32_t kept, torn; /* torn: being changed */
    uint32_t repeats; /* the job trains what is in the run already, and loads the fragment then */
};

/* The front of the memory and of a file, whose digest is of all that comes after it. */
struct stand_header {
    uint8_t digest[DIGEST_SIZE];
    uint64_t magic, parameters, fragments, number; /* number: of states that were kept */
    uint8_t site[STAND_SITE_SIZE];
    uint64_t session;
    struct { /* an order that is out */
        uint64_t order;
        uint32_t fragment, why;
    } pending;
    struct stand_fragment fragment[FRAGMENTS_LIMIT];
};

struct stand_view { /* somebody's memory, or a file: a copy that may be changed */
    void *memory;   /* NULL: there is none */
    size_t size;
    struct stand_header *header;
    float *base, *snapshot, *next; /* next NULL: of a file */
};

struct stand {
    struct replica *replica;
    int descriptor;
    void *memory;
    size_t size, file_size; /* without next */
    struct stand_header *header;
    char *files[2], *job_file;
    uint64_t job, lost;

    struct stand_plan plan; /* of the session that begins */
    struct stand_view views[3];
    struct stand_view *from[FRAGMENTS_LIMIT]; /* whose vectors the fragment stands on; NULL: load */
    bool from_snapshot[FRAGMENTS_LIMIT], to_snapshot[FRAGMENTS_LIMIT];
};

size_t stand_size(uint64_t parameters, bool file);
/* A memory of another node of this site, or a file; nothing where it is not sound. */
void stand_view_open(const struct stand *stand, int descriptor, bool file, struct stand_view *out);
void stand_view_close(struct stand_view *view);
void stand_set_job(struct stand *stand, uint64_t job);

#endif
