/* atollctl site ...: who takes part. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/address.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/memory.h"
#include "coordinator/atollctl/atollctl.h"
#include "crypto/certificate.h"
#include "fed/invitation.h"
#include "fed/run_state.h"

/* ---- invite ---------------------------------------------------------------------------------- */

static enum status read_authority(const struct ctl_settings *settings, struct invitation *out,
                                  struct error *error) {
    char *path = file_join(settings->keys, "ca.pem");
    struct buffer pem = {0}, der = {0};
    enum status status = file_read(path, CERTIFICATE_SIZE_MAX, &pem, error);
    if (status == OK)
        status = certificate_convert(buffer_bytes(&pem), CERTIFICATE_DER, &der, error);
    if (status == OK && der.size > CA_DER_LIMIT)
        status = error_set(error, INVALID, "%s is too large for a token", path);
    if (status == OK) {
        memcpy(out->ca_der, der.data, der.size);
        out->ca_size = der.size;
    }
    buffer_deinit(&pem);
    buffer_deinit(&der);
    free(path);
    return status;
}

static enum status make_token(const struct ctl_settings *settings, struct bytes secret, char **out,
                              struct error *error) {
    struct invitation invitation = {0};
    if (secret.size != SECRET_SIZE)
        return error_set(error, FAILED, "the coordinator sent no invitation secret");
    strncpy(invitation.name, settings->name, SITE_NAME_SIZE - 1);
    memcpy(invitation.secret, secret.data, SECRET_SIZE);
    enum status status = read_authority(settings, &invitation, error);
    if (status == OK) *out = invitation_write(&invitation);
    clear(&invitation, sizeof invitation);
    return status;
}

/* What is said on the command line, else what the coordinator knows of itself, else the way that
 * this command took. */
static const char *outside_address(const struct ctl_settings *settings,
                                   const struct admin_reply *reply, bool *local) {
    struct address address;
    const char *text = settings->address                   ? settings->address
                       : reply->address && *reply->address ? reply->address
                                                           : settings->server;
    *local =
        address_parse(text, ADDRESS_TO_CONNECT, &address, NULL) == OK && address_is_local(&address);
    return text;
}

static void print_invitation(const struct ctl_settings *settings, const char *address, bool local,
                             const char *token) {
    if (local) {
        struct address parsed = {0};
        char host[ADDRESS_HOST_SIZE] = "";
        (void)!address_parse(address, ADDRESS_TO_CONNECT, &parsed, NULL);
        if (gethostname(host, sizeof host - 1) != 0 || *host == 0) strcpy(host, "HOST");
        fprintf(stderr,
                "atollctl: %s leads to this machine only, so this line works nowhere else: put the "
                "coordinator's address as "
                "sites see "
                "it into the line (%s:%u?), give it with --address, or start the coordinator with "
                "--advertise HOST:PORT\n",
                address, host, parsed.port);
    }
    if (settings->format == FORMAT_TEXT) {
        printf("ATOLL_TOKEN=%s atoll-node join %s\n", token, address);
        return;
    }
    struct buffer out = {0};
    struct json_writer writer = json_writer_of(&out, true);
    json_begin_object(&writer);
    json_key(&writer, "site");
    json_text(&writer, settings->name);
    json_key(&writer, "address");
    json_text(&writer, address);
    json_key(&writer, "this_machine_only");
    json_bool(&writer, local);
    json_key(&writer, "token");
    json_text(&writer, token);
    json_end_object(&writer);
    print_buffer(&out);
    buffer_deinit(&out);
}

static int site_uninvite(const struct ctl_settings *settings) {
    struct admin_request request = {.verb = ADMIN_UNINVITE, .site_name = settings->withdraw};
    return client_order(settings, &request, "withdrawn", settings->withdraw);
}

static int site_invite(struct options *options, void *values) {
    const struct ctl_settings *settings = values;
    if (settings->withdraw && settings->name) {
        const struct error both = {.status = INVALID,
                                   .message = "--withdraw ends the invitation of a name and makes "
                                              "none: give it without --name"};
        report_failure(&both);
        return OPTIONS_EXIT_USAGE;
    }
    if (settings->withdraw) return site_uninvite(settings);
    if (!settings->name) {
        const struct error none = {.status = INVALID, .message = "--name is missing"};
        report_failure(&none);
        return OPTIONS_EXIT_USAGE;
    }
    struct admin_request request = {
        .verb = ADMIN_INVITE,
        .site_name = settings->name,
        .role = settings->role,
        .expires_ms = settings->expires_ms ? clock_wall_ms() + settings->expires_ms : 0};
    struct admin_reply reply;
    struct arena arena = {0};
    struct error error = {0};
    char *token = NULL;
    (void)options;
    enum status status = name_check(settings->name, &error);
    if (status == OK) status = client_ask(settings, &request, &arena, &reply, &error);
    if (status == OK) status = make_token(settings, reply.invitation_secret, &token, &error);
    bool local = false;
    const char *address = status == OK ? outside_address(settings, &reply, &local) : NULL;
    if (status == OK) print_invitation(settings, address, local, token);
    arena_deinit(&arena);
    if (token) free_clearing(token, strlen(token));
    return status == OK ? EXIT_DONE : report_failure(&error);
}

/* ---- invitations ----------------------------------------------------------------------------- */

static const char *const role_names[] = {
    [SITE_TRAINS] = "site", [SITE_OBSERVES] = "observer", NULL};

static const char *role_name(uint32_t role) { return role < SITE_ROLES ? role_names[role] : "?"; }

static const char *invitation_end_name(uint32_t end) {
    static const char *const names[] = {
        [INVITATION_OPEN] = "open",         [INVITATION_USED] = "used",
        [INVITATION_REPLACED] = "replaced", [INVITATION_WITHDRAWN] = "withdrawn",
        [INVITATION_VOID] = "void",         [INVITATION_EXPIRED] = "expired"};
    return end < COUNT_OF(names) ? names[end] : "unknown";
}

static void invitation_json(const struct invitation_status *invitation,
                            struct json_writer *writer) {
    json_begin_object(writer);
    json_key(writer, "name");
    json_text(writer, invitation->name);
    json_key(writer, "state");
    json_text(writer, invitation_end_name(invitation->end));
    json_put_text(writer, "role", role_name(invitation->role));
    json_key(writer, "made_ms");
    json_u64(writer, invitation->made_ms);
    json_key(writer, "expires_ms");
    if (invitation->expires_ms)
        json_u64(writer, invitation->expires_ms);
    else
        json_null(writer);
    json_end_object(writer);
}

static void invitation_text(const struct invitation_status *invitation) {
    char made[CERTIFICATE_TIME_SIZE], expires[CERTIFICATE_TIME_SIZE];
    printf("%-32s  %-9s  %-8s  %s  %s\n", invitation->name, invitation_end_name(invitation->end),
           role_name(invitation->role), certificate_time_text(invitation->made_ms / 1000, made),
           invitation->expires_ms ? certificate_time_text(invitation->expires_ms / 1000, expires)
                                  : "never");
}

static int site_invitations(struct options *options, void *values) {
    const struct ctl_settings *settings = values;
    struct buffer out = {0};
    struct json_writer writer = json_writer_of(&out, true);
    struct error error = {0};
    bool json = settings->format == FORMAT_JSON;
    struct admin_request request = {.verb = ADMIN_INVITATIONS, .first_site = 1};
    enum status status = OK;
    (void)options;
    if (json)
        json_begin_array(&writer);
    else
        printf("%-32s  %-9s  %-8s  %-20s  %s\n", "name", "state", "role", "made", "expires");
    while (status == OK && request.first_site != 0) {
        struct admin_reply reply;
        struct arena arena = {0};
        status = client_ask(settings, &request, &arena, &reply, &error);
        for (uint32_t i = 0; status == OK && i < reply.invitation_count; i++) {
            if (json)
                invitation_json(&reply.invitations[i], &writer);
            else
                invitation_text(&reply.invitations[i]);
        }
        if (status == OK) request.first_site = reply.next_site;
        arena_deinit(&arena);
    }
    if (status == OK && json) {
        json_end_array(&writer);
        print_buffer(&out);
    }
    buffer_deinit(&out);
    return status == OK ? EXIT_DONE : report_failure(&error);
}

/* ---- list ------------------------------------------------------------------------------------ */

static double busy_share(const struct site_status *site) {
    uint64_t lost = 0;
    for (unsigned cause = 0; cause < LOST_CAUSE_COUNT; cause++) lost += site->lost_ms[cause];
    return site->compute_ms + lost ? (double)site->compute_ms / (double)(site->compute_ms + lost)
                                   : 0;
}

static const char *number_text(bool is_known, double value, char out[static 16]) {
    if (!is_known) return "-";
    snprintf(out, 16, "%.3g", value);
    return out;
}

static const char *presence_name(uint32_t presence) {
    return presence == SITE_LEFT ? "left" : presence == SITE_AWAY ? "away" : "present";
}

/* `silent`: not heard, and not for so long that the ledger has it as away. */
static const char *standing_name(const struct site_status *site) {
    if (site->revoked) return "revoked";
    if (site->role == SITE_OBSERVES) return site->connected ? "observes" : "silent";
    if (site->presence != SITE_PRESENT) return presence_name(site->presence);
    return site->connected ? "connected" : "silent";
}

static void site_text(const struct site_status *site) {
    char up[HUMAN_SIZE], down[HUMAN_SIZE], rate[HUMAN_SIZE], loss[16] = "-";
    char norm[16], clip[16], weight[16], scale[16];
    if (!isnan(site->loss)) snprintf(loss, sizeof loss, "%.3f", (double)site->loss);
    printf("%4u  %-16s %-9s %7llu %5u %4llu %7s %9s %6llu %9s %9s %5.1f%% %9s %6s %6s %6s  %s\n",
           site->site, site->name, standing_name(site), (unsigned long long)site->version,
           site->staleness, (unsigned long long)site->age, loss,
           human_count(site->tokens_per_second, rate), (unsigned long long)site->contributions,
           human_bytes(site->bytes_up, up), human_bytes(site->bytes_down, down),
           100 * busy_share(site), number_text(site->clip > 0, site->norm, norm),
           number_text(site->clip > 0, site->clip, clip),
           number_text(site->weight > 0, site->weight, weight),
           number_text(site->scale > 0, (double)site->scale, scale), site->device);
    if (site->heldout.any)
        printf("      ^ held-out %.4f at version %llu, best %.4f at version %llu\n",
               site->heldout.loss, (unsigned long long)site->heldout.version,
               site->heldout.best_loss, (unsigned long long)site->heldout.best_version);
    if (site->tokens_uncounted > 0)
        printf("      ^ %s of its %s tokens do not count yet: it tells more than 8 times what the "
               "median site trains\n",
               human_count((double)site->tokens_uncounted, up),
               human_count((double)site->tokens, down));
    if (site->copies == 0) return;
    printf("      ^ runs twice: %u process%s with this site's key %s cut, the last %s ago; find "
           "the copy and stop it. One that "
           "came\n"
           "        back after a restore from an older backup counts, too: run that one once with "
           "--restored\n",
           site->copies, site->copies > 1 ? "es" : "", site->copies > 1 ? "were" : "was",
           human_duration(site->copy_ms_ago, up));
}

static void site_lost_json(const struct site_status *site, struct json_writer *writer) {
    json_key(writer, "lost_ms");
    json_begin_object(writer);
    for (unsigned cause = 0; cause < LOST_CAUSE_COUNT; cause++) {
        json_key(writer, lost_cause_name(cause));
        json_u64(writer, site->lost_ms[cause]);
    }
    json_end_object(writer);
}

static void site_heldout_json(const struct heldout_status *heldout, struct json_writer *writer) {
    json_key(writer, "heldout");
    if (!heldout->any) {
        json_null(writer);
        return;
    }
    json_begin_object(writer);
    json_put_u64(writer, "version", heldout->version);
    json_put_f64(writer, "loss", heldout->loss);
    json_put_u64(writer, "best_version", heldout->best_version);
    json_put_f64(writer, "best_loss", heldout->best_loss);
    json_end_object(writer);
}

static void site_json(const struct site_status *site, struct json_writer *writer) {
    json_begin_object(writer);
    json_key(writer, "site");
    json_u64(writer, site->site);
    json_key(writer, "name");
    json_text(writer, site->name);
    json_put_text(writer, "role", role_name(site->role));
    site_heldout_json(&site->heldout, writer);
    json_key(writer, "revoked");
    json_bool(writer, site->revoked);
    json_key(writer, "connected");
    json_bool(writer, site->connected);
    json_key(writer, "presence");
    json_text(writer, presence_name(site->presence));
    json_key(writer, "version");
    json_u64(writer, site->version);
    json_key(writer, "staleness");
    json_u64(writer, site->staleness);
    json_key(writer, "inner_steps");
    json_u64(writer, site->inner_steps);
    json_key(writer, "loss");
    json_f64(writer, (double)site->loss);
    json_key(writer, "tokens");
    json_u64(writer, site->tokens);
    json_key(writer, "tokens_uncounted");
    json_u64(writer, site->tokens_uncounted);
    json_key(writer, "norm");
    json_f64(writer, site->norm);
    json_key(writer, "clip");
    json_f64(writer, site->clip);
    json_key(writer, "age");
    json_u64(writer, site->age);
    json_key(writer, "weight");
    json_f64(writer, site->weight);
    json_key(writer, "scale");
    json_f64(writer, (double)site->scale);
    json_key(writer, "tokens_per_second");
    json_f64(writer, site->tokens_per_second);
    json_key(writer, "contributions");
    json_u64(writer, site->contributions);
    json_key(writer, "refused");
    json_u64(writer, site->refused);
    json_key(writer, "bytes_up");
    json_u64(writer, site->bytes_up);
    json_key(writer, "bytes_down");
    json_u64(writer, site->bytes_down);
    json_key(writer, "busy_share");
    json_f64(writer, busy_share(site));
    site_lost_json(site, writer);
    json_key(writer, "copies_cut");
    json_u64(writer, site->copies);
    json_key(writer, "copy_cut_ms_ago");
    if (site->copies == 0)
        json_null(writer);
    else
        json_u64(writer, site->copy_ms_ago);
    json_key(writer, "last_seen_ms_ago");
    if (site->last_seen_ms_ago == UINT64_MAX)
        json_null(writer);
    else
        json_u64(writer, site->last_seen_ms_ago);
    json_key(writer, "device");
    json_text(writer, site->device);
    json_key(writer, "software");
    json_text(writer, site->software);
    json_end_object(writer);
}

static enum status list_page(const struct ctl_settings *settings, uint32_t *first,
                             struct json_writer *writer, struct error *error) {
    struct admin_request request = {.verb = ADMIN_SITES, .first_site = *first};
    struct admin_reply reply;
    struct arena arena = {0};
    enum status status = client_ask(settings, &request, &arena, &reply, error);
    for (uint32_t i = 0; status == OK && i < reply.site_count; i++) {
        if (writer)
            site_json(&reply.sites[i], writer);
        else
            site_text(&reply.sites[i]);
    }
    if (status == OK) *first = reply.next_site;
    arena_deinit(&arena);
    return status;
}

static int site_list(struct options *options, void *values) {
    const struct ctl_settings *settings = values;
    struct buffer out = {0};
    struct json_writer writer = json_writer_of(&out, true);
    struct error error = {0};
    bool json = settings->format == FORMAT_JSON;
    uint32_t first = 1;
    enum status status = OK;
    (void)options;
    if (json)
        json_begin_array(&writer);
    else
        printf("site  %-16s %-9s %7s %5s %4s %7s %9s %6s %9s %9s %6s %9s %6s %6s %6s  %s\n", "name",
               "state", "version", "stale", "age", "loss", "tokens/s", "sent", "up", "down", "busy",
               "norm", "clip", "weight", "scale", "device");
    while (status == OK && first != 0)
        status = list_page(settings, &first, json ? &writer : NULL, &error);
    if (status == OK && json) {
        json_end_array(&writer);
        print_buffer(&out);
    }
    buffer_deinit(&out);
    return status == OK ? EXIT_DONE : report_failure(&error);
}

/* ---- revoke ---------------------------------------------------------------------------------- */

static int site_revoke(struct options *options, void *values) {
    const struct ctl_settings *settings = values;
    struct admin_request request = {.verb = ADMIN_REVOKE,
                                    .site_name = settings->name,
                                    .reason = settings->reason ? settings->reason : ""};
    (void)options;
    return client_order(settings, &request, "revoked", settings->name);
}

/* ---- the tree -------------------------------------------------------------------------------- */

static const struct setting invite_options[] = {
    {.name = "name",
     .kind = SETTING_TEXT,
     SETTING_FIELD(struct ctl_settings, name),
     .flags = OPTION_FLAG_ONLY,
     .help = "the site's name: 1-32 characters from a-z, 0-9 and '-', starting with a letter. A "
             "newer invitation of a name takes an older one's place"},
    {.name = "role",
     .kind = SETTING_CHOICE,
     SETTING_FIELD(struct ctl_settings, role),
     .fallback = "site",
     .choices = role_names,
     .flags = OPTION_FLAG_ONLY,
     .help = "observer: it follows and verifies the run, evaluates each version on its data, and "
             "never contributes or counts"},
    {.name = "withdraw",
     .kind = SETTING_TEXT,
     SETTING_FIELD(struct ctl_settings, withdraw),
     .value_name = "NAME",
     .flags = OPTION_FLAG_ONLY,
     .help = "invite nobody: end the open invitation of that name"},
    {.name = "address",
     .kind = SETTING_TEXT,
     SETTING_FIELD(struct ctl_settings, address),
     .value_name = "HOST:PORT",
     .check = address_check_connect,
     .flags = OPTION_FLAG_ONLY,
     .help = "where the site reaches the coordinator; if not given, what the coordinator "
             "was told with --advertise, else --server's"},
    {.name = "expires",
     .kind = SETTING_DURATION,
     SETTING_FIELD(struct ctl_settings, expires_ms),
     .fallback = "7d",
     .flags = OPTION_FLAG_ONLY,
     .help = "how long the invitation holds; 0: for ever"},
    {0}};
static const struct setting revoke_options[] = {{.name = "name",
                                                 .kind = SETTING_TEXT,
                                                 SETTING_FIELD(struct ctl_settings, name),
                                                 .flags = OPTION_REQUIRED | OPTION_FLAG_ONLY,
                                                 .help = "the site's name"},
                                                {.name = "reason",
                                                 .kind = SETTING_TEXT,
                                                 SETTING_FIELD(struct ctl_settings, reason),
                                                 .max = "127",
                                                 .flags = OPTION_FLAG_ONLY,
                                                 .help = "for the ledger and the site's operator"},
                                                {0}};
static const struct command invite_command = {
    .name = "invite",
    .summary = "let a site in: prints the one line to paste there",
    .options = invite_options,
    .run = site_invite,
    .description = "The token in the line can be used once. It carries the federation's root "
                   "certificate, so the site knows whom to trust.",
    .examples =
        "atollctl --keys RUN/keys site invite --name eu-north --address coordinator.example:7400"};
static const struct command list_command = {
    .name = "list", .summary = "every site and how it is doing", .run = site_list};
static const struct command invitations_command = {
    .name = "invitations",
    .summary = "every invitation: its name, when it was made, and whether it still holds",
    .description = "The states: open; used by the site; replaced by a newer one of its name; "
                   "withdrawn by the admin; void, as a site of its name was enrolled or revoked "
                   "meanwhile; expired by the coordinator's clock.",
    .run = site_invitations};
static const struct command revoke_command = {
    .name = "revoke",
    .summary = "take nothing from a site any more, and cut its connections",
    .options = revoke_options,
    .run = site_revoke};
static const struct command *const verbs[] = {&invite_command, &invitations_command, &list_command,
                                              &revoke_command, NULL};
const struct command site_command = {
    .name = "site", .summary = "invite, watch and revoke sites", .children = verbs};
