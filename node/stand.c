/* The memory that a job and its node share of where the job stands, and the files of states that
 * were kept (node/stand.h). */
#include "node/stand.h"

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "base/memory.h"
#include "base/random.h"
#include "node/stand_internal.h"

#ifndef F_SEAL_FUTURE_WRITE
#define F_SEAL_FUTURE_WRITE 0x0010
#endif

enum { PAGE = 4096 };
#define STAND_MAGIC UINT64_C(0x31647361746c6c61)

static size_t pages(size_t size) { return (size + PAGE - 1) / PAGE * PAGE; }

static size_t vector_at(uint64_t parameters, size_t index) {
    return pages(sizeof(struct stand_header)) + index * pages((size_t)parameters * sizeof(float));
}

size_t stand_size(uint64_t parameters, bool file) { return vector_at(parameters, file ? 2 : 3); }

static float *vector(void *memory, uint64_t parameters, size_t index) {
    return (float *)(void *)((char *)memory + vector_at(parameters, index));
}

/* ---- the memory ------------------------------------------------------------------------------ */

/* Whoever has it besides may read it, and make it neither smaller nor larger. */
static enum status take_memory(struct stand *stand, struct error *error) {
    stand->descriptor = memfd_create("atoll-stand", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (stand->descriptor < 0 || ftruncate(stand->descriptor, (off_t)stand->size) != 0)
        return error_set(error, FULL, "%zu bytes of shared memory: %s", stand->size,
                         strerror(errno));
    stand->memory =
        mmap(NULL, stand->size, PROT_READ | PROT_WRITE, MAP_SHARED, stand->descriptor, 0);
    if (stand->memory == MAP_FAILED) {
        stand->memory = NULL;
        return error_set(error, FULL, "map %zu bytes of shared memory: %s", stand->size,
                         strerror(errno));
    }
    int seals = F_SEAL_SHRINK | F_SEAL_GROW;
    if (fcntl(stand->descriptor, F_ADD_SEALS, seals | F_SEAL_FUTURE_WRITE) != 0)
        return error_set(error, FAILED, "seal the shared memory: %s", strerror(errno));
    return OK;
}

static void lend(struct stand *stand) {
    struct replica *replica = stand->replica;
    float **vectors[3] = {&replica->base, &replica->snapshot, &replica->next};
    for (size_t i = 0; i < COUNT_OF(vectors); i++) {
        free(*vectors[i]);
        *vectors[i] = vector(stand->memory, replica->parameters, i);
    }
    replica->lent = true;
}

static uint64_t newest_number(const struct stand *stand) {
    uint64_t newest = 0;
    for (size_t i = 0; i < 2; i++) {
        struct stand_header header = {0};
        int descriptor = open(stand->files[i], O_RDONLY | O_CLOEXEC);
        if (descriptor < 0) continue;
        if (read(descriptor, &header, sizeof header) == (ssize_t)sizeof header)
            newest = MAX(newest, header.number);
        close(descriptor);
    }
    return newest;
}

static void read_job(struct stand *stand) {
    struct buffer content = {0};
    if (file_read(stand->job_file, 64, &content, NULL) == OK)
        stand->job = strtoull((const char *)content.data, NULL, 16);
    buffer_deinit(&content);
}

enum status stand_create(struct replica *replica, const uint8_t site[STAND_SITE_SIZE],
                         const char *const files[2], const char *job, struct stand **out,
                         struct error *error) {
    struct stand *stand = xcalloc(1, sizeof *stand);
    stand->replica = replica;
    stand->size = stand_size(replica->parameters, false);
    stand->file_size = stand_size(replica->parameters, true);
    for (size_t i = 0; i < 2; i++) stand->files[i] = xstrdup(files[i]);
    stand->job_file = xstrdup(job);
    enum status status = take_memory(stand, error);
    if (status != OK) {
        stand_destroy(stand);
        return status;
    }
    stand->header = stand->memory;
    stand->header->magic = STAND_MAGIC;
    stand->header->parameters = replica->parameters;
    stand->header->fragments = replica->fragments;
    stand->header->number = newest_number(stand);
    memcpy(stand->header->site, site, STAND_SITE_SIZE);
    read_job(stand);
    lend(stand);
    *out = stand;
    return OK;
}

void stand_destroy(struct stand *stand) {
    if (!stand) return;
    for (size_t i = 0; i < COUNT_OF(stand->views); i++) stand_view_close(&stand->views[i]);
    if (stand->memory) munmap(stand->memory, stand->size);
    if (stand->descriptor >= 0) close(stand->descriptor);
    for (size_t i = 0; i < 2; i++) free(stand->files[i]);
    free(stand->job_file);
    free(stand);
}

int stand_descriptor(const struct stand *stand) { return stand->descriptor; }

/* ---- as the job moves ------------------------------------------------------------------------ */

/* The node may be killed between any two stores: what comes after them in the program must not come
 * before them in the memory. */
static void in_order(void) { atomic_signal_fence(memory_order_seq_cst); }

void stand_session(struct stand *stand, uint64_t session, uint64_t repeats) {
    struct stand_header *header = stand->header;
    header->session = 0;
    in_order();
    header->pending.order = 0;
    for (uint32_t i = 0; i < stand->replica->fragments; i++) {
        header->fragment[i].order = 0;
        header->fragment[i].repeats = repeats >> i & 1;
    }
    in_order();
    header->session = session;
}

void stand_loaded(struct stand *stand, uint32_t fragment) {
    stand->header->fragment[fragment].repeats = 0;
}

void stand_order(struct stand *stand, uint64_t order, uint32_t fragment, enum training_move why) {
    stand->header->pending.order = 0;
    in_order();
    stand->header->pending.fragment = fragment;
    stand->header->pending.why = (uint32_t)why;
    in_order();
    stand->header->pending.order = order;
}

void stand_changes(struct stand *stand, uint32_t fragment) {
    stand->header->fragment[fragment].torn = 1;
    in_order();
}

void stand_is(struct stand *stand, uint32_t fragment, const struct training_mark *mark) {
    struct stand_header *header = stand->header;
    struct stand_fragment *out = &header->fragment[fragment];
    in_order();
    out->torn = 1;
    in_order();
    if (header->pending.order != 0 && header->pending.fragment == fragment)
        out->order = header->pending.order;
    out->version = stand->replica->base_version[fragment];
    out->in_flight = mark->in_flight;
    out->over = mark->over;
    out->kept = mark->kept;
    in_order();
    out->torn = 0;
}

void stand_lose(struct stand *stand, uint64_t steps) { stand->lost += steps; }

/* ---- files ----------------------------------------------------------------------------------- */

static void digest_of(const void *memory, size_t size, uint8_t digest[DIGEST_SIZE]) {
    digest_sha256((const char *)memory + DIGEST_SIZE, size - DIGEST_SIZE, digest);
}

enum status stand_keep(struct stand *stand, struct error *error) {
    struct stand_header *header = stand->header;
    header->number++;
    digest_of(stand->memory, stand->file_size, header->digest);
    return file_write(stand->files[header->number & 1], bytes_of(stand->memory, stand->file_size),
                      0600, error);
}

void stand_set_job(struct stand *stand, uint64_t job) {
    struct buffer text = {0};
    if (stand->job == job) return;
    stand->job = job;
    buffer_append_text(&text, "%016llx\n", (unsigned long long)job);
    (void)!file_write(stand->job_file, buffer_bytes(&text), 0600, NULL);
    buffer_deinit(&text);
}

/* ---- somebody's memory, or a file ------------------------------------------------------------ */

static bool is_sound(const struct stand *stand, const struct stand_view *view, bool file) {
    const struct stand_header *header = view->header;
    uint8_t digest[DIGEST_SIZE];
    if (header->magic != STAND_MAGIC || header->parameters != stand->replica->parameters ||
        header->fragments != stand->replica->fragments ||
        memcmp(header->site, stand->header->site, STAND_SITE_SIZE) != 0)
        return false;
    if (!file) return true;
    digest_of(view->memory, view->size, digest);
    return memcmp(digest, header->digest, DIGEST_SIZE) == 0;
}

void stand_view_open(const struct stand *stand, int descriptor, bool file, struct stand_view *out) {
    struct stat found;
    uint64_t parameters = stand->replica->parameters;
    *out = (struct stand_view){.size = stand_size(parameters, file)};
    if (descriptor < 0 || fstat(descriptor, &found) != 0 || (size_t)found.st_size != out->size)
        return;
    int seals = file ? F_SEAL_SHRINK : fcntl(descriptor, F_GET_SEALS);
    if (seals < 0 || !(seals & F_SEAL_SHRINK)) return; /* it could vanish under us */
    void *memory = mmap(NULL, out->size, PROT_READ | PROT_WRITE, MAP_PRIVATE, descriptor, 0);
    if (memory == MAP_FAILED) return;
    out->memory = memory;
    out->header = memory;
    out->base = vector(memory, parameters, 0);
    out->snapshot = vector(memory, parameters, 1);
    out->next = file ? NULL : vector(memory, parameters, 2);
    if (!is_sound(stand, out, file)) stand_view_close(out);
}

void stand_view_close(struct stand_view *view) {
    if (view->memory) munmap(view->memory, view->size);
    *view = (struct stand_view){0};
}
