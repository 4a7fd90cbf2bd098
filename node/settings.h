/* What a site decides for itself: one table of options, for every verb. What the group decides is
 * in the run's manifest. */
#ifndef NODE_SETTINGS_H
#define NODE_SETTINGS_H

#include "base/options.h"
#include "kernels/cuda_backend.h"
#include "run/run_model.h"

struct settings {
    const char *directory;
    const char *address;      /* of the coordinator */
    const char *proxy;        /* rpc/proxy.h's setting; NULL: as the environment says. Secret */
    struct setting_list data; /* files of text or tokens */
    enum data_format data_format;
    double heldout;
    uint64_t threads, sequences, accumulation; /* 0: the trainer's default */
    bool overlap;
    uint64_t follow_interval;
    enum device_choice device;
    const char *cuda_library; /* NULL: beside the program */
    double throttle;
    uint64_t pace_ms;
    uint64_t checkpoint_ms, heartbeat_ms, backoff_ms, backoff_limit_ms, timeout_ms;
    uint64_t bandwidth, connections;
    const char *export_directory; /* NULL: DIR/export */
    const char *from;             /* the run's initial checkpoint; NULL: none */
    const char *base;             /* the frozen model of an adapter; NULL: not looked at */
    const char *metrics_file;     /* NULL: none */

    /* run */
    bool attach;               /* a trainer attaches; else the built-in one trains */
    const char *attach_socket; /* NULL: attach.sock in the directory */
    uint64_t attach_timeout_ms;
    const char *trainer_listen; /* where relays come in; NULL: nowhere */
    uint64_t relay_wait_ms;     /* a rank's longest wait for a decision */
    bool restored;              /* from an older backup, says a person */
    /* join */
    const char *join_address;
    const char *token;      /* from ATOLL_TOKEN: never a flag. Secret */
    const char *token_file; /* "-": stdin; NULL: none */
    bool run_after;
    /* relay; its token_file is join's */
    const char *relay_to;
    /* status */
    bool leaves; /* the daemon runs in order to leave */
    bool ready;  /* the exit code says whether it is */
    /* eval, generate */
    uint64_t windows;
    const char *prompt;
    uint64_t count, top_k, seed;
    double temperature, top_p;
};

extern const struct command node_command;

/* The command line, environment and DIR/node.yaml, where there is one. OPTIONS_GO_ON or an exit
 * code, as options_start. */
int settings_read(struct options *options, int argc, char **argv, char **environment);
/* INVALID names a setting that was given as a flag and that this command does not use; `used` ends
 * with NULL. In a file or the environment it may stand: those serve all commands. */
MUST_USE enum status settings_check_used(const struct options *options, const char *const *used,
                                         struct error *error);
/* The invitation's token, of the one place that has it, into *out, which is the caller's to free
 * with free_clearing; the settings' own copy and the environment's are wiped. INVALID: none is
 * given, or two are, or the file holds something else. */
MUST_USE enum status settings_take_token(struct settings *settings, char **environment, char **out,
                                         struct error *error);
/* One word of a file; "-": of stdin. *out as above. */
MUST_USE enum status settings_read_token_file(const char *path, char **out, struct error *error);
/* The data they name, as run_model_data takes them. */
struct run_model_files settings_files(const struct settings *settings);
/* INVALID: --attach beside what it goes without. */
MUST_USE enum status settings_check_attach(const struct settings *settings, bool observes,
                                           struct error *error);
/* INVALID, naming it: a path that node.yaml cannot hold, which is text in UTF-8. To be asked before
 * a join; settings_save asks too. */
MUST_USE enum status settings_check_saved(const struct options *options,
                                          const struct settings *settings, struct error *error);
/* Writes DIR/node.yaml after a join: the address, what was said on the command line, and what the
 * file says besides where there is one already; that is then kept as node.yaml.old. */
MUST_USE enum status settings_save(const struct options *options, const struct settings *settings,
                                   struct error *error);

#endif
